//! The states of a message in the near spool, and what may lead from one to the next.
//!
//! Never touches a store: this file decides, the store does. Rules: design, delivery.md ("stored").
//!
//! ```text
//!              delivered, delivered before
//!   Queued ------------------------------------> Delivered --+ release: a copy is
//!     |  \                                        |  ^       | queued again
//!     |   \ rejected, failed, withdrawn, park     |  +-------+
//!     |    \                                      | discard: its copy is shredded
//!     |     +--> Parked -- release: queued again as a new message --> Released
//!     |             |
//!     | discard     | discard                     |
//!     +-------------+--> Discarded <--------------+
//! ```
//!
//! Only a queued message keeps its place in the order; every other state lets the queue go on, so a message is
//! retired when it and all before it have left `Queued`. What was settled stays settled: a second outcome changes
//! nothing. The content is kept while queued and parked, of delivered messages for as long as the configuration says.

use super::Verdict;

/// Is where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It waits for its delivery, or for the outcome.
    Queued,
    /// The receiver has it.
    Delivered,
    /// It is set aside, whole, until an operator decides.
    Parked,
    /// An operator gave it up.
    Discarded,
    /// It was set aside, and is queued again under another number.
    Released,
}

/// Is what happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its outcome came.
    Settled(Verdict),
    /// An operator sets it aside.
    Park,
    /// An operator gives it up.
    Discard,
    /// An operator has it sent again, as a new message.
    Release,
}

impl State {
    /// Lists all of them, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Delivered, Self::Parked, Self::Discarded, Self::Released];

    /// Returns the number by which it is stored; it never changes.
    pub fn code(self) -> u8 {
        match self {
            Self::Queued => 0,
            Self::Delivered => 1,
            Self::Parked => 2,
            Self::Discarded => 3,
            Self::Released => 4,
        }
    }

    /// Finds the state with that number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// Names it, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Parked => "parked",
            Self::Discarded => "discarded",
            Self::Released => "released",
        }
    }

    /// Tells whether the message fills the queue: its content must not go.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Queued | Self::Parked)
    }

    /// Tells whether its content is there.
    pub fn has_content(self) -> bool {
        matches!(self, Self::Queued | Self::Parked | Self::Delivered)
    }

    /// Returns the state that follows; `None` where the event is not possible in this one.
    pub fn handle_event(self, event: Event) -> Option<Self> {
        match (self, event) {
            (Self::Queued, Event::Settled(verdict)) => Some(match verdict {
                Verdict::Delivered | Verdict::DeliveredBefore => Self::Delivered,
                Verdict::Rejected | Verdict::Failed | Verdict::Withdrawn => Self::Parked,
            }),
            (Self::Queued, Event::Park) => Some(Self::Parked),
            (Self::Queued | Self::Parked | Self::Delivered, Event::Discard) => Some(Self::Discarded),
            (Self::Parked, Event::Release) => Some(Self::Released),
            (Self::Delivered, Event::Release) => Some(Self::Delivered),
            (Self::Queued, Event::Release)
            | (Self::Parked, Event::Settled(_) | Event::Park)
            | (Self::Delivered, Event::Settled(_) | Event::Park)
            | (Self::Discarded | Self::Released, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 8] = [
        Event::Settled(Verdict::Delivered),
        Event::Settled(Verdict::DeliveredBefore),
        Event::Settled(Verdict::Rejected),
        Event::Settled(Verdict::Failed),
        Event::Settled(Verdict::Withdrawn),
        Event::Park,
        Event::Discard,
        Event::Release,
    ];

    #[test]
    fn every_transition_is_as_drawn() {
        use State::{Delivered as D, Discarded as X, Parked as P, Queued as Q, Released as R};
        let drawn = [
            (Q, [Some(D), Some(D), Some(P), Some(P), Some(P), Some(P), Some(X), None]),
            (D, [None, None, None, None, None, None, Some(X), Some(D)]),
            (P, [None, None, None, None, None, None, Some(X), Some(R)]),
            (X, [None; 8]),
            (R, [None; 8]),
        ];
        for (state, follows) in drawn {
            assert_eq!(EVENTS.map(|event| state.handle_event(event)), follows, "{state:?}");
        }
    }

    #[test]
    fn codes_are_stable_and_none_is_shared() {
        assert_eq!(State::ALL.map(State::code), [0, 1, 2, 3, 4]);
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Some(state));
        }
        assert_eq!(State::from_code(5), None);
    }

    #[test]
    fn nothing_that_is_held_loses_its_content() {
        for state in State::ALL {
            assert!(state.has_content() || !state.is_held());
        }
    }
}
