//! The noise core of one peer, and the one before it for as long as its sessions last: make before break.
//!
//! A core cannot be changed, only made anew; it reads the wall clock then, and counts on from there. A new one knows
//! nothing of the last initiation that the peer sent, so that one is shown to it: what is older stays a replay. Across
//! restarts nothing is kept: a replay then can only begin what the first handshake of the peer ends. It never sends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::{Identity, Kind, REPLY_BYTES_MAX};
use crate::config;

/// Sessions of a former core are used no longer than this: REJECT_AFTER_TIME (WireGuard paper, section 6.1).
const FORMER_MAX: Duration = Duration::from_secs(180);

/// Is the core of a peer, and the former one.
pub(super) struct Cores {
    current: Tunn,
    former: Option<(Tunn, Instant)>,
    peer: x25519::PublicKey,
    preshared: Option<config::SecretKey>,
    keepalive: Option<u16>,
    index: u32,
    last_initiation: Option<[u8; REPLY_BYTES_MAX]>,
}

/// Is what came of a datagram; the bytes lie at the start of the buffer.
pub(super) enum Outcome {
    Done,
    Reply(usize),
    Packet(usize),
    Failed(WireGuardError),
}

impl Cores {
    pub(super) fn new(identity: &Identity, peer: &config::Peer, index: u32) -> Self {
        let keepalive = peer.persistent_keepalive.and_then(|every| u16::try_from(every.as_secs()).ok());
        let (preshared, peer) = (peer.preshared_key.clone(), x25519::PublicKey::from(peer.public_key.0));
        let current = core(identity, peer, preshared.as_ref(), keepalive, index, None);
        Self { current, former: None, peer, preshared, keepalive, index, last_initiation: None }
    }

    /// Makes the core anew, with the wall clock as it is now. Packets that wait for a first session are lost.
    pub(super) fn renew(&mut self, identity: &Identity, now: Instant) {
        let preshared = self.preshared.as_ref();
        let initiation = self.last_initiation.as_ref();
        let fresh = core(identity, self.peer, preshared, self.keepalive, self.index, initiation);
        let before = std::mem::replace(&mut self.current, fresh);
        if before.time_since_last_handshake().is_some() {
            self.former = Some((before, now + FORMER_MAX));
        }
    }

    /// Tells whether the peer is to be called whenever there is no session.
    pub(super) fn has_keepalive(&self) -> bool {
        self.keepalive.is_some()
    }

    /// Says how old the session is that the current core sends with.
    pub(super) fn session_age(&self) -> Option<Duration> {
        self.current.time_since_last_handshake()
    }

    /// Tells whether there is a session to send with.
    pub(super) fn has_session(&self) -> bool {
        let former = self.former.as_ref().and_then(|(former, _)| former.time_since_last_handshake());
        self.session_age().or(former).is_some()
    }

    /// Encrypts a packet with a session of the current core, or else of the former; or keeps it for one to come.
    pub(super) fn encapsulate<'a>(&mut self, packet: &[u8], out: &'a mut [u8]) -> TunnResult<'a> {
        match &mut self.former {
            Some((former, _)) if self.current.time_since_last_handshake().is_none() && is_usable(former) => {
                former.encapsulate(packet, out)
            }
            _ => self.current.encapsulate(packet, out),
        }
    }

    /// Hands a datagram to the current core and, where that does not know it, to the former; tells whether it was the
    /// current one's.
    pub(super) fn decapsulate(
        &mut self,
        source: IpAddr,
        kind: Kind,
        datagram: &[u8],
        out: &mut [u8],
    ) -> (Outcome, bool) {
        let outcome = outcome(self.current.decapsulate(Some(source), datagram, out));
        match (&outcome, &mut self.former) {
            (Outcome::Failed(_), Some((former, _))) if kind != Kind::Initiation => {
                match self::outcome(former.decapsulate(Some(source), datagram, out)) {
                    Outcome::Failed(_) => (outcome, true),
                    by_former => (by_former, false),
                }
            }
            (Outcome::Reply(_), _) if kind == Kind::Initiation => {
                if let Ok(initiation) = datagram.try_into() {
                    self.last_initiation = Some(initiation);
                }
                (outcome, true)
            }
            _ => (outcome, true),
        }
    }

    /// Tells whether this is the very initiation that was accepted last.
    pub(super) fn is_last_initiation(&self, datagram: &[u8]) -> bool {
        self.last_initiation.as_ref().is_some_and(|last| last == datagram)
    }

    pub(super) fn poll_queued<'a>(&mut self, out: &'a mut [u8]) -> TunnResult<'a> {
        self.current.decapsulate(None, &[], out)
    }

    /// Lets time pass. What a former core wants to send by itself is not sent: the current one has begun a handshake.
    pub(super) fn update_timers<'a>(&mut self, now: Instant, out: &'a mut [u8]) -> TunnResult<'a> {
        self.former = self.former.take().filter(|(_, until)| now < *until);
        if let Some((former, _)) = &mut self.former {
            former.update_timers(out);
        }
        self.current.update_timers(out)
    }

    pub(super) fn initiate<'a>(&mut self, out: &'a mut [u8]) -> TunnResult<'a> {
        self.current.format_handshake_initiation(out, true)
    }
}

fn core(
    identity: &Identity,
    peer: x25519::PublicKey,
    preshared: Option<&config::SecretKey>,
    keepalive: Option<u16>,
    index: u32,
    last_initiation: Option<&[u8; REPLY_BYTES_MAX]>,
) -> Tunn {
    let (secret, limiter) = (identity.secret.clone(), Arc::clone(&identity.limiter));
    let preshared = preshared.map(|key| *key.expose());
    let index = index & 0x00ff_ffff;
    let Some(initiation) = last_initiation else {
        return Tunn::new(secret, peer, preshared, keepalive, index, Some(limiter));
    };
    // A limiter of its own lets the old initiation in whatever the load; the session that it begins is then cleared.
    let mut core = Tunn::new(secret.clone(), peer, preshared, keepalive, index, None);
    core.decapsulate(None, initiation, &mut [0; REPLY_BYTES_MAX]);
    core.set_static_private(secret, identity.public, Some(limiter));
    core
}

fn is_usable(core: &Tunn) -> bool {
    core.time_since_last_handshake().is_some()
}

fn outcome(result: TunnResult<'_>) -> Outcome {
    match result {
        TunnResult::Done => Outcome::Done,
        TunnResult::WriteToNetwork(reply) => Outcome::Reply(reply.len()),
        TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
            Outcome::Packet(packet.len())
        }
        TunnResult::Err(error) => Outcome::Failed(error),
    }
}
