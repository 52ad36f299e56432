//! What boringtun's open reports describe, as far as two peers can show it: sessions that are renewed needlessly
//! (cloudflare/boringtun#363), and that go deaf one way some time after a handshake (#495). Packets that wait for a
//! session (#61) have their tests beside the other duties. All of it takes `Tunn`'s own clock: `slow-tests`.

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
    std::thread::sleep(SILENCE);
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

/// Sends a packet each way every 3 s, with a keepalive of 25 s, as in #495: nothing is refused at either end, and there
/// is no handshake but the one that age asks for.
#[test]
fn a_session_with_a_packet_every_three_seconds_stays_open_both_ways() {
    let options = || Options { keepalive: Some(Duration::from_secs(25)), ..Options::default() };
    let (mut a, mut b) = ends(&options());
    connect(&mut a, &mut b);
    let (start, mut sessions, mut exchanges) = (Instant::now(), 0, 0);
    while start.elapsed() < PAST_RENEWAL {
        std::thread::sleep(Duration::from_millis(100));
        sessions += settle(&mut a, &mut b) + settle(&mut b, &mut a);
        if start.elapsed() >= Duration::from_secs(3) * exchanges {
            exchange(&mut a, &mut b);
            exchanges += 1;
        }
    }
    assert_eq!(sessions, 2, "one renewal, seen by both");
}
