//! What a hostile far site gets, and what it cannot make this one send or settle.

use super::*;
use crate::link::feed::Window;
use crate::link::feed::wire::decode;
use crate::spool::{Digest, DigestKey, Epoch, ForwardId};

const WINDOW: Window = Window { messages_max: 4, bytes_max: 1_000, message_bytes_max: 5_000 };

fn opening() -> Opening {
    Opening {
        forward: ForwardId([4; 16]),
        digest_key: DigestKey([1; 32]),
        epoch: Epoch([2; 16]),
        epoch_first: 1,
        retired_through: 2,
        retired_digest: Digest([0; 32]),
    }
}

fn view(watermark: Sequence, taken: Sequence, messages: u32, bytes: u64) -> View {
    let far = FarView::At { epoch: Epoch([2; 16]), watermark, digest: Digest([0; 32]) };
    View { far, taken, messages, bytes, window: WINDOW }
}

fn begun(view: View, next: Sequence) -> Near {
    let mut near = Near::default();
    near.handle_connected(opening());
    assert_eq!(near.handle_record(Record::View(view)), Ok(Some(Event::Judge(view.far))));
    near.handle_judgement(Judgement::Agreed { next, in_doubt_through: 3 });
    near
}

fn queued(sequence: Sequence, bytes: usize) -> Queued {
    let (epoch, digest) = (Epoch([2; 16]), Digest([0; 32]));
    Queued { sequence, epoch, digest, payload: vec![1; bytes], accepted: SystemTime::UNIX_EPOCH }
}

/// Lists what is written as (kind, sequence).
fn written(near: &mut Near) -> Vec<(u8, Sequence)> {
    let mut out = BytesMut::new();
    near.poll_transmit(&mut out, usize::MAX);
    let mut found = Vec::new();
    while let Some((record, length)) = decode(&out).unwrap() {
        found.push((
            record.kind(),
            match &record {
                Record::Message(message) => message.sequence,
                Record::Begin { is_paused: true, .. } | Record::Paused(true) => 1,
                Record::Begin { after: through, .. } | Record::Retired(through) => *through,
                _ => 0,
            },
        ));
        out = out.split_off(length);
    }
    found
}

fn outcome(sequence: Sequence) -> Outcome {
    delivered_before(sequence, SystemTime::UNIX_EPOCH)
}

#[test]
fn the_window_bounds_what_is_sent_until_it_is_settled() {
    let mut near = begun(view(2, 0, 0, 0), 3);
    assert_eq!(near.poll_read(), None, "the far site has not begun yet");
    near.handle_record(Record::Reported(2)).unwrap();
    assert_eq!(near.poll_read().map(|(from, ..)| from), Some(3));
    near.handle_read((3..=10).map(|sequence| queued(sequence, 300)).collect());
    assert_eq!(written(&mut near), [(32, 0), (34, 2), (36, 3), (36, 4), (36, 5)], "900 bytes");
    near.handle_record(Record::Outcome(outcome(3))).unwrap();
    assert_eq!(written(&mut near), [(36, 6)], "an outcome makes room for bytes");
    near.handle_record(Record::Outcome(outcome(4))).unwrap();
    assert_eq!(written(&mut near), [], "only what is settled makes room for messages");
    near.handle_retired(4);
    assert_eq!(written(&mut near), [(40, 4), (36, 7)], "the far site hears of the room first");
    assert_eq!(near.in_flight(), 3);
}

#[test]
fn what_the_far_site_has_in_hand_counts_until_it_is_settled() {
    let mut near = begun(view(2, 5, 3, 900), 3);
    near.handle_read(vec![queued(6, 200), queued(7, 10)]);
    assert_eq!(written(&mut near), [(32, 0), (34, 5)], "1,100 bytes would be too many");
    near.handle_retired(5);
    assert_eq!(written(&mut near), [(40, 5), (36, 6), (36, 7)]);
}

#[test]
fn one_message_may_exceed_the_bytes_alone_and_one_that_is_too_large_stops_all() {
    let mut near = begun(view(2, 0, 0, 0), 3);
    near.handle_read(vec![queued(3, 4_000), queued(4, 1), queued(5, 5_001), queued(6, 1)]);
    assert_eq!(written(&mut near), [(32, 0), (34, 2), (36, 3)]);
    near.handle_record(Record::Outcome(outcome(3))).unwrap();
    assert_eq!(written(&mut near), [(36, 4)]);
    near.handle_record(Record::Outcome(outcome(4))).unwrap();
    assert_eq!((written(&mut near), near.too_large()), (vec![], Some(5)));
}

#[test]
fn a_pause_stops_the_next_message_and_nothing_is_read() {
    let mut near = begun(view(2, 0, 0, 0), 3);
    near.handle_read(vec![queued(3, 1)]);
    near.handle_record(Record::Reported(2)).unwrap();
    assert!(near.poll_read().is_some());
    near.set_paused(true);
    assert_eq!((written(&mut near), near.poll_read()), (vec![(32, 0), (34, 2), (44, 1)], None));
    near.set_paused(false);
    assert_eq!(written(&mut near), [(44, 0), (36, 3)]);
    near.set_paused(true);
    near.handle_connected(opening());
    let view = view(2, 0, 0, 0);
    near.handle_record(Record::View(view)).unwrap();
    near.handle_judgement(Judgement::Agreed { next: 3, in_doubt_through: 0 });
    assert_eq!(written(&mut near), [(32, 0), (34, 1)], "the beginning says so");
    near.set_paused(false);
    assert_eq!(written(&mut near), [(44, 0)]);
}

#[test]
fn outcomes_of_what_was_never_sent_are_refused() {
    let mut near = begun(view(2, 0, 0, 0), 3);
    near.handle_read(vec![queued(3, 1), queued(4, 1)]);
    near.set_paused(true);
    assert_eq!(near.handle_record(Record::Outcome(outcome(3))), Err(Fault::Outcome));
    assert_eq!(near.handle_record(Record::Outcome(outcome(0))), Err(Fault::Outcome));
    assert_eq!(near.handle_record(Record::Reported(3)), Err(Fault::Outcome));
    near.set_paused(false);
    written(&mut near);
    assert_eq!(near.handle_record(Record::Outcome(outcome(4))), Ok(None));
    assert!(near.poll_settlement(SystemTime::UNIX_EPOCH) == [outcome(4)]);
}

#[test]
fn what_the_far_site_is_behind_without_an_outcome_was_delivered_before() {
    let mut near = begun(view(6, 7, 1, 10), 7);
    let mut known = outcome(4);
    known.verdict = Verdict::Rejected;
    near.handle_record(Record::Outcome(known.clone())).unwrap();
    assert!(near.poll_settlement(SystemTime::UNIX_EPOCH) == [known], "nothing is concluded before all is reported");
    near.handle_record(Record::Reported(6)).unwrap();
    assert_eq!(near.handle_record(Record::Reported(6)), Err(Fault::Outcome));
    let concluded = near.poll_settlement(SystemTime::UNIX_EPOCH);
    assert!(concluded == [outcome(3), outcome(5), outcome(6)], "and 7 is in hand");
    assert!(near.poll_settlement(SystemTime::UNIX_EPOCH).is_empty());
}

#[test]
fn a_diverged_far_site_gets_nothing_and_settles_nothing() {
    let mut near = Near::default();
    near.handle_connected(opening());
    near.handle_record(Record::View(view(9, 9, 0, 0))).unwrap();
    near.handle_judgement(Judgement::Diverged(Divergence::FarAhead));
    near.handle_read(vec![queued(3, 1)]);
    near.handle_retired(9);
    assert_eq!(written(&mut near), [(32, 0), (35, 0)]);
    assert_eq!((near.divergence(), near.poll_read()), (Some(Divergence::FarAhead), None));
    assert_eq!(near.handle_record(Record::Outcome(outcome(1))), Err(Fault::Order(38)));
    near.handle_disconnected();
    assert_eq!(near.divergence(), Some(Divergence::FarAhead), "an operator sees it all the same");
}

#[test]
fn records_in_the_wrong_place_end_the_connection() {
    let mut asking = Near::default();
    asking.handle_connected(opening());
    assert_eq!(asking.handle_record(Record::Outcome(outcome(1))), Err(Fault::Order(38)));
    for record in [
        Record::Opening(opening()),
        Record::View(view(2, 0, 0, 0)),
        Record::Begin { after: 1, in_doubt_through: 1, is_paused: false },
        Record::Diverged(Divergence::FarAhead),
        Record::More { offset: 0, bytes: b"x" },
        Record::Retired(3),
        Record::Command { id: 1, kind: CommandKind::Retry, sequence: 1 },
    ] {
        let kind = record.kind();
        assert_eq!(begun(view(2, 0, 0, 0), 3).handle_record(record), Err(Fault::Order(kind)));
    }
    let mut near = begun(view(2, 0, 0, 0), 3);
    let answered = (0..100_000).take_while(|token| near.handle_record(Record::Ping(*token)).is_ok()).count();
    assert!(answered < 30_000, "a flood: {answered}");
}

#[test]
fn more_outcomes_than_are_settled_stop_the_reading() {
    let mut near = begun(view(2_000, 0, 0, 0), 2_001);
    near.view = Some(View { window: Window { messages_max: 5_000, ..WINDOW }, ..view(2_000, 0, 0, 0) });
    (3..=1_100).for_each(|sequence| {
        near.handle_record(Record::Outcome(outcome(sequence))).unwrap();
    });
    assert!(near.is_sated());
    assert_eq!(near.poll_settlement(SystemTime::UNIX_EPOCH).len(), SETTLE_MAX);
    assert!(!near.is_sated());
}

#[test]
fn a_command_follows_the_message_that_was_begun_and_nothing_that_is_barred() {
    let mut near = begun(view(2, 0, 0, 0), 3);
    near.handle_record(Record::Reported(2)).unwrap();
    near.view = near.view.map(|view| View { window: Window { message_bytes_max: 1 << 20, ..WINDOW }, ..view });
    near.handle_read(vec![queued(3, PART_BYTES_MAX * 3), queued(4, 1)]);
    let mut out = BytesMut::new();
    near.poll_transmit(&mut out, PART_BYTES_MAX); // the greeting and a first part
    near.push_command(1, CommandKind::Withdraw, 3);
    near.set_barred(Some(4));
    assert_eq!(written(&mut near), [(37, 0), (37, 0), (42, 0)], "the far site has the whole message by then");
    near.handle_record(Record::Outcome(outcome(3))).unwrap();
    near.handle_read(vec![queued(4, 1)]);
    assert_eq!((near.poll_read(), written(&mut near)), (None, vec![]), "4 waits for the operator");
    near.set_paused(true);
    near.push_command(2, CommandKind::Withdraw, 4);
    assert_eq!(written(&mut near), [(44, 1), (42, 0)], "a pause keeps no operator from asking");
    near.set_paused(false);
    near.set_barred(None);
    assert_eq!(near.poll_read().map(|(from, ..)| from), Some(4), "and is read again, if it is still there");
}
