//! A site changes its key while it and its peer speak to each other: step by step, both at once, with a restart between.

use super::*;

/// Is the time between two ticks, and the longest that a change may take here.
const TICK: Duration = Duration::from_millis(100);
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// Is a site that may know its peer by two keys, and be known by two.
struct Site {
    end: End,
    own: (u8, Option<u8>),
    peer: config::Peer,
    next_index: u32,
}

impl Site {
    /// Begins with the first key of each.
    fn new(own: u8, other: u8, index: u32) -> Self {
        let end = end(own, other, index, &Options::default());
        let peer = configured(secret(other).public_key(), &Options::default());
        Self { end, own: (own, None), peer, next_index: index + 1 }
    }

    /// Does what the tunnel does when keys change.
    fn follow(&mut self, now: Instant) {
        let older = self.own.1.map(secret);
        self.end.identity = Identity::with_older(&secret(self.own.0), older.as_ref());
        let pairs = Pair::all(&self.end.identity, &self.peer);
        let missing = self.end.peer.missing(&pairs);
        let joining: Vec<_> = missing.into_iter().zip(self.next_index..).collect();
        self.next_index += 8;
        if self.end.peer.is_left_behind(&pairs) {
            self.end.peer.renew(&self.end.identity, &self.peer, self.next_index, Before::IsHeard);
        }
        self.end.peer.follow((&self.end.identity, &self.peer), &pairs, joining, now);
    }

    fn rotate(&mut self, to: u8, now: Instant) {
        self.own = (to, Some(self.own.0));
        self.peer.knows_new_key = false;
        self.follow(now);
    }

    /// Takes in an announcement.
    fn hear(&mut self, key: u8, now: Instant) {
        self.peer.next_key = Some(secret(key).public_key());
        self.follow(now);
    }

    /// Does what the tunnel's keeper does; tells whether nothing is left to change.
    fn settle(&mut self, now: Instant) -> bool {
        let proven = self.end.peer.proven();
        let before = (self.peer.public_key, self.peer.knows_new_key);
        if self.peer.next_key == Some(proven.theirs) {
            (self.peer.public_key, self.peer.next_key) = (proven.theirs, None);
        }
        self.peer.knows_new_key |= proven.own == self.end.identity.public_key();
        if (self.peer.public_key, self.peer.knows_new_key) != before {
            self.follow(now);
        }
        self.peer.knows_new_key && self.peer.next_key.is_none()
    }

    /// Forgets every session, and begins a handshake as at a start.
    fn restart(&mut self, now: Instant) -> Vec<u8> {
        self.end.peer = Peer::new(&self.end.identity, &self.peer, self.next_index);
        self.next_index += 8;
        self.follow(now);
        self.end.initiate()
    }
}

/// Delivers a datagram and all that is answered.
fn deliver<'a>(datagram: Vec<u8>, mut to: &'a mut Site, mut from: &'a mut Site) {
    let mut datagram = datagram;
    for _ in 0..8 {
        let What::Reply(reply) = to.end.receive(&datagram).what else { return };
        datagram = reply;
        std::mem::swap(&mut to, &mut from);
    }
    panic!("they answer each other without end");
}

/// Lets time pass until neither has anything to change; a packet passes each way at every tick where `flows`.
#[track_caller]
fn settle(a: &mut Site, b: &mut Site, mut now: Instant, flows: bool) -> Instant {
    let until = now + SETTLES_WITHIN;
    loop {
        now += TICK;
        let datagram = a.end.tick(now);
        datagram.into_iter().for_each(|datagram| deliver(datagram, b, a));
        let datagram = b.end.tick(now);
        datagram.into_iter().for_each(|datagram| deliver(datagram, a, b));
        if flows {
            exchange(&mut a.end, &mut b.end);
        }
        if a.settle(now) & b.settle(now) {
            return now;
        }
        assert!(now < until, "they do not come to the newest keys");
    }
}

fn sites() -> (Site, Site, Instant) {
    let (mut a, mut b) = (Site::new(1, 2, 0x0a_0000), Site::new(2, 1, 0x0b_0000));
    connect(&mut a.end, &mut b.end);
    (a, b, Instant::now())
}

#[test]
fn a_peer_that_is_told_moves_without_losing_a_packet() {
    let (mut a, mut b, now) = sites();
    a.rotate(3, now);
    exchange(&mut a.end, &mut b.end);
    // nobody told it yet: handshakes go on with the old key, from either side
    connect(&mut b.end, &mut a.end);
    connect(&mut a.end, &mut b.end);
    assert_eq!(a.end.peer.proven().own, secret(1).public_key());
    let under_way = (a.end.send(&packet_of(60)).unwrap(), b.end.send(&packet_of(60)).unwrap());
    b.hear(3, now);
    settle(&mut a, &mut b, now, true);
    assert_eq!(b.peer.public_key, secret(3).public_key());
    assert!(matches!(b.end.receive(&under_way.0).what, What::Packet(_)), "what was under way is still read");
    assert!(matches!(a.end.receive(&under_way.1).what, What::Packet(_)));
    connect(&mut a.end, &mut b.end);
    connect(&mut b.end, &mut a.end);
    exchange(&mut a.end, &mut b.end);
}

#[test]
fn with_a_peer_that_has_moved_the_old_key_begins_nothing() {
    let (mut a, mut b, now) = sites();
    let mut replayed = Site::new(2, 1, 0x0c_0000);
    a.rotate(3, now);
    b.hear(3, now);
    // the session shows it before the keeper has looked
    let initiation = b.end.tick(now + TICK).expect("an initiation");
    deliver(initiation, &mut a, &mut b);
    assert_eq!(a.end.peer.proven().own, secret(3).public_key());
    let old = replayed.end.initiate();
    assert!(matches!(a.end.receive(&old).what, What::Refused(_)), "the old key of ours");
    a.settle(now);
    assert!(matches!(a.end.receive(&old).what, What::Refused(_)));
    a.own.1 = None;
    a.follow(now);
    assert_eq!(a.end.receive(&replayed.end.initiate()).what, What::Unaddressed(Drop::BadMac), "it is gone");
    exchange(&mut a.end, &mut b.end);
}

#[test]
fn both_sites_rotate_at_once() {
    // the handshakes of both directions in every order of who is first
    for first in [0, 1, 2] {
        let (mut a, mut b, now) = sites();
        a.rotate(3, now);
        b.rotate(4, now);
        if first != 1 {
            b.hear(3, now);
        }
        if first != 0 {
            a.hear(4, now);
        }
        if first == 2 {
            // they cross
            let (to_b, to_a) = (a.end.tick(now + TICK).unwrap(), b.end.tick(now + TICK).unwrap());
            let (from_b, from_a) = (b.end.receive(&to_b).what, a.end.receive(&to_a).what);
            for (reply, to, from) in [(from_b, true, false), (from_a, false, true)] {
                assert_ne!(to, from);
                if let What::Reply(reply) = reply {
                    if to { deliver(reply, &mut a, &mut b) } else { deliver(reply, &mut b, &mut a) }
                }
            }
            exchange(&mut a.end, &mut b.end);
        }
        let now = now + TICK;
        b.hear(3, now);
        a.hear(4, now);
        settle(&mut a, &mut b, now, true);
        assert_eq!((a.peer.public_key, b.peer.public_key), (secret(4).public_key(), secret(3).public_key()));
        exchange(&mut a.end, &mut b.end);
    }
}

#[test]
fn a_restart_in_the_middle_finds_the_peer_by_either_key() {
    for (a_restarts, b_restarts) in [(true, false), (false, true), (true, true)] {
        for moves_first in [false, true] {
            let (mut a, mut b, now) = sites();
            a.rotate(3, now);
            b.hear(3, now);
            if moves_first {
                // b has moved and knows it; a dies before it has written that down
                let initiation = b.end.tick(now + TICK).expect("an initiation");
                deliver(initiation, &mut a, &mut b);
                b.settle(now);
            }
            if a_restarts {
                let initiation = a.restart(now);
                deliver(initiation, &mut b, &mut a);
            }
            if b_restarts {
                let initiation = b.restart(now);
                deliver(initiation, &mut a, &mut b);
            }
            settle(&mut a, &mut b, now, false);
            exchange(&mut a.end, &mut b.end);
        }
    }
}

#[test]
fn a_key_that_is_announced_and_never_answers_costs_nothing() {
    let (mut a, mut b, mut now) = sites();
    b.hear(5, now);
    let mut initiations = 0;
    for _ in 0..600 {
        now += TICK;
        if let Some(datagram) = b.end.tick(now).filter(|datagram| kind(datagram) == 1) {
            initiations += 1;
            assert_eq!(a.end.receive(&datagram).what, What::Unaddressed(Drop::BadMac));
        }
        exchange(&mut a.end, &mut b.end);
    }
    assert!((10..=14).contains(&initiations), "one each five seconds: {initiations}");
    assert_eq!(b.end.peer.proven().theirs, secret(1).public_key());
    connect(&mut a.end, &mut b.end);
}

#[test]
fn a_session_of_a_key_that_others_may_know_ends_at_once() {
    let (mut a, mut b, now) = sites();
    let from_b = b.end.send(&packet_of(60)).unwrap();
    a.own = (3, None);
    a.end.identity = Identity::new(&secret(3));
    a.end.peer.renew(&a.end.identity, &a.peer, 0x0d_0000, Before::Ends);
    a.follow(now);
    assert!(!matches!(a.end.receive(&from_b).what, What::Packet(_)), "nothing of it is read");
    let old = b.end.initiate();
    assert_eq!(a.end.receive(&old).what, What::Unaddressed(Drop::BadMac));
    assert!(!a.end.peer.has_session());
}
