//! The wire is cut under load and mended: no sender's connection is lost, no ACK is wrong or missing.
//! 3 s here; 20 s, the acceptance criterion's, with `WARDLINK_NETNS_FULL=1`.

use std::time::{Duration, Instant};

use crate::harness::load::Load;
use crate::harness::mllp::{ANSWER_LIMIT, Behaviour, Lost, answer_to, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::{full, tests, until};

tests![
    connections_survive_a_cut_under_load,
    a_message_sent_during_a_cut_is_delivered_once,
    a_sender_that_connects_during_a_cut_is_held,
    a_sender_that_gives_up_during_a_cut_is_not_the_receivers_fault,
    a_site_that_starts_during_a_cut_is_linked_when_it_ends,
];

/// Is the number of senders.
const SENDERS: usize = 8;

/// Bounds the time until a first batch has passed.
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);

/// Returns the length of the cut, and the bound of the time from its end until all senders have an answer again.
fn durations() -> (Duration, Duration) {
    if full() {
        (Duration::from_secs(20), Duration::from_secs(20))
    } else {
        (Duration::from_secs(3), Duration::from_secs(5))
    }
}

fn connections_survive_a_cut_under_load() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 30s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, SENDERS);
    load.flows_again(Instant::now(), WARM_UP_LIMIT);
    let (cut, limit) = durations();
    pair.wire.cut();
    let before = load.acked();
    std::thread::sleep(cut);
    assert!(load.acked() <= before + SENDERS, "the wire was cut");
    pair.wire.mend();
    load.flows_again(Instant::now(), limit);
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
    assert_eq!(receiver.payloads().len(), report.acked.len(), "each message is delivered once");
}

fn a_message_sent_during_a_cut_is_delivered_once() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 30s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("before", 500));
    pair.wire.cut();
    sender.send(&message("during", 500)).expect("open");
    assert_eq!(sender.answer(Duration::from_secs(1)), Err(Lost::Late));
    pair.wire.mend();
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(&message("during", 500), "AA")));
    assert_eq!(receiver.payloads().len(), 2);
}

fn a_sender_that_connects_during_a_cut_is_held() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 30s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("before", 500));
    pair.wire.cut();
    let mut sender = pair.sender();
    sender.send(&message("during", 500)).expect("open");
    assert_eq!(sender.answer(Duration::from_secs(1)), Err(Lost::Late));
    pair.wire.mend();
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(&message("during", 500), "AA")));
    assert_eq!(receiver.payloads().len(), 2);
}

fn a_sender_that_gives_up_during_a_cut_is_not_the_receivers_fault() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 30s"]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("before", 500));
    pair.wire.cut();
    let mut sender = pair.sender();
    sender.send(&message("during", 500)).expect("open");
    assert_eq!(sender.answer(Duration::from_secs(6)), Err(Lost::Late));
    drop(sender);
    let gone = || {
        let forward = pair.north.health_of("forwards", "orders");
        (forward["link"]["state"] == "down" && forward["unanswered"] == 0).then_some(())
    };
    until(2 * ANSWER_LIMIT, "the link is seen to be down, and the sender to be gone", gone);
    pair.wire.mend();
    until(2 * ANSWER_LIMIT, "all is well, though nothing was sent since", || {
        (pair.north.health_of("forwards", "orders")["status"] == "ok").then_some(())
    });
}

fn a_site_that_starts_during_a_cut_is_linked_when_it_ends() {
    let mut pair = Pair::unstarted();
    pair.wire.cut();
    let (north, south) = pair.plans(&["on_unreachable: hold", "hold_for: 30s"]);
    pair.south.start(&south);
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let payload = message("early", 500);
    let mut sender = pair.sender();
    sender.send(&payload).expect("open");
    assert_eq!(sender.answer(Duration::from_millis(300)), Err(Lost::Late));
    pair.wire.mend();
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(&payload, "AA")));
}
