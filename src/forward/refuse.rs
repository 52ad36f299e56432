//! Refuses messages whose receiver cannot be reached: `on_unreachable: nak`.
//!
//! It never keeps more of a message than its header, and never refuses what was forwarded. The answer is AR, in
//! enhanced mode CR, with ERR 207 (HL7 v2.5.1, chapter 2.9.3 and table 0357) and a fixed text; in MLLP Release 2 a negative
//! commit.

use std::time::Instant;

use super::answer::{Mark, write_all};
use crate::link::carry::{Ended, Leg, TcpLeg};
use crate::link::streams::Moved;
use crate::link::tally::Tally;
use crate::mllp::ack::{AckCode, COMMIT_NAK, FrameKind, UNREACHABLE_TEXT, refusal};
use crate::mllp::dialect::Release;
use crate::mllp::frame::{Decoder, END_SILENCE, Event, Framing, Limits};
use crate::mllp::message::{HEADER_BYTES_MAX, Header};
use crate::mllp::observe::Observation;

/// Says in the account why a message was refused.
const UNREACHABLE: &str = "unreachable";
/// One read, in bytes.
const READ_BYTES: usize = 8 << 10;

/// Reads messages and refuses each, until there is none begun; returns so that the receiver can be tried again.
///
/// # Errors
/// The sender's connection ended.
pub(super) async fn refuse_messages(
    sender: &TcpLeg,
    release: Release,
    limits: Limits,
    tally: &Tally,
) -> Result<(), Ended> {
    let mut decoder = Decoder::new(limits);
    let framing = limits.framing;
    let mut refusals = Refusals { release, framing, head: Vec::new(), answers: Vec::new(), tally };
    let mut bytes = vec![0; READ_BYTES];
    loop {
        match sender.try_read(&mut bytes) {
            Moved::Bytes(count) => decoder
                .handle_bytes(bytes.get(..count).unwrap_or(&[]), &mut |event| refusals.handle(event))
                .map_err(Ended::Violation)?,
            Moved::Blocked if decoder.awaits_silence() => {
                if tokio::time::timeout(END_SILENCE, sender.readable()).await.is_err() {
                    decoder.handle_silence(&mut |event| refusals.handle(event));
                }
            }
            Moved::Blocked => sender.readable().await,
            Moved::End => return Err(Ended::Finished),
            Moved::Failed(cause) => return Err(Ended::Failed(cause)),
        }
        let answers = std::mem::take(&mut refusals.answers);
        write_all(sender, &answers).await?;
        if !answers.is_empty() && decoder.is_between_frames() {
            return Ok(());
        }
    }
}

/// Gathers the refusals of the messages that the decoder finds.
struct Refusals<'a> {
    release: Release,
    framing: Framing,
    head: Vec<u8>,
    answers: Vec<u8>,
    tally: &'a Tally,
}

impl Refusals<'_> {
    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Start => self.head.clear(),
            Event::Payload(part) => {
                let room = HEADER_BYTES_MAX.saturating_sub(self.head.len());
                self.head.extend_from_slice(part.get(..room).unwrap_or(part));
            }
            Event::End { payload_bytes } => {
                let answer = answer_to(self.release, &self.head, payload_bytes, self.tally).unwrap_or_default();
                if !answer.is_empty() {
                    self.answers.extend_from_slice(&self.framing.encode(&answer));
                }
            }
            Event::Anomaly(anomaly) => self.tally.count(Observation::Anomaly(anomaly), Instant::now()),
        }
    }
}

fn answer_to(release: Release, head: &[u8], payload_bytes: u64, tally: &Tally) -> Option<Vec<u8>> {
    if FrameKind::of(head) != FrameKind::Message {
        return None;
    }
    let now = Instant::now();
    tally.count(Observation::Message { bytes: payload_bytes }, now);
    if let Some(clerk) = tally.clerk() {
        clerk.refused(head, payload_bytes, UNREACHABLE);
    }
    if release.commit().is_some() {
        tally.count(Observation::Ack { code: AckCode::TransportNak, latency: None }, now);
        return Some(vec![COMMIT_NAK]);
    }
    // One that is cut is answered with nothing: neither what it asks for is known, nor what names it.
    let header = Header::parse(head).filter(|header| !header.is_cut())?;
    let (_, answer) = refusal(&header, Mark::new().stamp(), UNREACHABLE_TEXT)?;
    tally.count(Observation::Ack { code: AckCode::ApplicationReject, latency: None }, now);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_message_whole_or_is_none() {
        let refused = |message: &str| answer_to(Release::One, message.as_bytes(), 1, &Tally::default());
        let message =
            |id: &str, profile: &str| format!("MSH|^~\\&|A|B|C|D|t||ORU|{id}|P|2.5|{profile}||AL|NE\rPID|1\r");
        let answer = String::from_utf8(refused(&message("7", "")).unwrap()).unwrap();
        assert!(answer.contains("\rMSA|CR|7\r"), "{answer}");
        let long = "7".repeat(HEADER_BYTES_MAX);
        for message in [message(&long, ""), message("7", &long)] {
            assert!(refused(&message[..HEADER_BYTES_MAX]).is_none(), "neither its name nor its mode is known");
        }
    }
}
