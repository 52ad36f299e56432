//! Receivers: each case goes to the peer directly, then through the tunnel, and must come to the same; then through a
//! stored forward. And `wardlink doctor` must tell what the peer does.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::cases::{self, Wire};
use super::{Delivery, msa, program, record};
use crate::harness::mllp::{Lost, Sender};
use crate::harness::namespace::Namespace;
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::Plan;
use crate::harness::process::Process;
use crate::harness::{Case, tests, until};
use crate::stored_intake::done;

/// Bounds the start of a peer, on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Is how long an answer may take that comes: a machine that is busy.
const DUE_LIMIT: Duration = Duration::from_secs(10);

/// Is how long no answer is taken for none, of a peer that answers in milliseconds.
const NONE_LIMIT: Duration = Duration::from_millis(600);

/// Is how long an answer to 1 MiB may take.
const LARGE_LIMIT: Duration = Duration::from_secs(5);

/// Is how long answers are looked for that are not due.
const SURPLUS_LIMIT: Duration = Duration::from_millis(150);

/// Bounds the time until a queue has delivered what it can: three attempts, 1 s each without an answer.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// Is how a pause between two pieces of a case is.
const PIECE_PAUSE: Duration = Duration::from_millis(20);

macro_rules! receivers {
    ($($module:ident: $name:literal, $need:literal, $script:literal, $doctor:expr;)+) => {
        $(mod $module {
            use super::*;

            tests![
                transparent needs $need,
                stored needs $need,
                doctor needs $need,
            ];

            fn transparent() {
                Peer { name: $name, script: $script }.transparent();
            }

            fn stored() {
                Peer { name: $name, script: $script }.stored();
            }

            fn doctor() {
                Peer { name: $name, script: $script }.doctor($doctor);
            }
        })+

        /// Lists the tests of all receivers.
        pub(super) fn tests() -> Vec<Case> {
            [$($module::tests()),+].into_iter().flatten().collect()
        }
    };
}

receivers! {
    python_hl7: "python-hl7", "peer:python-hl7", "python_hl7_receiver.py", &[
        ("connection", "AA", "persistent"), ("line end behind", "closed", "not tolerated"),
        ("pipelining", "3 of 3", "need not wait"), ("size", "closed", "between 16KiB and 64KiB"),
    ];
    hl7apy: "hl7apy", "peer:hl7apy", "hl7apy_receiver.py", &[
        ("connection", "closed", "one message a connection"), ("NUL behind", "AA", "tolerated"),
        ("pipelining", "one message", "does not apply"),
    ];
    simple_hl7: "simple-hl7", "peer:simple-hl7", "simple_hl7_receiver.js", &[
        ("connection", "AA", "persistent"), ("pipelining", "1 of 3", "loses"),
        ("line end behind", "no answer", "not tolerated"),
    ];
    node_hl7_server: "node-hl7-server", "peer:node-hl7-server", "node_hl7_server_receiver.js", &[
        ("connection", "AA", "persistent"), ("answer time", "came again", "ack_timeout"),
        ("line end behind", "AA", "tolerated"),
    ];
}

/// Is a peer's receiver.
struct Peer {
    name: &'static str,
    script: &'static str,
}

/// Is what a sender sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Are the answers, as `AA 7`, in order, over all connections.
    answers: Vec<String>,
    /// Says that a connection ended while answers were due.
    closed: bool,
}

impl Seen {
    /// Says in a few words what the peer did.
    fn words(&self, wire: &Wire) -> String {
        let due = wire.answers();
        if self.answers == due {
            return "ok".to_owned();
        }
        if self.answers == wire.ids().iter().map(|id| format!("AA {id}")).collect::<Vec<_>>() {
            return "AA, where CA is asked for".to_owned();
        }
        let named = due.iter().filter(|answer| self.answers.contains(answer)).count();
        let mut words = Vec::new();
        if named < due.len() {
            words.push(format!("{named} of {} answered", due.len()));
        }
        let other = self.answers.iter().filter(|answer| !due.contains(answer)).count();
        if self.answers.len() > named + other {
            words.push("repeats answers".to_owned());
        }
        if other > 0 {
            words.push("names another message, or none".to_owned());
        }
        if self.closed {
            words.push("closes".to_owned());
        }
        words.join(", ")
    }
}

/// Makes a case at `to`, as a sender does. `as_before` is what came elsewhere: as much is waited for here.
fn make(namespace: &Namespace, to: SocketAddr, wire: &Wire, as_before: Option<&Seen>) -> Seen {
    let mut seen = Seen::default();
    let connect = || Sender::connect(namespace, to).expect("it listens");
    let mut open: Vec<Sender> =
        if wire.at_once { wire.connections.iter().map(|_| connect()).collect() } else { Vec::new() };
    for steps in &wire.connections {
        let mut sender = if wire.at_once { open.remove(0) } else { connect() };
        for step in steps {
            for (number, piece) in step.pieces.iter().enumerate() {
                if number > 0 {
                    thread::sleep(if step.pieces.len() > 9 { Duration::from_millis(1) } else { PIECE_PAUSE });
                }
                // a peer may have closed already
                let _ = sender.stream.write_all(piece);
            }
            if step.is_last {
                let _ = sender.stream.shutdown(Shutdown::Write);
            }
            for _ in &step.due {
                let limit = match as_before {
                    Some(before) if before.answers.len() > seen.answers.len() => DUE_LIMIT,
                    Some(before) if before.closed => DUE_LIMIT,
                    _ if wire.number == 16 => LARGE_LIMIT,
                    _ => NONE_LIMIT,
                };
                match sender.answer(limit) {
                    Ok(answer) => seen.answers.push(msa(&answer)),
                    Err(lost) => {
                        seen.closed |= lost == Lost::Closed;
                        break;
                    }
                }
            }
        }
        while let Ok(answer) = sender.answer(SURPLUS_LIMIT) {
            seen.answers.push(msa(&answer));
        }
    }
    seen
}

/// Returns the lines that a peer has written since there were so many, with the run taken out of the control ids.
fn read_since(kept: &Path, lines: usize, run: &str) -> Vec<String> {
    let run: String = run.bytes().map(|byte| format!("{byte:02x}")).collect();
    let text = std::fs::read_to_string(kept).unwrap_or_default();
    text.lines().skip(lines).map(|line| if run.is_empty() { line.to_owned() } else { line.replace(&run, "") }).collect()
}

/// Says that a peer answered, and that what it handed on is not what it got: it decoded bytes that are not UTF-8.
const OTHER_BYTES: &str = "answered, but it reads other bytes";

/// Tells whether a peer has read every payload of a case, byte for byte.
fn has_read(kept: &Path, wire: &Wire) -> bool {
    let text = std::fs::read_to_string(kept).unwrap_or_default();
    let hex = |payload: &Vec<u8>| payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    wire.payloads().iter().all(|payload| text.contains(&hex(payload)))
}

/// Takes the run out of the control ids, so that two runs compare.
fn without_run(seen: &Seen, run: &str) -> Seen {
    Seen { answers: seen.answers.iter().map(|answer| answer.replacen(run, "", 1)).collect(), closed: seen.closed }
}

impl Peer {
    fn start(&self, pair: &Pair) -> (Process, PathBuf) {
        let dir = &pair.south.dir;
        let (kept, port) = (dir.join("kept"), TARGET.port().to_string());
        let words = program(self.script, &[&port, &kept.display().to_string()]);
        let process = Process::start(&pair.south.namespace, &words, &dir.join("peer.log"));
        until(START_LIMIT, "the peer listens", || pair.south.namespace.connect(TARGET).ok());
        (process, kept)
    }

    /// Says whether a case is left out: hl7apy's time grows with the square of a message's size, minutes for 1 MiB.
    fn skips(&self, wire: &Wire) -> bool {
        self.name == "hl7apy" && wire.number == 16
    }

    fn transparent(&self) {
        let pair = Pair::start(&[]);
        let (peer, kept) = self.start(&pair);
        let mut wrong = Vec::new();
        for number in 0..cases::all("").len() {
            let mut last = None;
            // twice where the first differs: a machine that is busy may delay one side's answers
            for (direct_run, through_run) in [("q-", "r-"), ("v-", "w-")] {
                let (direct, through) = (&cases::all(direct_run)[number], &cases::all(through_run)[number]);
                if self.skips(direct) {
                    record(self.name, Delivery::Transparent, direct.number, "not run: it would take minutes");
                    last = None;
                    break;
                }
                let none = read_since(&kept, 0, "").len();
                let at_peer = make(&pair.south.namespace, TARGET, direct, None);
                let read_directly = read_since(&kept, none, direct_run);
                let tunnelled = make(&pair.north.namespace, FORWARD, through, Some(&at_peer));
                let read_through = read_since(&kept, none + read_directly.len(), through_run);
                let mut words = at_peer.words(direct);
                // what it read is complete once it has answered all; connections at once have no order
                if words == "ok" && !direct.at_once {
                    assert_eq!(read_directly, read_through, "case {}: what the peer read", direct.number);
                }
                if words == "ok" && !has_read(&kept, direct) {
                    words = OTHER_BYTES.to_owned();
                }
                let (bare, same) = (without_run(&at_peer, direct_run), without_run(&tunnelled, through_run));
                let is_same = bare == same;
                last = Some((direct.number, words, bare, same));
                if is_same {
                    break;
                }
            }
            if let Some((case, words, bare, same)) = last {
                let is_same = bare == same;
                let words =
                    if is_same { words } else { format!("FAILED: {bare:?} directly, {same:?} through the tunnel") };
                record(self.name, Delivery::Transparent, case, &words);
                if !is_same {
                    wrong.push(format!("case {case}: {words}\n"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}{}", wrong.concat(), peer.log());
    }

    fn stored(&self) {
        let mut pair = Pair::unstarted();
        let key = pair.north.dir.join("spool.key").display().to_string();
        let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
        let north = north.forward("orders", FORWARD, "south", "service: orders", &["delivery: stored"]);
        let policy = ["ack_timeout: 1s", "retries: 0", "retry_min: 100ms", "after_retries: park"];
        let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &policy);
        pair.south.start(&south);
        pair.north.start(&north);
        pair.is_linked();
        let (peer, kept) = self.start(&pair);
        let mut wrong = Vec::new();
        for wire in &cases::all("s-") {
            if self.skips(wire) {
                record(self.name, Delivery::Stored, wire.number, "not run: it would take minutes");
                continue;
            }
            let expected = Seen { answers: wire.ids(), closed: false };
            let seen = make(&pair.north.namespace, FORWARD, wire, Some(&expected));
            let outcome = self.settled(&pair, &kept, wire, &seen);
            record(self.name, Delivery::Stored, wire.number, outcome.as_deref().unwrap_or_else(|error| error));
            if let Err(error) = outcome {
                wrong.push(format!("case {}: {error}\n", wire.number));
            }
        }
        assert!(wrong.is_empty(), "{}{}", wrong.concat(), peer.log());
    }

    /// Waits until the queue has delivered or holds what it took in, and says what became of it; an error is a message
    /// that was acknowledged and is nowhere, or one that was not acknowledged though it should.
    fn settled(&self, pair: &Pair, kept: &Path, wire: &Wire, seen: &Seen) -> Result<String, String> {
        let positive = |id: &&String| ["AA", "CA"].iter().any(|code| seen.answers.contains(&format!("{code} {id}")));
        let ids = wire.ids();
        if let Some(lost) = ids.iter().find(|id| !positive(id)) {
            return Err(format!("FAILED: {lost} got no acknowledgement of wardlink's: {seen:?}"));
        }
        let mut held = 0;
        loop {
            let (stuck, _) = until(SETTLE_LIMIT, "the queue is empty or held", || {
                let queue = entries(pair);
                let waiting: Vec<_> = queue.into_iter().filter(|(_, (state, _))| state == "queued").collect();
                match waiting.first() {
                    None => Some(None),
                    Some((sequence, (_, true))) => Some(Some(*sequence)),
                    Some(_) => None,
                }
            });
            let Some(sequence) = stuck else { break };
            held += 1;
            done(pair, &format!("queue park orders {sequence}"));
        }
        let parked = entries(pair).values().filter(|(state, _)| state == "parked").count();
        for (sequence, (state, _)) in entries(pair) {
            if state == "parked" {
                done(pair, &format!("queue discard orders {sequence} --reason peer"));
            }
        }
        let read = std::fs::read_to_string(kept).unwrap_or_default();
        let arrived: Vec<String> = read.lines().map(last_id).filter(|id| ids.contains(id)).collect();
        let mut once = arrived.clone();
        once.dedup();
        let delivered = ids.len() - parked;
        if once.len() < delivered {
            return Err(format!("FAILED: delivered were {delivered} of {ids:?}, the peer read {arrived:?}"));
        }
        if !once.is_sorted_by_key(|id| ids.iter().position(|due| due == id)) && !wire.at_once {
            return Err(format!("FAILED: the order of {ids:?} is {arrived:?}"));
        }
        let mut words = Vec::new();
        if parked > 0 {
            let why = if held > 0 { "no answer of its own: held" } else { "refused: parked" };
            words.push(format!("{parked} of {} {why}", ids.len()));
        } else if has_read(kept, wire) {
            words.push("ok".to_owned());
        } else if self.name == "python-hl7" {
            return Err("FAILED: the peer, which decodes nothing, read other bytes".to_owned());
        } else {
            words.push(OTHER_BYTES.to_owned());
        }
        if arrived.len() > once.len() {
            words.push("sent again".to_owned());
        }
        Ok(words.join(", "))
    }

    /// Has the doctor look at the peer; each of `expected` is a probe, a part of what came, a part of what it means.
    fn doctor(&self, expected: &[(&str, &str, &str)]) {
        let pair = Pair::unstarted();
        let (peer, _) = self.start(&pair);
        let target = TARGET.to_string();
        let words = ["doctor", &target, "--test-receiver", "--json", "--max-size", "64KiB"];
        let output = pair.south.namespace.output(&pair.south.command(&words).join(" "));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for (probe, came, means) in expected {
            let lines = found["probes"].as_array().expect("probes");
            let line = lines.iter().find(|line| line["probe"] == *probe).expect("the probe");
            let has = |key: &str, part: &str| line[key].as_str().is_some_and(|text| text.contains(part));
            assert!(has("came", came) && has("means", means), "{probe}: {line}, not {came}, {means}\n{}", peer.log());
        }
        assert_eq!(found["yaml"].as_str().is_some_and(|yaml| yaml.contains("in_doubt: resend")), self.name == "hl7apy");
    }
}

/// Returns state of each message, and whether the queue is held there.
fn entries(pair: &Pair) -> BTreeMap<u64, (String, bool)> {
    let text = done(pair, "queue list orders --all --json");
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    let entry = |entry: &serde_json::Value| {
        let state = entry["state"].as_str().expect("a word").to_owned();
        (entry["sequence"].as_u64().expect("a number"), (state, entry["held"].is_object() || entry["held"].is_string()))
    };
    json["entries"].as_array().expect("entries").iter().map(entry).collect()
}

/// Returns MSH-10 of the last message in a line of hex; node-hl7-server hands over the earlier ones again, too.
fn last_id(line: &str) -> String {
    let bytes: Vec<u8> =
        (0..line.len() / 2).filter_map(|n| u8::from_str_radix(&line[2 * n..2 * n + 2], 16).ok()).collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let last = text.rfind("MSH").map(|at| &text[at..]).unwrap_or_default();
    last.split(['|', '#']).nth(9).unwrap_or_default().to_owned()
}
