//! What an answer of wardlink's own needs beside the message: an identity, a time, and the way to the sender.
//!
//! It never decides what is answered. Format of the time: HL7 v2.5.1 chapter 2.A.77 (TS).

use std::time::SystemTime;

use crate::link::carry::{Ended, Leg, TcpLeg};
use crate::link::streams::Moved;
use crate::mllp::ack::Stamp;

/// Is what an answer has of its own.
pub(super) struct Mark {
    control_id: String,
    timestamp: String,
}

impl Mark {
    /// Makes one for an answer of this moment.
    pub(super) fn new() -> Self {
        let control_id = format!("WL{:016X}", getrandom::u64().unwrap_or_default());
        Self { control_id, timestamp: timestamp(SystemTime::now()) }
    }

    pub(super) fn stamp(&self) -> Stamp<'_> {
        Stamp { control_id: self.control_id.as_bytes(), timestamp: self.timestamp.as_bytes() }
    }
}

/// Writes a time as HL7 does, in UTC.
fn timestamp(time: SystemTime) -> String {
    let rfc3339 = humantime::format_rfc3339_seconds(time).to_string();
    let digits: String = rfc3339.chars().filter(char::is_ascii_digit).collect();
    format!("{digits}+0000")
}

/// Writes bytes to the sender, however slowly it takes them.
///
/// # Errors
/// The sender's connection ended.
pub(super) async fn write_all(sender: &TcpLeg, mut bytes: &[u8]) -> Result<(), Ended> {
    while !bytes.is_empty() {
        match sender.try_write(bytes) {
            Moved::Bytes(written) => bytes = bytes.get(written..).unwrap_or(&[]),
            Moved::Blocked => sender.writable().await,
            Moved::End => return Err(Ended::Finished),
            Moved::Failed(cause) => return Err(Ended::Failed(cause)),
        }
    }
    Ok(())
}
