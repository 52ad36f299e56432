//! Messages of a near spool: taken in, read for sending, opened.
//!
//! Never holds a payload beyond the call that brings or asks for it.

use rusqlite::{OptionalExtension as _, Row, params};

use super::core::{Core, day_of, now, time_of};
use super::database::{self, read, stored};
use super::outbox::{Entry, Happening};
use super::{DamagedMessage, Destination};
use crate::mllp::trace::Trace;
use crate::spool::large::LargeFile;
use crate::spool::queue::State;
use crate::spool::rows::Tag;
use crate::spool::seal::{Kind, Place};
use crate::spool::{Damage, Digest, Epoch, Fingerprint, Limit, Queued, Refusal, Sequence, SpoolError};

/// Ends the plain text of a payload that stands in the database.
const INLINE: u8 = 0;
/// Is said where the row of a message's destination was removed.
pub(super) const NO_DESTINATION: Damage = Damage::Missing("destination of a message");
/// Ends the plain text that names the file of a large payload.
const IN_FILE: u8 = 1;

/// Is the content of a message, here or in its file.
pub(super) enum Content {
    /// The payload.
    Here(Vec<u8>),
    /// What finds it.
    InFile(LargeFile),
}

/// Is a message on its way into the spool.
pub(super) struct Arrival {
    pub(super) content: Content,
    pub(super) bytes: u64,
    pub(super) payload: Fingerprint,
    pub(super) trace: Trace,
}

/// Is a message as read for sending, its large payload not yet.
pub(super) struct Found {
    pub(super) sequence: Sequence,
    pub(super) epoch: Epoch,
    pub(super) digest: Digest,
    /// Is the digest at the message before it, as far as that is still known.
    pub(super) base: Option<Digest>,
    pub(super) accepted: i64,
    pub(super) content: Content,
}

impl Found {
    /// Makes it whole with the payload.
    pub(super) fn with(self, payload: Vec<u8>) -> Queued {
        let Self { sequence, epoch, digest, accepted, .. } = self;
        Queued { sequence, epoch, payload, digest, accepted: time_of(accepted) }
    }
}

/// Is a row of the table of messages.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) sequence: Sequence,
    pub(super) state: State,
    pub(super) bytes: u64,
    pub(super) accepted: i64,
    pub(super) day: i64,
    pub(super) destination: i64,
    pub(super) settled: i64,
    pub(super) file: Option<[u8; 16]>,
    pub(super) digest: [u8; 32],
    pub(super) tag: Option<Tag>,
}

/// Asks for rows that [`Message::read`] reads.
macro_rules! select_messages {
    ($condition:literal) => {
        concat!(
            "SELECT sequence, state, bytes, accepted, day, destination, settled, file, digest, tag
             FROM messages WHERE ",
            $condition
        )
    };
}
pub(super) use select_messages;

impl Message {
    /// Reads a row of [`select_messages`].
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let state = State::from_code(row.get(1)?);
        Ok(Self {
            sequence: read(row.get(0)?),
            state: state.ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(1, i64::MAX))?,
            bytes: read(row.get(2)?),
            accepted: row.get(3)?,
            day: row.get(4)?,
            destination: row.get(5)?,
            settled: row.get(6)?,
            file: row.get(7)?,
            digest: row.get(8)?,
            tag: database::tag(row, 9)?,
        })
    }
}

impl Core {
    /// Digests a payload that comes in whole.
    pub(super) fn arrival(&self, payload: Vec<u8>) -> Arrival {
        Arrival {
            bytes: payload.len() as u64,
            payload: self.keys.digest.fingerprint(&payload),
            trace: self.keys.trace.trace(&payload),
            content: Content::Here(payload),
        }
    }

    /// Takes a message into the present transaction.
    pub(super) fn append(&mut self, arrival: &Arrival, at: i64) -> Result<Sequence, Refusal> {
        let held = self.live.head.held();
        if held.messages >= self.limits.messages_max {
            return Err(Refusal::Full { limit: Limit::Messages });
        }
        if held.bytes.saturating_add(arrival.bytes) > self.limits.bytes_max {
            return Err(Refusal::Full { limit: Limit::Bytes });
        }
        Ok(self.insert(arrival, self.live.destination, at)?)
    }

    fn insert(&mut self, arrival: &Arrival, destination: i64, at: i64) -> Result<Sequence, SpoolError> {
        let sequence = self.live.head.last + 1;
        let day = day_of(at);
        let digest = self.keys.digest.following_fingerprint(&self.live.head.digest, sequence, &arrival.payload);
        let place = self.message_place(sequence, day, destination);
        let mut sealed = std::mem::take(&mut self.buffer);
        let (parts, file): ([&[u8]; 2], _) = match &arrival.content {
            Content::Here(payload) => ([payload, &[INLINE]], None),
            Content::InFile(large) => ([&large.encode(), &[IN_FILE]], Some(large.id)),
        };
        self.new_day_sealer(day)?.seal_into(&place, &parts, &mut sealed)?;
        let sql =
            "INSERT INTO messages (sequence, state, bytes, accepted, day, destination, settled, file, digest, tag)
                   VALUES (?1, 0, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8)";
        let (key, bytes) = (stored(sequence), stored(arrival.bytes));
        let row = Message {
            sequence,
            state: State::Queued,
            bytes: arrival.bytes,
            accepted: at,
            day,
            destination,
            settled: 0,
            file,
            digest: digest.0,
            tag: None,
        };
        let tag = self.tag_of_message(&row);
        self.execute("keep a message", sql, params![key, bytes, at, day, destination, file, digest.0, tag])?;
        let sql = "INSERT INTO contents (sequence, sealed) VALUES (?1, ?2)";
        self.execute("keep a message", sql, params![key, sealed])?;
        self.buffer = sealed;
        self.live.head.last = sequence;
        self.live.head.digest = digest;
        self.live.head.enter(State::Queued, arrival.bytes);
        self.live.oldest.get_or_insert((at, destination));
        self.count_waiting(destination, true);
        self.count_content(day, true);
        let entry = Entry {
            sequence,
            happening: Happening::Accepted,
            bytes: arrival.bytes,
            ended: None,
            trace: Some(arrival.trace),
            detail: None,
        };
        self.note(&entry, at)?;
        Ok(sequence)
    }

    /// Says where a message belongs: no row can take another one's place.
    fn message_place(&self, sequence: Sequence, day: i64, destination: i64) -> Place {
        let Epoch(epoch) = self.epoch_of(sequence);
        let (epoch, _) = epoch.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let numbers = [sequence, day.unsigned_abs(), destination.unsigned_abs(), u64::from_be_bytes(*epoch)];
        self.place(Kind::Message, numbers)
    }

    /// Finds a message by its number.
    pub(super) fn message(&self, sequence: Sequence) -> Result<Message, SpoolError> {
        self.find_message(sequence)?.ok_or(SpoolError::NotThere { sequence })
    }

    /// Does the same; `None` where there is none.
    pub(super) fn find_message(&self, sequence: Sequence) -> Result<Option<Message>, SpoolError> {
        let sql = select_messages!("sequence = ?1");
        let found = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([stored(sequence)], Message::read).optional());
        found.map_err(|source| database::failure("read a message", &self.path, source))
    }

    /// Lists messages from `from` on, at most `messages_max` and `bytes_max` bytes, the first one whatever its size.
    fn queued_from(&self, from: Sequence, limits: (usize, u64)) -> Result<Vec<Message>, SpoolError> {
        let failed = |source| database::failure("read the queue", &self.path, source);
        let sql = select_messages!("sequence >= ?1 AND state = 0 ORDER BY sequence");
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let mut rows = statement.query([stored(from.max(self.live.head.retired_through + 1))]).map_err(failed)?;
        let (mut found, mut bytes) = (Vec::new(), 0_u64);
        while found.len() < limits.0 {
            let Some(row) = rows.next().map_err(failed)? else {
                break;
            };
            let message = Message::read(row).map_err(failed)?;
            bytes = bytes.saturating_add(message.bytes);
            if bytes > limits.1 && !found.is_empty() {
                break;
            }
            found.push(message);
        }
        Ok(found)
    }

    /// Reads queued messages in order, up to one that is damaged or was accepted for another destination; none while the
    /// forward is paused.
    pub(super) fn read(
        &mut self,
        to: &Destination,
        from: Sequence,
        limits: (usize, u64),
    ) -> Result<Vec<Found>, SpoolError> {
        if self.live.head.is_paused {
            return Ok(Vec::new());
        }
        let messages = self.queued_from(from, limits)?;
        let mut found: Vec<Found> = Vec::with_capacity(messages.len());
        for message in messages {
            // A number that no destination has is damage, which the content shows.
            if self.live.destinations.get(&message.destination).is_some_and(|known| known != to) {
                break;
            }
            let stops = |damaged: &DamagedMessage| (from..=message.sequence).contains(&damaged.sequence);
            if self.damaged.as_ref().is_some_and(stops) {
                break;
            }
            let content = match self.content(&message) {
                Err(SpoolError::Damaged { damage, .. }) if damage != Damage::Database => {
                    self.stop_at(message.sequence, damage);
                    break;
                }
                content => content?,
            };
            let Message { sequence, accepted, digest, .. } = message;
            self.handed_through = self.handed_through.max(sequence);
            let before = sequence.saturating_sub(1);
            let base = match found.last().filter(|last| last.sequence == before) {
                Some(last) => Some(last.digest),
                None => self.digest_at(before)?,
            };
            let (epoch, digest) = (self.epoch_of(sequence), Digest(digest));
            found.push(Found { sequence, epoch, digest, base, accepted, content });
        }
        Ok(found)
    }

    /// Opens the content of a message.
    pub(super) fn content(&mut self, message: &Message) -> Result<Content, SpoolError> {
        let sequence = message.sequence;
        if !message.state.has_content() {
            return Err(SpoolError::NotAllowed { sequence, state: message.state.name() });
        }
        let sql = "SELECT sealed FROM contents WHERE sequence = ?1";
        let sealed = self.connection.prepare_cached(sql).and_then(|mut statement| {
            statement.query_row([stored(sequence)], |row| row.get::<_, Vec<u8>>(0)).optional()
        });
        let sealed = sealed.map_err(|source| database::failure("read a message", &self.path, source))?;
        let Some(sealed) = sealed else {
            return Err(self.damage(Damage::MissingMessage(sequence)));
        };
        let place = self.message_place(sequence, message.day, message.destination);
        let Some(sealer) = self.day_sealer(message.day)? else {
            return Err(self.damage(Damage::Missing("key of a day")));
        };
        let mut plain = sealer.open(&place, &sealed).unwrap_or_default();
        let content = match plain.pop() {
            Some(INLINE) if plain.len() as u64 == message.bytes => Some(Content::Here(plain)),
            Some(IN_FILE) => LargeFile::decode(&plain).map(Content::InFile),
            _ => None,
        };
        let content = content.ok_or_else(|| self.damage(Damage::TamperedMessage(sequence)))?;
        if self.lacks_destination(message) {
            return Err(self.damage(NO_DESTINATION));
        }
        Ok(content)
    }

    /// Tells whether nothing says any more for whom a message was accepted.
    pub(super) fn lacks_destination(&self, message: &Message) -> bool {
        message.destination != 0 && !self.live.destinations.contains_key(&message.destination)
    }

    /// Takes note that the file of a message is damaged, unless the message has left the queue meanwhile.
    pub(super) fn confirm_damage(&mut self, sequence: Sequence, damage: &Damage) -> Result<(), SpoolError> {
        if self.find_message(sequence)?.is_some_and(|message| message.state == State::Queued) {
            self.stop_at(sequence, damage.clone());
        }
        Ok(())
    }

    /// Lets the feed stop at a damaged message, or at one before it.
    fn stop_at(&mut self, sequence: Sequence, damage: Damage) {
        if self.damaged.as_ref().is_none_or(|damaged| sequence < damaged.sequence) {
            self.damaged = Some(DamagedMessage { sequence, damage });
        }
    }

    /// Returns the damaged message that the outbox does not name yet.
    pub(super) fn unnoted_damage(&self) -> Option<DamagedMessage> {
        self.damaged.clone().filter(|damaged| damaged.sequence != self.noted_damage)
    }

    /// Writes down that a message was found damaged; part of a transaction.
    pub(super) fn note_damage(&mut self, damaged: &DamagedMessage, at: i64) -> Result<(), SpoolError> {
        let found = damaged.damage.to_string();
        self.note(&Entry::by("", &found, Happening::Damaged, damaged.sequence), at)?;
        self.noted_damage = damaged.sequence;
        Ok(())
    }

    /// Tells whether a queued message may be at who delivers it.
    pub(super) fn may_be_sent(&self, message: &Message) -> bool {
        message.state == State::Queued && message.sequence <= self.handed_through
    }

    /// Tells whether a queued message was attempted, where this spool is the ledger of its receiver.
    pub(super) fn is_attempted(&self, message: &Message) -> bool {
        let attempting = self.live.head.attempting.is_some_and(|attempt| attempt.sequence == message.sequence);
        attempting && message.state == State::Queued
    }

    /// Takes note that nobody has a message of the queue who delivers it to this destination, from here: whoever had any
    /// is gone, and which was attempted is written down.
    pub(super) fn hand_anew(&mut self, to: &Destination) {
        let is_its_own = |id| {
            let was_moved = self.live.formers.get(id).is_some_and(|formers| !formers.is_empty());
            self.live.destinations.get(id) == Some(to) && !was_moved
        };
        // Others may be where nobody here can look.
        if self.live.waiting.iter().all(|(id, count)| *count == 0 || is_its_own(id)) {
            self.handed_through = self.live.head.retired_through;
        }
    }

    /// Raises what may have been sent; part of a transaction.
    pub(super) fn reserve_sent(&mut self, through: Sequence) {
        self.live.head.sent_through = self.live.head.sent_through.max(through);
    }

    /// Appends the content of a message again, as a new one with a file of its own.
    pub(super) fn append_again(&mut self, message: &Message) -> Result<Sequence, SpoolError> {
        let arrival = match self.content(message)? {
            Content::Here(payload) => self.arrival(payload),
            Content::InFile(large) => {
                let payload = large.read(&self.directory)?;
                let copy = LargeFile::write(&self.directory, &payload)?;
                Arrival { content: Content::InFile(copy), ..self.arrival(payload) }
            }
        };
        let destination = self.number_again(message)?;
        self.insert(&arrival, destination, now())
    }
}
