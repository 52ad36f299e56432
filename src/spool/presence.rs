//! Whether the files of an open database still have their names.
//!
//! Who removes a directory, or puts another one in its place, does not disturb SQLite: it goes on with files that nobody
//! finds again. So nothing counts as kept before this was looked at, after the commit; a look at three files costs some
//! microseconds. It never opens anything: to close a file would let go of SQLite's locks on it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::SpoolError;

/// Is what the files were when they were opened.
pub(super) struct Presence(Vec<(PathBuf, (u64, u64))>);

impl Presence {
    /// Notes which file has this name.
    pub(super) fn of(path: &Path) -> Result<Self, SpoolError> {
        Ok(Self(vec![(path.to_owned(), identity(path)?)]))
    }

    /// Notes the same of another one that has to be where it is.
    pub(super) fn and(mut self, path: &Path) -> Result<Self, SpoolError> {
        self.0.push((path.to_owned(), identity(path)?));
        Ok(self)
    }

    /// Notes the same of a database's log: it is there once something was written.
    pub(super) fn and_log_of(self, database: &Path) -> Result<Self, SpoolError> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        self.and(Path::new(&log))
    }

    /// Says which of them is not there any more, or is another one.
    pub(super) fn check(&self) -> Result<(), SpoolError> {
        let gone = |path: &Path| Err(SpoolError::Removed { path: path.to_owned() });
        self.0.iter().try_for_each(|(path, known)| if identity(path)? == *known { Ok(()) } else { gone(path) })
    }
}

/// Returns what tells a file from every other one that is there.
fn identity(path: &Path) -> Result<(u64, u64), SpoolError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(SpoolError::Removed { path: path.to_owned() })
        }
        Err(source) => Err(SpoolError::file("look at", path, source)),
    }
}
