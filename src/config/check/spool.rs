//! Where stored forwards keep their messages, and that the key is kept apart from them.
//!
//! Makes nothing: the directory and the key come with the first spool.

use std::path::{Component, Path, PathBuf};

use serde_saphyr::{Location, Spanned};

use super::{Findings, ReadKey, SecretKind, forwards};
use crate::config::raw::{self, Text};
use crate::config::value;
use crate::config::{Delivery, KeyFileError, SecretKey, Spool, SpoolKeyFile};

/// Holds the spools unless the file says otherwise, in `state_dir`.
const SPOOL_DIR: &str = "spool";
/// Says what to write where the key is missing.
const KEY_FILE: &str = "/etc/wardlink/spool.key";

/// Checks where messages are kept; `None` where the file does not say, or says it wrong.
pub(super) fn check(
    raw: Option<&Spanned<raw::Spool>>,
    state_dir: &Path,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Option<Spool> {
    let (at, raw) = (raw?.referenced, &raw?.value);
    let dir = findings.optional(raw.dir.as_ref(), state_dir.join(SPOOL_DIR), value::absolute_path);
    let Some(key_file) = &raw.key_file else {
        findings.missing(at, "key_file", &format!("a path apart from the messages, such as {KEY_FILE}"));
        return None;
    };
    let key = key(key_file, read_key, findings)?;
    let dir = dir?;
    for tree in [&dir, state_dir] {
        if is_inside(key.path(), tree) {
            let (key, tree) = (key.path().display(), tree.display());
            let message = format!(
                "{key} is in {tree}, the same directory tree as the messages that it seals: who takes one has both; \
                 write a path apart from it, such as {KEY_FILE}"
            );
            findings.value(key_file.referenced, message);
            return None;
        }
    }
    Some(Spool { dir, key })
}

/// Checks the key as far as it is there; a file may be made later, a credential not.
fn key(text: &Text, read_key: ReadKey<'_>, findings: &mut Findings) -> Option<SpoolKeyFile> {
    if SecretKey::from_base64(text.value.trim()).is_some() {
        findings.value(text.referenced, "is a key itself; put the key into a file and write its path");
        return None;
    }
    let path = Path::new(&text.value);
    let place = read_key.place(path);
    match (read_key.read(path), &place) {
        (Ok(_), _) | (Err(KeyFileError::Missing { .. }), SpoolKeyFile::File(_)) => Some(place),
        (Err(error @ KeyFileError::Missing { .. }), SpoolKeyFile::Credential(_)) => {
            let instead = "a credential is not made here: have systemd hand it over (LoadCredential=), or write a path";
            findings.value(text.referenced, format!("{error}; {instead}"));
            None
        }
        (Err(_), _) if read_key.is_to_run() => Some(place),
        (Err(error), _) => {
            findings.value(text.referenced, format!("{error}; {}", SecretKind::Spool.instead(&error)));
            None
        }
    }
}

/// Notes that a forward is stored and nothing says where.
pub(super) fn required(site: Location, is_there: bool, forwards: &[forwards::Draft], findings: &mut Findings) {
    let is_stored = |forward: &&forwards::Draft| {
        let delivery = forward.forward.as_ref().map(|forward| forward.delivery);
        matches!(delivery, Some(Delivery::Stored(_)))
    };
    if let Some(stored) = forwards.iter().find(is_stored).filter(|_| !is_there) {
        let name = stored.name.as_ref().map(|name| name.value.as_str()).unwrap_or_default();
        let instead = format!("spool: with key_file: {KEY_FILE}, which seals the messages of forward {name}");
        findings.missing(site, "spool", &instead);
    }
}

/// Tells whether a path leads into a directory, by its text.
fn is_inside(path: &Path, directory: &Path) -> bool {
    plain(path).starts_with(plain(directory))
}

/// Takes `.` and `..` out of a path.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            _ => plain.push(part),
        }
    }
    plain
}
