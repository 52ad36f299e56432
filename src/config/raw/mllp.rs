//! What a configuration file may say of how senders and receivers speak MLLP.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Text, schema};

/// How a commit of MLLP Release 2 is awaited, and what follows where it is negative or does not come.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Commit {
    /// How long it may take, 100ms to 10m; at a forward also off: answers are not awaited to be committed. Default: 5s.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrOff")]
    pub timeout: Option<Text>,
    /// How often the same is sent again, 0 to 100. Default: 2.
    #[serde(default)]
    #[schemars(with = "u8", range(max = 100))]
    pub retries: Option<Text>,
    /// The pause before that, 0s to 10m. Default: 1s.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub pause: Option<Text>,
}

/// The bytes around each message: control characters, no two alike.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Framing {
    /// The byte before it, such as 0x0B.
    #[schemars(with = "schema::Byte")]
    pub start: Option<Text>,
    /// The one or two bytes behind it, such as [0x1C, 0x0D].
    #[schemars(with = "Vec<schema::Byte>", length(min = 1, max = 2))]
    pub end: Option<Spanned<Vec<Text>>>,
}

/// What the receiver of a stored forward to an address speaks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ForwardReceiver {
    /// release1, or release2, where each message is committed. Default: release1.
    #[serde(default)]
    #[schemars(with = "schema::Mllp")]
    pub mllp: Option<Text>,
    /// Release2: how its commit of a message is awaited.
    #[serde(default)]
    #[schemars(with = "Commit")]
    pub commit: Option<Spanned<Commit>>,
    /// The bytes around its messages. Default: those of MLLP, 0x0B before, 0x1C 0x0D behind.
    #[serde(default)]
    #[schemars(with = "Framing")]
    pub framing: Option<Spanned<Framing>>,
}
