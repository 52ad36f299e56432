//! A wg-quick file's values to the YAML of a site.
//!
//! Pure. No secret is in the YAML: it names files, and who asks is handed the keys to put into them. What has no
//! counterpart stands in comments, by its name and line.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::{File, Peer};
use crate::config::errors::one_line;
use crate::config::{Endpoint, Host, Name, SecretKey, Table};

/// Limits a name, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// Says what a wg-quick file does not.
#[derive(Debug, Clone, Copy)]
pub struct Naming<'a> {
    /// Names the installation.
    pub site: &'a Name,
    /// Names the interface; wg-quick takes it from the file's name.
    pub interface: &'a str,
    /// Is the directory of the key files, without a slash at its end.
    pub keys: &'a str,
    /// Names the file, for a comment.
    pub source: &'a str,
}

/// Is a site made of a wg-quick file.
#[derive(Debug)]
pub struct Site {
    /// Is the configuration.
    pub yaml: String,
    /// Lists the key files that it names.
    pub keys: Vec<KeyFile>,
    /// Says what the reader should know, with the line that it is about.
    pub notes: Vec<(usize, String)>,
}

/// Is a key file that the configuration names.
#[derive(Debug)]
pub struct KeyFile {
    /// Is its path.
    pub path: String,
    /// Is where the wg-quick file has the key; absent: it has none.
    pub line: Option<usize>,
    /// Is the key; absent: the file has none.
    pub key: Option<SecretKey>,
    /// Names the key in the wg-quick file.
    pub what: &'static str,
}

/// Writes the YAML of a site.
pub fn site(file: &File, naming: Naming<'_>) -> Site {
    let names = names(&file.peers);
    let mut notes: Vec<(usize, String)> = file
        .leftovers
        .iter()
        .map(|left| (left.line, format!("{} has no counterpart: {}", left.key, left.instead)))
        .collect();
    for (peer, name) in file.peers.iter().zip(&names) {
        if let Some(default) = peer.allowed_ips.iter().find(|net| net.prefix_len() == 0) {
            let note = format!(
                "AllowedIPs {default} needs routed: true at peer {name}, which lets it reach addresses behind this site"
            );
            notes.push((peer.line, note));
        }
    }
    notes.sort_by_key(|(line, _)| *line);
    let mut keys = vec![KeyFile {
        path: format!("{}/private.key", naming.keys),
        line: file.interface.private_key.as_ref().map(|(line, _)| *line),
        key: file.interface.private_key.as_ref().map(|(_, key)| key.clone()),
        what: "PrivateKey",
    }];
    let mut yaml = format!("# Made of {} by `wardlink import`.\n", one_line(naming.source.chars()));
    if !notes.is_empty() {
        yaml.push_str("#\n# What is different here, by the lines of that file:\n");
        for (line, note) in &notes {
            push(&mut yaml, format_args!("#   {line}: {note}"));
        }
    }
    yaml.push_str(
        "#\n# Plain WireGuard lets a peer reach every port of this host. Here a peer reaches what services offer it, and\n# \
         more only with host_access: true (this host) or routed: true (addresses behind it).\n\n",
    );
    push(&mut yaml, format_args!("site: {}\n", naming.site));
    tunnel(&mut yaml, file, naming);
    if !file.peers.is_empty() {
        yaml.push_str("\npeers:\n");
    }
    for (peer, name) in file.peers.iter().zip(&names) {
        let path = format!("{}/{name}.psk", naming.keys);
        self::peer(&mut yaml, peer, name, &path);
        if let Some((line, key)) = &peer.preshared_key {
            keys.push(KeyFile { path, line: Some(*line), key: Some(key.clone()), what: "PresharedKey" });
        }
    }
    Site { yaml, keys, notes }
}

fn tunnel(yaml: &mut String, file: &File, naming: Naming<'_>) {
    let interface = &file.interface;
    yaml.push_str("tunnel:\n");
    push(yaml, format_args!("  interface: \"{}\"", naming.interface));
    push(yaml, format_args!("  private_key_file: {}", quoted(&format!("{}/private.key", naming.keys))));
    // Without one wg-quick lets the kernel choose.
    push(yaml, format_args!("  listen_port: {}", interface.listen_port.unwrap_or(0)));
    push(yaml, format_args!("  address: [{}]", list(&interface.addresses)));
    if let Some(mtu) = interface.mtu {
        push(yaml, format_args!("  mtu: {mtu}"));
    }
    if let Some(mark) = interface.fwmark.filter(|mark| *mark != 0) {
        push(yaml, format_args!("  fwmark: {mark}"));
    }
    match interface.table {
        None | Some(Table::Auto) => {}
        Some(Table::Off) => yaml.push_str("  table: off\n"),
        Some(Table::Number(number)) => push(yaml, format_args!("  table: {number}")),
    }
}

fn peer(yaml: &mut String, peer: &Peer, name: &Name, preshared_key_file: &str) {
    push(yaml, format_args!("  - name: {}", quoted(name.as_str())));
    push(yaml, format_args!("    public_key: \"{}\"", peer.public_key));
    if peer.preshared_key.is_some() {
        push(yaml, format_args!("    preshared_key_file: {}", quoted(preshared_key_file)));
    }
    if let Some(endpoint) = &peer.endpoint {
        push(yaml, format_args!("    endpoint: \"{endpoint}\""));
    }
    push(yaml, format_args!("    allowed_ips: [{}]", list(&peer.allowed_ips)));
    if peer.keepalive_seconds != 0 {
        push(yaml, format_args!("    persistent_keepalive: {}s", peer.keepalive_seconds));
    }
    if peer.allowed_ips.iter().any(|net| net.prefix_len() == 0) {
        yaml.push_str("    routed: true                       # a default route needs it\n");
    }
}

fn push(yaml: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    writeln!(yaml, "{line}").ok();
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(|net| format!("\"{net}\"")).collect::<Vec<_>>().join(", ")
}

/// Writes text in double quotes; a JSON string is a YAML one.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Names each peer: by its comment, else by its endpoint, else by its number; each name once.
fn names(peers: &[Peer]) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    for (index, peer) in peers.iter().enumerate() {
        let by_comment = peer.comment.as_deref().and_then(slug);
        let base =
            by_comment.or_else(|| by_endpoint(peer.endpoint.as_ref())).unwrap_or_else(|| format!("peer-{}", index + 1));
        let numbered = (2..).map(|number| {
            let end = format!("-{number}");
            format!("{}{end}", base.get(..NAME_BYTES_MAX - end.len()).unwrap_or(&base))
        });
        let mut candidates = std::iter::once(base.clone()).chain(numbered);
        let free = candidates.find_map(|name| Name::new(&name).filter(|name| !names.contains(name)));
        names.extend(free);
    }
    names
}

fn by_endpoint(endpoint: Option<&Endpoint>) -> Option<String> {
    match &endpoint?.host {
        Host::Name(name) => slug(name.split('.').next()?),
        Host::Address(_) | Host::OnLink { .. } => None,
    }
}

/// Makes a name of any words, if they have a letter or a digit.
pub fn name_of(text: &str) -> Option<Name> {
    slug(text).and_then(|name| Name::new(&name))
}

/// Makes a name of words: `City Lab (new)` is `city-lab-new`.
fn slug(text: &str) -> Option<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
    let name = name.get(..NAME_BYTES_MAX).unwrap_or(&name).trim_end_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}
