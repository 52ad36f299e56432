//! YAML text to the raw keys: the limits on a hostile text, and what serde finds wrong said in the file's own terms.
//!
//! Pure. Never quotes a value, because the text may be a key file that was named by mistake. Format: YAML 1.2 without
//! anchors, aliases, merge keys and tags, which a site does not need and which make positions ambiguous.

use serde::de::DeserializeOwned;
use serde_saphyr::options::MergeKeyPolicy;
use serde_saphyr::{Error, Location, Spanned};

use super::errors::{Finding, Position, Subject};
use super::{outline, raw};

/// Limits the nesting: a site has five levels; more is no site.
const DEPTH_MAX: usize = 16;
/// Limits the scalars, lists and mappings: hundreds of peers with dozens of keys each.
const NODES_MAX: usize = 20_000;

/// Reads the keys of a text.
pub(super) fn read(text: &str) -> Result<Spanned<raw::Site>, Vec<Finding>> {
    // A key without a value would count as left out, and `allow_from:` with nothing below as "anybody".
    let nulls: Vec<Finding> = outline::nulls(text).into_iter().map(no_value).collect();
    if !nulls.is_empty() {
        return Err(nulls);
    }
    let options = serde_saphyr::options! {
        with_snippet: false,
        // The parser buffers few comments in a row; dropped ones do not count.
        emit_comments: false,
        merge_keys: MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_anchors: 0,
            max_aliases: 0,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| vec![finding(text, &error)])
}

/// Reads a few keys of a text, whatever the others say.
///
/// # Errors
/// Says where it is no such text, and never what stands there: who asks may not be allowed to read the file.
pub fn part<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        let Finding { position: Position { line, column }, message, .. } = finding(text, &error);
        format!("line {line}, column {column}: {message}")
    })
}

/// Turns a location into a position; an unknown one is the start of the file.
pub(super) fn position(location: Location) -> Position {
    Position { line: location.line().max(1), column: location.column().max(1) }
}

fn no_value(position: Position) -> Finding {
    let message = "has no value; write one, or leave the key out".to_owned();
    Finding { position, subject: Subject::Value, message }
}

fn finding(text: &str, error: &Error) -> Finding {
    let error = error.without_snippet();
    let position = position(error.location().unwrap_or(Location::UNKNOWN));
    let (subject, message) = match error {
        Error::SerdeUnknownField { field, expected, .. } => (Subject::Key, unknown_key(field, expected)),
        Error::DuplicateMappingKey { .. } => (Subject::Key, "is written twice; keep one of them".to_owned()),
        Error::SerdeMissingField { field, .. } => (Subject::Text, format!("{field} is missing; write it")),
        Error::Unexpected { expected, .. } => (Subject::Value, unexpected(expected, &after(text, position))),
        Error::MultipleDocuments { .. } => {
            (Subject::Text, "a second document begins; write one site a file".to_owned())
        }
        Error::MergeKeyNotAllowed { .. } | Error::UnknownAnchor { .. } => (Subject::Text, NO_ANCHORS.to_owned()),
        Error::Budget { breach, .. } => (Subject::Text, over_budget(breach)),
        Error::ExternalMessage { msg, .. } => (Subject::Text, not_yaml(msg, &line(text, position))),
        Error::UnsupportedTag { .. } | Error::TaggedScalarCannotDeserializeIntoString { .. } => {
            (Subject::Value, "has a tag (!...); write the value without it".to_owned())
        }
        _ => (Subject::Text, "does not fit here; write KEY: VALUE as in the examples of configs/".to_owned()),
    };
    Finding { position, subject, message }
}

const NO_ANCHORS: &str = "anchors, aliases and merge keys are not supported; write the values out";

fn over_budget(breach: &serde_saphyr::budget::BudgetBreach) -> String {
    use serde_saphyr::budget::BudgetBreach;
    match breach {
        BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => NO_ANCHORS.to_owned(),
        _ => format!("the file is too deep or too long; write at most {DEPTH_MAX} levels and {NODES_MAX} values"),
    }
}

fn unexpected(expected: &str, rest: &str) -> String {
    match expected {
        "sequence start" => "is not a list; write [VALUE, VALUE], or a line \"- VALUE\" for each".to_owned(),
        "mapping start" => "is not a set of keys; write KEY: VALUE lines".to_owned(),
        _ if rest.starts_with('[') => format!("is a list; write one value{}", quote_hint(rest)),
        _ => "is not one value; write one, without keys of its own".to_owned(),
    }
}

fn not_yaml(message: &str, line: &str) -> String {
    let indent = line.trim_start_matches(' ');
    let hint = if indent.starts_with('\t') || message.contains("tab") {
        "; indent with spaces, not with tabs"
    } else {
        quote_hint(line)
    };
    let what: String = message.chars().filter(|c| !c.is_control()).collect();
    format!("is not YAML: {what}{}", if hint.is_empty() { "; see the examples of configs/" } else { hint })
}

/// Says how to write an IPv6 address with a port, where one seems to be meant.
fn quote_hint(text: &str) -> &'static str {
    let is_address = text.contains("]:") && text.matches(':').count() >= 3;
    if is_address { "; put an IPv6 address with a port in quotes: \"[fd98::1]:2575\"" } else { "" }
}

/// Returns the line at a position.
fn line(text: &str, position: Position) -> String {
    let index = usize::try_from(position.line.saturating_sub(1)).unwrap_or(usize::MAX);
    text.lines().nth(index).unwrap_or_default().to_owned()
}

/// Returns what follows a position on its line.
fn after(text: &str, position: Position) -> String {
    let skipped = usize::try_from(position.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let rest: String = line(text, position).chars().skip(skipped).collect();
    rest.split(" #").next().unwrap_or_default().trim().to_owned()
}

/// Names the known key that is nearest, or all of them.
fn unknown_key(written: &str, known: &[&'static str]) -> String {
    let nearest = known
        .iter()
        .map(|key| (distance(&plain(written), &plain(key)), *key))
        .min()
        // At most a third of the letters wrong; else the guess would mislead.
        .filter(|(edits, key)| *edits * 3 <= key.len().max(3));
    match nearest {
        Some((_, key)) => format!("is not a known key; write {key}"),
        None => format!("is not a known key; known here: {}", known.join(", ")),
    }
}

/// Drops what differs between AllowedIPs, allowed-ips and allowed_ips.
fn plain(key: &str) -> String {
    key.chars().take(32).filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Counts the letters to insert, drop or change between two words (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut previous: Vec<usize> = (0..=to.len()).collect();
    for (row, letter) in from.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, (wanted, window)) in to.iter().zip(previous.windows(2)).enumerate() {
            let (diagonal, above) = (window.first().copied().unwrap_or(0), window.last().copied().unwrap_or(0));
            let left = current.get(column).copied().unwrap_or(0);
            let change = diagonal + usize::from(letter != *wanted);
            current.push(change.min(above + 1).min(left + 1));
        }
        previous = current;
    }
    previous.last().copied().unwrap_or(0)
}
