//! Super-packets of the TUN interface: what the kernel hands over at once is split, what belongs together is joined.
//!
//! Pure; it never touches a descriptor, and never panics on any bytes. The header before each packet: virtio 1.2,
//! section 5.1.6, in its 10-byte form and the host's byte order, as Linux' TUN has it with IFF_VNET_HDR. Segments of
//! TCP: RFC 9293; checksums: RFC 1071.

mod checksum;
mod fuzz;
mod join;
mod split;

pub use checksum::complete_checksum;
#[doc(hidden)]
pub use fuzz::fuzz_offload;
pub use join::Run;
pub use split::Split;

/// Is the length of [`VnetHeader`] before each packet, in bytes.
pub const VNET_HEADER_BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const KIND_NONE: u8 = 0;
const KIND_TCP_V4: u8 = 1;
const KIND_TCP_V6: u8 = 4;
const KIND_UDP: u8 = 5;
/// Marks a kind whose first segment carries CWR: the bit is in the TCP header already.
const KIND_ECN: u8 = 0x80;

/// Where a TCP header has its checksum, in bytes.
const TCP_CHECKSUM_AT: usize = 16;
/// Where a UDP header has its checksum, in bytes.
const UDP_CHECKSUM_AT: usize = 6;
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
/// The longest headers that are split or joined, in bytes: 60 of IPv4 or 40 of IPv6 and some extensions, 60 of TCP.
const HEADERS_BYTES_MAX: usize = 192;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// Says what the kernel left to do for a packet, or what we leave to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    flags: u8,
    kind: u8,
    header_bytes: u16,
    segment_bytes: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl VnetHeader {
    /// Reads a header.
    pub fn read(bytes: &[u8; VNET_HEADER_BYTES]) -> Self {
        let [flags, kind, a, b, c, d, e, f, g, h] = *bytes;
        Self {
            flags,
            kind: kind & !KIND_ECN,
            header_bytes: u16::from_ne_bytes([a, b]),
            segment_bytes: u16::from_ne_bytes([c, d]),
            checksum_start: u16::from_ne_bytes([e, f]),
            checksum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// Writes the header.
    pub fn write(&self) -> [u8; VNET_HEADER_BYTES] {
        let [a, b] = self.header_bytes.to_ne_bytes();
        let [c, d] = self.segment_bytes.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.kind, a, b, c, d, e, f, g, h]
    }

    /// Tells whether the packet holds several segments.
    pub fn is_super_packet(&self) -> bool {
        self.kind != KIND_NONE
    }
}

/// Returns a big-endian 16-bit field, or `None` beyond the end.
fn field(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}

/// Sets a field of a packet; `None` beyond the end.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..at + value.len())?.copy_from_slice(value);
    Some(())
}

#[cfg(test)]
mod tests;
