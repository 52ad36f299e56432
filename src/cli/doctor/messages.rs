//! The messages that the doctor sends: synthetic, marked as training (MSH-11 T), each with a control id of its own.
//!
//! Never a byte of a real message. The form is HL7 v2.5 chapter 2 (MSH) and chapter 7 (OBX).

use crate::mllp::frame;

/// Is the start of every control id, so that a receiver's people find the messages again.
const ID_START: &str = "DOCTOR-";

/// Is a message, framed and ready to be sent.
pub(super) struct Message {
    /// Is MSH-10.
    pub(super) control_id: String,
    /// Is the frame with the message.
    pub(super) frame: Vec<u8>,
}

/// Says which answers a message asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// Original mode: MSH-15 and MSH-16 are empty.
    Plainly,
    /// Enhanced mode: an accept acknowledgement and an application's, whatever comes of it.
    ForBoth,
}

/// Writes messages, each with the next control id.
pub(super) struct Messages {
    message_type: String,
    run: u32,
    next: u32,
}

impl Messages {
    /// Starts with messages of a type (MSH-9); `run` makes the control ids differ from those of another run.
    pub(super) fn new(message_type: &str, run: u32) -> Self {
        Self { message_type: message_type.to_owned(), run, next: 0 }
    }

    /// Writes a small message.
    pub(super) fn small(&mut self) -> Message {
        self.write(Asks::Plainly, 0)
    }

    /// Writes a message that asks for these answers.
    pub(super) fn asking(&mut self, asks: Asks) -> Message {
        self.write(asks, 0)
    }

    /// Writes a message of so many bytes.
    pub(super) fn of_bytes(&mut self, bytes: usize) -> Message {
        self.write(Asks::Plainly, bytes)
    }

    fn write(&mut self, asks: Asks, bytes: usize) -> Message {
        self.next = self.next.saturating_add(1);
        let control_id = format!("{ID_START}{:08X}-{}", self.run, self.next);
        let asked = if asks == Asks::ForBoth { "|||AL|AL" } else { "" };
        let mut payload = format!(
            "MSH|^~\\&|WARDLINK|DOCTOR|TEST|TEST|20260101120000||{}|{control_id}|T|2.5{asked}\r\
             EVN||20260101120000\rPID|1||TEST^^^WARDLINK||SYNTHETIC^TEST\rPV1|1|N\r",
            self.message_type
        )
        .into_bytes();
        if bytes > 0 {
            payload.extend_from_slice(b"OBX|1|ED|TEST^SYNTHETIC||^^^Base64^");
            payload.resize(bytes.saturating_sub(1).max(payload.len()), b'A');
            payload.push(b'\r');
        }
        Message { control_id, frame: frame::encode(&payload) }
    }
}
