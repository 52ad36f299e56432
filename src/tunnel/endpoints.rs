//! Where the peers are: names resolved again while a handshake is stale, endpoints kept across restarts.
//!
//! A configured name wins over what is remembered; what a peer's own datagrams say wins over both. It never rebinds a
//! socket. Staleness follows wireguard-tools' reresolve-dns.sh: 135 s.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::net::if_::if_indextoname;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::interface::{DefaultRoute, Kept};
use super::peers::PeerEntry;
use super::{Shared, TunnelError};
use crate::config::{Endpoint, PublicKey};

/// A handshake older than this may have lost its endpoint.
const STALE: Duration = Duration::from_secs(135);
/// A stale name is resolved this often.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// A peer that lives says something within 10 s of what it is sent; who is asked again where it is may have moved then.
const SILENT: Duration = Duration::from_secs(12);
/// Changed endpoints are written this often at the most: a peer that roams without end must not wear the disk out.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// The file holds a line a peer; more than this is not ours, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
const FILE_NAME: &str = "endpoints.json";

/// Reads the endpoints of an earlier run by public key; a file that is missing or damaged gives none.
pub(super) fn load(state_dir: &Path) -> HashMap<String, SocketAddr> {
    let path = state_dir.join(FILE_NAME);
    let fits = std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= FILE_BYTES_MAX);
    if !fits {
        return HashMap::new();
    }
    match std::fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(endpoints)) => endpoints,
        Ok(Err(error)) => {
            tracing::warn!(file = %path.display(), %error, "ignored a damaged file of endpoints");
            HashMap::new()
        }
        Err(_) => HashMap::new(),
    }
}

/// Writes an endpoint as `wg(8)` and the configuration do: on a link with the name of its interface, where it has one.
pub fn shown(endpoint: SocketAddr) -> String {
    if let SocketAddr::V6(on_link) = endpoint
        && let Some(name) = interface_name(on_link.scope_id())
    {
        return format!("[{}%{name}]:{}", on_link.ip(), on_link.port());
    }
    endpoint.to_string()
}

fn interface_name(index: u32) -> Option<String> {
    // Where there is none nix gives an empty name, not the error.
    let name = if_indextoname(index).ok()?.into_string().ok()?;
    (!name.is_empty()).then_some(name)
}

/// Tells whether it is known where a peer is, so that its default route may be set.
pub(super) fn is_located(shared: &Shared, key: &PublicKey) -> bool {
    let peers = shared.peers();
    let is_it = |entry: &&Arc<PeerEntry>| entry.key == *key || entry.settings().peer.public_key == *key;
    peers.all().iter().find(is_it).is_some_and(|entry| entry.is_located(STALE))
}

/// Holds a task for each peer whose endpoint must be looked up: a name, or an address on a link.
pub(super) struct Resolvers {
    tasks: HashMap<PublicKey, (Endpoint, Arc<PeerEntry>, AbortHandle)>,
    interface: Arc<Kept>,
    /// Changes with each reload.
    asked: watch::Sender<()>,
}

impl Resolvers {
    /// Begins without any; the default routes that wait for a name are the interface's.
    pub(super) fn new(interface: Arc<Kept>) -> Self {
        Self { tasks: HashMap::new(), interface, asked: watch::Sender::new(()) }
    }

    /// Goes on for the peers as they are now: what stays as it was is looked up again where its peer is silent.
    pub(super) fn follow(&mut self, shared: &Arc<Shared>) {
        let peers = shared.peers();
        let mut before = std::mem::take(&mut self.tasks);
        for entry in peers.all() {
            let Some(endpoint) = entry.settings().peer.endpoint.clone() else { continue };
            if endpoint.host.to_look_up().is_none() {
                continue;
            }
            let kept = before.get(&entry.key).is_some_and(|(was, of, _)| *was == endpoint && Arc::ptr_eq(of, entry));
            let resolver = match before.remove(&entry.key) {
                Some(resolver) if kept => resolver,
                other => {
                    if let Some((.., task)) = other {
                        task.abort();
                    }
                    let interface = Arc::clone(&self.interface);
                    let asked = self.asked.subscribe();
                    let resolve = resolve(Arc::clone(shared), interface, Arc::clone(entry), endpoint.clone(), asked);
                    let task = tokio::spawn(resolve);
                    (endpoint, Arc::clone(entry), task.abort_handle())
                }
            };
            self.tasks.insert(entry.key, resolver);
        }
        abort(&before);
        self.asked.send_replace(());
    }
}

impl Drop for Resolvers {
    fn drop(&mut self) {
        abort(&self.tasks);
    }
}

fn abort(resolvers: &HashMap<PublicKey, (Endpoint, Arc<PeerEntry>, AbortHandle)>) {
    for (.., task) in resolvers.values() {
        task.abort();
    }
}

/// Starts the task that keeps all endpoints.
pub(super) fn spawn_keeper(shared: &Arc<Shared>, interface: Arc<Kept>, state_dir: &Path) -> AbortHandle {
    tokio::spawn(keep(Arc::clone(shared), interface, state_dir.to_owned())).abort_handle()
}

/// Resolves a peer's name, at once as it is new, for ever whenever its handshake is stale, and once when it is `asked` and
/// the peer is silent.
async fn resolve(
    shared: Arc<Shared>,
    interface: Arc<Kept>,
    entry: Arc<PeerEntry>,
    endpoint: Endpoint,
    mut asked: watch::Receiver<()>,
) {
    let Some(name) = endpoint.host.to_look_up() else { return };
    let mut attempt: usize = 0;
    let mut asked_at = None;
    loop {
        asked_at = asked_at.filter(|at| !entry.is_heard_since(*at));
        if attempt == 0 || entry.is_stale(STALE) || (asked_at.is_some() && entry.is_silent(SILENT)) {
            asked_at = None;
            let session = entry.session_began();
            let found = tokio::net::lookup_host((name.as_str(), endpoint.port)).await;
            // A look-up may take long: where the peer has come by itself meanwhile, it knows better.
            if entry.session_began() == session {
                let route = interface.default_route(&entry.key).await;
                point(&shared, &entry, (&endpoint, &name), found.map(Iterator::collect), attempt, route);
                interface.let_go(|key| is_located(&shared, key)).await;
            }
            attempt = attempt.wrapping_add(1);
        }
        tokio::select! {
            () = tokio::time::sleep(RESOLVE_EVERY) => {}
            Ok(()) = asked.changed() => asked_at = Some(Instant::now()),
        }
    }
}

/// Points the peer at what its name stands for; each attempt at the next address, for the first may be of a family
/// that has no route.
fn point(
    shared: &Shared,
    entry: &PeerEntry,
    (endpoint, name): (&Endpoint, &str),
    found: io::Result<Vec<SocketAddr>>,
    attempt: usize,
    route: DefaultRoute,
) {
    let before = entry.endpoint();
    let found = found.map(|found| found.get(attempt % found.len().max(1)).copied());
    let why = match found {
        Ok(Some(next)) => {
            entry.resolved(endpoint, next);
            if Some(next) != before {
                shared.greet(entry);
            }
            return;
        }
        Ok(None) => format!("{name} has no address"),
        Err(error) => format!("{name} does not resolve: {error}"),
    };
    // Of a peer that is there it is no news.
    if entry.is_stale(STALE) {
        entry.set_endpoint(None, Some(why + about(route)));
    }
}

/// Says what the default route has to do with a look-up that fails.
fn about(route: DefaultRoute) -> &'static str {
    match route {
        DefaultRoute::None => "",
        DefaultRoute::Held => "; the default route to it is set once it is found",
        DefaultRoute::Set => {
            "; its default route takes the look-up into this tunnel: restart the site, see README (\"A default route\")"
        }
    }
}

/// Writes the endpoints whenever they changed: at once, so that a site that dies right after its first handshake knows
/// where to call.
async fn keep(shared: Arc<Shared>, interface: Arc<Kept>, state_dir: PathBuf) {
    let mut kept = load(&state_dir);
    loop {
        shared.peers().moved().await;
        // A peer that has come by itself, or from where an earlier run knew it.
        interface.let_go(|key| is_located(&shared, key)).await;
        if update(&mut kept, &shared) {
            let (state_dir, endpoints) = (state_dir.clone(), kept.clone());
            // The disk may be slow: messages must not wait for it.
            tokio::task::spawn_blocking(move || store(&state_dir, &endpoints)).await.ok();
            tokio::time::sleep(KEEP_EVERY).await;
        }
    }
}

/// Writes what has changed since the last time, at the stop.
pub(super) fn keep_last(shared: &Shared, state_dir: &Path) {
    let mut kept = load(state_dir);
    if update(&mut kept, shared) {
        store(state_dir, &kept);
    }
}

/// Takes up where the peers are now; tells whether anything changed.
fn update(kept: &mut HashMap<String, SocketAddr>, shared: &Shared) -> bool {
    let peers = shared.peers();
    let now: HashMap<String, SocketAddr> = peers
        .all()
        .iter()
        .filter(|entry| entry.facts().latest_handshake.is_some())
        .filter_map(|entry| Some((entry.settings().peer.public_key.to_string(), entry.endpoint()?)))
        .collect();
    let changed = now.iter().any(|(key, endpoint)| kept.get(key) != Some(endpoint));
    if changed {
        // Peers that are gone are forgotten: `wg` may add and remove any number.
        let keys: HashSet<String> =
            peers.all().iter().map(|entry| entry.settings().peer.public_key.to_string()).collect();
        kept.retain(|key, _| keys.contains(key));
        kept.extend(now);
    }
    changed
}

/// Replaces the file whole, so that a crash leaves the old or the new one.
fn store(state_dir: &Path, endpoints: &HashMap<String, SocketAddr>) {
    let path = state_dir.join(FILE_NAME);
    let fresh = state_dir.join(format!("{FILE_NAME}.new"));
    let write = || -> io::Result<()> {
        std::fs::write(&fresh, serde_json::to_vec(endpoints)?)?;
        std::fs::File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, &path)
    };
    if let Err(source) = write() {
        let error = TunnelError::Endpoints { path: path.clone(), source };
        tracing::warn!(error = &error as &dyn std::error::Error, "a restart will not know where the peers are");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_endpoint_on_a_link_is_shown_with_its_interface() {
        let shown = |text: &str| super::shown(text.parse().unwrap());
        assert_eq!(shown("[fe80::1%1]:51820"), "[fe80::1%lo]:51820");
        for same in ["[fe80::1%4000000000]:1", "[fd98::1]:51820", "198.51.100.7:51820"] {
            assert_eq!(shown(same), same);
        }
    }
}
