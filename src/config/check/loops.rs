//! Routes that would lead the tunnel's own datagrams into the tunnel, and default routes.
//!
//! Only the literal cases: what a name resolves to is known at run time, where such datagrams are dropped and counted
//! (`routing_loop`). The rules of a default route are those of wg-quick(8): they save our own datagrams from the
//! default route, and from nothing else.

use std::net::IpAddr;

use super::{At, Findings, peers, tunnel};
use crate::config::{Endpoint, Host, Table};

/// Is the kernel's main table (RT_TABLE_MAIN).
const MAIN_TABLE: u32 = 254;

/// Notes an endpoint that would be reached through the tunnel that it carries.
pub(super) fn endpoint(peer: &peers::Draft, peers: &[peers::Draft], tunnel: &tunnel::Draft, findings: &mut Findings) {
    let Some(At { value: Endpoint { host: Host::Address(address), .. }, at }) = peer.endpoint.as_ref() else {
        return;
    };
    let instead = "write the address that the peer has outside the tunnel";
    if let Some(own) = tunnel.addresses.iter().find(|own| own.value.contains(address)) {
        let (net, line) = (own.value, own.line());
        findings.value(
            *at,
            format!("{address} is inside tunnel.address {net}{line}: the tunnel would carry itself; {instead}"),
        );
        return;
    }
    let mut prefixes = peers.iter().flat_map(|other| other.prefixes.iter().map(move |prefix| (other, prefix)));
    let loops = |prefix: &At<ipnet::IpNet>| {
        prefix.value.contains(address)
            && !is_kept_apart(prefix.value, tunnel)
            && !is_below(prefix.value, *address, peers)
    };
    if let Some((owner, prefix)) = prefixes.find(|(_, prefix)| loops(prefix)) {
        let (net, line) = (prefix.value, prefix.line());
        let by_mark = tunnel.tunnel.as_ref().is_some_and(|tunnel| tunnel.table != Table::Auto);
        let or = if by_mark { ", or fwmark: and a rule that keeps what has it out of the table" } else { "" };
        let whose = if std::ptr::eq(owner, peer) { String::new() } else { format!(" of peer {}", owner.label()) };
        findings.value(
            *at,
            format!("{address} is inside allowed_ips {net}{line}{whose}: the tunnel would carry itself; {instead}{or}"),
        );
    }
}

/// Tells whether a route to this prefix is none that our own datagrams would take.
fn is_kept_apart(prefix: ipnet::IpNet, tunnel: &tunnel::Draft) -> bool {
    match tunnel.tunnel.as_ref().map(|tunnel| (tunnel.table, tunnel.fwmark)) {
        Some((Table::Auto, _)) | None => prefix.prefix_len() == 0,
        // No route of ours; what an admin routes into the tunnel is known at run time.
        Some((Table::Off, _)) => true,
        // The admin's own rules are for the mark; without one there can be none.
        Some((Table::Number(_), mark)) => mark != 0,
    }
}

/// Tells whether a longer prefix decides about the address: that one is judged by itself.
fn is_below(prefix: ipnet::IpNet, address: IpAddr, peers: &[peers::Draft]) -> bool {
    let longer =
        |other: &At<ipnet::IpNet>| other.value.contains(&address) && other.value.prefix_len() > prefix.prefix_len();
    peers.iter().flat_map(|peer| &peer.prefixes).any(longer)
}

/// Notes default routes at peers that may not have them, and in a table that is everybody's.
pub(super) fn default_routes(peers: &[peers::Draft], tunnel: &tunnel::Draft, findings: &mut Findings) {
    let table = tunnel.tunnel.as_ref().map(|tunnel| tunnel.table);
    for peer in peers {
        for prefix in peer.prefixes.iter().filter(|prefix| prefix.value.prefix_len() == 0) {
            let net = prefix.value;
            if !peer.routed {
                let message = format!(
                    "{net} is a default route, which makes the peer this host's way to everywhere; write routed: true \
                     at the peer if that is meant, else the prefixes that are the peer's"
                );
                findings.value(prefix.at, message);
            } else if table == Some(Table::Number(MAIN_TABLE)) {
                let message = format!(
                    "{net} is a default route, and tunnel.table is the main table: the tunnel would carry itself; \
                     write table: auto"
                );
                findings.value(prefix.at, message);
            }
        }
    }
}
