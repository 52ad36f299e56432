//! How many handshakes are let in a second, of whom: what keeps a flood of them from those who have a session.
//!
//! Pure; it counts, and forgets when it is told that a second has passed. It never looks at a message. After
//! wireguard-go's ratelimiter: a source is limited only after its cookie has shown that it is there, else whoever
//! forges a peer's address could shut it out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::tunnel::thinning::Thinning;

/// Handshake messages a second that are taken without a cookie: a hundred sites that come back at once.
pub(super) const HANDSHAKES_PER_SECOND: u32 = 100;
/// Handshakes a second of one source (IPv4 address, IPv6 /64) that has a cookie: a dozen sites behind one address.
pub(super) const HANDSHAKES_OF_SOURCE_PER_SECOND: u32 = 20;
/// Handshakes a second of all sources that have a cookie: a tenth of a core. It also bounds the sources remembered.
pub(super) const HANDSHAKES_WITH_COOKIE_PER_SECOND: u32 = 1000;

/// Time for handshakes without a cookie, and for asking for one, each tick of 100 to 200 ms: a tenth of a core, of
/// whatever speed. What comes when it is used up is dropped unseen; whoever is real comes again.
pub(super) const TIME_WITHOUT_COOKIE: Duration = Duration::from_millis(15);
/// No message takes longer: where the clock says so, the thread was interrupted.
const TIME_OF_ONE_MAX: Duration = Duration::from_micros(500);

/// Initiations a second that are looked at, of those without a cookie and of those that say they have one: a twentieth
/// of a core. Of a larger flood the kernel drops a random part, so that whoever is real and comes again gets in.
pub(super) const INITIATIONS_SEEN_PER_SECOND: u32 = 10_000;

/// Counts what came in this second.
#[derive(Debug)]
pub(super) struct Load {
    came: u32,
    seen_without_cookie: u32,
    seen_with_cookie: u32,
    thinning: Thinning,
    time_left: Duration,
    is_charged: bool,
    with_cookie: u32,
    sources: HashMap<IpAddr, u32>,
}

impl Load {
    pub(super) fn new() -> Self {
        Self {
            came: 0,
            seen_without_cookie: 0,
            seen_with_cookie: 0,
            thinning: Thinning::NONE,
            time_left: TIME_WITHOUT_COOKIE,
            is_charged: false,
            with_cookie: 0,
            sources: HashMap::new(),
        }
    }

    /// Begins with a handshake message; tells whether there is time for one without a cookie.
    pub(super) fn begin(&mut self, is_without_cookie: bool) -> bool {
        let seen = if is_without_cookie { &mut self.seen_without_cookie } else { &mut self.seen_with_cookie };
        *seen = seen.saturating_add(1);
        self.is_charged = true;
        !self.time_left.is_zero()
    }

    /// Tells whether cookies are asked for.
    pub(super) fn is_high(&self) -> bool {
        self.came >= HANDSHAKES_PER_SECOND || self.time_left.is_zero()
    }

    /// Counts a handshake message that is made for this site.
    pub(super) fn count(&mut self) {
        self.came = self.came.saturating_add(1);
    }

    /// Counts a handshake that came with a cookie, and tells whether it may go on.
    pub(super) fn may_pass(&mut self, source: IpAddr) -> bool {
        self.is_charged = false;
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

    /// Notes how long the last message took. One with a cookie takes nothing from those without, else who has one
    /// could keep all others from getting theirs.
    pub(super) fn spend(&mut self, time: Duration) {
        if std::mem::take(&mut self.is_charged) {
            self.time_left = self.time_left.saturating_sub(time.min(TIME_OF_ONE_MAX));
        }
    }

    /// Gives time for the next tick.
    pub(super) fn next_tick(&mut self) {
        self.time_left = TIME_WITHOUT_COOKIE;
    }

    /// Begins the next second; says what the kernel is to drop in it.
    pub(super) fn next_second(&mut self) -> Thinning {
        self.thinning = Thinning {
            without_cookie: part(std::mem::take(&mut self.seen_without_cookie), self.thinning.without_cookie),
            with_cookie: part(std::mem::take(&mut self.seen_with_cookie), self.thinning.with_cookie),
        };
        self.came = 0;
        self.with_cookie = 0;
        self.sources.clear();
        self.thinning
    }
}

/// Says which part is to stay when so many were seen of the part that stayed.
fn part(seen: u32, stayed: u32) -> u32 {
    let came = (u64::from(seen) << 32) / (u64::from(stayed) + 1);
    let part = (u64::from(INITIATIONS_SEEN_PER_SECOND) << 32) / came.max(1);
    u32::try_from(part).unwrap_or(u32::MAX)
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
        let mut load = Load::new();
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
        let mut load = Load::new();
        let passed = (0..100_000_u32).filter(|n| load.may_pass(std::net::Ipv4Addr::from_bits(*n).into())).count();
        assert_eq!(passed, 1000);
        assert_eq!(load.sources.len(), 1000);
        load.next_second();
        assert!(load.may_pass(v6("192.0.2.1")));
        assert_eq!(load.sources.len(), 1);
    }

    #[test]
    fn handshakes_without_a_cookie_have_a_share_of_the_time() {
        let mut load = Load::new();
        let took = Duration::from_micros(10);
        let mut handled = 0;
        while load.begin(true) {
            load.spend(took);
            handled += 1;
        }
        assert_eq!(handled, 1500);
        assert!(load.is_high(), "only a cookie helps");
        load.next_tick();
        assert!(load.begin(true) && !load.is_high());
        assert!(load.may_pass(v6("192.0.2.1")));
        for _ in 0..1000 {
            load.spend(TIME_OF_ONE_MAX);
        }
        assert!(load.begin(true), "one with a cookie takes none of it");
    }

    #[test]
    fn of_a_large_flood_as_much_is_seen_as_can_be_handled() {
        let mut load = Load::new();
        let mut stays = u64::from(u32::MAX);
        for (second, came) in [9999, 50_000, 50_000, 200_000, 200_000, 200_000, 3, 3].into_iter().enumerate() {
            let seen = (came * (stays + 1)) >> 32;
            (0..seen).for_each(|_| drop(load.begin(true)));
            assert!(second != 2 && second != 5 || (9990..=10_010).contains(&seen), "{seen} in second {second}");
            let thinning = load.next_second();
            assert_eq!(thinning.with_cookie, u32::MAX, "each kind by itself");
            stays = thinning.without_cookie.into();
        }
        assert_eq!(stays, u64::from(u32::MAX), "it is over");
    }

    #[test]
    fn cookies_are_asked_for_beyond_a_hundred_a_second() {
        let mut load = Load::new();
        for _ in 0..HANDSHAKES_PER_SECOND {
            assert!(!load.is_high());
            load.count();
        }
        assert!(load.is_high());
        load.next_second();
        assert!(!load.is_high());
    }
}
