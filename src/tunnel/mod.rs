//! WireGuard in userspace: keys, peers, filter, TUN, UDP.
//!
//! It knows nothing of MLLP. What it promises to the rooms above: a packet that comes out of the interface was sent by
//! the peer that owns its source address, and passed the filter; a socket bound to the interface speaks to peers only.

pub mod allowed_ips;
mod change;
pub mod clock;
mod driver;
pub mod drops;
pub mod endpoints;
mod error;
pub mod filter;
mod flows;
mod fuzz;
mod interface;
pub mod keys;
mod locals;
pub mod offload;
pub mod packet;
pub mod peer;
pub mod peers;
pub mod places;
mod settings;
pub mod thinning;
pub mod tun;
mod uapi;
mod udp;
pub mod unreachable;
mod wall;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::{Config, Name, PublicKey};
use change::Control;
use clock::Clock;
use driver::Signal;
use drops::DropCounters;
pub use error::TunnelError;
use filter::Whose;
#[doc(hidden)]
pub use fuzz::{fuzz_datagram, fuzz_inner_packet};
use interface::Upkeep;
use keys::KeyNews;
use locals::{HostAddresses, Locals};
use peer::Identity;
use peers::{PeerEntry, PeerFacts, Peers};
pub use settings::SetByWg;
use tun::Tun;
#[doc(hidden)]
pub use uapi::fuzz_uapi;
use udp::Udp;

/// Is what the data thread and the rooms above share.
struct Shared {
    roster: RwLock<Arc<Peers>>,
    tun: Tun,
    udp: RwLock<Arc<Udp>>,
    /// Wakes the data thread: something changed under it.
    signal: Signal,
    drops: DropCounters,
    /// Changes with the peers.
    changed: watch::Sender<u64>,
    mtu_bytes: AtomicU16,
    random: AtomicU64,
    unreachables: Mutex<unreachable::Limit>,
    clock: Mutex<Clock>,
    locals: Arc<Locals>,
    /// Changes with a peer's key, and with what is known of who knows this site's.
    keys_changed: watch::Sender<u64>,
}

impl Shared {
    /// Returns the peers as they are now; taken once a batch. A change replaces the whole.
    fn peers(&self) -> Arc<Peers> {
        Arc::clone(&self.roster.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the sockets as they are now; another port replaces them.
    fn udp(&self) -> Arc<Udp> {
        Arc::clone(&self.udp.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets other peers be the peers from now on.
    fn install(&self, peers: Peers) {
        *self.roster.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(peers);
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Lets other sockets be the sockets from now on.
    fn install_udp(&self, udp: Udp) {
        *self.udp.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(udp);
        self.signal.wake();
    }

    fn mtu_bytes(&self) -> usize {
        usize::from(self.mtu_bytes.load(Ordering::Relaxed))
    }

    /// Says whose an inner address is, seen from a peer.
    fn whose(peers: &Peers, hosts: &HostAddresses, address: IpAddr, peer: &Arc<PeerEntry>) -> Whose {
        if peers.addresses.contains(&address) {
            return Whose::Ours;
        }
        if hosts.contains(address) {
            return Whose::Hosts;
        }
        let is_the_peers = peers.owner(address).is_some_and(|owner| Arc::ptr_eq(owner, peer));
        if is_the_peers { Whose::ThisPeers } else { Whose::Others }
    }

    /// Begins a handshake with a peer whose endpoint has just become known.
    fn greet(&self, entry: &PeerEntry) {
        let mut out = vec![0u8; peer::BUFFER_BYTES];
        let initiation = entry.lock().initiate(&mut out);
        if let (Some(initiation), Some(path)) = (initiation, entry.path()) {
            driver::send(self, entry, initiation, path);
        }
    }

    /// Tells the host's kernel that a packet into the tunnel has nowhere to go, as the kernel's own WireGuard does.
    fn tell_unreachable(&self, packet: &[u8]) {
        if !self.unreachables.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            return;
        }
        let mut out = [0; unreachable::ANSWER_BYTES_MAX];
        let told = unreachable::answer(packet, &mut out).and_then(|bytes| out.get(..bytes));
        if let Some(told) = told {
            // Where it is not taken the packet is lost without a word, as any may be.
            self.tun.write(&offload::VnetHeader::default(), told, std::iter::empty()).ok();
        }
    }

    /// Returns the next number of a SplitMix64 sequence with a random seed: for jitter, never for keys.
    fn random(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let state = self.random.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Says in which places several packets pass in one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// From the interface: the kernel hands over super-packets.
    pub tun_read: bool,
    /// To the interface: the kernel takes super-packets.
    pub tun_write: bool,
    /// To the network: UDP GSO.
    pub udp_send: bool,
    /// From the network: UDP GRO.
    pub udp_receive: bool,
}

/// Is a running tunnel; it ends with [`Tunnel::stop`] or when dropped.
pub struct Tunnel {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    failed: watch::Receiver<Option<Arc<TunnelError>>>,
    control: Arc<Control>,
    keeper: tokio::task::AbortHandle,
    clock: tokio::task::AbortHandle,
    keys: tokio::task::AbortHandle,
    state_dir: PathBuf,
    uapi: Option<tokio::task::AbortHandle>,
    interface: String,
    upkeep: Upkeep,
}

impl Tunnel {
    /// Creates the interface, binds the port, starts the data thread and begins a handshake with each known endpoint.
    ///
    /// # Errors
    /// Whatever keeps the tunnel from running; nothing is left behind.
    pub async fn start(config: &Config) -> Result<Self, TunnelError> {
        let older = config.tunnel.old_private_key.counting();
        let identity = Identity::with_older(&config.tunnel.private_key, older);
        let seed = getrandom::u64().map_err(|_| TunnelError::Random)?;
        let mark = interface::mark(config);
        let udp = Udp::bind(config.tunnel.listen_port, mark, config.tunnel.udp_offload)?;
        let tun = Tun::create(&config.tunnel.interface, config.tunnel.backend)?;
        let upkeep = Upkeep::start(config).await?;
        let shared = Arc::new(Shared {
            roster: RwLock::new(Arc::new(Peers::none(identity))),
            tun,
            udp: RwLock::new(Arc::new(udp)),
            signal: Signal::new()?,
            drops: DropCounters::new(),
            changed: watch::Sender::new(0),
            mtu_bytes: config.tunnel.mtu.into(),
            random: seed.into(),
            unreachables: Mutex::default(),
            clock: wall::start(&config.state_dir).into(),
            locals: upkeep.locals(),
            keys_changed: watch::Sender::new(0),
        });
        let control = Arc::new(Control::begin(Arc::clone(&shared), upkeep.kept(), config).await);
        let (ended, failed) = watch::channel(None);
        let thread = spawn(&shared, ended)?;
        Ok(Self {
            thread: Some(thread),
            failed,
            uapi: config.tunnel.uapi_socket.as_deref().and_then(|path| uapi::offer(Arc::clone(&control), path)),
            clock: wall::spawn(&shared, &control, config.state_dir.clone()),
            keys: keys::spawn_keeper(&shared, &control),
            control,
            keeper: endpoints::spawn_keeper(&shared, upkeep.kept(), &config.state_dir),
            state_dir: config.state_dir.clone(),
            interface: config.tunnel.interface.clone(),
            upkeep,
            shared,
        })
    }

    /// Takes the running tunnel to exactly what a configuration says; what `wg` set is forgotten. What does not change
    /// keeps its session, its counters and its path. Not cancel-safe.
    ///
    /// # Errors
    /// Whatever keeps the tunnel from it, such as a port that is taken; the peers are then as they were.
    pub async fn reload(&self, config: &Config) -> Result<(), TunnelError> {
        self.control.reload(config).await
    }

    /// Waits until the data thread ends by itself, and says why. Cancel-safe.
    pub async fn failed(&self) -> Arc<TunnelError> {
        let mut failed = self.failed.clone();
        let failure = failed.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        match failure {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Looks whether the interface is there and up, and has its addresses, routes and rules.
    ///
    /// # Errors
    /// Says in one line what is wrong.
    pub fn check_interface(&self) -> Result<(), String> {
        interface::check(&self.interface, &self.shared.peers().addresses)?;
        self.upkeep.fault().map_or(Ok(()), Err)
    }

    /// Counts how often something of the interface was lost and restored.
    pub fn restored(&self) -> u64 {
        self.upkeep.restored()
    }

    /// Names the interface that sockets inside the tunnel are bound to.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Finds a peer.
    pub fn peer(&self, name: &Name) -> Option<Arc<PeerEntry>> {
        self.shared.peers().named(name).cloned()
    }

    /// Returns what links tell each other of new keys by.
    pub fn key_news(&self) -> KeyNews {
        KeyNews::new(Arc::clone(&self.shared), Arc::clone(&self.control))
    }

    /// Returns this site's public key, and whether an older one counts beside it.
    pub fn own_key(&self) -> (PublicKey, bool) {
        let peers = self.shared.peers();
        (peers.identity.public_key(), peers.identity.older_key().is_some())
    }

    /// Returns what changes with a peer's key, and with what is known of who knows this site's.
    pub fn keys_changed(&self) -> watch::Receiver<u64> {
        self.shared.keys_changed.subscribe()
    }

    /// Returns what finds the peer that an inner address belongs to now; it does not keep the tunnel running.
    pub fn owners(&self) -> impl Fn(IpAddr) -> Option<(PublicKey, Name)> + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move |address| shared.peers().owner(address).map(|entry| (entry.key, entry.settings().peer.name.clone()))
    }

    /// Returns what changes whenever an inner address may belong to another peer than before.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Tells what `wg` has set of this site's end since the configuration was read.
    pub fn set_by_wg(&self) -> SetByWg {
        self.shared.peers().set_by_wg.clone()
    }

    /// Tells what is known about every peer.
    pub fn peers(&self) -> Vec<PeerFacts> {
        self.shared.peers().all().iter().map(|entry| entry.facts()).collect()
    }

    /// Counts what was dropped before its peer was known.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.shared.drops.snapshot().into_iter().map(|(reason, count)| (reason.code(), count)).collect()
    }

    /// Says how far the clock is behind an earlier run's, so that peers take handshakes of this site for replays.
    pub fn clock_behind(&self) -> Option<Duration> {
        self.shared.clock.lock().unwrap_or_else(PoisonError::into_inner).behind(Instant::now())
    }

    /// Tells which offloads are in use.
    pub fn offloads(&self) -> Offloads {
        let (tun, udp) = (&self.shared.tun, self.shared.udp());
        Offloads {
            tun_read: tun.splits(),
            tun_write: tun.joins(),
            udp_send: udp.sends_many(),
            udp_receive: udp.receives_many(),
        }
    }

    /// Ends the data thread and removes the interface.
    pub fn stop(self) {
        std::mem::drop(self);
    }
}

impl std::ops::Drop for Tunnel {
    fn drop(&mut self) {
        self.keeper.abort();
        self.clock.abort();
        self.keys.abort();
        endpoints::keep_last(&self.shared, &self.state_dir);
        if let Some(uapi) = &self.uapi {
            uapi.abort();
        }
        self.shared.signal.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Starts the data thread; `ended` says why, should it end by itself.
fn spawn(shared: &Arc<Shared>, ended: watch::Sender<Option<Arc<TunnelError>>>) -> Result<JoinHandle<()>, TunnelError> {
    let shared = Arc::clone(shared);
    let body = move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| driver::run(&shared)));
        let failure = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => TunnelError::Panicked,
        };
        ended.send_replace(Some(Arc::new(failure)));
    };
    let thread = std::thread::Builder::new().name("wl-data".to_owned()).spawn(body);
    thread.map_err(|source| TunnelError::Threads { source })
}
