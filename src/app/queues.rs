//! The queues of stored forwards, as health tells of them and as operators work on them.
//!
//! It decides nothing: the spool and the far site do.

mod forget;
mod orphaned;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::facts::held_text;
use super::{Now, Reloader};
use crate::control::operate::{Courier, Desk, operate, told};
use crate::control::queue::{QueueAction, QueueAnswer, QueueRequest};
use crate::forward::stored::store::{Opened, Store};
use crate::forward::{Forward, Onward, Way};
use crate::health::facts::{Queue, QueueFacts};
use crate::health::rates::{Look, Rates};
use crate::spool::reserve::free_bytes;
use crate::spool::store::Tail;

/// Remembers of each queue, by its forward's name, what one look alone does not show.
#[derive(Default)]
pub(super) struct Watch(Mutex<HashMap<String, Watched>>);

#[derive(Default)]
struct Watched {
    rates: Rates,
    /// Is what holds the queue, in words, and since when that was seen.
    held_by: Option<(String, SystemTime)>,
    /// Is since when its disk was seen full.
    disk_full_since: Option<SystemTime>,
}

impl Watched {
    /// Says since when this has been seen without a change.
    fn since(&mut self, what: &str) -> SystemTime {
        match &self.held_by {
            Some((seen, since)) if seen == what => *since,
            _ => {
                let now = SystemTime::now();
                self.held_by = Some((what.to_owned(), now));
                now
            }
        }
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says since when something has been seen of a queue without a change.
    pub(super) fn since(&self, name: &str, what: &str) -> SystemTime {
        self.lock().entry(name.to_owned()).or_default().since(what)
    }

    /// Tells of a forward's queue; none where it is not stored.
    pub(super) fn facts(&self, forward: &Forward) -> Option<QueueFacts> {
        let Way::Stored(store, onward) = forward.way() else { return None };
        let mut watched = self.lock();
        let watched = watched.entry(forward.config().name.to_string()).or_default();
        let place = store.place();
        let tail = store.spool().ok().map(|spool| spool.tail().borrow().clone());
        let state = state(&store, tail.as_ref(), &onward, watched);
        if matches!(state, Queue::Flowing | Queue::Paused) {
            watched.held_by = None;
        }
        watched.disk_full_since = match tail.as_ref().is_some_and(|tail| tail.disk_full) {
            true => watched.disk_full_since.or_else(|| Some(SystemTime::now())),
            false => None,
        };
        let free_bytes = free_bytes(&place.directory);
        let (accepted, depth) = tail.as_ref().map_or((0, 0), |tail| (tail.last, tail.depth));
        let settled = accepted.saturating_sub(depth);
        let look = Look { at: Instant::now(), accepted, settled, free_bytes };
        let pace = watched.rates.handle_look(look);
        let oldest = tail.as_ref().and_then(|tail| tail.oldest);
        Some(QueueFacts {
            state,
            depth,
            depth_max: place.limits.messages_max,
            bytes: tail.as_ref().map_or(0, |tail| tail.bytes),
            bytes_max: place.limits.bytes_max,
            oldest_age: oldest.map(|oldest| oldest.elapsed().unwrap_or_default()),
            parked: tail.as_ref().map_or(0, |tail| tail.parked),
            accepted_total: accepted,
            settled_total: settled,
            refused: forward.tally().counts().refused,
            in_doubt_total: tail.as_ref().map_or(0, |tail| tail.in_doubt),
            last_settled_age: store.last_settled().map(|at| at.elapsed()),
            accepted_per_second: pace.accepted_per_second,
            settled_per_second: pace.settled_per_second,
            drained_in: pace.drained_in,
            disk_full_since: watched.disk_full_since,
            disk_free_bytes: free_bytes,
            disk_full_in: pace.disk_full_in,
        })
    }
}

/// Says whether messages go on, and what holds them: the first on their way.
fn state(store: &Store, tail: Option<&Tail>, onward: &Onward, watched: &mut Watched) -> Queue {
    let tail = match (tail, store.opened()) {
        (Some(tail), _) => tail,
        (None, Opened::Failed(since, error)) => return Queue::Failed { since, cause: error.to_string() },
        (None, Opened::Not | Opened::Open(_)) => return Queue::Opening,
    };
    if let Some(cause) = tail.failed.clone() {
        return Queue::Failed { since: watched.since(&cause), cause };
    }
    let first = tail.retired_through.saturating_add(1);
    if tail.stranded > 0 {
        let cause = format!(
            "{} messages were accepted for another destination: wardlink queue move sends them to this one",
            tail.stranded
        );
        return Queue::Held { since: watched.since(&cause), sequence: first, cause };
    }
    let supply = match onward {
        Onward::Link(link) => link.supply().map(|supply| supply.state()),
        Onward::Here(here) => {
            let state = here.state().borrow().clone();
            if let Some(cause) = state.ledger_failed {
                return Queue::Failed { since: watched.since(&cause), cause };
            }
            if let Some(held) = state.held.filter(|_| !tail.paused) {
                let cause = held_text(held.reason.code(), held.sequence);
                return Queue::Held { since: watched.since(&cause), sequence: held.sequence, cause };
            }
            None
        }
    };
    let damaged = tail.damaged.as_ref().map(|damaged| {
        let cause = format!(
            "message {} is damaged and cannot be sent ({}): wardlink queue park or discard lets the others go on",
            damaged.sequence, damaged.damage
        );
        (damaged.sequence, cause)
    });
    if let Some(divergence) = supply.as_ref().and_then(|supply| supply.diverged) {
        let cause = told(divergence).to_owned();
        return Queue::Diverged { since: watched.since(&cause), cause };
    }
    if tail.paused {
        return Queue::Paused;
    }
    let held = supply.as_ref().and_then(|supply| supply.held.clone()).map(|held| (held.sequence, held.text));
    let too_large = supply.and_then(|supply| supply.too_large);
    let too_large = too_large.map(|sequence| (sequence, "it is larger than the far site takes".to_owned()));
    match held.into_iter().chain(too_large).chain(damaged).min_by_key(|(sequence, _)| *sequence) {
        Some((sequence, cause)) => Queue::Held { since: watched.since(&cause), sequence, cause },
        None => Queue::Flowing,
    }
}

/// Does what an operator asks of a queue.
pub(super) async fn answer(now: &Now, reloader: &Reloader, request: QueueRequest, by: String) -> QueueAnswer {
    let running = now.get();
    if let Some(orphan) = running.orphans.iter().find(|orphan| orphan.name.as_str() == request.forward) {
        return orphaned::answer(&running, orphan, reloader, &request, &by).await;
    }
    let named = |forward: &&std::sync::Arc<Forward>| forward.config().name.as_str() == request.forward;
    let Some(forward) = running.forwards.iter().find(named) else {
        let stored = running.forwards.iter().filter(|forward| forward.way().store().is_some());
        let stored = stored.map(|forward| forward.config().name.to_string());
        let stored: Vec<String> = stored.chain(running.orphans.iter().map(|orphan| orphan.name.to_string())).collect();
        let known = if stored.is_empty() { "none is stored".to_owned() } else { stored.join(", ") };
        return QueueAnswer::Failed {
            cause: format!("no forward is named {}; with a queue: {known}", request.forward),
        };
    };
    let Way::Stored(store, onward) = forward.way() else {
        let cause = format!("forward {} has no queue: its delivery is transparent", request.forward);
        return QueueAnswer::Failed { cause };
    };
    work(&request, &store, &onward, &by).await
}

async fn work(request: &QueueRequest, store: &Store, onward: &Onward, by: &str) -> QueueAnswer {
    if let (QueueAction::Forget { reason }, Opened::Failed(_, error)) = (&request.action, store.opened()) {
        return forget::forget(store, &error, reason, by).await;
    }
    match store.spool() {
        Ok(spool) => {
            let destination = store.place().destination;
            let (commands, state);
            let courier = match onward {
                Onward::Link(link) => Courier::Far(link),
                Onward::Here(here) => {
                    (commands, state) = (here.commands(), here.state());
                    Courier::Here { commands: &commands, state: &state }
                }
            };
            let desk = Desk { forward: &request.forward, spool: &spool, courier, destination };
            operate(&desk, request.action.clone(), by).await
        }
        Err(error) => QueueAnswer::Failed { cause: format!("the spool of {} is not open: {error}", request.forward) },
    }
}
