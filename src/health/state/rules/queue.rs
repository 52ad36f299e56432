//! What is at fault with the queue of a stored forward, and what somebody should do about it. Pure.
//!
//! Never looks at a clock. A queue that stands still is down, whoever has to decide; one that was paused on purpose, or
//! that fills, is degraded. The rules are those of the design of delivery.

use std::time::SystemTime;

use super::super::super::facts::{ForwardFacts, OrphanFacts, Queue, QueueFacts, ServiceFacts, SiteFacts};
use super::super::{Status, Verdict};
use super::{OPENS_WITHIN, age_text};

/// Notes a spool that takes nothing.
pub(in super::super) fn spool_fault(facts: &SiteFacts, forward: &ForwardFacts, now: SystemTime) -> Option<Verdict> {
    let queue = forward.queue.as_ref()?;
    match &queue.state {
        Queue::Failed { since, cause } => Some(Verdict::new(Status::Down, *since, &format!("spool: {cause}"))),
        Queue::Opening => {
            let since = queue.onsets.opening.unwrap_or(facts.started);
            let is_late = now.duration_since(since).is_ok_and(|age| age >= OPENS_WITHIN);
            let (status, yet) =
                if is_late { (Status::Down, ", and messages are refused") } else { (Status::Unknown, "") };
            Some(Verdict::new(status, since, &format!("the spool is being opened{yet}")))
        }
        Queue::Flowing | Queue::Paused | Queue::Held { .. } | Queue::Diverged { .. } => {
            let since = queue.disk_full_since?;
            let text = format!(
                "the spool's disk is full: no message is taken until there is room; the {} that wait go on; {}",
                queue.depth.unwrap_or_default(),
                filled_by(queue)
            );
            Some(Verdict::new(Status::Down, since, &text))
        }
    }
}

/// Notes that the disk of what becomes of stored messages fails or is full.
pub(in super::super) fn ledger_fault(facts: &SiteFacts, service: &ServiceFacts) -> Option<Verdict> {
    if let Some(cause) = &service.ledger_failed {
        let text = format!("stored messages wait: what becomes of them cannot be written down: {cause}");
        return Some(Verdict::new(Status::Down, troubled_since(facts, service), &text));
    }
    let text = "the disk of state_dir is full: stored messages go on as long as a reserve lasts";
    service.disk_full.then(|| Verdict::new(Status::Degraded, troubled_since(facts, service), text))
}

/// Judges a queue without a forward: messages that were acknowledged go nowhere.
pub(in super::super) fn judge_orphan(orphan: &OrphanFacts) -> Verdict {
    let (name, depth, parked) = (&orphan.name, orphan.depth.unwrap_or_default(), orphan.parked.unwrap_or_default());
    let text = match &orphan.fault {
        Some(fault) => format!("no stored forward has this name, and its spool: {fault}"),
        None => format!(
            "no stored forward has this name: {depth} messages wait, {parked} are set aside; name {name} again, or wardlink \
             queue move {name} --to FORWARD, or export and discard them"
        ),
    };
    Verdict::new(Status::Down, orphan.since, &text)
}

/// Notes that the two sites tell different stories.
pub(super) fn divergence(forward: &ForwardFacts) -> Option<Verdict> {
    match &forward.queue.as_ref()?.state {
        Queue::Diverged { since, cause } => {
            let text = format!(
                "diverged from {}: {cause}; nothing is sent until wardlink queue reconcile {}",
                forward.peer, forward.name
            );
            Some(Verdict::new(Status::Down, *since, &text))
        }
        Queue::Opening | Queue::Flowing | Queue::Paused | Queue::Held { .. } | Queue::Failed { .. } => None,
    }
}

/// Notes a queue that waits for an operator: also where the receiver is down, which may be the same fault, and does not say
/// what is to be done.
pub(super) fn hold(forward: &ForwardFacts) -> Option<Verdict> {
    let queue = forward.queue.as_ref()?;
    match &queue.state {
        Queue::Held { since, sequence, cause, decide } => {
            let text = format!(
                "held at message {sequence}: {cause}; {} wait; decide: {decide}",
                queue.depth.unwrap_or_default()
            );
            Some(Verdict::new(Status::Down, *since, &text))
        }
        Queue::Opening | Queue::Flowing | Queue::Paused | Queue::Diverged { .. } | Queue::Failed { .. } => None,
    }
}

/// Notes what keeps the first message for now.
pub(super) fn trouble(forward: &ForwardFacts) -> Option<Verdict> {
    let (since, cause) = forward.queue.as_ref()?.trouble.as_ref()?;
    Some(Verdict::new(Status::Degraded, *since, cause))
}

/// Notes a queue that an operator has paused.
pub(super) fn pause(facts: &SiteFacts, forward: &ForwardFacts) -> Option<Verdict> {
    let queue = forward.queue.as_ref().filter(|queue| queue.state == Queue::Paused)?;
    let since = queue.onsets.paused.unwrap_or(facts.started);
    Some(Verdict::new(Status::Degraded, since, &paused(&forward.name, queue)))
}

fn paused(name: &str, queue: &QueueFacts) -> String {
    format!("paused, {} wait; wardlink forward resume {name} ends it", queue.depth.unwrap_or_default())
}

/// Notes a queue that has as much as it may: messages are not taken. What keeps them is said with it, and since when the
/// one or the other is so.
pub(super) fn fullness(
    facts: &SiteFacts,
    forward: &ForwardFacts,
    onward: impl FnOnce() -> Option<Verdict>,
) -> Option<Verdict> {
    let queue = forward.queue.as_ref().filter(|queue| queue.is_full())?;
    let mut text = fill(&forward.name, queue);
    let mut since = queue.onsets.full.unwrap_or(facts.started);
    let onward = onward();
    if let Some(fault) = onward.as_ref().filter(|fault| fault.status == Status::Down) {
        since = since.min(fault.since);
    }
    match &queue.state {
        Queue::Held { sequence, decide, .. } => text.push_str(&format!("; held at message {sequence}: {decide}")),
        Queue::Paused => text.push_str(&format!("; {}", paused(&forward.name, queue))),
        Queue::Opening | Queue::Flowing | Queue::Diverged { .. } | Queue::Failed { .. } => {
            let cause = onward.and_then(|fault| fault.cause);
            cause.into_iter().for_each(|cause| text.push_str(&format!("; {cause}")));
        }
    }
    Some(Verdict::new(Status::Down, since, &text))
}

/// Notes a queue or a disk that soon will be full.
pub(super) fn shortage(facts: &SiteFacts, forward: &ForwardFacts) -> Option<Verdict> {
    let queue = forward.queue.as_ref()?;
    if queue.is_filling() {
        let since = queue.onsets.filling.unwrap_or(facts.started);
        return Some(Verdict::new(Status::Degraded, since, &fill(&forward.name, queue)));
    }
    let left = queue.disk_full_soon()?;
    let text = format!("the disk of the spool is full in {}, if it goes on so; {}", age_text(left), filled_by(queue));
    Some(Verdict::new(Status::Degraded, queue.onsets.disk_full_soon.unwrap_or(facts.started), &text))
}

/// Says what a queue has on its disk. Copies of delivered messages go before a message is refused.
fn filled_by(queue: &QueueFacts) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
    let held = mib(queue.bytes.unwrap_or_default().saturating_add(queue.parked_bytes.unwrap_or_default()));
    match queue.delivered.unwrap_or_default() {
        0 => format!(
            "{held} on it are messages of this queue, none are copies of delivered ones: look what else is on it"
        ),
        _ => format!(
            "{held} on it are messages of this queue, {} copies of delivered ones, which go first",
            mib(queue.delivered_kept_bytes.unwrap_or_default())
        ),
    }
}

/// Notes messages that are set aside: they go by somebody's word only, and nobody may know of them.
pub(super) fn set_aside(facts: &SiteFacts, forward: &ForwardFacts) -> Option<Verdict> {
    let queue = forward.queue.as_ref()?;
    let parked = queue.parked.filter(|parked| *parked > 0)?;
    let text = format!(
        "{parked} parked: wardlink queue list {} --state parked shows them; release or discard each",
        forward.name
    );
    Some(Verdict::new(Status::Degraded, queue.onsets.parked.unwrap_or(facts.started), &text))
}

/// Says how full the queue is, by the limit that is nearer. What is set aside goes by an operator's word only.
fn fill(forward: &str, queue: &QueueFacts) -> String {
    let known = |count: Option<u64>| count.unwrap_or_default();
    let (parked, parked_bytes) = (known(queue.parked), known(queue.parked_bytes));
    let all = (known(queue.depth).saturating_add(parked), known(queue.bytes).saturating_add(parked_bytes));
    let say = |count: u64, parked: u64, max: u64, what: &str| {
        let full = format!("the queue has {count} of at most {max} {what}");
        match parked {
            0 => full,
            parked => format!("{full}, {parked} of them parked: wardlink queue list {forward} --state parked"),
        }
    };
    let (messages, bytes) = queue.fill_percent();
    if messages >= bytes {
        say(all.0, parked, queue.depth_max, "messages (max_queue_messages)")
    } else {
        say(all.1, parked_bytes, queue.bytes_max, "bytes (max_queue_bytes)")
    }
}

/// Notes a peer's queue that is held at a receiver.
pub(super) fn held_at(service: &ServiceFacts) -> Option<Verdict> {
    let held = service.held.iter().min_by_key(|held| held.since)?;
    let text =
        format!("the queue of {0} is held at message {1}: {2}; {0} decides", held.peer, held.sequence, held.cause);
    Some(Verdict::new(Status::Down, held.since, &text))
}

/// Notes a peer's message on which the receiver fails again and again.
pub(super) fn trying_at(facts: &SiteFacts, service: &ServiceFacts) -> Option<Verdict> {
    let (peer, told) = service.trying.as_ref()?;
    let text = format!("the queue of {peer} waits for {told}");
    Some(Verdict::new(Status::Degraded, troubled_since(facts, service), &text))
}

fn troubled_since(facts: &SiteFacts, service: &ServiceFacts) -> SystemTime {
    service.trouble_since.unwrap_or(facts.started)
}
