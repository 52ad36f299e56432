//! What is asked of the thread of a near spool, and how each is answered.
//!
//! Never answers itself: the thread says when. Whether a file belongs to a message is decided with its answer.

use std::fs;
use std::path::PathBuf;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Destination;
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

    /// Leaves the files of what is committed where they are, whether its answer is given or not.
    fn keep_files(&mut self) {
        let kept = self.outcome.kept.len();
        self.messages.iter_mut().take(kept).for_each(|(_, draft)| draft.0 = None);
    }

    /// Answers; whether a file belongs to a message is not known after a failed commit, so that it stays then.
    fn answer(mut self, failure: Option<&SpoolError>) {
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

/// Asks for queued messages.
pub(super) struct Read {
    pub(super) to: Destination,
    pub(super) from: Sequence,
    pub(super) limits: (usize, u64),
    pub(super) reply: oneshot::Sender<Result<Vec<Found>, SpoolError>>,
}

/// Is what is asked.
pub(super) enum Work {
    /// To keep messages.
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
    /// Takes note that it is committed.
    pub(super) fn handle_committed(&mut self) {
        if let Work::Append(append) = &mut self.work {
            append.keep_files();
        }
    }

    /// Answers, with what was found or with what failed.
    pub(super) fn answer(self, failure: Option<&SpoolError>) {
        match self.work {
            Work::Append(append) => append.answer(failure),
            Work::Read(read) => drop(read.reply.send(Err(failure.cloned().unwrap_or(SpoolError::Closed)))),
            Work::Look(ask) | Work::Change(ask) => ask.answer(failure),
        }
    }
}
