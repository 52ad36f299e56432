//! The keyed digests of messages: of one, and running over all up to a sequence.
//!
//! Never shows whether two spools have the same message to anybody without the key. The running digest is
//! HMAC-SHA256(key, 2, previous, sequence, fingerprint) with the fingerprint HMAC-SHA256(key, 1, payload), RFC 2104;
//! before the first message it is 32 zeros. Both sites compute it, each from what it has.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::{Digest, DigestKey, Sequence};

/// Separates what the key is used for: one message's content.
const CONTENT: u8 = 1;
/// Separates what the key is used for: the running digest.
const RUNNING: u8 = 2;

/// Is the keyed digest of one payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Digest {
    /// Is the digest before the first message.
    pub const NONE: Self = Self([0; 32]);
}

impl DigestKey {
    /// Digests one payload.
    pub fn fingerprint(&self, payload: &[u8]) -> Fingerprint {
        Fingerprint(keyed(&self.0, CONTENT, &[payload]))
    }

    /// Returns the running digest at `sequence`, given the one before and the message's payload.
    pub fn following(&self, previous: &Digest, sequence: Sequence, payload: &[u8]) -> Digest {
        self.following_fingerprint(previous, sequence, &self.fingerprint(payload))
    }

    /// Does the same with the fingerprint of the payload.
    pub fn following_fingerprint(&self, previous: &Digest, sequence: Sequence, of: &Fingerprint) -> Digest {
        Digest(keyed(&self.0, RUNNING, &[&previous.0, &sequence.to_be_bytes(), &of.0]))
    }
}

/// Computes HMAC-SHA256 over a use and the parts.
pub(super) fn keyed(key: &[u8; 32], used_for: u8, parts: &[&[u8]]) -> [u8; 32] {
    // A key of exactly one block is taken as it is; 32 bytes, padded with zeros, are one (RFC 2104).
    let mut block = [0; 64];
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(&[used_for]);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_hmac_as_of_rfc_4231() {
        // Test case 2 has a short key; case 1 has 20 bytes 0x0b and "Hi There". Here the first byte is the use.
        let mut key = [0; 32];
        key[..20].copy_from_slice(&[0x0b; 20]);
        let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        let found: String = keyed(&key, b'H', &[b"i The", b"re"]).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_part_of_the_story_counts() {
        let key = DigestKey([1; 32]);
        let one = key.following(&Digest::NONE, 1, b"a");
        assert_eq!(one, key.following(&Digest::NONE, 1, b"a"));
        assert_ne!(one, key.following(&Digest::NONE, 2, b"a"));
        assert_ne!(one, key.following(&Digest::NONE, 1, b"b"));
        assert_ne!(one, key.following(&one, 1, b"a"));
        assert_ne!(one, DigestKey([2; 32]).following(&Digest::NONE, 1, b"a"));
    }
}
