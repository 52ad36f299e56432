//! IPv6 outside the tunnel, inside it, and both.
//!
//! With IPv6 outside, the router keeps the first initiation until the other site's uplink answers it, so that both sites
//! initiate within the same millisecond: two wireguard-go that start like this fight for 5 s and more.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::harness::mllp::{Behaviour, Receiver, Sender, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::wg::{set, show_of};
use crate::harness::{tests, until};

tests![
    ipv6_outside_ipv4_inside needs "ipv6",
    ipv4_outside_ipv6_inside needs "ipv6",
    ipv6_outside_and_inside needs "ipv6",
    both_families_inside needs "ipv6",
    a_sender_and_a_receiver_that_speak_ipv6 needs "ipv6",
    an_endpoint_on_a_link_is_that_of_its_interface needs "ipv6",
    addresses_that_a_small_mtu_took_away_are_restored needs "ipv6",
    wg_sets_an_endpoint_on_a_link needs "ipv6" "wg",
];

/// Bounds the time until a first message is through.
const LINK_LIMIT: Duration = Duration::from_secs(15);

/// Lays a cable between the two sites beside the wire, which has link-local addresses of its own.
fn cable(pair: &Pair) {
    pair.north
        .namespace
        .ip(&format!("link add cable type veth peer name cable netns {}", pair.south.namespace.thread_id()));
    for (site, address) in [(&pair.north, "fe80::1"), (&pair.south, "fe80::2")] {
        site.namespace.ip(&format!("addr add {address}/64 dev cable nodad"));
        site.namespace.ip("link set cable up");
    }
}

/// Starts north with these lines for its peer, and south with a peer that comes.
fn start_on_a_link(pair: &mut Pair, lines: &[&str]) {
    let hold = &["hold_for: 30s"];
    let north = Plan::of(&pair.north).peer_with(&pair.south, &format!("{}/32", pair.south.inner), lines);
    let south = Plan::of(&pair.south).peer_that_comes(&pair.north).service("orders", TARGET, "north", &[]);
    pair.south.start(&south);
    pair.north.start(&north.forward("orders", FORWARD, "south", "service: orders", hold));
}

fn an_endpoint_on_a_link_is_that_of_its_interface() {
    let mut pair = Pair::unstarted();
    start_on_a_link(&mut pair, &[&format!("endpoint: \"[fe80::2%cable]:{UDP_PORT}\"")]);
    until(LINK_LIMIT, "the interface is missed", || {
        pair.north.health_of("peers", "south").to_string().contains("fe80::2%cable does not resolve").then_some(())
    });
    cable(&pair);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("1", 500));
    sender.exchange(&message("2", 500_000));
    let endpoint = pair.north.health_of("peers", "south")["endpoint"].to_string();
    assert_eq!(endpoint, format!("\"[fe80::2%cable]:{UDP_PORT}\""), "as wg and the file write it");
}

fn wg_sets_an_endpoint_on_a_link() {
    let mut pair = Pair::unstarted();
    cable(&pair);
    start_on_a_link(&mut pair, &[]);
    let (north, peer) = (&pair.north, pair.south.public_key.clone());
    let point = |endpoint: &str| {
        set(north, &format!("peer {peer} endpoint {endpoint}"));
        (show_of(north, &peer, "endpoints") == endpoint).then_some(())
    };
    let right = format!("[fe80::2%cable]:{UDP_PORT}");
    until(LINK_LIMIT, "it is taken up", || point(&right));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    // at once, where a session says that the one of before is right; what the peer sends moves it back
    until(LINK_LIMIT, "another one is taken up", || point("[fe80::99%cable]:9"));
    pair.sender().exchange(&message("2", 500));
    assert_eq!(show_of(north, &peer, "endpoints"), right);
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

fn plan(site: &Site, peer: &Site, outside: Family, inside: Family) -> Plan {
    let outer: IpAddr = match outside {
        Family::V4 => peer.outer.into(),
        Family::V6 => peer.outer_v6.into(),
    };
    let endpoint = format!("endpoint: \"{}\"", SocketAddr::new(outer, UDP_PORT));
    let (own, allowed) = match inside {
        Family::V4 => (format!("{}/32", site.inner), format!("{}/32", peer.inner)),
        Family::V6 => (format!("\"{}/128\"", site.inner_v6), format!("\"{}/128\"", peer.inner_v6)),
    };
    Plan::of(site).addresses(&own).peer_with(peer, &allowed, &[&endpoint])
}

fn carries(outside: Family, inside: Family) {
    let mut pair = Pair::unstarted();
    let north = plan(&pair.north, &pair.south, outside, inside);
    let south = plan(&pair.south, &pair.north, outside, inside);
    pair.south.start(&south.service("orders", TARGET, "north", &[]));
    pair.north.start(&north.forward("orders", FORWARD, "south", "service: orders", &["hold_for: 10s"]));
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("1", 500));
    sender.exchange(&message("2", 500_000));
    assert_eq!(receiver.payloads().len(), 2);
}

fn ipv6_outside_ipv4_inside() {
    carries(Family::V6, Family::V4);
}

fn ipv4_outside_ipv6_inside() {
    carries(Family::V4, Family::V6);
}

fn ipv6_outside_and_inside() {
    carries(Family::V6, Family::V6);
}

fn addresses_that_a_small_mtu_took_away_are_restored() {
    let mut pair = Pair::unstarted();
    let north = plan(&pair.north, &pair.south, Family::V4, Family::V6);
    pair.north.start(&north);
    let address = pair.north.inner_v6.to_string();
    let has_address = || pair.north.namespace.ip("addr show dev wl0").contains(&address);
    assert!(has_address());
    pair.north.namespace.ip("link set wl0 mtu 1200");
    assert!(!has_address(), "the kernel takes it away");
    until(LINK_LIMIT, "it is restored", || has_address().then_some(()));
}

fn both_families_inside() {
    let mut pair = Pair::unstarted();
    let both = |site: &Site, peer: &Site| {
        let own = format!("{}/32, \"{}/128\"", site.inner, site.inner_v6);
        let allowed = format!("{}/32, \"{}/128\"", peer.inner, peer.inner_v6);
        let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", peer.outer);
        let address = format!("address: \"{}\"", peer.inner_v6);
        Plan::of(site).addresses(&own).peer_with(peer, &allowed, &[&endpoint, &address])
    };
    let north = both(&pair.north, &pair.south);
    let south = both(&pair.south, &pair.north);
    pair.south.start(&south.service("orders", TARGET, "north", &[]));
    pair.north.start(&north.forward("orders", FORWARD, "south", "service: orders", &["hold_for: 10s"]));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
}

fn a_sender_and_a_receiver_that_speak_ipv6() {
    let mut pair = Pair::unstarted();
    let (listen, target): (SocketAddr, SocketAddr) = ("[::1]:2575".parse().unwrap(), "[::1]:6661".parse().unwrap());
    let north = Plan::of(&pair.north).peer(&pair.south);
    let south = Plan::of(&pair.south).peer(&pair.north);
    pair.south.start(&south.service("orders", target, "north", &[]));
    pair.north.start(&north.forward("orders", listen, "south", "service: orders", &["hold_for: 10s"]));
    let _receiver = Receiver::start(&pair.south.namespace, target, Behaviour::Answer("AA"));
    Sender::connect(&pair.north.namespace, listen).expect("the forward listens").exchange(&message("1", 500));
}
