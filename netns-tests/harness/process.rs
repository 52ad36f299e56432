//! A program that runs inside a site: its signals, its end, its log.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::Namespace;
use super::until;

/// Is a running program; it gets SIGKILL when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program inside `namespace`; what it prints goes to the end of `log`.
    pub(crate) fn start(namespace: &Namespace, words: &[String], log: &Path) -> Self {
        Self { child: namespace.spawn(words, log), log: log.to_owned() }
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the process is there");
    }

    /// Returns the exit status, if the program has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits for the end, at most `limit`. Returns the status and the time that it took.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        until(limit, "the program has ended", || self.ended())
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Reads what it has printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Reads its resident memory's peak, in bytes.
    pub(crate) fn memory_peak_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    /// Reads its resident memory now, in bytes.
    pub(crate) fn memory_now_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    fn memory_bytes(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the process is there");
        let line = status.lines().find(|found| found.starts_with(line)).expect("the line");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kib * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
