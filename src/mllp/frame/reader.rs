//! Collects whole payloads out of a stream, each bounded by the decoder's limit.
//!
//! Never gives away a payload whose frame has not ended.

use std::fmt;

use super::{Anomaly, Decoder, Event, Limits, Violation};

/// Reports what a [`FrameReader`] found, in the order of the stream.
#[derive(Clone, PartialEq, Eq)]
pub enum Read {
    /// The payload of a whole frame; may be empty.
    Payload(Vec<u8>),
    /// Something deviates from the standard and was tolerated.
    Anomaly(Anomaly),
}

impl fmt::Debug for Read {
    /// Writes the length of a payload, never its bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(bytes) => write!(f, "Payload({} bytes)", bytes.len()),
            Self::Anomaly(anomaly) => write!(f, "Anomaly({anomaly:?})"),
        }
    }
}

/// Collects whole payloads; holds at most one partial payload.
pub struct FrameReader {
    decoder: Decoder,
    payload: Vec<u8>,
}

impl FrameReader {
    /// Starts at the begin of a stream.
    pub fn new(limits: Limits) -> Self {
        Self { decoder: Decoder::new(limits), payload: Vec::new() }
    }

    /// Takes the next bytes of the stream and hands over what they complete.
    ///
    /// # Errors
    ///
    /// Returns why the stream cannot be followed; the partial payload is forgotten.
    pub fn handle_bytes(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Read)) -> Result<(), Violation> {
        let Self { decoder, payload } = self;
        let followed = decoder.handle_bytes(bytes, &mut |event| collect(payload, event, sink));
        followed.inspect_err(|_| self.payload = Vec::new())
    }

    /// Counts the bytes of the partial payload.
    pub fn held_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Says whether no frame is begun.
    pub fn is_between_frames(&self) -> bool {
        self.decoder.is_between_frames()
    }

    /// Takes the end of the stream.
    pub fn handle_end_of_stream(&mut self, sink: &mut dyn FnMut(Read)) {
        let Self { decoder, payload } = self;
        decoder.handle_end_of_stream(&mut |event| collect(payload, event, sink));
        self.payload = Vec::new();
    }

    /// Says whether [`super::END_SILENCE`] without a byte would end the present frame.
    pub fn awaits_silence(&self) -> bool {
        self.decoder.awaits_silence()
    }

    /// Takes the news that nothing came for [`super::END_SILENCE`].
    pub fn handle_silence(&mut self, sink: &mut dyn FnMut(Read)) {
        let Self { decoder, payload } = self;
        decoder.handle_silence(&mut |event| collect(payload, event, sink));
    }
}

fn collect(payload: &mut Vec<u8>, event: Event<'_>, sink: &mut dyn FnMut(Read)) {
    match event {
        Event::Start => payload.clear(),
        Event::Payload(bytes) => payload.extend_from_slice(bytes),
        Event::End { .. } => sink(Read::Payload(std::mem::take(payload))),
        Event::Anomaly(anomaly) => sink(Read::Anomaly(anomaly)),
    }
}
