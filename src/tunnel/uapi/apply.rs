//! Other settings, out of those that are and what `wg` asks for. Pure: either all of it, or nothing.
//!
//! It never gives a peer a port, a route or this host: what a peer may do here is the configuration's word alone.
//! Semantics: wg(8), and the kernel's where that is silent.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use ipnet::IpNet;

use super::Refusal;
use super::request::{AllowedIp, Set, SetPeer};
use crate::config::{self, Name, PublicKey};
use crate::tunnel::filter::PeerRules;
use crate::tunnel::settings::{PeerSettings, Settings, same_key};

/// Peers at once: ten times a large hub; each takes some KiB.
const PEERS_MAX: usize = 4096;
/// Prefixes of all peers together: sixteen a peer.
const ALLOWED_IPS_MAX: usize = 65_536;
/// Bytes of a key that name a peer: hardly two keys of one site begin alike; and as many as a name holds, where they do.
const NAME_KEY_BYTES: usize = 8;
const NAME_KEY_BYTES_MAX: usize = 30;

/// Is what comes of a change.
#[derive(Debug)]
pub(in crate::tunnel) struct Applied {
    pub settings: Settings,
    /// Lists the peers whose endpoint was said, be it the same again.
    pub pointed: HashSet<PublicKey>,
    /// Lists the peers that the request made anew, be it in the place of one with the same key.
    pub begun: HashSet<PublicKey>,
}

/// Applies a change to what is set; `configured` is what the configuration says.
///
/// # Errors
/// There would be more than may be.
pub(in crate::tunnel) fn apply(now: &Settings, configured: &Settings, set: Set) -> Result<Applied, Refusal> {
    let mut draft = Draft::of(if set.replace_peers { &[] } else { &now.peers });
    let private_key = set.private_key.unwrap_or_else(|| now.private_key.clone());
    let own = private_key.as_ref().map(config::SecretKey::public_key);
    for peer in set.peers {
        // As in the kernel: a list for all sites may be given to each.
        if Some(peer.public_key) != own {
            draft.set(peer, configured);
        }
    }
    if let Some(own) = own {
        draft.remove(&own);
    }
    let is_same_key = same_key(private_key.as_ref(), now.private_key.as_ref());
    let old_private_key = now.old_private_key.clone().filter(|_| is_same_key);
    let Draft { peers, owners, pointed, begun, .. } = draft;
    let mut peers: Vec<PeerSettings> = peers.into_iter().flatten().collect();
    if peers.len() > PEERS_MAX.max(now.peers.len()) {
        return Err(Refusal::TooMany { what: "peers" });
    }
    if owners.len() > ALLOWED_IPS_MAX {
        return Err(Refusal::TooMany { what: "allowed IPs" });
    }
    for set in &mut peers {
        set.set_by_wg = configured.peer(&set.peer.public_key).is_none_or(|configured| !is_same(set, configured));
    }
    let settings = Settings {
        private_key,
        old_private_key,
        listen_port: set.listen_port.unwrap_or(now.listen_port),
        fwmark: set.fwmark.unwrap_or(now.fwmark),
        peers,
    };
    Ok(Applied { settings, pointed, begun })
}

/// Is the list of peers while it is changed.
struct Draft {
    /// Keeps the places of those that are gone.
    peers: Vec<Option<PeerSettings>>,
    places: HashMap<PublicKey, usize>,
    owners: HashMap<IpNet, PublicKey>,
    pointed: HashSet<PublicKey>,
    begun: HashSet<PublicKey>,
}

impl Draft {
    fn of(peers: &[PeerSettings]) -> Self {
        let prefixes = |set: &PeerSettings| {
            let key = set.peer.public_key;
            set.peer.allowed_ips.clone().into_iter().map(move |prefix| (prefix, key))
        };
        Self {
            places: peers.iter().enumerate().map(|(place, set)| (set.peer.public_key, place)).collect(),
            owners: peers.iter().flat_map(prefixes).collect(),
            peers: peers.iter().cloned().map(Some).collect(),
            pointed: HashSet::new(),
            begun: HashSet::new(),
        }
    }

    fn set(&mut self, set: SetPeer, configured: &Settings) {
        let key = set.public_key;
        if set.remove {
            return self.remove(&key);
        }
        if !self.places.contains_key(&key) {
            if set.update_only {
                return;
            }
            let peers = self.peers.iter().flatten().chain(&configured.peers);
            let is_taken = |name: &Name| peers.clone().any(|other| other.peer.name == *name);
            let Some(peer) = begin(key, configured, is_taken) else { return };
            self.places.insert(key, self.peers.len());
            self.begun.insert(key);
            self.pointed.remove(&key);
            self.peers.push(Some(peer));
        }
        if set.replace_allowed_ips {
            self.take_all(&key);
        }
        for allowed in set.allowed_ips {
            match allowed {
                AllowedIp::Add(prefix) => self.give(prefix, key),
                AllowedIp::Remove(prefix) => self.take(prefix, &key),
            }
        }
        let Some(peer) = self.peer(&key) else { return };
        if let Some(preshared_key) = set.preshared_key {
            peer.preshared_key = preshared_key;
        }
        if let Some(every) = set.persistent_keepalive {
            peer.persistent_keepalive = every;
        }
        if let Some(endpoint) = set.endpoint {
            peer.endpoint = Some(endpoint);
            self.pointed.insert(key);
        }
    }

    fn peer(&mut self, key: &PublicKey) -> Option<&mut config::Peer> {
        let place = *self.places.get(key)?;
        self.peers.get_mut(place)?.as_mut().map(|set| &mut set.peer)
    }

    fn remove(&mut self, key: &PublicKey) {
        self.take_all(key);
        if let Some(place) = self.places.remove(key).and_then(|place| self.peers.get_mut(place)) {
            *place = None;
        }
    }

    fn take_all(&mut self, key: &PublicKey) {
        let prefixes = self.peer(key).map(|peer| std::mem::take(&mut peer.allowed_ips)).unwrap_or_default();
        for prefix in prefixes {
            self.owners.remove(&prefix);
        }
    }

    fn give(&mut self, prefix: IpNet, key: PublicKey) {
        match self.owners.insert(prefix, key) {
            Some(before) if before == key => return,
            Some(before) => {
                if let Some(peer) = self.peer(&before) {
                    peer.allowed_ips.retain(|of| *of != prefix);
                }
            }
            None => {}
        }
        if let Some(peer) = self.peer(&key) {
            peer.allowed_ips.push(prefix);
        }
    }

    fn take(&mut self, prefix: IpNet, key: &PublicKey) {
        if self.owners.get(&prefix) == Some(key) {
            self.owners.remove(&prefix);
            if let Some(peer) = self.peer(key) {
                peer.allowed_ips.retain(|of| *of != prefix);
            }
        }
    }
}

/// Makes a peer that has nothing yet but its key; one of the configuration's keeps its name, and what it may do.
fn begin(key: PublicKey, configured: &Settings, is_taken: impl Fn(&Name) -> bool) -> Option<PeerSettings> {
    if let Some(known) = configured.peer(&key) {
        let peer = config::Peer {
            preshared_key: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            ..known.peer.clone()
        };
        return Some(PeerSettings { peer, rules: Arc::clone(&known.rules), set_by_wg: true });
    }
    let peer = config::Peer {
        name: name(&key, is_taken)?,
        public_key: key,
        first_key: key,
        next_key: None,
        knows_new_key: false,
        preshared_key: None,
        endpoint: None,
        allowed_ips: Vec::new(),
        address: None,
        persistent_keepalive: None,
        routed: false,
        host_access: false,
    };
    Some(PeerSettings { peer, rules: Arc::new(PeerRules::default()), set_by_wg: true })
}

/// Names a peer that the configuration does not know after its key: `wg-` and 16 hexadecimal digits, more where another
/// peer has that name; `None` where even 60 do not tell them apart, which no two keys that somebody holds do.
fn name(key: &PublicKey, is_taken: impl Fn(&Name) -> bool) -> Option<Name> {
    let mut text = String::from("wg-");
    for (count, byte) in (1..).zip(key.0.iter().take(NAME_KEY_BYTES_MAX)) {
        write!(text, "{byte:02x}").ok();
        let name = Name::new(&text)?;
        if count >= NAME_KEY_BYTES && !is_taken(&name) {
            return Some(name);
        }
    }
    None
}

/// Tells whether a peer is as the configuration has it.
fn is_same(set: &PeerSettings, configured: &PeerSettings) -> bool {
    let (peer, other) = (&set.peer, &configured.peer);
    let prefixes = |peer: &config::Peer| peer.allowed_ips.iter().copied().collect::<HashSet<IpNet>>();
    !set.has_another_secret(configured)
        && peer.endpoint == other.endpoint
        && peer.persistent_keepalive == other.persistent_keepalive
        && prefixes(peer) == prefixes(other)
}

#[cfg(test)]
mod tests;
