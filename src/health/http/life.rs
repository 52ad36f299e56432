//! How long a connection lives, and whose slot it takes: a probe is answered within a bounded time, a page's stream moves
//! its end along as long as it is read.
//!
//! Never closes anything itself: [`Life::over`] tells when it is time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::share::Slot;

/// Is the end of a connection, which may be moved, and its slot among the probes.
#[derive(Debug)]
pub(in crate::health) struct Life {
    end: watch::Sender<Instant>,
    slot: Mutex<Option<Slot>>,
}

impl Life {
    /// Begins a connection that ends in so much time and holds this slot.
    pub(super) fn new(time: Duration, slot: Slot) -> Self {
        Self { end: watch::Sender::new(Instant::now() + time), slot: Mutex::new(Some(slot)) }
    }

    /// Gives the slot back: what goes on from here has a bound of its own.
    pub(in crate::health) fn leave_slot(&self) {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Moves the end to so much time from now.
    pub(in crate::health) fn prolong(&self, time: Duration) {
        self.end.send_replace(Instant::now() + time);
    }

    /// Waits for the end, wherever it is moved. Cancel-safe.
    pub(super) async fn over(&self) {
        let mut end = self.end.subscribe();
        loop {
            let at = *end.borrow_and_update();
            tokio::select! {
                () = sleep_until(at) => return,
                _ = end.changed() => {}
            }
        }
    }
}
