//! Judges what the senders and the receiver saw: what was lost, came twice or out of order, and what explains a repeat.
//! It knows nothing of wardlink, and touches no clock: whoever repeats a message without a reason that the receiver or
//! the sender itself saw has duplicated it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Bounds how long after the receiver's answer a site may go down without having kept it: then it sends again.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Identifies a message: its sender, and its place among that sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number {
    pub(crate) sender: usize,
    pub(crate) count: u64,
}

/// Says how the receiver answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not at all: it, or the connection, ended before.
    None,
    /// AA.
    Accepted,
    /// AE: to be sent again.
    Failed,
    /// AR: never to be sent again.
    Rejected,
}

/// Is a message as it came to the receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) message: Number,
    /// Numbers the receiver's connections.
    pub(crate) connection: usize,
    pub(crate) answer: Answer,
    /// Is for how long the connection was there after the answer; `None`: it still is.
    pub(crate) open_for: Option<Duration>,
    /// Is the fault that was under way.
    pub(crate) run: usize,
}

/// Is what one life of a pair of sites looked like from outside.
#[derive(Default)]
pub(crate) struct Seen {
    /// Lists what the senders got a positive answer for, with the run in which they got it.
    pub(crate) acked: Vec<(Number, usize)>,
    /// Counts how often a sender itself sent a message again, with the run of the last time.
    pub(crate) resent: BTreeMap<Number, (u64, usize)>,
    /// Lists what came to the receiver, in order.
    pub(crate) arrivals: Vec<Arrival>,
    /// Lists when a site lost what it knew: how many messages had come before. What was in flight is then in doubt.
    pub(crate) losses: Vec<usize>,
    /// Bounds what is in flight between the sites.
    pub(crate) window: usize,
}

/// Is the account of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Counts messages that were acknowledged and never accepted or rejected by the receiver.
    pub(crate) lost: u64,
    /// Counts repeats that nothing explains.
    pub(crate) duplicated: u64,
    /// Counts messages that came after a later one of the same sender.
    pub(crate) reordered: u64,
    /// Counts repeats because the sender sent twice: it had no answer.
    pub(crate) sender_resends: u64,
    /// Counts repeats because it was not known what the receiver had made of the message.
    pub(crate) in_doubt: u64,
    /// Counts those of them whose message its sender sent twice too: either may be why it came again, and wardlink has no
    /// doubt of a message that it was given twice.
    pub(crate) in_doubt_or_resent: u64,
    /// Counts repeats because the receiver had said AE.
    pub(crate) retried: u64,
}

impl Account {
    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.sender_resends += other.sender_resends;
        self.in_doubt += other.in_doubt;
        self.in_doubt_or_resent += other.in_doubt_or_resent;
        self.retried += other.retried;
    }

    /// Tells whether the promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        (self.lost, self.duplicated, self.reordered) == (0, 0, 0)
    }
}

/// Says why a message came again.
#[derive(Debug, PartialEq, Eq)]
enum Reason {
    Retry,
    InDoubt,
    /// Its state was lost: also what came before later messages may come again.
    Loss,
    Sender,
    Nothing,
}

/// Judges a life; returns the account of each run, and a line for each thing that must not be.
pub(crate) fn judge(seen: &Seen) -> (BTreeMap<usize, Account>, Vec<String>) {
    let mut accounts: BTreeMap<usize, Account> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut last_of_connection = BTreeMap::new();
    for (at, arrival) in seen.arrivals.iter().enumerate() {
        last_of_connection.insert(arrival.connection, at);
    }
    let mut latest: BTreeMap<usize, u64> = BTreeMap::new();
    let mut before: BTreeMap<Number, usize> = BTreeMap::new();
    let mut resent = seen.resent.clone();
    let mut begun_again = BTreeSet::new();
    for (at, arrival) in seen.arrivals.iter().enumerate() {
        let account = accounts.entry(arrival.run).or_default();
        let message = arrival.message;
        let latest = latest.entry(message.sender).or_insert(0);
        let mut is_late = message.count < *latest;
        *latest = message.count.max(*latest);
        if let Some(before) = before.insert(message, at) {
            let reason = reason(seen, before, at, &last_of_connection, &mut resent);
            let mut losses = losses_between(seen, before, at);
            if is_late && losses.any(|loss| begun_again.insert((message.sender, loss))) {
                // Once for each loss its sender's messages go on from here, in order, whatever else explains the repeat.
                (is_late, *latest) = (false, message.count);
            }
            match reason {
                Reason::Retry => account.retried += 1,
                Reason::InDoubt | Reason::Loss => {
                    account.in_doubt += 1;
                    account.in_doubt_or_resent += u64::from(resent.get(&message).is_some_and(|(left, _)| *left > 0));
                }
                Reason::Sender => account.sender_resends += 1,
                Reason::Nothing => {
                    account.duplicated += 1;
                    let first = &seen.arrivals[before];
                    wrong.push(format!("{message:?} came twice: {before} {first:?} and {at} {arrival:?}"));
                }
            }
        }
        if is_late {
            account.reordered += 1;
            wrong.push(format!("{message:?} came late: {at} {arrival:?}, {latest} was there"));
        }
    }
    let settles = |answer| matches!(answer, Answer::Accepted | Answer::Rejected);
    let settled: BTreeSet<Number> =
        seen.arrivals.iter().filter(|arrival| settles(arrival.answer)).map(|arrival| arrival.message).collect();
    for (message, run) in seen.acked.iter().filter(|(message, _)| !settled.contains(message)) {
        accounts.entry(*run).or_default().lost += 1;
        wrong.push(format!("{message:?} was acknowledged in run {run} and is lost"));
    }
    (accounts, wrong)
}

/// Lists when a site lost what it knew between two arrivals of a message, the first of which it may then have forgotten.
fn losses_between(seen: &Seen, before: usize, at: usize) -> impl Iterator<Item = usize> {
    let losses = seen.losses.iter().copied();
    losses.filter(move |loss| (before + 1..=at).contains(loss) && before + seen.window >= *loss)
}

/// Explains why the message that came as `before` comes again as `at`.
fn reason(
    seen: &Seen,
    before: usize,
    at: usize,
    last_of_connection: &BTreeMap<usize, usize>,
    resent: &mut BTreeMap<Number, (u64, usize)>,
) -> Reason {
    let first = &seen.arrivals[before];
    let may_be_unknown = last_of_connection.get(&first.connection) == Some(&before)
        && first.open_for.is_some_and(|open_for| open_for < SETTLED_AFTER);
    match first.answer {
        Answer::Failed => return Reason::Retry,
        Answer::None => return Reason::InDoubt,
        Answer::Accepted | Answer::Rejected if may_be_unknown => return Reason::InDoubt,
        Answer::Accepted | Answer::Rejected => {}
    }
    if losses_between(seen, before, at).next().is_some() {
        return Reason::Loss;
    }
    match resent.get_mut(&first.message) {
        Some((left, _)) if *left > 0 => {
            *left -= 1;
            Reason::Sender
        }
        _ => Reason::Nothing,
    }
}

/// The judge itself is judged: what is planted is found, what is allowed is not.
pub(crate) mod planted {
    use super::*;

    /// Builds a life from `sender.count answer connection` words: `0.1a1` is message 1 of sender 0, accepted on
    /// connection 1; `n` is no answer, `e` AE, `r` AR. A connection with a `!` behind it ended right after.
    fn life(words: &str) -> Seen {
        let mut seen = Seen::default();
        for word in words.split_whitespace() {
            let ended = word.ends_with('!');
            let (sender, rest) = word.trim_end_matches('!').split_once('.').expect("sender.count");
            let at = rest.find(|letter: char| letter.is_ascii_alphabetic()).expect("an answer");
            let answer = match &rest[at..=at] {
                "a" => Answer::Accepted,
                "e" => Answer::Failed,
                "r" => Answer::Rejected,
                _ => Answer::None,
            };
            let message =
                Number { sender: sender.parse().expect("a sender"), count: rest[..at].parse().expect("a count") };
            let connection = rest[at + 1..].parse().expect("a connection");
            let open_for = ended.then_some(Duration::from_millis(1));
            seen.arrivals.push(Arrival { message, connection, answer, open_for, run: 0 });
            if !seen.acked.iter().any(|(acked, _)| *acked == message) {
                seen.acked.push((message, 0));
            }
        }
        seen
    }

    #[track_caller]
    fn is(seen: &Seen, expected: Account) {
        let (accounts, wrong) = judge(seen);
        assert_eq!(accounts.get(&0).copied().unwrap_or_default(), expected, "{wrong:?}");
        assert_eq!(wrong.is_empty(), expected.is_clean(), "{wrong:?}");
    }

    /// Finds a planted loss, repeat and change of order.
    pub(crate) fn what_must_not_be_is_found() {
        let clean = Account::default();
        is(&life("0.1a1 0.2a1 1.1a1 0.3a1 1.2a2"), clean);
        let mut lost = life("0.1a1 0.3a1");
        lost.acked.push((Number { sender: 0, count: 2 }, 0));
        is(&lost, Account { lost: 1, ..clean });
        is(&life("0.1a1 0.2n1!"), Account { lost: 1, ..clean });
        is(&life("0.1e1"), Account { lost: 1, ..clean });
        is(&life("0.1a1 0.2a1 0.2a1 0.3a1"), Account { duplicated: 1, ..clean });
        is(&life("0.1a1 0.2a1 0.2a2"), Account { duplicated: 1, ..clean });
        // another one came on that connection after it, so that its outcome was kept
        is(&life("0.1a1 0.2a1! 0.1a2"), Account { duplicated: 1, reordered: 1, ..clean });
        is(&life("0.2a1 0.1a1"), Account { reordered: 1, ..clean });
        is(&life("0.1n1! 0.2a2 0.1a2"), Account { reordered: 1, in_doubt: 1, ..clean });
    }

    /// Lets a repeat be that has a reason, once.
    pub(crate) fn what_has_a_reason_is_not() {
        let clean = Account::default();
        is(&life("0.1e1 0.1e1 0.1a1 0.2r1"), Account { retried: 2, ..clean });
        is(&life("0.1n1! 0.1a2"), Account { in_doubt: 1, ..clean });
        is(&life("0.1a1! 0.1a2"), Account { in_doubt: 1, ..clean });
        let mut resent = life("0.1a1 0.1a1 0.2a1");
        resent.resent.insert(Number { sender: 0, count: 1 }, (1, 0));
        is(&resent, Account { sender_resends: 1, ..clean });
        let mut twice = life("0.1a1 0.1a1 0.1a1");
        twice.resent.insert(Number { sender: 0, count: 1 }, (1, 0));
        is(&twice, Account { sender_resends: 1, duplicated: 1, ..clean });
        let mut either = life("0.1n1! 0.1a2");
        either.resent.insert(Number { sender: 0, count: 1 }, (1, 0));
        is(&either, Account { in_doubt: 1, in_doubt_or_resent: 1, ..clean });
        let lost_state = |words, window| Seen { losses: vec![3], window, ..life(words) };
        is(&lost_state("0.1a1 0.2a1 0.3a1 0.2a2 0.3a2 0.4a2", 2), Account { in_doubt: 2, ..clean });
        is(
            &lost_state("0.1a1 0.2a1 0.3a1 0.1a2 0.2a2", 2),
            Account { in_doubt: 1, duplicated: 1, reordered: 1, ..clean },
        );
        is(&lost_state("0.1a1 0.2a1 0.3a1 0.3a2 0.3a2", 2), Account { in_doubt: 1, duplicated: 1, ..clean });
        // What another fault explains too, and AE after the loss, change nothing of the order.
        let both = "0.1a1! 0.2a2 0.3a2 0.1e3 0.1a3 0.2a3 0.3a3";
        is(&lost_state(both, 3), Account { in_doubt: 3, retried: 1, ..clean });
        let back = "0.1a1! 0.2a2 0.3a2 0.1a3 0.3a3 0.2a3";
        is(&lost_state(back, 3), Account { in_doubt: 3, reordered: 1, ..clean });
    }
}
