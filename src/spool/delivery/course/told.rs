//! What is told of the message at the head: that it is held, or tried again, and why. Nothing of what is in it.
//!
//! Never decides anything.

use std::time::Duration;

use super::head::{Head, Phase, Reason};
use crate::mllp::ack::{AckCode, PlainCode};
use crate::mllp::message::Header;
use crate::spool::Sequence;

/// Is a message that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Is the message.
    pub sequence: Sequence,
    /// Says why.
    pub reason: Reason,
    /// Is the code of the receiver's last answer to it.
    pub code: AckCode,
    /// Is that code where HL7 does not know it, and it can be shown.
    pub unknown: Option<PlainCode>,
    /// Counts the attempts.
    pub attempts: u32,
    /// Counts those of them whose end is not known.
    pub in_doubt: u32,
}

/// Is a message on which the receiver failed, and that it gets again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trying {
    /// Is the message.
    pub sequence: Sequence,
    /// Is the code of the receiver's last answer to it.
    pub code: AckCode,
    /// Is that code where HL7 does not know it, and it can be shown.
    pub unknown: Option<PlainCode>,
    /// Counts the attempts that are over.
    pub attempts: u32,
    /// Counts those of them whose end is not known.
    pub in_doubt: u32,
    /// Is the pause before the next one.
    pub pause: Duration,
}

impl Held {
    pub(super) fn of(head: &Head) -> Option<Self> {
        let Phase::Held(reason) = head.phase else { return None };
        Some(Self {
            sequence: head.delivery.sequence,
            reason,
            code: head.code,
            unknown: unknown(head),
            attempts: head.number,
            in_doubt: head.in_doubt,
        })
    }

    /// Says why in words.
    pub fn told(self) -> String {
        self.reason.told(&told(self.code, self.unknown))
    }
}

impl Trying {
    pub(super) fn of(head: &Head, pause: Duration) -> Self {
        Self {
            sequence: head.delivery.sequence,
            code: head.code,
            unknown: unknown(head),
            attempts: head.number,
            in_doubt: head.in_doubt,
            pause,
        }
    }

    /// Says it in words.
    pub fn told(self) -> String {
        let pause = humantime::format_duration(Duration::from_millis(
            u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX).div_ceil(100).saturating_mul(100),
        ));
        let (code, attempts) = (told(self.code, self.unknown), self.attempts);
        format!("the receiver answered {code} to attempt {attempts}; the next is {pause} later")
    }
}

fn unknown(head: &Head) -> Option<PlainCode> {
    if head.code != AckCode::Other {
        return None;
    }
    Header::parse_whole(&head.answer)?.msa().and_then(|msa| PlainCode::of(msa.code()))
}

fn told(code: AckCode, unknown: Option<PlainCode>) -> String {
    match (code, unknown) {
        (AckCode::Other, Some(unknown)) => format!("{unknown}, a code that HL7 does not know"),
        (AckCode::Other, None) => "a code that HL7 does not know".to_owned(),
        (AckCode::Absent, _) => "no code".to_owned(),
        (code, _) => code.code().to_owned(),
    }
}
