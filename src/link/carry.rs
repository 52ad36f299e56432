//! Carries one sender's connection: bytes both ways, untouched, observed on the way.
//!
//! It serves both ends: at the near site the sender is a socket and the receiver a stream, at the far site the other
//! way round, and for a peer that runs plain WireGuard both are sockets. It never holds more than one read's bytes in
//! each direction: who reads slowly is written to slowly.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

pub use super::leg::{Leg, TcpLeg, Turns};
use super::streams::Moved;
use super::tally::Tally;
use super::wire::Cause;
use crate::audit::Clerk;
use crate::mllp::dialect::Release;
use crate::mllp::frame::{Limits, Violation, frame_time_max};
use crate::mllp::observe::{Observation, Observer};

/// One read, in bytes; shared by all connections of a thread.
const READ_BYTES: usize = 32 << 10;
/// What passes slowly is looked at this often: overdue answers, a sender that left, the end of a drain.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A quiet connection is looked at this often; the next byte wakes the look anyway.
const LOOK_EVERY_WHILE_QUIET: Duration = Duration::from_secs(60);
/// What the receiver said before the end is still written to the sender for so long.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// A connection that is told to end and has a message on its way ends after so long all the same.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(10);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Says how a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Both sides finished.
    Finished,
    /// Both sides finished, and a message was not answered: nobody here knows whether the receiver took it.
    Unanswered,
    /// A leg failed.
    Failed(Cause),
    /// The bytes are not MLLP within the limits.
    Violation(Violation),
    /// Nothing passed for too long.
    Idle,
    /// The sender took too long for a message.
    TooSlow,
}

impl Ended {
    /// Returns the stable code that metrics show.
    pub fn code(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Unanswered => "unanswered",
            Self::Failed(cause) => cause.code(),
            Self::Violation(violation) => violation.code(),
            Self::Idle => "idle_timeout",
            Self::TooSlow => "frame_too_slow",
        }
    }

    /// Returns what the other site is told.
    pub fn cause(self) -> Cause {
        match self {
            Self::Finished | Self::Unanswered | Self::Idle => Cause::SenderGone,
            Self::Failed(cause) => cause,
            Self::Violation(_) | Self::TooSlow => Cause::Refused,
        }
    }
}

/// Says how a connection is to be carried.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Says what both ends speak.
    pub release: Release,
    /// Says what a frame is, and limits it.
    pub limits: Limits,
    /// Ends a connection on which nothing passes for so long.
    pub idle_timeout: Option<Duration>,
    /// Ends a connection whose sender has let a message that it began wait for so long, and a second more for each KiB;
    /// what the receiver or the way to it takes does not count.
    pub frame_timeout: Option<Duration>,
    /// Ends a connection whose answer is overdue.
    pub ack_timeout: Option<Duration>,
    /// Turns true when the connection is to end: where no message is on its way, after [`DRAIN_WITHIN`] in any case.
    pub stop: watch::Receiver<bool>,
    /// Records what passes.
    pub clerk: Option<Clerk>,
}

/// Is a connection that is being carried.
struct Carried<'a> {
    observer: Mutex<Observer>,
    tally: &'a Tally,
    clerk: Option<Clerk>,
    connection: u64,
    last_byte: Mutex<Instant>,
    /// Is how long the sender was waited for since its last whole message, and since when it is.
    sender_wait: Mutex<(Duration, Option<Instant>)>,
    looks_away: AtomicBool,
    stirred: Notify,
}

/// Says which way a pump moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToReceiver,
    ToSender,
}

/// Carries bytes between a sender and a receiver until the connection ends. Cancelling it ends the connection.
pub async fn carry<S: Leg, R: Leg>(sender: &S, receiver: &R, terms: Terms, tally: &Tally, connection: u64) -> Ended {
    let observer = Observer::new(terms.release, terms.limits);
    let observer = match terms.clerk.as_ref().and_then(Clerk::trace_key) {
        Some(key) => observer.tracing(key.clone()),
        None => observer,
    };
    let carried = Carried {
        observer: Mutex::new(observer),
        tally,
        clerk: terms.clerk.clone(),
        connection,
        last_byte: Mutex::new(now()),
        sender_wait: Mutex::default(),
        looks_away: AtomicBool::new(false),
        stirred: Notify::new(),
    };
    let (mut left_there, mut left_back) = (Vec::new(), Vec::new());
    let both = async {
        let there = carried.pump(sender, receiver, Way::ToReceiver, &mut left_there);
        let back = carried.pump(receiver, sender, Way::ToSender, &mut left_back);
        tokio::try_join!(there, back).map(|((), ())| Ended::Finished).unwrap_or_else(|ended| ended)
    };
    let ended = tokio::select! {
        biased;
        ended = both => ended,
        ended = carried.look(sender, receiver, terms) => ended,
    };
    if ended != Ended::Finished {
        // What the receiver acknowledged before would be sent a second time: the sender is to know.
        let flush = carried.flush(receiver, sender, &mut left_back);
        tokio::time::timeout(FLUSH_WITHIN, flush).await.ok();
        return ended;
    }
    let outstanding = carried.observer.lock().unwrap_or_else(PoisonError::into_inner).outstanding();
    if outstanding > 0 { Ended::Unanswered } else { Ended::Finished }
}

impl Drop for Carried<'_> {
    /// Names for the account what no answer named.
    fn drop(&mut self) {
        let now = now();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.finish(&mut |observation| self.tally.count(observation, now));
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Carried<'_> {
    /// Moves bytes until the direction ends; `left` is what was read and not written yet, also where it is cancelled.
    async fn pump<F: Leg, T: Leg>(&self, from: &F, to: &T, way: Way, left: &mut Vec<u8>) -> Result<(), Ended> {
        let mut turns = Turns::default();
        loop {
            match SCRATCH.with_borrow_mut(|scratch| self.move_once(from, to, way, scratch, left))? {
                Moved::Bytes(_) => {
                    self.write_all(to, left).await?;
                    turns.moved().await;
                    continue;
                }
                Moved::Blocked if way == Way::ToReceiver => self.await_sender(from).await,
                Moved::Blocked => from.readable().await,
                Moved::End => break,
                Moved::Failed(cause) => return Err(Ended::Failed(cause)),
            }
            turns.waited();
        }
        self.observe_end(way);
        to.finish().await;
        Ok(())
    }

    async fn await_sender<F: Leg>(&self, sender: &F) {
        self.sender_wait().1 = Some(now());
        sender.readable().await;
        let mut wait = self.sender_wait();
        if let Some(since) = wait.1.take() {
            wait.0 = wait.0.saturating_add(now().saturating_duration_since(since));
        }
    }

    fn sender_waited(&self, now: Instant) -> Duration {
        let (waited, since) = *self.sender_wait();
        waited.saturating_add(since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)))
    }

    fn sender_wait(&self) -> MutexGuard<'_, (Duration, Option<Instant>)> {
        self.sender_wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what the receiver has said so far, without waiting for more.
    async fn flush<F: Leg, T: Leg>(&self, from: &F, to: &T, left: &mut Vec<u8>) -> Result<(), Ended> {
        let mut turns = Turns::default();
        loop {
            self.write_all(to, left).await?;
            match SCRATCH.with_borrow_mut(|scratch| self.move_once(from, to, Way::ToSender, scratch, left))? {
                Moved::Bytes(_) => turns.moved().await,
                Moved::Blocked | Moved::End | Moved::Failed(_) => return Ok(()),
            }
        }
    }

    /// Reads once and writes what can be written at once; the rest is left.
    fn move_once<F: Leg, T: Leg>(
        &self,
        from: &F,
        to: &T,
        way: Way,
        scratch: &mut [u8],
        left: &mut Vec<u8>,
    ) -> Result<Moved, Ended> {
        let moved = from.try_read(scratch);
        let Moved::Bytes(count) = moved else { return Ok(moved) };
        let bytes = scratch.get(..count).unwrap_or(&[]);
        if let Err(ended) = self.observe(way, bytes) {
            if way == Way::ToSender {
                left.extend_from_slice(bytes); // there may be a whole answer before what breaks the rules
            }
            return Err(ended);
        }
        match to.try_write(bytes) {
            Moved::Bytes(written) => left.extend_from_slice(bytes.get(written..).unwrap_or(&[])),
            Moved::Blocked => left.extend_from_slice(bytes),
            Moved::Failed(cause) => return Err(Ended::Failed(cause)),
            Moved::End => return Err(Ended::Finished),
        }
        Ok(moved)
    }

    async fn write_all<T: Leg>(&self, to: &T, left: &mut Vec<u8>) -> Result<(), Ended> {
        while !left.is_empty() {
            match to.try_write(left) {
                Moved::Bytes(written) => {
                    left.drain(..written);
                    self.note_bytes();
                }
                Moved::Blocked => to.writable().await,
                Moved::Failed(cause) => return Err(Ended::Failed(cause)),
                Moved::End => return Err(Ended::Finished),
            }
        }
        Ok(())
    }

    fn observe(&self, way: Way, bytes: &[u8]) -> Result<(), Ended> {
        let now = self.note_bytes();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_whole = false;
        let mut sink = |observation: Observation| {
            is_whole |= matches!(observation, Observation::Message { .. });
            self.count(observation, now);
        };
        let before = observer.outstanding();
        let result = match way {
            Way::ToReceiver => observer.handle_from_sender(bytes, now, &mut sink),
            Way::ToSender => observer.handle_from_receiver(bytes, now, &mut sink),
        };
        if is_whole || (way == Way::ToReceiver && observer.is_at_boundary()) {
            *self.sender_wait() = (Duration::ZERO, None);
        }
        let after = observer.outstanding();
        if before != after {
            let since = observer.oldest_outstanding(now).and_then(|age| now.checked_sub(age));
            self.tally.waits(self.connection, after, since);
        }
        result.map_err(Ended::Violation)
    }

    fn observe_end(&self, way: Way) {
        let now = self.note_bytes();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sink = |observation: Observation| self.count(observation, now);
        match way {
            Way::ToReceiver => observer.handle_sender_end(now, &mut sink),
            Way::ToSender => observer.handle_receiver_end(now, &mut sink),
        }
    }

    fn count(&self, observation: Observation, now: Instant) {
        self.tally.count(observation, now);
        if let Some(clerk) = &self.clerk {
            clerk.observe(observation);
        }
    }

    fn note_bytes(&self) -> Instant {
        let now = now();
        *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner) = now;
        if self.looks_away.swap(false, Ordering::Relaxed) {
            self.stirred.notify_one();
        }
        now
    }

    /// Looks at what no byte announces, until one of these things ends the connection.
    async fn look<S: Leg, R: Leg>(&self, sender: &S, receiver: &R, mut terms: Terms) -> Ended {
        let (mut pause, mut told) = (LOOK_EVERY, None);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stirred.notified() => {}
                // Once it is true, or nobody is left to say so, the interval alone is waited for.
                _ = terms.stop.wait_for(|stop| *stop), if told.is_none() => told = Some(now()),
            }
            let now = now();
            if receiver.is_held() {
                self.tally.holds(self.connection, now);
                if closes_now(sender).await {
                    return Ended::Failed(Cause::SenderGone);
                }
            }
            let (is_quiet, oldest, begun_bytes) = {
                let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
                observer.handle_deadline(now, &mut |observation| self.count(observation, now));
                let begun_bytes = (!observer.is_at_boundary()).then(|| observer.begun_bytes());
                let is_quiet = begun_bytes.is_none() && observer.outstanding() == 0;
                if is_quiet {
                    observer.handle_quiet();
                }
                (is_quiet, observer.oldest_outstanding(now), begun_bytes)
            };
            let time_max = terms.frame_timeout.zip(begun_bytes).map(|(time, bytes)| frame_time_max(time, bytes));
            if time_max.is_some_and(|time_max| self.sender_waited(now) >= time_max) {
                return Ended::TooSlow;
            }
            let last_byte = *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner);
            let silent_for = now.saturating_duration_since(last_byte);
            let told_long_ago = told.is_some_and(|told| now.saturating_duration_since(told) >= DRAIN_WITHIN);
            if *terms.stop.borrow() && (is_quiet || told_long_ago) {
                return Ended::Failed(Cause::Stopping);
            }
            if terms.idle_timeout.is_some_and(|timeout| is_quiet && silent_for >= timeout) {
                return Ended::Idle;
            }
            let waited = oldest.map(|oldest| oldest.min(silent_for));
            if terms.ack_timeout.zip(waited).is_some_and(|(timeout, waited)| waited >= timeout) {
                return Ended::Failed(Cause::AckTimeout);
            }
            pause = LOOK_EVERY;
            if is_quiet {
                pause =
                    terms.idle_timeout.unwrap_or(LOOK_EVERY_WHILE_QUIET).min(LOOK_EVERY_WHILE_QUIET).max(LOOK_EVERY);
                self.looks_away.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Tells whether a leg is closing, without waiting for it to.
async fn closes_now<L: Leg>(leg: &L) -> bool {
    tokio::time::timeout(Duration::ZERO, leg.is_closing()).await.unwrap_or(false)
}

#[cfg(test)]
mod tests;
