//! What is to be told of alarms, to whom, and in which order, until it is told. Pure.
//!
//! Bounded: while nobody can be told for very long, the oldest go, and that is counted. Never holds a byte of a message.

use std::collections::VecDeque;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize};

use super::super::facts::rfc3339;
use super::board::Turn;
use super::{AlarmFacts, Kind};

/// Limits the events that wait for one who is to be told: days without a network, half a MiB.
pub const EVENTS_WAITING_MAX: usize = 1000;

/// Is an alarm that started or cleared, as a webhook and a command are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Numbers the events of a site: one that comes twice has the same.
    pub id: u64,
    /// Names the site.
    pub site: String,
    /// Is `start` or `clear`.
    pub event: Course,
    /// Says what it is about.
    pub alarm: Kind,
    /// Says of what, such as `forward orders`.
    pub of: String,
    /// Says since when the alarm holds.
    #[serde(serialize_with = "rfc3339", deserialize_with = "time")]
    pub since: SystemTime,
    /// Says when it started or cleared.
    #[serde(serialize_with = "rfc3339", deserialize_with = "time")]
    pub at: SystemTime,
    /// Says why, in one line; of one that clears why it was.
    pub cause: String,
}

/// Says which way an alarm went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Course {
    /// It started.
    Start,
    /// It cleared.
    Clear,
}

impl Course {
    /// Returns the word, as the JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Clear => "clear",
        }
    }
}

/// Is what waits to be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct News {
    last: u64,
    webhook: VecDeque<Event>,
    command: VecDeque<Event>,
}

/// Says who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teller {
    /// The webhook.
    Webhook,
    /// The command.
    Command,
}

impl News {
    /// Makes the next event.
    pub(super) fn event(&mut self, site: &str, turn: Turn) -> Event {
        self.last = self.last.saturating_add(1);
        let AlarmFacts { alarm, of, since, cause } = turn.alarm;
        let event = if turn.starts { Course::Start } else { Course::Clear };
        Event { id: self.last, site: site.to_owned(), event, alarm, of, since, at: turn.at, cause }
    }

    fn of(&mut self, teller: Teller) -> &mut VecDeque<Event> {
        match teller {
            Teller::Webhook => &mut self.webhook,
            Teller::Command => &mut self.command,
        }
    }

    /// Has an event wait for one who is to be told; tells whether the oldest one had to go for it.
    pub fn push(&mut self, teller: Teller, event: Event) -> bool {
        let waiting = self.of(teller);
        waiting.push_back(event);
        let is_full = waiting.len() > EVENTS_WAITING_MAX;
        if is_full {
            waiting.pop_front();
        }
        is_full
    }

    /// Returns the next to be told.
    pub fn next(&mut self, teller: Teller) -> Option<Event> {
        self.of(teller).front().cloned()
    }

    /// Forgets one that was told.
    pub fn told(&mut self, teller: Teller, id: u64) {
        self.of(teller).retain(|event| event.id != id);
    }

    /// Forgets all that one was to be told, who is not there any more.
    pub fn forget(&mut self, teller: Teller) {
        self.of(teller).clear();
    }

    /// Counts what waits.
    pub fn waiting(&self, teller: Teller) -> usize {
        match teller {
            Teller::Webhook => self.webhook.len(),
            Teller::Command => self.command.len(),
        }
    }
}

/// Reads a time as RFC 3339 writes it.
pub(super) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
}
