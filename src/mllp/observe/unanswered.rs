//! The messages of a connection that were sent and may still be answered.
//!
//! Never keeps more of a message than a hash of its control id, and what the account names of it.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::{OUTSTANDING_MAX, Observation, Seen, Sink};
use crate::mllp::ack::{AckCode, FrameKind};
use crate::mllp::dialect::Release;
use crate::mllp::frame::Anomaly;
use crate::mllp::message::{AckCondition, Header, Mode};
use crate::mllp::trace::{Trace, TraceKey};

/// Remembers what was sent and may still be answered, oldest first.
#[derive(Default)]
pub(super) struct Unanswered {
    release: Release,
    pub(super) key: Option<TraceKey>,
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
    pub(super) fn new(release: Release) -> Self {
        Self { release, ..Self::default() }
    }

    pub(super) fn handle_sent(&mut self, seen: Seen<'_>, now: Instant, sink: Sink<'_>) {
        let (head, bytes, payload) = match seen {
            Seen::Anomaly(anomaly) => return sink(Observation::Anomaly(anomaly)),
            Seen::Frame { head, payload_bytes, payload } => (head, payload_bytes, payload),
        };
        match FrameKind::of(head) {
            FrameKind::Empty | FrameKind::Transport(_) => return,
            FrameKind::Control => return sink(Observation::Anomaly(Anomaly::ControlFrame)),
            FrameKind::Message => sink(Observation::Message { bytes }),
        }
        let header = Header::parse(head);
        let trace = self.key.as_ref().map(|key| Trace { payload, ..key.trace_header(header.as_ref(), bytes) });
        match header {
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

    /// Names for the account those that it does not have and that have waited since then, or longer.
    pub(super) fn name(&mut self, since: Instant, sink: Sink<'_>) {
        self.entries.iter_mut().filter(|entry| entry.at <= since).for_each(|entry| entry.name(sink));
    }

    /// Names all that the account does not have.
    pub(super) fn name_all(&mut self, sink: Sink<'_>) {
        self.entries.iter_mut().for_each(|entry| entry.name(sink));
    }

    /// Gives back what the last messages took.
    pub(super) fn rest(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// Counts the messages that should be answered and were not yet.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Counts them one by one.
    #[cfg(test)]
    pub(super) fn outstanding_entries(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_outstanding).count()
    }

    /// Returns since when the oldest of them waits.
    pub(super) fn oldest_outstanding(&self) -> Option<Instant> {
        self.entries.iter().find(|entry| entry.is_outstanding).map(|entry| entry.at)
    }

    pub(super) fn handle_received(&mut self, seen: Seen<'_>, now: Instant, sink: Sink<'_>) {
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
