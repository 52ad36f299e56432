//! The database of an inbox: one row that says how far, one row for each outcome that is not settled.
//!
//! Never keeps a message, nor an answer that is not sealed. What is committed is durable (WAL, synchronous=FULL): one
//! commit is one write to the log and one fdatasync. Format: `PRAGMA user_version` is [`FORMAT`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, TransactionBehavior, params};

use super::super::codes::{CODES, VERDICTS, number_of, with_number};
use super::super::key;
use super::super::presence::Presence;
use super::super::seal::{Kind, Place, Sealer};
use super::super::{
    ANSWER_BYTES_MAX, Attempt, Damage, Digest, Epoch, FarView, Finished, ForwardId, Opening, Outcome, Sequence,
    SpoolError, Verdict,
};
use crate::mllp::ack::AckCode;

/// Is the format of the database that this version writes and reads.
const FORMAT: i64 = 1;
/// Another opener of the same database is waited for this long: one that is just closing it.
const BUSY_WITHIN: Duration = Duration::from_secs(2);
/// Outcomes that are settled are removed in steps of so many, within a commit that is made anyway: a step costs a page
/// or two more to write.
const PRUNE_STEP: Sequence = 256;

const SCHEMA: &str = "
CREATE TABLE inbox (
    id INTEGER PRIMARY KEY CHECK (id = 1), forward BLOB NOT NULL,
    epoch BLOB, watermark INTEGER NOT NULL, digest BLOB,
    attempting INTEGER, number INTEGER NOT NULL, in_doubt INTEGER NOT NULL, interrupted INTEGER NOT NULL,
    under_way INTEGER NOT NULL
) STRICT;
CREATE TABLE outcomes (
    sequence INTEGER PRIMARY KEY, verdict INTEGER NOT NULL, code INTEGER NOT NULL, attempts INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL, at_ms INTEGER NOT NULL, answer BLOB
) STRICT;
PRAGMA user_version = 1;
";

/// Is the point up to which everything is behind an inbox.
#[derive(Debug, Clone, Copy)]
struct Mark {
    epoch: Epoch,
    sequence: Sequence,
    digest: Digest,
}

/// Is an open inbox.
pub(super) struct Store {
    connection: Connection,
    path: PathBuf,
    forward: ForwardId,
    sealer: Option<Sealer>,
    mark: Option<Mark>,
    attempting: Option<Attempt>,
    prune_through: Sequence,
    pruned_through: Sequence,
    /// Tells whether what is committed is in files that somebody finds again.
    presence: Presence,
    /// Tells that the log is among them: it is made with the first commit.
    has_log: bool,
}

impl Store {
    /// Opens the database, or makes it where it may be a new one, and verifies it.
    pub(super) fn open(
        path: &Path,
        forward: ForwardId,
        sealer: Option<Sealer>,
        may_make: bool,
    ) -> Result<Self, SpoolError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() == 0 => {
                return Err(SpoolError::Damaged { path: path.to_owned(), damage: Damage::Database });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_make => make(path, forward)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SpoolError::Removed { path: path.to_owned() });
            }
            _ => {}
        }
        let connection = Connection::open(path).map_err(|source| failed("open the inbox", path, source))?;
        set_up(&connection).map_err(|source| failed("open the inbox", path, source))?;
        let damaged = |damage| SpoolError::Damaged { path: path.to_owned(), damage };
        let mut store = Self {
            connection,
            path: path.to_owned(),
            forward,
            sealer,
            mark: None,
            attempting: None,
            prune_through: 0,
            pruned_through: 0,
            presence: Presence::of(path)?,
            has_log: false,
        };
        let format = store.number("PRAGMA user_version")?;
        if format != Some(FORMAT) {
            return Err(damaged(Damage::Format(format.unwrap_or(0))));
        }
        let checked = store.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        if checked.map_err(|source| failed("check the inbox", path, source))? != "ok" {
            return Err(damaged(Damage::Database));
        }
        store.load()?;
        let last = store.number("SELECT max(sequence) FROM outcomes")?.map_or(0, stored);
        if last > store.watermark() {
            return Err(damaged(Damage::Tampered("watermark")));
        }
        let first = store.number("SELECT min(sequence) FROM outcomes")?.map_or(0, stored);
        store.pruned_through = first.saturating_sub(1);
        Ok(store)
    }

    fn load(&mut self) -> Result<(), SpoolError> {
        let sql = "SELECT forward, epoch, watermark, digest, attempting, number, in_doubt, interrupted, under_way
            FROM inbox";
        let read = self.connection.query_row(sql, [], read_inbox).optional();
        let read = read.map_err(|source| failed("read the inbox", &self.path, source))?;
        let damaged = |damage| SpoolError::Damaged { path: self.path.clone(), damage };
        let (forward, mark, attempting) = read.ok_or_else(|| damaged(Damage::Missing("watermark")))?;
        if forward != self.forward.0 {
            return Err(damaged(Damage::Tampered("forward's id")));
        }
        (self.mark, self.attempting) = (mark, attempting);
        Ok(())
    }

    fn number(&self, sql: &'static str) -> Result<Option<i64>, SpoolError> {
        self.connection
            .query_row(sql, [], |row| row.get(0))
            .map_err(|source| failed("read the inbox", &self.path, source))
    }

    fn watermark(&self) -> Sequence {
        self.mark.map_or(0, |mark| mark.sequence)
    }

    pub(super) fn view(&self) -> FarView {
        self.mark.map_or(FarView::Fresh, |Mark { epoch, sequence, digest }| FarView::At {
            epoch,
            watermark: sequence,
            digest,
        })
    }

    pub(super) fn attempting(&self) -> Option<Attempt> {
        self.attempting
    }

    /// Commits the end of a message and the present attempt together. What is committed already stays as it is.
    pub(super) fn commit(
        &mut self,
        finished: Option<&Finished>,
        attempting: Option<Attempt>,
    ) -> Result<(), SpoolError> {
        let watermark = self.watermark();
        let finished = finished.filter(|finished| finished.outcome.sequence > watermark);
        let mark = finished.map_or(self.mark, |finished| {
            Some(Mark { epoch: finished.epoch, sequence: finished.outcome.sequence, digest: finished.digest })
        });
        let attempting = attempting.filter(|attempt| mark.is_none_or(|mark| attempt.sequence > mark.sequence));
        let answer = finished.map(|finished| self.seal(&finished.outcome)).transpose()?.flatten();
        let is_pruning = self.prune_through >= self.pruned_through.saturating_add(PRUNE_STEP);
        let pruned = is_pruning.then_some(self.prune_through);
        self.write(mark, attempting, |connection| {
            if let Some(finished) = finished {
                insert(connection, &finished.outcome, answer.as_deref())?;
            }
            pruned.map_or(Ok(()), |through| remove_through(connection, through))
        })?;
        self.pruned_through = pruned.unwrap_or(self.pruned_through);
        Ok(())
    }

    /// Puts up to `retired_through` behind this inbox, where it is not that far.
    pub(super) fn raise(&mut self, opening: &Opening) -> Result<(), SpoolError> {
        let through = opening.retired_through;
        if self.mark.is_some_and(|mark| mark.sequence >= through) {
            return Ok(());
        }
        let mark = Mark { epoch: opening.epoch, sequence: through, digest: opening.retired_digest };
        let attempting = self.attempting.filter(|attempt| attempt.sequence > through);
        self.write(Some(mark), attempting, |connection| remove_through(connection, through))
    }

    /// Notes that the outcomes up to here are settled.
    pub(super) fn prune(&mut self, retired_through: Sequence) {
        self.prune_through = self.prune_through.max(retired_through.min(self.watermark()));
    }

    /// Lists the outcomes above a sequence, in order.
    pub(super) fn outcomes_after(&self, sequence: Sequence) -> Result<Vec<Outcome>, SpoolError> {
        let after = sequence.max(self.prune_through);
        let read = || {
            let sql = "SELECT sequence, verdict, code, attempts, in_doubt, at_ms, answer FROM outcomes
                WHERE sequence > ? ORDER BY sequence";
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map([number(after)], |row| self.read_outcome(row))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|source| failed("read the inbox", &self.path, source))
    }

    fn read_outcome(&self, row: &Row<'_>) -> rusqlite::Result<Outcome> {
        let sequence = stored(row.get(0)?);
        let sealed: Option<Vec<u8>> = row.get(6)?;
        // An answer that cannot be opened is one that is not there: what became of the message is known without it.
        let answer = sealed.and_then(|sealed| self.sealer.as_ref()?.open(&self.answer_place(sequence), &sealed));
        Ok(Outcome {
            sequence,
            verdict: with_number(&VERDICTS, row.get(1)?).unwrap_or(Verdict::DeliveredBefore),
            code: with_number(&CODES, row.get(2)?).unwrap_or(AckCode::Absent),
            attempts: row.get(3)?,
            in_doubt: row.get(4)?,
            answer: answer.unwrap_or_default(),
            at: UNIX_EPOCH.checked_add(Duration::from_millis(stored(row.get(5)?))).unwrap_or(UNIX_EPOCH),
        })
    }

    /// Lets the database grow no further, as a full disk does.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) -> Result<(), SpoolError> {
        let limited = self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()));
        limited.map_err(|source| failed("limit", &self.path, source))
    }

    fn seal(&self, outcome: &Outcome) -> Result<Option<Vec<u8>>, SpoolError> {
        let answer = outcome.answer.get(..ANSWER_BYTES_MAX).unwrap_or(&outcome.answer);
        let sealer = self.sealer.as_ref().filter(|_| !answer.is_empty());
        sealer.map(|sealer| sealer.seal(&self.answer_place(outcome.sequence), answer)).transpose()
    }

    fn answer_place(&self, sequence: Sequence) -> Place {
        Place::new(Kind::Answer, &self.forward.0, [sequence, 0, 0, 0])
    }

    fn write(
        &mut self,
        mark: Option<Mark>,
        attempting: Option<Attempt>,
        also: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), SpoolError> {
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            also(&transaction)?;
            update(&transaction, mark, attempting)?;
            transaction.commit()
        };
        self.check_presence()?;
        write(&mut self.connection).map_err(|source| failed("commit", &self.path, source))?;
        self.check_presence()?;
        if !std::mem::replace(&mut self.has_log, true) {
            self.presence = Presence::of(&self.path)?.and_log_of(&self.path)?;
        }
        (self.mark, self.attempting) = (mark, attempting);
        Ok(())
    }
}

impl Store {
    /// Says whether the files are where they were, and as long.
    fn check_presence(&mut self) -> Result<(), SpoolError> {
        // Nothing makes an inbox give pages back.
        self.presence.check(|| None).inspect_err(|_| {
            // Whoever has the name of the log now may be another one: it is not removed with the closing. What fails
            // here fails only at what is lost already.
            drop(self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true));
        })
    }
}

/// Makes a new inbox, whole or not at all: under another name first, so that one that was cut off is never new.
fn make(path: &Path, forward: ForwardId) -> Result<(), SpoolError> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    if beside("-wal").exists() {
        let damage = Damage::Missing("database beside its log");
        return Err(SpoolError::Damaged { path: path.to_owned(), damage });
    }
    let draft = beside(".new");
    for left in [draft.clone(), beside(".new-wal")] {
        match fs::remove_file(&left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SpoolError::file("remove", left, error));
            }
            _ => {}
        }
    }
    let made = Connection::open(&draft).and_then(|connection| {
        set_up(&connection)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(SCHEMA)?;
        connection.execute("INSERT INTO inbox VALUES (1, ?, NULL, 0, NULL, NULL, 0, 0, 0, 0)", [&forward.0])?;
        connection.execute_batch("COMMIT")?;
        // Closing writes the log back, durably.
        connection.close().map_err(|(_, error)| error)
    });
    made.map_err(|source| failed("make the inbox", path, source))?;
    fs::rename(&draft, path).map_err(|source| SpoolError::file("make", path, source))?;
    key::sync_directory(path)
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WITHIN)?;
    // Nobody else opens it, also no second process: the locks are then taken once.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // After a failed fsync the log may be in memory only: what is in it is written to the database, and synced there.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn read_inbox(row: &Row<'_>) -> rusqlite::Result<([u8; 16], Option<Mark>, Option<Attempt>)> {
    let (epoch, digest): (Option<[u8; 16]>, Option<[u8; 32]>) = (row.get(1)?, row.get(3)?);
    let sequence = stored(row.get(2)?);
    let mark = epoch.zip(digest).map(|(epoch, digest)| Mark { epoch: Epoch(epoch), sequence, digest: Digest(digest) });
    let attempting: Option<i64> = row.get(4)?;
    let (number, in_doubt, interrupted, under_way) = (row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?);
    let attempting = attempting.map(stored);
    let attempting = attempting.map(|sequence| Attempt { sequence, number, in_doubt, interrupted, under_way });
    Ok((row.get(0)?, mark, attempting))
}

fn update(connection: &Connection, mark: Option<Mark>, attempting: Option<Attempt>) -> rusqlite::Result<()> {
    let sql = "UPDATE inbox SET epoch = ?, watermark = ?, digest = ?, attempting = ?, number = ?, in_doubt = ?,
        interrupted = ?, under_way = ?";
    let mut statement = connection.prepare_cached(sql)?;
    let mark_of = mark.as_ref();
    let changed = statement.execute(params![
        mark_of.map(|mark| mark.epoch.0),
        number(mark_of.map_or(0, |mark| mark.sequence)),
        mark_of.map(|mark| mark.digest.0),
        attempting.map(|attempt| number(attempt.sequence)),
        attempting.map_or(0, |attempt| attempt.number),
        attempting.map_or(0, |attempt| attempt.in_doubt),
        attempting.map_or(0, |attempt| attempt.interrupted),
        attempting.is_some_and(|attempt| attempt.under_way),
    ])?;
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(changed)) }
}

fn insert(connection: &Connection, outcome: &Outcome, answer: Option<&[u8]>) -> rusqlite::Result<()> {
    let at = outcome.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let sql = "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)";
    connection.prepare_cached(sql)?.execute(params![
        number(outcome.sequence),
        number_of(&VERDICTS, &outcome.verdict),
        number_of(&CODES, &outcome.code),
        outcome.attempts,
        outcome.in_doubt,
        i64::try_from(at).unwrap_or(i64::MAX),
        answer,
    ])?;
    Ok(())
}

fn remove_through(connection: &Connection, through: Sequence) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM outcomes WHERE sequence <= ?")?.execute([number(through)]).map(|_| ())
}

/// SQLite's integers have 63 bits without the sign; no spool comes that far.
fn number(sequence: Sequence) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn stored(number: i64) -> Sequence {
    Sequence::try_from(number).unwrap_or(0)
}

fn failed(doing: &'static str, path: &Path, source: rusqlite::Error) -> SpoolError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => SpoolError::Disk { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SpoolError::InUse { path },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            SpoolError::Damaged { path, damage: Damage::Database }
        }
        _ => SpoolError::Store { doing, path, source: Arc::new(source) },
    }
}
