//! The services: each by itself, and whether the peers that it allows are there.

use std::num::NonZeroUsize;

use serde_saphyr::Spanned;

use super::forwards::{connections, find};
use super::mllp::{self, Who};
use super::policy::Keys;
use super::{At, Findings, ReadKey, peers, tls};
use crate::config::raw;
use crate::config::value;
use crate::config::{Name, Probe, ReceiverPolicy, Service};

/// Limits the connections to a receiver at once unless the file says otherwise.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
/// Is a service, as far as it is right.
pub(super) struct Draft {
    pub(super) service: Option<Service>,
    pub(super) name: Option<At<Name>>,
    pub(super) port: Option<At<u16>>,
}

/// Checks the services.
pub(super) fn check(
    raw: &[Spanned<raw::Service>],
    peers: &[peers::Draft],
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Vec<Draft> {
    let services: Vec<Draft> = raw.iter().map(|raw| service(raw, peers, read_key, findings)).collect();
    findings.duplicate_names("service", services.iter().filter_map(|service| service.name.as_ref()));
    services
}

fn service(
    raw: &Spanned<raw::Service>,
    peers: &[peers::Draft],
    read_key: ReadKey<'_>,
    findings: &mut Findings,
) -> Draft {
    let (at, raw) = (raw.referenced, &raw.value);
    let name = findings.required(at, "name", "a name for the service", raw.name.as_ref(), value::name);
    let instead = "HOST:PORT where the receiver listens, such as 192.168.10.40:6661";
    let target = findings.required(at, "target", instead, raw.target.as_ref(), value::endpoint);
    let tls = tls::receiver(raw.tls.as_ref(), target.as_ref().map(|target| &target.value), read_key, findings);
    let allow_peers = findings.list(raw.allow_peers.as_deref().unwrap_or_default(), value::name);
    for peer in &allow_peers {
        find(peer, peers, findings);
    }
    let port = raw.port.as_ref().map(|text| findings.read(text, value::port));
    let dialect = mllp::Keys::of_service(raw).read(Who::Receiver, findings);
    let stored = Keys::of_service(raw).read(findings);
    let stored = stored.zip(dialect).map(|(policy, dialect)| ReceiverPolicy { dialect, ..policy });
    let ack_timeout = raw.ack_timeout.as_ref().and(stored).map(|stored| stored.ack_timeout);
    let connections_max = findings.optional(raw.connections.as_ref(), CONNECTIONS, connections);
    let words = [("none", Probe::None), ("tcp", Probe::Tcp)];
    let probe = findings.optional(raw.probe.as_ref(), Probe::None, |text| value::choice(text, &words));
    let complete = || {
        Some(Service {
            name: name.clone()?.value,
            target: target?.value,
            tls: tls?,
            allow_peers: allow_peers.into_iter().map(|peer| peer.value).collect(),
            port: match port {
                Some(port) => Some(port?.value),
                None => None,
            },
            ack_timeout,
            connections_max: connections_max?,
            probe: probe?,
            stored: stored?,
        })
    };
    Draft { service: complete(), name, port: port.flatten() }
}
