//! The wall clock is set back, or forward from 1970, with restarts: messages flow again, and a line says what happened.
//!
//! No namespace has a wall clock of its own: libfaketime gives one to a site's process, and to it alone.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::mllp::{Behaviour, message};
use crate::harness::pair::Pair;
use crate::harness::site::Site;
use crate::harness::{tests, until};

tests![
    set_back_an_hour_a_running_site_goes_on_and_a_restarted_one_is_called needs "faketime",
    started_in_1970_a_site_is_called_and_then_begins_handshakes_itself needs "faketime",
    both_sites_restart_and_one_is_an_hour_behind needs "faketime",
];

/// Bounds the time from a restart to an answer: the peer calls a second after it fell silent.
const FLOW_LIMIT: Duration = Duration::from_secs(6);

/// Bounds the time until a step has been noticed: the clocks are looked at each second.
const NOTICE_LIMIT: Duration = Duration::from_secs(5);

/// Bounds one message.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Gives a site a wall clock that [`set`] sets while it runs.
fn wrap(site: &mut Site) {
    let library = fs::read_dir("/usr/lib")
        .expect("/usr/lib")
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("libfaketime.so.1"));
    set(site, "+0");
    site.environment = vec![
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", offset_file(site).display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
}

/// Sets a site's wall clock: so many seconds from the right time, with a sign.
fn set(site: &Site, offset: &str) {
    // whole at once: the site may read it at any time
    let fresh = offset_file(site).with_extension("new");
    fs::write(&fresh, format!("{offset}\n")).expect("the offset is written");
    fs::rename(&fresh, offset_file(site)).expect("the offset is replaced");
}

fn offset_file(site: &Site) -> PathBuf {
    site.dir.join("offset")
}

/// Sends a message through and returns how long it took.
#[track_caller]
fn exchange(pair: &Pair, name: &str) -> Duration {
    let start = Instant::now();
    let mut sender = pair.sender();
    sender.send(&message(name, 500)).expect("the forward takes it");
    sender.answer(ANSWER_LIMIT).unwrap_or_else(|lost| panic!("{name}: {lost:?}"));
    start.elapsed()
}

#[track_caller]
fn says(site: &Site, text: &str) {
    until(NOTICE_LIMIT, text, || site.log().contains(text).then_some(()));
}

fn set_back_an_hour_a_running_site_goes_on_and_a_restarted_one_is_called() {
    let mut pair = Pair::unstarted();
    wrap(&mut pair.north);
    let (north, south) = pair.plans(&["hold_for: 20s"]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    exchange(&pair, "before");

    set(&pair.north, "-3600");
    says(&pair.north, "the clock was set back");
    exchange(&pair, "set-back");
    assert!(pair.north.metric("clock_behind_seconds", "") < 0.5, "a running site goes on");

    pair.north.kill();
    pair.north.restart();
    says(&pair.north, "the clock is behind what it was before this start");
    let took = exchange(&pair, "restarted");
    assert!(took < FLOW_LIMIT, "{took:?} after the restart");
    let behind = pair.north.metric("clock_behind_seconds", "");
    assert!((3500.0..3700.0).contains(&behind), "{behind} s behind");
    let replayed = pair.south.metric("peer_dropped_packets_total", "reason=\"handshake_replayed\"");
    assert!(replayed >= 1.0, "south has refused what north began");

    mend(&pair.north, &pair.south);
    exchange(&pair, "mended");
    assert!(pair.north.metric("clock_behind_seconds", "") < 0.5);
}

fn started_in_1970_a_site_is_called_and_then_begins_handshakes_itself() {
    let mut pair = Pair::unstarted();
    wrap(&mut pair.north);
    let (north, south) = pair.plans(&["hold_for: 20s"]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    exchange(&pair, "before");
    pair.north.kill();

    let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs();
    set(&pair.north, &format!("-{}", since_1970 - 60));
    pair.north.restart();
    says(&pair.north, "the clock is behind what it was before this start");
    let took = exchange(&pair, "in-1970");
    assert!(took < FLOW_LIMIT, "{took:?} after the restart");

    mend(&pair.north, &pair.south);
    exchange(&pair, "today");
    says(&pair.north, "the clock is later than in any earlier run");
}

fn both_sites_restart_and_one_is_an_hour_behind() {
    let mut pair = Pair::unstarted();
    wrap(&mut pair.south);
    let (north, south) = pair.plans(&["hold_for: 20s"]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    exchange(&pair, "before");
    pair.north.kill();
    pair.south.kill();
    set(&pair.south, "-3600");
    pair.south.restart();
    pair.north.restart();
    let took = exchange(&pair, "after");
    assert!(took < FLOW_LIMIT, "{took:?} after the restarts");
    says(&pair.south, "the clock is behind what it was before this start");
}

/// Sets the clock right, and waits until a handshake that `from` has begun since then was accepted by `to`.
#[track_caller]
fn mend(from: &Site, to: &Site) {
    let refused = || to.metric("peer_dropped_packets_total", "reason=\"handshake_replayed\"");
    let (before, start) = (refused(), Instant::now());
    set(from, "+0");
    says(from, "the clock was set forward");
    until(NOTICE_LIMIT, "a session since the step", || {
        (from.metric("peer_latest_handshake_age_seconds", "") < start.elapsed().as_secs_f64()).then_some(())
    });
    assert!(refused() <= before, "the handshake was refused");
}
