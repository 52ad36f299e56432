//! The open database of a near spool with its keys, and what every transaction goes through.
//!
//! Never shares its connection: one thread has it. A transaction changes `live`; the head is sealed and written with
//! each commit, and put back where one fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Params, params};

use super::database;
use super::destinations::Former;
use super::room::Shedding;
use super::{DamagedMessage, Destination, Limits, Tail};
use crate::mllp::trace::TraceKey;
use crate::spool::head::Head;
use crate::spool::mark::Mark;
use crate::spool::presence::Presence;
use crate::spool::queue::State;
use crate::spool::reserve::Reserve;
use crate::spool::rows::RowKey;
use crate::spool::seal::{self, Kind, Place, Sealer};
use crate::spool::{Damage, DigestKey, Epoch, Sequence, SpoolError, large};

/// Is a day, in milliseconds: what shares a data key.
const DAY_MILLIS: i64 = 86_400_000;

/// Is what seals and identifies a spool.
pub(super) struct Keys {
    /// Identifies the spool in all that it seals.
    pub(super) spool: [u8; 16],
    /// Seals identity and days' keys.
    pub(super) master: Sealer,
    /// Seals the head, destinations, events and the mark.
    pub(super) meta: Sealer,
    /// Keys the digests.
    pub(super) digest: DigestKey,
    /// Keys what names messages in the account.
    pub(super) trace: TraceKey,
    /// Tags rows.
    pub(super) rows: RowKey,
}

/// Is what a transaction changes, and what a failed one puts back.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// Is the head.
    pub(super) head: Head,
    /// Counts the messages of each day whose content is there.
    pub(super) days: BTreeMap<i64, u64>,
    /// Counts the queued messages of each destination.
    pub(super) waiting: BTreeMap<i64, u64>,
    /// Counts the messages settled since the store was opened whose outcome names an attempt in doubt.
    pub(super) in_doubt: u64,
    /// Counts the copies of delivered messages that went early since the store was opened: the disk was short.
    pub(super) shredded_early: u64,
    /// Is the last of them: all copies before it are gone.
    pub(super) shed_through: Sequence,
    /// Counts rows of messages that somebody changed before the store was opened.
    pub(super) changed: u64,
    /// Is when the first queued message was accepted, in milliseconds, and the number of its destination.
    pub(super) oldest: Option<(i64, i64)>,
    /// Lists all destinations by their numbers.
    pub(super) destinations: BTreeMap<i64, Destination>,
    /// Lists what they meant before they were moved.
    pub(super) formers: BTreeMap<i64, Vec<Former>>,
    /// Is the highest number that a destination has or had: one that was removed without the key is given to no other.
    pub(super) last_destination: i64,
    /// Is the number of the destination that messages are accepted for; 0: there is none.
    pub(super) destination: i64,
}

/// Is the open database.
pub(super) struct Core {
    pub(super) directory: PathBuf,
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) keys: Keys,
    pub(super) live: Live,
    committed: Live,
    changes_before: u64,
    pub(super) limits: Limits,
    /// Lists the epochs with their first sequences, oldest first.
    pub(super) epochs: Vec<(Sequence, Epoch)>,
    pub(super) mark: Mark,
    /// Tells whether what is committed is in files that somebody finds again; none while it is being opened.
    presence: Option<Presence>,
    /// Is a buffer for what is sealed.
    pub(super) buffer: Vec<u8>,
    day_sealers: BTreeMap<i64, Sealer>,
    /// Names the files whose messages are removed by the present transaction.
    pub(super) doomed: Vec<[u8; 16]>,
    /// Is the queued message that was found damaged: none behind it is read before an operator has decided about it.
    pub(super) damaged: Option<DamagedMessage>,
    /// Is the last message that is noted as damaged in the outbox.
    pub(super) noted_damage: Sequence,
    /// Is the row of which the log was told last that it was changed.
    pub(super) told_row: (&'static str, u64),
    /// Is the highest message that may have left the spool: in this start, or by the reservation of an earlier one.
    pub(super) handed_through: Sequence,
    /// Is where the look for what may be shredded goes on.
    pub(super) tidy_cursor: Sequence,
    pub(super) reserve: Reserve,
    /// Tells that the reserve is not whole: no message is taken.
    pub(super) is_disk_full: bool,
    /// Tells that the database can give room back to the disk: one that an early version made cannot.
    pub(super) gives_back: bool,
    pub(super) shedding: Shedding,
    /// Tells that something is shredded by this transaction, and is to leave the log with it.
    pub(super) shreds_now: bool,
}

/// Is what a new [`Core`] is made of.
pub(super) struct Parts {
    pub(super) directory: PathBuf,
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) keys: Keys,
    pub(super) live: Live,
    pub(super) limits: Limits,
    pub(super) epochs: Vec<(Sequence, Epoch)>,
    pub(super) mark: Mark,
    pub(super) reserve: Reserve,
    pub(super) gives_back: bool,
}

impl From<Parts> for Core {
    fn from(parts: Parts) -> Self {
        Self {
            directory: parts.directory,
            path: parts.path,
            connection: parts.connection,
            keys: parts.keys,
            committed: parts.live.clone(),
            handed_through: parts.live.head.sent_through.min(parts.live.head.last),
            changes_before: 0,
            live: parts.live,
            limits: parts.limits,
            epochs: parts.epochs,
            mark: parts.mark,
            presence: None,
            buffer: Vec::new(),
            day_sealers: BTreeMap::new(),
            doomed: Vec::new(),
            damaged: None,
            noted_damage: 0,
            told_row: ("", 0),
            tidy_cursor: 0,
            is_disk_full: !parts.reserve.is_whole(),
            reserve: parts.reserve,
            gives_back: parts.gives_back,
            shedding: Shedding::default(),
            shreds_now: false,
        }
    }
}

impl Core {
    /// Begins a transaction.
    pub(super) fn begin(&mut self) -> Result<(), SpoolError> {
        self.check_presence()?;
        self.committed.clone_from(&self.live);
        self.changes_before = self.connection.total_changes();
        self.execute("begin a transaction", "BEGIN IMMEDIATE", [])
    }

    /// Commits, with the head; what was changed is durable when this returns.
    pub(super) fn commit(&mut self) -> Result<(), SpoolError> {
        let is_changed = self.connection.total_changes() != self.changes_before;
        if !is_changed && self.live.head == self.committed.head {
            return self.execute("end a transaction", "COMMIT", []);
        }
        self.live.head.generation += 1;
        let sealed = self.keys.meta.seal(&self.place(Kind::Head, [0; 4]), &self.live.head.encode())?;
        self.execute("write the head", "UPDATE head SET sealed = ?1 WHERE id = 1", [sealed])?;
        self.execute("commit", "COMMIT", [])?;
        self.check_presence()
    }

    /// Notes which files these are: each commit, and who asks, looks whether they are still there.
    pub(super) fn note_presence(&mut self) -> Result<(), SpoolError> {
        self.presence = Some(Presence::of(&self.path)?.and_log_of(&self.path)?.and(self.mark.path())?);
        Ok(())
    }

    /// Says whether the files are where they were, and as long.
    pub(super) fn check_presence(&mut self) -> Result<(), SpoolError> {
        let Some(presence) = &mut self.presence else { return Ok(()) };
        let checked = presence.check(|| database::bytes(&self.connection));
        // Where only another file is gone, closing writes the log back, and nothing is lost.
        match &checked {
            Err(SpoolError::Removed { path }) if *path == self.path => database::leave_log(&self.connection),
            Err(SpoolError::CutShort { .. }) => database::leave_log(&self.connection),
            _ => {}
        }
        checked
    }

    /// Writes all of the log into the database, and empties it.
    pub(super) fn checkpoint(&mut self) -> Result<(), SpoolError> {
        self.check_presence()?;
        let written = database::checkpoint(&self.connection, &self.path);
        self.presence.iter_mut().for_each(Presence::log_was_emptied);
        written
    }

    /// Takes a transaction back.
    pub(super) fn roll_back(&mut self) -> Result<(), SpoolError> {
        self.live.clone_from(&self.committed);
        self.day_sealers.clear();
        self.doomed.clear();
        self.shreds_now = false;
        if self.connection.is_autocommit() { Ok(()) } else { self.execute("roll back", "ROLLBACK", []) }
    }

    /// Does what follows a commit: the mark, and files whose messages are gone.
    pub(super) fn follow_up(&mut self) -> Result<(), SpoolError> {
        self.mark.write(&self.keys.meta, &self.keys.spool, self.live.head.generation)?;
        for id in std::mem::take(&mut self.doomed) {
            // One that stays is an orphan, and removed at the next start.
            drop(fs::remove_file(large::path_of(&self.directory, &id)));
        }
        if std::mem::take(&mut self.shreds_now) {
            self.write_log_back()?;
        }
        Ok(())
    }

    /// Runs one statement.
    pub(super) fn execute(&self, doing: &'static str, sql: &str, values: impl Params) -> Result<(), SpoolError> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values));
        done.map(|_| ()).map_err(|source| database::failure(doing, &self.path, source))
    }

    /// Names a place in this spool.
    pub(super) fn place(&self, kind: Kind, numbers: [u64; 4]) -> Place {
        Place::new(kind, &self.keys.spool, numbers)
    }

    /// Says that something is not what was stored.
    pub(super) fn damage(&self, damage: Damage) -> SpoolError {
        SpoolError::Damaged { path: self.path.clone(), damage }
    }

    /// Finds the epoch of a message.
    pub(super) fn epoch_of(&self, sequence: Sequence) -> Epoch {
        let after = self.epochs.partition_point(|(first, _)| *first <= sequence);
        after.checked_sub(1).and_then(|at| self.epochs.get(at)).map_or(Epoch([0; 16]), |(_, epoch)| *epoch)
    }

    /// Returns what seals the messages of a day, with a new key for a day that has none yet. A key that is lost, with
    /// messages that it sealed, is not replaced: it may be restored.
    pub(super) fn new_day_sealer(&mut self, day: i64) -> Result<&Sealer, SpoolError> {
        if self.day_sealer(day)?.is_none() {
            if self.live.days.get(&day).is_some_and(|count| *count > 0) {
                return Err(self.damage(Damage::Missing("key of a day")));
            }
            let sealer = self.make_day_key(day)?;
            self.day_sealers.insert(day, sealer);
        }
        self.day_sealers.get(&day).ok_or(SpoolError::Closed)
    }

    /// Returns what opens the messages of a day; `None` where its key was destroyed.
    pub(super) fn day_sealer(&mut self, day: i64) -> Result<Option<&Sealer>, SpoolError> {
        if !self.day_sealers.contains_key(&day)
            && let Some(sealer) = self.day_key(day)?
        {
            self.day_sealers.insert(day, sealer);
        }
        Ok(self.day_sealers.get(&day))
    }

    /// Reads the key of a day; `None` where it was destroyed.
    fn day_key(&self, day: i64) -> Result<Option<Sealer>, SpoolError> {
        let sql = "SELECT sealed FROM days WHERE day = ?1";
        let found = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([day], |row| row.get::<_, Vec<u8>>(0)).optional());
        let Some(sealed) = found.map_err(|source| database::failure("read a key", &self.path, source))? else {
            return Ok(None);
        };
        let key = self.keys.master.open(&self.place(Kind::Day, [day.unsigned_abs(), 0, 0, 0]), &sealed);
        let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok()).map(seal::Key::new);
        key.map(|key| Some(Sealer::new(&key))).ok_or_else(|| self.damage(Damage::Tampered("key of a day")))
    }

    fn make_day_key(&mut self, day: i64) -> Result<Sealer, SpoolError> {
        let key = seal::random_key()?;
        let place = self.place(Kind::Day, [day.unsigned_abs(), 0, 0, 0]);
        let sealed = self.keys.master.seal(&place, key.as_slice())?;
        self.execute("keep a key", "INSERT INTO days (day, sealed) VALUES (?1, ?2)", params![day, sealed])?;
        Ok(Sealer::new(&key))
    }

    /// Forgets the key of a day; what it sealed cannot be opened any more.
    pub(super) fn destroy_day_key(&mut self, day: i64) -> Result<(), SpoolError> {
        self.day_sealers.remove(&day);
        self.execute("destroy a key", "DELETE FROM days WHERE day = ?1", [day])
    }

    /// Counts a message that is queued, or is not any more.
    pub(super) fn count_waiting(&mut self, destination: i64, is_queued: bool) {
        let count = self.live.waiting.entry(destination).or_default();
        *count = if is_queued { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Counts a message whose content came or went.
    pub(super) fn count_content(&mut self, day: i64, is_there: bool) {
        let count = self.live.days.entry(day).or_default();
        *count = if is_there { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Says how the queue stands.
    pub(super) fn tail(&self) -> Tail {
        let head = &self.live.head;
        let (queued, parked) = (head.tally(State::Queued), head.tally(State::Parked));
        let delivered = head.tally(State::Delivered);
        Tail {
            last: head.last,
            retired_through: head.retired_through,
            depth: queued.messages,
            bytes: queued.bytes,
            parked: parked.messages,
            parked_bytes: parked.bytes,
            oldest: self.live.oldest.map(|(accepted, _)| time_of(accepted)),
            first_for: self.live.oldest.and_then(|(_, id)| self.live.destinations.get(&id).cloned()),
            waiting: self.waiting(),
            in_doubt: self.live.in_doubt,
            delivered: delivered.messages,
            delivered_bytes: delivered.bytes,
            shredded_early: self.live.shredded_early,
            paused: head.is_paused,
            damaged: self.damaged.clone(),
            disk_full: self.is_disk_full,
            failed: None,
        }
    }
}

/// Returns the present time in milliseconds.
pub(super) fn now() -> i64 {
    millis_of(SystemTime::now())
}

/// Writes a time as the database keeps it; before 1970 it is 1970.
pub(super) fn millis_of(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Reads a time as the database keeps it.
pub(super) fn time_of(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(database::read(millis))
}

/// Returns the day of a time: what is accepted on it shares a key.
pub(super) fn day_of(millis: i64) -> i64 {
    millis / DAY_MILLIS
}
