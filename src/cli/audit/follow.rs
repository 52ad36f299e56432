//! Shows what comes into the audit log, as it comes.
//!
//! Reads on where it stopped; a file that is removed meanwhile is passed over.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::{Failure, show};
use crate::audit::AuditError;
use crate::audit::read;

/// Is the time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Shows the entries after one, for ever.
pub(super) fn follow(directory: &Path, after: Option<u64>, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let (mut after, mut seen) = (after.unwrap_or(0), None);
    loop {
        let segments = read::segments(directory)?;
        let from = segments.iter().rposition(|segment| segment.first <= after + 1).unwrap_or(0);
        let news: Vec<_> = segments.into_iter().skip(from).collect();
        let bytes: Vec<_> =
            news.iter().map(|one| std::fs::metadata(&one.path).map_or(0, |found| found.len())).collect();
        if seen.as_ref() != Some(&bytes) {
            read::entries(&news, |entry, line| {
                if entry.n > after {
                    after = entry.n;
                    show(out, &entry, line, json)?;
                }
                Ok::<(), Failure>(())
            })
            .or_else(|failure| match failure {
                Failure::Audit(AuditError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    Ok(())
                }
                failure => Err(failure),
            })?;
            out.flush()?;
            seen = Some(bytes);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
