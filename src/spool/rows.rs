//! The keyed tags of the rows of a spool's tables: whoever changes a row without the key is noticed by who reads it. Pure.
//!
//! Never says what a row should be, and nothing of a row that is gone. A tag is BLAKE3 in its keyed mode over the table and
//! the columns of the row, each with its kind and length, of which the first 16 bytes are kept: a message has five, and
//! of 80 bytes HMAC-SHA256 takes three times as long.

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

/// Is what a row takes at the most, but for long texts, in bytes.
const ROW_BYTES: usize = 256;

/// Makes tags.
#[derive(Clone)]
pub(super) struct RowKey([u8; 32]);

impl RowKey {
    /// Takes the key.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(*key)
    }

    /// Makes the tag of a row.
    pub(super) fn tag<'c>(&self, table: Table, cells: impl IntoIterator<Item = Cell<'c>>) -> Tag {
        let mut row = Vec::with_capacity(ROW_BYTES);
        row.push(table as u8);
        for cell in cells {
            let (kind, bytes) = match &cell {
                Cell::Absent => (0, &[][..]),
                Cell::Number(number) => {
                    row.push(1);
                    row.extend_from_slice(&number.to_be_bytes());
                    continue;
                }
                Cell::Text(text) => (2, text.as_bytes()),
                Cell::Bytes(bytes) => (3, *bytes),
            };
            row.push(kind);
            row.extend_from_slice(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            row.extend_from_slice(bytes);
        }
        let whole = blake3::keyed_hash(&self.0, &row);
        *whole.as_bytes().first_chunk().unwrap_or(&[0; TAG_BYTES])
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
