//! What `wg` is told, as text. Pure.
//!
//! Format: <https://www.wireguard.com/xplatform/>; the order within a peer is wireguard-go's. The time of a handshake is
//! since the epoch, not elapsed.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::Refusal;
use crate::config::SecretKey;
use crate::tunnel::peers::PeerFacts;
use crate::tunnel::settings::{PeerSettings, Settings};

/// Room for this site's lines, in bytes.
const HEAD_BYTES: usize = 256;
/// Room for a peer's lines but its prefixes, in bytes.
const PEER_BYTES: usize = 640;
/// Room for a prefix, in bytes.
const ALLOWED_IP_BYTES: usize = 64;

/// Writes all settings with what passed; `listen_port` is the one in use. The buffer is wiped, and never moves.
pub(in crate::tunnel) fn get(
    settings: &Settings,
    listen_port: u16,
    peers: &[(&PeerSettings, PeerFacts)],
) -> Zeroizing<String> {
    let prefixes: usize = peers.iter().map(|(set, _)| set.peer.allowed_ips.len()).sum();
    let bytes = HEAD_BYTES + peers.len() * PEER_BYTES + prefixes * ALLOWED_IP_BYTES;
    let mut text = Zeroizing::new(String::with_capacity(bytes));
    if let Some(key) = &settings.private_key {
        key_line(&mut text, "private_key", key.expose());
    }
    line(&mut text, format_args!("listen_port={listen_port}"));
    if settings.fwmark != 0 {
        line(&mut text, format_args!("fwmark={}", settings.fwmark));
    }
    for (set, facts) in peers {
        peer(&mut text, set, facts);
    }
    line(&mut text, format_args!("errno=0\n"));
    text
}

/// Says that a change was made.
pub(in crate::tunnel) fn done() -> &'static str {
    "errno=0\n\n"
}

/// Writes why a request is refused. `wg` wants the number negative where it set something, and takes any but a positive
/// one for no answer ("Protocol error") where it asked what is set.
pub(in crate::tunnel) fn refused(request: &[u8], refusal: &Refusal) -> String {
    let errno = if request.starts_with(b"get=") { refusal.errno() } else { -refusal.errno() };
    format!("errno={errno}\n\n")
}

fn peer(text: &mut String, set: &PeerSettings, facts: &PeerFacts) {
    let peer = &set.peer;
    key_line(text, "public_key", &peer.public_key.0);
    let none = [0; 32];
    key_line(text, "preshared_key", peer.preshared_key.as_ref().map_or(&none, SecretKey::expose));
    line(text, format_args!("protocol_version=1"));
    if let Some(endpoint) = facts.endpoint {
        line(text, format_args!("endpoint={endpoint}"));
    }
    let handshake = facts.latest_handshake.unwrap_or(UNIX_EPOCH);
    let since_epoch = handshake.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    line(text, format_args!("last_handshake_time_sec={}", since_epoch.as_secs()));
    line(text, format_args!("last_handshake_time_nsec={}", since_epoch.subsec_nanos()));
    line(text, format_args!("tx_bytes={}", facts.tx_bytes));
    line(text, format_args!("rx_bytes={}", facts.rx_bytes));
    let keepalive = peer.persistent_keepalive.unwrap_or_default();
    line(text, format_args!("persistent_keepalive_interval={}", keepalive.as_secs()));
    for prefix in &peer.allowed_ips {
        line(text, format_args!("allowed_ip={prefix}"));
    }
}

fn key_line(text: &mut String, name: &str, key: &[u8; 32]) {
    text.push_str(name);
    text.push('=');
    for digit in key.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
    }
    text.push('\n');
}

/// Writing to a string cannot fail.
fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").ok();
}
