//! A YAML text as a tree whose nodes know where they stand in it.
//!
//! Pure. Reads scalars as text, as the configuration does; knows no anchors, aliases and tags, which a configuration may
//! not have. Format: YAML 1.2.

use std::ops::Range;

use serde_saphyr::granit_parser::{Event, Options, Parser, StructureStyle};

/// Limits the depth: a site has five levels.
const DEPTH_MAX: usize = 16;

/// Is a value, with the bytes of the text that it is written in.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// One value, as text.
    Scalar { value: String, at: Range<usize> },
    /// A list, in block style (lines of "- ...") or flow style ([...]).
    List { items: Vec<Node>, is_flow: bool, at: Range<usize> },
    /// A set of keys, in block style or flow style ({...}).
    Map { pairs: Vec<Pair>, is_flow: bool, at: Range<usize> },
}

/// Is a key with its value.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) key_at: Range<usize>,
    pub(super) value: Node,
}

impl Node {
    /// Returns a value that stands nowhere yet.
    pub(super) fn scalar(value: &str) -> Self {
        Self::Scalar { value: value.to_owned(), at: 0..0 }
    }

    /// Returns a list that stands nowhere yet.
    pub(super) fn list(items: Vec<Node>) -> Self {
        Self::List { items, is_flow: false, at: 0..0 }
    }

    /// Returns a set of keys that stands nowhere yet.
    pub(super) fn map(pairs: impl IntoIterator<Item = (String, Node)>) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| Pair { key, key_at: 0..0, value }).collect();
        Self::Map { pairs, is_flow: false, at: 0..0 }
    }

    /// Returns the bytes that it is written in; of what is in block style, as far as its last value.
    pub(super) fn at(&self) -> &Range<usize> {
        match self {
            Self::Scalar { at, .. } | Self::List { at, .. } | Self::Map { at, .. } => at,
        }
    }

    /// Finds a key.
    pub(super) fn pair(&self, key: &str) -> Option<&Pair> {
        let Self::Map { pairs, .. } = self else { return None };
        pairs.iter().find(|pair| pair.key == key)
    }

    /// Finds a key, to change its value.
    pub(super) fn pair_mut(&mut self, key: &str) -> Option<&mut Pair> {
        let Self::Map { pairs, .. } = self else { return None };
        pairs.iter_mut().find(|pair| pair.key == key)
    }

    /// Tells whether it has this name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        matches!(self.pair("name"), Some(Pair { value: Node::Scalar { value, .. }, .. }) if value == name)
    }

    /// Tells whether it says the same, wherever and however it is written; keys have no order.
    pub(super) fn says(&self, other: &Node) -> bool {
        match (self, other) {
            (Self::Scalar { value, .. }, Self::Scalar { value: other, .. }) => value == other,
            (Self::List { items, .. }, Self::List { items: others, .. }) => {
                items.len() == others.len() && items.iter().zip(others).all(|(item, other)| item.says(other))
            }
            (Self::Map { pairs, .. }, Self::Map { pairs: others, .. }) => {
                let is_there = |pair: &Pair| other.pair(&pair.key).is_some_and(|found| pair.value.says(&found.value));
                pairs.len() == others.len() && pairs.iter().all(is_there)
            }
            _ => false,
        }
    }
}

/// Reads a text; `None` where it is no YAML, or has what a configuration may not have.
pub(super) fn read(text: &str) -> Option<Node> {
    let mut options = Options::default();
    // The parser buffers few comments in a row; dropped ones do not count.
    options.emit_comments = false;
    let parser = Parser::new_from_str_with_options(text, options);
    let mut events = parser.map(|next| next.ok().and_then(|(event, span)| Some((event, span.byte_range()?))));
    let mut next = || events.next().flatten();
    matches!(next()?.0, Event::StreamStart).then_some(())?;
    matches!(next()?.0, Event::DocumentStart(..)).then_some(())?;
    let first = next()?;
    let root = node(first, &mut next, 0)?;
    matches!(next()?.0, Event::DocumentEnd).then_some(())?;
    matches!(next()?.0, Event::StreamEnd).then_some(root)
}

type Next<'a, 'text> = &'a mut dyn FnMut() -> Option<(Event<'text>, Range<usize>)>;

fn node<'text>((event, at): (Event<'text>, Range<usize>), next: Next<'_, 'text>, depth: usize) -> Option<Node> {
    if depth > DEPTH_MAX {
        return None;
    }
    match event {
        Event::Scalar(value, _, 0, None) => Some(Node::Scalar { value: value.into_owned(), at }),
        Event::SequenceStart(style, 0, None) => {
            let is_flow = style == StructureStyle::Flow;
            let (mut items, mut end) = (Vec::new(), at.end);
            loop {
                let (event, event_at) = next()?;
                if matches!(event, Event::SequenceEnd) {
                    let end = if is_flow { event_at.end } else { end };
                    return Some(Node::List { items, is_flow, at: at.start..end });
                }
                let item = node((event, event_at), next, depth + 1)?;
                end = item.at().end;
                items.push(item);
            }
        }
        Event::MappingStart(style, 0, None) => {
            let is_flow = style == StructureStyle::Flow;
            let (mut pairs, mut end): (Vec<Pair>, usize) = (Vec::new(), at.end);
            loop {
                let (event, event_at) = next()?;
                let key = match event {
                    Event::MappingEnd => {
                        let end = if is_flow { event_at.end } else { end };
                        return Some(Node::Map { pairs, is_flow, at: at.start..end });
                    }
                    Event::Scalar(key, _, 0, None) => key.into_owned(),
                    _ => return None,
                };
                let first = next()?;
                let value = node(first, next, depth + 1)?;
                end = value.at().end;
                if pairs.iter().any(|pair| pair.key == key) {
                    return None;
                }
                pairs.push(Pair { key, key_at: event_at, value });
            }
        }
        _ => None,
    }
}
