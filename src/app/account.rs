//! What of the site goes into the account of who did what, when: who records it, and what is read from the spools.
//!
//! It decides nothing, and nothing waits for it. What happened to stored messages is in the outbox of their spool, from
//! the transaction in which it happened; it is read from there at this room's own pace, and after a restart from where the
//! log ends: so that a kill loses nothing of it, and a busy spool is not made busier.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::audit::{Account, Clerk, Event, Limits, Position, Record, Subject};
use crate::config::{self, Config};
use crate::control::queue::{QueueAction, QueueAnswer, QueueRequest};
use crate::forward::stored::store::{Opened, Store};
use crate::health::facts::{AtnaFacts, AuditFacts, FailedAudit, PeerLog};
use crate::mllp::ack::AckCode;
use crate::mllp::trace::Trace;
use crate::service::accounted::{settled, source_of};
use crate::spool::store::{Happening, OutboxEvent, Spool, Tail};
use crate::spool::{SpoolId, Verdict};

/// Is where, in `state_dir`, the log is.
pub(crate) const AUDIT_DIR: &str = "audit";
/// Is how many events of a spool are read at once: half a millisecond of its thread's time.
const EVENTS_MAX: usize = 256;
/// Is the pause between two reads while there is more: a tenth of the spool's time at the most.
const BEHIND_PAUSE: Duration = Duration::from_millis(5);
/// Is the pause before what has just happened is read: many messages then are one read.
const PAUSE: Duration = Duration::from_millis(100);
/// Is the time between two looks at a spool of which no message tells: somebody may have looked into it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Is the pause where the log cannot take more, or is not open yet.
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// Starts the account of a site.
pub(super) fn start(config: &Config) -> Account {
    let config::Audit { keep, bytes_max } = config.audit;
    let limits = Limits { keep, bytes_max, segment_bytes: None };
    Account::start(&config.state_dir.join(AUDIT_DIR), config.site.as_str(), limits)
}

/// Returns who records for a forward.
pub(super) fn of_forward(account: &Account, config: &config::Forward) -> Clerk {
    let (forward, peer) = (Some(config.name.as_str().into()), Some(config.peer.as_str().into()));
    account.clerk(Subject { forward, peer, service: None })
}

/// Returns who records for a queue without a forward.
pub(super) fn of_queue(account: &Account, name: &config::Name) -> Clerk {
    account.clerk(Subject { forward: Some(name.as_str().into()), ..Subject::default() })
}

/// Returns who records for a service.
pub(super) fn of_service(account: &Account, config: &config::Service) -> Clerk {
    account.clerk(Subject { service: Some(config.name.as_str().into()), ..Subject::default() })
}

/// Records that a configuration is taken up, and the public keys in it; tells which entry is the last before that.
pub(super) fn configured(account: &Account, config: &Config, detail: String, by: String) -> oneshot::Receiver<u64> {
    let record = account.clerk(Subject::default()).now(Event::Configured);
    let behind = account.record_behind(Record { detail, by, ..record });
    let own = (String::new(), config.tunnel.private_key.public_key().to_string());
    let peers = config.peers.iter().map(|peer| (peer.name.to_string(), peer.public_key.to_string()));
    account.keys(peers.chain([own]).collect::<BTreeMap<_, _>>());
    behind
}

/// Records that the site started, and with what.
pub(super) fn started(account: &Account, config: &Config) {
    let detail = format!("wardlink {}", env!("CARGO_PKG_VERSION"));
    account.record(Record { detail, ..account.clerk(Subject::default()).now(Event::Started) });
    // A repository that the start names begins before this one.
    drop(configured(account, config, outline(config), String::new()));
}

/// Tells how the log is.
pub(super) fn facts(account: &Account, config: &Config, atna: Option<AtnaFacts>) -> AuditFacts {
    let facts = account.facts();
    let said = |(since, cause)| FailedAudit { since, cause };
    let (failed, contradicted) = (facts.failed.map(said), facts.contradicted.map(said));
    let is_configured = |name: &String| config.peers.iter().any(|peer| peer.name.as_str() == name);
    let peers = facts.peers.into_iter().filter(|(name, _)| is_configured(name));
    let peers = peers.map(|(peer, fault)| PeerLog { peer, fault: fault.map(said) }).collect();
    AuditFacts { last_entry: facts.head.map_or(0, |(n, _)| n), lost: facts.lost, failed, contradicted, peers, atna }
}

/// Says what a configuration has, by name.
fn outline(config: &Config) -> String {
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let peers = list(config.peers.iter().map(|peer| peer.name.as_str()).collect());
    let forwards = list(config.forwards.iter().map(|forward| forward.name.as_str()).collect());
    let services = list(config.services.iter().map(|service| service.name.as_str()).collect());
    format!("at the start: peers: {peers}; forwards: {forwards}; services: {services}")
}

/// Records what an operator asked of a queue, where its outbox does not.
pub(super) fn asked(account: &Account, request: &QueueRequest, by: &str, answer: &QueueAnswer) {
    let event = match (&request.action, answer) {
        (action, QueueAnswer::Failed { .. }) if action.is_for_root() => Event::NotDone,
        (QueueAction::Forget { .. }, _) => Event::Forgotten,
        _ => return,
    };
    let detail = match answer {
        QueueAnswer::Failed { cause } => format!("{}: {cause}", request.action.name()),
        _ => String::new(),
    };
    let subject = Subject { forward: Some(request.forward.as_str().into()), ..Subject::default() };
    let sequence = request.action.sequence().unwrap_or_default();
    let record = account.clerk(subject).now(event);
    account.record(Record { sequence, detail, by: by.to_owned(), ..record });
}

/// Has the account hear of what happens to the messages of a spool, until it is retired. Cancel-safe.
pub(super) async fn follow(store: Arc<Store>, clerk: Clerk) {
    let retired = store.over();
    tokio::select! {
        () = read_on(&store, &clerk) => {}
        () = retired => {}
    }
}

async fn read_on(store: &Store, clerk: &Clerk) {
    let mut opened = store.follow_opened();
    let mut before: Option<(SpoolId, u64)> = None;
    loop {
        let spool = match opened.wait_for(|opened| matches!(opened, Opened::Open(_))).await.map(|now| now.clone()) {
            Ok(Opened::Open(spool)) => spool,
            Ok(_) => continue,
            Err(_) => return,
        };
        let id = spool.id();
        let source: Arc<str> = Arc::from(source_of("spool", &id.0));
        let after = match before.filter(|(known, _)| *known == id) {
            Some((_, after)) => after,
            None => position(clerk.account(), &source).await,
        };
        let mut reading = Reading { clerk, source, after };
        reading.begin(&spool).await;
        let tail = spool.tail();
        // Who has it keeps it open.
        drop(spool);
        reading.run(store, tail).await;
        before = Some((id, reading.after));
    }
}

async fn position(account: &Account, source: &str) -> u64 {
    loop {
        if let Some(position) = account.position(source) {
            return position;
        }
        tokio::time::sleep(FULL_PAUSE).await;
    }
}

/// Is how far the events of a spool are read.
struct Reading<'a> {
    clerk: &'a Clerk,
    source: Arc<str>,
    after: u64,
}

impl Reading<'_> {
    /// A spool that ends before what was recorded of it was restored from a backup: what it has from now on counts.
    async fn begin(&mut self, spool: &Spool) {
        let Ok(last) = spool.outbox_last().await else { return };
        if last < self.after {
            let detail = "the queue is older than what was recorded of it: it was restored from a backup".to_owned();
            self.hand_over(vec![self.at(Record { detail, ..self.clerk.now(Event::Lost) }, last)]).await;
            self.after = last;
        }
    }

    async fn run(&mut self, store: &Store, mut tail: watch::Receiver<Tail>) {
        loop {
            let Ok(spool) = store.spool() else { return };
            let read = spool.read_outbox(self.after, EVENTS_MAX).await;
            drop(spool);
            let Ok(events) = read else { return tokio::time::sleep(LOOK_EVERY).await };
            let is_behind = events.len() == EVENTS_MAX;
            if let Some(last) = events.last().map(|event| event.id) {
                let records = self.records(events);
                self.hand_over(records).await;
                self.after = last;
            }
            if is_behind {
                tokio::time::sleep(BEHIND_PAUSE).await;
                continue;
            }
            tail.mark_unchanged();
            match tokio::time::timeout(LOOK_EVERY, tail.changed()).await {
                Ok(Err(_)) => return,
                Ok(Ok(())) => tokio::time::sleep(PAUSE).await,
                Err(_) => {}
            }
        }
    }

    fn at(&self, record: Record, through: u64) -> Record {
        Record { position: Some(Position { source: Arc::clone(&self.source), through }), ..record }
    }

    fn records(&self, events: Vec<OutboxEvent>) -> Vec<Record> {
        let mut records = Vec::with_capacity(events.len() + 1);
        let mut before = self.after;
        for event in events {
            let id = event.id;
            let missing = id.saturating_sub(before.saturating_add(1));
            if missing > 0 {
                records.push(self.at(lost(self.clerk, missing, "removed"), id - 1));
            }
            let record = match event.is_changed {
                true => lost(self.clerk, 1, "changed"),
                false => record(self.clerk, event),
            };
            records.push(self.at(record, id));
            before = id;
        }
        records
    }

    async fn hand_over(&self, mut records: Vec<Record>) {
        while let Err(back) = self.clerk.account().offer(records) {
            records = back;
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }
}

/// Says that events of an outbox are not there, or not as they were written.
fn lost(clerk: &Clerk, count: u64, how: &str) -> Record {
    let detail = format!("{how} in the queue before it was recorded");
    Record { count, detail, ..clerk.now(Event::Lost) }
}

/// Puts an event of an outbox into the words of the log. What an operator gave as reason stays with the message: it may
/// name a patient; what the site itself says of a move or a damage does not.
fn record(clerk: &Clerk, event: OutboxEvent) -> Record {
    let is_own = event.by.is_empty()
        || matches!(event.happening, Happening::Moved | Happening::Released | Happening::Reconciled);
    let what = match event.happening {
        Happening::Settled => event.verdict.map_or(Event::Delivered, settled),
        happening => happened(happening),
    };
    let detail = match (event.happening, event.verdict) {
        (Happening::Settled, Some(Verdict::DeliveredBefore)) => "the far site had it already".to_owned(),
        (Happening::Settled, Some(Verdict::Failed)) => "as often as it may be tried".to_owned(),
        _ if is_own => event.reason,
        _ => String::new(),
    };
    let named = Trace { bytes: event.bytes, message_type: None, control_id: None, payload: None };
    Record {
        at: event.at,
        message: Some(event.trace.unwrap_or(named)),
        sequence: event.sequence,
        code: event.code.filter(|code| *code != AckCode::Absent),
        attempts: event.attempts,
        in_doubt: event.in_doubt,
        by: event.by,
        detail,
        ..clerk.now(what)
    }
}

fn happened(happening: Happening) -> Event {
    match happening {
        Happening::Accepted => Event::Accepted,
        Happening::Settled => Event::Delivered,
        Happening::Parked => Event::Parked,
        Happening::Released => Event::Released,
        Happening::Discarded => Event::Discarded,
        Happening::Viewed => Event::Viewed,
        Happening::Retried => Event::Retried,
        Happening::Moved => Event::Moved,
        Happening::Paused => Event::Paused,
        Happening::Resumed => Event::Resumed,
        Happening::Reconciled => Event::Reconciled,
        Happening::Damaged => Event::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, is_changed: bool) -> OutboxEvent {
        OutboxEvent {
            id,
            sequence: id,
            happening: Happening::Accepted,
            at: std::time::SystemTime::UNIX_EPOCH,
            bytes: 1,
            verdict: None,
            code: None,
            attempts: 0,
            in_doubt: 0,
            trace: None,
            by: String::new(),
            reason: String::new(),
            is_changed,
        }
    }

    #[test]
    fn what_was_taken_out_of_the_queue_or_changed_there_is_recorded_as_lost() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { keep: Duration::from_secs(1), bytes_max: 1 << 20, segment_bytes: None };
        let account = Account::start(directory.path(), "hospital", limits);
        let clerk = account.clerk(Subject::default());
        let reading = Reading { clerk: &clerk, source: "spool:1".into(), after: 2 };
        let records = reading.records(vec![event(3, false), event(6, false), event(7, true), event(8, false)]);
        let told = |record: &Record| {
            let through = record.position.as_ref().map(|position| position.through);
            (record.event, record.count, record.sequence, record.detail.clone(), through)
        };
        let lost = |how: &str| format!("{how} in the queue before it was recorded");
        assert_eq!(
            records.iter().map(told).collect::<Vec<_>>(),
            [
                (Event::Accepted, 0, 3, String::new(), Some(3)),
                (Event::Lost, 2, 0, lost("removed"), Some(5)),
                (Event::Accepted, 0, 6, String::new(), Some(6)),
                (Event::Lost, 1, 0, lost("changed"), Some(7)),
                (Event::Accepted, 0, 8, String::new(), Some(8)),
            ]
        );
    }
}
