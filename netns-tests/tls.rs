//! MLLP over TLS on local legs, with senders and receivers that are OpenSSL's (Python's ssl), in both deliveries.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::mllp::{Behaviour, Lost, Sender, message};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::Plan;
use crate::harness::site::{Site, write_secret};
use crate::harness::tls::{Authority, Receiver, hold, payload_file, send, send_half, start};
use crate::harness::{tests, until};
use crate::stored_intake;

tests![
    messages_pass_over_tls_at_both_ends_transparent needs "python3",
    messages_pass_over_tls_at_both_ends_stored needs "python3",
    a_half_closed_sender_gets_its_answer_over_tls_in_both_deliveries needs "python3",
    an_idle_connection_over_tls_costs_little_memory needs "python3",
    a_sender_of_tls_1_1_or_of_plain_mllp_is_refused_and_counted_by_kind needs "python3",
    a_sender_of_tls_at_a_plain_port_is_told_of_in_the_log needs "python3",
    only_senders_with_a_certificate_of_the_named_issuer_are_let_in needs "python3",
    a_receiver_that_is_not_the_one_that_is_meant_gets_no_message needs "python3",
    what_a_receiver_does_wrong_is_not_told_of_its_sender needs "python3",
    a_receiver_that_requires_a_certificate_is_shown_one needs "python3",
    a_certificate_that_a_receiver_made_for_itself_is_trusted_where_it_is_listed needs "python3" "openssl",
    a_reload_takes_up_new_certificates_and_open_connections_go_on needs "python3",
    a_bad_certificate_changes_nothing_at_a_reload_and_is_told_by_check_config needs "openssl",
    a_certificate_that_expires_soon_is_noted_and_an_expired_one_degrades needs "ip",
];

/// Bounds what a site does by itself.
const SOON: Duration = Duration::from_secs(15);

/// Says how a pair is configured.
struct Wanted {
    stored: bool,
    /// Is the `tls:` line of the forward, and of the service.
    forward: Option<String>,
    service: Option<String>,
}

fn plans(pair: &Pair, wanted: &Wanted) -> (Plan, Plan) {
    let key = pair.north.dir.join("spool.key").display().to_string();
    let mut lines: Vec<&str> = wanted.forward.as_deref().into_iter().collect();
    let mut north = Plan::of(&pair.north).peer(&pair.south);
    if wanted.stored {
        lines.push("delivery: stored");
        north = north.spool(&key);
    }
    let north = north.forward("orders", FORWARD, "south", "service: orders", &lines);
    let lines: Vec<&str> = wanted.service.as_deref().into_iter().collect();
    (north, Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &lines))
}

fn begin(pair: &mut Pair, wanted: &Wanted) {
    let (north, south) = plans(pair, wanted);
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
}

fn forward_tls((certificate, key): &(String, String), more: &str) -> Option<String> {
    Some(format!("tls: {{certificate_file: {certificate}, key_file: {key}{more}}}"))
}

fn service_tls(ca: &str, more: &str) -> Option<String> {
    Some(format!("tls: {{ca_file: {ca}, server_name: localhost{more}}}"))
}

fn closed(site: &Site, reason: &str) -> u64 {
    let count = &site.health_of("forwards", "orders")["closed"][reason];
    count.as_u64().unwrap_or(0)
}

fn pass_over_tls_at_both_ends(stored: bool) {
    let mut pair = Pair::unstarted();
    let (north_ca, south_ca) = (Authority::new("north"), Authority::new("south"));
    let ca = north_ca.write(&pair.north, "ca.pem");
    let trusted = south_ca.write(&pair.south, "ca.pem");
    let forward = forward_tls(&north_ca.issue(&pair.north, "site", "localhost", 90), "");
    let (certificate, key) = south_ca.issue(&pair.south, "receiver", "localhost", 90);
    let receiver = Receiver::start(&pair.south, TARGET, &format!("--cert {certificate} --key {key}"));
    begin(&mut pair, &Wanted { stored, forward, service: service_tls(&trusted, "") });
    for (version, words) in [("1.2", ""), ("1.3", ""), ("1.3", "--pipelined")] {
        let lines = send(&pair.north, FORWARD, &format!("--ca {ca} --count 10 --version {version} {words}"));
        let mut expected = vec![format!("AA TLSv{version}"); 10];
        expected.push("goodbye".to_owned());
        assert_eq!(lines, expected);
    }
    let large = message("LARGE", 3_000_000);
    let file = payload_file(&pair.north.dir, &large);
    assert_eq!(send(&pair.north, FORWARD, &format!("--ca {ca} --file {file}")), ["AA TLSv1.3", "goodbye"]);
    until(SOON, "all are delivered", || (receiver.payloads().len() == 31).then_some(()));
    assert!(receiver.payloads()[30] == large, "every byte is as it was");
    assert_eq!(receiver.log(), "listens\n", "no session was cut off");
    assert_eq!(pair.north.health_of("forwards", "orders")["unknown_outcomes_total"], 0);
}

fn messages_pass_over_tls_at_both_ends_transparent() {
    pass_over_tls_at_both_ends(false);
}

fn messages_pass_over_tls_at_both_ends_stored() {
    pass_over_tls_at_both_ends(true);
}

fn a_half_closed_sender_gets_its_answer_over_tls_in_both_deliveries() {
    for stored in [false, true] {
        let mut pair = Pair::unstarted();
        let authority = Authority::new("both");
        let ca = authority.write(&pair.north, "ca.pem");
        let trusted = authority.write(&pair.south, "ca.pem");
        let forward = forward_tls(&authority.issue(&pair.north, "site", "localhost", 90), "");
        let (certificate, key) = authority.issue(&pair.south, "receiver", "localhost", 90);
        let receiver = Receiver::start(&pair.south, TARGET, &format!("--cert {certificate} --key {key}"));
        begin(&mut pair, &Wanted { stored, forward, service: service_tls(&trusted, "") });
        for version in ["1.2", "1.3"] {
            let lines = send_half(&pair.north, FORWARD, &format!("--ca {ca} --version {version}"));
            assert_eq!(lines, [format!("AA TLSv{version}"), "goodbye".to_owned()], "stored: {stored}");
        }
        until(SOON, "both are delivered", || (receiver.payloads().len() == 2).then_some(()));
        assert_eq!(receiver.log(), "listens\n", "stored: {stored}");
    }
}

/// Counts idle connections in the measurement of their memory.
const IDLE: usize = 400;

fn an_idle_connection_over_tls_costs_little_memory() {
    let mut each = Vec::new();
    for tls in [false, true] {
        let mut pair = Pair::unstarted();
        let authority = Authority::new("north");
        let ca = if tls { authority.write(&pair.north, "ca.pem") } else { String::new() };
        let identity = authority.issue(&pair.north, "site", "localhost", 90);
        let forward = if tls { forward_tls(&identity, "") } else { None };
        begin(&mut pair, &Wanted { stored: true, forward, service: None });
        let warm = hold(&pair.north, FORWARD, 50, &ca);
        let before = pair.north.program().memory_now_bytes();
        let held = hold(&pair.north, FORWARD, IDLE, &ca);
        let after = pair.north.program().memory_now_bytes();
        each.push(after.saturating_sub(before) / IDLE as u64);
        drop((warm, held));
    }
    eprintln!("an idle sender in stored delivery: {} bytes plain, {} bytes over TLS", each[0], each[1]);
    assert!(each[1] < 32 << 10, "{each:?}");
}

fn a_sender_of_tls_1_1_or_of_plain_mllp_is_refused_and_counted_by_kind() {
    let mut pair = Pair::unstarted();
    let authority = Authority::new("north");
    let ca = authority.write(&pair.north, "ca.pem");
    let forward = forward_tls(&authority.issue(&pair.north, "site", "localhost", 90), "");
    begin(&mut pair, &Wanted { stored: false, forward, service: None });
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let refused = send(&pair.north, FORWARD, &format!("--ca {ca} --version 1.1"));
    assert!(refused[0].starts_with("SSLError"), "{refused:?}");
    let mut plain = pair.sender();
    plain.send(&message("plain", 300)).expect("open");
    assert_eq!(plain.answer(SOON), Err(Lost::Closed));
    until(SOON, "both are counted", || {
        (closed(&pair.north, "tls_too_old") == 1 && closed(&pair.north, "tls_not_spoken") == 1).then_some(())
    });
    let log = pair.north.log();
    assert!(log.contains("turn TLS 1.2 on there") && log.contains("it speaks plain MLLP; turn TLS on there"), "{log}");
    assert!(receiver.payloads().is_empty());
    assert_eq!(send(&pair.north, FORWARD, &format!("--ca {ca}")), ["AA TLSv1.3", "goodbye"]);
}

fn a_sender_of_tls_at_a_plain_port_is_told_of_in_the_log() {
    let pair = Pair::start(&[]);
    let ca = Authority::new("north").write(&pair.north, "ca.pem");
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    for _ in 0..3 {
        let refused = send(&pair.north, FORWARD, &format!("--ca {ca}"));
        assert_eq!(refused.len(), 1, "{refused:?}");
    }
    until(SOON, "all are counted", || (closed(&pair.north, "tls") == 3).then_some(()));
    assert_eq!(pair.north.log().matches("it speaks TLS and the forward does not").count(), 1, "once a minute");
}

fn only_senders_with_a_certificate_of_the_named_issuer_are_let_in() {
    let mut pair = Pair::unstarted();
    let (authority, other) = (Authority::new("north"), Authority::new("stranger"));
    let ca = authority.write(&pair.north, "ca.pem");
    let identity = authority.issue(&pair.north, "site", "localhost", 90);
    let forward = forward_tls(&identity, &format!(", client_ca_file: {ca}"));
    begin(&mut pair, &Wanted { stored: true, forward, service: None });
    let sends = |shown: Option<(String, String)>, version: &str| {
        let shown = shown.map(|(certificate, key)| format!("--cert {certificate} --key {key}")).unwrap_or_default();
        send(&pair.north, FORWARD, &format!("--ca {ca} --version {version} {shown}"))
    };
    for version in ["1.2", "1.3"] {
        let ours = authority.issue(&pair.north, "ours", "his", 90);
        assert_eq!(sends(Some(ours), version), [format!("AA TLSv{version}"), "goodbye".to_owned()]);
        for shown in [None, Some(other.issue(&pair.north, "theirs", "his", 90))] {
            let lines = sends(shown, version);
            assert!(lines.len() == 1 && !lines[0].starts_with("AA"), "{lines:?}");
        }
        let late = sends(Some(authority.issue(&pair.north, "late", "his", -1)), version);
        assert!(late.len() == 1 && !late[0].starts_with("AA"), "{late:?}");
    }
    until(SOON, "all are counted", || {
        let of = |reason| closed(&pair.north, reason);
        let counted = (of("tls_certificate_required"), of("tls_not_trusted"), of("tls_expired"));
        (counted == (2, 2, 2)).then_some(())
    });
    assert_eq!(pair.north.health_of("forwards", "orders")["messages_total"], 2);
}

fn a_receiver_that_is_not_the_one_that_is_meant_gets_no_message() {
    let mut pair = Pair::unstarted();
    let (authority, other) = (Authority::new("south"), Authority::new("stranger"));
    let strange = other.write(&pair.south, "strange.pem");
    let ca = authority.write(&pair.south, "ca.pem");
    let (certificate, key) = authority.issue(&pair.south, "receiver", "localhost", 90);
    let receiver = Receiver::start(&pair.south, TARGET, &format!("--cert {certificate} --key {key}"));
    let mut wanted = Wanted { stored: true, forward: None, service: service_tls(&strange, "") };
    begin(&mut pair, &wanted);
    assert_eq!(stored_intake::send(&pair, "W1"), "AA W1");
    let cause = |pair: &Pair, text: &str| {
        until(SOON, "the cause is told", || {
            let entry = pair.south.health_of("services", "orders");
            entry["cause"].as_str().is_some_and(|cause| cause.contains(text)).then_some(())
        });
    };
    cause(&pair, "shows a certificate that none in ca_file issued");
    wanted.service = Some(format!("tls: {{ca_file: {ca}, server_name: other.example}}"));
    take_up(&pair.south, &plans(&pair, &wanted).1);
    cause(&pair, "shows a certificate for another name than server_name");
    assert!(receiver.payloads().is_empty(), "{}", receiver.log());
    wanted.service = service_tls(&ca, "");
    take_up(&pair.south, &plans(&pair, &wanted).1);
    until(SOON, "the message is delivered", || (receiver.payloads().len() == 1).then_some(()));
    assert_eq!(pair.south.health_of("services", "orders")["in_doubt_total"], 0);
}

fn what_a_receiver_does_wrong_is_not_told_of_its_sender() {
    let mut pair = Pair::unstarted();
    let (authority, other) = (Authority::new("south"), Authority::new("stranger"));
    let strange = other.write(&pair.south, "strange.pem");
    let (certificate, key) = authority.issue(&pair.south, "receiver", "localhost", 90);
    let _receiver = Receiver::start(&pair.south, TARGET, &format!("--cert {certificate} --key {key}"));
    let wanted = Wanted { stored: false, forward: None, service: service_tls(&strange, "") };
    let (_, south) = plans(&pair, &wanted);
    let north = Plan::of(&pair.north).peer(&pair.south);
    pair.south.start(&south);
    pair.north.start(&north.forward("orders", FORWARD, "south", "service: orders", &["on_unreachable: close"]));
    pair.is_linked();
    let _sender = Sender::connect(&pair.north.namespace, FORWARD).expect("the forward listens");
    until(SOON, "it is closed", || (closed(&pair.north, "tls_not_trusted") == 1).then_some(()));
    assert!(!pair.north.log().contains("cannot serve a sender"), "{}", pair.north.log());
}

fn a_receiver_that_requires_a_certificate_is_shown_one() {
    let mut pair = Pair::unstarted();
    let (authority, other) = (Authority::new("south"), Authority::new("stranger"));
    let ca = authority.write(&pair.south, "ca.pem");
    let (certificate, key) = authority.issue(&pair.south, "receiver", "localhost", 90);
    let words = format!("--cert {certificate} --key {key} --ca {ca}");
    let receiver = Receiver::start(&pair.south, TARGET, &words);
    let mut wanted = Wanted { stored: true, forward: None, service: service_tls(&ca, "") };
    begin(&mut pair, &wanted);
    assert_eq!(stored_intake::send(&pair, "W1"), "AA W1");
    let shows = |(certificate, key): (String, String)| format!(", certificate_file: {certificate}, key_file: {key}");
    let cause = |pair: &Pair, text: &str| {
        until(SOON, "the cause is told", || {
            let entry = pair.south.health_of("services", "orders");
            entry["cause"].as_str().is_some_and(|cause| cause.contains(text)).then_some(())
        });
    };
    cause(&pair, "requires a certificate");
    wanted.service = service_tls(&ca, &shows(other.issue(&pair.south, "strange", "wardlink", 90)));
    take_up(&pair.south, &plans(&pair, &wanted).1);
    cause(&pair, "does not accept the certificate in tls.certificate_file");
    wanted.service = service_tls(&ca, &shows(authority.issue(&pair.south, "ours", "wardlink", 90)));
    take_up(&pair.south, &plans(&pair, &wanted).1);
    until(SOON, "the message is delivered", || (receiver.payloads().len() == 1).then_some(()));
    assert_eq!(pair.south.health_of("services", "orders")["in_doubt_total"], 0, "nothing was sent before");
}

fn a_certificate_that_a_receiver_made_for_itself_is_trusted_where_it_is_listed() {
    let mut pair = Pair::unstarted();
    let path = |file: &str| pair.south.dir.join(file).display().to_string();
    let (certificate, key, other) = (path("own.pem"), path("own.key"), path("other.pem"));
    let make = |certificate: &str, key: &str| {
        let names = "-subj /CN=lis -addext subjectAltName=DNS:localhost";
        pair.south.namespace.must(&format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 90 {names} -out {certificate} -keyout {key}"
        ));
    };
    make(&certificate, &key);
    make(&other, &path("other.key"));
    let receiver = Receiver::start(&pair.south, TARGET, &format!("--cert {certificate} --key {key}"));
    let mut wanted = Wanted { stored: true, forward: None, service: service_tls(&other, "") };
    begin(&mut pair, &wanted);
    assert_eq!(stored_intake::send(&pair, "W1"), "AA W1");
    until(SOON, "it is counted", || {
        let closed = pair.south.metric("service_closed_connections_total", "reason=\"tls_not_trusted\"");
        (closed > 0.5).then_some(())
    });
    wanted.service = service_tls(&certificate, "");
    take_up(&pair.south, &plans(&pair, &wanted).1);
    until(SOON, "the message is delivered", || (receiver.payloads().len() == 1).then_some(()));
}

#[track_caller]
fn take_up(site: &Site, plan: &Plan) {
    site.write(plan);
    let (code, text) = reload(site);
    assert_eq!(code, Some(0), "{text}");
}

fn reload(site: &Site) -> (Option<i32>, String) {
    let words = site.command(&["reload", "--socket", &site.dir.join("control.sock").display().to_string()]);
    let output = site.namespace.output(&words.join(" "));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn a_reload_takes_up_new_certificates_and_open_connections_go_on() {
    let mut pair = Pair::unstarted();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (old_ca, new_ca) = (old.write(&pair.north, "old.pem"), new.write(&pair.north, "new.pem"));
    let forward = forward_tls(&old.issue(&pair.north, "site", "localhost", 90), "");
    begin(&mut pair, &Wanted { stored: true, forward, service: None });
    let go = pair.north.dir.join("go").display().to_string();
    let open = start(&pair.north, FORWARD, &format!("--ca {old_ca} --count 2 --wait {go}"));
    until(SOON, "the first message is there", || open.log().starts_with("AA").then_some(()));
    // the file is another, the configuration is not
    new.issue(&pair.north, "site", "localhost", 60);
    pair.north.program().signal(Signal::SIGHUP);
    until(SOON, "it is taken up", || pair.north.log().contains("reloaded").then_some(()));
    assert!(pair.north.log().contains("forwards: 1 changed (orders)"), "{}", pair.north.log());
    assert_eq!(send(&pair.north, FORWARD, &format!("--ca {new_ca}")), ["AA TLSv1.3", "goodbye"]);
    assert_eq!(send(&pair.north, FORWARD, &format!("--ca {old_ca}")).len(), 1, "the old one is gone");
    fs::write(&go, "").expect("written");
    until(SOON, "the open one goes on", || (open.log() == "AA TLSv1.3\nAA TLSv1.3\ngoodbye\n").then_some(()));
    let (code, text) = reload(&pair.north);
    assert_eq!((code, text.as_str()), (Some(0), "reloaded: nothing changed\n"));
}

fn a_bad_certificate_changes_nothing_at_a_reload_and_is_told_by_check_config() {
    let mut pair = Pair::unstarted();
    let authority = Authority::new("north");
    let forward = forward_tls(&authority.issue(&pair.north, "site", "localhost", 90), "");
    begin(&mut pair, &Wanted { stored: true, forward, service: None });
    let site = &pair.north;
    let (pem, key) = (site.dir.join("site.pem"), site.dir.join("site.key"));
    let good = (fs::read(&pem).expect("a file"), fs::read_to_string(&key).expect("a file"));
    let refused = |what: &str| {
        let (code, text) = reload(site);
        assert!(code != Some(0) && text.contains(what), "{code:?} {text}");
        let words = site.command(&["check-config", "-c", &site.config_path()]).join(" ");
        let output = site.namespace.output(&words);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(text.contains(what), "{text}");
        assert!(text.contains("wardlink.yaml:") && text.contains("forwards[0].tls."), "{text}");
        assert!(!text.contains("PRIVATE KEY-----"), "{text}");
    };
    let other = authority.issue(site, "other", "localhost", 90);
    write_secret(&key, &fs::read_to_string(other.1).expect("a file"));
    refused("holds the private key of another certificate than certificate_file");
    write_secret(&key, &good.1);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    refused("has mode 0644, so that others may read or change it; run: chmod 0600");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
    let encrypt =
        format!("openssl pkcs8 -topk8 -in {} -passout pass:x -out {}", key.display(), site.dir.join("e").display());
    site.namespace.must(&encrypt);
    write_secret(&key, &fs::read_to_string(site.dir.join("e")).expect("a file"));
    refused("holds an encrypted private key");
    write_secret(&key, &good.1);
    fs::write(&pem, "nothing").expect("written");
    refused("holds no certificate in PEM");
    fs::remove_file(&pem).expect("there");
    refused("does not exist; write the path of a file in PEM");
    authority.issue(site, "site", "localhost", -1);
    refused("expired at");
    let served = send_over(site, &authority);
    assert_eq!(served, ["AA TLSv1.3", "goodbye"], "the one before is still in use");
    fs::write(&pem, &good.0).expect("written");
    write_secret(&key, &good.1);
    let (code, text) = reload(site);
    assert_eq!((code, text.as_str()), (Some(0), "reloaded: nothing changed\n"));
}

fn send_over(site: &Site, authority: &Authority) -> Vec<String> {
    let ca = authority.write(site, "ca.pem");
    send(site, FORWARD, &format!("--ca {ca}"))
}

fn a_certificate_that_expires_soon_is_noted_and_an_expired_one_degrades() {
    let mut pair = Pair::unstarted();
    let authority = Authority::new("north");
    let forward = forward_tls(&authority.issue(&pair.north, "site", "localhost", 20), "");
    let wanted = Wanted { stored: true, forward, service: None };
    begin(&mut pair, &wanted);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    let note = |entry: &serde_json::Value| entry["certificates"][0]["note"].as_str().unwrap_or_default().to_owned();
    let entry = pair.north.health_of("forwards", "orders");
    assert!(note(&entry).contains("expires in 19 days"), "{entry}");
    assert!(entry["cause"].as_str().is_none_or(|cause| !cause.contains("expire")), "a warning is no fault: {entry}");
    let warnings = || pair.north.log().matches("a certificate expires soon").count();
    assert_eq!(warnings(), 1, "{}", pair.north.log());
    take_up(&pair.north, &plans(&pair, &wanted).0);
    until(SOON, "it is told at a reload", || (warnings() == 2).then_some(()));
    let left = pair.north.metric("certificate_expiry_timestamp_seconds", "forward=\"orders\"");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!((19.9..20.1).contains(&((left - now) / 86400.0)), "{left}");
    pair.north.terminate();
    pair.north.program().wait(SOON);
    authority.issue(&pair.north, "site", "localhost", -2);
    pair.north.restart();
    pair.is_linked();
    let words = pair.north.command(&["status", "--socket", &pair.north.dir.join("control.sock").display().to_string()]);
    until(SOON, "it is degraded", || {
        let entry = pair.north.health_of("forwards", "orders");
        let cause = entry["cause"].as_str()?;
        (entry["status"] == "degraded" && cause.contains("expired at")).then_some(())
    });
    let shown = pair.north.namespace.output(&words.join(" "));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("expired at"), "{shown:?}");
}
