//! Health and the status page beyond loopback: over TLS, for who has the token or a certificate, asked by curl from another
//! site's network.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::mllp::MARKER;
use crate::harness::pair::{Pair, loopback};
use crate::harness::plan::Plan;
use crate::harness::process::Process;
use crate::harness::site::{Site, write_secret};
use crate::harness::tls::Authority;
use crate::harness::{tests, until};
use crate::peers::program;

tests![
    who_has_the_token_is_answered_over_tls_and_nobody_else needs "curl",
    who_has_a_certificate_of_the_issuer_is_answered needs "curl",
    beyond_loopback_the_configuration_says_who_may_ask,
    a_browser_shows_the_page_over_tls_for_the_token needs "chromium" "node" "peer:playwright-core" "peer:axe-core",
];

/// Bounds what a site does by itself.
const SOON: Duration = Duration::from_secs(15);
/// Bounds a step of the browser on a machine that is busy.
const STEP_LIMIT: Duration = Duration::from_secs(30);
const TOKEN: &str = "q7Xv9+2mLrT4/kE8zWc0Nf5HbYs3Jd6GpA1uRoQiVxM=";

/// Is a site that is asked from beyond, and who issued its certificate.
struct Gateway {
    pair: Pair,
    authority: Authority,
    ca: String,
}

fn plan(pair: &Pair, (certificate, key): &(String, String), more: &str, token: bool) -> Plan {
    let plan =
        Plan::of(&pair.north).peer(&pair.south).forward("orders", loopback(2575), "south", "service: orders", &[]);
    let plan = plan.health_at(SocketAddr::new(pair.north.outer.into(), 9575));
    let plan = plan.health(&format!("tls: {{certificate_file: {certificate}, key_file: {key}{more}}}"));
    let file = pair.north.dir.join("health.token");
    if token { plan.health(&format!("token_file: {}", file.display())) } else { plan }
}

fn start(more: &str, token: bool) -> Gateway {
    let mut pair = Pair::unstarted();
    let authority = Authority::new("hospital");
    let ca = authority.write(&pair.south, "ca.pem");
    write_secret(&pair.north.dir.join("health.token"), TOKEN);
    let issued = authority.issue(&pair.north, "health", "gateway.example", 90);
    let plan = plan(&pair, &issued, more, token);
    pair.north.write(&plan);
    pair.north.launch();
    Gateway { pair, authority, ca }
}

impl Gateway {
    /// Has curl ask; returns the status code, 0 where there was no answer, and what it printed.
    fn curl(&self, url: &str, words: &str) -> (u32, String) {
        let outer = self.pair.north.outer;
        let line = format!(
            "curl -sS --max-time 10 --resolve gateway.example:9575:{outer} --cacert {} -w %{{stderr}}CODE=%{{http_code}} \
             {words} {url}",
            self.ca
        );
        let output = self.pair.south.namespace.output(&line);
        let (body, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let code = said.rsplit_once("CODE=").and_then(|(_, code)| code.trim().parse().ok()).unwrap_or(0);
        (code, format!("{body}{said}"))
    }

    fn is_up(&self) {
        until(SOON, "it listens", || (self.curl("https://gateway.example:9575/livez", "").0 == 200).then_some(()));
    }
}

/// Runs a command of wardlink at the site; returns its exit code and what it printed.
fn command(site: &Site, words: &[&str]) -> (Option<i32>, String) {
    let output = site.namespace.output(&site.command(words).join(" "));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn reload(site: &Site) -> (Option<i32>, String) {
    command(site, &["reload", "--socket", &site.dir.join("control.sock").display().to_string()])
}

fn who_has_the_token_is_answered_over_tls_and_nobody_else() {
    let mut gateway = start("", true);
    gateway.is_up();
    let right = format!("--oauth2-bearer {TOKEN}");
    for path in ["healthz", "metrics", "healthz/forwards/orders", ""] {
        let url = format!("https://gateway.example:9575/{path}");
        assert_eq!(gateway.curl(&url, "").0, 401, "{path}");
        assert_eq!(gateway.curl(&url, "--oauth2-bearer guessed").0, 401, "{path}");
        let (code, body) = gateway.curl(&url, &right);
        // the far site is not there: health says so by its code
        assert!(matches!(code, 200 | 503) && !body.contains(TOKEN), "{path}: {code} {body}");
    }
    let (_, metrics) = gateway.curl("https://gateway.example:9575/metrics", &right);
    let expiry = "wardlink_certificate_expiry_timestamp_seconds{of=\"health\",role=\"certificate\"";
    assert!(metrics.contains(expiry), "{metrics}");
    assert_eq!(gateway.curl("https://gateway.example:9575/readyz", "").0, 200);
    // a name of somebody else's that leads here
    let (code, _) = gateway.curl("https://gateway.example:9575/healthz", &format!("{right} -H Host:evil.example"));
    assert_eq!(code, 421);
    let (code, body) = gateway.curl("http://gateway.example:9575/healthz", &right);
    assert!(code == 400 && body.starts_with("this port speaks TLS: ask for it with https://"), "{code} {body}");
    let socket = gateway.pair.north.dir.join("control.sock").display().to_string();
    let (code, status) = command(&gateway.pair.north, &["status", "--socket", &socket]);
    assert!(code.is_some_and(|code| code < 3) && status.contains("orders"), "{code:?} {status}");
    let (_, checked) = command(&gateway.pair.north, &["check", "--socket", &socket]);
    assert!(checked.starts_with("WARDLINK "), "{checked}");
    // another token and another certificate, while it runs
    let other = Authority::new("other");
    gateway.ca = other.write(&gateway.pair.south, "other.pem");
    other.issue(&gateway.pair.north, "health", "gateway.example", 10);
    let new = TOKEN.to_uppercase();
    write_secret(&gateway.pair.north.dir.join("health.token"), &new);
    let (code, text) = reload(&gateway.pair.north);
    assert_eq!((code, text.as_str()), (Some(0), "reloaded: health changed: its certificates or its token\n"));
    let url = "https://gateway.example:9575/healthz";
    assert_eq!(gateway.curl(url, &right).0, 401);
    let (_, body) = gateway.curl(url, &format!("--oauth2-bearer {new}"));
    assert!(body.contains("health.pem expires in 9 days: have it issued anew"), "{body}");
    other.issue(&gateway.pair.north, "health", "gateway.example", -1);
    let (code, text) = reload(&gateway.pair.north);
    assert!(code != Some(0) && text.contains("health: the certificate in"), "{code:?} {text}");
    let log = gateway.pair.north.log();
    assert!(log.contains("a certificate expires soon") && log.contains("what=health"), "{log}");
    assert!(log.contains("wrong_token") && log.contains("tls_not_spoken"), "{log}");
    assert!(!log.contains(TOKEN) && !log.contains(&new) && !log.contains("guessed"), "{log}");
}

fn who_has_a_certificate_of_the_issuer_is_answered() {
    let mut gateway = start("", true);
    let clients = Authority::new("clients");
    let client_ca = clients.write(&gateway.pair.north, "clients.pem");
    let issued = gateway.authority.issue(&gateway.pair.north, "health", "gateway.example", 90);
    gateway.is_up();
    // the certificate in place of the token, while it runs
    let plan = plan(&gateway.pair, &issued, &format!(", client_ca_file: {client_ca}"), false);
    gateway.pair.north.write(&plan);
    let (code, text) = reload(&gateway.pair.north);
    assert_eq!(code, Some(0), "{text}");
    let url = "https://gateway.example:9575/metrics";
    let shown = |authority: &Authority, file: &str, days: i64| {
        let (certificate, key) = authority.issue(&gateway.pair.south, file, "prometheus", days);
        format!("--cert {certificate} --key {key}")
    };
    let (code, body) = gateway.curl(url, &shown(&clients, "client", 90));
    assert!(code == 200 && body.contains("# EOF"), "{code} {body}");
    assert_eq!(gateway.curl(url, "").0, 0, "no certificate");
    assert_eq!(gateway.curl(url, &shown(&gateway.authority, "stranger", 90)).0, 0, "another issuer's");
    assert_eq!(gateway.curl(url, &shown(&clients, "old", -1)).0, 0, "one that has expired");
    let log = gateway.pair.north.log();
    assert!(log.contains("tls_certificate_required") && log.contains("tls_not_trusted"), "{log}");
    gateway.pair.north.terminate();
}

fn beyond_loopback_the_configuration_says_who_may_ask() {
    let pair = Pair::unstarted();
    let issued = Authority::new("hospital").issue(&pair.north, "health", "gateway.example", 90);
    let plan = plan(&pair, &issued, "", true);
    pair.north.write(&plan);
    let check = || command(&pair.north, &["check-config", "-c", &pair.north.config_path()]);
    let file = pair.north.dir.join("health.token");
    let (code, text) = check();
    assert!(code == Some(64) && text.contains("health.token does not exist; make it: (umask 077;"), "{text}");
    for (token, what) in [("secret", "can be guessed"), ("two words", "does not hold a token")] {
        write_secret(&file, token);
        let (code, text) = check();
        assert!(code == Some(64) && text.contains(what) && !text.contains(token), "{text}");
    }
    fs::write(&file, TOKEN).expect("written");
    let (code, _) = check();
    assert_eq!(code, Some(0));
    pair.north.namespace.must(&format!("chmod 0640 {}", file.display()));
    let (code, text) = check();
    assert!(code == Some(64) && text.contains("run: chmod 0600") && !text.contains(TOKEN), "{text}");
}

fn a_browser_shows_the_page_over_tls_for_the_token() {
    let mut gateway = start("", true);
    let shots = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/status-page");
    fs::create_dir_all(&shots).expect("a directory");
    let url = format!("https://{}:9575/", gateway.pair.north.outer);
    let words = program("status_page_tls.js", &[&url, &shots.display().to_string(), TOKEN, MARKER]);
    let mut browser =
        Process::start(&gateway.pair.south.namespace, &words, &gateway.pair.south.dir.join("browser.log"));
    until(STEP_LIMIT, "LIVE", || {
        let log = browser.log();
        assert!(!log.contains("FAILED") && (log.contains("LIVE") || browser.ended().is_none()), "{log}");
        log.contains("LIVE").then_some(())
    });
    // the token changes: the page that is open asks for it
    write_secret(&gateway.pair.north.dir.join("health.token"), &TOKEN.to_uppercase());
    assert_eq!(reload(&gateway.pair.north).0, Some(0));
    gateway.pair.north.kill();
    gateway.pair.north.launch();
    let (status, _) = browser.wait(STEP_LIMIT);
    assert!(status.success() && browser.log().contains("ASKED"), "{}", browser.log());
}
