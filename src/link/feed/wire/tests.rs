//! The stored records: each comes back as it went, no bytes panic, nothing beyond its bounds gets through.

use proptest::prelude::*;

use super::*;
use crate::mllp::ack::AckCode;
use crate::spool::Verdict;

fn round_trip(record: &Record<'_>) {
    let mut bytes = BytesMut::new();
    encode(record, &mut bytes);
    assert_eq!(bytes[2], record.kind());
    for cut in 0..bytes.len() {
        assert!(matches!(decode(&bytes[..cut]), Ok(None)), "waits for the whole record");
    }
    let (decoded, length) = decode(&bytes).unwrap().unwrap();
    assert!(decoded == *record);
    assert_eq!(length, bytes.len());
}

fn some_outcome(verdict: Verdict, code: AckCode, answer: Vec<u8>) -> Outcome {
    let at = UNIX_EPOCH + Duration::from_millis(1_900_000_000_123);
    Outcome { sequence: 7, verdict, code, attempts: 3, in_doubt: 2, answer, at }
}

#[test]
fn every_record_comes_back_as_it_went() {
    round_trip(&Record::Opening(Opening {
        forward: ForwardId([1; 16]),
        digest_key: DigestKey([2; 32]),
        epoch: Epoch([3; 16]),
        epoch_first: 4,
        retired_through: 5,
        retired_digest: Digest([6; 32]),
    }));
    let window = Window { messages_max: 1, bytes_max: 2, message_bytes_max: u64::MAX };
    let at = FarView::At { epoch: Epoch([8; 16]), watermark: 9, digest: Digest([10; 32]) };
    for far in [FarView::Fresh, at] {
        round_trip(&Record::View(View { far, taken: 3, messages: 4, bytes: 5, window }));
    }
    for is_paused in [false, true] {
        round_trip(&Record::Begin { after: 1, in_doubt_through: u64::MAX, is_paused });
        round_trip(&Record::Paused(is_paused));
    }
    for divergence in DIVERGENCES {
        round_trip(&Record::Diverged(divergence));
    }
    for bytes in [&[][..], &[0x0b; PART_BYTES_MAX]] {
        round_trip(&Record::Message(Message {
            sequence: 9,
            previous: 7,
            epoch: Epoch([1; 16]),
            digest: Digest([2; 32]),
            in_doubt: true,
            total_bytes: u32::MAX,
            bytes,
        }));
    }
    round_trip(&Record::More { offset: 1, bytes: &[1, 2, 3] });
    for verdict in VERDICTS {
        for code in CODES {
            round_trip(&Record::Outcome(some_outcome(verdict, code, vec![7; ANSWER_BYTES_MAX])));
        }
    }
    round_trip(&Record::Reported(1));
    round_trip(&Record::Retired(u64::MAX));
    round_trip(&Record::Held(None));
    for code in CODES {
        round_trip(&Record::Held(Some(held(code, "ä".repeat(127)))));
    }
    for kind in KINDS {
        round_trip(&Record::Command { id: 1, kind, sequence: 2 });
    }
    for answer in ANSWERS {
        round_trip(&Record::Answer { id: u32::MAX, answer });
    }
    round_trip(&Record::Ping(1));
    round_trip(&Record::Pong(2));
    round_trip(&Record::Receiver(wire::ReceiverState::Down(Cause::ReceiverRefuses).into()));
    round_trip(&Record::Refuse(Cause::StoreFailed));
}

fn held(code: AckCode, text: String) -> Held {
    Held { sequence: 1, reason: 2, code, attempts: 3, in_doubt: 4, text }
}

#[test]
fn what_is_too_long_is_cut_and_what_is_not_known_is_named() {
    let mut bytes = BytesMut::new();
    let answer = vec![1; ANSWER_BYTES_MAX + 1];
    encode(&Record::Outcome(some_outcome(Verdict::Delivered, AckCode::Other, answer)), &mut bytes);
    let Some((Record::Outcome(outcome), _)) = decode(&bytes).unwrap() else { panic!("an outcome") };
    assert_eq!(outcome.answer.len(), ANSWER_BYTES_MAX);

    bytes.clear();
    let told = held(AckCode::Absent, format!("a\u{1b}[2J{}", "ä".repeat(200)));
    encode(&Record::Held(Some(told)), &mut bytes);
    let Some((Record::Held(Some(held)), _)) = decode(&bytes).unwrap() else { panic!("held") };
    assert!(held.text.starts_with("a[2Jä") && held.text.len() <= HELD_TEXT_BYTES_MAX, "no escape gets to a terminal");

    bytes.clear();
    encode(&Record::Diverged(Divergence::FarAhead), &mut bytes);
    bytes[3] = 9;
    assert!(decode(&bytes).is_err_and(|error| error == WireError::UnknownValue(35)));
    bytes[3] = 0;
    assert!(decode(&bytes).is_err_and(|error| error == WireError::UnknownValue(35)));
    bytes.clear();
    wire::encode(&wire::Record::Open(1), &mut bytes);
    assert!(decode(&bytes).is_err_and(|error| error == WireError::UnknownKind(5)), "no stream among stored messages");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(kind in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut record = BytesMut::new();
        put_record(&mut record, |out| {
            out.put_u8(kind);
            out.put_slice(&bytes);
        });
        if let Ok(Some((decoded, length))) = decode(&record) {
            prop_assert!(length <= record.len());
            let mut again = BytesMut::new();
            encode(&decoded, &mut again);
            let (redecoded, _) = decode(&again).unwrap().unwrap();
            prop_assert!(redecoded == decoded);
        }
    }
}
