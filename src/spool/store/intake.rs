//! How messages come into a near spool: a large payload is written beside the thread, then all are kept together.
//!
//! Never says that a message is kept before its transaction is durable.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Spool;
use super::jobs::{Append, Appended, Draft, Incoming, Work};
use super::messages::{Arrival, Content};
#[cfg(test)]
use crate::spool::Sequence;
use crate::spool::large::{INLINE_BYTES_MAX, LargeFile};
use crate::spool::{Refusal, SpoolError};

impl Spool {
    /// Keeps the messages of one sender, in order; they are durable when this returns. Once one is refused (a limit is
    /// reached, the disk is full, the store failed), so are all behind it. Dropping the future leaves open what is kept.
    pub async fn append(&self, payloads: Vec<Vec<u8>>) -> Appended {
        let (mut messages, mut refused) = (Vec::with_capacity(payloads.len()), None);
        for payload in payloads {
            if payload.len() <= INLINE_BYTES_MAX {
                messages.push((Incoming::Whole(payload), Draft(None)));
                continue;
            }
            match self.write_where_there_is_room(payload).await {
                Ok(large) => messages.push(large),
                Err(why) => {
                    refused = Some(why);
                    break;
                }
            }
        }
        let (reply, answer) = oneshot::channel();
        let work = Work::Append(Append { messages, outcome: Appended::default(), reply });
        let appended = match self.send(work).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Appended::none(SpoolError::Closed)),
            Err(error) => Appended::none(error),
        };
        Appended { refused: appended.refused.or(refused), ..appended }
    }

    /// Keeps one message.
    #[cfg(test)]
    pub(crate) async fn keep(&self, payload: Vec<u8>) -> Result<Sequence, Refusal> {
        let Appended { kept, refused } = self.append(vec![payload]).await;
        kept.first().copied().ok_or_else(|| refused.unwrap_or(Refusal::Failed(SpoolError::Closed)))
    }

    /// Writes a large payload where the disk has room.
    async fn write_where_there_is_room(&self, payload: Vec<u8>) -> Result<(Incoming, Draft), Refusal> {
        let (bytes, payload) = (payload.len() as u64, Arc::new(payload));
        // Copies of delivered messages go before one is refused.
        let makes_room = || self.look(move |core| core.shed_for(bytes));
        if self.tail.borrow().disk_full && !makes_room().await? {
            return Err(Refusal::Disk);
        }
        let mut written = self.write_large(Arc::clone(&payload)).await;
        if matches!(written, Err(SpoolError::Disk { .. })) && makes_room().await? {
            written = self.write_large(payload).await;
        }
        if let Err(error @ SpoolError::Disk { .. }) = written {
            self.change(|core| Ok(core.take_reserve())).await?;
            return Err(error.into());
        }
        Ok(written?)
    }

    /// Writes a large payload beside the thread, so that no commit waits for it.
    async fn write_large(&self, payload: Arc<Vec<u8>>) -> Result<(Incoming, Draft), SpoolError> {
        let (directory, key) = (self.directory.clone(), self.digest_key.clone());
        let trace_key = self.trace_key.clone();
        let written = tokio::task::spawn_blocking(move || {
            let file = LargeFile::write(&directory, &payload)?;
            let draft = Draft(Some(file.path(&directory)));
            let arrival = Arrival {
                content: Content::InFile(file),
                bytes: payload.len() as u64,
                payload: key.fingerprint(&payload),
                trace: trace_key.trace(&payload),
            };
            Ok((Incoming::InFile(arrival), draft))
        });
        written.await.unwrap_or(Err(SpoolError::Closed))
    }
}
