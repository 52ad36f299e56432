//! A wg-quick file to its values: what wg(8), "CONFIGURATION FILE FORMAT", and wg-quick(8) know.
//!
//! Pure. Finds everything that is wrong in one pass. Never shows a value that may be a key, nor one of a hook, which may
//! hold one: only the key's name and the line. Keys and sections are case-insensitive, `#` begins a comment anywhere, a
//! section may come again; of a key that is no list the last one counts.

mod counterpart;
mod fuzz;
mod site;
mod values;

use std::fmt;

use ipnet::IpNet;

pub use counterpart::counterpart;
#[doc(hidden)]
pub use fuzz::fuzz_wg_quick;
pub use site::{KeyFile, Naming, Site, name_of, site};

use super::value::{self, Judged, quote};
use super::{Endpoint, PublicKey, SecretKey, Table};
use values::{endpoint, items, mark, number, prefix, secret_key, short, table};

/// Limits a comment that may name a peer, in characters: a name has 63 at the most.
const COMMENT_CHARS_MAX: usize = 63;
/// Limits the unknown key that is quoted, in bytes: longer ones may be half of a secret.
const QUOTED_KEY_BYTES_MAX: usize = 24;

/// Is what a wg-quick file says.
#[derive(Debug, Default)]
pub struct File {
    /// Describes the interface.
    pub interface: Interface,
    /// Lists the peers.
    pub peers: Vec<Peer>,
    /// Lists what wardlink has no counterpart for.
    pub leftovers: Vec<Leftover>,
}

/// Is what `[Interface]` says.
#[derive(Debug, Default)]
pub struct Interface {
    /// Is the private key, with its line.
    pub private_key: Option<(usize, SecretKey)>,
    /// Is the UDP port.
    pub listen_port: Option<u16>,
    /// Is the mark of datagrams; 0: none.
    pub fwmark: Option<u32>,
    /// Lists the addresses.
    pub addresses: Vec<IpNet>,
    /// Is the MTU, in bytes.
    pub mtu: Option<u16>,
    /// Says where routes go.
    pub table: Option<Table>,
}

/// Is what a `[Peer]` says.
#[derive(Debug)]
pub struct Peer {
    /// Is where the section begins.
    pub line: usize,
    /// Is the comment at its head: what people name a peer by.
    pub comment: Option<String>,
    /// Identifies the peer.
    pub public_key: PublicKey,
    /// Is the preshared key, with its line.
    pub preshared_key: Option<(usize, SecretKey)>,
    /// Says where the peer is.
    pub endpoint: Option<Endpoint>,
    /// Lists the peer's addresses, without host bits, each once.
    pub allowed_ips: Vec<IpNet>,
    /// Is the keepalive, in seconds; 0: off.
    pub keepalive_seconds: u16,
}

/// Is a line that wardlink has no counterpart for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Is its number.
    pub line: usize,
    /// Is its key, as wg-quick(8) spells it.
    pub key: &'static str,
    /// Says what to do instead.
    pub instead: &'static str,
}

/// Is one thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Is the line, from 1.
    pub line: usize,
    /// Says what is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

const NO_HOOKS: &str = "wardlink runs no commands; ExecStartPre= and ExecStartPost= of the systemd unit do";
const NO_DNS: &str = "wardlink leaves this host's name servers alone";
const NO_SAVING: &str = "wardlink only reads its configuration";

/// Lists the keys that have no counterpart.
const LEFTOVERS: [(&str, &str); 6] = [
    ("DNS", NO_DNS),
    ("SaveConfig", NO_SAVING),
    ("PreUp", NO_HOOKS),
    ("PostUp", NO_HOOKS),
    ("PreDown", NO_HOOKS),
    ("PostDown", NO_HOOKS),
];

/// Lists the keys that have one, by section.
const INTERFACE_KEYS: [&str; 6] = ["PrivateKey", "ListenPort", "FwMark", "Address", "MTU", "Table"];
const PEER_KEYS: [&str; 5] = ["PublicKey", "PresharedKey", "Endpoint", "AllowedIPs", "PersistentKeepalive"];

/// Reads a wg-quick file.
///
/// # Errors
/// Everything that is wrong with it, at least one thing, by line.
pub fn parse(text: &str) -> Result<File, Vec<Mistake>> {
    let mut reader = Reader::default();
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        reader.line = index + 1;
        reader.handle_line(line);
    }
    reader.end_section();
    if !reader.had_interface {
        reader.wrong("has no [Interface]; name a file of wg-quick, such as /etc/wireguard/wg0.conf");
    }
    reader.mistakes.sort_by_key(|mistake| mistake.line);
    if reader.mistakes.is_empty() { Ok(reader.file) } else { Err(reader.mistakes) }
}

#[derive(Default)]
enum Section {
    #[default]
    None,
    /// One that is unknown: its keys are not judged.
    Unknown,
    Interface,
    Peer(Box<Draft>),
}

/// Is a peer while its section is read.
#[derive(Default)]
struct Draft {
    line: usize,
    comment: Option<String>,
    has_keys: bool,
    public_key: Option<(usize, PublicKey)>,
    /// A key that is wrong is not missing.
    is_key_wrong: bool,
    preshared_key: Option<(usize, SecretKey)>,
    endpoint: Option<Endpoint>,
    allowed_ips: Vec<IpNet>,
    keepalive_seconds: u16,
}

#[derive(Default)]
struct Reader {
    file: File,
    section: Section,
    had_interface: bool,
    /// Is the comment right above.
    comment: Option<String>,
    line: usize,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn wrong(&mut self, message: impl Into<String>) {
        self.mistakes.push(Mistake { line: self.line.max(1), message: message.into() });
    }

    /// Keeps a value that is right, notes one that is wrong.
    fn read<T>(&mut self, value: Judged<T>) -> Option<T> {
        value.map_err(|message| self.wrong(message)).ok()
    }

    fn handle_line(&mut self, line: &str) {
        let (code, comment) = line.split_once('#').map_or((line, None), |(code, comment)| (code, Some(comment)));
        let code = code.trim();
        if code.is_empty() {
            let named = comment.and_then(peer_name);
            if let (Section::Peer(draft), Some(name)) = (&mut self.section, &named)
                && !draft.has_keys
                && draft.comment.is_none()
            {
                draft.comment = Some(name.clone());
            } else {
                // An empty line parts a comment from what follows.
                self.comment = comment.and(named);
            }
            return;
        }
        let above = self.comment.take();
        if code.starts_with('[') {
            return self.begin_section(code, above);
        }
        let Some((key, value)) = code.split_once('=') else {
            // Not quoted: it may be a key.
            return self.wrong("is neither a section nor KEY = VALUE; write one of them, or begin it with #");
        };
        let (key, value) = (key.trim(), value.trim());
        match &mut self.section {
            Section::Unknown => {}
            Section::None => self.wrong("stands before any section; write [Interface] above it"),
            Section::Interface => self.handle_interface_key(key, value),
            Section::Peer(draft) => {
                draft.has_keys = true;
                self.handle_peer_key(key, value);
            }
        }
    }

    fn begin_section(&mut self, code: &str, comment: Option<String>) {
        self.end_section();
        let name: String = code.chars().filter(|c| !c.is_whitespace()).collect();
        if name.eq_ignore_ascii_case("[interface]") {
            self.had_interface = true;
            self.section = Section::Interface;
        } else if name.eq_ignore_ascii_case("[peer]") {
            self.section = Section::Peer(Box::new(Draft { line: self.line, comment, ..Draft::default() }));
        } else {
            self.section = Section::Unknown;
            self.wrong("is not a section of wg-quick; write [Interface] or [Peer]");
        }
    }

    /// Ends a peer's section: it must have a key that no other has.
    fn end_section(&mut self) {
        let Section::Peer(draft) = std::mem::take(&mut self.section) else { return };
        let Draft {
            line,
            comment,
            public_key,
            is_key_wrong,
            preshared_key,
            endpoint,
            allowed_ips,
            keepalive_seconds,
            ..
        } = *draft;
        let Some((key_line, public_key)) = public_key else {
            if !is_key_wrong {
                let message = "has no PublicKey; write PublicKey = the key that the peer's wg pubkey prints".to_owned();
                self.mistakes.push(Mistake { line, message });
            }
            return;
        };
        if let Some(other) = self.file.peers.iter().find(|other| other.public_key == public_key) {
            let message = format!("is the PublicKey of the peer of line {} too; keep one [Peer] a key", other.line);
            self.mistakes.push(Mistake { line: key_line, message });
            return;
        }
        let peer = Peer { line, comment, public_key, preshared_key, endpoint, allowed_ips, keepalive_seconds };
        self.file.peers.push(peer);
    }

    fn handle_interface_key(&mut self, key: &str, value: &str) {
        let (line, known) = (self.line, known(key, &INTERFACE_KEYS));
        match known {
            Some("PrivateKey") => {
                let key = self.read(secret_key(value, "PrivateKey", "wg genkey"));
                self.file.interface.private_key = key.map(|key| (line, key));
            }
            Some("ListenPort") => {
                self.file.interface.listen_port = self.read(number(value, "ListenPort", u16::MAX.into())).map(short);
            }
            Some("FwMark") => self.file.interface.fwmark = self.read(mark(value)),
            Some("MTU") => self.file.interface.mtu = self.read(number(value, "MTU", u16::MAX.into())).map(short),
            Some("Address") => {
                for item in items(value) {
                    let address = self.read(prefix(item, "Address", "10.98.0.1/32"));
                    let addresses = &mut self.file.interface.addresses;
                    addresses.extend(address.filter(|address| !addresses.contains(address)));
                }
            }
            Some("Table") => match table(value) {
                Some(table) => self.file.interface.table = Some(table),
                None => {
                    // Not auto, which would take a default route where wg-quick takes none.
                    self.file.interface.table = Some(Table::Off);
                    let instead = "a table is named by its number, so that tunnel.table is off here and no route is \
                                   set: write the number as tunnel.table, or set the routes into that table yourself";
                    self.file.leftovers.push(Leftover { line, key: "Table", instead });
                }
            },
            _ => {
                let leftover = LEFTOVERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(key));
                match leftover {
                    Some((key, instead)) => self.file.leftovers.push(Leftover { line, key, instead }),
                    None => self.unknown(key, &INTERFACE_KEYS),
                }
            }
        }
    }

    fn handle_peer_key(&mut self, key: &str, value: &str) {
        let line = self.line;
        let Some(known) = known(key, &PEER_KEYS) else { return self.unknown(key, &PEER_KEYS) };
        let mut draft = match std::mem::take(&mut self.section) {
            Section::Peer(draft) => draft,
            other => {
                self.section = other;
                return;
            }
        };
        match known {
            "PublicKey" => {
                let instead =
                    "PublicKey is not a key of 44 characters in base64; write what the peer's wg pubkey prints";
                let key = self.read(PublicKey::from_base64(value).ok_or_else(|| instead.to_owned()));
                draft.is_key_wrong = key.is_none();
                draft.public_key = key.map(|key| (line, key));
            }
            "PresharedKey" => {
                let key = self.read(secret_key(value, "PresharedKey", "wg genpsk"));
                // To WireGuard zeros are no key.
                draft.preshared_key = key.filter(|key| key.expose() != &[0; 32]).map(|key| (line, key));
            }
            "Endpoint" => draft.endpoint = self.read(endpoint(value)),
            "AllowedIPs" => {
                for item in items(value) {
                    // wg takes host bits for granted.
                    let net = self.read(prefix(item, "AllowedIPs", "10.98.0.2/32")).map(|net| net.trunc());
                    draft.allowed_ips.extend(net.filter(|net| !draft.allowed_ips.contains(net)));
                }
            }
            _ => {
                let off = value.eq_ignore_ascii_case("off");
                let seconds = if off { Ok(0) } else { number(value, "PersistentKeepalive", u16::MAX.into()) };
                draft.keepalive_seconds = self.read(seconds).map(short).unwrap_or(0);
            }
        }
        self.section = Section::Peer(draft);
    }

    fn unknown(&mut self, key: &str, known: &[&str]) {
        let is_word = key.len() <= QUOTED_KEY_BYTES_MAX && key.bytes().all(|b| b.is_ascii_alphanumeric());
        let what = if is_word { quote(key) } else { "this".to_owned() };
        self.wrong(format!("{what} is no key of wg-quick here; write one of {}, or remove it", known.join(", ")));
    }
}

/// Returns the interface that a file is named after, as wg-quick(8) does.
pub fn interface_of(file_name: &str) -> Option<String> {
    value::interface(file_name.strip_suffix(".conf")?).ok()
}

fn known(key: &str, keys: &[&'static str]) -> Option<&'static str> {
    keys.iter().find(|known| known.eq_ignore_ascii_case(key)).copied()
}

/// Reads what a comment names a peer: words, or `Name = WORDS` as some tools write it; never what may hold a key.
fn peer_name(comment: &str) -> Option<String> {
    let text = comment.trim_matches(|c: char| c == '#' || c.is_whitespace());
    let text = match text.split_once('=') {
        Some((key, value)) => {
            let key: String = key.chars().filter(|c| c.is_ascii_alphabetic()).collect();
            ["name", "friendlyname"].contains(&key.to_ascii_lowercase().as_str()).then_some(value.trim())?
        }
        None => text,
    };
    let fits = !text.is_empty() && text.chars().count() <= COMMENT_CHARS_MAX && !text.contains('=');
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
