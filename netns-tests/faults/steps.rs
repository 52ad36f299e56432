//! Every step of a message's way into the near site's spool, one after the other: the power goes at the first event of the
//! program, then in a new run at the second, and so on, until one is not reached any more. What was acknowledged by then
//! must be in the queue after the next start.

use std::fs;
use std::time::{Duration, Instant};

use super::disk::{Action, Class, Disk};
use crate::harness::mllp::{Sender, control_id, message};
use crate::harness::pair::{FORWARD, Pair};
use crate::harness::plan::Plan;
use crate::harness::until;
use crate::impair::fate::Chance;

/// Counts the messages of a run: the first, the usual one, one in a file of its own, and one after it.
const SIZES: [usize; 4] = [500, 500, 1_200_000, 500];

/// Bounds the wait for the program's end or its answers.
const LIMIT: Duration = Duration::from_secs(10);

/// Is what a site says of a spool that is not as it was left: rolled back, or damaged.
const NOT_OPENED: &str = "the spool cannot be opened";

/// Says what a run begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// Nothing: the spool and its key are made.
    Fresh,
    /// What the runs before have left.
    Again,
}

/// Goes through every `stride`th step; returns how many steps there are, and what was lost. A disk that lies says yes to
/// every fsync and does nothing, from the first start on.
pub(crate) fn every_step(begins: Begins, lies: bool, stride: u64, seed: u64) -> (u64, Vec<String>) {
    let mut pair = Pair::unstarted();
    let disk = Disk::new(&pair.north.dir);
    pair.north.environment = disk.environment();
    let key = pair.north.dir.join("keys/spool.key").display().to_string();
    let plan = Plan::of(&pair.north).peer(&pair.south).spool(&key).section("sandbox: off");
    pair.north.write(&plan.forward("orders", FORWARD, "south", "service: orders", &["delivery: stored"]));
    if lies {
        pair.north.restart();
        pair.north.kill();
        disk.adopt();
        disk.lie(true);
    }
    let (mut chance, mut acked, mut lost) = (Chance(seed), Vec::new(), Vec::new());
    for step in (1 + seed % stride..).step_by(stride as usize) {
        if begins == Begins::Fresh {
            acked.clear();
            disk.lose_everything();
        }
        let action = [Action::DieBefore, Action::DieHalfway, Action::DieAfter][chance.next() as usize % 3];
        disk.arm(Class::Any, action, step);
        pair.north.launch();
        let reached = goes_on_until_it_dies(&mut pair, step, &mut acked);
        disk.disarm();
        pair.north.kill();
        disk.lose_power(if chance.next() % 2 == 0 { Some(&mut chance) } else { None });
        if lies && !comes_up(&mut pair) {
            lost.push(format!("all of {}, and the site says so", acked.len()));
            return (step, lost);
        }
        if !lies {
            pair.north.restart();
        }
        let queued = queued(&pair);
        pair.north.kill();
        let gone = acked.iter().filter(|id| !queued.contains(*id));
        lost.extend(gone.map(|id| format!("{id}, {action:?} event {step} ({begins:?}, seed {seed})")));
        acked.retain(|id| queued.contains(id));
        if !reached {
            return (step, lost);
        }
    }
    unreachable!("a program ends");
}

/// Starts the site; tells whether it is ready, or says that its spool is not what it was.
fn comes_up(pair: &mut Pair) -> bool {
    let before = pair.north.log().matches(NOT_OPENED).count();
    pair.north.launch();
    let (is_ready, _) = until(LIMIT, "the site is ready, or says what is wrong with its spool", || {
        let is_ready = pair.north.try_get("/readyz").is_some_and(|answer| answer.status == 200);
        let is_refused = pair.north.log().matches(NOT_OPENED).count() > before;
        (is_ready || is_refused).then_some(is_ready)
    });
    is_ready
}

/// Sends messages until the program has died, or all are acknowledged; tells whether it died.
fn goes_on_until_it_dies(pair: &mut Pair, step: u64, acked: &mut Vec<String>) -> bool {
    let start = Instant::now();
    let mut sender = None;
    for (number, size) in SIZES.into_iter().enumerate() {
        let id = format!("S{step}-{number}");
        let payload = message(&id, size);
        loop {
            if pair.north.program().ended().is_some() {
                return true;
            }
            assert!(start.elapsed() < LIMIT, "step {step}: neither an answer nor an end\n{}", pair.north.log());
            if sender.is_none() {
                sender = Sender::connect(&pair.north.namespace, FORWARD).ok();
            }
            let Some(connection) = &mut sender else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            match connection.send(&payload).map(|()| connection.answer(LIMIT)) {
                Ok(Ok(answer)) if answer.windows(6).any(|word| word == b"MSA|AA") => break acked.push(id),
                _ => sender = None,
            }
        }
    }
    false
}

/// Returns the MSH-10 of every message in the queue.
fn queued(pair: &Pair) -> Vec<String> {
    let out = pair.north.dir.join("export");
    let _ = fs::remove_dir_all(&out);
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let words = ["queue", "export", "orders", "--out", &out.display().to_string(), "--socket", &socket];
    pair.north.namespace.must(&pair.north.command(&words).join(" "));
    let files = fs::read_dir(&out).expect("a directory").map(|entry| entry.expect("an entry").path());
    files.map(|path| String::from_utf8_lossy(control_id(&fs::read(path).expect("a file"))).into_owned()).collect()
}
