//! The far end of all links: accepts at the link port, asks the tunnel who is there, hands streams to the services.
//!
//! It never believes a name that a peer claims: the tunnel vouches for the far address, and that address for the key.
//! Who may use what can change while links are up: [`Inbound::review`] has them judged again.

mod door;
mod kept;
mod stored;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;

use super::carry::DRAIN_WITHIN;
use super::feed::station::OpenStation;
use super::owners::Owners;
use super::session::{Ended, Session};
use super::stream_end::StreamEnd;
use super::wire::{CARRIES_STORED, Cause, Hello, Instance, ReceiverNews, Record, VERSION, Welcome, decode, encode};
use super::{FLUSH_WITHIN, cause_chain};
use crate::audit::{Account, Event};
use crate::config::{Name, PublicKey};
use door::Door;
use kept::{Link, LinkKey, Links, has_room, take_ghosts};
use stored::Receptions;

/// A greeting takes no longer.
const GREET_WITHIN: Duration = Duration::from_secs(5);
/// A greeting is one small record, in bytes.
const GREETING_BYTES_MAX: usize = 1024;
/// Streams of one link that wait for their service to take them.
const ARRIVALS_MAX: usize = 1024;
/// Streams outlive their connection by this much more than the near site keeps them.
const LINGER_MORE: Duration = Duration::from_secs(10);
/// The longest that a peer may make us keep streams.
const LINGER_MAX: Duration = Duration::from_secs(3600);
/// The receiver connections of a restarted peer's old streams are closed within this, before new ones open.
const OLD_STREAMS_WITHIN: Duration = Duration::from_secs(2);
/// The streams of a link that its peer may no longer use end by themselves within [`DRAIN_WITHIN`], and have so much more
/// time to say so.
const DRAIN_MORE: Duration = Duration::from_secs(1);
/// `accept` failed, as for want of descriptors: it is tried again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Is a stream that a peer opened to a service.
pub struct Arrival {
    /// Is this end of the stream.
    pub stream: StreamEnd,
    /// Names the peer.
    pub peer: Name,
    /// Names the service.
    pub service: Name,
}

/// Finds a service by its name, if a peer may use it.
pub type FindService = Box<dyn Fn(&str, &Name) -> Result<Name, Cause> + Send + Sync>;
/// Tells how a service's receiver is, and whenever that changes.
pub type FindReceiver = Box<dyn Fn(&Name) -> Option<watch::Receiver<ReceiverNews>> + Send + Sync>;

/// Answers what the inbound end must know of the rooms around it.
pub struct Gate {
    /// Finds the peer that an inner address belongs to now.
    pub owners: Owners,
    /// Finds a service by its name and tells whether a peer may use it.
    pub service: FindService,
    /// Tells how a service's receiver is, and whenever that changes.
    pub receiver: FindReceiver,
    /// Opens the station of a peer's stored messages; without it a peer is told that such are not carried.
    pub stations: Option<OpenStation>,
    /// Takes the streams.
    pub arrivals: mpsc::Sender<Arrival>,
    /// Names this site.
    pub site: String,
    /// Identifies this start of it.
    pub instance: Instance,
}

/// Is the far end of all links.
pub struct Inbound {
    gate: Gate,
    links: Mutex<Links>,
    receptions: Mutex<Receptions>,
    doors: Mutex<HashMap<PublicKey, Arc<Door>>>,
    /// Changes when who may use what may have changed.
    reviews: watch::Sender<u64>,
    account: OnceLock<Account>,
}

impl Inbound {
    /// Makes the end; [`Inbound::run`] serves a listener.
    pub fn new(gate: Gate) -> Arc<Self> {
        Arc::new(Self {
            gate,
            links: Mutex::default(),
            receptions: Mutex::default(),
            doors: Mutex::default(),
            reviews: watch::Sender::new(0),
            account: OnceLock::new(),
        })
    }

    /// Looks again who may use which service: links of peers that may not end, their streams first.
    pub fn review(&self) {
        self.reviews.send_modify(|count| *count = count.wrapping_add(1));
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.retain(|_, door| Arc::strong_count(door) > 1);
    }

    /// Accepts links on a listener, for ever. Cancel-safe.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let (tcp, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a link");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some((key, peer)) = self.gate.owners.of(from.ip()) else { continue };
            let door = self.door(key);
            // Beyond the limit the newest is closed; the peer tries again.
            let Ok(place) = Arc::clone(&door.places).try_acquire_owned() else {
                door.tell_of_crowd(&peer);
                continue;
            };
            let inbound = Arc::clone(&self);
            connections.spawn(async move {
                let greeted = tokio::time::timeout(GREET_WITHIN, inbound.greet(tcp, from, peer, &door)).await;
                if let Ok(Some(greeted)) = greeted {
                    if greeted.hello.capabilities & CARRIES_STORED != 0
                        && let Some(open) = &inbound.gate.stations
                    {
                        inbound.serve_stored(greeted, &door, place, open).await;
                    } else {
                        inbound.serve(greeted, &door, place).await;
                    }
                }
            });
        }
    }

    fn door(&self, key: PublicKey) -> Arc<Door> {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(doors.entry(key).or_default())
    }

    /// Fails every stream of every link.
    pub fn fail_all(&self, cause: Cause) {
        for link in self.lock().values() {
            link.session.fail_all(cause);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn greet(&self, mut tcp: TcpStream, from: SocketAddr, peer: Name, door: &Door) -> Option<Greeted> {
        super::inside::tune(&tcp, super::USER_TIMEOUT).ok()?;
        let (hello, early) = read_hello(&mut tcp).await?;
        let refusal = match (self.gate.service)(&hello.service, &peer) {
            _ if !(hello.version_min..=hello.version_max).contains(&VERSION) => Cause::Protocol,
            Ok(service) if hello.capabilities & CARRIES_STORED != 0 && self.gate.stations.is_some() => {
                return Some(Greeted { tcp, early, from, peer, hello, service });
            }
            _ if !has_room(&mut self.lock(), &LinkKey::new(&peer, &hello)) => Cause::TooManyStreams,
            Ok(service) => return Some(Greeted { tcp, early, from, peer, hello, service }),
            Err(cause) => cause,
        };
        door.tell_of_refusal(&peer, &hello, refusal);
        let mut out = BytesMut::new();
        encode(&Record::Refuse(refusal), &mut out);
        tcp.write_all(&out).await.ok();
        None
    }

    async fn serve(self: &Arc<Self>, greeted: Greeted, door: &Door, place: OwnedSemaphorePermit) {
        let Greeted { mut tcp, early, from, peer, hello, service } = greeted;
        let Some(tie) = self.gate.owners.tie(&tcp, from.ip(), &peer) else { return };
        let link_key = LinkKey::new(&peer, &hello);
        let (session, mut turn, resumed) = {
            let _alone = door.take_over.lock().await;
            self.take_over(&link_key, &hello, &service).await
        };
        drop(place);
        let mut out = BytesMut::new();
        let (site, instance) = (self.gate.site.clone(), self.gate.instance);
        encode(&Record::Welcome(Welcome { version: VERSION, capabilities: 0, instance, resumed, site }), &mut out);
        let forward = printable(&hello.forward);
        let ended = match tcp.write_all(&out).await {
            Err(error) => Ended::Broken(error),
            Ok(()) => {
                tracing::info!(%peer, %forward, %service, resumed, "link is up");
                self.note(Event::LinkUp, (&peer, &forward, &service), "");
                tokio::select! {
                    biased;
                    // The newer connection's own `run` goes on with the streams.
                    _ = turn.changed() => Ended::Replaced,
                    ended = tie.hold(session.run(tcp, early, resumed)) => ended.unwrap_or(Ended::Moved),
                    () = self.tell_receiver(&service, |news| session.tell_receiver(news)) => Ended::Closed,
                    cause = self.expelled(&session, from, &peer, &service) => {
                        tracing::warn!(%peer, %forward, %service, %cause, "closed a link");
                        self.lock().remove(&link_key);
                        return;
                    }
                }
            }
        };
        if !matches!(ended, Ended::Replaced) {
            let why = cause_chain(&ended);
            tracing::info!(%peer, %forward, %why, "link is down");
            self.note(Event::LinkDown, (&peer, &forward, &service), &why.to_string());
            tokio::select! {
                biased;
                () = self.linger(&link_key, &session, turn) => {}
                _ = self.expelled(&session, from, &peer, &service) => drop(self.lock().remove(&link_key)),
            }
        }
    }

    /// Tells whether the peer may use the service now, and is still who is at that address.
    fn judge(&self, from: SocketAddr, peer: &Name, service: &Name) -> Result<(), Cause> {
        if !self.gate.owners.is_at(peer, from.ip()) {
            return Err(Cause::ServiceNotAllowed);
        }
        (self.gate.service)(service.as_str(), peer).map(|_| ())
    }

    /// Waits until the peer may not use the link any more and its streams have ended, within a bound. Cancel-safe.
    async fn expelled(&self, session: &Arc<Session>, from: SocketAddr, peer: &Name, service: &Name) -> Cause {
        let mut reviews = self.reviews.subscribe();
        loop {
            if self.judge(from, peer, service).is_err() {
                session.drained(DRAIN_WITHIN + DRAIN_MORE).await;
                if let Err(cause) = self.judge(from, peer, service) {
                    session.fail_all(Cause::Withdrawn);
                    tokio::time::sleep(FLUSH_WITHIN).await;
                    return cause;
                }
            }
            if reviews.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Finds the link's streams, or begins anew: a new start of the near site ends what its old one left.
    async fn take_over(
        self: &Arc<Self>,
        key: &LinkKey,
        hello: &Hello,
        service: &Name,
    ) -> (Arc<Session>, watch::Receiver<u64>, bool) {
        let linger = (Duration::from_millis(hello.linger_ms.into()) + LINGER_MORE).min(LINGER_MAX);
        let old = {
            let mut links = self.lock();
            match links.get_mut(key) {
                Some(link) if link.service == *service => {
                    link.turn.send_modify(|turn| *turn += 1);
                    link.linger = linger;
                    link.session.set_hold_for(linger);
                    // Until the new connection runs there is none, should it never come to that.
                    link.session.disconnected(Cause::LinkDown);
                    return (Arc::clone(&link.session), link.turn.subscribe(), true);
                }
                _ => take_ghosts(&mut links, key),
            }
        };
        for ghost in &old {
            ghost.turn.send_modify(|turn| *turn += 1);
            ghost.session.fail_all(Cause::Lost);
        }
        let deadline = Instant::now() + OLD_STREAMS_WITHIN;
        while old.iter().any(|ghost| ghost.session.count() > 0) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (arrivals, streams) = mpsc::channel(ARRIVALS_MAX);
        let session = Session::far(linger, arrivals);
        self.clerk_for(&key.peer).into_iter().for_each(|clerk| session.set_clerk(clerk));
        let mut tasks = JoinSet::new();
        let clock = Arc::clone(&session);
        tasks.spawn(async move { clock.run_clock().await });
        tasks.spawn(hand_over(streams, self.gate.arrivals.clone(), key.peer.clone(), service.clone()));
        let (turn, receiver) = watch::channel(0);
        let link = Link { service: service.clone(), session: Arc::clone(&session), turn, linger, _tasks: tasks };
        self.lock().insert(key.clone(), link);
        (session, receiver, false)
    }

    /// Keeps a link without a connection for as long as the near site may come back for its streams, then forgets it.
    ///
    /// `turn` changes, or its link is gone, where a newer connection took over.
    async fn linger(&self, key: &LinkKey, session: &Arc<Session>, mut turn: watch::Receiver<u64>) {
        if turn.has_changed().unwrap_or(true) {
            return;
        }
        session.disconnected(Cause::LinkDown);
        let Some(linger) = self.lock().get(key).map(|link| link.linger) else { return };
        tokio::select! {
            biased;
            _ = turn.changed() => {}
            () = tokio::time::sleep(linger) => {
                self.lock().remove(key);
                // Its clock ends with the link: a receiver's connection must not be held by a ghost.
                session.fail_all(Cause::LinkDown);
            }
        }
    }

    /// Tells the near site how the receiver is, at once and at each change, for as long as the link is up.
    async fn tell_receiver(&self, service: &Name, tell: impl Fn(ReceiverNews)) {
        let mut reviews = self.reviews.subscribe();
        loop {
            if let Some(mut receiver) = (self.gate.receiver)(service) {
                loop {
                    let news = receiver.borrow_and_update().clone();
                    tell(news);
                    if receiver.changed().await.is_err() {
                        break;
                    }
                }
            }
            // The service is gone; another one may get its name.
            if reviews.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

struct Greeted {
    tcp: TcpStream,
    early: BytesMut,
    from: SocketAddr,
    peer: Name,
    hello: Hello,
    service: Name,
}

async fn read_hello(tcp: &mut TcpStream) -> Option<(Hello, BytesMut)> {
    let mut buffer = BytesMut::with_capacity(GREETING_BYTES_MAX);
    loop {
        if tcp.read_buf(&mut buffer).await.ok()? == 0 || buffer.len() > GREETING_BYTES_MAX * 8 {
            return None;
        }
        match decode(&buffer).ok()? {
            None => {}
            Some((Record::Hello(hello), hello_bytes)) => return Some((hello, buffer.split_off(hello_bytes))),
            Some(_) => return None,
        }
    }
}

/// Adds to each stream whose it is.
async fn hand_over(mut streams: mpsc::Receiver<StreamEnd>, arrivals: mpsc::Sender<Arrival>, peer: Name, service: Name) {
    while let Some(stream) = streams.recv().await {
        let arrival = Arrival { stream, peer: peer.clone(), service: service.clone() };
        if arrivals.send(arrival).await.is_err() {
            return;
        }
    }
}

/// Makes a name that a peer claims fit for a log line.
fn printable(name: &str) -> String {
    Name::new(name).map_or_else(|| "(not a name)".to_owned(), |name| name.to_string())
}

#[cfg(test)]
mod tests;
