//! What a conversation with a receiver writes down, and where: before a message's first byte, and after its end.
//!
//! Never says that something is written before it is durable. At the far site the [`Inbox`](super::inbox::Inbox) is the
//! ledger, at a near site without a far one its own spool. Rules: design, delivery.md ("stored: to the receiver").

use super::{Digest, Epoch, Outcome, Sequence, SpoolError};

/// Is how far the attempts at one message are: written before the first byte of each, and after each end that is not
/// the message's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Is the message.
    pub sequence: Sequence,
    /// Counts the attempts so far, this one with them.
    pub number: u32,
    /// Counts those of them that ended unknown; one that is under way is not among them yet.
    pub in_doubt: u32,
    /// Counts those of these that the end of the process cut off.
    pub interrupted: u32,
    /// Says whether the last attempt has no known end: bytes of the message may be on their way. What is found so at
    /// a start is in doubt.
    pub under_way: bool,
}

/// Is the end of a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Finished {
    /// Says what became of it.
    pub outcome: Outcome,
    /// Is its epoch.
    pub epoch: Epoch,
    /// Is the running digest up to it.
    pub digest: Digest,
}

/// Keeps what a conversation writes down.
pub trait Ledger: Send + Sync {
    /// Commits the end of the message before and this attempt in one transaction, durable when it returns. Without an
    /// attempt, nothing is being attempted from then on.
    ///
    /// Committing again what is committed changes nothing.
    ///
    /// # Errors
    /// Nothing is known to be durable. The ledger reopens and verifies its store before it takes the next commit.
    fn commit(
        &self,
        finished: Option<Finished>,
        attempting: Option<Attempt>,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Tells whether an error says that all that was written down is gone: the conversation ends with it, and what is
    /// opened next says how far it is.
    fn is_gone(&self, _error: &SpoolError) -> bool {
        false
    }

    /// Returns the attempt that is written down as the present one, if any.
    ///
    /// # Errors
    /// The store cannot be read.
    fn interrupted(&self) -> impl Future<Output = Result<Option<Attempt>, SpoolError>> + Send;
}
