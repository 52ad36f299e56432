//! A world of receivers that repeat, confuse, fail and fall silent, and of a process that crashes anywhere, in virtual
//! time; each run follows a random script, then all is well.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::{ack, delivery};
use crate::config::{InDoubt, Otherwise, ReceiverPolicy};
use crate::mllp::dialect::{Commit, Dialect, Release};
use crate::spool::delivery::course::*;

const MESSAGES: Sequence = 6;
const STEPS_MAX: usize = 20_000;

/// Is what survives a crash, and what the receiver truly did.
struct World {
    script: std::vec::IntoIter<u8>,
    ids: Vec<u8>,
    watermark: Sequence,
    attempting: Option<Attempt>,
    outcomes: Vec<Outcome>,
    accepted: BTreeMap<Sequence, u32>,
    rejected: BTreeMap<Sequence, u32>,
    failed: BTreeMap<Sequence, u32>,
    withdrawn: Vec<Sequence>,
    /// Is the message whose end is open at the receiver.
    outstanding: Option<Sequence>,
    said: Vec<Vec<u8>>,
    now: Instant,
    /// Tells whether the receiver speaks MLLP Release 2.
    commits: bool,
}

enum Fate {
    Goes,
    Crashes,
}

impl World {
    fn roll(&mut self) -> u8 {
        self.script.next().unwrap_or(0)
    }

    fn control_id(&self, sequence: Sequence) -> String {
        // Few ids: repeated ones, and empty ones, are many.
        match self.ids[usize::try_from(sequence).unwrap() % self.ids.len()] % 4 {
            0 => String::new(),
            1 => "SAME".to_owned(),
            2 => "OTHER".to_owned(),
            _ => format!("ID{sequence}"),
        }
    }

    fn commit(&mut self, finished: Option<Finished>, attempting: Option<Attempt>) {
        if let Some(finished) = finished {
            let sequence = finished.outcome.sequence;
            assert_eq!(sequence, self.watermark + 1, "in order, each once");
            self.watermark = sequence;
            self.outcomes.push(finished.outcome);
        }
        if let Some(attempt) = attempting {
            assert_eq!(attempt.sequence, self.watermark + 1);
        }
        self.attempting = attempting;
    }

    /// Lets the receiver have a message, and answers as the script says.
    fn send(&mut self, course: &mut Course) {
        let sequence = self.watermark + 1;
        assert_eq!(course.payload(), delivery(sequence, &self.control_id(sequence)).payload);
        assert!(self.attempting.is_some_and(|a| a.sequence == sequence && a.under_way), "written down first");
        assert_eq!(self.outstanding.replace(sequence), None, "one outstanding");
        let id = self.control_id(sequence);
        let roll = self.roll();
        if roll % 16 == 15 {
            self.outstanding = None;
            return course.handle_closed(self.now); // before the first byte
        }
        course.handle_sent(self.now);
        let stale = if roll >= 128 { self.said.clone() } else { Vec::new() };
        for bytes in stale {
            // What was said on this connection is said again; it may be followed by nothing.
            course.handle_bytes(&bytes, self.now);
        }
        if self.commits && !self.commit_to(sequence, course) {
            return;
        }
        match roll % 16 {
            1 => *self.failed.entry(sequence).or_default() += 1,
            2 => *self.rejected.entry(sequence).or_default() += 1,
            3 | 4 => {} // it never got there
            _ => *self.accepted.entry(sequence).or_default() += 1,
        }
        let code = match roll % 16 {
            1 => "AE",
            2 => "AR",
            3 | 5 => return, // silence
            4 | 6 => {
                self.outstanding = None;
                return course.handle_closed(self.now);
            }
            _ => "AA",
        };
        if roll % 16 == 7 {
            course.handle_bytes(&ack("AA", "FOREIGN"), self.now);
            course.handle_bytes(b"\x0b\x1c\r", self.now);
        }
        let bytes = ack(code, &id);
        let (first, second) = bytes.split_at(usize::from(roll) % bytes.len());
        self.outstanding = None;
        course.handle_bytes(first, self.now);
        course.handle_bytes(second, self.now);
        self.said.push(bytes);
        if roll % 16 == 8 {
            course.handle_bytes(self.said.last().unwrap(), self.now);
        }
    }

    /// Commits the message or not, as the script says; tells whether an answer follows.
    fn commit_to(&mut self, sequence: Sequence, course: &mut Course) -> bool {
        const ACK: &[u8] = b"\x0b\x06\x1c\r";
        let bytes = match self.roll() % 8 {
            1 => {
                *self.failed.entry(sequence).or_default() += 1;
                self.outstanding = None;
                course.handle_bytes(b"\x0b\x15\x1c\r", self.now);
                return false;
            }
            2 | 3 => {
                // It has the message, and the commit is lost: the answer, if it is not.
                *self.accepted.entry(sequence).or_default() += 1;
                return false;
            }
            4 => return true, // the answer comes without it
            5 => [ACK, ACK].concat(),
            _ => ACK.to_vec(),
        };
        course.handle_bytes(&bytes, self.now);
        self.said.push(bytes);
        true
    }

    fn wait(&mut self, until: Option<Instant>, course: &mut Course) {
        if let Some(held) = course.held() {
            let order = if self.roll().is_multiple_of(2) { Order::Withdraw } else { Order::Retry };
            if order == Order::Withdraw {
                self.withdrawn.push(held.sequence);
            }
            course.handle_order(order, held.sequence);
            return;
        }
        self.now = until.expect("something is to come");
    }

    fn live(&mut self, policy: ReceiverPolicy, steps: &mut usize) -> Fate {
        let mut course = Course::new(policy, self.attempting, 7, Counts::default());
        (self.outstanding, self.said) = (None, Vec::new());
        let (mut next, mut is_paused) = (self.watermark + 1, false);
        loop {
            *steps += 1;
            assert!(*steps < STEPS_MAX, "it comes to no end");
            while course.messages() < 2 && next <= MESSAGES {
                course.handle_message(delivery(next, &self.control_id(next)));
                next += 1;
            }
            if next > MESSAGES {
                course.handle_source_closed();
            }
            let step = course.poll_step(self.now, UNIX_EPOCH);
            if !course.has_line() {
                (self.outstanding, self.said) = (None, Vec::new());
            }
            let roll = self.roll();
            if roll % 32 == 31 {
                return Fate::Crashes;
            }
            let begins = matches!(step, Step::Dial | Step::Send)
                || matches!(step, Step::Commit { attempting: Some(attempt), .. } if attempt.under_way);
            assert!(!is_paused || !begins || self.outstanding.is_some(), "it rests");
            let was_paused = std::mem::replace(&mut is_paused, roll % 16 == 9);
            course.handle_pause(is_paused);
            course.handle_wanted(roll % 8 == 2);
            course.take_replies();
            match step {
                Step::Commit { finished, attempting } => {
                    self.commit(finished, attempting);
                    if roll % 32 == 30 {
                        return Fate::Crashes;
                    }
                    course.handle_committed();
                }
                Step::Dial if roll % 4 == 3 => course.handle_dial_failed("receiver_refuses", self.now),
                Step::Dial => course.handle_dialed(),
                Step::Send => self.send(&mut course),
                Step::Wait(_) if was_paused && course.held().is_none() && self.outstanding.is_none() => {}
                Step::Wait(until) => self.wait(until, &mut course),
                Step::End => return Fate::Goes,
            }
        }
    }

    fn check(&self, policy: &ReceiverPolicy) {
        assert_eq!(self.watermark, MESSAGES);
        for outcome in &self.outcomes {
            let of = |counts: &BTreeMap<Sequence, u32>| counts.get(&outcome.sequence).copied().unwrap_or(0);
            let accepted = of(&self.accepted);
            match outcome.verdict {
                Verdict::Delivered => assert!(accepted > 0, "{} is lost", outcome.sequence),
                Verdict::Rejected => assert!(of(&self.rejected) > 0),
                // An attempt that was rejected, and that an operator wanted again, was one too.
                Verdict::Failed => {
                    assert!(of(&self.failed) > 0);
                    assert!(of(&self.failed) + of(&self.rejected) > policy.retries);
                }
                Verdict::Withdrawn => assert!(self.withdrawn.contains(&outcome.sequence)),
                Verdict::DeliveredBefore => panic!("not said here"),
            }
            let settled = u32::from(outcome.verdict == Verdict::Delivered);
            assert!(accepted <= outcome.in_doubt + settled, "a duplicate that is not counted");
            assert!(outcome.in_doubt <= outcome.attempts);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_reordered_or_doubled_in_silence(
        script in proptest::collection::vec(any::<u8>(), 0..300),
        ids in proptest::collection::vec(any::<u8>(), 1..8),
        retries in 0u32..3,
        choices in any::<[bool; 4]>(),
    ) {
        let policy = ReceiverPolicy {
            retries,
            after_retries: if choices[0] { Otherwise::Hold } else { Otherwise::Park },
            on_reject: if choices[1] { Otherwise::Hold } else { Otherwise::Park },
            in_doubt: if choices[2] { InDoubt::Hold } else { InDoubt::Resend },
            dialect: Dialect {
                release: if choices[3] { Release::Two(Commit::default()) } else { Release::One },
                ..Dialect::default()
            },
            ..ReceiverPolicy::default()
        };
        let mut world = World {
            script: script.into_iter(),
            ids,
            watermark: 0,
            attempting: None,
            outcomes: Vec::new(),
            accepted: BTreeMap::new(),
            rejected: BTreeMap::new(),
            failed: BTreeMap::new(),
            withdrawn: Vec::new(),
            outstanding: None,
            said: Vec::new(),
            now: Instant::now(),
            commits: choices[3],
        };
        let mut steps = 0;
        while let Fate::Crashes = world.live(policy, &mut steps) {}
        world.check(&policy);
    }
}
