//! The promise: whatever is cut, refused or restarted, a receiver gets a prefix of what the sender wrote, once.

#![allow(clippy::cast_possible_truncation, reason = "a test's numbers are small, or meant to wrap")]

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::*;
use super::bench::Bench;

const HOLD: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum Step {
    Open(usize),
    Write(usize, usize),
    Finish(usize),
    Leave(usize),
    Read(usize, usize),
    Accept(usize),
    Refuse(usize),
    FarRead(usize, usize),
    Answer(usize, usize),
    FarFinish(usize),
    FarReset(usize),
    Deliver(usize, usize),
    Settle,
    Cut(usize, usize, bool),
    Connect,
    ForgetfulConnect,
    RestartFar,
    RestartNear,
    Pass(u64),
    Idle,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0_usize..64;
    let bytes = prop_oneof![1_usize..200, 1_usize..90_000];
    prop_oneof![
        6 => bytes.clone().prop_map(Step::Open),
        6 => (which.clone(), bytes.clone()).prop_map(|(at, count)| Step::Write(at, count)),
        3 => which.clone().prop_map(Step::Finish),
        1 => which.clone().prop_map(Step::Leave),
        4 => (which.clone(), bytes.clone()).prop_map(|(at, count)| Step::Read(at, count)),
        6 => which.clone().prop_map(Step::Accept),
        4 => which.clone().prop_map(Step::Refuse),
        6 => (which.clone(), bytes.clone()).prop_map(|(at, count)| Step::FarRead(at, count)),
        5 => (which.clone(), bytes.clone()).prop_map(|(at, count)| Step::Answer(at, count)),
        2 => which.clone().prop_map(Step::FarFinish),
        1 => which.prop_map(Step::FarReset),
        10 => (bytes.clone(), bytes.clone()).prop_map(|(there, back)| Step::Deliver(there, back)),
        6 => Just(Step::Settle),
        5 => (0_usize..3000, 0_usize..3000, any::<bool>()).prop_map(|(there, back, far)| Step::Cut(there, back, far)),
        7 => Just(Step::Connect),
        1 => Just(Step::ForgetfulConnect),
        1 => Just(Step::RestartFar),
        1 => Just(Step::RestartNear),
        6 => (10_u64..1500).prop_map(Step::Pass),
        1 => Just(Step::Idle),
    ]
}

/// Makes the bytes that a stream must show at an offset.
fn pattern(seed: u64, offset: usize, count: usize) -> Vec<u8> {
    (offset..offset + count).map(|at| (seed.wrapping_mul(37) as usize + at * 7 + at / 251) as u8).collect()
}

/// Is a sender: what it wrote and what it read.
#[derive(Default)]
struct Sender {
    key: u64,
    written: usize,
    finished: bool,
    read: Vec<u8>,
    ended: bool,
}

/// Is a receiver's connection.
#[derive(Default)]
struct Receiver {
    sender: usize,
    accepted: bool,
    read: usize,
    answered: usize,
    finished: bool,
    ended: bool,
}

struct World {
    bench: Bench,
    senders: Vec<Sender>,
    receivers: HashMap<u64, Receiver>,
    /// Notes which sender a number on the wire belonged to, for this start of the near side.
    wires: HashMap<u64, usize>,
    /// Counts, by sender, what receivers read of it in all, and by which connections.
    delivered: HashMap<usize, (u64, usize)>,
    answers: HashMap<usize, (u64, usize)>,
    far_starts: u64,
    is_fresh: bool,
}

impl World {
    fn new() -> Self {
        Self {
            bench: Bench::down(HOLD),
            senders: Vec::new(),
            receivers: HashMap::new(),
            wires: HashMap::new(),
            delivered: HashMap::new(),
            answers: HashMap::new(),
            far_starts: 0,
            is_fresh: true,
        }
    }

    fn sender(&self, at: usize) -> Option<usize> {
        let living: Vec<usize> = (0..self.senders.len()).filter(|at| self.senders[*at].key != 0).collect();
        living.get(at % living.len().max(1)).copied()
    }

    fn receiver(&self, at: usize) -> Option<u64> {
        let mut living: Vec<u64> = self.receivers.keys().copied().collect();
        living.sort_unstable();
        living.get(at % living.len().max(1)).copied()
    }

    fn note_wires(&mut self) {
        for (at, sender) in self.senders.iter().enumerate() {
            if let Some(stream) = self.bench.near.streams.streams.get(&sender.key).filter(|_| sender.key != 0) {
                self.wires.insert(stream.wire, at);
            }
        }
        for wire in std::mem::take(&mut self.bench.far.opened) {
            let sender = *self.wires.get(&wire).expect("opened by a sender");
            self.receivers.insert(wire, Receiver { sender, ..Receiver::default() });
        }
    }

    fn write(&mut self, at: usize, count: usize) -> bool {
        let now = self.bench.now;
        let sender = &mut self.senders[at];
        if sender.finished {
            return false;
        }
        let bytes = pattern(at as u64, sender.written, count);
        match self.bench.near.streams.try_write(sender.key, &bytes, now) {
            Moved::Bytes(taken) => sender.written += taken,
            Moved::Blocked | Moved::Failed(_) | Moved::End => return false,
        }
        true
    }

    fn read(&mut self, at: usize, count: usize) -> Moved {
        let sender = &mut self.senders[at];
        let mut out = vec![0; count];
        let moved = self.bench.near.streams.try_read(sender.key, &mut out);
        match moved {
            Moved::Bytes(count) => sender.read.extend_from_slice(&out[..count]),
            Moved::End => sender.ended = true,
            Moved::Blocked | Moved::Failed(_) => {}
        }
        moved
    }

    fn leave(&mut self, at: usize, cause: Cause) {
        let key = std::mem::take(&mut self.senders[at].key);
        self.bench.near.streams.close(key, cause);
    }

    fn far_read(&mut self, wire: u64, count: usize) -> Moved {
        let Some(receiver) = self.receivers.get_mut(&wire).filter(|receiver| receiver.accepted) else {
            return Moved::Blocked;
        };
        let mut out = vec![0; count];
        let moved = self.bench.far.streams.try_read(wire, &mut out);
        match moved {
            Moved::Bytes(count) => {
                let expected = pattern(receiver.sender as u64, receiver.read, count);
                assert!(out[..count] == expected, "what a receiver reads is what its sender wrote, in order");
                receiver.read += count;
                let connection = (self.far_starts << 32) | wire;
                let (first, bytes) = self.delivered.entry(receiver.sender).or_insert((connection, 0));
                assert_eq!(*first, connection, "no second connection ever gets bytes of one sender");
                *bytes += count;
            }
            Moved::End => {
                receiver.ended = true;
            }
            Moved::Blocked | Moved::Failed(_) => {}
        }
        moved
    }

    fn answer(&mut self, wire: u64, count: usize) {
        let now = self.bench.now;
        let Some(receiver) = self.receivers.get_mut(&wire).filter(|it| it.accepted && !it.finished) else { return };
        let seed = (self.far_starts << 32) | wire;
        let bytes = pattern(seed, receiver.answered, count);
        if let Moved::Bytes(taken) = self.bench.far.streams.try_write(wire, &bytes, now) {
            receiver.answered += taken;
            self.answers.insert(receiver.sender, (seed, receiver.answered));
        }
    }

    fn far_finish(&mut self, wire: u64) {
        if let Some(receiver) = self.receivers.get_mut(&wire).filter(|receiver| receiver.accepted) {
            receiver.finished = true;
            self.bench.far.streams.finish(wire);
        }
    }

    fn connect(&mut self) {
        if !self.bench.connected {
            self.bench.connect(!self.is_fresh);
            self.is_fresh = false;
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Open(count) => {
                let key = self.bench.near.streams.open().expect("a stream");
                self.senders.push(Sender { key, ..Sender::default() });
                self.write(self.senders.len() - 1, count);
            }
            Step::Write(at, count) => drop(self.sender(at).map(|at| self.write(at, count))),
            Step::Finish(at) => {
                if let Some(at) = self.sender(at) {
                    self.senders[at].finished = true;
                    self.bench.near.streams.finish(self.senders[at].key);
                }
            }
            Step::Leave(at) => drop(self.sender(at).map(|at| self.leave(at, Cause::SenderGone))),
            Step::Read(at, count) => drop(self.sender(at).map(|at| self.read(at, count))),
            Step::Accept(at) => {
                if let Some(wire) = self.receiver(at) {
                    self.receivers.get_mut(&wire).unwrap().accepted = true;
                    self.bench.far.streams.accept(wire);
                }
            }
            Step::Refuse(at) => {
                if let Some(wire) = self.receiver(at).filter(|wire| !self.receivers[wire].accepted) {
                    self.receivers.remove(&wire);
                    self.bench.far.streams.close(wire, Cause::ReceiverRefuses);
                }
            }
            Step::FarRead(at, count) => drop(self.receiver(at).map(|wire| self.far_read(wire, count))),
            Step::Answer(at, count) => drop(self.receiver(at).map(|wire| self.answer(wire, count))),
            Step::FarFinish(at) => drop(self.receiver(at).map(|wire| self.far_finish(wire))),
            Step::FarReset(at) => {
                if let Some(wire) = self.receiver(at) {
                    self.receivers.remove(&wire);
                    self.bench.far.streams.close(wire, Cause::ReceiverReset);
                }
            }
            Step::Deliver(there, back) => {
                self.bench.transmit();
                self.note_wires();
                self.bench.deliver(there, back);
            }
            Step::Settle => self.bench.settle(),
            Step::Cut(there, back, far_notices) => {
                if self.bench.connected {
                    self.bench.cut_after(there, back, far_notices);
                }
            }
            Step::Connect => self.connect(),
            Step::ForgetfulConnect => {
                if !self.bench.connected && !self.is_fresh {
                    self.bench.connected = true;
                    self.bench.far.streams.handle_connected(true);
                    self.bench.near.streams.handle_connected(false);
                }
            }
            Step::RestartFar => self.restart_far(),
            Step::RestartNear => self.restart_near(),
            Step::Pass(time) => self.bench.pass(Duration::from_millis(time)),
            Step::Idle => {
                self.bench.near.streams.handle_idle();
                self.bench.far.streams.handle_idle();
            }
        }
    }

    fn restart_far(&mut self) {
        if self.bench.connected {
            self.bench.cut_after(0, 0, true);
        }
        self.bench.restart_far();
        self.receivers.clear();
        self.far_starts += 1;
        self.is_fresh = true;
    }

    /// The far site ends the old incarnation's streams before it serves the new one's.
    fn restart_near(&mut self) {
        self.restart_far();
        self.bench.restart_near();
        self.senders.iter_mut().for_each(|sender| sender.key = 0);
        self.wires.clear();
    }

    fn check(&self) {
        for end in [&self.bench.near, &self.bench.far] {
            for stream in end.streams.streams.values() {
                assert!(stream.send.unacked_bytes() as u64 <= WINDOW_BYTES_MAX, "no more is kept than the window");
                assert!(stream.recv.held_bytes() as u64 <= 2 * WINDOW_BYTES_MAX);
            }
        }
        for (at, sender) in self.senders.iter().enumerate() {
            let (seed, answered) = self.answers.get(&at).copied().unwrap_or((0, 0));
            assert!(sender.read.len() <= answered, "no answer is invented");
            assert!(sender.read == pattern(seed, 0, sender.read.len()), "the answer is the receiver's, in order");
            assert!(self.delivered.get(&at).is_none_or(|(_, bytes)| *bytes <= sender.written));
        }
    }

    /// Heals all cuts; each sender ends after its receiver came, each receiver reads to the end: all streams go.
    fn heal(&mut self) {
        self.connect();
        let mut far_awake: Vec<u64> = self.receivers.keys().copied().collect();
        let mut near_awake: Vec<u64> = self.senders.iter().map(|sender| sender.key).collect();
        for _ in 0..400 {
            self.bench.settle();
            self.note_wires();
            far_awake.extend(std::mem::take(&mut self.bench.far.woken));
            near_awake.extend(std::mem::take(&mut self.bench.near.woken));
            let waiting: Vec<u64> =
                self.receivers.iter().filter(|(_, receiver)| !receiver.accepted).map(|(wire, _)| *wire).collect();
            for wire in waiting {
                self.receivers.get_mut(&wire).unwrap().accepted = true;
                self.bench.far.streams.accept(wire);
                far_awake.push(wire);
            }
            std::mem::take(&mut far_awake).into_iter().for_each(|wire| self.heal_receiver(wire));
            std::mem::take(&mut near_awake).into_iter().for_each(|key| self.heal_sender(key));
            self.check();
            self.bench.settle();
            self.bench.pass(Duration::from_millis(50));
        }
        self.bench.assert_no_stream_is_left();
    }

    fn heal_receiver(&mut self, wire: u64) {
        let failed = loop {
            match self.far_read(wire, 9000) {
                Moved::Bytes(_) => {}
                Moved::Failed(_) => break true,
                Moved::Blocked | Moved::End => break false,
            }
        };
        let Some(receiver) = self.receivers.get(&wire) else { return };
        let (sender, read, ended) = (receiver.sender, receiver.read, receiver.ended);
        if failed {
            self.bench.far.streams.close(wire, Cause::ReceiverReset);
            self.receivers.remove(&wire);
        } else if ended {
            assert_eq!(read, self.senders[sender].written, "what ended was whole");
            self.far_finish(wire);
            self.bench.far.streams.close(wire, Cause::SenderGone);
            self.receivers.remove(&wire);
        }
    }

    fn heal_sender(&mut self, key: u64) {
        let Some(at) = self.senders.iter().position(|sender| sender.key == key && key != 0) else { return };
        if self.bench.near.streams.is_open(key) && !self.senders[at].finished {
            self.senders[at].finished = true;
            self.bench.near.streams.finish(key);
        }
        loop {
            match self.read(at, 9000) {
                Moved::Bytes(_) => {}
                Moved::Blocked => return,
                Moved::End if self.senders[at].finished => break self.leave(at, Cause::SenderGone),
                Moved::End => return,
                Moved::Failed(cause) => break self.leave(at, cause),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 3000, ..ProptestConfig::default() })]
    #[test]
    fn a_receiver_gets_a_prefix_of_what_the_sender_wrote_and_never_twice(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
            world.note_wires();
            world.bench.near.events();
            world.bench.far.events();
            world.check();
        }
        world.heal();
    }
}
