//! Where the connections of one peer come in, and what the account is told of its links.
//!
//! Never lets one peer take another's places.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::super::echo::Voice;
use super::Inbound;
use crate::audit::{Account, Event, Record, Subject};
use crate::config::Name;

/// Connections of one peer that have not greeted yet, or wait for an older one of their link to end.
pub(super) const GREETING_OF_PEER_MAX: usize = 32;
/// A peer that has more is named in the log this often.
const CROWD_EVERY: Duration = Duration::from_secs(60);

/// Is where the connections of one peer come in: no peer takes another's places.
pub(super) struct Door {
    pub(super) places: Arc<Semaphore>,
    /// Lets one link of the peer take over at a time: two at once would each make the link's streams anew.
    pub(super) take_over: tokio::sync::Mutex<()>,
    crowd_told: Mutex<Option<Instant>>,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(GREETING_OF_PEER_MAX)),
            take_over: tokio::sync::Mutex::default(),
            crowd_told: Mutex::default(),
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

impl Inbound {
    /// Says where it is recorded when links come up and go down.
    pub fn set_account(&self, account: Account) {
        self.account.get_or_init(|| account);
    }

    /// Returns who knows what this site and a peer tell each other.
    pub(super) fn voice_for(&self, peer: &Name) -> Voice {
        let subject = Subject { peer: Some(peer.as_str().into()), ..Subject::default() };
        let clerk = self.account.get().map(|account| account.clerk(subject));
        Voice { clerk, keys: self.gate.keys.clone().map(|news| (news, peer.clone())) }
    }

    /// Records that a link came up or went down.
    pub(super) fn note(&self, event: Event, (peer, forward, service): (&Name, &str, &Name), why: &str) {
        let Some(account) = self.account.get() else { return };
        let (peer, forward, service) = (peer.as_str().into(), forward.into(), service.as_str().into());
        let subject = Subject { forward: Some(forward), service: Some(service), peer: Some(peer) };
        account.record(Record { detail: why.to_owned(), ..account.clerk(subject).now(event) });
    }
}
