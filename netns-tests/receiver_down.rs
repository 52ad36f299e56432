//! The receiver is not there, does not answer, or closes: a message is held, refused or lost as the forward says, never
//! acknowledged by anybody but the receiver, and never delivered twice.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::harness::mllp::{ANSWER_LIMIT, Behaviour, Lost, Sender, answer_to, message};
use crate::harness::pair::{FORWARD, Pair, loopback};
use crate::harness::{tests, until};

tests![
    a_held_message_is_delivered_when_the_receiver_comes,
    a_hold_that_expires_closes_the_connection,
    a_sender_that_gives_up_during_a_hold_is_not_delivered,
    close_closes_at_once,
    nak_answers_ar_with_error_207,
    nak_answers_a_frame_without_its_last_byte_too,
    nak_answers_cr_in_enhanced_mode,
    a_receiver_that_closes_before_its_answer_is_not_tried_again,
    a_receiver_that_never_answers_is_waited_for,
    a_receiver_that_never_answers_degrades_its_forward_and_service,
    health_names_the_receiver_as_the_cause,
    a_receiver_that_restarts_is_found_again,
];

/// Is how long a test looks at something that must not happen.
const QUIET: Duration = Duration::from_millis(700);

/// Bounds what must happen at once.
const SOON: Duration = Duration::from_secs(3);

fn a_held_message_is_delivered_when_the_receiver_comes() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 20s"]);
    let payload = message("held", 500);
    let mut sender = pair.sender();
    sender.send(&payload).expect("open");
    assert_eq!(sender.answer(QUIET), Err(Lost::Late));
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(&payload, "AA")));
    sender.exchange(&message("next", 500));
    assert_eq!(receiver.payloads().len(), 2);
}

fn a_hold_that_expires_closes_the_connection() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 1s"]);
    let mut sender = pair.sender();
    let start = Instant::now();
    sender.send(&message("held", 500)).expect("open");
    assert_eq!(sender.answer(Duration::from_secs(4)), Err(Lost::Closed));
    let held = start.elapsed();
    assert!(held > Duration::from_millis(800), "held for {held:?} only");
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    until(ANSWER_LIMIT, "a new message passes", || {
        let mut sender = Sender::connect(&pair.north.namespace, FORWARD).ok()?;
        sender.send(&message("new", 500)).ok()?;
        sender.answer(SOON).ok()
    });
    assert!(!receiver.payloads().contains(&message("held", 500)), "what the sender will send again was delivered");
}

fn a_sender_that_gives_up_during_a_hold_is_not_delivered() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 20s"]);
    let mut sender = pair.sender();
    sender.send(&message("given up", 500)).expect("open");
    assert_eq!(sender.answer(QUIET), Err(Lost::Late));
    drop(sender);
    std::thread::sleep(QUIET);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("next", 500));
    assert_eq!(receiver.payloads(), [message("next", 500)], "the resend of what was given up would be a duplicate");
}

fn close_closes_at_once() {
    let pair = Pair::start(&["on_unreachable: close"]);
    let start = Instant::now();
    if let Ok(mut sender) = Sender::connect(&pair.north.namespace, FORWARD) {
        let _ = sender.send(&message("refused", 500));
        assert_eq!(sender.answer(SOON), Err(Lost::Closed));
    }
    assert!(start.elapsed() < SOON);
}

fn nak_answers_ar_with_error_207() {
    let pair = Pair::start(&["on_unreachable: nak"]);
    let mut sender = pair.sender();
    sender.send(&message("refused", 500)).expect("open");
    let answer = sender.answer(SOON).expect("an answer");
    let text = String::from_utf8(answer).expect("wardlink's own text");
    assert!(text.starts_with("MSH|^~\\&|"), "{text}");
    assert!(text.contains("\rMSA|AR|refused"), "{text}");
    let error =
        text.split('\r').find(|segment| segment.starts_with("ERR|")).unwrap_or_else(|| panic!("no ERR: {text}"));
    assert!(error.contains("207"), "{text}");
}

fn nak_answers_a_frame_without_its_last_byte_too() {
    let pair = Pair::start(&["on_unreachable: nak"]);
    let mut sender = pair.sender();
    let mut frame = vec![0x0b];
    frame.extend_from_slice(&message("short", 500));
    frame.push(0x1c);
    sender.stream.write_all(&frame).expect("open");
    let answer = String::from_utf8(sender.answer(SOON).expect("an answer")).expect("wardlink's own text");
    assert!(answer.contains("\rMSA|AR|short"), "{answer}");
}

fn nak_answers_cr_in_enhanced_mode() {
    let pair = Pair::start(&["on_unreachable: nak"]);
    let mut sender = pair.sender();
    let enhanced = b"MSH|^~\\&|HIS|N|LAB|S|20260101||ADT^A01|refused|P|2.5|||AL|NE\rPID|1\r";
    sender.send(enhanced).expect("open");
    let answer = String::from_utf8(sender.answer(SOON).expect("an answer")).expect("wardlink's own text");
    assert!(answer.contains("\rMSA|CR|refused"), "{answer}");
}

fn a_receiver_that_closes_before_its_answer_is_not_tried_again() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 20s"]);
    let receiver = pair.receiver(Behaviour::Close);
    let mut sender = pair.sender();
    sender.send(&message("lost", 500)).expect("open");
    assert_eq!(sender.answer(SOON), Err(Lost::Closed));
    std::thread::sleep(QUIET);
    assert_eq!(receiver.payloads(), [message("lost", 500)], "the receiver may have processed it: never twice");
}

fn a_receiver_that_never_answers_is_waited_for() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Silent);
    let mut sender = pair.sender();
    sender.send(&message("1", 500)).expect("open");
    assert_eq!(sender.answer(2 * QUIET), Err(Lost::Late));
    assert_eq!(receiver.payloads().len(), 1);
    receiver.push(&crate::harness::mllp::framed(&answer_to(&message("1", 500), "AA")));
    assert_eq!(sender.answer(SOON), Ok(answer_to(&message("1", 500), "AA")));
}

fn a_receiver_that_never_answers_degrades_its_forward_and_service() {
    let pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Silent);
    let mut sender = pair.sender();
    sender.send(&message("1", 500)).expect("open");
    assert_eq!(sender.answer(Duration::from_millis(5200)), Err(Lost::Late));
    drop(sender);
    for (site, list, name) in [(&pair.north, "forwards", "orders"), (&pair.south, "services", "orders")] {
        let cause = until(SOON, "it is degraded", || {
            let health = site.health_of(list, name);
            (health["status"] == "degraded").then(|| health["cause"].as_str().expect("a cause").to_owned())
        });
        assert!(cause.0.starts_with("a message waited in vain for an answer of receiver "), "{}", cause.0);
    }
}

fn health_names_the_receiver_as_the_cause() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&["on_unreachable: hold", "hold_for: 1s"]);
    pair.south.start(&south.service("other", loopback(6662), "north", &[]));
    pair.north.start(&north.forward("other", loopback(2576), "south", "service: other", &[]));
    let mut sender = pair.sender();
    sender.send(&message("held", 500)).expect("open");
    let (entry, _) = until(SOON, "the forward is down", || {
        let entry = pair.north.health_of("forwards", "orders");
        (entry["status"] == "down").then_some(entry)
    });
    let cause = entry["cause"].as_str().unwrap_or_else(|| panic!("no cause in {entry}"));
    assert!(cause.contains("receiver"), "the receiver is the cause: {cause}");
    assert!(!cause.contains('\n'), "one line: {cause}");
    assert_eq!(pair.north.get("/healthz/forwards/orders").status, 503);
    assert_eq!(pair.north.get("/healthz/forwards/other").status, 200, "another forward is not to blame");
    assert_eq!(pair.north.get("/readyz").status, 200, "this site can do its part");
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    until(ANSWER_LIMIT, "the forward is ok again", || {
        let mut sender = Sender::connect(&pair.north.namespace, FORWARD).ok()?;
        sender.send(&message("next", 500)).ok()?;
        sender.answer(SOON).ok()?;
        (pair.north.health_of("forwards", "orders")["status"] == "ok").then_some(())
    });
}

fn a_receiver_that_restarts_is_found_again() {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 20s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("1", 500));
    drop(receiver);
    assert_eq!(sender.answer(SOON), Err(Lost::Closed), "the end of the receiver's connection is the sender's");
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("2", 500));
}
