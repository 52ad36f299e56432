//! What the clock did, told by times that the tests make up.

use std::time::{Duration, Instant};

use super::{Clock, Event};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
/// 2026-11-22T14:00:00Z
const TODAY: Duration = Duration::from_secs(1_795_356_000);

#[test]
fn a_clock_that_goes_on_says_nothing() {
    let start = Instant::now();
    let mut clock = Clock::new(TODAY, start, Some(TODAY - HOUR));
    assert_eq!(clock.behind(start), None);
    for second in 1..200_u32 {
        // slewed by 500 ppm, as NTP does
        let wall = TODAY + SECOND * second + Duration::from_micros(500) * second;
        assert_eq!(clock.look(wall, start + SECOND * second), None);
    }
    assert_eq!(clock.stamp(start + SECOND * 199), TODAY + SECOND * 199);
}

#[test]
fn from_1970_to_today_the_cores_are_made_anew() {
    let start = Instant::now();
    let mut clock = Clock::new(SECOND * 30, start, Some(TODAY));
    assert_eq!(clock.behind(start), Some(TODAY - SECOND * 30));
    assert_eq!(clock.look(SECOND * 31, start + SECOND), None);
    let stepped = clock.look(TODAY + SECOND * 60, start + SECOND * 2);
    assert_eq!(stepped, Some(Event::Forward(TODAY + SECOND * 28)));
    assert_eq!(clock.stamp(start + SECOND * 2), TODAY + SECOND * 60);
    assert_eq!(clock.behind(start + SECOND * 2), None);
    assert_eq!(clock.look(TODAY + SECOND * 61, start + SECOND * 3), Some(Event::CaughtUp));
    assert_eq!(clock.look(TODAY + SECOND * 62, start + SECOND * 4), None);
}

#[test]
fn set_back_while_running_nothing_is_made_anew_and_the_disk_knows() {
    let start = Instant::now();
    let mut clock = Clock::new(TODAY, start, None);
    assert_eq!(clock.look(TODAY - HOUR, start + SECOND), Some(Event::Back(HOUR + SECOND)));
    let later = start + SECOND * 10;
    assert_eq!(clock.stamp(later), TODAY + SECOND * 10, "handshakes go on");
    assert_eq!(clock.stamped(later), TODAY + SECOND * 10, "and a restart will know");
    // mended: the handshakes have never been behind
    assert_eq!(clock.look(TODAY + SECOND * 11, start + SECOND * 11), None);
}

#[test]
fn set_back_and_restarted_it_is_behind_until_it_has_caught_up() {
    let start = Instant::now();
    let mut clock = Clock::new(TODAY - HOUR, start, Some(TODAY));
    assert_eq!(clock.behind(start), Some(HOUR));
    assert_eq!(clock.stamped(start), TODAY, "a second restart still knows");
    let half = start + HOUR / 2;
    assert_eq!(clock.look(TODAY - HOUR / 2, half), None);
    assert_eq!(clock.behind(half), Some(HOUR / 2));
    assert_eq!(clock.look(TODAY + SECOND, start + HOUR + SECOND), Some(Event::CaughtUp));
    assert_eq!(clock.stamped(start + HOUR + SECOND), TODAY + SECOND);
}

#[test]
fn an_earlier_run_far_in_the_future_is_forgotten_after_a_day() {
    let start = Instant::now();
    let mut clock = Clock::new(TODAY, start, Some(TODAY + HOUR * 24 * 365));
    let day = HOUR * 24;
    assert_eq!(clock.look(TODAY + day - SECOND, start + day - SECOND), None);
    assert_eq!(clock.look(TODAY + day, start + day), Some(Event::GivenUp));
    assert_eq!(clock.behind(start + day), None);
    assert_eq!(clock.stamped(start + day), TODAY + day);
}
