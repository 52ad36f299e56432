//! IPv6 outside the tunnel, inside it, and both.
//!
//! With IPv6 outside, the router keeps the first initiation until the other site's uplink answers it, so that both sites
//! initiate within the same millisecond: two wireguard-go that start like this fight for 5 s and more.

use std::net::{IpAddr, SocketAddr};

use crate::harness::mllp::{Behaviour, Receiver, Sender, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::tests;

tests![
    ipv6_outside_ipv4_inside needs "ipv6",
    ipv4_outside_ipv6_inside needs "ipv6",
    ipv6_outside_and_inside needs "ipv6",
    both_families_inside needs "ipv6",
    a_sender_and_a_receiver_that_speak_ipv6 needs "ipv6",
];

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
