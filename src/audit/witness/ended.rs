//! Logs of a peer that ended: another one, or a shorter one, took the place. Pure.
//!
//! Never forgets one by itself, whatever the peer says from then on: an operator of this site accepts it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Head, Known, Line};

/// Bounds those that stand: of a peer that tells now this and now that no more is noted, nor taken for its log.
pub(super) const ENDED_MAX: usize = 8;

/// Is a log of the peer's that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Is when that was found, in seconds since 1970.
    at: u64,
    /// Is how far it went.
    #[serde(flatten)]
    head: Line,
    /// Is the entry that the one after it ended at when it was heard of first.
    next: u64,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { next, head: Line { n, .. }, .. } = self;
        match next == n {
            true => write!(f, "entry {n} is another one than it was"),
            false => write!(f, "it ends at entry {next}, and went on to entry {n} before"),
        }
    }
}

impl Ended {
    pub(super) fn new(at: u64, latest: &Head, next: &Head) -> Self {
        Self { at, head: Line::from(latest), next: next.n }
    }

    pub(super) fn head(&self) -> Option<Head> {
        self.head.head()
    }
}

impl Known {
    /// Lists the peer's logs that ended and that no operator has accepted.
    pub fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// Says since when, in seconds since 1970, the peer's log is not what it was, and how it is now.
    pub fn standing(&self) -> Option<(u64, String)> {
        Some((self.ended.first()?.at, self.ended.last()?.to_string()))
    }

    /// Lets what an operator accepted count no more; returns what of it stood until now.
    pub fn accept(&mut self, accepted: &[Ended]) -> Vec<Ended> {
        let (gone, left) = std::mem::take(&mut self.ended).into_iter().partition(|one| accepted.contains(one));
        self.ended = left;
        self.is_changed |= !Vec::is_empty(&gone);
        gone
    }
}
