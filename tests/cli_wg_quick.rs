//! Runs `wardlink import` and `wardlink export` as an admin does: what is printed where, what is written, what is
//! refused, and that no secret is shown.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const SHARED: &str = "3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=";
const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const TWIN: &str = "5EQWjucdiwf1NMA8EY5bDhP5w3sKBh91YtPBIE9Nuxs=";

fn wardlink(directory: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wardlink"));
    command.current_dir(directory.path()).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn write(directory: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn usual() -> String {
    format!(
        "[Interface]\nAddress = 10.98.0.1/24\nPrivateKey = {PRIVATE}\nDNS = 10.98.0.53\n\
         PostUp = wg set %i peer X preshared-key <(echo {SHARED})\n\n# City Lab\n[Peer]\nPublicKey = {PEER}\n\
         PresharedKey = {SHARED}\nAllowedIPs = 10.98.0.2/32\nEndpoint = lab.example.org:51820\n"
    )
}

#[test]
fn an_imported_site_passes_check_config() {
    let directory = TempDir::new().unwrap();
    write(&directory, "wg7.conf", &usual());
    let output = wardlink(&directory, &["import", "wg7.conf", "--keys", "keys", "--site", "north", "-o", "north.yaml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
    let checked = wardlink(&directory, &["check-config", "-c", "north.yaml"]);
    assert_eq!(
        stdout(&checked),
        "north.yaml: ok: site north, 1 peer, 0 forwards, 0 services\n",
        "{}",
        stderr(&checked)
    );
    let keys = directory.path().join("keys");
    assert_eq!(fs::read_to_string(keys.join("private.key")).unwrap(), format!("{PRIVATE}\n"));
    assert_eq!(fs::read_to_string(keys.join("city-lab.psk")).unwrap(), format!("{SHARED}\n"));
    assert_eq!([mode(&keys), mode(&keys.join("private.key")), mode(&keys.join("city-lab.psk"))], [0o700, 0o600, 0o600]);
    let yaml = fs::read_to_string(directory.path().join("north.yaml")).unwrap();
    assert!(yaml.contains("interface: \"wg7\"") && yaml.contains("#   4: DNS has no counterpart"), "{yaml}");
}

#[test]
fn without_a_directory_for_keys_it_says_where_they_belong_and_shows_none() {
    let directory = TempDir::new().unwrap();
    write(&directory, "wg7.conf", &usual());
    let output = wardlink(&directory, &["import", "wg7.conf", "--site", "north"]);
    assert!(output.status.success());
    let (out, said) = (stdout(&output), stderr(&output));
    assert!(out.contains("private_key_file: \"/etc/wardlink/private.key\""), "{out}");
    let lines = [
        "wg7.conf:4: DNS has no counterpart",
        "wg7.conf:5: PostUp has no counterpart",
        "wg7.conf:3: PrivateKey belongs into /etc/wardlink/private.key, mode 0600",
        "wg7.conf:10: PresharedKey belongs into /etc/wardlink/city-lab.psk, mode 0600",
    ];
    assert_eq!(said.lines().count(), lines.len(), "{said}");
    for line in lines {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    for secret in [PRIVATE, SHARED] {
        assert!(!out.contains(secret) && !said.contains(secret), "a secret is shown");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is written");
}

#[test]
fn an_endpoint_inside_allowed_ips_is_no_loop_where_nothing_is_routed_by_itself() {
    let directory = TempDir::new().unwrap();
    let file = |table: &str| {
        let file =
            usual().replace("lab.example.org", "203.0.113.5").replace("10.98.0.2/32", "0.0.0.0/1, 203.0.113.0/24");
        file.replace("DNS = 10.98.0.53", &format!("Table = {table}"))
    };
    for (table, written) in [("off", "off"), ("hospital", "off"), ("7", "7")] {
        write(&directory, "wg7.conf", &file(table));
        let output = wardlink(&directory, &["import", "wg7.conf", "--site", "north"]);
        assert!(output.status.success(), "{table}: {}", stderr(&output));
        assert!(stdout(&output).contains(&format!("  table: {written}\n")), "{table}: {}", stdout(&output));
    }
    for table in ["auto", "254"] {
        write(&directory, "wg7.conf", &file(table));
        let output = wardlink(&directory, &["import", "wg7.conf", "--site", "north"]);
        assert!(stderr(&output).contains("the tunnel would carry itself"), "{table}: {}", stderr(&output));
    }
}

#[test]
fn nothing_is_overwritten() {
    let directory = TempDir::new().unwrap();
    write(&directory, "wg7.conf", &usual());
    let import =
        |output: &str| wardlink(&directory, &["import", "wg7.conf", "--keys", ".", "--site", "n", "-o", output]);
    write(&directory, "city-lab.psk", "precious");
    let output = import("a.yaml");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("city-lab.psk exists already"), "{}", stderr(&output));
    assert!(!directory.path().join("private.key").exists(), "all or none");
    fs::remove_file(directory.path().join("city-lab.psk")).unwrap();
    write(&directory, "a.yaml", "precious");
    assert_eq!(import("a.yaml").status.code(), Some(1));
    assert_eq!(fs::read_to_string(directory.path().join("a.yaml")).unwrap(), "precious");
    assert!(!directory.path().join("private.key").exists(), "where the YAML cannot be, no key is");
}

#[test]
fn a_bad_file_is_refused_line_by_line_and_nothing_is_written() {
    let directory = TempDir::new().unwrap();
    let bad = usual().replace("10.98.0.1/24", "10.98.0.300").replace("Endpoint", "Endpont");
    write(&directory, "wg7.conf", &bad);
    let output = wardlink(&directory, &["import", "wg7.conf", "--keys", "keys"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(64), ""));
    assert_eq!(
        stderr(&output),
        "wg7.conf:2: Address \"10.98.0.300\" is no prefix; write one such as 10.98.0.1/32\n\
         wg7.conf:12: \"Endpont\" is no key of wg-quick here; write one of PublicKey, PresharedKey, Endpoint, \
         AllowedIPs, PersistentKeepalive, or remove it\n"
    );
    let no_site = usual().replace("AllowedIPs = 10.98.0.2/32\n", "").replace("DNS = 10.98.0.53", "MTU = 80");
    write(&directory, "wg7.conf", &no_site);
    let output = wardlink(&directory, &["import", "wg7.conf", "--keys", "keys"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(64), ""));
    let said = stderr(&output);
    assert!(
        said.contains("wg7.conf:4: as a site: tunnel.mtu: \"80\"")
            && said.contains("wg7.conf:8: as a site: peers[0].allowed_ips"),
        "{said}"
    );
    assert!(!directory.path().join("keys").exists());
    for (other, lines) in [("no\n".repeat(1000), 21), ("\0\n".repeat(1000), 1)] {
        write(&directory, "wg7.conf", &other);
        let output = wardlink(&directory, &["import", "wg7.conf"]);
        assert_eq!((output.status.code(), stderr(&output).lines().count()), (Some(64), lines));
    }
    let missing = wardlink(&directory, &["import", "none.conf"]);
    assert_eq!(missing.status.code(), Some(64));
}

#[test]
fn a_fault_of_the_site_is_at_the_line_that_it_comes_from_and_names_none_of_what_is_not_written() {
    let directory = TempDir::new().unwrap();
    let twice = format!("{}\n# Twin\n[Peer]\nPublicKey = {TWIN}\nAllowedIPs = 10.98.0.2/32\n", usual());
    write(&directory, "wg7.conf", &twice);
    let section = twice.lines().count();
    let said = stderr(&wardlink(&directory, &["import", "wg7.conf"]));
    assert!(said.starts_with(&format!("wg7.conf:{section}: as a site: peers[1].allowed_ips[0]: ")), "{said}");
    assert!(said.contains("10.98.0.2/32") && !said.contains("(line"), "{said}");
}

fn site(directory: &TempDir) {
    write(directory, "private.key", PRIVATE);
    write(directory, "lab.psk", SHARED);
    let yaml = format!(
        "site: north\ntunnel: {{private_key_file: private.key, address: [10.98.0.1/32]}}\npeers:\n  - name: lab\n    \
         public_key: \"{PEER}\"\n    preshared_key_file: lab.psk\n    allowed_ips: [10.98.0.2/32]\n"
    );
    write(directory, "north.yaml", &yaml);
}

#[test]
fn an_exported_file_says_what_to_fill_in_and_holds_no_secret() {
    let directory = TempDir::new().unwrap();
    site(&directory);
    let output = wardlink(&directory, &["export", "lab", "-c", "north.yaml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (out, said) = (stdout(&output), stderr(&output));
    for secret in [PRIVATE, SHARED] {
        assert!(!out.contains(secret) && !said.contains(secret), "a secret is shown");
    }
    assert_eq!(said.lines().count(), 3, "{said}");
    for what in ["the private key whose public key is", "the preshared key", "where north is reached, port 51820"] {
        assert!(said.contains(what) && out.contains(what), "{what}: {said}");
    }
    let known = ["export", "lab", "-c", "north.yaml", "--endpoint", "[2001:db8::1]:51820", "-o", "wg0.conf"];
    assert!(wardlink(&directory, &known).status.success());
    let path = directory.path().join("wg0.conf");
    assert_eq!(mode(&path), 0o600);
    assert!(fs::read_to_string(&path).unwrap().contains("\nEndpoint = [2001:db8::1]:51820\n"));
    assert_eq!(wardlink(&directory, &known).status.code(), Some(1), "it is there already");
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let directory = TempDir::new().unwrap();
    site(&directory);
    let output = wardlink(&directory, &["export", "nobody", "-c", "north.yaml"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(64), "no peer is named nobody; known: lab\n"));
    for arguments in [
        &["export", "lab", "-c", "north.yaml", "--endpoint", "north"][..],
        &["export", "Lab", "-c", "north.yaml"],
        &["export", "lab", "-c", "none.yaml"],
    ] {
        let output = wardlink(&directory, arguments);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(64), ""), "{arguments:?}");
    }
}
