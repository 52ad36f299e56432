//! Carries one sender's connection: bytes both ways, untouched, observed on the way.
//!
//! It serves both ends: at the near site the sender is a socket and the receiver a stream, at the far site the other
//! way round, and for a peer that runs plain WireGuard both are sockets. It never holds more than one read's bytes in
//! each direction: who reads slowly is written to slowly.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::stream_end::StreamEnd;
use super::streams::Moved;
use super::tally::Tally;
use super::wire::Cause;
use crate::mllp::frame::{Limits, Violation};
use crate::mllp::observe::{Observation, Observer};

/// One read, in bytes; shared by all connections of a thread.
const READ_BYTES: usize = 32 << 10;
/// What passes slowly is looked at this often: overdue answers, a sender that left, the end of a drain.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A quiet connection is looked at this often; the next byte wakes the look anyway.
const LOOK_EVERY_WHILE_QUIET: Duration = Duration::from_secs(60);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Is where bytes come from and go to.
pub trait Leg {
    /// Moves bytes out of the leg.
    fn try_read(&self, out: &mut [u8]) -> Moved;
    /// Moves bytes into the leg.
    fn try_write(&self, bytes: &[u8]) -> Moved;
    /// Ends the direction into the leg.
    fn finish(&self);
    /// Waits until `try_read` may succeed. Cancel-safe.
    fn readable(&self) -> impl Future<Output = ()> + Send;
    /// Waits until `try_write` may succeed. Cancel-safe.
    fn writable(&self) -> impl Future<Output = ()> + Send;
    /// Tells whether this is a receiver that cannot be reached now: what was written is held.
    fn is_held(&self) -> bool;
    /// Tells whether the other end of this leg sends no more, though bytes of it may still wait to be read.
    fn is_closing(&self) -> impl Future<Output = bool> + Send;
}

/// Is a TCP connection as a leg.
pub struct TcpLeg {
    tcp: TcpStream,
    broken: Cause,
}

impl TcpLeg {
    /// Wraps the connection of a sender.
    pub fn sender(tcp: TcpStream) -> Self {
        Self { tcp, broken: Cause::SenderGone }
    }

    /// Wraps the connection to a receiver.
    pub fn receiver(tcp: TcpStream) -> Self {
        Self { tcp, broken: Cause::ReceiverReset }
    }

    /// Returns the connection.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn moved(&self, result: io::Result<usize>) -> Moved {
        match result {
            Ok(bytes) => Moved::Bytes(bytes),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Moved::Blocked
            }
            Err(_) => Moved::Failed(self.broken),
        }
    }
}

impl Leg for TcpLeg {
    fn try_read(&self, out: &mut [u8]) -> Moved {
        match self.moved(self.tcp.try_read(out)) {
            Moved::Bytes(0) => Moved::End,
            moved => moved,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> Moved {
        self.moved(self.tcp.try_write(bytes))
    }

    fn finish(&self) {
        // A connection that is gone already has no direction left to end.
        SockRef::from(&self.tcp).shutdown(Shutdown::Write).ok();
    }

    async fn readable(&self) {
        self.tcp.readable().await.ok();
    }

    async fn writable(&self) {
        self.tcp.writable().await.ok();
    }

    fn is_held(&self) -> bool {
        false
    }

    async fn is_closing(&self) -> bool {
        self.tcp.ready(Interest::READABLE).await.is_ok_and(|ready| ready.is_read_closed())
    }
}

impl Leg for StreamEnd {
    fn try_read(&self, out: &mut [u8]) -> Moved {
        self.try_read(out)
    }

    fn try_write(&self, bytes: &[u8]) -> Moved {
        self.try_write(bytes)
    }

    fn finish(&self) {
        self.finish();
    }

    async fn readable(&self) {
        self.readable().await;
    }

    async fn writable(&self) {
        self.writable().await;
    }

    fn is_held(&self) -> bool {
        self.is_held()
    }

    async fn is_closing(&self) -> bool {
        std::future::pending().await
    }
}

/// Says how a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Both sides finished.
    Finished,
    /// A leg failed.
    Failed(Cause),
    /// The bytes are not MLLP within the limits.
    Violation(Violation),
    /// Nothing passed for too long.
    Idle,
}

impl Ended {
    /// Returns the stable code that metrics show.
    pub fn code(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed(cause) => cause.code(),
            Self::Violation(violation) => violation.code(),
            Self::Idle => "idle_timeout",
        }
    }

    /// Returns what the other site is told.
    pub fn cause(self) -> Cause {
        match self {
            Self::Finished | Self::Idle => Cause::SenderGone,
            Self::Failed(cause) => cause,
            Self::Violation(_) => Cause::Refused,
        }
    }
}

/// Says how a connection is to be carried.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Limits the frames.
    pub limits: Limits,
    /// Ends a connection on which nothing passes for so long.
    pub idle_timeout: Option<Duration>,
    /// Ends a connection whose answer is overdue.
    pub ack_timeout: Option<Duration>,
    /// Turns true when the site stops: the connection ends where no message is on its way.
    pub stop: watch::Receiver<bool>,
}

/// Is a connection that is being carried.
struct Carried<'a> {
    observer: Mutex<Observer>,
    tally: &'a Tally,
    connection: u64,
    last_byte: Mutex<Instant>,
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
    let carried = Carried {
        observer: Mutex::new(Observer::new(terms.limits)),
        tally,
        connection,
        last_byte: Mutex::new(Instant::now()),
        looks_away: AtomicBool::new(false),
        stirred: Notify::new(),
    };
    let both = async {
        let there = carried.pump(sender, receiver, Way::ToReceiver);
        let back = carried.pump(receiver, sender, Way::ToSender);
        tokio::try_join!(there, back).map(|((), ())| Ended::Finished).unwrap_or_else(|ended| ended)
    };
    tokio::select! {
        biased;
        ended = both => ended,
        ended = carried.look(sender, receiver, terms) => ended,
    }
}

impl Carried<'_> {
    async fn pump<F: Leg, T: Leg>(&self, from: &F, to: &T, way: Way) -> Result<(), Ended> {
        loop {
            let (moved, left) = SCRATCH.with_borrow_mut(|scratch| self.move_once(from, to, way, scratch))?;
            match moved {
                Moved::Bytes(_) => self.write_all(to, &left).await?,
                Moved::Blocked => from.readable().await,
                Moved::End => break,
                Moved::Failed(cause) => return Err(Ended::Failed(cause)),
            }
        }
        self.observe_end(way);
        to.finish();
        Ok(())
    }

    /// Reads once and writes what can be written at once; returns what could not.
    fn move_once<F: Leg, T: Leg>(
        &self,
        from: &F,
        to: &T,
        way: Way,
        scratch: &mut [u8],
    ) -> Result<(Moved, Vec<u8>), Ended> {
        let moved = from.try_read(scratch);
        let Moved::Bytes(count) = moved else { return Ok((moved, Vec::new())) };
        let bytes = scratch.get(..count).unwrap_or(&[]);
        self.observe(way, bytes)?;
        match to.try_write(bytes) {
            Moved::Bytes(written) => Ok((moved, bytes.get(written..).unwrap_or(&[]).to_vec())),
            Moved::Blocked => Ok((moved, bytes.to_vec())),
            Moved::Failed(cause) => Err(Ended::Failed(cause)),
            Moved::End => Err(Ended::Finished),
        }
    }

    async fn write_all<T: Leg>(&self, to: &T, mut bytes: &[u8]) -> Result<(), Ended> {
        while !bytes.is_empty() {
            match to.try_write(bytes) {
                Moved::Bytes(written) => {
                    bytes = bytes.get(written..).unwrap_or(&[]);
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
        let mut sink = |observation: Observation| self.tally.count(observation, now);
        let before = observer.outstanding();
        let result = match way {
            Way::ToReceiver => observer.handle_from_sender(bytes, now, &mut sink),
            Way::ToSender => observer.handle_from_receiver(bytes, now, &mut sink),
        };
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
        let mut sink = |observation: Observation| self.tally.count(observation, now);
        match way {
            Way::ToReceiver => observer.handle_sender_end(now, &mut sink),
            Way::ToSender => observer.handle_receiver_end(now, &mut sink),
        }
    }

    fn note_bytes(&self) -> Instant {
        let now = Instant::now();
        *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner) = now;
        if self.looks_away.swap(false, Ordering::Relaxed) {
            self.stirred.notify_one();
        }
        now
    }

    /// Looks at what no byte announces, until one of these things ends the connection.
    async fn look<S: Leg, R: Leg>(&self, sender: &S, receiver: &R, mut terms: Terms) -> Ended {
        let mut pause = LOOK_EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stirred.notified() => {}
                // Once it is true it stays so: from then on the interval alone is waited for.
                _ = terms.stop.wait_for(|stop| *stop), if !*terms.stop.borrow() => {}
            }
            let now = Instant::now();
            if receiver.is_held() && closes_now(sender).await {
                return Ended::Failed(Cause::SenderGone);
            }
            let (is_quiet, oldest) = {
                let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
                observer.handle_deadline(now, &mut |observation| self.tally.count(observation, now));
                (observer.is_at_boundary() && observer.outstanding() == 0, observer.oldest_outstanding(now))
            };
            let last_byte = *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner);
            let silent_for = now.saturating_duration_since(last_byte);
            if *terms.stop.borrow() && is_quiet {
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
