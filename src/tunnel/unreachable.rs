//! The ICMP error that answers a packet into the tunnel that has nowhere to go, and how many of them there are.
//!
//! Pure. It answers as the kernel's WireGuard does: host unreachable (RFC 792), address unreachable (RFC 4443, 3.1);
//! never an ICMP error, never what was not sent to one host by one host (RFC 1122, 3.2.2; RFC 4443, 2.4). It comes from
//! the address that cannot be reached, for the kernel takes no packet from an interface that claims to be its own.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::{
    ICMP, ICMPV6, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpPacket, checksum, ones_complement_sum, write_answer_header,
};

/// Answers in a second, as many as a person's mistake needs, and few enough to cost nothing.
const PER_SECOND: u32 = 100;
/// Is the answer at the most, in bytes: what every host takes (RFC 1812, 4.3.2.3; RFC 4443, 2.4).
const IPV4_BYTES_MAX: usize = 576;
const IPV6_BYTES_MAX: usize = 1280;
/// Is room for any answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = IPV6_BYTES_MAX;

const ICMP_HEADER_BYTES: usize = 8;

/// Limits the answers of a second.
#[derive(Debug, Default)]
pub struct Limit {
    began: Option<Instant>,
    given: u32,
}

impl Limit {
    /// Tells whether one more may be given now.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            *self = Self { began: Some(now), given: 0 };
        }
        self.given += 1;
        self.given <= PER_SECOND
    }
}

/// Builds the answer to a packet, or to the first packet of a super-packet, and returns its length in bytes.
///
/// Returns `None` where none may be given, or `out` is too small ([`ANSWER_BYTES_MAX`] fits always).
pub fn answer(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    let packet = IpPacket::parse(bytes)?;
    if !is_one_host(packet.source) || !is_one_host(packet.destination) || is_icmp_error(&packet) {
        return None;
    }
    let is_v4 = packet.source.is_ipv4();
    let is_later_fragment = is_v4 && u16::from_be_bytes([*bytes.get(6)?, *bytes.get(7)?]) & 0x1fff != 0;
    if is_later_fragment {
        return None;
    }
    let (protocol, kind, header_bytes, bytes_max) = if is_v4 {
        (ICMP, [3, 1], IPV4_HEADER_BYTES, IPV4_BYTES_MAX)
    } else {
        (ICMPV6, [1, 3], IPV6_HEADER_BYTES, IPV6_BYTES_MAX)
    };
    let quoted = bytes.get(..bytes_max - header_bytes - ICMP_HEADER_BYTES).unwrap_or(bytes);
    let total_bytes = header_bytes + ICMP_HEADER_BYTES + quoted.len();
    let message = out.get_mut(header_bytes..total_bytes)?;
    let (header, rest) = message.split_first_chunk_mut::<ICMP_HEADER_BYTES>()?;
    *header = [kind[0], kind[1], 0, 0, 0, 0, 0, 0];
    rest.copy_from_slice(quoted);
    let sum = if is_v4 {
        !ones_complement_sum(0, message)
    } else {
        checksum(ICMPV6, packet.destination, packet.source, message)
    };
    message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
    write_answer_header(&packet, protocol, total_bytes - header_bytes, out)?;
    Some(total_bytes)
}

fn is_one_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(is_broadcast || address.is_multicast() || address.is_unspecified() || address.is_loopback())
}

fn is_icmp_error(packet: &IpPacket<'_>) -> bool {
    let kind = packet.payload.first().copied();
    match packet.protocol {
        ICMP => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        ICMPV6 => kind.is_none_or(|kind| kind < 128 || kind == 137),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::UDP;
    use super::super::packet::tests::{ip_packet, tcp_packet};
    use super::*;

    fn answer_to(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; ANSWER_BYTES_MAX];
        answer(bytes, &mut out).map(|length| out[..length].to_vec())
    }

    #[test]
    fn the_sender_is_told_by_the_address_it_wanted() {
        for (from, to, kind, protocol) in
            [("10.98.0.1", "10.98.0.9", [3, 1], ICMP), ("fd98::1", "fd98::9", [1, 3], ICMPV6)]
        {
            let packet = tcp_packet(from, to, (40_000, 2575), 0x02);
            let bytes = answer_to(&packet).unwrap();
            let answer = IpPacket::parse(&bytes).unwrap();
            assert_eq!(answer.total_bytes, bytes.len());
            assert_eq!((answer.source.to_string(), answer.destination.to_string()), (to.into(), from.into()));
            assert_eq!((answer.protocol, &answer.payload[..2]), (protocol, &kind[..]));
            let quoted = answer.quoted().unwrap();
            assert_eq!((quoted.source, quoted.destination), (answer.destination, answer.source));
            assert_eq!(quoted.tcp().unwrap().destination_port, 2575);
        }
    }

    #[test]
    fn checksums_add_up() {
        let v4 = answer_to(&tcp_packet("10.98.0.1", "10.98.0.9", (1, 2), 0x02)).unwrap();
        assert_eq!(ones_complement_sum(0, &v4[..20]), 0xffff);
        assert_eq!(ones_complement_sum(0, &v4[20..]), 0xffff);
        let v6 = answer_to(&tcp_packet("fd98::1", "fd98::9", (1, 2), 0x02)).unwrap();
        let pseudo = u32::from(ICMPV6) + u32::try_from(v6.len() - 40).unwrap();
        let addresses = ones_complement_sum(pseudo, &v6[8..40]);
        assert_eq!(ones_complement_sum(addresses.into(), &v6[40..]), 0xffff);
    }

    #[test]
    fn a_long_packet_is_quoted_in_part() {
        let long = ip_packet("10.98.0.1", "10.98.0.9", UDP, &[7; 1400]);
        assert_eq!(answer_to(&long).unwrap().len(), 576);
        let long = ip_packet("fd98::1", "fd98::9", UDP, &[7; 1400]);
        assert_eq!(answer_to(&long).unwrap().len(), 1280);
        assert_eq!(answer(&long, &mut [0; 100]), None);
    }

    #[test]
    fn some_packets_get_no_answer() {
        let error = ip_packet("10.98.0.1", "10.98.0.9", ICMP, &[3, 1, 0, 0, 0, 0, 0, 0]);
        let error_v6 = ip_packet("fd98::1", "fd98::9", ICMPV6, &[1, 3, 0, 0, 0, 0, 0, 0]);
        let echo = ip_packet("10.98.0.1", "10.98.0.9", ICMP, &[8, 0, 0, 0, 0, 0, 0, 0]);
        let multicast = ip_packet("10.98.0.1", "224.0.0.1", UDP, &[0; 8]);
        let router_solicitation = ip_packet("fd98::1", "ff02::2", ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0]);
        let mut fragment = ip_packet("10.98.0.1", "10.98.0.9", UDP, &[0; 8]);
        fragment[7] = 1;
        let nobody = ip_packet("0.0.0.0", "10.98.0.9", UDP, &[0; 8]);
        for packet in [error, error_v6, multicast, router_solicitation, fragment, nobody] {
            assert_eq!(answer_to(&packet), None, "{packet:?}");
        }
        assert!(answer_to(&echo).is_some());
    }

    #[test]
    fn answers_are_few() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let given = |limit: &mut Limit, now| (0..1000).filter(|_| limit.take(now)).count();
        assert_eq!(given(&mut limit, start), 100);
        assert_eq!(given(&mut limit, start + Duration::from_millis(999)), 0);
        assert_eq!(given(&mut limit, start + Duration::from_secs(1)), 100);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = (version << 4) | (*first & 0x0f);
            }
            if let Some(answer) = answer_to(&bytes) {
                let asked = IpPacket::parse(&bytes).unwrap();
                let told = IpPacket::parse(&answer).unwrap();
                prop_assert_eq!((told.source, told.destination), (asked.destination, asked.source));
                prop_assert_eq!(told.total_bytes, answer.len());
            }
        }
    }
}
