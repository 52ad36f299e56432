//! The running digest of a queue's messages: each one's covers all before it.
//!
//! Pure. It is the near site's own (`spool/digest`), so that both ends tell the same story.

use crate::spool::{Digest, DigestKey, Sequence};

/// Returns the digest up to and with a message.
pub(super) fn extend(key: &DigestKey, previous: &Digest, sequence: Sequence, payload: &[u8]) -> Digest {
    key.following(previous, sequence, payload)
}
