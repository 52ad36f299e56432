//! Keys that take the place of others while the tunnel runs: takes up what a peer announces, sees what sessions show, and
//! keeps both on disk.
//!
//! A key that is announced is written down before the first handshake with it: from then on the peer may forget its older
//! one. What is judged is in `config::succession`; what a session is had with, in `peer`.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::change::{Control, State, take_up};
use super::{Shared, TunnelError};
use crate::config::succession::{FILE_BYTES_MAX, Offer, Refused, Succession};
use crate::config::{Name, OldKey, PublicKey};

/// A key that was refused, or could not be written down, is looked at again after so long.
const SAME_KEY_EVERY: Duration = Duration::from_secs(60);
/// Another one after so long: a peer rotates by hand, and each is a write to the disk.
const OTHER_KEY_EVERY: Duration = Duration::from_secs(5);

/// Reads what an earlier run knew; a file that is missing or damaged gives nothing, and the latter is said.
pub(super) fn load(state_dir: &Path) -> Succession {
    let path = Succession::path(state_dir);
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Succession::default(),
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "what is known of newer keys cannot be read");
            Succession::default()
        }
        Ok(_) => Succession::from_json(&bytes).unwrap_or_else(|error| {
            tracing::error!(file = %path.display(), %error, "what is known of newer keys is damaged and ignored");
            Succession::default()
        }),
    }
}

/// Replaces the file whole, so that a crash leaves the old or the new one.
fn store(state_dir: &Path, keys: &Succession) -> Result<(), TunnelError> {
    let path = Succession::path(state_dir);
    let fresh = path.with_extension("new");
    let write = || -> io::Result<()> {
        std::fs::write(&fresh, keys.to_json())?;
        std::fs::File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        std::fs::File::open(state_dir)?.sync_all()
    };
    write().map_err(|source| TunnelError::Keys { path: path.clone(), source })
}

async fn stored(state: &State, keys: &Succession) -> bool {
    let (state_dir, keys) = (state.config.state_dir.clone(), keys.clone());
    // The disk may be slow: messages must not wait for it.
    match tokio::task::spawn_blocking(move || store(&state_dir, &keys)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "a newer key is not taken up: a restart would not know it");
            false
        }
        Err(_) => false,
    }
}

/// Starts the task that sees what sessions show.
pub(super) fn spawn_keeper(shared: &Arc<Shared>, control: &Arc<Control>) -> AbortHandle {
    let (shared, control) = (Arc::clone(shared), Arc::clone(control));
    tokio::spawn(async move {
        loop {
            control.settle().await;
            shared.peers().proven().await;
        }
    })
    .abort_handle()
}

/// Is what links tell each other of new keys by.
#[derive(Clone)]
pub struct KeyNews {
    shared: Arc<Shared>,
    control: Arc<Control>,
    /// Holds what each peer announced last and was not known, and when that was looked at.
    heard: Arc<Mutex<HashMap<Name, (PublicKey, Instant)>>>,
}

impl fmt::Debug for KeyNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyNews")
    }
}

impl KeyNews {
    pub(super) fn new(shared: Arc<Shared>, control: Arc<Control>) -> Self {
        Self { shared, control, heard: Arc::default() }
    }

    /// Returns what a peer is to be told: this site's newest key, where it may know the older one only.
    pub fn announcement(&self, peer: &Name) -> Option<PublicKey> {
        self.shared.announcement(peer)
    }

    /// Takes in the key that a peer tells in a connection of its own inside the tunnel.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn hear(&self, peer: &Name, key: PublicKey) {
        if self.shared.knows_key(peer, key) || !self.is_due(peer, key) {
            return;
        }
        let (control, peer) = (Arc::clone(&self.control), peer.clone());
        tokio::spawn(async move {
            if let Err(why) = control.offer(&peer, key).await {
                tracing::warn!(%peer, public_key = %key, %why, "refused a key that the peer announces as its new one");
            }
        });
    }

    /// Tells whether to look at it: the same key once a while, another one not at once.
    fn is_due(&self, peer: &Name, key: PublicKey) -> bool {
        let now = Instant::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = |(before, _): &(PublicKey, Instant)| if *before == key { SAME_KEY_EVERY } else { OTHER_KEY_EVERY };
        if heard.get(peer).is_some_and(|last| now.duration_since(last.1) < pause(last)) {
            return false;
        }
        heard.insert(peer.clone(), (key, now));
        true
    }
}

impl Shared {
    /// Returns what a peer is to be told: this site's newest key, where it may know the older one only.
    pub(super) fn announcement(&self, peer: &Name) -> Option<PublicKey> {
        let peers = self.peers();
        peers.identity.older_key()?;
        let entry = peers.named(peer).filter(|entry| !entry.settings().peer.knows_new_key)?;
        entry.set_told(true);
        Some(peers.identity.public_key())
    }

    /// Tells whether a peer's key is known already, or its next one.
    pub(super) fn knows_key(&self, peer: &Name, key: PublicKey) -> bool {
        self.peers().named(peer).is_none_or(|entry| {
            let peer = &entry.settings().peer;
            peer.public_key == key || peer.next_key == Some(key)
        })
    }
}

impl Control {
    /// Takes up the key that a peer has announced in a session of its own; from then on it is tried.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) async fn offer(&self, name: &Name, key: PublicKey) -> Result<(), Refused> {
        let mut state = self.state.lock().await;
        let mut keys = state.keys.clone();
        match keys.offer(name, key, &state.config) {
            Offer::Known => return Ok(()),
            Offer::Refused(why) => return Err(why),
            Offer::Taken => {}
        }
        if stored(&state, &keys).await {
            state.keys = keys;
            self.take_up_keys(&mut state).await;
            tracing::info!(peer = %name, public_key = %key, "the peer has announced a new key, which is tried now");
        }
        Ok(())
    }

    /// Takes note of what sessions have shown: a peer's new key, and who knows this site's; the old one is let go of when
    /// all do.
    pub(super) async fn settle(&self) {
        let mut state = self.state.lock().await;
        let peers = self.shared.peers();
        let newest = peers.identity.public_key();
        let is_changing = peers.identity.older_key().is_some();
        let mut keys = state.keys.clone();
        // One that `wg` has taken away comes back with a reload.
        let absent = state.config.peers.iter().filter(|peer| state.settings.peer(&peer.public_key).is_none());
        let mut has_all = absent.into_iter().all(|peer| peer.knows_new_key);
        for set in &state.settings.peers {
            let Some(entry) = peers.by_key(&set.peer.public_key) else { continue };
            let proven = entry.lock().proven();
            let has_next = set.peer.next_key == Some(proven.theirs);
            if has_next {
                keys.prove(proven.theirs);
                tracing::info!(peer = %set.peer.name, public_key = %proven.theirs, "the peer has its new key");
            }
            let knows = set.peer.knows_new_key || proven.own == newest;
            if is_changing && knows && !set.peer.knows_new_key {
                keys.note_known(newest, if has_next { proven.theirs } else { set.peer.public_key });
                tracing::info!(peer = %set.peer.name, public_key = %newest, "the peer knows this site's new key");
            }
            has_all &= knows;
        }
        if is_changing && has_all {
            keys.retire(newest);
        }
        if keys == state.keys || !stored(&state, &keys).await {
            return;
        }
        state.keys = keys;
        self.take_up_keys(&mut state).await;
        if is_changing && has_all {
            tracing::info!("every peer knows this site's new key: the old one counts no more");
        }
    }

    /// Takes the tunnel to the keys that count now; what `wg` has set stays.
    async fn take_up_keys(&self, state: &mut State) {
        let before = state.config.clone();
        state.keys.apply(&mut state.config);
        let mut settings = state.settings.clone();
        for (was, is) in before.peers.iter().zip(&state.config.peers) {
            let Some(set) = settings.peers.iter_mut().find(|set| set.peer.public_key == was.public_key) else {
                continue;
            };
            (set.peer.public_key, set.peer.next_key) = (is.public_key, is.next_key);
            set.peer.knows_new_key = is.knows_new_key;
            if was.public_key != is.public_key
                && let Some(awake) = state.awake.remove(&was.public_key)
            {
                state.awake.insert(is.public_key, awake);
            }
        }
        if let OldKey::Retired = state.config.tunnel.old_private_key {
            settings.old_private_key = None;
        }
        match self.prepare(state, settings) {
            Ok(change) => {
                take_up(&self.shared, state, change).await;
                self.shared.keys_changed.send_modify(|count| *count = count.wrapping_add(1));
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a newer key is not taken up");
            }
        }
    }
}
