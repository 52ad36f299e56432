//! The thread of the audit log: writes what waits, syncs at intervals, and tries again where that fails.
//!
//! Never stops because of a record. Where nothing can be written, what it holds is bounded, and so is the queue before it:
//! what finds no room there is counted, and an entry says how much that was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::event::{Event, Record, Subject};
use super::store::Store;
use super::{Accepted, Account, AuditError, Chain, Limits, Queue, Shared, accepted, peers};
use crate::config::SecretKey;

/// Is how long the thread gathers before it writes: one wake and one write for all that comes within, and what a kill of
/// the process may lose of what is written nowhere else.
const GATHER: Duration = Duration::from_millis(50);
/// Is the time from a record to its sync at the longest: what a loss of power may lose; one sync takes the disk from the
/// spools for a moment.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Is the pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Is the time between two looks for what is old.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Is the time between two looks for what peers said of the logs.
const PEERS_EVERY: Duration = Duration::from_secs(5);
/// Bounds what waits to be synced, in bytes: beyond it the queue fills.
const PENDING_BYTES_MAX: usize = 32 << 20;

/// Is the thread's state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    directory: PathBuf,
    key: SecretKey,
    site: String,
    limits: Limits,
    store: Option<Store>,
    /// Is how far the log went before its file was taken away under it.
    went_to: Option<(u64, Chain)>,
    synced: Instant,
    pruned: Option<Instant>,
    /// Is when it was written down last what peers know.
    told: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, directory: &Path, key: SecretKey, site: &str, limits: Limits) -> Self {
        let (directory, site) = (directory.to_owned(), site.to_owned());
        let synced = Instant::now();
        Self { shared, directory, key, site, limits, store: None, went_to: None, synced, pruned: None, told: None }
    }

    /// Keeps the log until it is told to stop.
    pub(super) fn run(mut self) {
        loop {
            let has_stopped = self.wait();
            let done = self.turn(has_stopped);
            self.tell(done.as_ref().err());
            if has_stopped {
                return;
            }
            if done.is_err() {
                std::thread::sleep(RETRY);
            }
        }
    }

    /// Waits for records, or until something is due; says whether this is the end.
    fn wait(&self) -> bool {
        let is_idle = self.store.as_ref().is_some_and(|store| store.pending_bytes() == 0);
        let due = match (&self.store, is_idle) {
            (None, _) => Duration::ZERO,
            (Some(_), false) => SYNC_EVERY.saturating_sub(self.synced.elapsed()),
            (Some(_), true) => PEERS_EVERY,
        };
        let is_quiet = |queue: &mut Queue| {
            queue.records.is_empty() && queue.keys.is_none() && queue.lost == 0 && !queue.has_stopped
        };
        let queue = self.shared.lock_queue();
        let waited = self.shared.wake.wait_timeout_while(queue, due, is_quiet);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (is_quiet, has_stopped) = (queue.records.is_empty(), queue.has_stopped);
        drop(queue);
        if !is_quiet && !has_stopped {
            std::thread::sleep(GATHER);
        }
        has_stopped
    }

    fn turn(&mut self, is_last: bool) -> Result<(), AuditError> {
        let store = match &mut self.store {
            Some(store) => store,
            none => {
                let store = Store::open(&self.directory, self.key.expose(), &self.site, self.limits, self.went_to)?;
                let positions = store.standing().positions.clone();
                let waiting = self.shared.lock_queue();
                *self.shared.positions.lock().unwrap_or_else(PoisonError::into_inner) = Some(positions);
                self.shared.note_positions(&waiting.records);
                drop(waiting);
                // What an earlier run wrote and did not sync was synced as it was read.
                self.shared.lock_facts().synced = Some(store.head()).filter(|_| store.pending_bytes() == 0);
                let (accepted, by) = accepted::load(&self.directory, self.key.expose());
                {
                    let mut issued = self.shared.issued.lock().unwrap_or_else(PoisonError::into_inner);
                    (issued.after, issued.accepted) = (Some(store.head().0), accepted);
                }
                if accepted != Accepted::default() {
                    let Accepted { own, foreign } = accepted;
                    let detail = format!(
                        "accepted: what peers know of this log up to entry {own}, of another key's up to {foreign}"
                    );
                    let record = Record::new(SystemTime::now(), Event::Configured, Subject::default());
                    Account(Arc::clone(&self.shared)).record(Record { detail, by, ..record });
                }
                if let Some(fault) = &store.fault {
                    self.shared.lock_facts().contradicted.get_or_insert((SystemTime::now(), fault.clone()));
                }
                Account(Arc::clone(&self.shared)).begin_known(&self.directory);
                none.insert(store)
            }
        };
        if let Err(gone) = store.check_place() {
            // What waits in the queue comes into the new file, behind an entry that says what is missing.
            self.went_to = self.shared.lock_facts().synced;
            self.store = None;
            return Err(gone);
        }
        if store.pending_bytes() < PENDING_BYTES_MAX || is_last {
            take(store, &self.shared);
        }
        store.write()?;
        if is_last || self.synced.elapsed() >= SYNC_EVERY {
            store.sync()?;
            self.synced = Instant::now();
        }
        if is_last || self.told.is_none_or(|told| told.elapsed() >= PEERS_EVERY) {
            self.told = Some(Instant::now());
            let account = Account(Arc::clone(&self.shared));
            let (records, taken) = account.take_accepted(&self.directory);
            if !records.is_empty() {
                // Before it counts: who accepted it is not to be lost.
                records.iter().for_each(|record| store.append(record));
                store.sync()?;
            }
            peers::store(&self.directory, &self.shared.known)?;
            // One that stays names what does not stand any more.
            taken.iter().for_each(|path| drop(std::fs::remove_file(path)));
            account.compare(&self.directory)?;
        }
        if self.pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_EVERY) {
            self.pruned = Some(Instant::now());
            store.prune(SystemTime::now())?;
        }
        Ok(())
    }

    fn tell(&self, failure: Option<&AuditError>) {
        let mut facts = self.shared.lock_facts();
        facts.head = self.store.as_ref().map(Store::head).or(facts.head);
        let synced = self.store.as_ref().filter(|store| store.pending_bytes() == 0).map(Store::head);
        facts.synced = synced.or(facts.synced);
        match (failure.map(ToString::to_string), &facts.failed) {
            (None, None) => {}
            (None, Some(_)) => {
                tracing::info!("the audit log is written again");
                facts.failed = None;
            }
            (Some(cause), Some((_, before))) if cause == *before => {}
            (Some(cause), _) => {
                tracing::error!(%cause, "the audit log cannot be written: what happens is kept in memory, within a bound");
                facts.failed = Some((SystemTime::now(), cause));
            }
        }
    }
}

/// Takes all that waits.
fn take(store: &mut Store, shared: &Shared) {
    let (records, keys, lost, marks) = {
        let mut queue = shared.lock_queue();
        let Queue { records, keys, lost, marks, .. } = &mut *queue;
        (std::mem::take(records), keys.take(), std::mem::take(lost), std::mem::take(marks))
    };
    let mut marks = marks.into_iter().peekable();
    for (place, record) in records.iter().enumerate() {
        while let Some((_, mark)) = marks.next_if(|(marked, _)| *marked == place) {
            // Who does not want to know any more is gone.
            mark.send(store.head().0).ok();
        }
        store.append(record);
    }
    if let Some(keys) = keys {
        note_keys(store, &keys);
    }
    if lost > 0 {
        let detail = "not recorded: the log could not be written as fast as things happened".to_owned();
        let record = Record::new(SystemTime::now(), Event::Lost, Subject::default());
        store.append(&Record { count: lost, detail, ..record });
    }
}

/// Records which public keys are others than before.
fn note_keys(store: &mut Store, keys: &BTreeMap<String, String>) {
    let known = store.standing().keys.clone();
    if known == *keys {
        return;
    }
    let named = |name: &String| if name.is_empty() { "this site".to_owned() } else { name.clone() };
    let differs = |(name, key): &(&String, &String)| known.get(*name).is_some_and(|before| before != *key);
    let changed = keys.iter().filter(differs).map(|(name, _)| format!("changed: {}", named(name)));
    let new = keys.keys().filter(|name| !known.contains_key(*name)).map(|name| format!("new: {}", named(name)));
    let gone = known.keys().filter(|name| !keys.contains_key(*name)).map(|name| format!("gone: {}", named(name)));
    let detail = changed.chain(new).chain(gone).collect::<Vec<_>>().join(", ");
    let record = Record { detail, ..Record::new(SystemTime::now(), Event::KeyChanged, Subject::default()) };
    store.append_keys(&record, keys);
}
