//! One direction of a stream: offsets, credit, acknowledgements, going back.

#![allow(clippy::cast_possible_truncation, reason = "a test's numbers are small, or meant to wrap")]

use super::*;
use proptest::prelude::*;

fn next(send: &mut SendHalf, bytes_max: usize) -> Option<(u64, Option<Vec<u8>>)> {
    send.poll_transmit(bytes_max).map(|piece| match piece {
        Transmit::Data { offset, bytes } => (offset, Some(bytes.to_vec())),
        Transmit::Fin { offset } => (offset, None),
    })
}

#[test]
fn the_end_counts_as_a_byte_and_is_acknowledged_like_one() {
    let mut send = SendHalf::new();
    send.push(b"abc");
    send.finish();
    assert_eq!(send.push(b"d"), 0, "nothing follows the end");
    assert_eq!(next(&mut send, 2), Some((0, Some(b"ab".to_vec()))));
    assert_eq!(next(&mut send, 2), Some((2, Some(b"c".to_vec()))));
    assert_eq!(next(&mut send, 2), Some((3, None)));
    assert_eq!(next(&mut send, 2), None);
    assert_eq!(send.handle_ack(3), Ok(false));
    assert!(!send.is_acked());
    send.handle_ack(4).unwrap();
    assert!(send.is_acked());
    assert_eq!(send.handle_ack(5), Err(Violation));
    assert_eq!(send.handle_ack(u64::MAX), Err(Violation));
}

#[test]
fn going_back_repeats_from_there_and_never_what_was_freed() {
    let mut send = SendHalf::new();
    send.push(b"abcdef");
    send.finish();
    while next(&mut send, 4).is_some() {}
    send.handle_ack(2).unwrap();
    assert_eq!(send.rewind(1), Err(Violation), "it is freed");
    assert_eq!(send.rewind(8), Err(Violation), "it was never sent");
    send.rewind(3).unwrap();
    assert_eq!(next(&mut send, 9), Some((3, Some(b"def".to_vec()))));
    assert_eq!(next(&mut send, 9), Some((6, None)));
    send.rewind(7).unwrap();
    assert_eq!(next(&mut send, 9), None, "the end was received");
}

#[test]
fn credit_ends_at_its_limit_and_never_falls() {
    let mut send = SendHalf::new();
    let much = vec![0; 100_000];
    assert_eq!(send.push(&much), 65_536);
    assert_eq!(send.push(&much), 0);
    assert!(send.handle_limit(65_537), "there is room again");
    assert!(!send.handle_limit(10));
    assert_eq!(send.push(&much), 1);
}

#[test]
fn numbers_at_the_end_of_their_range_neither_panic_nor_pass() {
    let mut recv = RecvHalf::new();
    assert_eq!(recv.handle_data(u64::MAX, b"x"), Err(Violation));
    assert_eq!(recv.handle_fin(u64::MAX), Err(Violation));
    recv.handle_fin(0).unwrap();
    assert_eq!(recv.handle_fin(u64::MAX), Err(Violation));
    assert_eq!(recv.handle_fin(0), Ok(()), "a repeated end is nothing new");
    assert_eq!(recv.handle_data(1, b"x"), Err(Violation), "nothing follows the end");
}

#[test]
fn credit_is_given_again_once_half_of_it_is_used() {
    let mut recv = RecvHalf::new();
    recv.handle_data(0, &[0; 40_000]).unwrap();
    assert!(!recv.wants_credit());
    recv.read(&mut [0; 32_768]);
    assert!(!recv.wants_credit());
    recv.read(&mut [0; 1]);
    assert!(recv.wants_credit());
    assert_eq!(recv.grant(100_000), 132_769);
    assert_eq!(recv.grant(100_000), 132_769, "not before it is wanted");
}

#[test]
fn what_came_before_is_left_out() {
    let mut recv = RecvHalf::new();
    recv.handle_data(0, b"abc").unwrap();
    recv.handle_data(1, b"bcde").unwrap();
    recv.handle_data(0, b"ab").unwrap();
    let mut out = [0; 9];
    assert_eq!(recv.read(&mut out), 5);
    assert_eq!(&out[..5], b"abcde");
}

proptest! {
    /// Whatever is lost and sent again, what is read is what was pushed.
    #[test]
    fn any_order_of_sending_and_going_back_reads_as_it_was_pushed(
        steps in proptest::collection::vec((0_u8..6, 1_usize..5000), 1..80),
    ) {
        let (mut send, mut recv) = (SendHalf::new(), RecvHalf::new());
        let (mut pushed, mut got) = (Vec::new(), Vec::new());
        for (kind, size) in steps {
            match kind {
                0 => {
                    let bytes: Vec<u8> = (0..size).map(|n| (pushed.len() + n) as u8).collect();
                    let taken = send.push(&bytes);
                    pushed.extend_from_slice(&bytes[..taken]);
                }
                1 | 2 => {
                    if let Some((offset, Some(bytes))) = next(&mut send, size) {
                        prop_assert!(bytes.len() <= size && !bytes.is_empty());
                        if kind == 1 && offset <= recv.received() {
                            prop_assert_eq!(recv.handle_data(offset, &bytes), Ok(()));
                        }
                    }
                }
                3 => {
                    let mut out = vec![0; size];
                    let count = recv.read(&mut out);
                    got.extend_from_slice(&out[..count]);
                    let limit = recv.grant(64 << 10);
                    send.handle_limit(limit);
                }
                4 => drop(send.handle_ack(recv.received())),
                _ => drop(send.rewind(recv.received())),
            }
            prop_assert!(send.unacked_bytes() as u64 <= WINDOW_BYTES_MAX);
            prop_assert!(pushed.starts_with(&got));
        }
        send.rewind(recv.received()).ok();
        while let Some((offset, Some(bytes))) = next(&mut send, 999) {
            prop_assert_eq!(recv.handle_data(offset, &bytes), Ok(()));
        }
        let mut rest = vec![0; 300_000];
        let count = recv.read(&mut rest);
        got.extend_from_slice(&rest[..count]);
        prop_assert!(got == pushed);
    }
}
