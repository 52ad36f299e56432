//! One WireGuard peer: the only user of boringtun, and everything that its `Tunn` leaves to the caller.
//!
//! It never touches a socket, an interface or an endpoint: bytes come in, bytes go out, and the result says what was
//! learnt. Rules: WireGuard paper sections 5 and 6; what `Tunn` leaves to its caller: design, tunnel.md. `Tunn` keeps
//! a clock of its own; every other time comes in as an argument.

mod candidates;
mod identity;
mod load;
mod message;
mod replays;
mod succession;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use super::drops::Drop;
use candidates::Candidates;
pub use candidates::{Pair, Source};
pub use identity::{Addressed, Identity};
pub use message::{data_index, is_data, is_response, sealed_bytes};
use message::{padded_bytes, part_of, refusal};
use replays::Replays;
pub use succession::Before;
use succession::Old;

/// The largest datagram that is read or written: what UDP can carry, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;
/// What a data message adds to a packet: 16 bytes of header, 16 of tag (WireGuard paper, section 5.4.6).
pub const OVERHEAD_BYTES: usize = 32;
/// A buffer that no call below can overflow: padding adds up to 15 bytes, a handshake takes 148.
pub const BUFFER_BYTES: usize = DATAGRAM_BYTES_MAX + OVERHEAD_BYTES + 16;
/// The longest message that is no data: an initiation (WireGuard paper, section 5.4.2), in bytes.
pub const REPLY_BYTES_MAX: usize = 148;
/// Plaintext is padded to a multiple of this, in bytes (WireGuard paper, section 5.4.6).
const PADDING_BYTES: usize = 16;
/// Message types (WireGuard paper, section 5.4), as a message's first byte.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;
/// Session indices that are remembered, as many as `Tunn` keeps sessions.
const SESSIONS_REMEMBERED: usize = 8;
/// An initiation is sent again after this for as long as nobody answers, not after `Tunn`'s 5 s: of two sites that
/// start together the first one's is lost, and after an outage messages wait for the first one that arrives.
const RETRY: Duration = Duration::from_secs(1);
/// `Tunn` resends an initiation after 5 s; an own one is forgotten when the peer's comes in between, and sent again
/// after a random part of this, so that two sites that began at once do not meet again (tunnel.md, 13).
const COLLISION_RETRY_MAX: Duration = Duration::from_millis(400);
/// `Tunn` does not count keepalives as use, so that an idle session would end after 180 s and leave a gap until the
/// next keepalive. Like the kernel's, an initiator renews it after this.
const RENEW_AFTER: Duration = Duration::from_secs(120);
/// A responder renews it where the initiator has not: 180 s less a keepalive's and a handshake's timeout, as in `Tunn`.
const RENEW_AFTER_AS_RESPONDER: Duration = Duration::from_secs(165);
/// A packet that nothing answers for so long is confirmed by a keepalive (`Keepalive-Timeout`, WireGuard paper, section
/// 6.5), or the peer takes us for dead 5 s later and begins a handshake. `Tunn` forgets it where our last word went out
/// in the same tick: its times are those of the tick before (a cause of boringtun's report #363).
const CONFIRM_AFTER: Duration = Duration::from_secs(10);

/// Is the cryptographic state of one peer.
pub struct Peer {
    tunn: Tunn,
    index: u32,
    pair: Pair,
    old: Option<Old>,
    /// Holds other pairs of keys, while a site changes its own.
    candidates: Candidates,
    sessions_seen: [Option<u32>; SESSIONS_REMEMBERED],
    keepalive: Option<Duration>,
    keepalive_at: Option<Instant>,
    confirm_at: Option<Instant>,
    initiator: bool,
    initiation_pending: bool,
    retry_at: Option<Instant>,
    replays: Replays,
}

/// Is what came of a datagram.
#[derive(Debug)]
pub struct Received<'a> {
    /// Says what to do with it.
    pub action: Action<'a>,
    /// Tells that it authenticates its source address: the peer's endpoint moves there.
    pub moves_endpoint: bool,
    /// Tells that it is the first word of a new session: what waited may be sent.
    pub begins_session: bool,
}

/// Says what to do after a datagram.
#[derive(Debug)]
pub enum Action<'a> {
    /// Nothing.
    None,
    /// Send this to where the datagram came from.
    Reply(&'a [u8]),
    /// Judge this inner packet.
    Packet(&'a [u8]),
    /// Count it.
    Refused(Drop),
}

impl Peer {
    /// Makes the state for a peer; `index` has 24 random bits, unique among the peers.
    pub fn new(identity: &Identity, peer: &crate::config::Peer, index: u32) -> Self {
        let pair = Pair::oldest(identity, peer);
        Self {
            tunn: tunn(identity, peer, pair, index),
            index,
            pair,
            old: None,
            candidates: Candidates::new(pair),
            sessions_seen: [None; SESSIONS_REMEMBERED],
            keepalive: peer.persistent_keepalive,
            keepalive_at: None,
            confirm_at: None,
            initiator: false,
            initiation_pending: false,
            retry_at: None,
            replays: Replays::default(),
        }
    }

    /// Encrypts a packet for the peer, or keeps it and returns an initiation, or keeps it and returns nothing.
    ///
    /// The packet lies in `buffer` at `packet`; up to 15 bytes behind it are used for its padding and then put back.
    /// `out` must have room for it with [`OVERHEAD_BYTES`] and padding, and for [`REPLY_BYTES_MAX`].
    pub fn handle_outgoing<'a>(
        &mut self,
        buffer: &mut [u8],
        packet: Range<usize>,
        mtu_bytes: usize,
        out: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let padded = packet.start + padded_bytes(packet.len(), mtu_bytes);
        let padding = packet.end..padded.min(buffer.len());
        if out.len() < (padded - packet.start + OVERHEAD_BYTES).max(REPLY_BYTES_MAX) {
            return None;
        }
        let mut behind = [0; PADDING_BYTES];
        let behind = behind.get_mut(..padding.len())?;
        buffer.get_mut(padding.clone())?.swap_with_slice(behind);
        let result = self.sender().encapsulate(buffer.get(packet.start..padding.end)?, out);
        buffer.get_mut(padding)?.copy_from_slice(behind);
        self.sent(result)
    }

    /// Authenticates and decrypts a datagram of the peer.
    pub fn handle_datagram<'a>(
        &mut self,
        source: impl Into<Source>,
        datagram: &[u8],
        now: Instant,
        random: u64,
        out: &'a mut [u8],
    ) -> Received<'a> {
        let source = source.into();
        let refused =
            |reason| Received { action: Action::Refused(reason), moves_endpoint: false, begins_session: false };
        // `Tunn` asserts on a destination smaller than the datagram, before it authenticates anything.
        if out.len() < datagram.len().max(REPLY_BYTES_MAX) || datagram.is_empty() {
            return refused(Drop::NotWireGuard);
        }
        let (kind, session) = match Tunn::parse_incoming_packet(datagram) {
            Ok(Packet::HandshakeInit(_)) => (Kind::Initiation, None),
            Ok(Packet::HandshakeResponse(response)) => (Kind::Response, Some(response.receiver_idx)),
            Ok(Packet::PacketCookieReply(_)) => (Kind::Cookie, None),
            Ok(Packet::PacketData(data)) => (Kind::Data, Some(data.receiver_idx)),
            Err(_) => return refused(Drop::NotWireGuard),
        };
        let seat = self.seat(session, source.claim);
        let tunn = match seat {
            Seat::Main => Some(&mut self.tunn),
            Seat::Older => self.old.as_mut().map(Old::tunn),
            Seat::Candidate(at) => self.candidates.tunn(at, kind == Kind::Initiation),
        };
        let Some(tunn) = tunn else { return refused(Drop::OldKey) };
        let result = tunn.decapsulate(Some(source.address), datagram, out);
        let (action, authentic) = match result {
            TunnResult::Done => (Action::None, true),
            TunnResult::WriteToNetwork(reply) => {
                self.note_sent(reply);
                if kind == Kind::Initiation {
                    self.candidates.replays(seat).unwrap_or(&mut self.replays).accepted(datagram);
                }
                (Action::Reply(reply), true)
            }
            TunnResult::WriteToTunnelV4(packet, _) => (Action::Packet(packet), true),
            TunnResult::WriteToTunnelV6(packet, _) => (Action::Packet(packet), true),
            // After authentication: what was inside is no IP packet. The kernel moves the endpoint all the same.
            TunnResult::Err(WireGuardError::InvalidPacket) => (Action::Refused(Drop::Malformed), true),
            TunnResult::Err(error) => {
                let is_early = matches!(error, WireGuardError::WrongTai64nTimestamp) && seat == Seat::Main;
                if is_early && self.replays.asks_for_call(datagram, now) {
                    self.retry_at = Some(now);
                }
                (Action::Refused(refusal(&error)), false)
            }
        };
        if authentic && seat == Seat::Main && matches!(kind, Kind::Initiation | Kind::Response) {
            self.initiator = kind == Kind::Response;
        }
        if matches!(action, Action::Packet(_)) {
            self.confirm_at.get_or_insert(now + CONFIRM_AFTER);
        }
        if kind == Kind::Initiation && authentic && seat == Seat::Main && self.initiation_pending {
            self.retry_at = Some(now + part_of(COLLISION_RETRY_MAX, random));
        }
        let carries = authentic && matches!(kind, Kind::Response | Kind::Data);
        if carries {
            self.replays.heard(now);
        }
        let is_new = carries && seat != Seat::Older;
        let begins_session = is_new && session.is_some_and(|index| self.remember_session(index));
        if begins_session {
            match seat {
                Seat::Candidate(at) => self.prove(at, kind == Kind::Response),
                Seat::Main | Seat::Older => self.begin(),
            }
        }
        Received { action, moves_endpoint: carries, begins_session }
    }

    /// Returns the next packet that waited for a session, encrypted, until there is none.
    pub fn poll_queued<'a>(&mut self, out: &'a mut [u8]) -> Option<&'a [u8]> {
        if out.len() < BUFFER_BYTES {
            return None;
        }
        let result = self.tunn.decapsulate(None, &[], out);
        self.sent(result)
    }

    /// Lets time pass; called every 100 to 250 ms. Returns a keepalive or an initiation where one is due.
    ///
    /// `Tunn` gives up for ever after 90 s without an answer, or 540 s without a session; a peer with a persistent
    /// keepalive is tried again at once, one without when there is something to send.
    pub fn handle_tick<'a>(&mut self, now: Instant, out: &'a mut [u8]) -> Option<&'a [u8]> {
        if out.len() < BUFFER_BYTES {
            return None;
        }
        if let Some(datagram_bytes) =
            self.handle_tick_of_older(out).or_else(|| self.handle_tick_of_candidates(now, out))
        {
            return out.get(..datagram_bytes);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            return self.initiate(out);
        }
        if self.retry_at.is_none() && self.initiation_pending {
            self.retry_at = Some(now + RETRY);
        }
        let due = match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) => Due::Send(datagram.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Due::Expired,
            _ => Due::Nothing,
        };
        match due {
            Due::Nothing if self.needs_renewal() => self.initiate(out),
            Due::Nothing if self.confirm_at.is_some_and(|at| at <= now) && self.has_session() => {
                let result = self.sender().encapsulate(&[], out);
                self.sent(result)
            }
            Due::Nothing => self.keep_alive(now, out),
            Due::Expired if self.keepalive.is_some() => self.initiate(out),
            Due::Expired => {
                self.initiation_pending = false;
                self.retry_at = None;
                None
            }
            Due::Send(datagram_bytes) => {
                let datagram = out.get(..datagram_bytes)?;
                self.note_sent(datagram);
                Some(datagram)
            }
        }
    }

    /// Sends a keepalive where one is due. It is not left to `Tunn`, whose interval cannot be changed.
    fn keep_alive<'a>(&mut self, now: Instant, out: &'a mut [u8]) -> Option<&'a [u8]> {
        let every = self.keepalive?;
        let at = *self.keepalive_at.get_or_insert(now + every);
        if at > now || (self.initiation_pending && !self.is_served_by_older()) {
            return None;
        }
        self.keepalive_at = Some(now + every);
        let result = self.sender().encapsulate(&[], out);
        self.sent(result)
    }

    /// Begins a handshake now, whatever is in progress.
    pub fn initiate<'a>(&mut self, out: &'a mut [u8]) -> Option<&'a [u8]> {
        if out.len() < BUFFER_BYTES {
            return None;
        }
        let result = self.tunn.format_handshake_initiation(out, true);
        self.sent(result)
    }

    /// Tells whether there is a session to send with.
    pub fn has_session(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some() || self.is_served_by_older()
    }

    /// Tells whether an idle session is about to end that the keepalive asks to keep.
    fn needs_renewal(&self) -> bool {
        let after = if self.initiator { RENEW_AFTER } else { RENEW_AFTER_AS_RESPONDER };
        let is_old = self.tunn.time_since_last_handshake().is_some_and(|age| age >= after);
        is_old && self.keepalive.is_some() && !self.initiation_pending
    }

    fn sent<'a>(&mut self, result: TunnResult<'a>) -> Option<&'a [u8]> {
        let TunnResult::WriteToNetwork(datagram) = result else { return None };
        self.note_sent(datagram);
        Some(datagram)
    }

    /// Notes a handshake message of ours. Its index names a session to come; after 256 of them it is one that an
    /// earlier session had, which must not pass for the new one.
    fn note_sent(&mut self, datagram: &[u8]) {
        self.confirm_at = None;
        let Some([kind @ (INITIATION | RESPONSE), _, _, _, index @ ..]) = datagram.first_chunk::<8>() else { return };
        self.initiation_pending |= *kind == INITIATION;
        let index = u32::from_le_bytes(*index);
        for seen in self.sessions_seen.iter_mut().filter(|seen| **seen == Some(index)) {
            *seen = None;
        }
    }

    /// Remembers a session's index and tells whether it is new.
    fn remember_session(&mut self, index: u32) -> bool {
        let slot = usize::try_from(index).unwrap_or(0) % SESSIONS_REMEMBERED;
        let Some(seen) = self.sessions_seen.get_mut(slot) else { return false };
        seen.replace(index) != Some(index)
    }
}

/// Makes the state of one handshake and its sessions. Keepalives are not its business.
fn tunn(identity: &Identity, peer: &crate::config::Peer, pair: Pair, index: u32) -> Tunn {
    let own = identity.own(pair.own);
    Tunn::new(
        own.secret.clone(),
        x25519::PublicKey::from(pair.theirs.0),
        peer.preshared_key.as_ref().map(|key| *key.expose()),
        None,
        index & 0x00ff_ffff,
        Some(Arc::clone(&own.limiter)),
    )
}

/// Says which `Tunn` a datagram is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seat {
    Main,
    Older,
    Candidate(usize),
}

#[derive(PartialEq, Eq)]
enum Kind {
    Initiation,
    Response,
    Cookie,
    Data,
}

/// Says what the passing of time asks for.
enum Due {
    Nothing,
    Expired,
    Send(usize),
}

#[cfg(test)]
mod tests;
