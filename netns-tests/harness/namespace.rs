//! One network namespace with its own mounts, held by a thread and by nothing else: no name, no file. When the thread
//! ends, its programs get SIGKILL (`setpriv --pdeathsig`), and the kernel removes the rest.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};

use super::isolation;

type Job = Box<dyn FnOnce() + Send>;

/// Bounds a connect inside a namespace.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Is a network namespace, and the thread that lives in it.
pub(crate) struct Namespace {
    thread_id: i32,
    jobs: Option<mpsc::Sender<Job>>,
    keeper: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes a namespace with its loopback up, IPv6 without duplicate address detection, and an own /run/wireguard.
    pub(crate) fn new(name: &str) -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (ready, made) = mpsc::channel();
        let keeper = thread::Builder::new()
            .name(format!("keeper {name}"))
            .spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("a namespace");
                fs::create_dir_all("/var/run/wireguard").expect("/var/run/wireguard");
                isolation::tmpfs("/var/run/wireguard").expect("a tmpfs");
                for setting in ["all", "default"] {
                    // absent where the kernel has no IPv6
                    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{setting}/accept_dad"), "0");
                }
                ready.send(nix::unistd::gettid().as_raw()).expect("the maker waits");
                while let Ok(job) = todo.recv() {
                    job();
                }
            })
            .expect("a thread");
        let thread_id = made.recv().expect("the namespace is made");
        let namespace = Self { thread_id, jobs: Some(jobs), keeper: Some(keeper) };
        namespace.ip("link set lo up");
        namespace
    }

    /// Returns the id of the thread that lives here, by which `ip link … netns` finds the namespace.
    pub(crate) fn thread_id(&self) -> i32 {
        self.thread_id
    }

    /// Runs `job` inside. What it opens or starts stays inside; a panic comes out.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(job)));
        });
        self.jobs.as_ref().expect("open until dropped").send(job).expect("the keeper lives");
        result.recv().expect("the keeper answers").unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs `ip` with the words of `arguments`; panics where it fails.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.must(&format!("ip {arguments}"))
    }

    /// Runs a program with its arguments, separated by blanks; panics where it fails. Returns what it printed.
    #[track_caller]
    pub(crate) fn must(&self, command: &str) -> String {
        let output = self.output(command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a program with its arguments, separated by blanks, to its end.
    pub(crate) fn output(&self, command: &str) -> Output {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let command = command.to_owned();
        self.run(move || {
            let mut program = mortal(&words);
            program.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command}: {error}"))
        })
    }

    /// Starts a program that dies with this namespace; what it prints goes to the end of `log`.
    pub(crate) fn spawn(&self, words: &[String], log: &Path) -> Child {
        let (words, log) = (words.to_vec(), log.to_owned());
        self.run(move || {
            let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
            let copy = file.try_clone().expect("a descriptor");
            mortal(&words).stdin(Stdio::null()).stdout(file).stderr(copy).spawn().expect("setpriv starts")
        })
    }

    /// Connects from inside; the stream may then be used by any thread.
    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.connect_within(None, to, CONNECT_TIMEOUT)
    }

    /// Connects from a given local address, within `limit`.
    pub(crate) fn connect_within(
        &self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        limit: Duration,
    ) -> io::Result<TcpStream> {
        let socket = self.run(move || Socket::new(Domain::for_address(to), Type::STREAM, None))?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        socket.connect_timeout(&to.into(), limit)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    }

    /// Listens inside.
    pub(crate) fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.run(move || Socket::new(Domain::for_address(at), Type::STREAM, None))?;
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    }

    /// Opens a UDP socket inside.
    pub(crate) fn udp(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.run(move || Socket::new(Domain::for_address(at), Type::DGRAM, None))?;
        socket.bind(&at.into())?;
        Ok(socket.into())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// Builds a command that the kernel kills when the thread that starts it ends.
fn mortal(words: &[String]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(words);
    command
}
