//! `kill -9` of a site under load, restarted at once: traffic flows again within 3 s, what was acknowledged is at the
//! receiver, and no sender ever gets a wrong ACK.

use std::time::{Duration, Instant};

use crate::harness::load::Load;
use crate::harness::mllp::{Behaviour, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::Plan;
use crate::harness::{full, tests, until};

tests![
    the_far_site_is_killed_under_load,
    the_near_site_is_killed_under_load,
    both_sites_are_killed_under_load,
    a_hub_without_endpoints_calls_its_peers_after_a_restart,
    a_restarted_near_site_leaves_no_ghost_at_the_receiver,
];

/// Bounds the time from a restart to traffic on every connection.
const FLOW_LIMIT: Duration = Duration::from_secs(3);

/// Is the number of senders.
const SENDERS: usize = 8;

/// Bounds the time until a first batch has passed.
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);

fn rounds() -> usize {
    if full() { 10 } else { 1 }
}

/// Kills and restarts by `restart` under load, which must start at least one site.
fn survives(restart: fn(&mut Pair)) {
    let mut pair = Pair::start(&["on_unreachable: hold", "hold_for: 10s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, SENDERS);
    for _ in 0..rounds() {
        load.flows_again(Instant::now(), WARM_UP_LIMIT);
        restart(&mut pair);
        load.flows_again(Instant::now(), FLOW_LIMIT);
    }
    load.finish().holds(&[&receiver]);
}

fn the_far_site_is_killed_under_load() {
    survives(|pair| {
        pair.south.kill();
        pair.south.launch();
    });
}

fn the_near_site_is_killed_under_load() {
    survives(|pair| {
        pair.north.kill();
        pair.north.launch();
    });
}

fn both_sites_are_killed_under_load() {
    survives(|pair| {
        pair.south.kill();
        pair.north.kill();
        pair.north.launch();
        pair.south.launch();
    });
}

fn a_hub_without_endpoints_calls_its_peers_after_a_restart() {
    let mut pair = Pair::unstarted();
    let (_, south) = pair.plans(&[]);
    let hub = Plan::of(&pair.north).peer_that_comes(&pair.south);
    pair.north.start(&hub.forward("orders", FORWARD, "south", "service: orders", &["hold_for: 10s"]));
    pair.south.start(&south);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("before", 500));
    pair.north.kill();
    pair.north.restart();
    let start = Instant::now();
    pair.sender().exchange(&message("after", 500));
    let took = start.elapsed();
    assert!(took < FLOW_LIMIT, "{took:?} after the restart");
}

fn a_restarted_near_site_leaves_no_ghost_at_the_receiver() {
    let mut pair = Pair::start(&["hold_for: 10s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut senders: Vec<_> = (0..5).map(|_| pair.sender()).collect();
    for (number, sender) in senders.iter_mut().enumerate() {
        sender.exchange(&message(&format!("G{number}"), 300));
    }
    assert_eq!(receiver.connections_open(), 5);
    // the near site goes: its peer must close what it had opened on its behalf, once the new one has come
    pair.north.kill();
    pair.north.restart();
    pair.sender().exchange(&message("new", 300));
    let limit = Duration::from_secs(3);
    until(limit, "the ghosts are closed", || (receiver.connections_open() <= 1).then_some(()));
}
