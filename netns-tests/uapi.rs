//! The real `wg` at the socket of a running site: what it shows, what it sets, and that nobody else notices.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::load::Load;
use crate::harness::mllp::Behaviour;
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::{LINK_PORT, Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::wg::{INSIDE, file, new_key, say, set, show, show_of, wg};
use crate::harness::wire::Wire;
use crate::harness::wireguard_go::{INTERFACE, WireGuardGo};
use crate::harness::{tests, until};

tests![
    wg_shows_what_runs needs "wg",
    what_wg_shows_can_be_set_again_and_nobody_notices needs "wg",
    hundreds_of_peers_are_set_while_messages_flow needs "wg" "ping",
    a_private_key_that_changes_is_followed_by_a_handshake needs "wg" "wireguard-go" "ping",
    a_preshared_key_that_changes_loses_nothing needs "wg" "ping",
    keys_can_be_cleared needs "wg",
    a_peer_with_our_own_key_is_ignored needs "wg",
    an_update_only_updates_and_a_removal_removes needs "wg",
    an_address_that_moves_takes_its_link_down_and_back needs "wg",
    a_peer_that_wg_added_may_only_ping needs "wg" "wireguard-go" "ping",
    the_port_and_the_mark_can_be_changed needs "wg",
    an_endpoint_can_be_set_and_the_peer_still_roams needs "wg",
    a_peer_that_is_set_anew_has_no_endpoint needs "wg",
    silent_connections_keep_nobody_out needs "wg",
    wg_says_busy_where_every_place_is_taken needs "wg",
    the_socket_takes_the_place_of_a_dead_one_only needs "wg",
    what_is_no_request_changes_nothing needs "wg",
    a_reload_returns_to_the_file needs "wg",
];

/// Bounds what happens at once, on a machine that is busy.
const SOON: Duration = Duration::from_secs(3);

/// Bounds the time until messages flow again.
const FLOW_LIMIT: Duration = Duration::from_secs(8);

/// Is the number of peers of a large hub, and of the prefixes that each has.
const MANY_PEERS: u16 = 500;
const PREFIXES: u8 = 4;

/// Pings a site's inner address from another site 200 times in 2 s while `work` is done; returns the packets lost.
fn pings_lost(from: &Site, to: Ipv4Addr, work: impl FnOnce()) -> u32 {
    let namespace = std::sync::Arc::clone(&from.namespace);
    let log = from.dir.join("ping.log");
    let words = format!("ping -n -i 0.01 -c 200 -W 2 {to}");
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let mut ping = namespace.spawn(&words, &log);
    std::thread::sleep(Duration::from_millis(200));
    work();
    ping.wait().expect("ping ends");
    let text = std::fs::read_to_string(&log).expect("a log");
    let counts = text.lines().rev().find(|line| line.contains("packets transmitted")).expect("a summary");
    let mut numbers = counts.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u32>().ok());
    let (sent, received) = (numbers.next().expect("sent"), numbers.next().expect("received"));
    assert_eq!(sent, 200, "{counts}");
    sent - received
}

fn wg_shows_what_runs() {
    let pair = Pair::start(&[]);
    let north = &pair.north;
    assert_eq!(wg(north, "show interfaces").trim(), INSIDE);
    let secret = std::fs::read_to_string(north.dir.join("private.key")).expect("the key");
    assert_eq!(wg(north, &format!("show {INSIDE} private-key")).trim(), secret.trim());
    assert_eq!(wg(north, &format!("show {INSIDE} public-key")).trim(), north.public_key);
    assert_eq!(wg(north, &format!("show {INSIDE} listen-port")).trim(), UDP_PORT.to_string());
    let south = &pair.south.public_key;
    assert_eq!(show_of(north, south, "endpoints"), format!("{}:{UDP_PORT}", pair.south.outer));
    assert_eq!(show_of(north, south, "allowed-ips"), format!("{}/32", pair.south.inner));
    assert_eq!(show_of(north, south, "persistent-keepalive"), "5");
    assert_eq!(show_of(north, south, "preshared-keys"), "(none)");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let handshake: u64 = show_of(north, south, "latest-handshakes").parse().expect("a number");
    assert!((now - 60..=now).contains(&handshake), "{handshake} is no time of today, {now}");
    let transfer = show_of(north, south, "transfer");
    let health = north.health_of("peers", "south");
    let (received, sent) = transfer.split_once('\t').expect("two numbers");
    let shown: Vec<u64> = [received, sent].iter().map(|bytes| bytes.parse().expect("a number")).collect();
    assert!(shown[0] > 100 && shown[0] <= health["rx_bytes"].as_u64().expect("a number"), "{transfer} {health}");
    assert!(shown[1] > 100 && shown[1] <= health["tx_bytes"].as_u64().expect("a number"), "{transfer} {health}");
    assert!(wg(north, &format!("show {INSIDE}")).contains("latest handshake: "), "the usual view");
}

fn what_wg_shows_can_be_set_again_and_nobody_notices() {
    let pair = Pair::start(&["hold_for: 30s"]);
    let (north, south) = (&pair.north, &pair.south.public_key);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&north.namespace, FORWARD, 4);
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let before = wg(north, &format!("showconf {INSIDE}"));
    let handshake = show_of(north, south, "latest-handshakes");
    let conf = file(north, "wl0.conf", &before);
    for _ in 0..5 {
        for command in ["setconf", "syncconf", "addconf"] {
            wg(north, &format!("{command} {INSIDE} {conf}"));
            assert_eq!(wg(north, &format!("showconf {INSIDE}")), before, "after {command}");
        }
    }
    assert_eq!(show_of(north, south, "latest-handshakes"), handshake, "the session goes on");
    assert_eq!(north.health_of("peers", "south")["set_by"], "config", "nothing differs");
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn hundreds_of_peers_are_set_while_messages_flow() {
    let pair = Pair::start(&["hold_for: 30s"]);
    let north = &pair.north;
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&north.namespace, FORWARD, 2);
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let small = wg(north, &format!("showconf {INSIDE}"));
    let mut large = small.clone();
    for number in 0..MANY_PEERS {
        let mut key = [9; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        let [high, low] = number.to_be_bytes();
        let prefixes: Vec<String> = (0..PREFIXES).map(|of| format!("10.{}.{low}.{of}/32", 100 + high)).collect();
        let _ = write!(large, "\n[Peer]\nPublicKey = {}\nAllowedIPs = {}\n", STANDARD.encode(key), prefixes.join(","));
    }
    let (small, large) = (file(north, "small.conf", &small), file(north, "large.conf", &large));
    let lost = pings_lost(north, pair.south.inner, || {
        wg(north, &format!("syncconf {INSIDE} {large}"));
        let peers = show(north, "allowed-ips");
        assert_eq!(peers.len(), usize::from(MANY_PEERS) + 1);
        let prefixes: usize = peers.iter().map(|(_, prefixes)| prefixes.split(' ').count()).sum();
        assert_eq!(prefixes, usize::from(MANY_PEERS) * usize::from(PREFIXES) + 1);
        wg(north, &format!("syncconf {INSIDE} {large}"));
        wg(north, &format!("syncconf {INSIDE} {small}"));
        assert_eq!(show(north, "peers").len(), 1);
    });
    assert_eq!(lost, 0, "pings lost");
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn a_private_key_that_changes_is_followed_by_a_handshake() {
    let wire = Wire::new();
    let (mut north, south) = (wire.site("north"), wire.site("south"));
    let go = WireGuardGo::start(&south);
    go.peer(&south, &north, "");
    north.start(&Plan::of(&north).peer(&south));
    south.namespace.must(&format!("ping -c 1 -W 5 {}", north.inner));
    let old = north.public_key.clone();
    let (key, public) = new_key(&north, "new.key");
    let words = format!("endpoint {}:{UDP_PORT} allowed-ips {}/32", north.outer, north.inner);
    wg(&south, &format!("set {INTERFACE} peer {old} remove peer {public} {words}"));
    let changed = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    set(&north, &format!("private-key {key}"));
    until(SOON, "there is a handshake with the new key", || {
        let shown = wg(&south, &format!("show {INTERFACE} latest-handshakes"));
        let time = shown.trim().strip_prefix(&format!("{public}\t"))?.parse::<u64>().ok()?;
        (time >= changed).then_some(())
    });
    south.namespace.must(&format!("ping -c 1 -W 2 {}", north.inner));
    assert_eq!(wg(&north, &format!("show {INSIDE} public-key")).trim(), public);
    assert_eq!(north.health()["set_by_wg"]["tunnel"], serde_json::json!(["private_key"]));
}

fn a_preshared_key_that_changes_loses_nothing() {
    let pair = Pair::start(&[]);
    let (north, south) = (&pair.north, &pair.south);
    let (key, _) = new_key(north, "pair.psk");
    let first = show_of(north, &south.public_key, "latest-handshakes");
    // the clock of a handshake shows seconds
    std::thread::sleep(Duration::from_secs(1));
    let lost = pings_lost(north, south.inner, || {
        set(north, &format!("peer {} preshared-key {key}", south.public_key));
        std::thread::sleep(Duration::from_millis(300));
        set(south, &format!("peer {} preshared-key {key}", north.public_key));
        until(SOON, "there is a session with the new key", || {
            (show_of(north, &south.public_key, "latest-handshakes") != first).then_some(())
        });
    });
    assert_eq!(lost, 0, "pings lost");
    let secret = std::fs::read_to_string(&key).expect("the key");
    assert_eq!(show_of(north, &south.public_key, "preshared-keys"), secret.trim());
    assert_eq!(north.health_of("peers", "south")["set_by"], "wg");
}

fn keys_can_be_cleared() {
    let pair = Pair::start(&[]);
    let (north, south) = (&pair.north, &pair.south);
    let own = north.dir.join("private.key").display().to_string();
    let (key, _) = new_key(north, "pair.psk");
    set(north, &format!("peer {} preshared-key {key}", south.public_key));
    set(north, &format!("peer {} preshared-key /dev/null", south.public_key));
    assert_eq!(show_of(north, &south.public_key, "preshared-keys"), "(none)");
    assert_eq!(north.health_of("peers", "south")["set_by"], "config");
    set(north, "private-key /dev/null");
    assert_eq!(wg(north, &format!("show {INSIDE} private-key")).trim(), "(none)");
    assert_eq!(show(north, "peers").len(), 1, "the peers stay");
    let answered = north.namespace.output(&format!("ping -c 1 -W 1 {}", south.inner)).status.success();
    assert!(!answered, "no session without a key");
    set(north, &format!("private-key {own}"));
    until(FLOW_LIMIT, "with the key there is a session again", || {
        north.namespace.output(&format!("ping -c 1 -W 1 {}", south.inner)).status.success().then_some(())
    });
    assert_eq!(north.health()["set_by_wg"]["tunnel"], serde_json::json!([]));
}

fn a_peer_with_our_own_key_is_ignored() {
    let pair = Pair::start(&[]);
    let (north, south) = (&pair.north, &pair.south);
    set(north, &format!("peer {} allowed-ips {}/32", north.public_key, south.inner));
    assert_eq!(show(north, "peers").len(), 1);
    assert_eq!(show_of(north, &south.public_key, "allowed-ips"), format!("{}/32", south.inner), "nothing is taken");
}

fn an_update_only_updates_and_a_removal_removes() {
    let pair = Pair::start(&[]);
    let (north, south) = (&pair.north, &pair.south);
    let hex = |key: &str| STANDARD.decode(key).expect("a key").iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (_, stranger) = new_key(north, "stranger.key");
    let update =
        |key: &str| format!("set=1\npublic_key={}\nupdate_only=true\npersistent_keepalive_interval=9\n\n", hex(key));
    assert_eq!(say(north, &update(&stranger)), "errno=0\n\n");
    assert_eq!(say(north, &update(&south.public_key)), "errno=0\n\n");
    assert_eq!(show(north, "persistent-keepalive"), [(south.public_key.clone(), "9".to_owned())]);
    set(north, &format!("peer {stranger} allowed-ips 10.1.0.0/16"));
    let name = format!("wg-{}", &hex(&stranger)[..16]);
    assert_eq!(north.health_of("peers", &name)["set_by"], "wg");
    let status = north.namespace.must(&north.command(&["status", "-c", &north.config_path()]).join(" "));
    assert!(status.contains(&name) && status.contains("set by wg, until the next reload"), "{status}");
    set(north, &format!("peer {stranger} remove"));
    assert_eq!(show(north, "peers").len(), 1);
    set(north, &format!("peer {} remove", south.public_key));
    assert!(show(north, "peers").is_empty());
    assert_eq!(north.health()["set_by_wg"]["removed_peers"], serde_json::json!(["south"]));
    set(
        north,
        &format!("peer {} endpoint {}:{UDP_PORT} allowed-ips {}/32", south.public_key, south.outer, south.inner),
    );
    until(FLOW_LIMIT, "the link of a peer that is back is back", || {
        (north.metric("forward_link", "forward=\"orders\"") > 0.5).then_some(())
    });
}

fn an_address_that_moves_takes_its_link_down_and_back() {
    let pair = Pair::start(&["hold_for: 30s"]);
    let (north, south) = (&pair.north, &pair.south);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&north.namespace, FORWARD, 2);
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let (_, other) = new_key(north, "other.key");
    set(north, &format!("peer {other} allowed-ips {}/32", south.inner));
    until(SOON, "the link is down and says why", || {
        let cause = north.health_of("forwards", "orders")["cause"].to_string();
        cause
            .contains("belongs to another peer now")
            .then_some(())
            .or_else(|| cause.contains("does not belong to the peer").then_some(()))
    });
    set(north, &format!("peer {} allowed-ips {}/32", south.public_key, south.inner));
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn a_peer_that_wg_added_may_only_ping() {
    let wire = Wire::new();
    let (mut north, south, guest) = (wire.site("north"), wire.site("south"), wire.site("guest"));
    let plan = Plan::of(&north).peer(&south).service("orders", crate::harness::pair::TARGET, "south", &["port: 2576"]);
    north.start(&plan.tunnel("table: off"));
    let go = WireGuardGo::start(&guest);
    go.peer(&guest, &north, "");
    set(&north, &format!("peer {} allowed-ips {}/32", guest.public_key, guest.inner));
    north.namespace.ip(&format!("route add {}/32 dev {INSIDE}", guest.inner));
    guest.namespace.must(&format!("ping -c 1 -W 5 {}", north.inner));
    for port in [LINK_PORT, 2576, 22] {
        let refused = guest.namespace.connect(SocketAddr::new(north.inner.into(), port));
        assert!(refused.is_err(), "port {port}");
    }
    assert!(north.metric("peer_dropped_packets_total", "reason=\"port_not_offered\"") >= 3.0);
}

fn the_port_and_the_mark_can_be_changed() {
    let pair = Pair::start(&["hold_for: 30s"]);
    let (north, south) = (&pair.north, &pair.south);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&north.namespace, FORWARD, 2);
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let taken = north.namespace.udp("0.0.0.0:41820".parse().expect("an address")).expect("a port");
    let refused = north.namespace.output(&format!("wg set {INSIDE} listen-port 41820 fwmark 0x10"));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("Address already in use"), "{said}");
    assert_eq!(wg(north, &format!("show {INSIDE} listen-port")).trim(), UDP_PORT.to_string());
    assert_eq!(wg(north, &format!("show {INSIDE} fwmark")).trim(), "off", "all or nothing");
    drop(taken);
    set(north, "listen-port 41820 fwmark 0x1234");
    assert_eq!(wg(north, &format!("show {INSIDE} listen-port")).trim(), "41820");
    assert_eq!(wg(north, &format!("show {INSIDE} fwmark")).trim(), "0x1234");
    until(SOON, "the peer finds the new port", || {
        (show_of(south, &north.public_key, "endpoints") == format!("{}:41820", north.outer)).then_some(())
    });
    set(north, "fwmark off");
    assert_eq!(wg(north, &format!("show {INSIDE} fwmark")).trim(), "off");
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn an_endpoint_can_be_set_and_the_peer_still_roams() {
    let pair = Pair::start(&[]);
    let (north, south) = (&pair.north, &pair.south);
    let right = show_of(north, &south.public_key, "endpoints");
    set(north, &format!("peer {} endpoint 198.51.100.99:9", south.public_key));
    until(FLOW_LIMIT, "what the peer sends moves its endpoint back", || {
        (show_of(north, &south.public_key, "endpoints") == right).then_some(())
    });
}

fn a_peer_that_is_set_anew_has_no_endpoint() {
    let pair = Pair::start(&[]);
    let north = &pair.north;
    let (_, key) = new_key(north, "passive.key");
    let endpoint = || show_of(north, &key, "endpoints");
    let point = || {
        set(north, &format!("peer {key} endpoint 198.51.100.77:7"));
        assert_eq!(endpoint(), "198.51.100.77:7");
    };
    let conf = |line: &str| {
        let secret = std::fs::read_to_string(north.dir.join("private.key")).expect("the key");
        let secret = secret.trim();
        let text =
            format!("[Interface]\nPrivateKey = {secret}\nListenPort = {UDP_PORT}\n[Peer]\nPublicKey = {key}\n{line}");
        let path = file(north, "passive.conf", &text);
        wg(north, &format!("setconf {INSIDE} {path}"));
    };
    point();
    set(north, &format!("peer {key} remove peer {key} allowed-ips 10.9.0.0/16"));
    assert_eq!(endpoint(), "(none)", "removed and added in one request");
    point();
    conf("AllowedIPs = 10.9.0.0/16\n");
    assert_eq!(endpoint(), "(none)", "set as a whole");
    conf("Endpoint = 198.51.100.78:8\n");
    assert_eq!(endpoint(), "198.51.100.78:8", "what is said counts");
    set(north, &format!("peer {key} persistent-keepalive 9"));
    assert_eq!(endpoint(), "198.51.100.78:8", "and stays where nothing is said");
}

/// Connects to the socket many times, and says so much at each connection.
fn connections(site: &Site, count: usize, said: &'static [u8]) -> Vec<UnixStream> {
    site.namespace.run(move || {
        let path = format!("/var/run/wireguard/{INSIDE}.sock");
        let connect = |_| {
            let mut stream = UnixStream::connect(&path).expect("accepted, not queued");
            stream.write_all(said).expect("it is taken");
            stream
        };
        (0..count).map(connect).collect()
    })
}

fn silent_connections_keep_nobody_out() {
    let pair = Pair::start(&[]);
    let silent = connections(&pair.north, 300, b"");
    for words in [format!("show {INSIDE}"), format!("set {INSIDE} listen-port {UDP_PORT}")] {
        let start = Instant::now();
        wg(&pair.north, &words);
        assert!(start.elapsed() < SOON, "at once, not after {:?}", start.elapsed());
    }
    let mut oldest = silent.into_iter().next().expect("many");
    let mut said = Vec::new();
    assert_eq!(oldest.read_to_end(&mut said).expect("closed"), 0);
}

fn wg_says_busy_where_every_place_is_taken() {
    let pair = Pair::start(&[]);
    let mut speaking = connections(&pair.north, 16, b"get=1\n\nset=1\n");
    // who was answered has a place of its own
    for connection in &mut speaking {
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !said.ends_with(b"errno=0\n\n") {
            connection.read_exact(&mut byte).expect("an answer");
            said.extend(byte);
        }
    }
    for (words, what) in
        [(format!("show {INSIDE}"), "access"), (format!("set {INSIDE} listen-port {UDP_PORT}"), "modify")]
    {
        let start = Instant::now();
        // again and again: who is closed before it has spoken is told nothing, or killed by SIGPIPE
        for _ in 0..10 {
            let output = pair.north.namespace.output(&format!("wg {words}"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(said.trim(), format!("Unable to {what} interface: Device or resource busy"));
        }
        assert!(start.elapsed() < SOON, "at once, not after {:?}", start.elapsed());
    }
    drop(speaking);
    let shows = || pair.north.namespace.output(&format!("wg show {INSIDE}")).status.success();
    until(SOON, "there is a place again", || shows().then_some(()));
}

fn the_socket_takes_the_place_of_a_dead_one_only() {
    let mut pair = Pair::start(&[]);
    pair.north.kill();
    let there = pair.north.namespace.run(|| std::fs::exists(format!("/var/run/wireguard/{INSIDE}.sock")));
    assert!(there.expect("it can be looked at"), "kill -9 leaves it");
    pair.north.restart();
    assert_eq!(show(&pair.north, "peers").len(), 1);
    pair.north.terminate();
    pair.north.program().wait(FLOW_LIMIT);
    let gone = pair.north.namespace.run(|| std::fs::exists(format!("/var/run/wireguard/{INSIDE}.sock")));
    assert!(!gone.expect("it can be looked at"), "a site that stops takes it away");
    let other = pair
        .north
        .namespace
        .run(|| std::os::unix::net::UnixListener::bind(format!("/var/run/wireguard/{INSIDE}.sock")).expect("a socket"));
    pair.north.restart();
    assert!(pair.north.log().contains("wg(8) cannot reach this tunnel"), "{}", pair.north.log());
    drop(other);
}

fn what_is_no_request_changes_nothing() {
    let pair = Pair::start(&[]);
    let north = &pair.north;
    let before = wg(north, &format!("showconf {INSIDE}"));
    assert_eq!(say(north, "set=1\nlisten_port=41820\npublic_key=xyz\n\n"), "errno=-22\n\n");
    assert_eq!(say(north, "set=1\nlisten_port=41820\nno pair\n\n"), "errno=-71\n\n");
    assert_eq!(say(north, "get=2\n\n"), "errno=71\n\n");
    assert_eq!(say(north, &format!("set=1\nlisten_port=41820\nfwmark={}\n\n", "1".repeat(300))), "errno=-71\n\n");
    let zeros = "0".repeat(64);
    assert_eq!(say(north, &format!("set=1\nlisten_port=41820\npublic_key={zeros}\n\n")), "errno=-22\n\n");
    assert_eq!(wg(north, &format!("showconf {INSIDE}")), before);
    assert!(!pair.north.log().contains("panicked"));
}

fn a_reload_returns_to_the_file() {
    let mut pair = Pair::start(&["hold_for: 30s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, 2);
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let before = wg(&pair.north, &format!("showconf {INSIDE}"));
    let (_, stranger) = new_key(&pair.north, "stranger.key");
    let south = pair.south.public_key.clone();
    set(&pair.north, &format!("listen-port 41820 peer {stranger} allowed-ips 10.1.0.0/16"));
    set(&pair.north, &format!("peer {south} persistent-keepalive 9 allowed-ips 10.98.0.2/32,10.2.0.0/16"));
    assert_eq!(pair.north.health_of("peers", "south")["set_by"], "wg");
    pair.north.program().signal(nix::sys::signal::Signal::SIGHUP);
    until(SOON, "wg shows what the file says", || {
        (wg(&pair.north, &format!("showconf {INSIDE}")) == before).then_some(())
    });
    assert_eq!(pair.north.health_of("peers", "south")["set_by"], "config");
    assert_eq!(pair.north.health()["set_by_wg"]["tunnel"], serde_json::json!([]));
    load.flows_again(Instant::now(), FLOW_LIMIT);
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}
