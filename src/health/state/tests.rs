//! Tests of every rule of the verdict.

use super::super::facts::{
    HeldQueue, LastRefusal, Left, Link, NegativeAck, Onsets, OrphanFacts, Part, Queue, QueueFacts, Receiver, Session,
};
use super::super::fixture::{NOW, ago, site};
use super::rules::{ANSWER_OVERDUE, EVIDENCE_FRESH, NEGATIVE_ACK_RECENT};
use super::*;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3 * 3600 + 120);

fn down(seconds: u64, cause: &str) -> Part {
    Part::Down { since: ago(seconds), cause: cause.into() }
}

fn check(name: &str, entry: &Verdict, status: Status, since: SystemTime, cause: &str) {
    let expected = Verdict { status, since, cause: (!cause.is_empty()).then(|| cause.to_owned()) };
    assert_eq!(entry, &expected, "{name}");
}

/// Judges the changed site's forward of that index.
fn forward(index: usize, change: impl FnOnce(&mut SiteFacts)) -> Verdict {
    let mut facts = site();
    change(&mut facts);
    assess(&facts, *NOW).forwards[index].verdict.clone()
}

fn peer(change: impl FnOnce(&mut SiteFacts)) -> Verdict {
    let mut facts = site();
    change(&mut facts);
    assess(&facts, *NOW).peers[0].verdict.clone()
}

fn service(change: impl FnOnce(&mut SiteFacts)) -> Verdict {
    let mut facts = site();
    change(&mut facts);
    assess(&facts, *NOW).services[0].verdict.clone()
}

/// Ends the session, with the link's forward gone or not.
fn lose_session(facts: &mut SiteFacts) {
    facts.peers[0].session = Session::Down { since: ago(200) };
    facts.peers[0].latest_handshake_age = Some(LONG);
}

#[test]
fn all_is_well() {
    let facts = site();
    let report = assess(&facts, *NOW);
    assert_eq!(report.status, Status::Ok);
    assert!(report.unready.is_empty());
    check("peer", &report.peers[0].verdict, Status::Ok, ago(5000), "");
    check("the last part to come up counts", &report.forwards[0].verdict, Status::Ok, ago(3000), "");
    check("service", &report.services[0].verdict, Status::Ok, ago(900), "");
}

#[test]
fn a_receiver_without_a_free_connection_degrades_its_service() {
    let verdict = service(|facts| {
        facts.services[0].connections_max = 2;
        facts.services[0].full_since = Some(ago(30));
    });
    let cause = "receiver 192.168.10.40:6661 has all 2 connections that connections: allows, and senders wait for one in \
                 vain: raise it if the receiver takes more, or find who keeps them open";
    check("full", &verdict, Status::Degraded, ago(30), cause);
}

#[test]
fn a_log_that_cannot_be_sent_degrades_after_a_minute() {
    use super::super::facts::{AtnaFacts, FailedAudit};
    let mut facts = site();
    let mut status = |seconds| {
        facts.audit.atna = Some(AtnaFacts {
            server: "audit.example:6514".into(),
            connected: false,
            sent: 5,
            taken: 5,
            unsent: 7,
            lost: 0,
            failed: Some(FailedAudit { since: ago(seconds), cause: "refused".into() }),
        });
        assess(&facts, *NOW).status
    };
    assert_eq!((status(59), status(60)), (Status::Ok, Status::Degraded));
}

#[test]
fn an_expired_certificate_degrades_and_one_that_expires_soon_does_not() {
    use super::super::certificate::CertificateFacts;
    let certificate = |expired: bool| CertificateFacts {
        of: None,
        role: "certificate",
        file: "lab.pem".into(),
        expires: ago(60),
        expired,
        note: (!expired).then(|| "certificate lab.pem expires in 3 days: have it issued anew".into()),
    };
    let of_forward = |expired| forward(0, |facts| facts.forwards[0].certificates = vec![certificate(expired)]);
    let of_service = |expired| service(|facts| facts.services[0].certificates = vec![certificate(expired)]);
    let cause = format!(
        "certificate lab.pem expired at {}: have it issued anew, then wardlink reload",
        super::super::facts::rfc3339_text(ago(60))
    );
    for verdict in [of_forward(true), of_service(true)] {
        check("expired", &verdict, Status::Degraded, ago(60), &cause);
    }
    for verdict in [of_forward(false), of_service(false)] {
        assert_eq!((verdict.status, verdict.cause), (Status::Ok, None), "soon");
    }
}

type Change = fn(&mut SiteFacts);
type Case = (&'static str, Change, Status, SystemTime, &'static str);

fn check_forward(cases: &[Case]) {
    for (name, change, status, since, cause) in cases {
        check(name, &forward(0, change), *status, *since, cause);
    }
}

#[test]
fn a_forward_whose_site_or_tunnel_is_at_fault() {
    check_forward(&[
        (
            "listener",
            |s| s.forwards[0].listener = down(7, "address in use"),
            Status::Down,
            ago(7),
            "cannot listen on 127.0.0.1:2575: address in use",
        ),
        ("interface", |s| s.interface = down(8, "wl0 is gone"), Status::Down, ago(8), "tunnel interface: wl0 is gone"),
        (
            "session lost",
            lose_session,
            Status::Down,
            ago(200),
            "no session with city-lab (endpoint lab.example.org:51820): handshakes go unanswered, the last completed 3h 2m ago",
        ),
        (
            "never a session",
            |s| {
                lose_session(s);
                s.peers[0].latest_handshake_age = None;
            },
            Status::Down,
            ago(200),
            "no session with city-lab (endpoint lab.example.org:51820): no handshake completed yet",
        ),
    ]);
}

#[test]
fn a_forward_whose_link_or_receiver_is_at_fault() {
    check_forward(&[
        (
            "link refused",
            |s| {
                let cause = "service orders is not offered to this site".into();
                s.forwards[0].link = Link::Down { since: ago(9), cause };
            },
            Status::Down,
            ago(9),
            "link to city-lab: service orders is not offered to this site",
        ),
        (
            "the tunnel goes before the link",
            |s| {
                lose_session(s);
                s.forwards[0].link = Link::Down { since: ago(9), cause: "timed out".into() };
            },
            Status::Down,
            ago(200),
            "no session with city-lab (endpoint lab.example.org:51820): handshakes go unanswered, the last completed 3h 2m ago",
        ),
        (
            "receiver",
            |s| {
                let cause = "192.168.10.40:6661 refuses connections".into();
                s.forwards[0].receiver = Receiver::Down { since: ago(60), cause };
            },
            Status::Down,
            ago(60),
            "receiver 192.168.10.40:6661 refuses connections at city-lab since 2026-11-22T13:59:00Z",
        ),
    ]);
}

#[test]
fn a_forward_whose_answers_are_late_or_negative() {
    check_forward(&[
        (
            "an answer is overdue",
            |s| {
                s.forwards[0].unanswered = 3;
                s.forwards[0].oldest_unanswered_age = Some(Duration::from_secs(75));
            },
            Status::Degraded,
            ago(15),
            "receiver at city-lab is slow: 3 unanswered, the oldest for 1m 15s",
        ),
        (
            "an answer is not overdue yet",
            |s| {
                s.forwards[0].unanswered = 1;
                s.forwards[0].oldest_unanswered_age = Some(ANSWER_OVERDUE);
            },
            Status::Ok,
            ago(3000),
            "",
        ),
        (
            "negative answer",
            |s| {
                s.forwards[0].last_ack_age = Some(Duration::from_secs(12));
                s.forwards[0].last_negative_ack = Some(NegativeAck { code: "AE", age: Duration::from_secs(12) });
            },
            Status::Degraded,
            ago(12),
            "receiver at city-lab answered AE 12s ago",
        ),
        (
            "negative answer, and a positive one since",
            |s| {
                s.forwards[0].last_ack_age = Some(Duration::from_secs(11));
                s.forwards[0].last_negative_ack = Some(NegativeAck { code: "AE", age: Duration::from_secs(12) });
            },
            Status::Ok,
            ago(3000),
            "",
        ),
        (
            "old negative answer",
            |s| {
                let age = NEGATIVE_ACK_RECENT + Duration::from_secs(1);
                s.forwards[0].last_negative_ack = Some(NegativeAck { code: "AE", age });
            },
            Status::Ok,
            ago(3000),
            "",
        ),
    ]);
}

#[test]
fn a_forward_without_evidence() {
    check_forward(&[
        (
            "no evidence at all",
            |s| {
                s.forwards[0].receiver = Receiver::Unknown;
                s.forwards[0].last_ack_age = None;
                s.forwards[0].messages_total = 0;
            },
            Status::Unknown,
            ago(10_000),
            "whether the receiver at city-lab answers is not known: nothing was sent yet, and no probe tells",
        ),
        (
            "old evidence",
            |s| {
                s.forwards[0].receiver = Receiver::Unknown;
                s.forwards[0].last_ack_age = Some(LONG);
            },
            Status::Unknown,
            ago(LONG.as_secs() - EVIDENCE_FRESH.as_secs()),
            "whether the receiver at city-lab answers is not known: its last answer came 3h 2m ago, and no probe tells",
        ),
        ("fresh evidence", |s| s.forwards[0].receiver = Receiver::Unknown, Status::Ok, ago(4000), ""),
    ]);
}

/// An idle session without keepalive expires rightfully; only a link or something that waits makes its absence a fault.
#[test]
fn a_session_that_nobody_needs() {
    let only_by_address: Change = |s| {
        lose_session(s);
        s.forwards.remove(0);
    };
    check(
        "peer",
        &peer(only_by_address),
        Status::Unknown,
        ago(200),
        "no session with city-lab, and none is needed now: the last handshake was 3h 2m ago",
    );
    check(
        "forward",
        &forward(0, only_by_address),
        Status::Unknown,
        ago(0),
        "whether the receiver at city-lab answers is not known: its last answer came 42s ago, and no probe tells",
    );
    let wants: [(&str, Change); 3] = [
        ("keepalive", |s| s.peers[0].session_wanted = true),
        ("held sender", |s| s.forwards[0].held = 1),
        ("message without an answer", |s| s.forwards[0].unanswered = 1),
    ];
    for (name, want) in wants {
        let both = |s: &mut SiteFacts| {
            only_by_address(s);
            want(s);
        };
        assert_eq!(peer(both).status, Status::Down, "{name}");
        assert_eq!(forward(0, both).status, Status::Down, "{name}");
    }
}

#[test]
fn a_peer_without_a_session_says_why() {
    let cases: [(&str, Change, &str); 4] = [
        (
            "unresolved",
            |s| s.peers[0].endpoint_error = Some("no such host".into()),
            "no session with city-lab (endpoint lab.example.org:51820): the endpoint's name does not resolve: no such host",
        ),
        (
            "waits for the peer",
            |s| {
                s.peers[0].endpoint_configured = None;
                s.peers[0].endpoint = None;
                s.peers[0].latest_handshake_age = None;
            },
            "no session with city-lab: no endpoint is configured, and the peer has not come yet",
        ),
        (
            "clock",
            |s| s.clock_behind = Some(LONG),
            "no session with city-lab (endpoint lab.example.org:51820): this site's clock is 3h 2m behind what it was before its start, and the peer takes its handshakes for replays: set the clock, or wait until the peer begins",
        ),
        (
            "roamed",
            |s| s.peers[0].endpoint_configured = None,
            "no session with city-lab (endpoint 198.51.100.7:51820): handshakes go unanswered, the last completed 3h 2m ago",
        ),
    ];
    for (name, change, cause) in cases {
        let verdict = peer(|s| {
            lose_session(s);
            change(s);
        });
        check(name, &verdict, Status::Down, ago(200), cause);
    }
    assert_eq!(
        peer(|s| s.peers[0].endpoint_error = Some("timed out".into())).status,
        Status::Ok,
        "a session is enough"
    );
    assert_eq!(peer(|s| s.interface = down(1, "gone")).status, Status::Down, "interface");
}

#[test]
fn a_service() {
    let cases: [(&str, Change, Status, SystemTime, &str); 5] = [
        ("interface", |s| s.interface = down(8, "wl0 is gone"), Status::Down, ago(8), "tunnel interface: wl0 is gone"),
        (
            "link listener",
            |s| s.link_listener = down(6, "address in use"),
            Status::Down,
            ago(6),
            "links of peers cannot arrive: address in use",
        ),
        (
            "own port",
            |s| s.services[0].listener = down(5, "address in use"),
            Status::Down,
            ago(5),
            "cannot open its port on the tunnel address: address in use",
        ),
        (
            "receiver",
            |s| {
                let cause = "192.168.10.40:6661 does not answer".into();
                s.services[0].receiver = Receiver::Down { since: ago(60), cause };
            },
            Status::Down,
            ago(60),
            "receiver 192.168.10.40:6661 does not answer since 2026-11-22T13:59:00Z",
        ),
        (
            "no evidence",
            |s| s.services[0].receiver = Receiver::Unknown,
            Status::Unknown,
            ago(10_000),
            "whether receiver 192.168.10.40:6661 answers is not known: nobody connected lately, and no probe tells",
        ),
    ];
    for (name, change, status, since, cause) in cases {
        check(name, &service(change), status, since, cause);
    }
}

#[test]
fn the_worst_decides_and_only_ok_and_unknown_are_healthy() {
    let cases: [(Change, Status, bool); 5] = [
        (|_| (), Status::Ok, true),
        (|s| s.services[0].receiver = Receiver::Unknown, Status::Unknown, true),
        (
            |s| s.forwards[1].last_negative_ack = Some(NegativeAck { code: "AR", age: Duration::ZERO }),
            Status::Degraded,
            false,
        ),
        (
            |s| {
                s.services[0].receiver = Receiver::Unknown;
                lose_session(s);
            },
            Status::Down,
            false,
        ),
        (
            |s| {
                s.peers.clear();
                s.forwards.clear();
                s.services.clear();
                s.interface = down(1, "gone");
            },
            Status::Down,
            false,
        ),
    ];
    for (change, status, healthy) in cases {
        let mut facts = site();
        change(&mut facts);
        assert_eq!(assess(&facts, *NOW).status, status);
        assert_eq!(status.is_healthy(), healthy);
    }
}

#[test]
fn a_site_is_ready_when_its_own_parts_are_there_whatever_the_others_do() {
    let mut facts = site();
    lose_session(&mut facts);
    assert!(unready(&facts, *NOW).is_empty(), "a peer that is away is not this site's lack");
    facts.interface = down(1, "wl0 is gone");
    facts.link_listener = down(1, "address in use");
    facts.forwards[1].listener = down(1, "permission denied");
    facts.services[0].listener = down(1, "address in use");
    assert_eq!(
        unready(&facts, *NOW),
        [
            "tunnel interface: wl0 is gone",
            "links of peers cannot arrive: address in use",
            "forward images: cannot listen on 127.0.0.1:2576: permission denied",
            "service results: cannot open its port on the tunnel address: address in use",
        ]
    );
}

#[test]
fn a_cause_from_the_peer_stays_one_short_line() {
    let cause = format!("said\n\u{1b}[2Jthis {}", "x".repeat(5000));
    let verdict = forward(0, |s| s.forwards[0].link = Link::Down { since: ago(1), cause });
    let text = verdict.cause.expect("cause");
    assert!(text.starts_with("link to city-lab: said  [2Jthis xx"), "{text}");
    assert_eq!(text.chars().count(), CAUSE_CHARS_MAX);
}

#[test]
fn the_json_is_the_contract() {
    let mut facts = site();
    facts.forwards[0].receiver =
        Receiver::Down { since: ago(60), cause: "192.168.10.40:6661 refuses connections".into() };
    let json = serde_json::to_value(assess(&facts, *NOW)).expect("serializes");
    assert_eq!(json["status"], "down");
    assert_eq!(json["site"], "north-hospital");
    assert_eq!(json["version"], "0.1.0");
    let peer = &json["peers"][0];
    assert_eq!(peer["name"], "city-lab");
    assert_eq!(peer["status"], "ok");
    assert_eq!(peer["since"], "2026-11-22T12:36:40Z");
    assert_eq!(peer.get("cause"), None);
    assert_eq!(peer["endpoint"], "198.51.100.7:51820");
    assert_eq!(peer["latest_handshake_age_seconds"], 12.0);
    assert_eq!((&peer["rx_bytes"], &peer["tx_bytes"]), (&1000.into(), &2000.into()));
    let forward = &json["forwards"][0];
    assert_eq!(forward["status"], "down");
    assert_eq!(forward["since"], "2026-11-22T13:59:00Z");
    assert!(forward["cause"].as_str().expect("cause").contains("refuses connections at city-lab"));
    assert_eq!(forward["connections"], 2);
    assert_eq!(forward["messages_total"], 10);
    assert_eq!(forward["acks"]["AE"], 1);
    assert_eq!(forward["last_ack_age_seconds"], 42.0);
    assert_eq!(forward["link"]["state"], "up");
    assert_eq!(json["services"][0]["receiver"]["state"], "ok");
}

/// Judges a stored forward whose queue is changed.
fn stored(change: impl FnOnce(&mut SiteFacts, &mut QueueFacts)) -> Verdict {
    let mut facts = site();
    let mut forward = super::super::fixture::stored();
    change(&mut facts, forward.queue.as_mut().unwrap());
    facts.forwards.push(forward);
    assess(&facts, *NOW).forwards.last().unwrap().verdict.clone()
}

#[test]
fn a_queue_that_flows_is_ok_and_its_own_answers_are_no_evidence() {
    check("flows", &stored(|_, _| {}), Status::Ok, ago(3000), "");
    let mut facts = site();
    facts.forwards[0] = super::super::fixture::stored();
    facts.forwards[0].receiver = Receiver::Unknown;
    facts.forwards[0].queue.as_mut().unwrap().last_settled_age = None;
    let cause = "whether the receiver at city-lab answers is not known: it has not answered yet, and no probe tells";
    check("no evidence", &assess(&facts, *NOW).forwards[0].verdict, Status::Unknown, ago(10_000), cause);
}

#[test]
fn a_queue_that_stands_still_says_why_and_what_to_do() {
    let (since, cause) = (ago(60), "x".to_owned());
    let state = |state: Queue| stored(move |_, queue| queue.state = state);
    let verdict = state(Queue::Failed { since, cause: "the disk is gone".into() });
    check("failed", &verdict, Status::Down, since, "spool: the disk is gone");
    let held =
        |cause: String| Queue::Held { since, sequence: 7, cause, decide: "wardlink queue retry results 7".into() };
    let verdict = state(held("no answer came".into()));
    let text = "held at message 7: no answer came; 3 wait; decide: wardlink queue retry results 7";
    check("held", &verdict, Status::Down, since, text);
    let mut facts = site();
    facts.forwards[0] = super::super::fixture::stored();
    facts.forwards[0].queue.as_mut().unwrap().state = held("no answer came".into());
    facts.forwards[0].receiver = Receiver::Down { since: ago(9), cause: "10.0.0.1:1 cannot be reached".into() };
    check("held, and the receiver is down", &assess(&facts, *NOW).forwards[0].verdict, Status::Down, since, text);
    let verdict = state(Queue::Diverged { since, cause: "it is ahead".into() });
    let text = "diverged from city-lab: it is ahead; nothing is sent until wardlink queue reconcile results";
    check("diverged", &verdict, Status::Down, since, text);
    let text = "paused, 3 wait; wardlink forward resume results ends it";
    check("paused", &state(Queue::Paused), Status::Degraded, ago(10_000), text);
    // What is first on a message's way is named.
    let tunnel_down = stored(|facts, queue| {
        lose_session(facts);
        queue.state = held(cause);
    });
    assert!(tunnel_down.cause.unwrap().starts_with("no session with city-lab"));
}

#[test]
fn a_queue_or_disk_that_fills_is_told_before_it_is_full() {
    let text = "the queue has 800 of at most 1000 messages (max_queue_messages)";
    let filled = |depth, parked| stored(move |_, queue| (queue.depth, queue.parked) = (Some(depth), Some(parked)));
    check("filling", &filled(800, 0), Status::Degraded, ago(10_000), text);
    assert_eq!(filled(799, 0).status, Status::Ok);
    let text = "the queue has 1000 of at most 1000 messages (max_queue_messages), 900 of them parked: wardlink queue list \
                results --state parked";
    check("full of what is set aside", &filled(100, 900), Status::Down, ago(10_000), text);
    let text = "700 parked: wardlink queue list results --state parked shows them; release or discard each";
    check("set aside", &filled(99, 700), Status::Degraded, ago(10_000), text);
    let decide = "wardlink queue retry results 7".to_owned();
    let verdict = stored(move |_, queue| {
        (queue.depth, queue.parked) = (Some(1000), Some(0));
        queue.state = Queue::Held { since: ago(60), sequence: 7, cause: "AE".into(), decide };
    });
    let text = "the queue has 1000 of at most 1000 messages (max_queue_messages); held at message 7: wardlink queue retry \
                results 7";
    check("full, because it is held", &verdict, Status::Down, ago(10_000), text);
    let verdict = stored(|_, queue| {
        (queue.depth, queue.parked, queue.state) = (Some(1000), Some(0), Queue::Paused);
    });
    let text = "the queue has 1000 of at most 1000 messages (max_queue_messages); paused, 1000 wait; wardlink forward resume \
                results ends it";
    check("full, because it is paused", &verdict, Status::Down, ago(10_000), text);
    let offline = stored(|facts, queue| {
        lose_session(facts);
        (queue.depth, queue.parked) = (Some(1000), Some(0));
    });
    assert!(offline.cause.unwrap().starts_with("the queue has 1000 of at most 1000"), "what senders meet is first");
    let text = "the queue has 1048576 of at most 1048576 bytes (max_queue_bytes)";
    let bytes = |bytes, parked_bytes| {
        stored(move |_, queue| (queue.bytes, queue.parked_bytes) = (Some(bytes), Some(parked_bytes)))
    };
    check("full", &bytes(1 << 20, 0), Status::Down, ago(10_000), text);
    assert!(bytes(1 << 19, 1 << 19).cause.unwrap().contains("bytes (max_queue_bytes), 524288 of them parked"));
    let text = "the disk of the spool is full in 11h 59m, if it goes on so; 1 MiB on it are messages of this queue, 3 MiB \
                copies of delivered ones, which go first";
    let soon = |queue: &mut QueueFacts, free: u64| {
        queue.disk_full_in = Some(Duration::from_secs(12 * 3600 - 1));
        queue.disk_free_bytes = Some(free);
    };
    // 1500 bytes wait, of 1 MiB at the most.
    let verdict = stored(|_, queue| soon(queue, (1 << 20) - 1501));
    check("disk", &verdict, Status::Degraded, ago(10_000), text);
    let verdict = stored(|_, queue| soon(queue, (1 << 20) - 1500));
    assert_eq!(verdict.status, Status::Ok, "all that the queue may take has room: others' pace is no alarm");
}

#[test]
fn a_queue_is_full_filling_paused_or_has_parked_since_that_was_seen_and_what_fills_it_is_said() {
    let onsets = Onsets {
        opening: None,
        paused: Some(ago(3)),
        filling: Some(ago(4)),
        full: Some(ago(5)),
        disk_full_soon: Some(ago(6)),
        parked: Some(ago(7)),
    };
    let since = |depth, parked, state| {
        let verdict = stored(move |_, queue| {
            (queue.depth, queue.parked, queue.state, queue.onsets) = (Some(depth), Some(parked), state, onsets);
        });
        verdict.since
    };
    assert_eq!(since(1000, 0, Queue::Flowing), ago(5));
    assert_eq!(since(1000, 0, Queue::Paused), ago(5));
    assert_eq!(since(900, 0, Queue::Flowing), ago(4));
    assert_eq!(since(1, 0, Queue::Paused), ago(3));
    assert_eq!(since(1, 1, Queue::Flowing), ago(7));
    let disk = stored(move |_, queue| {
        queue.onsets = onsets;
        (queue.disk_full_in, queue.disk_free_bytes) = (Some(Duration::from_secs(60)), Some(0));
    });
    assert_eq!(disk.since, ago(6));
    let offline = stored(move |facts, queue| {
        lose_session(facts);
        (queue.depth, queue.parked, queue.onsets) = (Some(1000), Some(0), onsets);
    });
    assert_eq!(offline.since, ago(200), "what fills it is older");
    let cause = offline.cause.unwrap();
    assert!(cause.contains("1000 messages (max_queue_messages); no session with city-lab"), "{cause}");
    let trying = service(|facts| {
        facts.services[0].trying = Some(("city-lab".into(), "message 7".into()));
        facts.services[0].trouble_since = Some(ago(8));
    });
    assert_eq!((trying.status, trying.since), (Status::Degraded, ago(8)));
}

#[test]
fn a_message_that_is_refused_for_what_it_is_degrades_its_forward_for_a_while() {
    let refused = |seconds| {
        forward(0, |facts| {
            let age = Duration::from_secs(seconds);
            facts.forwards[0].last_refusal = Some(LastRefusal { reason: "frame_too_large", told: "it is large", age });
        })
    };
    check("refused", &refused(9), Status::Degraded, ago(9), "a message was refused 9s ago: it is large");
    assert_eq!(refused(301).status, Status::Ok);
}

#[test]
fn two_releases_of_mllp_degrade_a_forward_whose_receiver_is_there() {
    let verdict = forward(0, |facts| facts.forwards[0].mixed_releases = Some((ago(30), "they differ".into())));
    check("mixed", &verdict, Status::Degraded, ago(30), "they differ");
}

#[test]
fn messages_that_wait_in_vain_degrade_their_forward_and_service_for_a_while() {
    let left = |messages, seconds: u64| {
        let (first_age, age) = (Duration::from_secs(seconds + 20), Duration::from_secs(seconds));
        Some(Left { messages, first_age, age })
    };
    let text = "3 messages waited in vain for an answer of receiver at city-lab, the last until 9s ago";
    let verdict = |left| forward(0, |facts| facts.forwards[0].left_unanswered = left);
    check("left", &verdict(left(3, 9)), Status::Degraded, ago(29), text);
    assert_eq!(verdict(left(3, 301)).status, Status::Ok);
    let text = "a message waited in vain for an answer of receiver 192.168.10.40:6661, the last until 9s ago";
    let verdict = service(|facts| facts.services[0].left_unanswered = left(1, 9));
    check("left at the service", &verdict, Status::Degraded, ago(29), text);
}

#[test]
fn a_full_disk_is_told_where_messages_are_not_taken_and_where_they_wait() {
    let text = "the spool's disk is full: no message is taken until there is room; the 3 that wait go on; 1 MiB on it are \
                messages of this queue, none are copies of delivered ones: look what else is on it";
    let full = |queue: &mut QueueFacts| (queue.disk_full_since, queue.delivered) = (Some(ago(7)), Some(0));
    let verdict = stored(|_, queue| full(queue));
    check("full", &verdict, Status::Down, ago(7), text);
    let mut facts = site();
    facts.forwards.push(super::super::fixture::stored());
    full(facts.forwards[2].queue.as_mut().unwrap());
    assert_eq!(unready(&facts, *NOW), [format!("forward results: {text}")]);

    let mut facts = site();
    facts.services[0].disk_full = true;
    let text = "the disk of state_dir is full: stored messages go on as long as a reserve lasts";
    let report = assess(&facts, *NOW);
    check("reserve", &report.services[0].verdict, Status::Degraded, ago(10_000), text);
    assert!(unready(&facts, *NOW).is_empty());
    facts.services[0].ledger_failed = Some("the disk of x is full".into());
    let text = "stored messages wait: what becomes of them cannot be written down: the disk of x is full";
    let report = assess(&facts, *NOW);
    check("ledger", &report.services[0].verdict, Status::Down, ago(10_000), text);
    assert_eq!(unready(&facts, *NOW), [format!("service results: {text}")]);
}

#[test]
fn a_peer_that_does_not_know_the_key_that_replaced_another_at_once_is_to_be_told() {
    let mut facts = site();
    facts.forwards.clear();
    facts.key_replaced = Some(ago(100));
    facts.peers[0].session = Session::Down { since: ago(90) };
    let mut verdict = |latest: Option<u64>, wanted| {
        facts.peers[0].latest_handshake_age = latest.map(std::time::Duration::from_secs);
        facts.peers[0].session_wanted = wanted;
        let verdict = assess(&facts, *NOW).peers[0].verdict.clone();
        (verdict.status, verdict.cause.unwrap().contains("city-lab has not taken the new one: send the new card"))
    };
    assert_eq!(verdict(Some(101), false), (Status::Degraded, true));
    assert_eq!(verdict(None, true), (Status::Down, true));
    assert_eq!(verdict(Some(99), false), (Status::Unknown, false), "it knows it");
}

#[test]
fn what_a_restart_would_not_find_degrades_the_site() {
    let mut facts = site();
    facts.files = vec![super::super::facts::FileFault { since: ago(60), cause: "the key is gone".into() }];
    let report = assess(&facts, *NOW);
    assert_eq!((report.status, report.degraded.len()), (Status::Degraded, 1));
    check("key", &report.degraded[0], Status::Degraded, ago(60), "the key is gone");
    assert!(report.unready.is_empty(), "it works");
}

#[test]
fn a_site_is_not_ready_while_a_spool_takes_nothing() {
    let mut facts = site();
    facts.forwards.push(super::super::fixture::stored());
    assert!(unready(&facts, *NOW).is_empty());
    let queue = |facts: &mut SiteFacts, state| facts.forwards[2].queue.as_mut().unwrap().state = state;
    queue(&mut facts, Queue::Opening);
    let opening = |facts: &mut SiteFacts, seconds| {
        facts.forwards[2].queue.as_mut().unwrap().onsets.opening = Some(ago(seconds));
        let report = assess(facts, *NOW);
        (report.status, report.unready.clone(), report.forwards[2].verdict.clone())
    };
    let (status, unready_for, verdict) = opening(&mut facts, 9);
    assert_eq!(unready_for, ["forward results: the spool is being opened"]);
    assert_eq!(status, Status::Unknown, "no fault, as with all that begins");
    check("begins", &verdict, Status::Unknown, ago(9), "the spool is being opened");
    let (status, unready_for, verdict) = opening(&mut facts, 10);
    assert_eq!((status, unready_for.len()), (Status::Down, 1));
    check("hangs", &verdict, Status::Down, ago(10), "the spool is being opened, and messages are refused");
    queue(&mut facts, Queue::Failed { since: ago(1), cause: "the disk is gone".into() });
    assert_eq!(unready(&facts, *NOW), ["forward results: spool: the disk is gone"]);
    queue(&mut facts, Queue::Paused);
    assert!(unready(&facts, *NOW).is_empty(), "it takes messages");
}

#[test]
fn what_a_stored_forward_answers_is_said_of_this_site() {
    let verdict = |change: fn(&mut super::super::facts::ForwardFacts)| {
        let mut facts = site();
        facts.forwards[0] = super::super::fixture::stored();
        change(&mut facts.forwards[0]);
        assess(&facts, *NOW).forwards[0].verdict.clone().cause.unwrap()
    };
    let slow = verdict(|forward| (forward.unanswered, forward.oldest_unanswered_age) = (5, Some(LONG)));
    assert_eq!(slow, "the spool is slow: 5 unanswered, the oldest for 3h 2m");
    let refused = verdict(|forward| {
        forward.last_ack_age = Some(Duration::from_secs(9));
        forward.last_negative_ack = Some(NegativeAck { code: "AR", age: Duration::from_secs(9) });
    });
    assert_eq!(refused, "this site answered AR 9s ago");
}

#[test]
fn a_peers_queue_that_is_held_here_is_the_services_fault() {
    let held = |since, sequence| HeldQueue { peer: "city-lab".into(), since, sequence, cause: "AE".into() };
    let verdict = service(|facts| facts.services[0].held = vec![held(ago(5), 9), held(ago(50), 7)]);
    let text = "the queue of city-lab is held at message 7: AE; city-lab decides";
    check("held", &verdict, Status::Down, ago(50), text);
    let verdict = service(|facts| {
        facts.services[0].held = vec![held(ago(50), 7)];
        facts.services[0].receiver = Receiver::Down { since: ago(9), cause: "does not answer".into() };
    });
    check("held, and the receiver is down", &verdict, Status::Down, ago(50), text);
}

#[test]
fn a_queue_without_a_forward_is_down_and_says_what_to_do() {
    let mut facts = site();
    let orphan = OrphanFacts {
        name: "orders".into(),
        since: ago(60),
        depth: Some(2),
        bytes: Some(1000),
        parked: Some(1),
        oldest_age: Some(Duration::from_secs(90)),
        fault: None,
    };
    facts.orphans = vec![orphan.clone()];
    let report = assess(&facts, *NOW);
    assert_eq!((report.status, report.orphans[0].verdict.since), (Status::Down, ago(60)));
    let text = "no stored forward has this name: 2 messages wait, 1 are set aside; name orders again, or wardlink queue \
                move orders --to FORWARD, or export and discard them";
    assert_eq!(report.orphans[0].verdict.cause.as_deref(), Some(text));
    assert_eq!(unready(&facts, *NOW), [format!("queue orders: {text}")]);
    facts.orphans = vec![OrphanFacts { fault: Some("it is damaged".into()), ..orphan }];
    let cause = assess(&facts, *NOW).orphans[0].verdict.cause.clone();
    assert_eq!(cause.as_deref(), Some("no stored forward has this name, and its spool: it is damaged"));
}

#[test]
fn an_idle_peer_that_wg_added_says_nothing_of_the_site() {
    let with = |change: fn(&mut PeerFacts)| {
        let mut facts = site();
        let mut added = facts.peers[0].clone();
        added.session = Session::Down { since: ago(100) };
        added.latest_handshake_age = None;
        change(&mut added);
        facts.peers.push(added);
        let report = assess(&facts, *NOW);
        (report.peers[1].verdict.status, report.peers[1].verdict.since, report.status)
    };
    let idle = |peer: &mut PeerFacts| (peer.is_configured, peer.name) = (false, "wg-0123456789abcdef".into());
    assert_eq!(with(idle), (Status::Unknown, ago(100), Status::Ok));
    assert_eq!(with(|peer| peer.name = "idle".into()), (Status::Unknown, ago(100), Status::Unknown), "of the file");
}
