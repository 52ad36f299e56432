//! What a configuration file may say of TLS on local legs.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Text;

/// TLS for senders that speak MLLP over it. The files are read again at each reload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ForwardTls {
    /// The certificate that senders are shown, in PEM: the site's own first, then its issuers'. A relative path is looked
    /// up as for private_key_file.
    #[schemars(with = "String")]
    pub certificate_file: Option<Text>,
    /// The private key of that certificate, in PEM and not encrypted; mode 0600.
    #[schemars(with = "String")]
    pub key_file: Option<Text>,
    /// The certificates of issuers, in PEM: a sender must show a certificate that one of them issued. Default: senders
    /// need none.
    #[serde(default)]
    #[schemars(with = "String")]
    pub client_ca_file: Option<Text>,
}

/// TLS towards the receiver. The files are read again at each reload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ServiceTls {
    /// The certificates of issuers, in PEM: one of them must have issued the receiver's. Those of the system count for
    /// nothing. A relative path is looked up as for private_key_file.
    #[schemars(with = "String")]
    pub ca_file: Option<Text>,
    /// The name, or the address, that the receiver's certificate must be for. Default: the host of target.
    #[serde(default)]
    #[schemars(with = "String")]
    pub server_name: Option<Text>,
    /// The certificate that a receiver is shown that asks for one, in PEM. Default: none.
    #[serde(default)]
    #[schemars(with = "String")]
    pub certificate_file: Option<Text>,
    /// The private key of that certificate, in PEM and not encrypted; mode 0600.
    #[serde(default)]
    #[schemars(with = "String")]
    pub key_file: Option<Text>,
}
