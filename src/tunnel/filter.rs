//! The ingress filter: what a peer's packet may do to this host (design: tunnel.md, "The filter").
//!
//! With a TUN device the host's kernel answers whatever comes out of the tunnel, its sshd too. So every inner packet
//! is judged before the kernel sees it. Pure; it never looks at TCP payload and holds no flow state: of TCP what is not a
//! SYN passes, and the kernel answers a segment of an unknown connection with RST; which UDP is an answer `flows` knows.

use std::collections::HashSet;
use std::net::IpAddr;

use super::drops::Drop;
use super::packet::{ICMP, ICMPV6, IpPacket, TCP, UDP};

/// The least next-hop MTU that an ICMP "fragmentation needed" may name (RFC 791: 576 bytes everybody takes).
const IPV4_MTU_BYTES_MIN: u16 = 576;
/// The least MTU that an ICMPv6 "packet too big" may name (RFC 8200, section 5).
const IPV6_MTU_BYTES_MIN: u32 = 1280;

/// Says what one peer may do here.
#[derive(Debug, Clone, Default)]
pub struct PeerRules {
    /// Lists the TCP ports that the peer may open a connection to.
    pub ports: HashSet<u16>,
    /// Lets the peer reach addresses behind this site.
    pub routed: bool,
    /// Lets the peer reach this host's own ports.
    pub host_access: bool,
}

/// Is the judgement on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Goes to the interface.
    Pass,
    /// Is dropped and counted.
    Drop(Drop),
    /// Is dropped and counted, and its sender may be told by a RST.
    Reset(Drop),
}

/// Says whose an inner address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This site's own, on the tunnel interface.
    Ours,
    /// This host's, on another interface.
    Hosts,
    /// The peer's that sent the packet, by the longest prefix.
    ThisPeers,
    /// Another peer's or nobody's.
    Others,
}

/// Judges a packet of a peer; `is_answer` tells whether it is UDP that answers what this host sent to that very peer.
pub fn judge(
    packet: &IpPacket<'_>,
    rules: &PeerRules,
    whose: impl Fn(IpAddr) -> Whose,
    is_answer: impl FnOnce() -> bool,
) -> Verdict {
    if whose(packet.source) != Whose::ThisPeers {
        return Verdict::Drop(Drop::SourceNotAllowed);
    }
    let destination = whose(packet.destination);
    if destination != Whose::Ours && !(rules.routed && is_routable(packet.destination)) {
        return Verdict::Drop(Drop::NotForUs);
    }
    // What is routed lies behind this host: its own other addresses are no more open than the tunnel's.
    if rules.host_access || !matches!(destination, Whose::Ours | Whose::Hosts) {
        return Verdict::Pass;
    }
    if packet.fragment_or_options {
        return Verdict::Drop(Drop::Fragment);
    }
    match (packet.protocol, packet.destination) {
        (TCP, _) => judge_tcp(packet, rules, destination),
        (ICMP, IpAddr::V4(_)) => judge_icmp(packet, whose),
        (ICMPV6, IpAddr::V6(_)) => judge_icmpv6(packet, whose),
        // Whoever sends everything into the tunnel has its name servers and clocks behind it.
        (UDP, _) if rules.routed && is_answer() => Verdict::Pass,
        _ => Verdict::Drop(Drop::ProtocolNotAllowed),
    }
}

/// Tells whether an address may lie behind this site: not loopback, link-local, multicast or unspecified.
fn is_routable(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

/// Services are offered at the tunnel's addresses only.
fn judge_tcp(packet: &IpPacket<'_>, rules: &PeerRules, destination: Whose) -> Verdict {
    let is_offered = |port| destination == Whose::Ours && rules.ports.contains(&port);
    match packet.tcp() {
        None => Verdict::Drop(Drop::Malformed),
        // No connection has such a segment (RFC 9293, section 3.10.7): a closed port answers it, an open one does not.
        Some(tcp) if !tcp.has_meaning() => Verdict::Drop(Drop::FlagsNotAllowed),
        Some(tcp) if tcp.opens() && !is_offered(tcp.destination_port) => Verdict::Reset(Drop::PortNotOffered),
        Some(_) => Verdict::Pass,
    }
}

/// RFC 792: echo both ways; unreachable and time exceeded where they quote a TCP or echo packet of ours.
fn judge_icmp(packet: &IpPacket<'_>, whose: impl Fn(IpAddr) -> Whose) -> Verdict {
    let Some([kind, code, _, _, _, _, mtu_high, mtu_low]) = packet.payload.first_chunk::<8>() else {
        return Verdict::Drop(Drop::Malformed);
    };
    let mtu = u16::from_be_bytes([*mtu_high, *mtu_low]);
    let pass = match (kind, code) {
        (0 | 8, _) => true,
        (3, 4) => mtu >= IPV4_MTU_BYTES_MIN && quotes_our_flow(packet, whose),
        (3 | 11, _) => quotes_our_flow(packet, whose),
        _ => false,
    };
    if pass { Verdict::Pass } else { Verdict::Drop(Drop::IcmpNotAllowed) }
}

/// RFC 4443: echo both ways; errors where they quote a TCP or echo packet of ours. Neighbour and router discovery and
/// redirects (RFC 4861) have no business in a tunnel.
fn judge_icmpv6(packet: &IpPacket<'_>, whose: impl Fn(IpAddr) -> Whose) -> Verdict {
    let Some([kind, _, _, _, mtu @ ..]) = packet.payload.first_chunk::<8>() else {
        return Verdict::Drop(Drop::Malformed);
    };
    let pass = match kind {
        128 | 129 => true,
        1 | 3 => quotes_our_flow(packet, whose),
        2 => u32::from_be_bytes(*mtu) >= IPV6_MTU_BYTES_MIN && quotes_our_flow(packet, whose),
        _ => false,
    };
    if pass { Verdict::Pass } else { Verdict::Drop(Drop::IcmpNotAllowed) }
}

/// Tells whether an ICMP error is about what we sent to this very peer: none may speak for another.
fn quotes_our_flow(packet: &IpPacket<'_>, whose: impl Fn(IpAddr) -> Whose) -> bool {
    packet.quoted().is_some_and(|quoted| {
        matches!(whose(quoted.source), Whose::Ours | Whose::Hosts)
            && whose(quoted.destination) == Whose::ThisPeers
            && matches!(quoted.protocol, TCP | ICMP | ICMPV6)
    })
}

#[cfg(test)]
mod tests;
