//! The local socket that the commands talk to: one line of JSON asks, one line of JSON answers.
//!
//! It decides nothing of the site. Root and the user that the site runs as may change it; the members of the group wardlink
//! may read its status and its queues; by the credentials that the kernel gives (SO_PEERCRED, unix(7)): the mode of the socket's file is
//! the first gate, not the only one.

mod ask;
pub mod destinations;
pub mod operate;
mod operator;
pub mod queue;
mod serve;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use ask::{ask, ask_for};
pub use operator::invoker;
use queue::QueueRequest;
pub use serve::{Answers, ControlListener, bind, make_directory, serve};

/// Names the group whose members may read the status.
pub const READER_GROUP: &str = "wardlink";

/// Limits a request, in bytes: the longest gives a message up for a reason, and names a file (PATH_MAX, 4096).
const REQUEST_BYTES_MAX: u64 = 8 * 1024;

/// Limits an answer, in bytes: hundreds of peers and forwards fit, at about 1 KiB each.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Limits the wait for what changes a site: names and routes are looked up, a far site is asked, and a busy machine takes
/// its time.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(60);

/// Is what a command asks of a running site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// The verdict on the site and the facts that it rests on, as `/healthz` gives them.
    Status,
    /// To read its configuration again and take it up.
    Reload,
    /// Something of the queue of a stored forward.
    Queue(QueueRequest),
}

/// Is a request as it is sent.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    /// Is the configuration file that the site that is meant runs from; none: whichever site serves the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(flatten)]
    request: Request,
}

/// Is what came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Reloaded {
    /// The configuration was taken up.
    Done {
        /// Says in one line what differs.
        changes: String,
    },
    /// The file is wrong; nothing was changed.
    BadFile {
        /// Lists what is wrong, a line each, with its place.
        errors: String,
    },
    /// It could not be taken up; nothing was changed.
    Failed {
        /// Says why.
        cause: String,
    },
    /// Who asks may not change the site.
    NotPermitted,
}

/// Is what a running site answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// Why it is not given.
    Error(String),
    /// The site runs from this file, not from the one that is meant: nothing was done.
    OtherFile(String),
}

/// Says why the control socket cannot be offered or asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The directory of the socket cannot be made.
    #[error("cannot make the directory {path}")]
    MakeDirectory {
        /// Is the directory.
        path: PathBuf,
        /// Says why.
        source: io::Error,
    },
    /// Another process serves this socket.
    #[error("another wardlink already answers on {path}: stop it, or give this site a control.socket of its own")]
    InUse {
        /// Is the socket.
        path: PathBuf,
    },
    /// Something other than a socket has this path; it is left alone.
    #[error("{path} is not a socket: remove it, or set another control.socket")]
    NotASocket {
        /// Is the path.
        path: PathBuf,
    },
    /// The socket that an earlier run left cannot be examined or removed.
    #[error("cannot replace the socket {path} of an earlier run")]
    ReplaceStale {
        /// Is the socket.
        path: PathBuf,
        /// Says why.
        source: io::Error,
    },
    /// The socket cannot be opened.
    #[error("cannot open the control socket {path}")]
    Bind {
        /// Is the socket.
        path: PathBuf,
        /// Says why.
        source: io::Error,
    },
    /// The mode of the socket's file cannot be set.
    #[error("cannot set the mode of {path}")]
    SetMode {
        /// Is the socket.
        path: PathBuf,
        /// Says why.
        source: io::Error,
    },
    /// No site answers on this socket.
    #[error("cannot reach a running site by {path}")]
    Connect {
        /// Is the socket.
        path: PathBuf,
        /// Says why.
        source: io::Error,
    },
    /// The site was reached, but the exchange broke off.
    #[error("the site behind {path} did not answer")]
    Exchange {
        /// Is the socket.
        path: PathBuf,
        /// Says why.
        source: io::Error,
    },
    /// The answer is not what this version understands.
    #[error("the site behind {path} gave an answer that this version does not understand")]
    Malformed {
        /// Is the socket.
        path: PathBuf,
        /// Says where.
        source: serde_json::Error,
    },
    /// Another site than the one that is meant serves the socket; it did nothing.
    #[error("the site behind {path} runs from {runs}")]
    OtherFile {
        /// Is the socket.
        path: PathBuf,
        /// Is the file that it runs from.
        runs: PathBuf,
    },
    /// The site refused.
    #[error("the site behind {path} refused: {cause}")]
    Refused {
        /// Is the socket.
        path: PathBuf,
        /// Says why, in the site's words.
        cause: String,
    },
}

#[cfg(test)]
mod tests;
