//! Cases in which the sender does what the field does.

use std::io::Write as _;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use super::{Both, KEPT, KEPT_TARGET, QUIET, SOON, accept, sites};
use crate::harness::commit;
use crate::harness::mllp::{Behaviour, Lost, Receiver, Sender, answer_to, framed, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::{tests, until};

tests![
    case_01_two_frames_in_one_write,
    case_02_fs_and_cr_in_separate_segments,
    case_03_fs_without_cr,
    case_04_line_end_between_frames,
    case_05_nul_between_frames,
    case_06_junk_before_vt,
    case_07_fs_inside_the_payload,
    case_08_vt_inside_the_payload,
    case_09_control_frame,
    case_10_empty_frame,
    case_11_no_cr_after_the_last_segment,
    case_12_lf_or_crlf_between_segments,
    case_13_bytes_of_any_character_set,
    case_14_utf_16_and_utf_32,
    case_15_utf_8_byte_order_mark,
    case_16_one_mebibyte_in_an_obx,
    case_17_large_messages,
    case_18_byte_trickle,
    case_19_idle_persistent_connection,
    case_21_half_close_after_the_send,
    case_23_a_connection_per_message,
    case_24_many_senders_and_a_receiver_that_takes_one_connection,
    case_33_batch_and_several_msh_in_a_frame,
    case_34_missing_or_repeated_msh_10_and_other_delimiters,
    case_35_other_framing_bytes needs "python3",
    case_36_other_protocols_and_port_scanners,
];

const HEADER: &[u8] = b"MSH|^~\\&|HIS|N|LAB|S|20260101||ADT^A01|";

/// Builds a message with its MSH-10 and what follows the header's fields.
fn with(id: &str, rest: &[u8]) -> Vec<u8> {
    [HEADER, id.as_bytes(), b"|P|2.5", rest].concat()
}

fn case_01_two_frames_in_one_write() {
    let (one, two) = (message("1", 300), message("2", 300));
    Both::start(&[]).passes(&[&[framed(&one), framed(&two)].concat()], &[one, two]);
}

fn case_02_fs_and_cr_in_separate_segments() {
    let (one, two) = (message("1", 300), message("2", 300));
    let pieces: [&[u8]; 5] = [b"\x0b", &one, b"\x1c", b"\r\x0b", &[&two[..], b"\x1c\r"].concat()];
    Both::start(&[]).passes(&pieces, &[one.clone(), two.clone()]);
}

fn case_03_fs_without_cr() {
    let both = Both::start(&[]);
    let [one, two, three, four] = ["1", "2", "3", "4"].map(|id| message(id, 300));
    let mut senders = both.senders();
    // FS then VT; silence after CR FS; the end of the stream.
    let stream = [&b"\x0b"[..], &one, b"\x1c\x0b", &two, b"\x1c"].concat();
    senders.write(&stream);
    assert_eq!((senders.kept_code().1, senders.kept_code().1), (b"1".to_vec(), b"2".to_vec()));
    let mut last = both.senders();
    last.write(&[&b"\x0b"[..], &three, b"\x1c"].concat());
    last.orders.stream.shutdown(Shutdown::Write).expect("open");
    last.kept.stream.shutdown(Shutdown::Write).expect("open");
    assert_eq!(last.kept_code().1, b"3");
    // Not where the FS does not follow a CR.
    let mut payload = both.senders();
    payload.write(&[&b"\x0b"[..], &four, b"NTE|1||a\x1c"].concat());
    payload.are_silent();
    both.counted("anomalies", "end_without_cr", 3);
    both.delivered(&[one, two, three]);
    assert!(both.orders.raw().starts_with(&stream), "transparent: as it came");
}

fn case_04_line_end_between_frames() {
    let both = Both::start(&[]);
    let (one, two) = (message("1", 300), message("2", 300));
    both.passes(&[&[&framed(&one)[..], b"\n\r\n", &framed(&two), b"\n"].concat()], &[one, two]);
    both.counted("anomalies", "line_end_between_frames", 2);
}

fn case_05_nul_between_frames() {
    let both = Both::start(&[]);
    let (one, two) = (message("1", 300), message("2", 300));
    both.passes(&[&[&framed(&one)[..], &[0; 9000], &framed(&two)].concat()], &[one, two]);
    both.counted("anomalies", "nul_between_frames", 1);
}

fn case_06_junk_before_vt() {
    let both = Both::start(&[]);
    let one = message("1", 300);
    both.passes(&[&[&b"connected\x00\x01"[..], &framed(&one)].concat()], &[one]);
    both.counted("anomalies", "junk_between_frames", 1);
    let both = Both::start(&[]);
    both.refuses(&[b'x'; 4097], "too_much_junk", 1);
}

fn case_07_fs_inside_the_payload() {
    let both = Both::start(&[]);
    let one = with("1", b"\rNTE|1||one\x1ctwo\x1c\x1cthree\r");
    both.passes(&[&framed(&one)], &[one]);
    both.counted("anomalies", "fs_in_payload", 1);
}

fn case_08_vt_inside_the_payload() {
    let both = Both::start(&[]);
    let one = with("1", b"\rNTE|1||one\x0btwo\x0bMS\r");
    both.passes(&[&framed(&one)], std::slice::from_ref(&one));
    both.counted("anomalies", "vt_in_payload", 1);
    // The sender started over: stored delivery closes, and neither acknowledges nor keeps what it had begun.
    let mut senders = both.senders();
    senders.write(&[&b"\x0bMSH|^~\\&|HIS|N|LAB|S|2026"[..], &framed(&message("2", 300))].concat());
    assert_eq!(senders.kept.answer(SOON), Err(Lost::Closed));
    both.counted("anomalies", "started_over", 1);
    assert_eq!(both.forwards()[1]["closed"]["started_over"], 1);
    let mut again = both.senders();
    again.kept.send(&message("2", 300)).expect("open");
    assert_eq!(again.kept_code().1, b"2");
    both.delivered(&[one, message("2", 300)]);
}

fn case_09_control_frame() {
    let both = Both::start(&[]);
    let mut senders = both.senders();
    senders.write(b"\x0b\x04\x1c\r");
    assert_eq!(senders.kept.answer(QUIET), Err(Lost::Late));
    senders.kept.send(&message("1", 300)).expect("open");
    assert_eq!(senders.kept_code().1, b"1");
    both.counted("anomalies", "control_frame", 1);
    until(SOON, "it is passed on", || (both.orders.raw() == b"\x0b\x04\x1c\r").then_some(()));
    both.delivered(&[message("1", 300)]);
}

fn case_10_empty_frame() {
    let both = Both::start(&[]);
    let mut senders = both.senders();
    senders.write(b"\x0b\x1c\r");
    assert_eq!(senders.kept.answer(QUIET), Err(Lost::Late), "no positive answer");
    both.counted("anomalies", "empty_frame", 1);
    until(SOON, "it is passed on", || (both.orders.raw() == b"\x0b\x1c\r").then_some(()));
    assert_eq!(both.forwards()[1]["accepted_total"], 0);
    assert!(both.kept.raw().is_empty());
}

fn case_11_no_cr_after_the_last_segment() {
    let one = with("1", b"\rPID|1||4711");
    Both::start(&[]).passes(&[&framed(&one)], &[one]);
}

fn case_12_lf_or_crlf_between_segments() {
    let both = Both::start(&[]);
    let (one, two) = (with("1", b"\nPID|1||A^B\n"), with("2", b"\r\nPID|1||A^B\r\n"));
    both.passes(&[&framed(&one), &framed(&two)], &[one, two]);
    assert!(both.forwards().iter().all(|forward| forward["anomalies"].get("no_header").is_none()));
}

fn case_13_bytes_of_any_character_set() {
    let latin = with("1", b"\rPID|1||M\xfcller^J\xf6rg\r");
    let shift_jis = with("2", b"\rPID|1||\x8er\x93c^\x91\xbe\x98y\r");
    let gb18030 = with("3", b"\rPID|1||\xcd\xf5^\x81\x30\x81\x30\r");
    let utf8 = with("4", "\rPID|1||Ωμέγα^日本\r".as_bytes());
    let payloads = [latin, shift_jis, gb18030, utf8];
    let stream: Vec<u8> = payloads.iter().flat_map(|payload| framed(payload)).collect();
    Both::start(&[]).passes(&[&stream], &payloads);
}

fn case_14_utf_16_and_utf_32() {
    let both = Both::start(&[]);
    let text = String::from_utf8(with("1", b"\r")).expect("ASCII");
    let wide = |zeros: usize| text.bytes().flat_map(move |byte| [vec![byte], vec![0; zeros]].concat());
    for (times, payload) in [
        (1, wide(1).collect::<Vec<u8>>()),
        (2, wide(3).collect()),
        (3, [&b"\xff\xfe"[..], &wide(1).collect::<Vec<u8>>()].concat()),
    ] {
        both.refuses(&framed(&payload), "wide_text", times);
    }
}

fn case_15_utf_8_byte_order_mark() {
    let both = Both::with(&[], &[], &[], Behaviour::Say(accept));
    let mut senders = both.senders();
    let payload = [b"\xef\xbb\xbf", &with("1", b"\r")[..]].concat();
    senders.write(&framed(&payload));
    assert_eq!(senders.kept_code(), ("AA".to_owned(), b"1".to_vec()));
    assert!(senders.orders.answer(SOON).is_ok());
    assert_eq!(both.orders.raw(), framed(&payload));
    both.delivered(&[payload]);
    assert!(both.forwards().iter().all(|forward| forward["anomalies"].get("no_header").is_none()));
}

fn case_16_one_mebibyte_in_an_obx() {
    let both = Both::start(&[]);
    let one = message("1", 1 << 20);
    let start = Instant::now();
    both.passes(&[&framed(&one)], &[one]);
    // A machine that is busy, and no optimisation; quadratic time would take minutes.
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

fn case_17_large_messages() {
    let mut both = Both::start(&["max_message_size: 16MiB"]);
    both.refuses(&framed(&message("1", (16 << 20) + 1)), "frame_too_large", 1);
    // Nobody else tells of it: the log does, once, and the status.
    both.refuses(&framed(&message("1", (16 << 20) + 1)), "frame_too_large", 2);
    for forward in both.forwards() {
        assert_eq!(forward["status"], "degraded", "{forward}");
        assert_eq!(forward["last_refusal"]["reason"], "frame_too_large");
        let cause = forward["cause"].as_str().unwrap_or_default();
        assert!(cause.contains("a message was refused") && cause.contains("max_message_size"), "{forward}");
    }
    assert_eq!(both.pair.north.log().matches("larger than max_message_size").count(), 2, "once for each forward");
    let one = message("2", 12 << 20);
    let mut senders = both.senders();
    senders.orders.exchange(&one);
    senders.kept.send(&one).expect("open");
    assert_eq!(senders.kept_code().1, b"2");
    both.delivered(&[one]);
    for site in [&mut both.pair.north, &mut both.pair.south] {
        let peak = site.program().memory_peak_bytes();
        assert!(peak < 200_000_000, "{}: {peak} bytes", site.name);
    }
}

fn case_18_byte_trickle() {
    let both = Both::start(&["frame_timeout: 1s"]);
    // Bytes come all the time, and no message does.
    let mut senders = both.senders();
    let start = Instant::now();
    senders.write(&framed(&message("1", 300))[..100]);
    let mut open = [true, true];
    while open.contains(&true) && start.elapsed() < SOON {
        thread::sleep(Duration::from_millis(100));
        for (open, sender) in open.iter_mut().zip([&mut senders.orders, &mut senders.kept]) {
            *open &= sender.stream.write_all(b"x").is_ok();
        }
    }
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    both.counted("closed", "frame_too_slow", 1);
    // A message that takes its time within the limit is none's business.
    let one = message("2", 400);
    let pieces: Vec<Vec<u8>> = framed(&one).chunks(20).map(<[u8]>::to_vec).collect();
    let mut senders = both.senders();
    for piece in &pieces {
        senders.write(piece);
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(senders.orders.answer(SOON), Ok(answer_to(&one, "AA")));
    assert_eq!(senders.kept_code().1, b"2");
    both.delivered(&[one]);
}

fn case_19_idle_persistent_connection() {
    let both = Both::start(&[]);
    let mut senders = both.senders();
    thread::sleep(Duration::from_secs(2));
    senders.orders.exchange(&message("1", 300));
    senders.kept.send(&message("1", 300)).expect("open");
    assert_eq!(senders.kept_code().1, b"1");
    let both = Both::start(&["idle_timeout: 1s"]);
    let mut senders = both.senders();
    let start = Instant::now();
    assert_eq!(senders.orders.answer(SOON), Err(Lost::Closed));
    assert_eq!(senders.kept.answer(SOON), Err(Lost::Closed));
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    both.counted("closed", "idle_timeout", 1);
}

fn case_21_half_close_after_the_send() {
    let both = Both::with(&[], &[], &[], Behaviour::AnswerAfter(Duration::from_millis(200)));
    let mut senders = both.senders();
    let one = message("1", 300);
    senders.write(&framed(&one));
    for sender in [&senders.orders, &senders.kept] {
        sender.stream.shutdown(Shutdown::Write).expect("open");
    }
    assert_eq!(senders.orders.answer(SOON), Ok(answer_to(&one, "AA")));
    assert_eq!(senders.kept_code().1, b"1");
    assert_eq!((senders.orders.answer(SOON), senders.kept.answer(SOON)), (Err(Lost::Closed), Err(Lost::Closed)));
    both.counted("closed", "finished", 1);
    both.delivered(&[one]);
}

fn case_23_a_connection_per_message() {
    let (pair, _relay) = Pair::spoiled("delay=40ms", &[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut kept_open = pair.sender();
    kept_open.exchange(&message("first", 300));
    let least = |exchange: &mut dyn FnMut(usize)| {
        let time = |number| {
            let start = Instant::now();
            exchange(number);
            start.elapsed()
        };
        (0..7).map(time).min().expect("seven")
    };
    let persistent = least(&mut |number| kept_open.exchange(&message(&format!("P{number}"), 300)));
    let each = least(&mut |number| pair.sender().exchange(&message(&format!("E{number}"), 300)));
    assert!(persistent > Duration::from_millis(75), "the way is long: {persistent:?}");
    assert!(each < persistent + persistent / 4, "no round trip more: {each:?}, persistent {persistent:?}");
}

fn case_24_many_senders_and_a_receiver_that_takes_one_connection() {
    let both = Both::with(&[], &[], &["connections: 1"], Behaviour::AnswerAfter(Duration::from_millis(2)));
    thread::scope(|scope| {
        for sender in 0..8 {
            let both = &both;
            scope.spawn(move || {
                let mut senders = both.senders();
                for number in 0..5 {
                    let id = format!("S{sender}N{number}");
                    senders.orders.exchange(&message(&id, 300));
                    senders.kept.send(&message(&id, 300)).expect("open");
                    assert_eq!(senders.kept_code().1, id.as_bytes());
                }
            });
        }
    });
    both.settled();
    for receiver in [&both.orders, &both.kept] {
        assert_eq!((receiver.payloads().len(), receiver.connections()), (40, 1), "one ordered stream");
        for sender in 0..8 {
            let prefix = format!("S{sender}N");
            let ids: Vec<String> = receiver.payloads().iter().map(|payload| id_of(payload)).collect();
            let of: Vec<&String> = ids.iter().filter(|id| id.starts_with(&prefix)).collect();
            assert!(of.is_sorted() && of.len() == 5, "{of:?}");
        }
    }
    // One that is away holds who comes, and is found again.
    let pair = sites(&[], &[], &["connections: 1"]);
    let mut first = pair.sender();
    first.send(&message("held", 300)).expect("open");
    assert_eq!(first.answer(QUIET), Err(Lost::Late));
    let _receiver = Receiver::start(&pair.south.namespace, crate::harness::pair::TARGET, Behaviour::Answer("AA"));
    assert_eq!(first.answer(SOON), Ok(answer_to(&message("held", 300), "AA")));
    Sender::connect(&pair.north.namespace, FORWARD).expect("the forward listens").exchange(&message("other", 300));
}

fn id_of(payload: &[u8]) -> String {
    String::from_utf8_lossy(crate::harness::mllp::control_id(payload)).into_owned()
}

fn case_33_batch_and_several_msh_in_a_frame() {
    let both = Both::with(&[], &[], &[], Behaviour::Say(accept));
    let batch = [&b"FHS|^~\\&|A\rBHS|^~\\&|A\r"[..], &with("1", b"\r"), &with("2", b"\r"), b"BTS|2\rFTS|1\r"].concat();
    let several = [with("3", b"\r"), with("4", b"\r")].concat();
    let mut senders = both.senders();
    senders.write(&framed(&batch));
    assert_eq!(senders.kept_code().1, b"1", "one frame, one answer");
    senders.write(&framed(&several));
    assert_eq!(senders.kept_code().1, b"3");
    senders.kept.answer(QUIET).expect_err("no other");
    until(SOON, "it arrives", || (both.orders.raw() == [framed(&batch), framed(&several)].concat()).then_some(()));
    both.delivered(&[batch, several]);
}

fn case_34_missing_or_repeated_msh_10_and_other_delimiters() {
    let both = Both::start(&[]);
    let missing = b"MSH|^~\\&|HIS|N|LAB|S|2026||ADT^A01||P|2.5\r".to_vec();
    let other = b"MSH#*~\\&#HIS#N#LAB#S#2026##ADT*A01#7#P#2.5\r".to_vec();
    let payloads = [missing.clone(), missing, with("7", b"\r"), other];
    let mut senders = both.senders();
    for payload in &payloads {
        senders.write(&framed(payload));
        let id = crate::harness::mllp::control_id(payload).to_vec();
        assert_eq!(senders.kept_code(), ("AA".to_owned(), id), "as it is, nothing made up");
        assert!(senders.orders.answer(SOON).is_ok());
    }
    assert!(both.orders.payloads() == payloads && both.orders.connections() == 1);
    both.delivered(&payloads);
    assert!(both.kept.connections() >= 3, "an answer to the one before cannot match: {}", both.kept.connections());
    // Up to 64 KiB a header is kept and its MSH-10 answered whole; above that it is not, and passes where nothing is kept.
    let (long, too_long) = ("7".repeat(64_000), "8".repeat(66_000));
    let both = Both::start(&[]);
    let (long, too_long) = (with(&long, b"\r"), with(&too_long, b"\r"));
    both.passes(&[&framed(&long)], std::slice::from_ref(&long));
    let mut senders = both.senders();
    senders.orders.exchange(&too_long);
    let _ = senders.kept.stream.write_all(&framed(&too_long));
    assert_eq!(senders.kept.answer(SOON), Err(Lost::Closed));
    let closed = || both.forwards()[1]["closed"]["header_too_long"] == 1;
    until(SOON, "it is counted", || closed().then_some(()));
    both.delivered(&[long]);
}

fn case_35_other_framing_bytes() {
    let both = Both::start(&[]);
    // STX and ETX are junk to a side that speaks MLLP as it is written.
    let frame = [&b"\x02"[..], &message("1", 5000), b"\x03"].concat();
    both.refuses(&frame, "too_much_junk", 1);
    // Where both sides are said to speak so, it is a frame as any other, and MLLP is junk.
    let framing = ["framing: {start: 0x02, end: [0x03]}"];
    let pair = sites(&[], &framing, &framing);
    let start = |at| commit::Receiver::start(&pair.south, at, "--release 1 --start 02 --end 03");
    let (orders, kept) = (start(TARGET), start(KEPT_TARGET));
    for to in [FORWARD, KEPT] {
        let lines = commit::send(&pair.north, to, "--release 1 --start 02 --end 03 --count 2");
        assert_eq!(lines, ["AA T0", "AA T1", "goodbye"]);
    }
    let queue = || pair.north.health_of("forwards", "kept")["queue_depth"] == 0;
    until(SOON, "the queue is empty", || queue().then_some(()));
    assert_eq!((orders.control_ids().len(), kept.payloads().len()), (2, 2));
    assert!(orders.payloads() == kept.payloads());
    for (to, name) in [(FORWARD, "orders"), (KEPT, "kept")] {
        let mut sender = Sender::connect(&pair.north.namespace, to).expect("the forward listens");
        let _ = sender.stream.write_all(&framed(&message("1", 5000)));
        assert_eq!(sender.answer(SOON), Err(Lost::Closed));
        let closed = || pair.north.health_of("forwards", name)["closed"]["too_much_junk"] == 1;
        until(SOON, "it is counted", || closed().then_some(()));
    }
}

fn case_36_other_protocols_and_port_scanners() {
    let both = Both::start(&[]);
    for (bytes, kind) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "http"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "tls"),
        (b"\x01\0\0\0\0\xcd\0\x01\0\0ANY-SCP", "dicom"),
    ] {
        both.refuses(bytes, kind, 1);
    }
    let greetings: [&[u8]; 6] = [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"220 mail.example.org ESMTP\r\n",
        b"220-Welcome to this FTP server\r\n",
        b"+OK POP3 ready\r\n",
        b"* OK IMAP4rev1 ready\r\n",
        b"RFB 003.008\n",
    ];
    for (times, greeting) in (1..).zip(greetings) {
        both.refuses(greeting, "banner", times);
    }
    // A scanner that connects and goes.
    drop(both.senders());
    both.counted("closed", "finished", 1);
    let log = both.pair.north.log();
    assert!(!log.contains("ANY-SCP") && !log.contains("OpenSSH"), "no byte of it in the log: {log}");
    let mut senders = both.senders();
    senders.orders.exchange(&message("1", 300));
}
