//! Takes a running tunnel to other settings: a new configuration's, or what `wg` sets.
//!
//! What does not change keeps its session, its counters and its path; of what changes as much as can be. It never
//! touches a route: a configuration's are `interface`'s, and `wg` has none.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use super::endpoints::{self, Resolvers};
use super::interface::Kept;
use super::keys;
use super::peer::{Before, Identity, Pair};
use super::peers::{Found, Peers};
use super::settings::{PeerSettings, Settings, same_key};
use super::udp::Udp;
use super::{Shared, TunnelError, uapi};
use crate::config::succession::Succession;
use crate::config::{Config, Endpoint, Host, PublicKey, SecretKey};

/// An address that changes hands is nobody's for so long: connections to its old owner close meanwhile, and none of
/// their bytes goes to the new one.
const HAND_OVER: Duration = Duration::from_millis(100);

/// Changes a running tunnel, one change after the other.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    interface: Arc<Kept>,
    pub(super) state: Mutex<State>,
}

/// Is what the tunnel is set to now.
pub(super) struct State {
    pub(super) config: Config,
    pub(super) settings: Settings,
    resolvers: Resolvers,
    pub(super) keys: Succession,
    /// Outlives a peer's entry: who waits for a peer that `wg` removes still hears when it is back.
    pub(super) awake: HashMap<PublicKey, watch::Sender<u64>>,
}

/// Is where a change leads.
pub(super) struct Change {
    settings: Settings,
    /// Is another key of this site's, where the key changes.
    identity: Option<Identity>,
    /// Are other sockets, where the port changes.
    udp: Option<Udp>,
    /// Lists the peers whose endpoint is said anew, be it the same: a peer may have roamed away from it.
    pointed: HashSet<PublicKey>,
    /// Lists the peers that a request of `wg` made anew: they have no endpoint but the one that it says.
    begun: HashSet<PublicKey>,
    /// Holds the endpoints of an earlier run.
    remembered: HashMap<String, SocketAddr>,
    /// Tells that every handshake begins anew, whatever changes.
    renews: bool,
    /// Tells that no session of before counts any more: the configuration has replaced the key that it was had with.
    ends: bool,
}

impl Change {
    /// Leads to these settings, and changes nothing else.
    fn to(settings: Settings) -> Self {
        Self {
            settings,
            identity: None,
            udp: None,
            pointed: HashSet::new(),
            begun: HashSet::new(),
            remembered: HashMap::new(),
            renews: false,
            ends: false,
        }
    }
}

impl Control {
    /// Gives a tunnel that has no peers yet what its configuration says.
    pub(super) async fn begin(shared: Arc<Shared>, interface: Arc<Kept>, config: &Config) -> Self {
        let (keys, mut config) = (keys::load(&config.state_dir), config.clone());
        keys.apply(&mut config);
        let settings = Settings::of(&config);
        let change = Change { remembered: endpoints::load(&config.state_dir), ..Change::to(settings.clone()) };
        let mut state = State {
            config,
            settings: Settings { peers: Vec::new(), ..settings },
            resolvers: Resolvers::new(Arc::clone(&interface)),
            keys,
            awake: HashMap::new(),
        };
        take_up(&shared, &mut state, change).await;
        Self { shared, interface, state: Mutex::new(state) }
    }

    /// Takes the tunnel to a new configuration; what `wg` set is forgotten.
    ///
    /// # Errors
    /// What keeps the tunnel from it; the peers are then as they were.
    pub(super) async fn reload(&self, config: &Config) -> Result<(), TunnelError> {
        let mut state = self.state.lock().await;
        let mut config = config.clone();
        // What has changed since it was read is known here.
        state.keys.apply(&mut config);
        let (was, tunnel) = (&state.config.tunnel, &config.tunnel);
        if was.interface != tunnel.interface {
            return Err(TunnelError::NeedsRestart { what: "tunnel.interface" });
        }
        if was.backend != tunnel.backend {
            return Err(TunnelError::NeedsRestart { what: "tunnel.backend" });
        }
        if was.udp_offload != tunnel.udp_offload {
            return Err(TunnelError::NeedsRestart { what: "tunnel.udp_offload" });
        }
        let settings = Settings::of(&config);
        let kept = [&settings.private_key, &settings.old_private_key];
        let ends = !kept.into_iter().any(|key| same_key(key.as_ref(), state.settings.private_key.as_ref()));
        let mut change = Change { ends, ..self.prepare(&state, settings)? };
        let is_located = |key: &PublicKey| endpoints::is_located(&self.shared, key);
        if let Err(error) = self.interface.change(&config, is_located).await {
            // The rules of a default route are still for the mark that was.
            self.shared.udp().set_mark(state.settings.fwmark).ok();
            return Err(error);
        }
        change.remembered = endpoints::load(&config.state_dir);
        self.shared.mtu_bytes.store(tunnel.mtu, Ordering::Relaxed);
        state.config = config;
        take_up(&self.shared, &mut state, change).await;
        drop(state);
        // Nobody may be left who does not know this site's new key.
        self.settle().await;
        Ok(())
    }

    /// Takes the tunnel to what `wg` asks for, all of it or nothing.
    ///
    /// # Errors
    /// It cannot be done; nothing has changed.
    pub(super) async fn set(&self, set: uapi::Set) -> Result<(), uapi::Refusal> {
        let mut state = self.state.lock().await;
        let applied = uapi::apply(&state.settings, &Settings::of(&state.config), set)?;
        let mut change = self.prepare(&state, applied.settings)?;
        (change.pointed, change.begun) = (applied.pointed, applied.begun);
        take_up(&self.shared, &mut state, change).await;
        tracing::info!(peers = state.settings.peers.len(), "wg(8) has set the tunnel; it lives until the next reload");
        Ok(())
    }

    /// Makes the state of every handshake anew, so that handshakes carry the wall clock's time as it is now; sessions
    /// go on.
    pub(super) async fn renew(&self) {
        let mut state = self.state.lock().await;
        let change = Change { renews: true, ..Change::to(state.settings.clone()) };
        take_up(&self.shared, &mut state, change).await;
    }

    /// Tells `wg` what the tunnel is set to and what passed.
    pub(super) async fn get(&self) -> Zeroizing<String> {
        let state = self.state.lock().await;
        let peers = self.shared.peers();
        let sets = state.settings.peers.iter();
        let facts: Vec<_> = sets.filter_map(|set| Some((set, peers.by_key(&set.peer.public_key)?.facts()))).collect();
        uapi::get(&state.settings, self.shared.udp().port(), &facts)
    }

    /// Makes what may fail: sockets and keys. Where it does nothing has changed.
    pub(super) fn prepare(&self, state: &State, settings: Settings) -> Result<Change, TunnelError> {
        let (shared, was) = (&self.shared, &state.settings);
        let has_key = same_key(was.private_key.as_ref(), settings.private_key.as_ref())
            && same_key(was.old_private_key.as_ref(), settings.old_private_key.as_ref());
        let identity = if has_key { None } else { Some(identity(&settings)?) };
        let udp = shared.udp();
        let has_port = settings.listen_port == was.listen_port || settings.listen_port == udp.port();
        let offload = state.config.tunnel.udp_offload;
        let udp = if has_port {
            if settings.fwmark != was.fwmark {
                udp.set_mark(settings.fwmark).map_err(|source| TunnelError::Mark { source })?;
            }
            None
        } else {
            Some(Udp::bind(settings.listen_port, settings.fwmark, offload)?)
        };
        Ok(Change { identity, udp, ..Change::to(settings) })
    }
}

/// Takes the tunnel to other settings; from here on nothing fails.
pub(super) async fn take_up(shared: &Arc<Shared>, state: &mut State, change: Change) {
    let Change { settings, identity, udp, pointed, begun, remembered, renews, ends } = change;
    let before = shared.peers();
    let new_key = identity.as_ref().is_some_and(|identity| identity.public_key() != before.identity.public_key());
    let identity = identity.map_or_else(|| Arc::clone(&before.identity), Arc::new);
    let addresses = state.config.tunnel.addresses.iter().map(ipnet::IpNet::addr).collect();
    let mut peers = before.successor(identity, addresses, settings.set_by_wg(&Settings::of(&state.config)));
    let mut changes = Vec::new();
    for set in &settings.peers {
        let awake = state.awake.entry(set.peer.public_key).or_default();
        let was = was(&state.settings, set);
        let found = peers.add(&before, set, awake, || shared.random());
        let renew = renews || ends || was.is_some_and(|was| was.has_another_secret(set));
        let pairs = Pair::all(&peers.identity, &set.peer);
        let (index, joining) = seats(&mut peers, &before, &found, &pairs, renew, || shared.random());
        changes.push((set.clone(), found, pairs, index, joining));
    }
    state.awake.retain(|key, awake| peers.by_key(key).is_some() || awake.receiver_count() > 0);
    let changing = before.changing_hands(&peers, state.settings.peers.iter().chain(&settings.peers));
    if !changing.is_empty() {
        shared.install(before.with_nobody_at(&changing));
        tokio::time::sleep(HAND_OVER).await;
    }
    if let Some(udp) = udp {
        shared.install_udp(udp);
    }
    shared.install(peers);
    let peers = shared.peers();
    for (set, found, pairs, index, joining) in changes {
        let was = was(&state.settings, &set);
        let is_pointed = pointed.contains(&set.peer.public_key) || begun.contains(&set.peer.public_key);
        let endpoint = match &found {
            Found::Kept(_) if !is_pointed && was.is_some_and(|was| was.peer.endpoint == set.peer.endpoint) => None,
            // What a name led to before is good until it is looked up: with a default route that may need the session.
            Found::Kept(entry) => set.peer.endpoint.as_ref().and_then(|to| address(to).or_else(|| entry.found_at(to))),
            Found::New(_) => {
                let remembered = || remembered.get(&set.peer.public_key.to_string()).copied();
                set.peer.endpoint.as_ref().and_then(address).or_else(remembered)
            }
        };
        let entry = found.entry();
        if endpoint.is_none() && begun.contains(&set.peer.public_key) {
            entry.forget_endpoint();
        }
        let has_moved = endpoint.is_some() && endpoint != entry.endpoint();
        entry.take_up(&set, endpoint, Instant::now());
        if new_key {
            entry.set_told(false);
        }
        let mut peer = entry.lock();
        if let Some(index) = index {
            let before = match (ends, peer.is_left_behind(&pairs)) {
                (true, _) => Before::Ends,
                (false, true) => Before::IsHeard,
                (false, false) => Before::Serves,
            };
            peer.renew(&peers.identity, &set.peer, index, before);
        }
        peer.follow((&peers.identity, &set.peer), &pairs, joining, Instant::now());
        drop(peer);
        // At the start too: it may have been us who died, and the peer would go on with a session that is no more.
        if has_moved || index.is_some() {
            shared.greet(entry);
        }
    }
    state.resolvers.follow(shared);
    state.settings = settings;
}

/// Finds what a peer was set to: it may have a new key since.
fn was<'a>(before: &'a Settings, set: &PeerSettings) -> Option<&'a PeerSettings> {
    let key = set.peer.public_key;
    before.peer(&key).or_else(|| before.peers.iter().find(|was| was.peer.next_key == Some(key)))
}

/// Finds indices for a peer's state: one where that is made anew, and one for each pair of keys that joins in.
fn seats(
    peers: &mut Peers,
    before: &Peers,
    found: &Found,
    pairs: &[Pair],
    renew: bool,
    mut random: impl FnMut() -> u64,
) -> (Option<u32>, Vec<(Pair, u32)>) {
    let entry = found.entry();
    let peer = entry.lock();
    let renew = matches!(found, Found::Kept(_)) && (renew || peer.is_left_behind(pairs));
    // What is made anew begins without candidates.
    let joining = if renew && pairs.len() > 1 { pairs.to_vec() } else { peer.missing(pairs) };
    drop(peer);
    let mut index = || peers.reserve_index(before, entry, &mut random);
    let renewed = renew.then(&mut index);
    (renewed, joining.into_iter().map(|pair| (pair, index())).collect())
}

/// Returns an endpoint that is known at once; the others are looked up.
fn address(endpoint: &Endpoint) -> Option<SocketAddr> {
    match &endpoint.host {
        Host::Address(address) => Some(SocketAddr::new(*address, endpoint.port)),
        Host::OnLink { address, interface } => {
            let index = if_nametoindex(interface.as_str()).ok().or_else(|| interface.parse().ok())?;
            Some(SocketAddrV6::new(*address, endpoint.port, 0, index).into())
        }
        Host::Name(_) => None,
    }
}

/// Makes what peers know of this site. Without a key it is one that nobody knows: no handshake comes of it.
fn identity(settings: &Settings) -> Result<Identity, TunnelError> {
    match &settings.private_key {
        Some(secret) => Ok(Identity::with_older(secret, settings.old_private_key.as_ref())),
        None => {
            let mut unknown = [0; 32];
            getrandom::fill(&mut unknown).map_err(|_| TunnelError::Random)?;
            Ok(Identity::new(&SecretKey::new(unknown)))
        }
    }
}
