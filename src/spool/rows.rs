//! The keyed tags of the rows of a spool's tables: whoever changes a row without the key is noticed by who reads it. Pure.
//!
//! Never says what a row should be, and nothing of a row that is gone. A tag is HMAC-SHA256 (RFC 2104) over the table and
//! the columns of the row, each with its kind and length, of which the first 16 bytes are kept (section 5 there).

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Is the length of a tag, in bytes.
pub(super) const TAG_BYTES: usize = 16;

/// Is the tag of a row.
pub(super) type Tag = [u8; TAG_BYTES];

/// Names a table.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Table {
    Messages = 1,
    Outcomes = 2,
    Outbox = 3,
    Epochs = 4,
}

/// Is a column of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    Absent,
    Number(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// Makes tags.
#[derive(Clone)]
pub(super) struct RowKey(Hmac<Sha256>);

impl RowKey {
    /// Takes the key.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        // A key of exactly one block is taken as it is; 32 bytes, padded with zeros, are one (RFC 2104).
        let mut block = [0; 64];
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        Self(Hmac::new(&block.into()))
    }

    /// Makes the tag of a row.
    pub(super) fn tag<'c>(&self, table: Table, cells: impl IntoIterator<Item = Cell<'c>>) -> Tag {
        let mut mac = self.0.clone();
        mac.update(&[table as u8]);
        for cell in cells {
            let (kind, bytes) = match &cell {
                Cell::Absent => (0, &[][..]),
                Cell::Number(number) => {
                    mac.update(&[1]);
                    mac.update(&number.to_be_bytes());
                    continue;
                }
                Cell::Text(text) => (2, text.as_bytes()),
                Cell::Bytes(bytes) => (3, *bytes),
            };
            mac.update(&[kind]);
            mac.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(bytes);
        }
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        *whole.first_chunk().unwrap_or(&[0; TAG_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_its_kind_and_its_place_count() {
        let key = RowKey::new(&[1; 32]);
        let row = [Cell::Number(1), Cell::Text("ab"), Cell::Bytes(b"c"), Cell::Absent];
        let tag = key.tag(Table::Outcomes, row);
        assert_eq!(tag, key.tag(Table::Outcomes, row));
        assert_ne!(tag, key.tag(Table::Messages, row));
        assert_ne!(tag, RowKey::new(&[2; 32]).tag(Table::Outcomes, row));
        for other in [
            [Cell::Number(2), Cell::Text("ab"), Cell::Bytes(b"c"), Cell::Absent],
            [Cell::Number(1), Cell::Text("a"), Cell::Bytes(b"bc"), Cell::Absent],
            [Cell::Number(1), Cell::Bytes(b"ab"), Cell::Bytes(b"c"), Cell::Absent],
            [Cell::Text("ab"), Cell::Number(1), Cell::Bytes(b"c"), Cell::Absent],
            [Cell::Number(1), Cell::Text("ab"), Cell::Bytes(b"c"), Cell::Bytes(b"")],
        ] {
            assert_ne!(tag, key.tag(Table::Outcomes, other), "{other:?}");
        }
    }
}
