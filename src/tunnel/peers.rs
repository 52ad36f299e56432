//! The peers of a running tunnel: their state, where they are, what passed.
//!
//! It never encrypts (`peer` does) and never sends.

mod facts;
mod hands;
mod unbroken;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};

use super::allowed_ips::AllowedIps;
use super::drops::DropCounters;
use super::filter::PeerRules;
use super::flows::Flows;
use super::peer::{Identity, OVERHEAD_BYTES, Peer};
use super::settings::{PeerSettings, SetByWg};
use super::udp::{self, Segments};
use crate::config::{Endpoint, Name, PublicKey};
pub use facts::{PeerFacts, Rotation};
use unbroken::Unbroken;

/// A peer that was not heard for so long and is heard again wakes who waits for it; shorter than any TCP backoff that
/// would delay a message noticeably.
const SILENCE_MIN: Duration = Duration::from_secs(2);

/// Is one peer of a running tunnel.
pub struct PeerEntry {
    /// Identifies the entry: the key that the peer had when it came. It may have a newer one since.
    pub key: PublicKey,
    /// Counts what was dropped.
    pub drops: DropCounters,
    set: RwLock<Arc<PeerSettings>>,
    noise: Mutex<Peer>,
    path: RwLock<Path>,
    segments: Segments,
    flows: Mutex<Flows>,
    /// Is when the peer became one of ours.
    added: SystemTime,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    awake: watch::Sender<u64>,
    moved: Arc<Notify>,
    proven: Arc<Notify>,
    /// Tells that the peer was told this site's newest key.
    told: AtomicBool,
}

#[derive(Default)]
struct Path {
    endpoint: Option<SocketAddr>,
    /// Is the address of ours that the peer spoke to.
    source: Option<IpAddr>,
    endpoint_error: Option<String>,
    /// Is the last name that was found, and where it led.
    resolved: Option<(Endpoint, SocketAddr)>,
    heard: Option<Instant>,
    /// Is when the first datagram went out that asks for an answer and has had none.
    unanswered_since: Option<Instant>,
    latest_handshake: Option<SystemTime>,
    session_began: Option<Instant>,
    unbroken: Unbroken,
}

impl PeerEntry {
    /// Locks the cryptographic state; hold it for no system call.
    pub(super) fn lock(&self) -> MutexGuard<'_, Peer> {
        self.noise.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks what this host asked the peer by UDP; as short.
    pub(super) fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up other settings; `endpoint` says where datagrams go from now on, if anywhere else.
    pub(super) fn take_up(&self, set: &PeerSettings, endpoint: Option<SocketAddr>, now: Instant) {
        self.lock().set_keepalive(set.peer.persistent_keepalive, now);
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set.clone());
        if endpoint.is_some() {
            self.set_endpoint(endpoint, None);
        }
    }

    /// Returns what the peer is set to now.
    pub(super) fn settings(&self) -> Arc<PeerSettings> {
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what the peer may do here.
    pub(super) fn rules(&self) -> Arc<PeerRules> {
        Arc::clone(&self.settings().rules)
    }

    /// Returns where datagrams go.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.path.read().unwrap_or_else(PoisonError::into_inner).endpoint
    }

    /// Returns where datagrams go, and from which address of ours.
    pub(super) fn path(&self) -> Option<udp::Path> {
        let path = self.path.read().unwrap_or_else(PoisonError::into_inner);
        path.endpoint.map(|to| udp::Path { to, from: path.source })
    }

    /// Lets the routes choose from which address of ours datagrams leave: the one that the peer spoke to is gone.
    pub(super) fn forget_source(&self) {
        self.path.write().unwrap_or_else(PoisonError::into_inner).source = None;
    }

    /// Waits for the peer to come: a request of `wg` made it anew, without an endpoint.
    pub(super) fn forget_endpoint(&self) {
        let mut path = self.path.write().unwrap_or_else(PoisonError::into_inner);
        (path.endpoint, path.source, path.endpoint_error) = (None, None, None);
    }

    /// Tells whether several datagrams may go to the peer in one call.
    pub(super) fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Says where datagrams go from now on.
    pub(super) fn set_endpoint(&self, endpoint: Option<SocketAddr>, error: Option<String>) {
        let mut path = self.path.write().unwrap_or_else(PoisonError::into_inner);
        if endpoint.is_some() && endpoint != path.endpoint {
            (path.endpoint, path.source) = (endpoint, None);
        }
        path.endpoint_error = error;
    }

    /// Points the peer at what its name stands for.
    pub(super) fn resolved(&self, name: &Endpoint, endpoint: SocketAddr) {
        self.set_endpoint(Some(endpoint), None);
        self.path.write().unwrap_or_else(PoisonError::into_inner).resolved = Some((name.clone(), endpoint));
    }

    /// Returns where a name led when it was found last.
    pub(super) fn found_at(&self, name: &Endpoint) -> Option<SocketAddr> {
        let path = self.path.read().unwrap_or_else(PoisonError::into_inner);
        path.resolved.as_ref().filter(|(found, _)| found == name).map(|(_, at)| *at)
    }

    /// Tells whether it is known where the peer is: its name was found, or it is there.
    pub(super) fn is_located(&self, limit: Duration) -> bool {
        !self.is_stale(limit)
            || self.settings().peer.endpoint.as_ref().is_some_and(|name| self.found_at(name).is_some())
    }

    /// Counts what was received and is authentic.
    pub(super) fn received(&self, datagram_bytes: usize) {
        self.rx_bytes.fetch_add(datagram_bytes as u64, Ordering::Relaxed);
    }

    /// Notes authenticated datagrams: counts them, moves the endpoint to their source, wakes after silence.
    pub(super) fn heard(&self, datagram_bytes: usize, source: udp::Path, now: Instant) {
        self.received(datagram_bytes);
        let mut path = self.path.write().unwrap_or_else(PoisonError::into_inner);
        let moved = path.endpoint.replace(source.to) != Some(source.to);
        path.source = source.from;
        if let Some(since) = path.unanswered_since.take() {
            path.unbroken.answered(SystemTime::now(), now.saturating_duration_since(since));
        }
        let silent = path.heard.replace(now).is_none_or(|heard| now.duration_since(heard) >= SILENCE_MIN);
        std::mem::drop(path);
        if silent {
            self.wake();
        }
        if moved {
            self.moved.notify_one();
        }
    }

    /// Notes a new session and wakes who waits for the peer. Whether its name resolves is no matter from here on.
    pub(super) fn begin_session(&self, now: SystemTime) {
        let mut path = self.path.write().unwrap_or_else(PoisonError::into_inner);
        path.latest_handshake = Some(now);
        let before = path.session_began.replace(Instant::now());
        path.unbroken.begin(now, before.map(|at| at.elapsed()));
        path.endpoint_error = None;
        std::mem::drop(path);
        self.moved.notify_one();
        self.proven.notify_one();
        self.wake();
    }

    /// Says when the last session began.
    pub(super) fn session_began(&self) -> Option<Instant> {
        self.path.read().unwrap_or_else(PoisonError::into_inner).session_began
    }

    /// Tells whether no session began for so long: the endpoint may be lost. A step of the wall clock changes nothing.
    pub(super) fn is_stale(&self, limit: Duration) -> bool {
        self.session_began().is_none_or(|at| at.elapsed() >= limit)
    }

    /// Tells whether the peer said anything after that.
    pub(super) fn is_heard_since(&self, at: Instant) -> bool {
        self.path.read().unwrap_or_else(PoisonError::into_inner).heard.is_some_and(|heard| heard > at)
    }

    /// Tells whether the peer has said nothing for so long.
    pub(super) fn is_silent(&self, limit: Duration) -> bool {
        let heard = self.path.read().unwrap_or_else(PoisonError::into_inner).heard;
        heard.is_none_or(|heard| heard.elapsed() >= limit)
    }

    /// Counts a datagram sent. All but keepalives ask for an answer: a peer that lives says something within 10 s.
    pub(super) fn sent(&self, datagram_bytes: usize) {
        self.tx_bytes.fetch_add(datagram_bytes as u64, Ordering::Relaxed);
        if datagram_bytes == OVERHEAD_BYTES {
            return;
        }
        let waits = self.path.read().unwrap_or_else(PoisonError::into_inner).unanswered_since.is_some();
        if !waits {
            self.path.write().unwrap_or_else(PoisonError::into_inner).unanswered_since = Some(Instant::now());
        }
    }

    /// Subscribes to the peer's signs of life: a new session, or the first datagram after silence.
    pub fn awake(&self) -> watch::Receiver<u64> {
        self.awake.subscribe()
    }

    fn wake(&self) {
        self.awake.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Finds peers by key, by index and by inner address; a change replaces the whole.
#[derive(Clone)]
pub struct Peers {
    /// Is this site, as its peers know it.
    pub identity: Arc<Identity>,
    /// Lists this site's own inner addresses.
    pub addresses: Vec<IpAddr>,
    /// Says what `wg` set of this site's end.
    pub set_by_wg: SetByWg,
    all: Vec<Arc<PeerEntry>>,
    by_key: HashMap<PublicKey, Arc<PeerEntry>>,
    by_index: HashMap<u32, Arc<PeerEntry>>,
    /// `None` has a prefix that is changing hands.
    allowed_ips: AllowedIps<Option<Arc<PeerEntry>>>,
    moved: Arc<Notify>,
    proven: Arc<Notify>,
}

/// Is a peer's place among those that follow.
pub(super) enum Found {
    /// It stays, with all that it has.
    Kept(Arc<PeerEntry>),
    /// It begins.
    New(Arc<PeerEntry>),
}

impl Found {
    pub(super) fn entry(&self) -> &Arc<PeerEntry> {
        match self {
            Self::Kept(entry) | Self::New(entry) => entry,
        }
    }
}

impl Peers {
    /// Begins without peers.
    pub(super) fn none(identity: Identity) -> Self {
        Self {
            identity: Arc::new(identity),
            addresses: Vec::new(),
            set_by_wg: SetByWg::default(),
            all: Vec::new(),
            by_key: HashMap::new(),
            by_index: HashMap::new(),
            allowed_ips: AllowedIps::new(),
            moved: Arc::default(),
            proven: Arc::default(),
        }
    }

    /// Begins what follows these peers, without any yet.
    pub(super) fn successor(&self, identity: Arc<Identity>, addresses: Vec<IpAddr>, set_by_wg: SetByWg) -> Self {
        Self {
            identity,
            addresses,
            set_by_wg,
            all: Vec::new(),
            by_key: HashMap::new(),
            by_index: HashMap::new(),
            allowed_ips: AllowedIps::new(),
            moved: Arc::clone(&self.moved),
            proven: Arc::clone(&self.proven),
        }
    }

    /// Adds a peer: the very entry that it had before, or a new one. Changes nothing of an entry.
    pub(super) fn add(
        &mut self,
        before: &Self,
        set: &PeerSettings,
        awake: &watch::Sender<u64>,
        random: impl FnMut() -> u64,
    ) -> Found {
        let found = before.by_key(&set.peer.public_key).map_or_else(
            || {
                let index = self.free_index(before, random);
                Found::New(Arc::new(PeerEntry {
                    key: set.peer.public_key,
                    drops: DropCounters::new(),
                    set: RwLock::new(Arc::new(set.clone())),
                    noise: Mutex::new(Peer::new(&self.identity, &set.peer, index)),
                    path: RwLock::default(),
                    segments: Segments::default(),
                    flows: Mutex::default(),
                    added: SystemTime::now(),
                    rx_bytes: AtomicU64::new(0),
                    tx_bytes: AtomicU64::new(0),
                    awake: awake.clone(),
                    moved: Arc::clone(&self.moved),
                    proven: Arc::clone(&self.proven),
                    told: AtomicBool::new(false),
                }))
            },
            Found::Kept,
        );
        let entry = found.entry();
        for index in entry.lock().indices() {
            self.by_index.insert(index, Arc::clone(entry));
        }
        for prefix in &set.peer.allowed_ips {
            self.allowed_ips.insert(*prefix, Some(Arc::clone(entry)));
        }
        for key in std::iter::once(set.peer.public_key).chain(set.peer.next_key) {
            self.by_key.insert(key, Arc::clone(entry));
        }
        self.all.push(Arc::clone(entry));
        found
    }

    /// Lets one more index lead to a peer.
    pub(super) fn reserve_index(&mut self, before: &Self, entry: &Arc<PeerEntry>, random: impl FnMut() -> u64) -> u32 {
        let index = self.free_index(before, random);
        self.by_index.insert(index, Arc::clone(entry));
        index
    }

    fn free_index(&self, before: &Self, mut random: impl FnMut() -> u64) -> u32 {
        loop {
            let index = u32::try_from(random() & 0x00ff_ffff).unwrap_or(0);
            if !self.by_index.contains_key(&index) && !before.by_index.contains_key(&index) {
                return index;
            }
        }
    }

    /// Lists all peers.
    pub fn all(&self) -> &[Arc<PeerEntry>] {
        &self.all
    }

    /// Waits until a peer was heard at another endpoint, or has a new session. For one task; cancel-safe.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Waits until a session has begun: it may be the first one with a newer key. For one task; cancel-safe.
    pub(super) async fn proven(&self) {
        self.proven.notified().await;
    }

    /// Finds a peer by its name.
    pub fn named(&self, name: &Name) -> Option<&Arc<PeerEntry>> {
        self.all.iter().find(|entry| entry.settings().peer.name == *name)
    }

    /// Finds the peer with a static key.
    pub fn by_key(&self, key: &PublicKey) -> Option<Arc<PeerEntry>> {
        self.by_key.get(key).cloned()
    }

    /// Finds the peer with an index.
    pub(super) fn by_index(&self, index: u32) -> Option<Arc<PeerEntry>> {
        self.by_index.get(&index).cloned()
    }

    /// Finds the peer that an inner address belongs to.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<PeerEntry>> {
        self.allowed_ips.owner(address)?.as_ref()
    }

    /// Tells whether some peer is at this endpoint.
    pub(super) fn has_endpoint(&self, endpoint: SocketAddr) -> bool {
        self.all.iter().any(|entry| entry.endpoint() == Some(endpoint))
    }
}
