//! What is asked of the thread of a near spool, and how each is answered.
//!
//! Never answers itself: the thread says when. Whether a file belongs to a message is decided with its answer.

use std::fs;
use std::path::PathBuf;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::core::Core;
use super::messages::{Arrival, Found};
use crate::spool::{Refusal, Sequence, SpoolError};

/// Is something asked of the thread, of any kind.
pub(super) trait Ask: Send {
    /// Does it; an error is the store's, and takes the whole transaction back. It may be called again then.
    fn run(&mut self, core: &mut Core) -> Result<(), SpoolError>;
    /// Answers, with what [`Ask::run`] found or with what failed.
    fn answer(self: Box<Self>, failure: Option<&SpoolError>);
}

/// Is an [`Ask`] of one closure.
pub(super) struct Asked<T, F> {
    pub(super) action: F,
    pub(super) found: Option<Result<T, SpoolError>>,
    pub(super) reply: oneshot::Sender<Result<T, SpoolError>>,
}

impl<T: Send, F: FnMut(&mut Core) -> Result<T, SpoolError> + Send> Ask for Asked<T, F> {
    fn run(&mut self, core: &mut Core) -> Result<(), SpoolError> {
        let found = (self.action)(core);
        let failure = found.as_ref().err().filter(|error| error.is_failure()).cloned();
        self.found = Some(found);
        failure.map_or(Ok(()), Err)
    }

    fn answer(self: Box<Self>, failure: Option<&SpoolError>) {
        let found = match failure {
            Some(error) => Err(error.clone()),
            None => self.found.unwrap_or(Err(SpoolError::Closed)),
        };
        // Who does not wait any more needs no answer.
        drop(self.reply.send(found));
    }
}

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

/// Asks for a message to be kept.
pub(super) struct Append {
    pub(super) incoming: Incoming,
    pub(super) draft: Draft,
    pub(super) outcome: Result<Sequence, Refusal>,
    pub(super) reply: oneshot::Sender<Result<Sequence, Refusal>>,
}

impl Append {
    /// Takes it into the present transaction.
    pub(super) fn run(&mut self, core: &mut Core, at: i64) -> Result<(), SpoolError> {
        if let Incoming::Whole(payload) = &mut self.incoming {
            self.incoming = Incoming::InFile(core.arrival(std::mem::take(payload)));
        }
        let Incoming::InFile(arrival) = &self.incoming else {
            return Ok(());
        };
        self.outcome = core.append(arrival, at);
        match &self.outcome {
            Err(Refusal::Disk) => Err(SpoolError::Disk { path: core.path.clone() }),
            Err(Refusal::Failed(error)) if error.is_failure() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Counts the bytes that the thread has to seal.
    pub(super) fn bytes(&self) -> u64 {
        match &self.incoming {
            Incoming::Whole(payload) => payload.len() as u64,
            Incoming::InFile(_) => 0,
        }
    }

    /// Answers; whether a file belongs to a message is not known after a failed commit, so that it stays then.
    fn answer(mut self, failure: Option<&SpoolError>) {
        let is_kept = match failure {
            None => self.outcome.is_ok(),
            Some(error) => !matches!(error, SpoolError::Disk { .. }),
        };
        if is_kept {
            self.draft.0 = None;
        }
        let outcome = match failure {
            Some(error) => Err(Refusal::from(error.clone())),
            None => self.outcome,
        };
        drop(self.draft);
        drop(self.reply.send(outcome));
    }
}

/// Asks for queued messages.
pub(super) struct Read {
    pub(super) from: Sequence,
    pub(super) limits: (usize, u64),
    pub(super) reply: oneshot::Sender<Result<Vec<Found>, SpoolError>>,
}

/// Is what is asked.
pub(super) enum Work {
    /// To keep a message.
    Append(Append),
    /// For queued messages.
    Read(Read),
    /// For something that changes nothing.
    Look(Box<dyn Ask>),
    /// For a change.
    Change(Box<dyn Ask>),
}

/// Is one job with its place among those that wait.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Job {
    /// Answers, with what was found or with what failed.
    pub(super) fn answer(self, failure: Option<&SpoolError>) {
        match self.work {
            Work::Append(append) => append.answer(failure),
            Work::Read(read) => drop(read.reply.send(Err(failure.cloned().unwrap_or(SpoolError::Closed)))),
            Work::Look(ask) | Work::Change(ask) => ask.answer(failure),
        }
    }
}
