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
    ] {
        let place = Place::new();
        filled(&place).await;
        sql(&place, statement);
        assert_eq!(damage_of(&place), damage, "{statement}");
        // And again: nothing was repaired.
        assert_eq!(damage_of(&place), damage, "{statement}");
    }
}

#[tokio::test]
async fn a_changed_message_stops_the_forward_and_an_operator_decides() {
    for (statement, damage) in [
        ("UPDATE contents SET sealed = zeroblob(200) WHERE sequence = 2", Damage::TamperedMessage(2)),
        ("DELETE FROM contents WHERE sequence = 2", Damage::MissingMessage(2)),
        // Two rows that took each other's place.
        (
            "UPDATE contents SET sealed = (SELECT sealed FROM contents WHERE sequence = 3) WHERE sequence = 2",
            Damage::TamperedMessage(2),
        ),
        ("UPDATE messages SET destination = 2 WHERE sequence = 2", Damage::TamperedMessage(2)),
        ("DELETE FROM days", Damage::Missing("key of a day")),
        ("UPDATE days SET sealed = zeroblob(72)", Damage::Tampered("key of a day")),
        ("UPDATE epochs SET epoch = zeroblob(16)", Damage::TamperedMessage(2)),
    ] {
        let place = Place::new();
        filled(&place).await;
        sql(&place, statement);
        let spool = place.open();
        let read = spool.read(1, 9, usize::MAX).await;
        assert!(matches!(read, Err(SpoolError::Damaged { damage: d, .. }) if d == damage), "{statement}");
        assert!(matches!(spool.keep(message(4)).await, Err(Refusal::Failed(SpoolError::Damaged { .. }))));
        assert!(spool.tail().borrow().failed.is_some());
        assert_eq!(spool.list(1, None, 9).await.map(|all| all.len()).unwrap_or(3), 3);
        if matches!(damage, Damage::TamperedMessage(_) | Damage::MissingMessage(_)) && !statement.contains("epochs") {
            spool.discard(2, true, "anna", "damaged").await.unwrap();
            assert_eq!(spool.keep(message(4)).await.unwrap(), 4);
            let left: Vec<_> = spool.read(1, 9, usize::MAX).await.unwrap().iter().map(|one| one.sequence).collect();
            assert_eq!(left, [3, 4]);
        }
    }
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
    fs::remove_file(place.path("spool.db")).unwrap();
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
    let read = spool.read(1, 9, usize::MAX).await;
    assert!(matches!(read, Err(SpoolError::Damaged { damage: Damage::Missing(_), .. })));
    assert!(matches!(spool.keep(message(2)).await, Err(Refusal::Failed(SpoolError::Damaged { .. }))));
    spool.discard(1, true, "anna", "damaged").await.unwrap();
    assert_eq!(spool.keep(message(2)).await.unwrap(), 2);
}
