//! The path of the key at a position of a YAML text: `peers[0].allowed_ips[1]`.
//!
//! Pure. Reads only the order of keys and values, never judges them; stops where the text stops being YAML. Serde's
//! own errors know a position but no path, and the checks need not carry paths along.

use std::collections::{BTreeSet, HashMap};

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput};

use super::errors::{Position, Subject, one_line};

/// Limits the depth that is followed; the YAML budget has refused deeper texts before.
const DEPTH_MAX: usize = 64;
/// Limits one key in a path, in characters: a line stays readable.
const KEY_CHARS_MAX: usize = 64;

/// Holds the paths at one position.
#[derive(Debug, Default)]
pub(super) struct At {
    value: Option<String>,
    key: Option<String>,
}

impl At {
    /// Returns the path that is meant; empty for the file as a whole.
    pub(super) fn path(&self, subject: Subject) -> String {
        let value = self.value.as_deref();
        match subject {
            Subject::Value => value.or(self.key.as_deref()).unwrap_or_default().to_owned(),
            Subject::Key => self.key.as_deref().or(value).unwrap_or_default().to_owned(),
            Subject::Missing(key) => match value {
                Some(parent) if !parent.is_empty() => format!("{parent}.{key}"),
                _ => key.to_owned(),
            },
            Subject::Text => String::new(),
        }
    }
}

/// Is a mapping or sequence that has begun and not ended.
enum Open {
    /// A mapping, with the key whose value comes next.
    Mapping(Option<String>),
    /// A sequence, with the index of the next entry.
    Sequence(usize),
}

/// Finds the paths of the keys and values that begin at the wanted positions.
pub(super) fn paths(text: &str, wanted: BTreeSet<Position>) -> HashMap<Position, At> {
    let mut found: HashMap<Position, At> = HashMap::new();
    let mut open: Vec<Open> = Vec::new();
    for (event, span) in parser(text).map_while(Result::ok) {
        let position = position(span.start.line(), span.start.col());
        if wanted.last().is_none_or(|last| position > *last) || open.len() > DEPTH_MAX {
            break;
        }
        let is_wanted = wanted.contains(&position);
        match event {
            Event::Scalar(value, ..) => {
                if let Some(Open::Mapping(key @ None)) = open.last_mut() {
                    *key = Some(value.into_owned());
                    if is_wanted {
                        found.entry(position).or_default().key = Some(path(&open));
                    }
                    continue;
                }
                if is_wanted {
                    found.entry(position).or_default().value = Some(path(&open));
                }
                end_value(&mut open);
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                if is_wanted {
                    found.entry(position).or_default().value = Some(path(&open));
                }
                let is_mapping = matches!(event, Event::MappingStart(..));
                open.push(if is_mapping { Open::Mapping(None) } else { Open::Sequence(0) });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
                end_value(&mut open);
            }
            Event::Alias(..) => end_value(&mut open),
            _ => {}
        }
    }
    found
}

/// Finds the values that are null (nothing, `~`, `null`), which serde cannot tell from keys that are left out.
///
/// Finds none in a text that is not YAML to its end.
pub(super) fn nulls(text: &str) -> Vec<Position> {
    let is_null = |value: &str| ["", "~", "null", "Null", "NULL"].contains(&value);
    let null_at = |(event, span): (Event<'_>, Span)| match event {
        Event::Scalar(value, ScalarStyle::Plain, ..) if is_null(&value) => {
            Some(position(span.start.line(), span.start.col()))
        }
        _ => None,
    };
    let found: Result<Vec<Option<Position>>, _> =
        parser(text).map(|next| next.map(null_at)).filter(|next| !matches!(next, Ok(None))).collect();
    found.map(|found| found.into_iter().flatten().collect()).unwrap_or_default()
}

fn parser(text: &str) -> Parser<'_, StrInput<'_>> {
    let mut options = Options::default();
    // The parser buffers few comments in a row; dropped ones do not count.
    options.emit_comments = false;
    Parser::new_from_str_with_options(text, options)
}

/// Turns the parser's line from 1 and column from 0 into a position.
fn position(line: usize, column_from_0: usize) -> Position {
    let line = u64::try_from(line).unwrap_or(u64::MAX);
    let column = u64::try_from(column_from_0).unwrap_or(u64::MAX).saturating_add(1);
    Position { line, column }
}

/// Moves the innermost open collection on to its next entry.
fn end_value(open: &mut [Open]) {
    match open.last_mut() {
        // A collection as a key ends here too; it has no path of its own.
        Some(Open::Mapping(key)) => *key = if key.is_some() { None } else { Some("?".to_owned()) },
        Some(Open::Sequence(index)) => *index += 1,
        None => {}
    }
}

/// Writes the path to the entry that is next in the innermost open collection.
fn path(open: &[Open]) -> String {
    let mut path = String::new();
    for part in open {
        match part {
            Open::Mapping(Some(key)) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&one_line(key.chars().take(KEY_CHARS_MAX)));
            }
            Open::Mapping(None) => {}
            Open::Sequence(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, line: u64, column: u64, subject: Subject) -> String {
        let position = Position { line, column };
        paths(text, BTreeSet::from([position])).get(&position).map(|at| at.path(subject)).unwrap_or_default()
    }

    #[test]
    fn tells_keys_values_and_mappings_apart() {
        let text = "site: a\npeers:\n  - name: x\n    allowed_ips: [1, 2]\n  - {name: y}\n";
        assert_eq!(at(text, 1, 1, Subject::Key), "site");
        assert_eq!(at(text, 1, 7, Subject::Value), "site");
        assert_eq!(at(text, 3, 5, Subject::Key), "peers[0].name");
        assert_eq!(at(text, 3, 5, Subject::Value), "peers[0]");
        assert_eq!(at(text, 3, 5, Subject::Missing("public_key")), "peers[0].public_key");
        assert_eq!(at(text, 4, 22, Subject::Value), "peers[0].allowed_ips[1]");
        assert_eq!(at(text, 5, 12, Subject::Value), "peers[1].name");
        assert_eq!(at(text, 1, 1, Subject::Missing("tunnel")), "tunnel");
        assert_eq!(at(text, 1, 1, Subject::Text), "");
    }

    #[test]
    fn finds_what_has_no_value() {
        let text = "a:\nb: ~\nc: [null, x, '']\n";
        let found: Vec<(u64, u64)> = nulls(text).iter().map(|at| (at.line, at.column)).collect();
        assert_eq!(found, [(1, 2), (2, 4), (3, 5)]);
        assert_eq!(nulls("a:\nb: 'x\n"), []);
    }

    #[test]
    fn stops_where_the_text_is_no_yaml() {
        assert_eq!(at("a: 1\nb: 'x\n", 1, 4, Subject::Value), "a");
        assert_eq!(at("a: 1\nb: 'x\n", 9, 9, Subject::Value), "");
    }
}
