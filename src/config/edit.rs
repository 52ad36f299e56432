//! Changes to the text of a configuration: whole entries of its lists, and single values of an entry.
//!
//! Pure. Every other byte stays as it is, comments among them. An edit proves itself: the new text is read again, and
//! must say what the old one said with exactly this change, and have every line of comment that was there; else there is
//! no edit, but the words to write by hand. So what is not understood (flow style, what an editor left) is refused, never
//! guessed at.

mod section;
mod tree;

use std::fmt::Write as _;
use std::ops::Range;

pub use section::{key_of, remove_key, set_key};
use tree::{Node, Pair};

/// Begins the note at a peer's name that says what its card offers.
const NOTE: &str = "# offers";

/// Is one key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// One value.
    Text(String),
    /// A list of values.
    List(Vec<String>),
}

impl Value {
    /// Wraps one value.
    pub fn text(value: impl ToString) -> Self {
        Self::Text(value.to_string())
    }

    fn node(&self) -> Node {
        match self {
            Self::Text(value) => Node::scalar(value),
            Self::List(values) => Node::list(values.iter().map(|value| Node::scalar(value)).collect()),
        }
    }

    fn yaml(&self) -> String {
        match self {
            Self::Text(value) => scalar(value),
            Self::List(values) => {
                let values: Vec<String> = values.iter().map(|value| scalar(value)).collect();
                format!("[{}]", values.join(", "))
            }
        }
    }
}

/// Is an entry of a list: its keys in order, the name first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Lists the keys.
    pub keys: Vec<(&'static str, Value)>,
    /// Says what a peer offers, beside its name; absent: nothing is said.
    pub offers: Option<String>,
}

impl Entry {
    fn node(&self) -> Node {
        Node::map(self.keys.iter().map(|(key, value)| ((*key).to_owned(), value.node())))
    }

    /// Writes the entry with its dash at a column.
    fn yaml(&self, column: usize) -> String {
        let mut yaml = String::new();
        for (index, (key, value)) in self.keys.iter().enumerate() {
            let dash = if index == 0 { "- " } else { "  " };
            let offers = self.offers.as_ref().filter(|_| index == 0);
            let note = offers.map(|offers| format!("   {}", note(offers))).unwrap_or_default();
            // Writing to a string cannot fail.
            writeln!(yaml, "{:column$}{dash}{key}: {}{note}", "", value.yaml()).ok();
        }
        yaml
    }
}

/// Says why a text is not edited, and what to write by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}:{} is written in a way that is not edited here; {instead}", line.map(|line| format!(" (line {line})")).unwrap_or_default())]
pub struct NotEdited {
    key: String,
    line: Option<usize>,
    instead: String,
}

/// Appends an entry to a list of the site; the list is made where it is missing.
///
/// # Errors
/// The text is not understood: says what to write into it.
pub fn append(text: &str, list: &str, entry: &Entry) -> Result<String, NotEdited> {
    let instead = format!("write this there yourself, then `wardlink check-config`:\n{list}:\n{}", entry.yaml(2));
    let edit = Edit { text, key: list, instead };
    let old = edit.read()?;
    let (mut wanted, lines) = (old.clone(), |column| entry.yaml(column));
    let new = match old.pair(list).map(|pair| &pair.value) {
        None => {
            let Node::Map { pairs, .. } = &mut wanted else { return Err(edit.refuse(&old)) };
            let value = Node::list(vec![entry.node()]);
            pairs.push(Pair { key: list.to_owned(), key_at: 0..0, value });
            edit.insert(text.len(), &format!("\n{list}:\n{}", lines(2)))
        }
        Some(Node::List { items, is_flow: true, at }) if items.is_empty() => {
            push(&mut wanted, list, entry);
            let gone = without_blanks_before(text, at);
            let emptied = edit.replace(gone.clone(), "");
            let end = line_end(&emptied, gone.start);
            Edit { text: &emptied, ..edit.clone() }.insert(end, &lines(2))
        }
        Some(Node::List { items, is_flow: false, .. }) => {
            let dash = items.first().and_then(|item| dash_column(text, item)).ok_or_else(|| edit.refuse(&old))?;
            let last = items.last().ok_or_else(|| edit.refuse(&old))?;
            push(&mut wanted, list, entry);
            edit.insert(after_own_comments(text, last, dash), &lines(dash))
        }
        Some(_) => return Err(edit.refuse(&old)),
    };
    edit.proven(&old, new, &wanted)
}

/// Removes the entry with a name from a list of the site; lines of comment in it stay.
///
/// # Errors
/// The text is not understood: says what to remove from it.
pub fn remove(text: &str, list: &str, name: &str) -> Result<String, NotEdited> {
    let instead = format!("remove the entry named {name} there yourself, then `wardlink check-config`");
    let edit = Edit { text, key: list, instead };
    let old = edit.read()?;
    let Some(Pair { key_at, value: Node::List { items, is_flow: false, .. }, .. }) = old.pair(list) else {
        return Err(edit.refuse(&old));
    };
    let index = items.iter().position(|item| item.is_named(name)).ok_or_else(|| edit.refuse(&old))?;
    let item = items.get(index).ok_or_else(|| edit.refuse(&old))?;
    dash_column(text, item).ok_or_else(|| edit.refuse(&old))?;
    let lines = line_start(text, item.at().start)..line_end(text, last_byte(text, item));
    let comments: String =
        part(text, lines.clone()).split_inclusive('\n').filter(|line| line.trim_start().starts_with('#')).collect();
    let mut new = edit.replace(lines, &comments);
    if items.len() == 1 {
        // Without an entry the key would have no value, which is an error.
        let colon = part(text, key_at.end..text.len()).find(':').ok_or_else(|| edit.refuse(&old))?;
        new.insert_str(key_at.end + colon + 1, " []");
    }
    let mut wanted = old.clone();
    if let Some(Pair { value: Node::List { items, .. }, .. }) = wanted.pair_mut(list) {
        items.remove(index);
    }
    edit.proven(&old, new, &wanted)
}

/// Sets one key of the entry with a name in a list of the site.
///
/// # Errors
/// The text is not understood: says what to set in it.
pub fn set(text: &str, list: &str, name: &str, key: &str, value: &Value) -> Result<String, NotEdited> {
    let instead = format!("set `{key}: {}` at {name} there yourself, then `wardlink check-config`", value.yaml());
    let edit = Edit { text, key: list, instead };
    let old = edit.read()?;
    let item = named(&old, list, name).ok_or_else(|| edit.refuse(&old))?;
    let new = match (item.pair(key).map(|pair| &pair.value), value) {
        (Some(found), value) if found.says(&value.node()) => return Ok(text.to_owned()),
        (Some(Node::Scalar { at, .. }), Value::Text(value)) => edit.replace(at.clone(), &scalar(value)),
        (Some(Node::List { items, .. }), Value::List(values)) => match (items.as_slice(), values.as_slice()) {
            ([Node::Scalar { at, .. }], [value]) => edit.replace(at.clone(), &scalar(value)),
            _ => return Err(edit.refuse(&old)),
        },
        (None, value) => {
            let Node::Map { pairs, is_flow: false, at } = item else { return Err(edit.refuse(&old)) };
            let first = pairs.first().ok_or_else(|| edit.refuse(&old))?;
            let column = at.start - line_start(text, at.start);
            let line = format!("{:column$}{key}: {}\n", "", value.yaml());
            edit.insert(line_end(text, last_byte(text, &first.value)), &line)
        }
        _ => return Err(edit.refuse(&old)),
    };
    let mut wanted = old.clone();
    if let Some(item) = named_mut(&mut wanted, list, name) {
        match item.pair_mut(key) {
            Some(pair) => pair.value = value.node(),
            None => {
                let Node::Map { pairs, .. } = item else { return Err(edit.refuse(&old)) };
                pairs.push(Pair { key: key.to_owned(), key_at: 0..0, value: value.node() });
            }
        }
    }
    edit.proven(&old, new, &wanted)
}

/// Writes what a peer offers beside its name; a comment that somebody else wrote there stays instead.
pub fn set_offers(text: &str, list: &str, name: &str, offers: Option<&str>) -> String {
    let unchanged = || text.to_owned();
    let Some(old) = tree::read(text) else { return unchanged() };
    let Some(name) = named(&old, list, name).and_then(|item| item.pair("name")) else { return unchanged() };
    let end = name.value.at().end;
    let line = end..line_end(text, end);
    let rest = part(text, line.clone()).trim_end();
    if !(rest.is_empty() || rest.trim_start().starts_with(NOTE)) {
        return unchanged();
    }
    let note = offers.map(|offers| format!("   {}", note(offers))).unwrap_or_default();
    let edit = Edit { text, key: list, instead: String::new() };
    let new = edit.replace(end..end + rest.len(), &note);
    let is_same = tree::read(&new).is_some_and(|new| new.says(&old));
    if is_same { new } else { unchanged() }
}

/// Adds a key with keys of its own to a site that does not have it.
///
/// # Errors
/// The text is not understood: says what to write into it.
pub fn add_section(text: &str, section: &str, keys: &[(&str, Value)]) -> Result<String, NotEdited> {
    let mut lines = format!("\n{section}:\n");
    for (key, value) in keys {
        writeln!(lines, "  {key}: {}", value.yaml()).ok();
    }
    let instead = format!("write this there yourself, then `wardlink check-config`:{lines}");
    let edit = Edit { text, key: section, instead };
    let old = edit.read()?;
    let mut wanted = old.clone();
    match &mut wanted {
        Node::Map { pairs, .. } if old.pair(section).is_none() => {
            let value = Node::map(keys.iter().map(|(key, value)| ((*key).to_owned(), value.node())));
            pairs.push(Pair { key: section.to_owned(), key_at: 0..0, value });
        }
        _ => return Err(edit.refuse(&old)),
    }
    edit.proven(&old, edit.insert(text.len(), &lines), &wanted)
}

/// Is a text that is edited, and what to do by hand where it is not.
#[derive(Clone)]
struct Edit<'a> {
    text: &'a str,
    key: &'a str,
    instead: String,
}

impl Edit<'_> {
    fn read(&self) -> Result<Node, NotEdited> {
        tree::read(self.text).ok_or_else(|| self.refused(None))
    }

    fn refuse(&self, root: &Node) -> NotEdited {
        let line = root.pair(self.key).map(|pair| part(self.text, 0..pair.key_at.start).matches('\n').count() + 1);
        self.refused(line)
    }

    fn refused(&self, line: Option<usize>) -> NotEdited {
        NotEdited { key: self.key.to_owned(), line, instead: self.instead.clone() }
    }

    /// Inserts whole lines where a line begins, or at the end.
    fn insert(&self, at: usize, lines: &str) -> String {
        let is_open = at == self.text.len() && !self.text.is_empty() && !self.text.ends_with('\n');
        let lines = if is_open { format!("\n{lines}") } else { lines.to_owned() };
        let lines = if self.text.contains("\r\n") { lines.replace('\n', "\r\n") } else { lines };
        self.replace(at..at, &lines)
    }

    fn replace(&self, at: Range<usize>, by: &str) -> String {
        [part(self.text, 0..at.start), by, part(self.text, at.end..self.text.len())].concat()
    }

    /// Returns the new text if it says what is wanted, and every line of comment is still there.
    fn proven(&self, old: &Node, new: String, wanted: &Node) -> Result<String, NotEdited> {
        let says = tree::read(&new).is_some_and(|new| new.says(wanted));
        let keeps = {
            let mut lines = comments(&new);
            comments(self.text).all(|comment| lines.any(|line| line == comment))
        };
        if says && keeps { Ok(new) } else { Err(self.refuse(old)) }
    }
}

fn comments(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| line.starts_with('#'))
}

fn named<'a>(root: &'a Node, list: &str, name: &str) -> Option<&'a Node> {
    let Node::List { items, .. } = &root.pair(list)?.value else { return None };
    items.iter().find(|item| item.is_named(name))
}

fn named_mut<'a>(root: &'a mut Node, list: &str, name: &str) -> Option<&'a mut Node> {
    let Node::List { items, .. } = &mut root.pair_mut(list)?.value else { return None };
    items.iter_mut().find(|item| item.is_named(name))
}

fn push(root: &mut Node, list: &str, entry: &Entry) {
    if let Some(Pair { value: Node::List { items, .. }, .. }) = root.pair_mut(list) {
        items.push(entry.node());
    }
}

fn note(offers: &str) -> String {
    format!("{NOTE} {offers}")
}

/// Returns the column of the dash that an entry begins with; `None` where something else is on its line before it.
fn dash_column(text: &str, item: &Node) -> Option<usize> {
    let before = part(text, line_start(text, item.at().start)..item.at().start);
    let indent = before.len() - before.trim_start_matches(' ').len();
    let is_dash = before.trim() == "-" && before.ends_with(' ');
    is_dash.then_some(indent)
}

/// Returns where the line after an entry begins, and after the lines of comment that are indented as parts of it.
fn after_own_comments(text: &str, item: &Node, dash: usize) -> usize {
    let mut at = line_end(text, last_byte(text, item));
    for line in part(text, at..text.len()).split_inclusive('\n') {
        let inner = line.trim_start_matches(' ');
        if !inner.starts_with('#') || line.len() - inner.len() <= dash {
            break;
        }
        at += line.len();
    }
    at
}

/// Returns the last byte of a value that is no white space.
fn last_byte(text: &str, item: &Node) -> usize {
    part(text, 0..item.at().end).trim_end().len().saturating_sub(1)
}

fn without_blanks_before(text: &str, at: &Range<usize>) -> Range<usize> {
    part(text, 0..at.start).trim_end_matches(' ').len()..at.end
}

fn line_start(text: &str, at: usize) -> usize {
    memchr::memrchr(b'\n', text.as_bytes().get(..at).unwrap_or_default()).map_or(0, |end| end + 1)
}

/// Returns where the next line begins.
fn line_end(text: &str, at: usize) -> usize {
    memchr::memchr(b'\n', text.as_bytes().get(at..).unwrap_or_default()).map_or(text.len(), |end| at + end + 1)
}

fn part(text: &str, at: Range<usize>) -> &str {
    text.get(at).unwrap_or_default()
}

/// Writes one value: plain where it cannot mean anything else, quoted otherwise.
pub fn scalar(value: &str) -> String {
    let is_word = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && value.starts_with(|c: char| c.is_ascii_alphanumeric());
    if is_word && !value.eq_ignore_ascii_case("null") {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Eight digits suffice for every character (YAML 1.2, 5.7); writing to a string cannot fail.
            c if c.is_control() || ('\u{2028}'..='\u{2029}').contains(&c) || c == '\u{feff}' => {
                write!(quoted, "\\U{:08x}", u32::from(c)).ok();
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
