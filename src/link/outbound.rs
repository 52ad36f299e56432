//! The near end of a link: dials the peer's link port inside the tunnel, for ever.
//!
//! It never gives up: after a failure it waits with backoff and jitter, and dials at once when the peer shows a sign of
//! life, because TCP's own backoff would not (design, delivery.md). A link that the configuration no longer names ends
//! when its streams have.

mod greeting;
mod life;
mod news;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::carry::DRAIN_WITHIN;
use super::echo::Voice;
use super::feed::Queue;
use super::feed::supply::Supply;
use super::inside::Inside;
use super::session::{Ended, Session};
use super::wire::{Cause, Instance, ReceiverNews};
use super::{FLUSH_WITHIN, cause_chain};
use crate::audit::{Clerk, Event, Record};
use crate::config::Name;
pub use greeting::DialError;
use life::SignsOfLife;
use news::News;

/// The pause after the first failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: a peer that is back is found within it, even if it says nothing.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A link that held for so long is dialled again at once when it breaks; one that breaks sooner waits longer each time.
const STEADY: Duration = Duration::from_secs(2);
/// The streams of a link that is no longer wanted end by themselves within [`DRAIN_WITHIN`], and have so much more time to
/// say so.
const DRAIN_MORE: Duration = Duration::from_secs(2);

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

impl Route {
    /// Says what the far site refuses, by its names; `None`: nothing that has one.
    fn said(&self, cause: Cause) -> Option<String> {
        match cause {
            Cause::ServiceUnknown => Some(format!("service {} is not known at {}", self.service, self.peer)),
            Cause::ServiceNotAllowed => Some(format!("service {} is not offered to this site", self.service)),
            _ => None,
        }
    }
}

/// Is the near end of a link.
pub struct Outbound {
    session: Arc<Session>,
    /// Carries stored messages, in place of streams.
    supply: Option<Arc<Supply>>,
    state: Mutex<LinkState>,
    news: Mutex<News>,
    route: Route,
    inside: Inside,
    hold_for: Mutex<Duration>,
    /// Is the peer's sign of life, once it is known whose.
    life: watch::Sender<Option<watch::Receiver<u64>>>,
    regreet: Notify,
    retired: watch::Sender<bool>,
    clerk: OnceLock<Clerk>,
}

impl Outbound {
    /// Makes the end; [`Outbound::run`] brings it up.
    ///
    /// `hold_for` bounds how long streams outlive their connection.
    pub fn new(route: Route, inside: Inside, hold_for: Duration) -> Arc<Self> {
        Self::carrying(route, inside, hold_for, None)
    }

    /// Makes the end of a link that carries the stored messages of a queue, and no streams.
    pub fn stored(route: Route, inside: Inside, queue: Arc<dyn Queue>) -> Arc<Self> {
        Self::carrying(route, inside, Duration::ZERO, Some(Supply::new(queue)))
    }

    fn carrying(route: Route, inside: Inside, hold_for: Duration, supply: Option<Arc<Supply>>) -> Arc<Self> {
        Arc::new(Self {
            session: Session::near(hold_for),
            supply,
            state: Mutex::new(LinkState::New),
            news: Mutex::default(),
            route,
            inside,
            hold_for: Mutex::new(hold_for),
            life: watch::Sender::new(None),
            regreet: Notify::new(),
            retired: watch::Sender::new(false),
            clerk: OnceLock::new(),
        })
    }

    /// Tells whether the link leads where a route does: to its service at its peer and the link port there.
    pub fn leads_as(&self, route: &Route) -> bool {
        let (now, is_same_peer) = (&self.route, self.route.peer == route.peer);
        is_same_peer && now.service == route.service && now.address == route.address
    }

    /// Says who records when it comes up and goes down; the first one that is said stays.
    pub fn set_clerk(&self, clerk: Clerk) {
        let keys = self.inside.key_news().map(|news| (news.clone(), self.route.peer.clone()));
        let voice = Voice { clerk: Some(clerk.clone()), keys };
        if let Some(supply) = &self.supply {
            supply.set_voice(voice.clone());
        }
        self.session.set_voice(voice);
        self.clerk.get_or_init(|| clerk);
    }

    fn record(&self, event: Event, why: &str) {
        if let Some(clerk) = self.clerk.get() {
            clerk.record(Record { detail: why.to_owned(), ..clerk.now(event) });
        }
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

    /// Returns the stored messages, where the link carries such.
    pub fn supply(&self) -> Option<&Arc<Supply>> {
        self.supply.as_ref()
    }

    /// Greets again, so that the two sites compare their views of the stored messages anew.
    pub fn begin_again(&self) {
        self.regreet.notify_one();
    }

    /// Returns the last round trip that was measured on the link.
    pub fn round_trip(&self) -> Option<Duration> {
        self.supply.as_ref().map_or_else(|| self.session.round_trip(), |supply| supply.round_trip())
    }

    /// Returns what the far site said last of its receiver, and since when it says so.
    pub fn receiver(&self) -> (ReceiverNews, SystemTime) {
        self.supply.as_ref().map_or_else(|| self.session.receiver(), |supply| supply.receiver())
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
            self.queue_is_read().await;
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
                    self.down(ended.cause(), cause_chain(&ended));
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

    /// Waits until the queue that the link carries can be read: what is at fault here is nothing to dial for.
    async fn queue_is_read(&self) {
        let Some(supply) = &self.supply else { return };
        while let Some(why) = supply.queue_failure() {
            let ended = Ended::Store(why.clone().into());
            self.down(ended.cause(), cause_chain(&ended));
            if !supply.failure_ended(&why).await {
                return std::future::pending().await;
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
                match &self.supply {
                    Some(supply) => supply.wake(),
                    None => self.session.wake(),
                }
            }
        };
        let Some(tie) = self.inside.owners().tie(&tcp, self.route.address.ip(), &self.route.peer) else {
            return Some(Ended::Moved);
        };
        let carry = async {
            match &self.supply {
                Some(supply) => supply.run(tcp, early).await,
                None => self.session.run(tcp, early, resumed).await,
            }
        };
        tokio::select! {
            ended = tie.hold(carry) => Some(ended.unwrap_or(Ended::Moved)),
            ended = wake => Some(ended),
            () = self.regreet.notified() => None,
            () = self.steady() => None,
        }
    }

    /// Takes note that a connection holds; never returns.
    async fn steady(&self) {
        tokio::time::sleep(STEADY).await;
        if self.news().handle_steady() {
            self.tell_up();
        }
        std::future::pending().await
    }

    fn up(&self) {
        if self.news().handle_up() {
            self.tell_up();
        }
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = LinkState::Up { since: SystemTime::now() };
    }

    fn tell_up(&self) {
        tracing::info!(forward = %self.route.forward, address = %self.route.address, "link is up");
        self.record(Event::LinkUp, "");
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn down(&self, cause: Cause, why: String) {
        let why = self.route.said(cause).unwrap_or(why);
        self.session.disconnected(cause);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let was_down = matches!(*state, LinkState::Down { .. });
        let (since, is_news) = self.news().handle_down(&why, SystemTime::now());
        if is_news {
            self.record(Event::LinkDown, &why);
        }
        match (is_news, was_down) {
            (false, _) => {}
            (true, true) => tracing::warn!(forward = %self.route.forward, %why, "link is still down"),
            (true, false) => tracing::warn!(forward = %self.route.forward, %why, "link is down"),
        }
        *state = LinkState::Down { since, cause, why };
    }
}
