//! Builds the rooms, starts and stops them in order.
//!
//! It decides nothing about messages. What must not end by itself takes the site down if it does: systemd restarts it,
//! and nothing half-alive pretends to serve.

mod facts;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{self, Config, OnUnreachable, Target};
use crate::control::{self, ControlListener};
use crate::forward::{Forward, Way};
use crate::health::facts::SiteFacts;
use crate::link::inbound::{Arrival, Gate, Inbound};
use crate::link::inside::Inside;
use crate::link::outbound::{Outbound, Route};
use crate::link::owners::Owners;
use crate::link::wire::{Cause, Instance};
use crate::service::Service;
use crate::tunnel::{Tunnel, TunnelError};

/// Messages that are on their way when the site is told to stop have so long to be answered.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// The last bytes of closed connections have so long to leave through the tunnel.
const FLUSH_WITHIN: Duration = Duration::from_millis(50);
/// Streams of all links together that wait for their service.
const ARRIVALS_MAX: usize = 1024;

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
    #[error("cannot listen at {address} for health; stop what uses it or choose another health.listen")]
    Health {
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
    bound: Bound,
}

/// Is what the facts are gathered from.
struct Parts {
    config: Config,
    started: SystemTime,
    tunnel: Tunnel,
    forwards: Vec<Arc<Forward>>,
    services: Vec<Arc<Service>>,
    inbound: Arc<Inbound>,
    inside: Inside,
    /// Is since when the interface has been seen at fault.
    interface_fault: Mutex<Option<SystemTime>>,
}

/// Is what was bound and waits to be served.
struct Bound {
    forwards: Vec<(Arc<Forward>, TcpListener)>,
    links: Vec<TcpListener>,
    ports: Vec<(Arc<Service>, TcpListener)>,
    arrivals: mpsc::Receiver<Arrival>,
    health: Option<TcpListener>,
    control: ControlListener,
}

impl Site {
    /// Starts everything that the configuration names, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Whatever keeps a part from running; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, AppError> {
        make_state_dir(&config.state_dir)?;
        let control = control::bind(&config.control_socket)?;
        let health = match config.health_listen {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|source| AppError::Health { address, source })?)
            }
            None => None,
        };
        let tunnel = Tunnel::start(&config).await?;
        let addresses = config.tunnel.addresses.iter().map(ipnet::IpNet::addr).collect();
        let owners = Owners::new(tunnel.owners(), tunnel.changed());
        let inside = Inside::new(&config.tunnel.interface, addresses, owners);
        let instance = new_instance()?;
        let services: Vec<_> = config.services.iter().cloned().map(Service::new).collect();
        let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let forwards = forwards(&config, &inside, instance);
        let mut bound = Bound { forwards: Vec::new(), links: Vec::new(), ports: Vec::new(), arrivals, health, control };
        for forward in &forwards {
            bound.forwards.push((Arc::clone(forward), forward.listen().await?));
        }
        bound.bind_inside(&config, &inside, &services)?;
        let gate = gate(&config, &inside, &services, sender, instance);
        let parts = Parts {
            inbound: Inbound::new(gate),
            inside,
            config,
            started: SystemTime::now(),
            tunnel,
            forwards,
            services,
            interface_fault: Mutex::new(None),
        };
        Ok(Self { parts: Arc::new(parts), bound })
    }

    /// Tells what is known about the site now.
    pub fn facts(&self) -> SiteFacts {
        self.parts.facts()
    }

    /// Serves until `stop` says true, then drains within a bound and ends.
    ///
    /// # Errors
    /// A part that must not end ended by itself.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), AppError> {
        let Self { parts, bound } = self;
        let mut serving = JoinSet::new();
        let mut around = JoinSet::new();
        serve::serve(&parts, bound, &stop, &mut serving, &mut around);
        let failed = parts.tunnel.failed();
        let result = tokio::select! {
            biased; // told to stop, the parts end by themselves: that is no failure
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            failure = failed => Err(AppError::TunnelEnded(failure)),
            Some(ended) = serving.join_next() => Err(ended_early(ended)),
            Some(ended) = around.join_next() => Err(ended_early(ended)),
        };
        if result.is_ok() {
            tracing::info!("stops: waits for messages that are on their way");
            tokio::time::timeout(DRAIN_WITHIN, async { while serving.join_next().await.is_some() {} }).await.ok();
        }
        serving.shutdown().await;
        parts.inbound.fail_all(Cause::Stopping);
        tokio::time::sleep(FLUSH_WITHIN).await;
        around.shutdown().await;
        tokio::time::sleep(FLUSH_WITHIN).await;
        result
    }
}

fn ended_early(ended: Result<&'static str, tokio::task::JoinError>) -> AppError {
    match ended {
        Ok(what) => AppError::Ended { what, why: "it must not end by itself".to_owned() },
        Err(error) => AppError::Ended { what: "a task", why: error.to_string() },
    }
}

fn make_state_dir(path: &Path) -> Result<(), AppError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| AppError::StateDir { path: path.to_owned(), source })
}

fn new_instance() -> Result<Instance, AppError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| AppError::Random)?;
    Ok(Instance(bytes))
}

fn forwards(config: &Config, inside: &Inside, instance: Instance) -> Vec<Arc<Forward>> {
    let way = |forward: &config::Forward| match &forward.target {
        Target::Address(address) => Some(Way::Address(*address)),
        Target::Service(service) => {
            let peer = config.peer(&forward.peer)?;
            let address = SocketAddr::new(peer.address?, config.tunnel.link_port);
            let hold_for = match forward.on_unreachable {
                OnUnreachable::Hold => forward.hold_for,
                OnUnreachable::Close | OnUnreachable::Nak => Duration::ZERO,
            };
            let route = Route {
                site: config.site.to_string(),
                instance,
                forward: forward.name.to_string(),
                service: service.to_string(),
                peer: peer.name.clone(),
                address,
                hold_for,
            };
            Some(Way::Link(Outbound::new(route, inside.clone())))
        }
    };
    let forwards = config.forwards.iter();
    forwards.filter_map(|forward| Some(Forward::new(forward.clone(), way(forward)?, inside.clone()))).collect()
}

fn gate(
    config: &Config,
    inside: &Inside,
    services: &[Arc<Service>],
    arrivals: mpsc::Sender<Arrival>,
    instance: Instance,
) -> Gate {
    let (offered, told) = (services.to_vec(), services.to_vec());
    Gate {
        owners: inside.owners().clone(),
        service: Box::new(move |name, peer| {
            let service = offered.iter().find(|service| service.config().name.as_str() == name);
            let service = service.ok_or(Cause::ServiceUnknown)?;
            let allowed = service.allows(peer);
            if allowed { Ok(service.config().name.clone()) } else { Err(Cause::ServiceNotAllowed) }
        }),
        receiver: Box::new(move |name| {
            told.iter().find(|service| service.config().name == *name).map(|service| service.subscribe())
        }),
        arrivals,
        site: config.site.to_string(),
        instance,
    }
}

impl Bound {
    fn bind_inside(&mut self, config: &Config, inside: &Inside, services: &[Arc<Service>]) -> Result<(), AppError> {
        let listen = |what: &str, ip, port| {
            let address = SocketAddr::new(ip, port);
            let failed = |source| AppError::Inside { what: what.to_owned(), address, source };
            inside.listen(address).map_err(failed)
        };
        for address in inside.addresses() {
            if !services.is_empty() {
                self.links.push(listen("links", *address, config.tunnel.link_port)?);
            }
            for service in services {
                if let Some(port) = service.config().port {
                    let what = format!("service {}", service.config().name);
                    self.ports.push((Arc::clone(service), listen(&what, *address, port)?));
                }
            }
        }
        Ok(())
    }
}
