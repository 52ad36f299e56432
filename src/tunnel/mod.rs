//! WireGuard in userspace: keys, peers, filter, TUN, UDP.
//!
//! It knows nothing of MLLP. What it promises to the rooms above: a packet that comes out of the interface was sent by
//! the peer that owns its source address, and passed the filter; a socket bound to the interface speaks to peers only.

pub mod allowed_ips;
pub mod clock;
mod driver;
pub mod drops;
pub mod endpoints;
pub mod filter;
mod fuzz;
mod interface;
pub mod offload;
pub mod packet;
pub mod peer;
pub mod peers;
pub mod tun;
mod udp;
mod wall;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use thiserror::Error;
use tokio::sync::watch;

use crate::config::{Backend, Config, Name, PublicKey};
use clock::Clock;
use drops::DropCounters;
use filter::Whose;
#[doc(hidden)]
pub use fuzz::{fuzz_datagram, fuzz_inner_packet};
use peer::Identity;
use peers::{PeerEntry, PeerFacts, Peers};
use tun::Tun;
use udp::Udp;

/// Says why the tunnel does not start, or ended.
#[derive(Debug, Error)]
pub enum TunnelError {
    /// A capability is missing.
    #[error("not permitted to {what}: CAP_NET_ADMIN is missing")]
    NotPermitted {
        /// Says what for.
        what: &'static str,
    },
    /// Another interface has the name.
    #[error("an interface named {name} exists already; choose another tunnel.interface or stop what made it")]
    InterfaceTaken {
        /// Is the name.
        name: String,
    },
    /// The kernel has no TUN.
    #[error("there is no /dev/net/tun; load the kernel module with `modprobe tun`")]
    NoTunDevice {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The kernel refuses to create the interface.
    #[error("cannot create the interface {name}")]
    InterfaceCreate {
        /// Is the name.
        name: String,
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The kernel refuses an address, a route or the MTU.
    #[error("cannot set {what} of the tunnel interface")]
    Interface {
        /// Says which.
        what: String,
        /// Says what the kernel said.
        source: Box<rtnetlink::Error>,
    },
    /// There is no netlink socket.
    #[error("cannot speak rtnetlink")]
    Netlink {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The UDP port cannot be bound.
    #[error("cannot bind UDP port {port} for WireGuard; choose another tunnel.listen_port or stop what uses it")]
    UdpBind {
        /// Is the port.
        port: u16,
        /// Says what the kernel said.
        source: io::Error,
    },
    /// A data thread cannot be started or driven.
    #[error("cannot drive the data threads")]
    Threads {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// There is no randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// The interface was deleted or broke.
    #[error("the tunnel interface is gone")]
    InterfaceGone {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// A data thread panicked.
    #[error("a data thread of the tunnel panicked")]
    Panicked,
    /// The time of the latest handshake cannot be kept.
    #[error("cannot keep the time in {}", path.display())]
    Clock {
        /// Is the file.
        path: PathBuf,
        /// Says what the system said.
        source: io::Error,
    },
    /// The remembered endpoints cannot be read or written.
    #[error("cannot keep the peers' endpoints in {}", path.display())]
    Endpoints {
        /// Is the file.
        path: PathBuf,
        /// Says what the system said.
        source: io::Error,
    },
}

impl TunnelError {
    fn poll(error: nix::errno::Errno) -> Self {
        Self::Threads { source: error.into() }
    }
}

/// Is what both data threads and the rooms above share.
struct Shared {
    roster: RwLock<Arc<Peers>>,
    tun: Tun,
    udp: RwLock<Arc<Udp>>,
    turns: driver::Turns,
    drops: DropCounters,
    clock: Mutex<Clock>,
    addresses: Vec<IpAddr>,
    mtu_bytes: u16,
    random: std::sync::atomic::AtomicU64,
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

    fn mtu_bytes(&self) -> usize {
        usize::from(self.mtu_bytes)
    }

    /// Says whose an inner address is, seen from a peer.
    fn whose(&self, peers: &Peers, address: IpAddr, peer: &Arc<PeerEntry>) -> Whose {
        if self.addresses.contains(&address) {
            return Whose::Ours;
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

    /// Returns the next number of a SplitMix64 sequence with a random seed: for jitter, never for keys.
    fn random(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let state = self.random.fetch_add(step, std::sync::atomic::Ordering::Relaxed).wrapping_add(step);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Is a running tunnel; it ends with [`Tunnel::stop`] or when dropped.
pub struct Tunnel {
    shared: Arc<Shared>,
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
    failed: watch::Receiver<Option<Arc<TunnelError>>>,
    tasks: Vec<tokio::task::AbortHandle>,
    interface: String,
}

impl Tunnel {
    /// Creates the interface, binds the port, starts the data threads and begins a handshake with each known endpoint.
    ///
    /// # Errors
    /// Whatever keeps the tunnel from running; nothing is left behind.
    pub async fn start(config: &Config) -> Result<Self, TunnelError> {
        let remembered = endpoints::load(&config.state_dir);
        let identity = Identity::new(&config.tunnel.private_key);
        let seed = getrandom::u64().map_err(|_| TunnelError::Random)?;
        let udp = Udp::bind(config.tunnel.listen_port, config.tunnel.fwmark, config.tunnel.backend != Backend::Plain)?;
        let tun = Tun::create(&config.tunnel.interface, config.tunnel.backend)?;
        interface::configure(config).await?;
        let clock = wall::start(&config.state_dir);
        let peers = Peers::new(config, identity, &remembered, || getrandom::u64().unwrap_or(seed));
        let shared = Arc::new(Shared {
            roster: RwLock::new(Arc::new(peers)),
            tun,
            udp: RwLock::new(Arc::new(udp)),
            turns: driver::Turns::new()?,
            drops: DropCounters::new(),
            clock: clock.into(),
            addresses: config.tunnel.addresses.iter().map(ipnet::IpNet::addr).collect(),
            mtu_bytes: config.tunnel.mtu,
            random: seed.into(),
        });
        let stop = Arc::new(EventFd::new().map_err(TunnelError::poll)?);
        let (ended, failed) = watch::channel(None);
        let mut tunnel = Self {
            shared: Arc::clone(&shared),
            stop: Arc::clone(&stop),
            threads: Vec::new(),
            failed,
            tasks: Vec::new(),
            interface: config.tunnel.interface.clone(),
        };
        tunnel.spawn("wl-tx", ended.clone(), driver::help)?;
        tunnel.spawn("wl-rx", ended, driver::receive)?;
        tunnel.tasks = endpoints::spawn(config, &shared);
        tunnel.tasks.push(wall::spawn(&shared, config.state_dir.clone()));
        Ok(tunnel)
    }

    fn spawn(
        &mut self,
        name: &str,
        ended: watch::Sender<Option<Arc<TunnelError>>>,
        run: fn(&Shared, &EventFd) -> Result<(), TunnelError>,
    ) -> Result<(), TunnelError> {
        let (shared, stop) = (Arc::clone(&self.shared), Arc::clone(&self.stop));
        let body = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&shared, &stop)));
            let failure = match result {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => TunnelError::Panicked,
            };
            ended.send_replace(Some(Arc::new(failure)));
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|source| TunnelError::Threads { source })?);
        Ok(())
    }

    /// Waits until a data thread ends by itself, and says why. Cancel-safe.
    pub async fn failed(&self) -> Arc<TunnelError> {
        let mut failed = self.failed.clone();
        let failure = failed.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        match failure {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Looks whether the interface is there, up, and has its addresses.
    ///
    /// # Errors
    /// Says in one line what is wrong.
    pub fn check_interface(&self) -> Result<(), String> {
        interface::check(&self.interface, &self.shared.addresses)
    }

    /// Names the interface that sockets inside the tunnel are bound to.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Finds a configured peer.
    pub fn peer(&self, key: &PublicKey) -> Option<Arc<PeerEntry>> {
        self.shared.peers().by_key(key)
    }

    /// Returns what finds the peer that an inner address belongs to now; it does not keep the tunnel running.
    pub fn owners(&self) -> impl Fn(IpAddr) -> Option<(PublicKey, Name)> + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move |address| shared.peers().owner(address).map(|entry| (entry.key, entry.name.clone()))
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

    /// Ends the data threads and removes the interface.
    pub fn stop(self) {
        std::mem::drop(self);
    }
}

impl std::ops::Drop for Tunnel {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if self.stop.write(1).is_ok() {
            for thread in self.threads.drain(..) {
                thread.join().ok();
            }
        }
    }
}
