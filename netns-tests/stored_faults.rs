//! Stored delivery where the disk is at fault: a message that it changed, no room, at whole sites.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::harness::mllp::{Behaviour, Receiver, control_id, message};
use crate::harness::namespace::Namespace;
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::Plan;
use crate::harness::site::Site;
use crate::harness::{tests, until};

tests![
    the_feed_stops_at_a_damaged_message_and_goes_on_by_an_operators_word needs "python3",
    a_cut_large_message_holds_the_feed_and_is_given_up,
    a_full_spool_drains_also_after_kill_9_and_intake_returns_with_the_room,
    copies_of_delivered_messages_never_close_intake,
    a_far_site_goes_on_with_a_full_disk_also_after_kill_9,
    a_far_site_whose_inboxes_are_removed_goes_on_without_a_restart,
    a_receiver_that_fails_again_and_again_is_named_at_the_senders_site,
];

/// Bounds what sites do by themselves: a link after a restart among it.
const SOON: Duration = Duration::from_secs(20);

/// Bounds the way of some hundred messages on a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

/// Makes a pair whose north stores its orders, and starts north alone.
fn alone() -> (Pair, Plan) {
    let mut pair = Pair::unstarted();
    let south = start_north(&mut pair);
    (pair, south)
}

/// Starts north, which stores its orders; returns the plan of south.
fn start_north(pair: &mut Pair) -> Plan {
    let key = pair.north.dir.join("spool.key").display().to_string();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let lines = ["delivery: stored", "on_full: nak"];
    let north = north.forward("orders", FORWARD, "south", "service: orders", &lines);
    let (_, south) = pair.plans(&[]);
    pair.north.start(&north);
    south
}

/// Sends a message that is accepted.
#[track_caller]
fn keep(pair: &Pair, id: &str, bytes: usize) {
    assert!(is_kept(pair, id, bytes), "{id}");
}

/// Runs a command against north that succeeds.
#[track_caller]
fn done(pair: &Pair, words: &str) -> String {
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let words = format!("{words} --socket {socket}");
    pair.north.namespace.must(&pair.north.command(&words.split(' ').collect::<Vec<_>>()).join(" "))
}

fn ids(receiver: &Receiver) -> Vec<String> {
    let of = |payload: &Vec<u8>| String::from_utf8_lossy(control_id(payload)).into_owned();
    receiver.payloads().iter().map(of).collect()
}

/// Waits until these messages have come, in order, and no other.
#[track_caller]
fn come(receiver: &Receiver, expected: &[&str]) {
    until(SOON, "they come", || (receiver.payloads().len() >= expected.len()).then_some(()));
    assert_eq!(ids(receiver), expected);
}

/// Waits until north says that its queue is held at this message, and returns the cause.
#[track_caller]
fn held(pair: &Pair, sequence: u64) -> String {
    let (forward, _) = until(SOON, "it is held", || {
        Some(pair.north.health_of("forwards", "orders")).filter(|forward| forward["queue"]["state"] == "held")
    });
    assert_eq!((&forward["queue"]["sequence"], &forward["status"]), (&sequence.into(), &"down".into()), "{forward}");
    assert_eq!(forward["link"]["state"], "up", "{forward}");
    forward["cause"].as_str().expect("a cause").to_owned()
}

fn the_feed_stops_at_a_damaged_message_and_goes_on_by_an_operators_word() {
    let (mut pair, south) = alone();
    for id in ["1", "2", "3", "4"] {
        keep(&pair, id, 500);
    }
    pair.north.kill();
    let flip = "import sqlite3, sys\n\
                database = sqlite3.connect(sys.argv[1])\n\
                sealed = bytearray(database.execute('select sealed from contents where sequence = 3').fetchone()[0])\n\
                sealed[100] ^= 1\n\
                database.execute('update contents set sealed = ? where sequence = 3', (bytes(sealed),))\n\
                database.commit()\n";
    let database = pair.north.dir.join("state/spool/orders/spool.db");
    assert!(Command::new("python3").args(["-c", flip]).arg(database).status().expect("python3").success());
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.restart();
    come(&receiver, &["1", "2"]);
    let cause = held(&pair, 3);
    assert!(cause.contains("held at message 3: it is damaged"), "{cause}");
    assert!(done(&pair, "queue list orders").lines().any(|line| line.contains("queued, damaged")));
    assert!(done(&pair, "queue show orders 3").contains("damaged      message 3 was changed"));
    // Messages are taken on, and wait behind it.
    keep(&pair, "5", 500);
    assert_eq!(ids(&receiver), ["1", "2"]);
    done(&pair, "queue park orders 3");
    come(&receiver, &["1", "2", "4", "5"]);
    until(SOON, "it flows", || {
        (pair.north.health_of("forwards", "orders")["queue"]["state"] == "flowing").then_some(())
    });
    assert!(done(&pair, "queue list orders --state parked").lines().any(|line| line.starts_with("3 ")));
}

fn a_cut_large_message_holds_the_feed_and_is_given_up() {
    let (mut pair, south) = alone();
    keep(&pair, "1", 500);
    keep(&pair, "2", 2 << 20);
    keep(&pair, "3", 500);
    pair.north.kill();
    let entries = fs::read_dir(pair.north.dir.join("state/spool/orders")).expect("the spool");
    let mut large = entries.map(|entry| entry.expect("an entry").path());
    let large = large.find(|path| path.extension().is_some_and(|end| end == "sealed")).expect("a large message");
    fs::OpenOptions::new().write(true).open(large).and_then(|file| file.set_len(1 << 20)).expect("it is cut");
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.restart();
    come(&receiver, &["1"]);
    assert!(held(&pair, 2).contains("held at message 2: it is damaged"));
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let words = ["queue", "discard", "orders", "2", "--reason", "printed", "--socket", &socket];
    pair.north.namespace.must(&pair.north.command(&words).join(" "));
    come(&receiver, &["1", "3"]);
}

/// Is a small disk of its own, mounted where a site keeps something; only inside the site's namespace.
pub(crate) struct SmallDisk {
    at: PathBuf,
    namespace: Arc<Namespace>,
}

impl SmallDisk {
    /// Mounts it; the site is not to run.
    pub(crate) fn mount(site: &Site, at: &str, mebibytes: u64) -> Self {
        let disk = Self { at: site.dir.join(at), namespace: Arc::clone(&site.namespace) };
        fs::create_dir_all(&disk.at).expect("a directory");
        let (at, options) = (disk.at.clone(), format!("size={mebibytes}m,mode=0700"));
        disk.namespace.run(move || {
            let nothing = MsFlags::empty();
            mount(Some("tmpfs"), &at, Some("tmpfs"), nothing, Some(options.as_str())).expect("a disk");
        });
        disk
    }

    /// Lets another program take so much of it, or all that is left.
    pub(crate) fn take(&self, name: &str, mebibytes: u64) {
        let path = self.at.join(name);
        self.namespace.run(move || {
            let mut file = fs::File::create(path).expect("a file");
            let block = vec![7; 4096];
            for _ in 0..mebibytes * 256 {
                if file.write_all(&block).is_err() {
                    return;
                }
            }
        });
    }

    /// Lets it give that back.
    pub(crate) fn give_back(&self, name: &str) {
        let path = self.at.join(name);
        self.namespace.run(move || fs::remove_file(path).expect("it is there"));
    }
}

/// Sends a message, and tells whether it is accepted; a refused one is told so.
fn is_kept(pair: &Pair, id: &str, bytes: usize) -> bool {
    let mut sender = pair.sender();
    sender.send(&message(id, bytes)).expect("open");
    let answer = String::from_utf8(sender.answer(SOON).expect("an answer")).expect("wardlink's own text");
    assert!(answer.contains(&format!("MSA|AA|{id}")) || answer.contains(&format!("MSA|AR|{id}")), "{answer}");
    answer.contains("MSA|AA|")
}

fn a_full_spool_drains_also_after_kill_9_and_intake_returns_with_the_room() {
    let mut pair = Pair::unstarted();
    let disk = SmallDisk::mount(&pair.north, "state/spool", 128);
    let south = start_north(&mut pair);
    disk.take(".others", 84);
    let mut kept: Vec<String> = Vec::new();
    while kept.len() < 500 && is_kept(&pair, &format!("M{}", kept.len()), 200_000) {
        kept.push(format!("M{}", kept.len()));
    }
    assert!((20..500).contains(&kept.len()), "{} messages found room", kept.len());
    let full = "the spool's disk is full";
    let (forward, _) = until(SOON, "it is told", || {
        Some(pair.north.health_of("forwards", "orders")).filter(|forward| forward["disk_full_since"].is_string())
    });
    assert!(forward["cause"].as_str().is_some_and(|cause| cause.contains(full)), "{forward}");
    assert_eq!(pair.north.get("/readyz").status, 503);
    assert!(pair.north.health()["unready"].to_string().contains(full));
    assert!(pair.north.log().contains(full) && done(&pair, "status").contains(full));
    // Others take what is left, and the site is killed.
    pair.north.kill();
    disk.take(".more", 128);
    pair.north.launch();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    until(LONG, "all is delivered and settled", || {
        let answers = pair.north.try_get("/healthz").is_some();
        (answers && pair.north.health_of("forwards", "orders")["settled_total"] == kept.len()).then_some(())
    });
    assert_eq!(ids(&receiver), kept);
    assert!(!is_kept(&pair, "refused", 500), "there is no room yet");
    disk.give_back(".others");
    until(SOON, "messages are taken again", || is_kept(&pair, "again", 500).then_some(()));
    until(SOON, "it is ready", || (pair.north.get("/readyz").status == 200).then_some(()));
    until(SOON, "it comes", || (receiver.payloads().len() == kept.len() + 1).then_some(()));
    assert!(pair.north.log().contains("has room again"));
}

fn copies_of_delivered_messages_never_close_intake() {
    let mut pair = Pair::unstarted();
    let disk = SmallDisk::mount(&pair.north, "state/spool", 66);
    let south = start_north(&mut pair);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    // There is room for 2 MiB before the oldest go.
    let sent: Vec<String> = (0..24).map(|number| format!("M{number}")).collect();
    for id in &sent {
        assert!(is_kept(&pair, id, 200_000), "{id}: {}", pair.north.log());
    }
    until(LONG, "all is delivered", || {
        (pair.north.health_of("forwards", "orders")["settled_total"] == sent.len()).then_some(())
    });
    assert_eq!(ids(&receiver), sent);
    let (forward, _) = until(SOON, "the oldest copies are gone", || {
        let forward = pair.north.health_of("forwards", "orders");
        forward["delivered_shredded_early_total"].as_u64().is_some_and(|gone| gone > 0).then_some(forward)
    });
    assert!(forward["disk_full_since"].is_null(), "{forward}");
    let told = "are shredded before keep_delivered is over";
    until(SOON, "the log says so", || pair.north.log().contains(told).then_some(()));
    // An operator shreds one as well, which says why; the newest are all there.
    let said = done(&pair, "queue discard orders 24 --reason room");
    assert!(said.contains("the copy of message 24"), "{said}");
    // Something else takes what is left: the others go, and intake stays open as long as they give room.
    disk.take(".others", 12);
    for number in 0..5 {
        assert!(is_kept(&pair, &format!("N{number}"), 200_000), "{number}: {}", pair.north.log());
    }
    assert_eq!(pair.north.log().matches(told).count(), 1);
}

fn a_far_site_goes_on_with_a_full_disk_also_after_kill_9() {
    let mut pair = Pair::unstarted();
    let disk = SmallDisk::mount(&pair.south, "state/inbox", 64);
    let south = start_north(&mut pair);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    keep(&pair, "M0", 500);
    until(SOON, "it comes", || (receiver.payloads().len() == 1).then_some(()));
    disk.take(".others", 64);
    pair.south.kill();
    pair.south.restart();
    let mut sent = vec!["M0".to_owned()];
    for number in 1..400 {
        sent.push(format!("M{number}"));
        keep(&pair, &format!("M{number}"), 500);
    }
    until(LONG, "all is delivered and settled", || {
        (pair.north.health_of("forwards", "orders")["settled_total"] == sent.len()).then_some(())
    });
    assert_eq!(ids(&receiver), sent);
    let service = pair.south.health_of("services", "orders");
    assert_eq!(service["status"], "degraded", "{service}");
    assert!(
        service["cause"].as_str().is_some_and(|cause| cause.contains("the disk of state_dir is full")),
        "{service}"
    );
    disk.give_back(".others");
    until(SOON, "all is well", || (pair.south.health_of("services", "orders")["status"] == "ok").then_some(()));
}

fn a_far_site_whose_inboxes_are_removed_goes_on_without_a_restart() {
    let (mut pair, south) = alone();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    keep(&pair, "1", 500);
    come(&receiver, &["1"]);
    fs::remove_dir_all(pair.south.dir.join("state/inbox")).expect("it is there");
    for id in ["2", "3", "4"] {
        keep(&pair, id, 500);
    }
    until(LONG, "all is settled", || (pair.north.health_of("forwards", "orders")["settled_total"] == 4).then_some(()));
    // What was under way as the book went is in doubt; nothing else comes twice, and nothing out of order.
    let mut got = ids(&receiver);
    got.dedup();
    assert_eq!(got, ["1", "2", "3", "4"]);
    assert!(pair.south.log().contains("an inbox is gone"));
}

fn a_receiver_that_fails_again_and_again_is_named_at_the_senders_site() {
    let (mut pair, south) = alone();
    let _receiver = pair.receiver(Behaviour::Answer("AE"));
    pair.south.start(&south);
    keep(&pair, "1", 500);
    let told = "message 1 and those behind it wait: the receiver answered AE to attempt ";
    let (forward, _) = until(SOON, "it is named", || {
        let forward = pair.north.health_of("forwards", "orders");
        forward["cause"].as_str().is_some_and(|cause| cause.contains(told)).then_some(forward)
    });
    assert_eq!(forward["status"], "degraded", "{forward}");
    assert!(forward["drained_in_seconds"].is_null() || forward["queue"]["state"] == "flowing", "{forward}");
    let shown = done(&pair, "queue show orders 1");
    assert!(shown.contains("state        queued, tried again"), "{shown}");
    assert!(shown.contains("tried again  the receiver answered AE to attempt "), "{shown}");
    assert_eq!(pair.south.health_of("services", "orders")["status"], "degraded");
}
