//! Whether the files of an open database still have their names, and all that was written to them.
//!
//! Who removes a directory, or puts another one in its place, does not disturb SQLite: it goes on with files that nobody
//! finds again; who cuts a file short has it go on with a file that lost its start. So nothing counts as kept before this
//! was looked at: before the transaction, where a write behind the cut would hide it, and after the commit; a look at
//! three files costs some microseconds. It never opens anything: to close a file would let go of SQLite's locks on it.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;

use super::SpoolError;

/// Is what a file was when it was looked at.
struct Known {
    path: PathBuf,
    seen: File,
}

impl Known {
    /// Looks at it again, and says where another one is there, or none.
    fn look(&self) -> Result<File, SpoolError> {
        let seen = look_at(&self.path)?;
        if seen.identity == self.seen.identity {
            Ok(seen)
        } else {
            Err(SpoolError::Removed { path: self.path.clone() })
        }
    }
}

/// Is what tells a file from every other one that is there, and its length.
struct File {
    identity: (u32, u32, u64),
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
        self.0.push(Known { path: path.to_owned(), seen: look_at(path)? });
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
        let checked = self.check_each(database_bytes);
        // The directory may have gone between two looks; that the database is gone says more.
        let database = self.0.first().filter(|_| matches!(checked, Err(SpoolError::Removed { .. })));
        database.map_or(Ok(()), |known| known.look().map(drop)).and(checked)
    }

    fn check_each(&mut self, database_bytes: impl Fn() -> Option<u64>) -> Result<(), SpoolError> {
        for (place, known) in self.0.iter_mut().enumerate() {
            let seen = known.look()?;
            let is_shorter = seen.bytes < known.seen.bytes;
            if is_shorter && (place > 0 || database_bytes().is_none_or(|bytes| seen.bytes < bytes)) {
                return Err(SpoolError::CutShort { path: known.path.clone() });
            }
            known.seen.bytes = seen.bytes;
        }
        Ok(())
    }

    /// Takes note that the log was emptied, as its owner asked.
    pub(super) fn log_was_emptied(&mut self) {
        if let Some(log) = self.0.get_mut(1) {
            log.seen.bytes = 0;
        }
    }
}

/// Asks for no times: after a look at those the kernel notes the very next write to the nanosecond, which made each commit
/// a quarter dearer.
fn look_at(path: &Path) -> Result<File, SpoolError> {
    match statx(CWD, path, AtFlags::empty(), StatxFlags::INO | StatxFlags::SIZE) {
        Ok(seen) => Ok(File { identity: (seen.stx_dev_major, seen.stx_dev_minor, seen.stx_ino), bytes: seen.stx_size }),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(SpoolError::Removed { path: path.to_owned() }),
        Err(error) => Err(SpoolError::file("look at", path, error.into())),
    }
}
