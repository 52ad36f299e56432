//! Pairs one message out with its answer back on a connection to a receiver.
//!
//! Never sends, never waits, never takes the answer to another message for this one's. The rules are those of HL7 v2
//! chapter 2 (original and enhanced acknowledgement mode) and the cases 27 to 31 of the design.

#[cfg(test)]
mod tests;

use std::time::Instant;

use super::ack::{AckCode, FrameKind};
use super::frame::{Anomaly, FrameReader, Limits, Read, Violation};
use super::message::{Header, Mode};

/// Is an answer to the message of the exchange.
pub struct Answer {
    /// Is what the receiver answered.
    pub code: AckCode,
    /// Is the answer's payload as it came.
    pub payload: Vec<u8>,
}

/// Counts what came and is no answer to the message of its exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Answers to a message that was answered before, and answers that nobody waits for.
    pub late: u64,
    /// Answers that name another message.
    pub foreign: u64,
    /// Messages without an MSA, control frames, empty frames.
    pub no_answer: u64,
    /// Deviations from the framing that were tolerated.
    pub anomalies: u64,
}

/// Says which answers are awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// All that the message asks for.
    AsAsked,
    /// The accept acknowledgement alone where the message asks for both.
    Accept,
    /// None, whatever the message asks for.
    Nothing,
}

/// Exchanges one message after the other on one connection.
///
/// A message whose control id is empty, or was used before on this connection, cannot be told from another by its
/// answer: whoever must not confuse them connects anew first, as after a deadline that passed.
pub struct Exchange {
    reader: FrameReader,
    inner: Inner,
}

#[derive(Default)]
struct Inner {
    waiting: Option<Waiting>,
    answered: Vec<u8>,
    dropped: Dropped,
}

struct Waiting {
    /// Is MSH-10; empty: any answer is taken.
    control_id: Vec<u8>,
    deadline: Instant,
    commit_due: bool,
    application_due: bool,
}

impl Exchange {
    /// Starts with a new connection; the limits hold for the receiver's answers.
    pub fn new(limits: Limits) -> Self {
        Self { reader: FrameReader::new(limits), inner: Inner::default() }
    }

    /// Takes note of the payload of a message that is about to be sent, to be answered before the deadline.
    pub fn begin(&mut self, payload: &[u8], deadline: Instant) {
        self.begin_awaiting(payload, deadline, Awaited::AsAsked);
    }

    /// Does the same where not every answer is awaited that the message asks for.
    pub fn begin_awaiting(&mut self, payload: &[u8], deadline: Instant, awaited: Awaited) {
        let header = Header::parse(payload);
        let (commit_due, application_due) = match header.as_ref().map(|header| (header, header.mode())) {
            // One answer: AA, AE or AR, of some receivers CA. A response that is sent by itself has one too.
            None => (true, false),
            Some((header, Mode::Original)) => (!header.is_acknowledgement(), false),
            Some((header, Mode::Enhanced { accept, application })) => {
                (accept.is_due(true), application.is_due(true) && header.msa().is_none())
            }
        };
        let (commit_due, application_due) = match awaited {
            Awaited::AsAsked => (commit_due, application_due),
            Awaited::Accept => (commit_due, application_due && !commit_due),
            Awaited::Nothing => (false, false),
        };
        let control_id = header.map(|header| header.control_id().to_vec()).unwrap_or_default();
        let waiting = Waiting { control_id, deadline, commit_due, application_due };
        self.inner.waiting = (commit_due || application_due).then_some(waiting);
    }

    /// Moves the deadline, as the message is still being written, or was answered in part.
    pub fn postpone(&mut self, deadline: Instant) {
        if let Some(waiting) = &mut self.inner.waiting {
            waiting.deadline = deadline;
        }
    }

    /// Takes the next bytes from the receiver and hands over the answers to the message, in order.
    ///
    /// # Errors
    ///
    /// Returns why they cannot be followed: the connection is to be closed.
    pub fn handle_bytes(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Answer)) -> Result<(), Violation> {
        let Self { reader, inner } = self;
        reader.handle_bytes(bytes, &mut |read| inner.handle_read(read, sink))
    }

    /// Takes the end of what the receiver sends. A message that is not done then has an unknown outcome.
    pub fn handle_end_of_stream(&mut self, sink: &mut dyn FnMut(Answer)) {
        let Self { reader, inner } = self;
        reader.handle_end_of_stream(&mut |read| inner.handle_read(read, sink));
    }

    /// Says whether silence for [`super::frame::END_SILENCE`] would end the present frame.
    pub fn awaits_silence(&self) -> bool {
        self.reader.awaits_silence()
    }

    /// Takes the news of that silence.
    pub fn handle_silence(&mut self, sink: &mut dyn FnMut(Answer)) {
        let Self { reader, inner } = self;
        reader.handle_silence(&mut |read| inner.handle_read(read, sink));
    }

    /// Says whether every answer that the message asks for is there.
    pub fn is_done(&self) -> bool {
        self.inner.waiting.is_none()
    }

    /// Returns until when the answers are awaited; `None` when all are there.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.inner.waiting.as_ref().map(|waiting| waiting.deadline)
    }

    /// Returns what was dropped so far on this connection.
    pub fn dropped(&self) -> Dropped {
        self.inner.dropped
    }
}

impl Inner {
    fn handle_read(&mut self, read: Read, sink: &mut dyn FnMut(Answer)) {
        let payload = match read {
            Read::Payload(payload) => payload,
            // Counted below, as a frame that is no answer.
            Read::Anomaly(Anomaly::EmptyFrame) => return,
            Read::Anomaly(_) => return count(&mut self.dropped.anomalies),
        };
        match FrameKind::of(&payload) {
            // The HL7 answer follows.
            FrameKind::Transport(AckCode::TransportAck) => {}
            FrameKind::Transport(code) if self.waiting.is_some() => self.finish(Answer { code, payload }, sink),
            FrameKind::Transport(_) => count(&mut self.dropped.late),
            FrameKind::Empty | FrameKind::Control => count(&mut self.dropped.no_answer),
            FrameKind::Message => self.handle_message(payload, sink),
        }
    }

    fn handle_message(&mut self, payload: Vec<u8>, sink: &mut dyn FnMut(Answer)) {
        let Some(msa) = Header::parse(&payload).and_then(|header| header.msa()) else {
            return count(&mut self.dropped.no_answer);
        };
        let Some(waiting) = &mut self.waiting else {
            return count(&mut self.dropped.late);
        };
        if !waiting.control_id.is_empty() && msa.control_id() != waiting.control_id {
            let is_late = !self.answered.is_empty() && msa.control_id() == self.answered;
            return count(if is_late { &mut self.dropped.late } else { &mut self.dropped.foreign });
        }
        let code = AckCode::parse(msa.code());
        if code != AckCode::CommitAccept {
            return self.finish(Answer { code, payload }, sink);
        }
        if !waiting.commit_due && waiting.application_due {
            // Not asked for, or twice; the application's answer is still to come.
            return count(&mut self.dropped.late);
        }
        waiting.commit_due = false;
        if waiting.application_due {
            sink(Answer { code, payload });
        } else {
            self.finish(Answer { code, payload }, sink);
        }
    }

    /// Ends the exchange: after an application answer or a refusal nothing else comes.
    fn finish(&mut self, answer: Answer, sink: &mut dyn FnMut(Answer)) {
        if let Some(waiting) = self.waiting.take() {
            self.answered = waiting.control_id;
        }
        sink(answer);
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
