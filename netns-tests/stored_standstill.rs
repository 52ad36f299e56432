//! What an operator sees of a queue that stands still, at two running sites: which message, why, and what ends it; and what
//! receivers say that is no answer.

use std::time::Duration;

use crate::harness::mllp::{Behaviour, MARKER, Receiver, answer_to, control_id, framed, message};
use crate::harness::pair::{FORWARD, Pair, TARGET, loopback};
use crate::harness::plan::Plan;
use crate::harness::site::Site;
use crate::harness::{tests, until};
use crate::stored_intake::{done, run, send};

tests![
    a_message_in_doubt_is_named_with_what_to_do_and_logged_once,
    a_full_queue_says_since_when_and_names_the_receiver_that_fills_it,
    what_is_parked_fills_the_queue_and_says_so,
    a_restored_backup_is_seen_reconciled_and_logged,
    what_comes_during_a_pause_can_be_set_aside_and_what_was_delivered_sent_again,
    what_a_receiver_says_beside_its_answers_is_counted,
    a_queue_without_its_key_is_told_once_and_its_numbers_are_not_known,
    a_queue_for_two_destinations_drains_to_both,
    what_is_in_doubt_comes_behind_no_newer_message,
    what_an_own_delivery_has_before_it_can_be_set_aside_after_a_restart,
];

/// Bounds what two sites do by themselves.
const SOON: Duration = Duration::from_secs(20);

/// Starts a pair whose north stores its orders.
#[track_caller]
fn started(forward: &[&str], service: &[&str]) -> Pair {
    let mut pair = Pair::unstarted();
    let lines: Vec<&str> = ["delivery: stored"].into_iter().chain(forward.iter().copied()).collect();
    let key = |site: &Site| site.dir.join("spool.key").display().to_string();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key(&pair.north));
    let south = Plan::of(&pair.south).peer(&pair.north);
    pair.south.start(&south.service("orders", TARGET, "north", service));
    pair.north.start(&north.forward("orders", FORWARD, "south", "service: orders", &lines));
    pair.is_linked();
    pair
}

/// Waits until the queue is in this state, and returns what health says of the forward.
#[track_caller]
fn state(pair: &Pair, state: &str) -> serde_json::Value {
    let seen = || Some(pair.north.health_of("forwards", "orders")).filter(|forward| forward["queue"]["state"] == state);
    until(SOON, &format!("the queue is {state}"), seen).0
}

/// Counts the lines of a log that have all these parts.
fn lines(log: &str, parts: &[&str]) -> usize {
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn a_message_in_doubt_is_named_with_what_to_do_and_logged_once() {
    let mut pair = started(&[], &["ack_timeout: 1s", "in_doubt: hold"]);
    let receiver = pair.receiver(Behaviour::Silent);
    assert_eq!([send(&pair, "1"), send(&pair, "2")], ["AA 1", "AA 2"]);
    let forward = state(&pair, "held");
    let cause = forward["cause"].as_str().unwrap_or_default().to_owned();
    let told = "held at message 1: its last attempt had no answer, so that the receiver may have it or not; 2 wait; decide: \
                wardlink queue retry orders 1, park orders 1, or discard orders 1 --reason TEXT";
    assert_eq!((forward["status"].as_str(), cause.as_str()), (Some("down"), told), "not that the receiver is down");
    assert!(done(&pair, "status").contains(told) && done(&pair, "queue list orders").contains("\n1        held "));
    assert!(done(&pair, "queue show orders 1").contains("wardlink queue retry orders 1"));
    let service = pair.south.health_of("services", "orders");
    let cause = service["cause"].as_str().unwrap_or_default();
    assert!(cause.starts_with("the queue of north is held at message 1: its last attempt had no answer"), "{service}");
    let begins =
        ["WARN", "the queue stands still", "forward=orders", "sequence=1", "had no answer", "queue retry orders 1"];
    let ends = ["INFO", "the queue stands still no longer", "forward=orders"];
    until(SOON, "the log says so", || (lines(&pair.north.log(), &begins) == 1).then_some(()));
    let far = ["WARN", "a queue of the peer is held", "service=orders", "peer=north", "sequence=1"];
    assert_eq!(lines(&pair.south.log(), &far), 1, "{}", pair.south.log());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((lines(&pair.north.log(), &begins), lines(&pair.north.log(), &ends)), (1, 0), "once");
    // Also after a restart of the site, from what the far site says.
    pair.north.kill();
    pair.north.restart();
    pair.is_linked();
    state(&pair, "held");
    assert!(run(&pair, "queue retry orders 2").1.contains("that is message 1"), "the wrong one is not tried");
    drop(receiver);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    assert_eq!(done(&pair, "queue retry orders 1"), "message 1 is tried again\n");
    until(SOON, "both are delivered", || (receiver.payloads().len() == 2).then_some(()));
    until(SOON, "the log says that it goes on", || (lines(&pair.north.log(), &ends) == 1).then_some(()));
    assert!(![pair.north.log(), pair.south.log()].concat().contains(MARKER));
}

fn what_is_parked_fills_the_queue_and_says_so() {
    let pair = started(&["max_queue_messages: 2", "on_full: nak"], &["on_reject: park"]);
    let _receiver = pair.receiver(Behaviour::Answer("AR"));
    assert_eq!([send(&pair, "1"), send(&pair, "2")], ["AA 1", "AA 2"]);
    until(SOON, "both are parked", || {
        (pair.north.health_of("forwards", "orders")["parked_messages"] == 2).then_some(())
    });
    assert_eq!(send(&pair, "3"), "AR 3");
    let forward = pair.north.health_of("forwards", "orders");
    let told = "the queue has 2 of at most 2 messages (max_queue_messages), 2 of them parked: wardlink queue list orders \
                --state parked";
    assert_eq!((&forward["status"], &forward["cause"]), (&"down".into(), &told.into()), "{forward}");
    assert!(done(&pair, "status").lines().any(|line| line.starts_with("orders") && line.contains(" 100%")));
    assert!((pair.north.metric("forward_parked_bytes", "forward=\"orders\"") - 1000.0).abs() < 0.1);
    done(&pair, "queue discard orders 1 --reason test");
    assert_eq!(send(&pair, "3"), "AA 3");
}

fn a_full_queue_says_since_when_and_names_the_receiver_that_fills_it() {
    let pair = started(&["max_queue_messages: 2"], &[]);
    let at = |forward: &serde_json::Value| forward["since"].as_str().expect("a time").to_owned();
    let start = at(&pair.north.health_of("forwards", "orders"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(send(&pair, "1"), "AA 1");
    let (refused, _) = until(SOON, "the receiver is named", || {
        let forward = pair.north.health_of("forwards", "orders");
        forward["cause"].as_str().is_some_and(|cause| cause.contains("refuses connections")).then(|| at(&forward))
    });
    assert!(refused > start, "{refused}, and the start was {start}");
    assert_eq!(send(&pair, "2"), "AA 2");
    let (forward, _) = until(SOON, "it is full", || {
        let forward = pair.north.health_of("forwards", "orders");
        forward["cause"].as_str().is_some_and(|cause| cause.starts_with("the queue has 2 of")).then_some(forward)
    });
    let cause = forward["cause"].as_str().expect("a cause");
    assert!(cause.contains("; receiver 127.0.0.1:6661 refuses connections at south"), "{forward}");
    assert_eq!((at(&forward), &forward["status"]), (refused, &"down".into()), "{forward}");
}

fn a_restored_backup_is_seen_reconciled_and_logged() {
    let mut pair = started(&[], &[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let delivered = |count: usize| {
        until(SOON, "all are settled", || {
            let depth = pair.north.health_of("forwards", "orders")["queue_depth"].clone();
            (receiver.payloads().len() == count && depth == 0).then_some(())
        })
    };
    send(&pair, "1");
    delivered(1);
    let (kept, backup) = (pair.north.dir.join("state"), pair.north.dir.join("backup"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.is_ok_and(|status| status.success()));
    };
    pair.north.kill();
    copy(&kept, &backup);
    pair.north.restart();
    send(&pair, "2");
    until(SOON, "it is delivered", || (receiver.payloads().len() == 2).then_some(()));
    pair.north.kill();
    std::fs::remove_dir_all(&kept).expect("removed");
    copy(&backup, &kept);
    pair.north.restart();
    let forward = state(&pair, "diverged");
    assert!(forward["cause"].as_str().is_some_and(|cause| cause.ends_with("wardlink queue reconcile orders")));
    assert_eq!(send(&pair, "3"), "AA 3", "it is kept meanwhile");
    let begins = ["WARN", "the queue stands still", "forward=orders", "diverged", "wardlink queue reconcile orders"];
    until(SOON, "the log says so", || (lines(&pair.north.log(), &begins) == 1).then_some(()));
    let stories = done(&pair, "queue reconcile orders");
    for part in ["has messages up to 2", "through all messages up to 2", "--accept-far", "--resend", "all 1 that wait"]
    {
        assert!(stories.contains(part), "{part} in {stories}");
    }
    assert!(done(&pair, "queue reconcile orders --accept-far").starts_with("reconciled: "));
    until(SOON, "what waits is delivered", || (receiver.payloads().len() == 3).then_some(()));
    assert_eq!(receiver.payloads()[2], message("3", 500));
    let ends = ["INFO", "the queue stands still no longer", "forward=orders"];
    until(SOON, "the log says that it goes on", || (lines(&pair.north.log(), &ends) == 1).then_some(()));
    assert!(run(&pair, "queue reconcile orders").1.contains("nothing to reconcile"));
}

fn what_comes_during_a_pause_can_be_set_aside_and_what_was_delivered_sent_again() {
    let mut pair = started(&[], &[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let arrived = |count| until(SOON, "it is delivered", || (receiver.payloads().len() == count).then_some(()));
    send(&pair, "1");
    arrived(1);
    done(&pair, "forward pause orders");
    send(&pair, "2");
    send(&pair, "3");
    assert!(
        run(&pair, "queue retry orders").1.contains("wardlink forward resume orders"),
        "it says what ends the pause"
    );
    done(&pair, "queue park orders 2");
    done(&pair, "forward resume orders");
    arrived(2);
    assert_eq!(receiver.payloads()[1], message("3", 500), "the others went on");
    assert_eq!(done(&pair, "queue release orders 1"), "message 1 is queued again as 4\n");
    arrived(3);
    assert_eq!(receiver.payloads()[2], message("1", 500), "byte for byte");
    // What was there before a restart did not come in the second after it.
    pair.north.kill();
    pair.north.restart();
    std::thread::sleep(Duration::from_secs(3));
    let forward = pair.north.health_of("forwards", "orders"); // whoever asks first is told a pace
    assert_eq!((&forward["accepted_total"], &forward["accepted_per_second"]), (&4.into(), &0.0.into()), "{forward}");
}

fn what_a_receiver_says_beside_its_answers_is_counted() {
    const HERE: std::net::SocketAddr = loopback(2577);
    let mut pair = Pair::unstarted();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let to = format!("to: \"{}:6661\"", pair.south.inner);
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let north = north.forward("orders", FORWARD, "south", "service: orders", &["delivery: stored"]);
    let timeout = ["delivery: stored", "ack_timeout: 60s"];
    pair.north.start(&north.forward("direct", HERE, "south", &to, &timeout));
    let service = ["ack_timeout: 60s", "port: 6661"];
    let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &service);
    pair.south.start(&south);
    pair.is_linked();
    for (listen, kind) in [(FORWARD, "service"), (HERE, "forward")] {
        let receiver = pair.receiver(Behaviour::Silent);
        let mut sender = crate::harness::mllp::Sender::connect(&pair.north.namespace, listen).expect("it listens");
        sender.send(&message("1", 500)).expect("open");
        until(SOON, "the message is there", || (receiver.payloads().len() == 1).then_some(()));
        receiver.push(&framed(&answer_to(&message("9", 500), "AA")));
        receiver.push(&framed(b""));
        receiver.push(&framed(b"MSH|^~\\&|LAB|SOUTH|HIS|NORTH|2026||ADT^A01|5|P|2.5\r"));
        let counts = |receiver: &Receiver, late: f64| {
            let site = if kind == "service" { &pair.south } else { &pair.north };
            let count = |what: &str| site.metric(&format!("{kind}_dropped_answers_total"), &format!("kind=\"{what}\""));
            until(SOON, &format!("all is counted at the {kind}"), || {
                let counted = [count("foreign"), count("no_answer"), count("late")];
                (counted == [1.0, 2.0, late]).then_some(())
            });
            assert_eq!(receiver.payloads().len(), 1, "the message is sent once");
        };
        counts(&receiver, 0.0); // while its answer is awaited
        receiver.push(&framed(&answer_to(&message("1", 500), "AA")));
        receiver.push(&framed(&answer_to(&message("1", 500), "AA")));
        counts(&receiver, 1.0); // after its end, with no other message
    }
    let direct = pair.north.health_of("forwards", "direct");
    assert_eq!(direct["receiver_acks"]["AA"], 1, "{direct}");
    assert_eq!(direct["dropped_answers_total"]["foreign"], 1, "{direct}");
    assert_eq!(pair.south.health_of("services", "orders")["dropped_answers_total"]["foreign"], 1);
}

fn a_queue_without_its_key_is_told_once_and_its_numbers_are_not_known() {
    let mut pair = started(&[], &[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    send(&pair, "1");
    let (key, aside) = (pair.north.dir.join("spool.key"), pair.north.dir.join("aside"));
    until(SOON, "south has said that the link is up", || {
        pair.south.log().contains("stored messages is up").then_some(())
    });
    pair.north.kill();
    std::fs::rename(&key, &aside).expect("moved");
    let (north, south) = (pair.north.log().len(), pair.south.log().len());
    pair.north.launch();
    until(SOON, "it answers", || pair.north.try_get("/livez"));
    let forward = state(&pair, "failed");
    std::thread::sleep(Duration::from_secs(6));
    let said = |log: String, from: usize| {
        log[from..].lines().filter(|line| line.contains("link is ") || line.contains("link for ")).count()
    };
    let (here, there) = (said(pair.north.log(), north), said(pair.south.log(), south));
    assert!(here <= 2 && there <= 1, "{here} and {there} lines\n{}\n{}", pair.north.log(), pair.south.log());
    assert_eq!(lines(&pair.north.log()[north..], &["ERROR", "the spool cannot be opened"]), 1);
    for what in ["queue_depth", "queue_bytes", "parked_messages", "parked_bytes", "accepted_total", "settled_total"] {
        assert!(forward[what].is_null(), "{what} in {forward}");
    }
    assert!(forward["cause"].as_str().is_some_and(|cause| cause.starts_with("spool: ")), "{forward}");
    let row = done(&pair, "status")
        .lines()
        .find(|line| line.starts_with("orders") && line.contains("failed "))
        .map(str::to_owned);
    assert!(row.as_ref().is_some_and(|row| row.matches(" -").count() >= 3), "{row:?}");
    assert!(!pair.north.get("/metrics").body.contains("wardlink_forward_queue_depth{"));
    std::fs::rename(&aside, &key).expect("moved");
    state(&pair, "flowing");
}

fn a_queue_for_two_destinations_drains_to_both() {
    const THERE: std::net::SocketAddr = loopback(2577);
    const OTHER_TARGET: std::net::SocketAddr = loopback(6662);
    let mut pair = Pair::unstarted();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let leads = |service: &str| north.clone().forward("orders", FORWARD, "south", service, &["delivery: stored"]);
    pair.north.start(&leads("service: orders"));
    assert_eq!([send(&pair, "1"), send(&pair, "2")], ["AA 1", "AA 2"]);
    pair.north.kill();
    let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &[]);
    pair.south.start(&south.service("images", OTHER_TARGET, "north", &[]));
    let there = leads("service: images").forward("there", THERE, "south", "service: orders", &["delivery: stored"]);
    pair.north.start(&there);
    let forward = state(&pair, "held");
    let cause = forward["cause"].as_str().unwrap_or_default().to_owned();
    let told = "held at message 1: it and 1 more were accepted for orders at south; 2 wait; decide: wardlink queue move \
                orders --to there (they go there) or --from-destination orders@south (they come here); park or discard. \
                New ones are taken in";
    assert_eq!(cause, told);
    assert_eq!([send(&pair, "3"), send(&pair, "4")], ["AA 3", "AA 4"], "new ones are taken in");
    let (orders, images) = (
        pair.receiver(Behaviour::Answer("AA")),
        Receiver::start(&pair.south.namespace, OTHER_TARGET, Behaviour::Answer("AA")),
    );
    let arrived = |receiver: &Receiver, ids: &[&str]| {
        let expected: Vec<_> = ids.iter().map(|id| message(id, 500)).collect();
        until(SOON, "they are delivered", || (receiver.payloads() == expected).then_some(()));
    };
    std::thread::sleep(Duration::from_secs(2));
    assert!(orders.payloads().is_empty() && images.payloads().is_empty(), "nobody has said so yet");
    let links = |log: &str| lines(log, &["link is down", "forward=orders"]);
    assert_eq!(links(&pair.north.log()), 0, "a link that waits holds: {}", pair.north.log());
    let said = done(&pair, "queue move orders --to there");
    assert!(
        said.starts_with("orders takes the way of there, beside its own messages: the 2 messages for orders at south")
    );
    arrived(&orders, &["1", "2"]);
    let cause = state(&pair, "held")["cause"].as_str().unwrap_or_default().to_owned();
    assert!(cause.starts_with("held at message 3: it and 1 more were accepted for images at south; 2 wait"), "{cause}");
    assert!(cause.contains("wardlink queue move orders --to orders "), "{cause}");
    assert_eq!(send(&pair, "5"), "AA 5");
    assert!(images.payloads().is_empty());
    assert!(done(&pair, "queue move orders --to orders").starts_with("orders takes its own way: the 3 messages"));
    arrived(&images, &["3", "4", "5"]);
    assert_eq!(send(&pair, "6"), "AA 6");
    arrived(&images, &["3", "4", "5", "6"]);
    assert_eq!(orders.payloads().len(), 2);
}

fn what_an_own_delivery_has_before_it_can_be_set_aside_after_a_restart() {
    let mut pair = Pair::unstarted();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let to = format!("to: \"{}:6661\"", pair.south.inner);
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    pair.north.start(&north.forward("orders", FORWARD, "south", &to, &["delivery: stored"]));
    let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &["port: 6661"]);
    pair.south.start(&south);
    // The first is attempted, and the ones behind it are read, as nobody answers.
    let silent = pair.receiver(Behaviour::Silent);
    for id in ["1", "2", "3", "4"] {
        assert_eq!(send(&pair, id), format!("AA {id}"));
    }
    until(SOON, "the first is there", || (silent.payloads().len() == 1).then_some(()));
    done(&pair, "forward pause orders");
    pair.north.kill();
    pair.north.restart();
    assert!(done(&pair, "queue discard orders 3 --reason x").contains("message 3 is given up"));
    assert!(done(&pair, "queue park orders 1").contains("message 1 is set aside"));
    drop(silent);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    done(&pair, "forward resume orders");
    until(SOON, "the others arrive", || {
        let payloads = receiver.payloads();
        let ids: Vec<&[u8]> = payloads.iter().map(|payload| control_id(payload)).collect();
        (ids == [b"2", b"4"]).then_some(())
    });
}

/// The kernel repeats what it has not brought over yet, also on a connection that was closed meanwhile.
fn what_is_in_doubt_comes_behind_no_newer_message() {
    let mut pair = Pair::unstarted();
    let at = std::net::SocketAddr::new(pair.south.inner.into(), 6671);
    let key = pair.north.dir.join("spool.key").display().to_string();
    let lines = ["delivery: stored", "ack_timeout: 1s"];
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let allowed = format!("{}/32", pair.north.inner);
    pair.south.start(&Plan::of(&pair.south).peer_with(&pair.north, &allowed, &["host_access: true"]));
    pair.north.start(&north.forward("direct", FORWARD, "south", &format!("to: \"{at}\""), &lines));
    let receiver = Receiver::start(&pair.south.namespace, at, Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    let mut keep = |number: usize| {
        sender.send(&message(&number.to_string(), 500)).expect("open");
        assert!(sender.answer(SOON).is_ok(), "it is kept");
    };
    let (mut sent, mut until_mended) = (0, None);
    for _ in 0..3 {
        for turn in 0..600 {
            keep(sent);
            sent += 1;
            if turn == 100 {
                pair.wire.cut();
                until_mended = Some(std::time::Instant::now() + Duration::from_millis(2500));
            }
            if until_mended.is_some_and(|at| at <= std::time::Instant::now()) {
                until_mended = None;
                pair.wire.mend();
            }
            std::thread::sleep(Duration::from_millis(8));
        }
    }
    until(SOON, "the queue is empty", || {
        (pair.north.health_of("forwards", "direct")["queue_depth"] == 0).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2)); // an old copy would be here
    let id = |payload: &Vec<u8>| String::from_utf8_lossy(control_id(payload)).parse::<usize>().expect("a number");
    let came: Vec<usize> = receiver.payloads().iter().map(id).collect();
    let mut next = 0;
    for (at, number) in came.iter().enumerate() {
        assert!(*number == next || *number + 1 == next, "{number} came as {at}, behind {next}");
        next = next.max(number + 1);
    }
    assert_eq!(next, sent);
    eprintln!("{} repeats", came.len() - sent);
}
