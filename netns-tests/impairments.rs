//! A bad network between the sites, under load: nothing is lost, doubled or reordered, no ACK is wrong and no sender's
//! connection is lost. `impair` spoils the datagrams, with a fixed seed.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::load::{Load, Report};
use crate::harness::mllp::{Behaviour, Receiver, control_id, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::site::Site;
use crate::harness::{full, tests};
use crate::impair::fate::Counts;

tests![
    a_network_that_loses,
    a_network_that_delays,
    a_network_that_reorders,
    a_network_that_doubles,
    a_network_that_corrupts,
    a_network_that_is_slow,
    a_network_that_does_it_all,
];

/// Is the number of senders.
const SENDERS: usize = 6;

/// Bounds the time until each sender has an answer: several retransmissions of TCP.
const FLOW_LIMIT: Duration = Duration::from_secs(10);

/// Is a message of many packets.
const LARGE_BYTES: usize = 300_000;

/// Sends under load through such a network; returns the sites and what the network did, there and back.
fn survives(words: &str) -> (Pair, [Counts; 2]) {
    let Survived { pair, counts, .. } = survives_at(words);
    (pair, counts)
}

struct Survived {
    pair: Pair,
    counts: [Counts; 2],
    /// Is the time from a message to its answer.
    round_trip: Duration,
}

fn survives_at(words: &str) -> Survived {
    let (pair, relay) = Pair::spoiled(words, &["on_unreachable: hold", "hold_for: 30s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, SENDERS);
    let mut large = pair.sender();
    for number in 0..2 {
        large.exchange(&message(&format!("large-{number}"), LARGE_BYTES));
    }
    let start = Instant::now();
    large.exchange(&message("large-2", 100));
    let round_trip = start.elapsed();
    thread::sleep(Duration::from_secs(if full() { 60 } else { 1 }));
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
    each_once_and_in_order(&report, &receiver);
    Survived { pair, counts: relay.counts(), round_trip }
}

/// Asserts that the receiver has each message once, and those of one sender in the order of their sending.
fn each_once_and_in_order(report: &Report, receiver: &Receiver) {
    let payloads = receiver.payloads();
    assert_eq!(payloads.len(), report.acked.len() + 3, "each message is delivered once");
    let mut latest: HashMap<String, i64> = HashMap::new();
    for payload in &payloads {
        let id = String::from_utf8_lossy(control_id(payload)).into_owned();
        let (sender, number) = id.split_once('-').expect("the sender's number and the message's");
        let number = number.parse().expect("a number");
        let before = latest.insert(sender.to_owned(), number).unwrap_or(-1);
        assert!(number > before, "{id} came after {sender}-{before}");
    }
    assert_eq!(latest.len(), SENDERS + 1, "each sender was heard");
}

fn dropped(site: &Site, reason: &str) -> f64 {
    site.metric("dropped_packets_total", &format!("reason=\"{reason}\""))
        + site.metric("dropped_total", &format!("reason=\"{reason}\""))
}

fn a_network_that_loses() {
    let (_pair, counts) = survives("loss=5%");
    assert!(counts.iter().all(|way| way.lost > 5), "{counts:?}");
}

fn a_network_that_delays() {
    let Survived { counts, round_trip, .. } = survives_at("delay=20ms jitter=10ms");
    assert!(counts.iter().all(|way| way.packets > 100), "{counts:?}");
    assert!(round_trip > Duration::from_millis(20), "{round_trip:?}");
}

fn a_network_that_reorders() {
    let (_pair, counts) = survives("delay=5ms reorder=10% reorder_by=15ms");
    assert!(counts.iter().all(|way| way.reordered > 10), "{counts:?}");
}

fn a_network_that_doubles() {
    let (pair, counts) = survives("duplicate=20%");
    assert!(counts.iter().all(|way| way.duplicated > 20), "{counts:?}");
    // the second copy of a datagram is a replay
    assert!(dropped(&pair.south, "not_authentic") > 10.0, "{}", pair.south.get("/metrics").body);
}

fn a_network_that_corrupts() {
    let (pair, counts) = survives("corrupt=5%");
    assert!(counts.iter().all(|way| way.corrupted > 5), "{counts:?}");
    assert!(dropped(&pair.south, "not_authentic") > 3.0, "{}", pair.south.get("/metrics").body);
}

fn a_network_that_is_slow() {
    let (_pair, counts) = survives("delay=5ms rate=2M queue=8k");
    assert!(counts[0].queue_full > 0, "{counts:?}");
}

fn a_network_that_does_it_all() {
    let words = "loss=2% delay=20ms jitter=10ms reorder=2% duplicate=2% corrupt=1% rate=20M queue=100k";
    let (_pair, counts) = survives(words);
    assert!(counts.iter().all(|way| way.lost > 0 && way.reordered > 0 && way.corrupted > 0), "{counts:?}");
}
