//! The usual topology: north has a forward `orders`, south the service `orders` behind it, and a receiver may listen there.
//!
//! ```text
//!   sender ─ 127.0.0.1:2575 [north] wl0 ═══ wire ═══ wl0 [south] ─ 127.0.0.1:6661 receiver
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::mllp::{Behaviour, Receiver, Sender};
use super::plan::{Plan, UDP_PORT};
use super::site::Site;
use super::until;
use super::wire::{Wire, outer_v4};
use crate::impair::relay::{Relay, Route};
use crate::impair::spec::Ways;

/// Is where senders connect.
pub(crate) const FORWARD: SocketAddr = loopback(2575);

/// Is where the receiver listens.
pub(crate) const TARGET: SocketAddr = loopback(6661);

/// Bounds the time until two sites that just started are linked, on a machine that is busy.
const LINK_LIMIT: Duration = Duration::from_secs(15);

/// Is the seed of every impairing way: the same packets have the same fate in each run.
const SEED: u64 = 7;

/// Returns an address on the loopback interface.
pub(crate) const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Is two sites that run wardlink.
pub(crate) struct Pair {
    pub(crate) north: Site,
    pub(crate) south: Site,
    // last: the sites are dropped first, and print their logs where a test fails
    pub(crate) wire: Wire,
}

impl Pair {
    /// Starts both sites, with these lines in the forward.
    #[track_caller]
    pub(crate) fn start(forward_lines: &[&str]) -> Self {
        let mut pair = Self::unstarted();
        let (north, south) = pair.plans(forward_lines);
        pair.south.start(&south);
        pair.north.start(&north);
        pair.is_linked();
        pair
    }

    /// Starts both sites with a way between them that spoils datagrams once the link is up; each site knows the other
    /// only by the router's address on its own side.
    ///
    /// ```text
    ///   [north] ─ 192.0.2.1 (there: from north) relay in the wire (back: from south) 198.51.100.1 ─ [south]
    /// ```
    #[track_caller]
    pub(crate) fn spoiled(words: &str, forward_lines: &[&str]) -> (Self, Relay) {
        let mut pair = Self::unstarted();
        let relay = pair.relay("", |_| {});
        let towards = |from: &Site, to: &Site| {
            let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", outer_v4(from.number, 1));
            Plan::of(from).peer_with(to, &format!("{}/32", to.inner), &[&endpoint])
        };
        let north =
            towards(&pair.north, &pair.south).forward("orders", FORWARD, "south", "service: orders", forward_lines);
        let south = towards(&pair.south, &pair.north).service("orders", TARGET, "north", &[]);
        pair.south.start(&south);
        pair.north.start(&north);
        pair.is_linked();
        relay.set(Ways::parse(words).expect("words that mean something"));
        (pair, relay)
    }

    /// Starts the relay of [`Pair::spoiled`].
    pub(crate) fn relay(&self, words: &str, change: impl FnOnce(&mut Route)) -> Relay {
        let at = |host: Ipv4Addr| SocketAddr::new(host.into(), UDP_PORT);
        let mut route = Route {
            client: Some(at(self.north.outer)),
            from: Some(at(outer_v4(self.south.number, 1))),
            ..Route::new(at(outer_v4(self.north.number, 1)), at(self.south.outer))
        };
        change(&mut route);
        let ways = Ways::parse(words).expect("words that mean something");
        self.wire.namespace.run(move || Relay::start(route, ways, SEED)).expect("the router's ports are free")
    }

    /// Waits until the link is up: ready is what a site can do alone, most tests are about what both do together.
    #[track_caller]
    pub(crate) fn is_linked(&self) {
        until(LINK_LIMIT, "the link is up", || {
            (self.north.metric("forward_link", "forward=\"orders\"") > 0.5).then_some(())
        });
    }

    /// Makes both sites and starts nothing.
    pub(crate) fn unstarted() -> Self {
        let wire = Wire::new();
        Self { north: wire.site("north"), south: wire.site("south"), wire }
    }

    /// Returns the usual configurations of both sites.
    pub(crate) fn plans(&self, forward_lines: &[&str]) -> (Plan, Plan) {
        let north = Plan::of(&self.north).peer(&self.south);
        let south = Plan::of(&self.south).peer(&self.north);
        let north = north.forward("orders", FORWARD, "south", "service: orders", forward_lines);
        (north, south.service("orders", TARGET, "north", &[]))
    }

    /// Starts a receiver at south.
    pub(crate) fn receiver(&self, behaviour: Behaviour) -> Receiver {
        Receiver::start(&self.south.namespace, TARGET, behaviour)
    }

    /// Connects a sender at north.
    #[track_caller]
    pub(crate) fn sender(&self) -> Sender {
        Sender::connect(&self.north.namespace, FORWARD).expect("the forward listens")
    }
}
