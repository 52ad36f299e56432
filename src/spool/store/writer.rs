//! The thread of a near spool: everything that waits goes into one transaction and one fsync, then all are answered.
//!
//! Never answers before the commit, and never goes on with a store whose write failed: that one is closed, opened
//! again and verified, and refuses what comes meanwhile. A full disk is no such failure: nothing was written.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::Tail;
use super::append::{Append, Appended};
use super::core::{Core, now};
use super::database;
use super::messages::Found;
use super::open::{self, Way};
use crate::spool::{Refusal, Sequence, SpoolError};

/// Bounds the jobs that wait for the thread, each of as many senders as a forward allows, and the messages of one
/// transaction; what one read of a sender brings stays together.
pub(super) const JOBS_MAX: usize = 1024;
/// Bounds the payloads of one transaction, in bytes: the log stays near its size.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Is how far ahead of what is read the reservation of what may be sent goes, in messages: one commit for so many, and
/// at most so many too many in doubt after a loss of the far site's state.
const SENT_AHEAD: u64 = 256;
/// Is the pause between two looks for what may be shredded, while there is something: twenty thousand messages a
/// second, and most of the time for others.
const TIDY_PAUSE: Duration = Duration::from_millis(25);
/// Is the pause after all messages were looked at.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Is the first and the longest pause between attempts to open a failed store again.
const REOPEN_MIN: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(30);

/// Is something asked of the thread, of any kind.
pub(super) trait Ask: Send {
    /// Does it; an error is the store's, and takes the whole transaction back. It may be called again then.
    fn run(&mut self, core: &mut Core) -> Result<(), SpoolError>;
    /// Answers, with what [`Ask::run`] found or with what failed.
    fn answer(self: Box<Self>, failure: Option<&SpoolError>);
}

/// Is an [`Ask`] of one closure.
pub(super) struct Asked<T, F> {
    pub(super) action: F,
    pub(super) found: Option<Result<T, SpoolError>>,
    pub(super) reply: oneshot::Sender<Result<T, SpoolError>>,
}

impl<T: Send, F: FnMut(&mut Core) -> Result<T, SpoolError> + Send> Ask for Asked<T, F> {
    fn run(&mut self, core: &mut Core) -> Result<(), SpoolError> {
        let found = (self.action)(core);
        let failure = found.as_ref().err().filter(|error| error.is_failure()).cloned();
        self.found = Some(found);
        failure.map_or(Ok(()), Err)
    }

    fn answer(self: Box<Self>, failure: Option<&SpoolError>) {
        let found = match failure {
            Some(error) => Err(error.clone()),
            None => self.found.unwrap_or(Err(SpoolError::Closed)),
        };
        // Who does not wait any more needs no answer.
        drop(self.reply.send(found));
    }
}

/// Asks for queued messages.
pub(super) struct Read {
    pub(super) from: Sequence,
    pub(super) limits: (usize, u64),
    pub(super) reply: oneshot::Sender<Result<Vec<Found>, SpoolError>>,
}

/// Is what is asked.
pub(super) enum Work {
    /// To keep messages.
    Append(Append),
    /// For queued messages.
    Read(Read),
    /// For something that changes nothing.
    Look(Box<dyn Ask>),
    /// For a change.
    Change(Box<dyn Ask>),
}

/// Is one job with its place among those that wait.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Job {
    fn answer(self, failure: Option<&SpoolError>) {
        match self.work {
            Work::Append(append) => append.answer(failure),
            Work::Read(read) => drop(read.reply.send(Err(failure.cloned().unwrap_or(SpoolError::Closed)))),
            Work::Look(ask) | Work::Change(ask) => ask.answer(failure),
        }
    }
}

/// Is why the store is closed, and when it is opened again.
struct Trouble {
    cause: SpoolError,
    pause: Duration,
    retry_at: Instant,
}

/// Is the thread's state.
pub(super) struct Writer {
    way: Way,
    core: Result<Core, Trouble>,
    jobs: Receiver<Job>,
    tail: watch::Sender<Tail>,
    tidy_at: Instant,
}

impl Writer {
    /// Makes the thread's state of an open store.
    pub(super) fn new(way: Way, core: Core, jobs: Receiver<Job>, tail: watch::Sender<Tail>) -> Self {
        Self { way, core: Ok(core), jobs, tail, tidy_at: Instant::now() }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self) {
        loop {
            let due = self.core.as_ref().map_or_else(|trouble| trouble.retry_at, |_| self.tidy_at);
            match self.jobs.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(first) => self.serve(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.upkeep();
        }
    }

    /// Takes what waits, as one batch.
    fn gather(&self, first: Job) -> Vec<Job> {
        let (mut batch, mut asked, mut bytes, mut next) = (Vec::new(), 0, 0, Some(first));
        while let Some(job) = next {
            asked += 1;
            if let Work::Append(append) = &job.work {
                asked += append.messages.len().saturating_sub(1);
                bytes += append.bytes();
            }
            batch.push(job);
            let is_full = asked >= JOBS_MAX || bytes >= BATCH_BYTES_MAX;
            next = if is_full { None } else { self.jobs.try_recv().ok() };
        }
        batch
    }

    fn serve(&mut self, first: Job) {
        let batch = self.gather(first);
        let core = match &mut self.core {
            Ok(core) => core,
            Err(trouble) => {
                batch.into_iter().for_each(|job| job.answer(Some(&trouble.cause)));
                return;
            }
        };
        let mut turn = Turn::default();
        for job in batch {
            turn.look(core, job);
        }
        let ended = turn.end(core, &self.tail);
        if let Err(error) = ended {
            self.close(error);
        }
    }

    /// Closes a store that failed.
    fn close(&mut self, cause: SpoolError) {
        self.tail.send_modify(|tail| tail.failed = Some(cause.to_string()));
        self.core = Err(Trouble { cause, pause: REOPEN_MIN, retry_at: Instant::now() });
    }

    /// Opens a failed store again, or looks for what may be shredded, where it is time.
    fn upkeep(&mut self) {
        let at = Instant::now();
        match &mut self.core {
            Err(trouble) if at >= trouble.retry_at => match open::open(&self.way, false) {
                Ok(core) => {
                    self.tail.send_replace(core.tail());
                    self.core = Ok(core);
                }
                Err(cause) => {
                    self.tail.send_modify(|tail| tail.failed = Some(cause.to_string()));
                    *trouble =
                        Trouble { cause, pause: (trouble.pause * 2).min(REOPEN_MAX), retry_at: at + trouble.pause };
                }
            },
            Ok(core) if at >= self.tidy_at => {
                let pause = tidy(core);
                self.tidy_at = at + *pause.as_ref().unwrap_or(&TIDY_EVERY);
                if let Err(error) = pause {
                    self.close(error);
                }
            }
            _ => {}
        }
    }
}

/// Is one turn of the thread: what is left of a batch after the looks.
#[derive(Default)]
struct Turn {
    changes: Vec<Job>,
    reads: Vec<(Read, Vec<Found>)>,
    reserve: Option<Sequence>,
    failure: Option<SpoolError>,
}

impl Turn {
    /// Answers what changes nothing, from what is committed; keeps the rest.
    fn look(&mut self, core: &mut Core, job: Job) {
        match job.work {
            Work::Look(mut ask) => {
                let failure = ask.run(core).err();
                ask.answer(failure.as_ref());
                self.failure = self.failure.take().or(failure);
            }
            Work::Read(read) => match core.read(read.from, read.limits) {
                Ok(found) if found.last().is_some_and(|last| last.sequence > core.live.head.sent_through) => {
                    self.reserve = self.reserve.max(found.last().map(|last| last.sequence + SENT_AHEAD));
                    self.reads.push((read, found));
                }
                found => {
                    let failure = found.as_ref().err().filter(|error| error.is_failure()).cloned();
                    self.failure = self.failure.take().or(failure);
                    drop(read.reply.send(found));
                }
            },
            Work::Append(_) | Work::Change(_) => self.changes.push(job),
        }
    }

    /// Commits and answers the rest; an error is the store's.
    fn end(mut self, core: &mut Core, tail: &watch::Sender<Tail>) -> Result<(), SpoolError> {
        if let Some(error) = self.failure.take() {
            self.answer(Some(&error));
            return Err(error);
        }
        if self.changes.is_empty() && self.reserve.is_none() {
            if core.damage.is_some() {
                tail.send_replace(core.tail());
            }
            return Ok(());
        }
        let mut outcome = self.commit(core, true);
        if matches!(outcome, Err(SpoolError::Disk { .. })) {
            core.roll_back()?;
            // What takes no room, or little, may still find it.
            outcome = self.commit(core, false);
        }
        match outcome {
            Ok(()) => {
                // First, so that who has an answer finds it in the tail.
                tail.send_replace(core.tail());
                self.answer(None);
                core.follow_up()
            }
            Err(error) => {
                self.answer(Some(&error));
                core.roll_back()?;
                if matches!(error, SpoolError::Disk { .. }) { Ok(()) } else { Err(error) }
            }
        }
    }

    fn commit(&mut self, core: &mut Core, with_messages: bool) -> Result<(), SpoolError> {
        core.begin()?;
        let at = now();
        for job in &mut self.changes {
            match &mut job.work {
                Work::Append(append) if with_messages => append.run(core, at)?,
                Work::Append(append) => append.outcome = Appended::none(Refusal::Disk),
                Work::Change(ask) => ask.run(core)?,
                Work::Read(_) | Work::Look(_) => {}
            }
        }
        if let Some(through) = self.reserve {
            core.reserve_sent(through);
        }
        core.commit()
    }

    fn answer(self, failure: Option<&SpoolError>) {
        self.changes.into_iter().for_each(|job| job.answer(failure));
        for (read, found) in self.reads {
            drop(read.reply.send(failure.map_or(Ok(found), |error| Err(error.clone()))));
        }
    }
}

/// Looks for what may be shredded; returns when to look again.
fn tidy(core: &mut Core) -> Result<Duration, SpoolError> {
    core.begin()?;
    let tidied = core.tidy();
    match tidied {
        Ok(tidied) if tidied.changed => {
            core.commit()?;
            core.follow_up()?;
            let emptied = if tidied.destroyed { database::checkpoint(&core.connection, &core.path) } else { Ok(()) };
            match emptied {
                Ok(()) => Ok(TIDY_PAUSE),
                // The log is written back with the next checkpoint that finds room.
                Err(SpoolError::Disk { .. }) => Ok(TIDY_EVERY),
                Err(error) => Err(error),
            }
        }
        Ok(tidied) => {
            core.roll_back()?;
            Ok(if tidied.is_end { TIDY_EVERY } else { TIDY_PAUSE })
        }
        Err(SpoolError::Disk { .. }) => core.roll_back().map(|()| TIDY_EVERY),
        Err(error) => {
            core.roll_back()?;
            if error.is_failure() { Err(error) } else { Ok(TIDY_EVERY) }
        }
    }
}
