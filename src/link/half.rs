//! One direction of a stream: bytes with offsets, kept until acknowledged, taken in within a credit.
//!
//! Pure. The end of a direction (FIN) counts as one byte at its offset, so that it is acknowledged like any other. It
//! never holds more than the credit, and copies what it keeps: no slice pins a larger buffer.

use std::collections::VecDeque;

use bytes::Bytes;

use super::wire::WINDOW_BYTES_INITIAL;

/// Tells that the other side broke the rules of offsets or credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation;

/// Is what this side sends.
pub(super) struct SendHalf {
    unacked: VecDeque<Bytes>,
    unsent: VecDeque<Bytes>,
    base: u64,
    sent: u64,
    end: u64,
    limit: u64,
    finished: bool,
}

/// Is the next thing to transmit.
pub(super) enum Transmit {
    Data { offset: u64, bytes: Bytes },
    Fin { offset: u64 },
}

impl SendHalf {
    pub(super) fn new() -> Self {
        Self {
            unacked: VecDeque::new(),
            unsent: VecDeque::new(),
            base: 0,
            sent: 0,
            end: 0,
            limit: WINDOW_BYTES_INITIAL,
            finished: false,
        }
    }

    /// Takes as much as the credit allows and returns how much.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let room = usize::try_from(self.limit.saturating_sub(self.end)).unwrap_or(usize::MAX);
        let taken = bytes.get(..room).unwrap_or(bytes);
        if taken.is_empty() || self.finished {
            return 0;
        }
        self.unsent.push_back(Bytes::copy_from_slice(taken));
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

    pub(super) fn is_acked(&self) -> bool {
        self.finished && self.base == self.end_with_fin()
    }

    pub(super) fn has_credit(&self) -> bool {
        self.end < self.limit
    }

    /// Takes the next piece to transmit, at most `bytes_max` bytes.
    pub(super) fn poll_transmit(&mut self, bytes_max: usize) -> Option<Transmit> {
        let offset = self.sent;
        if let Some(mut chunk) = self.unsent.pop_front() {
            if chunk.len() > bytes_max {
                self.unsent.push_front(chunk.split_off(bytes_max));
            }
            self.sent += chunk.len() as u64;
            self.unacked.push_back(chunk.clone());
            return Some(Transmit::Data { offset, bytes: chunk });
        }
        (self.sent < self.end_with_fin()).then(|| {
            self.sent += 1;
            Transmit::Fin { offset }
        })
    }

    /// Frees what the other side has received.
    pub(super) fn handle_ack(&mut self, ack: u64) -> Result<(), Violation> {
        if ack > self.sent {
            return Err(Violation);
        }
        while self.base < ack {
            let Some(mut chunk) = self.unacked.pop_front() else {
                self.base = ack; // the FIN
                break;
            };
            let freed = usize::try_from(ack - self.base).unwrap_or(usize::MAX).min(chunk.len());
            self.base += freed as u64;
            if freed < chunk.len() {
                self.unacked.push_front(chunk.split_off(freed));
            }
        }
        Ok(())
    }

    /// Raises the credit and tells whether there was none before.
    pub(super) fn handle_limit(&mut self, limit: u64) -> bool {
        let was_blocked = !self.has_credit();
        self.limit = self.limit.max(limit);
        was_blocked && self.has_credit()
    }

    /// Goes back to transmit again from `offset`, which the other side has not received; frees nothing.
    pub(super) fn rewind(&mut self, offset: u64) -> Result<(), Violation> {
        if offset < self.base || offset > self.sent {
            return Err(Violation);
        }
        self.sent = self.sent.min(self.end.max(offset)); // takes the FIN back, unless it was received
        while self.sent > offset {
            let Some(mut chunk) = self.unacked.pop_back() else { return Err(Violation) };
            let back = usize::try_from(self.sent - offset).unwrap_or(usize::MAX).min(chunk.len());
            let tail = chunk.split_off(chunk.len() - back);
            self.sent -= tail.len() as u64;
            self.unsent.push_front(tail);
            if !chunk.is_empty() {
                self.unacked.push_back(chunk);
            }
        }
        Ok(())
    }
}

/// Is what this side receives.
pub(super) struct RecvHalf {
    chunks: VecDeque<Bytes>,
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
            chunks: VecDeque::new(),
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
        self.chunks.push_back(Bytes::copy_from_slice(fresh));
        self.next = next;
        Ok(())
    }

    /// Takes the end in; a repeated one is nothing new.
    pub(super) fn handle_fin(&mut self, offset: u64) -> Result<(), Violation> {
        if self.ended {
            return if offset + 1 == self.next { Ok(()) } else { Err(Violation) };
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
        let mut filled = 0;
        while let Some(mut chunk) = self.chunks.pop_front() {
            let Some(room) = out.get_mut(filled..).filter(|room| !room.is_empty()) else {
                self.chunks.push_front(chunk);
                break;
            };
            let part = chunk.split_to(room.len().min(chunk.len()));
            if let Some(target) = room.get_mut(..part.len()) {
                target.copy_from_slice(&part);
            }
            filled += part.len();
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
                break;
            }
        }
        self.consumed += filled as u64;
        filled
    }

    /// Takes the end, if it is next.
    pub(super) fn take_end(&mut self) -> bool {
        let at_end = self.ended && self.chunks.is_empty();
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
}
