//! Tests of what `reload` says, and with which exit code.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::control::queue::QueueAnswer;
use crate::control::{self, Answers};

/// Asks a site whose reload has this outcome, in the only socket of its directory.
async fn asked(outcome: Reloaded) -> (u8, String) {
    let directory = TempDir::new().expect("directory");
    let listener = control::bind(&directory.path().join("site.sock")).expect("bind");
    let (_stop, stopped) = watch::channel(false);
    let answers = Answers {
        status: Arc::new(|| serde_json::Value::Null),
        reload: Arc::new(move || {
            let outcome = outcome.clone();
            Box::pin(async move { outcome })
        }),
        queue: Arc::new(|_, _| Box::pin(async { QueueAnswer::NotPermitted })),
    };
    let site = tokio::spawn(control::serve(listener, answers, stopped));
    let ask = move || {
        let site = SiteArgs { config: None, socket: None };
        reload(&Args { site }, directory.path())
    };
    let said = tokio::task::spawn_blocking(ask).await.expect("no panic");
    site.abort();
    said
}

#[tokio::test]
async fn each_outcome_has_its_exit_code_and_says_what_happened() {
    let errors = "site.yaml:3:5: peers[0].endpoint: is wrong; write HOST:PORT";
    for (outcome, code, text) in [
        (Reloaded::Done { changes: "nothing changed".into() }, 0, "reloaded: nothing changed\n".to_owned()),
        (Reloaded::BadFile { errors: errors.into() }, 64, format!("{errors}\nwardlink: nothing was changed\n")),
        (Reloaded::Failed { cause: "no".into() }, 1, "wardlink: no; nothing was changed\n".to_owned()),
    ] {
        assert_eq!(asked(outcome).await, (code, text));
    }
    let (code, text) = asked(Reloaded::NotPermitted).await;
    assert!(code == 77 && text.contains("only root"), "{code} {text}");
}

#[test]
fn a_site_that_is_not_running() {
    let directory = TempDir::new().expect("directory");
    let args = Args { site: SiteArgs { config: None, socket: None } };
    let (code, text) = reload(&args, directory.path());
    assert!(code == 1 && text.contains("no site is running"), "{code} {text}");
}
