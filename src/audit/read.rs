//! Reads the audit log, also while a site writes it: entry by entry, and whether all of it is as it was written.
//!
//! Never changes anything. The last line may be on its way: one without an end is no fault there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::AuditError;
use super::chain::{self, Chain, ChainKey, Fault, Walk};
use super::event::{Entry, Standing};
use super::store::{KEY, for_each_line, read_head};
pub use super::store::{Segment, segments};

/// Is for how long a key may be there before its log.
const NEW_KEY: Duration = Duration::from_secs(60);

/// Says how a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Is the first entry that is there.
    pub first: u64,
    /// Is the last whole entry, and the hash at it.
    pub last: Option<(u64, Chain)>,
    /// Is the last entry that was removed because it was old.
    pub pruned_through: u64,
    /// Says where the log is broken first.
    pub fault: Option<Broken>,
}

/// Says where a log is broken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Broken {
    /// A line is not as it was written.
    #[error("{file}: {fault}")]
    Line {
        /// Names the file.
        file: String,
        /// Says how.
        fault: Fault,
    },
    /// The begin is gone, and the log does not say that it was old.
    #[error("entries {first} to {last} are missing at the begin: no entry says that the site removed them")]
    Begin {
        /// Is the first of them.
        first: u64,
        /// Is the last of them.
        last: u64,
    },
    /// The end is gone.
    #[error("the log ends at entry {found}, and went on to {expected}: the end was cut off")]
    CutOff {
        /// Is the last entry that is there.
        found: u64,
        /// Is the last entry that was.
        expected: u64,
    },
    /// What says how far it goes says nothing.
    #[error("{} was changed: it does not say how far the log goes", path.display())]
    Head {
        /// Is the file.
        path: PathBuf,
    },
    /// What says how far it goes is gone.
    #[error("its `head`, which says how far it goes, is gone: whether the end was cut off cannot be told")]
    NoHead,
    /// All of it is gone.
    #[error("no entry is there, and a log was begun: {what} is left of it")]
    Gone {
        /// Is what tells so.
        what: String,
    },
    /// All of it is gone from under a site that runs.
    #[error(
        "the log is gone: no entry is there, and the running site has written {entry}; or it still has the state_dir \
             that the file had before"
    )]
    GoneMeanwhile {
        /// Is the last that it wrote.
        entry: u64,
    },
    /// An entry is another one than a witness says.
    #[error("entry {entry} is not the one that {witness} was told of: the log was written anew")]
    Rewritten {
        /// Is the entry.
        entry: u64,
        /// Says who knows the one that was.
        witness: String,
    },
}

/// Is what somebody knows of a log: the hash at an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Says who.
    pub name: String,
    /// Is the entry.
    pub n: u64,
    /// Is the hash at it.
    pub chain: Chain,
}

/// Says what is left where no entry is: what only a log that was begun has beside it. The key is made before the first
/// entry, and how far ATNA came may be noted before it, so that a new one of these tells nothing.
pub fn remains(directory: &Path) -> Option<Broken> {
    let is_old = |path: &Path| {
        let made = path.metadata().and_then(|metadata| metadata.modified()).ok();
        made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age > NEW_KEY)
    };
    let is_left = |name: &&str| {
        let path = directory.join(name);
        if [KEY, "atna"].contains(name) { is_old(&path) } else { path.exists() }
    };
    let left = ["head", KEY, "peers", "accepted", "atna"].into_iter().find(is_left)?;
    Some(Broken::Gone { what: format!("`{left}`") })
}

/// Reads all entries in order, without a look at the chain; what is no entry is passed over.
///
/// # Errors
/// A file cannot be read, or `each` says so.
pub fn entries<E: From<AuditError>>(
    segments: &[Segment],
    mut each: impl FnMut(Entry, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for segment in segments {
        for_each_line(&segment.path, |line, is_whole| match serde_json::from_slice(line) {
            Ok(entry) if is_whole => each(entry, line).map_err(Stop::Each),
            _ => Ok(()),
        })
        .map_err(|stop| match stop {
            Stop::Each(error) => error,
            Stop::Read(source) => AuditError::File { doing: "read", path: segment.path.clone(), source }.into(),
        })?;
    }
    Ok(())
}

enum Stop<E> {
    Each(E),
    Read(io::Error),
}

impl<E> From<io::Error> for Stop<E> {
    fn from(source: io::Error) -> Self {
        Self::Read(source)
    }
}

/// Returns what some lines of a file say is the hash at them, without a look at the chain.
pub(super) fn stated(segment: &Segment, wanted: &BTreeSet<u64>) -> io::Result<BTreeMap<u64, Chain>> {
    let mut found = BTreeMap::new();
    for_each_line(&segment.path, |line, _| {
        found.extend(chain::stated(line).filter(|(n, _)| wanted.contains(n)));
        Ok::<(), io::Error>(())
    })?;
    Ok(found)
}

/// Verifies a log from its first entry to its last, against its head and what others know of it.
///
/// # Errors
/// It cannot be read; that it is broken is no error.
pub fn verify(directory: &Path, key: &[u8; 32], witnesses: &[Witness]) -> Result<Verified, AuditError> {
    verify_after(directory, key, witnesses, 0)
}

/// Verifies it, and does not judge what is up to an entry: what is wrong there is known.
///
/// # Errors
/// As with [`verify`].
pub fn verify_after(
    directory: &Path,
    key: &[u8; 32],
    witnesses: &[Witness],
    after: u64,
) -> Result<Verified, AuditError> {
    // Before the log: it may go on meanwhile.
    let (head, lack) = match read_head(directory) {
        Ok(Some(head)) => (Some(head), None),
        Ok(None) => (None, Some(Broken::NoHead)),
        Err(AuditError::Head { path }) => (None, Some(Broken::Head { path })),
        Err(error) => return Err(error),
    };
    let head = head.map(|(n, chain)| Witness { name: "its own head".to_owned(), n, chain });
    let known = witnesses.iter().filter(|witness| witness.n > after);
    let mut witnesses: Vec<&Witness> = head.iter().chain(known).collect();
    witnesses.sort_by_key(|witness| witness.n);
    let all = segments(directory)?;
    // The first entry that is there: a file whose begin is gone may still have its name.
    let mut first = None;
    let mut verified = Verified { first: 0, last: None, pruned_through: 0, fault: None };
    let (mut walk, mut standing) = (Walk::new(ChainKey::new(key)), Standing::default());
    for (place, segment) in all.iter().enumerate() {
        let is_last = place + 1 == all.len();
        let file = segment.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = for_each_line(&segment.path, |line, is_whole| {
            if verified.fault.is_some() || (!is_whole && is_last) {
                return Ok::<(), io::Error>(());
            }
            let read = walk.handle_line(line).map(Some);
            let read =
                read.or_else(|fault| if fault.entry() <= after { walk.pass_over(line, after) } else { Err(fault) });
            match read {
                Ok(entry) => {
                    first = first.or(walk.at());
                    entry.iter().for_each(|entry| standing.handle_entry(entry));
                }
                Err(fault) => verified.fault = Some(Broken::Line { file: file.clone(), fault }),
            }
            if let Some((n, chain)) = walk.at().filter(|_| verified.fault.is_none()) {
                let is_other = |witness: &&&Witness| witness.n == n && witness.chain != chain;
                if let Some(witness) = witnesses.iter().find(is_other) {
                    verified.fault = Some(Broken::Rewritten { entry: n, witness: witness.name.clone() });
                }
            }
            Ok(())
        });
        read.map_err(|source| AuditError::File { doing: "read", path: segment.path.clone(), source })?;
    }
    let first = first.map_or_else(|| all.first().map_or(0, |segment| segment.first), |(n, _)| n);
    verified.first = first;
    verified.last = walk.at();
    verified.pruned_through = standing.pruned_through;
    if verified.fault.is_none() && first > standing.pruned_through.max(after) + 1 {
        verified.fault = Some(Broken::Begin { first: standing.pruned_through + 1, last: first - 1 });
    }
    let found = walk.at().map_or(0, |(n, _)| n);
    // A log that begins has its first entry before its head.
    let is_late = lack == Some(Broken::NoHead) && (found <= 1 || read_head(directory)?.is_some());
    verified.fault = verified.fault.or(lack.filter(|_| !is_late));
    if let (None, Some(last)) = (&verified.fault, witnesses.last().filter(|witness| witness.n > found)) {
        verified.fault = Some(Broken::CutOff { found, expected: last.n });
    }
    Ok(verified)
}
