//! One direction of a stream: bytes with offsets, kept until acknowledged, taken in within a credit.
//!
//! Pure. The end of a direction (FIN) counts as one byte at its offset, so that it is acknowledged like any other. It
//! never holds more than a window, whatever the other side grants, and keeps bytes, not records: a thousand records of
//! one byte take a thousand bytes.

use std::collections::VecDeque;

use super::wire::WINDOW_BYTES_INITIAL;

/// The credit of one stream, in bytes: 1 MiB fills a 40 ms path at 200 Mbit/s, and a message of 2 MiB waits for credit
/// seldom.
pub(super) const WINDOW_BYTES_MAX: u64 = 1 << 20;

/// Tells that the other side broke the rules of offsets or credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation;

/// Is what this side sends.
pub(super) struct SendHalf {
    /// Holds the bytes from `base` to `end`.
    kept: VecDeque<u8>,
    base: u64,
    sent: u64,
    end: u64,
    limit: u64,
    finished: bool,
}

/// Is the next thing to transmit.
pub(super) enum Transmit<'a> {
    Data { offset: u64, bytes: &'a [u8] },
    Fin { offset: u64 },
}

impl SendHalf {
    pub(super) fn new() -> Self {
        Self { kept: VecDeque::new(), base: 0, sent: 0, end: 0, limit: WINDOW_BYTES_INITIAL, finished: false }
    }

    /// Takes as much as there is room for and returns how much.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        let taken = bytes.get(..room).unwrap_or(bytes);
        if taken.is_empty() || self.finished {
            return 0;
        }
        self.kept.extend(taken);
        self.end += taken.len() as u64;
        taken.len()
    }

    /// Ends the direction after what was pushed.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Tells whether any byte was transmitted yet.
    pub(super) fn is_unsent(&self) -> bool {
        self.sent == 0
    }

    fn end_with_fin(&self) -> u64 {
        self.end + u64::from(self.finished)
    }

    pub(super) fn has_to_send(&self) -> bool {
        self.sent < self.end_with_fin()
    }

    /// Tells whether the other side has not confirmed everything.
    pub(super) fn has_unacked(&self) -> bool {
        self.base < self.end_with_fin()
    }

    pub(super) fn is_acked(&self) -> bool {
        self.finished && !self.has_unacked()
    }

    /// Is how much may be pushed: what the other side lets us send, as long as a window holds what it did not confirm.
    fn room(&self) -> u64 {
        let confirmed = self.base.min(self.end);
        self.limit.min(confirmed.saturating_add(WINDOW_BYTES_MAX)).saturating_sub(self.end)
    }

    /// Takes the next piece to transmit, at most `bytes_max` bytes.
    pub(super) fn poll_transmit(&mut self, bytes_max: usize) -> Option<Transmit<'_>> {
        let offset = self.sent;
        if offset < self.end {
            let from = usize::try_from(offset - self.base).unwrap_or(usize::MAX);
            let (front, back) = self.kept.as_slices();
            let rest = front.get(from..).filter(|rest| !rest.is_empty());
            let rest = rest.or_else(|| back.get(from.saturating_sub(front.len())..)).unwrap_or(&[]);
            let bytes = rest.get(..bytes_max).unwrap_or(rest);
            self.sent += bytes.len() as u64;
            return Some(Transmit::Data { offset, bytes });
        }
        (offset < self.end_with_fin()).then(|| {
            self.sent += 1;
            Transmit::Fin { offset }
        })
    }

    /// Frees what the other side has received, and tells whether that made room where there was none.
    pub(super) fn handle_ack(&mut self, ack: u64) -> Result<bool, Violation> {
        if ack > self.sent {
            return Err(Violation);
        }
        let was_blocked = self.room() == 0;
        let freed = usize::try_from(ack.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.kept.len());
        self.kept.drain(..freed);
        if self.kept.is_empty() {
            self.kept = VecDeque::new(); // an idle stream holds nothing
        }
        self.base = self.base.max(ack);
        Ok(was_blocked && self.room() > 0)
    }

    /// Raises the credit and tells whether that made room where there was none.
    pub(super) fn handle_limit(&mut self, limit: u64) -> bool {
        let was_blocked = self.room() == 0;
        self.limit = self.limit.max(limit);
        was_blocked && self.room() > 0
    }

    /// Goes back to transmit again from `offset`, which the other side has not received; frees nothing.
    pub(super) fn rewind(&mut self, offset: u64) -> Result<(), Violation> {
        if offset < self.base || offset > self.sent {
            return Err(Violation);
        }
        self.sent = offset;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn unacked_bytes(&self) -> usize {
        self.kept.len()
    }
}

/// Is what this side receives.
pub(super) struct RecvHalf {
    /// Holds what was received and not read.
    kept: VecDeque<u8>,
    next: u64,
    consumed: u64,
    limit: u64,
    ended: bool,
    end_taken: bool,
    ack_told: u64,
    granted: u64,
}

impl RecvHalf {
    pub(super) fn new() -> Self {
        Self {
            kept: VecDeque::new(),
            next: 0,
            consumed: 0,
            limit: WINDOW_BYTES_INITIAL,
            ended: false,
            end_taken: false,
            ack_told: 0,
            granted: WINDOW_BYTES_INITIAL,
        }
    }

    /// Takes bytes in, leaving out what came before.
    pub(super) fn handle_data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Violation> {
        let known = self.next.checked_sub(offset).ok_or(Violation)?;
        let fresh = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or(&[]);
        if fresh.is_empty() {
            return Ok(());
        }
        let next = self.next + fresh.len() as u64;
        if self.ended || next > self.limit {
            return Err(Violation);
        }
        self.kept.extend(fresh);
        self.next = next;
        Ok(())
    }

    /// Takes the end in; a repeated one is nothing new.
    pub(super) fn handle_fin(&mut self, offset: u64) -> Result<(), Violation> {
        if self.ended {
            return if offset.checked_add(1) == Some(self.next) { Ok(()) } else { Err(Violation) };
        }
        if offset != self.next {
            return Err(Violation);
        }
        self.ended = true;
        self.next += 1;
        Ok(())
    }

    /// Moves bytes out and returns how many.
    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let filled = out.len().min(self.kept.len());
        let (front, back) = self.kept.as_slices();
        let (first, second) = out.split_at_mut(filled.min(front.len()));
        first.copy_from_slice(front.get(..first.len()).unwrap_or(&[]));
        let rest = back.get(..filled - first.len()).unwrap_or(&[]);
        second.iter_mut().zip(rest).for_each(|(target, byte)| *target = *byte);
        self.kept.drain(..filled);
        if self.kept.is_empty() {
            self.kept = VecDeque::new(); // an idle stream holds nothing
        }
        self.consumed += filled as u64;
        filled
    }

    /// Takes the end, if it is next.
    pub(super) fn take_end(&mut self) -> bool {
        let at_end = self.ended && self.kept.is_empty();
        if at_end && !self.end_taken {
            self.end_taken = true;
            self.consumed += 1;
        }
        at_end
    }

    pub(super) fn is_end_taken(&self) -> bool {
        self.end_taken
    }

    /// Is the offset up to which everything was received.
    pub(super) fn received(&self) -> u64 {
        self.next
    }

    /// Is how much was received that the other side was not told of.
    pub(super) fn untold(&self) -> u64 {
        self.next - self.ack_told
    }

    /// Tells whether less than half of the last credit is left to the other side.
    pub(super) fn wants_credit(&self) -> bool {
        !self.ended && self.limit.saturating_sub(self.consumed) < self.granted / 2
    }

    /// Raises the credit to `window` beyond what was consumed, and returns it.
    pub(super) fn grant(&mut self, window: u64) -> u64 {
        if self.wants_credit() {
            self.granted = window;
            self.limit = self.limit.max(self.consumed.saturating_add(window));
        }
        self.limit
    }

    /// Notes that the other side is being told; returns the acknowledgement.
    pub(super) fn tell(&mut self) -> u64 {
        self.ack_told = self.next;
        self.next
    }

    /// Is how much was received and not read.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept.len() as u64
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.kept.capacity()
    }
}

#[cfg(test)]
mod tests;
