//! Long outages, whoever lost the wire: messages flow within 2 s of its return, and no sender's connection is lost that
//! `hold_for` covers. 20 s here, after which both the link and the session have been found dead; the real 40 s, 100 s (a
//! handshake is given up after 90 s) and 10 minutes (a peer after 540 s) with `WARDLINK_NETNS_FULL=1`, which prints what
//! it measured.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::capture::Capture;
use crate::harness::load::Load;
use crate::harness::mllp::{Behaviour, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::Plan;
use crate::harness::{full, tests};

tests![messages_flow_after_an_outage, a_hub_without_endpoints_calls_by_itself];

/// Is the number of senders, each with a message under way when the wire goes.
const SENDERS: usize = 4;

/// Bounds the time until a first batch has passed.
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);

/// Bounds the time from the wire's return until every sender has an answer: the acceptance criterion.
const FLOW_LIMIT: Duration = Duration::from_secs(2);

/// Bounds how long it is waited in all, so that a failure says how late it was.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Bounds the wait of a sender for one answer: above `hold_for`.
const ANSWER_LIMIT: Duration = Duration::from_secs(1000);

/// Says where the wire is cut.
#[derive(Clone, Copy, Debug)]
enum Loser {
    Near,
    Far,
    Both,
    Middle,
}

impl Loser {
    fn cut(self, pair: &Pair) {
        match self {
            Self::Near => pair.wire.unplug(&pair.north),
            Self::Far => pair.wire.unplug(&pair.south),
            Self::Both => {
                pair.wire.unplug(&pair.north);
                pair.wire.unplug(&pair.south);
            }
            Self::Middle => pair.wire.cut(),
        }
    }

    fn mend(self, pair: &Pair) {
        match self {
            Self::Near => pair.wire.plug(&pair.north),
            Self::Far => pair.wire.plug(&pair.south),
            Self::Both => {
                pair.wire.plug(&pair.north);
                pair.wire.plug(&pair.south);
            }
            Self::Middle => pair.wire.mend(),
        }
    }
}

fn survives(loser: Loser, cut: Duration) {
    let pair = Pair::start(&["on_unreachable: hold", "hold_for: 15m"]);
    let receiver = pair.receiver(Behaviour::Answer("AA"));
    let load = Load::patient(&pair.north.namespace, FORWARD, SENDERS, ANSWER_LIMIT);
    load.flows_again(Instant::now(), WARM_UP_LIMIT);
    loser.cut(&pair);
    let before = load.acked();
    thread::sleep(cut);
    assert!(load.acked() <= before + SENDERS, "the wire was cut");
    loser.mend(&pair);
    let took = load.flows_again(Instant::now(), GIVE_UP);
    let report = load.finish();
    if full() {
        eprintln!("{loser:?} without a wire for {cut:?}: flows after {took:?}, {} connections lost", report.lost);
    }
    report.holds(&[&receiver]);
    assert_eq!(report.lost, 0, "connections lost");
    assert_eq!(receiver.payloads().len(), report.acked.len(), "each message is delivered once");
    assert!(took < FLOW_LIMIT, "{took:?} after the wire's return");
}

/// Cuts the wire in every way for every duration, all at once, each at a pair of sites of its own.
fn messages_flow_after_an_outage() {
    let cuts_s: &[u64] = if full() { &[40, 100, 600] } else { &[20] };
    thread::scope(|scope| {
        for loser in [Loser::Near, Loser::Far, Loser::Both, Loser::Middle] {
            for cut_s in cuts_s {
                scope.spawn(move || survives(loser, Duration::from_secs(*cut_s)));
            }
        }
    });
}

/// A hub whose peer has come before knows after a restart where to call, though its configuration does not say it.
fn a_hub_without_endpoints_calls_by_itself() {
    let mut pair = Pair::unstarted();
    let (_, south) = pair.plans(&[]);
    let hub = Plan::of(&pair.north).peer_that_comes(&pair.south);
    pair.north.start(&hub.forward("orders", FORWARD, "south", "service: orders", &["hold_for: 10s"]));
    pair.south.start(&south);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("before", 500));
    pair.north.kill();
    // so that it cannot be the one that calls
    pair.south.program().signal(Signal::SIGSTOP);
    let capture = Capture::start(&pair.wire.namespace);
    pair.north.restart();
    thread::sleep(Duration::from_millis(300));
    let called = capture.finish().wireguard();
    pair.south.program().signal(Signal::SIGCONT);
    assert!(called > 0, "the hub calls");
    pair.sender().exchange(&message("after", 500));
}
