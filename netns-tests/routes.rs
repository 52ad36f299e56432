//! Routes: a default route into the tunnel and what it must not take, what is lost and restored, spokes that reach each
//! other through a hub, packets that have nowhere to go, and our own datagrams that come back.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::mllp::{Behaviour, Receiver, Sender, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::wire::Wire;
use crate::harness::{tests, until};

tests![
    a_default_route_takes_everything_but_our_own_datagrams needs "ping" "ipv6",
    a_strict_host_is_told_what_a_default_route_needs,
    a_lost_rule_is_restored needs "ipv6",
    what_is_removed_at_once_is_restored_and_named_in_one_line needs "ipv6",
    rules_of_a_deleted_interface_are_removed needs "ipv6",
    rules_of_a_killed_site_are_removed_by_the_next_start_and_nobody_elses needs "ipv6",
    a_lost_address_route_or_link_is_restored_and_reported,
    a_route_that_cannot_be_restored_is_a_fault_until_it_can,
    what_cannot_be_restored_keeps_nothing_else_away,
    spokes_reach_each_other_through_a_hub_that_routes needs "ping",
    a_packet_that_has_nowhere_to_go_is_answered needs "ipv6",
    our_own_datagrams_that_come_back_are_dropped_and_counted,
    a_table_of_the_admins_takes_none_of_our_own_datagrams_by_itself,
];

/// Bounds what is restored or noticed: half a second, and a machine that is busy.
const RESTORE_LIMIT: Duration = Duration::from_secs(8);

/// Bounds the time until a first message is through.
const LINK_LIMIT: Duration = Duration::from_secs(15);

/// Describes a spoke that sends everything to the hub.
fn default_plan(spoke: &Site, hub: &Site) -> Plan {
    let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", hub.outer);
    let address = format!("address: {}", hub.inner);
    let addresses = format!("{}/32, \"{}/128\"", spoke.inner, spoke.inner_v6);
    Plan::of(spoke).addresses(&addresses).peer_with(hub, "0.0.0.0/0, \"::/0\"", &[&endpoint, &address, "routed: true"])
}

/// Counts the rules of ours, of both families.
fn rules(site: &Site) -> usize {
    let text = site.namespace.ip("-4 rule show") + &site.namespace.ip("-6 rule show");
    text.lines().filter(|line| line.contains("suppress_prefixlength 0") || line.contains("not from all fwmark")).count()
}

/// Returns the device that a packet to an address leaves by.
fn device(site: &Site, words: &str) -> String {
    let text = site.namespace.ip(&format!("route get {words}"));
    let mut words = text.split_whitespace();
    words.find(|word| *word == "dev").and_then(|_| words.next()).unwrap_or_default().to_owned()
}

fn a_default_route_takes_everything_but_our_own_datagrams() {
    let mut pair = Pair::unstarted();
    let north = default_plan(&pair.north, &pair.south).forward("orders", FORWARD, "south", "service: orders", &[]);
    let allowed = format!("{}/32, \"{}/128\"", pair.north.inner, pair.north.inner_v6);
    let south = Plan::of(&pair.south)
        .addresses(&format!("{}/32, \"{}/128\"", pair.south.inner, pair.south.inner_v6))
        .peer_with(&pair.north, &allowed, &["routed: true"])
        .service("orders", TARGET, "north", &[]);
    // what is behind south
    pair.south.namespace.ip("addr add 10.77.0.1/32 dev lo");
    pair.south.namespace.ip("addr add fd77::1/128 dev lo");
    pair.south.start(&south);
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 5000));
    for to in ["10.77.0.1", "fd77::1"] {
        pair.north.namespace.must(&format!("ping -c 1 -W 5 {to}"));
        assert_eq!(device(&pair.north, to), "wl0");
    }
    // what the main table knows better than by its default route stays outside, and so does what carries our mark
    assert_eq!(device(&pair.north, "192.0.2.1"), "w0");
    let text = pair.north.namespace.ip("-4 rule show");
    let mark = text.split("fwmark ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a mark");
    assert_eq!(device(&pair.north, &format!("{} mark {mark}", pair.south.outer)), "w0");
    assert_eq!(device(&pair.north, &pair.south.outer.to_string()), "wl0");
    assert_eq!(pair.north.metric("dropped_packets_total", "routing_loop"), 0.0);
    assert_eq!(rules(&pair.north), 4);
    pair.north.terminate();
    pair.north.program().wait(Duration::from_secs(15));
    assert_eq!(rules(&pair.north), 0, "{}", pair.north.namespace.ip("rule show"));
    assert_eq!(device(&pair.north, "10.77.0.1"), "w0");
}

fn a_strict_host_is_told_what_a_default_route_needs() {
    let mut pair = Pair::unstarted();
    let namespace = std::sync::Arc::clone(&pair.north.namespace);
    let strict = |value: &'static str| {
        namespace.run(move || {
            std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").expect("a setting");
            std::fs::write("/proc/sys/net/ipv4/conf/w0/rp_filter", value).expect("a setting");
        });
    };
    let south = Plan::of(&pair.south).peer_with(&pair.north, &format!("{}/32", pair.north.inner), &[]);
    let north = default_plan(&pair.north, &pair.south);
    strict("1");
    pair.south.start(&south);
    pair.north.start(&north);
    assert!(pair.north.log().contains("net.ipv4.conf.w0.rp_filter is strict"), "{}", pair.north.log());
    let mark_counts = pair
        .north
        .namespace
        .run(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/src_valid_mark").expect("a setting"));
    assert_eq!(mark_counts.trim(), "1");
    let has_session = || pair.north.metric("peer_session", "peer=\"south\"") > 0.5;
    std::thread::sleep(Duration::from_secs(2));
    assert!(!has_session(), "the warning would be wrong");
    strict("2");
    until(LINK_LIMIT, "what it says helps", || has_session().then_some(()));
}

fn a_lost_rule_is_restored() {
    let mut pair = Pair::unstarted();
    pair.north.start(&default_plan(&pair.north, &pair.south));
    assert_eq!(rules(&pair.north), 4);
    for family in ["-4", "-6"] {
        for priority in [32764, 32765] {
            pair.north.namespace.ip(&format!("{family} rule del pref {priority}"));
        }
    }
    until(RESTORE_LIMIT, "the rules are back", || (rules(&pair.north) == 4).then_some(()));
    assert_eq!(device(&pair.north, "10.77.0.1"), "wl0");
    assert_eq!(pair.north.get("/readyz").status, 200);
}

fn what_is_removed_at_once_is_restored_and_named_in_one_line() {
    let mut pair = Pair::unstarted();
    pair.north.start(&default_plan(&pair.north, &pair.south));
    let (north, address) = (&pair.north, pair.north.inner);
    let text = north.namespace.ip("-4 rule show pref 32765");
    let table = text.split("lookup ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a table");
    let removal = format!(
        "addr del {address}/32 dev wl0\nroute flush table {table}\nrule del pref 32764\nrule del pref 32765\n\
         link set wl0 mtu 1300\n"
    );
    let batch = north.dir.join("removal");
    std::fs::write(&batch, removal).expect("written");
    north.namespace.ip(&format!("-4 -batch {}", batch.display()));
    assert_eq!(rules(north), 2, "removed");
    let restored = || north.log().lines().filter(|line| line.contains("; restored")).map(str::to_owned).collect();
    let (lines, _): (Vec<String>, _) =
        until(RESTORE_LIMIT, "it says so", || Some(restored()).filter(|lines: &Vec<String>| !lines.is_empty()));
    let has_all = lines[0].contains(&format!(
        "lost its address {address}/32, the route to 0.0.0.0/0, 2 rules for the default route, has an MTU of 1300 bytes"
    ));
    assert!(has_all && lines.len() == 1, "{lines:?}");
    assert_eq!(rules(north), 4);
    assert!(north.namespace.ip("addr show dev wl0").contains(&format!("{address}/32")));
    assert_eq!(device(north, "10.77.0.1"), "wl0");
}

fn rules_of_a_deleted_interface_are_removed() {
    let mut pair = Pair::unstarted();
    pair.north.start(&default_plan(&pair.north, &pair.south));
    assert_eq!(rules(&pair.north), 4);
    pair.north.namespace.ip("link del wl0");
    let (status, _) = pair.north.program().wait(Duration::from_secs(15));
    let log = pair.north.log();
    assert_eq!(status.code(), Some(1), "{log}");
    for said in ["the interface wl0 was deleted by somebody else", "makes it again at its next start"] {
        assert!(log.contains(said), "{said} is not in {log}");
    }
    for said in ["os error", "stopped"] {
        assert!(!log.contains(said), "{said} is in {log}");
    }
    assert_eq!(rules(&pair.north), 0, "{}", pair.north.namespace.ip("rule show"));
}

fn rules_of_a_killed_site_are_removed_by_the_next_start_and_nobody_elses() {
    let mut pair = Pair::unstarted();
    let namespace = std::sync::Arc::clone(&pair.north.namespace);
    // as wg-quick leaves them for another interface
    namespace.ip("-4 rule add not fwmark 51820 table 51820");
    namespace.ip("-4 rule add table main suppress_prefixlength 0");
    pair.north.start(&default_plan(&pair.north, &pair.south));
    assert_eq!(rules(&pair.north), 6);
    pair.north.kill();
    assert_eq!(rules(&pair.north), 6, "without these the test would prove nothing");
    let (plain, _) = pair.plans(&[]);
    pair.north.start(&plain);
    let left = namespace.ip("-4 rule show");
    assert_eq!(rules(&pair.north), 2, "{left}");
    assert!(left.contains("fwmark 0xca6c lookup 51820"), "{left}");
    assert!(pair.north.log().contains("left behind"), "it says so");
}

fn a_lost_address_route_or_link_is_restored_and_reported() {
    let pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let (north, address, route) = (&pair.north, pair.north.inner, pair.south.inner);
    let is_whole = || {
        let addresses = north.namespace.ip("addr show dev wl0");
        let routes = north.namespace.ip("route show dev wl0");
        addresses.contains(&format!("{address}/32"))
            && addresses.contains(",UP")
            && addresses.contains("mtu 1420")
            && routes.contains(&route.to_string())
    };
    assert!(is_whole());
    let losses = [
        format!("addr del {address}/32 dev wl0"),
        format!("route del {route}/32 dev wl0"),
        "link set wl0 down".to_owned(),
        "link set wl0 mtu 1300".to_owned(),
    ];
    for (restored, loss) in losses.iter().enumerate() {
        assert!(north.metric("interface_restored_total", "") < restored as f64 + 0.5, "before {loss}");
        north.namespace.ip(loss);
        until(RESTORE_LIMIT, "the site is not ready", || (north.get("/readyz").status == 503).then_some(()));
        until(RESTORE_LIMIT, "it is restored", || is_whole().then_some(()));
        until(RESTORE_LIMIT, "the site is ready", || (north.get("/readyz").status == 200).then_some(()));
        until(RESTORE_LIMIT, "it is counted", || {
            (north.metric("interface_restored_total", "") > restored as f64 + 0.5).then_some(())
        });
    }
    pair.sender().exchange(&message("1", 5000));
    let log = north.log();
    for said in
        [format!("lost its address {address}/32"), format!("lost the route to {route}/32"), "is down".to_owned()]
    {
        assert!(log.contains(&said), "{said} is not in {log}");
    }
}

fn a_route_that_cannot_be_restored_is_a_fault_until_it_can() {
    let pair = Pair::start(&[]);
    let (north, route) = (&pair.north, pair.south.inner);
    // Of what was there before the kernel says nothing.
    north.namespace.ip(&format!("route replace {route}/32 dev w0"));
    let cause = || north.health_of("forwards", "orders")["cause"].as_str().unwrap_or_default().to_owned();
    until(RESTORE_LIMIT, "the fault is named", || cause().contains("cannot be restored").then_some(()));
    assert_eq!(north.get("/readyz").status, 503);
    assert_eq!(north.metric("interface_restored_total", ""), 0.0);
    assert!(north.namespace.ip("route show dev w0").contains(&route.to_string()), "it is the admin's");
    north.namespace.ip(&format!("route del {route}/32 dev w0"));
    until(RESTORE_LIMIT, "the site is ready", || (north.get("/readyz").status == 200).then_some(()));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
}

fn what_cannot_be_restored_keeps_nothing_else_away() {
    let mut pair = Pair::unstarted();
    let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", pair.south.outer);
    let allowed = format!("10.61.0.0/24, {}/32", pair.south.inner);
    let north = Plan::of(&pair.north).peer_with(&pair.south, &allowed, &[&endpoint]);
    let (_, south) = pair.plans(&[]);
    pair.south.start(&south);
    pair.north.start(&north.forward("orders", FORWARD, "south", "service: orders", &["hold_for: 20s"]));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    pair.north.namespace.ip("link set wl0 down");
    pair.north.namespace.ip("route add 10.61.0.0/24 dev w0 proto static scope link");
    let route = pair.south.inner.to_string();
    until(RESTORE_LIMIT, "the other peer's route is restored", || {
        pair.north.namespace.ip("route show dev wl0").contains(&route).then_some(())
    });
    assert_eq!(pair.north.get("/readyz").status, 503, "one is a fault");
    pair.sender().exchange(&message("2", 500));
}

fn spokes_reach_each_other_through_a_hub_that_routes() {
    let wire = Wire::new();
    let (mut hub, mut east, mut west) = (wire.site("hub"), wire.site("east"), wire.site("west"));
    let hub_plan = |routed: &[&str]| {
        let peer = |plan: Plan, spoke: &Site| plan.peer_with(spoke, &format!("{}/32", spoke.inner), routed);
        peer(peer(Plan::of(&hub), &east), &west)
    };
    let plans = (hub_plan(&["routed: true"]), hub_plan(&[]));
    let spoke = |site: &Site, other: &Site| {
        let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", hub.outer);
        let address = format!("address: {}", hub.inner);
        Plan::of(site).peer_with(&hub, &format!("{}/32, {}/32", hub.inner, other.inner), &[&endpoint, &address])
    };
    let to = format!("to: \"{}:2576\"", west.inner);
    let east_plan = spoke(&east, &west).forward("orders", FORWARD, "hub", &to, &["hold_for: 3s"]);
    let west_plan = spoke(&west, &east).service("orders", TARGET, "hub", &["port: 2576"]);
    hub.start(&plans.0);
    west.start(&west_plan);
    east.start(&east_plan);
    assert!(hub.log().contains("net.ipv4.ip_forward"), "it says what the host lacks:\n{}", hub.log());
    hub.namespace.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward"));
    let _receiver = Receiver::start(&west.namespace, TARGET, Behaviour::Answer("AA"));
    until(LINK_LIMIT, "east reaches west", || {
        let ping = east.namespace.output(&format!("ping -c 1 -W 1 {}", west.inner));
        ping.status.success().then_some(())
    });
    let mut sender = Sender::connect(&east.namespace, FORWARD).expect("the forward listens");
    for (id, bytes) in [("1", 500), ("2", 2_000_000)] {
        sender.exchange(&message(id, bytes));
    }
    drop(sender);
    // written once a second: a hub that does not know where its spokes are waits until they notice, 15 s
    let kept = hub.dir.join("state/endpoints.json");
    until(LINK_LIMIT, "the hub has kept both endpoints", || {
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        (text.matches(&format!(":{UDP_PORT}")).count() == 2).then_some(())
    });
    // the same without routed: the hub's kernel forwards, and the filter stands before it
    hub.terminate();
    hub.program().wait(Duration::from_secs(15));
    hub.start(&plans.1);
    let hub_is_there = || east.namespace.output(&format!("ping -c 1 -W 1 {}", hub.inner)).status.success();
    until(LINK_LIMIT, "east reaches the hub", || hub_is_there().then_some(()));
    assert!(!east.namespace.output(&format!("ping -c 2 -W 1 {}", west.inner)).status.success(), "east reached west");
    assert!(hub.metric("dropped_packets_total", "not_for_us") >= 2.0);
}

fn a_packet_that_has_nowhere_to_go_is_answered() {
    let wire = Wire::new();
    let (mut north, south) = (wire.site("north"), wire.site("south"));
    let addresses = format!("{}/32, \"{}/128\"", north.inner, north.inner_v6);
    let allowed = format!("{}/32, \"{}/128\"", south.inner, south.inner_v6);
    north.start(&Plan::of(&north).addresses(&addresses).peer_with(&south, &allowed, &[]));
    // nobody's, in both families
    north.namespace.ip("route add 10.99.0.0/16 dev wl0");
    north.namespace.ip("-6 route add fd99::/64 dev wl0");
    let silent: [SocketAddr; 4] = [
        "10.99.0.1:80".parse().unwrap(),
        "[fd99::1]:80".parse().unwrap(),
        // a peer's, whose endpoint is not known yet
        SocketAddr::new(south.inner.into(), 80),
        SocketAddr::new(south.inner_v6.into(), 80),
    ];
    for to in silent {
        let start = Instant::now();
        let error = north.namespace.connect_within(None, to, Duration::from_secs(4)).expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{to}: {error}");
        assert!(start.elapsed() < Duration::from_secs(2), "{to}: at once, not after {:?}", start.elapsed());
    }
    assert!(north.metric("wardlink_dropped_total", "no_peer") >= 2.0);
    assert!(north.metric("peer_dropped_packets_total", "no_endpoint") >= 2.0);
}

fn our_own_datagrams_that_come_back_are_dropped_and_counted() {
    let mut pair = Pair::start(&["hold_for: 20s"]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("1", 500));
    // the peer's allowed IPs come to hold its own endpoint: check-config cannot see that where the peer comes by itself
    pair.south.terminate();
    pair.south.program().wait(Duration::from_secs(15));
    let allowed = format!("{}/32, {}/32", pair.north.inner, pair.north.outer);
    let south = Plan::of(&pair.south).peer_with(&pair.north, &allowed, &["address: 10.98.0.1"]);
    pair.south.start(&south.service("orders", TARGET, "north", &[]));
    let id = pair.south.program().id();
    let looped = || pair.south.metric("peer_dropped_packets_total", "routing_loop");
    until(LINK_LIMIT, "a datagram has come back", || (looped() > 0.5).then_some(()));
    // bounded: each that comes back is dropped once, and begets none
    let before = looped();
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        fields[11..13].iter().filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
    };
    let spent = cpu();
    std::thread::sleep(Duration::from_secs(3));
    let (more, ticks) = (looped() - before, cpu() - spent);
    assert!(more < 100.0, "{more} datagrams came back within 3 s");
    assert!(ticks < 100, "{ticks} ticks of a CPU for that");
    // mended as an admin would, from outside
    let (route, router) = (pair.north.outer, "198.51.100.1");
    pair.south.namespace.ip(&format!("route add {route}/32 via {router} dev w0 metric 0 table 77"));
    pair.south.namespace.ip("rule add pref 100 table 77");
    pair.sender().exchange(&message("2", 500));
}

fn a_table_of_the_admins_takes_none_of_our_own_datagrams_by_itself() {
    let mut pair = Pair::unstarted();
    let (endpoint, address) =
        (format!("endpoint: \"{}:{UDP_PORT}\"", pair.south.outer), format!("address: {}", pair.south.inner));
    let north = Plan::of(&pair.north)
        .tunnel("table: 77")
        .peer_with(&pair.south, "0.0.0.0/1, 128.0.0.0/1", &[&endpoint, &address])
        .forward("orders", FORWARD, "south", "service: orders", &["hold_for: 20s"]);
    let (_, south) = pair.plans(&[]);
    // what the admin sends there goes by its source
    pair.north.namespace.ip(&format!("rule add from {} table 77", pair.north.inner));
    pair.south.start(&south);
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 5000));
    assert_eq!(device(&pair.north, &format!("{} from {}", pair.south.outer, pair.north.inner)), "wl0");
    assert_eq!(device(&pair.north, &pair.south.outer.to_string()), "w0");
    assert_eq!(pair.north.metric("peer_dropped_packets_total", "routing_loop"), 0.0);
}
