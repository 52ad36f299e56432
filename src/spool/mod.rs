//! The durable queue of a forward with stored delivery, and what the far site keeps of it.
//!
//! The near site's [`Spool`](store) holds whole messages until they are settled; the far site's [`Inbox`](inbox) holds no
//! message, only how far it came. Neither ever says that something is kept before fsync returned. Rules: design,
//! delivery.md ("stored").

pub mod codes;
pub mod delivery;
mod digest;
mod error;
mod head;
pub mod inbox;
pub mod key;
mod large;
pub mod ledger;
mod mark;
mod presence;
pub mod queue;
pub mod register;
pub mod reserve;
mod rows;
mod seal;
pub mod store;

use std::fmt;
use std::time::SystemTime;

use crate::mllp::ack::AckCode;

pub use digest::Fingerprint;
pub use error::{Damage, Limit, Refusal, SpoolError};
pub use ledger::{Attempt, Finished, Ledger};
pub use store::Spool;

/// Numbers a message of a spool: from 1, in the order of acceptance, over the whole life of the spool, none twice.
pub type Sequence = u64;

/// Identifies a spool at its own site; random, made with it, and never another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolId(pub [u8; 16]);

/// Identifies a spool to the far site; random, made with it, and anew with each reconciliation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ForwardId(pub [u8; 16]);

/// Identifies one start of a spool; random. Its messages are those from its first sequence up to the next epoch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub [u8; 16]);

/// Is the running digest of all messages up to a sequence, keyed: a bare hash would confirm a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

/// Says what became of a message, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver accepted it.
    Delivered,
    /// The receiver rejected it (AR, CR), and the policy sets such messages aside.
    Rejected,
    /// The receiver failed on it (AE, CE) as often as the policy allows, and it is set aside.
    Failed,
    /// An operator took it out of the way before it was delivered.
    Withdrawn,
    /// The far site had it behind itself already; what came of it then is not known any more.
    DeliveredBefore,
}

/// Is how a message ended. It has no `Debug`: the answer may name a patient.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Is the message.
    pub sequence: Sequence,
    /// Says what became of it.
    pub verdict: Verdict,
    /// Is the code of the receiver's last answer.
    pub code: AckCode,
    /// Counts the attempts; more than one of them in doubt means that the receiver may have it twice.
    pub attempts: u32,
    /// Counts those of them whose end is not known.
    pub in_doubt: u32,
    /// Is the payload of the receiver's last answer, at most [`ANSWER_BYTES_MAX`].
    pub answer: Vec<u8>,
    /// Is when.
    pub at: SystemTime,
}

/// Bounds what is kept of a receiver's answer, in bytes: answers are short, and one outcome fits one link record.
pub const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Is what the near site tells first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Identifies the spool.
    pub forward: ForwardId,
    /// Keys the digests; made with the spool, no secret between the two sites.
    pub digest_key: DigestKey,
    /// Is the epoch of this start.
    pub epoch: Epoch,
    /// Is the first sequence of this epoch.
    pub epoch_first: Sequence,
    /// Is the highest sequence up to which everything is settled: the far site never delivers at or below it.
    pub retired_through: Sequence,
    /// Is the digest there.
    pub retired_digest: Digest,
}

/// Keys digests.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestKey(pub [u8; 32]);

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(hidden)")
    }
}

/// Is how far the far site came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarView {
    /// It knows nothing of this spool.
    Fresh,
    /// It is behind everything up to here.
    At {
        /// Is the epoch of the message there.
        epoch: Epoch,
        /// Is its sequence.
        watermark: Sequence,
        /// Is the digest there.
        digest: Digest,
    },
}

/// Is what the near site makes of the far site's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Both sides tell the same story.
    Agreed {
        /// Is where sending goes on.
        next: Sequence,
        /// What is sent up to here may have been attempted before, by a state that the far site lost; 0: nothing.
        in_doubt_through: Sequence,
    },
    /// One side was restored from a backup: nothing may be sent or retired until an operator reconciles.
    Diverged(Divergence),
}

/// Says how the two sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Divergence {
    /// The far site is ahead of what this one ever had.
    FarAhead,
    /// The far site names an epoch that this spool never had.
    UnknownEpoch,
    /// The same sequence has another message at the other site.
    OtherMessages,
}

/// Is a message of the queue. It has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Queued {
    /// Is its number.
    pub sequence: Sequence,
    /// Is its epoch.
    pub epoch: Epoch,
    /// Is the running digest up to and with it.
    pub digest: Digest,
    /// Is the message as the sender sent it.
    pub payload: Vec<u8>,
    /// Is when it was accepted.
    pub accepted: SystemTime,
}
