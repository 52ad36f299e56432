//! A hop between the sites that takes less than a full datagram, with ICMP and without: 2 MB messages pass both ways.
//! Where nobody says that a packet is too large, IPv6 loses it, for its routers do not fragment (RFC 8200, 4.5).

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::mllp::{ANSWER_LIMIT, Behaviour, Receiver, framed, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::wire::{outer_v4, outer_v6};
use crate::harness::wireguard_go::WireGuardGo;
use crate::harness::{is_available, tests};

tests![
    a_1492_byte_hop_with_icmp needs "nft" "ping",
    a_1492_byte_hop_without_icmp needs "nft" "ping",
    a_1280_byte_hop_with_icmp needs "nft" "ping",
    a_1280_byte_hop_without_icmp needs "nft" "ping",
    a_plain_wireguard_site_behind_a_1280_byte_hop needs "nft" "ping" "wg" "wireguard-go" "ipv6",
];

/// Is the size of a large message.
const MESSAGE_BYTES: usize = 2_000_000;

/// Bounds the time that one takes there or back: without a stall it is well below a second.
const MESSAGE_LIMIT: Duration = Duration::from_secs(4);

/// Makes both ways through the wire a hop of so many bytes, and shows that it is one.
fn narrow(pair: &Pair, mtu: u16, has_icmp: bool) {
    let wire = &pair.wire.namespace;
    for site in [&pair.north, &pair.south] {
        let number = site.number;
        let prefix = format!("{}/24", outer_v4(number, 0));
        wire.ip(&format!("route replace {prefix} dev w{number} src {} mtu lock {mtu}", outer_v4(number, 1)));
        if is_available("ipv6") {
            wire.ip(&format!("-6 route replace {}/64 dev w{number} metric 1 mtu lock {mtu}", outer_v6(number, 0)));
        }
    }
    if !has_icmp {
        wire.must("nft add table inet quiet");
        wire.must("nft add chain inet quiet out { type filter hook output priority 0 ; }");
        wire.must("nft add rule inet quiet out icmp type destination-unreachable drop");
        wire.must("nft add rule inet quiet out icmpv6 type packet-too-big drop");
    }
    let passes = |from: &Site, to: IpAddr, bytes: u16| {
        from.namespace.output(&format!("ping -c 1 -W 1 -M do -s {bytes} {to}")).status.success()
    };
    // 28 and 48 bytes are the headers of ICMP and IP
    let mut ends: Vec<(IpAddr, u16)> = vec![(pair.south.outer.into(), 28)];
    if is_available("ipv6") {
        ends.push((pair.south.outer_v6.into(), 48));
    }
    for (to, header) in ends {
        assert!(passes(&pair.north, to, mtu - header), "{mtu} bytes pass to {to}");
        assert!(!passes(&pair.north, to, mtu - header + 1), "a byte more does not pass to {to}");
    }
    if has_icmp {
        return;
    }
    // what a site has learnt all the same would spoil the test
    for site in [&pair.north, &pair.south] {
        let cached = site.namespace.ip("route show cache") + &site.namespace.ip("-6 route show cache");
        assert!(!cached.contains("mtu"), "{cached}");
    }
}

fn endpoint(of: &Site, is_v6: bool) -> String {
    let outer: IpAddr = if is_v6 { of.outer_v6.into() } else { of.outer.into() };
    format!("endpoint: \"{}\"", SocketAddr::new(outer, UDP_PORT))
}

fn carries(mtu: u16, has_icmp: bool, is_v6: bool) {
    let mut pair = Pair::unstarted();
    narrow(&pair, mtu, has_icmp);
    let plan =
        |from: &Site, to: &Site| Plan::of(from).peer_with(to, &format!("{}/32", to.inner), &[&endpoint(to, is_v6)]);
    let south = plan(&pair.south, &pair.north).service("orders", TARGET, "north", &[]);
    let north = plan(&pair.north, &pair.south);
    pair.south.start(&south);
    pair.north.start(&north.forward("orders", FORWARD, "south", "service: orders", &["hold_for: 10s"]));
    pair.is_linked();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    passes_both_ways(&pair, &receiver, &format!("{mtu} bytes, IPv6 outside: {is_v6}, ICMP: {has_icmp}"));
}

/// Asserts that a large message passes there, and one back.
fn passes_both_ways(pair: &Pair, receiver: &Receiver, what: &str) {
    let mut sender = pair.sender();
    sender.exchange(&message("small", 500));
    let (there, back) = (message("there", MESSAGE_BYTES), message("back", MESSAGE_BYTES));
    let start = Instant::now();
    sender.exchange(&there);
    let took = start.elapsed();
    assert!(took < MESSAGE_LIMIT, "{what}: there in {took:?}");
    assert_eq!(receiver.payloads()[1], there);
    let start = Instant::now();
    receiver.push(&framed(&back));
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(back), "{what}");
    let took = start.elapsed();
    assert!(took < MESSAGE_LIMIT, "{what}: back in {took:?}");
}

fn both_families(mtu: u16, has_icmp: bool) {
    thread::scope(|scope| {
        scope.spawn(|| carries(mtu, has_icmp, false));
        if is_available("ipv6") {
            scope.spawn(|| carries(mtu, has_icmp, true));
        }
    });
}

fn a_1492_byte_hop_with_icmp() {
    both_families(1492, true);
}

fn a_1492_byte_hop_without_icmp() {
    both_families(1492, false);
}

fn a_1280_byte_hop_with_icmp() {
    both_families(1280, true);
}

fn a_1280_byte_hop_without_icmp() {
    both_families(1280, false);
}

fn a_plain_wireguard_site_behind_a_1280_byte_hop() {
    let mut pair = Pair::unstarted();
    narrow(&pair, 1280, false);
    let go = WireGuardGo::start(&pair.south);
    go.peer(&pair.south, &pair.north, "");
    let key = &pair.north.public_key;
    pair.south.namespace.must(&format!("wg set wg0 peer {key} endpoint [{}]:{UDP_PORT}", pair.north.outer_v6));
    let at = SocketAddr::new(pair.south.inner.into(), 2576);
    let plan = Plan::of(&pair.north).peer_with(
        &pair.south,
        &format!("{}/32", pair.south.inner),
        &[&endpoint(&pair.south, true)],
    );
    pair.north.start(&plan.forward("orders", FORWARD, "south", &format!("to: \"{at}\""), &["hold_for: 10s"]));
    let receiver = Receiver::start(&pair.south.namespace, at, Behaviour::Answer("AA"));
    passes_both_ways(&pair, &receiver, "plain WireGuard");
}
