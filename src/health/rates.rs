//! How fast a queue fills and drains, and how fast the disk does: from counts, seen now and then. Pure.
//!
//! Never looks at a clock, and says nothing where it has seen too little. A rate is that of the last minute, the disk's
//! of the last quarter of an hour, or of the time between the last two looks where these are further apart.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Is the time that rates are taken over: long enough to be calm, short enough to show what happens now.
const WINDOW: Duration = Duration::from_secs(60);
/// Is the time that the pace of the disk is taken over: other programs write in bursts, and somebody is called for it.
const DISK_WINDOW: Duration = Duration::from_secs(15 * 60);
/// Is the least time between two looks at the disk that count.
const DISK_SPACING: Duration = Duration::from_secs(15);
/// Is the least time that says anything of the disk's pace.
const DISK_WINDOW_MIN: Duration = Duration::from_secs(5 * 60);
/// Is the least time between two looks that count: what is asked more often shows the same.
const SPACING: Duration = Duration::from_secs(1);
/// Is the longest time that an estimate names: beyond, it says nothing.
const ESTIMATE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Is what a look shows.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Says when.
    pub at: Instant,
    /// Counts the messages that were ever taken in.
    pub accepted: u64,
    /// Counts those of them that are settled.
    pub settled: u64,
    /// Counts the bytes that are free on the disk.
    pub free_bytes: Option<u64>,
}

/// Remembers looks.
#[derive(Debug, Default)]
pub struct Rates {
    looks: VecDeque<Look>,
    disk: VecDeque<Look>,
}

/// Is what the looks say together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pace {
    /// Is how many messages are taken in, a second.
    pub accepted_per_second: Option<f64>,
    /// Is how many are settled, a second.
    pub settled_per_second: Option<f64>,
    /// Is how long it takes until none waits any more, if it goes on so.
    pub drained_in: Option<Duration>,
    /// Is how long it takes until the disk is full, if it goes on so.
    pub disk_full_in: Option<Duration>,
}

impl Rates {
    /// Takes a look into account, and says what is known then.
    pub fn handle_look(&mut self, look: Look) -> Pace {
        let pace = match begin(&mut self.looks, look, WINDOW, SPACING) {
            Some(first) => pace(&first, &look),
            None => Pace::default(),
        };
        let first = begin(&mut self.disk, look, DISK_WINDOW, DISK_SPACING);
        let first = first.filter(|first| look.at.saturating_duration_since(first.at) >= DISK_WINDOW_MIN);
        Pace { disk_full_in: first.and_then(|first| disk_full_in(&first, &look)), ..pace }
    }
}

/// Remembers a look, and finds the one that the window begins with; none where it is too near.
fn begin(looks: &mut VecDeque<Look>, look: Look, window: Duration, spacing: Duration) -> Option<Look> {
    let age = |of: &Look| look.at.saturating_duration_since(of.at);
    if looks.back().is_none_or(|last| age(last) >= spacing) {
        looks.push_back(look);
    }
    // One that is older than the window is kept, as its begin.
    while looks.get(1).is_some_and(|second| age(second) >= window) {
        looks.pop_front();
    }
    looks.front().copied().filter(|first| age(first) >= spacing)
}

#[allow(clippy::cast_precision_loss, reason = "a rate, not a count")]
fn per_second(from: u64, to: u64, time: Duration) -> f64 {
    to.saturating_sub(from) as f64 / time.as_secs_f64()
}

fn disk_full_in(first: &Look, last: &Look) -> Option<Duration> {
    let (before, now) = first.free_bytes.zip(last.free_bytes)?;
    estimate(now, per_second(now, before, last.at.saturating_duration_since(first.at)))
}

fn pace(first: &Look, last: &Look) -> Pace {
    let time = last.at.saturating_duration_since(first.at);
    let accepted = per_second(first.accepted, last.accepted, time);
    let settled = per_second(first.settled, last.settled, time);
    Pace {
        accepted_per_second: Some(accepted),
        settled_per_second: Some(settled),
        drained_in: estimate(last.accepted.saturating_sub(last.settled), settled - accepted),
        disk_full_in: None,
    }
}

fn estimate(rest: u64, per_second: f64) -> Option<Duration> {
    if rest == 0 {
        return Some(Duration::ZERO);
    }
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = rest as f64 / per_second;
    let estimate = Duration::try_from_secs_f64(seconds).ok().filter(|_| per_second > 0.0)?;
    (estimate <= ESTIMATE_MAX).then_some(estimate)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Queue {
        rates: Rates,
        start: Instant,
    }

    impl Queue {
        fn new() -> Self {
            Self { rates: Rates::default(), start: Instant::now() }
        }

        fn look(&mut self, second: f64, accepted: u64, settled: u64, free_bytes: u64) -> Pace {
            let at = self.start + Duration::from_secs_f64(second);
            self.rates.handle_look(Look { at, accepted, settled, free_bytes: Some(free_bytes) })
        }
    }

    #[test]
    fn one_look_says_nothing() {
        let mut queue = Queue::new();
        assert_eq!(queue.look(0.0, 10, 0, 100), Pace::default());
        assert_eq!(queue.look(0.5, 20, 0, 100), Pace::default(), "too soon");
    }

    #[test]
    fn a_queue_that_drains_says_when_it_is_empty() {
        let mut queue = Queue::new();
        queue.look(0.0, 1000, 0, 5000);
        let pace = queue.look(10.0, 1100, 400, 4000);
        assert_eq!((pace.accepted_per_second, pace.settled_per_second), (Some(10.0), Some(40.0)));
        // 700 left, 30 fewer each second.
        assert_eq!(pace.drained_in.map(|time| time.as_secs()), Some(23));
        assert_eq!(pace.disk_full_in, None, "too little to call somebody for");
    }

    #[test]
    fn one_that_fills_has_no_end_and_one_that_is_empty_has_one() {
        let mut queue = Queue::new();
        queue.look(0.0, 100, 0, 5000);
        let pace = queue.look(10.0, 300, 100, 6000);
        assert_eq!((pace.drained_in, pace.disk_full_in), (None, None));
        assert_eq!(queue.look(20.0, 300, 300, 6000).drained_in, Some(Duration::ZERO));
    }

    #[test]
    fn the_pace_of_a_disk_is_that_of_a_quarter_of_an_hour() {
        let mut queue = Queue::new();
        let mut looks = |from: u32, to: u32, free: fn(u64) -> u64| {
            let mut last = None;
            for second in from..=to {
                last = queue
                    .look(f64::from(second), 0, 0, free(u64::from(second)))
                    .disk_full_in
                    .map(|time| time.as_secs());
            }
            (last, queue.rates.disk.len())
        };
        assert_eq!(looks(0, 299, |second| 100_000 - second).0, None, "not yet");
        assert_eq!(looks(300, 300, |_| 99_700).0, Some(99_700), "a byte a second");
        // A burst of a minute is a fifteenth of it.
        assert_eq!(looks(301, 900, |second| 99_700 - (second - 300).min(60) * 100).0, Some(13_385));
        let (calm, kept) = looks(901, 2000, |_| 93_700);
        assert!(calm.is_none() && kept <= 62, "{kept}");
    }

    #[test]
    fn what_is_long_ago_counts_no_more() {
        let mut queue = Queue::new();
        queue.look(0.0, 0, 0, 0);
        for second in 1..=50 {
            queue.look(f64::from(second), 1_000_000, 0, 0);
        }
        assert_eq!(queue.look(200.0, 1_000_000, 0, 0).accepted_per_second, Some(0.0), "but the last look does");
        assert_eq!(queue.look(201.0, 1_000_151, 0, 0).accepted_per_second, Some(1.0));
        assert!(queue.rates.looks.len() <= 3);
    }
}
