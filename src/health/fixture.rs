//! A site in which all is well, for the tests of this room.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::facts::*;

/// Is the moment at which the tests judge: 2026-11-22T14:00:00Z.
pub(crate) static NOW: LazyLock<SystemTime> = LazyLock::new(|| UNIX_EPOCH + Duration::from_secs(1_795_356_000));

/// Returns the moment so many seconds before [`NOW`].
pub(crate) fn ago(seconds: u64) -> SystemTime {
    *NOW - Duration::from_secs(seconds)
}

/// Makes a site with one peer, one forward by service, one by address and one service, all ok.
pub(crate) fn site() -> SiteFacts {
    SiteFacts {
        site: "north-hospital".into(),
        version: "0.1.0",
        started: ago(10_000),
        config: ConfigFacts { loaded: ago(9_000), failed: None },
        public_key: "BBBB".into(),
        key_replaced: None,
        files: Vec::new(),
        certificates: Vec::new(),
        interface: Part::Up,
        interface_restored: 0,
        offloads: [("tun_read", true), ("tun_write", true), ("udp_receive", false), ("udp_send", true)].into(),
        link_listener: Part::Up,
        clock_behind: None,
        dropped: BTreeMap::from([("unknown_peer", 2)]),
        set_by_wg: SetByWg::default(),
        rotation: None,
        peers: vec![PeerFacts {
            name: "city-lab".into(),
            public_key: "AAAA".into(),
            set_by: SetBy::Config,
            is_configured: true,
            endpoint_configured: Some("lab.example.org:51820".into()),
            endpoint: Some("198.51.100.7:51820".into()),
            endpoint_error: None,
            session: Session::Up { since: ago(5000) },
            session_wanted: false,
            latest_handshake_age: Some(Duration::from_secs(12)),
            rx_bytes: 1000,
            tx_bytes: 2000,
            dropped_packets: BTreeMap::from([("source", 3)]),
        }],
        forwards: vec![forward("orders", "service orders"), by_address()],
        services: vec![ServiceFacts {
            name: "results".into(),
            target: "192.168.10.40:6661".into(),
            listener: Part::Up,
            receiver: Receiver::Ok { since: ago(900) },
            connections: 1,
            waiting: 0,
            connections_max: 8,
            full_since: None,
            closed: BTreeMap::from([("receiver_refuses", 3)]),
            messages_total: 7,
            acks: BTreeMap::from([("AA", 7)]),
            left_unanswered: None,
            anomalies: BTreeMap::from([("answer_unmatched", 2)]),
            dropped_answers: BTreeMap::from([("foreign", 1)]),
            in_doubt_total: 0,
            trouble_since: None,
            trying: None,
            held: Vec::new(),
            ledger_failed: None,
            disk_full: false,
            certificates: Vec::new(),
        }],
        orphans: Vec::new(),
        audit: AuditFacts::default(),
        alarms: Vec::new(),
    }
}

fn by_address() -> ForwardFacts {
    ForwardFacts { link: Link::NotUsed, listen: ([127, 0, 0, 1], 2576).into(), ..forward("images", "10.98.0.2:2575") }
}

fn forward(name: &str, target: &str) -> ForwardFacts {
    ForwardFacts {
        name: name.into(),
        peer: "city-lab".into(),
        listen: ([127, 0, 0, 1], 2575).into(),
        target: target.into(),
        delivery: "transparent",
        listener: Part::Up,
        link: Link::Up { since: ago(4000), round_trip: Some(Duration::from_millis(11)) },
        receiver: Receiver::Ok { since: ago(3000) },
        mixed_releases: None,
        connections: 2,
        held: 0,
        messages_total: 10,
        message_bytes_total: 5000,
        acks: BTreeMap::from([("AA", 9), ("AE", 1)]),
        anomalies: BTreeMap::new(),
        unanswered: 0,
        oldest_unanswered_age: None,
        last_ack_age: Some(Duration::from_secs(42)),
        last_negative_ack: None,
        slow: SlowAnswers::default(),
        last_refusal: None,
        left_unanswered: None,
        unknown_outcomes_total: 2,
        ack_latency: Histogram {
            bounds_seconds: &[0.01, 1.0],
            counts: vec![8, 1, 1],
            sum: Duration::from_millis(2500),
        },
        closed: BTreeMap::from([("sender_closed", 4)]),
        certificates: Vec::new(),
        silent_after: None,
        queue: None,
    }
}

/// Makes a forward whose messages are stored, and flow.
pub(crate) fn stored() -> ForwardFacts {
    let queue = QueueFacts {
        state: Queue::Flowing,
        trouble: None,
        onsets: Onsets::default(),
        depth: Some(3),
        depth_max: 1000,
        bytes: Some(1500),
        bytes_max: 1 << 20,
        oldest_age: Some(Duration::from_secs(2)),
        parked: Some(0),
        parked_bytes: Some(0),
        accepted_total: Some(103),
        settled_total: Some(100),
        refused: BTreeMap::from([("queue_full", 2)]),
        in_doubt_total: Some(4),
        receiver_acks: BTreeMap::from([("AA", 99)]),
        dropped_answers: BTreeMap::from([("late", 5)]),
        last_settled_age: Some(Duration::from_secs(1)),
        accepted_per_second: Some(2.5),
        settled_per_second: Some(4.0),
        drained_in: Some(Duration::from_secs(2)),
        disk_full_since: None,
        disk_free_bytes: Some(1 << 30),
        disk_full_in: None,
        delivered: Some(97),
        delivered_kept_bytes: Some(3 << 20),
        shredded_early: Some(6),
    };
    ForwardFacts { delivery: "stored", queue: Some(queue), ..forward("results", "service results") }
}
