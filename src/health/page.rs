//! The status page: a few files that are part of the program, the stream that keeps them current, and the task that
//! remembers the last hour for it.
//!
//! Only shows; it asks nothing of any other server, and no file of it has a script or style written into its markup, so
//! that its Content-Security-Policy can forbid all of that. What it is told is the answer of `/healthz` and
//! [`super::history`], never a byte of a message. Server-sent events are those of the HTML standard, section 9.2.

pub(super) mod login;
pub(super) mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::history::{History, STEP};
use super::http::Source;
use super::http::life::Life;
use stream::STREAMS_MAX;

/// Lists the files: path, content type, text.
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", SCRIPT, include_str!("page/page.js")),
    ("/parts.js", SCRIPT, include_str!("page/parts.js")),
    ("/chart.js", SCRIPT, include_str!("page/chart.js")),
    ("/hour.js", SCRIPT, include_str!("page/hour.js")),
    ("/words.js", SCRIPT, include_str!("page/words.js")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Are the headers of every answer here: nothing but what this server itself has, in nobody's frame, named to nobody.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Is the last hour, as one task writes it and the page reads it.
pub type SharedHistory = Arc<Mutex<History>>;

/// Looks at the feeds again and again, for ever, so that the page can show the last hour.
pub async fn keep_history(source: Source, history: SharedHistory) {
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        steps.tick().await;
        let facts = source();
        history.lock().unwrap_or_else(PoisonError::into_inner).handle_look(&facts, SystemTime::now());
    }
}

/// Is what the page shows, and the room for its streams.
#[derive(Clone)]
pub(super) struct Page {
    source: Source,
    history: SharedHistory,
    streams: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Page {
    pub(super) fn new(source: Source, history: SharedHistory, stop: watch::Receiver<bool>) -> Self {
        Self { source, history, streams: Arc::new(Semaphore::new(STREAMS_MAX)), stop }
    }

    /// Returns the page's part of the server for one connection.
    pub(super) fn router(&self, life: &Arc<Life>) -> Router {
        let (page, life) = (self.clone(), Arc::clone(life));
        let events = get(|headers: HeaderMap| async move { stream::begin(page, life, &headers) });
        let router = FILES.iter().fold(Router::new(), |router, (path, content_type, text)| {
            router.route(path, get(|| async { ([(header::CONTENT_TYPE, *content_type)], *text) }))
        });
        router.route("/events", events).layer(from_fn(secured))
    }
}

async fn secured(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().extend(HEADERS);
    response
}
