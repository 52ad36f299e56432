//! Runs `wardlink doctor` as a user does, against scripted receivers; other people's are in netns-tests/peers.rs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

fn wardlink(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wardlink"));
    command.args(args).stdin(Stdio::null());
    command
}

fn doctor(at: SocketAddr, args: &[&str]) -> Output {
    let at = at.to_string();
    wardlink(&[&["doctor", &at, "--max-size", "64KiB"], args].concat()).output().unwrap()
}

/// Returns what is found, as JSON, and the exit code.
fn found(at: SocketAddr) -> (Value, Option<i32>) {
    let output = doctor(at, &["--test-receiver", "--json"]);
    (serde_json::from_slice(&output.stdout).expect("JSON"), output.status.code())
}

/// Returns what is to be set for `key`.
fn set<'a>(found: &'a Value, key: &str) -> Option<&'a str> {
    found["settings"].as_array()?.iter().find(|setting| setting["key"] == key)?["value"].as_str()
}

/// Returns what a probe saw.
fn came<'a>(found: &'a Value, probe: &str) -> &'a str {
    let line = found["probes"].as_array().unwrap().iter().find(|line| line["probe"] == probe);
    line.unwrap_or_else(|| panic!("no {probe} in {found}"))["came"].as_str().unwrap()
}

/// Listens, and serves each connection as `serve` does, in a thread of its own or one after the other.
fn receiver(parallel: bool, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            if parallel {
                thread::spawn(move || serve(stream));
            } else {
                serve(stream);
            }
        }
    });
    address
}

/// Reads the next frame's control id; `None` at the end.
fn next_id(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    let mut piece = [0; 65536];
    loop {
        if let Some(end) = bytes.windows(2).position(|pair| pair == b"\x1c\r") {
            let frame: Vec<u8> = bytes.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&frame).into_owned();
            return text.split('|').nth(9).map(str::to_owned);
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

fn ack(id: &str) -> Vec<u8> {
    format!("\x0bMSH|^~\\&|A|B|C|D|t||ACK|R|T|2.5\rMSA|AA|{id}\r\x1c\r").into_bytes()
}

/// Answers every message of a connection.
fn answer_all(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    while let Some(id) = next_id(&mut stream, &mut bytes) {
        if stream.write_all(&ack(&id)).is_err() {
            return;
        }
    }
}

#[test]
fn nothing_is_sent_before_somebody_says_that_this_is_a_test_receiver() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = doctor(listener.local_addr().unwrap(), &[]);
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("synthetic") && told.contains("--test-receiver"), "{told}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it connected");
}

#[test]
fn bad_arguments_are_exit_code_64() {
    for args in [
        &["doctor", "nowhere", "--test-receiver"][..],
        &["doctor", "a:1", "--type", "A|B"],
        &["doctor", "a:1", "--timeout", "0s"],
        &["doctor", "a:1", "--max-size", "17"],
    ] {
        assert_eq!(wardlink(args).output().unwrap().status.code(), Some(64), "{args:?}");
    }
}

#[test]
fn a_good_receiver_gets_a_service_that_check_config_takes() {
    let (found, code) = found(receiver(true, answer_all));
    assert_eq!(code, Some(0), "{found}");
    assert_eq!([set(&found, "connections"), set(&found, "probe")], [None, Some("tcp")], "{found}");
    assert_eq!(came(&found, "pipelining"), "3 of 3 answered, in order");

    let dir = TempDir::new().unwrap();
    let key = dir.path().join("private.key");
    let secret = wardlink(&["key", "gen"]).output().unwrap().stdout;
    let mut options = std::fs::OpenOptions::new();
    options.create(true).write(true).mode(0o600).open(&key).unwrap().write_all(&secret).unwrap();
    let site = format!("site: s\ntunnel:\n  private_key_file: {}\n  address: [10.98.0.1/32]\n", key.display());
    let config = dir.path().join("wardlink.yaml");
    std::fs::write(&config, site + found["yaml"].as_str().unwrap()).unwrap();
    let output = wardlink(&["check-config", "-c", config.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_receiver_of_one_connection_gets_connections_1_and_no_probe() {
    let (found, code) = found(receiver(false, answer_all));
    assert_eq!((code, set(&found, "connections"), set(&found, "probe")), (Some(0), Some("1"), Some("none")), "{found}");
    assert!(came(&found, "second connection").contains("until the first was closed"), "{found}");
}

#[test]
fn a_place_that_is_not_free_at_once_is_waited_for() {
    let taken = Arc::new(AtomicBool::new(false));
    let serve = move |stream: TcpStream| {
        if taken.swap(true, Ordering::SeqCst) {
            return;
        }
        answer_all(stream);
        thread::sleep(Duration::from_millis(300));
        taken.store(false, Ordering::SeqCst);
    };
    let (found, code) = found(receiver(true, serve));
    assert_eq!((code, set(&found, "connections"), set(&found, "probe")), (Some(0), Some("1"), Some("none")), "{found}");
    assert_eq!([set(&found, "in_doubt"), set(&found, "max_message_size")], [None, None], "{found}");
    assert!(came(&found, "answer time").starts_with("10 answers"), "{found}");
    assert_eq!(came(&found, "pipelining"), "3 of 3 answered, in order");
    assert!(came(&found, "bare connection").starts_with("AA"), "{found}");
    assert_eq!(came(&found, "silence"), "the connection stayed open");
    assert!(came(&found, "size").contains("64KiB: AA"), "{found}");
    assert!(!found["yaml"].as_str().unwrap().contains("does not tolerate"), "{found}");
}

#[test]
fn a_slow_receiver_that_answers_one_after_the_other_loses_nothing() {
    let serve = |mut stream: TcpStream| {
        let mut bytes = Vec::new();
        while let Some(id) = next_id(&mut stream, &mut bytes) {
            thread::sleep(Duration::from_millis(250));
            if stream.write_all(&ack(&id)).is_err() {
                return;
            }
        }
    };
    let output = doctor(receiver(true, serve), &["--test-receiver", "--json", "--timeout", "600ms"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(came(&found, "pipelining"), "3 of 3 answered, in order");
    assert!(!found["yaml"].as_str().unwrap().contains("come together"), "{found}");
}

#[test]
fn a_receiver_that_repeats_each_answer_many_times_loses_nothing() {
    let serve = |mut stream: TcpStream| {
        let mut bytes = Vec::new();
        while let Some(id) = next_id(&mut stream, &mut bytes) {
            if stream.write_all(&ack(&id).repeat(200)).is_err() {
                return;
            }
        }
    };
    let (found, _) = found(receiver(true, serve));
    assert!(came(&found, "pipelining").starts_with("3 of 3 answered"), "{found}");
    assert!(!found["yaml"].as_str().unwrap().contains("come together"), "{found}");
}

#[test]
fn a_size_limit_that_is_answered_is_seen() {
    let serve = |mut stream: TcpStream| {
        let (mut bytes, mut piece) = (Vec::new(), [0; 65536]);
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            bytes.extend_from_slice(&piece[..count]);
            while let Some(end) = bytes.windows(2).position(|pair| pair == b"\x1c\r") {
                let frame: Vec<u8> = bytes.drain(..end + 2).collect();
                let id = String::from_utf8_lossy(&frame).split('|').nth(9).unwrap().to_owned();
                let answer = String::from_utf8(ack(&id)).unwrap();
                let code = if frame.len() > 40_000 { "MSA|AR" } else { "MSA|AA" };
                stream.write_all(answer.replace("MSA|AA", code).as_bytes()).ok();
            }
        }
    };
    let (found, code) = found(receiver(true, serve));
    assert_eq!((code, set(&found, "max_message_size")), (Some(0), Some("16KiB")), "{found}");
    assert!(came(&found, "size").contains("64KiB: AR"), "{found}");
    assert!(found["yaml"].as_str().unwrap().contains("64KiB were answered AR"), "{found}");
}

#[test]
fn one_message_a_connection_is_seen_and_what_meets_the_close_is_sent_again() {
    let serve = |mut stream: TcpStream| {
        if let Some(id) = next_id(&mut stream, &mut Vec::new()) {
            stream.write_all(&ack(&id)).ok();
        }
    };
    let (found, code) = found(receiver(true, serve));
    assert_eq!((code, set(&found, "in_doubt")), (Some(0), Some("resend")), "{found}");
    assert_eq!(came(&found, "pipelining"), "it takes one message a connection");
}

#[test]
fn a_receiver_that_commits_speaks_release_2() {
    let serve = |mut stream: TcpStream| {
        let mut bytes = Vec::new();
        while let Some(id) = next_id(&mut stream, &mut bytes) {
            stream.write_all(&[&b"\x0b\x06\x1c\r"[..], &ack(&id)].concat()).ok();
        }
    };
    let (found, code) = found(receiver(true, serve));
    assert_eq!((code, set(&found, "mllp"), set(&found, "ack")), (Some(0), Some("release2"), Some("application")));
}

#[test]
fn a_nak_or_a_commit_alone_is_named_as_release_2() {
    for (control, told) in [(0x15, "a NAK (0B 15 1C 0D)"), (0x06, "a commit (0B 06 1C 0D)")] {
        let serve = move |mut stream: TcpStream| {
            let mut bytes = Vec::new();
            while next_id(&mut stream, &mut bytes).is_some() {
                stream.write_all(&[0x0b, control, 0x1c, 0x0d]).ok();
            }
        };
        let output = doctor(receiver(true, serve), &["--test-receiver", "--timeout", "300ms"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(told) && said.contains("mllp: release2"), "{said}");
    }
}

#[test]
fn a_receiver_of_tls_or_another_framing_is_told_what_to_set() {
    // answers what starts and ends so by these bytes
    let speaks = |start: &'static [u8], end: &'static [u8], answer: &'static [u8]| {
        receiver(true, move |mut stream| {
            let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = stream.read(&mut piece) {
                bytes.extend_from_slice(&piece[..count]);
                if bytes.starts_with(start) && bytes.ends_with(end) {
                    stream.write_all(answer).ok();
                }
            }
        })
    };
    for (at, told, key) in [
        (speaks(b"\x16\x03", b"", b"\x15\x03\x01\x00\x02\x02\x28"), "it speaks TLS", "Set tls: at"),
        (speaks(b"\x16\x03", b"", b"\x16\x03\x03\x00\x2a\x02\x00"), "it speaks TLS", "Set tls: at"),
        (speaks(b"\x02", b"\x03", b"\x02MSH|^~\\&\x03"), "STX and ETX", "end: [0x03] }"),
        (speaks(b"\x02", b"\x03\r", b"\x02MSH|^~\\&\x03\r"), "STX and ETX", "end: [0x03, 0x0d] }"),
    ] {
        let output = doctor(at, &["--test-receiver", "--timeout", "300ms"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(told) && said.contains(key), "{said}");
    }
}

#[test]
fn answers_that_name_no_message_make_stored_delivery_impossible_and_it_says_so() {
    let without_msa = b"\x0bMSH|^~\\&|A|B|C|D|t||ACK|R|T|2.5\r\x1c\r".to_vec();
    let runs = [ack(""), ack("1"), without_msa].map(|answer| {
        let serve = move |mut stream: TcpStream| {
            let mut bytes = Vec::new();
            while next_id(&mut stream, &mut bytes).is_some() {
                stream.write_all(&answer).ok();
            }
        };
        let at = receiver(true, serve);
        thread::spawn(move || doctor(at, &["--test-receiver", "--json", "--timeout", "1s"]).stdout)
    });
    for run in runs {
        let found: Value = serde_json::from_slice(&run.join().unwrap()).expect("JSON");
        let yaml = found["yaml"].as_str().unwrap();
        assert_eq!(set(&found, "ack"), None, "{found}");
        assert!(yaml.contains("use delivery: transparent"), "{yaml}");
        // it loses nothing, and what is impossible is not advised
        assert_eq!(came(&found, "pipelining"), "3 of 3 answered, by number: none names its message");
        assert!(!yaml.contains("come together") && !yaml.contains("delivery: stored"), "{yaml}");
    }
}

#[test]
fn no_receiver_and_no_answer_are_exit_code_1_and_no_profile() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let silent = receiver(true, |stream| {
        thread::sleep(Duration::from_secs(30));
        drop(stream);
    });
    for at in [nobody, silent] {
        let output = doctor(at, &["--test-receiver", "--timeout", "300ms"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(!String::from_utf8(output.stdout).unwrap().contains("services:"));
        assert!(String::from_utf8(output.stderr).unwrap().contains("there is no profile"));
    }
}

#[test]
fn whatever_a_receiver_writes_it_ends_with_a_verdict_and_no_panic() {
    let junk: [&[u8]; 7] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"SSH-2.0-x\r\n",
        b"\x0b\x1c\r\x0b\x06\x1c\r\x0b\x15\x1c\r\x0b\xff\x1c\r",
        b"\x0bMSA|AA|1\r\x1c\r\x0bMSH|^~\\&|\rMSA\r\x1c\r\x0bMSH\r\x1c",
        b"\x0bM\0S\0H\0|\0\x1c\r",
        b"\x0b\x0b\x0bMSH|||||||||\x1c\x1c\x1c\rMSA||||\x1c",
    ];
    let runs: Vec<_> = junk
        .into_iter()
        .map(|bytes| {
            thread::spawn(move || {
                let at = receiver(true, move |mut stream| {
                    // without end, so that limits of what is read must hold
                    for _ in 0..2000 {
                        if stream.write_all(bytes).is_err() {
                            return;
                        }
                    }
                });
                (bytes, doctor(at, &["--test-receiver", "--timeout", "200ms"]))
            })
        })
        .collect();
    for run in runs {
        let (bytes, output) = run.join().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{bytes:?}: {:?} {told}", output.status);
        assert!(!told.contains("panicked"), "{told}");
    }
}
