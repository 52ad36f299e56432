//! Answers on their way to a sender of MLLP Release 2: one at a time, each until its sender has committed it. Pure.
//!
//! It never sends the next one before, and never drops one without saying so. What an answer is about is stored and
//! committed already: an answer that is lost is no message lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::mllp::ack::AckCode;
use crate::mllp::dialect::Commit;

/// Bounds the answers that wait: more messages than any sender sends ahead while it commits nothing.
const ANSWERS_MAX: usize = 256;

/// Says that the sender does not commit an answer, or none of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotCommitted;

/// Is what is not committed yet.
pub(super) struct Unconfirmed {
    timeout: Duration,
    retries: u32,
    pause: Duration,
    /// Are answers in frames.
    waiting: VecDeque<Vec<u8>>,
    first: First,
}

/// Says where the first one is; `repeats` counts how often it was sent again.
#[derive(Clone, Copy)]
enum First {
    Unsent,
    Sent { until: Instant, repeats: u32 },
    Resting { until: Instant, repeats: u32 },
}

impl Unconfirmed {
    /// Begins with none; `None` where no commit of an answer is awaited.
    pub(super) fn new(commit: Commit) -> Option<Self> {
        let Commit { timeout, retries, pause } = commit;
        Some(Self { timeout: timeout?, retries, pause, waiting: VecDeque::new(), first: First::Unsent })
    }

    /// Takes an answer to be sent behind the others.
    pub(super) fn push(&mut self, frame: Vec<u8>) -> Result<(), NotCommitted> {
        if self.waiting.len() >= ANSWERS_MAX {
            return Err(NotCommitted);
        }
        self.waiting.push_back(frame);
        Ok(())
    }

    /// Returns what is to be written now.
    pub(super) fn poll_send(&mut self, now: Instant) -> Option<Vec<u8>> {
        let frame = self.waiting.front()?;
        let repeats = match self.first {
            First::Unsent => 0,
            First::Resting { until, repeats } if until <= now => repeats,
            First::Resting { .. } | First::Sent { .. } => return None,
        };
        self.first = First::Sent { until: now + self.timeout, repeats };
        Some(frame.clone())
    }

    /// Takes a commit of the sender's; says whether one was awaited.
    pub(super) fn handle_commit(&mut self, code: AckCode, now: Instant) -> Result<bool, NotCommitted> {
        match (self.first, code) {
            (First::Unsent, _) => return Ok(false),
            (First::Sent { repeats, .. }, AckCode::TransportNak) => self.repeat(repeats, now)?,
            (First::Resting { .. }, AckCode::TransportNak) => {}
            // Also one that comes late.
            (First::Sent { .. } | First::Resting { .. }, _) => {
                self.waiting.pop_front();
                self.first = First::Unsent;
            }
        }
        Ok(true)
    }

    /// Takes the time.
    pub(super) fn handle_time(&mut self, now: Instant) -> Result<(), NotCommitted> {
        match self.first {
            First::Sent { until, repeats } if until <= now => self.repeat(repeats, now),
            _ => Ok(()),
        }
    }

    fn repeat(&mut self, repeats: u32, now: Instant) -> Result<(), NotCommitted> {
        if repeats >= self.retries {
            return Err(NotCommitted);
        }
        self.first = First::Resting { until: now + self.pause, repeats: repeats.saturating_add(1) };
        Ok(())
    }

    /// Returns when something is due although nothing comes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.first {
            First::Unsent => None,
            First::Sent { until, .. } | First::Resting { until, .. } => Some(until),
        }
    }

    /// Returns all that was not sent, for a sender that can commit nothing any more: its stream has ended.
    pub(super) fn take_unsent(&mut self) -> Vec<u8> {
        let sent = usize::from(!matches!(self.first, First::Unsent));
        self.first = First::Unsent;
        self.waiting.drain(..).skip(sent).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: AckCode = AckCode::TransportAck;
    const NAK: AckCode = AckCode::TransportNak;

    fn some(frames: &[&[u8]]) -> (Unconfirmed, Instant) {
        let commit = Commit { timeout: Some(Duration::from_secs(5)), retries: 2, pause: Duration::from_secs(1) };
        let mut answers = Unconfirmed::new(commit).unwrap();
        for frame in frames {
            assert_eq!(answers.push(frame.to_vec()), Ok(()));
        }
        (answers, Instant::now())
    }

    fn after(now: Instant, millis: u64) -> Instant {
        now + Duration::from_millis(millis)
    }

    #[test]
    fn one_answer_is_out_at_a_time() {
        let (mut answers, now) = some(&[b"1", b"2"]);
        assert_eq!(answers.handle_commit(ACK, now), Ok(false), "none was awaited");
        assert_eq!(answers.poll_send(now), Some(b"1".to_vec()));
        assert_eq!((answers.poll_send(now), answers.next_deadline()), (None, Some(after(now, 5000))));
        assert_eq!(answers.handle_commit(ACK, now), Ok(true));
        assert_eq!(answers.poll_send(now), Some(b"2".to_vec()));
        assert_eq!(answers.handle_commit(ACK, now), Ok(true));
        assert_eq!((answers.poll_send(now), answers.next_deadline()), (None, None));
    }

    #[test]
    fn an_answer_that_is_not_committed_is_sent_again_so_often() {
        let (mut answers, now) = some(&[b"1", b"2"]);
        assert!(answers.poll_send(now).is_some());
        assert_eq!(answers.handle_time(after(now, 4999)), Ok(()));
        assert_eq!(answers.next_deadline(), Some(after(now, 5000)));
        assert_eq!(answers.handle_time(after(now, 5000)), Ok(()));
        assert_eq!(answers.poll_send(after(now, 5999)), None);
        assert_eq!(answers.poll_send(after(now, 6000)), Some(b"1".to_vec()));
        assert_eq!(answers.handle_commit(NAK, after(now, 6001)), Ok(true));
        assert_eq!(answers.handle_commit(NAK, after(now, 6002)), Ok(true), "one that comes late says nothing new");
        assert_eq!(answers.poll_send(after(now, 7001)), Some(b"1".to_vec()));
        assert_eq!(answers.handle_commit(NAK, after(now, 7002)), Err(NotCommitted));
    }

    #[test]
    fn a_late_commit_counts() {
        let (mut answers, now) = some(&[b"1"]);
        answers.poll_send(now).unwrap();
        answers.handle_time(after(now, 5000)).unwrap();
        assert_eq!(answers.handle_commit(ACK, after(now, 5500)), Ok(true));
        assert_eq!((answers.poll_send(after(now, 9000)), answers.next_deadline()), (None, None));
    }

    #[test]
    fn they_are_bounded_and_go_without_commits_to_whom_has_ended() {
        let (mut answers, now) = some(&[&b"1"[..]; ANSWERS_MAX]);
        assert_eq!(answers.push(Vec::new()), Err(NotCommitted));
        answers.poll_send(now).unwrap();
        assert_eq!(answers.take_unsent().len(), ANSWERS_MAX - 1);
        let off = Commit { timeout: None, ..Commit::default() };
        assert!(Unconfirmed::new(off).is_none());
    }
}
