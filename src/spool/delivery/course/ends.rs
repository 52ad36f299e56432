//! How attempts and messages end: by an answer, by its absence, by the policy.

use std::time::{Instant, UNIX_EPOCH};

use super::head::{Failure, Head, Phase, Reason};
use super::line::{Line, Receiver};
use super::{Course, Ended, Trying};
use crate::config::{InDoubt, Otherwise};
use crate::mllp::ack::AckCode;
use crate::mllp::exchange::{ANSWERS_COMMITS, Answer};
use crate::mllp::frame::END_SILENCE;
use crate::spool::{ANSWER_BYTES_MAX, Outcome, Verdict};

/// The receiver's connection ended before the answer.
const RESET: &str = "receiver_reset";
/// The answer did not come in time.
const TIMEOUT: &str = "ack_timeout";
/// What the receiver sends cannot be followed, or is an answer to what it does not have yet.
const REFUSED: &str = "refused";

impl Course {
    /// Takes the news of an open connection.
    pub fn handle_dialed(&mut self) {
        self.line = Line::up(self.policy.dialect);
        self.counts.connections = self.counts.connections.saturating_add(1);
        // One that is down because it does not answer is up again when it does.
        let is_silent = matches!(self.receiver, Receiver::Down(RESET | TIMEOUT | REFUSED | ANSWERS_COMMITS));
        if !is_silent {
            self.receiver = Receiver::Up;
        }
    }

    /// Takes the news that none could be opened, for the reason of this code: no attempt, and tried for ever.
    pub fn handle_dial_failed(&mut self, code: &'static str, now: Instant) {
        self.connect_failures = self.connect_failures.saturating_add(1);
        self.counts.connect_failures = self.counts.connect_failures.saturating_add(1);
        self.receiver = Receiver::Down(code);
        let until = now + self.pause(self.connect_failures);
        self.line = Line::Backoff { until };
    }

    /// Takes the news that the connection took some bytes of the message.
    pub fn handle_progress(&mut self, now: Instant) {
        let patience = match &self.line {
            Line::Up(up) => up.patience(&self.policy),
            _ => self.policy.ack_timeout,
        };
        let deadline = now + patience;
        if let Some(head) = &mut self.head
            && let Phase::UnderWay { has_begun, drained_by, .. } = &mut head.phase
        {
            *has_begun = true;
            *drained_by = drained_by.map(|_| deadline);
        }
        if let Line::Up(up) = &mut self.line {
            up.is_used = true;
            up.exchange.postpone(deadline);
        }
    }

    /// Takes the news that the connection took the last byte of the message.
    pub fn handle_sent(&mut self, now: Instant) {
        self.handle_progress(now);
        if let Some(head) = &mut self.head
            && let Phase::UnderWay { sent_at, .. } = &mut head.phase
        {
            *sent_at = Some(now);
        }
    }

    /// Takes the news that the receiver's TCP has all of the message.
    pub fn handle_drained(&mut self) {
        if self.awaits_drain() {
            self.answered();
            self.end_head(Verdict::Delivered);
        }
    }

    /// Takes bytes of the receiver.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        let Line::Up(up) = &mut self.line else { return };
        let mut answers = Vec::new();
        let followed = up.exchange.handle_bytes(bytes, &mut |answer| answers.push(answer));
        up.silence_at = up.exchange.awaits_silence().then(|| now + END_SILENCE);
        self.take_answers(answers, now);
        if followed.is_err() {
            self.lose(REFUSED, now);
        }
    }

    /// Takes the end of the connection.
    pub fn handle_closed(&mut self, now: Instant) {
        if let Line::Up(up) = &mut self.line {
            let mut answers = Vec::new();
            up.exchange.handle_end_of_stream(&mut |answer| answers.push(answer));
            self.take_answers(answers, now);
            self.lose(RESET, now);
        }
    }

    /// Does what is due.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Line::Up(up) = &mut self.line
            && up.silence_at.is_some_and(|at| at <= now)
        {
            up.silence_at = None;
            let mut answers = Vec::new();
            up.exchange.handle_silence(&mut |answer| answers.push(answer));
            self.take_answers(answers, now);
        }
        let is_due = self.next_deadline().is_some_and(|at| at <= now);
        let Some(head) = self.head.as_mut().filter(|_| is_due) else { return };
        match head.phase {
            Phase::Resting { .. } => head.phase = Phase::Ready,
            Phase::UnderWay { .. } => self.lose(TIMEOUT, now),
            Phase::Ready | Phase::Opened => self.line = Line::Down,
            Phase::Held(_) => {}
        }
    }

    /// Lets the connection go; the message that is under way on it is in doubt, if a byte of it was sent.
    fn lose(&mut self, code: &'static str, now: Instant) {
        let is_unused = matches!(&self.line, Line::Up(up) if !up.is_used);
        let failure = if self.line.awaits_commit() { Failure::NoCommit } else { Failure::Unknown };
        self.leave_line();
        let Some(head) = &mut self.head else { return };
        match head.phase {
            Phase::UnderWay { has_begun: true, .. } => {
                self.receiver = Receiver::Down(code);
                return self.fail(failure, now);
            }
            Phase::UnderWay { .. } if head.is_unwanted => {
                head.retract();
                self.end_head(Verdict::Withdrawn);
            }
            Phase::UnderWay { .. } => head.phase = Phase::Opened,
            Phase::Ready | Phase::Resting { .. } | Phase::Opened | Phase::Held(_) => {}
        }
        if is_unused {
            // As receivers do that have as many connections as they take.
            self.handle_dial_failed(code, now);
        }
    }

    /// Lets a receiver go that answers commits, once no message is under way and it is owed no commit: that puts none in
    /// doubt. The pause keeps the next connection from ending at once as this one did.
    pub(super) fn shun(&mut self, now: Instant) {
        let is_free = !self.head.as_ref().is_some_and(Head::is_under_way);
        if let Line::Up(up) = &self.line
            && up.exchange.answers_commits()
            && !up.exchange.has_replies()
            && is_free
        {
            self.leave_line();
            self.counts.commits_answered = self.counts.commits_answered.saturating_add(1);
            self.receiver = Receiver::Down(ANSWERS_COMMITS);
            self.connect_failures = self.connect_failures.saturating_add(1);
            self.line = Line::Backoff { until: now + self.pause(self.connect_failures) };
        }
    }

    /// Has no connection any more, and counts what its answers were.
    pub(super) fn leave_line(&mut self) {
        if let Line::Up(up) = &self.line {
            self.counts.drop_answers(up.exchange.dropped());
            self.line = Line::Down;
        }
    }

    /// Takes answers that came together: the last one ends the exchange, or none does.
    fn take_answers(&mut self, mut answers: Vec<Answer>, now: Instant) {
        for answer in &answers {
            self.counts.answer(answer.code);
        }
        let (Some(last), Line::Up(up), Some(head)) = (answers.pop(), &mut self.line, &mut self.head) else { return };
        let Phase::UnderWay { sent_at, .. } = head.phase else { return };
        let code = last.code;
        (head.code, head.answer) = (code, last.payload);
        head.answer.truncate(ANSWER_BYTES_MAX);
        if !up.exchange.is_done() {
            up.exchange.postpone(now + up.patience(&self.policy));
            return;
        }
        let failure = failure(code);
        let Some(sent_at) = sent_at else {
            // It cannot have the whole message: what it says of it is no answer, unless it refuses.
            let Some(failure) = failure else { return self.lose(REFUSED, now) };
            self.leave_line();
            self.answered();
            return self.fail(failure, now);
        };
        self.counts.latency = Some(now.saturating_duration_since(sent_at));
        self.answered();
        if code == AckCode::TransportNak {
            // It names no message: a second one could be taken for the next message's.
            self.leave_line();
        }
        match failure {
            None => self.end_head(Verdict::Delivered),
            Some(failure) => self.fail(failure, now),
        }
    }

    fn answered(&mut self) {
        (self.receiver, self.connect_failures) = (Receiver::Up, 0);
    }

    fn fail(&mut self, failure: Failure, now: Instant) {
        let Some(head) = &mut self.head else { return };
        head.failure = Some(failure);
        head.is_noted = false;
        head.in_doubt = head.in_doubt.saturating_add(u32::from(failure.is_in_doubt()));
        head.commits_refused = head.commits_refused.saturating_add(u32::from(failure == Failure::NotCommitted));
        if head.is_unwanted {
            return self.end_head(Verdict::Withdrawn);
        }
        self.judge(now);
    }

    /// Decides what becomes of the head after an attempt that did not deliver it.
    pub(super) fn judge(&mut self, now: Instant) {
        let policy = self.policy;
        let Some(head) = &mut self.head else { return };
        let commit = policy.dialect.release.commit();
        let (number, in_doubt) = (head.number, head.in_doubt);
        // What Release 2 repeats is repeated soon, and so often; a commit that did not come leaves in doubt all the same.
        let commits_max = commit.map_or(0, |commit| commit.retries);
        let soon = match head.failure {
            Some(Failure::NoCommit) => commit,
            Some(Failure::NotCommitted) => commit.filter(|_| head.commits_refused <= commits_max),
            _ => None,
        };
        let in_doubt_max = match head.failure {
            Some(Failure::NoCommit) => commits_max.saturating_add(1),
            _ => policy.in_doubt_max,
        };
        let reason = match head.failure {
            None => return,
            Some(Failure::Unknown | Failure::NoCommit)
                if policy.in_doubt == InDoubt::Hold || in_doubt >= in_doubt_max =>
            {
                Reason::InDoubt
            }
            Some(Failure::Error | Failure::NotCommitted)
                if soon.is_none() && head.refused(&policy) > policy.retries =>
            {
                match policy.after_retries {
                    Otherwise::Hold => Reason::Failed,
                    Otherwise::Park => return self.end_head(Verdict::Failed),
                }
            }
            Some(Failure::Reject) => match policy.on_reject {
                Otherwise::Hold => Reason::Rejected,
                Otherwise::Park => return self.end_head(Verdict::Rejected),
            },
            Some(Failure::Unknown | Failure::Error | Failure::NotCommitted | Failure::NoCommit) => {
                let failures = number.saturating_sub(head.repeats(&policy));
                let pause = soon.map_or_else(|| self.pause(failures), |commit| commit.pause);
                if let Some(head) = &mut self.head {
                    let is_refused = matches!(head.failure, Some(Failure::Error | Failure::NotCommitted));
                    let is_failing = is_refused && head.refused(&policy) > 1;
                    head.trying = is_failing.then_some(Trying::of(head, pause));
                    head.phase = Phase::Resting { until: now + pause };
                }
                return;
            }
        };
        head.phase = Phase::Held(reason);
    }

    /// Ends the message at the head.
    pub(super) fn end_head(&mut self, verdict: Verdict) {
        let Some(head) = self.head.take() else { return };
        let outcome = Outcome {
            sequence: head.delivery.sequence,
            verdict,
            code: head.code,
            attempts: head.number,
            in_doubt: head.in_doubt,
            answer: head.answer,
            // The commit says when.
            at: UNIX_EPOCH,
        };
        self.ended = Some(Ended { outcome, epoch: head.delivery.epoch, digest: head.delivery.digest });
    }
}

/// Says what an answer means; `None`: the receiver has the message.
fn failure(code: AckCode) -> Option<Failure> {
    match code {
        // A commit is the end where nothing else is awaited.
        AckCode::ApplicationAccept | AckCode::CommitAccept | AckCode::TransportAck => None,
        AckCode::ApplicationReject | AckCode::CommitReject => Some(Failure::Reject),
        AckCode::TransportNak => Some(Failure::NotCommitted),
        AckCode::ApplicationError | AckCode::CommitError | AckCode::Other | AckCode::Absent => Some(Failure::Error),
    }
}
