//! The spool of a stored forward as its senders and its link use it: opened, and opened again where that failed.
//!
//! It never says that a message is kept before the spool does, and never gives up on a spool that cannot be opened: what
//! is wrong is told, and tried again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};

use super::{Keep, NotAll, NotKept};
use crate::audit::Clerk;
use crate::config::{Name, SpoolKeyFile};
use crate::link::feed::QueueState;
use crate::mllp::trace::TraceKey;
use crate::spool::key::SpoolKey;
use crate::spool::register::{Register, Registered};
use crate::spool::reserve::is_reserve;
use crate::spool::store::{Appended, Destination, Limits, Spool, Tail, Wanted};
use crate::spool::{Refusal, SpoolError};

/// A sender waits so long for a spool that is being opened: one with a million messages takes less than a second.
const OPENS_WITHIN: Duration = Duration::from_secs(10);
/// A spool that cannot be opened is tried again after so long: whoever mends the disk need not know of us.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// A spool that this process itself has just let go of is free after so long at the most.
const LET_GO_AFTER: Duration = Duration::from_millis(100);

/// Says where a spool is and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Names the forward.
    pub name: String,
    /// Is the key that seals it.
    pub key: SpoolKeyFile,
    /// Is the directory of all spools: the key may be made where nothing is there that it seals.
    pub directory: PathBuf,
    /// Knows which spools there were.
    pub register: Register,
    /// Is where its messages are accepted for; none: no forward has the spool, and what is in it is held.
    pub destination: Option<Destination>,
    /// Is the stored forward whose way it takes, where it is not one itself any more, or an operator says so.
    pub moved_to: Option<Name>,
    /// Limits it.
    pub limits: Limits,
}

/// Says how the spool is.
#[derive(Clone)]
pub enum Opened {
    /// Nobody has tried yet.
    Not,
    /// It is open.
    Open(Arc<Spool>),
    /// It is not: since when, and why.
    Failed(SystemTime, SpoolError),
}

/// Is the spool of a forward.
pub struct Store {
    place: Mutex<Place>,
    opened: watch::Sender<Opened>,
    state: watch::Sender<QueueState>,
    /// Has it opened again now.
    again: Notify,
    retired: watch::Sender<bool>,
    /// Says that somebody keeps it open.
    is_kept: AtomicBool,
    /// Is when a message was settled last.
    settled: Mutex<Option<Instant>>,
    /// Is the key that it was opened with last.
    key: Mutex<Option<SpoolKey>>,
    /// Records what happens to its messages.
    clerk: OnceLock<Clerk>,
}

impl Store {
    /// Makes it; [`Store::run`] opens the spool.
    pub fn new(place: Place) -> Arc<Self> {
        Arc::new(Self {
            place: Mutex::new(place),
            opened: watch::Sender::new(Opened::Not),
            state: watch::Sender::default(),
            again: Notify::new(),
            retired: watch::Sender::new(false),
            is_kept: AtomicBool::new(false),
            settled: Mutex::new(None),
            key: Mutex::default(),
            clerk: OnceLock::new(),
        })
    }

    /// Returns where it is and what it is for.
    pub fn place(&self) -> Place {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says who records what happens to its messages; the first one that is said stays. Says whether it was the first.
    pub fn set_clerk(&self, clerk: Clerk) -> bool {
        self.clerk.set(clerk).is_ok()
    }

    /// Returns who records it.
    pub fn clerk(&self) -> Option<Clerk> {
        self.clerk.get().cloned()
    }

    /// Tells how the spool is.
    pub fn opened(&self) -> Opened {
        self.opened.borrow().clone()
    }

    /// Returns the spool where it is open.
    ///
    /// # Errors
    /// Why it is not.
    pub fn spool(&self) -> Result<Arc<Spool>, SpoolError> {
        match self.opened() {
            Opened::Open(spool) => Ok(spool),
            Opened::Failed(_, error) => Err(error),
            Opened::Not => Err(SpoolError::Closed),
        }
    }

    /// Waits while the spool is being opened, as just after a start or a reload: a message then is early, not refused.
    async fn opening_ended(&self) {
        let mut opened = self.follow_opened();
        let ended = opened.wait_for(|opened| !matches!(opened, Opened::Not));
        // A spool that was closed for good is not opened any more.
        drop(tokio::time::timeout(OPENS_WITHIN, ended).await);
    }

    /// Follows how the spool is.
    pub fn follow_opened(&self) -> watch::Receiver<Opened> {
        self.opened.subscribe()
    }

    /// Notes that a message was settled.
    pub fn note_settled(&self) {
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Says when a message was settled last, since the start.
    pub fn last_settled(&self) -> Option<Instant> {
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the key that it was opened with, also where the file is gone meanwhile.
    pub fn key(&self) -> Option<SpoolKey> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the spool, on a thread that may block.
    async fn open(&self) {
        let (place, trace) = (self.place(), self.clerk().and_then(|clerk| clerk.trace_key().cloned()));
        let held = self.key();
        let opened = tokio::task::spawn_blocking(move || open(&place, trace, held)).await;
        match opened.unwrap_or(Err(SpoolError::Closed)) {
            Ok((spool, key)) => {
                *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
                self.state.send_replace(state_of(&spool.tail().borrow()));
                self.opened.send_replace(Opened::Open(spool));
            }
            Err(error) => self.note_failure(error),
        }
    }

    fn note_failure(&self, error: SpoolError) {
        let name = self.place().name;
        let since = match self.opened() {
            Opened::Failed(since, before) if before.to_string() == error.to_string() => since,
            _ => {
                tracing::error!(forward = %name, %error, "the spool cannot be opened: the forward takes no messages");
                SystemTime::now()
            }
        };
        self.state.send_modify(|state| state.failed = Some(error.to_string()));
        self.opened.send_replace(Opened::Failed(since, error));
    }

    /// Follows the queue, for who reads it.
    pub(super) fn follow_state(&self) -> watch::Receiver<QueueState> {
        self.state.subscribe()
    }

    /// Has it take the way of another forward, or its own again, once the site takes that up; not over restarts.
    pub fn set_moved_to(&self, forward: Option<Name>) {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).moved_to = forward;
    }

    /// Takes other limits, another key file or another destination from now on. Who calls has seen that no message is
    /// queued for the one before.
    pub fn move_to(&self, place: Place) {
        let was = std::mem::replace(&mut *self.place.lock().unwrap_or_else(PoisonError::into_inner), place.clone());
        if was != place || matches!(self.opened(), Opened::Failed(..)) {
            self.again.notify_one();
        }
    }

    /// Tries at once to open a spool that could not be opened.
    pub fn look_again(&self) {
        self.again.notify_one();
    }

    /// Closes the spool: nobody has it any more. [`Store::run`] then returns.
    pub fn retire(&self) {
        self.retired.send_replace(true);
    }

    /// Waits until it is retired. Cancel-safe.
    pub async fn over(&self) {
        let mut retired = self.retired.subscribe();
        drop(retired.wait_for(|retired| *retired).await);
    }

    /// Keeps the spool open, and tells of its changes, until it is retired; returns at once where that is done already.
    /// Whoever has the spool may change meanwhile ([`Store::move_to`]). Cancel-safe.
    pub async fn run(self: Arc<Self>) {
        if self.is_kept.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut retired = self.retired.subscribe();
        tokio::select! {
            () = self.keep_open() => {}
            _ = retired.wait_for(|retired| *retired) => {}
        }
        self.opened.send_replace(Opened::Not);
    }

    async fn keep_open(&self) {
        loop {
            self.open().await;
            let pause = match self.opened() {
                Opened::Open(spool) => {
                    let tail = spool.tail();
                    drop(spool);
                    self.follow(tail).await;
                    continue;
                }
                Opened::Failed(_, SpoolError::InUse { .. }) => LET_GO_AFTER,
                Opened::Not | Opened::Failed(..) => REOPEN_AFTER,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.again.notified() => {}
            }
        }
    }

    /// Tells of the changes of an open spool until it is closed, or is to be opened anew.
    async fn follow(&self, mut tail: watch::Receiver<Tail>) {
        let (mut was_full, mut had_failed) = (false, None);
        loop {
            let (state, is_full) = {
                let tail = tail.borrow_and_update();
                (state_of(&tail), tail.disk_full)
            };
            self.log_failure(&mut had_failed, state.failed.as_ref());
            if std::mem::replace(&mut was_full, is_full) != is_full {
                let name = self.place().name;
                if is_full {
                    tracing::error!(
                        forward = %name,
                        "the spool's disk is full: no message is taken until there is room, what waits goes on"
                    );
                } else {
                    tracing::info!(forward = %name, "the spool's disk has room again: messages are taken");
                }
            }
            self.state.send_if_modified(|known| {
                let differs = *known != state;
                *known = state;
                differs
            });
            tokio::select! {
                changed = tail.changed() => if changed.is_err() {
                    return self.note_failure(SpoolError::Closed);
                },
                () = self.again.notified() => {
                    self.opened.send_replace(Opened::Not);
                    return;
                }
            }
        }
    }
}

impl Store {
    /// Has the log say once that an open spool failed, once for each cause, and once that it goes on.
    fn log_failure(&self, before: &mut Option<String>, now: Option<&String>) {
        if before.as_ref() != now {
            let name = self.place().name;
            match now {
                Some(error) => {
                    tracing::error!(forward = %name, %error, "the spool failed: the forward takes no messages")
                }
                None => tracing::info!(forward = %name, "the spool works again: messages are taken"),
            }
            *before = now.cloned();
        }
    }
}

/// Opens the spool that the register knows, or makes one where it knows of none; the register knows it when this returns.
/// Where the key's file is gone, it is opened with the one that is held from before.
fn open(place: &Place, trace: Option<TraceKey>, held: Option<SpoolKey>) -> Result<(Arc<Spool>, SpoolKey), SpoolError> {
    let known = place.register.find(&place.name)?;
    let others = place.register.names()?;
    let is_there = |name: &str| Spool::is_at(&place.directory, name);
    let is_new = known.is_none() && place.destination.is_some();
    if is_new && !is_there(&place.name) && !others.is_empty() && !others.iter().any(|name| is_there(name.as_str())) {
        return Err(SpoolError::NoneThere { path: place.directory.clone() });
    }
    let may_make = place.destination.is_some() && may_make_key(&place.key, &place.directory, &others);
    let key = match (SpoolKey::load_or_create(place.key.path(), may_make), held) {
        (Err(SpoolError::KeyMissing { .. }), Some(held)) if known.is_some() => held,
        (loaded, _) => loaded?,
    };
    let wanted = Wanted {
        spool: known.map(|known| known.spool),
        destination: place.destination.clone(),
        limits: place.limits.clone(),
        trace,
    };
    let spool = Spool::open(&place.directory, &place.name, &key, wanted)?;
    let (directory, moved_to) = (place.directory.clone(), place.moved_to.clone());
    let entry = Registered { spool: spool.id(), directory, moved_to };
    place.register.note(&place.name, &entry)?;
    Ok((spool, key))
}

/// Makes the key of the spools where there is none, and nothing that an earlier one seals.
///
/// # Errors
/// It cannot be made, or read.
pub fn make_first_key(key: &SpoolKeyFile, directory: &Path, register: &Register) -> Result<(), SpoolError> {
    let may_make = may_make_key(key, directory, &register.names()?);
    SpoolKey::load_or_create(key.path(), may_make).map(drop)
}

fn may_make_key(key: &SpoolKeyFile, directory: &Path, known: &[Name]) -> bool {
    key.may_be_made() && known.is_empty() && !has_spools(directory)
}

/// Tells whether there is a spool; what cannot be looked at may be one.
fn has_spools(all: &Path) -> bool {
    match std::fs::read_dir(all) {
        Ok(mut entries) => entries.any(|entry| !entry.is_ok_and(|entry| is_reserve(&entry.file_name()))),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn state_of(tail: &Tail) -> QueueState {
    QueueState {
        last: tail.last,
        retired_through: tail.retired_through,
        paused: tail.paused,
        damaged: tail.damaged.as_ref().map(|damaged| damaged.sequence),
        failed: tail.failed.clone(),
    }
}

impl Keep for Store {
    async fn append(&self, payloads: Vec<Vec<u8>>) -> Result<(), NotAll> {
        self.opening_ended().await;
        let spool = self.spool().map_err(|_| NotAll { kept: 0, why: NotKept::Failed })?;
        let Appended { kept, refused } = spool.append(payloads).await;
        let why = match refused {
            None => return Ok(()),
            Some(Refusal::Full { .. }) => NotKept::Full,
            Some(Refusal::Disk) => NotKept::Disk,
            Some(Refusal::Failed(_)) => NotKept::Failed,
        };
        Err(NotAll { kept: kept.len(), why })
    }
}

#[cfg(test)]
mod tests;
