//! What `wardlink queue` prints of messages: never their content. Pure.

use crate::cli::columns::{Row, line, table};
use crate::control::queue::{Decision, QueueEntry};

/// Lists messages, and says how to see more.
pub(super) fn list((forward, flags): (&str, &str), entries: &[QueueEntry], next: Option<u64>) -> String {
    let mut text = String::new();
    let rows: Vec<Row> = entries.iter().map(row).collect();
    table(&mut text, &["MESSAGE", "STATE", "ACCEPTED", "BYTES", "SENT", "ATTEMPTS", "ANSWER", "DECIDED"], &rows);
    if rows.is_empty() {
        line(&mut text, "no such messages");
    }
    if let Some(next) = next {
        line(&mut text, &format!("more: wardlink queue list {forward}{flags} --from {next}"));
    }
    text.trim_start_matches('\n').to_owned()
}

fn row(entry: &QueueEntry) -> Row<'_> {
    let cells = vec![
        entry.sequence.to_string(),
        state(entry),
        entry.accepted.clone(),
        entry.bytes.to_string(),
        sent(entry, "yes").to_owned(),
        attempts(entry),
        entry.code.clone().unwrap_or_default(),
        entry.decisions.last().map(decided).unwrap_or_default(),
    ];
    Row { cells, cause: None, note: None }
}

fn state(entry: &QueueEntry) -> String {
    match (&entry.held, &entry.damaged, &entry.trying) {
        (Some(_), ..) => "held".to_owned(),
        (None, Some(_), _) => format!("{}, damaged", entry.state),
        (None, None, Some(_)) => format!("{}, tried again", entry.state),
        (None, None, None) => entry.state.clone(),
    }
}

/// Writes such as `discarded by uid 0: sent by fax`.
fn decided(decision: &Decision) -> String {
    let Decision { what, by, reason, .. } = decision;
    let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{what}{by}{reason}")
}

/// Says whether a message that waits was sent; of any other it is no question.
fn sent<'a>(entry: &QueueEntry, yes: &'a str) -> &'a str {
    match (entry.state.as_str(), entry.sent) {
        ("queued", true) => yes,
        ("queued", false) => "no",
        _ => "",
    }
}

/// Writes such as `3, 1 in doubt`.
fn attempts(entry: &QueueEntry) -> String {
    match (entry.attempts, entry.in_doubt) {
        (0, _) => String::new(),
        (attempts, 0) => attempts.to_string(),
        (attempts, in_doubt) => format!("{attempts}, {in_doubt} in doubt"),
    }
}

/// Shows all that is known of a message.
pub(super) fn entry(entry: &QueueEntry) -> String {
    let mut text = String::new();
    let some = |text: &Option<String>| text.clone().unwrap_or_default();
    let lines = [
        ("message", entry.sequence.to_string()),
        ("state", state(entry)),
        ("damaged", some(&entry.damaged)),
        ("accepted", entry.accepted.clone()),
        ("for", if entry.destination.is_empty() { &entry.target } else { &entry.destination }.clone()),
        ("bytes", entry.bytes.to_string()),
        ("sent", sent(entry, "yes, the far site may have it").to_owned()),
        ("attempts", attempts(entry)),
        ("settled", some(&entry.settled)),
        ("outcome", some(&entry.verdict)),
        ("answer", some(&entry.code)),
        ("tried again", some(&entry.trying)),
        ("held", some(&entry.held)),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        line(&mut text, &format!("{name:<12} {value}"));
    }
    for decision in &entry.decisions {
        line(&mut text, &format!("{:<12} {} {}", "decided", decision.at, decided(decision)));
    }
    text
}
