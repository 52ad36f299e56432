//! Senders: each sends to a receiver that answers in some manner, directly and through the tunnel, and must see the same;
//! then through a stored forward, where it sees wardlink's own answers, and the receiver gets every message.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::{Delivery, msa, program, record};
use crate::harness::mllp::{Frames, answer_to, control_id, framed, message};
use crate::harness::namespace::Namespace;
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::Plan;
use crate::harness::{Case, tests, until};

/// Is the pause between the two halves of an answer: no peer takes them for one read.
const HALF_PAUSE: Duration = Duration::from_millis(150);

/// Bounds the time until stored messages have arrived: an attempt without an answer takes 1 s.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

macro_rules! senders {
    ($($module:ident: $name:literal, $need:literal, $script:literal;)+) => {
        $(mod $module {
            use super::*;

            tests![transparent needs $need, stored needs $need];

            fn transparent() {
                super::transparent($name, $script);
            }

            fn stored() {
                super::stored($name, $script);
            }
        })+

        /// Lists the tests of all senders.
        pub(super) fn tests() -> Vec<Case> {
            [$($module::tests()),+].into_iter().flatten().collect()
        }
    };
}

senders! {
    python_hl7_client: "python-hl7 client", "peer:python-hl7", "python_hl7_sender.py";
    node_hl7_client: "node-hl7-client", "peer:node-hl7-client", "node_hl7_client_sender.js";
    simple_hl7_client: "simple-hl7 client", "peer:simple-hl7", "simple_hl7_sender.js";
}

/// Says how a receiver answers the first message; all others it answers at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    AtOnce,
    /// In two segments.
    Halved,
    /// Twice.
    Twice,
    /// With another message's answer before its own.
    ForeignFirst,
    /// It closes instead.
    Closes,
}

/// Lists the cases of the design that a sender can meet, with the manner of the receiver, messages, and their bytes.
const CASES: [(u8, Manner, usize, usize); 6] = [
    (19, Manner::AtOnce, 3, 400),
    (17, Manner::AtOnce, 1, 60_000),
    (22, Manner::Closes, 1, 400),
    (27, Manner::ForeignFirst, 2, 400),
    (28, Manner::Twice, 2, 400),
    (37, Manner::Halved, 2, 400),
];

/// Is a receiver that keeps the control ids of what it got, in order.
struct Answering {
    got: Arc<Mutex<Vec<Vec<u8>>>>,
    manner: Arc<Mutex<Manner>>,
}

impl Answering {
    fn start(namespace: &Namespace, at: SocketAddr) -> Self {
        let listener: TcpListener = namespace.listen(at).expect("the receiver's port is free");
        let (got, manner) = (Arc::default(), Arc::new(Mutex::new(Manner::AtOnce)));
        let this = Self { got: Arc::clone(&got), manner: Arc::clone(&manner) };
        // it ends with the test process
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (got, manner) = (Arc::clone(&got), Arc::clone(&manner));
                thread::spawn(move || serve(stream, &got, &manner));
            }
        });
        this
    }

    /// Begins anew: the next message is answered in this manner.
    fn begin(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
        self.got.lock().unwrap().clear();
    }

    fn got(&self) -> Vec<Vec<u8>> {
        self.got.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, got: &Mutex<Vec<Vec<u8>>>, manner: &Mutex<Manner>) {
    let (mut frames, mut piece) = (Frames::default(), vec![0; 65536]);
    stream.set_nodelay(true).expect("a socket");
    loop {
        let Ok(count @ 1..) = stream.read(&mut piece) else { return };
        frames.push(&piece[..count]);
        while let Some(payload) = frames.next() {
            got.lock().unwrap().push(control_id(&payload).to_vec());
            let own = framed(&answer_to(&payload, "AA"));
            let bytes = match std::mem::replace(&mut *manner.lock().unwrap(), Manner::AtOnce) {
                Manner::AtOnce => own,
                Manner::Twice => [own.clone(), own].concat(),
                Manner::ForeignFirst => [framed(&answer_to(&message("OTHER", 200), "AA")), own].concat(),
                Manner::Closes => return,
                Manner::Halved => {
                    let (one, two) = own.split_at(own.len() / 2);
                    if stream.write_all(one).is_err() {
                        return;
                    }
                    thread::sleep(HALF_PAUSE);
                    two.to_vec()
                }
            };
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

/// Runs the sender inside a site; returns what it says of each answer, without the run in the control ids.
fn send(pair: &Pair, at_north: bool, script: &str, (run, count, bytes): (&str, usize, usize)) -> Vec<String> {
    let (site, port) = if at_north { (&pair.north, FORWARD.port()) } else { (&pair.south, TARGET.port()) };
    let mut arguments = vec![port.to_string()];
    for number in 0..count {
        let path = site.dir.join(format!("message{number}"));
        fs::write(&path, message(&format!("{run}{number}"), bytes)).expect("the message");
        arguments.push(path.display().to_string());
    }
    let words = program(script, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let output = site.namespace.output(&format!("timeout 40 {}", words.join(" ")));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = |line: &str| match line.strip_prefix("answer").map(str::trim) {
        Some("") => "nothing".to_owned(),
        Some(hex) => msa(&unhex(hex)).replacen(run, "", 1),
        None => line.to_owned(),
    };
    text.lines().map(said).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).filter_map(|n| u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()).collect()
}

/// Says in a few words what the sender made of it.
fn words(said: &[String], count: usize) -> String {
    let due: Vec<String> = (0..count).map(|number| format!("AA {number}")).collect();
    if said == due {
        return "ok".to_owned();
    }
    let wrong: Vec<String> = said
        .iter()
        .zip(&due)
        .filter(|(said, due)| said != due)
        .map(|(said, _)| match said.as_str() {
            "failed" => "no answer: fails".to_owned(),
            "nothing" => "takes the close for an answer".to_owned(),
            "none" => "takes half an answer".to_owned(),
            _ => "takes another message's answer".to_owned(),
        })
        .collect();
    wrong.first().cloned().unwrap_or_else(|| format!("{} of {count} answers", said.len()))
}

fn transparent(name: &str, script: &str) {
    let pair = Pair::start(&[]);
    let receiver = Answering::start(&pair.south.namespace, TARGET);
    let mut wrong = Vec::new();
    for (case, manner, count, bytes) in CASES {
        receiver.begin(manner);
        let directly = send(&pair, false, script, ("q-", count, bytes));
        receiver.begin(manner);
        let through = send(&pair, true, script, ("r-", count, bytes));
        let outcome = if directly == through {
            words(&through, count)
        } else {
            format!("FAILED: {directly:?} directly, {through:?} through the tunnel")
        };
        record(name, Delivery::Transparent, case, &outcome);
        if directly != through || directly.is_empty() {
            wrong.push(format!("case {case}: {outcome}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

fn stored(name: &str, script: &str) {
    let mut pair = Pair::unstarted();
    let key = pair.north.dir.join("spool.key").display().to_string();
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key);
    let north = north.forward("orders", FORWARD, "south", "service: orders", &["delivery: stored"]);
    let policy = ["ack_timeout: 1s", "retry_min: 100ms"];
    let south = Plan::of(&pair.south).peer(&pair.north).service("orders", TARGET, "north", &policy);
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let receiver = Answering::start(&pair.south.namespace, TARGET);
    let mut wrong = Vec::new();
    for (case, manner, count, bytes) in CASES {
        receiver.begin(manner);
        let run = format!("S{case}x");
        let said = send(&pair, true, script, (&run, count, bytes));
        let due: Vec<Vec<u8>> = (0..count).map(|number| format!("{run}{number}").into_bytes()).collect();
        let mut outcome = words(&said, count);
        if outcome == "ok" {
            let once = || {
                let mut got = receiver.got();
                got.dedup();
                got
            };
            let depth = || pair.north.health_of("forwards", "orders")["queue_depth"] == 0;
            until(SETTLE_LIMIT, "the queue has drained", || depth().then_some(()));
            assert_eq!(once(), due, "case {case}: all are there, in order");
            if receiver.got().len() > count {
                outcome.push_str(", sent again");
            }
        } else {
            wrong.push(format!("case {case}: {outcome}: {said:?}\n"));
        }
        record(name, Delivery::Stored, case, &outcome);
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}
