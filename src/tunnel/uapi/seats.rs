//! Who is at the socket of wg(8): a place for each connection, and which of them have said nothing yet.
//!
//! A connection that is silent gives its place to a new one of its user, the oldest first, so that what somebody left
//! open keeps nobody out. It reads nothing and answers nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::unistd::Uid;
use tokio::task::AbortHandle;

use crate::tunnel::places::{Place, Places};

/// Holds the place of a connection while it is silent.
#[derive(Debug)]
pub(super) struct Seat {
    uid: u32,
    place: Mutex<Option<Place>>,
}

impl Seat {
    /// Takes the place for good: the connection speaks. `None`: it was too late, another one has it.
    pub(super) fn speak(&self) -> Option<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_silent(&self) -> bool {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Knows the seats, the oldest first; those that speak or have ended go at the next look.
#[derive(Debug, Default)]
pub(super) struct Seats {
    places: Arc<Places>,
    silent: VecDeque<(Weak<Seat>, AbortHandle)>,
}

impl Seats {
    /// Gives a new connection of a user a seat: a free one, or that of the user's oldest silent connection, which ends.
    pub(super) fn take(&mut self, uid: u32) -> Option<Arc<Seat>> {
        self.silent.retain(|(seat, _)| seat.upgrade().is_some_and(|seat| seat.is_silent()));
        let place = self.places.take(Uid::from_raw(uid)).or_else(|| self.end_oldest(uid))?;
        Some(Arc::new(Seat { uid, place: Mutex::new(Some(place)) }))
    }

    /// Notes the task that serves a seat.
    pub(super) fn note(&mut self, seat: &Arc<Seat>, task: AbortHandle) {
        self.silent.push_back((Arc::downgrade(seat), task));
    }

    fn end_oldest(&mut self, uid: u32) -> Option<Place> {
        self.silent.iter().find_map(|(seat, task)| {
            let place = seat.upgrade().filter(|seat| seat.uid == uid)?.speak()?;
            task.abort();
            Some(place)
        })
    }
}
