//! Large payloads: each in a sealed file of its own beside the database, in chunks.
//!
//! Never holds more than one chunk beside the payload. A file has a random name and a random key; both are in the sealed
//! row of its message, so that who shreds the row shreds the file. The format is sealed chunks of 64 KiB one after the
//! other (`seal`), each authenticated with the file's id, its index and whether it is the last one, so that a chunk
//! cannot be moved, repeated, or left out at the end.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::seal::{self, Key, Kind, Place, Sealer};
use super::{Damage, SpoolError, key};

/// Is the size above which a payload gets a file, in bytes: the database stays small, and a commit short.
pub(super) const INLINE_BYTES_MAX: usize = 1 << 20;
/// Is the size of a chunk, in bytes: what is buffered of a large payload.
const CHUNK_BYTES: usize = 64 << 10;
/// Is what sealing adds to a chunk, in bytes.
const SEAL_BYTES: usize = 24 + 16;
/// Is the length of a name as it is stored: id, key, size; in bytes.
const STORED_BYTES: usize = 16 + 32 + 8;
/// Ends the names of the files.
const SUFFIX: &str = ".sealed";

/// Names a large payload's file and opens it.
#[derive(Clone)]
pub(super) struct LargeFile {
    /// Is its random name.
    pub(super) id: [u8; 16],
    key: Key,
    bytes: u64,
}

impl LargeFile {
    /// Writes a payload into a new file; it and its name are durable when this returns.
    pub(super) fn write(directory: &Path, payload: &[u8]) -> Result<Self, SpoolError> {
        let large = Self { id: seal::random_id()?, key: seal::random_key()?, bytes: payload.len() as u64 };
        let path = large.path(directory);
        let written = large.write_chunks(&path, payload).and_then(|()| key::sync_directory(&path));
        if written.is_err() {
            // What stays is removed at the next start.
            drop(fs::remove_file(&path));
        }
        written.map(|()| large)
    }

    fn write_chunks(&self, path: &Path, payload: &[u8]) -> Result<(), SpoolError> {
        let failed = |source: io::Error| SpoolError::file("write", path, source);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let sealer = Sealer::new(&self.key);
        let mut sealed = Vec::with_capacity(CHUNK_BYTES + SEAL_BYTES);
        let chunks = payload.len().div_ceil(CHUNK_BYTES);
        for (index, chunk) in payload.chunks(CHUNK_BYTES).enumerate() {
            sealer.seal_into(&self.place(index, index + 1 == chunks), &[chunk], &mut sealed)?;
            file.write_all(&sealed).map_err(failed)?;
        }
        file.sync_all().map_err(failed)
    }

    /// Reads the payload.
    pub(super) fn read(&self, directory: &Path) -> Result<Vec<u8>, SpoolError> {
        let path = self.path(directory);
        let damaged = |damage| SpoolError::Damaged { path: path.clone(), damage };
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EIO) => damaged(Damage::Unreadable("content of a large message")),
            _ => SpoolError::file("read", &path, source),
        };
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(Damage::Missing("content of a large message")));
            }
            opened => opened.map_err(failed)?,
        };
        let bytes = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        let chunks = bytes.div_ceil(CHUNK_BYTES);
        let expected = self.bytes + (chunks * SEAL_BYTES) as u64;
        if file.metadata().map_err(failed)?.len() != expected {
            return Err(damaged(Damage::Tampered("content of a large message")));
        }
        let sealer = Sealer::new(&self.key);
        let mut payload = Vec::with_capacity(bytes);
        let mut sealed = vec![0; CHUNK_BYTES + SEAL_BYTES];
        for index in 0..chunks {
            let plain_bytes = CHUNK_BYTES.min(bytes - payload.len());
            let chunk = sealed.get_mut(..plain_bytes + SEAL_BYTES).unwrap_or_default();
            file.read_exact(chunk).map_err(failed)?;
            let plain = sealer.open(&self.place(index, index + 1 == chunks), chunk);
            payload.extend(plain.ok_or_else(|| damaged(Damage::Tampered("content of a large message")))?);
        }
        Ok(payload)
    }

    fn place(&self, index: usize, is_last: bool) -> Place {
        Place::new(Kind::Chunk, &self.id, [index as u64, u64::from(is_last), self.bytes, 0])
    }

    /// Returns where the file is.
    pub(super) fn path(&self, directory: &Path) -> PathBuf {
        path_of(directory, &self.id)
    }

    /// Writes down what finds and opens the file: to be sealed.
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.id[..], &self.key[..], &self.bytes.to_be_bytes()].concat()
    }

    /// Reads what [`LargeFile::encode`] wrote.
    pub(super) fn decode(stored: &[u8]) -> Option<Self> {
        let stored: &[u8; STORED_BYTES] = stored.try_into().ok()?;
        let (id, rest) = stored.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        Some(Self { id: *id, key: Key::new(*key), bytes: u64::from_be_bytes(rest.try_into().ok()?) })
    }
}

/// Returns where the file of that name is.
pub(super) fn path_of(directory: &Path, id: &[u8; 16]) -> PathBuf {
    let name: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    directory.join(name + SUFFIX)
}

/// Removes the files that belong to no message: their rows were never committed, or are gone.
pub(super) fn remove_orphans(directory: &Path, known: &HashSet<[u8; 16]>) -> Result<(), SpoolError> {
    let failed = |source: io::Error| SpoolError::file("list", directory, source);
    let known: HashSet<PathBuf> = known.iter().map(|id| path_of(directory, id)).collect();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_ours = path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(SUFFIX.as_bytes()));
        if is_ours && !known.contains(&path) {
            fs::remove_file(&path).map_err(|source| SpoolError::file("remove", &path, source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn a_payload_is_read_as_it_was_written_at_every_edge_of_a_chunk() {
        let directory = tempfile::tempdir().unwrap();
        for bytes in [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let large = LargeFile::write(directory.path(), &payload(bytes)).unwrap();
            let again = LargeFile::decode(&large.encode()).unwrap();
            assert!(again.read(directory.path()).unwrap() == payload(bytes), "{bytes} bytes");
        }
    }

    #[test]
    fn chunks_cannot_be_changed_cut_off_moved_or_lost() {
        let directory = tempfile::tempdir().unwrap();
        let large = LargeFile::write(directory.path(), &payload(3 * CHUNK_BYTES)).unwrap();
        let path = large.path(directory.path());
        let whole = fs::read(&path).unwrap();
        let sealed_bytes = CHUNK_BYTES + SEAL_BYTES;
        let mut changed = whole.clone();
        changed[sealed_bytes + 100] ^= 1;
        let mut swapped = whole.clone();
        swapped[..2 * sealed_bytes].rotate_left(sealed_bytes);
        let repeated = [&whole[..2 * sealed_bytes], &whole[..sealed_bytes]].concat();
        for bad in [changed, swapped, repeated, whole[..2 * sealed_bytes].to_vec(), [&whole[..], &[0]].concat()] {
            fs::write(&path, bad).unwrap();
            let damage = Damage::Tampered("content of a large message");
            assert!(matches!(large.read(directory.path()), Err(SpoolError::Damaged { damage: d, .. }) if d == damage));
        }
        fs::write(&path, &whole).unwrap();
        assert!(large.read(directory.path()).is_ok());
        fs::remove_file(&path).unwrap();
        assert!(matches!(large.read(directory.path()), Err(SpoolError::Damaged { .. })));
    }

    #[test]
    fn only_orphans_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let kept = LargeFile::write(directory.path(), b"kept").unwrap();
        let orphan = LargeFile::write(directory.path(), b"orphan").unwrap();
        fs::write(directory.path().join("spool.db"), "").unwrap();
        remove_orphans(directory.path(), &HashSet::from([kept.id])).unwrap();
        assert!(kept.read(directory.path()).is_ok());
        assert!(!orphan.path(directory.path()).exists());
        assert!(directory.path().join("spool.db").exists());
    }
}
