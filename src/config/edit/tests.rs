//! Edits of texts as people write them: what is changed, and that nothing else is.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn entry(name: &str) -> Entry {
    let keys =
        vec![("name", Value::text(name)), ("to", Value::text("[fd98::1]:1")), ("of", Value::List(vec!["a".into()]))];
    Entry { keys, offers: None }
}

/// Reads a text by another way than the edits do.
fn json(text: &str) -> Json {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn entry_json(name: &str) -> Json {
    json!({"name": name, "to": "[fd98::1]:1", "of": ["a"]})
}

#[test]
fn an_entry_is_written_as_its_neighbours_are() {
    let text = "# head\npeers:\n    - name: a   # the first\n      to: x\n      # of: y\n    # - name: z\n\nsite: s   # here\n";
    let new = append(text, "peers", &entry("b")).unwrap();
    let at = "      # of: y\n    - name: b\n      to: \"[fd98::1]:1\"\n      of: [a]\n    # - name: z\n";
    assert_eq!(new, text.replace("      # of: y\n    # - name: z\n", at));
    assert_eq!(remove(&new, "peers", "b").unwrap(), text);
}

#[test]
fn a_list_is_made_and_emptied() {
    let new = append("site: s", "peers", &entry("b")).unwrap();
    assert_eq!(new, "site: s\n\npeers:\n  - name: b\n    to: \"[fd98::1]:1\"\n    of: [a]\n");
    let empty = remove(&new, "peers", "b").unwrap();
    assert_eq!(empty, "site: s\n\npeers: []\n");
    assert_eq!(append(&empty, "peers", &entry("b")).unwrap(), new);
    let text = "peers:   []   # none yet\n# end";
    let new = append(text, "peers", &entry("b")).unwrap();
    assert_eq!(new, "peers:   # none yet\n  - name: b\n    to: \"[fd98::1]:1\"\n    of: [a]\n# end");
    assert_eq!(
        add_section("site: s\n", "spool", &[("key_file", Value::text("/k"))]).unwrap(),
        "site: s\n\nspool:\n  key_file: \"/k\"\n"
    );
    assert!(add_section("site: s\nspool: {dir: x}\n", "spool", &[("key_file", Value::text("/k"))]).is_err());
}

#[test]
fn comments_in_what_is_removed_stay() {
    let text = "peers:\n  # about a\n  - name: a\n    # kept\n    to: x   # goes\n  - {name: b}\n";
    assert_eq!(remove(text, "peers", "a").unwrap(), "peers:\n  # about a\n    # kept\n  - {name: b}\n");
    assert_eq!(remove(text, "peers", "b").unwrap(), text.replace("  - {name: b}\n", ""));
}

#[test]
fn values_are_set_where_they_stand() {
    let text = "peers:\n  - to: 'x'   # old\n    name: a   # offers y\n    of: [ b ]   # one\n  - {name: c, to: x, of: [d, e]}\n";
    let set = |name, key, value| set(text, "peers", name, key, &value);
    assert_eq!(set("a", "to", Value::text("z")).unwrap(), text.replace("'x'", "z"));
    assert_eq!(set("c", "to", Value::text("z:1")).unwrap(), text.replace("to: x,", "to: \"z:1\","));
    assert_eq!(set("a", "of", Value::List(vec!["z".into()])).unwrap(), text.replace("[ b ]", "[ z ]"));
    assert_eq!(set("a", "new", Value::text("1")).unwrap(), text.replace("# old\n", "# old\n    new: 1\n"));
    assert_eq!(set("a", "to", Value::text("x")).unwrap(), text);
    assert!(set("c", "new", Value::text("1")).is_err());
    assert!(set("c", "of", Value::List(vec!["z".into()])).is_err());
    assert!(set("d", "to", Value::text("1")).is_err());
    assert_eq!(set_offers(text, "peers", "a", Some("y, z")), text.replace("offers y", "offers y, z"));
    assert_eq!(set_offers(text, "peers", "a", None), text.replace("   # offers y", ""));
    assert_eq!(set_offers(text, "peers", "c", Some("y")), text);
}

#[test]
fn what_is_not_understood_is_refused_with_what_to_write() {
    for text in [
        "peers: [{name: a}]\n",
        "peers: a\n",
        "{site: s}\n",
        "a: &b c\npeers: []\n",
        "a: b\n---\nc: d\n",
        "a: 'b\n",
        "a: b\n...\n",
    ] {
        let error = append(text, "peers", &entry("b")).unwrap_err().to_string();
        assert!(error.contains("peers:\n  - name: b\n    to: \"[fd98::1]:1\"\n"), "{text}: {error}");
    }
    let error = remove("site: s\npeers: [{name: a}]\n", "peers", "a").unwrap_err();
    assert_eq!(
        error.to_string(),
        "peers: (line 2) is written in a way that is not edited here; remove the entry named a there yourself, then \
         `wardlink check-config`"
    );
}

#[test]
fn values_mean_what_they_are() {
    for value in [
        "null",
        "~",
        "",
        "-",
        "- a",
        "a: b",
        "#",
        "a #b",
        "\"\\'",
        "é\u{7}\n\u{2028}\u{feff}",
        "true",
        "0x1",
        "[a]",
        "/p/q.key",
    ] {
        let read: std::collections::HashMap<String, String> =
            serde_saphyr::from_str(&format!("a: {}\n", scalar(value))).unwrap();
        assert_eq!(read["a"], value);
    }
    assert_eq!(scalar("city-lab"), "city-lab");
}

/// Is a list as somebody may have written it, with the names in it.
fn list(key: &'static str) -> impl Strategy<Value = (String, Vec<String>)> {
    let comment =
        prop_oneof![Just(""), Just("  # with words\n"), Just("# at the left\n"), Just("      # far in\n"), Just("\n")];
    let style = 0..4_usize;
    let entry = (style, comment.clone(), comment.clone(), prop_oneof![Just(""), Just("   # beside")]);
    (prop::collection::vec(entry, 0..4), 0..3_usize, any::<bool>(), comment).prop_map(
        move |(entries, indent, flow, after)| {
            let names: Vec<String> = (0..entries.len()).map(|index| format!("{}{index}", &key[..1])).collect();
            if entries.is_empty() || flow {
                let items: Vec<String> = names.iter().map(|name| format!("{{name: {name}}}")).collect();
                return (format!("{key}: [{}]   # flow\n{after}", items.join(", ")), names);
            }
            let dash = " ".repeat(2 * indent);
            let mut text = format!("{key}:\n");
            for ((style, before, inside, beside), name) in entries.into_iter().zip(&names) {
                text.push_str(before);
                text.push_str(&match style {
                    0 => format!("{dash}- name: {name}{beside}\n{inside}{dash}  to: \"é: # 1\"\n"),
                    1 => format!("{dash}- to: 'x'\n{inside}{dash}  name: \"{name}\"{beside}\n"),
                    2 => format!("{dash}- {{name: {name}, of: [a, b]}}{beside}\n"),
                    _ => format!(
                        "{dash}-   name: {name}\n{inside}{dash}    of:{beside}\n{dash}      - a\n{dash}      - b\n"
                    ),
                });
            }
            (text + after, names)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn an_edit_changes_one_entry_and_keeps_every_comment(
        (peers, names) in list("peers"),
        (forwards, _) in list("forwards"),
        is_crlf in any::<bool>(),
        is_cut in any::<bool>(),
        at in 0..4_usize,
    ) {
        let mut text = format!("# the site\nsite: s   # named\n{peers}tunnel:\n  # inner\n  mtu: 1\n{forwards}");
        if is_cut {
            text.truncate(text.trim_end().len());
        }
        if is_crlf {
            text = text.replace('\n', "\r\n");
        }
        let old = json(&text);
        let comments = |text: &str| -> Vec<String> {
            text.lines().map(str::trim).filter(|line| line.starts_with('#')).map(str::to_owned).collect()
        };
        let is_flow = |list: &str| !list.contains(": []") && list.contains(": [{");
        let check = |list: &str, source: &str, edited: Result<String, NotEdited>, change: &dyn Fn(&mut Vec<Json>)| {
            match edited {
                // A flow list with something in it is the only thing here that is not understood.
                Err(error) => assert!(is_flow(source), "{error}\n{text}"),
                Ok(new) => {
                    let mut wanted = old.clone();
                    change(wanted[list].as_array_mut().unwrap());
                    assert_eq!(json(&new), wanted, "{new}");
                    assert_eq!(comments(&new), comments(&text), "{new}");
                    assert!(!is_crlf || new.matches('\n').count() == new.matches("\r\n").count(), "{new:?}");
                }
            }
        };
        check("peers", &peers, append(&text, "peers", &entry("new")), &|items| items.push(entry_json("new")));
        check("forwards", &forwards, append(&text, "forwards", &entry("new")), &|items| items.push(entry_json("new")));
        if let Some(name) = names.get(at) {
            check("peers", &peers, remove(&text, "peers", name), &|items| items.retain(|item| item["name"] != **name));
            if !is_flow(&peers) {
                let edited = set(&text, "peers", name, "to", &Value::text("y: 1"));
                let is_in_braces = text.contains(&format!("{{name: {name}, of"));
                assert!(edited.is_ok() || is_in_braces, "{text}");
                if edited.is_ok() {
                    let set = |items: &mut Vec<Json>| {
                        items.iter_mut().filter(|item| item["name"] == **name).for_each(|item| item["to"] = json!("y: 1"));
                    };
                    check("peers", &peers, edited, &set);
                }
            }
        }
    }
}
