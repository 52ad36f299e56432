//! Watches one sender's connection in transparent delivery: messages, answers, how long an answer took, anomalies.
//!
//! Never changes, delays or holds a byte of it, never keeps more of a message than its header, never reports content.
//! The rules are those of transparent delivery in the design, and its cases 27 to 31.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::ack::{AckCode, FrameKind};
use super::dialect::Release;
use super::frame::{Anomaly, Decoder, END_SILENCE, Event, Limits, Violation};
use super::message::{AckCondition, HEADER_BYTES_MAX, Header, Mode};
use super::trace::{Keyed, Trace, TraceKey, Tracing};

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
        let unanswered = Unanswered { release, ..Unanswered::default() };
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
        unanswered.name(|entry| now.saturating_duration_since(entry.at) >= NAMED_AFTER, sink);
    }

    /// Takes that nothing passes: gives back what the last messages took.
    pub fn handle_quiet(&mut self) {
        self.sender.rest();
        self.receiver.rest();
        self.unanswered.entries.shrink_to_fit();
    }

    /// Ends: names what was not named yet.
    pub fn finish(&mut self, sink: Sink<'_>) {
        self.unanswered.name(|_| true, sink);
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
        self.unanswered.outstanding
    }

    /// Returns for how long the oldest of them has been waiting.
    pub fn oldest_outstanding(&self, now: Instant) -> Option<Duration> {
        let oldest = self.unanswered.entries.iter().find(|entry| entry.is_outstanding)?;
        Some(now.saturating_duration_since(oldest.at))
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

/// Remembers what was sent and may still be answered, oldest first.
#[derive(Default)]
struct Unanswered {
    release: Release,
    key: Option<TraceKey>,
    entries: VecDeque<Entry>,
    outstanding: usize,
}

struct Entry {
    /// Is a hash of MSH-10; absent where that is empty.
    id: Option<u64>,
    /// Names it for the account.
    trace: Option<Trace>,
    /// Says whether the account has it.
    is_named: bool,
    at: Instant,
    /// Says whether an answer is due now; else one may come all the same (an error, the one after CA).
    is_outstanding: bool,
    application_answer_may_follow: bool,
    /// Says whether the commit of Release 2 is still to come.
    transport_due: bool,
    /// Says whether an answer of HL7 is due.
    answer_due: bool,
}

impl Entry {
    fn name(&mut self, sink: Sink<'_>) {
        if let (Some(trace), false) = (self.trace, std::mem::replace(&mut self.is_named, true)) {
            sink(Observation::Passed(trace));
        }
    }
}

impl Unanswered {
    fn handle_sent(&mut self, seen: Seen<'_>, now: Instant, sink: Sink<'_>) {
        let (head, bytes, payload) = match seen {
            Seen::Anomaly(anomaly) => return sink(Observation::Anomaly(anomaly)),
            Seen::Frame { head, payload_bytes, payload } => (head, payload_bytes, payload),
        };
        match FrameKind::of(head) {
            FrameKind::Empty | FrameKind::Transport(_) => return,
            FrameKind::Control => return sink(Observation::Anomaly(Anomaly::ControlFrame)),
            FrameKind::Message => sink(Observation::Message { bytes }),
        }
        let trace = self.key.as_ref().map(|key| Trace { payload, ..key.trace_head(head, bytes) });
        match Header::parse(head) {
            Some(header) => self.remember(&header, trace, now, sink),
            None => {
                trace.into_iter().for_each(|trace| sink(Observation::Passed(trace)));
                sink(Observation::Anomaly(Anomaly::NoHeader));
            }
        }
    }

    fn remember(&mut self, header: &Header<'_>, trace: Option<Trace>, now: Instant, sink: Sink<'_>) {
        if self.entries.len() == OUTSTANDING_MAX
            && let Some(mut oldest) = self.entries.pop_front()
        {
            oldest.name(sink);
            if oldest.is_outstanding {
                self.outstanding = self.outstanding.saturating_sub(1);
                sink(Observation::Anomaly(Anomaly::OutstandingOverflow));
            }
        }
        let application_answer_may_follow = match header.mode() {
            Mode::Original => false,
            Mode::Enhanced { application, .. } => !matches!(application, AckCondition::Absent | AckCondition::Never),
        };
        let answer_due = header.requires_answer();
        let transport_due = self.release.commit().is_some();
        let is_outstanding = answer_due || transport_due;
        self.outstanding = self.outstanding.saturating_add(usize::from(is_outstanding));
        let id = id_of(header.control_id());
        let mut entry = Entry {
            id,
            trace,
            is_named: false,
            at: now,
            is_outstanding,
            application_answer_may_follow,
            transport_due,
            answer_due,
        };
        if !answer_due {
            entry.name(sink);
        }
        self.entries.push_back(entry);
    }

    /// Names for the account those that it does not have.
    fn name(&mut self, which: impl Fn(&Entry) -> bool, sink: Sink<'_>) {
        self.entries.iter_mut().filter(|entry| which(entry)).for_each(|entry| entry.name(sink));
    }

    fn handle_received(&mut self, seen: Seen<'_>, now: Instant, sink: Sink<'_>) {
        let head = match seen {
            Seen::Anomaly(anomaly) => return sink(Observation::Anomaly(anomaly)),
            Seen::Frame { head, .. } => head,
        };
        match FrameKind::of(head) {
            FrameKind::Empty => return,
            FrameKind::Transport(code) => {
                let latency = self.commit(code, now, sink);
                sink(Observation::Ack { code, latency });
                if latency.is_none() && self.release.commit().is_some() {
                    sink(Observation::Anomaly(Anomaly::AnswerUnmatched));
                }
                return;
            }
            FrameKind::Control => return sink(Observation::Anomaly(Anomaly::ControlFrame)),
            FrameKind::Message => {}
        }
        let Some(header) = Header::parse(head) else {
            return sink(Observation::Anomaly(Anomaly::NoHeader));
        };
        let (code, answered) = match header.msa() {
            Some(msa) => (AckCode::parse(msa.code()), msa.control_id()),
            None if header.message_type().starts_with(b"ACK") => (AckCode::Absent, &b""[..]),
            None => return sink(Observation::Unsolicited),
        };
        let settled = self.settle(code, id_of(answered), now, sink);
        let latency = settled.map(|(latency, _)| latency);
        sink(Observation::Ack { code, latency });
        if let Some(key) = &self.key {
            let known = settled.and_then(|(_, trace)| trace);
            let trace = known.unwrap_or_else(|| Trace::of_control_id(key.control_id(answered)));
            sink(Observation::Answered { code, trace });
        }
        if latency.is_none() {
            sink(Observation::Anomaly(Anomaly::AnswerUnmatched));
        }
    }

    /// Takes a commit of Release 2, which names no message: it is the oldest one's that has none yet. What is not
    /// committed is not answered either, and its sender sends it again.
    fn commit(&mut self, code: AckCode, now: Instant, sink: Sink<'_>) -> Option<Duration> {
        let index = self.entries.iter().position(|entry| entry.transport_due)?;
        let entry = self.entries.get_mut(index)?;
        let latency = now.saturating_duration_since(entry.at);
        entry.transport_due = false;
        let is_over = code == AckCode::TransportNak;
        let is_outstanding = entry.answer_due && !is_over;
        let was_outstanding = std::mem::replace(&mut entry.is_outstanding, is_outstanding);
        if was_outstanding && !is_outstanding {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        if is_over {
            entry.name(sink);
            self.entries.remove(index);
        }
        Some(latency)
    }

    /// Finds the message that an answer belongs to: the one with its control id; else the oldest where the answer
    /// names none, or the oldest that has none itself (receivers make one up then).
    fn settle(
        &mut self,
        code: AckCode,
        id: Option<u64>,
        now: Instant,
        sink: Sink<'_>,
    ) -> Option<(Duration, Option<Trace>)> {
        let index = match id {
            None => self.entries.iter().position(|entry| entry.is_outstanding),
            Some(_) => self.oldest_with(id).or_else(|| self.oldest_with(None)),
        }?;
        for passed in self.entries.iter_mut().take(index).filter(|entry| entry.is_outstanding) {
            (passed.is_outstanding, passed.transport_due) = (false, false);
            self.outstanding = self.outstanding.saturating_sub(1);
            passed.name(sink);
            sink(Observation::Anomaly(Anomaly::AnswerSkipped));
        }
        let entry = self.entries.get_mut(index)?;
        if std::mem::replace(&mut entry.is_outstanding, false) {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        entry.answer_due = false;
        let was_named = std::mem::replace(&mut entry.is_named, true);
        let trace = entry.trace.map(|trace| if was_named { Trace::of_control_id(trace.control_id) } else { trace });
        let settled = (now.saturating_duration_since(entry.at), trace);
        if code != AckCode::CommitAccept || !entry.application_answer_may_follow {
            self.entries.remove(index);
        }
        Some(settled)
    }

    /// Prefers what still waits: a control id may be used again.
    fn oldest_with(&self, id: Option<u64>) -> Option<usize> {
        let mut entries = self.entries.iter();
        let waiting = entries.position(|entry| entry.id == id && entry.is_outstanding);
        waiting.or_else(|| self.entries.iter().position(|entry| entry.id == id))
    }
}

/// Hashes a control id; the hash is the same in every process, and says nothing to anybody.
fn id_of(control_id: &[u8]) -> Option<u64> {
    if control_id.is_empty() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    control_id.hash(&mut hasher);
    Some(hasher.finish())
}
