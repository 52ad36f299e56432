//! Every WireGuard implementation in userspace as the other side, in both roles, over both address families, which both
//! are inside too: messages to a receiver there (`to:`) and from a sender there (`port:`), each with the receiver's own
//! ACK; a preshared key, restarts of either side, and sessions that are renewed under load.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::harness::load::Load;
use crate::harness::mllp::{Behaviour, Receiver, Sender, message};
use crate::harness::pair::{FORWARD, TARGET, loopback};
use crate::harness::plain::{Plain, Program};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::site::{Site, write_secret};
use crate::harness::until;
use crate::harness::wire::Wire;
use crate::harness::{Case, tests};

/// Is the port of the receiver at the plain site, and of the service that is offered to it.
const INSIDE: u16 = 2576;

/// Is where the forward to the plain site's IPv6 address listens.
const FORWARD_V6: SocketAddr = loopback(2577);

/// Bounds the time until the other side is reached. A plain peer that restarts and has no endpoint to call is noticed 15 s
/// after the last word of it (keepalive timeout and rekey timeout, WireGuard paper, section 6.1); TCP's pauses come on top.
const FLOW_LIMIT: Duration = Duration::from_secs(25);

/// Is how long sessions are under load: `REKEY_AFTER_TIME` (120 s, WireGuard paper, section 6.1), and the next one.
const RENEWAL: Duration = Duration::from_secs(135);

const SECRET: &str = "3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=";

macro_rules! matrix {
    ($($module:ident: $program:expr, $name:literal;)+) => {
        $(mod $module {
            use super::*;

            tests![
                it_is_called_over_ipv4 needs "wg" $name,
                it_is_called_over_ipv6 needs "wg" $name "ipv6",
                it_calls_over_ipv4 needs "wg" $name,
                it_calls_over_ipv6 needs "wg" $name "ipv6",
                it_restarts_and_is_called needs "wg" $name,
                it_restarts_and_calls needs "wg" $name,
                wardlink_restarts_and_calls needs "wg" $name,
                wardlink_restarts_and_is_called needs "wg" $name,
                sessions_that_wardlink_began_are_renewed_under_load needs "wg" $name "full",
                sessions_that_it_began_are_renewed_under_load needs "wg" $name "full",
            ];

            fn it_is_called_over_ipv4() {
                Sites::start($program, Role::Called, Outside::V4).exchange("1");
            }

            fn it_is_called_over_ipv6() {
                Sites::start($program, Role::Called, Outside::V6).exchange("1");
            }

            fn it_calls_over_ipv4() {
                Sites::start($program, Role::Calls, Outside::V4).exchange("1");
            }

            fn it_calls_over_ipv6() {
                Sites::start($program, Role::Calls, Outside::V6).exchange("1");
            }

            fn it_restarts_and_is_called() {
                Sites::start($program, Role::Called, Outside::V4).plain_restarts();
            }

            fn it_restarts_and_calls() {
                Sites::start($program, Role::Calls, Outside::V4).plain_restarts();
            }

            fn wardlink_restarts_and_calls() {
                Sites::start($program, Role::Called, Outside::V4).wardlink_restarts();
            }

            fn wardlink_restarts_and_is_called() {
                Sites::start($program, Role::Calls, Outside::V4).wardlink_restarts();
            }

            fn sessions_that_wardlink_began_are_renewed_under_load() {
                Sites::start($program, Role::Called, Outside::V4).renewal();
            }

            fn sessions_that_it_began_are_renewed_under_load() {
                Sites::start($program, Role::Calls, Outside::V4).renewal();
            }
        })+

        /// Lists the tests of all implementations.
        pub(crate) fn tests() -> Vec<Case> {
            [$($module::tests()),+].into_iter().flatten().collect()
        }
    };
}

matrix! {
    wireguard_go: Program::WireGuardGo, "wireguard-go";
    boringtun_cli: Program::BoringtunCli, "boringtun-cli";
    gotatun: Program::Gotatun, "gotatun";
}

/// Says who knows the other's endpoint: the plain site is called by wardlink, or calls it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Called,
    Calls,
}

#[derive(Clone, Copy)]
enum Outside {
    V4,
    V6,
}

/// Is north, which runs wardlink, and south, which runs plain WireGuard, with a receiver at each.
struct Sites {
    north: Site,
    south: Site,
    /// `None` only while it restarts.
    plain: Option<Plain>,
    program: Program,
    words: String,
    at_north: Receiver,
    at_south: Vec<Receiver>,
    _wire: Wire,
}

impl Sites {
    fn start(program: Program, role: Role, outside: Outside) -> Self {
        let wire = Wire::new();
        let (mut north, south) = (wire.site("north"), wire.site("south"));
        let (plan, words) = (plan(&north, &south, role, outside), words(&north, &south, role, outside));
        let plain = Plain::run(&south, program);
        plain.add(&south, &north, &words);
        let at_north = Receiver::start(&north.namespace, TARGET, Behaviour::Answer("AA"));
        let at_south = receivers(&south);
        // a failure shows how each connection ended
        north.environment.push("WARDLINK_LOG=warn,wardlink=debug".to_owned());
        north.start(&plan);
        Self { north, south, plain: Some(plain), program, words, at_north, at_south, _wire: wire }
    }

    /// Sends messages both ways, to and from each inner family; each must come unchanged, and its ACK back.
    #[track_caller]
    fn exchange(&self, round: &str) {
        for (number, bytes) in [500, 200_000, 1].into_iter().enumerate() {
            for forward in forwards() {
                let payload = message(&format!("{round}-TO-{number}-{}", forward.port()), bytes);
                sender(&self.north, forward).exchange(&payload);
                assert!(self.at_south.iter().any(|receiver| receiver.payloads().contains(&payload)), "unchanged");
            }
            for service in inner(&self.north) {
                let payload = message(&format!("{round}-FROM-{number}-{}", service.is_ipv4()), bytes);
                sender(&self.south, service).exchange(&payload);
                assert!(self.at_north.payloads().contains(&payload), "unchanged");
            }
        }
    }

    fn plain_restarts(mut self) {
        self.exchange("1");
        // its addresses go with its interface, and the receivers' sockets hear nothing any more
        self.plain = None;
        self.at_south.clear();
        let plain = Plain::run(&self.south, self.program);
        plain.add(&self.south, &self.north, &self.words);
        self.plain = Some(plain);
        self.at_south = receivers(&self.south);
        self.flows_again();
    }

    fn wardlink_restarts(mut self) {
        self.exchange("1");
        self.north.kill();
        self.north.restart();
        self.flows_again();
    }

    #[track_caller]
    fn flows_again(&self) {
        let start = Instant::now();
        until(FLOW_LIMIT, "a message passes each way", || {
            let ways = [(&self.north, FORWARD), (&self.south, SocketAddr::new(self.north.inner.into(), INSIDE))];
            ways.into_iter().all(|(site, to)| passes(site, to)).then_some(())
        });
        assert!(start.elapsed() < FLOW_LIMIT, "{:?}", start.elapsed());
        self.exchange("2");
    }

    /// Holds both directions under load past the sessions' renewal; no connection may be lost, and no answer wrong.
    fn renewal(self) {
        // a connect that waits for the first handshake may give up: that is no loss
        self.exchange("0");
        let age =
            || self.north.health_of("peers", "south")["latest_handshake_age_seconds"].as_f64().expect("a session");
        let to = Load::start(&self.north.namespace, FORWARD, 2);
        let service = SocketAddr::new(self.north.inner.into(), INSIDE);
        let from = Load::start(&self.south.namespace, service, 2);
        until(FLOW_LIMIT, "a session", || (to.acked() > 0 && from.acked() > 0).then_some(()));
        let (start, before) = (Instant::now(), age());
        std::thread::sleep(RENEWAL);
        assert!(age() < before + start.elapsed().as_secs_f64() - 10.0, "the session is not renewed: {}", age());
        for (load, receivers) in [(to, self.at_south.iter().collect::<Vec<_>>()), (from, vec![&self.at_north])] {
            let report = load.finish();
            report.holds(&receivers);
            assert_eq!(report.lost, 0, "connections lost");
        }
    }
}

/// Tells whether a message gets through on a new connection.
fn passes(site: &Site, to: SocketAddr) -> bool {
    let Ok(mut sender) = Sender::connect(&site.namespace, to) else { return false };
    sender.send(&message("AGAIN", 300)).is_ok() && sender.answer(Duration::from_secs(2)).is_ok()
}

#[track_caller]
fn sender(site: &Site, to: SocketAddr) -> Sender {
    until(FLOW_LIMIT, "the other side is reached", || Sender::connect(&site.namespace, to).ok()).0
}

/// Lists the forwards: to the IPv4 address inside the tunnel, and where there is IPv6 to that one.
fn forwards() -> Vec<SocketAddr> {
    if crate::harness::is_available("ipv6") { vec![FORWARD, FORWARD_V6] } else { vec![FORWARD] }
}

/// Lists the sockets inside the tunnel at a site.
fn inner(site: &Site) -> Vec<SocketAddr> {
    let addresses = [IpAddr::from(site.inner), site.inner_v6.into()];
    addresses[..forwards().len()].iter().map(|address| SocketAddr::new(*address, INSIDE)).collect()
}

fn receivers(site: &Site) -> Vec<Receiver> {
    let start = |at| Receiver::start(&site.namespace, at, Behaviour::Answer("AA"));
    inner(site).into_iter().map(start).collect()
}

fn outer(site: &Site, outside: Outside) -> SocketAddr {
    let address = match outside {
        Outside::V4 => site.outer.into(),
        Outside::V6 => site.outer_v6.into(),
    };
    SocketAddr::new(address, UDP_PORT)
}

/// Describes north: forwards to south's receivers and a service for its senders, the endpoint only where north calls.
fn plan(north: &Site, south: &Site, role: Role, outside: Outside) -> Plan {
    let file = north.dir.join("south.psk");
    write_secret(&file, SECRET);
    let mut lines = vec![format!("preshared_key_file: {}", file.display())];
    if role == Role::Called {
        lines.push(format!("endpoint: \"{}\"", outer(south, outside)));
    }
    let quoted = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(address) => format!("{address}/32"),
        IpAddr::V6(address) => format!("\"{address}/128\""),
    };
    let list = |site| inner(site).iter().map(quoted).collect::<Vec<_>>().join(", ");
    lines.push(format!("address: {}", south.inner));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut plan = Plan::of(north).addresses(&list(north)).peer_with(south, &list(south), &lines);
    for (name, listen, to) in ["orders", "orders-v6"]
        .into_iter()
        .zip(forwards())
        .zip(inner(south))
        .map(|((name, listen), to)| (name, listen, to))
    {
        plan = plan.forward(name, listen, "south", &format!("to: \"{to}\""), &["hold_for: 20s"]);
    }
    plan.service("results", TARGET, "south", &[&format!("port: {INSIDE}")])
}

/// Returns what `wg set` says of north at south.
fn words(north: &Site, south: &Site, role: Role, outside: Outside) -> String {
    let key = Plain::preshared_key(south, SECRET);
    match role {
        Role::Called => format!("preshared-key {key}"),
        Role::Calls => format!("preshared-key {key} endpoint {} persistent-keepalive 5", outer(north, outside)),
    }
}
