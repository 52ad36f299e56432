//! The near site's spool: the durable queue of one forward, in a directory of its own.
//!
//! Never says that a message is kept before fsync returned, and never removes one that was accepted except as its
//! outcome, an operator and `keep_delivered` say. One thread has the database; all go through it. Rules: design,
//! delivery.md ("stored"); the format is in ARCHITECTURE.md ("The spool").

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, oneshot, watch};

mod core;
mod database;
mod destinations;
mod intake;
mod jobs;
mod ledger;
mod messages;
mod open;
mod operate;
mod operators;
mod outbox;
mod reading;
mod room;
mod settle;
mod sides;
mod tags;
#[cfg(test)]
mod tests;
mod writer;

pub use outbox::{Happening, OutboxEvent};

use self::core::Core;
pub use jobs::Appended;
use jobs::{Asked, Job, Work};
use open::Way;
use writer::{JOBS_MAX, Writer};

use super::key::SpoolKey;
use super::queue::State;
use super::{Damage, DigestKey, FarView, Judgement, Opening, Outcome};
use super::{Sequence, SpoolError, SpoolId, Verdict};
use crate::mllp::ack::AckCode;
use crate::mllp::trace::TraceKey;

/// Bounds the name of the thread, in bytes: what Linux shows of it.
const THREAD_NAME_BYTES_MAX: usize = 15;

/// Limits a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Is the number of messages that are queued or parked at most.
    pub messages_max: u64,
    /// Is the number of bytes of their payloads at most.
    pub bytes_max: u64,
    /// Is how long delivered messages are kept; zero removes them at once.
    pub keep_delivered: Duration,
}

/// Is where the messages of a forward go; each is kept for the one that it was accepted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Is the first key of the peer's line: one that takes its place in a session changes nothing here.
    pub peer_key: [u8; 32],
    /// Is the service's name or ADDRESS:PORT.
    pub target: String,
}

/// Is what a spool is opened with.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Is the spool that there was; none: one is made where none is there.
    pub spool: Option<SpoolId>,
    /// Is where messages are accepted for; none: none is.
    pub destination: Option<Destination>,
    /// Limits it.
    pub limits: Limits,
    /// Keys what names messages in the account; none: something that is known to the spool alone.
    pub trace: Option<TraceKey>,
}

/// Says how the queue stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Is the last sequence given.
    pub last: Sequence,
    /// Is the highest sequence up to which nothing is queued.
    pub retired_through: Sequence,
    /// Counts queued messages.
    pub depth: u64,
    /// Counts their bytes.
    pub bytes: u64,
    /// Counts messages that are set aside: they fill the queue as well.
    pub parked: u64,
    /// Counts their bytes.
    pub parked_bytes: u64,
    /// Is when the first queued message was accepted.
    pub oldest: Option<SystemTime>,
    /// Is where that first message was accepted for: it goes nowhere else, and those behind it wait.
    pub first_for: Option<Destination>,
    /// Counts queued messages by where they were accepted for.
    pub waiting: Vec<(Destination, u64)>,
    /// Counts the messages settled since the store was opened that the receiver may have twice, or may have although they
    /// were given up.
    pub in_doubt: u64,
    /// Counts the copies of delivered messages that are kept.
    pub delivered: u64,
    /// Counts their bytes.
    pub delivered_bytes: u64,
    /// Counts those that went before `keep_delivered` was over since the store was opened: the disk was short.
    pub shredded_early: u64,
    /// Says whether an operator paused the forward.
    pub paused: bool,
    /// Is the queued message that is damaged, as far as one was found: it and what is behind it wait for an operator.
    pub damaged: Option<DamagedMessage>,
    /// Tells that the disk is full: no message is taken until there is room, what is kept goes on.
    pub disk_full: bool,
    /// Says what is wrong with the store.
    pub failed: Option<String>,
}

/// Is a message whose content is not what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedMessage {
    /// Is the message.
    pub sequence: Sequence,
    /// Says how.
    pub damage: Damage,
}

/// Is how a message ended, as far as it is still known. It has no `Debug`: the answer may name a patient.
#[derive(Clone, PartialEq, Eq)]
pub struct SettledAs {
    /// Says what became of it.
    pub verdict: Option<Verdict>,
    /// Is the code of the receiver's last answer.
    pub code: Option<AckCode>,
    /// Counts the attempts.
    pub attempts: u32,
    /// Counts those whose end is not known.
    pub in_doubt: u32,
    /// Is when.
    pub at: SystemTime,
    /// Is the payload of the answer.
    pub answer: Vec<u8>,
}

/// Describes a message without its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Listed {
    /// Is its number.
    pub sequence: Sequence,
    /// Is where it stands.
    pub state: State,
    /// Is the size of its payload, in bytes.
    pub bytes: u64,
    /// Is when it was accepted; none where that was changed.
    pub accepted: Option<SystemTime>,
    /// Is when it left the queue.
    pub settled: Option<SystemTime>,
    /// Is where it was accepted for.
    pub destination: Destination,
    /// Says whether the far site may have it.
    pub may_be_sent: bool,
    /// Is how it ended.
    pub outcome: Option<SettledAs>,
    /// Says what is missing of it, as far as that is seen without its content.
    pub fault: Option<Damage>,
    /// Lists what operators did with it, and with its queue as a whole since it was accepted; the latest at the end.
    pub decisions: Vec<OutboxEvent>,
}

/// Says how an operator ends a divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The far site is right: what it may have behind itself is not sent.
    AcceptFar,
    /// All that is queued is sent.
    Resend,
}

/// Says what a reconciliation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconciled {
    /// Counts messages that the far site has behind itself.
    pub settled: u64,
    /// Counts messages of which nobody can tell: they are set aside.
    pub parked: u64,
    /// Counts messages that are sent.
    pub queued: u64,
}

/// Is the open spool of a forward.
pub struct Spool {
    id: SpoolId,
    directory: PathBuf,
    digest_key: DigestKey,
    trace_key: TraceKey,
    jobs: Option<Sender<Job>>,
    room: Arc<Semaphore>,
    tail: watch::Receiver<Tail>,
    thread: Option<JoinHandle<()>>,
}

impl Spool {
    /// Opens the spool of a forward, or makes it where there is none; begins an epoch. Blocks.
    ///
    /// # Errors
    /// The key is another one, the spool is gone or another one, the database is damaged or was rolled back, or it cannot
    /// be opened. Nothing is changed then.
    pub fn open(dir: &Path, name: &str, key: &SpoolKey, wanted: Wanted) -> Result<Arc<Self>, SpoolError> {
        let directory = dir.join(name);
        let mut way = Way { directory: directory.clone(), key: key.clone(), wanted, is_suspect: false };
        let core = open::open(&way, true)?;
        let id = SpoolId(core.keys.spool);
        way.wanted.spool = Some(id);
        let (jobs, waiting) = mpsc::channel();
        let (sender, tail) = watch::channel(core.tail());
        let (digest_key, trace_key) = (core.keys.digest.clone(), core.keys.trace.clone());
        let writer = Writer::new(way, core, waiting, sender);
        let thread_name: String = format!("wl-spool-{name}").chars().take(THREAD_NAME_BYTES_MAX).collect();
        let thread = thread::Builder::new().name(thread_name).spawn(move || writer.run());
        let thread = thread.map_err(|source| SpoolError::file("start the thread of", &directory, source))?;
        let room = Arc::new(Semaphore::new(JOBS_MAX));
        Ok(Arc::new(Self { id, directory, digest_key, trace_key, jobs: Some(jobs), room, tail, thread: Some(thread) }))
    }

    /// Tells whether there is a spool of that name, whole or not. Blocks.
    pub fn is_at(dir: &Path, name: &str) -> bool {
        open::is_at(&dir.join(name))
    }

    /// Identifies it.
    pub fn id(&self) -> SpoolId {
        self.id
    }

    /// Returns what the far site is told first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn opening(&self) -> Result<Opening, SpoolError> {
        self.look(|core| Ok(core.opening())).await
    }

    /// Compares the far site's view with this one; what it makes doubtful is durable when this returns.
    ///
    /// # Errors
    /// The store failed.
    pub async fn judge(&self, view: FarView) -> Result<Judgement, SpoolError> {
        self.change(move |core| core.judge(view)).await
    }

    /// Settles messages; what is unknown or settled already is ignored. Returns what is retired then, durably.
    ///
    /// # Errors
    /// The store failed; nothing of it is settled.
    pub async fn settle(&self, outcomes: Vec<Outcome>) -> Result<Sequence, SpoolError> {
        self.change(move |core| core.settle(&outcomes)).await
    }

    /// Follows how the queue stands.
    pub fn tail(&self) -> watch::Receiver<Tail> {
        self.tail.clone()
    }

    /// Ends a divergence as an operator chose, given the far site's view. The spool is another one to the far site
    /// then: the link has to open anew.
    ///
    /// # Errors
    /// The store failed.
    pub async fn reconcile(&self, choice: Choice, view: FarView, by: &str) -> Result<Reconciled, SpoolError> {
        let by = by.to_owned();
        self.change(move |core| core.reconcile(choice, view, &by)).await
    }

    async fn look<T: Send + 'static>(
        &self,
        action: impl FnMut(&mut Core) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.send(Work::Look(Box::new(Asked { action, found: None, reply }))).await?;
        answer.await.unwrap_or(Err(SpoolError::Closed))
    }

    async fn change<T: Send + 'static>(
        &self,
        action: impl FnMut(&mut Core) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.send(Work::Change(Box::new(Asked { action, found: None, reply }))).await?;
        answer.await.unwrap_or(Err(SpoolError::Closed))
    }

    async fn send(&self, work: Work) -> Result<(), SpoolError> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| SpoolError::Closed)?;
        let jobs = self.jobs.as_ref().ok_or(SpoolError::Closed)?;
        jobs.send(Job { work, _permit: permit }).map_err(|_| SpoolError::Closed)
    }
}

impl Drop for Spool {
    /// Ends the thread after what it was asked; the database is closed when this returns.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // What a panic in it left uncommitted was never answered.
            drop(thread.join());
        }
    }
}
