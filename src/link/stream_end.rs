//! One end of a stream, as the forward or the service holds it.
//!
//! It never blocks: what cannot be moved now is waited for with `readable` and `writable`. Dropping it ends the stream.

use std::sync::Arc;
use std::time::Instant;

use super::session::{Session, Signals};
use super::streams::Moved;
use super::wire::Cause;

/// Is one end of a stream.
pub struct StreamEnd {
    session: Arc<Session>,
    key: u64,
    signals: Arc<Signals>,
    cause: Cause,
}

impl StreamEnd {
    pub(super) fn new(session: Arc<Session>, key: u64, signals: Arc<Signals>) -> Self {
        Self { session, key, signals, cause: Cause::SenderGone }
    }

    /// Moves received bytes into `out`.
    pub fn try_read(&self, out: &mut [u8]) -> Moved {
        self.session.with(|streams| streams.try_read(self.key, out))
    }

    /// Sends bytes as far as the credit goes.
    pub fn try_write(&self, bytes: &[u8]) -> Moved {
        self.session.with(|streams| streams.try_write(self.key, bytes, Instant::now()))
    }

    /// Ends this direction; the other one goes on.
    pub fn finish(&self) {
        self.session.with(|streams| streams.finish(self.key));
    }

    /// Waits until `try_read` may have something new to say. For one task at a time; cancel-safe.
    pub async fn readable(&self) {
        self.signals.readable.notified().await;
    }

    /// Waits until `try_write` may have something new to say. For one task at a time; cancel-safe.
    pub async fn writable(&self) {
        self.signals.writable.notified().await;
    }

    /// Waits until the receiver is connected (near end). Cancel-safe.
    ///
    /// # Errors
    /// The stream failed.
    pub async fn opened(&self) -> Result<(), Cause> {
        loop {
            let (is_open, failure) =
                self.session.with(|streams| (streams.is_open(self.key), streams.failure(self.key)));
            match failure {
                Some(cause) => return Err(cause),
                None if is_open => return Ok(()),
                None => self.signals.writable.notified().await,
            }
        }
    }

    /// Tells the near end that the receiver is connected (far end).
    pub fn accept(&self) {
        self.session.with(|streams| streams.accept(self.key));
    }

    /// Says why the stream is dropped; the other end is told.
    pub fn refuse(&mut self, cause: Cause) {
        self.cause = cause;
    }

    /// Tells whether the stream waits for a receiver that cannot be reached.
    pub fn is_held(&self) -> bool {
        self.session.with(|streams| streams.is_held(self.key))
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.session.forget(self.key, self.cause);
    }
}
