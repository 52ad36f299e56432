//! This site's end of the tunnel: its keys, addresses and the interface's settings.

use std::path::PathBuf;

use ipnet::IpNet;
use serde_saphyr::{Location, Spanned};

use super::{At, Findings, ReadKey, SecretKind};
use crate::config::raw::{self, Text};
use crate::config::value::{self, Judged};
use crate::config::{Backend, OldKey, PublicKey, Table, Tunnel, UdpOffload};

/// Names the TUN interface unless the file says otherwise.
const INTERFACE: &str = "wl0";
/// Is the UDP port unless the file says otherwise: WireGuard's usual one.
const LISTEN_PORT: u16 = 51820;
/// Is the TCP port for links unless the file says otherwise: beside MLLP's 2575.
const LINK_PORT: u16 = 2570;
/// Is the MTU unless the file says otherwise, in bytes: 1500 less the overhead of WireGuard over IPv6.
const MTU: u16 = 1420;
/// Is where wg(8) looks for the sockets of interfaces.
const UAPI_DIRECTORY: &str = "/var/run/wireguard";
/// Is the least MTU in bytes where the tunnel carries IPv6 (RFC 8200, 5).
const MTU_MIN_V6: u32 = 1280;
/// Is the least MTU in bytes where it carries IPv4 only (RFC 791: what every host takes).
const MTU_MIN_V4: u32 = 576;

/// Is this site's end of the tunnel, as far as it is right.
pub(super) struct Draft {
    pub(super) tunnel: Option<Tunnel>,
    pub(super) addresses: Vec<At<IpNet>>,
    pub(super) public_key: Option<PublicKey>,
    pub(super) link_port: Option<At<u16>>,
}

impl Draft {
    /// Whether an address of the same family is among the interface's; unknown ones are taken to fit.
    pub(super) fn has_family_of(&self, address: std::net::IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|own| own.value.addr().is_ipv4() == address.is_ipv4())
    }

    /// Finds this site's own address.
    pub(super) fn own(&self, address: std::net::IpAddr) -> Option<&At<IpNet>> {
        self.addresses.iter().find(|own| own.value.addr() == address)
    }
}

/// Checks the tunnel.
pub(super) fn check(
    site: Location,
    raw: Option<&Spanned<raw::Tunnel>>,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Draft {
    let Some(raw) = raw else {
        findings.missing(site, "tunnel", "tunnel: with private_key_file and address");
        return Draft { tunnel: None, addresses: Vec::new(), public_key: None, link_port: None };
    };
    let (at, raw) = (raw.referenced, &raw.value);
    let addresses = addresses(at, raw.address.as_ref(), findings);
    if raw.private_key_file.is_none() {
        findings.missing(at, "private_key_file", "the path of a file that wardlink key gen has written");
    }
    let file = raw.private_key_file.as_ref();
    let private_key = file.and_then(|file| findings.key(file, SecretKind::Private, read_key));
    let public_key = private_key.as_ref().map(|key| key.public_key());
    let old_private_key = raw.old_private_key_file.as_ref().map(|file| {
        let key = findings.key(file, SecretKind::Private, read_key);
        if key.as_ref().is_some_and(|old| Some(old.public_key()) == public_key) {
            findings.value(
                file.referenced,
                "holds the key of private_key_file; write the file of the one before, or nothing",
            );
        }
        key
    });
    let link_port = match &raw.link_port {
        Some(text) => findings.read(text, value::port),
        None => Some(At { value: LINK_PORT, at: Location::UNKNOWN }),
    };
    let has_v6 = addresses.iter().any(|address| address.value.addr().is_ipv6());
    // Each is read whether or not the others are right.
    let interface = findings.optional(raw.interface.as_ref(), INTERFACE.to_owned(), value::own_interface);
    let backend = findings.optional(raw.backend.as_ref(), Backend::Auto, backend);
    let udp_offload = findings.optional(raw.udp_offload.as_ref(), UdpOffload::Auto, udp_offload);
    let listen_port = findings.optional(raw.listen_port.as_ref(), LISTEN_PORT, |text| number_u16(text, 0));
    let endpoint = raw.endpoint.as_ref().map(|text| findings.read(text, value::endpoint));
    let mtu_min = if has_v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
    let mtu = findings.optional(raw.mtu.as_ref(), MTU, |text| number_u16(text, mtu_min));
    let fwmark = findings.optional(raw.fwmark.as_ref(), 0, mark);
    let table = findings.optional(raw.table.as_ref(), Table::Auto, table);
    let complete = || {
        let interface = interface?;
        Some(Tunnel {
            uapi_socket: Some(PathBuf::from(format!("{UAPI_DIRECTORY}/{interface}.sock"))),
            interface,
            backend: backend?,
            udp_offload: udp_offload?,
            private_key: private_key?,
            old_private_key: match old_private_key {
                Some(key) => OldKey::Counts(key?),
                None => OldKey::None,
            },
            listen_port: listen_port?,
            endpoint: match endpoint.clone() {
                Some(endpoint) => Some(endpoint?.value),
                None => None,
            },
            addresses: addresses.iter().map(|address| address.value).collect(),
            mtu: mtu?,
            fwmark: fwmark?,
            table: table?,
            link_port: link_port?.value,
        })
    };
    Draft { tunnel: complete(), public_key, link_port, addresses }
}

fn addresses(mapping: Location, raw: Option<&Spanned<Vec<Text>>>, findings: &mut Findings) -> Vec<At<IpNet>> {
    let instead = "[ADDRESS], this site's own inside the tunnel, such as [10.98.0.1/32]";
    let Some(raw) = raw else {
        findings.missing(mapping, "address", instead);
        return Vec::new();
    };
    if raw.value.is_empty() {
        findings.value(raw.referenced, format!("is empty; write {instead}"));
    }
    let addresses = findings.list(&raw.value, value::interface_address);
    findings.duplicates(&addresses, |first| format!("{} is written twice{}; keep one", first.value, first.line()));
    addresses
}

fn backend(text: &str) -> Judged<Backend> {
    value::choice(text, &[("auto", Backend::Auto), ("offload", Backend::Offload), ("plain", Backend::Plain)])
}

fn udp_offload(text: &str) -> Judged<UdpOffload> {
    value::choice(text, &[("auto", UdpOffload::Auto), ("off", UdpOffload::Off)])
}

fn mark(text: &str) -> Judged<u32> {
    if text == "off" { Ok(0) } else { value::number(text, 0..=u32::MAX) }
}

fn table(text: &str) -> Judged<Table> {
    match text {
        "auto" => Ok(Table::Auto),
        "off" => Ok(Table::Off),
        _ => value::number(text, 1..=u32::MAX).map(Table::Number).map_err(|_| {
            let table = value::quote(text);
            format!("{table} is not a table; write auto, off, or a number from 1 to {}", u32::MAX)
        }),
    }
}

fn number_u16(text: &str, from: u32) -> Judged<u16> {
    value::number(text, from..=u32::from(u16::MAX)).map(|number| u16::try_from(number).unwrap_or(u16::MAX))
}
