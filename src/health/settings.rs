//! What a site runs by, as health tells of it: its configuration, what `wg` has set, how far a change of its key is. Pure.
//!
//! Never holds a key.

use std::time::SystemTime;

use serde::Serialize;

use super::facts::rfc3339;

/// Says when the configuration was loaded, and what came of the last reload.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigFacts {
    /// Says when the configuration that runs was loaded.
    #[serde(serialize_with = "rfc3339")]
    pub loaded: SystemTime,
    /// Is the last reload, where it failed.
    #[serde(rename = "failed_reload", skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedReload>,
}

/// Is a reload that changed nothing.
#[derive(Debug, Clone, Serialize)]
pub struct FailedReload {
    /// Says when it was tried.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// Says why it failed.
    pub cause: String,
}

/// Says what `wg` has set since the configuration was read, beside what each peer says of itself; a reload undoes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SetByWg {
    /// Lists the settings of this site's end, by their keys in the configuration.
    pub tunnel: Vec<&'static str>,
    /// Names the configured peers that were removed.
    pub removed_peers: Vec<String>,
}

/// Says how far a change of this site's key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RotationFacts {
    /// Tells that the older key counts no more; the configuration names it still.
    pub is_done: bool,
    /// Counts the peers that know the newer one.
    pub moved: usize,
    /// Names the peers that were told it, and are waited for.
    pub told: Vec<String>,
    /// Names the peers that no link is there to tell it by: they are down, or run plain WireGuard.
    pub not_told: Vec<String>,
}

/// Says whose word something is set by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SetBy {
    /// The configuration's.
    Config,
    /// That of `wg`, until the next reload.
    Wg,
}
