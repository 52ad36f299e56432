//! The spool of a stored forward as its link reads it: what was accepted for where that link leads.
//!
//! It never gives a link a message that was accepted for elsewhere, whatever the configuration says meanwhile. Rules:
//! design, delivery.md ("stored: intake").

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::store::{Opened, Store};
use crate::link::feed::{Queue, QueueState, StoreError};
use crate::spool::store::Destination;
use crate::spool::{FarView, Judgement, Opening, Outcome, Queued, Sequence};

/// Is what one link reads.
pub struct Outlet {
    store: Arc<Store>,
    to: Destination,
}

impl Outlet {
    /// Makes it, of a link that leads to `to`.
    pub fn new(store: Arc<Store>, to: Destination) -> Arc<Self> {
        Arc::new(Self { store, to })
    }
}

impl Queue for Outlet {
    fn opening(&self) -> BoxFuture<'_, Result<Opening, StoreError>> {
        Box::pin(async {
            // At the start of a site the link may be up before the spool is.
            self.store.follow_opened().wait_for(|opened| !matches!(opened, Opened::Not)).await?;
            Ok(self.store.spool()?.opening().await?)
        })
    }

    fn judge(&self, view: FarView) -> BoxFuture<'_, Result<Judgement, StoreError>> {
        Box::pin(async move { Ok(self.store.spool()?.judge(view).await?) })
    }

    fn read(&self, from: Sequence, messages: usize, bytes: usize) -> BoxFuture<'_, Result<Vec<Queued>, StoreError>> {
        Box::pin(async move { Ok(self.store.spool()?.read_for(&self.to, from, messages, bytes).await?) })
    }

    fn settle(&self, outcomes: Vec<Outcome>) -> BoxFuture<'_, Result<Sequence, StoreError>> {
        Box::pin(async move {
            let retired = self.store.spool()?.settle(outcomes).await?;
            self.store.note_settled();
            Ok(retired)
        })
    }

    fn tail(&self) -> watch::Receiver<QueueState> {
        self.store.follow_state()
    }
}
