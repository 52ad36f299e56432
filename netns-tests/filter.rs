//! What a peer can reach through the tunnel: the link port and the services that it may use, nothing else; and what
//! leaves a site outside the tunnel: WireGuard datagrams, nothing else. The intruder runs plain WireGuard with the
//! peer's own key.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::capture::Capture;
use crate::harness::load::Load;
use crate::harness::mllp::{Behaviour, MARKER, Receiver, Sender, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::{LINK_PORT, Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::wire::Wire;
use crate::harness::wireguard_go::{INTERFACE, WireGuardGo};
use crate::harness::{full, tests};

tests![
    host_ports_are_not_reachable needs "wg" "wireguard-go",
    host_ports_are_reachable_with_host_access needs "wg" "wireguard-go",
    services_of_other_peers_are_not_reachable needs "wg" "wireguard-go",
    udp_does_not_arrive needs "wg" "wireguard-go",
    other_source_addresses_are_dropped needs "wg" "wireguard-go",
    other_destinations_of_the_host_are_not_reachable needs "wg" "wireguard-go",
    routed_does_not_open_other_addresses_of_the_host needs "wg" "wireguard-go",
    segments_that_no_connection_has_find_no_port needs "wg" "wireguard-go" "nmap",
    nmap_finds_only_what_is_offered needs "wg" "wireguard-go" "nmap",
    the_link_port_is_not_reachable_from_outside,
    only_wireguard_is_on_the_wire,
    nothing_leaves_when_the_interface_is_deleted,
];

/// Is the service that the peer may use, as plain TCP.
const OFFERED: u16 = 2576;

/// Is the service that it may not.
const NOT_OFFERED: u16 = 2577;

/// Bounds a connect that must not succeed: several handshakes and retransmissions long.
const REFUSAL_LIMIT: Duration = Duration::from_millis(1500);

/// Is a site with services, and a peer of it that would like to see more.
struct Intrusion {
    _go: WireGuardGo,
    receiver: Receiver,
    intruder: Site,
    site: Site,
    _wire: Wire,
}

impl Intrusion {
    fn start(peer_lines: &[&str]) -> Self {
        let pair = Pair::unstarted();
        let receiver = pair.receiver(Behaviour::Answer("AA"));
        let (intruder, mut site, wire) = (pair.north, pair.south, pair.wire);
        let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", intruder.outer);
        let lines: Vec<&str> = [&[endpoint.as_str()], peer_lines].concat();
        let plan = Plan::of(&site)
            .peer_with(&intruder, &format!("{}/32", intruder.inner), &lines)
            .service("orders", TARGET, "north", &[&format!("port: {OFFERED}")])
            .service("secret", TARGET, "", &[&format!("port: {NOT_OFFERED}")]);
        let go = WireGuardGo::start(&intruder);
        go.peer(&intruder, &site, "");
        site.start(&plan);
        let intrusion = Self { _go: go, receiver, intruder, site, _wire: wire };
        intrusion.the_tunnel_works();
        intrusion
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.site.inner.into(), port)
    }

    /// Asserts that what is offered is reached: without that, nothing below proves anything.
    fn the_tunnel_works(&self) {
        let mut sender = Sender::connect(&self.intruder.namespace, self.at(OFFERED)).expect("the service is offered");
        sender.exchange(&message("offered", 300));
    }

    fn try_from(&self, from: Option<SocketAddr>, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        self.intruder.namespace.connect_within(from, to, REFUSAL_LIMIT)
    }
}

fn host_ports_are_not_reachable() {
    let intrusion = Intrusion::start(&[]);
    let sshd = intrusion.site.namespace.listen("0.0.0.0:22".parse().unwrap()).expect("free");
    sshd.set_nonblocking(true).expect("a flag");
    let error = intrusion.try_from(None, intrusion.at(22)).expect_err("not offered");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "a denied SYN gets an RST: {error}");
    assert!(intrusion.try_from(None, intrusion.at(9575)).is_err(), "health is for loopback");
    assert_eq!(sshd.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
    assert!(intrusion.try_from(None, intrusion.at(LINK_PORT)).is_ok(), "links arrive here");
    intrusion.the_tunnel_works();
}

fn host_ports_are_reachable_with_host_access() {
    let intrusion = Intrusion::start(&["host_access: true"]);
    let _sshd = intrusion.site.namespace.listen("0.0.0.0:22".parse().unwrap()).expect("free");
    assert!(intrusion.try_from(None, intrusion.at(22)).is_ok());
}

fn services_of_other_peers_are_not_reachable() {
    let intrusion = Intrusion::start(&[]);
    if let Ok(stream) = intrusion.try_from(None, intrusion.at(NOT_OFFERED)) {
        panic!("connected to what no peer may use: {stream:?}");
    }
    assert_eq!(intrusion.receiver.connections(), 1);
}

fn udp_does_not_arrive() {
    let intrusion = Intrusion::start(&[]);
    let socket = intrusion.site.namespace.udp("0.0.0.0:5353".parse().unwrap()).expect("free");
    socket.set_read_timeout(Some(REFUSAL_LIMIT)).expect("not zero");
    let from = SocketAddr::new(intrusion.intruder.inner.into(), 0);
    let sender = intrusion.intruder.namespace.udp(from).expect("a socket");
    for _ in 0..5 {
        sender.send_to(b"hello", intrusion.at(5353)).expect("sent");
    }
    intrusion.the_tunnel_works();
    assert!(socket.recv(&mut [0; 16]).is_err(), "a datagram came through");
}

fn other_source_addresses_are_dropped() {
    let intrusion = Intrusion::start(&[]);
    intrusion.intruder.namespace.ip(&format!("addr add 10.98.0.77/32 dev {INTERFACE}"));
    let before = intrusion.receiver.connections();
    let stranger = Some("10.98.0.77:0".parse().unwrap());
    for port in [OFFERED, LINK_PORT] {
        let error = intrusion.try_from(stranger, intrusion.at(port)).expect_err("not the peer's address");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "no answer to who is not there: {error}");
    }
    assert_eq!(intrusion.receiver.connections(), before);
    intrusion.the_tunnel_works();
}

/// Says whether TCP and UDP reach an address of the site's host, and whether TCP was refused by an RST.
fn reach(intrusion: &Intrusion, address: [u8; 4], port: u16) -> (bool, bool, bool) {
    let (site, intruder) = (&intrusion.site, &intrusion.intruder);
    let _sshd = site.namespace.listen(SocketAddr::from((address, port))).expect("free");
    let socket = site.namespace.udp(SocketAddr::from((address, port))).expect("free");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("not zero");
    let from = SocketAddr::new(intruder.inner.into(), 0);
    let tcp = intrusion.try_from(Some(from), SocketAddr::from((address, port)));
    let sender = intruder.namespace.udp(from).expect("a socket");
    sender.send_to(b"hello", SocketAddr::from((address, port))).expect("sent");
    let is_refused = tcp.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    (tcp.is_ok(), is_refused, socket.recv(&mut [0; 16]).is_ok())
}

fn routed_does_not_open_other_addresses_of_the_host() {
    let [extra, later] = [[172, 31, 0, 1], [172, 31, 0, 2]];
    let begin = |lines: &[&str]| {
        let intrusion = Intrusion::start(lines);
        intrusion.site.namespace.ip("addr add 172.31.0.1/32 dev lo");
        let (key, inner, intruder) = (&intrusion.site.public_key, intrusion.site.inner, &intrusion.intruder.namespace);
        intruder.must(&format!("wg set {INTERFACE} peer {key} allowed-ips {inner}/32,172.31.0.0/24"));
        intruder.ip(&format!("route add 172.31.0.0/24 dev {INTERFACE}"));
        std::thread::sleep(Duration::from_millis(300));
        intrusion
    };
    let intrusion = begin(&["routed: true"]);
    assert_eq!(reach(&intrusion, extra, 22), (false, true, false));
    assert_eq!(reach(&intrusion, extra, OFFERED), (false, true, false), "services are at the tunnel's address only");
    intrusion.site.namespace.ip("addr add 172.31.0.2/24 dev w0");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(reach(&intrusion, later, 22), (false, true, false), "an address that came later");
    // a connection that the host begins itself, from that address
    let at = SocketAddr::new(intrusion.intruder.inner.into(), 2222);
    let _listener = intrusion.intruder.namespace.listen(at).expect("free");
    let from = Some(SocketAddr::from((extra, 0)));
    intrusion.site.namespace.connect_within(from, at, REFUSAL_LIMIT).expect("its answers pass");
    intrusion.the_tunnel_works();
    drop(intrusion);
    let intrusion = begin(&["routed: true", "host_access: true"]);
    assert_eq!(reach(&intrusion, extra, 22), (true, false, true));
}

fn other_destinations_of_the_host_are_not_reachable() {
    let intrusion = Intrusion::start(&[]);
    let lan: SocketAddr = SocketAddr::new([172, 31, 0, 1].into(), OFFERED);
    intrusion.site.namespace.ip("addr add 172.31.0.1/32 dev lo");
    let _listener = intrusion.site.namespace.listen(lan).expect("free");
    let key = &intrusion.site.public_key;
    let inner = intrusion.site.inner;
    let intruder = &intrusion.intruder.namespace;
    intruder.must(&format!("wg set {INTERFACE} peer {key} allowed-ips {inner}/32,172.31.0.1/32"));
    intruder.ip(&format!("route add 172.31.0.1/32 dev {INTERFACE}"));
    let from = SocketAddr::new(intrusion.intruder.inner.into(), 0);
    assert!(intrusion.try_from(Some(from), lan).is_err(), "the site's network is not offered");
    intrusion.the_tunnel_works();
}

fn segments_that_no_connection_has_find_no_port() {
    let intrusion = Intrusion::start(&["routed: true"]);
    let _sshd = intrusion.site.namespace.listen("0.0.0.0:22".parse().unwrap()).expect("free");
    let lan = intrusion.site.outer;
    let inner = intrusion.site.inner;
    // FIN, NULL, Xmas: a closed port answers, an open one does not
    for scan in ["-sF", "-sN", "-sX"] {
        for (at, dropped) in [(inner, 4.5), (lan, 0.0)] {
            let text = intrusion.intruder.namespace.must(&format!(
                "nmap {scan} -Pn -n --max-retries 1 --max-rtt-timeout 100ms -e {INTERFACE} -p 20-23,{OFFERED} -oG - {at}"
            ));
            assert!(text.contains("open|filtered") && !text.contains("closed"), "{scan} {at}: {text}");
            let counted = intrusion.site.metric("peer_dropped_packets_total", "flags_not_allowed");
            assert!(counted > dropped, "{scan} {at}: {counted}");
        }
    }
    intrusion.the_tunnel_works();
}

fn nmap_finds_only_what_is_offered() {
    let intrusion = Intrusion::start(&[]);
    let _sshd = intrusion.site.namespace.listen("0.0.0.0:22".parse().unwrap()).expect("free");
    let ports = if full() { "1-65535" } else { "1-3000,6661,9575" };
    let inner = intrusion.site.inner;
    let text = intrusion.intruder.namespace.must(&format!(
        "nmap -sT -Pn -n --max-retries 1 --max-rtt-timeout 100ms --min-rate 2000 -p {ports} -oG - {inner}"
    ));
    let open: Vec<u16> = text
        .split_whitespace()
        .filter_map(|word| word.split_once("/open/"))
        .map(|(port, _)| port.parse().expect("a port"))
        .collect();
    assert_eq!(open, [LINK_PORT, OFFERED], "{text}");
}

fn the_link_port_is_not_reachable_from_outside() {
    let pair = Pair::start(&[]);
    for (address, who) in [(pair.south.outer, "outer"), (pair.south.inner, "inner")] {
        let at = SocketAddr::new(address.into(), LINK_PORT);
        // by the wire, not by the tunnel: from the wire's own namespace
        pair.wire.namespace.output(&format!("ip route add {}/32 via {}", pair.south.inner, pair.south.outer));
        let outcome = pair.wire.namespace.connect_within(None, at, REFUSAL_LIMIT);
        assert!(outcome.is_err(), "the link port at the {who} address is open to the Internet");
    }
}

fn only_wireguard_is_on_the_wire() {
    let pair = Pair::unstarted();
    let capture = Capture::start(&pair.wire.namespace);
    let mut pair = pair;
    let (north, south) = pair.plans(&[]);
    pair.south.start(&south);
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    for n in 0..50 {
        sender.exchange(&message(&format!("W{n}"), 2000));
    }
    let captured = capture.finish();
    assert!(captured.wireguard() > 100);
    assert_eq!(captured.foreign(), Vec::<String>::new());
    assert!(!captured.contains(MARKER.as_bytes()));
}

fn nothing_leaves_when_the_interface_is_deleted() {
    let pair = Pair::start(&["hold_for: 10s"]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, 8);
    load.flows_again(Instant::now(), Duration::from_secs(5));
    let capture = Capture::start(&pair.wire.namespace);
    pair.north.namespace.ip("link del wl0");
    let mut senders = Vec::new();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        // new connections too: their link would be dialled anew, and the default route would take it
        if let Ok(mut sender) = Sender::connect(&pair.north.namespace, FORWARD) {
            let _ = sender.send(&message("without a tunnel", 500));
            senders.push(sender);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let captured = capture.finish();
    assert!(!captured.contains(MARKER.as_bytes()), "a message left in the clear");
    assert_eq!(captured.foreign(), Vec::<String>::new());
    // what was acknowledged stays true; whether the interface comes back is not this test's matter
    drop(senders);
    let canary = Capture::start(&pair.wire.namespace);
    let clear = pair.north.namespace.udp(SocketAddr::new(pair.north.outer.into(), 0)).expect("a socket");
    clear.send_to(MARKER.as_bytes(), SocketAddr::new(pair.south.outer.into(), 9)).expect("sent");
    assert!(canary.finish().contains(MARKER.as_bytes()), "the capture would have seen it");
    load.abandon();
}
