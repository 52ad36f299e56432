//! How a receiver is treated to which stored messages are delivered: the part of the configuration that decides.
//!
//! Values only, with their defaults; never a default that gives a message up by itself. Rules: HL7 v2 chapter 2
//! (acknowledgement codes), and the design of delivery ("to the receiver").

use std::time::Duration;

use crate::mllp::dialect::Dialect;

/// Says how stored messages are delivered to a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverPolicy {
    /// Says which answer settles a message.
    pub ack: AckKind,
    /// Bounds the wait for an answer, from the last byte that the connection took.
    pub ack_timeout: Duration,
    /// Counts how often a message is sent again after AE or CE.
    pub retries: u32,
    /// Is the pause before the first retry, and before the first new attempt to connect; it doubles each time.
    pub backoff_min: Duration,
    /// Bounds that pause.
    pub backoff_max: Duration,
    /// Says what becomes of a message after the last retry.
    pub after_retries: Otherwise,
    /// Says what becomes of a message that the receiver rejects: AR, CR.
    pub on_reject: Otherwise,
    /// Says what becomes of a message that may have been delivered or not.
    pub in_doubt: InDoubt,
    /// Bounds the attempts at one message whose end is not known; with so many it is held.
    pub in_doubt_max: u32,
    /// Says what the receiver speaks, in either delivery.
    pub dialect: Dialect,
}

impl Default for ReceiverPolicy {
    fn default() -> Self {
        Self {
            ack: AckKind::Application,
            ack_timeout: Duration::from_secs(30),
            retries: 5,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            after_retries: Otherwise::Hold,
            on_reject: Otherwise::Park,
            in_doubt: InDoubt::Resend,
            in_doubt_max: 3,
            dialect: Dialect::RELEASE_1,
        }
    }
}

/// Says which answer settles a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckKind {
    /// All that the message asks for: in original mode the one answer, in enhanced mode what MSH-15 and MSH-16 say.
    Application,
    /// The accept acknowledgement, where the message asks for it; an application's answer behind it is dropped.
    Accept,
    /// None: a message is delivered once the receiver's TCP has acknowledged its last byte; in Release 2 once it is
    /// committed.
    None,
}

/// Says what becomes of a message that the receiver does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// It stays at the head, and everything behind it waits for an operator.
    Hold,
    /// It is set aside, and the next one has its turn.
    Park,
}

/// Says what becomes of a message that may have been delivered or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InDoubt {
    /// It is sent again, so that the receiver may have it twice.
    Resend,
    /// It is held at once, for an operator to look.
    Hold,
}
