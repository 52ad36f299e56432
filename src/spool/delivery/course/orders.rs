//! What an operator asks of a message.

use super::Course;
use super::head::Phase;
use super::line::Line;
use crate::spool::{Sequence, Verdict};

/// Is what is asked of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It is to be attempted again now, although it is held or rests.
    Retry,
    /// It is to be taken out of the way.
    Withdraw,
}

/// Is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It is out of the way; its outcome says how often it was attempted before.
    Withdrawn,
    /// It was attempted, or is now: its outcome is reported as any other.
    Attempted,
    /// It is not here.
    Unknown,
}

impl Course {
    /// Takes an order; `None`: the committed end of the message is the answer.
    pub fn handle_order(&mut self, order: Order, sequence: Sequence) -> Option<Reply> {
        if self.ended.as_ref().is_some_and(|ended| ended.outcome.sequence == sequence) {
            return None;
        }
        if self.head.as_ref().is_some_and(|head| head.delivery.sequence == sequence) {
            return match order {
                Order::Retry => Some(self.hurry()),
                Order::Withdraw => {
                    self.withdraw();
                    None
                }
            };
        }
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.delivery.sequence == sequence);
        match (order, waiting) {
            (Order::Withdraw, Some(waiting)) => {
                waiting.is_withdrawn = true;
                Some(Reply::Withdrawn)
            }
            (Order::Retry, Some(_)) => Some(Reply::Attempted),
            (_, None) if sequence <= self.finished_through => Some(Reply::Attempted),
            (_, None) => Some(Reply::Unknown),
        }
    }

    fn withdraw(&mut self) {
        let Some(head) = &mut self.head else { return };
        match head.phase {
            // Its end is awaited: the receiver may take it yet.
            Phase::UnderWay { .. } => head.is_unwanted = true,
            Phase::Opened => {
                head.retract();
                self.end_head(Verdict::Withdrawn);
            }
            Phase::Ready | Phase::Resting { .. } | Phase::Held(_) => self.end_head(Verdict::Withdrawn),
        }
    }

    fn hurry(&mut self) -> Reply {
        if let Some(head) = &mut self.head
            && matches!(head.phase, Phase::Resting { .. } | Phase::Held(_))
        {
            head.phase = Phase::Ready;
        }
        if let Line::Backoff { .. } = self.line {
            self.line = Line::Down;
        }
        Reply::Attempted
    }
}
