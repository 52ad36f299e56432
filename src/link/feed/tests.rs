//! Two ends over a wire that breaks at any byte, with either site killed at any moment: each message is taken in once and
//! in order, no outcome is lost, the window holds. In virtual time: a step is whatever the case says.

mod loopback;
mod memory;
mod whole;

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::far::{self, Far};
use super::near::{self, Near};
use super::wire::decode;
use super::{Taken, Window};
use crate::spool::{Opening, Outcome, Sequence, Verdict};
use memory::{BookState, QueueModel, outcome};

const WINDOW: Window = Window { messages_max: 8, bytes_max: 2_000, message_bytes_max: 100_000 };

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    /// An operator gives up the n-th message that was never sent.
    Discard(usize),
    /// So many bytes of the wire arrive.
    ToFar(usize),
    ToNear(usize),
    /// The receiver answers the first message in hand.
    Deliver,
    Settle,
    Pause(bool),
    KeepBook,
    Cut,
    KillNear,
    KillFar,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => proptest::collection::vec(prop_oneof![1_usize..400, 1_500_usize..90_000], 1..6).prop_map(Step::Append),
        1 => (0_usize..4).prop_map(Step::Discard),
        6 => (1_usize..50_000).prop_map(Step::ToFar),
        6 => (1_usize..2_000).prop_map(Step::ToNear),
        5 => Just(Step::Deliver),
        3 => Just(Step::Settle),
        1 => any::<bool>().prop_map(Step::Pause),
        2 => Just(Step::KeepBook),
        1 => Just(Step::Cut),
        1 => Just(Step::KillNear),
        1 => Just(Step::KillFar),
    ]
}

struct World {
    queue: QueueModel,
    near: Near,
    book: BookState,
    far: Far,
    /// Waits for the receiver, in order; lost with the far site's process.
    hand: VecDeque<Taken>,
    to_far: BytesMut,
    to_near: BytesMut,
    is_connected: bool,
    /// Lists what the receiver finished, over all.
    finished: Vec<Sequence>,
    taken_by_this_start: Vec<Sequence>,
    opening: Option<Opening>,
    is_doubt_wanted: bool,
}

impl World {
    fn new() -> Self {
        Self {
            queue: QueueModel::new(),
            near: Near::default(),
            book: BookState::default(),
            far: Far::new(WINDOW, [], None),
            hand: VecDeque::new(),
            to_far: BytesMut::new(),
            to_near: BytesMut::new(),
            is_connected: false,
            finished: Vec::new(),
            taken_by_this_start: Vec::new(),
            opening: None,
            is_doubt_wanted: false,
        }
    }

    fn cut(&mut self) {
        self.is_connected = false;
        self.opening = None;
        self.to_far.clear();
        self.to_near.clear();
        self.near.handle_disconnected();
        self.far.handle_disconnected();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Append(sizes) => sizes.into_iter().for_each(|size| self.queue.append(size)),
            Step::Discard(which) => self.queue.discard_unsent(which),
            Step::Deliver => self.deliver(),
            Step::Settle => self.settle(),
            Step::Pause(is_paused) => self.near.set_paused(is_paused),
            Step::KeepBook => self.keep_book(),
            Step::Cut => self.cut(),
            Step::KillNear => {
                self.cut();
                self.near = Near::default();
                self.queue.restart();
            }
            Step::KillFar => {
                self.cut();
                self.hand.clear();
                self.taken_by_this_start.clear();
                self.far = Far::new(WINDOW, self.book.outcomes.keys().copied(), None);
            }
            Step::ToFar(bytes) => self.arrive_at_far(bytes),
            Step::ToNear(bytes) => self.arrive_at_near(bytes),
        }
        self.flow();
    }

    /// Lets both ends write what they may.
    fn flow(&mut self) {
        if !self.is_connected {
            self.is_connected = true;
            self.near.handle_connected(self.queue.opening());
        }
        self.near.handle_retired(self.queue.retired_through());
        while let Some((from, messages, bytes)) = self.near.poll_read() {
            let read = self.queue.read(from, messages.min(3), bytes);
            if read.is_empty() {
                break;
            }
            self.near.handle_read(read);
        }
        self.near.poll_transmit(&mut self.to_far, 5_000);
        self.far.poll_transmit(&mut self.to_near, 5_000);
    }

    fn arrive_at_far(&mut self, bytes: usize) {
        let mut arrived = self.to_far.clone();
        arrived.truncate(bytes);
        while let Some((record, length)) = decode(&arrived).unwrap() {
            if let Some(opening) = self.opening.clone() {
                let event = self.far.handle_record(record).unwrap();
                match event {
                    Some(far::Event::Begin) => {
                        if self.far.is_below_retired() {
                            self.book.raise(&opening);
                        }
                        self.book.prune(opening.retired_through);
                        self.far.handle_begun(self.book.view()).unwrap();
                    }
                    Some(far::Event::Taken(taken)) => {
                        assert!(self.is_doubt_wanted || !taken.in_doubt, "no state was lost");
                        assert!(taken.payload == self.queue.payload(taken.sequence), "the very bytes");
                        assert!(self.taken_by_this_start.last().is_none_or(|last| *last < taken.sequence));
                        self.taken_by_this_start.push(taken.sequence);
                        self.hand.push_back(taken);
                        let held: usize = self.hand.iter().map(|taken| taken.payload.len()).sum();
                        assert!(self.hand.len() <= 8 && (held <= 2_000 || self.hand.len() == 1), "the window holds");
                    }
                    Some(far::Event::Command(..) | far::Event::Pong(_)) | None => {}
                }
            } else {
                let super::wire::Record::Opening(opening) = record else { panic!("the opening is first") };
                self.opening = Some(opening.clone());
                self.far.handle_opening(opening, self.book.view());
            }
            arrived.advance(length);
            self.to_far.advance(length);
        }
    }

    fn arrive_at_near(&mut self, bytes: usize) {
        let mut arrived = self.to_near.clone();
        arrived.truncate(bytes);
        while let Some((record, length)) = decode(&arrived).unwrap() {
            if let Some(near::Event::Judge(view)) = self.near.handle_record(record).unwrap() {
                let judgement = self.queue.judge(view);
                self.near.handle_judgement(judgement);
                assert_eq!(self.near.divergence(), None);
            }
            arrived.advance(length);
            self.to_near.advance(length);
        }
    }

    fn deliver(&mut self) {
        let Some(taken) = self.hand.pop_front() else { return };
        let outcome = outcome(taken.sequence, Verdict::Delivered);
        self.book.finish(&taken, outcome.clone());
        self.finished.push(taken.sequence);
        self.far.handle_outcome(outcome);
    }

    fn settle(&mut self) {
        let batch: Vec<Outcome> = self.near.poll_settlement(SystemTime::UNIX_EPOCH);
        for outcome in &batch {
            let is_known = outcome.verdict == Verdict::Delivered || !self.queue.wanted().contains(&outcome.sequence);
            assert!(is_known, "the far site knows of each what became of it");
        }
        let retired = self.queue.settle(batch);
        self.near.handle_retired(retired);
    }

    fn keep_book(&mut self) {
        if let Some(through) = self.far.poll_prune() {
            self.book.prune(through);
        }
        if let Some(after) = self.far.poll_list() {
            let listed = self.book.outcomes_after(after);
            self.far.handle_listed(listed);
        }
    }

    /// Lets all come to rest, and asserts that nothing is missing.
    fn finish(&mut self) {
        for _ in 0..2_000 {
            for step in [
                Step::Pause(false),
                Step::ToFar(200_000),
                Step::ToNear(200_000),
                Step::Deliver,
                Step::KeepBook,
                Step::Settle,
            ] {
                self.take(step);
            }
            if self.queue.retired_through() == self.queue.last() {
                break;
            }
        }
        assert_eq!(self.queue.retired_through(), self.queue.last(), "all is settled");
        assert_eq!(self.finished, self.queue.wanted(), "each once, in order");
        for _ in 0..10 {
            self.take(Step::ToFar(200_000));
            self.take(Step::KeepBook);
        }
        assert!(self.book.outcomes.is_empty(), "what is settled is forgotten");
        assert!(!self.far.has_messages() && self.near.in_flight() == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn each_message_comes_once_and_in_order_whatever_breaks(steps in proptest::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.finish();
    }
}

#[test]
fn a_far_site_that_lost_its_book_is_raised_and_what_was_sent_is_in_doubt() {
    let mut world = World::new();
    world.take(Step::Append(vec![10; 5]));
    for _ in 0..4 {
        for step in [Step::ToFar(9_999), Step::ToNear(9_999), Step::KeepBook] {
            world.take(step);
        }
    }
    assert_eq!(world.hand.len(), 5);
    world.take(Step::Deliver);
    world.take(Step::ToNear(9_999));
    world.take(Step::Settle);
    assert_eq!(world.queue.retired_through(), 1);
    world.book = BookState::default();
    world.is_doubt_wanted = true;
    world.take(Step::KillFar);
    // The connection breaks once the new book is begun, before a message: the doubt stays.
    for step in [Step::ToFar(9_999), Step::ToNear(9_999), Step::ToFar(9_999)] {
        world.take(step);
    }
    assert_eq!(world.book.watermark(), 1, "raised to what is settled");
    world.take(Step::Cut);
    for _ in 0..4 {
        for step in [Step::ToFar(9_999), Step::ToNear(9_999), Step::KeepBook] {
            world.take(step);
        }
    }
    assert_eq!(world.taken_by_this_start, [2, 3, 4, 5]);
    assert!(world.hand.iter().all(|taken| taken.in_doubt));
    world.take(Step::Append(vec![10]));
    world.take(Step::ToFar(9_999));
    assert!(!world.hand.back().unwrap().in_doubt && world.hand.len() == 5, "6 was never sent before");
}
