//! Recognises by its first bytes what is not MLLP and will never be: HTTP, TLS, DICOM, the greeting of a server or client
//! of another kind, text in UTF-16 or UTF-32.
//!
//! Never looks at more than the first [`HEAD_BYTES`] bytes, and never refuses what could still be MLLP. Formats:
//! RFC 9112 section 3 (request line), RFC 8446 section 5.1 (TLS record), DICOM PS3.8 section 9.3.2 (A-ASSOCIATE-RQ), RFC
//! 4253 section 4.2, 5321, 1939, 3501 and 6143 (greetings), the Unicode standard (byte order marks).

use super::Violation;

/// Is the longest head that must be seen, in bytes: a UTF-32 byte order mark and "MSH" in UTF-32.
const HEAD_BYTES: usize = 16;

const HTTP_STARTS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"PATCH ", b"PRI * HTTP"];
const TLS_START: &[u8] = &[0x16, 0x03];
const DICOM_START: &[u8] = &[1, 0, 0, 0];
/// Are SSH, SMTP and FTP, POP3, IMAP, VNC.
const BANNER_STARTS: [&[u8]; 8] = [b"SSH-", b"220 ", b"220-", b"EHLO ", b"HELO ", b"+OK", b"* OK", b"RFB 00"];
const WIDE_STARTS: [&[u8]; 2] = [b"M\0S\0H", b"M\0\0\0S\0\0\0H"];

/// Collects a head byte by byte until it is judged.
pub(super) struct Sniffer {
    head: [u8; HEAD_BYTES],
    len: usize,
    judge: fn(&[u8]) -> Verdict,
    settled: bool,
}

enum Verdict {
    Undecided,
    Ordinary,
    Foreign(Violation),
}

impl Sniffer {
    /// Judges the first bytes of a stream that does not start with a frame.
    pub(super) fn stream() -> Self {
        Self::new(judge_stream)
    }

    /// Judges the first bytes of a payload.
    pub(super) fn payload() -> Self {
        Self::new(judge_wide_text)
    }

    /// Judges nothing any more.
    pub(super) fn settled() -> Self {
        Self { settled: true, ..Self::new(judge_wide_text) }
    }

    fn new(judge: fn(&[u8]) -> Verdict) -> Self {
        Self { head: [0; HEAD_BYTES], len: 0, judge, settled: false }
    }

    /// Says whether further bytes make no difference.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Takes the next byte, and returns what was recognised once it is certain.
    pub(super) fn sniff(&mut self, byte: u8) -> Result<(), Violation> {
        if self.settled {
            return Ok(());
        }
        if let Some(slot) = self.head.get_mut(self.len) {
            *slot = byte;
            self.len = self.len.saturating_add(1);
        }
        match (self.judge)(self.head.get(..self.len).unwrap_or_default()) {
            Verdict::Undecided => self.settled = self.len == HEAD_BYTES,
            Verdict::Ordinary => self.settled = true,
            Verdict::Foreign(violation) => return Err(violation),
        }
        Ok(())
    }
}

fn judge_stream(head: &[u8]) -> Verdict {
    let http = judge_starts(head, &HTTP_STARTS, Violation::Http);
    let tls = judge_starts(head, &[TLS_START], Violation::Tls);
    let dicom = judge_starts(head, &[DICOM_START], Violation::Dicom);
    let banner = judge_starts(head, &BANNER_STARTS, Violation::Banner);
    [http, tls, dicom, banner, judge_wide_text(head)]
        .into_iter()
        .reduce(|one, other| match (one, other) {
            (Verdict::Foreign(violation), _) | (_, Verdict::Foreign(violation)) => Verdict::Foreign(violation),
            (Verdict::Undecided, _) | (_, Verdict::Undecided) => Verdict::Undecided,
            (Verdict::Ordinary, Verdict::Ordinary) => Verdict::Ordinary,
        })
        .unwrap_or(Verdict::Ordinary)
}

/// Skips byte order marks and the halves of wide characters that are zero, then looks for a wide "MSH".
fn judge_wide_text(head: &[u8]) -> Verdict {
    let skipped = head.iter().take_while(|byte| matches!(byte, 0 | 0xFE | 0xFF)).count();
    judge_starts(head.get(skipped..).unwrap_or_default(), &WIDE_STARTS, Violation::WideText)
}

fn judge_starts(head: &[u8], starts: &[&[u8]], violation: Violation) -> Verdict {
    if starts.iter().any(|start| head.starts_with(start)) {
        Verdict::Foreign(violation)
    } else if starts.iter().any(|start| start.starts_with(head)) {
        Verdict::Undecided
    } else {
        Verdict::Ordinary
    }
}
