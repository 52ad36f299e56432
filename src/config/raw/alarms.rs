//! What a configuration file may say of alarms.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Text, schema};

/// What is an alarm, and who is told beside the log. Each limit may be off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Alarms {
    /// How long something must be so before its alarm starts, or clears, 0s to 1h. Default: 1m.
    #[serde(default, rename = "for")]
    #[schemars(with = "schema::Duration")]
    pub hold: Option<Text>,
    /// How long a forward or service may be down, 0s to 7days, or off. Default: 2m.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrOff")]
    pub down: Option<Text>,
    /// How full a queue may be, in percent of its limits, or off. Default: 50%.
    #[serde(default)]
    #[schemars(with = "schema::PercentOrOff")]
    pub queue_depth: Option<Text>,
    /// How long the oldest message of a queue may wait, 1s to 7days, or off. Default: 15m.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrOff")]
    pub queue_age: Option<Text>,
    /// Which share of the answers in 10 minutes may be negative, or off; of less than 20 nothing is said. Default: 10%.
    #[serde(default)]
    #[schemars(with = "schema::PercentOrOff")]
    pub nak_rate: Option<Text>,
    /// Within what time 99 of 100 answers in 5 minutes come, 1ms to 1h, or off. Default: 15s.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrOff")]
    pub ack_latency: Option<Text>,
    /// How long a peer may have no session although one is needed, 0s to 7days, or off. Default: 5m.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrOff")]
    pub no_session: Option<Text>,
    /// How long before its end a certificate is an alarm, 1day to 365days, or off. Default: 30days.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrOff")]
    pub certificate: Option<Text>,
    /// The time to a full disk of a spool that is an alarm, 1m to 30days, or off. Default: 12h.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrOff")]
    pub disk: Option<Text>,
    /// Whether a forward without silent_after learns from its own rhythm how long it may be silent. Default: false.
    #[serde(default)]
    #[schemars(with = "bool")]
    pub learn_silence: Option<Text>,
    /// Where each alarm is posted as JSON: https://HOST[:PORT]/PATH, or http:// on loopback. Default: nowhere.
    #[serde(default)]
    #[schemars(with = "schema::Url")]
    pub webhook: Option<Text>,
    /// The file with the certificates of who issued the webhook's, in PEM. Default: those that this system trusts.
    #[serde(default)]
    #[schemars(with = "String")]
    pub webhook_ca_file: Option<Text>,
    /// What is run for each alarm, without a shell: an absolute path, then arguments. Default: nothing.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub command: Option<Spanned<Vec<Text>>>,
}
