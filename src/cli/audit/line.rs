//! An entry of the audit log as a line for people. Pure.
//!
//! Shows no hash: those are for machines.

use crate::audit::event::Entry;

/// Is the width of the longest name of an event.
const EVENT_WIDTH: usize = 14;

/// Writes an entry: when, what, about what, by whom.
pub(super) fn line(entry: &Entry) -> String {
    let mut parts = Vec::new();
    parts.extend(entry.forward.clone());
    parts.extend(entry.service.as_ref().map(|service| format!("service {service}")));
    parts.extend(entry.peer.as_ref().map(|peer| format!("peer {peer}")));
    parts.extend(entry.sequence.map(|sequence| format!("message {sequence}")));
    parts.extend(entry.message_type.clone());
    parts.extend(entry.bytes.map(|bytes| format!("{bytes} bytes")));
    parts.extend(entry.code.clone());
    parts.extend(entry.attempts.filter(|attempts| *attempts > 1).map(|attempts| format!("{attempts} attempts")));
    parts.extend(entry.in_doubt.map(|count| format!("{count} in doubt")));
    parts.extend(entry.count.map(|count| format!("{count} of them")));
    parts.extend(entry.through.map(|through| format!("up to entry {through}")));
    parts.extend(entry.operator.as_ref().map(|operator| format!("by {operator}")));
    let about = parts.join(", ");
    let detail = entry.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    let text = format!("{}  {:EVENT_WIDTH$}  {about}{detail}", entry.at, entry.event);
    // The log may be somebody's making: nothing of it steers the terminal.
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>().trim_end().to_owned()
}
