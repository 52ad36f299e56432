//! The tunnel itself: endpoints by name, routes and marks as configured, and noise from the network and from peers,
//! which is dropped, counted and otherwise without effect.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::load::Load;
use crate::harness::mllp::{Behaviour, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::{LINK_PORT, Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::wg::set;
use crate::harness::wire::Wire;
use crate::harness::wireguard_go::{INTERFACE, WireGuardGo};
use crate::harness::{full, tests, until};

tests![
    a_name_that_does_not_resolve_is_tried_again,
    a_name_is_resolved_again_while_there_is_no_session,
    a_peer_that_comes_by_itself_needs_no_name,
    a_peer_that_comes_during_a_look_up_needs_no_name,
    a_site_ends_at_once_while_a_name_is_looked_up,
    a_default_route_waits_for_the_name_of_its_peer,
    a_default_route_waits_for_the_name_of_a_peer_that_has_moved,
    a_reload_takes_back_what_wg_said_where_the_look_up_needs_the_session needs "wg",
    a_reload_looks_a_name_up_at_once,
    a_default_route_waits_for_a_peer_that_comes_by_itself,
    answers_by_udp_come_in_by_a_default_route,
    routes_go_where_the_configuration_says,
    datagrams_outside_the_tunnel_carry_the_mark needs "nft",
    garbage_from_the_network_disturbs_no_message,
    a_source_of_another_peer_is_dropped_and_counted needs "wg" "wireguard-go",
    neighbour_discovery_in_the_tunnel_does_no_harm needs "wg" "wireguard-go" "ipv6",
    two_sites_that_start_at_once_have_a_session_soon,
];

/// Is the name of south's endpoint where a test uses one.
const NAME: &str = "south.test";

/// Bounds the time until a name is looked up again (5 s), and a handshake.
const RESOLVE_LIMIT: Duration = Duration::from_secs(9);

/// Is how long a peer that is dead is silent before a reload looks its name up again.
const SILENT: Duration = Duration::from_secs(12);

/// Bounds what happens at once.
const SOON: Duration = Duration::from_secs(3);

/// Is a site's own /etc/hosts; it can be changed while the site runs.
struct Hosts(PathBuf);

impl Hosts {
    /// Mounts an own /etc/hosts, and an /etc/resolv.conf with this name server.
    fn of(site: &Site, name_server: &str) -> Self {
        let (hosts, resolver) = (site.dir.join("hosts"), site.dir.join("resolv.conf"));
        fs::write(&resolver, format!("nameserver {name_server}\noptions timeout:2 attempts:2\n")).expect("a file");
        let own = Self(hosts.clone());
        own.set(None);
        site.namespace.run(move || {
            for (from, to) in [(hosts, "/etc/hosts"), (resolver, "/etc/resolv.conf")] {
                let to = fs::canonicalize(to).expect("every host has one");
                mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("an own file");
            }
        });
        own
    }

    /// Gives [`NAME`] this address, or none.
    fn set(&self, address: Option<Ipv4Addr>) {
        let line = address.map(|address| format!("{address} {NAME}\n")).unwrap_or_default();
        fs::write(&self.0, format!("127.0.0.1 localhost\n{line}")).expect("the file is written");
    }
}

/// Returns plans where north knows south by its name, and south waits.
fn plans_by_name(pair: &Pair) -> (Plan, Plan) {
    let (north, south) = (&pair.north, &pair.south);
    let endpoint = format!("endpoint: \"{NAME}:{UDP_PORT}\"");
    let by_name = Plan::of(north).peer_with(south, &format!("{}/32", south.inner), &[&endpoint]);
    let lines = ["on_unreachable: hold", "hold_for: 20s"];
    let north = by_name.forward("orders", FORWARD, "south", "service: orders", &lines);
    let waits = Plan::of(south).peer_that_comes(&pair.north);
    (north, waits.service("orders", crate::harness::pair::TARGET, "north", &[]))
}

fn says_that_the_name_does_not_resolve(site: &Site) -> bool {
    site.health_of("peers", "south").to_string().contains(&format!("{NAME} does not resolve"))
}

fn a_name_that_does_not_resolve_is_tried_again() {
    let mut pair = Pair::unstarted();
    let hosts = Hosts::of(&pair.north, "127.0.0.1");
    let (north, south) = plans_by_name(&pair);
    pair.south.start(&south);
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    until(SOON, "/healthz says that the name does not resolve", || {
        says_that_the_name_does_not_resolve(&pair.north).then_some(())
    });
    let mut sender = pair.sender();
    sender.send(&message("held", 500)).expect("open");
    hosts.set(Some(pair.south.outer));
    assert!(sender.answer(RESOLVE_LIMIT).is_ok(), "the name is looked up again");
    assert!(!says_that_the_name_does_not_resolve(&pair.north), "and the complaint ends");
}

fn a_name_is_resolved_again_while_there_is_no_session() {
    let mut pair = Pair::unstarted();
    let hosts = Hosts::of(&pair.north, "127.0.0.1");
    hosts.set(Some(Ipv4Addr::new(198, 51, 100, 99)));
    let (north, south) = plans_by_name(&pair);
    pair.south.start(&south);
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.send(&message("held", 500)).expect("open");
    assert!(sender.answer(Duration::from_millis(500)).is_err(), "nobody is at the old address");
    hosts.set(Some(pair.south.outer));
    assert!(sender.answer(RESOLVE_LIMIT).is_ok(), "the new address is used");
    assert_eq!(pair.north.health_of("peers", "south")["endpoint"], format!("{}:{UDP_PORT}", pair.south.outer));
}

fn a_peer_that_comes_by_itself_needs_no_name() {
    let mut pair = Pair::unstarted();
    let _hosts = Hosts::of(&pair.north, "127.0.0.1");
    let (north, _) = plans_by_name(&pair);
    let (_, south) = pair.plans(&[]);
    pair.north.start(&north);
    until(SOON, "/healthz says that the name does not resolve", || {
        says_that_the_name_does_not_resolve(&pair.north).then_some(())
    });
    pair.south.start(&south);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    let peer = pair.north.health_of("peers", "south");
    assert_eq!(peer["status"], "ok", "{peer}");
    assert!(!says_that_the_name_does_not_resolve(&pair.north), "what is looked up no more is no news: {peer}");
}

fn a_peer_that_comes_during_a_look_up_needs_no_name() {
    let mut pair = Pair::unstarted();
    // in the site's own network, and nobody there: a look-up takes 4 s
    let _hosts = Hosts::of(&pair.north, "192.0.2.99");
    let (north, _) = plans_by_name(&pair);
    let (_, south) = pair.plans(&[]);
    pair.north.start(&north);
    pair.south.start(&south);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    std::thread::sleep(Duration::from_millis(4500));
    assert!(!says_that_the_name_does_not_resolve(&pair.north), "the look-up ended when it was no matter any more");
}

fn a_site_ends_at_once_while_a_name_is_looked_up() {
    let mut pair = Pair::unstarted();
    // in the site's own network, and nobody there: a look-up takes 4 s
    let _hosts = Hosts::of(&pair.north, "192.0.2.99");
    let (north, _) = plans_by_name(&pair);
    pair.north.start(&north);
    std::thread::sleep(Duration::from_millis(300));
    pair.north.terminate();
    let (status, _) = pair.north.program().wait(Duration::from_secs(2));
    assert!(status.success(), "{status}");
}

/// Answers questions by DNS (RFC 1035, section 4), behind the default route of the sites' hosts.
struct NameServer {
    address: Arc<Mutex<Option<Ipv4Addr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Is where a [`NameServer`] is.
const NAME_SERVER: &str = "10.53.0.53";

impl NameServer {
    /// Begins with an address for every name, or with no answer at all.
    fn start(pair: &Pair, address: Option<Ipv4Addr>) -> Self {
        pair.wire.namespace.ip(&format!("addr add {NAME_SERVER}/32 dev lo"));
        let socket = pair.wire.namespace.udp(format!("{NAME_SERVER}:53").parse().unwrap()).expect("free");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
        let (address, stop) = (Arc::new(Mutex::new(address)), Arc::new(AtomicBool::new(false)));
        let (known, stopped) = (Arc::clone(&address), Arc::clone(&stop));
        let serve = move || {
            let mut question = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((bytes, from)) = socket.recv_from(&mut question) else { continue };
                let address = *known.lock().expect("no panic");
                if let Some(answer) = address.and_then(|address| answer_of(&question[..bytes], address)) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        };
        Self { address, stop, thread: Some(std::thread::spawn(serve)) }
    }

    fn set(&self, address: Ipv4Addr) {
        *self.address.lock().expect("no panic") = Some(address);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers a question for an A record with an address, and any other with none.
fn answer_of(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let name_bytes = question.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let asked = question.get(12..12 + name_bytes + 4)?;
    let is_a = asked.ends_with(&[0, 1, 0, 1]);
    let mut answer = [&question[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], asked].concat();
    if is_a {
        answer.extend([&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4][..], &address.octets()].concat());
    }
    Some(answer)
}

/// Returns plans where north sends everything to south, whose name only a server behind its default route knows.
fn default_plans(pair: &Pair) -> (Plan, Plan) {
    let (north, south) = (&pair.north, &pair.south);
    let endpoint = format!("endpoint: \"{NAME}:{UDP_PORT}\"");
    let address = format!("address: {}", south.inner);
    let by_name = Plan::of(north).peer_with(south, "0.0.0.0/0", &[&endpoint, &address, "routed: true"]);
    let north_plan = by_name.forward("orders", FORWARD, "south", "service: orders", &[]);
    let lines = ["routed: true", "host_access: true"];
    let waits = Plan::of(south).peer_with(north, &format!("{}/32", north.inner), &lines);
    (north_plan, waits.service("orders", crate::harness::pair::TARGET, "north", &[]))
}

fn has_default_route(site: &Site) -> bool {
    site.namespace.ip("-4 rule show").contains("not from all fwmark")
}

fn a_default_route_waits_for_the_name_of_its_peer() {
    let mut pair = Pair::unstarted();
    let _hosts = Hosts::of(&pair.north, NAME_SERVER);
    let (north, south) = default_plans(&pair);
    pair.south.start(&south);
    pair.north.start(&north);
    let says = || pair.north.health_of("peers", "south").to_string();
    until(RESOLVE_LIMIT, "it says so", || says().contains("is set once it is found").then_some(()));
    assert!(says_that_the_name_does_not_resolve(&pair.north) && !has_default_route(&pair.north));
    let _server = NameServer::start(&pair, Some(pair.south.outer));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.send(&message("held", 500)).expect("open");
    assert!(sender.answer(2 * RESOLVE_LIMIT).is_ok(), "the name is looked up again");
    until(SOON, "the default route is set", || has_default_route(&pair.north).then_some(()));
    assert!(pair.north.namespace.ip(&format!("route get {NAME_SERVER}")).contains("dev wl0"));
}

fn a_default_route_waits_for_the_name_of_a_peer_that_has_moved() {
    let mut pair = Pair::unstarted();
    let _hosts = Hosts::of(&pair.north, NAME_SERVER);
    let server = NameServer::start(&pair, Some(pair.south.outer));
    let (north, south) = default_plans(&pair);
    pair.south.start(&south);
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    let kept = pair.north.dir.join("state/endpoints.json");
    until(SOON, "the endpoint is kept", || kept.exists().then_some(()));
    pair.north.kill();
    pair.south.kill();
    // south forgets where north is: north has to find it
    fs::remove_file(pair.south.dir.join("state/endpoints.json")).ok();
    server.set(pair.south.roam(9));
    pair.south.restart();
    pair.north.restart();
    let mut sender = pair.sender();
    sender.send(&message("2", 500)).expect("open");
    assert!(sender.answer(RESOLVE_LIMIT).is_ok(), "{}", pair.north.health_of("peers", "south"));
    assert_eq!(pair.north.health_of("peers", "south")["endpoint"], format!("{}:{UDP_PORT}", pair.south.outer));
    until(SOON, "the default route is set", || has_default_route(&pair.north).then_some(()));
}

/// Returns where north sends datagrams for south.
fn endpoint(pair: &Pair) -> String {
    pair.north.health_of("peers", "south")["endpoint"].as_str().unwrap_or_default().to_owned()
}

fn a_reload_takes_back_what_wg_said_where_the_look_up_needs_the_session() {
    let mut pair = Pair::unstarted();
    let _hosts = Hosts::of(&pair.north, NAME_SERVER);
    let server = NameServer::start(&pair, Some(pair.south.outer));
    let (north, south) = default_plans(&pair);
    pair.south.start(&south);
    pair.north.start(&north);
    until(SOON, "the default route is set", || has_default_route(&pair.north).then_some(()));
    // who asks now asks through the tunnel, and gets no answer
    drop(server);
    pair.south.kill();
    let there = format!("{}:{UDP_PORT}", pair.south.outer);
    set(&pair.north, &format!("peer {} endpoint 198.51.100.99:7", pair.south.public_key));
    assert_eq!(endpoint(&pair), "198.51.100.99:7");
    pair.north.write(&north);
    pair.north.program().signal(nix::sys::signal::Signal::SIGHUP);
    until(SOON, "it is where its name led", || (endpoint(&pair) == there).then_some(()));
}

fn a_reload_looks_a_name_up_at_once() {
    let mut pair = Pair::unstarted();
    let hosts = Hosts::of(&pair.north, "127.0.0.1");
    hosts.set(Some(Ipv4Addr::new(198, 51, 100, 99)));
    let (north, south) = pair.plans(&[]);
    pair.south.start(&south);
    pair.north.start(&north);
    let there = format!("{}:{UDP_PORT}", pair.south.outer);
    until(SOON, "a session is up", || {
        (pair.north.health_of("peers", "south")["session"]["state"] == "up" && endpoint(&pair) == there).then_some(())
    });
    pair.south.kill();
    pair.north.write(&plans_by_name(&pair).0);
    pair.north.program().signal(nix::sys::signal::Signal::SIGHUP);
    let leads_to = |pair: &Pair, last: u8| {
        until(RESOLVE_LIMIT, "the name is looked up", || {
            (endpoint(pair) == format!("198.51.100.{last}:{UDP_PORT}")).then_some(())
        });
    };
    leads_to(&pair, 99);
    // Nothing of the file has changed, the name has, and the session is not stale yet: who reloads wants it looked up.
    std::thread::sleep(SILENT);
    hosts.set(Some(Ipv4Addr::new(198, 51, 100, 98)));
    pair.north.program().signal(nix::sys::signal::Signal::SIGHUP);
    leads_to(&pair, 98);
}

fn a_default_route_waits_for_a_peer_that_comes_by_itself() {
    let mut pair = Pair::unstarted();
    let _hosts = Hosts::of(&pair.north, NAME_SERVER);
    let (north, _) = default_plans(&pair);
    let (_, south) = pair.plans(&[]);
    pair.north.start(&north);
    std::thread::sleep(SOON);
    assert!(!has_default_route(&pair.north), "nobody knows where south is");
    pair.south.start(&south);
    until(SOON, "the default route is set", || has_default_route(&pair.north).then_some(()));
    // a reload does not take it away, whatever the name is
    pair.north.write(&north);
    pair.north.program().signal(nix::sys::signal::Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(500));
    assert!(has_default_route(&pair.north));
}

fn answers_by_udp_come_in_by_a_default_route() {
    let mut pair = Pair::unstarted();
    let _hosts = Hosts::of(&pair.north, NAME_SERVER);
    let _server = NameServer::start(&pair, Some(pair.south.outer));
    let (north, south) = default_plans(&pair);
    pair.south.start(&south);
    pair.north.start(&north);
    until(RESOLVE_LIMIT, "the default route is set", || has_default_route(&pair.north).then_some(()));
    let at = SocketAddr::new(pair.south.outer.into(), 53);
    let server = pair.south.namespace.udp(at).expect("free");
    let other = pair.south.namespace.udp(SocketAddr::new(at.ip(), 54)).expect("free");
    let client = pair.north.namespace.udp("0.0.0.0:0".parse().unwrap()).expect("a socket");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(SOON)).expect("not zero");
    }
    let mut buffer = [0; 64];
    for question in [b"first", b"again"] {
        client.send_to(question, at).expect("sent");
        let (bytes, from) = server.recv_from(&mut buffer).expect("it went through the tunnel");
        assert_eq!((&buffer[..bytes], from.ip()), (&question[..], pair.north.inner.into()));
        // from another port, and to another port, it is no answer
        other.send_to(b"no answer", from).expect("sent");
        server.send_to(b"no answer", SocketAddr::new(from.ip(), 9)).expect("sent");
        server.send_to(b"answer", from).expect("sent");
        let (bytes, from) = client.recv_from(&mut buffer).expect("the answer comes in");
        assert_eq!((&buffer[..bytes], from), (&b"answer"[..], at));
    }
    assert_eq!(pair.north.metric("peer_dropped_packets_total", "protocol_not_allowed"), 4.0);
}

fn routes_go_where_the_configuration_says() {
    for (table, main, own) in [("auto", true, false), ("off", false, false), ("1234", false, true)] {
        let mut pair = Pair::unstarted();
        let (north, _) = pair.plans(&[]);
        pair.north.start(&north.tunnel(&format!("table: {table}")));
        let has = |number: &str| {
            // a table that was never used is an error to `ip`
            let output = pair.north.namespace.output(&format!("ip route show table {number} dev wl0"));
            String::from_utf8_lossy(&output.stdout).contains(&pair.south.inner.to_string())
        };
        assert_eq!((has("main"), has("1234")), (main, own), "table: {table}");
    }
}

fn datagrams_outside_the_tunnel_carry_the_mark() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&[]);
    let nft = |command: &str| pair.north.namespace.must(&format!("nft {command}"));
    nft("add table inet t");
    nft("add chain inet t out { type filter hook output priority 0 ; }");
    nft(&format!("add rule inet t out udp sport {UDP_PORT} meta mark 0x51 counter"));
    nft(&format!("add rule inet t out udp sport {UDP_PORT} meta mark != 0x51 counter drop"));
    pair.south.start(&south);
    pair.north.start(&north.tunnel("fwmark: 0x51"));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 5000));
    let text = pair.north.namespace.must("nft list chain inet t out");
    let mut words = text.split_whitespace();
    let mut counts = Vec::new();
    while let Some(word) = words.next() {
        if word == "packets" {
            counts.extend(words.next().and_then(|count| count.parse::<u64>().ok()));
        }
    }
    assert!(matches!(counts[..], [marked, 0] if marked > 3), "{text}");
}

/// Sends datagrams that are none, of every length, some with the head of a WireGuard message.
fn send_garbage(wire: &Wire, to: SocketAddr, count: usize) {
    let socket = wire.namespace.udp("0.0.0.0:0".parse().unwrap()).expect("a socket");
    // SplitMix64 with a fixed seed: the same flood each time
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let mut bytes: Vec<u8> = (0..65_507).map(|_| random() as u8).collect();
    for _ in 0..count {
        let length = match random() % 16 {
            0 => random() % 65_508,
            1..=4 => [0, 1, 31, 32, 64, 92, 148, 65_507][random() as usize % 8],
            _ => random() % 1500,
        };
        let kind = (random() % 8) as u8;
        if kind < 6 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        bytes[4..12].copy_from_slice(&random().to_le_bytes());
        // a full queue of the sender's is no matter here
        let _ = socket.send_to(&bytes[..length as usize], to);
    }
}

fn garbage_from_the_network_disturbs_no_message() {
    let mut pair = Pair::start(&["hold_for: 30s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, 4);
    load.flows_again(Instant::now(), SOON);
    let count = if full() { 200_000 } else { 20_000 };
    for outer in [pair.south.outer, pair.north.outer] {
        send_garbage(&pair.wire, SocketAddr::new(outer.into(), UDP_PORT), count / 2);
    }
    load.flows_again(Instant::now(), SOON);
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
    assert_eq!(receiver.payloads().len(), report.acked.len(), "each message is delivered once");
    assert!(pair.south.program().ended().is_none() && pair.north.program().ended().is_none());
    for (site, peer) in [(&pair.north, "south"), (&pair.south, "north")] {
        let entry = site.health_of("peers", peer);
        let other = if peer == "south" { pair.south.outer } else { pair.north.outer };
        assert_eq!(entry["endpoint"], format!("{other}:{UDP_PORT}"), "{entry}");
    }
}

/// Reads how many packets of a peer were dropped for a reason.
fn dropped(site: &Site, peer: &str, reason: &str) -> f64 {
    let labels = format!("peer=\"{peer}\",reason=\"{reason}\"");
    site.metric("peer_dropped_packets_total", &labels)
}

fn a_source_of_another_peer_is_dropped_and_counted() {
    let wire = Wire::new();
    let (mut hub, east, west) = (wire.site("hub"), wire.site("east"), wire.site("west"));
    let plan = Plan::of(&hub).peer(&east).peer(&west).service("orders", "127.0.0.1:6661", "east", &[]);
    let go = WireGuardGo::start(&east);
    go.peer(&east, &hub, "");
    hub.start(&plan);
    let link = SocketAddr::new(hub.inner.into(), LINK_PORT);
    assert!(east.namespace.connect(link).is_ok(), "east's own address works");
    assert!(dropped(&hub, "east", "source_not_allowed") < 0.5);
    east.namespace.ip(&format!("addr add {}/32 dev {INTERFACE}", west.inner));
    let stolen = SocketAddr::new(west.inner.into(), 0);
    assert!(east.namespace.connect_within(Some(stolen), link, Duration::from_millis(1500)).is_err());
    assert!(dropped(&hub, "east", "source_not_allowed") > 0.5, "{}", hub.get("/metrics").body);
    assert!(dropped(&hub, "west", "source_not_allowed") < 0.5, "it was not west");
    assert!(east.namespace.connect(link).is_ok(), "east's own address still works");
}

fn neighbour_discovery_in_the_tunnel_does_no_harm() {
    let mut pair = Pair::unstarted();
    let go = WireGuardGo::start(&pair.north);
    let (inner, inner_v6) = (pair.south.inner, pair.south.inner_v6);
    go.peer(&pair.north, &pair.south, "");
    let key = &pair.south.public_key;
    let allowed = format!("{inner}/32,{inner_v6}/128,fe80::/10,ff02::/16");
    pair.north.namespace.must(&format!("wg set {INTERFACE} peer {key} allowed-ips {allowed}"));
    pair.north.namespace.ip(&format!("addr add fe80::1/64 dev {INTERFACE} nodad"));
    let own = format!("{inner}/32, \"{inner_v6}/128\"");
    let theirs = format!("{}/32, \"{}/128\"", pair.north.inner, pair.north.inner_v6);
    let lines = [format!("endpoint: \"{}:{UDP_PORT}\"", pair.north.outer), format!("address: {}", pair.north.inner)];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let plan = Plan::of(&pair.south).addresses(&own).peer_with(&pair.north, &theirs, &lines);
    pair.south.start(&plan.service("orders", crate::harness::pair::TARGET, "north", &[]));
    let link = SocketAddr::new(inner_v6.into(), LINK_PORT);
    assert!(pair.north.namespace.connect(link).is_ok(), "IPv6 works in the tunnel");

    let state =
        |site: &Site| site.namespace.ip("-6 route show table all") + &site.namespace.ip("-6 neigh show dev wl0");
    let before = state(&pair.south);
    let sources = [pair.north.inner_v6, "fe80::1".parse().unwrap()];
    let index = pair.north.namespace.run(|| nix::net::if_::if_nametoindex(INTERFACE).expect("it is there"));
    pair.north.namespace.run(move || send_discovery(sources, inner_v6, index));
    assert!(pair.north.namespace.connect(link).is_ok(), "the tunnel works on");
    until(SOON, "what came is counted", || (dropped(&pair.south, "north", "icmp_not_allowed") > 3.5).then_some(()));
    assert!(dropped(&pair.south, "north", "source_not_allowed") > 3.5, "{}", pair.south.get("/metrics").body);
    assert_eq!(state(&pair.south), before, "routes and neighbours are as they were");
}

/// Sends router and neighbour solicitations and advertisements and redirects (RFC 4861), to the site and to all nodes.
fn send_discovery(sources: [Ipv6Addr; 2], site: Ipv6Addr, interface: u32) {
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    for source in sources {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).expect("a raw socket");
        socket.bind(&SocketAddrV6::new(source, 0, 0, interface).into()).expect("an own address");
        socket.set_unicast_hops_v6(255).expect("a number of hops");
        socket.set_multicast_hops_v6(255).expect("a number of hops");
        for kind in [133_u8, 134, 135, 136, 137] {
            let mut body = vec![kind, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
            body.extend([0; 8]);
            body[8..24].copy_from_slice(&site.octets());
            for to in [site, all_nodes] {
                // the kernel may refuse one or the other; what it sends is enough
                let _ = socket.send_to(&body, &SocketAddrV6::new(to, 0, 0, interface).into());
            }
        }
    }
}

fn two_sites_that_start_at_once_have_a_session_soon() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&[]);
    pair.north.write(&north);
    pair.south.write(&south);
    for round in 0..5 {
        pair.north.launch();
        pair.south.launch();
        for site in [&pair.north, &pair.south] {
            until(Duration::from_secs(10), "it is ready", || site.try_get("/readyz").filter(|is| is.status == 200));
        }
        let start = Instant::now();
        for (site, peer) in [(&pair.north, "south"), (&pair.south, "north")] {
            let what = format!("{} has a session in round {round}", site.name);
            let left = Duration::from_secs(2).saturating_sub(start.elapsed());
            until(left, &what, || {
                let age = &site.health_of("peers", peer)["latest_handshake_age_seconds"];
                (!age.is_null()).then_some(())
            });
        }
        pair.north.kill();
        pair.south.kill();
    }
}
