//! The sender's connection in stored delivery: each message is kept, then acknowledged.
//!
//! It never acknowledges what the spool has not kept, and never looks at a receiver. Messages that come together are
//! kept together and answered in order, with one write. A sender of MLLP Release 2 gets the commit of each message once it
//! is kept, a negative one where it is not, then its answer. Rules: design, delivery.md ("stored: intake") and mllp.md.

mod batch;
mod held;
pub mod here;
mod judge;
pub mod outlet;
pub mod store;
mod unconfirmed;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::answer::write_all;
use crate::config;
use crate::link::carry::{DRAIN_WITHIN, Ended, Leg, TcpLeg};
use crate::link::streams::Moved;
use crate::link::tally::Tally;
use crate::link::wire::Cause;
use crate::mllp::exchange::{ANSWERS_COMMITS, UNMATCHED_MAX};
use crate::mllp::frame::{Anomaly, END_SILENCE, FrameReader, Limits, Violation, frame_time_max};
use batch::Batch;
pub(super) use held::Held;
use held::Share;
use unconfirmed::Unconfirmed;

/// One read, in bytes: what a sender that does not wait has sent during one commit. Shared by all connections of a thread.
const READ_BYTES: usize = 64 << 10;
/// Is why a connection ends whose frame comes slower.
const TOO_SLOW: &str = "frame_too_slow";
/// Is why a connection ends that goes beyond what all senders may hold together.
const TOO_MUCH_HELD: &str = "too_many_bytes_held";
/// Is why a connection ends that was silent for too long.
const IDLE: &str = "idle_timeout";
/// Is why a connection ends on which frames come that are no messages, and nothing else.
pub(super) const NO_MESSAGES: &str = "frames_without_message";
/// Bounds those frames, within so long: some senders say by an empty frame now and then that they are there.
const STRAYS_MAX: u32 = 1000;
const STRAYS_WITHIN: Duration = Duration::from_secs(10);
/// Is the end of a connection whose sender has finished.
const FINISHED: &str = "finished";
/// Is why a connection ends whose sender does not commit what it is answered (MLLP Release 2).
const NOT_COMMITTED: &str = "answer_not_committed";

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Keeps messages.
pub(super) trait Keep: Sync {
    /// Keeps the messages of one sender, in order; they are on disk when this returns. Once one is not kept, those behind
    /// it are not: what the sender sends again must not come behind them.
    fn append(&self, payloads: Vec<Vec<u8>>) -> impl Future<Output = Result<(), NotAll>> + Send;
}

/// Says which of some messages are kept: the first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAll {
    /// Counts them.
    pub(super) kept: usize,
    /// Says why the next one is not.
    pub(super) why: NotKept,
}

/// Says why a message is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotKept {
    /// The queue has as much as it may.
    Full,
    /// The disk has no room.
    Disk,
    /// The store takes nothing more.
    Failed,
}

impl NotKept {
    /// Returns the stable code, for counters.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Full => "queue_full",
            Self::Disk => "disk_full",
            Self::Failed => "spool_failed",
        }
    }
}

/// Is what the connection of one sender needs to know.
pub(super) struct Intake<'a, K> {
    pub(super) config: Arc<config::Forward>,
    pub(super) terms: config::Stored,
    pub(super) keep: &'a K,
    pub(super) tally: &'a Tally,
    pub(super) held: &'a Held,
    /// Turns true when the connection is to end: between two messages, after [`DRAIN_WITHIN`] in any case.
    pub(super) stop: watch::Receiver<bool>,
}

/// Is a connection that is being served.
struct Served<'a, K> {
    intake: Intake<'a, K>,
    sender: &'a TcpLeg,
    connection: u64,
    reader: FrameReader,
    share: Share<'a>,
    /// Are answers whose commits are awaited.
    unconfirmed: Option<Unconfirmed>,
    /// Counts what matched nothing since the last message (MLLP Release 2).
    unmatched: u32,
    strays: Strays,
    /// Is when the present frame was begun.
    begun: Option<Instant>,
    last_byte: Instant,
    /// Is when the connection was told to end.
    told: Option<Instant>,
}

/// Says what waiting brought.
enum Woken {
    /// There may be bytes.
    Readable,
    /// Nothing came for as long as ends a frame without its CR.
    Silence,
    /// The commit of an answer is overdue, or an answer is to be sent again.
    Overdue,
    /// The connection is to end, for this reason.
    End(&'static str),
}

impl<'a, K: Keep> Intake<'a, K> {
    /// Serves a sender until its connection ends, and returns why as a stable code.
    pub(super) async fn serve(self, sender: &'a TcpLeg, connection: u64) -> &'static str {
        let dialect = self.config.dialect;
        let limits =
            Limits { frame_bytes_max: self.config.message_bytes_max, framing: dialect.framing, ..Limits::default() };
        let unconfirmed = dialect.release.commit().and_then(Unconfirmed::new);
        let share = self.held.share();
        let reader = FrameReader::new(limits);
        let last_byte = Instant::now();
        let (begun, told, unmatched) = (None, None, 0);
        let strays = Strays { since: last_byte, frames: 0 };
        let mut served = Served {
            intake: self,
            sender,
            connection,
            reader,
            share,
            unconfirmed,
            unmatched,
            strays,
            begun,
            last_byte,
            told,
        };
        served.run().await
    }
}

impl<'a, K: Keep> Served<'a, K> {
    async fn run(&mut self) -> &'static str {
        loop {
            let mut batch =
                Batch::new(self.intake.tally, self.intake.terms, self.intake.config.dialect, self.unmatched);
            let ends = match self.read(&mut batch) {
                Ok(Moved::Bytes(_)) => None,
                Ok(Moved::Blocked) => match self.wait().await {
                    Woken::Readable => continue,
                    Woken::Silence => {
                        self.reader.handle_silence(&mut |read| batch.handle(read));
                        None
                    }
                    Woken::Overdue => None,
                    Woken::End(reason) => return reason,
                },
                Ok(Moved::End) => {
                    self.reader.handle_end_of_stream(&mut |read| batch.handle(read));
                    Some(FINISHED)
                }
                Ok(Moved::Failed(cause)) => return cause.code(),
                Err(violation) => Some(violation.code()),
            };
            let ends = self.measure(&batch).or(self.strays.count(&batch)).or(ends);
            let has_waited = !batch.is_empty();
            let ends = self.settle(batch).await.or(ends);
            let ends = if has_waited || ends.is_some() { ends } else { self.give_way().await };
            if let Some(reason) = ends {
                self.take_leave(reason).await;
                return reason;
            }
        }
    }

    /// Lets others have their turn where nothing was waited for, and says what ends the connection meanwhile: who sends
    /// without a pause what is no message is never waited for.
    async fn give_way(&mut self) -> Option<&'static str> {
        tokio::task::yield_now().await;
        if self.told.is_none() && *self.intake.stop.borrow() {
            self.told = Some(Instant::now());
        }
        match self.next_deadline() {
            Some((at, Due::End(reason))) if at <= Instant::now() => Some(reason),
            _ => None,
        }
    }

    /// Reads once, without waiting.
    fn read(&mut self, batch: &mut Batch<'a>) -> Result<Moved, Violation> {
        let Self { sender, reader, last_byte, .. } = self;
        SCRATCH.with_borrow_mut(|scratch| {
            let moved = sender.try_read(scratch);
            if let Moved::Bytes(count) = moved {
                *last_byte = batch.at();
                reader.handle_bytes(scratch.get(..count).unwrap_or(&[]), &mut |read| batch.handle(read))?;
            }
            Ok(moved)
        })
    }

    /// Takes note of how much is held now, and since when the present frame comes.
    fn measure(&mut self, batch: &Batch<'a>) -> Option<&'static str> {
        let partial_bytes = self.partial_bytes();
        self.begun = match self.begun {
            _ if self.reader.is_between_frames() => None,
            Some(begun) if batch.is_empty() => Some(begun),
            _ => Some(batch.at()),
        };
        let may = self.share.set(partial_bytes.saturating_add(batch.payload_bytes), self.message_bytes_max());
        (!may).then_some(TOO_MUCH_HELD)
    }

    fn partial_bytes(&self) -> u64 {
        u64::try_from(self.reader.held_bytes()).unwrap_or(u64::MAX)
    }

    fn message_bytes_max(&self) -> u64 {
        self.intake.config.message_bytes_max
    }

    /// Has the messages kept, and answers them; returns why the connection ends, where it does.
    async fn settle(&mut self, batch: Batch<'a>) -> Option<&'static str> {
        self.unmatched = batch.unmatched;
        if let Err(reason) = self.confirm(&batch) {
            return Some(reason);
        }
        if batch.is_empty() {
            return batch.ends.or(self.send_unconfirmed().await.err());
        }
        let tally = self.intake.tally;
        tally.waits(self.connection, batch.len(), Some(batch.at()));
        let answers = batch.settle(self.intake.keep).await;
        tally.waits(self.connection, 0, None);
        self.share.set(self.partial_bytes(), self.message_bytes_max());
        let written = write_all(self.sender, &answers.bytes).await;
        if let Some(reason) = answers.ends.or(written.err().map(Ended::code)) {
            return Some(reason);
        }
        if let Some(unconfirmed) = &mut self.unconfirmed {
            let pushed = answers.to_commit.into_iter().try_for_each(|answer| unconfirmed.push(answer));
            if pushed.is_err() {
                return Some(NOT_COMMITTED);
            }
        }
        self.send_unconfirmed().await.err()
    }

    /// Takes the commits of answers that came, and the time.
    fn confirm(&mut self, batch: &Batch<'a>) -> Result<(), &'static str> {
        let Some(unconfirmed) = &mut self.unconfirmed else { return Ok(()) };
        for code in &batch.commits {
            if !unconfirmed.handle_commit(*code, now()).map_err(|_| NOT_COMMITTED)? {
                batch.count(Anomaly::AnswerUnmatched);
                self.unmatched = self.unmatched.saturating_add(u32::from(batch.is_empty()));
            }
        }
        if batch.is_empty() && self.unmatched >= UNMATCHED_MAX {
            return Err(ANSWERS_COMMITS);
        }
        unconfirmed.handle_time(now()).map_err(|_| NOT_COMMITTED)
    }

    /// Sends the answer whose turn it is.
    async fn send_unconfirmed(&mut self) -> Result<(), &'static str> {
        let Some(answer) = self.unconfirmed.as_mut().and_then(|answers| answers.poll_send(now())) else {
            return Ok(());
        };
        write_all(self.sender, &answer).await.map_err(Ended::code)
    }

    /// Sends a sender that only listens any more what it was to be answered.
    async fn take_leave(&mut self, reason: &'static str) {
        let left = self.unconfirmed.as_mut().filter(|_| reason == FINISHED).map(Unconfirmed::take_unsent);
        write_all(self.sender, &left.unwrap_or_default()).await.ok();
    }

    /// Waits for bytes, for the end of a frame that silence ends, or for what ends the connection.
    async fn wait(&mut self) -> Woken {
        loop {
            if self.told.is_some() && self.reader.is_between_frames() {
                return Woken::End(Cause::Stopping.code());
            }
            let next = self.next_deadline();
            let (told, stop) = (self.told.is_some(), &mut self.intake.stop);
            tokio::select! {
                () = self.sender.readable() => return Woken::Readable,
                () = until(next.map(|(at, _)| at)) => {
                    return match next {
                        Some((_, Due::End(reason))) => Woken::End(reason),
                        Some((_, Due::Commit)) => Woken::Overdue,
                        _ => Woken::Silence,
                    };
                }
                // Once it is true, or nobody is left to say so, the deadline alone is waited for.
                _ = stop.wait_for(|stop| *stop), if !told => {}
            }
            self.told = Some(Instant::now());
        }
    }

    /// Returns what is due next if no byte comes; nothing for an ordinary connection between two messages.
    fn next_deadline(&self) -> Option<(Instant, Due)> {
        let idle = self.intake.config.idle_timeout.filter(|_| self.reader.is_between_frames());
        let time_max = frame_time_max(self.intake.config.frame_timeout, self.partial_bytes());
        let slow = self.begun.map(|begun| (begun + time_max, Due::End(TOO_SLOW)));
        let all = [
            self.reader.awaits_silence().then(|| (self.last_byte + END_SILENCE, Due::Silence)),
            slow,
            self.unconfirmed.as_ref().and_then(Unconfirmed::next_deadline).map(|at| (at, Due::Commit)),
            idle.map(|idle| (self.last_byte + idle, Due::End(IDLE))),
            self.told.map(|told| (told + DRAIN_WITHIN, Due::End(Cause::Stopping.code()))),
        ];
        all.into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

/// Counts what came since the last message and is none, within [`STRAYS_WITHIN`].
struct Strays {
    since: Instant,
    frames: u32,
}

impl Strays {
    /// Takes those of a read; returns why the connection ends, where they are too many.
    fn count(&mut self, batch: &Batch<'_>) -> Option<&'static str> {
        if !batch.is_empty() || batch.at().saturating_duration_since(self.since) > STRAYS_WITHIN {
            *self = Self { since: batch.at(), frames: 0 };
        }
        let strays = if batch.is_empty() { batch.strays } else { 0 };
        self.frames = self.frames.saturating_add(strays);
        (self.frames > STRAYS_MAX).then_some(NO_MESSAGES)
    }
}

/// Says what a deadline brings.
#[derive(Clone, Copy)]
enum Due {
    Silence,
    Commit,
    End(&'static str),
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
