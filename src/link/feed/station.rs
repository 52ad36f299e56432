//! The station of a forward at the far site: the conversation with the receiver, as the link has it.
//!
//! It holds no message and decides nothing; [`super::reception`] moves messages in and outcomes out.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Book, Command, Held, StoreError, Taken, Window};
use crate::config::Name;
use crate::spool::{ForwardId, Outcome};

/// Is the conversation with the receiver for one forward of a peer, and what it writes down.
pub struct Station {
    /// Is what is written down.
    pub book: Arc<dyn Book>,
    /// Takes messages, in order; it has room for a whole window.
    pub messages: mpsc::Sender<Taken>,
    /// Tells what became of them, once that is written down.
    pub outcomes: mpsc::Receiver<Outcome>,
    /// Takes what operators want.
    pub commands: mpsc::Sender<Command>,
    /// Says which message waits for an operator.
    pub held: watch::Receiver<Option<Held>>,
    /// Is what may come ahead of the receiver.
    pub window: Window,
    /// Has the conversation begin no attempt, or go on.
    pub pause: watch::Sender<bool>,
    /// Has the conversation end as soon as no attempt is under way.
    pub stop: watch::Sender<bool>,
    /// Is the conversation; it ends with this.
    pub tasks: JoinSet<()>,
}

/// Opens the station of a forward of a peer at a service. It bounds how many forwards of one peer may ever have one,
/// for each takes room on the disk.
pub type OpenStation =
    Box<dyn Fn(Name, Name, ForwardId) -> BoxFuture<'static, Result<Station, StoreError>> + Send + Sync>;
