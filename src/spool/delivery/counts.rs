//! What was counted of the conversation with a receiver: given out by value, never a byte of a message.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::mllp::ack::AckCode;
use crate::mllp::exchange::Dropped;
use crate::spool::Verdict;
use crate::spool::codes::CODES;

/// Is what was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Counts messages that were delivered.
    pub delivered: u64,
    /// Counts messages that were set aside because the receiver rejected them.
    pub rejected: u64,
    /// Counts messages that were set aside because the receiver failed on them again and again.
    pub failed: u64,
    /// Counts messages that an operator took out of the way.
    pub withdrawn: u64,
    /// Counts attempts that were not a message's first.
    pub retries: u64,
    /// Counts those of them that the receiver may have twice.
    pub in_doubt_resends: u64,
    /// Counts connections that were opened.
    pub connections: u64,
    /// Counts attempts to open one that failed.
    pub connect_failures: u64,
    /// Counts messages that came again although they were here.
    pub repeated: u64,
    /// Counts connections that ended because the receiver answers commits (MLLP Release 2).
    pub commits_answered: u64,
    /// Counts what the receiver sent and is no answer to the message that was under way.
    pub dropped: Dropped,
    /// Is how long the last answer took, from the last byte of its message.
    pub latency: Option<Duration>,
    answers: [u64; CODES.len()],
}

impl Counts {
    /// Yields the answers by their code.
    pub fn answers(&self) -> impl Iterator<Item = (AckCode, u64)> {
        CODES.into_iter().zip(self.answers)
    }

    /// Adds what another conversation counted; the latency is the newer one's.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.delivered, other.delivered),
            (&mut self.rejected, other.rejected),
            (&mut self.failed, other.failed),
            (&mut self.withdrawn, other.withdrawn),
            (&mut self.retries, other.retries),
            (&mut self.in_doubt_resends, other.in_doubt_resends),
            (&mut self.connections, other.connections),
            (&mut self.connect_failures, other.connect_failures),
            (&mut self.repeated, other.repeated),
            (&mut self.commits_answered, other.commits_answered),
        ];
        pairs.into_iter().chain(self.answers.iter_mut().zip(other.answers)).for_each(|(count, more)| add(count, more));
        self.latency = other.latency.or(self.latency);
        self.drop_answers(other.dropped);
    }

    pub(super) fn answer(&mut self, code: AckCode) {
        if let Some((_, count)) = CODES.iter().zip(&mut self.answers).find(|(listed, _)| **listed == code) {
            add(count, 1);
        }
    }

    pub(super) fn begin(&mut self, number: u32, is_in_doubt: bool) {
        add(&mut self.retries, u64::from(number > 1));
        add(&mut self.in_doubt_resends, u64::from(is_in_doubt));
    }

    pub(super) fn finish(&mut self, verdict: Verdict) {
        let count = match verdict {
            Verdict::Delivered | Verdict::DeliveredBefore => &mut self.delivered,
            Verdict::Rejected => &mut self.rejected,
            Verdict::Failed => &mut self.failed,
            Verdict::Withdrawn => &mut self.withdrawn,
        };
        add(count, 1);
    }

    pub(super) fn drop_answers(&mut self, dropped: Dropped) {
        add(&mut self.dropped.late, dropped.late);
        add(&mut self.dropped.foreign, dropped.foreign);
        add(&mut self.dropped.no_answer, dropped.no_answer);
        add(&mut self.dropped.anomalies, dropped.anomalies);
    }
}

fn add(count: &mut u64, more: u64) {
    *count = count.saturating_add(more);
}

/// Shares what was counted with whoever shows it; it goes on over a restart of the conversation.
#[derive(Default)]
pub struct Counter(Mutex<Counts>);

impl Counter {
    /// Returns what was counted so far.
    pub fn counts(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, counts: Counts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}
