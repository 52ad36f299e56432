//! Tests of the control socket with real sockets.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::unistd::{Gid, Uid};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use super::queue::{QueueAction, QueueAnswer};
use super::*;
use crate::tunnel::places::{CONNECTIONS_OF_USER_MAX, may_change};

struct Served {
    directory: TempDir,
    path: PathBuf,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn served() -> Served {
    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("made/site.sock");
    let listener = bind(&path).expect("bind");
    let (stop, stopped) = watch::channel(false);
    let answers = Answers {
        file: Some(directory.path().join("link.yaml")),
        status: Arc::new(|| json!({ "site": "north-hospital" })),
        reload: Arc::new(|_| Box::pin(async { Reloaded::Done { changes: "nothing changed".to_owned() } })),
        queue: Arc::new(|request, _| {
            let said = format!("{} of {}", request.action.name(), request.forward);
            Box::pin(async { QueueAnswer::Done { said } })
        }),
    };
    let task = tokio::spawn(serve(listener, answers, stopped));
    Served { directory, path, stop, task }
}

impl Served {
    /// Sends these bytes, ends the sending and returns the whole answer.
    async fn raw(&self, request: Vec<u8>) -> String {
        let path = self.path.clone();
        let exchange = move || {
            let mut stream = UnixStream::connect(path).expect("connect");
            stream.write_all(&request).expect("write");
            stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("read");
            answer
        };
        spawn_blocking(exchange).await.expect("no panic")
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_command_gets_the_status() {
    let served = served().await;
    let path = served.path.clone();
    let answer = spawn_blocking(move || ask(&path, Request::Status)).await.expect("no panic");
    assert_eq!(answer.expect("answer"), json!({ "site": "north-hospital" }));
    assert_eq!(mode(served.path.parent().expect("parent")), 0o755);
    assert!([0o600, 0o660].contains(&mode(&served.path)), "{:o}", mode(&served.path));
}

#[tokio::test]
async fn a_site_that_runs_from_another_file_does_nothing() {
    let served = served().await;
    let (path, directory) = (served.path.clone(), served.directory.path().canonicalize().expect("a directory"));
    let (own, link, other) = (directory.join("own.yaml"), directory.join("link.yaml"), directory.join("other.yaml"));
    fs::write(&own, "").expect("write");
    std::os::unix::fs::symlink(&own, &link).expect("link");
    let asked = spawn_blocking(move || {
        let requests = || {
            let retry = QueueRequest { forward: "orders".to_owned(), action: QueueAction::Retry { sequence: None } };
            [Request::Status, Request::Reload, Request::Queue(retry)]
        };
        let by_own: Vec<_> = requests().into_iter().map(|request| ask_for(&path, Some(&own), request, None)).collect();
        let by_other: Vec<_> =
            requests().into_iter().map(|request| ask_for(&path, Some(&other), request, None)).collect();
        (own, by_own, by_other)
    });
    let (own, by_own, by_other) = asked.await.expect("no panic");
    for answer in by_own {
        answer.expect("it is the one that is meant");
    }
    for answer in by_other {
        let error = answer.expect_err("another site");
        assert!(matches!(&error, ControlError::OtherFile { runs, .. } if *runs == own), "{error}");
    }
    // what a site of an earlier version is asked, and one of a later version by an earlier command
    let plain = served.raw(b"{\"command\":\"status\"}\n".to_vec()).await;
    assert_eq!(plain, "{\"ok\":{\"site\":\"north-hospital\"}}\n");
}

#[tokio::test]
async fn what_is_not_a_request_gets_an_error() {
    let served = served().await;
    let unknown = "{\"error\":\"this version knows no such command\"}\n";
    for request in ["{\"command\":\"reboot\"}\n", "status\n", "\n", "{}\n", "[]\n"] {
        assert_eq!(served.raw(request.into()).await, unknown, "{request}");
    }
    let long = "{\"error\":\"a request is one line of at most 8192 bytes\"}\n";
    assert_eq!(served.raw(vec![b' '; 8192]).await, long);
    assert_eq!(served.raw(Vec::new()).await, long);
    assert_eq!(served.raw("{\"command\":\"status\"}".into()).await, long, "no end of line");
}

#[tokio::test]
async fn a_second_site_is_told_and_a_stale_socket_is_replaced() {
    let served = served().await;
    let error = bind(&served.path).expect_err("in use");
    assert!(matches!(error, ControlError::InUse { .. }), "{error}");
    served.stop.send(true).expect("served");
    served.task.await.expect("no panic");
    assert!(!served.path.exists(), "the file goes with the site");

    drop(UnixListener::bind(&served.path).expect("bind"));
    assert!(served.path.exists(), "as after kill -9");
    drop(bind(&served.path).expect("the stale one is replaced"));

    let file = served.directory.path().join("file");
    fs::write(&file, "precious").expect("write");
    let error = bind(&file).expect_err("a file");
    assert!(matches!(error, ControlError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
}

/// Is more than a user may hold.
const TOO_MANY: usize = 100;

#[tokio::test]
async fn silent_connections_of_one_user_are_told_and_soon_closed() {
    let served = served().await;
    let path = served.path.clone();
    let hold = move || {
        let held: Vec<_> = (0..TOO_MANY).map(|_| UnixStream::connect(&path).expect("accepted, not queued")).collect();
        let start = Instant::now();
        let refused = ask(&path, Request::Status).expect_err("no place for this user");
        assert!(matches!(refused, ControlError::Refused { ref cause, .. } if cause.contains("too many")), "{refused}");
        let ended = held.into_iter().map(|mut stream| {
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("closed");
            said
        });
        let told = ended.filter(|said| said.contains("too many")).count();
        assert!(start.elapsed() < Duration::from_secs(8), "closed after {:?}", start.elapsed());
        let answer = ask(&path, Request::Status).expect("there is a place again");
        (told, answer)
    };
    let (told, answer) = spawn_blocking(hold).await.expect("no panic");
    assert_eq!(told, TOO_MANY - CONNECTIONS_OF_USER_MAX);
    assert_eq!(answer, json!({ "site": "north-hospital" }));
}

/// Is a user and a group that no system has.
const STRANGER: u32 = 3_999_999_999;

#[tokio::test]
async fn only_root_the_own_user_and_the_group_may_read() {
    let stranger = (Uid::from_raw(STRANGER), Gid::from_raw(STRANGER));
    assert!(serve::is_reader(Uid::from_raw(0), stranger.1).await);
    assert!(serve::is_reader(Uid::effective(), stranger.1).await);
    assert!(!serve::is_reader(stranger.0, stranger.1).await);
    assert!(!serve::is_reader(stranger.0, Gid::from_raw(0)).await, "the group of root is not the readers'");
}

#[tokio::test]
async fn only_root_and_the_own_user_may_change_the_site() {
    let served = served().await;
    let path = served.path.clone();
    let answer = spawn_blocking(move || ask(&path, Request::Reload)).await.expect("no panic").expect("answer");
    assert_eq!(answer, json!({ "outcome": "done", "changes": "nothing changed" }));
    assert!(may_change(Uid::from_raw(0)));
    assert!(!may_change(Uid::from_raw(STRANGER)), "whatever its groups are");
}

#[tokio::test]
async fn a_queue_is_asked_by_its_forwards_name() {
    let served = served().await;
    for (asked, action) in [
        ("\"retry\"", QueueAction::Retry { sequence: None }),
        ("\"discard\",\"sequence\":7,\"reason\":\"x\"", QueueAction::Discard { sequence: 7, reason: "x".into() }),
    ] {
        let expected = format!("{{\"ok\":{{\"outcome\":\"done\",\"said\":\"{} of orders\"}}}}\n", action.name());
        let line = format!("{{\"command\":\"queue\",\"forward\":\"orders\",\"action\":{asked}}}\n");
        assert_eq!(served.raw(line.into()).await, expected);
        let path = served.path.clone();
        let request = Request::Queue(QueueRequest { forward: "orders".into(), action });
        let answer = spawn_blocking(move || ask(&path, request)).await.expect("no panic").expect("answer");
        assert_eq!(answer["outcome"], "done");
    }
}

#[test]
fn nobody_there_is_a_clear_error() {
    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("none.sock");
    let error = ask(&path, Request::Status).expect_err("nobody there");
    assert!(matches!(error, ControlError::Connect { .. }), "{error}");
    assert!(error.to_string().ends_with("none.sock"), "{error}");
}

#[test]
fn a_refusal_and_a_broken_answer_are_told_apart() {
    let directory = TempDir::new().expect("directory");
    let answer_with = |name: &str, answer: &'static str| {
        let path = directory.path().join(name);
        let listener = UnixListener::bind(&path).expect("bind");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.read_exact(&mut [0; 21]).expect("read");
            stream.write_all(answer.as_bytes()).expect("write");
        });
        let answered = ask(&path, Request::Status);
        server.join().expect("no panic");
        answered.expect_err("an error")
    };
    assert!(matches!(answer_with("a", "{\"error\":\"no\"}\n"), ControlError::Refused { cause, .. } if cause == "no"));
    assert!(matches!(answer_with("b", "hello\n"), ControlError::Malformed { .. }));
    assert!(matches!(answer_with("c", "{\"ok\":"), ControlError::Exchange { .. }));
    assert!(matches!(answer_with("d", ""), ControlError::Exchange { .. }));
}
