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
    /// Says since when it is known that it is not what peers were told, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contradicted: Option<FailedAudit>,
}

/// Is a log that cannot be written, or is not what peers were told.
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
    let text =
        |what: &str, one: &FailedAudit| Verdict::new(Status::Degraded, one.since, &format!("{what}: {}", one.cause));
    let failed = facts.failed.as_ref().map(|one| text("the audit log cannot be written", one));
    failed.or_else(|| facts.contradicted.as_ref().map(|one| text("the audit log was cut off or restored", one)))
}
