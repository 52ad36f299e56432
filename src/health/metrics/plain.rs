//! The metrics in the older text format of Prometheus (0.0.4), for who asks for `text/plain` and knows no OpenMetrics.
//!
//! Only what describes differs: a counter is described by the name that its samples have, and what that format has no word
//! for goes. Never changes a sample.

/// Is the content type of what [`plain`] writes.
pub const PLAIN_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Tells whether who accepts this knows the older format only.
pub fn is_asked_for(accept: &str) -> bool {
    accept.contains("text/plain") && !accept.contains("openmetrics")
}

/// Writes OpenMetrics text in that format.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            let help = help.filter(|(of, _)| *of == name).map_or("", |(_, help)| help);
            out.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}
