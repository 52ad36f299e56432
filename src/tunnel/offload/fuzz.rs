//! Checks what splitting and joining promise, on any bytes: the body of the fuzz target, and of the test that replays
//! its corpus.
//!
//! Panics where a promise is broken, and only there; production code never calls it. It has sums and packets of its
//! own (RFC 791, RFC 1071, RFC 8200, RFC 9293).

use std::ops::Range;

use super::{
    ACK, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, KIND_UDP, Run, Split, TCP_HEADER_BYTES, UDP_HEADER_BYTES,
    VNET_HEADER_BYTES, VnetHeader, complete_checksum, field, put,
};
use crate::tunnel::packet::{IpPacket, TCP, UDP};

/// Is the length of one description of a packet to join, in bytes.
const DESCRIPTION_BYTES: usize = 6;
/// Bounds the packets to join: more than fit a super-packet.
const PACKETS_MAX: usize = 80;
/// Is what the interface hands over at the most, in bytes.
const PACKET_BYTES_MAX: usize = 65_535;

/// Takes `data` for a header and a packet of the interface, or for descriptions of packets to join.
///
/// # Panics
///
/// Panics where splitting or joining breaks what it promises.
pub fn fuzz_offload(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    if mode & 1 == 1 {
        return join(data);
    }
    let Some((header, packet)) = data.split_first_chunk::<VNET_HEADER_BYTES>() else { return };
    let packet = packet.get(..PACKET_BYTES_MAX).unwrap_or(packet);
    // As the driver: what is no IP packet comes no further.
    if IpPacket::parse(packet).is_some() {
        split(&VnetHeader::read(header), packet);
    }
}

/// Splits, or completes the sum of, any packet.
fn split(header: &VnetHeader, packet: &[u8]) {
    if header.is_super_packet() {
        segments(header, packet);
        return;
    }
    let mut completed = packet.to_vec();
    if complete_checksum(header, &mut completed).is_none() {
        assert!(completed == packet, "a packet was changed and then refused");
        return;
    }
    let changed = completed.iter().zip(packet).filter(|(after, before)| after != before).count();
    assert!(changed <= 2 && completed.len() == packet.len(), "more than the checksum was written");
}

/// Splits a super-packet and checks every segment; returns them.
fn segments(header: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut whole = packet.to_vec();
    let Some(mut split) = Split::new(header, &whole) else { return Vec::new() };
    let bytes_max = split.packet_bytes_max();
    let transport_at = usize::from(header.checksum_start);
    let is_udp = header.kind == KIND_UDP;
    let transport_bytes =
        if is_udp { UDP_HEADER_BYTES } else { usize::from(packet.get(transport_at + 12).map_or(0, |b| b >> 4)) * 4 };
    let headers_bytes = transport_at + transport_bytes;
    let (mut segments, mut payload) = (Vec::new(), Vec::new());
    while !split.is_done() {
        let range = split.next(&mut whole);
        assert!(range.is_some(), "neither done nor a segment: the driver would turn for ever");
        let Some(range) = range else { break };
        let segment = whole.get(range);
        assert!(segment.is_some(), "a segment lies outside the packet");
        let segment = segment.unwrap_or(&[]);
        assert!(segment.len() > headers_bytes && segment.len() <= bytes_max, "a segment has another length");
        let protocol = if is_udp { UDP } else { TCP };
        assert!(has_good_sums(segment, transport_at, protocol), "a segment has a wrong checksum");
        payload.extend_from_slice(segment.get(headers_bytes..).unwrap_or(&[]));
        segments.push(segment.to_vec());
    }
    assert!(split.next(&mut whole).is_none(), "there is a segment behind the last");
    assert!(Some(&payload[..]) == packet.get(headers_bytes..), "the payload changed");
    segments
}

/// Joins packets as the driver does, and checks that splitting what comes of it gives the packets again.
fn join(data: &[u8]) {
    let (mut buffer, packets) = packets(data);
    let sent = buffer.clone();
    let mut run: Option<Run> = None;
    let mut passed = Vec::new();
    for at in &packets {
        if run.as_mut().is_some_and(|run| run.join(&buffer, at.clone())) {
            continue;
        }
        passed.extend(run.take().into_iter().flat_map(|run| finish(run, &mut buffer, &sent)));
        let total = buffer.get(at.clone()).and_then(IpPacket::parse).map(|packet| packet.total_bytes);
        let Some(whole) = total.map(|bytes| at.start..at.start + bytes) else { continue };
        run = Run::begin(&buffer, whole.clone());
        if run.is_none() {
            passed.push(whole);
        }
    }
    passed.extend(run.into_iter().flat_map(|run| finish(run, &mut buffer, &sent)));
    assert!(buffer == sent, "joining left something changed");
    assert!(passed.is_sorted_by(|one, next| one.end <= next.start), "packets were reordered");
}

/// Completes a run, checks it, takes it back; returns where its packets lie.
fn finish(mut run: Run, buffer: &mut [u8], sent: &[u8]) -> Vec<Range<usize>> {
    let all: Vec<Range<usize>> = std::iter::once(run.first()).chain(run.packets()).collect();
    let header = run.complete(buffer);
    assert!(header.is_some(), "a run cannot be completed");
    let Some(header) = header else { return all };
    if run.payloads().is_empty() {
        assert!(header == VnetHeader::default() && buffer == sent, "a run of one packet was changed");
        return all;
    }
    let parts = std::iter::once(run.first()).chain(run.payloads().iter().cloned());
    let whole: Vec<u8> = parts.flat_map(|part| buffer.get(part).unwrap_or(&[]).to_vec()).collect();
    assert!(whole.len() <= PACKET_BYTES_MAX, "a super-packet is longer than its header can say");
    let again = segments(&header, &whole);
    assert!(again.len() == all.len(), "other packets come of a run than went in");
    for (again, at) in again.iter().zip(&all) {
        let before = sent.get(at.clone()).unwrap_or(&[]);
        assert!(has_good_sums(before, usize::from(header.checksum_start), TCP), "a wrong checksum was mended");
        assert!(masked(again) == masked(before), "a packet changed on the way through a super-packet");
    }
    assert!(run.restore(buffer).is_some() && buffer == sent, "a run cannot be taken back");
    all
}

/// Blanks what joining does not keep: the identification of IPv4, and checksums, which have two zeros.
fn masked(packet: &[u8]) -> Vec<u8> {
    let mut masked = packet.to_vec();
    let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    if is_v4 {
        put(&mut masked, 4, &[0, 0]);
        put(&mut masked, 10, &[0, 0]);
    }
    put(&mut masked, if is_v4 { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES } + 16, &[0, 0]);
    masked
}

/// Builds the packets that `data` describes: how long, where in the stream, with which flags, and what is wrong with
/// them.
fn packets(data: &[u8]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut buffer, mut packets) = (Vec::new(), Vec::new());
    let Some((shape, data)) = data.split_first() else { return (buffer, packets) };
    let (is_v6, options) = (shape & 1 == 1, usize::from(shape >> 4) % 11 * 4);
    let mut sequence = u32::from(*shape) << 24;
    for description in data.as_chunks::<DESCRIPTION_BYTES>().0.iter().take(PACKETS_MAX) {
        let [length, delta, flags, at, change, how] = *description;
        let payload = usize::from(length) * if how & 2 == 2 { 8 } else { 1 };
        let transport_at = if is_v6 { IPV6_HEADER_BYTES } else { IPV4_HEADER_BYTES };
        let mut packet = vec![length; transport_at + TCP_HEADER_BYTES + options + payload];
        sequence = sequence.wrapping_add(u32::from(delta));
        put(&mut packet, transport_at, &[9, 206, 9, 207]);
        put(&mut packet, transport_at + 4, &sequence.to_be_bytes());
        let offset = u8::try_from((TCP_HEADER_BYTES + options) / 4).unwrap_or(5) << 4;
        put(&mut packet, transport_at + 8, &[0, 0, 0, 1, offset, flags ^ ACK, 255, 255, 0, 0, 0, 0]);
        packet
            .get_mut(transport_at + TCP_HEADER_BYTES..)
            .unwrap_or(&mut [])
            .iter_mut()
            .take(options)
            .for_each(|b| *b = 1);
        let total = u16::try_from(packet.len()).unwrap_or(0);
        if is_v6 {
            put(&mut packet, 0, &[0x60, 0, 0, 0]);
            put(&mut packet, 4, &(total - 40).to_be_bytes());
            put(&mut packet, 6, &[TCP, 64]);
        } else {
            put(&mut packet, 0, &[0x45, 0]);
            put(&mut packet, 2, &total.to_be_bytes());
            put(&mut packet, 4, &[delta, how, 0x40, 0, 64, TCP, 0, 0, 10, 98, 0, 2, 10, 98, 0, 1]);
        }
        let spoil = |packet: &mut Vec<u8>| packet.get_mut(usize::from(at)).map(|byte| *byte ^= change);
        if how & 1 == 1 {
            spoil(&mut packet);
        }
        repair(&mut packet, transport_at);
        if how & 1 == 0 {
            spoil(&mut packet);
        }
        sequence = sequence.wrapping_add(u32::try_from(payload).unwrap_or(0));
        packets.push(buffer.len()..buffer.len() + packet.len());
        buffer.extend_from_slice(&packet);
    }
    (buffer, packets)
}

fn repair(packet: &mut [u8], transport_at: usize) {
    if transport_at == IPV4_HEADER_BYTES {
        put(packet, 10, &[0, 0]);
        let sum = !sum(packet.get(..IPV4_HEADER_BYTES).unwrap_or(&[]), 0);
        put(packet, 10, &sum.to_be_bytes());
    }
    put(packet, transport_at + 16, &[0, 0]);
    let sum = !transport_sum(packet, transport_at, TCP);
    put(packet, transport_at + 16, &sum.to_be_bytes());
}

fn has_good_sums(packet: &[u8], transport_at: usize, protocol: u8) -> bool {
    let first = packet.first().copied().unwrap_or(0);
    let (length, header) = if first >> 4 == 4 {
        let header = packet.get(..usize::from(first & 0x0f) * 4);
        (field(packet, 2).map(usize::from), header.is_some_and(|header| sum(header, 0) == u16::MAX))
    } else {
        (field(packet, 4).map(|bytes| usize::from(bytes) + IPV6_HEADER_BYTES), true)
    };
    header && length == Some(packet.len()) && transport_sum(packet, transport_at, protocol) == u16::MAX
}

fn transport_sum(packet: &[u8], transport_at: usize, protocol: u8) -> u16 {
    let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let transport = packet.get(transport_at..).unwrap_or(&[]);
    let addresses = packet.get(if is_v4 { 12..20 } else { 8..40 }).unwrap_or(&[]);
    let length = u32::try_from(transport.len()).unwrap_or(0);
    let pseudo = sum(addresses, u32::from(protocol) + (length >> 16) + (length & 0xffff));
    sum(transport, u32::from(pseudo))
}

/// Adds 16-bit words the way that RFC 1071 describes first, one by one.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        let word = match pair {
            [high, low] => u32::from(*high) << 8 | u32::from(*low),
            [high] => u32::from(*high) << 8,
            _ => 0,
        };
        sum += word;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from(sum).unwrap_or(u16::MAX)
}
