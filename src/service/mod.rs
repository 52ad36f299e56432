//! The connection to a receiver, and its probe.
//!
//! It never opens more connections than the configuration says, and never tells a peer that a receiver is connected
//! before it is.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{self, Host, Name, Probe};
use crate::link::carry::{Ended, Leg, TcpLeg, Terms, carry};
use crate::link::inside::tune;
use crate::link::owners::Owners;
use crate::link::stream_end::StreamEnd;
use crate::link::tally::Tally;
use crate::link::wire::{Cause, ReceiverState};
use crate::mllp::frame::Limits;

/// A receiver that does not take a connection within this is silent.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A stream that gets no free connection to the receiver within this is refused; the near site holds and tries again.
const SLOT_WITHIN: Duration = Duration::from_secs(10);
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
    config: config::Service,
    tally: Arc<Tally>,
    slots: Arc<Semaphore>,
    waiting: AtomicU64,
    state: watch::Sender<ReceiverState>,
    since: Mutex<SystemTime>,
}

impl Service {
    /// Makes a service.
    pub fn new(config: config::Service) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(config.connections_max.get()));
        Arc::new(Self {
            config,
            tally: Arc::default(),
            slots,
            waiting: AtomicU64::new(0),
            state: watch::Sender::new(ReceiverState::Unknown),
            since: Mutex::new(SystemTime::now()),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &config::Service {
        &self.config
    }

    /// Returns what passed.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Counts who waits for a connection to the receiver now.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Tells what is known of the receiver, and since when.
    pub fn receiver(&self) -> (ReceiverState, SystemTime) {
        (*self.state.borrow(), *self.since.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Subscribes to what is known of the receiver.
    pub fn subscribe(&self) -> watch::Receiver<ReceiverState> {
        self.state.subscribe()
    }

    /// Tells whether a peer may use the service.
    pub fn allows(&self, peer: &Name) -> bool {
        self.config.allow_peers.contains(peer)
    }

    /// Serves a stream of a peer's link until it ends.
    pub async fn serve_stream(&self, mut stream: StreamEnd, stop: watch::Receiver<bool>) {
        let connected = tokio::select! {
            connected = self.connect() => connected,
            failed = stream.opened() => Err(failed.err().unwrap_or(Cause::SenderGone)),
        };
        match connected {
            Err(cause) => stream.refuse(cause),
            Ok((receiver, slot)) => {
                stream.accept();
                let ended = self.carry(&stream, &receiver, stop).await;
                stream.refuse(ended.cause());
                drop(receiver);
                drop(slot);
            }
        }
    }

    /// Serves the service's own port on the tunnel address, for peers that run plain WireGuard. Ends when `stop` turns
    /// true and the open connections ended where no message is on its way.
    pub async fn serve_port(self: Arc<Self>, listener: TcpListener, owners: Owners, mut stop: watch::Receiver<bool>) {
        let mut senders = JoinSet::new();
        loop {
            while senders.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Ok((tcp, from)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let peer = owners.of(from.ip()).map(|(_, peer)| peer).filter(|peer| self.allows(peer));
            let tie = peer.and_then(|peer| owners.tie(&tcp, from.ip(), &peer));
            let allowed = tie.is_some();
            let Some(tie) = tie.filter(|_| senders.len() < PLAIN_MAX) else {
                self.tally.refuse(if allowed { "too_many_connections" } else { "not_allowed" });
                continue;
            };
            let (service, stop) = (Arc::clone(&self), stop.clone());
            senders.spawn(async move { tie.hold(service.serve_plain(tcp, stop)).await });
        }
        drop(listener);
        while senders.join_next().await.is_some() {}
    }

    async fn serve_plain(&self, tcp: TcpStream, stop: watch::Receiver<bool>) {
        if tune(&tcp, RECEIVER_TIMEOUT).is_err() {
            return;
        }
        let sender = TcpLeg::sender(tcp);
        if let Ok((receiver, slot)) = self.connect().await {
            self.carry(&sender, &receiver, stop).await;
            drop(slot);
        }
    }

    async fn carry<S: Leg>(&self, sender: &S, receiver: &TcpLeg, stop: watch::Receiver<bool>) -> Ended {
        let terms = Terms {
            limits: Limits { frame_bytes_max: FRAME_BYTES_MAX, ..Limits::default() },
            idle_timeout: None,
            ack_timeout: self.config.ack_timeout,
            stop,
        };
        let connection = self.tally.begin();
        let ended = carry(sender, receiver, terms, &self.tally, connection).await;
        self.tally.end(connection, ended.code());
        tracing::debug!(service = %self.config.name, reason = ended.code(), "a receiver's connection ended");
        ended
    }

    /// Connects to the receiver as soon as it may have one more connection.
    async fn connect(&self) -> Result<(TcpLeg, OwnedSemaphorePermit), Cause> {
        let _waiting = Waiting::new(&self.waiting);
        let slot = tokio::time::timeout(SLOT_WITHIN, Arc::clone(&self.slots).acquire_owned()).await;
        let slot = slot.ok().and_then(Result::ok).ok_or(Cause::ReceiverBusy)?;
        let tcp = self.open().await?;
        Ok((TcpLeg::receiver(tcp), slot))
    }

    async fn open(&self) -> Result<TcpStream, Cause> {
        let result = match tokio::time::timeout(CONNECT_WITHIN, self.dial()).await {
            Ok(Ok(tcp)) => Ok(tcp),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Cause::ReceiverRefuses),
            Ok(Err(_)) => Err(Cause::ReceiverUnreachable),
            Err(_) => Err(Cause::ReceiverSilent),
        };
        self.note(result.as_ref().map_or_else(|cause| ReceiverState::Down(*cause), |_| ReceiverState::Up));
        result
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let target = &self.config.target;
        let tcp = match &target.host {
            Host::Address(address) => TcpStream::connect((*address, target.port)).await?,
            Host::Name(name) => TcpStream::connect((name.as_str(), target.port)).await?,
        };
        tune(&tcp, RECEIVER_TIMEOUT)?;
        Ok(tcp)
    }

    fn note(&self, state: ReceiverState) {
        let changed = self.state.send_if_modified(|known| std::mem::replace(known, state) != state);
        if changed {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
            match state {
                ReceiverState::Down(cause) => {
                    tracing::warn!(service = %self.config.name, target = %self.config.target, %cause, "receiver is down");
                }
                ReceiverState::Up | ReceiverState::Unknown => {
                    tracing::info!(service = %self.config.name, target = %self.config.target, "receiver is up");
                }
            }
        }
    }

    /// Probes the receiver for ever, where the configuration asks for it, and only while it has no live connection.
    pub async fn probe(self: Arc<Self>) {
        if self.config.probe == Probe::None {
            return std::future::pending().await;
        }
        loop {
            let is_free = self.slots.available_permits() == self.config.connections_max.get();
            if is_free {
                // The probe's own slot keeps it from taking the only connection of a receiver beside a message's.
                if let Ok((receiver, slot)) = self.connect().await {
                    drop(receiver);
                    drop(slot);
                }
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }
}

/// Counts one who waits for as long as it lives.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
