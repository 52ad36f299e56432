//! The TCP ports that this site listens on: no two at one place.
//!
//! What listens inside the tunnel is bound to its interface, which does not help: Linux refuses the second of two
//! listeners on one port where one is bound to no interface and the addresses overlap (inet_csk_bind_conflict).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::value::quote;
use super::{At, Findings, Line, forwards, services, tunnel};
use serde_saphyr::Location;

/// Is something that listens on a port of one or more addresses.
struct Listener {
    label: String,
    addresses: Vec<IpAddr>,
    port: u16,
    at: Location,
}

/// Notes every listener that another one leaves no room for.
pub(super) fn check(
    tunnel: &tunnel::Draft,
    forwards: &[forwards::Draft],
    services: &[services::Draft],
    health: [(&str, Option<At<SocketAddr>>); 2],
    findings: &mut Findings,
) {
    let inside: Vec<IpAddr> = tunnel.addresses.iter().map(|address| address.value.addr()).collect();
    let at_port =
        |label: String, port: At<u16>| Listener { label, addresses: inside.clone(), port: port.value, at: port.at };
    let at_socket = |label: String, socket: At<SocketAddr>| Listener {
        label,
        addresses: vec![socket.value.ip().to_canonical()],
        port: socket.value.port(),
        at: socket.at,
    };
    let named = |kind: &str, name: &Option<At<super::Name>>| match name {
        Some(name) => format!("{kind} {}", quote(name.value.as_str())),
        None => format!("a {kind}"),
    };
    let link = tunnel.link_port.map(|port| at_port("tunnel.link_port".to_owned(), port));
    let health = health.into_iter().filter_map(|(label, at)| Some(at_socket(label.to_owned(), at?)));
    let forwards = forwards.iter().filter_map(|f| Some(at_socket(named("forward", &f.name), f.listen?)));
    let services = services.iter().filter_map(|s| Some(at_port(named("service", &s.name), s.port?)));
    let mut listeners: Vec<Listener> = link.into_iter().chain(health).chain(forwards).chain(services).collect();
    // Defaults first: the finding goes to what the file says.
    listeners.sort_by_key(|listener| (listener.at.line(), listener.at.column()));
    let mut by_port: HashMap<u16, Vec<&Listener>> = HashMap::new();
    for listener in &listeners {
        let earlier = by_port.entry(listener.port).or_default();
        if let Some(first) = earlier.iter().find(|first| overlap(first, listener)) {
            let (label, line, port) = (&first.label, Line(first.at), listener.port);
            findings.value(listener.at, format!("port {port} is taken by {label}{line}; write another port"));
        }
        earlier.push(listener);
    }
}

fn overlap(one: &Listener, other: &Listener) -> bool {
    one.addresses.iter().any(|a| other.addresses.iter().any(|b| addresses_overlap(*a, *b)))
}

/// Whether a listener on one address leaves no room on another: `::` covers IPv4 too, `0.0.0.0` only that.
fn addresses_overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4());
    a == b || covers(a, b) || covers(b, a)
}
