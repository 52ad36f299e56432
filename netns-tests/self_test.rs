//! The harness itself: a wire that carries and is cut, a capture that sees, a plain WireGuard pair, and nothing left
//! behind. Where one of these fails, the other tests prove nothing.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::harness::capture::Capture;
use crate::harness::mllp::{Behaviour, MARKER, Receiver, Sender, message};
use crate::harness::pair::loopback;
use crate::harness::process::Process;
use crate::harness::wire::{Wire, outer_v4};
use crate::harness::wireguard_go::WireGuardGo;
use crate::harness::{isolation, tests, until};

tests![
    sites_reach_each_other_over_the_wire,
    sites_reach_each_other_over_ipv6 needs "ipv6",
    sites_do_not_share_their_loopback,
    a_cut_wire_carries_nothing_until_mended,
    a_capture_sees_what_passes_in_the_clear,
    a_site_that_roams_is_reached_at_its_new_address,
    programs_die_with_their_namespace,
    nothing_survives_kill_9,
    wireguard_go_carries_mllp_to_wireguard_go needs "wg" "wireguard-go",
];

/// Marks the process that `nothing_survives_kill_9` kills.
const VICTIM: &str = "WARDLINK_NETNS_VICTIM";

/// Bounds what the kernel does by itself.
const KERNEL_LIMIT: Duration = Duration::from_secs(3);

fn sites_reach_each_other_over_the_wire() {
    let wire = Wire::new();
    let (north, south) = (wire.site("north"), wire.site("south"));
    let at = SocketAddr::new(south.outer.into(), 2575);
    let receiver = Receiver::start(&south.namespace, at, Behaviour::Answer("AA"));
    let mut sender = Sender::connect(&north.namespace, at).expect("connected");
    sender.exchange(&message("1", 500));
    sender.exchange(&message("2", 2_000_000));
    assert_eq!(receiver.payloads(), [message("1", 500), message("2", 2_000_000)]);
}

fn sites_reach_each_other_over_ipv6() {
    let wire = Wire::new();
    let (north, south) = (wire.site("north"), wire.site("south"));
    let at = SocketAddr::new(south.outer_v6.into(), 2575);
    let _receiver = Receiver::start(&south.namespace, at, Behaviour::Answer("AA"));
    Sender::connect(&north.namespace, at).expect("connected").exchange(&message("1", 500));
}

fn sites_do_not_share_their_loopback() {
    let wire = Wire::new();
    let (north, south) = (wire.site("north"), wire.site("south"));
    let _receiver = Receiver::start(&south.namespace, loopback(2575), Behaviour::Silent);
    assert!(south.namespace.connect(loopback(2575)).is_ok());
    assert!(north.namespace.connect(loopback(2575)).is_err());
}

fn a_cut_wire_carries_nothing_until_mended() {
    let wire = Wire::new();
    let (north, south) = (wire.site("north"), wire.site("south"));
    let at = SocketAddr::new(south.outer.into(), 2575);
    let _receiver = Receiver::start(&south.namespace, at, Behaviour::Silent);
    let connect = || north.namespace.connect_within(None, at, Duration::from_millis(300));
    assert!(connect().is_ok());
    wire.cut();
    assert_eq!(connect().expect_err("cut").kind(), std::io::ErrorKind::TimedOut);
    wire.mend();
    assert!(connect().is_ok());
}

fn a_capture_sees_what_passes_in_the_clear() {
    let wire = Wire::new();
    let (north, south) = (wire.site("north"), wire.site("south"));
    let capture = Capture::start(&wire.namespace);
    let socket = north.namespace.udp(SocketAddr::new(north.outer.into(), 0)).expect("a socket");
    socket.send_to(&message("1", 500), SocketAddr::new(south.outer.into(), 9)).expect("sent");
    let captured = capture.finish();
    assert!(captured.contains(MARKER.as_bytes()));
    assert!(!captured.foreign().is_empty());
    assert_eq!(captured.wireguard(), 0);
}

fn programs_die_with_their_namespace() {
    let wire = Wire::new();
    let site = wire.site("north");
    let mut child = site.namespace.spawn(&["sleep", "600"].map(str::to_owned), &site.dir.join("log"));
    let comm = format!("/proc/{}/comm", child.id());
    until(KERNEL_LIMIT, "setpriv became sleep", || std::fs::read_to_string(&comm).ok().filter(|c| c == "sleep\n"));
    drop(site);
    let (status, _) = until(KERNEL_LIMIT, "sleep has ended", || child.try_wait().expect("a child"));
    assert_eq!(status.signal(), Some(9));
}

fn nothing_survives_kill_9() {
    let mut victim = Command::new(std::env::current_exe().expect("this program"))
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the victim starts");
    let mut line = String::new();
    BufReader::new(victim.stdout.take().expect("piped")).read_line(&mut line).expect("the victim's line");
    let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("a process id")).collect();
    let is_there = |id: &u32| Path::new(&format!("/proc/{id}")).exists();
    let were_there = !ids.is_empty() && ids.iter().all(is_there);
    victim.kill().expect("kill -9");
    victim.wait().expect("a child");
    assert!(were_there, "the victim's programs ran: {line:?}");
    until(KERNEL_LIMIT, "its programs are gone", || (!ids.iter().any(is_there)).then_some(()));
}

/// Tells whether this process is there to be killed.
pub(crate) fn is_victim() -> bool {
    std::env::var_os(VICTIM).is_some()
}

/// Builds sites with programs in them, says the programs' ids, and waits to be killed.
pub(crate) fn be_the_victim() -> ExitCode {
    isolation::enter().expect("the parent could");
    let wire = Wire::new();
    let sites = [wire.site("north"), wire.site("south")];
    let words = ["sleep", "600"].map(str::to_owned);
    let programs = sites.each_ref().map(|site| Process::start(&site.namespace, &words, &site.dir.join("log")));
    for program in &programs {
        let comm = format!("/proc/{}/comm", program.id());
        until(KERNEL_LIMIT, "it runs", || std::fs::read_to_string(&comm).ok().filter(|c| c == "sleep\n"));
    }
    let mut out = std::io::stdout();
    std::io::Write::write_all(&mut out, format!("{} {}\n", programs[0].id(), programs[1].id()).as_bytes())
        .expect("told");
    std::thread::sleep(Duration::from_secs(600));
    ExitCode::FAILURE
}

fn wireguard_go_carries_mllp_to_wireguard_go() {
    let wire = Wire::new();
    let (north, south) = (wire.site("north"), wire.site("south"));
    let (at_north, at_south) = (WireGuardGo::start(&north), WireGuardGo::start(&south));
    at_north.peer(&north, &south, "");
    at_south.peer(&south, &north, "");
    assert_eq!(outer_v4(south.number, 2), south.outer);
    let capture = Capture::start(&wire.namespace);
    let at = SocketAddr::new(south.inner.into(), 2575);
    let receiver = Receiver::start(&south.namespace, at, Behaviour::Answer("AA"));
    let mut sender = Sender::connect(&north.namespace, at).expect("through the tunnel");
    sender.exchange(&message("1", 500));
    sender.exchange(&message("2", 200_000));
    assert_eq!(receiver.payloads().len(), 2);
    let captured = capture.finish();
    assert!(captured.wireguard() > 100);
    assert_eq!(captured.foreign(), Vec::<String>::new());
    assert!(!captured.contains(MARKER.as_bytes()));
}

fn a_site_that_roams_is_reached_at_its_new_address() {
    let wire = Wire::new();
    let (north, mut south) = (wire.site("north"), wire.site("south"));
    let old = SocketAddr::new(south.outer.into(), 2575);
    let new = SocketAddr::new(south.roam(77).into(), 2575);
    let _receiver = Receiver::start(&south.namespace, new, Behaviour::Answer("AA"));
    Sender::connect(&north.namespace, new).expect("connected").exchange(&message("1", 500));
    let limit = Duration::from_millis(500);
    assert!(north.namespace.connect_within(None, old, limit).is_err(), "the old address is gone");
    let _receiver =
        Receiver::start(&north.namespace, SocketAddr::new(north.outer.into(), 2575), Behaviour::Answer("AA"));
    let to = SocketAddr::new(north.outer.into(), 2575);
    Sender::connect(&south.namespace, to).expect("connected").exchange(&message("2", 500));
}
