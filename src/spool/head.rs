//! The head of a near spool: what there is, how far it came, sealed and committed with every batch.
//!
//! Never touches a store. It is what makes missing messages and an earlier state of the database visible. The format
//! is fixed: big-endian integers in the order of `Head::encode`.

use super::queue::State;
use super::{Attempt, Digest, Sequence};

/// Is the number of states.
const STATES: usize = State::ALL.len();
/// Is the length of an encoded head, in bytes.
const HEAD_BYTES: usize = 16 + 7 * 8 + 2 * 32 + STATES * 16 + 1 + 1 + 3 * 4 + 8 + 1 + TAGGED_BYTES;
/// Is the length of its end, which an earlier version did not write.
const TAGGED_BYTES: usize = 4 * 8;

/// Counts the messages in one state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Counts them.
    pub(super) messages: u64,
    /// Counts the bytes of their payloads, also of those that are shredded by now.
    pub(super) bytes: u64,
}

/// Says which rows bear a tag: an earlier version gave them none. And how many there are of those that are few.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tagged {
    /// Is the last message whose rows may lack one.
    pub(super) messages_after: Sequence,
    /// Is the last event that may lack one.
    pub(super) events_after: u64,
    /// Counts the events with an operator, or with what was found.
    pub(super) decisions: u64,
    /// Counts the epochs.
    pub(super) epochs: u64,
}

/// Is the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Identifies the spool to the far site; another one after a reconciliation.
    pub(super) forward: [u8; 16],
    /// Counts the commits.
    pub(super) generation: u64,
    /// Is the last sequence given.
    pub(super) last: Sequence,
    /// Is the highest sequence up to which nothing is queued.
    pub(super) retired_through: Sequence,
    /// Is the highest sequence that may have been sent.
    pub(super) sent_through: Sequence,
    /// Is the highest sequence that a state which the far site lost may have attempted.
    pub(super) in_doubt_through: Sequence,
    /// Is the last event of the outbox.
    pub(super) outbox_last: u64,
    /// Counts the events of the outbox.
    pub(super) outbox_events: u64,
    /// Is the running digest at `last`.
    pub(super) digest: Digest,
    /// Is the running digest at `retired_through`.
    pub(super) retired_digest: Digest,
    /// Says whether an operator paused the forward.
    pub(super) is_paused: bool,
    /// Is the attempt that is written down, where the spool is the ledger of its receiver.
    pub(super) attempting: Option<Attempt>,
    /// Says which rows bear a tag; none before this version first writes.
    pub(super) tagged: Option<Tagged>,
    tallies: [Tally; STATES],
}

impl Head {
    /// Is the head of a new spool.
    pub(super) fn new(forward: [u8; 16]) -> Self {
        Self {
            forward,
            generation: 0,
            last: 0,
            retired_through: 0,
            sent_through: 0,
            in_doubt_through: 0,
            outbox_last: 0,
            outbox_events: 0,
            digest: Digest::NONE,
            retired_digest: Digest::NONE,
            is_paused: false,
            attempting: None,
            tagged: Some(Tagged::default()),
            tallies: [Tally::default(); STATES],
        }
    }

    /// Returns what there is in a state.
    pub(super) fn tally(&self, state: State) -> Tally {
        self.tallies.get(usize::from(state.code())).copied().unwrap_or_default()
    }

    /// Returns what fills the queue: queued and parked messages.
    pub(super) fn held(&self) -> Tally {
        let (queued, parked) = (self.tally(State::Queued), self.tally(State::Parked));
        Tally { messages: queued.messages + parked.messages, bytes: queued.bytes.saturating_add(parked.bytes) }
    }

    /// Counts a message that came into a state.
    pub(super) fn enter(&mut self, state: State, bytes: u64) {
        if let Some(tally) = self.tallies.get_mut(usize::from(state.code())) {
            tally.messages += 1;
            tally.bytes = tally.bytes.saturating_add(bytes);
        }
    }

    /// Counts a message that left a state.
    pub(super) fn leave(&mut self, state: State, bytes: u64) {
        if let Some(tally) = self.tallies.get_mut(usize::from(state.code())) {
            tally.messages = tally.messages.saturating_sub(1);
            tally.bytes = tally.bytes.saturating_sub(bytes);
        }
    }

    /// Writes it down.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES);
        out.extend_from_slice(&self.forward);
        let numbers = [self.generation, self.last, self.retired_through, self.sent_through];
        for number in numbers.into_iter().chain([self.in_doubt_through, self.outbox_last, self.outbox_events]) {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.digest.0);
        out.extend_from_slice(&self.retired_digest.0);
        for tally in self.tallies {
            out.extend_from_slice(&tally.messages.to_be_bytes());
            out.extend_from_slice(&tally.bytes.to_be_bytes());
        }
        out.push(u8::from(self.is_paused));
        let none = Attempt { sequence: 0, number: 0, in_doubt: 0, interrupted: 0, under_way: false };
        let attempting = self.attempting.unwrap_or(none);
        out.push(u8::from(self.attempting.is_some()));
        out.extend_from_slice(&attempting.sequence.to_be_bytes());
        let counts = [attempting.number, attempting.in_doubt, attempting.interrupted];
        out.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        out.push(u8::from(attempting.under_way));
        if let Some(Tagged { messages_after, events_after, decisions, epochs }) = self.tagged {
            let numbers = [messages_after, events_after, decisions, epochs];
            out.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        }
        out
    }

    /// Reads what [`Head::encode`] wrote; `None` where it is something else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut head = Self::new(take(&mut rest)?);
        head.generation = number(&mut rest)?;
        head.last = number(&mut rest)?;
        head.retired_through = number(&mut rest)?;
        head.sent_through = number(&mut rest)?;
        head.in_doubt_through = number(&mut rest)?;
        head.outbox_last = number(&mut rest)?;
        head.outbox_events = number(&mut rest)?;
        head.digest = Digest(take(&mut rest)?);
        head.retired_digest = Digest(take(&mut rest)?);
        for tally in &mut head.tallies {
            *tally = Tally { messages: number(&mut rest)?, bytes: number(&mut rest)? };
        }
        head.is_paused = take::<1>(&mut rest)? == [1];
        let is_attempting = take::<1>(&mut rest)? == [1];
        let sequence = number(&mut rest)?;
        let attempts = u32::from_be_bytes(take(&mut rest)?);
        let in_doubt = u32::from_be_bytes(take(&mut rest)?);
        let interrupted = u32::from_be_bytes(take(&mut rest)?);
        let under_way = take::<1>(&mut rest)? == [1];
        let attempt = Attempt { sequence, number: attempts, in_doubt, interrupted, under_way };
        head.attempting = is_attempting.then_some(attempt);
        head.tagged = match rest.is_empty() {
            true => None,
            false => Some(Tagged {
                messages_after: number(&mut rest)?,
                events_after: number(&mut rest)?,
                decisions: number(&mut rest)?,
                epochs: number(&mut rest)?,
            }),
        };
        rest.is_empty().then_some(head)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(*first)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let mut head = Head::new([1; 16]);
        (head.generation, head.last, head.retired_through, head.sent_through) = (2, 3, 4, 5);
        (head.outbox_last, head.outbox_events, head.is_paused, head.in_doubt_through) = (6, 7, true, 14);
        (head.digest, head.retired_digest) = (Digest([8; 32]), Digest([9; 32]));
        head.attempting = Some(Attempt { sequence: 10, number: 11, in_doubt: 12, interrupted: 13, under_way: true });
        head.tagged = Some(Tagged { messages_after: 15, events_after: 16, decisions: 17, epochs: 18 });
        for (state, bytes) in State::ALL.into_iter().zip(100..) {
            head.enter(state, bytes);
        }
        let written = head.encode();
        assert_eq!(written.len(), HEAD_BYTES);
        assert_eq!(Head::decode(&written), Some(head.clone()));
        let earlier = HEAD_BYTES - TAGGED_BYTES;
        for end in (0..written.len()).filter(|end| *end != earlier) {
            assert_eq!(Head::decode(&written[..end]), None);
        }
        head.tagged = None;
        assert_eq!((Head::decode(&written[..earlier]), head.encode().len()), (Some(head), earlier));
    }

    #[test]
    fn what_fills_the_queue_is_queued_or_parked() {
        let mut head = Head::new([1; 16]);
        for state in State::ALL {
            head.enter(state, 10);
            head.enter(state, 10);
        }
        assert_eq!(head.held(), Tally { messages: 4, bytes: 40 });
        head.leave(State::Parked, 10);
        head.leave(State::Delivered, 10);
        assert_eq!(head.held(), Tally { messages: 3, bytes: 30 });
        assert_eq!(head.tally(State::Delivered), Tally { messages: 1, bytes: 10 });
    }
}
