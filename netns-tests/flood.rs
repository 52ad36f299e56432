//! A flood of handshakes from forged sources, and one from a source that has a cookie: an established link keeps its
//! message rate, a new peer gets in, the memory stays as it is.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::flood::{Flood, initiation_with_cookie};
use crate::harness::mllp::{Behaviour, Sender, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::{Plan, UDP_PORT};
use crate::harness::{full, tests, until};

tests![an_established_link_keeps_its_rate_and_a_new_peer_gets_in, a_source_with_a_cookie_takes_nothing_from_others,];

/// Is a port where nobody listens.
const CLOSED_PORT: u16 = 51_999;

/// Is the number of senders, each sending as fast as it is answered.
const SENDERS: usize = 4;

/// Bounds the time until a new peer has a session during a flood: it comes again until it is asked for a cookie, each
/// second first, then every 5 s.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

/// Bounds the handshakes of one source that are let in: 20 a second, beside the 100 a second that ask for no cookie.
const LET_IN_PER_SECOND: f64 = 120.0;

/// Bounds the memory that a flood may cost, in bytes.
const MEMORY_MAX: u64 = 2 << 20;

/// Is the flood, in initiations a second, how long each phase is, and the share of the rate that must remain: a machine that
/// is busy with other tests decides it, so that it is judged at full size alone.
struct Size {
    rate: u64,
    phase: Duration,
    rounds: usize,
    share: Option<f64>,
}

fn size() -> Size {
    if full() {
        Size { rate: 50_000, phase: Duration::from_secs(5), rounds: 5, share: Some(0.8) }
    } else {
        Size { rate: 5000, phase: Duration::from_secs(1), rounds: 1, share: None }
    }
}

fn an_established_link_keeps_its_rate_and_a_new_peer_gets_in() {
    let size = size();
    let mut pair = Pair::unstarted();
    let mut east = pair.wire.site("east");
    let (north, south) = pair.plans(&[]);
    pair.south.start(&south.peer_that_comes(&east));
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("first", 500));

    let let_in = LetIn::until_now(&pair);
    let memory = pair.south.program().memory_peak_bytes();
    let phase = |name: &str, flood: Option<Flood>| {
        let count = messages_within(&pair, size.phase);
        let flooded = flood.as_ref().map_or(0, Flood::rate);
        eprintln!("{name}: {count} messages in {:?}, {flooded} initiations/s", size.phase);
        count
    };
    let (mut closed, mut open) = (Vec::new(), Vec::new());
    phase("no flood", None);
    for _ in 0..size.rounds {
        closed.push(phase("closed port", Some(Flood::start(&pair.wire, &pair.south, CLOSED_PORT, size.rate))));
        open.push(phase("our port", Some(Flood::start(&pair.wire, &pair.south, UDP_PORT, size.rate))));
    }
    let share = median(&mut open) / median(&mut closed);
    eprintln!("share {share:.2}");

    let flood = Flood::start(&pair.wire, &pair.south, UDP_PORT, size.rate);
    let (cpu, start) = (cpu_time(&pair), Instant::now());
    thread::sleep(size.phase);
    let share_of_core = (cpu_time(&pair) - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    eprintln!("the flood alone takes {share_of_core:.2} of a core");
    let start = Instant::now();
    east.start(&Plan::of(&east).peer(&pair.south));
    until(JOIN_LIMIT, "the new peer has a session", || (east.metric("peer_session", "") > 0.5).then_some(()));
    eprintln!("the new peer got in after {:?} at {} initiations/s", start.elapsed(), flood.rate());
    drop(flood);
    assert!(pair.south.metric("dropped_total", "reason=\"under_load\"") > 100.0, "there was no flood");
    let grown = pair.south.program().memory_peak_bytes().saturating_sub(memory);
    eprintln!("memory grew by {grown} bytes");
    assert!(size.share.is_none_or(|least| share >= least), "{share:.2} of the rate is left");
    let_in.are_few(&pair);
    assert!(grown <= MEMORY_MAX, "{grown} bytes more");
}

fn a_source_with_a_cookie_takes_nothing_from_others() {
    let size = size();
    let mut pair = Pair::unstarted();
    let mut east = pair.wire.site("east");
    let (north, south) = pair.plans(&[]);
    pair.south.start(&south.peer_that_comes(&east));
    pair.north.start(&north);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    pair.sender().exchange(&message("first", 500));

    let (socket, initiation) = initiation_with_cookie(&pair.north, &pair.south);
    let let_in = LetIn::until_now(&pair);
    let flood = Cookied::start(socket, initiation, size.rate);
    let answered = messages_within(&pair, size.phase);
    east.start(&Plan::of(&east).peer(&pair.south));
    until(JOIN_LIMIT, "the new peer has a session", || (east.metric("peer_session", "") > 0.5).then_some(()));
    let refused = || pair.south.metric("dropped_total", "reason=\"too_many_handshakes\"");
    until(JOIN_LIMIT, "the source, which has a cookie, is refused", || (refused() > 100.0).then_some(()));
    drop(flood);
    assert!(answered > 0, "messages pass");
    let_in.are_few(&pair);
}

/// Counts initiations that south lets in: each costs it a Diffie-Hellman, and ends as one of an unknown peer.
struct LetIn {
    before: f64,
    since: Instant,
}

impl LetIn {
    fn count(pair: &Pair) -> f64 {
        pair.south.metric("dropped_total", "reason=\"unknown_peer\"")
    }

    fn until_now(pair: &Pair) -> Self {
        Self { before: Self::count(pair), since: Instant::now() }
    }

    #[track_caller]
    fn are_few(&self, pair: &Pair) {
        let (seconds, let_in) = (self.since.elapsed().as_secs_f64(), Self::count(pair) - self.before);
        eprintln!("{let_in} initiations in {seconds:.1} s were let in");
        assert!(let_in > 0.0 && let_in <= LET_IN_PER_SECOND * (seconds + 1.0), "{let_in} in {seconds:.1} s");
    }
}

/// Is a flood from a source that has a cookie; it ends when it is dropped.
struct Cookied {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cookied {
    fn start(socket: UdpSocket, initiation: Vec<u8>, rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..rate / 1000 {
                    let _ = socket.send(&initiation);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Cookied {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads the processor time that south has used, in ticks of 10 ms (proc(5)).
fn cpu_time(pair: &Pair) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pair.south.process_id())).expect("it runs");
    let fields = stat.rsplit(") ").next().expect("fields").split(' ');
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Counts the messages that [`SENDERS`] get answered within `time`.
fn messages_within(pair: &Pair, time: Duration) -> usize {
    let answered = Arc::new(AtomicUsize::new(0));
    let until = Instant::now() + time;
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let answered = Arc::clone(&answered);
            let mut sender = Sender::connect(&pair.north.namespace, FORWARD).expect("the forward listens");
            thread::spawn(move || {
                let payload = message("flood", 500);
                while Instant::now() < until {
                    sender.exchange(&payload);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().expect("every message is answered");
    }
    answered.load(Ordering::Relaxed)
}

fn median(counts: &mut [usize]) -> f64 {
    counts.sort_unstable();
    f64::from(u32::try_from(counts[counts.len() / 2]).expect("a short test"))
}
