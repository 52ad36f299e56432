//! The near end of a link: dials the peer's link port inside the tunnel, for ever.
//!
//! It never gives up: after a failure it waits with backoff and jitter, and dials at once when the peer shows a sign of
//! life, because TCP's own backoff would not (design, delivery.md).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::inside::Inside;
use super::session::{Ended, Session};
use super::wire::{Cause, Hello, Instance, Record, VERSION, Welcome, WireError, decode, encode};
use super::{USER_TIMEOUT, cause_chain};
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
    /// Identifies this start of it.
    pub instance: Instance,
    /// Names the forward.
    pub forward: String,
    /// Names the service at the peer.
    pub service: String,
    /// Names the peer.
    pub peer: Name,
    /// Is the peer's link port.
    pub address: SocketAddr,
    /// Bounds how long streams outlive their connection.
    pub hold_for: Duration,
}

/// Is the near end of a link.
pub struct Outbound {
    session: Arc<Session>,
    state: Mutex<LinkState>,
    route: Route,
    inside: Inside,
}

impl Outbound {
    /// Makes the end; [`Outbound::run`] brings it up.
    pub fn new(route: Route, inside: Inside) -> Arc<Self> {
        Arc::new(Self { session: Session::near(route.hold_for), state: Mutex::new(LinkState::New), route, inside })
    }

    /// Returns the streams.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Tells how the link is.
    pub fn state(&self) -> LinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the link up, for ever. `awake` changes at each sign of life of the peer. Cancel-safe.
    pub async fn run(self: Arc<Self>, awake: watch::Receiver<u64>, mut jitter: impl FnMut() -> f64) {
        tokio::select! {
            () = self.session.run_clock() => {}
            () = self.dial_for_ever(awake, &mut jitter) => {}
        }
    }

    async fn dial_for_ever(&self, mut awake: watch::Receiver<u64>, jitter: &mut impl FnMut() -> f64) {
        let mut far: Option<Instance> = None;
        let mut pause = PAUSE_MIN;
        loop {
            awake.borrow_and_update();
            let greeted = tokio::select! {
                greeted = self.greet() => greeted,
                // A sign of life while an attempt hangs: its SYN may be lost, a new one is answered now.
                () = sign_of_life(&mut awake) => continue,
            };
            match greeted {
                Ok((tcp, welcome, early)) => {
                    let resumed = welcome.resumed && far == Some(welcome.instance);
                    far = Some(welcome.instance);
                    self.up();
                    let began = Instant::now();
                    let ended = self.run_connection(tcp, early, resumed, &mut awake).await;
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
                () = sign_of_life(&mut awake) => {}
            }
        }
    }

    async fn run_connection(
        &self,
        tcp: TcpStream,
        early: BytesMut,
        resumed: bool,
        awake: &mut watch::Receiver<u64>,
    ) -> Ended {
        let wake = async {
            loop {
                sign_of_life(awake).await;
                self.session.wake();
            }
        };
        let Some(tie) = self.inside.owners().tie(&tcp, self.route.address.ip(), &self.route.peer) else {
            return Ended::Moved;
        };
        tokio::select! {
            ended = tie.hold(self.session.run(tcp, early, resumed)) => ended.unwrap_or(Ended::Moved),
            ended = wake => ended,
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
            linger_ms: u32::try_from(self.route.hold_for.as_millis()).unwrap_or(u32::MAX),
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

/// Waits for a sign of life of the peer; for ever, where the tunnel is gone.
async fn sign_of_life(awake: &mut watch::Receiver<u64>) {
    if awake.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
