//! What boringtun's open reports describe, as far as two peers can show it: sessions that are renewed needlessly
//! (cloudflare/boringtun#363), and that go deaf one way some time after a handshake (#495). Packets that wait for a
//! session (#61) have their tests beside the other duties. All of it in virtual time.

use mock_instant::MockClock;

use super::virtual_time::{SEND_EVERY, World};
use super::*;

/// Is a little more than keepalive and rekey timeout (WireGuard paper, section 6.1), after which silence is suspicious.
const SILENCE: Duration = Duration::from_secs(16);

/// Is how long a renewal by age (120 s) is waited for.
const PAST_RENEWAL: Duration = Duration::from_secs(140);

/// Silence counts from the last word of the peer in `Tunn`, not from the first unanswered packet (#363): a packet
/// after a pause begins a handshake at the next tick where its answer takes longer than that. It must cost no packet.
#[test]
fn a_needless_renewal_after_a_pause_disturbs_nothing() {
    let (mut a, mut b) = connected();
    MockClock::advance(SILENCE);
    assert!(a.tick(Instant::now()).is_none(), "silence alone is no reason");
    let packet = packet_of(60);
    let on_its_way = a.send(&packet).expect("there is a session");
    let initiation = a.tick(Instant::now()).expect("upstream has mended #363: this test and its note can go");
    assert_eq!(kind(&initiation), INITIATION);
    assert!(a.tick(Instant::now()).is_none(), "once");
    // the old session carries both ways, before, during and after the handshake
    assert_eq!(b.receive(&on_its_way).what, What::Packet(packet.clone()));
    exchange(&mut a, &mut b);
    let response = b.receive(&initiation).what.reply();
    exchange(&mut a, &mut b);
    let answer = b.send(&packet).expect("the old session");
    let keepalive = a.receive(&response).what.reply();
    assert_eq!(a.receive(&answer).what, What::Packet(packet));
    assert_eq!(b.receive(&keepalive).what, What::Nothing);
    exchange(&mut a, &mut b);
}

/// Sends a packet each way every second, with a keepalive of 25 s, as in #495 every three: nothing is refused at either
/// end, and there is no handshake but the one that age asks for.
#[test]
fn a_session_that_is_used_stays_open_both_ways() {
    let mut world = World::new([Some(Duration::from_secs(25)); 2], [true; 2]);
    world.run(PAST_RENEWAL);
    assert_eq!(world.sessions, 2, "one renewal, seen by both");
    assert_eq!(world.refused, [], "what is refused is lost");
    let sent = 2 * PAST_RENEWAL.as_secs() / SEND_EVERY.as_secs();
    // a tick that is late by a part of itself each time
    assert!(world.arrived as u64 > sent * 9 / 10, "{} of {sent}", world.arrived);
}
