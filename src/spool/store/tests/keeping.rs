//! Tests of what operators do, of what is kept and for how long, and of the outbox.

use super::*;
use crate::spool::{Attempt, Finished, Ledger as _};

fn to(target: &str) -> Destination {
    Destination { peer_key: [5; 32], target: target.to_owned() }
}

async fn states(spool: &Spool) -> Vec<State> {
    spool.list(1, None, 99).await.unwrap().iter().map(|one| one.state).collect()
}

#[tokio::test]
async fn an_operator_parks_releases_and_discards_and_every_step_is_noted() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=3 {
        spool.keep(message(number)).await.unwrap();
    }
    spool.park(1, false, "anna").await.unwrap();
    assert!(matches!(spool.park(1, false, "anna").await, Err(SpoolError::NotAllowed { state: "parked", .. })));
    assert!(matches!(spool.park(9, false, "anna").await, Err(SpoolError::NotThere { sequence: 9 })));
    assert_eq!(spool.release(1, "anna").await.unwrap(), 4);
    spool.discard(2, false, "ben", "sent twice").await.unwrap();
    assert_eq!(states(&spool).await, [State::Released, State::Discarded, State::Queued, State::Queued]);
    assert!(spool.payload(4, "anna").await.unwrap() == message(1));
    assert!(matches!(spool.payload(2, "anna").await, Err(SpoolError::NotAllowed { .. })));
    spool.retried(3, "anna").await.unwrap();
    let events = spool.read_outbox(3, 99).await.unwrap();
    let told: Vec<_> = events.iter().map(|e| (e.sequence, e.happening, e.by.as_str(), e.reason.as_str())).collect();
    assert_eq!(
        told,
        [
            (1, Happening::Parked, "anna", ""),
            (4, Happening::Accepted, "", ""),
            (1, Happening::Released, "anna", "queued again as 4"),
            (2, Happening::Discarded, "ben", "sent twice"),
            (4, Happening::Viewed, "anna", ""),
            (3, Happening::Retried, "anna", ""),
        ]
    );
    assert_eq!(spool.opening().await.unwrap().retired_through, 2);
}

#[tokio::test]
async fn what_may_be_sent_is_not_touched_before_it_was_withdrawn() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    spool.read(1, 9, usize::MAX).await.unwrap();
    drop(spool);
    let spool = place.open();
    assert!(matches!(spool.park(1, false, "anna").await, Err(SpoolError::Sent { sequence: 1 })));
    assert!(matches!(spool.discard(1, false, "anna", "why").await, Err(SpoolError::Sent { sequence: 1 })));
    assert_eq!(states(&spool).await, [State::Queued]);
    spool.park(1, true, "anna").await.unwrap();
    spool.discard(1, false, "anna", "why").await.unwrap();
    assert_eq!(states(&spool).await, [State::Discarded]);
}

#[tokio::test]
async fn what_an_own_delivery_read_and_did_not_attempt_was_not_sent() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=4 {
        spool.keep(message(number)).await.unwrap();
    }
    let (orders, images) = (to("orders"), to("images"));
    assert_eq!(spool.read_for(&orders, 1, 9, usize::MAX).await.unwrap().len(), 4);
    let attempt = Attempt { sequence: 1, number: 2, in_doubt: 0, interrupted: 0, under_way: true };
    spool.commit(None, Some(attempt)).await.unwrap();
    spool.pause(true, "anna").await.unwrap();
    drop(spool);
    let spool = place.open();
    let sent = async |spool: &Spool| {
        let listed = spool.list(1, None, 9).await.unwrap();
        listed.iter().map(|one| one.may_be_sent).collect::<Vec<_>>()
    };
    assert_eq!(sent(&spool).await, [true; 4]);
    spool.hand_anew(&images).await.unwrap();
    assert_eq!(sent(&spool).await, [true; 4], "another may have them");
    spool.hand_anew(&orders).await.unwrap();
    assert_eq!(sent(&spool).await, [true, false, false, false]);
    spool.discard(3, false, "anna", "why").await.unwrap();
    spool.park(1, false, "anna").await.unwrap();
    let first = spool.show(1).await.unwrap();
    assert_eq!(first.outcome.map(|outcome| (outcome.attempts, outcome.in_doubt)), Some((2, 1)));
    // What is read again is asked for again.
    spool.pause(false, "anna").await.unwrap();
    assert_eq!(spool.read_for(&orders, 1, 1, usize::MAX).await.unwrap().len(), 1);
    assert!(matches!(spool.park(2, false, "anna").await, Err(SpoolError::Sent { sequence: 2 })));
    // What was sent elsewhere before it was moved here may be there.
    assert_eq!(spool.move_to(orders, images.clone(), "anna").await.unwrap(), 2);
    spool.hand_anew(&images).await.unwrap();
    assert!(matches!(spool.park(2, false, "anna").await, Err(SpoolError::Sent { sequence: 2 })));
}

#[tokio::test]
async fn what_was_never_read_cannot_have_been_sent() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=3 {
        spool.keep(message(number)).await.unwrap();
    }
    assert_eq!(spool.read(1, 1, usize::MAX).await.unwrap().len(), 1);
    // As an operator does who pauses a forward, and then sets aside what came meanwhile.
    spool.park(2, false, "anna").await.unwrap();
    assert!(matches!(spool.park(1, false, "anna").await, Err(SpoolError::Sent { sequence: 1 })));
    assert_eq!(spool.judge(FarView::Fresh).await.unwrap(), Judgement::Agreed { next: 1, in_doubt_through: 1 });
    drop(spool);
    let spool = place.open();
    spool.keep(message(4)).await.unwrap();
    spool.discard(4, false, "anna", "why").await.unwrap();
    assert!(matches!(spool.park(1, false, "anna").await, Err(SpoolError::Sent { sequence: 1 })));
}

#[tokio::test]
async fn a_pause_outlives_a_restart() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    spool.pause(true, "anna").await.unwrap();
    drop(spool);
    let spool = place.open();
    assert!(spool.tail().borrow().paused);
    assert!(spool.read(1, 9, usize::MAX).await.unwrap().is_empty());
    spool.pause(false, "anna").await.unwrap();
    assert_eq!(spool.read(1, 9, usize::MAX).await.unwrap().len(), 1);
}

#[tokio::test]
async fn messages_wait_for_their_own_destination_until_they_are_moved() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=3 {
        spool.keep(message(number)).await.unwrap();
    }
    spool.park(3, false, "anna").await.unwrap();
    drop(spool);
    let spool = place.try_open("other").unwrap();
    assert_eq!(spool.keep(message(4)).await.unwrap(), 4);
    let read = async |spool: &Spool, target: &str| {
        let read = spool.read_for(&to(target), 1, 9, usize::MAX).await.unwrap();
        read.iter().map(|one| one.sequence).collect::<Vec<_>>()
    };
    assert!(read(&spool, "other").await.is_empty(), "what is behind those of another one waits");
    assert_eq!(read(&spool, "orders").await, [1, 2], "and they end where it begins");
    let tail = spool.tail().borrow().clone();
    assert_eq!((tail.first_for, tail.waiting), (Some(to("orders")), vec![(to("orders"), 2), (to("other"), 1)]));
    assert_eq!(spool.held_for().await.unwrap(), [(to("orders"), 3), (to("other"), 1)]);
    spool.park_unasked(1, "anna").await.unwrap();
    spool.park_unasked(2, "anna").await.unwrap();
    assert_eq!(spool.tail().borrow().first_for, Some(to("other")));
    assert_eq!(read(&spool, "other").await, [4]);
    assert_eq!(spool.release(3, "anna").await.unwrap(), 5, "it is for where it was");
    assert_eq!(read(&spool, "other").await, [4]);
    // To move what is accepted here now leaves what is accepted from now on.
    assert_eq!(spool.move_to(to("other"), to("third"), "anna").await.unwrap(), 1);
    assert_eq!(spool.keep(message(6)).await.unwrap(), 6);
    assert_eq!(spool.move_to(to("orders"), to("third"), "anna").await.unwrap(), 1);
    drop(spool);
    let spool = place.try_open("other").unwrap();
    assert_eq!((read(&spool, "third").await, read(&spool, "other").await), (vec![4, 5], vec![]));
    let listed = spool.list(1, None, 9).await.unwrap();
    let targets: Vec<_> = listed.iter().map(|one| one.destination.target.as_str()).collect();
    assert_eq!(targets, ["third", "third", "orders", "third", "third", "other"]);
}

#[tokio::test]
async fn a_move_leaves_what_was_delivered_as_it_was() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=4 {
        spool.keep(message(number)).await.unwrap();
    }
    spool.read(1, 9, usize::MAX).await.unwrap();
    spool.settle(vec![outcome(1, Verdict::Delivered), outcome(2, Verdict::Rejected)]).await.unwrap();
    assert_eq!(spool.move_to(to("orders"), to("second"), "anna").await.unwrap(), 2);
    let later = SystemTime::now() + Duration::from_secs(3600);
    // The other site's clock may be anywhere.
    spool.settle(vec![Outcome { at: later, ..outcome(3, Verdict::Delivered) }]).await.unwrap();
    assert_eq!(spool.move_to(to("second"), to("third"), "anna").await.unwrap(), 1);
    let expected = [("orders", 0), ("third", 2), ("second", 1), ("third", 2)];
    let mut spool = spool;
    for _ in 0..2 {
        let listed = spool.list(1, None, 9).await.unwrap();
        let told: Vec<_> = listed.iter().map(|one| (one.destination.target.as_str(), one.decisions.len())).collect();
        assert_eq!(told, expected);
        drop(spool);
        spool = place.open();
    }
    // What was delivered goes again where it went.
    assert_eq!(spool.release(1, "anna").await.unwrap(), 5);
    assert_eq!(spool.release(3, "anna").await.unwrap(), 6);
    spool.discard(1, true, "anna", "no need").await.unwrap();
    let listed = spool.list(1, None, 9).await.unwrap();
    let told: Vec<_> = listed.iter().map(|one| one.destination.target.as_str()).collect();
    assert_eq!(told, ["orders", "third", "second", "third", "orders", "second"]);
    assert!(listed[0].decisions.iter().all(|event| event.happening != Happening::Moved));
    assert_eq!(spool.held_for().await.unwrap(), [(to("third"), 2), (to("orders"), 1), (to("second"), 1)]);
}

#[tokio::test]
async fn with_nothing_to_keep_a_retired_message_leaves_nothing() {
    let place = Place::keeping(Duration::ZERO);
    let spool = place.open();
    for number in 1..=3 {
        spool.keep(message(number)).await.unwrap();
    }
    spool.settle(vec![outcome(2, Verdict::Delivered)]).await.unwrap();
    assert_eq!(states(&spool).await.len(), 3);
    spool.settle(vec![outcome(1, Verdict::Delivered)]).await.unwrap();
    assert_eq!(states(&spool).await, [State::Queued]);
    drop(spool);
    let spool = place.open();
    assert_eq!(spool.opening().await.unwrap().retired_through, 2);
    spool.settle(vec![outcome(3, Verdict::Delivered)]).await.unwrap();
    drop(spool);
    let spool = place.open();
    assert_eq!(spool.keep(message(4)).await.unwrap(), 4);
}

/// Opens the store without its thread, on a day of long ago.
pub(super) fn core_of(place: &Place) -> Core {
    let destination = Destination { peer_key: [5; 32], target: "orders".to_owned() };
    let directory = place.directory.path().join("orders");
    let wanted = Wanted { spool: None, destination: Some(destination), limits: place.limits.clone(), trace: None };
    open::open(&Way { directory, key: place.key.clone(), wanted, is_suspect: false }, true).unwrap()
}

#[test]
fn the_key_of_a_day_goes_with_the_last_message_of_it() {
    let place = Place::keeping(Duration::from_secs(3600));
    let mut core = core_of(&place);
    let hour = 3_600_000;
    let (day, now) = (86_400_000, self::core::now());
    core.begin().unwrap();
    for (number, at) in [(1, 10 * day), (2, 10 * day + hour), (3, 11 * day), (4, now)] {
        let arrival = core.arrival(message(number));
        core.append(&arrival, at).unwrap();
    }
    for (sequence, verdict, at) in [
        (1, Verdict::Delivered, 10 * day),
        (2, Verdict::Rejected, 10 * day),
        (3, Verdict::Delivered, 11 * day),
        (4, Verdict::Delivered, now),
    ] {
        // Whatever the other site's clock says.
        let other = Outcome { at: self::core::time_of(now + day), ..outcome(sequence, verdict) };
        core.settle_at(&[other], at).unwrap();
    }
    core.commit().unwrap();
    let keys = |core: &Core| {
        let sql = "SELECT group_concat(day) FROM (SELECT day FROM days ORDER BY day)";
        core.connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(keys(&core), format!("10,11,{}", now / day));
    core.begin().unwrap();
    assert_eq!(core.tidy().unwrap(), settle::Tidied { changed: true, destroyed: true, is_end: true });
    core.commit().unwrap();
    // 1 and 3 are over; 2 is set aside, and needs the key of its day; 4 is kept.
    let left: Vec<_> = core.list(1, None, 9).unwrap().iter().map(|one| one.sequence).collect();
    assert_eq!(left, [2, 4]);
    assert_eq!(keys(&core), format!("10,{}", now / day));
    core.begin().unwrap();
    core.discard(2, true, "anna", "old").unwrap();
    core.tidy().unwrap();
    core.commit().unwrap();
    assert_eq!(keys(&core), format!("{}", now / day));
    drop(core);
    assert_eq!(core_of(&place).list(1, None, 9).unwrap().len(), 2);
}

#[tokio::test]
async fn nothing_of_a_message_stands_in_clear_on_the_disk() {
    let place = Place::new();
    let spool = place.open();
    let large = [message(1), vec![b' '; INLINE_BYTES_MAX]].concat();
    for payload in [message(1), large] {
        spool.keep(payload).await.unwrap();
    }
    spool.settle(vec![Outcome { answer: message(1), ..outcome(1, Verdict::Rejected) }]).await.unwrap();
    spool.discard(1, false, "SYNTHETIC1", "of PID SYNTHETIC1").await.unwrap();
    let needles: [&[u8]; 4] = [b"SYNTHETIC", b"MSH|^", b"NORTH", b"M1"];
    let clear = |needle: &[u8]| {
        let entries = fs::read_dir(place.directory.path().join("orders")).unwrap();
        entries
            .filter(|entry| {
                let bytes = fs::read(entry.as_ref().unwrap().path()).unwrap();
                bytes.windows(needle.len()).any(|window| window == needle)
            })
            .count()
    };
    // Two or three letters may come by chance in a megabyte that is sealed.
    for needle in &needles[..3] {
        assert_eq!(clear(needle), 0, "{}", String::from_utf8_lossy(needle));
    }
    drop(spool);
    for needle in &needles[..3] {
        assert_eq!(clear(needle), 0);
    }
}

#[tokio::test]
async fn an_attempt_is_there_after_a_restart_until_its_message_is_settled() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    let attempt = Attempt { sequence: 1, number: 2, in_doubt: 1, interrupted: 0, under_way: true };
    spool.commit(None, Some(attempt)).await.unwrap();
    drop(spool);
    let spool = place.open();
    assert_eq!(spool.interrupted().await.unwrap(), Some(attempt));
    assert!(matches!(spool.park(1, false, "anna").await, Err(SpoolError::Sent { .. })));
    let opening = spool.opening().await.unwrap();
    let outcome = outcome(1, Verdict::Delivered);
    let finished = Finished { outcome, epoch: opening.epoch, digest: opening.retired_digest };
    spool.commit(Some(finished), None).await.unwrap();
    drop(spool);
    let spool = place.open();
    assert_eq!(spool.interrupted().await.unwrap(), None);
    assert_eq!(spool.opening().await.unwrap().retired_through, 1);
}

/// Is what a far site tells of a message that it withdrew after three attempts.
fn withdrawn(sequence: Sequence) -> Outcome {
    let code = AckCode::ApplicationError;
    Outcome { code, attempts: 3, in_doubt: 1, ..outcome(sequence, Verdict::Withdrawn) }
}

async fn told(spool: &Spool, sequence: Sequence) -> Vec<(Happening, u32, u32)> {
    let events = spool.read_outbox(0, 99).await.unwrap();
    let of_message = events.iter().filter(|event| event.sequence == sequence);
    of_message.map(|event| (event.happening, event.attempts, event.in_doubt)).collect()
}

#[tokio::test]
async fn how_often_a_withdrawn_message_was_attempted_is_kept_whatever_comes_first() {
    use Happening::{Accepted, Discarded, Parked, Settled};
    let place = Place::new();
    let spool = place.open();
    for number in 1..=4 {
        spool.keep(message(number)).await.unwrap();
    }
    // The report first, then the decision: who decided is noted all the same.
    spool.settle(vec![withdrawn(1), withdrawn(2)]).await.unwrap();
    spool.park(1, true, "anna").await.unwrap();
    spool.discard(2, true, "anna", "why").await.unwrap();
    // The decision first.
    spool.park(3, true, "anna").await.unwrap();
    spool.discard(4, true, "anna", "why").await.unwrap();
    for _ in 0..2 {
        spool.settle(vec![withdrawn(3), withdrawn(4), outcome(3, Verdict::DeliveredBefore)]).await.unwrap();
    }
    assert_eq!(states(&spool).await, [State::Parked, State::Discarded, State::Parked, State::Discarded]);
    for sequence in 1..=4 {
        let kept = spool.show(sequence).await.unwrap().outcome.unwrap();
        let counts = (kept.verdict, kept.code, kept.attempts, kept.in_doubt);
        assert_eq!(counts, (Some(Verdict::Withdrawn), Some(AckCode::ApplicationError), 3, 1), "{sequence}");
        assert!(kept.answer == withdrawn(1).answer);
    }
    assert_eq!(told(&spool, 1).await, [(Accepted, 0, 0), (Settled, 3, 1), (Parked, 3, 1)]);
    assert_eq!(told(&spool, 2).await, [(Accepted, 0, 0), (Settled, 3, 1), (Discarded, 3, 1)]);
    assert_eq!(told(&spool, 3).await, [(Accepted, 0, 0), (Parked, 0, 0), (Settled, 3, 1)]);
    assert_eq!(told(&spool, 4).await, [(Accepted, 0, 0), (Discarded, 0, 0), (Settled, 3, 1)]);
    // One that an operator parked who asked nobody is not parked again.
    spool.keep(message(5)).await.unwrap();
    spool.park(5, false, "anna").await.unwrap();
    assert!(matches!(spool.park(5, true, "anna").await, Err(SpoolError::NotAllowed { .. })));
}

#[tokio::test]
async fn the_attempts_of_a_receiver_without_a_far_site_stay_with_the_message() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    let attempt = Attempt { sequence: 1, number: 2, in_doubt: 1, interrupted: 0, under_way: true };
    spool.commit(None, Some(attempt)).await.unwrap();
    spool.park(1, true, "anna").await.unwrap();
    let kept = spool.show(1).await.unwrap().outcome.unwrap();
    assert_eq!((kept.verdict, kept.attempts, kept.in_doubt), (Some(Verdict::Withdrawn), 2, 2));
    assert_eq!(told(&spool, 1).await[1], (Happening::Parked, 2, 2));
    assert_eq!(spool.interrupted().await.unwrap(), None);
}

#[tokio::test]
async fn a_divergence_ends_as_the_operator_chose() {
    for (choice, is_known, expected) in [
        (Choice::AcceptFar, true, Reconciled { settled: 2, parked: 0, queued: 1 }),
        (Choice::AcceptFar, false, Reconciled { settled: 0, parked: 2, queued: 1 }),
        (Choice::Resend, true, Reconciled { settled: 0, parked: 0, queued: 3 }),
    ] {
        let place = Place::new();
        let spool = place.open();
        spool.keep(message(1)).await.unwrap();
        spool.keep(message(2)).await.unwrap();
        let before = spool.opening().await.unwrap();
        drop(spool);
        // Restored from a backup: the far site went on in an epoch of which nobody knows here.
        let spool = place.open();
        spool.keep(message(3)).await.unwrap();
        let epoch = if is_known { before.epoch } else { Epoch([9; 16]) };
        let view = FarView::At { epoch, watermark: 50, digest: Digest([1; 32]) };
        assert!(matches!(spool.judge(view).await.unwrap(), Judgement::Diverged(_)));
        assert_eq!(spool.reconcile(choice, view, "anna").await.unwrap(), expected);
        let after = spool.opening().await.unwrap();
        assert_ne!(after.forward, before.forward);
        let next = after.retired_through + 1;
        assert_eq!(next, if choice == Choice::Resend { 1 } else { 3 });
        assert_eq!(spool.judge(FarView::Fresh).await.unwrap(), Judgement::Agreed { next, in_doubt_through: 0 });
        assert_eq!(spool.read(1, 9, usize::MAX).await.unwrap().len() as u64, expected.queued);
    }
}

#[tokio::test]
async fn the_copy_of_a_delivered_message_is_shredded_when_an_operator_says_so() {
    let place = Place::new();
    let spool = place.open();
    let large = vec![b'y'; INLINE_BYTES_MAX + 1];
    for payload in [message(1), large, message(3)] {
        spool.keep(payload).await.unwrap();
    }
    spool.settle((1..=3).map(|sequence| outcome(sequence, Verdict::Delivered)).collect()).await.unwrap();
    assert_eq!((place.files(), spool.tail().borrow().delivered), (1, 3));
    for sequence in [1, 2] {
        spool.discard(sequence, false, "anna", "the disk is short").await.unwrap();
        assert!(matches!(spool.payload(sequence, "anna").await, Err(SpoolError::NotAllowed { .. })));
        let shown = spool.show(sequence).await.unwrap();
        // What became of it stays, what names the patient does not.
        let outcome = shown.outcome.unwrap();
        assert_eq!((shown.state, outcome.verdict), (State::Discarded, Some(Verdict::Delivered)));
        assert!(outcome.answer.is_empty());
    }
    assert_eq!((place.files(), spool.tail().borrow().delivered), (0, 1));
    // It left the log as well.
    assert_eq!(fs::metadata(place.path("spool.db-wal")).unwrap().len(), 0);
    let events = spool.read_outbox(0, 99).await.unwrap();
    let told = events.iter().filter(|event| event.happening == Happening::Discarded);
    let told: Vec<_> = told.map(|event| (event.sequence, &*event.by, &*event.reason)).collect();
    assert_eq!(told, [(1, "anna", "the disk is short"), (2, "anna", "the disk is short")]);
    assert!(spool.payload(3, "anna").await.unwrap() == message(3));
    drop(spool);
    assert_eq!(states(&place.open()).await, [State::Discarded, State::Discarded, State::Delivered]);
}

#[tokio::test]
async fn a_message_goes_by_no_time_that_somebody_wrote() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=2 {
        spool.keep(message(number)).await.unwrap();
    }
    spool.settle(vec![outcome(1, Verdict::Delivered), outcome(2, Verdict::Delivered)]).await.unwrap();
    drop(spool);
    let mut core = core_of(&place);
    core.begin().unwrap();
    core.execute("spoil", "UPDATE messages SET settled = 5 WHERE sequence = ?1", [1]).unwrap();
    assert_eq!(core.tidy().unwrap(), settle::Tidied { changed: false, destroyed: false, is_end: true });
    core.commit().unwrap();
    let listed = core.list(1, None, 9).unwrap();
    assert_eq!(
        listed.iter().map(|one| (one.sequence, one.fault.is_some())).collect::<Vec<_>>(),
        [(1, true), (2, false)]
    );
}

#[test]
fn what_is_committed_stays_where_its_answer_is_lost_with_the_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (place, first) = (Place::new(), runtime());
    let large = vec![b'x'; INLINE_BYTES_MAX + 1];
    let spool = {
        let _entered = first.enter();
        place.open()
    };
    drop(first);
    runtime().block_on(async {
        // Both come into the turn behind this one.
        let (both_wait, goes_on) = std::sync::mpsc::channel::<()>();
        let busy = spool.change(move |_| {
            goes_on.recv().unwrap_err();
            Ok(())
        });
        let appends = async { tokio::join!(spool.append(vec![large.clone()]), spool.append(vec![large.clone()])) };
        let both = async {
            while spool.room.available_permits() + 3 > JOBS_MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(both_wait);
        };
        let (_, (one, other), ()) = tokio::join!(busy, appends, both);
        assert_eq!((one.kept.len(), other.kept.len()), (0, 0), "nobody is told");
    });
    drop(spool);
    let spool = place.open();
    runtime().block_on(async {
        for sequence in 1..=2 {
            assert!(spool.payload(sequence, "anna").await.unwrap() == large);
        }
    });
}
