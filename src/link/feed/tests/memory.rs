//! A queue and a book in memory that keep the rules of the real ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::super::{Book, Queue, QueueState, StoreError, Taken};
use crate::mllp::ack::AckCode;
use crate::spool::{
    Digest, DigestKey, Divergence, Epoch, FarView, ForwardId, Judgement, Opening, Outcome, Queued, Sequence, Verdict,
};

pub(super) const KEY: DigestKey = DigestKey([9; 32]);
pub(super) const FORWARD: ForwardId = ForwardId([5; 16]);

pub(super) fn outcome(sequence: Sequence, verdict: Verdict) -> Outcome {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(sequence);
    let answer = vec![b'A'; 80];
    Outcome { sequence, verdict, code: AckCode::ApplicationAccept, attempts: 1, in_doubt: 0, answer, at }
}

struct Kept {
    payload: Vec<u8>,
    epoch: Epoch,
    digest: Digest,
    is_settled: bool,
    is_discarded: bool,
}

/// Is a queue.
pub(super) struct QueueModel {
    kept: Vec<Kept>,
    epochs: Vec<(Epoch, Sequence)>,
    sent_through: Sequence,
    in_doubt_through: Sequence,
}

impl QueueModel {
    pub(super) fn new() -> Self {
        Self { kept: Vec::new(), epochs: vec![(Epoch([1; 16]), 1)], sent_through: 0, in_doubt_through: 0 }
    }

    pub(super) fn restart(&mut self) {
        let number = u8::try_from(self.epochs.len() + 1).unwrap();
        self.epochs.push((Epoch([number; 16]), self.last() + 1));
    }

    pub(super) fn last(&self) -> Sequence {
        self.kept.len() as u64
    }

    pub(super) fn append(&mut self, size: usize) {
        let sequence = self.last() + 1;
        let payload: Vec<u8> = sequence.to_be_bytes().into_iter().cycle().take(size).collect();
        let digest = KEY.following(&self.digest(sequence - 1), sequence, &payload);
        let epoch = self.epochs.last().unwrap().0;
        self.kept.push(Kept { payload, epoch, digest, is_settled: false, is_discarded: false });
    }

    fn at(&self, sequence: Sequence) -> Option<&Kept> {
        self.kept.get(usize::try_from(sequence.checked_sub(1)?).unwrap())
    }

    pub(super) fn payload(&self, sequence: Sequence) -> Vec<u8> {
        self.at(sequence).unwrap().payload.clone()
    }

    fn digest(&self, sequence: Sequence) -> Digest {
        self.at(sequence).map_or(Digest([0; 32]), |kept| kept.digest)
    }

    pub(super) fn sent_through(&self) -> Sequence {
        self.sent_through
    }

    pub(super) fn discard_unsent(&mut self, which: usize) {
        let sent = usize::try_from(self.sent_through).unwrap();
        if let Some(kept) = self.kept.iter_mut().skip(sent).nth(which) {
            (kept.is_settled, kept.is_discarded) = (true, true);
        }
    }

    /// Lists what is to reach the receiver.
    pub(super) fn wanted(&self) -> Vec<Sequence> {
        (1..=self.last()).filter(|sequence| !self.at(*sequence).unwrap().is_discarded).collect()
    }

    pub(super) fn retired_through(&self) -> Sequence {
        self.kept.iter().take_while(|kept| kept.is_settled).count() as u64
    }

    pub(super) fn opening(&self) -> Opening {
        let (epoch, epoch_first) = *self.epochs.last().unwrap();
        let retired_through = self.retired_through();
        let retired_digest = self.digest(retired_through);
        Opening { forward: FORWARD, digest_key: KEY, epoch, epoch_first, retired_through, retired_digest }
    }

    pub(super) fn judge(&mut self, view: FarView) -> Judgement {
        let retired = self.retired_through();
        match view {
            FarView::Fresh => self.far_lost(),
            FarView::At { watermark, .. } if watermark > self.last() => Judgement::Diverged(Divergence::FarAhead),
            FarView::At { epoch, .. } if !self.epochs.iter().any(|(known, _)| *known == epoch) => {
                Judgement::Diverged(Divergence::UnknownEpoch)
            }
            FarView::At { watermark, digest, .. } if digest != self.digest(watermark) => {
                Judgement::Diverged(Divergence::OtherMessages)
            }
            FarView::At { watermark, .. } => {
                let was_sent = |sequence| self.at(sequence).is_some_and(|kept| !kept.is_discarded);
                if (watermark + 1..=retired).any(was_sent) {
                    return self.far_lost();
                }
                let next = watermark.max(retired) + 1;
                Judgement::Agreed { next, in_doubt_through: self.in_doubt_through }
            }
        }
    }

    fn far_lost(&mut self) -> Judgement {
        self.in_doubt_through = self.sent_through;
        Judgement::Agreed { next: self.retired_through() + 1, in_doubt_through: self.in_doubt_through }
    }

    pub(super) fn read(&mut self, from: Sequence, messages: usize, bytes: usize) -> Vec<Queued> {
        let mut read: Vec<Queued> = Vec::new();
        let mut room = bytes;
        for sequence in from..=self.last() {
            let kept = self.at(sequence).unwrap();
            if kept.is_settled {
                continue;
            }
            if read.len() >= messages || (kept.payload.len() > room && !read.is_empty()) {
                break;
            }
            room = room.saturating_sub(kept.payload.len());
            let (epoch, digest, payload) = (kept.epoch, kept.digest, kept.payload.clone());
            read.push(Queued { sequence, epoch, digest, payload, accepted: SystemTime::UNIX_EPOCH });
        }
        self.sent_through = self.sent_through.max(read.last().map_or(0, |last| last.sequence));
        read
    }

    pub(super) fn settle(&mut self, outcomes: Vec<Outcome>) -> Sequence {
        for outcome in outcomes {
            self.kept[usize::try_from(outcome.sequence - 1).unwrap()].is_settled = true;
        }
        self.retired_through()
    }
}

/// Is a book.
#[derive(Default)]
pub(super) struct BookState {
    at: Option<(Epoch, Sequence, Digest)>,
    pub(super) outcomes: BTreeMap<Sequence, Outcome>,
}

impl BookState {
    pub(super) fn view(&self) -> FarView {
        self.at.map_or(FarView::Fresh, |(epoch, watermark, digest)| FarView::At { epoch, watermark, digest })
    }

    pub(super) fn watermark(&self) -> Sequence {
        self.at.map_or(0, |(_, watermark, _)| watermark)
    }

    pub(super) fn raise(&mut self, opening: &Opening) {
        if self.at.is_none_or(|(_, watermark, _)| watermark < opening.retired_through) {
            self.at = Some((opening.epoch, opening.retired_through, opening.retired_digest));
        }
    }

    pub(super) fn prune(&mut self, through: Sequence) {
        self.outcomes.retain(|sequence, _| *sequence > through);
    }

    pub(super) fn outcomes_after(&self, sequence: Sequence) -> Vec<Outcome> {
        self.outcomes.range(sequence + 1..).map(|(_, outcome)| outcome.clone()).collect()
    }

    pub(super) fn finish(&mut self, taken: &Taken, outcome: Outcome) {
        assert!(self.watermark() < taken.sequence, "nothing is delivered twice or out of order");
        self.at = Some((taken.epoch, taken.sequence, taken.digest));
        self.outcomes.insert(taken.sequence, outcome);
    }
}

/// Is a queue for the shell.
pub(super) struct MemoryQueue {
    pub(super) model: Mutex<QueueModel>,
    tail: watch::Sender<QueueState>,
    /// Lets what was read be told.
    reads_end: watch::Sender<bool>,
}

impl MemoryQueue {
    pub(super) fn new() -> Arc<Self> {
        let (model, tail) = (Mutex::new(QueueModel::new()), watch::Sender::default());
        Arc::new(Self { model, tail, reads_end: watch::Sender::new(true) })
    }

    pub(super) fn append(&self, count: usize, size: usize) {
        let mut model = self.model.lock().unwrap();
        (0..count).for_each(|_| model.append(size));
        self.tell(&model);
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.tail.send_modify(|state| state.paused = paused);
    }

    pub(super) fn let_reads_end(&self, may: bool) {
        self.reads_end.send_replace(may);
    }

    pub(super) fn fail(&self) {
        self.tail.send_modify(|state| state.failed = Some("the disk is gone".to_owned()));
    }

    pub(super) fn mend(&self) {
        self.tail.send_modify(|state| state.failed = None);
    }

    fn tell(&self, model: &QueueModel) {
        self.tail.send_modify(|state| {
            (state.last, state.retired_through) = (model.last(), model.retired_through());
        });
    }
}

impl Queue for MemoryQueue {
    fn opening(&self) -> BoxFuture<'_, Result<Opening, StoreError>> {
        async { Ok(self.model.lock().unwrap().opening()) }.boxed()
    }

    fn judge(&self, view: FarView) -> BoxFuture<'_, Result<Judgement, StoreError>> {
        async move { Ok(self.model.lock().unwrap().judge(view)) }.boxed()
    }

    fn read(&self, from: Sequence, messages: usize, bytes: usize) -> BoxFuture<'_, Result<Vec<Queued>, StoreError>> {
        async move {
            let read = self.model.lock().unwrap().read(from, messages, bytes);
            self.reads_end.subscribe().wait_for(|may| *may).await?;
            Ok(read)
        }
        .boxed()
    }

    fn settle(&self, outcomes: Vec<Outcome>) -> BoxFuture<'_, Result<Sequence, StoreError>> {
        async move {
            let mut model = self.model.lock().unwrap();
            let retired = model.settle(outcomes);
            self.tell(&model);
            Ok(retired)
        }
        .boxed()
    }

    fn tail(&self) -> watch::Receiver<QueueState> {
        self.tail.subscribe()
    }
}

/// Is a book for the shell.
#[derive(Default)]
pub(super) struct MemoryBook(pub(super) Mutex<BookState>);

impl Book for MemoryBook {
    fn view(&self) -> BoxFuture<'_, Result<FarView, StoreError>> {
        async { Ok(self.0.lock().unwrap().view()) }.boxed()
    }

    fn outcomes_after(&self, sequence: Sequence) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        async move { Ok(self.0.lock().unwrap().outcomes_after(sequence)) }.boxed()
    }

    fn attempted(&self) -> BoxFuture<'_, Result<Option<Sequence>, StoreError>> {
        async { Ok(None) }.boxed()
    }

    fn raise(&self, opening: Opening) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            self.0.lock().unwrap().raise(&opening);
            Ok(())
        }
        .boxed()
    }

    fn prune(&self, retired_through: Sequence) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            self.0.lock().unwrap().prune(retired_through);
            Ok(())
        }
        .boxed()
    }
}
