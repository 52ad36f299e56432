//! A reserve of room on the disk that spools or inboxes are on: let go of where the disk is full, so that what is kept
//! can still be settled, opened and decided about; made again where there is room.
//!
//! Never holds anything but room. Its file's length is all of its state, for everybody who uses the directory: while it
//! is not whole, no message is taken, so that nobody takes what was let go of for others. Other programs on that disk may
//! take a step of it before we do, but not the steps behind.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::libc::off_t;
use nix::sys::statvfs::statvfs;

/// Names the file, beside the spools or the peers: none of these has such a name.
const NAME: &str = ".reserve";
/// Is its size, in bytes: the log of a spool (16 MiB) can be written back whole, and 40,000 messages be settled beside it.
pub(super) const RESERVE_BYTES: u64 = 32 << 20;
/// Is what is let go of at once, in bytes: enough for thousands of messages, an eighth for who else takes it.
const STEP_BYTES: u64 = 4 << 20;
/// Is what must be free beside the whole reserve before it is made, in bytes: two of the largest transactions, so that it
/// is not let go of at once.
pub(super) const ROOM_BYTES: u64 = 16 << 20;
/// Room is looked for so often while there is none.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Is the reserve of a directory.
#[derive(Debug, Clone)]
pub(super) struct Reserve {
    directory: PathBuf,
    path: PathBuf,
}

impl Reserve {
    /// Is the reserve in a directory, whole or not.
    pub(super) fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), path: directory.join(NAME) }
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Tells whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes() >= RESERVE_BYTES
    }

    /// Lets go of a step of it; false where nothing is left.
    pub(super) fn release(&self) -> bool {
        let bytes = self.bytes();
        let opened = OpenOptions::new().write(true).open(&self.path);
        bytes > 0 && opened.and_then(|file| file.set_len(bytes.saturating_sub(STEP_BYTES))).is_ok()
    }

    /// Makes it whole where there is room; says whether it is. Where a file system cannot set room aside, it is only a
    /// file of that length, and messages are taken until the disk is full.
    pub(super) fn make(&self) -> bool {
        if !self.has_room() {
            return false;
        }
        let mut options = OpenOptions::new();
        let Ok(file) = options.write(true).create(true).truncate(false).mode(0o600).open(&self.path) else {
            return false;
        };
        match posix_fallocate(&file, 0, off_t::try_from(RESERVE_BYTES).unwrap_or(off_t::MAX)) {
            Ok(()) => true,
            // What it has got is let go of with the rest.
            Err(Errno::ENOSPC | Errno::EDQUOT) => false,
            Err(_) => file.set_len(RESERVE_BYTES).is_ok(),
        }
    }

    /// Tells whether the reserve is whole, or could be.
    pub(super) fn has_room(&self) -> bool {
        // Where the system does not say, it is tried.
        self.is_whole() || self.room_bytes().is_none_or(|room| room >= ROOM_BYTES)
    }

    /// Counts what is free beside the whole reserve, as far as it can be asked.
    pub(super) fn room_bytes(&self) -> Option<u64> {
        let missing = RESERVE_BYTES.saturating_sub(self.bytes());
        free_bytes(&self.directory).map(|free| free.saturating_sub(missing))
    }
}

/// Returns how many bytes are free for this user on the disk of a directory, as far as it can be asked.
pub fn free_bytes(directory: &Path) -> Option<u64> {
    let disk = statvfs(directory).ok()?;
    Some(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Tells whether a file of a directory is its reserve.
pub fn is_reserve(name: &std::ffi::OsStr) -> bool {
    name == NAME
}

/// Tells whether the disk of a directory is full: its reserve is in use, and there is no room to make it again.
pub fn is_disk_full(directory: &Path) -> bool {
    let reserve = Reserve::of(directory);
    reserve.path.exists() && !reserve.has_room()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn it_takes_real_room_and_gives_it_back_in_steps() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(directory.path());
        assert!(!reserve.is_whole() && !reserve.release() && !is_disk_full(directory.path()));
        assert!(reserve.make() && reserve.is_whole());
        let allocated = || fs::metadata(&reserve.path).unwrap().blocks() * 512;
        assert!(allocated() >= RESERVE_BYTES);
        let mut steps = 0;
        while reserve.release() {
            steps += 1;
            assert!(!reserve.is_whole());
        }
        assert_eq!((steps, allocated()), (RESERVE_BYTES / STEP_BYTES, 0));
        assert!(reserve.make() && reserve.is_whole() && !is_disk_full(directory.path()));
    }
}
