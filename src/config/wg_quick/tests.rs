//! Tests of reading wg-quick files, and of what is made of them.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::{self, Config, Host, Name};

const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
const SHARED: &str = "3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=";

fn read(text: &str) -> File {
    parse(text).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn mistakes(text: &str) -> Vec<String> {
    parse(text).expect_err("a mistake").iter().map(ToString::to_string).collect()
}

fn made(text: &str) -> Site {
    let name = Name::new("north").unwrap();
    site(&read(text), Naming { site: &name, interface: "wg0", keys: "/keys", source: "wg0.conf" })
}

fn config_of(site: &Site) -> Config {
    let read_key = |path: &Path| {
        let file = site.keys.iter().find(|file| Path::new(&file.path) == path).expect("a key file that is named");
        Ok(file.key.clone().expect("a key"))
    };
    config::parse(&site.yaml, Path::new("north.yaml"), &read_key)
        .unwrap_or_else(|errors| panic!("{errors}\n{}", site.yaml))
}

fn usual() -> String {
    format!(
        "# a comment\n[Interface]\nAddress = 10.98.0.1/24, fd98::1/64 # inline\nPrivateKey = {PRIVATE}\nListenPort = 51820\n\
         DNS = 10.98.0.53\nMTU=1380\nFwMark = 0xca6c\nPostUp = iptables -A FORWARD -i %i -j ACCEPT\nSaveConfig = true\n\n\
         # City Lab (new)\n[Peer]\nPublicKey = {PEER}\nPresharedKey = {SHARED}\nAllowedIPs = 10.98.0.2/32, 172.20.5.7/24\n\
         Endpoint = lab.example.org:51821\nPersistentKeepalive = 25\n\n[Peer]\nPublicKey={OTHER}\nAllowedIPs = ::/0\n\
         Endpoint = [2001:db8::7]:51822\n"
    )
}

#[test]
fn a_usual_file_becomes_a_site() {
    let site = made(&usual());
    let config = config_of(&site);
    assert_eq!(config.tunnel.interface, "wg0");
    assert_eq!(config.tunnel.private_key.to_base64().as_str(), PRIVATE);
    assert_eq!((config.tunnel.listen_port, config.tunnel.mtu, config.tunnel.fwmark), (51820, 1380, 0xca6c));
    assert_eq!(
        config.tunnel.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.98.0.1/24", "fd98::1/64"]
    );
    let [lab, other] = &config.peers[..] else { panic!("two peers") };
    assert_eq!((lab.name.as_str(), other.name.as_str()), ("city-lab-new", "peer-2"));
    assert_eq!(lab.public_key.to_string(), PEER);
    assert_eq!(lab.preshared_key.as_ref().unwrap().to_base64().as_str(), SHARED);
    assert_eq!(lab.endpoint.as_ref().unwrap().host, Host::Name("lab.example.org".to_owned()));
    assert_eq!(lab.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.98.0.2/32", "172.20.5.0/24"]);
    assert_eq!(lab.persistent_keepalive.unwrap().as_secs(), 25);
    assert_eq!((lab.routed, other.routed), (false, true));
    assert_eq!(other.endpoint.as_ref().unwrap().to_string(), "[2001:db8::7]:51822");
}

#[test]
fn what_has_no_counterpart_is_named_and_no_secret_is_shown() {
    let site = made(&usual());
    let lines: Vec<(usize, &str)> =
        site.notes.iter().map(|(line, note)| (*line, note.split(' ').next().unwrap())).collect();
    assert_eq!(lines, [(6, "DNS"), (9, "PostUp"), (10, "SaveConfig"), (20, "AllowedIPs")]);
    assert!(site.yaml.contains("#   9: PostUp has no counterpart"), "{}", site.yaml);
    for secret in [PRIVATE, SHARED, "iptables"] {
        assert!(!site.yaml.contains(secret), "{secret}");
    }
    let files: Vec<_> = site.keys.iter().map(|file| (file.path.as_str(), file.line, file.what)).collect();
    assert_eq!(
        files,
        [("/keys/private.key", Some(4), "PrivateKey"), ("/keys/city-lab-new.psk", Some(15), "PresharedKey")]
    );
}

#[test]
fn keys_and_sections_are_case_insensitive_and_may_come_again() {
    let file = read(&format!(
        "\u{feff}[ INTERFACE ]\r\nlistenPORT = 1\r\nADDRESS=10.0.0.1\r\n[peer]\r\npublickey = {PEER}\r\nallowedips = 10.0.0.2\r\n\
         AllowedIPs = 10.0.0.3,10.0.0.2\r\nPERSISTENTKEEPALIVE = OFF\r\n[interface]\r\nListenPort = 2\r\n\
         address = 10.0.0.9/8\r\nfwmark = OFF\r\ntable = Off\r\n"
    ));
    assert_eq!((file.interface.listen_port, file.interface.fwmark), (Some(2), Some(0)));
    assert_eq!(file.interface.table, Some(Table::Off));
    assert_eq!(file.interface.addresses.len(), 2);
    assert_eq!(file.peers[0].allowed_ips.len(), 2);
    assert_eq!(file.peers[0].keepalive_seconds, 0);
}

#[test]
fn marks_and_tables_are_read_as_wg_does() {
    let interface = |line: &str| read(&format!("[Interface]\n{line}\n"));
    for (text, mark) in [("51820", 51820), ("0xCA6C", 51820), ("0", 0), ("4294967295", u32::MAX)] {
        assert_eq!(interface(&format!("FwMark = {text}")).interface.fwmark, Some(mark), "{text}");
    }
    for text in ["010", "+1", "0x", "-1", "4294967296", "mark"] {
        let said = mistakes(&format!("[Interface]\nFwMark = {text}\n"));
        assert!(said[0].starts_with("2: FwMark"), "{said:?}");
    }
    assert_eq!(interface("Table = 7").interface.table, Some(Table::Number(7)));
    let named = interface("Table = hospital");
    assert_eq!((named.leftovers[0].key, named.interface.table), ("Table", Some(Table::Off)));
    assert!(named.leftovers[0].instead.contains("set the routes into that table yourself"));
}

#[test]
fn a_mistake_is_told_by_its_line_with_what_to_write_instead() {
    let text = format!(
        "Address = 10.0.0.1\n[Interface]\nAddress = 10.0.0.300\nListenPort = 70000\nPrivateKey = {}\n{PRIVATE}\nJc = 4\n\
         [Wireguard]\nX = 1\n[Peer]\nEndpoint = lab\nAllowedIPs = -10.0.0.1\n[Peer]\nPublicKey = {PEER}\n[Peer]\nPublicKey = {PEER}\n\
         PersistentKeepalive = 25s\n[Peer]\nPublicKey = short\n",
        &PRIVATE[..40]
    );
    let said = mistakes(&text);
    let begins = [
        "1: stands before any section",
        "3: Address \"10.0.0.300\" is no prefix",
        "4: ListenPort \"70000\"",
        "5: PrivateKey is not a key of 44 characters",
        "6: this is no key of wg-quick",
        "7: \"Jc\" is no key of wg-quick",
        "8: is not a section",
        "10: has no PublicKey",
        "11: Endpoint \"lab\" has no port; write HOST:PORT",
        "12: AllowedIPs \"-10.0.0.1\"",
        "16: is the PublicKey of the peer of line 13 too",
        "17: PersistentKeepalive \"25s\"",
        "19: PublicKey is not a key",
    ];
    assert_eq!(said.len(), begins.len(), "{said:#?}");
    for (said, begin) in said.iter().zip(begins) {
        assert!(said.starts_with(begin), "{said} does not begin with {begin}");
        assert!(said.contains("; "), "{said} does not say what to write");
        assert!(!said.contains(&PRIVATE[..40]), "{said} shows a secret");
    }
    assert_eq!(mistakes("")[0], "1: has no [Interface]; name a file of wg-quick, such as /etc/wireguard/wg0.conf");
}

#[test]
fn peers_are_named_by_comment_endpoint_or_number_and_each_otherwise() {
    let peer = |number: u8, more: &str| {
        let key = SecretKey::new([number; 32]).public_key();
        format!("[Peer]\n{more}\nPublicKey = {key}\nAllowedIPs = 10.0.1.{number}\n")
    };
    let text = format!(
        "[Interface]\nAddress = 10.0.0.1\nPrivateKey = {PRIVATE}\n# far above\n\n{}{}{}{}{}{}",
        peer(1, "### Client Lab"),
        peer(2, "# Name = lab"),
        peer(3, "Endpoint = lab.example.org:1"),
        peer(4, "#PresharedKey = c2VjcmV0"),
        peer(5, "# \u{e9}\u{fffd}"),
        peer(6, &format!("# {}", "long ".repeat(12)))
    );
    let config = config_of(&made(&text));
    let names: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
    let long = "long-".repeat(12);
    assert_eq!(names, ["client-lab", "lab", "lab-2", "peer-4", "peer-5", long.trim_end_matches('-')]);
}

#[test]
fn a_preshared_key_of_zeros_is_none() {
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let file = read(&format!("[Interface]\n[Peer]\nPublicKey = {PEER}\nPresharedKey = {zeros}\n"));
    assert!(file.peers[0].preshared_key.is_none());
}

#[test]
fn an_interface_is_named_after_its_file() {
    assert_eq!(interface_of("wg0.conf").as_deref(), Some("wg0"));
    for name in ["wg0", "a name.conf", "much-too-long-a-name.conf", ".conf"] {
        assert_eq!(interface_of(name), None, "{name}");
    }
}

#[test]
fn what_is_exported_is_read_back_as_the_other_side() {
    let text = format!(
        "site: north\ntunnel: {{private_key_file: k, address: [10.98.0.1/24, \"fd98::1\"], mtu: 1380}}\npeers:\n\
         - {{name: lab, public_key: \"{PEER}\", preshared_key_file: p, endpoint: \"192.0.2.7:51999\", \
         allowed_ips: [10.98.0.2, \"fd98::2\", 172.20.0.0/16]}}\n\
         services: [{{name: results, target: \"h:1\", allow_peers: [lab], port: 2577}}]\n"
    );
    let config = config::parse(&text, Path::new("n.yaml"), &|_: &Path| Ok(SecretKey::new([3; 32]))).unwrap();
    let endpoint: Endpoint = "north.example.org:51820".parse().unwrap();
    let exported = counterpart(&config, &config.peers[0], Some(&endpoint));
    assert!(!exported.contains(SecretKey::new([3; 32]).to_base64().as_str()), "{exported}");
    assert!(exported.contains("\n# service results is at 10.98.0.1:2577\n"), "{exported}");
    let refused = mistakes(&exported);
    assert!(refused.len() == 1 && refused[0].contains("PrivateKey"), "left as it is it must not pass: {refused:?}");
    let back = read(&exported.replace("PRIVATE-KEY-OF-LAB", PRIVATE));
    let addresses: Vec<String> = back.interface.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.98.0.2/32", "fd98::2/128"]);
    assert_eq!((back.interface.listen_port, back.interface.mtu), (Some(51999), Some(1380)));
    assert_eq!(back.leftovers[0].key, "PostUp");
    let [peer] = &back.peers[..] else { panic!("one peer") };
    assert_eq!(peer.public_key, config.tunnel.private_key.public_key());
    assert_eq!(peer.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.98.0.1/32", "fd98::1/128"]);
    assert_eq!(peer.endpoint, Some(endpoint));
    assert_eq!(peer.comment.as_deref(), Some("north"));
    let unknown = counterpart(&config, &config.peers[0], None);
    assert!(unknown.contains("# no Endpoint: north calls lab"), "{unknown}");
}

/// Writes lines as people do, and some that nobody should.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let key = prop::sample::select(vec![
        "PrivateKey",
        "ListenPort",
        "FwMark",
        "Address",
        "MTU",
        "Table",
        "DNS",
        "PostUp",
        "PublicKey",
        "PresharedKey",
        "Endpoint",
        "AllowedIPs",
        "PersistentKeepalive",
        "publickey",
        "",
    ]);
    let value = prop::sample::select(vec![
        PRIVATE,
        PEER,
        OTHER,
        SHARED,
        "10.98.0.1/24",
        "10.98.0.2, fd98::2",
        "::/0",
        "off",
        "auto",
        "1",
        "51820",
        "1400",
        "lab.example.org:51820",
        "[2001:db8::1]:1",
        "0xff",
        "",
    ]);
    let line = prop_oneof![
        8 => (key, value, "[ \t]{0,2}").prop_map(|(key, value, blank)| format!("{key}{blank}={blank}{value}")),
        2 => Just("[Interface]".to_owned()),
        3 => Just("[Peer]".to_owned()),
        1 => "# [a-zA-Z =]{0,20}",
        1 => "\\PC{0,20}",
    ];
    prop::collection::vec(line, 0..24)
}

proptest! {
    #[test]
    fn any_lines_keep_the_promises(lines in lines()) {
        fuzz_wg_quick(lines.join("\n").as_bytes());
        fuzz_wg_quick(format!("[Interface]\nAddress = 10.98.0.1\n{}", lines.join("\n")).as_bytes());
    }

    #[test]
    fn any_bytes_keep_the_promises(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_wg_quick(&bytes);
    }
}
