//! The links that the far end keeps, connected or not: by whom, how many, and what a restart leaves of them.
//!
//! It never ends a stream itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::session::Session;
use super::super::wire::{Hello, Instance};
use crate::config::Name;

/// Links of all peers together that are kept, connected or not; a peer needs one a forward.
pub(super) const LINKS_MAX: usize = 1024;
/// Links of one peer that are kept: more forwards than a site has, and no peer takes all there are.
pub(super) const LINKS_OF_PEER_MAX: usize = 128;

/// Tells the links of all peers apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct LinkKey {
    pub(super) peer: Name,
    forward: String,
    near: Instance,
}

impl LinkKey {
    pub(super) fn new(peer: &Name, hello: &Hello) -> Self {
        Self { peer: peer.clone(), forward: hello.forward.clone(), near: hello.instance }
    }
}

/// Is one link.
pub(super) struct Link {
    pub(super) service: Name,
    pub(super) session: Arc<Session>,
    /// Changes when a newer connection takes over.
    pub(super) turn: watch::Sender<u64>,
    pub(super) linger: Duration,
    /// Ends the session's own tasks with it.
    pub(super) _tasks: JoinSet<()>,
}

/// Is all of them.
pub(super) type Links = HashMap<LinkKey, Link>;

/// Tells whether a link may be kept; one that is kept already always comes back. One without streams and without a
/// connection makes room.
pub(super) fn has_room(links: &mut Links, key: &LinkKey) -> bool {
    if links.contains_key(key) {
        return true;
    }
    if is_full(links, &key.peer) {
        links.retain(|other, link| other.peer != key.peer || !link.session.is_idle());
    }
    !is_full(links, &key.peer)
}

fn is_full(links: &Links, peer: &Name) -> bool {
    links.len() >= LINKS_MAX || links.keys().filter(|key| key.peer == *peer).count() >= LINKS_OF_PEER_MAX
}

/// Takes out what an older start of the near site left of a forward, and what has the key itself.
pub(super) fn take_ghosts(links: &mut Links, key: &LinkKey) -> Vec<Link> {
    let is_ghost = |other: &LinkKey| {
        other.peer == key.peer && other.forward == key.forward && (other == key || !other.near.is_same_start(&key.near))
    };
    let ghosts: Vec<LinkKey> = links.keys().filter(|other| is_ghost(other)).cloned().collect();
    ghosts.iter().filter_map(|ghost| links.remove(ghost)).collect()
}
