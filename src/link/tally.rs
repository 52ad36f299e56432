//! What passed on a forward or a service: counted, never kept; and who records it for the account.
//!
//! It holds no byte of a message: counts, codes, times.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::Clerk;
use crate::mllp::ack::AckCode;
use crate::mllp::frame::{Anomaly, Violation};
use crate::mllp::observe::Observation;

/// Upper bounds of the latency of answers, in seconds: from a LAN to a receiver that a person waits for.
pub const LATENCY_BOUNDS_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Lists why connections end for what a message is: sent again as it is, it ends the next one too.
pub const ENDS_BY_MESSAGE: [&str; 3] =
    [Violation::FrameTooLarge.code(), Violation::WideText.code(), Anomaly::HeaderTooLong.code()];

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
    /// Is when the last answer came.
    pub last_ack: Option<Instant>,
    /// Is the last answer that was not positive, and when it came.
    pub last_negative: Option<(&'static str, Instant)>,
    /// Is the last reason of [`ENDS_BY_MESSAGE`], and when it was.
    pub last_refusal: Option<(&'static str, Instant)>,
    unanswered: HashMap<u64, (usize, Instant)>,
    next_connection: u64,
}

impl Counts {
    /// Counts the messages that wait for an answer now.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.values().map(|(count, _)| *count as u64).sum()
    }

    /// Says since when the oldest of them has waited.
    pub fn oldest_unanswered(&self) -> Option<Instant> {
        self.unanswered.values().map(|(_, since)| *since).min()
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
        let mut counts = self.lock();
        counts.connections = counts.connections.saturating_sub(1);
        let unanswered = counts.unanswered.remove(&connection).map_or(0, |(messages, _)| messages as u64);
        counts.unknown_outcomes += unanswered;
        *counts.closed.entry(reason).or_default() += 1;
        if ENDS_BY_MESSAGE.contains(&reason) {
            counts.last_refusal = Some((reason, Instant::now()));
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
            Some(since) => counts.unanswered.insert(connection, (messages, since)),
            None => counts.unanswered.remove(&connection),
        };
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
