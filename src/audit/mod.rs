//! The account of who did what, when: a log of its own in `state_dir`, chained so that a change shows.
//!
//! It listens and never steers: a record that finds no room is counted, never waited for, and no message waits for one.
//! What happened to stored messages is in the spool's own outbox first, and is read from there, also after a kill: nothing
//! of that is lost. The rules are those of the design, delivery.md ("Account"); the format is in README.md, Audit log.

pub mod accepted;
pub mod atna;
pub mod chain;
mod clerk;
mod cursor;
pub mod event;
mod peers;
pub mod read;
mod store;
pub mod witness;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::sync::oneshot;

use crate::config::KeyFileError;
use crate::mllp::trace::TraceKey;
pub use chain::Chain;
pub use clerk::Clerk;
pub use cursor::{Cursor, Piece};
pub use event::{Event, Position, Record, Subject};
pub use peers::{ended, foreign, unread, witnesses};
pub use store::{load_key, read_head};
pub use witness::{Accepted, Head, Heads};
use witness::{Issued, Known, ProofKey};

/// Bounds the records that wait for the thread: two seconds of thirty thousand messages each, 20 MiB at the most.
const RECORDS_MAX: usize = if cfg!(test) { 4096 } else { 65_536 };

/// Says why the log cannot be kept or read.
#[derive(Debug, Error)]
pub enum AuditError {
    /// A file cannot be used.
    #[error("cannot {doing} {}: {source}{}", path.display(), in_the_way(source))]
    File {
        /// Says what for.
        doing: &'static str,
        /// Is the file.
        path: PathBuf,
        /// Says what the system said.
        source: io::Error,
    },
    /// The disk has room for the spools only.
    #[error("the disk of {} has less than 48 MiB left, which are the spools': make room", path.display())]
    Full {
        /// Is the directory of the log.
        path: PathBuf,
    },
    /// There are entries and no key.
    #[error(
        "the key {} is gone, and there are entries: restore it from a backup; or move its directory away, and restart",
        path.display()
    )]
    KeyMissing {
        /// Is the key.
        path: PathBuf,
    },
    /// The key cannot be read.
    #[error("{0}: {instead}", instead = instead(.0))]
    Key(KeyFileError),
    /// What says how far the log goes says nothing.
    #[error("{} was changed: it does not say how far the log goes", path.display())]
    Head {
        /// Is the file.
        path: PathBuf,
    },
    /// The last file of the log has not the name any more that it was made with, or not all of its bytes.
    #[error("{} was removed, replaced or cut short while it was written: the log goes on in a new file", path.display())]
    Removed {
        /// Is the file.
        path: PathBuf,
    },
    /// What a peer knows is not what was written.
    #[error("{} was changed: it does not say what {name} knows of the log", path.display())]
    Peer {
        /// Is the file.
        path: PathBuf,
        /// Names the peer.
        name: String,
    },
    /// The thread does not start.
    #[error("cannot start the thread of the audit log: {0}")]
    Thread(io::Error),
}

/// Says what to do about the key.
fn instead(error: &KeyFileError) -> &'static str {
    match error {
        KeyFileError::Missing { .. } => "restore it from a backup: without it the log cannot be verified",
        KeyFileError::Mode { .. } => "chmod 600 it, if it is still the site's own",
        _ => "restore it from a backup, as root",
    }
}

/// Says what to do where something else has the place of the log.
fn in_the_way(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            ": the log's directory belongs there; move away what is in its place"
        }
        _ => "",
    }
}

/// Says how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Is for how long.
    pub keep: Duration,
    /// Bounds all files together, in bytes: the oldest go first.
    pub bytes_max: u64,
    /// Is the size of one file, in bytes, where it is not the usual one.
    pub segment_bytes: Option<u64>,
}

/// Tells how the log is.
#[derive(Debug, Clone, Default)]
pub struct AuditFacts {
    /// Is the last entry, and the hash at it; none before the log is open.
    pub head: Option<(u64, Chain)>,
    /// Counts what was not recorded since the start.
    pub lost: u64,
    /// Says since when nothing is written, and why.
    pub failed: Option<(SystemTime, String)>,
    /// Is the last entry that is durable, and the hash at it: what peers are told.
    pub synced: Option<(u64, Chain)>,
    /// Says since when it is known that the log is not as it was written or what peers were told, and how.
    pub contradicted: Option<(SystemTime, String)>,
    /// Lists the peers that said how far their logs go, and where one is not what it was, since when that is known, and how.
    pub peers: BTreeMap<String, Option<(SystemTime, String)>>,
}

/// Is what waits for the thread.
#[derive(Default)]
struct Queue {
    records: Vec<Record>,
    keys: Option<BTreeMap<String, String>>,
    lost: u64,
    has_stopped: bool,
    /// Is who wants to know the number of the entry before a record, and that record's place in `records`.
    marks: Vec<(usize, oneshot::Sender<u64>)>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    facts: Mutex<AuditFacts>,
    /// Is how far each source is recorded, or waits to be, once that is known. Taken behind `queue`.
    positions: Mutex<Option<BTreeMap<String, u64>>>,
    trace_key: TraceKey,
    proof_key: ProofKey,
    /// Is what this site and its peers know of each other's logs, once that was read.
    known: Mutex<Option<BTreeMap<String, Known>>>,
    /// Is what this start of the site told peers of the log.
    issued: Mutex<Issued>,
    has_key: bool,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Takes records for the log.
#[derive(Clone)]
pub struct Account(Arc<Shared>);

impl Account {
    /// Starts the thread that keeps the log in a directory. It never fails: where there is no log, `facts` say why, and what
    /// happens is counted as lost.
    pub fn start(directory: &Path, site: &str, limits: Limits) -> Self {
        let key = store::load_or_create_key(directory);
        let mut facts = AuditFacts::default();
        let bytes = match &key {
            Ok(key) => *key.expose(),
            Err(error) => {
                facts.failed = Some((SystemTime::now(), error.to_string()));
                tracing::error!(%error, "no audit log is kept");
                [0; 32]
            }
        };
        let account = Self(Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            facts: Mutex::new(facts),
            positions: Mutex::default(),
            trace_key: TraceKey::new(&bytes),
            proof_key: ProofKey::new(&bytes),
            known: Mutex::default(),
            issued: Mutex::default(),
            has_key: key.is_ok(),
            thread: Mutex::default(),
        }));
        if let Ok(key) = key {
            let writer = writer::Writer::new(Arc::clone(&account.0), directory, key, site, limits);
            match std::thread::Builder::new().name("wl-audit".to_owned()).spawn(move || writer.run()) {
                Ok(thread) => *account.0.lock_thread() = Some(thread),
                Err(error) => {
                    let error = AuditError::Thread(error).to_string();
                    account.0.lock_facts().failed = Some((SystemTime::now(), error));
                }
            }
        }
        account
    }

    /// Returns what makes keyed hashes of what messages have; none where there is no key.
    pub fn trace_key(&self) -> Option<&TraceKey> {
        self.0.has_key.then_some(&self.0.trace_key)
    }

    /// Takes a record; where there is no room it is counted as lost. Never waits.
    pub fn record(&self, record: Record) {
        self.put(&mut self.0.lock_queue(), record);
    }

    fn put(&self, queue: &mut Queue, record: Record) -> bool {
        if queue.records.len() >= RECORDS_MAX || queue.has_stopped {
            queue.lost += 1;
            self.0.lock_facts().lost += 1;
            return false;
        }
        self.0.note_positions(std::slice::from_ref(&record));
        queue.records.push(record);
        if queue.records.len() == 1 {
            self.0.wake.notify_one();
        }
        true
    }

    /// Takes a record as `record` does, and tells the number of the entry before it once that is known; where the record is
    /// lost, the error of a sender that is gone.
    pub fn record_behind(&self, record: Record) -> oneshot::Receiver<u64> {
        let (sender, behind) = oneshot::channel();
        let mut queue = self.0.lock_queue();
        let place = queue.records.len();
        if self.put(&mut queue, record) {
            queue.marks.push((place, sender));
        }
        behind
    }

    /// Takes records that are written elsewhere as well, all or none: who has them tries again.
    ///
    /// # Errors
    /// There is no room; the records come back.
    pub fn offer(&self, mut records: Vec<Record>) -> Result<(), Vec<Record>> {
        let mut queue = self.0.lock_queue();
        // Half of the room stays for what is written nowhere else.
        if queue.records.len() + records.len() > RECORDS_MAX / 2 {
            return Err(records);
        }
        self.0.note_positions(&records);
        queue.records.append(&mut records);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Says which public keys there are, by name, this site's own by `""`: one that differs from before is recorded.
    pub fn keys(&self, keys: BTreeMap<String, String>) {
        self.0.lock_queue().keys = Some(keys);
        self.0.wake.notify_one();
    }

    /// Returns how far a source is recorded, 0 where nothing was; none while that is not known yet.
    pub fn position(&self, source: &str) -> Option<u64> {
        let positions = self.0.positions.lock().unwrap_or_else(PoisonError::into_inner);
        positions.as_ref().map(|positions| positions.get(source).copied().unwrap_or_default())
    }

    /// Tells how the log is.
    pub fn facts(&self) -> AuditFacts {
        self.0.lock_facts().clone()
    }

    /// Writes what waits, and ends the thread; blocks until it has.
    pub fn stop(&self) {
        self.0.lock_queue().has_stopped = true;
        self.0.wake.notify_one();
        let thread = self.0.lock_thread().take();
        // What a panic in it left unwritten is lost either way.
        thread.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Shared {
    /// Takes note of how far records bring their sources: who opens one again goes on from there.
    fn note_positions(&self, records: &[Record]) {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(positions) = positions.as_mut() else { return };
        for Position { source, through } in records.iter().filter_map(|record| record.position.as_ref()) {
            match positions.get_mut(&**source) {
                Some(known) => *known = *through,
                None => drop(positions.insert(source.to_string(), *through)),
            }
        }
    }

    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_facts(&self) -> MutexGuard<'_, AuditFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_thread(&self) -> MutexGuard<'_, Option<std::thread::JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
