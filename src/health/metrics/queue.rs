//! The metrics of stored forwards' queues.
//!
//! A transparent forward has none of them.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};

use super::super::facts::{ForwardFacts, OrphanFacts, Queue, QueueFacts};
use super::super::state::Entry;
use super::family::{Label, Metric, age, codes, count, counter, counts, family, gauge, label, number};
use crate::link::tally::REFUSALS;

/// Writes those of queues that have no forward any more.
pub(super) fn orphans(encoder: &mut DescriptorEncoder, orphans: &[OrphanFacts]) -> fmt::Result {
    let help = "Messages in the queue of a forward that the configuration does not name any more: nothing moves them";
    family(encoder, gauge("forward_orphaned_messages", help), orphans, |to, orphan| {
        number_maybe(
            to,
            ("forward", &orphan.name),
            orphan.depth.zip(orphan.parked).map(|(depth, parked)| depth + parked),
        )
    })
}

/// Writes them.
pub(super) fn encode(encoder: &mut DescriptorEncoder, forwards: &[Entry<ForwardFacts>]) -> fmt::Result {
    depth(encoder, forwards)?;
    messages(encoder, forwards)?;
    state(encoder, forwards)?;
    let help = "How long it takes until no message waits any more, if it goes on so";
    each(encoder, gauge("forward_queue_drained_in", help).seconds(), forwards, |to, of, queue| {
        age(to, of, queue.drained_in)
    })?;
    let help = "Bytes that are free on the disk of the spool";
    each(encoder, gauge("forward_spool_disk_free", help).bytes(), forwards, |to, of, queue| {
        number_maybe(to, of, queue.disk_free_bytes)
    })?;
    let help = "Bytes of the copies of delivered messages that are kept (keep_delivered)";
    each(encoder, gauge("forward_delivered_kept", help).bytes(), forwards, |to, of, queue| {
        number_maybe(to, of, queue.delivered_kept_bytes)
    })?;
    let help = "Copies of delivered messages that were shredded before their time: the disk of the spool was short";
    each(encoder, counter("forward_delivered_shredded_early", help), forwards, |to, of, queue| {
        count_maybe(to, &[of], queue.shredded_early)
    })?;
    let help = "How long it takes until that disk is full, if it goes on so";
    each(encoder, gauge("forward_spool_disk_full_in", help).seconds(), forwards, |to, of, queue| {
        age(to, of, queue.disk_full_in)
    })
}

fn depth(encoder: &mut DescriptorEncoder, forwards: &[Entry<ForwardFacts>]) -> fmt::Result {
    let help = "Messages that wait in the queue now";
    each(encoder, gauge("forward_queue_depth", help), forwards, |to, of, queue| number_maybe(to, of, queue.depth))?;
    let help = "At most so many messages wait or are set aside (max_queue_messages)";
    each(encoder, gauge("forward_queue_depth_max", help), forwards, |to, of, queue| number(to, of, queue.depth_max))?;
    let help = "Bytes of the messages that wait";
    each(encoder, gauge("forward_queue", help).bytes(), forwards, |to, of, queue| number_maybe(to, of, queue.bytes))?;
    let help = "At most so many bytes wait or are set aside (max_queue_bytes)";
    each(encoder, gauge("forward_queue_max", help).bytes(), forwards, |to, of, queue| number(to, of, queue.bytes_max))?;
    let help = "How long the oldest message has waited";
    each(encoder, gauge("forward_oldest_queued_age", help).seconds(), forwards, |to, of, queue| {
        age(to, of, queue.oldest_age)
    })?;
    let help = "Messages that are set aside; they fill the queue too";
    each(encoder, gauge("forward_parked_messages", help), forwards, |to, of, queue| {
        number_maybe(to, of, queue.parked)
    })?;
    let help = "Bytes of the messages that are set aside";
    each(encoder, gauge("forward_parked", help).bytes(), forwards, |to, of, queue| {
        number_maybe(to, of, queue.parked_bytes)
    })
}

fn messages(encoder: &mut DescriptorEncoder, forwards: &[Entry<ForwardFacts>]) -> fmt::Result {
    let help = "Messages that were kept and acknowledged, over the life of the spool";
    each(encoder, counter("forward_accepted_messages", help), forwards, |to, of, queue| {
        count_maybe(to, &[of], queue.accepted_total)
    })?;
    let help = "Messages of these that are settled: delivered, set aside or discarded";
    each(encoder, counter("forward_settled_messages", help), forwards, |to, of, queue| {
        count_maybe(to, &[of], queue.settled_total)
    })?;
    let help = "Messages that were not taken, by reason";
    each(encoder, counter("forward_refused_messages", help), forwards, |to, of, queue| {
        counts(to, &[of], ("reason", REFUSALS), &queue.refused)
    })?;
    let help =
        "Messages settled since the start after an attempt whose end is not known: the receiver may have them twice";
    each(encoder, counter("forward_in_doubt", help), forwards, |to, of, queue| {
        count_maybe(to, &[of], queue.in_doubt_total)
    })?;
    let help = "Answers of the receiver by their code (MSA-1), where this site delivers (to:)";
    each(encoder, counter("forward_receiver_acks", help), forwards, |to, of, queue| {
        // Where a link delivers, its service has them.
        let known = codes().filter(|_| !queue.dropped_answers.is_empty());
        counts(to, &[of], ("code", known), &queue.receiver_acks)
    })?;
    let help =
        "What the receiver said to stored messages and answers none that was sent, by kind, where this site delivers";
    each(encoder, counter("forward_dropped_answers", help), forwards, |to, of, queue| {
        counts(to, &[of], ("kind", []), &queue.dropped_answers)
    })?;
    let help = "Time since the receiver last settled a message";
    each(encoder, gauge("forward_last_settled_age", help).seconds(), forwards, |to, of, queue| {
        age(to, of, queue.last_settled_age)
    })
}

/// Writes every state, 1 at the one that holds.
fn state(encoder: &mut DescriptorEncoder, forwards: &[Entry<ForwardFacts>]) -> fmt::Result {
    let help = "What the queue does: 1 at the state that holds";
    each(encoder, gauge("forward_queue_state", help), forwards, |to, of, queue| {
        let holds = queue.state.as_str();
        Queue::WORDS
            .iter()
            .try_for_each(|word| to.encode_family(&[of, ("state", *word)])?.encode_gauge(&u64::from(*word == holds)))
    })
}

/// Writes one metric of all stored forwards.
fn each(
    encoder: &mut DescriptorEncoder,
    metric: Metric,
    forwards: &[Entry<ForwardFacts>],
    write: impl Fn(&mut MetricEncoder, Label, &QueueFacts) -> fmt::Result,
) -> fmt::Result {
    family(encoder, metric, forwards, |to, forward| match &forward.facts.queue {
        Some(queue) => write(to, label(forward), queue),
        None => Ok(()),
    })
}

/// Writes a number that may not be known: absent then, not 0.
fn number_maybe(to: &mut MetricEncoder, of: Label, value: Option<u64>) -> fmt::Result {
    value.map_or(Ok(()), |value| number(to, of, value))
}

/// Does the same with a counter.
fn count_maybe(to: &mut MetricEncoder, of: &[Label], value: Option<u64>) -> fmt::Result {
    value.map_or(Ok(()), |value| count(to, of, value))
}
