//! Tests of a store that fails: a full disk, and a write that went wrong.

use super::*;

/// Lets the database grow by so many pages and no more.
async fn leave_room(spool: &Spool, pages: Option<i64>) {
    spool
        .look(move |core| {
            let count: i64 = core.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
            let most = pages.map_or(i64::from(i32::MAX), |pages| count + pages);
            core.connection.pragma_update_and_check(None, "max_page_count", most, |_| Ok(())).unwrap();
            Ok(())
        })
        .await
        .unwrap();
}

/// Asks for both while the thread is busy, so that they come into one batch.
async fn in_one_batch<A, B>(spool: &Spool, first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let busy = spool.look(move |_| {
        wait.recv().unwrap();
        Ok(())
    });
    // Each is polled once, in this order, before any is polled again.
    let (busy, first, second, _) = tokio::join!(busy, first, second, async { go.send(()).unwrap() });
    busy.unwrap();
    (first, second)
}

#[tokio::test]
async fn a_full_disk_refuses_messages_keeps_the_rest_and_ends_with_the_space() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=3 {
        spool.keep(message(number)).await.unwrap();
    }
    leave_room(&spool, Some(0)).await;
    let big = vec![b'x'; 100_000];
    for _ in 0..3 {
        assert!(matches!(spool.keep(big.clone()).await, Err(Refusal::Disk)));
    }
    // In one batch with a message that finds no room, an outcome still finds its own.
    let settle = spool.settle(vec![outcome(1, Verdict::Delivered)]);
    let (refused, settled) = in_one_batch(&spool, spool.keep(big.clone()), settle).await;
    assert!(matches!(refused, Err(Refusal::Disk)));
    assert_eq!(settled.unwrap(), 1);
    assert_eq!(spool.tail().borrow().failed, None);
    leave_room(&spool, None).await;
    has_room(&spool).await;
    assert_eq!(spool.keep(big.clone()).await.unwrap(), 4);
    drop(spool);
    let queued = place.open().read(1, 9, usize::MAX).await.unwrap();
    assert_eq!(queued.iter().map(|one| one.sequence).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(queued[2].payload == big);
}

/// Waits until messages are taken again.
async fn has_room(spool: &Spool) {
    let mut tail = spool.tail();
    let room = tail.wait_for(|tail| !tail.disk_full);
    tokio::time::timeout(Duration::from_secs(20), room).await.unwrap().unwrap();
}

#[tokio::test]
async fn no_message_takes_of_the_reserve_and_intake_returns_by_itself() {
    let place = Place::new();
    let spool = place.open();
    let reserve = crate::spool::reserve::Reserve::of(place.directory.path());
    assert!(reserve.is_whole());
    for (number, payload) in [(1, message(1)), (2, vec![b'x'; INLINE_BYTES_MAX + 1])] {
        // Another forward on that disk needs of it.
        assert!(reserve.release());
        assert!(matches!(spool.keep(payload.clone()).await, Err(Refusal::Disk)));
        assert_eq!(place.files(), 0);
        assert_eq!(spool.settle(Vec::new()).await.unwrap(), 0, "what is kept goes on");
        // This disk has room: it is made again, and messages are taken.
        has_room(&spool).await;
        assert!(reserve.is_whole());
        assert_eq!(spool.keep(payload).await.unwrap(), number);
    }
}

/// Fails as a write does that the disk did not take.
async fn fail(spool: &Spool) -> Result<(), SpoolError> {
    spool
        .change(|core| {
            let source = std::io::Error::other("made to fail");
            // Something of the transaction was written already.
            core.append(&core.arrival(message(99)), self::core::now()).unwrap();
            Err(SpoolError::file("sync", core.path.clone(), source))
        })
        .await
}

#[tokio::test]
async fn after_a_failed_write_the_store_is_opened_again_and_nothing_of_it_is_there() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    let before = spool.opening().await.unwrap().epoch;
    let (failed, with_it) = in_one_batch(&spool, fail(&spool), spool.keep(message(2))).await;
    assert!(matches!(failed, Err(SpoolError::File { .. })));
    assert!(matches!(with_it, Err(Refusal::Failed(SpoolError::File { .. }))));
    // It is opened again at once, which an epoch of its own shows.
    let after = spool.opening().await.unwrap();
    assert_ne!(after.epoch, before);
    assert_eq!(after.epoch_first, 2);
    assert_eq!(spool.keep(message(2)).await.unwrap(), 2);
    let queued = spool.read(1, 9, usize::MAX).await.unwrap();
    assert!(queued.len() == 2 && queued[1].payload == message(2));
    assert_eq!(spool.tail().borrow().failed, None);
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_again_refuses_until_it_can() {
    let place = Place::new();
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    let (mark, aside) = (place.path("mark"), place.path("aside"));
    fs::rename(&mark, &aside).unwrap();
    fail(&spool).await.unwrap_err();
    assert!(matches!(spool.keep(message(2)).await, Err(Refusal::Failed(_))));
    assert!(spool.tail().borrow().failed.is_some());
    fs::rename(&aside, &mark).unwrap();
    let mut tail = spool.tail();
    tokio::time::timeout(Duration::from_secs(20), tail.wait_for(|tail| tail.failed.is_none())).await.unwrap().unwrap();
    assert_eq!(spool.keep(message(2)).await.unwrap(), 2);
}

/// Makes a spool with so many delivered messages of 10 kB and one that waits.
async fn with_copies(place: &Place, copies: u64) -> Arc<Spool> {
    let spool = place.open();
    for from in (0..copies).step_by(50) {
        let payloads = (from..copies.min(from + 50)).map(|number| [message(number), vec![b'x'; 10_000]].concat());
        let kept = spool.append(payloads.collect()).await.kept;
        spool.settle(kept.iter().map(|sequence| outcome(*sequence, Verdict::Delivered)).collect()).await.unwrap();
    }
    spool.keep(message(copies + 1)).await.unwrap();
    spool
}

#[tokio::test]
async fn copies_of_delivered_messages_go_before_a_message_is_refused() {
    let mut place = Place::new();
    place.limits.messages_max = u64::MAX;
    let spool = with_copies(&place, 600).await;
    // As on a full disk: what grows finds no room, what is freed is used again.
    leave_room(&spool, Some(0)).await;
    let large = vec![b'z'; 900_000];
    let shed = spool.look(|core| {
        let mut steps = 0;
        while core.shed_a_step()? {
            steps += 1;
            assert!(core.tail().delivered < 600);
        }
        Ok(steps)
    });
    assert!(shed.await.unwrap() > 3, "by steps");
    assert_eq!(spool.keep(large.clone()).await.unwrap(), 602);
    let tail = spool.tail().borrow().clone();
    assert_eq!((tail.delivered, tail.delivered_bytes, tail.shredded_early, tail.depth), (0, 0, 600, 2));
    assert!(fs::metadata(place.path("spool.db")).unwrap().len() < 2_000_000, "the disk has it again");
    leave_room(&spool, None).await;
    drop(spool);
    let spool = place.open();
    assert_eq!(spool.read(1, 9, usize::MAX).await.unwrap().len(), 2);
    assert_eq!(spool.tail().borrow().shredded_early, 0, "it counts from the start");
}

#[tokio::test]
async fn a_step_that_failed_leaves_no_copy_behind() {
    let place = Place::new();
    let spool = with_copies(&place, 60).await;
    for _ in 0..3 {
        let failed = spool.look(|core| {
            core.connection.execute_batch("ALTER TABLE head RENAME TO aside").unwrap();
            let failed = core.shed_a_step();
            core.connection.execute_batch("ALTER TABLE aside RENAME TO head").unwrap();
            Ok(failed.is_err())
        });
        assert!(failed.await.unwrap());
    }
    let shed = spool.look(|core| {
        while core.shed_a_step()? {}
        Ok(core.tail().delivered)
    });
    assert_eq!(shed.await.unwrap(), 0);
}
