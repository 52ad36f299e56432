//! What one read completes: frames that are judged, stored together, and answered in order.
//!
//! Never writes a positive answer, or the commit of MLLP Release 2, before the message is stored. Rules: design,
//! delivery.md ("stored: intake").

use std::time::Instant;

use super::judge::{Fate, judge};
use super::{Keep, NotAll, NotKept};
use crate::config::{OnFull, Stored};
use crate::forward::answer::Mark;
use crate::link::tally::Tally;
use crate::mllp::ack::{
    self, AckCode, COMMIT_ACK, COMMIT_NAK, FrameKind, NO_APPLICATION_ANSWER_TEXT, NOT_STORED_TEXT, Stamp,
};
use crate::mllp::dialect::Dialect;
use crate::mllp::exchange::{ANSWERS_COMMITS, UNMATCHED_MAX};
use crate::mllp::frame::{Anomaly, Read};
use crate::mllp::message::{HEADER_BYTES_MAX, Header};
use crate::mllp::observe::Observation;

/// Counts messages that require an answer of the application.
const NO_ANSWER: &str = "application_answer_required";

/// Is a message that waits for its answer.
struct Entry {
    /// Is the begin of the payload, with all of its header.
    head: Vec<u8>,
    bytes: u64,
    step: Step,
}

/// Says what is done with a message.
enum Step {
    Store {
        payload: Vec<u8>,
        code: Option<AckCode>,
    },
    Refuse,
    /// It gets a negative commit, for its sender awaits one (MLLP Release 2).
    Pass,
}

/// Says what a message is told by: what it was to be answered once it is kept, or nothing of that.
enum Due {
    Answer(Option<AckCode>),
    Refusal,
    Commit,
}

/// Is what a sender is told, and whether it may go on.
#[derive(Default)]
pub(super) struct Answers {
    /// Is what is to be written, in one piece.
    pub(super) bytes: Vec<u8>,
    /// Are answers in frames, each to be written when the one before is committed (MLLP Release 2).
    pub(super) to_commit: Vec<Vec<u8>>,
    /// Is why the connection ends behind that, as a stable code.
    pub(super) ends: Option<&'static str>,
}

/// Collects the frames of one read.
pub(super) struct Batch<'a> {
    tally: &'a Tally,
    terms: Stored,
    dialect: Dialect,
    entries: Vec<Entry>,
    /// Are commits of answers that the sender was given (MLLP Release 2).
    pub(super) commits: Vec<AckCode>,
    /// Counts what matched nothing since the last message (MLLP Release 2).
    pub(super) unmatched: u32,
    /// Counts what is no message: whole frames, and deviations.
    pub(super) strays: u32,
    /// Counts the bytes of the payloads.
    pub(super) payload_bytes: u64,
    /// Is why nothing behind these frames counts, as a stable code.
    pub(super) ends: Option<&'static str>,
    at: Instant,
}

impl<'a> Batch<'a> {
    /// Begins one behind so much that matched nothing.
    pub(super) fn new(tally: &'a Tally, terms: Stored, dialect: Dialect, unmatched: u32) -> Self {
        let (entries, commits) = (Vec::new(), Vec::new());
        let (strays, payload_bytes, ends, at) = (0, 0, None, Instant::now());
        Self { tally, terms, dialect, entries, commits, unmatched, strays, payload_bytes, ends, at }
    }

    fn is_committed(&self) -> bool {
        self.dialect.release.commit().is_some()
    }

    /// Takes the next frame, or the news of something odd.
    pub(super) fn handle(&mut self, read: Read) {
        if self.ends.is_some() {
            return;
        }
        match read {
            Read::Payload(payload) => self.judge(payload),
            Read::Anomaly(anomaly) => {
                self.strays = self.strays.saturating_add(1);
                self.count(anomaly);
                // The partial message is nobody's any more: what its sender begins anew comes on a new connection.
                if anomaly == Anomaly::StartedOver {
                    self.ends = Some(anomaly.code());
                }
            }
        }
    }

    fn judge(&mut self, payload: Vec<u8>) {
        if let (true, FrameKind::Transport(code)) = (self.is_committed(), FrameKind::of(&payload)) {
            self.commits.push(code);
            self.strays = self.strays.saturating_add(1);
            return;
        }
        let fate = judge(&payload, self.terms.application_ack);
        let step = match fate {
            Fate::Ignore(Some(Anomaly::AnswerUnmatched)) if self.is_committed() => {
                return self.pass(Anomaly::AnswerUnmatched);
            }
            Fate::Ignore(anomaly) => {
                self.strays = self.strays.saturating_add(1);
                return anomaly.into_iter().for_each(|anomaly| self.count(anomaly));
            }
            Fate::Unreadable(anomaly) if self.is_committed() => return self.pass(anomaly),
            Fate::Unreadable(anomaly) => {
                self.count(anomaly);
                self.ends = Some(anomaly.code());
                return;
            }
            Fate::Refuse | Fate::Store(_) => fate,
        };
        self.unmatched = 0;
        let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        self.tally.count(Observation::Message { bytes }, self.at);
        self.payload_bytes = self.payload_bytes.saturating_add(bytes);
        let header_bytes = Header::parse_whole(&payload).map_or(0, |header| header.bytes_in(&payload));
        let head = payload.get(..header_bytes.max(HEADER_BYTES_MAX)).unwrap_or(&payload).to_vec();
        let step = match step {
            Fate::Store(code) => Step::Store { payload, code },
            _ => Step::Refuse,
        };
        self.entries.push(Entry { head, bytes, step });
    }

    /// Passes something over, with a negative commit: so often, for who answers that gets one of its own each time.
    fn pass(&mut self, anomaly: Anomaly) {
        self.count(anomaly);
        self.unmatched = self.unmatched.saturating_add(1);
        if self.unmatched >= UNMATCHED_MAX {
            self.ends = Some(ANSWERS_COMMITS);
            return;
        }
        self.entries.push(Entry { head: Vec::new(), bytes: 0, step: Step::Pass });
    }

    pub(super) fn count(&self, anomaly: Anomaly) {
        self.tally.count(Observation::Anomaly(anomaly), self.at);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Says when the frames came.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Hands all messages to the store at once, in order, waits until they are kept or not, and makes the answers.
    ///
    /// Dropping the future loses answers, never a message that was answered.
    pub(super) async fn settle<K: Keep>(self, keep: &K) -> Answers {
        let is_committed = self.is_committed();
        let Self { tally, terms, dialect, entries, ends, at, .. } = self;
        let (mut payloads, mut steps) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        for Entry { head, bytes, step } in entries {
            match step {
                Step::Store { payload, code } => {
                    payloads.push(payload);
                    steps.push((head, bytes, Due::Answer(code)));
                }
                Step::Pass => steps.push((head, bytes, Due::Commit)),
                Step::Refuse => {
                    let is_told = is_committed
                        || Header::parse_whole(&head).and_then(|header| reject(&header, Mark::new().stamp())).is_some();
                    steps.push((head, bytes, Due::Refusal));
                    if !is_told {
                        break; // its connection ends: what is behind it would be kept, and never answered
                    }
                }
            }
        }
        let stored = payloads.len();
        let done = if payloads.is_empty() { Ok(()) } else { keep.append(payloads).await };
        let NotAll { mut kept, why } = done.err().unwrap_or(NotAll { kept: stored, why: NotKept::Failed });
        let mut answers = Writer { tally, dialect, at, answers: Answers { ends, ..Answers::default() } };
        for (head, bytes, due) in steps {
            let goes_on = match due {
                Due::Commit => answers.commit(AckCode::TransportNak),
                Due::Refusal => answers.refuse((&head, bytes), NO_ANSWER, reject),
                Due::Answer(code) if kept > 0 => {
                    kept -= 1;
                    answers.accept(&head, code)
                }
                Due::Answer(_) => answers.refuse((&head, bytes), why.code(), |header, stamp| match terms.on_full {
                    OnFull::Close => None,
                    OnFull::Nak => ack::refusal(header, stamp, NOT_STORED_TEXT),
                }),
            };
            if !goes_on {
                break;
            }
        }
        answers.answers
    }
}

/// Answers a message that only an application could answer, where its sender awaits an answer at all.
fn reject(header: &Header<'_>, stamp: Stamp<'_>) -> Option<(AckCode, Vec<u8>)> {
    ack::rejection(header, stamp, NO_APPLICATION_ANSWER_TEXT)
}

/// Writes the answers, in order.
struct Writer<'a> {
    tally: &'a Tally,
    dialect: Dialect,
    at: Instant,
    answers: Answers,
}

impl Writer<'_> {
    fn accept(&mut self, head: &[u8], code: Option<AckCode>) -> bool {
        if self.dialect.release.commit().is_some() {
            self.commit(AckCode::TransportAck);
        }
        if let Some((code, header)) = code.zip(Header::parse_whole(head)) {
            let answer = ack::answer(&header, code, Mark::new().stamp());
            self.write(code, &answer);
        }
        true
    }

    /// Commits a message, or says that it is not; the sender may go on in either case.
    fn commit(&mut self, code: AckCode) -> bool {
        self.count(code);
        let payload = if code == AckCode::TransportAck { COMMIT_ACK } else { COMMIT_NAK };
        self.answers.bytes.extend_from_slice(&self.dialect.framing.encode(&[payload]));
        true
    }

    /// Refuses a message; says whether the sender may go on. One that asks for no answer learns it by the end of its
    /// connection, but for Release 2, where the commit says it.
    fn refuse(
        &mut self,
        (head, bytes): (&[u8], u64),
        reason: &'static str,
        written: impl FnOnce(&Header<'_>, Stamp<'_>) -> Option<(AckCode, Vec<u8>)>,
    ) -> bool {
        self.tally.refuse_message(reason, head, bytes);
        if self.dialect.release.commit().is_some() {
            return self.commit(AckCode::TransportNak);
        }
        match Header::parse_whole(head).and_then(|header| written(&header, Mark::new().stamp())) {
            Some((code, answer)) => {
                self.write(code, &answer);
                true
            }
            None => {
                self.answers.ends = Some(reason);
                false
            }
        }
    }

    fn write(&mut self, code: AckCode, answer: &[u8]) {
        self.count(code);
        let frame = self.dialect.framing.encode(answer);
        if self.dialect.release.commit().is_some_and(|commit| commit.timeout.is_some()) {
            self.answers.to_commit.push(frame);
        } else {
            self.answers.bytes.extend_from_slice(&frame);
        }
    }

    fn count(&self, code: AckCode) {
        let now = Instant::now();
        let latency = Some(now.saturating_duration_since(self.at));
        self.tally.count(Observation::Ack { code, latency }, now);
    }
}
