//! The wg-quick file for a peer that runs plain WireGuard, made of this site's configuration.
//!
//! Pure. It holds no secret: the peer's private key is not known here, and a preshared key is named by the file that
//! the peer keeps it in (wg-quick(8), PostUp). What must be filled in does not pass for a value by accident: with it
//! left as it is `wg-quick up` refuses the file.

use std::fmt::{self, Write as _};

use ipnet::IpNet;

use crate::config::{Config, Endpoint, Peer, PublicKey};

/// Is the keepalive that is proposed, in seconds: below the patience of usual NATs.
const KEEPALIVE_SECONDS: u16 = 25;

/// Writes the file; `endpoint` is where this site is reached from outside, if known.
pub fn counterpart(config: &Config, peer: &Peer, endpoint: Option<&Endpoint>) -> String {
    let (site, name) = (&config.site, &peer.name);
    let mut text = format!("# WireGuard at {name}, towards {site}; made by `wardlink export {name}`.\n\n[Interface]\n");
    let key = peer.public_key;
    push(&mut text, format_args!("# FILL IN: the private key whose public key is {key}"));
    push(&mut text, format_args!("PrivateKey = PRIVATE-KEY-OF-{}", name.as_str().to_ascii_uppercase()));
    let addresses = own_addresses(peer);
    if addresses.is_empty() {
        push(&mut text, format_args!("# FILL IN: an address of {name} inside {}", list(&peer.allowed_ips)));
        text.push_str("# Address =\n");
    } else {
        push(&mut text, format_args!("Address = {}", list(&addresses)));
    }
    if let Some(endpoint) = &peer.endpoint {
        push(&mut text, format_args!("ListenPort = {}", endpoint.port));
    }
    push(&mut text, format_args!("MTU = {}", config.tunnel.mtu));
    let own_key: PublicKey = config.tunnel.private_key.public_key();
    if peer.preshared_key.is_some() {
        push(
            &mut text,
            format_args!("# FILL IN: put the preshared key that both sites share into this file, mode 0600"),
        );
        push(&mut text, format_args!("PostUp = wg set %i peer {own_key} preshared-key /etc/wireguard/{site}.psk"));
    }
    push(&mut text, format_args!("\n[Peer]\n# {site}\nPublicKey = {own_key}"));
    let own: Vec<IpNet> = config.tunnel.addresses.iter().map(|address| IpNet::from(address.addr())).collect();
    push(&mut text, format_args!("AllowedIPs = {}", list(&own)));
    if peer.routed {
        push(&mut text, format_args!("# routed: add the networks behind {site} that {name} shall reach"));
    }
    match endpoint {
        Some(endpoint) => push(&mut text, format_args!("Endpoint = {endpoint}")),
        None if peer.endpoint.is_some() => {
            push(&mut text, format_args!("# no Endpoint: {site} calls {name}"));
        }
        None => {
            push(&mut text, format_args!("# FILL IN: where {site} is reached, port {}", config.tunnel.listen_port));
            text.push_str("# Endpoint =\n");
        }
    }
    push(&mut text, format_args!("PersistentKeepalive = {KEEPALIVE_SECONDS}"));
    services(&mut text, config, peer);
    text
}

/// Says where the peer reaches what this site offers it.
fn services(text: &mut String, config: &Config, peer: &Peer) {
    let offered = config.services.iter().filter(|service| service.allow_peers.contains(&peer.name));
    for service in offered {
        match (service.port, config.tunnel.addresses.first()) {
            (Some(port), Some(address)) => {
                let at = std::net::SocketAddr::new(address.addr(), port);
                push(text, format_args!("# service {} is at {at}", service.name));
            }
            _ => push(text, format_args!("# service {} has no port: and so is not for plain WireGuard", service.name)),
        }
    }
}

/// Lists the peer's own addresses: what is configured as such, and every single host.
fn own_addresses(peer: &Peer) -> Vec<IpNet> {
    let hosts = peer.allowed_ips.iter().filter(|net| net.prefix_len() == net.max_prefix_len()).copied();
    let mut addresses: Vec<IpNet> = peer.address.map(IpNet::from).into_iter().chain(hosts).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn push(text: &mut String, line: fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    writeln!(text, "{line}").ok();
}
