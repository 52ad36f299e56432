//! What of a forward's or service's answers lies in the last minutes: from counts, seen now and then. Pure.
//!
//! Never looks at a clock, and says nothing where too few answers came. Bounded: some looks for each thing.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::facts::{ForwardFacts, ServiceFacts, SiteFacts, SlowAnswers};

/// Is the time that the share of negative answers is taken over: some resends of one bad message are no rate.
const NAK_WINDOW: Duration = Duration::from_secs(600);
/// Is the time that latency is taken over.
const LATENCY_WINDOW: Duration = Duration::from_secs(300);
/// Is the least time between two looks that count.
const SPACING: Duration = Duration::from_secs(15);
/// Is how many answers say something of a rate or a hundredth.
const ANSWERS_MIN: u64 = 20;

/// Is counts at a moment.
type Counts = Vec<u64>;

/// Remembers counts of each thing.
#[derive(Debug, Default)]
pub(super) struct Windows {
    answers: BTreeMap<String, VecDeque<(Instant, Counts)>>,
    latencies: BTreeMap<String, VecDeque<(Instant, Counts)>>,
}

impl Windows {
    pub(super) fn handle_look(&mut self, facts: &SiteFacts, at: Instant) {
        let forwards = facts.forwards.iter().map(|one| (forward_key(one), answers(acks(one))));
        let services = facts.services.iter().map(|one| (service_key(one), answers(&one.acks)));
        remember(&mut self.answers, forwards.chain(services).collect(), at, NAK_WINDOW);
        let slow = |SlowAnswers { answers, near, beyond }: SlowAnswers| vec![answers, near, beyond];
        let latencies = facts.forwards.iter().map(|one| (forward_key(one), slow(one.slow)));
        remember(&mut self.latencies, latencies.collect(), at, LATENCY_WINDOW);
    }

    /// Says which share of the answers was negative, in percent; none where there were too few.
    pub(super) fn nak_percent(&self, key: &str) -> Option<u64> {
        let counts = difference(self.answers.get(key)?)?;
        let (negative, all) = (*counts.first()?, counts.iter().sum::<u64>());
        (all >= ANSWERS_MIN).then(|| negative.saturating_mul(100) / all.max(1))
    }

    /// Says how many of the answers were slow; none where there were too few.
    pub(super) fn slow(&self, key: &str) -> Option<SlowAnswers> {
        let counts = difference(self.latencies.get(key)?)?;
        let [answers, near, beyond] = *counts.as_slice() else { return None };
        (answers >= ANSWERS_MIN).then_some(SlowAnswers { answers, near, beyond })
    }
}

pub(super) fn forward_key(forward: &ForwardFacts) -> String {
    format!("forward {}", forward.name)
}

pub(super) fn service_key(service: &ServiceFacts) -> String {
    format!("service {}", service.name)
}

/// Returns the answers of the receiver where this site talks to it, else those that senders had.
fn acks(forward: &ForwardFacts) -> &BTreeMap<&'static str, u64> {
    match &forward.queue {
        Some(queue) if !queue.receiver_acks.is_empty() => &queue.receiver_acks,
        _ => &forward.acks,
    }
}

/// Counts negative answers, and the others.
fn answers(acks: &BTreeMap<&'static str, u64>) -> Counts {
    let is_negative = |code: &str| matches!(code, "AE" | "AR" | "CE" | "CR" | "NAK");
    let negative = acks.iter().filter(|(code, _)| is_negative(code)).map(|(_, count)| *count).sum();
    let positive = acks.iter().filter(|(code, _)| !is_negative(code)).map(|(_, count)| *count).sum();
    vec![negative, positive]
}

fn remember(
    all: &mut BTreeMap<String, VecDeque<(Instant, Counts)>>,
    now: BTreeMap<String, Counts>,
    at: Instant,
    window: Duration,
) {
    all.retain(|key, _| now.contains_key(key));
    for (key, counts) in now {
        let looks = all.entry(key).or_default();
        // Counts go back where the thing is another one of the same name.
        if looks.back().is_some_and(|(_, last)| last.iter().zip(&counts).any(|(before, now)| now < before)) {
            looks.clear();
        }
        let age = |look: &(Instant, Counts)| at.saturating_duration_since(look.0);
        // The last look always shows what is now; the one before it keeps its distance.
        if looks.len() > 1 && looks.get(looks.len() - 2).is_some_and(|look| age(look) < SPACING) {
            looks.pop_back();
        }
        looks.push_back((at, counts));
        while looks.len() > 2 && looks.get(1).is_some_and(|second| age(second) >= window) {
            looks.pop_front();
        }
    }
}

fn difference(looks: &VecDeque<(Instant, Counts)>) -> Option<Counts> {
    let ((_, first), (_, last)) = (looks.front()?, looks.back()?);
    Some(last.iter().zip(first).map(|(now, before)| now.saturating_sub(*before)).collect())
}
