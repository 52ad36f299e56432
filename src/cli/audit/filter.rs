//! Which entries of the audit log are meant.
//!
//! Never writes what is looked for anywhere: a control id is hashed with the key of the log, which only root and the site's
//! own user can read, and compared as a hash.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Failure;
use crate::audit::AuditError;
use crate::audit::event::{EVENT_NAMES, Entry, hash_text, time_text};
use crate::config::SecretKey;
use crate::mllp::trace::TraceKey;

/// Bounds the file of a message, in bytes: `max_message_size` may be no more.
const CONTENT_BYTES_MAX: u64 = 1 << 30;

/// Says which entries.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Filter {
    /// Of this forward
    #[arg(long, value_name = "NAME")]
    forward: Option<String>,
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Of this peer
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Of these kinds, such as accepted,delivered,viewed
    #[arg(long, value_name = "EVENTS", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(EVENT_NAMES))]
    event: Vec<String>,
    /// From then on: 2026-11-29T13:00:00Z, 2026-11-29, or so long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to then, in the same way
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of this message of a queue, by its number
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,
    /// Of messages with this control id (MSH-10), and what became of them; - reads it from the standard input
    #[arg(long, value_name = "ID")]
    control_id: Option<String>,
    /// Of messages with exactly the content of this file
    #[arg(long, value_name = "FILE", conflicts_with = "control_id")]
    payload: Option<PathBuf>,
    /// What this operator did, such as "uid 0", "login 1000" or alice
    #[arg(long, value_name = "OPERATOR")]
    operator: Option<String>,
}

/// Finds entries.
pub(super) struct Matcher<'a> {
    filter: &'a Filter,
    since: Option<(SystemTime, String)>,
    until: Option<String>,
    control_id: Option<String>,
    payload: Option<String>,
    /// Are the messages that were found: what became of them is told as well.
    found: HashSet<(Option<String>, u64)>,
}

impl Filter {
    /// Reads times, and hashes what is looked for.
    ///
    /// # Errors
    /// A time is none, or the key cannot be read.
    pub(super) fn matcher(
        &self,
        now: SystemTime,
        key: impl FnOnce() -> Result<SecretKey, AuditError>,
    ) -> Result<Matcher<'_>, Failure> {
        let at = |text: &Option<String>| text.as_deref().map(|text| time(text, now)).transpose();
        let (since, until) = (at(&self.since)?, at(&self.until)?);
        if since.zip(until).is_some_and(|(since, until)| since >= until) {
            return Err(Failure::Usage("--until is not after --since: nothing is in between".to_owned()));
        }
        let mut matcher = Matcher {
            filter: self,
            since: since.map(|since| (since, time_text(since))),
            until: until.map(time_text),
            control_id: None,
            payload: None,
            found: HashSet::new(),
        };
        if self.control_id.is_some() || self.payload.is_some() {
            let key = TraceKey::new(key()?.expose());
            if let Some(control_id) = &self.control_id {
                let control_id = if control_id == "-" { from_input()? } else { control_id.clone() };
                let hashed = key.control_id(control_id.as_bytes());
                let hashed = hashed.ok_or_else(|| Failure::Usage("--control-id is empty: write MSH-10".to_owned()))?;
                matcher.control_id = Some(hash_text(&hashed));
            }
            if let Some(path) = &self.payload {
                matcher.payload = Some(hash_text(&key.payload(&content(path)?)));
            }
        }
        Ok(matcher)
    }
}

/// Reads a file of a message: of no device, and of none that is longer than any message.
fn content(path: &Path) -> Result<Vec<u8>, Failure> {
    let cannot = |source| Failure::Usage(format!("cannot read {}: {source}", path.display()));
    // A pipe would be waited for when it is opened.
    let metadata = std::fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err(Failure::Usage(format!("{} is no regular file: write the message to one", path.display())));
    }
    if metadata.len() > CONTENT_BYTES_MAX {
        return Err(Failure::Usage(format!("{} is longer than any message may be, 1 GiB", path.display())));
    }
    let mut content = Vec::new();
    File::open(path).and_then(|file| file.take(CONTENT_BYTES_MAX).read_to_end(&mut content)).map_err(cannot)?;
    Ok(content)
}

fn from_input() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Reads a time: a point, a day, or so long ago.
fn time(text: &str, now: SystemTime) -> Result<SystemTime, Failure> {
    let point =
        humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339_weak(&format!("{text}T00:00:00Z")));
    let ago = || now.checked_sub(humantime::parse_duration(text).ok()?);
    point.ok().or_else(ago).ok_or_else(|| {
        Failure::Usage(format!(
            "{text:?} is no time: write 2026-11-29T13:00:00Z, 2026-11-29, or so long ago, such as 2h"
        ))
    })
}

/// Tells whether an operator is meant: as the log has it, such as `uid 0 (login 1000, alice)`, or by any of its parts.
fn is_operator(wanted: &str, found: Option<&str>) -> bool {
    let Some(found) = found else { return false };
    let (uid, login) = found.split_once(" (").unwrap_or((found, ""));
    wanted == found || wanted == uid || login.trim_end_matches(')').split(", ").any(|part| part == wanted)
}

impl Matcher<'_> {
    /// Tells whether a file may have any of them: one that was written last before `since` has none.
    pub(super) fn may_be_in(&self, path: &Path) -> bool {
        let written = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        match (&self.since, written) {
            (Some((since, _)), Ok(written)) => written >= *since,
            _ => true,
        }
    }

    /// Tells whether an entry is one.
    pub(super) fn matches(&mut self, entry: &Entry) -> bool {
        let filter = self.filter;
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        // Times are written alike, so that their order is that of their text.
        let is_in_time = self.since.as_ref().is_none_or(|(_, since)| entry.at >= *since)
            && self.until.as_ref().is_none_or(|until| entry.at < *until);
        let is_named = is(&filter.forward, &entry.forward)
            && is(&filter.service, &entry.service)
            && is(&filter.peer, &entry.peer)
            && filter.operator.as_ref().is_none_or(|wanted| is_operator(wanted, entry.operator.as_deref()))
            && (filter.sequence.is_none() || filter.sequence == entry.sequence)
            && (filter.event.is_empty() || filter.event.contains(&entry.event));
        is_in_time && self.is_message(entry) && is_named
    }

    /// Tells whether an entry is about the message that is looked for; remembers which one that is.
    fn is_message(&mut self, entry: &Entry) -> bool {
        let (wanted, has) = match (&self.control_id, &self.payload) {
            (Some(wanted), _) => (wanted, &entry.control_id),
            (None, Some(wanted)) => (wanted, &entry.payload),
            (None, None) => return true,
        };
        let message = entry.sequence.map(|sequence| (entry.source.clone(), sequence));
        if has.as_ref() == Some(wanted) {
            self.found.extend(message);
            return true;
        }
        message.is_some_and(|message| message.0.is_some() && self.found.contains(&message))
    }
}
