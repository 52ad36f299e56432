//! What the account of messages names of one: its type, its size, keyed hashes of its control id and of its payload.
//!
//! Never holds a byte of a message but its type, and that only where it is made as HL7 makes types (MSH-9; tables 0076,
//! 0003 and 0354): what stands there instead may be anything. The hashes are keyed with a key of the site, without which
//! nobody confirms a guess: HMAC-SHA256 (RFC 2104), and for payloads BLAKE3 (its keyed mode), with a key that HMAC-SHA256
//! makes: of 64 KiB it takes a quarter of the time, and every byte of every message is hashed.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::message::Header;

/// Separates what the key is used for: a payload.
const PAYLOAD: u8 = 1;
/// Separates what the key is used for: a control id (MSH-10).
const CONTROL_ID: u8 = 2;
/// Bounds a message type, in bytes: `ADT^A01^ADT_A01`.
const TYPE_BYTES_MAX: usize = 15;

/// Is a keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyed(pub [u8; 32]);

/// Is a message type, such as `ORU^R01^ORU_R01`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MessageType {
    bytes: [u8; TYPE_BYTES_MAX],
    length: u8,
}

/// Is what is named of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// Counts the bytes of its payload.
    pub bytes: u64,
    /// Is its type, where that is one.
    pub message_type: Option<MessageType>,
    /// Is the keyed hash of its control id, where it has one.
    pub control_id: Option<Keyed>,
    /// Is the keyed hash of its payload, where all of it was seen.
    pub payload: Option<Keyed>,
}

impl Trace {
    /// Names a message by its control id alone.
    pub fn of_control_id(control_id: Option<Keyed>) -> Self {
        Self { bytes: 0, message_type: None, control_id, payload: None }
    }
}

/// Makes the hashes. All that have it share one: it is 2 KiB.
#[derive(Clone)]
pub struct TraceKey(Arc<Keys>);

struct Keys {
    payload: blake3::Hasher,
    control_id: Hmac<Sha256>,
}

/// Is the hash of a payload that is still coming: 2 KiB, which an idle connection has not.
#[derive(Clone)]
pub struct Tracing(Box<blake3::Hasher>);

impl MessageType {
    /// Takes a type that is made as HL7 makes them: components of three capital letters and digits, the third of seven
    /// with `_`.
    pub fn of(field: &[u8]) -> Option<Self> {
        let parts: Vec<&[u8]> = field.split(|byte| *byte == b'^').collect();
        let is_code =
            |part: &[u8]| part.len() == 3 && part.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        let is_structure = |part: &[u8]| match part.split_at_checked(3) {
            Some((first, rest)) => is_code(first) && (rest.is_empty() || rest.strip_prefix(b"_").is_some_and(is_code)),
            None => false,
        };
        let is_one = match parts.as_slice() {
            [code] => is_code(code),
            [code, event] => is_code(code) && is_code(event),
            [code, event, structure] => is_code(code) && is_code(event) && is_structure(structure),
            _ => false,
        };
        let mut bytes = [0; TYPE_BYTES_MAX];
        bytes.get_mut(..field.len()).filter(|_| is_one)?.copy_from_slice(field);
        Some(Self { bytes, length: u8::try_from(field.len()).ok()? })
    }

    /// Returns its text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TraceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TraceKey(hidden)")
    }
}

impl TraceKey {
    /// Takes the key.
    pub fn new(key: &[u8; 32]) -> Self {
        // A key of exactly one block is taken as it is; 32 bytes, padded with zeros, are one (RFC 2104).
        let mut block = [0; 64];
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        let begin = |used_for: u8| {
            let mut mac = Hmac::<Sha256>::new(&block.into());
            mac.update(&[used_for]);
            mac
        };
        let payload_key = begin(PAYLOAD).finalize().into_bytes().into();
        let payload = blake3::Hasher::new_keyed(&payload_key);
        Self(Arc::new(Keys { payload, control_id: begin(CONTROL_ID) }))
    }

    /// Hashes a control id; none where it is empty.
    pub fn control_id(&self, control_id: &[u8]) -> Option<Keyed> {
        if control_id.is_empty() {
            return None;
        }
        let mut mac = self.0.control_id.clone();
        mac.update(control_id);
        Some(Keyed(mac.finalize().into_bytes().into()))
    }

    /// Hashes a payload.
    pub fn payload(&self, payload: &[u8]) -> Keyed {
        let mut hasher = self.0.payload.clone();
        Keyed(hasher.update(payload).finalize().into())
    }

    /// Begins to hash payloads that come in parts.
    pub fn tracing(&self) -> Tracing {
        Tracing(Box::new(self.0.payload.clone()))
    }

    /// Names a message that is here.
    pub fn trace(&self, payload: &[u8]) -> Trace {
        let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        Trace {
            payload: Some(self.payload(payload)),
            ..self.trace_header(Header::parse_whole(payload).as_ref(), bytes)
        }
    }

    /// Names a message of which the header is here.
    pub fn trace_head(&self, head: &[u8], bytes: u64) -> Trace {
        self.trace_header(Header::parse(head).as_ref(), bytes)
    }

    /// Names a message whose header was read, if it has one.
    pub fn trace_header(&self, header: Option<&Header<'_>>, bytes: u64) -> Trace {
        Trace {
            bytes,
            message_type: header.and_then(|header| MessageType::of(header.message_type())),
            control_id: header.and_then(|header| self.control_id(header.control_id())),
            payload: None,
        }
    }
}

impl Tracing {
    /// Begins with another payload.
    pub fn begin(&mut self) {
        self.0.reset();
    }

    /// Takes the next part.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// Returns the hash of what came since the begin.
    pub fn end(&mut self) -> Keyed {
        let hash = self.0.finalize();
        self.0.reset();
        Keyed(hash.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_named_only_where_it_is_one() {
        for good in ["ORU^R01^ORU_R01", "ADT^A01", "ACK", "ZAB^Z01", "ORM^O01^ACK", "QBP^Q22^QBP_Q21"] {
            assert_eq!(MessageType::of(good.as_bytes()).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "DOE^JOHN",
            "oru^r01",
            "ORU^R01^ORU_R01^X",
            "ORU^",
            "ORU^R01^",
            "ORU^R01^ORUR01",
            "ORU R01",
            "\u{c4}\u{c4}",
        ] {
            assert!(MessageType::of(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_payload_in_parts_has_the_hash_of_the_whole() {
        let key = TraceKey::new(&[7; 32]);
        let mut tracing = key.tracing();
        tracing.update(b"left over");
        tracing.begin();
        tracing.update(b"MSH|");
        tracing.update(b"^~\\&|");
        assert_eq!(tracing.end(), key.payload(b"MSH|^~\\&|"));
        assert_eq!(tracing.end(), key.payload(b""));
        assert_ne!(key.payload(b"A"), key.control_id(b"A").unwrap());
        assert_ne!(key.payload(b"A"), TraceKey::new(&[8; 32]).payload(b"A"));
        assert_eq!(key.control_id(b""), None);
    }

    #[test]
    fn a_trace_names_no_byte_of_a_patient() {
        let key = TraceKey::new(&[7; 32]);
        let payload = b"MSH|^~\\&|A|B|C|D|20260101||ORU^R01|ID-1|P|2.5\rPID|1||4711||DOE^JOHN\r";
        let trace = key.trace(payload);
        assert_eq!(trace.message_type.unwrap().as_str(), "ORU^R01");
        assert_eq!((trace.bytes, trace.control_id), (payload.len() as u64, key.control_id(b"ID-1")));
        assert_eq!(key.trace_head(payload, 9).payload, None);
        assert!(!format!("{trace:?}{key:?}").contains("DOE"));
    }
}
