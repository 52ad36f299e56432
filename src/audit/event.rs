//! What the audit log says: who did what, when, to which message; as a line of JSON. Pure.
//!
//! Never holds a byte of a message but its type where that is one: sizes, codes, keyed hashes. Never what an operator gave
//! as reason: that may name a patient, and stays sealed with the message.

mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize, Serializer};

pub use self::text::{hash_text, time_text};

use self::text::{HashText, time_shown};
use super::chain::Chain;
use crate::mllp::ack::AckCode;
use crate::mllp::trace::{Keyed, Trace};

/// Bounds a detail, in characters: causes and lists of names are cut there.
const DETAIL_CHARS_MAX: usize = 400;

/// Declares the events with their names.
macro_rules! events {
    ($($(#[$doc:meta])* $event:ident = $name:literal,)*) => {
        /// Says what happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $event,)*
        }

        /// Lists the names of all events.
        pub const EVENT_NAMES: &[&str] = &[$($name,)*];

        impl Event {
            /// Returns the name in the log.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$event => $name,)*
                }
            }
        }
    };
}

events! {
    /// The site started.
    Started = "started",
    /// The site stopped as it was told to.
    Stopped = "stopped",
    /// A configuration was taken up.
    Configured = "configured",
    /// A configuration was not taken up.
    ConfigRefused = "config-refused",
    /// This site's or a peer's key is another one than before.
    KeyChanged = "key-changed",
    /// A link came up.
    LinkUp = "link-up",
    /// A link went down.
    LinkDown = "link-down",
    /// Stored: a message was kept and acknowledged.
    Accepted = "accepted",
    /// Transparent: a message passed on to the receiver.
    Passed = "passed",
    /// The receiver accepted a message.
    Delivered = "delivered",
    /// The receiver rejected a message, or failed on it as often as it may.
    Rejected = "rejected",
    /// Transparent: connections ended before answers came; the receiver may have the messages or not.
    Unanswered = "unanswered",
    /// A message was not taken.
    Refused = "refused",
    /// Stored: a message was taken out of the way before it was delivered.
    Withdrawn = "withdrawn",
    /// An operator set a message aside.
    Parked = "parked",
    /// An operator had a message sent again.
    Released = "released",
    /// An operator gave a message up.
    Discarded = "discarded",
    /// An operator looked at a message's content.
    Viewed = "viewed",
    /// An operator had a message tried at once.
    Retried = "retried",
    /// An operator moved what is queued.
    Moved = "moved",
    /// An operator paused a forward.
    Paused = "paused",
    /// An operator let a forward go on.
    Resumed = "resumed",
    /// An operator reconciled a queue with the far site.
    Reconciled = "reconciled",
    /// An operator gave up a whole queue.
    Forgotten = "forgotten",
    /// What an operator asked for was not done.
    NotDone = "not-done",
    /// A queued message was found damaged.
    Damaged = "damaged",
    /// Something happened that was not recorded.
    Lost = "lost",
    /// A file of the log begins.
    Segment = "segment",
    /// Old entries are removed.
    Pruned = "pruned",
    /// The log was found shorter, or broken, at a start, or by what a peer was told of it.
    Broken = "broken",
    /// The log of a peer is shorter than that told before, or another one.
    PeerLog = "peer-log",
}

/// Says what an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Names the forward.
    pub forward: Option<Arc<str>>,
    /// Names the service.
    pub service: Option<Arc<str>>,
    /// Names the peer.
    pub peer: Option<Arc<str>>,
}

/// Is how far what is written elsewhere as well was recorded: what comes behind it is recorded at the next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Identifies where it is written: a spool, an inbox.
    pub source: Arc<str>,
    /// Is how far.
    pub through: u64,
}

/// Is one event before it is written.
#[derive(Debug, Clone)]
pub struct Record {
    /// Is when.
    pub at: SystemTime,
    /// Is what.
    pub event: Event,
    /// Is what it is about.
    pub subject: Subject,
    /// Names the message.
    pub message: Option<Trace>,
    /// Is the message's number in its queue; 0: it has none.
    pub sequence: u64,
    /// Is the code of the answer.
    pub code: Option<AckCode>,
    /// Counts the attempts at it; 0: not told.
    pub attempts: u32,
    /// Counts those of them whose end is not known.
    pub in_doubt: u32,
    /// Counts what it is about, where that is more than one; 0: it is one.
    pub count: u64,
    /// Names the operator.
    pub by: String,
    /// Says more, in words of this site's own.
    pub detail: String,
    /// Is how far this is of what is written elsewhere.
    pub position: Option<Position>,
}

impl Record {
    /// Makes a record of something that happens now.
    pub fn new(at: SystemTime, event: Event, subject: Subject) -> Self {
        Self {
            at,
            event,
            subject,
            message: None,
            sequence: 0,
            code: None,
            attempts: 0,
            in_doubt: 0,
            count: 0,
            by: String::new(),
            detail: String::new(),
            position: None,
        }
    }
}

/// Is what is known at an entry beside it: repeated where a file begins, so that older ones need not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Is how far each source was recorded.
    pub positions: BTreeMap<String, u64>,
    /// Are the public keys by name, this site's own by `""`.
    pub keys: BTreeMap<String, String>,
    /// Is the last entry that was removed because it was old.
    pub pruned_through: u64,
}

impl Standing {
    /// Takes in an entry.
    pub fn handle_entry(&mut self, entry: &Entry) {
        if let Some(standing) = &entry.standing {
            self.clone_from(standing);
        }
        if let (Some(source), Some(through)) = (&entry.source, entry.position) {
            self.note(source, through);
        }
        if let Some(keys) = &entry.keys {
            self.keys.clone_from(keys);
        }
        self.pruned_through = self.pruned_through.max(entry.through.unwrap_or_default());
    }

    fn note(&mut self, source: &str, through: u64) {
        match self.positions.get_mut(source) {
            Some(known) => *known = through,
            None => drop(self.positions.insert(source.to_owned(), through)),
        }
    }

    /// Takes in a record that is written.
    pub fn handle_record(&mut self, record: &Record) {
        if let Some(Position { source, through }) = &record.position {
            self.note(source, *through);
        }
    }
}

/// Is what only entries about the log itself, or keys, have.
#[derive(Debug, Default, Clone)]
pub struct More<'a> {
    /// Is the hash before the first entry of a file.
    pub from: Option<Chain>,
    /// Is what is known there.
    pub standing: Option<&'a Standing>,
    /// Is the last entry that is removed.
    pub through: Option<u64>,
    /// Are the public keys from now on.
    pub keys: Option<&'a BTreeMap<String, String>>,
}

/// Is an entry as it is written.
#[derive(Serialize)]
struct Written<'a> {
    n: u64,
    #[serde(serialize_with = "time")]
    at: SystemTime,
    event: &'static str,
    site: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    message_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hash")]
    control_id: Option<Keyed>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hash")]
    payload: Option<Keyed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "is_zero_u32")]
    attempts: u32,
    #[serde(skip_serializing_if = "is_zero_u32")]
    in_doubt: u32,
    #[serde(skip_serializing_if = "is_zero")]
    count: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    operator: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    through: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<&'a Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

/// Is an entry as it is read; what an event does not have is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are those of the log: README, Audit log")]
pub struct Entry {
    pub n: u64,
    pub at: String,
    pub event: String,
    pub site: String,
    pub forward: Option<String>,
    pub service: Option<String>,
    pub peer: Option<String>,
    pub sequence: Option<u64>,
    pub bytes: Option<u64>,
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    pub control_id: Option<String>,
    pub payload: Option<String>,
    pub code: Option<String>,
    pub attempts: Option<u32>,
    pub in_doubt: Option<u32>,
    pub count: Option<u64>,
    pub operator: Option<String>,
    pub detail: Option<String>,
    pub source: Option<String>,
    pub position: Option<u64>,
    pub through: Option<u64>,
    pub keys: Option<BTreeMap<String, String>>,
    pub standing: Option<Standing>,
    pub from: Option<String>,
}

/// Appends a record as an object of JSON.
pub fn object(n: u64, site: &str, record: &Record, more: &More<'_>, out: &mut Vec<u8>) {
    let message = record.message.as_ref();
    let message_type = message.and_then(|message| message.message_type.as_ref());
    let written = Written {
        n,
        at: record.at,
        event: record.event.name(),
        site,
        forward: record.subject.forward.as_deref(),
        service: record.subject.service.as_deref(),
        peer: record.subject.peer.as_deref(),
        sequence: record.sequence,
        bytes: message.map(|message| message.bytes).filter(|bytes| *bytes > 0),
        message_type: message_type.map(|message_type| message_type.as_str()),
        control_id: message.and_then(|message| message.control_id),
        payload: message.and_then(|message| message.payload),
        code: record.code.map(AckCode::code),
        attempts: record.attempts,
        in_doubt: record.in_doubt,
        count: record.count,
        operator: &record.by,
        detail: one_line(&record.detail),
        source: record.position.as_ref().map(|position| &*position.source),
        position: record.position.as_ref().map(|position| position.through),
        through: more.through,
        keys: more.keys,
        standing: more.standing,
        from: more.from.map(|chain| chain.to_string()),
    };
    let start = out.len();
    if serde_json::to_writer(&mut *out, &written).is_err() {
        // Nothing of it fails to be written as JSON.
        out.truncate(start);
        out.extend_from_slice(b"{}");
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DETAIL_CHARS_MAX).collect()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

fn hash<S: Serializer>(keyed: &Option<Keyed>, serializer: S) -> Result<S::Ok, S::Error> {
    match keyed {
        Some(keyed) => serializer.serialize_str(HashText::new(keyed).as_str()),
        None => serializer.serialize_none(),
    }
}

fn time<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time_shown(*at))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let key = crate::mllp::trace::TraceKey::new(&[7; 32]);
        let subject = Subject { forward: Some("orders".into()), peer: Some("city-lab".into()), ..Subject::default() };
        let at = UNIX_EPOCH + Duration::from_millis(1_767_225_600_123);
        let record = Record {
            message: Some(key.trace(b"MSH|^~\\&|A|B|C|D|20260101||ORU^R01|ID-1|P|2.5\r")),
            sequence: 12,
            code: Some(AckCode::ApplicationAccept),
            attempts: 2,
            by: "uid 0".to_owned(),
            detail: "two\nlines".to_owned(),
            position: Some(Position { source: "spool:ab".into(), through: 40 }),
            ..Record::new(at, Event::Delivered, subject)
        };
        let mut text = Vec::new();
        object(3, "hospital", &record, &More::default(), &mut text);
        let entry: Entry = serde_json::from_slice(&text).unwrap();
        assert_eq!((entry.n, entry.event.as_str(), entry.at.as_str()), (3, "delivered", "2026-01-01T00:00:00.123Z"));
        assert_eq!((entry.message_type.as_deref(), entry.sequence, entry.bytes), (Some("ORU^R01"), Some(12), Some(46)));
        assert_eq!(entry.control_id, key.control_id(b"ID-1").as_ref().map(hash_text));
        assert_eq!((entry.detail.as_deref(), entry.operator.as_deref()), (Some("two lines"), Some("uid 0")));
        assert_eq!((entry.in_doubt, entry.service.clone(), entry.keys.clone()), (None, None, None));
        let mut standing = Standing::default();
        standing.handle_entry(&entry);
        assert_eq!(standing.positions.get("spool:ab"), Some(&40));
    }

    #[test]
    fn no_event_has_the_name_of_another() {
        let mut names = EVENT_NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EVENT_NAMES.len());
    }
}
