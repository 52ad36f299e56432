//! What a receiver speaks that does not answer plain MLLP: TLS, or other bytes around a message (the design's case 35).
//!
//! Never goes on from there: it names what to set, and there is no profile.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Doctor, PATIENCE};

/// Is a hello of TLS 1.2 without extensions: whoever speaks TLS answers it, by its own hello or by an alert.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03WARDLINK-DOCTOR-WARDLINK-DOCTOR-\
    \x00\x00\x04\xc0\x2b\xc0\x2f\x01\x00";

/// Starts a message in the field that MLLP's bytes do not.
const STX: u8 = 0x02;
/// Ends it.
const ETX: u8 = 0x03;

impl Doctor<'_> {
    /// Returns what it speaks instead, and what to set; `None` where nothing came back.
    pub(super) async fn other(&mut self) -> Option<(&'static str, &'static str)> {
        let limit = self.timeout.min(PATIENCE);
        let mut stream = connect(self.to, limit).await?;
        if let Some([0x15, 3, ..] | [0x16, 3, _, _, _, 2]) = first_bytes(&mut stream, TLS_HELLO, limit).await {
            let advice = "Set tls: at its service (ca_file, server_name). These probes speak plain MLLP only.";
            return Some(("it speaks TLS", advice));
        }
        drop(stream);
        let mut frame = self.messages.small().frame;
        // the frame of MLLP ends in two bytes
        frame.pop();
        *frame.first_mut()? = STX;
        *frame.last_mut()? = ETX;
        let mut stream = connect(self.to, limit).await?;
        let short = "Set framing: { start: 0x02, end: [0x03] } at its service. These probes speak MLLP's framing only.";
        let long =
            "Set framing: { start: 0x02, end: [0x03, 0x0d] } at its service. These probes speak MLLP's framing only.";
        for (bytes, advice) in [(&frame[..], short), (b"\r", long)] {
            if let Some([STX, ..]) = first_bytes(&mut stream, bytes, limit).await {
                return Some(("it answers a message between STX and ETX (02, 03)", advice));
            }
        }
        None
    }
}

async fn connect(to: &str, limit: Duration) -> Option<TcpStream> {
    timeout(limit, TcpStream::connect(to)).await.ok()?.ok()
}

/// Writes, and returns the first bytes that come back in time: no answer, of TLS or in a frame, is shorter.
async fn first_bytes(stream: &mut TcpStream, bytes: &[u8], limit: Duration) -> Option<[u8; 6]> {
    let mut head = [0; 6];
    let talk = async {
        stream.write_all(bytes).await?;
        stream.read_exact(&mut head).await
    };
    timeout(limit, talk).await.ok()?.ok()?;
    Some(head)
}
