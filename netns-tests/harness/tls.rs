//! TLS around the sites, by OpenSSL through Python's ssl: a sender, a receiver, and the certificates of both sides, made
//! anew in each test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::process::Process;
use super::site::{Site, write_secret};
use super::until;

/// Is the program of both systems.
const PROGRAM: &str = include_str!("tls_peer.py");

/// Bounds the start of a receiver.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Is an authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Writes its certificate into the site's directory, and returns the path.
    pub(crate) fn write(&self, site: &Site, file: &str) -> String {
        let path = site.dir.join(file);
        fs::write(&path, self.0.pem()).expect("the certificate is written");
        path.display().to_string()
    }

    /// Writes a certificate for `name` that ends so many days from now as NAME.pem and NAME.key.
    pub(crate) fn issue(&self, site: &Site, file: &str, name: &str, ends_in_days: i64) -> (String, String) {
        let day = Duration::from_secs(24 * 3600);
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let distance = day * u32::try_from(ends_in_days.unsigned_abs()).expect("days");
        let now = SystemTime::now();
        params.not_before = (now - 400 * day).into();
        params.not_after = if ends_in_days < 0 { now - distance } else { now + distance }.into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let (pem, secret) = (site.dir.join(format!("{file}.pem")), site.dir.join(format!("{file}.key")));
        fs::write(&pem, certificate.pem()).expect("the certificate is written");
        write_secret(&secret, &key.serialize_pem());
        (pem.display().to_string(), secret.display().to_string())
    }
}

fn program(site: &Site) -> PathBuf {
    let path = site.dir.join("tls_peer.py");
    if !path.exists() {
        fs::write(&path, PROGRAM).expect("the program is written");
    }
    path
}

/// Has a sender at `site` do what `words` say; returns what it printed, a line for each message or for its end.
pub(crate) fn send(site: &Site, to: SocketAddr, words: &str) -> Vec<String> {
    run(site, &format!("send {to} {words}"))
}

/// Does the same with one that ends its direction behind its message, before the answer.
pub(crate) fn send_half(site: &Site, to: SocketAddr, words: &str) -> Vec<String> {
    run(site, &format!("half {to} {words}"))
}

fn run(site: &Site, words: &str) -> Vec<String> {
    let program = program(site);
    let output = site.namespace.output(&format!("timeout 40 python3 -W ignore {} {words}", program.display()));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Starts a program that holds as many connections, over TLS where `ca` is said, and waits until it does.
pub(crate) fn hold(site: &Site, to: SocketAddr, count: usize, ca: &str) -> Process {
    let ca = if ca.is_empty() { String::new() } else { format!(" --ca {ca}") };
    let line = format!("python3 -W ignore {} hold {to} --count {count}{ca}", program(site).display());
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let process = Process::start(&site.namespace, &words, &site.dir.join(format!("tls_holder_{count}.log")));
    until(Duration::from_secs(60), "the connections are held", || process.log().contains("holds").then_some(()));
    process
}

/// Starts such a sender; its log is what it prints.
pub(crate) fn start(site: &Site, to: SocketAddr, words: &str) -> Process {
    let line = format!("python3 -W ignore {} send {to} {words}", program(site).display());
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    Process::start(&site.namespace, &words, &site.dir.join("tls_sender.log"))
}

/// Is a receiver that speaks TLS.
pub(crate) struct Receiver {
    process: Process,
    payloads: PathBuf,
}

impl Receiver {
    /// Starts one at `site`, and waits until it listens.
    pub(crate) fn start(site: &Site, at: SocketAddr, words: &str) -> Self {
        let payloads = site.dir.join("payloads");
        fs::create_dir_all(&payloads).expect("a directory");
        let program = program(site);
        let line = format!("python3 -W ignore {} receive {at} {} {words}", program.display(), payloads.display());
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let process = Process::start(&site.namespace, &words, &site.dir.join("tls_receiver.log"));
        until(READY_LIMIT, "the receiver listens", || process.log().contains("listens").then_some(()));
        Self { process, payloads }
    }

    /// Reads what came, in order.
    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(&self.payloads).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
        files.retain(|path| path.extension().is_none());
        files.sort();
        files.iter().map(|path| fs::read(path).expect("a payload")).collect()
    }

    /// Reads what it printed: a line for each connection that failed.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// Writes a payload to a file, for a sender to send.
pub(crate) fn payload_file(dir: &Path, payload: &[u8]) -> String {
    let path = dir.join("payload");
    fs::write(&path, payload).expect("the payload is written");
    path.display().to_string()
}
