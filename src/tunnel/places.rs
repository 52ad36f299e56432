//! Who may hold how many connections to a local socket of the site: the control socket, and that of `wg(8)`.
//!
//! Counts by the user at the other end alone, so that nobody can take the places of root, of the site's own user, or
//! of another user. Never waits: who finds no place is told so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::Uid;

/// Limits the connections of one user at once: commands that people and a few monitoring checks run.
pub const CONNECTIONS_OF_USER_MAX: usize = 16;

/// Limits the connections at once of all who may only read; root and the site's own user have their places beside it.
const CONNECTIONS_OF_READERS_MAX: usize = 64;

/// Tells who may change the site: root, and the user that it runs as, who could anyway.
pub fn may_change(uid: Uid) -> bool {
    uid.is_root() || uid == Uid::effective()
}

/// Counts the connections that each user holds; who holds none is not in it.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<Uid, usize>>);

/// Is a user's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    uid: Uid,
}

impl Places {
    /// Gives the user a place, if one is free for it.
    pub fn take(self: &Arc<Self>, uid: Uid) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_readers: usize = held.iter().filter(|(uid, _)| !may_change(**uid)).map(|(_, count)| count).sum();
        let own = held.get(&uid).copied().unwrap_or(0);
        if own >= CONNECTIONS_OF_USER_MAX || (!may_change(uid) && of_readers >= CONNECTIONS_OF_READERS_MAX) {
            return None;
        }
        held.insert(uid, own + 1);
        Some(Place { places: Arc::clone(self), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = held.get(&self.uid).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            held.remove(&self.uid);
        } else {
            held.insert(self.uid, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes every place that a user can have.
    fn take_all(places: &Arc<Places>, uid: u32) -> Vec<Place> {
        std::iter::from_fn(|| places.take(Uid::from_raw(uid))).take(1000).collect()
    }

    #[test]
    fn a_user_has_its_own_places_and_gets_them_back() {
        let places = Arc::new(Places::default());
        let mut of_one = take_all(&places, 4001);
        assert_eq!(of_one.len(), CONNECTIONS_OF_USER_MAX);
        assert_eq!(take_all(&places, 4002).len(), CONNECTIONS_OF_USER_MAX, "another's are its own");
        of_one.pop();
        assert!(places.take(Uid::from_raw(4001)).is_some());
        drop(of_one);
        assert!(places.0.lock().expect("no panic").is_empty(), "nobody is remembered who holds none");
    }

    #[test]
    fn readers_together_leave_root_and_the_own_user_their_places() {
        let places = Arc::new(Places::default());
        let of_readers: Vec<_> = (4001..4101).flat_map(|uid| take_all(&places, uid)).collect();
        assert_eq!(of_readers.len(), CONNECTIONS_OF_READERS_MAX);
        assert!(places.take(Uid::from_raw(4999)).is_none());
        let of_root = take_all(&places, 0);
        assert_eq!(of_root.len(), CONNECTIONS_OF_USER_MAX);
        drop(of_readers);
        assert_eq!(take_all(&places, 4999).len(), CONNECTIONS_OF_USER_MAX, "root's do not count against readers");
    }
}
