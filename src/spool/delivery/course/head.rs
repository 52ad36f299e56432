//! The message at the head: where it is, and how often it was attempted.

use std::time::Instant;

use super::{Delivery, Trying};
use crate::config::ReceiverPolicy;
use crate::mllp::ack::AckCode;
use crate::mllp::frame::Framing;
use crate::spool::Attempt;

/// Says why a message is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The receiver failed on it as often as the policy allows.
    Failed,
    /// The receiver rejected it.
    Rejected,
    /// The receiver may have it or not.
    InDoubt,
    /// The process ended in the middle of it again and again.
    Quarantined,
    /// It has bytes that end a frame of the receiver's.
    Unframeable,
}

impl Reason {
    /// Returns the stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::InDoubt => "in_doubt",
            Self::Quarantined => "quarantined",
            Self::Unframeable => "unframeable",
        }
    }

    /// Says it in words, with what the receiver answered last.
    pub(super) fn told(self, code: &str) -> String {
        match self {
            Self::Failed => format!("the receiver failed on it each time, last with {code}"),
            Self::Rejected => format!("the receiver rejected it with {code}"),
            Self::InDoubt => "its last attempt had no answer, so that the receiver may have it or not".to_owned(),
            Self::Quarantined => "the process ended in the middle of it again and again".to_owned(),
            Self::Unframeable => {
                "it has bytes in it that end a frame of this receiver, which would take it for two messages".to_owned()
            }
        }
    }
}

/// Says how an attempt ended that did not deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The receiver said that it failed.
    Error,
    /// The receiver rejected the message.
    Reject,
    /// Nobody knows.
    Unknown,
    /// The receiver said that it does not have the message (MLLP Release 2).
    NotCommitted,
    /// It did not say that it has the message: nobody knows.
    NoCommit,
}

impl Failure {
    /// Says whether the receiver may have the message.
    pub(super) fn is_in_doubt(self) -> bool {
        matches!(self, Self::Unknown | Self::NoCommit)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is to be attempted.
    Ready,
    /// It is to be attempted later.
    Resting { until: Instant },
    /// The attempt is written down, and no byte is sent.
    Opened,
    /// Bytes are on their way, or about to be. `drained_by` instead of an answer's deadline where none is awaited.
    UnderWay { has_begun: bool, sent_at: Option<Instant>, drained_by: Option<Instant> },
    /// An operator is to decide.
    Held(Reason),
}

/// Is the message at the head.
pub(super) struct Head {
    pub(super) delivery: Delivery,
    pub(super) phase: Phase,
    /// Counts the attempts, as they are written down.
    pub(super) number: u32,
    pub(super) in_doubt: u32,
    pub(super) interrupted: u32,
    /// Counts the negative commits, as far as this process has seen them.
    pub(super) commits_refused: u32,
    /// Is the framing into which it is known to fit.
    pub(super) fits: Option<Framing>,
    pub(super) failure: Option<Failure>,
    pub(super) code: AckCode,
    pub(super) answer: Vec<u8>,
    /// Is what is told of it between two attempts, once the receiver failed on it twice.
    pub(super) trying: Option<Trying>,
    /// Tells that an operator wants it out of the way as soon as its attempt has ended.
    pub(super) is_unwanted: bool,
    /// Tells whether the ledger has these counts.
    pub(super) is_noted: bool,
}

impl Head {
    /// Begins with what is known from before.
    pub(super) fn new(delivery: Delivery, was: Option<Attempt>) -> Self {
        let lost = u32::from(delivery.in_doubt);
        let cut = u32::from(was.is_some_and(|attempt| attempt.under_way));
        let (number, in_doubt, interrupted) =
            was.map_or((0, 0, 0), |attempt| (attempt.number, attempt.in_doubt, attempt.interrupted));
        let in_doubt = in_doubt.saturating_add(cut).max(lost);
        Self {
            delivery,
            phase: Phase::Ready,
            number: number.max(in_doubt),
            in_doubt,
            interrupted: interrupted.saturating_add(cut),
            commits_refused: 0,
            fits: None,
            failure: (in_doubt > 0).then_some(Failure::Unknown),
            code: AckCode::Absent,
            answer: Vec::new(),
            trying: None,
            is_unwanted: false,
            is_noted: lost == 0 && cut == 0,
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::UnderWay { .. })
    }

    /// Tells whether another policy may decide otherwise than to hold.
    pub(super) fn may_be_judged_again(&self) -> bool {
        matches!(self.phase, Phase::Held(Reason::Failed | Reason::Rejected | Reason::InDoubt))
    }

    /// Counts the attempts on which the receiver failed or that it rejected, but for those that Release 2 repeats by
    /// itself.
    pub(super) fn refused(&self, policy: &ReceiverPolicy) -> u32 {
        self.number.saturating_sub(self.in_doubt).saturating_sub(self.repeats(policy))
    }

    /// Counts the negative commits after which the message is sent again as Release 2 has it.
    pub(super) fn repeats(&self, policy: &ReceiverPolicy) -> u32 {
        policy.dialect.release.commit().map_or(0, |commit| commit.retries.min(self.commits_refused))
    }

    /// Takes back an attempt of which no byte was sent.
    pub(super) fn retract(&mut self) {
        (self.number, self.phase, self.is_noted) = (self.number.saturating_sub(1), Phase::Ready, false);
    }

    /// Returns what the ledger is to have of it; `is_able`: the next attempt may begin.
    pub(super) fn to_write_down(&self, is_able: bool) -> Option<Attempt> {
        let begins = is_able && self.phase == Phase::Ready;
        let under_way = begins || matches!(self.phase, Phase::Opened | Phase::UnderWay { .. });
        let number = self.number.saturating_add(u32::from(begins));
        let (sequence, in_doubt, interrupted) = (self.delivery.sequence, self.in_doubt, self.interrupted);
        (number > 0).then_some(Attempt { sequence, number, in_doubt, interrupted, under_way })
    }
}
