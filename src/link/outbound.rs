//! The near end of a link: dials the peer's link port inside the tunnel, for ever.
//!
//! It never gives up: after a failure it waits with backoff and jitter, and dials at once when the peer shows a sign of
//! life, because TCP's own backoff would not (design, delivery.md). A link that the configuration no longer names ends
//! when its streams have.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::carry::DRAIN_WITHIN;
use super::inside::Inside;
use super::session::{Ended, Session};
use super::wire::{Cause, Hello, Instance, Record, VERSION, Welcome, WireError, decode, encode};
use super::{FLUSH_WITHIN, USER_TIMEOUT, cause_chain};
use crate::config::Name;

/// A connection attempt that takes longer is begun anew: its SYN waits in a backoff.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The greeting is answered within this.
const GREET_WITHIN: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: a peer that is back is found within it, even if it says nothing.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A link that held for so long is dialled again at once when it breaks; one that breaks sooner waits longer each time.
const STEADY: Duration = Duration::from_secs(2);
/// The streams of a link that is no longer wanted end by themselves within [`DRAIN_WITHIN`], and have so much more time to
/// say so.
const DRAIN_MORE: Duration = Duration::from_secs(2);
/// A greeting is one small record, in bytes.
const GREETING_BYTES_MAX: usize = 1024;

/// Says how a link is.
#[derive(Debug, Clone)]
pub enum LinkState {
    /// It is being set up for the first time.
    New,
    /// It carries.
    Up {
        /// Says since when.
        since: SystemTime,
    },
    /// It does not.
    Down {
        /// Says since when.
        since: SystemTime,
        /// Is the kind of failure.
        cause: Cause,
        /// Says why, in one line.
        why: String,
    },
}

/// Says why a link does not come up.
#[derive(Debug, Error)]
pub enum DialError {
    /// TCP cannot connect.
    #[error("cannot connect to the link port {address}")]
    Connect {
        /// Is where.
        address: SocketAddr,
        /// Says why.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("no answer from the link port {address}")]
    Silent {
        /// Is where.
        address: SocketAddr,
    },
    /// The other side speaks something else.
    #[error("the link port {address} does not speak wardlink's protocol")]
    Foreign {
        /// Is where.
        address: SocketAddr,
        /// Says what is wrong.
        source: WireError,
    },
    /// The connection broke in the greeting.
    #[error("the link port {address} broke the connection off")]
    Broken {
        /// Is where.
        address: SocketAddr,
    },
    /// The address belongs to another peer, or to none: `wg` can move it.
    #[error("the address of the link port {address} does not belong to the peer")]
    NotThePeers {
        /// Is where.
        address: SocketAddr,
    },
    /// The other side refuses, and says why.
    #[error("{0}")]
    Refused(Cause),
}

impl DialError {
    fn cause(&self) -> Cause {
        match self {
            Self::Refused(cause) => *cause,
            Self::Foreign { .. } => Cause::Protocol,
            Self::Connect { .. } | Self::Silent { .. } | Self::Broken { .. } | Self::NotThePeers { .. } => {
                Cause::LinkDown
            }
        }
    }
}

/// Says what a link connects.
#[derive(Debug, Clone)]
pub struct Route {
    /// Names this site.
    pub site: String,
    /// Identifies this start of it, and the link.
    pub instance: Instance,
    /// Names the forward.
    pub forward: String,
    /// Names the service at the peer.
    pub service: String,
    /// Names the peer.
    pub peer: Name,
    /// Is the peer's link port.
    pub address: SocketAddr,
}

/// Is the near end of a link.
pub struct Outbound {
    session: Arc<Session>,
    state: Mutex<LinkState>,
    route: Route,
    inside: Inside,
    hold_for: Mutex<Duration>,
    /// Is the peer's sign of life, once it is known whose.
    life: watch::Sender<Option<watch::Receiver<u64>>>,
    regreet: Notify,
    retired: watch::Sender<bool>,
}

impl Outbound {
    /// Makes the end; [`Outbound::run`] brings it up.
    ///
    /// `hold_for` bounds how long streams outlive their connection.
    pub fn new(route: Route, inside: Inside, hold_for: Duration) -> Arc<Self> {
        Arc::new(Self {
            session: Session::near(hold_for),
            state: Mutex::new(LinkState::New),
            route,
            inside,
            hold_for: Mutex::new(hold_for),
            life: watch::Sender::new(None),
            regreet: Notify::new(),
            retired: watch::Sender::new(false),
        })
    }

    /// Tells whether the link leads to this service at this peer and its link port.
    pub fn leads_to(&self, service: &str, peer: &Name, address: SocketAddr) -> bool {
        self.route.service == service && self.route.peer == *peer && self.route.address == address
    }

    /// Says which peer's signs of life count from now on: `awake` changes at each.
    pub fn follow(&self, awake: watch::Receiver<u64>) {
        self.life.send_replace(Some(awake));
    }

    /// Changes how long streams outlive their connection. Where the far side must keep them for longer, it is greeted
    /// again, and the streams go on over the new connection.
    pub fn set_hold_for(&self, hold_for: Duration) {
        let before = std::mem::replace(&mut *self.hold_for.lock().unwrap_or_else(PoisonError::into_inner), hold_for);
        if before != hold_for {
            self.session.set_hold_for(hold_for);
        }
        if before < hold_for {
            self.regreet.notify_one();
        }
    }

    fn hold_for(&self) -> Duration {
        *self.hold_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the link as soon as its streams have ended, within a bound; [`Outbound::run`] then returns.
    pub fn retire(&self) {
        self.retired.send_replace(true);
    }

    /// Returns the streams.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Tells how the link is.
    pub fn state(&self) -> LinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the link up until it is retired and its streams have ended. Cancel-safe.
    pub async fn run(self: Arc<Self>, mut jitter: impl FnMut() -> f64) {
        tokio::select! {
            () = self.session.run_clock() => {}
            () = self.dial_for_ever(&mut jitter) => {}
            () = self.ended() => {}
        }
    }

    async fn ended(&self) {
        let mut retired = self.retired.subscribe();
        if retired.wait_for(|retired| *retired).await.is_err() {
            return;
        }
        self.session.drained(DRAIN_WITHIN + DRAIN_MORE).await;
        self.session.fail_all(Cause::Stopping);
        tokio::time::sleep(FLUSH_WITHIN).await;
    }

    async fn dial_for_ever(&self, jitter: &mut impl FnMut() -> f64) {
        let mut awake = SignsOfLife::new(self.life.subscribe());
        let mut far: Option<Instance> = None;
        let mut pause = PAUSE_MIN;
        loop {
            awake.forget();
            let greeted = tokio::select! {
                greeted = self.greet() => greeted,
                // A sign of life while an attempt hangs: its SYN may be lost, a new one is answered now.
                () = awake.next() => continue,
            };
            match greeted {
                Ok((tcp, welcome, early)) => {
                    let resumed = welcome.resumed && far == Some(welcome.instance);
                    far = Some(welcome.instance);
                    self.up();
                    let began = Instant::now();
                    let Some(ended) = self.run_connection(tcp, early, resumed, &mut awake).await else {
                        self.session.disconnected(Cause::LinkDown);
                        continue;
                    };
                    if began.elapsed() >= STEADY {
                        pause = PAUSE_MIN;
                    }
                    self.down(Cause::LinkDown, cause_chain(&ended));
                }
                Err(error) => self.down(error.cause(), cause_chain(&error)),
            }
            let wait = pause.mul_f64(0.5 + jitter() / 2.0);
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = awake.next() => {}
            }
        }
    }

    /// Moves records until the connection ends, and says why; nothing where it is to be greeted again.
    async fn run_connection(
        &self,
        tcp: TcpStream,
        early: BytesMut,
        resumed: bool,
        awake: &mut SignsOfLife,
    ) -> Option<Ended> {
        let wake = async {
            loop {
                awake.next().await;
                self.session.wake();
            }
        };
        let Some(tie) = self.inside.owners().tie(&tcp, self.route.address.ip(), &self.route.peer) else {
            return Some(Ended::Moved);
        };
        tokio::select! {
            ended = tie.hold(self.session.run(tcp, early, resumed)) => Some(ended.unwrap_or(Ended::Moved)),
            ended = wake => Some(ended),
            () = self.regreet.notified() => None,
        }
    }

    async fn greet(&self) -> Result<(TcpStream, Welcome, BytesMut), DialError> {
        let address = self.route.address;
        if !self.inside.owners().is_at(&self.route.peer, address.ip()) {
            return Err(DialError::NotThePeers { address });
        }
        let connect = tokio::time::timeout(CONNECT_WITHIN, self.inside.connect(address, USER_TIMEOUT)).await;
        let mut tcp = connect
            .map_err(|_| DialError::Silent { address })?
            .map_err(|source| DialError::Connect { address, source })?;
        tokio::time::timeout(GREET_WITHIN, self.exchange_greetings(&mut tcp))
            .await
            .map_err(|_| DialError::Silent { address })?
            .map(|(welcome, early)| (tcp, welcome, early))
    }

    async fn exchange_greetings(&self, tcp: &mut TcpStream) -> Result<(Welcome, BytesMut), DialError> {
        let address = self.route.address;
        let mut hello = BytesMut::new();
        encode(&Record::Hello(self.hello()), &mut hello);
        tcp.write_all(&hello).await.map_err(|source| DialError::Connect { address, source })?;
        let mut buffer = BytesMut::with_capacity(GREETING_BYTES_MAX);
        loop {
            let read = tcp.read_buf(&mut buffer).await.map_err(|source| DialError::Connect { address, source })?;
            if read == 0 || buffer.len() > GREETING_BYTES_MAX * 8 {
                return Err(DialError::Broken { address });
            }
            let (answer, answer_bytes) =
                match decode(&buffer).map_err(|source| DialError::Foreign { address, source })? {
                    None => continue,
                    Some((Record::Welcome(welcome), bytes)) if welcome.version == VERSION => (Ok(welcome), bytes),
                    Some((Record::Refuse(cause), bytes)) => (Err(DialError::Refused(cause)), bytes),
                    Some((_, bytes)) => (Err(DialError::Refused(Cause::Protocol)), bytes),
                };
            let early = buffer.split_off(answer_bytes);
            return answer.map(|welcome| (welcome, early));
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            version_min: VERSION,
            version_max: VERSION,
            capabilities: 0,
            instance: self.route.instance,
            linger_ms: u32::try_from(self.hold_for().as_millis()).unwrap_or(u32::MAX),
            site: self.route.site.clone(),
            forward: self.route.forward.clone(),
            service: self.route.service.clone(),
        }
    }

    fn up(&self) {
        tracing::info!(forward = %self.route.forward, address = %self.route.address, "link is up");
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = LinkState::Up { since: SystemTime::now() };
    }

    fn down(&self, cause: Cause, why: String) {
        self.session.disconnected(cause);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match &*state {
            LinkState::Down { since, why: before, .. } if *before == why => *since,
            LinkState::Down { since, .. } => {
                tracing::warn!(forward = %self.route.forward, %why, "link is still down");
                *since
            }
            LinkState::Up { .. } | LinkState::New => {
                tracing::warn!(forward = %self.route.forward, %why, "link is down");
                SystemTime::now()
            }
        };
        *state = LinkState::Down { since, cause, why };
    }
}

/// Is the peer's signs of life, whichever peer is followed.
struct SignsOfLife {
    followed: watch::Receiver<Option<watch::Receiver<u64>>>,
    now: Option<watch::Receiver<u64>>,
}

impl SignsOfLife {
    fn new(mut followed: watch::Receiver<Option<watch::Receiver<u64>>>) -> Self {
        let now = followed.borrow_and_update().clone();
        Self { followed, now }
    }

    /// Passes over the signs so far.
    fn forget(&mut self) {
        if let Some(now) = &mut self.now {
            now.borrow_and_update();
        }
    }

    /// Waits for the next sign; for ever, where the peer or the tunnel is gone. Cancel-safe.
    async fn next(&mut self) {
        loop {
            let sign = async {
                let is_sign = match &mut self.now {
                    Some(now) => now.changed().await.is_ok(),
                    None => false,
                };
                if !is_sign {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = sign => return,
                Ok(()) = self.followed.changed() => self.now = self.followed.borrow_and_update().clone(),
            }
        }
    }
}
