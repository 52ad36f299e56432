//! Tests of what operators do, with a real spool and a link that is down.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::config::{Name, PublicKey};
use crate::link::feed::{Queue, QueueState, StoreError};
use crate::link::inside::Inside;
use crate::link::outbound::{Outbound, Route};
use crate::link::owners::Owners;
use crate::link::wire::Instance;
use crate::mllp::ack::AckCode;
use crate::spool::delivery::course::{Held, Reply, Trying};
use crate::spool::delivery::{Command, DeliveryState, Reason};
use crate::spool::key::SpoolKey;
use crate::spool::store::{Limits, Wanted};
use crate::spool::{Judgement, Opening, Outcome, Queued, Verdict};

/// Is a queue that a link which never comes up asks nothing of.
struct Untouched;

impl Queue for Untouched {
    fn opening(&self) -> BoxFuture<'_, Result<Opening, StoreError>> {
        Box::pin(std::future::pending())
    }
    fn judge(&self, _: FarView) -> BoxFuture<'_, Result<Judgement, StoreError>> {
        Box::pin(std::future::pending())
    }
    fn read(&self, _: Sequence, _: usize, _: usize) -> BoxFuture<'_, Result<Vec<Queued>, StoreError>> {
        Box::pin(std::future::pending())
    }
    fn settle(&self, _: Vec<Outcome>) -> BoxFuture<'_, Result<Sequence, StoreError>> {
        Box::pin(std::future::pending())
    }
    fn tail(&self) -> watch::Receiver<QueueState> {
        watch::channel(QueueState::default()).1
    }
}

/// Is the size of a message that stands in a file of its own, in bytes.
const LARGE_BYTES: usize = (1 << 20) + 1;

struct Site {
    directory: tempfile::TempDir,
    spool: Arc<Spool>,
    link: Arc<Outbound>,
}

fn destination(target: &str) -> Destination {
    Destination { peer_key: [7; 32], target: target.into() }
}

/// Knows the peer as the laboratory, and where two forwards lead.
fn known() -> Destinations {
    let forwards = ["orders", "images"].map(|name| (name.to_owned(), destination(name))).to_vec();
    Destinations { peers: vec![([7; 32], "lab".to_owned())], forwards }
}

fn open(directory: &std::path::Path, target: &str) -> Arc<Spool> {
    let limits = Limits { messages_max: 100, bytes_max: 2 << 20, keep_delivered: Duration::from_secs(3600) };
    let wanted = Wanted { spool: None, destination: Some(destination(target)), limits, trace: None };
    Spool::open(directory, "orders", &SpoolKey::from_bytes([1; 32]), wanted).unwrap()
}

impl Site {
    /// Makes a site whose queue has so many messages, `MSH|1` and so on.
    async fn with(messages: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spool = open(directory.path(), "orders");
        for sequence in 1..=messages {
            assert_eq!(spool.keep(format!("MSH|{sequence}").into_bytes()).await.unwrap(), sequence);
        }
        let peer = Name::new("lab").unwrap();
        let route = Route {
            site: "north".into(),
            instance: Instance::new(1, 1),
            forward: "orders".into(),
            service: "orders".into(),
            peer: peer.clone(),
            address: (Ipv4Addr::LOCALHOST, 1).into(),
        };
        let lab = move |_| Some((PublicKey([7; 32]), peer.clone()));
        let owners = Owners::new(lab, watch::channel(0).1);
        let inside = Inside::new("lo", vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], owners);
        Self { directory, spool, link: Outbound::stored(route, inside, Arc::new(Untouched)) }
    }

    async fn ask(&self, action: QueueAction) -> QueueAnswer {
        let desk = Desk {
            forward: "orders",
            spool: &self.spool,
            courier: Courier::Far(&self.link),
            destination: Some(destination("orders")),
            way: Some(destination("orders")),
            known: &known(),
        };
        operate(&desk, action, "uid 0").await
    }

    /// Asks for what is to be done, and returns what is said.
    async fn done(&self, action: QueueAction) -> String {
        match self.ask(action).await {
            QueueAnswer::Done { said } => said,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for what cannot be done, and returns why.
    async fn failed(&self, action: QueueAction) -> String {
        match self.ask(action).await {
            QueueAnswer::Failed { cause } => cause,
            other => panic!("{other:?}"),
        }
    }

    async fn states(&self) -> Vec<(u64, String)> {
        match self.ask(QueueAction::List { from: 1, max: 100, state: None, all: true }).await {
            QueueAnswer::Entries { entries, next: None } => {
                entries.into_iter().map(|entry| (entry.sequence, entry.state)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn content(&self, sequence: u64, offset: u64) -> (u64, Vec<u8>) {
        match self.ask(QueueAction::Content { sequence, offset }).await {
            QueueAnswer::Content { total_bytes, part } => (total_bytes, STANDARD.decode(part).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn messages_are_listed_page_by_page_and_by_state() {
    let site = Site::with(5).await;
    site.done(QueueAction::Park { sequence: 2 }).await;
    let list =
        |from, max, state: Option<&str>| QueueAction::List { from, max, state: state.map(str::to_owned), all: true };
    let page = async |action| match site.ask(action).await {
        QueueAnswer::Entries { entries, next } => {
            (entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), next)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(page(list(1, 2, None)).await, (vec![1, 2], Some(3)));
    assert_eq!(page(list(3, 3, None)).await, (vec![3, 4, 5], None));
    assert_eq!(page(list(1, 3, Some("queued"))).await, (vec![1, 3, 4], Some(5)));
    assert_eq!(page(list(1, 9, Some("parked"))).await, (vec![2], None));
    assert_eq!(site.failed(list(1, 9, Some("lost"))).await, "no message is ever lost");
    match site.ask(QueueAction::Show { sequence: 2 }).await {
        QueueAnswer::Entry { entry } => {
            let shown = (entry.sequence, entry.state.as_str(), entry.bytes, entry.target.as_str(), entry.sent);
            assert_eq!(shown, (2, "parked", 5, "orders", false));
            assert!(entry.accepted.ends_with('Z') && entry.settled.is_some(), "{entry:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        site.failed(QueueAction::Show { sequence: 9 }).await,
        "there is no message 9, or not any more: wardlink queue list orders shows those there are"
    );
}

#[tokio::test]
async fn what_needs_somebody_is_listed_and_what_was_done_is_told_with_why() {
    let site = Site::with(4).await;
    site.done(QueueAction::Park { sequence: 2 }).await;
    site.done(QueueAction::Discard { sequence: 1, reason: "sent by fax".into() }).await;
    site.done(QueueAction::Park { sequence: 3 }).await;
    site.done(QueueAction::Release { sequence: 3 }).await;
    let listed = async |all| match site.ask(QueueAction::List { from: 1, max: 9, state: None, all }).await {
        QueueAnswer::Entries { entries, .. } => entries,
        other => panic!("{other:?}"),
    };
    let held: Vec<_> = listed(false).await.into_iter().map(|entry| (entry.sequence, entry.state)).collect();
    assert_eq!(held, [(2, "parked".to_owned()), (4, "queued".to_owned()), (5, "queued".to_owned())]);
    let all = listed(true).await;
    let told = |at: usize| {
        let told = all[at].decisions.iter().map(|one| format!("{} {}: {}", one.what, one.by, one.reason));
        told.collect::<Vec<_>>()
    };
    assert_eq!(told(0), ["discarded uid 0: sent by fax"]);
    assert_eq!(told(1), ["parked uid 0: "]);
    assert_eq!(told(2), ["parked uid 0: ", "released uid 0: queued again as 5"]);
    assert!(told(3).is_empty() && all[0].decisions[0].at.ends_with('Z'));
    let site = reopened(site, "images");
    site.ask_on("images", "images", moved(None)).await;
    let QueueAnswer::Entry { entry } = site.ask(QueueAction::Show { sequence: 4 }).await else { panic!() };
    let moved = entry.decisions.last().map(|one| (one.what.as_str(), one.reason.as_str()));
    assert_eq!(moved, Some(("moved", "2 messages for orders to images")));
    let QueueAnswer::Entry { entry } = site.ask(QueueAction::Show { sequence: 1 }).await else { panic!() };
    assert_eq!(entry.decisions.len(), 1, "it had ended by then");
}

#[tokio::test]
async fn a_content_comes_in_parts_and_who_looked_is_kept() {
    let site = Site::with(0).await;
    let content: Vec<u8> = (0..=250).cycle().take(CONTENT_BYTES_MAX / 2 * 3).collect();
    // Beyond the limit of this queue, it is not taken.
    assert!(site.spool.keep(content).await.is_err());
    let content: Vec<u8> = (0..=250).cycle().take(100_000).collect();
    site.spool.keep(content.clone()).await.unwrap();
    assert_eq!(site.content(1, 0).await, (100_000, content.clone()));
    assert_eq!(site.content(1, 99_990).await, (100_000, content[99_990..].to_vec()));
    assert_eq!(site.content(1, u64::MAX).await, (100_000, Vec::new()));
    let events = site.spool.read_outbox(0, 100).await.unwrap();
    let looked: Vec<_> = events.iter().filter(|event| event.by == "uid 0").map(|event| event.sequence).collect();
    assert_eq!(looked, [1, 1, 1]);
}

#[tokio::test]
async fn a_message_is_set_aside_queued_again_and_given_up() {
    let site = Site::with(3).await;
    let parked = "message 1 is set aside; wardlink queue release orders 1 sends it";
    assert_eq!(site.done(QueueAction::Park { sequence: 1 }).await, parked);
    let cause = "message 1 is parked: only one that is queued can be set aside";
    assert_eq!(site.failed(QueueAction::Park { sequence: 1 }).await, cause);
    let cause = "there is no message 9, or not any more: wardlink queue list orders shows those there are";
    for action in [QueueAction::Show { sequence: 9 }, QueueAction::Release { sequence: 9 }] {
        assert_eq!(site.failed(action).await, cause);
    }
    let cause = site.failed(QueueAction::Release { sequence: 2 }).await;
    assert!(cause.starts_with("message 2 is queued: only one that is parked"), "{cause}");
    assert_eq!(site.done(QueueAction::Release { sequence: 1 }).await, "message 1 is queued again as 4");
    assert_eq!(site.content(4, 0).await.1, b"MSH|1");
    let discard = QueueAction::Discard { sequence: 2, reason: "sent by fax".into() };
    assert_eq!(site.done(discard.clone()).await, "message 2 is given up");
    let states = site.states().await;
    let expected = [(1, "released"), (2, "discarded"), (3, "queued"), (4, "queued")];
    assert_eq!(states, expected.map(|(sequence, state)| (sequence, state.to_owned())));
    let events = site.spool.read_outbox(0, 100).await.unwrap();
    assert!(events.iter().any(|event| event.reason == "sent by fax" && event.sequence == 2));
    assert!(site.failed(discard).await.starts_with("message 2 is discarded: only one that is queued or parked"));
    let cause = site.failed(QueueAction::Content { sequence: 2, offset: 0 }).await;
    assert_eq!(cause, "message 2 is discarded: its content is destroyed");
}

#[tokio::test]
async fn what_may_be_at_the_far_site_waits_for_its_word() {
    let site = Site::with(2).await;
    site.spool.read(1, 1, 1 << 20).await.unwrap();
    for action in [QueueAction::Park { sequence: 1 }, QueueAction::Discard { sequence: 1, reason: "x".into() }] {
        let cause = site.failed(action).await;
        assert!(cause.starts_with("message 1 may be at the far site, and the link to it is down"), "{cause}");
    }
    assert_eq!(site.states().await[0], (1, "queued".to_owned()), "nothing was changed");
    let cause = site.failed(QueueAction::Retry { sequence: None }).await;
    assert_eq!(cause, "the link to the far site is down: message 1 goes on as soon as it is up");
    let cause = site.failed(QueueAction::Retry { sequence: Some(2) }).await;
    assert!(cause.ends_with("that is message 1: wardlink queue retry orders 1"), "{cause}");
    site.done(QueueAction::Pause).await;
    site.spool.tail().wait_for(|tail| tail.paused).await.unwrap();
    let cause = site.failed(QueueAction::Retry { sequence: None }).await;
    assert_eq!(cause, "orders is paused: wardlink forward resume orders lets it go on");
    assert!(Site::with(0).await.failed(QueueAction::Retry { sequence: None }).await.starts_with("nothing waits"));
    let cause = site.failed(QueueAction::Reconcile { choice: None }).await;
    assert!(cause.starts_with("the two sites agree"), "{cause}");
}

fn held_at_1() -> Held {
    let (reason, code) = (Reason::Failed, AckCode::ApplicationError);
    Held { sequence: 1, reason, code, unknown: None, attempts: 3, in_doubt: 2 }
}

#[tokio::test]
async fn how_often_the_receiver_had_what_is_held_or_tried_again_is_shown() {
    let site = Site::with(2).await;
    let show = async |state: DeliveryState| {
        let (commands, (_state, state)) = (mpsc::channel::<Command>(1).0, watch::channel(state));
        let courier = Courier::Here { commands: &commands, state: &state };
        let (way, known) = (Some(destination("orders")), &known());
        let desk = Desk { forward: "orders", spool: &site.spool, courier, destination: way.clone(), way, known };
        let all = QueueAction::List { from: 1, max: 9, state: None, all: false };
        let QueueAnswer::Entries { entries, .. } = operate(&desk, all, "uid 0").await else { panic!("entries") };
        let told = |entry: &QueueEntry| (entry.attempts, entry.in_doubt, entry.code.clone(), entry.held.is_some());
        (told(&entries[0]), told(&entries[1]))
    };
    let none = (0, 0, None, false);
    let held = DeliveryState { held: Some(held_at_1()), ..DeliveryState::default() };
    assert_eq!(show(held).await, ((3, 2, Some("AE".to_owned()), true), none.clone()));
    let (code, pause) = (AckCode::Other, Duration::from_secs(1));
    let trying = Trying { sequence: 1, code, unknown: None, attempts: 4, in_doubt: 1, pause };
    let trying = DeliveryState { trying: Some(trying), ..DeliveryState::default() };
    assert_eq!(show(trying).await, ((4, 1, Some("unknown".to_owned()), false), none.clone()));
    assert_eq!(show(DeliveryState::default()).await, (none.clone(), none));
}

/// Asks for this of message 1, which was sent, while its conversation answers so.
async fn asked_of_a_conversation(action: QueueAction, reply: Reply, held: bool) -> (QueueAnswer, Vec<(u64, String)>) {
    let site = Site::with(2).await;
    let sequence = action.sequence().unwrap_or(1);
    site.spool.read(1, 2, 1 << 20).await.unwrap();
    let (commands, mut orders) = mpsc::channel::<Command>(1);
    let (_state, state) = watch::channel(DeliveryState { held: held.then(held_at_1), ..DeliveryState::default() });
    tokio::spawn(async move {
        while let Some(command) = orders.recv().await {
            assert_eq!(command.sequence, sequence);
            command.reply.send(reply).unwrap();
        }
    });
    let courier = Courier::Here { commands: &commands, state: &state };
    let (way, known) = (Some(destination("orders")), &known());
    let desk = Desk { forward: "orders", spool: &site.spool, courier, destination: way.clone(), way, known };
    let answer = operate(&desk, action, "uid 0").await;
    (answer, site.states().await)
}

#[tokio::test]
async fn what_is_being_delivered_is_set_aside_only_where_it_was_withdrawn() {
    let park = || QueueAction::Park { sequence: 1 };
    let discard = || QueueAction::Discard { sequence: 1, reason: "x".into() };
    for (action, state) in [(park(), "parked"), (discard(), "discarded")] {
        let (answer, states) = asked_of_a_conversation(action, Reply::Withdrawn, false).await;
        assert!(matches!(answer, QueueAnswer::Done { .. }), "{answer:?}");
        assert_eq!(states[0], (1, state.to_owned()));
    }
    for (action, reply) in [(park(), Reply::Attempted), (park(), Reply::Unknown), (discard(), Reply::Attempted)] {
        let (answer, states) = asked_of_a_conversation(action, reply, false).await;
        assert!(matches!(answer, QueueAnswer::Failed { .. }), "{answer:?}");
        assert_eq!(states[0], (1, "queued".to_owned()), "nothing was changed");
    }
}

#[tokio::test]
async fn a_damaged_message_that_nobody_has_needs_no_other_word() {
    for damages in [true, false] {
        let site = Site::with(0).await;
        site.spool.keep(vec![b'x'; LARGE_BYTES]).await.unwrap();
        let files = std::fs::read_dir(site.directory.path().join("orders")).unwrap().map(|entry| entry.unwrap().path());
        let mut large = files.filter(|path| path.extension().is_some_and(|end| end == "sealed"));
        if damages {
            std::fs::write(large.next().unwrap(), "cut").unwrap();
        }
        site.spool.read(1, 1, 1 << 20).await.unwrap();
        let (commands, mut orders) = mpsc::channel::<Command>(1);
        let (_state, state) = watch::channel(DeliveryState::default());
        tokio::spawn(async move {
            while let Some(command) = orders.recv().await {
                command.reply.send(Reply::Unknown).unwrap();
            }
        });
        let courier = Courier::Here { commands: &commands, state: &state };
        let (way, known) = (Some(destination("orders")), &known());
        let desk = Desk { forward: "orders", spool: &site.spool, courier, destination: way.clone(), way, known };
        match desk.show(1).await.unwrap() {
            QueueAnswer::Entry { entry } => {
                assert_eq!(entry.damaged.is_some(), damages, "{entry:?}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(desk.park(1, "uid 0").await.is_ok(), damages);
    }
}

#[tokio::test]
async fn what_is_held_is_tried_again() {
    let retry = |sequence| QueueAction::Retry { sequence };
    for is_held in [true, false] {
        let (answer, _) = asked_of_a_conversation(retry(None), Reply::Attempted, is_held).await;
        assert_eq!(answer, QueueAnswer::Done { said: "message 1 is tried again".into() }, "or it rests");
    }
    let (answer, _) = asked_of_a_conversation(retry(Some(1)), Reply::Attempted, true).await;
    assert!(matches!(answer, QueueAnswer::Done { .. }), "{answer:?}");
    let (answer, _) = asked_of_a_conversation(retry(Some(2)), Reply::Attempted, true).await;
    assert!(matches!(answer, QueueAnswer::Failed { .. }), "another one: {answer:?}");
    let (answer, _) = asked_of_a_conversation(retry(None), Reply::Unknown, true).await;
    assert!(matches!(answer, QueueAnswer::Failed { .. }), "{answer:?}");
}

#[tokio::test]
async fn a_message_that_is_held_says_so_and_what_to_do() {
    let (answer, _) = asked_of_a_conversation(QueueAction::Show { sequence: 1 }, Reply::Attempted, true).await;
    let QueueAnswer::Entry { entry } = answer else { panic!("{answer:?}") };
    let held = "the receiver failed on it each time, last with AE; wardlink queue retry orders 1, park orders 1, or \
                discard orders 1 --reason TEXT";
    assert_eq!(entry.held.as_deref(), Some(held));
    let (answer, _) = asked_of_a_conversation(QueueAction::Show { sequence: 2 }, Reply::Attempted, true).await;
    assert!(matches!(answer, QueueAnswer::Entry { entry } if entry.held.is_none()));
}

#[tokio::test]
async fn a_forward_is_paused_and_goes_on() {
    let site = Site::with(2).await;
    let said = site.done(QueueAction::Pause).await;
    assert_eq!(said, "orders is paused with 2 waiting; wardlink forward resume orders ends it");
    site.spool.tail().wait_for(|tail| tail.paused).await.unwrap();
    assert!(site.spool.read(1, 9, 1 << 20).await.unwrap().is_empty());
    assert_eq!(site.done(QueueAction::Resume).await, "orders goes on with 2 waiting");
    assert_eq!(site.spool.read(1, 9, 1 << 20).await.unwrap().len(), 2);
}

/// Closes the queue of a site and opens it where its forward leads to `target`.
fn reopened(site: Site, target: &str) -> Site {
    let Site { directory, spool, link } = site;
    drop(spool);
    let spool = open(directory.path(), target);
    Site { directory, spool, link }
}

impl Site {
    /// Asks where the forward is configured to lead to one destination, and the queue takes the way to another.
    async fn ask_on(&self, own: &str, way: &str, action: QueueAction) -> QueueAnswer {
        let courier = Courier::Far(&self.link);
        let (destination, way, known) = (Some(destination(own)), Some(destination(way)), &known());
        operate(&Desk { forward: "orders", spool: &self.spool, courier, destination, way, known }, action, "uid 0")
            .await
    }

    async fn read_for(&self, target: &str) -> Vec<u64> {
        let found = self.spool.read_for(&destination(target), 1, 99, 1 << 20).await.unwrap();
        found.iter().map(|message| message.sequence).collect()
    }
}

fn moved(from: Option<&str>) -> QueueAction {
    QueueAction::Move { to: None, from: from.map(str::to_owned) }
}

#[tokio::test]
async fn what_waits_for_another_destination_is_moved_by_word_only() {
    let site = reopened(Site::with(2).await, "images");
    assert!(site.read_for("images").await.is_empty(), "held");
    let answer = site.ask_on("images", "images", moved(None)).await;
    assert_eq!(
        answer,
        QueueAnswer::Done { said: "2 messages that were accepted for orders at lab go to images at lab now".into() }
    );
    assert_eq!(site.read_for("images").await, [1, 2]);
    let answer = site.ask_on("images", "images", moved(None)).await;
    assert_eq!(answer, QueueAnswer::Failed { cause: "all that waits goes to images at lab already".into() });
}

#[tokio::test]
async fn a_queue_for_several_destinations_drains_to_each_in_its_order() {
    let site = reopened(Site::with(2).await, "images");
    site.spool.keep(b"MSH|3".to_vec()).await.unwrap();
    let site = reopened(site, "notes");
    site.spool.keep(b"MSH|4".to_vec()).await.unwrap();
    // Each way carries what was accepted for its end, and stops at the first that was not.
    assert_eq!((site.read_for("orders").await, site.read_for("images").await), (vec![1, 2], vec![]));
    let cause = "which are to go to notes at lab? Say --from-destination and one of orders@lab (2), images@lab (1)";
    assert_eq!(site.ask_on("notes", "notes", moved(None)).await, QueueAnswer::Failed { cause: cause.into() });
    let QueueAnswer::Failed { cause } = site.ask_on("notes", "notes", moved(Some("lost"))).await else { panic!() };
    assert!(cause.starts_with("nothing was accepted for lost"), "{cause}");
    let answer = site.ask_on("notes", "notes", moved(Some("images"))).await;
    assert_eq!(
        answer,
        QueueAnswer::Done { said: "1 messages that were accepted for images at lab go to notes at lab now".into() }
    );
    site.spool.park(1, true, "x").await.unwrap();
    site.spool.park(2, true, "x").await.unwrap();
    assert_eq!(site.read_for("notes").await, [3, 4]);
    // What is parked keeps its destination too.
    let release = || QueueAction::Release { sequence: 1 };
    let QueueAnswer::Failed { cause } = site.ask_on("notes", "notes", release()).await else { panic!() };
    assert!(cause.contains("was accepted for orders at lab, and orders leads to notes at lab"), "{cause}");
    assert!(cause.contains("--from-destination orders@lab has it and all others of there go here, --to "), "{cause}");
    let answer = site.ask_on("notes", "orders", release()).await;
    assert_eq!(answer, QueueAnswer::Done { said: "message 1 is queued again as 5".into() });
    assert_eq!(site.spool.show(5).await.unwrap().destination, destination("orders"));
    let (verdict, code, at) = (Verdict::Delivered, AckCode::ApplicationAccept, SystemTime::now());
    let delivered = Outcome { sequence: 5, verdict, code, attempts: 1, in_doubt: 0, answer: Vec::new(), at };
    site.spool.settle(vec![delivered]).await.unwrap();
    let release = QueueAction::Release { sequence: 5 };
    let QueueAnswer::Failed { cause } = site.ask_on("notes", "notes", release).await else { panic!() };
    assert!(
        cause.ends_with(": wardlink queue move orders --to FORWARD has the queue go there"),
        "no move takes it: {cause}"
    );
}

#[tokio::test]
async fn what_waits_for_elsewhere_is_set_aside_without_anybodys_word() {
    let site = Site::with(3).await;
    assert_eq!(site.read_for("orders").await.len(), 3);
    let site = reopened(site, "images");
    site.spool.keep(b"MSH|4".to_vec()).await.unwrap();
    let (park, why) = (|sequence| QueueAction::Park { sequence }, "the receiver may have it");
    let QueueAnswer::Done { said } = site.ask_on("images", "images", park(1)).await else { panic!("the link is down") };
    assert!(said.contains("nobody here can ask"), "{said}");
    let discard = QueueAction::Discard { sequence: 2, reason: "sent by fax".into() };
    let QueueAnswer::Done { said } = site.ask_on("images", "images", discard).await else { panic!("the link is down") };
    assert!(said.ends_with(why), "{said}");
    let ended = site.spool.show(1).await.unwrap().outcome.unwrap();
    assert_eq!((ended.verdict, ended.in_doubt), (Some(Verdict::Withdrawn), 1), "in doubt");
    // On the way to where it was accepted for, the far site is asked, and its link is down.
    let QueueAnswer::Failed { cause } = site.ask_on("images", "orders", park(3)).await else { panic!() };
    assert!(cause.contains("the link to it is down"), "{cause}");
}

#[tokio::test]
async fn one_behind_a_held_message_says_which_is_decided_first() {
    let (answer, _) = asked_of_a_conversation(QueueAction::Park { sequence: 2 }, Reply::Unknown, true).await;
    let QueueAnswer::Failed { cause } = answer else { panic!("{answer:?}") };
    assert!(cause.starts_with("message 2 is next behind message 1, which is held ("), "{cause}");
    assert!(cause.contains("wardlink queue retry orders 1") && cause.ends_with("; then ask again"), "{cause}");
}

#[tokio::test]
async fn both_stories_are_told_before_anybody_decides() {
    let site = Site::with(3).await;
    let desk = Desk {
        forward: "orders",
        spool: &site.spool,
        courier: Courier::Far(&site.link),
        destination: Some(destination("orders")),
        way: Some(destination("orders")),
        known: &known(),
    };
    let opening = site.spool.opening().await.unwrap();
    let far = FarView::At { epoch: opening.epoch, watermark: 9, digest: opening.retired_digest };
    let told = desk.stories(Divergence::FarAhead, far);
    for part in ["restored from a backup", "up to 3", "up to 9", "--accept-far", "--resend", "all 3 that wait"] {
        assert!(told.contains(part), "{part} in\n{told}");
    }
}
