//! Other pairs of keys than the one that a peer's session has: while a site changes its key, both its keys count, and the
//! peer is met by either until a session has shown that it knows the newer one.
//!
//! It never goes back: a pair takes over only by a session that the other side has confirmed, and only one that is newer
//! in one key and older in none. Then nobody begins anything with what is older. What is under way there is still read.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use boringtun::noise::Tunn;

use super::identity::INDEX_BITS_OF_SESSION;
use super::replays::Replays;
use super::succession::Old;
use super::{Identity, Peer, REPLY_BYTES_MAX, Seat, tunn};
use crate::config::{self, PublicKey};

/// A handshake with a newer key is tried this often: the other side may not have taken its own up yet.
const RETRY: Duration = Duration::from_secs(5);

/// Says by which keys two sites know each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Is this site's.
    pub own: PublicKey,
    /// Is the peer's.
    pub theirs: PublicKey,
}

impl Pair {
    /// Lists the pairs that count with a peer, the oldest first, the newest last.
    pub fn all(identity: &Identity, peer: &config::Peer) -> Vec<Self> {
        let own = identity.older_key().filter(|_| !peer.knows_new_key).into_iter().chain([identity.public_key()]);
        let theirs = || std::iter::once(peer.public_key).chain(peer.next_key);
        own.flat_map(|own| theirs().map(move |theirs| Self { own, theirs })).collect()
    }

    /// Returns the pair by which a peer is known from before.
    pub fn oldest(identity: &Identity, peer: &config::Peer) -> Self {
        let newest = Self::newest(identity, peer);
        Self::all(identity, peer).first().copied().unwrap_or(newest)
    }

    /// Returns the pair that all leads to.
    pub fn newest(identity: &Identity, peer: &config::Peer) -> Self {
        Self { own: identity.public_key(), theirs: peer.next_key.unwrap_or(peer.public_key) }
    }
}

/// Says where a datagram came from, and, of an initiation, which keys it is for and claims.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Is the address.
    pub address: IpAddr,
    /// Are the keys.
    pub claim: Option<Pair>,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self { address, claim: None }
    }
}

/// Is the state of one more pair.
struct Candidate {
    pair: Pair,
    tunn: Tunn,
    index: u32,
    replays: Replays,
}

/// Are the other pairs of a peer, and what is shown of its knowledge; none for a peer that nothing changes with.
pub(super) struct Candidates {
    all: Vec<Candidate>,
    /// Is where all this leads.
    newest: Pair,
    /// Are the newest keys that a session was had with: ours that the peer knows, and the peer's own.
    proven: Pair,
    next_at: Option<Instant>,
    turn: usize,
}

impl Candidates {
    pub(super) fn new(pair: Pair) -> Self {
        Self { all: Vec::new(), newest: pair, proven: pair, next_at: None, turn: 0 }
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = u32> {
        self.all.iter().map(|candidate| candidate.index)
    }

    /// Returns the one at a place; none where a handshake is to begin with what is older than what was proven.
    pub(super) fn tunn(&mut self, at: usize, is_to_begin: bool) -> Option<&mut Tunn> {
        let is_old = self.all.get(at).is_none_or(|candidate| self.is_old(candidate.pair));
        let candidate = self.all.get_mut(at).filter(|_| !is_old || !is_to_begin)?;
        Some(&mut candidate.tunn)
    }

    pub(super) fn replays(&mut self, seat: Seat) -> Option<&mut Replays> {
        let Seat::Candidate(at) = seat else { return None };
        self.all.get_mut(at).map(|candidate| &mut candidate.replays)
    }

    fn is_old(&self, pair: Pair) -> bool {
        let Self { newest, proven, .. } = self;
        let own = pair.own != newest.own && proven.own == newest.own;
        own || (pair.theirs != newest.theirs && proven.theirs == newest.theirs)
    }

    /// Returns the pair to have next: our key that the peer is known to know, and the newest that it has announced.
    fn goal(&self) -> Pair {
        Pair { own: self.proven.own, theirs: self.newest.theirs }
    }

    /// Picks who is to begin a handshake: who leads to the goal, or, where nobody answers, one after the other.
    fn pick(&mut self, now: Pair, is_unanswered: bool) -> Option<&mut Candidate> {
        let goal = self.goal();
        let at = if goal != now && self.all.iter().any(|candidate| candidate.pair == goal) {
            self.all.iter().position(|candidate| candidate.pair == goal)?
        } else if is_unanswered && !self.all.is_empty() {
            self.turn = (self.turn + 1) % self.all.len();
            self.turn
        } else {
            return None;
        };
        let is_old = self.all.get(at).is_none_or(|candidate| self.is_old(candidate.pair));
        self.all.get_mut(at).filter(|_| !is_old)
    }
}

impl Peer {
    /// Finds the `Tunn` that a datagram is for.
    pub(super) fn seat(&self, session: Option<u32>, claim: Option<Pair>) -> Seat {
        if self.old.as_ref().is_some_and(|old| old.is_addressed_by(session)) {
            return Seat::Older;
        }
        let is_its = |candidate: &Candidate| match session {
            Some(session) => session >> INDEX_BITS_OF_SESSION == candidate.index,
            None => claim == Some(candidate.pair),
        };
        self.candidates.all.iter().position(is_its).map_or(Seat::Main, Seat::Candidate)
    }

    /// Tells whether the session's pair is none of those that count, nor any candidate's that has a session.
    pub fn is_left_behind(&self, pairs: &[Pair]) -> bool {
        let serves = |candidate: &Candidate| pairs.contains(&candidate.pair) && has_session(&candidate.tunn);
        !pairs.contains(&self.pair) && !self.candidates.all.iter().any(serves)
    }

    /// Lists the pairs that count and have no state yet.
    pub fn missing(&self, pairs: &[Pair]) -> Vec<Pair> {
        let is_there = |pair: &Pair| *pair == self.pair || self.candidates.all.iter().any(|one| one.pair == *pair);
        pairs.iter().filter(|pair| !is_there(pair)).copied().collect()
    }

    /// Lets exactly these pairs count, the oldest first; those that are new get an index each.
    pub fn follow(
        &mut self,
        (identity, peer): (&Identity, &config::Peer),
        pairs: &[Pair],
        joining: Vec<(Pair, u32)>,
        now: Instant,
    ) {
        let Some(newest) = pairs.last().copied() else { return };
        let serves = |candidate: &Candidate| pairs.contains(&candidate.pair) && has_session(&candidate.tunn);
        let next = self.candidates.all.iter().position(serves).filter(|_| !pairs.contains(&self.pair));
        if let Some(at) = next {
            self.take_over(at, false);
        }
        self.candidates.all.retain(|candidate| pairs.contains(&candidate.pair));
        for (pair, index) in joining {
            if !self.missing(&[pair]).is_empty() {
                let tunn = tunn(identity, peer, pair, index);
                self.candidates.all.push(Candidate { pair, tunn, index, replays: Replays::default() });
            }
        }
        let counts = |key: PublicKey, side: fn(&Pair) -> PublicKey| pairs.iter().any(|pair| side(pair) == key);
        let Candidates { proven, .. } = &mut self.candidates;
        if !counts(proven.own, |pair| pair.own) {
            proven.own = self.pair.own;
        }
        if !counts(proven.theirs, |pair| pair.theirs) {
            proven.theirs = self.pair.theirs;
        }
        self.candidates.newest = newest;
        let is_wanted = self.candidates.goal() != self.pair;
        self.candidates.next_at = Some(if is_wanted { now } else { now + RETRY });
    }

    /// Returns the newest keys that a session was had with.
    pub fn proven(&self) -> Pair {
        self.candidates.proven
    }

    /// Takes note that a session of a candidate is confirmed, and lets it take over where it is newer.
    pub(super) fn prove(&mut self, at: usize, as_initiator: bool) {
        let Some(pair) = self.candidates.all.get(at).map(|candidate| candidate.pair) else { return };
        let Candidates { newest, proven, .. } = &mut self.candidates;
        if pair.own == newest.own {
            proven.own = pair.own;
        }
        if pair.theirs == newest.theirs {
            proven.theirs = pair.theirs;
        }
        let newest = *newest;
        let is_kept = pair.own == self.pair.own || pair.own == newest.own;
        if is_kept && (pair.theirs == self.pair.theirs || pair.theirs == newest.theirs) {
            self.take_over(at, as_initiator);
        }
        self.candidates.next_at = None;
    }

    /// Makes a candidate the one that packets leave with.
    fn take_over(&mut self, at: usize, as_initiator: bool) {
        if at >= self.candidates.all.len() {
            return;
        }
        let Candidate { pair, tunn, index, replays } = self.candidates.all.remove(at);
        let before = std::mem::replace(&mut self.tunn, tunn);
        let before_index = std::mem::replace(&mut self.index, index);
        self.old = Some(Old { tunn: before, index: before_index, sends: false });
        self.pair = pair;
        self.replays = replays;
        self.initiator = as_initiator;
        self.begin();
    }

    /// Lets time pass for the candidates; one begins a handshake where that is due.
    pub(super) fn handle_tick_of_candidates(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if self.candidates.all.is_empty() {
            return None;
        }
        for candidate in &mut self.candidates.all {
            // It forgets its sessions in time. Whatever it would send is begun below.
            candidate.tunn.update_timers(&mut [0; REPLY_BYTES_MAX]);
        }
        if self.candidates.next_at.is_some_and(|at| at > now) {
            return None;
        }
        self.candidates.next_at = Some(now + RETRY);
        let is_unanswered = self.initiation_pending && !self.has_session();
        let candidate = self.candidates.pick(self.pair, is_unanswered)?;
        let boringtun::noise::TunnResult::WriteToNetwork(datagram) =
            candidate.tunn.format_handshake_initiation(out, true)
        else {
            return None;
        };
        let datagram_bytes = datagram.len();
        let is_pending = self.initiation_pending;
        self.note_sent(out.get(..datagram_bytes)?);
        self.initiation_pending = is_pending;
        Some(datagram_bytes)
    }
}

fn has_session(tunn: &Tunn) -> bool {
    tunn.time_since_last_handshake().is_some()
}
