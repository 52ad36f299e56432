//! How many handshakes are let in a second, of whom: what keeps a flood of them from those who have a session.
//!
//! Pure; it counts, and forgets when it is told that a second has passed. It never looks at a message. After
//! wireguard-go's ratelimiter: a source is limited only after its cookie has shown that it is there, else whoever
//! forges a peer's address could shut it out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Handshake messages a second that are taken without a cookie: a hundred sites that come back at once.
pub(super) const HANDSHAKES_PER_SECOND: u32 = 100;
/// Handshakes a second of one source (IPv4 address, IPv6 /64) that has a cookie: a dozen sites behind one address.
pub(super) const HANDSHAKES_OF_SOURCE_PER_SECOND: u32 = 20;
/// Handshakes a second of all sources that have a cookie: a tenth of a core. It also bounds the sources remembered.
pub(super) const HANDSHAKES_WITH_COOKIE_PER_SECOND: u32 = 1000;

/// Cookies a second: about a twentieth of a core. Of a larger flood one in so many is answered, so that whoever comes
/// again is asked soon: at 50,000 a second one in five.
pub(super) const COOKIES_PER_SECOND: u32 = 10_000;

/// Counts what came in this second.
#[derive(Debug, Default)]
pub(super) struct Load {
    came: u32,
    without_cookie: u32,
    without_cookie_before: u32,
    with_cookie: u32,
    sources: HashMap<IpAddr, u32>,
}

impl Load {
    /// Tells whether cookies are asked for.
    pub(super) fn is_high(&self) -> bool {
        self.came >= HANDSHAKES_PER_SECOND
    }

    /// Counts a handshake message that is made for this site.
    pub(super) fn count(&mut self) {
        self.came = self.came.saturating_add(1);
    }

    /// Counts a handshake that came with a cookie, and tells whether it may go on.
    pub(super) fn may_pass(&mut self, source: IpAddr) -> bool {
        if self.with_cookie >= HANDSHAKES_WITH_COOKIE_PER_SECOND {
            return false;
        }
        let count = self.sources.entry(network(source)).or_default();
        if *count >= HANDSHAKES_OF_SOURCE_PER_SECOND {
            return false;
        }
        *count += 1;
        self.with_cookie += 1;
        true
    }

    /// Counts a handshake that came without a cookie, and tells whether it is to be asked for one: evenly over the
    /// second, by how many came in the one before.
    pub(super) fn may_ask(&mut self) -> bool {
        self.without_cookie = self.without_cookie.saturating_add(1);
        self.without_cookie % (self.without_cookie_before / COOKIES_PER_SECOND + 1) == 0
    }

    /// Begins the next second.
    pub(super) fn next_second(&mut self) {
        self.came = 0;
        self.without_cookie_before = std::mem::take(&mut self.without_cookie);
        self.with_cookie = 0;
        self.sources.clear();
    }
}

/// Returns what one party holds of IPv6: a /64.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_uses_up_its_own_share_only() {
        let mut load = Load::default();
        for _ in 0..HANDSHAKES_OF_SOURCE_PER_SECOND {
            assert!(load.may_pass(v6("2001:db8:0:1::1")));
        }
        assert!(!load.may_pass(v6("2001:db8:0:1::2")), "the same /64");
        assert!(load.may_pass(v6("2001:db8:0:2::1")), "another one");
        assert!(load.may_pass(v6("192.0.2.1")));
        load.next_second();
        assert!(load.may_pass(v6("2001:db8:0:1::2")));
    }

    #[test]
    fn many_sources_are_bounded_together_and_in_memory() {
        let mut load = Load::default();
        let passed = (0..100_000_u32).filter(|n| load.may_pass(std::net::Ipv4Addr::from_bits(*n).into())).count();
        assert_eq!(passed, 1000);
        assert_eq!(load.sources.len(), 1000);
        load.next_second();
        assert!(load.may_pass(v6("192.0.2.1")));
        assert_eq!(load.sources.len(), 1);
    }

    #[test]
    fn a_large_flood_is_answered_in_part_and_evenly() {
        let mut load = Load::default();
        let mut second = |came: u32| {
            let asked: Vec<u32> = (0..came).filter(|_| load.may_ask()).collect();
            load.next_second();
            asked
        };
        assert_eq!(second(9999).len(), 9999);
        assert_eq!(second(50_000).len(), 50_000, "nobody knew");
        let asked = second(50_000);
        assert_eq!(asked.len(), 50_000 / 6);
        assert!(asked.is_sorted_by(|one, next| next - one == 6));
        second(10);
        assert_eq!(second(10).len(), 10, "it is over");
    }

    #[test]
    fn cookies_are_asked_for_beyond_a_hundred_a_second() {
        let mut load = Load::default();
        for _ in 0..HANDSHAKES_PER_SECOND {
            assert!(!load.is_high());
            load.count();
        }
        assert!(load.is_high());
        load.next_second();
        assert!(!load.is_high());
    }
}
