//! The spool as the ledger of the conversation with its own receiver: of a forward without a far site (`to:`).
//!
//! Never lets a first byte go before the attempt is durable. Rules: `spool/ledger`.

use super::Spool;
use crate::spool::{Attempt, Finished, Ledger, SpoolError};

impl Ledger for Spool {
    /// Settles the message before and writes the attempt down, in one transaction.
    async fn commit(&self, finished: Option<Finished>, attempting: Option<Attempt>) -> Result<(), SpoolError> {
        let outcomes: Vec<_> = finished.into_iter().map(|finished| finished.outcome).collect();
        self.change(move |core| {
            if !outcomes.is_empty() {
                core.settle(&outcomes)?;
            }
            if let Some(attempt) = attempting {
                core.reserve_sent(attempt.sequence);
            }
            core.live.head.attempting = attempting;
            Ok(())
        })
        .await
    }

    async fn interrupted(&self) -> Result<Option<Attempt>, SpoolError> {
        self.look(|core| Ok(core.live.head.attempting)).await
    }
}
