//! Which UDP flows this host itself began into the tunnel: their answers may come in, from the peer that was asked.
//!
//! Pure: it is told the time. It never lets in what is no answer, and never remembers more than so many flows: of more
//! than that the earlier ones are forgotten first.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::{IpPacket, UDP};

/// An answer may come for so long after what it answers: DNS and NTP answer within seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Flows of one peer at once: a busy resolver asks from a port of its own each time. Some 100 bytes each.
const FLOWS_MAX: usize = 4096;

/// Is the two ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    ours: SocketAddr,
    theirs: SocketAddr,
}

/// Remembers what was sent to one peer, in two generations: the earlier one goes when the later one is full, or old.
#[derive(Debug, Default)]
pub(super) struct Flows {
    later: HashMap<Flow, Instant>,
    earlier: HashMap<Flow, Instant>,
    turned: Option<Instant>,
}

impl Flows {
    /// Notes a packet that this host sends to the peer; of other protocols than UDP nothing.
    pub(super) fn handle_sent(&mut self, packet: &IpPacket<'_>, now: Instant) {
        let Some((ours, theirs)) = ends(packet) else { return };
        let turned = *self.turned.get_or_insert(now);
        let flow = Flow { ours, theirs };
        let is_full = self.later.len() >= FLOWS_MAX / 2 && !self.later.contains_key(&flow);
        if is_full || now.saturating_duration_since(turned) >= ANSWER_WITHIN {
            self.earlier = std::mem::take(&mut self.later);
            self.turned = Some(now);
        }
        self.later.insert(flow, now);
    }

    /// Tells whether a packet of the peer answers what was sent to it just now.
    pub(super) fn is_answer(&self, packet: &IpPacket<'_>, now: Instant) -> bool {
        let Some((theirs, ours)) = ends(packet) else { return false };
        let flow = Flow { ours, theirs };
        let sent = self.later.get(&flow).or_else(|| self.earlier.get(&flow));
        sent.is_some_and(|at| now.saturating_duration_since(*at) < ANSWER_WITHIN)
    }
}

/// Returns where a UDP packet comes from, and where it goes.
fn ends(packet: &IpPacket<'_>) -> Option<(SocketAddr, SocketAddr)> {
    if packet.protocol != UDP || packet.fragment_or_options {
        return None;
    }
    let (source, destination) = packet.udp_ports()?;
    Some((SocketAddr::new(packet.source, source), SocketAddr::new(packet.destination, destination)))
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::ip_packet;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn udp(from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
        let ports = [from.1.to_be_bytes(), to.1.to_be_bytes(), [0, 8], [0, 0]].concat();
        ip_packet(from.0, to.0, UDP, &ports)
    }

    fn sent(flows: &mut Flows, bytes: &[u8], now: Instant) {
        flows.handle_sent(&IpPacket::parse(bytes).unwrap(), now);
    }

    fn answers(flows: &Flows, bytes: &[u8], now: Instant) -> bool {
        flows.is_answer(&IpPacket::parse(bytes).unwrap(), now)
    }

    #[test]
    fn an_answer_comes_from_where_the_question_went_and_to_where_it_came_from() {
        for (ours, theirs, other) in [("10.98.0.1", "9.9.9.9", "9.9.9.10"), ("fd98::1", "2620:fe::9", "2620:fe::10")] {
            let (mut flows, now) = (Flows::default(), Instant::now());
            sent(&mut flows, &udp((ours, 40000), (theirs, 53)), now);
            assert!(answers(&flows, &udp((theirs, 53), (ours, 40000)), now));
            for (from, to) in [
                ((theirs, 54), (ours, 40000)),
                ((theirs, 53), (ours, 40001)),
                ((other, 53), (ours, 40000)),
                ((theirs, 53), (other, 40000)),
                ((ours, 40000), (theirs, 53)),
            ] {
                assert!(!answers(&flows, &udp(from, to), now), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn what_is_no_whole_datagram_begins_nothing() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        let mut fragment = udp(("10.98.0.1", 40000), ("9.9.9.9", 53));
        fragment[6] = 0x20;
        sent(&mut flows, &fragment, now);
        sent(&mut flows, &ip_packet("10.98.0.1", "9.9.9.9", 6, &[0x9c, 0x40, 0, 53, 0, 0, 0, 0]), now);
        let mut answer = udp(("9.9.9.9", 53), ("10.98.0.1", 40000));
        assert!(!answers(&flows, &answer, now));
        sent(&mut flows, &udp(("10.98.0.1", 40000), ("9.9.9.9", 53)), now);
        assert!(answers(&flows, &answer, now));
        answer[6] = 0x20;
        assert!(!answers(&flows, &answer, now), "nor is a fragment an answer");
    }

    #[test]
    fn a_flow_ends_a_minute_after_the_last_that_we_sent() {
        let (question, answer) = (udp(("10.98.0.1", 123), ("9.9.9.9", 123)), udp(("9.9.9.9", 123), ("10.98.0.1", 123)));
        let (mut flows, start) = (Flows::default(), Instant::now());
        // once a generation ends right after it, once it is refreshed
        sent(&mut flows, &question, start);
        sent(&mut flows, &question, start + 59 * SECOND);
        sent(&mut flows, &udp(("10.98.0.1", 7), ("9.9.9.9", 7)), start + 61 * SECOND);
        assert!(answers(&flows, &answer, start + 118 * SECOND));
        assert!(!answers(&flows, &answer, start + 119 * SECOND), "what came in does not keep it");
        sent(&mut flows, &question, start + 300 * SECOND);
        assert!(answers(&flows, &answer, start + 301 * SECOND));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_stays() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        for port in 1..=20_000 {
            sent(&mut flows, &udp(("10.98.0.1", port), ("9.9.9.9", 53)), now);
            assert!(flows.later.len() + flows.earlier.len() <= FLOWS_MAX);
        }
        let known = |port| answers(&flows, &udp(("9.9.9.9", 53), ("10.98.0.1", port)), now);
        assert!((20_001 - u16::try_from(FLOWS_MAX / 2).unwrap()..=20_000).all(known));
        assert!(!known(1));
    }
}
