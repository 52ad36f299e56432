//! Initiations that come too late, or carry too early a time: replays, or those of a peer whose clock was set back.
//!
//! `Tunn` refuses what is not later than the last one that it saw, but a new `Tunn` has seen none: it is shown the last
//! one. Across restarts nothing is kept: what a replay begins then the peer's first handshake ends. It never sends.
//! Rules: WireGuard paper, section 5.1.

use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::Tunn;
use boringtun::x25519;

use super::{Identity, Pair, REPLY_BYTES_MAX};

/// A peer whose initiations carry an earlier time than its last is called instead, where it has been silent for so
/// long: its clock was set back, and ours may be right. A replay by anybody else brings one handshake each 5 s, as
/// WireGuard allows (REKEY_TIMEOUT, paper section 6.1).
const CALL_BACK_SILENCE: Duration = Duration::from_secs(1);
const CALL_BACK_EVERY: Duration = Duration::from_secs(5);

/// Is what is known of a peer's initiations.
#[derive(Default)]
pub(super) struct Replays {
    last: Option<[u8; REPLY_BYTES_MAX]>,
    heard: Option<Instant>,
    called_back: Option<Instant>,
}

impl Replays {
    /// Notes an initiation that was accepted.
    pub(super) fn accepted(&mut self, initiation: &[u8]) {
        self.last = initiation.try_into().ok();
    }

    /// Notes that the peer was heard in a session.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// Tells whether to begin a handshake with the peer whose initiation was refused for its time. One that was only
    /// duplicated on its way asks for nothing.
    pub(super) fn asks_for_call(&mut self, initiation: &[u8], now: Instant) -> bool {
        let is_silent = self.heard.is_none_or(|at| now.duration_since(at) >= CALL_BACK_SILENCE);
        let is_due = self.called_back.is_none_or(|at| now.duration_since(at) >= CALL_BACK_EVERY);
        let is_other = self.last.as_ref().is_none_or(|last| last != initiation);
        let asks = is_silent && is_due && is_other;
        if asks {
            self.called_back = Some(now);
        }
        asks
    }

    /// Makes a `Tunn` and shows it the last initiation, so that no older one is accepted.
    pub(super) fn remembering_tunn(
        &self,
        identity: &Identity,
        peer: &crate::config::Peer,
        pair: Pair,
        index: u32,
    ) -> Tunn {
        let Some(initiation) = &self.last else { return super::tunn(identity, peer, pair, index) };
        let own = identity.own(pair.own);
        // A limiter of its own lets it in whatever the load; the session that it begins is then cleared.
        let mut tunn = Tunn::new(
            own.secret.clone(),
            x25519::PublicKey::from(pair.theirs.0),
            peer.preshared_key.as_ref().map(|key| *key.expose()),
            None,
            index & 0x00ff_ffff,
            None,
        );
        tunn.decapsulate(None, initiation, &mut [0; REPLY_BYTES_MAX]);
        tunn.set_static_private(own.secret.clone(), own.public, Some(Arc::clone(&own.limiter)));
        tunn
    }
}
