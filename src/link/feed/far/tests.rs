//! What a hostile near site gets: each rule that it breaks ends the connection, and none makes this site hold more.

use super::*;
use crate::link::feed::wire::{PART_BYTES_MAX, decode};
use crate::mllp::ack::AckCode;
use crate::spool::{DigestKey, Epoch, ForwardId, Verdict};
use std::time::SystemTime;

const KEY: DigestKey = DigestKey([1; 32]);
const OLD: Epoch = Epoch([2; 16]);
const NEW: Epoch = Epoch([3; 16]);
const WINDOW: Window = Window { messages_max: 4, bytes_max: 1_000, message_bytes_max: 5_000 };
const START: Digest = Digest([0; 32]);

/// Is an end whose book is behind 2; the epoch of this start of the near site begins with 4.
fn begun() -> Far {
    let mut far = Far::new(WINDOW, [], None);
    let at = FarView::At { epoch: OLD, watermark: 2, digest: START };
    open(&mut far, at);
    far
}

fn opening() -> Opening {
    Opening {
        forward: ForwardId([4; 16]),
        digest_key: KEY,
        epoch: NEW,
        epoch_first: 4,
        retired_through: 2,
        retired_digest: START,
    }
}

fn open(far: &mut Far, at: FarView) {
    far.handle_opening(opening(), at);
    let after = far.tail.0.max(2);
    assert!(
        far.handle_record(Record::Begin { after, in_doubt_through: 0, is_paused: false }) == Ok(Some(Event::Begin))
    );
    far.handle_begun(at).unwrap();
}

fn message(sequence: Sequence, digest: Digest, payload: &[u8]) -> Message<'_> {
    Message {
        sequence,
        previous: sequence - 1,
        epoch: if sequence < 4 { OLD } else { NEW },
        digest,
        in_doubt: false,
        total_bytes: u32::try_from(payload.len()).unwrap(),
        bytes: payload,
    }
}

/// Sends messages of one byte size from 3 on and returns what the last one led to.
fn send(far: &mut Far, through: Sequence, bytes: usize) -> Result<Option<Event>, Fault> {
    let (mut digest, payload) = (START, vec![7; bytes]);
    let mut last = Ok(None);
    for sequence in 3..=through {
        digest = KEY.following(&digest, sequence, &payload);
        if sequence > far.tail.0 {
            last = far.handle_record(Record::Message(message(sequence, digest, &payload)));
        }
    }
    last
}

fn outcome(sequence: Sequence, answer_bytes: usize) -> Outcome {
    Outcome {
        sequence,
        verdict: Verdict::Delivered,
        code: AckCode::ApplicationAccept,
        attempts: 1,
        in_doubt: 0,
        answer: vec![1; answer_bytes],
        at: SystemTime::UNIX_EPOCH,
    }
}

fn written(far: &mut Far) -> Vec<u8> {
    let mut out = BytesMut::new();
    far.poll_transmit(&mut out, usize::MAX);
    let mut kinds = Vec::new();
    while let Some((record, length)) = decode(&out).unwrap() {
        kinds.push(record.kind());
        out = out.split_off(length);
    }
    kinds
}

#[test]
fn a_gap_a_repetition_and_a_wrong_digest_end_the_connection() {
    let digest = |sequence, previous| KEY.following(&previous, sequence, b"x");
    let third = digest(3, START);
    let faults = [
        (Message { previous: 1, ..message(3, third, b"x") }, Fault::Gap),
        (Message { previous: 3, ..message(4, third, b"x") }, Fault::Gap),
        (Message { sequence: 2, ..message(3, third, b"x") }, Fault::Gap),
        (message(3, START, b"x"), Fault::Digest),
        (message(3, third, b"y"), Fault::Digest),
        (Message { epoch: NEW, ..message(3, third, b"x") }, Fault::Epoch),
        (Message { sequence: 4, epoch: OLD, ..message(3, third, b"x") }, Fault::Epoch),
        (Message { total_bytes: 5_001, ..message(3, third, b"x") }, Fault::TooLarge),
        (Message { total_bytes: 0, ..message(3, third, b"x") }, Fault::TooLarge),
    ];
    for (message, fault) in faults {
        assert!(begun().handle_record(Record::Message(message)) == Err(fault), "{fault}");
    }
    assert!(matches!(begun().handle_record(Record::Message(message(3, third, b"x"))), Ok(Some(Event::Taken(_)))));
}

#[test]
fn a_gap_that_the_near_site_names_is_none_and_the_digest_goes_on_from_there() {
    let mut far = begun();
    let told = Digest([77; 32]);
    let after_gap = Message { previous: 2, ..message(5, told, b"x") };
    assert!(
        matches!(far.handle_record(Record::Message(after_gap)), Ok(Some(Event::Taken(taken))) if taken.digest == told)
    );
    let next = KEY.following(&told, 6, b"y");
    assert!(matches!(far.handle_record(Record::Message(message(6, next, b"y"))), Ok(Some(Event::Taken(_)))));
}

#[test]
fn the_window_is_enforced_in_messages_and_in_bytes() {
    assert!(send(&mut begun(), 6, 10).is_ok());
    assert!(send(&mut begun(), 7, 10) == Err(Fault::Window), "a fifth message");
    assert!(send(&mut begun(), 4, 600) == Err(Fault::Window), "1,200 bytes");
    let mut far = begun();
    assert!(send(&mut far, 3, 5_000).is_ok(), "one alone may exceed it");
    assert!(send(&mut far, 4, 1) == Err(Fault::Window));

    // An outcome makes room for bytes, and only retiring makes room for messages: outcomes are kept until then.
    let mut far = begun();
    send(&mut far, 6, 10).unwrap();
    (3..=6).for_each(|sequence| far.handle_outcome(outcome(sequence, 0)));
    assert!(!far.has_messages());
    assert!(send(&mut far, 7, 10) == Err(Fault::Window));
    assert!(far.handle_record(Record::Retired(4)).is_ok());
    assert!(send(&mut far, 8, 10).is_ok());
    assert_eq!(far.poll_prune(), Some(4));
    assert!(far.handle_record(Record::Retired(u64::MAX)).is_ok());
    assert_eq!(far.poll_prune(), Some(8), "never beyond what came");
    assert!(far.has_messages(), "what waits for the receiver still counts");
    assert!(send(&mut far, 11, 10) == Err(Fault::Window), "7 and 8 have no outcome");
}

#[test]
fn a_message_in_parts_is_whole_or_nothing() {
    let payload = vec![9; 5_000];
    let digest = KEY.following(&START, 3, &payload);
    let begin = Message { bytes: &payload[..1_000], ..message(3, digest, &payload) };
    let more = |offset, bytes| Record::More { offset, bytes };
    for (record, fault) in [
        (more(999, &payload[..1]), Fault::Gap),
        (more(1_000, &payload[..0]), Fault::Gap),
        (more(1_000, &payload[..4_001]), Fault::TooLarge),
        (Record::Message(message(4, digest, b"x")), Fault::Order(36)),
    ] {
        let mut far = begun();
        assert!(far.handle_record(Record::Message(begin)) == Ok(None));
        assert!(far.handle_record(record) == Err(fault), "{fault}");
    }
    assert!(begun().handle_record(more(0, &payload[..1])) == Err(Fault::Order(37)));

    let mut far = begun();
    far.handle_record(Record::Message(begin)).unwrap();
    far.handle_disconnected();
    assert_eq!((far.tail.0, far.has_messages()), (2, false), "half a message is none");
    open(&mut far, FarView::At { epoch: OLD, watermark: 2, digest: START });
    far.handle_record(Record::Message(begin)).unwrap();
    let taken = far.handle_record(more(1_000, &payload[1_000..]));
    assert!(matches!(taken, Ok(Some(Event::Taken(taken))) if taken.payload == payload));
    const { assert!(PART_BYTES_MAX > 4_000, "or the parts above would be too long for a record") };
}

#[test]
fn records_in_the_wrong_place_end_the_connection() {
    let at = FarView::At { epoch: OLD, watermark: 2, digest: START };
    let mut opened = Far::new(WINDOW, [], None);
    opened.handle_opening(opening(), at);
    let digest = KEY.following(&START, 3, b"x");
    assert!(opened.handle_record(Record::Message(message(3, digest, b"x"))) == Err(Fault::Order(36)));
    assert!(opened.handle_record(Record::Retired(1)) == Err(Fault::Order(40)));
    for record in [
        Record::Opening(opening()),
        Record::Begin { after: 2, in_doubt_through: 0, is_paused: false },
        Record::Diverged(Divergence::FarAhead),
        Record::Outcome(outcome(3, 0)),
        Record::Reported(1),
        Record::Held(None),
        Record::Answer { id: 1, answer: Answer::Unknown },
        Record::Receiver(crate::link::wire::ReceiverState::Up.into()),
        Record::Refuse(Cause::Protocol),
    ] {
        let kind = record.kind();
        assert!(begun().handle_record(record) == Err(Fault::Order(kind)), "{kind}");
    }
    let mut diverged = Far::new(WINDOW, [], None);
    diverged.handle_opening(opening(), at);
    assert!(diverged.handle_record(Record::Diverged(Divergence::FarAhead)) == Ok(None));
    assert_eq!(diverged.divergence(), Some(Divergence::FarAhead));
    assert!(diverged.handle_record(Record::Message(message(3, digest, b"x"))) == Err(Fault::Order(36)));

    let mut behind = Far::new(WINDOW, [], None);
    behind.handle_opening(opening(), at);
    behind.handle_record(Record::Begin { after: 1, in_doubt_through: 0, is_paused: false }).map(|_| ()).unwrap();
    assert_eq!(behind.handle_begun(at), Err(Fault::Gap), "it would send 2 again");
}

#[test]
fn a_near_site_that_settled_what_is_in_hand_comes_again() {
    let mut far = begun();
    send(&mut far, 3, 10).unwrap();
    let settled = Opening { retired_through: 3, ..opening() };
    far.handle_opening(settled.clone(), FarView::At { epoch: OLD, watermark: 2, digest: START });
    assert!(
        far.handle_record(Record::Begin { after: 3, in_doubt_through: 0, is_paused: false }) == Err(Fault::Settled)
    );
    far.handle_outcome(outcome(3, 0));
    far.handle_opening(settled, FarView::At { epoch: OLD, watermark: 3, digest: START });
    assert!(
        far.handle_record(Record::Begin { after: 3, in_doubt_through: 0, is_paused: false }) == Ok(Some(Event::Begin))
    );
}

#[test]
fn commands_and_echoes_without_end_are_a_flood() {
    let mut far = begun();
    send(&mut far, 3, 10).unwrap();
    let mut ask = |id| far.handle_record(Record::Command { id, kind: CommandKind::Retry, sequence: 3 });
    for id in 0..64 {
        assert!(ask(id).is_ok());
    }
    assert!(ask(64) == Err(Fault::Flood));
    let mut far = begun();
    let answered = (0..100_000).take_while(|token| far.handle_record(Record::Ping(*token)).is_ok()).count();
    assert!(answered < 30_000, "{answered}");
}

#[test]
fn outcomes_that_nobody_reads_are_read_from_the_book_later() {
    let mut far = begun();
    assert_eq!(far.poll_list(), Some(2));
    far.handle_listed(Vec::new());
    assert_eq!(written(&mut far), [33, 39]);
    let all: Vec<Outcome> = (3..=103).map(|sequence| outcome(sequence, 16 << 10)).collect();
    all.iter().for_each(|outcome| far.handle_outcome(outcome.clone()));
    assert!(far.tell_bytes < 1_100_000, "a megabyte at the most");
    assert_eq!(far.poll_list(), None, "not while so much waits");
    let mut told = written(&mut far).len();
    while let Some(after) = far.poll_list() {
        far.handle_listed(all.iter().filter(|outcome| outcome.sequence > after).cloned().collect());
        told += written(&mut far).len();
    }
    assert_eq!(told, 101, "each once");
}

#[test]
fn a_command_is_for_what_is_in_hand_and_the_rest_is_answered_here() {
    let mut far = Far { attempted: Some(6), ..begun() };
    send(&mut far, 4, 10).unwrap();
    far.handle_outcome(outcome(3, 0));
    written(&mut far);
    let kind = CommandKind::Withdraw;
    let mut ask = |sequence| far.handle_record(Record::Command { id: 9, kind, sequence }).unwrap();
    assert!(ask(4) == Some(Event::Command(9, kind, 4)));
    assert!(ask(3).is_none() && ask(1).is_none() && ask(5).is_none() && ask(6).is_none());
    let mut out = BytesMut::new();
    far.poll_transmit(&mut out, usize::MAX);
    let mut answers = Vec::new();
    while let Some((record, length)) = decode(&out).unwrap() {
        if let Record::Answer { id: 9, answer } = record {
            answers.push(answer);
        }
        out = out.split_off(length);
    }
    let attempted = Answer::Attempted;
    assert_eq!(answers, [attempted, attempted, Answer::Unknown, attempted], "6 is in doubt since an earlier start");
}

#[test]
fn a_pause_outlives_its_connection_until_the_near_site_says_otherwise() {
    let mut far = begun();
    assert!(!far.is_paused());
    far.handle_record(Record::Paused(true)).map(|_| ()).unwrap();
    far.handle_disconnected();
    assert!(far.is_paused());
    let again = |far: &mut Far, is_paused| {
        far.handle_opening(opening(), FarView::At { epoch: OLD, watermark: 2, digest: START });
        far.handle_record(Record::Begin { after: 2, in_doubt_through: 0, is_paused }).map(|_| ()).unwrap();
        far.is_paused()
    };
    assert!(again(&mut far, true) && !again(&mut far, false));
    assert!(far.handle_record(Record::Paused(true)) == Err(Fault::Order(44)), "not before it is begun");
}
