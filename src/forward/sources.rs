//! Where a forward's senders connect from: how many connections each source has, and how fast it opens them.
//!
//! Never looks at a byte, never reads a clock, never slows a source down that is alone. A source is an IPv4 address or an
//! IPv6 /64, which one host may have whole.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A source may open what it may in a second at once: a sender that connects for each message comes in bursts.
const BURST: Duration = Duration::from_secs(1);
/// Sources that are remembered before those are forgotten that have nothing open and owe nothing; 64 bytes each.
const SWEEP_ABOVE: usize = 1024;

/// Counts for a forward.
#[derive(Clone, Default)]
pub(super) struct Sources(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    sources: HashMap<IpAddr, Source>,
    /// Counts those that have a connection.
    connected: usize,
}

#[derive(Clone, Copy)]
struct Source {
    open: usize,
    /// Is when the next connection would begin if they came evenly.
    due: Instant,
}

impl Source {
    fn is_idle(&self, now: Instant) -> bool {
        self.open == 0 && self.due <= now
    }
}

/// Counts a connection of a source until it is dropped.
pub(super) struct Counted {
    all: Sources,
    source: IpAddr,
}

impl Sources {
    /// Takes a connection of a source, and says how long it is to wait before it is served, so that others have their
    /// turn; none where the source has as many as it may.
    pub(super) fn take(
        &self,
        from: IpAddr,
        now: Instant,
        connections_max: NonZeroUsize,
        rate_max: NonZeroUsize,
    ) -> Option<(Counted, Duration)> {
        let source = source_of(from);
        let mut all = self.lock();
        let All { sources, connected } = &mut *all;
        if sources.len() >= SWEEP_ABOVE {
            sources.retain(|_, source| !source.is_idle(now));
        }
        let entry = sources.entry(source).or_insert(Source { open: 0, due: now });
        if entry.open >= connections_max.get() {
            return None;
        }
        *connected += usize::from(entry.open == 0);
        entry.open += 1;
        let counted = Counted { all: self.clone(), source };
        if *connected == 1 {
            entry.due = now;
            return Some((counted, Duration::ZERO));
        }
        let interval = Duration::from_secs(1) / u32::try_from(rate_max.get()).unwrap_or(u32::MAX);
        entry.due = entry.due.max(now) + interval;
        let wait = entry.due.saturating_duration_since(now).saturating_sub(BURST.max(interval));
        Some((counted, wait))
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(source) = all.sources.get_mut(&self.source) {
            source.open = source.open.saturating_sub(1);
            let is_gone = source.open == 0;
            all.connected = all.connected.saturating_sub(usize::from(is_gone));
        }
    }
}

fn source_of(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_has_its_places_and_no_more() {
        let (sources, now) = (Sources::default(), Instant::now());
        let take = |from| sources.take(ip(from), now, count(2), count(100));
        let (one, _two) = (take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap());
        assert!(take("192.0.2.1").is_none(), "it has two, in whatever notation");
        let _other = take("192.0.2.2").unwrap();
        drop(one);
        let _again = take("192.0.2.1").unwrap();
        let _first = (take("2001:db8::1").unwrap(), take("2001:db8::ffff:2").unwrap());
        assert!(take("2001:db8::3").is_none(), "one /64 is one source");
        assert!(take("2001:db8:0:1::3").is_some());
    }

    #[test]
    fn what_comes_faster_than_it_may_waits_while_others_are_there_and_a_burst_does_not() {
        let (sources, now) = (Sources::default(), Instant::now());
        let alone: Vec<_> =
            (0..500).map(|_| sources.take(ip("192.0.2.1"), now, count(10_000), count(100)).unwrap()).collect();
        assert!(alone.iter().all(|(_, wait)| wait.is_zero()));
        drop(alone);
        let _other = sources.take(ip("192.0.2.9"), now, count(1), count(100)).unwrap();
        let take = |at| sources.take(ip("192.0.2.1"), at, count(10_000), count(100)).unwrap();
        let all: Vec<_> = (0..150).map(|_| take(now)).collect();
        let waits: Vec<u128> = all.iter().map(|(_, wait)| wait.as_millis()).collect();
        assert!(waits[..100].iter().all(|wait| *wait == 0), "{waits:?}");
        assert_eq!((waits[100], waits[149]), (10, 500));
        let later = now + Duration::from_millis(1500);
        assert_eq!(take(later).1, Duration::ZERO);
        drop(all);
        assert_eq!(sources.lock().connected, 1);
        let slow = Sources::default();
        let _other = slow.take(ip("192.0.2.9"), now, count(1), count(1)).unwrap();
        let take = |at| slow.take(ip("192.0.2.1"), at, count(9), count(1)).unwrap().1;
        assert_eq!([take(now), take(now)], [Duration::ZERO, Duration::from_secs(1)]);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (sources, now) = (Sources::default(), Instant::now());
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        for number in 0..SWEEP_ABOVE {
            sources.take(address(number), now, count(1), count(1000)).unwrap();
        }
        let later = now + Duration::from_secs(1);
        let _open = sources.take(address(1 << 20), later, count(1), count(1000)).unwrap();
        let all = sources.lock();
        assert_eq!((all.sources.len(), all.connected), (1, 1));
        drop(all);
    }
}
