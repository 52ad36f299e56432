//! What is at fault stands in one line at both ends: in `/healthz`, `status`, `check` and the log, in either delivery.

use std::process::Command;
use std::time::Duration;

use crate::harness::mllp::{Behaviour, Receiver, Sender, message};
use crate::harness::pair::{Pair, TARGET, loopback};
use crate::harness::plan::Plan;
use crate::harness::site::Site;
use crate::harness::tls::Authority;
use crate::harness::{tests, until};

tests![
    each_fault_is_one_line_in_transparent_delivery,
    each_fault_is_one_line_in_stored_delivery,
    a_receiver_whose_connections_are_all_taken_is_said_at_its_site,
    two_releases_of_mllp_that_nothing_translates_are_said,
];

/// Bounds the time until a fault is known: a look-up without an answer, a TLS handshake.
const CAUSE_LIMIT: Duration = Duration::from_secs(45);

fn each_fault_is_one_line_in_transparent_delivery() {
    each_fault_is_one_line(&["on_unreachable: hold", "hold_for: 60s"]);
}

fn each_fault_is_one_line_in_stored_delivery() {
    each_fault_is_one_line(&["delivery: stored"]);
}

fn each_fault_is_one_line(lines: &[&str]) {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(lines);
    let key = pair.north.dir.join("spool.key").display().to_string();
    Authority::new("issuer").write(&pair.south, "ca.pem");
    let south = south
        .service("names", "no-such-host.invalid:6661", "north", &[])
        .service("secure", loopback(6662), "north", &["tls: {ca_file: ca.pem, server_name: lab}"])
        .service("closed", loopback(6663), "", &[]);
    let names = ["names", "secure", "unknown", "closed"];
    let north = names.iter().zip(2576..).fold(north.spool(&key), |north, (name, port)| {
        north.forward(name, loopback(port), "south", &format!("service: {name}"), lines)
    });
    let _plain = Receiver::start(&pair.south.namespace, loopback(6662), Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let mut senders: Vec<Sender> = Vec::new();
    for port in 2575..2580 {
        let mut sender = Sender::connect(&pair.north.namespace, loopback(port)).expect("the forward listens");
        sender.send(&message("1", 500)).expect("open");
        senders.push(sender);
    }
    for (forward, says) in [
        ("orders", "receiver 127.0.0.1:6661 refuses connections at south since 20"),
        ("names", "receiver no-such-host.invalid:6661 is not found: its name does not resolve at south since 20"),
        (
            "secure",
            "receiver 127.0.0.1:6662 does not finish the TLS handshake, as where it speaks plain MLLP at south since",
        ),
        ("unknown", "link to south: service unknown is not known at south"),
        ("closed", "link to south: service closed is not offered to this site"),
    ] {
        is_said(&pair.north, "forwards", forward, says);
        let line = output(&pair.north, &["check", "--forward", forward]);
        assert!(line.starts_with("WARDLINK CRITICAL: ") && line.contains(says), "{line}");
    }
    for (service, says) in [
        ("orders", "receiver 127.0.0.1:6661 refuses connections since 20"),
        ("names", "receiver no-such-host.invalid:6661 is not found: its name does not resolve since 20"),
        ("secure", "receiver 127.0.0.1:6662 does not finish the TLS handshake, as where it speaks plain MLLP since"),
    ] {
        is_said(&pair.south, "services", service, says);
    }
    let log = pair.north.log();
    for says in ["service unknown is not known at south", "service closed is not offered to this site"] {
        assert!(log.contains(says), "{says} is not in the log:\n{log}");
    }
    let log = pair.south.log();
    for says in ["the receiver refuses connections", "the receiver's name does not resolve", "TLS handshake"] {
        assert!(log.contains(says), "{says} is not in the log:\n{log}");
    }
    pair.south.kill();
    is_said(&pair.north, "forwards", "orders", "no session with south (endpoint ");
}

/// Waits until one line says so in `/healthz`, and finds the same in `wardlink status`.
#[track_caller]
fn is_said(site: &Site, list: &str, name: &str, says: &str) {
    let (cause, _) = until(CAUSE_LIMIT, says, || {
        let entry = site.health_of(list, name);
        entry["cause"].as_str().filter(|cause| cause.contains(says)).map(str::to_owned)
    });
    assert_eq!(cause.lines().count(), 1, "{cause}");
    let status = output(site, &["status"]);
    assert!(status.contains(says), "{says} is not in\n{status}");
}

fn output(site: &Site, words: &[&str]) -> String {
    let config = site.config_path();
    let words = site.command(&[words, &["-c", &config]].concat());
    let done = Command::new(&words[0]).args(&words[1..]).output().expect("the command runs");
    String::from_utf8(done.stdout).expect("UTF-8")
}

fn a_receiver_whose_connections_are_all_taken_is_said_at_its_site() {
    let mut pair = Pair::unstarted();
    let (north, _) = pair.plans(&["hold_for: 60s"]);
    let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &["connections: 2"]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let mut holders = [pair.sender(), pair.sender()];
    holders.iter_mut().for_each(|holder| holder.exchange(&message("1", 500)));
    assert_eq!(pair.south.health_of("services", "orders")["status"], "ok");
    let mut third = pair.sender();
    third.send(&message("2", 500)).expect("open");
    let says =
        "receiver 127.0.0.1:6661 has all 2 connections that connections: allows, and senders wait for one in vain";
    is_said(&pair.south, "services", "orders", says);
    drop(holders);
    assert!(third.answer(CAUSE_LIMIT).is_ok(), "it has its turn");
    until(CAUSE_LIMIT, "it is over", || (pair.south.health_of("services", "orders")["status"] == "ok").then_some(()));
}

fn two_releases_of_mllp_that_nothing_translates_are_said() {
    let mut pair = Pair::unstarted();
    let plans = |pair: &Pair, forward: &[&str], service: &[&str]| {
        let (north, _) = pair.plans(forward);
        let key = pair.north.dir.join("spool.key").display().to_string();
        let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", service);
        (north.spool(&key), south)
    };
    let release_2 = &["mllp: release2"][..];
    let (north, south) = plans(&pair, release_2, &[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let says = "this forward has mllp: release2, and service orders at south has not: write it at both or at neither";
    is_said(&pair.north, "forwards", "orders", says);
    let line = output(&pair.north, &["check", "--forward", "orders"]);
    assert!(line.starts_with("WARDLINK WARNING: ") && line.contains(says), "{line}");
    let take_up = |site: &Site, plan: &Plan| {
        site.write(plan);
        let said = output(site, &["reload"]);
        assert!(said.starts_with("reloaded: "), "{said}");
    };
    let is_over = || {
        until(CAUSE_LIMIT, "it is over", || {
            let forward = pair.north.health_of("forwards", "orders");
            (!forward["cause"].to_string().contains("release2")).then_some(())
        })
    };
    // the far site tells of a change at once
    take_up(&pair.south, &plans(&pair, &[], release_2).1);
    is_over();
    take_up(&pair.north, &plans(&pair, &[], &[]).0);
    let says = "service orders at south has mllp: release2, and this forward has not: write it at both or at neither";
    is_said(&pair.north, "forwards", "orders", says);
    take_up(&pair.north, &plans(&pair, &["delivery: stored"], &[]).0);
    is_over();
}
