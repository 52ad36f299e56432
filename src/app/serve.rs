//! Starts the tasks of a site, each by its name, and has what runs take up what was prepared.
//!
//! Two groups: `serving` ends by itself when the site stops and its messages are through; `around` goes on until then.
//! Nothing here can fail.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::orphans::{self, NextOrphan, Orphan};
use super::prepare::{NextForward, NextService, Prepared, Step, hold_for};
use super::{AppError, Now, Parts, Running, account, queues};
use crate::audit::Clerk;
use crate::config::Delivery;
use crate::control::{self, Answers, ControlListener};
use crate::forward::stored::store::Store;
use crate::forward::{Forward, Onward, Way};
use crate::health::http::{Doors, Source};
use crate::health::page::{self, SharedHistory};
use crate::health::state::assess;
use crate::link::cause_chain;
use crate::link::inbound::Arrival;
use crate::link::wire::Cause;
use crate::service::Service;

/// Is how a task ended.
pub(super) enum End {
    /// As it was meant to.
    Done,
    /// The part of that name must not end by itself.
    Fault(&'static str),
}

/// Is every task of a site.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) serving: JoinSet<End>,
    pub(super) around: JoinSet<End>,
    pub(super) listens_for_links: bool,
}

impl Tasks {
    fn serve(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.serving.spawn(async move {
            task.await;
            End::Done
        });
    }

    fn keep(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.around.spawn(async move {
            task.await;
            End::Done
        });
    }

    fn keep_for_ever(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.around.spawn(async move {
            task.await;
            End::Fault(name)
        });
    }
}

/// Says what the end of a task means for the site: nothing, or its own end.
pub(super) fn fault(ended: Result<End, JoinError>) -> Option<AppError> {
    match ended {
        Ok(End::Done) => None,
        Ok(End::Fault(what)) => Some(AppError::Ended { what, why: "it must not end by itself".to_owned() }),
        Err(error) => Some(AppError::Ended { what: "a task", why: error.to_string() }),
    }
}

/// Has the site run what was prepared: what is new is started, what differs is changed, what is gone is ended.
pub(super) fn commit(parts: &Arc<Parts>, prepared: Prepared, tasks: &mut Tasks) {
    let old = parts.now.get();
    let Prepared { config, forwards, services, orphans, links } = prepared;
    let forwards: Vec<_> = forwards.into_iter().map(|next| commit_forward(parts, next, tasks)).collect();
    let services: Vec<_> = services.into_iter().map(|next| commit_service(parts, next, tasks)).collect();
    for gone in old.forwards.iter().filter(|old| !forwards.iter().any(|new| Arc::ptr_eq(old, new))) {
        gone.retire();
    }
    for gone in old.services.iter().filter(|old| !services.iter().any(|new| Arc::ptr_eq(old, new))) {
        gone.retire();
    }
    for listener in links {
        tasks.listens_for_links = true;
        tasks.keep_for_ever("the link port", Arc::clone(&parts.inbound).run(listener));
    }
    for forward in &forwards {
        let peer = parts.tunnel.peer(&forward.config().peer);
        if let (Some(link), Some(peer)) = (forward.way().link(), peer) {
            link.follow(peer.awake());
        }
    }
    let orphans = orphans.into_iter().map(|next| commit_orphan(parts, next, tasks)).collect();
    let next = Running { config, forwards, services, orphans };
    for store in old.stores().filter(|old| !next.stores().any(|new| Arc::ptr_eq(old, &new))) {
        store.retire();
    }
    parts.now.set(next);
    parts.inbound.review();
}

fn commit_forward(parts: &Parts, next: NextForward, tasks: &mut Tasks) -> Arc<Forward> {
    let NextForward { config, listener, step, place } = next;
    let clerk = account::of_forward(&parts.account, &config);
    if let Step::Begin(way) | Step::Redirect(_, way) = &step {
        if let Some(store) = way.store() {
            keep_account(store, &clerk, tasks);
            tasks.keep(Arc::clone(store).run());
        }
        if let Way::Stored(_, Onward::Here(here)) = way {
            tasks.serve(Arc::clone(here).run());
        }
        if let Some(link) = way.link() {
            link.set_clerk(clerk.clone());
            tasks.keep(Arc::clone(link).run(random_fraction));
        }
    }
    let forward = match step {
        Step::Begin(way) => Forward::new(config, way, parts.inside.clone()),
        Step::Redirect(forward, way) => {
            forward.redirect(config, way);
            forward
        }
        Step::Keep(forward) => {
            if let Way::Link(link) = forward.way() {
                link.set_hold_for(hold_for(&config));
            }
            forward.change(config);
            forward
        }
    };
    forward.tally().set_clerk(clerk);
    let way = forward.way();
    if let (Some(store), Some(place)) = (way.store(), place) {
        store.move_to(place);
    }
    if let (Way::Stored(_, Onward::Here(here)), Delivery::Stored(terms)) = (way, forward.config().delivery) {
        here.set_policy(terms.receiver);
    }
    if let Some(listener) = listener {
        tasks.serve(Arc::clone(&forward).serve(listener));
    }
    forward
}

/// Has the account hear of a queue, once.
fn keep_account(store: &Arc<Store>, clerk: &Clerk, tasks: &mut Tasks) {
    if store.set_clerk(clerk.clone()) {
        tasks.keep(account::follow(Arc::clone(store), clerk.clone()));
    }
}

/// Holds a queue without a forward; it may have had one until now.
fn commit_orphan(parts: &Parts, next: NextOrphan, tasks: &mut Tasks) -> Orphan {
    let NextOrphan { orphan, place } = next;
    if let (Some(store), Some(place)) = (&orphan.store, place) {
        store.move_to(place);
        keep_account(store, &account::of_queue(&parts.account, &orphan.name), tasks);
        tasks.keep(Arc::clone(store).run());
        tasks.keep(orphans::tell(Arc::clone(store)));
    }
    orphan
}

fn commit_service(parts: &Parts, next: NextService, tasks: &mut Tasks) -> Arc<Service> {
    let NextService { old, config, listeners } = next;
    let service = match old {
        Some(old) => {
            old.change(config);
            old
        }
        None => {
            let clerk = account::of_service(&parts.account, &config);
            let service = Service::new(config);
            service.tally().set_clerk(clerk);
            tasks.keep(Arc::clone(&service).probe());
            service
        }
    };
    if let Some(listeners) = listeners {
        service.open_ports(listeners.clone());
        for listener in listeners {
            let owners = parts.inside.owners().clone();
            tasks.serve(Arc::clone(&service).serve_port(listener, owners));
        }
    }
    service
}

/// Serves health and control until the end: they do not stop with the site, so that monitoring sees the drain.
pub(super) fn serve_watchers(
    parts: &Arc<Parts>,
    (health, agent): (Option<TcpListener>, Option<TcpListener>),
    (control, file): (ControlListener, Option<PathBuf>),
    tasks: &mut Tasks,
) {
    let (never, until) = watch::channel(false);
    let source: Source = {
        let parts = Arc::clone(parts);
        Arc::new(move || parts.facts())
    };
    if let Some(listener) = health {
        let history = SharedHistory::default();
        tasks.keep_for_ever("the last hour", page::keep_history(Arc::clone(&source), Arc::clone(&history)));
        let (source, until, now) = (Arc::clone(&source), until.clone(), Arc::clone(&parts.now));
        let doors: Doors = Arc::new(move || now.get().config.health_door.clone());
        tasks.keep_for_ever("health", async move {
            if let Err(error) = crate::health::http::serve(listener, doors, source, history, until).await {
                tracing::error!(error = %cause_chain(&error), "health ended");
            }
        });
    }
    if let Some(listener) = agent {
        let source = Arc::clone(&source);
        tasks.keep_for_ever("the agent check", crate::health::agent::serve(listener, source));
    }
    let looker = Arc::clone(parts);
    tasks.keep_for_ever("the look at queues", async move { looker.look_at_queues().await });
    let looker = Arc::clone(parts);
    tasks.keep_for_ever("the look at keys", async move { looker.look_at_keys().await });
    let looker = Arc::clone(parts);
    tasks.keep_for_ever("the look at certificates", async move { looker.look_at_certificates().await });
    let runs_from = file.as_deref().map(Arc::from);
    tasks.keep_for_ever("the look at files", Arc::clone(parts).look_at_files(runs_from));
    tasks.keep_for_ever("the look at alarms", Arc::clone(parts).look_at_alarms());
    tasks.keep_for_ever("the webhook of alarms", Arc::clone(parts).tell_webhook());
    tasks.keep_for_ever("the export of the audit log", Arc::clone(parts).export_audit());
    tasks.keep_for_ever("the command of alarms", Arc::clone(parts).tell_command());
    let (reloader, now) = (parts.reloader.clone(), Arc::clone(&parts.now));
    let (again, account) = (reloader.clone(), parts.account.clone());
    let answers = Answers {
        file,
        status: Arc::new(move || {
            let facts = source();
            serde_json::to_value(assess(&facts, SystemTime::now())).unwrap_or_default()
        }),
        reload: Arc::new(move |by| Box::pin(reloader.clone().reload_for_command(by))),
        queue: Arc::new(move |request, by| {
            let (now, again, account) = (Arc::clone(&now), again.clone(), account.clone());
            Box::pin(async move {
                let (asked, operator) = (request.clone(), by.clone());
                let answer = queues::answer(&now, &again, request, by).await;
                account::asked(&account, &asked, &operator, &answer);
                answer
            })
        }),
    };
    tasks.keep_for_ever("the control socket", async move {
        control::serve(control, answers, until).await;
        drop(never);
    });
}

/// Hands each stream to its service, until the site stops and all have ended.
pub(super) async fn serve_streams(
    now: Arc<Now>,
    mut arrivals: mpsc::Receiver<Arrival>,
    mut stop: watch::Receiver<bool>,
) -> End {
    let mut streams = JoinSet::new();
    loop {
        while streams.try_join_next().is_some() {}
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Some(Arrival { mut stream, service, peer }) = arrival else { return End::Fault("the services") };
        match now.get().service(&service) {
            Some(service) => {
                streams.spawn(async move { service.serve_stream(stream, peer).await });
            }
            None => stream.refuse(Cause::ServiceUnknown),
        }
    }
    drop(arrivals);
    while streams.join_next().await.is_some() {}
    End::Done
}

/// Returns a number from 0 to 1, for jitter.
fn random_fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}
