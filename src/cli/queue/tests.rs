//! Tests of what `queue` asks, says, and with which exit code.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use clap::Parser as _;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::control::queue::{CONTENT_BYTES_MAX, Decision, QueueEntry};
use crate::control::{self, Answers, Reloaded};

/// Serves a site that answers so, in the only socket of a directory.
pub(in crate::cli) fn site_that(
    answer: impl Fn(QueueRequest) -> QueueAnswer + Send + Sync + 'static,
) -> (JoinHandle<()>, TempDir) {
    let directory = TempDir::new().expect("directory");
    let listener = control::bind(&directory.path().join("site.sock")).expect("bind");
    let answers = Answers {
        file: None,
        status: Arc::new(|| serde_json::Value::Null),
        reload: Arc::new(|_| Box::pin(async { Reloaded::NotPermitted })),
        queue: Arc::new(move |request, _| {
            let answer = answer(request);
            Box::pin(async move { answer })
        }),
    };
    let serving = async move {
        let (_stop, stopped) = watch::channel(false);
        control::serve(listener, answers, stopped).await;
    };
    (tokio::spawn(serving), directory)
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Runs `wardlink queue` with these words against a site that answers so.
async fn asked_with(words: &str, answer: impl Fn(QueueRequest) -> QueueAnswer + Send + Sync + 'static) -> (u8, String) {
    let (site, directory) = site_that(answer);
    let args = Line::try_parse_from(["queue"].into_iter().chain(words.split(' '))).map(|line| line.args);
    let args = args.unwrap_or_else(|error| panic!("{error}"));
    let told = tokio::task::spawn_blocking(move || told(&args, directory.path())).await.expect("no panic");
    site.abort();
    (told.code, told.text())
}

fn entry(sequence: u64, state: &str) -> QueueEntry {
    let accepted = "2026-11-22T13:59:00Z".into();
    QueueEntry { sequence, state: state.into(), accepted, bytes: 512, target: "orders".into(), ..QueueEntry::default() }
}

#[tokio::test]
async fn each_command_asks_for_what_it_says() {
    let cases = [
        ("list orders", QueueAction::List { from: 1, max: 100, state: None, all: false }),
        ("list orders --all", QueueAction::List { from: 1, max: 100, state: None, all: true }),
        (
            "list orders --from 7 --max 5 --state parked",
            QueueAction::List { from: 7, max: 5, state: Some("parked".into()), all: false },
        ),
        ("show orders 7", QueueAction::Show { sequence: 7 }),
        ("retry orders", QueueAction::Retry { sequence: None }),
        ("retry orders 7", QueueAction::Retry { sequence: Some(7) }),
        ("park orders 7", QueueAction::Park { sequence: 7 }),
        ("release orders 7", QueueAction::Release { sequence: 7 }),
        ("discard orders 7 --reason duplicate", QueueAction::Discard { sequence: 7, reason: "duplicate".into() }),
        ("move orders", QueueAction::Move { to: None, from: None }),
        (
            "move orders --to images --from-destination orders@lab",
            QueueAction::Move { to: Some("images".into()), from: Some("orders@lab".into()) },
        ),
        ("reconcile orders", QueueAction::Reconcile { choice: None }),
        ("reconcile orders --accept-far", QueueAction::Reconcile { choice: Some(Choice::AcceptFar) }),
        ("reconcile orders --resend", QueueAction::Reconcile { choice: Some(Choice::Resend) }),
    ];
    for (words, action) in cases {
        let expected = QueueRequest { forward: "orders".into(), action };
        let said = asked_with(words, move |request| QueueAnswer::Done {
            said: if request == expected { "as asked".into() } else { format!("{request:?}") },
        });
        assert_eq!(said.await, (0, "as asked\n".to_owned()), "{words}");
    }
}

#[test]
fn bad_arguments_are_refused_before_anybody_is_asked() {
    for words in [
        "discard orders 7",
        "discard orders 7 --reason=",
        "list orders --state lost",
        "list orders --max 1001",
        "list orders --all --state parked",
        "show orders",
        "show orders seven",
        "show orders 7 --payload --json",
        "reconcile orders --accept-far --resend",
        "export orders",
        "export orders --out x --state discarded",
    ] {
        assert!(Line::try_parse_from(["queue"].into_iter().chain(words.split(' '))).is_err(), "{words}");
    }
}

#[tokio::test]
async fn a_damaged_message_is_told_from_the_others() {
    let damaged = Some("message 7 was changed".to_owned());
    let damaged = QueueEntry { damaged, ..entry(7, "queued") };
    let entries = vec![damaged.clone()];
    let answer = move |_| QueueAnswer::Entries { entries: entries.clone(), next: None };
    let (_, text) = asked_with("list orders", answer).await;
    assert!(text.contains("\n7        queued, damaged  2026"), "{text}");
    let (_, text) = asked_with("show orders 7", move |_| QueueAnswer::Entry { entry: damaged.clone() }).await;
    assert!(text.contains("\ndamaged      message 7 was changed\n"), "{text}");
}

#[tokio::test]
async fn messages_are_listed_and_shown_without_their_content() {
    let failed = QueueEntry { attempts: 3, in_doubt: 1, code: Some("AE".into()), sent: true, ..entry(7, "queued") };
    let by = "uid 0".to_owned();
    let fax = Decision { at: "2026-11-22T15:00:00Z".into(), what: "parked".into(), by, reason: "by fax".into() };
    let parked = QueueEntry { decisions: vec![fax], ..entry(1042, "parked") };
    let entries = vec![failed.clone(), parked.clone()];
    let answer = move |_| QueueAnswer::Entries { entries: entries.clone(), next: Some(1043) };
    let expected = "\
MESSAGE  STATE   ACCEPTED              BYTES  SENT  ATTEMPTS       ANSWER  DECIDED
7        queued  2026-11-22T13:59:00Z  512    yes   3, 1 in doubt  AE
1042     parked  2026-11-22T13:59:00Z  512                                 parked by uid 0: by fax
more: wardlink queue list orders --from 1043
";
    assert_eq!(asked_with("list orders", answer).await, (0, expected.to_owned()));
    let (_, text) = asked_with("show orders 1042", move |_| QueueAnswer::Entry { entry: parked.clone() }).await;
    assert!(text.ends_with("\ndecided      2026-11-22T15:00:00Z parked by uid 0: by fax\n"), "{text}");
    let held = QueueEntry { held: Some("no answer came; wardlink queue retry orders 7".into()), ..entry(7, "queued") };
    let (shown, listed) = (held.clone(), vec![held]);
    let (_, text) =
        asked_with("list orders", move |_| QueueAnswer::Entries { entries: listed.clone(), next: None }).await;
    assert!(text.contains("\n7        held "), "{text}");
    let (_, text) = asked_with("show orders 7", move |_| QueueAnswer::Entry { entry: shown.clone() }).await;
    assert!(text.contains("\nheld         no answer came; wardlink queue retry orders 7\n"), "{text}");
    assert!(text.contains("\nstate        held\n"), "{text}");
    let again = QueueEntry { trying: Some("the receiver answered AE".into()), ..entry(7, "queued") };
    let (_, text) = asked_with("show orders 7", move |_| QueueAnswer::Entry { entry: again.clone() }).await;
    assert!(text.contains("\nstate        queued, tried again\n"), "{text}");
    assert!(text.contains("\ntried again  the receiver answered AE\n"), "{text}");
    let none = |_| QueueAnswer::Entries { entries: Vec::new(), next: None };
    assert_eq!(asked_with("list orders", none).await, (0, "no such messages\n".to_owned()));
    let shown = failed.clone();
    let (code, text) = asked_with("show orders 7", move |_| QueueAnswer::Entry { entry: shown.clone() }).await;
    let expected = "\
message      7
state        queued
accepted     2026-11-22T13:59:00Z
for          orders
bytes        512
sent         yes, the far site may have it
attempts     3, 1 in doubt
answer       AE
";
    assert_eq!((code, text.as_str()), (0, expected));
    let (code, text) = asked_with("show orders 7 --json", move |_| QueueAnswer::Entry { entry: failed.clone() }).await;
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!((code, &json["entry"]["sequence"], &json["entry"]["code"]), (0, &7.into(), &"AE".into()));
}

#[tokio::test]
async fn what_was_not_done_says_why() {
    let failed = |_| QueueAnswer::Failed { cause: "there is no message 7".into() };
    assert_eq!(asked_with("park orders 7", failed).await, (1, "wardlink: there is no message 7\n".to_owned()));
    let (code, text) = asked_with("show orders 7 --payload", |_| QueueAnswer::NotPermitted).await;
    assert!(code == 77 && text.contains("only root") && text.contains("sudo"), "{code} {text}");
    let (code, text) = asked_with("retry orders", |_| QueueAnswer::Entry { entry: entry(1, "queued") }).await;
    assert_eq!((code, text.contains("message")), (0, true));
}

/// Hands over the parts of a content as a site does.
fn part_of(content: &[u8], offset: u64) -> QueueAnswer {
    let rest = &content[usize::try_from(offset).unwrap()..];
    let part = STANDARD.encode(&rest[..rest.len().min(CONTENT_BYTES_MAX)]);
    QueueAnswer::Content { total_bytes: content.len() as u64, part }
}

#[tokio::test]
async fn a_content_comes_whole_however_long_it_is() {
    let content: Vec<u8> = (0..=250).cycle().take(CONTENT_BYTES_MAX + 1000).collect();
    let sent = content.clone();
    let (site, directory) = site_that(move |request| match request.action {
        QueueAction::Content { sequence: 7, offset } => part_of(&sent, offset),
        other => QueueAnswer::Failed { cause: format!("{other:?}") },
    });
    let args = Line::try_parse_from("queue show orders 7 --payload".split(' ')).unwrap().args;
    let said = tokio::task::spawn_blocking(move || told(&args, directory.path())).await.unwrap();
    assert_eq!(said.code, 0);
    assert!(said.bytes == content, "{} bytes", said.bytes.len());
    site.abort();
}

#[tokio::test]
async fn an_export_writes_each_message_for_its_owner_only_and_replaces_none() {
    let answer = |request: QueueRequest| match request.action {
        QueueAction::List { from: 1, state: Some(state), .. } if state == "queued" => {
            QueueAnswer::Entries { entries: vec![entry(7, "queued")], next: Some(8) }
        }
        QueueAction::List { from: 8, state: Some(state), .. } if state == "queued" => {
            QueueAnswer::Entries { entries: vec![entry(9, "queued")], next: None }
        }
        QueueAction::List { .. } => QueueAnswer::Entries { entries: Vec::new(), next: None },
        QueueAction::Content { sequence, offset } => part_of(format!("MSH|{sequence}").as_bytes(), offset),
        other => QueueAnswer::Failed { cause: format!("{other:?}") },
    };
    let out = TempDir::new().unwrap();
    let words = format!("export orders --out {}/made", out.path().display());
    let (code, text) = asked_with(&words, answer).await;
    assert!(code == 0 && text.starts_with("2 messages are in "), "{code} {text}");
    for sequence in [7, 9] {
        let path = out.path().join(format!("made/orders-{sequence}.hl7"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("MSH|{sequence}"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let list = std::fs::read_to_string(out.path().join("made/orders.json")).unwrap();
    let list: Vec<QueueEntry> = serde_json::from_str(&list).unwrap();
    assert_eq!(list, [entry(7, "queued"), entry(9, "queued")]);
    let (code, text) = asked_with(&words, answer).await;
    assert!(
        code == 1 && text.contains("orders-7.hl7") && text.ends_with("0 messages were written before that\n"),
        "{text}"
    );
}
