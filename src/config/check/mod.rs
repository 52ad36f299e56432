//! The raw keys to a validated site: reads every scalar, then checks what the parts say about each other.
//!
//! Stops at nothing: everything that is wrong is found in one pass. Reads no files but keys, through the function it
//! is given; opens no socket. The rules are the contract of the product; those of the tunnel follow wg(8).

mod alarms;
mod audit;
mod forwards;
mod health;
mod listeners;
mod loops;
mod mllp;
mod peers;
mod policy;
mod services;
mod spool;
mod stored;
mod tls;
mod tunnel;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::path::Path;

use serde_saphyr::{Location, Spanned};
use zeroize::Zeroizing;

use super::errors::{Finding, Subject};
use super::raw::{self, Text};
use super::value::{self, Judged, quote};
use super::{Config, KeyFileError, Name, SecretKey, SpoolKeyFile, yaml};

/// Reads the keys in files, as the configuration names the files.
pub type ReadKey<'a> = &'a dyn ReadKeys;

/// Reads the keys in files; a function that does is one.
pub trait ReadKeys {
    /// Reads the key in a file.
    ///
    /// # Errors
    /// The file gives no key.
    fn read(&self, path: &Path) -> Result<SecretKey, KeyFileError>;

    /// Says where that file is.
    fn place(&self, path: &Path) -> SpoolKeyFile {
        SpoolKeyFile::File(path.to_owned())
    }

    /// Reads another file: certificates, or a private key or a token, which are secret.
    ///
    /// # Errors
    /// The file cannot be read, or others may read the secret.
    fn read_pem(&self, path: &Path, _is_secret: bool) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        Err(KeyFileError::Missing { path: path.to_owned() })
    }

    /// Tells that a site is to run: what may be mended while it runs does not stop it.
    fn is_to_run(&self) -> bool {
        false
    }
}

impl<F: Fn(&Path) -> Result<SecretKey, KeyFileError>> ReadKeys for F {
    fn read(&self, path: &Path) -> Result<SecretKey, KeyFileError> {
        self(path)
    }
}

/// Holds what survives a restart unless the file says otherwise: what systemd's StateDirectory= creates.
const STATE_DIR: &str = "/var/lib/wardlink";
/// Holds the control socket unless the file says otherwise: what systemd's RuntimeDirectory= creates.
const RUNTIME_DIR: &str = "/run/wardlink";

/// Validates a site: all of it, or everything that is wrong.
pub(super) fn site(raw: &Spanned<raw::Site>, read_key: ReadKey<'_>) -> Result<Config, Vec<Finding>> {
    let mut findings = Findings::default();
    let config = read_site(raw, read_key, &mut findings);
    match config {
        Some(config) if findings.0.is_empty() => Ok(config),
        _ => Err(findings.0),
    }
}

fn read_site(raw: &Spanned<raw::Site>, read_key: ReadKey<'_>, findings: &mut Findings) -> Option<Config> {
    let (at, raw) = (raw.referenced, &raw.value);
    let site = findings.required(at, "site", "a name for this installation", raw.site.as_ref(), value::name);
    let state_dir = findings.optional(raw.state_dir.as_ref(), STATE_DIR.into(), value::absolute_path);
    let tunnel = tunnel::check(at, raw.tunnel.as_ref(), read_key, findings);
    let peers = peers::check(raw.peers.as_deref().unwrap_or_default(), &tunnel, read_key, findings);
    let spool = state_dir.as_deref().map(|state_dir| spool::check(raw.spool.as_ref(), state_dir, read_key, findings));
    let forwards = forwards::check(raw.forwards.as_deref().unwrap_or_default(), &tunnel, &peers, read_key, findings);
    let services = services::check(raw.services.as_deref().unwrap_or_default(), &peers, read_key, findings);
    spool::required(at, raw.spool.is_some(), &forwards, findings);
    let audit = audit::check(raw.audit.as_ref(), findings);
    let atna = audit::atna(raw.audit.as_ref().and_then(|audit| audit.atna.as_ref()), read_key, findings);
    let health::Draft { listen: health, agent, door } = health::check(raw.health.as_ref(), read_key, findings);
    listeners::check(
        &tunnel,
        &forwards,
        &services,
        [("health.listen", health), ("health.agent_listen", agent)],
        findings,
    );
    let alarms = alarms::check(raw.alarms.as_ref(), read_key, findings);
    let socket = raw.control.as_ref().and_then(|control| control.socket.as_ref());
    let default = site.as_ref().map(|site| format!("{RUNTIME_DIR}/{}.sock", site.value)).unwrap_or_default();
    let control_socket = findings.optional(socket, default.into(), value::socket_path);
    let sandbox = findings.optional(raw.sandbox.as_ref(), true, sandbox);
    Some(Config {
        site: site?.value,
        state_dir: state_dir?,
        tunnel: tunnel.tunnel?,
        peers: peers.into_iter().map(|draft| draft.peer).collect::<Option<_>>()?,
        forwards: forwards.into_iter().map(|draft| draft.forward).collect::<Option<_>>()?,
        services: services.into_iter().map(|draft| draft.service).collect::<Option<_>>()?,
        spool: spool?,
        audit: audit?,
        atna: atna?,
        health_listen: health.map(|health| health.value),
        health_door: door,
        agent_listen: agent.map(|agent| agent.value),
        alarms: alarms?,
        control_socket: control_socket?,
        sandbox: sandbox?,
    })
}

fn sandbox(text: &str) -> Judged<bool> {
    value::choice(text, &[("auto", true), ("off", false)])
}

/// Is a value with the place where it is written; unknown for a default.
#[derive(Debug, Clone, Copy)]
struct At<T> {
    value: T,
    at: Location,
}

impl<T> At<T> {
    /// Writes " (line 20)", or nothing for a default.
    fn line(&self) -> Line {
        Line(self.at)
    }
}

/// Is the mention of a line in a message.
struct Line(Location);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.line() {
            0 => f.write_str(" (the default)"),
            line => write!(f, " (line {line})"),
        }
    }
}

/// Collects what is wrong.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Notes that a value is wrong.
    fn value(&mut self, at: Location, message: impl Into<String>) {
        let (position, message) = (yaml::position(at), message.into());
        self.0.push(Finding { position, subject: Subject::Value, message });
    }

    /// Notes that a mapping lacks a key.
    fn missing(&mut self, mapping: Location, key: &'static str, instead: &str) {
        let (position, message) = (yaml::position(mapping), format!("is missing; write {instead}"));
        self.0.push(Finding { position, subject: Subject::Missing(key), message });
    }

    /// Reads a scalar; `None` where it is wrong.
    fn read<T>(&mut self, text: &Text, read: impl FnOnce(&str) -> Judged<T>) -> Option<At<T>> {
        match read(&text.value) {
            Ok(value) => Some(At { value, at: text.referenced }),
            Err(message) => {
                self.value(text.referenced, message);
                None
            }
        }
    }

    /// Reads a scalar that must be there.
    fn required<T>(
        &mut self,
        mapping: Location,
        key: &'static str,
        instead: &str,
        text: Option<&Text>,
        read: impl FnOnce(&str) -> Judged<T>,
    ) -> Option<At<T>> {
        if text.is_none() {
            self.missing(mapping, key, instead);
        }
        self.read(text?, read)
    }

    /// Reads a scalar that has a default; `None` where it is wrong.
    fn optional<T>(&mut self, text: Option<&Text>, default: T, read: impl FnOnce(&str) -> Judged<T>) -> Option<T> {
        match text {
            Some(text) => self.read(text, read).map(|read| read.value),
            None => Some(default),
        }
    }

    /// Reads a list of scalars; what is wrong is left out.
    fn list<T>(&mut self, texts: &[Text], read: impl Fn(&str) -> Judged<T>) -> Vec<At<T>> {
        texts.iter().filter_map(|text| self.read(text, &read)).collect()
    }

    /// Notes every value that was written before.
    fn duplicates<'a, T: Eq + Hash + 'a>(
        &mut self,
        values: impl IntoIterator<Item = &'a At<T>>,
        message: impl Fn(&At<T>) -> String,
    ) {
        let mut seen: HashMap<&T, &At<T>> = HashMap::new();
        for value in values {
            if let Some(first) = seen.get(&value.value) {
                self.value(value.at, message(first));
            } else {
                seen.insert(&value.value, value);
            }
        }
    }

    /// Notes every name that was given before to one of the same kind.
    fn duplicate_names<'a>(&mut self, kind: &str, names: impl IntoIterator<Item = &'a At<Name>>) {
        self.duplicates(names, |first| {
            format!(
                "another {kind} is named {} too{}; give each its own name",
                quote(first.value.as_str()),
                first.line()
            )
        });
    }

    /// Reads the key in a file, saying nothing of what is in it.
    fn key(&mut self, text: &Text, kind: SecretKind, read_key: ReadKey<'_>) -> Option<SecretKey> {
        let at = text.referenced;
        if SecretKey::from_base64(text.value.trim()).is_some() {
            self.value(at, "is a key itself; put the key into a file and write its path");
            return None;
        }
        match read_key.read(Path::new(&text.value)) {
            Ok(key) => Some(key),
            Err(error) => {
                let instead = kind.instead(&error);
                self.value(at, format!("{error}; {instead}"));
                None
            }
        }
    }
}

/// Says which secret a file holds.
#[derive(Debug, Clone, Copy)]
enum SecretKind {
    Private,
    Preshared,
    Spool,
}

impl SecretKind {
    /// Says what to do about a key file.
    fn instead(self, error: &KeyFileError) -> String {
        let (command, other) = match self {
            Self::Private => ("gen", ""),
            Self::Preshared => ("psk", "copy the peer's, or "),
            Self::Spool => ("psk", ""),
        };
        match error {
            KeyFileError::Missing { path } => {
                format!("{other}create it: (umask 077; wardlink key {command} > {})", path.display())
            }
            KeyFileError::Mode { path, .. } => format!("run: chmod 0600 {}", path.display()),
            KeyFileError::Read { .. } => "run as the owner of the file, or as root".to_owned(),
            KeyFileError::NotAFile { .. } => "write the path of a file".to_owned(),
            KeyFileError::TooLong { .. } => "write the path of a key file".to_owned(),
            KeyFileError::NotAKey { .. } => {
                format!("it must be one line, as wardlink key {command} or wg gen{} writes it", self.wg())
            }
        }
    }

    fn wg(self) -> &'static str {
        match self {
            Self::Private => "key",
            Self::Preshared | Self::Spool => "psk",
        }
    }
}
