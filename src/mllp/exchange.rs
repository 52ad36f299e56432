//! Pairs one message out with its answer back on a connection to a receiver.
//!
//! Never sends, never waits, never takes the answer to another message for this one's. The rules are those of HL7 v2
//! chapter 2 (original and enhanced acknowledgement mode), the cases 27 to 31 of the design, and of MLLP Release 2: the
//! message is committed first, then answered, and each answer is committed by whoever has it.

#[cfg(test)]
mod tests;

use std::time::Instant;

use super::ack::{AckCode, COMMIT_ACK, COMMIT_NAK, FrameKind};
use super::dialect::Release;
use super::frame::{Anomaly, FrameReader, Framing, Limits, Read, Violation};
use super::message::{Header, Mode};

/// Counts the frames in a row, without a message between, that match nothing before they are not committed any more: more
/// than a receiver that was late has on its way, and less than any burst.
pub const UNMATCHED_MAX: u32 = 8;
/// Is why a connection ends whose other end goes on so: it answers each commit, as one of Release 1 does.
pub const ANSWERS_COMMITS: &str = "answers_commits";

/// Is an answer to the message of the exchange.
pub struct Answer {
    /// Is what the receiver answered.
    pub code: AckCode,
    /// Is the answer's payload as it came.
    pub payload: Vec<u8>,
    /// Tells that it is the present message's; others come only where they are asked for ([`Exchange::tell_of_others`]).
    pub is_own: bool,
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
    /// None, whatever the message asks for; in Release 2 its commit all the same.
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
    release: Release,
    framing: Framing,
    waiting: Option<Waiting>,
    answered: Vec<u8>,
    /// Are commits for what the receiver sent, in frames.
    replies: Vec<u8>,
    is_out_of_step: bool,
    /// Counts what matched nothing since the last message.
    unmatched: u32,
    dropped: Dropped,
    tells_of_others: bool,
}

struct Waiting {
    /// Is MSH-10; empty: any answer is taken.
    control_id: Vec<u8>,
    deadline: Instant,
    /// Says whether the commit of Release 2 is still to come.
    transport_due: bool,
    commit_due: bool,
    application_due: bool,
}

impl Waiting {
    fn is_over(&self) -> bool {
        !(self.transport_due || self.commit_due || self.application_due)
    }
}

impl Exchange {
    /// Starts with a new connection; the limits hold for the receiver's answers.
    pub fn new(limits: Limits) -> Self {
        Self::speaking(Release::One, limits)
    }

    /// Starts with a new connection to a receiver that speaks this release.
    pub fn speaking(release: Release, limits: Limits) -> Self {
        let inner = Inner { release, framing: limits.framing, ..Inner::default() };
        Self { reader: FrameReader::new(limits), inner }
    }

    /// Hands over also answers that name another message than the present one, from now on; they count as dropped.
    pub fn tell_of_others(&mut self) {
        self.inner.tells_of_others = true;
    }

    /// Takes note of the payload of a message that is about to be sent, to be answered before the deadline.
    pub fn begin(&mut self, payload: &[u8], deadline: Instant) {
        self.begin_awaiting(payload, deadline, Awaited::AsAsked);
    }

    /// Does the same where not every answer is awaited that the message asks for.
    pub fn begin_awaiting(&mut self, payload: &[u8], deadline: Instant, awaited: Awaited) {
        let header = Header::parse_whole(payload);
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
        let transport_due = self.inner.release.commit().is_some();
        let waiting = Waiting { control_id, deadline, transport_due, commit_due, application_due };
        self.inner.unmatched = 0;
        self.inner.waiting = Some(waiting).filter(|waiting| !waiting.is_over());
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

    /// Says whether the receiver has not committed the message yet, which it does ahead of any answer (Release 2).
    pub fn awaits_commit(&self) -> bool {
        self.inner.waiting.as_ref().is_some_and(|waiting| waiting.transport_due)
    }

    /// Says whether commits and messages cannot be told to belong together any more, for a commit names no message: the
    /// next message needs another connection (Release 2).
    pub fn is_out_of_step(&self) -> bool {
        self.inner.is_out_of_step
    }

    /// Says whether the receiver answers commits, or goes on and on with what else matches nothing: it gets no commit of
    /// that any more, and the connection is to end once no message is under way (Release 2).
    pub fn answers_commits(&self) -> bool {
        self.inner.unmatched >= UNMATCHED_MAX
    }

    /// Says whether the receiver is owed commits for what it sent (Release 2).
    pub fn has_replies(&self) -> bool {
        !self.inner.replies.is_empty()
    }

    /// Returns these commits in frames, to be written once what they are for is safe.
    pub fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inner.replies)
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
            FrameKind::Transport(code) => self.handle_commit(Answer { code, payload, is_own: true }, sink),
            FrameKind::Empty | FrameKind::Control => count(&mut self.dropped.no_answer),
            FrameKind::Message => {
                let is_answer = Header::parse_whole(&payload).is_some_and(|header| header.is_acknowledgement());
                let is_taken = self.handle_message(payload, sink);
                let is_committed = self.release.commit().is_some();
                if is_committed && !is_taken {
                    self.unmatched = self.unmatched.saturating_add(1);
                }
                if is_committed && (is_taken || self.unmatched < UNMATCHED_MAX) {
                    // A message of its own goes nowhere from here: the receiver is not to believe that it arrived.
                    let commit = if is_taken || is_answer { COMMIT_ACK } else { COMMIT_NAK };
                    self.replies.extend_from_slice(&self.framing.encode(&[commit]));
                }
            }
        }
    }

    /// Takes a commit. In Release 1 a positive one says nothing, for the HL7 answer follows.
    fn handle_commit(&mut self, commit: Answer, sink: &mut dyn FnMut(Answer)) {
        let is_negative = commit.code == AckCode::TransportNak;
        let is_release_2 = self.release.commit().is_some();
        match &mut self.waiting {
            Some(waiting) if waiting.transport_due => {
                waiting.transport_due = false;
                if is_negative { self.finish(commit, sink) } else { self.tell(commit, sink) }
            }
            Some(_) if is_negative && !is_release_2 => self.finish(commit, sink),
            None if is_negative && !is_release_2 => count(&mut self.dropped.late),
            _ if is_release_2 => {
                self.is_out_of_step = true;
                self.unmatched = self.unmatched.saturating_add(1);
                count(&mut self.dropped.late);
            }
            _ => {}
        }
    }

    /// Takes a message of the receiver; says whether it is an answer to the message of the exchange.
    fn handle_message(&mut self, payload: Vec<u8>, sink: &mut dyn FnMut(Answer)) -> bool {
        let Some(msa) = Header::parse_whole(&payload).and_then(|header| header.msa()) else {
            count(&mut self.dropped.no_answer);
            return false;
        };
        let Some(waiting) = &mut self.waiting else {
            count(&mut self.dropped.late);
            self.tell_of_other(AckCode::parse(msa.code()), payload, sink);
            return false;
        };
        if !waiting.control_id.is_empty() && msa.control_id() != waiting.control_id {
            let is_late = !self.answered.is_empty() && msa.control_id() == self.answered;
            count(if is_late { &mut self.dropped.late } else { &mut self.dropped.foreign });
            self.tell_of_other(AckCode::parse(msa.code()), payload, sink);
            return false;
        }
        let code = AckCode::parse(msa.code());
        if std::mem::take(&mut waiting.transport_due) {
            // It has the message, then. Its commit may come yet, and would be taken for the next message's.
            self.is_out_of_step = true;
        }
        self.handle_answer(Answer { code, payload, is_own: true }, sink);
        true
    }

    fn handle_answer(&mut self, answer: Answer, sink: &mut dyn FnMut(Answer)) {
        let Some(waiting) = &mut self.waiting else { return };
        if answer.code != AckCode::CommitAccept {
            return self.finish(answer, sink);
        }
        if !waiting.commit_due && waiting.application_due {
            // Not asked for, or twice; the application's answer is still to come.
            return count(&mut self.dropped.late);
        }
        waiting.commit_due = false;
        self.tell(answer, sink);
    }

    fn tell_of_other(&self, code: AckCode, payload: Vec<u8>, sink: &mut dyn FnMut(Answer)) {
        if self.tells_of_others {
            sink(Answer { code, payload, is_own: false });
        }
    }

    /// Tells of an answer; it ends the exchange where no other is due.
    fn tell(&mut self, answer: Answer, sink: &mut dyn FnMut(Answer)) {
        if self.waiting.as_ref().is_some_and(Waiting::is_over) {
            self.finish(answer, sink);
        } else {
            sink(answer);
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
