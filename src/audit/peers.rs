//! Where it is kept what this site and its peers know of each other's audit logs: `peers/NAME.json` beside the log.
//!
//! Never takes a file that somebody changed for none: it is named, until what the peer tells takes its place.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::read::{Witness, segments, stated};
use super::witness::{Ended, Heads, Known, News, ProofKey};
use super::{Account, AuditError, Event, Record, Subject, accepted};
use crate::config::Name;

/// Names the directory.
pub(super) const DIRECTORY: &str = "peers";
/// Bounds a file, in bytes: two thousand heads.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bounds the peers: what `wg` and the configuration allow, and more.
const PEERS_MAX: usize = 8192;

/// Reads what is known with each peer, and says of which it cannot be read.
pub(super) fn load(directory: &Path) -> (BTreeMap<String, Known>, Vec<(String, AuditError)>) {
    let (mut known, mut unread) = (BTreeMap::new(), Vec::new());
    let Ok(entries) = fs::read_dir(directory.join(DIRECTORY)) else { return (known, unread) };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).take(PEERS_MAX) {
        let name = path.file_stem().and_then(|stem| Name::new(stem.to_str()?));
        let Some(name) = name.filter(|_| path.extension().is_some_and(|found| found == "json")) else { continue };
        match load_one(&path, name.as_str()) {
            Ok(found) => drop(known.insert(name.to_string(), found)),
            Err(error) => unread.push((name.to_string(), error)),
        }
    }
    (known, unread)
}

fn load_one(path: &Path, name: &str) -> Result<Known, AuditError> {
    let failed = |source| AuditError::File { doing: "read", path: path.to_owned(), source };
    let changed = || AuditError::Peer { path: path.to_owned(), name: name.to_owned() };
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        return Err(changed());
    }
    let found = serde_json::from_slice::<Known>(&fs::read(path).map_err(failed)?).ok();
    found.filter(Known::is_readable).ok_or_else(changed)
}

/// Lists the files that do not say what a peer knows, or that cannot be read.
pub fn unread(directory: &Path) -> Vec<AuditError> {
    load(directory).1.into_iter().map(|(_, error)| error).collect()
}

/// Lists the logs of a peer that ended and that no operator has accepted.
pub fn ended(directory: &Path, peer: &str) -> Vec<Ended> {
    load(directory).0.get(peer).map(|one| one.ended().to_vec()).unwrap_or_default()
}

/// Writes what changed, durably; nobody who asks meanwhile waits for the disk.
pub(super) fn store(directory: &Path, known: &Mutex<Option<BTreeMap<String, Known>>>) -> Result<(), AuditError> {
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let mut changed = Vec::new();
    for (name, one) in lock().iter_mut().flatten().filter(|(_, one)| one.is_changed) {
        one.is_changed = false;
        changed.push((name.clone(), one.clone()));
    }
    let place = directory.join(DIRECTORY);
    let write = |name: &str, one: &Known| {
        let (path, draft) = (place.join(format!("{name}.json")), place.join(format!("{name}.new")));
        let written = (|| {
            DirBuilder::new().recursive(true).mode(0o700).create(&place)?;
            let mut file = File::create(&draft)?;
            file.write_all(&serde_json::to_vec(one)?)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        })();
        written.map_err(|source| AuditError::File { doing: "write", path, source })
    };
    let mut failed = Ok(());
    for (name, one) in changed {
        if let Err(error) = write(&name, &one) {
            failed = Err(error);
            lock().iter_mut().flatten().filter(|(other, _)| **other == name).for_each(|(_, one)| one.is_changed = true);
        }
    }
    failed
}

/// Lists what peers know of a log, by what they told its site; only what that site had said itself.
/// What cannot be read is no witness.
pub fn witnesses(directory: &Path, key: &[u8; 32]) -> Vec<Witness> {
    let key = ProofKey::new(key);
    let (known, _) = load(directory);
    let of = |(name, one): (&String, &Known)| {
        let heads = one.told().filter(|head| key.is_own(head));
        heads.map(|head| Witness { name: name.clone(), n: head.n, chain: head.chain }).collect::<Vec<_>>()
    };
    known.iter().flat_map(of).collect()
}

/// Lists the peers that keep a head of a log of this site that another key made, with the furthest entry of each.
pub fn foreign(directory: &Path, key: &[u8; 32]) -> Vec<(String, u64)> {
    let key = ProofKey::new(key);
    load(directory).0.into_iter().filter_map(|(name, one)| Some((name, one.foreign(&key)?.n))).collect()
}

impl Account {
    /// Takes note that a link with a peer begins.
    pub fn begin_heads(&self, peer: &str) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_mut().and_then(|known| known.get_mut(peer)).into_iter().for_each(Known::begin);
    }

    /// Compares what peers gave back with the files, for one file of the log: what is left has its turn.
    pub(super) fn compare(&self, directory: &Path) -> Result<(), AuditError> {
        let lock = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = lock().iter().flatten().filter_map(|(_, one)| one.waiting()).max() else { return Ok(()) };
        let segments = segments(directory)?;
        let segment = segments.iter().rev().find(|segment| segment.first <= last);
        let first = segment.map_or(0, |segment| segment.first);
        let of = |(name, one): (&String, &mut Known)| (name.clone(), one.take_waiting(first));
        let taken: Vec<_> = lock().iter_mut().flatten().map(of).collect();
        // What is before the first file was removed because it was old, or `verify` misses it.
        let Some(segment) = segment else { return Ok(()) };
        let wanted = taken.iter().flat_map(|(_, heads)| heads).map(|head| head.n).collect();
        let found = stated(segment, &wanted).map_err(|source| AuditError::File {
            doing: "read",
            path: segment.path.clone(),
            source,
        })?;
        for (name, heads) in taken {
            let news = lock().as_mut().and_then(|known| known.get_mut(&name)?.handle_files(&heads, &found));
            news.into_iter().for_each(|news| self.tell(&name, news, SystemTime::now()));
        }
        Ok(())
    }

    /// Returns what a peer is told: how far this log goes, and which heads of its own log are kept here.
    pub fn heads_for(&self, peer: &str) -> Heads {
        let own = self.0.lock_facts().synced.filter(|_| self.0.has_key);
        let own = own.map(|(n, chain)| self.0.proof_key.head(n, chain));
        own.iter().for_each(|head| self.0.issued.lock().unwrap_or_else(PoisonError::into_inner).note(head));
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known.as_mut().and_then(|known| known.get_mut(peer)).map(Known::poll_kept);
        Heads { own, kept: kept.unwrap_or_default() }
    }

    /// Takes in what a peer says.
    pub fn hear_heads(&self, peer: &str, heads: &Heads) {
        let now = SystemTime::now();
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let issued = self.0.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let (news, standing) = {
            let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
            // Until what was known is read, nothing is compared with it, and nothing takes its place.
            let Some(known) = known.as_mut() else { return };
            let one = known.entry(peer.to_owned()).or_default();
            // Who has no key cannot tell what is its own.
            let kept = if self.0.has_key { heads.kept.clone() } else { Vec::new() };
            let news = one.handle_heads(&Heads { own: heads.own, kept }, &issued, &self.0.proof_key, seconds);
            (news, one.standing())
        };
        drop(issued);
        if heads.own.is_some() {
            self.stand(peer, standing);
        }
        news.into_iter().for_each(|one| self.tell(peer, one, now));
    }

    /// Takes note of how a peer's log is: not what it was, since when, and how; or as it was.
    fn stand(&self, peer: &str, standing: Option<(u64, String)>) {
        // What is in a file may be beyond any time.
        let since = |at| UNIX_EPOCH.checked_add(Duration::from_secs(at)).unwrap_or_else(SystemTime::now);
        let fault = standing.map(|(at, text)| (since(at), text));
        self.0.lock_facts().peers.insert(peer.to_owned(), fault);
    }

    /// Takes over what was known before the start.
    pub(super) fn begin_known(&self, directory: &Path) {
        let (known, unread) = load(directory);
        let standing = known.iter().filter_map(|(name, one)| Some((name, one.standing()?)));
        standing.for_each(|(name, standing)| self.stand(name, Some(standing)));
        *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        for (name, error) in unread {
            self.tell(&name, News::OwnLog(error.to_string()), SystemTime::now());
        }
    }

    /// Takes up what an operator accepted of peers' logs; returns the entries that say so, and the files that are to be
    /// removed once those are durable.
    pub(super) fn take_accepted(&self, directory: &Path) -> (Vec<Record>, Vec<PathBuf>) {
        let lock = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_waiting = |(name, one): (&String, &Known)| (!one.ended().is_empty()).then(|| name.clone());
        let waiting: Vec<String> = lock().iter().flatten().filter_map(is_waiting).collect();
        let (mut records, mut paths) = (Vec::new(), Vec::new());
        for name in waiting {
            let Some((path, ended, by)) = accepted::load_of_peer(directory, &name) else { continue };
            let Some((gone, standing)) =
                lock().as_mut().and_then(|known| known.get_mut(&name)).map(|one| (one.accept(&ended), one.standing()))
            else {
                continue;
            };
            self.stand(&name, standing);
            let subject = Subject { peer: Some(name.as_str().into()), ..Subject::default() };
            records.extend(gone.iter().map(|one| {
                let record = Record::new(SystemTime::now(), Event::Configured, subject.clone());
                Record { detail: format!("accepted of the peer's log: {one}"), by: by.clone(), ..record }
            }));
            paths.push(path);
        }
        (records, paths)
    }

    fn tell(&self, peer: &str, news: News, now: SystemTime) {
        let subject = Subject { peer: Some(peer.into()), ..Subject::default() };
        let (event, detail) = match news {
            News::PeersLog(text) => (Event::PeerLog, text),
            News::OwnLog(text) => {
                self.0.lock_facts().contradicted.get_or_insert((now, format!("{text} ({peer})")));
                (Event::Broken, text)
            }
        };
        tracing::error!(%peer, event = event.name(), %detail, "an audit log is not what it was");
        self.record(Record { detail, ..Record::new(now, event, subject) });
    }
}

#[cfg(test)]
mod tests;
