//! A site: a namespace with an uplink, a key pair, a directory, and in it `wardlink run`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;

use super::namespace::Namespace;
use super::plan::{HEALTH, Plan};
use super::process::Process;
use super::{until, wire};

/// Bounds the start of a site: a debug build on a busy machine included.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Bounds the wait for an HTTP answer.
const HTTP_LIMIT: Duration = Duration::from_secs(3);

/// Is one installation, running or not.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) number: u8,
    pub(crate) namespace: Arc<Namespace>,
    /// Holds its key, configuration, state and log; in memory, gone with the test process.
    pub(crate) dir: PathBuf,
    pub(crate) public_key: String,
    pub(crate) inner: Ipv4Addr,
    pub(crate) inner_v6: Ipv6Addr,
    pub(crate) outer: Ipv4Addr,
    pub(crate) outer_v6: Ipv6Addr,
    /// Is what the program finds in its environment beside the usual, `NAME=value` each.
    pub(crate) environment: Vec<String>,
    wardlink: Option<Process>,
}

/// Is an answer of the health endpoints.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Site {
    /// Makes the site with a new key; the wire connects it.
    pub(crate) fn new(name: &'static str, number: u8, dir: PathBuf) -> Self {
        let mut secret = [0_u8; 32];
        getrandom::fill(&mut secret).expect("randomness");
        let secret = x25519_dalek::StaticSecret::from(secret);
        write_secret(&dir.join("private.key"), &STANDARD.encode(secret.to_bytes()));
        let public_key = STANDARD.encode(x25519_dalek::PublicKey::from(&secret).as_bytes());
        Self {
            name,
            number,
            namespace: Arc::new(Namespace::new(name)),
            dir,
            public_key,
            inner: Ipv4Addr::new(10, 98, 0, number),
            inner_v6: Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, number.into()),
            outer: wire::outer_v4(number, 2),
            outer_v6: wire::outer_v6(number, 2),
            environment: Vec::new(),
            wardlink: None,
        }
    }

    /// Writes the configuration and starts the site; waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&mut self, plan: &Plan) {
        self.write(plan);
        self.restart();
    }

    /// Starts the site with the configuration that it has; waits until it is ready.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.launch();
        until(READY_LIMIT, "the site is ready", || {
            let ended = self.wardlink.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "{} ended with {ended:?} before it was ready:\n{}", self.name, self.log());
            self.try_get("/readyz").filter(|answer| answer.status == 200)
        });
    }

    /// Starts the site and waits for nothing.
    pub(crate) fn launch(&mut self) {
        let mut words = self.command(&["run", "-c", &self.config_path()]);
        if !self.environment.is_empty() {
            words.splice(0..0, std::iter::once("env".to_owned()).chain(self.environment.clone()));
        }
        self.wardlink = Some(Process::start(&self.namespace, &words, &self.dir.join("wardlink.log")));
    }

    /// Writes the configuration file.
    pub(crate) fn write(&self, plan: &Plan) {
        fs::write(self.config_path(), plan.yaml()).expect("the configuration is written");
    }

    /// Returns the path of the configuration file.
    pub(crate) fn config_path(&self) -> String {
        self.dir.join("wardlink.yaml").display().to_string()
    }

    /// Returns the words that run the binary under test.
    pub(crate) fn command(&self, arguments: &[&str]) -> Vec<String> {
        let binary = env!("CARGO_BIN_EXE_wardlink");
        std::iter::once(binary).chain(arguments.iter().copied()).map(str::to_owned).collect()
    }

    /// Returns the running program.
    pub(crate) fn program(&mut self) -> &mut Process {
        self.wardlink.as_mut().expect("the site was started")
    }

    /// Returns the process id of the running program.
    pub(crate) fn process_id(&self) -> u32 {
        self.wardlink.as_ref().expect("the site was started").id()
    }

    /// Kills the site as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.program().kill();
    }

    /// Asks the site to stop.
    pub(crate) fn terminate(&mut self) {
        self.program().signal(Signal::SIGTERM);
    }

    /// Reads what the site has logged.
    pub(crate) fn log(&self) -> String {
        self.wardlink.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Asks the health endpoint; panics where it does not answer.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.try_get(path).unwrap_or_else(|| panic!("{}: no answer to GET {path}", self.name))
    }

    /// Asks the health endpoint, if it answers.
    pub(crate) fn try_get(&self, path: &str) -> Option<Response> {
        self.get_from_host(path, HEALTH)
    }

    /// Asks the health endpoint with a Host header.
    pub(crate) fn get_from_host(&self, path: &str, host: &str) -> Option<Response> {
        let mut stream = self.namespace.connect(HEALTH.parse().expect("an address")).ok()?;
        stream.set_read_timeout(Some(HTTP_LIMIT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Response { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// Reads `/healthz`.
    #[track_caller]
    pub(crate) fn health(&self) -> serde_json::Value {
        let answer = self.get("/healthz");
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("/healthz: {error}: {answer:?}"))
    }

    /// Reads the entry of `/healthz` in `list` ("peers", "forwards", "services") with that name.
    #[track_caller]
    pub(crate) fn health_of(&self, list: &str, name: &str) -> serde_json::Value {
        let health = self.health();
        let entries = health[list].as_array().unwrap_or_else(|| panic!("no {list} in {health}"));
        let entry = entries.iter().find(|entry| entry["name"] == name);
        entry.unwrap_or_else(|| panic!("no {name} in {list} of {health}")).clone()
    }

    /// Sums the samples of `/metrics` whose name ends in `name` and whose labels contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let body = self.get("/metrics").body;
        let samples = body.lines().filter(|line| line.starts_with("wardlink_") && line.contains(labels));
        samples
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| series.split('{').next().is_some_and(|series| series.ends_with(name)))
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }

    /// Moves the site's uplink to another address of its network, as a provider does; the old one is gone.
    pub(crate) fn roam(&mut self, host: u8) -> Ipv4Addr {
        let (old, new) = (self.outer, wire::outer_v4(self.number, host));
        let router = wire::outer_v4(self.number, 1);
        self.namespace.ip(&format!("addr del {old}/24 dev w0"));
        self.namespace.ip(&format!("addr add {new}/24 dev w0"));
        self.namespace.ip(&format!("route replace default via {router} dev w0"));
        self.outer = new;
        new
    }

    /// Does the same with the uplink's IPv6 address.
    pub(crate) fn roam_v6(&mut self, host: u8) -> Ipv6Addr {
        let (old, new) = (self.outer_v6, wire::outer_v6(self.number, host));
        let router = wire::outer_v6(self.number, 1);
        self.namespace.ip(&format!("addr del {old}/64 dev w0"));
        self.namespace.ip(&format!("addr add {new}/64 dev w0 nodad"));
        self.namespace.ip(&format!("-6 route replace default via {router} dev w0"));
        self.outer_v6 = new;
        new
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}: log of wardlink ----\n{}", self.name, self.log());
        }
    }
}

/// Writes a key file as `wg genkey` with `umask 077` does.
pub(crate) fn write_secret(path: &Path, text: &str) {
    let mut file =
        fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path).expect("a file");
    writeln!(file, "{text}").expect("the key is written");
}
