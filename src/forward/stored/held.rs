//! The bytes of messages that a forward's senders have begun and that are not stored yet: counted, and bounded.
//!
//! It holds no byte itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds these bytes for all senders of a forward together: a few of the largest messages at once, or a thousand senders
/// of ordinary ones, beside what a small machine has left. One message of `max_message_size` fits in any case.
pub(in crate::forward) const HELD_BYTES_MAX: u64 = 256 << 20;

/// Counts for a forward.
#[derive(Default)]
pub(in crate::forward) struct Held(AtomicU64);

impl Held {
    /// Begins to count for a sender.
    pub(super) fn share(&self) -> Share<'_> {
        Share { held: self, bytes: 0 }
    }
}

/// Counts for one sender, until it is dropped.
pub(super) struct Share<'a> {
    held: &'a Held,
    bytes: u64,
}

impl Share<'_> {
    /// Sets what the sender's connection holds now; says whether it may.
    pub(super) fn set(&mut self, bytes: u64, bytes_max: u64) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let (held, order) = (&self.held.0, Ordering::Relaxed);
        if bytes <= before {
            held.fetch_sub(before - bytes, order);
            return true;
        }
        let more = bytes - before;
        held.fetch_add(more, order).saturating_add(more) <= bytes_max.max(HELD_BYTES_MAX)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_beyond_what_all_may_hold_is_told() {
        let held = Held::default();
        let (mut one, mut other) = (held.share(), held.share());
        assert!(one.set(HELD_BYTES_MAX - 10, 0));
        assert!(other.set(10, 0));
        assert!(!other.set(11, 0), "one byte too much");
        assert!(other.set(9, 0), "less is never refused");
        drop(one);
        assert!(other.set(HELD_BYTES_MAX, 0), "what is gone counts no more");
        drop(other);
        assert_eq!(held.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_message_of_the_largest_size_fits() {
        let held = Held::default();
        assert!(held.share().set(1 << 30, 1 << 30));
    }
}
