//! Keys in base64 as wg(8) writes them, and the files that hold the secret ones.
//!
//! Never shows the content of a key file: not in an error, not in a log; buffers are wiped. The rule for the files:
//! nobody but their owner and root may read them, except the group `wardlink` of a file that is root's; what systemd
//! puts in $CREDENTIALS_DIRECTORY is guarded by the directory itself.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::SpoolKeyFile;
use super::check::ReadKeys;

/// Is the size of a key, in bytes (Curve25519).
const KEY_BYTES: usize = 32;
/// Is the length of a key in base64, in bytes.
const KEY_TEXT_BYTES: usize = 44;
/// Limits what is read of a key file, in bytes: a key, and room for white space around it.
const KEY_FILE_BYTES_MAX: usize = 256;
/// Limits a file of certificates or of a private key in PEM, in bytes: every issuer of a country fits.
const PEM_FILE_BYTES_MAX: usize = 1 << 20;
/// Names the group that may read a key file of root's.
const GROUP: &str = "wardlink";

/// Is a Curve25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    /// Writes the key as `wg` does, in base64.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Is a private or preshared key; never shown, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Wraps 32 bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the secret bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_base64(&text).ok_or_else(|| serde::de::Error::custom("not a key of 32 bytes in base64"))
    }
}

impl PublicKey {
    /// Tells whether every shared secret with this key is zero (RFC 7748, section 6.1): who knows our public key could
    /// pass for its owner. 32 zeros, as in a template that was never filled in, are such a key.
    pub fn is_low_order(&self) -> bool {
        let any = x25519_dalek::StaticSecret::from([1; KEY_BYTES]);
        !any.diffie_hellman(&x25519_dalek::PublicKey::from(self.0)).was_contributory()
    }

    /// Reads base64 as `wg` writes it; `None` where it is not 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

impl SecretKey {
    /// Reads base64 as `wg` writes it; `None` where it is not 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        decode(text).map(|bytes| Self::new(*bytes))
    }

    /// Writes base64 as `wg` does, in a buffer that is wiped.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.expose()))
    }

    /// Returns the public key that belongs to this private key.
    pub fn public_key(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.expose());
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

fn decode(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    if text.len() != KEY_TEXT_BYTES {
        return None;
    }
    // The decoder wants room for whole groups of three bytes.
    let mut buffer = Zeroizing::new([0u8; KEY_BYTES + 4]);
    let decoded_bytes = STANDARD.decode_slice(text, buffer.as_mut_slice()).ok()?;
    let key: &[u8; KEY_BYTES] = buffer.get(..decoded_bytes)?.try_into().ok()?;
    Some(Zeroizing::new(*key))
}

/// Says why a key file gave no key; never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file is not there.
    #[error("{} does not exist", .path.display())]
    Missing {
        /// Is the path that was tried.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("{} cannot be read ({source})", .path.display())]
    Read {
        /// Is the path that was tried.
        path: PathBuf,
        /// Is what the system said.
        source: io::Error,
    },
    /// The path leads to something else than a file.
    #[error("{} is not a regular file", .path.display())]
    NotAFile {
        /// Is the path that was tried.
        path: PathBuf,
    },
    /// Others may read or change the file.
    #[error("{} has mode {mode:04o}, so that others may read or change it", .path.display())]
    Mode {
        /// Is the path that was tried.
        path: PathBuf,
        /// Is the file's mode.
        mode: u32,
    },
    /// The file is longer than any such file.
    #[error("{} is longer than {PEM_FILE_BYTES_MAX} bytes", .path.display())]
    TooLong {
        /// Is the path that was tried.
        path: PathBuf,
    },
    /// The content is not 32 bytes in base64.
    #[error("{} does not hold a key of 32 bytes in base64", .path.display())]
    NotAKey {
        /// Is the path that was tried.
        path: PathBuf,
    },
}

/// Says where key files are looked up.
#[derive(Debug, Clone)]
pub(super) struct KeyFiles {
    /// Is the directory of the configuration file.
    pub(super) config_directory: PathBuf,
    /// Is $CREDENTIALS_DIRECTORY, where systemd sets it.
    pub(super) credentials_directory: Option<PathBuf>,
    /// Says that what may be mended while the site runs is not to stop it.
    pub(super) is_to_run: bool,
}

impl ReadKeys for KeyFiles {
    /// Says where a key file is: a relative path belongs to the credentials where there are any, else beside the
    /// configuration.
    fn place(&self, path: &Path) -> SpoolKeyFile {
        let base = self.credentials_directory.as_ref().unwrap_or(&self.config_directory);
        let path = base.join(path);
        let is_credential = self.credentials_directory.as_ref().is_some_and(|directory| path.starts_with(directory));
        if is_credential { SpoolKeyFile::Credential(path) } else { SpoolKeyFile::File(path) }
    }

    fn is_to_run(&self) -> bool {
        self.is_to_run
    }

    fn read_pem(&self, path: &Path, is_secret: bool) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let place = self.place(path);
        let is_guarded = !is_secret || matches!(place, SpoolKeyFile::Credential(_));
        let path = place.path().to_owned();
        let file = open(&path, is_guarded)?;
        // Room for all of it: a buffer that grows would leave parts of a key behind.
        let mut pem = Zeroizing::new(Vec::with_capacity(PEM_FILE_BYTES_MAX + 1));
        let read = file.take(PEM_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut pem);
        match read {
            Err(source) => Err(KeyFileError::Read { path, source }),
            Ok(bytes) if bytes > PEM_FILE_BYTES_MAX => Err(KeyFileError::TooLong { path }),
            Ok(_) => Ok(pem),
        }
    }

    fn read(&self, path: &Path) -> Result<SecretKey, KeyFileError> {
        match self.place(path) {
            SpoolKeyFile::Credential(path) => read_key_file(path, true),
            SpoolKeyFile::File(path) => read_key_file(path, false),
        }
    }
}

/// Reads a key file by the rules for such files; of a credential, the directory is what guards it.
///
/// # Errors
/// The file is missing, cannot be read, may be read by others, or holds no key.
pub fn read_key_file(path: PathBuf, is_credential: bool) -> Result<SecretKey, KeyFileError> {
    let file = open(&path, is_credential)?;
    read_key(file, path)
}

/// Opens a file that others may not read, unless something else guards it.
fn open(path: &Path, is_guarded: bool) -> Result<File, KeyFileError> {
    // Opening a FIFO must not wait for its writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let path = path.to_owned();
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KeyFileError::Missing { path });
        }
        Err(source) => return Err(KeyFileError::Read { path, source }),
    };
    match file.metadata() {
        Err(source) => Err(KeyFileError::Read { path, source }),
        Ok(metadata) if !metadata.is_file() => Err(KeyFileError::NotAFile { path }),
        Ok(metadata) if !is_guarded && !is_private(metadata.mode(), metadata.uid(), metadata.gid(), group_wardlink) => {
            Err(KeyFileError::Mode { path, mode: metadata.mode() & 0o7777 })
        }
        Ok(_) => Ok(file),
    }
}

/// Whether only the owner, root and the group `wardlink` may read a file, and only the owner change it.
fn is_private(mode: u32, owner: u32, group: u32, wardlink: impl FnOnce() -> Option<u32>) -> bool {
    let others = mode & 0o077;
    others == 0 || (others == 0o040 && owner == 0 && wardlink() == Some(group))
}

/// Finds the number of the group `wardlink`, where this system has it.
fn group_wardlink() -> Option<u32> {
    nix::unistd::Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw())
}

fn read_key(mut file: File, path: PathBuf) -> Result<SecretKey, KeyFileError> {
    let mut buffer = [0u8; KEY_FILE_BYTES_MAX];
    let mut filled = 0;
    let outcome = loop {
        match file.read(buffer.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break Ok(()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    let key = buffer
        .get(..filled)
        // A full buffer is a file that may go on: no key file.
        .filter(|content| content.len() < KEY_FILE_BYTES_MAX)
        .and_then(|content| std::str::from_utf8(content).ok())
        .and_then(|content| SecretKey::from_base64(content.trim_ascii()));
    buffer.zeroize();
    match outcome {
        Err(source) => Err(KeyFileError::Read { path, source }),
        Ok(()) => key.ok_or(KeyFileError::NotAKey { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_in_base64_is_a_key() {
        let text = STANDARD.encode([7u8; 32]);
        assert_eq!(PublicKey::from_base64(&text), Some(PublicKey([7; 32])));
        assert_eq!(SecretKey::from_base64(&text).unwrap().to_base64().as_str(), text);
        assert_eq!(PublicKey::from_base64(&STANDARD.encode([7u8; 31])), None);
        assert_eq!(PublicKey::from_base64(&STANDARD.encode([7u8; 33])), None);
        assert_eq!(PublicKey::from_base64(&text[..43]), None);
        assert_eq!(PublicKey::from_base64(&"=".repeat(44)), None);
        assert_eq!(PublicKey::from_base64(&text.replace('B', "*")), None);
    }

    #[test]
    fn a_public_key_is_as_wg_pubkey_prints_it() {
        // RFC 7748, 6.1: Alice's key pair.
        let private = SecretKey::from_base64("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").unwrap();
        assert_eq!(private.public_key().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn a_group_reads_only_as_wardlink_of_a_file_of_roots() {
        let wardlink = || Some(990);
        assert!(is_private(0o100600, 1000, 1000, wardlink));
        assert!(is_private(0o100400, 0, 0, wardlink));
        assert!(is_private(0o100640, 0, 990, wardlink));
        assert!(!is_private(0o100640, 0, 990, || None));
        assert!(!is_private(0o100640, 1000, 990, wardlink));
        assert!(!is_private(0o100640, 0, 0, wardlink));
        assert!(!is_private(0o100644, 0, 990, wardlink));
        assert!(!is_private(0o100660, 0, 990, wardlink));
        assert!(!is_private(0o100604, 0, 0, wardlink));
    }

    #[test]
    fn a_relative_path_is_a_credential_where_there_are_any() {
        let (config, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |directory: &Path, byte: u8| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = directory.join("private.key");
            std::fs::write(&path, STANDARD.encode([byte; 32])).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            path
        };
        let beside = write(config.path(), 1);
        let credential = write(credentials.path(), 2);
        let mut files =
            KeyFiles { config_directory: config.path().to_owned(), credentials_directory: None, is_to_run: false };
        assert!(matches!(files.read(Path::new("private.key")), Err(KeyFileError::Mode { mode: 0o644, .. })));
        files.credentials_directory = Some(credentials.path().to_owned());
        assert_eq!(files.read(Path::new("private.key")).unwrap().expose(), &[2; 32]);
        assert_eq!(files.read(&credential).unwrap().expose(), &[2; 32]);
        assert!(matches!(files.read(&beside), Err(KeyFileError::Mode { .. })));
        assert!(matches!(files.read(Path::new("other.key")), Err(KeyFileError::Missing { .. })));
    }

    #[test]
    fn a_key_of_low_order_is_known() {
        let mut one = [0; 32];
        one[0] = 1;
        // p - 1, and a point of order 8 (RFC 7748's curve; the list is Bernstein's)
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        let eighth = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ];
        for key in [[0; 32], one, minus_one, eighth] {
            assert!(PublicKey(key).is_low_order(), "{key:?}");
        }
        assert!(!SecretKey::new([7; 32]).public_key().is_low_order());
    }
}
