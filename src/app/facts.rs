//! Gathers what every room knows of itself for health, as plain values.
//!
//! It judges nothing; `health` does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use super::queues::{Watch, destinations};
use super::{INBOX_DIR, Parts, Running, account, atna, certificates};
use crate::config::{Delivery, Forward as Config, Peer, Target};
use crate::control::destinations::Destinations;
use crate::forward::{Forward, not_to_be_taken};
use crate::health::facts::{
    ForwardFacts, HeldQueue, Histogram, LastRefusal, Left, Link, NegativeAck, Part, PeerFacts, Receiver, ServiceFacts,
    Session, SetBy, SetByWg, SiteFacts, SlowAnswers,
};
use crate::link::outbound::{LinkState, Outbound};
use crate::link::tally::{self, Counts, LATENCY_BOUNDS_SECONDS, Slow};
use crate::link::wire::{Cause, ReceiverNews, ReceiverState};
use crate::service::Service;
use crate::service::stored::Talk;
use crate::spool::delivery;
use crate::spool::reserve::is_disk_full;
use crate::tunnel::peers::PeerFacts as TunnelFacts;
use crate::tunnel::{Offloads, endpoints};

impl Parts {
    pub(super) fn facts(&self) -> SiteFacts {
        let peers = self.tunnel.peers();
        let running: &Running = &self.now.get();
        let configured = |name: &crate::config::Name| running.config.peer(name);
        let known = destinations(&running.config);
        let inbox = running.config.state_dir.join(INBOX_DIR);
        SiteFacts {
            site: running.config.site.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            started: self.started,
            config: self.reloader.facts(),
            audit: account::facts(&self.account, &running.config, atna::facts(&self.atna, &self.account)),
            public_key: self.tunnel.own_key().0.to_string(),
            key_replaced: *self.key_replaced.lock().unwrap_or_else(PoisonError::into_inner),
            files: self.files.facts(),
            certificates: certificates::of_site(&running.config),
            interface: self.interface_facts(),
            interface_restored: self.tunnel.restored(),
            offloads: self.offloads(),
            link_listener: Part::Up,
            clock_behind: self.tunnel.clock_behind(),
            dropped: self.tunnel.drops().into_iter().collect(),
            set_by_wg: self.set_by_wg(),
            rotation: self.rotation_facts(),
            peers: peers.iter().map(|peer| self.peer_facts(peer, configured(&peer.name))).collect(),
            forwards: running.forwards.iter().map(|forward| self.forward_facts(forward, &known)).collect(),
            services: running.services.iter().map(|service| service_facts(service, &inbox, &self.watch)).collect(),
            orphans: running.orphans.iter().filter_map(|one| one.facts(&running.config, &self.watch)).collect(),
            alarms: self.alarms.facts(),
        }
    }

    fn offloads(&self) -> BTreeMap<&'static str, bool> {
        let Offloads { tun_read, tun_write, udp_send, udp_receive } = self.tunnel.offloads();
        [("tun_read", tun_read), ("tun_write", tun_write), ("udp_send", udp_send), ("udp_receive", udp_receive)].into()
    }

    fn set_by_wg(&self) -> SetByWg {
        let set = self.tunnel.set_by_wg();
        let removed_peers = set.removed_peers.iter().map(ToString::to_string).collect();
        SetByWg { tunnel: set.tunnel, removed_peers }
    }

    /// Every other part takes the process down with it; the interface can be changed by anybody with the capability.
    fn interface_facts(&self) -> Part {
        let mut fault = self.interface_fault.lock().unwrap_or_else(PoisonError::into_inner);
        match self.tunnel.check_interface() {
            Ok(()) => {
                *fault = None;
                Part::Up
            }
            Err(cause) => Part::Down { since: *fault.get_or_insert_with(SystemTime::now), cause },
        }
    }

    fn peer_facts(&self, peer: &TunnelFacts, configured: Option<&Peer>) -> PeerFacts {
        let since = peer.latest_handshake.unwrap_or_else(|| peer.added.max(self.started));
        let unanswered = peer.unanswered_for.and_then(|silence| SystemTime::now().checked_sub(silence));
        let lost = unanswered.map_or(since, |at| at.max(since));
        PeerFacts {
            name: peer.name.to_string(),
            public_key: peer.key.to_string(),
            endpoint_configured: configured.and_then(|peer| peer.endpoint.as_ref()).map(ToString::to_string),
            endpoint: peer.endpoint.map(endpoints::shown),
            endpoint_error: peer.endpoint_error.clone(),
            is_configured: configured.is_some(),
            set_by: if peer.set_by_wg { SetBy::Wg } else { SetBy::Config },
            session: match peer.has_session {
                true => Session::Up { since: peer.session_since.unwrap_or(since) },
                false => Session::Down { since: lost },
            },
            session_wanted: configured.is_some_and(|peer| peer.persistent_keepalive.is_some()),
            latest_handshake_age: peer.latest_handshake_age,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            dropped_packets: peer.drops.iter().copied().collect(),
        }
    }

    fn forward_facts(&self, forward: &Forward, known: &Destinations) -> ForwardFacts {
        let config = forward.config();
        let counts = forward.tally().counts();
        let now = Instant::now();
        let (news, since) = forward.receiver();
        let target = match &config.target {
            Target::Service(name) => format!("service {name}"),
            Target::Address(address) => address.to_string(),
        };
        let (link, held) = match forward.way().link() {
            Some(link) => (link_facts(link), link.session().held()),
            None => (Link::NotUsed, 0),
        };
        ForwardFacts {
            name: config.name.to_string(),
            peer: config.peer.to_string(),
            listen: config.listen,
            listener: Part::Up,
            link,
            receiver: receiver_facts(news.state, since, &whose(&news.address, &target)),
            mixed_releases: mixed_releases(&config, &news, since),
            target,
            delivery: config.delivery.as_str(),
            connections: counts.connections,
            held: held as u64,
            messages_total: counts.messages,
            message_bytes_total: counts.message_bytes,
            unanswered: counts.unanswered(),
            oldest_unanswered_age: counts.oldest_unanswered().map(|since| now.saturating_duration_since(since)),
            last_ack_age: counts.last_ack.map(|at| now.saturating_duration_since(at)),
            last_negative_ack: counts
                .last_negative
                .map(|(code, at)| NegativeAck { code, age: now.saturating_duration_since(at) }),
            ack_latency: latency(&counts),
            slow: slow(&counts),
            acks: counts.acks,
            anomalies: counts.anomalies,
            last_refusal: counts.last_refusal.and_then(|(reason, at)| {
                let told = not_to_be_taken(reason)?;
                Some(LastRefusal { reason, told, age: now.saturating_duration_since(at) })
            }),
            left_unanswered: left(counts.left),
            unknown_outcomes_total: counts.unknown_outcomes,
            closed: counts.closed,
            certificates: certificates::facts(certificates::of_forward(&config)),
            silent_after: config.silent_after,
            queue: self.watch.facts(forward, known),
        }
    }
}

fn link_facts(link: &Outbound) -> Link {
    match link.state() {
        LinkState::New => Link::New,
        LinkState::Up { since } => Link::Up { since, round_trip: link.round_trip() },
        LinkState::Down { since, why, .. } => Link::Down { since, cause: why },
    }
}

/// Names a receiver by its address, as the far site tells it; by what this site's configuration says, where it does not.
fn whose(address: &str, target: &str) -> String {
    match address {
        "" => format!("of {target}"),
        address => address.to_owned(),
    }
}

/// Says where one end commits and the other does not, in words. Stored delivery translates.
fn mixed_releases(forward: &Config, news: &ReceiverNews, since: SystemTime) -> Option<(SystemTime, String)> {
    let (here, there) = (forward.dialect.release.number(), news.release?);
    let (Target::Service(service), Delivery::Transparent(_)) = (&forward.target, forward.delivery) else { return None };
    let service = format!("service {service} at {}", forward.peer);
    let differs = match (here, there) {
        (1, 2) => format!("{service} has mllp: release2, and this forward has not"),
        (2, 1) => format!("this forward has mllp: release2, and {service} has not"),
        _ => return None,
    };
    Some((since, format!("{differs}: write it at both or at neither, or delivery: stored here, which translates")))
}

fn receiver_facts(state: ReceiverState, since: SystemTime, whose: &str) -> Receiver {
    match state {
        ReceiverState::Unknown => Receiver::Unknown,
        ReceiverState::Up => Receiver::Ok { since },
        ReceiverState::Down(cause) => Receiver::Down { since, cause: format!("{whose} {}", what_it_does(cause)) },
    }
}

/// Says what a receiver that is down does, after its name.
fn what_it_does(cause: Cause) -> &'static str {
    match cause {
        Cause::ReceiverRefuses => "refuses connections",
        Cause::ReceiverSilent => "does not answer to connection attempts",
        Cause::ReceiverNameUnknown => "is not found: its name does not resolve",
        Cause::ReceiverUnreachable => "cannot be reached by any route",
        Cause::ReceiverBusy => "has as many connections as it may have",
        Cause::ReceiverReset => "ends its connections before it answers",
        Cause::AckTimeout => "does not acknowledge in time",
        Cause::TlsNotTrusted => "shows a certificate that none in ca_file issued",
        Cause::TlsWrongName => "shows a certificate for another name than server_name",
        Cause::TlsExpired => "shows a certificate that has expired or is not valid yet",
        Cause::TlsCertificateRequired => "requires a certificate: write tls.certificate_file",
        Cause::TlsCertificateRefused => "does not accept the certificate in tls.certificate_file",
        Cause::TlsTooOld => "speaks nothing newer than TLS 1.1",
        Cause::TlsNotSpoken => "does not speak TLS",
        Cause::TlsTimeout => "does not finish the TLS handshake, as where it speaks plain MLLP",
        Cause::TlsFailed => "fails the TLS handshake",
        Cause::AnswersCommits => {
            "goes on with frames that answer nothing: where it speaks MLLP Release 1 it answers commits, leave mllp: release2 \
             out; where it speaks Release 2 it repeats its own, look at the receiver"
        }
        _ => "cannot be reached",
    }
}

fn latency(counts: &Counts) -> Histogram {
    let sum: Duration = counts.latency_sum;
    Histogram { bounds_seconds: &LATENCY_BOUNDS_SECONDS, counts: counts.latency.to_vec(), sum }
}

fn slow(counts: &Counts) -> SlowAnswers {
    let Slow { answers, near, beyond, .. } = counts.slow;
    SlowAnswers { answers, near, beyond }
}

fn service_facts(service: &Service, inbox: &Path, watch: &Watch) -> ServiceFacts {
    let config = service.config();
    let counts = service.tally().counts();
    let left_unanswered = left(counts.left);
    let (receiver, since) = service.receiver();
    let target = config.target.to_string();
    let (talks, stored) = service.talks();
    let mut acks = counts.acks;
    for (code, count) in stored.answers().filter(|(_, count)| *count > 0) {
        *acks.entry(code.code()).or_default() += count;
    }
    let mut closed = counts.closed;
    if stored.commits_answered > 0 {
        *closed.entry(Cause::AnswersCommits.code()).or_default() += stored.commits_answered;
    }
    let trying = talks.iter().find_map(|talk| {
        let trying = talk.state.borrow().trying?;
        Some((talk.peer.to_string(), format!("message {}: {}", trying.sequence, trying.told())))
    });
    let ledger_failed = talks.iter().find_map(|talk| talk.state.borrow().ledger_failed.clone());
    let disk_full = !talks.is_empty() && is_disk_full(inbox);
    let trouble = match (&ledger_failed, disk_full, &trying) {
        (Some(_), ..) => Some("ledger"),
        (None, true, _) => Some("disk"),
        (None, false, Some(_)) => Some("trying"),
        (None, false, None) => None,
    };
    ServiceFacts {
        name: config.name.to_string(),
        trouble_since: watch.since_of_service(config.name.as_str(), trouble),
        receiver: receiver_facts(receiver, since, &target),
        target,
        listener: Part::Up,
        connections: counts.connections,
        waiting: service.waiting(),
        connections_max: config.connections_max.get() as u64,
        full_since: service.full_since(),
        closed,
        messages_total: counts.messages.saturating_add(stored.delivered),
        acks,
        left_unanswered,
        anomalies: counts.anomalies,
        dropped_answers: dropped_answers(&stored),
        in_doubt_total: stored.in_doubt_resends,
        trying,
        held: talks.iter().filter_map(held_queue).collect(),
        ledger_failed,
        disk_full,
        certificates: certificates::facts(certificates::of_service(&config)),
    }
}

fn left(left: Option<tally::Left>) -> Option<Left> {
    let age = |at: Instant| Instant::now().saturating_duration_since(at);
    left.map(|left| Left { messages: left.messages, first_age: age(left.first), age: age(left.last) })
}

/// Counts by kind what a receiver said to stored messages and is no answer to the one that was sent.
pub(super) fn dropped_answers(counts: &delivery::Counts) -> BTreeMap<&'static str, u64> {
    let dropped = counts.dropped;
    BTreeMap::from([("late", dropped.late), ("foreign", dropped.foreign), ("no_answer", dropped.no_answer)])
}

fn held_queue(talk: &Talk) -> Option<HeldQueue> {
    let held = talk.state.borrow().held?;
    Some(HeldQueue {
        peer: talk.peer.to_string(),
        since: talk.held_since(),
        sequence: held.sequence,
        cause: held.told(),
    })
}
