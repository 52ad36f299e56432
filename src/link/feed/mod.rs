//! The stored messages of one forward on their way between two sites: what the two ends have in common.
//!
//! The near end ([`supply`]) reads the queue and sends ahead of the answers, within a window; the far end ([`reception`])
//! takes each message in once and in order, hands it to the conversation with the receiver, and reports what became of it.
//! Neither keeps a message itself. Rules: design, delivery.md ("stored: between the sites").

mod account;
mod book;
mod far;
mod near;
pub mod reception;
pub mod station;
pub mod supply;
pub mod wire;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::config::STORED_MESSAGE_BYTES_MAX;
use crate::mllp::ack::AckCode;
pub use crate::spool::delivery::course::{Order as CommandKind, Reply as Answer};
pub use crate::spool::delivery::{Command, Delivery as Taken};
use crate::spool::{FarView, Judgement, Opening, Outcome, Queued, Sequence};

/// Says why a store failed; it names no byte of a message.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// Is what the near end reads: the queue of a forward.
pub trait Queue: Send + Sync {
    /// Tells what this start of the queue is, and how far it came.
    fn opening(&self) -> BoxFuture<'_, Result<Opening, StoreError>>;
    /// Compares the far site's view with its own; what that puts in doubt stays so until it is settled.
    fn judge(&self, view: FarView) -> BoxFuture<'_, Result<Judgement, StoreError>>;
    /// Reads what waits from a sequence on, in order, at least one if there is any; it counts as sent from then on.
    fn read(&self, from: Sequence, messages: usize, bytes: usize) -> BoxFuture<'_, Result<Vec<Queued>, StoreError>>;
    /// Writes down what became of messages and returns up to where all are settled. What is settled already is ignored.
    fn settle(&self, outcomes: Vec<Outcome>) -> BoxFuture<'_, Result<Sequence, StoreError>>;
    /// Changes whenever the queue does.
    fn tail(&self) -> watch::Receiver<QueueState>;
}

/// Is what the near end must know of the queue at each moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueState {
    /// Is the last message.
    pub last: Sequence,
    /// Is up to where all are settled.
    pub retired_through: Sequence,
    /// Tells that an operator paused the forward.
    pub paused: bool,
    /// Is the message that is damaged, so that none is read from there on.
    pub damaged: Option<Sequence>,
    /// Says why the queue can be used no longer.
    pub failed: Option<String>,
}

/// Is what the far end writes: how far a forward of a peer came.
pub trait Book: Send + Sync {
    /// Tells how far.
    fn view(&self) -> BoxFuture<'_, Result<FarView, StoreError>>;
    /// Lists what became of messages above a sequence.
    fn outcomes_after(&self, sequence: Sequence) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>>;
    /// Names the message that was attempted and has no outcome, if one was.
    fn attempted(&self) -> BoxFuture<'_, Result<Option<Sequence>, StoreError>>;
    /// Puts up to `opening.retired_through` behind it, where that is not so already; a fresh book begins there.
    fn raise(&self, opening: Opening) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Forgets what became of messages that the near site has settled.
    fn prune(&self, retired_through: Sequence) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Bounds what the far site takes in ahead of the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Counts messages that are not retired.
    pub messages_max: u32,
    /// Counts the bytes of messages that have no outcome; one message may exceed it alone.
    pub bytes_max: u64,
    /// Bounds one message, in bytes.
    pub message_bytes_max: u64,
}

impl Default for Window {
    /// 2,000 messages a second over 40 ms need 80; a receiver in bursts, and a near site that settles in batches, more.
    /// The bytes are half a second at 100 Mbit/s. The largest message is a forward's default limit.
    fn default() -> Self {
        Self { messages_max: 4096, bytes_max: 8 << 20, message_bytes_max: STORED_MESSAGE_BYTES_MAX }
    }
}

/// Says that the head of the queue waits, for an operator or for what mends itself, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Is the message.
    pub sequence: Sequence,
    /// Is a stable code, as a number.
    pub reason: u8,
    /// Is the code of the receiver's last answer to it.
    pub code: AckCode,
    /// Counts the attempts.
    pub attempts: u32,
    /// Counts those of them whose end is not known.
    pub in_doubt: u32,
    /// Says why, without a byte of the message.
    pub text: String,
}

impl Held {
    /// The reasons from here on wait for nobody's decision.
    const PASSING: u8 = 16;
    /// The receiver fails on the message, and gets it again.
    pub const TRYING: u8 = Self::PASSING;
    /// The far site cannot write down what becomes of messages.
    pub const UNWRITTEN: u8 = Self::PASSING + 1;

    /// Tells whether an operator is to decide.
    pub fn awaits_decision(&self) -> bool {
        self.reason < Self::PASSING
    }
}

#[cfg(test)]
mod tests;
