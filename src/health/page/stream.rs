//! The stream of the status page: how the site is every two seconds, and the last hour, at first whole, then step by step.
//!
//! Nothing waits in it: an event is made when the connection takes it, so that a page that does not read costs one event
//! and the connection's buffer, and is closed soon. Their number is bounded apart from the probes'.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::super::facts::rfc3339;
use super::super::http::life::Life;
use super::super::state::{Report, assess};
use super::Page;

/// Limits the streams at once: a wall of screens; each costs an event in memory.
pub(in crate::health) const STREAMS_MAX: usize = 16;

/// Is the time between two events: what happens is seen at once, and an event costs what `/healthz` costs.
const EVENT_EVERY: Duration = Duration::from_secs(2);

/// Limits the time in which a page takes an event: a network that is away for longer is a new stream.
pub(in crate::health) const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// Limits a stream: a page that was forgotten asks again, and so gets what an upgrade brought.
const STREAM_TIME_MAX: Duration = Duration::from_secs(3600);

/// Is when a page asks again that found no place, in seconds.
const RETRY_AFTER_SECONDS: &str = "5";

/// Tells a browser when to ask again after the stream has ended, in milliseconds.
const RETRY: &str = "retry: 2000\n\n";

/// Is how the site is, at the time of its clock.
#[derive(Serialize)]
struct State<'a> {
    #[serde(serialize_with = "rfc3339")]
    now: SystemTime,
    site: &'a Report<'a>,
}

/// Begins a stream, or says that there is no place for it. Another site's page gets none: it could take them all.
pub(super) fn begin(page: Page, life: Arc<Life>, headers: &HeaderMap) -> Response {
    let from = headers.get("sec-fetch-site").map(|value| value.as_bytes());
    if from.is_some_and(|from| from != b"same-origin" && from != b"none") {
        return (StatusCode::FORBIDDEN, "events are for the page of this server only\n").into_response();
    }
    let Ok(place) = Arc::clone(&page.streams).try_acquire_owned() else {
        let text = "as many pages are open as may be: close one, or wait\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER_SECONDS)], text).into_response();
    };
    life.leave_slot();
    let now = Instant::now();
    let stop = page.stop.clone();
    let stream = Stream { page, life, stop, end: now + STREAM_TIME_MAX, due: now, told: None, _place: place };
    let events = unfold(stream, |mut stream| async {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(event)), stream))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

/// Is a stream under way.
struct Stream {
    page: Page,
    life: Arc<Life>,
    stop: watch::Receiver<bool>,
    end: Instant,
    due: Instant,
    /// Counts the looks of which the page was told; none before the first event.
    told: Option<u64>,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    /// Waits until an event is due, and writes it; none where the stream ends.
    async fn next(&mut self) -> Option<String> {
        // It is asked for: what was before is taken.
        self.life.prolong(TAKEN_WITHIN);
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => return None,
            () = sleep_until(self.due.min(self.end)) => {}
        }
        let now = Instant::now();
        self.due = now + EVENT_EVERY;
        if now >= self.end { None } else { self.event() }
    }

    fn event(&mut self) -> Option<String> {
        let mut text = String::new();
        let (taken, history) = {
            let history = self.page.history.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = history.taken();
            (taken, (self.told != Some(taken)).then(|| history.told(self.told)))
        };
        if self.told.replace(taken).is_none() {
            text.push_str(RETRY);
        }
        let (facts, now) = ((self.page.source)(), SystemTime::now());
        write(&mut text, "state", &State { now, site: &assess(&facts, now) })?;
        if let Some(history) = history {
            write(&mut text, "history", &history)?;
        }
        Some(text)
    }
}

/// Writes an event; JSON has no line break of its own.
fn write(text: &mut String, name: &str, value: &impl Serialize) -> Option<()> {
    let json = serde_json::to_string(value).ok()?;
    for piece in ["event: ", name, "\ndata: ", &json, "\n\n"] {
        text.push_str(piece);
    }
    Some(())
}
