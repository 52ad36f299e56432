//! Whether the files of an open database still have their names, and all that was written to them.
//!
//! Who removes a directory, or puts another one in its place, does not disturb SQLite: it goes on with files that nobody
//! finds again; who cuts a file short has it go on with a file that lost its start. So nothing counts as kept before this
//! was looked at: before the transaction, where a write behind the cut would hide it, and after the commit; a look at
//! three files costs some microseconds. It never opens anything: to close a file would let go of SQLite's locks on it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::SpoolError;

/// Is what a file was when it was looked at.
struct Known {
    path: PathBuf,
    identity: (u64, u64),
    bytes: u64,
}

/// Is what the files were when they were opened, and how long they were since: the database first, then its log.
pub(super) struct Presence(Vec<Known>);

impl Presence {
    /// Notes which file is the database.
    pub(super) fn of(path: &Path) -> Result<Self, SpoolError> {
        Self(Vec::new()).and(path)
    }

    /// Notes the same of another one that has to be where it is.
    pub(super) fn and(mut self, path: &Path) -> Result<Self, SpoolError> {
        let metadata = look_at(path)?;
        self.0.push(Known { path: path.to_owned(), identity: identity(&metadata), bytes: metadata.len() });
        Ok(self)
    }

    /// Notes the same of a database's log: it is there once something was written.
    pub(super) fn and_log_of(self, database: &Path) -> Result<Self, SpoolError> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        self.and(Path::new(&log))
    }

    /// Says which of them is not there any more, or is another one, or shorter than it was. Only the database gets
    /// shorter by itself, where pages are given back: down to what `database_bytes` says.
    pub(super) fn check(&mut self, database_bytes: impl Fn() -> Option<u64>) -> Result<(), SpoolError> {
        for (place, known) in self.0.iter_mut().enumerate() {
            let metadata = look_at(&known.path)?;
            if identity(&metadata) != known.identity {
                return Err(SpoolError::Removed { path: known.path.clone() });
            }
            let is_shorter = metadata.len() < known.bytes;
            if is_shorter && (place > 0 || database_bytes().is_none_or(|bytes| metadata.len() < bytes)) {
                return Err(SpoolError::CutShort { path: known.path.clone() });
            }
            known.bytes = metadata.len();
        }
        Ok(())
    }

    /// Takes note that the log was emptied, as its owner asked.
    pub(super) fn log_was_emptied(&mut self) {
        if let Some(log) = self.0.get_mut(1) {
            log.bytes = 0;
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn look_at(path: &Path) -> Result<Metadata, SpoolError> {
    fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SpoolError::Removed { path: path.to_owned() },
        _ => SpoolError::file("look at", path, error),
    })
}
