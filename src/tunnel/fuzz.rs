//! Checks the tunnel's promises on any bytes: the bodies of two fuzz targets, and of the tests that replay their corpora.
//!
//! Panics where a promise is broken, and only there; production code never calls it. It judges what passed by the raw
//! bytes (RFC 791, RFC 8200, RFC 9293), not by the parser that the filter uses.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::allowed_ips::AllowedIps;
use super::filter::{PeerRules, Verdict, Whose, judge};
use super::packet::{IpPacket, reset_for};
use super::peer::{Action, Addressed, BUFFER_BYTES, DATAGRAM_BYTES_MAX, Identity, OVERHEAD_BYTES, Peer};
use crate::config::{self, Name, PublicKey, SecretKey};

/// Are this site's inner addresses.
const OURS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 98, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1))];
/// Are the ports that the peer may open.
const PORTS: [u16; 2] = [2570, 2576];
/// Is where the datagrams come from.
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
/// Are the secret keys and indices of this site and its peer.
const SITE: (u8, u32) = (1, 0x0a_0b0c);
const PEER: (u8, u32) = (2, 0x01_0203);
const MTU_BYTES: usize = 1420;
/// Bounds the inner packet, in bytes: what fits a datagram with its overhead.
const INNER_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - OVERHEAD_BYTES;

/// Takes `data` for a datagram from the network, before and after there is a session; then for changes to genuine
/// datagrams; then for what an authenticated peer sends.
///
/// # Panics
///
/// Panics where something passes that must not.
pub fn fuzz_datagram(data: &[u8]) {
    let (Some(mut site), Some(mut peer)) = (End::new(SITE, PEER.0), End::new(PEER, SITE.0)) else { return };
    let passed = site.receive(data);
    assert!(passed.is_none(), "a packet passed without a session");
    change_handshake(&mut site, &mut peer, data);
    let established = site.connect(&mut peer);
    assert!(established, "a datagram from anybody keeps a session from beginning");
    let passed = site.receive(data);
    assert!(passed.is_none(), "a datagram from anybody passed as the peer's");
    let inner = data.get(..INNER_BYTES_MAX).unwrap_or(data);
    if let Some(datagram) = peer.send(inner).filter(|_| !inner.is_empty()) {
        if let Some(changed) = changed(&datagram, data) {
            assert!(site.receive(&changed).is_none(), "a changed datagram passed");
        }
        if let Some(arrived) = site.receive(&datagram) {
            assert!(inner.starts_with(&arrived) || arrived.starts_with(inner), "the cipher changed the packet");
            let padding = arrived.iter().skip(inner.len());
            assert!(padding.into_iter().all(|byte| *byte == 0), "the padding shows what was in the buffer");
            check(&arrived);
        }
        assert!(site.receive(&datagram).is_none(), "a replay passed");
    }
}

/// Takes `data` for an inner packet: through the source check, the filter and the RST that answers it.
///
/// # Panics
///
/// Panics where something passes that must not.
pub fn fuzz_inner_packet(data: &[u8]) {
    check(data);
}

/// Hands over a changed initiation, and a changed response.
fn change_handshake(site: &mut End, peer: &mut End, data: &[u8]) {
    let Some(initiation) = peer.peer.initiate(&mut peer.out).map(<[u8]>::to_vec) else { return };
    if let Some(initiation) = changed(&initiation, data) {
        // What lies in the last 16 bytes is the cookie's: nobody looks at it unless cookies are asked for.
        site.receive(&initiation);
    }
    let response = site.peer.initiate(&mut site.out).map(<[u8]>::to_vec).and_then(|datagram| peer.reply_to(&datagram));
    if let Some(response) = response.and_then(|response| changed(&response, data)) {
        site.receive(&response);
    }
}

/// Combines a datagram with bytes: the first says where they go. `None` where nothing changes.
fn changed(datagram: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let (at, bytes) = data.split_first()?;
    let mut changed = datagram.to_vec();
    for (byte, change) in changed.iter_mut().skip(usize::from(*at)).zip(bytes) {
        *byte ^= change;
    }
    (changed != datagram).then_some(changed)
}

/// Is a site with one peer.
struct End {
    identity: Identity,
    peer: Peer,
    out: Vec<u8>,
}

impl End {
    fn new((secret, index): (u8, u32), other: u8) -> Option<Self> {
        let identity = Identity::new(&SecretKey::new([secret; 32]));
        let public_key = Identity::new(&SecretKey::new([other; 32])).public_key();
        let peer = Peer::new(&identity, &configured(public_key)?, index);
        Some(Self { identity, peer, out: vec![0; BUFFER_BYTES] })
    }

    /// Completes a handshake that this end begins; tells whether both have the session.
    fn connect(&mut self, other: &mut Self) -> bool {
        let initiation = self.peer.initiate(&mut self.out).map(<[u8]>::to_vec);
        let response = initiation.and_then(|datagram| other.reply_to(&datagram));
        let keepalive = response.and_then(|datagram| self.reply_to(&datagram));
        keepalive.is_some_and(|datagram| {
            other.reply_to(&datagram);
            self.peer.has_session() && other.peer.has_session()
        })
    }

    fn reply_to(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        match self.peer.handle_datagram(SOURCE, datagram, Instant::now(), 0, &mut self.out).action {
            Action::Reply(reply) => Some(reply.to_vec()),
            _ => None,
        }
    }

    /// Does with a datagram what the driver does, and returns the inner packet.
    fn receive(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        match self.identity.handle_datagram(SOURCE, datagram, &mut self.out) {
            Addressed::Key(_) => {}
            Addressed::Index(index) => assert!(index <= 0x00ff_ffff, "an index has 24 bits"),
            Addressed::Cookie(_) | Addressed::Refused(_) => return None,
        }
        // Whomever it names: the peer must cope with any datagram.
        let received = self.peer.handle_datagram(SOURCE, datagram, Instant::now(), 0, &mut self.out);
        match received.action {
            Action::Packet(packet) => Some(packet.to_vec()),
            Action::None | Action::Reply(_) | Action::Refused(_) => None,
        }
    }

    fn send(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0xaa; BUFFER_BYTES];
        buffer.get_mut(..packet.len())?.copy_from_slice(packet);
        self.peer.handle_outgoing(&mut buffer, 0..packet.len(), MTU_BYTES, &mut self.out).map(<[u8]>::to_vec)
    }
}

fn configured(public_key: PublicKey) -> Option<config::Peer> {
    Some(config::Peer {
        name: Name::new("peer")?,
        public_key,
        first_key: public_key,
        next_key: None,
        knows_new_key: false,
        preshared_key: None,
        endpoint: None,
        allowed_ips: Vec::new(),
        address: None,
        persistent_keepalive: None,
        routed: false,
        host_access: false,
    })
}

/// Judges an inner packet as the driver does, and checks the judgement.
fn check(inner: &[u8]) {
    let Some(packet) = IpPacket::parse(inner) else { return };
    let rules = PeerRules { ports: HashSet::from(PORTS), ..PeerRules::default() };
    let is_ours = |address| OURS.contains(&address);
    let peers = peers_addresses();
    let whose = |address| match peers.owner(address) {
        _ if is_ours(address) => Whose::Ours,
        Some(()) => Whose::ThisPeers,
        None => Whose::Others,
    };
    match judge(&packet, &rules, whose, || false) {
        Verdict::Pass => assert!(may_pass(inner), "what must not pass, passed"),
        Verdict::Reset(_) => check_reset(&packet),
        Verdict::Drop(_) => {}
    }
    let routed = PeerRules { routed: true, ..rules };
    let local = packet.destination.is_loopback() || packet.destination.is_multicast();
    let passed = judge(&packet, &routed, whose, || false) == Verdict::Pass;
    assert!(!(passed && local), "a routed peer reached a local address");
    assert!(!passed || !is_ours(packet.destination) || may_pass(inner), "routed opened this host");
}

fn peers_addresses() -> AllowedIps<()> {
    let mut allowed = AllowedIps::new();
    for prefix in ["10.98.0.2/32", "fd98::2/128"] {
        if let Ok(prefix) = prefix.parse() {
            allowed.insert(prefix, ());
        }
    }
    allowed
}

/// Says by the raw bytes what may reach this host: TCP, but SYN only to offered ports, and ICMP; no fragments, no
/// options, no extension headers.
fn may_pass(bytes: &[u8]) -> bool {
    let (ours, protocol, rest) = match bytes {
        [0x45, _, _, _, _, _, high, low, _, protocol, _, _, _, _, _, _, 10, 98, 0, 1, rest @ ..] => {
            (high & 0x3f == 0 && *low == 0, *protocol, rest)
        }
        [first, _, _, _, _, _, next, _, rest @ ..] if first >> 4 == 6 => {
            let destination = rest.get(16..32).unwrap_or(&[]);
            (destination == Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1).octets(), *next, rest.get(32..).unwrap_or(&[]))
        }
        _ => return false,
    };
    let payload_may = match (protocol, rest) {
        (6, [_, _, high, low, _, _, _, _, _, _, _, _, _, flags, ..]) => {
            let opens = flags & 0x02 != 0 && flags & 0x10 == 0;
            flags & 0x16 != 0 && (!opens || PORTS.contains(&u16::from_be_bytes([*high, *low])))
        }
        (1, [kind, ..]) => matches!(kind, 0 | 3 | 8 | 11),
        (58, [kind, ..]) => matches!(kind, 1..=3 | 128 | 129),
        _ => false,
    };
    ours && payload_may
}

fn check_reset(refused: &IpPacket<'_>) {
    let mut out = [0; 64];
    let Some(length) = reset_for(refused, &mut out) else { return };
    let reset = out.get(..length).and_then(IpPacket::parse);
    let ends = reset.map(|reset| (reset.source, reset.destination, reset.total_bytes));
    assert!(ends == Some((refused.destination, refused.source, length)), "the RST goes astray");
    let swapped = reset.and_then(|reset| reset.tcp()).zip(refused.tcp()).is_some_and(|(reset, syn)| {
        (reset.source_port, reset.destination_port) == (syn.destination_port, syn.source_port) && !reset.opens()
    });
    assert!(swapped, "the RST answers another connection");
    assert!(reset.is_some_and(|reset| reset_for(&reset, &mut [0; 64]).is_none()), "a RST is answered");
}
