//! What a file may say of the audit log. Pure.
//!
//! Nothing is judged here.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{ServiceTls, Text, schema};

/// How much of the audit log is kept.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Audit {
    /// How long entries are kept, 1day to 3650days. Default: 400days.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub keep: Option<Text>,
    /// At most so much is kept, whatever its age, from 64MiB to 16TiB; the oldest goes first. Default: 32GiB.
    #[serde(default)]
    #[schemars(with = "schema::Size")]
    pub max_size: Option<Text>,
    /// Where entries are sent as IHE ATNA has them. Default: nowhere.
    #[serde(default)]
    #[schemars(with = "Atna")]
    pub atna: Option<Spanned<Atna>>,
}

/// An audit record repository of IHE ATNA: a server of syslog (RFC 5424) over TCP, or over TLS (RFC 5425).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Atna {
    /// Where it is reached, HOST:PORT; over TLS the port is commonly 6514.
    #[schemars(with = "String")]
    pub server: Option<Text>,
    /// TLS towards it. Default: plain TCP, which anybody on the way reads and changes.
    #[serde(default)]
    #[schemars(with = "ServiceTls")]
    pub tls: Option<Spanned<ServiceTls>>,
}
