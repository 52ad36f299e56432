//! The forwards: each by itself, and whether its peer and its target are there.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use serde_saphyr::Spanned;

use super::mllp::{self, Who};
use super::{At, Findings, ReadKey, peers, stored, tls, tunnel};
use crate::config::raw;
use crate::config::value::{self, Judged, quote};
use crate::config::{Forward, Name, STORED_MESSAGE_BYTES_MAX, Target};

/// Limits a message unless the file says otherwise, in bytes: the largest embedded documents seen in HL7.
const MESSAGE_BYTES: u64 = STORED_MESSAGE_BYTES_MAX;
/// Is the least limit of a message, in bytes: below, ordinary messages would not pass.
const MESSAGE_BYTES_MIN: u64 = 1 << 10;
/// Is the greatest limit of a message, in bytes: beyond, the sender has lost its end.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// Limits the senders' connections at once unless the file says otherwise.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// Limits how many connections of one source begin in a second unless the file says otherwise: more than an interface
/// engine that connects for each message makes, a tenth of a core.
const SOURCE_RATE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(499);
/// Bounds the time for one frame unless the file says otherwise: a pause of a sender that is busy, no more.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Is the longest of these times.
const FRAME_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Is the longest idle timeout: a feed that is silent over a week end is alive.
const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Are the least and the longest silence that may be an alarm: of a busy feed, and of one that sends once a month.
const SILENT_AFTER: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 3600);

/// Is a forward, as far as it is right.
pub(super) struct Draft {
    pub(super) forward: Option<Forward>,
    pub(super) name: Option<At<Name>>,
    pub(super) listen: Option<At<SocketAddr>>,
}

/// Checks the forwards.
pub(super) fn check(
    raw: &[Spanned<raw::Forward>],
    tunnel: &tunnel::Draft,
    peers: &[peers::Draft],
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Vec<Draft> {
    let forwards: Vec<Draft> = raw.iter().map(|raw| forward(raw, tunnel, peers, read_key, findings)).collect();
    findings.duplicate_names("forward", forwards.iter().filter_map(|forward| forward.name.as_ref()));
    forwards
}

fn forward(
    raw: &Spanned<raw::Forward>,
    tunnel: &tunnel::Draft,
    peers: &[peers::Draft],
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Draft {
    let (at, raw_at, raw) = (raw.referenced, raw, &raw.value);
    let name = findings.required(at, "name", "a name for the forward", raw.name.as_ref(), value::name);
    let instead = "ADDRESS:PORT where senders connect, such as 0.0.0.0:2575";
    let listen = findings.required(at, "listen", instead, raw.listen.as_ref(), value::socket_address);
    let tls = tls::listener(raw.tls.as_ref(), read_key, findings);
    let allow_from = allow_from(raw, findings);
    let peer = findings.required(at, "peer", "the name of a peer", raw.peer.as_ref(), value::name);
    let peer_index = peer.as_ref().and_then(|peer| find(peer, peers, findings));
    let target = target(raw_at, peer_index, tunnel, peers, findings);
    let size = |text: &str| value::size_bytes(text, MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX);
    let message_bytes_max = findings.optional(raw.max_message_size.as_ref(), MESSAGE_BYTES, size);
    let dialect = mllp::Keys::of_forward(raw).read(Who::Senders, findings);
    let delivery = stored::delivery(raw_at, message_bytes_max, findings);
    let connections_max = findings.optional(raw.max_connections.as_ref(), CONNECTIONS, connections);
    // One source leaves places to the others.
    let some = connections_max.and_then(|max| NonZeroUsize::new(max.get() - max.get() / 4));
    let per_source = some.unwrap_or(CONNECTIONS);
    let source_connections_max = findings.optional(raw.max_connections_per_source.as_ref(), per_source, connections);
    let source_rate_max = findings.optional(raw.max_connection_rate.as_ref(), SOURCE_RATE, connections);
    let frame = |text: &str| value::duration(text, Duration::from_secs(1)..=FRAME_TIMEOUT_MAX);
    let frame_timeout = findings.optional(raw.frame_timeout.as_ref(), FRAME_TIMEOUT, frame);
    let idle = |text: &str| match text {
        "never" => Ok(None),
        _ => match value::duration(text, Duration::from_secs(1)..=IDLE_TIMEOUT_MAX) {
            Ok(timeout) => Ok(Some(timeout)),
            Err(wrong) => Err(format!("{wrong}, or never")),
        },
    };
    let idle_timeout = findings.optional(raw.idle_timeout.as_ref(), None, idle);
    let silent = |text: &str| value::duration(text, SILENT_AFTER).map(Some);
    let silent_after = findings.optional(raw.silent_after.as_ref(), None, silent);
    let complete = || {
        Some(Forward {
            name: name.clone()?.value,
            listen: listen?.value,
            tls: tls?,
            allow_from,
            peer: peer?.value,
            target: target?,
            message_bytes_max: message_bytes_max?,
            delivery: delivery?,
            connections_max: connections_max?,
            source_connections_max: source_connections_max?,
            source_rate_max: source_rate_max?,
            frame_timeout: frame_timeout?,
            idle_timeout: idle_timeout?,
            silent_after: silent_after?,
            dialect: dialect?,
        })
    };
    Draft { forward: complete(), name, listen }
}

fn allow_from(raw: &raw::Forward, findings: &mut Findings) -> Vec<ipnet::IpNet> {
    let Some(list) = &raw.allow_from else {
        return Vec::new();
    };
    // Nobody or anybody: the file must say which.
    if list.value.is_empty() {
        findings.value(list.referenced, "is empty; write the senders' prefixes, or leave the key out to allow any");
    }
    findings.list(&list.value, value::prefix).into_iter().map(|prefix| prefix.value).collect()
}

/// Reads a limit of connections at once.
pub(super) fn connections(text: &str) -> Judged<NonZeroUsize> {
    let count = value::port(text)?;
    Ok(NonZeroUsize::new(usize::from(count)).unwrap_or(NonZeroUsize::MIN))
}

/// Finds a peer by its name.
pub(super) fn find(name: &At<Name>, peers: &[peers::Draft], findings: &mut Findings) -> Option<usize> {
    let is_named = |peer: &peers::Draft| peer.name.as_ref().is_some_and(|other| other.value == name.value);
    let found = peers.iter().position(is_named);
    if found.is_none() {
        let wanted = quote(name.value.as_str());
        let known: Vec<String> = peers.iter().filter(|peer| peer.name.is_some()).map(peers::Draft::label).collect();
        let instead = match known.len() {
            0 => "add it to peers".to_owned(),
            1..=8 => format!("write {}", known.join(" or ")),
            _ => "write one of the names in peers".to_owned(),
        };
        findings.value(name.at, format!("no peer is named {wanted}; {instead}"));
    }
    found
}

fn target(
    raw: &Spanned<raw::Forward>,
    peer: Option<usize>,
    tunnel: &tunnel::Draft,
    peers: &[peers::Draft],
    findings: &mut Findings,
) -> Option<Target> {
    let named_peer = peer.and_then(|index| Some((index, peers.get(index)?)));
    match (&raw.value.service, &raw.value.to) {
        (None, None) => {
            findings.missing(raw.referenced, "service", "the peer's service by name, or to: ADDRESS:PORT");
            None
        }
        (Some(_), Some(to)) => {
            findings
                .value(to.referenced, "stands beside service; keep one: service where the peer runs wardlink, else to");
            None
        }
        (Some(service), None) => {
            let service = findings.read(service, value::name)?;
            if let Some((_, peer)) = named_peer
                && peer.address.is_none()
                && !peer.prefixes.is_empty()
            {
                let label = peer.label();
                let message = format!(
                    "a link needs the one address of peer {label}, and its allowed_ips have no single host; \
                     write address: at that peer"
                );
                findings.value(service.at, message);
            }
            Some(Target::Service(service.value))
        }
        (None, Some(to)) => {
            let to = findings.read(to, value::socket_address)?;
            inside(At { value: to.value.ip(), at: to.at }, named_peer, tunnel, peers, findings);
            Some(Target::Address(to.value))
        }
    }
}

/// Notes a target that is not reached through the tunnel at the forward's peer.
fn inside(
    to: At<IpAddr>,
    peer: Option<(usize, &peers::Draft)>,
    tunnel: &tunnel::Draft,
    peers: &[peers::Draft],
    findings: &mut Findings,
) {
    if let Some(own) = tunnel.own(to.value) {
        let line = own.line();
        findings.value(to.at, format!("{} is this site's own address{line}; write one at the peer", to.value));
    } else if !tunnel.has_family_of(to.value) {
        let instead = "write an address of that family in tunnel.address too";
        findings.value(to.at, format!("{} is of a family that tunnel.address lacks; {instead}", to.value));
    } else if let Some((index, _)) = peer.filter(|(_, peer)| !peer.prefixes.is_empty()) {
        peers::inside(to, index, peers, findings);
    }
}
