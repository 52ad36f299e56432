//! Alarms: what of a site somebody is to be told, once when it starts and once when it clears. Pure.
//!
//! Looks at the facts now and then, never at a clock. What is raised, what is to be told and what feeds are used to survive
//! a restart ([`Kept`]); nothing here tells anybody, writes a file, or holds a byte of a message.

mod board;
mod judge;
mod news;
mod silence;
mod windows;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::facts::{SiteFacts, rfc3339};
use crate::config::AlarmLimits;
use board::Board;
pub use judge::latency_limits;
pub use news::{Course, EVENTS_WAITING_MAX, Event, News, Teller};
use silence::Feed;
use windows::Windows;

/// Says what an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A forward or service is down.
    Down,
    /// A forward has had no message for longer than it should.
    Silent,
    /// A queue fills.
    QueueDepth,
    /// The oldest message of a queue waits.
    QueueAge,
    /// Too many answers are negative.
    NakRate,
    /// Answers take long.
    AckLatency,
    /// A peer has no session.
    NoSession,
    /// A certificate expires.
    Certificate,
    /// The disk of a spool fills.
    Disk,
    /// The audit log cannot be written, or is not what it was, here or at a peer.
    Audit,
    /// The audit log cannot be sent.
    Atna,
}

impl Kind {
    /// Returns the word, as the JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Silent => "silent",
            Self::QueueDepth => "queue_depth",
            Self::QueueAge => "queue_age",
            Self::NakRate => "nak_rate",
            Self::AckLatency => "ack_latency",
            Self::NoSession => "no_session",
            Self::Certificate => "certificate",
            Self::Disk => "disk",
            Self::Audit => "audit",
            Self::Atna => "atna",
        }
    }
}

/// Names one alarm: what it is about, and of what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    /// Is a forward, service, peer or queue, such as `forward orders`.
    of: String,
}

/// Says how something that is watched is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    /// It is beyond its limit, and why, in one line.
    Beyond(String),
    /// It is so near to its limit, or so little is known of it, that what was said of it stays.
    Between,
    /// Nothing tells how it is. Where it was seen not to work that stays; else all is well.
    Unknown,
    /// It is well within its limit.
    Within,
}

/// Is one thing that is watched.
#[derive(Debug, Clone)]
struct Condition {
    key: Key,
    level: Level,
    /// Says how long it must be so before it counts.
    hold: Duration,
    /// Tells that what is beyond its limit stays so until something shows that it is not, as of a receiver that is down.
    lasts: bool,
}

/// Is an alarm that is raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmFacts {
    /// Says what it is about.
    pub alarm: Kind,
    /// Says of what, such as `forward orders`.
    pub of: String,
    /// Says since when.
    #[serde(serialize_with = "rfc3339", deserialize_with = "news::time")]
    pub since: SystemTime,
    /// Says why, in one line.
    pub cause: String,
}

/// Is what survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    raised: Vec<AlarmFacts>,
    /// Is what of it stays until something shows that it is over, each with the cause that was seen last.
    lasting: Vec<AlarmFacts>,
    feeds: BTreeMap<String, Feed>,
    news: News,
}

/// Watches a site.
#[derive(Debug)]
pub struct Alarms {
    board: Board,
    feeds: BTreeMap<String, Feed>,
    windows: Windows,
    /// Is what is to be told yet.
    pub news: News,
    /// Is when the site started: silence before that says nothing.
    started: SystemTime,
}

impl Alarms {
    /// Goes on from what was kept.
    pub fn new(kept: Kept, started: SystemTime) -> Self {
        let Kept { raised, lasting, feeds, news } = kept;
        Self { board: Board::new(raised, lasting), feeds, windows: Windows::default(), news, started }
    }

    /// Looks at a site; returns what is to be told now, in order.
    pub fn handle_look(&mut self, facts: &SiteFacts, limits: &AlarmLimits, at: Instant, now: SystemTime) -> Vec<Event> {
        self.feeds.retain(|name, _| facts.forwards.iter().any(|forward| forward.name == *name));
        for forward in &facts.forwards {
            let feed = self.feeds.entry(forward.name.clone()).or_default();
            feed.handle_count(forward.messages_total, now);
        }
        self.windows.handle_look(facts, at);
        let conditions = judge::conditions(self, facts, limits, now);
        let turns = self.board.handle_look(&conditions, at, now);
        turns.into_iter().map(|turn| self.news.event(&facts.site, turn)).collect()
    }

    /// Lists what is raised.
    pub fn raised(&self) -> Vec<AlarmFacts> {
        self.board.raised()
    }

    /// Returns what is to survive a restart.
    pub fn kept(&self) -> Kept {
        let lasting = self.board.lasting();
        Kept { raised: self.raised(), lasting, feeds: self.feeds.clone(), news: self.news.clone() }
    }
}

#[cfg(test)]
mod tests;
