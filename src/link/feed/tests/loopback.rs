//! Both shells over loopback, dialled and accepted as any link: what arrives, what breaks, who is refused.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::super::Command;
use super::super::station::{OpenStation, Station};
use super::super::wire;
use super::super::{Answer, CommandKind, Held, Queue, StoreError, Taken, Window};
use super::memory::{MemoryBook, MemoryQueue, outcome};
use crate::config::{Name, PublicKey};
use crate::link::inbound::{Gate, Inbound};
use crate::link::inside::Inside;
use crate::link::outbound::{LinkState, Outbound, Route};
use crate::link::owners::Owners;
use crate::link::wire::{
    Cause, Hello, Instance, ReceiverNews, ReceiverState, Record, VERSION, Welcome, decode, encode,
};
use crate::mllp::ack::AckCode;
use crate::spool::{ForwardId, Sequence, Verdict};

pub(super) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Is long: 39 MB are digested twice in one of the tests, unoptimised, on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(60);

pub(super) fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn owners(peer: &'static str) -> Owners {
    Owners::new(move |_| Some((PublicKey([7; 32]), name(peer))), watch::channel(0).1)
}

/// Is a far site: one service, one book, a receiver that answers at once unless it is told to wait.
struct FarSite {
    inbound: Arc<Inbound>,
    address: SocketAddr,
    book: Arc<MemoryBook>,
    received: Arc<Mutex<Vec<Sequence>>>,
    goes_on: watch::Sender<bool>,
    held: watch::Sender<Option<Held>>,
    receiver: watch::Sender<ReceiverNews>,
    allows: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

async fn converse(
    book: Arc<MemoryBook>,
    received: Arc<Mutex<Vec<Sequence>>>,
    mut goes_on: watch::Receiver<bool>,
    mut messages: mpsc::Receiver<Taken>,
    outcomes: mpsc::Sender<super::super::Outcome>,
    mut commands: mpsc::Receiver<Command>,
    mut stop: watch::Receiver<bool>,
) {
    let mut withdrawn = Vec::new();
    loop {
        let taken = tokio::select! {
            Some(command) = commands.recv() => {
                let answer = if command.order == CommandKind::Withdraw && !received.lock().unwrap().contains(&command.sequence) {
                    withdrawn.push(command.sequence);
                    Answer::Withdrawn
                } else {
                    Answer::Attempted
                };
                command.reply.send(answer).ok();
                continue;
            }
            Some(taken) = async {
                goes_on.wait_for(|goes_on| *goes_on).await.ok()?;
                messages.recv().await
            } => taken,
            _ = stop.wait_for(|stop| *stop) => return,
            else => return,
        };
        let verdict = if withdrawn.contains(&taken.sequence) { Verdict::Withdrawn } else { Verdict::Delivered };
        let outcome = outcome(taken.sequence, verdict);
        book.0.lock().unwrap().finish(&taken, outcome.clone());
        if verdict == Verdict::Delivered {
            received.lock().unwrap().push(taken.sequence);
        }
        if outcomes.send(outcome).await.is_err() {
            return;
        }
    }
}

/// Is the gate of a far site that offers every service to whoever comes, and has no receiver's state to tell.
pub(super) fn gate(
    open: impl Fn(Name, Name, ForwardId) -> BoxFuture<'static, Result<Station, StoreError>> + Send + Sync + 'static,
) -> Gate {
    Gate {
        owners: owners("north"),
        service: Box::new(move |service, _| Ok(name(service))),
        receiver: Box::new(|_| None),
        stations: Some(Box::new(open)),
        keys: None,
        arrivals: mpsc::channel(8).0,
        site: "lab".to_owned(),
        instance: Instance([1; 16]),
    }
}

async fn far_site() -> FarSite {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (book, received) = (Arc::new(MemoryBook::default()), Arc::new(Mutex::new(Vec::new())));
    let (goes_on, held) = (watch::Sender::new(true), watch::Sender::new(None));
    let receiver = watch::Sender::new(ReceiverNews::from(ReceiverState::Unknown));
    let allows = Arc::new(AtomicBool::new(true));
    let station = {
        let (book, received) = (Arc::clone(&book), Arc::clone(&received));
        let (goes_on, held) = (goes_on.subscribe(), held.subscribe());
        move || {
            let (messages, from_link) = mpsc::channel(4096);
            let (to_link, outcomes) = mpsc::channel(4096);
            let (commands, asked) = mpsc::channel(8);
            let mut tasks = JoinSet::new();
            let (book, received) = (Arc::clone(&book), Arc::clone(&received));
            let (stop, stops) = watch::channel(false);
            tasks.spawn(converse(Arc::clone(&book), received, goes_on.clone(), from_link, to_link, asked, stops));
            let (held, window, pause) = (held.clone(), Window::default(), watch::Sender::new(false));
            Station { book, messages, outcomes, commands, held, window, pause, stop, tasks }
        }
    };
    let open: OpenStation = Box::new(move |_, _, _| {
        let station = station();
        Box::pin(async move { Ok(station) })
    });
    let (may, states) = (Arc::clone(&allows), receiver.subscribe());
    let gate =
        Gate {
            service: Box::new(move |service, _| {
                if may.load(Ordering::Relaxed) { Ok(name(service)) } else { Err(Cause::ServiceNotAllowed) }
            }),
            receiver: Box::new(move |_| Some(states.clone())),
            ..gate(open)
        };
    let inbound = Inbound::new(gate);
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&inbound).run(listener));
    FarSite { inbound, address, book, received, goes_on, held, receiver, allows, _tasks: tasks }
}

struct NearSite {
    link: Arc<Outbound>,
    queue: Arc<MemoryQueue>,
    tasks: JoinSet<()>,
}

/// Is a link to the far site at an address.
pub(super) fn dial(address: SocketAddr, queue: Arc<dyn Queue>) -> Arc<Outbound> {
    let route = Route {
        site: "north".to_owned(),
        instance: Instance::new(1, 2),
        forward: "orders".to_owned(),
        service: "lab-orders".to_owned(),
        peer: name("lab"),
        address,
    };
    Outbound::stored(route, Inside::new("lo", vec![HERE], owners("lab")), queue)
}

fn near_site(address: SocketAddr, queue: Arc<MemoryQueue>) -> NearSite {
    let link = dial(address, Arc::clone(&queue) as _);
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&link).run(|| 0.0));
    NearSite { link, queue, tasks }
}

pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("in vain for: {what}"));
}

fn retired(queue: &MemoryQueue) -> Sequence {
    queue.model.lock().unwrap().retired_through()
}

#[tokio::test]
async fn messages_of_any_size_arrive_in_order_and_are_retired() {
    let far = far_site().await;
    let near = near_site(far.address, MemoryQueue::new());
    near.queue.append(5_000, 500);
    near.queue.append(3, 12 << 20); // each larger than the window's bytes
    near.queue.append(1_000, 20);
    until("all retired", || retired(&near.queue) == 6_003).await;
    assert_eq!(*far.received.lock().unwrap(), (1..=6_003).collect::<Vec<_>>());
    until("the far site forgets", || far.book.0.lock().unwrap().outcomes.is_empty()).await;
    assert!(matches!(near.link.state(), LinkState::Up { .. }) && near.link.round_trip().is_some());
}

#[tokio::test]
async fn what_is_in_hand_survives_the_connection_and_comes_once() {
    let far = far_site().await;
    far.goes_on.send_replace(false);
    let queue = MemoryQueue::new();
    queue.append(10, 100);
    let mut near = near_site(far.address, Arc::clone(&queue));
    let supply = Arc::clone(near.link.supply().unwrap());
    until("all sent", || supply.state().in_flight == 10).await;
    near.tasks.shutdown().await; // the near site ends; the far site's messages stay in hand
    queue.model.lock().unwrap().restart();
    queue.append(10, 100);
    let near = near_site(far.address, Arc::clone(&queue));
    let supply = near.link.supply().unwrap();
    until("only the new ones are sent", || supply.state().in_flight == 20).await;
    far.goes_on.send_replace(true);
    until("all retired", || retired(&queue) == 20).await;
    assert_eq!(*far.received.lock().unwrap(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_pause_a_failed_queue_and_a_held_head_are_seen_at_the_near_site() {
    let far = far_site().await;
    let near = near_site(far.address, MemoryQueue::new());
    let supply = near.link.supply().unwrap();
    near.queue.set_paused(true);
    near.queue.append(3, 10);
    let state = ReceiverState::Down(Cause::ReceiverRefuses);
    let news = ReceiverNews { state, address: "lab:6661".to_owned(), release: Some(1) };
    far.receiver.send_replace(news.clone());
    until("the receiver's state", || near.link.receiver().0 == news).await;
    assert_eq!(supply.state().in_flight, 0, "nothing is sent while it is paused");
    near.queue.set_paused(false);
    until("all retired", || retired(&near.queue) == 3).await;
    let held = Held {
        sequence: 4,
        reason: 1,
        code: AckCode::ApplicationReject,
        attempts: 1,
        in_doubt: 0,
        text: "rejected".to_owned(),
    };
    far.held.send_replace(Some(held.clone()));
    until("what is held", || supply.state().held.as_ref() == Some(&held)).await;
    far.held.send_replace(None);
    until("that nothing is", || supply.state().held.is_none()).await;
    near.queue.fail();
    until("the failure", || matches!(near.link.state(), LinkState::Down { cause: Cause::StoreFailed, .. })).await;
}

#[tokio::test]
async fn a_link_whose_queue_cannot_be_read_is_not_dialled() {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let near = near_site(listener.local_addr().unwrap(), MemoryQueue::new());
    near.queue.fail();
    until("the failure", || matches!(near.link.state(), LinkState::Down { cause: Cause::StoreFailed, .. })).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), listener.accept()).await.is_err(), "what for?");
    near.queue.mend();
    assert!(tokio::time::timeout(SOON, listener.accept()).await.is_ok());
}

#[tokio::test]
async fn an_operator_takes_a_message_out_wherever_it_is() {
    let far = far_site().await;
    far.goes_on.send_replace(false);
    let near = near_site(far.address, MemoryQueue::new());
    let supply = near.link.supply().unwrap();
    assert_eq!(supply.withdraw(1).await.err(), Some(Cause::LinkDown), "no link yet");
    near.queue.append(3, 10);
    until("all sent", || supply.state().in_flight == 3).await;
    assert_eq!(supply.withdraw(2).await.unwrap().0, Answer::Withdrawn);
    let (answer, bar) = supply.withdraw(4).await.unwrap();
    assert_eq!(answer, Answer::Unknown, "it never came");
    near.queue.append(2, 10);
    far.goes_on.send_replace(true);
    until("all before it", || retired(&near.queue) == 3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(*far.received.lock().unwrap(), [1, 3], "nothing passes the bar");
    near.queue.settle(vec![outcome(4, Verdict::Withdrawn)]).await.unwrap();
    drop(bar);
    until("all retired", || retired(&near.queue) == 5).await;
    assert_eq!(*far.received.lock().unwrap(), [1, 3, 5]);
    assert_eq!(supply.withdraw(1).await.unwrap().0, Answer::Attempted);
}

#[tokio::test]
async fn what_an_operator_settles_while_it_is_read_is_not_sent() {
    let far = far_site().await;
    let near = near_site(far.address, MemoryQueue::new());
    let supply = near.link.supply().unwrap();
    near.queue.append(1, 10);
    until("the first", || retired(&near.queue) == 1).await;
    near.queue.let_reads_end(false);
    near.queue.append(2, 10);
    until("a read under way", || near.queue.model.lock().unwrap().sent_through() == 3).await;
    let (answer, bar) = supply.withdraw(2).await.unwrap();
    assert_eq!(answer, Answer::Unknown);
    near.queue.settle(vec![outcome(2, Verdict::Withdrawn)]).await.unwrap();
    drop(bar);
    near.queue.let_reads_end(true);
    until("all retired", || retired(&near.queue) == 3).await;
    assert_eq!(*far.received.lock().unwrap(), [1, 3]);
}

#[tokio::test]
async fn a_peer_that_may_no_longer_is_refused_after_what_it_sent() {
    let far = far_site().await;
    let near = near_site(far.address, MemoryQueue::new());
    near.queue.append(3, 10);
    until("all retired", || retired(&near.queue) == 3).await;
    far.allows.store(false, Ordering::Relaxed);
    far.inbound.review();
    until("the refusal", || matches!(near.link.state(), LinkState::Down { .. })).await;
    near.queue.append(1, 10);
    until("the reason", || matches!(near.link.state(), LinkState::Down { cause: Cause::ServiceNotAllowed, .. })).await;
    assert_eq!(far.received.lock().unwrap().len(), 3);
    far.allows.store(true, Ordering::Relaxed);
    until("it goes on", || retired(&near.queue) == 4).await;
}

#[tokio::test]
async fn a_site_of_an_older_version_gets_no_stored_message() {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let near = near_site(listener.local_addr().unwrap(), MemoryQueue::new());
    near.queue.append(1, 10);
    let (mut tcp, _) = listener.accept().await.unwrap();
    let mut buffer = BytesMut::new();
    while decode(&buffer).unwrap().is_none() {
        tcp.read_buf(&mut buffer).await.unwrap();
    }
    let Some((Record::Hello(hello), length)) = decode(&buffer).unwrap() else { panic!("a greeting") };
    assert_eq!((hello.capabilities, length), (1, buffer.len()));
    let welcome = Welcome {
        version: VERSION,
        capabilities: 0,
        instance: Instance([1; 16]),
        resumed: false,
        site: "lab".to_owned(),
    };
    let mut out = BytesMut::new();
    encode(&Record::Welcome(welcome), &mut out);
    tcp.write_all(&out).await.unwrap();
    let mut rest = Vec::new();
    tcp.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty(), "not one more byte");
    until("the reason", || matches!(near.link.state(), LinkState::Down { cause: Cause::StoredUnsupported, .. })).await;
}

/// Greets the far site for stored messages as a peer that then does as it likes.
async fn hostile(address: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        capabilities: 1,
        instance: Instance([9; 16]),
        linger_ms: 0,
        site: "north".to_owned(),
        forward: "orders".to_owned(),
        service: "lab-orders".to_owned(),
    };
    let mut out = BytesMut::new();
    encode(&Record::Hello(hello), &mut out);
    tcp.write_all(&out).await.unwrap();
    let mut buffer = BytesMut::new();
    while decode(&buffer).unwrap().is_none() {
        assert_ne!(tcp.read_buf(&mut buffer).await.unwrap(), 0);
    }
    assert!(matches!(decode(&buffer), Ok(Some((Record::Welcome(Welcome { capabilities: 1, .. }), _)))));
    tcp
}

#[tokio::test]
async fn a_peer_that_begins_with_anything_else_is_closed() {
    let far = far_site().await;
    for record in [
        wire::Record::Retired(1),
        wire::Record::Begin { after: 0, in_doubt_through: 0, is_paused: false },
        wire::Record::Ping(1),
    ] {
        let mut tcp = hostile(far.address).await;
        let mut out = BytesMut::new();
        wire::encode(&record, &mut out);
        tcp.write_all(&out).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(SOON, tcp.read_to_end(&mut rest)).await.expect("closed");
        assert!(rest.is_empty(), "{closed:?}");
    }
}

#[tokio::test]
async fn a_peer_that_floods_and_never_reads_is_cut_off() {
    let far = far_site().await;
    let mut tcp = hostile(far.address).await;
    let mut out = BytesMut::new();
    wire::encode(&wire::Record::Opening(super::memory::QueueModel::new().opening()), &mut out);
    tcp.write_all(&out).await.unwrap();
    out.clear();
    for token in 0..5_000 {
        wire::encode(&wire::Record::Ping(token), &mut out);
    }
    let flooding = async { while tcp.write_all(&out).await.is_ok() {} };
    tokio::time::timeout(SOON, flooding).await.expect("it is cut off");
}
