//! Joins consecutive packets of one TCP flow into a super-packet for the kernel.
//!
//! Pure; it copies no payload and reorders nothing. What is joined has good checksums: the kernel looks at none of a
//! super-packet. Rules: as the kernel's own receive offload, only where every header field but length, sequence,
//! checksum and PSH is equal, and every payload but the last has one length.

use std::ops::Range;

use super::checksum::{add, fold, pseudo};
use super::{
    ACK, HEADERS_BYTES_MAX, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, KIND_TCP_V4, KIND_TCP_V6, NEEDS_CHECKSUM, PSH,
    TCP_CHECKSUM_AT, TCP_HEADER_BYTES, VnetHeader, field, put,
};
use crate::tunnel::packet::TCP;

/// The longest super-packet in bytes: what an IPv4 header can say.
const PACKET_BYTES_MAX: usize = u16::MAX as usize;

/// Is a run of packets that may be joined, in a buffer that it does not own.
pub struct Run {
    first: Range<usize>,
    payloads: Vec<Range<usize>>,
    transport_at: usize,
    headers_bytes: usize,
    segment_bytes: usize,
    payload_bytes: usize,
    sequence: u32,
    pushes: bool,
    is_closed: bool,
    is_checked: bool,
    saved: [u8; HEADERS_BYTES_MAX],
}

impl Run {
    /// Begins a run with the packet at `at`; `None` where nothing can be joined to it.
    pub fn begin(buffer: &[u8], at: Range<usize>) -> Option<Self> {
        let packet = buffer.get(at.clone())?;
        let transport_at = transport_at(packet)?;
        let tcp = packet.get(transport_at..)?;
        let headers_bytes = transport_at + usize::from(tcp.get(12)? >> 4) * 4;
        let flags = *tcp.get(13)?;
        let is_plain = flags & !PSH == ACK && headers_bytes >= transport_at + TCP_HEADER_BYTES;
        if !is_plain || flags & PSH != 0 || headers_bytes >= packet.len() {
            return None;
        }
        let segment_bytes = packet.len() - headers_bytes;
        let sequence = tcp.get(4..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
        Some(Self {
            first: at,
            payloads: Vec::new(),
            transport_at,
            headers_bytes,
            segment_bytes,
            payload_bytes: segment_bytes,
            sequence: sequence.wrapping_add(u32::try_from(segment_bytes).ok()?),
            pushes: false,
            is_closed: false,
            is_checked: false,
            saved: [0; HEADERS_BYTES_MAX],
        })
    }

    /// Joins the packet at `at` if it goes on where the run ends, and tells whether it did.
    pub fn join(&mut self, buffer: &[u8], at: Range<usize>) -> bool {
        self.try_join(buffer, at).is_some()
    }

    fn try_join(&mut self, buffer: &[u8], at: Range<usize>) -> Option<()> {
        let packet = buffer.get(at.clone())?;
        let first = buffer.get(self.first.clone())?;
        let payload_bytes = packet.len().checked_sub(self.headers_bytes).filter(|bytes| *bytes > 0)?;
        let total = self.headers_bytes + self.payload_bytes + payload_bytes;
        if self.is_closed || payload_bytes > self.segment_bytes || total > PACKET_BYTES_MAX {
            return None;
        }
        let tcp = packet.get(self.transport_at..)?;
        if !same_headers(first, packet, self.transport_at, self.headers_bytes) {
            return None;
        }
        let sequence = tcp.get(4..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
        if sequence != self.sequence || !has_good_checksums(packet, self.transport_at) {
            return None;
        }
        if !self.is_checked && !has_good_checksums(first, self.transport_at) {
            self.is_closed = true;
            return None;
        }
        self.is_checked = true;
        self.pushes = tcp.get(13)? & PSH != 0;
        self.is_closed = self.pushes || payload_bytes < self.segment_bytes;
        self.payload_bytes += payload_bytes;
        self.sequence = sequence.wrapping_add(u32::try_from(payload_bytes).ok()?);
        self.payloads.push(at.start + self.headers_bytes..at.end);
        Some(())
    }

    /// Returns where the first packet lies.
    pub fn first(&self) -> Range<usize> {
        self.first.clone()
    }

    /// Lists where the payloads lie that were joined to the first packet.
    pub fn payloads(&self) -> &[Range<usize>] {
        &self.payloads
    }

    /// Lists where the joined packets lie, with their headers, without the first.
    pub fn packets(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.payloads.iter().map(|payload| payload.start - self.headers_bytes..payload.end)
    }

    /// Completes the headers of the first packet for the whole run, and says what is left to the kernel.
    pub fn complete(&mut self, buffer: &mut [u8]) -> Option<VnetHeader> {
        if self.payloads.is_empty() {
            return Some(VnetHeader::default());
        }
        let packet = buffer.get_mut(self.first.clone())?;
        self.saved.get_mut(..self.headers_bytes)?.copy_from_slice(packet.get(..self.headers_bytes)?);
        let total = self.headers_bytes + self.payload_bytes;
        let is_v4 = packet.first()? >> 4 == 4;
        let addresses = if is_v4 { 12..20 } else { 8..40 };
        if is_v4 {
            put(packet, 2, &u16::try_from(total).ok()?.to_be_bytes())?;
            put(packet, 10, &[0, 0])?;
            let sum = !fold(add(0, packet.get(..IPV4_HEADER_BYTES)?));
            put(packet, 10, &sum.to_ne_bytes())?;
        } else {
            put(packet, 4, &u16::try_from(total - IPV6_HEADER_BYTES).ok()?.to_be_bytes())?;
        }
        let sum = fold(pseudo(packet.get(addresses)?, TCP, total - self.transport_at));
        put(packet, self.transport_at + TCP_CHECKSUM_AT, &sum.to_ne_bytes())?;
        if self.pushes {
            *packet.get_mut(self.transport_at + 13)? |= PSH;
        }
        Some(VnetHeader {
            flags: NEEDS_CHECKSUM,
            kind: if is_v4 { KIND_TCP_V4 } else { KIND_TCP_V6 },
            header_bytes: u16::try_from(self.headers_bytes).ok()?,
            segment_bytes: u16::try_from(self.segment_bytes).ok()?,
            checksum_start: u16::try_from(self.transport_at).ok()?,
            checksum_offset: u16::try_from(TCP_CHECKSUM_AT).ok()?,
        })
    }

    /// Takes back what [`Run::complete`] did to the first packet, for a kernel that takes no super-packets.
    pub fn restore(&self, buffer: &mut [u8]) -> Option<()> {
        put(buffer, self.first.start, self.saved.get(..self.headers_bytes)?)
    }
}

/// Finds the TCP header of a packet without options, fragments and extension headers whose length is the header's.
fn transport_at(packet: &[u8]) -> Option<usize> {
    match packet.first()? {
        0x45 => {
            let is_whole = field(packet, 2).map(usize::from) == Some(packet.len()) && field(packet, 6)? & 0x3fff == 0;
            (is_whole && *packet.get(9)? == TCP).then_some(IPV4_HEADER_BYTES)
        }
        first if first >> 4 == 6 => {
            let is_whole = field(packet, 4).map(|bytes| usize::from(bytes) + IPV6_HEADER_BYTES) == Some(packet.len());
            (is_whole && *packet.get(6)? == TCP).then_some(IPV6_HEADER_BYTES)
        }
        _ => None,
    }
}

/// Compares all that must be equal: of IPv4 all but length, identification and checksum, of IPv6 all but the length,
/// of TCP all but sequence, checksum and PSH. The length must be the packet's.
fn same_headers(first: &[u8], packet: &[u8], transport_at: usize, headers_bytes: usize) -> bool {
    let same = |range: Range<usize>| first.get(range.clone()).is_some_and(|bytes| packet.get(range) == Some(bytes));
    let ip = if transport_at == IPV4_HEADER_BYTES {
        same(0..2) && same(6..10) && same(12..20) && field(packet, 2).map(usize::from) == Some(packet.len())
    } else {
        let length = field(packet, 4).map(|bytes| usize::from(bytes) + IPV6_HEADER_BYTES);
        same(0..4) && same(6..40) && length == Some(packet.len())
    };
    let at = transport_at;
    let flags = |packet: &[u8]| packet.get(at + 13).map(|flags| flags & !PSH);
    let tcp = same(at..at + 4) && same(at + 8..at + 13) && same(at + 14..at + 16) && same(at + 18..headers_bytes);
    ip && tcp && flags(first) == flags(packet)
}

/// Checks the sums of the IPv4 header and of the TCP segment.
fn has_good_checksums(packet: &[u8], transport_at: usize) -> bool {
    let sum = || {
        let is_v4 = transport_at == IPV4_HEADER_BYTES;
        let addresses = packet.get(if is_v4 { 12..20 } else { 8..40 })?;
        let start = pseudo(addresses, TCP, packet.len() - transport_at);
        let is_good = !is_v4 || fold(add(0, packet.get(..IPV4_HEADER_BYTES)?)) == u16::MAX;
        Some(is_good && fold(add(start, packet.get(transport_at..)?)) == u16::MAX)
    };
    sum().unwrap_or(false)
}
