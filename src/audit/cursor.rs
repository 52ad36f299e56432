//! Reads the log on from one entry, piece by piece, while it is written.
//!
//! Never changes anything, and never gives an entry that is not durable yet: its caller says how far that is.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::AuditError;
use super::event::Entry;
use super::store::{LINE_BYTES_MAX, segments};

/// Is how far a log is read.
#[derive(Debug, Clone)]
pub struct Cursor {
    directory: PathBuf,
    after: u64,
    /// Is the file that is read and how far, in bytes; none: it is to be looked for.
    at: Option<(PathBuf, u64)>,
}

/// Is what was read.
#[derive(Debug, Default)]
pub struct Piece {
    /// Are the entries, in order.
    pub entries: Vec<Entry>,
    /// Counts those before them that are not there any more.
    pub missing: u64,
}

impl Cursor {
    /// Begins behind an entry.
    pub fn new(directory: &Path, after: u64) -> Self {
        Self { directory: directory.to_owned(), after, at: None }
    }

    /// Returns the last entry that was read, or passed over.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Reads the next entries, up to one and so many at the most.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read(&mut self, through: u64, most: usize) -> Result<Piece, AuditError> {
        let mut piece = Piece::default();
        while self.after < through && piece.entries.len() < most {
            let Some((path, offset)) = self.place()? else { break };
            // Before the file is read: where another follows, it is complete.
            let next = self.next(&path)?;
            match self.read_file(&path, offset, through, most, &mut piece) {
                Ok(true) => break,
                Ok(false) if next.is_none() => break,
                Ok(false) => self.at = next.map(|path| (path, 0)),
                // Removed in time: its entries are missing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.at = None,
                Err(source) => return Err(AuditError::File { doing: "read", path, source }),
            }
        }
        Ok(piece)
    }

    /// Finds the file of the next entry.
    fn place(&mut self) -> Result<Option<(PathBuf, u64)>, AuditError> {
        if self.at.is_none() {
            let all = segments(&self.directory)?;
            let place = all.iter().rposition(|segment| segment.first <= self.after + 1).unwrap_or(0);
            self.at = all.get(place).map(|segment| (segment.path.clone(), 0));
        }
        Ok(self.at.clone())
    }

    /// Returns the file behind this one.
    fn next(&self, path: &Path) -> Result<Option<PathBuf>, AuditError> {
        let mut all = segments(&self.directory)?.into_iter().map(|segment| segment.path);
        Ok(all.by_ref().find(|one| one == path).and_then(|_| all.next()))
    }

    /// Reads lines; tells whether it has what was asked for, and so stopped before the end.
    fn read_file(
        &mut self,
        path: &Path,
        offset: u64,
        through: u64,
        most: usize,
        piece: &mut Piece,
    ) -> io::Result<bool> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let (mut line, mut offset) = (Vec::new(), offset);
        while piece.entries.len() < most {
            line.clear();
            let bytes = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                return Ok(false);
            }
            // What is no entry is passed over, as every reader of the log does.
            if let Ok(entry) = serde_json::from_slice::<Entry>(&line) {
                if entry.n > through {
                    return Ok(true);
                }
                if entry.n > self.after {
                    piece.missing += entry.n - self.after - 1;
                    self.after = entry.n;
                    piece.entries.push(entry);
                }
            }
            offset += bytes as u64;
            self.at = Some((path.to_owned(), offset));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, first: u64, last: u64, end: &str) {
        let lines: String = (first..=last).map(|n| format!("{{\"n\":{n},\"event\":\"passed\"}}\n")).collect();
        std::fs::write(directory.join(format!("{first:020}.jsonl")), lines + end).unwrap();
    }

    fn numbers(piece: &Piece) -> Vec<u64> {
        piece.entries.iter().map(|entry| entry.n).collect()
    }

    #[test]
    fn it_reads_on_across_files_and_no_further_than_is_durable() {
        let directory = tempfile::tempdir().unwrap();
        let mut cursor = Cursor::new(directory.path(), 0);
        assert!(numbers(&cursor.read(9, 10).unwrap()).is_empty(), "there is no log yet");
        write(directory.path(), 1, 4, "{\"n\":5,\"ev");
        assert_eq!(numbers(&cursor.read(2, 10).unwrap()), [1, 2]);
        assert_eq!(numbers(&cursor.read(9, 1).unwrap()), [3]);
        assert_eq!(numbers(&cursor.read(9, 10).unwrap()), [4], "a line without an end is none");
        assert!(numbers(&cursor.read(9, 10).unwrap()).is_empty());
        write(directory.path(), 1, 5, "");
        write(directory.path(), 6, 8, "");
        assert_eq!(numbers(&cursor.read(7, 10).unwrap()), [5, 6, 7]);
        write(directory.path(), 9, 12, "");
        assert_eq!(numbers(&cursor.read(12, 2).unwrap()), [8, 9]);
        assert_eq!((numbers(&cursor.read(12, 9).unwrap()), cursor.after()), (vec![10, 11, 12], 12));
        assert_eq!(numbers(&Cursor::new(directory.path(), 6).read(9, 9).unwrap()), [7, 8, 9]);
    }

    #[test]
    fn what_was_removed_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), 1, 4, "");
        write(directory.path(), 5, 8, "");
        let mut cursor = Cursor::new(directory.path(), 0);
        assert_eq!(numbers(&cursor.read(8, 2).unwrap()), [1, 2]);
        std::fs::remove_file(directory.path().join(format!("{:020}.jsonl", 1))).unwrap();
        let piece = cursor.read(8, 9).unwrap();
        assert_eq!((piece.missing, numbers(&piece)), (2, vec![5, 6, 7, 8]));
    }
}
