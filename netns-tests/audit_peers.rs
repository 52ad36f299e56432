//! What one running site knows of another one's audit log: of a new one after a restore, of one that is taken away, and
//! what the operators of both accept.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::audit::{SOON, audit, awaited, entries, known_to, log_directory, needs_a_look};
use crate::harness::mllp::{Behaviour, message};
use crate::harness::pair::Pair;
use crate::harness::site::Site;
use crate::harness::{tests, until};

tests![
    a_new_log_has_its_witness_and_the_other_sites_operator_accepts_it,
    a_log_that_is_taken_away_under_a_running_site_is_broken,
];

/// Is longer than a link is without a question.
const ASKED: Duration = Duration::from_secs(7);

fn stop(site: &mut Site) {
    site.terminate();
    site.program().wait(SOON);
}

fn exchange(pair: &Pair, count: u32) {
    let mut sender = pair.sender();
    (0..count).for_each(|n| sender.exchange(&message(&n.to_string(), 500)));
}

/// Waits until the other site knows north's log beyond an entry, and returns how far.
#[track_caller]
fn known_beyond(pair: &Pair, entry: u64) -> u64 {
    let known = || known_to(&pair.north, "south").filter(|known| *known > entry);
    until(SOON * 2, "south keeps a head of north's log", known).0
}

/// Says how south finds north's log.
fn fault_at_south(pair: &Pair) -> Option<String> {
    pair.south.health()["audit"]["peers"][0]["fault"]["cause"].as_str().map(str::to_owned)
}

fn a_new_log_has_its_witness_and_the_other_sites_operator_accepts_it() {
    let mut pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    exchange(&pair, 40);
    let before = known_beyond(&pair, 40);
    stop(&mut pair.north);
    fs::remove_dir_all(log_directory(&pair.north)).expect("removed");
    pair.north.restart();
    until(SOON * 2, "it may be accepted", || {
        (audit(&pair.north, &format!("accept --other-key {before}")).0 == Some(0)).then_some(())
    });
    stop(&mut pair.north);
    pair.north.restart();
    let standing = "the audit log of north is not what it was: it ends at entry";
    awaited(&pair.south, "peer-log", 1);
    needs_a_look(&pair.south, standing);
    // Its witness is there from the first head on: what is cut off it is found.
    let first = known_beyond(&pair, 0);
    assert!(first < before, "{first}");
    stop(&mut pair.north);
    let (now, copied) = (log_directory(&pair.north), pair.north.dir.join("copied"));
    assert!(Command::new("cp").arg("-a").args([&now, &copied]).status().expect("cp").success());
    pair.north.restart();
    pair.is_linked();
    exchange(&pair, 20);
    let further = known_beyond(&pair, first + 20);
    // The warning stands over restarts, and until somebody accepts it there, whatever north does.
    stop(&mut pair.south);
    pair.south.restart();
    pair.is_linked();
    needs_a_look(&pair.south, standing);
    assert_eq!(entries(&pair.south, "--event peer-log").len(), 1, "said once");
    assert_eq!(audit(&pair.south, "accept --peer west").0, Some(64));
    let (code, text) = audit(&pair.south, "accept --peer north");
    assert!(code == Some(0) && text.contains(&format!("went on to entry {before} before")), "{text}");
    until(SOON, "it is accepted", || fault_at_south(&pair).is_none().then_some(()));
    let accepted = entries(&pair.south, "--event configured --peer north");
    assert!(accepted[0]["detail"].as_str().is_some_and(|text| text.starts_with("accepted of the peer's log: ")));
    stop(&mut pair.south);
    pair.south.restart();
    pair.is_linked();
    thread::sleep(ASKED);
    assert_eq!(fault_at_south(&pair), None);
    assert_ne!(pair.south.health()["status"], "degraded");
    stop(&mut pair.north);
    fs::remove_dir_all(&now).expect("removed");
    fs::rename(&copied, &now).expect("put back");
    pair.north.restart();
    needs_a_look(&pair.north, "the audit log is not as it was written: it ended at entry");
    awaited(&pair.south, "peer-log", 2);
    let text = fault_at_south(&pair).expect("named");
    assert!(text.ends_with(" before") && !text.contains(&format!("entry {before} ")), "{further}: {text}");
}

fn a_log_that_is_taken_away_under_a_running_site_is_broken() {
    let mut pair = Pair::start(&[]);
    let path = log_directory(&pair.north).join("peers/south.json");
    known_beyond(&pair, 0);
    stop(&mut pair.south);
    thread::sleep(Duration::from_secs(6)); // what was said last is written
    fs::write(&path, "garbled").expect("written");
    let (code, text) = audit(&pair.north, "verify");
    assert!(code == Some(1) && text.contains("south.json was changed: it does not say what south knows"), "{text}");
    fs::remove_dir_all(log_directory(&pair.north)).expect("removed");
    let (code, text) = audit(&pair.north, "verify");
    assert!(code == Some(1) && text.starts_with("broken: the log is gone: "), "{text}");
    let (code, text) = audit(&pair.north, "tail");
    assert!(code == Some(1) && text.contains("the log is gone: "), "{text}");
    stop(&mut pair.north);
}
