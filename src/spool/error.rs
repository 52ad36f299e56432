//! What can go wrong with what is kept, and why a message is not taken.
//!
//! Never holds a byte of a message or a key, and never the text of one. Every error can be told to many callers at
//! once, because one failed commit fails all that waited for it.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Sequence;
use crate::config::KeyFileError;

/// Says what went wrong with a spool or an inbox.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpoolError {
    /// The key file gives no key.
    #[error("the spool's key gives no key: {source}; `wardlink check-config` says what to do")]
    KeyFile {
        /// Says why.
        source: Arc<KeyFileError>,
    },
    /// The key is not there, and what it seals is.
    #[error("the spool's key {} is missing, and messages are sealed with it: restore that very file", .path.display())]
    KeyMissing {
        /// Is where the key should be.
        path: PathBuf,
    },
    /// The key is not there, what it seals is, and this process still has it.
    #[error(
        "the spool's key {} is gone, and messages are sealed with it: restore that very file; do not restart the site \
         before, for it still holds the key and its queues go on", .path.display()
    )]
    KeyGone {
        /// Is where the key should be.
        path: PathBuf,
    },
    /// Another key is where the one is read from that this process has.
    #[error(
        "{} is another key than the one that the site's queues are sealed with: put that one back; do not restart the \
         site before, for it still holds the key and its queues go on", .path.display()
    )]
    KeyChanged {
        /// Is the key file.
        path: PathBuf,
    },
    /// There is no key, nothing is sealed yet, and this process cannot make one.
    #[error(
        "the spool's key {} is not there yet, and the site may not make it ({source}): make it, `(umask 077; wardlink key \
         psk > {})`, readable for the site's user, then `wardlink reload`; no restart is needed",
        .path.display(), .path.display()
    )]
    KeyNotMade {
        /// Is where the key should be.
        path: PathBuf,
        /// Is what the system said.
        source: Arc<io::Error>,
    },
    /// The key is not the one that the spool was made with.
    #[error("{} is sealed with another key than the one in the key file: restore the key that it was made with", .path.display())]
    OtherKey {
        /// Is the spool.
        path: PathBuf,
    },
    /// A spool that was there is not there any more.
    #[error(
        "the spool {} is missing, and there was one: mount its disk or restore it; only `wardlink queue forget` gives \
         up what was in it", .path.display()
    )]
    Gone {
        /// Is where it was looked for.
        path: PathBuf,
    },
    /// A file was removed or replaced while it was open: what is in it is in no file any more.
    #[error(
        "{} was removed or replaced while it was in use, and nothing more is taken: put back the very directory, or \
         restore it from a backup; what was acknowledged and had not left this site is lost with it", .path.display()
    )]
    Removed {
        /// Is the file.
        path: PathBuf,
    },
    /// A file was cut short while it was open: what was in it is gone.
    #[error(
        "{} was cut short while it was in use, and nothing more is taken: stop what does so, and restore the whole \
         directory from a backup; what was acknowledged and had not left this site may be lost with it", .path.display()
    )]
    CutShort {
        /// Is the file.
        path: PathBuf,
    },
    /// None of a site's spools is where they were, so that no other one is made there.
    #[error(
        "{} has none of the spools that were there: mount its disk or restore it; only `wardlink queue forget` gives up \
         what was in them", .path.display()
    )]
    NoneThere {
        /// Is the directory of all spools.
        path: PathBuf,
    },
    /// Another spool is where a forward had its own.
    #[error(
        "{} is not the spool that this forward had: put that one back; only `wardlink queue forget` takes this one in \
         its place", .path.display()
    )]
    OtherSpool {
        /// Is the spool.
        path: PathBuf,
    },
    /// A symbolic link is where the database should be.
    #[error(
        "{} is a symbolic link: put the file itself there with its -wal file, or have spool.dir name the directory where \
         it is", .path.display()
    )]
    Link {
        /// Is the link.
        path: PathBuf,
    },
    /// An operation on a file failed.
    #[error("cannot {doing} {} ({source})", .path.display())]
    File {
        /// Says what was tried.
        doing: &'static str,
        /// Is the file.
        path: PathBuf,
        /// Is what the system said.
        source: Arc<io::Error>,
    },
    /// The database failed.
    #[error("cannot {doing} in {} ({source})", .path.display())]
    Store {
        /// Says what was tried.
        doing: &'static str,
        /// Is the database.
        path: PathBuf,
        /// Is what the database said.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// There is no room on the disk.
    #[error("the disk of {} is full", .path.display())]
    Disk {
        /// Is what could not grow.
        path: PathBuf,
    },
    /// Another process has the database.
    #[error("{} is in use by another process", .path.display())]
    InUse {
        /// Is the database.
        path: PathBuf,
    },
    /// What is stored is not what was stored; nothing was changed or removed.
    #[error("{} is damaged: {damage}; nothing was changed in it", .path.display())]
    Damaged {
        /// Is the database or the file.
        path: PathBuf,
        /// Says how.
        damage: Damage,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
    /// There is no such message.
    #[error("there is no message {sequence}")]
    NotThere {
        /// Is the number asked for.
        sequence: Sequence,
    },
    /// The message is not in a state that allows it.
    #[error("message {sequence} is {state}")]
    NotAllowed {
        /// Is the message.
        sequence: Sequence,
        /// Is its state.
        state: &'static str,
    },
    /// The message may be at the far site, which must withdraw it first.
    #[error("message {sequence} may have been sent: the far site has to withdraw it first")]
    Sent {
        /// Is the message.
        sequence: Sequence,
    },
    /// A peer has as many forwards here as it may have.
    #[error("peer {peer} has sent stored messages of {forwards} forwards, and may of no more: remove what is old below {}", .path.display())]
    TooManyForwards {
        /// Names the peer.
        peer: String,
        /// Counts the forwards that are known of it.
        forwards: usize,
        /// Is where they are kept.
        path: PathBuf,
    },
    /// The writer has ended.
    #[error("the spool is closed")]
    Closed,
}

/// Says how stored data differs from what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The database cannot be read as one.
    Database,
    /// An entry of the register of spools is none.
    Entry,
    /// It is a file without a byte.
    Empty,
    /// It is of another format.
    Format(i64),
    /// A part that every spool has is missing.
    Missing(&'static str),
    /// A part was changed by somebody who does not have the key.
    Tampered(&'static str),
    /// A message was changed by somebody who does not have the key.
    TamperedMessage(Sequence),
    /// The running digest of a message, or of the one before it, was changed by somebody who does not have the key.
    Unlinked(Sequence),
    /// The content of a message is missing.
    MissingMessage(Sequence),
    /// A part is there, and the disk does not give it back.
    Unreadable(&'static str),
    /// Messages are missing or too many.
    Rows {
        /// Names the state of the messages.
        state: &'static str,
        /// Counts those that should be there.
        expected: u64,
        /// Counts those that are.
        found: u64,
    },
    /// Notes of what operators decided are missing or too many.
    Decisions {
        /// Counts those that should be there.
        expected: u64,
        /// Counts those that are.
        found: u64,
    },
    /// It is an earlier state of the spool.
    RolledBack {
        /// Counts the commits that it has.
        found: u64,
        /// Counts those that there were.
        expected: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => f.write_str(
                "it is truncated, no database, or damaged in its pages: look at its disk, and restore it from a backup",
            ),
            Self::Empty => f.write_str("it is empty, and was not: restore it from a backup"),
            Self::Entry => f.write_str("it is truncated, or no entry of the register of spools"),
            Self::Format(format) => write!(f, "its format is {format}, which this version does not know"),
            Self::Missing(what) => write!(f, "its {what} is missing"),
            Self::Tampered(what) => write!(f, "its {what} was changed"),
            Self::TamperedMessage(sequence) => write!(f, "message {sequence} was changed"),
            Self::Unlinked(sequence) => {
                write!(f, "the digest of message {sequence}, or of the one before it, was changed")
            }
            Self::MissingMessage(sequence) => write!(f, "the content of message {sequence} is missing"),
            Self::Unreadable(what) => write!(f, "its {what} cannot be read from the disk"),
            Self::Rows { state, expected, found } => {
                write!(f, "{expected} {state} messages should be there, {found} are")
            }
            Self::Decisions { expected, found } => {
                write!(
                    f,
                    "its outbox should have {expected} notes of what operators decided or what was found, and has {found}"
                )
            }
            Self::RolledBack { found, expected } => {
                write!(f, "it was rolled back: it ends with commit {found}, there were {expected}")
            }
        }
    }
}

impl SpoolError {
    /// Wraps what the system said about a file; a full disk is told apart.
    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Disk { path },
            _ => Self::File { doing, path, source: Arc::new(source) },
        }
    }

    /// Tells whether the store itself failed, so that nothing of the transaction can stand.
    pub(super) fn is_failure(&self) -> bool {
        match self {
            Self::File { .. } | Self::Store { .. } | Self::Disk { .. } | Self::Random | Self::Closed => true,
            Self::KeyFile { .. } | Self::KeyMissing { .. } | Self::OtherKey { .. } | Self::InUse { .. } => true,
            Self::KeyGone { .. } | Self::KeyChanged { .. } | Self::KeyNotMade { .. } => true,
            Self::Gone { .. }
            | Self::Removed { .. }
            | Self::CutShort { .. }
            | Self::Link { .. }
            | Self::NoneThere { .. }
            | Self::OtherSpool { .. } => true,
            Self::Damaged { damage, .. } => *damage == Damage::Database,
            Self::NotThere { .. } | Self::NotAllowed { .. } => false,
            Self::Sent { .. } | Self::TooManyForwards { .. } => false,
        }
    }
}

/// Says why a message was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// A limit of the queue is reached.
    #[error("the queue is full: {limit} is reached")]
    Full {
        /// Is the limit.
        limit: Limit,
    },
    /// There is no room on the disk.
    #[error("the disk is full")]
    Disk,
    /// The store failed.
    #[error(transparent)]
    Failed(SpoolError),
}

impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Disk { .. } => Self::Disk,
            other => Self::Failed(other),
        }
    }
}

/// Names a limit of the queue as the configuration does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Counts messages.
    Messages,
    /// Counts the bytes of their payloads.
    Bytes,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "max_queue_messages",
            Self::Bytes => "max_queue_bytes",
        })
    }
}
