//! Watches one sender's connection in transparent delivery: messages, answers, how long an answer took, anomalies.
//!
//! Never changes, delays or holds a byte of it, never keeps more of a message than its header, never reports content.
//! The rules are those of transparent delivery in the design, and its cases 27 to 31.

#[cfg(test)]
mod tests;
mod unanswered;

use std::time::{Duration, Instant};

use super::ack::AckCode;
use super::dialect::Release;
use super::frame::{Anomaly, Decoder, END_SILENCE, Event, Limits, Violation};
use super::message::HEADER_BYTES_MAX;
use super::trace::{Keyed, Trace, TraceKey, Tracing};
use unanswered::Unanswered;

/// Limits the messages of one connection that are remembered until they are answered: far above the window of any
/// sender that pipelines, and 64 KiB at the most.
pub const OUTSTANDING_MAX: usize = 1024;

/// Reports what was seen on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// The sender sent a whole message.
    Message {
        /// Counts the bytes of its payload.
        bytes: u64,
    },
    /// The receiver answered.
    Ack {
        /// Is what it answered.
        code: AckCode,
        /// Is the time since the last byte of the message; absent where no message belongs to the answer.
        latency: Option<Duration>,
    },
    /// Names a message that is not answered yet, or never will be, for the account; only where that is kept.
    Passed(Trace),
    /// Names the message that was answered, for the account; only where that is kept.
    Answered {
        /// Is the answer.
        code: AckCode,
        /// Names the message; no more than its control id where it was named before, or is not known.
        trace: Trace,
    },
    /// The receiver sent a message of its own.
    Unsolicited,
    /// Something deviates from the standard and was tolerated.
    Anomaly(Anomaly),
}

/// Is how long a message waits for its answer before it is named without: one entry of the account tells both otherwise.
const NAMED_AFTER: Duration = Duration::from_millis(200);

type Sink<'s> = &'s mut dyn FnMut(Observation);

/// Watches one sender's connection, both directions.
pub struct Observer {
    sender: Direction,
    receiver: Direction,
    unanswered: Unanswered,
}

impl Observer {
    /// Starts with a new connection; the limits hold for each direction.
    pub fn new(release: Release, limits: Limits) -> Self {
        let unanswered = Unanswered::new(release);
        Self { sender: Direction::new(limits), receiver: Direction::new(limits), unanswered }
    }

    /// Names messages and answers for the account from now on.
    pub fn tracing(mut self, key: TraceKey) -> Self {
        self.sender.key = Some(key.clone());
        self.unanswered.key = Some(key);
        self
    }

    /// Takes the next bytes that the sender sent.
    ///
    /// # Errors
    ///
    /// Returns why they cannot be followed: the connection is to be closed.
    pub fn handle_from_sender(&mut self, bytes: &[u8], now: Instant, sink: Sink<'_>) -> Result<(), Violation> {
        let Self { sender, unanswered, .. } = self;
        sender.handle_bytes(bytes, now, &mut |seen| unanswered.handle_sent(seen, now, sink))
    }

    /// Takes the next bytes that the receiver sent.
    ///
    /// # Errors
    ///
    /// Returns why they cannot be followed: the connection is to be closed.
    pub fn handle_from_receiver(&mut self, bytes: &[u8], now: Instant, sink: Sink<'_>) -> Result<(), Violation> {
        let Self { receiver, unanswered, .. } = self;
        receiver.handle_bytes(bytes, now, &mut |seen| unanswered.handle_received(seen, now, sink))
    }

    /// Takes the end of what the sender sends; answers may still come.
    pub fn handle_sender_end(&mut self, now: Instant, sink: Sink<'_>) {
        let Self { sender, unanswered, .. } = self;
        sender.handle_end(&mut |seen| unanswered.handle_sent(seen, now, sink));
    }

    /// Takes the end of what the receiver sends.
    pub fn handle_receiver_end(&mut self, now: Instant, sink: Sink<'_>) {
        let Self { receiver, unanswered, .. } = self;
        receiver.handle_end(&mut |seen| unanswered.handle_received(seen, now, sink));
    }

    /// Returns when silence would end a frame whose last CR is missing.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.sender.silent_at(), self.receiver.silent_at()].into_iter().flatten().min()
    }

    /// Takes the time, at [`Self::next_deadline`] or whenever it suits.
    pub fn handle_deadline(&mut self, now: Instant, sink: Sink<'_>) {
        let Self { sender, receiver, unanswered } = self;
        sender.handle_time(now, &mut |seen| unanswered.handle_sent(seen, now, sink));
        receiver.handle_time(now, &mut |seen| unanswered.handle_received(seen, now, sink));
        if let Some(since) = now.checked_sub(NAMED_AFTER) {
            unanswered.name(since, sink);
        }
    }

    /// Takes that nothing passes: gives back what the last messages took.
    pub fn handle_quiet(&mut self) {
        self.sender.rest();
        self.receiver.rest();
        self.unanswered.rest();
    }

    /// Ends: names what was not named yet.
    pub fn finish(&mut self, sink: Sink<'_>) {
        self.unanswered.name_all(sink);
    }

    /// Says whether the sender is between two messages.
    pub fn is_at_boundary(&self) -> bool {
        self.sender.decoder.is_between_frames()
    }

    /// Counts the bytes of the message that the sender has begun.
    pub fn begun_bytes(&self) -> u64 {
        self.sender.decoder.frame_bytes()
    }

    /// Counts the messages that should be answered and were not yet.
    pub fn outstanding(&self) -> usize {
        self.unanswered.outstanding()
    }

    /// Returns for how long the oldest of them has been waiting.
    pub fn oldest_outstanding(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.unanswered.oldest_outstanding()?))
    }
}

/// Is what one direction shows: a whole frame by its head, or an anomaly.
enum Seen<'a> {
    Frame { head: &'a [u8], payload_bytes: u64, payload: Option<Keyed> },
    Anomaly(Anomaly),
}

struct Direction {
    decoder: Decoder,
    head: Vec<u8>,
    /// Is what makes keyed hashes of payloads; none where nobody wants them.
    key: Option<TraceKey>,
    tracing: Option<Tracing>,
    last_byte_at: Option<Instant>,
}

impl Direction {
    fn new(limits: Limits) -> Self {
        Self { decoder: Decoder::new(limits), head: Vec::new(), key: None, tracing: None, last_byte_at: None }
    }

    fn rest(&mut self) {
        if self.decoder.is_between_frames() {
            (self.head, self.tracing) = (Vec::new(), None);
        }
    }

    fn handle_bytes(&mut self, bytes: &[u8], now: Instant, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), Violation> {
        self.last_byte_at = Some(now);
        if self.tracing.is_none() {
            self.tracing = self.key.as_ref().map(TraceKey::tracing);
        }
        let Self { decoder, head, tracing, .. } = self;
        decoder.handle_bytes(bytes, &mut |event| watch(head, tracing, event, seen))
    }

    fn handle_end(&mut self, seen: &mut dyn FnMut(Seen<'_>)) {
        let Self { decoder, head, tracing, .. } = self;
        decoder.handle_end_of_stream(&mut |event| watch(head, tracing, event, seen));
    }

    fn silent_at(&self) -> Option<Instant> {
        let last_byte_at = self.last_byte_at.filter(|_| self.decoder.awaits_silence())?;
        last_byte_at.checked_add(END_SILENCE)
    }

    fn handle_time(&mut self, now: Instant, seen: &mut dyn FnMut(Seen<'_>)) {
        if self.silent_at().is_some_and(|at| at <= now) {
            let Self { decoder, head, tracing, .. } = self;
            decoder.handle_silence(&mut |event| watch(head, tracing, event, seen));
        }
    }
}

/// Keeps the head of a frame until its end, and hashes all of it.
fn watch(head: &mut Vec<u8>, tracing: &mut Option<Tracing>, event: Event<'_>, seen: &mut dyn FnMut(Seen<'_>)) {
    match event {
        Event::Start => {
            head.clear();
            tracing.iter_mut().for_each(Tracing::begin);
        }
        Event::Payload(bytes) => {
            let room = HEADER_BYTES_MAX.saturating_sub(head.len());
            head.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            tracing.iter_mut().for_each(|tracing| tracing.update(bytes));
        }
        Event::End { payload_bytes } => {
            seen(Seen::Frame { head, payload_bytes, payload: tracing.as_mut().map(Tracing::end) });
        }
        Event::Anomaly(anomaly) => seen(Seen::Anomaly(anomaly)),
    }
}
