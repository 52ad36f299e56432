//! The ingress filter: what a peer's packet may do to this host (design: tunnel.md, "The filter").
//!
//! With a TUN device the host's kernel answers whatever comes out of the tunnel, its sshd too. So every inner packet
//! is judged before the kernel sees it. Pure; it never looks at TCP payload and holds no flow state: what is not a SYN
//! passes, and the kernel answers a segment of an unknown connection with RST.

use std::collections::HashSet;
use std::net::IpAddr;

use super::drops::Drop;
use super::packet::{ICMP, ICMPV6, IpPacket, TCP};

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

/// Judges a packet of a peer; the caller has checked that its source address is the peer's.
pub fn judge(packet: &IpPacket<'_>, rules: &PeerRules, is_ours: impl Fn(IpAddr) -> bool) -> Verdict {
    if !is_ours(packet.destination) {
        return if rules.routed && is_routable(packet.destination) {
            Verdict::Pass
        } else {
            Verdict::Drop(Drop::NotForUs)
        };
    }
    if rules.host_access {
        return Verdict::Pass;
    }
    if packet.fragment_or_options {
        return Verdict::Drop(Drop::Fragment);
    }
    match (packet.protocol, packet.destination) {
        (TCP, _) => judge_tcp(packet, rules),
        (ICMP, IpAddr::V4(_)) => judge_icmp(packet, is_ours),
        (ICMPV6, IpAddr::V6(_)) => judge_icmpv6(packet, is_ours),
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

fn judge_tcp(packet: &IpPacket<'_>, rules: &PeerRules) -> Verdict {
    match packet.tcp() {
        None => Verdict::Drop(Drop::Malformed),
        Some(tcp) if tcp.opens() && !rules.ports.contains(&tcp.destination_port) => {
            Verdict::Reset(Drop::PortNotOffered)
        }
        Some(_) => Verdict::Pass,
    }
}

/// RFC 792: echo both ways; unreachable and time exceeded where they quote a TCP or echo packet of ours.
fn judge_icmp(packet: &IpPacket<'_>, is_ours: impl Fn(IpAddr) -> bool) -> Verdict {
    let Some([kind, code, _, _, _, _, mtu_high, mtu_low]) = packet.payload.first_chunk::<8>() else {
        return Verdict::Drop(Drop::Malformed);
    };
    let mtu = u16::from_be_bytes([*mtu_high, *mtu_low]);
    let pass = match (kind, code) {
        (0 | 8, _) => true,
        (3, 4) => mtu >= IPV4_MTU_BYTES_MIN && quotes_ours(packet, is_ours),
        (3 | 11, _) => quotes_ours(packet, is_ours),
        _ => false,
    };
    if pass { Verdict::Pass } else { Verdict::Drop(Drop::IcmpNotAllowed) }
}

/// RFC 4443: echo both ways; errors where they quote a TCP or echo packet of ours. Neighbour and router discovery and
/// redirects (RFC 4861) have no business in a tunnel.
fn judge_icmpv6(packet: &IpPacket<'_>, is_ours: impl Fn(IpAddr) -> bool) -> Verdict {
    let Some([kind, _, _, _, mtu @ ..]) = packet.payload.first_chunk::<8>() else {
        return Verdict::Drop(Drop::Malformed);
    };
    let pass = match kind {
        128 | 129 => true,
        1 | 3 => quotes_ours(packet, is_ours),
        2 => u32::from_be_bytes(*mtu) >= IPV6_MTU_BYTES_MIN && quotes_ours(packet, is_ours),
        _ => false,
    };
    if pass { Verdict::Pass } else { Verdict::Drop(Drop::IcmpNotAllowed) }
}

fn quotes_ours(packet: &IpPacket<'_>, is_ours: impl Fn(IpAddr) -> bool) -> bool {
    packet.quoted().is_some_and(|quoted| is_ours(quoted.source) && matches!(quoted.protocol, TCP | ICMP | ICMPV6))
}

#[cfg(test)]
mod tests {
    use super::super::packet::UDP;
    use super::super::packet::tests::{ip_packet, tcp_packet};
    use super::*;

    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    const PEER: &str = "10.98.0.2";
    const OURS: &str = "10.98.0.1";

    fn rules() -> PeerRules {
        PeerRules { ports: HashSet::from([2570, 2576]), ..PeerRules::default() }
    }

    fn verdict_by(bytes: &[u8], rules: &PeerRules) -> Verdict {
        let ours: [IpAddr; 2] = [OURS.parse().unwrap(), "fd00::1".parse().unwrap()];
        judge(&IpPacket::parse(bytes).unwrap(), rules, |address| ours.contains(&address))
    }

    fn verdict(bytes: &[u8]) -> Verdict {
        verdict_by(bytes, &rules())
    }

    #[test]
    fn a_syn_reaches_offered_ports_only() {
        assert_eq!(verdict(&tcp_packet(PEER, OURS, (40000, 2570), SYN)), Verdict::Pass);
        assert_eq!(verdict(&tcp_packet("fd00::2", "fd00::1", (40000, 2576), SYN)), Verdict::Pass);
        assert_eq!(verdict(&tcp_packet(PEER, OURS, (40000, 22), SYN)), Verdict::Reset(Drop::PortNotOffered));
        let odd_flags = SYN | 0x01 | 0x08 | 0x20;
        assert_eq!(verdict(&tcp_packet(PEER, OURS, (40000, 22), odd_flags)), Verdict::Reset(Drop::PortNotOffered));
    }

    #[test]
    fn answers_and_later_segments_pass() {
        for flags in [SYN_ACK, 0x10, 0x11, 0x04, 0x18] {
            assert_eq!(verdict(&tcp_packet(PEER, OURS, (2575, 40000), flags)), Verdict::Pass);
        }
    }

    #[test]
    fn other_destinations_need_routed() {
        let packet = tcp_packet(PEER, "192.168.10.40", (40000, 2570), SYN);
        assert_eq!(verdict(&packet), Verdict::Drop(Drop::NotForUs));
        let routed = PeerRules { routed: true, ..rules() };
        assert_eq!(verdict_by(&packet, &routed), Verdict::Pass);
        for local in ["127.0.0.1", "224.0.0.1", "169.254.1.1", "255.255.255.255", "0.0.0.0"] {
            let packet = tcp_packet(PEER, local, (40000, 22), SYN);
            assert_eq!(verdict_by(&packet, &routed), Verdict::Drop(Drop::NotForUs), "{local}");
        }
        let own = tcp_packet(PEER, OURS, (40000, 22), SYN);
        assert_eq!(verdict_by(&own, &routed), Verdict::Reset(Drop::PortNotOffered), "routed is not host_access");
    }

    #[test]
    fn host_access_opens_this_host() {
        let open = PeerRules { host_access: true, ..rules() };
        assert_eq!(verdict_by(&tcp_packet(PEER, OURS, (40000, 22), SYN), &open), Verdict::Pass);
        assert_eq!(verdict_by(&ip_packet(PEER, OURS, UDP, &[0; 8]), &open), Verdict::Pass);
    }

    #[test]
    fn udp_and_other_protocols_are_dropped() {
        for protocol in [UDP, 2, 47, 50, 132] {
            let packet = ip_packet(PEER, OURS, protocol, &[0; 20]);
            assert_eq!(verdict(&packet), Verdict::Drop(Drop::ProtocolNotAllowed), "{protocol}");
        }
        for extension in [0, 43, 44, 60] {
            let packet = ip_packet("fd00::2", "fd00::1", extension, &[0; 20]);
            assert_eq!(verdict(&packet), Verdict::Drop(Drop::ProtocolNotAllowed), "{extension}");
        }
    }

    #[test]
    fn fragments_and_options_are_dropped() {
        let mut packet = tcp_packet(PEER, OURS, (40000, 2570), 0x10);
        packet[6] = 0x20; // more fragments
        assert_eq!(verdict(&packet), Verdict::Drop(Drop::Fragment));
        packet[6] = 0x40; // do not fragment
        assert_eq!(verdict(&packet), Verdict::Pass);
    }

    #[test]
    fn a_tcp_header_cut_short_is_dropped() {
        let packet = ip_packet(PEER, OURS, TCP, &[0; 19]);
        assert_eq!(verdict(&packet), Verdict::Drop(Drop::Malformed));
    }

    fn icmp(kind: u8, code: u8, word: [u8; 4], quoted: &[u8]) -> Vec<u8> {
        let payload = [&[kind, code, 0, 0][..], &word, quoted].concat();
        ip_packet(PEER, OURS, ICMP, &payload)
    }

    #[test]
    fn icmp_passes_where_it_concerns_us() {
        let own = tcp_packet(OURS, PEER, (40000, 2570), SYN);
        let foreign = tcp_packet("10.98.0.9", PEER, (40000, 2570), SYN);
        let denied = Verdict::Drop(Drop::IcmpNotAllowed);
        assert_eq!(verdict(&icmp(8, 0, [0; 4], &[])), Verdict::Pass, "echo");
        assert_eq!(verdict(&icmp(3, 1, [0; 4], &own[..28])), Verdict::Pass, "host unreachable for our flow");
        assert_eq!(verdict(&icmp(3, 1, [0; 4], &foreign)), denied, "for another's flow");
        assert_eq!(verdict(&icmp(3, 4, [0, 0, 2, 64], &own)), Verdict::Pass, "MTU 576");
        assert_eq!(verdict(&icmp(3, 4, [0, 0, 2, 63], &own)), denied, "MTU 575");
        assert_eq!(verdict(&icmp(5, 1, [0; 4], &own)), denied, "redirect");
        assert_eq!(verdict(&icmp(13, 0, [0; 4], &own)), denied, "timestamp");
    }

    #[test]
    fn icmpv6_passes_where_it_concerns_us() {
        let own = tcp_packet("fd00::1", "fd00::2", (40000, 2570), SYN);
        let message = |kind: u8, word: [u8; 4]| {
            ip_packet("fd00::2", "fd00::1", ICMPV6, &[&[kind, 0, 0, 0][..], &word, &own].concat())
        };
        let denied = Verdict::Drop(Drop::IcmpNotAllowed);
        assert_eq!(verdict(&message(128, [0; 4])), Verdict::Pass);
        assert_eq!(verdict(&message(2, [0, 0, 5, 0])), Verdict::Pass, "MTU 1280");
        assert_eq!(verdict(&message(2, [0, 0, 4, 255])), denied, "MTU 1279");
        for kind in [133, 134, 135, 136, 137] {
            assert_eq!(verdict(&message(kind, [0; 4])), denied, "neighbour discovery {kind}");
        }
    }
}
