//! The outbox of a spool: what happened to its messages, written in the very transaction in which it happened.
//!
//! Never holds a byte of a message but its type where that is one: keyed hashes, and what people gave as reasons, sealed.
//! The audit reads it.

use std::time::SystemTime;

use rusqlite::{OptionalExtension as _, Row, params_from_iter};

use super::core::{Core, time_of};
use super::messages::Message;
use super::{SettledAs, database};
use crate::mllp::ack::AckCode;
use crate::mllp::trace::{Keyed, MessageType, Trace};
use crate::spool::codes::{CODES, VERDICTS, number_of, with_number};
use crate::spool::rows::{Cell, Table};
use crate::spool::seal::Kind;
use crate::spool::{Damage, Outcome, Sequence, SpoolError, Verdict};

/// Is the number of newest events that are kept whatever their age: a busy day of a large site.
pub(super) const EVENTS_KEPT_MIN: u64 = 1_000_000;
/// Bounds what is told of one message, and the moves of its queue among it: the latest.
const DECISIONS_MAX: i64 = 32;
/// Separates the operator's name from the reason in a sealed detail.
const SEPARATOR: char = '\u{1f}';

/// Says what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// A message was accepted.
    Accepted,
    /// Its outcome came.
    Settled,
    /// An operator set it aside.
    Parked,
    /// An operator had it sent again.
    Released,
    /// An operator gave it up.
    Discarded,
    /// An operator looked at its content.
    Viewed,
    /// An operator had it tried at once.
    Retried,
    /// An operator moved what is queued to another destination.
    Moved,
    /// An operator paused the forward.
    Paused,
    /// An operator let it go on.
    Resumed,
    /// An operator reconciled it with the far site.
    Reconciled,
    /// A queued message was found damaged: the feed stops at it until an operator decides.
    Damaged,
}

/// Lists them by the numbers under which they are stored, which never change.
const HAPPENINGS: [Happening; 12] = [
    Happening::Accepted,
    Happening::Settled,
    Happening::Parked,
    Happening::Released,
    Happening::Discarded,
    Happening::Viewed,
    Happening::Retried,
    Happening::Moved,
    Happening::Paused,
    Happening::Resumed,
    Happening::Reconciled,
    Happening::Damaged,
];

/// Is one event of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
    /// Numbers the event, from 1, without a gap.
    pub id: u64,
    /// Is the message; 0 where it is about the whole spool.
    pub sequence: Sequence,
    /// Says what happened.
    pub happening: Happening,
    /// Is when.
    pub at: SystemTime,
    /// Is the size of the payload, in bytes.
    pub bytes: u64,
    /// Is the outcome, of a settled message and of one that an operator took out of the way.
    pub verdict: Option<Verdict>,
    /// Is the code of the receiver's last answer to it.
    pub code: Option<AckCode>,
    /// Counts the attempts at it.
    pub attempts: u32,
    /// Counts those of them whose end is not known.
    pub in_doubt: u32,
    /// Names it, of an accepted message; one that an earlier version accepted has no name.
    pub trace: Option<Trace>,
    /// Names the operator.
    pub by: String,
    /// Is what the operator gave as reason, or what was found.
    pub reason: String,
    /// Says that somebody changed it without the key: nothing of it but its number is to be believed.
    pub is_changed: bool,
}

/// Is how a message ended, as an event tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) verdict: Verdict,
    code: AckCode,
    attempts: u32,
    in_doubt: u32,
}

impl Ending {
    /// Is that of an outcome that is kept.
    pub(super) fn of(kept: &SettledAs) -> Option<Self> {
        let SettledAs { attempts, in_doubt, .. } = *kept;
        Some(Self { verdict: kept.verdict?, code: kept.code.unwrap_or(AckCode::Absent), attempts, in_doubt })
    }
}

impl From<&Outcome> for Ending {
    fn from(outcome: &Outcome) -> Self {
        let Outcome { verdict, code, attempts, in_doubt, .. } = *outcome;
        Self { verdict, code, attempts, in_doubt }
    }
}

/// Is what is about to be written.
pub(super) struct Entry<'a> {
    pub(super) sequence: Sequence,
    pub(super) happening: Happening,
    pub(super) bytes: u64,
    pub(super) ended: Option<Ending>,
    pub(super) trace: Option<Trace>,
    pub(super) detail: Option<(&'a str, &'a str)>,
}

impl Happening {
    /// Says what somebody did, in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Settled => "settled",
            Self::Parked => "parked",
            Self::Released => "released",
            Self::Discarded => "discarded",
            Self::Viewed => "viewed",
            Self::Retried => "retried",
            Self::Moved => "moved",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Reconciled => "reconciled",
            Self::Damaged => "found damaged",
        }
    }
}

impl OutboxEvent {
    /// Is one that somebody changed.
    fn changed(id: u64, sequence: Sequence) -> Self {
        Self {
            id,
            sequence,
            happening: Happening::Damaged,
            at: SystemTime::UNIX_EPOCH,
            bytes: 0,
            verdict: None,
            code: None,
            attempts: 0,
            in_doubt: 0,
            trace: None,
            by: String::new(),
            reason: String::new(),
            is_changed: true,
        }
    }
}

impl<'a> Entry<'a> {
    /// Is what an operator did.
    pub(super) fn by(operator: &'a str, reason: &'a str, happening: Happening, sequence: Sequence) -> Self {
        Self { sequence, happening, bytes: 0, ended: None, trace: None, detail: Some((operator, reason)) }
    }
}

/// Asks for events.
macro_rules! select_events {
    ($condition:literal) => {
        concat!(
            "SELECT id, sequence, event, at, bytes, verdict, code, attempts, in_doubt, payload, control_id, type,
                    detail, tag
             FROM outbox WHERE ",
            $condition
        )
    };
}

impl Core {
    /// Writes an event in the present transaction.
    pub(super) fn note(&mut self, entry: &Entry<'_>, at: i64) -> Result<(), SpoolError> {
        let id = self.live.head.outbox_last + 1;
        let detail = match entry.detail {
            Some((by, reason)) => {
                let text = format!("{by}{SEPARATOR}{reason}");
                Some(self.keys.meta.seal(&self.place(Kind::Event, [id, entry.sequence, 0, 0]), text.as_bytes())?)
            }
            None => None,
        };
        let number = |number: Option<i64>| number.map_or(Cell::Absent, Cell::Number);
        let (ended, trace) = (entry.ended.as_ref(), entry.trace.as_ref());
        let row = [
            Cell::Number(database::stored(id)),
            Cell::Number(database::stored(entry.sequence)),
            Cell::Number(number_of(&HAPPENINGS, &entry.happening)),
            Cell::Number(at),
            Cell::Number(database::stored(entry.bytes)),
            number(ended.map(|ended| number_of(&VERDICTS, &ended.verdict))),
            number(ended.map(|ended| number_of(&CODES, &ended.code))),
            number(ended.map(|ended| ended.attempts.into())),
            number(ended.map(|ended| ended.in_doubt.into())),
            trace.and_then(|trace| trace.payload.as_ref()).map_or(Cell::Absent, |payload| Cell::Bytes(&payload.0)),
            trace.and_then(|trace| trace.control_id.as_ref()).map_or(Cell::Absent, |id| Cell::Bytes(&id.0)),
            // Where it is none it is empty, so that what has a name is told from what earlier versions wrote.
            trace.map_or(Cell::Absent, |trace| Cell::Text(trace.message_type.as_ref().map_or("", MessageType::as_str))),
            detail.as_deref().map_or(Cell::Absent, Cell::Bytes),
        ];
        let tag = self.keys.rows.tag(Table::Outbox, row);
        let sql = "INSERT INTO outbox (id, sequence, event, at, bytes, verdict, code, attempts, in_doubt, payload,
                                       control_id, type, detail, tag)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
        let values = params_from_iter(row.into_iter().chain([Cell::Bytes(&tag)]));
        self.execute("note what happened", sql, values)?;
        if let Some(tagged) = self.live.head.tagged.as_mut().filter(|_| detail.is_some()) {
            tagged.decisions += 1;
        }
        self.live.head.outbox_last = id;
        self.live.head.outbox_events += 1;
        Ok(())
    }

    /// Returns the last event that there ever was.
    pub(super) fn outbox_last(&self) -> u64 {
        self.live.head.outbox_last
    }

    /// Reads the events after `after`, at most `events_max`.
    pub(super) fn read_outbox(&mut self, after: u64, events_max: usize) -> Result<Vec<OutboxEvent>, SpoolError> {
        let limit = i64::try_from(events_max).unwrap_or(i64::MAX);
        self.events(select_events!("id > ?1 ORDER BY id LIMIT ?2"), [database::stored(after), limit])
    }

    /// Reads what operators did with a message, and the latest moves of its queue since it was accepted.
    pub(super) fn decisions(&mut self, message: &Message) -> Result<Vec<OutboxEvent>, SpoolError> {
        let sql = select_events!("sequence = ?1 AND detail IS NOT NULL ORDER BY id DESC LIMIT ?2");
        let mut found = self.events(sql, [database::stored(message.sequence), DECISIONS_MAX])?;
        let ended = |event: &OutboxEvent| !message.state.is_held() && event.at > time_of(message.settled);
        let moves = self.events(sql, [0, DECISIONS_MAX])?;
        let moves = moves.into_iter().filter(|event| {
            let is_move = event.happening == Happening::Moved && self.was_moved_by(event.id, message);
            is_move && event.at >= time_of(message.accepted) && !ended(event)
        });
        found.extend(moves);
        found.sort_by_key(|event| event.id);
        Ok(found)
    }

    fn events(&mut self, sql: &str, values: [i64; 2]) -> Result<Vec<OutboxEvent>, SpoolError> {
        let path = self.path.clone();
        let failed = |source| database::failure("read the outbox", &path, source);
        let mut events = Vec::new();
        let rows_key = &self.keys.rows;
        let untagged_through = self.live.head.tagged.map_or(u64::MAX, |tagged| tagged.events_after);
        {
            let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
            let rows = statement.query_map(values, |row| {
                let id = database::read(row.get(0)?);
                let cells = (0..13).map(|at| database::cell(row, at)).collect::<rusqlite::Result<Vec<_>>>()?;
                let is_whole = match database::tag(row, 13)? {
                    Some(tag) => tag == rows_key.tag(Table::Outbox, cells),
                    None => id <= untagged_through,
                };
                if !is_whole {
                    return Ok((OutboxEvent::changed(id, database::read(row.get(1)?)), None));
                }
                let event = OutboxEvent {
                    id,
                    sequence: database::read(row.get(1)?),
                    happening: with_number(&HAPPENINGS, row.get(2)?).unwrap_or(Happening::Accepted),
                    at: time_of(row.get(3)?),
                    bytes: database::read(row.get(4)?),
                    verdict: row.get::<_, Option<i64>>(5)?.and_then(|number| with_number(&VERDICTS, number)),
                    code: row.get::<_, Option<i64>>(6)?.and_then(|number| with_number(&CODES, number)),
                    attempts: row.get::<_, Option<u32>>(7)?.unwrap_or_default(),
                    in_doubt: row.get::<_, Option<u32>>(8)?.unwrap_or_default(),
                    trace: trace_of(row)?,
                    by: String::new(),
                    reason: String::new(),
                    is_changed: false,
                };
                Ok((event, row.get::<_, Option<Vec<u8>>>(12)?))
            });
            for row in rows.map_err(failed)? {
                events.push(row.map_err(failed)?);
            }
        }
        let events: Vec<_> = events.into_iter().map(|(event, detail)| self.with_detail(event, detail)).collect();
        for event in events.iter().filter(|event| event.is_changed) {
            self.tell_changed("event", event.id, &Damage::Tampered("row in the outbox"));
        }
        Ok(events)
    }

    fn with_detail(&self, mut event: OutboxEvent, detail: Option<Vec<u8>>) -> OutboxEvent {
        let Some(detail) = detail else {
            return event;
        };
        let place = self.place(Kind::Event, [event.id, event.sequence, 0, 0]);
        let Some(text) = self.keys.meta.open(&place, &detail).and_then(|text| String::from_utf8(text).ok()) else {
            return OutboxEvent::changed(event.id, event.sequence);
        };
        let (by, reason) = text.split_once(SEPARATOR).unwrap_or((&text, ""));
        (event.by, event.reason) = (by.to_owned(), reason.to_owned());
        event
    }

    /// Removes the oldest events, at most `events_max`: those settled before `before` beyond the newest million.
    pub(super) fn prune_outbox(&mut self, before: i64, events_max: u64) -> Result<u64, SpoolError> {
        let head = &self.live.head;
        let Some(spare) = head.outbox_events.checked_sub(EVENTS_KEPT_MIN).filter(|spare| *spare > 0) else {
            return Ok(0);
        };
        let first = head.outbox_last - head.outbox_events + 1;
        let last = first + spare.min(events_max) - 1;
        let sql = "SELECT at FROM outbox WHERE id = ?1";
        let path = self.path.clone();
        let failed = |source| database::failure("read the outbox", &path, source);
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let at: Option<i64> =
            statement.query_row([database::stored(last)], |row| row.get(0)).optional().map_err(failed)?;
        drop(statement);
        if at.is_none_or(|at| at >= before) {
            return Ok(0);
        }
        // By number: the index of all decisions would be read whole for each step.
        let sql = "SELECT count(*) FROM outbox NOT INDEXED WHERE id <= ?1 AND detail IS NOT NULL";
        let decisions = self.connection.query_row(sql, [database::stored(last)], |row| row.get(0));
        let decisions =
            database::read(decisions.map_err(|source| database::failure("read the outbox", &path, source))?);
        self.execute("prune the outbox", "DELETE FROM outbox WHERE id <= ?1", [database::stored(last)])?;
        if let Some(tagged) = &mut self.live.head.tagged {
            tagged.decisions = tagged.decisions.saturating_sub(decisions);
        }
        let removed = last - first + 1;
        self.live.head.outbox_events -= removed;
        Ok(removed)
    }
}

/// Reads what names a message.
fn trace_of(row: &Row<'_>) -> rusqlite::Result<Option<Trace>> {
    let Some(message_type) = row.get::<_, Option<String>>(11)? else { return Ok(None) };
    Ok(Some(Trace {
        bytes: database::read(row.get(4)?),
        message_type: MessageType::of(message_type.as_bytes()),
        control_id: row.get::<_, Option<[u8; 32]>>(10)?.map(Keyed),
        payload: row.get::<_, Option<[u8; 32]>>(9)?.map(Keyed),
    }))
}
