//! Tests of what a spool notices: another key, missing and changed parts, earlier states. Each is named, and changes
//! nothing.

use rusqlite::Connection;

use super::*;
use crate::spool::Damage;

/// Makes a spool with three messages, the first one delivered, and closes it.
async fn filled(place: &Place) {
    let spool = place.open();
    for number in 1..=3 {
        spool.keep(message(number)).await.unwrap();
    }
    spool.settle(vec![outcome(1, Verdict::Delivered)]).await.unwrap();
}

fn damage_of(place: &Place) -> Damage {
    match place.try_open("orders") {
        Err(SpoolError::Damaged { damage, .. }) => damage,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing was noticed"),
    }
}

fn sql(place: &Place, statement: &str) {
    let connection = Connection::open(place.path("spool.db")).unwrap();
    connection.execute_batch(statement).unwrap();
}

fn copy(place: &Place, names: &[&str], suffix: (&str, &str)) {
    for name in names {
        fs::copy(place.path(&format!("{name}{}", suffix.0)), place.path(&format!("{name}{}", suffix.1))).unwrap();
    }
}

#[tokio::test]
async fn another_key_is_told_from_damage() {
    let mut place = Place::new();
    filled(&place).await;
    let right = std::mem::replace(&mut place.key, SpoolKey::from_bytes([4; 32]));
    assert!(matches!(place.try_open("orders"), Err(SpoolError::OtherKey { .. })));
    place.key = right;
    assert_eq!(place.open().read(1, 9, usize::MAX).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_missing_or_changed_is_named_at_the_start() {
    let rows = |state, expected, found| Damage::Rows { state, expected, found };
    let table = Damage::Tampered("table of messages");
    for (statement, damage) in [
        ("DELETE FROM messages WHERE sequence = 2", rows("queued", 2, 1)),
        ("DELETE FROM messages WHERE sequence = 3", rows("queued", 2, 1)),
        ("DELETE FROM messages WHERE sequence = 1", rows("delivered", 1, 0)),
        ("UPDATE messages SET state = 1 WHERE sequence = 2", rows("queued", 2, 1)),
        ("UPDATE messages SET state = 1 - state WHERE sequence < 3", table.clone()),
        ("UPDATE messages SET bytes = 5 WHERE sequence = 2", table),
        ("UPDATE messages SET sequence = 9 WHERE sequence = 3", rows("unretired", 2, 2)),
        ("DELETE FROM head", Damage::Missing("head")),
        ("UPDATE head SET sealed = zeroblob(200)", Damage::Tampered("head")),
        ("DELETE FROM meta", Damage::Missing("identity")),
        ("UPDATE meta SET identity = zeroblob(120)", Damage::Tampered("identity")),
        ("UPDATE meta SET format = 7", Damage::Format(7)),
        ("UPDATE destinations SET sealed = zeroblob(80)", Damage::Tampered("table of destinations")),
        ("DELETE FROM outbox WHERE id = 4", Damage::Tampered("outbox")),
        ("UPDATE epochs SET epoch = zeroblob(16)", Damage::Tampered("table of epochs")),
        ("UPDATE epochs SET first = first + 1", Damage::Tampered("table of epochs")),
        ("UPDATE epochs SET first = first + 2, tag = NULL", Damage::Tampered("table of epochs")),
        ("DELETE FROM epochs", Damage::Tampered("table of epochs")),
    ] {
        let place = Place::new();
        filled(&place).await;
        sql(&place, statement);
        assert_eq!(damage_of(&place), damage, "{statement}");
        // And again: nothing was repaired.
        assert_eq!(damage_of(&place), damage, "{statement}");
    }
}

fn sequences(read: &[Queued]) -> Vec<Sequence> {
    read.iter().map(|one| one.sequence).collect()
}

async fn read(spool: &Spool) -> Vec<Sequence> {
    sequences(&spool.read(1, 9, usize::MAX).await.unwrap())
}

#[tokio::test]
async fn the_feed_stops_at_a_changed_message_and_an_operator_lets_it_go_on() {
    let of_a_day = |damage: &Damage| matches!(damage, Damage::Missing("key of a day") | Damage::Tampered(_));
    for (statement, damage) in [
        ("UPDATE contents SET sealed = zeroblob(200) WHERE sequence = 2", Damage::TamperedMessage(2)),
        ("DELETE FROM contents WHERE sequence = 2", Damage::MissingMessage(2)),
        // Two rows that took each other's place.
        (
            "UPDATE contents SET sealed = (SELECT sealed FROM contents WHERE sequence = 3) WHERE sequence = 2",
            Damage::TamperedMessage(2),
        ),
        ("UPDATE messages SET destination = 2 WHERE sequence = 2", Damage::TamperedMessage(2)),
        ("DELETE FROM destinations", Damage::Missing("destination of a message")),
        ("DELETE FROM days", Damage::Missing("key of a day")),
        ("UPDATE days SET sealed = zeroblob(72)", Damage::Tampered("key of a day")),
    ] {
        let place = Place::new();
        filled(&place).await;
        sql(&place, statement);
        let spool = place.open();
        assert_eq!(read(&spool).await, [0; 0], "{statement}");
        let tail = spool.tail().borrow().clone();
        assert_eq!(tail.damaged, Some(DamagedMessage { sequence: 2, damage: damage.clone() }), "{statement}");
        assert_eq!(tail.failed, None);
        assert_eq!(spool.list(1, None, 9).await.unwrap().len(), 3, "{statement}");
        // Messages are taken on, unless their own key is the one that is gone: it is not replaced.
        let taken = spool.keep(message(4)).await;
        assert_eq!(taken.is_ok(), !of_a_day(&damage), "{statement}");
        assert!(spool.payload(2, "anna").await.is_err());
        // It never left the spool: nobody else is asked.
        spool.park(2, false, "anna").await.unwrap();
        assert_eq!(spool.tail().borrow().damaged, None);
        let is_alone = !of_a_day(&damage) && !statement.contains("FROM destinations");
        assert_eq!(read(&spool).await, if is_alone { vec![3, 4] } else { Vec::new() }, "{statement}");
        let next = spool.tail().borrow().damaged.as_ref().map(|damaged| damaged.sequence);
        assert_eq!(next, (!is_alone).then_some(3), "{statement}");
        assert!(spool.release(2, "anna").await.is_err(), "{statement}");
        // Its outcome and state can be changed all the same.
        spool.settle(vec![outcome(3, Verdict::Delivered)]).await.unwrap();
        spool.discard(2, false, "anna", "sent by fax").await.unwrap();
        let events = spool.read_outbox(4, 99).await.unwrap();
        let told: Vec<_> = events.iter().filter(|event| event.sequence == 2).map(|event| event.happening).collect();
        assert_eq!(told, [Happening::Damaged, Happening::Parked, Happening::Discarded], "{statement}");
        let parked = events.iter().find(|event| event.happening == Happening::Parked).unwrap();
        assert_eq!((&*parked.by, &*parked.reason), ("anna", &*format!("it is damaged: {damage}")));
    }
}

#[tokio::test]
async fn what_is_before_a_damaged_message_goes_on_and_what_was_never_sent_needs_no_word() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=5 {
        spool.keep(message(number)).await.unwrap();
    }
    drop(spool);
    sql(&place, "UPDATE contents SET sealed = zeroblob(200) WHERE sequence IN (3, 4)");
    let spool = place.open();
    assert_eq!(read(&spool).await, [1, 2]);
    assert_eq!(spool.settle(vec![outcome(1, Verdict::Delivered), outcome(2, Verdict::Delivered)]).await.unwrap(), 2);
    assert_eq!(read(&spool).await, [0; 0]);
    // Behind it the feed may be already: who delivers took it while it was whole.
    assert_eq!(sequences(&spool.read(5, 9, usize::MAX).await.unwrap()), [5]);
    assert!(!spool.show(3).await.unwrap().may_be_sent || spool.show(5).await.unwrap().may_be_sent);
    drop(spool);
    // A start does not know what of a reservation was used.
    let spool = place.open();
    assert!(matches!(spool.park(3, false, "anna").await, Err(SpoolError::Sent { sequence: 3 })));
    assert_eq!(read(&spool).await, [0; 0]);
    spool.discard(3, true, "anna", "why").await.unwrap();
    assert_eq!(read(&spool).await, [0; 0]);
    assert_eq!(spool.tail().borrow().damaged.as_ref().map(|damaged| damaged.sequence), Some(4));
    let events = spool.read_outbox(0, 99).await.unwrap();
    let discarded = events.iter().find(|event| event.happening == Happening::Discarded).unwrap();
    assert_eq!(discarded.reason, "why (it is damaged: message 3 was changed)");
}

#[tokio::test]
async fn an_earlier_state_of_the_database_is_noticed() {
    let place = Place::new();
    filled(&place).await;
    copy(&place, &["spool.db"], ("", ".earlier"));
    place.open().keep(message(4)).await.unwrap();
    copy(&place, &["spool.db"], (".earlier", ""));
    assert!(matches!(damage_of(&place), Damage::RolledBack { .. }));
}

#[tokio::test]
async fn a_lost_log_is_noticed() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    // As a crash leaves it: the log is not written back.
    copy(&place, &["spool.db", "spool.db-wal", "mark"], ("", ".crash"));
    drop(spool);
    let restore = |names: &[&str]| {
        fs::remove_file(place.path("spool.db-wal")).ok();
        copy(&place, names, (".crash", ""));
    };
    restore(&["spool.db", "spool.db-wal", "mark"]);
    assert_eq!(place.open().read(1, 9, usize::MAX).await.unwrap().len(), 1);
    restore(&["spool.db", "mark"]);
    assert!(matches!(damage_of(&place), Damage::RolledBack { .. } | Damage::Missing(_) | Damage::Tampered(_)));
}

#[tokio::test]
async fn a_truncated_lost_or_emptied_database_is_never_replaced() {
    for length in [0, 100, 4096, 8192] {
        let place = Place::new();
        filled(&place).await;
        let file = fs::OpenOptions::new().write(true).open(place.path("spool.db")).unwrap();
        file.set_len(length).unwrap();
        drop(file);
        let damage = damage_of(&place);
        assert!(matches!(damage, Damage::Database | Damage::Missing("database")), "{length}: {damage}");
        assert_eq!(fs::metadata(place.path("spool.db")).unwrap().len(), length);
    }
    let place = Place::new();
    filled(&place).await;
    let spool = Some(place.open().id());
    let again = || {
        let wanted = Wanted { spool, destination: None, limits: place.limits.clone(), trace: None };
        Spool::open(place.directory.path(), "orders", &place.key, wanted).err().map(|error| error.to_string())
    };
    let whole = fs::read(place.path("spool.db")).unwrap();
    fs::write(place.path("spool.db"), "").unwrap();
    let told = again().unwrap();
    assert!(told.contains("spool.db is damaged: it is empty, and was not: restore it from a backup"), "{told}");
    fs::write(place.path("there"), whole).unwrap();
    fs::remove_file(place.path("spool.db")).unwrap();
    std::os::unix::fs::symlink(place.path("there"), place.path("spool.db")).unwrap();
    let told = again().unwrap();
    assert!(told.contains("spool.db is a symbolic link: put the file itself there"), "{told}");
    fs::remove_file(place.path("spool.db")).unwrap();
    assert!(again().unwrap().contains("is missing, and there was one"));
    assert_eq!(damage_of(&place), Damage::Missing("database"));
    assert!(!place.path("spool.db").exists());
}

#[tokio::test]
async fn a_lost_or_changed_mark_is_named() {
    let place = Place::new();
    filled(&place).await;
    fs::write(place.path("mark"), vec![0; 8192]).unwrap();
    assert_eq!(damage_of(&place), Damage::Tampered("mark"));
    fs::remove_file(place.path("mark")).unwrap();
    assert_eq!(damage_of(&place), Damage::Missing("mark"));
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let place = Place::new();
    let spool = place.open();
    assert!(matches!(place.try_open("orders"), Err(SpoolError::InUse { .. })));
    assert_eq!(spool.keep(message(1)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_large_payload_that_is_gone_is_named() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(vec![1; INLINE_BYTES_MAX + 1]).await.unwrap();
    let entries = fs::read_dir(place.directory.path().join("orders")).unwrap();
    for path in
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "sealed"))
    {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(read(&spool).await, [0; 0]);
    let damage = Damage::Missing("content of a large message");
    assert_eq!(spool.tail().borrow().damaged, Some(DamagedMessage { sequence: 1, damage }));
    assert_eq!(spool.keep(message(2)).await.unwrap(), 2);
    spool.discard(1, true, "anna", "damaged").await.unwrap();
    assert_eq!(read(&spool).await, [2]);
}

/// Tells whether each follows from the one before it, as the far site looks at it.
async fn follow(spool: &Spool, read: &[Queued]) -> bool {
    let opening = spool.opening().await.unwrap();
    let mut tail = (opening.retired_through, Some(opening.retired_digest));
    read.iter().all(|one| {
        let base = tail.1.filter(|_| one.sequence == tail.0 + 1);
        tail = (one.sequence, Some(one.digest));
        base.is_none_or(|base| opening.digest_key.following(&base, one.sequence, &one.payload) == one.digest)
    })
}

#[tokio::test]
async fn a_changed_digest_holds_one_message_and_what_is_behind_it_follows() {
    // Which digest is changed, and what is sent before and after the one that is held then.
    for (changed, held, before, after) in
        [(2, 2, vec![], vec![3, 4, 5]), (3, 3, vec![2], vec![4, 5]), (4, 4, vec![2, 3], vec![5])]
    {
        for is_parked in [true, false] {
            let place = Place::new();
            let spool = place.open();
            for number in 1..=3 {
                spool.keep(message(number)).await.unwrap();
            }
            spool.keep([message(4), vec![b'x'; INLINE_BYTES_MAX]].concat()).await.unwrap();
            spool.settle(vec![outcome(1, Verdict::Delivered)]).await.unwrap();
            drop(spool);
            sql(&place, &format!("UPDATE messages SET digest = zeroblob(32) WHERE sequence = {changed}"));
            let spool = place.open();
            spool.keep(message(5)).await.unwrap();
            assert_eq!(read(&spool).await, before, "{changed}");
            let damaged = DamagedMessage { sequence: held, damage: Damage::Unlinked(held) };
            assert_eq!(spool.tail().borrow().damaged, Some(damaged), "{changed}");
            if is_parked {
                spool.park(held, true, "anna").await.unwrap();
            } else {
                spool.discard(held, true, "anna", "why").await.unwrap();
            }
            let settled = before.iter().map(|sequence| outcome(*sequence, Verdict::Delivered)).collect();
            assert_eq!(spool.settle(settled).await.unwrap(), held);
            let rest = spool.read(1, 9, usize::MAX).await.unwrap();
            assert_eq!(sequences(&rest), after, "{changed}");
            assert!(follow(&spool, &rest).await, "{changed}");
            assert_eq!(spool.tail().borrow().damaged, None);
            if is_parked {
                // Its content was never in doubt.
                assert_eq!(spool.release(held, "anna").await.unwrap(), 6);
                assert_eq!(spool.read(6, 9, usize::MAX).await.unwrap().len(), 1);
            }
        }
    }
}

#[tokio::test]
async fn a_changed_digest_of_one_that_is_parked_holds_the_next_one_alone() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=4 {
        spool.keep(message(number)).await.unwrap();
    }
    spool.park(2, false, "anna").await.unwrap();
    drop(spool);
    sql(&place, "UPDATE messages SET digest = zeroblob(32) WHERE sequence = 2");
    let spool = place.open();
    assert_eq!(read(&spool).await, [1]);
    assert_eq!(spool.tail().borrow().damaged.as_ref().map(|damaged| damaged.sequence), Some(3));
    spool.park(3, true, "anna").await.unwrap();
    spool.settle(vec![outcome(1, Verdict::Delivered)]).await.unwrap();
    let rest = spool.read(1, 9, usize::MAX).await.unwrap();
    assert_eq!(sequences(&rest), [4]);
    assert!(follow(&spool, &rest).await);
    assert_eq!(spool.release(3, "anna").await.unwrap(), 5);
}

#[tokio::test]
async fn an_outcome_or_a_key_that_is_gone_is_told_of_its_message() {
    for (statement, fault) in [
        ("DELETE FROM outcomes WHERE sequence = 1", Damage::Missing("outcome")),
        ("DELETE FROM days", Damage::Missing("key of a day")),
    ] {
        let place = Place::new();
        filled(&place).await;
        assert_eq!(place.open().show(1).await.unwrap().fault, None);
        sql(&place, statement);
        let spool = place.open();
        assert_eq!(spool.show(1).await.unwrap().fault, Some(fault), "{statement}");
    }
}

const CHANGED_ROW: Damage = Damage::Tampered("row in the table of messages");

#[tokio::test]
async fn an_outcome_or_a_time_that_was_changed_is_named_and_not_told() {
    let outcome_of_1 = Damage::Tampered("outcome");
    for (statement, sequence, fault) in [
        ("UPDATE outcomes SET verdict = 3, code = 2 WHERE sequence = 1", 1, outcome_of_1.clone()),
        ("UPDATE outcomes SET attempts = 9 WHERE sequence = 1", 1, outcome_of_1.clone()),
        ("UPDATE outcomes SET in_doubt = 1 WHERE sequence = 1", 1, outcome_of_1.clone()),
        ("UPDATE outcomes SET at = at + 1 WHERE sequence = 1", 1, outcome_of_1.clone()),
        ("UPDATE outcomes SET answer = zeroblob(0) WHERE sequence = 1", 1, outcome_of_1.clone()),
        ("UPDATE outcomes SET verdict = 3, tag = NULL WHERE sequence = 1", 1, outcome_of_1.clone()),
        ("UPDATE outcomes SET tag = x'00' WHERE sequence = 1", 1, outcome_of_1.clone()),
        ("DELETE FROM outcomes WHERE sequence = 1; UPDATE outcomes SET sequence = 1", 1, outcome_of_1),
        ("UPDATE messages SET accepted = accepted + 100000 WHERE sequence = 2", 2, CHANGED_ROW),
        ("UPDATE messages SET settled = 5, tag = NULL WHERE sequence = 2", 2, CHANGED_ROW),
        ("UPDATE messages SET settled = settled - 1 WHERE sequence = 1", 1, CHANGED_ROW),
    ] {
        let place = Place::new();
        filled(&place).await;
        let spool = place.open();
        spool.keep(message(4)).await.unwrap();
        spool.settle(vec![outcome(4, Verdict::Rejected)]).await.unwrap();
        assert!(spool.list(1, None, 9).await.unwrap().iter().all(|listed| listed.fault.is_none()));
        drop(spool);
        sql(&place, statement);
        let spool = place.open();
        for shown in [spool.show(sequence).await.unwrap(), spool.list(sequence, None, 1).await.unwrap().remove(0)] {
            assert_eq!(shown.fault, Some(fault.clone()), "{statement}");
            assert!(shown.outcome.is_none() || fault == CHANGED_ROW, "{statement}");
            assert_eq!(
                (shown.accepted.is_none(), shown.settled.is_some()),
                (fault == CHANGED_ROW, fault != CHANGED_ROW)
            );
        }
        let others = spool.list(1, None, 9).await.unwrap();
        let others = others.iter().filter(|listed| listed.sequence != sequence && listed.sequence != 4);
        assert!(others.clone().count() == 2 && others.clone().all(|listed| listed.fault.is_none()), "{statement}");
        // The message is whole, and goes its way; what was changed does not become what was written by that.
        assert_eq!(read(&spool).await, [2, 3], "{statement}");
        if fault == CHANGED_ROW {
            spool.discard(sequence, true, "anna", "why").await.unwrap();
            assert_eq!(spool.show(sequence).await.unwrap().fault, Some(CHANGED_ROW), "{statement}");
        }
    }
}

/// Makes a spool of which an operator parked a message and discarded another; returns how many events it has.
async fn decided(place: &Place) -> u64 {
    filled(place).await;
    let spool = place.open();
    spool.park(2, false, "anna").await.unwrap();
    spool.keep(message(4)).await.unwrap();
    spool.discard(2, false, "anna", "sent by fax").await.unwrap();
    spool.keep(message(5)).await.unwrap();
    spool.outbox_last().await.unwrap()
}

#[tokio::test]
async fn a_decision_that_is_gone_is_missed_at_the_start() {
    for statement in [
        "DELETE FROM outbox WHERE detail IS NOT NULL",
        "DELETE FROM outbox WHERE id = 5",
        "UPDATE outbox SET detail = NULL WHERE id = 5",
    ] {
        let place = Place::new();
        assert_eq!(decided(&place).await, 8);
        assert_eq!(place.open().show(2).await.unwrap().decisions.len(), 2);
        sql(&place, statement);
        let found = u64::from(statement.contains("id = 5"));
        assert_eq!(damage_of(&place), Damage::Decisions { expected: 2, found }, "{statement}");
    }
}

#[tokio::test]
async fn an_event_that_was_changed_is_told_as_such() {
    for change in [
        "event = 3",
        "at = at + 1",
        "sequence = 3",
        "bytes = 1, tag = NULL",
        "detail = zeroblob(60)",
        "detail = (SELECT detail FROM outbox WHERE id = 7)",
        "payload = zeroblob(32)",
    ] {
        let place = Place::new();
        decided(&place).await;
        sql(&place, &format!("UPDATE outbox SET {change} WHERE id = 5"));
        let spool = place.open();
        let events = spool.read_outbox(0, 99).await.unwrap();
        let changed: Vec<u64> = events.iter().filter(|event| event.is_changed).map(|event| event.id).collect();
        assert_eq!((events.len(), changed), (8, vec![5]), "{change}");
        let shown = spool.show(if change == "sequence = 3" { 3 } else { 2 }).await.unwrap();
        assert!(
            shown.decisions.iter().any(|event| event.id == 5 && event.is_changed && event.by.is_empty()),
            "{change}"
        );
    }
}

#[tokio::test]
async fn a_spool_of_an_earlier_version_is_taken_over_and_what_comes_is_tagged() {
    let place = Place::new();
    decided(&place).await;
    let spool = place.open();
    // As that version left it.
    let untag = |core: &mut Core| {
        core.live.head.tagged = None;
        Ok(())
    };
    spool.change(untag).await.unwrap();
    drop(spool);
    for table in ["messages", "outcomes", "outbox", "epochs"] {
        sql(&place, &format!("ALTER TABLE {table} DROP COLUMN tag"));
    }
    sql(&place, "ALTER TABLE outbox DROP COLUMN type");
    for _ in 0..2 {
        let spool = place.open();
        let listed = spool.list(1, None, 99).await.unwrap();
        assert!(listed.len() >= 5 && listed.iter().all(|listed| listed.fault.is_none()));
        assert_eq!(spool.show(1).await.unwrap().outcome.unwrap().verdict, Some(Verdict::Delivered));
        assert!(spool.read_outbox(0, 99).await.unwrap().iter().all(|event| !event.is_changed));
        assert_eq!(spool.show(2).await.unwrap().decisions.len(), 2);
    }
    let spool = place.open();
    spool.keep(message(6)).await.unwrap();
    spool.park(3, true, "anna").await.unwrap();
    drop(spool);
    sql(&place, "UPDATE messages SET settled = 7, tag = NULL WHERE sequence = 6");
    sql(&place, "UPDATE messages SET settled = 7 WHERE sequence = 3");
    let spool = place.open();
    for sequence in [3, 6] {
        assert_eq!(spool.show(sequence).await.unwrap().fault, Some(CHANGED_ROW), "{sequence}");
    }
    drop(spool);
    sql(&place, "DELETE FROM outbox WHERE id = 5");
    assert_eq!(damage_of(&place), Damage::Decisions { expected: 3, found: 2 });
}

async fn spool_with_two_files() -> Place {
    let place = Place::new();
    let spool = place.open();
    for _ in 0..2 {
        spool.keep(vec![b'x'; INLINE_BYTES_MAX + 1]).await.unwrap();
    }
    place
}

#[tokio::test]
async fn nothing_is_removed_by_what_a_changed_row_says() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(vec![b'x'; INLINE_BYTES_MAX + 1]).await.unwrap();
    drop(spool);
    sql(&place, "UPDATE messages SET file = NULL");
    let spool = place.open();
    assert_eq!((place.files(), spool.show(1).await.unwrap().fault), (1, Some(CHANGED_ROW)));
    drop(spool);
    let other = spool_with_two_files().await;
    sql(&other, "UPDATE messages SET file = (SELECT file FROM messages WHERE sequence = 1) WHERE sequence = 2");
    let spool = other.open();
    spool.discard(2, true, "anna", "damaged").await.unwrap();
    assert!(spool.payload(1, "anna").await.unwrap() == vec![b'x'; INLINE_BYTES_MAX + 1]);
    drop(spool);
    // The key of a day goes with the last message of it, and that another one is of it does not show any more.
    let place = Place::keeping(Duration::from_secs(3600));
    drop(place.open());
    let mut core = super::keeping::core_of(&place);
    core.begin().unwrap();
    for number in [1, 2] {
        let arrival = core.arrival(message(number));
        core.append(&arrival, 10 * 86_400_000).unwrap();
    }
    core.settle_at(&[outcome(1, Verdict::Delivered)], 10 * 86_400_000).unwrap();
    core.commit().unwrap();
    drop(core);
    sql(&place, "UPDATE messages SET day = day + 1 WHERE sequence = 2");
    let mut core = super::keeping::core_of(&place);
    core.begin().unwrap();
    assert!(!core.tidy().unwrap().destroyed);
    core.commit().unwrap();
    drop(core);
    sql(&place, "UPDATE messages SET day = day - 1 WHERE sequence = 2");
    assert!(place.open().payload(2, "anna").await.unwrap() == message(2));
}

#[tokio::test]
async fn states_that_were_exchanged_are_damage() {
    for (one, other) in [(1, 2), (2, 3), (2, 4), (3, 4)] {
        let place = Place::new();
        let spool = place.open();
        for number in 1..=4 {
            spool.keep(message(number)).await.unwrap();
        }
        spool.settle(vec![outcome(1, Verdict::Delivered)]).await.unwrap();
        spool.park(3, false, "anna").await.unwrap();
        spool.discard(4, false, "anna", "sent by fax").await.unwrap();
        drop(spool);
        let swap = "UPDATE messages SET state = (SELECT sum(state) FROM messages WHERE sequence IN (?1, ?2)) - state
                    WHERE sequence IN (?1, ?2)";
        Connection::open(place.path("spool.db")).unwrap().execute(swap, [one, other]).unwrap();
        assert_eq!(damage_of(&place), Damage::Tampered("table of messages"), "{one} and {other}");
    }
}
