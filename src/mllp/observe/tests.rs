//! Tests of the observer, by times that are made up.

use proptest::prelude::*;

use super::*;
use crate::mllp::dialect::Commit;
use crate::mllp::frame::encode;

fn message(id: &str) -> Vec<u8> {
    encode(format!("MSH|^~\\&|a|b|c|d|t||ADT^A01|{id}|P|2.5\rPID|1\r").as_bytes())
}

fn enhanced(id: &str, accept: &str, application: &str) -> Vec<u8> {
    encode(format!("MSH|^~\\&|a|b|c|d|t||ADT^A01|{id}|P|2.5|||{accept}|{application}\r").as_bytes())
}

fn ack(code: &str, id: &str) -> Vec<u8> {
    encode(format!("MSH|^~\\&|c|d|a|b|t||ACK^A01|R{id}|P|2.5\rMSA|{code}|{id}\r").as_bytes())
}

/// Drives an observer; the time is milliseconds since the start.
struct Wire {
    observer: Observer,
    start: Instant,
}

impl Wire {
    fn new() -> Self {
        Self { observer: Observer::new(Release::One, Limits::default()), start: Instant::now() }
    }

    fn release_2() -> Self {
        let observer = Observer::new(Release::Two(Commit::default()), Limits::default());
        Self { observer, start: Instant::now() }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn send(&mut self, millis: u64, bytes: &[u8]) -> Vec<Observation> {
        let mut seen = Vec::new();
        let now = self.at(millis);
        self.observer.handle_from_sender(bytes, now, &mut |observation| seen.push(observation)).unwrap();
        seen
    }

    fn answer(&mut self, millis: u64, bytes: &[u8]) -> Vec<Observation> {
        let mut seen = Vec::new();
        let now = self.at(millis);
        self.observer.handle_from_receiver(bytes, now, &mut |observation| seen.push(observation)).unwrap();
        seen
    }
}

fn acked(code: &str, millis: u64) -> Observation {
    Observation::Ack { code: AckCode::parse(code.as_bytes()), latency: Some(Duration::from_millis(millis)) }
}

const UNMATCHED: Observation = Observation::Anomaly(Anomaly::AnswerUnmatched);
const SKIPPED: Observation = Observation::Anomaly(Anomaly::AnswerSkipped);

fn unpaired(code: AckCode) -> [Observation; 2] {
    [Observation::Ack { code, latency: None }, UNMATCHED]
}

#[test]
fn a_message_and_its_answer_are_paired() {
    let mut wire = Wire::new();
    let sent = message("1");
    assert_eq!(wire.send(10, &sent[..20]), []);
    assert!(!wire.observer.is_at_boundary());
    assert_eq!(wire.send(15, &sent[20..]), [Observation::Message { bytes: sent.len() as u64 - 3 }]);
    assert!(wire.observer.is_at_boundary());
    assert_eq!(wire.observer.outstanding(), 1);
    assert_eq!(wire.observer.oldest_outstanding(wire.at(40)), Some(Duration::from_millis(25)));
    assert_eq!(wire.answer(55, &ack("AA", "1")), [acked("AA", 40)]);
    assert_eq!(wire.observer.outstanding(), 0);
    assert_eq!(wire.observer.oldest_outstanding(wire.at(90)), None);
}

#[test]
fn pipelined_messages_are_paired_by_control_id() {
    let mut wire = Wire::new();
    wire.send(0, &[message("1"), message("2"), message("3")].concat());
    assert_eq!(wire.answer(5, &ack("AA", "1")), [acked("AA", 5)]);
    assert_eq!(wire.answer(6, &ack("AE", "3")), [SKIPPED, acked("AE", 6)]);
    assert_eq!(wire.observer.outstanding(), 0);
    assert_eq!(wire.answer(7, &ack("AA", "2")), [acked("AA", 7)]);
}

#[test]
fn case_27_and_28_a_foreign_or_repeated_answer_is_nobodys() {
    let mut wire = Wire::new();
    wire.send(0, &message("1"));
    assert_eq!(wire.answer(1, &ack("AA", "9")), unpaired(AckCode::ApplicationAccept));
    assert_eq!(wire.observer.outstanding(), 1);
    assert_eq!(wire.answer(2, &ack("AA", "1")), [acked("AA", 2)]);
    assert_eq!(wire.answer(3, &ack("AA", "1")), unpaired(AckCode::ApplicationAccept));
}

#[test]
fn case_29_an_answer_without_a_control_id_or_msa_goes_to_the_oldest() {
    let mut wire = Wire::new();
    wire.send(0, &message("1"));
    wire.send(1, &message("2"));
    assert_eq!(wire.answer(10, &ack("AR", "")), [acked("AR", 10)]);
    let bare = encode(b"MSH|^~\\&|c|d|a|b|t||ACK|5|P|2.5\r");
    assert_eq!(wire.answer(11, &bare), [acked("", 10)]);
    assert_eq!(wire.answer(12, &bare), unpaired(AckCode::Absent));
}

#[test]
fn case_30_a_message_from_the_receivers_side_is_unsolicited_and_its_answer_waits_for_none() {
    let mut wire = Wire::new();
    assert_eq!(wire.answer(0, &message("R7")), [Observation::Unsolicited]);
    assert!(matches!(wire.send(1, &ack("AA", "R7"))[..], [Observation::Message { .. }]));
    assert_eq!(wire.observer.outstanding(), 0);
}

#[test]
fn case_31_ca_then_aa_both_belong_to_the_message() {
    let mut wire = Wire::new();
    wire.send(0, &enhanced("1", "AL", "AL"));
    assert_eq!(wire.answer(3, &ack("CA", "1")), [acked("CA", 3)]);
    assert_eq!(wire.observer.outstanding(), 0);
    assert_eq!(wire.answer(9, &ack("AA", "1")), [acked("AA", 9)]);
    assert_eq!(wire.answer(9, &ack("AA", "1")), unpaired(AckCode::ApplicationAccept));
}

#[test]
fn a_message_that_asks_for_no_answer_is_not_outstanding() {
    let mut wire = Wire::new();
    wire.send(0, &enhanced("1", "NE", "NE"));
    wire.send(0, &enhanced("2", "ER", "NE"));
    assert_eq!(wire.observer.outstanding(), 0);
    assert_eq!(wire.answer(4, &ack("CE", "2")), [acked("CE", 4)]);
    assert_eq!(wire.answer(5, &ack("AA", "1")), [acked("AA", 5)]);
}

#[test]
fn a_control_id_that_is_used_again_pairs_with_what_still_waits() {
    let mut wire = Wire::new();
    wire.send(0, &enhanced("1", "NE", "NE"));
    wire.send(1, &enhanced("1", "AL", "AL"));
    wire.answer(2, &ack("CA", "1"));
    wire.send(10, &message("1"));
    assert_eq!(wire.answer(13, &ack("AA", "1")), [acked("AA", 3)]);
    assert_eq!(wire.observer.outstanding(), 0);
}

#[test]
fn case_34_an_answer_with_a_made_up_control_id_goes_to_the_message_without_one() {
    let mut wire = Wire::new();
    wire.send(0, &message(""));
    assert_eq!(wire.answer(4, &ack("AA", "1")), [acked("AA", 4)]);
}

#[test]
fn case_9_and_10_control_empty_and_commit_frames_are_no_messages() {
    let mut wire = Wire::new();
    assert_eq!(wire.send(0, b"\x0b\x04\x1c\r"), [Observation::Anomaly(Anomaly::ControlFrame)]);
    assert_eq!(wire.send(0, b"\x0b\x1c\r"), [Observation::Anomaly(Anomaly::EmptyFrame)]);
    wire.send(0, &message("1"));
    let commit = Observation::Ack { code: AckCode::TransportAck, latency: None };
    assert_eq!(wire.answer(1, b"\x0b\x06\x1c\r"), [commit]);
    assert_eq!(wire.observer.outstanding(), 1);
}

#[test]
fn release_2_a_commit_belongs_to_the_oldest_message_without_one() {
    let committed = |code, millis| Observation::Ack { code, latency: Some(Duration::from_millis(millis)) };
    let (commit, refusal) = (b"\x0b\x06\x1c\r", b"\x0b\x15\x1c\r");
    let mut wire = Wire::release_2();
    wire.send(0, &message("1"));
    assert_eq!(wire.answer(2, commit), [committed(AckCode::TransportAck, 2)]);
    assert_eq!(wire.observer.outstanding(), 1, "its answer is to come");
    assert_eq!(wire.answer(5, &ack("AA", "1")), [acked("AA", 5)]);
    assert_eq!(wire.send(6, commit), [], "the sender's commit of it");
    // One that asks for no answer is committed all the same; one that is not is sent again.
    wire.send(10, &enhanced("2", "NE", "NE"));
    assert_eq!(wire.observer.outstanding(), 1);
    assert_eq!(wire.answer(12, refusal), [committed(AckCode::TransportNak, 2)]);
    assert_eq!(wire.observer.outstanding(), 0);
    wire.send(15, &message("3"));
    assert_eq!(wire.answer(16, refusal), [committed(AckCode::TransportNak, 1)]);
    assert_eq!(wire.observer.outstanding(), 0, "no answer comes to what is not there");
    assert_eq!(wire.answer(17, &ack("AA", "3")), unpaired(AckCode::ApplicationAccept));
    wire.send(20, &enhanced("2", "NE", "NE"));
    assert_eq!(wire.answer(21, commit), [committed(AckCode::TransportAck, 1)]);
    assert_eq!(wire.observer.outstanding(), 0);
    assert_eq!(wire.answer(22, commit), [Observation::Ack { code: AckCode::TransportAck, latency: None }, UNMATCHED]);
}

#[test]
fn case_8_a_message_that_is_started_over_counts_once() {
    let mut wire = Wire::new();
    let seen = wire.send(0, &[b"\x0bMSH|^~\\&|half", &message("1")[..]].concat());
    let bytes = message("1").len() as u64 - 3;
    assert_eq!(seen, [Observation::Anomaly(Anomaly::StartedOver), Observation::Message { bytes }]);
    assert_eq!(wire.observer.outstanding(), 1);
}

#[test]
fn case_3_silence_ends_a_message_whose_last_cr_is_missing() {
    let mut wire = Wire::new();
    let sent = message("1");
    assert_eq!(wire.send(5, &sent[..sent.len() - 1]), []);
    let deadline = wire.observer.next_deadline().unwrap();
    assert_eq!(deadline, wire.at(205));
    let mut seen = Vec::new();
    wire.observer.handle_deadline(wire.at(204), &mut |observation| seen.push(observation));
    assert_eq!(seen, []);
    wire.observer.handle_deadline(deadline, &mut |observation| seen.push(observation));
    assert!(matches!(seen[..], [Observation::Anomaly(Anomaly::EndWithoutCr), Observation::Message { .. }]));
    assert!(wire.observer.is_at_boundary());
    assert_eq!(wire.observer.next_deadline(), None);
}

#[test]
fn the_end_of_a_stream_inside_a_message_is_reported() {
    let mut wire = Wire::new();
    let mut seen = Vec::new();
    wire.send(0, b"\x0bMSH|^~\\&|half");
    wire.observer.handle_sender_end(wire.at(1), &mut |observation| seen.push(observation));
    wire.observer.handle_receiver_end(wire.at(1), &mut |observation| seen.push(observation));
    assert_eq!(seen, [Observation::Anomaly(Anomaly::TruncatedFrame)]);
}

#[test]
fn case_36_another_protocol_is_a_violation() {
    let mut observer = Observer::new(Release::One, Limits::default());
    let now = Instant::now();
    assert_eq!(observer.handle_from_sender(b"GET / HTTP/1.1", now, &mut |_| {}), Err(Violation::Http));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut wire = Wire::new();
    for number in 0..OUTSTANDING_MAX {
        wire.send(0, &message(&number.to_string()));
    }
    let seen = wire.send(1, &message("last"));
    assert_eq!(seen[1..], [Observation::Anomaly(Anomaly::OutstandingOverflow)]);
    assert_eq!(wire.observer.outstanding(), OUTSTANDING_MAX);
    assert_eq!(wire.answer(2, &ack("AA", "0")), unpaired(AckCode::ApplicationAccept));
}

proptest! {
    #[test]
    fn every_answer_in_order_finds_its_message(gaps in prop::collection::vec((0u64..50, 0u64..50), 1..60), cut in 1usize..40) {
        let mut wire = Wire::new();
        let mut clock = 0;
        for (number, (before, taken)) in gaps.into_iter().enumerate() {
            let id = number.to_string();
            clock += before;
            for piece in message(&id).chunks(cut) {
                wire.send(clock, piece);
            }
            clock += taken;
            let frame = ack("AA", &id);
            let (last, head) = frame.split_last().unwrap();
            prop_assert_eq!(wire.answer(clock, head), []);
            prop_assert_eq!(wire.answer(clock, &[*last]), [acked("AA", taken)]);
            prop_assert_eq!(wire.observer.outstanding(), 0);
        }
    }

    #[test]
    fn the_count_of_outstanding_messages_never_drifts(
        steps in prop::collection::vec((0u8..8, 0u8..5), 0..200),
        is_release_2 in any::<bool>(),
    ) {
        let mut wire = if is_release_2 { Wire::release_2() } else { Wire::new() };
        for (kind, id) in steps {
            let id = if id == 0 { String::new() } else { id.to_string() };
            match kind {
                0 | 1 => wire.send(0, &message(&id)),
                2 => wire.send(0, &enhanced(&id, "AL", "ER")),
                3 => wire.answer(0, &ack("CA", &id)),
                4 => wire.answer(0, b"\x0b\x06\x1c\r"),
                5 => wire.answer(0, b"\x0b\x15\x1c\r"),
                _ => wire.answer(0, &ack("AA", &id)),
            };
            let counted = wire.observer.unanswered.outstanding_entries();
            prop_assert_eq!(wire.observer.outstanding(), counted);
        }
    }

    #[test]
    fn arbitrary_bytes_are_survived(steps in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..64)), 0..40)) {
        let mut observer = Observer::new(Release::One, Limits::default());
        let now = Instant::now();
        for (from_sender, bytes) in steps {
            let _followed = if from_sender {
                observer.handle_from_sender(&bytes, now, &mut |_| {})
            } else {
                observer.handle_from_receiver(&bytes, now, &mut |_| {})
            };
        }
    }
}

/// Lists what the account is told: the number of bytes where all is named, and the code of the answer.
fn told(seen: &[Observation]) -> Vec<(u64, Option<&'static str>)> {
    let of = |observation: &Observation| match observation {
        Observation::Passed(trace) => Some((trace.bytes, None)),
        Observation::Answered { code, trace } => Some((trace.bytes, Some(code.code()))),
        _ => None,
    };
    seen.iter().filter_map(of).collect()
}

#[test]
fn each_message_is_named_once_whole_with_its_answer_or_without() {
    let mut wire = Wire::new();
    wire.observer = wire.observer.tracing(TraceKey::new(&[7; 32]));
    let bytes = message("1").len() as u64 - 3;
    assert_eq!(told(&wire.send(0, &message("1"))), []);
    assert_eq!(told(&wire.answer(10, &ack("AA", "1"))), [(bytes, Some("AA"))], "the answer's entry names it");
    let both = enhanced("2", "AL", "AL").len() as u64 - 3;
    wire.send(20, &enhanced("2", "AL", "AL"));
    assert_eq!(told(&wire.answer(30, &ack("CA", "2"))), [(both, Some("CA"))]);
    assert_eq!(told(&wire.answer(40, &ack("AA", "2"))), [(0, Some("AA"))], "by its control id");
    let none = enhanced("3", "NE", "NE").len() as u64 - 3;
    assert_eq!(told(&wire.send(50, &enhanced("3", "NE", "NE"))), [(none, None)], "no answer is due");
    wire.send(60, &[message("4"), message("5"), message("6")].concat());
    assert_eq!(told(&wire.answer(70, &ack("AA", "5"))), [(bytes, None), (bytes, Some("AA"))], "4 was passed over");
    let mut seen = Vec::new();
    wire.observer.handle_deadline(wire.at(259), &mut |observation| seen.push(observation));
    assert_eq!(told(&seen), []);
    wire.observer.handle_deadline(wire.at(260), &mut |observation| seen.push(observation));
    assert_eq!(told(&seen), [(bytes, None)], "6 has waited for so long");
    assert_eq!(told(&wire.answer(300, &ack("AA", "6"))), [(0, Some("AA"))]);
    wire.send(310, &message("7"));
    let mut seen = Vec::new();
    wire.observer.finish(&mut |observation| seen.push(observation));
    wire.observer.finish(&mut |observation| seen.push(observation));
    assert_eq!(told(&seen), [(bytes, None)], "the connection ends");
    for number in 0..=OUTSTANDING_MAX {
        let seen = wire.send(400, &message(&format!("8-{number}")));
        // 7 goes first, and is named already
        assert_eq!(told(&seen).len(), usize::from(number == OUTSTANDING_MAX), "{number}");
    }
}
