//! How far a site came with the stored messages of one forward of a peer: watermark, present attempt, outcomes.
//!
//! It holds no message, and of an answer only what is sealed. Each forward has its own database and its own thread, so
//! that a fault of one stops no other. After a failure the database is closed; the next call opens and verifies it,
//! nothing is tried again in place. Rules: design, delivery.md ("stored").

mod store;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use self::store::Store;
use super::key::{self, SpoolKey};
use super::ledger::{Attempt, Finished, Ledger};
use super::reserve::{LOOK_EVERY, Reserve};
use super::seal::Sealer;
use super::{FarView, ForwardId, Opening, Outcome, Sequence, SpoolError};
use crate::config::Name;

/// Counts the forwards of one peer that may ever have an inbox: a peer makes up their ids, and each takes a file and,
/// while it is in use, a thread. A site has a few; a spool that is made anew has a new id.
pub const INBOXES_PER_PEER_MAX: usize = 64;
/// Counts what waits for the writer: one commit, and the few questions of one link.
const JOBS_MAX: usize = 16;
/// Is the stack of a writer, in bytes: SQLite's own calls are shallow here.
const STACK_BYTES: usize = 512 << 10;

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// Is how far a site came with one forward of a peer.
pub struct Inbox {
    jobs: mpsc::Sender<Job>,
}

impl Inbox {
    /// Opens the inbox of a forward of a peer below `dir`, or makes it. Without a key, receivers' answers are not kept.
    /// It blocks.
    ///
    /// # Errors
    /// The peer has too many, the database is damaged, in use, or cannot be written.
    pub fn open(dir: &Path, peer: &str, forward: ForwardId, key: Option<&SpoolKey>) -> Result<Arc<Self>, SpoolError> {
        let path = place(dir, peer, forward)?;
        let sealer = key.map(|key| Sealer::new(&key.sealing()));
        let reserve = Reserve::of(dir);
        let mut writer =
            Writer { path, forward, sealer, store: None, may_make: true, reserve, look_at: Instant::now() };
        writer.act(|_| Ok(()))?;
        writer.may_make = false;
        let (jobs, mut waiting) = mpsc::channel::<Job>(JOBS_MAX);
        let path = writer.path.clone();
        let run = move || {
            while let Some(job) = waiting.blocking_recv() {
                job(&mut writer);
            }
        };
        let thread = thread::Builder::new().name("wl-inbox".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(run).map_err(|source| SpoolError::file("start the writer of", path, source))?;
        Ok(Arc::new(Self { jobs }))
    }

    /// Tells how far it came.
    ///
    /// # Errors
    /// The store failed.
    pub async fn view(&self) -> Result<FarView, SpoolError> {
        self.call(|store| Ok(store.view())).await
    }

    /// Lists what became of messages above a sequence, in order.
    ///
    /// # Errors
    /// The store failed.
    pub async fn outcomes_after(&self, sequence: Sequence) -> Result<Vec<Outcome>, SpoolError> {
        self.call(move |store| store.outcomes_after(sequence)).await
    }

    /// Puts up to `retired_through` behind it where that is not so already; a fresh inbox begins there.
    ///
    /// # Errors
    /// Nothing is known to be written.
    pub async fn raise(&self, opening: &Opening) -> Result<(), SpoolError> {
        let opening = opening.clone();
        self.call(move |store| store.raise(&opening)).await
    }

    /// Lets go what became of messages that the near site has settled; what is left of it goes with a later commit.
    ///
    /// # Errors
    /// The store failed.
    pub async fn prune(&self, retired_through: Sequence) -> Result<(), SpoolError> {
        self.call(move |store| {
            store.prune(retired_through);
            Ok(())
        })
        .await
    }

    async fn call<T: Send + 'static>(
        &self,
        act: impl FnMut(&mut Store) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (answer, answered) = oneshot::channel();
        let job = move |writer: &mut Writer| {
            // Whoever asked may be gone.
            answer.send(writer.act(act)).ok();
        };
        self.jobs.send(Box::new(job)).await.map_err(|_| SpoolError::Closed)?;
        answered.await.map_err(|_| SpoolError::Closed)?
    }
}

impl Ledger for Inbox {
    async fn commit(&self, finished: Option<Finished>, attempting: Option<Attempt>) -> Result<(), SpoolError> {
        self.call(move |store| store.commit(finished.as_ref(), attempting)).await
    }

    async fn interrupted(&self) -> Result<Option<Attempt>, SpoolError> {
        self.call(|store| Ok(store.attempting())).await
    }

    fn is_gone(&self, error: &SpoolError) -> bool {
        is_gone(error)
    }
}

fn is_gone(error: &SpoolError) -> bool {
    matches!(error, SpoolError::Removed { .. } | SpoolError::CutShort { .. })
}

/// Is the only one who uses the database.
struct Writer {
    path: PathBuf,
    forward: ForwardId,
    sealer: Option<Sealer>,
    store: Option<Store>,
    /// Says that there may be none yet: one that goes while it is in use is never replaced by what is in memory of it.
    may_make: bool,
    reserve: Reserve,
    /// Is when room for the reserve is looked for, where it is not whole.
    look_at: Instant,
}

impl Writer {
    /// Does it, on a full disk with what is held in reserve.
    fn act<T>(&mut self, mut act: impl FnMut(&mut Store) -> Result<T, SpoolError>) -> Result<T, SpoolError> {
        let done = loop {
            match self.try_to(&mut act) {
                Err(SpoolError::Disk { path }) if self.reserve.release() => {
                    tracing::error!(path = %path.display(), "the disk of the inbox is full: its reserve is used");
                }
                done => break done,
            }
        };
        if !self.reserve.is_whole() && Instant::now() >= self.look_at {
            self.reserve.make();
            self.look_at = Instant::now() + LOOK_EVERY;
        }
        done
    }

    fn try_to<T>(&mut self, act: &mut impl FnMut(&mut Store) -> Result<T, SpoolError>) -> Result<T, SpoolError> {
        let done = act(self.store()?);
        done.inspect_err(|error| {
            if is_gone(error) {
                tracing::error!(%error, "an inbox is gone: what became of messages is not reported");
            }
            if error.is_failure() {
                // What the kernel holds of the file may be another thing now than what is on the disk.
                self.store = None;
            }
        })
    }

    fn store(&mut self) -> Result<&mut Store, SpoolError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => Store::open(&self.path, self.forward, self.sealer.clone(), self.may_make)?,
        };
        Ok(self.store.insert(store))
    }
}

/// Finds the file of an inbox; a new one only where the peer may have one more. Its directory is durable then.
fn place(dir: &Path, peer: &str, forward: ForwardId) -> Result<PathBuf, SpoolError> {
    let of_peer = dir.join(peer);
    if Name::new(peer).is_none() {
        return Err(SpoolError::file("name", of_peer, io::ErrorKind::InvalidInput.into()));
    }
    let id: String = forward.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = of_peer.join(format!("{id}.db"));
    if path.exists() {
        return Ok(path);
    }
    let failed = |source| SpoolError::file("make", &of_peer, source);
    let is_new = !of_peer.exists();
    DirBuilder::new().recursive(true).mode(0o700).create(&of_peer).map_err(failed)?;
    if is_new {
        key::sync_directory(&of_peer)?;
        key::sync_directory(dir)?;
    }
    let mut forwards = 0;
    for entry in fs::read_dir(&of_peer).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        forwards += usize::from(Path::new(&entry.file_name()).extension().is_some_and(|extension| extension == "db"));
    }
    if forwards >= INBOXES_PER_PEER_MAX {
        return Err(SpoolError::TooManyForwards { peer: peer.to_owned(), forwards, path: of_peer });
    }
    Ok(path)
}
