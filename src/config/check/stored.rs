//! How a forward delivers, and which of its keys count for that: a key that says nothing is an error.

use std::time::Duration;

use serde_saphyr::Spanned;

use super::Findings;
use super::mllp::{self, Who};
use super::policy::Keys;
use crate::config::raw::{self, Text};
use crate::config::value::{self, Judged};
use crate::config::{
    ApplicationAck, Delivery, OnFull, OnUnreachable, ReceiverPolicy, STORED_MESSAGE_BYTES_MAX, Stored, Transparent,
};
use crate::mllp::dialect::Dialect;

/// Bounds the wait for a receiver unless the file says otherwise: a short outage, and senders still wait.
const HOLD_FOR: Duration = Duration::from_secs(30);
/// Is the shortest wait: below, hold is close.
const HOLD_FOR_MIN: Duration = Duration::from_secs(1);
/// Is the longest wait: beyond, a sender has given up long ago.
const HOLD_FOR_MAX: Duration = Duration::from_secs(3600);
/// Limits the messages that wait unless the file says otherwise: days of a busy feed.
const QUEUE_MESSAGES: u64 = 1_000_000;
/// Is the greatest such limit.
const QUEUE_MESSAGES_MAX: u32 = 1_000_000_000;
/// Limits what waits unless the file says otherwise, in bytes: a million messages of 10 KiB.
const QUEUE_BYTES: u64 = 10 << 30;
/// Is the least such limit, in bytes: one small message.
const QUEUE_BYTES_MIN: u64 = 1 << 10;
/// Is the greatest, in bytes: beyond, no disk of a site is so large.
const QUEUE_BYTES_MAX: u64 = 16 << 40;
/// Keeps what is delivered for so long unless the file says otherwise: a receiver that lost a week asks for it again.
const KEEP_DELIVERED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Is the longest time: what is kept longer belongs into an archive.
const KEEP_DELIVERED_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Says which way a file names, where it names one.
#[derive(Clone, Copy)]
enum Word {
    Transparent,
    Stored,
}

/// Reads how a forward delivers; `message_bytes_max` is its limit of a message, where that is right.
pub(super) fn delivery(
    raw: &Spanned<raw::Forward>,
    message_bytes_max: Option<u64>,
    findings: &mut Findings,
) -> Option<Delivery> {
    let raw = &raw.value;
    match findings.optional(raw.delivery.as_ref(), Word::Transparent, word)? {
        Word::Transparent => transparent(raw, findings).map(Delivery::Transparent),
        Word::Stored => stored(raw, message_bytes_max, findings).map(Delivery::Stored),
    }
}

fn word(text: &str) -> Judged<Word> {
    value::choice(text, &[("transparent", Word::Transparent), ("stored", Word::Stored)])
}

fn transparent(raw: &raw::Forward, findings: &mut Findings) -> Option<Transparent> {
    let stored_only = [&raw.on_full, &raw.max_queue_messages, &raw.max_queue_bytes, &raw.keep_delivered];
    let stored_only = stored_only.into_iter().chain([&raw.accept_application_ack]).flatten();
    for text in stored_only.chain(Keys::of_forward(raw).written()) {
        let message = "counts where messages are stored; write delivery: stored, or leave it out";
        findings.value(text.referenced, message);
    }
    if let Some(raw) = &raw.commit {
        let message = "counts where messages are stored; in transparent delivery sender and receiver commit to each \
                       other: leave it out";
        findings.value(raw.referenced, message);
    }
    if let Some(raw) = &raw.receiver {
        let message = "cannot differ from what senders speak in transparent delivery, which carries bytes as they are; \
                       write delivery: stored to translate, or leave it out";
        findings.value(raw.referenced, message);
    }
    let words = [("hold", OnUnreachable::Hold), ("close", OnUnreachable::Close), ("nak", OnUnreachable::Nak)];
    let on_unreachable = raw.on_unreachable.as_ref();
    let on_unreachable = findings.optional(on_unreachable, OnUnreachable::Hold, |text| value::choice(text, &words));
    let hold = |text: &str| value::duration(text, HOLD_FOR_MIN..=HOLD_FOR_MAX);
    let hold_for = findings.optional(raw.hold_for.as_ref(), HOLD_FOR, hold);
    Some(Transparent { on_unreachable: on_unreachable?, hold_for: hold_for? })
}

fn stored(raw: &raw::Forward, message_bytes_max: Option<u64>, findings: &mut Findings) -> Option<Stored> {
    for text in [&raw.on_unreachable, &raw.hold_for].into_iter().flatten() {
        let message = "counts for delivery: transparent; a stored message is acknowledged whether its receiver can be \
                       reached or not: leave it out, and write on_full: close or nak for a message that cannot be kept";
        findings.value(text.referenced, message);
    }
    if let Some(text) = raw.on_full.as_ref().filter(|_| raw.mllp.as_ref().is_some_and(|mllp| mllp.value == "release2"))
    {
        let message = "counts for mllp: release1; in release2 a message that cannot be kept is answered with a negative \
                       commit: leave it out";
        findings.value(text.referenced, message);
    }
    let words = [("close", OnFull::Close), ("nak", OnFull::Nak)];
    let on_full = findings.optional(raw.on_full.as_ref(), OnFull::Close, |text| value::choice(text, &words));
    let messages = |text: &str| value::number(text, 1..=QUEUE_MESSAGES_MAX).map(u64::from);
    let queue_messages_max = findings.optional(raw.max_queue_messages.as_ref(), QUEUE_MESSAGES, messages);
    check_size(raw, message_bytes_max, findings);
    let queue_bytes_max = queue_bytes(raw.max_queue_bytes.as_ref(), message_bytes_max, findings);
    let keep = |text: &str| value::duration(text, Duration::ZERO..=KEEP_DELIVERED_MAX);
    let keep_delivered = findings.optional(raw.keep_delivered.as_ref(), KEEP_DELIVERED, keep);
    let discard = [("discard", ApplicationAck::Discard)];
    let application_ack = raw.accept_application_ack.as_ref();
    let application_ack =
        findings.optional(application_ack, ApplicationAck::Refuse, |text| value::choice(text, &discard));
    let receiver = receiver(raw, findings);
    Some(Stored {
        on_full: on_full?,
        queue_messages_max: queue_messages_max?,
        queue_bytes_max: queue_bytes_max?,
        keep_delivered: keep_delivered?,
        application_ack: application_ack?,
        receiver: receiver?,
    })
}

/// Notes a limit of a message that is above what another site takes of stored ones.
fn check_size(raw: &raw::Forward, message_bytes_max: Option<u64>, findings: &mut Findings) {
    let Some(text) = raw.max_message_size.as_ref().filter(|_| raw.service.is_some()) else { return };
    if message_bytes_max.is_some_and(|bytes| bytes > STORED_MESSAGE_BYTES_MAX) {
        let most = value::size_text(STORED_MESSAGE_BYTES_MAX);
        let message = format!("is above what a site takes of stored messages; write {most} or less");
        findings.value(text.referenced, message);
    }
}

/// Reads how much may wait: one message of the largest size at least.
fn queue_bytes(text: Option<&Text>, message_bytes_max: Option<u64>, findings: &mut Findings) -> Option<u64> {
    let Some(text) = text else { return Some(QUEUE_BYTES) };
    let read = findings.read(text, |text| value::size_bytes(text, QUEUE_BYTES_MIN..=QUEUE_BYTES_MAX))?;
    if let Some(message) = message_bytes_max.filter(|message| *message > read.value) {
        let message = value::size_text(message);
        let message = format!("has no room for one message of max_message_size, {message}; write {message} or more");
        findings.value(read.at, message);
    }
    Some(read.value)
}

/// Reads how the receiver is treated; that of a service is its own site's word.
fn receiver(raw: &raw::Forward, findings: &mut Findings) -> Option<ReceiverPolicy> {
    let keys = Keys::of_forward(raw);
    if raw.to.is_some() {
        let policy = keys.read(findings);
        let dialect = match &raw.receiver {
            None => Some(Dialect::RELEASE_1),
            Some(receiver) => mllp::Keys::of_receiver(&receiver.value).read(Who::Receiver, findings),
        };
        return Some(ReceiverPolicy { dialect: dialect?, ..policy? });
    }
    let receiver = raw.receiver.as_ref().map(|receiver| receiver.referenced);
    for at in keys.written().map(|text| text.referenced).chain(receiver) {
        let message = "is for the site of the receiver to say; write it at the service there, or leave it out";
        findings.value(at, message);
    }
    Some(ReceiverPolicy::default())
}
