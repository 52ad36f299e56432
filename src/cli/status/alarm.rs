//! The line of `wardlink status` for an alarm that is raised. Pure.
//!
//! Understands what it needs of the status.

use std::fmt;

use serde::Deserialize;

/// Is an alarm that is raised.
#[derive(Debug, Deserialize)]
pub(super) struct Alarm {
    alarm: String,
    of: String,
    since: String,
    cause: String,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "alarm {} raised {}, {}: {}", self.alarm, self.since, self.of, self.cause)
    }
}
