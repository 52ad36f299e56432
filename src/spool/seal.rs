//! Seals what is kept: XChaCha20-Poly1305 with a random nonce, and its identity as associated data.
//!
//! Never shows a key, and opens nothing that was sealed for another place: what it belongs to (kind, spool, numbers) is
//! authenticated with it. The format is nonce (24 bytes), ciphertext, tag (16 bytes); draft-irtf-cfrg-xchacha: HChaCha20
//! makes a key of the key and 16 bytes of the nonce, under which ring's ChaCha20-Poly1305 (RFC 8439) takes the other 8. A
//! message of 500 bytes takes ring 0.6 us and the crate chacha20poly1305 2.6, and the thread of a spool does it twice.

use std::cell::RefCell;

use chacha20::cipher::consts::U10;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
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

/// Is how much randomness for nonces is fetched at once, in bytes.
const RANDOM_BYTES: usize = 64 * NONCE_BYTES;

/// Seals and opens with one key.
#[derive(Clone)]
pub(super) struct Sealer(Key);

impl Sealer {
    /// Makes one for a key.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*key))
    }

    /// Makes the key that belongs to a nonce, and what is left of the nonce.
    fn under(&self, nonce: &[u8; NONCE_BYTES]) -> Option<(LessSafeKey, Nonce)> {
        let (first, rest) = nonce.split_first_chunk::<16>()?;
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(chacha20::hchacha::<U10>((&*self.0).into(), first.into()).into());
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).ok()?;
        let mut short = [0; NONCE_LEN];
        short.last_chunk_mut::<8>()?.copy_from_slice(rest);
        Some((LessSafeKey::new(key), Nonce::assume_unique_for_key(short)))
    }

    /// Seals the parts, one after the other, into `sealed`, which is overwritten.
    pub(super) fn seal_into(&self, place: &Place, parts: &[&[u8]], sealed: &mut Vec<u8>) -> Result<(), SpoolError> {
        let nonce = next_nonce()?;
        sealed.clear();
        sealed.reserve(NONCE_BYTES + parts.iter().map(|part| part.len()).sum::<usize>() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        for part in parts {
            sealed.extend_from_slice(part);
        }
        let plain = sealed.get_mut(NONCE_BYTES..).unwrap_or_default();
        // It fails only beyond 256 GiB.
        let (key, nonce) = self.under(&nonce).ok_or(SpoolError::Random)?;
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&place.0), plain);
        sealed.extend_from_slice(tag.map_err(|_| SpoolError::Random)?.as_ref());
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
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let mut plain = sealed.to_vec();
        let (key, nonce) = self.under(nonce)?;
        let bytes = key.open_in_place(nonce, Aad::from(&place.0), &mut plain).ok()?.len();
        plain.truncate(bytes);
        Some(plain)
    }
}

/// Makes a random nonce; the kernel is asked for many at once.
fn next_nonce() -> Result<[u8; NONCE_BYTES], SpoolError> {
    thread_local! {
        static RANDOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    RANDOM.with_borrow_mut(|random| {
        if random.is_empty() {
            let mut fresh = vec![0; RANDOM_BYTES];
            fill_random(&mut fresh)?;
            *random = fresh;
        }
        let rest = random.len().saturating_sub(NONCE_BYTES);
        let nonce = random.get(rest..).and_then(|nonce| nonce.try_into().ok()).ok_or(SpoolError::Random);
        random.truncate(rest);
        nonce
    })
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
    fn it_is_the_cipher_of_the_draft() {
        use chacha20poly1305::aead::{Aead as _, Payload};
        use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
        let place = Place::new(Kind::Message, &[1; 16], [1; 4]);
        let (sealer, other) = (Sealer::new(&[7; 32]), XChaCha20Poly1305::new(&[7; 32].into()));
        for bytes in [0, 1, 15, 16, 17, 63, 64, 65, 520, 5000] {
            let plain = vec![0x5a; bytes];
            let sealed = sealer.seal(&place, &plain).unwrap();
            let (nonce, rest) = sealed.split_at(NONCE_BYTES);
            let there = other.decrypt(XNonce::from_slice(nonce), Payload { msg: rest, aad: &place.0 }).unwrap();
            assert_eq!(there, plain);
            let theirs = other.encrypt(XNonce::from_slice(nonce), Payload { msg: &plain, aad: &place.0 }).unwrap();
            assert_eq!(theirs, rest);
            assert_eq!(sealer.open(&place, &sealed).unwrap(), plain);
        }
    }

    #[test]
    fn no_nonce_comes_twice() {
        let nonces: std::collections::BTreeSet<_> = (0..1000).map(|_| next_nonce().unwrap()).collect();
        assert_eq!(nonces.len(), 1000);
    }

    #[test]
    fn the_same_content_never_looks_the_same() {
        let sealer = Sealer::new(&[7; 32]);
        let place = Place::new(Kind::Message, &[1; 16], [1; 4]);
        assert_ne!(sealer.seal(&place, b"synthetic").unwrap(), sealer.seal(&place, b"synthetic").unwrap());
    }
}
