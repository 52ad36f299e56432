//! Tests of a spool whose files are taken away while it is open: nothing more is acknowledged.

use super::*;
use crate::spool::Damage;

async fn failure(spool: &Spool) -> String {
    let mut tail = spool.tail();
    let failed = tail.wait_for(|tail| tail.failed.is_some());
    let failed = tokio::time::timeout(Duration::from_secs(20), failed).await.unwrap().unwrap();
    failed.failed.clone().unwrap_or_default()
}

#[tokio::test]
async fn nothing_is_acknowledged_that_is_in_no_file_any_more() {
    type Take = fn(&Place);
    let ways: [(&str, Take, &str); 5] = [
        (
            "the directory is removed",
            |place| {
                // First, as nobody knows in which order the rest goes.
                fs::remove_file(place.path("spool.db")).unwrap();
                fs::remove_dir_all(place.path("")).unwrap();
            },
            "spool.db",
        ),
        ("the database is removed", |place| fs::remove_file(place.path("spool.db")).unwrap(), "spool.db"),
        (
            "an empty one is there",
            |place| {
                fs::write(place.path("copy"), "").unwrap();
                fs::rename(place.path("copy"), place.path("spool.db")).unwrap();
            },
            "spool.db",
        ),
        ("its mark is removed", |place| fs::remove_file(place.path("mark")).unwrap(), "mark"),
        (
            "the directory is renamed",
            |place| {
                fs::rename(place.path(""), place.directory.path().join("aside")).unwrap();
            },
            "spool.db",
        ),
    ];
    for (way, take, named) in ways {
        let place = Place::new();
        let spool = place.open();
        spool.keep(message(1)).await.unwrap();
        take(&place);
        for payload in [message(2), vec![b'x'; INLINE_BYTES_MAX + 1]] {
            let refused = spool.keep(payload).await;
            assert!(matches!(refused, Err(Refusal::Failed(_))), "{way}");
        }
        let told = failure(&spool).await;
        assert!(told.contains(place.path(named).to_str().unwrap()) || named == "mark", "{way}: {told}");
        assert!(!told.is_empty(), "{way}");
        // Nobody makes a new one in its place.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(spool.keep(message(3)).await.is_err(), "{way}");
        drop(spool);
        let is_left = place.path("spool.db").exists();
        assert_eq!(is_left, ["an empty one is there", "its mark is removed"].contains(&way), "{way}");
    }
}

#[tokio::test]
async fn a_log_that_is_removed_is_written_back_and_nothing_is_lost() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    fs::remove_file(place.path("spool.db-wal")).unwrap();
    assert!(matches!(spool.keep(message(2)).await, Err(Refusal::Failed(SpoolError::Removed { .. }))));
    let mut tail = spool.tail();
    tokio::time::timeout(Duration::from_secs(20), tail.wait_for(|tail| tail.failed.is_none())).await.unwrap().unwrap();
    drop(spool);
    let spool = place.open();
    assert!(spool.read(1, 1, usize::MAX).await.unwrap()[0].payload == message(1));
}

#[tokio::test]
async fn nothing_is_acknowledged_that_was_cut_off() {
    let cut = |file: &str, bytes: u64| (file.to_owned(), bytes);
    for (file, bytes) in [cut("spool.db-wal", 0), cut("spool.db-wal", 8192), cut("spool.db", 0), cut("spool.db", 8192)]
    {
        let place = Place::new();
        let spool = place.open();
        for number in 1..=5 {
            spool.keep([message(number), vec![b'x'; 8000]].concat()).await.unwrap();
        }
        if file == "spool.db" {
            spool.look(|core| core.checkpoint()).await.unwrap();
            spool.keep(message(6)).await.unwrap();
        }
        fs::OpenOptions::new().write(true).open(place.path(&file)).unwrap().set_len(bytes).unwrap();
        let refused = spool.keep(message(7)).await;
        assert!(matches!(refused, Err(Refusal::Failed(SpoolError::CutShort { .. }))), "{file} {bytes}");
        let told = failure(&spool).await;
        assert!(told.contains(&format!("{file} was cut short while it was in use")), "{told}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(spool.keep(message(8)).await.is_err(), "{file} {bytes}: it is not opened again");
        assert!(failure(&spool).await.contains("cut short"));
    }
}

#[tokio::test]
async fn one_whose_log_is_cut_off_is_told_where_nothing_comes_in() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    fs::OpenOptions::new().write(true).open(place.path("spool.db-wal")).unwrap().set_len(0).unwrap();
    assert!(failure(&spool).await.contains("spool.db-wal was cut short"));
}

#[tokio::test]
async fn files_that_the_spool_itself_makes_shorter_are_no_damage() {
    let place = Place::keeping(Duration::ZERO);
    let spool = place.open();
    for round in 0..2_u64 {
        for number in 1..=8 {
            spool.keep([message(number), vec![b'x'; 100_000]].concat()).await.unwrap();
        }
        let outcomes = (1..=8).map(|number| outcome(round * 8 + number, Verdict::Delivered)).collect();
        spool.settle(outcomes).await.unwrap();
        if round % 2 == 1 {
            spool.look(|core| core.checkpoint()).await.unwrap();
            let before = fs::metadata(place.path("spool.db")).unwrap().len();
            // As where the disk is short, but the log is written back by the commits that follow.
            spool
                .change(|core| {
                    let mut statement = core.connection.prepare("PRAGMA incremental_vacuum(2048)").unwrap();
                    let mut rows = statement.query([]).unwrap();
                    while rows.next().unwrap().is_some() {}
                    Ok(())
                })
                .await
                .unwrap();
            spool.look(|core| core.checkpoint()).await.unwrap();
            assert!(fs::metadata(place.path("spool.db")).unwrap().len() < before);
        }
    }
    assert_eq!(spool.tail().borrow().failed, None);
}

#[tokio::test]
async fn one_that_is_put_back_goes_on() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    let aside = place.directory.path().join("aside");
    fs::rename(place.path(""), &aside).unwrap();
    // Nobody has to send anything for it to be noticed.
    assert!(failure(&spool).await.contains("was removed or replaced while it was in use"));
    fs::rename(&aside, place.path("")).unwrap();
    let mut tail = spool.tail();
    tokio::time::timeout(Duration::from_secs(20), tail.wait_for(|tail| tail.failed.is_none())).await.unwrap().unwrap();
    assert_eq!(spool.keep(message(2)).await.unwrap(), 2);
    assert_eq!(spool.read(1, 9, usize::MAX).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_page_that_is_damaged_closes_the_spool_once_and_stays_told() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=40 {
        spool.keep([message(number), vec![b'x'; 4000]].concat()).await.unwrap();
    }
    drop(spool);
    let connection = rusqlite::Connection::open(place.path("spool.db")).unwrap();
    let sql = "SELECT rootpage FROM sqlite_master WHERE name = 'contents'";
    let page: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(connection);
    let file = fs::OpenOptions::new().write(true).open(place.path("spool.db")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 4096], (page as u64 - 1) * 4096).unwrap();
    // No start reads all contents.
    let spool = place.open();
    assert!(spool.read(1, 9, usize::MAX).await.is_err());
    let told = failure(&spool).await;
    assert!(told.contains(&Damage::Database.to_string()), "{told}");
    let mut tail = spool.tail();
    tail.mark_unchanged();
    // It is tried again, and not opened before its pages are whole.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let now = tail.borrow_and_update().failed.clone();
    assert_eq!(now, Some(told));
    assert!(matches!(spool.keep(message(41)).await, Err(Refusal::Failed(SpoolError::Damaged { .. }))));
}
