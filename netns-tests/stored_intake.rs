//! Stored delivery at the sender's site while the other one is away: what is acknowledged is kept, and operators see and
//! decide what becomes of it.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::harness::mllp::{Behaviour, Lost, MARKER, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::Plan;
use crate::harness::{tests, until};

tests![
    senders_are_served_while_the_peer_is_away_and_nothing_is_lost_by_kill_9,
    a_full_queue_refuses_and_says_so_in_health,
    every_message_gets_what_the_readme_says,
    operators_see_park_release_discard_and_export,
    a_pause_outlives_a_restart,
    another_key_stops_only_that_forward_and_says_why,
    a_queue_whose_disk_is_not_mounted_or_that_was_deleted_is_told_and_none_takes_its_place,
    a_forward_that_is_renamed_while_its_site_is_down_leaves_a_queue_that_is_told_and_drains_on_another_way,
    a_forward_that_is_named_again_goes_on_with_its_queue,
    a_forward_that_leads_elsewhere_after_a_start_is_held_until_its_messages_are_moved,
    a_key_that_others_may_read_stops_the_stored_forward_and_nothing_else,
    a_key_that_is_gone_while_the_site_runs_stops_new_queues_only_and_another_one_is_refused,
    a_key_that_is_gone_at_the_start_hinders_no_change_but_a_new_queue,
    the_first_queue_begins_with_a_key_that_is_made_beside_a_running_site,
];

/// Bounds what a site does by itself.
const SOON: Duration = Duration::from_secs(10);

/// Makes a pair whose north stores its orders, starts north alone, which is ready once it takes messages.
fn alone(lines: &[&str]) -> Pair {
    let mut pair = Pair::unstarted();
    let plan = plan(&pair, lines);
    pair.north.start(&plan);
    pair
}

fn plan(pair: &Pair, lines: &[&str]) -> Plan {
    let lines: Vec<&str> = ["delivery: stored"].into_iter().chain(lines.iter().copied()).collect();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let plan = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    plan.forward("orders", FORWARD, "south", "service: orders", &lines)
}

/// Sends a message, and returns MSA-1 and MSA-2 of its answer, as `AA 7`.
#[track_caller]
pub(crate) fn send(pair: &Pair, id: &str) -> String {
    let mut sender = pair.sender();
    sender.send(&message(id, 500)).expect("open");
    let answer = String::from_utf8(sender.answer(SOON).expect("an answer")).expect("wardlink's own text");
    let msa = answer.split('\r').find(|segment| segment.starts_with("MSA|")).expect("an MSA").to_owned();
    let fields: Vec<&str> = msa.split('|').collect();
    format!("{} {}", fields[1], fields[2])
}

/// Runs a command against north; returns its exit code and all that it printed.
pub(crate) fn run(pair: &Pair, words: &str) -> (Option<i32>, String) {
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let words = format!("{words} --socket {socket}");
    let words = pair.north.command(&words.split(' ').collect::<Vec<_>>());
    let output = pair.north.namespace.output(&format!("timeout 20 {}", words.join(" ")));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Runs a command that succeeds.
#[track_caller]
pub(crate) fn done(pair: &Pair, words: &str) -> String {
    let (code, text) = run(pair, words);
    assert_eq!(code, Some(0), "{words}: {text}");
    text
}

/// Lists message and state of the queue.
#[track_caller]
fn states(pair: &Pair) -> Vec<(u64, String)> {
    let text = done(pair, "queue list orders --all --json");
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    let entries = json["entries"].as_array().expect("entries");
    let state = |entry: &serde_json::Value| {
        (entry["sequence"].as_u64().expect("a number"), entry["state"].as_str().expect("a word").to_owned())
    };
    entries.iter().map(state).collect()
}

fn senders_are_served_while_the_peer_is_away_and_nothing_is_lost_by_kill_9() {
    let mut pair = alone(&[]);
    for id in ["one", "two", "three"] {
        assert_eq!(send(&pair, id), format!("AA {id}"));
    }
    pair.north.kill();
    pair.north.restart();
    assert_eq!(send(&pair, "four"), "AA four");
    let (forward, _) = until(SOON, "the depth is told", || {
        Some(pair.north.health_of("forwards", "orders")).filter(|forward| forward["queue_depth"] == 4)
    });
    assert_eq!((&forward["delivery"], &forward["accepted_total"]), (&"stored".into(), &4.into()), "{forward}");
    assert!(forward["oldest_queued_age_seconds"].is_f64(), "{forward}");
    assert!((pair.north.metric("forward_queue_depth", "forward=\"orders\"") - 4.0).abs() < 0.1);
    assert_eq!(states(&pair).len(), 4);
    let status = done(&pair, "status");
    assert!(status.lines().any(|line| line.starts_with("orders") && line.contains("flowing  4")), "{status}");
    // Nothing of a message where no message belongs.
    assert!(!pair.north.log().contains(MARKER) && !status.contains(MARKER));
    let mut files = vec![pair.north.dir.join("state")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else {
            let content = fs::read(&path).expect("a file");
            let found = memchr::memmem::find(&content, MARKER.as_bytes());
            assert_eq!(found, None, "in the clear in {}", path.display());
        }
    }
}

fn a_full_queue_refuses_and_says_so_in_health() {
    let pair = alone(&["max_queue_messages: 2", "on_full: nak"]);
    assert_eq!([send(&pair, "1"), send(&pair, "2"), send(&pair, "3")], ["AA 1", "AA 2", "AR 3"]);
    let reason = "forward=\"orders\",reason=\"queue_full\"";
    assert!((pair.north.metric("forward_refused_messages_total", reason) - 1.0).abs() < 0.1);
    let forward = pair.north.health_of("forwards", "orders");
    assert_eq!((&forward["status"], &forward["queue_depth"]), (&"down".into(), &2.into()), "{forward}");
    // Room again, and it is taken again.
    done(&pair, "queue discard orders 1 --reason test");
    assert_eq!(send(&pair, "3"), "AA 3");
}

/// Sends a frame with this MSH-9, MSH-15, MSH-16 and segments behind; returns MSA-1 or `nothing`, and `closed` or `open`.
fn intake(pair: &Pair, [kind, accept, application, behind]: [&str; 4]) -> (String, &'static str) {
    let message = format!("MSH|^~\\&|A|B|C|D|2026||{kind}|7|P|2.5|||{accept}|{application}\r{behind}");
    told(pair, message.as_bytes())
}

fn told(pair: &Pair, payload: &[u8]) -> (String, &'static str) {
    let mut sender = pair.sender();
    sender.send(payload).expect("open");
    let code = |answer: Vec<u8>| {
        let answer = String::from_utf8(answer).expect("wardlink's own text");
        let code = answer.split("\rMSA|").nth(1).and_then(|rest| rest.get(..2)).expect("an MSA").to_owned();
        let refused = answer.contains("use transparent delivery");
        if refused { code + ", why" } else { code }
    };
    match sender.answer(Duration::from_millis(400)) {
        Ok(answer) => (code(answer), "open"),
        Err(Lost::Late) => ("nothing".to_owned(), "open"),
        Err(Lost::Closed) => ("nothing".to_owned(), "closed"),
    }
}

fn every_message_gets_what_the_readme_says() {
    let msa = "MSA|AA|9\rPID|1||4711\r";
    for on_full in ["on_full: close", "on_full: nak"] {
        let pair = alone(&[on_full, "max_message_size: 64KiB"]);
        for (fields, code, connection) in [
            (["ORU^R01", "", "", ""], "AA", "open"),
            (["ORU^R01", "AL", "", ""], "CA", "open"),
            (["ORU^R01", "SU", "NE", ""], "CA", "open"),
            (["ORU^R01", "NE", "NE", ""], "nothing", "open"),
            (["ORU^R01", "ER", "NE", ""], "nothing", "open"),
            (["ORU^R01", "AL", "AL", ""], "CR, why", "open"),
            (["ORU^R01", "NE", "AL", ""], "AR, why", "open"),
            (["ORU^R01", "NE", "ER", ""], "AR, why", "open"),
            (["ORU^R01", "NE", "SU", ""], "AR, why", "open"),
            (["ORU^R01", "", "SU", ""], "AR, why", "open"),
            (["ORU^R01", "SU", "SU", ""], "CR, why", "open"),
            (["QBP^Q11", "", "", ""], "AR, why", "open"),
            (["QBP^Q11", "SU", "NE", ""], "CR, why", "open"),
            (["QBP^Q11", "NE", "NE", ""], "nothing", "closed"),
            (["ORR^O02", "", "", msa], "AA", "open"),
            (["RSP^K11", "", "", msa], "AA", "open"),
            (["ORR^O02", "AL", "AL", msa], "CA", "open"),
            (["ACK^O01", "", "", msa], "nothing", "open"),
            (["ACK^O01", "AL", "NE", msa], "CA", "open"),
            (["MCF", "", "", msa], "nothing", "open"),
        ] {
            assert_eq!(intake(&pair, fields), (code.to_owned(), connection), "{fields:?}, {on_full}");
        }
        let wide: Vec<u8> = "MSH|^~\\&|A|B|C|D|2026||ORU|7|P|2.5\r".bytes().flat_map(|byte| [byte, 0]).collect();
        for (name, payload, code, connection) in [
            ("no MSH", b"PID|1||4711\r".to_vec(), "nothing", "closed"),
            ("MSH alone", b"MSH".to_vec(), "nothing", "closed"),
            ("UTF-16", wide, "nothing", "closed"),
            ("too large", message("7", 70_000), "nothing", "closed"),
            ("MSH-10 empty", b"MSH|^~\\&|A|B|C|D|2026||ORU^R01||P|2.5\r".to_vec(), "AA", "open"),
            ("Latin-1", b"MSH|^~\\&|A|B|C|D|2026||ORU^R01|7|P|2.5\rPID|1||\xe9\r".to_vec(), "AA", "open"),
            ("started over", b"MSH|^~\\&|A\x0bMSH|^~\\&|A|B|C|D|2026||ORU^R01|7|P|2.5\r".to_vec(), "nothing", "closed"),
            ("empty", Vec::new(), "nothing", "open"),
            ("control", b"\x04".to_vec(), "nothing", "open"),
        ] {
            assert_eq!(told(&pair, &payload), (code.to_owned(), connection), "{name}, {on_full}");
        }
        let forward = pair.north.health_of("forwards", "orders");
        assert_eq!(forward["accepted_total"], 11, "what was answered, and what asks for no answer, is kept: {forward}");
        assert_eq!(forward["refused_total"]["application_answer_required"], 9, "{forward}");
        assert_eq!(forward["anomalies"]["answer_unmatched"], 2, "{forward}");
        for reason in ["application_answer_required", "no_header", "wide_text", "frame_too_large", "started_over"] {
            assert!(forward["closed"][reason].is_u64(), "{reason}: {forward}");
        }
    }
}

fn operators_see_park_release_discard_and_export() {
    let pair = alone(&[]);
    for id in ["1", "2", "3"] {
        send(&pair, id);
    }
    let listed = done(&pair, "queue list orders --all");
    assert!(listed.starts_with("MESSAGE  STATE") && listed.lines().count() == 4, "{listed}");
    assert!(!listed.contains(MARKER) && !done(&pair, "queue show orders 1").contains(MARKER));
    let payload = done(&pair, "queue show orders 1 --payload");
    assert_eq!(payload.as_bytes(), message("1", 500));
    until(SOON, "who looked is written down", || {
        (crate::audit::entries(&pair.north, "--event viewed").len() == 1).then_some(())
    });
    done(&pair, "queue park orders 1");
    done(&pair, "queue release orders 1");
    done(&pair, "queue discard orders 2 --reason test");
    let expected = [(1, "released"), (2, "discarded"), (3, "queued"), (4, "queued")];
    assert_eq!(states(&pair), expected.map(|(sequence, state)| (sequence, state.to_owned())));
    let out = pair.north.dir.join("out");
    done(&pair, &format!("queue export orders --out {}", out.display()));
    for (sequence, id) in [(3, "3"), (4, "1")] {
        assert_eq!(fs::read(out.join(format!("orders-{sequence}.hl7"))).expect("a file"), message(id, 500));
    }
    for (words, code, part) in [
        ("queue show orders 9", 1, "there is no message 9"),
        ("queue show orders 2 --payload", 1, "wardlink: "),
        ("queue list results", 1, "no forward is named results; with a queue: orders"),
        ("queue retry orders", 1, "the link to the far site is down: message 3"),
        ("queue reconcile orders", 1, "nothing to reconcile"),
        ("queue discard orders 3", 64, "--reason"),
    ] {
        let (said, text) = run(&pair, words);
        assert!(said == Some(code) && text.contains(part), "{words}: {said:?} {text}");
    }
}

fn a_pause_outlives_a_restart() {
    let mut pair = alone(&[]);
    assert!(done(&pair, "forward pause orders").contains("is paused"));
    assert_eq!(send(&pair, "1"), "AA 1", "messages are still taken in");
    pair.north.kill();
    pair.north.restart();
    assert_eq!(pair.north.health_of("forwards", "orders")["queue"]["state"], "paused");
    assert!(done(&pair, "forward resume orders").contains("goes on"));
    until(SOON, "it goes on", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
}

fn another_key_stops_only_that_forward_and_says_why() {
    let mut pair = alone(&[]);
    send(&pair, "1");
    pair.north.kill();
    let key = pair.north.dir.join("spool.key");
    let kept = fs::read(&key).expect("the key was made");
    fs::write(&key, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n").expect("written");
    pair.north.launch();
    let (ready, _) = until(SOON, "the fault is told", || {
        pair.north
            .try_get("/readyz")
            .filter(|_| pair.north.health_of("forwards", "orders")["queue"]["state"] == "failed")
    });
    assert_eq!(ready.status, 503);
    let forward = pair.north.health_of("forwards", "orders");
    let cause = forward["cause"].as_str().unwrap_or_default();
    assert!(cause.starts_with("spool: ") && cause.contains("another key"), "{forward}");
    let mut sender = pair.sender();
    sender.send(&message("2", 500)).expect("open");
    assert!(sender.answer(SOON).is_err(), "no positive answer");
    assert!(run(&pair, "queue list orders").1.contains("another key"));
    fs::write(&key, kept).expect("written");
    until(SOON + SOON, "it is opened by itself", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
    assert_eq!(send(&pair, "2"), "AA 2");
    assert_eq!(states(&pair).len(), 2);
}

fn a_queue_whose_disk_is_not_mounted_or_that_was_deleted_is_told_and_none_takes_its_place() {
    let mut pair = alone(&[]);
    send(&pair, "1");
    pair.north.kill();
    let (spool, elsewhere) = (pair.north.dir.join("state/spool"), pair.north.dir.join("elsewhere"));
    fs::rename(&spool, &elsewhere).expect("the disk is not mounted");
    fs::create_dir(&spool).expect("the mount point");
    pair.north.launch();
    let told = |pair: &Pair| {
        until(SOON, "the fault is told", || {
            let ready = pair.north.try_get("/readyz")?.status;
            let forward = pair.north.health_of("forwards", "orders");
            let cause = forward["cause"].as_str().unwrap_or_default();
            (ready == 503 && cause.starts_with("spool: ") && cause.contains("is missing")).then_some(())
        });
    };
    told(&pair);
    let mut sender = pair.sender();
    sender.send(&message("2", 500)).expect("open");
    assert!(sender.answer(SOON).is_err(), "no positive answer");
    assert!(pair.north.log().contains("mount its disk"), "the log says what to do");
    assert_eq!(fs::read_dir(&spool).expect("a directory").count(), 0, "nothing was made there");
    fs::remove_dir(&spool).expect("empty");
    fs::rename(&elsewhere, &spool).expect("mounted");
    until(SOON + SOON, "it is opened by itself", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
    assert_eq!((send(&pair, "2").as_str(), states(&pair).len()), ("AA 2", 2));
    let (code, text) = run(&pair, "queue forget orders --reason test");
    assert!(code == Some(1) && text.contains("there and whole"), "{text}");
    pair.north.kill();
    fs::remove_file(spool.join("orders/spool.db")).expect("deleted");
    pair.north.launch();
    told(&pair);
    let text = done(&pair, "queue forget orders --reason test");
    assert!(text.contains("given up") && text.contains("orders.forgotten-1"), "{text}");
    until(SOON, "a new queue is made", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
    assert_eq!((send(&pair, "3").as_str(), states(&pair).len()), ("AA 3", 1));
    assert!(pair.north.log().contains("a queue is given up"), "who gave it up is written down");
}

/// Plans north with one forward of that name.
fn renamed(pair: &Pair, name: &str, lines: &[&str]) -> Plan {
    let lines: Vec<&str> = ["delivery: stored"].into_iter().chain(lines.iter().copied()).collect();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let plan = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    plan.forward(name, FORWARD, "south", "service: orders", &lines)
}

/// Waits until the queue that lost its forward is told of; returns what is told.
#[track_caller]
fn orphan(pair: &Pair, name: &str) -> serde_json::Value {
    let (orphan, _) = until(SOON, "the queue is told of", || {
        let health: serde_json::Value = serde_json::from_str(&pair.north.try_get("/healthz")?.body).ok()?;
        health["orphans"].as_array()?.iter().find(|orphan| orphan["name"] == name).cloned()
    });
    assert_eq!(pair.north.get("/readyz").status, 503, "{orphan}");
    orphan
}

fn a_forward_that_is_renamed_while_its_site_is_down_leaves_a_queue_that_is_told_and_drains_on_another_way() {
    let mut pair = alone(&[]);
    for id in ["1", "2", "3"] {
        send(&pair, id);
    }
    done(&pair, "queue park orders 2");
    pair.north.kill();
    pair.north.write(&renamed(&pair, "orders-2", &[]));
    pair.north.launch();
    let told = orphan(&pair, "orders");
    assert_eq!(
        (&told["status"], &told["queue_depth"], &told["parked_messages"]),
        (&"down".into(), &2.into(), &1.into())
    );
    let cause = told["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("name orders again") && cause.contains("queue move orders --to"), "{told}");
    assert!(pair.north.log().contains("a queue has no forward"), "{}", pair.north.log());
    assert_eq!(pair.north.get("/healthz/forwards/orders").status, 503);
    assert!((pair.north.metric("forward_orphaned_messages", "forward=\"orders\"") - 3.0).abs() < 0.1);
    let status = done(&pair, "status");
    assert!(status.lines().any(|line| line.starts_with("orders ") && line.contains("orphaned  2")), "{status}");
    // The forward of the other name takes what comes, into a queue of its own.
    assert_eq!(send(&pair, "4"), "AA 4");
    let expected = [(1, "queued"), (2, "parked"), (3, "queued")];
    assert_eq!(states(&pair), expected.map(|(sequence, state)| (sequence, state.to_owned())));
    let out = pair.north.dir.join("out");
    done(&pair, &format!("queue export orders --out {}", out.display()));
    assert_eq!(fs::read(out.join("orders-2.hl7")).expect("a file"), message("2", 500));
    for (words, part) in [
        ("queue move orders", "--to FORWARD"),
        ("queue move orders --to orders", "no stored forward is named orders"),
        ("queue release orders 2", "no stored forward is named orders any more"),
        ("queue forget orders --reason test", "there and whole"),
        ("queue move orders-2 --to orders-2", "its own way already"),
    ] {
        let (code, text) = run(&pair, words);
        assert!(code == Some(1) && text.contains(part), "{words}: {code:?} {text}");
    }
    assert!(done(&pair, "queue discard orders 3 --reason test").contains("given up"));
    assert!(done(&pair, "queue move orders --to orders-2").starts_with("orders takes the way of orders-2"));
    until(SOON, "it is a queue on its way", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
    // Over a restart too; then both drain to the receiver.
    pair.north.kill();
    pair.north.restart();
    let (_, south) = pair.plans(&[]);
    pair.south.start(&south);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    until(SOON + SOON, "both queues are empty", || {
        let depth = |name: &str| pair.north.health_of("forwards", name)["queue_depth"] == 0;
        (depth("orders") && depth("orders-2")).then_some(())
    });
    let mut received = receiver.payloads();
    received.sort();
    assert_eq!(received, [message("1", 500), message("4", 500)]);
    // What is drained is no alarm, and can be named again.
    pair.north.write(&renamed(&pair, "orders", &[]));
    assert!(done(&pair, "reload").contains("orders"));
    until(SOON, "its spool is open", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
    assert_eq!(send(&pair, "5"), "AA 5");
    assert!(states(&pair).contains(&(4, "queued".to_owned())) || states(&pair).contains(&(4, "delivered".to_owned())));
}

fn a_forward_that_is_named_again_goes_on_with_its_queue() {
    let mut pair = alone(&[]);
    send(&pair, "1");
    pair.north.kill();
    // Transparent by the same name: its queue is told of all the same.
    let key = pair.north.dir.join("spool.key").display().to_string();
    let transparent =
        Plan::of(&pair.north).peer(&pair.south).forward("orders", FORWARD, "south", "service: orders", &[]);
    pair.north.write(&transparent.clone().spool(&key));
    pair.north.launch();
    orphan(&pair, "orders");
    assert_eq!(states(&pair), [(1, "queued".to_owned())]);
    pair.north.kill();
    // Without the section of the spools nobody can say what is in it.
    pair.north.write(&transparent);
    pair.north.launch();
    let told = orphan(&pair, "orders");
    assert!(told["cause"].as_str().unwrap_or_default().contains("has no spool:"), "{told}");
    pair.north.kill();
    pair.north.write(&transparent.spool(&key));
    pair.north.launch();
    orphan(&pair, "orders");
    pair.north.write(&plan(&pair, &[]));
    done(&pair, "reload");
    until(SOON, "it flows, and nothing is orphaned", || {
        let health = pair.north.health();
        let flows = pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing";
        (flows && health["orphans"].is_null()).then_some(())
    });
    assert_eq!(send(&pair, "2"), "AA 2");
    assert_eq!(states(&pair), [(1, "queued".to_owned()), (2, "queued".to_owned())]);
}

fn a_forward_that_leads_elsewhere_after_a_start_is_held_until_its_messages_are_moved() {
    let mut pair = alone(&[]);
    send(&pair, "1");
    pair.north.kill();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let plan = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let elsewhere = plan.forward("orders", FORWARD, "south", "service: others", &["delivery: stored"]);
    pair.north.start(&elsewhere);
    let (forward, _) = until(SOON, "it is held", || {
        Some(pair.north.health_of("forwards", "orders")).filter(|forward| forward["queue"]["state"] == "held")
    });
    assert!(forward["queue"]["decide"].as_str().unwrap_or_default().contains("wardlink queue move"), "{forward}");
    assert!(done(&pair, "queue move orders").contains("go to others at south now"));
}

fn a_key_that_others_may_read_stops_the_stored_forward_and_nothing_else() {
    let mut pair = alone(&[]);
    send(&pair, "1");
    pair.north.kill();
    let key = pair.north.dir.join("spool.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("a mode");
    pair.north.launch();
    let (forward, _) = until(SOON, "the fault is told", || {
        pair.north.try_get("/readyz").filter(|ready| ready.status == 503)?;
        Some(pair.north.health_of("forwards", "orders")).filter(|forward| forward["queue"]["state"] == "failed")
    });
    let cause = forward["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("mode 0644"), "{forward}");
    let config = pair.north.config_path();
    let words = pair.north.command(&["check-config", "-c", &config]).join(" ");
    let checked = pair.north.namespace.output(&words);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.code() == Some(64) && said.contains("chmod 0600"), "{said}");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("a mode");
    until(SOON + SOON, "it is opened by itself", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
    assert_eq!(send(&pair, "2"), "AA 2");
}

/// Has north read a plan; returns exit code and answer.
fn reloaded(pair: &Pair, plan: &Plan) -> (Option<i32>, String) {
    pair.north.write(plan);
    run(pair, "reload")
}

/// Is the plan with a second stored forward.
fn with_second(pair: &Pair) -> Plan {
    let second = SocketAddr::new(FORWARD.ip(), FORWARD.port() + 1);
    plan(pair, &[]).forward("images", second, "south", "service: images", &["delivery: stored"])
}

/// Waits until the site says of its files that a restart would not find one, or nothing.
fn says_of_its_files(pair: &Pair, expected: &str) {
    let config = pair.north.config_path();
    let said = |command: &str| {
        let words = pair.north.command(&[command, "-c", &config]).join(" ");
        String::from_utf8_lossy(&pair.north.namespace.output(&words).stdout).into_owned()
    };
    until(Duration::from_secs(20), "it says so of its files", || {
        let health = pair.north.health();
        let cause = health["files"][0]["cause"].as_str().unwrap_or_default();
        let is_told = ["status", "check"].iter().all(|command| said(command).contains(cause));
        (cause.contains(expected) && cause.is_empty() == expected.is_empty() && is_told).then_some(())
    });
}

fn a_key_that_is_gone_while_the_site_runs_stops_new_queues_only_and_another_one_is_refused() {
    let mut pair = Pair::unstarted();
    let base = plan(&pair, &[]);
    pair.north.start(&base);
    assert_eq!(send(&pair, "1"), "AA 1");
    let (key, away) = (pair.north.dir.join("spool.key"), pair.north.dir.join("away.key"));
    fs::rename(&key, &away).expect("it was made");
    says_of_its_files(&pair, "is gone");
    // What needs no new queue is taken up, also where the open one is to be opened anew.
    let changed = plan(&pair, &["max_queue_messages: 50"]).service("results", "127.0.0.1:9", "south", &[]);
    let (code, said) = reloaded(&pair, &changed);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(send(&pair, "2"), "AA 2");
    let log = pair.north.log();
    assert!(log.contains("is gone") && log.contains("do not restart"), "{log}");
    let (code, said) = reloaded(&pair, &with_second(&pair));
    assert!(code == Some(1) && said.contains("restore that very file") && said.contains("do not restart"), "{said}");
    assert!(!key.exists(), "no other is made");
    fs::write(&key, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n").expect("written");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("a mode");
    for plan in [&with_second(&pair), &base] {
        let (code, said) = reloaded(&pair, plan);
        assert!(code == Some(1) && said.contains("another key") && said.contains("put that one back"), "{said}");
    }
    says_of_its_files(&pair, "is another key");
    fs::rename(&away, &key).expect("put back");
    let (code, said) = reloaded(&pair, &with_second(&pair));
    assert_eq!(code, Some(0), "{said}");
    says_of_its_files(&pair, "");
    pair.north.kill();
    pair.north.restart();
    for forward in ["orders", "images"] {
        until(SOON, "its spool is open", || {
            (pair.north.health_of("forwards", forward)["queue"]["state"] == "flowing").then_some(())
        });
    }
    assert_eq!(states(&pair), [(1, "queued".to_owned()), (2, "queued".to_owned())]);
}

fn a_key_that_is_gone_at_the_start_hinders_no_change_but_a_new_queue() {
    let mut pair = alone(&[]);
    send(&pair, "1");
    pair.north.kill();
    let key = pair.north.dir.join("spool.key");
    fs::rename(&key, pair.north.dir.join("away.key")).expect("it was made");
    pair.north.launch();
    until(SOON, "the fault is told", || {
        pair.north.try_get("/readyz").filter(|ready| ready.status == 503)?;
        let forward = pair.north.health_of("forwards", "orders");
        forward["cause"].as_str()?.contains("restore that very file").then_some(())
    });
    let (code, said) = reloaded(&pair, &plan(&pair, &[]).service("results", "127.0.0.1:9", "south", &[]));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = reloaded(&pair, &with_second(&pair));
    assert!(code == Some(1) && said.contains("restore that very file") && !key.exists(), "{said}");
}

fn the_first_queue_begins_with_a_key_that_is_made_beside_a_running_site() {
    let mut pair = Pair::unstarted();
    let keys = tempfile::tempdir().expect("a directory that the site may not write");
    let key = keys.path().join("spool.key");
    let base = Plan::of(&pair.north).peer(&pair.south).spool(&key.display().to_string());
    pair.north.start(&base);
    let stored = base.forward("orders", FORWARD, "south", "service: orders", &["delivery: stored"]);
    let (code, said) = reloaded(&pair, &stored);
    let lsm = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if lsm.contains("landlock") {
        assert!(
            code == Some(1) && said.contains("wardlink key psk") && said.contains("no restart is needed"),
            "{said}"
        );
        assert!(!key.exists());
        fs::write(&key, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n").expect("written");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("a mode");
        done(&pair, "reload");
    }
    assert_eq!(send(&pair, "1"), "AA 1");
}
