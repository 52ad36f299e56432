//! The keys of this site's end of the tunnel.

// The doc comments of this file are the descriptions in the JSON Schema: they speak to the author of a configuration.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Text, schema};

/// This site's end of the WireGuard tunnel.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Tunnel {
    /// The name of the TUN interface, at most 15 characters. Default: wl0.
    #[serde(default)]
    #[schemars(with = "schema::Interface")]
    pub interface: Option<Text>,
    /// How packets reach the kernel: offload hands over many at once (TSO, USO), plain one a system call; auto takes
    /// offload where it works. Default: auto.
    #[serde(default)]
    #[schemars(with = "schema::Backend")]
    pub backend: Option<Text>,
    /// Whether several datagrams may go and come in one system call (UDP GSO and GRO): auto, where the kernel does
    /// that rightly, or off. Default: auto.
    #[serde(default)]
    #[schemars(with = "schema::AutoOrOff")]
    pub udp_offload: Option<Text>,
    /// The file with this site's private key in base64, as `wardlink key gen` or `wg genkey` writes it; mode 0600. A
    /// relative path is looked up in $CREDENTIALS_DIRECTORY where that is set, else beside this file.
    #[schemars(with = "String")]
    pub private_key_file: Option<Text>,
    /// The file with this site's private key of before, while peers know this site by that: `wardlink rotate` writes it here,
    /// and removes it when all peers know the newer key. Default: none.
    #[serde(default)]
    #[schemars(with = "String")]
    pub old_private_key_file: Option<Text>,
    /// The UDP port where peers reach this site; 0 lets the kernel choose. Default: 51820.
    #[serde(default)]
    #[schemars(with = "u16")]
    pub listen_port: Option<Text>,
    /// Where peers reach this site: HOST:PORT, for its card (`wardlink card`). Absent: this site calls its peers.
    #[serde(default)]
    #[schemars(with = "String")]
    pub endpoint: Option<Text>,
    /// The addresses of this site inside the tunnel, IPv4 or IPv6, such as 10.98.0.1/32.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub address: Option<Spanned<Vec<Text>>>,
    /// The largest packet inside the tunnel in bytes, 1280 to 65535 (from 576 without IPv6). Default: 1420.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 576))]
    pub mtu: Option<Text>,
    /// A mark on the datagrams outside the tunnel, for policy routing; 0 or off sets none. Default: 0.
    #[serde(default)]
    #[schemars(with = "schema::Mark")]
    pub fwmark: Option<Text>,
    /// The routing table for the routes to allowed_ips: auto (the main table; a default route as wg-quick does it),
    /// off (routes are yours), or a number. Default: auto.
    #[serde(default)]
    #[schemars(with = "schema::Table")]
    pub table: Option<Text>,
    /// The TCP port inside the tunnel where peers' links arrive. Default: 2570.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub link_port: Option<Text>,
}
