//! Checks the promises of what `wg` may ask on any bytes: the body of the fuzz target, and of the test that replays its
//! corpus.
//!
//! Panics where a promise is broken, and only there; production code never calls it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::request::{Request, find_end, parse};
use super::{answer, apply};
use crate::config::{self, Endpoint, Host, Name, PublicKey, SecretKey};
use crate::tunnel::filter::PeerRules;
use crate::tunnel::peers::{PeerFacts, Rotation};
use crate::tunnel::settings::{PeerSettings, Settings, same_key};

/// Is the port of the one configured peer that it may open.
const PORT: u16 = 2576;
/// Are the secret keys of this site and its configured peer.
const SITE: [u8; 32] = [1; 32];
const PEER: [u8; 32] = [2; 32];

/// Takes `data` for what somebody writes into the socket, and applies what it asks for.
///
/// # Panics
/// Panics where a promise is broken.
pub fn fuzz_uapi(data: &[u8]) {
    let Some(configured) = configured() else { return };
    let end = find_end(data, 0);
    for looked in 0..data.len().min(8) {
        assert!(find_end(data.get(..looked).unwrap_or(data), 0).is_some() || find_end(data, looked) == end);
    }
    let text = end.and_then(|(request_bytes, _)| data.get(..request_bytes)).unwrap_or(data);
    let set = match parse(text) {
        Ok(Request::Set(set)) => set,
        Ok(Request::Get) => return assert_eq!(text.strip_suffix(b"\n").unwrap_or(text), b"get=1"),
        Err(refusal) => return assert!(refusal.errno() > 0),
    };
    let Ok(applied) = apply(&configured, &configured, set) else { return };
    check(&applied.settings, &configured);
    check_round_trip(&applied.settings, &configured);
}

/// Returns a site with one peer that may open a port.
fn configured() -> Option<Settings> {
    let peer = config::Peer {
        name: Name::new("peer")?,
        public_key: SecretKey::new(PEER).public_key(),
        first_key: SecretKey::new(PEER).public_key(),
        next_key: None,
        knows_new_key: false,
        preshared_key: Some(SecretKey::new([3; 32])),
        endpoint: Some(Endpoint { host: Host::Name("peer.example.org".to_owned()), port: 51820 }),
        allowed_ips: vec!["10.98.0.2/32".parse().ok()?],
        address: None,
        persistent_keepalive: Some(Duration::from_secs(25)),
        routed: false,
        host_access: false,
    };
    let rules = Arc::new(PeerRules { ports: HashSet::from([PORT]), ..PeerRules::default() });
    let peers = vec![PeerSettings { peer, rules, set_by_wg: false }];
    Some(Settings {
        private_key: Some(SecretKey::new(SITE)),
        old_private_key: None,
        listen_port: 51820,
        fwmark: 0,
        peers,
    })
}

/// Checks what holds of any settings.
fn check(settings: &Settings, configured: &Settings) {
    let own = settings.private_key.as_ref().map(SecretKey::public_key);
    let mut keys = HashSet::new();
    let mut owners: HashMap<ipnet::IpNet, PublicKey> = HashMap::new();
    for set in &settings.peers {
        let key = set.peer.public_key;
        assert!(keys.insert(key), "a peer is there twice");
        assert!(Some(key) != own, "this site is its own peer");
        assert!(!key.is_low_order(), "anybody could pass for a peer");
        for prefix in &set.peer.allowed_ips {
            assert!(owners.insert(*prefix, key).is_none(), "a prefix belongs to two peers");
            assert_eq!(prefix.trunc(), *prefix, "a prefix has host bits");
        }
        match configured.peer(&key) {
            Some(known) => {
                assert_eq!(set.rules.ports, known.rules.ports, "wg changed what a peer may do");
                assert_eq!(set.peer.name, known.peer.name, "wg changed a name");
            }
            None => assert!(set.rules.ports.is_empty() && set.set_by_wg, "wg gave a peer a port"),
        }
        assert!(!set.rules.routed && !set.rules.host_access && !set.peer.routed && !set.peer.host_access);
    }
    let names: HashSet<_> = settings.peers.iter().map(|set| set.peer.name.as_str()).collect();
    assert_eq!(names.len(), settings.peers.len(), "two peers have one name");
}

/// Writes the settings as `wg` reads them, asks for the very same, and compares: `wg showconf` and `wg setconf`.
fn check_round_trip(settings: &Settings, configured: &Settings) {
    let peers: Vec<_> = settings.peers.iter().map(|set| (set, facts(set))).collect();
    let told = answer::get(settings, settings.listen_port, &peers);
    let read_only = ["last_handshake_time_", "tx_bytes", "rx_bytes", "errno"];
    let lines = told.lines().filter(|line| !read_only.iter().any(|key| line.starts_with(key)));
    let mut asked = String::from("set=1\nreplace_peers=true\n");
    for line in lines {
        asked.push_str(line);
        asked.push('\n');
    }
    let Ok(Request::Set(set)) = parse(asked.as_bytes()) else {
        return assert!(asked.is_empty(), "wg would not understand the answer");
    };
    let Ok(again) = apply(settings, configured, set) else {
        return assert!(asked.is_empty(), "wg could not ask for what there is");
    };
    let again = again.settings;
    assert!(same_key(again.private_key.as_ref(), settings.private_key.as_ref()));
    assert_eq!(again.listen_port, settings.listen_port);
    assert!(settings.fwmark == 0 || again.fwmark == settings.fwmark);
    assert_eq!(again.peers.len(), settings.peers.len());
    for (one, other) in again.peers.iter().zip(&settings.peers) {
        assert_eq!(one.peer.public_key, other.peer.public_key);
        assert!(!one.has_another_secret(other), "a preshared key went astray");
        assert_eq!(one.peer.allowed_ips, other.peer.allowed_ips);
        assert_eq!(one.peer.persistent_keepalive, other.peer.persistent_keepalive);
    }
}

fn facts(set: &PeerSettings) -> PeerFacts {
    let endpoint = set.peer.endpoint.as_ref().and_then(|endpoint| match endpoint.host {
        Host::Address(address) => Some(SocketAddr::new(address, endpoint.port)),
        Host::Name(_) | Host::OnLink { .. } => None,
    });
    PeerFacts {
        name: set.peer.name.clone(),
        set_by_wg: set.set_by_wg,
        key: set.peer.public_key,
        rotation: Rotation::Done,
        added: SystemTime::UNIX_EPOCH,
        endpoint,
        endpoint_error: None,
        has_session: false,
        session_since: None,
        unanswered_for: None,
        latest_handshake: None,
        latest_handshake_age: None,
        rx_bytes: 0,
        tx_bytes: 0,
        drops: Vec::new(),
    }
}
