//! MLLP Release 2 and other framings at either leg and in both deliveries, with senders and receivers that are Python's.
//!
//! ```text
//!   sender ─ 127.0.0.1:2575 orders [north] wl0 ═══ wire ═══ wl0 [south] orders ─ 127.0.0.1:6661 receiver
//! ```

use std::time::Duration;

use crate::harness::commit::{Receiver, send};
use crate::harness::mllp::Behaviour;
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::Plan;
use crate::harness::{tests, until};

tests![
    both_ends_commit_to_each_other_in_transparent_delivery needs "python3",
    a_receiver_of_release_2_that_takes_one_connection_has_one_sender_after_the_other needs "python3",
    a_sender_of_release_2_is_refused_by_a_negative_commit_while_its_receiver_is_away needs "python3",
    both_ends_are_committed_to_in_stored_delivery needs "python3",
    a_refused_a_lost_and_a_late_commit_are_asked_for_again needs "python3",
    a_sender_of_release_1_reaches_a_receiver_of_release_2_in_another_framing needs "python3",
    a_sender_of_release_2_in_another_framing_reaches_a_receiver_of_release_1 needs "python3",
    a_forward_to_an_address_translates_too needs "python3",
    a_sender_that_does_not_commit_its_answer_gets_it_again_and_is_closed needs "python3",
    a_receiver_that_answers_commits_is_let_go_and_named needs "python3",
];

/// Bounds what two sites do by themselves.
const SOON: Duration = Duration::from_secs(15);

const RELEASE_2: &str = "mllp: release2";
const STORED: &str = "delivery: stored";

/// Returns the configurations with these lines in the forward and in the service.
fn plans(pair: &Pair, forward: &[&str], service: &[&str]) -> (Plan, Plan) {
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&pair.north.dir.join("spool.key").display().to_string());
    let north = north.forward("orders", FORWARD, "south", "service: orders", forward);
    (north, Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", service))
}

#[track_caller]
fn begin(forward: &[&str], service: &[&str]) -> Pair {
    let mut pair = Pair::unstarted();
    let (north, south) = plans(&pair, forward, service);
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    pair
}

/// Lists what a sender is told of so many messages that are committed and answered.
fn told(count: usize) -> Vec<String> {
    let both = (0..count).flat_map(|number| ["ACK".to_owned(), format!("AA T{number}")]);
    both.chain(["goodbye".to_owned()]).collect()
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("T{number}")).collect()
}

#[track_caller]
fn settled(pair: &Pair) {
    let depth = || pair.north.health_of("forwards", "orders")["queue_depth"] == 0;
    until(SOON, "the queue is empty", || depth().then_some(()));
}

fn both_ends_commit_to_each_other_in_transparent_delivery() {
    let pair = begin(&[RELEASE_2], &[RELEASE_2]);
    let receiver = Receiver::start(&pair.south, TARGET, "--commits ack,nak");
    let mut expected = told(3);
    expected.insert(2, "NAK".to_owned());
    assert_eq!(send(&pair.north, FORWARD, "--count 3"), expected);
    assert_eq!(receiver.control_ids(), ["T0", "T1", "T1", "T2"]);
    receiver.is_committed_to(3);
    let (forward, _) = until(SOON, "every commit is counted", || {
        let forward = pair.north.health_of("forwards", "orders");
        (forward["acks"]["ACK"] == 3 && forward["acks"]["NAK"] == 1 && forward["acks"]["AA"] == 3).then_some(forward)
    });
    assert_eq!(forward["unknown_outcomes_total"], 0, "what is not committed has an outcome: {forward}");
    assert!(forward["anomalies"].as_object().is_none_or(serde_json::Map::is_empty), "{forward}");
}

fn a_receiver_of_release_2_that_takes_one_connection_has_one_sender_after_the_other() {
    let pair = begin(&[RELEASE_2], &[RELEASE_2, "connections: 1"]);
    let receiver = Receiver::start(&pair.south, TARGET, "");
    for _ in 0..2 {
        assert_eq!(send(&pair.north, FORWARD, "--count 2"), told(2));
    }
    receiver.is_committed_to(4);
}

fn a_sender_of_release_2_is_refused_by_a_negative_commit_while_its_receiver_is_away() {
    let pair = begin(&[RELEASE_2, "on_unreachable: nak"], &[RELEASE_2]);
    let lines = send(&pair.north, FORWARD, "--modes |||NE|NE");
    assert_eq!(lines, ["NAK", "NAK", "NAK", "goodbye"]);
    let receiver = Receiver::start(&pair.south, TARGET, "");
    assert_eq!(send(&pair.north, FORWARD, ""), told(1));
    assert_eq!(receiver.control_ids(), ["T0"]);
}

fn both_ends_are_committed_to_in_stored_delivery() {
    let pair = begin(&[RELEASE_2, STORED], &[RELEASE_2]);
    assert_eq!(send(&pair.north, FORWARD, "--count 3"), told(3), "whether its receiver is there or not");
    let receiver = Receiver::start(&pair.south, TARGET, "");
    settled(&pair);
    assert_eq!(receiver.control_ids(), ids(3));
    receiver.is_committed_to(3);
    let no_answer = send(&pair.north, FORWARD, "--count 2 --modes |||NE|NE");
    assert_eq!(no_answer, ["ACK", "ACK", "goodbye"]);
    let forward = pair.north.health_of("forwards", "orders");
    assert_eq!((&forward["acks"]["ACK"], &forward["acks"]["AA"]), (&5.into(), &3.into()));
}

fn a_refused_a_lost_and_a_late_commit_are_asked_for_again() {
    let knobs = "commit: {timeout: 1s, retries: 2, pause: 200ms}";
    let pair = begin(&[STORED], &[RELEASE_2, knobs, "ack: none"]);
    let words = "--commits nak,none,ack,late,twice,nak,nak,nak,nak --timeout 1 --mute";
    let receiver = Receiver::start(&pair.south, TARGET, words);
    let lines = send(&pair.north, FORWARD, "--release 1 --count 4");
    assert_eq!(lines.len(), 5, "{lines:?}");
    settled(&pair);
    let mut came = receiver.control_ids();
    came.dedup();
    assert_eq!(came, ids(4), "in order, none overtakes the one before");
    // One that said it has not, and one that said nothing: then the next message, whose commit came late and twice.
    assert_eq!(receiver.control_ids()[..5], ["T0", "T0", "T0", "T1", "T1"]);
    let in_doubt = pair.south.metric("service_in_doubt_total", "service=\"orders\"");
    assert!((in_doubt - 2.0).abs() < 0.1, "the lost and the late one may be there twice: {in_doubt}");
    assert_eq!(pair.north.health_of("forwards", "orders")["queue"]["parked"].as_u64().unwrap_or(0), 0);
}

fn a_sender_of_release_1_reaches_a_receiver_of_release_2_in_another_framing() {
    let pair = begin(&[STORED], &[RELEASE_2, "framing: {start: 0x02, end: [0x03]}"]);
    let receiver = Receiver::start(&pair.south, TARGET, "--start 02 --end 03 --commits nak");
    let lines = send(&pair.north, FORWARD, "--release 1 --count 3");
    assert_eq!(lines, ["AA T0", "AA T1", "AA T2", "goodbye"]);
    settled(&pair);
    assert_eq!(receiver.control_ids(), ["T0", "T0", "T1", "T2"]);
    receiver.is_committed_to(3);
    let in_doubt = pair.south.metric("service_in_doubt_total", "service=\"orders\"");
    assert!(in_doubt.abs() < 0.1, "what is not committed is not in doubt");
}

fn a_sender_of_release_2_in_another_framing_reaches_a_receiver_of_release_1() {
    let pair = begin(&[RELEASE_2, STORED, "framing: {start: 0x02, end: [0x03, 0x0D]}"], &[]);
    let receiver = Receiver::start(&pair.south, TARGET, "--release 1");
    assert_eq!(send(&pair.north, FORWARD, "--start 02 --end 030d --count 3"), told(3));
    settled(&pair);
    assert_eq!(receiver.control_ids(), ids(3));
    assert!(!receiver.log().contains("stray"), "it is committed nothing: {}", receiver.log());
}

fn a_forward_to_an_address_translates_too() {
    let mut pair = Pair::unstarted();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let to = format!("to: {}:2576", pair.south.inner);
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let receiver = "receiver: {mllp: release2, framing: {start: 0x02, end: [0x03]}}";
    let north = north.forward("orders", FORWARD, "south", &to, &[STORED, receiver]);
    let service = ["port: 2576", RELEASE_2, "framing: {start: 0x02, end: [0x03]}"];
    pair.south.start(&Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &service));
    pair.north.start(&north);
    let receiver = Receiver::start(&pair.south, TARGET, "--start 02 --end 03");
    let lines = send(&pair.north, FORWARD, "--release 1 --count 2");
    assert_eq!(lines, ["AA T0", "AA T1", "goodbye"]);
    settled(&pair);
    assert_eq!(receiver.control_ids(), ids(2));
    receiver.is_committed_to(2);
}

fn a_sender_that_does_not_commit_its_answer_gets_it_again_and_is_closed() {
    let pair = begin(&[RELEASE_2, STORED, "commit: {timeout: 1s, retries: 2, pause: 200ms}"], &[RELEASE_2]);
    let receiver = Receiver::start(&pair.south, TARGET, "");
    let lines = send(&pair.north, FORWARD, "--commits none,nak,ack");
    assert_eq!(lines, ["ACK", "AA T0", "AA T0", "AA T0", "goodbye"]);
    let lines = send(&pair.north, FORWARD, "--commits none,nak,none");
    assert_eq!(lines, ["ACK", "AA T0", "AA T0", "AA T0", "closed"]);
    settled(&pair);
    assert_eq!(receiver.control_ids(), ["T0", "T0"], "each was kept once, and is on its way once");
    assert_eq!(pair.north.health_of("forwards", "orders")["closed"]["answer_not_committed"], 1);
}

fn a_receiver_that_answers_commits_is_let_go_and_named() {
    let pair = begin(&[STORED], &[RELEASE_2]);
    let receiver = pair.receiver(Behaviour::Answer("AA")); // to whatever comes, as one of Release 1
    assert_eq!(send(&pair.north, FORWARD, "--release 1"), ["AA T0", "goodbye"]);
    settled(&pair);
    let closed = || pair.south.metric("service_closed_connections_total", "reason=\"answers_commits\"") > 0.9;
    until(SOON, "it is counted", || closed().then_some(()));
    assert_eq!((receiver.payloads().len(), receiver.connections()), (1 + 8, 1), "one message, a few commits");
    let service = pair.south.health_of("services", "orders");
    assert!(service["cause"].as_str().is_some_and(|cause| cause.contains("answers commits")), "{service}");
    assert!(pair.south.log().contains("leave mllp: release2 out"), "{}", pair.south.log());
    assert_eq!(send(&pair.north, FORWARD, "--release 1"), ["AA T0", "goodbye"]);
    settled(&pair);
}
