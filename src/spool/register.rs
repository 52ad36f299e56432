//! The register of spools: that a forward had one, which, and where; in `state_dir`, apart from the spools.
//!
//! Without it a spool whose disk is not mounted, or that was deleted, looks like one that never was, and an empty one
//! would take its place. Never says that a spool was made before it was, and forgets none by itself. One file a
//! forward, text: `spool` and its id in hexadecimal, `to` and the forward that its messages were moved to (where they
//! were), `in` and the directory of all spools.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Damage, SpoolError, SpoolId, key};
use crate::config::Name;

/// Names the register's directory in `state_dir`.
const DIRECTORY: &str = "spools";
/// Bounds the spools of one forward that are set aside: by then somebody should look at them.
const SET_ASIDE_MAX: u32 = 1000;
/// Ends the name of an entry that is being written; no forward's name has a dot.
const DRAFT: &str = ".new";

/// Is what is known of a forward's spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Identifies the spool.
    pub spool: SpoolId,
    /// Is the directory of all spools, as it was when the spool was opened last.
    pub directory: PathBuf,
    /// Is the forward that its messages were moved to.
    pub moved_to: Option<Name>,
}

/// Is the register of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    directory: PathBuf,
}

impl Register {
    /// Finds the register of a site; it is made with the first entry.
    pub fn new(state_dir: &Path) -> Self {
        Self { directory: state_dir.join(DIRECTORY) }
    }

    /// Lists the forwards that have an entry, by name. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> Result<Vec<Name>, SpoolError> {
        names_in(&self.directory)
    }

    /// Finds what is known of a forward's spool; none where it has no entry. Blocks.
    ///
    /// # Errors
    /// The entry cannot be read, or is none.
    pub fn find(&self, name: &str) -> Result<Option<Registered>, SpoolError> {
        let path = self.directory.join(name);
        match fs::read(&path) {
            Ok(entry) => match decode(&entry) {
                Some(entry) => Ok(Some(entry)),
                None => Err(SpoolError::Damaged { path, damage: Damage::Entry }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SpoolError::file("read", path, source)),
        }
    }

    /// Keeps an entry in place of the one before; it is durable when this returns. Blocks.
    ///
    /// # Errors
    /// The entry before stands.
    pub fn note(&self, name: &str, entry: &Registered) -> Result<(), SpoolError> {
        let path = self.directory.join(name);
        if !self.find(name).is_ok_and(|known| known.as_ref() == Some(entry)) {
            self.write(&path, name, entry)?;
        }
        // Also where it was written before: by a process that was killed, perhaps, before this.
        key::sync_directory(&path)?;
        key::sync_directory(&self.directory)
    }

    fn write(&self, path: &Path, name: &str, entry: &Registered) -> Result<(), SpoolError> {
        let failed = |source| SpoolError::file("write", path, source);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(failed)?;
        let draft = self.directory.join(format!("{name}{DRAFT}"));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
        let written = file.and_then(|mut file: File| file.write_all(&encode(entry)).and_then(|()| file.sync_all()));
        written.and_then(|()| fs::rename(&draft, path)).map_err(failed)
    }

    /// Gives up a spool: what is left of it in the directory of all spools is set aside under another name, which is
    /// returned, and its entry removed. Blocks.
    ///
    /// # Errors
    /// The entry stands.
    pub fn give_up(&self, name: &str, directory: &Path) -> Result<Option<PathBuf>, SpoolError> {
        let path = directory.join(name);
        let mut aside = None;
        if path.exists() {
            let free = (1..=SET_ASIDE_MAX).map(|number| directory.join(format!("{name}.forgotten-{number}")));
            let free = free.into_iter().find(|free| !free.exists());
            let free = free.ok_or_else(|| SpoolError::file("set aside", &path, io::ErrorKind::AlreadyExists.into()))?;
            fs::rename(&path, &free).map_err(|source| SpoolError::file("set aside", &path, source))?;
            key::sync_directory(&path)?;
            aside = Some(free);
        }
        self.forget(name)?;
        Ok(aside)
    }

    /// Removes an entry; durably when this returns. Blocks.
    ///
    /// # Errors
    /// The entry stands.
    pub fn forget(&self, name: &str) -> Result<(), SpoolError> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => key::sync_directory(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(SpoolError::file("remove", path, source)),
        }
    }
}

/// Lists what is named as a forward is in a directory, by name; nothing where that is not there.
///
/// # Errors
/// It cannot be listed.
pub fn names_in(directory: &Path) -> Result<Vec<Name>, SpoolError> {
    let failed = |source| SpoolError::file("list", directory, source);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().to_str().and_then(Name::new));
    }
    names.sort();
    Ok(names)
}

fn encode(entry: &Registered) -> Vec<u8> {
    let id: String = entry.spool.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let to = entry.moved_to.as_ref().map(|to| format!("to {to}\n")).unwrap_or_default();
    let mut text = format!("spool {id}\n{to}in ").into_bytes();
    text.extend_from_slice(entry.directory.as_os_str().as_bytes());
    text.push(b'\n');
    text
}

fn decode(text: &[u8]) -> Option<Registered> {
    let (id, rest) = text.strip_prefix(b"spool ")?.split_first_chunk::<32>()?;
    let mut spool = [0; 16];
    for (byte, digits) in spool.iter_mut().zip(id.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    let mut rest = rest.strip_prefix(b"\n")?;
    let mut moved_to = None;
    if let Some(to) = rest.strip_prefix(b"to ") {
        let end = to.iter().position(|byte| *byte == b'\n')?;
        moved_to = Some(Name::new(std::str::from_utf8(to.get(..end)?).ok()?)?);
        rest = to.get(end + 1..)?;
    }
    let directory = rest.strip_prefix(b"in ")?.strip_suffix(b"\n").filter(|directory| !directory.is_empty())?;
    Some(Registered { spool: SpoolId(spool), directory: OsString::from_vec(directory.to_vec()).into(), moved_to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(to: Option<&str>) -> Registered {
        Registered { spool: SpoolId([0xab; 16]), directory: "/srv/a b\nc".into(), moved_to: to.and_then(Name::new) }
    }

    #[test]
    fn an_entry_is_kept_replaced_and_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let register = Register::new(state.path());
        assert_eq!((register.names().unwrap(), register.find("orders").unwrap()), (Vec::new(), None));
        for entry in [entry(None), entry(Some("results"))] {
            register.note("orders", &entry).unwrap();
            assert_eq!(register.find("orders").unwrap(), Some(entry));
        }
        // What a stop in the middle of writing leaves is no entry.
        fs::write(state.path().join(DIRECTORY).join("images.new"), "spool").unwrap();
        assert_eq!(register.names().unwrap(), [Name::new("orders").unwrap()]);
        register.forget("orders").unwrap();
        register.forget("orders").unwrap();
        assert_eq!((register.names().unwrap(), register.find("orders").unwrap()), (Vec::new(), None));
    }

    #[test]
    fn what_is_no_entry_is_told_and_not_taken_for_none() {
        let state = tempfile::tempdir().unwrap();
        let register = Register::new(state.path());
        let whole = encode(&entry(Some("results")));
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]).filter(|_| end < whole.len() - 5), None, "{end}");
        }
        fs::create_dir(state.path().join(DIRECTORY)).unwrap();
        for text in [&b""[..], b"spool 00\nin /x\n", &whole[..whole.len() - 1]] {
            fs::write(state.path().join(DIRECTORY).join("orders"), text).unwrap();
            let error = register.find("orders").unwrap_err();
            assert!(matches!(error, SpoolError::Damaged { damage: Damage::Entry, .. }), "{error}");
        }
    }
}
