//! Splits a super-packet of the kernel into packets, in place.
//!
//! Pure; it copies no payload: each segment's header is written before its payload, over the end of the one before,
//! which must have been used up by then.

use std::ops::Range;

use super::checksum::{add, fold, pseudo};
use super::{
    CWR, FIN, HEADERS_BYTES_MAX, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, KIND_TCP_V4, KIND_TCP_V6, KIND_UDP, PSH,
    TCP_CHECKSUM_AT, TCP_HEADER_BYTES, UDP_CHECKSUM_AT, UDP_HEADER_BYTES, VnetHeader, field, put,
};
use crate::tunnel::packet::{TCP, UDP};

/// Is a super-packet that is being split.
pub struct Split {
    headers: [u8; HEADERS_BYTES_MAX],
    headers_bytes: usize,
    transport_at: usize,
    family: Family,
    protocol: u8,
    segment_bytes: usize,
    next_at: usize,
    end: usize,
    index: u16,
    sequence: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Split {
    /// Reads the headers of a super-packet; `None` where it is none, or not what its header says.
    pub fn new(header: &VnetHeader, packet: &[u8]) -> Option<Self> {
        let family = match packet.first()? >> 4 {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let protocol = match (header.kind, family) {
            (KIND_TCP_V4, Family::V4) | (KIND_TCP_V6, Family::V6) => TCP,
            (KIND_UDP, _) => UDP,
            _ => return None,
        };
        let ip_bytes = match family {
            Family::V4 => usize::from(packet.first()? & 0x0f) * 4,
            Family::V6 => IPV6_HEADER_BYTES,
        };
        let transport_at = usize::from(header.checksum_start);
        if transport_at < ip_bytes.max(IPV4_HEADER_BYTES) {
            return None;
        }
        let transport_bytes = match protocol {
            TCP => usize::from(packet.get(transport_at + 12)? >> 4) * 4,
            _ => UDP_HEADER_BYTES,
        };
        let headers_bytes = transport_at + transport_bytes;
        let is_short = protocol == TCP && transport_bytes < TCP_HEADER_BYTES;
        if is_short || headers_bytes >= packet.len() || header.segment_bytes == 0 {
            return None;
        }
        let mut headers = [0; HEADERS_BYTES_MAX];
        headers.get_mut(..headers_bytes)?.copy_from_slice(packet.get(..headers_bytes)?);
        let sequence = packet.get(transport_at + 4..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
        Some(Self {
            headers,
            headers_bytes,
            transport_at,
            family,
            protocol,
            segment_bytes: usize::from(header.segment_bytes),
            next_at: headers_bytes,
            end: packet.len(),
            index: 0,
            sequence,
        })
    }

    /// Returns the largest packet that comes of it, in bytes.
    pub fn packet_bytes_max(&self) -> usize {
        self.headers_bytes + self.segment_bytes.min(self.end - self.headers_bytes)
    }

    /// Tells whether there is another segment.
    pub fn is_done(&self) -> bool {
        self.next_at >= self.end
    }

    /// Completes the next packet in place and says where it lies; the one before is overwritten.
    pub fn next(&mut self, packet: &mut [u8]) -> Option<Range<usize>> {
        if self.is_done() {
            return None;
        }
        let payload = self.next_at..(self.next_at + self.segment_bytes).min(self.end);
        let is_last = payload.end == self.end;
        let start = payload.start - self.headers_bytes;
        let segment = packet.get_mut(start..payload.end)?;
        segment.get_mut(..self.headers_bytes)?.copy_from_slice(self.headers.get(..self.headers_bytes)?);
        self.complete_ip(segment)?;
        self.complete_transport(segment, is_last)?;
        self.next_at = payload.end;
        self.index = self.index.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(payload.len()).ok()?);
        Some(start..payload.end)
    }

    fn complete_ip(&self, segment: &mut [u8]) -> Option<()> {
        match self.family {
            Family::V4 => {
                let total = u16::try_from(segment.len()).ok()?;
                let id = field(segment, 4)?.wrapping_add(self.index);
                put(segment, 2, &total.to_be_bytes())?;
                put(segment, 4, &id.to_be_bytes())?;
                put(segment, 10, &[0, 0])?;
                let header_bytes = usize::from(segment.first()? & 0x0f) * 4;
                let sum = !fold(add(0, segment.get(..header_bytes)?));
                put(segment, 10, &sum.to_ne_bytes())
            }
            Family::V6 => {
                let payload = u16::try_from(segment.len() - IPV6_HEADER_BYTES).ok()?;
                put(segment, 4, &payload.to_be_bytes())
            }
        }
    }

    fn complete_transport(&self, segment: &mut [u8], is_last: bool) -> Option<()> {
        let at = self.transport_at;
        let transport_bytes = segment.len() - at;
        let checksum_at = if self.protocol == TCP {
            put(segment, at + 4, &self.sequence.to_be_bytes())?;
            let flags = segment.get_mut(at + 13)?;
            if !is_last {
                *flags &= !(FIN | PSH);
            }
            if self.index > 0 {
                *flags &= !CWR;
            }
            at + TCP_CHECKSUM_AT
        } else {
            put(segment, at + 4, &u16::try_from(transport_bytes).ok()?.to_be_bytes())?;
            at + UDP_CHECKSUM_AT
        };
        put(segment, checksum_at, &[0, 0])?;
        let addresses = match self.family {
            Family::V4 => segment.get(12..20)?,
            Family::V6 => segment.get(8..40)?,
        };
        let start = pseudo(addresses, self.protocol, transport_bytes);
        let sum = !fold(add(start, segment.get(at..)?));
        let sum = if sum == 0 && self.protocol == UDP { u16::MAX } else { sum };
        put(segment, checksum_at, &sum.to_ne_bytes())
    }
}
