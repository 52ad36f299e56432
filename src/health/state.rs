//! The verdict: which part of a site is ok, unknown, degraded or down, since when, and what is at fault. Pure.
//!
//! Judges [`SiteFacts`] and nothing else; never looks at a clock. The statuses and
//! the fields are those of the product's HTTP contract: a forward is down while its peer has no session or its receiver is known not to answer, and unknown where there is no
//! evidence. Of several faults the cause names the first on a message's way: this site, tunnel, link, receiver.

mod rules;

pub(super) use rules::age_text;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use super::facts::{
    AlarmFacts, AuditFacts, CertificateFacts, ConfigFacts, FileFault, ForwardFacts, OrphanFacts, PeerFacts,
    RotationFacts, ServiceFacts, SetByWg, SiteFacts, rfc3339,
};
use super::{audit, certificate, files};
use rules::{
    interface_fault, judge_forward, judge_orphan, judge_peer, judge_service, ledger_fault, link_listener_fault,
    listener_fault, service_listener_fault, spool_fault,
};

/// Limits a cause, in characters: one line of a monitoring system; some of the text comes from the peer.
const CAUSE_CHARS_MAX: usize = 300;

/// Says how something is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It works.
    Ok,
    /// There is no evidence, neither good nor bad.
    Unknown,
    /// It works, and somebody should look at it.
    Degraded,
    /// It does not work.
    Down,
}

impl Status {
    /// Lists every status, best first.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Unknown, Self::Degraded, Self::Down];

    /// Returns the status' name, as the JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }

    /// Says whether a health endpoint answers 200 (else 503).
    pub fn is_healthy(self) -> bool {
        match self {
            Self::Ok | Self::Unknown => true,
            Self::Degraded | Self::Down => false,
        }
    }
}

/// Is the judgement on one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Says how it is.
    pub status: Status,
    /// Says since when.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// Says why, in one line; none where it is ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Is a verdict together with the facts that it rests on.
#[derive(Debug, Clone, Serialize)]
pub struct Entry<'a, F> {
    /// Is the judgement.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Is what was judged.
    #[serde(flatten)]
    pub facts: &'a F,
}

/// Is the judgement on a whole site; serialized, it is the answer of `/healthz`.
#[derive(Debug, Clone, Serialize)]
pub struct Report<'a> {
    /// Is the worst of all.
    pub status: Status,
    /// Names the site.
    pub site: &'a str,
    /// Is the version of the program.
    pub version: &'a str,
    /// Says when the process started.
    #[serde(serialize_with = "rfc3339")]
    pub started: SystemTime,
    /// Says when the configuration was loaded, and what came of the last reload.
    pub config: &'a ConfigFacts,
    /// Says how the audit log is.
    pub audit: &'a AuditFacts,
    /// Is this site's own public key, the newest, in base64.
    pub public_key: &'a str,
    /// Lists what of this site's files a restart would meet otherwise.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub files: &'a [FileFault],
    /// Lists the certificates of the health endpoints.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub certificates: &'a [CertificateFacts],
    /// Says what this site itself lacks to do its part, one line each; none: it is ready.
    pub unready: Vec<String>,
    /// Says what of this site itself is degraded, such as its audit log; none: nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Verdict>,
    /// Counts what was dropped before a peer was known, by reason.
    pub dropped: &'a BTreeMap<&'static str, u64>,
    /// Says what `wg` has set of this site's end since the configuration was read.
    pub set_by_wg: &'a SetByWg,
    /// Says how far a change of this site's key is, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: &'a Option<RotationFacts>,
    /// Lists the peers.
    pub peers: Vec<Entry<'a, PeerFacts>>,
    /// Lists the forwards.
    pub forwards: Vec<Entry<'a, ForwardFacts>>,
    /// Lists the services.
    pub services: Vec<Entry<'a, ServiceFacts>>,
    /// Lists the queues that hold messages and have no forward any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<Entry<'a, OrphanFacts>>,
    /// Lists the alarms that are raised; they do not change the status, which is of now.
    pub alarms: &'a [AlarmFacts],
}

/// Judges a whole site at the time `now`.
pub fn assess(facts: &SiteFacts, now: SystemTime) -> Report<'_> {
    let entries = |forward| Entry { verdict: judge_forward(facts, forward, now), facts: forward };
    let forwards: Vec<_> = facts.forwards.iter().map(entries).collect();
    let peers: Vec<_> =
        facts.peers.iter().map(|peer| Entry { verdict: judge_peer(facts, peer, now), facts: peer }).collect();
    let services: Vec<_> = facts
        .services
        .iter()
        .map(|service| Entry { verdict: judge_service(facts, service, now), facts: service })
        .collect();
    let orphans = facts.orphans.iter().map(|orphan| Entry { verdict: judge_orphan(orphan), facts: orphan }).collect();
    let unready = unready(facts, now);
    let degraded = audit::faults(&facts.audit, now).into_iter().chain(files::judged(&facts.files));
    let degraded: Vec<_> = degraded.chain(certificate::expired(&facts.certificates)).collect();
    // That nothing tells of a peer that `wg` added says nothing of this site: no message goes there.
    let counts = |entry: &&Entry<'_, PeerFacts>| entry.facts.is_configured || entry.verdict.status > Status::Unknown;
    let own = lacks(facts, now).iter().map(|lack| lack.status).max().unwrap_or(Status::Ok);
    let status = std::iter::once(own)
        .chain(degraded.iter().map(|fault| fault.status))
        .chain(peers.iter().filter(counts).map(|entry| entry.verdict.status))
        .chain(forwards.iter().map(|entry| entry.verdict.status))
        .chain(services.iter().map(|entry| entry.verdict.status))
        .max()
        .unwrap_or(own);
    let (site, version, started) = (&facts.site, facts.version, facts.started);
    let (dropped, config, set_by_wg, audit) = (&facts.dropped, &facts.config, &facts.set_by_wg, &facts.audit);
    let alarms = facts.alarms.as_slice();
    Report {
        status,
        site,
        version,
        started,
        config,
        audit,
        public_key: &facts.public_key,
        files: &facts.files,
        certificates: &facts.certificates,
        unready,
        degraded,
        dropped,
        set_by_wg,
        rotation: &facts.rotation,
        peers,
        forwards,
        services,
        orphans,
        alarms,
    }
}

/// Lists what this site itself lacks to do its part, one line each; empty: it is ready.
pub fn unready(facts: &SiteFacts, now: SystemTime) -> Vec<String> {
    lacks(facts, now).into_iter().filter_map(|lack| lack.cause).collect()
}

/// Lists them with how bad each is: a spool that is being opened is no fault yet, though nothing is taken meanwhile.
fn lacks(facts: &SiteFacts, now: SystemTime) -> Vec<Verdict> {
    let own = [interface_fault(facts), link_listener_fault(facts)];
    let forwards =
        facts.forwards.iter().map(|forward| Some(listener_fault(forward)?.prefixed("forward", &forward.name)));
    let spools =
        facts.forwards.iter().map(|forward| Some(spool_fault(facts, forward, now)?.prefixed("forward", &forward.name)));
    let services =
        facts.services.iter().map(|service| Some(service_listener_fault(service)?.prefixed("service", &service.name)));
    let ledgers = facts.services.iter().map(|service| {
        let fault = ledger_fault(facts, service).filter(|fault| fault.status == Status::Down)?;
        Some(fault.prefixed("service", &service.name))
    });
    let orphans = facts.orphans.iter().map(|orphan| Some(judge_orphan(orphan).prefixed("queue", &orphan.name)));
    own.into_iter().chain(orphans).chain(forwards).chain(spools).chain(services).chain(ledgers).flatten().collect()
}

impl Verdict {
    fn ok(since: SystemTime) -> Self {
        Self { status: Status::Ok, since, cause: None }
    }

    /// Makes a verdict that is not ok; the cause becomes one line of bounded length.
    pub(super) fn new(status: Status, since: SystemTime, cause: &str) -> Self {
        let line = cause.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CAUSE_CHARS_MAX).collect();
        Self { status, since, cause: Some(line) }
    }

    fn prefixed(mut self, kind: &str, name: &str) -> Self {
        self.cause = self.cause.map(|cause| format!("{kind} {name}: {cause}"));
        self
    }
}

#[cfg(test)]
mod tests;
