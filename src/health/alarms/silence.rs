//! When a feed was heard, and how long it is used to be silent. Pure.
//!
//! What a feed is used to is the longest gap between two messages of each of the last days it was heard on: a feed that is
//! silent every night, or every Sunday, is used to that. It learns nothing from gaps in which the site did not run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Is the least limit that is learned: below, a coffee break of a ward is an alarm.
const LEARNED_MIN: Duration = Duration::from_secs(15 * 60);
/// Is how many gaps say something.
const GAPS_MIN: u64 = 100;
/// Is how many days say something: a whole week, with its week end.
const DAYS_MIN: u64 = 8;
/// Is how many days are remembered: two weeks, and with them the last two week ends.
const DAYS_KEPT: usize = 14;
/// Is one day, in seconds.
const DAY_SECONDS: u64 = 24 * 3600;

/// Is what is known of the rhythm of a feed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Feed {
    /// Is when the last message came, or this was watched first, in seconds since 1970.
    heard: u64,
    /// Is when this was watched first.
    first: u64,
    /// Counts the gaps that were measured.
    gaps: u64,
    /// Lists days, in days since 1970, each with its longest gap in seconds; the oldest first.
    longest: Vec<(u64, u64)>,
    /// Is the count of messages at the last look of this run.
    #[serde(skip)]
    count: Option<u64>,
    /// Tells that a message was heard in this run.
    #[serde(skip)]
    is_heard: bool,
}

impl Feed {
    /// Takes in how many messages have come since the start of the site.
    pub(super) fn handle_count(&mut self, count: u64, now: SystemTime) {
        let now = seconds(now);
        if self.first == 0 {
            (self.first, self.heard) = (now, now);
        }
        let has_come = self.count.replace(count).map_or(count > 0, |before| count != before);
        if !has_come {
            return;
        }
        if self.is_heard {
            self.learn(now, now.saturating_sub(self.heard));
        }
        (self.heard, self.is_heard) = (now, true);
    }

    fn learn(&mut self, now: u64, gap: u64) {
        self.gaps = self.gaps.saturating_add(1);
        let day = now / DAY_SECONDS;
        match self.longest.last_mut() {
            Some((last, longest)) if *last == day => *longest = gap.max(*longest),
            _ => self.longest.push((day, gap)),
        }
        let excess = self.longest.len().saturating_sub(DAYS_KEPT);
        self.longest.drain(..excess);
    }

    /// Says how long it has been silent.
    pub(super) fn silence(&self, now: SystemTime) -> Duration {
        Duration::from_secs(seconds(now).saturating_sub(self.heard))
    }

    /// Says what is learned to be too long, half as much again as the longest gap; none where too little is known.
    pub(super) fn learned(&self, now: SystemTime) -> Option<Duration> {
        let is_enough = self.gaps >= GAPS_MIN && seconds(now).saturating_sub(self.first) >= DAYS_MIN * DAY_SECONDS;
        let longest = self.longest.iter().map(|(_, gap)| *gap).max().filter(|_| is_enough)?;
        Some(Duration::from_secs(longest.saturating_add(longest / 2)).max(LEARNED_MIN))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000 * DAY_SECONDS + second)
    }

    /// Has a feed send every minute from 6 to 22 o'clock for so many days.
    fn days(feed: &mut Feed, from: u64, to: u64, count: &mut u64) {
        for day in from..to {
            for minute in 6 * 60..22 * 60 {
                *count += 1;
                feed.handle_count(*count, at(day * DAY_SECONDS + minute * 60));
            }
        }
    }

    #[test]
    fn a_feed_is_used_to_its_nights_after_a_week() {
        let (mut feed, mut count) = (Feed::default(), 0);
        days(&mut feed, 0, 7, &mut count);
        assert_eq!(feed.learned(at(7 * DAY_SECONDS)), None, "no week yet");
        days(&mut feed, 7, 9, &mut count);
        let night = 8 * HOUR + 60;
        assert_eq!(feed.learned(at(9 * DAY_SECONDS)), Some(Duration::from_secs(night + night / 2)));
        assert_eq!(feed.silence(at(8 * DAY_SECONDS + 23 * HOUR)), Duration::from_secs(HOUR + 60));
        let kept: Feed = serde_json::from_str(&serde_json::to_string(&feed).unwrap()).unwrap();
        assert_eq!(kept.learned(at(9 * DAY_SECONDS)), feed.learned(at(9 * DAY_SECONDS)), "a restart forgets nothing");
    }

    #[test]
    fn a_long_gap_is_forgotten_after_two_weeks_and_nothing_grows() {
        let (mut feed, mut count) = (Feed::default(), 0);
        days(&mut feed, 0, 9, &mut count);
        days(&mut feed, 12, 13, &mut count);
        assert!(feed.learned(at(13 * DAY_SECONDS)).unwrap() > Duration::from_secs(3 * DAY_SECONDS));
        days(&mut feed, 13, 60, &mut count);
        assert!(feed.learned(at(60 * DAY_SECONDS)).unwrap() < Duration::from_secs(DAY_SECONDS));
        assert_eq!(feed.longest.len(), DAYS_KEPT);
    }

    #[test]
    fn a_busy_feed_has_the_least_limit_and_a_rare_one_none() {
        let (mut feed, mut count) = (Feed::default(), 0);
        for minute in 0..9 * 24 * 60 {
            count += 1;
            feed.handle_count(count, at(minute * 60));
        }
        assert_eq!(feed.learned(at(9 * DAY_SECONDS)), Some(LEARNED_MIN));
        let mut rare = Feed::default();
        (0..90).for_each(|day| rare.handle_count(day + 1, at(day * DAY_SECONDS)));
        assert_eq!(rare.learned(at(90 * DAY_SECONDS)), None);
    }

    #[test]
    fn the_time_in_which_the_site_did_not_run_is_no_gap() {
        let mut feed = Feed::default();
        (1..9).for_each(|second| feed.handle_count(second, at(second)));
        let mut feed: Feed = serde_json::from_str(&serde_json::to_string(&feed).unwrap()).unwrap();
        feed.handle_count(0, at(500_000));
        feed.handle_count(1, at(500_010));
        assert!(feed.longest.iter().all(|(_, gap)| *gap < 20), "{feed:?}");
        feed.handle_count(2, at(400_000)); // the clock was set back
        assert!(feed.longest.iter().all(|(_, gap)| *gap < 20), "{feed:?}");
    }
}
