//! What keeps messages from being sent while an operator decides about them.
//!
//! Never forgets one: dropping it lets them go on.

use std::sync::Arc;

use super::{Inner, Supply};
use crate::spool::Sequence;

impl Inner {
    /// Has the near end know from which message on none is sent.
    pub(super) fn bar(&mut self) {
        self.bars = self.bars.wrapping_add(1);
        self.near.set_barred(self.barred.iter().min().copied());
    }
}

/// Keeps a message and all behind it from being sent, until it is dropped.
pub struct Bar {
    pub(super) supply: Arc<Supply>,
    pub(super) from: Sequence,
}

impl Drop for Bar {
    fn drop(&mut self) {
        let mut inner = self.supply.lock();
        if let Some(place) = inner.barred.iter().position(|from| *from == self.from) {
            inner.barred.swap_remove(place);
        }
        inner.bar();
        self.supply.read_on.notify_one();
    }
}
