//! Single keys of a section of the site, such as `tunnel`: set, and removed with their line.
//!
//! Pure. As with the entries of lists, an edit proves itself or there is none.

use super::tree::{Node, Pair};
use super::{Edit, NotEdited, Value, last_byte, line_end, line_start, part, scalar};

/// Sets one key of a section; one that is not there comes behind another one.
///
/// # Errors
/// The text is not understood: says what to set in it.
pub fn set_key(text: &str, section: &str, key: &str, value: &str, behind: &str) -> Result<String, NotEdited> {
    let value = Value::text(value);
    let instead = format!("set `{key}: {}` in {section} there yourself, then `wardlink check-config`", value.yaml());
    let edit = Edit { text, key: section, instead };
    let old = edit.read()?;
    let Some(Pair { value: found @ Node::Map { is_flow: false, at, .. }, .. }) = old.pair(section) else {
        return Err(edit.refuse(&old));
    };
    let mut wanted = old.clone();
    let Some(Pair { value: Node::Map { pairs, .. }, .. }) = wanted.pair_mut(section) else {
        return Err(edit.refuse(&old));
    };
    let new = match (found.pair(key).map(|pair| &pair.value), &value) {
        (Some(Node::Scalar { at, .. }), Value::Text(value)) => edit.replace(at.clone(), &scalar(value)),
        (None, _) => {
            let behind = found.pair(behind).ok_or_else(|| edit.refuse(&old))?;
            let column = at.start - line_start(text, at.start);
            let line = format!("{:column$}{key}: {}\n", "", value.yaml());
            edit.insert(line_end(text, last_byte(text, &behind.value)), &line)
        }
        _ => return Err(edit.refuse(&old)),
    };
    match pairs.iter_mut().find(|pair| pair.key == key) {
        Some(pair) => pair.value = value.node(),
        None => pairs.push(Pair { key: key.to_owned(), key_at: 0..0, value: value.node() }),
    }
    edit.proven(&old, new, &wanted)
}

/// Removes one key of a section, with its line; nothing where it is not there.
///
/// # Errors
/// The text is not understood: says what to remove from it.
pub fn remove_key(text: &str, section: &str, key: &str) -> Result<String, NotEdited> {
    let instead = format!("remove `{key}` from {section} there yourself, then `wardlink check-config`");
    let edit = Edit { text, key: section, instead };
    let old = edit.read()?;
    let Some(Pair { value: Node::Map { pairs, .. }, .. }) = old.pair(section) else { return Err(edit.refuse(&old)) };
    let Some(pair) = pairs.iter().find(|pair| pair.key == key) else { return Ok(text.to_owned()) };
    let line = line_start(text, pair.key_at.start)..line_end(text, last_byte(text, &pair.value));
    let is_alone = part(text, line.start..pair.key_at.start).trim().is_empty();
    if !is_alone || !matches!(pair.value, Node::Scalar { .. }) {
        return Err(edit.refuse(&old));
    }
    let mut wanted = old.clone();
    if let Some(Pair { value: Node::Map { pairs, .. }, .. }) = wanted.pair_mut(section) {
        pairs.retain(|pair| pair.key != key);
    }
    edit.proven(&old, edit.replace(line, ""), &wanted)
}

/// Returns one key of a section as the text has it.
pub fn key_of(text: &str, section: &str, key: &str) -> Option<String> {
    match &super::tree::read(text)?.pair(section)?.value.pair(key)?.value {
        Node::Scalar { value, .. } => Some(value.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "site: a\ntunnel:\n  # the key\n  private_key_file: a.key   # 0600\n  address: [10.0.0.1]\npeers: []\n";

    #[test]
    fn a_key_is_set_and_added_and_removed_and_comments_stay() {
        let set = set_key(TEXT, "tunnel", "private_key_file", "/etc/b.key", "address").unwrap();
        assert!(set.contains("  private_key_file: \"/etc/b.key\"   # 0600\n"), "{set}");
        let added = set_key(&set, "tunnel", "old_private_key_file", "a.key", "private_key_file").unwrap();
        assert!(added.contains("# 0600\n  old_private_key_file: \"a.key\"\n  address"), "{added}");
        assert_eq!(key_of(&added, "tunnel", "old_private_key_file").as_deref(), Some("a.key"));
        assert_eq!(remove_key(&added, "tunnel", "old_private_key_file").unwrap(), set);
        assert_eq!(remove_key(&set, "tunnel", "old_private_key_file").unwrap(), set, "it is not there");
    }

    #[test]
    fn what_is_not_understood_is_left_and_named() {
        let flow = "tunnel: {private_key_file: a.key}\n";
        let error = set_key(flow, "tunnel", "private_key_file", "b.key", "private_key_file").unwrap_err().to_string();
        assert!(error.contains("set `private_key_file: \"b.key\"` in tunnel"), "{error}");
        assert!(remove_key(flow, "tunnel", "private_key_file").is_err());
        assert!(set_key(TEXT, "health", "listen", "none", "listen").is_err());
    }
}
