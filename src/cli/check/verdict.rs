//! The judgement of `wardlink check`, and its line. Pure.
//!
//! Understands what it needs of a status and leaves out what a site of another version does not say.

use std::fmt;
use std::time::SystemTime;

use serde::Deserialize;

use super::limits::{self, Figure, Limit};

/// Limits the causes in a line: a pager shows one line.
const CAUSES_MAX: usize = 3;

/// Is what monitoring knows, best first; what cannot be told is worse than a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Ok,
    Warning,
    Unknown,
    Critical,
}

impl State {
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Translates the word of a status; a word of a later version is not known here.
    fn of(status: &str) -> Self {
        match status {
            "ok" | "unknown" => Self::Ok,
            "degraded" => Self::Warning,
            "down" => Self::Critical,
            _ => Self::Unknown,
        }
    }
}

/// Is what is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) state: State,
    text: String,
    performance: Vec<String>,
}

impl Verdict {
    pub(super) fn new(state: State, text: &str) -> Self {
        Self { state, text: text.to_owned(), performance: Vec::new() }
    }

    pub(super) fn unknown(text: &str) -> Self {
        Self::new(State::Unknown, text)
    }
}

impl fmt::Display for Verdict {
    /// Writes one line; what is behind `|` is performance data, so that the text has none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line: String = self.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        write!(f, "WARDLINK {}: {}", self.state.as_str(), line.replace('|', "/"))?;
        if !self.performance.is_empty() {
            write!(f, " | {}", self.performance.join(" "))?;
        }
        Ok(())
    }
}

/// Is what is judged of a site's status.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    site: String,
    status: Option<String>,
    started: Option<String>,
    #[serde(default)]
    unready: Vec<String>,
    #[serde(default)]
    degraded: Vec<Own>,
    #[serde(default)]
    peers: Vec<Peer>,
    #[serde(default)]
    forwards: Vec<Forward>,
    #[serde(default)]
    services: Vec<Entry>,
    #[serde(default)]
    orphans: Vec<Entry>,
    #[serde(default)]
    alarms: Vec<Alarm>,
}

/// Is an alarm that is raised.
#[derive(Debug, Deserialize)]
struct Alarm {
    alarm: String,
    of: String,
    cause: String,
}

/// Is what of the site itself needs a look.
#[derive(Debug, Deserialize)]
struct Own {
    status: String,
    since: Option<String>,
    cause: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    status: String,
    since: Option<String>,
    cause: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    #[serde(flatten)]
    entry: Entry,
    set_by: Option<String>,
    latest_handshake_age_seconds: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Forward {
    #[serde(flatten)]
    entry: Entry,
    peer: Option<String>,
    delivery: Option<String>,
    connections: Option<f64>,
    queue_depth: Option<f64>,
    parked_messages: Option<f64>,
    oldest_queued_age_seconds: Option<f64>,
    oldest_unanswered_age_seconds: Option<f64>,
    last_ack_age_seconds: Option<f64>,
}

/// Is one reading of a figure.
struct Reading<'a> {
    of: &'a str,
    figure: Figure,
    value: f64,
}

/// Judges a whole site, or one forward and the peer that it goes to.
pub(super) fn judge(
    status: &Status,
    forward: Option<&str>,
    warning: &[Limit],
    critical: &[Limit],
    now: SystemTime,
) -> Verdict {
    let chosen: Vec<&Forward> =
        status.forwards.iter().filter(|one| forward.is_none_or(|name| one.entry.name == name)).collect();
    if let (Some(name), true) = (forward, chosen.is_empty()) {
        let names: Vec<&str> = status.forwards.iter().map(|one| one.entry.name.as_str()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Verdict::unknown(&format!("no forward is named {name} at {}; there are: {there}", status.site));
    }
    let peers = status.peers.iter().filter(|peer| match forward {
        Some(_) => chosen.iter().any(|one| one.peer.as_deref() == Some(&peer.entry.name)),
        None => peer.set_by.as_deref() != Some("wg"),
    });
    let peers: Vec<&Peer> = peers.collect();
    if let Some(fault) = out_of_place(&chosen, warning, critical) {
        return Verdict::unknown(&fault);
    }
    let mut faults: Vec<(State, String)> = Vec::new();
    let entries = chosen.iter().map(|one| &one.entry);
    if forward.is_none() {
        let others = peers.iter().map(|peer| &peer.entry).chain(&status.services).chain(&status.orphans);
        let entries: Vec<&Entry> = entries.chain(others).collect();
        let causes = entries.iter().filter_map(|entry| entry.cause.as_deref()).filter(|cause| !cause.is_empty());
        let unready = status.unready.iter().filter(|line| !causes.clone().any(|cause| line.ends_with(cause)));
        faults.extend(unready.map(|line| (State::Critical, line.clone())));
        faults.extend(entries.into_iter().filter_map(fault));
        let own = status.degraded.iter().filter_map(|own| why(&own.status, own.cause.as_deref(), own.since.as_deref()));
        faults.extend(own);
        // Whatever is not listed above: what the site says of itself holds.
        let whole = status.status.as_deref().map_or(State::Ok, State::of);
        if whole > State::Ok && faults.iter().all(|(state, _)| *state < whole) {
            faults.push((
                whole,
                format!(
                    "{} is {}: wardlink status says why",
                    status.site,
                    status.status.as_deref().unwrap_or_default()
                ),
            ));
        }
    } else {
        faults.extend(entries.filter_map(fault));
    }
    let services = status.services.iter().filter(|_| forward.is_none()).map(|one| ("service", one));
    let watched = chosen.iter().map(|one| ("forward", &one.entry)).chain(services);
    faults.extend(watched.filter_map(|one| not_seen_well(one, &status.alarms)));
    faults.extend(never(status, &chosen, &peers, (warning, critical), now));
    let mut performance = Vec::new();
    for reading in readings(&chosen, &peers) {
        let (warn, crit) = (limits::of(warning, reading.figure), limits::of(critical, reading.figure));
        let over = |limit: Option<f64>| limit.is_some_and(|limit| reading.value >= limit);
        let state =
            if over(crit) { Some((State::Critical, crit)) } else { over(warn).then_some((State::Warning, warn)) };
        if let Some((state, limit)) = state {
            let (unit, limit) = (reading.figure.unit(), limit.unwrap_or_default());
            let text = format!(
                "{} {} is {:.0}{unit}, limit {limit:.0}{unit}",
                reading.of,
                reading.figure.as_str(),
                reading.value
            );
            faults.push((state, text));
        }
        performance.push(performance_of(&reading, warn, crit));
    }
    faults.sort_by_key(|(state, _)| std::cmp::Reverse(*state));
    let state = faults.first().map_or(State::Ok, |(state, _)| *state);
    let text = if faults.is_empty() { well(status, &chosen, forward) } else { told(&faults) };
    Verdict { state, text, performance }
}

/// Says which limit none of these forwards can ever reach.
fn out_of_place(chosen: &[&Forward], warning: &[Limit], critical: &[Limit]) -> Option<String> {
    let has_queue = chosen.iter().any(|one| one.delivery.as_deref().is_none_or(|delivery| delivery == "stored"));
    let figure = warning.iter().chain(critical).map(|limit| limit.figure).find(|figure| figure.is_of_queues())?;
    let who = match chosen {
        [one] => format!("{} is transparent", one.entry.name),
        _ => "no forward here is stored".to_owned(),
    };
    (!has_queue).then(|| format!("only a stored forward has {}, and {who}: leave the limit out", figure.as_str()))
}

/// Judges what never was, such as an answer that never came, by the time since the start of the site.
fn never(
    status: &Status,
    forwards: &[&Forward],
    peers: &[&Peer],
    (warning, critical): (&[Limit], &[Limit]),
    now: SystemTime,
) -> Vec<(State, String)> {
    let started = status.started.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
    let Some(age) = started.and_then(|started| now.duration_since(started).ok()) else { return Vec::new() };
    let answers = forwards.iter().filter(|one| one.last_ack_age_seconds.is_none());
    let answers = answers.map(|one| (one.entry.name.as_str(), Figure::LastAckAge, "no answer came"));
    let handshakes = peers.iter().filter(|one| one.latest_handshake_age_seconds.is_none());
    let handshakes = handshakes.map(|one| (one.entry.name.as_str(), Figure::HandshakeAge, "there was no handshake"));
    let over = |limits: &[Limit], figure| limits::of(limits, figure).filter(|limit| age.as_secs_f64() >= *limit);
    let judge = |(of, figure, what): (&str, Figure, &str)| {
        let (state, limit) = match (over(critical, figure), over(warning, figure)) {
            (Some(limit), _) => (State::Critical, limit),
            (None, Some(limit)) => (State::Warning, limit),
            (None, None) => return None,
        };
        let text =
            format!("{of}: {what} since the start {}s ago, limit of {} {limit:.0}s", age.as_secs(), figure.as_str());
        Some((state, text))
    };
    answers.chain(handshakes).filter_map(judge).collect()
}

/// Says what of a thing was seen not to work, and nothing has told since that it does, as after a restart.
fn not_seen_well((kind, entry): (&str, &Entry), alarms: &[Alarm]) -> Option<(State, String)> {
    let of = format!("{kind} {}", entry.name);
    let alarm = alarms.iter().find(|alarm| alarm.alarm == "down" && alarm.of == of)?;
    (entry.status == "unknown").then(|| (State::Warning, format!("{}: {}", entry.name, alarm.cause)))
}

/// Says what is wrong with a thing, and since when.
fn fault(entry: &Entry) -> Option<(State, String)> {
    let (state, text) = why(&entry.status, entry.cause.as_deref(), entry.since.as_deref())?;
    Some((state, format!("{}: {text}", entry.name)))
}

fn why(status: &str, cause: Option<&str>, since: Option<&str>) -> Option<(State, String)> {
    let state = State::of(status);
    let cause = cause.unwrap_or(status);
    let since = since.filter(|_| !cause.contains(" since "));
    let since = since.map(|since| format!(" (since {since})")).unwrap_or_default();
    (state > State::Ok).then(|| (state, format!("{cause}{since}")))
}

fn told(faults: &[(State, String)]) -> String {
    let mut texts: Vec<&str> = Vec::new();
    for (_, text) in faults {
        if !texts.contains(&text.as_str()) {
            texts.push(text);
        }
    }
    let more = texts.len().saturating_sub(CAUSES_MAX);
    texts.truncate(CAUSES_MAX);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    texts.join("; ") + &rest
}

/// Says that all is well, and where nothing is known yet.
fn well(status: &Status, chosen: &[&Forward], forward: Option<&str>) -> String {
    let unknown: Vec<&str> =
        chosen.iter().filter(|one| one.entry.status == "unknown").map(|one| one.entry.name.as_str()).collect();
    let rest =
        if unknown.is_empty() { String::new() } else { format!(", nothing known yet of {}", unknown.join(", ")) };
    let raised = status.alarms.iter().filter(|alarm| forward.is_none_or(|name| alarm.of == format!("forward {name}")));
    let raised: Vec<String> =
        raised.map(|alarm| format!("alarm {} of {}: {}", alarm.alarm, alarm.of, alarm.cause)).collect();
    let more = raised.len().saturating_sub(CAUSES_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let alarms: String = raised.iter().take(CAUSES_MAX).map(|alarm| format!("; {alarm}")).collect::<String>() + &more;
    let said = match forward {
        Some(name) if unknown.is_empty() => format!("{name} is ok"),
        Some(name) if !alarms.is_empty() => format!("{name}: nothing was sent since the site started"),
        Some(name) => format!("{name}: nothing was sent since the site started, and nothing speaks against it"),
        None => {
            let counted = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
            let (forwards, services) = (counted(chosen.len(), "forward"), counted(status.services.len(), "service"));
            format!("{}: {forwards}, {services}{rest}", status.site)
        }
    };
    said + &alarms
}

fn readings<'a>(forwards: &[&'a Forward], peers: &[&'a Peer]) -> Vec<Reading<'a>> {
    let of_forwards = forwards.iter().flat_map(|one| {
        [
            (Figure::QueueDepth, one.queue_depth),
            (Figure::Parked, one.parked_messages),
            (Figure::OldestQueuedAge, one.oldest_queued_age_seconds),
            (Figure::OldestUnansweredAge, one.oldest_unanswered_age_seconds),
            (Figure::LastAckAge, one.last_ack_age_seconds),
            (Figure::Connections, one.connections),
        ]
        .into_iter()
        .filter_map(|(figure, value)| Some(Reading { of: &one.entry.name, figure, value: value? }))
    });
    let of_peers = peers.iter().filter_map(|peer| {
        let value = peer.latest_handshake_age_seconds?;
        Some(Reading { of: &peer.entry.name, figure: Figure::HandshakeAge, value })
    });
    of_forwards.chain(of_peers).collect()
}

/// Writes `label=value[unit];warning;critical;minimum`.
fn performance_of(reading: &Reading, warn: Option<f64>, crit: Option<f64>) -> String {
    let number = |value: Option<f64>| value.map(|value| format!("{value:.0}")).unwrap_or_default();
    let unit = reading.figure.unit();
    let value = if unit == "s" { format!("{:.3}", reading.value) } else { format!("{:.0}", reading.value) };
    format!("'{} {}'={value}{unit};{};{};0", reading.of, reading.figure.as_str(), number(warn), number(crit))
}
