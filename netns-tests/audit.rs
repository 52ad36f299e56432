//! The account of who did what, when, at two running sites: complete after `kill -9`, whole, without a byte of a message;
//! and what was done to it shows.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::harness::mllp::{Behaviour, MARKER, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::Plan;
use crate::harness::site::Site;
use crate::harness::{tests, until};
use crate::stored_faults::SmallDisk;
use crate::stored_intake::{done, run as run_at_north, send};

tests![
    a_transparent_message_is_accounted_for_at_both_sites,
    what_was_acknowledged_is_in_the_account_after_a_kill,
    what_operators_do_is_in_the_account,
    what_somebody_does_as_another_user_names_the_login,
    what_was_done_to_the_log_shows,
    a_full_disk_holds_up_no_message_and_loses_nothing_stored,
    a_log_that_was_put_back_is_known_by_what_the_peer_was_told,
    a_log_that_was_taken_away_with_its_key_shows_at_both_sites,
];

/// Bounds what a site does by itself.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Runs `wardlink audit` at a site; returns its exit code and all that it printed.
pub(crate) fn audit(site: &Site, words: &str) -> (Option<i32>, String) {
    let words = format!("audit {words} -c {}", site.config_path());
    let words = site.command(&words.split(' ').collect::<Vec<_>>());
    let output = site.namespace.output(&format!("timeout 20 {}", words.join(" ")));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Finds entries of the log.
#[track_caller]
pub(crate) fn entries(site: &Site, words: &str) -> Vec<Value> {
    found(site, words).unwrap_or_else(|text| panic!("{text}"))
}

/// Finds entries of the log, or says why there is none to look into.
fn found(site: &Site, words: &str) -> Result<Vec<Value>, String> {
    let (code, text) = audit(site, &format!("search --json {words}"));
    if code != Some(0) {
        return Err(text);
    }
    Ok(text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

/// Waits until there are so many of an event, and returns them; a site that has just started has no log yet.
#[track_caller]
pub(crate) fn awaited(site: &Site, event: &str, count: usize) -> Vec<Value> {
    let words = format!("--event {event}");
    until(SOON, &format!("{count} {event}"), || found(site, &words).ok().filter(|found| found.len() >= count)).0
}

#[track_caller]
fn is_whole(site: &Site) {
    let (code, text) = audit(site, "verify");
    assert!(code == Some(0) && text.starts_with("whole: "), "{text}");
}

pub(crate) fn log_directory(site: &Site) -> PathBuf {
    site.dir.join("state").join("audit")
}

fn segment(site: &Site) -> PathBuf {
    let files = fs::read_dir(log_directory(site)).expect("a log").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|found| found == "jsonl")).collect();
    files.sort();
    files.pop().expect("a file")
}

/// Starts a pair whose north stores its orders.
#[track_caller]
fn stored() -> Pair {
    let mut pair = Pair::unstarted();
    let (north, south) = plans(&pair);
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    pair
}

fn plans(pair: &Pair) -> (Plan, Plan) {
    let key = pair.north.dir.join("spool.key").display().to_string();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let north = north.forward("orders", FORWARD, "south", "service: orders", &["delivery: stored"]);
    (north, Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &[]))
}

fn a_transparent_message_is_accounted_for_at_both_sites() {
    let mut pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    for id in ["ID-1", "ID-2"] {
        sender.exchange(&message(id, 700));
    }
    for (site, about) in [(&pair.north, ("forward", "peer", "south")), (&pair.south, ("service", "peer", "north"))] {
        let delivered = awaited(site, "delivered", 2);
        let first = &delivered[0];
        assert_eq!((&first["type"], &first["bytes"], &first["code"]), (&"ORU^R01".into(), &700.into(), &"AA".into()));
        assert_eq!((&first[about.0], &first[about.1]), (&"orders".into(), &about.2.into()), "{first}");
        assert!(first["payload"].is_string() && first["control_id"].is_string());
        assert_eq!((delivered.len(), entries(site, "--control-id ID-2").len()), (2, 1), "one entry tells all");
        assert_eq!(entries(site, "--control-id ID-3").len(), 0);
        awaited(site, "link-up", 1);
        awaited(site, "key-changed", 1);
        let log = fs::read_to_string(segment(site)).expect("a log");
        assert!(!log.contains(MARKER) && !log.contains("ID-1") && !log.contains("SYNTHETIC"));
        is_whole(site);
    }
    drop(receiver);
    let _silent = pair.receiver(Behaviour::Silent);
    let mut sender = pair.sender();
    sender.send(&message("ID-4", 700)).expect("open");
    for site in [&pair.north, &pair.south] {
        let passed = awaited(site, "passed", 1);
        assert_eq!((passed.len(), &passed[0]["bytes"]), (1, &700.into()), "it waits for its answer");
    }
    drop(sender);
    awaited(&pair.north, "unanswered", 1);
    pair.north.terminate();
    pair.north.program().wait(SOON);
    let last = entries(&pair.north, "").pop().expect("an entry");
    assert_eq!((&last["event"], &last["site"]), (&"stopped".into(), &"north".into()), "also while the site is down");
    is_whole(&pair.north);
}

fn what_was_acknowledged_is_in_the_account_after_a_kill() {
    let mut pair = stored();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        for n in 0..5 {
            let id = format!("K-{round}-{n}");
            assert_eq!(send(&pair, &id), format!("AA {id}"));
            acknowledged.push(id);
        }
        // At once: what was acknowledged last is in no file of the log yet.
        pair.north.kill();
        if round % 2 == 1 {
            pair.south.kill();
            pair.south.restart();
        }
        pair.north.restart();
    }
    until(SOON, "all are delivered", || (receiver.payloads().len() >= acknowledged.len()).then_some(()));
    let accepted = awaited(&pair.north, "accepted", acknowledged.len());
    assert_eq!(accepted.len(), acknowledged.len(), "each once");
    assert!(accepted.iter().zip(1..).all(|(entry, n)| entry["sequence"] == n && entry["type"] == "ORU^R01"));
    let delivered = awaited(&pair.north, "delivered", acknowledged.len());
    assert_eq!(delivered.len(), acknowledged.len(), "each once");
    for id in &acknowledged {
        let found = entries(&pair.north, &format!("--control-id {id}"));
        let events: Vec<_> = found.iter().map(|entry| entry["event"].as_str().unwrap_or_default()).collect();
        assert_eq!(events, ["accepted", "delivered"], "{id}");
    }
    let far = awaited(&pair.south, "delivered", acknowledged.len());
    assert_eq!(
        (far.len(), &far[0]["service"], &far[0]["peer"]),
        (acknowledged.len(), &"orders".into(), &"north".into())
    );
    assert_eq!(entries(&pair.north, "--event lost").len(), 0);
    is_whole(&pair.north);
    is_whole(&pair.south);
}

fn what_operators_do_is_in_the_account() {
    let pair = stored();
    assert_eq!([send(&pair, "1"), send(&pair, "2")], ["AA 1", "AA 2"]);
    done(&pair, "forward pause orders");
    done(&pair, "queue show orders 1 --payload");
    done(&pair, "queue park orders 2");
    done(&pair, "queue discard orders 2 --reason JOHN-DOE-DIED");
    assert_eq!(run_at_north(&pair, "queue release orders 1").0, Some(1));
    done(&pair, "reload");
    let uid = format!("uid {}", nix::unistd::getuid());
    for event in ["paused", "viewed", "parked", "discarded", "not-done"] {
        let found = awaited(&pair.north, event, 1);
        assert_eq!(found.len(), 1, "{event}");
        is_by(&found[0], &uid);
    }
    let configured = awaited(&pair.north, "configured", 2);
    assert_eq!(configured[1]["detail"], "nothing changed");
    is_by(&configured[1], &uid);
    fs::write(pair.north.config_path(), "site: [").expect("written");
    assert_ne!(run_at_north(&pair, "reload").0, Some(0));
    let directory = log_directory(&pair.north).display().to_string();
    let refused = || {
        let words = pair.north.command(&["audit", "search", "--event", "config-refused", "--dir", &directory]);
        let output = pair.north.namespace.output(&words.join(" "));
        (!output.stdout.is_empty()).then_some(())
    };
    until(SOON, "the refusal is recorded", refused);
    let log = fs::read_to_string(segment(&pair.north)).expect("a log");
    assert!(!log.contains("JOHN"), "the reason may name a patient");
}

/// Checks who did it, whatever login these tests run in.
#[track_caller]
fn is_by(entry: &Value, uid: &str) {
    let operator = entry["operator"].as_str().unwrap_or_default();
    assert!(operator == uid || operator.starts_with(&format!("{uid} (login ")), "{entry}");
}

fn what_somebody_does_as_another_user_names_the_login() {
    let pair = stored();
    let script = pair.north.dir.join("as-login");
    fs::write(&script, "echo 4242 > /proc/self/loginuid\nexec \"$@\"\n").expect("written");
    let login = format!("sh {}", script.display());
    let known = pair.north.namespace.output(&format!("{login} cat /proc/self/loginuid")).stdout;
    if known != b"4242" {
        // No kernel that notes logins, or no right to say that there was one.
        return;
    }
    let socket = pair.north.dir.join("control.sock").display().to_string();
    for words in ["forward pause orders", "reload"] {
        let words = pair.north.command(&format!("{words} --socket {socket}").split(' ').collect::<Vec<_>>());
        assert!(pair.north.namespace.output(&format!("{login} {}", words.join(" "))).status.success());
    }
    let operator = format!("uid {} (login 4242)", nix::unistd::getuid());
    assert_eq!(awaited(&pair.north, "paused", 1)[0]["operator"], operator.as_str());
    assert_eq!(awaited(&pair.north, "configured", 2)[1]["operator"], operator.as_str());
    let (code, text) = audit(&pair.north, "search --json --event paused --operator 4242");
    assert_eq!((code, text.as_str()), (Some(0), ""), "a number alone is no login");
}

fn what_was_done_to_the_log_shows() {
    let mut pair = stored();
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    send(&pair, "1");
    awaited(&pair.north, "accepted", 1);
    pair.north.terminate();
    pair.north.program().wait(SOON);
    is_whole(&pair.north);
    let path = segment(&pair.north);
    let whole = fs::read_to_string(&path).expect("a log");
    fs::write(&path, whole.replacen("accepted", "rejected", 1)).expect("written");
    let (code, text) = audit(&pair.north, "verify");
    assert!(code == Some(1) && text.contains("is not as it was written"), "{text}");
    let lines: Vec<&str> = whole.lines().collect();
    fs::write(&path, lines[..lines.len() - 2].join("\n") + "\n").expect("written");
    let (code, text) = audit(&pair.north, "verify");
    assert!(code == Some(1) && text.contains("the end was cut off"), "{text}");
    // The site goes on, and does not cover it up.
    pair.north.restart();
    assert_eq!(send(&pair, "2"), "AA 2");
    awaited(&pair.north, "broken", 1);
    needs_a_look(&pair.north, "the audit log is not as it was written: the log ends at entry");
    let (code, text) = audit(&pair.north, "verify");
    assert!(code == Some(1) && text.contains("are missing"), "{text}");
    assert!(pair.north.log().contains("the audit log is not as it was written"));
}

fn a_full_disk_holds_up_no_message_and_loses_nothing_stored() {
    let mut pair = Pair::unstarted();
    let (north, south) = plans(&pair);
    let disk = SmallDisk::mount(&pair.north, "state/audit", 64);
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    send(&pair, "1");
    disk.take("filler", 40);
    let ids: Vec<String> = (2..8).map(|n| n.to_string()).collect();
    for id in &ids {
        assert_eq!(send(&pair, id), format!("AA {id}"));
    }
    until(SOON, "all are delivered", || (receiver.payloads().len() == 7).then_some(()));
    until(SOON, "the site says so", || (pair.north.metric("audit_written", "") < 0.5).then_some(()));
    let health = pair.north.health();
    let cause = health["audit"]["failed"]["cause"].as_str().unwrap_or_default();
    assert!(health["status"] == "degraded" && cause.contains("make room"), "{health}");
    assert!(done(&pair, "status").contains("the audit log cannot be written since"));
    disk.give_back("filler");
    until(SOON, "it is written again", || (pair.north.metric("audit_written", "") > 0.5).then_some(()));
    until(SOON, "all of it is recorded", || {
        (entries(&pair.north, "--event accepted,delivered").len() == 14).then_some(())
    });
    assert_eq!(entries(&pair.north, "--event lost").len(), 0);
    is_whole(&pair.north);
}

/// Returns up to which entry a peer knows a log, where it is whole; a site that has just started has no log yet.
pub(crate) fn known_to(site: &Site, peer: &str) -> Option<u64> {
    let (code, text) = audit(site, "verify");
    if text.contains("there is no log in ") {
        return None;
    }
    assert_eq!(code, Some(0), "{text}");
    let begin = format!("{peer} knows it up to entry ");
    let line = text.lines().find_map(|line| line.strip_prefix(&begin))?;
    line.split(',').next()?.parse().ok()
}

/// Tells that a site is degraded, why, and that its monitoring hears of it.
pub(crate) fn needs_a_look(site: &Site, why: &str) {
    until(SOON, "it is degraded", || (site.health()["status"] == "degraded").then_some(()));
    let words = format!("check -c {}", site.config_path());
    let words = site.command(&words.split(' ').collect::<Vec<_>>());
    let output = site.namespace.output(&words.join(" "));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && text.contains(why), "{text}");
}

fn a_log_that_was_taken_away_with_its_key_shows_at_both_sites() {
    let mut pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    until(SOON * 2, "south keeps the head of north's log", || known_to(&pair.north, "south"));
    let mut sender = pair.sender();
    (1..22).for_each(|n| sender.exchange(&message(&n.to_string(), 500)));
    drop(sender);
    until(SOON * 2, "south knows more", || known_to(&pair.north, "south").filter(|known| *known > 20));
    pair.north.terminate();
    pair.north.program().wait(SOON);
    fs::remove_dir_all(log_directory(&pair.north)).expect("removed");
    pair.north.restart();
    assert_eq!(awaited(&pair.south, "peer-log", 1)[0]["peer"], "north");
    needs_a_look(&pair.south, "the audit log of north is not what it was: it ends at entry");
    assert_eq!(awaited(&pair.north, "broken", 1)[0]["peer"], "south");
    needs_a_look(&pair.north, "the audit log is not as it was written: the peer knows one up to entry");
    let (text, _) = until(SOON * 2, "it is broken", || {
        let (code, text) = audit(&pair.north, "verify");
        (code == Some(1)).then_some(text)
    });
    assert!(text.contains("that another key made"), "{text}");
    let entry: String = text.chars().filter(char::is_ascii_digit).collect();
    assert_eq!(audit(&pair.north, &format!("accept --other-key {entry}")).0, Some(0), "{entry}");
    pair.north.terminate();
    pair.north.program().wait(SOON);
    pair.north.restart();
    pair.is_linked();
    std::thread::sleep(std::time::Duration::from_secs(3)); // it would be named at the link's first question
    assert_eq!(audit(&pair.north, "verify").0, Some(0));
    assert!(pair.north.health()["audit"]["contradicted"].is_null(), "it is accepted");
}

fn a_log_that_was_put_back_is_known_by_what_the_peer_was_told() {
    // Of stored messages the log would catch up at once, and be as long as before.
    let mut pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    let (first, _) = until(SOON * 2, "south keeps the head of north's log", || known_to(&pair.north, "south"));
    until(SOON * 2, "north keeps the head of south's log", || known_to(&pair.south, "north"));
    let (now, before) = (log_directory(&pair.north), pair.north.dir.join("before"));
    let stop = |pair: &mut Pair| {
        pair.north.terminate();
        pair.north.program().wait(SOON);
    };
    stop(&mut pair);
    assert!(std::process::Command::new("cp").arg("-a").args([&now, &before]).status().expect("cp").success());
    pair.north.restart();
    pair.is_linked();
    let mut sender = pair.sender();
    (2..22).for_each(|n| sender.exchange(&message(&n.to_string(), 500)));
    drop(sender);
    until(SOON * 2, "south knows more", || known_to(&pair.north, "south").filter(|known| *known > first + 20));
    stop(&mut pair);
    fs::remove_dir_all(&now).expect("removed");
    fs::rename(&before, &now).expect("put back");
    is_whole(&pair.north);
    pair.north.restart();
    until(SOON * 2, "the site says so", || pair.north.health()["audit"]["contradicted"]["cause"].as_str().map(drop));
    needs_a_look(&pair.north, "the audit log is not as it was written: it ended at entry");
    assert!(done(&pair, "status").contains("the audit log is not as it was written, as is known since"));
    assert_eq!(awaited(&pair.north, "broken", 1)[0]["peer"], "south");
    assert_eq!(awaited(&pair.south, "peer-log", 1)[0]["peer"], "north");
    needs_a_look(&pair.south, "the audit log of north is not what it was: it ends at entry");
    assert!(pair.south.metric("audit_peer_contradicted", "peer=\"north\"") > 0.5);
    until(SOON, "it is written down", || (audit(&pair.north, "verify").0 == Some(1)).then_some(()));
    let (_, text) = audit(&pair.north, "verify");
    assert!(text.contains("the end was cut off") || text.contains("south was told of"), "{text}");
}
