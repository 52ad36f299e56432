//! Messages of one sender on their way into a near spool: all of them, or those up to the first that is refused.
//!
//! Never keeps a message behind one that is refused, and leaves no file of a message that was not kept.

use std::fs;
use std::path::PathBuf;

use tokio::sync::oneshot;

use super::core::Core;
use super::messages::Arrival;
use crate::spool::{Refusal, Sequence, SpoolError};

/// Is a message on its way to the thread.
pub(super) enum Incoming {
    /// It is digested by the thread.
    Whole(Vec<u8>),
    /// It is in a file already.
    InFile(Arrival),
}

/// Removes the file of a message that did not come into the spool.
pub(super) struct Draft(pub(super) Option<PathBuf>);

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // One that stays is an orphan, and removed at the next start.
            drop(fs::remove_file(path));
        }
    }
}

/// Says which messages of a row were kept: those up to the first that was refused.
#[derive(Default)]
pub struct Appended {
    /// Lists their numbers.
    pub kept: Vec<Sequence>,
    /// Says why the next one, and all behind it, were not.
    pub refused: Option<Refusal>,
}

impl Appended {
    /// Is what is said where none was kept.
    pub(super) fn none(why: impl Into<Refusal>) -> Self {
        Self { kept: Vec::new(), refused: Some(why.into()) }
    }
}

/// Asks for messages of one sender to be kept, in order.
pub(super) struct Append {
    pub(super) messages: Vec<(Incoming, Draft)>,
    pub(super) outcome: Appended,
    pub(super) reply: oneshot::Sender<Appended>,
}

impl Append {
    /// Takes them into the present transaction, up to the first that is refused; an error is the store's.
    pub(super) fn run(&mut self, core: &mut Core, at: i64) -> Result<(), SpoolError> {
        self.outcome = Appended::default();
        for (incoming, _) in &mut self.messages {
            if let Incoming::Whole(payload) = incoming {
                *incoming = Incoming::InFile(core.arrival(std::mem::take(payload)));
            }
            let Incoming::InFile(arrival) = incoming else { continue };
            match core.append(arrival, at) {
                Ok(sequence) => self.outcome.kept.push(sequence),
                Err(refusal) => {
                    // What its sender sends again must not come behind what followed it.
                    self.outcome.refused = Some(refusal);
                    break;
                }
            }
        }
        match &self.outcome.refused {
            Some(Refusal::Disk) => Err(SpoolError::Disk { path: core.path.clone() }),
            Some(Refusal::Failed(error)) if error.is_failure() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Counts the bytes that are in memory.
    pub(super) fn bytes(&self) -> u64 {
        let of_one = |(incoming, _): &(Incoming, Draft)| match incoming {
            Incoming::Whole(payload) => payload.len() as u64,
            Incoming::InFile(_) => 0,
        };
        self.messages.iter().map(of_one).sum()
    }

    /// Answers; whether a file belongs to a message is not known after a failed commit, so that it stays then.
    pub(super) fn answer(mut self, failure: Option<&SpoolError>) {
        let kept = match failure {
            None => self.outcome.kept.len(),
            Some(SpoolError::Disk { .. }) => 0,
            Some(_) => self.messages.len(),
        };
        self.messages.iter_mut().take(kept).for_each(|(_, draft)| draft.0 = None);
        drop(self.messages);
        let outcome = failure.map_or(self.outcome, |error| Appended::none(error.clone()));
        drop(self.reply.send(outcome));
    }
}
