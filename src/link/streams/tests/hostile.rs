//! What a peer that breaks the rules can and cannot do.

#![allow(clippy::cast_possible_truncation, reason = "a test's numbers are small, or meant to wrap")]

use super::super::*;
use crate::link::streams::LINK_BYTES_MAX;
use crate::link::wire::{RESUME_STREAMS_MAX, WINDOW_BYTES_INITIAL};

const HOLD: Duration = Duration::from_secs(30);

fn resumed(side: Side) -> (Streams, Instant) {
    let now = Instant::now();
    let mut streams = Streams::new(side, HOLD, now);
    streams.handle_connected(false);
    let list = Record::Resume { last: true, opened_through: 0, streams: Vec::new() };
    streams.handle_record(list, now).unwrap();
    (streams, now)
}

fn far_with_stream() -> (Streams, Instant) {
    let (mut streams, now) = resumed(Side::Far);
    streams.handle_record(Record::Open(1), now).unwrap();
    (streams, now)
}

#[test]
fn records_for_streams_that_are_gone_are_ignored() {
    for side in [Side::Near, Side::Far] {
        let (mut streams, now) = resumed(side);
        let reset = Record::Reset { stream: 5, cause: Cause::Lost };
        let data = Record::Data { stream: 5, offset: 9, ack: 9, bytes: b"x" };
        let fin = Record::Fin { stream: 5, offset: 9, ack: 9 };
        let credit = Record::Credit { stream: 5, ack: 9, limit: 9 };
        for record in [reset, data, fin, credit] {
            assert_eq!(streams.handle_record(record, now), Ok(()));
        }
    }
}

#[test]
fn violations_end_the_connection() {
    let too_much = vec![0; 60_000];
    let cases: Vec<Vec<Record<'_>>> = vec![
        vec![Record::Accept(1)],
        vec![Record::Open(1)],
        vec![Record::Data { stream: 1, offset: 1, ack: 0, bytes: b"gap" }],
        vec![Record::Data { stream: 1, offset: u64::MAX, ack: 0, bytes: b"gap" }],
        vec![Record::Data { stream: 1, offset: 0, ack: 1, bytes: b"ack of nothing" }],
        vec![
            Record::Data { stream: 1, offset: 0, ack: 0, bytes: &too_much },
            Record::Data { stream: 1, offset: 60_000, ack: 0, bytes: &too_much },
        ],
        vec![Record::Fin { stream: 1, offset: 1, ack: 0 }],
        vec![Record::Fin { stream: 1, offset: 0, ack: 0 }, Record::Fin { stream: 1, offset: u64::MAX, ack: 0 }],
        vec![
            Record::Fin { stream: 1, offset: 0, ack: 0 },
            Record::Data { stream: 1, offset: 1, ack: 0, bytes: b"after the end" },
        ],
        vec![Record::Credit { stream: 1, ack: 7, limit: 0 }],
        vec![Record::Refuse(Cause::Lost)],
        vec![Record::Resume { last: true, opened_through: 0, streams: Vec::new() }],
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let (mut streams, now) = far_with_stream();
        let mut results = case.into_iter().map(|record| streams.handle_record(record, now)).collect::<Vec<_>>();
        assert_eq!(results.pop(), Some(Err(Violation)), "case {number}");
        assert!(results.into_iter().all(|result| result.is_ok()), "case {number}");
    }
    let (mut near, now) = resumed(Side::Near);
    assert_eq!(near.handle_record(Record::Open(1), now), Err(Violation));
}

#[test]
fn a_list_without_end_is_a_violation() {
    let now = Instant::now();
    let mut streams = Streams::new(Side::Far, HOLD, now);
    streams.handle_connected(false);
    let mut lists = (0..).map(|list| {
        let first = list * RESUME_STREAMS_MAX as u64;
        let listed = (first..first + RESUME_STREAMS_MAX as u64).map(|stream| (stream, 0)).collect();
        streams.handle_record(Record::Resume { last: false, opened_through: 0, streams: listed }, now)
    });
    assert!(lists.by_ref().take(6).any(|result| result.is_err()));
}

#[test]
fn a_flood_of_pings_that_nobody_reads_the_answers_of_ends_the_connection() {
    let (mut streams, now) = resumed(Side::Far);
    let flood = (0..1_000_000).find(|token| streams.handle_record(Record::Ping(*token), now).is_err());
    assert!(flood.is_some_and(|token| token > 1000), "a few are answered, a flood is not kept");
}

#[test]
fn a_ping_is_echoed() {
    let (mut streams, now) = resumed(Side::Far);
    streams.poll_transmit(&mut BytesMut::new(), 1000);
    streams.handle_record(Record::Ping(42), now).unwrap();
    let mut out = BytesMut::new();
    streams.poll_transmit(&mut out, 1000);
    assert!(crate::link::wire::decode(&out).unwrap().unwrap().0 == Record::Pong(42));
}

#[test]
fn a_flood_of_streams_beyond_the_limit_that_are_refused_unread_ends_the_connection() {
    let (mut streams, now) = resumed(Side::Far);
    let flood = (1..1_000_000).find(|stream| {
        let result = streams.handle_record(Record::Open(*stream), now);
        while streams.poll_event().is_some() {}
        result.is_err()
    });
    assert!(flood.is_some());
    assert!(streams.count() <= STREAMS_MAX);
}

#[test]
fn boundless_credit_does_not_make_us_keep_boundless_bytes() {
    let (mut near, now) = resumed(Side::Near);
    let key = near.open().unwrap();
    let wire = near.streams[&key].wire;
    near.handle_record(Record::Accept(wire), now).unwrap();
    near.handle_record(Record::Credit { stream: wire, ack: 0, limit: u64::MAX }, now).unwrap();
    let mut kept = 0;
    while let Moved::Bytes(count) = near.try_write(key, &[0; 32 << 10], now) {
        kept += count as u64;
        assert!(kept <= WINDOW_BYTES_MAX, "no more than a window is kept");
    }
    let mut out = BytesMut::new();
    near.poll_transmit(&mut out, usize::MAX);
    while near.poll_event().is_some() {}
    near.handle_record(Record::Credit { stream: wire, ack: kept, limit: u64::MAX }, now).unwrap();
    assert!(std::iter::from_fn(|| near.poll_event()).any(|event| event == Event::Wake(key)), "room wakes the sender");
    assert!(matches!(near.try_write(key, b"more", now), Moved::Bytes(4)));
}

#[test]
fn tiny_records_are_kept_as_bytes_not_as_records() {
    let (mut far, now) = far_with_stream();
    for offset in 0..WINDOW_BYTES_INITIAL {
        far.handle_record(Record::Data { stream: 1, offset, ack: 0, bytes: b"x" }, now).unwrap();
        while far.poll_event().is_some() {}
    }
    assert!(far.streams[&1].recv.held_bytes() <= 2 * WINDOW_BYTES_INITIAL as usize);
}

#[test]
fn a_far_side_that_denies_an_accepted_stream_fails_it() {
    let (mut near, now) = resumed(Side::Near);
    let key = near.open().unwrap();
    let wire = near.streams[&key].wire;
    near.handle_record(Record::Accept(wire), now).unwrap();
    near.handle_disconnected(Cause::LinkDown, now);
    near.handle_connected(true);
    near.handle_record(Record::Resume { last: true, opened_through: 0, streams: Vec::new() }, now).unwrap();
    assert_eq!(near.failure(key), Some(Cause::Lost));
}

#[test]
fn a_far_side_that_claims_what_was_never_sent_fails_the_stream_at_both_ends() {
    let (mut near, now) = resumed(Side::Near);
    let key = near.open().unwrap();
    let wire = near.streams[&key].wire;
    near.handle_disconnected(Cause::LinkDown, now);
    near.handle_connected(true);
    let list = Record::Resume { last: true, opened_through: wire, streams: vec![(wire, u64::MAX)] };
    near.poll_transmit(&mut BytesMut::new(), 1000);
    near.handle_record(list, now).unwrap();
    assert_eq!(near.failure(key), Some(Cause::Lost));
    let mut out = BytesMut::new();
    near.poll_transmit(&mut out, 1000);
    let told = crate::link::wire::decode(&out).unwrap().expect("the other end is told").0;
    assert!(told == Record::Reset { stream: wire, cause: Cause::Lost });
}

#[test]
fn what_waits_for_receivers_that_are_not_connected_is_bounded() {
    let (mut far, now) = resumed(Side::Far);
    let window = vec![b'x'; WINDOW_BYTES_INITIAL as usize];
    let streams = LINK_BYTES_MAX / WINDOW_BYTES_INITIAL;
    for wire in 1..=streams + 100 {
        far.handle_record(Record::Open(wire), now).unwrap();
        far.handle_record(Record::Data { stream: wire, offset: 0, ack: 0, bytes: &window }, now).unwrap();
    }
    let held: usize = far.streams.values().map(|stream| stream.recv.held_bytes()).sum();
    assert!(held as u64 <= 2 * LINK_BYTES_MAX, "{held}");
    assert_eq!(far.failure(streams), None);
    assert_eq!(far.failure(streams + 1), Some(Cause::TooManyStreams), "the near side may try it again");
    far.accept(1);
    far.close(2, Cause::ReceiverRefuses);
    for wire in [streams + 101, streams + 102] {
        far.handle_record(Record::Open(wire), now).unwrap();
        far.handle_record(Record::Data { stream: wire, offset: 0, ack: 0, bytes: &window }, now).unwrap();
        assert_eq!(far.failure(wire), None, "there is room again");
    }
    far.fail_all(Cause::Lost);
    assert_eq!(far.waiting_bytes, 0);
}
