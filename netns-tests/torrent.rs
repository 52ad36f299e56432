//! Senders and receivers that write without a pause what answers nothing: nobody beside them waits for it.
//!
//! ```text
//!   good sender ─ 127.0.0.1:2575 orders, transparent [north] ═══ [south] orders ─ 127.0.0.1:6661 receiver
//!   sender      ─ 127.0.0.1:2585 kept, stored                            kept   ─ 127.0.0.1:6671 receiver
//! ```

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::mllp::{Behaviour, Sender, message};
use crate::harness::pair::{FORWARD, Pair, TARGET, loopback};
use crate::harness::plan::Plan;
use crate::harness::{tests, until};

tests![
    a_sender_without_a_pause_is_closed_and_delays_nobody,
    a_receiver_without_a_pause_delays_nobody_and_its_message_is_in_doubt,
    a_receiver_of_one_connection_without_a_pause_delays_nobody,
];

const KEPT: SocketAddr = loopback(2585);
const KEPT_TARGET: SocketAddr = loopback(6671);

/// Bounds what two sites do by themselves.
const SOON: Duration = Duration::from_secs(15);

/// Is how long it is written without a pause.
const TORRENT: Duration = Duration::from_secs(6);

/// Bounds an answer meanwhile: on a busy machine, and less than the whole of it.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Starts both sites, a receiver for `orders`, and none for `kept`, with these lines in its forward and service.
#[track_caller]
fn begin(forward: &[&str], service: &[&str]) -> (Pair, crate::harness::mllp::Receiver) {
    let mut pair = Pair::unstarted();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&pair.north.dir.join("spool.key").display().to_string());
    let north = north.forward("orders", FORWARD, "south", "service: orders", &[]);
    let north = north.forward("kept", KEPT, "south", "service: kept", forward);
    let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &[]);
    pair.south.start(&south.service("kept", KEPT_TARGET, "north", service));
    pair.north.start(&north);
    pair.is_linked();
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    (pair, receiver)
}

/// Writes the same again and again, until the other end has gone or the time is over.
fn pour(mut to: &TcpStream, bytes: &[u8]) {
    let (piece, end) = (bytes.repeat(4096), Instant::now() + TORRENT);
    while Instant::now() < end && to.write_all(&piece).is_ok() {}
}

/// Accepts connections, reads something on each, and writes these bytes without a pause.
fn torrent_at(pair: &Pair, bytes: &'static [u8]) {
    let listener = pair.south.namespace.listen(KEPT_TARGET).expect("the port is free");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
                pour(&stream, bytes);
            }
        }
    });
}

/// Has messages answered beside the torrent, each soon enough.
#[track_caller]
fn others_are_served(pair: &Pair) {
    let (mut sender, end) = (pair.sender(), Instant::now() + TORRENT);
    let mut count = 0;
    while Instant::now() < end {
        let begun = Instant::now();
        sender.exchange(&message(&count.to_string(), 300));
        count += 1;
        assert!(begun.elapsed() < ANSWER_MAX, "message {count} was answered after {:?}", begun.elapsed());
    }
    eprintln!("{count} messages were answered beside it");
}

fn a_sender_without_a_pause_is_closed_and_delays_nobody() {
    let (pair, _receiver) = begin(&["delivery: stored"], &[]);
    let answer = b"\x0bMSH|^~\\&|A|B|C|D|||ACK|1|P|2.3\rMSA|AA|1\r\x1c\x0d";
    for bytes in [&b"\x0b\x04\x1c\x0d"[..], b"\x0b\x1c\x0d", answer] {
        let stream = pair.north.namespace.connect(KEPT).expect("the forward listens");
        let (begun, _) = (Instant::now(), pour(&stream, bytes));
        assert!(begun.elapsed() < TORRENT, "it is closed");
    }
    until(SOON, "all three are counted", || {
        (pair.north.health_of("forwards", "kept")["closed"]["frames_without_message"] == 3).then_some(())
    });
    // Nor does what is tolerated between two frames.
    let stream = pair.north.namespace.connect(KEPT).expect("the forward listens");
    let torrent = thread::spawn(move || pour(&stream, b"\x00"));
    others_are_served(&pair);
    torrent.join().expect("it ends");
}

fn a_receiver_without_a_pause_delays_nobody_and_its_message_is_in_doubt() {
    let (pair, _receiver) = begin(&["delivery: stored"], &["ack_timeout: 1s", "in_doubt: hold"]);
    torrent_at(&pair, b"\x0b\x04\x1c\x0d");
    let mut sender = Sender::connect(&pair.north.namespace, KEPT).expect("the forward listens");
    sender.send(&message("kept", 300)).expect("open");
    assert!(sender.answer(SOON).is_ok(), "it is kept");
    others_are_served(&pair);
    until(SOON, "the message is held in doubt", || {
        (pair.north.health_of("forwards", "kept")["queue"]["state"] == "held").then_some(())
    });
}

fn a_receiver_of_one_connection_without_a_pause_delays_nobody() {
    let (pair, _receiver) = begin(&[], &["ack_timeout: 1s", "connections: 1"]);
    torrent_at(&pair, b"\x0bMSH|^~\\&|A|B|C|D|||ACK|1|P|2.3\rMSA|AA|other\r\x1c\x0d");
    let mut sender = Sender::connect(&pair.north.namespace, KEPT).expect("the forward listens");
    sender.send(&message("1", 300)).expect("open");
    others_are_served(&pair);
    assert!(sender.answer(SOON).is_err(), "no answer to it came, and its connection ends");
    assert_eq!(pair.north.health_of("forwards", "kept")["closed"]["ack_timeout"], 1);
}
