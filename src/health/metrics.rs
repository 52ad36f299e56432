//! The metrics, as Prometheus scrapes them: names `wardlink_…`, base units, labels only from the configuration or fixed.
//!
//! Never counts anything itself: it writes the facts down. The format is OpenMetrics 1.0 text, which Prometheus reads since
//! 2.5.

mod family;
pub mod plain;
mod queue;

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::facts::{AuditFacts, ForwardFacts, Link, PeerFacts, ServiceFacts, Session, SiteFacts};
use super::state::{Entry, Report, assess};
use crate::link::tally::ends;
use family::{
    Metric, age, anomalies, codes, count, counter, counts, drops, family, gauge, label, number, receiver, states,
};

/// Is the content type of what [`encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the metrics of a site at the time `now`.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn encode(facts: SiteFacts, now: SystemTime) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("wardlink");
    registry.register_collector(Box::new(Scrape { facts, now }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Is what one scrape shows.
#[derive(Debug)]
struct Scrape {
    facts: SiteFacts,
    now: SystemTime,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let report = assess(&self.facts, self.now);
        site(&mut encoder, &self.facts, &report)?;
        peers(&mut encoder, &report.peers)?;
        forwards(&mut encoder, &report.forwards)?;
        forward_messages(&mut encoder, &report.forwards)?;
        forward_answers(&mut encoder, &report.forwards)?;
        queue::encode(&mut encoder, &report.forwards)?;
        queue::orphans(&mut encoder, &self.facts.orphans)?;
        services(&mut encoder, &report.services)?;
        certificates(&mut encoder, &report)?;
        alarms(&mut encoder, &report)
    }
}

fn site(encoder: &mut DescriptorEncoder, facts: &SiteFacts, report: &Report) -> fmt::Result {
    let build = &[("version", facts.version), ("site", facts.site.as_str())];
    family(encoder, Metric::new("build", "Version of the program", MetricType::Info), &[build], |to, build| {
        to.encode_info(*build)
    })?;
    let start = facts.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    family(encoder, gauge("start_time", "Start of the process, since 1970").seconds(), &[start], |to, start| {
        to.encode_gauge(&start.as_secs_f64())
    })?;
    let config = &facts.config;
    let help = "1 where the last load of the configuration, at the start or by a reload, succeeded";
    family(encoder, gauge("config_last_reload_successful", help), &[config.failed.is_none()], |to, successful| {
        to.encode_gauge(&u64::from(*successful))
    })?;
    let help = "When the configuration that runs was loaded, since 1970";
    let loaded = config.loaded.duration_since(UNIX_EPOCH).unwrap_or_default();
    family(encoder, gauge("config_last_reload_success_timestamp", help).seconds(), &[loaded], |to, loaded| {
        to.encode_gauge(&loaded.as_secs_f64())
    })?;
    let help = "How far the clock is behind an earlier run's: peers refuse this site's handshakes meanwhile";
    family(encoder, gauge("clock_behind", help).seconds(), &[facts.clock_behind], |to, behind| {
        to.encode_gauge(&behind.unwrap_or_default().as_secs_f64())
    })?;
    let audit = report.audit;
    family(encoder, gauge("audit_last_entry", "The last entry of the audit log"), &[audit.last_entry], |to, last| {
        to.encode_gauge(last)
    })?;
    let help = "What was not recorded because the audit log could not be written as fast";
    family(encoder, counter("audit_lost", help), &[audit.lost], |to, lost| {
        to.encode_counter::<NoLabelSet, _, u64>(lost, None)
    })?;
    let help = "1 where the audit log can be written";
    family(encoder, gauge("audit_written", help), &[audit.failed.is_none()], |to, written| {
        to.encode_gauge(&u64::from(*written))
    })?;
    let help =
        "1 where the audit log is not as it was written, or not what a peer was told: changed, cut off, put back";
    family(encoder, gauge("audit_contradicted", help), &[audit.contradicted.is_some()], |to, contradicted| {
        to.encode_gauge(&u64::from(*contradicted))
    })?;
    let help = "1 where the audit log of a peer is not what it was: cut off, put back from a backup, or begun anew";
    family(encoder, gauge("audit_peer_contradicted", help), &audit.peers, |to, log| {
        number(to, ("peer", &log.peer), u64::from(log.fault.is_some()))
    })?;
    atna(encoder, audit)?;
    let ready = report.unready.is_empty();
    family(encoder, gauge("ready", "1 where this site can do its part"), &[ready], |to, ready| {
        to.encode_gauge(&u64::from(*ready))
    })?;
    family(
        encoder,
        gauge("status", "Verdict on the site: 1 at the status that holds"),
        &[report.status],
        |to, status| states(to, None, *status),
    )?;
    let help = "How often the interface, an address, a route or a rule of the tunnel was lost and restored";
    family(encoder, counter("interface_restored", help), &[facts.interface_restored], |to, restored| {
        to.encode_counter::<NoLabelSet, _, u64>(restored, None)
    })?;
    let help = "1 where several packets pass in one system call (offload), by place; 0 where one by one (plain)";
    let offloads: Vec<_> = facts.offloads.iter().collect();
    family(encoder, gauge("tunnel_offload", help), &offloads, |to, (place, offload)| {
        number(to, ("place", place), u64::from(**offload))
    })?;
    let help = "Datagrams and packets that were dropped before a peer was known, by reason";
    family(encoder, counter("dropped", help), &[report.dropped], |to, dropped| {
        counts(to, &[], ("reason", drops()), dropped)
    })
}

fn peers(encoder: &mut DescriptorEncoder, peers: &[Entry<PeerFacts>]) -> fmt::Result {
    let help = "Verdict on the peer: 1 at the status that holds";
    family(encoder, gauge("peer_status", help), peers, |to, peer| states(to, Some(label(peer)), peer.verdict.status))?;
    let help = "1 where a usable WireGuard session exists";
    family(encoder, gauge("peer_session", help), peers, |to, peer| {
        number(to, label(peer), u64::from(matches!(peer.facts.session, Session::Up { .. })))
    })?;
    let help = "Time since the latest handshake completed";
    family(encoder, gauge("peer_latest_handshake_age", help).seconds(), peers, |to, peer| {
        age(to, label(peer), peer.facts.latest_handshake_age)
    })?;
    let help = "Bytes received from the peer";
    family(encoder, counter("peer_received", help).bytes(), peers, |to, peer| {
        count(to, &[label(peer)], peer.facts.rx_bytes)
    })?;
    let help = "Bytes sent to the peer";
    family(encoder, counter("peer_sent", help).bytes(), peers, |to, peer| {
        count(to, &[label(peer)], peer.facts.tx_bytes)
    })?;
    let help = "Packets from the peer that were dropped, by reason";
    family(encoder, counter("peer_dropped_packets", help), peers, |to, peer| {
        counts(to, &[label(peer)], ("reason", drops()), &peer.facts.dropped_packets)
    })
}

fn forwards(encoder: &mut DescriptorEncoder, forwards: &[Entry<ForwardFacts>]) -> fmt::Result {
    let help = "Verdict on the forward: 1 at the status that holds";
    family(encoder, gauge("forward_status", help), forwards, |to, forward| {
        states(to, Some(label(forward)), forward.verdict.status)
    })?;
    let help = "1 where the link is up; absent where none is used";
    family(encoder, gauge("forward_link", help), forwards, |to, forward| match forward.facts.link {
        Link::NotUsed => Ok(()),
        Link::Up { .. } => number(to, label(forward), 1),
        Link::New | Link::Down { .. } => number(to, label(forward), 0),
    })?;
    let help = "Latest round trip on the link";
    family(encoder, gauge("forward_link_round_trip", help).seconds(), forwards, |to, forward| {
        match forward.facts.link {
            Link::Up { round_trip, .. } => age(to, label(forward), round_trip),
            Link::NotUsed | Link::New | Link::Down { .. } => Ok(()),
        }
    })?;
    let help = "1 where the receiver answers; absent if unknown";
    family(encoder, gauge("forward_receiver", help), forwards, |to, forward| {
        receiver(to, label(forward), &forward.facts.receiver)
    })?;
    let help = "Connections of senders now";
    family(encoder, gauge("forward_connections", help), forwards, |to, forward| {
        number(to, label(forward), forward.facts.connections)
    })?;
    let help = "Connections of senders that are held now";
    family(encoder, gauge("forward_held_connections", help), forwards, |to, forward| {
        number(to, label(forward), forward.facts.held)
    })?;
    let help = "Messages whose connection ended before their answer: taken or not";
    family(encoder, counter("forward_unknown_outcome_messages", help), forwards, |to, forward| {
        count(to, &[label(forward)], forward.facts.unknown_outcomes_total)
    })?;
    let help = "Connections of senders that ended, by reason";
    family(encoder, counter("forward_closed_connections", help), forwards, |to, forward| {
        counts(to, &[label(forward)], ("reason", ends()), &forward.facts.closed)
    })
}

fn forward_messages(encoder: &mut DescriptorEncoder, forwards: &[Entry<ForwardFacts>]) -> fmt::Result {
    let help = "Messages that senders sent";
    family(encoder, counter("forward_messages", help), forwards, |to, forward| {
        count(to, &[label(forward)], forward.facts.messages_total)
    })?;
    let help = "Bytes of these messages";
    family(encoder, counter("forward_message", help).bytes(), forwards, |to, forward| {
        count(to, &[label(forward)], forward.facts.message_bytes_total)
    })?;
    let help = "What was odd in framing or answers, by kind";
    family(encoder, counter("forward_anomalies", help), forwards, |to, forward| {
        counts(to, &[label(forward)], ("kind", anomalies()), &forward.facts.anomalies)
    })
}

fn forward_answers(encoder: &mut DescriptorEncoder, forwards: &[Entry<ForwardFacts>]) -> fmt::Result {
    let help = "Answers to senders, by their code (MSA-1)";
    family(encoder, counter("forward_acks", help), forwards, |to, forward| {
        counts(to, &[label(forward)], ("code", codes()), &forward.facts.acks)
    })?;
    let help = "Messages that wait for an answer now";
    family(encoder, gauge("forward_unanswered_messages", help), forwards, |to, forward| {
        number(to, label(forward), forward.facts.unanswered)
    })?;
    let help = "How long the oldest of them has waited";
    family(encoder, gauge("forward_oldest_unanswered_age", help).seconds(), forwards, |to, forward| {
        age(to, label(forward), forward.facts.oldest_unanswered_age)
    })?;
    let help = "Time since the last answer";
    family(encoder, gauge("forward_last_ack_age", help).seconds(), forwards, |to, forward| {
        age(to, label(forward), forward.facts.last_ack_age)
    })?;
    let latency = Metric::new("forward_ack_latency", "Time from a message to its answer", MetricType::Histogram);
    family(encoder, latency.seconds(), forwards, |to, forward| {
        let latency = &forward.facts.ack_latency;
        let bounds = latency.bounds_seconds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(latency.counts.iter().copied()).collect();
        let total = buckets.iter().map(|(_, count)| count).sum();
        let labels = [label(forward)];
        to.encode_family(&labels)?.encode_histogram::<NoLabelSet>(latency.sum.as_secs_f64(), total, &buckets, None)
    })
}

/// Writes how the audit log is sent; absent where it is not.
fn atna(encoder: &mut DescriptorEncoder, audit: &AuditFacts) -> fmt::Result {
    let sent = audit.atna.as_slice();
    let help = "1 where the repository of the audit log is connected";
    family(encoder, gauge("atna_connected", help), sent, |to, atna| to.encode_gauge(&u64::from(atna.connected)))?;
    let help = "Entries of the audit log that its repository was not sent yet";
    family(encoder, gauge("atna_unsent_entries", help), sent, |to, atna| to.encode_gauge(&atna.unsent))?;
    let help = "Entries of the audit log that were removed in time before its repository had them";
    family(encoder, counter("atna_lost_entries", help), sent, |to, atna| {
        to.encode_counter::<NoLabelSet, _, u64>(&atna.lost, None)
    })
}

fn certificates(encoder: &mut DescriptorEncoder, report: &Report<'_>) -> fmt::Result {
    let forwards = report.forwards.iter().map(|forward| (label(forward), forward.facts.certificates.as_slice()));
    let services = report.services.iter().map(|service| (label(service), service.facts.certificates.as_slice()));
    let own = report.certificates.iter().map(|one| (("of", one.of.unwrap_or_default()), one));
    let all = forwards.chain(services);
    let all = all.flat_map(|(of, certificates)| certificates.iter().map(move |one| (of, one))).chain(own);
    let all: Vec<_> = all.collect();
    let help = "When a certificate of TLS expires, in seconds since 1970";
    family(encoder, gauge("certificate_expiry_timestamp", help).seconds(), &all, |to, (of, one)| {
        let expires = one.expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        to.encode_family(&[*of, ("role", one.role), ("file", &one.file)])?.encode_gauge(&expires.as_secs())
    })
}

fn alarms(encoder: &mut DescriptorEncoder, report: &Report<'_>) -> fmt::Result {
    let help = "1 where an alarm is raised, by what it is about and of what; absent where not";
    family(encoder, gauge("alarm", help), report.alarms, |to, one| {
        to.encode_family(&[("alarm", one.alarm.as_str()), ("of", &one.of)])?.encode_gauge(&1_u64)
    })
}

fn services(encoder: &mut DescriptorEncoder, services: &[Entry<ServiceFacts>]) -> fmt::Result {
    let help = "Verdict on the service: 1 at the status that holds";
    family(encoder, gauge("service_status", help), services, |to, service| {
        states(to, Some(label(service)), service.verdict.status)
    })?;
    let help = "1 where the receiver answers; absent if unknown";
    family(encoder, gauge("service_receiver", help), services, |to, service| {
        receiver(to, label(service), &service.facts.receiver)
    })?;
    let help = "Connections to the receiver now";
    family(encoder, gauge("service_connections", help), services, |to, service| {
        number(to, label(service), service.facts.connections)
    })?;
    let help = "Streams that wait for a connection to the receiver now";
    family(encoder, gauge("service_waiting_streams", help), services, |to, service| {
        number(to, label(service), service.facts.waiting)
    })?;
    let help = "Connections to the receiver that ended or were not made, by reason";
    family(encoder, counter("service_closed_connections", help), services, |to, service| {
        counts(to, &[label(service)], ("reason", ends()), &service.facts.closed)
    })?;
    let help = "Messages delivered to the receiver";
    family(encoder, counter("service_messages", help), services, |to, service| {
        count(to, &[label(service)], service.facts.messages_total)
    })?;
    let help = "Answers of the receiver, by their code (MSA-1)";
    family(encoder, counter("service_acks", help), services, |to, service| {
        counts(to, &[label(service)], ("code", codes()), &service.facts.acks)
    })?;
    let help = "What was odd in framing or answers between senders and the receiver, by kind";
    family(encoder, counter("service_anomalies", help), services, |to, service| {
        counts(to, &[label(service)], ("kind", anomalies()), &service.facts.anomalies)
    })?;
    let help = "What the receiver said to stored messages and answers none that was sent, by kind";
    family(encoder, counter("service_dropped_answers", help), services, |to, service| {
        counts(to, &[label(service)], ("kind", []), &service.facts.dropped_answers)
    })?;
    let help = "Attempts to deliver stored messages that the receiver may have had already: it may have one twice";
    family(encoder, counter("service_in_doubt", help), services, |to, service| {
        count(to, &[label(service)], service.facts.in_doubt_total)
    })?;
    let help = "Queues of peers that are held at this receiver now";
    family(encoder, gauge("service_held_queues", help), services, |to, service| {
        number(to, label(service), service.facts.held.len() as u64)
    })
}

#[cfg(test)]
mod tests;
