//! What passed on a forward or a service: counted, never kept; and who records it for the account.
//!
//! It holds no byte of a message: counts, codes, times.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::Clerk;
use crate::link::cause::Cause;
use crate::mllp::ack::AckCode;
use crate::mllp::frame::{Anomaly, Violation};
use crate::mllp::observe::Observation;

/// Upper bounds of the latency of answers, in seconds: from a LAN to a receiver that a person waits for.
pub const LATENCY_BOUNDS_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Lists why connections end for what a message is: sent again as it is, it ends the next one too.
pub const ENDS_BY_MESSAGE: [&str; 3] =
    [Violation::FrameTooLarge.code(), Violation::WideText.code(), Anomaly::HeaderTooLong.code()];

/// A message whose connection ends before it has waited so long is its sender's haste, not its receiver's silence.
const LEFT_AFTER: Duration = Duration::from_secs(5);

/// Lists the ends of a connection that leave a receiver's silence behind, and no other fault.
const ENDS_IN_SILENCE: [&str; 3] = [Cause::SenderGone.code(), Cause::AckTimeout.code(), "unanswered"];

/// Lists why messages of stored delivery are not taken.
pub const REFUSALS: [&str; 4] = ["queue_full", "disk_full", "spool_failed", "application_answer_required"];

/// Lists why connections end, or are not let in, beside violations of MLLP and the causes that links tell of.
const OWN_ENDS: [&str; 11] = [
    "finished",
    "unanswered",
    "idle_timeout",
    "frame_too_slow",
    "frames_without_message",
    "too_many_bytes_held",
    "answer_not_committed",
    "unreachable",
    "not_allowed",
    "too_many_connections",
    "too_many_from_source",
];

/// Lists why connections end, or are not let in, as far as that has a name of its own.
pub fn ends() -> impl Iterator<Item = &'static str> {
    let violations = Violation::ALL.into_iter().map(Violation::code);
    OWN_ENDS.into_iter().chain(violations).chain(Cause::ALL.into_iter().map(Cause::code))
}

/// Counts what passes.
#[derive(Default)]
pub struct Tally {
    counts: Mutex<Counts>,
    clerk: Mutex<Option<Clerk>>,
}

/// Is what was counted so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Counts connections that are open now.
    pub connections: u64,
    /// Counts the messages.
    pub messages: u64,
    /// Counts their bytes.
    pub message_bytes: u64,
    /// Counts the answers by code.
    pub acks: BTreeMap<&'static str, u64>,
    /// Counts messages that the receiver sent of its own.
    pub unsolicited: u64,
    /// Counts deviations by code.
    pub anomalies: BTreeMap<&'static str, u64>,
    /// Counts messages of stored delivery that were not taken, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Counts connections that ended, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// Counts messages whose connection ended before their answer came: the receiver may have taken them or not.
    pub unknown_outcomes: u64,
    /// Counts answers by how long they took; the last bucket is beyond the bounds.
    pub latency: [u64; LATENCY_BOUNDS_SECONDS.len() + 1],
    /// Is the sum of these times.
    pub latency_sum: Duration,
    /// Counts answers that took longer than what is watched for.
    pub slow: Slow,
    /// Is when the last answer came.
    pub last_ack: Option<Instant>,
    /// Is the last answer that was not positive, and when it came.
    pub last_negative: Option<(&'static str, Instant)>,
    /// Is the last reason of [`ENDS_BY_MESSAGE`], and when it was.
    pub last_refusal: Option<(&'static str, Instant)>,
    /// Is what the receiver has left without an answer since its last one.
    pub left: Option<Left>,
    unanswered: HashMap<u64, Waiting>,
    next_connection: u64,
}

/// Is what waits for answers on a connection.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    messages: usize,
    since: Instant,
    /// Is when the way to the receiver was last seen not to stand: it is asked since then.
    held: Option<Instant>,
}

/// Counts messages whose connection ended when they had waited for an answer for `LEFT_AFTER` or longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Counts them.
    pub messages: u64,
    /// Is when the first of their connections ended.
    pub first: Instant,
    /// Is when the last of them did.
    pub last: Instant,
}

/// Counts exactly what buckets only bound: answers that took longer than two limits, since these are watched for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slow {
    /// Are the limits, the lower one first.
    limits: Option<[Duration; 2]>,
    /// Counts all answers.
    pub answers: u64,
    /// Counts those that took longer than the lower limit.
    pub near: u64,
    /// Counts those that took longer than the upper one.
    pub beyond: u64,
}

impl Counts {
    /// Counts the messages that wait for an answer now.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.values().map(|waiting| waiting.messages as u64).sum()
    }

    /// Says since when the oldest of them has waited.
    pub fn oldest_unanswered(&self) -> Option<Instant> {
        self.unanswered.values().map(|waiting| waiting.since).min()
    }
}

impl Tally {
    /// Says who records what happens from now on.
    pub fn set_clerk(&self, clerk: Clerk) {
        *self.clerk.lock().unwrap_or_else(PoisonError::into_inner) = Some(clerk);
    }

    /// Returns who records what happens.
    pub fn clerk(&self) -> Option<Clerk> {
        self.clerk.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to count a connection and returns its number.
    pub fn begin(&self) -> u64 {
        let mut counts = self.lock();
        counts.connections += 1;
        counts.next_connection += 1;
        counts.next_connection
    }

    /// Ends it; `reason` is a stable code.
    pub fn end(&self, connection: u64, reason: &'static str) {
        let now = Instant::now();
        let mut counts = self.lock();
        counts.connections = counts.connections.saturating_sub(1);
        let waited = counts.unanswered.remove(&connection);
        let unanswered = waited.map_or(0, |waiting| waiting.messages as u64);
        counts.unknown_outcomes += unanswered;
        let asked = waited.map(|waiting| waiting.held.map_or(waiting.since, |held| held.max(waiting.since)));
        let in_vain = asked.is_some_and(|asked| now.saturating_duration_since(asked) >= LEFT_AFTER);
        if in_vain && ENDS_IN_SILENCE.contains(&reason) {
            let before = counts.left.map_or((0, now), |left| (left.messages, left.first));
            counts.left = Some(Left { messages: before.0 + unanswered, first: before.1, last: now });
        }
        *counts.closed.entry(reason).or_default() += 1;
        if ENDS_BY_MESSAGE.contains(&reason) {
            counts.last_refusal = Some((reason, now));
        }
        drop(counts);
        if let Some(clerk) = self.clerk().filter(|_| unanswered > 0) {
            clerk.unanswered(unanswered, reason);
        }
    }

    /// Counts a connection that was not let in.
    pub fn refuse(&self, reason: &'static str) {
        *self.lock().closed.entry(reason).or_default() += 1;
    }

    /// Counts a message that was not taken; `head` is its begin, with the header.
    pub fn refuse_message(&self, reason: &'static str, head: &[u8], bytes: u64) {
        *self.lock().refused.entry(reason).or_default() += 1;
        if let Some(clerk) = self.clerk() {
            clerk.refused(head, bytes, reason);
        }
    }

    /// Counts from now on which answers take longer than limits, the lower one first; others than before begin anew.
    pub fn watch_latency(&self, limits: Option<[Duration; 2]>) {
        let mut counts = self.lock();
        if counts.slow.limits != limits {
            counts.slow = Slow { limits, ..Slow::default() };
        }
    }

    /// Counts what was observed.
    pub fn count(&self, observation: Observation, now: Instant) {
        let mut counts = self.lock();
        match observation {
            Observation::Message { bytes } => {
                counts.messages += 1;
                counts.message_bytes += bytes;
            }
            Observation::Ack { code, latency } => {
                *counts.acks.entry(code.code()).or_default() += 1;
                counts.last_ack = Some(now);
                counts.left = None;
                // The commit of Release 2 is no answer yet, and no refusal.
                if !code.is_positive() && code != AckCode::TransportAck {
                    counts.last_negative = Some((code.code(), now));
                }
                if let Some(latency) = latency {
                    counts.add_latency(latency);
                }
            }
            // Those are for the account, of those who carry.
            Observation::Passed(_) | Observation::Answered { .. } => {}
            Observation::Unsolicited => counts.unsolicited += 1,
            Observation::Anomaly(anomaly) => *counts.anomalies.entry(anomaly.code()).or_default() += 1,
        }
    }

    /// Notes how many messages of a connection wait for an answer, and since when the oldest does.
    pub fn waits(&self, connection: u64, messages: usize, since: Option<Instant>) {
        let mut counts = self.lock();
        match since {
            Some(since) => {
                let held = counts.unanswered.get(&connection).and_then(|waiting| waiting.held);
                counts.unanswered.insert(connection, Waiting { messages, since, held })
            }
            None => counts.unanswered.remove(&connection),
        };
    }

    /// Notes that what a connection has for its receiver is held here now.
    pub fn holds(&self, connection: u64, now: Instant) {
        if let Some(waiting) = self.lock().unanswered.get_mut(&connection) {
            waiting.held = Some(now);
        }
    }

    /// Returns what was counted so far.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn add_latency(&mut self, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let bucket = LATENCY_BOUNDS_SECONDS.iter().position(|bound| seconds <= *bound);
        if let Some(count) = self.latency.get_mut(bucket.unwrap_or(LATENCY_BOUNDS_SECONDS.len())) {
            *count += 1;
        }
        self.latency_sum += latency;
        if let Some([near, beyond]) = self.slow.limits {
            self.slow.answers += 1;
            self.slow.near += u64::from(latency > near);
            self.slow.beyond += u64::from(latency > beyond);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_than_a_limit_is_counted_exactly() {
        let (tally, seconds) = (Tally::default(), |seconds: f64| Duration::from_secs_f64(seconds));
        let answer = |latency| {
            let ack = Observation::Ack { code: AckCode::ApplicationAccept, latency: Some(seconds(latency)) };
            tally.count(ack, Instant::now());
        };
        answer(20.0);
        tally.watch_latency(Some([seconds(8.0), seconds(10.0)]));
        [5.1, 8.0, 9.0, 10.0, 10.1].into_iter().for_each(answer);
        tally.watch_latency(Some([seconds(8.0), seconds(10.0)]));
        let slow = tally.counts().slow;
        assert_eq!((slow.answers, slow.near, slow.beyond), (5, 3, 1));
        tally.watch_latency(None);
        answer(20.0);
        assert_eq!(tally.counts().slow.answers, 0);
    }

    #[test]
    fn what_waits_when_its_connection_ends_has_an_unknown_outcome() {
        let tally = Tally::default();
        let (first, second) = (tally.begin(), tally.begin());
        tally.waits(first, 3, Some(Instant::now()));
        tally.waits(second, 1, Some(Instant::now()));
        tally.waits(second, 0, None);
        tally.end(first, "unanswered");
        tally.end(second, "finished");
        assert_eq!((tally.counts().unknown_outcomes, tally.counts().unanswered()), (3, 0));
        assert_eq!(tally.counts().left, None, "nobody waited for long");
    }

    #[test]
    fn a_receiver_leaves_messages_until_it_answers_one() {
        let tally = Tally::default();
        let end_after = |(seconds, reason)| {
            let connection = tally.begin();
            tally.waits(connection, 2, Instant::now().checked_sub(Duration::from_secs(seconds)));
            tally.end(connection, reason);
            tally.counts().left.map(|left| left.messages)
        };
        let ends =
            [(9, "receiver_reset"), (4, "sender_gone"), (6, "unanswered"), (4, "ack_timeout"), (9, "sender_gone")];
        assert_eq!(ends.map(end_after), [None, None, Some(2), Some(2), Some(4)]);
        tally.count(Observation::Ack { code: AckCode::ApplicationAccept, latency: None }, Instant::now());
        assert_eq!(tally.counts().left, None);
        let held = tally.begin();
        tally.waits(held, 1, Instant::now().checked_sub(Duration::from_secs(9)));
        tally.holds(held, Instant::now());
        tally.waits(held, 2, Instant::now().checked_sub(Duration::from_secs(9)));
        tally.end(held, "sender_gone");
        assert_eq!(tally.counts().left, None, "the receiver was not asked");
    }
}
