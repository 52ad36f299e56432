//! When no attempt begins although a message is there: a pause, somebody else's turn at the receiver, and bytes that its
//! frames cannot hold.
//!
//! Never cuts off an attempt that is under way.

use std::time::{Duration, Instant};

use super::Course;
use super::head::{Head, Phase, Reason};
use super::line::Line;

/// A conversation that always has messages keeps its connection for so long while somebody waits for one: to change it
/// costs a few round trips.
const TURN: Duration = Duration::from_secs(1);

impl Course {
    /// Begins no attempt, or goes on; one that is under way has its end awaited.
    pub fn handle_pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Notes whether somebody waits for a connection to the receiver.
    pub fn handle_wanted(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
    }

    /// Tells whether it knows that somebody waits.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Holds the message at the head before its first byte where a frame of the receiver's cannot hold it.
    pub(super) fn look_whether_it_fits(&mut self) {
        let framing = self.policy.dialect.framing;
        let is_unsent = |head: &&mut Head| matches!(head.phase, Phase::Ready | Phase::Opened);
        let Some(head) = self.head.as_mut().filter(is_unsent) else { return };
        if head.fits == Some(framing) {
            return;
        }
        if framing.fits(&head.delivery.payload) {
            head.fits = Some(framing);
        } else {
            if head.phase == Phase::Opened {
                head.retract();
            }
            head.phase = Phase::Held(Reason::Unframeable);
        }
    }

    /// Looks again under another policy.
    pub(super) fn look_anew_whether_it_fits(&mut self) {
        if let Some(head) = self.head.as_mut().filter(|head| head.phase == Phase::Held(Reason::Unframeable)) {
            head.phase = Phase::Ready;
        }
    }

    /// Tells whether an attempt may begin.
    pub(super) fn may_begin(&self) -> bool {
        !self.is_stopping && !self.is_paused
    }

    /// Gives the connection up for somebody who waits: at once where no message is to be sent now, else between two of
    /// them after a while.
    pub(super) fn give_way(&mut self, now: Instant) {
        let Line::Up(up) = &mut self.line else { return };
        if up.exchange.has_replies() {
            return; // they go out first
        }
        let until = *up.turn_until.get_or_insert(now + TURN);
        let may = match self.head.as_ref().map(|head| head.phase) {
            None | Some(Phase::Resting { .. } | Phase::Held(_)) => true,
            Some(Phase::Ready) => self.is_paused || now >= until,
            Some(Phase::Opened | Phase::UnderWay { .. }) => false,
        };
        if self.is_wanted && may {
            self.leave_line();
        }
    }
}
