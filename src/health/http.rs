//! The health endpoints over HTTP: `/livez`, `/readyz`, `/healthz`, `/healthz/forwards/NAME`, `/metrics`, and the status
//! page at `/`.
//!
//! Only answers; nothing that arrives here changes anything. Each connection carries one request and lives for a bounded
//! time, and their number is bounded, so that a stuck prober holds neither memory nor the next probe for long; a page's
//! stream lives as long as it is read, and has a place of its own. The Host
//! header is checked, because a web page may point a name of its own at this address (DNS rebinding). Beyond loopback there
//! is TLS before the first byte of HTTP, and `guard` lets in who may ask. The paths and
//! status codes are the product's HTTP contract; requests follow RFC 9110 and RFC 9112.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, Version, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::facts::SiteFacts;
use super::metrics::plain;
use super::page::{Page, SharedHistory};
use super::{metrics, state};
use crate::config::Door;
use greet::{Advice, greet};
use guard::{Asker, check_who};
use life::Life;
use share::Shares;

mod greet;
mod guard;
pub(super) mod life;
mod share;

/// Limits the connections at once: many times what monitoring needs, and 2 MiB of buffers at the most.
const CONNECTIONS_MAX: usize = 64;

/// Limits a connection from its acceptance to its last byte: an answer takes milliseconds on loopback, and a client that
/// stalls must not keep probes, which commonly give up after 5 to 10 s, from their turn.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(2);

/// Is the same over TLS, whose handshake is two round trips more, on a network.
const TLS_CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// Limits the buffer of a connection, in bytes: a request without a body fits, and hyper accepts no less than 8 KiB.
const CONNECTION_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Limits the wait for answers on their way when the site stops.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// Is the pause after a failed accept: it fails for want of file descriptors, and would spin.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Gathers the facts of a site; called on each request, so it must not block.
pub type Source = Arc<dyn Fn() -> SiteFacts + Send + Sync>;

/// Says how the next connection is met; none: as plain HTTP, by everybody, on loopback.
pub type Doors = Arc<dyn Fn() -> Option<Arc<Door>> + Send + Sync>;

/// Says why health is not served.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The listener has no address.
    #[error("cannot read the address of the health listener")]
    LocalAddress(#[source] io::Error),
}

/// Serves health on `listener` until `stop` becomes true (or its sender is gone), then lets answers on their way finish for
/// a bounded time. The page shows `history`, which somebody else keeps.
///
/// # Errors
/// Only where the listener is unusable from the start: a failed accept is logged and retried for ever.
///
/// Cancel-safe: dropping the future closes every connection.
pub async fn serve(
    listener: TcpListener,
    doors: Doors,
    source: Source,
    history: SharedHistory,
    mut stop: watch::Receiver<bool>,
) -> Result<(), HealthError> {
    let address = listener.local_addr().map_err(HealthError::LocalAddress)?;
    tracing::info!(%address, "health endpoints are served");
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (shares, advice) = (Shares::default(), Arc::new(Advice::default()));
    let page = Page::new(Arc::clone(&source), history, stop.clone());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            Some(ended) = connections.join_next() => { report(ended); continue; }
        };
        match accepted {
            Ok((stream, place)) => {
                let (Ok(local), Ok(from)) = (stream.local_addr(), stream.peer_addr()) else { continue };
                let Some(slot) = shares.take(place, from.ip()) else {
                    tracing::debug!(%from, "has as many health connections as it may");
                    continue;
                };
                let asker = Asker { local, from, door: doors(), advice: Arc::clone(&advice) };
                let time = if asker.door.is_some() { TLS_CONNECTION_TIME_MAX } else { CONNECTION_TIME_MAX };
                let life = Arc::new(Life::new(time, slot));
                let router = router(Arc::clone(&source)).merge(page.router(&life)).merge(guard::router(&asker));
                let router = router.layer(from_fn_with_state(asker.clone(), check_who));
                let router = router.layer(from_fn_with_state(asker.clone(), check_host));
                connections.spawn(meet(stream, asker, life, router, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a health connection");
                sleep(ACCEPT_RETRY_PAUSE).await;
            }
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN_TIME_MAX, drained).await.is_err() {
        tracing::debug!("health connections were cut off at the stop");
    }
    Ok(())
}

/// Accepts the next connection once a slot is free: until then it waits in the kernel's queue.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

/// Logs a connection that panicked: its prober saw a closed connection, the site's work is not touched.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a health connection ended unexpectedly");
    }
}

/// Shakes hands, where there is TLS, and answers.
async fn meet(stream: TcpStream, asker: Asker, life: Arc<Life>, router: Router, mut stop: watch::Receiver<bool>) {
    let Some(door) = asker.door else { return answer(stream, life, router, stop).await };
    let greeted = tokio::select! {
        greeted = greet(stream, &door.tls) => greeted,
        () = life.over() => return tracing::debug!("a TLS handshake took too long"),
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match greeted {
        Ok(socket) => answer(socket, life, router, stop).await,
        Err(failure) => asker.advice.of_handshake(asker.from, failure),
    }
}

/// Answers the one request of a connection.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    life: Arc<Life>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(CONNECTION_BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let answered = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    tokio::select! {
        result = answered => if let Err(error) = result {
            tracing::debug!(%error, "a health connection failed");
        },
        () = life.over() => tracing::debug!("a health connection took too long and was closed"),
    }
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/livez", get(|| async { StatusCode::OK }))
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .route("/healthz/forwards/{name}", get(healthz_forward))
        .route("/metrics", get(metrics_text))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .with_state(source)
}

async fn readyz(State(source): State<Source>) -> StatusCode {
    status_code(state::unready(&source(), SystemTime::now()).is_empty())
}

async fn healthz(State(source): State<Source>) -> Response {
    let facts = source();
    let report = state::assess(&facts, SystemTime::now());
    (status_code(report.status.is_healthy()), Json(&report)).into_response()
}

async fn healthz_forward(State(source): State<Source>, Path(name): Path<String>) -> Response {
    let facts = source();
    let report = state::assess(&facts, SystemTime::now());
    match report.forwards.iter().find(|entry| entry.facts.name == name) {
        Some(entry) => (status_code(entry.verdict.status.is_healthy()), Json(entry)).into_response(),
        None => {
            if let Some(orphan) = report.orphans.iter().find(|orphan| orphan.facts.name == name) {
                return (status_code(orphan.verdict.status.is_healthy()), Json(orphan)).into_response();
            }
            let names: Vec<&str> = facts.forwards.iter().map(|forward| forward.name.as_str()).collect();
            let body = serde_json::json!({ "error": "no forward has this name", "forwards": names });
            (StatusCode::NOT_FOUND, Json(body)).into_response()
        }
    }
}

async fn metrics_text(State(source): State<Source>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match metrics::encode(source(), SystemTime::now()) {
        Ok(text) if plain::is_asked_for(accept) => {
            ([(header::CONTENT_TYPE, plain::PLAIN_TYPE)], plain::plain(&text)).into_response()
        }
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn status_code(healthy: bool) -> StatusCode {
    if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Refuses a request that was meant for another name than this host's own.
async fn check_host(State(asker): State<Asker>, request: Request, next: Next) -> Response {
    match host(request.uri(), request.version(), request.headers()) {
        Host::Named(host) if asker.is_own(host) => next.run(request).await,
        Host::Absent => next.run(request).await,
        Host::Named(_) => {
            let text = match asker.door {
                None => "this host name is not served: ask for localhost or for the listen address\n",
                Some(_) => "this host name is not served: ask for one that the certificate is for (subjectAltName)\n",
            };
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
        Host::Malformed => (StatusCode::BAD_REQUEST, "exactly one Host header is needed\n").into_response(),
    }
}

/// Says which host a request is meant for.
enum Host<'a> {
    /// This one, without its port.
    Named(&'a str),
    /// None, as HTTP/1.0 allows and no web browser does.
    Absent,
    /// HTTP/1.1 without a Host header, several of them, or one that is not an authority.
    Malformed,
}

/// Reads the host as RFC 9112 section 3.2 says: an absolute request target goes before the header.
fn host<'a>(uri: &'a Uri, version: Version, headers: &'a HeaderMap) -> Host<'a> {
    if let Some(host) = uri.host() {
        return Host::Named(host);
    }
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(without_port).map_or(Host::Malformed, Host::Named),
        (None, _) if version == Version::HTTP_10 => Host::Absent,
        _ => Host::Malformed,
    }
}

/// Cuts the port off; any is right, for a tunnel of ssh may lead here from another.
fn without_port(authority: &str) -> Option<&str> {
    let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, rest) = match bracketed {
        Some((host, rest)) => (host, rest),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port_is_right = rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (!host.is_empty() && port_is_right).then_some(host)
}

#[cfg(test)]
mod tests;
