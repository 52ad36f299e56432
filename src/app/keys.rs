//! What the account, health and the status are told of keys that change.
//!
//! It changes no key: the tunnel does, by what its sessions show.

use std::collections::BTreeMap;

use super::Parts;
use crate::config::OldKey;
use crate::health::facts::RotationFacts;
use crate::tunnel::peers::Rotation;

impl Parts {
    /// Has the account know each key that counts from now on. Never returns.
    pub(super) async fn look_at_keys(&self) {
        let mut changed = self.tunnel.keys_changed();
        while changed.changed().await.is_ok() {
            let peers = self.tunnel.peers().into_iter().filter(|peer| !peer.set_by_wg);
            let peers = peers.map(|peer| (peer.name.to_string(), peer.key.to_string()));
            let own = (String::new(), self.tunnel.own_key().0.to_string());
            self.account.keys(peers.chain([own]).collect::<BTreeMap<_, _>>());
        }
    }

    /// Tells how far a change of this site's key is; none where the configuration names no older one.
    pub(super) fn rotation_facts(&self) -> Option<RotationFacts> {
        let counts = self.tunnel.own_key().1;
        if !counts && matches!(self.now.get().config.tunnel.old_private_key, OldKey::None) {
            return None;
        }
        let peers = self.tunnel.peers();
        let named = |how: Rotation| {
            let found = peers.iter().filter(|peer| counts && peer.rotation == how);
            found.map(|peer| peer.name.to_string()).collect()
        };
        let moved = peers.iter().filter(|peer| !counts || peer.rotation == Rotation::Done).count();
        Some(RotationFacts { is_done: !counts, moved, told: named(Rotation::Told), not_told: named(Rotation::NotTold) })
    }
}
