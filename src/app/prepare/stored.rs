//! Prepares what a forward with stored delivery needs: its spool's place and its way. It refuses what would strand or
//! redirect messages that are queued.

use std::sync::Arc;

use super::{AppError, Ground, Prepared, Step};
use crate::app::Running;
use crate::config::{self, Config, Delivery, Target};
use crate::forward::stored::here::Here;
use crate::forward::stored::outlet::Outlet;
use crate::forward::stored::store::{Opened, Place, Store, make_first_key};
use crate::forward::{Forward, Onward, Way};
use crate::link::outbound::Outbound;
use crate::spool::SpoolError;
use crate::spool::key::SpoolKey;
use crate::spool::register::Register;
use crate::spool::store::{Destination, Limits};

impl Ground<'_> {
    /// Makes the way of a forward that stores; none where the one that runs takes it already. Its spool goes on.
    pub(super) fn stored_way(
        &self,
        site: &Config,
        config: &config::Forward,
        terms: config::Stored,
        now: Option<&Way>,
    ) -> Result<Option<Way>, AppError> {
        let no_way = || AppError::NoWay { forward: config.name.to_string() };
        let destination = destination(site, config).ok_or_else(no_way)?;
        let place = place(site, config, terms).ok_or_else(no_way)?;
        // Also that of a queue whose forward is named again.
        let next = || self.running.store(&config.name).unwrap_or_else(|| Store::new(place));
        match &config.target {
            Target::Address(to) => {
                if let Some(Way::Stored(_, Onward::Here(here))) = now
                    && here.leads_to(&destination, &config.peer)
                {
                    return Ok(None);
                }
                let store = next();
                let (peer, inside) = (config.peer.clone(), self.inside.clone());
                let here = Here::new((*to, destination), peer, inside, Arc::clone(&store), terms.receiver);
                Ok(Some(Way::Stored(store, Onward::Here(here))))
            }
            Target::Service(service) => {
                let route = self.route(site, config, service)?;
                if let Some(Way::Stored(_, Onward::Link(link, to))) = now
                    && link.leads_as(&route)
                    && *to == destination
                {
                    return Ok(None);
                }
                let store = next();
                let outlet = Outlet::new(Arc::clone(&store), destination.clone());
                let link = Outbound::stored(route, self.inside.clone(), outlet);
                Ok(Some(Way::Stored(store, Onward::Link(link, destination))))
            }
        }
    }

    /// Checks that no queued message would be stranded, or go elsewhere than it was accepted for.
    ///
    /// # Errors
    /// One would, or it cannot be known because its spool is not open.
    pub(super) fn strands_none(&self, site: &Config) -> Result<(), AppError> {
        self.running.forwards.iter().try_for_each(|forward| strands_none(forward, &self.running.config, site))
    }
}

fn strands_none(forward: &Forward, before: &Config, site: &Config) -> Result<(), AppError> {
    let way = forward.way();
    let Some(store) = way.store() else { return Ok(()) };
    let was = store.place();
    let named = |name: &config::Name| site.forwards.iter().find(|next| next.name == *name);
    let drains_as = || named(was.moved_to.as_ref()?);
    let next = named(&forward.config().name).or_else(drains_as);
    let led = next.and_then(|next| destination(before, next));
    let next = next.and_then(|next| match next.delivery {
        Delivery::Stored(terms) => place(site, next, terms),
        Delivery::Transparent(_) => None,
    });
    // A peer that was paired again with another key must be taken, whatever waits: what was accepted for its key of
    // before is held, and an operator says where it goes.
    let leads_there = |next: &Place| next.destination == was.destination || led == was.destination;
    if next.as_ref().is_some_and(|next| leads_there(next) && next.directory == was.directory) {
        return Ok(());
    }
    let messages = match store.opened() {
        // What is set aside is kept for its destination; where there is no queue any more, nobody would see it.
        Opened::Open(spool) if next.is_none() => spool.tail().borrow().depth + spool.tail().borrow().parked,
        Opened::Open(spool) => spool.tail().borrow().depth,
        Opened::Not | Opened::Failed(..) => return Err(AppError::MayStrand { forward: was.name }),
    };
    if messages == 0 { Ok(()) } else { Err(AppError::Strands { forward: was.name, messages }) }
}

/// Checks before a reload that a queue which begins is sealed with the one key of all, and makes that where there is none
/// yet. What begins no queue needs no key: those that are open have it.
///
/// # Errors
/// The key is gone, is another one, gives no key, or cannot be made.
pub(in crate::app) fn check_key(running: &Running, next: &Prepared) -> Result<(), SpoolError> {
    let Some(spool) = &next.config.spool else { return Ok(()) };
    let path = || spool.key.path().to_owned();
    let stores: Vec<Arc<Store>> = running.stores().collect();
    let held = stores.iter().find_map(|store| store.key());
    let found = SpoolKey::load(spool.key.path());
    if let (Some(held), Ok(found)) = (&held, &found)
        && !held.is(found)
    {
        return Err(SpoolError::KeyChanged { path: path() });
    }
    let ways = next.forwards.iter().filter_map(|forward| match &forward.step {
        Step::Begin(way) | Step::Redirect(_, way) => way.store(),
        Step::Keep(_) => None,
    });
    let begins = ways.into_iter().any(|store| !stores.iter().any(|old| Arc::ptr_eq(old, store)));
    let sealed_otherwise = stores.iter().find_map(|store| match store.opened() {
        Opened::Failed(_, error @ SpoolError::OtherKey { .. }) => Some(error),
        _ => None,
    });
    match (found, held) {
        (Err(SpoolError::KeyMissing { .. }), Some(_)) => {
            let gone = SpoolError::KeyGone { path: path() };
            tracing::error!(error = %gone, "the spool's key");
            if begins { Err(gone) } else { Ok(()) }
        }
        _ if !begins => Ok(()),
        (Err(SpoolError::KeyMissing { .. }), None) => {
            make_first_key(&spool.key, &spool.dir, &Register::new(&next.config.state_dir))
        }
        (found, _) => found.and(sealed_otherwise.map_or(Ok(()), Err)),
    }
}

/// Says where a forward leads.
pub(in crate::app) fn destination(site: &Config, config: &config::Forward) -> Option<Destination> {
    let target = match &config.target {
        Target::Service(name) => name.to_string(),
        Target::Address(address) => address.to_string(),
    };
    Some(Destination { peer_key: site.peer(&config.peer)?.first_key.0, target })
}

/// Says where the spool of a forward is, and what it is for.
pub(in crate::app) fn place(site: &Config, config: &config::Forward, terms: config::Stored) -> Option<Place> {
    let spool = site.spool.as_ref()?;
    Some(Place {
        name: config.name.to_string(),
        directory: spool.dir.clone(),
        key: spool.key.clone(),
        register: Register::new(&site.state_dir),
        destination: Some(destination(site, config)?),
        moved_to: None,
        limits: Limits {
            messages_max: terms.queue_messages_max,
            bytes_max: terms.queue_bytes_max,
            keep_delivered: terms.keep_delivered,
        },
    })
}
