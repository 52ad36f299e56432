//! One `Tunn` takes over from another: `Tunn` has no setter for a preshared key, and forgets every session with another
//! private key. Make before break: the older one serves its session until the newer one has one of its own.
//!
//! It never touches a socket or a clock. Rules: WireGuard paper, section 6.1 (a session ends after 180 s).

use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};

use super::candidates::Candidates;
use super::identity::INDEX_BITS_OF_SESSION;
use super::replays::Replays;
use super::{BUFFER_BYTES, Identity, Pair, Peer, is_data};

/// Says what the session of before is still good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// The peer knows it: packets go both ways in it until there is a new one.
    Serves,
    /// Only what is under way is still read: the peer may have forgotten it with our old key.
    IsHeard,
    /// Nothing of it counts any more: whoever knows our old key could have begun it.
    Ends,
}

/// Is the `Tunn` of before.
pub(super) struct Old {
    pub(super) tunn: Tunn,
    pub(super) index: u32,
    pub(super) sends: bool,
}

impl Old {
    pub(super) fn tunn(&mut self) -> &mut Tunn {
        &mut self.tunn
    }

    /// Tells whether packets leave in its session.
    fn serves(&self) -> bool {
        self.sends && self.tunn.time_since_last_handshake().is_some()
    }

    /// Tells whether a message to this session index is for it.
    pub(super) fn is_addressed_by(&self, session: Option<u32>) -> bool {
        session.is_some_and(|session| session >> INDEX_BITS_OF_SESSION == self.index)
    }
}

impl Peer {
    /// Begins anew with another key of ours or another preshared one, under another index; a handshake is then due.
    /// Every candidate goes.
    ///
    /// Packets that waited for a session of the old keys are lost, as any packet may be.
    pub fn renew(&mut self, identity: &Identity, peer: &crate::config::Peer, index: u32, before: Before) {
        let pairs = Pair::all(identity, peer);
        let pair = if pairs.contains(&self.pair) { self.pair } else { Pair::newest(identity, peer) };
        let newer = if pair == self.pair {
            self.replays.remembering_tunn(identity, peer, pair, index)
        } else {
            self.replays = Replays::default();
            super::tunn(identity, peer, pair, index)
        };
        self.pair = pair;
        self.candidates = Candidates::new(pair);
        let older = std::mem::replace(&mut self.tunn, newer);
        let older_index = std::mem::replace(&mut self.index, index);
        // Without a session of its own it has nothing to hand over; the one before it may have.
        if older.time_since_last_handshake().is_some() {
            self.old = Some(Old { tunn: older, index: older_index, sends: true });
        }
        if let Some(old) = self.old.as_mut().filter(|_| before == Before::IsHeard) {
            old.sends = false;
        }
        if before == Before::Ends {
            self.old = None;
        }
        self.initiator = false;
        self.initiation_pending = false;
        self.retry_at = None;
    }

    /// Sends keepalives so often from now on; the first one at once where there were none.
    pub fn set_keepalive(&mut self, every: Option<Duration>, now: Instant) {
        if self.keepalive != every {
            let first = if self.keepalive.is_none() { Some(Duration::ZERO) } else { every };
            self.keepalive_at = first.map(|after| now + after);
            self.keepalive = every;
        }
    }

    /// Lists the indices that datagrams for this peer may bear.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.index).chain(self.old.as_ref().map(|old| old.index)).chain(self.candidates.indices())
    }

    /// Returns the `Tunn` that packets leave with.
    pub(super) fn sender(&mut self) -> &mut Tunn {
        match &mut self.old {
            Some(old) if old.serves() => &mut old.tunn,
            _ => &mut self.tunn,
        }
    }

    /// Lets the newer one serve from now on; what is under way for the older one is still read.
    pub(super) fn begin(&mut self) {
        self.initiation_pending = false;
        self.retry_at = None;
        if let Some(old) = &mut self.old {
            old.sends = false;
        }
    }

    /// Tells whether packets leave in the session of before.
    pub(super) fn is_served_by_older(&self) -> bool {
        self.old.as_ref().is_some_and(Old::serves)
    }

    /// Lets time pass for the older one: it never begins a handshake, and is forgotten with its last session.
    pub(super) fn handle_tick_of_older(&mut self, out: &mut [u8]) -> Option<usize> {
        let old = self.old.as_mut().filter(|_| out.len() >= BUFFER_BYTES)?;
        let result = old.tunn.update_timers(out);
        let datagram_bytes = match result {
            TunnResult::WriteToNetwork(datagram) if is_data(datagram) && old.sends => Some(datagram.len()),
            _ => None,
        };
        if old.tunn.time_since_last_handshake().is_none() {
            self.old = None;
        }
        datagram_bytes
    }
}
