//! Decodes and encodes MLLP frames: finds them in a stream of bytes, however the stream is cut.
//!
//! Never holds a payload, never decodes or changes one, never reads a clock. The format is HL7's Minimal Lower Layer
//! Protocol: `0B payload 1C 0D`, or other bytes around the payload ([`Framing`]); bytes between frames are ignored. What the field makes of it, and what is
//! tolerated, is the table of edge cases in the design of MLLP (cases 1 to 15 and 36).

mod decoder;
mod framing;
mod fuzz;
mod reader;
mod sniff;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use decoder::Decoder;
pub use framing::{Framing, Tail};
#[doc(hidden)]
pub use fuzz::fuzz_frame_decoder;
pub use reader::{FrameReader, Read};

/// Starts a frame (vertical tab).
pub const VT: u8 = 0x0B;
/// Ends a frame, together with [`CR`] (file separator).
pub const FS: u8 = 0x1C;
/// Follows [`FS`]; ends an HL7 segment too.
pub const CR: u8 = 0x0D;

/// Limits a payload, in bytes, where nothing else is configured: an embedded document of tens of MB fits.
pub const FRAME_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Limits what is skipped between two frames, in bytes: above a stray log line or banner, below a transfer of
/// something that is not MLLP.
pub const JUNK_BYTES_MAX: u64 = 4 * 1024;

/// Is the silence after CR FS that ends a frame whose sender leaves out the last CR: longer than a segment that is
/// sent again after a loss on a LAN takes, shorter than any sender's timeout.
pub const END_SILENCE: Duration = Duration::from_millis(200);

/// Is the least rate of a frame's bytes, in bytes a second: a modem's.
pub const FRAME_RATE_MIN: u64 = 1 << 10;

/// Returns how long a sender may take for a frame of so many bytes: a time for any, and a second more for each
/// [`FRAME_RATE_MIN`]. Who sends slower holds a place, or memory, and sends nothing.
pub fn frame_time_max(time: Duration, frame_bytes: u64) -> Duration {
    time.saturating_add(Duration::from_secs(frame_bytes / FRAME_RATE_MIN))
}

/// Says what a decoder takes for a frame, and limits what it lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Limits the payload of one frame, in bytes.
    pub frame_bytes_max: u64,
    /// Limits what is skipped between two frames, in bytes; line ends and NULs are not counted.
    pub junk_bytes_max: u64,
    /// Is what starts and ends a frame.
    pub framing: Framing,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_bytes_max: FRAME_BYTES_MAX, junk_bytes_max: JUNK_BYTES_MAX, framing: Framing::MLLP }
    }
}

/// Reports what a decoder found, in the order of the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame starts.
    Start,
    /// The next bytes of the payload, never empty; one payload may come in many pieces.
    Payload(&'a [u8]),
    /// The frame is whole. A frame that was started and has no end yet is not a message.
    End {
        /// Counts the bytes of the payload.
        payload_bytes: u64,
    },
    /// Something deviates from the standard and was tolerated.
    Anomaly(Anomaly),
}

impl fmt::Debug for Event<'_> {
    /// Writes the length of a payload, never its bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("Start"),
            Self::Payload(bytes) => write!(f, "Payload({} bytes)", bytes.len()),
            Self::End { payload_bytes } => write!(f, "End({payload_bytes} bytes)"),
            Self::Anomaly(anomaly) => write!(f, "Anomaly({anomaly:?})"),
        }
    }
}

/// Names what deviates from the standard and is tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Anomaly {
    /// A frame ended with FS alone.
    EndWithoutCr,
    /// CR or LF between frames; reported once a gap.
    LineEndBetweenFrames,
    /// NUL between frames; reported once a gap.
    NulBetweenFrames,
    /// Other bytes between frames; reported once a gap.
    JunkBetweenFrames,
    /// The sender started over inside a frame: what it had sent of the message before is not a message.
    StartedOver,
    /// The payload contains FS that ends nothing; reported once a frame.
    FsInPayload,
    /// The payload contains VT that starts nothing; reported once a frame.
    VtInPayload,
    /// A frame without payload.
    EmptyFrame,
    /// The stream ended inside a frame.
    TruncatedFrame,
    /// A frame with one control byte that is neither a commit acknowledgement nor its negative.
    ControlFrame,
    /// A frame whose payload has no readable MSH.
    NoHeader,
    /// A message whose header is longer than a message that is stored may have.
    HeaderTooLong,
    /// An answer that belongs to no message that waits for one.
    AnswerUnmatched,
    /// A message was not answered, but a later one was; reported once a message.
    AnswerSkipped,
    /// More messages wait for an answer than are kept; the oldest was forgotten.
    OutstandingOverflow,
}

impl Anomaly {
    /// Lists them.
    pub const ALL: [Self; 15] = [
        Self::EndWithoutCr,
        Self::LineEndBetweenFrames,
        Self::NulBetweenFrames,
        Self::JunkBetweenFrames,
        Self::StartedOver,
        Self::FsInPayload,
        Self::VtInPayload,
        Self::EmptyFrame,
        Self::TruncatedFrame,
        Self::ControlFrame,
        Self::NoHeader,
        Self::HeaderTooLong,
        Self::AnswerUnmatched,
        Self::AnswerSkipped,
        Self::OutstandingOverflow,
    ];

    /// Returns the stable code, for counters and logs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::EndWithoutCr => "end_without_cr",
            Self::LineEndBetweenFrames => "line_end_between_frames",
            Self::NulBetweenFrames => "nul_between_frames",
            Self::JunkBetweenFrames => "junk_between_frames",
            Self::StartedOver => "started_over",
            Self::FsInPayload => "fs_in_payload",
            Self::VtInPayload => "vt_in_payload",
            Self::EmptyFrame => "empty_frame",
            Self::TruncatedFrame => "truncated_frame",
            Self::ControlFrame => "control_frame",
            Self::NoHeader => "no_header",
            Self::HeaderTooLong => "header_too_long",
            Self::AnswerUnmatched => "answer_unmatched",
            Self::AnswerSkipped => "answer_skipped",
            Self::OutstandingOverflow => "outstanding_overflow",
        }
    }
}

/// Says why a stream cannot be followed any further; its connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// A payload is above the limit.
    #[error("the payload of a frame is larger than the limit")]
    FrameTooLarge,
    /// More than the limit came between two frames.
    #[error("too many bytes outside of a frame")]
    TooMuchJunk,
    /// The stream starts with an HTTP request.
    #[error("the stream is HTTP, not MLLP")]
    Http,
    /// The stream starts with a TLS hello.
    #[error("the stream is TLS, not plain MLLP")]
    Tls,
    /// The stream starts with the greeting of another protocol: SSH, SMTP, FTP, POP3, IMAP, VNC.
    #[error("the stream is of another protocol, such as SSH or SMTP, not MLLP")]
    Banner,
    /// The stream starts with a DICOM association.
    #[error("the stream is DICOM, not MLLP")]
    Dicom,
    /// The text is UTF-16 or UTF-32, whose bytes cannot be framed.
    #[error("the message is UTF-16 or UTF-32, which MLLP cannot frame")]
    WideText,
}

impl Violation {
    /// Lists them.
    pub const ALL: [Self; 7] =
        [Self::FrameTooLarge, Self::TooMuchJunk, Self::Http, Self::Tls, Self::Banner, Self::Dicom, Self::WideText];

    /// Returns the stable code, for counters and logs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::FrameTooLarge => "frame_too_large",
            Self::TooMuchJunk => "too_much_junk",
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Banner => "banner",
            Self::Dicom => "dicom",
            Self::WideText => "wide_text",
        }
    }
}

/// Wraps a payload in a frame of MLLP. Any payload that a [`Decoder`] reported is found again as it is.
pub fn encode(payload: &[u8]) -> Vec<u8> {
    Framing::MLLP.encode(payload)
}
