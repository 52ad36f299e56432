//! Says what a captured Ethernet frame is, seen from a WireGuard tunnel. Pure.
//!
//! Formats: Ethernet II, RFC 791 (IPv4), RFC 8200 (IPv6), RFC 768 (UDP), RFC 4861 and 3810 (neighbour discovery and
//! listener reports), WireGuard section 5.4 (the four datagrams).

/// Says what a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first datagram of a handshake.
    Initiation,
    /// The second datagram of a handshake.
    Response,
    /// A cookie reply, which a site under load sends.
    Cookie,
    /// Encrypted data, or a keepalive.
    Data,
    /// ARP, IPv6 neighbour discovery or listener reports: how hosts on one wire find each other.
    Neighbour,
    /// Anything else, which has no business on the wire.
    Other,
}

const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_AT: usize = 12;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;

/// Says what the frame is; both sites use the same UDP port for WireGuard.
pub(super) fn kind(frame: &[u8], wireguard_port: u16) -> Kind {
    let payload = frame.get(ETHERNET_BYTES..).unwrap_or_default();
    match u16_at(frame, ETHERTYPE_AT) {
        Some(ARP) => Kind::Neighbour,
        Some(IPV4) => ipv4(payload, wireguard_port),
        Some(IPV6) if is_neighbour_discovery(payload) => Kind::Neighbour,
        _ => Kind::Other,
    }
}

fn ipv4(packet: &[u8], wireguard_port: u16) -> Kind {
    let header_bytes = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    // More fragments, or an offset: what follows is not a whole datagram.
    let fragmented = u16_at(packet, 6).is_none_or(|field| field & 0x3fff != 0);
    if packet.get(9) != Some(&UDP) || fragmented {
        return Kind::Other;
    }
    let total_bytes = u16_at(packet, 2).map_or(0, usize::from);
    let datagram = packet.get(header_bytes..total_bytes).unwrap_or_default();
    if u16_at(datagram, 0) != Some(wireguard_port) || u16_at(datagram, 2) != Some(wireguard_port) {
        return Kind::Other;
    }
    wireguard(datagram.get(UDP_BYTES..).unwrap_or_default())
}

fn wireguard(datagram: &[u8]) -> Kind {
    match (datagram.get(..4), datagram.len()) {
        (Some([1, 0, 0, 0]), 148) => Kind::Initiation,
        (Some([2, 0, 0, 0]), 92) => Kind::Response,
        (Some([3, 0, 0, 0]), 64) => Kind::Cookie,
        (Some([4, 0, 0, 0]), 32..) => Kind::Data,
        _ => Kind::Other,
    }
}

fn is_neighbour_discovery(packet: &[u8]) -> bool {
    let icmp_at = match packet.get(6) {
        Some(&ICMPV6) => IPV6_BYTES,
        // Listener reports come with a router alert, eight bytes.
        Some(&HOP_BY_HOP) if packet.get(IPV6_BYTES) == Some(&ICMPV6) => IPV6_BYTES + 8,
        _ => return false,
    };
    matches!(packet.get(icmp_at), Some(130..=137 | 143))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(two.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORT: u16 = 51820;

    fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
        [&[0x02; 12], ethertype.to_be_bytes().as_slice(), payload].concat()
    }

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let head = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        ethernet(IPV4, &[&head, payload].concat())
    }

    fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
        ipv4(UDP, &[&from.to_be_bytes(), &to.to_be_bytes(), &length, &[0, 0], payload].concat())
    }

    fn typed(kind: u8, length: usize) -> Vec<u8> {
        let mut datagram = vec![0xee; length];
        datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
        datagram
    }

    #[test]
    fn the_four_datagrams_are_told_apart() {
        for (number, length, expected) in
            [(1, 148, Kind::Initiation), (2, 92, Kind::Response), (3, 64, Kind::Cookie), (4, 32, Kind::Data)]
        {
            assert_eq!(kind(&udp(PORT, PORT, &typed(number, length)), PORT), expected);
            assert_eq!(kind(&udp(PORT, PORT, &typed(number, length - 1)), PORT), Kind::Other);
            assert_eq!(kind(&udp(PORT, 53, &typed(number, length)), PORT), Kind::Other);
            assert_eq!(kind(&udp(53, PORT, &typed(number, length)), PORT), Kind::Other);
        }
        assert_eq!(kind(&udp(PORT, PORT, &typed(4, 1452)), PORT), Kind::Data);
        assert_eq!(kind(&udp(PORT, PORT, &[4, 0, 0, 1].repeat(20)), PORT), Kind::Other);
    }

    #[test]
    fn padding_of_a_short_frame_is_not_part_of_the_datagram() {
        let mut frame = udp(PORT, PORT, &typed(2, 92));
        frame.extend_from_slice(&[0; 4]);
        assert_eq!(kind(&frame, PORT), Kind::Response);
    }

    #[test]
    fn tcp_icmp_and_fragments_have_no_business_there() {
        assert_eq!(kind(&ipv4(6, &[0; 40]), PORT), Kind::Other);
        assert_eq!(kind(&ipv4(1, &[0; 40]), PORT), Kind::Other);
        let mut fragment = udp(PORT, PORT, &typed(4, 32));
        fragment[20] = 0x20;
        assert_eq!(kind(&fragment, PORT), Kind::Other);
    }

    #[test]
    fn hosts_may_look_for_each_other() {
        assert_eq!(kind(&ethernet(ARP, &[0; 28]), PORT), Kind::Neighbour);
        let solicitation = [&[0x60, 0, 0, 0, 0, 24, ICMPV6, 255][..], &[0; 32], &[135, 0, 0, 0]].concat();
        assert_eq!(kind(&ethernet(IPV6, &solicitation), PORT), Kind::Neighbour);
        let report = [&[0x60, 0, 0, 0, 0, 36, 0, 1][..], &[0; 32], &[ICMPV6, 0, 5, 2, 0, 0, 1, 0, 143, 0]].concat();
        assert_eq!(kind(&ethernet(IPV6, &report), PORT), Kind::Neighbour);
        let echo = [&[0x60, 0, 0, 0, 0, 24, ICMPV6, 255][..], &[0; 32], &[128, 0, 0, 0]].concat();
        assert_eq!(kind(&ethernet(IPV6, &echo), PORT), Kind::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            kind(&frame, PORT);
        }
    }
}
