//! A site's alarms from its facts, look by look, in virtual time.

use proptest::prelude::*;

use super::super::facts::{ForwardFacts, Link, Receiver, Session};
use super::super::fixture::{self, NOW};
use super::*;

/// Is a site that is looked at every five seconds.
struct World {
    alarms: Alarms,
    facts: SiteFacts,
    limits: AlarmLimits,
    seconds: u64,
    start: Instant,
    told: Vec<(Course, Kind, String)>,
    causes: Vec<String>,
}

impl World {
    fn new() -> Self {
        let mut facts = fixture::site();
        facts.forwards.push(fixture::stored());
        Self {
            alarms: Alarms::new(Kept::default(), *NOW),
            facts,
            limits: AlarmLimits::default(),
            seconds: 0,
            start: Instant::now(),
            told: Vec::new(),
            causes: Vec::new(),
        }
    }

    fn now(&self) -> SystemTime {
        *NOW + Duration::from_secs(self.seconds)
    }

    /// Lets so much time pass; returns what was told meanwhile.
    fn pass(&mut self, seconds: u64) -> Vec<(Course, Kind, String)> {
        let (before, end) = (self.told.len(), self.seconds + seconds);
        while self.seconds < end {
            self.seconds += 5;
            let at = self.start + Duration::from_secs(self.seconds);
            for event in self.alarms.handle_look(&self.facts, &self.limits, at, self.now()) {
                self.told.push((event.event, event.alarm, event.of));
                self.causes.push(event.cause);
            }
        }
        self.told.split_off(before)
    }

    /// Restarts the site, by way of what is on disk.
    fn restart(&mut self) {
        let text = serde_json::to_string(&self.alarms.kept()).unwrap();
        self.alarms = Alarms::new(serde_json::from_str(&text).unwrap(), self.now());
    }

    fn forward(&mut self, index: usize) -> &mut ForwardFacts {
        &mut self.facts.forwards[index]
    }

    fn queue(&mut self) -> &mut super::super::facts::QueueFacts {
        self.facts.forwards[2].queue.as_mut().unwrap()
    }
}

fn start(kind: Kind, of: &str) -> Vec<(Course, Kind, String)> {
    vec![(Course::Start, kind, of.to_owned())]
}

fn clear(kind: Kind, of: &str) -> Vec<(Course, Kind, String)> {
    vec![(Course::Clear, kind, of.to_owned())]
}

#[test]
fn a_site_that_is_well_has_no_alarm() {
    assert_eq!(World::new().pass(4 * 3600), []);
}

#[test]
fn a_receiver_that_is_down_is_told_once_with_its_cause_also_after_a_restart() {
    let mut world = World::new();
    let since = world.now();
    world.forward(0).receiver = Receiver::Down { since, cause: "of service orders refuses connections".into() };
    assert_eq!(world.pass(170), []);
    assert_eq!(world.pass(30), start(Kind::Down, "forward orders"));
    assert!(world.causes[0].contains("refuses connections at city-lab since"), "{:?}", world.causes);
    assert_eq!(world.pass(3600), []);
    world.restart();
    assert_eq!(world.pass(3600), [], "a restart tells nothing twice");
    world.restart();
    world.forward(0).receiver = Receiver::Ok { since };
    assert_eq!(world.pass(120), clear(Kind::Down, "forward orders"), "nor does it lose the clear");
    assert_eq!(world.alarms.raised(), []);
}

#[test]
fn a_receiver_that_was_down_is_well_only_where_something_shows_it() {
    let mut world = World::new();
    let since = world.now();
    world.forward(0).receiver = Receiver::Down { since, cause: "of service orders refuses connections".into() };
    world.facts.services[0].receiver = Receiver::Down { since, cause: "192.168.10.40:6661 refuses connections".into() };
    world.forward(1).link = Link::Down { since, cause: "no answer".into() };
    assert_eq!(world.pass(300).len(), 3);
    // The far site restarts, and then this one: nobody knows any more.
    world.forward(0).link = Link::Down { since, cause: "no answer".into() };
    world.pass(60);
    world.restart();
    world.forward(0).link = Link::Up { since, round_trip: None };
    world.forward(0).receiver = Receiver::Unknown;
    world.forward(0).last_ack_age = None;
    world.facts.services[0].receiver = Receiver::Unknown;
    world.forward(1).link = Link::Up { since, round_trip: None };
    (world.forward(1).receiver, world.forward(1).last_ack_age) = (Receiver::Unknown, None);
    assert_eq!(world.pass(7200), clear(Kind::Down, "forward images"), "of the link it is known that it works");
    let raised = world.alarms.raised();
    assert_eq!(raised.len(), 2);
    let cause = &raised[0].cause;
    let told = "refuses connections at city-lab since";
    assert!(cause.contains(told) && cause.ends_with("; nothing tells yet whether it still is so"), "{cause}");
    world.forward(0).receiver = Receiver::Ok { since };
    assert_eq!(world.pass(120), clear(Kind::Down, "forward orders"));
    let cause = world.causes.last().unwrap();
    assert!(cause.contains(told) && !cause.contains("nothing tells"), "{cause}");
    world.facts.services[0].receiver = Receiver::Ok { since };
    assert_eq!(world.pass(120), clear(Kind::Down, "service results"));
}

#[test]
fn a_peer_without_a_session_is_one_alarm_not_one_for_each_forward() {
    let mut world = World::new();
    world.facts.peers[0].session = Session::Down { since: world.now() };
    world.facts.peers[0].session_wanted = true;
    assert_eq!(world.pass(1800), start(Kind::NoSession, "peer city-lab"));
    world.facts.peers[0].session = Session::Up { since: world.now() };
    assert_eq!(world.pass(1800), clear(Kind::NoSession, "peer city-lab"));
}

#[test]
fn a_queue_has_a_depth_and_an_age_with_a_distance_between_start_and_clear() {
    let mut world = World::new();
    world.queue().depth = Some(600);
    assert_eq!(world.pass(120), start(Kind::QueueDepth, "forward results"));
    for depth in [420, 510, 450, 700] {
        world.queue().depth = Some(depth);
        assert_eq!(world.pass(120), [], "{depth} is no news");
    }
    world.queue().depth = None;
    assert_eq!(world.pass(120), [], "what is not known is no news");
    world.queue().depth = Some(400);
    assert_eq!(world.pass(120), clear(Kind::QueueDepth, "forward results"));
    world.queue().oldest_age = Some(Duration::from_secs(901));
    assert_eq!(world.pass(120), start(Kind::QueueAge, "forward results"));
    world.queue().oldest_age = None;
    assert_eq!(world.pass(120), clear(Kind::QueueAge, "forward results"));
}

#[test]
fn negative_answers_are_an_alarm_by_their_share_and_slow_ones_by_the_slowest_hundredth() {
    let mut world = World::new();
    let answer = |world: &mut World, negative: u64, positive: u64, slow: [u64; 2]| {
        let forward = world.forward(0);
        *forward.acks.get_mut("AE").unwrap() += negative;
        *forward.acks.get_mut("AA").unwrap() += positive;
        forward.slow.answers += negative + positive;
        forward.slow.near += slow[0];
        forward.slow.beyond += slow[1];
        world.pass(30)
    };
    assert_eq!(answer(&mut world, 15, 0, [0, 0]), [], "too few say nothing");
    world.pass(700);
    let told: Vec<_> = (0..10).flat_map(|_| answer(&mut world, 2, 8, [0, 0])).collect();
    assert_eq!(told, start(Kind::NakRate, "forward orders"));
    world.restart();
    assert_eq!(world.pass(600), [], "a restart knows of no answers, which is no all-clear");
    assert_eq!(world.pass(800), clear(Kind::NakRate, "forward orders"), "none comes any more");
    world.limits.ack_latency = Some(Duration::from_secs(10));
    let told: Vec<_> = (0..10).flat_map(|_| answer(&mut world, 0, 10, [10, 0])).collect();
    assert_eq!(told, [], "all are near the limit and none is beyond");
    let told: Vec<_> = (0..10).flat_map(|_| answer(&mut world, 0, 20, [20, 1])).collect();
    assert_eq!(told, start(Kind::AckLatency, "forward orders"));
    let cause = world.causes.last().unwrap();
    assert!(cause.contains(" answers in 5m took longer than 10s"), "{cause}");
    assert_eq!(world.pass(800), clear(Kind::AckLatency, "forward orders"));
}

#[test]
fn a_silent_feed_is_told_by_its_limit_and_stays_so_over_a_restart() {
    let mut world = World::new();
    world.forward(0).silent_after = Some(Duration::from_secs(3600));
    world.pass(3000);
    world.forward(0).messages_total += 1;
    assert_eq!(world.pass(3000), []);
    assert_eq!(world.pass(900), start(Kind::Silent, "forward orders"));
    world.restart();
    world.forward(0).messages_total = 0;
    assert_eq!(world.pass(3000), [], "it is silent still, and that was told");
    world.forward(0).messages_total = 1;
    assert_eq!(world.pass(10), clear(Kind::Silent, "forward orders"));
    world.seconds += 7200;
    world.restart();
    world.forward(0).messages_total = 0;
    assert_eq!(world.pass(3000), [], "nobody could send while the site did not run");
}

#[test]
fn a_reload_changes_limits_without_flapping_and_what_is_off_clears() {
    let mut world = World::new();
    world.queue().depth = Some(600);
    assert_eq!(world.pass(120), start(Kind::QueueDepth, "forward results"));
    for percent in [60, 40, 70] {
        world.limits.queue_depth_percent = Some(percent);
        assert_eq!(world.pass(600), [], "{percent}");
    }
    world.limits.queue_depth_percent = None;
    assert_eq!(world.pass(10), clear(Kind::QueueDepth, "forward results"));
    world.limits.queue_depth_percent = Some(50);
    assert_eq!(world.pass(600), start(Kind::QueueDepth, "forward results"));
    world.facts.forwards.pop();
    assert_eq!(world.pass(10), clear(Kind::QueueDepth, "forward results"), "its forward is gone");
}

#[test]
fn a_certificate_and_a_disk_are_told_in_time() {
    let mut world = World::new();
    let now = world.now();
    let day = Duration::from_secs(24 * 3600);
    world.forward(0).certificates = vec![super::super::facts::CertificateFacts {
        of: None,
        role: "certificate",
        file: "lab.pem".into(),
        expires: now + 29 * day,
        expired: false,
        note: None,
    }];
    assert_eq!(world.pass(120), start(Kind::Certificate, "forward orders certificate lab.pem"));
    world.forward(0).certificates[0].expires = now + 90 * day;
    assert_eq!(world.pass(120), clear(Kind::Certificate, "forward orders certificate lab.pem"));
    world.queue().disk_free_bytes = Some(1 << 10);
    world.queue().disk_full_in = Some(Duration::from_secs(3600));
    assert_eq!(world.pass(120), start(Kind::Disk, "forward results"));
    world.queue().disk_full_in = Some(Duration::from_secs(13 * 3600));
    assert_eq!(world.pass(120), []);
    world.queue().disk_full_in = None;
    assert_eq!(world.pass(1000), clear(Kind::Disk, "forward results"));
}

#[test]
fn a_log_that_is_not_what_it_was_is_told_here_and_at_the_peer() {
    let mut world = World::new();
    let fault = |world: &World, cause: &str| {
        Some(super::super::facts::FailedAudit { since: world.now(), cause: cause.to_owned() })
    };
    let log = |fault| vec![super::super::facts::PeerLog { peer: "city-lab".into(), fault }];
    world.facts.audit.contradicted = fault(&world, "entry 2 is another one");
    assert_eq!(world.pass(90), start(Kind::Audit, "audit log"));
    assert_eq!(world.causes.last().unwrap(), "the audit log is not as it was written: entry 2 is another one");
    world.facts.audit.peers = log(fault(&world, "it ends at entry 4, and went on to entry 9 before"));
    assert_eq!(world.pass(90), start(Kind::Audit, "audit log of city-lab"));
    world.restart();
    world.facts.audit.peers = Vec::new();
    assert_eq!(world.pass(600), [], "until the peer says how its log is nothing is known");
    world.facts.audit.peers = log(None);
    assert_eq!(world.pass(90), clear(Kind::Audit, "audit log of city-lab"));
    world.facts.audit.contradicted = None;
    world.facts.audit.failed = fault(&world, "no room");
    assert_eq!(world.pass(100), [], "one that cannot be written has the time of what is down");
    world.facts.audit.failed = None;
    assert_eq!(world.pass(90), clear(Kind::Audit, "audit log"));
}

#[test]
fn a_log_that_cannot_be_sent_is_told_after_the_time_of_what_is_down() {
    let mut world = World::new();
    let failed = super::super::facts::FailedAudit { since: world.now(), cause: "refused".into() };
    world.facts.audit.atna = Some(super::super::facts::AtnaFacts {
        server: "audit.example:6514".into(),
        connected: false,
        sent: 5,
        taken: 5,
        unsent: 7,
        lost: 0,
        failed: Some(failed),
    });
    assert_eq!(world.pass(100), []);
    assert_eq!(world.pass(120), start(Kind::Atna, "audit log"));
    let cause = world.causes.last().unwrap();
    assert!(cause.starts_with("the audit log cannot be sent to audit.example:6514 since "), "{cause}");
    assert!(cause.ends_with(": refused; 7 entries wait"), "{cause}");
    world.facts.audit.atna.as_mut().unwrap().failed = None;
    assert_eq!(world.pass(120), clear(Kind::Atna, "audit log"));
}

proptest! {
    /// Whoever is told has each event once, in order, over restarts and failures, until there is no more room.
    #[test]
    fn what_is_to_be_told_is_told_once_and_in_order(steps in proptest::collection::vec(0_u8..4, 0..300)) {
        let (mut news, mut made, mut told) = (News::default(), Vec::new(), Vec::new());
        let alarm = AlarmFacts { alarm: Kind::Down, of: "forward a".into(), since: *NOW, cause: "c".into() };
        for step in steps {
            match step {
                0 => {
                    let turn = board::Turn { starts: true, at: *NOW, alarm: alarm.clone() };
                    let event = news.event("site", turn);
                    made.push(event.id);
                    prop_assert!(!news.push(Teller::Webhook, event));
                }
                1 => {
                    let next = news.next(Teller::Webhook); // a failure: it comes again
                    prop_assert_eq!(next.map(|event| event.id), made.get(told.len()).copied());
                }
                2 => {
                    if let Some(event) = news.next(Teller::Webhook) {
                        told.push(event.id);
                        news.told(Teller::Webhook, event.id);
                    }
                }
                _ => news = serde_json::from_str(&serde_json::to_string(&news).unwrap()).unwrap(),
            }
            prop_assert_eq!(news.waiting(Teller::Webhook), made.len() - told.len());
        }
        prop_assert_eq!(&told[..], &made[..told.len()]);
    }
}

#[test]
fn nothing_grows_while_nobody_can_be_told() {
    let mut news = News::default();
    let alarm = AlarmFacts { alarm: Kind::Down, of: "forward a".into(), since: *NOW, cause: "c".into() };
    let lost = (0..EVENTS_WAITING_MAX + 5).filter(|_| {
        let event = news.event("site", board::Turn { starts: true, at: *NOW, alarm: alarm.clone() });
        news.push(Teller::Command, event)
    });
    assert_eq!(lost.count(), 5);
    assert_eq!(news.waiting(Teller::Command), EVENTS_WAITING_MAX);
    assert_eq!(news.next(Teller::Command).unwrap().id, 6, "the oldest went");
}
