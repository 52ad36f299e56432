//! The peers: each by itself, then what they claim against each other and against this site.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_saphyr::{Location, Spanned};

use super::{At, Findings, ReadKey, SecretKind, loops, tunnel};
use crate::config::raw::{self, Text};
use crate::config::value::{self, Judged, quote};
use crate::config::{Endpoint, Name, Peer, PublicKey};

/// Is the longest keepalive interval that WireGuard's UAPI can hold (wg(8)).
const KEEPALIVE_MAX: Duration = Duration::from_secs(65535);

/// Is a peer, as far as it is right.
pub(super) struct Draft {
    pub(super) peer: Option<Peer>,
    pub(super) name: Option<At<Name>>,
    pub(super) address: Option<IpAddr>,
    pub(super) prefixes: Vec<At<IpNet>>,
    public_key: Option<At<PublicKey>>,
    /// Is the address as the file says it; a default is right by how it is found.
    written_address: Option<At<IpAddr>>,
    pub(super) endpoint: Option<At<Endpoint>>,
    pub(super) routed: bool,
    allowed_ips_at: Location,
}

impl Draft {
    /// Returns the peer's name in quotes, for a message.
    pub(super) fn label(&self) -> String {
        quote(self.name.as_ref().map(|name| name.value.as_str()).unwrap_or_default())
    }
}

/// Finds the peer that packets to an address go to: the one with the longest prefix (WireGuard cryptokey routing).
pub(super) fn owner(peers: &[Draft], address: IpAddr) -> Option<usize> {
    let prefixes =
        peers.iter().enumerate().flat_map(|(index, peer)| peer.prefixes.iter().map(move |p| (index, p.value)));
    let holding = prefixes.filter(|(_, prefix)| prefix.contains(&address));
    holding.max_by_key(|(_, prefix)| prefix.prefix_len()).map(|(index, _)| index)
}

/// Checks the peers.
pub(super) fn check(
    raw: &[Spanned<raw::Peer>],
    tunnel: &tunnel::Draft,
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Vec<Draft> {
    let peers: Vec<Draft> = raw.iter().map(|raw| peer(raw, tunnel, read_key, findings)).collect();
    findings.duplicate_names("peer", peers.iter().filter_map(|peer| peer.name.as_ref()));
    findings.duplicates(peers.iter().filter_map(|peer| peer.public_key.as_ref()), |first| {
        format!("another peer has the same key{}; write the key of this peer", first.line())
    });
    prefixes(&peers, findings);
    for (index, peer) in peers.iter().enumerate() {
        own(peer, tunnel, findings);
        families(peer, tunnel, findings);
        written_address(index, &peers, tunnel, findings);
        loops::endpoint(peer, &peers, tunnel, findings);
    }
    loops::default_routes(&peers, tunnel, findings);
    loops::default_routes_in_pieces(&peers, tunnel, findings);
    peers
}

fn peer(raw: &Spanned<raw::Peer>, tunnel: &tunnel::Draft, read_key: ReadKey<'_>, findings: &mut Findings) -> Draft {
    let (at, raw) = (raw.referenced, &raw.value);
    let name = findings.required(at, "name", "a name for the peer", raw.name.as_ref(), value::name);
    let instead = "the key that wardlink key pub prints at the peer";
    let public_key = findings.required(at, "public_key", instead, raw.public_key.as_ref(), public_key);
    let preshared = raw.preshared_key_file.as_ref();
    // Some(None) is a key file that is wrong.
    let preshared_key = preshared.map(|file| findings.key(file, SecretKind::Preshared, read_key));
    let endpoint = raw.endpoint.as_ref().map(|text| findings.read(text, value::endpoint));
    let prefixes = allowed_ips(at, raw.allowed_ips.as_ref(), findings);
    let written = raw.address.as_ref().map(|text| findings.read(text, value::address));
    let persistent_keepalive = findings.optional(raw.persistent_keepalive.as_ref(), None, keepalive);
    let routed = findings.optional(raw.routed.as_ref(), false, value::boolean);
    let host_access = findings.optional(raw.host_access.as_ref(), false, value::boolean);
    let address = match &written {
        Some(written) => written.as_ref().map(|written| written.value),
        None => single_host(&prefixes, tunnel),
    };
    let complete = || {
        Some(Peer {
            name: name.clone()?.value,
            public_key: public_key.as_ref()?.value,
            first_key: public_key.as_ref()?.value,
            next_key: None,
            knows_new_key: false,
            preshared_key: match preshared_key {
                Some(key) => Some(key?),
                None => None,
            },
            endpoint: match endpoint.clone() {
                Some(endpoint) => Some(endpoint?.value),
                None => None,
            },
            allowed_ips: prefixes.iter().map(|prefix| prefix.value).collect(),
            address,
            persistent_keepalive: persistent_keepalive?,
            routed: routed?,
            host_access: host_access?,
        })
    };
    Draft {
        peer: complete(),
        name,
        public_key,
        address,
        written_address: written.flatten(),
        endpoint: endpoint.flatten(),
        routed: routed.unwrap_or(false),
        allowed_ips_at: raw.allowed_ips.as_ref().map_or(at, |list| list.referenced),
        prefixes,
    }
}

fn allowed_ips(mapping: Location, raw: Option<&Spanned<Vec<Text>>>, findings: &mut Findings) -> Vec<At<IpNet>> {
    let instead = "[PREFIX], the peer's addresses inside the tunnel, such as [10.98.0.2/32]";
    let Some(raw) = raw else {
        findings.missing(mapping, "allowed_ips", instead);
        return Vec::new();
    };
    if raw.value.is_empty() {
        findings.value(raw.referenced, format!("is empty; write {instead}"));
    }
    findings.list(&raw.value, value::prefix)
}

fn public_key(text: &str) -> Judged<PublicKey> {
    // Not quoted: it may be the private key by mistake.
    let instead = "write the 44 characters that wardlink key pub prints at the peer";
    let key = PublicKey::from_base64(text).ok_or_else(|| format!("is not a key of 32 bytes in base64; {instead}"))?;
    if key.is_low_order() {
        return Err(format!("is a key that anybody could pass for, such as all zeros; {instead}"));
    }
    Ok(key)
}

fn keepalive(text: &str) -> Judged<Option<Duration>> {
    if text == "off" {
        return Ok(None);
    }
    let interval = value::duration(text, Duration::from_secs(1)..=KEEPALIVE_MAX).map_err(|wrong| wrong + ", or off")?;
    if interval.subsec_nanos() != 0 {
        return Err(format!("{} is not whole seconds; write {}s", quote(text), interval.as_secs()));
    }
    Ok(Some(interval))
}

/// Finds the one host among the prefixes; of one IPv4 and one IPv6, the first whose family the tunnel has.
fn single_host(prefixes: &[At<IpNet>], tunnel: &tunnel::Draft) -> Option<IpAddr> {
    let hosts = || prefixes.iter().map(|at| at.value).filter(|net| net.prefix_len() == net.max_prefix_len());
    let first = hosts().map(|net| net.addr()).find(|address| tunnel.has_family_of(*address))?;
    let same_family = hosts().filter(|net| net.addr().is_ipv4() == first.is_ipv4()).count();
    (same_family == 1).then_some(first)
}

/// Notes prefixes that two peers claim.
fn prefixes(peers: &[Draft], findings: &mut Findings) {
    let mut seen: HashMap<IpNet, (usize, &At<IpNet>)> = HashMap::new();
    for (index, peer) in peers.iter().enumerate() {
        for prefix in &peer.prefixes {
            let net = prefix.value;
            match seen.get(&net) {
                Some((first_index, first)) if *first_index == index => {
                    findings.value(prefix.at, format!("{net} is written twice{}; keep one", first.line()));
                }
                Some((first_index, first)) => {
                    let label = peers.get(*first_index).map(Draft::label).unwrap_or_default();
                    let line = first.line();
                    let message = format!("{net} is also a prefix of peer {label}{line}; give each prefix to one peer");
                    findings.value(prefix.at, message);
                }
                None => {
                    seen.insert(net, (index, prefix));
                }
            }
        }
    }
}

/// Notes what a peer claims that is this site's own.
fn own(peer: &Draft, tunnel: &tunnel::Draft, findings: &mut Findings) {
    if let Some(key) = &peer.public_key
        && Some(key.value) == tunnel.public_key
    {
        findings.value(key.at, "is this site's own public key; write the peer's");
    }
    let hosts = peer.prefixes.iter().filter(|prefix| prefix.value.prefix_len() == prefix.value.max_prefix_len());
    let claimed = hosts.map(|host| At { value: host.value.addr(), at: host.at }).chain(peer.written_address);
    for address in claimed {
        if let Some(own) = tunnel.own(address.value) {
            let line = own.line();
            findings.value(address.at, format!("{} is this site's own address{line}; write the peer's", address.value));
        }
    }
}

/// Notes a peer that no packet of this site's address family can reach.
fn families(peer: &Draft, tunnel: &tunnel::Draft, findings: &mut Findings) {
    let reachable = |address: IpAddr| tunnel.has_family_of(address);
    let instead = "write an address of that family in tunnel.address too";
    if !peer.prefixes.is_empty() && !peer.prefixes.iter().any(|prefix| reachable(prefix.value.addr())) {
        let message = format!("has no address family in common with tunnel.address; {instead}");
        findings.value(peer.allowed_ips_at, message);
    } else if let Some(address) = peer.written_address.filter(|address| !reachable(address.value)) {
        let message = format!("{} is of a family that tunnel.address lacks; {instead}", address.value);
        findings.value(address.at, message);
    }
}

/// Notes a written address that packets to this peer do not have.
fn written_address(index: usize, peers: &[Draft], tunnel: &tunnel::Draft, findings: &mut Findings) {
    let written = peers.get(index).filter(|peer| !peer.prefixes.is_empty()).and_then(|peer| peer.written_address);
    // This site's own address is noted already.
    if let Some(address) = written.filter(|address| tunnel.own(address.value).is_none()) {
        inside(address, index, peers, findings);
    }
}

/// Notes an address that is not routed to the peer that it is said to be at.
pub(super) fn inside(address: At<IpAddr>, index: usize, peers: &[Draft], findings: &mut Findings) {
    let label = |index: usize| peers.get(index).map(Draft::label).unwrap_or_default();
    let message = match owner(peers, address.value) {
        Some(owner) if owner == index => return,
        Some(other) => format!(
            "{} goes to peer {}, whose prefix is longer; write an address of peer {}",
            address.value,
            label(other),
            label(index)
        ),
        None => {
            let label = label(index);
            format!("{} is not inside allowed_ips of peer {label}; write one that is, or add it there", address.value)
        }
    };
    findings.value(address.at, message);
}
