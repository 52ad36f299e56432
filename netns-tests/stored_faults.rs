//! Stored delivery where the disk is at fault: a message that it changed, whole sites.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::mllp::{Behaviour, Receiver, control_id, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::Plan;
use crate::harness::{tests, until};

tests![
    the_feed_stops_at_a_damaged_message_and_goes_on_by_an_operators_word needs "python3",
    a_cut_large_message_holds_the_feed_and_is_given_up,
];

/// Bounds what sites do by themselves: a link after a restart among it.
const SOON: Duration = Duration::from_secs(20);

/// Makes a pair whose north stores its orders, and starts north alone.
fn alone() -> (Pair, Plan) {
    let mut pair = Pair::unstarted();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let lines = ["delivery: stored", "on_full: nak"];
    let north = north.forward("orders", FORWARD, "south", "service: orders", &lines);
    let (_, south) = pair.plans(&[]);
    pair.north.start(&north);
    (pair, south)
}

/// Sends a message that is accepted.
#[track_caller]
fn keep(pair: &Pair, id: &str, bytes: usize) {
    let mut sender = pair.sender();
    sender.send(&message(id, bytes)).expect("open");
    let answer = String::from_utf8(sender.answer(SOON).expect("an answer")).expect("wardlink's own text");
    assert!(answer.contains(&format!("MSA|AA|{id}")), "{answer}");
}

/// Runs a command against north that succeeds.
#[track_caller]
fn done(pair: &Pair, words: &str) -> String {
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let words = format!("{words} --socket {socket}");
    pair.north.namespace.must(&pair.north.command(&words.split(' ').collect::<Vec<_>>()).join(" "))
}

fn ids(receiver: &Receiver) -> Vec<String> {
    let of = |payload: &Vec<u8>| String::from_utf8_lossy(control_id(payload)).into_owned();
    receiver.payloads().iter().map(of).collect()
}

/// Waits until these messages have come, in order, and no other.
#[track_caller]
fn come(receiver: &Receiver, expected: &[&str]) {
    until(SOON, "they come", || (receiver.payloads().len() >= expected.len()).then_some(()));
    assert_eq!(ids(receiver), expected);
}

/// Waits until north says that its queue is held at this message, and returns the cause.
#[track_caller]
fn held(pair: &Pair, sequence: u64) -> String {
    let (forward, _) = until(SOON, "it is held", || {
        Some(pair.north.health_of("forwards", "orders")).filter(|forward| forward["queue"]["state"] == "held")
    });
    assert_eq!((&forward["queue"]["sequence"], &forward["status"]), (&sequence.into(), &"down".into()), "{forward}");
    assert_eq!(forward["link"]["state"], "up", "{forward}");
    forward["cause"].as_str().expect("a cause").to_owned()
}

fn the_feed_stops_at_a_damaged_message_and_goes_on_by_an_operators_word() {
    let (mut pair, south) = alone();
    for id in ["1", "2", "3", "4"] {
        keep(&pair, id, 500);
    }
    pair.north.kill();
    let flip = "import sqlite3, sys\n\
                database = sqlite3.connect(sys.argv[1])\n\
                sealed = bytearray(database.execute('select sealed from contents where sequence = 3').fetchone()[0])\n\
                sealed[100] ^= 1\n\
                database.execute('update contents set sealed = ? where sequence = 3', (bytes(sealed),))\n\
                database.commit()\n";
    let database = pair.north.dir.join("state/spool/orders/spool.db");
    assert!(Command::new("python3").args(["-c", flip]).arg(database).status().expect("python3").success());
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.restart();
    come(&receiver, &["1", "2"]);
    let cause = held(&pair, 3);
    assert!(cause.contains("message 3 is damaged"), "{cause}");
    assert!(done(&pair, "queue list orders").lines().any(|line| line.contains("queued, damaged")));
    assert!(done(&pair, "queue show orders 3").contains("damaged      message 3 was changed"));
    // Messages are taken on, and wait behind it.
    keep(&pair, "5", 500);
    assert_eq!(ids(&receiver), ["1", "2"]);
    done(&pair, "queue park orders 3");
    come(&receiver, &["1", "2", "4", "5"]);
    until(SOON, "it flows", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
    assert!(done(&pair, "queue list orders --state parked").lines().any(|line| line.starts_with("3 ")));
}

fn a_cut_large_message_holds_the_feed_and_is_given_up() {
    let (mut pair, south) = alone();
    keep(&pair, "1", 500);
    keep(&pair, "2", 2 << 20);
    keep(&pair, "3", 500);
    pair.north.kill();
    let entries = fs::read_dir(pair.north.dir.join("state/spool/orders")).expect("the spool");
    let mut large = entries.map(|entry| entry.expect("an entry").path());
    let large = large.find(|path| path.extension().is_some_and(|end| end == "sealed")).expect("a large message");
    fs::OpenOptions::new().write(true).open(large).and_then(|file| file.set_len(1 << 20)).expect("it is cut");
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.restart();
    come(&receiver, &["1"]);
    assert!(held(&pair, 2).contains("message 2 is damaged"));
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let words = ["queue", "discard", "orders", "2", "--reason", "printed", "--socket", &socket];
    pair.north.namespace.must(&pair.north.command(&words).join(" "));
    come(&receiver, &["1", "3"]);
}
