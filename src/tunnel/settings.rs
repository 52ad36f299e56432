//! What a tunnel is set to: what the configuration says, and what `wg` has set since. Pure.
//!
//! It changes nothing by itself; `change` takes a running tunnel to it.

use std::collections::HashSet;
use std::sync::Arc;

use super::filter::PeerRules;
use super::interface;
use crate::config::{self, Config, Name, PublicKey, SecretKey, Target};

/// Is all that can be changed of a running tunnel but its interface.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Is this site's secret; `wg` can take it away.
    pub private_key: Option<SecretKey>,
    /// Is the one before, while it counts.
    pub old_private_key: Option<SecretKey>,
    /// Is the UDP port; 0 lets the kernel choose.
    pub listen_port: u16,
    /// Marks the datagrams outside the tunnel; 0 sets no mark.
    pub fwmark: u32,
    /// Lists the peers; no two have one key, or one prefix.
    pub peers: Vec<PeerSettings>,
}

/// Is what one peer is set to.
#[derive(Debug, Clone)]
pub(super) struct PeerSettings {
    /// Is the peer as the configuration has it, changed by what `wg` set.
    pub peer: config::Peer,
    /// Says what it may do here: the configuration's word alone.
    pub rules: Arc<PeerRules>,
    /// Tells that `wg` set something of it.
    pub set_by_wg: bool,
}

/// Says what `wg` has set since the configuration was read, beside what each peer says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetByWg {
    /// Lists the settings of this site's end: `private_key`, `listen_port`, `fwmark`.
    pub tunnel: Vec<&'static str>,
    /// Names the configured peers that were removed.
    pub removed_peers: Vec<Name>,
}

impl Settings {
    /// Takes from the configuration what a tunnel is set to.
    pub(super) fn of(config: &Config) -> Self {
        let peers = config.peers.iter().map(|peer| PeerSettings {
            peer: peer.clone(),
            rules: Arc::new(rules(config, peer)),
            set_by_wg: false,
        });
        Self {
            private_key: Some(config.tunnel.private_key.clone()),
            old_private_key: config.tunnel.old_private_key.counting().cloned(),
            listen_port: config.tunnel.listen_port,
            fwmark: interface::mark(config),
            peers: peers.collect(),
        }
    }

    /// Finds a peer by its key.
    pub(super) fn peer(&self, key: &PublicKey) -> Option<&PeerSettings> {
        self.peers.iter().find(|set| set.peer.public_key == *key)
    }

    /// Says in what these settings differ from those of the configuration.
    pub(super) fn set_by_wg(&self, configured: &Self) -> SetByWg {
        let differs = [
            ("private_key", !same_key(self.private_key.as_ref(), configured.private_key.as_ref())),
            ("listen_port", self.listen_port != configured.listen_port),
            ("fwmark", self.fwmark != configured.fwmark),
        ];
        let kept: HashSet<PublicKey> = self.peers.iter().map(|set| set.peer.public_key).collect();
        let removed = configured.peers.iter().filter(|set| !kept.contains(&set.peer.public_key));
        SetByWg {
            tunnel: differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect(),
            removed_peers: removed.map(|set| set.peer.name.clone()).collect(),
        }
    }
}

impl PeerSettings {
    /// Tells whether a handshake with the one is none with the other.
    pub(super) fn has_another_secret(&self, other: &Self) -> bool {
        !same_key(self.peer.preshared_key.as_ref(), other.peer.preshared_key.as_ref())
    }
}

/// Tells whether two keys are one, or both absent.
pub(super) fn same_key(one: Option<&SecretKey>, other: Option<&SecretKey>) -> bool {
    one.map(SecretKey::expose) == other.map(SecretKey::expose)
}

/// Says what a peer may do: reach the link port, and the plain ports of services that it is allowed.
fn rules(config: &Config, peer: &config::Peer) -> PeerRules {
    let offered = config.services.iter().filter(|service| service.allow_peers.contains(&peer.name));
    let mut ports: HashSet<u16> = offered.filter_map(|service| service.port).collect();
    let by_name =
        config.forwards.iter().any(|forward| forward.peer == peer.name && matches!(forward.target, Target::Service(_)));
    if by_name || config.services.iter().any(|service| service.allow_peers.contains(&peer.name)) {
        ports.insert(config.tunnel.link_port);
    }
    PeerRules { ports, routed: peer.routed, host_access: peer.host_access }
}
