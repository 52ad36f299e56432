//! Tests of the comparison of two configurations.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::parse;

/// Is a site with two peers, two forwards and two services; every key that can differ is written.
const SITE: &str = "
site: north
state_dir: /var/lib/wardlink
tunnel:
  interface: wl0
  backend: plain
  private_key_file: /own.key
  listen_port: 51820
  address: [10.98.0.1/32]
  mtu: 1420
  fwmark: 1
  table: auto
  link_port: 2570
peers:
  - name: lab
    public_key: \"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"
    preshared_key_file: /psk.key
    endpoint: \"192.0.2.2:51820\"
    allowed_ips: [10.98.0.2/32]
    persistent_keepalive: 25s
    routed: false
    host_access: false
  - name: ward
    public_key: \"CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=\"
    allowed_ips: [10.98.0.3/32]
forwards:
  - name: orders
    listen: 127.0.0.1:2575
    allow_from: [127.0.0.1/32]
    peer: lab
    service: orders
    on_unreachable: hold
    hold_for: 30s
    max_connections: 10
    max_message_size: 1MiB
    idle_timeout: 60s
  - name: images
    listen: 127.0.0.1:2576
    peer: ward
    to: 10.98.0.3:2575
services:
  - name: results
    target: 127.0.0.1:6661
    allow_peers: [lab]
    connections: 3
    ack_timeout: 30s
    probe: tcp
    port: 2577
  - name: notes
    target: 127.0.0.1:6662
health:
  listen: 127.0.0.1:9575
control:
  socket: /run/wardlink/north.sock
";

fn site_with(text: &str, key: u8, psk: u8) -> Config {
    let read = |path: &Path| Ok(SecretKey::new([if path.ends_with("own.key") { key } else { psk }; 32]));
    parse(text, Path::new("site.yaml"), &read).unwrap_or_else(|errors| panic!("{errors}"))
}

fn site(text: &str) -> Config {
    site_with(text, 1, 2)
}

/// Compares the site with the same one where `from` is `to`.
fn changes(from: &str, to: &str) -> Changes {
    assert!(SITE.contains(from), "{from}");
    Changes::between(&site(SITE), &site(&SITE.replacen(from, to, 1)))
}

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::new(name).unwrap()).collect()
}

#[test]
fn the_same_file_changes_nothing() {
    let changes = Changes::between(&site(SITE), &site(SITE));
    assert!(changes.is_empty());
    assert_eq!(changes.to_string(), "nothing changed");
    let undone = Changes { undone: vec!["peer lab".to_owned(), "listen_port".to_owned()], ..changes.clone() };
    assert_eq!(undone.to_string(), "what wg had set is undone: 2 (peer lab, listen_port)");
}

#[test]
fn what_needs_a_restart_is_named() {
    for (from, to, key) in [
        ("site: north", "site: south", "site"),
        ("state_dir: /var/lib/wardlink", "state_dir: /var/lib/other", "state_dir"),
        ("socket: /run/wardlink/north.sock", "socket: /run/wardlink/other.sock", "control.socket"),
        ("listen: 127.0.0.1:9575", "listen: 127.0.0.1:9576", "health.listen"),
        ("listen: 127.0.0.1:9575", "listen: none", "health.listen"),
        ("interface: wl0", "interface: wl1", "tunnel.interface"),
        ("backend: plain", "backend: auto", "tunnel.backend"),
        ("address: [10.98.0.1/32]", "address: [10.98.0.9/32]", "tunnel.address"),
        ("link_port: 2570", "link_port: 2571", "tunnel.link_port"),
    ] {
        assert_eq!(changes(from, to).restart, [key], "{from} -> {to}");
    }
}

#[test]
fn every_key_that_can_differ_is_seen() {
    for (from, to, key) in [
        ("listen_port: 51820", "listen_port: 51821", "listen_port"),
        ("mtu: 1420", "mtu: 1400", "mtu"),
        ("fwmark: 1", "fwmark: 2", "fwmark"),
        ("table: auto", "table: off", "table"),
    ] {
        let expected = Changes { tunnel: vec![key], ..Changes::default() };
        assert_eq!(changes(from, to), expected, "{from} -> {to}");
    }
    let changed = |list: &[&str]| Named { changed: names(list), ..Named::default() };
    for (from, to) in [
        ("\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"", "\"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\""),
        ("    preshared_key_file: /psk.key\n", ""),
        ("192.0.2.2:51820", "192.0.2.3:51820"),
        ("allowed_ips: [10.98.0.2/32]", "allowed_ips: [10.98.0.2/32, 10.99.0.0/24]\n    address: 10.98.0.2"),
        ("persistent_keepalive: 25s", "persistent_keepalive: 26s"),
        ("routed: false", "routed: true"),
        ("host_access: false", "host_access: true"),
    ] {
        let expected = Changes { peers: changed(&["lab"]), ..Changes::default() };
        assert_eq!(changes(from, to), expected, "{from} -> {to}");
    }
    for (from, to) in [
        ("listen: 127.0.0.1:2575", "listen: 127.0.0.1:2585"),
        ("allow_from: [127.0.0.1/32]", "allow_from: [127.0.0.2/32]"),
        ("peer: lab", "peer: ward"),
        ("service: orders", "service: other"),
        ("on_unreachable: hold", "on_unreachable: nak"),
        ("hold_for: 30s", "hold_for: 31s"),
        ("max_connections: 10", "max_connections: 11"),
        ("max_message_size: 1MiB", "max_message_size: 2MiB"),
        ("idle_timeout: 60s", "idle_timeout: 61s"),
    ] {
        let changes = changes(from, to);
        assert_eq!(changes.forwards, changed(&["orders"]), "{from} -> {to}");
    }
    for (from, to) in [
        ("target: 127.0.0.1:6661", "target: 127.0.0.1:6663"),
        ("allow_peers: [lab]", "allow_peers: [lab, ward]"),
        ("connections: 3", "connections: 4"),
        ("ack_timeout: 30s", "ack_timeout: 31s"),
        ("probe: tcp", "probe: none"),
        ("port: 2577", "port: 2578"),
    ] {
        let expected = Changes { services: changed(&["results"]), ..Changes::default() };
        assert_eq!(changes(from, to), expected, "{from} -> {to}");
    }
}

#[test]
fn a_key_file_with_another_key_is_a_change_and_no_key_is_shown() {
    let was = site_with(SITE, 1, 2);
    let own = Changes::between(&was, &site_with(SITE, 3, 2));
    assert_eq!(own, Changes { tunnel: vec!["private_key_file"], ..Changes::default() });
    let psk = Changes::between(&was, &site_with(SITE, 1, 3));
    assert_eq!(psk.to_string(), "peers: 1 changed (lab)");
    assert!(!format!("{own:?} {psk:?}").contains("3, 3"));
}

#[test]
fn a_line_says_it_all() {
    let new = SITE.replace("name: orders", "name: lab-orders").replace("listen_port: 51820", "listen_port: 51821");
    let new = new.replace("  - name: notes\n    target: 127.0.0.1:6662\n", "");
    let line = Changes::between(&site(SITE), &site(&new)).to_string();
    let expected = "tunnel: listen_port changed; forwards: 1 added (lab-orders), 1 removed (orders); \
                    services: 1 removed (notes)";
    assert_eq!(line, expected);
    let many = Named { added: names(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]), ..Named::default() };
    assert_eq!(many.to_string(), "9 added (a, b, c, d, e, f, g, h, ...)");
}

/// Makes a site with the services of these names, each with a target of its own port.
fn offering(services: &[(u8, u16)]) -> Config {
    let mut text = SITE.split("services:").next().unwrap().to_owned() + "services:\n";
    for (name, port) in services {
        text += &format!("  - name: s{name}\n    target: 127.0.0.1:{}\n", 7000 + port % 3);
    }
    if services.is_empty() {
        text.truncate(text.len() - "services:\n".len());
    }
    site(&text)
}

fn services() -> impl Strategy<Value = Vec<(u8, u16)>> {
    proptest::collection::btree_map(0u8..8, 0u16..3, 0..8).prop_map(|map| map.into_iter().collect())
}

proptest! {
    /// Applying what is said to the old names gives the new ones, and the way back says the opposite.
    #[test]
    fn what_is_said_leads_from_the_old_to_the_new(old in services(), new in services()) {
        let (was, is) = (offering(&old), offering(&new));
        let (there, back) = (Changes::between(&was, &is).services, Changes::between(&is, &was).services);
        prop_assert_eq!((&there.added, &there.changed), (&back.removed, &back.changed));
        let mut names: Vec<Name> = was.services.iter().map(|service| service.name.clone()).collect();
        names.retain(|name| !there.removed.contains(name));
        names.extend(there.added.iter().cloned());
        names.sort();
        let mut expected: Vec<Name> = is.services.iter().map(|service| service.name.clone()).collect();
        expected.sort();
        prop_assert_eq!(names, expected);
        for service in &is.services {
            let before = was.services.iter().find(|before| before.name == service.name);
            let differs = before.is_some_and(|before| before.target != service.target);
            prop_assert_eq!(there.changed.contains(&service.name), differs);
        }
    }
}
