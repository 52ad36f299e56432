//! Whole configuration files, good and bad: what they mean, and the exact words about what is wrong.
//!
//! A bad file `bad/NAME.yaml` has its expected errors beside it in `bad/NAME.txt`; with WARDLINK_BLESS set, the test
//! that compares them writes what is said now, to be read before it is committed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::too_many_lines)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use wardlink::config::{
    self, AckKind, AlarmLimits, Alarms, ApplicationAck, Audit, Backend, Config, Delivery, Errors, Host, InDoubt,
    KeyFileError, OnFull, OnUnreachable, Otherwise, Probe, ReadKeys, ReceiverPolicy, SecretKey, SpoolKeyFile, Stored,
    Table, Target, Transparent,
};
use wardlink::mllp::dialect::{Commit, Dialect, Release};
use wardlink::mllp::frame::Framing;
use wardlink::tls::Role;
use zeroize::Zeroizing;

/// Stands for the content of every good key file.
const KEY: [u8; 32] = [7; 32];
/// Stands for the content of the file of the key before.
const OLD_KEY: [u8; 32] = [9; 32];

/// Gives a key for every file, but for those whose names say what is wrong with them.
fn read_key(path: &Path) -> Result<SecretKey, KeyFileError> {
    let path = path.to_owned();
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("missing") => Err(KeyFileError::Missing { path }),
        Some("loose") => Err(KeyFileError::Mode { path, mode: 0o644 }),
        Some("garbage") => Err(KeyFileError::NotAKey { path }),
        Some("old") => Ok(SecretKey::new(OLD_KEY)),
        _ => Ok(SecretKey::new(KEY)),
    }
}

/// Gives the files that the configurations name: keys, and what the name of a file of TLS says.
struct Files;

impl ReadKeys for Files {
    fn read(&self, path: &Path) -> Result<SecretKey, KeyFileError> {
        read_key(path)
    }

    fn read_pem(&self, path: &Path, is_secret: bool) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        static ISSUED: LazyLock<BTreeMap<&str, (String, String)>> = LazyLock::new(|| {
            let issue = |ends: i32| {
                let mut params = rcgen::CertificateParams::new(vec!["emr.example.org".to_owned()]).unwrap();
                params.not_after = rcgen::date_time_ymd(ends, 1, 1);
                let key = rcgen::KeyPair::generate().unwrap();
                (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
            };
            let encrypted = format!("-----BEGIN ENCRYPTED {0}-----\nAAAA\n-----END ENCRYPTED {0}-----", "PRIVATE KEY");
            let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".to_owned();
            [
                ("site", issue(3000)),
                ("other", issue(3000)),
                ("expired", issue(2025)),
                ("encrypted", (broken, encrypted)),
                ("token", (String::new(), "q7Xv9-2mLrT4.kE8_zWc0~Nf5HbY".to_owned())),
                ("garbage", ("garbage".to_owned(), "garbage".to_owned())),
            ]
            .into()
        });
        let path = path.to_owned();
        match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("loose") if is_secret => Err(KeyFileError::Mode { path, mode: 0o644 }),
            Some("endless") => Err(KeyFileError::TooLong { path }),
            Some(stem) => {
                let (certificate, key) = ISSUED.get(stem).ok_or(KeyFileError::Missing { path })?;
                Ok(Zeroizing::new(if is_secret { key } else { certificate }.clone().into_bytes()))
            }
            None => Err(KeyFileError::Missing { path }),
        }
    }
}

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "yaml")).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", directory.display());
    files
}

fn parse(path: &Path) -> Result<Config, Errors> {
    let own = SecretKey::new(KEY).public_key().to_string();
    let text = fs::read_to_string(path).unwrap().replace("@OWN@", &own);
    config::parse(&text, Path::new(path.file_name().unwrap()), &Files)
}

fn good(path: &str) -> Config {
    parse(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_bad_file_is_refused_in_the_expected_words() {
    let mut wrong = Vec::new();
    for path in files("tests/fixtures/config/bad") {
        // load() is for what is no text at all.
        let outcome = if path.ends_with("not-utf-8.yaml") { config::load(&path) } else { parse(&path) };
        let directory = format!("{}/", path.parent().unwrap().display());
        let said = outcome.expect_err(&path.display().to_string()).to_string().replace(&directory, "") + "\n";
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        if said != expected {
            wrong.push(format!("--- {}\n{said}", path.display()));
            if std::env::var_os("WARDLINK_BLESS").is_some() {
                fs::write(path.with_extension("txt"), said).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "other words than expected:\n{}", wrong.join("\n"));
}

#[test]
fn every_key_has_its_meaning() {
    let config = good("tests/fixtures/config/good/every-key.yaml");
    assert_eq!(config.site.as_str(), "every-key");
    assert_eq!(config.state_dir, Path::new("/var/lib/wardlink/every-key"));
    assert_eq!(config.tunnel.interface, "wl-every");
    assert_eq!(config.tunnel.backend, Backend::Plain);
    assert_eq!(config.tunnel.private_key.expose(), &KEY);
    assert_eq!(config.tunnel.old_private_key.counting().map(SecretKey::expose), Some(&OLD_KEY));
    assert!(!config.sandbox);
    assert_eq!(config.tunnel.listen_port, 51821);
    assert_eq!(config.tunnel.addresses, ["10.98.0.1/24".parse().unwrap(), "fd98::1/128".parse().unwrap()]);
    assert_eq!((config.tunnel.mtu, config.tunnel.fwmark), (1380, 0xca6c));
    assert_eq!((config.tunnel.table, config.tunnel.link_port), (Table::Number(4242), 2571));
    let peer = &config.peers[0];
    assert_eq!(peer.public_key.to_string(), "5EQWjucdiwf1NMA8EY5bDhP5w3sKBh91YtPBIE9Nuxs=");
    assert_eq!(peer.preshared_key.as_ref().map(SecretKey::expose), Some(&KEY));
    let endpoint = peer.endpoint.as_ref().unwrap();
    assert_eq!((&endpoint.host, endpoint.port), (&Host::Address("2001:db8::7".parse().unwrap()), 51820));
    assert_eq!(peer.allowed_ips.len(), 3);
    assert_eq!(peer.address, Some("10.98.0.2".parse().unwrap()));
    assert_eq!(peer.persistent_keepalive, Some(Duration::from_secs(25)));
    assert_eq!((peer.routed, peer.host_access), (true, false));
    let forward = &config.forwards[0];
    assert_eq!(forward.listen, "0.0.0.0:2575".parse().unwrap());
    assert_eq!(forward.allow_from, ["192.168.10.0/24".parse().unwrap(), "192.168.11.7/32".parse().unwrap()]);
    let tls = |of: &[wardlink::tls::Certificate]| -> Vec<_> {
        of.iter().map(|one| (one.role, one.file.display().to_string())).collect()
    };
    let files = [(Role::Certificate, "site.pem".to_owned()), (Role::Issuer, "other.pem".to_owned())];
    assert_eq!(tls(forward.tls.as_ref().unwrap().certificates()), files);
    assert_eq!(tls(config.services[0].tls.as_ref().unwrap().certificates()), files);
    assert_eq!(forward.peer, peer.name);
    assert!(matches!(&forward.target, Target::Service(name) if name.as_str() == "orders"));
    assert_eq!(forward.message_bytes_max, 16 * 1024 * 1024);
    let hold_for = Duration::from_secs(120);
    assert_eq!(forward.delivery, Delivery::Transparent(Transparent { on_unreachable: OnUnreachable::Nak, hold_for }));
    assert_eq!((forward.connections_max.get(), forward.idle_timeout), (64, Some(Duration::from_secs(3600))));
    let source = (forward.source_connections_max.get(), forward.source_rate_max.get());
    assert_eq!((source, forward.frame_timeout), ((16, 50), Duration::from_secs(20)));
    let plain = &config.forwards[1];
    assert_eq!(plain.target, Target::Address("10.20.3.4:2575".parse().unwrap()));
    assert_eq!(plain.idle_timeout, None);
    let receiver = ReceiverPolicy {
        ack: AckKind::Accept,
        ack_timeout: Duration::from_secs(45),
        retries: 7,
        backoff_min: Duration::from_millis(250),
        backoff_max: Duration::from_secs(300),
        after_retries: Otherwise::Park,
        on_reject: Otherwise::Hold,
        in_doubt: InDoubt::Hold,
        in_doubt_max: 3,
        dialect: Dialect {
            framing: Framing::new(2, 3, None).unwrap(),
            release: Release::Two(Commit { timeout: Some(Duration::from_secs(3)), retries: 4, pause: Duration::ZERO }),
        },
    };
    let stored = Stored {
        on_full: OnFull::Nak,
        queue_messages_max: 5000,
        queue_bytes_max: 2 << 40,
        keep_delivered: Duration::from_secs(30 * 24 * 3600),
        application_ack: ApplicationAck::Discard,
        receiver,
    };
    assert_eq!(plain.delivery, Delivery::Stored(stored));
    assert_eq!((forward.dialect.framing, forward.dialect.release.commit()), (Framing::MLLP, Some(Commit::default())));
    let commit = Commit { timeout: None, retries: 0, pause: Duration::from_millis(500) };
    assert_eq!(config.forwards[2].dialect, Dialect { framing: Framing::MLLP, release: Release::Two(commit) });
    let spool = config.spool.as_ref().unwrap();
    assert_eq!(spool.dir, Path::new("/srv/wardlink/spool"));
    assert_eq!(spool.key, SpoolKeyFile::File("/etc/wardlink/every-key-spool.key".into()));
    assert_eq!(config.audit, Audit { keep: Duration::from_secs(90 * 24 * 3600), bytes_max: 1 << 30 });
    let service = &config.services[0];
    assert_eq!(service.target.host, Host::Name("emr.example.org".to_owned()));
    assert_eq!((service.target.port, service.port), (6661, Some(2576)));
    assert_eq!(service.allow_peers, std::slice::from_ref(&peer.name));
    assert_eq!((service.ack_timeout, service.connections_max.get()), (Some(Duration::from_secs(90)), 1));
    assert_eq!(service.probe, Probe::Tcp);
    let stored = ReceiverPolicy {
        ack: AckKind::None,
        ack_timeout: Duration::from_secs(90),
        retries: 0,
        backoff_min: Duration::from_secs(2),
        backoff_max: Duration::from_secs(3600),
        after_retries: Otherwise::Park,
        on_reject: Otherwise::Hold,
        in_doubt: InDoubt::Hold,
        in_doubt_max: 3,
        dialect: Dialect {
            framing: Framing::new(0x1B, 0x1D, Some(b'\n')).unwrap(),
            release: Release::Two(Commit::default()),
        },
    };
    assert_eq!(service.stored, stored);
    assert_eq!(config.health_listen, Some("192.168.10.5:9576".parse().unwrap()));
    let atna = config.atna.as_ref().unwrap();
    assert_eq!((atna.server.port, tls(atna.tls.as_ref().unwrap().certificates())), (6514, files.clone().into()));
    let door = config.health_door.as_ref().unwrap();
    assert_eq!(tls(door.tls.certificates()), files);
    assert!(door.token.as_ref().is_some_and(|token| token.expose().starts_with("q7Xv9-")));
    assert!(!format!("{door:?}").contains("q7Xv9"));
    assert_eq!(config.agent_listen, Some("127.0.0.1:9577".parse().unwrap()));
    assert_eq!(config.forwards[0].silent_after, Some(Duration::from_secs(2 * 3600)));
    let limits = AlarmLimits {
        hold: Duration::from_secs(30),
        down: Some(Duration::from_secs(180)),
        queue_depth_percent: Some(70),
        queue_age: None,
        nak_percent: Some(5),
        ack_latency: Some(Duration::from_secs(2)),
        no_session: Some(Duration::from_secs(600)),
        certificate: Some(Duration::from_secs(14 * 24 * 3600)),
        disk: Some(Duration::from_secs(6 * 3600)),
        learn_silence: true,
    };
    assert_eq!(config.alarms.limits, limits);
    let command = ["/usr/local/bin/page", "--for", "the lab"].map(str::to_owned);
    assert_eq!(config.alarms.command.as_deref(), Some(&command[..]));
    let webhook = config.alarms.webhook.as_ref().unwrap();
    assert_eq!(
        (webhook.server.to_string(), webhook.authority.as_str()),
        ("alarms.example.org:8443".to_owned(), "alarms.example.org:8443")
    );
    assert_eq!(webhook.path.expose(), "/hooks/T0?x=1");
    assert!(webhook.tls.is_some() && !format!("{webhook:?}").contains("T0"));
    assert_eq!(config.control_socket, Path::new("/run/wardlink/every-key.sock"));
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = good("tests/fixtures/config/good/defaults.yaml");
    assert_eq!(config.state_dir, Path::new("/var/lib/wardlink"));
    let tunnel = &config.tunnel;
    assert_eq!((tunnel.interface.as_str(), tunnel.backend, tunnel.listen_port), ("wl0", Backend::Auto, 51820));
    assert_eq!((tunnel.mtu, tunnel.fwmark, tunnel.table, tunnel.link_port), (1420, 0, Table::Auto, 2570));
    let peer = &config.peers[0];
    assert_eq!(peer.address, Some("fd98::2".parse().unwrap()), "the one host of the family that the tunnel has");
    assert_eq!(peer.persistent_keepalive, None);
    assert!(peer.endpoint.is_none() && peer.preshared_key.is_none() && !peer.routed && !peer.host_access);
    let forward = &config.forwards[0];
    let hold_for = Duration::from_secs(30);
    assert_eq!(forward.delivery, Delivery::Transparent(Transparent { on_unreachable: OnUnreachable::Hold, hold_for }));
    assert_eq!((forward.message_bytes_max, forward.connections_max.get()), (64 << 20, 1024));
    assert!(forward.allow_from.is_empty() && forward.idle_timeout.is_none());
    let service = &config.services[0];
    assert_eq!((service.connections_max.get(), service.probe, service.ack_timeout), (256, Probe::None, None));
    assert!(service.allow_peers.is_empty() && service.port.is_none());
    assert_eq!(service.stored, ReceiverPolicy::default());
    assert_eq!(config.spool, None);
    let stored = good("tests/fixtures/config/good/stored-defaults.yaml");
    assert_eq!(stored.spool.unwrap().dir, Path::new("/var/lib/wardlink/spool"));
    let defaults = Stored {
        on_full: OnFull::Close,
        queue_messages_max: 1_000_000,
        queue_bytes_max: 10 << 30,
        keep_delivered: Duration::from_secs(7 * 24 * 3600),
        application_ack: ApplicationAck::Refuse,
        receiver: ReceiverPolicy::default(),
    };
    assert_eq!(stored.forwards[0].delivery, Delivery::Stored(defaults));
    assert_eq!((config.health_listen, config.agent_listen), (None, None));
    assert_eq!((&config.alarms, config.forwards[0].silent_after), (&Alarms::default(), None));
    assert_eq!(config.control_socket, Path::new("/run/wardlink/small.sock"));
    let health = good("configs/north-hospital.yaml").health_listen;
    assert_eq!(health, Some("127.0.0.1:9575".parse().unwrap()), "without health: altogether");
}

#[test]
fn the_two_sites_of_the_guide_fit_together() {
    let (hospital, lab) = (good("configs/north-hospital.yaml"), good("configs/city-lab.yaml"));
    for (here, there) in [(&hospital, &lab), (&lab, &hospital)] {
        let peer = here.peers.iter().find(|peer| peer.name == there.site).unwrap();
        assert_eq!(peer.address, Some(there.tunnel.addresses[0].addr()));
        for forward in here.forwards.iter().filter(|forward| forward.peer == there.site) {
            let Target::Service(name) = &forward.target else { panic!("{forward:?}") };
            let service = there.services.iter().find(|service| &service.name == name).unwrap();
            assert!(service.allow_peers.contains(&here.site));
        }
    }
    let plain = good("configs/plain-peer.yaml");
    assert!(matches!(plain.forwards[0].target, Target::Address(_)));
    assert!(plain.services[0].port.is_some());
}

/// Holds a site on disk, with its key file.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new(key: &[u8], mode: u32) -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap() };
        site.write_key("private.key", key, mode);
        let text = "site: lab\ntunnel:\n  private_key_file: private.key\n  address: [10.98.0.1]\n";
        fs::write(site.file(), text).unwrap();
        site
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("site.yaml")
    }

    fn write_key(&self, name: &str, key: &[u8], mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.directory.path().join(name);
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Loads the site; errors name files without their directory.
    fn load(&self) -> Result<Config, String> {
        let directory = format!("{}/", self.directory.path().display());
        config::load(&self.file()).map_err(|errors| errors.to_string().replace(&directory, ""))
    }
}

const KEY_TEXT: &[u8] = b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";

#[test]
fn a_key_file_is_for_its_owner_only() {
    for mode in [0o600, 0o400] {
        assert_eq!(Site::new(KEY_TEXT, mode).load().unwrap().tunnel.private_key.expose(), &KEY);
    }
    for mode in [0o644, 0o604, 0o660, 0o620, 0o602, 0o640] {
        let said = Site::new(KEY_TEXT, mode).load().unwrap_err();
        let expected = format!(
            "site.yaml:3:21: tunnel.private_key_file: private.key has mode {mode:04o}, so that others may read or \
             change it; run: chmod 0600 private.key"
        );
        assert_eq!(said, expected);
    }
}

#[test]
fn a_key_file_holds_one_key_and_its_content_is_never_said() {
    let short = b"c2hvcnQ=\n".to_vec();
    let twice = KEY_TEXT.repeat(2);
    let endless = b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".repeat(100);
    for content in [&short[..], b"", &twice, &endless, &[0xff; 32], b"private_key=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBw"] {
        let said = Site::new(content, 0o600).load().unwrap_err();
        let expected = "site.yaml:3:21: tunnel.private_key_file: private.key does not hold a key of 32 bytes in base64; \
                        it must be one line, as wardlink key gen or wg genkey writes it";
        assert_eq!(said, expected);
    }
}

#[test]
fn a_key_file_that_is_none_is_refused_without_waiting() {
    let site = Site::new(KEY_TEXT, 0o600);
    let key = site.directory.path().join("private.key");
    fs::remove_file(&key).unwrap();
    let expected = "site.yaml:3:21: tunnel.private_key_file: private.key does not exist; \
                    create it: (umask 077; wardlink key gen > private.key)";
    assert_eq!(site.load().unwrap_err(), expected);
    fs::create_dir(&key).unwrap();
    assert!(site.load().unwrap_err().ends_with("private.key is not a regular file; write the path of a file"));
    fs::remove_dir(&key).unwrap();
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(site.load().unwrap_err().ends_with("private.key is not a regular file; write the path of a file"));
}

#[test]
fn a_file_that_cannot_be_a_configuration_is_refused_as_a_whole() {
    let site = Site::new(KEY_TEXT, 0o600);
    fs::write(site.file(), "# a line of a log\n".repeat(100_000)).unwrap();
    let expected = "site.yaml: is longer than 1048576 bytes; write -c FILE with the path of a configuration";
    assert_eq!(site.load().unwrap_err(), expected);
    fs::remove_file(site.file()).unwrap();
    let said = site.load().unwrap_err();
    assert!(said.starts_with("site.yaml: cannot be read (No such file or directory"), "{said}");
}

#[test]
fn hundreds_of_peers_and_many_comments_are_no_bomb() {
    let mut text = "# why\n".repeat(200);
    text += "site: hub\ntunnel: {private_key_file: private.key, address: [10.98.0.1]}\npeers:\n";
    for index in 1..=500u16 {
        let key = config::PublicKey([index.to_be_bytes(); 16].concat().try_into().unwrap());
        let [high, low] = index.to_be_bytes();
        text += &"  # a note\n".repeat(50);
        text += &format!("  - name: p{index}\n    public_key: \"{key}\"\n    allowed_ips: [10.99.{high}.{low}]\n");
    }
    let config = config::parse(&text, Path::new("hub.yaml"), &read_key).unwrap();
    assert_eq!(config.peers.len(), 500);
}

/// Checks a document against the part of JSON Schema that ours uses, patterns apart; returns the first mismatch.
fn mismatch(schema: &Value, root: &Value, value: &Value, path: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return mismatch(target, root, value, path);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|one| mismatch(one, root, value, path).is_none());
        return (!fits).then(|| format!("{path}: none of anyOf"));
    }
    let has_type = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some(other) => panic!("{path}: a type {other} in the schema"),
    };
    if !has_type {
        return Some(format!("{path}: {value} is not {}", schema["type"]));
    }
    if let Some(words) = schema["enum"].as_array() {
        return (!words.contains(value)).then(|| format!("{path}: {value} is not in {words:?}"));
    }
    if let Some(word) = schema.get("const") {
        return (word != value).then(|| format!("{path}: {value} is not {word}"));
    }
    let number = |key: &str| schema[key].as_f64();
    let too_small = value.as_f64().zip(number("minimum")).is_some_and(|(value, least)| value < least);
    let too_large = value.as_f64().zip(number("maximum")).is_some_and(|(value, most)| value > most);
    if too_small || too_large {
        return Some(format!("{path}: {value} is out of range"));
    }
    let items = value.as_array().into_iter().flatten().enumerate();
    let in_items = items.map(|(index, item)| mismatch(&schema["items"], root, item, &format!("{path}[{index}]")));
    let missing = schema["required"].as_array().into_iter().flatten().map(|key| {
        let key = key.as_str().unwrap();
        value.get(key).is_none().then(|| format!("{path}.{key} is missing"))
    });
    let in_keys = value.as_object().into_iter().flatten().map(|(key, value)| {
        let path = format!("{path}.{key}");
        match schema["properties"].get(key) {
            Some(schema) => mismatch(schema, root, value, &path),
            None => (schema["additionalProperties"] == false).then(|| format!("{path} is not known")),
        }
    });
    in_items.chain(missing).chain(in_keys).flatten().next()
}

fn schema() -> Value {
    serde_json::from_str(&config::schema()).unwrap()
}

/// Reads a document as editors do, by YAML 1.2: `off` is a word.
fn yaml(path: &Path) -> Value {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(&fs::read_to_string(path).unwrap(), options).unwrap()
}

#[test]
fn the_schema_takes_what_the_parser_takes() {
    let schema = schema();
    for path in files("configs").into_iter().chain(files("tests/fixtures/config/good")) {
        parse(&path).unwrap();
        assert_eq!(mismatch(&schema, &schema, &yaml(&path), ""), None, "{}", path.display());
    }
}

#[test]
fn the_schema_refuses_what_editors_can_see() {
    let schema = schema();
    let bad = [
        "unknown-key",
        "unknown-key-far",
        "missing-keys",
        "missing-keys-tunnel",
        "delivery",
        "stored-words",
        "mtu-too-small",
        "mtu-too-large",
        "not-a-list",
        "not-a-set-of-keys",
        "not-one-value",
        "a-list",
        "no-value",
        "no-value-in-list",
        "sizes-and-counts",
        "tunnel-numbers",
    ];
    for name in bad {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/config/bad/{name}.yaml"));
        assert!(mismatch(&schema, &schema, &yaml(&path), "").is_some(), "{name}");
    }
}

/// Lists the keys of every object in the schema, or of a document, as `peers[].name`.
fn keys(of: &Value, root: Option<&Value>, path: &str, found: &mut BTreeSet<String>) {
    let of = match (root, of["$ref"].as_str()) {
        (Some(root), Some(reference)) => root.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        _ => of,
    };
    let (properties, items): (_, Vec<&Value>) = match root {
        Some(_) => (of.get("properties"), of.get("items").into_iter().collect()),
        None => (Some(of), of.as_array().into_iter().flatten().collect()),
    };
    for (key, value) in properties.and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{key}");
        keys(value, root, &path, found);
        found.insert(path);
    }
    for item in items {
        keys(item, root, &format!("{path}[]"), found);
    }
}

#[test]
fn every_key_is_in_the_schema_with_a_word_for_its_author_and_in_the_fixture() {
    let schema = schema();
    let (mut in_schema, mut in_fixture) = (BTreeSet::new(), BTreeSet::new());
    keys(&schema, Some(&schema), "", &mut in_schema);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/good/every-key.yaml");
    keys(&yaml(&fixture), None, "", &mut in_fixture);
    assert_eq!(in_schema, in_fixture);
    let objects = std::iter::once(&schema).chain(schema["$defs"].as_object().unwrap().values());
    for property in objects.flat_map(|object| object["properties"].as_object().unwrap()) {
        assert!(property.1["description"].as_str().is_some_and(|text| text.len() > 20), "{property:?}");
        assert!(property.1.get("default").is_none(), "a default of null, which the parser refuses: {property:?}");
    }
}

/// Lists fragments that mean something in YAML or in a site.
const FRAGMENTS: [&str; 24] = [
    "\n",
    "  ",
    "- ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "#",
    "\t",
    "~",
    "&a ",
    "*a",
    "<<: ",
    "---\n",
    "|\n",
    "!!str ",
    "0.0.0.0/0",
    "::/0",
    "99999999999999999999",
    "é",
    "\u{feff}",
];

/// Makes a text that is nearly a configuration: an example, with a few places overwritten.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let examples: Vec<Vec<u8>> = files("configs")
        .into_iter()
        .chain(files("tests/fixtures/config/good"))
        .map(|path| fs::read(path).unwrap())
        .collect();
    let fragment = prop_oneof![
        proptest::sample::select(&FRAGMENTS[..]).prop_map(|text| text.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
        "[ -~]{0,8}".prop_map(String::into_bytes),
    ];
    let edit = (any::<proptest::sample::Index>(), 0..40usize, fragment);
    (proptest::sample::select(examples), proptest::collection::vec(edit, 0..8)).prop_map(|(mut text, edits)| {
        for (at, dropped, fragment) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + dropped).min(text.len());
            text.splice(at..end, fragment);
        }
        text
    })
}

/// Parses with keys and without; what is wrong must be sayable, in order.
fn never_panics(data: &[u8]) {
    config::fuzz_config(data);
    let text = String::from_utf8_lossy(data);
    if let Err(errors) = config::parse(&text, Path::new("site.yaml"), &read_key) {
        assert!(!errors.issues().is_empty());
        assert!(errors.issues().is_sorted_by_key(|issue| issue.position));
        assert!(errors.issues().iter().all(|issue| !issue.message.is_empty()));
        assert_eq!(errors.to_string().lines().count(), errors.issues().len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_nearly_right_text_never_panics(data in mutated()) {
        never_panics(&data);
    }

    #[test]
    fn an_arbitrary_text_never_panics(text in "\\PC{0,200}") {
        never_panics(text.as_bytes());
    }

    #[test]
    fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        never_panics(&data);
    }
}
