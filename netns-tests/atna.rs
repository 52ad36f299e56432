//! The audit log arrives at a real server of syslog (rsyslog), as IHE ATNA has it: all of it, also after kills of either end.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::audit::entries;
use crate::harness::mllp::{Behaviour, MARKER, message};
use crate::harness::pair::Pair;
use crate::harness::process::Process;
use crate::harness::site::Site;
use crate::harness::tls::Authority;
use crate::harness::{tests, until};

tests![
    every_entry_arrives_over_tcp_also_after_kills_of_both_ends needs "rsyslogd" "python3",
    what_a_reload_names_first_begins_with_it_and_is_asked_at_once needs "rsyslogd",
    over_tls_the_log_goes_to_the_one_that_is_meant needs "rsyslogd" "rsyslog-openssl",
];

/// Bounds what a site does by itself: a pause between two attempts included.
const SOON: Duration = Duration::from_secs(40);
const PORT: u16 = 6514;

/// Is a server of syslog at a site.
struct Repository {
    process: Process,
    file: PathBuf,
}

impl Repository {
    /// Starts it; what it received before stays in its file.
    fn start(site: &Site, files: Option<(&str, &str, &str)>) -> Self {
        let dir = site.dir.display();
        let file = site.dir.join("received");
        let (global, module) = match files {
            None => (String::new(), ""),
            Some((ca, certificate, key)) => (
                format!(
                    "DefaultNetstreamDriver=\"ossl\" DefaultNetstreamDriverCAFile=\"{ca}\" \
                     DefaultNetstreamDriverCertFile=\"{certificate}\" DefaultNetstreamDriverKeyFile=\"{key}\""
                ),
                "StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"x509/certvalid\"",
            ),
        };
        let config = format!(
            "global(workDirectory=\"{dir}\" maxMessageSize=\"64k\" parser.escapeControlCharactersOnReceive=\"off\" \
             {global})\nmodule(load=\"imtcp\" {module})\ntemplate(name=\"raw\" type=\"string\" \
             string=\"%rawmsg%\\n\")\ninput(type=\"imtcp\" port=\"{PORT}\" address=\"127.0.0.1\")\n\
             action(type=\"omfile\" file=\"{}\" template=\"raw\")\n",
            file.display()
        );
        let path = site.dir.join("rsyslog.conf");
        fs::write(&path, config).expect("written");
        let words = format!("rsyslogd -n -f {} -i {dir}/rsyslogd.pid", path.display());
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        fs::remove_file(site.dir.join("rsyslogd.pid")).ok();
        let process = Process::start(&site.namespace, &words, &site.dir.join("rsyslogd.log"));
        Self { process, file }
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns the numbers of the entries that it has.
    fn numbers(&self) -> BTreeSet<u64> {
        let number = |line: &String| line.split("ParticipantObjectID=\"north/").nth(1)?.split('"').next()?.parse().ok();
        self.lines().iter().filter_map(number).collect()
    }
}

/// Returns the numbers of the entries that the site has; a file of the log is no event of ATNA.
fn expected(site: &Site) -> BTreeSet<u64> {
    let all = entries(site, "");
    let is_event = |entry: &&serde_json::Value| entry["event"] != "segment";
    all.iter().filter(is_event).filter_map(|entry| entry["n"].as_u64()).collect()
}

#[track_caller]
fn has_all(site: &Site, repository: &Repository) {
    until(SOON, "all of it arrived", || {
        let (expected, found) = (expected(site), repository.numbers());
        (!expected.is_empty() && expected == found).then_some(())
    });
}

fn exchange(pair: &Pair, ids: std::ops::Range<u32>) {
    let mut sender = pair.sender();
    for id in ids {
        sender.send(&message(&format!("IDMARKER{id}"), 300)).expect("open");
        assert!(sender.answer(Duration::from_secs(20)).is_ok(), "no message waits for a repository");
    }
}

fn every_entry_arrives_over_tcp_also_after_kills_of_both_ends() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&["delivery: stored"]);
    let key = pair.north.dir.join("spool.key").display().to_string();
    let north = north.spool(&key).section(&format!("audit: {{atna: {{server: \"127.0.0.1:{PORT}\"}}}}"));
    let mut repository = Repository::start(&pair.north, None);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    exchange(&pair, 0..10);
    has_all(&pair.north, &repository);
    // the site dies in the middle
    exchange(&pair, 10..20);
    pair.north.kill();
    pair.north.restart();
    exchange(&pair, 20..25);
    has_all(&pair.north, &repository);
    // the repository dies in the middle, is away, and comes back
    exchange(&pair, 25..30);
    repository.process.kill();
    exchange(&pair, 30..35);
    let atna = |pair: &Pair| pair.north.health()["audit"]["atna"].clone();
    until(SOON, "it is said", || {
        let atna = atna(&pair);
        let cause = atna["failed"]["cause"].as_str().unwrap_or_default().to_owned();
        (cause.contains("refused") && atna["unsent"].as_u64().is_some_and(|unsent| unsent > 0)).then_some(())
    });
    assert!(pair.north.metric("atna_unsent_entries", "") > 0.5);
    assert!(pair.north.metric("atna_connected", "") < 0.5);
    // both at once: what was to be sent is so after a start
    pair.north.kill();
    let repository = Repository::start(&pair.north, None);
    pair.north.restart();
    has_all(&pair.north, &repository);
    until(SOON, "the way stands", || (pair.north.metric("atna_connected", "") > 0.5).then_some(()));
    until(SOON, "all of it is sent", || (atna(&pair)["unsent"] == 0).then_some(()));
    until(SOON, "it is taken", || (atna(&pair)["taken"] == atna(&pair)["sent"]).then_some(()));
    assert!(atna(&pair)["failed"].is_null(), "{}", atna(&pair));
    let all = repository.lines();
    let head = |line: &String| line.starts_with("<85>1 20") && line.contains(" north wardlink ");
    assert!(all.iter().all(|line| head(line) && line.contains(" IHE+RFC-3881 - \u{feff}<?xml")), "{all:?}");
    for what in ["\"110120\"", "\"110124\"", "\"110107\"", "\"110106\"", "UserID=\"forward orders\""] {
        assert!(all.iter().any(|line| line.contains(what)), "{what}: {all:?}");
    }
    assert!(!all.iter().any(|line| line.contains(MARKER) || line.contains("IDMARKER")), "a byte of a message");
    // every one is XML to somebody else's parser, and so is what is exported by hand
    let words = format!("audit export --format atna -c {}", pair.north.config_path());
    let words = pair.north.command(&words.split(' ').collect::<Vec<_>>()).join(" ");
    let exported = pair.north.namespace.output(&words);
    let exported = String::from_utf8_lossy(&exported.stdout).into_owned();
    assert_eq!(exported.lines().count(), expected(&pair.north).len());
    let xml: String =
        all.iter().filter_map(|line| line.split_once('\u{feff}')).map(|(_, xml)| format!("{xml}\n")).collect();
    fs::write(pair.north.dir.join("all.xml"), xml + &exported).expect("written");
    let program = "import sys, xml.etree.ElementTree as e\nfor l in open(sys.argv[1], encoding='utf-8'):\n  \
                   r = e.fromstring(l.encode())\n  assert r.tag == 'AuditMessage' and len(r) >= 4\n";
    fs::write(pair.north.dir.join("parse.py"), program).expect("written");
    let dir = pair.north.dir.display();
    pair.north.namespace.must(&format!("python3 {dir}/parse.py {dir}/all.xml"));
}

fn what_a_reload_names_first_begins_with_it_and_is_asked_at_once() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&[]);
    let to = |port: u16| north.clone().section(&format!("audit: {{atna: {{server: \"127.0.0.1:{port}\"}}}}"));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let reload = pair.north.command(&["reload", "--socket", &socket]).join(" ");
    // messages all the time: before, while and after it is named; nobody is there yet
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in (0..).step_by(5).take_while(|_| !stop.load(Ordering::Relaxed)) {
                exchange(&pair, id..id + 5);
            }
        });
        std::thread::sleep(Duration::from_secs(1));
        pair.north.write(&to(PORT + 1));
        pair.north.namespace.must(&reload);
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
    });
    let configured = || entries(&pair.north, "--event configured");
    until(SOON, "it is recorded", || (configured().len() == 2).then_some(()));
    let first = configured()[1]["n"].as_u64().expect("a number");
    // some attempts later the pause is long, and another server is asked all the same
    std::thread::sleep(Duration::from_secs(8));
    let repository = Repository::start(&pair.north, None);
    pair.north.write(&to(PORT));
    pair.north.namespace.must(&reload);
    let (asked, within) = (Instant::now(), Duration::from_secs(4));
    until(SOON, "it is asked", || (!repository.numbers().is_empty()).then_some(()));
    let took = asked.elapsed();
    let due = || expected(&pair.north).into_iter().filter(|n| *n >= first).collect::<BTreeSet<_>>();
    until(SOON, "all of it arrived", || (due() == repository.numbers()).then_some(()));
    assert!(took < within, "it was asked after {took:?}");
}

fn over_tls_the_log_goes_to_the_one_that_is_meant() {
    let mut pair = Pair::unstarted();
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let (ca, wrong_ca) = (right.write(&pair.north, "ca.pem"), wrong.write(&pair.north, "wrong.pem"));
    let (own, own_key) = right.issue(&pair.north, "own", "north", 90);
    let (server, server_key) = right.issue(&pair.north, "server", "localhost", 90);
    let (stranger, stranger_key) = wrong.issue(&pair.north, "stranger", "localhost", 90);
    let atna = |identity: &str| {
        let (north, south) = pair.plans(&[]);
        let tls = format!("{{ca_file: {ca}, server_name: localhost{identity}}}");
        (north.section(&format!("audit: {{atna: {{server: \"127.0.0.1:{PORT}\", tls: {tls}}}}}")), south)
    };
    let identity = format!(", certificate_file: {own}, key_file: {own_key}");
    let ((north, south), (without, _)) = (atna(&identity), atna(""));
    let mut repository = Repository::start(&pair.north, Some((&wrong_ca, &stranger, &stranger_key)));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    exchange(&pair, 0..5);
    let cause =
        |pair: &Pair| pair.north.health()["audit"]["atna"]["failed"]["cause"].as_str().unwrap_or_default().to_owned();
    until(SOON, "a stranger is one", || {
        cause(&pair).contains("was not issued by one that is trusted here").then_some(())
    });
    repository.process.kill();
    let repository_is_right = Repository::start(&pair.north, Some((&ca, &server, &server_key)));
    has_all(&pair.north, &repository_is_right);
    // a repository that requires a certificate, and none is configured any more: a reload is enough
    pair.north.write(&without);
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let words = pair.north.command(&["reload", "--socket", &socket]).join(" ");
    let output = pair.north.namespace.output(&words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "reloaded: audit.atna changed\n");
    until(SOON, "it is refused", || (!cause(&pair).is_empty()).then_some(()));
    pair.north.write(&north);
    pair.north.namespace.must(&words);
    exchange(&pair, 5..8);
    has_all(&pair.north, &repository_is_right);
}
