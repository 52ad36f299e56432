//! Builds the rooms, starts and stops them in order, and has them take up another configuration.
//!
//! It decides nothing about messages. What must not end by itself takes the site down if it does: systemd restarts it,
//! and nothing half-alive pretends to serve.

pub(crate) mod account;
mod alarms;
mod atna;
mod certificates;
mod confine;
mod facts;
mod files;
mod keys;
mod orphans;
mod outward;
mod prepare;
mod queues;
mod reload;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};

use crate::audit::{Account, Event, Record, Subject};
use crate::config::{Config, Name};
use crate::control::{self, ControlListener};
use crate::forward::Forward;
use crate::health::facts::SiteFacts;
use crate::link::FLUSH_WITHIN;
use crate::link::carry::DRAIN_WITHIN;
use crate::link::inbound::{Arrival, Gate, Inbound};
use crate::link::inside::Inside;
use crate::link::owners::Owners;
use crate::link::wire::{Cause, Instance};
use crate::service::Service;
use crate::tunnel::{Tunnel, TunnelError};
pub use confine::{Confined, confine};
use orphans::Orphan;
use prepare::{Ground, Prepared};
pub use reload::{LoadConfig, ReloadError, Reloader};
use serve::{Tasks, commit, fault};

/// Streams of all links together that wait for their service.
const ARRIVALS_MAX: usize = 1024;
/// Is where, in `state_dir`, this site keeps how far it came with the stored messages of peers.
const INBOX_DIR: &str = "inbox";

/// Says why a site does not start, or ended.
#[derive(Debug, Error)]
pub enum AppError {
    /// The tunnel does not start.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The tunnel ended by itself.
    #[error("the tunnel ended")]
    TunnelEnded(#[source] Arc<TunnelError>),
    /// A forward cannot listen.
    #[error(transparent)]
    Forward(#[from] crate::forward::ListenError),
    /// A port inside the tunnel cannot be bound.
    #[error("cannot listen at {address} inside the tunnel ({what})")]
    Inside {
        /// Says what for.
        what: String,
        /// Is where.
        address: SocketAddr,
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The directory for what survives a restart cannot be made.
    #[error("cannot create state_dir {}", path.display())]
    StateDir {
        /// Is the directory.
        path: PathBuf,
        /// Says what the system said.
        source: io::Error,
    },
    /// The health endpoints cannot be bound.
    #[error("cannot listen at {address} for health; stop what uses it or choose another {key}")]
    Health {
        /// Is the key in the configuration.
        key: &'static str,
        /// Is where.
        address: SocketAddr,
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The control socket cannot be bound.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// A part ended by itself.
    #[error("{what} ended: {why}")]
    Ended {
        /// Names the part.
        what: &'static str,
        /// Says why.
        why: String,
    },
    /// The peer of a forward has no address of its own: the configuration does not let that through.
    #[error("the peer of forward {forward} has no address")]
    NoWay {
        /// Names the forward.
        forward: String,
    },
    /// Queued messages would have no forward any more, or another destination than they were accepted for.
    #[error(
        "forward {forward} has {messages} queued messages, which would be stranded: let them drain, or move them with \
         `wardlink queue move`"
    )]
    Strands {
        /// Names the forward.
        forward: String,
        /// Counts them.
        messages: u64,
    },
    /// An expired certificate would take the place of one that has not expired.
    #[error("{what}: the certificate in {} expired at {at}; have it issued anew, or put back the one before", file.display())]
    CertificateExpired {
        /// Names the forward or service.
        what: String,
        /// Is the file.
        file: PathBuf,
        /// Says when it expired.
        at: String,
    },
    /// Whether messages would be stranded cannot be known.
    #[error("forward {forward} may have queued messages, which would be stranded: its spool is not open")]
    MayStrand {
        /// Names the forward.
        forward: String,
    },
    /// A queue cannot be sealed as the others are.
    #[error(transparent)]
    Key(#[from] crate::spool::SpoolError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

impl AppError {
    /// Tells whether a capability is missing.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Tunnel(TunnelError::NotPermitted { .. }))
    }
}

/// Is a running site.
pub struct Site {
    parts: Arc<Parts>,
    prepared: Prepared,
    arrivals: mpsc::Receiver<Arrival>,
    requests: mpsc::Receiver<reload::Request>,
    health: Option<TcpListener>,
    agent: Option<TcpListener>,
    control: ControlListener,
    file: Option<PathBuf>,
}

/// Is what lives as long as the site.
struct Parts {
    now: Arc<Now>,
    started: SystemTime,
    /// Numbers this start.
    start: u64,
    tunnel: Tunnel,
    inside: Inside,
    inbound: Arc<Inbound>,
    reloader: Reloader,
    /// Is since when the interface has been seen at fault.
    interface_fault: Mutex<Option<SystemTime>>,
    /// Is since when this site has a key that took the place of one at once.
    key_replaced: Mutex<Option<SystemTime>>,
    /// Is what was seen of the queues.
    watch: queues::Watch,
    /// Is what was seen of the files that the next start needs.
    files: files::Watch,
    /// Wakes who looks at certificates, after a reload.
    taken_up: Notify,
    account: Account,
    /// Is what is raised, and who is to be told yet.
    alarms: alarms::Board,
    /// Is the way to the repository of the audit log.
    atna: atna::Export,
}

/// Is what a reload may change; each replaces the whole.
struct Running {
    config: Config,
    forwards: Vec<Arc<Forward>>,
    services: Vec<Arc<Service>>,
    /// Are queues whose forward is not named any more.
    orphans: Vec<Orphan>,
}

impl Running {
    fn service(&self, name: &Name) -> Option<Arc<Service>> {
        self.services.iter().find(|service| service.config().name == *name).cloned()
    }
}

/// Is what runs now.
struct Now(RwLock<Arc<Running>>);

impl Now {
    fn get(&self) -> Arc<Running> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, running: Running) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(running);
    }
}

impl Site {
    /// Starts everything that the configuration names, in the network namespace of the calling thread. `load` reads the
    /// configuration again for a reload.
    ///
    /// # Errors
    /// Whatever keeps a part from running; nothing is left behind.
    pub async fn start(config: Config, load: LoadConfig) -> Result<Self, AppError> {
        make_state_dir(&config.state_dir)?;
        let control = control::bind(&config.control_socket)?;
        let health = listen("health.listen", config.health_listen).await?;
        let agent = listen("health.agent_listen", config.agent_listen).await?;
        let tunnel = Tunnel::start(&config).await?;
        let addresses = config.tunnel.addresses.iter().map(ipnet::IpNet::addr).collect();
        let owners = Owners::new(tunnel.owners(), tunnel.changed());
        let inside = Inside::new(&config.tunnel.interface, addresses, owners).with_key_news(tunnel.key_news());
        let start = getrandom::u64().map_err(|_| AppError::Random)?;
        let none = Running { config: config.clone(), forwards: Vec::new(), services: Vec::new(), orphans: Vec::new() };
        let ground = Ground { running: &none, inside: &inside, start, listens_for_links: false };
        let prepared = ground.prepare(config)?;
        let export = atna::begin(&prepared.config);
        let account = account::start(&prepared.config);
        let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let (reloader, requests) = Reloader::new(load, account.clone());
        let (site, started) = (prepared.config.site.to_string(), SystemTime::now());
        let alarms = alarms::Board::new(&prepared.config.state_dir, started);
        let now = Arc::new(Now(RwLock::new(Arc::new(none))));
        let parts = Parts {
            inbound: Inbound::new(gate(site, &now, &inside, sender, Instance::new(start, 0))),
            now,
            started,
            start,
            tunnel,
            inside,
            reloader,
            interface_fault: Mutex::new(None),
            key_replaced: Mutex::new(None),
            watch: queues::Watch::default(),
            files: files::Watch::default(),
            taken_up: Notify::new(),
            account,
            alarms,
            atna: export,
        };
        parts.inbound.set_account(parts.account.clone());
        account::started(&parts.account, &prepared.config);
        Ok(Self { parts: Arc::new(parts), prepared, arrivals, requests, health, agent, control, file: None })
    }

    /// Says which file the site runs from: commands that mean another one are refused.
    #[must_use]
    pub fn with_file(self, file: &Path) -> Self {
        Self { file: Some(std::path::absolute(file).unwrap_or_else(|_| file.to_owned())), ..self }
    }

    /// Tells what is known about the site now.
    pub fn facts(&self) -> SiteFacts {
        self.parts.facts()
    }

    /// Returns what asks the site to reload.
    pub fn reloader(&self) -> Reloader {
        self.parts.reloader.clone()
    }

    /// Serves until `stop` says true, then drains within a bound and ends.
    ///
    /// # Errors
    /// A part that must not end ended by itself.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), AppError> {
        let Self { parts, prepared, arrivals, mut requests, health, agent, control, file } = self;
        let mut tasks = Tasks::default();
        commit(&parts, prepared, &mut tasks);
        tasks.serving.spawn(serve::serve_streams(Arc::clone(&parts.now), arrivals, stop.clone()));
        serve::serve_watchers(&parts, (health, agent), (control, file), &mut tasks);
        let result = loop {
            let ended = tokio::select! {
                biased; // told to stop, the parts end by themselves: that is no failure
                _ = stop.wait_for(|stop| *stop) => break Ok(()),
                failure = parts.tunnel.failed() => break Err(AppError::TunnelEnded(failure)),
                Some(ended) = tasks.serving.join_next() => ended,
                Some(ended) = tasks.around.join_next() => ended,
                Some(request) = requests.recv() => {
                    reload::answer(&parts, request, &mut tasks).await;
                    continue;
                }
            };
            if let Some(error) = fault(ended) {
                break Err(error);
            }
        };
        drop(requests);
        let mut serving = tasks.serving;
        if result.is_ok() {
            tracing::info!("stops: waits for messages that are on their way");
            let now = parts.now.get();
            now.forwards.iter().for_each(|forward| forward.retire());
            now.services.iter().for_each(|service| service.retire());
            let drained = async {
                while serving.join_next().await.is_some() {}
                for service in &now.services {
                    service.talked_out().await;
                }
            };
            tokio::time::timeout(DRAIN_WITHIN, drained).await.ok();
        }
        serving.shutdown().await;
        parts.inbound.fail_all(Cause::Stopping);
        tokio::time::sleep(FLUSH_WITHIN).await;
        tasks.around.shutdown().await;
        tokio::time::sleep(FLUSH_WITHIN).await;
        let detail = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let clerk = parts.account.clerk(Subject::default());
        clerk.record(Record { detail, ..clerk.now(Event::Stopped) });
        parts.account.stop();
        result
    }
}

/// Binds where health is asked, if anywhere.
async fn listen(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, AppError> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|source| AppError::Health { key, address, source })
}

fn make_state_dir(path: &Path) -> Result<(), AppError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| AppError::StateDir { path: path.to_owned(), source })
}

fn gate(site: String, now: &Arc<Now>, inside: &Inside, arrivals: mpsc::Sender<Arrival>, instance: Instance) -> Gate {
    let (offers, tells, opens) = (Arc::clone(now), Arc::clone(now), Arc::clone(now));
    Gate {
        owners: inside.owners().clone(),
        service: Box::new(move |name, peer| {
            let service = Name::new(name).and_then(|name| offers.get().service(&name)).ok_or(Cause::ServiceUnknown)?;
            if service.allows(peer) { Ok(service.config().name.clone()) } else { Err(Cause::ServiceNotAllowed) }
        }),
        receiver: Box::new(move |name| tells.get().service(name).map(|service| service.subscribe())),
        stations: Some(Box::new(move |peer, service, forward| {
            let running = opens.get();
            let service = running.service(&service).ok_or(Cause::ServiceUnknown);
            let (directory, spool) = (running.config.state_dir.join(INBOX_DIR), running.config.spool.clone());
            Box::pin(async move {
                service.map_err(|cause: Cause| cause.to_string())?.open_station(directory, spool, peer, forward).await
            })
        })),
        keys: inside.key_news().cloned(),
        arrivals,
        site,
        instance,
    }
}
