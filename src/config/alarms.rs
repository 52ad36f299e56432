//! Which alarms a site raises, and who is told. Pure.
//!
//! Only says what was configured; nothing here looks, raises or tells.

use std::sync::Arc;
use std::time::Duration;

use super::Endpoint;
use crate::tls;

/// Says which alarms a site raises, and who is told beside the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alarms {
    /// Says what is an alarm.
    pub limits: AlarmLimits,
    /// Is posted each alarm.
    pub webhook: Option<Webhook>,
    /// Is run for each alarm: the program's absolute path, then its arguments.
    pub command: Option<Vec<String>>,
}

/// Says what is an alarm; what is none is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlarmLimits {
    /// Says how long something must be so before it counts, to start as to clear (`for`).
    pub hold: Duration,
    /// Is how long a forward or service may be down.
    pub down: Option<Duration>,
    /// Is how full a queue may be, in percent of the limit that is nearer.
    pub queue_depth_percent: Option<u32>,
    /// Is how long the oldest message of a queue may wait.
    pub queue_age: Option<Duration>,
    /// Is the share of negative answers in ten minutes, in percent.
    pub nak_percent: Option<u32>,
    /// Is within what time 99 of 100 answers in five minutes must come.
    pub ack_latency: Option<Duration>,
    /// Is how long a peer may have no session.
    pub no_session: Option<Duration>,
    /// Is how long before its end a certificate is an alarm.
    pub certificate: Option<Duration>,
    /// Is the time to a full disk that is an alarm.
    pub disk: Option<Duration>,
    /// Says that a feed is silent for too long by what was learned of it, where the forward does not say.
    pub learn_silence: bool,
}

impl Default for AlarmLimits {
    /// Each with its reason in README.md, "Alarms".
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self {
            hold: minutes(1),
            down: Some(minutes(2)),
            queue_depth_percent: Some(50),
            queue_age: Some(minutes(15)),
            nak_percent: Some(10),
            ack_latency: Some(Duration::from_secs(15)),
            no_session: Some(minutes(5)),
            certificate: Some(minutes(30 * 24 * 60)),
            disk: Some(minutes(12 * 60)),
            learn_silence: false,
        }
    }
}

/// Is where alarms are posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Is the server.
    pub server: Endpoint,
    /// Is what the Host header says.
    pub authority: String,
    /// Is the path, with the query. It may hold a secret, and is never shown.
    pub path: Path,
    /// Is what the server is met with; absent: plain HTTP, on loopback.
    pub tls: Option<Arc<tls::Receiver>>,
}

/// Is the path of a webhook; services put a secret there.
#[derive(Clone, PartialEq, Eq)]
pub struct Path(pub(super) String);

impl Path {
    /// Returns the path, to be sent.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Path(hidden)")
    }
}
