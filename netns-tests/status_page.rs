//! The status page of a real site: its headers and bounds, and what a browser shows of it while messages flow, while the
//! other site dies and while this one does.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::harness::load::Load;
use crate::harness::mllp::{Behaviour, MARKER, message};
use crate::harness::pair::{FORWARD, Pair, loopback};
use crate::harness::plan::HEALTH;
use crate::harness::process::Process;
use crate::harness::{tests, until};
use crate::peers::program;

tests![
    the_page_is_read_only_and_of_this_site_alone,
    streams_take_no_probes_place_and_end,
    nothing_on_it_shows_a_byte_of_a_message,
    a_browser_shows_it_live needs "chromium" "node" "peer:playwright-core" "peer:axe-core",
];

/// Bounds what must happen at once.
const SOON: Duration = Duration::from_secs(5);

/// Bounds a step of the browser on a machine that is busy; its own limits are shorter.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Is the port of north's stored forward.
const RESULTS: u16 = 2576;

fn the_page_is_read_only_and_of_this_site_alone() {
    let pair = Pair::start(&[]);
    for path in ["/", "/page.css", "/page.js", "/parts.js", "/chart.js", "/hour.js", "/words.js"] {
        let answer = pair.north.get(path);
        let head = answer.head.to_lowercase();
        assert_eq!(answer.status, 200, "{path}: {head}");
        for line in
            ["content-security-policy: default-src 'none';", "x-content-type-options: nosniff", "referrer-policy:"]
        {
            assert!(head.contains(line), "{path}: {line}: {head}");
        }
        let foreign = pair.north.get_from_host(path, "attacker.example").expect("an answer");
        assert_eq!(foreign.status, 421, "{path}");
    }
    assert_eq!(pair.north.get_from_host("/events", "attacker.example").expect("an answer").status, 421);
}

/// Opens a stream and reads its first event.
fn stream(pair: &Pair) -> (TcpStream, String) {
    let mut stream = pair.north.namespace.connect(HEALTH.parse().expect("an address")).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    write!(stream, "GET /events HTTP/1.1\r\nHost: {HEALTH}\r\n\r\n").expect("it reads");
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&said).contains("\n\n") && !said.starts_with(b"HTTP/1.1 503") {
        let count = stream.read(&mut piece).expect("it says something");
        assert_ne!(count, 0, "it ended: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..count]);
    }
    (stream, String::from_utf8_lossy(&said).into_owned())
}

fn streams_take_no_probes_place_and_end() {
    let mut pair = Pair::start(&[]);
    let streams: Vec<_> = (0..16).map(|_| stream(&pair)).collect();
    assert!(streams.iter().all(|(_, said)| said.starts_with("HTTP/1.1 200")), "{streams:?}");
    let (_, said) = stream(&pair);
    assert!(said.starts_with("HTTP/1.1 503") && said.to_lowercase().contains("retry-after: "), "{said}");
    for _ in 0..100 {
        assert_eq!(pair.north.get("/livez").status, 200);
    }
    pair.north.terminate();
    let (_, took) = pair.north.program().wait(SOON);
    assert!(took < SOON, "streams keep no site from its end: {took:?}");
}

fn nothing_on_it_shows_a_byte_of_a_message() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AE"));
    let mut sender = pair.sender();
    sender.send(&message("IDMARKER1", 500)).expect("open");
    assert!(sender.answer(SOON).is_ok());
    until(SOON, "the refusal is seen", || pair.north.get("/healthz").body.contains("AE").then_some(()));
    drop(receiver);
    let mut sender = pair.sender();
    sender.send(&message("IDMARKER2", 500)).expect("open");
    let is_down = || pair.north.get("/healthz").body.contains("refuses connections").then_some(());
    until(SOON, "the receiver is down", is_down);
    let (_, said) = stream(&pair);
    assert!(said.contains("refuses connections"), "{said}");
    for secret in [MARKER, "IDMARKER", "SYNTHETIC"] {
        assert!(!said.contains(secret), "it shows {secret}");
    }
}

/// Messages flow on two forwards; then south is killed, then north, and north comes back.
fn a_browser_shows_it_live() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&[]);
    let north = north.spool(&pair.north.dir.join("spool.key").display().to_string()).forward(
        "results",
        loopback(RESULTS),
        "south",
        "service: results",
        &["delivery: stored"],
    );
    let south = south.service("results", loopback(6662), "north", &[]);
    let _receivers = [6661, 6662].map(|port| {
        crate::harness::mllp::Receiver::start(&pair.south.namespace, loopback(port), Behaviour::Answer("AA"))
    });
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let [one, two] = [FORWARD, loopback(RESULTS)].map(|forward| Load::start(&pair.north.namespace, forward, 1));
    let shots = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/status-page");
    std::fs::create_dir_all(&shots).expect("a directory");
    let url = format!("http://{HEALTH}/");
    let words = program("status_page.js", &[&url, &shots.display().to_string(), MARKER, "SYNTHETIC", "LOAD"]);
    let mut browser = Process::start(&pair.north.namespace, &words, &pair.north.dir.join("browser.log"));
    let says = |browser: &mut Process, word: &str| {
        until(STEP_LIMIT, word, || {
            let log = browser.log();
            assert!(!log.contains("FAILED") && (log.contains(word) || browser.ended().is_none()), "{word}: {log}");
            log.contains(word).then_some(log)
        })
    };
    says(&mut browser, "LIVE");
    // it takes north some seconds to notice: meanwhile the page is looked at
    pair.south.kill();
    let (log, took) = says(&mut browser, "DOWN");
    let cause = log.lines().find(|line| line.starts_with("DOWN")).unwrap_or_default();
    assert!(cause.contains("south") && cause.contains("orders") && cause.contains("since"), "{took:?}: {cause}");
    pair.north.kill();
    says(&mut browser, "LOST");
    one.abandon();
    two.abandon();
    pair.north.restart();
    says(&mut browser, "BACK");
    let (status, _) = browser.wait(SOON);
    std::fs::write(shots.join("steps.txt"), browser.log()).expect("a file");
    assert!(status.success(), "{}", browser.log());
}
