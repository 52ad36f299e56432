//! How queued messages are read for sending: whole, verified, in order, up to one that is damaged.
//!
//! Never hands over a message whose digest does not follow from the one before it.

use tokio::sync::oneshot;

use super::jobs::{Read, Work};
use super::messages::{Content, Found};
use super::{Destination, Spool};
use crate::spool::{Damage, Fingerprint, Queued, Sequence, SpoolError};

impl Spool {
    /// Reads queued messages at or after `from`, in order, at least one if there is any; that they may be sent is
    /// durable when this returns. It ends before one that is damaged, which [`Spool::tail`] then names, and before one
    /// that was accepted for another destination than `to`. A paused forward has none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn read_for(
        &self,
        to: &Destination,
        from: Sequence,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Queued>, SpoolError> {
        let (reply, answer) = oneshot::channel();
        let limits = (messages_max, bytes_max as u64);
        self.send(Work::Read(Read { to: to.clone(), from, limits, reply })).await?;
        let found: Vec<Found> = answer.await.unwrap_or(Err(SpoolError::Closed))?;
        let mut queued = Vec::with_capacity(found.len());
        for mut message in found {
            let content = std::mem::replace(&mut message.content, Content::Here(Vec::new()));
            let whole = self.whole(content).await;
            match whole.and_then(|(payload, of)| self.following(&message, &of).map(|()| payload)) {
                Ok(payload) => queued.push(message.with(payload)),
                // One that was settled meanwhile is not missing.
                Err(SpoolError::Damaged { damage, .. }) => {
                    let sequence = message.sequence;
                    self.look(move |core| core.confirm_damage(sequence, &damage)).await?;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(queued)
    }

    /// Begins a delivery by this site itself: what an earlier one had read, and did not attempt, was not sent.
    ///
    /// # Errors
    /// The store failed.
    pub async fn hand_anew(&self, to: &Destination) -> Result<(), SpoolError> {
        let to = to.clone();
        self.look(move |core| {
            core.hand_anew(&to);
            Ok(())
        })
        .await
    }

    /// Reads a payload, and digests it.
    pub(super) async fn whole(&self, content: Content) -> Result<(Vec<u8>, Fingerprint), SpoolError> {
        let key = self.digest_key.clone();
        match content {
            Content::Here(payload) => {
                let fingerprint = key.fingerprint(&payload);
                Ok((payload, fingerprint))
            }
            Content::InFile(file) => {
                let directory = self.directory.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let payload = file.read(&directory)?;
                    let fingerprint = key.fingerprint(&payload);
                    Ok((payload, fingerprint))
                });
                read.await.unwrap_or(Err(SpoolError::Closed))
            }
        }
    }

    /// Says whether the digest of a message is what follows from the one before: the far site would end the link.
    fn following(&self, message: &Found, of: &Fingerprint) -> Result<(), SpoolError> {
        let sequence = message.sequence;
        let is_other = |base| self.digest_key.following_fingerprint(&base, sequence, of) != message.digest;
        if message.base.is_some_and(is_other) {
            return Err(SpoolError::Damaged { path: self.directory.clone(), damage: Damage::Unlinked(sequence) });
        }
        Ok(())
    }
}
