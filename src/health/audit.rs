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
    /// Says since when it is known that it is not as it was written, or not what peers were told, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contradicted: Option<FailedAudit>,
    /// Says of each peer that told how far its log goes whether that is what it was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerLog>,
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

/// Says how the log of a peer is, as far as this site sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerLog {
    /// Names the peer.
    pub peer: String,
    /// Says since when it is known that it is not what it was, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FailedAudit>,
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

/// Lists what is wrong, the worst for whoever looks first.
pub(super) fn faults(facts: &AuditFacts, now: SystemTime) -> Vec<Verdict> {
    let verdict = |since, text: String| Verdict::new(Status::Degraded, since, &text);
    let own = own(facts).map(|(since, text)| verdict(since, text));
    let peers = facts.peers.iter().filter_map(of_peer).map(|(since, text)| verdict(since, text));
    let atna = facts.atna.as_ref().and_then(|atna| Some((atna, atna.failed.as_ref()?)));
    let is_long = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= UNSENT_FOR);
    let atna = atna.filter(|(_, failed)| is_long(failed.since));
    let atna = atna.map(|(atna, failed)| verdict(failed.since, unsent(atna, failed)));
    own.chain(peers).chain(atna).collect()
}

/// Says what is wrong with this site's log, and since when.
pub(super) fn own(facts: &AuditFacts) -> impl Iterator<Item = (SystemTime, String)> {
    let failed = facts.failed.iter().map(|one| (one.since, format!("the audit log cannot be written: {}", one.cause)));
    let changed = |one: &FailedAudit| (one.since, format!("the audit log is not as it was written: {}", one.cause));
    failed.chain(facts.contradicted.iter().map(changed))
}

/// Says what is wrong with the log of a peer, and since when.
pub(super) fn of_peer(log: &PeerLog) -> Option<(SystemTime, String)> {
    let fault = log.fault.as_ref()?;
    Some((fault.since, format!("the audit log of {} is not what it was: {}", log.peer, fault.cause)))
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
