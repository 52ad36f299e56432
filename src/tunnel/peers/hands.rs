//! Prefixes that change hands: which do, and that they are nobody's for a moment.
//!
//! It changes no entry of a peer.

use std::sync::Arc;

use ipnet::IpNet;

use super::{PeerEntry, PeerSettings, Peers};

impl Peers {
    /// Lists the prefixes of either that lead to another peer than before.
    pub(in crate::tunnel) fn changing_hands<'a>(
        &self,
        next: &Self,
        settings: impl Iterator<Item = &'a PeerSettings>,
    ) -> Vec<IpNet> {
        let key = |entry: Option<&Option<Arc<PeerEntry>>>| entry.and_then(|entry| Some(entry.as_ref()?.key));
        let changes = |prefix: &IpNet| {
            let (was, is) = (key(self.allowed_ips.holder(*prefix)), key(next.allowed_ips.holder(*prefix)));
            was.is_some() && is.is_some() && was != is
        };
        settings.flat_map(|set| &set.peer.allowed_ips).filter(|prefix| changes(prefix)).copied().collect()
    }

    /// Takes prefixes away from everybody.
    pub(in crate::tunnel) fn with_nobody_at(&self, prefixes: &[IpNet]) -> Self {
        let mut peers = self.clone();
        for prefix in prefixes {
            peers.allowed_ips.insert(*prefix, None);
        }
        peers
    }
}
