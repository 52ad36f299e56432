//! The rules of the verdict, one judge for each kind of thing. Pure.
//!
//! Of several faults the first on a message's way is named: this site, tunnel, link, receiver. Never looks at a clock.
//! The rules are those of the product's HTTP contract; that an idle session expires is WireGuard's (whitepaper section 6).

mod queue;

pub(super) use queue::{judge_orphan, ledger_fault, spool_fault};

use std::time::{Duration, SystemTime};

use super::super::certificate;
use super::super::facts::{
    ForwardFacts, Left, Link, Part, PeerFacts, Receiver, ServiceFacts, Session, SiteFacts, rfc3339_text,
};
use super::{Status, Verdict};

/// Is how long an answer may take before its forward counts as degraded: senders commonly give up after 30 to 60 s.
pub(super) const ANSWER_OVERDUE: Duration = Duration::from_secs(60);

/// Is how long a negative answer keeps its forward degraded: some scrapes long, so that no monitoring misses it.
pub(super) const NEGATIVE_ACK_RECENT: Duration = Duration::from_secs(300);

/// Is how long an answer counts as evidence that the receiver is there.
pub(super) const EVIDENCE_FRESH: Duration = Duration::from_secs(300);

/// Is how long a site that has just started may take for its first handshake and link: no alarm at each restart.
pub(super) const SETTLE: Duration = Duration::from_secs(3);

/// Is how long a spool may take to be opened: senders wait as long.
pub(super) const OPENS_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn judge_peer(facts: &SiteFacts, peer: &PeerFacts, now: SystemTime) -> Verdict {
    if let Some(fault) = interface_fault(facts) {
        return fault;
    }
    let since = match peer.session {
        Session::Up { since } => return Verdict::ok(since),
        Session::Down { since } => since,
    };
    if peer.latest_handshake_age.is_none() && is_settling(facts, now) {
        return Verdict::new(Status::Unknown, since, &format!("the first handshake with {} is under way", peer.name));
    }
    if session_wanted(facts, peer) {
        Verdict::new(
            Status::Down,
            since,
            &format!("no session with {}: {}", peer_text(peer), no_session_cause(facts, peer, now)),
        )
    } else if let Some(cause) = not_told(facts, peer, now) {
        Verdict::new(Status::Degraded, since, &format!("no session with {}: {cause}", peer.name))
    } else {
        let last = match peer.latest_handshake_age {
            Some(age) => format!("the last handshake was {} ago", age_text(age)),
            None => "no handshake completed yet".to_owned(),
        };
        Verdict::new(Status::Unknown, since, &format!("no session with {}, and none is needed now: {last}", peer.name))
    }
}

fn is_settling(facts: &SiteFacts, now: SystemTime) -> bool {
    now.duration_since(facts.started).is_ok_and(|age| age < SETTLE)
}

/// Says whether the lack of a session is a fault: an idle one without keepalive expires rightfully, but a link pings.
fn session_wanted(facts: &SiteFacts, peer: &PeerFacts) -> bool {
    let wants = |forward: &ForwardFacts| {
        let pending = forward.held > 0 || forward.unanswered > 0;
        forward.peer == peer.name && (forward.link != Link::NotUsed || pending)
    };
    peer.session_wanted || facts.forwards.iter().any(wants)
}

fn peer_text(peer: &PeerFacts) -> String {
    let endpoint = peer.endpoint_configured.clone().or_else(|| peer.endpoint.clone());
    match endpoint {
        Some(endpoint) => format!("{} (endpoint {endpoint})", peer.name),
        None => peer.name.clone(),
    }
}

/// Says that a peer knows only the key that this site has dropped.
fn not_told(facts: &SiteFacts, peer: &PeerFacts, now: SystemTime) -> Option<String> {
    let at = facts.key_replaced.filter(|_| peer.is_configured)?;
    let age = now.duration_since(at).unwrap_or_default();
    peer.latest_handshake_age.is_none_or(|latest| latest > age).then(|| {
        let (at, name) = (rfc3339_text(at), &peer.name);
        format!(
            "this site's key was replaced at {at}, and {name} has not taken the new one: send the new card \
             (`wardlink card`), for `wardlink pair CARD --new-key` there"
        )
    })
}

fn no_session_cause(facts: &SiteFacts, peer: &PeerFacts, now: SystemTime) -> String {
    if let Some(cause) = not_told(facts, peer, now) {
        return cause;
    }
    if let Some(error) = &peer.endpoint_error {
        return format!("the endpoint's name does not resolve: {error}");
    }
    if let Some(behind) = facts.clock_behind {
        let behind = age_text(behind);
        return format!(
            "this site's clock is {behind} behind what it was before its start, and the peer takes its handshakes for \
             replays: set the clock, or wait until the peer begins"
        );
    }
    match peer.latest_handshake_age {
        Some(age) => format!("handshakes go unanswered, the last completed {} ago", age_text(age)),
        None if peer.endpoint_configured.is_none() && peer.endpoint.is_none() => {
            "no endpoint is configured, and the peer has not come yet".to_owned()
        }
        None => "no handshake completed yet".to_owned(),
    }
}

pub(super) fn judge_forward(facts: &SiteFacts, forward: &ForwardFacts, now: SystemTime) -> Verdict {
    let peer = facts.peers.iter().find(|peer| peer.name == forward.peer);
    let onward = || {
        interface_fault(facts)
            .or_else(|| peer.map(|peer| judge_peer(facts, peer, now)).filter(|verdict| verdict.status == Status::Down))
            .or_else(|| link_fault(facts, forward))
            .or_else(|| queue::divergence(forward))
            .or_else(|| queue::hold(forward))
            .or_else(|| receiver_fault(&forward.receiver, &format!(" at {}", forward.peer)))
            .or_else(|| queue::trouble(forward))
    };
    listener_fault(forward)
        .or_else(|| spool_fault(facts, forward, now))
        .or_else(|| queue::fullness(facts, forward, onward))
        .or_else(onward)
        .or_else(|| queue::pause(facts, forward))
        .or_else(|| queue::shortage(facts, forward))
        .or_else(|| queue::set_aside(facts, forward))
        .or_else(|| mixed_releases(forward))
        .or_else(|| overdue_answer(forward, now))
        .or_else(|| silence(forward.left_unanswered, &receiver_of(forward), now))
        .or_else(|| negative_answer(forward, now))
        .or_else(|| refusal(forward, now))
        .or_else(|| certificate::expired(&forward.certificates))
        .or_else(|| missing_evidence(facts, forward, peer, now))
        .unwrap_or_else(|| Verdict::ok(ok_since(facts, forward, peer)))
}

fn link_fault(facts: &SiteFacts, forward: &ForwardFacts) -> Option<Verdict> {
    match &forward.link {
        Link::NotUsed | Link::Up { .. } => None,
        Link::New => {
            let text = format!("the link to {} is being set up", forward.peer);
            Some(Verdict::new(Status::Unknown, facts.started, &text))
        }
        Link::Down { since, cause } => {
            Some(Verdict::new(Status::Down, *since, &format!("link to {}: {cause}", forward.peer)))
        }
    }
}

fn receiver_fault(receiver: &Receiver, place: &str) -> Option<Verdict> {
    match receiver {
        Receiver::Unknown | Receiver::Ok { .. } => None,
        Receiver::Down { since, cause } => {
            let text = format!("receiver {cause}{place} since {}", rfc3339_text(*since));
            Some(Verdict::new(Status::Down, *since, &text))
        }
    }
}

/// Notes two ends that do not understand each other's commits: messages pass, and are sent again and again, or closed.
fn mixed_releases(forward: &ForwardFacts) -> Option<Verdict> {
    let (since, text) = forward.mixed_releases.as_ref()?;
    Some(Verdict::new(Status::Degraded, *since, text))
}

fn overdue_answer(forward: &ForwardFacts, now: SystemTime) -> Option<Verdict> {
    let age = forward.oldest_unanswered_age.filter(|age| *age > ANSWER_OVERDUE)?;
    let text = format!(
        "{} is slow: {} unanswered, the oldest for {}",
        receiver_of(forward),
        forward.unanswered,
        age_text(age)
    );
    Some(Verdict::new(Status::Degraded, before(now, age.saturating_sub(ANSWER_OVERDUE)), &text))
}

/// Names who answers a forward's senders.
fn receiver_of(forward: &ForwardFacts) -> String {
    match &forward.queue {
        None => format!("receiver at {}", forward.peer),
        Some(_) => "the spool".to_owned(),
    }
}

/// Notes what a receiver leaves without an answer: its senders gave up, or `ack_timeout` did, before an answer was overdue.
fn silence(left: Option<Left>, who: &str, now: SystemTime) -> Option<Verdict> {
    let left = left.filter(|left| left.age <= NEGATIVE_ACK_RECENT)?;
    let messages = if left.messages == 1 { "a message".to_owned() } else { format!("{} messages", left.messages) };
    let text = format!("{messages} waited in vain for an answer of {who}, the last until {} ago", age_text(left.age));
    Some(Verdict::new(Status::Degraded, before(now, left.first_age), &text))
}

fn negative_answer(forward: &ForwardFacts, now: SystemTime) -> Option<Verdict> {
    let is_last = |age: &Duration| forward.last_ack_age.is_none_or(|last_ack| *age <= last_ack);
    let last = forward.last_negative_ack.filter(|last| last.age <= NEGATIVE_ACK_RECENT && is_last(&last.age))?;
    let who = match &forward.queue {
        None => format!("receiver at {}", forward.peer),
        Some(_) => "this site".to_owned(),
    };
    let text = format!("{who} answered {} {} ago", last.code, age_text(last.age));
    Some(Verdict::new(Status::Degraded, before(now, last.age), &text))
}

/// Notes a message that was refused for what it is: its sender hears of it by the end of its connection alone, and may send
/// it for ever.
fn refusal(forward: &ForwardFacts, now: SystemTime) -> Option<Verdict> {
    let last = forward.last_refusal.filter(|last| last.age <= NEGATIVE_ACK_RECENT)?;
    let text = format!("a message was refused {} ago: {}", age_text(last.age), last.told);
    Some(Verdict::new(Status::Degraded, before(now, last.age), &text))
}

/// Answers where nothing tells that the receiver is there: it is unknown, or the idle session that showed it is gone.
fn missing_evidence(
    facts: &SiteFacts,
    forward: &ForwardFacts,
    peer: Option<&PeerFacts>,
    now: SystemTime,
) -> Option<Verdict> {
    let session_up = peer.is_none_or(|peer| matches!(peer.session, Session::Up { .. }));
    let known = matches!(forward.receiver, Receiver::Ok { .. });
    // What this site answers itself says nothing of the receiver.
    let answered = match &forward.queue {
        None => forward.last_ack_age,
        Some(queue) => queue.last_settled_age,
    };
    let fresh = answered.is_some_and(|age| age <= EVIDENCE_FRESH);
    if session_up && (known || fresh) {
        return None;
    }
    let (since, evidence) = match answered {
        Some(age) => {
            let since = before(now, age.saturating_sub(EVIDENCE_FRESH));
            (since, format!("its last answer came {} ago", age_text(age)))
        }
        None if forward.messages_total == 0 => (facts.started, "nothing was sent yet".to_owned()),
        None => (facts.started, "it has not answered yet".to_owned()),
    };
    let text = format!("whether the receiver at {} answers is not known: {evidence}, and no probe tells", forward.peer);
    Some(Verdict::new(Status::Unknown, since, &text))
}

/// Returns when the last of what a forward needs came up.
fn ok_since(facts: &SiteFacts, forward: &ForwardFacts, peer: Option<&PeerFacts>) -> SystemTime {
    let session = peer.and_then(|peer| match peer.session {
        Session::Up { since } => Some(since),
        Session::Down { .. } => None,
    });
    let link = match forward.link {
        Link::Up { since, .. } => Some(since),
        Link::NotUsed | Link::New | Link::Down { .. } => None,
    };
    let receiver = match forward.receiver {
        Receiver::Ok { since } => Some(since),
        Receiver::Unknown | Receiver::Down { .. } => None,
    };
    [session, link, receiver].into_iter().flatten().fold(facts.started, SystemTime::max)
}

pub(super) fn judge_service(facts: &SiteFacts, service: &ServiceFacts, now: SystemTime) -> Verdict {
    let unknown = || {
        let text = format!(
            "whether receiver {} answers is not known: nobody connected lately, and no probe tells",
            service.target
        );
        Verdict::new(Status::Unknown, facts.started, &text)
    };
    interface_fault(facts)
        .or_else(|| link_listener_fault(facts))
        .or_else(|| service_listener_fault(service))
        .or_else(|| ledger_fault(facts, service).filter(|fault| fault.status == Status::Down))
        .or_else(|| queue::held_at(service))
        .or_else(|| receiver_fault(&service.receiver, ""))
        .or_else(|| all_taken(service))
        .or_else(|| queue::trying_at(facts, service))
        .or_else(|| silence(service.left_unanswered, &format!("receiver {}", service.target), now))
        .or_else(|| ledger_fault(facts, service))
        .or_else(|| certificate::expired(&service.certificates))
        .unwrap_or_else(|| match service.receiver {
            Receiver::Ok { since } => Verdict::ok(since),
            Receiver::Unknown | Receiver::Down { .. } => unknown(),
        })
}

/// Says that the receiver may have no more connections, and that somebody needs one.
fn all_taken(service: &ServiceFacts) -> Option<Verdict> {
    let text = format!(
        "receiver {} has all {} connections that connections: allows, and senders wait for one in vain: raise it if the \
         receiver takes more, or find who keeps them open",
        service.target, service.connections_max
    );
    Some(Verdict::new(Status::Degraded, service.full_since?, &text))
}

pub(super) fn interface_fault(facts: &SiteFacts) -> Option<Verdict> {
    part_fault(&facts.interface, "tunnel interface")
}

pub(super) fn link_listener_fault(facts: &SiteFacts) -> Option<Verdict> {
    part_fault(&facts.link_listener, "links of peers cannot arrive")
}

pub(super) fn listener_fault(forward: &ForwardFacts) -> Option<Verdict> {
    part_fault(&forward.listener, &format!("cannot listen on {}", forward.listen))
}

pub(super) fn service_listener_fault(service: &ServiceFacts) -> Option<Verdict> {
    part_fault(&service.listener, "cannot open its port on the tunnel address")
}

fn part_fault(part: &Part, what: &str) -> Option<Verdict> {
    match part {
        Part::Up => None,
        Part::Down { since, cause } => Some(Verdict::new(Status::Down, *since, &format!("{what}: {cause}"))),
    }
}

/// Writes an age by its two largest units, such as `3h 2m`.
pub(in super::super) fn age_text(age: Duration) -> String {
    let exact = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    exact.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn before(now: SystemTime, age: Duration) -> SystemTime {
    now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}
