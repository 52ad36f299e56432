//! Where the connections of one peer come in, and what the account is told of its links.
//!
//! Never lets one peer take another's places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::{Inbound, printable};
use crate::audit::{Account, Clerk, Event, Record, Subject};
use crate::config::Name;
use crate::link::wire::{Cause, Hello};

/// Connections of one peer that have not greeted yet, or wait for an older one of their link to end.
pub(super) const GREETING_OF_PEER_MAX: usize = 32;
/// A peer that has more is named in the log this often.
const CROWD_EVERY: Duration = Duration::from_secs(60);
/// A link that is refused is in the log this often, as long as its site tries: every one to two seconds.
const REFUSAL_EVERY: Duration = Duration::from_secs(3600);
/// Counts the links of a peer that are told of so, by the names that it claims; more are not told of.
const REFUSALS_MAX: usize = 64;

/// Is where the connections of one peer come in: no peer takes another's places.
pub(super) struct Door {
    pub(super) places: Arc<Semaphore>,
    /// Lets one link of the peer take over at a time: two at once would each make the link's streams anew.
    pub(super) take_over: tokio::sync::Mutex<()>,
    crowd_told: Mutex<Option<Instant>>,
    /// Is when the log was told that a link was refused: by the names of forward and service, and the cause.
    refusals_told: Mutex<HashMap<(String, String, Cause), Instant>>,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(GREETING_OF_PEER_MAX)),
            take_over: tokio::sync::Mutex::default(),
            crowd_told: Mutex::default(),
            refusals_told: Mutex::default(),
        }
    }
}

impl Door {
    /// Has the log name the peer that crowds here, once a while.
    pub(super) fn tell_of_crowd(&self, peer: &Name) {
        let mut told = self.crowd_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= CROWD_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(%peer, "closed a connection to the link port: the peer opens more than it greets on");
        }
    }
}

impl Door {
    /// Has the log say that a link of the peer is refused, once a while for each: the peer tries again for ever.
    pub(super) fn tell_of_refusal(&self, peer: &Name, hello: &Hello, cause: Cause) {
        let (forward, service) = (printable(&hello.forward), printable(&hello.service));
        if self.is_to_be_told((forward.clone(), service.clone(), cause), Instant::now()) {
            tracing::warn!(%peer, %forward, %service, %cause, "refused a link");
        }
    }

    fn is_to_be_told(&self, what: (String, String, Cause), now: Instant) -> bool {
        let mut told = self.refusals_told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.saturating_duration_since(*at) < REFUSAL_EVERY);
        if told.contains_key(&what) || told.len() >= REFUSALS_MAX {
            return false;
        }
        told.insert(what, now);
        true
    }
}

impl Inbound {
    /// Says where it is recorded when links come up and go down.
    pub fn set_account(&self, account: Account) {
        self.account.get_or_init(|| account);
    }

    /// Returns who knows of the audit logs of this site and a peer.
    pub(super) fn clerk_for(&self, peer: &Name) -> Option<Clerk> {
        let subject = Subject { peer: Some(peer.as_str().into()), ..Subject::default() };
        self.account.get().map(|account| account.clerk(subject))
    }

    /// Records that a link came up or went down.
    pub(super) fn note(&self, event: Event, (peer, forward, service): (&Name, &str, &Name), why: &str) {
        let Some(account) = self.account.get() else { return };
        let (peer, forward, service) = (peer.as_str().into(), forward.into(), service.as_str().into());
        let subject = Subject { forward: Some(forward), service: Some(service), peer: Some(peer) };
        account.record(Record { detail: why.to_owned(), ..account.clerk(subject).now(event) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_link_is_told_of_once_an_hour_and_a_peer_that_makes_up_names_does_not_fill_the_log() {
        let (door, now) = (Door::default(), Instant::now());
        let link = |name: &str, cause| (name.to_owned(), "orders".to_owned(), cause);
        assert!(door.is_to_be_told(link("a", Cause::ServiceUnknown), now));
        assert!(!door.is_to_be_told(link("a", Cause::ServiceUnknown), now + REFUSAL_EVERY / 2));
        assert!(
            door.is_to_be_told(link("a", Cause::ServiceNotAllowed), now + REFUSAL_EVERY / 2),
            "another cause is news"
        );
        assert!(door.is_to_be_told(link("a", Cause::ServiceUnknown), now + REFUSAL_EVERY));
        let told =
            (0..500).filter(|n| door.is_to_be_told(link(&n.to_string(), Cause::ServiceUnknown), now + REFUSAL_EVERY));
        assert_eq!(told.count(), REFUSALS_MAX - 2);
    }
}
