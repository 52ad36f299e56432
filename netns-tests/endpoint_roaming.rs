//! A site's address outside the tunnel changes under load: the peer learns the new one from the first authenticated
//! datagram (WireGuard whitepaper, section 2.1), and no connection is lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::load::Load;
use crate::harness::mllp::Behaviour;
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::{tests, until};

tests![the_far_site_gets_another_address, the_near_site_gets_another_address];

/// Bounds the time until a first batch has passed.
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);

/// Bounds the time until traffic flows again: a keepalive, and TCP's retransmission after it.
const FLOW_LIMIT: Duration = Duration::from_secs(6);

/// Is the host number that a site moves to.
const NEW_HOST: u8 = 77;

#[derive(Clone, Copy)]
enum Moved {
    Far,
    Near,
}

fn survives_a_move(moved: Moved) {
    let mut pair = Pair::unstarted();
    let (north, south) = plans_with_short_keepalive(&pair);
    pair.south.start(&south);
    pair.north.start(&north);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, 4);
    load.flows_again(Instant::now(), WARM_UP_LIMIT);
    let (site, peer) = match moved {
        Moved::Far => (&mut pair.south, &pair.north),
        Moved::Near => (&mut pair.north, &pair.south),
    };
    let endpoint = SocketAddr::new(site.roam(NEW_HOST).into(), UDP_PORT).to_string();
    load.flows_again(Instant::now(), FLOW_LIMIT);
    until(FLOW_LIMIT, "the peer shows the new endpoint", || {
        (peer.health_of("peers", site.name)["endpoint"] == *endpoint).then_some(())
    });
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn plans_with_short_keepalive(pair: &Pair) -> (Plan, Plan) {
    let (north, south) = (&pair.north, &pair.south);
    let towards = |from, to: &Site| {
        let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", to.outer);
        Plan::of(from).peer_with(to, &format!("{}/32", to.inner), &[&endpoint, "persistent_keepalive: 1s"])
    };
    let forward = towards(north, south).forward("orders", FORWARD, "south", "service: orders", &["hold_for: 30s"]);
    (forward, towards(south, north).service("orders", TARGET, "north", &[]))
}

fn the_far_site_gets_another_address() {
    survives_a_move(Moved::Far);
}

fn the_near_site_gets_another_address() {
    survives_a_move(Moved::Near);
}
