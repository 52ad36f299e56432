//! How the audit log writes hashes and times. Pure.
//!
//! Knows nothing of entries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::mllp::trace::Keyed;

/// Is how much of a keyed hash is written, in bytes: 128 bits, half of what HMAC-SHA256 and BLAKE3 give; RFC 2104 allows it.
const HASH_BYTES: usize = 16;
/// Is the last second that RFC 3339 can write, 9999-12-31T23:59:59Z, in seconds since 1970.
const RFC3339_SECONDS_MAX: u64 = 253_402_300_799;

/// Is a keyed hash in hexadecimal digits.
pub(super) struct HashText([u8; 2 * HASH_BYTES]);

impl HashText {
    pub(super) fn new(keyed: &Keyed) -> Self {
        let mut text = [0; 2 * HASH_BYTES];
        // Both have the length that the other wants.
        hex::encode_to_slice(keyed.0.first_chunk::<HASH_BYTES>().unwrap_or(&[0; HASH_BYTES]), &mut text).ok();
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Writes a keyed hash as the log has it.
pub fn hash_text(keyed: &Keyed) -> String {
    HashText::new(keyed).as_str().to_owned()
}

/// Writes a time in RFC 3339, UTC, to the millisecond.
pub fn time_text(at: SystemTime) -> String {
    time_shown(at).to_string()
}

pub(super) fn time_shown(at: SystemTime) -> humantime::Rfc3339Timestamp {
    let last = UNIX_EPOCH + Duration::from_secs(RFC3339_SECONDS_MAX);
    humantime::format_rfc3339_millis(at.clamp(UNIX_EPOCH, last))
}
