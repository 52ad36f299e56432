//! What a configuration file may say of this host: where messages are kept, health, the control socket.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{ForwardTls, Text, schema};

/// Where stored forwards keep their messages, and the key that seals them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Spool {
    /// The file with the key that seals what is kept; made with the first spool, or a systemd credential by its name.
    /// It must not be where the messages are.
    #[schemars(with = "String")]
    pub key_file: Option<Text>,
    /// Where the messages are kept. Default: spool in state_dir.
    #[serde(default)]
    #[schemars(with = "schema::AbsolutePath")]
    pub dir: Option<Text>,
}

/// Health endpoints and metrics over HTTP.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// Where they listen, or none; beyond loopback tls is needed, and token_file or client_ca_file in tls. Default:
    /// 127.0.0.1:9575.
    #[serde(default)]
    #[schemars(with = "String")]
    pub listen: Option<Text>,
    /// The certificate of the endpoints and the page; with client_ca_file who asks must show one.
    #[serde(default)]
    #[schemars(with = "ForwardTls")]
    pub tls: Option<Spanned<ForwardTls>>,
    /// The file with the token that who asks must show, as wardlink key psk makes one; mode 0600. Read again at each reload.
    #[serde(default)]
    #[schemars(with = "String")]
    pub token_file: Option<Text>,
    /// Where HAProxy's agent-check asks, on loopback, such as 127.0.0.1:9576. Default: none.
    #[serde(default)]
    #[schemars(with = "String")]
    pub agent_listen: Option<Text>,
}

/// The local socket that the commands talk to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Control {
    /// The path of the socket. Default: /run/wardlink/SITE.sock.
    #[serde(default)]
    #[schemars(with = "schema::AbsolutePath")]
    pub socket: Option<Text>,
}
