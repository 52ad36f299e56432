//! Tests of the conversation with receivers on real sockets, with a real inbox as its ledger.

mod release_2;

use std::sync::Mutex;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::{AckKind, Otherwise};
use crate::mllp::frame::encode;
use crate::spool::inbox::Inbox;
use crate::spool::{Digest, Epoch, FarView, ForwardId, SpoolError};

const LONG: Duration = Duration::from_secs(20);

fn delivery(sequence: Sequence) -> Delivery {
    let payload = format!("MSH|^~\\&|a|b|c|d|t||ADT^A01|K{sequence}|P|2.5\r").into_bytes();
    Delivery { sequence, epoch: Epoch([1; 16]), digest: Digest([2; 32]), in_doubt: false, payload }
}

fn ack(code: &str, sequence: Sequence) -> Vec<u8> {
    encode(format!("MSH|^~\\&|c|d|a|b|t||ACK|R|P|2.5\rMSA|{code}|K{sequence}\r").as_bytes())
}

fn hasty() -> ReceiverPolicy {
    let (backoff_min, backoff_max) = (Duration::from_millis(2), Duration::from_millis(20));
    ReceiverPolicy { ack_timeout: Duration::from_millis(300), backoff_min, backoff_max, ..ReceiverPolicy::default() }
}

/// Says what a receiver does with a message.
enum Act {
    /// Writes these pieces, each in a segment of its own.
    Say(Vec<Vec<u8>>),
    Close,
    Ignore,
}

fn say(bytes: Vec<u8>) -> Act {
    Act::Say(vec![bytes])
}

/// Is a receiver that does what `script` says for its n-th message, from 0; it lists what it got.
struct Scripted {
    port: u16,
    got: Arc<Mutex<Vec<(Sequence, usize)>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    async fn start(script: impl Fn(usize, Sequence) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&got);
        let task = tokio::spawn(async move {
            for connection in 0.. {
                let (mut tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                serve(&mut tcp, connection, &script, &list).await;
            }
        });
        Self { port, got, task }
    }

    /// Lists the messages with the connections that they came on.
    fn got(&self) -> Vec<(Sequence, usize)> {
        self.got.lock().unwrap().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    tcp: &mut TcpStream,
    connection: usize,
    script: &impl Fn(usize, Sequence) -> Act,
    got: &Mutex<Vec<(Sequence, usize)>>,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(2).position(|two| two == b"\x1c\r") {
                break at + 2;
            }
            if tcp.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let frame: Vec<u8> = buffer.drain(..end).collect();
        let text = String::from_utf8_lossy(&frame).into_owned();
        assert!(frame[0] == 0x0b && text.contains("MSH|"));
        let sequence = text.split('|').nth(9).unwrap().trim_start_matches('K').parse().unwrap();
        let number = {
            let mut got = got.lock().unwrap();
            got.push((sequence, connection));
            got.len() - 1
        };
        match script(number, sequence) {
            Act::Close => return,
            Act::Ignore => {}
            Act::Say(pieces) => {
                for piece in pieces {
                    tcp.write_all(&piece).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
}

/// Is a conversation with what is around it.
struct Stage {
    dir: TempDir,
    inbox: Arc<Inbox>,
    source: mpsc::Sender<Delivery>,
    commands: mpsc::Sender<Command>,
    reports: mpsc::Receiver<Outcome>,
    state: watch::Receiver<DeliveryState>,
    others: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    counter: Arc<Counter>,
    task: JoinHandle<()>,
}

impl Stage {
    fn start(port: u16, policy: ReceiverPolicy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(dir.path(), "north", ForwardId([7; 16]), None).unwrap();
        Self::with(dir, inbox, port, policy)
    }

    fn with(dir: TempDir, inbox: Arc<Inbox>, port: u16, policy: ReceiverPolicy) -> Self {
        let ledger = Arc::clone(&inbox);
        let (source, from) = mpsc::channel(64);
        let (commands, orders) = mpsc::channel(8);
        let (to, reports) = mpsc::channel(64);
        let (state, shown) = watch::channel(DeliveryState::default());
        let ((others, wanted), (stop, stopped)) = (watch::channel(0), watch::channel(false));
        let counter = Arc::new(Counter::default());
        let dial = move || async move {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await.map_err(|_| "receiver_refuses")?;
            tcp.set_nodelay(true).map_err(|_| "receiver_unreachable")?;
            Ok((Socket::plain(tcp), ()))
        };
        let conversation = Conversation {
            source: from,
            ledger,
            dial,
            policy: watch::Sender::new(policy).subscribe(),
            commands: orders,
            reports: to,
            state,
            counter: Arc::clone(&counter),
            paused: watch::channel(false).1,
            wanted,
            stop: stopped,
        };
        let task = tokio::spawn(conversation.run());
        Self { dir, inbox, source, commands, reports, state: shown, others, stop, counter, task }
    }

    async fn deliver(&self, sequences: std::ops::RangeInclusive<Sequence>) {
        for sequence in sequences {
            self.source.send(delivery(sequence)).await.unwrap();
        }
    }

    async fn outcome(&mut self) -> (Sequence, Verdict, u32, u32) {
        let outcome = timeout(LONG, self.reports.recv()).await.unwrap().unwrap();
        let FarView::At { watermark, .. } = self.inbox.view().await.unwrap() else { panic!("nothing is written down") };
        assert!(watermark >= outcome.sequence, "reported before it is durable");
        (outcome.sequence, outcome.verdict, outcome.attempts, outcome.in_doubt)
    }

    async fn ask(&self, order: Order, sequence: Sequence) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command { order, sequence, reply }).await.ok().unwrap();
        timeout(LONG, answer).await.unwrap().unwrap()
    }

    async fn held(&mut self) -> Held {
        timeout(LONG, self.state.wait_for(|state| state.held.is_some())).await.unwrap().unwrap().held.unwrap()
    }
}

#[tokio::test]
async fn messages_go_in_order_over_one_connection() {
    let receiver = Scripted::start(|_, sequence| say(ack("AA", sequence))).await;
    let mut stage = Stage::start(receiver.port, hasty());
    stage.deliver(1..=20).await;
    for sequence in 1..=20 {
        assert_eq!(stage.outcome().await, (sequence, Verdict::Delivered, 1, 0));
    }
    assert_eq!(receiver.got(), (1..=20).map(|sequence| (sequence, 0)).collect::<Vec<_>>());
    drop(stage.source);
    timeout(LONG, stage.task).await.unwrap().unwrap();
    let counts = stage.counter.counts();
    assert_eq!((counts.delivered, counts.connections, counts.retries), (20, 1, 0));
    assert!(counts.latency.is_some());
    assert_eq!(stage.state.borrow().receiver, Receiver::Up);
}

#[tokio::test]
async fn an_idle_connection_is_closed_for_somebody_who_waits() {
    let receiver = Scripted::start(|_, sequence| say(ack("AA", sequence))).await;
    let mut stage = Stage::start(receiver.port, hasty());
    stage.deliver(1..=1).await;
    stage.outcome().await;
    // It waits for messages: nothing but this wakes it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.others.send_replace(1);
    stage.others.send_replace(0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.others.send_replace(1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.others.send_replace(0);
    stage.deliver(2..=3).await;
    stage.outcome().await;
    stage.outcome().await;
    assert_eq!(receiver.got(), [(1, 0), (2, 1), (3, 1)]);
}

#[tokio::test]
async fn repeated_foreign_and_split_answers_retire_no_other_message() {
    let receiver = Scripted::start(|number, sequence| match number {
        0 => say([ack("AA", sequence), ack("AA", sequence)].concat()),
        // What is said of the first and of another one comes before the second's own answer.
        1 => Act::Say(vec![ack("AA", 1), ack("AA", 99), ack("AE", sequence)]),
        _ => Act::Say(ack("AA", sequence).chunks(7).map(<[u8]>::to_vec).collect()),
    })
    .await;
    let mut stage = Stage::start(receiver.port, hasty());
    stage.deliver(1..=3).await;
    assert_eq!(stage.outcome().await, (1, Verdict::Delivered, 1, 0));
    assert_eq!(stage.outcome().await, (2, Verdict::Delivered, 2, 0));
    assert_eq!(stage.outcome().await, (3, Verdict::Delivered, 1, 0));
    // The retry has the same control id: it has a connection of its own.
    assert_eq!(receiver.got(), [(1, 0), (2, 0), (2, 1), (3, 1)]);
    let dropped = stage.counter.counts().dropped;
    assert_eq!((dropped.late, dropped.foreign), (2, 1));
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_leaves_doubt() {
    let receiver = Scripted::start(|number, sequence| match number {
        0 => Act::Close,
        1 => Act::Ignore,
        _ => say(ack("AA", sequence)),
    })
    .await;
    let mut stage = Stage::start(receiver.port, hasty());
    stage.deliver(1..=2).await;
    assert_eq!(stage.outcome().await, (1, Verdict::Delivered, 3, 2));
    assert_eq!(stage.outcome().await, (2, Verdict::Delivered, 1, 0));
    assert_eq!(receiver.got(), [(1, 0), (1, 1), (1, 2), (2, 2)], "after a timeout the connection is dropped");
    assert_eq!(stage.counter.counts().in_doubt_resends, 2);
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_asked_three_times_and_orders_are_obeyed() {
    let receiver =
        Scripted::start(|_, sequence| if sequence < 3 { Act::Ignore } else { say(ack("AA", sequence)) }).await;
    let mut stage = Stage::start(receiver.port, ReceiverPolicy { ack_timeout: Duration::from_millis(50), ..hasty() });
    stage.deliver(1..=3).await;
    let held = stage.held().await;
    assert_eq!((held.sequence, held.reason), (1, Reason::InDoubt));
    assert_eq!(receiver.got().len(), 3);
    assert_eq!(stage.ask(Order::Withdraw, 2).await, Reply::Withdrawn);
    assert_eq!(stage.ask(Order::Withdraw, 7).await, Reply::Unknown);
    assert_eq!(stage.ask(Order::Retry, 1).await, Reply::Attempted);
    assert_eq!(stage.ask(Order::Withdraw, 1).await, Reply::Withdrawn);
    assert_eq!(stage.outcome().await.1, Verdict::Withdrawn);
    assert_eq!(stage.outcome().await, (2, Verdict::Withdrawn, 0, 0));
    assert_eq!(stage.outcome().await, (3, Verdict::Delivered, 1, 0));
    assert_eq!(stage.ask(Order::Withdraw, 3).await, Reply::Attempted);
    assert!(receiver.got().iter().all(|(sequence, _)| *sequence != 2));
    assert_eq!(stage.state.borrow().held, None);
}

#[tokio::test]
async fn errors_are_tried_again_and_rejects_are_set_aside() {
    let receiver = Scripted::start(|number, sequence| match (sequence, number) {
        (1, 0..=2) => say(ack("AE", 1)),
        (2, _) => say(ack("AR", 2)),
        (3, _) => say(ack("CE", 3)),
        _ => say(ack("AA", sequence)),
    })
    .await;
    let park = ReceiverPolicy { retries: 3, after_retries: Otherwise::Park, ..hasty() };
    let mut stage = Stage::start(receiver.port, park);
    stage.deliver(1..=4).await;
    assert_eq!(stage.outcome().await, (1, Verdict::Delivered, 4, 0));
    assert_eq!(stage.outcome().await, (2, Verdict::Rejected, 1, 0));
    assert_eq!(stage.outcome().await, (3, Verdict::Failed, 4, 0));
    assert_eq!(stage.outcome().await, (4, Verdict::Delivered, 1, 0));
}

#[tokio::test]
async fn a_receiver_that_closes_after_each_answer_leaves_no_doubt_while_it_is_idle() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let receiver = tokio::spawn(async move {
        for sequence in 1..=5 {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut buffer = Vec::new();
            while !buffer.ends_with(b"\x1c\r") {
                tcp.read_buf(&mut buffer).await.unwrap();
            }
            tcp.write_all(&ack("AA", sequence)).await.unwrap();
        }
    });
    let mut stage = Stage::start(port, hasty());
    for sequence in 1..=5 {
        stage.deliver(sequence..=sequence).await;
        assert_eq!(stage.outcome().await, (sequence, Verdict::Delivered, 1, 0));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    receiver.await.unwrap();
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_down_with_its_cause_and_met_when_it_comes() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut stage = Stage::start(port, hasty());
    stage.deliver(1..=1).await;
    let down = Receiver::Down("receiver_refuses");
    timeout(LONG, stage.state.wait_for(|state| state.receiver == down)).await.unwrap().unwrap();
    assert_eq!(stage.inbox.interrupted().await.unwrap(), None, "that is no attempt");
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (mut tcp, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    tcp.write_all(&[]).await.unwrap();
    let mut buffer = [0; 16];
    assert!(tcp.read(&mut buffer).await.unwrap() > 0);
    let attempt = stage.inbox.interrupted().await.unwrap().unwrap();
    assert!(attempt.under_way && attempt.number == 1, "written down before the first byte");
    tcp.write_all(&ack("AA", 1)).await.unwrap();
    assert_eq!(stage.outcome().await, (1, Verdict::Delivered, 1, 0));
}

#[tokio::test]
async fn without_answers_a_message_is_delivered_when_the_receivers_tcp_has_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let quiet = ReceiverPolicy { ack: AckKind::None, ack_timeout: LONG, ..hasty() };
    let mut stage = Stage::start(port, quiet);
    // More than the sockets of both ends hold: it is not there before the receiver reads.
    let mut large = delivery(1);
    large.payload.resize(32 << 20, b'x');
    let frame_bytes = large.payload.len() + 3;
    stage.source.send(large).await.unwrap();
    let (mut tcp, _) = listener.accept().await.unwrap();
    assert!(timeout(Duration::from_millis(200), stage.reports.recv()).await.is_err());
    let mut got = 0;
    let mut buffer = vec![0; 1 << 20];
    while got < frame_bytes {
        got += tcp.read(&mut buffer).await.unwrap();
    }
    assert_eq!(stage.outcome().await, (1, Verdict::Delivered, 1, 0));
    assert_eq!(got, frame_bytes);
}

#[tokio::test]
async fn what_was_cut_off_is_in_doubt_at_the_next_start() {
    let receiver =
        Scripted::start(|number, sequence| if number == 0 { Act::Ignore } else { say(ack("AA", sequence)) }).await;
    let stage = Stage::start(receiver.port, ReceiverPolicy { ack_timeout: LONG, ..hasty() });
    stage.deliver(1..=1).await;
    while receiver.got().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stage.task.abort();
    assert!(stage.task.await.is_err());
    let mut stage = Stage::with(stage.dir, stage.inbox, receiver.port, hasty());
    stage.deliver(1..=1).await;
    assert_eq!(stage.outcome().await, (1, Verdict::Delivered, 2, 1));
    stage.stop.send_replace(true);
    timeout(LONG, stage.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_waits_for_the_answer_under_way() {
    let receiver = Scripted::start(|_, sequence| Act::Say(vec![vec![], vec![], ack("AA", sequence)])).await;
    let mut stage = Stage::start(receiver.port, hasty());
    stage.deliver(1..=2).await;
    while receiver.got().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stage.stop.send_replace(true);
    timeout(LONG, &mut stage.task).await.unwrap().unwrap();
    assert_eq!(stage.outcome().await, (1, Verdict::Delivered, 1, 0));
    assert_eq!(receiver.got(), [(1, 0)]);
    assert_eq!(stage.inbox.interrupted().await.unwrap(), None);
}

/// Is a ledger whose commits fail as often as it says.
struct Failing(Mutex<u32>, Arc<Inbox>);

impl Ledger for Failing {
    async fn commit(&self, finished: Option<Finished>, attempting: Option<Attempt>) -> Result<(), SpoolError> {
        let fails = {
            let mut left = self.0.lock().unwrap();
            *left = left.saturating_sub(1);
            *left > 0
        };
        if fails { Err(SpoolError::Disk { path: "inbox".into() }) } else { self.1.commit(finished, attempting).await }
    }

    async fn interrupted(&self) -> Result<Option<Attempt>, SpoolError> {
        self.1.interrupted().await
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_while_it_cannot_be_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(dir.path(), "north", ForwardId([7; 16]), None).unwrap();
    let (source, from) = mpsc::channel(4);
    let (_commands, orders) = mpsc::channel(1);
    let (to, _reports) = mpsc::channel(4);
    let (state, mut shown) = watch::channel(DeliveryState::default());
    let (stop, stopped) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let conversation = Conversation {
        source: from,
        ledger: Arc::new(Failing(Mutex::new(u32::MAX), inbox)),
        dial: move || async move {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await.map_err(|_| "receiver_refuses")?;
            Ok((Socket::plain(tcp), ()))
        },
        policy: watch::Sender::new(hasty()).subscribe(),
        commands: orders,
        reports: to,
        state,
        counter: Arc::default(),
        paused: watch::channel(false).1,
        wanted: watch::channel(0).1,
        stop: stopped,
    };
    let task = tokio::spawn(conversation.run());
    source.send(delivery(1)).await.unwrap();
    let (mut tcp, _) = listener.accept().await.unwrap();
    shown.wait_for(|state| state.ledger_failed.is_some()).await.unwrap();
    assert!(shown.borrow().ledger_failed.as_ref().is_some_and(|error| error.contains("full")));
    tokio::time::sleep(LEDGER_PAUSE * 5).await;
    stop.send_replace(true);
    task.await.unwrap();
    let mut sent = Vec::new();
    tcp.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, b"");
}
