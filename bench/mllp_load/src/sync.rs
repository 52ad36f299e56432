//! What an fdatasync takes: appends a record of a message's size to a file that has its room already, as a write-ahead log
//! has, and waits for the disk, again and again.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use crate::{MESSAGE_BYTES, percentiles};

/// Is what a record takes beside its message, in bytes, so that the disk is asked for the same: two pages of a log.
const RECORD_BYTES: usize = 8192;

/// Is how many records the file holds before it begins again.
const RECORDS: usize = 1000;

/// Measures `count` of them in `directory`.
pub fn sync(directory: &Path, count: usize) -> io::Result<()> {
    let path = directory.join("mllp_load.sync");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let record = vec![b'A'; RECORD_BYTES.max(MESSAGE_BYTES)];
    for number in 0..RECORDS {
        file.write_all_at(&record, (number * record.len()) as u64)?;
    }
    file.sync_all()?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let start = Instant::now();
        file.write_all_at(&record, (number % RECORDS * record.len()) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    fs::remove_file(path)?;
    let [p50, p99] = percentiles(&mut times);
    println!("{p50:.1} {p99:.1}");
    Ok(())
}
