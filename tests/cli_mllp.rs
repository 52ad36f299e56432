//! Runs `wardlink send` and `wardlink receive` as a user does, against each other and against scripted peers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread::JoinHandle;

use tempfile::TempDir;

fn wardlink(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wardlink"));
    command.args(args);
    command
}

fn send(to: SocketAddr, args: &[&str], file: &Path) -> Output {
    let to = to.to_string();
    wardlink(&["send", &to]).arg(file).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns code and control id of each line; the milliseconds vary.
fn answers(output: &Output) -> Vec<String> {
    let lines = stdout(output);
    lines.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

fn message(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|LAB|N|EMR|C|20240101||ORU^R01^ORU_R01|{id}|P|2.5\rOBX|1|ST|K||4.1\r").into_bytes()
}

fn file(dir: &TempDir, content: &[u8]) -> PathBuf {
    let path = dir.path().join("messages");
    std::fs::write(&path, content).unwrap();
    path
}

/// Is a running `wardlink receive`; killed when dropped.
struct Receiver {
    child: Child,
    lines: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Receiver {
    fn start(args: &[&str]) -> Self {
        let mut command = wardlink(&["receive", "127.0.0.1:0"]);
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let address = first.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, lines, address }
    }

    /// Waits for its end, and returns its success and the rest of its lines.
    fn finish(mut self) -> (bool, Vec<String>) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        (status.success(), rest.lines().map(str::to_owned).collect())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Accepts one connection, and answers each frame with what the script makes of its number.
fn scripted(answer: impl Fn(usize) -> Vec<u8> + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = BufReader::new(stream.try_clone().unwrap());
        for number in 0.. {
            let mut frame = Vec::new();
            while !frame.ends_with(b"\x1c\r") {
                if bytes.read_until(b'\r', &mut frame).unwrap() == 0 {
                    return;
                }
            }
            stream.write_all(&answer(number)).unwrap();
        }
    });
    (address, thread)
}

fn ack(code: &str, id: &str) -> Vec<u8> {
    format!("\x0bMSH|^~\\&|EMR|C|LAB|N|t||ACK|R|P|2.5\rMSA|{code}|{id}\r\x1c\r").into_bytes()
}

#[test]
fn a_message_arrives_untouched_and_its_answer_is_shown() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let content = [&message("ID-1")[..], b"NTE|\xfc\xe9\x83\x5c\x00\x0b\x1c tail"].concat();
    let receiver = Receiver::start(&["--once", "--out", out.to_str().unwrap()]);
    let output = send(receiver.address, &[], &file(&dir, &content));
    assert_eq!(answers(&output), ["AA ID-1"], "{}", stderr(&output));
    assert!(stdout(&output).trim_end().ends_with(" ms"));
    assert_eq!(output.status.code(), Some(0));

    let bytes = content.len();
    let (success, lines) = receiver.finish();
    assert!(success);
    assert_eq!(lines[0], format!("000001 ORU^R01^ORU_R01 {bytes} bytes AA"));
    assert_eq!(lines[1], format!("received 1 messages, {bytes} bytes, on 1 connections"));
    let kept = out.join("000001.hl7");
    assert_eq!(std::fs::read(&kept).unwrap(), content);
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_negative_answer_is_exit_code_1() {
    let dir = TempDir::new().unwrap();
    for code in ["AE", "AR"] {
        let receiver = Receiver::start(&["--ack", code, "--once"]);
        let output = send(receiver.address, &[], &file(&dir, &message("7")));
        assert_eq!(answers(&output), [format!("{code} 7")]);
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn no_answer_is_exit_code_1_after_the_timeout() {
    let dir = TempDir::new().unwrap();
    let receiver = Receiver::start(&["--ack", "none"]);
    let output = send(receiver.address, &["--timeout", "100ms"], &file(&dir, &message("7")));
    assert_eq!(stdout(&output), "none 7 no answer in time\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn several_messages_connections_and_rounds_all_arrive() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let messages = file(&dir, &[message("A"), message("B"), message("C")].concat());
    let receiver = Receiver::start(&["--count", "60", "--out", out.to_str().unwrap()]);
    let output = send(receiver.address, &["--count", "10", "--connections", "4"], &messages);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(answers(&output).len(), 30);
    let output = send(receiver.address, &["--count", "10", "--per-connection"], &messages);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (success, lines) = receiver.finish();
    assert!(success);
    assert_eq!(lines.len(), 61);
    assert!(lines[60].starts_with("received 60 messages") && lines[60].ends_with("on 34 connections"), "{}", lines[60]);
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 60);
}

#[test]
fn enhanced_mode_gets_both_answers() {
    let dir = TempDir::new().unwrap();
    let content = b"MSH|^~\\&|a|b|c|d|t||ADT^A01|9|P|2.5|||AL|AL\r";
    let receiver = Receiver::start(&["--once"]);
    let output = send(receiver.address, &[], &file(&dir, content));
    assert_eq!(answers(&output), ["CA 9", "AA 9"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(receiver.finish().1[0].ends_with("bytes CA AA"));
}

#[test]
fn loose_sends_cr_for_lf() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let receiver = Receiver::start(&["--once", "--out", out.to_str().unwrap()]);
    let lf = String::from_utf8(message("1")).unwrap().replace('\r', "\n");
    let output = send(receiver.address, &["--loose"], &file(&dir, lf.as_bytes()));
    assert_eq!(output.status.code(), Some(0));
    assert!(receiver.finish().0);
    assert_eq!(std::fs::read(out.join("000001.hl7")).unwrap(), message("1"));
}

#[test]
fn the_answer_to_another_message_is_not_taken() {
    let dir = TempDir::new().unwrap();
    let messages = file(&dir, &[message("1"), message("2")].concat());
    // Answers the first message twice, then somebody else's, then the second.
    let (address, thread) = scripted(|number| match number {
        0 => [ack("AA", "1"), ack("AA", "1")].concat(),
        _ => [ack("AA", "99"), ack("AE", "2")].concat(),
    });
    let output = send(address, &[], &messages);
    thread.join().unwrap();
    assert_eq!(answers(&output), ["AA 1", "AE 2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 positive, 1 negative"), "{}", stderr(&output));
}

#[test]
fn a_receiver_that_closes_before_the_answer_is_no_success() {
    let dir = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 4096];
        assert!(stream.read(&mut bytes).unwrap() > 0);
    });
    let output = send(address, &[], &file(&dir, &message("1")));
    thread.join().unwrap();
    assert_eq!(stdout(&output), "none 1 connection closed before the answer\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn nobody_there_is_exit_code_1() {
    let dir = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let output = send(address, &[], &file(&dir, &message("1")));
    assert!(stderr(&output).contains("cannot connect"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn bad_arguments_are_exit_code_64_and_say_why() {
    let dir = TempDir::new().unwrap();
    let messages = file(&dir, &message("1")).to_str().unwrap().to_owned();
    let nowhere = dir.path().join("nowhere").to_str().unwrap().to_owned();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    for (args, reason) in [
        (["send", "127.0.0.1", &messages], "HOST:PORT"),
        (["send", "127.0.0.1:0", &messages], "port"),
        (["send", "127.0.0.1:2575", &nowhere], "nowhere"),
        (["send", "127.0.0.1:2575", empty], "no message"),
    ] {
        let output = wardlink(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

#[test]
fn sigterm_ends_receive_with_a_summary() {
    let receiver = Receiver::start(&[]);
    let pid = nix::unistd::Pid::from_raw(receiver.child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(receiver.finish(), (true, vec!["received 0 messages, 0 bytes, on 0 connections".to_owned()]));
}

#[test]
fn receive_survives_what_is_not_mllp() {
    let dir = TempDir::new().unwrap();
    let receiver = Receiver::start(&["--count", "2"]);
    let mut closed = Vec::new();
    let mut http = TcpStream::connect(receiver.address).unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(http.read_to_end(&mut closed).unwrap_or(0), 0);
    let mut odd = TcpStream::connect(receiver.address).unwrap();
    odd.write_all(b"\n\0\x0b\x04\x1c\r\x0b\x1c\r\x0bhello\x1c\r").unwrap();
    let output = send(receiver.address, &[], &file(&dir, &message("1")));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (success, lines) = receiver.finish();
    assert!(success);
    assert!(lines.contains(&"000001 - 5 bytes -".to_owned()), "{lines:?}");
}
