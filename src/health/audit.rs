//! How the audit log is, and what that means for the site. Pure.
//!
//! No message waits for the log, so that none is down because of it: the site is degraded while it cannot be written.

use std::time::SystemTime;

use serde::Serialize;

use super::facts::rfc3339;
use super::state::{Status, Verdict};

/// Says how the audit log is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AuditFacts {
    /// Numbers the last entry; 0: there is none yet.
    pub last_entry: u64,
    /// Counts what was not recorded since the start, because the log could not be written as fast.
    pub lost: u64,
    /// Says since when it cannot be written, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedAudit>,
}

/// Is a log that cannot be written.
#[derive(Debug, Clone, Serialize)]
pub struct FailedAudit {
    /// Says since when.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// Says why.
    pub cause: String,
}

/// Says what is wrong, where something is.
pub(super) fn fault(facts: &AuditFacts) -> Option<Verdict> {
    let failed = facts.failed.as_ref()?;
    Some(Verdict::new(Status::Degraded, failed.since, &format!("the audit log cannot be written: {}", failed.cause)))
}
