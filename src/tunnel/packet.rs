//! A read-only view of an inner IP packet (RFC 791, RFC 8200, RFC 9293), and the RST that answers a refused SYN.
//!
//! Pure. It never trusts a length that the bytes do not bear out, and never panics on any bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

pub(super) const IPV4_HEADER_BYTES: usize = 20;
pub(super) const IPV6_HEADER_BYTES: usize = 40;
const TCP_HEADER_BYTES: usize = 20;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;

/// Is the header of an IP packet and what follows it.
#[derive(Clone, Copy)]
pub struct IpPacket<'a> {
    /// Is the inner source.
    pub source: IpAddr,
    /// Is the inner destination.
    pub destination: IpAddr,
    /// Is the protocol that follows the first header; for IPv6 possibly an extension header's number.
    pub protocol: u8,
    /// Tells that the packet is a fragment, or carries IPv4 options.
    pub fragment_or_options: bool,
    /// Holds what follows the header, as far as the packet goes.
    pub payload: &'a [u8],
    /// Is the whole packet's length in bytes, by its header.
    pub total_bytes: usize,
}

impl<'a> IpPacket<'a> {
    /// Reads a packet, or returns `None` where it is malformed or truncated.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let packet = Self::parse_truncated(bytes)?;
        (packet.total_bytes <= bytes.len()).then_some(packet)
    }

    /// Reads a packet whose end may be missing, as one that an ICMP error quotes.
    fn parse_truncated(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; IPV4_HEADER_BYTES] = bytes.first_chunk()?;
        let header_bytes = usize::from(header[0] & 0x0f) * 4;
        let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_bytes < IPV4_HEADER_BYTES || total_bytes < header_bytes {
            return None;
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        Some(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol: header[9],
            fragment_or_options: fragment || header_bytes != IPV4_HEADER_BYTES,
            payload: bytes.get(header_bytes..total_bytes.min(bytes.len()))?,
            total_bytes,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; IPV6_HEADER_BYTES] = bytes.first_chunk()?;
        let total_bytes = usize::from(u16::from_be_bytes([header[4], header[5]])) + IPV6_HEADER_BYTES;
        let (source, destination) = header.get(8..40)?.split_at_checked(16)?;
        Some(Self {
            source: Ipv6Addr::from(<[u8; 16]>::try_from(source).ok()?).into(),
            destination: Ipv6Addr::from(<[u8; 16]>::try_from(destination).ok()?).into(),
            protocol: header[6],
            fragment_or_options: false,
            payload: bytes.get(IPV6_HEADER_BYTES..total_bytes.min(bytes.len()))?,
            total_bytes,
        })
    }

    /// Reads the TCP header, if the packet is TCP and holds one.
    pub fn tcp(&self) -> Option<TcpHeader> {
        let header: &[u8; TCP_HEADER_BYTES] = self.payload.first_chunk()?;
        (self.protocol == TCP).then_some(TcpHeader {
            source_port: u16::from_be_bytes([header[0], header[1]]),
            destination_port: u16::from_be_bytes([header[2], header[3]]),
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            data_bytes: self.payload.len().saturating_sub(usize::from(header[12] >> 4) * 4),
            flags: header[13],
        })
    }

    /// Reads the UDP ports, if the packet is UDP and holds them.
    pub fn udp_ports(&self) -> Option<(u16, u16)> {
        let ports: &[u8; 4] = self.payload.first_chunk()?;
        (self.protocol == UDP)
            .then_some((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
    }

    /// Reads the packet that an ICMP error quotes after its eight bytes of header.
    pub fn quoted(&self) -> Option<IpPacket<'a>> {
        IpPacket::parse_truncated(self.payload.get(8..)?)
    }
}

/// Is the part of a TCP header that the filter looks at.
#[derive(Clone, Copy)]
pub struct TcpHeader {
    /// Is the sender's port.
    pub source_port: u16,
    /// Is the receiver's port.
    pub destination_port: u16,
    sequence: u32,
    data_bytes: usize,
    flags: u8,
}

impl TcpHeader {
    /// Tells whether the segment opens a connection.
    pub fn opens(&self) -> bool {
        self.flags & SYN != 0 && self.flags & ACK == 0
    }

    /// Tells whether the segment can belong to a connection: it opens one, acknowledges, or breaks off.
    pub fn has_meaning(&self) -> bool {
        self.flags & (SYN | ACK | RST) != 0
    }
}

/// Builds the RST that answers a refused SYN (RFC 9293, section 3.10.7.1) and returns its length in bytes.
///
/// Returns `None` where the packet is no TCP, is itself a RST, or `out` is too small (60 bytes fit always).
pub fn reset_for(refused: &IpPacket<'_>, out: &mut [u8]) -> Option<usize> {
    let tcp = refused.tcp()?;
    if tcp.flags & RST != 0 {
        return None;
    }
    let controls = u32::from(tcp.flags & SYN != 0) + u32::from(tcp.flags & FIN != 0);
    let acknowledged = tcp.sequence.wrapping_add(u32::try_from(tcp.data_bytes).ok()?).wrapping_add(controls);
    let mut segment = [0u8; TCP_HEADER_BYTES];
    segment[0..2].copy_from_slice(&tcp.destination_port.to_be_bytes());
    segment[2..4].copy_from_slice(&tcp.source_port.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = RST | ACK;
    let header_bytes = write_answer_header(refused, TCP, TCP_HEADER_BYTES, out)?;
    let sum = checksum(TCP, refused.destination, refused.source, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    out.get_mut(header_bytes..header_bytes + TCP_HEADER_BYTES)?.copy_from_slice(&segment);
    Some(header_bytes + TCP_HEADER_BYTES)
}

/// Writes the header of an answer with so many bytes of a protocol, source and destination swapped; returns its length.
pub(super) fn write_answer_header(
    asked: &IpPacket<'_>,
    protocol: u8,
    payload_bytes: usize,
    out: &mut [u8],
) -> Option<usize> {
    match (asked.destination, asked.source) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header: &mut [u8; IPV4_HEADER_BYTES] = out.first_chunk_mut()?;
            *header = [0; IPV4_HEADER_BYTES];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&u16::try_from(IPV4_HEADER_BYTES + payload_bytes).ok()?.to_be_bytes());
            header[6] = 0x40; // do not fragment
            header[8] = 64; // time to live
            header[9] = protocol;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = !ones_complement_sum(0, header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            Some(IPV4_HEADER_BYTES)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header: &mut [u8; IPV6_HEADER_BYTES] = out.first_chunk_mut()?;
            *header = [0; IPV6_HEADER_BYTES];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&u16::try_from(payload_bytes).ok()?.to_be_bytes());
            header[6] = protocol;
            header[7] = 64; // hop limit
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
            Some(IPV6_HEADER_BYTES)
        }
        _ => None,
    }
}

/// Sums what a protocol sends, with its pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub(super) fn checksum(protocol: u8, source: IpAddr, destination: IpAddr, segment: &[u8]) -> u16 {
    let mut sum = u32::from(protocol) + u32::try_from(segment.len()).unwrap_or(0);
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(address) => u32::from(ones_complement_sum(sum, &address.octets())),
            IpAddr::V6(address) => u32::from(ones_complement_sum(sum, &address.octets())),
        };
    }
    !ones_complement_sum(sum, segment)
}

/// Adds 16-bit words in ones' complement (RFC 1071).
pub(super) fn ones_complement_sum(start: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum = words.fold(start, |sum, word| sum + word);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Builds a TCP packet without data for tests here and in `filter`.
    pub(crate) fn tcp_packet(source: &str, destination: &str, ports: (u16, u16), flags: u8) -> Vec<u8> {
        let mut segment = vec![0u8; 20];
        segment[0..2].copy_from_slice(&ports.0.to_be_bytes());
        segment[2..4].copy_from_slice(&ports.1.to_be_bytes());
        segment[4..8].copy_from_slice(&7u32.to_be_bytes());
        segment[12] = 0x50;
        segment[13] = flags;
        ip_packet(source, destination, TCP, &segment)
    }

    /// Builds an IP packet around a payload.
    pub(crate) fn ip_packet(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet;
        match (source.parse().unwrap(), destination.parse().unwrap()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet = vec![0u8; 20];
                packet[0] = 0x45;
                packet[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
                packet[9] = protocol;
                packet[12..16].copy_from_slice(&source.octets());
                packet[16..20].copy_from_slice(&destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet = vec![0u8; 40];
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
                packet[6] = protocol;
                packet[8..24].copy_from_slice(&source.octets());
                packet[24..40].copy_from_slice(&destination.octets());
            }
            _ => panic!("mixed families"),
        }
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn a_reset_answers_the_syn_it_refuses() {
        for (source, destination) in [("10.98.0.2", "10.98.0.1"), ("fd00::2", "fd00::1")] {
            let syn = tcp_packet(source, destination, (40000, 22), SYN);
            let syn = IpPacket::parse(&syn).unwrap();
            let mut out = [0u8; 60];
            let length = reset_for(&syn, &mut out).unwrap();
            let reset = IpPacket::parse(&out[..length]).unwrap();
            let tcp = reset.tcp().unwrap();
            assert_eq!((reset.source, reset.destination), (syn.destination, syn.source));
            assert_eq!((tcp.source_port, tcp.destination_port), (22, 40000));
            assert_eq!(tcp.flags, RST | ACK);
            assert_eq!(reset.payload[8..12], 8u32.to_be_bytes(), "acknowledges the SYN");
            assert_eq!(checksum(TCP, reset.source, reset.destination, reset.payload), 0, "sums to zero");
        }
    }

    #[test]
    fn a_reset_is_never_answered() {
        let packet = tcp_packet("10.98.0.2", "10.98.0.1", (1, 2), RST);
        assert!(reset_for(&IpPacket::parse(&packet).unwrap(), &mut [0; 60]).is_none());
    }

    #[test]
    fn a_packet_shorter_than_its_header_says_is_refused() {
        let packet = tcp_packet("10.98.0.2", "10.98.0.1", (1, 2), SYN);
        assert!(IpPacket::parse(&packet[..39]).is_none());
        assert!(IpPacket::parse(&packet).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(packet) = IpPacket::parse(&bytes) {
                prop_assert!(packet.payload.len() <= bytes.len());
                let _ = (packet.tcp().map(|tcp| tcp.opens()), packet.udp_ports(), packet.quoted().is_some());
                let _ = reset_for(&packet, &mut [0; 60]);
            }
        }
    }
}
