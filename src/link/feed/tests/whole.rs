//! Both shells with the real spool, inbox and conversation: the wire cut and the near site restarted in the middle.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::super::station::Station;
use super::super::{Queue, QueueState, StoreError, Window};
use super::loopback::{HERE, dial, gate, name, until};
use crate::config::{Name, ReceiverPolicy};
use crate::link::inbound::{Gate, Inbound};
use crate::link::outbound::{LinkState, Outbound};
use crate::link::wire::Cause;
use crate::mllp::frame::encode;
use crate::spool::delivery::{Conversation, Counter};
use crate::spool::inbox::Inbox;
use crate::spool::key::SpoolKey;
use crate::spool::store::{Destination, Limits, Spool, Wanted};
use crate::spool::{FarView, ForwardId, Judgement, Opening, Outcome, Queued, Sequence};
use crate::tls::Socket;

const MESSAGES: u64 = 300;

/// Is a spool as a queue, with the task that follows its tail.
struct Kept {
    spool: Arc<Spool>,
    state: watch::Sender<QueueState>,
}

impl Kept {
    fn open(dir: &Path, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let destination = Destination { peer_key: [7; 32], target: "lab-orders".to_owned() };
        let limits = Limits { messages_max: 10_000, bytes_max: 1 << 30, keep_delivered: Duration::from_secs(60) };
        let wanted = Wanted { spool: None, destination: Some(destination), limits, trace: None };
        let spool = Spool::open(dir, "orders", &SpoolKey::from_bytes([3; 32]), wanted).unwrap();
        let kept = Arc::new(Self { spool, state: watch::Sender::default() });
        let (state, mut tail) = (kept.state.clone(), kept.spool.tail());
        tasks.spawn(async move {
            loop {
                let now = tail.borrow_and_update().clone();
                let (last, retired_through, paused) = (now.last, now.retired_through, now.paused);
                state.send_replace(QueueState { last, retired_through, paused, damaged: None, failed: now.failed });
                if tail.changed().await.is_err() {
                    return;
                }
            }
        });
        kept
    }
}

impl Queue for Kept {
    fn opening(&self) -> BoxFuture<'_, Result<Opening, StoreError>> {
        Box::pin(async { Ok(self.spool.opening().await?) })
    }

    fn judge(&self, view: FarView) -> BoxFuture<'_, Result<Judgement, StoreError>> {
        Box::pin(async move { Ok(self.spool.judge(view).await?) })
    }

    fn read(&self, from: Sequence, messages: usize, bytes: usize) -> BoxFuture<'_, Result<Vec<Queued>, StoreError>> {
        Box::pin(async move { Ok(self.spool.read(from, messages, bytes).await?) })
    }

    fn settle(&self, outcomes: Vec<Outcome>) -> BoxFuture<'_, Result<Sequence, StoreError>> {
        Box::pin(async move { Ok(self.spool.settle(outcomes).await?) })
    }

    fn tail(&self) -> watch::Receiver<QueueState> {
        self.state.subscribe()
    }
}

fn message(number: u64) -> Vec<u8> {
    format!("MSH|^~\\&|A|B|C|D|20260101||ORU^R01|{number}|P|2.5\rOBX|1|TX|{}\r", "x".repeat(400)).into_bytes()
}

/// Accepts every message after a time, and lists their control ids.
async fn receive(listener: TcpListener, received: Arc<Mutex<Vec<u64>>>, after: Duration) {
    while let Ok((mut tcp, _)) = listener.accept().await {
        let mut bytes = Vec::new();
        while let Ok(1..) = tcp.read_buf(&mut bytes).await {
            while let Some(end) = bytes.windows(2).position(|two| two == [0x1c, 0x0d]) {
                let frame: Vec<u8> = bytes.drain(..end + 2).collect();
                let text = String::from_utf8_lossy(&frame).into_owned();
                let id = text.split('|').nth(9).unwrap().to_owned();
                received.lock().unwrap().push(id.parse().unwrap());
                tokio::time::sleep(after).await;
                let ack = format!("MSH|^~\\&|C|D|A|B|20260101||ACK|a{id}|P|2.5\rMSA|AA|{id}\r");
                tcp.write_all(&encode(ack.as_bytes())).await.unwrap();
            }
        }
    }
}

async fn station(dir: &Path, peer: Name, forward: ForwardId, receiver: SocketAddr) -> Station {
    let dir = dir.to_owned();
    let key = SpoolKey::from_bytes([4; 32]);
    let opened = tokio::task::spawn_blocking(move || Inbox::open(&dir, peer.as_str(), forward, Some(&key)));
    let book = opened.await.unwrap().unwrap();
    let (messages, source) = mpsc::channel(4096);
    let (reports, outcomes) = mpsc::channel(64);
    let (commands, orders) = mpsc::channel(4);
    let ((pause, paused), (stop, stops)) = (watch::channel(false), watch::channel(false));
    let conversation = Conversation {
        source,
        ledger: Arc::clone(&book),
        dial: move || async move {
            Ok((Socket::plain(TcpStream::connect(receiver).await.map_err(|_| "receiver_refuses")?), ()))
        },
        policy: watch::channel(ReceiverPolicy::default()).1,
        commands: orders,
        reports,
        state: watch::Sender::default(),
        counter: Arc::new(Counter::default()),
        paused,
        wanted: watch::channel(0).1,
        stop: stops,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(conversation.run());
    let (held, window) = (watch::channel(None).1, Window::default());
    Station { book, messages, outcomes, commands, held, window, pause, stop, tasks }
}

/// Carries bytes to the far site, and breaks each connection after so many.
async fn cut_again_and_again(listener: TcpListener, to: SocketAddr, after_bytes: usize) {
    let mut wires = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        wires.spawn(carry(near, TcpStream::connect(to).await.unwrap(), after_bytes));
    }
}

async fn carry(mut near: TcpStream, mut far: TcpStream, after_bytes: usize) {
    let (mut left, mut up, mut down) = (after_bytes, [0; 997], [0; 997]);
    while left > 0 {
        let moved = tokio::select! {
            read = near.read(&mut up) => match read {
                Ok(count @ 1..) => {
                    left = left.saturating_sub(count);
                    far.write_all(&up[..count]).await
                }
                _ => return,
            },
            read = far.read(&mut down) => match read {
                Ok(count @ 1..) => near.write_all(&down[..count]).await,
                _ => return,
            },
        };
        if moved.is_err() {
            return;
        }
    }
}

/// Is a far site with its receiver, and the directory of the near one.
struct Sites {
    dirs: tempfile::TempDir,
    inbound: Arc<Inbound>,
    far_at: SocketAddr,
    received: Arc<Mutex<Vec<u64>>>,
    allows: Arc<AtomicBool>,
    around: JoinSet<()>,
}

/// Begins a far site whose receiver answers after a time.
async fn sites(answers_after: Duration) -> Sites {
    let (dirs, mut around) = (tempfile::tempdir().unwrap(), JoinSet::new());
    let far_dir = dirs.path().join("far");
    std::fs::create_dir_all(&far_dir).unwrap();
    let receiver = TcpListener::bind((HERE, 0)).await.unwrap();
    let receiver_at = receiver.local_addr().unwrap();
    let received = Arc::new(Mutex::new(Vec::new()));
    around.spawn(receive(receiver, Arc::clone(&received), answers_after));
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let far_at = listener.local_addr().unwrap();
    let allows = Arc::new(AtomicBool::new(true));
    let may = Arc::clone(&allows);
    let offered = gate(move |peer, _, forward| {
        let dir = far_dir.clone();
        Box::pin(async move { Ok(station(&dir, peer, forward, receiver_at).await) })
    });
    let inbound =
        Inbound::new(Gate {
            service: Box::new(move |service, _| {
                if may.load(Ordering::Relaxed) { Ok(name(service)) } else { Err(Cause::ServiceNotAllowed) }
            }),
            ..offered
        });
    around.spawn(Arc::clone(&inbound).run(listener));
    Sites { dirs, inbound, far_at, received, allows, around }
}

impl Sites {
    fn near_dir(&self) -> PathBuf {
        self.dirs.path().join("near")
    }

    /// Starts the near site, at once with its link to the far one.
    fn start_near(&mut self) -> (Arc<Kept>, Arc<Outbound>) {
        let kept = Kept::open(&self.near_dir(), &mut self.around);
        let link = dial(self.far_at, Arc::clone(&kept) as _);
        self.around.spawn(Arc::clone(&link).run(|| 0.0));
        (kept, link)
    }

    fn received(&self) -> Vec<u64> {
        self.received.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_cut_wire_and_a_restarted_near_site_lose_and_repeat_nothing() {
    let mut sites = sites(Duration::ZERO).await;
    let wire = TcpListener::bind((HERE, 0)).await.unwrap();
    let wire_at = wire.local_addr().unwrap();
    sites.around.spawn(cut_again_and_again(wire, sites.far_at, 40_000));
    for start in 0..3 {
        let mut tasks = JoinSet::new();
        let kept = Kept::open(&sites.near_dir(), &mut tasks);
        let link = dial(wire_at, Arc::clone(&kept) as _);
        tasks.spawn(Arc::clone(&link).run(|| 0.0));
        for number in 1..=MESSAGES / 3 {
            kept.spool.keep(message(start * (MESSAGES / 3) + number)).await.unwrap();
        }
        let enough = if start == 2 { MESSAGES } else { start * (MESSAGES / 3) + 40 };
        until("messages", || kept.spool.tail().borrow().retired_through >= enough).await;
        tasks.shutdown().await;
        drop(link);
        assert_eq!(Arc::strong_count(&kept), 1, "the spool closes with its site");
    }
    assert_eq!(sites.received(), (1..=MESSAGES).collect::<Vec<_>>(), "each once, in order");
}

#[tokio::test]
async fn a_peer_that_loses_its_permission_in_the_middle_of_a_message_has_its_end_awaited() {
    let mut sites = sites(Duration::from_millis(200)).await;
    let (kept, link) = sites.start_near();
    for number in 1..=3 {
        kept.spool.keep(message(number)).await.unwrap();
    }
    for number in 1..=3 {
        until("the next message", || sites.received().len() == number).await;
        sites.allows.store(false, Ordering::Relaxed);
        sites.inbound.review();
        until("the refusal", || matches!(link.state(), LinkState::Down { .. })).await;
        sites.allows.store(true, Ordering::Relaxed);
    }
    until("all retired", || kept.spool.tail().borrow().retired_through == 3).await;
    assert_eq!(sites.received(), [1, 2, 3], "none is cut off, and comes again");
}

#[tokio::test]
async fn a_paused_forward_stops_the_far_site_too() {
    let mut sites = sites(Duration::from_millis(50)).await;
    let (kept, _link) = sites.start_near();
    for number in 1..=12 {
        kept.spool.keep(message(number)).await.unwrap();
    }
    until("some messages", || sites.received().len() >= 2).await;
    kept.spool.pause(true, "anna").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let received = sites.received().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sites.received().len(), received, "no attempt begins");
    assert!(received < 12);
    kept.spool.pause(false, "anna").await.unwrap();
    until("all retired", || kept.spool.tail().borrow().retired_through == 12).await;
    assert_eq!(sites.received(), (1..=12).collect::<Vec<_>>());
}
