//! Seals what is kept: XChaCha20-Poly1305 with a random nonce, and its identity as associated data.
//!
//! Never shows a key, and opens nothing that was sealed for another place: what it belongs to (kind, spool, numbers) is
//! authenticated with it. The format is nonce (24 bytes), ciphertext, tag (16 bytes); draft-irtf-cfrg-xchacha.

use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{KeyInit as _, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::{SpoolError, digest};

/// Is the length of a nonce, in bytes.
const NONCE_BYTES: usize = 24;
/// Is the length of a tag, in bytes.
const TAG_BYTES: usize = 16;
/// Is the length of what is authenticated with each seal, in bytes: a kind, a spool's id, four numbers.
const PLACE_BYTES: usize = 1 + 16 + 4 * 8;

/// Is a key that is wiped when dropped.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// Says what kind of thing is sealed.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    /// What identifies the spool: its id and keys.
    Identity = 1,
    /// The head.
    Head = 2,
    /// The key of a day.
    Day = 3,
    /// A message.
    Message = 4,
    /// The answer of a receiver.
    Answer = 5,
    /// A destination.
    Destination = 6,
    /// The text of an event.
    Event = 7,
    /// A chunk of a large payload.
    Chunk = 8,
    /// The mark of the last commit.
    Mark = 9,
}

/// Is what is sealed and where: authenticated with it.
pub(super) struct Place([u8; PLACE_BYTES]);

impl Place {
    /// Names a place in a spool.
    pub(super) fn new(kind: Kind, spool: &[u8; 16], numbers: [u64; 4]) -> Self {
        let mut bytes = [0; PLACE_BYTES];
        let numbers = numbers.into_iter().flat_map(u64::to_be_bytes);
        let all = std::iter::once(kind as u8).chain(spool.iter().copied()).chain(numbers);
        for (to, from) in bytes.iter_mut().zip(all) {
            *to = from;
        }
        Self(bytes)
    }
}

/// Seals and opens with one key.
#[derive(Clone)]
pub(super) struct Sealer(XChaCha20Poly1305);

impl Sealer {
    /// Makes one for a key.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(key.into()))
    }

    /// Seals the parts, one after the other, into `sealed`, which is overwritten.
    pub(super) fn seal_into(&self, place: &Place, parts: &[&[u8]], sealed: &mut Vec<u8>) -> Result<(), SpoolError> {
        let mut nonce = [0; NONCE_BYTES];
        fill_random(&mut nonce)?;
        sealed.clear();
        sealed.reserve(NONCE_BYTES + parts.iter().map(|part| part.len()).sum::<usize>() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        for part in parts {
            sealed.extend_from_slice(part);
        }
        let plain = sealed.get_mut(NONCE_BYTES..).unwrap_or_default();
        // It fails only beyond 256 GiB.
        let tag = self.0.encrypt_in_place_detached(XNonce::from_slice(&nonce), &place.0, plain);
        sealed.extend_from_slice(&tag.map_err(|_| SpoolError::Random)?);
        Ok(())
    }

    /// Seals `plain`.
    pub(super) fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>, SpoolError> {
        let mut sealed = Vec::new();
        self.seal_into(place, &[plain], &mut sealed)?;
        Ok(sealed)
    }

    /// Opens what was sealed for this very place; `None` where it was changed.
    pub(super) fn open(&self, place: &Place, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES)?;
        let (cipher, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_BYTES)?)?;
        let mut plain = cipher.to_vec();
        let (nonce, tag) = (XNonce::from_slice(nonce), Tag::from_slice(tag));
        self.0.decrypt_in_place_detached(nonce, &place.0, &mut plain, tag).ok()?;
        Some(plain)
    }
}

/// Makes a key of another one for one use.
pub(super) fn derive(key: &[u8; 32], used_for: u8) -> Key {
    Zeroizing::new(digest::keyed(key, used_for, &[]))
}

/// Makes a random key.
pub(super) fn random_key() -> Result<Key, SpoolError> {
    let mut key = Zeroizing::new([0; 32]);
    fill_random(key.as_mut_slice())?;
    Ok(key)
}

/// Makes a random id.
pub(super) fn random_id() -> Result<[u8; 16], SpoolError> {
    let mut id = [0; 16];
    fill_random(&mut id)?;
    Ok(id)
}

fn fill_random(bytes: &mut [u8]) -> Result<(), SpoolError> {
    getrandom::fill(bytes).map_err(|_| SpoolError::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_whole_and_in_its_place() {
        let sealer = Sealer::new(&[7; 32]);
        let place = |number| Place::new(Kind::Message, &[1; 16], [number, 2, 3, 4]);
        let sealed = sealer.seal(&place(1), b"synthetic").unwrap();
        assert_eq!(sealer.open(&place(1), &sealed).as_deref(), Some(&b"synthetic"[..]));
        assert!(sealer.open(&place(2), &sealed).is_none());
        assert!(sealer.open(&Place::new(Kind::Answer, &[1; 16], [1, 2, 3, 4]), &sealed).is_none());
        assert!(sealer.open(&Place::new(Kind::Message, &[2; 16], [1, 2, 3, 4]), &sealed).is_none());
        assert!(sealer.open(&Place::new(Kind::Message, &[1; 16], [1, 2, 3, 5]), &sealed).is_none());
        assert!(Sealer::new(&[8; 32]).open(&place(1), &sealed).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.open(&place(1), &changed).is_none(), "byte {at}");
            assert!(sealer.open(&place(1), &sealed[..at]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn the_same_content_never_looks_the_same() {
        let sealer = Sealer::new(&[7; 32]);
        let place = Place::new(Kind::Message, &[1; 16], [1; 4]);
        assert_ne!(sealer.seal(&place, b"synthetic").unwrap(), sealer.seal(&place, b"synthetic").unwrap());
    }
}
