//! What of a site is beyond its limits: one condition for each thing that is watched. Pure.
//!
//! A limit that is crossed is left again only well within it, so that what swings around it is told once. Of several alarms
//! with one cause the first on a message's way is raised: a forward is not called down for its peer's sake.

use std::time::{Duration, SystemTime};

use super::super::audit;
use super::super::certificate::CertificateFacts;
use super::super::facts::{ForwardFacts, Link, Receiver, SiteFacts, SlowAnswers};
use super::super::state::{Entry, Report, Status, age_text, assess};
use super::windows::{forward_key, service_key};
use super::{Alarms, Condition, Key, Kind, Level};
use crate::config::AlarmLimits;

/// Is the share of a limit, in percent, below which an alarm clears.
const CLEAR_PERCENT: u64 = 80;

/// Is how long a site that has just started knows too little of its peers and receivers for an all-clear.
const SETTLES: Duration = Duration::from_secs(60);
/// Is how long it knows too little of what is taken over minutes.
const GATHERS: Duration = Duration::from_secs(15 * 60);

/// Lists everything that is watched.
pub(super) fn conditions(alarms: &Alarms, facts: &SiteFacts, limits: &AlarmLimits, now: SystemTime) -> Vec<Condition> {
    let report = assess(facts, now);
    let mut all = Conditions { limits, all: Vec::new() };
    peers(&report, &mut all, now);
    for one in &facts.certificates {
        certificates(one.of.unwrap_or_default(), std::slice::from_ref(one), &mut all, now);
    }
    account(facts, &report, &mut all, now);
    atna(facts, &mut all, now);
    down(alarms, &report, &mut all, now);
    for entry in &report.forwards {
        let why = entry.verdict.cause.as_deref().filter(|_| entry.verdict.status > Status::Unknown);
        queue(alarms, entry.facts, why, &mut all, now);
        silence(alarms, entry.facts, &mut all, now);
        answers(alarms, entry.facts, why, &mut all, now);
        certificates(&forward_key(entry.facts), &entry.facts.certificates, &mut all, now);
    }
    for entry in &report.services {
        let of = service_key(entry.facts);
        nak_rate(alarms, &of, &mut all, now);
        certificates(&of, &entry.facts.certificates, &mut all, now);
    }
    all.all
}

struct Conditions<'a> {
    limits: &'a AlarmLimits,
    all: Vec<Condition>,
}

impl Conditions<'_> {
    fn add(&mut self, kind: Kind, of: &str, level: Level) {
        self.add_held(kind, of, level, self.limits.hold);
    }

    fn add_held(&mut self, kind: Kind, of: &str, level: Level, hold: Duration) {
        self.all.push(Condition { key: Key { kind, of: of.to_owned() }, level, hold, lasts: false });
    }

    /// Adds what, once it is seen to be down, is so until something shows that it is not.
    fn add_lasting(&mut self, kind: Kind, of: &str, level: Level, lasts: bool) {
        self.all.push(Condition { key: Key { kind, of: of.to_owned() }, level, hold: self.limits.hold, lasts });
    }
}

/// Compares with a limit.
fn level<T: PartialOrd>(value: T, limit: T, clear: T, cause: impl FnOnce() -> String) -> Level {
    if value > limit {
        Level::Beyond(cause())
    } else if value > clear {
        Level::Between
    } else {
        Level::Within
    }
}

fn clear_of(limit: Duration) -> Duration {
    limit / 100 * u32::try_from(CLEAR_PERCENT).unwrap_or(100)
}

/// Appends what is at fault, where something is.
fn with(text: String, why: Option<&str>) -> String {
    match why {
        Some(why) => format!("{text}: {why}"),
        None => text,
    }
}

fn peers(report: &Report<'_>, all: &mut Conditions<'_>, now: SystemTime) {
    let Some(limit) = all.limits.no_session else { return };
    for entry in report.peers.iter().filter(|entry| entry.facts.is_configured) {
        let verdict = &entry.verdict;
        let level = match verdict.status {
            Status::Down if age(verdict.since, now) > limit => Level::Beyond(verdict.cause.clone().unwrap_or_default()),
            Status::Down | Status::Unknown => Level::Between,
            Status::Ok | Status::Degraded => Level::Within,
        };
        all.add(Kind::NoSession, &format!("peer {}", entry.facts.name), level);
    }
}

/// That the audit log cannot be written, by the limit of what is down; and that it, or a peer's, is not what it was.
fn account(facts: &SiteFacts, report: &Report<'_>, all: &mut Conditions<'_>, now: SystemTime) {
    let Some(limit) = all.limits.down else { return };
    let level = match audit::own(&facts.audit).next() {
        Some((since, cause)) if facts.audit.contradicted.is_some() || age(since, now) >= limit => Level::Beyond(cause),
        Some(_) => Level::Between,
        None => Level::Within,
    };
    all.add(Kind::Audit, "audit log", level);
    for peer in report.peers.iter().filter(|peer| peer.facts.is_configured) {
        let name = &peer.facts.name;
        let level = match facts.audit.peers.iter().find(|log| log.peer == *name).map(audit::of_peer) {
            Some(Some((_, cause))) => Level::Beyond(cause),
            Some(None) => Level::Within,
            // It has not said anything since the start.
            None => Level::Between,
        };
        all.add(Kind::Audit, &format!("audit log of {name}"), level);
    }
}

/// That the audit log cannot be sent, by the limit of what is down.
fn atna(facts: &SiteFacts, all: &mut Conditions<'_>, now: SystemTime) {
    let (Some(limit), Some(atna)) = (all.limits.down, &facts.audit.atna) else { return };
    let level = match &atna.failed {
        Some(failed) if age(failed.since, now) >= limit => Level::Beyond(audit::unsent(atna, failed)),
        Some(_) => Level::Between,
        None => Level::Within,
    };
    all.add(Kind::Atna, "audit log", level);
}

/// What is down: forwards, services, queues without a forward.
fn down(alarms: &Alarms, report: &Report<'_>, all: &mut Conditions<'_>, now: SystemTime) {
    let Some(limit) = all.limits.down else { return };
    let is_watched = all.limits.no_session.is_some();
    let peer_is_down = |name: &str| {
        let is_down = |status| status == Status::Down;
        is_watched && report.peers.iter().any(|peer| peer.facts.name == name && is_down(peer.verdict.status))
    };
    // Through a link that is down nobody sees a receiver.
    let seen = |facts: &ForwardFacts| match facts.link {
        Link::New | Link::Down { .. } => Receiver::Unknown,
        Link::NotUsed | Link::Up { .. } => facts.receiver.clone(),
    };
    let forwards = report
        .forwards
        .iter()
        .map(|Entry { facts, verdict }| (forward_key(facts), verdict, peer_is_down(&facts.peer), seen(facts)));
    let services = report.services.iter();
    let services =
        services.map(|Entry { facts, verdict }| (service_key(facts), verdict, false, facts.receiver.clone()));
    let orphans = report.orphans.iter();
    let orphans =
        orphans.map(|Entry { facts, verdict }| (format!("queue {}", facts.name), verdict, false, Receiver::Unknown));
    for (of, verdict, has_other_cause, receiver) in forwards.chain(services).chain(orphans) {
        let level = match verdict.status {
            _ if has_other_cause => Level::Between,
            // What is down since long ago is seen to be so for `for` as well: the site may have started just now.
            Status::Down if age(verdict.since, now) >= limit => {
                Level::Beyond(verdict.cause.clone().unwrap_or_default())
            }
            Status::Down => Level::Between,
            Status::Unknown if age(alarms.started, now) < SETTLES => Level::Between,
            // That a receiver which was down works again is shown by itself only, not by a restart that forgot it.
            Status::Unknown => Level::Unknown,
            Status::Degraded if receiver == Receiver::Unknown => Level::Unknown,
            Status::Ok | Status::Degraded => Level::Within,
        };
        all.add_lasting(Kind::Down, &of, level, matches!(receiver, Receiver::Down { .. }));
    }
}

fn queue(alarms: &Alarms, forward: &ForwardFacts, why: Option<&str>, all: &mut Conditions<'_>, now: SystemTime) {
    let (Some(queue), of) = (&forward.queue, forward_key(forward)) else { return };
    if let Some(limit) = all.limits.queue_depth_percent {
        let known = |count: Option<u64>| count.unwrap_or_default();
        let percent = |count: u64, max: u64| count.saturating_mul(100) / max.max(1);
        let messages = known(queue.depth).saturating_add(known(queue.parked));
        let bytes = known(queue.bytes).saturating_add(known(queue.parked_bytes));
        let fill = percent(messages, queue.depth_max).max(percent(bytes, queue.bytes_max));
        let limit = u64::from(limit);
        let level = match queue.depth {
            None => Level::Between,
            Some(_) => level(fill, limit.saturating_sub(1), limit * CLEAR_PERCENT / 100, || {
                with(format!("its queue has {fill}% of what it may, {messages} messages"), why)
            }),
        };
        all.add(Kind::QueueDepth, &of, level);
    }
    if let Some(limit) = all.limits.queue_age {
        let level = match (queue.depth, queue.oldest_age) {
            (None, _) => Level::Between,
            (Some(_), age) => level(age.unwrap_or_default(), limit, clear_of(limit), || {
                with(format!("the oldest message of its queue waits for {}", age_text(age.unwrap_or_default())), why)
            }),
        };
        all.add(Kind::QueueAge, &of, level);
    }
    if let Some(limit) = all.limits.disk {
        let is_short = queue.is_short_of_disk();
        let level = match (queue.disk_full_since, queue.disk_full_in) {
            (Some(_), _) => Level::Beyond("the disk of its spool is full".to_owned()),
            (None, Some(left)) if is_short && left <= limit => {
                Level::Beyond(format!("the disk of its spool is full in {}, if it goes on so", age_text(left)))
            }
            (None, Some(left)) if is_short && left <= limit * 2 => Level::Between,
            (None, None) if queue.disk_free_bytes.is_none() => Level::Between,
            (None, None) => not_known(alarms, GATHERS, now),
            (None, Some(_)) => Level::Within,
        };
        all.add(Kind::Disk, &of, level);
    }
}

fn silence(alarms: &Alarms, forward: &ForwardFacts, all: &mut Conditions<'_>, now: SystemTime) {
    let Some(feed) = alarms.feeds.get(&forward.name) else { return };
    let learned = feed.learned(now).filter(|_| all.limits.learn_silence);
    let (limit, whose) = match (forward.silent_after, learned) {
        (Some(limit), _) => (limit, "silent_after"),
        (None, Some(limit)) => (limit, "learned"),
        (None, None) => return,
    };
    let silence = feed.silence(now);
    // Nobody could send before the site started; what was raised then stays until a message comes.
    let counted = silence.min(age(alarms.started, now));
    let level = if counted > limit {
        Level::Beyond(format!("no message for {} (limit {}, {whose})", age_text(silence), age_text(limit)))
    } else if silence > limit {
        Level::Between
    } else {
        Level::Within
    };
    // The silence itself is the time that it takes.
    all.add_held(Kind::Silent, &forward_key(forward), level, Duration::ZERO);
}

fn answers(alarms: &Alarms, forward: &ForwardFacts, why: Option<&str>, all: &mut Conditions<'_>, now: SystemTime) {
    let of = forward_key(forward);
    nak_rate(alarms, &of, all, now);
    let Some(limit) = all.limits.ack_latency else { return };
    let level = match alarms.windows.slow(&of) {
        None => not_known(alarms, GATHERS, now),
        Some(SlowAnswers { answers, beyond, .. }) if beyond > answers / 100 => {
            let limit = humantime::format_duration(limit);
            Level::Beyond(with(format!("{beyond} of the {answers} answers in 5m took longer than {limit}"), why))
        }
        Some(SlowAnswers { answers, near, .. }) if near > answers / 100 => Level::Between,
        Some(_) => Level::Within,
    };
    all.add(Kind::AckLatency, &of, level);
}

/// Returns what answers are watched for: what their alarm clears at, and what it starts at.
pub fn latency_limits(limits: &AlarmLimits) -> Option<[Duration; 2]> {
    limits.ack_latency.map(|limit| [clear_of(limit), limit])
}

fn nak_rate(alarms: &Alarms, of: &str, all: &mut Conditions<'_>, now: SystemTime) {
    let Some(limit) = all.limits.nak_percent.map(u64::from) else { return };
    let level = match alarms.windows.nak_percent(of) {
        None => not_known(alarms, GATHERS, now),
        Some(percent) => level(percent, limit.saturating_sub(1), limit * CLEAR_PERCENT / 100, || {
            format!("{percent}% of the answers in 10m were negative")
        }),
    };
    all.add(Kind::NakRate, of, level);
}

/// One alarm for each file: it is to be issued anew.
fn certificates(of: &str, certificates: &[CertificateFacts], all: &mut Conditions<'_>, now: SystemTime) {
    let Some(limit) = all.limits.certificate else { return };
    for one in certificates {
        let left = one.expires.duration_since(now).unwrap_or_default();
        let (role, file) = (one.role, &one.file);
        let level = match left {
            Duration::ZERO => {
                Level::Beyond(format!("{role} {file} has expired: have it issued anew, then wardlink reload"))
            }
            left if left < limit => {
                let left = age_text(Duration::from_secs(left.as_secs() / 3600 * 3600));
                Level::Beyond(format!("{role} {file} expires in {left}: have it issued anew, then wardlink reload"))
            }
            _ => Level::Within,
        };
        all.add(Kind::Certificate, &format!("{of} {role} {file}"), level);
    }
}

/// Says of what nothing is known: what was said before a restart stays for a time, else all is well.
fn not_known(alarms: &Alarms, within: Duration, now: SystemTime) -> Level {
    if age(alarms.started, now) < within { Level::Between } else { Level::Within }
}

fn age(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}
