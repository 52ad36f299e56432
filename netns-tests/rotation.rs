//! A site changes its key by `wardlink rotate`, and its peers follow: under load, after an outage, over `kill -9` at
//! each step, both sites at once; a compromised key is cut, and a plain peer kept.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::harness::load::Load;
use crate::harness::mllp::{ANSWER_LIMIT, Behaviour, Sender, answer_to, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plain::{INTERFACE, WireGuardGo};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::site::Site;
use crate::harness::wire::Wire;
use crate::harness::{tests, until};

tests![
    a_pair_rotates_and_loses_neither_a_message_nor_a_connection,
    both_sites_rotate_at_once,
    a_peer_that_was_down_moves_when_it_is_back,
    a_kill_at_each_step_leaves_two_sites_that_find_each_other,
    a_new_key_that_the_running_site_was_not_told_of_is_taken_up,
    a_stolen_key_that_a_killed_run_left_is_told_and_removed_by_the_next,
    a_compromised_key_is_cut_off_at_once,
    a_plain_peer_is_named_and_known_by_the_old_key_until_it_has_the_new_one needs "wireguard-go" "wg" "ping",
];

/// Bounds what follows from a rotation: a link asks for an echo, and tells the key, each five to ten seconds.
const LIMIT: Duration = Duration::from_secs(40);
const SENDERS: usize = 4;
const HOLD: &[&str] = &["hold_for: 30s"];

/// Runs a command of the program at a site; returns the exit code and all that was printed, standard output first.
pub(crate) fn try_run(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let config = site.config_path();
    let words: Vec<&str> = arguments.iter().copied().chain(["-c", &config]).collect();
    let output = site.namespace.output(&site.command(&words).join(" "));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[track_caller]
pub(crate) fn run(site: &Site, arguments: &[&str]) -> String {
    let (code, said) = try_run(site, arguments);
    assert_eq!(code, Some(0), "{}: {arguments:?}: {said}", site.name);
    said
}

#[track_caller]
fn refused(site: &Site, arguments: &[&str]) -> String {
    let (code, said) = try_run(site, arguments);
    assert_eq!(code, Some(64), "{}: {arguments:?}: {said}", site.name);
    assert!(said.contains("nothing was changed"), "{said}");
    said
}

/// Waits until a site's old key counts no more.
#[track_caller]
fn has_rotated(site: &Site) {
    until(LIMIT, "every peer knows the new key", || (site.health()["rotation"]["is_done"] == true).then_some(()));
}

fn config(site: &Site) -> String {
    fs::read_to_string(site.config_path()).expect("the configuration")
}

/// Returns the key by which a site knows a peer.
fn key_of(site: &Site, peer: &str) -> String {
    site.health_of("peers", peer)["public_key"].as_str().expect("a key").to_owned()
}

/// Sends a message until it is acknowledged, as engines do: one that a kill has cut off is sent again.
#[track_caller]
fn passes(pair: &Pair, id: &str) {
    let payload = message(id, 500);
    until(LIMIT, "a message is acknowledged", || {
        let mut sender = Sender::connect(&pair.north.namespace, FORWARD).ok()?;
        sender.send(&payload).ok()?;
        let answer = sender.answer(ANSWER_LIMIT).ok()?;
        assert_eq!(answer, answer_to(&payload, "AA"));
        Some(())
    });
}

fn a_pair_rotates_and_loses_neither_a_message_nor_a_connection() {
    let mut pair = Pair::start(HOLD);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, SENDERS);
    let old_keys = (key_of(&pair.north, "south"), key_of(&pair.south, "north"));
    let since = |pair: &Pair| ["peers", "forwards"].map(|list| pair.north.health()[list][0]["since"].clone());
    let since_when = since(&pair);
    let words = run(&pair.south, &["card", "--fingerprint"]);
    for site in [&pair.south, &pair.north] {
        let said = run(site, &["rotate"]);
        assert!(said.contains("the old key of this site is gone"), "{said}");
        assert!(!site.dir.join("private.key").exists() && site.dir.join("private-2.key").exists(), "{said}");
        let text = config(site);
        assert!(text.contains("private-2.key") && !text.contains("old_private_key_file"), "{text}");
        assert!(site.health()["rotation"].is_null());
    }
    assert_ne!(run(&pair.south, &["card", "--fingerprint"]), words);
    assert_ne!(key_of(&pair.north, "south"), old_keys.0);
    assert_ne!(key_of(&pair.south, "north"), old_keys.1);
    assert_eq!(since(&pair), since_when, "a new handshake is no new beginning: there was no gap");
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!((report.lost, receiver.connections()), (0, SENDERS), "no connection ended");
    let changed = run(&pair.north, &["audit", "search", "--event", "key-changed"]);
    assert!(changed.contains("south"), "{changed}");
    // what was learnt is there after a restart, though the configuration has the older key; a command that changes the
    // file writes the newer one there
    assert!(config(&pair.south).contains(&old_keys.1));
    assert!(!config(&pair.north).contains(&old_keys.0) && config(&pair.north).contains(&key_of(&pair.north, "south")));
    for site in [&mut pair.south, &mut pair.north] {
        site.kill();
        site.restart();
    }
    pair.is_linked();
    passes(&pair, "after");
    // and a card is taken that says the same
    let card = run(&pair.north, &["card"]).lines().next().expect("a card").to_owned();
    let words = run(&pair.north, &["card", "--fingerprint"]).trim().replace(' ', "-");
    let said = run(&pair.south, &["pair", &card, "--yes", "--fingerprint", &words]);
    assert!(said.contains("the card is taken of north") && !config(&pair.south).contains(&old_keys.1), "{said}");
    passes(&pair, "more");
}

fn both_sites_rotate_at_once() {
    let pair = Pair::start(HOLD);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::start(&pair.north.namespace, FORWARD, SENDERS);
    for site in [&pair.south, &pair.north] {
        let said = run(site, &["rotate", "--wait", "0s"]);
        assert!(said.contains("0 of 1 peers use it"), "{said}");
    }
    for site in [&pair.south, &pair.north] {
        has_rotated(site);
        run(site, &["rotate", "--finish"]);
    }
    let report = load.finish();
    report.holds(&[&receiver]);
    assert_eq!((report.lost, receiver.connections()), (0, SENDERS), "no connection ended");
}

fn a_peer_that_was_down_moves_when_it_is_back() {
    let mut pair = Pair::start(HOLD);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.north.kill();
    let said = run(&pair.south, &["rotate", "--wait", "1s"]);
    assert!(said.contains("no link to tell it by") && said.contains(": north"), "{said}");
    assert!(run(&pair.south, &["status"]).contains("0 of 1 peers use it"));
    let said = refused(&pair.south, &["rotate"]);
    assert!(said.contains("waits for north"), "{said}");
    // another change that waits is no change of the key
    run(&pair.south, &["service", "add", "later", "--target", "127.0.0.1:9", "--allow-peer", "north", "--no-reload"]);
    let said = refused(&pair.south, &["rotate"]);
    assert!(said.contains("waits for north"), "{said}");
    let said = refused(&pair.south, &["rotate", "--finish"]);
    assert!(said.contains("counts yet, for north"), "{said}");
    pair.south.kill();
    pair.south.restart();
    pair.north.restart();
    pair.is_linked();
    passes(&pair, "by the old key");
    has_rotated(&pair.south);
    assert!(run(&pair.south, &["status"]).contains("rotate --finish"));
    run(&pair.south, &["rotate", "--finish"]);
    passes(&pair, "by the new key");
}

fn a_kill_at_each_step_leaves_two_sites_that_find_each_other() {
    let mut pair = Pair::start(HOLD);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    run(&pair.south, &["rotate", "--wait", "0s"]);
    pair.south.kill();
    pair.south.restart();
    pair.is_linked();
    passes(&pair, "one");
    // as soon as north has written down which key is to come, and as soon as south has that it has
    let state = pair.north.dir.join("state/keys.json");
    until(LIMIT, "north was told", || state.exists().then_some(()));
    pair.north.kill();
    pair.north.restart();
    let state = pair.south.dir.join("state/keys.json");
    until(LIMIT, "north has moved", || state.exists().then_some(()));
    pair.south.kill();
    pair.north.kill();
    pair.north.restart();
    pair.south.restart();
    has_rotated(&pair.south);
    pair.is_linked();
    passes(&pair, "two");
    pair.south.kill();
    pair.south.restart();
    assert_eq!(pair.south.health()["rotation"]["is_done"], true, "it is known after a restart");
    run(&pair.south, &["rotate", "--finish"]);
    passes(&pair, "three");
}

fn a_new_key_that_the_running_site_was_not_told_of_is_taken_up() {
    let pair = Pair::start(HOLD);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    // as a kill leaves it between the file and the reload
    for again in [&["rotate", "--finish"][..], &["rotate"]] {
        run(&pair.south, &["rotate", "--no-reload"]);
        assert!(pair.south.health()["rotation"].is_null());
        let said = run(&pair.south, again);
        assert!(said.contains("had not been told") && said.contains("the old key of this site is gone"), "{said}");
        passes(&pair, again[again.len() - 1]);
    }
    run(&pair.south, &["rotate", "--wait", "0s"]);
    has_rotated(&pair.south);
    run(&pair.south, &["rotate", "--finish", "--no-reload"]);
    assert!(run(&pair.south, &["rotate", "--finish"]).contains("had not been told"));
    assert!(refused(&pair.south, &["rotate", "--finish"]).contains("nothing to finish"));
    // what the site was not told of is no change of its key
    run(&pair.south, &["service", "add", "later", "--target", "127.0.0.1:9", "--allow-peer", "north", "--no-reload"]);
    assert!(refused(&pair.south, &["rotate", "--finish"]).contains("nothing to finish"));
}

fn a_stolen_key_that_a_killed_run_left_is_told_and_removed_by_the_next() {
    let pair = Pair::start(HOLD);
    let site = &pair.south;
    let file = |name: &str| site.dir.join(name);
    let stolen = fs::read(file("private.key")).expect("the key");
    let public = site.health()["public_key"].as_str().expect("the site's own key").to_owned();
    let keys = |site: &Site| {
        let names = fs::read_dir(&site.dir).expect("files").flatten();
        let mut names: Vec<String> = names.map(|one| one.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with("private") || name.ends_with(".keys"));
        names.sort();
        names
    };
    // what a kill leaves between the file and the reload
    let leave = || {
        fs::write(file("private.key"), &stolen).expect("written");
        fs::set_permissions(file("private.key"), fs::Permissions::from_mode(0o600)).expect("set");
        fs::write(file(".wardlink.yaml.keys"), format!("{public} private.key\n")).expect("written");
    };
    run(site, &["rotate", "--compromised", "--yes", "--no-reload"]);
    leave();
    let told = || {
        let said = run(site, &["status"]);
        said.contains(&format!("the site runs with that of {public}")).then_some(said)
    };
    until(LIMIT, "status tells of the other key", told);
    let (code, said) = try_run(site, &["check"]);
    assert!(code == Some(1) && said.contains("names the private key of"), "{code:?} {said}");
    // the site uses it: it is not taken away
    assert!(refused(site, &["rotate", "--finish"]).contains("nothing to finish"));
    assert_eq!(keys(site), [".wardlink.yaml.keys", "private-2.key", "private.key"]);
    let said = run(site, &["rotate", "--compromised", "--yes"]);
    assert!(said.contains("private.key, which a run that was killed had left"), "{said}");
    assert_eq!(keys(site), ["private-3.key"]);
    until(LIMIT, "status tells of it no more", || told().is_none().then_some(()));
    leave();
    let said = run(site, &["rotate", "--finish"]);
    assert!(said.contains("private.key, which a run that was killed had left"), "{said}");
    assert_eq!(keys(site), ["private-3.key"]);
}

fn a_compromised_key_is_cut_off_at_once() {
    let pair = Pair::start(HOLD);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    passes(&pair, "before");
    // nobody is asked without a terminal
    assert!(refused(&pair.south, &["rotate", "--compromised"]).contains("--yes"));
    let said = run(&pair.south, &["rotate", "--compromised", "--yes"]);
    let card = said.lines().find(|line| line.starts_with("wardlink1:")).expect("the new card").to_owned();
    assert!(said.contains("must be paired again (north)") && said.contains("--new-key"), "{said}");
    assert!(!pair.south.dir.join("private.key").exists() && !config(&pair.south).contains("old_private_key_file"));
    // north goes on with what it knows, and is not let in
    let refused_initiations = || pair.south.health()["dropped"]["bad_mac"].as_u64().unwrap_or(0);
    let before = refused_initiations();
    until(LIMIT, "the old key's initiations are refused", || (refused_initiations() > before + 1).then_some(()));
    let mut sender = pair.sender();
    sender.send(&message("held", 500)).expect("it is taken");
    sender.answer(Duration::from_secs(2)).expect_err("nothing passes");
    assert_eq!(receiver.payloads().len(), 1);
    let is_to_be_told = || {
        let cause = pair.south.health_of("peers", "north")["cause"].as_str().unwrap_or_default().to_owned();
        cause.contains("north has not taken the new one")
    };
    until(LIMIT, "the site says who is to be told", || is_to_be_told().then_some(()));
    let words = run(&pair.south, &["card", "--fingerprint"]).trim().replace(' ', "-");
    let said = refused(&pair.north, &["pair", &card, "--yes", "--fingerprint", &words]);
    assert!(said.contains("--new-key"), "{said}");
    run(&pair.north, &["pair", &card, "--new-key", "--yes", "--fingerprint", &words]);
    pair.is_linked();
    assert!(!is_to_be_told(), "it knows it");
    passes(&pair, "after");
}

fn a_plain_peer_is_named_and_known_by_the_old_key_until_it_has_the_new_one() {
    let wire = Wire::new();
    let (mut south, north) = (wire.site("south"), wire.site("north"));
    south.start(&Plan::of(&south).peer(&north));
    let plain = WireGuardGo::start(&north);
    plain.peer(&north, &south, "");
    let ping = format!("ping -c 1 -W 1 {}", south.inner);
    let answers = || until(LIMIT, "it answers", || north.namespace.output(&ping).status.success().then_some(()));
    answers();
    let said = run(&south, &["rotate", "--wait", "1s"]);
    assert!(said.contains("plain WireGuard: give its admin the new card): north"), "{said}");
    // a handshake with the old key is taken on
    north.namespace.must(&format!("wg set {INTERFACE} peer {} remove", south.public_key));
    plain.peer(&north, &south, "");
    answers();
    let card = run(&south, &["card"]);
    let key = card.split("key=").nth(1).and_then(|rest| rest.split(',').next()).expect("a key");
    north.namespace.must(&format!("wg set {INTERFACE} peer {} remove", south.public_key));
    let (inner, outer) = (south.inner, south.outer);
    let peer = format!("endpoint {outer}:{UDP_PORT} persistent-keepalive 5 allowed-ips {inner}/32");
    north.namespace.must(&format!("wg set {INTERFACE} peer {key} {peer}"));
    answers();
    has_rotated(&south);
    run(&south, &["rotate", "--finish"]);
    answers();
    // nobody is left who is waited for
    run(&south, &["rotate", "--wait", "0s"]);
    assert!(south.health()["rotation"]["is_done"] == false);
    run(&south, &["pair", "--remove", "north"]);
    run(&south, &["rotate", "--finish"]);
    let said = run(&south, &["rotate", "--wait", "3s"]);
    assert!(said.contains("the old key of this site is gone"), "{said}");
}
