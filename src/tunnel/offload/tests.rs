//! What is split and joined, and above all what is not: packets as the kernel and a peer would hand them over.

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::tunnel::packet::tests::{ip_packet, tcp_packet};
use crate::tunnel::packet::{IpPacket, TCP, UDP};

const V4: (&str, &str) = ("10.98.0.2", "10.98.0.1");
const V6: (&str, &str) = ("fd00::2", "fd00::1");
const SEQUENCE: u32 = u32::MAX - 1500;

/// Is a TCP packet with data and good sums.
fn segment((source, destination): (&str, &str), sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = tcp_packet(source, destination, (40_000, 2570), flags);
    let at = packet.len() - TCP_HEADER_BYTES;
    packet[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(payload);
    with_good_sums(packet)
}

/// Sets the lengths and sums to what they must be.
fn with_good_sums(mut packet: Vec<u8>) -> Vec<u8> {
    let (at, total) = if packet[0] >> 4 == 4 { (20, packet.len()) } else { (40, packet.len() - 40) };
    let length_at = if at == 20 { 2 } else { 4 };
    packet[length_at..length_at + 2].copy_from_slice(&u16::try_from(total).unwrap().to_be_bytes());
    if at == 20 {
        packet[10..12].fill(0);
        let sum = !ones_sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet[at + TCP_CHECKSUM_AT..at + TCP_CHECKSUM_AT + 2].fill(0);
    let sum = !transport_sum(&packet, at);
    packet[at + TCP_CHECKSUM_AT..at + TCP_CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Is the sum of RFC 1071, the plain way, and none of the code that is tested.
fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// Sums a transport segment with its pseudo-header; all ones where the checksum in it is right.
fn transport_sum(packet: &[u8], at: usize) -> u16 {
    let (addresses, protocol) = if at == 20 { (12..20, packet[9]) } else { (8..40, packet[6]) };
    let mut bytes = packet[addresses].to_vec();
    bytes.extend(u32::try_from(packet.len() - at).unwrap().to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(&packet[at..]);
    ones_sum(&bytes)
}

/// Is what the kernel hands over for data of TCP that it has not cut.
fn super_packet(family: (&str, &str), flags: u8, payload: &[u8], segment_bytes: u16) -> (VnetHeader, Vec<u8>) {
    let packet = segment(family, SEQUENCE, flags, payload);
    let at = packet.len() - payload.len() - TCP_HEADER_BYTES;
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        kind: if at == 20 { KIND_TCP_V4 } else { KIND_TCP_V6 },
        header_bytes: u16::try_from(at + TCP_HEADER_BYTES).unwrap(),
        segment_bytes,
        checksum_start: u16::try_from(at).unwrap(),
        checksum_offset: 16,
    };
    (header, packet)
}

fn split_all(header: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = packet.to_vec();
    let mut split = Split::new(header, &packet).expect("a super-packet");
    std::iter::from_fn(|| split.next(&mut packet).map(|range| packet[range].to_vec())).collect()
}

/// Lays packets one behind the other, as decryption does.
fn lay(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut buffer = Vec::new();
    let ranges = packets.iter().map(|packet| {
        buffer.extend_from_slice(packet);
        buffer.len() - packet.len()..buffer.len()
    });
    let ranges = ranges.collect();
    (buffer, ranges)
}

/// Tells whether the second of two packets is joined to the first.
fn joins(first: Vec<u8>, second: Vec<u8>) -> bool {
    let (buffer, at) = lay(&[first, second]);
    Run::begin(&buffer, at[0].clone()).is_some_and(|mut run| run.join(&buffer, at[1].clone()))
}

#[test]
fn a_super_packet_becomes_segments_with_their_own_headers() {
    for family in [V4, V6] {
        let payload: Vec<u8> = (0..2500u16).map(|at| at.to_be_bytes()[1]).collect();
        let (header, packet) = super_packet(family, ACK | PSH | FIN | CWR, &payload, 1000);
        let segments = split_all(&header, &packet);
        let at = usize::from(header.checksum_start);
        assert_eq!(segments.iter().map(|one| one.len() - at - 20).collect::<Vec<_>>(), [1000, 1000, 500]);
        assert_eq!(segments.iter().flat_map(|one| one[at + 20..].to_vec()).collect::<Vec<_>>(), payload);
        let flags: Vec<u8> = segments.iter().map(|one| one[at + 13]).collect();
        assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN], "CWR on the first, PSH and FIN on the last");
        for (index, one) in (0u32..).zip(&segments) {
            let sequence = u32::from_be_bytes(one[at + 4..at + 8].try_into().unwrap());
            assert_eq!(sequence, SEQUENCE.wrapping_add(index * 1000), "it wraps");
            assert_eq!(transport_sum(one, at), 0xffff);
            assert_eq!(IpPacket::parse(one).unwrap().total_bytes, one.len());
            if at == 20 {
                assert_eq!(ones_sum(&one[..20]), 0xffff);
                assert_eq!(u32::from(u16::from_be_bytes([one[4], one[5]])), index, "identifications count up");
            }
        }
    }
}

#[test]
fn datagrams_of_udp_are_split_with_their_own_lengths() {
    for (source, destination) in [V4, V6] {
        let payload: Vec<u8> = (0..250).collect();
        let mut datagram = vec![0x9c, 0x40, 0x00, 0x35, 0, 0, 0, 0];
        datagram.extend_from_slice(&payload);
        let packet = ip_packet(source, destination, UDP, &datagram);
        let at = packet.len() - datagram.len();
        let start = u16::try_from(at).unwrap();
        let (header_bytes, flags) = (start + 8, NEEDS_CHECKSUM);
        let header = VnetHeader {
            flags,
            kind: KIND_UDP,
            header_bytes,
            segment_bytes: 100,
            checksum_start: start,
            checksum_offset: 6,
        };
        let segments = split_all(&header, &packet);
        assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [at + 108, at + 108, at + 58]);
        for one in &segments {
            assert_eq!(usize::from(u16::from_be_bytes([one[at + 4], one[at + 5]])), one.len() - at);
            assert_eq!(transport_sum(one, at), 0xffff);
        }
    }
}

#[test]
fn a_header_that_does_not_fit_its_packet_is_refused() {
    let (header, packet) = super_packet(V4, ACK, &[1; 100], 50);
    let refused: [(&str, VnetHeader); 5] = [
        ("no segments", VnetHeader { segment_bytes: 0, ..header }),
        ("another family", VnetHeader { kind: KIND_TCP_V6, ..header }),
        ("an unknown kind", VnetHeader { kind: 2, ..header }),
        ("inside the IP header", VnetHeader { checksum_start: 12, ..header }),
        ("behind the packet", VnetHeader { checksum_start: 130, ..header }),
    ];
    for (what, header) in refused {
        assert!(Split::new(&header, &packet).is_none(), "{what}");
    }
    assert!(Split::new(&header, &packet[..40]).is_none(), "no payload");
    let mut short = packet;
    short[32] = 0x40;
    assert!(Split::new(&header, &short).is_none(), "a TCP header of 16 bytes");
}

#[test]
fn a_checksum_that_the_kernel_left_is_completed() {
    for family in [V4, V6] {
        let whole = segment(family, 1, ACK, b"data");
        let at = whole.len() - 24;
        let (header, _) = super_packet(family, ACK, b"data", 4);
        let mut partial = whole.clone();
        // The kernel leaves the sum of the pseudo-header in the field.
        let pseudo = checksum::fold(checksum::pseudo(&whole[if at == 20 { 12..20 } else { 8..40 }], TCP, 24));
        partial[at + 16..at + 18].copy_from_slice(&pseudo.to_ne_bytes());
        complete_checksum(&VnetHeader { kind: KIND_NONE, ..header }, &mut partial).unwrap();
        assert_eq!(partial, whole);
    }
    let outside =
        VnetHeader { flags: NEEDS_CHECKSUM, checksum_start: 30, checksum_offset: 16, ..VnetHeader::default() };
    assert!(complete_checksum(&outside, &mut [0; 40]).is_none());
}

#[test]
fn consecutive_packets_of_one_flow_become_a_super_packet() {
    for family in [V4, V6] {
        let parts: Vec<Vec<u8>> = vec![vec![1; 1000], vec![2; 1000], vec![3; 700]];
        let sequence = |index: u32| SEQUENCE.wrapping_add(index * 1000);
        let flags = [ACK, ACK, ACK | PSH];
        let packets = (0u32..).zip(&parts).zip(flags).map(|((index, part), flags)| {
            let mut packet = segment(family, sequence(index), flags, part);
            if packet[0] == 0x45 {
                packet[5] = u8::try_from(index).unwrap();
            }
            with_good_sums(packet)
        });
        let packets: Vec<_> = packets.collect();
        let (mut buffer, at) = lay(&packets);
        let sent = buffer.clone();
        let mut run = Run::begin(&buffer, at[0].clone()).unwrap();
        assert!(run.join(&buffer, at[1].clone()) && run.join(&buffer, at[2].clone()));
        assert!(!run.join(&buffer, at[2].clone()), "a shorter one with PSH is the last");
        let header = run.complete(&mut buffer).unwrap();
        let whole: Vec<u8> = std::iter::once(run.first())
            .chain(run.payloads().iter().cloned())
            .flat_map(|part| buffer[part].to_vec())
            .collect();
        assert_eq!(split_all(&header, &whole), packets, "splitting gives the same packets");
        assert_eq!(IpPacket::parse(&whole).unwrap().total_bytes, whole.len());
        run.restore(&mut buffer).unwrap();
        assert_eq!(buffer, sent);
    }
}

#[test]
fn what_is_not_the_next_of_the_same_flow_is_not_joined() {
    for family in [V4, V6] {
        let at = if family == V4 { 20 } else { 40 };
        let first = segment(family, 1000, ACK, &[7; 100]);
        let next = segment(family, 1100, ACK, &[8; 100]);
        let changed = |index: usize, to: u8| {
            let mut packet = next.clone();
            packet[index] = to;
            with_good_sums(packet)
        };
        assert!(joins(first.clone(), next.clone()), "the base of all that follows");
        let mut others: Vec<(&str, Vec<u8>)> = vec![
            ("a gap", segment(family, 1101, ACK, &[8; 100])),
            ("a resent one", segment(family, 1000, ACK, &[8; 100])),
            ("a longer one", segment(family, 1100, ACK, &[8; 101])),
            ("no data", segment(family, 1100, ACK, &[])),
            ("another source port", changed(at, 0)),
            ("another destination port", changed(at + 3, 0)),
            ("another acknowledgement", changed(at + 11, 9)),
            ("another window", changed(at + 15, 9)),
            ("an urgent pointer", changed(at + 19, 9)),
            ("FIN", segment(family, 1100, ACK | FIN, &[8; 100])),
            ("SYN", segment(family, 1100, ACK | 0x02, &[8; 100])),
            ("RST", segment(family, 1100, ACK | 0x04, &[8; 100])),
            ("URG", segment(family, 1100, ACK | 0x20, &[8; 100])),
            ("ECE", segment(family, 1100, ACK | 0x40, &[8; 100])),
            ("CWR", segment(family, 1100, ACK | CWR, &[8; 100])),
            ("no ACK", segment(family, 1100, 0, &[8; 100])),
            ("UDP", changed(if at == 20 { 9 } else { 6 }, UDP)),
            ("another source", changed(if at == 20 { 15 } else { 23 }, 9)),
            ("another hop limit", changed(if at == 20 { 8 } else { 7 }, 9)),
            ("congestion experienced", changed(1, if at == 20 { 3 } else { 0x30 })),
        ];
        let mut spoiled = next.clone();
        spoiled[at + 30] ^= 1;
        others.push(("a wrong checksum", spoiled));
        if at == 20 {
            let mut header = next.clone();
            header[10] ^= 1;
            others.push(("a wrong checksum of the IP header", header));
            others.push(("do not fragment", changed(6, 0x40)));
            others.push(("a fragment", changed(7, 1)));
        }
        for (what, other) in others {
            assert!(!joins(first.clone(), other), "{what}, family at {at}");
        }
        let mut spoiled = first.clone();
        spoiled[at + 30] ^= 1;
        assert!(!joins(spoiled, next.clone()), "to one with a wrong checksum");
        assert!(!joins(segment(family, 1000, ACK | PSH, &[7; 100]), next.clone()), "behind PSH");
        assert!(!joins(segment(family, 1100, ACK, &[]), next.clone()), "to one without data");
    }
    let options = |sequence| {
        let mut packet = segment(V4, sequence, ACK, &[7; 100]);
        packet[0] = 0x46;
        packet.splice(20..20, [1, 1, 1, 1]);
        packet
    };
    assert!(!joins(options(1000), options(1100)), "options of IP");
}

#[test]
fn options_of_tcp_must_be_the_same() {
    let stamped = |sequence, stamp: u8| {
        let mut packet = segment(V4, sequence, ACK, &[7; 100]);
        packet[32] = 0x80;
        packet.splice(40..40, [1, 1, 8, 10, 0, 0, 0, stamp, 0, 0, 0, 1]);
        with_good_sums(packet)
    };
    assert!(joins(stamped(1000, 1), stamped(1100, 1)));
    assert!(!joins(stamped(1000, 1), stamped(1100, 2)));
}

#[test]
fn a_super_packet_is_never_longer_than_its_header_can_say() {
    let packets: Vec<_> = (0..70u32).map(|index| segment(V4, index * 1000, ACK, &[7; 1000])).collect();
    let (mut buffer, at) = lay(&packets);
    let mut run = Run::begin(&buffer, at[0].clone()).unwrap();
    let joined = at[1..].iter().take_while(|at| run.join(&buffer, (*at).clone())).count();
    assert_eq!(joined, 64, "65 x 1000 bytes and 40 of headers fit 65,535");
    assert!(run.complete(&mut buffer).is_some());
}

proptest! {
    #[test]
    fn any_bytes_keep_the_promises(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz_offload(&bytes);
    }

    #[test]
    fn whatever_is_split_can_be_joined_again(
        payload in proptest::collection::vec(any::<u8>(), 2..20_000),
        segment_bytes in 1u16..1400,
        is_v4: bool,
        pushes: bool,
    ) {
        prop_assume!(payload.len() > usize::from(segment_bytes) && payload.len() < usize::from(segment_bytes) * 64);
        let flags = if pushes { ACK | PSH } else { ACK };
        let (header, packet) = super_packet(if is_v4 { V4 } else { V6 }, flags, &payload, segment_bytes);
        let (mut buffer, at) = lay(&split_all(&header, &packet));
        let mut run = Run::begin(&buffer, at[0].clone()).unwrap();
        for at in &at[1..] {
            prop_assert!(run.join(&buffer, at.clone()));
        }
        let again = run.complete(&mut buffer).unwrap();
        prop_assert_eq!(again, header);
        let mut whole = buffer[run.first()].to_vec();
        whole.extend(run.payloads().iter().flat_map(|part| buffer[part.clone()].to_vec()));
        let at = usize::from(header.checksum_start);
        // The kernel sets the sum anew; only the pseudo-header's is left in the field.
        whole[at + 16..at + 18].copy_from_slice(&packet[at + 16..at + 18]);
        prop_assert_eq!(whole, packet);
    }
}
