//! Tests of the near spool on a real disk. Messages are synthetic.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::spool::large::INLINE_BYTES_MAX;
use crate::spool::{Digest, Divergence, Epoch, Judgement, Limit};
use crate::spool::{Queued, Refusal};

mod damage;
mod failing;
mod keeping;
mod model;
mod presence;

impl Spool {
    /// Reads for the destination that messages are accepted for.
    pub(crate) async fn read(&self, from: Sequence, messages: usize, bytes: usize) -> Result<Vec<Queued>, SpoolError> {
        let own = self.look(|core| Ok(core.live.destinations.get(&core.live.destination).cloned())).await?;
        match own {
            Some(own) => self.read_for(&own, from, messages, bytes).await,
            None => Ok(Vec::new()),
        }
    }
}

/// Is a place for one spool, which may be opened again and again.
struct Place {
    directory: tempfile::TempDir,
    key: SpoolKey,
    limits: Limits,
}

impl Place {
    fn new() -> Self {
        let limits = Limits { messages_max: 1000, bytes_max: 1 << 30, keep_delivered: Duration::from_secs(3600) };
        Self { directory: tempfile::tempdir().unwrap(), key: SpoolKey::from_bytes([3; 32]), limits }
    }

    fn keeping(keep_delivered: Duration) -> Self {
        let mut place = Self::new();
        place.limits.keep_delivered = keep_delivered;
        place
    }

    fn try_open(&self, target: &str) -> Result<Arc<Spool>, SpoolError> {
        let destination = Destination { peer_key: [5; 32], target: target.to_owned() };
        let wanted = Wanted { spool: None, destination: Some(destination), limits: self.limits.clone(), trace: None };
        Spool::open(self.directory.path(), "orders", &self.key, wanted)
    }

    fn open(&self) -> Arc<Spool> {
        self.try_open("orders").unwrap_or_else(|error| panic!("{error}"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("orders").join(name)
    }

    fn files(&self) -> usize {
        let entries = fs::read_dir(self.directory.path().join("orders")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "sealed")).count()
    }
}

fn message(number: u64) -> Vec<u8> {
    format!("MSH|^~\\&|LAB|NORTH|EMR|SOUTH|20261125||ORU^R01|M{number}|T|2.5\rPID|1||SYNTHETIC{number}\r").into_bytes()
}

fn outcome(sequence: Sequence, verdict: Verdict) -> Outcome {
    Outcome {
        sequence,
        verdict,
        code: AckCode::ApplicationAccept,
        attempts: 1,
        in_doubt: 0,
        answer: b"MSH|^~\\&|EMR\rMSA|AA|M1\r".to_vec(),
        at: SystemTime::now(),
    }
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart_in_order() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=5 {
        assert_eq!(spool.keep(message(number)).await.unwrap(), number);
    }
    let first_epoch = spool.opening().await.unwrap().epoch;
    drop(spool);
    let spool = place.open();
    assert_eq!(spool.keep(message(6)).await.unwrap(), 6);
    let opening = spool.opening().await.unwrap();
    assert_eq!((opening.epoch_first, opening.retired_through), (6, 0));
    assert_ne!(opening.epoch, first_epoch);
    let queued = spool.read(1, 100, usize::MAX).await.unwrap();
    assert_eq!(queued.len(), 6);
    for (number, queued) in (1..).zip(&queued) {
        assert_eq!(queued.sequence, number);
        assert!(queued.payload == message(number));
        assert_eq!(queued.epoch, if number < 6 { first_epoch } else { opening.epoch });
    }
    let some = spool.read(3, 2, usize::MAX).await.unwrap();
    assert_eq!(some.iter().map(|one| one.sequence).collect::<Vec<_>>(), [3, 4]);
    // One that is larger than asked for comes alone.
    assert_eq!(spool.read(2, 100, 10).await.unwrap().len(), 1);
    let tail = spool.tail().borrow().clone();
    assert_eq!((tail.last, tail.depth, tail.retired_through, tail.parked), (6, 6, 0, 0));
    assert_eq!(tail.bytes, (1..=6).map(|number| message(number).len() as u64).sum::<u64>());
    assert!(tail.oldest.is_some() && tail.failed.is_none());
}

#[tokio::test]
async fn messages_retire_in_order_whatever_the_order_of_their_outcomes() {
    let place = Place::new();
    let spool = place.open();
    for number in 1..=4 {
        spool.keep(message(number)).await.unwrap();
    }
    assert_eq!(spool.settle(vec![outcome(2, Verdict::Delivered)]).await.unwrap(), 0);
    assert_eq!(spool.settle(vec![outcome(3, Verdict::Rejected), outcome(99, Verdict::Delivered)]).await.unwrap(), 0);
    let left: Vec<_> = spool.read(1, 9, usize::MAX).await.unwrap().iter().map(|one| one.sequence).collect();
    assert_eq!(left, [1, 4]);
    assert_eq!(spool.settle(vec![outcome(1, Verdict::Delivered)]).await.unwrap(), 3);
    // A second outcome changes nothing.
    assert_eq!(spool.settle(vec![outcome(1, Verdict::Failed)]).await.unwrap(), 3);
    let states: Vec<_> = spool.list(1, None, 9).await.unwrap().iter().map(|one| one.state).collect();
    assert_eq!(states, [State::Delivered, State::Delivered, State::Parked, State::Queued]);
    let shown = spool.show(1).await.unwrap().outcome.unwrap();
    assert!(shown.answer == outcome(1, Verdict::Delivered).answer && shown.verdict == Some(Verdict::Delivered));
    drop(spool);
    let spool = place.open();
    assert_eq!(spool.opening().await.unwrap().retired_through, 3);
    assert_eq!(spool.tail().borrow().parked, 1);
}

#[tokio::test]
async fn limits_name_themselves_and_leave_room_again() {
    let mut place = Place::new();
    place.limits.messages_max = 2;
    place.limits.bytes_max = 200;
    let spool = place.open();
    spool.keep(message(1)).await.unwrap();
    assert!(matches!(spool.keep(vec![b'x'; 150]).await, Err(Refusal::Full { limit: Limit::Bytes })));
    spool.keep(message(2)).await.unwrap();
    assert!(matches!(spool.keep(message(3)).await, Err(Refusal::Full { limit: Limit::Messages })));
    // Set aside is not gone.
    spool.settle(vec![outcome(1, Verdict::Rejected)]).await.unwrap();
    assert!(matches!(spool.keep(message(3)).await, Err(Refusal::Full { limit: Limit::Messages })));
    spool.settle(vec![outcome(2, Verdict::Delivered)]).await.unwrap();
    assert_eq!(spool.keep(message(3)).await.unwrap(), 3);
}

#[tokio::test]
async fn large_payloads_stand_beside_the_database_and_go_with_their_messages() {
    let place = Place::keeping(Duration::ZERO);
    let spool = place.open();
    let large = |byte: u8| vec![byte; INLINE_BYTES_MAX + 1];
    for byte in [1, 2] {
        spool.keep(large(byte)).await.unwrap();
    }
    assert_eq!(place.files(), 2);
    let read = spool.read(1, 9, usize::MAX).await.unwrap();
    assert!(read[0].payload == large(1) && read[1].payload == large(2));
    spool.settle(vec![outcome(1, Verdict::Delivered)]).await.unwrap();
    // The file goes after the answer: the next turn has it behind itself.
    spool.opening().await.unwrap();
    assert_eq!(place.files(), 1);
    drop(spool);
    fs::write(place.path("00112233445566778899aabbccddeeff.sealed"), "an orphan").unwrap();
    let spool = place.open();
    assert_eq!(place.files(), 1);
    assert!(spool.read(1, 9, usize::MAX).await.unwrap()[0].payload == large(2));
}

#[tokio::test]
async fn a_refused_large_payload_leaves_no_file() {
    let mut place = Place::new();
    place.limits.bytes_max = 1 << 20;
    let spool = place.open();
    let refused = spool.keep(vec![1; INLINE_BYTES_MAX + 1]).await;
    assert!(matches!(refused, Err(Refusal::Full { limit: Limit::Bytes })));
    assert_eq!(place.files(), 0);
}

#[tokio::test]
async fn of_messages_that_come_in_a_row_none_overtakes_one_that_is_refused() {
    let mut place = Place::new();
    place.limits.bytes_max = 2 << 20;
    let spool = place.open();
    let large = |byte: u8| vec![byte; INLINE_BYTES_MAX + 1];
    let appended = spool.append(vec![message(1), large(2), vec![3; 1 << 20], message(4), large(5)]).await;
    assert_eq!(appended.kept, [1, 2]);
    assert!(matches!(appended.refused, Some(Refusal::Full { limit: Limit::Bytes })));
    assert_eq!((spool.tail().borrow().depth, place.files()), (2, 1), "4 would fit");
    let appended = spool.append(vec![message(4), message(5)]).await;
    assert!(appended.kept == [3, 4] && appended.refused.is_none(), "one after another");
    assert!(spool.read(3, 1, usize::MAX).await.unwrap()[0].payload == message(4));
}

#[tokio::test]
async fn the_far_view_is_judged_by_what_both_can_know() {
    let place = Place::new();
    let spool = place.open();
    assert_eq!(spool.judge(FarView::Fresh).await.unwrap(), Judgement::Agreed { next: 1, in_doubt_through: 0 });
    for number in 1..=5 {
        spool.keep(message(number)).await.unwrap();
    }
    let opening = spool.opening().await.unwrap();
    let mut digests = vec![Digest::NONE];
    for number in 1..=5 {
        digests.push(opening.digest_key.following(&digests[digests.len() - 1], number, &message(number)));
    }
    let at = |watermark: u64, epoch| FarView::At {
        epoch,
        watermark,
        digest: *digests.get(usize::try_from(watermark).unwrap()).unwrap_or(&Digest::NONE),
    };
    spool.read(1, 9, usize::MAX).await.unwrap();
    spool.settle(vec![outcome(1, Verdict::Delivered), outcome(2, Verdict::Delivered)]).await.unwrap();
    let judge = async |view| spool.judge(view).await.unwrap();
    assert_eq!(judge(at(3, opening.epoch)).await, Judgement::Agreed { next: 4, in_doubt_through: 0 });
    assert_eq!(judge(at(2, opening.epoch)).await, Judgement::Agreed { next: 3, in_doubt_through: 0 });
    // A far site that lost its state, or was restored: what was sent above is in doubt.
    assert_eq!(judge(at(1, opening.epoch)).await, Judgement::Agreed { next: 3, in_doubt_through: 5 });
    assert_eq!(judge(FarView::Fresh).await, Judgement::Agreed { next: 3, in_doubt_through: 5 });
    assert_eq!(judge(at(6, opening.epoch)).await, Judgement::Diverged(Divergence::FarAhead));
    assert_eq!(judge(at(3, Epoch([9; 16]))).await, Judgement::Diverged(Divergence::UnknownEpoch));
    let other = FarView::At { epoch: opening.epoch, watermark: 3, digest: Digest([1; 32]) };
    assert_eq!(judge(other).await, Judgement::Diverged(Divergence::OtherMessages));
    assert_eq!(spool.opening().await.unwrap().retired_digest, digests[2]);
    // The far site is raised, and this one starts anew: the doubt stays, until its last message is settled.
    drop(spool);
    let spool = place.open();
    let judge = async |view| spool.judge(view).await.unwrap();
    assert_eq!(judge(at(2, opening.epoch)).await, Judgement::Agreed { next: 3, in_doubt_through: 5 });
    spool.keep(message(6)).await.unwrap();
    let doubtful = |sequence, in_doubt| Outcome { in_doubt, ..outcome(sequence, Verdict::Delivered) };
    spool.settle(vec![doubtful(3, 1), doubtful(4, 3), doubtful(5, 1)]).await.unwrap();
    assert_eq!(judge(at(5, opening.epoch)).await, Judgement::Agreed { next: 6, in_doubt_through: 0 });
    // An outcome that is told again, over another connection, is counted once.
    spool.settle(vec![doubtful(5, 1), doubtful(6, 0)]).await.unwrap();
    assert_eq!(spool.tail().borrow().in_doubt, 3);
}
