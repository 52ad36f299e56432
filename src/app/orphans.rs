//! Queues whose stored forward the configuration does not name any more: found, held, told, and worked on.
//!
//! A forward may be renamed, removed or made transparent while the site is down, and its queue stays behind. Nothing is
//! taken in and nothing goes out of it, until its forward is named again or its messages are moved: then it drains on
//! the way of the forward that they were moved to. Rules: design, delivery.md ("stored: intake").

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Running;
use super::prepare::Ground;
use super::queues::Watch;
use crate::config::{self, Config, Delivery, Name};
use crate::forward::stored::store::{Opened, Place, Store};
use crate::health::facts::OrphanFacts;
use crate::spool::Spool;
use crate::spool::register::{self, Register};
use crate::spool::store::{Limits, Tail};

/// Keeps what was delivered for so long in a queue without a forward: as long as any forward may have been told to.
const KEEP_DELIVERED: Duration = Duration::from_secs(365 * 24 * 3600);

/// Is a queue without a forward.
pub(super) struct Orphan {
    pub(super) name: Name,
    /// Is its spool; none where the configuration does not say with which key it is opened.
    pub(super) store: Option<Arc<Store>>,
}

/// Is a queue without a forward as it will be.
pub(super) struct NextOrphan {
    pub(super) orphan: Orphan,
    pub(super) place: Option<Place>,
}

impl Running {
    /// Returns every spool.
    pub(super) fn stores(&self) -> impl Iterator<Item = Arc<Store>> {
        let of_forwards = self.forwards.iter().filter_map(|forward| forward.way().store().cloned());
        of_forwards.chain(self.orphans.iter().filter_map(|orphan| orphan.store.clone()))
    }

    /// Finds the spool that goes by a name, whoever has it.
    pub(super) fn store(&self, name: &Name) -> Option<Arc<Store>> {
        let forward = self.forwards.iter().find(|forward| forward.config().name == *name);
        let of_forward = forward.and_then(|forward| forward.way().store().cloned());
        of_forward.or_else(|| self.orphans.iter().find(|orphan| orphan.name == *name)?.store.clone())
    }
}

/// Tells whether a forward of the configuration stores.
pub(super) fn stores(forward: &config::Forward) -> bool {
    matches!(forward.delivery, Delivery::Stored(_))
}

impl Ground<'_> {
    /// Finds the queues without a forward, and the forwards on whose way those drain that were moved: each is that
    /// forward by another name, and lets no sender in.
    pub(super) fn orphans(&self, site: &Config) -> (Vec<NextOrphan>, Vec<(config::Forward, Name)>) {
        let register = Register::new(&site.state_dir);
        let (mut orphans, mut draining) = (Vec::new(), Vec::new());
        for name in names(site, &register) {
            let moved_to = register.find(name.as_str()).ok().flatten().and_then(|known| known.moved_to);
            let way = site.forwards.iter().find(|way| stores(way) && Some(&way.name) == moved_to.as_ref());
            if let Some(way) = way {
                draining.push((config::Forward { name, ..way.clone() }, way.name.clone()));
                continue;
            }
            let place = site.spool.as_ref().map(|spool| Place {
                name: name.to_string(),
                key: spool.key.clone(),
                directory: spool.dir.clone(),
                register: register.clone(),
                destination: None,
                moved_to,
                limits: Limits { messages_max: 0, bytes_max: 0, keep_delivered: KEEP_DELIVERED },
            });
            let store = place.as_ref().map(|place| {
                let known = self.running.store(&name);
                known.unwrap_or_else(|| Store::new(place.clone()))
            });
            orphans.push(NextOrphan { orphan: Orphan { name, store }, place });
        }
        (orphans, draining)
    }
}

/// Names the spools that the register knows or that are there, and that no stored forward has.
fn names(site: &Config, register: &Register) -> BTreeSet<Name> {
    let there = site.spool.as_ref().map(|spool| {
        let found = register::names_in(&spool.dir);
        found.map(|found| found.into_iter().filter(|name| Spool::is_at(&spool.dir, name.as_str())).collect())
    });
    let mut names = BTreeSet::new();
    for found in [register.names(), there.unwrap_or(Ok(Vec::new()))] {
        match found {
            Ok(found) => names.extend(found),
            Err(error) => tracing::error!(%error, "whether there are queues without a forward cannot be known"),
        }
    }
    names.retain(|name| !site.forwards.iter().any(|forward| stores(forward) && forward.name == *name));
    names
}

impl Orphan {
    /// Tells of the queue, where anybody should know of it: it holds messages, or cannot be looked into.
    pub(super) fn facts(&self, config: &Config, watch: &Watch) -> Option<OrphanFacts> {
        let name = self.name.to_string();
        let (tail, cause) = match self.store.as_ref().map(|store| store.opened()) {
            Some(Opened::Not) => return None,
            Some(Opened::Open(spool)) => {
                let tail = spool.tail().borrow().clone();
                (Some(tail.clone()), tail.failed)
            }
            Some(Opened::Failed(_, error)) => (None, Some(error.to_string())),
            None => (None, Some(unknown(&self.name, config))),
        };
        let holds = tail.as_ref().is_some_and(holds_messages);
        if !holds && cause.is_none() {
            return None;
        }
        let known = tail.as_ref().filter(|tail| tail.failed.is_none());
        let oldest = known.and_then(|tail| tail.oldest);
        Some(OrphanFacts {
            since: watch.since(&name, cause.as_deref().unwrap_or("orphaned")),
            depth: known.map(|tail| tail.depth),
            bytes: known.map(|tail| tail.bytes),
            parked: known.map(|tail| tail.parked),
            oldest_age: oldest.map(|oldest| SystemTime::now().duration_since(oldest).unwrap_or_default()),
            fault: cause,
            name,
        })
    }
}

fn holds_messages(tail: &Tail) -> bool {
    tail.depth > 0 || tail.parked > 0
}

fn unknown(name: &Name, config: &Config) -> String {
    let known = Register::new(&config.state_dir).find(name.as_str());
    let place = known.ok().flatten().map(|known| known.directory.join(name.as_str()).display().to_string());
    format!(
        "what is in {} is not known, for the configuration has no spool: any more: write it again, or give it up with \
         `wardlink queue forget {name}`",
        place.unwrap_or_else(|| "its spool".to_owned())
    )
}

/// Says in the log what a queue without a forward holds, once that is known. Cancel-safe.
pub(super) async fn tell(store: Arc<Store>) {
    let mut opened = store.follow_opened();
    let Ok(now) = opened.wait_for(|opened| !matches!(opened, Opened::Not)).await.map(|now| now.clone()) else { return };
    let place = store.place();
    let (Opened::Open(spool), None) = (now, &place.destination) else { return };
    let tail = spool.tail().borrow().clone();
    if holds_messages(&tail) {
        let (name, queued, parked) = (place.name, tail.depth, tail.parked);
        tracing::error!(
            forward = %name, queued, parked,
            "a queue has no forward: the configuration names no stored forward {name}; name it again, or `wardlink queue \
             move {name} --to FORWARD`, or export and discard what waits"
        );
    }
}

/// Finds the stored forward that messages are to be moved to.
pub(super) fn way_for<'a>(config: &'a Config, to: &str) -> Result<&'a config::Forward, String> {
    let found = config.forwards.iter().find(|forward| stores(forward) && forward.name.as_str() == to);
    found.ok_or_else(|| format!("no stored forward is named {to}"))
}
