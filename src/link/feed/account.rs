//! What counts in the window: messages that are on their way to the receiver, or not settled yet. Both ends keep it alike.
//!
//! Pure. A message counts with its bytes until its outcome is known, and as a message until that is settled as well.

use std::collections::BTreeMap;

use crate::spool::Sequence;

/// Is the account.
#[derive(Default)]
pub(super) struct Account {
    /// Holds the bytes of each; 0 where the outcome is known.
    entries: BTreeMap<Sequence, u64>,
    bytes: u64,
    retired: Sequence,
}

impl Account {
    /// Begins with messages whose outcome is known.
    pub(super) fn with_outcomes(sequences: impl IntoIterator<Item = Sequence>) -> Self {
        Self { entries: sequences.into_iter().map(|sequence| (sequence, 0)).collect(), ..Self::default() }
    }

    /// Counts the messages.
    pub(super) fn messages(&self) -> usize {
        self.entries.len()
    }

    /// Counts the bytes of those without an outcome.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns up to where all are settled.
    pub(super) fn retired(&self) -> Sequence {
        self.retired
    }

    /// Tells whether a message has no outcome yet.
    pub(super) fn awaits(&self, sequence: Sequence) -> bool {
        self.entries.get(&sequence).is_some_and(|bytes| *bytes > 0)
    }

    /// Tells whether the account has a message that is settled, but has no outcome here.
    pub(super) fn has_settled(&self) -> bool {
        self.entries.range(..=self.retired).next().is_some()
    }

    /// Enters a message.
    pub(super) fn enter(&mut self, sequence: Sequence, payload_bytes: usize) {
        let bytes = size(payload_bytes);
        self.bytes += bytes;
        self.entries.insert(sequence, bytes);
    }

    /// Notes that a message has its outcome.
    pub(super) fn finish(&mut self, sequence: Sequence) {
        if let Some(bytes) = self.entries.get_mut(&sequence) {
            self.bytes = self.bytes.saturating_sub(std::mem::take(bytes));
            if sequence <= self.retired {
                self.entries.remove(&sequence);
            }
        }
    }

    /// Lets go of what is settled and has an outcome.
    pub(super) fn retire(&mut self, through: Sequence) {
        if through <= self.retired {
            return;
        }
        self.retired = through;
        let is_over = |(sequence, bytes): (&Sequence, &u64)| (*bytes == 0).then_some(*sequence);
        let over: Vec<Sequence> = self.entries.range(..=through).filter_map(is_over).collect();
        for sequence in over {
            self.entries.remove(&sequence);
        }
    }

    /// Lets go of what is settled up to a message, whatever is known of its outcome.
    pub(super) fn forget_settled(&mut self, through: Sequence) {
        let through = through.min(self.retired);
        while let Some(entry) = self.entries.first_entry().filter(|entry| *entry.key() <= through) {
            self.bytes = self.bytes.saturating_sub(entry.remove());
        }
    }
}

/// Is what a message counts in bytes: 0 would mean that its outcome is known.
pub(super) fn size(payload_bytes: usize) -> u64 {
    (payload_bytes as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_until_it_is_settled_and_its_bytes_until_its_outcome() {
        let mut account = Account::with_outcomes([1]);
        account.enter(2, 100);
        account.enter(3, 0);
        assert_eq!((account.messages(), account.bytes()), (3, 101));
        account.finish(2);
        assert_eq!((account.messages(), account.bytes()), (3, 1));
        assert!(!account.awaits(2) && account.awaits(3) && !account.awaits(4));
        account.retire(3);
        assert_eq!((account.messages(), account.has_settled()), (1, true), "3 has no outcome here");
        account.retire(2);
        assert_eq!(account.retired(), 3, "never back");
        account.finish(3);
        assert_eq!((account.messages(), account.bytes(), account.has_settled()), (0, 0, false));
        account.enter(4, 7);
        account.enter(5, 7);
        account.retire(4);
        account.forget_settled(5);
        assert_eq!((account.messages(), account.bytes()), (1, 7), "5 is not settled");
    }
}
