//! The streams of one link: who may send what, what is kept, what is held, what is resumed.
//!
//! Pure: records and time come in by `handle_*`, records and events go out by `poll_*`. One machine serves both ends;
//! the near end opens streams, the far end accepts them. Rules: design, delivery.md ("The link", "transparent").
//!
//! A near stream:   Opening --Accept--> Open --both ends finished and acknowledged--> gone
//!                   |  ^ \--refused after bytes could have arrived, hold_for over--> failed
//!                   v  |
//!                  refused (off the wire; opened again under a new number after a pause)
//! A far stream:    Connecting --accept()--> Open --> gone, or failed
//!
//! It never replays a byte that a receiver may have seen: a stream is opened again only where the far side said that
//! nothing reached the receiver, or cannot have got a byte.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::half::{Violation, WINDOW_BYTES_MAX};
use super::stream::{Phase, Stream};
use super::wire::{Cause, Record, encode};

/// The credit of one stream where there are many, in bytes: a message of usual size.
const WINDOW_BYTES_MIN: u64 = 16 << 10;
/// What the streams of one link may hold together in one direction, in bytes: shared out as credit, and the bound on
/// what comes before the first credit for receivers that are not connected yet.
pub(super) const LINK_BYTES_MAX: u64 = 24 << 20;
/// The streams of one link at once: the default limit of a forward's connections is below it.
pub const STREAMS_MAX: usize = 16_384;
/// The pause before a refused stream is opened again, the first time; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest such pause: a receiver that is back is found within it.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(1);

/// Says which end of the link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where senders connect.
    Near,
    /// Where the receiver is.
    Far,
}

/// Tells the shell what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The near side opened this stream (far side only).
    Opened(u64),
    /// This stream may be read, written, or has failed.
    Wake(u64),
    /// There is something to transmit.
    Transmit,
    /// The next deadline may be earlier.
    Clock,
}

/// Is what came of a read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes were moved, at least one.
    Bytes(usize),
    /// None now; the stream wakes.
    Blocked,
    /// None ever: the other side finished.
    End,
    /// None ever: the stream failed.
    Failed(Cause),
}

/// Is the state of all streams of one link.
pub struct Streams {
    pub(super) side: Side,
    pub(super) hold_for: Duration,
    pub(super) streams: BTreeMap<u64, Stream>,
    pub(super) by_wire: HashMap<u64, u64>,
    next_key: u64,
    next_wire: u64,
    pub(super) opened_through: u64,
    /// Counts the bytes of streams whose receiver is not connected yet.
    pub(super) waiting_bytes: u64,
    pub(super) urgent: BytesMut,
    pub(super) turn: VecDeque<u64>,
    pub(super) connected: bool,
    pub(super) resumed: bool,
    pub(super) listed: HashMap<u64, u64>,
    pub(super) down: Option<(Instant, Cause)>,
    pub(super) events: VecDeque<Event>,
}

impl Streams {
    /// Makes an end without streams, not connected. `hold_for` bounds how long streams outlive their connection, and
    /// at the near side how long a sender's bytes wait for a receiver; zero: not at all.
    pub fn new(side: Side, hold_for: Duration, now: Instant) -> Self {
        Self {
            side,
            hold_for,
            streams: BTreeMap::new(),
            by_wire: HashMap::new(),
            next_key: 1,
            next_wire: 1,
            opened_through: 0,
            waiting_bytes: 0,
            urgent: BytesMut::new(),
            turn: VecDeque::new(),
            connected: false,
            resumed: false,
            listed: HashMap::new(),
            down: Some((now, Cause::LinkDown)),
            events: VecDeque::new(),
        }
    }

    /// Changes how long streams outlive their connection and senders' bytes wait, also of the streams that there are.
    pub fn set_hold_for(&mut self, hold_for: Duration) {
        self.hold_for = hold_for;
        self.events.push_back(Event::Clock);
    }

    /// Opens a stream (near side) and returns its key.
    ///
    /// # Errors
    /// There are too many, or the link is down and nothing is held.
    pub fn open(&mut self) -> Result<u64, Cause> {
        if self.streams.len() >= STREAMS_MAX {
            return Err(Cause::TooManyStreams);
        }
        if let Some((_, cause)) = self.down.filter(|_| self.hold_for.is_zero()) {
            return Err(cause);
        }
        let key = self.next_key;
        self.next_key += 1;
        let phase = Phase::Opening { on_wire: false, refusal: None, retry_at: None, pause: RETRY_MIN };
        self.streams.insert(key, Stream::new(0, phase));
        self.put_on_wire(key);
        Ok(key)
    }

    /// Tells the near side that the receiver is connected (far side).
    pub fn accept(&mut self, key: u64) {
        self.settle_waiting(key);
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.phase = Phase::Open;
            stream.owes_accept = true;
            self.touch(key);
        }
    }

    /// Moves bytes of the stream into `out`.
    pub fn try_read(&mut self, key: u64, out: &mut [u8]) -> Moved {
        let Some(stream) = self.streams.get_mut(&key) else { return Moved::Failed(Cause::Lost) };
        let filled = stream.recv.read(out);
        if filled > 0 {
            if stream.recv.wants_credit() && stream.failed.is_none() {
                stream.owes_credit = true;
                self.touch(key);
            }
            return Moved::Bytes(filled);
        }
        if stream.recv.take_end() {
            stream.owes_credit = true;
            self.touch(key);
            return Moved::End;
        }
        stream.failed.map_or(Moved::Blocked, Moved::Failed)
    }

    /// Takes bytes for the other side, as far as its credit goes.
    pub fn try_write(&mut self, key: u64, bytes: &[u8], now: Instant) -> Moved {
        let Some(stream) = self.streams.get_mut(&key) else { return Moved::Failed(Cause::Lost) };
        if let Some(cause) = stream.failed {
            return Moved::Failed(cause);
        }
        if stream.first_byte.is_none() {
            stream.first_byte = Some(now);
            self.events.push_back(Event::Clock);
        }
        match stream.send.push(bytes) {
            0 => Moved::Blocked,
            taken => {
                self.touch(key);
                Moved::Bytes(taken)
            }
        }
    }

    /// Ends this side's direction. A sender that ends while its bytes are held takes them back: its resend would be a
    /// duplicate.
    pub fn finish(&mut self, key: u64) {
        let (side, connected) = (self.side, self.connected);
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.is_held(side, connected) {
            return self.fail(key, Cause::SenderGone);
        }
        stream.send.finish();
        self.touch(key);
    }

    /// Tells whether the receiver is connected.
    pub fn is_open(&self, key: u64) -> bool {
        self.streams.get(&key).is_some_and(|stream| matches!(stream.phase, Phase::Open))
    }

    /// Says why the stream failed, if it did.
    pub fn failure(&self, key: u64) -> Option<Cause> {
        self.streams.get(&key).map_or(Some(Cause::Lost), |stream| stream.failed)
    }

    /// Tells whether the stream waits for a receiver that cannot be reached now.
    pub fn is_held(&self, key: u64) -> bool {
        self.streams.get(&key).is_some_and(|stream| stream.is_held(self.side, self.connected))
    }

    /// Counts the streams of which bytes wait for a receiver that cannot be reached.
    pub fn held(&self) -> usize {
        let held = |stream: &&Stream| stream.first_byte.is_some() && stream.is_held(self.side, self.connected);
        self.streams.values().filter(held).count()
    }

    /// Returns how many streams there are.
    pub fn count(&self) -> usize {
        self.streams.len()
    }

    /// Tells whether there is neither a connection nor a stream.
    pub fn is_idle(&self) -> bool {
        !self.connected && self.streams.is_empty()
    }

    /// Lets time pass: holds end, refused streams are opened again, streams of a dead link fail.
    pub fn handle_time(&mut self, now: Instant) {
        let dead = self.down.filter(|(since, _)| now >= *since + self.hold_for).map(|(_, cause)| cause);
        for key in self.keys() {
            let Some(stream) = self.streams.get_mut(&key) else { continue };
            let held_too_long = stream.hold_deadline(self.hold_for).is_some_and(|deadline| now >= deadline);
            match (&mut stream.phase, dead) {
                _ if stream.failed.is_some() => {}
                (Phase::Opening { refusal, .. }, _) if held_too_long => {
                    let cause = refusal.or(self.down.map(|(_, cause)| cause)).unwrap_or(Cause::ReceiverSilent);
                    self.fail(key, cause);
                }
                (Phase::Opening { retry_at, .. }, _) if retry_at.is_some_and(|at| now >= at) => {
                    *retry_at = None;
                    self.put_on_wire(key);
                }
                (Phase::Opening { on_wire: false, .. }, _) => {}
                (_, Some(cause)) => self.fail(key, cause),
                _ => {}
            }
        }
    }

    /// Says when [`Streams::handle_time`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let link = self.down.filter(|_| !self.by_wire.is_empty()).map(|(since, _)| since + self.hold_for);
        let streams = self.streams.values().filter(|stream| stream.failed.is_none()).filter_map(|stream| {
            let retry = match stream.phase {
                Phase::Opening { retry_at, .. } => retry_at,
                Phase::Connecting | Phase::Open => None,
            };
            [stream.hold_deadline(self.hold_for), retry].into_iter().flatten().min()
        });
        streams.chain(link).min()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Appends what is to be transmitted, about `bytes_max` bytes; streams take turns.
    pub fn poll_transmit(&mut self, out: &mut BytesMut, bytes_max: usize) {
        if !self.connected {
            return;
        }
        out.extend_from_slice(&self.urgent.split());
        let window = self.window();
        while self.resumed && out.len() < bytes_max {
            let Some(key) = self.turn.pop_front() else { return };
            let Some(stream) = self.streams.get_mut(&key) else { continue };
            stream.queued = false;
            if stream.transmit(window, out) {
                self.touch(key);
            }
            self.reap(key);
        }
    }

    /// Queues a record that belongs to no stream.
    pub fn push_record(&mut self, record: &Record<'_>) {
        if self.connected {
            encode(record, &mut self.urgent);
            self.events.push_back(Event::Transmit);
        }
    }

    /// Queues the acknowledgements that no data carried; called every few seconds.
    pub fn handle_idle(&mut self) {
        for key in self.keys() {
            if let Some(stream) = self.streams.get_mut(&key).filter(|stream| stream.recv.untold() > 0) {
                stream.owes_credit = true;
                self.touch(key);
            }
        }
    }

    /// Gives an opening stream a new number and announces it; before the other side said what it has, it waits.
    ///
    /// The announcement does not wait for the stream's turn: numbers go out in order.
    pub(super) fn put_on_wire(&mut self, key: u64) {
        if !self.resumed {
            return;
        }
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if let Phase::Opening { on_wire, .. } = &mut stream.phase {
            *on_wire = true;
            self.by_wire.remove(&stream.wire);
            stream.wire = self.next_wire;
            self.next_wire += 1;
            // What was transmitted before was refused unseen: nothing of it is acknowledged.
            let rewound = stream.send.rewind(0);
            let wire = stream.wire;
            self.by_wire.insert(wire, key);
            self.push_record(&Record::Open(wire));
            match rewound {
                Ok(()) => self.touch(key),
                Err(Violation) => self.fail(key, Cause::Lost),
            }
        }
    }

    pub(super) fn touch(&mut self, key: u64) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if self.connected && !stream.queued && stream.is_on_wire() {
            stream.queued = true;
            self.turn.push_back(key);
            self.events.push_back(Event::Transmit);
        }
    }

    pub(super) fn keys(&self) -> Vec<u64> {
        self.streams.keys().copied().collect()
    }

    fn window(&self) -> u64 {
        (LINK_BYTES_MAX / (self.streams.len() as u64).max(1)).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests;
