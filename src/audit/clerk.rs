//! Records for one forward, service or link: knows what it is about, and puts what is seen into the words of the log.
//!
//! Never waits, and never keeps a byte of a message.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Account, Event, Heads, Record, Subject};
use crate::mllp::ack::AckCode;
use crate::mllp::observe::Observation;
use crate::mllp::trace::{Trace, TraceKey};

/// Records what happens on one forward, service or link.
#[derive(Clone)]
pub struct Clerk {
    account: Account,
    subject: Subject,
}

impl Account {
    /// Makes what records for something.
    pub fn clerk(&self, subject: Subject) -> Clerk {
        Clerk { account: self.clone(), subject }
    }
}

impl fmt::Debug for Clerk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clerk").field(&self.subject).finish()
    }
}

impl Clerk {
    /// Records for the same, with a peer.
    pub fn with_peer(&self, peer: &str) -> Self {
        Self { account: self.account.clone(), subject: Subject { peer: Some(Arc::from(peer)), ..self.subject.clone() } }
    }

    /// Returns what makes keyed hashes; none where there is no key.
    pub fn trace_key(&self) -> Option<&TraceKey> {
        self.account.trace_key()
    }

    /// Returns the log.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Takes note that a link with the peer begins.
    pub fn begin_heads(&self) {
        self.subject.peer.iter().for_each(|peer| self.account.begin_heads(peer));
    }

    /// Returns what the peer is told of the two sites' logs.
    pub fn heads(&self) -> Heads {
        self.subject.peer.as_deref().map(|peer| self.account.heads_for(peer)).unwrap_or_default()
    }

    /// Takes in what the peer tells of them.
    pub fn hear_heads(&self, heads: &Heads) {
        if let Some(peer) = self.subject.peer.as_deref() {
            self.account.hear_heads(peer, heads);
        }
    }

    /// Makes a record of something that happens now.
    pub fn now(&self, event: Event) -> Record {
        Record::new(SystemTime::now(), event, self.subject.clone())
    }

    /// Takes a record.
    pub fn record(&self, record: Record) {
        self.account.record(record);
    }

    /// Records what was observed, where that belongs into the log.
    pub fn observe(&self, observation: Observation) {
        match observation {
            Observation::Passed(trace) => {
                self.record(Record { message: Some(trace), ..self.now(Event::Passed) });
            }
            Observation::Answered { code, trace } => {
                self.record(Record { message: Some(trace), code: Some(code), ..self.now(answered(code)) });
            }
            _ => {}
        }
    }

    /// Records that a message passed that is here whole; returns what names it.
    pub fn passed(&self, payload: &[u8]) -> Option<Trace> {
        let trace = self.trace_key()?.trace(payload);
        self.observe(Observation::Passed(trace));
        Some(trace)
    }

    /// Records that a message was not taken.
    pub fn refused(&self, head: &[u8], bytes: u64, reason: &str) {
        let message = self.trace_key().map(|key| key.trace_head(head, bytes));
        self.record(Record { message, detail: reason.to_owned(), ..self.now(Event::Refused) });
    }

    /// Records that a connection ended before so many answers came.
    pub fn unanswered(&self, messages: u64, reason: &str) {
        self.record(Record { count: messages, detail: reason.to_owned(), ..self.now(Event::Unanswered) });
    }
}

/// Is what an answer says about a message.
pub(super) fn answered(code: AckCode) -> Event {
    if code.is_positive() { Event::Delivered } else { Event::Rejected }
}
