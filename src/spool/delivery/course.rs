//! The course of messages to one receiver: in order, one outstanding, each to one end.
//!
//! Pure: time comes in as arguments, work goes out by `poll_step`. It never sends a message before its attempt is
//! written down, never takes another message's answer for this one's, and never gives a message up where the policy
//! does not say so. Rules: design, delivery.md ("stored: to the receiver"), and the cases 22 and 27 to 34 of mllp.md.
//!
//! A message: Ready --written down--> Opened --first byte--> UnderWay --answer--> its end
//!            Ready <--pause-- Resting <--AE, CE, or no answer--/    \--as the policy says--> Held --operator--> Ready

mod ends;
mod head;
mod line;
mod orders;
#[cfg(test)]
mod tests;
mod told;
mod turn;

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

pub use self::head::Reason;
use self::head::{Head, Phase};
pub use self::line::Receiver;
use self::line::{Jitter, Line};
pub use self::orders::{Order, Reply};
pub use self::told::{Held, Trying};
use super::counts::Counts;
use crate::config::{AckKind, ReceiverPolicy};
use crate::mllp::exchange::Awaited;
use crate::mllp::frame::Framing;
use crate::mllp::message::Header;
use crate::spool::{Attempt, Digest, Epoch, Finished, Outcome, Sequence, Verdict};

/// A message that the end of the process cut off so often is held: it may be what ends the process.
pub const INTERRUPTED_MAX: u32 = 3;

/// Is a message on its way to the receiver. It has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Is its number; higher than that of every message before it.
    pub sequence: Sequence,
    /// Is its epoch.
    pub epoch: Epoch,
    /// Is the running digest up to it.
    pub digest: Digest,
    /// Tells that a state that is lost may have attempted it: that counts as one attempt in doubt.
    pub in_doubt: bool,
    /// Is the message as the sender sent it.
    pub payload: Vec<u8>,
}

/// Is what is to be done next.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// This is to be committed, then [`Course::handle_committed`].
    Commit {
        /// Is how a message ended.
        finished: Option<Finished>,
        /// Is the present attempt.
        attempting: Option<Attempt>,
    },
    /// A connection is to be opened, after one that there is was closed; then [`Course::handle_dialed`] or
    /// [`Course::handle_dial_failed`].
    Dial,
    /// [`Course::payload`] is to be sent in a frame.
    Send,
    /// Nothing, until something happens or this moment is reached.
    Wait(Option<Instant>),
    /// Nothing any more.
    End,
}

/// Is a message behind the head.
struct Waiting {
    delivery: Delivery,
    is_withdrawn: bool,
}

/// Is the end of a message that is not committed yet.
struct Ended {
    outcome: Outcome,
    epoch: Epoch,
    digest: Digest,
}

/// Is the course.
pub struct Course {
    policy: ReceiverPolicy,
    head: Option<Head>,
    waiting: VecDeque<Waiting>,
    ended: Option<Ended>,
    /// Is what the commit that is under way says of the head.
    committing: Option<Attempt>,
    line: Line,
    receiver: Receiver,
    connect_failures: u32,
    jitter: Jitter,
    /// Is what was being attempted when this began.
    interrupted: Option<Attempt>,
    taken_through: Sequence,
    finished_through: Sequence,
    is_source_closed: bool,
    is_stopping: bool,
    is_paused: bool,
    is_wanted: bool,
    counts: Counts,
}

impl Course {
    /// Begins with what the ledger has as the present attempt; `seed` makes pauses differ.
    pub fn new(policy: ReceiverPolicy, interrupted: Option<Attempt>, seed: u64, counts: Counts) -> Self {
        Self {
            policy,
            head: None,
            waiting: VecDeque::new(),
            ended: None,
            committing: None,
            line: Line::Down,
            receiver: Receiver::Unknown,
            connect_failures: 0,
            jitter: Jitter::new(seed),
            interrupted,
            taken_through: 0,
            finished_through: 0,
            is_source_closed: false,
            is_stopping: false,
            is_paused: false,
            is_wanted: false,
            counts,
        }
    }

    /// Tells whether the next message may come: none waits.
    pub fn wants_message(&self) -> bool {
        !self.is_source_closed && !self.is_stopping && self.waiting.is_empty() && self.head.is_none()
    }

    /// Counts the messages that are here.
    pub fn messages(&self) -> usize {
        self.waiting.len() + usize::from(self.head.is_some())
    }

    /// Takes a message. One that is not behind all before it is here already, or was: it is dropped and counted.
    pub fn handle_message(&mut self, delivery: Delivery) {
        if delivery.sequence <= self.taken_through {
            self.counts.repeated = self.counts.repeated.saturating_add(1);
            return;
        }
        self.taken_through = delivery.sequence;
        self.waiting.push_back(Waiting { delivery, is_withdrawn: false });
    }

    /// Takes the news that no message will come any more.
    pub fn handle_source_closed(&mut self) {
        self.is_source_closed = true;
    }

    /// Begins no attempt any more; one that is under way has its end awaited.
    pub fn handle_stop(&mut self) {
        self.is_stopping = true;
    }

    /// Takes another policy; a message that is held is judged again.
    pub fn handle_policy(&mut self, policy: ReceiverPolicy, now: Instant) {
        self.policy = policy;
        self.look_anew_whether_it_fits();
        if self.head.as_ref().is_some_and(Head::may_be_judged_again) {
            self.judge(now);
        }
    }

    /// Takes the news that the commit is durable, and returns what is to be reported.
    pub fn handle_committed(&mut self) -> Option<Outcome> {
        if let Some(head) = &mut self.head {
            head.is_noted = true;
            if let Some(attempt) = self.committing.take().filter(|attempt| attempt.under_way) {
                head.number = attempt.number;
                head.phase = Phase::Opened;
            }
        }
        self.committing = None;
        let ended = self.ended.take()?;
        self.finished_through = ended.outcome.sequence;
        self.counts.finish(ended.outcome.verdict);
        Some(ended.outcome)
    }

    /// Says what is to be done next; `wall` is the time of day.
    pub fn poll_step(&mut self, now: Instant, wall: SystemTime) -> Step {
        self.expire(now);
        self.retract();
        self.take_head(now);
        self.look_whether_it_fits();
        self.give_way(now);
        self.shun(now);
        if let Some(commit) = self.poll_commit(wall) {
            return commit;
        }
        if self.is_stopping && !self.head.as_ref().is_some_and(Head::is_under_way) {
            return Step::End;
        }
        let Some(head) = &self.head else {
            let is_over = self.is_source_closed && self.waiting.is_empty();
            return if is_over { Step::End } else { Step::Wait(self.next_deadline()) };
        };
        match (&head.phase, &self.line) {
            (Phase::Ready | Phase::Opened, Line::Down) if self.may_begin() => self.dial(),
            (Phase::Opened, Line::Up(_)) => self.begin_sending(now),
            _ => Step::Wait(self.next_deadline()),
        }
    }

    /// Returns the message to send; empty where there is none.
    pub fn payload(&self) -> &[u8] {
        self.head.as_ref().map_or(&[], |head| &head.delivery.payload)
    }

    /// Tells whether there is a connection; whoever has it closes it as soon as there is none.
    pub fn has_line(&self) -> bool {
        matches!(self.line, Line::Up(_))
    }

    /// Tells whether the receiver was sent a message that it has not answered yet.
    pub fn is_under_way(&self) -> bool {
        self.head.as_ref().is_some_and(Head::is_under_way)
    }

    /// Tells whether the message is sent, and the receiver's TCP is to say that it has all of it.
    pub fn awaits_drain(&self) -> bool {
        self.head.as_ref().is_some_and(|head| matches!(head.phase, Phase::UnderWay { drained_by: Some(_), .. }))
    }

    /// Is what a message is to be sent in.
    pub fn framing(&self) -> Framing {
        self.policy.dialect.framing
    }

    /// Returns commits that the receiver is owed, in frames; none before what it answered is written down.
    pub fn take_replies(&mut self) -> Vec<u8> {
        let is_noted = self.ended.is_none() && self.head.as_ref().is_none_or(|head| head.is_noted);
        match &mut self.line {
            Line::Up(up) if is_noted => up.exchange.take_replies(),
            _ => Vec::new(),
        }
    }

    /// Returns the message that is held, if one is.
    pub fn held(&self) -> Option<Held> {
        self.head.as_ref().and_then(Held::of)
    }

    /// Returns the message on which the receiver failed more than once, if it gets it again by itself.
    pub fn trying(&self) -> Option<Trying> {
        self.head.as_ref().filter(|head| !matches!(head.phase, Phase::Held(_)))?.trying
    }

    /// Tells what is known of the receiver.
    pub fn receiver(&self) -> Receiver {
        self.receiver
    }

    /// Returns what was counted.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts;
        if let Line::Up(up) = &self.line {
            counts.drop_answers(up.exchange.dropped());
        }
        counts
    }

    fn take_head(&mut self, now: Instant) {
        if self.head.is_some() || self.is_stopping {
            return;
        }
        // One end is committed at a time.
        let is_blocked = self.ended.is_some() && self.waiting.front().is_some_and(|next| next.is_withdrawn);
        let Some(next) = (if is_blocked { None } else { self.waiting.pop_front() }) else { return };
        let sequence = next.delivery.sequence;
        let was = self.interrupted.take_if(|attempt| attempt.sequence <= sequence);
        let head = Head::new(next.delivery, was.filter(|attempt| attempt.sequence == sequence));
        let may_be_there = head.in_doubt > 0;
        let is_quarantined = head.interrupted >= INTERRUPTED_MAX;
        let head = self.head.insert(head);
        if next.is_withdrawn {
            self.end_head(Verdict::Withdrawn);
        } else if is_quarantined {
            head.phase = Phase::Held(Reason::Quarantined);
        } else if may_be_there {
            self.judge(now);
            if let Some(Head { phase: phase @ Phase::Resting { .. }, .. }) = &mut self.head {
                *phase = Phase::Ready; // the pause has been: what put it in doubt is of another process
            }
        }
    }

    /// Notes an attempt for which there is no connection as one that was none.
    fn retract(&mut self) {
        let is_without = matches!(self.line, Line::Backoff { .. }) || !self.may_begin();
        if let Some(head) = &mut self.head
            && is_without
            && head.phase == Phase::Opened
        {
            head.retract();
        }
    }

    fn poll_commit(&mut self, wall: SystemTime) -> Option<Step> {
        let is_able = matches!(self.line, Line::Up(_)) && self.may_begin();
        let attempting = self.head.as_ref().and_then(|head| head.to_write_down(is_able));
        let is_noted = self.head.as_ref().is_none_or(|head| head.is_noted);
        let begins = is_able && self.head.as_ref().is_some_and(|head| head.phase == Phase::Ready);
        if self.ended.is_none() && is_noted && !begins {
            return None;
        }
        self.committing = attempting;
        let finished = self.ended.as_mut().map(|ended| {
            ended.outcome.at = wall;
            Finished { outcome: ended.outcome.clone(), epoch: ended.epoch, digest: ended.digest }
        });
        Some(Step::Commit { finished, attempting })
    }

    fn dial(&mut self) -> Step {
        self.line = Line::Dialing;
        Step::Dial
    }

    fn begin_sending(&mut self, now: Instant) -> Step {
        let (Some(head), Line::Up(up)) = (&mut self.head, &mut self.line) else { return Step::Wait(None) };
        let header = Header::parse_whole(&head.delivery.payload);
        if !up.is_fit(&self.policy) || !up.control_ids.take(header.as_ref().map_or(&[], Header::control_id)) {
            self.leave_line();
            return self.dial();
        }
        let awaited = match self.policy.ack {
            AckKind::Application => Awaited::AsAsked,
            AckKind::Accept => Awaited::Accept,
            AckKind::None => Awaited::Nothing,
        };
        up.exchange.begin_awaiting(&head.delivery.payload, now, awaited);
        let deadline = now + up.patience(&self.policy);
        up.exchange.postpone(deadline);
        let drained_by = up.exchange.is_done().then_some(deadline);
        head.phase = Phase::UnderWay { has_begun: false, sent_at: None, drained_by };
        self.counts.begin(head.number, head.in_doubt > 0);
        Step::Send
    }

    /// Returns when something is to be done although nothing happens.
    fn next_deadline(&self) -> Option<Instant> {
        let head = self.head.as_ref()?;
        match (&head.phase, &self.line) {
            (Phase::Resting { until }, _) => Some(*until),
            (Phase::Ready | Phase::Opened, Line::Backoff { until }) => Some(*until),
            (Phase::UnderWay { drained_by: Some(by), .. }, _) => Some(*by),
            (Phase::UnderWay { .. }, Line::Up(up)) => {
                [up.exchange.next_deadline(), up.silence_at].into_iter().flatten().min()
            }
            _ => None,
        }
    }

    fn pause(&mut self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let longest = self.policy.backoff_min.saturating_mul(doubled).min(self.policy.backoff_max);
        self.jitter.shorten(longest)
    }
}
