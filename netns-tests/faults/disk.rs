//! A site's disk that loses power: what is live, what of it is durable (`disk.c` keeps account), and what is left after
//! a power loss. It never looks into a file.
//!
//! In the directory of a site, `state` and `keys` are on this disk; everything else there is the test's own.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::isolation::STATE;
use crate::impair::fate::Chance;

/// Lists what of a site's directory is on the disk.
pub(crate) const PARTS: [&str; 2] = ["state", "keys"];

/// Is what a disk writes as a whole, in bytes.
const SECTOR_BYTES: usize = 512;

/// Says what is counted, and where something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Write = 1,
    Sync,
    Name,
    Send,
    Any,
}

/// Says what happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    DieBefore = 1,
    DieAfter,
    DieHalfway,
    Fail,
}

// the layout of `struct control` in disk.c, in numbers of 64 bits
const ARMED: u64 = 0;
const ACTION: u64 = 1;
const COUNTDOWN: u64 = 2;
const FULL: u64 = 3;
const LIES: u64 = 4;
const FIRED: u64 = 5;
const ROOM: u64 = 12;
const NUMBERS: usize = 13;

/// Is the disk of one site.
pub(crate) struct Disk {
    live: PathBuf,
    shadow: PathBuf,
    control: fs::File,
}

impl Drop for Disk {
    /// Thousands of lives follow one another in memory.
    fn drop(&mut self) {
        let parts = PARTS.map(|part| self.live.join(part));
        for left in parts.iter().chain([&self.shadow, &self.live.with_extension("backup")]) {
            drop(fs::remove_dir_all(left));
        }
    }
}

impl Disk {
    /// Makes the disk of the site with this directory; all that is there is durable.
    pub(crate) fn new(site: &Path) -> Self {
        let shadow = PathBuf::from(format!("{}.disk", site.display()));
        fs::create_dir_all(&shadow).expect("the shadow");
        let path = shadow.join("control");
        fs::write(&path, [0; NUMBERS * 8]).expect("the control file");
        let control = fs::OpenOptions::new().read(true).write(true).open(&path).expect("the control file");
        let disk = Self { live: site.to_owned(), shadow, control };
        for part in PARTS {
            make_dir(&site.join(part)).expect("a directory");
        }
        disk.adopt();
        disk
    }

    /// Returns what a program finds in its environment whose files are on this disk.
    pub(crate) fn environment(&self) -> Vec<String> {
        let library = library().display();
        let (live, shadow) = (self.live.display(), self.shadow.display());
        vec![format!("LD_PRELOAD={library}"), format!("DISK_ROOT={live}"), format!("DISK_SHADOW={shadow}")]
    }

    /// Lets something happen at the `countdown`th event of a class from now, once.
    pub(crate) fn arm(&self, class: Class, action: Action, countdown: u64) {
        self.disarm();
        self.set(ACTION, action as u64);
        self.set(COUNTDOWN, countdown);
        self.set(ARMED, class as u64);
    }

    /// Lets nothing more happen.
    pub(crate) fn disarm(&self) {
        self.set(ARMED, 0);
    }

    /// Has no more room, but what files give back from now on, or has it again.
    pub(crate) fn fill(&self, is_full: bool) {
        self.set(ROOM, 0);
        self.set(FULL, is_full.into());
    }

    /// Says yes to every fsync and does nothing, as `synchronous=OFF` asks for, or is honest again.
    pub(crate) fn lie(&self, lies: bool) {
        self.set(LIES, lies.into());
    }

    /// Counts what has happened that was armed, since the disk was made.
    pub(crate) fn fired(&self) -> u64 {
        self.get(FIRED)
    }

    /// Makes all that is live durable, as after a day without events. The program must not run.
    pub(crate) fn adopt(&self) {
        for kind in ["files", "dirs"] {
            let path = self.shadow.join(kind);
            if path.exists() {
                fs::remove_dir_all(&path).expect("the old account goes");
            }
            make_dir(&path).expect("a directory");
        }
        for part in PARTS {
            self.adopt_directory(&self.live.join(part)).expect("the account is written");
        }
    }

    fn adopt_directory(&self, live: &Path) -> io::Result<()> {
        let names = self.names_of(fs::metadata(live)?.ino());
        make_dir(&names)?;
        for entry in entries(live)? {
            let (name, path) = (entry.file_name(), entry.path());
            let about = fs::symlink_metadata(&path)?;
            if about.is_dir() {
                symlink(about.ino().to_string(), names.join(name))?;
                self.adopt_directory(&path)?;
            } else if is_durable(&path, &about) {
                let durable = self.bytes_of(&about);
                write_file(&durable, &fs::read(&path)?)?;
                fs::hard_link(durable, names.join(name))?;
            }
        }
        Ok(())
    }

    /// Puts what is durable in the place of what is live. With `chance`, each directory may also keep the names that it
    /// has now, and each file any of the sectors that were written since its last fsync. The program must not run.
    pub(crate) fn lose_power(&self, mut chance: Option<&mut Chance>) {
        for part in PARTS {
            let (live, image) = (self.live.join(part), self.live.join(format!("{part}.image")));
            let old = self.live.join(format!("{part}.old"));
            let inode = fs::metadata(&live).expect("it is there").ino();
            self.image(inode, Some(&live), &image, &mut chance).expect("the image is made");
            fs::rename(&live, &old).expect("the live files go");
            fs::rename(&image, &live).expect("the image comes");
            fs::remove_dir_all(&old).expect("the live files go");
        }
        self.adopt();
    }

    /// Makes the image of a directory with this inode, which is at `live` unless it has gone.
    fn image(&self, inode: u64, live: Option<&Path>, image: &Path, chance: &mut Option<&mut Chance>) -> io::Result<()> {
        make_dir(image)?;
        let keeps_names = chance.as_mut().is_some_and(|chance| chance.next() % 2 == 0);
        if let Some(live) = live.filter(|_| keeps_names) {
            for entry in entries(live)? {
                let (path, target, about) = (entry.path(), image.join(entry.file_name()), entry.metadata()?);
                if about.is_dir() {
                    self.image(about.ino(), Some(&path), &target, chance)?;
                } else if is_durable(&path, &about) {
                    let then = fs::read(self.bytes_of(&about)).unwrap_or_default();
                    write_file(&target, &torn(then, &fs::read(&path)?, chance))?;
                }
            }
            return Ok(());
        }
        let names = self.names_of(inode);
        for entry in if names.exists() { entries(&names)? } else { Vec::new() } {
            let (durable, target) = (entry.path(), image.join(entry.file_name()));
            let now = live.map(|live| live.join(entry.file_name()));
            let about = now.as_ref().and_then(|path| fs::symlink_metadata(path).ok());
            if durable.is_symlink() {
                let inode = fs::read_link(&durable)?.to_string_lossy().parse().expect("an inode's number");
                let is_same = about.is_some_and(|about| about.ino() == inode);
                self.image(inode, now.as_deref().filter(|_| is_same), &target, chance)?;
            } else {
                let then = fs::read(&durable)?;
                // a name that is another file's by now has no younger bytes
                let is_same = about.is_some_and(|about| same_file(&self.bytes_of(&about), &durable));
                let bytes = match now.filter(|_| is_same) {
                    Some(now) => torn(then, &fs::read(now)?, chance),
                    None => then,
                };
                write_file(&target, &bytes)?;
            }
        }
        Ok(())
    }

    /// Copies what is live, as a backup does while the program does not run.
    pub(crate) fn back_up(&self, to: &Path) {
        for part in PARTS {
            copy_tree(&self.live.join(part), &to.join(part)).expect("the backup is made");
        }
    }

    /// Puts a backup in the place of what is live, durable at once. The program must not run.
    pub(crate) fn restore(&self, from: &Path) {
        for part in PARTS {
            let live = self.live.join(part);
            fs::remove_dir_all(&live).expect("the live files go");
            copy_tree(&from.join(part), &live).expect("the backup comes");
        }
        self.adopt();
    }

    /// Loses the state, but not the keys. The program must not run.
    pub(crate) fn lose_state(&self) {
        let state = self.live.join("state");
        fs::remove_dir_all(&state).expect("the live files go");
        make_dir(&state).expect("a directory");
        self.adopt();
    }

    /// Is new. The program must not run.
    pub(crate) fn lose_everything(&self) {
        for part in PARTS {
            fs::remove_dir_all(self.live.join(part)).expect("the live files go");
            make_dir(&self.live.join(part)).expect("a directory");
        }
        self.adopt();
    }

    /// Returns where the durable names of a directory are.
    fn names_of(&self, inode: u64) -> PathBuf {
        self.shadow.join("dirs").join(inode.to_string())
    }

    /// Returns where the durable bytes of a file are.
    fn bytes_of(&self, about: &fs::Metadata) -> PathBuf {
        self.shadow.join("files").join(about.ino().to_string())
    }

    fn get(&self, number: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, number * 8).expect("the control file is there");
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, number: u64, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), number * 8).expect("the control file is there");
    }
}

/// Mixes two versions of a file: each sector, and the length, is of the one or of the other.
fn torn(then: Vec<u8>, now: &[u8], chance: &mut Option<&mut Chance>) -> Vec<u8> {
    let Some(chance) = chance else { return then };
    let bytes = if chance.next() % 2 == 0 { then.len() } else { now.len() };
    let mut mixed = then;
    mixed.resize(bytes.max(now.len()), 0);
    for (old, new) in mixed.chunks_mut(SECTOR_BYTES).zip(now.chunks(SECTOR_BYTES)) {
        if chance.next() % 2 == 0 {
            old[..new.len()].copy_from_slice(new);
        }
    }
    mixed.truncate(bytes);
    mixed
}

fn is_durable(path: &Path, about: &fs::Metadata) -> bool {
    about.is_file() && !path.as_os_str().as_encoded_bytes().ends_with(b"-shm")
}

fn same_file(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|about| about.ino()).ok();
    inode(one).is_some() && inode(one) == inode(other)
}

fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    fs::read_dir(directory)?.collect()
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all_at(bytes, 0)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    make_dir(to)?;
    for entry in entries(from)? {
        let (path, target, about) = (entry.path(), to.join(entry.file_name()), entry.metadata()?);
        if about.is_dir() {
            copy_tree(&path, &target)?;
        } else if is_durable(&path, &about) {
            write_file(&target, &fs::read(path)?)?;
        }
    }
    Ok(())
}

/// Builds what stands between a program and its disk, once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(STATE).join("disk.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-tests/faults/disk.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(built.expect("cc").success());
        library
    })
}
