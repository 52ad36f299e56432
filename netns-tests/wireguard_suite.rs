//! The cases of the suite that the kernel's WireGuard is tested with (its netns.sh), as far as no other file here has
//! them: floods, streams, every length, exact counters, roaming, NAT, marks, source addresses, loops, leftovers.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::capture::Capture;
use crate::harness::load::Load;
use crate::harness::mllp::{Behaviour, answer_to, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::process::Process;
use crate::harness::site::Site;
use crate::harness::wire::{Wire, outer_v4, outer_v6};
use crate::harness::wireguard_go::{INTERFACE, WireGuardGo};
use crate::harness::{tests, until};

tests![
    a_flood_of_pings_passes needs "ping" "ipv6",
    streams_pass_over_ipv4 needs "iperf3" "ipv6",
    streams_pass_over_ipv6 needs "iperf3" "ipv6",
    packets_of_every_length_pass_padded needs "ping",
    the_counters_are_exact needs "ping",
    a_site_roams_over_ipv6 needs "ping" "ipv6",
    a_refused_packet_moves_the_endpoint_all_the_same needs "wg" "wireguard-go",
    the_more_specific_peer_wins needs "wg" "wireguard-go",
    a_keepalive_keeps_a_nat_open needs "ping",
    datagrams_follow_the_routes_of_their_mark,
    answers_come_from_the_address_that_was_spoken_to,
    answers_come_from_the_address_that_was_spoken_to_over_ipv6 needs "ipv6",
    a_routing_loop_is_bounded,
    keys_of_low_order_are_refused,
    nothing_is_left_of_a_site,
];

/// Bounds what a handshake must precede.
const SESSION_LIMIT: Duration = Duration::from_secs(8);

/// Is the name server port of nobody: where iperf3 listens.
const IPERF_PORT: u16 = 5201;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outside {
    V4,
    V6,
}

impl Outside {
    fn endpoint(self, peer: &Site) -> String {
        let outer: IpAddr = match self {
            Self::V4 => peer.outer.into(),
            Self::V6 => peer.outer_v6.into(),
        };
        format!("endpoint: \"{}\"", SocketAddr::new(outer, UDP_PORT))
    }
}

/// Plans a site with both families inside and no forwards, so that nothing speaks by itself.
fn quiet(site: &Site, peer: &Site, lines: &[&str]) -> Plan {
    let address = format!("address: {}", peer.inner);
    let allowed = format!("{}/32, \"{}/128\"", peer.inner, peer.inner_v6);
    let lines: Vec<&str> = [&[address.as_str()], lines].concat();
    let own = format!("{}/32, \"{}/128\"", site.inner, site.inner_v6);
    Plan::of(site).addresses(&own).peer_with(peer, &allowed, &lines)
}

/// Starts two sites that may do anything to each other's hosts.
fn start(outside: Outside, tunnel: &str, prepare: impl FnOnce(&Pair)) -> Pair {
    let mut pair = Pair::unstarted();
    prepare(&pair);
    let lines = |peer: &Site| [outside.endpoint(peer), "host_access: true".to_owned()];
    let plan = |site: &Site, peer: &Site| {
        let lines = lines(peer);
        quiet(site, peer, &lines.each_ref().map(String::as_str)).tunnel(tunnel)
    };
    let (north, south) = (plan(&pair.north, &pair.south), plan(&pair.south, &pair.north));
    pair.south.start(&south);
    pair.north.start(&north);
    have_a_session(&pair);
    pair
}

fn have_a_session(pair: &Pair) {
    for (site, peer) in [(&pair.north, "south"), (&pair.south, "north")] {
        until(SESSION_LIMIT, "there is a session", || {
            (!site.health_of("peers", peer)["latest_handshake_age_seconds"].is_null()).then_some(())
        });
    }
}

fn pings(from: &Site, arguments: &str) -> bool {
    from.namespace.output(&format!("ping -q {arguments}")).status.success()
}

fn a_flood_of_pings_passes() {
    let flood = |outside| {
        let pair = start(outside, "mtu: 1420", |_| {});
        for to in [IpAddr::from(pair.south.inner), pair.south.inner_v6.into()] {
            for size in [56, 1372] {
                let text = pair.north.namespace.must(&format!("ping -q -f -c 500 -W 3 -s {size} {to}"));
                assert!(text.contains("500 received"), "{text}");
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| flood(Outside::V4));
        scope.spawn(|| flood(Outside::V6));
    });
}

/// Runs iperf3 through the tunnel; returns what it says at its end.
fn iperf(pair: &Pair, to: IpAddr, arguments: &str) -> serde_json::Value {
    let at = SocketAddr::new(to, IPERF_PORT);
    let words = format!("iperf3 -s -1 -B {to} -p {IPERF_PORT}");
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let _server = Process::start(&pair.south.namespace, &words, &pair.south.dir.join("iperf.log"));
    // a connection would be taken for the test's
    until(SESSION_LIMIT, "iperf3 listens", || {
        let ports = pair.south.namespace.run(|| {
            let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
            read("tcp") + &read("tcp6")
        });
        // the one that listens (0A), not connections of the run before
        let is_it = |line: &str| line.contains(&format!(":{IPERF_PORT:04X} ")) && line.contains(":0000 0A ");
        ports.lines().any(is_it).then_some(())
    });
    let text = pair.north.namespace.must(&format!("iperf3 -J -c {} -p {} {arguments}", at.ip(), at.port()));
    let end = serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["end"].clone();
    assert!(end["sum"].is_object() || end["sum_received"].is_object(), "iperf3 {arguments} to {to} says: {text}");
    end
}

fn streams_pass(outside: Outside) {
    let pair = start(outside, "mtu: 1420", |_| {});
    for to in [IpAddr::from(pair.south.inner), pair.south.inner_v6.into()] {
        let kinds: &[&str] = if outside == Outside::V4 { &["-t 1", "-t 1 -R", "-t 1 -P 20"] } else { &["-t 1"] };
        for arguments in kinds {
            let end = iperf(&pair, to, arguments);
            let received_bytes = end["sum_received"]["bytes"].as_f64();
            assert!(received_bytes.is_some_and(|bytes| bytes > 1e5), "{to} {arguments}: {end}");
        }
        // So many, and not for so long: a sender that gets no processor for a second would have sent nothing.
        let end = iperf(&pair, to, "-u -b 5M -k 500 -l 1200");
        let sum = &end["sum"];
        let lost_percent = sum["lost_percent"].as_f64();
        assert!(lost_percent.is_some_and(|lost| lost < 5.0) && sum["packets"].as_u64() > Some(475), "{to}: {end}");
    }
}

fn streams_pass_over_ipv4() {
    streams_pass(Outside::V4);
}

fn streams_pass_over_ipv6() {
    streams_pass(Outside::V6);
}

fn packets_of_every_length_pass_padded() {
    let check = |mtu: usize| {
        let pair = start(Outside::V4, &format!("mtu: {mtu}"), |pair| {
            for site in [&pair.north, &pair.south] {
                site.namespace.ip("link set w0 mtu 9000");
                pair.wire.namespace.ip(&format!("link set w{} mtu 9000", site.number));
            }
        });
        let to = pair.south.inner;
        // 28 bytes are the headers of IPv4 and ICMP
        let longest = mtu - 28;
        for size in [0, 1, 3, 4, 5, 19, 20, 21, 500, longest - 17, longest - 16, longest - 1, longest] {
            let capture = Capture::start(&pair.wire.namespace);
            assert!(pings(&pair.north, &format!("-c 1 -W 3 -M do -s {size} {to}")), "{size} of {mtu} bytes");
            let seen = capture.finish().data_bytes();
            let sealed = (size + 28).next_multiple_of(16).min(mtu) + 32;
            // there and back, each at two devices; a keepalive may come in between
            assert!(seen.iter().filter(|bytes| **bytes == sealed).count() >= 4, "{size} of {mtu} bytes: {seen:?}");
            assert!(seen.iter().all(|bytes| [sealed, 32].contains(bytes)), "{size} of {mtu} bytes: {seen:?}");
        }
        assert!(!pings(&pair.north, &format!("-c 1 -W 1 -M do -s {} {to}", longest + 1)), "the MTU is {mtu}");
    };
    thread::scope(|scope| {
        for mtu in [1280, 1333, 1420, 8920] {
            scope.spawn(move || check(mtu));
        }
    });
}

/// Returns the bytes received from and sent to the peer.
fn counters(site: &Site, peer: &str) -> [u64; 2] {
    let entry = site.health_of("peers", peer);
    ["rx_bytes", "tx_bytes"].map(|key| entry[key].as_u64().expect("a number"))
}

fn the_counters_are_exact() {
    let mut pair = Pair::unstarted();
    let (north, south) = (&pair.north, &pair.south);
    // only north can begin, and nobody keeps anything alive meanwhile
    let plan = quiet(north, south, &[&Outside::V4.endpoint(south), "persistent_keepalive: 60s"]);
    let waits = quiet(south, north, &["persistent_keepalive: 60s"]);
    pair.south.start(&waits);
    pair.north.start(&plan);
    have_a_session(&pair);
    assert!(pings(&pair.north, &format!("-c 10 -i 0.02 -W 3 -s 1000 {}", pair.south.inner)));
    // an initiation, the keepalive that confirms the session, and ten packets of 1028 bytes; a response and ten
    let (packet, keepalive, initiation, response) = (1040 + 32, 32, 148, 92);
    let (there, back) = (initiation + keepalive + 10 * packet, response + 10 * packet);
    assert_eq!(counters(&pair.north, "south"), [back, there], "north's received and sent");
    assert_eq!(counters(&pair.south, "north"), [there, back], "south's received and sent");
}

fn a_site_roams_over_ipv6() {
    let mut pair = Pair::unstarted();
    let (north, south) = (&pair.north, &pair.south);
    let plan = |site, peer| quiet(site, peer, &[&Outside::V6.endpoint(peer), "persistent_keepalive: 1s"]);
    let (north, south) = (plan(north, south), plan(south, north));
    pair.south.start(&south);
    pair.north.start(&north);
    have_a_session(&pair);
    // there and back again
    for host in [77, 2] {
        let endpoint = SocketAddr::new(pair.north.roam_v6(host).into(), UDP_PORT).to_string();
        until(SESSION_LIMIT, "the peer shows the new endpoint", || {
            (pair.south.health_of("peers", "north")["endpoint"] == *endpoint).then_some(())
        });
        assert!(pings(&pair.south, &format!("-c 3 -i 0.1 -W 3 {}", pair.north.inner)), "{endpoint}");
    }
}

/// Is a hub at which east may have more than its own address, and west one out of the middle of that.
struct Hub {
    _go: WireGuardGo,
    hub: Site,
    east: Site,
    west: Site,
    _wire: Wire,
}

impl Hub {
    fn start() -> Self {
        let wire = Wire::new();
        let (mut hub, east, west) = (wire.site("hub"), wire.site("east"), wire.site("west"));
        // 10.98.0.2 and 10.98.0.3, of which the second is west's
        let (wide, address) = (format!("{}/31", east.inner), format!("address: {}", east.inner));
        let plan = Plan::of(&hub).peer_with(&east, &wide, &[&address]).peer_that_comes(&west).service(
            "orders",
            TARGET,
            "east",
            &[],
        );
        let go = WireGuardGo::start(&east);
        go.peer(&east, &hub, "persistent-keepalive 0");
        east.namespace.ip(&format!("addr add {}/32 dev {INTERFACE}", west.inner));
        hub.start(&plan);
        let it = Self { _go: go, hub, east, west, _wire: wire };
        assert!(it.connects(it.east.inner.into()), "east's own address works");
        it
    }

    /// Connects from east to the link port with this source address.
    fn connects(&self, from: IpAddr) -> bool {
        let link = SocketAddr::new(self.hub.inner.into(), crate::harness::plan::LINK_PORT);
        let from = Some(SocketAddr::new(from, 0));
        self.east.namespace.connect_within(from, link, Duration::from_millis(1200)).is_ok()
    }
}

fn the_more_specific_peer_wins() {
    let it = Hub::start();
    assert!(!it.connects(it.west.inner.into()), "the address is west's, though it lies in a prefix of east's");
    let labels = "peer=\"east\",reason=\"source_not_allowed\"";
    assert!(it.hub.metric("peer_dropped_packets_total", labels) > 0.5, "{}", it.hub.get("/metrics").body);
}

fn a_refused_packet_moves_the_endpoint_all_the_same() {
    let mut it = Hub::start();
    let endpoint = SocketAddr::new(it.east.roam(77).into(), UDP_PORT).to_string();
    // wireguard-go holds on to the address that it had, unless it is told again where to send
    let (key, hub) = (&it.hub.public_key, it.hub.outer);
    it.east.namespace.must(&format!("wg set {INTERFACE} peer {key} endpoint {hub}:{UDP_PORT}"));
    assert!(!it.connects(it.west.inner.into()), "not an address of east's");
    assert_eq!(it.hub.health_of("peers", "east")["endpoint"], *endpoint, "it was east all the same");
}

fn a_keepalive_keeps_a_nat_open() {
    let reaches_after_silence = |keepalive: &str| {
        let mut pair = Pair::unstarted();
        let _nat = pair.relay("", |route| {
            (route.client, route.from) = (None, None);
            route.forget_after = Some(Duration::from_secs(2));
        });
        let nat = format!("endpoint: \"{}:{UDP_PORT}\"", outer_v4(pair.north.number, 1));
        let north = quiet(&pair.north, &pair.south, &[&nat, &format!("persistent_keepalive: {keepalive}")]);
        let south = quiet(&pair.south, &pair.north, &["persistent_keepalive: 60s"]);
        pair.south.start(&south);
        pair.north.start(&north);
        have_a_session(&pair);
        assert!(pings(&pair.south, &format!("-c 1 -W 2 {}", pair.north.inner)), "the NAT is open at first");
        thread::sleep(Duration::from_secs(3));
        pings(&pair.south, &format!("-c 1 -W 1 {}", pair.north.inner))
    };
    thread::scope(|scope| {
        let kept = scope.spawn(|| reaches_after_silence("1s"));
        let silent = scope.spawn(|| reaches_after_silence("60s"));
        assert!(kept.join().expect("it has a session"), "a keepalive keeps it open");
        assert!(!silent.join().expect("it has a session"), "without one it forgets");
    });
}

fn datagrams_follow_the_routes_of_their_mark() {
    let mut pair = Pair::unstarted();
    let ip = |arguments: &str| pair.north.namespace.ip(arguments);
    ip("route del default");
    ip(&format!("route add default via {} table 77", outer_v4(pair.north.number, 1)));
    ip("rule add fwmark 0x51 lookup 77");
    let (north, south) = pair.plans(&["hold_for: 10s"]);
    pair.south.start(&south.clone());
    pair.north.start(&north.clone().tunnel("fwmark: 0x50"));
    thread::sleep(Duration::from_secs(1));
    let age = |pair: &Pair| pair.north.health_of("peers", "south")["latest_handshake_age_seconds"].clone();
    assert!(age(&pair).is_null(), "no other mark has a route");
    // south knows the way, and would open the session: it must not
    pair.south.kill();
    pair.north.kill();
    pair.north.start(&north.tunnel("fwmark: 0x51"));
    pair.south.start(&south);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 5000));
}

/// Lets north have two addresses, and be spoken to at the second one, which then goes away.
fn answers_come_from(first: IpAddr, second: IpAddr, of: impl Fn(&Site) -> IpAddr) {
    let mut pair = Pair::unstarted();
    let (bits, nodad) = if second.is_ipv4() { (24, "") } else { (64, "nodad") };
    pair.north.namespace.ip(&format!("addr add {second}/{bits} dev w0 {nodad}"));
    assert_eq!(of(&pair.north), first, "the address that the routes choose");
    let endpoint = format!("endpoint: \"{}\"", SocketAddr::new(second, UDP_PORT));
    let south = quiet(&pair.south, &pair.north, &[&endpoint, "persistent_keepalive: 1s"]);
    let north = quiet(&pair.north, &pair.south, &["persistent_keepalive: 1s"]);
    let south = south.service("orders", TARGET, "north", &[]);
    let north = north.forward("orders", FORWARD, "south", "service: orders", &["hold_for: 30s"]);
    pair.north.start(&north);
    pair.south.start(&south);
    pair.is_linked();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, 2);
    load.flows_again(Instant::now(), SESSION_LIMIT);
    let shown = |address: IpAddr| {
        let endpoint = pair.south.health_of("peers", "north")["endpoint"].clone();
        endpoint == SocketAddr::new(address, UDP_PORT).to_string()
    };
    assert!(shown(second), "north answers from where it was spoken to");
    pair.north.namespace.ip(&format!("addr del {second}/{bits} dev w0"));
    load.flows_again(Instant::now(), SESSION_LIMIT);
    until(SESSION_LIMIT, "north goes on from its other address", || shown(first).then_some(()));
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn answers_come_from_the_address_that_was_spoken_to() {
    answers_come_from(outer_v4(1, 2).into(), outer_v4(1, 78).into(), |site| site.outer.into());
}

fn answers_come_from_the_address_that_was_spoken_to_over_ipv6() {
    // of two addresses the kernel prefers the later one: the first one is the one that is added
    answers_come_from(outer_v6(1, 2).into(), outer_v6(1, 78).into(), |site| site.outer_v6.into());
}

fn a_routing_loop_is_bounded() {
    let mut pair = Pair::unstarted();
    let (north, south) = (&pair.north, &pair.south);
    let allowed = format!("{}/32, {}/32", south.inner, south.outer);
    let plan = Plan::of(north).tunnel("table: \"off\"").peer_with(
        south,
        &allowed,
        &[&format!("address: {}", south.inner), "persistent_keepalive: 1s"],
    );
    let plan = plan.forward("orders", FORWARD, "south", "service: orders", &["hold_for: 30s"]);
    let other = Plan::of(south).peer(north).service("orders", TARGET, "north", &[]);
    pair.north.start(&plan);
    let route = format!("{}/32 dev wl0", pair.south.inner);
    pair.north.namespace.ip(&format!("route add {route}"));
    pair.south.start(&other);
    pair.is_linked();
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("before", 500));
    // what goes to south outside goes into the tunnel to south from now on
    let route = format!("{}/32 dev wl0", pair.south.outer);
    pair.north.namespace.ip(&format!("route add {route}"));
    sender.send(&message("during", 500)).expect("open");
    thread::sleep(Duration::from_secs(3));
    let loops = pair.north.metric("peer_dropped_packets_total", "reason=\"routing_loop\"");
    assert!(loops > 0.5, "{}", pair.north.get("/metrics").body);
    assert!(loops < 100.0, "{loops} datagrams went round in 3 s");
    pair.north.namespace.ip(&format!("route del {route}"));
    let answer = sender.answer(SESSION_LIMIT);
    assert_eq!(answer, Ok(answer_to(&message("during", 500), "AA")), "it goes on where the routes are right again");
}

/// Lists the points of low order on Curve25519 that the kernel's suite has.
const LOW_ORDER: [&str; 7] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
    "7f///////////////////////////////////////38=",
    "7v///////////////////////////////////////38=",
];

fn keys_of_low_order_are_refused() {
    let pair = Pair::unstarted();
    let (plan, _) = pair.plans(&[]);
    let good = plan.yaml();
    for key in LOW_ORDER {
        std::fs::write(pair.north.config_path(), good.replace(&pair.south.public_key, key)).expect("a file");
        let words = pair.north.command(&["check-config", "-c", &pair.north.config_path()]).join(" ");
        let output = pair.north.namespace.output(&words);
        assert_eq!(output.status.code(), Some(64), "{key}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn nothing_is_left_of_a_site() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&["hold_for: 10s"]);
    let state = |site: &Site| {
        let shown = ["-o link show", "route show table all", "-6 route show table all", "rule show", "-6 rule show"]
            .map(|what| site.namespace.ip(what));
        // the uplink itself may still be coming up
        let lines = shown.iter().flat_map(|text| text.lines()).filter(|line| !line.contains("w0"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = state(&pair.north);
    pair.south.start(&south);
    for is_killed in [false, true] {
        pair.north.start(&north);
        assert_ne!(state(&pair.north), before, "it runs");
        if is_killed {
            pair.north.kill();
        } else {
            pair.north.terminate();
            pair.north.program().wait(Duration::from_secs(12));
        }
        let start = Instant::now();
        while state(&pair.north) != before && start.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(state(&pair.north), before, "killed: {is_killed}");
    }
}
