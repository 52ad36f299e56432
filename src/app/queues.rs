//! The queues of stored forwards, as health tells of them and as operators work on them.
//!
//! It decides nothing: the spool and the far site do.

mod forget;
mod moved;
mod orphaned;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::facts::dropped_answers;
use super::{Now, Parts, Reloader};
use crate::control::destinations::Destinations;
use crate::control::operate::{Courier, Desk, decisions, decisions_without_retry, operate, told};
use crate::control::queue::{QueueAction, QueueAnswer, QueueRequest};
use crate::forward::stored::store::{Opened, Store};
use crate::forward::{Forward, Onward, Way};
use crate::health::facts::{Onsets, Queue, QueueFacts};
use crate::health::rates::{Look, Rates};
use crate::link::feed::Held;
use crate::spool::delivery::Counts;
use crate::spool::reserve::free_bytes;
use crate::spool::store::{Destination, Tail};
use crate::spool::{Sequence, SpoolError};
use moved::Word;
pub(super) use moved::destinations;

/// Is the time between two looks at the queues: rates are those of what was looked at, and a standstill is told so soon.
const QUEUE_LOOK_EVERY: Duration = Duration::from_secs(1);

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
    /// Is since when it was seen as it is.
    onsets: Onsets,
    /// Is the standstill that the log has, by its state and message.
    logged: Option<(&'static str, u64)>,
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

    /// Has the log say once that a queue waits for somebody's decision, and once that it goes on.
    fn log(&mut self, forward: &str, state: &Queue) {
        let (sequence, cause, decide) = match state {
            Queue::Held { sequence, cause, decide, .. } => (*sequence, cause, decide.clone()),
            Queue::Diverged { cause, .. } => (0, cause, format!("wardlink queue reconcile {forward}")),
            Queue::Flowing | Queue::Paused => {
                if self.logged.take().is_some() {
                    tracing::info!(%forward, "the queue stands still no longer");
                }
                return;
            }
            Queue::Opening | Queue::Failed { .. } => return,
        };
        let seen = (state.as_str(), sequence);
        if self.logged.replace(seen) != Some(seen) {
            let (state, sequence) = (state.as_str(), (sequence > 0).then_some(sequence));
            tracing::warn!(%forward, state, sequence, reason = %cause, %decide, "the queue stands still until this is decided");
        }
    }
}

impl Parts {
    /// Looks at all queues again and again, whoever else does.
    pub(super) async fn look_at_queues(&self) {
        loop {
            let running = self.now.get();
            let known = destinations(&running.config);
            for forward in &running.forwards {
                self.watch.facts(forward, &known);
            }
            tokio::time::sleep(QUEUE_LOOK_EVERY).await;
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

    /// Says since when something has been seen of a service without a change; none where there is nothing.
    pub(super) fn since_of_service(&self, name: &str, what: Option<&str>) -> Option<SystemTime> {
        // no forward has such a name
        let key = format!("service {name}");
        match what {
            Some(what) => Some(self.since(&key, what)),
            None => {
                self.lock().remove(&key);
                None
            }
        }
    }

    /// Tells of a forward's queue; none where it is not stored.
    pub(super) fn facts(&self, forward: &Forward, known: &Destinations) -> Option<QueueFacts> {
        let Way::Stored(store, onward) = forward.way() else { return None };
        let mut watched = self.lock();
        let watched = watched.entry(forward.config().name.to_string()).or_default();
        let place = store.place();
        let tail = store.spool().ok().map(|spool| spool.tail().borrow().clone());
        let name = forward.config().name.to_string();
        let state = state(&name, &store, tail.as_ref(), (&onward, known), watched);
        watched.log(&name, &state);
        let trouble = trouble(&onward).filter(|_| state == Queue::Flowing);
        let trouble = trouble.map(|(kind, cause)| (watched.since(kind), cause));
        if matches!(state, Queue::Flowing | Queue::Paused) && trouble.is_none() {
            watched.held_by = None;
        }
        watched.disk_full_since = match tail.as_ref().is_some_and(|tail| tail.disk_full) {
            true => watched.disk_full_since.or_else(|| Some(SystemTime::now())),
            false => None,
        };
        let free_bytes = free_bytes(&place.directory);
        // While the spool is not open nothing is known, which is not that there is nothing.
        let tail = tail.filter(|tail| tail.failed.is_none());
        let known = tail.as_ref();
        let pace = known.map(|tail| {
            let (accepted, settled) = (tail.last, tail.last.saturating_sub(tail.depth));
            watched.rates.handle_look(Look { at: Instant::now(), accepted, settled, free_bytes })
        });
        let pace = pace.unwrap_or_default();
        let oldest = known.and_then(|tail| tail.oldest);
        let here = match &onward {
            Onward::Link(..) => None,
            Onward::Here(here) => Some(here.counts()),
        };
        // Of one that stands still there is no saying.
        let drained_in = pace.drained_in.filter(|_| state == Queue::Flowing);
        let mut facts = QueueFacts {
            state,
            trouble,
            onsets: Onsets::default(),
            depth: known.map(|tail| tail.depth),
            depth_max: place.limits.messages_max,
            bytes: known.map(|tail| tail.bytes),
            bytes_max: place.limits.bytes_max,
            oldest_age: oldest.map(|oldest| oldest.elapsed().unwrap_or_default()),
            parked: known.map(|tail| tail.parked),
            parked_bytes: known.map(|tail| tail.parked_bytes),
            accepted_total: known.map(|tail| tail.last),
            settled_total: known.map(|tail| tail.last.saturating_sub(tail.depth)),
            refused: forward.tally().counts().refused,
            in_doubt_total: known.map(|tail| tail.in_doubt),
            receiver_acks: here.iter().flat_map(acks).collect(),
            dropped_answers: here.as_ref().map(dropped_answers).unwrap_or_default(),
            last_settled_age: store.last_settled().map(|at| at.elapsed()),
            accepted_per_second: pace.accepted_per_second,
            settled_per_second: pace.settled_per_second,
            drained_in,
            disk_full_since: watched.disk_full_since,
            disk_free_bytes: free_bytes,
            disk_full_in: pace.disk_full_in,
            delivered: known.map(|tail| tail.delivered),
            delivered_kept_bytes: known.map(|tail| tail.delivered_bytes),
            shredded_early: known.map(|tail| tail.shredded_early),
        };
        watched.onsets = watched.onsets.followed(&facts, SystemTime::now());
        facts.onsets = watched.onsets;
        Some(facts)
    }
}

/// Counts the answers of a receiver by their code, those that came.
fn acks(counts: &Counts) -> impl Iterator<Item = (&'static str, u64)> {
    counts.answers().filter(|(_, count)| *count > 0).map(|(code, count)| (code.code(), count))
}

/// Says whether messages go on, and what holds them: the first on their way.
fn state(
    name: &str,
    store: &Store,
    tail: Option<&Tail>,
    (onward, known): (&Onward, &Destinations),
    watched: &mut Watched,
) -> Queue {
    let tail = match (tail, store.opened()) {
        (Some(tail), _) => tail,
        (None, Opened::Failed(since, error)) => return Queue::Failed { since, cause: error.to_string() },
        (None, Opened::Not | Opened::Open(_)) => return Queue::Opening,
    };
    if let Some(cause) = tail.failed.clone() {
        return Queue::Failed { since: watched.since(&cause), cause };
    }
    let first = tail.retired_through.saturating_add(1);
    if let Some(to) = tail.first_for.as_ref().filter(|to| *to != onward.destination()) {
        let (cause, decide) = elsewhere(name, tail, to, known);
        return hold(first, cause, decide, watched);
    }
    let supply = match onward {
        Onward::Link(link, _) => link.supply().map(|supply| supply.state()),
        Onward::Here(here) => {
            let state = here.state().borrow().clone();
            if let Some(cause) = state.ledger_failed {
                return Queue::Failed { since: watched.since(&cause), cause };
            }
            if let Some(held) = state.held.filter(|_| !tail.paused) {
                let decide = decisions(name, held.sequence);
                return hold(held.sequence, held.told(), decide, watched);
            }
            None
        }
    };
    if let Some(divergence) = supply.as_ref().and_then(|supply| supply.diverged) {
        let cause = told(divergence).to_owned();
        return Queue::Diverged { since: watched.since(&cause), cause };
    }
    if tail.paused {
        return Queue::Paused;
    }
    let held = supply.as_ref().and_then(|supply| supply.held.clone()).filter(Held::awaits_decision);
    let held = held.map(|held| (held.sequence, held.text, decisions(name, held.sequence)));
    let settled_only =
        |sequence, cause| (sequence, cause, format!("wardlink queue {}", decisions_without_retry(name, sequence)));
    let too_large = supply.and_then(|supply| supply.too_large);
    let too_large = too_large.map(|sequence| settled_only(sequence, "it is larger than the far site takes".to_owned()));
    let damaged = tail.damaged.as_ref().map(|damaged| {
        let cause = format!("it is damaged and cannot be sent ({})", damaged.damage);
        settled_only(damaged.sequence, cause)
    });
    match held.into_iter().chain(too_large).chain(damaged).min_by_key(|(sequence, ..)| *sequence) {
        Some((sequence, cause, decide)) => hold(sequence, cause, decide, watched),
        None => Queue::Flowing,
    }
}

/// Says what keeps the first message and passes by itself, and of what kind that is.
fn trouble(onward: &Onward) -> Option<(&'static str, String)> {
    let again = |sequence, told| ("trying", format!("message {sequence} and those behind it wait: {told}"));
    match onward {
        Onward::Link(link, _) => {
            let held = link.supply()?.state().held.filter(|held| !held.awaits_decision())?;
            Some(match held.reason {
                Held::TRYING => again(held.sequence, held.text),
                _ => ("unwritten", held.text),
            })
        }
        Onward::Here(here) => here.state().borrow().trying.map(|trying| again(trying.sequence, trying.told())),
    }
}

/// Says that the first message waits for another way than the queue takes, and what may be done.
fn elsewhere(name: &str, tail: &Tail, to: &Destination, known: &Destinations) -> (String, String) {
    let count = tail.waiting.iter().find(|(waits, _)| waits == to).map_or(0, |(_, count)| *count);
    let cause = format!("it and {} more were accepted for {}", count.saturating_sub(1), known.told(to));
    let forward = known.forward_to(to).unwrap_or("FORWARD");
    let decide = format!(
        "wardlink queue move {name} --to {forward} (they go there) or --from-destination {} (they come here); park or \
         discard. New ones are taken in",
        known.written(to)
    );
    (cause, decide)
}

fn hold(sequence: Sequence, cause: String, decide: String, watched: &mut Watched) -> Queue {
    let since = watched.since(&format!("{sequence} {cause}"));
    Queue::Held { since, sequence, cause, decide }
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
    if let (QueueAction::Move { to: Some(to), from }, Opened::Open(_)) = (&request.action, store.opened()) {
        let word = Word { to, from: from.as_deref(), by: &by };
        let moved = moved::move_to(&running.config, &store, word, reloader).await;
        return moved.unwrap_or_else(|cause| QueueAnswer::Failed { cause });
    }
    work(&request, &store, (&onward, &destinations(&running.config)), &by).await
}

/// Says what is wrong with a spool, also with one that failed while it was open.
async fn fault(store: &Store) -> Option<SpoolError> {
    match store.opened() {
        Opened::Failed(_, error) => Some(error),
        Opened::Open(spool) => spool.opening().await.err(),
        Opened::Not => None,
    }
}

async fn work(
    request: &QueueRequest,
    store: &Store,
    (onward, known): (&Onward, &Destinations),
    by: &str,
) -> QueueAnswer {
    if let QueueAction::Forget { reason } = &request.action
        && let Some(error) = fault(store).await
    {
        return forget::forget(store, &error, reason, by).await;
    }
    match store.spool() {
        Ok(spool) => {
            let destination = store.place().destination;
            let (commands, state);
            let courier = match onward {
                Onward::Link(link, _) => Courier::Far(link),
                Onward::Here(here) => {
                    (commands, state) = (here.commands(), here.state());
                    Courier::Here { commands: &commands, state: &state }
                }
            };
            let way = Some(onward.destination().clone());
            let desk = Desk { forward: &request.forward, spool: &spool, courier, destination, way, known };
            operate(&desk, request.action.clone(), by).await
        }
        Err(error) => QueueAnswer::Failed { cause: format!("the spool of {} is not open: {error}", request.forward) },
    }
}
