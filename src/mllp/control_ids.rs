//! The control ids (MSH-10) that were sent on a connection to a receiver: whose answers could be confused.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Counts the control ids that are remembered of one connection; with more it is opened anew. 16 bytes each.
const CONTROL_IDS_MAX: usize = 1 << 16;

/// Remembers what was sent on a connection, as hashes: an equal hash costs a new connection, no more.
#[derive(Debug, Default)]
pub struct ControlIds(HashSet<u64>);

impl ControlIds {
    /// Takes note of a control id, and tells whether its answer cannot be confused with an earlier one's: an empty one
    /// can with any, a repeated one with its first.
    pub fn take(&mut self, control_id: &[u8]) -> bool {
        let has_others = !self.0.is_empty();
        if has_others && (control_id.is_empty() || self.0.len() >= CONTROL_IDS_MAX) {
            return false;
        }
        let mut hasher = DefaultHasher::new();
        control_id.hash(&mut hasher);
        self.0.insert(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_confused_is_refused() {
        let mut ids = ControlIds::default();
        assert!(ids.take(b""), "nothing else was sent");
        assert!(!ids.take(b""), "it can be confused with any");
        assert!(ids.take(b"1") && !ids.take(b"1"));
        for number in 2..CONTROL_IDS_MAX {
            assert!(ids.take(number.to_string().as_bytes()), "{number}");
        }
        assert!(!ids.take(b"one more"));
    }
}
