//! Finds the frames in a stream: the state machine.
//!
//! Never holds a payload: what the end of a piece leaves open is at most the first bytes of a constant.
//!
//! ```text
//!             VT                     FS               CR: end, VT: end and start
//!  Between ---------> Inside ---------------> AfterFs ---------------------------> Between, Inside
//!                     ^    |                     |
//!                     |    | VT                  | any other byte: the FS was payload
//!                     |    v                     v
//!                     +-- AfterVt             Inside
//!                         "MSH": the sender started over; any other byte: the VT was payload
//! ```
//!
//! VT, FS and CR are what the framing has in their place; where a frame ends with one byte, that ends it from Inside.

use super::sniff::Sniffer;
use super::{Anomaly, CR, Event, Limits, Violation};

/// Is what follows the start of a frame inside of one where its sender starts over.
const RESTART: &[u8] = b"MSH";
/// Is [`RESTART`] of a sender that writes a UTF-8 byte order mark before each message.
const RESTART_BOM: &[u8] = b"\xef\xbb\xbfMSH";

/// Finds frames in a stream of bytes; resumable at any byte, linear in time, without a copy of the payload.
pub struct Decoder {
    limits: Limits,
    state: State,
    gap: Gap,
    frame: Frame,
    stream_start: Sniffer,
}

#[derive(Clone, Copy)]
enum State {
    Between,
    Inside,
    AfterFs,
    /// The start of a frame and the first `seen` bytes of `pattern` came; they are payload unless the rest follows.
    AfterVt {
        pattern: &'static [u8],
        seen: usize,
    },
    Failed(Violation),
}

/// Is what was seen since the last frame.
#[derive(Default)]
struct Gap {
    junk_bytes: u64,
    line_end: bool,
    nul: bool,
    junk: bool,
}

/// Is what was seen of the present frame.
struct Frame {
    payload_bytes: u64,
    last: u8,
    fs_inside: bool,
    vt_inside: bool,
    start: Sniffer,
}

impl Frame {
    fn new() -> Self {
        Self { payload_bytes: 0, last: 0, fs_inside: false, vt_inside: false, start: Sniffer::payload() }
    }
}

type Sink<'s> = &'s mut dyn FnMut(Event<'_>);

impl Decoder {
    /// Starts at the begin of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Between,
            gap: Gap::default(),
            frame: Frame::new(),
            stream_start: Sniffer::stream(),
        }
    }

    /// Takes the next bytes of the stream and reports what they hold.
    ///
    /// The same stream gives the same events, however it is cut, but for the pieces in which a payload comes.
    ///
    /// # Errors
    ///
    /// Returns why the stream cannot be followed; from then on every call returns the same.
    pub fn handle_bytes(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Violation> {
        if let State::Failed(violation) = self.state {
            return Err(violation);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let step = match self.state {
                State::Between => self.between(rest, sink),
                State::Inside => self.inside(rest, sink),
                State::AfterFs => self.after_fs(rest, sink),
                State::AfterVt { pattern, seen } => self.after_vt(rest, pattern, seen, sink),
                State::Failed(violation) => Err(violation),
            };
            rest = step.inspect_err(|violation| self.state = State::Failed(*violation))?;
        }
        Ok(())
    }

    /// Takes the end of the stream: FS alone ends its frame, anything less leaves it truncated.
    pub fn handle_end_of_stream(&mut self, sink: Sink<'_>) {
        match self.state {
            State::Between | State::Failed(_) => {}
            State::AfterFs => self.end_without_cr(sink),
            State::Inside | State::AfterVt { .. } => {
                self.state = State::Between;
                sink(Event::Anomaly(Anomaly::TruncatedFrame));
            }
        }
    }

    /// Says whether [`super::END_SILENCE`] without a byte would end the present frame: its last bytes were CR FS.
    pub fn awaits_silence(&self) -> bool {
        matches!(self.state, State::AfterFs) && self.frame.last == CR
    }

    /// Takes the news that nothing came for [`super::END_SILENCE`]; without effect unless [`Self::awaits_silence`].
    pub fn handle_silence(&mut self, sink: Sink<'_>) {
        if self.awaits_silence() {
            self.end_without_cr(sink);
        }
    }

    /// Says whether no frame is begun.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Counts the bytes of the present frame's payload so far.
    pub fn frame_bytes(&self) -> u64 {
        self.frame.payload_bytes
    }

    fn between<'b>(&mut self, bytes: &'b [u8], sink: Sink<'_>) -> Result<&'b [u8], Violation> {
        let Some(at) = memchr::memchr(self.limits.framing.start(), bytes) else {
            self.skip(bytes, sink)?;
            return Ok(&[]);
        };
        let (junk, frame) = bytes.split_at(at);
        self.skip(junk, sink)?;
        self.start(sink);
        Ok(frame.get(1..).unwrap_or_default())
    }

    fn skip(&mut self, junk: &[u8], sink: Sink<'_>) -> Result<(), Violation> {
        for &byte in junk {
            self.stream_start.sniff(byte)?;
            let (seen, anomaly) = match byte {
                b'\r' | b'\n' => (&mut self.gap.line_end, Anomaly::LineEndBetweenFrames),
                0 => (&mut self.gap.nul, Anomaly::NulBetweenFrames),
                _ => {
                    self.gap.junk_bytes = self.gap.junk_bytes.saturating_add(1);
                    (&mut self.gap.junk, Anomaly::JunkBetweenFrames)
                }
            };
            if !std::mem::replace(seen, true) {
                sink(Event::Anomaly(anomaly));
            }
            if self.gap.junk_bytes > self.limits.junk_bytes_max {
                return Err(Violation::TooMuchJunk);
            }
        }
        Ok(())
    }

    fn start(&mut self, sink: Sink<'_>) {
        self.stream_start = Sniffer::settled();
        self.frame = Frame::new();
        self.state = State::Inside;
        sink(Event::Start);
    }

    fn inside<'b>(&mut self, bytes: &'b [u8], sink: Sink<'_>) -> Result<&'b [u8], Violation> {
        let framing = self.limits.framing;
        let Some(at) = memchr::memchr2(framing.start(), framing.end(), bytes) else {
            self.payload(bytes, sink)?;
            return Ok(&[]);
        };
        let (payload, marked) = bytes.split_at(at);
        self.payload(payload, sink)?;
        if marked.first() != Some(&framing.end()) {
            self.state = State::AfterVt { pattern: RESTART, seen: 0 };
        } else if framing.last().is_some() {
            self.state = State::AfterFs;
        } else {
            self.end(sink);
        }
        Ok(marked.get(1..).unwrap_or_default())
    }

    fn after_fs<'b>(&mut self, bytes: &'b [u8], sink: Sink<'_>) -> Result<&'b [u8], Violation> {
        let framing = self.limits.framing;
        match bytes.split_first() {
            Some((next, rest)) if framing.last() == Some(*next) => {
                self.end(sink);
                Ok(rest)
            }
            Some((next, rest)) if framing.start() == *next => {
                self.end_without_cr(sink);
                self.start(sink);
                Ok(rest)
            }
            _ => {
                self.state = State::Inside;
                self.frame.fs_inside = true;
                self.payload(&[framing.end()], sink)?;
                Ok(bytes)
            }
        }
    }

    fn after_vt<'b>(
        &mut self,
        bytes: &'b [u8],
        pattern: &'static [u8],
        seen: usize,
        sink: Sink<'_>,
    ) -> Result<&'b [u8], Violation> {
        let Some((next, rest)) = bytes.split_first() else {
            return Ok(bytes);
        };
        let pattern = if seen == 0 && RESTART_BOM.first() == Some(next) { RESTART_BOM } else { pattern };
        if pattern.get(seen) != Some(next) {
            self.state = State::Inside;
            self.frame.vt_inside = true;
            self.payload(&[self.limits.framing.start()], sink)?;
            self.payload(pattern.get(..seen).unwrap_or_default(), sink)?;
            return Ok(bytes);
        }
        let seen = seen.saturating_add(1);
        self.state = State::AfterVt { pattern, seen };
        if seen == pattern.len() {
            sink(Event::Anomaly(Anomaly::StartedOver));
            self.start(sink);
            self.payload(pattern, sink)?;
        }
        Ok(rest)
    }

    fn payload(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Violation> {
        let room = self.limits.frame_bytes_max.saturating_sub(self.frame.payload_bytes);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let fits = bytes.get(..room).unwrap_or(bytes);
        let Some(last) = fits.last() else {
            return if bytes.is_empty() { Ok(()) } else { Err(Violation::FrameTooLarge) };
        };
        for (before, &byte) in fits.iter().enumerate() {
            if self.frame.start.is_settled() {
                break;
            }
            if let Err(violation) = self.frame.start.sniff(byte) {
                sink(Event::Payload(fits.get(..=before).unwrap_or_default()));
                return Err(violation);
            }
        }
        self.frame.last = *last;
        self.frame.payload_bytes = self.frame.payload_bytes.saturating_add(fits.len() as u64);
        sink(Event::Payload(fits));
        if fits.len() < bytes.len() { Err(Violation::FrameTooLarge) } else { Ok(()) }
    }

    fn end_without_cr(&mut self, sink: Sink<'_>) {
        sink(Event::Anomaly(Anomaly::EndWithoutCr));
        self.end(sink);
    }

    fn end(&mut self, sink: Sink<'_>) {
        let payload_bytes = self.frame.payload_bytes;
        let noted = [
            (self.frame.fs_inside, Anomaly::FsInPayload),
            (self.frame.vt_inside, Anomaly::VtInPayload),
            (payload_bytes == 0, Anomaly::EmptyFrame),
        ];
        for (_, anomaly) in noted.into_iter().filter(|(seen, _)| *seen) {
            sink(Event::Anomaly(anomaly));
        }
        self.state = State::Between;
        self.gap = Gap::default();
        sink(Event::End { payload_bytes });
    }
}
