//! Lines of keys, announcement by announcement, and what a configuration makes of them.

use super::*;
use crate::config::{KeyFileError, parse};

fn secret(byte: u8) -> SecretKey {
    SecretKey::new([byte; 32])
}

fn key(byte: u8) -> PublicKey {
    secret(byte).public_key()
}

/// Returns a site with key 1, an old key 9, and the peers a (2) and b (3).
fn config() -> Config {
    let text = format!(
        "site: here\nstate_dir: /nowhere\ntunnel:\n  private_key_file: new\n  old_private_key_file: old\n  address: [10.98.0.1/32]\n\
         peers:\n  - name: a\n    public_key: \"{}\"\n    allowed_ips: [10.98.0.2/32]\n  - name: b\n    public_key: \"{}\"\n    \
         allowed_ips: [10.98.0.3/32]\n",
        key(2),
        key(3)
    );
    let keys = |path: &Path| match path.to_str() {
        Some("new") => Ok(secret(1)),
        Some("old") => Ok(secret(9)),
        _ => Err(KeyFileError::Missing { path: path.to_owned() }),
    };
    parse(&text, Path::new("site.yaml"), &keys).expect("a configuration")
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn applied(keys: &Succession) -> Config {
    let mut config = config();
    keys.apply(&mut config);
    // Twice is once: the file is read, and then what has changed since.
    keys.apply(&mut config);
    config
}

fn offer(keys: &mut Succession, peer: &str, announced: u8) -> Offer {
    keys.offer(&name(peer), key(announced), &applied(keys))
}

fn peer(keys: &Succession, peer: &str) -> (PublicKey, Option<PublicKey>) {
    let config = applied(keys);
    let peer = config.peer(&name(peer)).unwrap();
    (peer.public_key, peer.next_key)
}

#[test]
fn an_announced_key_is_the_next_one_until_it_is_proven() {
    let mut keys = Succession::default();
    assert_eq!(offer(&mut keys, "a", 4), Offer::Taken);
    assert_eq!(peer(&keys, "a"), (key(2), Some(key(4))));
    assert_eq!(peer(&keys, "b"), (key(3), None));
    assert_eq!(offer(&mut keys, "a", 4), Offer::Known);
    keys = Succession::from_json(&keys.to_json()).unwrap();
    keys.prove(key(4));
    assert_eq!(peer(&keys, "a"), (key(4), None));
    assert_eq!(offer(&mut keys, "a", 4), Offer::Known);
}

#[test]
fn a_stale_announcement_undoes_nothing() {
    let mut keys = Succession::default();
    offer(&mut keys, "a", 4);
    keys.prove(key(4));
    offer(&mut keys, "a", 5);
    assert_eq!(offer(&mut keys, "a", 2), Offer::Refused(Refused::Stale));
    assert_eq!(peer(&keys, "a"), (key(4), Some(key(5))));
    // one that was never proven, and for which another one was announced
    assert_eq!(offer(&mut keys, "a", 6), Offer::Taken);
    assert_eq!(offer(&mut keys, "a", 5), Offer::Refused(Refused::Stale));
    assert_eq!(peer(&keys, "a"), (key(4), Some(key(6))));
    keys.prove(key(6));
    for old in [2, 4, 5] {
        assert_eq!(offer(&mut keys, "a", old), Offer::Refused(Refused::Stale), "{old}");
    }
    assert_eq!(peer(&keys, "a"), (key(6), None));
}

#[test]
fn a_key_of_somebody_else_is_refused_by_name() {
    let mut keys = Succession::default();
    assert_eq!(offer(&mut keys, "a", 3), Offer::Refused(Refused::OfPeer(name("b"))));
    assert_eq!(offer(&mut keys, "a", 1), Offer::Refused(Refused::Own));
    assert_eq!(offer(&mut keys, "a", 9), Offer::Refused(Refused::Own));
    assert_eq!(keys.offer(&name("a"), PublicKey([0; 32]), &config()), Offer::Refused(Refused::LowOrder));
    offer(&mut keys, "b", 4);
    assert_eq!(offer(&mut keys, "a", 4), Offer::Refused(Refused::OfPeer(name("b"))), "its next one");
    assert_eq!(peer(&keys, "a"), (key(2), None));
}

#[test]
fn a_peer_that_announces_what_it_never_has_is_stopped() {
    let mut keys = Succession::default();
    let refused = (20..200).find(|byte| offer(&mut keys, "a", *byte) != Offer::Taken).expect("a bound");
    assert!(refused < 40, "{refused}");
    assert!(keys.steps.len() < 20);
    assert_eq!(peer(&keys, "a").0, key(2), "it is still known");
}

#[test]
fn the_configuration_ends_a_line_of_keys_by_another_one() {
    let mut keys = Succession::default();
    offer(&mut keys, "a", 4);
    keys.prove(key(4));
    let mut config = config();
    config.peers[0].public_key = key(7);
    keys.apply(&mut config);
    assert_eq!((config.peers[0].public_key, config.peers[0].next_key), (key(7), None));
    // the key that came of it is now another peer's by the file: that counts
    let mut config = self::config();
    config.peers[1].public_key = key(4);
    keys.apply(&mut config);
    assert_eq!((config.peers[0].public_key, config.peers[1].public_key), (key(2), key(4)));
}

#[test]
fn who_knows_this_sites_key_is_remembered_for_that_key_only() {
    let mut keys = Succession::default();
    keys.note_known(key(1), key(2));
    let knows = |keys: &Succession| applied(keys).peers.iter().map(|peer| peer.knows_new_key).collect::<Vec<_>>();
    assert_eq!(knows(&keys), [true, false]);
    // both sites rotate at once
    offer(&mut keys, "a", 4);
    keys.prove(key(4));
    assert_eq!(knows(&keys), [true, false]);
    assert!(applied(&keys).tunnel.old_private_key.counting().is_some());
    keys.retire(key(1));
    assert!(matches!(applied(&keys).tunnel.old_private_key, OldKey::Retired));
    keys.note_known(key(8), key(2));
    assert_eq!(knows(&keys), [false, false], "of another key nothing is known");
    assert!(applied(&keys).tunnel.old_private_key.counting().is_some());
}

#[test]
fn what_was_for_any_key_of_a_line_is_for_the_peer_that_has_the_last_one() {
    let first = |keys: &Succession, of: &str| applied(keys).peer(&name(of)).unwrap().first_key;
    let mut keys = Succession::default();
    assert_eq!((first(&keys, "a"), first(&keys, "b")), (key(2), key(3)));
    for next in [4, 5, 6] {
        offer(&mut keys, "a", next);
        assert_eq!(first(&keys, "a"), key(2), "an announced key proves nothing");
        keys.prove(key(next));
        assert_eq!((first(&keys, "a"), peer(&keys, "a").0), (key(2), key(next)));
    }
    // the file says the newest key by now, or one that an operator wrote
    let written = |keys: &Succession, public: PublicKey| {
        let mut config = config();
        config.peers[0].public_key = public;
        keys.apply(&mut config);
        config.peers[0].first_key
    };
    assert_eq!([4, 6].map(|one| written(&keys, key(one))), [key(2); 2]);
    assert_eq!(written(&keys, key(7)), key(7), "of another line");
    assert_eq!(written(&Succession::default(), key(6)), key(6), "of a line that nobody knows");
    // nobody has what another peer began
    let mut config = config();
    (config.peers[0].public_key, config.peers[1].public_key) = (key(6), key(2));
    keys.apply(&mut config);
    assert_eq!((config.peers[0].first_key, config.peers[1].first_key), (key(6), key(2)));
}
