//! Whether a site may take another one's card, and as what.
//!
//! Pure. A card is a claim of somebody else: whatever it says, it gets one host address that nobody here has or is reached
//! at otherwise, a name that nobody here has, and nothing of another peer's.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Card, Route, address_of};
use crate::config::{Config, Endpoint, Host, Name, Peer, PublicKey, Target};

/// Is what a site is asked to do with a card.
#[derive(Debug, Clone, Copy)]
pub struct Admission<'a> {
    /// Is the card.
    pub card: &'a Card,
    /// Names the peer here; absent: as the card does.
    pub name: Option<&'a Name>,
    /// Says that a peer of this name has another key now.
    pub may_change_key: bool,
}

/// Is a card that may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// As a new peer of this name.
    New(Name),
    /// As the peer of this name that is there.
    Known(Name),
}

/// Says why a card is not taken, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// Judges a card at a site that reaches other networks by `routes`.
///
/// # Errors
/// The card claims what it may not: says what, and what to do.
pub fn admit(admission: Admission<'_>, config: &Config, routes: &[Route]) -> Result<Admitted, Refusal> {
    let card = admission.card;
    let name = admission.name.unwrap_or(&card.name);
    if card.key == config.tunnel.private_key.public_key() {
        return refuse("is this site's own card; give it to the other site, and take that one's here");
    }
    if *name == config.site {
        return refuse(format!("is of a site named {name}, as this one; name it otherwise here: --as NAME"));
    }
    let known = known(card.key, name, config, admission.may_change_key)?;
    if let Some(endpoint) = &card.endpoint {
        self::endpoint(endpoint, config, routes)?;
    }
    if let (None, true, Some(peer)) = (known, admission.may_change_key, holder(card.address, config)) {
        let peer = &peer.name;
        return refuse(format!(
            "has a new key and the address {} of peer {peer}; where it is that site's new card, take it as that one: --as \
             {peer}",
            card.address
        ));
    }
    address(card.address, known.map(|peer| &peer.name), config, routes)?;
    Ok(if known.is_some() { Admitted::Known(name.clone()) } else { Admitted::New(name.clone()) })
}

fn refuse<T>(why: impl Display) -> Result<T, Refusal> {
    Err(Refusal(why.to_string()))
}

/// Finds the peer that the card is of, if it is one of this site's.
fn known<'a>(
    key: PublicKey,
    name: &Name,
    config: &'a Config,
    may_change_key: bool,
) -> Result<Option<&'a Peer>, Refusal> {
    let by_key = config.peers.iter().find(|peer| peer.public_key == key);
    match (by_key, config.peer(name)) {
        (Some(peer), _) if peer.name != *name => {
            let known = &peer.name;
            refuse(format!("has the key of a peer that is named {known} here; take it as that one: --as {known}"))
        }
        (None, Some(peer)) if !may_change_key => refuse(format!(
            "has another key than peer {} here; if that site has a new key, and its admin says so, take it with --new-key; \
             if it is another site, name it otherwise: --as NAME",
            peer.name
        )),
        (_, peer) => Ok(peer),
    }
}

/// Finds the peer that has this one address.
fn holder(address: IpAddr, config: &Config) -> Option<&Peer> {
    config.peers.iter().find(|peer| peer.allowed_ips.contains(&IpNet::from(address)))
}

/// Refuses an endpoint at which no other host reaches its site.
fn endpoint(endpoint: &Endpoint, config: &Config, routes: &[Route]) -> Result<(), Refusal> {
    let at = |own: &&Route| matches!(endpoint.host, Host::Address(at) if own.net.addr() == at.to_canonical());
    let is_here = config.tunnel.endpoint.as_ref() == Some(endpoint)
        || routes.iter().filter(|route| route.is_own).any(|own| at(&own));
    let judged = is_elsewhere(endpoint).and(if is_here { Err("is this host") } else { Ok(()) });
    judged.map_err(|why| {
        Refusal(format!(
            "has the endpoint {endpoint}, which {why}; have the other site make its card with the endpoint by which it is \
             reached from here (tunnel.endpoint)"
        ))
    })
}

/// Tells whether an endpoint means the same host everywhere.
///
/// # Errors
/// Says what it means instead.
pub fn is_elsewhere(endpoint: &Endpoint) -> Result<(), &'static str> {
    let is_loopback = match &endpoint.host {
        Host::Address(address) => address.to_canonical().is_loopback(),
        Host::Name(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::OnLink { .. } => return Err("means something on its own host only"),
    };
    if is_loopback { Err("is at each host that host itself") } else { Ok(()) }
}

/// Refuses an address that is somebody else's, as far as this host can know.
fn address(address: IpAddr, known: Option<&Name>, config: &Config, routes: &[Route]) -> Result<(), Refusal> {
    let instead = "have the other site take another one (`wardlink init` makes one of the key; --address names one)";
    if !is_private(address) {
        return refuse(format!("claims the address {address}, which is not a private one; {instead}"));
    }
    let own = &config.tunnel.addresses;
    if !own.iter().any(|own| own.addr().is_ipv4() == address.is_ipv4()) {
        let (family, example) = match address {
            IpAddr::V4(_) => ("IPv4", "such as 10.98.0.9/32".to_owned()),
            IpAddr::V6(_) => ("IPv6", format!("such as {}/128", address_of(&config.tunnel.private_key.public_key()))),
        };
        return refuse(format!(
            "has the address {address}, and this site has none of {family}; add one to tunnel.address here ({example}) and \
             restart the site, or have the other site add one of the other family, and make its card with that: `wardlink \
             card --address`"
        ));
    }
    if let Some((what, whose)) = owner(address, known, config) {
        return refuse(format!("claims the address {address}, and that is {what}{whose}; {instead}"));
    }
    let by_another = |route: &&Route| route.net.contains(&address) && route.interface != config.tunnel.interface;
    if let Some(Route { net, interface, .. }) = routes.iter().find(by_another) {
        let interface = interface.escape_debug();
        return refuse(format!("claims the address {address}, and this host reaches {net} by {interface}; {instead}"));
    }
    Ok(())
}

/// Tells whether an address is from the ranges that are for private use (RFC 1918, RFC 6598, RFC 4193).
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            address.is_private() || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

/// Finds who has an address in the configuration.
fn owner(address: IpAddr, known: Option<&Name>, config: &Config) -> Option<(&'static str, String)> {
    let is_it = |other: IpAddr| other.to_canonical() == address;
    let at = |endpoint: &Endpoint| matches!(endpoint.host, Host::Address(found) if is_it(found));
    if config.tunnel.addresses.iter().any(|own| is_it(own.addr())) {
        return Some(("this site's own", String::new()));
    }
    let others = || config.peers.iter().filter(|peer| Some(&peer.name) != known);
    let has = |peer: &&Peer| peer.allowed_ips.iter().any(|net: &IpNet| net.contains(&address));
    if let Some(peer) = others().find(has) {
        return Some(("of peer ", peer.name.to_string()));
    }
    if let Some(peer) = config.peers.iter().find(|peer| peer.endpoint.as_ref().is_some_and(at)) {
        return Some(("the endpoint of peer ", peer.name.to_string()));
    }
    if let Some(service) = config.services.iter().find(|service| at(&service.target)) {
        return Some(("the receiver of service ", service.name.to_string()));
    }
    let mut listens = config.forwards.iter().filter(|forward| is_it(forward.listen.ip()));
    if let Some(forward) = listens.next() {
        return Some(("where this host listens for forward ", forward.name.to_string()));
    }
    let is_target = |target: &Target| matches!(target, Target::Address(socket) if is_it(socket.ip()));
    let mut targets =
        config.forwards.iter().filter(|forward| Some(&forward.peer) != known && is_target(&forward.target));
    if let Some(forward) = targets.next() {
        return Some(("the receiver of forward ", forward.name.to_string()));
    }
    let sends = |net: &IpNet| net.prefix_len() > 0 && net.contains(&address);
    let mut senders = config.forwards.iter().filter(|forward| forward.allow_from.iter().any(sends));
    senders.next().map(|forward| ("among the senders of forward ", forward.name.to_string()))
}
