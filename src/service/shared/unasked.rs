//! Answers to messages that asked for none (MSH-15 and MSH-16 are NE), of a receiver that answers all the same: they find
//! the sender that waits for them.
//!
//! It hands none over that names no such message, and none twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::mllp::message::Header;

/// Counts the messages of a connection whose answer is not awaited and would be known; of more the oldest are forgotten.
const UNASKED_MAX: usize = 256;
/// Bounds what a sender has not taken of such answers, in bytes: some hundred of them. What is beyond is dropped.
const OUTBOX_BYTES_MAX: usize = 64 << 10;

/// Is what a sender is to be given beside the answers that it has asked for, in frames.
#[derive(Default)]
pub(super) struct Outbox {
    frames: Mutex<Vec<u8>>,
    news: Notify,
}

impl Outbox {
    /// Returns what there is.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.frames.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is more. Cancel-safe.
    pub(super) async fn filled(&self) {
        self.news.notified().await;
    }

    fn put(&self, frame: &[u8]) -> bool {
        let fits = put(&mut self.frames.lock().unwrap_or_else(PoisonError::into_inner), frame);
        if fits {
            self.news.notify_one();
        }
        fits
    }
}

/// Is who sent what on a connection and asked for no answer.
#[derive(Default)]
pub(super) struct Unasked(VecDeque<(Vec<u8>, Weak<Outbox>)>);

impl Unasked {
    /// Takes note of a message by its MSH-10.
    pub(super) fn note(&mut self, control_id: &[u8], outbox: &Arc<Outbox>) {
        if control_id.is_empty() {
            return; // any answer would match
        }
        if self.0.len() >= UNASKED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((control_id.to_vec(), Arc::downgrade(outbox)));
    }

    /// Hands an answer to the sender of its message; says whether it took it. For the sender that has the turn it goes
    /// behind what that one is about to be given, for order is kept between the two kinds of answers.
    pub(super) fn hand_over(
        &mut self,
        answer: &[u8],
        frame: &[u8],
        turn: Option<(&Arc<Outbox>, &mut Vec<u8>)>,
    ) -> bool {
        let Some(msa) = Header::parse_whole(answer).and_then(|header| header.msa()) else { return false };
        let Some(index) = self.0.iter().position(|(control_id, _)| *control_id == msa.control_id()) else {
            return false;
        };
        let Some(outbox) = self.0.remove(index).and_then(|(_, outbox)| outbox.upgrade()) else { return false };
        match turn {
            Some((own, out)) if Arc::ptr_eq(own, &outbox) => put(out, frame),
            _ => outbox.put(frame),
        }
    }
}

fn put(frames: &mut Vec<u8>, frame: &[u8]) -> bool {
    let fits = frames.len().saturating_add(frame.len()) <= OUTBOX_BYTES_MAX;
    if fits {
        frames.extend_from_slice(frame);
    }
    fits
}
