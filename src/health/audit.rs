//! How the audit log is, and what that means for the site. Pure.
//!
//! No message waits for the log, so that none is down because of it: the site is degraded while it cannot be written.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::facts::{rfc3339, rfc3339_text};
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
    /// Says how it is sent to a repository of IHE ATNA, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub atna: Option<AtnaFacts>,
}

/// Says how the audit log is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AtnaFacts {
    /// Is where to.
    pub server: String,
    /// Tells that a connection stands.
    pub connected: bool,
    /// Numbers the last entry that was sent, on this connection or before.
    pub sent: u64,
    /// Numbers the last one that a restart does not send again.
    pub taken: u64,
    /// Counts those that wait to be sent.
    pub unsent: u64,
    /// Counts those that were removed in time before, since the start.
    pub lost: u64,
    /// Says since when it cannot be sent, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedAudit>,
}

/// Is how long it may be that the log cannot be sent before the site is degraded: a repository that restarts is back.
const UNSENT_FOR: Duration = Duration::from_secs(60);

/// Is a log that cannot be written, or is not what peers were told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedAudit {
    /// Says since when.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// Says why.
    pub cause: String,
}

/// Says what is wrong, where something is.
pub(super) fn fault(facts: &AuditFacts, now: SystemTime) -> Option<Verdict> {
    let text =
        |what: &str, one: &FailedAudit| Verdict::new(Status::Degraded, one.since, &format!("{what}: {}", one.cause));
    let failed = facts.failed.as_ref().map(|one| text("the audit log cannot be written", one));
    let failed =
        failed.or_else(|| facts.contradicted.as_ref().map(|one| text("the audit log was cut off or restored", one)));
    failed.or_else(|| {
        let (atna, failed) = facts.atna.as_ref().and_then(|atna| Some((atna, atna.failed.as_ref()?)))?;
        let is_long = now.duration_since(failed.since).is_ok_and(|age| age >= UNSENT_FOR);
        is_long.then(|| Verdict::new(Status::Degraded, failed.since, &unsent(atna, failed)))
    })
}

/// Says in one line that the log cannot be sent.
pub(super) fn unsent(atna: &AtnaFacts, failed: &FailedAudit) -> String {
    format!(
        "the audit log cannot be sent to {} since {}: {}; {} entries wait",
        atna.server,
        rfc3339_text(failed.since),
        failed.cause,
        atna.unsent
    )
}
