//! The program as an admin and systemd meet it: exit codes, what it says, how it stops, and what it leaves.

use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::mllp::{Behaviour, MARKER, Receiver, Sender, answer_to, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::process::Process;
use crate::harness::{tests, until};

tests![
    a_wrong_configuration_is_refused_with_its_place,
    a_key_that_others_may_read_is_refused,
    without_net_admin_it_exits_77_and_says_why,
    sigterm_lets_a_message_under_way_finish,
    sigterm_is_bounded_by_a_receiver_that_never_answers,
    a_stopped_site_leaves_nothing,
    a_killed_site_does_not_hinder_its_successor,
    a_taken_forward_port_is_named,
    a_taken_listen_port_is_named,
    the_state_directory_is_private,
    send_and_receive_work_through_the_tunnel,
    send_fails_where_the_answer_is_negative,
    a_crowd_at_the_control_socket_keeps_only_itself_out,
    commands_that_come_before_a_site_is_ready_wait_for_it,
];

/// Names the control socket that a process of this program crowds.
const CROWD: &str = "WARDLINK_NETNS_CROWD";

/// Is how many connections a crowd keeps open.
const CROWD_SIZE: usize = 100;

/// Bounds the end of a program that has nothing to do any more.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Bounds a drain: a site that is stopped must be gone before a service manager loses its patience.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Runs the program in north to its end; returns its exit code and all that it printed.
fn run(pair: &Pair, words: &[String]) -> (Option<i32>, String) {
    let output = pair.north.namespace.output(&format!("timeout 20 {}", words.join(" ")));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn a_wrong_configuration_is_refused_with_its_place() {
    let pair = Pair::unstarted();
    let (north, _) = pair.plans(&["on_unreachable: panic"]);
    pair.north.write(&north);
    let file = pair.north.config_path();
    let line = 1 + north.yaml().lines().position(|line| line.contains("panic")).expect("it is there");
    for command in [&["check-config", "-c", &file][..], &["run", "-c", &file]] {
        let (code, text) = run(&pair, &pair.north.command(command));
        assert_eq!(code, Some(64), "{text}");
        assert!(text.contains(&format!("{file}:{line}:")), "file, line and column: {text}");
    }
    let (north, _) = pair.plans(&[]);
    pair.north.write(&north);
    let (code, text) = run(&pair, &pair.north.command(&["check-config", "-c", &file]));
    assert_eq!(code, Some(0), "{text}");
}

fn a_key_that_others_may_read_is_refused() {
    let pair = Pair::unstarted();
    pair.north.write(&pair.plans(&[]).0);
    let key = pair.north.dir.join("private.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let (code, text) = run(&pair, &pair.north.command(&["run", "-c", &pair.north.config_path()]));
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("private.key"), "{text}");
}

fn without_net_admin_it_exits_77_and_says_why() {
    let pair = Pair::unstarted();
    pair.north.write(&pair.plans(&[]).0);
    let without = ["setpriv", "--bounding-set", "-net_admin", "--"].map(str::to_owned);
    let words = [&without[..], &pair.north.command(&["run", "-c", &pair.north.config_path()])].concat();
    let (code, text) = run(&pair, &words);
    assert_eq!(code, Some(77), "{text}");
    assert!(text.contains("CAP_NET_ADMIN"), "{text}");
}

fn sigterm_lets_a_message_under_way_finish() {
    let mut pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::AnswerAfter(Duration::from_millis(700)));
    let payload = message("under way", 500);
    let mut sender = pair.sender();
    sender.send(&payload).expect("open");
    until(END_LIMIT, "the receiver has it", || (receiver.payloads().len() == 1).then_some(()));
    pair.north.terminate();
    assert_eq!(sender.answer(END_LIMIT), Ok(answer_to(&payload, "AA")));
    drop(sender);
    let (status, _) = pair.north.program().wait(END_LIMIT);
    assert_eq!(status.code(), Some(0), "{}", pair.north.log());
}

fn sigterm_is_bounded_by_a_receiver_that_never_answers() {
    let mut pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Silent);
    let mut sender = pair.sender();
    sender.send(&message("never answered", 500)).expect("open");
    until(END_LIMIT, "the receiver has it", || (receiver.payloads().len() == 1).then_some(()));
    pair.north.terminate();
    let (status, took) = pair.north.program().wait(DRAIN_LIMIT);
    assert_eq!(status.code(), Some(0), "after {took:?}: {}", pair.north.log());
}

fn a_stopped_site_leaves_nothing() {
    let mut pair = Pair::start(&[]);
    let namespace = std::sync::Arc::clone(&pair.north.namespace);
    let there = || namespace.output("ip link show wl0").status.success();
    let route = format!("ip route get {}", pair.south.inner);
    assert!(there() && namespace.must(&route).contains("wl0"));
    pair.north.terminate();
    let (status, took) = pair.north.program().wait(END_LIMIT);
    assert_eq!(status.code(), Some(0), "{}", pair.north.log());
    assert!(took < END_LIMIT);
    assert!(!there(), "the interface is still there");
    assert!(!String::from_utf8_lossy(&namespace.output(&route).stdout).contains("wl0"));
    assert!(!pair.north.dir.join("control.sock").exists(), "the control socket is still there");
    assert!(namespace.listen(FORWARD).is_ok());
}

fn a_killed_site_does_not_hinder_its_successor() {
    let mut pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("1", 500));
    for n in 2..5 {
        pair.north.kill();
        pair.north.restart();
        pair.sender().exchange(&message(&n.to_string(), 500));
    }
}

fn a_crowd_at_the_control_socket_keeps_only_itself_out() {
    let pair = Pair::start(&[]);
    let (site, socket) = (&pair.north, pair.north.dir.join("control.sock"));
    // as for a member of the readers' group, which this host need not have
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("ours");
    let other_user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"].map(str::to_owned);
    let program = std::env::current_exe().expect("this program").display().to_string();
    let crowd = ["env".to_owned(), format!("{CROWD}={}", socket.display()), program];
    let log = site.dir.join("crowd.log");
    let _crowd = Process::start(&site.namespace, &[&other_user[..], &crowd].concat(), &log);
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    until(END_LIMIT, "the crowd is there", || (said().contains("all connected") || said().contains(':')).then_some(()));
    if said().contains("setpriv:") {
        return; // a user namespace with one user has no other
    }
    let status = site.command(&["status", "--socket", &socket.display().to_string()]);
    // longer than one silent connection lasts: those that are closed come again
    for _ in 0..6 {
        let start = Instant::now();
        let (_, text) = run(&pair, &status);
        assert!(text.contains("orders") && start.elapsed() < Duration::from_secs(2), "{:?}: {text}", start.elapsed());
        std::thread::sleep(Duration::from_millis(500));
    }
    let (code, text) = run(&pair, &[&other_user[..], &status].concat());
    assert_ne!(code, Some(0), "{text}");
    assert!(text.contains("too many connections"), "its own user is told: {text}");
    assert!(!said().contains("panicked"), "{}", said());
}

/// Tells whether this process is there to crowd a control socket.
pub(crate) fn crowded() -> Option<PathBuf> {
    std::env::var_os(CROWD).map(PathBuf::from)
}

/// Keeps silent connections open until it is killed; those that are closed it opens again.
pub(crate) fn be_a_crowd(socket: &Path) -> ExitCode {
    let connect = || {
        let stream = UnixStream::connect(socket).expect("accepted, not queued");
        stream.set_nonblocking(true).expect("a socket");
        stream
    };
    let mut held: Vec<UnixStream> = (0..CROWD_SIZE).map(|_| connect()).collect();
    eprintln!("all connected");
    loop {
        std::thread::sleep(Duration::from_millis(100));
        for stream in &mut held {
            let is_open = matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
            if !is_open {
                *stream = connect();
            }
        }
    }
}

fn a_taken_forward_port_is_named() {
    let mut pair = Pair::unstarted();
    let _taken = pair.north.namespace.listen(FORWARD).expect("free");
    pair.north.write(&pair.plans(&[]).0);
    pair.north.launch();
    let (status, _) = pair.north.program().wait(END_LIMIT);
    assert_eq!(status.code(), Some(1));
    assert!(pair.north.log().contains("127.0.0.1:2575"), "{}", pair.north.log());
}

fn a_taken_listen_port_is_named() {
    let mut pair = Pair::unstarted();
    let _taken = pair.north.namespace.udp("0.0.0.0:51820".parse().unwrap()).expect("free");
    pair.north.write(&pair.plans(&[]).0);
    pair.north.launch();
    let (status, _) = pair.north.program().wait(END_LIMIT);
    assert_eq!(status.code(), Some(1));
    assert!(pair.north.log().contains("51820"), "{}", pair.north.log());
}

fn the_state_directory_is_private() {
    let pair = Pair::start(&[]);
    let mode = std::fs::metadata(pair.north.dir.join("state")).expect("it is made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

fn send_and_receive_work_through_the_tunnel() {
    let pair = Pair::start(&["hold_for: 10s"]);
    let out = pair.south.dir.join("out");
    let words = pair.south.command(&["receive", "127.0.0.1:6661", "--out", &out.display().to_string()]);
    let mut receiver = Process::start(&pair.south.namespace, &words, &pair.south.dir.join("receive.log"));
    let file = pair.north.dir.join("message.hl7");
    std::fs::write(&file, message("SEND1", 500)).expect("the message");
    let (code, text) = run(&pair, &pair.north.command(&["send", "127.0.0.1:2575", &file.display().to_string()]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("SEND1") && text.contains("AA"), "the ACK is printed: {text}");
    let files: Vec<_> = std::fs::read_dir(&out).expect("made").map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    assert_eq!(std::fs::read(&files[0]).expect("ours"), message("SEND1", 500));
    receiver.signal(Signal::SIGTERM);
    receiver.wait(END_LIMIT);
    assert!(!pair.north.log().contains(MARKER));
}

fn send_fails_where_the_answer_is_negative() {
    let pair = Pair::unstarted();
    let receiver = Receiver::start(&pair.north.namespace, TARGET, Behaviour::Answer("AE"));
    let file = pair.north.dir.join("message.hl7");
    std::fs::write(&file, message("SEND1", 500)).expect("the message");
    let send = pair.north.command(&["send", "127.0.0.1:6661", &file.display().to_string()]);
    let (code, text) = run(&pair, &send);
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(receiver.payloads(), [message("SEND1", 500)]);
    drop(receiver);
    assert!(Sender::connect(&pair.north.namespace, TARGET).is_err());
    assert_eq!(run(&pair, &send).0, Some(1), "nobody listens");
}

fn commands_that_come_before_a_site_is_ready_wait_for_it() {
    let mut pair = Pair::unstarted();
    let (north, _) = pair.plans(&[]);
    pair.north.write(&north);
    let words = |command: &str| pair.north.command(&[command, "-c", &pair.north.config_path()]);
    let (code, text) = run(&pair, &words("status"));
    assert!(code != Some(0) && text.contains("nobody answers"), "there is none: {text}");
    let commands = [words("status"), words("reload")];
    pair.north.launch();
    // Stopped as early as its socket is there, it can answer nobody.
    let deadline = Instant::now() + DRAIN_LIMIT;
    while UnixStream::connect(pair.north.dir.join("control.sock")).is_err() {
        assert!(Instant::now() < deadline, "no control socket:\n{}", pair.north.log());
    }
    pair.north.program().signal(Signal::SIGSTOP);
    let log = |index: usize| pair.north.dir.join(format!("command-{index}.log"));
    let start = |(index, words): (usize, &Vec<String>)| Process::start(&pair.north.namespace, words, &log(index));
    let mut waiting: Vec<Process> = commands.iter().enumerate().map(start).collect();
    std::thread::sleep(Duration::from_millis(500));
    for (index, command) in waiting.iter_mut().enumerate() {
        assert!(command.ended().is_none(), "it waits: {:?}", std::fs::read_to_string(log(index)));
    }
    pair.north.program().signal(Signal::SIGCONT);
    for (command, says) in waiting.iter_mut().zip(["north", "reloaded: nothing changed"]) {
        command.wait(DRAIN_LIMIT);
        assert!(command.log().contains(says), "{}", command.log());
    }
}
