//! Keeps what the tunnel needs of the kernel: brings it up, watches it, restores what is lost, changes it on a reload.
//!
//! It never brings back an interface that was deleted: the data thread ends the process then. It removes only what is
//! its own: what else is at the interface is an admin's.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::super::TunnelError;
use super::super::locals::Locals;
use super::events::{Event, Events, moves_locals, replaced};
use super::host;
use super::kernel::{Kernel, errno};
use super::wanted::{Rule, Wanted, own_table};
use crate::config::{Config, PublicKey, Table};

/// What the kernel tells is looked at so long after: of many changes at once one look sees all.
const LOOK_AFTER: Duration = Duration::from_millis(50);
/// What is lost is restored so long after it was seen: another program that changes it in steps is then done.
const RESTORE_AFTER: Duration = Duration::from_millis(500);
/// What is lost again and again is restored this often at the least: nobody wins by going faster.
const RESTORE_AFTER_MAX: Duration = Duration::from_secs(30);
/// What has held for so long is restored quickly again.
const STEADY: Duration = Duration::from_secs(60);
/// How often is looked where nothing was told: the kernel drops what a listener is too slow for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Keeps the interface as the configuration wants it, until it is dropped.
pub(in crate::tunnel) struct Upkeep {
    kept: Arc<Kept>,
    watch: AbortHandle,
}

/// Is the interface, and what it should have.
pub(in crate::tunnel) struct Kept {
    kernel: Kernel,
    interface: String,
    goal: Mutex<Goal>,
    has_rules: AtomicBool,
    fault: StdMutex<Option<String>>,
    restored: AtomicU64,
    locals: Arc<Locals>,
    /// Wakes the watch: something is missing.
    again: Notify,
}

struct Goal {
    config: Config,
    /// Lists the peers whose default route waits until their name is resolved, as wg-quick(8) resolves before it sets
    /// routes: the look-up may need the host's own.
    held: HashSet<PublicKey>,
    wanted: Wanted,
}

/// Says what there is of a peer's default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum DefaultRoute {
    /// It has none, or none of ours.
    None,
    /// It waits for the peer's name.
    Held,
    /// It is set.
    Set,
}

impl Upkeep {
    /// Sets the interface up (MTU, addresses, routes, rules) and watches it from now on.
    ///
    /// # Errors
    /// The kernel refuses one of them; the message names it.
    pub(in crate::tunnel) async fn start(config: &Config) -> Result<Self, TunnelError> {
        let interface = config.tunnel.interface.clone();
        // Before anything is set, so that nothing is lost unseen.
        let events = Events::listen()?;
        let kept = Arc::new(Kept {
            kernel: Kernel::open(&interface)?,
            interface,
            goal: Mutex::new(Goal { config: config.clone(), held: HashSet::new(), wanted: Wanted::default() }),
            has_rules: AtomicBool::new(false),
            fault: StdMutex::new(None),
            restored: AtomicU64::new(0),
            locals: Arc::default(),
            again: Notify::new(),
        });
        // Before anything can come out of the tunnel: none of them is open to who is merely routed.
        kept.look_at_locals().await.map_err(failed(|| "the local addresses".to_owned()))?;
        kept.remove_stale().await;
        let watch = tokio::spawn(watch(Arc::clone(&kept), events)).abort_handle();
        let upkeep = Self { kept, watch };
        upkeep.kept.change(config, |_| false).await?;
        Ok(upkeep)
    }

    /// Returns what changes the interface on a reload.
    pub(in crate::tunnel) fn kept(&self) -> Arc<Kept> {
        Arc::clone(&self.kept)
    }

    /// Returns this host's own addresses, which follow the kernel's.
    pub(in crate::tunnel) fn locals(&self) -> Arc<Locals> {
        Arc::clone(&self.kept.locals)
    }

    /// Says what the kernel lacks, and could not be restored yet.
    pub(in crate::tunnel) fn fault(&self) -> Option<String> {
        self.kept.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts how often something that was lost was restored.
    pub(in crate::tunnel) fn restored(&self) -> u64 {
        self.kept.restored.load(Ordering::Relaxed)
    }
}

impl Drop for Upkeep {
    /// Removes the rules: unlike addresses and routes they do not go with the interface, which may be gone already.
    fn drop(&mut self) {
        self.watch.abort();
        if self.kept.has_rules.load(Ordering::Relaxed) {
            let interface = self.kept.interface.clone();
            in_a_thread(async move { remove_rules(&interface).await });
        }
    }
}

/// Runs to its end what a destructor cannot await; the thread is in the network namespace of the calling one.
fn in_a_thread(job: impl Future<Output = ()> + Send + 'static) {
    let run = move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(job);
        }
    };
    let thread = std::thread::Builder::new().name("wl-rules".to_owned()).spawn(run);
    if let Ok(thread) = thread {
        thread.join().ok();
    }
}

async fn remove_rules(interface: &str) {
    match Kernel::open_for_rules() {
        Ok(kernel) => {
            remove_own_rules(&kernel, interface).await;
        }
        Err(error) => tracing::warn!(%error, "rules for the default route stay behind; the next start removes them"),
    }
}

/// Removes the rules that lead to the interface's own table, and the one that all sites of a host share where this was
/// the last of them.
async fn remove_own_rules(kernel: &Kernel, interface: &str) -> u64 {
    let Ok(ours) = kernel.rules().await else { return 0 };
    let is_own = |rule: &Rule| matches!(rule, Rule::Unmarked { table, .. } if *table == own_table(interface));
    let is_needed = |rule: &Rule| {
        let mut others = ours.iter().filter(|other| !is_own(other) && other.family() == rule.family());
        others.any(|other| matches!(other, Rule::Unmarked { .. }))
    };
    let mut removed = 0;
    let is_last = |rule: &Rule| matches!(rule, Rule::MainWithoutDefault(_)) && !is_needed(rule);
    // Backwards: the way past the more specific routes goes first.
    for rule in ours.iter().rev().filter(|rule| is_own(rule) || is_last(rule)) {
        removed += u64::from(kernel.remove_rule(*rule).await.is_ok());
    }
    removed
}

impl Kept {
    /// Changes what differs from before: adds what is new, then removes what is wanted no more. The interface's name and
    /// the mark of the sockets are not its matter. A default route waits for a peer with a name that is not located.
    ///
    /// # Errors
    /// The kernel refuses something new; the message names it. Everything is then as it was.
    pub(in crate::tunnel) async fn change(
        &self,
        new: &Config,
        is_located: impl Fn(&PublicKey) -> bool,
    ) -> Result<(), TunnelError> {
        let mut goal = self.goal.lock().await;
        let held: Vec<_> = goal.wanted.held_back(new).filter(|peer| !is_located(&peer.public_key)).collect();
        for peer in &held {
            tracing::info!(peer = %peer.name, "its default route is set as soon as its endpoint's name is resolved");
        }
        let held = held.iter().map(|peer| peer.public_key).collect();
        let wanted = Wanted::of(new, &held);
        self.has_rules.fetch_or(!wanted.rules.is_empty(), Ordering::Relaxed);
        let added = wanted.without(&goal.wanted);
        if let Err(error) = self.add(&added, new.tunnel.mtu).await {
            self.remove(&added).await;
            self.look(&goal, true).await;
            return Err(error);
        }
        self.remove(&goal.wanted.without(&wanted)).await;
        *goal = Goal { config: new.clone(), held, wanted };
        // The kernel takes some things along with others, as secondary addresses with the first.
        self.look(&goal, true).await;
        host::check(new);
        Ok(())
    }

    /// Sets the default routes that wait, of peers that are located meanwhile.
    pub(in crate::tunnel) async fn let_go(&self, is_located: impl Fn(&PublicKey) -> bool) {
        let mut goal = self.goal.lock().await;
        let before = goal.held.len();
        goal.held.retain(|key| !is_located(key));
        if goal.held.len() == before {
            return;
        }
        let wanted = Wanted::of(&goal.config, &goal.held);
        let added = wanted.without(&goal.wanted);
        self.has_rules.fetch_or(!wanted.rules.is_empty(), Ordering::Relaxed);
        goal.wanted = wanted;
        match self.add(&added, goal.config.tunnel.mtu).await {
            Ok(()) => tracing::info!(interface = %self.interface, "set the default route: {added}"),
            Err(error) => {
                let error = error.on_one_line();
                tracing::warn!(interface = %self.interface, %error, "the default route cannot be set yet");
            }
        }
        if !self.look(&goal, false).await {
            self.again.notify_one();
        }
    }

    /// Says what there is of a peer's default route.
    pub(in crate::tunnel) async fn default_route(&self, key: &PublicKey) -> DefaultRoute {
        let goal = self.goal.lock().await;
        let mut peers = goal.config.peers.iter();
        let peer = peers.find(|peer| peer.public_key == *key);
        let has_one = peer.is_some_and(|peer| peer.allowed_ips.iter().any(|prefix| prefix.prefix_len() == 0));
        match goal.config.tunnel.table {
            Table::Auto if goal.held.contains(key) => DefaultRoute::Held,
            Table::Auto if has_one => DefaultRoute::Set,
            _ => DefaultRoute::None,
        }
    }

    /// Takes up which addresses are this host's; where the kernel does not say, those of before hold.
    async fn look_at_locals(&self) -> Result<(), rtnetlink::Error> {
        self.locals.set(self.kernel.local_addresses().await?);
        Ok(())
    }

    /// Removes the rules that a run that was killed left behind.
    async fn remove_stale(&self) {
        let removed = remove_own_rules(&self.kernel, &self.interface).await;
        if removed > 0 {
            tracing::info!(rules = removed, "removed what an earlier run left behind for the default route");
        }
    }

    /// Adds everything; what the kernel refuses keeps nothing else away, but for the rules behind a rule. Returns the
    /// first error.
    async fn add(&self, what: &Wanted, mtu: u16) -> Result<(), TunnelError> {
        // First: below an MTU of 1280 bytes the kernel takes IPv6 addresses away, and takes none.
        let mut all = self.kernel.set_link(mtu).await.map_err(failed(|| "the link".to_owned()));
        for address in &what.addresses {
            let added = self.kernel.add_address(*address).await;
            all = all.and(added.map_err(failed(|| format!("address {address}"))));
        }
        for route in &what.routes {
            let added = self.kernel.add_route(*route).await;
            all = all.and(added.map_err(failed(|| format!("a route to {}", route.prefix))));
        }
        for rule in &what.rules {
            let added = match self.kernel.add_rule(*rule).await {
                // Another site has the same one, and shares it.
                Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
                added => added.map_err(failed(|| "a rule for the default route".to_owned())),
            };
            if added.is_err() {
                return all.and(added);
            }
        }
        all
    }

    /// Removes what is there of it.
    async fn remove(&self, what: &Wanted) {
        for rule in what.rules.iter().rev() {
            self.kernel.remove_rule(*rule).await.ok();
        }
        for route in &what.routes {
            self.kernel.remove_route(*route).await.ok();
        }
        for address in &what.addresses {
            self.kernel.remove_address(*address).await.ok();
        }
    }

    /// Tells whether another route took the place of one of ours.
    async fn is_robbed(&self, event: &Event) -> bool {
        let routes = &self.goal.lock().await.wanted.routes;
        replaced(event).is_some_and(|prefix| routes.iter().any(|route| route.prefix == prefix))
    }

    /// Looks whether everything is there, and restores what is not if asked to; tells whether all is well.
    async fn look(&self, goal: &Goal, restore: bool) -> bool {
        let (lost, missing) = match self.kernel.look().await {
            Ok(found) => {
                let missing = goal.wanted.without(&found.has);
                let lost = [
                    (!found.is_up).then(|| "is down".to_owned()),
                    (!missing.is_empty()).then(|| format!("lost {missing}")),
                    (found.mtu != u32::from(goal.config.tunnel.mtu))
                        .then(|| format!("has an MTU of {} bytes", found.mtu)),
                ];
                let lost: Vec<String> = lost.into_iter().flatten().collect();
                ((!lost.is_empty()).then(|| lost.join(", ")), missing)
            }
            // The data thread sees it too, and ends the process.
            Err(error) if errno(&error) == Some(libc::ENODEV) => (Some("is gone".to_owned()), Wanted::default()),
            Err(error) => {
                // Not seen is not lost.
                tracing::warn!(interface = %self.interface, %error, "the kernel does not say what the interface has");
                (None, Wanted::default())
            }
        };
        let mut fault = lost.as_ref().map(|lost| format!("{} {lost}", self.interface));
        if let (Some(lost), true) = (&lost, restore) {
            match self.add(&missing, goal.config.tunnel.mtu).await {
                Ok(()) => {
                    tracing::warn!(interface = %self.interface, "the interface {lost}; restored");
                    self.restored.fetch_add(1, Ordering::Relaxed);
                    fault = None;
                }
                Err(error) => {
                    let error = error.on_one_line();
                    tracing::warn!(interface = %self.interface, %error, "the interface {lost}; not restored yet");
                    fault = fault.map(|fault| format!("{fault}, and it cannot be restored: {error}"));
                }
            }
        }
        let is_well = fault.is_none();
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        is_well
    }
}

/// Looks soon after the kernel tells of a change, and restores what is lost.
async fn watch(kept: Arc<Kept>, mut events: Events) {
    let mut pause = RESTORE_AFTER;
    let mut restored_at: Option<Instant> = None;
    let (mut next, mut restore) = (Instant::now() + LOOK_EVERY, false);
    loop {
        tokio::select! {
            Some(event) = events.next() => {
                if moves_locals(&event) && !follow_locals(&kept).await {
                    next = next.min(Instant::now() + RESTORE_AFTER);
                }
                if !restore && (kept.kernel.concerns(&event) || kept.is_robbed(&event).await) {
                    next = next.min(Instant::now() + LOOK_AFTER);
                }
                continue;
            }
            () = kept.again.notified() => {
                next = next.min(Instant::now() + LOOK_AFTER);
                continue;
            }
            () = sleep_until(next) => {}
        }
        let knows_locals = follow_locals(&kept).await;
        let is_well = kept.look(&*kept.goal.lock().await, restore).await;
        let now = Instant::now();
        if restore {
            let is_again = restored_at.replace(now).is_some_and(|at| now - at < STEADY + pause);
            pause = if is_again || !is_well { (pause * 2).min(RESTORE_AFTER_MAX) } else { RESTORE_AFTER };
        }
        (next, restore) = if is_well { (now + LOOK_EVERY, false) } else { (now + pause, true) };
        if !knows_locals {
            next = next.min(now + pause);
        }
    }
}

/// Tells whether it is known which addresses are this host's now.
async fn follow_locals(kept: &Kept) -> bool {
    let told = |error: &rtnetlink::Error| {
        tracing::warn!(%error, "the kernel does not say which addresses are this host's; those of before hold");
    };
    kept.look_at_locals().await.inspect_err(told).is_ok()
}

fn failed(what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> TunnelError {
    move |source| match errno(&source) {
        Some(libc::EPERM) => TunnelError::NotPermitted { what: "set addresses, routes and rules" },
        _ => TunnelError::Interface { what: what(), source: Box::new(source) },
    }
}
