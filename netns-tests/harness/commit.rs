//! Senders and receivers of MLLP Release 2, and with other bytes around messages: a program of Python's sockets.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::process::Process;
use super::site::Site;
use super::until;

/// Is the program of both systems.
const PROGRAM: &str = include_str!("commit_peer.py");

/// Bounds what a receiver does by itself, as its start.
const SOON: Duration = Duration::from_secs(10);

fn program(site: &Site) -> String {
    let path = site.dir.join("commit_peer.py");
    if !path.exists() {
        fs::write(&path, PROGRAM).expect("the program is written");
    }
    path.display().to_string()
}

/// Has a sender at `site` do what `words` say; returns what it was told, a line for each block.
#[track_caller]
pub(crate) fn send(site: &Site, to: SocketAddr, words: &str) -> Vec<String> {
    let output = site.namespace.output(&format!("timeout 60 python3 {} send {to} {words}", program(site)));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Is a receiver.
pub(crate) struct Receiver {
    process: Process,
    payloads: PathBuf,
}

impl Receiver {
    /// Starts one at `site`, and waits until it listens.
    #[track_caller]
    pub(crate) fn start(site: &Site, at: SocketAddr, words: &str) -> Self {
        let name = format!("commit_receiver_{}", at.port());
        let payloads = site.dir.join(&name);
        fs::create_dir_all(&payloads).expect("a directory");
        let line = format!("python3 {} receive {at} {} {words}", program(site), payloads.display());
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let process = Process::start(&site.namespace, &words, &site.dir.join(format!("{name}.log")));
        until(SOON, "the receiver listens", || process.log().contains("listens").then_some(()));
        Self { process, payloads }
    }

    /// Reads what came, in order; what came again is there again.
    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(&self.payloads).expect("a directory");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.retain(|path| path.extension().is_none());
        files.sort();
        files.iter().map(|path| fs::read(path).expect("a payload")).collect()
    }

    /// Lists the control ids of what came.
    pub(crate) fn control_ids(&self) -> Vec<String> {
        let id = |payload: &Vec<u8>| payload.split(|byte| *byte == b'|').nth(9).unwrap_or_default().to_vec();
        self.payloads().iter().map(|payload| String::from_utf8_lossy(&id(payload)).into_owned()).collect()
    }

    /// Reads what its answers were told by, in order: `answer ACK`; and how its connections ended.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Counts how many of its answers were committed.
    fn committed(&self) -> usize {
        self.log().matches("answer ACK\n").count()
    }

    /// Waits until so many of its answers are committed, no more.
    #[track_caller]
    pub(crate) fn is_committed_to(&self, count: usize) {
        let what = format!("{count} answers are committed");
        until(SOON, &what, || (self.committed() >= count).then_some(()));
        assert_eq!(self.committed(), count, "{}", self.log());
    }
}
