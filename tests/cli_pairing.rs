//! Runs `init`, `card`, `pair`, `forward` and `service` as two admins do, without a running site: what is written where, with
//! which mode, what is refused, and that a file that is not changed stays byte for byte.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Is a directory with the sites of one test.
struct Sites(TempDir);

impl Sites {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Runs a command for a site.
    fn try_run(&self, site: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wardlink"));
        command.current_dir(self.0.path()).args(arguments).arg("-c").arg(format!("{site}/wardlink.yaml"));
        // no terminal either
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that succeeds; returns what it printed to standard output.
    #[track_caller]
    fn run(&self, site: &str, arguments: &[&str]) -> String {
        let output = self.try_run(site, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that changes nothing; returns what it said.
    #[track_caller]
    fn refused(&self, site: &str, arguments: &[&str]) -> String {
        let before = self.file(site);
        let output = self.try_run(site, arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {said}");
        assert_eq!(self.file(site), before, "{arguments:?}");
        assert!(!said.trim_end().contains('\u{1b}'), "{said:?}");
        said
    }

    /// Makes a site with an address of its own; returns its card.
    #[track_caller]
    fn init(&self, site: &str, more: &[&str]) -> String {
        let arguments = [&["init", "--site", site][..], more].concat();
        self.run(site, &arguments).trim().to_owned()
    }

    fn file(&self, site: &str) -> String {
        fs::read_to_string(self.path(&format!("{site}/wardlink.yaml"))).unwrap()
    }

    fn write(&self, site: &str, text: &str) {
        fs::write(self.path(&format!("{site}/wardlink.yaml")), text).unwrap();
    }

    fn words(&self, site: &str) -> String {
        self.run(site, &["card", "--fingerprint"]).trim().to_owned()
    }

    fn mode(&self, file: &str) -> u32 {
        fs::metadata(self.path(file)).unwrap().permissions().mode() & 0o7777
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const NORTH: &[&str] = &["--address", "fd98:7::1/128"];
const LAB: &[&str] = &["--address", "fd98:7::2/128", "--endpoint", "lab.example.org:51821"];

/// Makes two sites, and pairs north with the lab.
fn paired() -> Sites {
    let sites = Sites::new();
    sites.init("north", NORTH);
    let card = sites.init("lab", LAB);
    sites.run("north", &["pair", &card, "--yes", "--fingerprint", &sites.words("lab")]);
    sites
}

#[test]
fn a_site_is_made_whole_and_never_over_another() {
    let sites = Sites::new();
    let card = sites.init("lab", LAB);
    assert_eq!(
        (sites.mode("lab/private.key"), sites.mode("lab/wardlink.yaml"), sites.mode("lab")),
        (0o600, 0o640, 0o750)
    );
    assert_eq!(sites.run("lab", &["card"]).trim(), card);
    assert!(sites.run("lab", &["check-config"]).contains("site lab, 0 peers"));
    let file = sites.file("lab");
    assert!(file.contains("listen_port: 51821") && file.contains("endpoint: \"lab.example.org:51821\""), "{file}");
    assert!(file.lines().filter(|line| line.contains('#')).count() > 10, "{file}");
    let key = fs::read_to_string(sites.path("lab/private.key")).unwrap();
    assert!(!file.contains(key.trim()) && !card.contains(key.trim()), "a secret is shown");
    assert!(sites.refused("lab", &["init", "--site", "lab"]).contains("exists already"));
    assert_eq!(fs::read_to_string(sites.path("lab/private.key")).unwrap(), key);
    // a key without a configuration may be what another program needs, or what a kill left
    fs::remove_file(sites.path("lab/wardlink.yaml")).unwrap();
    let output = sites.try_run("lab", &["init", "--site", "lab"]);
    assert!(stderr(&output).contains("private.key exists already"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(sites.path("lab")).unwrap().count(), 1, "nothing was left");
    let said = stderr(&output);
    let remove = said.lines().find_map(|line| line.trim().strip_prefix("rm ")).unwrap();
    fs::remove_file(remove).unwrap();
    sites.init("lab", LAB);
}

#[test]
fn what_init_cannot_use_is_refused_without_leftovers() {
    let sites = Sites::new();
    for (arguments, instead) in [
        (&["--address", "8.8.8.8/32"][..], "10.98.0.1/32"),
        (&["--address", "nowhere"], "10.98.0.1/32"),
        (&["--endpoint", "lab.example.org"], "HOST:PORT"),
        (&["--endpoint", "127.0.0.1:51820"], "where other hosts reach this one"),
        (&["--endpoint", "[fe80::1%eth0]:51820"], "where other hosts reach this one"),
    ] {
        let output = sites.try_run("bad", &[&["init", "--site", "bad"][..], arguments].concat());
        assert!(output.status.code() == Some(64) && stderr(&output).contains(instead), "{}", stderr(&output));
    }
    let output = sites.try_run("bad", &["init", "--site", "Bad Name"]);
    assert_eq!(output.status.code(), Some(64));
    fs::write(sites.path("file"), "").unwrap();
    let output = sites.try_run("file/below", &[&["init", "--site", "a"][..], NORTH].concat());
    assert!(output.status.code() == Some(1) && stderr(&output).contains("nothing was made"), "{}", stderr(&output));
    assert!(!sites.path("bad").exists());
}

#[test]
fn a_card_is_taken_as_a_file_as_a_line_and_from_standard_input() {
    let sites = Sites::new();
    sites.init("north", NORTH);
    let card = sites.init("lab", LAB);
    let words = sites.words("lab");
    fs::write(sites.path("lab.card"), format!("\n{}\r\n{}\n", &card[..70], &card[70..])).unwrap();
    let pair = |source: &str| sites.run("north", &["pair", source, "--yes", "--fingerprint", &words.to_uppercase()]);
    assert!(pair("lab.card").contains("paired with lab, fd98:7::2 inside the tunnel"), "as mail wraps it");
    assert!(pair(&card).contains("nothing is to be changed"));
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wardlink"));
    command.current_dir(sites.0.path()).args([
        "pair",
        "-",
        "-c",
        "north/wardlink.yaml",
        "--yes",
        "--fingerprint",
        &words,
    ]);
    let output = command.stdin(fs::File::open(sites.path("lab.card")).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let file = sites.file("north");
    let key = card.split("key=").nth(1).unwrap().split(',').next().unwrap();
    let entry = format!(
        "peers:\n  - name: lab\n    public_key: \"{key}\"\n    endpoint: \"lab.example.org:51821\"\n    \
         allowed_ips: [\"fd98:7::2/128\"]\n    persistent_keepalive: 25s\n"
    );
    assert!(file.contains(&entry), "{file}");
    assert!(sites.run("north", &["check-config"]).contains("1 peer"));
}

#[test]
fn nothing_is_taken_that_nobody_compared() {
    let sites = Sites::new();
    sites.init("north", NORTH);
    let card = sites.init("lab", LAB);
    let words = sites.words("lab");
    assert!(sites.refused("north", &["pair", &card]).contains("no terminal to ask at"));
    assert!(sites.refused("north", &["pair", &card, "--yes"]).contains("--fingerprint"));
    assert!(sites.refused("north", &["pair", &card, "--fingerprint", &words]).contains("no terminal to ask at"));
    let wrong = format!("{} {}", words.split_once(' ').unwrap().1, "abandon");
    let said = sites.refused("north", &["pair", &card, "--yes", "--fingerprint", &wrong]);
    assert!(said.contains("not those of this card of lab") && !said.contains(&words), "{said}");
    assert!(sites.refused("north", &["pair", &card, "--yes", "--fingerprint", ""]).contains("not those"));
}

#[test]
fn cards_that_claim_what_is_here_are_refused() {
    let sites = paired();
    let before = sites.file("north");
    let own = sites.run("north", &["card"]);
    let twin = sites.init("twin", &["--address", "fd98:7::2/128"]);
    let echo = sites.init("echo", &["--address", "fd98:7::1/128"]);
    sites.init("loop", &["--address", "fd98:7::9/128", "--endpoint", "192.0.2.9:51820"]);
    sites.write("loop", &sites.file("loop").replace("192.0.2.9", "127.0.0.1"));
    let loopback = sites.run("loop", &["card"]);
    // another site of the lab's name: its own directory tells them apart here
    let namesake = sites.run("lab2", &["init", "--site", "lab", "--address", "fd98:7::8/128"]);
    let whole = sites.run("lab", &["card"]).trim().to_owned();
    let renamed = {
        let text = sites.file("lab").replace("site: lab ", "site: moved ");
        sites.write("lab", &text);
        sites.run("lab", &["card"])
    };
    let four = sites.init("four", &["--address", "10.98.0.4/32"]);
    for (card, why) in [
        (own.as_str(), "this site's own card"),
        (&twin, "that is of peer lab"),
        (&echo, "that is this site's own"),
        (&loopback, "that host itself"),
        (&namesake, "--new-key"),
        (&renamed, "named lab here; take it as that one: --as lab"),
        (&four, "none of IPv4"),
        (&whole[..whole.len() - 3], "checksum"),
        ("wardlink9:name=x", "another version"),
        ("wardlink1:\u{1b}[2J", "checksum"),
        ("no-such-file\u{1b}[2J", "cannot be read"),
    ] {
        let said = sites.refused("north", &["pair", card, "--yes", "--fingerprint", "a"]);
        assert!(said.contains(why), "{card}: {said}");
    }
    assert_eq!(sites.file("north"), before);
    sites.run("north", &["pair", namesake.trim(), "--as", "lab-b", "--yes", "--fingerprint", &sites.words("lab2")]);
    assert!(sites.file("north").contains("- name: lab-b\n"));
}

#[test]
fn a_card_brings_its_peer_up_to_date_and_leaves_the_rest() {
    let sites = paired();
    sites.write("north", &sites.file("north").replace("25s\n", "10s   # as the provider wants it\n"));
    sites.run("lab", &["pair", sites.run("north", &["card"]).trim(), "--yes", "--fingerprint", &sites.words("north")]);
    sites.run("lab", &["service", "add", "orders", "--target", "127.0.0.1:6661", "--allow-peer", "north"]);
    sites.write("lab", &sites.file("lab").replace("lab.example.org:51821\"", "lab2.example.org:443\""));
    let before = sites.file("north");
    let said = sites
        .run("north", &["pair", sites.run("lab", &["card"]).trim(), "--yes", "--fingerprint", &sites.words("lab")]);
    assert!(said.contains("the card is taken of lab") && said.contains("lab offers orders"), "{said}");
    let wanted = before
        .replace("lab.example.org:51821", "lab2.example.org:443")
        .replace("- name: lab\n", "- name: lab   # offers orders\n");
    assert_eq!(sites.file("north"), wanted);
}

#[test]
fn forwards_and_services_come_and_go_and_comments_stay() {
    let sites = paired();
    let before = sites.file("north") + "# the end\n";
    sites.write("north", &before);
    let add = ["forward", "add", "orders", "--listen", "127.0.0.1:2575", "--peer", "lab", "--service", "orders"];
    let said = sites.run("north", &[&add[..], &["--allow-from", "192.168.10.0/24"]].concat());
    assert!(said.contains("site north does not run: `wardlink run -c"), "{said}");
    sites.run("north", &["service", "add", "results", "--target", "[fd00::1]:6661", "--allow-peer", "lab"]);
    assert!(sites.run("north", &["check-config"]).contains("1 peer, 1 forward, 1 service"));
    assert!(sites.refused("north", &add).contains("is there already"));
    for (arguments, why) in [
        (
            &["forward", "add", "b", "--listen", "127.0.0.1:2575", "--peer", "lab", "--service", "b"][..],
            "port 2575 is taken",
        ),
        (&["forward", "add", "b", "--listen", "2575", "--peer", "lab", "--service", "b"], "0.0.0.0:2575"),
        (&["forward", "add", "b", "--listen", "127.0.0.1:1", "--peer", "west", "--service", "b"], "wardlink pair CARD"),
        (&["service", "add", "b", "--target", "127.0.0.1:1", "--allow-peer", "west"], "known: lab"),
        (&["service", "add", "b", "--target", "127.0.0.1", "--allow-peer", "lab"], "HOST:PORT"),
        (&["forward", "remove", "b"], "known: orders"),
        (&["service", "remove", "b"], "known: results"),
        (&["pair", "--remove", "b"], "known: lab"),
        (&["pair", "--remove", "lab"], "wardlink service remove results"),
    ] {
        let said = sites.refused("north", arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wardlink"));
    let output = command.args(["forward", "remove", "orders", "--socket", "x.sock"]).output().unwrap();
    assert!(output.status.code() == Some(64) && stderr(&output).contains("name it with -c"), "{}", stderr(&output));
    sites.run("north", &["forward", "remove", "orders"]);
    sites.run("north", &["service", "remove", "results"]);
    assert_eq!(sites.file("north"), before);
    sites.run("north", &["pair", "--remove", "lab"]);
    assert!(sites.file("north").contains("\npeers: []\n") && sites.file("north").ends_with("# the end\n"));
}

#[test]
fn a_stored_forward_gets_its_key_once() {
    let sites = paired();
    let add = |name: &'static str, port: &str| {
        let listen = format!("127.0.0.1:{port}");
        let arguments =
            ["forward", "add", name, "--listen", &listen, "--peer", "lab", "--service", "x", "--delivery", "stored"];
        sites.run("north", &arguments)
    };
    assert!(add("a", "2575").contains("keep a copy"));
    assert_eq!(sites.mode("north/spool.key"), 0o600);
    let key = fs::read(sites.path("north/spool.key")).unwrap();
    assert!(!add("b", "2576").contains("keep a copy"));
    assert_eq!(fs::read(sites.path("north/spool.key")).unwrap(), key);
    // what is kept was sealed with another key: none is made in its place
    fs::remove_file(sites.path("north/spool.key")).unwrap();
    fs::create_dir_all(sites.path("north/state/spool/a")).unwrap();
    add("c", "2577");
    assert!(!sites.path("north/spool.key").exists());
    // a file of before has no word of where messages are kept
    let text = sites.file("lab");
    let cut = text.find("# Seals what").unwrap();
    sites.write("lab", &text[..cut]);
    sites.run("lab", &["pair", sites.run("north", &["card"]).trim(), "--yes", "--fingerprint", &sites.words("north")]);
    let add =
        ["forward", "add", "a", "--listen", "127.0.0.1:1", "--peer", "north", "--service", "x", "--delivery", "stored"];
    sites.run("lab", &add);
    assert!(sites.file("lab").contains("\nspool:\n  key_file: ") && sites.path("lab/spool.key").exists());
}

#[test]
fn a_file_that_is_wrong_or_not_understood_is_left_alone() {
    let sites = paired();
    let good = sites.file("north");
    sites.write(
        "north",
        &good.replace("forwards: []", "forwards: [{name: a, listen: '127.0.0.1:1', peer: lab, service: a}]"),
    );
    let said =
        sites.refused("north", &["forward", "add", "b", "--listen", "127.0.0.1:2", "--peer", "lab", "--service", "b"]);
    assert!(
        said.contains("write this there yourself") && said.contains("  - name: b\n    listen: \"127.0.0.1:2\"\n"),
        "{said}"
    );
    sites.write("north", &good.replace("forwards: []", "forwards: [}"));
    let said = sites.refused("north", &["service", "add", "b", "--target", "127.0.0.1:2", "--allow-peer", "lab"]);
    assert!(said.contains("wardlink.yaml:") && said.contains("mend this first"), "{said}");
    let output = sites.try_run("nowhere", &["card"]);
    assert!(output.status.code() == Some(64) && stderr(&output).contains("wardlink init"), "{}", stderr(&output));
}

#[test]
fn a_link_to_the_file_stays_one_and_its_mode_too() {
    let sites = paired();
    fs::rename(sites.path("north/wardlink.yaml"), sites.path("north/real.yaml")).unwrap();
    std::os::unix::fs::symlink("real.yaml", sites.path("north/wardlink.yaml")).unwrap();
    fs::set_permissions(sites.path("north/real.yaml"), fs::Permissions::from_mode(0o604)).unwrap();
    sites.run("north", &["service", "add", "b", "--target", "127.0.0.1:2", "--allow-peer", "lab"]);
    assert!(sites.path("north/wardlink.yaml").is_symlink());
    assert_eq!(sites.mode("north/real.yaml"), 0o604);
    assert!(sites.file("north").contains("- name: b"));
}

#[test]
fn names_and_paths_that_mean_something_to_others_are_taken_as_they_are() {
    let sites = Sites::new();
    let file = |site: &str| sites.path(&format!("{site}/wardlink.yaml")).display().to_string();
    for (site, name) in [("a b", "null"), ("it's", "-"), ("x\ntrue", "true"), ("plain", "0")] {
        let made = sites.try_run(site, &["init", "--site", name, "--address", "fd98:7::3/128"]);
        assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
        assert!(sites.run(site, &["check-config"]).contains(&format!("site {name}, 0 peers")), "{}", file(site));
        // what is printed is pasted
        let said = stderr(&made);
        let next = said.split("    wardlink pair CARD").nth(1).unwrap().trim_end();
        let shell =
            Command::new("sh").args(["-c", &format!("printf %s {}", next.trim_start().replacen("-c", "", 1))]).output();
        assert_eq!(String::from_utf8(shell.unwrap().stdout).unwrap(), format!("{site}/wardlink.yaml"), "{said}");
    }
}

#[test]
fn what_cannot_be_printed_is_said() {
    let sites = paired();
    for arguments in
        [&["card"][..], &["card", "--fingerprint"], &["init", "--site", "full", "--address", "fd98:7::4/128"]]
    {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wardlink"));
        let file = if arguments[0] == "init" { "full/wardlink.yaml" } else { "north/wardlink.yaml" };
        command.current_dir(sites.0.path()).args(arguments).args(["-c", file]);
        let output = command.stdout(fs::File::create("/dev/full").unwrap()).output().unwrap();
        let said = stderr(&output);
        assert!(output.status.code() == Some(1) && said.contains("not written to standard output"), "{said}");
    }
}

#[test]
fn what_is_suggested_and_refused_says_what_to_write() {
    let sites = paired();
    let said = sites.refused("lab", &["pair", "--remove", "x"]);
    assert!(said.contains("there is no peer yet"), "{said}");
    let bad = |site: &str, arguments: &[&str]| stderr(&sites.try_run(site, arguments));
    assert!(bad("north", &["rotate", "--wait", "junk"]).contains("such as 30s"));
    assert!(bad("north", &["rotate", "--compromised", "--cut-off"]).contains("cannot be used with"));
    let add = ["forward", "add", "one", "--listen", "127.0.0.1:2575", "--peer", "lab", "--service", "one"];
    assert!(bad("north", &[&add[..], &["--allow-from", "junk"]].concat()).contains("192.168.10.0/24"));
    sites.run("north", &[&add[..], &["--allow-from", "192.168.10.40", "--delivery", "stored"]].concat());
    assert!(sites.file("north").contains("192.168.10.40/32"));
    // ports that are free here, another one for each service
    sites.run("lab", &["pair", &sites.run("north", &["card"]), "--yes", "--fingerprint", &sites.words("north")]);
    for service in ["two", "three"] {
        let add = ["service", "add", service, "--target", "127.0.0.1:6661"];
        sites.run("lab", &[&add[..], &["--allow-peer", "north", "--allow-peer", "north"]].concat());
    }
    assert_eq!(sites.file("lab").matches("allow_peers: [north]").count(), 2, "{}", sites.file("lab"));
    let card = sites.run("lab", &["card"]);
    let said = sites.run("north", &["pair", card.trim(), "--yes", "--fingerprint", &sites.words("lab")]);
    let port = |service: &str, port: u16| said.contains(&format!("forward add {service} --listen 0.0.0.0:{port} "));
    assert!(port("three", 2576) && port("two", 2577) || port("two", 2576) && port("three", 2577), "{said}");
    let said = sites.run("north", &["forward", "remove", "one"]);
    assert!(said.contains("queue list one -c north/wardlink.yaml"), "{said}");
}
