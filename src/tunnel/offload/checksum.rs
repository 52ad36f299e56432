//! The Internet checksum (RFC 1071), over words in the host's byte order: the sum of swapped words is the swapped sum.
//!
//! Pure; it never writes but where it is told.

use super::{UDP_CHECKSUM_AT, VnetHeader};

/// Adds bytes to a sum that is not folded. An odd last byte counts as followed by a zero.
///
/// Sixteen lanes of 32 bits in 64: no carry is lost below 16 GiB, and the compiler makes vectors of it.
pub(super) fn add(start: u64, bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut lanes = [0u64; 16];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (pairs, last) = rest.as_chunks::<2>();
    let tail: u64 = pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum();
    let odd = last.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])));
    start + lanes.iter().map(|lane| (lane & 0xffff_ffff) + (lane >> 32)).sum::<u64>() + tail + odd
}

/// Folds a sum to 16 bits, in the host's byte order.
pub(super) fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Sums the pseudo-header of a transport segment (RFC 9293, section 3.1; RFC 8200, section 8.1).
///
/// `addresses` holds source and destination, as they stand in the IP header.
pub(super) fn pseudo(addresses: &[u8], protocol: u8, transport_bytes: usize) -> u64 {
    let length = u32::try_from(transport_bytes).unwrap_or(u32::MAX);
    let sum = add(0, addresses) + u64::from(u16::from_ne_bytes([0, protocol]));
    add(sum, &length.to_be_bytes())
}

/// Completes the checksum that the kernel left to us; `None` where the header points outside the packet.
pub fn complete_checksum(header: &VnetHeader, packet: &mut [u8]) -> Option<()> {
    if header.flags & super::NEEDS_CHECKSUM == 0 {
        return Some(());
    }
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    let sum = !fold(add(0, packet.get(start..)?));
    // UDP writes a sum of zero as its complement: zero says that there is none (RFC 768).
    let is_udp = usize::from(header.checksum_offset) == UDP_CHECKSUM_AT;
    let sum = if sum == 0 && is_udp { u16::MAX } else { sum };
    super::put(packet, at, &sum.to_ne_bytes())
}
