//! Tests of what `reload` says, and with which exit code.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::watch;

use super::super::queue::tests::site_that;
use super::*;
use crate::control::Answers;
use crate::control::queue::QueueAnswer;

/// Asks a site whose reload has this outcome, in the only socket of its directory.
async fn asked(outcome: Reloaded) -> (u8, String) {
    asked_for(outcome, None).await
}

/// Asks it for a file of this text.
async fn asked_for(outcome: Reloaded, text: Option<&str>) -> (u8, String) {
    let directory = TempDir::new().expect("directory");
    let config = text.map(|text| {
        let path = directory.path().join("site.yaml");
        std::fs::write(&path, text).expect("a file");
        path
    });
    let listener = control::bind(&directory.path().join("site.sock")).expect("bind");
    let (_stop, stopped) = watch::channel(false);
    let answers = Answers {
        file: config.as_ref().map(|config| config.canonicalize().expect("a file")),
        status: Arc::new(|| serde_json::Value::Null),
        reload: Arc::new(move |_| {
            let outcome = outcome.clone();
            Box::pin(async move { outcome })
        }),
        queue: Arc::new(|_, _| Box::pin(async { QueueAnswer::NotPermitted })),
    };
    let site = tokio::spawn(control::serve(listener, answers, stopped));
    let ask = move || {
        let site = SiteArgs { config, socket: None };
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

#[tokio::test]
async fn a_file_that_names_no_site_is_explained_and_the_only_site_is_told() {
    for text in ["", "site: [lab\n", "\u{0}\u{1}", "tunnel: {}\n"] {
        let told = Reloaded::BadFile { errors: "the same".into() };
        let (code, said) = asked_for(told, Some(text)).await;
        assert!(code == 64 && said.contains("site.yaml:"), "{text:?}: {code} {said}");
        assert!(said.ends_with("wardlink: nothing was changed; the site noted it\n"), "{said}");
        assert!(!said.contains("--socket"), "{said}");
    }
    let (code, said) = asked_for(Reloaded::Done { changes: "nothing changed".into() }, Some("")).await;
    assert!(code == 64 && said.contains("mended meanwhile"), "{code} {said}");
}

#[tokio::test]
async fn a_wrong_file_is_not_put_on_the_only_site_that_runs_from_another() {
    let directory = TempDir::new().expect("directory");
    let config = directory.path().join("other.yaml");
    std::fs::write(&config, "site: [lab\n").expect("a file");
    let (site, sockets) = site_that(|_| QueueAnswer::NotPermitted);
    let args = Args { site: SiteArgs { config: Some(config), socket: None } };
    let said = tokio::task::spawn_blocking(move || reload(&args, sockets.path())).await.expect("no panic");
    site.abort();
    assert!(said.0 == 64 && said.1.ends_with("nothing was changed, and no running site was told\n"), "{}", said.1);
}

#[tokio::test]
async fn a_site_that_was_renamed_in_its_file_is_not_called_stopped() {
    let (code, said) = asked_for(Reloaded::NotPermitted, Some("site: another-name\n")).await;
    assert!(code == 1 && said.contains("`site: another-name`") && said.contains("/site.sock"), "{code} {said}");
    assert!(said.contains("keeps its name until it is restarted"), "{said}");
}

#[test]
fn a_site_that_is_not_running() {
    let directory = TempDir::new().expect("directory");
    let args = Args { site: SiteArgs { config: None, socket: None } };
    let (code, text) = reload(&args, directory.path());
    assert!(code == 1 && text.contains("no site is running"), "{code} {text}");
}
