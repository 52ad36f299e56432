//! Keys that change while messages are stored: a queue follows the peer whose new key was proven, whatever is reloaded
//! or restarted; a key that an operator wrote gets nothing that was accepted for another one.

use std::fs;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::Duration;

use crate::harness::mllp::{Behaviour, message};
use crate::harness::pair::{FORWARD, Pair, TARGET, loopback};
use crate::harness::plan::Plan;
use crate::harness::site::Site;
use crate::harness::{tests, until};
use crate::rotation::{run, try_run};
use crate::stored_intake::{done, send};

tests![
    a_queue_follows_a_peer_that_rotates,
    a_busy_queue_is_changed_and_its_senders_see_nothing_of_new_keys,
    a_peer_that_is_paired_again_gets_what_waits_when_an_operator_says_so,
];

/// Bounds what two sites do by themselves.
const SOON: Duration = Duration::from_secs(20);
/// Keeps the messages at north, be the link up or not.
const PAUSE: &str = "forward pause orders";
const RESUME: &str = "forward resume orders";

/// Starts a pair whose north stores its orders; returns it with the port of another forward, which nobody has.
#[track_caller]
fn started() -> (Pair, String) {
    let mut pair = Pair::unstarted();
    let key = |site: &Site| site.dir.join("spool.key").display().to_string();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key(&pair.north));
    let south = Plan::of(&pair.south).peer(&pair.north);
    pair.south.start(&south.service("orders", TARGET, "north", &[]));
    pair.north.start(&north.forward("orders", FORWARD, "south", "service: orders", &["delivery: stored"]));
    pair.is_linked();
    (pair, loopback(2576).to_string())
}

#[track_caller]
fn state(pair: &Pair, state: &str) -> String {
    let seen = || Some(pair.north.health_of("forwards", "orders")).filter(|forward| forward["queue"]["state"] == state);
    let (forward, _) = until(SOON, &format!("the queue is {state}"), seen);
    forward["cause"].as_str().unwrap_or_default().to_owned()
}

fn a_queue_follows_a_peer_that_rotates() {
    let (mut pair, port) = started();
    done(&pair, PAUSE);
    assert_eq!([send(&pair, "1"), send(&pair, "2")], ["AA 1", "AA 2"]);
    for time in 0..2 {
        assert!(run(&pair.south, &["rotate"]).contains("the old key of this site is gone"));
        // what waits stands in the way of no change of something else
        assert!(run(&pair.north, &["reload"]).contains("reloaded"));
        let add = ["forward", "add", "more", "--listen", &port, "--peer", "south", "--service", "orders"];
        run(&pair.north, &add);
        run(&pair.north, &["forward", "remove", "more"]);
        if time == 0 {
            run(&pair.north, &["rotate"]);
        }
    }
    assert_eq!(send(&pair, "3"), "AA 3");
    pair.north.kill();
    pair.north.restart();
    pair.is_linked();
    state(&pair, "paused");
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    done(&pair, RESUME);
    until(SOON, "all are delivered", || (receiver.payloads().len() == 3).then_some(()));
    state(&pair, "flowing");
}

fn a_busy_queue_is_changed_and_its_senders_see_nothing_of_new_keys() {
    let (pair, port) = started();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let (stop, stopped) = mpsc::channel::<()>();
    let mut sender = pair.sender();
    let sending = thread::spawn(move || {
        let mut sent = 0;
        while let Err(TryRecvError::Empty) = stopped.try_recv() {
            sent += 1;
            sender.send(&message(&sent.to_string(), 500)).expect("no connection ends");
            let answer = String::from_utf8(sender.answer(SOON).expect("an answer")).expect("wardlink's own text");
            assert!(answer.contains(&format!("MSA|AA|{sent}\r")), "{answer}");
        }
        sent
    });
    for site in [&pair.south, &pair.north] {
        run(site, &["rotate"]);
    }
    let add = ["forward", "add", "more", "--listen", &port, "--peer", "south", "--service", "orders"];
    run(&pair.north, &add);
    drop(stop);
    let sent = sending.join().expect("each message is answered");
    until(SOON, "all are delivered", || (receiver.payloads().len() >= sent).then_some(()));
    assert_eq!(receiver.payloads().len(), sent, "each once");
    let log = pair.north.log();
    assert!(!log.contains("the spool is closed") && !log.contains("stands still"), "{log}");
}

fn a_peer_that_is_paired_again_gets_what_waits_when_an_operator_says_so() {
    let (pair, _) = started();
    done(&pair, PAUSE);
    assert_eq!([send(&pair, "1"), send(&pair, "2")], ["AA 1", "AA 2"]);
    let said = run(&pair.south, &["rotate", "--compromised", "--yes"]);
    let card = said.lines().find(|line| line.starts_with("wardlink1:")).expect("the new card").to_owned();
    let words = run(&pair.south, &["card", "--fingerprint"]).trim().replace(' ', "-");
    let said = run(&pair.north, &["pair", &card, "--new-key", "--yes", "--fingerprint", &words]);
    assert!(said.contains("reloaded: peers: 1 changed (south)"), "{said}");
    assert!(said.contains("orders") && said.contains("queue move"), "{said}");
    pair.is_linked();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    assert_eq!(send(&pair, "3"), "AA 3");
    done(&pair, RESUME);
    let cause = state(&pair, "held");
    assert!(cause.contains("it and 1 more were accepted for orders at the peer with key"), "{cause}");
    let from = cause.split("--from-destination ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a command");
    // nothing else is kept from being changed
    assert!(run(&pair.north, &["reload"]).contains("reloaded"));
    // but the queue itself
    let file = pair.north.config_path();
    let text = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, text.replace("service: orders", "service: others")).expect("another one");
    let (code, said) = try_run(&pair.north, &["reload"]);
    assert!(code == Some(1) && said.contains("would be stranded"), "{said}");
    fs::write(&file, text).expect("the one before");
    run(&pair.north, &["reload"]);
    assert_eq!(receiver.payloads().len(), 0, "nothing goes to a key that it was not accepted for");
    done(&pair, &format!("queue move orders --from-destination {from}"));
    until(SOON, "all are delivered", || (receiver.payloads().len() == 3).then_some(()));
}
