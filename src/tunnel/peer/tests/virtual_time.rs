//! What takes minutes: outages and idle sessions, in virtual time. With the feature `virtual-time`, `Tunn` reads a clock
//! that only these tests move; nothing but tests is built with it (`lib.rs`):
//! `cargo test --lib --features virtual-time virtual_time`.

use std::collections::VecDeque;

use mock_instant::MockClock;

use super::*;

/// Is the time between two ticks: the middle of what the driver does.
const TICK: Duration = Duration::from_millis(150);

/// Is how often the host tries to send something, as a link does that is dialled.
pub(super) const SEND_EVERY: Duration = Duration::from_secs(1);

/// Bounds the time from the wire's return to the first packet that arrives: the next initiation or packet, each of which
/// may just have missed a tick. It leaves the link 700 ms of the 2 s that an outage may cost.
const FLOW_LIMIT: Duration = Duration::from_millis(1300);

const KEEPALIVE: Option<Duration> = Some(Duration::from_secs(5));

/// Is two ends with a wire between them.
pub(super) struct World {
    ends: [End; 2],
    is_cut: bool,
    /// Tells which ends have packets to send.
    sends: [bool; 2],
    began: Instant,
    passed: Duration,
    sent_at: Duration,
    /// Counts the packets that arrived, the sessions that began, and the initiations that were sent.
    pub(super) arrived: usize,
    pub(super) sessions: usize,
    initiations: usize,
    /// Lists why something was refused.
    pub(super) refused: Vec<Drop>,
}

impl World {
    /// Makes two ends with a session.
    pub(super) fn new(keepalives: [Option<Duration>; 2], sends: [bool; 2]) -> Self {
        let options = keepalives.map(|keepalive| Options { keepalive, ..Options::default() });
        let [a, b] = &options;
        let mut ends = [end(1, 2, 1, a), end(2, 1, 2, b)];
        let [a, b] = &mut ends;
        connect(a, b);
        let (began, zero) = (Instant::now(), Duration::ZERO);
        Self {
            ends,
            is_cut: false,
            sends,
            began,
            passed: zero,
            sent_at: zero,
            arrived: 0,
            sessions: 0,
            initiations: 0,
            refused: Vec::new(),
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, how_long: Duration) {
        let until = self.passed + how_long;
        while self.passed < until {
            self.step();
        }
    }

    /// Lets one tick pass.
    fn step(&mut self) {
        MockClock::advance(TICK);
        self.passed += TICK;
        let now = self.began + self.passed;
        let sends = self.passed >= self.sent_at + SEND_EVERY;
        for from in [0, 1] {
            let ticked = self.ends[from].tick(now);
            let packet = if sends && self.sends[from] { self.ends[from].send(&packet_of(60)) } else { None };
            for datagram in ticked.into_iter().chain(packet) {
                self.carry(from, datagram);
            }
        }
        if sends {
            self.sent_at = self.passed;
        }
    }

    /// Carries a datagram and all that comes of it to and fro.
    fn carry(&mut self, from: usize, datagram: Vec<u8>) {
        let now = self.began + self.passed;
        let mut under_way = VecDeque::from([(from, datagram)]);
        while let Some((from, datagram)) = under_way.pop_front() {
            self.initiations += usize::from(kind(&datagram) == INITIATION);
            if self.is_cut {
                continue;
            }
            let to = 1 - from;
            // any number will do for the collision's jitter, if the ends' differ
            let random = if to == 0 { 50_000_000 } else { 300_000_000 };
            let got = self.ends[to].receive_from(SOURCE, &datagram, now, random);
            match got.what {
                What::Reply(reply) => under_way.push_back((to, reply)),
                What::Packet(_) => self.arrived += 1,
                What::Refused(reason) | What::Unaddressed(reason) => self.refused.push(reason),
                What::Nothing | What::Cookie(_) => {}
            }
            if got.begins_session {
                self.sessions += 1;
                while let Some(queued) = self.ends[to].queued() {
                    under_way.push_back((to, queued));
                }
            }
        }
    }

    /// Cuts the wire for so long, and returns how long after its return a packet arrives.
    fn survive(&mut self, cut: Duration) -> Duration {
        self.is_cut = true;
        self.run(cut);
        self.is_cut = false;
        let (arrived, returned) = (self.arrived, self.passed);
        while self.arrived == arrived && self.passed < returned + Duration::from_secs(20) {
            self.step();
        }
        self.passed - returned
    }
}

#[test]
fn packets_flow_soon_after_any_outage() {
    for sends in [[true, false], [false, true]] {
        for cut_s in [16, 40, 100, 200, 600] {
            // the session is new, or about to be renewed
            for age_s in [0, 115] {
                let mut world = World::new([KEEPALIVE; 2], sends);
                world.run(Duration::from_secs(age_s));
                let took = world.survive(Duration::from_secs(cut_s));
                assert!(took <= FLOW_LIMIT, "{took:?} after {cut_s} s without a wire, at {age_s} s, {sends:?}");
            }
        }
    }
}

#[test]
fn one_outage_after_another_is_survived() {
    let mut world = World::new([KEEPALIVE; 2], [true; 2]);
    for cut_s in [600, 30, 95, 7, 1000] {
        let took = world.survive(Duration::from_secs(cut_s));
        assert!(took <= FLOW_LIMIT, "{took:?} after {cut_s} s without a wire");
        world.run(Duration::from_secs(100));
    }
}

#[test]
fn a_peer_that_is_away_gets_an_initiation_a_second() {
    let mut world = World::new([KEEPALIVE, None], [true, false]);
    world.is_cut = true;
    world.run(Duration::from_secs(200));
    let before = world.initiations;
    world.run(Duration::from_secs(600));
    let sent = world.initiations - before;
    assert!((480..=600).contains(&sent), "{sent} in 600 s");
}

#[test]
fn a_peer_without_a_keepalive_begins_again_when_there_is_something_to_send() {
    let mut world = World::new([None; 2], [true, false]);
    world.is_cut = true;
    world.run(Duration::from_secs(300));
    world.sends = [false; 2];
    world.run(Duration::from_secs(300));
    let before = world.initiations;
    world.run(Duration::from_secs(60));
    assert_eq!(world.initiations, before, "nothing is to be sent, nobody is called");
    world.sends = [true, false];
    world.is_cut = false;
    world.run(Duration::from_secs(2));
    assert!(world.arrived > 0);
}

fn is_kept(keepalives: [Option<Duration>; 2]) {
    let mut world = World::new(keepalives, [false; 2]);
    for _ in 0..2000 {
        world.step();
        let has_session = world.ends.each_ref().map(|end| end.peer.has_session());
        assert_eq!(has_session, [true; 2], "after {:?}", world.passed);
    }
    assert!((2..=4).contains(&world.sessions), "one renewal or two in 300 s, seen by both: {}", world.sessions);
}

#[test]
fn an_idle_session_with_keepalives_is_renewed_before_it_ends() {
    is_kept([KEEPALIVE; 2]);
}

#[test]
fn an_idle_session_that_only_the_responder_keeps_is_renewed_before_it_ends() {
    is_kept([None, KEEPALIVE]);
}
