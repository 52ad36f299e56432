//! Which keys have taken the place of others: of peers, as they announced in a session of their own, and who knows this
//! site's newest one. Pure; the file `keys.json` in `state_dir`.
//!
//! It never goes back: a key that was replaced, or whose place another one was announced for, does not come again by an
//! announcement. The configuration's word begins a line of keys, so that whoever writes another key there ends it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, Name, PublicKey, SecretKey};

/// Names the file in `state_dir`.
const FILE_NAME: &str = "keys.json";
/// Limits what is read of the file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Limits the keys that are remembered as replaced: hundreds of rotations of every peer of a large site. The oldest go.
const STEPS_MAX: usize = 4096;
/// Limits the keys that a peer may announce and not have: no honest site announces a second one before the first is proven.
const UNPROVEN_MAX: usize = 8;

/// Says what is with this site's key of before.
#[derive(Debug, Clone, Default)]
pub enum OldKey {
    /// There is none.
    #[default]
    None,
    /// It counts for the peers that do not know the newer one.
    Counts(SecretKey),
    /// It counts no more: all peers know the newer one. The file names it still.
    Retired,
}

impl OldKey {
    /// Returns the key, where it counts.
    pub fn counting(&self) -> Option<&SecretKey> {
        match self {
            Self::Counts(key) => Some(key),
            Self::None | Self::Retired => None,
        }
    }
}

/// Says that one key of a peer takes the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    from: PublicKey,
    to: PublicKey,
    /// Tells that a session was had with the newer one.
    is_proven: bool,
}

/// Says who knows the newest key of this site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Own {
    key: PublicKey,
    known_to: Vec<PublicKey>,
    is_alone: bool,
}

/// Is what is known of keys beyond the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    #[serde(default)]
    steps: Vec<Step>,
    #[serde(default)]
    own: Option<Own>,
}

/// Says what came of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// It is new, and is to be tried.
    Taken,
    /// It is known.
    Known,
    /// It is refused.
    Refused(Refused),
}

/// Says why an announced key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Somebody else has it.
    #[error("peer {0} has that key")]
    OfPeer(Name),
    /// This site has it.
    #[error("it is this site's own")]
    Own,
    /// Anybody could pass for its owner.
    #[error("it is a key that anybody could pass for")]
    LowOrder,
    /// It was replaced.
    #[error("it is an older one, which was replaced since")]
    Stale,
    /// Too many came, and none was proven.
    #[error("the peer announces keys that it does not have")]
    TooMany,
}

impl Succession {
    /// Returns the path of the file.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE_NAME)
    }

    /// Reads the content of the file.
    ///
    /// # Errors
    /// It is none.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Writes the content of the file.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Gives a configuration the keys that count now. A key that somebody else has by the file is nobody's next.
    pub fn apply(&self, config: &mut Config) {
        let tunnel = &mut config.tunnel;
        let newest = tunnel.private_key.public_key();
        let own = self.own.as_ref().filter(|own| own.key == newest);
        if own.is_some_and(|own| own.is_alone) && tunnel.old_private_key.counting().is_some() {
            tunnel.old_private_key = OldKey::Retired;
        }
        let ours = [Some(newest), tunnel.old_private_key.counting().map(SecretKey::public_key)];
        for at in 0..config.peers.len() {
            let Some(peer) = config.peers.get(at) else { return };
            let is_free = |key: &PublicKey| {
                let mut others = config.peers.iter().filter(|other| other.name != peer.name);
                !ours.contains(&Some(*key))
                    && !others.any(|other| other.public_key == *key || other.next_key == Some(*key))
            };
            let key = Some(self.newest_of(peer.public_key)).filter(is_free).unwrap_or(peer.public_key);
            let next = self.next_of(key).filter(is_free);
            let first = Some(self.first_of(key)).filter(is_free).unwrap_or(key);
            let knows = own.is_some_and(|own| own.known_to.contains(&key));
            if let Some(peer) = config.peers.get_mut(at) {
                (peer.public_key, peer.next_key, peer.knows_new_key) = (key, next, knows);
                peer.first_key = first;
            }
        }
    }

    /// Follows a line of keys as far as it is proven.
    fn newest_of(&self, mut key: PublicKey) -> PublicKey {
        for _ in 0..self.steps.len() {
            match self.steps.iter().rev().find(|step| step.from == key && step.is_proven) {
                Some(step) => key = step.to,
                None => break,
            }
        }
        key
    }

    /// Follows a line of keys back to where it begins.
    fn first_of(&self, mut key: PublicKey) -> PublicKey {
        for _ in 0..self.steps.len() {
            match self.steps.iter().find(|step| step.to == key && step.is_proven) {
                Some(step) => key = step.from,
                None => break,
            }
        }
        key
    }

    fn next_of(&self, key: PublicKey) -> Option<PublicKey> {
        self.steps.iter().rev().find(|step| step.from == key && !step.is_proven).map(|step| step.to)
    }

    /// Judges a key that a peer announces, in a configuration whose keys are those that count now, and remembers it.
    pub fn offer(&mut self, name: &Name, key: PublicKey, config: &Config) -> Offer {
        let Some(peer) = config.peer(name) else { return Offer::Known };
        if key == peer.public_key || peer.next_key == Some(key) {
            return Offer::Known;
        }
        let tunnel = &config.tunnel;
        let ours = [Some(&tunnel.private_key), tunnel.old_private_key.counting()];
        if ours.into_iter().flatten().any(|own| own.public_key() == key) {
            return Offer::Refused(Refused::Own);
        }
        let has = |other: &&super::Peer| other.public_key == key || other.next_key == Some(key);
        if let Some(other) = config.peers.iter().filter(|other| other.name != *name).find(has) {
            return Offer::Refused(Refused::OfPeer(other.name.clone()));
        }
        if key.is_low_order() {
            return Offer::Refused(Refused::LowOrder);
        }
        if self.steps.iter().any(|step| step.from == key) {
            return Offer::Refused(Refused::Stale);
        }
        let leads_on = |step: &&Step| step.from == peer.public_key || Some(step.to) == peer.next_key;
        if self.steps.iter().filter(leads_on).filter(|step| !step.is_proven).count() >= UNPROVEN_MAX {
            return Offer::Refused(Refused::TooMany);
        }
        // What was announced before and never proven leads here too, and does not come back.
        for step in self.steps.iter_mut().filter(|step| Some(step.to) == peer.next_key && !step.is_proven) {
            step.to = key;
        }
        for from in [Some(peer.public_key).filter(|_| peer.next_key.is_none()), peer.next_key].into_iter().flatten() {
            self.steps.push(Step { from, to: key, is_proven: false });
        }
        let excess = self.steps.len().saturating_sub(STEPS_MAX);
        self.steps.drain(..excess);
        Offer::Taken
    }

    /// Notes that a session was had with a key that was announced.
    pub fn prove(&mut self, key: PublicKey) {
        let known_to = self.own.iter_mut().flat_map(|own| own.known_to.iter_mut());
        let froms: Vec<PublicKey> = self.steps.iter().filter(|step| step.to == key).map(|step| step.from).collect();
        known_to.filter(|known| froms.contains(known)).for_each(|known| *known = key);
        self.steps.iter_mut().filter(|step| step.to == key).for_each(|step| step.is_proven = true);
    }

    /// Notes that a peer knows this site's newest key.
    pub fn note_known(&mut self, newest: PublicKey, peer: PublicKey) {
        let own = self.own.take().filter(|own| own.key == newest);
        let mut own = own.unwrap_or(Own { key: newest, known_to: Vec::new(), is_alone: false });
        if !own.known_to.contains(&peer) {
            own.known_to.push(peer);
        }
        self.own = Some(own);
    }

    /// Notes that every peer does: the key before counts no more.
    pub fn retire(&mut self, newest: PublicKey) {
        let own = self.own.take().filter(|own| own.key == newest);
        let own = own.unwrap_or(Own { key: newest, known_to: Vec::new(), is_alone: true });
        self.own = Some(Own { is_alone: true, ..own });
    }
}

#[cfg(test)]
mod tests;
