//! What `wardlink queue` and `wardlink forward` ask of a spool.
//!
//! Never gives content out without a note of who looked, committed before.

use super::{Destination, Listed, OutboxEvent, Spool};
use crate::spool::queue::{Event, State};
use crate::spool::{Sequence, SpoolError};

impl Spool {
    /// Lists messages of one state or all, from `from` on, without their content.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(
        &self,
        from: Sequence,
        state: Option<State>,
        messages_max: usize,
    ) -> Result<Vec<Listed>, SpoolError> {
        self.look(move |core| core.list(from, state, messages_max)).await
    }

    /// Lists messages that wait or are parked, from `from` on, without their content.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_held(&self, from: Sequence, messages_max: usize) -> Result<Vec<Listed>, SpoolError> {
        self.look(move |core| core.list_held(from, messages_max)).await
    }

    /// Describes one message.
    ///
    /// # Errors
    /// There is no such message, or the store failed.
    pub async fn show(&self, sequence: Sequence) -> Result<Listed, SpoolError> {
        self.look(move |core| core.show(sequence)).await
    }

    /// Returns the content of a message; that `by` looked at it is durable by then.
    ///
    /// # Errors
    /// There is no such message, its content is gone or damaged, or the store failed.
    pub async fn payload(&self, sequence: Sequence, by: &str) -> Result<Vec<u8>, SpoolError> {
        let by = by.to_owned();
        let content = self.change(move |core| core.view(sequence, &by)).await?;
        Ok(self.whole(content).await?.0)
    }

    /// Sets a queued message aside; the queue goes on. What may have been sent needs `is_withdrawn`: the far site's
    /// answer that it will not deliver it.
    ///
    /// # Errors
    /// There is no such message, it is not queued, it may have been sent, or the store failed.
    pub async fn park(&self, sequence: Sequence, is_withdrawn: bool, by: &str) -> Result<(), SpoolError> {
        let by = by.to_owned();
        self.change(move |core| core.park(sequence, is_withdrawn, &by)).await
    }

    /// Queues a message again under a new number, which is returned: one that was set aside, or delivered and kept. It
    /// goes where it was accepted for.
    ///
    /// # Errors
    /// There is no such message, it is in another state, or the store failed.
    pub async fn release(&self, sequence: Sequence, by: &str) -> Result<Sequence, SpoolError> {
        let by = by.to_owned();
        self.change(move |core| core.release(sequence, &by)).await
    }

    /// Gives up a message that is queued or set aside; its content is shredded at once. What may have been sent needs
    /// `is_withdrawn`.
    ///
    /// # Errors
    /// There is no such message, it is in another state, it may have been sent, or the store failed.
    pub async fn discard(
        &self,
        sequence: Sequence,
        is_withdrawn: bool,
        by: &str,
        reason: &str,
    ) -> Result<(), SpoolError> {
        let (by, reason) = (by.to_owned(), reason.to_owned());
        self.change(move |core| core.discard(sequence, is_withdrawn, &by, &reason)).await
    }

    /// Notes that `by` had a queued message tried at once; to try it is its conversation's.
    ///
    /// # Errors
    /// There is no such message, it is not queued, or the store failed.
    pub async fn retried(&self, sequence: Sequence, by: &str) -> Result<(), SpoolError> {
        let by = by.to_owned();
        self.change(move |core| core.retried(sequence, &by)).await
    }

    /// Pauses the forward or lets it go on; it stays so over restarts.
    ///
    /// # Errors
    /// The store failed.
    pub async fn pause(&self, is_paused: bool, by: &str) -> Result<(), SpoolError> {
        let by = by.to_owned();
        self.change(move |core| core.pause(is_paused, &by)).await
    }

    /// Sends what was accepted for one destination to another; returns how many of them are queued.
    ///
    /// # Errors
    /// The store failed.
    pub async fn move_to(&self, from: Destination, to: Destination, by: &str) -> Result<u64, SpoolError> {
        let by = by.to_owned();
        self.change(move |core| core.move_to(&from, &to, &by)).await
    }

    /// Counts what is queued or parked by where it was accepted for.
    ///
    /// # Errors
    /// The store failed.
    pub async fn held_for(&self) -> Result<Vec<(Destination, u64)>, SpoolError> {
        self.look(|core| core.held_for()).await
    }

    /// Sets a queued message aside that nobody can be asked about; where it may have been sent, it is in doubt.
    ///
    /// # Errors
    /// There is no such message, it is not queued, or the store failed.
    pub async fn park_unasked(&self, sequence: Sequence, by: &str) -> Result<(), SpoolError> {
        let by = by.to_owned();
        self.change(move |core| core.decide_unasked(sequence, Event::Park, (&by, ""))).await
    }

    /// Does the same with one that is given up.
    ///
    /// # Errors
    /// There is no such message, it is in another state, or the store failed.
    pub async fn discard_unasked(&self, sequence: Sequence, by: &str, reason: &str) -> Result<(), SpoolError> {
        let (by, reason) = (by.to_owned(), reason.to_owned());
        self.change(move |core| core.decide_unasked(sequence, Event::Discard, (&by, &reason))).await
    }

    /// Returns the last event that there ever was.
    ///
    /// # Errors
    /// The store failed.
    pub async fn outbox_last(&self) -> Result<u64, SpoolError> {
        self.look(|core| Ok(core.outbox_last())).await
    }

    /// Reads what happened after the event `after`, at most `events_max` events.
    ///
    /// # Errors
    /// The store failed, or an event is damaged.
    pub async fn read_outbox(&self, after: u64, events_max: usize) -> Result<Vec<OutboxEvent>, SpoolError> {
        self.look(move |core| core.read_outbox(after, events_max)).await
    }
}
