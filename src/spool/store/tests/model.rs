//! Drives the real store and a simple model with the same random commands, restarts among them: nothing accepted
//! disappears, the order is kept, nothing is retired without an outcome, and what is told is the same.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Is one step; messages are chosen among those that there are.
#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Read(u8),
    Settle(Vec<(u8, u8)>),
    Park(u8),
    Discard(u8),
    Release(u8),
    /// The disk changes the content of a message.
    Spoil(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Append),
        2 => any::<u8>().prop_map(Step::Read),
        3 => prop::collection::vec((any::<u8>(), 0..5_u8), 1..4).prop_map(Step::Settle),
        1 => any::<u8>().prop_map(Step::Park),
        1 => any::<u8>().prop_map(Step::Discard),
        1 => any::<u8>().prop_map(Step::Release),
        1 => any::<u8>().prop_map(Step::Spoil),
        1 => Just(Step::Reopen),
    ]
}

const VERDICTS: [Verdict; 5] =
    [Verdict::Delivered, Verdict::Rejected, Verdict::Failed, Verdict::Withdrawn, Verdict::DeliveredBefore];

/// Is what should be there: all messages ever accepted.
#[derive(Default)]
struct Model {
    messages: BTreeMap<Sequence, (State, Vec<u8>)>,
    is_kept: bool,
    /// Are those whose content is not what it was.
    spoiled: BTreeSet<Sequence>,
    /// Is the one at which the feed is known to stop.
    stop: Option<Sequence>,
    /// Are those of which an outcome is kept.
    told: BTreeSet<Sequence>,
    /// Are those that are set aside because they were withdrawn where they would have been delivered.
    withdrawn: BTreeSet<Sequence>,
}

impl Model {
    /// Chooses a message, or one that there is not.
    fn choose(&self, choice: u8) -> Sequence {
        u64::from(choice) % (self.messages.len() as u64 + 2)
    }

    fn retired_through(&self) -> Sequence {
        let queued = self.messages.iter().find(|(_, (state, _))| *state == State::Queued);
        queued.map_or(self.messages.len() as u64, |(sequence, _)| sequence - 1)
    }

    fn queued(&self, from: Sequence) -> Vec<(Sequence, &[u8])> {
        let all = self.messages.range(from..);
        all.filter(|(_, (state, _))| *state == State::Queued).map(|(n, (_, payload))| (*n, &payload[..])).collect()
    }

    /// Lists what the store must still have.
    fn left(&self) -> Vec<(Sequence, State)> {
        let retired = self.retired_through();
        let is_left = |sequence: Sequence, state: State| self.is_kept || state.is_held() || sequence > retired;
        let all = self.messages.iter().map(|(sequence, (state, _))| (*sequence, *state));
        all.filter(|(sequence, state)| is_left(*sequence, *state)).collect()
    }

    fn handle(&mut self, sequence: Sequence, event: crate::spool::queue::Event) -> bool {
        let is_left = self.left().iter().any(|(left, _)| *left == sequence);
        let Some((state, _)) = self.messages.get_mut(&sequence).filter(|_| is_left) else {
            return false;
        };
        use crate::spool::queue::Event;
        let next = state.handle_event(event);
        // What is told of a withdrawn message belongs to it, also where the decision came first.
        let is_decided = next.is_none() && *state != State::Delivered;
        if event == Event::Settled(Verdict::Withdrawn)
            && (next.is_some() || is_decided && !self.told.contains(&sequence))
        {
            self.withdrawn.insert(sequence);
        }
        if matches!(event, Event::Settled(_)) && next.is_some() || self.withdrawn.contains(&sequence) {
            self.told.insert(sequence);
        }
        self.stop.take_if(|stop| *stop == sequence && next.is_some_and(|next| next != State::Queued));
        let is_parked_so = event == Event::Park && *state == State::Parked && self.withdrawn.contains(&sequence);
        *state = next.unwrap_or(*state);
        next.is_some() || is_parked_so
    }

    /// Reads three from there on, up to one that is spoiled.
    fn read(&mut self, from: Sequence) -> Vec<(Sequence, Vec<u8>)> {
        let mut read = Vec::new();
        let queued: Vec<_> = self.queued(from).into_iter().map(|(n, payload)| (n, payload.to_vec())).take(3).collect();
        for (sequence, payload) in queued {
            if self.stop.is_some_and(|stop| (from..=sequence).contains(&stop)) {
                break;
            }
            if self.spoiled.contains(&sequence) {
                self.stop = Some(self.stop.map_or(sequence, |stop| stop.min(sequence)));
                break;
            }
            read.push((sequence, payload));
        }
        read
    }
}

async fn take(spool: &Spool, model: &mut Model, step: &Step) {
    use crate::spool::queue::Event;
    match step {
        Step::Append(byte) => {
            let payload = [message(model.messages.len() as u64), vec![*byte; usize::from(*byte)]].concat();
            let sequence = spool.keep(payload.clone()).await.unwrap();
            assert_eq!(sequence, model.messages.len() as u64 + 1);
            model.messages.insert(sequence, (State::Queued, payload));
        }
        Step::Read(choice) => {
            let from = model.choose(*choice);
            let read = spool.read(from, 3, usize::MAX).await.unwrap();
            let read: Vec<_> = read.into_iter().map(|one| (one.sequence, one.payload)).collect();
            assert!(read == model.read(from), "from {from}");
        }
        Step::Settle(choices) => {
            let verdict = |number: u8| VERDICTS[usize::from(number)];
            let outcomes = choices.iter().map(|(choice, number)| outcome(model.choose(*choice), verdict(*number)));
            let outcomes: Vec<_> = outcomes.collect();
            let retired = spool.settle(outcomes.clone()).await.unwrap();
            for outcome in outcomes {
                model.handle(outcome.sequence, Event::Settled(outcome.verdict));
            }
            assert_eq!(retired, model.retired_through());
        }
        Step::Park(choice) => {
            let sequence = model.choose(*choice);
            let parked = spool.park(sequence, true, "anna").await;
            assert_eq!(parked.is_ok(), model.handle(sequence, Event::Park), "park {sequence}");
        }
        Step::Discard(choice) => {
            let sequence = model.choose(*choice);
            let discarded = spool.discard(sequence, true, "anna", "test").await;
            assert_eq!(discarded.is_ok(), model.handle(sequence, Event::Discard), "discard {sequence}");
        }
        Step::Release(choice) => {
            let sequence = model.choose(*choice);
            let released = spool.release(sequence, "anna").await;
            let is_whole = !model.spoiled.contains(&sequence);
            assert_eq!(released.is_ok(), is_whole && model.handle(sequence, Event::Release), "release {sequence}");
            if let Ok(again) = released {
                let payload = model.messages[&sequence].1.clone();
                assert_eq!(again, model.messages.len() as u64 + 1);
                model.messages.insert(again, (State::Queued, payload));
            }
        }
        Step::Spoil(choice) => {
            let sequence = model.choose(*choice);
            let sql = "UPDATE contents SET sealed = zeroblob(100) WHERE sequence = ?1";
            let spoil = move |core: &mut Core| core.execute("spoil", sql, [database::stored(sequence)]);
            spool.change(spoil).await.unwrap();
            if model.messages.contains_key(&sequence) {
                model.spoiled.insert(sequence);
            }
        }
        Step::Reopen => model.stop = None,
    }
}

async fn agree(spool: &Spool, model: &Model) {
    let listed = spool.list(0, None, usize::MAX).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|one| (one.sequence, one.state)).collect();
    assert_eq!(listed, model.left());
    let tail = spool.tail().borrow().clone();
    assert_eq!(tail.last, model.messages.len() as u64);
    assert_eq!(tail.retired_through, model.retired_through());
    assert_eq!(tail.depth, model.queued(0).len() as u64);
    assert_eq!(tail.oldest.is_some(), tail.depth > 0);
    assert_eq!(tail.damaged.as_ref().map(|damaged| damaged.sequence), model.stop);
    assert_eq!(tail.failed, None);
    let opening = spool.opening().await.unwrap();
    let mut digest = crate::spool::Digest::NONE;
    for (sequence, (_, payload)) in model.messages.range(..=model.retired_through()) {
        digest = opening.digest_key.following(&digest, *sequence, payload);
    }
    assert!(opening.retired_digest == digest, "the digest at {}", tail.retired_through);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_as_the_model(steps in prop::collection::vec(step(), 1..40), is_kept in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let place = if is_kept { Place::new() } else { Place::keeping(Duration::ZERO) };
        let mut model = Model { is_kept, ..Model::default() };
        runtime.block_on(async {
            let mut spool = place.open();
            for step in &steps {
                if matches!(step, Step::Reopen) {
                    drop(spool);
                    spool = place.open();
                }
                take(&spool, &mut model, step).await;
                agree(&spool, &model).await;
            }
            // Nothing was delivered or given up without a note of it.
            let events = spool.read_outbox(0, usize::MAX).await.unwrap();
            for (sequence, (state, _)) in &model.messages {
                let of_message = events.iter().filter(|event| event.sequence == *sequence);
                let of_message = of_message.map(|event| event.happening);
                let of_message: Vec<_> = of_message.filter(|happening| *happening != Happening::Damaged).collect();
                assert_eq!(of_message.first(), Some(&Happening::Accepted));
                assert_eq!(of_message.len() > 1, *state != State::Queued, "{sequence}: {of_message:?}");
            }
        });
    }
}
