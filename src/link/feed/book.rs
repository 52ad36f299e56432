//! The inbox of a forward as the far end's book. It decides nothing.

use futures_util::future::BoxFuture;

use super::{Book, StoreError};
use crate::spool::inbox::Inbox;
use crate::spool::{FarView, Ledger as _, Opening, Outcome, Sequence};

impl Book for Inbox {
    fn view(&self) -> BoxFuture<'_, Result<FarView, StoreError>> {
        Box::pin(async { Ok(self.view().await?) })
    }

    fn outcomes_after(&self, sequence: Sequence) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move { Ok(self.outcomes_after(sequence).await?) })
    }

    fn attempted(&self) -> BoxFuture<'_, Result<Option<Sequence>, StoreError>> {
        Box::pin(async { Ok(self.interrupted().await?.map(|attempt| attempt.sequence)) })
    }

    fn raise(&self, opening: Opening) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.raise(&opening).await?) })
    }

    fn prune(&self, retired_through: Sequence) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.prune(retired_through).await?) })
    }
}
