//! Tests of what `status` shows.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::watch;

use super::super::site::socket_of;
use super::*;
use crate::control::queue::QueueAnswer;
use crate::control::{self, Answers, Reloaded};
use crate::health;

fn args(socket: Option<PathBuf>, config: Option<PathBuf>, json: bool) -> Args {
    Args { site: SiteArgs { config, socket }, json, watch: false }
}

/// Asks a site that serves this status, in the only socket of its directory, as the arguments say.
async fn asked(status: serde_json::Value, json: bool) -> Result<String, StatusError> {
    let directory = TempDir::new().expect("directory");
    let listener = control::bind(&directory.path().join("site.sock")).expect("bind");
    let (_stop, stopped) = watch::channel(false);
    let answers = Answers {
        file: None,
        status: Arc::new(move || status.clone()),
        reload: Arc::new(|_| Box::pin(async { Reloaded::NotPermitted })),
        queue: Arc::new(|_, _| Box::pin(async { QueueAnswer::NotPermitted })),
    };
    let site = tokio::spawn(control::serve(listener, answers, stopped));
    let ask = move || shown(&args(None, None, json), directory.path(), None);
    let shown = tokio::task::spawn_blocking(ask).await.expect("no panic");
    site.abort();
    shown
}

#[tokio::test]
async fn what_health_says_is_what_is_shown() {
    let mut facts = health::fixture::site();
    let alarm = serde_json::json!({
        "alarm": "queue_age", "of": "forward orders", "since": "2026-11-22T13:00:00Z", "cause": "it waits for 1h",
    });
    facts.alarms = vec![serde_json::from_value(alarm).expect("an alarm")];
    let report = health::state::assess(&facts, *health::fixture::NOW);
    let status = serde_json::to_value(report).expect("serializes");
    let text = asked(status.clone(), false).await.expect("shown");
    assert!(text.starts_with("north-hospital: ok (wardlink 0.1.0, started "), "{text}");
    assert!(
        text.contains("  alarm queue_age raised 2026-11-22T13:00:00Z, forward orders: it waits for 1h\n"),
        "{text}"
    );
    for name in ["city-lab", "orders", "images", "results"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} in\n{text}");
    }
    let json = asked(status.clone(), true).await.expect("shown");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("json"), status);
}

#[tokio::test]
async fn what_wg_has_set_is_said() {
    use health::facts::{SetBy, SetByWg};
    let mut facts = health::fixture::site();
    let say = |facts: &health::facts::SiteFacts| {
        serde_json::to_value(health::state::assess(facts, *health::fixture::NOW)).expect("serializes")
    };
    assert!(!asked(say(&facts), false).await.expect("shown").contains("by wg"));
    facts.peers[0].set_by = SetBy::Wg;
    facts.set_by_wg = SetByWg { tunnel: vec!["listen_port"], removed_peers: vec!["radiology".to_owned()] };
    let status = say(&facts);
    assert_eq!(status["peers"][0]["set_by"], "wg");
    let text = asked(status, false).await.expect("shown");
    for line in [
        "  listen_port is set by wg, until the next reload",
        "  peer radiology is removed by wg, until the next reload",
        "  set by wg, until the next reload",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn a_status_of_another_shape_is_an_error() {
    let error = asked(serde_json::json!({ "peers": 7 }), false).await.expect_err("not understood");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn a_site_that_is_not_running() {
    let directory = TempDir::new().expect("directory");
    for here in [directory.path().to_owned(), directory.path().join("none")] {
        let error = shown(&args(None, None, false), &here, None).expect_err("none");
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains(&here.display().to_string()), "{error}");
    }
    let socket = directory.path().join("gone.sock");
    let error = shown(&args(Some(socket.clone()), None, false), directory.path(), None).expect_err("none");
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(text.contains(&socket.display().to_string()) && text.contains("is not running"), "{text}");
}

#[test]
fn several_sites_need_a_choice() {
    let directory = TempDir::new().expect("directory");
    for name in ["b.sock", "a.sock", "note.txt"] {
        fs::write(directory.path().join(name), "").expect("write");
    }
    let error = shown(&args(None, None, false), directory.path(), None).expect_err("two");
    assert_eq!(error.exit_code(), 64);
    let text = error.to_string();
    assert!(text.ends_with("b.sock") && text.contains("a.sock\n") && !text.contains("note.txt"), "{text}");
}

#[test]
fn the_socket_of_a_configuration() {
    let directory = TempDir::new().expect("directory");
    let config = directory.path().join("wardlink.yaml");
    let rest = "tunnel:\n  private_key_file: /nobody/may/read/this\n";
    for (text, socket) in [
        (format!("site: north\n{rest}"), "/run/wardlink/north.sock"),
        (format!("site: north\n{rest}control:\n  socket: /tmp/x.sock\n"), "/tmp/x.sock"),
    ] {
        fs::write(&config, text).expect("write");
        assert_eq!(socket_of(&config).expect("socket"), Path::new(socket));
    }
    for text in ["", "site: [", "tunnel: {}\n"] {
        fs::write(&config, text).expect("write");
        assert_eq!(socket_of(&config).expect_err(text).exit_code(), 64, "{text}");
    }
    assert_eq!(socket_of(&directory.path().join("none")).expect_err("none").exit_code(), 64);
}

#[test]
fn a_mistake_in_the_file_is_said_without_what_stands_there() {
    let directory = TempDir::new().expect("directory");
    let config = directory.path().join("wardlink.yaml");
    let webhook = "alarms:\n  webhook: http://127.0.0.1/hook/SECRETPATH\n";
    for (text, wanted) in [
        (format!("site: north\n{webhook}  bad: [\n"), "wardlink.yaml: line "),
        (format!("site: north\n{webhook}control: SECRETPATH\n"), "line 4, column 10: is not a set of keys"),
        (format!("site: north\n{webhook}control:\n  socket: [SECRETPATH]\n"), "line 5, column 11: is a list"),
        (webhook.to_owned(), "site is missing; write it"),
        (format!("{webhook}site: \"SECRETPATH\n"), ": is not YAML: "),
        (format!("{webhook}site: *SECRETPATH\n"), "anchors, aliases and merge keys are not supported"),
        (format!("{webhook}site: !!SECRETPATH x\nsite: SECRETPATH\n"), "is written twice"),
    ] {
        fs::write(&config, &text).expect("write");
        let told =
            shown(&args(None, Some(config.clone()), false), directory.path(), None).expect_err("a mistake").to_string();
        assert!(!told.contains("SECRETPATH") && told.contains(wanted), "{text}{told}");
        assert!(told.ends_with("a site that runs meanwhile is asked with --socket PATH)"), "{told}");
    }
}
