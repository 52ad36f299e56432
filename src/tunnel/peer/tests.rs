//! Two peers that speak to each other through byte buffers: a test for each duty that `Tunn` leaves to its caller.
//!
//! `Tunn` has a clock of its own. What takes minutes of it is in `virtual_time`, with the feature of that name.

use std::net::{IpAddr, Ipv4Addr};

use super::super::packet::tests::{ip_packet, tcp_packet};
use super::super::packet::{IpPacket, TCP};
use super::load::{HANDSHAKES_OF_SOURCE_PER_SECOND, HANDSHAKES_PER_SECOND, TIME_WITHOUT_COOKIE};
use super::replays::Replays;
use super::*;
use crate::config::{self, Name};
use crate::config::{PublicKey, SecretKey};

mod rotation;
#[cfg(feature = "virtual-time")]
mod upstream;
#[cfg(feature = "virtual-time")]
mod virtual_time;

const MTU_BYTES: usize = 1420;
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

/// Is a site with one peer.
struct End {
    identity: Identity,
    peer: Peer,
    out: Vec<u8>,
}

/// Is a [`Received`] that owns its bytes, and tells how it was addressed.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    what: What,
    moves_endpoint: bool,
    begins_session: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Nothing,
    Reply(Vec<u8>),
    Packet(Vec<u8>),
    Refused(Drop),
    /// The identity asked for a cookie before any peer was touched.
    Cookie(Vec<u8>),
    /// The identity refused it before any peer was touched.
    Unaddressed(Drop),
}

impl What {
    #[track_caller]
    fn reply(self) -> Vec<u8> {
        match self {
            What::Reply(datagram) => datagram,
            other => panic!("no reply but {other:?}"),
        }
    }
}

#[derive(Default)]
struct Options {
    psk: Option<[u8; 32]>,
    keepalive: Option<Duration>,
}

fn secret(byte: u8) -> SecretKey {
    SecretKey::new([byte; 32])
}

fn configured(public_key: PublicKey, options: &Options) -> config::Peer {
    config::Peer {
        name: Name::new("other").unwrap(),
        public_key,
        first_key: public_key,
        next_key: None,
        knows_new_key: false,
        preshared_key: options.psk.map(SecretKey::new),
        endpoint: None,
        allowed_ips: Vec::new(),
        address: None,
        persistent_keepalive: options.keepalive,
        routed: false,
        host_access: false,
    }
}

fn end(own: u8, other: u8, index: u32, options: &Options) -> End {
    let identity = Identity::new(&secret(own));
    let other = Identity::new(&secret(other)).public_key();
    let peer = Peer::new(&identity, &configured(other, options), index);
    End { identity, peer, out: vec![0; BUFFER_BYTES] }
}

fn ends(options: &Options) -> (End, End) {
    (end(1, 2, 0x0a_0b0c, options), end(2, 1, 0x01_0203, options))
}

/// Returns two ends with a session that both have used.
fn connected() -> (End, End) {
    let (mut a, mut b) = ends(&Options::default());
    connect(&mut a, &mut b);
    (a, b)
}

/// Completes a handshake that `a` begins.
#[track_caller]
fn connect(a: &mut End, b: &mut End) {
    let initiation = a.initiate();
    let response = b.receive(&initiation).what.reply();
    let keepalive = a.receive(&response).what.reply();
    assert_eq!(b.receive(&keepalive).what, What::Nothing);
}

/// Sends a packet each way and asserts that it arrives.
#[track_caller]
fn exchange(a: &mut End, b: &mut End) {
    one_way(a, b);
    one_way(b, a);
}

#[track_caller]
fn one_way(from: &mut End, to: &mut End) {
    let packet = packet_of(60);
    let datagram = from.send(&packet).expect("there is a session");
    assert_eq!(to.receive(&datagram).what, What::Packet(packet));
}

impl End {
    /// Does with a datagram what the data thread does.
    fn receive(&mut self, datagram: &[u8]) -> Got {
        self.receive_from(SOURCE, datagram, Instant::now(), 0)
    }

    fn receive_from(&mut self, source: IpAddr, datagram: &[u8], now: Instant, random: u64) -> Got {
        let early = |what| Got { what, moves_endpoint: false, begins_session: false };
        let claim = match self.identity.handle_datagram(source, datagram, &mut self.out) {
            Addressed::Key(pair) => Some(pair),
            Addressed::Index(_) => None,
            Addressed::Cookie(cookie) => return early(What::Cookie(cookie.to_vec())),
            Addressed::Refused(reason) => return early(What::Unaddressed(reason)),
        };
        let source = Source { address: source, claim };
        let received = self.peer.handle_datagram(source, datagram, now, random, &mut self.out);
        let what = match received.action {
            Action::None => What::Nothing,
            Action::Reply(reply) => What::Reply(reply.to_vec()),
            Action::Packet(packet) => What::Packet(packet.to_vec()),
            Action::Refused(reason) => What::Refused(reason),
        };
        Got { what, moves_endpoint: received.moves_endpoint, begins_session: received.begins_session }
    }

    fn initiate(&mut self) -> Vec<u8> {
        self.peer.initiate(&mut self.out).expect("an initiation").to_vec()
    }

    fn send(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0xaa; BUFFER_BYTES];
        buffer[..packet.len()].copy_from_slice(packet);
        self.peer.handle_outgoing(&mut buffer, 0..packet.len(), MTU_BYTES, &mut self.out).map(<[u8]>::to_vec)
    }

    fn tick(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.peer.handle_tick(now, &mut self.out).map(<[u8]>::to_vec)
    }

    fn queued(&mut self) -> Option<Vec<u8>> {
        self.peer.poll_queued(&mut self.out).map(<[u8]>::to_vec)
    }
}

/// Builds an IPv4 packet of that length.
fn packet_of(bytes: usize) -> Vec<u8> {
    ip_packet("10.98.0.1", "10.98.0.2", TCP, &vec![0x5a; bytes - 20])
}

fn kind(datagram: &[u8]) -> u8 {
    datagram[0]
}

// ---- 1 and 2: no length panics ----

#[test]
fn datagrams_of_any_kind_and_length_are_survived() {
    let (mut a, mut b) = connected();
    let session = a.send(&packet_of(40)).unwrap();
    for kind in 0..=5u8 {
        for bytes in (0..200).chain([1500, 65_507, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MAX + 1, BUFFER_BYTES + 17]) {
            let mut datagram = vec![0; bytes];
            // addressed to the session: `Tunn` must get as far as its own buffer
            for (to, from) in datagram.iter_mut().zip(&session[..8]) {
                *to = *from;
            }
            if let Some(first) = datagram.first_mut() {
                *first = kind;
            }
            let got = b.peer.handle_datagram(SOURCE, &datagram, Instant::now(), 0, &mut b.out);
            assert!(matches!(got.action, Action::Refused(_)), "kind {kind}, {bytes} bytes");
            assert!(!got.moves_endpoint && !got.begins_session);
            let _ = b.identity.handle_datagram(SOURCE, &datagram, &mut b.out);
        }
    }
    exchange(&mut a, &mut b);
}

#[test]
fn a_buffer_that_is_too_small_is_refused() {
    let (mut a, mut b) = connected();
    let datagram = a.send(&packet_of(1000)).unwrap();
    for bytes in [0, 1, 60, 500, datagram.len() - 1] {
        let mut out = vec![0; bytes];
        let got = b.peer.handle_datagram(SOURCE, &datagram, Instant::now(), 0, &mut out);
        assert!(matches!(got.action, Action::Refused(Drop::NotWireGuard)), "{bytes}");
        let mut buffer = [0; 1500];
        assert!(a.peer.handle_outgoing(&mut buffer, 0..1000, MTU_BYTES, &mut out).is_none(), "{bytes}");
    }
    for bytes in [0, 1, 60, 500, BUFFER_BYTES - 1] {
        let mut out = vec![0; bytes];
        assert!(a.peer.handle_tick(Instant::now(), &mut out).is_none());
        assert!(a.peer.initiate(&mut out).is_none());
        assert!(a.peer.poll_queued(&mut out).is_none());
    }
    let mut short = [0; 20];
    let mut out = vec![0; BUFFER_BYTES];
    assert!(
        a.peer.handle_outgoing(&mut short, 0..21, MTU_BYTES, &mut out).is_none(),
        "a buffer shorter than its packet"
    );
    let mut exact = packet_of(21);
    let datagram = a.peer.handle_outgoing(&mut exact, 0..21, MTU_BYTES, &mut out).unwrap();
    assert_eq!(datagram.len(), 21 + OVERHEAD_BYTES, "no room to pad");
}

// ---- 3: it gives up ----

// ---- a packet is confirmed where nothing answers it ----

#[test]
fn a_packet_that_nothing_answers_is_confirmed_after_ten_seconds_once() {
    let (mut a, mut b) = connected();
    // b's last word and the packet are of the same tick: `Tunn` takes the one for the answer to the other
    one_way(&mut b, &mut a);
    let now = Instant::now();
    let datagram = a.send(&packet_of(60)).expect("there is a session");
    b.receive_from(SOURCE, &datagram, now, 0);
    assert!(b.tick(now + CONFIRM_AFTER - Duration::from_millis(1)).is_none());
    let keepalive = b.tick(now + CONFIRM_AFTER).expect("a keepalive");
    assert_eq!((kind(&keepalive), keepalive.len()), (DATA, OVERHEAD_BYTES));
    assert_eq!(a.receive(&keepalive).what, What::Nothing);
    assert!(b.tick(now + 3 * CONFIRM_AFTER).is_none(), "once");
    assert!(a.tick(now + 3 * CONFIRM_AFTER).is_none(), "a keepalive is not confirmed");
}

#[test]
fn a_packet_that_is_answered_needs_no_keepalive() {
    let (mut a, mut b) = connected();
    one_way(&mut a, &mut b);
    one_way(&mut b, &mut a);
    assert!(b.tick(Instant::now() + 2 * CONFIRM_AFTER).is_none());
}

// ---- 4: queued packets ----

#[test]
fn what_waited_at_the_initiator_is_sent_when_the_session_begins() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.send(&packet_of(50)).expect("an initiation");
    assert_eq!(kind(&initiation), 1);
    assert_eq!(a.send(&packet_of(70)), None, "one handshake at a time");
    let response = b.receive(&initiation).what.reply();
    assert!(a.receive(&response).begins_session);
    for bytes in [50, 70] {
        let datagram = a.queued().expect("a packet waited");
        assert_eq!(b.receive(&datagram).what, What::Packet(packet_of(bytes)), "in order");
    }
    assert_eq!(a.queued(), None);
}

#[test]
fn what_waited_at_the_responder_is_sent_when_the_session_begins() {
    let (mut a, mut b) = ends(&Options::default());
    assert_eq!(b.send(&packet_of(50)).map(|lost| kind(&lost)), Some(1), "its own initiation is lost");
    let initiation = a.initiate();
    let response = b.receive(&initiation);
    assert!(!response.begins_session, "not before the initiator has proved that it has the keys");
    let keepalive = a.receive(&response.what.reply()).what.reply();
    assert!(b.receive(&keepalive).begins_session);
    let datagram = b.queued().expect("a packet waited");
    assert_eq!(a.receive(&datagram).what, What::Packet(packet_of(50)));
    assert_eq!(b.queued(), None);
}

// ---- 5: padding ----

#[test]
fn packets_are_padded_to_sixteen_bytes_but_not_past_the_mtu() {
    let (mut a, mut b) = connected();
    let cases = [(20, 32), (32, 32), (33, 48), (1408, 1408), (1409, 1420), (1419, 1420), (1420, 1420), (1500, 1500)];
    for (bytes, padded) in cases {
        let datagram = a.send(&packet_of(bytes)).unwrap();
        assert_eq!(datagram.len(), padded + OVERHEAD_BYTES, "a packet of {bytes}");
        assert_eq!(b.receive(&datagram).what, What::Packet(packet_of(bytes)), "trimmed by its IP length");
    }
}

#[test]
fn the_padding_is_zeros_and_nothing_that_was_in_the_buffer() {
    let (mut a, mut b) = connected();
    // it claims to be longer than it is, so that the other end shows the padding
    let mut packet = packet_of(32);
    packet.truncate(21);
    let datagram = a.send(&packet).unwrap();
    let What::Packet(arrived) = b.receive(&datagram).what else { panic!("no packet") };
    assert_eq!(arrived[..21], packet);
    assert_eq!(arrived[21..], [0; 11]);
    let mut packet = packet_of(48);
    packet.truncate(33);
    let datagram = a.send(&packet).unwrap();
    let What::Packet(arrived) = b.receive(&datagram).what else { panic!("no packet") };
    assert_eq!(arrived[33..], [0; 15]);
}

#[test]
fn ipv6_packets_are_trimmed_too() {
    let (mut a, mut b) = connected();
    let packet = tcp_packet("fd00::1", "fd00::2", (1, 2), 0x10);
    let datagram = a.send(&packet[..]).unwrap();
    assert_eq!(datagram.len(), 64 + OVERHEAD_BYTES);
    assert_eq!(b.receive(&datagram).what, What::Packet(packet));
}

// ---- 7: the endpoint ----

#[test]
fn responses_and_data_move_the_endpoint_and_initiations_do_not() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    let response = b.receive(&initiation);
    assert!(!response.moves_endpoint, "an initiation can be replayed from anywhere after a restart");
    let keepalive = a.receive(&response.what.reply());
    assert!(keepalive.moves_endpoint, "a response answers our own ephemeral key");
    assert!(b.receive(&keepalive.what.reply()).moves_endpoint);
    let datagram = a.send(&packet_of(40)).unwrap();
    assert!(b.receive_from(ELSEWHERE, &datagram, Instant::now(), 0).moves_endpoint);
}

#[test]
fn data_whose_inner_packet_is_refused_moves_the_endpoint_all_the_same() {
    let (mut a, mut b) = connected();
    for inner in [vec![0xff; 40], vec![0x45; 19], ip_packet("10.98.0.1", "10.98.0.2", TCP, &[0; 90])[..40].to_vec()] {
        let datagram = a.send(&inner).unwrap();
        let got = b.receive(&datagram);
        assert_eq!(got.what, What::Refused(Drop::Malformed));
        assert!(got.moves_endpoint);
    }
}

#[test]
fn what_is_not_authentic_moves_nothing_and_begins_nothing() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    let response = b.receive(&initiation).what.reply();
    let mut forged = response.clone();
    forged[50] ^= 1; // the encrypted nothing; MAC1 fails with it
    let got = a.receive(&forged);
    assert_eq!(got, Got { what: What::Unaddressed(Drop::BadMac), moves_endpoint: false, begins_session: false });
    let keepalive = a.receive(&response).what.reply();
    for at in [8, 16, keepalive.len() - 1] {
        let mut forged = keepalive.clone();
        forged[at] ^= 1;
        let got = b.receive(&forged);
        assert_eq!(got, Got { what: What::Refused(Drop::NotAuthentic), moves_endpoint: false, begins_session: false });
    }
    assert!(b.receive(&keepalive).begins_session);
}

// ---- 9: the limiter ----

/// Uses up the handshakes of this second, as a flood with our public key does.
fn flood(end: &mut End, initiation: &[u8]) {
    for _ in 0..HANDSHAKES_PER_SECOND {
        let _ = end.identity.handle_datagram(ELSEWHERE, initiation, &mut end.out);
    }
}

#[test]
fn under_load_who_returns_the_cookie_gets_in() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    flood(&mut b, &initiation);
    let What::Cookie(cookie) = b.receive(&initiation).what else { panic!("no cookie was asked for") };
    let got = a.receive(&cookie);
    assert_eq!(got, Got { what: What::Nothing, moves_endpoint: false, begins_session: false });
    let initiation = a.initiate();
    let elsewhere = b.receive_from(ELSEWHERE, &initiation, Instant::now(), 0).what;
    assert!(matches!(elsewhere, What::Cookie(_)), "a cookie is for one address: {elsewhere:?}");
    let response = b.receive(&initiation).what.reply();
    assert_eq!(kind(&response), 2);
    let keepalive = a.receive(&response).what.reply();
    assert!(b.receive(&keepalive).begins_session);
}

#[test]
fn under_load_a_session_goes_on_and_the_next_second_is_open_again() {
    let (mut a, mut b) = connected();
    let initiation = a.initiate();
    flood(&mut b, &initiation);
    for _ in 0..10 {
        exchange(&mut a, &mut b);
    }
    assert!(matches!(b.receive(&initiation).what, What::Cookie(_)));
    b.identity.handle_second();
    assert_eq!(kind(&b.receive(&initiation).what.reply()), 2);
}

#[test]
fn under_load_a_response_gets_a_cookie_that_moves_nothing() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    let response = b.receive(&initiation).what.reply();
    let own = b.initiate();
    flood(&mut a, &own);
    let got = a.receive(&response);
    assert!(!got.moves_endpoint && !got.begins_session);
    assert!(matches!(got.what, What::Cookie(_)), "the peer is asked for a cookie");
}

#[test]
fn a_source_with_a_cookie_cannot_take_the_place_of_others() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    flood(&mut b, &initiation);
    let with_cookie = |a: &mut End, b: &mut End, source| {
        let initiation = a.initiate();
        let What::Cookie(cookie) = b.receive_from(source, &initiation, Instant::now(), 0).what else {
            panic!("no cookie was asked for")
        };
        a.receive(&cookie);
        a.initiate()
    };
    // one initiation, sent again and again by somebody who is where the cookie went
    let stranger = with_cookie(&mut a, &mut b, ELSEWHERE);
    let mut passes =
        |source| !matches!(b.identity.handle_datagram(source, &stranger, &mut b.out), Addressed::Refused(_));
    let passed = (0..10_000).filter(|_| passes(ELSEWHERE)).count();
    assert_eq!(passed, usize::try_from(HANDSHAKES_OF_SOURCE_PER_SECOND).unwrap());
    let refused = b.receive_from(ELSEWHERE, &stranger, Instant::now(), 0).what;
    assert_eq!(refused, What::Unaddressed(Drop::TooManyHandshakes));
    let initiation = with_cookie(&mut a, &mut b, SOURCE);
    assert_eq!(kind(&b.receive(&initiation).what.reply()), 2, "another source gets in");
}

/// Lets every handshake take as long as is counted, until none without a cookie is looked at.
fn use_up_the_time(end: &mut End, initiation: &[u8]) {
    for _ in 0..HANDSHAKES_PER_SECOND {
        let _ = end.identity.handle_datagram(ELSEWHERE, initiation, &mut end.out);
        end.identity.spent(TIME_WITHOUT_COOKIE);
    }
}

#[test]
fn when_its_time_is_used_up_only_a_cookie_helps() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    use_up_the_time(&mut b, &initiation);
    assert_eq!(b.receive(&initiation).what, What::Unaddressed(Drop::UnderLoad));
    let mut pretended = initiation.clone();
    pretended[140] = 1;
    assert_eq!(b.receive(&pretended).what, What::Unaddressed(Drop::UnderLoad), "no answer either");
    b.identity.handle_tick();
    flood(&mut b, &initiation);
    let What::Cookie(cookie) = b.receive(&initiation).what else { panic!("no cookie was asked for") };
    a.receive(&cookie);
    use_up_the_time(&mut b, &initiation);
    let initiation = a.initiate();
    assert_eq!(kind(&b.receive(&initiation).what.reply()), 2);
}

#[test]
fn all_peers_share_one_limiter() {
    let (mut a, mut b) = ends(&Options::default());
    let third = Identity::new(&secret(3));
    let mut theirs = Peer::new(&third, &configured(b.identity.public_key(), &Options::default()), 78);
    let initiation = a.initiate();
    flood(&mut b, &initiation);
    let mut out = vec![0; BUFFER_BYTES];
    let initiation = theirs.initiate(&mut out).unwrap().to_vec();
    let addressed = b.identity.handle_datagram(SOURCE, &initiation, &mut out);
    assert!(matches!(addressed, Addressed::Cookie(cookie) if kind(cookie) == 3));
}

// ---- 10: indices ----

#[test]
fn an_index_has_twenty_four_bits_and_finds_its_peer() {
    let mut a = end(1, 2, 0xff12_3456, &Options::default());
    let mut b = end(2, 1, 7, &Options::default());
    let initiation = a.initiate();
    let response = b.receive(&initiation).what.reply();
    assert_eq!(a.identity.handle_datagram(SOURCE, &response, &mut a.out), Addressed::Index(0x12_3456));
    let key = Addressed::Key(Pair { own: b.identity.public_key(), theirs: a.identity.public_key() });
    assert_eq!(b.identity.handle_datagram(SOURCE, &initiation, &mut b.out), key);
    let keepalive = a.receive(&response).what.reply();
    assert_eq!(b.identity.handle_datagram(SOURCE, &keepalive, &mut b.out), Addressed::Index(7));
    b.receive(&keepalive);
    let back = b.send(&packet_of(40)).unwrap();
    assert_eq!(a.identity.handle_datagram(SOURCE, &back, &mut a.out), Addressed::Index(0x12_3456));
}

#[test]
fn a_message_to_another_sessions_index_is_refused() {
    let (mut a, mut b) = connected();
    let mut datagram = a.send(&packet_of(40)).unwrap();
    datagram[4] ^= 0x08; // the same slot of `Tunn`, another session
    assert_eq!(b.receive(&datagram).what, What::Refused(Drop::UnknownPeer));
}

// ---- 13: both begin at once ----

#[test]
fn crossing_handshakes_end_in_a_session_both_ways() {
    let (mut a, mut b) = ends(&Options::default());
    let (from_a, from_b) = (a.initiate(), b.initiate());
    let now = Instant::now();
    let to_b = a.receive_from(SOURCE, &from_b, now, 1).what.reply();
    let to_a = b.receive_from(SOURCE, &from_a, now, 2).what.reply();
    let keepalive_to_b = a.receive(&to_a).what.reply();
    let keepalive_to_a = b.receive(&to_b).what.reply();
    b.receive(&keepalive_to_b);
    a.receive(&keepalive_to_a);
    exchange(&mut a, &mut b);
    exchange(&mut a, &mut b);
    let later = now + COLLISION_RETRY_MAX;
    assert_eq!((a.tick(later), b.tick(later)), (None, None), "nothing is left to retry");
}

#[test]
fn crossing_handshakes_whose_responses_are_lost_are_tried_again_at_different_times() {
    let (mut a, mut b) = ends(&Options::default());
    let (from_a, from_b) = (a.initiate(), b.initiate());
    let now = Instant::now();
    let (soon, late) = (Duration::from_millis(50), Duration::from_millis(250));
    let nanos = |delay: Duration| u64::try_from(delay.as_nanos()).unwrap();
    a.receive_from(SOURCE, &from_b, now, nanos(soon)).what.reply();
    b.receive_from(SOURCE, &from_a, now, nanos(late)).what.reply();
    let early = now + soon - Duration::from_millis(1);
    assert_eq!((a.tick(early), b.tick(early)), (None, None));
    let again = a.tick(now + soon).expect("the first one to try again");
    assert_eq!(kind(&again), 1);
    assert_eq!(b.tick(now + soon), None, "the other one is not due");
    let response = b.receive_from(SOURCE, &again, now + soon, nanos(late)).what.reply();
    let keepalive = a.receive(&response).what.reply();
    assert!(b.receive(&keepalive).begins_session);
    exchange(&mut a, &mut b);
    let later = now + COLLISION_RETRY_MAX * 2;
    assert_eq!((a.tick(later), b.tick(later)), (None, None), "a session ends the retry");
}

#[test]
fn a_retry_is_random_and_bounded() {
    assert_eq!(part_of(COLLISION_RETRY_MAX, 0), Duration::ZERO);
    for random in [1, 17_000_000, u64::MAX / 3, u64::MAX] {
        assert!(part_of(COLLISION_RETRY_MAX, random) < COLLISION_RETRY_MAX);
    }
    assert_ne!(part_of(COLLISION_RETRY_MAX, 17_000_000), part_of(COLLISION_RETRY_MAX, 18_000_000));
}

// ---- replays, keys ----

#[test]
fn replayed_data_is_refused() {
    let (mut a, mut b) = connected();
    let datagrams: Vec<Vec<u8>> = (0..5).map(|_| a.send(&packet_of(40)).unwrap()).collect();
    for at in [1, 0, 4, 2, 3] {
        assert!(matches!(b.receive(&datagrams[at]).what, What::Packet(_)), "reordering is no replay");
    }
    for datagram in &datagrams {
        let got = b.receive_from(ELSEWHERE, datagram, Instant::now(), 0);
        assert_eq!(got, Got { what: What::Refused(Drop::NotAuthentic), moves_endpoint: false, begins_session: false });
    }
}

#[test]
fn a_replayed_initiation_is_refused_and_disturbs_nothing() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    let response = b.receive(&initiation).what.reply();
    let keepalive = a.receive(&response).what.reply();
    b.receive(&keepalive);
    let got = b.receive_from(ELSEWHERE, &initiation, Instant::now(), 0);
    assert_eq!(got, Got { what: What::Refused(Drop::HandshakeReplayed), moves_endpoint: false, begins_session: false });
    let newer = a.initiate();
    let response = b.receive(&newer).what.reply();
    assert_eq!(b.receive(&initiation).what, What::Refused(Drop::HandshakeReplayed), "older than the latest");
    a.receive(&response);
    assert_eq!(a.receive(&response).what, What::Refused(Drop::NotAuthentic), "a response is taken once");
    exchange(&mut a, &mut b);
}

#[test]
fn a_session_goes_on_while_the_next_one_begins() {
    let (mut a, mut b) = connected();
    let initiation = a.initiate();
    let before = a.send(&packet_of(40)).unwrap();
    let response = b.receive(&initiation).what.reply();
    assert!(matches!(b.receive(&before).what, What::Packet(_)), "with the old keys");
    let answer = b.send(&packet_of(44)).unwrap();
    let keepalive = a.receive(&response).what.reply();
    assert!(matches!(a.receive(&answer).what, What::Packet(_)), "with the old keys");
    assert!(b.receive(&keepalive).begins_session);
    exchange(&mut a, &mut b);
}

// ---- the clock ----

#[test]
fn a_core_made_anew_takes_no_initiation_that_came_before() {
    let (mut a, mut b) = ends(&Options::default());
    let older = a.initiate();
    let initiation = a.initiate();
    b.receive(&initiation).what.reply();
    let key = a.identity.public_key();
    renewed(&mut b, key, &Options::default(), 0x22_2222, Before::Serves);
    assert_eq!(b.receive(&initiation).what, What::Refused(Drop::HandshakeReplayed));
    assert_eq!(b.receive(&older).what, What::Refused(Drop::HandshakeReplayed));
    assert!(!b.peer.has_session());
    connect(&mut a, &mut b);
    exchange(&mut a, &mut b);
}

#[test]
fn a_core_made_anew_under_load_takes_no_initiation_that_came_before() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    b.receive(&initiation).what.reply();
    flood(&mut b, &initiation);
    let key = a.identity.public_key();
    renewed(&mut b, key, &Options::default(), 0x22_2222, Before::Serves);
    b.identity.handle_second();
    assert_eq!(b.receive(&initiation).what, What::Refused(Drop::HandshakeReplayed));
}

#[test]
fn a_peer_whose_clock_was_set_back_is_called() {
    // made before `a` began, as by a site that restarts with an earlier clock
    let mut restarted = ends(&Options::default()).0;
    let early = restarted.initiate();
    let (_, mut b) = connected();
    let now = Instant::now();
    assert_eq!(b.receive(&early).what, What::Refused(Drop::HandshakeReplayed));
    assert_eq!(b.tick(now), None, "the peer was heard just now: this is a replay");

    let later = now + Duration::from_secs(2);
    b.receive_from(ELSEWHERE, &early, later, 0);
    let initiation = b.tick(later).expect("the peer is called");
    assert_eq!(kind(&initiation), 1);
    let response = restarted.receive(&initiation).what.reply();
    let keepalive = b.receive(&response).what.reply();
    assert!(restarted.receive(&keepalive).begins_session);
    exchange(&mut restarted, &mut b);
}

#[test]
fn whoever_replays_initiations_causes_few_calls() {
    let (mut replays, start) = (Replays::default(), Instant::now());
    let mut asks = |seconds| replays.asks_for_call(&[1; 148], start + Duration::from_secs(seconds));
    let asked: Vec<u64> = (0..12).filter(|second| asks(*second)).collect();
    assert_eq!(asked, [0, 5, 10]);
    replays.heard(start + Duration::from_secs(20));
    assert!(!replays.asks_for_call(&[1; 148], start + Duration::from_secs(20)), "the peer is there");
    assert!(replays.asks_for_call(&[1; 148], start + Duration::from_secs(21)));
}

#[test]
fn an_initiation_that_comes_twice_calls_nobody() {
    let (mut a, mut b) = ends(&Options::default());
    let initiation = a.initiate();
    b.receive(&initiation).what.reply();
    let later = Instant::now() + Duration::from_secs(2);
    let again = b.receive_from(SOURCE, &initiation, later, 0).what;
    assert_eq!(again, What::Refused(Drop::HandshakeReplayed));
    assert_eq!(b.tick(later), None);
}

#[test]
fn different_preshared_keys_give_no_session() {
    let mut a = end(1, 2, 1, &Options { psk: Some([7; 32]), ..Options::default() });
    let mut b = end(2, 1, 2, &Options { psk: Some([8; 32]), ..Options::default() });
    let initiation = a.initiate();
    let response = b.receive(&initiation).what.reply();
    let got = a.receive(&response);
    assert_eq!(got, Got { what: What::Refused(Drop::NotAuthentic), moves_endpoint: false, begins_session: false });
    assert!(!a.peer.has_session());
    assert_eq!(a.queued(), None);

    let mut b = end(2, 1, 2, &Options { psk: Some([7; 32]), ..Options::default() });
    connect(&mut a, &mut b);
    exchange(&mut a, &mut b);
}

#[test]
fn a_stranger_gets_nothing() {
    let (_, mut b) = ends(&Options::default());
    let stranger = Identity::new(&secret(9));
    let mut peer = Peer::new(&stranger, &configured(b.identity.public_key(), &Options::default()), 5);
    let mut out = vec![0; BUFFER_BYTES];
    let initiation = peer.initiate(&mut out).unwrap().to_vec();
    // the driver finds no peer by this key; were it given to the wrong one, it is refused
    let claim = Pair { own: b.identity.public_key(), theirs: stranger.public_key() };
    assert_eq!(b.identity.handle_datagram(SOURCE, &initiation, &mut b.out), Addressed::Key(claim));
    assert_eq!(b.receive(&initiation).what, What::Refused(Drop::NotAuthentic));
    let for_another = {
        let another = Identity::new(&secret(4)).public_key();
        let mut peer = Peer::new(&stranger, &configured(another, &Options::default()), 5);
        peer.initiate(&mut out).unwrap().to_vec()
    };
    assert_eq!(b.receive(&for_another).what, What::Unaddressed(Drop::BadMac));
}

// ---- sessions are reported once ----

#[test]
fn each_session_is_reported_once_at_both_ends() {
    let (mut a, mut b) = ends(&Options::default());
    for round in 0..40 {
        let (first, second) = if round % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let initiation = first.initiate();
        let response = second.receive(&initiation);
        assert!(!response.begins_session);
        let keepalive = first.receive(&response.what.reply());
        assert!(keepalive.begins_session, "round {round}: the initiator's");
        assert!(second.receive(&keepalive.what.reply()).begins_session, "round {round}: the responder's");
        for _ in 0..3 {
            let datagram = first.send(&packet_of(40)).unwrap();
            assert!(!second.receive(&datagram).begins_session);
            let datagram = second.send(&packet_of(40)).unwrap();
            assert!(!first.receive(&datagram).begins_session);
        }
    }
}

#[test]
fn a_session_is_reported_after_any_number_of_handshakes_that_failed() {
    // an outage of 20 minutes: the eight bits of `Tunn`'s session index come round to those of the last session
    for unanswered in [250, 255, 256, 511] {
        let (mut a, mut b) = connected();
        for _ in 0..unanswered {
            a.initiate();
        }
        let initiation = a.initiate();
        let response = b.receive(&initiation).what.reply();
        let keepalive = a.receive(&response);
        assert!(keepalive.begins_session, "after {unanswered}");
        assert!(b.receive(&keepalive.what.reply()).begins_session);
    }
}

#[test]
fn an_inner_packet_is_what_was_sent() {
    let (mut a, mut b) = connected();
    let packet = tcp_packet("10.98.0.1", "10.98.0.2", (40_000, 2570), 0x02);
    let datagram = a.send(&packet).unwrap();
    assert!(!datagram.windows(8).any(|window| packet.windows(8).any(|clear| clear == window)), "nothing in the clear");
    let What::Packet(arrived) = b.receive(&datagram).what else { panic!("no packet") };
    assert_eq!(IpPacket::parse(&arrived).unwrap().tcp().unwrap().destination_port, 2570);
}

#[test]
fn an_initiation_that_nobody_answers_is_sent_again_every_second() {
    let (mut a, mut b) = ends(&Options::default());
    let start = Instant::now();
    a.initiate();
    let mut sent_after = Vec::new();
    let mut latest = None;
    for tenth in 0..100 {
        let after = Duration::from_millis(tenth * 100);
        if let Some(initiation) = a.tick(start + after) {
            sent_after.push(after.as_secs());
            latest = Some(initiation);
        }
    }
    // the next one is counted from the tick after
    assert_eq!(sent_after, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let response = b.receive(&latest.expect("an initiation")).what.reply();
    let keepalive = a.receive(&response).what.reply();
    assert!(b.receive(&keepalive).begins_session);
    exchange(&mut a, &mut b);
    let later = a.tick(start + Duration::from_secs(20)).map(|datagram| kind(&datagram));
    assert_ne!(later, Some(1), "nothing is retried with a session");
}

// ---- 11: another key, make before break ----

fn renewed(end: &mut End, other: PublicKey, options: &Options, index: u32, before: Before) {
    let peer = configured(other, options);
    end.peer.renew(&end.identity, &peer, index, before);
}

fn with_psk(byte: u8) -> Options {
    Options { psk: Some([byte; 32]), ..Options::default() }
}

#[test]
fn another_preshared_key_loses_no_packet() {
    let (mut a, mut b) = connected();
    let (key_a, key_b) = (a.identity.public_key(), b.identity.public_key());
    let under_way = a.send(&packet_of(60)).unwrap();
    renewed(&mut a, key_b, &with_psk(7), 0x11_1111, Before::Serves);
    exchange(&mut a, &mut b);
    assert!(a.peer.has_session());
    // the other side does not have the key yet: no session comes of a handshake, and the old one goes on
    let initiation = a.initiate();
    let response = b.receive(&initiation).what.reply();
    assert_eq!(a.receive(&response).what, What::Refused(Drop::NotAuthentic));
    exchange(&mut a, &mut b);
    renewed(&mut b, key_a, &with_psk(7), 0x22_2222, Before::Serves);
    exchange(&mut a, &mut b);
    let to_b = a.send(&packet_of(60)).unwrap();
    connect(&mut a, &mut b);
    assert_eq!(data_index(&a.send(&packet_of(60)).unwrap()), Some(0x22_2222), "the new session serves");
    exchange(&mut a, &mut b);
    for late in [under_way, to_b] {
        assert!(matches!(b.receive(&late).what, What::Packet(_)), "what was under way is still read");
    }
}

#[test]
fn another_private_key_leaves_the_old_session_at_once_but_hears_it() {
    let (mut a, mut b) = connected();
    let key_b = b.identity.public_key();
    let from_b = b.send(&packet_of(60)).unwrap();
    a.identity = Identity::new(&secret(3));
    renewed(&mut a, key_b, &Options::default(), 0x11_1111, Before::IsHeard);
    assert!(matches!(a.receive(&from_b).what, What::Packet(_)));
    assert!(!a.peer.has_session());
    let packet = packet_of(60);
    let initiation = a.send(&packet).expect("an initiation");
    assert_eq!(kind(&initiation), 1, "nothing leaves under the old key");
    renewed(&mut b, a.identity.public_key(), &Options::default(), 0x22_2222, Before::IsHeard);
    let response = b.receive(&initiation).what.reply();
    let keepalive = a.receive(&response);
    assert!(keepalive.begins_session);
    b.receive(&keepalive.what.reply());
    let waited = a.queued().expect("the packet waited");
    assert_eq!(b.receive(&waited).what, What::Packet(packet));
    exchange(&mut a, &mut b);
}

#[test]
fn two_changes_at_once_keep_the_last_session() {
    let (mut a, mut b) = connected();
    let (key_a, key_b) = (a.identity.public_key(), b.identity.public_key());
    renewed(&mut a, key_b, &with_psk(7), 0x11_1111, Before::Serves);
    renewed(&mut a, key_b, &with_psk(8), 0x11_1112, Before::Serves);
    exchange(&mut a, &mut b);
    let indices: Vec<u32> = a.peer.indices().collect();
    assert_eq!(indices, [0x11_1112, 0x0a_0b0c]);
    renewed(&mut b, key_a, &with_psk(8), 0x22_2222, Before::Serves);
    connect(&mut a, &mut b);
    exchange(&mut a, &mut b);
}

#[test]
fn a_keepalive_can_be_changed_and_the_first_one_comes_at_once() {
    let (mut a, mut b) = connected();
    let now = Instant::now();
    assert!(a.tick(now + Duration::from_secs(8)).is_none());
    a.peer.set_keepalive(Some(Duration::from_secs(2)), now);
    let keepalive = a.tick(now).expect("a keepalive");
    assert_eq!(b.receive(&keepalive).what, What::Nothing);
    assert!(a.tick(now + Duration::from_millis(1900)).is_none());
    assert!(a.tick(now + Duration::from_millis(2100)).is_some());
    a.peer.set_keepalive(Some(Duration::from_secs(9)), now + Duration::from_secs(3));
    assert!(a.tick(now + Duration::from_secs(11)).is_none());
    assert!(a.tick(now + Duration::from_secs(13)).is_some());
    a.peer.set_keepalive(None, now + Duration::from_secs(13));
    assert!(a.tick(now + Duration::from_secs(60)).is_none());
}
