//! The filter case by case, and any TCP segment against a predicate written from the rules' words.

use proptest::prelude::*;

use super::super::packet::UDP;
use super::super::packet::tests::{ip_packet, tcp_packet};
use super::*;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const PEER: &str = "10.98.0.2";
const OURS: &str = "10.98.0.1";
/// This host's address on another interface.
const HOSTS: &str = "192.0.2.7";

fn rules() -> PeerRules {
    PeerRules { ports: HashSet::from([2570, 2576]), ..PeerRules::default() }
}

fn judged(bytes: &[u8], rules: &PeerRules, is_answer: bool) -> Verdict {
    let ours: [IpAddr; 2] = [OURS.parse().unwrap(), "fd00::1".parse().unwrap()];
    let theirs: [IpAddr; 2] = [PEER.parse().unwrap(), "fd00::2".parse().unwrap()];
    let whose = |address| match address {
        address if ours.contains(&address) => Whose::Ours,
        address if theirs.contains(&address) => Whose::ThisPeers,
        address if address.to_string() == HOSTS => Whose::Hosts,
        _ => Whose::Others,
    };
    judge(&IpPacket::parse(bytes).unwrap(), rules, whose, || is_answer)
}

fn verdict_by(bytes: &[u8], rules: &PeerRules) -> Verdict {
    judged(bytes, rules, false)
}

fn verdict(bytes: &[u8]) -> Verdict {
    verdict_by(bytes, &rules())
}

#[test]
fn a_source_must_be_the_peers_own() {
    let denied = Verdict::Drop(Drop::SourceNotAllowed);
    assert_eq!(verdict(&tcp_packet("10.98.0.9", OURS, (40000, 2570), SYN)), denied);
    assert_eq!(verdict(&tcp_packet(OURS, OURS, (40000, 2570), SYN)), denied, "not ours either");
    let open = PeerRules { host_access: true, routed: true, ..rules() };
    assert_eq!(verdict_by(&tcp_packet("10.98.0.9", OURS, (40000, 2570), SYN), &open), denied);
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
fn routed_does_not_open_this_hosts_other_addresses() {
    let routed = PeerRules { routed: true, ..rules() };
    for port in [22, 2570] {
        let packet = tcp_packet(PEER, HOSTS, (40000, port), SYN);
        assert_eq!(verdict_by(&packet, &routed), Verdict::Reset(Drop::PortNotOffered), "{port}");
        assert_eq!(verdict(&packet), Verdict::Drop(Drop::NotForUs), "{port}");
    }
    let udp = ip_packet(PEER, HOSTS, UDP, &[0; 8]);
    assert_eq!(verdict_by(&udp, &routed), Verdict::Drop(Drop::ProtocolNotAllowed));
    let answer = tcp_packet(PEER, HOSTS, (2575, 40000), SYN_ACK);
    assert_eq!(verdict_by(&answer, &routed), Verdict::Pass, "of a connection that this host began");
    let open = PeerRules { host_access: true, ..routed };
    assert_eq!(verdict_by(&udp, &open), Verdict::Pass);
    assert_eq!(verdict_by(&tcp_packet(PEER, HOSTS, (40000, 22), SYN), &open), Verdict::Pass);
}

#[test]
fn host_access_opens_this_host() {
    let open = PeerRules { host_access: true, ..rules() };
    assert_eq!(verdict_by(&tcp_packet(PEER, OURS, (40000, 22), SYN), &open), Verdict::Pass);
    assert_eq!(verdict_by(&ip_packet(PEER, OURS, UDP, &[0; 8]), &open), Verdict::Pass);
}

#[test]
fn udp_that_answers_this_host_passes_where_the_peer_is_routed() {
    let routed = PeerRules { routed: true, ..rules() };
    let denied = Verdict::Drop(Drop::ProtocolNotAllowed);
    for destination in [OURS, HOSTS] {
        let answer = ip_packet(PEER, destination, UDP, &[0; 8]);
        assert_eq!(judged(&answer, &routed, true), Verdict::Pass, "{destination}");
        assert_eq!(judged(&answer, &routed, false), denied, "{destination}");
    }
    let mut answer = ip_packet(PEER, OURS, UDP, &[0; 8]);
    assert_eq!(judged(&answer, &rules(), true), denied, "not of other peers");
    assert_eq!(judged(&ip_packet(PEER, OURS, 132, &[0; 8]), &routed, true), denied, "nor of other protocols");
    answer[6] = 0x20;
    assert_eq!(judged(&answer, &routed, true), Verdict::Drop(Drop::Fragment));
}

#[test]
fn segments_that_no_connection_has_tell_nothing_of_ports() {
    let routed = PeerRules { routed: true, ..rules() };
    // NULL, FIN, Xmas, URG and PSH; at an offered port too, where a connection would answer none
    for (flags, port) in [0x00, 0x01, 0x29, 0x28].into_iter().flat_map(|flags| [(flags, 22), (flags, 2570)]) {
        for destination in [OURS, HOSTS] {
            let segment = tcp_packet(PEER, destination, (40000, port), flags);
            assert_eq!(verdict_by(&segment, &routed), Verdict::Drop(Drop::FlagsNotAllowed), "{flags:#x} {port}");
        }
    }
    let behind = tcp_packet(PEER, "192.168.10.40", (40000, 22), 0x01);
    assert_eq!(verdict_by(&behind, &routed), Verdict::Pass, "what lies behind this host is not this host's matter");
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
    let to_another = tcp_packet(OURS, "10.98.0.9", (40000, 2570), SYN);
    assert_eq!(verdict(&icmp(3, 4, [0, 0, 2, 64], &to_another)), denied, "for our flow to another peer");
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

/// Says in other words what the rules say of TCP: to an address of this site, anything that belongs to a connection and
/// does not open one, and whatever opens one to an offered port; to the world behind it, only for a routed peer.
fn reference(destination: IpAddr, port: u16, flags: u8, rules: &PeerRules) -> Verdict {
    let for_us = destination.to_string() == OURS || destination.to_string() == "fd00::1";
    let syn_alone = flags & 0b1_0010 == 0b10;
    if for_us {
        if !rules.host_access && flags & 0b1_0110 == 0 {
            return Verdict::Drop(Drop::FlagsNotAllowed);
        }
        let welcome = rules.host_access || !syn_alone || rules.ports.iter().any(|offered| *offered == port);
        return if welcome { Verdict::Pass } else { Verdict::Reset(Drop::PortNotOffered) };
    }
    let local = ["127.", "169.254.", "224.", "239.", "255.255.255.255", "0.0.0.0", "::1", "fe80:", "ff02:"];
    let text = destination.to_string();
    let routable = !(text == "::" || local.iter().any(|prefix| text.starts_with(prefix)));
    if rules.routed && routable { Verdict::Pass } else { Verdict::Drop(Drop::NotForUs) }
}

fn destinations() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        OURS,
        OURS,
        OURS,
        "fd00::1",
        "fd00::1",
        "10.98.0.2",
        "10.98.0.0",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.9.9",
        "224.0.0.5",
        "239.1.1.1",
        "255.255.255.255",
        "0.0.0.0",
        "fd00::2",
        "2001:db8::1",
        "fe80::1",
        "ff02::1",
        "::1",
        "::",
    ])
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![prop::sample::select(vec![2570, 2576, 22, 2571, 0, 65_535]), any::<u16>()]
}

proptest! {
    #[test]
    fn any_tcp_segment_is_judged_as_the_rules_say(
        destination in destinations(),
        destination_port in ports(),
        source_port in ports(),
        flags in any::<u8>(),
        offered in prop::collection::hash_set(ports(), 0..4),
        routed in any::<bool>(),
        host_access in any::<bool>(),
    ) {
        let source = if destination.contains(':') { "fd00::2" } else { PEER };
        let packet = tcp_packet(source, destination, (source_port, destination_port), flags);
        let rules = PeerRules { ports: offered, routed, host_access };
        let expected = reference(destination.parse().unwrap(), destination_port, flags, &rules);
        prop_assert_eq!(verdict_by(&packet, &rules), expected);
    }

    #[test]
    fn any_bytes_that_pass_are_no_fragment_and_for_us(
        mut header in prop::collection::vec(any::<u8>(), 60),
        version in prop::sample::select(vec![0x45u8, 0x46, 0x60]),
        protocol in prop::sample::select(vec![TCP, ICMP, ICMPV6, UDP, 44, 0]),
        flags_and_offset in prop::sample::select(vec![0u16, 0x4000, 0x2000, 0x0001, 0x1fff, 0x8000]),
    ) {
        header[0] = version;
        if version == 0x60 {
            header[4..6].copy_from_slice(&20u16.to_be_bytes());
            header[6] = protocol;
            header[24..40].copy_from_slice(&"fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        } else {
            header[2..4].copy_from_slice(&60u16.to_be_bytes());
            header[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
            header[9] = protocol;
            header[16..20].copy_from_slice(&[10, 98, 0, 1]);
        }
        if verdict(&header) == Verdict::Pass {
            let fragment = version == 0x45 && flags_and_offset & 0x3fff != 0;
            prop_assert!(version != 0x46 && !fragment);
            prop_assert!(matches!((version, protocol), (_, TCP) | (0x45, ICMP) | (0x60, ICMPV6)));
        }
    }
}
