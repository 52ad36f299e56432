//! The far end of stored messages: what may come, what is in hand, what is still to be told.
//!
//! Pure: records and what the conversation with the receiver did come in by `handle_*`, records and work go out by
//! `poll_*`. It outlives its connection: what is in hand stays. It never takes a message in twice, out of order, or
//! beyond the window that it told. Rules: design, delivery.md ("stored: between the sites").
//!
//! Idle --OPENING: VIEW--> Opened --BEGIN--> Beginning --written down--> Begun (takes messages, tells outcomes)
//!                              \--DIVERGED--> Diverged (until it is begun again)

use std::collections::VecDeque;

use bytes::BytesMut;

use super::account::{Account, size};
use super::wire::{Fault, Message, Record, View, encode};
use super::{Answer, CommandKind, Held, Taken, Window};
use crate::link::wire::{Cause, ReceiverNews, Told, put_ping};
use crate::spool::{Digest, Divergence, FarView, Opening, Outcome, Sequence};

/// Outcomes that wait to be written, in bytes of the receiver's answers and 64 for each: what goes beyond is read again
/// from what was written down.
const OUTCOME_BYTES_MAX: usize = 1 << 20;
const OUTCOME_BYTES: usize = 64;
/// Records that wait ahead of outcomes, in bytes. A peer that asks on and reads nothing is cut off.
const URGENT_BYTES_MAX: usize = 256 << 10;
/// Commands that wait for their answer: an operator gives one at a time.
const COMMANDS_MAX: usize = 64;
/// A message's memory is asked for at most this far ahead of its bytes.
const RESERVE_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Idle,
    Opened,
    Beginning {
        after: Sequence,
    },
    Begun,
    Diverged(Divergence),
}

/// Tells the shell what came. It has no `Debug`, for a message is among it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Both sites tell the same story: the book is to be raised and pruned, then [`Far::handle_begun`].
    Begin,
    /// A message is to be handed on.
    Taken(Taken),
    /// Something is asked of a message.
    Command(u32, CommandKind, Sequence),
    /// An echo came.
    Pong(u64),
}

/// Is a message that is not whole yet.
struct Partial {
    taken: Taken,
    total_bytes: usize,
    /// Is the digest up to the message before it; none where messages were left out between.
    base: Option<Digest>,
}

/// Is what waits to be told in order.
enum Tell {
    Outcome(Outcome),
    Reported(Sequence),
}

/// Is the far end.
#[derive(Default)]
pub(super) struct Far {
    window: Window,
    /// Is the last message that was taken in, or that the book is behind, and the digest there, where it is known.
    tail: (Sequence, Option<Digest>),
    /// Has what was taken in.
    hand: Account,
    /// Is a message that an earlier start attempted, whether it came again or not.
    attempted: Option<Sequence>,
    /// Tells that the near site said last that its forward is paused.
    is_paused: bool,
    // of one connection:
    phase: Phase,
    opening: Option<Opening>,
    watermark: Option<Sequence>,
    partial: Option<Partial>,
    tells: VecDeque<Tell>,
    tell_bytes: usize,
    /// Is after which message outcomes are to be read from the book.
    list_after: Option<Sequence>,
    reports_through: Option<Sequence>,
    prune: Option<Sequence>,
    commands: usize,
    urgent: BytesMut,
}

impl Far {
    /// Makes an end with nothing in hand. `unretired` lists the outcomes that the book has, `attempted` is what it says of
    /// a message without one.
    pub(super) fn new(
        window: Window,
        unretired: impl IntoIterator<Item = Sequence>,
        attempted: Option<Sequence>,
    ) -> Self {
        Self { window, hand: Account::with_outcomes(unretired), attempted, ..Self::default() }
    }

    /// Tells whether messages wait for the receiver.
    pub(super) fn has_messages(&self) -> bool {
        self.hand.bytes() > 0
    }

    /// Tells whether nothing in hand is to be attempted.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Says how the two sites differ, if they do.
    pub(super) fn divergence(&self) -> Option<Divergence> {
        if let Phase::Diverged(divergence) = self.phase { Some(divergence) } else { None }
    }

    /// Ends a connection; what is in hand stays.
    pub(super) fn handle_disconnected(&mut self) {
        self.phase = Phase::Idle;
        (self.partial, self.prune, self.list_after, self.reports_through) = (None, None, None, None);
        (self.tell_bytes, self.commands) = (0, 0);
        self.tells.clear();
        self.urgent.clear();
    }

    /// Begins a connection with the near site's first record and the book's view.
    pub(super) fn handle_opening(&mut self, opening: Opening, far: FarView) {
        self.handle_disconnected();
        self.hand.retire(opening.retired_through);
        self.watermark = watermark(far);
        self.opening = Some(opening);
        self.phase = Phase::Opened;
        let messages = u32::try_from(self.hand.messages()).unwrap_or(u32::MAX);
        let view = View { far, taken: self.tail.0, messages, bytes: self.hand.bytes(), window: self.window };
        encode(&Record::View(view), &mut self.urgent);
    }

    /// Tells whether the book is to be raised to what the near site has settled.
    pub(super) fn is_below_retired(&self) -> bool {
        let retired = self.opening.as_ref().map_or(0, |opening| opening.retired_through);
        self.watermark.is_none_or(|watermark| watermark < retired)
    }

    /// Takes in a record.
    ///
    /// # Errors
    /// The near site broke the rules; the connection is to be given up.
    pub(super) fn handle_record(&mut self, record: Record<'_>) -> Result<Option<Event>, Fault> {
        let kind = record.kind();
        let event = match record {
            Record::Begin { after, is_paused, .. } if self.phase == Phase::Opened => {
                if self.hand.has_settled() {
                    return Err(Fault::Settled); // an outcome is about to come: the next connection finds it
                }
                self.phase = Phase::Beginning { after };
                self.is_paused = is_paused;
                Some(Event::Begin)
            }
            Record::Diverged(divergence) if self.phase == Phase::Opened => {
                self.phase = Phase::Diverged(divergence);
                None
            }
            Record::Message(message) if self.phase == Phase::Begun => self.handle_message(message)?,
            Record::More { offset, bytes } => self.handle_more(offset, bytes)?,
            Record::Retired(through) if self.phase == Phase::Begun => {
                // Only what was taken in can be settled here; the near site may be further where it never sent.
                let through = through.min(self.tail.0);
                self.hand.retire(through);
                self.prune = Some(through.max(self.prune.unwrap_or(0)));
                None
            }
            Record::Command { id, kind, sequence } if self.phase == Phase::Begun => {
                self.handle_command(id, kind, sequence)?
            }
            Record::Paused(is_paused) if self.phase == Phase::Begun => {
                self.is_paused = is_paused;
                None
            }
            Record::Ping(token) => {
                encode(&Record::Pong(token), &mut self.urgent);
                None
            }
            Record::Pong(token) => Some(Event::Pong(token)),
            _ => return Err(Fault::Order(kind)),
        };
        if self.urgent.len() > URGENT_BYTES_MAX { Err(Fault::Flood) } else { Ok(event) }
    }

    /// Goes on once the book is raised and pruned; `far` is its view now.
    ///
    /// # Errors
    /// The near site would send what this one has.
    pub(super) fn handle_begun(&mut self, far: FarView) -> Result<(), Fault> {
        let Phase::Beginning { after } = self.phase else { return Ok(()) };
        if let FarView::At { watermark, digest, .. } = far
            && watermark >= self.tail.0
        {
            self.tail = (watermark, Some(digest));
        }
        if after < self.tail.0 {
            return Err(Fault::Gap);
        }
        if after > self.tail.0 {
            // What lies between was settled without this site.
            self.tail = (after, None);
        }
        self.watermark = watermark(far);
        self.phase = Phase::Begun;
        self.list_after = Some(self.hand.retired());
        self.reports_through = self.watermark;
        Ok(())
    }

    fn handle_message(&mut self, message: Message<'_>) -> Result<Option<Event>, Fault> {
        let (tail, digest) = self.tail;
        if self.partial.is_some() {
            return Err(Fault::Order(Record::Message(message).kind()));
        }
        if message.previous != tail || message.sequence <= tail {
            return Err(Fault::Gap);
        }
        let is_of_epoch =
            |opening: &Opening| (message.sequence >= opening.epoch_first) == (message.epoch == opening.epoch);
        if !self.opening.as_ref().is_some_and(is_of_epoch) {
            return Err(Fault::Epoch);
        }
        let total_bytes = usize::try_from(message.total_bytes).unwrap_or(usize::MAX);
        let bytes = size(total_bytes);
        if bytes > self.window.message_bytes_max {
            return Err(Fault::TooLarge);
        }
        let messages_max = usize::try_from(self.window.messages_max).unwrap_or(usize::MAX);
        let in_hand = self.hand.bytes();
        let is_over = in_hand > 0 && in_hand.saturating_add(bytes) > self.window.bytes_max;
        if is_over || self.hand.messages() >= messages_max {
            return Err(Fault::Window);
        }
        self.partial = Some(Partial {
            taken: Taken {
                sequence: message.sequence,
                epoch: message.epoch,
                digest: message.digest,
                in_doubt: message.in_doubt,
                payload: Vec::with_capacity(total_bytes.min(RESERVE_BYTES_MAX)),
            },
            total_bytes,
            base: digest.filter(|_| message.sequence == tail + 1),
        });
        self.handle_part(message.bytes)
    }

    fn handle_more(&mut self, offset: u32, bytes: &[u8]) -> Result<Option<Event>, Fault> {
        let Some(partial) = &self.partial else { return Err(Fault::Order(37)) };
        if usize::try_from(offset) != Ok(partial.taken.payload.len()) || bytes.is_empty() {
            return Err(Fault::Gap);
        }
        self.handle_part(bytes)
    }

    fn handle_part(&mut self, bytes: &[u8]) -> Result<Option<Event>, Fault> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        if bytes.len() > partial.total_bytes - partial.taken.payload.len() {
            return Err(Fault::TooLarge);
        }
        partial.taken.payload.extend_from_slice(bytes);
        if partial.taken.payload.len() < partial.total_bytes {
            return Ok(None);
        }
        let (Some(Partial { taken, base, .. }), Some(opening)) = (self.partial.take(), &self.opening) else {
            return Ok(None);
        };
        let is_other = |base| opening.digest_key.following(&base, taken.sequence, &taken.payload) != taken.digest;
        if base.is_some_and(is_other) {
            return Err(Fault::Digest);
        }
        self.tail = (taken.sequence, Some(taken.digest));
        self.hand.enter(taken.sequence, taken.payload.len());
        Ok(Some(Event::Taken(taken)))
    }

    /// Asks the conversation with the receiver about what is in hand, and answers for the rest.
    fn handle_command(&mut self, id: u32, kind: CommandKind, sequence: Sequence) -> Result<Option<Event>, Fault> {
        self.commands += 1;
        if self.commands > COMMANDS_MAX {
            return Err(Fault::Flood);
        }
        if self.hand.awaits(sequence) {
            return Ok(Some(Event::Command(id, kind, sequence)));
        }
        // What came and is not in hand has an outcome; what did not come is not on the wire either.
        let is_known = sequence <= self.tail.0 || self.attempted == Some(sequence);
        self.push_answer(id, if is_known { Answer::Attempted } else { Answer::Unknown });
        Ok(None)
    }

    /// Takes in what became of a message, once it is written down.
    pub(super) fn handle_outcome(&mut self, outcome: Outcome) {
        self.hand.finish(outcome.sequence);
        if matches!(self.phase, Phase::Beginning { .. } | Phase::Begun) {
            self.tell(outcome);
        }
    }

    /// Lines an outcome up to be told; false where it has to be read again later.
    fn tell(&mut self, outcome: Outcome) -> bool {
        if self.tell_bytes > OUTCOME_BYTES_MAX {
            let after = outcome.sequence.saturating_sub(1);
            self.list_after = Some(self.list_after.map_or(after, |other| other.min(after)));
            return false;
        }
        self.tell_bytes += outcome.answer.len() + OUTCOME_BYTES;
        self.tells.push_back(Tell::Outcome(outcome));
        true
    }

    /// Says after which message outcomes are to be read from the book.
    pub(super) fn poll_list(&mut self) -> Option<Sequence> {
        if self.phase != Phase::Begun || self.tell_bytes > OUTCOME_BYTES_MAX / 2 {
            return None;
        }
        self.list_after.take()
    }

    /// Takes in what was read.
    pub(super) fn handle_listed(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            if !self.tell(outcome) {
                return;
            }
        }
        if let Some(through) = self.reports_through.take() {
            self.tells.push_back(Tell::Reported(through));
        }
    }

    /// Says up to which message outcomes are to be forgotten.
    pub(super) fn poll_prune(&mut self) -> Option<Sequence> {
        self.prune.take()
    }

    /// Answers a command.
    pub(super) fn push_answer(&mut self, id: u32, answer: Answer) {
        self.commands = self.commands.saturating_sub(1);
        encode(&Record::Answer { id, answer }, &mut self.urgent);
    }

    /// Tells which message is held, or that none is.
    pub(super) fn push_held(&mut self, held: Option<Held>) {
        encode(&Record::Held(held), &mut self.urgent);
    }

    /// Tells how the receiver is.
    pub(super) fn push_receiver(&mut self, news: ReceiverNews) {
        encode(&Record::Receiver(news), &mut self.urgent);
    }

    /// Asks for an echo, and tells what goes with that.
    pub(super) fn push_ping(&mut self, token: u64, told: &Told) {
        put_ping(token, told, &mut self.urgent);
    }

    /// Says that it goes on no longer, and why.
    pub(super) fn push_refusal(&mut self, cause: Cause) {
        encode(&Record::Refuse(cause), &mut self.urgent);
    }

    /// Appends what is to be sent now, until there are so many bytes.
    pub(super) fn poll_transmit(&mut self, out: &mut BytesMut, at_least: usize) {
        out.extend_from_slice(&self.urgent.split());
        while out.len() < at_least
            && let Some(tell) = self.tells.pop_front()
        {
            match tell {
                Tell::Reported(through) => encode(&Record::Reported(through), out),
                Tell::Outcome(outcome) => {
                    self.tell_bytes = self.tell_bytes.saturating_sub(outcome.answer.len() + OUTCOME_BYTES);
                    encode(&Record::Outcome(outcome), out);
                }
            }
        }
    }
}

fn watermark(view: FarView) -> Option<Sequence> {
    match view {
        FarView::Fresh => None,
        FarView::At { watermark, .. } => Some(watermark),
    }
}

#[cfg(test)]
mod tests;
