//! Two sites from nothing to a first acknowledged message by the program's own commands, as the README has them; and what
//! running sites make of it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use crate::harness::mllp::{Behaviour, Receiver, Sender, message};
use crate::harness::pair::{FORWARD, TARGET, loopback};
use crate::harness::plan::UDP_PORT;
use crate::harness::site::{Site, write_secret};
use crate::harness::wire::Wire;
use crate::harness::{tests, until};

tests![
    from_nothing_to_a_first_message_in_eight_commands needs "ipv6",
    without_ipv6_an_address_is_demanded_and_used needs "ipv6",
    running_sites_pair_in_either_order needs "ipv6",
    what_a_running_site_was_not_told_of_is_taken_up_when_it_is_said_again needs "ipv6",
    what_a_running_site_refuses_is_put_back needs "ipv6",
    an_address_that_this_host_reaches_otherwise_is_refused needs "ipv6",
    the_words_and_the_site_are_shown_before_a_card_is_taken needs "ipv6" "script" "sh",
    a_site_with_a_new_key_is_taken_again_and_keeps_its_address needs "ipv6",
    two_sites_of_one_name_are_told_apart_by_their_files needs "ipv6",
];

/// Bounds the time until a first message is answered.
const LIMIT: Duration = Duration::from_secs(15);

/// Is the most commands that a first message may take, both sites together.
const COMMANDS_MAX: usize = 8;

/// Is a site that is made by commands, and how many there were.
struct Made {
    site: Site,
    name: String,
    commands: usize,
}

impl Made {
    fn new(wire: &Wire, name: &'static str, test: &str) -> Self {
        let site = wire.site(name);
        // the harness makes a key; here the program does
        fs::remove_file(site.dir.join("private.key")).expect("the harness's key");
        // control sockets are named after sites, in one directory for all tests
        Self { site, name: format!("{name}-{test}"), commands: 0 }
    }

    /// Runs a command of the program; returns the exit code and what it printed, both ways.
    fn try_run(&mut self, arguments: &str) -> (Option<i32>, String, String) {
        let config = self.site.config_path();
        let mut words: Vec<&str> = arguments.split_whitespace().collect();
        words.extend(["-c", &config]);
        self.commands += 1;
        let output = self.site.namespace.output(&self.site.command(&words).join(" "));
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Runs a command that succeeds; returns what it printed to standard output.
    #[track_caller]
    fn run(&mut self, arguments: &str) -> String {
        let (code, out, errors) = self.try_run(arguments);
        assert_eq!(code, Some(0), "{}: {arguments}: {errors}", self.name);
        out
    }

    /// Runs a command that is refused; returns what it said, and sees that the file is as it was.
    #[track_caller]
    fn refused(&mut self, arguments: &str, exit_code: i32) -> String {
        let before = self.file();
        let (code, _, errors) = self.try_run(arguments);
        assert_eq!(code, Some(exit_code), "{arguments}: {errors}");
        assert!(errors.contains("nothing was changed"), "{errors}");
        assert_eq!(self.file(), before);
        errors
    }

    fn init(&mut self, more: &str) -> String {
        let name = self.name.clone();
        self.run(&format!("init --site {name} {more}"))
    }

    fn file(&self) -> String {
        fs::read_to_string(self.site.config_path()).expect("the configuration")
    }

    /// Takes the card of the other site, whose admin has read out the words.
    #[track_caller]
    fn pair(&mut self, card: &str, other: &mut Made) -> String {
        let words = other.run("card --fingerprint").trim().replace(' ', "-");
        other.commands -= 1;
        self.run(&format!("pair {} --yes --fingerprint {words}", card.trim()))
    }

    /// Runs the site.
    #[track_caller]
    fn start(&mut self) {
        self.commands += 1;
        self.site.restart();
    }
}

fn endpoint(site: &Site) -> String {
    SocketAddr::new(site.outer.into(), UDP_PORT).to_string()
}

/// Sends a message until it is acknowledged: links come up meanwhile.
#[track_caller]
fn passes(from: &Site, to: &Site) {
    let receiver = Receiver::start(&to.namespace, TARGET, Behaviour::Answer("AA"));
    let mut sender = Sender::connect(&from.namespace, FORWARD).expect("the forward listens");
    sender.send(&message("first", 500)).expect("it is taken");
    let answer = String::from_utf8_lossy(&sender.answer(LIMIT).expect("an answer")).into_owned();
    assert!(answer.contains("MSA|AA|first"), "{answer}");
    until(LIMIT, "it is delivered", || (receiver.payloads().len() == 1).then_some(()));
}

fn from_nothing_to_a_first_message_in_eight_commands() {
    let wire = Wire::new();
    let (mut north, mut south) = (Made::new(&wire, "north", "eight"), Made::new(&wire, "south", "eight"));
    let north_card = north.init(&format!("--endpoint {}", endpoint(&north.site)));
    let south_card = south.init("");
    assert!(north_card.starts_with("wardlink1:name=north-eight,") && north_card.lines().count() == 1, "{north_card}");
    north.pair(&south_card, &mut south);
    south.pair(&north_card, &mut north);
    south.run(&format!("service add orders --target {TARGET} --allow-peer {}", north.name));
    north.run(&format!("forward add orders --listen {FORWARD} --peer {} --service orders", south.name));
    south.start();
    north.start();
    passes(&north.site, &south.site);
    assert!(north.commands + south.commands <= COMMANDS_MAX, "{} and {}", north.commands, south.commands);
}

fn without_ipv6_an_address_is_demanded_and_used() {
    let wire = Wire::new();
    let (mut north, mut south) = (Made::new(&wire, "north", "four"), Made::new(&wire, "south", "four"));
    for made in [&north, &south] {
        made.site.namespace.run(|| {
            for setting in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{setting}/disable_ipv6"), "1").expect("IPv6 is off");
            }
        });
    }
    let (code, _, errors) = north.try_run("init --site north-four");
    assert!(code == Some(64) && errors.contains("--address 10.98.0.1/32"), "{errors}");
    assert!(!fs::exists(north.site.config_path()).unwrap() && !north.site.dir.join("private.key").exists());
    let north_card = north.init("--address 10.98.0.1/32");
    let south_card = south.init(&format!("--address 10.98.0.2/32 --endpoint {}", endpoint(&south.site)));
    north.pair(&south_card, &mut south);
    south.pair(&north_card, &mut north);
    south.run("service add orders --target 127.0.0.1:6661 --allow-peer north-four");
    north.run("forward add orders --listen 127.0.0.1:2575 --peer south-four --service orders");
    south.start();
    north.start();
    passes(&north.site, &south.site);
}

fn running_sites_pair_in_either_order() {
    for (test, is_north_first, delivery) in [("a", true, "transparent"), ("b", false, "stored")] {
        let wire = Wire::new();
        let (mut north, mut south) = (Made::new(&wire, "north", test), Made::new(&wire, "south", test));
        let north_card = north.init("");
        let south_card = south.init(&format!("--endpoint {}", endpoint(&south.site)));
        north.start();
        south.start();
        let processes = (north.site.process_id(), south.site.process_id());
        let pair_north = |north: &mut Made, south: &mut Made, card: &str| {
            let said = north.pair(card, south);
            assert!(said.contains(&format!("reloaded: peers: 1 added (south-{test})")), "{said}");
            let add = format!(
                "forward add orders --listen {FORWARD} --peer south-{test} --service orders --delivery {delivery}"
            );
            let said = north.run(&add);
            assert!(said.contains("reloaded: forwards: 1 added (orders)"), "{said}");
        };
        if is_north_first {
            pair_north(&mut north, &mut south, &south_card);
        }
        south.pair(&north_card, &mut north);
        south.run(&format!("service add orders --target {TARGET} --allow-peer north-{test}"));
        if !is_north_first {
            let words = south.run("card --fingerprint").trim().replace(' ', "-");
            let said = north.refused(&format!("pair {} --yes --fingerprint {words}", south_card.trim()), 64);
            assert!(said.contains("a service was added"), "its card is another one by now: {said}");
            let card = south.run("card");
            pair_north(&mut north, &mut south, &card);
        }
        passes(&north.site, &south.site);
        // what south offers now is on its card, and comes to north's file by pairing again
        let card = south.run("card");
        let said = north.pair(&card, &mut south);
        let outcome = if is_north_first { "reloaded: nothing changed" } else { "nothing is to be changed" };
        assert!(said.contains(outcome) && north.file().contains("# offers orders"), "{said}");
        // first what uses the peer
        let said = north.refused(&format!("pair --remove south-{test}"), 64);
        assert!(said.contains("wardlink forward remove orders"), "{said}");
        if delivery == "transparent" {
            north.run("forward remove orders");
            north.run(&format!("pair --remove south-{test}"));
            assert_eq!(north.site.health()["peers"].as_array().map(Vec::len), Some(0));
        }
        south.run("service remove orders");
        south.run(&format!("pair --remove north-{test}"));
        assert_eq!((north.site.process_id(), south.site.process_id()), processes, "no site was restarted");
    }
}

fn what_a_running_site_was_not_told_of_is_taken_up_when_it_is_said_again() {
    let wire = Wire::new();
    let (mut north, mut south) = (Made::new(&wire, "north", "again"), Made::new(&wire, "south", "again"));
    north.init("");
    let card = south.init(&format!("--endpoint {}", endpoint(&south.site)));
    north.start();
    let words = south.run("card --fingerprint").trim().replace(' ', "-");
    // as a kill leaves it between the file and the reload
    let again = format!("pair {} --yes --fingerprint {words}", card.trim());
    north.run(&format!("{again} --no-reload"));
    assert!(north.run(&again).contains("reloaded: peers: 1 added (south-again)"));
    let said = north.run(&again);
    assert!(said.contains("nothing is to be changed\n"), "{said}");
}

fn what_a_running_site_refuses_is_put_back() {
    let wire = Wire::new();
    let (mut north, mut south) = (Made::new(&wire, "north", "back"), Made::new(&wire, "south", "back"));
    north.init("");
    let card = south.init(&format!("--endpoint {}", endpoint(&south.site)));
    let path = north.site.config_path();
    fs::write(&path, north.file() + "# the last line\n").expect("a comment");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
    std::os::unix::fs::chown(&path, None, Some(nix::unistd::getegid().as_raw())).expect("an owner");
    north.start();
    north.pair(&card, &mut south);
    let taken = north.site.namespace.listen(FORWARD).expect("the port is free");
    let add = format!("forward add orders --listen {FORWARD} --peer south-back --service orders --delivery stored");
    let said = north.refused(&add, 1);
    assert!(said.contains("127.0.0.1:2575"), "{said}");
    assert!(!north.site.dir.join("spool.key").exists(), "a key was left");
    let log = north.site.log();
    assert!(log.contains("not reloaded"), "{log}");
    let failed = north.site.metric("config_last_reload_successful", "");
    assert!((failed - 1.0).abs() < 0.1, "the site is told that the old file is back: {failed}");
    drop(taken);
    north.run(&add);
    let metadata = fs::metadata(&path).expect("the file");
    assert_eq!(metadata.mode() & 0o7777, 0o644);
    assert!(north.file().ends_with("# the last line\n") && north.file().contains("# The sites at the other ends."));
    let names: Vec<String> = fs::read_dir(&north.site.dir)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!names.iter().any(|name| name.starts_with('.')), "{names:?}");
    until(LIMIT, "it listens", || north.site.namespace.connect(FORWARD).ok());
    // bad arguments reach neither the file nor the site
    let health = loopback(9575);
    let said = north.refused(&format!("forward add more --listen {health} --peer south-back --service x"), 64);
    assert!(said.contains("health.listen") && said.contains("write another port"), "{said}");
}

fn an_address_that_this_host_reaches_otherwise_is_refused() {
    let wire = Wire::new();
    let (mut north, mut south) = (Made::new(&wire, "north", "reach"), Made::new(&wire, "south", "reach"));
    north.init("--address 10.98.0.1/24");
    let card = south.init("--address 10.77.1.1/32 --endpoint 198.51.100.2:51820");
    north.site.namespace.ip("route add 10.77.0.0/16 via 192.0.2.1");
    let said = north.refused(&format!("pair {card}"), 64);
    assert!(said.contains("this host reaches 10.77.0.0/16 by w0"), "{said}");
    north.site.namespace.ip("route del 10.77.0.0/16");
    north.site.namespace.ip("addr add 10.77.1.1/32 dev lo");
    let said = north.refused(&format!("pair {card}"), 64);
    assert!(said.contains("10.77.1.1/32 by lo"), "{said}");
    north.site.namespace.ip("addr del 10.77.1.1/32 dev lo");
    // nobody has compared it
    let said = north.refused(&format!("pair {card}"), 64);
    assert!(said.contains("--yes --fingerprint"), "{said}");
    north.pair(&card, &mut south);
    // its own route does not stand in its way
    north.start();
    let words = north.pair(&card, &mut south);
    assert!(words.contains("nothing is to be changed"), "{words}");
}

fn the_words_and_the_site_are_shown_before_a_card_is_taken() {
    let wire = Wire::new();
    let (mut north, mut south) = (Made::new(&wire, "north", "ask"), Made::new(&wire, "south", "ask"));
    north.init("");
    let card = south.init(&format!("--endpoint {}", endpoint(&south.site)));
    let words = south.run("card --fingerprint");
    let pair = north.site.command(&["pair", card.trim(), "-c", &north.site.config_path()]).join(" ");
    // at a terminal, whose other end answers
    let file = north.site.dir.join("ask.sh").display().to_string();
    let ask = |north: &Made, answer: &str| {
        let script = format!("echo {answer} | script -qec '{pair}' /dev/null\n");
        fs::write(&file, script).expect("a script");
        let output = north.site.namespace.output(&format!("sh {file}"));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let before = north.file();
    for (answer, exit_code) in [("no", 1), ("", 1), ("y", 1), ("yes", 0)] {
        assert_eq!(north.file(), before, "nothing is taken before");
        let (code, said) = ask(&north, answer);
        assert_eq!(code, Some(exit_code), "{answer}: {said}");
        assert!(said.contains("Card of south-ask") && said.contains("admin of south-ask reads out"), "{said}");
        assert!(words.split_whitespace().all(|word| said.contains(word)), "{said}");
    }
    assert!(north.file().contains("- name: south-ask"));
}

fn a_site_with_a_new_key_is_taken_again_and_keeps_its_address() {
    let wire = Wire::new();
    let (mut north, mut south) = (Made::new(&wire, "north", "key"), Made::new(&wire, "south", "key"));
    let north_card = north.init("");
    let south_card = south.init(&format!("--endpoint {}", endpoint(&south.site)));
    north.pair(&south_card, &mut south);
    south.pair(&north_card, &mut north);
    south.run(&format!("service add orders --target {TARGET} --allow-peer north-key"));
    north.run(&format!("forward add orders --listen {FORWARD} --peer south-key --service orders"));
    south.start();
    north.start();
    passes(&north.site, &south.site);
    let key = String::from_utf8(south.site.namespace.output(&south.site.command(&["key", "gen"]).join(" ")).stdout);
    write_secret(&south.site.dir.join("private.key"), key.expect("a key").trim());
    south.run("reload");
    let card = south.run("card");
    let address = |card: &str| card.split("address=").nth(1).and_then(|rest| rest.split(',').next()).map(str::to_owned);
    assert_eq!(address(&card), address(&south_card));
    let words = south.run("card --fingerprint").trim().replace(' ', "-");
    let said = north.refused(&format!("pair {} --yes --fingerprint {words}", card.trim()), 64);
    assert!(said.contains("--new-key"), "{said}");
    let said = north.run(&format!("pair {} --new-key --yes --fingerprint {words}", card.trim()));
    assert!(said.contains("reloaded: peers: 1 changed (south-key)"), "{said}");
    passes(&north.site, &south.site);
}

fn two_sites_of_one_name_are_told_apart_by_their_files() {
    let wire = Wire::new();
    let (mut north, mut twin) = (Made::new(&wire, "north", "twin"), Made::new(&wire, "south", "twin"));
    let mut third = Made::new(&wire, "third", "twin");
    twin.name.clone_from(&north.name);
    north.init("");
    twin.init("");
    let card = third.init("");
    north.start();
    twin.start();
    for made in [&mut north, &mut twin] {
        assert!(made.run("status").starts_with("north-twin: "), "both run, and each answers for itself");
    }
    // now the file of one that does not run names the socket of the other
    twin.site.kill();
    let socket = |made: &Made| made.site.dir.join("run/control.sock").display().to_string();
    let text = twin.file().replace(&socket(&twin), &socket(&north));
    fs::write(twin.site.config_path(), text).expect("another socket");
    let file = north.site.config_path();
    for (command, exit_code) in [("status", 64), ("reload", 64), ("forward pause orders", 64), ("check", 2)] {
        let (code, out, errors) = twin.try_run(command);
        assert_eq!(code, Some(exit_code), "{command}: {out}{errors}");
        let said = out + &errors;
        assert!(said.contains("another site north-twin answers") && said.contains(&format!("-c {file}")), "{said}");
    }
    let said = twin.pair(&card, &mut third);
    assert!(said.contains("nothing was reloaded") && said.contains(&file), "{said}");
    assert!(twin.file().contains("- name: third-twin"), "the file is changed");
    assert!(!north.site.log().contains("reloaded"), "{}", north.site.log());
    // by a link to its file it is the same site
    let link = north.site.dir.join("link.yaml");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    let by_link = north.site.command(&["reload", "-c", &link.display().to_string()]).join(" ");
    assert!(north.site.namespace.output(&by_link).status.success());
}
