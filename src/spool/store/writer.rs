//! The thread of a near spool: everything that waits goes into one transaction and one fsync, then all are answered.
//!
//! Never answers before the commit, and never goes on with a store whose write failed: that one is closed, opened
//! again and verified, and refuses what comes meanwhile. A full disk is no such failure: nothing was written.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Tail;
use super::core::{Core, now};
use super::jobs::{Appended, Job, Read, Work};
use super::messages::Found;
use super::open::{self, Way};
use crate::spool::reserve::LOOK_EVERY;
use crate::spool::{Damage, Refusal, Sequence, SpoolError};

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
/// Is the pause between two steps by which copies go where the disk is short: they keep up with what comes in.
const SHED_PAUSE: Duration = Duration::from_millis(5);
/// Is the pause after all messages were looked at.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Is the first and the longest pause between attempts to open a failed store again.
const REOPEN_MIN: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(30);

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
    /// Is where those are who ask.
    runtime: Option<Handle>,
    tidy_at: Instant,
    /// Is when the disk is looked at: whether the files are where they were, and have room.
    look_at: Instant,
}

impl Writer {
    /// Makes the thread's state of an open store.
    pub(super) fn new(way: Way, core: Core, jobs: Receiver<Job>, tail: watch::Sender<Tail>) -> Self {
        let now = Instant::now();
        Self { way, core: Ok(core), jobs, tail, runtime: Handle::try_current().ok(), tidy_at: now, look_at: now }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self) {
        loop {
            let due = match &self.core {
                Err(trouble) => trouble.retry_at,
                Ok(_) => self.tidy_at.min(self.look_at),
            };
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
            turn.look(core, job, &self.tail);
        }
        let ended = turn.end(core, &self.tail, self.runtime.as_ref());
        if let Err(error) = ended {
            self.close(error);
        }
    }

    /// Closes a store that failed.
    fn close(&mut self, cause: SpoolError) {
        // A page that nobody reads at a start would let it open, and close it again, for ever.
        self.way.is_suspect |=
            matches!(cause, SpoolError::Damaged { damage: Damage::Database, .. } | SpoolError::CutShort { .. });
        self.tail.send_modify(|tail| tail.failed = Some(cause.to_string()));
        self.core = Err(Trouble { cause, pause: REOPEN_MIN, retry_at: Instant::now() });
    }

    /// Opens a failed store again, or looks for what may be shredded, where it is time.
    fn upkeep(&mut self) {
        let at = Instant::now();
        match &mut self.core {
            Err(trouble) if at >= trouble.retry_at => match open::open(&self.way, false) {
                Ok(core) => {
                    self.way.is_suspect = false;
                    self.tail.send_replace(core.tail());
                    self.core = Ok(core);
                }
                Err(cause) => {
                    let cause = match (&trouble.cause, cause) {
                        // That one says more.
                        (removed @ SpoolError::Removed { .. }, SpoolError::Gone { .. }) => removed.clone(),
                        (cut @ SpoolError::CutShort { .. }, SpoolError::Damaged { .. } | SpoolError::Gone { .. }) => {
                            cut.clone()
                        }
                        (_, cause) => cause,
                    };
                    self.tail.send_modify(|tail| tail.failed = Some(cause.to_string()));
                    *trouble =
                        Trouble { cause, pause: (trouble.pause * 2).min(REOPEN_MAX), retry_at: at + trouble.pause };
                }
            },
            Ok(core) if at >= self.look_at => {
                let looked = core.check_presence().and_then(|()| core.look_at_disk());
                self.look_at = at + if matches!(looked, Ok(true)) { SHED_PAUSE } else { LOOK_EVERY };
                match looked {
                    Ok(_) => drop(self.tail.send_if_modified(|tail| {
                        let now = core.tail();
                        let differs = *tail != now;
                        *tail = now;
                        differs
                    })),
                    Err(error) => self.close(error),
                }
            }
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
    fn look(&mut self, core: &mut Core, job: Job, tail: &watch::Sender<Tail>) {
        match job.work {
            Work::Look(mut ask) => {
                let failure = ask.run(core).err();
                tell_damage(core, tail);
                ask.answer(failure.as_ref());
                self.failure = self.failure.take().or(failure);
            }
            Work::Read(read) => match core.read(&read.to, read.from, read.limits) {
                Ok(found) if found.last().is_some_and(|last| last.sequence > core.live.head.sent_through) => {
                    self.reserve = self.reserve.max(found.last().map(|last| last.sequence + SENT_AHEAD));
                    self.reads.push((read, found));
                }
                found => {
                    tell_damage(core, tail);
                    let failure = found.as_ref().err().filter(|error| error.is_failure()).cloned();
                    self.failure = self.failure.take().or(failure);
                    drop(read.reply.send(found));
                }
            },
            Work::Append(_) | Work::Change(_) => self.changes.push(job),
        }
    }

    /// Commits and answers the rest; an error is the store's.
    fn end(mut self, core: &mut Core, tail: &watch::Sender<Tail>, runtime: Option<&Handle>) -> Result<(), SpoolError> {
        if let Some(error) = self.failure.take() {
            self.answer(Some(&error));
            return Err(error);
        }
        if self.changes.is_empty() && self.reserve.is_none() && core.unnoted_damage().is_none() {
            return Ok(());
        }
        match self.commit_where_there_is_room(core) {
            Ok(()) => {
                // First, so that who has an answer finds it in the tail.
                tail.send_replace(core.tail());
                // A runtime that ends drops what it has not run.
                self.changes.iter_mut().for_each(Job::handle_committed);
                match runtime.filter(|_| self.changes.len() > 1) {
                    // From there, an answer wakes who waits by a place in a list; from here by a write to the kernel.
                    Some(runtime) => drop(runtime.spawn(async move { self.answer(None) })),
                    None => self.answer(None),
                }
                core.follow_up()
            }
            Err(error) => {
                self.answer(Some(&error));
                core.roll_back()?;
                tail.send_replace(core.tail());
                if matches!(error, SpoolError::Disk { .. }) { Ok(()) } else { Err(error) }
            }
        }
    }

    fn commit_where_there_is_room(&mut self, core: &mut Core) -> Result<(), SpoolError> {
        let has_messages = self.changes.iter().any(|job| matches!(job.work, Work::Append(_)));
        // Copies of delivered messages go before one is refused.
        let takes_messages = core.takes_messages() || has_messages && core.shed_for(0)?;
        let mut outcome = self.commit(core, takes_messages);
        if has_messages && takes_messages && matches!(outcome, Err(SpoolError::Disk { .. })) {
            core.roll_back()?;
            if core.shed_for(0)? {
                outcome = self.commit(core, true);
            }
        }
        while matches!(outcome, Err(SpoolError::Disk { .. })) {
            core.roll_back()?;
            // What is kept goes on with what is held in reserve; messages are not taken for it.
            let has_more = core.make_room()?;
            outcome = self.commit(core, false);
            if !has_more {
                break;
            }
        }
        outcome
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
        // Where there is no room it is noted with the next commit that finds some.
        if let Some(damaged) = core.unnoted_damage().filter(|_| with_messages) {
            core.note_damage(&damaged, at)?;
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

/// Tells of a damaged message, before whoever asked for it has its answer.
fn tell_damage(core: &Core, tail: &watch::Sender<Tail>) {
    tail.send_if_modified(|tail| {
        let is_new = tail.damaged != core.damaged;
        tail.damaged.clone_from(&core.damaged);
        is_new
    });
}

/// Looks for what may be shredded; returns when to look again.
fn tidy(core: &mut Core) -> Result<Duration, SpoolError> {
    core.begin()?;
    let tidied = core.tidy();
    match tidied {
        Ok(tidied) if tidied.changed => {
            core.commit()?;
            core.follow_up()?;
            let emptied = if tidied.destroyed { core.checkpoint() } else { Ok(()) };
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
        Err(SpoolError::Disk { .. }) => {
            core.roll_back()?;
            // The oldest go first, which is what this is about; the rest with the room of that.
            Ok(if core.shed_for(0)? { TIDY_PAUSE } else { TIDY_EVERY })
        }
        Err(error) => {
            core.roll_back()?;
            if error.is_failure() { Err(error) } else { Ok(TIDY_EVERY) }
        }
    }
}
