//! The stored records: what two sites say to each other after a greeting with [`CARRIES_STORED`](super::super::wire).
//!
//! Pure. The form is that of the link's records, whose PING, PONG, RECEIVER and REFUSE they share; a large message goes in
//! many records. It never trusts a length beyond the record, and an error names no byte of a message. Format: wardlink's
//! own (ARCHITECTURE.md, "The link").

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use super::super::wire::{self, Cause, Fields, ReceiverNews, WireError, put_record};
use super::{Answer, CommandKind, Held, Window};
use crate::mllp::ack::AckCode;
use crate::spool::codes::{CODES, VERDICTS};
use crate::spool::{
    ANSWER_BYTES_MAX, Digest, DigestKey, Divergence, Epoch, FarView, ForwardId, Opening, Outcome, Sequence,
};

/// The bytes of a message in one record: half of what a record holds, so that an echo waits for little.
pub const PART_BYTES_MAX: usize = 32 << 10;
/// What is said of a held message, in bytes.
pub const HELD_TEXT_BYTES_MAX: usize = 255;

const DIVERGENCES: [Divergence; 3] = [Divergence::FarAhead, Divergence::UnknownEpoch, Divergence::OtherMessages];
const KINDS: [CommandKind; 2] = [CommandKind::Retry, CommandKind::Withdraw];
const ANSWERS: [Answer; 3] = [Answer::Withdrawn, Answer::Attempted, Answer::Unknown];

/// Says how the other side broke the rules of stored records; the connection ends.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Bytes are no record.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A record came where it has no place.
    #[error("a stored record of kind {0} came where none belongs")]
    Order(u8),
    /// A message does not follow the one before it.
    #[error("a stored message does not follow the one before")]
    Gap,
    /// A message is larger than the far site takes, or than it said.
    #[error("a stored message is larger than allowed")]
    TooLarge,
    /// More was sent than the window allows.
    #[error("more stored messages came than the window allows")]
    Window,
    /// A message is of no epoch that was told.
    #[error("a stored message is of an epoch that was not told")]
    Epoch,
    /// A message is not the one that was counted into the digest.
    #[error("a stored message does not match the digest")]
    Digest,
    /// The near site settled a message that the receiver may be getting now.
    #[error("a stored message is settled that is still in hand")]
    Settled,
    /// An outcome is of no message that was sent.
    #[error("an outcome of a stored message that was not sent")]
    Outcome,
    /// It asks on and reads nothing, or asks for too much at once.
    #[error("more was asked than is answered at once")]
    Flood,
}

/// Is how far the far site is, with what it has in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Is how far it wrote down that it came.
    pub far: FarView,
    /// Is the last message that it took in; 0: none.
    pub taken: Sequence,
    /// Counts the messages in hand that are not retired.
    pub messages: u32,
    /// Counts the bytes of those without an outcome.
    pub bytes: u64,
    /// Is what it takes in ahead of the receiver.
    pub window: Window,
}

/// Is the beginning of a message. It has no `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Is its number.
    pub sequence: Sequence,
    /// Is the number of the message before it: those between were settled before they were sent.
    pub previous: Sequence,
    /// Is its epoch.
    pub epoch: Epoch,
    /// Is the running digest up to it.
    pub digest: Digest,
    /// Tells that a state that the far site lost may have attempted it.
    pub in_doubt: bool,
    /// Is the length of the whole message.
    pub total_bytes: u32,
    /// Are its first bytes.
    pub bytes: &'a [u8],
}

/// Is one record. It has no `Debug`, so that no byte of a message gets into a log.
#[derive(Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// Tells what the near site's queue is, near to far; the first record.
    Opening(Opening),
    /// Answers it.
    View(View),
    /// Tells that both tell the same story, near to far.
    Begin {
        /// Is the last message that the far site has or needs not.
        after: Sequence,
        /// What is sent up to here may have been attempted by a state that the far site lost.
        in_doubt_through: Sequence,
        /// Tells that the forward is paused.
        is_paused: bool,
    },
    /// Tells that they do not, near to far.
    Diverged(Divergence),
    /// Tells that the forward is paused, or goes on, near to far.
    Paused(bool),
    /// Begins a message, near to far.
    Message(Message<'a>),
    /// Goes on with it.
    More {
        /// Is the offset of the first byte.
        offset: u32,
        /// Is what is carried.
        bytes: &'a [u8],
    },
    /// Tells what became of a message, far to near.
    Outcome(Outcome),
    /// Tells that all outcomes up to here that the far site has were told, once after the beginning.
    Reported(Sequence),
    /// Tells that all messages up to here are settled, near to far.
    Retired(Sequence),
    /// Tells that a message is held, or that none is, far to near.
    Held(Option<Held>),
    /// Asks something of a message that was sent, near to far.
    Command {
        /// Numbers it on this connection.
        id: u32,
        /// Says what.
        kind: CommandKind,
        /// Is the message.
        sequence: Sequence,
    },
    /// Answers it.
    Answer {
        /// Is the command's number.
        id: u32,
        /// Is the answer.
        answer: Answer,
    },
    /// Asks for an echo.
    Ping(u64),
    /// Is the echo.
    Pong(u64),
    /// Tells how the receiver is, far to near.
    Receiver(ReceiverNews),
    /// Goes on no longer, far to near.
    Refuse(Cause),
}

impl Record<'_> {
    /// Returns the number of its kind.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Refuse(_) => 3,
            Self::Ping(_) => 11,
            Self::Pong(_) => 12,
            Self::Receiver(_) => 13,
            Self::Opening(_) => 32,
            Self::View(_) => 33,
            Self::Begin { .. } => 34,
            Self::Diverged(_) => 35,
            Self::Message(_) => 36,
            Self::More { .. } => 37,
            Self::Outcome(_) => 38,
            Self::Reported(_) => 39,
            Self::Retired(_) => 40,
            Self::Held(_) => 41,
            Self::Command { .. } => 42,
            Self::Answer { .. } => 43,
            Self::Paused(_) => 44,
        }
    }
}

/// Appends a record.
pub fn encode(record: &Record<'_>, out: &mut BytesMut) {
    match record {
        Record::Ping(token) => wire::encode(&wire::Record::Ping(*token), out),
        Record::Pong(token) => wire::encode(&wire::Record::Pong(*token), out),
        Record::Receiver(news) => wire::encode(&wire::Record::Receiver(news.clone()), out),
        Record::Refuse(cause) => wire::encode(&wire::Record::Refuse(*cause), out),
        record => put_record(out, |out| {
            out.put_u8(record.kind());
            encode_fields(record, out);
        }),
    }
}

fn encode_fields(record: &Record<'_>, out: &mut BytesMut) {
    match record {
        Record::Opening(opening) => put_opening(opening, out),
        Record::View(view) => put_view(view, out),
        Record::Begin { after, in_doubt_through, is_paused } => {
            out.put_u64(*after);
            out.put_u64(*in_doubt_through);
            out.put_u8(u8::from(*is_paused));
        }
        Record::Diverged(divergence) => out.put_u8(place(&DIVERGENCES, divergence)),
        Record::Paused(is_paused) => out.put_u8(u8::from(*is_paused)),
        Record::Message(message) => {
            out.put_u64(message.sequence);
            out.put_u64(message.previous);
            out.put_slice(&message.epoch.0);
            out.put_slice(&message.digest.0);
            out.put_u8(u8::from(message.in_doubt));
            out.put_u32(message.total_bytes);
            out.put_slice(message.bytes);
        }
        Record::More { offset, bytes } => {
            out.put_u32(*offset);
            out.put_slice(bytes);
        }
        Record::Outcome(outcome) => put_outcome(outcome, out),
        Record::Reported(through) | Record::Retired(through) => out.put_u64(*through),
        Record::Held(held) => {
            let held = held.as_ref();
            out.put_u64(held.map_or(0, |held| held.sequence));
            out.put_u8(held.map_or(0, |held| held.reason));
            out.put_u8(place(&CODES, &held.map_or(AckCode::Absent, |held| held.code)));
            out.put_u32(held.map_or(0, |held| held.attempts));
            out.put_u32(held.map_or(0, |held| held.in_doubt));
            let text = held.map_or("", |held| held.text.as_str());
            let end = (0..=HELD_TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
            out.put_slice(text.get(..end.unwrap_or(0)).unwrap_or_default().as_bytes());
        }
        Record::Command { id, kind, sequence } => {
            out.put_u32(*id);
            out.put_u8(place(&KINDS, kind));
            out.put_u64(*sequence);
        }
        Record::Answer { id, answer } => {
            out.put_u32(*id);
            out.put_u8(place(&ANSWERS, answer));
        }
        Record::Ping(_) | Record::Pong(_) | Record::Receiver(_) | Record::Refuse(_) => {}
    }
}

fn put_opening(opening: &Opening, out: &mut BytesMut) {
    out.put_slice(&opening.forward.0);
    out.put_slice(&opening.digest_key.0);
    out.put_slice(&opening.epoch.0);
    out.put_u64(opening.epoch_first);
    out.put_u64(opening.retired_through);
    out.put_slice(&opening.retired_digest.0);
}

fn put_view(view: &View, out: &mut BytesMut) {
    let (known, epoch, watermark, digest) = match view.far {
        FarView::Fresh => (0, Epoch([0; 16]), 0, Digest([0; 32])),
        FarView::At { epoch, watermark, digest } => (1, epoch, watermark, digest),
    };
    out.put_u8(known);
    out.put_slice(&epoch.0);
    out.put_u64(watermark);
    out.put_slice(&digest.0);
    out.put_u64(view.taken);
    out.put_u32(view.messages);
    out.put_u64(view.bytes);
    out.put_u32(view.window.messages_max);
    out.put_u64(view.window.bytes_max);
    out.put_u64(view.window.message_bytes_max);
}

fn put_outcome(outcome: &Outcome, out: &mut BytesMut) {
    out.put_u64(outcome.sequence);
    out.put_u8(place(&VERDICTS, &outcome.verdict));
    out.put_u8(place(&CODES, &outcome.code));
    out.put_u32(outcome.attempts);
    out.put_u32(outcome.in_doubt);
    let at = outcome.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.put_u64(u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
    out.put_slice(outcome.answer.get(..ANSWER_BYTES_MAX).unwrap_or(&outcome.answer));
}

/// Returns the number of a value in its list, from 1.
fn place<T: PartialEq>(list: &[T], value: &T) -> u8 {
    let place = list.iter().position(|other| other == value);
    place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0)
}

/// Reads the record at the front of `bytes` and returns it with its length, or `None` where it is not whole yet.
///
/// # Errors
/// The bytes are no stored record.
pub fn decode(bytes: &[u8]) -> Result<Option<(Record<'_>, usize)>, WireError> {
    let Some((mut fields, whole)) = Fields::of_record(bytes)? else { return Ok(None) };
    let record = match fields.kind() {
        3 | 11..=13 => match wire::decode(bytes)? {
            Some((wire::Record::Ping(token), _)) => Record::Ping(token),
            Some((wire::Record::Pong(token), _)) => Record::Pong(token),
            Some((wire::Record::Receiver(news), _)) => Record::Receiver(news),
            Some((wire::Record::Refuse(cause), _)) => Record::Refuse(cause),
            _ => return Err(WireError::UnknownKind(fields.kind())),
        },
        _ => stored(&mut fields)?,
    };
    Ok(Some((record, whole)))
}

fn stored<'a>(fields: &mut Fields<'a>) -> Result<Record<'a>, WireError> {
    Ok(match fields.kind() {
        32 => Record::Opening(Opening {
            forward: ForwardId(fields.chunk()?),
            digest_key: DigestKey(fields.chunk()?),
            epoch: Epoch(fields.chunk()?),
            epoch_first: fields.u64()?,
            retired_through: fields.u64()?,
            retired_digest: Digest(fields.chunk()?),
        }),
        33 => Record::View(view(fields)?),
        34 => {
            let (after, in_doubt_through) = (fields.u64()?, fields.u64()?);
            Record::Begin { after, in_doubt_through, is_paused: fields.byte()? != 0 }
        }
        35 => Record::Diverged(named(fields, &DIVERGENCES)?),
        36 => Record::Message(Message {
            sequence: fields.u64()?,
            previous: fields.u64()?,
            epoch: Epoch(fields.chunk()?),
            digest: Digest(fields.chunk()?),
            in_doubt: fields.byte()? != 0,
            total_bytes: fields.u32()?,
            bytes: fields.rest(),
        }),
        37 => Record::More { offset: fields.u32()?, bytes: fields.rest() },
        38 => Record::Outcome(outcome(fields)?),
        39 => Record::Reported(fields.u64()?),
        40 => Record::Retired(fields.u64()?),
        41 => {
            let (sequence, reason, code) = (fields.u64()?, fields.byte()?, named(fields, &CODES)?);
            let (attempts, in_doubt) = (fields.u32()?, fields.u32()?);
            let text = fields.rest();
            let text = text.get(..HELD_TEXT_BYTES_MAX).unwrap_or(text);
            let text = std::str::from_utf8(text).map_err(|_| WireError::BadText)?;
            // it is shown to people, on terminals too
            let text = text.chars().filter(|c| !c.is_control()).collect();
            Record::Held((sequence > 0).then_some(Held { sequence, reason, code, attempts, in_doubt, text }))
        }
        42 => Record::Command { id: fields.u32()?, kind: named(fields, &KINDS)?, sequence: fields.u64()? },
        43 => Record::Answer { id: fields.u32()?, answer: named(fields, &ANSWERS)? },
        44 => Record::Paused(fields.byte()? != 0),
        kind => return Err(WireError::UnknownKind(kind)),
    })
}

fn view(fields: &mut Fields<'_>) -> Result<View, WireError> {
    let (known, epoch, watermark) = (fields.byte()?, Epoch(fields.chunk()?), fields.u64()?);
    let digest = Digest(fields.chunk()?);
    Ok(View {
        far: if known == 0 { FarView::Fresh } else { FarView::At { epoch, watermark, digest } },
        taken: fields.u64()?,
        messages: fields.u32()?,
        bytes: fields.u64()?,
        window: Window { messages_max: fields.u32()?, bytes_max: fields.u64()?, message_bytes_max: fields.u64()? },
    })
}

fn outcome(fields: &mut Fields<'_>) -> Result<Outcome, WireError> {
    Ok(Outcome {
        sequence: fields.u64()?,
        verdict: named(fields, &VERDICTS)?,
        code: named(fields, &CODES)?,
        attempts: fields.u32()?,
        in_doubt: fields.u32()?,
        at: UNIX_EPOCH.checked_add(Duration::from_millis(fields.u64()?)).unwrap_or(SystemTime::UNIX_EPOCH),
        answer: {
            let answer = fields.rest();
            answer.get(..ANSWER_BYTES_MAX).unwrap_or(answer).to_vec()
        },
    })
}

/// Reads a value by its number in a list; one that a later version added is not known here, and guessing is not safe.
fn named<T: Copy>(fields: &mut Fields<'_>, list: &[T]) -> Result<T, WireError> {
    let number = usize::from(fields.byte()?);
    number.checked_sub(1).and_then(|place| list.get(place)).copied().ok_or(WireError::UnknownValue(fields.kind()))
}

#[cfg(test)]
mod tests;
