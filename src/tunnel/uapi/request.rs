//! What `wg` asks for, out of its text. Pure; it changes nothing, and never shows a key.
//!
//! Format: <https://www.wireguard.com/xplatform/>, "Configuration Protocol": `key=value` lines, the first says what is
//! asked, an empty one ends it. The whole is read before any of it counts.

use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::Refusal;
use crate::config::{Endpoint, Host, PublicKey, SecretKey};

/// The longest line in use is a preshared key's, with 78 bytes; more than this is none of the protocol's.
const LINE_BYTES_MAX: usize = 256;
const KEY_BYTES: usize = 32;

/// Is what is asked.
#[derive(Debug)]
pub(in crate::tunnel) enum Request {
    /// Everything that the tunnel is set to, and what passed.
    Get,
    /// Other settings.
    Set(Set),
}

/// Is a change of settings; what is `None` stays.
#[derive(Debug, Default)]
pub(in crate::tunnel) struct Set {
    /// Is another key of this site's, or none any more.
    pub private_key: Option<Option<SecretKey>>,
    /// Is another UDP port; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// Is another mark; 0 takes it away.
    pub fwmark: Option<u32>,
    /// Takes all peers away that are not named.
    pub replace_peers: bool,
    /// Lists changes of peers, in their order; one peer may come twice.
    pub peers: Vec<SetPeer>,
}

/// Is a change of one peer's settings.
#[derive(Debug)]
pub(in crate::tunnel) struct SetPeer {
    pub public_key: PublicKey,
    pub remove: bool,
    /// Leaves out a peer that is not there.
    pub update_only: bool,
    pub preshared_key: Option<Option<SecretKey>>,
    pub endpoint: Option<Endpoint>,
    pub persistent_keepalive: Option<Option<Duration>>,
    pub replace_allowed_ips: bool,
    pub allowed_ips: Vec<AllowedIp>,
}

/// Is a prefix that a peer gets, from whomever has it, or loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum AllowedIp {
    Add(IpNet),
    Remove(IpNet),
}

/// Finds the end of the first request in what was read: the length of its lines, and with the empty line behind them.
/// Bytes before `looked` are known to hold none.
pub(in crate::tunnel) fn find_end(read: &[u8], looked: usize) -> Option<(usize, usize)> {
    if read.first() == Some(&b'\n') {
        return Some((0, 1));
    }
    let from = looked.saturating_sub(1);
    let at = from + read.get(from..)?.windows(2).position(|two| two == b"\n\n")?;
    Some((at + 1, at + 2))
}

/// Reads a request without the empty line that ends it.
///
/// # Errors
/// A line is none of the protocol's; nothing of the request may then be used.
pub(in crate::tunnel) fn parse(text: &[u8]) -> Result<Request, Refusal> {
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let first = lines.next().ok_or(Refusal::Protocol { what: "nothing is asked" })?;
    let mut set = match pair(first)? {
        ("get", "1") => {
            return if lines.next().is_none() { Ok(Request::Get) } else { Err(Refusal::of("get")) };
        }
        ("set", "1") => Set::default(),
        ("get" | "set", _) => return Err(Refusal::Protocol { what: "another version of the protocol is asked for" }),
        _ => return Err(Refusal::Protocol { what: "neither get nor set is asked" }),
    };
    for line in lines {
        let (key, value) = pair(line)?;
        match set.peers.last_mut() {
            _ if key == "public_key" => set.peers.push(SetPeer::new(public_key(value)?)),
            None => set.take(key, value)?,
            Some(peer) => peer.take(key, value)?,
        }
    }
    // Such a key is nobody's here: to remove it is done, as with any peer that is not there.
    set.peers.retain(|peer| !(peer.remove && peer.public_key.is_low_order()));
    if set.peers.iter().any(|peer| peer.public_key.is_low_order()) {
        return Err(Refusal::Invalid { what: "a public_key is one that anybody could pass for, such as all zeros" });
    }
    Ok(Request::Set(set))
}

impl Set {
    fn take(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        match key {
            "private_key" => self.private_key = Some(secret("private_key", value)?),
            "listen_port" => self.listen_port = Some(number("listen_port", value)?),
            "fwmark" => self.fwmark = Some(number("fwmark", value)?),
            "replace_peers" => self.replace_peers = truth("replace_peers", value)?,
            _ => return Err(Refusal::Invalid { what: "a key of the interface is unknown" }),
        }
        Ok(())
    }
}

impl SetPeer {
    fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        match key {
            "remove" => self.remove = truth("remove", value)?,
            "update_only" => self.update_only = truth("update_only", value)?,
            "preshared_key" => self.preshared_key = Some(secret("preshared_key", value)?),
            "endpoint" => {
                // A name is none of the protocol's: wg(8) has looked it up.
                let endpoint = value.parse().ok().filter(|endpoint: &Endpoint| !matches!(endpoint.host, Host::Name(_)));
                self.endpoint = Some(endpoint.ok_or(Refusal::of("endpoint"))?);
            }
            "persistent_keepalive_interval" => {
                let seconds: u16 = number("persistent_keepalive_interval", value)?;
                self.persistent_keepalive = Some((seconds != 0).then(|| Duration::from_secs(seconds.into())));
            }
            "replace_allowed_ips" => self.replace_allowed_ips = truth("replace_allowed_ips", value)?,
            "allowed_ip" => self.allowed_ips.push(allowed_ip(value)?),
            "protocol_version" if value == "1" => {}
            "protocol_version" => return Err(Refusal::of("protocol_version")),
            _ => return Err(Refusal::Invalid { what: "a key of a peer is unknown" }),
        }
        Ok(())
    }
}

fn pair(line: &[u8]) -> Result<(&str, &str), Refusal> {
    if line.len() > LINE_BYTES_MAX {
        return Err(Refusal::Protocol { what: "a line is too long" });
    }
    let line = std::str::from_utf8(line).ok().and_then(|line| line.split_once('='));
    line.ok_or(Refusal::Protocol { what: "a line is no key=value" })
}

/// Reads 64 hexadecimal digits; all zeros stand for no key.
fn secret(what: &'static str, value: &str) -> Result<Option<SecretKey>, Refusal> {
    let bytes = hexadecimal(value).ok_or(Refusal::of(what))?;
    Ok(bytes.iter().any(|byte| *byte != 0).then(|| SecretKey::new(*bytes)))
}

fn public_key(value: &str) -> Result<PublicKey, Refusal> {
    Ok(PublicKey(*hexadecimal(value).ok_or(Refusal::of("public_key"))?))
}

fn hexadecimal(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if text.len() != KEY_BYTES * 2 {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = digits else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(key)
}

/// Reads a decimal number; no sign, no blank.
fn number<T: std::str::FromStr>(what: &'static str, value: &str) -> Result<T, Refusal> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or(Refusal::of(what))
}

/// Whoever wants the opposite leaves the line out.
fn truth(what: &'static str, value: &str) -> Result<bool, Refusal> {
    if value == "true" { Ok(true) } else { Err(Refusal::of(what)) }
}

fn allowed_ip(value: &str) -> Result<AllowedIp, Refusal> {
    let (prefix, is_removed) = value.strip_prefix('-').map_or((value, false), |prefix| (prefix, true));
    let prefix: IpNet = prefix.parse().map_err(|_| Refusal::of("allowed_ip"))?;
    Ok(if is_removed { AllowedIp::Remove(prefix.trunc()) } else { AllowedIp::Add(prefix.trunc()) })
}

#[cfg(test)]
mod tests;
