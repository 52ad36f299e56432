//! What a command asks of a queue, and what it is told. Pure.
//!
//! It decides nothing. Metadata only, but for the content that root asks for: no other answer has a byte of a message.

use serde::{Deserialize, Serialize};

/// Bounds what one answer carries of a message's content, in bytes: in base64 it fits an answer.
pub const CONTENT_BYTES_MAX: usize = 2 << 20;
/// Bounds the messages of one list.
pub const ENTRIES_MAX: u32 = 1000;
/// Bounds the reason that goes with a discarded message or queue, in bytes: a sentence, and the request fits its limit.
pub const REASON_BYTES_MAX: usize = 500;

/// Is what a command asks of the queue of a stored forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRequest {
    /// Names the forward.
    pub forward: String,
    /// Says what is asked.
    #[serde(flatten)]
    pub action: QueueAction,
}

/// Is what is asked of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum QueueAction {
    /// To list messages by number.
    List {
        /// Is the first number.
        from: u64,
        /// Bounds the list, at most [`ENTRIES_MAX`].
        max: u32,
        /// Keeps messages in this state only; none: those that wait or are parked.
        state: Option<String>,
        /// Keeps all instead.
        #[serde(default)]
        all: bool,
    },
    /// To show what is known of a message.
    Show {
        /// Is the message.
        sequence: u64,
    },
    /// To hand over a part of a message's content.
    Content {
        /// Is the message.
        sequence: u64,
        /// Is where the part begins, in bytes.
        offset: u64,
    },
    /// To try again at once what is held or waits for its next attempt.
    Retry {
        /// Is the message that is meant; none: whichever is first.
        #[serde(default)]
        sequence: Option<u64>,
    },
    /// To set a message aside.
    Park {
        /// Is the message.
        sequence: u64,
    },
    /// To queue a message again that is set aside or delivered, as a new one at the end.
    Release {
        /// Is the message.
        sequence: u64,
    },
    /// To give a message up.
    Discard {
        /// Is the message.
        sequence: u64,
        /// Says why.
        reason: String,
    },
    /// To send what waits for another destination to the one that is configured now, or the queue on another way.
    Move {
        /// Is the stored forward whose way the queue takes.
        #[serde(default)]
        to: Option<String>,
        /// Is the destination that the messages were accepted for which are to go elsewhere; none: the only one there is.
        #[serde(default)]
        from: Option<String>,
    },
    /// To show how the two sites differ, and to decide.
    Reconcile {
        /// Is the decision; none: only show.
        choice: Option<Choice>,
    },
    /// To give up a queue that is missing or damaged, so that a new one takes its place.
    Forget {
        /// Says why.
        reason: String,
    },
    /// To hand nothing on until it is resumed.
    Pause,
    /// To go on.
    Resume,
}

/// Says which of two stories holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The far site has what it says that it has: nothing of it is sent again.
    AcceptFar,
    /// What this site has not settled is sent, though the far site may have had it.
    Resend,
}

impl QueueAction {
    /// Says who may ask: what changes a queue, and a message's content, are root's.
    pub fn is_for_root(&self) -> bool {
        match self {
            Self::List { .. } | Self::Show { .. } | Self::Reconcile { choice: None } => false,
            Self::Content { .. } | Self::Retry { .. } | Self::Park { .. } => true,
            Self::Release { .. } | Self::Discard { .. } | Self::Move { .. } | Self::Forget { .. } => true,
            Self::Reconcile { choice: Some(_) } | Self::Pause | Self::Resume => true,
        }
    }

    /// Names it, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Show { .. } => "show",
            Self::Content { .. } => "content",
            Self::Retry { .. } => "retry",
            Self::Park { .. } => "park",
            Self::Release { .. } => "release",
            Self::Discard { .. } => "discard",
            Self::Move { .. } => "move",
            Self::Reconcile { .. } => "reconcile",
            Self::Forget { .. } => "forget",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    /// Returns the message that is meant, if one is.
    pub fn sequence(&self) -> Option<u64> {
        match self {
            Self::Show { sequence } | Self::Park { sequence } | Self::Release { sequence } => Some(*sequence),
            Self::Content { sequence, .. } | Self::Discard { sequence, .. } => Some(*sequence),
            Self::Retry { sequence } => *sequence,
            Self::List { .. } | Self::Move { .. } | Self::Reconcile { .. } | Self::Forget { .. } => None,
            Self::Pause | Self::Resume => None,
        }
    }
}

/// Is what a command is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way into a line of JSON")]
pub enum QueueAnswer {
    /// Lists messages.
    Entries {
        /// Are the messages, by number.
        entries: Vec<QueueEntry>,
        /// Is where the next list begins; none: there are no more.
        next: Option<u64>,
    },
    /// Shows a message.
    Entry {
        /// Is what is known of it.
        entry: QueueEntry,
    },
    /// Hands over a part of a message's content.
    Content {
        /// Counts the bytes of the whole.
        total_bytes: u64,
        /// Is the part, in base64.
        part: String,
    },
    /// It is done, or this is what was asked for.
    Done {
        /// Says what, in lines.
        said: String,
    },
    /// Nothing was changed.
    Failed {
        /// Says why, and what to do.
        cause: String,
    },
    /// Who asks may not.
    NotPermitted,
}

/// Is what is known of a message: nothing of its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// Is its number.
    pub sequence: u64,
    /// Says where it stands: queued, delivered, parked, discarded or released.
    pub state: String,
    /// Says when it was accepted, in RFC 3339.
    pub accepted: String,
    /// Counts its bytes.
    pub bytes: u64,
    /// Is the service or address that it was accepted for.
    pub target: String,
    /// Says where that is, for people: with the peer.
    #[serde(default)]
    pub destination: String,
    /// Says whether the far site may have it.
    pub sent: bool,
    /// Says how its content is damaged, where that holds the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// Says when it was settled, in RFC 3339.
    pub settled: Option<String>,
    /// Says how, in words.
    pub verdict: Option<String>,
    /// Is the code of the receiver's last answer.
    pub code: Option<String>,
    /// Counts the attempts.
    pub attempts: u32,
    /// Counts those of them whose end is not known.
    pub in_doubt: u32,
    /// Says why all others wait for it, and what to do, where they do.
    #[serde(default)]
    pub held: Option<String>,
    /// Says how the receiver failed on it, where it gets it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trying: Option<String>,
    /// Lists what operators did with it and with its queue; the latest at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
}

/// Is what somebody did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Says when, in RFC 3339.
    pub at: String,
    /// Says what, in a word.
    pub what: String,
    /// Names the operator; nobody where the site found something.
    pub by: String,
    /// Says why, or what was found.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_a_queue_or_shows_content_is_for_root() {
        for action in [
            QueueAction::List { from: 1, max: 1, state: None, all: false },
            QueueAction::Show { sequence: 1 },
            QueueAction::Reconcile { choice: None },
        ] {
            assert!(!action.is_for_root(), "{}", action.name());
        }
        for action in [
            QueueAction::Content { sequence: 1, offset: 0 },
            QueueAction::Retry { sequence: None },
            QueueAction::Park { sequence: 1 },
            QueueAction::Release { sequence: 1 },
            QueueAction::Discard { sequence: 1, reason: "x".into() },
            QueueAction::Move { to: None, from: None },
            QueueAction::Reconcile { choice: Some(Choice::Resend) },
            QueueAction::Forget { reason: "x".into() },
            QueueAction::Pause,
            QueueAction::Resume,
        ] {
            assert!(action.is_for_root(), "{}", action.name());
        }
    }
}
