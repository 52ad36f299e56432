//! The facts that health judges: what each room knows of itself at one moment, as plain values. Pure.
//!
//! Never holds a byte of a message, only names, addresses, counts and times. The serialized form is that of `/healthz`:
//! units are in the names, times are RFC 3339 in UTC.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

pub use super::alarms::AlarmFacts;
pub use super::audit::{AtnaFacts, AuditFacts, FailedAudit, PeerLog};
pub use super::certificate::CertificateFacts;
pub use super::files::FileFault;
pub use super::queue::{HeldQueue, Onsets, OrphanFacts, Queue, QueueFacts};
pub use super::settings::{ConfigFacts, FailedReload, RotationFacts, SetBy, SetByWg};

/// Is the last second that RFC 3339 can write, 9999-12-31T23:59:59Z, in seconds since 1970.
const RFC3339_SECONDS_MAX: u64 = 253_402_300_799;

/// Holds what a whole site knows of itself.
#[derive(Debug, Clone)]
pub struct SiteFacts {
    /// Names this installation.
    pub site: String,
    /// Is the version of the program.
    pub version: &'static str,
    /// Says when the process started.
    pub started: SystemTime,
    /// Says when the configuration was loaded, and what came of the last reload.
    pub config: ConfigFacts,
    /// Says how the audit log is.
    pub audit: AuditFacts,
    /// Is this site's own public key, the newest, in base64.
    pub public_key: String,
    /// Says since when it has taken the place of one that no peer is let in by any more.
    pub key_replaced: Option<SystemTime>,
    /// Lists what of its files a restart would meet otherwise.
    pub files: Vec<FileFault>,
    /// Lists the certificates of the health endpoints.
    pub certificates: Vec<CertificateFacts>,
    /// Says whether the tunnel's interface is there with its addresses.
    pub interface: Part,
    /// Counts how often something of the interface was lost and restored.
    pub interface_restored: u64,
    /// Says in which places several packets pass in one system call, by place.
    pub offloads: BTreeMap<&'static str, bool>,
    /// Says whether links from peers can arrive; up where no service is offered.
    pub link_listener: Part,
    /// Says how far the clock is behind what it was in an earlier run: peers refuse this site's handshakes meanwhile.
    pub clock_behind: Option<Duration>,
    /// Counts the datagrams and packets that were dropped before a peer was known, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Says what `wg` has set of this site's end.
    pub set_by_wg: SetByWg,
    /// Says how far a change of this site's key is, where there is one.
    pub rotation: Option<RotationFacts>,
    /// Lists the peers, in the order of the configuration, then those that `wg` added.
    pub peers: Vec<PeerFacts>,
    /// Lists the forwards, in the order of the configuration.
    pub forwards: Vec<ForwardFacts>,
    /// Lists the services, in the order of the configuration.
    pub services: Vec<ServiceFacts>,
    /// Lists the queues that hold messages and have no forward any more, by name.
    pub orphans: Vec<OrphanFacts>,
    /// Lists the alarms that are raised.
    pub alarms: Vec<AlarmFacts>,
}

/// Says whether a part that this site itself must provide is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Part {
    /// It is there.
    Up,
    /// It is not.
    Down {
        /// Says since when.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
        /// Says why, in one line, such as `address in use`.
        cause: String,
    },
}

/// Holds what the tunnel knows of a peer.
#[derive(Debug, Clone, Serialize)]
pub struct PeerFacts {
    /// Names the peer.
    pub name: String,
    /// Is the peer's public key, in base64.
    pub public_key: String,
    /// Says whose word its settings are.
    pub set_by: SetBy,
    /// Tells that the configuration has it; `wg` may add others.
    #[serde(skip)]
    pub is_configured: bool,
    /// Is the endpoint as configured, such as `lab.example.org:51820`.
    pub endpoint_configured: Option<String>,
    /// Is where datagrams to the peer go now; on a link with the interface's name, as `wg(8)` writes it.
    pub endpoint: Option<String>,
    /// Says why the configured endpoint's name does not resolve, if it does not.
    pub endpoint_error: Option<String>,
    /// Says whether a usable session exists.
    pub session: Session,
    /// Says whether a session is due at all times: a keepalive is configured, or packets wait for one. (WireGuard lets an
    /// idle session expire.)
    pub session_wanted: bool,
    /// Is the time since the latest handshake completed; none: never.
    #[serde(rename = "latest_handshake_age_seconds", serialize_with = "seconds_maybe")]
    pub latest_handshake_age: Option<Duration>,
    /// Counts the bytes received from the peer, as `wg` does.
    pub rx_bytes: u64,
    /// Counts the bytes sent to the peer, as `wg` does.
    pub tx_bytes: u64,
    /// Counts the packets from the peer that were dropped, by reason.
    pub dropped_packets: BTreeMap<&'static str, u64>,
}

/// Says whether a usable WireGuard session exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Session {
    /// There is one.
    Up {
        /// Says since when there has been one without a gap.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
    },
    /// There is none.
    Down {
        /// Says since when; since it is a peer of this process where there never was one.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
    },
}

/// Holds what a forward knows of itself, its link and the receiver at the other end.
#[derive(Debug, Clone, Serialize)]
pub struct ForwardFacts {
    /// Names the forward.
    pub name: String,
    /// Names the peer.
    pub peer: String,
    /// Is where senders connect.
    pub listen: SocketAddr,
    /// Says what at the peer receives: `service NAME`, or an address inside the tunnel.
    pub target: String,
    /// Says how the forward delivers: `transparent` or `stored`.
    pub delivery: &'static str,
    /// Says whether senders can connect.
    pub listener: Part,
    /// Says whether the link to the peer is up.
    pub link: Link,
    /// Says what is known of the receiver, as the far site told or as connecting showed.
    pub receiver: Receiver,
    /// Says, where its senders and the receiver speak two releases of MLLP and nothing translates, so and since when.
    #[serde(skip)]
    pub mixed_releases: Option<(SystemTime, String)>,
    /// Counts the senders' connections now, held ones too.
    pub connections: u64,
    /// Counts the senders' connections that are held now.
    pub held: u64,
    /// Counts the messages that senders sent.
    pub messages_total: u64,
    /// Counts the bytes of these messages' payloads.
    pub message_bytes_total: u64,
    /// Counts the answers by their code (MSA-1: AA, AE, AR, CA, CE, CR); in stored delivery those that this site gave.
    pub acks: BTreeMap<&'static str, u64>,
    /// Counts what was odd in the framing or the answers, by kind.
    pub anomalies: BTreeMap<&'static str, u64>,
    /// Counts the messages that wait for an answer now.
    pub unanswered: u64,
    /// Is how long the oldest of them has waited.
    #[serde(rename = "oldest_unanswered_age_seconds", serialize_with = "seconds_maybe")]
    pub oldest_unanswered_age: Option<Duration>,
    /// Is the time since the last answer of any code.
    #[serde(rename = "last_ack_age_seconds", serialize_with = "seconds_maybe")]
    pub last_ack_age: Option<Duration>,
    /// Is the last answer that was not positive.
    pub last_negative_ack: Option<NegativeAck>,
    /// Counts the answers by how long they took; in the metrics only.
    #[serde(skip)]
    pub ack_latency: Histogram,
    /// Counts the answers that are slow for the alarm; in no JSON.
    #[serde(skip)]
    pub slow: SlowAnswers,
    /// Is the last message that was refused for what it is, whoever it was for.
    pub last_refusal: Option<LastRefusal>,
    /// Is what the receiver has left without an answer since its last one.
    pub left_unanswered: Option<Left>,
    /// Counts messages whose connection ended before their answer came: the receiver may have taken them or not.
    pub unknown_outcomes_total: u64,
    /// Counts the senders' connections that ended, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// Lists the certificates of its TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFacts>,
    /// Is how long it may be without a message before that is an alarm.
    #[serde(skip)]
    pub silent_after: Option<Duration>,
    /// Is what its queue knows, where it is stored.
    #[serde(flatten)]
    pub queue: Option<QueueFacts>,
}

/// Says whether the link that carries a forward is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Link {
    /// The forward goes to an address (`to:`) and needs none.
    NotUsed,
    /// It is being set up for the first time.
    New,
    /// It is up.
    Up {
        /// Says since when.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
        /// Is the latest round trip that was measured on it.
        #[serde(rename = "round_trip_seconds", serialize_with = "seconds_maybe")]
        round_trip: Option<Duration>,
    },
    /// It is down.
    Down {
        /// Says since when.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
        /// Says why, in one line, such as `service orders is not offered to this site`.
        cause: String,
    },
}

/// Says what is known of a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Receiver {
    /// Nothing: nobody connected lately, and no probe is configured.
    Unknown,
    /// It accepts connections.
    Ok {
        /// Says since when.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
    },
    /// It does not answer.
    Down {
        /// Says since when.
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
        /// Says what it does, after its address, such as `192.168.10.40:6661 refuses connections`.
        cause: String,
    },
}

/// Is an answer that was not positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NegativeAck {
    /// Is its code (MSA-1: AE, AR, CE, CR).
    pub code: &'static str,
    /// Is the time since it came.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
}

/// Is a message that ended its sender's connection for what it is: sent again as it is, it does so again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LastRefusal {
    /// Says what it is, as the stable code of the connection's end.
    pub reason: &'static str,
    /// Says so in words.
    #[serde(skip)]
    pub told: &'static str,
    /// Is the time since.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
}

/// Counts messages whose connection ended after they had waited for an answer for some seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Counts them.
    pub messages: u64,
    /// Is the time since the first of these ends.
    #[serde(skip)]
    pub first_age: Duration,
    /// Is the time since the last of them.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
}

/// Counts answers, and those of them that took longer than what the alarm of slow answers clears and starts at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlowAnswers {
    /// Counts them all.
    pub answers: u64,
    /// Counts those that took longer than it clears at.
    pub near: u64,
    /// Counts those that took longer than it starts at.
    pub beyond: u64,
}

/// Counts durations in fixed buckets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Lists the upper bounds, in seconds, ascending.
    pub bounds_seconds: &'static [f64],
    /// Counts the durations of each bucket alone; the last, one more than there are bounds, is for what is above.
    pub counts: Vec<u64>,
    /// Is the sum of all durations.
    pub sum: Duration,
}

/// Holds what a service knows of itself and its receiver.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceFacts {
    /// Names the service.
    pub name: String,
    /// Is where the receiver listens, as configured.
    pub target: String,
    /// Says whether the service's own port on the tunnel address is open; up where none is configured.
    pub listener: Part,
    /// Says what is known of the receiver.
    pub receiver: Receiver,
    /// Counts the connections to the receiver now.
    pub connections: u64,
    /// Counts the streams that wait for a connection to the receiver now.
    pub waiting: u64,
    /// Is how many connections the receiver may have.
    pub connections_max: u64,
    /// Says since when all of them are taken and somebody waited for one in vain.
    #[serde(skip)]
    pub full_since: Option<SystemTime>,
    /// Counts the connections to the receiver that ended or were not made, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// Counts the messages that were delivered to the receiver.
    pub messages_total: u64,
    /// Counts the receiver's answers by their code (MSA-1).
    pub acks: BTreeMap<&'static str, u64>,
    /// Is what the receiver has left without an answer since its last one.
    pub left_unanswered: Option<Left>,
    /// Counts deviations in what senders and the receiver sent to each other, by code.
    #[serde(rename = "anomalies_total")]
    pub anomalies: BTreeMap<&'static str, u64>,
    /// Counts what the receiver said to stored messages and is no answer to the one that was sent, by kind.
    #[serde(rename = "dropped_answers_total")]
    pub dropped_answers: BTreeMap<&'static str, u64>,
    /// Counts the attempts to deliver stored messages that were made although the receiver may have them already.
    pub in_doubt_total: u64,
    /// Says since when one of these three is seen.
    #[serde(skip)]
    pub trouble_since: Option<SystemTime>,
    /// Names a peer on whose message the receiver fails again and again, and says how.
    #[serde(skip)]
    pub trying: Option<(String, String)>,
    /// Lists the queues of peers' forwards that are held at this receiver.
    pub held: Vec<HeldQueue>,
    /// Says why what becomes of stored messages cannot be written down, so that none is sent.
    pub ledger_failed: Option<String>,
    /// Says that the disk where it is written down is full, so that its reserve is used.
    pub disk_full: bool,
    /// Lists the certificates of its TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFacts>,
}

/// Writes a time as RFC 3339 in UTC, in whole seconds; what lies outside 1970 to 9999 becomes the nearest end.
pub fn rfc3339_text(time: SystemTime) -> String {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let clamped = since_1970.min(Duration::from_secs(RFC3339_SECONDS_MAX));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + clamped).to_string()
}

/// Serializes a time by [`rfc3339_text`].
pub(super) fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339_text(*time))
}

/// Does the same where there is a time.
pub(super) fn rfc3339_maybe<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

pub(super) fn seconds_maybe<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_rfc3339_do_not_panic() {
        assert_eq!(rfc3339_text(UNIX_EPOCH + Duration::from_secs(86_399)), "1970-01-01T23:59:59Z");
        assert_eq!(rfc3339_text(UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00Z");
        let late = UNIX_EPOCH + Duration::from_secs(RFC3339_SECONDS_MAX + 1);
        assert_eq!(rfc3339_text(late), "9999-12-31T23:59:59Z");
    }
}
