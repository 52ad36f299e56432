//! The health endpoints tell the truth, and tell it without a byte of a message.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::mllp::{Behaviour, MARKER, message};
use crate::harness::pair::{FORWARD, Pair, TARGET, loopback};
use crate::harness::process::Process;
use crate::harness::{tests, until};

tests![
    a_site_is_live_and_ready,
    a_site_whose_interface_is_down_is_not_ready,
    a_forward_is_unknown_until_it_has_carried_a_message,
    peers_show_their_handshake_endpoint_and_bytes,
    one_forward_can_be_asked_alone,
    a_peer_that_is_away_is_the_cause,
    metrics_count_messages_and_answers,
    nothing_shows_a_byte_of_a_message,
    a_foreign_host_header_is_refused,
    a_plugin_judges_the_site,
    the_alert_rules_and_the_metrics_load needs "promtool" "prometheus" "curl",
    haproxy_asks_for_a_forward needs "haproxy",
];

/// Bounds the time until health has noticed.
const NOTICE_LIMIT: Duration = Duration::from_secs(5);

/// Bounds the time until Prometheus has started, scraped and evaluated.
const PROMETHEUS_LIMIT: Duration = Duration::from_secs(30);

fn a_site_is_live_and_ready() {
    let pair = Pair::start(&[]);
    for path in ["/livez", "/readyz"] {
        let answer = pair.north.get(path);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}: {}", answer.head);
    }
    assert_eq!(pair.north.get("/nowhere").status, 404);
}

fn a_site_whose_interface_is_down_is_not_ready() {
    let pair = Pair::start(&[]);
    pair.north.namespace.must("ip link set wl0 down");
    assert_eq!(pair.north.get("/readyz").status, 503);
    assert_eq!(pair.north.get("/livez").status, 200);
    let forward = pair.north.health_of("forwards", "orders");
    assert_eq!(forward["status"], "down", "{forward}");
    let cause = forward["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("wl0 is down"), "{cause}");
    until(NOTICE_LIMIT, "the interface is up again", || (pair.north.get("/readyz").status == 200).then_some(()));
}

fn a_forward_is_unknown_until_it_has_carried_a_message() {
    let pair = Pair::start(&[]);
    assert_eq!(pair.north.health_of("forwards", "orders")["status"], "unknown");
    assert_eq!(pair.north.get("/healthz").status, 200, "unknown is no alarm");
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    until(NOTICE_LIMIT, "the forward is ok", || {
        (pair.north.health_of("forwards", "orders")["status"] == "ok").then_some(())
    });
    until(NOTICE_LIMIT, "the service is ok", || {
        (pair.south.health_of("services", "orders")["status"] == "ok").then_some(())
    });
    let health = pair.north.health();
    assert_eq!(health["site"], "north");
    assert_eq!(health["status"], "ok");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    let forward = pair.north.health_of("forwards", "orders");
    assert!(!forward["since"].is_null(), "{forward}");
    assert_eq!(forward["messages_total"], 1, "{forward}");
    assert!(forward["last_ack_age_seconds"].as_f64().is_some_and(|age| age < 5.0), "{forward}");
}

fn peers_show_their_handshake_endpoint_and_bytes() {
    let pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 5000));
    let peer = pair.north.health_of("peers", "south");
    assert_eq!(peer["status"], "ok", "{peer}");
    assert_eq!(peer["endpoint"], "198.51.100.2:51820", "{peer}");
    assert!(peer["latest_handshake_age_seconds"].as_f64().is_some_and(|age| age < 10.0), "{peer}");
    assert!(peer["tx_bytes"].as_u64().is_some_and(|bytes| bytes > 5000), "{peer}");
    assert!(peer["rx_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{peer}");
}

fn one_forward_can_be_asked_alone() {
    let pair = Pair::start(&[]);
    let answer = pair.north.get("/healthz/forwards/orders");
    assert_eq!(answer.status, 200);
    let entry: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(entry["name"], "orders");
    assert_eq!(pair.north.get("/healthz/forwards/none").status, 404);
}

fn a_peer_that_is_away_is_the_cause() {
    let mut pair = Pair::unstarted();
    let (north, _) = pair.plans(&["on_unreachable: hold", "hold_for: 1s"]);
    pair.north.start(&north);
    let mut sender = pair.sender();
    sender.send(&message("held", 500)).expect("open");
    let (entry, _) = until(NOTICE_LIMIT, "the forward is down", || {
        let entry = pair.north.health_of("forwards", "orders");
        (entry["status"] == "down").then_some(entry)
    });
    let cause = entry["cause"].as_str().unwrap_or_else(|| panic!("no cause in {entry}"));
    let names_the_tunnel = ["tunnel", "session", "handshake", "peer"].iter().any(|word| cause.contains(word));
    assert!(names_the_tunnel && !cause.contains("receiver"), "the tunnel is the cause: {cause}");
    assert_eq!(pair.north.get("/healthz").status, 503);
    assert_eq!(pair.north.get("/livez").status, 200);
}

fn metrics_count_messages_and_answers() {
    let pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    for n in 0..3 {
        sender.exchange(&message(&format!("M{n}"), 500));
    }
    until(NOTICE_LIMIT, "three messages are counted", || {
        let count = pair.north.metric("messages_total", "forward=\"orders\"");
        ((count - 3.0).abs() < f64::EPSILON).then_some(())
    });
    let text = pair.north.get("/metrics").body;
    assert!(text.contains("\"AA\""), "answers by code: {text}");
    let foreign =
        text.lines().find(|line| !line.starts_with('#') && !line.starts_with("wardlink_") && !line.is_empty());
    assert_eq!(foreign, None, "every name begins with wardlink_");
}

fn nothing_shows_a_byte_of_a_message() {
    let mut pair = Pair::start(&["hold_for: 1s", "max_message_size: 64KiB"]);
    let receiver = pair.receiver(Behaviour::Answer("AE"));
    let mut sender = pair.sender();
    sender.send(&message("IDMARKER1", 500)).expect("open");
    assert!(sender.answer(NOTICE_LIMIT).is_ok());
    // what goes wrong must not show it either
    let _ = sender.send(&message("IDMARKER2", 100_000));
    assert!(sender.answer(NOTICE_LIMIT).is_err());
    drop(receiver);
    let mut sender = pair.sender();
    sender.send(&message("IDMARKER3", 500)).expect("open");
    assert!(sender.answer(NOTICE_LIMIT).is_err());
    for site in [&mut pair.north, &mut pair.south] {
        let shown = [site.log(), site.get("/healthz").body, site.get("/metrics").body].concat();
        for secret in [MARKER, "IDMARKER", "SYNTHETIC"] {
            assert!(!shown.contains(secret), "{} shows {secret}", site.name);
        }
    }
}

fn a_foreign_host_header_is_refused() {
    let pair = Pair::start(&[]);
    let answer = pair.north.get_from_host("/healthz", "attacker.example").expect("an answer");
    assert!((400..500).contains(&answer.status), "DNS rebinding: {}", answer.head);
    assert!(!answer.body.contains("orders"));
    assert!(pair.north.namespace.connect(loopback(FORWARD.port())).is_ok());
}

/// Bounds the time until HAProxy has asked again: a fifth of a second, on a machine that is busy.
const AGENT_LIMIT: Duration = Duration::from_secs(20);

/// Runs `wardlink check`; returns its exit code and its line.
fn check(pair: &Pair, more: &[&str]) -> (Option<i32>, String) {
    let config = pair.north.config_path();
    let words = pair.north.command(&[&["check", "-c", &config], more].concat());
    let done = Command::new(&words[0]).args(&words[1..]).output().expect("the command runs");
    assert!(done.stderr.is_empty(), "monitoring reads standard output: {}", String::from_utf8_lossy(&done.stderr));
    (done.status.code(), String::from_utf8(done.stdout).expect("UTF-8"))
}

fn a_plugin_judges_the_site() {
    let mut pair = Pair::start(&[]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    let ((_, line), _) =
        until(NOTICE_LIMIT, "all is well", || Some(check(&pair, &[])).filter(|(code, _)| *code == Some(0)));
    assert!(line.starts_with("WARDLINK OK: north: ") && line.contains("'south handshake_age'="), "{line}");
    let (code, line) = check(&pair, &["--forward", "orders", "--warning", "connections=0"]);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.starts_with("WARDLINK WARNING: orders connections is ") && line.lines().count() == 1, "{line}");
    for wrong in [&["--forward", "order"][..], &["--warning", "depth=1"], &["--nothing"]] {
        let (code, line) = check(&pair, wrong);
        assert_eq!(code, Some(3), "{line}");
        assert!(line.starts_with("WARDLINK UNKNOWN: "), "{line}");
    }
    drop(receiver);
    let _ = pair.sender().send(&message("2", 500));
    let ((_, line), _) = until(NOTICE_LIMIT, "it is critical", || {
        Some(check(&pair, &["--forward", "orders"])).filter(|(code, _)| *code == Some(2))
    });
    assert!(line.starts_with("WARDLINK CRITICAL: orders: ") && line.contains("receiver"), "{line}");
    pair.north.kill();
    let (code, line) = check(&pair, &[]);
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("is running") && line.lines().count() == 1, "{line}");
}

fn haproxy_asks_for_a_forward() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&["on_unreachable: close"]);
    pair.south.start(&south.service("other", TARGET, "north", &[]));
    let north = north.health("agent_listen: 127.0.0.1:9576");
    pair.north.start(&north.forward("other", loopback(2576), "south", "service: other", &[]));
    pair.is_linked();
    let (dir, receiver) = (&pair.north.dir, pair.receiver(Behaviour::Answer("AA")));
    let socket = dir.join("haproxy.sock");
    let server = |name: &str, says: &str| {
        format!("  server {name} {FORWARD} agent-check agent-addr 127.0.0.1 agent-port 9576 agent-inter 500ms {says}\n")
    };
    let config = format!(
        "global\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 5s\n  \
         timeout server 5s\nbackend feed\n{}{}{}",
        socket.display(),
        server("orders", "agent-send \"orders\\n\""),
        server("other", "agent-send \"other\\n\""),
        server("site", "")
    );
    let path = dir.join("haproxy.cfg");
    fs::write(&path, config).expect("the configuration");
    let words = ["haproxy", "-db", "-f", &path.display().to_string()].map(str::to_owned);
    let _haproxy = Process::start(&pair.north.namespace, &words, &dir.join("haproxy.log"));
    // without a check of its own one that is up is not named so
    let is_down = || ["orders", "other", "site"].map(|name| server_status(&socket, name).starts_with("DOWN"));
    pair.sender().exchange(&message("1", 500));
    until(AGENT_LIMIT, "HAProxy runs", || socket.exists().then_some(()));
    drop(receiver);
    let _ = pair.sender().send(&message("2", 500));
    until(AGENT_LIMIT, "what is down is down", || (is_down() == [true, false, true]).then_some(()));
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    until(AGENT_LIMIT, "and up again", || {
        let _ = pair.sender().send(&message("3", 500));
        (is_down() == [false; 3]).then_some(())
    });
}

/// Asks HAProxy how one of its servers is.
fn server_status(socket: &Path, server: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = UnixStream::connect(socket) {
        let _ = stream.write_all(b"show stat\n").and_then(|()| stream.read_to_string(&mut text).map(|_| ()));
    }
    let line = text.lines().find(|line| line.starts_with(&format!("feed,{server},"))).unwrap_or_default();
    line.split(',').nth(17).unwrap_or_default().to_owned()
}

fn the_alert_rules_and_the_metrics_load() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring");
    let tested = Command::new("promtool")
        .args(["test", "rules", "wardlink.rules.test.yml"])
        .current_dir(directory)
        .output()
        .expect("promtool runs");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));

    let pair = Pair::start(&[]);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("1", 500));
    let (dir, namespace) = (&pair.north.dir, &pair.north.namespace);
    let text = dir.join("metrics.txt");
    let fetch = format!("curl -sf -H Accept:text/plain -o {} http://127.0.0.1:9575/metrics", text.display());
    assert!(namespace.output(&fetch).status.success());
    let linted = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(text).expect("the metrics"))
        .output()
        .expect("promtool runs");
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stderr));
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{directory}/wardlink.rules.yml]\n\
         scrape_configs: [{{job_name: wardlink, static_configs: [{{targets: [\"127.0.0.1:9575\"]}}]}}]\n"
    );
    std::fs::write(dir.join("prometheus.yml"), config).expect("written");
    let words = format!(
        "prometheus --config.file={0}/prometheus.yml --storage.tsdb.path={0}/tsdb --web.listen-address=127.0.0.1:9090",
        dir.display()
    );
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let prometheus = Process::start(namespace, &words, &dir.join("prometheus.log"));
    let ask = |path: &str| -> Option<serde_json::Value> {
        let mut stream = namespace.connect("127.0.0.1:9090".parse().expect("an address")).ok()?;
        stream.set_read_timeout(Some(NOTICE_LIMIT)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    };
    let query = "/api/v1/query?query=wardlink_forward_messages_total";
    let (sample, _) = until(PROMETHEUS_LIMIT, "Prometheus has scraped the site", || {
        let result = ask(query)?["data"]["result"][0].clone();
        (!result.is_null()).then_some(result)
    });
    assert_eq!(sample["metric"]["forward"], "orders", "{sample}\n{}", prometheus.log());
    assert_eq!(sample["value"][1], "1", "{sample}");
    let (rules, _) = until(PROMETHEUS_LIMIT, "each rule was evaluated", || {
        let rules = ask("/api/v1/rules")?["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    assert!(rules.len() >= 20, "{} rules", rules.len());
}
