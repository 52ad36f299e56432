//! wg-quick's files: one that is exported brings up a plain site, one that is imported runs as a site.

use std::fs;
use std::net::SocketAddr;

use crate::harness::mllp::{Behaviour, Receiver, Sender, message};
use crate::harness::pair::{FORWARD, TARGET};
use crate::harness::plan::{HEALTH, Plan, UDP_PORT};
use crate::harness::site::{Site, write_secret};
use crate::harness::tests;
use crate::harness::wire::Wire;
use crate::harness::wireguard_go::{INTERFACE, WireGuardGo};

tests![
    an_exported_file_brings_up_a_plain_site needs "wg" "wg-quick" "wireguard-go",
    an_imported_file_runs_as_a_site needs "wg" "wireguard-go",
];

/// Is a preshared key.
const SHARED: &str = "3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=";

/// Runs the binary under test in a site, to its end; returns what it printed, both ways.
#[track_caller]
fn run(site: &Site, arguments: &[&str]) -> (String, String) {
    let output = site.namespace.output(&site.command(arguments).join(" "));
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out, errors) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{arguments:?}: {errors}");
    (out, errors)
}

/// Returns the values of a key in a wg-quick file.
fn values<'a>(file: &'a str, key: &str) -> Vec<&'a str> {
    let lines = file.lines().filter_map(|line| line.split_once(" = "));
    lines.filter(|(found, _)| *found == key).flat_map(|(_, value)| value.split(", ")).collect()
}

fn an_exported_file_brings_up_a_plain_site() {
    let wire = Wire::new();
    let (mut north, south) = (wire.site("north"), wire.site("south"));
    let psk = north.dir.join("south.psk");
    write_secret(&psk, SHARED);
    let endpoint = format!("endpoint: \"{}:{UDP_PORT}\"", south.outer);
    let key_file = format!("preshared_key_file: {}", psk.display());
    let plan = Plan::of(&north)
        .peer_with(&south, &format!("{}/32", south.inner), &[&endpoint, &key_file])
        .forward("orders", FORWARD, "south", &format!("to: \"{}:2576\"", south.inner), &["hold_for: 20s"])
        .service("results", TARGET, "south", &["port: 2577"]);
    north.start(&plan);
    let at = format!("{}:{UDP_PORT}", north.outer);
    let (file, errors) = run(&north, &["export", "south", "-c", &north.config_path(), "--endpoint", &at]);
    assert!(errors.contains("private key") && errors.contains("preshared key"), "what is left to fill in: {errors}");
    assert!(!file.contains(SHARED), "{file}");
    // what the admin at south does
    let private = fs::read_to_string(south.dir.join("private.key")).expect("south's key");
    let file = file.replace("PRIVATE-KEY-OF-SOUTH", private.trim());
    let path = south.dir.join("wg0.conf");
    write_secret(&path, &file);
    let go = WireGuardGo::start(&south);
    let stripped = south.namespace.must(&format!("wg-quick strip {}", path.display()));
    write_secret(&south.dir.join("stripped"), &stripped);
    south.namespace.must(&format!("wg setconf {INTERFACE} {}", south.dir.join("stripped").display()));
    let shared = WireGuardGo::preshared_key(&south, SHARED);
    for hook in file.lines().filter_map(|line| line.strip_prefix("PostUp = ")) {
        south.namespace.must(&hook.replace("%i", INTERFACE).replace("/etc/wireguard/north.psk", &shared));
    }
    for address in values(&file, "Address") {
        south.namespace.ip(&format!("addr replace {address} dev {INTERFACE}"));
    }
    for mtu in values(&file, "MTU") {
        south.namespace.ip(&format!("link set {INTERFACE} mtu {mtu}"));
    }
    for prefix in values(&file, "AllowedIPs") {
        south.namespace.ip(&format!("route replace {prefix} dev {INTERFACE}"));
    }
    let receiver =
        Receiver::start(&south.namespace, SocketAddr::new(south.inner.into(), 2576), Behaviour::Answer("AA"));
    Sender::connect(&north.namespace, FORWARD).expect("the forward listens").exchange(&message("there", 5000));
    assert_eq!(receiver.payloads().len(), 1);
    let service = file.lines().find_map(|line| line.strip_prefix("# service results is at ")).expect("it is named");
    let results = Receiver::start(&north.namespace, TARGET, Behaviour::Answer("AA"));
    let mut sender = Sender::connect(&south.namespace, service.parse().unwrap()).expect("the service is offered");
    sender.exchange(&message("back", 5000));
    assert_eq!(results.payloads().len(), 1);
    drop(go);
}

fn an_imported_file_runs_as_a_site() {
    let wire = Wire::new();
    let (mut north, south) = (wire.site("north"), wire.site("south"));
    let private = fs::read_to_string(north.dir.join("private.key")).expect("north's key");
    let file = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {UDP_PORT}\nAddress = {}/24\nDNS = 10.98.0.53\nPostUp = true\n\n# South\n\
         [Peer]\nPublicKey = {}\nPresharedKey = {SHARED}\nEndpoint = {}:{UDP_PORT}\nAllowedIPs = {}/32\n\
         PersistentKeepalive = 5\n",
        private.trim(),
        north.inner,
        south.public_key,
        south.outer,
        south.inner
    );
    let path = north.dir.join("wl0.conf");
    write_secret(&path, &file);
    let keys = north.dir.join("keys").display().to_string();
    let path = path.display().to_string();
    let (yaml, errors) = run(&north, &["import", &path, "--keys", &keys, "--site", "north"]);
    assert!(errors.contains(":5: DNS has no counterpart") && errors.contains(":6: PostUp"), "{errors}");
    for secret in [SHARED, private.trim()] {
        assert!(!yaml.contains(secret) && !errors.contains(secret), "a secret is shown");
    }
    let dir = north.dir.display();
    let to = format!("{}:2576", south.inner);
    let more = format!(
        "state_dir: {dir}/state\nhealth: {{listen: \"{HEALTH}\"}}\ncontrol: {{socket: {dir}/control.sock}}\nforwards:\n  \
         - {{name: orders, listen: \"{FORWARD}\", peer: south, to: \"{to}\", hold_for: 20s}}\n"
    );
    fs::write(north.config_path(), yaml + &more).expect("the configuration is written");
    run(&north, &["check-config", "-c", &north.config_path()]);
    let go = WireGuardGo::start(&south);
    let shared = WireGuardGo::preshared_key(&south, SHARED);
    go.peer(&south, &north, &format!("preshared-key {shared}"));
    let receiver = Receiver::start(&south.namespace, to.parse().unwrap(), Behaviour::Answer("AA"));
    north.restart();
    Sender::connect(&north.namespace, FORWARD).expect("the forward listens").exchange(&message("1", 5000));
    assert_eq!(receiver.payloads().len(), 1);
    assert_eq!(go_is_known(&south), 1, "the handshake is the one of the imported keys");
}

/// Counts the peers that wireguard-go has had a handshake with.
fn go_is_known(site: &Site) -> usize {
    let text = site.namespace.must(&format!("wg show {INTERFACE} latest-handshakes"));
    text.lines().filter(|line| !line.ends_with("\t0")).count()
}
