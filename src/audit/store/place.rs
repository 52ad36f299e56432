//! What the log has of its disk: room, and its last file where it was. What is written to one that was removed nobody
//! finds again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::{AuditError, Store};

impl Store {
    /// Says that the file that is written was removed or cut short, or that another one has its place.
    pub(in crate::audit) fn check_place(&self) -> Result<(), AuditError> {
        let Some(last) = self.segments.last() else { return Ok(()) };
        let identity = |found: &fs::Metadata| (found.dev(), found.ino());
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        let is_it = |found: &fs::Metadata| {
            found.len() >= self.synced_bytes && open.as_ref().is_none_or(|open| identity(open) == identity(found))
        };
        match fs::symlink_metadata(&last.path) {
            Ok(found) if is_it(&found) => Ok(()),
            _ => Err(AuditError::Removed { path: last.path.clone() }),
        }
    }
}

/// Counts the bytes that are free there, where the system says it.
pub(super) fn free_bytes(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Opens a file to read it; what is none, such as a FIFO, is not waited for.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"))
    }
}
