//! The running digest of a queue's messages: each one's covers all before it.
//!
//! Pure. Keyed (HMAC-SHA-256, RFC 2104): a bare hash would confirm a guess of a message.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::spool::{Digest, DigestKey, Sequence};

/// Returns the digest up to and with a message.
pub(super) fn extend(key: &DigestKey, previous: &Digest, sequence: Sequence, payload: &[u8]) -> Digest {
    // A key of any length is allowed: this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key.0) else { return Digest([0; 32]) };
    mac.update(&previous.0);
    mac.update(&sequence.to_be_bytes());
    mac.update(payload);
    Digest(mac.finalize().into_bytes().into())
}
