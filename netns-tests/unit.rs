//! The systemd unit: how exposed it leaves the program, and that the program does all it must under its system call filter;
//! and how the program shuts itself in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use seccompiler::BpfProgram;

use crate::harness::mllp::{Behaviour, message};
use crate::harness::pair::Pair;
use crate::harness::plan::Plan;
use crate::harness::site::{Site, write_secret};
use crate::harness::{tests, until};
use crate::stored_intake::send;

tests![
    the_unit_leaves_little_exposed needs "systemd-analyze",
    a_site_does_all_it_must_under_the_units_filter needs "systemd-analyze",
    a_site_shuts_itself_in_and_says_what_a_reload_may_not_open,
];

/// Names the unit's directory in this tree.
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/wardlink.service");

/// Names the most that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MAX: &str = "20";

/// Holds the system calls that the program run by this one may make, one word each.
const FILTER: &str = "WARDLINK_NETNS_FILTER";

/// Bounds what a site does by itself.
const SOON: Duration = Duration::from_secs(20);

/// Runs systemd-analyze; it needs no running systemd for this.
fn analyze(words: &[&str]) -> Output {
    let output = Command::new("systemd-analyze").args(words).env("SYSTEMD_COLORS", "0").output();
    output.expect("systemd-analyze runs")
}

fn the_unit_leaves_little_exposed() {
    let output = analyze(&["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE_MAX}"), UNIT]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains("Overall exposure level"), "{text}");
    assert!(output.status.success(), "{text}");
}

/// Lists the system calls of a word of `SystemCallFilter=`: a name, or a set of names and sets.
fn calls(word: &str) -> Vec<String> {
    if !word.starts_with('@') {
        return vec![word.to_owned()];
    }
    let output = analyze(&["syscall-filter", "--no-pager", word]);
    let text = String::from_utf8(output.stdout).expect("text");
    let words = text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    words.flat_map(calls).collect()
}

/// Lists the system calls that the unit allows.
fn allowed() -> Vec<String> {
    let unit = fs::read_to_string(UNIT).expect("the unit");
    let mut allowed = Vec::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let named = |words: &str| words.split_whitespace().flat_map(calls).collect::<Vec<_>>();
        match line.strip_prefix('~') {
            Some(words) => {
                let refused = named(words);
                allowed.retain(|call| !refused.contains(call));
            }
            None => allowed.extend(named(line)),
        }
    }
    allowed
}

/// Makes the filter of those calls that this kind of processor has; any other is refused with EPERM, as by the unit.
fn filter(calls: &str) -> BpfProgram {
    let compiled = |calls: &[&str]| {
        let filter: Vec<_> = calls.iter().map(|call| serde_json::json!({ "syscall": call })).collect();
        let all = serde_json::json!({ "all": {
            "mismatch_action": { "errno": libc::EPERM }, "match_action": "allow", "filter": filter,
        } });
        let here = std::env::consts::ARCH.try_into().expect("a processor that has filters");
        let made: Result<BTreeMap<_, _>, _> =
            seccompiler::compile_from_json(all.to_string().as_bytes(), here).map(|made| made.into_iter().collect());
        made
    };
    let known: Vec<_> = calls.split(' ').filter(|call| compiled(&[call]).is_ok()).collect();
    compiled(&known).expect("a filter").remove("all").expect("the filter")
}

/// Returns the system calls that this process shall allow the program that it becomes.
pub(crate) fn filtered() -> Option<String> {
    std::env::var(FILTER).ok()
}

/// Becomes the program that the arguments name, under the filter.
pub(crate) fn become_filtered(calls: &str) -> ExitCode {
    seccompiler::apply_filter(&filter(calls)).expect("the kernel takes the filter");
    let mut words = std::env::args_os().skip(1);
    let program = words.next().expect("a program");
    panic!("{}: {}", program.display(), Command::new(&program).args(words).env_remove(FILTER).exec())
}

fn a_site_does_all_it_must_under_the_units_filter() {
    let allowed = allowed();
    assert!(allowed.iter().any(|call| call == "read") && allowed.iter().all(|call| call != "chown"), "{allowed:?}");
    let here = std::env::current_exe().expect("this program").display().to_string();
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&["delivery: stored"]);
    let dir = pair.north.dir.clone();
    let page = dir.join("page");
    fs::write(&page, "#!/bin/sh\ncat >> \"$1\"\nchown 0 \"$1\" || echo refused >> \"$1\"\n").expect("the script");
    fs::set_permissions(&page, fs::Permissions::from_mode(0o755)).expect("it runs");
    let ran = dir.join("ran");
    let command = format!("command: [{}, {}]", page.display(), ran.display());
    let key = dir.join("spool.key").display().to_string();
    let north = north.spool(&key).section(&format!("alarms:\n  for: 0s\n  down: 1s\n  {command}"));
    for (site, plan) in [(&mut pair.south, &south), (&mut pair.north, &north)] {
        site.environment = vec![format!("{FILTER}={}", allowed.join(" ")), here.clone()];
        site.start(plan);
    }
    pair.is_linked();
    assert_eq!(send(&pair, "1"), "AA 1");
    let ran = || fs::read_to_string(&ran).ok().filter(|text| text.contains("refused"));
    let (told, _) = until(SOON, "the command of an alarm has run", ran);
    assert!(told.contains("refuses connections"), "{told}");
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    until(SOON, "what was stored is delivered", || (receiver.payloads().len() == 1).then_some(()));
    // what is taken away from the interface is put back, and a reload binds anew
    pair.north.namespace.ip(&format!("addr del {}/32 dev wl0", pair.north.inner));
    until(SOON, "the interface is mended", || (pair.north.metric("interface_restored_total", "") > 0.5).then_some(()));
    let another = north.forward("more", "127.0.0.1:2585".parse().expect("an address"), "south", "service: orders", &[]);
    pair.north.write(&another);
    pair.north.program().signal(nix::sys::signal::Signal::SIGHUP);
    let reloaded = || pair.north.health()["forwards"].as_array().filter(|forwards| forwards.len() == 2).map(|_| ());
    until(SOON, "the reload is done", reloaded);
    assert_eq!(send(&pair, "2"), "AA 2");
    until(SOON, "the second is delivered", || (receiver.payloads().len() == 2).then_some(()));
    pair.north.terminate();
    let (status, _) = pair.north.program().wait(SOON);
    assert!(status.success(), "{status:?}:\n{}", pair.north.log());
}

/// Reads a line of the program's state in the kernel.
fn state(site: &Site, line: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", site.process_id())).expect("it runs");
    let found = text.lines().find_map(|found| found.strip_prefix(line)).expect("the line");
    found.trim().to_owned()
}

fn a_site_shuts_itself_in_and_says_what_a_reload_may_not_open() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&[]);
    pair.south.start(&south.section("sandbox: off"));
    pair.north.start(&north);
    pair.is_linked();
    assert_eq!((state(&pair.south, "Seccomp:"), state(&pair.south, "NoNewPrivs:")), ("0".into(), "0".into()));
    assert_eq!((state(&pair.north, "Seccomp:"), state(&pair.north, "NoNewPrivs:")), ("2".into(), "1".into()));
    assert!(pair.north.log().contains("sandbox files="), "{}", pair.north.log());
    let elsewhere = pair.south.dir.join("elsewhere.psk");
    write_secret(&elsewhere, &pair.north.public_key);
    let line = format!("preshared_key_file: {}", elsewhere.display());
    let wants = Plan::of(&pair.north).peer_with(&pair.south, &format!("{}/32", pair.south.inner), &[&line]);
    pair.north.write(&wants);
    let words = ["reload", "-c", &pair.north.config_path()].map(str::to_owned);
    let words = pair.north.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let output = pair.north.namespace.output(&words.join(" "));
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && told.contains("elsewhere.psk") && told.contains("restart it"), "{told}");
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
}
