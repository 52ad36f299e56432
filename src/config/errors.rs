//! Everything that is wrong with a configuration file, each with its place, the key's path and what to write instead.
//!
//! Never holds the content of a key file. The form of a line is `file:line:column: key.path: what; instead`.

use std::fmt;
use std::path::Path;

use super::outline;

/// Lists everything that is wrong with a configuration file, by position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Errors {
    file: String,
    issues: Vec<Issue>,
}

/// Is one thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Says where in the file; absent where the whole file is meant.
    pub position: Option<Position>,
    /// Is the path of the key, such as `peers[0].allowed_ips[1]`; empty where no key is meant.
    pub path: String,
    /// Says what is wrong and what to write instead.
    pub message: String,
}

/// Is a place in the file; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Is the line.
    pub line: u64,
    /// Is the column.
    pub column: u64,
}

impl Errors {
    /// Says that the file as a whole is no configuration.
    pub(super) fn whole(file: &Path, message: String) -> Self {
        Self { file: shown(file), issues: vec![Issue { position: None, path: String::new(), message }] }
    }

    /// Gives each finding the path of its key, and sorts them by position.
    pub(super) fn new(file: &Path, text: &str, found: Vec<Finding>) -> Self {
        let paths = outline::paths(text, found.iter().map(|finding| finding.position).collect());
        let nowhere = outline::At::default();
        let mut issues: Vec<Issue> = found
            .into_iter()
            .map(|finding| Issue {
                position: Some(finding.position),
                path: paths.get(&finding.position).unwrap_or(&nowhere).path(finding.subject),
                message: one_line(finding.message.chars()),
            })
            .collect();
        issues.sort_by_key(|issue| issue.position);
        Self { file: shown(file), issues }
    }

    /// Returns what is wrong beside what is excused, if anything is.
    pub fn but_for(mut self, is_excused: impl Fn(&Issue) -> bool) -> Option<Self> {
        self.issues.retain(|issue| !is_excused(issue));
        (!self.issues.is_empty()).then_some(self)
    }

    /// Returns what is wrong, by position; at least one.
    pub fn issues(&self) -> &[Issue] {
        &self.issues
    }
}

impl fmt::Display for Errors {
    /// Writes one line for each thing that is wrong.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.issues.iter().enumerate() {
            let end_of_line = if index == 0 { "" } else { "\n" };
            write!(f, "{end_of_line}{}:", self.file)?;
            if let Some(Position { line, column }) = issue.position {
                write!(f, "{line}:{column}:")?;
            }
            if !issue.path.is_empty() {
                write!(f, " {}:", issue.path)?;
            }
            write!(f, " {}", issue.message)?;
        }
        Ok(())
    }
}

fn shown(file: &Path) -> String {
    one_line(file.display().to_string().chars())
}

/// Keeps text on one line of a terminal.
pub(super) fn one_line(text: impl Iterator<Item = char>) -> String {
    text.map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Is something wrong at a position, before its key's path is known.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) position: Position,
    pub(super) subject: Subject,
    pub(super) message: String,
}

/// Says which key is meant at a position, where a mapping and its first key begin at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// The value that begins there.
    Value,
    /// The key that is written there.
    Key,
    /// A key that is missing in the mapping that begins there.
    Missing(&'static str),
    /// The file's text, whatever it means.
    Text,
}
