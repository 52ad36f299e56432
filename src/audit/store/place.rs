//! What the log has of its disk: room, and its last file where it was. What is written to one that was removed nobody
//! finds again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{AuditError, Store};

impl Store {
    /// Says that the file that is written was removed, or that another one has its place.
    pub(in crate::audit) fn check_place(&self) -> Result<(), AuditError> {
        let Some(last) = self.segments.last() else { return Ok(()) };
        let identity = |found: fs::Metadata| (found.dev(), found.ino());
        let open = self.file.as_ref().and_then(|file| file.metadata().ok()).map(identity);
        let found = fs::symlink_metadata(&last.path).ok().map(identity);
        match found {
            Some(found) if open.is_none_or(|open| open == found) => Ok(()),
            _ => Err(AuditError::Removed { path: last.path.clone() }),
        }
    }
}

/// Counts the bytes that are free there, where the system says it.
pub(super) fn free_bytes(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
