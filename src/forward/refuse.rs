//! Refuses messages whose receiver cannot be reached: `on_unreachable: nak`.
//!
//! It never keeps more of a message than its header, and never refuses what was forwarded. The answer is AR, in
//! enhanced mode CR, with ERR 207 (HL7 v2.5.1, chapter 2.9.3 and table 0357) and a fixed text.

use std::time::{Instant, SystemTime};

use crate::link::carry::{Ended, Leg, TcpLeg};
use crate::link::streams::Moved;
use crate::link::tally::Tally;
use crate::mllp::ack::{AckCode, FrameKind, Stamp, refusal};
use crate::mllp::frame::{Decoder, Event, Limits, encode};
use crate::mllp::message::{HEADER_BYTES_MAX, Header};
use crate::mllp::observe::Observation;

/// One read, in bytes.
const READ_BYTES: usize = 8 << 10;

/// Reads messages and refuses each, until there is none begun; returns so that the receiver can be tried again.
///
/// # Errors
/// The sender's connection ended.
pub(super) async fn refuse_messages(sender: &TcpLeg, limits: Limits, tally: &Tally) -> Result<(), Ended> {
    let mut decoder = Decoder::new(limits);
    let mut head = Vec::new();
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = match sender.try_read(&mut bytes) {
            Moved::Bytes(count) => count,
            Moved::Blocked => {
                sender.readable().await;
                continue;
            }
            Moved::End => return Err(Ended::Finished),
            Moved::Failed(cause) => return Err(Ended::Failed(cause)),
        };
        let mut answers = Vec::new();
        let mut refused = 0;
        decoder
            .handle_bytes(bytes.get(..count).unwrap_or(&[]), &mut |event| match event {
                Event::Start => head.clear(),
                Event::Payload(part) => {
                    let room = HEADER_BYTES_MAX.saturating_sub(head.len());
                    head.extend_from_slice(part.get(..room).unwrap_or(part));
                }
                Event::End { payload_bytes } => {
                    if let Some(answer) = answer_to(&head, payload_bytes, tally) {
                        answers.extend_from_slice(&encode(&answer));
                        refused += 1;
                    }
                }
                Event::Anomaly(anomaly) => tally.count(Observation::Anomaly(anomaly), Instant::now()),
            })
            .map_err(Ended::Violation)?;
        write_all(sender, &answers).await?;
        if refused > 0 && decoder.is_between_frames() {
            return Ok(());
        }
    }
}

fn answer_to(head: &[u8], payload_bytes: u64, tally: &Tally) -> Option<Vec<u8>> {
    if FrameKind::of(head) != FrameKind::Message {
        return None;
    }
    let now = Instant::now();
    tally.count(Observation::Message { bytes: payload_bytes }, now);
    let header = Header::parse(head)?;
    let control_id = format!("WL{:016X}", getrandom::u64().unwrap_or_default());
    let timestamp = timestamp(SystemTime::now());
    let stamp = Stamp { control_id: control_id.as_bytes(), timestamp: timestamp.as_bytes() };
    let answer = refusal(&header, stamp)?;
    tally.count(Observation::Ack { code: AckCode::ApplicationReject, latency: None }, now);
    Some(answer)
}

/// Writes a time as HL7 does (TS, v2.5.1 chapter 2.A.77), in UTC.
fn timestamp(time: SystemTime) -> String {
    let rfc3339 = humantime::format_rfc3339_seconds(time).to_string();
    let digits: String = rfc3339.chars().filter(char::is_ascii_digit).collect();
    format!("{digits}+0000")
}

async fn write_all(sender: &TcpLeg, mut bytes: &[u8]) -> Result<(), Ended> {
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
