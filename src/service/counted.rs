//! Counts that last as long as what they count, also where that is cut off.
//!
//! It decides nothing.

use tokio::sync::watch;

use crate::link::tally::Tally;

/// Counts a connection to the receiver until it is dropped, also where it is cut off.
pub(super) struct Counted<'a> {
    pub(super) tally: &'a Tally,
    pub(super) connection: u64,
    pub(super) code: &'static str,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.tally.end(self.connection, self.code);
    }
}

/// Counts one who waits for as long as it lives.
pub(super) struct Waiting<'a>(&'a watch::Sender<u64>);

impl<'a> Waiting<'a> {
    pub(super) fn new(count: &'a watch::Sender<u64>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
