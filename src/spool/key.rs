//! The key of the spools: 32 bytes in base64 in a file apart from them, as `wg genkey` writes one.
//!
//! Never makes a key where there is anything that an earlier one seals, never replaces a file, never shows a key. The
//! rules for who may read the file are those of all key files (`config/keys`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::seal::{self, Key};
use super::{SpoolError, digest};
use crate::config::{KeyFileError, SecretKey, read_key_file};

/// Separates what the key is used for: to seal.
const SEALS: u8 = 1;
/// Separates what the key is used for: to be told from another one.
const CHECK: u8 = 2;

/// Is held while a key is looked for and made.
static MAKING: Mutex<()> = Mutex::new(());

/// Seals the keys of all spools of a site.
#[derive(Debug, Clone)]
pub struct SpoolKey(SecretKey);

impl SpoolKey {
    /// Reads the key.
    ///
    /// # Errors
    /// The file is not there, others may read it, or it holds no key.
    pub fn load(path: &Path) -> Result<Self, SpoolError> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let is_credential = credentials.is_some_and(|directory| path.starts_with(directory));
        match read_key_file(path.to_owned(), is_credential) {
            Ok(key) => Ok(Self(key)),
            Err(KeyFileError::Missing { path }) => Err(SpoolError::KeyMissing { path }),
            Err(source) => Err(SpoolError::KeyFile { source: Arc::new(source) }),
        }
    }

    /// Reads the key, or makes one where there is none and `may_create` says that nothing is sealed yet. It is durable
    /// when this returns.
    ///
    /// # Errors
    /// As with [`SpoolKey::load`]; or the file cannot be made.
    pub fn load_or_create(path: &Path, may_create: bool) -> Result<Self, SpoolError> {
        // Forwards that begin at once make one key.
        let one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match Self::load(path) {
            Err(SpoolError::KeyMissing { .. }) if may_create => match create(path) {
                Ok(()) => Self::load(path),
                Err(SpoolError::File { source, .. }) => Err(SpoolError::KeyNotMade { path: path.to_owned(), source }),
                Err(error) => Err(error),
            },
            loaded => loaded,
        };
        drop(one_at_a_time);
        loaded
    }

    /// Tells whether this is the same key.
    pub fn is(&self, other: &Self) -> bool {
        self.check() == other.check()
    }

    /// Makes a key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(SecretKey::new(bytes))
    }

    /// Returns the key that seals.
    pub(super) fn sealing(&self) -> Key {
        seal::derive(self.0.expose(), SEALS)
    }

    /// Returns what tells this key from another one, and nothing else about it.
    pub(super) fn check(&self) -> [u8; 32] {
        digest::keyed(self.0.expose(), CHECK, &[])
    }
}

/// Makes the file whole or not at all: under another name first.
fn create(path: &Path) -> Result<(), SpoolError> {
    let failed = |source: io::Error| SpoolError::file("make", path, source);
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let text = SecretKey::new(*seal::random_key()?).to_base64();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    // A link, because a rename would replace a key that somebody else made meanwhile.
    fs::hard_link(&draft, path).and_then(|()| fs::remove_file(&draft)).map_err(failed)?;
    sync_directory(path)
}

/// Makes the entry of a file durable.
pub(super) fn sync_directory(of: &Path) -> Result<(), SpoolError> {
    let directory = of.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| SpoolError::file("sync", directory, source))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_where_it_may_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool.key");
        assert!(matches!(SpoolKey::load_or_create(&path, false), Err(SpoolError::KeyMissing { .. })));
        assert!(!path.exists());
        fs::write(directory.path().join("spool.key.new"), "half of an earlier o").unwrap();
        let made = SpoolKey::load_or_create(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        for again in [SpoolKey::load(&path), SpoolKey::load_or_create(&path, true)] {
            assert_eq!(again.unwrap().check(), made.check());
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(SpoolKey::load_or_create(&path, true), Err(SpoolError::KeyFile { .. })));
    }

    #[test]
    fn who_asks_at_once_gets_the_same_key() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("spool.key");
            let load = || SpoolKey::load_or_create(&path, true).unwrap().check();
            let made = std::thread::scope(|scope| {
                let asking: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
                asking.into_iter().map(|one| one.join().unwrap()).collect::<std::collections::HashSet<_>>()
            });
            assert_eq!(made.len(), 1);
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool.key");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(SpoolKey::load_or_create(&path, true), Err(SpoolError::KeyFile { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert!(matches!(create(&path), Err(SpoolError::File { .. })));
    }
}
