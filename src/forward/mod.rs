//! The listener, and how the senders that connect now are served: `deliver` carries them to the receiver, `stored` keeps
//! what they send.
//!
//! Without a spool it never answers for the receiver, except with the refusal that `on_unreachable: nak` asks for, and
//! never sends a byte twice. A change of its configuration counts for the senders that connect from then on; those that
//! are connected keep what they began with. Rules: design, delivery.md.

mod answer;
mod deliver;
mod greet;
mod refuse;
mod sources;
pub mod stored;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config;
use crate::link::inside::Inside;
use crate::link::outbound::Outbound;
use crate::link::tally::Tally;
use crate::link::wire::{Cause, ReceiverNews, ReceiverState};
use crate::spool::store::Destination;
use deliver::Delivery;
pub use greet::not_to_be_taken;
use greet::{Advice, greet};
use sources::{Counted, Sources};
use stored::here::Here;
use stored::store::Store;
use stored::{Held, Intake};

/// Senders that connect at once and wait to be accepted: with fewer places a burst waits a second for its next SYN.
const BACKLOG: u32 = 1024;
/// Unacknowledged bytes to a sender end its connection after so long: it is gone, or its host is.
const SENDER_TIMEOUT: Duration = Duration::from_secs(120);
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
#[derive(Clone)]
pub enum Way {
    /// Over a link to a service.
    Link(Arc<Outbound>),
    /// By TCP to an address inside the tunnel.
    Address(SocketAddr),
    /// Into a spool first.
    Stored(Arc<Store>, Onward),
}

/// Says how stored messages reach their receiver.
#[derive(Clone)]
pub enum Onward {
    /// Over a link to a service: the link, and where it leads.
    Link(Arc<Outbound>, Destination),
    /// By this site itself, to an address inside the tunnel.
    Here(Arc<Here>),
}

impl Onward {
    /// Says where it leads: only messages that were accepted for there go this way.
    pub fn destination(&self) -> &Destination {
        match self {
            Self::Link(_, to) => to,
            Self::Here(here) => here.destination(),
        }
    }
}

impl Way {
    /// Returns the link, where there is one.
    pub fn link(&self) -> Option<&Arc<Outbound>> {
        match self {
            Self::Link(link) | Self::Stored(_, Onward::Link(link, _)) => Some(link),
            Self::Address(_) | Self::Stored(_, Onward::Here(_)) => None,
        }
    }

    /// Returns the spool, where there is one.
    pub fn store(&self) -> Option<&Arc<Store>> {
        match self {
            Self::Stored(store, _) => Some(store),
            Self::Link(_) | Self::Address(_) => None,
        }
    }
}

/// Is how senders that connect are served.
#[derive(Clone)]
struct Course {
    config: Arc<config::Forward>,
    way: Way,
    /// Turns true when the connections that took this course are to end.
    drain: watch::Sender<bool>,
}

/// Is where senders connect.
#[derive(Default)]
struct Door {
    listener: Option<Arc<TcpListener>>,
    closed: watch::Sender<bool>,
}

/// Is a running forward.
pub struct Forward {
    course: Mutex<Course>,
    door: Mutex<Door>,
    /// Counts the senders that are connected.
    open: AtomicUsize,
    /// Counts them by where they come from.
    sources: Sources,
    inside: Inside,
    tally: Tally,
    /// Bounds what its senders have begun and is not stored yet.
    held: Held,
    /// What connecting showed, for a receiver that is reached by its address.
    receiver: Mutex<(ReceiverState, SystemTime)>,
    advice: Advice,
}

/// Binds a forward's listening port.
///
/// `leaving` holds a listener that is about to close and has the same port: the new one may come before it is gone.
///
/// # Errors
/// The port is taken or the address is not this host's.
pub fn listen(config: &config::Forward, leaving: Option<&TcpListener>) -> Result<TcpListener, ListenError> {
    let address = config.listen;
    let bind = |beside: bool| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(beside)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        socket2::SockRef::from(&listener).set_reuse_port(false)?;
        Ok(listener)
    };
    let bound = match leaving.map(socket2::SockRef::from) {
        None => bind(false),
        Some(leaving) => {
            // Both must allow it for this moment. (The kernel shares with processes of the same user only.)
            let bound = leaving.set_reuse_port(true).and_then(|()| bind(true));
            leaving.set_reuse_port(false).and(bound)
        }
    };
    bound.map_err(|source| ListenError { forward: config.name.to_string(), address, source })
}

impl Forward {
    /// Makes a forward; [`Forward::serve`] serves its senders.
    pub fn new(config: config::Forward, way: Way, inside: Inside) -> Arc<Self> {
        let course = Course { config: Arc::new(config), way, drain: watch::Sender::new(false) };
        Arc::new(Self {
            course: Mutex::new(course),
            door: Mutex::default(),
            open: AtomicUsize::new(0),
            sources: Sources::default(),
            inside,
            tally: Tally::default(),
            held: Held::default(),
            receiver: Mutex::new((ReceiverState::Unknown, SystemTime::now())),
            advice: Advice::default(),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> Arc<config::Forward> {
        self.course().config
    }

    /// Returns how the receiver is reached.
    pub fn way(&self) -> Way {
        self.course().way
    }

    fn course(&self) -> Course {
        self.course.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what passed.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Returns the listener, while there is one.
    pub fn listener(&self) -> Option<Arc<TcpListener>> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner).listener.clone()
    }

    /// Tells what is known of the receiver, and since when.
    pub fn receiver(&self) -> (ReceiverNews, SystemTime) {
        let (state, since) = match self.way() {
            Way::Link(link) | Way::Stored(_, Onward::Link(link, _)) => return link.receiver(),
            Way::Stored(_, Onward::Here(here)) => here.receiver(),
            Way::Address(_) => *self.receiver.lock().unwrap_or_else(PoisonError::into_inner),
        };
        (state.into(), since)
    }

    /// Changes what counts for senders that connect from now on; the way to the receiver stays.
    pub fn change(&self, config: config::Forward) {
        self.course.lock().unwrap_or_else(PoisonError::into_inner).config = Arc::new(config);
    }

    /// Sends the senders that connect from now on another way; those that are connected end where no message is on its
    /// way, within a bound.
    pub fn redirect(&self, config: config::Forward, way: Way) {
        let course = Course { config: Arc::new(config), way, drain: watch::Sender::new(false) };
        let old = std::mem::replace(&mut *self.course.lock().unwrap_or_else(PoisonError::into_inner), course);
        *self.receiver.lock().unwrap_or_else(PoisonError::into_inner) = (ReceiverState::Unknown, SystemTime::now());
        old.retire();
    }

    /// Lets no sender in any more; those that are connected end where no message is on its way, within a bound.
    pub fn retire(&self) {
        self.open_door(None);
        self.course().retire();
    }

    fn open_door(&self, listener: Option<Arc<TcpListener>>) -> watch::Receiver<bool> {
        let door = Door { listener, closed: watch::Sender::new(false) };
        let closed = door.closed.subscribe();
        let old = std::mem::replace(&mut *self.door.lock().unwrap_or_else(PoisonError::into_inner), door);
        old.closed.send_replace(true);
        closed
    }

    /// Serves the senders that connect here, instead of where they did before, until the forward listens elsewhere or is
    /// retired; then waits for the open connections to end. Dropping the future ends them at once.
    pub fn serve(self: Arc<Self>, listener: Arc<TcpListener>) -> impl Future<Output = ()> {
        let closed = self.open_door(Some(Arc::clone(&listener)));
        self.accept(listener, closed)
    }

    async fn accept(self: Arc<Self>, listener: Arc<TcpListener>, mut closed: watch::Receiver<bool>) {
        let mut senders = JoinSet::new();
        loop {
            while senders.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closed.wait_for(|closed| *closed) => break,
            };
            match accepted {
                Ok((tcp, from)) => self.admit(tcp, from, &mut senders),
                Err(error) => {
                    tracing::warn!(forward = %self.config().name, %error, "cannot accept a sender");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // Where no other forward goes on with the listener, who waits to be accepted would be reset.
        while Arc::strong_count(&listener) == 1
            && let Ok((tcp, from)) = accept_now(&listener)
        {
            self.admit(tcp, from, &mut senders);
        }
        drop(listener);
        while senders.join_next().await.is_some() {}
    }

    fn admit(self: &Arc<Self>, tcp: TcpStream, from: SocketAddr, senders: &mut JoinSet<()>) {
        let course = self.course();
        if !admits(&course.config, from.ip()) {
            self.tally.refuse("not_allowed");
            tracing::warn!(forward = %course.config.name, %from, "refused a sender: its address is not in allow_from");
            return;
        }
        if self.open.load(Ordering::Relaxed) >= course.config.connections_max.get() {
            self.tally.refuse("too_many_connections");
            return;
        }
        let (places, rate) = (course.config.source_connections_max, course.config.source_rate_max);
        let Some((counted, wait)) = self.sources.take(from.ip(), Instant::now(), places, rate) else {
            self.tally.refuse("too_many_from_source");
            return;
        };
        let place = Place::new(self, counted);
        senders.spawn(async move {
            let mut drain = course.drain.subscribe();
            let is_served = wait.is_zero()
                || tokio::select! {
                    () = tokio::time::sleep(wait) => true,
                    _ = drain.wait_for(|drain| *drain) => false,
                };
            if is_served {
                place.forward.serve_sender(course, tcp, from).await;
            }
            drop(place);
        });
    }

    async fn serve_sender(&self, course: Course, tcp: TcpStream, from: SocketAddr) {
        let connection = self.tally.begin();
        let config = Arc::clone(&course.config);
        // Each part has its memory for as long as it lasts: an idle connection has none of a handshake's, and of one delivery.
        let mut is_greeted = true;
        let code = match Box::pin(greet(config.tls.as_deref(), tcp, course.drain.subscribe())).await {
            Err(code) => {
                is_greeted = false;
                code
            }
            Ok(sender) => match (config.delivery, &course.way) {
                (config::Delivery::Stored(terms), Way::Stored(store, _)) => {
                    let (tally, held, stop) = (&self.tally, &self.held, course.drain.subscribe());
                    let intake = Intake { config: Arc::clone(&config), terms, keep: store.as_ref(), tally, held, stop };
                    Box::pin(intake.serve(&sender, connection)).await
                }
                (config::Delivery::Transparent(terms), _) => {
                    let delivery = Delivery::new(self, course, terms);
                    Box::pin(delivery.deliver(&sender, connection)).await.code()
                }
                // a course has the way of its delivery
                (config::Delivery::Stored(_), _) => Cause::Refused.code(),
            },
        };
        self.tally.end(connection, code);
        self.advice.give(&config, from, code, is_greeted);
        tracing::debug!(forward = %config.name, %from, reason = code, "a sender's connection ended");
    }

    fn note_receiver(&self, to: SocketAddr, state: ReceiverState) {
        let is_current = matches!(self.way(), Way::Address(now) if now == to);
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        if is_current && receiver.0 != state {
            *receiver = (state, SystemTime::now());
        }
    }
}

impl Course {
    fn retire(&self) {
        self.drain.send_replace(true);
        if let Some(link) = self.way.link() {
            link.retire();
        }
        if let Way::Stored(_, Onward::Here(here)) = &self.way {
            here.retire();
        }
    }
}

/// Accepts who is waiting, by asking the kernel: the runtime may not have heard of it yet.
fn accept_now(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, from) = socket2::SockRef::from(listener).accept()?;
    socket.set_nonblocking(true)?;
    let from = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((TcpStream::from_std(socket.into())?, from))
}

fn admits(config: &config::Forward, from: IpAddr) -> bool {
    let from = from.to_canonical();
    config.allow_from.is_empty() || config.allow_from.iter().any(|prefix| prefix.contains(&from))
}

/// Counts a sender for as long as it is connected.
struct Place {
    forward: Arc<Forward>,
    _counted: Counted,
}

impl Place {
    fn new(forward: &Arc<Forward>, counted: Counted) -> Self {
        forward.open.fetch_add(1, Ordering::Relaxed);
        Self { forward: Arc::clone(forward), _counted: counted }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.forward.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
