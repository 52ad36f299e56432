//! Cases in which the receiver, or the way to it, does what the field does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Both, KEPT, KEPT_TARGET, QUIET, SOON, sites};
use crate::harness::mllp::{Behaviour, Lost, Receiver, Sender, answer_to, control_id, framed, message};
use crate::harness::pair::{FORWARD, TARGET};
use crate::harness::{tests, until};

tests![
    case_20_half_open_after_a_loss,
    case_22_receiver_closes_before_the_ack,
    case_25_receiver_accepts_then_closes_at_a_limit,
    case_26_receiver_in_whose_backlog_a_connection_waits,
    case_27_answer_to_another_message,
    case_28_late_or_duplicate_answer,
    case_29_reply_without_msa,
    case_30_message_from_the_receivers_side,
    case_31_commit_then_application_answer,
    case_32_receiver_that_never_answers,
    case_37_answer_split_over_segments,
];

/// Says of a stored forward that its owner does without the application's answer.
const DISCARD: &[&str] = &["accept_application_ack: discard"];

/// Sends a message in both deliveries; it is acknowledged where it is stored.
#[track_caller]
fn sent(both: &Both, payload: &[u8]) -> super::Senders {
    let mut senders = both.senders();
    senders.write(&framed(payload));
    assert_eq!(senders.kept_code().1, control_id(payload));
    senders
}

/// Expects these payloads in transparent delivery, each as the receiver wrote it.
#[track_caller]
fn passed(sender: &mut Sender, payloads: &[Vec<u8>]) {
    for payload in payloads {
        assert_eq!(sender.answer(SOON).as_ref(), Ok(payload));
    }
}

#[track_caller]
fn dropped(both: &Both, kind: &str, times: u32) {
    let label = format!("kind=\"{kind}\"");
    let seen = || (both.pair.south.metric("service_dropped_answers_total", &label) - f64::from(times)).abs() < 0.1;
    until(SOON, &format!("{kind} is counted {times} times"), || seen().then_some(()));
}

fn case_20_half_open_after_a_loss() {
    let both = Both::start(&[]);
    let mut senders = sent(&both, &message("1", 300));
    passed(&mut senders.orders, &[answer_to(&message("1", 300), "AA")]);
    // The kernel asks each leg whether it lives: sender, tunnel, receiver.
    let timers = |site: &crate::harness::site::Site, port: u16| {
        let text = site.namespace.must(&format!("ss -tnoH state established sport = :{port} or dport = :{port}"));
        let legs: Vec<&str> = text.lines().filter(|line| line.contains(&format!(":{port}"))).collect();
        (legs.len(), legs.iter().filter(|line| line.contains("timer:(keepalive")).count())
    };
    // Both ends of a leg are on this host, and wardlink's own asks; while bytes are on their way no timer is shown to ask.
    let asks = |site, port, ends_min| {
        let what = format!("port {port} is asked whether it lives");
        until(SOON, &what, || {
            let (ends, asking) = timers(site, port);
            (ends >= ends_min && asking >= 1).then_some(())
        });
    };
    for (site, port) in [(&both.pair.north, 2575), (&both.pair.north, 2585), (&both.pair.south, 6661)] {
        asks(site, port, 2);
    }
    for site in [&both.pair.north, &both.pair.south] {
        asks(site, 2570, 1);
    }
}

fn case_22_receiver_closes_before_the_ack() {
    let both = Both::with(&[], &[], &["in_doubt: hold"], Behaviour::Close);
    let mut senders = sent(&both, &message("1", 300));
    assert_eq!(senders.orders.answer(SOON), Err(Lost::Closed), "never success");
    drop(senders);
    until(SOON, "the outcome is counted as unknown", || {
        (both.pair.north.metric("forward_unknown_outcome_messages_total", "forward=\"orders\"") > 0.5).then_some(())
    });
    both.held();
    assert_eq!((both.orders.payloads().len(), both.kept.payloads().len()), (1, 1), "nor sent again unasked");
    // By default a stored one is sent again, three times in all, then held.
    let both = Both::with(&[], &[], &["retry_min: 100ms"], Behaviour::Close);
    sent(&both, &message("2", 300));
    both.held();
    assert_eq!(both.kept.payloads(), vec![message("2", 300); 3]);
    assert!((both.pair.south.metric("service_in_doubt_total", "service=\"kept\"") - 2.0).abs() < 0.1);
}

fn case_25_receiver_accepts_then_closes_at_a_limit() {
    let both = Both::with(&[], &[], &[], Behaviour::TurnAway);
    let mut senders = sent(&both, &message("1", 300));
    assert_eq!(senders.orders.answer(SOON), Err(Lost::Closed));
    thread::sleep(Duration::from_secs(2));
    let tried = both.kept.connections();
    assert!((1..12).contains(&tried), "it is tried again, with pauses: {tried} times");
    let forward = &both.forwards()[1];
    assert_eq!(forward["queue_depth"], 1, "{forward}");
    for _ in 0..20 {
        let service = both.pair.south.health_of("services", "kept");
        // The service's own cause may be the message that it holds: it took bytes of it, and closed, as often as it may.
        let (receiver, status) = (&service["receiver"], &service["status"]);
        let cause = receiver["cause"].as_str().unwrap_or_default();
        assert!(
            status == "down" && receiver["state"] == "down" && cause.contains("ends its connections before it answers"),
            "it is named, and not up in between: {service}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn case_26_receiver_in_whose_backlog_a_connection_waits() {
    let pair = sites(&[], &[], &["ack_timeout: 1s", "in_doubt: hold"]);
    let listen = |at| pair.south.namespace.listen(at).expect("the port is free");
    let (_orders, _kept) = (listen(TARGET), listen(KEPT_TARGET));
    let connect = |to| Sender::connect(&pair.north.namespace, to).expect("the forward listens");
    let (mut orders, mut kept) = (connect(FORWARD), connect(super::KEPT));
    orders.send(&message("1", 300)).expect("open");
    kept.send(&message("1", 300)).expect("open");
    assert!(kept.answer(SOON).is_ok(), "stored delivery does not wait for the receiver");
    // Transparent: measured meanwhile, and ended where the service says so.
    until(SOON, "it is measured", || {
        (pair.north.metric("forward_unanswered_messages", "forward=\"orders\"") > 0.5).then_some(())
    });
    assert_eq!(orders.answer(SOON), Err(Lost::Closed));
    until(SOON, "the queue is held", || {
        (pair.north.health_of("forwards", "kept")["queue"]["state"] == "held").then_some(())
    });
    assert_eq!(pair.north.health_of("forwards", "orders")["closed"]["ack_timeout"], 1);
}

fn foreign() -> Vec<u8> {
    answer_to(&message("other", 200), "AA")
}

fn case_27_answer_to_another_message() {
    let both = Both::with(
        &[],
        &[],
        &[],
        Behaviour::Say(|payload| vec![framed(&foreign()), framed(&answer_to(payload, "AA"))]),
    );
    let one = message("1", 300);
    let mut senders = sent(&both, &one);
    passed(&mut senders.orders, &[foreign(), answer_to(&one, "AA")]);
    assert_eq!(both.forwards()[0]["anomalies"]["answer_unmatched"], 1);
    dropped(&both, "foreign", 1);
    both.delivered(&[one]);
}

fn case_28_late_or_duplicate_answer() {
    let both = Both::with(&[], &[], &[], Behaviour::Say(|payload| vec![framed(&answer_to(payload, "AA")); 2]));
    let (one, two) = (message("1", 300), message("2", 300));
    let mut senders = sent(&both, &one);
    passed(&mut senders.orders, &[answer_to(&one, "AA"), answer_to(&one, "AA")]);
    assert_eq!(both.forwards()[0]["anomalies"]["answer_unmatched"], 1);
    senders.kept.send(&two).expect("open");
    assert_eq!(senders.kept_code().1, b"2");
    both.delivered(&[one, two]);
    dropped(&both, "late", 2);
    // Where senders share the connection, neither gets it, and it is counted where anybody can see it.
    let twice = |payload: &[u8]| vec![framed(&answer_to(payload, "AA")); 2];
    let shared = Both::with(&[], &[], &["connections: 1"], Behaviour::Say(twice));
    let (mut sender, first) = (shared.senders().orders, message("1", 300));
    sender.send(&first).expect("open");
    passed(&mut sender, &[answer_to(&first, "AA")]);
    let label = "service=\"orders\",kind=\"answer_unmatched\"";
    let counted = || shared.pair.south.metric("service_anomalies_total", label) > 0.9;
    until(SOON, "what is dropped is counted", || counted().then_some(()));
    let service = shared.pair.south.health_of("services", "orders");
    assert_eq!(service["anomalies_total"]["answer_unmatched"], 1, "{service}");
    answers_that_come_too_late();
}

/// After an answer that did not come in time the connection is closed, so that it meets no other message.
fn answers_that_come_too_late() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    static IS_LATE: AtomicBool = AtomicBool::new(true);
    let late_once = |payload: &[u8]| {
        if IS_LATE.swap(false, Ordering::SeqCst) {
            thread::sleep(TIMEOUT * 3 / 2);
        }
        vec![framed(&answer_to(payload, "AA"))]
    };
    let pair = sites(&[], &[], &["ack_timeout: 1s", "retry_min: 1s"]);
    let kept = Receiver::start(&pair.south.namespace, KEPT_TARGET, Behaviour::Say(late_once));
    let mut sender = Sender::connect(&pair.north.namespace, KEPT).expect("the forward listens");
    for payload in [message("1", 300), message("2", 300)] {
        sender.send(&payload).expect("open");
        assert!(sender.answer(SOON).is_ok(), "it is stored");
    }
    let queue = || pair.north.health_of("forwards", "kept")["queue_depth"] == 0;
    until(SOON, "both are settled", || queue().then_some(()));
    assert_eq!(kept.payloads(), [message("1", 300), message("1", 300), message("2", 300)]);
    assert_eq!(kept.connections(), 2, "what was answered late has lost its connection");
    let _orders = Receiver::start(&pair.south.namespace, TARGET, Behaviour::AnswerAfter(TIMEOUT * 2));
    let mut sender = pair.sender();
    sender.send(&message("3", 300)).expect("open");
    assert_eq!(sender.answer(SOON), Err(Lost::Closed));
    let closed = || pair.north.health_of("forwards", "orders")["closed"]["ack_timeout"] == 1;
    until(SOON, "it is counted", || closed().then_some(()));
}

fn case_29_reply_without_msa() {
    let bare = || b"MSH|^~\\&|LAB|S|HIS|N|2026||ACK|9|P|2.5\r".to_vec();
    let lines = ["ack_timeout: 1s", "in_doubt: hold"];
    let both =
        Both::with(&[], &[], &lines, Behaviour::Say(|_| vec![framed(b"MSH|^~\\&|LAB|S|HIS|N|2026||ACK|9|P|2.5\r")]));
    let mut senders = sent(&both, &message("1", 300));
    passed(&mut senders.orders, &[bare()]);
    assert_eq!(both.forwards()[0]["acks"]["none"], 1);
    dropped(&both, "no_answer", 1);
    both.held();
}

fn case_30_message_from_the_receivers_side() {
    let own = || message("unasked", 300);
    let both = Both::with(
        &[],
        &[],
        &[],
        Behaviour::Say(|payload| {
            let own = framed(&message("unasked", 300));
            if payload.starts_with(b"MSH|^~\\&|LAB") { vec![] } else { vec![own, framed(&answer_to(payload, "AA"))] }
        }),
    );
    let one = message("1", 300);
    let mut senders = sent(&both, &one);
    passed(&mut senders.orders, &[own(), answer_to(&one, "AA")]);
    // And its answer goes back.
    let answer = answer_to(&own(), "AA");
    senders.orders.send(&answer).expect("open");
    until(SOON, "the receiver has its answer", || both.orders.raw().ends_with(&framed(&answer)).then_some(()));
    dropped(&both, "no_answer", 1);
    both.delivered(&[one]);
}

fn case_31_commit_then_application_answer() {
    let both = Both::with(
        DISCARD,
        &[],
        &[],
        Behaviour::Say(|payload| vec![framed(&answer_to(payload, "CA")), framed(&answer_to(payload, "AA"))]),
    );
    let one = b"MSH|^~\\&|HIS|N|LAB|S|2026||ADT^A01|1|P|2.5|||AL|AL\r".to_vec();
    let mut senders = sent(&both, &one);
    passed(&mut senders.orders, &[answer_to(&one, "CA"), answer_to(&one, "AA")]);
    assert!(both.forwards()[0]["anomalies"].get("answer_unmatched").is_none());
    both.delivered(std::slice::from_ref(&one));
    assert!(both.pair.south.metric("service_dropped_answers_total", "service=\"kept\"").abs() < 0.1);
    // Where the service says so, the CA alone settles a stored one.
    let commit = |payload: &[u8]| vec![framed(&answer_to(payload, "CA"))];
    let both = Both::with(DISCARD, &[], &["ack: accept"], Behaviour::Say(commit));
    let mut senders = sent(&both, &one);
    passed(&mut senders.orders, &[answer_to(&one, "CA")]);
    both.delivered(&[one]);
}

fn case_32_receiver_that_never_answers() {
    let both = Both::with(&[], &[], &["ack: none"], Behaviour::Silent);
    let one = message("1", 300);
    let mut senders = sent(&both, &one);
    both.delivered(&[one]);
    assert_eq!(senders.orders.answer(QUIET), Err(Lost::Late), "nobody answers for it");
    assert!(both.pair.north.metric("forward_unanswered_messages", "forward=\"orders\"") > 0.5);
}

fn case_37_answer_split_over_segments() {
    let both = Both::with(
        &[],
        &[],
        &[],
        Behaviour::Say(|payload| framed(&answer_to(payload, "AA")).chunks(7).map(<[u8]>::to_vec).collect()),
    );
    let one = message("1", 300);
    let mut senders = sent(&both, &one);
    passed(&mut senders.orders, &[answer_to(&one, "AA")]);
    both.delivered(&[one]);
}
