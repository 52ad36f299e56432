//! Which key files a change of this site's key may leave behind where it is killed: noted beside the configuration before
//! they are made, and before they are to go.
//!
//! It removes a file only where that holds the very key that was noted, which neither the configuration names nor the
//! running site uses: who calls has seen that this runs what the file says. The notes hold public keys and names of files
//! in that directory, so that a copy of it is about its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{KEY, OLD_KEY, SECTION};
use crate::config::{PublicKey, edit, read_key_file};

/// Limits what is read of the notes, in bytes: hundreds of kills.
const NOTES_BYTES_MAX: u64 = 64 << 10;

/// Is a key file that is to go once nobody needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    key: PublicKey,
    path: PathBuf,
}

impl Note {
    /// Tells whether the file is still the one that was noted; one that is empty was being made.
    fn is_there(&self) -> bool {
        let Ok(file) = fs::symlink_metadata(&self.path) else { return false };
        file.is_file() && (file.len() == 0 || key_in(&self.path) == Some(self.key))
    }
}

/// Notes a key file beside the configuration, as no other is removed; whoever calls has the lock of the directory.
pub(super) fn note(config: &Path, path: &Path, key: PublicKey) -> io::Result<()> {
    let mut notes = read(config);
    let directory = |path: &Path| path.parent().and_then(|directory| fs::canonicalize(directory).ok());
    let name = path.file_name().filter(|_| directory(path) == directory(config));
    let Some(note) = name.map(|name| Note { key, path: config.with_file_name(name) }) else { return Ok(()) };
    if notes.contains(&note) {
        return Ok(());
    }
    notes.push(note);
    write(config, &notes)
}

/// Notes a key file as the key that is in it; one that holds none is not noted.
pub(super) fn note_file(config: &Path, path: &Path) -> io::Result<()> {
    key_in(path).map_or(Ok(()), |key| note(config, path, key))
}

/// Removes what is left where `removes` says so, and says which; forgets what is gone, or is the site's key.
pub(super) fn sweep(config: &Path, removes: bool) -> String {
    let mut said = String::new();
    let Ok(config) = fs::canonicalize(config) else { return said };
    let directory = config.parent().unwrap_or(Path::new("/"));
    // Nobody changes the key meanwhile.
    let lock = File::open(directory).and_then(|directory| directory.lock().map(|()| directory));
    let (Ok(lock), Ok(text)) = (lock, fs::read_to_string(&config)) else { return said };
    let named = |key| edit::key_of(&text, SECTION, key).map(|path| directory.join(path));
    let Some(current) = named(KEY).and_then(|path| key_in(&path)) else { return said };
    let Ok(old) = named(OLD_KEY).map(|path| key_in(&path).ok_or(())).transpose() else { return said };
    let mut notes = read(&config);
    let is_left = |note: &Note, said: &mut String| {
        if note.key == current || !note.is_there() {
            return false;
        }
        if old == Some(note.key) || !removes {
            return true;
        }
        let path = note.path.display();
        match fs::remove_file(&note.path) {
            Ok(()) => said.push_str(&format!("\nremoved {path}, which a run that was killed had left")),
            Err(error) => {
                said.push_str(&format!("\n{path} is used no more, and could not be removed ({error}): remove it"));
                return true;
            }
        }
        false
    };
    let before = notes.clone();
    notes.retain(|note| is_left(note, &mut said));
    if notes != before {
        // What is noted too much is looked at again the next time.
        write(&config, &notes).ok();
    }
    drop(lock);
    said
}

fn key_in(path: &Path) -> Option<PublicKey> {
    // Whoever may read it: it is about what is in it.
    read_key_file(path.to_owned(), true).ok().map(|key| key.public_key())
}

/// Returns where the notes are.
fn place(config: &Path) -> PathBuf {
    config.with_file_name(format!(".{}.keys", config.file_name().unwrap_or_default().to_string_lossy()))
}

/// Reads the notes; a line that is none is left out.
fn read(config: &Path) -> Vec<Note> {
    let (place, mut text) = (place(config), String::new());
    if !fs::symlink_metadata(&place).is_ok_and(|file| file.is_file()) {
        return Vec::new();
    }
    let read = File::open(place).and_then(|file| file.take(NOTES_BYTES_MAX).read_to_string(&mut text));
    let note = |line: &str| {
        let (key, name) = line.split_once(' ')?;
        let is_name = Path::new(name).file_name().is_some_and(|found| found == name);
        Some(Note { key: PublicKey::from_base64(key)?, path: is_name.then(|| config.with_file_name(name))? })
    };
    if read.is_ok() { text.lines().filter_map(note).collect() } else { Vec::new() }
}

/// Replaces the notes; where there is none, there is no file.
fn write(config: &Path, notes: &[Note]) -> io::Result<()> {
    let place = place(config);
    let replaced = replace(config, &place, notes);
    replaced.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", place.display())))
}

fn replace(config: &Path, place: &Path, notes: &[Note]) -> io::Result<()> {
    let new = place.with_extension("keys.new");
    for path in if notes.is_empty() { vec![place, &new] } else { vec![&*new] } {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if !notes.is_empty() {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        for Note { key, path } in notes {
            writeln!(file, "{key} {}", path.file_name().unwrap_or_default().display())?;
        }
        file.sync_all()?;
        fs::rename(&new, place).inspect_err(|_| drop(fs::remove_file(&new)))?;
    }
    File::open(config.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretKey;

    struct Place {
        directory: tempfile::TempDir,
        config: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let config = fs::canonicalize(directory.path()).unwrap().join("wardlink.yaml");
            Self { directory, config }
        }

        fn key(&self, name: &str, key: u8) -> PathBuf {
            let path = self.config.with_file_name(name);
            fs::write(&path, SecretKey::new([key; 32]).to_base64()).unwrap();
            path
        }

        fn names(&self, current: &str, old: Option<&str>) {
            let old = old.map(|old| format!("  old_private_key_file: {old}\n")).unwrap_or_default();
            fs::write(&self.config, format!("tunnel:\n  private_key_file: {current}\n{old}")).unwrap();
        }

        fn files(&self) -> Vec<String> {
            let files = fs::read_dir(self.directory.path()).unwrap();
            let mut names: Vec<String> =
                files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn what_killed_runs_left_goes_and_nothing_else_does() {
        let place = Place::new();
        // a key that was stolen, and one of a run that was killed
        for (name, key) in [("private.key", 1), ("private-2.key", 2), ("private-3.key", 3)] {
            note_file(&place.config, &place.key(name, key)).unwrap();
        }
        // one that was being made, one that is another one by now, and one that no run made
        note(&place.config, &place.config.with_file_name("private-4.key"), PublicKey([4; 32])).unwrap();
        fs::write(place.config.with_file_name("private-4.key"), "").unwrap();
        note(&place.config, &place.key("private-5.key", 5), PublicKey([6; 32])).unwrap();
        place.key("private-7.key", 7);
        place.names("private-3.key", None);
        assert_eq!(sweep(&place.config, false), "", "the running site may use any of them");
        let said = sweep(&place.config, true);
        assert_eq!(said.lines().filter(|line| line.starts_with("removed ")).count(), 3, "{said}");
        assert_eq!(place.files(), ["private-3.key", "private-5.key", "private-7.key", "wardlink.yaml"]);
    }

    #[test]
    fn a_file_of_another_directory_is_never_removed() {
        let (place, other) = (Place::new(), Place::new());
        other.key("private.key", 1);
        place.key("private-2.key", 2);
        note_file(&place.config, &other.config.with_file_name("private.key")).unwrap();
        assert_eq!(read(&place.config), []);
        place.names("private-2.key", None);
        let key = SecretKey::new([1; 32]).public_key();
        for path in [other.config.with_file_name("private.key"), "../x/private.key".into(), "..".into()] {
            fs::write(super::place(&place.config), format!("{key} {}\n", path.display())).unwrap();
            assert_eq!(sweep(&place.config, true), "");
        }
        // A copy of a directory with such notes is about the copy.
        note_file(&other.config, &other.config.with_file_name("private.key")).unwrap();
        place.key("private.key", 1);
        fs::copy(super::place(&other.config), super::place(&place.config)).unwrap();
        assert!(sweep(&place.config, true).contains(&place.config.with_file_name("private.key").display().to_string()));
        assert_eq!(other.files(), [".wardlink.yaml.keys", "private.key"]);
    }

    #[test]
    fn what_is_no_file_of_notes_is_named_and_not_waited_for() {
        let place = Place::new();
        let notes = super::place(&place.config);
        let key = place.key("private.key", 1);
        fs::create_dir(&notes).unwrap();
        let refused = note_file(&place.config, &key).unwrap_err();
        assert!(refused.to_string().contains(&notes.display().to_string()), "{refused}");
        assert_eq!(place.files(), [".wardlink.yaml.keys", "private.key"]);
        fs::remove_dir(&notes).unwrap();
        nix::unistd::mkfifo(&notes, nix::sys::stat::Mode::S_IRWXU).unwrap();
        note_file(&place.config, &key).unwrap();
        assert_eq!(read(&place.config).len(), 1, "the notes take the place of what is no file");
    }

    #[test]
    fn the_older_key_of_a_rotation_under_way_stays_and_is_known_until_it_ends() {
        let place = Place::new();
        note_file(&place.config, &place.key("private.key", 1)).unwrap();
        note_file(&place.config, &place.key("private-2.key", 2)).unwrap();
        place.names("./private-2.key", Some("../../nowhere/private.key"));
        assert_eq!(sweep(&place.config, true), "", "what is named cannot be read: nothing is removed");
        place.names("./private-2.key", Some("private.key"));
        assert_eq!(sweep(&place.config, true), "");
        // killed as it was to remove it
        place.names("private-2.key", None);
        assert!(sweep(&place.config, true).contains("private.key"));
        assert_eq!(place.files(), ["private-2.key", "wardlink.yaml"]);
    }
}
