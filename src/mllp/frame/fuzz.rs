//! Checks the decoder's promises on any bytes: the body of the fuzz target, and of the test that replays its corpus.
//!
//! Panics where a promise is broken, and only there; production code never calls it.

use super::{Decoder, Event, FrameReader, Framing, Limits, Read, Violation};
use crate::mllp::message::Header;

/// Are limits small enough for fuzzed input to cross, in bytes.
const LIMITS: Limits = Limits { frame_bytes_max: 512, junk_bytes_max: 64, framing: Framing::MLLP };

/// Decodes `data` in three framings: whole, cut at points that `data` itself chooses, and byte by byte; the events must
/// be the same, every payload must survive being framed again, and the header view must cope with it.
///
/// # Panics
///
/// Panics where one of these does not hold.
pub fn fuzz_frame_decoder(data: &[u8]) {
    for (start, end, last) in [(0x0B, 0x1C, Some(0x0D)), (0x02, 0x03, None), (0x02, 0x03, Some(0x17))] {
        let framing = Framing::new(start, end, last);
        check(data, Limits { framing: framing.unwrap_or_default(), ..LIMITS });
    }
}

fn check(data: &[u8], limits: Limits) {
    let whole = decode([data].into_iter(), limits);
    assert!(decode(data.chunks(1), limits) == whole, "cut into single bytes, the stream gives other events");
    assert!(decode(uneven(data).into_iter(), limits) == whole, "cut unevenly, the stream gives other events");

    for payload in payloads(data, limits).0 {
        assert!(limits.framing.fits(&payload), "a payload that came in a frame does not fit into one");
        let framed = limits.framing.encode(&payload);
        let again = payloads(&framed, limits);
        assert!(again == (vec![payload.clone()], Ok(())), "a payload of {} bytes changed", payload.len());
        if let Some(header) = Header::parse_whole(&payload) {
            assert!(header.control_id().len() < payload.len(), "a field is longer than its message");
            assert!(header.msa().is_none_or(|msa| msa.control_id().len() < payload.len()), "and so is MSA-2");
        }
    }
}

/// Is an event with the pieces of a payload joined.
#[derive(PartialEq, Eq)]
enum Joined {
    Payload(Vec<u8>),
    Other(String),
}

fn decode<'d>(pieces: impl Iterator<Item = &'d [u8]>, limits: Limits) -> (Vec<Joined>, Result<(), Violation>) {
    let mut decoder = Decoder::new(limits);
    let mut events: Vec<Joined> = Vec::new();
    let mut sink = |event: Event<'_>| match (event, events.last_mut()) {
        (Event::Payload(bytes), Some(Joined::Payload(before))) => before.extend_from_slice(bytes),
        (Event::Payload(bytes), _) => events.push(Joined::Payload(bytes.to_vec())),
        (other, _) => events.push(Joined::Other(format!("{other:?}"))),
    };
    let mut followed = Ok(());
    for piece in pieces {
        followed = decoder.handle_bytes(piece, &mut sink);
    }
    decoder.handle_end_of_stream(&mut sink);
    (events, followed)
}

/// Cuts at lengths that the data's own bytes give, 1 to 16.
fn uneven(data: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut rest = data;
    while let Some(first) = rest.first() {
        let length = usize::from(first % 16).saturating_add(1).min(rest.len());
        let (piece, tail) = rest.split_at(length);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

fn payloads(stream: &[u8], limits: Limits) -> (Vec<Vec<u8>>, Result<(), Violation>) {
    let mut reader = FrameReader::new(limits);
    let mut payloads = Vec::new();
    let mut sink = |read| {
        if let Read::Payload(payload) = read {
            payloads.push(payload);
        }
    };
    let followed = reader.handle_bytes(stream, &mut sink);
    reader.handle_end_of_stream(&mut sink);
    (payloads, followed)
}
