//! The tables of `wardlink status`. Pure.
//!
//! Understands what it needs of the status and leaves out what a site of another version does not say.

use std::cmp::Reverse;
use std::fmt::Write;
use std::time::Duration;

use serde::Deserialize;

use super::alarm::Alarm;
use super::audit::{Audit, account};
use super::rotation::Rotation;
use crate::cli::columns::{Row, line, table};

/// Is what the tables show of a site's status.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    status: String,
    site: String,
    version: String,
    started: String,
    config: Option<Config>,
    audit: Option<Audit>,
    #[serde(default)]
    certificates: Vec<Certificate>,
    #[serde(default)]
    files: Vec<FileFault>,
    #[serde(default)]
    unready: Vec<String>,
    #[serde(default)]
    alarms: Vec<Alarm>,
    #[serde(default)]
    set_by_wg: SetByWg,
    rotation: Option<Rotation>,
    #[serde(default)]
    peers: Vec<Peer>,
    #[serde(default)]
    forwards: Vec<Forward>,
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default)]
    orphans: Vec<Orphan>,
}

/// Is what a restart would meet otherwise.
#[derive(Debug, Deserialize)]
struct FileFault {
    since: String,
    cause: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SetByWg {
    tunnel: Vec<String>,
    removed_peers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Config {
    loaded: String,
    failed_reload: Option<FailedReload>,
}

#[derive(Debug, Deserialize)]
struct FailedReload {
    at: String,
    cause: String,
}

#[derive(Debug, Deserialize)]
struct Verdict {
    name: String,
    status: String,
    since: String,
    cause: Option<String>,
}

impl Verdict {
    /// Says how much it asks for a look.
    fn weight(&self) -> u8 {
        match self.status.as_str() {
            "ok" => 0,
            "unknown" => 1,
            "degraded" => 2,
            _ => 3,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Peer {
    #[serde(flatten)]
    verdict: Verdict,
    set_by: Option<String>,
    endpoint: Option<String>,
    endpoint_configured: Option<String>,
    latest_handshake_age_seconds: Option<f64>,
    rx_bytes: Option<u64>,
    tx_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Forward {
    #[serde(flatten)]
    verdict: Verdict,
    listen: String,
    peer: String,
    target: String,
    connections: Option<u64>,
    messages_total: Option<u64>,
    last_ack_age_seconds: Option<f64>,
    #[serde(default)]
    certificates: Vec<Certificate>,
    #[serde(flatten)]
    queued: Queued,
}

/// Is a file of certificates.
#[derive(Debug, Deserialize)]
struct Certificate {
    of: Option<String>,
    role: String,
    file: String,
    #[serde(default)]
    expired: bool,
    note: Option<String>,
}

/// Is a queue without a forward.
#[derive(Debug, Deserialize)]
struct Orphan {
    #[serde(flatten)]
    verdict: Verdict,
    #[serde(flatten)]
    queued: Queued,
}

/// Is what a stored forward says of its queue.
#[derive(Debug, Deserialize)]
pub(super) struct Queued {
    queue: Option<QueueState>,
    queue_depth: Option<u64>,
    queue_depth_max: Option<u64>,
    queue_bytes: Option<u64>,
    queue_bytes_max: Option<u64>,
    parked_bytes: Option<u64>,
    oldest_queued_age_seconds: Option<f64>,
    parked_messages: Option<u64>,
    accepted_per_second: Option<f64>,
    settled_per_second: Option<f64>,
    drained_in_seconds: Option<f64>,
    disk_full_in_seconds: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct QueueState {
    state: String,
}

#[derive(Debug, Deserialize)]
struct Service {
    #[serde(flatten)]
    verdict: Verdict,
    target: String,
    connections: Option<u64>,
    messages_total: Option<u64>,
    #[serde(default)]
    certificates: Vec<Certificate>,
}

/// Writes the status as people read it.
pub(super) fn render(status: &Status) -> String {
    let tables: String = tables(status).into_iter().map(|(_, table)| table).collect();
    head(status) + &tables
}

/// Puts what is worst first, in each table.
pub(super) fn worst_first(status: &mut Status) {
    status.peers.sort_by_key(|peer| Reverse(peer.verdict.weight()));
    status.forwards.sort_by_key(|forward| Reverse(forward.verdict.weight()));
    status.services.sort_by_key(|service| Reverse(service.verdict.weight()));
}

/// Writes what is to be said of the site as a whole.
pub(super) fn head(status: &Status) -> String {
    let mut text =
        format!("{}: {} (wardlink {}, started {})\n", status.site, status.status, status.version, status.started);
    if let Some(config) = &status.config {
        configuration(&mut text, config);
    }
    if let Some(audit) = &status.audit {
        account(&mut text, audit);
    }
    for FileFault { since, cause } in &status.files {
        line(&mut text, &format!("  {cause} (since {since})"));
    }
    for one in &status.certificates {
        let of = one.of.as_deref().unwrap_or("health");
        if one.expired {
            line(&mut text, &format!("  {of}: {} {} has expired: have it issued anew", one.role, one.file));
        } else if let Some(note) = &one.note {
            line(&mut text, &format!("  {of}: {note}"));
        }
    }
    for lack in &status.unready {
        line(&mut text, &format!("  {lack}"));
    }
    status.alarms.iter().for_each(|alarm| line(&mut text, &format!("  {alarm}")));
    for set in status.set_by_wg.tunnel.iter().map(|what| format!("{what} is set by wg")) {
        line(&mut text, &format!("  {set}, until the next reload"));
    }
    for name in &status.set_by_wg.removed_peers {
        line(&mut text, &format!("  peer {name} is removed by wg, until the next reload"));
    }
    for said in status.rotation.iter().flat_map(Rotation::lines) {
        line(&mut text, &format!("  {said}"));
    }
    text
}

/// Writes the tables, each with the weight of the worst in it; why a queue is not ok its forward says, where it has one.
pub(super) fn tables(status: &Status) -> [(u8, String); 4] {
    let written = |titles: &[&str], rows: &[Row<'_>]| {
        let mut text = String::new();
        table(&mut text, titles, rows);
        text
    };
    let peers: Vec<_> = status.peers.iter().map(peer).collect();
    let titles = ["PEER", "STATUS", "SINCE", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT"];
    let peers = (worst(status.peers.iter().map(|peer| &peer.verdict)), written(&titles, &peers));
    let forwards: Vec<_> = status.forwards.iter().map(forward).collect();
    let titles = ["FORWARD", "STATUS", "SINCE", "LISTEN", "TO", "SENDERS", "MESSAGES", "LAST ACK"];
    let forwards = (worst(status.forwards.iter().map(|forward| &forward.verdict)), written(&titles, &forwards));
    let queues = status.forwards.iter().filter_map(|forward| {
        let state = &forward.queued.queue.as_ref()?.state;
        Some(queue(&forward.verdict, state, &forward.queued, None))
    });
    let orphans = status
        .orphans
        .iter()
        .map(|orphan| queue(&orphan.verdict, "orphaned", &orphan.queued, orphan.verdict.cause.as_deref()));
    let queues: Vec<_> = queues.chain(orphans).collect();
    let titles =
        ["QUEUE", "STATE", "WAITING", "OLDEST", "PARKED", "USED", "IN/S", "OUT/S", "DRAINED IN", "DISK FULL IN"];
    let queues = (worst(status.orphans.iter().map(|orphan| &orphan.verdict)), written(&titles, &queues));
    let services: Vec<_> = status.services.iter().map(service).collect();
    let titles = ["SERVICE", "STATUS", "SINCE", "RECEIVER", "CONNECTIONS", "MESSAGES"];
    let services = (worst(status.services.iter().map(|service| &service.verdict)), written(&titles, &services));
    [peers, forwards, queues, services]
}

fn worst<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> u8 {
    verdicts.map(Verdict::weight).max().unwrap_or(0)
}

/// Says which configuration runs, and why the last reload changed nothing.
fn configuration(text: &mut String, config: &Config) {
    line(text, &format!("  configuration loaded {}", config.loaded));
    if let Some(failed) = &config.failed_reload {
        line(text, &format!("  reload at {} failed, nothing was changed:", failed.at));
        for cause in failed.cause.lines() {
            line(text, &format!("    {cause}"));
        }
    }
}

fn peer(peer: &Peer) -> Row<'_> {
    let endpoint = peer.endpoint.as_ref().or(peer.endpoint_configured.as_ref());
    let handshake = age(peer.latest_handshake_age_seconds);
    let cells = [endpoint.cloned().unwrap_or_default(), handshake, bytes(peer.rx_bytes), bytes(peer.tx_bytes)];
    let note = peer.set_by.as_deref().filter(|by| *by == "wg").map(|_| "set by wg, until the next reload");
    Row { note, ..row(&peer.verdict, cells) }
}

fn forward(forward: &Forward) -> Row<'_> {
    let to = format!("{} at {}", forward.target, forward.peer);
    let (connections, messages) = (number(forward.connections), number(forward.messages_total));
    let cells = [forward.listen.clone(), to, connections, messages, age(forward.last_ack_age_seconds)];
    Row { note: note(&forward.certificates), ..row(&forward.verdict, cells) }
}

fn note(certificates: &[Certificate]) -> Option<&str> {
    certificates.iter().find_map(|one| one.note.as_deref())
}

/// Shows a queue; why it is not ok only where no forward says so.
fn queue<'a>(verdict: &'a Verdict, state: &str, queued: &Queued, cause: Option<&'a str>) -> Row<'a> {
    let rate = |rate: Option<f64>| rate.map(|rate| format!("{rate:.1}")).unwrap_or_default();
    let cells = vec![
        verdict.name.clone(),
        state.to_owned(),
        known(number(queued.queue_depth)),
        duration(queued.oldest_queued_age_seconds),
        known(number(queued.parked_messages)),
        known(used(queued)),
        rate(queued.accepted_per_second),
        rate(queued.settled_per_second),
        duration(queued.drained_in_seconds),
        duration(queued.disk_full_in_seconds),
    ];
    Row { cells, cause, note: None }
}

/// Shows that something is not known, which is not that there is none.
fn known(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Writes how much of its nearer limit a queue uses, with what is set aside.
fn used(queued: &Queued) -> String {
    let percent = |waiting: Option<u64>, parked: Option<u64>, max: Option<u64>| {
        Some(waiting?.saturating_add(parked?).saturating_mul(100) / max?.max(1))
    };
    let messages = percent(queued.queue_depth, queued.parked_messages, queued.queue_depth_max);
    let bytes = percent(queued.queue_bytes, queued.parked_bytes, queued.queue_bytes_max);
    messages.max(bytes).map(|percent| format!("{percent}%")).unwrap_or_default()
}

fn service(service: &Service) -> Row<'_> {
    let cells = [service.target.clone(), number(service.connections), number(service.messages_total)];
    Row { note: note(&service.certificates), ..row(&service.verdict, cells) }
}

fn row<const N: usize>(verdict: &Verdict, cells: [String; N]) -> Row<'_> {
    let first = [verdict.name.clone(), verdict.status.clone(), verdict.since.clone()];
    Row { cells: first.into_iter().chain(cells).collect(), cause: verdict.cause.as_deref(), note: None }
}

fn number(count: Option<u64>) -> String {
    count.map(|count| count.to_string()).unwrap_or_default()
}

/// Writes an age such as `3h 2m ago`.
fn age(seconds: Option<f64>) -> String {
    match duration(seconds) {
        none if none.is_empty() => "never".to_owned(),
        some => some + " ago",
    }
}

/// Writes a time by its two largest units, such as `3h 2m`; nothing where there is none.
fn duration(seconds: Option<f64>) -> String {
    let Some(time) = seconds.map(f64::trunc).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
        return String::new();
    };
    let exact = humantime::format_duration(time).to_string();
    exact.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// Writes a count of bytes in the unit that fits, with one digit after the point.
fn bytes(count: Option<u64>) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let Some(count) = count else {
        return String::new();
    };
    let mut text = format!("{count} B");
    let mut scale = 1024;
    for unit in UNITS {
        if count < scale {
            break;
        }
        let tenths = u128::from(count) * 10 / u128::from(scale);
        text.clear();
        write!(text, "{}.{} {unit}", tenths / 10, tenths % 10).ok();
        scale = scale.saturating_mul(1024);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_site_with_a_fault() {
        let status = json!({
            "status": "down", "site": "north-hospital", "version": "0.1.0", "started": "2026-11-22T11:00:00Z",
            "config": {
                "loaded": "2026-11-22T11:30:00Z",
                "failed_reload": { "at": "2026-11-22T13:00:00Z", "cause": "w.yaml:1:1: a\nw.yaml:2:1: b" },
            },
            "unready": ["forward images: cannot listen on 0.0.0.0:2576: address in use"],
            "files": [{ "since": "2026-11-22T13:30:00Z", "cause": "the spool's key is gone: restore that very file" }],
            "peers": [{
                "name": "city-lab", "status": "ok", "since": "2026-11-22T12:00:00Z", "endpoint": "198.51.100.7:51820",
                "latest_handshake_age_seconds": 12.7, "rx_bytes": 1536, "tx_bytes": 1023,
            }],
            "forwards": [{
                "name": "orders", "status": "down", "since": "2026-11-22T13:59:00Z", "listen": "0.0.0.0:2575",
                "peer": "city-lab", "target": "service orders", "connections": 2, "messages_total": 10,
                "last_ack_age_seconds": null, "cause": "receiver 192.168.10.40:6661 refuses connections at city-lab",
            }],
        });
        let expected = "\
north-hospital: down (wardlink 0.1.0, started 2026-11-22T11:00:00Z)
  configuration loaded 2026-11-22T11:30:00Z
  reload at 2026-11-22T13:00:00Z failed, nothing was changed:
    w.yaml:1:1: a
    w.yaml:2:1: b
  the spool's key is gone: restore that very file (since 2026-11-22T13:30:00Z)
  forward images: cannot listen on 0.0.0.0:2576: address in use

PEER      STATUS  SINCE                 ENDPOINT            HANDSHAKE  RECEIVED  SENT
city-lab  ok      2026-11-22T12:00:00Z  198.51.100.7:51820  12s ago    1.5 KiB   1023 B

FORWARD  STATUS  SINCE                 LISTEN        TO                          SENDERS  MESSAGES  LAST ACK
orders   down    2026-11-22T13:59:00Z  0.0.0.0:2575  service orders at city-lab  2        10        never
  receiver 192.168.10.40:6661 refuses connections at city-lab
";
        assert_eq!(render(&serde_json::from_value(status).expect("status")), expected);
    }

    #[test]
    fn a_stored_forward_has_a_row_for_its_queue() {
        let status = json!({
            "status": "down", "site": "lab", "version": "0.1.0", "started": "2026-11-22T11:00:00Z",
            "forwards": [{
                "name": "results", "status": "down", "since": "2026-11-22T13:59:00Z", "listen": "0.0.0.0:2575",
                "peer": "city-lab", "target": "service results", "connections": 2, "messages_total": 10,
                "last_ack_age_seconds": 4.2, "cause": "held at message 7: AE",
                "queue": { "state": "held", "since": "2026-11-22T13:59:00Z", "sequence": 7, "cause": "AE" },
                "queue_depth": 12000, "oldest_queued_age_seconds": 3723.5, "parked_messages": 900,
                "queue_depth_max": 20000, "queue_bytes": 1000, "queue_bytes_max": 1_000_000, "parked_bytes": 10,
                "accepted_per_second": 12.345, "settled_per_second": 0.0, "drained_in_seconds": null,
                "disk_full_in_seconds": 90_000.0,
            }],
        });
        let expected = "
QUEUE    STATE  WAITING  OLDEST  PARKED  USED  IN/S  OUT/S  DRAINED IN  DISK FULL IN
results  held   12000    1h 2m   900     64%   12.3  0.0                1day 1h
";
        let text = render(&serde_json::from_value(status).expect("status"));
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn what_is_not_known_of_a_queue_is_no_zero() {
        let status = json!({
            "status": "down", "site": "lab", "version": "0.1.0", "started": "2026-11-22T11:00:00Z",
            "orphans": [{
                "name": "results", "status": "down", "since": "2026-11-22T13:59:00Z", "cause": "its key is missing",
                "queue_depth": null, "queue_bytes": null, "parked_messages": null, "oldest_queued_age_seconds": null,
            }],
        });
        let expected = "
QUEUE    STATE     WAITING  OLDEST  PARKED  USED  IN/S  OUT/S  DRAINED IN  DISK FULL IN
results  orphaned  -                -       -
  its key is missing
";
        let text = render(&serde_json::from_value(status).expect("status"));
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn numbers_as_people_read_them() {
        for (count, text) in [
            (0, "0 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(Some(count)), text);
        }
        for (seconds, text) in [
            (Some(0.4), "0s ago"),
            (Some(11_000.0), "3h 3m ago"),
            (Some(-1.0), "never"),
            (Some(f64::NAN), "never"),
            (None, "never"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
