//! Routes that would lead the tunnel's own datagrams into the tunnel, and default routes.
//!
//! Only the literal cases: what a name resolves to is known at run time, where such datagrams are dropped and counted
//! (`routing_loop`). The rules of a default route are those of wg-quick(8): they save our own datagrams from the
//! default route, and from nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{At, Findings, peers, tunnel};
use crate::config::{Endpoint, Host, Table};

/// Is the kernel's main table (RT_TABLE_MAIN).
const MAIN_TABLE: u32 = 254;
/// Are the tables that the kernel looks into without a rule of the admin's: default, main, local (RT_TABLE_DEFAULT and
/// on).
const TABLES_OF_ALL: RangeInclusive<u32> = 253..=255;

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
    let loops = |prefix: &At<IpNet>| {
        prefix.value.contains(address)
            && !is_kept_apart(prefix.value, tunnel)
            && !is_below(prefix.value, *address, peers)
    };
    let found = prefixes.find(|(_, prefix)| loops(prefix));
    // A piece of a default route has a finding of its own.
    if let Some((owner, prefix)) = found.filter(|(_, prefix)| !is_piece(prefix.value, peers)) {
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
fn is_kept_apart(prefix: IpNet, tunnel: &tunnel::Draft) -> bool {
    match tunnel.tunnel.as_ref().map(|tunnel| (tunnel.table, tunnel.fwmark)) {
        Some((Table::Auto, _)) | None => prefix.prefix_len() == 0,
        // No route of ours; what an admin routes into the tunnel is known at run time.
        Some((Table::Off, _)) => true,
        // There the admin's own rules are for the mark; without one there can be none.
        Some((Table::Number(number), mark)) if TABLES_OF_ALL.contains(&number) => mark != 0,
        // Nothing goes there but by the admin's own rules, which may be for anything.
        Some((Table::Number(_), _)) => true,
    }
}

/// Tells whether a longer prefix decides about the address: that one is judged by itself.
fn is_below(prefix: IpNet, address: IpAddr, peers: &[peers::Draft]) -> bool {
    let longer = |other: &At<IpNet>| other.value.contains(&address) && other.value.prefix_len() > prefix.prefix_len();
    peers.iter().flat_map(|peer| &peer.prefixes).any(longer)
}

/// Lists what is a default route of an address' family in pieces, such as `0.0.0.0/1, 128.0.0.0/1`: none of it is one,
/// and together they lead every endpoint into the tunnel.
fn pieces(peers: &[peers::Draft], family: IpAddr) -> Vec<IpNet> {
    let pieces = peers.iter().flat_map(|peer| &peer.prefixes).map(|prefix| prefix.value);
    let pieces: Vec<IpNet> =
        pieces.filter(|net| net.prefix_len() > 0 && net.addr().is_ipv4() == family.is_ipv4()).collect();
    let is_whole = IpNet::aggregate(&pieces).iter().any(|net| net.prefix_len() == 0);
    if is_whole { pieces } else { Vec::new() }
}

fn is_piece(net: IpNet, peers: &[peers::Draft]) -> bool {
    let pieces = pieces(peers, net.addr());
    pieces.contains(&net) && !pieces.iter().any(|other| *other != net && other.contains(&net))
}

/// Notes a default route that is written in pieces, where it would lead the tunnel's own datagrams into the tunnel.
pub(super) fn default_routes_in_pieces(peers: &[peers::Draft], tunnel: &tunnel::Draft, findings: &mut Findings) {
    for family in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        let pieces = pieces(peers, family);
        let widest = pieces.iter().map(IpNet::prefix_len).min();
        let mut prefixes = peers.iter().flat_map(|peer| &peer.prefixes).filter(|prefix| pieces.contains(&prefix.value));
        let first = prefixes.find(|prefix| Some(prefix.value.prefix_len()) == widest);
        if let Some(At { value: net, at }) = first.filter(|prefix| !is_kept_apart(prefix.value, tunnel)) {
            let message = format!(
                "{net} and the other prefixes of allowed_ips are a default route in pieces, which also takes the \
                 tunnel's own datagrams: the tunnel would carry itself; write {family}/0 instead, with routed: true at \
                 the peer and table: auto, which keep them out of it"
            );
            findings.value(*at, message);
        }
    }
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
