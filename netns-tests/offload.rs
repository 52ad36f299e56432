//! Several packets in one system call where the kernel can, one by one where it cannot: found out at the start or while
//! running, without the loss of a message, and told.
//!
//! A kernel that cannot is made of this one by `spoil/spoil.c`, which stands between wardlink and the C library.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::mllp::{Behaviour, message};
use crate::harness::pair::Pair;
use crate::harness::{tests, until};

tests![
    a_usual_kernel_offloads_everywhere,
    each_offload_has_a_switch,
    a_kernel_without_super_packets_gets_packets_one_by_one needs "cc",
    offload_that_is_demanded_in_vain_is_an_error needs "cc",
    a_super_packet_that_is_refused_is_handed_over_in_pieces needs "cc",
    segments_that_are_refused_are_sent_one_by_one needs "cc",
    a_kernel_that_spoils_segments_is_found_out_at_the_start needs "cc",
    a_kernel_that_spoils_what_it_puts_together_is_found_out_later needs "cc",
];

/// Bounds the start of a session and a link, on a machine that is busy.
const LINK_LIMIT: Duration = Duration::from_secs(15);
const PLACES: [&str; 4] = ["tun_read", "tun_write", "udp_receive", "udp_send"];

/// Lists where the site at south offloads.
fn offloads(pair: &Pair) -> Vec<&'static str> {
    let is_in_use = |place: &&str| pair.south.metric("tunnel_offload", &format!("place=\"{place}\"")) > 0.5;
    PLACES.into_iter().filter(is_in_use).collect()
}

/// Starts a pair, with these lines in the tunnel of south, which runs on a kernel that spoils `what`.
fn pair(lines: &[&str], what: Option<&str>) -> Pair {
    let mut pair = Pair::unstarted();
    // BBR takes what is lost until the fault is found out for a slow path, and sends 16 kB/s for ten seconds after it.
    for site in [&pair.north, &pair.south] {
        site.namespace.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno")).expect("reno");
    }
    let (north, mut south) = pair.plans(&[]);
    for line in lines {
        south = south.tunnel(line);
    }
    if let Some(what) = what {
        pair.south.environment = vec![format!("LD_PRELOAD={}", library(&pair).display()), format!("SPOIL={what}")];
    }
    pair.south.start(&south);
    pair.north.start(&north);
    until(LINK_LIMIT, "the link is up", || {
        (pair.north.metric("forward_link", "forward=\"orders\"") > 0.5).then_some(())
    });
    pair
}

/// Builds what spoils system calls.
fn library(pair: &Pair) -> PathBuf {
    let library = pair.south.dir.join("spoil.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-tests/spoil/spoil.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(built.expect("cc").success());
    library
}

/// Sends large messages both ways: their answers are as large as they are small, so that super-packets leave and come.
fn messages_pass(pair: &Pair) {
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    for id in ["1", "2", "3"] {
        sender.exchange(&message(id, 1_000_000));
    }
    receiver.push(&crate::harness::mllp::framed(&message("back", 1_000_000)));
    assert_eq!(sender.answer(LINK_LIMIT), Ok(message("back", 1_000_000)));
    assert_eq!(receiver.payloads(), ["1", "2", "3"].map(|id| message(id, 1_000_000)));
}

fn a_usual_kernel_offloads_everywhere() {
    let pair = pair(&[], None);
    messages_pass(&pair);
    assert_eq!(offloads(&pair), PLACES);
    let log = pair.south.log();
    assert!(!log.contains("one by one"), "{log}");
}

fn each_offload_has_a_switch() {
    let plain = pair(&["backend: plain"], None);
    messages_pass(&plain);
    assert_eq!(offloads(&plain), ["udp_receive", "udp_send"]);
    let single = pair(&["backend: offload", "udp_offload: off"], None);
    messages_pass(&single);
    assert_eq!(offloads(&single), ["tun_read", "tun_write"]);
}

fn a_kernel_without_super_packets_gets_packets_one_by_one() {
    let pair = pair(&["backend: auto"], Some("tun"));
    messages_pass(&pair);
    assert_eq!(offloads(&pair), ["udp_receive", "udp_send"]);
}

fn offload_that_is_demanded_in_vain_is_an_error() {
    let mut pair = Pair::unstarted();
    let (_, south) = pair.plans(&[]);
    pair.south.environment = vec![format!("LD_PRELOAD={}", library(&pair).display()), "SPOIL=tun".to_owned()];
    pair.south.write(&south.tunnel("backend: offload"));
    pair.south.launch();
    let (ended, _) = until(LINK_LIMIT, "the site ends", || pair.south.program().ended());
    assert_eq!(ended.code(), Some(1));
    let log = pair.south.log();
    assert!(log.contains("backend: plain"), "says what to do: {log}");
}

fn a_super_packet_that_is_refused_is_handed_over_in_pieces() {
    let pair = pair(&[], Some("tun_write"));
    messages_pass(&pair);
    assert_eq!(offloads(&pair), ["tun_read", "udp_receive", "udp_send"]);
    let log = pair.south.log();
    assert_eq!(log.matches("the kernel refuses a super-packet").count(), 1, "{log}");
    let dropped = pair.south.metric("peer_dropped_packets_total", "peer=\"north\",reason=\"interface_write\"");
    assert!(dropped < 0.5, "nothing of it is lost");
}

fn segments_that_are_refused_are_sent_one_by_one() {
    let pair = pair(&[], Some("udp_send"));
    messages_pass(&pair);
    let failed = pair.south.metric("peer_dropped_packets_total", "peer=\"north\",reason=\"send_failed\"");
    assert!(failed < 0.5, "nothing of it is lost");
}

fn a_kernel_that_spoils_segments_is_found_out_at_the_start() {
    let pair = pair(&[], Some("udp"));
    messages_pass(&pair);
    assert_eq!(offloads(&pair), ["tun_read", "tun_write"]);
}

fn a_kernel_that_spoils_what_it_puts_together_is_found_out_later() {
    let pair = pair(&[], Some("udp_receive"));
    messages_pass(&pair);
    assert_eq!(offloads(&pair), ["tun_read", "tun_write", "udp_send"]);
    let log = pair.south.log();
    assert_eq!(log.matches("received one by one from now on").count(), 1, "{log}");
}
