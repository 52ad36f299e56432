//! How a forward delivers, and where what is stored is kept.
//!
//! Values only; what a file may say of them is judged by the checks. Rules: design, delivery.md.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ReceiverPolicy;

/// Bounds a stored message that goes to a service, in bytes: the far site takes no larger one, and what was acknowledged
/// must be able to go on. It is the default limit of every forward.
pub const STORED_MESSAGE_BYTES_MAX: u64 = 64 << 20;

/// Says how a forward's messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Each connection is carried to the receiver, whose own answers come back.
    Transparent(Transparent),
    /// Each message is kept, then acknowledged, then delivered in order.
    Stored(Stored),
}

impl Delivery {
    /// Returns the word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transparent(_) => "transparent",
            Self::Stored(_) => "stored",
        }
    }
}

/// Says what transparent delivery does while the receiver cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transparent {
    /// Says what happens to a sender meanwhile.
    pub on_unreachable: OnUnreachable,
    /// Bounds its wait.
    pub hold_for: Duration,
}

/// Says how stored delivery takes messages in and keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Says what a sender sees while its message cannot be kept.
    pub on_full: OnFull,
    /// Limits the messages that wait.
    pub queue_messages_max: u64,
    /// Limits what waits, in bytes of payload.
    pub queue_bytes_max: u64,
    /// Says how long what is delivered is kept to be sent again.
    pub keep_delivered: Duration,
    /// Says what becomes of messages that only an application could answer.
    pub application_ack: ApplicationAck,
    /// Says how the receiver is treated where the target is an address; a service has its own site's word.
    pub receiver: ReceiverPolicy,
}

/// Says what a sender sees while its message cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Its connection is closed without an answer.
    Close,
    /// AR (enhanced mode: CR).
    Nak,
}

/// Says what becomes of messages that require an application's answer, and of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplicationAck {
    /// They are refused: an answer cannot be invented.
    Refuse,
    /// They are taken, and their sender goes without that answer.
    Discard,
}

/// Says where stored forwards keep their messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// Is the directory.
    pub dir: PathBuf,
    /// Is the key that seals what is there; outside of that directory.
    pub key: SpoolKeyFile,
}

/// Says where the key of the spools is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolKeyFile {
    /// Is what systemd hands over, and must be there.
    Credential(PathBuf),
    /// Is a file that is made with the first spool.
    File(PathBuf),
}

impl SpoolKeyFile {
    /// Returns the path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Credential(path) | Self::File(path) => path,
        }
    }

    /// Tells whether the file may be made where it is missing.
    pub fn may_be_made(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// Says what happens to a sender while the receiver cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnreachable {
    /// Keeps the connection and its bytes, for `hold_for` at the most.
    Hold,
    /// Closes the connection at once.
    Close,
    /// Answers each message with AR (enhanced mode: CR).
    Nak,
}
