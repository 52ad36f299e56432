//! Makes and binds what a configuration needs that the one before did not have; nothing is changed or served yet.
//!
//! Everything that can fail is here, so that a reload changes all or nothing. The start of a site is the same from an
//! empty one.

mod stored;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::orphans::NextOrphan;
use super::{AppError, Running, certificates};
use crate::config::{self, Config, Delivery, OnUnreachable, Target, Transparent};
use crate::forward::stored::store::Place;
use crate::forward::{self, Forward, Way};
use crate::link::inside::Inside;
use crate::link::outbound::{Outbound, Route};
use crate::link::wire::Instance;
use crate::service::Service;
pub(super) use stored::{check_key, destination, place};

/// Is what was made and bound, and waits to be served.
pub(super) struct Prepared {
    pub(super) config: Config,
    pub(super) forwards: Vec<NextForward>,
    pub(super) services: Vec<NextService>,
    /// Are queues whose forward is not named.
    pub(super) orphans: Vec<NextOrphan>,
    /// Listen for links; empty where they do already, or where no service is offered.
    pub(super) links: Vec<TcpListener>,
}

/// Is a forward as it will be.
pub(super) struct NextForward {
    pub(super) config: config::Forward,
    /// Is where it listens from now on; none where that stays.
    pub(super) listener: Option<Arc<TcpListener>>,
    pub(super) step: Step,
    /// Is where its spool is and what it is for, where it stores.
    pub(super) place: Option<Place>,
}

/// Says what becomes of a forward's way.
pub(super) enum Step {
    /// The forward is new.
    Begin(Way),
    /// It runs, and leads elsewhere from now on.
    Redirect(Arc<Forward>, Way),
    /// It runs, and leads where it does.
    Keep(Arc<Forward>),
}

/// Is a service as it will be.
pub(super) struct NextService {
    /// Is the service that runs; none where it is new.
    pub(super) old: Option<Arc<Service>>,
    pub(super) config: config::Service,
    /// Are the listeners of its own port from now on; none where they stay.
    pub(super) listeners: Option<Vec<Arc<TcpListener>>>,
}

/// Is what preparing needs to know of the site.
pub(super) struct Ground<'a> {
    pub(super) running: &'a Running,
    pub(super) inside: &'a Inside,
    /// Numbers this start of the site.
    pub(super) start: u64,
    pub(super) listens_for_links: bool,
}

impl Ground<'_> {
    /// Prepares a configuration.
    ///
    /// # Errors
    /// A port cannot be bound, or queued messages would be stranded; nothing is left behind.
    pub(super) fn prepare(&self, config: Config) -> Result<Prepared, AppError> {
        self.strands_none(&config)?;
        let was = certificates::of_health(&self.running.config);
        certificates::judge(|| "health".to_owned(), was, certificates::of_health(&config))?;
        let was = certificates::of_atna(&self.running.config);
        certificates::judge(|| "audit.atna".to_owned(), was, certificates::of_atna(&config))?;
        let mut forwards = config
            .forwards
            .iter()
            .map(|forward| self.forward(&config, forward))
            .collect::<Result<Vec<_>, AppError>>()?;
        let (orphans, draining) = self.orphans(&config);
        for (forward, to) in draining {
            forwards.push(self.draining(&config, &forward, to)?);
        }
        let services =
            config.services.iter().map(|service| self.service(&config, service)).collect::<Result<_, AppError>>()?;
        let mut links = Vec::new();
        if !self.listens_for_links && !config.services.is_empty() {
            for ip in self.inside.addresses() {
                links.push(self.listen_inside("links", SocketAddr::new(*ip, config.tunnel.link_port))?);
            }
        }
        Ok(Prepared { forwards, services, orphans, links, config })
    }

    fn forward(&self, site: &Config, config: &config::Forward) -> Result<NextForward, AppError> {
        let old = self.running.forwards.iter().find(|old| old.config().name == config.name);
        let was = old.map(|old| old.config());
        let was = was.as_deref().map(certificates::of_forward).unwrap_or_default();
        certificates::judge(|| format!("forward {}", config.name), was, certificates::of_forward(config))?;
        let listens_there = old.is_some_and(|old| old.config().listen == config.listen && old.listener().is_some());
        let listener = if listens_there { None } else { Some(self.listen(site, config)?) };
        let detour = old.and_then(|old| detour(site, config, old));
        let leads = detour.as_ref().map_or_else(|| config.clone(), |way| led(config, way));
        let step = self.step(site, &leads, old)?;
        let place = match config.delivery {
            Delivery::Stored(terms) => stored::place(site, config, terms),
            Delivery::Transparent(_) => None,
        };
        let place = place.map(|place| Place { moved_to: detour.map(|way| way.name), ..place });
        Ok(NextForward { config: leads, listener, step, place })
    }

    /// Prepares a forward that no sender reaches: a queue that was moved drains on its way.
    fn draining(&self, site: &Config, config: &config::Forward, to: config::Name) -> Result<NextForward, AppError> {
        let old = self.running.forwards.iter().find(|old| old.config().name == config.name);
        let step = self.step(site, config, old)?;
        let place = match config.delivery {
            Delivery::Stored(terms) => stored::place(site, config, terms),
            Delivery::Transparent(_) => None,
        };
        let place = place.map(|place| Place { moved_to: Some(to), ..place });
        Ok(NextForward { config: config.clone(), listener: None, step, place })
    }

    fn step(&self, site: &Config, config: &config::Forward, old: Option<&Arc<Forward>>) -> Result<Step, AppError> {
        Ok(match (old, self.way(site, config, old)?) {
            (None, Some(way)) => Step::Begin(way),
            (Some(old), Some(way)) => Step::Redirect(Arc::clone(old), way),
            (Some(old), None) => Step::Keep(Arc::clone(old)),
            (None, None) => return Err(AppError::NoWay { forward: config.name.to_string() }),
        })
    }

    /// Makes the way that a forward takes; none where the one that runs takes it already.
    fn way(
        &self,
        site: &Config,
        config: &config::Forward,
        old: Option<&Arc<Forward>>,
    ) -> Result<Option<Way>, AppError> {
        let now = old.map(|old| old.way());
        if let Delivery::Stored(terms) = config.delivery {
            return self.stored_way(site, config, terms, now.as_ref());
        }
        match &config.target {
            Target::Address(to) => {
                let leads_there = matches!(now, Some(Way::Address(now)) if now == *to);
                Ok((!leads_there).then_some(Way::Address(*to)))
            }
            Target::Service(service) => {
                let route = self.route(site, config, service)?;
                let leads_there = matches!(&now, Some(Way::Link(link)) if link.leads_as(&route));
                let link = || Outbound::new(route, self.inside.clone(), hold_for(config));
                Ok((!leads_there).then(|| Way::Link(link())))
            }
        }
    }

    fn route(&self, site: &Config, config: &config::Forward, service: &config::Name) -> Result<Route, AppError> {
        let address = site.peer(&config.peer).and_then(|peer| peer.address);
        let no_way = || AppError::NoWay { forward: config.name.to_string() };
        let address = SocketAddr::new(address.ok_or_else(no_way)?, site.tunnel.link_port);
        let link = getrandom::u64().map_err(|_| AppError::Random)?;
        Ok(Route {
            site: site.site.to_string(),
            instance: Instance::new(self.start, link),
            forward: config.name.to_string(),
            service: service.to_string(),
            peer: config.peer.clone(),
            address,
        })
    }

    /// Binds a forward's port, or takes the listener of a forward that leaves it.
    fn listen(&self, site: &Config, config: &config::Forward) -> Result<Arc<TcpListener>, AppError> {
        let stays =
            |old: &config::Forward| site.forwards.iter().any(|new| new.name == old.name && new.listen == old.listen);
        let leaving = self.running.forwards.iter().filter(|old| !stays(&old.config()));
        let leaving: Vec<_> = leaving.filter_map(|old| Some((old.config().listen, old.listener()?))).collect();
        if let Some((_, listener)) = leaving.iter().find(|(listen, _)| *listen == config.listen) {
            return Ok(Arc::clone(listener));
        }
        let same_port = leaving.iter().find(|(listen, _)| listen.port() == config.listen.port());
        let same_port = same_port.map(|(_, listener)| listener.as_ref());
        Ok(Arc::new(forward::listen(config, same_port)?))
    }

    fn service(&self, site: &Config, config: &config::Service) -> Result<NextService, AppError> {
        let old = self.running.services.iter().find(|old| old.config().name == config.name);
        let was = old.map(|old| old.config());
        let was = was.as_deref().map(certificates::of_service).unwrap_or_default();
        certificates::judge(|| format!("service {}", config.name), was, certificates::of_service(config))?;
        let stays = old.map_or(config.port.is_none(), |old| old.config().port == config.port);
        let listeners = if stays { None } else { Some(self.listen_at_port(site, config)?) };
        Ok(NextService { old: old.cloned(), config: config.clone(), listeners })
    }

    /// Binds a service's own port, or takes the listeners of a service that leaves it.
    fn listen_at_port(&self, site: &Config, config: &config::Service) -> Result<Vec<Arc<TcpListener>>, AppError> {
        let Some(port) = config.port else { return Ok(Vec::new()) };
        let stays =
            |old: &config::Service| site.services.iter().any(|new| new.name == old.name && new.port == old.port);
        let mut services = self.running.services.iter();
        if let Some(leaving) = services.find(|old| old.config().port == Some(port) && !stays(&old.config())) {
            return Ok(leaving.listeners());
        }
        let what = format!("service {}", config.name);
        let addresses = self.inside.addresses().iter();
        addresses.map(|ip| Ok(Arc::new(self.listen_inside(&what, SocketAddr::new(*ip, port))?))).collect()
    }

    fn listen_inside(&self, what: &str, address: SocketAddr) -> Result<TcpListener, AppError> {
        let failed = |source| AppError::Inside { what: what.to_owned(), address, source };
        self.inside.listen(address).map_err(failed)
    }
}

/// Finds the stored forward whose way a running one takes for now, because an operator said so.
fn detour(site: &Config, config: &config::Forward, old: &Forward) -> Option<config::Forward> {
    // One that no sender reaches only drained on that way, and is named again.
    old.listener()?;
    let to = old.way().store()?.place().moved_to.filter(|to| *to != config.name)?;
    site.forwards.iter().find(|way| way.name == to && super::orphans::stores(way)).cloned()
}

/// Is a forward that leads where another one does, and is itself in all that senders see.
fn led(config: &config::Forward, way: &config::Forward) -> config::Forward {
    let delivery = match (config.delivery, way.delivery) {
        (Delivery::Stored(terms), Delivery::Stored(there)) => {
            Delivery::Stored(config::Stored { receiver: there.receiver, ..terms })
        }
        (own, _) => return config::Forward { delivery: own, ..config.clone() },
    };
    config::Forward { peer: way.peer.clone(), target: way.target.clone(), delivery, ..config.clone() }
}

/// Says how long a forward's link keeps its streams without a connection.
pub(super) fn hold_for(config: &config::Forward) -> Duration {
    match config.delivery {
        Delivery::Transparent(Transparent { on_unreachable: OnUnreachable::Hold, hold_for }) => hold_for,
        Delivery::Transparent(_) | Delivery::Stored(_) => Duration::ZERO,
    }
}
