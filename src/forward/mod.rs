//! The listener, the sender's connection, transparent delivery.
//!
//! It never answers for the receiver, except with the refusal that `on_unreachable: nak` asks for, and never sends a
//! byte twice. Rules: design, delivery.md ("transparent").

mod refuse;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{self, OnUnreachable};
use crate::link::carry::{Ended, Leg, TcpLeg, Terms, carry};
use crate::link::inside::{Inside, tune};
use crate::link::outbound::Outbound;
use crate::link::tally::Tally;
use crate::link::wire::{Cause, ReceiverState};
use crate::mllp::frame::Limits;

/// Senders that connect at once and wait to be accepted: with fewer places a burst waits a second for its next SYN.
const BACKLOG: u32 = 1024;
/// Unacknowledged bytes to a sender end its connection after so long: it is gone, or its host is.
const SENDER_TIMEOUT: Duration = Duration::from_secs(120);
/// A connection through the tunnel outlives the wire's cuts by this much more than the hold.
const TIMEOUT_BEYOND_HOLD: Duration = Duration::from_secs(30);
/// A connection attempt inside the tunnel that takes longer is begun anew.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The pause between attempts, the first time; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A sender who is refused waits this long at most for the answer whether its receiver can be reached.
const NAK_WITHIN: Duration = Duration::from_secs(3);
/// `accept` failed, as for want of descriptors: it is tried again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says why a forward cannot listen.
#[derive(Debug, Error)]
#[error("cannot listen at {address} for forward {forward}; stop what uses it or choose another address")]
pub struct ListenError {
    forward: String,
    address: SocketAddr,
    source: io::Error,
}

/// Says how a forward reaches its receiver.
pub enum Way {
    /// Over a link to a service.
    Link(Arc<Outbound>),
    /// By TCP to an address inside the tunnel.
    Address(SocketAddr),
}

/// Is a running forward.
pub struct Forward {
    config: config::Forward,
    way: Way,
    inside: Inside,
    tally: Arc<Tally>,
    /// What connecting showed, for a receiver that is reached by its address.
    receiver: Mutex<(ReceiverState, SystemTime)>,
}

impl Forward {
    /// Makes a forward; [`Forward::run`] serves its senders.
    pub fn new(config: config::Forward, way: Way, inside: Inside) -> Arc<Self> {
        let receiver = Mutex::new((ReceiverState::Unknown, SystemTime::now()));
        Arc::new(Self { config, way, inside, tally: Arc::default(), receiver })
    }

    /// Binds the listening port.
    ///
    /// # Errors
    /// The port is taken or the address is not this host's.
    pub async fn listen(&self) -> Result<TcpListener, ListenError> {
        self.bind().map_err(|source| ListenError {
            forward: self.config.name.to_string(),
            address: self.config.listen,
            source,
        })
    }

    fn bind(&self) -> io::Result<TcpListener> {
        let address = self.config.listen;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// Returns the configuration.
    pub fn config(&self) -> &config::Forward {
        &self.config
    }

    /// Returns how the receiver is reached.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Returns what passed.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Tells what is known of the receiver, and since when.
    pub fn receiver(&self) -> (ReceiverState, SystemTime) {
        match &self.way {
            Way::Link(link) => link.session().receiver(),
            Way::Address(_) => *self.receiver.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Serves senders until `stop` turns true, then waits for the open connections to end where no message is on its
    /// way. Cancelling it ends them at once.
    pub async fn run(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let slots = Arc::new(Semaphore::new(self.config.connections_max.get()));
        let mut senders = JoinSet::new();
        loop {
            while senders.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (tcp, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(forward = %self.config.name, %error, "cannot accept a sender");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !self.admits(from.ip()) {
                self.tally.refuse("not_allowed");
                tracing::warn!(forward = %self.config.name, %from, "refused a sender: its address is not in allow_from");
                continue;
            }
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                self.tally.refuse("too_many_connections");
                continue;
            };
            let (forward, stop) = (Arc::clone(&self), stop.clone());
            senders.spawn(async move {
                forward.serve(tcp, from, stop).await;
                drop(slot);
            });
        }
        drop(listener);
        while senders.join_next().await.is_some() {}
    }

    fn admits(&self, from: IpAddr) -> bool {
        let from = from.to_canonical();
        self.config.allow_from.is_empty() || self.config.allow_from.iter().any(|prefix| prefix.contains(&from))
    }

    async fn serve(&self, tcp: TcpStream, from: SocketAddr, stop: watch::Receiver<bool>) {
        let connection = self.tally.begin();
        let sender = TcpLeg::sender(tcp);
        let ended = match tune(sender.tcp(), SENDER_TIMEOUT) {
            Ok(()) => self.deliver(&sender, connection, stop).await,
            Err(_) => Ended::Failed(Cause::SenderGone),
        };
        self.tally.end(connection, ended.code());
        tracing::debug!(forward = %self.config.name, %from, reason = ended.code(), "a sender's connection ended");
    }

    async fn deliver(&self, sender: &TcpLeg, connection: u64, stop: watch::Receiver<bool>) -> Ended {
        match (&self.way, self.config.on_unreachable) {
            (_, OnUnreachable::Nak) => self.deliver_or_refuse(sender, connection, stop).await,
            (Way::Link(link), OnUnreachable::Hold | OnUnreachable::Close) => {
                let mut stream = match link.session().open() {
                    Ok(stream) => stream,
                    Err(cause) => return Ended::Failed(cause),
                };
                let ended = self.carry(sender, &stream, connection, stop).await;
                stream.refuse(ended.cause());
                ended
            }
            (Way::Address(to), OnUnreachable::Hold) => {
                let connected = tokio::select! {
                    connected = self.connect_within_hold(*to, sender) => connected,
                    _ = stopped(stop.clone()) => Err(Cause::Stopping),
                };
                match connected {
                    Ok(receiver) => self.carry_inside(sender, receiver, *to, connection, stop).await,
                    Err(cause) => Ended::Failed(cause),
                }
            }
            (Way::Address(to), OnUnreachable::Close) => match self.connect(*to).await {
                Ok(receiver) => self.carry_inside(sender, receiver, *to, connection, stop).await,
                Err(cause) => Ended::Failed(cause),
            },
        }
    }

    /// Carries over a connection inside the tunnel, for as long as its address is the peer's.
    async fn carry_inside(
        &self,
        sender: &TcpLeg,
        receiver: TcpLeg,
        to: SocketAddr,
        connection: u64,
        stop: watch::Receiver<bool>,
    ) -> Ended {
        let Some(tie) = self.inside.owners().tie(receiver.tcp(), to.ip(), &self.config.peer) else {
            return Ended::Failed(Cause::ReceiverUnreachable);
        };
        let ended = tie.hold(self.carry(sender, &receiver, connection, stop)).await;
        ended.unwrap_or(Ended::Failed(Cause::ReceiverReset))
    }

    async fn carry<R: Leg>(
        &self,
        sender: &TcpLeg,
        receiver: &R,
        connection: u64,
        stop: watch::Receiver<bool>,
    ) -> Ended {
        let terms = Terms { limits: self.limits(), idle_timeout: self.config.idle_timeout, ack_timeout: None, stop };
        carry(sender, receiver, terms, &self.tally, connection).await
    }

    fn limits(&self) -> Limits {
        Limits { frame_bytes_max: self.config.message_bytes_max, ..Limits::default() }
    }

    /// Connects inside the tunnel, again and again, until bytes of the sender have waited for `hold_for`.
    ///
    /// Nothing of the sender is read meanwhile: a sender that leaves takes its message with it.
    async fn connect_within_hold(&self, to: SocketAddr, sender: &TcpLeg) -> Result<TcpLeg, Cause> {
        let mut first_byte: Option<Instant> = None;
        let mut pause = PAUSE_MIN;
        loop {
            let cause = match self.connect(to).await {
                Ok(receiver) => return Ok(receiver),
                Err(cause) => cause,
            };
            if first_byte.is_none() && tokio::time::timeout(Duration::ZERO, sender.readable()).await.is_ok() {
                first_byte = Some(Instant::now());
            }
            let is_closing = tokio::time::timeout(Duration::ZERO, sender.is_closing()).await.unwrap_or(false);
            if is_closing {
                return Err(Cause::SenderGone);
            }
            if first_byte.is_some_and(|at| at.elapsed() >= self.config.hold_for) {
                return Err(cause);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn connect(&self, to: SocketAddr) -> Result<TcpLeg, Cause> {
        let user_timeout = self.config.hold_for + TIMEOUT_BEYOND_HOLD;
        let is_the_peers = self.inside.owners().is_at(&self.config.peer, to.ip());
        let connected = tokio::time::timeout(CONNECT_WITHIN, self.inside.connect(to, user_timeout));
        let result = match if is_the_peers { connected.await } else { Ok(Err(io::ErrorKind::HostUnreachable.into())) } {
            Ok(Ok(tcp)) => Ok(TcpLeg::receiver(tcp)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Cause::ReceiverRefuses),
            Ok(Err(_)) => Err(Cause::ReceiverUnreachable),
            Err(_) => Err(Cause::ReceiverSilent),
        };
        self.note_receiver(result.as_ref().map_or_else(|cause| ReceiverState::Down(*cause), |_| ReceiverState::Up));
        result
    }

    fn note_receiver(&self, state: ReceiverState) {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        if receiver.0 != state {
            *receiver = (state, SystemTime::now());
        }
    }

    /// Delivers where the receiver can be reached, refuses message by message where it cannot.
    async fn deliver_or_refuse(&self, sender: &TcpLeg, connection: u64, stop: watch::Receiver<bool>) -> Ended {
        loop {
            let ended = match &self.way {
                Way::Link(link) => match link.session().open() {
                    Err(cause) => Err(cause),
                    Ok(mut stream) => match tokio::time::timeout(NAK_WITHIN, stream.opened()).await {
                        Ok(Ok(())) => {
                            let ended = self.carry(sender, &stream, connection, stop).await;
                            stream.refuse(ended.cause());
                            return ended;
                        }
                        Ok(Err(cause)) => Err(cause),
                        Err(_) => Err(Cause::ReceiverSilent),
                    },
                },
                Way::Address(to) => match self.connect(*to).await {
                    Ok(receiver) => return self.carry_inside(sender, receiver, *to, connection, stop).await,
                    Err(cause) => Err::<(), Cause>(cause),
                },
            };
            if ended.is_err() {
                let refused = tokio::select! {
                    refused = refuse::refuse_messages(sender, self.limits(), &self.tally) => refused,
                    _ = stopped(stop.clone()) => Err(Ended::Failed(Cause::Stopping)),
                };
                if let Err(ended) = refused {
                    return ended;
                }
                // What the sender says next is worth a new attempt.
                tokio::select! {
                    () = sender.readable() => {}
                    _ = stopped(stop.clone()) => return Ended::Failed(Cause::Stopping),
                }
            }
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
}
