//! How far a change of the site's key is, as `wardlink status` and `wardlink rotate` say it. Pure.

use serde::Deserialize;

/// Is what the running site says of it.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct Rotation {
    /// Tells that the older key counts no more.
    pub(in crate::cli) is_done: bool,
    moved: usize,
    told: Vec<String>,
    not_told: Vec<String>,
}

impl Rotation {
    /// Says it, a line each.
    pub(in crate::cli) fn lines(&self) -> Vec<String> {
        let Self { is_done, moved, told, not_told } = self;
        if *is_done {
            let text = "the old key of this site counts no more: every peer knows the new one; `wardlink rotate --finish` removes it";
            return vec![text.to_owned()];
        }
        let all = moved + told.len() + not_told.len();
        let mut lines =
            vec![format!("this site has a new key: {moved} of {all} peers use it; the old one counts for the others")];
        if !told.is_empty() {
            lines.push(format!("  told the new key, and waited for: {}", told.join(", ")));
        }
        if !not_told.is_empty() {
            lines.push(format!(
                "  no link to tell it by (down, or plain WireGuard: give its admin the new card): {}",
                not_told.join(", ")
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_who_is_waited_for() {
        let said = |json| serde_json::from_value::<Rotation>(json).unwrap().lines().join("\n");
        let some = serde_json::json!({"is_done": false, "moved": 1, "told": ["a"], "not_told": ["b", "c"]});
        let some = said(some);
        assert!(
            some.contains("1 of 4 peers") && some.contains("waited for: a") && some.contains("new card): b, c"),
            "{some}"
        );
        let done = serde_json::json!({"is_done": true, "moved": 2, "told": [], "not_told": []});
        assert!(said(done).contains("rotate --finish"));
    }
}
