//! This site's static key, and whom a datagram is for: what is looked at before any state of a peer is touched.
//!
//! It never touches a socket. Rules: WireGuard paper, sections 5.3 and 5.4; with `peer` the only user of boringtun.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use super::refusal;
use crate::config::{PublicKey, SecretKey};
use crate::tunnel::drops::Drop;

/// Handshake messages a second before cookies are asked for. `Tunn` counts an initiation a second time after
/// [`Identity::handle_datagram`] has, so this is twice the hundred a second that are let through.
pub(super) const HANDSHAKES_PER_SECOND: u64 = 200;
/// Peer indices have 24 bits; the low 8 bits of a session's index are `Tunn`'s.
pub(super) const INDEX_BITS_OF_SESSION: u32 = 8;

/// Is this site's static key and the limiter of handshakes that all peers share.
pub struct Identity {
    pub(super) secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    pub(super) limiter: Arc<RateLimiter>,
}

/// Says whom a datagram is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Addressed<'a> {
    /// An initiation that claims this static key.
    Key(PublicKey),
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
        let secret = x25519::StaticSecret::from(*secret.expose());
        let public = x25519::PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND));
        Self { secret, public, limiter }
    }

    /// Returns the public key of this site.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.public.to_bytes())
    }

    /// Finds out whom a datagram is for, before any state of a peer is touched.
    ///
    /// An initiation passes MAC1 (and a cookie, under load) before its static key is decrypted.
    pub fn handle_datagram<'a>(&self, source: IpAddr, datagram: &[u8], out: &'a mut [u8]) -> Addressed<'a> {
        let initiation = match Tunn::parse_incoming_packet(datagram) {
            Err(_) => return Addressed::Refused(Drop::NotWireGuard),
            Ok(Packet::HandshakeInit(_)) => self.limiter.verify_packet(Some(source), datagram, out),
            Ok(Packet::HandshakeResponse(response)) => return index_of(response.receiver_idx),
            Ok(Packet::PacketCookieReply(reply)) => return index_of(reply.receiver_idx),
            Ok(Packet::PacketData(data)) => return index_of(data.receiver_idx),
        };
        match initiation {
            Ok(Packet::HandshakeInit(initiation)) => {
                match parse_handshake_anon(&self.secret, &self.public, &initiation) {
                    Ok(half) => Addressed::Key(PublicKey(half.peer_static_public)),
                    Err(_) => Addressed::Refused(Drop::NotAuthentic),
                }
            }
            Err(TunnResult::WriteToNetwork(cookie)) => Addressed::Cookie(cookie),
            Err(TunnResult::Err(error)) => Addressed::Refused(refusal(&error)),
            Ok(_) | Err(_) => Addressed::Refused(Drop::NotWireGuard),
        }
    }

    /// Lets the limiter count the next second; called once a second.
    pub fn handle_second(&self) {
        self.limiter.reset_count();
    }
}

fn index_of<'a>(receiver_index: u32) -> Addressed<'a> {
    Addressed::Index(receiver_index >> INDEX_BITS_OF_SESSION)
}
