//! The near end of stored messages: what may be sent, what is in flight, what the far site said of it.
//!
//! Pure: records and what the queue did come in by `handle_*`, records and work go out by `poll_*`. It never sends what
//! the far site has, nor more than the window, and never takes a message for settled: it passes on what the far site wrote
//! down. Rules: design, delivery.md ("stored: between the sites").
//!
//! Idle --connected: OPENING--> Asking --VIEW--> Judging --agreed: BEGIN--> Sending --RETIRED as outcomes are settled--
//!                                                  \--diverged: DIVERGED--> Diverged (until it is begun again)

use std::collections::{BTreeSet, VecDeque};
use std::time::SystemTime;

use bytes::BytesMut;

use super::account::{Account, size};
use super::wire::{Fault, Message, PART_BYTES_MAX, Record, View, encode};
use super::{Answer, CommandKind, Held};
use crate::link::wire::{ReceiverNews, Told, put_ping};
use crate::mllp::ack::AckCode;
use crate::spool::{Divergence, FarView, Judgement, Opening, Outcome, Queued, Sequence, Verdict};

/// Messages that are read ahead of the wire: a batch is worth its look into the store.
const AHEAD_MESSAGES_MAX: usize = 512;
/// The same in bytes; one message may exceed it alone.
const AHEAD_BYTES_MAX: usize = 1 << 20;
/// Outcomes in one batch to be settled.
const SETTLE_MAX: usize = 1024;
/// Answers of receivers that wait to be settled, in bytes: beyond it nothing more is read from the far site.
const SETTLE_BYTES_MAX: usize = 1 << 20;
/// Records that wait ahead of messages, in bytes. A peer that asks on and reads nothing is cut off.
const URGENT_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Idle,
    Asking,
    Judging(View),
    Sending,
    Diverged(Divergence),
}

/// Tells the shell what came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The far site's view is to be judged.
    Judge(FarView),
    Receiver(ReceiverNews),
    Pong(u64),
    /// A command was answered.
    Answer(u32, Answer),
    /// The far site goes on no longer.
    Refused(crate::link::wire::Cause),
}

/// Is what the far site still has in hand from an older connection: its sizes are not known one by one.
#[derive(Debug, Clone, Copy, Default)]
struct Carried {
    through: Sequence,
    messages: usize,
    bytes: u64,
}

/// Is the near end; it begins without a connection.
#[derive(Default)]
pub(super) struct Near {
    phase: Phase,
    opening: Option<Opening>,
    view: Option<View>,
    carried: Carried,
    /// Has what was sent on this connection.
    flight: Account,
    retired_told: Sequence,
    in_doubt_through: Sequence,
    /// Is the last message that was begun, or that the far site has.
    sent: Sequence,
    ahead: VecDeque<Queued>,
    ahead_bytes: usize,
    /// Is how much of the first one ahead was written.
    offset: usize,
    is_paused: bool,
    /// Is what the far site was told of that.
    paused_told: bool,
    barred_from: Option<Sequence>,
    commands: VecDeque<(u32, CommandKind, Sequence)>,
    outcomes: VecDeque<Outcome>,
    outcome_bytes: usize,
    /// Is the last message that the far site had when it began.
    begun_after: Sequence,
    /// Holds what was reported since the beginning, until all was.
    reported: Option<BTreeSet<Sequence>>,
    /// Are the first and last of a range whose messages the far site is behind without knowing what came of them.
    behind: Option<(Sequence, Sequence)>,
    held: Option<Held>,
    urgent: BytesMut,
}

impl Near {
    /// Begins a connection: all that the one before left is void.
    pub(super) fn handle_connected(&mut self, opening: Opening) {
        self.begin_anew(Phase::Asking);
        self.flight.retire(opening.retired_through);
        self.retired_told = opening.retired_through;
        encode(&Record::Opening(opening.clone()), &mut self.urgent);
        self.opening = Some(opening);
    }

    /// Ends a connection; what an operator must know stays.
    pub(super) fn handle_disconnected(&mut self) {
        let phase = if self.divergence().is_some() { self.phase } else { Phase::Idle };
        let held = self.held.take();
        self.begin_anew(phase);
        self.held = held;
    }

    fn begin_anew(&mut self, phase: Phase) {
        let (is_paused, barred_from) = (self.is_paused, self.barred_from);
        *self = Self { is_paused, barred_from, phase, ..Self::default() };
    }

    /// Takes in a record.
    ///
    /// # Errors
    /// The far site broke the rules; the connection is to be given up.
    pub(super) fn handle_record(&mut self, record: Record<'_>) -> Result<Option<Event>, Fault> {
        let kind = record.kind();
        match record {
            Record::View(view) if self.phase == Phase::Asking => {
                self.phase = Phase::Judging(view);
                return Ok(Some(Event::Judge(view.far)));
            }
            Record::Outcome(outcome) if self.phase == Phase::Sending => self.handle_outcome(outcome)?,
            Record::Reported(through) if self.phase == Phase::Sending => self.handle_reported(through)?,
            Record::Held(held) => self.held = held,
            Record::Answer { id, answer } => return Ok(Some(Event::Answer(id, answer))),
            Record::Ping(token) => encode(&Record::Pong(token), &mut self.urgent),
            Record::Pong(token) => return Ok(Some(Event::Pong(token))),
            Record::Receiver(news) => return Ok(Some(Event::Receiver(news))),
            Record::Refuse(cause) => return Ok(Some(Event::Refused(cause))),
            _ => return Err(Fault::Order(kind)),
        }
        if self.urgent.len() > URGENT_BYTES_MAX { Err(Fault::Flood) } else { Ok(None) }
    }

    /// Takes in what the queue makes of the far site's view.
    pub(super) fn handle_judgement(&mut self, judgement: Judgement) {
        let Phase::Judging(view) = self.phase else { return };
        match judgement {
            Judgement::Diverged(divergence) => {
                self.phase = Phase::Diverged(divergence);
                encode(&Record::Diverged(divergence), &mut self.urgent);
            }
            Judgement::Agreed { next, in_doubt_through } => {
                let retired = self.opening.as_ref().map_or(0, |opening| opening.retired_through);
                self.sent = next.saturating_sub(1).max(view.taken);
                if self.sent > retired {
                    let messages = usize::try_from(view.messages).unwrap_or(usize::MAX);
                    self.carried = Carried { through: self.sent, messages, bytes: view.bytes };
                }
                self.begun_after = self.sent;
                self.in_doubt_through = in_doubt_through;
                self.view = Some(view);
                self.reported = Some(BTreeSet::new());
                self.phase = Phase::Sending;
                let (after, is_paused) = (self.sent, self.is_paused);
                self.paused_told = is_paused;
                encode(&Record::Begin { after, in_doubt_through, is_paused }, &mut self.urgent);
            }
        }
    }

    fn handle_outcome(&mut self, outcome: Outcome) -> Result<(), Fault> {
        if outcome.sequence > self.sent || outcome.sequence == 0 {
            return Err(Fault::Outcome);
        }
        let messages_max = self.messages_max();
        if let Some(reported) = self.reported.as_mut().filter(|_| outcome.sequence <= self.begun_after) {
            reported.insert(outcome.sequence);
            if reported.len() > messages_max {
                return Err(Fault::Flood);
            }
        }
        self.flight.finish(outcome.sequence);
        // The order is that of the messages: what is settled and lies before has an outcome too.
        self.flight.forget_settled(outcome.sequence);
        self.outcome_bytes += outcome.answer.len();
        self.outcomes.push_back(outcome);
        Ok(())
    }

    /// Tells whether so much waits to be settled that nothing more should be read from the far site.
    pub(super) fn is_sated(&self) -> bool {
        self.outcomes.len() > SETTLE_MAX || self.outcome_bytes > SETTLE_BYTES_MAX
    }

    fn handle_reported(&mut self, through: Sequence) -> Result<(), Fault> {
        if through > self.begun_after || self.reported.is_none() || self.behind.is_some() {
            return Err(Fault::Outcome);
        }
        let from = self.opening.as_ref().map_or(0, |opening| opening.retired_through) + 1;
        if from <= through {
            self.behind = Some((from, through));
        } else {
            self.reported = None;
        }
        Ok(())
    }

    /// Takes in up to where all is settled.
    pub(super) fn handle_retired(&mut self, through: Sequence) {
        self.flight.retire(through);
        if self.carried.through <= through {
            self.carried = Carried::default();
        }
    }

    /// Stops sending, or goes on, and the far site with it; a message that was begun is finished.
    pub(super) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Asks something of a message; the message that was begun comes first, for it may be that one.
    pub(super) fn push_command(&mut self, id: u32, kind: CommandKind, sequence: Sequence) {
        self.commands.push_back((id, kind, sequence));
    }

    /// Begins no message from this one on, or goes on.
    pub(super) fn set_barred(&mut self, from: Option<Sequence>) {
        self.barred_from = from;
        // What is ahead may be settled meanwhile: it is read again.
        let begun = usize::from(self.offset > 0);
        for dropped in self.ahead.drain(begun.min(self.ahead.len())..) {
            self.ahead_bytes = self.ahead_bytes.saturating_sub(dropped.payload.len());
        }
    }

    fn is_barred(&self, sequence: Sequence) -> bool {
        self.barred_from.is_some_and(|from| sequence >= from)
    }

    /// Asks for an echo, and tells what goes with that.
    pub(super) fn push_ping(&mut self, token: u64, told: &Told) {
        put_ping(token, told, &mut self.urgent);
    }

    /// Says from which message on the queue is to be read, how many messages and how many bytes; nothing for now.
    pub(super) fn poll_read(&self) -> Option<(Sequence, usize, usize)> {
        let has_enough = self.ahead.len() > AHEAD_MESSAGES_MAX / 2 || self.ahead_bytes > AHEAD_BYTES_MAX / 2;
        // Until the far site wrote down that it begins, a loss of its book must not look like a first connection.
        let has_begun = self.phase == Phase::Sending && self.reported.is_none();
        if !has_begun || self.is_paused || has_enough || !self.has_room(0) {
            return None;
        }
        let from = self.ahead.back().map_or(self.sent, |queued| queued.sequence) + 1;
        (!self.is_barred(from)).then_some((from, AHEAD_MESSAGES_MAX, AHEAD_BYTES_MAX))
    }

    /// Takes in what was read.
    pub(super) fn handle_read(&mut self, messages: Vec<Queued>) {
        for queued in messages {
            let after = self.ahead.back().map_or(self.sent, |last| last.sequence);
            if queued.sequence > after && !self.is_barred(queued.sequence) {
                self.ahead_bytes += queued.payload.len();
                self.ahead.push_back(queued);
            }
        }
    }

    fn messages_max(&self) -> usize {
        self.view.map_or(0, |view| usize::try_from(view.window.messages_max).unwrap_or(usize::MAX))
    }

    /// Tells whether a message may be sent now.
    fn has_room(&self, bytes: u64) -> bool {
        let Some(view) = self.view else { return false };
        let in_flight = self.carried.bytes.saturating_add(self.flight.bytes());
        self.in_flight() < self.messages_max()
            && (in_flight == 0 || in_flight.saturating_add(bytes) <= view.window.bytes_max)
    }

    /// Returns the message that the far site is too small for, and that all others therefore wait behind.
    pub(super) fn too_large(&self) -> Option<Sequence> {
        let max = self.view?.window.message_bytes_max;
        self.ahead.front().filter(|queued| queued.payload.len() as u64 > max).map(|queued| queued.sequence)
    }

    /// Appends what is to be sent now, until there are so many bytes.
    pub(super) fn poll_transmit(&mut self, out: &mut BytesMut, at_least: usize) {
        out.extend_from_slice(&self.urgent.split());
        if self.phase != Phase::Sending {
            return;
        }
        if self.flight.retired() > self.retired_told {
            self.retired_told = self.flight.retired();
            encode(&Record::Retired(self.retired_told), out);
        }
        if self.is_paused != self.paused_told {
            self.paused_told = self.is_paused;
            encode(&Record::Paused(self.is_paused), out);
        }
        loop {
            if self.offset == 0 {
                for (id, kind, sequence) in self.commands.drain(..) {
                    encode(&Record::Command { id, kind, sequence }, out);
                }
            }
            if out.len() >= at_least || !self.transmit_part(out) {
                return;
            }
        }
    }

    /// Appends one record of the first message ahead; false where none may be sent.
    fn transmit_part(&mut self, out: &mut BytesMut) -> bool {
        let Some(queued) = self.ahead.front() else { return false };
        let may_begin = !self.is_paused && self.too_large().is_none() && self.has_room(size(queued.payload.len()));
        if self.offset == 0 && !may_begin {
            return false;
        }
        let Ok(total_bytes) = u32::try_from(queued.payload.len()) else { return false };
        let end = (self.offset + PART_BYTES_MAX).min(queued.payload.len());
        let part = queued.payload.get(self.offset..end).unwrap_or_default();
        if self.offset == 0 {
            let in_doubt = queued.sequence <= self.in_doubt_through;
            let (sequence, epoch, digest) = (queued.sequence, queued.epoch, queued.digest);
            let previous = self.sent;
            let message = Message { sequence, previous, epoch, digest, in_doubt, total_bytes, bytes: part };
            encode(&Record::Message(message), out);
            self.sent = sequence;
            self.flight.enter(sequence, queued.payload.len());
        } else {
            let offset = u32::try_from(self.offset).unwrap_or(u32::MAX);
            encode(&Record::More { offset, bytes: part }, out);
        }
        self.offset = end;
        if end == queued.payload.len() {
            self.ahead_bytes = self.ahead_bytes.saturating_sub(end);
            self.ahead.pop_front();
            self.offset = 0;
        }
        true
    }

    /// Takes what is to be settled next. What the far site is behind without an outcome was delivered earlier.
    pub(super) fn poll_settlement(&mut self, now: SystemTime) -> Vec<Outcome> {
        let mut batch: Vec<Outcome> = self.outcomes.drain(..self.outcomes.len().min(SETTLE_MAX)).collect();
        self.outcome_bytes = self.outcomes.iter().map(|outcome| outcome.answer.len()).sum();
        while let Some((sequence, through)) = self.behind.filter(|_| batch.len() < SETTLE_MAX) {
            if self.reported.as_ref().is_none_or(|reported| !reported.contains(&sequence)) {
                batch.push(delivered_before(sequence, now));
            }
            self.behind = (sequence < through).then_some((sequence + 1, through));
            if self.behind.is_none() {
                self.reported = None;
            }
        }
        batch
    }

    /// Says how the two sites differ, if they do.
    pub(super) fn divergence(&self) -> Option<Divergence> {
        if let Phase::Diverged(divergence) = self.phase { Some(divergence) } else { None }
    }

    /// Tells which message waits for an operator at the far site, and why.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Counts the messages that were sent and are not settled.
    pub(super) fn in_flight(&self) -> usize {
        self.carried.messages.saturating_add(self.flight.messages())
    }
}

/// Is the outcome of a message that the far site is behind and knows nothing more of.
fn delivered_before(sequence: Sequence, at: SystemTime) -> Outcome {
    let (verdict, code) = (Verdict::DeliveredBefore, AckCode::Absent);
    Outcome { sequence, verdict, code, attempts: 0, in_doubt: 0, answer: Vec::new(), at }
}

#[cfg(test)]
mod tests;
