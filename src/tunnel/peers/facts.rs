//! What can be told about a peer: plain values for health and `wg`.
//!
//! It changes nothing of the peer, and tells no key but the public one.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::PeerEntry;
use crate::config::{self, Name, PublicKey};

/// A session on which nothing was answered for so long is none: WireGuard begins a handshake then (KEEPALIVE_TIMEOUT
/// and REKEY_TIMEOUT, paper section 6.5).
pub(super) const UNANSWERED_MAX: Duration = Duration::from_secs(15);

/// Says how far a change of this site's key is with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// It knows the newest key.
    Done,
    /// It was told the newest key over a link, and is waited for.
    Told,
    /// No link was there to tell it by.
    NotTold,
}

/// Is what can be told about a peer.
#[derive(Debug, Clone)]
pub struct PeerFacts {
    /// Names the peer.
    pub name: Name,
    /// Tells that `wg` set something of it since the configuration was read.
    pub set_by_wg: bool,
    /// Is its key now.
    pub key: PublicKey,
    /// Says how far a change of this site's key is with it.
    pub rotation: Rotation,
    /// Is when it became a peer of this site.
    pub added: SystemTime,
    /// Is where datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// Says why the endpoint's name does not resolve.
    pub endpoint_error: Option<String>,
    /// Tells whether there is a session to send with.
    pub has_session: bool,
    /// Is since when there has been one without a gap; none: there never was one.
    pub session_since: Option<SystemTime>,
    /// Says for how long the peer has answered nothing that asked for an answer.
    pub unanswered_for: Option<Duration>,
    /// Is when the latest handshake was completed.
    pub latest_handshake: Option<SystemTime>,
    /// Is how long ago that was, whatever the wall clock did since.
    pub latest_handshake_age: Option<Duration>,
    /// Counts the bytes of datagrams received and authenticated.
    pub rx_bytes: u64,
    /// Counts the bytes of datagrams sent.
    pub tx_bytes: u64,
    /// Counts drops by reason.
    pub drops: Vec<(&'static str, u64)>,
}

impl PeerEntry {
    fn rotation(&self, peer: &config::Peer) -> Rotation {
        match (peer.knows_new_key, self.told.load(Ordering::Relaxed)) {
            (true, _) => Rotation::Done,
            (false, true) => Rotation::Told,
            (false, false) => Rotation::NotTold,
        }
    }

    /// Notes that the peer was told this site's newest key, or, where that is yet another one, that it was not.
    pub(in crate::tunnel) fn set_told(&self, is_told: bool) {
        self.told.store(is_told, Ordering::Relaxed);
    }

    /// Tells what is known about the peer.
    pub fn facts(&self) -> PeerFacts {
        let has_keys = self.lock().has_session();
        let set = self.settings();
        let path = self.path.read().unwrap_or_else(PoisonError::into_inner);
        let unanswered_for = path.unanswered_since.map(|since| since.elapsed());
        let has_session = has_keys && unanswered_for.is_none_or(|silence| silence < UNANSWERED_MAX);
        PeerFacts {
            name: set.peer.name.clone(),
            set_by_wg: set.set_by_wg,
            key: set.peer.public_key,
            rotation: self.rotation(&set.peer),
            added: self.added,
            endpoint: path.endpoint,
            endpoint_error: path.endpoint_error.clone(),
            has_session,
            session_since: path.unbroken.since(),
            unanswered_for,
            latest_handshake: path.latest_handshake,
            latest_handshake_age: path.session_began.map(|at| at.elapsed()),
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            drops: self.drops.snapshot().into_iter().map(|(reason, count)| (reason.code(), count)).collect(),
        }
    }
}
