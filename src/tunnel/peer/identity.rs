//! This site's static key, and whom a datagram is for: what is looked at before any state of a peer is touched.
//!
//! It never touches a socket. Rules: WireGuard paper, sections 5.3 and 5.4; with `peer` the only user of boringtun.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use super::Pair;
use super::load::Load;
use super::message::refusal;
use crate::config::{PublicKey, SecretKey};
use crate::tunnel::drops::Drop;
use crate::tunnel::thinning::Thinning;

/// The length of MAC2, the last field of a handshake message, in bytes (WireGuard paper, section 5.4).
const MAC_BYTES: usize = 16;
/// Peer indices have 24 bits; the low 8 bits of a session's index are `Tunn`'s.
pub(super) const INDEX_BITS_OF_SESSION: u32 = 8;

/// Is this site's static key, with the one before while not every peer knows the newer one, and what limits handshakes,
/// for all peers together.
pub struct Identity {
    newest: OwnKey,
    older: Option<OwnKey>,
    load: Mutex<Load>,
}

/// Is one static key of this site.
///
/// `Tunn` has no bucket for each source and would count what was counted here, so its limiter checks MAC1 only; the
/// other one asks for a cookie always, and `Load` says which is used.
pub(super) struct OwnKey {
    pub(super) secret: x25519::StaticSecret,
    pub(super) public: x25519::PublicKey,
    pub(super) limiter: Arc<RateLimiter>,
    cookies: RateLimiter,
}

impl OwnKey {
    fn new(secret: &SecretKey) -> Self {
        let secret = x25519::StaticSecret::from(*secret.expose());
        let public = x25519::PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, u64::MAX));
        let cookies = RateLimiter::new(&public, 0);
        Self { secret, public, limiter, cookies }
    }

    fn limiter(&self, asks_for_cookies: bool) -> &RateLimiter {
        if asks_for_cookies { &self.cookies } else { &self.limiter }
    }
}

/// Says whom a datagram is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Addressed<'a> {
    /// An initiation to this key of ours that claims this static key.
    Key(Pair),
    /// A message to the session of the peer with this index.
    Index(u32),
    /// Nobody yet: the cookie goes back to the source first.
    Cookie(&'a [u8]),
    /// Nobody.
    Refused(Drop),
}

impl Identity {
    /// Derives the public key from the secret one.
    pub fn new(secret: &SecretKey) -> Self {
        Self::with_older(secret, None)
    }

    /// Does the same beside an older key, by which some peers still know this site.
    pub fn with_older(secret: &SecretKey, older: Option<&SecretKey>) -> Self {
        Self { newest: OwnKey::new(secret), older: older.map(OwnKey::new), load: Mutex::new(Load::new()) }
    }

    /// Returns the public key of this site.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.newest.public.to_bytes())
    }

    /// Returns the one before, while some peers know only that.
    pub fn older_key(&self) -> Option<PublicKey> {
        self.older.as_ref().map(|older| PublicKey(older.public.to_bytes()))
    }

    /// Returns the key with this public part; the newest where there is none.
    pub(super) fn own(&self, key: PublicKey) -> &OwnKey {
        self.older.as_ref().filter(|older| older.public.to_bytes() == key.0).unwrap_or(&self.newest)
    }

    /// Finds out whom a datagram is for, before any state of a peer is touched.
    ///
    /// A handshake passes MAC1 (and, under load, a cookie and the limits of those who have one) before anything is
    /// decrypted.
    pub fn handle_datagram<'a>(&self, source: IpAddr, datagram: &[u8], out: &'a mut [u8]) -> Addressed<'a> {
        match Tunn::parse_incoming_packet(datagram) {
            Err(_) => return Addressed::Refused(Drop::NotWireGuard),
            Ok(Packet::HandshakeInit(_) | Packet::HandshakeResponse(_)) => {}
            Ok(Packet::PacketCookieReply(reply)) => return index_of(reply.receiver_idx),
            Ok(Packet::PacketData(data)) => return index_of(data.receiver_idx),
        }
        let mut load = self.load();
        let is_without_cookie = is_without_cookie(datagram);
        let has_time = load.begin(is_without_cookie);
        // What the kernel leaves of a flood ends here for the most part, before any cryptography.
        if is_without_cookie && !has_time {
            return Addressed::Refused(Drop::UnderLoad);
        }
        let is_high = load.is_high();
        let own = self.addressed_key(source, datagram);
        let packet = match own.limiter(is_high).verify_packet(Some(source), datagram, out) {
            Ok(packet) => packet,
            Err(TunnResult::WriteToNetwork(cookie)) => {
                load.count();
                return if has_time { Addressed::Cookie(cookie) } else { Addressed::Refused(Drop::UnderLoad) };
            }
            Err(TunnResult::Err(error)) => return Addressed::Refused(refusal(&error)),
            Err(_) => return Addressed::Refused(Drop::NotWireGuard),
        };
        load.count();
        if is_high && !load.may_pass(source) {
            return Addressed::Refused(Drop::TooManyHandshakes);
        }
        match packet {
            Packet::HandshakeInit(initiation) => match parse_handshake_anon(&own.secret, &own.public, &initiation) {
                Ok(half) => Addressed::Key(Pair {
                    own: PublicKey(own.public.to_bytes()),
                    theirs: PublicKey(half.peer_static_public),
                }),
                Err(_) => Addressed::Refused(Drop::NotAuthentic),
            },
            Packet::HandshakeResponse(response) => index_of(response.receiver_idx),
            Packet::PacketCookieReply(_) | Packet::PacketData(_) => Addressed::Refused(Drop::NotWireGuard),
        }
    }

    /// Finds the key of ours by which a handshake's sender knows this site: MAC1 says so.
    fn addressed_key(&self, source: IpAddr, datagram: &[u8]) -> &OwnKey {
        let Some(older) = &self.older else { return &self.newest };
        let mut unused = [0; super::REPLY_BYTES_MAX];
        let verified = self.newest.limiter.verify_packet(Some(source), datagram, &mut unused);
        let is_for_another = matches!(verified, Err(TunnResult::Err(WireGuardError::InvalidMac)));
        if is_for_another { older } else { &self.newest }
    }

    /// Notes how long the last message took that [`Identity::handle_datagram`] was given, with all that came of it.
    pub fn spent(&self, time: Duration) {
        self.load().spend(time);
    }

    /// Begins to count the next second's handshakes; called once a second. Says what the kernel is to drop in it.
    pub fn handle_second(&self) -> Thinning {
        self.load().next_second()
    }

    /// Gives handshakes time for the next tick.
    pub fn handle_tick(&self) {
        self.load().next_tick();
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether MAC2 is zero, as it is without a cookie (WireGuard paper, section 5.4.4).
fn is_without_cookie(handshake: &[u8]) -> bool {
    handshake.last_chunk::<MAC_BYTES>() == Some(&[0; MAC_BYTES])
}

fn index_of<'a>(receiver_index: u32) -> Addressed<'a> {
    Addressed::Index(receiver_index >> INDEX_BITS_OF_SESSION)
}
