//! What is told of a message: nothing of its content. Pure.

use std::time::{Duration, SystemTime};

use super::courier::First;
use super::decisions;
use crate::control::destinations::Destinations;
use crate::control::queue::{Decision, QueueEntry};
use crate::mllp::ack::AckCode;
use crate::spool::Verdict;
use crate::spool::queue::State;
use crate::spool::store::{DamagedMessage, Destination, Listed, OutboxEvent};

/// Is the last time that RFC 3339 can write, 9999-12-31T23:59:59Z, since 1970.
const RFC3339_MAX: Duration = Duration::from_secs(253_402_300_799);
/// Tells what is known of a message.
pub(super) fn entry(listed: &Listed, damaged: Option<&DamagedMessage>) -> QueueEntry {
    let outcome = listed.outcome.as_ref();
    let damaged = damaged.filter(|damaged| damaged.sequence == listed.sequence).map(|damaged| &damaged.damage);
    let damaged = damaged.or(listed.fault.as_ref());
    QueueEntry {
        sequence: listed.sequence,
        state: listed.state.name().to_owned(),
        accepted: listed.accepted.map_or_else(|| "unknown".to_owned(), time),
        bytes: listed.bytes,
        target: listed.destination.target.clone(),
        destination: String::new(),
        sent: listed.may_be_sent,
        damaged: damaged.map(ToString::to_string),
        settled: listed.settled.map(time),
        verdict: outcome.and_then(|outcome| outcome.verdict).map(|verdict| what_became(verdict).to_owned()),
        code: outcome.and_then(|outcome| outcome.code).and_then(answered),
        attempts: outcome.map_or(0, |outcome| outcome.attempts),
        in_doubt: outcome.map_or(0, |outcome| outcome.in_doubt),
        held: None,
        trying: None,
        decisions: listed.decisions.iter().map(decision).collect(),
    }
}

/// Adds how the message is at the receiver that all others wait for.
pub(super) fn with_attempts(told: QueueEntry, first: First, forward: &str) -> QueueEntry {
    let First { sequence, is_held, why, code, attempts, in_doubt } = first;
    let (code, attempts, in_doubt) = match told.attempts {
        0 => (answered(code), attempts, in_doubt),
        // How it ended is there already.
        _ => (told.code.clone(), told.attempts, told.in_doubt),
    };
    let (held, trying) = match is_held {
        true => (Some(format!("{why}; {}", decisions(forward, sequence))), None),
        false => (None, Some(why)),
    };
    QueueEntry { held, trying, code, attempts, in_doubt, ..told }
}

/// Shows the code of an answer, where there was one.
fn answered(code: AckCode) -> Option<String> {
    match code {
        AckCode::Absent => None,
        AckCode::Other => Some("unknown".to_owned()),
        code => Some(code.code().to_owned()),
    }
}

/// Says that a message is not for where its queue leads, and what may be done. A move takes none that was delivered.
pub(super) fn is_for_elsewhere(listed: &Listed, way: &Destination, name: &str, known: &Destinations) -> String {
    let (there, written, here) = (known.told(&listed.destination), known.written(&listed.destination), known.told(way));
    let moves = match listed.state {
        State::Delivered => String::new(),
        _ => format!("--from-destination {written} has it and all others of there go here, "),
    };
    format!(
        "message {} was accepted for {there}, and {name} leads to {here}: wardlink queue move {name} {moves}--to FORWARD \
         has the queue go there",
        listed.sequence
    )
}

fn decision(event: &OutboxEvent) -> Decision {
    if event.is_changed {
        let what =
            format!("event {} was changed in the database by somebody else: what it said is not known", event.id);
        return Decision { at: "unknown".to_owned(), what, by: String::new(), reason: String::new() };
    }
    let (at, what) = (time(event.at), event.happening.name().to_owned());
    Decision { at, what, by: event.by.clone(), reason: event.reason.clone() }
}

fn what_became(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "delivered",
        Verdict::Rejected => "rejected by the receiver",
        Verdict::Failed => "failed at the receiver",
        Verdict::Withdrawn => "withdrawn by an operator",
        Verdict::DeliveredBefore => "delivered, before the far site's state was lost",
    }
}

/// Writes a time as RFC 3339 in UTC; what that cannot write becomes the nearest end.
fn time(time: SystemTime) -> String {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(RFC3339_MAX);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_1970).to_string()
}

/// Finds a state by its name.
pub(super) fn named(word: &str) -> Option<State> {
    State::ALL.into_iter().find(|state| state.name() == word)
}
