//! What a stored forward's queue knows of itself, as plain values. Pure.
//!
//! Never holds a byte of a message: counts, times, causes. The serialized form is part of `/healthz`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::facts::{rfc3339, rfc3339_maybe, seconds_maybe};

/// Holds what the queue of a stored forward knows of itself. What is not known, as before its spool is open, is none.
#[derive(Debug, Clone, Serialize)]
pub struct QueueFacts {
    /// Says whether messages go on to the receiver.
    #[serde(rename = "queue")]
    pub state: Queue,
    /// Is what keeps the first message for now and passes by itself, since when.
    #[serde(skip)]
    pub trouble: Option<(SystemTime, String)>,
    /// Says since when it is what one look alone shows, as far as that was seen.
    #[serde(skip)]
    pub onsets: Onsets,
    /// Counts the messages that wait.
    #[serde(rename = "queue_depth")]
    pub depth: Option<u64>,
    /// Limits them and those that are set aside, together.
    #[serde(rename = "queue_depth_max")]
    pub depth_max: u64,
    /// Counts the bytes of their payloads.
    #[serde(rename = "queue_bytes")]
    pub bytes: Option<u64>,
    /// Limits these and those of the messages that are set aside, together.
    #[serde(rename = "queue_bytes_max")]
    pub bytes_max: u64,
    /// Is how long the oldest of them has waited.
    #[serde(rename = "oldest_queued_age_seconds", serialize_with = "seconds_maybe")]
    pub oldest_age: Option<Duration>,
    /// Counts the messages that are set aside.
    #[serde(rename = "parked_messages")]
    pub parked: Option<u64>,
    /// Counts the bytes of their payloads.
    pub parked_bytes: Option<u64>,
    /// Counts the messages that were ever taken in.
    pub accepted_total: Option<u64>,
    /// Counts those of them that are settled.
    pub settled_total: Option<u64>,
    /// Counts the messages that were not taken since the start, by reason.
    #[serde(rename = "refused_total")]
    pub refused: BTreeMap<&'static str, u64>,
    /// Counts the messages settled since the start that the receiver may have twice, each once; the attempts are counted
    /// where the receiver is.
    pub in_doubt_total: Option<u64>,
    /// Counts the receiver's answers by their code (MSA-1), where this site delivers (`to:`); else its service does.
    pub receiver_acks: BTreeMap<&'static str, u64>,
    /// Counts what the receiver said and is no answer to the message that was sent, by kind, where this site delivers.
    #[serde(rename = "dropped_answers_total")]
    pub dropped_answers: BTreeMap<&'static str, u64>,
    /// Is the time since the receiver last settled a message, since the start.
    #[serde(rename = "last_settled_age_seconds", serialize_with = "seconds_maybe")]
    pub last_settled_age: Option<Duration>,
    /// Is how many messages are taken in, a second.
    pub accepted_per_second: Option<f64>,
    /// Is how many are settled, a second.
    pub settled_per_second: Option<f64>,
    /// Is how long it takes until none waits any more, if it goes on so.
    #[serde(rename = "drained_in_seconds", serialize_with = "seconds_maybe")]
    pub drained_in: Option<Duration>,
    /// Says since when that disk is full, so that no message is taken.
    #[serde(serialize_with = "rfc3339_maybe")]
    pub disk_full_since: Option<SystemTime>,
    /// Counts the bytes that are free on the disk of the spool.
    pub disk_free_bytes: Option<u64>,
    /// Is how long it takes until that disk is full, if it goes on so.
    #[serde(rename = "disk_full_in_seconds", serialize_with = "seconds_maybe")]
    pub disk_full_in: Option<Duration>,
    /// Counts the copies of delivered messages that are kept on it (`keep_delivered`).
    #[serde(rename = "delivered_kept")]
    pub delivered: Option<u64>,
    /// Counts the bytes of their payloads.
    pub delivered_kept_bytes: Option<u64>,
    /// Counts those that were shredded before their time, since the spool was opened: that disk was short of room.
    #[serde(rename = "delivered_shredded_early_total")]
    pub shredded_early: Option<u64>,
}

/// Is the share of a limit from which somebody should look, in percent.
const FILLING_PERCENT: u64 = 80;
/// Is the time to a full disk from which somebody should look, where it has less room than the queue may take: a night.
/// It comes from the pace of a quarter of an hour, which a program's long burst still changes.
const DISK_FULL_SOON: Duration = Duration::from_secs(12 * 3600);

/// Says since when a queue has been so in each look, without one between in which it was not; none: it is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Onsets {
    /// Its spool is being opened.
    pub opening: Option<SystemTime>,
    /// It is paused.
    pub paused: Option<SystemTime>,
    /// It has four fifths of what it may have.
    pub filling: Option<SystemTime>,
    /// It has as much as it may.
    pub full: Option<SystemTime>,
    /// Its disk soon is full.
    pub disk_full_soon: Option<SystemTime>,
    /// It has messages that are set aside.
    pub parked: Option<SystemTime>,
}

impl Onsets {
    /// Takes the next look at the queue.
    #[must_use]
    pub fn followed(self, queue: &QueueFacts, now: SystemTime) -> Self {
        let onset = |before: Option<SystemTime>, is_so: bool| is_so.then(|| before.unwrap_or(now));
        Self {
            opening: onset(self.opening, queue.state == Queue::Opening),
            paused: onset(self.paused, queue.state == Queue::Paused),
            filling: onset(self.filling, queue.is_filling()),
            full: onset(self.full, queue.is_full()),
            disk_full_soon: onset(self.disk_full_soon, queue.disk_full_soon().is_some()),
            parked: onset(self.parked, queue.parked.is_some_and(|parked| parked > 0)),
        }
    }
}

impl QueueFacts {
    /// Says how full it is by each limit, in percent. What is set aside fills it as well.
    pub(super) fn fill_percent(&self) -> (u64, u64) {
        let known = |count: Option<u64>| count.unwrap_or_default();
        let percent = |count: u64, max: u64| count.saturating_mul(100) / max.max(1);
        let messages = known(self.depth).saturating_add(known(self.parked));
        let bytes = known(self.bytes).saturating_add(known(self.parked_bytes));
        (percent(messages, self.depth_max), percent(bytes, self.bytes_max))
    }

    fn has_percent(&self, least: u64) -> bool {
        let (messages, bytes) = self.fill_percent();
        messages.max(bytes) >= least
    }

    /// Tells whether somebody should look, for it soon is full.
    pub(super) fn is_filling(&self) -> bool {
        self.has_percent(FILLING_PERCENT)
    }

    /// Tells whether it takes nothing more.
    pub(super) fn is_full(&self) -> bool {
        self.has_percent(100)
    }

    /// Says how long it takes until its disk is full, where somebody should look.
    pub(super) fn disk_full_soon(&self) -> Option<Duration> {
        self.disk_full_in.filter(|left| self.is_short_of_disk() && *left <= DISK_FULL_SOON)
    }

    /// Tells whether its disk has less room than it may take: as long as there is, the pace of other programs is no alarm.
    pub(super) fn is_short_of_disk(&self) -> bool {
        self.disk_free_bytes.is_none_or(|free| free < self.bytes_max.saturating_sub(self.bytes.unwrap_or_default()))
    }
}

/// Says whether the messages of a queue go on to the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Queue {
    /// Its spool is being opened, and takes nothing yet.
    Opening,
    /// They do, as far as the way to it is open.
    Flowing,
    /// An operator has paused it.
    Paused,
    /// It is held at a message, until an operator decides.
    Held {
        /// Says since when.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
        /// Is the message.
        sequence: u64,
        /// Says why, in one line.
        cause: String,
        /// Says what ends it, as commands.
        decide: String,
    },
    /// The two sites tell different stories: one was restored from a backup.
    Diverged {
        /// Says since when.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
        /// Says how they differ, in one line.
        cause: String,
    },
    /// The spool takes and gives nothing.
    Failed {
        /// Says since when.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
        /// Says why, in one line.
        cause: String,
    },
}

impl Queue {
    /// Lists the words of all states.
    pub const WORDS: [&str; 6] = ["opening", "flowing", "paused", "held", "diverged", "failed"];

    /// Returns the word, as the JSON has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Flowing => "flowing",
            Self::Paused => "paused",
            Self::Held { .. } => "held",
            Self::Diverged { .. } => "diverged",
            Self::Failed { .. } => "failed",
        }
    }
}

/// Is a peer's queue that is held at a receiver of this site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldQueue {
    /// Names the peer.
    pub peer: String,
    /// Says since when it is held.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// Is the message that it is held at, as the peer numbers it.
    pub sequence: u64,
    /// Says why, in one line.
    pub cause: String,
}

/// Holds what is known of a queue that holds messages, or whose messages are not known, and whose forward is not named any more as one that stores.
#[derive(Debug, Clone, Serialize)]
pub struct OrphanFacts {
    /// Names the forward that it was of.
    pub name: String,
    /// Says since when this is seen.
    #[serde(skip)]
    pub since: SystemTime,
    /// Counts the messages that wait.
    #[serde(rename = "queue_depth")]
    pub depth: Option<u64>,
    /// Counts the bytes of their payloads.
    #[serde(rename = "queue_bytes")]
    pub bytes: Option<u64>,
    /// Counts the messages that are set aside.
    #[serde(rename = "parked_messages")]
    pub parked: Option<u64>,
    /// Is how long the oldest has waited.
    #[serde(rename = "oldest_queued_age_seconds", serialize_with = "seconds_maybe")]
    pub oldest_age: Option<Duration>,
    /// Says why it cannot be looked into, or what is wrong in it.
    #[serde(skip)]
    pub fault: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::super::fixture::stored;
    use super::*;

    #[test]
    fn an_onset_is_that_of_the_first_look_of_those_that_agree() {
        let queue = |depth, parked, state| QueueFacts {
            depth: Some(depth),
            parked: Some(parked),
            state,
            ..stored().queue.unwrap()
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let seen = Onsets::default().followed(&queue(799, 0, Queue::Flowing), at(1));
        assert_eq!(seen, Onsets::default());
        let seen = seen.followed(&queue(800, 0, Queue::Flowing), at(2)).followed(&queue(990, 0, Queue::Paused), at(3));
        assert_eq!((seen.filling, seen.full, seen.paused), (Some(at(2)), None, Some(at(3))));
        let seen = seen.followed(&queue(990, 10, Queue::Paused), at(4)).followed(&queue(999, 1, Queue::Flowing), at(5));
        assert_eq!((seen.filling, seen.full, seen.paused, seen.parked), (Some(at(2)), Some(at(4)), None, Some(at(4))));
        let short =
            QueueFacts { disk_full_in: Some(DISK_FULL_SOON), disk_free_bytes: Some(0), ..queue(3, 0, Queue::Flowing) };
        let seen = seen.followed(&short, at(6));
        assert_eq!(seen, Onsets { disk_full_soon: Some(at(6)), ..Onsets::default() });
    }
}
