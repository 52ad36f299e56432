//! Reads the messages to send out of a file.
//!
//! Never changes a byte of a message unless it is asked to (`--loose`), never shows one.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::mllp::frame::{Anomaly, FrameReader, Limits, Read, VT, Violation, encode};
use crate::mllp::message::Header;

/// Limits a file, in bytes: it is read whole, and a device has no end.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Is a message, ready to be sent.
pub(super) struct Message {
    pub(super) payload: Vec<u8>,
    pub(super) frame: Vec<u8>,
    control_id: String,
}

impl Message {
    /// Returns the control id as a terminal may show it.
    pub(super) fn shown_id(&self) -> &str {
        &self.control_id
    }
}

/// Says why a file cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: larger than 1 GiB; send it in parts", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path}: {source}", path = path.display())]
    Violation { path: PathBuf, source: Violation },
    #[error("{path}: no message: it must start with an MSH segment, or with a frame around one", path = path.display())]
    NoMessage { path: PathBuf },
    #[error("{path}: ends inside a frame: the end of the last one (0x1C 0x0D) is missing", path = path.display())]
    Truncated { path: PathBuf },
    #[error("{path}: cannot be framed: a message contains the end of a frame (0x1C 0x0D) or the start of another", path = path.display())]
    Unframable { path: PathBuf },
}

/// Reads the messages of a file.
pub(super) fn load(path: &Path, loose: bool) -> Result<Vec<Message>, LoadError> {
    let at = || path.to_owned();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|source| LoadError::Read { path: at(), source })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::TooLarge { path: at() });
    }
    let refuse = |source| LoadError::Violation { path: at(), source };
    let payloads = if bytes.first() == Some(&VT) {
        let (payloads, left_over) = unframe(&bytes).map_err(refuse)?;
        if left_over {
            return Err(LoadError::Truncated { path: at() });
        }
        payloads
    } else {
        split(&bytes).into_iter().map(<[u8]>::to_vec).collect()
    };
    let mut messages = Vec::with_capacity(payloads.len());
    for payload in payloads {
        let payload = if loose { end_with_cr(&payload) } else { payload };
        let frame = encode(&payload);
        let (again, left_over) = unframe(&frame).map_err(refuse)?;
        let header = Header::parse_whole(&payload).ok_or_else(|| LoadError::NoMessage { path: at() })?;
        if left_over || again.len() != 1 || again.first() != Some(&payload) {
            return Err(LoadError::Unframable { path: at() });
        }
        let control_id = match header.control_id() {
            b"" => "-".to_owned(),
            id => id.escape_ascii().to_string(),
        };
        messages.push(Message { payload, frame, control_id });
    }
    if messages.is_empty() { Err(LoadError::NoMessage { path: at() }) } else { Ok(messages) }
}

/// Returns the payloads of all frames, and whether bytes are left that are no whole frame.
fn unframe(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, bool), Violation> {
    // What is in memory already needs no limit.
    let mut reader =
        FrameReader::new(Limits { frame_bytes_max: u64::MAX, junk_bytes_max: u64::MAX, ..Limits::default() });
    let (mut payloads, mut left_over) = (Vec::new(), false);
    let mut sink = |read| match read {
        Read::Payload(payload) => payloads.push(payload),
        Read::Anomaly(anomaly) => left_over |= leaves_bytes_over(anomaly),
    };
    reader.handle_bytes(bytes, &mut sink)?;
    reader.handle_end_of_stream(&mut sink);
    Ok((payloads, left_over))
}

fn leaves_bytes_over(anomaly: Anomaly) -> bool {
    matches!(anomaly, Anomaly::TruncatedFrame | Anomaly::StartedOver)
}

/// Cuts a raw file before each MSH segment but the first; a batch stays whole.
fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if text.starts_with(b"FHS") || text.starts_with(b"BHS") {
        return vec![bytes];
    }
    let mut messages = Vec::new();
    let (mut rest, mut offset) = (bytes, 0);
    for at in memchr::memmem::find_iter(bytes, b"MSH") {
        let before = bytes.get(..at).unwrap_or_default();
        let is_segment = matches!(before.last(), Some(b'\r' | b'\n'));
        if !is_segment || before.trim_ascii().is_empty() || before == b"\xef\xbb\xbf" {
            continue;
        }
        let (message, behind) = rest.split_at(at.saturating_sub(offset));
        messages.push(message);
        (rest, offset) = (behind, at);
    }
    if !rest.is_empty() {
        messages.push(rest);
    }
    messages
}

/// Ends every segment with one CR, and leaves out empty lines.
fn end_with_cr(payload: &[u8]) -> Vec<u8> {
    let segments = payload.split(|byte| matches!(byte, b'\r' | b'\n')).filter(|segment| !segment.is_empty());
    segments.flat_map(|segment| segment.iter().copied().chain([b'\r'])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(content: &[u8], loose: bool) -> Result<Vec<Vec<u8>>, LoadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        load(file.path(), loose).map(|messages| messages.into_iter().map(|message| message.payload).collect())
    }

    #[test]
    fn a_raw_message_is_untouched() {
        for content in [&b"MSH|^~\\&|a\nPID|1\n"[..], b"\xef\xbb\xbfMSH|^~\\&|\xfc\r\n", b"\nMSH|^~\\&|a"] {
            assert_eq!(loaded(content, false).unwrap(), [content]);
        }
    }

    #[test]
    fn several_messages_are_cut_before_each_msh_segment() {
        let messages = loaded(b"MSH|^~\\&|a\rNTE|MSH|x\r\nMSH|^~\\&|b\rPID|1\r\rMSH|^~\\&|c", false).unwrap();
        let expected = [&b"MSH|^~\\&|a\rNTE|MSH|x\r\n"[..], b"MSH|^~\\&|b\rPID|1\r\r", b"MSH|^~\\&|c"];
        assert_eq!(messages, expected);
    }

    #[test]
    fn a_batch_stays_whole() {
        let batch = b"FHS|^~\\&|f\rBHS|^~\\&|b\rMSH|^~\\&|a\rMSH|^~\\&|b\rBTS|2\r";
        assert_eq!(loaded(batch, false).unwrap(), [batch]);
    }

    #[test]
    fn a_framed_file_is_unframed() {
        let framed = [encode(b"MSH|^~\\&|a\r"), b"\n".to_vec(), encode(b"MSH|^~\\&|b\r")].concat();
        assert_eq!(loaded(&framed, false).unwrap(), [b"MSH|^~\\&|a\r", b"MSH|^~\\&|b\r"]);
    }

    #[test]
    fn loose_ends_every_segment_with_cr() {
        let messages = loaded(b"\nMSH|^~\\&|a\nPID|1\r\n\nMSH|^~\\&|b", true).unwrap();
        assert_eq!(messages, [&b"MSH|^~\\&|a\rPID|1\r"[..], b"MSH|^~\\&|b\r"]);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_the_reason() {
        let refused = |content: &[u8]| loaded(content, false).err().map(|error| error.to_string()).unwrap();
        assert!(refused(b"").contains("no message"));
        assert!(refused(b"hello\rMSH|^~\\&|a\r").contains("no message"));
        assert!(refused(b"\x0bMSH|^~\\&|a\r").contains("ends inside a frame"));
        assert!(refused(b"MSH|^~\\&|a\x1c\rPID|1").contains("cannot be framed"));
        assert!(refused(b"MSH|^~\\&|a\x0bMSH|b").contains("cannot be framed"));
        assert!(refused(b"\xff\xfeM\0S\0H\0|\0").contains("UTF-16"));
    }
}
