//! Tests of the metrics' text.

use std::collections::BTreeSet;

use super::super::facts::{Queue, Receiver};
use super::super::fixture::{NOW, site, stored};
use super::*;

/// Checks the grammar of OpenMetrics text as far as this file uses it; returns the sample lines.
fn parse(text: &str) -> Vec<(String, String, f64)> {
    let mut typed = BTreeSet::new();
    let mut samples = Vec::new();
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (keyword, rest) = rest.split_once(' ').expect("keyword");
            let (name, value) = rest.split_once(' ').expect("name");
            assert!(["HELP", "TYPE", "UNIT"].contains(&keyword), "{line}");
            assert!(!value.is_empty(), "{line}");
            if keyword == "TYPE" {
                assert!(typed.insert(name.to_owned()), "{name} is described twice");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("sample");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').expect("closed labels");
        let base = ["_total", "_info", "_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix).filter(|base| typed.contains(*base)))
            .unwrap_or(name);
        assert!(typed.contains(base), "{name} has no TYPE");
        assert!(name.starts_with("wardlink_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        samples.push((name.to_owned(), labels.to_owned(), value.parse().expect("number")));
    }
    samples
}

fn value(samples: &[(String, String, f64)], name: &str, labels: &str) -> Option<f64> {
    samples.iter().find(|sample| sample.0 == name && sample.1 == labels).map(|sample| sample.2)
}

/// Is some of what the well site shows, at least one line of each shape.
const SHOWN: &str = r#"
wardlink_build_info{version="0.1.0",site="north-hospital"} 1
wardlink_ready 1
wardlink_clock_behind_seconds 0.0
wardlink_start_time_seconds 1795346000.0
wardlink_status{status="ok"} 1
wardlink_peer_session{peer="city-lab"} 1
wardlink_peer_latest_handshake_age_seconds{peer="city-lab"} 12.0
wardlink_peer_received_bytes_total{peer="city-lab"} 1000
wardlink_peer_sent_bytes_total{peer="city-lab"} 2000
wardlink_dropped_total{reason="unknown_peer"} 2
wardlink_peer_dropped_packets_total{peer="city-lab",reason="source"} 3
wardlink_forward_status{forward="orders",status="ok"} 1
wardlink_forward_status{forward="orders",status="down"} 0
wardlink_forward_link{forward="orders"} 1
wardlink_forward_link_round_trip_seconds{forward="orders"} 0.011
wardlink_forward_receiver{forward="orders"} 1
wardlink_forward_connections{forward="orders"} 2
wardlink_forward_messages_total{forward="orders"} 10
wardlink_forward_message_bytes_total{forward="orders"} 5000
wardlink_forward_acks_total{forward="orders",code="AE"} 1
wardlink_forward_last_ack_age_seconds{forward="orders"} 42.0
wardlink_forward_unknown_outcome_messages_total{forward="orders"} 2
wardlink_forward_closed_connections_total{forward="orders",reason="sender_closed"} 4
wardlink_forward_ack_latency_seconds_sum{forward="orders"} 2.5
wardlink_forward_ack_latency_seconds_count{forward="orders"} 10
wardlink_forward_ack_latency_seconds_bucket{le="0.01",forward="orders"} 8
wardlink_forward_ack_latency_seconds_bucket{le="1.0",forward="orders"} 9
wardlink_forward_ack_latency_seconds_bucket{le="+Inf",forward="orders"} 10
wardlink_service_status{service="results",status="ok"} 1
wardlink_service_messages_total{service="results"} 7
wardlink_service_acks_total{service="results",code="AA"} 7
wardlink_service_anomalies_total{service="results",kind="answer_unmatched"} 2
wardlink_service_dropped_answers_total{service="results",kind="foreign"} 1
"#;

#[test]
fn a_scrape_is_well_formed_and_says_what_the_facts_say() {
    let text = encode(site(), *NOW).expect("encodes");
    let samples = parse(&text);
    for line in SHOWN.trim().lines() {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    let series: BTreeSet<_> = samples.iter().map(|sample| (&sample.0, &sample.1)).collect();
    assert_eq!(series.len(), samples.len(), "no series comes twice");
}

/// Is what a stored forward shows beside.
const SHOWN_OF_QUEUES: &str = r#"
wardlink_forward_queue_depth{forward="results"} 3
wardlink_forward_queue_depth_max{forward="results"} 1000
wardlink_forward_queue_bytes{forward="results"} 1500
wardlink_forward_queue_max_bytes{forward="results"} 1048576
wardlink_forward_oldest_queued_age_seconds{forward="results"} 2.0
wardlink_forward_parked_messages{forward="results"} 0
wardlink_forward_accepted_messages_total{forward="results"} 103
wardlink_forward_settled_messages_total{forward="results"} 100
wardlink_forward_refused_messages_total{forward="results",reason="queue_full"} 2
wardlink_forward_parked_bytes{forward="results"} 0
wardlink_forward_in_doubt_total{forward="results"} 4
wardlink_forward_receiver_acks_total{forward="results",code="AA"} 99
wardlink_forward_dropped_answers_total{forward="results",kind="late"} 5
wardlink_forward_last_settled_age_seconds{forward="results"} 1.0
wardlink_forward_queue_state{forward="results",state="flowing"} 1
wardlink_forward_queue_state{forward="results",state="held"} 0
wardlink_forward_queue_drained_in_seconds{forward="results"} 2.0
wardlink_forward_spool_disk_free_bytes{forward="results"} 1073741824
"#;

#[test]
fn who_knows_no_openmetrics_gets_the_same_samples_described_by_their_names() {
    let text = encode(site(), *NOW).expect("encodes");
    let plain = plain::plain(&text);
    let samples =
        |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(samples(&plain), samples(&text));
    for line in [
        "# TYPE wardlink_forward_messages_total counter",
        "# HELP wardlink_forward_messages_total Messages that senders sent",
        "# TYPE wardlink_build_info gauge",
        "# TYPE wardlink_forward_ack_latency_seconds histogram",
    ] {
        assert!(plain.lines().any(|shown| shown == line), "{line} is not in\n{plain}");
    }
    for word in ["# UNIT", "# EOF", " info\n"] {
        assert!(!plain.contains(word), "{word}");
    }
    assert!(plain::is_asked_for("text/plain;version=0.0.4;q=0.5, */*;q=0.1"));
    for accept in ["", "*/*", "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4"] {
        assert!(!plain::is_asked_for(accept), "{accept}");
    }
}

#[test]
fn a_peers_log_that_is_not_what_it_was_is_1() {
    let mut facts = site();
    let fault = super::super::facts::FailedAudit { since: *NOW, cause: "it ends at entry 4".into() };
    facts.audit.peers = vec![super::super::facts::PeerLog { peer: "city-lab".into(), fault: Some(fault) }];
    let samples = parse(&encode(facts, *NOW).expect("encodes"));
    assert_eq!(value(&samples, "wardlink_audit_peer_contradicted", r#"peer="city-lab""#), Some(1.0));
}

#[test]
fn a_count_that_has_a_name_is_there_at_0_before_it_counts_for_an_increase_to_be_seen() {
    let (mut facts, mut queue) = (site(), stored());
    let stored = queue.queue.as_mut().expect("queue");
    stored.refused.clear();
    stored.receiver_acks.clear();
    facts.forwards.push(queue);
    facts.dropped.clear();
    facts.peers[0].dropped_packets.clear();
    for forward in &mut facts.forwards {
        forward.acks.clear();
        forward.anomalies.clear();
        forward.closed.clear();
    }
    let service = &mut facts.services[0];
    service.acks.clear();
    service.anomalies.clear();
    service.closed.clear();
    let samples = parse(&encode(facts, *NOW).expect("encodes"));
    for (name, of, label) in [
        ("forward_refused_messages", "forward=\"results\",", "reason=\"queue_full\""),
        ("forward_refused_messages", "forward=\"results\",", "reason=\"application_answer_required\""),
        ("forward_receiver_acks", "forward=\"results\",", "code=\"AE\""),
        ("forward_acks", "forward=\"orders\",", "code=\"AA\""),
        ("forward_acks", "forward=\"orders\",", "code=\"NAK\""),
        ("forward_anomalies", "forward=\"orders\",", "kind=\"started_over\""),
        ("forward_closed_connections", "forward=\"orders\",", "reason=\"too_many_connections\""),
        ("forward_closed_connections", "forward=\"orders\",", "reason=\"receiver_refuses\""),
        ("forward_closed_connections", "forward=\"orders\",", "reason=\"http\""),
        ("service_acks", "service=\"results\",", "code=\"AR\""),
        ("service_anomalies", "service=\"results\",", "kind=\"answer_unmatched\""),
        ("service_closed_connections", "service=\"results\",", "reason=\"receiver_refuses\""),
        ("peer_dropped_packets", "peer=\"city-lab\",", "reason=\"not_authentic\""),
        ("dropped", "", "reason=\"unknown_peer\""),
    ] {
        let found = value(&samples, &format!("wardlink_{name}_total"), &format!("{of}{label}"));
        assert_eq!(found, Some(0.0), "{name} {of}{label}");
    }
}

#[test]
fn a_stored_forward_shows_its_queue_and_a_transparent_one_has_none() {
    let mut facts = site();
    facts.forwards.push(stored());
    let text = encode(facts, *NOW).expect("encodes");
    let samples = parse(&text);
    for line in SHOWN_OF_QUEUES.trim().lines() {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    assert_eq!(value(&samples, "wardlink_forward_queue_depth", r#"forward="orders""#), None);
    assert_eq!(value(&samples, "wardlink_forward_spool_disk_full_in_seconds", r#"forward="results""#), None);
}

#[test]
fn what_is_not_known_is_absent_not_zero() {
    let mut facts = site();
    facts.forwards[0].receiver = Receiver::Unknown;
    facts.forwards[0].last_ack_age = None;
    facts.peers[0].latest_handshake_age = None;
    let samples = parse(&encode(facts, *NOW).expect("encodes"));
    assert_eq!(value(&samples, "wardlink_forward_receiver", r#"forward="orders""#), None);
    assert_eq!(value(&samples, "wardlink_forward_last_ack_age_seconds", r#"forward="orders""#), None);
    assert_eq!(value(&samples, "wardlink_forward_link", r#"forward="images""#), None);
    assert_eq!(value(&samples, "wardlink_peer_latest_handshake_age_seconds", r#"peer="city-lab""#), None);
}

#[test]
fn a_queue_that_is_not_open_has_no_numbers() {
    let mut facts = site();
    let mut forward = stored();
    let queue = forward.queue.as_mut().expect("queue");
    queue.state = Queue::Opening;
    (queue.depth, queue.bytes, queue.parked, queue.parked_bytes) = (None, None, None, None);
    (queue.accepted_total, queue.settled_total, queue.in_doubt_total) = (None, None, None);
    (queue.delivered, queue.delivered_kept_bytes, queue.shredded_early) = (None, None, None);
    facts.forwards.push(forward);
    let samples = parse(&encode(facts, *NOW).expect("encodes"));
    for name in
        ["queue_depth", "queue_bytes", "parked_messages", "parked_bytes", "in_doubt_total", "delivered_kept_bytes"]
    {
        assert_eq!(value(&samples, &format!("wardlink_forward_{name}"), r#"forward="results""#), None, "{name}");
    }
    for name in ["accepted_messages_total", "settled_messages_total", "delivered_shredded_early_total"] {
        assert_eq!(value(&samples, &format!("wardlink_forward_{name}"), r#"forward="results""#), None, "{name}");
    }
}

#[test]
fn every_metric_is_described_also_in_an_empty_site() {
    let mut facts = site();
    facts.peers.clear();
    facts.forwards.clear();
    facts.services.clear();
    let text = encode(facts, *NOW).expect("encodes");
    parse(&text);
    assert!(text.contains("# TYPE wardlink_forward_messages counter\n"));
    assert!(text.contains("# HELP wardlink_forward_messages "));
}

/// Lists the names of our metrics that a text uses.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    words.filter(|word| word.starts_with("wardlink_")).collect()
}

#[test]
fn what_the_alert_rules_and_the_dashboard_ask_for_is_there() {
    let mut facts = site();
    facts.forwards.push(stored());
    let text = encode(facts, *NOW).expect("encodes");
    let mut known: BTreeSet<String> = parse(&text).into_iter().map(|sample| sample.0).collect();
    known.extend(text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split_once(' ')?.0.to_owned())));
    let rules = include_str!("../../../docs/monitoring/wardlink.rules.yml");
    let dashboard = include_str!("../../../docs/monitoring/grafana-dashboard.json");
    for text in [rules, dashboard] {
        assert!(names(text).len() > 10);
        for name in names(text) {
            let base = name.strip_suffix("_total").unwrap_or(name);
            assert!(known.contains(name) || known.contains(base), "{name} is no metric");
        }
    }
}
