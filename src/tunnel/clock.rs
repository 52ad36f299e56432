//! What the wall clock did, and what it means for handshakes: they carry its time, and a peer takes one that is not
//! later than the last for a replay (WireGuard paper, section 5.1).
//!
//! Pure; both clocks come in as arguments. The noise core reads the wall clock once and counts on from there, so a
//! running site is harmed only where that first reading was too early, as on a machine that starts in 1970: the cores
//! are then made anew. A site that starts with an earlier clock than its last run had cannot begin a handshake with a
//! peer that remembers it. It goes on trying, for the peer may have forgotten, answers whoever begins (responses carry
//! no time), and says so.

use std::time::{Duration, Instant};

/// The wall clock stepped where it moved so much more or less than the monotonic one; slewing does not reach it.
const STEP_MIN: Duration = Duration::from_secs(1);
/// A clock that is behind for so long is what it will be: by then every peer has begun a handshake (each session ends
/// after 180 s), or will not come back.
const BEHIND_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Follows the wall clock. Times are since 1970.
#[derive(Debug)]
pub struct Clock {
    /// Is what the noise cores read, and when.
    read: (Duration, Instant),
    latest: (Duration, Instant),
    /// Is the latest time that an earlier run's handshakes carried; zero where the clock is past it.
    earlier_run: Duration,
    started: Instant,
}

/// Says what the wall clock did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was set forward by this, and the noise cores lag behind it: make them anew.
    Forward(Duration),
    /// It was set back by this; handshakes go on from the earlier reading.
    Back(Duration),
    /// It has caught up with the earlier run: peers accept handshakes again.
    CaughtUp,
    /// It did not catch up within a day; the earlier run is forgotten.
    GivenUp,
}

impl Clock {
    /// Starts with the wall clock's time, and the latest time that handshakes of an earlier run carried.
    pub fn new(wall: Duration, now: Instant, earlier_run: Option<Duration>) -> Self {
        let earlier_run = earlier_run.filter(|earlier| *earlier > wall).unwrap_or_default();
        Self { read: (wall, now), latest: (wall, now), earlier_run, started: now }
    }

    /// Returns the time that a handshake carries.
    pub fn stamp(&self, now: Instant) -> Duration {
        self.read.0 + now.duration_since(self.read.1)
    }

    /// Returns the latest time that a handshake of this or the earlier run can have carried: what is kept on disk.
    pub fn stamped(&self, now: Instant) -> Duration {
        self.stamp(now).max(self.earlier_run)
    }

    /// Says how far handshakes are behind those of the earlier run.
    pub fn behind(&self, now: Instant) -> Option<Duration> {
        self.earlier_run.checked_sub(self.stamp(now)).filter(|behind| !behind.is_zero())
    }

    /// Looks at both clocks; called once a second. One event at a time: the next call tells the next.
    pub fn look(&mut self, wall: Duration, now: Instant) -> Option<Event> {
        let was_behind = !self.earlier_run.is_zero();
        let (wall_before, before) = std::mem::replace(&mut self.latest, (wall, now));
        let expected = wall_before + now.duration_since(before);
        if wall >= expected + STEP_MIN && wall >= self.stamp(now) + STEP_MIN {
            self.read = (wall, now);
            return Some(Event::Forward(wall - expected));
        }
        if wall + STEP_MIN <= expected {
            return Some(Event::Back(expected - wall));
        }
        if was_behind && self.behind(now).is_none() {
            self.earlier_run = Duration::ZERO;
            return Some(Event::CaughtUp);
        }
        if was_behind && now.duration_since(self.started) >= BEHIND_MAX {
            self.earlier_run = Duration::ZERO;
            return Some(Event::GivenUp);
        }
        None
    }
}

#[cfg(test)]
mod tests;
