//! Tests of the command, on logs that the room itself wrote.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use clap::Parser as _;

use super::*;
use crate::audit::{Account, Event, Limits, Position, Record, Subject};
use crate::mllp::ack::AckCode;
use crate::mllp::trace::Trace;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

const MESSAGE: &[u8] = b"MSH|^~\\&|A|B|C|D|20260101||ORU^R01|ID-1|P|2.5\rPID|1||4711||DOE^JOHN\r";

/// Writes a log: a message that was accepted and delivered, another one, and an operator's look at the first.
fn log() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let account = Account::start(
        directory.path(),
        "hospital",
        Limits { keep: Duration::from_secs(1 << 30), bytes_max: 1 << 40, segment_bytes: None },
    );
    let clerk = account.clerk(Subject { forward: Some("orders".into()), peer: Some("city-lab".into()), service: None });
    let key = account.trace_key().unwrap().clone();
    let at = |sequence, event| {
        let position = Some(Position { source: "spool:1".into(), through: sequence });
        Record { sequence, position, ..clerk.now(event) }
    };
    clerk.record(Record { message: Some(key.trace(MESSAGE)), ..at(1, Event::Accepted) });
    clerk.record(Record {
        message: Some(key.trace(b"MSH|^~\\&|A|B|C|D|20260101||ADT^A01|ID-2\r")),
        ..at(2, Event::Accepted)
    });
    let bare = Trace { bytes: 9, message_type: None, control_id: None, payload: None };
    clerk.record(Record { message: Some(bare), code: Some(AckCode::ApplicationAccept), ..at(1, Event::Delivered) });
    clerk.record(Record { by: "uid 0 (login 1000, alice)".into(), ..at(1, Event::Viewed) });
    account.stop();
    directory
}

fn said(directory: &Path, arguments: &[&str]) -> (Result<(), u8>, String) {
    let dir = directory.to_str().unwrap();
    let line = ["audit", "--dir", dir].into_iter().chain(arguments.iter().copied());
    let line = Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
    let mut out = Vec::new();
    let told = told(&line.args, &mut out).map_err(|failure| failure.code());
    (told, String::from_utf8(out).unwrap())
}

fn lines(directory: &Path, arguments: &[&str]) -> usize {
    said(directory, arguments).1.lines().count()
}

#[test]
fn what_is_looked_for_is_found_and_nothing_else() {
    let log = log();
    let log = log.path();
    assert_eq!(lines(log, &["search", "--forward", "orders"]), 4);
    assert_eq!(lines(log, &["search", "--forward", "other"]), 0);
    assert_eq!(lines(log, &["search", "--event", "accepted,viewed"]), 3);
    for operator in ["uid 0", "login 1000", "alice", "uid 0 (login 1000, alice)"] {
        assert_eq!(lines(log, &["search", "--operator", operator]), 1, "{operator}");
    }
    for operator in ["uid", "login 100", "alic", "", "uid 1000"] {
        assert_eq!(lines(log, &["search", "--operator", operator]), 0, "{operator}");
    }
    assert_eq!(lines(log, &["search", "--sequence", "2"]), 1);
    assert_eq!(lines(log, &["search", "--since", "1h", "--peer", "city-lab"]), 4);
    assert_eq!(lines(log, &["search", "--until", "2020-01-01"]), 0);
    let (told, found) = said(log, &["search", "--control-id", "ID-1"]);
    assert!(told.is_ok() && found.lines().count() == 3, "{found}");
    assert!(found.contains("accepted") && found.contains("delivered") && found.contains("by uid 0"));
    assert_eq!(lines(log, &["search", "--control-id", "ID-3"]), 0);
    let file = log.join("message.hl7");
    std::fs::write(&file, MESSAGE).unwrap();
    assert_eq!(lines(log, &["search", "--payload", file.to_str().unwrap()]), 3);
}

#[test]
fn nothing_of_a_message_is_in_the_log() {
    let log = log();
    let (told, all) = said(log.path(), &["export"]);
    assert!(told.is_ok());
    for needle in ["DOE", "4711", "ID-1", "ID-2"] {
        assert!(!all.contains(needle), "{all}");
    }
    let entries: Vec<serde_json::Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((entries.len(), &entries[0]["event"], &entries[1]["type"]), (5, &"segment".into(), &"ORU^R01".into()));
}

#[test]
fn the_last_entries_are_shown_and_the_log_is_verified() {
    let log = log();
    let (told, text) = said(log.path(), &["tail", "-n", "2"]);
    assert!(
        told.is_ok() && text.lines().count() == 2 && text.ends_with("message 1, by uid 0 (login 1000, alice)\n"),
        "{text}"
    );
    assert_eq!(lines(log.path(), &["tail", "--json"]), 5);
    let (told, text) = said(log.path(), &["verify"]);
    assert!(told.is_ok() && text.starts_with("whole: entries 1 to 5\n"), "{text}");
    let segment = read::segments(log.path()).unwrap().remove(0).path;
    let changed = std::fs::read_to_string(&segment).unwrap().replacen("city-lab", "city-LAB", 1);
    std::fs::write(&segment, changed).unwrap();
    let (told, text) = said(log.path(), &["verify"]);
    assert!(told == Err(EXIT_FAILED) && text.contains("entry 2 is not as it was written"), "{text}");
    let (told, text) = said(log.path(), &["verify", "--after", "2"]);
    assert!(told.is_ok() && text.starts_with("whole: entries 3 to 5; what is up to entry 2 is not judged\n"), "{text}");
    let (told, text) = said(log.path(), &["verify", "--after", "5"]);
    assert!(told.is_ok() && text.starts_with("whole: nothing is after entry 5, "), "{text}");
    assert_eq!(said(log.path(), &["verify", "--after", "6"]).0, Err(EXIT_USAGE));
}

#[test]
fn a_log_that_somebody_touched_is_broken_and_not_unseen() {
    let log = log();
    let at = |name: &str| log.path().join(name);
    let head = std::fs::read(at("head")).unwrap();
    std::fs::write(at("head"), "x\n").unwrap();
    let (told, text) = said(log.path(), &["verify"]);
    assert!(told == Err(EXIT_FAILED) && text.contains("head was changed"), "{text}");
    std::fs::remove_file(at("head")).unwrap();
    let (told, text) = said(log.path(), &["verify"]);
    assert!(told == Err(EXIT_FAILED) && text.starts_with("broken: its `head`, "), "{text}");
    std::fs::write(at("head"), head).unwrap();
    assert_eq!(said(log.path(), &["verify"]).0, Ok(()));
    let segment = read::segments(log.path()).unwrap().remove(0).path;
    std::fs::rename(&segment, segment.with_extension("old")).unwrap();
    for left in ["accepted", "atna"] {
        std::fs::write(at(left), "").unwrap();
    }
    for left in ["key", "atna"] {
        let file = std::fs::File::open(at(left)).unwrap();
        let made = file.metadata().unwrap().modified().unwrap();
        file.set_modified(made - Duration::from_secs(61)).unwrap();
    }
    for left in ["head", "key", "accepted", "atna"] {
        let (told, text) = said(log.path(), &["verify"]);
        assert!(
            told == Err(EXIT_FAILED) && text.contains(&format!("a log was begun: `{left}` is left of it")),
            "{text}"
        );
        std::fs::remove_file(at(left)).unwrap();
    }
    assert_eq!(said(log.path(), &["verify"]).0, Err(EXIT_NOT_LOOKED_AT));
    // as a site that starts for the first time has it for a moment
    for made in ["key", "atna"] {
        std::fs::write(at(made), "").unwrap();
        assert_eq!(said(log.path(), &["verify"]).0, Err(EXIT_NOT_LOOKED_AT), "{made}");
    }
    std::fs::create_dir(at("peers")).unwrap();
    assert_eq!(said(log.path(), &["verify"]).0, Err(EXIT_FAILED));
}

#[test]
fn nothing_is_accepted_that_no_peer_told_of_and_a_log_of_another_key_is_named() {
    let log = log();
    assert_eq!(said(log.path(), &["accept", "3"]).0, Err(EXIT_USAGE));
    assert_eq!(said(log.path(), &["accept", "--other-key", "3"]).0, Err(EXIT_USAGE));
    let told = format!(r#"{{"foreign":{{"n":9,"chain":"{}","proof":"{}"}}}}"#, "1".repeat(64), "2".repeat(32));
    std::fs::create_dir_all(log.path().join("peers")).unwrap();
    std::fs::write(log.path().join("peers/city-lab.json"), told).unwrap();
    let (result, text) = said(log.path(), &["verify"]);
    assert_eq!(
        (result, text.contains("city-lab knows a log up to entry 9 that another key")),
        (Err(EXIT_FAILED), true)
    );
    assert_eq!(said(log.path(), &["accept", "--other-key", "10"]).0, Err(EXIT_USAGE));
    assert_eq!(said(log.path(), &["accept", "--other-key", "9"]).0, Ok(()));
    assert_eq!(said(log.path(), &["verify"]).0, Ok(()));
}

#[test]
fn of_a_peers_log_what_was_found_is_accepted_and_a_file_that_was_changed_is_named() {
    let log = log();
    let peers = log.path().join("peers");
    std::fs::create_dir_all(&peers).unwrap();
    assert_eq!(said(log.path(), &["accept", "--peer", "../key"]).0, Err(EXIT_USAGE));
    let none = Line::try_parse_from(["audit", "accept"]).is_err();
    assert!(none && Line::try_parse_from(["audit", "accept", "3", "--peer", "city-lab"]).is_err());
    let line = |n, at, next| {
        let (chain, proof) = ("1".repeat(64), "2".repeat(32));
        format!(r#"{{"at":{at},"n":{n},"chain":"{chain}","proof":"{proof}","next":{next}}}"#)
    };
    let told = format!(r#"{{"ended":[{},{}]}}"#, line(9, 1_800_000_000, 4), line(5, u64::MAX, 5));
    std::fs::write(peers.join("city-lab.json"), told).unwrap();
    let (result, text) = said(log.path(), &["accept", "--peer", "city-lab"]);
    assert_eq!(result, Ok(()));
    assert!(text.starts_with("accepted: the log of city-lab: it ends at entry 4, and went on to entry 9 before\n"));
    let limits = Limits { keep: Duration::from_secs(1 << 30), bytes_max: 1 << 40, segment_bytes: None };
    Account::start(log.path(), "hospital", limits).stop();
    assert_eq!(said(log.path(), &["accept", "--peer", "city-lab"]).0, Err(EXIT_USAGE), "it is taken up");
    let (_, text) = said(log.path(), &["search", "--event", "configured", "--peer", "city-lab"]);
    assert!(text.lines().count() == 2 && text.contains("accepted of the peer's log: it ends at entry 4"), "{text}");
    assert!(text.contains("by uid ") && text.contains("entry 5 is another one than it was"), "{text}");
    std::fs::write(peers.join("city-lab.json"), "no JSON").unwrap();
    let (result, text) = said(log.path(), &["verify"]);
    assert!(result == Err(EXIT_FAILED) && text.starts_with("broken: ") && text.contains("city-lab.json was changed"));
}

#[test]
fn what_is_wrong_says_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(said(empty.path(), &["tail"]).0, Err(EXIT_NOT_LOOKED_AT));
    let log = log();
    let key = log.path().join("key");
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    let verified = || {
        let args = Line::try_parse_from(["audit", "--dir", log.path().to_str().unwrap(), "verify"]).unwrap().args;
        told(&args, &mut Vec::new()).map_err(|failure| (failure.code(), failure.to_string()))
    };
    mode(0o644);
    let (code, text) = verified().unwrap_err();
    assert!(code == EXIT_NOT_LOOKED_AT && text.ends_with("chmod 600 it, if it is still the site's own"), "{text}");
    std::fs::rename(&key, log.path().join("gone")).unwrap();
    let (code, text) = verified().unwrap_err();
    assert!(code == EXIT_NOT_LOOKED_AT && text.contains("restore it from a backup"), "{text}");
    std::fs::rename(log.path().join("gone"), &key).unwrap();
    mode(0o600);
    assert_eq!(verified(), Ok(()));
    assert_eq!(said(log.path(), &["search", "--since", "yesterday"]).0, Err(EXIT_USAGE));
    assert_eq!(said(log.path(), &["search", "--control-id", ""]).0, Err(EXIT_USAGE));
    assert_eq!(said(log.path(), &["search", "--since", "2026-12-01", "--until", "2026-11-01"]).0, Err(EXIT_USAGE));
    // without an end, and longer than any message
    assert_eq!(said(log.path(), &["search", "--payload", "/dev/zero"]).0, Err(EXIT_USAGE));
    let long = log.path().join("long");
    std::fs::File::create(&long).and_then(|file| file.set_len(1 << 40)).unwrap();
    assert_eq!(said(log.path(), &["search", "--payload", long.to_str().unwrap()]).0, Err(EXIT_USAGE));
    let file = empty.path().join("audit");
    std::fs::write(&file, "no directory").unwrap();
    let args = Line::try_parse_from(["audit", "--dir", file.to_str().unwrap(), "verify"]).unwrap().args;
    let failure = told(&args, &mut Vec::new()).unwrap_err();
    assert_eq!(failure.code(), EXIT_NOT_LOOKED_AT);
    assert!(failure.to_string().ends_with("move away what is in its place"), "{failure}");
    let config = empty.path().join("site.yaml");
    std::fs::write(&config, format!("site: a\nstate_dir: {}\n", empty.path().display())).unwrap();
    assert_eq!(directory_of(&config).unwrap(), empty.path().join("audit"));
}
