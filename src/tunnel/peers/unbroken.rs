//! Since when there has been a session with a peer without a gap. Every time comes in as an argument.
//!
//! A session that is renewed in time is the same one for whoever asks: WireGuard makes a new one every two minutes.

use std::time::{Duration, SystemTime};

use super::facts::UNANSWERED_MAX;

/// A session is none any more after so long (REJECT_AFTER_TIME, WireGuard paper, section 6.1).
const SESSION_TIME_MAX: Duration = Duration::from_secs(180);

/// Is since when there has been a session without a gap.
#[derive(Debug, Default)]
pub(super) struct Unbroken(Option<SystemTime>);

impl Unbroken {
    /// Returns since when; none: there never was one.
    pub(super) fn since(&self) -> Option<SystemTime> {
        self.0
    }

    /// Notes a new session, so long after the one before.
    pub(super) fn begin(&mut self, now: SystemTime, after: Option<Duration>) {
        if after.is_none_or(|after| after >= SESSION_TIME_MAX) || self.0.is_none() {
            self.0 = Some(now);
        }
    }

    /// Notes that the peer is heard after it has answered nothing for so long.
    pub(super) fn answered(&mut self, now: SystemTime, silence: Duration) {
        if silence >= UNANSWERED_MAX {
            self.0 = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_that_is_renewed_in_time_is_one_since_its_first() {
        let mut unbroken = Unbroken::default();
        assert_eq!(unbroken.since(), None);
        unbroken.begin(at(10), None);
        for renewal in 1..=5 {
            unbroken.begin(at(10 + 120 * renewal), Some(Duration::from_secs(120)));
            unbroken.answered(at(11 + 120 * renewal), Duration::from_secs(14));
        }
        assert_eq!(unbroken.since(), Some(at(10)));
    }

    #[test]
    fn a_gap_ends_when_the_peer_is_heard_again() {
        let mut unbroken = Unbroken::default();
        unbroken.begin(at(10), None);
        unbroken.answered(at(50), Duration::from_secs(15));
        assert_eq!(unbroken.since(), Some(at(50)), "nothing was answered, and then it was on the same session");
        unbroken.begin(at(60), Some(Duration::from_secs(50)));
        assert_eq!(unbroken.since(), Some(at(50)));
        unbroken.begin(at(240), Some(Duration::from_secs(180)));
        assert_eq!(unbroken.since(), Some(at(240)), "the one before had ended");
    }
}
