//! Starts the tasks of a site, each by its name.
//!
//! Two groups: `serving` ends by itself when the site stops and its messages are through; `around` goes on until then.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Bound, Parts};
use crate::config::Name;
use crate::control::{self, ControlListener};
use crate::forward::Way;
use crate::health::http::Source;
use crate::health::state::assess;
use crate::link::cause_chain;
use crate::link::inbound::Arrival;
use crate::link::wire::Cause;
use crate::service::Service;

/// Starts the tasks: `serving` ends by itself when the site stops and its messages are through, `around` goes on.
pub(super) fn serve(
    parts: &Arc<Parts>,
    bound: Bound,
    stop: &watch::Receiver<bool>,
    serving: &mut JoinSet<&'static str>,
    around: &mut JoinSet<&'static str>,
) {
    for (forward, listener) in bound.forwards {
        if let Way::Link(link) = forward.way() {
            let link = Arc::clone(link);
            let peer = parts.config.peer(&forward.config().peer);
            if let Some(entry) = peer.and_then(|peer| parts.tunnel.peer(&peer.public_key)) {
                around.spawn(async move {
                    link.run(entry.awake(), random_fraction).await;
                    "a link"
                });
            }
        }
        let stop = stop.clone();
        serving.spawn(async move {
            forward.run(listener, stop).await;
            "a forward"
        });
    }
    for listener in bound.links {
        let inbound = Arc::clone(&parts.inbound);
        around.spawn(async move {
            inbound.run(listener).await;
            "the link port"
        });
    }
    for (service, listener) in bound.ports {
        let (owners, stop) = (parts.inside.owners().clone(), stop.clone());
        serving.spawn(async move {
            service.serve_port(listener, owners, stop).await;
            "a service's port"
        });
    }
    for service in &parts.services {
        let service = Arc::clone(service);
        around.spawn(async move {
            service.probe().await;
            "a probe"
        });
    }
    serving.spawn(serve_streams(parts.services.clone(), bound.arrivals, stop.clone()));
    serve_watchers(parts, bound.health, bound.control, stop, around);
}

fn serve_watchers(
    parts: &Arc<Parts>,
    health: Option<TcpListener>,
    control: ControlListener,
    stop: &watch::Receiver<bool>,
    around: &mut JoinSet<&'static str>,
) {
    // They answer until the end: `stop` is not theirs, so that monitoring sees the drain.
    let (never, until) = watch::channel(false);
    let source: Source = {
        let parts = Arc::clone(parts);
        Arc::new(move || parts.facts())
    };
    if let Some(listener) = health {
        let (source, until) = (Arc::clone(&source), until.clone());
        around.spawn(async move {
            match crate::health::http::serve(listener, source, until).await {
                Ok(()) => "health",
                Err(error) => {
                    tracing::error!(error = %cause_chain(&error), "health ended");
                    "health"
                }
            }
        });
    }
    let answer = Arc::new(move || {
        let facts = source();
        serde_json::to_value(assess(&facts, SystemTime::now())).unwrap_or_default()
    });
    let stop = stop.clone();
    around.spawn(async move {
        control::serve(control, answer, until).await;
        drop((never, stop));
        "the control socket"
    });
}

/// Hands each stream to its service, until the site stops and all have ended.
async fn serve_streams(
    services: Vec<Arc<Service>>,
    mut arrivals: mpsc::Receiver<Arrival>,
    mut stop: watch::Receiver<bool>,
) -> &'static str {
    let mut streams = JoinSet::new();
    loop {
        while streams.try_join_next().is_some() {}
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(Arrival { mut stream, service, .. }) = arrival else { break };
        match find(&services, &service) {
            Some(service) => {
                let stop = stop.clone();
                streams.spawn(async move { service.serve_stream(stream, stop).await });
            }
            None => stream.refuse(Cause::ServiceUnknown),
        }
    }
    drop(arrivals);
    while streams.join_next().await.is_some() {}
    "the services"
}

fn find(services: &[Arc<Service>], name: &Name) -> Option<Arc<Service>> {
    services.iter().find(|service| service.config().name == *name).cloned()
}

/// Returns a number from 0 to 1, for jitter.
fn random_fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}
