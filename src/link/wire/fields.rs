//! Reads the fields of one record, front to back.
//!
//! Pure. It never reads beyond the record, and never trusts a length inside it.

use super::{MAGIC, WireError};

/// The bytes of a record before its fields: length and kind.
const PREFIX_BYTES: usize = 3;

/// Is what is left of one record.
pub(in crate::link) struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Finds the record at the front of `bytes` and returns it with its length, or `None` where it is not whole yet.
    pub(in crate::link) fn of_record(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some([high, low]) = bytes.first_chunk::<2>() else { return Ok(None) };
        let whole = 2 + usize::from(u16::from_be_bytes([*high, *low]));
        if whole < PREFIX_BYTES {
            return Err(WireError::Truncated(0));
        }
        let Some(body) = bytes.get(2..whole) else { return Ok(None) };
        let fields = Self { kind: body.first().copied().unwrap_or(0), rest: body.get(1..).unwrap_or(&[]) };
        Ok(Some((fields, whole)))
    }

    /// Returns the kind of the record.
    pub(in crate::link) fn kind(&self) -> u8 {
        self.kind
    }

    /// Counts the bytes that are left.
    pub(in crate::link) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Takes all that is left.
    pub(in crate::link) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Reads so many bytes.
    pub(in crate::link) fn chunk<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated(self.kind))?;
        self.rest = rest;
        Ok(*chunk)
    }

    /// Reads one byte.
    pub(in crate::link) fn byte(&mut self) -> Result<u8, WireError> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    /// Reads a number of four bytes.
    pub(in crate::link) fn u32(&mut self) -> Result<u32, WireError> {
        self.chunk().map(u32::from_be_bytes)
    }

    /// Reads a number of eight bytes.
    pub(in crate::link) fn u64(&mut self) -> Result<u64, WireError> {
        self.chunk().map(u64::from_be_bytes)
    }

    /// Reads the four bytes that every greeting begins with.
    pub(in crate::link) fn magic(&mut self) -> Result<(), WireError> {
        if self.chunk()? == MAGIC { Ok(()) } else { Err(WireError::BadMagic) }
    }

    /// Reads a text behind its length.
    pub(in crate::link) fn text(&mut self) -> Result<String, WireError> {
        let length = usize::from(self.byte()?);
        let (text, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated(self.kind))?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).map_err(|_| WireError::BadText)
    }
}
