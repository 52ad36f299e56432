//! What a file may say of the audit log. Pure.
//!
//! Nothing is judged here.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Text, schema};

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
}
