//! The near site's side of the story that two sites tell: what it opens with, and what it makes of the far view.
//!
//! Never retires or sends anything itself. Rules: design, delivery.md ("stored: between the sites").

use rusqlite::params;

use super::core::{Core, now, time_of};
use super::database;
use super::outbox::{Entry, Happening};
use super::tags::tag_of_epoch;
use super::{Choice, Reconciled};
use crate::mllp::ack::AckCode;
use crate::spool::queue::{Event, State};
use crate::spool::{Digest, Divergence, Epoch, FarView, ForwardId, Judgement, Opening, Outcome, Sequence};
use crate::spool::{SpoolError, Verdict, seal};

/// Is the number of newest epochs that are kept: a far site may name one of them, and a site that fails at each start
/// for hours makes no more.
const EPOCHS_KEPT_MIN: usize = 4096;

impl Core {
    /// Returns what the far site is told first.
    pub(super) fn opening(&self) -> Opening {
        let head = &self.live.head;
        let (epoch_first, epoch) = self.epochs.last().copied().unwrap_or((1, Epoch([0; 16])));
        Opening {
            forward: ForwardId(head.forward),
            digest_key: self.keys.digest.clone(),
            epoch,
            epoch_first,
            retired_through: head.retired_through,
            retired_digest: head.retired_digest,
        }
    }

    /// Compares the far site's view with this one; part of a transaction. Where the far site lost its state, that what was
    /// sent is in doubt is kept: it stays so over a start of this site.
    pub(super) fn judge(&mut self, view: FarView) -> Result<Judgement, SpoolError> {
        let head = &self.live.head;
        let FarView::At { epoch, watermark, digest } = view else {
            return Ok(self.far_lost());
        };
        if watermark == 0 && head.retired_through == 0 {
            return Ok(self.agreed(1));
        }
        if watermark > head.last {
            return Ok(Judgement::Diverged(Divergence::FarAhead));
        }
        if watermark > 0 && !self.epochs.iter().any(|(_, known)| *known == epoch) {
            return Ok(Judgement::Diverged(Divergence::UnknownEpoch));
        }
        if watermark < head.retired_through {
            return Ok(self.far_lost());
        }
        if self.digest_at(watermark)? != Some(digest) {
            return Ok(Judgement::Diverged(Divergence::OtherMessages));
        }
        Ok(self.agreed(watermark + 1))
    }

    /// Goes on from what is settled: what was sent above it may have been attempted by the state that is lost.
    fn far_lost(&mut self) -> Judgement {
        let head = &mut self.live.head;
        head.in_doubt_through = head.in_doubt_through.max(self.handed_through);
        self.agreed(self.live.head.retired_through + 1)
    }

    fn agreed(&self, next: Sequence) -> Judgement {
        let head = &self.live.head;
        let is_in_doubt = head.in_doubt_through > head.retired_through;
        Judgement::Agreed { next, in_doubt_through: if is_in_doubt { head.in_doubt_through } else { 0 } }
    }

    /// Finds the running digest at a sequence that can still be asked for.
    pub(super) fn digest_at(&self, sequence: Sequence) -> Result<Option<Digest>, SpoolError> {
        if sequence == self.live.head.retired_through {
            return Ok(Some(self.live.head.retired_digest));
        }
        Ok(self.find_message(sequence)?.map(|message| Digest(message.digest)))
    }

    /// Ends a divergence as an operator chose: the spool becomes a new one to the far site, which then takes what is
    /// above `retired_through`. With [`Choice::AcceptFar`] nothing is sent that the far site may have behind itself.
    pub(super) fn reconcile(&mut self, choice: Choice, view: FarView, by: &str) -> Result<Reconciled, SpoolError> {
        let mut done = Reconciled { settled: 0, parked: 0, queued: 0 };
        if let (Choice::AcceptFar, FarView::At { epoch, watermark, .. }) = (choice, view) {
            match self.end_of_epoch(epoch) {
                Some(end) => done.settled = self.settle_through(watermark.min(end))?,
                None => done.parked = self.park_before_this_start(by)?,
            }
            self.advance()?;
        }
        self.live.head.forward = seal::random_id()?;
        done.queued = self.live.head.tally(State::Queued).messages;
        let reason = match choice {
            Choice::AcceptFar => "accept-far",
            Choice::Resend => "resend",
        };
        self.note(&Entry::by(by, reason, Happening::Reconciled, 0), now())?;
        Ok(done)
    }

    /// Returns the last sequence of an epoch; `None` where this spool never had it.
    fn end_of_epoch(&self, epoch: Epoch) -> Option<Sequence> {
        let at = self.epochs.iter().position(|(_, known)| *known == epoch)?;
        Some(self.epochs.get(at + 1).map_or(self.live.head.last, |(first, _)| first - 1))
    }

    fn settle_through(&mut self, through: Sequence) -> Result<u64, SpoolError> {
        let mut settled = 0;
        for message in self.messages_between(self.live.head.retired_through, through, usize::MAX)? {
            if message.state == State::Queued {
                settled += 1;
                self.settle(&[Outcome {
                    sequence: message.sequence,
                    verdict: Verdict::DeliveredBefore,
                    code: AckCode::Absent,
                    attempts: 0,
                    in_doubt: 0,
                    answer: Vec::new(),
                    at: time_of(now()),
                }])?;
            }
        }
        Ok(settled)
    }

    /// Sets aside what was queued before this start: which of it the far site has, nobody can tell any more.
    fn park_before_this_start(&mut self, by: &str) -> Result<u64, SpoolError> {
        let first = self.epochs.last().map_or(1, |(first, _)| *first);
        let mut parked = 0;
        for message in self.messages_between(self.live.head.retired_through, first - 1, usize::MAX)? {
            if let Some(state) = message.state.handle_event(Event::Park) {
                parked += 1;
                self.change_state(&message, state, now())?;
                self.note(&Entry::by(by, "", Happening::Parked, message.sequence), now())?;
            }
        }
        Ok(parked)
    }

    /// Begins the epoch of this start; part of a transaction. Of too many, those go that belong to no message.
    pub(super) fn begin_epoch(&mut self) -> Result<(), SpoolError> {
        let epoch = seal::random_id()?;
        let first = self.live.head.last + 1;
        let tag = tag_of_epoch(&self.keys, database::stored(first), &epoch);
        let sql = "INSERT INTO epochs (epoch, first, tag) VALUES (?1, ?2, ?3)";
        self.execute("begin an epoch", sql, params![epoch, database::stored(first), tag])?;
        self.epochs.push((first, Epoch(epoch)));
        let kept = self.messages_between(0, self.live.head.last, 1)?;
        let needed = kept.first().map_or(first, |message| message.sequence).min(self.live.head.retired_through + 1);
        let spare = self.epochs.len().saturating_sub(EPOCHS_KEPT_MIN);
        let ended = self.epochs.partition_point(|(first, _)| *first <= needed).saturating_sub(1).min(spare);
        if ended > 0 {
            self.epochs.drain(..ended);
            let sql = "DELETE FROM epochs WHERE number IN (SELECT number FROM epochs ORDER BY number LIMIT ?1)";
            self.execute("forget an epoch", sql, [database::stored(ended as u64)])?;
        }
        if let Some(tagged) = &mut self.live.head.tagged {
            tagged.epochs = self.epochs.len() as u64;
        }
        Ok(())
    }
}
