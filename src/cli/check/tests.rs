//! Tests of what `check` says and exits with.

use serde_json::json;

use super::limits::{self, Figure, Limit};
use super::verdict::{State, Status, judge};
use crate::health;

fn limit(text: &str) -> Limit {
    limits::parse(text).expect("a limit")
}

fn site(mut change: impl FnMut(&mut serde_json::Value)) -> Status {
    let mut status = json!({
        "site": "north", "status": "ok", "unready": [],
        "peers": [{"name": "city-lab", "status": "ok", "set_by": "config", "latest_handshake_age_seconds": 30.5}],
        "forwards": [
            {"name": "orders", "status": "ok", "peer": "city-lab", "connections": 2, "queue_depth": 7,
             "parked_messages": 0, "oldest_queued_age_seconds": 61.25},
            {"name": "images", "status": "unknown", "peer": "city-lab", "connections": 0},
        ],
        "services": [{"name": "results", "status": "ok"}],
    });
    change(&mut status);
    serde_json::from_value(status).expect("a status")
}

fn told(status: &Status, forward: Option<&str>, warning: &[&str], critical: &[&str]) -> (State, String) {
    let limits = |texts: &[&str]| texts.iter().map(|text| limit(text)).collect::<Vec<_>>();
    let verdict = judge(status, forward, &limits(warning), &limits(critical), *health::fixture::NOW);
    (verdict.state, verdict.to_string())
}

#[test]
fn what_is_well_is_ok_with_figures() {
    let (state, line) = told(&site(|_| {}), None, &[], &[]);
    assert_eq!(state, State::Ok);
    assert_eq!(
        line,
        "WARDLINK OK: north: 2 forwards, 1 service, nothing known yet of images | 'orders queue_depth'=7;;;0 \
         'orders parked'=0;;;0 'orders oldest_queued_age'=61.250s;;;0 'orders connections'=2;;;0 \
         'images connections'=0;;;0 'city-lab handshake_age'=30.500s;;;0"
    );
}

#[test]
fn what_health_serves_is_understood() {
    let facts = health::fixture::site();
    let report = health::state::assess(&facts, *health::fixture::NOW);
    let status: Status = serde_json::from_value(serde_json::to_value(report).expect("JSON")).expect("understood");
    let (state, line) = told(&status, None, &[], &[]);
    assert_eq!(state, State::Ok, "{line}");
    assert!(line.contains("'city-lab handshake_age'="), "{line}");
}

#[test]
fn a_spool_that_is_being_opened_is_no_fault_and_one_that_is_not_opened_in_time_is_named() {
    let check = |seconds| {
        let mut facts = health::fixture::site();
        facts.forwards.push(health::fixture::stored());
        let queue = facts.forwards[2].queue.as_mut().expect("a queue");
        queue.state = health::facts::Queue::Opening;
        queue.onsets.opening = Some(health::fixture::ago(seconds));
        let report = health::state::assess(&facts, *health::fixture::NOW);
        let status: Status = serde_json::from_value(serde_json::to_value(report).expect("JSON")).expect("understood");
        told(&status, None, &[], &[])
    };
    let (state, line) = check(1);
    assert_eq!(state, State::Ok, "{line}");
    assert!(line.contains("nothing known yet of results"), "{line}");
    let (state, line) = check(10);
    assert_eq!(state, State::Critical, "{line}");
    assert!(line.contains("results: the spool is being opened, and messages are refused"), "{line}");
}

#[test]
fn what_a_restart_would_not_find_is_a_warning_in_the_words_of_status() {
    let mut facts = health::fixture::site();
    let cause = "the spool's key is gone: restore that very file".to_owned();
    facts.files = vec![health::facts::FileFault { since: health::fixture::ago(60), cause }];
    let report = health::state::assess(&facts, *health::fixture::NOW);
    let status: Status = serde_json::from_value(serde_json::to_value(report).expect("JSON")).expect("understood");
    let (state, line) = told(&status, None, &[], &[]);
    assert_eq!(state, State::Warning, "{line}");
    assert!(line.contains("the spool's key is gone: restore that very file (since 2026-11-22T13:59:00Z)"), "{line}");
}

#[test]
fn a_cause_that_keeps_the_site_from_its_part_is_said_once() {
    let status = site(|status| {
        status["forwards"][0]["status"] = json!("down");
        status["forwards"][0]["cause"] = json!("spool: the disk is full");
        status["unready"] = json!(["forward orders: spool: the disk is full", "the interface is gone"]);
    });
    let (state, line) = told(&status, None, &[], &[]);
    let said = line.split(" | ").next().unwrap_or_default();
    assert_eq!(
        (state, said),
        (State::Critical, "WARDLINK CRITICAL: the interface is gone; orders: spool: the disk is full")
    );
}

#[test]
fn a_timeout_is_a_time() {
    for (text, milliseconds) in [("5", 5_000), ("5s", 5_000), ("1m", 60_000), ("250ms", 250)] {
        assert_eq!(limits::time(text), Ok(std::time::Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "0", "-1", "soon", "1h", "4294967296"] {
        assert!(limits::time(text).is_err_and(|error| error.starts_with("write 5")), "{text}");
    }
}

#[test]
fn a_limit_makes_it_worse_from_its_value_on() {
    let status = site(|_| {});
    assert_eq!(told(&status, None, &["queue_depth=8"], &[]).0, State::Ok);
    let (state, line) = told(&status, None, &["queue_depth=7"], &["queue_depth=8"]);
    assert_eq!(state, State::Warning);
    assert!(line.starts_with("WARDLINK WARNING: orders queue_depth is 7, limit 7 |"), "{line}");
    assert!(line.contains("'orders queue_depth'=7;7;8;0"), "{line}");
    let (state, line) = told(&status, None, &["oldest_queued_age=10s"], &["oldest_queued_age=1m"]);
    assert_eq!(state, State::Critical);
    assert!(line.contains("orders oldest_queued_age is 61s, limit 60s"), "{line}");
}

#[test]
fn the_worst_is_told_first_on_one_line() {
    let status = site(|status| {
        status["forwards"][0]["status"] = json!("down");
        status["forwards"][0]["cause"] = json!("receiver\nrefuses | at city-lab");
        status["forwards"][0]["since"] = json!("2026-01-01T14:02:00Z");
        status["forwards"][1]["status"] = json!("degraded");
        status["forwards"][1]["cause"] = json!("parked");
        status["unready"] = json!(["fault 0", "fault 1", "fault 2"]);
    });
    let (state, line) = told(&status, None, &[], &[]);
    assert_eq!(state, State::Critical);
    assert!(line.starts_with("WARDLINK CRITICAL: fault 0; fault 1; fault 2; and 2 more |"), "{line}");
    let (state, line) = told(&status, Some("orders"), &[], &[]);
    assert_eq!(state, State::Critical);
    let head = "WARDLINK CRITICAL: orders: receiver refuses / at city-lab (since 2026-01-01T14:02:00Z) | 'orders ";
    assert!(line.starts_with(head) && !line.contains('\n') && line.contains("'city-lab handshake_age'"), "{line}");
    assert_eq!(told(&status, Some("images"), &[], &[]).0, State::Warning);
}

#[test]
fn what_only_the_site_itself_has_is_no_ok() {
    let mut facts = health::fixture::site();
    let since = *health::fixture::NOW;
    let fault = |cause: &str| Some(health::facts::FailedAudit { since, cause: cause.to_owned() });
    facts.audit.contradicted = fault("entry 2 is another one");
    facts.audit.peers = vec![health::facts::PeerLog { peer: "city-lab".into(), fault: fault("it ends at entry 4") }];
    let report = health::state::assess(&facts, since);
    let status: Status = serde_json::from_value(serde_json::to_value(report).expect("JSON")).expect("understood");
    let (state, line) = told(&status, None, &[], &[]);
    assert_eq!(state, State::Warning, "{line}");
    assert!(line.contains("the audit log is not as it was written: entry 2 is another one"), "{line}");
    assert!(line.contains("the audit log of city-lab is not what it was: it ends at entry 4"), "{line}");
    assert_eq!(told(&status, Some("orders"), &[], &[]).0, State::Ok, "its forwards are well");
    // A later version knows of faults that this one does not.
    for (word, wanted) in [("degraded", State::Warning), ("down", State::Critical)] {
        let (state, line) = told(&site(|status| status["status"] = json!(word)), None, &[], &[]);
        assert_eq!(state, wanted);
        assert!(line.contains(&format!("north is {word}: wardlink status says why")), "{line}");
    }
}

#[test]
fn what_was_down_before_a_restart_is_no_ok_and_no_alarm_is_left_out() {
    let raised = |alarm: &str, of: &str| {
        let (alarm, of) = (alarm.to_owned(), of.to_owned());
        site(move |status| {
            status["alarms"] =
                json!([{"alarm": alarm, "of": of, "since": "2026-01-01T14:02:00Z", "cause": "it refuses"}]);
            status["services"][0]["status"] = json!("unknown");
        })
    };
    let status = raised("down", "forward images");
    for forward in [Some("images"), None] {
        let (state, line) = told(&status, forward, &[], &[]);
        assert_eq!(state, State::Warning, "{line}");
        assert!(line.starts_with("WARDLINK WARNING: images: it refuses |"), "{line}");
    }
    assert_eq!(told(&status, Some("orders"), &[], &[]).0, State::Ok);
    assert_eq!(told(&raised("down", "service results"), None, &[], &[]).0, State::Warning);
    let (state, line) = told(&raised("silent", "forward images"), Some("images"), &[], &[]);
    assert_eq!(state, State::Ok);
    let said = "images: nothing was sent since the site started; alarm silent of forward images: it refuses |";
    assert!(line.contains(said), "{line}");
    let status = raised("nak_rate", "forward orders");
    let (state, line) = told(&status, Some("orders"), &[], &[]);
    assert!(
        state == State::Ok && line.contains("orders is ok; alarm nak_rate of forward orders: it refuses"),
        "{line}"
    );
    let (state, line) = told(&status, None, &[], &[]);
    assert!(state == State::Ok && line.contains("; alarm nak_rate of forward orders: it refuses |"), "{line}");
}

#[test]
fn a_limit_that_can_never_count_is_no_ok() {
    let status = site(|status| {
        status["started"] = json!("2026-11-22T13:59:00Z");
        status["forwards"][0]["delivery"] = json!("stored");
        status["forwards"][1]["delivery"] = json!("transparent");
        status["peers"][0]["latest_handshake_age_seconds"] = json!(null);
    });
    assert_eq!(told(&status, None, &["queue_depth=100"], &[]).0, State::Ok);
    for limit in ["queue_depth=1", "parked=1", "oldest_queued_age=1m"] {
        let (state, line) = told(&status, Some("images"), &[], &[limit]);
        assert_eq!(state, State::Unknown, "{line}");
        assert!(line.contains("images is transparent: leave the limit out"), "{line}");
    }
    let (state, line) = told(&status, Some("images"), &["last_ack_age=30s"], &["last_ack_age=1h"]);
    assert_eq!(state, State::Warning);
    assert!(line.contains("images: no answer came since the start 60s ago, limit of last_ack_age 30s"), "{line}");
    let (state, line) = told(&status, None, &[], &["handshake_age=1m"]);
    assert_eq!(state, State::Critical);
    assert!(line.contains("city-lab: there was no handshake since the start 60s ago"), "{line}");
    assert_eq!(told(&status, None, &["last_ack_age=61s"], &[]).0, State::Ok);
    let fault = |warning: &[&str], critical: &[&str]| {
        let limits = |texts: &[&str]| texts.iter().map(|text| limit(text)).collect::<Vec<_>>();
        limits::fault(&limits(warning), &limits(critical))
    };
    assert_eq!(fault(&["parked=1", "queue_depth=7"], &["queue_depth=7"]), None);
    let text = fault(&["queue_depth=8"], &["queue_depth=7"]).expect("a fault");
    assert!(text.starts_with("--warning queue_depth=8 is above --critical queue_depth=7"), "{text}");
    let text = fault(&[], &["parked=1", "parked=2"]).expect("a fault");
    assert!(text.starts_with("parked has two limits"), "{text}");
}

#[test]
fn a_forward_that_is_not_there_cannot_be_told() {
    let (state, line) = told(&site(|_| {}), Some("order"), &[], &[]);
    assert_eq!(state, State::Unknown);
    assert!(line.ends_with("no forward is named order at north; there are: orders, images"), "{line}");
    assert_eq!(
        told(&site(|status| status["forwards"][0]["status"] = json!("later")), None, &[], &[]).0,
        State::Unknown
    );
}

#[test]
fn limits_are_read_or_refused_with_what_to_write() {
    assert_eq!(limit("oldest_queued_age=5m"), Limit { figure: Figure::OldestQueuedAge, value: 300.0 });
    assert_eq!(limit("handshake_age=90").value, 90.0);
    for (text, wanted) in [
        ("queue_depth", "write FIGURE=VALUE"),
        ("depth=1", "the figures are queue_depth, parked"),
        ("queue_depth=many", "write queue_depth=1000"),
        ("last_ack_age=5x", "write last_ack_age=90s"),
        ("last_ack_age=", "write last_ack_age=90s"),
        ("last_ack_age=µ", "write last_ack_age=90s"),
    ] {
        let error = limits::parse(text).expect_err(text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}
