//! The mark beside a spool's database: how many commits there were, so that an earlier database is noticed.
//!
//! Never is ahead of what is durable: it is written after the commit, and needs no fsync. Two slots take turns, so that
//! one write that a power loss tears leaves the other one. A slot is a sealed number; the file has a sector for each.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::seal::{Kind, Place, Sealer};
use super::{Damage, SpoolError, key};

/// Is the distance between the two slots, in bytes: what a disk writes as one.
const SLOT_BYTES: u64 = 4096;
/// Is the length of a sealed number, in bytes.
const SEALED_BYTES: usize = 24 + 8 + 16;

/// Is the open mark.
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    sealed: Vec<u8>,
}

impl Mark {
    /// Makes the mark of a new spool, or empties one of a spool that never came to be; durable when it returns.
    pub(super) fn create(path: &Path) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::file("make", path, source);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path).map_err(failed)?;
        file.write_all_at(&[0], 2 * SLOT_BYTES - 1).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        key::sync_directory(path)?;
        Ok(Self { file, path: path.to_owned(), sealed: Vec::new() })
    }

    /// Opens the mark of a spool.
    pub(super) fn open(path: &Path) -> Result<Self, SpoolError> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Self { file, path: path.to_owned(), sealed: Vec::new() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SpoolError::Damaged { path: path.to_owned(), damage: Damage::Missing("mark") })
            }
            Err(source) => Err(SpoolError::file("open", path, source)),
        }
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that there were `generation` commits.
    pub(super) fn write(&mut self, sealer: &Sealer, spool: &[u8; 16], generation: u64) -> Result<(), SpoolError> {
        self.write_to(generation % 2, sealer, spool, generation)
    }

    fn write_to(&mut self, slot: u64, sealer: &Sealer, spool: &[u8; 16], generation: u64) -> Result<(), SpoolError> {
        let place = Place::new(Kind::Mark, spool, [slot, 0, 0, 0]);
        sealer.seal_into(&place, &[&generation.to_be_bytes()], &mut self.sealed)?;
        let written = self.file.write_all_at(&self.sealed, slot * SLOT_BYTES);
        written.map_err(|source| SpoolError::file("write", &self.path, source))
    }

    /// Makes the number durable in both slots: whatever a power loss leaves of later writes, one slot can be read.
    pub(super) fn settle(&mut self, sealer: &Sealer, spool: &[u8; 16], generation: u64) -> Result<(), SpoolError> {
        for slot in 0..2 {
            self.write_to(slot, sealer, spool, generation)?;
        }
        self.file.sync_data().map_err(|source| SpoolError::file("sync", &self.path, source))
    }

    /// Returns the number of commits that it knows of; of one that cannot be read 0, where it may be so: before anything
    /// was kept, the first number may be torn.
    pub(super) fn read(&self, sealer: &Sealer, spool: &[u8; 16], may_be_unread: bool) -> Result<u64, SpoolError> {
        let mut latest = None;
        for slot in 0..2 {
            let mut sealed = [0; SEALED_BYTES];
            match self.file.read_exact_at(&mut sealed, slot * SLOT_BYTES) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(source) => return Err(SpoolError::file("read", &self.path, source)),
                Ok(()) => {}
            }
            let plain = sealer.open(&Place::new(Kind::Mark, spool, [slot, 0, 0, 0]), &sealed);
            let number = plain.and_then(|plain| plain.try_into().ok()).map(u64::from_be_bytes);
            latest = latest.max(number);
        }
        let latest = latest.or(may_be_unread.then_some(0));
        latest.ok_or_else(|| SpoolError::Damaged { path: self.path.clone(), damage: Damage::Tampered("mark") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_the_latest_commit_also_after_a_torn_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let (sealer, spool) = (Sealer::new(&[1; 32]), [2; 16]);
        assert!(matches!(Mark::open(&path), Err(SpoolError::Damaged { damage: Damage::Missing("mark"), .. })));
        let mut mark = Mark::create(&path).unwrap();
        let tampered = |mark: &Mark| {
            matches!(
                mark.read(&sealer, &spool, false),
                Err(SpoolError::Damaged { damage: Damage::Tampered("mark"), .. })
            )
        };
        assert!(tampered(&mark));
        assert_eq!(mark.read(&sealer, &spool, true).unwrap(), 0);
        for generation in 1..=5 {
            mark.write(&sealer, &spool, generation).unwrap();
            assert_eq!(mark.read(&sealer, &spool, true).unwrap(), generation);
        }
        // The write of 6 is torn: 5 stands.
        mark.write(&sealer, &spool, 6).unwrap();
        mark.file.write_all_at(&[0; 8], 0).unwrap();
        assert_eq!(Mark::open(&path).unwrap().read(&sealer, &spool, true).unwrap(), 5);
        mark.file.write_all_at(&[0; 8], SLOT_BYTES).unwrap();
        assert!(tampered(&mark));
        // Once it is settled, either slot says it alone.
        mark.settle(&sealer, &spool, 6).unwrap();
        for slot in 0..2 {
            mark.file.write_all_at(&[0; 8], slot * SLOT_BYTES).unwrap();
            assert_eq!(Mark::open(&path).unwrap().read(&sealer, &spool, false).unwrap(), 6);
            mark.settle(&sealer, &spool, 6).unwrap();
        }
    }
}
