//! Tests of the inbox: what is committed is there again, and nothing else is.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::*;
use crate::mllp::ack::AckCode;
use crate::spool::{Damage, Digest, DigestKey, Epoch, Verdict};

const FORWARD: ForwardId = ForwardId([7; 16]);
const EPOCH: Epoch = Epoch([1; 16]);

fn key() -> SpoolKey {
    SpoolKey::from_bytes([9; 32])
}

fn open(dir: &Path) -> Arc<Inbox> {
    let began = Instant::now();
    loop {
        // The writer of an inbox that was just dropped may still be closing its database.
        match Inbox::open(dir, "north", FORWARD, Some(&key())) {
            Err(SpoolError::InUse { .. }) if began.elapsed() < Duration::from_secs(10) => {}
            opened => return opened.unwrap(),
        }
    }
}

fn finished(sequence: Sequence) -> Finished {
    let outcome = Outcome {
        sequence,
        verdict: Verdict::Delivered,
        code: AckCode::ApplicationAccept,
        attempts: 2,
        in_doubt: 1,
        answer: format!("MSA|AA|{sequence}").into_bytes(),
        at: UNIX_EPOCH + Duration::from_millis(1_234_567),
    };
    Finished { outcome, epoch: EPOCH, digest: digest(sequence) }
}

fn digest(sequence: Sequence) -> Digest {
    Digest([u8::try_from(sequence % 256).unwrap(); 32])
}

fn attempt(sequence: Sequence) -> Attempt {
    Attempt { sequence, number: 3, in_doubt: 2, interrupted: 1, under_way: true }
}

fn at(sequence: Sequence) -> FarView {
    FarView::At { epoch: EPOCH, watermark: sequence, digest: digest(sequence) }
}

fn opening(retired_through: Sequence) -> Opening {
    Opening {
        forward: FORWARD,
        digest_key: DigestKey([3; 32]),
        epoch: EPOCH,
        epoch_first: 1,
        retired_through,
        retired_digest: digest(retired_through),
    }
}

async fn sequences(inbox: &Inbox) -> Vec<Sequence> {
    inbox.outcomes_after(0).await.unwrap().iter().map(|outcome| outcome.sequence).collect()
}

#[tokio::test]
async fn what_is_committed_is_there_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path());
    assert_eq!(inbox.view().await.unwrap(), FarView::Fresh);
    assert_eq!(inbox.interrupted().await.unwrap(), None);
    inbox.commit(None, Some(attempt(1))).await.unwrap();
    inbox.commit(Some(finished(1)), Some(attempt(2))).await.unwrap();
    drop(inbox);
    let inbox = open(dir.path());
    assert_eq!(inbox.view().await.unwrap(), at(1));
    assert_eq!(inbox.interrupted().await.unwrap(), Some(attempt(2)));
    assert!(inbox.outcomes_after(0).await.unwrap() == [finished(1).outcome]);
    inbox.commit(Some(finished(2)), None).await.unwrap();
    assert_eq!(inbox.interrupted().await.unwrap(), None);
    assert_eq!(inbox.outcomes_after(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_commit_made_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path());
    for _ in 0..2 {
        inbox.commit(Some(finished(5)), Some(attempt(6))).await.unwrap();
    }
    inbox.commit(Some(finished(4)), Some(attempt(5))).await.unwrap();
    assert_eq!(inbox.view().await.unwrap(), at(5));
    assert_eq!(sequences(&inbox).await, [5]);
    assert_eq!(inbox.interrupted().await.unwrap(), None, "5 has its end");
}

#[tokio::test]
async fn a_watermark_is_raised_and_never_lowered() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path());
    inbox.raise(&opening(0)).await.unwrap();
    assert_eq!(inbox.view().await.unwrap(), at(0), "a fresh one begins there");
    inbox.commit(Some(finished(1)), Some(attempt(2))).await.unwrap();
    inbox.raise(&opening(0)).await.unwrap();
    assert_eq!((inbox.view().await.unwrap(), sequences(&inbox).await), (at(1), vec![1]));
    inbox.raise(&opening(9)).await.unwrap();
    assert_eq!((inbox.view().await.unwrap(), sequences(&inbox).await), (at(9), vec![]));
    assert_eq!(inbox.interrupted().await.unwrap(), None);
    inbox.commit(Some(finished(10)), None).await.unwrap();
    inbox.raise(&opening(4)).await.unwrap();
    assert_eq!((inbox.view().await.unwrap(), sequences(&inbox).await), (at(10), vec![10]));
}

#[tokio::test]
async fn what_is_settled_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path());
    for sequence in 1..=300 {
        inbox.commit(Some(finished(sequence)), None).await.unwrap();
    }
    inbox.prune(298).await.unwrap();
    assert_eq!(sequences(&inbox).await, [299, 300]);
    inbox.commit(Some(finished(301)), None).await.unwrap();
    drop(inbox);
    // It has left the disk with the commit.
    assert_eq!(sequences(&open(dir.path())).await, [299, 300, 301]);
}

#[tokio::test]
async fn answers_are_sealed_or_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let secret = Finished {
        outcome: Outcome { answer: b"MSA|AA|1|synthetic-patient".to_vec(), ..finished(1).outcome },
        ..finished(1)
    };
    let inbox = open(dir.path());
    inbox.commit(Some(secret.clone()), None).await.unwrap();
    assert!(inbox.outcomes_after(0).await.unwrap() == [secret.outcome.clone()]);
    let bare = Inbox::open(dir.path(), "south", FORWARD, None).unwrap();
    bare.commit(Some(secret), None).await.unwrap();
    let kept = bare.outcomes_after(0).await.unwrap();
    assert!(kept[0].answer.is_empty());
    assert_eq!((kept[0].code, kept[0].verdict), (AckCode::ApplicationAccept, Verdict::Delivered));
    for peer in ["north", "south"] {
        for entry in fs::read_dir(dir.path().join(peer)).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(17).any(|window| window == b"synthetic-patient"));
        }
    }
    drop(inbox);
    let began = Instant::now();
    let other = loop {
        match Inbox::open(dir.path(), "north", FORWARD, Some(&SpoolKey::from_bytes([8; 32]))) {
            Err(SpoolError::InUse { .. }) if began.elapsed() < Duration::from_secs(10) => {}
            opened => break opened.unwrap(),
        }
    };
    assert!(other.outcomes_after(0).await.unwrap()[0].answer.is_empty(), "another key opens no answer");
}

#[tokio::test]
async fn a_peer_has_only_so_many_and_others_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..INBOXES_PER_PEER_MAX {
        let id = ForwardId([u8::try_from(number).unwrap(); 16]);
        Inbox::open(dir.path(), "north", id, None).unwrap();
    }
    let refused = Inbox::open(dir.path(), "north", ForwardId([255; 16]), None).err().unwrap();
    assert!(matches!(refused, SpoolError::TooManyForwards { forwards: INBOXES_PER_PEER_MAX, .. }), "{refused}");
    assert!(refused.to_string().contains("peer north"), "{refused}");
    Inbox::open(dir.path(), "south", ForwardId([255; 16]), None).unwrap();
    let known = open(dir.path());
    assert_eq!(known.view().await.unwrap(), FarView::Fresh);
}

#[test]
fn a_name_that_leads_elsewhere_is_none() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "..", "a/b", "/tmp"] {
        assert!(Inbox::open(dir.path(), name, FORWARD, None).is_err());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_database_is_used_by_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let second = Inbox::open(dir.path(), "north", FORWARD, None).err().unwrap();
    assert!(matches!(second, SpoolError::InUse { .. }), "{second}");
}

fn file(dir: &Path) -> PathBuf {
    dir.join("north").join("07070707070707070707070707070707.db")
}

/// Waits for the writer of a dropped inbox to have closed its database.
fn closed(dir: &Path) {
    let wal = file(dir).with_extension("db-wal");
    let began = Instant::now();
    while wal.exists() && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn damage_is_named_and_stops_only_that_one() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path());
    inbox.commit(Some(finished(1)), None).await.unwrap();
    drop(inbox);
    closed(dir.path());
    let whole = fs::read(file(dir.path())).unwrap();
    let spoil = |bytes: &[u8]| {
        fs::write(file(dir.path()), bytes).unwrap();
        Inbox::open(dir.path(), "north", FORWARD, None).err()
    };
    let mut scrambled = whole.clone();
    scrambled[..16].fill(b'x');
    assert!(matches!(spoil(&scrambled), Some(SpoolError::Damaged { damage: Damage::Database, .. })));
    assert_eq!(fs::read(file(dir.path())).unwrap(), scrambled, "nothing was changed in it");
    let cut = spoil(&whole[..whole.len() - 4096]);
    assert!(matches!(cut, Some(SpoolError::Damaged { damage: Damage::Database, .. })), "{cut:?}");
    // The user_version of a later format, at offset 60 (SQLite's file format, 1.3).
    let mut later = whole.clone();
    later[63] = 9;
    assert!(matches!(spoil(&later), Some(SpoolError::Damaged { damage: Damage::Format(9), .. })));
    let other = dir.path().join("north").join("08080808080808080808080808080808.db");
    fs::write(&other, &whole).unwrap();
    let of_another = Inbox::open(dir.path(), "north", ForwardId([8; 16]), None).err();
    assert!(matches!(of_another, Some(SpoolError::Damaged { damage: Damage::Tampered(_), .. })));
    assert!(spoil(&whole).is_none());
    assert!(Inbox::open(dir.path(), "south", FORWARD, None).is_ok());
}

#[tokio::test]
async fn after_a_failure_the_database_is_opened_and_verified_anew() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path());
    inbox.commit(Some(finished(1)), None).await.unwrap();
    // The log goes over a limit of this database, as on a full disk.
    inbox.call(|store| store.limit_pages(1)).await.unwrap();
    let mut big = finished(2);
    big.outcome.answer = vec![b'x'; 16 << 10];
    let reserve = Reserve::of(dir.path());
    while reserve.release() {}
    let error = inbox.commit(Some(big.clone()), Some(attempt(3))).await.unwrap_err();
    assert!(matches!(error, SpoolError::Disk { .. }), "{error}");
    assert_eq!(inbox.view().await.unwrap(), at(1), "nothing of the transaction stands");
    assert_eq!(inbox.interrupted().await.unwrap(), None);
    // The limit was that connection's.
    inbox.commit(Some(big), Some(attempt(3))).await.unwrap();
    assert_eq!(inbox.view().await.unwrap(), at(2));
}

#[tokio::test]
async fn on_a_full_disk_it_goes_on_with_its_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(dir.path());
    inbox.commit(Some(finished(1)), None).await.unwrap();
    assert!(Reserve::of(dir.path()).is_whole());
    // The log goes over a limit of this database, which is gone as the reserve is let go of and it is opened again.
    inbox.call(|store| store.limit_pages(1)).await.unwrap();
    let mut big = finished(2);
    big.outcome.answer = vec![b'x'; 16 << 10];
    inbox.commit(Some(big), Some(attempt(3))).await.unwrap();
    assert_eq!(inbox.view().await.unwrap(), at(2));
}

#[tokio::test]
async fn an_inbox_that_was_cut_to_nothing_is_damaged_and_one_that_is_gone_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let inbox = open(directory.path());
    inbox.commit(Some(finished(3)), None).await.unwrap();
    assert_eq!(inbox.view().await.unwrap(), at(3));
    drop(inbox);
    let path = place(directory.path(), "north", FORWARD).unwrap();
    drop(open(directory.path()));
    let began = Instant::now();
    let log = path.with_extension("db-wal");
    while log.exists() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let kept = fs::read(&path).unwrap();
    fs::write(&path, "").unwrap();
    let told = |damage| match Inbox::open(directory.path(), "north", FORWARD, None) {
        Err(SpoolError::Damaged { damage: found, .. }) => assert_eq!(found, damage),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing was noticed"),
    };
    told(Damage::Database);
    assert_eq!(fs::read(&path).unwrap(), b"", "nothing was changed");
    // The database was lost, and a log of it was not.
    fs::remove_file(&path).unwrap();
    fs::write(&log, "log").unwrap();
    told(Damage::Missing("database beside its log"));
    fs::remove_file(&log).unwrap();
    // What a stop in the middle of making one leaves is in nobody's way.
    fs::write(path.with_extension("db.new"), &kept[..100]).unwrap();
    let inbox = open(directory.path());
    assert_eq!(inbox.view().await.unwrap(), FarView::Fresh);
}

#[tokio::test]
async fn nothing_is_reported_that_is_in_no_file_any_more() {
    for is_replaced in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let inbox = open(dir.path());
        inbox.commit(Some(finished(1)), Some(attempt(2))).await.unwrap();
        let of_peer = dir.path().join("north");
        let database = fs::read_dir(&of_peer).unwrap().map(|entry| entry.unwrap().path());
        let database = database.filter(|path| path.extension().is_some_and(|end| end == "db")).last().unwrap();
        if is_replaced {
            fs::copy(&database, of_peer.join("copy")).unwrap();
            fs::rename(of_peer.join("copy"), &database).unwrap();
        } else {
            fs::remove_dir_all(&of_peer).unwrap();
        }
        let refused = inbox.commit(Some(finished(2)), Some(attempt(3))).await;
        assert!(matches!(refused, Err(SpoolError::Removed { .. })), "{is_replaced}");
        if !is_replaced {
            // What is in memory of it does not go into a new one: that would lack what was not settled yet.
            fs::create_dir(&of_peer).unwrap();
            assert!(matches!(inbox.view().await, Err(SpoolError::Removed { .. })));
            assert!(inbox.commit(Some(finished(2)), Some(attempt(3))).await.is_err());
            assert_eq!(fs::read_dir(&of_peer).unwrap().count(), 0);
            drop(inbox);
            assert_eq!(open(dir.path()).view().await.unwrap(), FarView::Fresh);
        }
    }
}
