//! When it was last said why others could not be met, so that who comes again and again does not fill the log.
//!
//! Says nothing itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Each cause is told this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Remembers what was told, by cause: as many as there are codes.
#[derive(Debug, Default)]
pub struct Told(Mutex<BTreeMap<&'static str, Instant>>);

impl Told {
    /// Tells whether a cause is to be told, and takes it for told then.
    pub fn is_due(&self, cause: &'static str, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.get(cause).is_none_or(|at| now.saturating_duration_since(*at) >= TELL_EVERY);
        if is_due {
            told.insert(cause, now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once_a_minute() {
        let (told, now) = (Told::default(), Instant::now());
        assert!(told.is_due("tls", now) && told.is_due("tls_expired", now));
        assert!(!told.is_due("tls", now + TELL_EVERY / 2) && told.is_due("tls", now + TELL_EVERY));
    }
}
