//! What of a site's files a restart would meet otherwise than the running site does. Pure.
//!
//! The site works as long as it runs, so that it is degraded, not down.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::facts::rfc3339;
use super::state::{Status, Verdict};

/// Is how long something is to be so before it is told: a file that is replaced, or a change that is about to be reloaded.
pub const TOLD_AFTER: Duration = Duration::from_secs(3);

/// Is something that was found of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFault {
    /// Says since when it is known.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// Says what it is, and what to do.
    pub cause: String,
}

/// Takes what a look found: what was found before keeps its time.
#[must_use]
pub fn followed(before: &[FileFault], found: Vec<String>, now: SystemTime) -> Vec<FileFault> {
    let since = |cause: &str| before.iter().find(|fault| fault.cause == cause).map_or(now, |fault| fault.since);
    found.into_iter().map(|cause| FileFault { since: since(&cause), cause }).collect()
}

/// Returns those that are to be told.
pub fn told(faults: &[FileFault], now: SystemTime) -> Vec<FileFault> {
    let is_lasting = |fault: &&FileFault| now.duration_since(fault.since).is_ok_and(|age| age >= TOLD_AFTER);
    faults.iter().filter(is_lasting).cloned().collect()
}

/// Judges them.
pub(super) fn judged(faults: &[FileFault]) -> impl Iterator<Item = Verdict> {
    faults.iter().map(|fault| Verdict::new(Status::Degraded, fault.since, &fault.cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_at_once_is_not_told_and_what_stays_has_its_first_time() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let seen = followed(&[], vec!["gone".into()], at(1));
        assert_eq!(told(&seen, at(1)), []);
        let seen = followed(&seen, vec!["gone".into(), "another".into()], at(4));
        assert_eq!(told(&seen, at(4)), [FileFault { since: at(1), cause: "gone".into() }]);
        assert_eq!(followed(&seen, Vec::new(), at(7)), []);
    }
}
