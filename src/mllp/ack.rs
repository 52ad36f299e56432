//! Knows the answers: their codes, which of them a message asks for, and how one is written.
//!
//! Never decides whether a message is accepted, never makes up a control id or a time. Sources: HL7 v2.x chapter 2
//! (MSA, ERR, tables 0008, 0155 and 0357), MLLP Release 2 (commit acknowledgement `0B 06 1C 0D`, its negative
//! `0B 15 1C 0D`).

#[cfg(test)]
mod tests;

use std::fmt;

use super::message::{Header, Mode};

/// Is the payload of a commit acknowledgement of MLLP Release 2: the block is in safe storage.
pub const COMMIT_ACK: u8 = 0x06;
/// Is that of its negative: the block is not, and may be sent again.
pub const COMMIT_NAK: u8 = 0x15;

/// Says that a message was not forwarded.
pub const UNREACHABLE_TEXT: &[u8] = b"Receiver not reachable and message not delivered";
/// Says that a message was not stored: it is to be sent again.
pub const NOT_STORED_TEXT: &[u8] = b"Message cannot be stored now; send it again later";
/// Says that a message asks for what stored delivery cannot give.
pub const NO_APPLICATION_ANSWER_TEXT: &[u8] =
    b"Message wants an answer of the application, which stored delivery cannot give; use transparent delivery";

/// Is how many control bytes alone are a control frame, at the most: more is what should be a message.
const CONTROL_BYTES_MAX: usize = 4;

/// Is "application internal error" of HL7 table 0357, the only code there for what is not the message's fault.
const REFUSAL_ERROR: &[u8] = b"207";

/// Is the code of an answer (HL7 table 0008, and MLLP Release 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckCode {
    /// AA: processed.
    ApplicationAccept,
    /// AE: processed with an error.
    ApplicationError,
    /// AR: rejected.
    ApplicationReject,
    /// CA: safely stored.
    CommitAccept,
    /// CE: not stored, an error.
    CommitError,
    /// CR: not stored, rejected.
    CommitReject,
    /// The commit acknowledgement of MLLP Release 2; an HL7 answer follows.
    TransportAck,
    /// The negative commit acknowledgement of MLLP Release 2.
    TransportNak,
    /// A code that HL7 does not know.
    Other,
    /// No code where one belongs.
    Absent,
}

impl AckCode {
    /// Reads MSA-1.
    pub fn parse(field: &[u8]) -> Self {
        match field {
            b"AA" => Self::ApplicationAccept,
            b"AE" => Self::ApplicationError,
            b"AR" => Self::ApplicationReject,
            b"CA" => Self::CommitAccept,
            b"CE" => Self::CommitError,
            b"CR" => Self::CommitReject,
            b"" => Self::Absent,
            _ => Self::Other,
        }
    }

    /// Returns the stable code, for counters, logs, and MSA-1.
    pub fn code(self) -> &'static str {
        match self {
            Self::ApplicationAccept => "AA",
            Self::ApplicationError => "AE",
            Self::ApplicationReject => "AR",
            Self::CommitAccept => "CA",
            Self::CommitError => "CE",
            Self::CommitReject => "CR",
            Self::TransportAck => "ACK",
            Self::TransportNak => "NAK",
            Self::Other => "other",
            Self::Absent => "none",
        }
    }

    /// Says whether the message was accepted: AA or CA, nothing else.
    pub fn is_positive(self) -> bool {
        matches!(self, Self::ApplicationAccept | Self::CommitAccept)
    }
}

/// Is a code that HL7 does not know, and that is plain enough to be shown: up to three letters and digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainCode([u8; 3]);

impl PlainCode {
    /// Takes MSA-1.
    pub fn of(field: &[u8]) -> Option<Self> {
        let mut bytes = [0; 3];
        let is_plain = !field.is_empty() && field.iter().all(u8::is_ascii_alphanumeric);
        bytes.get_mut(..field.len()).filter(|_| is_plain)?.copy_from_slice(field);
        Some(Self(bytes))
    }
}

impl fmt::Display for PlainCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().filter(|byte| **byte > 0).try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

/// Tells frames apart by the begin of their payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// No payload.
    Empty,
    /// The commit acknowledgement of MLLP Release 2, or its negative.
    Transport(AckCode),
    /// A few control bytes, such as a commit that is none.
    Control,
    /// A message, or what should be one.
    Message,
}

impl FrameKind {
    /// Judges a payload, given whole or at least one byte more than a control frame may have.
    pub fn of(payload: &[u8]) -> Self {
        match payload {
            [] => Self::Empty,
            [COMMIT_ACK] => Self::Transport(AckCode::TransportAck),
            [COMMIT_NAK] => Self::Transport(AckCode::TransportNak),
            bytes if bytes.len() <= CONTROL_BYTES_MAX && bytes.iter().all(u8::is_ascii_control) => Self::Control,
            _ => Self::Message,
        }
    }
}

/// Says what became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// AA, CA.
    Accept,
    /// AE, CE.
    Error,
    /// AR, CR.
    Reject,
}

/// Lists the codes of the answers that a message asks for, in order: none, one, or CA then AA.
///
/// A mere acknowledgement is not acknowledged. A response with data (ORR, RSP) that is sent by itself is a message of its
/// own (deferred response, HL7 v2 chapter 2.9); in enhanced mode it gets the accept acknowledgement that it may ask for,
/// never an application one.
pub fn codes_due(header: &Header<'_>, verdict: Verdict) -> Vec<AckCode> {
    let (commit, processed) = match verdict {
        Verdict::Accept => (AckCode::CommitAccept, AckCode::ApplicationAccept),
        Verdict::Error => (AckCode::CommitError, AckCode::ApplicationError),
        Verdict::Reject => (AckCode::CommitReject, AckCode::ApplicationReject),
    };
    let success = verdict == Verdict::Accept;
    match header.mode() {
        Mode::Original if header.is_acknowledgement() => vec![],
        Mode::Original => vec![processed],
        Mode::Enhanced { accept, application } => {
            let is_answer = header.msa().is_some();
            let commit_due = accept.is_due(success);
            // What was not stored is not processed either.
            let processed_due = application.is_due(success) && !is_answer && (success || !commit_due);
            [(commit_due, commit), (processed_due, processed)]
                .into_iter()
                .filter_map(|(due, code)| due.then_some(code))
                .collect()
        }
    }
}

/// Identifies an answer: what its MSH has of its own.
#[derive(Clone, Copy)]
pub struct Stamp<'a> {
    /// Is the answer's own control id, MSH-10.
    pub control_id: &'a [u8],
    /// Is when the answer was made, MSH-7, such as `20240131235959+0000`.
    pub timestamp: &'a [u8],
}

/// Writes the answer to a message: MSH with sender and receiver swapped, MSA with the message's control id as it is.
pub fn answer(header: &Header<'_>, code: AckCode, stamp: Stamp<'_>) -> Vec<u8> {
    let mut out = Writer { payload: Vec::new(), separator: header.field_separator() };
    let message_type = acknowledgement_type(header);
    out.segment(&[
        b"MSH",
        header.encoding_characters(),
        header.receiving_application(),
        header.receiving_facility(),
        header.sending_application(),
        header.sending_facility(),
        stamp.timestamp,
        b"",
        &message_type,
        stamp.control_id,
        header.processing_id(),
        header.version(),
        b"",
        b"",
        b"",
        b"",
        b"",
        header.character_set(),
    ]);
    out.segment(&[b"MSA", code.code().as_bytes(), header.control_id()]);
    out.payload
}

/// Returns the code of the answer that is due for a message once it is safely stored, and not delivered yet: AA, in
/// enhanced mode CA where MSH-15 asks for it. A mere acknowledgement in original mode is not answered.
pub fn stored_code(header: &Header<'_>) -> Option<AckCode> {
    match header.mode() {
        Mode::Original => (!header.is_acknowledgement()).then_some(AckCode::ApplicationAccept),
        Mode::Enhanced { accept, .. } => accept.is_due(true).then_some(AckCode::CommitAccept),
    }
}

/// Writes the refusal of a message that cannot be delivered: AR, in enhanced mode CR, with ERR 207 and a fixed text;
/// `None` where the message asks for no answer.
pub fn refusal(header: &Header<'_>, stamp: Stamp<'_>, text: &'static [u8]) -> Option<(AckCode, Vec<u8>)> {
    let code = codes_due(header, Verdict::Reject).first().copied()?;
    Some((code, negative_answer(header, code, stamp, text)))
}

/// Writes the refusal of a message that will never be taken, also where an answer is due after success only (SU): its
/// sender would wait in vain, and send it for ever. `None` where the message asks for no answer whatever comes of it.
pub fn rejection(header: &Header<'_>, stamp: Stamp<'_>, text: &'static [u8]) -> Option<(AckCode, Vec<u8>)> {
    refusal(header, stamp, text).or_else(|| {
        let code = match codes_due(header, Verdict::Accept).first()? {
            AckCode::CommitAccept => AckCode::CommitReject,
            _ => AckCode::ApplicationReject,
        };
        Some((code, negative_answer(header, code, stamp, text)))
    })
}

fn negative_answer(header: &Header<'_>, code: AckCode, stamp: Stamp<'_>, text: &'static [u8]) -> Vec<u8> {
    let payload = answer(header, code, stamp);
    let mut out = Writer { payload, separator: header.field_separator() };
    out.segment(&[b"ERR", b"", b"", REFUSAL_ERROR, b"E", b"", b"", b"", text]);
    out.payload
}

/// Mirrors MSH-9 as far as the message has it: `ACK`, `ACK^A01`, `ACK^A01^ACK`.
fn acknowledgement_type(header: &Header<'_>) -> Vec<u8> {
    let separator = header.component_separator();
    let mut components = header.message_type().split(|byte| *byte == separator).skip(1);
    let mut kind = b"ACK".to_vec();
    if let Some(trigger) = components.next() {
        kind.push(separator);
        kind.extend_from_slice(trigger);
    }
    if components.next().is_some() {
        kind.push(separator);
        kind.extend_from_slice(b"ACK");
    }
    kind
}

struct Writer {
    payload: Vec<u8>,
    separator: u8,
}

impl Writer {
    /// Writes a segment without the empty fields at its end.
    fn segment(&mut self, fields: &[&[u8]]) {
        let used = fields.iter().rposition(|field| !field.is_empty()).unwrap_or(0);
        for (index, field) in fields.iter().take(used.saturating_add(1)).enumerate() {
            if index > 0 {
                self.payload.push(self.separator);
            }
            self.payload.extend_from_slice(field);
        }
        // An echoed field may end with FS, or what a framing has in its place, and a CR behind it would end the frame.
        if self.payload.last().is_some_and(u8::is_ascii_control) {
            self.payload.push(self.separator);
        }
        self.payload.push(b'\r');
    }
}
