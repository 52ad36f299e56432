//! Messages from an unmodified sender at one site to an unmodified receiver at the other: every byte, both ways, in order.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::Duration;

use crate::harness::mllp::{ANSWER_LIMIT, Behaviour, Lost, Receiver, Sender, answer_to, framed, message};
use crate::harness::pair::{FORWARD, Pair, loopback};
use crate::harness::{full, tests, until};

tests![
    payload_and_acknowledgement_are_byte_identical,
    bytes_outside_frames_pass_untouched,
    pipelined_frames_are_answered_in_order,
    a_frame_that_trickles_in_arrives_whole,
    a_half_closed_sender_gets_its_answer,
    a_large_message_passes,
    a_refusal_comes_back_as_it_is,
    messages_of_the_receiver_reach_the_sender,
    each_connection_of_a_sender_is_one_of_the_receiver,
    both_directions_carry_messages,
    two_hundred_connections_at_once,
    large_messages_on_many_connections_at_once,
    a_stalled_receiver_stalls_its_own_sender_only,
    a_message_above_the_limit_is_not_delivered,
    a_sender_that_is_not_allowed_is_refused,
];

/// Bounds what happens after one end has closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

fn payload_and_acknowledgement_are_byte_identical() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let header = b"MSH|^~\\&|HIS|N|LAB|S|20260101||ADT^A01|";
    let payloads = [
        message("plain", 500),
        [header, &b"latin1|P|2.5\rPID|||1||M\xfcller^J\xf6rg"[..]].concat(),
        [header, &b"lf|P|2.5\nPID|||1||A^B\n"[..]].concat(),
        [header, &b"crlf|P|2.5\r\nPID|||1||A^B\r\n"[..]].concat(),
        [header, &b"fs|P|2.5\rNTE|1||one\x1ctwo\x0bthree\r"[..]].concat(),
        [header, &b"nul|P|2.5\rNTE|1||a\0b\r"[..]].concat(),
        [&b"\xef\xbb\xbf"[..], header, &b"bom|P|2.5\r"[..]].concat(),
        [header, &b"shiftjis|P|2.5\rPID|||1||\x8ER\x93c^\x91\xBE\x98Y\r"[..]].concat(),
    ];
    let mut sender = pair.sender();
    for payload in &payloads {
        sender.exchange(payload);
    }
    assert_eq!(receiver.payloads(), payloads);
}

fn bytes_outside_frames_pass_untouched() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    let (first, second) = (message("1", 300), message("2", 300));
    let stream = [&framed(&first)[..], b"\n\0\0\n", &framed(&second), b"\n"].concat();
    sender.stream.write_all(&stream).expect("open");
    for payload in [&first, &second] {
        assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(payload, "AA")));
    }
    until(CLOSE_LIMIT, "the last byte arrives", || (receiver.raw().len() == stream.len()).then_some(()));
    assert_eq!(receiver.raw(), stream);
}

fn pipelined_frames_are_answered_in_order() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let payloads: Vec<Vec<u8>> = (0..50).map(|n| message(&format!("P{n}"), 100 + n * 37)).collect();
    let mut sender = pair.sender();
    let stream: Vec<u8> = payloads.iter().flat_map(|payload| framed(payload)).collect();
    sender.stream.write_all(&stream).expect("open");
    for payload in &payloads {
        assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(payload, "AA")));
    }
    assert_eq!(receiver.payloads(), payloads);
}

fn a_frame_that_trickles_in_arrives_whole() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let payload = message("slow", 200);
    let mut sender = pair.sender();
    for byte in framed(&payload) {
        sender.stream.write_all(&[byte]).expect("open");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(&payload, "AA")));
    assert_eq!(receiver.payloads(), [payload]);
}

fn a_half_closed_sender_gets_its_answer() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::AnswerAfter(Duration::from_millis(200)));
    let payload = message("half", 500);
    let mut sender = pair.sender();
    sender.send(&payload).expect("open");
    sender.stream.shutdown(Shutdown::Write).expect("open");
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(&payload, "AA")));
    assert_eq!(sender.answer(CLOSE_LIMIT), Err(Lost::Closed));
    until(CLOSE_LIMIT, "the receiver's connection ends too", || (receiver.connections_open() == 0).then_some(()));
}

fn a_large_message_passes() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("large", 2_000_000));
    sender.exchange(&message("small", 200));
    sender.exchange(&message("larger", 20_000_000));
    assert_eq!(receiver.payloads()[2], message("larger", 20_000_000));
}

fn a_refusal_comes_back_as_it_is() {
    let pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AE"));
    let payload = message("refused", 300);
    let mut sender = pair.sender();
    sender.send(&payload).expect("open");
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(answer_to(&payload, "AE")));
}

fn messages_of_the_receiver_reach_the_sender() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("1", 300));
    receiver.push(&framed(&message("unasked", 300)));
    assert_eq!(sender.answer(ANSWER_LIMIT), Ok(message("unasked", 300)));
    sender.exchange(&message("2", 300));
}

fn each_connection_of_a_sender_is_one_of_the_receiver() {
    let pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    for n in 0..50 {
        pair.sender().exchange(&message(&format!("C{n}"), 300));
    }
    assert_eq!(receiver.connections(), 50);
    until(CLOSE_LIMIT, "the receiver's connections are closed", || (receiver.connections_open() == 0).then_some(()));
}

fn both_directions_carry_messages() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&[]);
    let (results, target) = (loopback(2576), loopback(6662));
    pair.south.start(&south.forward("results", results, "north", "service: results", &[]));
    pair.north.start(&north.service("results", target, "south", &[]));
    let _at_south = pair.receiver(Behaviour::Answer("AA"));
    let at_north = Receiver::start(&pair.north.namespace, target, Behaviour::Answer("AA"));
    let mut there = pair.sender();
    let mut back = Sender::connect(&pair.south.namespace, results).expect("the forward listens");
    for n in 0..20 {
        there.exchange(&message(&format!("there{n}"), 500));
        back.exchange(&message(&format!("back{n}"), 500));
    }
    assert_eq!(at_north.payloads().len(), 20);
}

/// Sends one message on each of `connections` connections at once; every one must be answered.
fn at_once(pair: &Pair, connections: usize, bytes: usize, round: usize) {
    let senders: Vec<Sender> = (0..connections).map(|_| pair.sender()).collect();
    thread::scope(|scope| {
        for (number, mut sender) in senders.into_iter().enumerate() {
            scope.spawn(move || {
                let payload = message(&format!("R{round}N{number}"), bytes);
                sender.send(&payload).expect("open");
                let answer = sender.answer(Duration::from_secs(60));
                assert_eq!(answer, Ok(answer_to(&payload, "AA")), "round {round}, connection {number}");
            });
        }
    });
}

fn two_hundred_connections_at_once() {
    let mut pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let rounds = if full() { 100 } else { 5 };
    for round in 0..rounds {
        at_once(&pair, 200, 500, round);
    }
    assert_eq!(receiver.payloads().len(), rounds * 200);
    memory_stays_below(&mut pair, 45_000_000);
}

fn large_messages_on_many_connections_at_once() {
    let mut pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let connections = if full() { 200 } else { 20 };
    at_once(&pair, connections, 2_000_000, 0);
    assert_eq!(receiver.payloads().len(), connections);
    memory_stays_below(&mut pair, 150_000_000);
}

fn memory_stays_below(pair: &mut Pair, limit_bytes: u64) {
    for site in [&mut pair.north, &mut pair.south] {
        let peak = site.program().memory_peak_bytes();
        assert!(peak < limit_bytes, "{}: {peak} bytes of memory, {limit_bytes} are allowed", site.name);
    }
}

fn a_stalled_receiver_stalls_its_own_sender_only() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&[]);
    let (other_forward, other_target) = (loopback(2576), loopback(6662));
    pair.south.start(&south.service("other", other_target, "north", &[]));
    pair.north.start(&north.forward("other", other_forward, "south", "service: other", &[]));
    let _stalled = pair.receiver(Behaviour::Stall);
    let _other = Receiver::start(&pair.south.namespace, other_target, Behaviour::Answer("AA"));
    let mut pump = pair.sender();
    pump.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("not zero");
    let piece = framed(&message("pump", 1_000_000));
    let taken = (0..100).take_while(|_| pump.stream.write_all(&piece).is_ok()).count();
    assert!(taken < 50, "{taken} MB were taken for a receiver that reads nothing");
    let mut sender = Sender::connect(&pair.north.namespace, other_forward).expect("the forward listens");
    sender.exchange(&message("beside", 500));
    memory_stays_below(&mut pair, 45_000_000);
}

fn a_message_above_the_limit_is_not_delivered() {
    let pair = Pair::start(&["max_message_size: 1MiB"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("fits", 1_000_000));
    let mut sender = pair.sender();
    // the connection may be closed before all of it is written
    let _ = sender.send(&message("too large", 1_100_000));
    assert_eq!(sender.answer(CLOSE_LIMIT), Err(Lost::Closed));
    assert_eq!(receiver.payloads().len(), 1);
    pair.sender().exchange(&message("next", 500));
}

fn a_sender_that_is_not_allowed_is_refused() {
    let pair = Pair::start(&["allow_from: [127.0.0.2/32]"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let from = |last: u8| -> SocketAddr { SocketAddr::new([127, 0, 0, last].into(), 0) };
    let connect = |last| pair.north.namespace.connect_within(Some(from(last)), FORWARD, CLOSE_LIMIT);
    Sender::over(connect(2).expect("allowed")).exchange(&message("allowed", 300));
    if let Ok(stream) = connect(3) {
        let mut sender = Sender::over(stream);
        let _ = sender.send(&message("refused", 300));
        assert_eq!(sender.answer(CLOSE_LIMIT), Err(Lost::Closed));
    }
    assert_eq!(receiver.payloads(), [message("allowed", 300)]);
}
