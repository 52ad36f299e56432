//! The last hour of each feed, in steps: how many messages, and how long their answers took. Pure.
//!
//! Never looks at a clock and never sees a message: it takes the difference of two looks at counters that are there anyway.
//! Percentiles come from a histogram's buckets by linear interpolation, as Prometheus' `histogram_quantile` does it.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::facts::{Histogram, SiteFacts, rfc3339_maybe};

/// Is the time between two looks: a minute has six, and a chart of a phone's width has a step a pixel.
pub const STEP: Duration = Duration::from_secs(10);

/// Limits the steps that are remembered: an hour. A feed's take 4.3 KiB.
pub const STEPS_MAX: usize = 360;

/// Says what a feed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Senders send on it.
    Forward,
    /// A receiver gets it.
    Service,
}

/// Remembers the last hour of every feed.
#[derive(Debug, Default)]
pub struct History {
    feeds: Vec<Feed>,
    taken: u64,
    until: Option<SystemTime>,
}

#[derive(Debug)]
struct Feed {
    kind: Kind,
    name: String,
    messages: u64,
    latency: Histogram,
    steps: VecDeque<Step>,
}

/// Is what happened between two looks; the times are in microseconds, none where nothing was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    messages: u32,
    p50: u32,
    p99: u32,
}

/// Marks a time that there is none of.
const NONE_MICROS: u32 = u32::MAX;

/// Is what was remembered, as the page is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Says that it replaces whatever was told before; else it goes on from there.
    pub replace: bool,
    /// Is the length of a step.
    pub step_seconds: u64,
    /// Says when the last step ended.
    #[serde(serialize_with = "rfc3339_maybe")]
    pub until: Option<SystemTime>,
    /// Lists every feed that there is.
    pub feeds: Vec<ToldFeed>,
}

/// Is what was remembered of a feed; the last element of each list is the latest step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToldFeed {
    /// Says what it is.
    pub kind: Kind,
    /// Names it.
    pub name: String,
    /// Counts the messages.
    pub messages: Vec<u32>,
    /// Is the median of the time until the answer, in microseconds.
    pub ack_p50_us: Vec<Option<u32>>,
    /// Is the time that 99 of 100 answers did not take longer than, in microseconds.
    pub ack_p99_us: Vec<Option<u32>>,
}

impl History {
    /// Takes a look into account; the first at a feed is what its first step begins with.
    pub fn handle_look(&mut self, facts: &SiteFacts, now: SystemTime) {
        let forwards = facts.forwards.iter();
        let forwards = forwards.map(|one| (Kind::Forward, &one.name, one.messages_total, one.ack_latency.clone()));
        let services = facts.services.iter();
        let services = services.map(|one| (Kind::Service, &one.name, one.messages_total, Histogram::default()));
        let mut before = std::mem::take(&mut self.feeds);
        for (kind, name, messages, latency) in forwards.chain(services) {
            let known = before.iter().position(|feed| feed.kind == kind && feed.name == *name);
            let feed = match known.map(|at| before.swap_remove(at)) {
                Some(mut feed) => {
                    feed.handle_look(messages, latency);
                    feed
                }
                None => Feed { kind, name: name.clone(), messages, latency, steps: VecDeque::new() },
            };
            self.feeds.push(feed);
        }
        self.taken = self.taken.saturating_add(1);
        self.until = Some(now);
    }

    /// Counts the looks so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Tells what came after so many looks; all where none of it was told before.
    pub fn told(&self, after: Option<u64>) -> Told {
        let count = after.map(|after| self.taken.saturating_sub(after));
        let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(STEPS_MAX);
        let feeds = self.feeds.iter().map(|feed| feed.told(count)).collect();
        Told { replace: after.is_none(), step_seconds: STEP.as_secs(), until: self.until, feeds }
    }
}

impl Feed {
    fn handle_look(&mut self, messages: u64, latency: Histogram) {
        let answered = since(&self.latency, &latency);
        let step = Step {
            messages: u32::try_from(grown(self.messages, messages)).unwrap_or(u32::MAX),
            p50: quantile_micros(latency.bounds_seconds, &answered, 50),
            p99: quantile_micros(latency.bounds_seconds, &answered, 99),
        };
        if self.steps.capacity() < STEPS_MAX {
            self.steps.reserve_exact(STEPS_MAX - self.steps.len());
        }
        if self.steps.len() >= STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
        (self.messages, self.latency) = (messages, latency);
    }

    fn told(&self, count: usize) -> ToldFeed {
        let steps = || self.steps.iter().skip(self.steps.len().saturating_sub(count));
        let time = |micros: u32| (micros != NONE_MICROS).then_some(micros);
        ToldFeed {
            kind: self.kind,
            name: self.name.clone(),
            messages: steps().map(|step| step.messages).collect(),
            ack_p50_us: steps().map(|step| time(step.p50)).collect(),
            ack_p99_us: steps().map(|step| time(step.p99)).collect(),
        }
    }
}

/// Says how much a counter grew; one that is less than before began anew.
fn grown(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn since(before: &Histogram, now: &Histogram) -> Vec<u64> {
    let before = before.counts.iter().copied().chain(std::iter::repeat(0));
    now.counts.iter().zip(before).map(|(now, before)| grown(before, *now)).collect()
}

/// Finds the time that so many of 100 did not take longer than; what is beyond the bounds is as long as the last of them.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, bounded; a cast of a float saturates"
)]
fn quantile_micros(bounds_seconds: &[f64], counts: &[u64], of_100: u32) -> u32 {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return NONE_MICROS;
    }
    let rank = total as f64 * f64::from(of_100) / 100.0;
    let (mut below, mut lower) = (0.0, 0.0);
    for (count, upper) in counts.iter().zip(bounds_seconds) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            lower += (upper - lower) * ((rank - below) / count);
            break;
        }
        (below, lower) = (below + count, *upper);
    }
    ((lower * 1e6).round() as u32).min(NONE_MICROS - 1)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{NOW, site};
    use super::*;

    /// Is how many messages and answers (up to 10 ms, up to 1 s, beyond) a feed has had so far.
    fn looked(history: &mut History, messages: u64, counts: [u64; 3]) {
        let mut facts = site();
        facts.forwards.truncate(1);
        facts.forwards[0].messages_total = messages;
        facts.forwards[0].ack_latency.counts = counts.to_vec();
        facts.services[0].messages_total = 2 * messages;
        history.handle_look(&facts, *NOW);
    }

    #[test]
    fn a_step_is_the_difference_of_two_looks() {
        let mut history = History::default();
        assert_eq!(history.told(None).until, None);
        looked(&mut history, 1000, [900, 100, 0]);
        assert_eq!(history.told(None).feeds[0].messages, [0; 0], "what was before the first look is no step");
        looked(&mut history, 1010, [910, 100, 0]);
        looked(&mut history, 1010, [910, 100, 0]);
        looked(&mut history, 1014, [910, 103, 1]);
        let told = history.told(None);
        assert_eq!((told.replace, told.step_seconds, told.until), (true, 10, Some(*NOW)));
        let [orders, results] = told.feeds.as_slice() else { panic!("{told:?}") };
        assert_eq!((orders.kind, orders.name.as_str()), (Kind::Forward, "orders"));
        assert_eq!(orders.messages, [10, 0, 4]);
        assert_eq!(orders.ack_p50_us, [Some(5_000), None, Some(670_000)]);
        assert_eq!(orders.ack_p99_us, [Some(9_900), None, Some(1_000_000)], "beyond the last bound is its time");
        assert_eq!((results.kind, results.messages.as_slice()), (Kind::Service, [20, 0, 8].as_slice()));
        assert_eq!(results.ack_p50_us, [None; 3]);
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let mut history = History::default();
        for n in 0..5 {
            looked(&mut history, n * n, [0; 3]);
        }
        let seen = history.taken();
        assert_eq!(history.told(Some(seen)).feeds[0].messages, [0; 0]);
        looked(&mut history, 25, [0; 3]);
        looked(&mut history, 36, [0; 3]);
        let told = history.told(Some(seen));
        assert_eq!((told.replace, told.feeds[0].messages.as_slice()), (false, [9, 11].as_slice()));
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut history = History::default();
        for n in 0..1000 {
            looked(&mut history, n, [n, 0, 0]);
        }
        assert_eq!(history.told(None).feeds[0].messages.len(), STEPS_MAX);
        let steps = &history.feeds[0].steps;
        assert!(steps.capacity() * size_of::<Step>() <= 4400, "{}", steps.capacity());
    }

    #[test]
    fn a_feed_that_is_gone_is_forgotten_and_one_that_began_anew_counts_from_0() {
        let mut history = History::default();
        looked(&mut history, 100, [100, 0, 0]);
        looked(&mut history, 3, [3, 0, 0]);
        assert_eq!(history.told(None).feeds[0].messages, [3]);
        let mut facts = site();
        facts.forwards.clear();
        history.handle_look(&facts, *NOW);
        assert_eq!(history.told(None).feeds.len(), 1);
        looked(&mut history, 7, [7, 0, 0]);
        assert_eq!(history.told(None).feeds[0].messages, [0; 0], "it is a new one");
    }

    #[test]
    fn percentiles_of_buckets() {
        let of = |counts: &[u64], of_100| quantile_micros(&[0.01, 0.02, 60.0], counts, of_100);
        assert_eq!(of(&[0, 0, 0, 0], 50), NONE_MICROS);
        assert_eq!(of(&[], 50), NONE_MICROS);
        assert_eq!(of(&[100, 0, 0, 0], 50), 5_000);
        assert_eq!(of(&[0, 4, 0, 0], 50), 15_000);
        assert_eq!(of(&[0, 0, 0, 1], 99), 60_000_000);
        assert_eq!(of(&[u64::MAX / 2, 0, 0, 1], 99), 9_900);
        assert_eq!(quantile_micros(&[1e9], &[1], 99), NONE_MICROS - 1, "bounded");
    }
}
