//! The files of the audit log: append-only, one line an entry, a new file when one is large, old ones removed in time.
//!
//! Never changes a line that is synced, and never says that one is before fdatasync returned: after a failure all since
//! then is written again. Names: `NUMBER.jsonl` by the first entry, `head` with the last one and the hash at it, `key`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::chain::{Chain, ChainKey, Walk};
use super::event::{self, Event, More, Record, Standing, Subject};
use super::{AuditError, Limits};
use crate::config::{SecretKey, read_key_file};

mod place;

/// Names the key.
pub(super) const KEY: &str = "key";
/// Names what says how far the log goes.
const HEAD: &str = "head";
/// Ends the name of a file of entries.
const EXTENSION: &str = "jsonl";
/// A file that has so many bytes is the last one no more: a start reads one whole, a fraction of a second.
const SEGMENT_BYTES_MAX: u64 = 32 << 20;
/// Bounds a line, in bytes: names, numbers and one detail are some hundred; what is known where a file begins has a line
/// for each queue and peer.
pub(super) const LINE_BYTES_MAX: u64 = 1 << 20;
/// Is left free on the disk, in bytes: the spools' reserve and what they make it of come first.
const LEAVE_BYTES: u64 = 48 << 20;

/// Returns the key of the account in a directory; makes one where nothing was written yet.
///
/// # Errors
/// There is none and the log has entries, it cannot be read, or it cannot be made.
pub(super) fn load_or_create_key(directory: &Path) -> Result<SecretKey, AuditError> {
    let path = directory.join(KEY);
    let failed = |doing| move |source| AuditError::File { doing, path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make"))?;
    if !path.exists() {
        if !segments(directory)?.is_empty() {
            return Err(AuditError::KeyMissing { path });
        }
        create_key(directory, &path).map_err(failed("make the key in"))?;
    }
    load_key(directory)
}

/// Reads the key of the account in a directory.
///
/// # Errors
/// It is not there, or cannot be read.
pub fn load_key(directory: &Path) -> Result<SecretKey, AuditError> {
    read_key_file(directory.join(KEY), false).map_err(AuditError::Key)
}

fn create_key(directory: &Path, path: &Path) -> io::Result<()> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let draft = directory.join("key.new");
    if draft.exists() {
        fs::remove_file(&draft)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(SecretKey::new(*bytes).to_base64().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    // A link, because a rename would replace a key that somebody else made meanwhile.
    fs::hard_link(&draft, path).and_then(|()| fs::remove_file(&draft))?;
    File::open(directory)?.sync_all()
}

/// Is a file of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Is its first entry.
    pub first: u64,
    /// Is where it is.
    pub path: PathBuf,
}

/// Lists the files of a log, in order.
///
/// # Errors
/// The directory cannot be read.
pub fn segments(directory: &Path) -> Result<Vec<Segment>, AuditError> {
    let failed = |source| AuditError::File { doing: "list", path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_one = path.extension().is_some_and(|extension| extension == EXTENSION);
        let first = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(first) = first.filter(|_| is_one) {
            found.push(Segment { first, path });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// Reads a file line by line; a last line without an end is given without one. Says where that line begins.
pub(super) fn for_each_line<E: From<io::Error>>(
    path: &Path,
    mut each: impl FnMut(&[u8], bool) -> Result<(), E>,
) -> Result<(), E> {
    use std::io::Read as _;
    let mut reader = BufReader::with_capacity(256 << 10, place::open_file(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let is_whole = line.pop_if(|byte| *byte == b'\n').is_some();
        each(&line, is_whole)?;
    }
}

/// Reads the head: the last entry and the hash at it, as they were when it was written.
///
/// # Errors
/// It cannot be read; none is no error.
pub fn read_head(directory: &Path) -> Result<Option<(u64, Chain)>, AuditError> {
    let path = directory.join(HEAD);
    let text = match place::open_file(&path).and_then(io::read_to_string) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|source| AuditError::File { doing: "read", path: path.clone(), source })?,
    };
    let parsed = text.trim_end().split_once(' ');
    let parsed = parsed.and_then(|(n, chain)| Some((n.parse().ok()?, Chain::from_hex(chain.as_bytes())?)));
    parsed.map(Some).ok_or(AuditError::Head { path })
}

/// Is the open log.
pub(super) struct Store {
    directory: PathBuf,
    key: ChainKey,
    site: String,
    limits: Limits,
    segments: Vec<Segment>,
    file: Option<File>,
    /// Counts the bytes of the last file that are synced.
    synced_bytes: u64,
    /// Is what is not synced yet.
    pending: Vec<u8>,
    /// Counts the bytes of that which are written.
    written_bytes: usize,
    n: u64,
    chain: Chain,
    standing: Standing,
    /// Says how the log was found not to be as it was written.
    pub(super) fault: Option<String>,
}

/// Is how a start finds a log.
struct Found {
    at: Option<(u64, Chain)>,
    standing: Standing,
    /// Counts the bytes of whole lines of the last file.
    whole_bytes: u64,
    fault: Option<String>,
}

impl Store {
    /// Opens the log, or begins it. What an earlier run had not written whole is cut off; where the log is broken, or
    /// shorter than it was by its head or by what this run `went_to`, an entry says so, and it goes on in a new file.
    pub(super) fn open(
        directory: &Path,
        key: &[u8; 32],
        site: &str,
        limits: Limits,
        went_to: Option<(u64, Chain)>,
    ) -> Result<Self, AuditError> {
        let key = ChainKey::new(key);
        let segments = segments(directory)?;
        let mut found = look(&segments, &key)?;
        let head =
            read_head(directory).map(|head| went_to.filter(|(n, _)| head.is_none_or(|(at, _)| at < *n)).or(head));
        let (n, chain) = found.at.unwrap_or((0, Chain::NONE));
        if let (Ok(Some((head_n, _))), None) = (&head, &found.fault)
            && *head_n > n
        {
            found.fault = Some(format!("the log ends at entry {n}, and went on to {head_n}"));
        }
        if let (Err(error), None) = (&head, &found.fault) {
            found.fault = Some(error.to_string());
        }
        let (n, chain) = head.ok().flatten().filter(|(head_n, _)| *head_n > n).unwrap_or((n, chain));
        let mut store = Self {
            directory: directory.to_owned(),
            key,
            site: site.to_owned(),
            limits,
            file: None,
            synced_bytes: found.whole_bytes,
            pending: Vec::new(),
            written_bytes: 0,
            segments,
            n,
            chain,
            standing: found.standing,
            fault: found.fault,
        };
        if store.segments.is_empty() || store.fault.is_some() {
            store.begin_segment()?;
        }
        if let Some(fault) = store.fault.clone() {
            tracing::error!(%fault, "the audit log is not as it was written: `wardlink audit verify` says more");
            store
                .append(&Record { detail: fault, ..Record::new(SystemTime::now(), Event::Broken, Subject::default()) });
        }
        Ok(store)
    }

    /// Returns the last entry and the hash at it.
    pub(super) fn head(&self) -> (u64, Chain) {
        (self.n, self.chain)
    }

    /// Returns what is known at the end.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Counts the bytes that wait to be synced.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Adds an entry to what is to be written.
    pub(super) fn append(&mut self, record: &Record) {
        self.append_with(record, &More::default());
    }

    /// Adds one that says which public keys there are.
    pub(super) fn append_keys(&mut self, record: &Record, keys: &std::collections::BTreeMap<String, String>) {
        self.append_with(record, &More { keys: Some(keys), ..More::default() });
        self.standing.keys.clone_from(keys);
    }

    fn append_with(&mut self, record: &Record, more: &More<'_>) {
        let object = |out: &mut Vec<u8>| event::object(self.n + 1, &self.site, record, more, out);
        self.chain = self.key.seal(&self.chain, object, &mut self.pending);
        self.n += 1;
        self.standing.handle_record(record);
    }

    /// Writes what waits, so that it survives the end of the process.
    pub(super) fn write(&mut self) -> Result<(), AuditError> {
        if self.written_bytes == self.pending.len() {
            return Ok(());
        }
        self.try_write().inspect_err(|_| self.give_up())
    }

    fn try_write(&mut self) -> Result<(), AuditError> {
        let path = self.segments.last().map(|last| last.path.clone()).unwrap_or_default();
        let failed = |source| AuditError::File { doing: "write", path: path.clone(), source };
        if place::free_bytes(&self.directory).is_some_and(|free| free < LEAVE_BYTES) {
            return Err(AuditError::Full { path: self.directory.clone() });
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
                file.set_len(self.synced_bytes).map_err(failed)?;
                none.insert(file)
            }
        };
        let rest = self.pending.get(self.written_bytes..).unwrap_or_default();
        file.write_all_at(rest, self.synced_bytes + self.written_bytes as u64).map_err(failed)?;
        self.written_bytes = self.pending.len();
        Ok(())
    }

    /// Has all that waits written again from the last sync on: what the kernel holds of it may be another thing.
    fn give_up(&mut self) {
        self.file = None;
        self.written_bytes = 0;
    }

    /// Makes what was written durable, begins a new file where the last one is large, and removes what is old.
    pub(super) fn sync(&mut self) -> Result<(), AuditError> {
        self.write()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        let path = self.segments.last().map(|last| last.path.clone()).unwrap_or_default();
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
        if let Err(source) = synced {
            self.give_up();
            return Err(AuditError::File { doing: "sync", path, source });
        }
        self.synced_bytes += self.pending.len() as u64;
        self.pending.clear();
        self.written_bytes = 0;
        self.write_head()?;
        if self.synced_bytes >= self.limits.segment_bytes.unwrap_or(SEGMENT_BYTES_MAX) {
            self.begin_segment()?;
        }
        Ok(())
    }

    fn write_head(&self) -> Result<(), AuditError> {
        let (path, draft) = (self.directory.join(HEAD), self.directory.join("head.new"));
        let written =
            fs::write(&draft, format!("{} {}\n", self.n, self.chain)).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|source| AuditError::File { doing: "write", path, source })
    }

    /// Begins a new file; nothing waits to be written then. Whole or not at all: its first entry is synced with it.
    fn begin_segment(&mut self) -> Result<(), AuditError> {
        let first = self.n + 1;
        let path = self.directory.join(format!("{first:020}.{EXTENSION}"));
        let record = Record::new(SystemTime::now(), Event::Segment, Subject::default());
        let more = More { from: Some(self.chain), standing: Some(&self.standing), ..More::default() };
        let object = |out: &mut Vec<u8>| event::object(first, &self.site, &record, &more, out);
        let mut line = Vec::new();
        let chain = self.key.seal(&self.chain, object, &mut line);
        let draft = self.directory.join("segment.new");
        let made = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&line)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(file)
        })();
        let file = made.map_err(|source| AuditError::File { doing: "make", path: path.clone(), source })?;
        self.segments.push(Segment { first, path });
        (self.file, self.synced_bytes) = (Some(file), line.len() as u64);
        (self.n, self.chain) = (first, chain);
        self.write_head()
    }

    /// Removes the oldest files that were kept long enough or that are too many; an entry that says so is durable before.
    pub(super) fn prune(&mut self, now: SystemTime) -> Result<(), AuditError> {
        let before = now.checked_sub(self.limits.keep).unwrap_or(SystemTime::UNIX_EPOCH);
        let facts = |segment: &Segment| {
            let metadata = fs::metadata(&segment.path).ok();
            let changed = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
            (metadata.map_or(0, |metadata| metadata.len()), changed.unwrap_or(now))
        };
        let mut bytes: u64 = self.segments.iter().map(|segment| facts(segment).0).sum();
        let mut gone = 0;
        for segment in self.segments.iter().take(self.segments.len().saturating_sub(1)) {
            let (its_bytes, changed) = facts(segment);
            if changed >= before && bytes <= self.limits.bytes_max {
                break;
            }
            bytes = bytes.saturating_sub(its_bytes);
            gone += 1;
        }
        let Some(next) = self.segments.get(gone).filter(|_| gone > 0) else { return Ok(()) };
        let through = next.first - 1;
        let record = Record::new(now, Event::Pruned, Subject::default());
        self.append_with(&record, &More { through: Some(through), ..More::default() });
        self.standing.pruned_through = through;
        self.sync()?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AuditError::File { doing: "remove", path, source }
        };
        for segment in self.segments.drain(..gone) {
            fs::remove_file(&segment.path).map_err(failed(&segment.path))?;
        }
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed(&self.directory))
    }
}

/// Reads the last file that has a whole line.
fn look(segments: &[Segment], key: &ChainKey) -> Result<Found, AuditError> {
    let mut found = Found { at: None, standing: Standing::default(), whole_bytes: 0, fault: None };
    let Some(last) = segments.last() else { return Ok(found) };
    let mut walk = Walk::new(key.clone());
    let read = for_each_line(&last.path, |line, is_whole| {
        if !is_whole || found.fault.is_some() {
            return Ok(());
        }
        match walk.handle_line(line) {
            Ok(entry) => {
                found.standing.handle_entry(&entry);
                found.whole_bytes += line.len() as u64 + 1;
            }
            Err(fault) => found.fault = Some(fault.to_string()),
        }
        Ok::<(), io::Error>(())
    });
    read.and_then(|()| File::open(&last.path)?.sync_data()).map_err(|source| AuditError::File {
        doing: "read",
        path: last.path.clone(),
        source,
    })?;
    found.at = walk.at().or(Some((last.first.saturating_sub(1), Chain::NONE)));
    Ok(found)
}
