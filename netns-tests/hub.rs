//! Two peers at one hub: each reaches what it may, neither reaches the other, and one that is away is nobody else's
//! trouble.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::mllp::{Behaviour, Lost, Receiver, Sender, message};
use crate::harness::pair::{FORWARD, loopback};
use crate::harness::plan::{LINK_PORT, Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::tests;
use crate::harness::wire::Wire;

tests![
    each_peer_reaches_its_service,
    a_service_of_another_peer_is_refused,
    the_hub_reaches_both_peers,
    a_peer_does_not_reach_another_through_the_hub,
    a_peer_that_is_away_does_not_disturb_the_other,
];

struct Star {
    hub: Site,
    east: Site,
    west: Site,
    wire: Wire,
}

/// Is where the receivers of east's and west's messages listen, at the hub.
const RECEIVERS: [u16; 2] = [6661, 6662];

impl Star {
    fn new() -> Self {
        let wire = Wire::new();
        Self { hub: wire.site("hub"), east: wire.site("east"), west: wire.site("west"), wire }
    }

    /// Describes the hub: it waits for its peers, and offers each its own service.
    fn hub_plan(&self) -> Plan {
        Plan::of(&self.hub)
            .peer_that_comes(&self.east)
            .peer_that_comes(&self.west)
            .service("for-east", loopback(RECEIVERS[0]), "east", &[])
            .service("for-west", loopback(RECEIVERS[1]), "west", &[])
    }

    fn spoke_plan(&self, spoke: &Site, service: &str) -> Plan {
        let target = format!("service: {service}");
        Plan::of(spoke).peer(&self.hub).forward("orders", FORWARD, "hub", &target, &["hold_for: 1s"])
    }

    fn start() -> Self {
        let mut star = Self::new();
        let plans = (star.hub_plan(), star.spoke_plan(&star.east, "for-east"), star.spoke_plan(&star.west, "for-west"));
        star.hub.start(&plans.0);
        star.east.start(&plans.1);
        star.west.start(&plans.2);
        star
    }
}

fn each_peer_reaches_its_service() {
    let star = Star::start();
    let receivers = RECEIVERS.map(|port| Receiver::start(&star.hub.namespace, loopback(port), Behaviour::Answer("AA")));
    for (number, spoke) in [&star.east, &star.west].into_iter().enumerate() {
        let payload = message(&format!("from {}", spoke.name), 500);
        Sender::connect(&spoke.namespace, FORWARD).expect("the forward listens").exchange(&payload);
        assert_eq!(receivers[number].payloads(), [payload]);
    }
}

fn a_service_of_another_peer_is_refused() {
    let mut star = Star::new();
    let (hub, east) = (star.hub_plan(), star.spoke_plan(&star.east, "for-west"));
    star.hub.start(&hub);
    star.east.start(&east);
    let receiver = Receiver::start(&star.hub.namespace, loopback(RECEIVERS[1]), Behaviour::Answer("AA"));
    let mut sender = Sender::connect(&star.east.namespace, FORWARD).expect("the forward listens");
    sender.send(&message("not allowed", 500)).expect("open");
    assert_eq!(sender.answer(Duration::from_secs(4)), Err(Lost::Closed));
    assert_eq!(receiver.connections(), 0);
    let entry = star.east.health_of("forwards", "orders");
    assert_eq!(entry["status"], "down", "{entry}");
}

fn the_hub_reaches_both_peers() {
    let mut star = Star::new();
    let hub = star
        .hub_plan()
        .forward("to-east", loopback(2575), "east", "service: results", &["hold_for: 10s"])
        .forward("to-west", loopback(2576), "west", "service: results", &["hold_for: 10s"]);
    star.hub.start(&hub);
    let plan = |spoke: &Site| Plan::of(spoke).peer(&star.hub).service("results", loopback(6661), "hub", &[]);
    let (east, west) = (plan(&star.east), plan(&star.west));
    star.east.start(&east);
    star.west.start(&west);
    for (port, spoke) in [(2575, &star.east), (2576, &star.west)] {
        let receiver = Receiver::start(&spoke.namespace, loopback(6661), Behaviour::Answer("AA"));
        let payload = message(&format!("to {}", spoke.name), 500);
        Sender::connect(&star.hub.namespace, loopback(port)).expect("the forward listens").exchange(&payload);
        assert_eq!(receiver.payloads(), [payload]);
    }
}

fn a_peer_does_not_reach_another_through_the_hub() {
    let mut star = Star::new();
    let hub = star.hub_plan();
    let everything = format!("{}/32, {}/32", star.hub.inner, star.west.inner);
    let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", star.hub.outer);
    let address = format!("address: {}", star.hub.inner);
    let east = Plan::of(&star.east).peer_with(&star.hub, &everything, &[&endpoint, &address]).forward(
        "orders",
        FORWARD,
        "hub",
        "service: for-east",
        &[],
    );
    let west = star.spoke_plan(&star.west, "for-west");
    star.hub.start(&hub);
    star.east.start(&east);
    star.west.start(&west);
    // a hub of a hospital routes, too often
    star.hub.namespace.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward"));
    let _receiver = Receiver::start(&star.hub.namespace, loopback(RECEIVERS[0]), Behaviour::Answer("AA"));
    Sender::connect(&star.east.namespace, FORWARD).expect("the forward listens").exchange(&message("1", 500));
    let at = SocketAddr::new(star.west.inner.into(), LINK_PORT);
    let outcome = star.east.namespace.connect_within(None, at, Duration::from_millis(1500));
    assert!(outcome.is_err(), "east reached west");
}

fn a_peer_that_is_away_does_not_disturb_the_other() {
    let mut star = Star::start();
    let receivers = RECEIVERS.map(|port| Receiver::start(&star.hub.namespace, loopback(port), Behaviour::Answer("AA")));
    let mut sender = Sender::connect(&star.west.namespace, FORWARD).expect("the forward listens");
    sender.exchange(&message("1", 500));
    star.east.kill();
    for n in 2..20 {
        sender.exchange(&message(&n.to_string(), 500));
    }
    assert_eq!(receivers[1].payloads().len(), 19);
    assert_eq!(star.hub.get("/readyz").status, 200);
    star.wire.cut();
    star.wire.mend();
    sender.exchange(&message("20", 500));
}
