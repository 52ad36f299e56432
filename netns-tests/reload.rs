//! A running site takes up another configuration: what did not change goes on under load, a bad file changes nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::load::Load;
use crate::harness::mllp::{ANSWER_LIMIT, Behaviour, Lost, Receiver, Sender, answer_to, message};
use crate::harness::pair::{FORWARD, Pair, TARGET, loopback};
use crate::harness::plan::Plan;
use crate::harness::site::{Site, write_secret};
use crate::harness::{full, tests, until};

tests![
    nothing_changed_disturbs_nothing,
    a_forward_and_a_service_come_change_and_go_under_load,
    a_forward_is_redirected_and_its_old_senders_end_when_quiet,
    a_forward_listens_elsewhere_and_keeps_its_senders,
    a_forward_is_renamed_and_keeps_its_port,
    soft_settings_count_for_new_senders,
    a_longer_hold_is_kept_by_both_sites,
    a_peer_that_may_not_any_more_is_cut_off_and_told_why,
    a_removed_service_is_drained_and_comes_back,
    the_receiver_of_a_service_moves,
    peers_and_endpoints_change_under_load,
    a_preshared_key_is_set_on_both_sides_under_load,
    a_site_gets_another_key_under_load,
    a_bad_file_changes_nothing_and_says_why,
    a_port_that_is_taken_changes_nothing,
    sighup_does_the_same_and_the_log_says_so,
    a_stranger_may_not,
    a_storm_of_reloads_under_load,
];

/// Bounds what follows from a reload.
const LIMIT: Duration = Duration::from_secs(10);

/// Is the number of senders of a load.
const SENDERS: usize = 4;

const SECOND: SocketAddr = loopback(2585);
const OTHER_TARGET: SocketAddr = loopback(6662);
const HOLD: &[&str] = &["hold_for: 30s"];

/// Asks a site to reload; returns the exit code and all that was printed.
fn ask(site: &Site) -> (Option<i32>, String) {
    let words = site.command(&["reload", "--socket", &site.dir.join("control.sock").display().to_string()]);
    let output = site.namespace.output(&words.join(" "));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Writes a configuration and has it taken up.
#[track_caller]
fn take_up(site: &Site, plan: &Plan) -> String {
    site.write(plan);
    let (code, text) = ask(site);
    assert_eq!(code, Some(0), "{text}");
    text
}

/// Is a pair under load, with its receiver.
struct Loaded {
    pair: Pair,
    receiver: Receiver,
    load: Load,
}

impl Loaded {
    fn start() -> Self {
        let pair = Pair::start(HOLD);
        let receiver = pair.receiver(Behaviour::Answer("AA"));
        let load = Load::start(&pair.north.namespace, FORWARD, SENDERS);
        load.flows_again(Instant::now(), LIMIT);
        Self { pair, receiver, load }
    }

    #[track_caller]
    fn flows(&self) {
        self.load.flows_again(Instant::now(), LIMIT);
    }

    /// Ends the load: no connection was lost, every message is there once.
    #[track_caller]
    fn holds(self) -> Pair {
        let report = self.load.finish();
        report.holds(&[&self.receiver]);
        assert_eq!(report.lost, 0, "connections lost");
        assert_eq!(self.receiver.payloads().len(), report.acked.len(), "each message is delivered once");
        assert_eq!(
            self.receiver.connections(),
            SENDERS,
            "each sender has the receiver's connection that it began with"
        );
        self.pair
    }
}

/// Waits until the site shows a link of that forward.
#[track_caller]
fn linked(site: &Site, forward: &str) {
    until(LIMIT, "the link is up", || {
        (site.metric("forward_link", &format!("forward=\"{forward}\"")) > 0.5).then_some(())
    });
}

#[track_caller]
fn passes(site: &Site, at: SocketAddr, id: &str) {
    Sender::connect(&site.namespace, at).expect("the forward listens").exchange(&message(id, 500));
}

fn nothing_changed_disturbs_nothing() {
    let loaded = Loaded::start();
    for site in [&loaded.pair.north, &loaded.pair.south] {
        let since = site.health_of("peers", if site.name == "north" { "south" } else { "north" })["since"].clone();
        let (code, text) = ask(site);
        assert_eq!((code, text.as_str()), (Some(0), "reloaded: nothing changed\n"));
        let peer = site.health_of("peers", if site.name == "north" { "south" } else { "north" });
        assert_eq!(peer["since"], since, "the session goes on");
    }
    loaded.flows();
    loaded.holds();
}

fn a_forward_and_a_service_come_change_and_go_under_load() {
    let loaded = Loaded::start();
    let (north, south) = loaded.pair.plans(HOLD);
    let more = |port| south.clone().service("notes", loopback(port), "north", &[]);
    let text = take_up(&loaded.pair.south, &more(6662));
    assert_eq!(text, "reloaded: services: 1 added (notes)\n");
    let notes = Receiver::start(&loaded.pair.south.namespace, OTHER_TARGET, Behaviour::Answer("AA"));
    let with_notes = north.clone().forward("notes", SECOND, "south", "service: notes", HOLD);
    assert_eq!(take_up(&loaded.pair.north, &with_notes), "reloaded: forwards: 1 added (notes)\n");
    linked(&loaded.pair.north, "notes");
    passes(&loaded.pair.north, SECOND, "new");
    assert_eq!(notes.payloads().len(), 1);
    let other = north.clone().forward("notes", SECOND, "south", "service: notes", &["hold_for: 20s"]);
    assert_eq!(take_up(&loaded.pair.north, &other), "reloaded: forwards: 1 changed (notes)\n");
    assert_eq!(take_up(&loaded.pair.south, &more(6663)), "reloaded: services: 1 changed (notes)\n");
    loaded.flows();
    assert_eq!(take_up(&loaded.pair.north, &north), "reloaded: forwards: 1 removed (notes)\n");
    assert_eq!(take_up(&loaded.pair.south, &south), "reloaded: services: 1 removed (notes)\n");
    assert!(Sender::connect(&loaded.pair.north.namespace, SECOND).is_err(), "its port is closed");
    // At once again, while the far site still remembers the link.
    take_up(&loaded.pair.south, &more(6662));
    take_up(&loaded.pair.north, &with_notes);
    passes(&loaded.pair.north, SECOND, "again");
    loaded.flows();
    loaded.holds();
}

fn a_forward_is_redirected_and_its_old_senders_end_when_quiet() {
    let pair = Pair::unstarted();
    let mut pair = pair;
    let (_, south) = pair.plans(&[]);
    let north = Plan::of(&pair.north).peer(&pair.south);
    let to = |service: &str| north.clone().forward("orders", FORWARD, "south", &format!("service: {service}"), HOLD);
    pair.south.start(&south.service("notes", OTHER_TARGET, "north", &[]));
    pair.north.start(&to("orders"));
    let orders = pair.receiver(Behaviour::AnswerAfter(Duration::from_secs(2)));
    let notes = Receiver::start(&pair.south.namespace, OTHER_TARGET, Behaviour::Answer("AA"));
    let (mut busy, mut quiet) = (pair.sender(), pair.sender());
    quiet.exchange(&message("quiet", 500));
    busy.send(&message("busy", 500)).expect("open");
    until(LIMIT, "the receiver has it", || (orders.payloads().len() == 2).then_some(()));
    assert_eq!(take_up(&pair.north, &to("notes")), "reloaded: forwards: 1 changed (orders)\n");
    passes(&pair.north, FORWARD, "new way");
    assert_eq!(notes.payloads(), [message("new way", 500)]);
    assert_eq!(quiet.answer(LIMIT), Err(Lost::Closed), "it is to connect again");
    assert_eq!(busy.answer(LIMIT), Ok(answer_to(&message("busy", 500), "AA")), "what was on its way is answered");
    assert_eq!(busy.answer(LIMIT), Err(Lost::Closed));
    take_up(&pair.north, &to("orders"));
    passes(&pair.north, FORWARD, "back");
    assert_eq!((orders.payloads().len(), notes.payloads().len()), (3, 1));
}

fn a_forward_listens_elsewhere_and_keeps_its_senders() {
    let loaded = Loaded::start();
    let elsewhere = |at: &str| {
        let plan = Plan::of(&loaded.pair.north).peer(&loaded.pair.south);
        plan.forward("orders", at.parse().unwrap(), "south", "service: orders", HOLD)
    };
    take_up(&loaded.pair.north, &elsewhere("127.0.0.1:2585"));
    assert!(Sender::connect(&loaded.pair.north.namespace, FORWARD).is_err(), "it listens there no more");
    let mut sender = Sender::connect(&loaded.pair.north.namespace, SECOND).expect("it listens here now");
    // Addresses that overlap with the one before.
    for at in ["0.0.0.0:2585", "127.0.0.1:2585", "0.0.0.0:2585"] {
        take_up(&loaded.pair.north, &elsewhere(at));
    }
    assert_eq!(loaded.pair.north.health_of("forwards", "orders")["listen"], "0.0.0.0:2585");
    loaded.flows();
    drop(sender.send(b""));
    drop(sender);
    let report = loaded.load.finish();
    report.holds(&[&loaded.receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn a_forward_is_renamed_and_keeps_its_port() {
    let pair = Pair::start(HOLD);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("before", 500));
    let renamed = Plan::of(&pair.north).peer(&pair.south);
    let renamed = renamed.forward("lab-orders", FORWARD, "south", "service: orders", HOLD);
    let text = take_up(&pair.north, &renamed);
    assert_eq!(text, "reloaded: forwards: 1 added (lab-orders), 1 removed (orders)\n");
    passes(&pair.north, FORWARD, "after");
    assert_eq!(sender.answer(LIMIT), Err(Lost::Closed), "the old one drains");
    assert_eq!(receiver.payloads().len(), 2);
}

fn soft_settings_count_for_new_senders() {
    let loaded = Loaded::start();
    let (north, _) = loaded.pair.plans(&["hold_for: 30s", "allow_from: [192.0.2.0/24]", "max_message_size: 1KiB"]);
    take_up(&loaded.pair.north, &north);
    let mut refused = loaded.pair.sender();
    assert_eq!(refused.answer(LIMIT), Err(Lost::Closed), "not from here any more");
    let (north, _) = loaded.pair.plans(&["hold_for: 30s", "max_message_size: 1KiB"]);
    take_up(&loaded.pair.north, &north);
    let mut long = loaded.pair.sender();
    drop(long.send(&message("long", 4000)));
    assert_eq!(long.answer(LIMIT), Err(Lost::Closed), "too long");
    let (north, _) = loaded.pair.plans(&["hold_for: 30s", &format!("max_connections: {SENDERS}")]);
    take_up(&loaded.pair.north, &north);
    assert_eq!(loaded.pair.sender().answer(LIMIT), Err(Lost::Closed), "too many, those of the load included");
    loaded.flows();
    let report = loaded.load.finish();
    report.holds(&[&loaded.receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn a_longer_hold_is_kept_by_both_sites() {
    let pair = Pair::start(&["on_unreachable: close"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("before", 500));
    let (north, _) = pair.plans(&["on_unreachable: hold", "hold_for: 60s"]);
    take_up(&pair.north, &north);
    linked(&pair.north, "orders");
    sender.exchange(&message("after", 500));
    // Beyond the 10 s that the far site would keep the streams of a forward that closes.
    pair.wire.cut();
    std::thread::sleep(if full() { Duration::from_secs(40) } else { Duration::from_secs(22) });
    sender.send(&message("during", 500)).expect("it is held");
    pair.wire.mend();
    assert_eq!(sender.answer(LIMIT), Ok(answer_to(&message("during", 500), "AA")));
    assert_eq!((receiver.payloads().len(), receiver.connections()), (3, 1));
}

fn a_peer_that_may_not_any_more_is_cut_off_and_told_why() {
    let pair = Pair::start(&["hold_for: 2s"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let mut sender = pair.sender();
    sender.exchange(&message("before", 500));
    // Another service stays: without any the filter lets no link in, and the cause is only told to the open streams.
    let rest = Plan::of(&pair.south).peer(&pair.north).service("notes", OTHER_TARGET, "north", &[]);
    let none = rest.service("orders", TARGET, "", &[]);
    assert_eq!(take_up(&pair.south, &none), "reloaded: services: 1 added (notes), 1 changed (orders)\n");
    assert_eq!(sender.answer(LIMIT), Err(Lost::Closed));
    until(LIMIT, "the cause is known", || {
        let forward = pair.north.health_of("forwards", "orders");
        let is_named = forward["closed"]["service_withdrawn"] == 1;
        (is_named && forward["cause"].to_string().contains("is not offered to this site")).then_some(())
    });
    until(LIMIT, "the receiver's connection is closed", || (receiver.connections_open() == 0).then_some(()));
    take_up(&pair.south, &pair.plans(&[]).1);
    linked(&pair.north, "orders");
    passes(&pair.north, FORWARD, "after");
}

fn a_removed_service_is_drained_and_comes_back() {
    let pair = Pair::start(&["hold_for: 20s"]);
    let receiver = pair.receiver(Behaviour::AnswerAfter(Duration::from_secs(1)));
    let mut busy = pair.sender();
    busy.send(&message("busy", 500)).expect("open");
    until(LIMIT, "the receiver has it", || (receiver.payloads().len() == 1).then_some(()));
    let rest = Plan::of(&pair.south).peer(&pair.north).service("notes", OTHER_TARGET, "north", &[]);
    take_up(&pair.south, &rest);
    assert_eq!(busy.answer(LIMIT), Ok(answer_to(&message("busy", 500), "AA")), "it was on its way");
    assert_eq!(busy.answer(LIMIT), Err(Lost::Closed));
    until(LIMIT, "the cause is known", || {
        let cause = pair.north.health_of("forwards", "orders")["cause"].to_string();
        cause.contains("is not known at south").then_some(())
    });
    let mut held = pair.sender();
    held.send(&message("held", 500)).expect("open");
    take_up(&pair.south, &pair.plans(&[]).1);
    assert_eq!(held.answer(ANSWER_LIMIT), Ok(answer_to(&message("held", 500), "AA")));
    assert_eq!(receiver.payloads().len(), 2);
}

fn the_receiver_of_a_service_moves() {
    let loaded = Loaded::start();
    let other = Receiver::start(&loaded.pair.south.namespace, OTHER_TARGET, Behaviour::Answer("AA"));
    let moved = Plan::of(&loaded.pair.south).peer(&loaded.pair.north).service("orders", OTHER_TARGET, "north", &[]);
    take_up(&loaded.pair.south, &moved);
    passes(&loaded.pair.north, FORWARD, "new");
    assert_eq!(other.payloads(), [message("new", 500)]);
    loaded.flows();
    loaded.holds();
}

fn peers_and_endpoints_change_under_load() {
    let mut loaded = Loaded::start();
    let (north, _) = loaded.pair.plans(HOLD);
    let west = loaded.pair.wire.site("west");
    assert_eq!(take_up(&loaded.pair.north, &north.clone().peer(&west)), "reloaded: peers: 1 added (west)\n");
    loaded.flows();
    // South is moved, and north is told where it is now.
    let new = loaded.pair.south.roam(7);
    let text = take_up(&loaded.pair.north, &loaded.pair.plans(HOLD).0.peer(&west));
    assert_eq!(text, "reloaded: peers: 1 changed (south)\n");
    loaded.flows();
    let endpoint = loaded.pair.north.health_of("peers", "south")["endpoint"].to_string();
    assert!(endpoint.contains(&new.to_string()), "{endpoint}");
    assert_eq!(take_up(&loaded.pair.north, &loaded.pair.plans(HOLD).0), "reloaded: peers: 1 removed (west)\n");
    assert_eq!(loaded.pair.north.health()["peers"].as_array().map(Vec::len), Some(1));
    loaded.flows();
    loaded.holds();
}

fn a_preshared_key_is_set_on_both_sides_under_load() {
    let loaded = Loaded::start();
    let with = |of: &Site, peer: &Site| {
        let allowed = format!("{}/32", peer.inner);
        let endpoint = format!("endpoint: \"{}:51820\"", peer.outer);
        // beside each site's own configuration: a reload takes no file from elsewhere
        let psk = of.dir.join("psk.key");
        write_secret(&psk, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        let line = format!("preshared_key_file: {}", psk.display());
        Plan::of(of).peer_with(peer, &allowed, &[&endpoint, &line])
    };
    let (north, south) = (&loaded.pair.north, &loaded.pair.south);
    take_up(north, &with(north, south).forward("orders", FORWARD, "south", "service: orders", HOLD));
    let text = take_up(south, &with(south, north).service("orders", TARGET, "north", &[]));
    assert_eq!(text, "reloaded: peers: 1 changed (north)\n");
    loaded.flows();
    loaded.holds();
}

fn a_site_gets_another_key_under_load() {
    let mut loaded = Loaded::start();
    let secret = x25519_dalek::StaticSecret::from([9_u8; 32]);
    let text = |bytes: &[u8; 32]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    write_secret(&loaded.pair.north.dir.join("private.key"), &text(&secret.to_bytes()));
    loaded.pair.north.public_key = text(x25519_dalek::PublicKey::from(&secret).as_bytes());
    let (north, south) = loaded.pair.plans(HOLD);
    assert_eq!(take_up(&loaded.pair.north, &north), "reloaded: tunnel: private_key_file changed\n");
    assert_eq!(take_up(&loaded.pair.south, &south), "reloaded: peers: 1 changed (north)\n");
    loaded.flows();
    loaded.holds();
}

fn a_bad_file_changes_nothing_and_says_why() {
    let loaded = Loaded::start();
    let (north, _) = loaded.pair.plans(HOLD);
    let site = &loaded.pair.north;
    let before = site.health();
    let good = north.yaml();
    let key = site.dir.join("missing.key");
    for (text, code, says) in [
        ("site: [".to_owned(), 64, "wardlink.yaml:1:"),
        (String::new(), 64, "is empty"),
        (good.replace("hold_for: 30s", "hold_fro: 30s"), 64, "hold_fro"),
        (good.replace("private.key", "missing.key"), 64, key.to_str().unwrap()),
        (good.replace("interface: wl0", "interface: wl1"), 1, "tunnel.interface cannot be changed while the site runs"),
        (good.replace("link_port: 2570", "link_port: 2571"), 1, "tunnel.link_port cannot be changed"),
    ] {
        std::fs::write(site.config_path(), text).expect("written");
        let (ended, said) = ask(site);
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains(says) && said.contains("nothing was changed"), "{says} in {said}");
        let health = site.health();
        assert_eq!(health["config"]["loaded"], before["config"]["loaded"]);
        assert!(health["config"]["failed_reload"]["cause"].to_string().contains(says), "{health}");
        assert!(site.metric("config_last_reload_successful", "") < 0.5);
        let status = site.command(&["status", "--socket", &site.dir.join("control.sock").display().to_string()]);
        let shown = site.namespace.must(&status.join(" "));
        assert!(shown.contains("failed, nothing was changed:") && shown.contains(says), "{shown}");
    }
    loaded.flows();
    take_up(site, &north);
    assert!(site.metric("config_last_reload_successful", "") > 0.5);
    assert_eq!(site.health()["config"]["failed_reload"], serde_json::Value::Null);
    loaded.holds();
}

fn a_port_that_is_taken_changes_nothing() {
    let loaded = Loaded::start();
    let (north, _) = loaded.pair.plans(HOLD);
    let site = &loaded.pair.north;
    let _taken = site.namespace.listen(SECOND).expect("free");
    let udp = site.namespace.udp("0.0.0.0:51999".parse().unwrap()).expect("free");
    let third = loopback(2586);
    let more = north.clone().forward("first", third, "south", "service: orders", HOLD);
    let more = more.forward("notes", SECOND, "south", "service: orders", HOLD);
    site.write(&more);
    let (code, text) = ask(site);
    assert!(code == Some(1) && text.contains("127.0.0.1:2585") && text.contains("notes"), "{text}");
    assert!(Sender::connect(&site.namespace, third).is_err(), "not half of it");
    let yaml = north.clone().forward("first", third, "south", "service: orders", HOLD).yaml();
    std::fs::write(site.config_path(), yaml.replace("listen_port: 51820", "listen_port: 51999")).expect("written");
    let (code, text) = ask(site);
    assert!(code == Some(1) && text.contains("51999"), "{text}");
    assert!(Sender::connect(&site.namespace, third).is_err(), "not half of it");
    drop(udp);
    loaded.flows();
    let (code, text) = ask(site);
    assert_eq!(code, Some(0), "now it is free: {text}");
    passes(site, third, "first");
    loaded.flows();
    let report = loaded.load.finish();
    report.holds(&[&loaded.receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn sighup_does_the_same_and_the_log_says_so() {
    let mut loaded = Loaded::start();
    let (north, _) = loaded.pair.plans(HOLD);
    let more = north.clone().forward("notes", SECOND, "south", "service: orders", HOLD);
    loaded.pair.north.write(&more);
    loaded.pair.north.program().signal(Signal::SIGHUP);
    until(LIMIT, "it is taken up", || Sender::connect(&loaded.pair.north.namespace, SECOND).ok());
    until(LIMIT, "the log says so", || loaded.pair.north.log().contains("forwards: 1 added (notes)").then_some(()));
    std::fs::write(loaded.pair.north.config_path(), "site: [").expect("written");
    loaded.pair.north.program().signal(Signal::SIGHUP);
    until(LIMIT, "the log says why not", || {
        let log = loaded.pair.north.log();
        (log.contains("nothing was changed") && log.contains("wardlink.yaml:1:")).then_some(())
    });
    loaded.flows();
    let report = loaded.load.finish();
    report.holds(&[&loaded.receiver]);
    assert_eq!(report.lost, 0, "connections lost");
}

fn a_stranger_may_not() {
    let pair = Pair::start(&[]);
    let socket = pair.north.dir.join("control.sock");
    // Whoever gets to the socket at all: the mode of its file is the first gate, this is the second.
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("ours");
    let (north, _) = pair.plans(&["hold_for: 7s"]);
    pair.north.write(&north);
    let before = pair.north.health()["config"].clone();
    let words = pair.north.command(&["reload", "--socket", &socket.display().to_string()]).join(" ");
    let output = pair.north.namespace.output(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups -- {words}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if text.contains("setpriv:") {
        return; // a user namespace with one user has no stranger
    }
    assert_eq!(output.status.code(), Some(77), "{text}");
    assert!(text.contains("only root"), "{text}");
    assert_eq!(pair.north.health()["config"], before);
}

fn a_storm_of_reloads_under_load() {
    let loaded = Loaded::start();
    let (north, south) = loaded.pair.plans(HOLD);
    let more = north.clone().forward("notes", SECOND, "south", "service: notes", HOLD);
    let elsewhere = north.clone().forward("notes", SECOND, "south", "service: orders", HOLD);
    take_up(&loaded.pair.south, &south.clone().service("notes", OTHER_TARGET, "north", &[]));
    let rounds = if full() { 100 } else { 34 };
    for round in 0..rounds {
        for plan in [&more, &elsewhere, &north] {
            take_up(&loaded.pair.north, plan);
        }
        if round % 10 == 0 {
            loaded.flows();
        }
    }
    let _notes = Receiver::start(&loaded.pair.south.namespace, OTHER_TARGET, Behaviour::Answer("AA"));
    take_up(&loaded.pair.north, &more);
    passes(&loaded.pair.north, SECOND, "after the storm");
    loaded.flows();
    loaded.holds();
}
