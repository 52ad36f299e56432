//! The connection to a receiver, and its probe.
//!
//! It never opens more connections than the configuration says, and never tells a peer that a receiver is connected
//! before it is. A change of its configuration counts for the connections that begin from then on; who may not use it any
//! more is cut off at once.

pub mod accounted;
mod counted;
mod dial;
mod shared;
mod slot;
pub mod stored;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::counted::Counted;
use self::slot::{Leaving, Slot};
use crate::audit::Clerk;
use crate::config::{self, Name, Probe};
use crate::link::carry::{Ended, Leg, TcpLeg, Terms, carry};
use crate::link::inside::tune;
use crate::link::owners::Owners;
use crate::link::stream_end::StreamEnd;
use crate::link::tally::Tally;
use crate::link::wire::{Cause, ReceiverNews, ReceiverState};
use crate::mllp::frame::Limits;
use crate::tls::Socket;

/// Unacknowledged bytes to a receiver end its connection after so long: its host is gone.
const RECEIVER_TIMEOUT: Duration = Duration::from_secs(120);
/// A receiver without live connections is probed this often, where the configuration asks for it.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// The largest frame that passes here; the forward at the near site has the limit that its site configured.
const FRAME_BYTES_MAX: u64 = 1 << 30;
/// `accept` failed, as for want of descriptors: it is tried again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections at a service's own port at once that wait for the receiver.
const PLAIN_MAX: usize = 1024;

/// Is a running service.
pub struct Service {
    config: watch::Sender<Arc<config::Service>>,
    tally: Arc<Tally>,
    slots: Arc<Semaphore>,
    leaving: Arc<Leaving>,
    waiting: watch::Sender<u64>,
    /// Is since when a sender waited in vain for a place, and none has been free.
    full_since: Mutex<Option<SystemTime>>,
    state: watch::Sender<ReceiverNews>,
    since: Mutex<SystemTime>,
    /// Turns true when its connections are to end.
    drain: watch::Sender<bool>,
    ports: Mutex<Ports>,
    /// Take places back that are taken now, where there are to be fewer.
    takers: Mutex<JoinSet<()>>,
    /// Is the connection that senders share where there may be one only.
    shared: shared::Shared,
    /// Are the conversations about stored messages.
    talks: Mutex<stored::Talks>,
}

/// Is where peers that run plain WireGuard connect.
#[derive(Default)]
struct Ports {
    listeners: Vec<Arc<TcpListener>>,
    closed: watch::Sender<bool>,
}

/// Returns what near sites are told of a receiver.
fn news_of(config: &config::Service, state: ReceiverState) -> ReceiverNews {
    ReceiverNews { state, address: config.target.to_string(), release: Some(config.stored.dialect.release.number()) }
}

impl Service {
    /// Makes a service.
    pub fn new(config: config::Service) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(config.connections_max.get()));
        let news = news_of(&config, ReceiverState::Unknown);
        Arc::new(Self {
            config: watch::Sender::new(Arc::new(config)),
            tally: Arc::default(),
            slots,
            leaving: Arc::default(),
            waiting: watch::Sender::new(0),
            full_since: Mutex::default(),
            state: watch::Sender::new(news),
            since: Mutex::new(SystemTime::now()),
            drain: watch::Sender::new(false),
            ports: Mutex::default(),
            takers: Mutex::default(),
            shared: shared::Shared::default(),
            talks: Mutex::default(),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> Arc<config::Service> {
        Arc::clone(&self.config.borrow())
    }

    /// Returns the listeners of its own port.
    pub fn listeners(&self) -> Vec<Arc<TcpListener>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).listeners.clone()
    }

    /// Changes what counts for connections that begin from now on; those of peers that may not use it any more end.
    pub fn change(&self, config: config::Service) {
        let was = self.config();
        let (before, after) = (was.connections_max.get(), config.connections_max.get());
        let is_other_receiver = was.target != config.target || was.tls != config.tls;
        let is_other_release = was.stored.dialect.release.number() != config.stored.dialect.release.number();
        self.config.send_replace(Arc::new(config));
        if after > before {
            self.slots.add_permits(after - before);
        } else if after < before {
            self.take_back(before - after);
        }
        if is_other_receiver {
            self.note(ReceiverState::Unknown);
        } else if is_other_release {
            let config = self.config();
            self.state.send_modify(|news| *news = news_of(&config, news.state));
        }
    }

    /// Takes places back: the free ones now, the others ahead of who waits for one.
    fn take_back(&self, places: usize) {
        let slots = Arc::clone(&self.slots);
        let take = async move {
            if let Ok(taken) = slots.acquire_many_owned(u32::try_from(places).unwrap_or(u32::MAX)).await {
                taken.forget();
            }
        };
        let mut takers = self.takers.lock().unwrap_or_else(PoisonError::into_inner);
        while takers.try_join_next().is_some() {}
        takers.spawn(take);
    }

    /// Takes no connection any more; those that there are end where no message is on its way, within a bound.
    pub fn retire(&self) {
        self.open_ports(Vec::new());
        self.drain.send_replace(true);
    }

    /// Says where peers that run plain WireGuard connect from now on, instead of where they did before;
    /// [`Service::serve_port`] serves each.
    pub fn open_ports(&self, listeners: Vec<Arc<TcpListener>>) {
        let ports = Ports { listeners, closed: watch::Sender::new(false) };
        let old = std::mem::replace(&mut *self.ports.lock().unwrap_or_else(PoisonError::into_inner), ports);
        old.closed.send_replace(true);
    }

    /// Returns what passed.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Counts who waits for a connection to the receiver now.
    pub fn waiting(&self) -> u64 {
        *self.waiting.borrow()
    }

    /// Tells since when all connections that the receiver may have are taken, and somebody waited for one in vain.
    pub fn full_since(&self) -> Option<SystemTime> {
        let since = *self.full_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.filter(|_| self.slots.available_permits() == 0)
    }

    /// Tells what is known of the receiver, and since when.
    pub fn receiver(&self) -> (ReceiverState, SystemTime) {
        (self.state.borrow().state, *self.since.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Subscribes to what peers are told of the receiver.
    pub fn subscribe(&self) -> watch::Receiver<ReceiverNews> {
        self.state.subscribe()
    }

    /// Tells whether a peer may use the service.
    pub fn allows(&self, peer: &Name) -> bool {
        self.config.borrow().allow_peers.contains(peer)
    }

    /// Waits until a peer may not use the service any more. Cancel-safe.
    async fn forbidden(&self, peer: &Name) {
        let mut config = self.config.subscribe();
        if config.wait_for(|config| !config.allow_peers.contains(peer)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Serves a stream of a peer's link until it ends.
    pub async fn serve_stream(&self, mut stream: StreamEnd, peer: Name) {
        if self.is_shared() {
            let reached = tokio::select! {
                biased;
                () = self.forbidden(&peer) => Err(Cause::ServiceNotAllowed),
                reached = self.reach() => reached,
                failed = stream.opened() => Err(failed.err().unwrap_or(Cause::SenderGone)),
            };
            let cause = match reached {
                Err(cause) => cause,
                Ok(()) => {
                    stream.accept();
                    tokio::select! {
                        cause = self.serve_shared(&stream, self.clerk_for(&peer)) => cause,
                        () = self.forbidden(&peer) => Cause::Withdrawn,
                    }
                }
            };
            return stream.refuse(cause);
        }
        let connected = tokio::select! {
            biased;
            () = self.forbidden(&peer) => Err(Cause::ServiceNotAllowed),
            connected = self.connect() => connected,
            failed = stream.opened() => Err(failed.err().unwrap_or(Cause::SenderGone)),
        };
        match connected {
            Err(cause) => stream.refuse(cause),
            Ok((receiver, slot)) => {
                stream.accept();
                let cause = tokio::select! {
                    ended = self.carry(&stream, &receiver, self.clerk_for(&peer)) => ended.cause(),
                    () = self.forbidden(&peer) => Cause::Withdrawn,
                };
                stream.refuse(cause);
                drop(receiver);
                drop(slot);
            }
        }
    }

    /// Serves the service's own port on the tunnel address, for peers that run plain WireGuard. Ends when the service
    /// listens elsewhere or is retired, and the open connections have ended.
    pub fn serve_port(self: Arc<Self>, listener: Arc<TcpListener>, owners: Owners) -> impl Future<Output = ()> {
        let closed = self.ports.lock().unwrap_or_else(PoisonError::into_inner).closed.subscribe();
        self.accept(listener, owners, closed)
    }

    async fn accept(self: Arc<Self>, listener: Arc<TcpListener>, owners: Owners, mut closed: watch::Receiver<bool>) {
        let mut senders = JoinSet::new();
        loop {
            while senders.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closed.wait_for(|closed| *closed) => break,
            };
            let Ok((tcp, from)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let peer = owners.of(from.ip()).map(|(_, peer)| peer).filter(|peer| self.allows(peer));
            let tied = peer.and_then(|peer| Some((owners.tie(&tcp, from.ip(), &peer)?, peer)));
            let allowed = tied.is_some();
            let Some((tie, peer)) = tied.filter(|_| senders.len() < PLAIN_MAX) else {
                self.tally.refuse(if allowed { "too_many_connections" } else { "not_allowed" });
                continue;
            };
            let service = Arc::clone(&self);
            senders.spawn(async move { tie.hold(Box::pin(service.serve_plain(tcp, peer))).await });
        }
        drop(listener);
        while senders.join_next().await.is_some() {}
    }

    async fn serve_plain(&self, tcp: TcpStream, peer: Name) {
        if tune(&tcp, RECEIVER_TIMEOUT).is_err() {
            return;
        }
        let sender = TcpLeg::sender(Socket::plain(tcp));
        let served = async {
            if self.is_shared() {
                if self.reach().await.is_ok() {
                    self.serve_shared(&sender, self.clerk_for(&peer)).await;
                }
            } else if let Ok((receiver, slot)) = self.connect().await {
                self.carry(&sender, &receiver, self.clerk_for(&peer)).await;
                drop(receiver);
                drop(slot);
            }
        };
        tokio::select! {
            () = served => {}
            () = self.forbidden(&peer) => {}
        }
    }

    /// Returns who records what a peer sends.
    fn clerk_for(&self, peer: &Name) -> Option<Clerk> {
        self.tally.clerk().map(|clerk| clerk.with_peer(peer.as_str()))
    }

    async fn carry<S: Leg>(&self, sender: &S, receiver: &TcpLeg, clerk: Option<Clerk>) -> Ended {
        let config = self.config();
        let dialect = config.stored.dialect;
        let terms = Terms {
            release: dialect.release,
            limits: Limits { frame_bytes_max: FRAME_BYTES_MAX, framing: dialect.framing, ..Limits::default() },
            idle_timeout: None,
            frame_timeout: None,
            ack_timeout: config.ack_timeout,
            stop: self.drain.subscribe(),
            clerk,
        };
        let mut counted = Counted { tally: &self.tally, connection: self.tally.begin(), code: Cause::Withdrawn.code() };
        let ended = carry(sender, receiver, terms, &self.tally, counted.connection).await;
        counted.code = ended.code();
        tracing::debug!(service = %config.name, reason = ended.code(), "a receiver's connection ended");
        ended
    }

    /// Connects to the receiver as soon as it may have one more connection.
    async fn connect(&self) -> Result<(TcpLeg, Slot), Cause> {
        let mut slot = self.slot().await?;
        // One that ends a connection before it has begun may be tried again: no byte of a message was sent.
        let refused = |cause| if cause == Cause::ReceiverReset { Cause::ReceiverBusy } else { cause };
        let socket = self.open(&mut slot, || false).await.map_err(refused)?;
        Ok((TcpLeg::receiver(socket), slot))
    }

    /// Opens a connection, and does not say that the receiver is up where `is_known_down` knows better: one that takes
    /// connections and ends each is none.
    async fn open(&self, slot: &mut Slot, is_known_down: impl FnOnce() -> bool) -> Result<Socket, Cause> {
        let config = self.config();
        let result = self.meet(&config, slot).await;
        if let Err(cause) = &result {
            self.tally.refuse(cause.code());
        }
        let now = self.config();
        let is_same = now.target == config.target && now.tls == config.tls;
        if is_same && (result.is_err() || !is_known_down()) {
            self.note(result.as_ref().map_or_else(|cause| ReceiverState::Down(*cause), |_| ReceiverState::Up));
        }
        result
    }

    fn note(&self, state: ReceiverState) {
        let news = news_of(&self.config(), state);
        let changed = self.state.send_if_modified(|known| std::mem::replace(known, news.clone()) != news);
        if changed {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
            let config = self.config();
            match state {
                ReceiverState::Down(cause) => {
                    tracing::warn!(service = %config.name, target = %config.target, %cause, "receiver is down");
                }
                ReceiverState::Up => {
                    tracing::info!(service = %config.name, target = %config.target, "receiver is up");
                }
                ReceiverState::Unknown => {}
            }
        }
    }

    /// Probes the receiver until the service is retired, where the configuration asks for it, and only while it has no
    /// live connection.
    pub async fn probe(self: Arc<Self>) {
        let mut drain = self.drain.subscribe();
        let mut changed = self.config.subscribe();
        loop {
            let config = Arc::clone(&changed.borrow_and_update());
            let is_free = self.slots.available_permits() == config.connections_max.get();
            if is_free && config.probe == Probe::Tcp {
                // The probe's own slot keeps it from taking the only connection of a receiver beside a message's.
                if let Ok((receiver, slot)) = self.connect().await {
                    drop(receiver);
                    drop(slot);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY) => {}
                Ok(()) = changed.changed() => {}
                _ = drain.wait_for(|drain| *drain) => return,
            }
        }
    }
}
