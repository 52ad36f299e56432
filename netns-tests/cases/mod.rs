//! The cases of `docs/mllp-cases.md`, each through a real pair of sites and in both deliveries: a sender that does what the
//! field does (`sender`), a receiver that does (`receiver`).
//!
//! ```text
//!   sender ─ 127.0.0.1:2575 orders, transparent [north] ═══ wire ═══ [south] orders ─ 127.0.0.1:6661 receiver
//!            127.0.0.1:2585 kept, stored                               kept   ─ 127.0.0.1:6671 receiver
//! ```

pub(crate) mod receiver;
pub(crate) mod sender;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::harness::mllp::{Behaviour, Lost, Receiver, Sender, answer_to, control_id, framed};
use crate::harness::pair::{FORWARD, Pair, TARGET, loopback};
use crate::harness::plan::Plan;
use crate::harness::until;

/// Is where senders connect whose messages are stored.
const KEPT: SocketAddr = loopback(2585);

/// Is where their receiver listens.
const KEPT_TARGET: SocketAddr = loopback(6671);

/// Bounds what two sites do by themselves.
const SOON: Duration = Duration::from_secs(15);

/// Is how long a test looks at something that must not happen.
const QUIET: Duration = Duration::from_millis(400);

/// Is two sites with a forward of each delivery, and the receiver of each.
struct Both {
    pair: Pair,
    orders: Receiver,
    kept: Receiver,
}

/// Is two connections of a sender: in transparent delivery, and in stored.
struct Senders {
    orders: Sender,
    kept: Sender,
}

/// Accepts a message wherever its first header is.
fn accept(payload: &[u8]) -> Vec<Vec<u8>> {
    let at = memchr::memmem::find(payload, b"MSH").expect("a header");
    vec![framed(&answer_to(&payload[at..], "AA"))]
}

/// Starts both sites with these lines in the forwards, and in the services; no receiver listens.
#[track_caller]
fn sites(stored: &[&str], forward: &[&str], service: &[&str]) -> Pair {
    let mut pair = Pair::unstarted();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let kept: Vec<&str> = ["delivery: stored"].iter().chain(stored).chain(forward).copied().collect();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let north = north.forward("orders", FORWARD, "south", "service: orders", forward);
    let north = north.forward("kept", KEPT, "south", "service: kept", &kept);
    let south = Plan::of(&pair.south).peer(&pair.north);
    let south = south.service("orders", TARGET, "north", service);
    pair.south.start(&south.service("kept", KEPT_TARGET, "north", service));
    pair.north.start(&north);
    pair.is_linked();
    pair
}

impl Both {
    /// Starts both sites with these lines in the forwards, and receivers that accept all.
    #[track_caller]
    fn start(forward: &[&str]) -> Self {
        Self::with(&[], forward, &[], Behaviour::Answer("AA"))
    }

    /// Does the same with receivers that behave so, and with lines of the stored forward alone and of the services.
    #[track_caller]
    fn with(stored: &[&str], forward: &[&str], service: &[&str], behaviour: Behaviour) -> Self {
        let pair = sites(stored, forward, service);
        let orders = pair.receiver(behaviour);
        let kept = Receiver::start(&pair.south.namespace, KEPT_TARGET, behaviour);
        Self { pair, orders, kept }
    }

    #[track_caller]
    fn senders(&self) -> Senders {
        let connect = |to| Sender::connect(&self.pair.north.namespace, to).expect("the forward listens");
        Senders { orders: connect(FORWARD), kept: connect(KEPT) }
    }

    /// Returns what health says of the forwards: the transparent one, the stored one.
    #[track_caller]
    fn forwards(&self) -> [Value; 2] {
        ["orders", "kept"].map(|name| self.pair.north.health_of("forwards", name))
    }

    /// Waits until both forwards have counted this.
    #[track_caller]
    fn counted(&self, list: &str, code: &str, times: u64) {
        let seen = || self.forwards().iter().all(|forward| forward[list][code] == times).then_some(());
        until(SOON, &format!("{list} {code} is {times} in both: {:?}", self.forwards()), seen);
    }

    /// Waits until the stored messages are where they belong, and nothing else.
    #[track_caller]
    fn delivered(&self, payloads: &[Vec<u8>]) {
        let delivered = || (self.kept.payloads().len() >= payloads.len()).then_some(());
        until(SOON, "the stored messages are delivered", delivered);
        assert!(self.kept.payloads() == payloads, "{} stored messages, each as it was", payloads.len());
        self.settled();
    }

    /// Waits until no stored message waits.
    #[track_caller]
    fn settled(&self) {
        until(SOON, "the queue is empty", || (self.forwards()[1]["queue_depth"] == 0).then_some(()));
    }

    /// Waits until the stored message is held: its outcome is not known.
    #[track_caller]
    fn held(&self) {
        until(SOON, "the queue is held", || (self.forwards()[1]["queue"]["state"] == "held").then_some(()));
    }

    /// Writes these pieces, one segment each, in both deliveries. Expects that all bytes arrive as they are and every
    /// message is answered by its receiver; that stored ones are acknowledged and delivered, each once and in order.
    #[track_caller]
    fn passes(&self, pieces: &[&[u8]], payloads: &[Vec<u8>]) {
        let mut senders = self.senders();
        for piece in pieces {
            senders.write(piece);
            std::thread::sleep(Duration::from_millis(10));
        }
        for payload in payloads {
            assert_eq!(senders.orders.answer(SOON), Ok(answer_to(payload, "AA")), "the receiver's own answer");
            assert_eq!(senders.kept_code(), ("AA".to_owned(), control_id(payload).to_vec()));
        }
        assert!(self.orders.payloads() == payloads);
        let stream = pieces.concat();
        until(SOON, "the last byte arrives", || (self.orders.raw().len() >= stream.len()).then_some(()));
        assert!(self.orders.raw() == stream, "not a byte is changed, between the messages either");
        self.delivered(payloads);
    }

    /// Writes bytes in both deliveries, and expects that both connections are closed for this reason, without an answer
    /// and without a message.
    #[track_caller]
    fn refuses(&self, bytes: &[u8], reason: &str, times: u64) {
        let mut senders = self.senders();
        for sender in [&mut senders.orders, &mut senders.kept] {
            // it may be closed before all of it is written
            let _ = sender.stream.write_all(bytes);
            assert_eq!(sender.answer(SOON), Err(Lost::Closed), "{reason}");
        }
        self.counted("closed", reason, times);
        assert!(self.orders.payloads().is_empty() && self.kept.payloads().is_empty());
    }
}

impl Senders {
    /// Writes bytes in one segment on both connections.
    #[track_caller]
    fn write(&mut self, bytes: &[u8]) {
        self.orders.stream.write_all(bytes).expect("open");
        self.kept.stream.write_all(bytes).expect("open");
    }

    /// Waits for the answer in stored delivery: MSA-1 and MSA-2.
    #[track_caller]
    fn kept_code(&mut self) -> (String, Vec<u8>) {
        let answer = self.kept.answer(SOON).expect("an answer");
        let msa = answer.split(|byte| *byte == b'\r').nth(1).expect("an MSA").to_vec();
        let separator = msa[3];
        let fields: Vec<&[u8]> = msa.split(|byte| *byte == separator).collect();
        (String::from_utf8_lossy(fields[1]).into_owned(), fields.get(2).copied().unwrap_or_default().to_vec())
    }

    /// Expects that nothing comes, and both connections stay open.
    #[track_caller]
    fn are_silent(&mut self) {
        for sender in [&mut self.orders, &mut self.kept] {
            assert_eq!(sender.answer(QUIET), Err(Lost::Late));
        }
    }
}
