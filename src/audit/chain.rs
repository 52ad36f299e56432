//! The chain of the audit log: each line ends with a keyed hash over itself and the one before. Pure.
//!
//! Never takes a line for whole that is not. A line is one object of JSON whose last field is `chain`, 64 hexadecimal
//! digits: HMAC-SHA256 (RFC 2104) over the hash of the line before (32 zeros before the first) and the bytes of this line up to that field.
//! Who has not the key can neither change, nor add, nor leave out a line in the middle without it showing.

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use thiserror::Error;

use super::event::Entry;

/// Separates what the key of the account is used for: the chain. (`mllp::trace` has 1 and 2.)
const CHAIN: u8 = 3;
/// Begins the last field of a line.
const FIELD: &[u8] = b",\"chain\":\"";
/// Ends a line.
const END: &[u8] = b"\"}";
/// Is the length of a hash in hexadecimal digits.
const HEX_BYTES: usize = 64;
/// Names the entry that begins a file.
const BEGINS: &str = "segment";

/// Is the hash at an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    /// Is the hash before the first entry.
    pub const NONE: Self = Self([0; 32]);

    /// Reads hexadecimal digits.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != HEX_BYTES || !text.iter().all(is_digit) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Keys the chain.
#[derive(Clone)]
pub struct ChainKey(Hmac<Sha256>);

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainKey(hidden)")
    }
}

impl ChainKey {
    /// Takes the key of the account.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut block = [0; 64];
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(&[CHAIN]);
        Self(mac)
    }

    fn following(&self, before: &Chain, body: &[u8]) -> Chain {
        let mut mac = self.0.clone();
        mac.update(&before.0);
        mac.update(body);
        Chain(mac.finalize().into_bytes().into())
    }

    /// Makes a line of an object of JSON, which is not empty and which `object` appends; returns the hash at it.
    pub fn seal(&self, before: &Chain, object: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) -> Chain {
        let start = out.len();
        object(out);
        out.pop(); // the brace that ends it
        let chain = self.following(before, out.get(start..).unwrap_or_default());
        out.extend_from_slice(FIELD);
        let mut digits = [0; HEX_BYTES];
        hex::encode_to_slice(chain.0, &mut digits).ok(); // it has the length
        out.extend_from_slice(&digits);
        out.extend_from_slice(END);
        out.push(b'\n');
        chain
    }
}

/// Splits a line, without its end, into what is hashed and the hash.
fn split(line: &[u8]) -> Option<(&[u8], Chain)> {
    let rest = line.strip_suffix(END)?;
    let (rest, hex) = rest.split_at_checked(rest.len().checked_sub(HEX_BYTES)?)?;
    Some((rest.strip_suffix(FIELD)?, Chain::from_hex(hex)?))
}

/// Returns the entry and the hash that a line says it has, as this site writes lines; nothing is looked at but that.
pub fn stated(line: &[u8]) -> Option<(u64, Chain)> {
    let (body, chain) = split(line)?;
    let digits = body.strip_prefix(b"{\"n\":")?.split(|byte| *byte == b',').next()?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, chain))
}

/// Says where a log is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// A line is no entry.
    #[error("the line after entry {after} is no entry: it was changed, or written by something else")]
    NotAnEntry {
        /// Is the last whole entry before it.
        after: u64,
    },
    /// An entry is not what was written.
    #[error("entry {entry} is not as it was written: it, or the one before it, was changed")]
    Changed {
        /// Is the entry.
        entry: u64,
    },
    /// Entries are missing.
    #[error("entries {first} to {last} are missing")]
    Missing {
        /// Is the first of them.
        first: u64,
        /// Is the last of them.
        last: u64,
    },
    /// What an entry is chained to is gone.
    #[error("entry {entry} cannot be verified: the one before it is gone, and its hash with it")]
    Unlinked {
        /// Is the entry.
        entry: u64,
    },
    /// An entry stands where another one belongs.
    #[error("entry {found} stands where entry {expected} belongs")]
    OutOfOrder {
        /// Is the one that belongs there.
        expected: u64,
        /// Is the one that is there.
        found: u64,
    },
}

/// Walks over the lines of a log in order, and says where it is broken.
#[derive(Debug, Clone)]
pub struct Walk {
    key: ChainKey,
    /// Is the entry before, and the hash at it; none before the first line.
    at: Option<(u64, Chain)>,
}

impl Walk {
    /// Begins before the first line of any file.
    pub fn new(key: ChainKey) -> Self {
        Self { key, at: None }
    }

    /// Returns the last entry that was whole, and the hash at it.
    pub fn at(&self) -> Option<(u64, Chain)> {
        self.at
    }

    /// Passes over a line that is not as it was written, so that those behind it can be looked at: up to entry `after` what
    /// it says of itself is believed. The first one behind that counts where it begins a file, which says what it is chained
    /// to.
    ///
    /// # Errors
    /// It is behind that, and cannot be verified; the walk stays before it.
    pub fn pass_over(&mut self, line: &[u8], after: u64) -> Result<Option<Entry>, Fault> {
        let entry = serde_json::from_slice::<Entry>(line).ok();
        let Some(((_, chain), entry)) = split(line).zip(entry) else { return Ok(None) };
        if entry.n <= after {
            let is_next = self.at.is_none_or(|(last, _)| entry.n > last);
            self.at = Some((entry.n, chain)).filter(|_| is_next).or(self.at);
            return Ok(None);
        }
        let mut fresh = Self::new(self.key.clone());
        let unlinked = Fault::Unlinked { entry: entry.n };
        let found = fresh.handle_line(line).map_err(|fault| match fault {
            Fault::NotAnEntry { .. } => unlinked,
            fault => fault,
        })?;
        *self = fresh;
        Ok(Some(found))
    }

    /// Takes the next line, without its end.
    ///
    /// # Errors
    /// Says how it is not what was written; the walk stays before it.
    pub fn handle_line(&mut self, line: &[u8]) -> Result<Entry, Fault> {
        let after = self.at.map_or(0, |(n, _)| n);
        let not = Fault::NotAnEntry { after };
        let (body, chain) = split(line).ok_or_else(|| not.clone())?;
        let entry: Entry = serde_json::from_slice(line).map_err(|_| not.clone())?;
        let begins = entry.from.as_deref().filter(|_| entry.event == BEGINS);
        let before = match (self.at, begins.and_then(|from| Chain::from_hex(from.as_bytes()))) {
            (Some((_, before)), _) => before,
            (None, Some(from)) => from,
            (None, None) => return Err(not),
        };
        match self.at {
            Some((last, _)) if entry.n <= last => {
                return Err(Fault::OutOfOrder { expected: last + 1, found: entry.n });
            }
            Some((last, _)) if entry.n > last + 1 => {
                return Err(Fault::Missing { first: last + 1, last: entry.n - 1 });
            }
            _ => {}
        }
        if self.key.following(&before, body) != chain {
            return Err(Fault::Changed { entry: entry.n });
        }
        self.at = Some((entry.n, chain));
        Ok(entry)
    }
}

impl Fault {
    /// Returns the last entry that it is about.
    pub fn entry(&self) -> u64 {
        match self {
            Self::NotAnEntry { after } => after + 1,
            Self::Changed { entry } | Self::Unlinked { entry } => *entry,
            Self::Missing { last, .. } => *last,
            Self::OutOfOrder { expected, .. } => *expected,
        }
    }
}

#[cfg(test)]
mod tests;
