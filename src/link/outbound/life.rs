//! The signs of life of the peer that a link follows.
//!
//! It never takes a sign of another peer for one.

use tokio::sync::watch;

/// Is the peer's signs of life, whichever peer is followed.
pub(super) struct SignsOfLife {
    followed: watch::Receiver<Option<watch::Receiver<u64>>>,
    now: Option<watch::Receiver<u64>>,
}

impl SignsOfLife {
    /// Follows whichever peer `followed` names.
    pub(super) fn new(mut followed: watch::Receiver<Option<watch::Receiver<u64>>>) -> Self {
        let now = followed.borrow_and_update().clone();
        Self { followed, now }
    }

    /// Passes over the signs so far.
    pub(super) fn forget(&mut self) {
        if let Some(now) = &mut self.now {
            now.borrow_and_update();
        }
    }

    /// Waits for the next sign; for ever, where the peer or the tunnel is gone. Cancel-safe.
    pub(super) async fn next(&mut self) {
        loop {
            let sign = async {
                let is_sign = match &mut self.now {
                    Some(now) => now.changed().await.is_ok(),
                    None => false,
                };
                if !is_sign {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = sign => return,
                Ok(()) = self.followed.changed() => self.now = self.followed.borrow_and_update().clone(),
            }
        }
    }
}
