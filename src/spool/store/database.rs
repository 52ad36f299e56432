//! The database file of a near spool: how it is opened, what tables it has, what its errors mean.
//!
//! Never changes a database that it does not know. Clear columns hold numbers, times and states only; what comes from
//! a message, a person or a key is sealed, but for its type where that is one (`mllp/trace`). Format 2; ARCHITECTURE.md has the tables ("The spool").

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use crate::spool::rows::{Cell, TAG_BYTES, Tag};
use crate::spool::{Damage, SpoolError, key};

/// Is the format of the database.
pub(super) const FORMAT: i64 = 2;
/// Bounds the write-ahead log, in pages of 4 KiB (16 MiB): a checkpoint costs two fsyncs and writes each page once, so
/// that the pages every batch touches (head, the ends of the tables) are written once in a hundred batches; what a
/// start has to read stays a fraction of a second.
const CHECKPOINT_PAGES: i64 = 4096;
/// Bounds the page cache, in KiB: the inner pages of the tables and the ends that grow.
const CACHE_KIB: i64 = 8192;
/// Is the number of prepared statements that are kept: all there are.
const STATEMENTS_MAX: usize = 64;

/// Is the size of a page, in bytes, as SQLite has it.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Is how SQLite names the way of giving room back that waits until it is told to.
const INCREMENTAL: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE meta (id INTEGER PRIMARY KEY, format INTEGER NOT NULL, key_check BLOB NOT NULL, identity BLOB NOT NULL);
CREATE TABLE head (id INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE epochs (number INTEGER PRIMARY KEY, epoch BLOB NOT NULL, first INTEGER NOT NULL,
    tag BLOB);
CREATE TABLE days (day INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE destinations (id INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE messages (sequence INTEGER PRIMARY KEY, state INTEGER NOT NULL, bytes INTEGER NOT NULL,
    accepted INTEGER NOT NULL, day INTEGER NOT NULL, destination INTEGER NOT NULL, settled INTEGER NOT NULL,
    file BLOB, digest BLOB NOT NULL, tag BLOB);
CREATE TABLE contents (sequence INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE outcomes (sequence INTEGER PRIMARY KEY, verdict INTEGER NOT NULL, code INTEGER NOT NULL,
    attempts INTEGER NOT NULL, in_doubt INTEGER NOT NULL, at INTEGER NOT NULL, answer BLOB NOT NULL,
    tag BLOB);
CREATE TABLE outbox (id INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, event INTEGER NOT NULL, at INTEGER NOT NULL,
    bytes INTEGER NOT NULL, verdict INTEGER, code INTEGER, attempts INTEGER, in_doubt INTEGER, payload BLOB,
    control_id BLOB, detail BLOB, type TEXT, tag BLOB);
";

/// Makes the directory of a spool, for its owner only.
pub(super) fn make_directory(directory: &Path) -> Result<(), SpoolError> {
    let is_new = !directory.exists();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| SpoolError::file("make", directory, source))?;
    if is_new {
        key::sync_directory(directory)?;
        // The one above may be as new.
        key::sync_directory(directory.parent().unwrap_or(directory))?;
    }
    Ok(())
}

/// Tells whether the database was ever written.
pub(super) fn is_there(path: &Path) -> Result<bool, SpoolError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SpoolError::file("look at", path, source)),
    }
}

/// Opens the database, for this process alone; one that is not there is made, empty, for its owner only.
pub(super) fn connect(path: &Path) -> Result<Connection, SpoolError> {
    // SQLite would have its log beside the file that it leads to, where nobody looks for it.
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(SpoolError::Link { path: path.to_owned() });
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    file.map_err(|source| SpoolError::file("open", path, source))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |source| failure("open the database", path, source);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Exclusive before the first access: the index of the log stays in memory, and no second process can write. Whether
    // a database can give room back is settled with its first page.
    for (pragma, value) in [
        ("locking_mode", "EXCLUSIVE"),
        ("auto_vacuum", "INCREMENTAL"),
        ("journal_mode", "WAL"),
        ("synchronous", "FULL"),
    ] {
        connection.pragma_update_and_check(None, pragma, value, |_| Ok(())).or_else(no_row).map_err(failed)?;
    }
    connection.pragma_update_and_check(None, "secure_delete", 1, |_| Ok(())).map_err(failed)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(())).map_err(failed)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(failed)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(failed)?;
    Ok(connection)
}

/// Some settings answer with a row, some do not.
fn no_row(error: rusqlite::Error) -> rusqlite::Result<()> {
    match error {
        rusqlite::Error::QueryReturnedNoRows => Ok(()),
        other => Err(other),
    }
}

/// Finds what operators did with a message without reading all events; made where it is missing, by one look at them.
pub(super) fn index_decisions(connection: &Connection, path: &Path) -> Result<(), SpoolError> {
    let sql = "CREATE INDEX IF NOT EXISTS decisions ON outbox (sequence) WHERE detail IS NOT NULL";
    connection.execute_batch(sql).map_err(|source| failure("index the outbox", path, source))
}

/// Gives tables of an earlier version the columns that they lack; what is there then has nothing in them.
pub(super) fn add_columns(connection: &Connection, path: &Path) -> Result<(), SpoolError> {
    let failed = |source| failure("look at the tables", path, source);
    for (table, column, kind) in [
        ("outbox", "type", "TEXT"),
        ("outbox", "tag", "BLOB"),
        ("messages", "tag", "BLOB"),
        ("outcomes", "tag", "BLOB"),
        ("epochs", "tag", "BLOB"),
    ] {
        let sql = "SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2";
        let there: i64 = connection.query_row(sql, [table, column], |row| row.get(0)).map_err(failed)?;
        if there == 0 {
            connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}")).map_err(failed)?;
        }
    }
    Ok(())
}

/// Counts the events with an operator, or with what was found; by their index where it is there.
pub(super) fn count_decisions(connection: &Connection, path: &Path) -> Result<u64, SpoolError> {
    let sql = "SELECT count(*) FROM outbox WHERE detail IS NOT NULL";
    let count = connection.query_row(sql, [], |row| row.get(0));
    count.map(read).map_err(|source| failure("verify the outbox", path, source))
}

/// Reads the tag of a row; what is none fits no row.
pub(super) fn tag(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Tag>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Null => None,
        ValueRef::Blob(bytes) => Some(bytes.try_into().unwrap_or([0; TAG_BYTES])),
        _ => Some([0; TAG_BYTES]),
    })
}

/// Reads a column as it goes into a tag.
pub(super) fn cell<'a>(row: &'a Row<'_>, at: usize) -> rusqlite::Result<Cell<'a>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Null => Cell::Absent,
        ValueRef::Integer(number) => Cell::Number(number),
        ValueRef::Text(text) => std::str::from_utf8(text).map_or(Cell::Bytes(text), Cell::Text),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes),
        // No column has such.
        ValueRef::Real(_) => Cell::Text("real"),
    })
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Absent => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Makes the tables of a new spool; part of the transaction that makes all of it.
pub(super) fn make_tables(connection: &Connection, path: &Path) -> Result<(), SpoolError> {
    connection.execute_batch(SCHEMA).map_err(|source| failure("make the tables", path, source))
}

/// Writes all of the log into the database, and empties it: nothing of what was shredded stays in it.
pub(super) fn checkpoint(connection: &Connection, path: &Path) -> Result<(), SpoolError> {
    let truncated = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    match truncated {
        Ok(0) => Ok(()),
        Ok(_) => Err(SpoolError::InUse { path: path.to_owned() }),
        Err(source) => Err(failure("write the log back", path, source)),
    }
}

/// Returns the length that the database has with all of its log written back, as far as it can be asked.
pub(super) fn bytes(connection: &Connection) -> Option<u64> {
    let pages = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).ok();
    pages.map(|pages| read(pages).saturating_mul(PAGE_BYTES))
}

/// Tells whether a database can give room back to the disk.
pub(super) fn gives_back(connection: &Connection, path: &Path) -> Result<bool, SpoolError> {
    let way = connection.query_row("PRAGMA auto_vacuum", [], |row| row.get::<_, i64>(0));
    way.map(|way| way == INCREMENTAL).map_err(|source| failure("open the database", path, source))
}

/// Reads every page, and says where one is not what a database has.
pub(super) fn check_pages(connection: &Connection, path: &Path) -> Result<(), SpoolError> {
    let checked = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match checked.map_err(|source| failure("check the database", path, source))?.as_str() {
        "ok" => Ok(()),
        _ => Err(SpoolError::Damaged { path: path.to_owned(), damage: Damage::Database }),
    }
}

/// Has the log stay as it is when the database is closed: whoever has its name then may be another one.
pub(super) fn leave_log(connection: &Connection) {
    // What fails here fails only at what is lost already.
    drop(connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true));
}

/// Says what an error of the database means.
pub(super) fn failure(doing: &'static str, path: &Path, source: rusqlite::Error) -> SpoolError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => SpoolError::Disk { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            SpoolError::Damaged { path, damage: Damage::Database }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SpoolError::InUse { path },
        _ => SpoolError::Store { doing, path, source: Arc::new(source) },
    }
}

/// Writes a number as the database takes it: 63 bits are enough for every count.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads a number; none is negative.
pub(super) fn read(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
