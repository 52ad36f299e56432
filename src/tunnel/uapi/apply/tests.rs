//! What a request of `wg` does to the settings.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::*;
use crate::config::{Endpoint, Host, SecretKey};
use crate::tunnel::peers::{PeerFacts, Rotation};
use crate::tunnel::uapi::answer;
use crate::tunnel::uapi::request::{Request, parse};

fn secret(seed: u8) -> SecretKey {
    SecretKey::new([seed; 32])
}

fn key(seed: u8) -> PublicKey {
    secret(seed).public_key()
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn configured_peer(name: &str, seed: u8, prefixes: &[&str], port: u16) -> PeerSettings {
    let peer = config::Peer {
        name: Name::new(name).unwrap(),
        public_key: key(seed),
        first_key: key(seed),
        next_key: None,
        knows_new_key: false,
        preshared_key: None,
        endpoint: Some(Endpoint { host: Host::Name("lab.example.org".to_owned()), port: 51820 }),
        allowed_ips: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        address: None,
        persistent_keepalive: Some(Duration::from_secs(25)),
        routed: port == 1,
        host_access: false,
    };
    let rules = PeerRules { ports: HashSet::from([port]), routed: port == 1, host_access: false };
    PeerSettings { peer, rules: Arc::new(rules), set_by_wg: false }
}

/// Returns a site (key 1) with the peers `a` (2) and `b` (3).
fn site() -> Settings {
    Settings {
        private_key: Some(secret(1)),
        old_private_key: None,
        listen_port: 51820,
        fwmark: 0,
        peers: vec![
            configured_peer("a", 2, &["10.98.0.2/32", "10.98.2.0/24"], 2570),
            configured_peer("b", 3, &["10.98.0.3/32"], 1),
        ],
    }
}

#[track_caller]
fn set(now: &Settings, lines: &str) -> Applied {
    let Ok(Request::Set(set)) = parse(format!("set=1\n{lines}").as_bytes()) else { panic!("{lines}") };
    apply(now, &site(), set).unwrap()
}

fn prefixes(settings: &Settings, seed: u8) -> Vec<String> {
    settings.peer(&key(seed)).unwrap().peer.allowed_ips.iter().map(ToString::to_string).collect()
}

fn of(seed: u8) -> String {
    format!("public_key={}\n", hex(&key(seed).0))
}

fn told(settings: &Settings) -> String {
    let facts = |set: &PeerSettings| PeerFacts {
        name: set.peer.name.clone(),
        set_by_wg: set.set_by_wg,
        key: set.peer.public_key,
        rotation: Rotation::Done,
        added: SystemTime::UNIX_EPOCH,
        endpoint: Some(SocketAddr::from(([192, 0, 2, 1], 7))),
        endpoint_error: None,
        has_session: true,
        session_since: None,
        unanswered_for: None,
        latest_handshake: Some(SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 5)),
        latest_handshake_age: None,
        rx_bytes: 11,
        tx_bytes: 22,
        drops: Vec::new(),
    };
    let peers: Vec<_> = settings.peers.iter().map(|set| (set, facts(set))).collect();
    answer::get(settings, 51821, &peers).to_string()
}

// ---- the four faults of boringtun-cli ----

#[test]
fn fault_1_the_private_key_is_told() {
    let text = told(&site());
    assert!(text.starts_with(&format!("private_key={}\nlisten_port=51821\npublic_key=", hex(&[1; 32]))), "{text}");
    let without = set(&site(), &format!("private_key={}\n", "0".repeat(64))).settings;
    assert!(!told(&without).contains("private_key"));
}

#[test]
fn fault_2_the_time_of_a_handshake_is_since_the_epoch() {
    let text = told(&site());
    assert!(text.contains("last_handshake_time_sec=1800000000\nlast_handshake_time_nsec=5\n"), "{text}");
}

#[test]
fn fault_3_a_peer_that_exists_can_be_set() {
    let applied = set(&site(), &format!("{}persistent_keepalive_interval=7\nallowed_ip=10.98.0.9/32\n", of(2)));
    let peer = &applied.settings.peer(&key(2)).unwrap().peer;
    assert_eq!(peer.persistent_keepalive, Some(Duration::from_secs(7)));
    assert_eq!(prefixes(&applied.settings, 2), ["10.98.0.2/32", "10.98.2.0/24", "10.98.0.9/32"]);
    assert_eq!(applied.settings.peers.len(), 2);
}

#[test]
fn fault_4_a_preshared_key_is_its_own_peers_only() {
    let lines = format!("{}preshared_key={}\n{}allowed_ip=10.98.0.9/32\n{}", of(4), hex(&[9; 32]), of(5), of(6));
    let settings = set(&site(), &lines).settings;
    let of = |seed: u8| settings.peer(&key(seed)).unwrap().peer.preshared_key.as_ref().map(|key| key.expose()[0]);
    assert_eq!([of(2), of(3), of(4), of(5), of(6)], [None, None, Some(9), None, None]);
    let text = told(&settings);
    assert_eq!(text.matches(&hex(&[9; 32])).count(), 1);
    assert_eq!(text.matches(&format!("preshared_key={}\n", "0".repeat(64))).count(), 4);
}

// ---- what a get tells ----

#[test]
fn a_get_tells_everything_in_its_order() {
    let text = told(&site());
    let of_b = text.split("public_key=").nth(2).unwrap();
    let expected = format!(
        "{}\npreshared_key={}\nprotocol_version=1\nendpoint=192.0.2.1:7\nlast_handshake_time_sec=1800000000\n\
         last_handshake_time_nsec=5\ntx_bytes=22\nrx_bytes=11\npersistent_keepalive_interval=25\n\
         allowed_ip=10.98.0.3/32\nerrno=0\n\n",
        hex(&key(3).0),
        "0".repeat(64)
    );
    assert_eq!(of_b, expected);
    let marked = Settings { fwmark: 4660, ..site() };
    assert!(told(&marked).contains("\nfwmark=4660\n"));
}

#[test]
fn a_set_is_answered_with_a_negative_number() {
    assert_eq!(answer::refused(b"set=1\n\n", &Refusal::of("x")), "errno=-22\n\n");
    assert_eq!(answer::refused(b"get=1\n\n", &Refusal::Busy), "errno=16\n\n");
}

// ---- what a set does ----

#[test]
fn nothing_said_changes_nothing() {
    let applied = set(&site(), "");
    assert_eq!(told(&applied.settings), told(&site()));
    assert!(applied.pointed.is_empty() && applied.settings.peers.iter().all(|set| !set.set_by_wg));
    assert_eq!(applied.settings.set_by_wg(&site()), crate::tunnel::SetByWg::default());
}

#[test]
fn what_wg_set_is_told_apart_from_what_the_configuration_says() {
    let lines = format!("listen_port=7\n{}preshared_key={}\n{}remove=true\n{}", of(2), hex(&[9; 32]), of(3), of(4));
    let settings = set(&site(), &lines).settings;
    let by_wg: Vec<_> = settings.peers.iter().map(|set| (set.peer.name.as_str(), set.set_by_wg)).collect();
    let generated = format!("wg-{}", &hex(&key(4).0)[..16]);
    assert_eq!(by_wg, [("a", true), (&*generated, true)]);
    let told = settings.set_by_wg(&site());
    assert_eq!((told.tunnel, told.removed_peers), (vec!["listen_port"], vec![Name::new("b").unwrap()]));
    let back = set(&settings, &format!("{}preshared_key={}\n", of(2), "0".repeat(64))).settings;
    assert!(!back.peer(&key(2)).unwrap().set_by_wg, "set back");
}

#[test]
fn a_new_peer_may_do_nothing_and_a_configured_one_what_it_might() {
    let everything = format!(
        "replace_peers=true\n{}allowed_ip=0.0.0.0/0\n{}allowed_ip=10.98.0.2/32\n{}allowed_ip=10.98.0.3/32\n",
        of(4),
        of(2),
        of(3)
    );
    let settings = set(&site(), &everything).settings;
    let rules = |seed: u8| Arc::clone(&settings.peer(&key(seed)).unwrap().rules);
    assert!(rules(4).ports.is_empty() && !rules(4).routed && !rules(4).host_access);
    assert_eq!(rules(2).ports, HashSet::from([2570]));
    assert!(rules(3).routed);
    assert_eq!(settings.peer(&key(2)).unwrap().peer.name.as_str(), "a");
    assert_eq!(settings.peer(&key(2)).unwrap().peer.persistent_keepalive, None, "it begins anew");
}

#[test]
fn a_prefix_moves_to_whom_it_is_given_last() {
    let lines = format!("{}allowed_ip=10.98.0.2/32\n{}allowed_ip=10.98.2.0/24\n", of(3), of(4));
    let settings = set(&site(), &lines).settings;
    assert!(prefixes(&settings, 2).is_empty());
    assert_eq!(prefixes(&settings, 3), ["10.98.0.3/32", "10.98.0.2/32"]);
    assert_eq!(prefixes(&settings, 4), ["10.98.2.0/24"]);
}

#[test]
fn prefixes_are_taken_and_replaced() {
    let settings = set(&site(), &format!("{}allowed_ip=-10.98.2.0/24\nallowed_ip=-10.98.0.3/32\n", of(2))).settings;
    assert_eq!(prefixes(&settings, 2), ["10.98.0.2/32"]);
    assert_eq!(prefixes(&settings, 3), ["10.98.0.3/32"], "not its own to lose");
    let settings = set(&site(), &format!("{}replace_allowed_ips=true\nallowed_ip=fd98::/64\n", of(2))).settings;
    assert_eq!(prefixes(&settings, 2), ["fd98::/64"]);
    let settings = set(&settings, &format!("{}allowed_ip=10.98.0.2/32\n", of(3))).settings;
    assert_eq!(prefixes(&settings, 3), ["10.98.0.3/32", "10.98.0.2/32"], "it was free");
}

#[test]
fn an_update_does_not_add_and_a_removal_removes() {
    let settings = set(&site(), &format!("{}update_only=true\nallowed_ip=10.98.0.2/32\n", of(4))).settings;
    assert!(settings.peer(&key(4)).is_none());
    assert_eq!(prefixes(&settings, 2), ["10.98.0.2/32", "10.98.2.0/24"], "it takes nothing away either");
    let settings = set(&site(), &format!("{}update_only=true\npersistent_keepalive_interval=0\n", of(2))).settings;
    assert_eq!(settings.peer(&key(2)).unwrap().peer.persistent_keepalive, None);
    let settings = set(&site(), &format!("{}remove=true\n{}allowed_ip=10.98.0.2/32\n", of(2), of(3))).settings;
    assert!(settings.peer(&key(2)).is_none());
    assert_eq!(prefixes(&settings, 3), ["10.98.0.3/32", "10.98.0.2/32"]);
    let settings = set(&site(), &format!("{}remove=true\n{}", of(2), of(2))).settings;
    assert!(prefixes(&settings, 2).is_empty(), "it begins anew");
    assert!(set(&site(), &format!("{}remove=true\n", of(9))).settings.peer(&key(9)).is_none());
}

#[test]
fn an_endpoint_that_is_said_again_is_pointed_at_again() {
    let lines = format!("{}endpoint=192.0.2.9:1\n", of(2));
    let first = set(&site(), &lines);
    assert_eq!(first.pointed, HashSet::from([key(2)]));
    let second = set(&first.settings, &lines);
    assert_eq!(second.pointed, HashSet::from([key(2)]), "the peer may have roamed");
    assert!(set(&first.settings, &of(2)).pointed.is_empty());
}

#[test]
fn a_peer_that_is_made_anew_has_no_endpoint_but_the_one_that_is_said() {
    let endpoint = |applied: &Applied, seed| applied.settings.peer(&key(seed)).unwrap().peer.endpoint.clone();
    let anew = set(&site(), &format!("replace_peers=true\n{}{}endpoint=192.0.2.9:1\n", of(2), of(3)));
    assert_eq!(anew.begun, HashSet::from([key(2), key(3)]));
    assert_eq!((endpoint(&anew, 2), endpoint(&anew, 3).is_some()), (None, true));
    assert_eq!(anew.pointed, HashSet::from([key(3)]));
    let lines = format!("{}endpoint=192.0.2.9:1\n{}remove=true\n{}", of(2), of(2), of(2));
    let anew = set(&site(), &lines);
    assert_eq!((anew.begun.clone(), endpoint(&anew, 2)), (HashSet::from([key(2)]), None));
    assert!(anew.pointed.is_empty(), "what was said before the removal is gone with it");
    let kept = set(&site(), &of(2));
    assert!(kept.begun.is_empty() && endpoint(&kept, 2).is_some());
    assert!(set(&site(), &format!("{}remove=true\n", of(2))).begun.is_empty());
}

#[test]
fn a_peer_with_our_own_key_is_ignored() {
    let settings = set(&site(), &format!("{}allowed_ip=10.98.0.2/32\n", of(1))).settings;
    assert!(settings.peer(&key(1)).is_none());
    assert_eq!(prefixes(&settings, 2), ["10.98.0.2/32", "10.98.2.0/24"]);
    // whoever's key we take is a peer no longer
    let settings = set(&site(), &format!("private_key={}\n{}allowed_ip=10.98.9.0/24\n", hex(&[2; 32]), of(2))).settings;
    assert!(settings.peer(&key(2)).is_none() && settings.peer(&key(3)).is_some());
}

#[test]
fn there_is_an_end_to_peers_and_prefixes() {
    let mut lines = String::new();
    for number in 0..=PEERS_MAX {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        lines.push_str(&format!("public_key={}\n", hex(&bytes)));
    }
    let Ok(Request::Set(many)) = parse(format!("set=1\n{lines}").as_bytes()) else { panic!() };
    assert!(matches!(apply(&site(), &site(), many), Err(Refusal::TooMany { what: "peers" })));
    let mut lines = of(2);
    for number in 0..=u16::MAX {
        let [high, low] = number.to_be_bytes();
        lines.push_str(&format!("allowed_ip=10.7.{high}.{low}/32\n"));
    }
    let Ok(Request::Set(many)) = parse(format!("set=1\n{lines}").as_bytes()) else { panic!() };
    assert!(matches!(apply(&site(), &site(), many), Err(Refusal::TooMany { what: "allowed IPs" })));
}
