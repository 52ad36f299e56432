//! The link's records: what two wardlink sites say to each other over one TCP connection inside the tunnel.
//!
//! Pure. A record is a length (u16, of what follows it), a kind (u8) and fields, all integers big-endian. The format is
//! wardlink's own (docs: ARCHITECTURE.md, "The link"). It never trusts a length beyond the record, and an error names
//! no byte of a message.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

pub use super::cause::Cause;

/// The protocol version that this build speaks.
pub const VERSION: u8 = 1;
/// The bytes of a stream that either side may send before the first credit: enough for most messages.
pub const WINDOW_BYTES_INITIAL: u64 = 64 << 10;
/// The payload of one DATA record, in bytes: small enough that streams take turns.
pub const DATA_BYTES_MAX: usize = 16 << 10;
/// The bytes of a record before its fields: length and kind.
const PREFIX_BYTES: usize = 3;
/// Streams in one RESUME record: 16 bytes each, so that it stays below 64 KiB.
pub const RESUME_STREAMS_MAX: usize = 4000;
const MAGIC: [u8; 4] = *b"WLNK";

/// Numbers a stream on the wire, from 1, never twice: 64 bits do not run out.
pub type StreamId = u64;

/// Identifies one start of a site, random and new each time (8 bytes), and one of its links (8 bytes; 0 at the far side).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance(pub [u8; 16]);

impl Instance {
    /// Joins the number of a start of the site and that of one of its links.
    pub fn new(start: u64, link: u64) -> Self {
        let mut bytes = [0; 16];
        for (byte, value) in bytes.iter_mut().zip(start.to_be_bytes().into_iter().chain(link.to_be_bytes())) {
            *byte = value;
        }
        Self(bytes)
    }

    /// Tells whether two links are of one start of a site.
    pub fn is_same_start(&self, other: &Self) -> bool {
        self.0.first_chunk::<8>() == other.0.first_chunk::<8>()
    }
}

/// Tells how a receiver is, as far as the site before it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverState {
    /// Nothing was tried yet.
    Unknown,
    /// It took the last connection.
    Up,
    /// It did not, because of this.
    Down(Cause),
}

/// Is what the near site says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Is the lowest protocol version that it speaks.
    pub version_min: u8,
    /// Is the highest.
    pub version_max: u8,
    /// Is reserved for what later versions can do beyond the version; unknown bits are ignored.
    pub capabilities: u32,
    /// Identifies its start, and the link.
    pub instance: Instance,
    /// Says how long streams are kept while the link is down, in milliseconds.
    pub linger_ms: u32,
    /// Names the site.
    pub site: String,
    /// Names the forward.
    pub forward: String,
    /// Names the service that it wants.
    pub service: String,
}

/// Is what the far site answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Is the version that both speak from now on.
    pub version: u8,
    /// Is reserved, as in [`Hello`].
    pub capabilities: u32,
    /// Identifies its start.
    pub instance: Instance,
    /// Tells that it still has the streams of this forward: they may be resumed.
    pub resumed: bool,
    /// Names the site.
    pub site: String,
}

/// Is one record. `Data` has no `Debug`, so that no byte of a message gets into a log.
#[derive(Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// Begins a link, near to far.
    Hello(Hello),
    /// Accepts it.
    Welcome(Welcome),
    /// Refuses it.
    Refuse(Cause),
    /// Lists the streams that this side has, with the offset up to which it received each.
    Resume {
        /// Tells that no further list follows.
        last: bool,
        /// Is the highest stream that the far side ever saw opened; 0 from the near side.
        opened_through: StreamId,
        /// Lists stream and offset.
        streams: Vec<(StreamId, u64)>,
    },
    /// Opens a stream, near to far; its data may follow at once.
    Open(StreamId),
    /// Tells that the receiver is connected.
    Accept(StreamId),
    /// Carries bytes of a stream from an offset on.
    Data {
        /// Is the stream.
        stream: StreamId,
        /// Is the offset of the first byte.
        offset: u64,
        /// Is the offset up to which this side received the stream.
        ack: u64,
        /// Is what is carried.
        bytes: &'a [u8],
    },
    /// Ends one direction of a stream; it counts as one byte at its offset.
    Fin {
        /// Is the stream.
        stream: StreamId,
        /// Is the offset of the end.
        offset: u64,
        /// As in `Data`.
        ack: u64,
    },
    /// Ends both directions of a stream.
    Reset {
        /// Is the stream.
        stream: StreamId,
        /// Says why.
        cause: Cause,
    },
    /// Lets the other side send further.
    Credit {
        /// Is the stream.
        stream: StreamId,
        /// As in `Data`.
        ack: u64,
        /// Is the offset up to which the other side may send.
        limit: u64,
    },
    /// Asks for an echo.
    Ping(u64),
    /// Is the echo.
    Pong(u64),
    /// Tells how the receiver is, far to near.
    Receiver(ReceiverState),
}

/// Says why bytes are no record.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// A record is shorter than its fields.
    #[error("a link record of kind {0} is too short")]
    Truncated(u8),
    /// A kind is not known.
    #[error("a link record of unknown kind {0}")]
    UnknownKind(u8),
    /// The other end does not speak this protocol.
    #[error("the other end of the link is not wardlink")]
    BadMagic,
    /// A name is not text.
    #[error("a name in a link record is not text")]
    BadText,
}

/// Appends a record.
pub fn encode(record: &Record<'_>, out: &mut BytesMut) {
    let start = out.len();
    out.put_u16(0);
    encode_fields(record, out);
    let length = u16::try_from(out.len() - start - 2).unwrap_or(u16::MAX);
    if let Some(prefix) = out.get_mut(start..start + 2) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
}

fn encode_fields(record: &Record<'_>, out: &mut BytesMut) {
    match record {
        Record::Hello(hello) => {
            out.put_u8(1);
            out.put_slice(&MAGIC);
            out.put_slice(&[hello.version_min, hello.version_max]);
            out.put_u32(hello.capabilities);
            out.put_slice(&hello.instance.0);
            out.put_u32(hello.linger_ms);
            for text in [&hello.site, &hello.forward, &hello.service] {
                put_text(text, out);
            }
        }
        Record::Welcome(welcome) => {
            out.put_u8(2);
            out.put_slice(&MAGIC);
            out.put_u8(welcome.version);
            out.put_u32(welcome.capabilities);
            out.put_slice(&welcome.instance.0);
            out.put_u8(u8::from(welcome.resumed));
            put_text(&welcome.site, out);
        }
        Record::Refuse(cause) => out.put_slice(&[3, *cause as u8]),
        Record::Resume { last, opened_through, streams } => {
            out.put_slice(&[4, u8::from(*last)]);
            out.put_u64(*opened_through);
            for (stream, offset) in streams.iter().take(RESUME_STREAMS_MAX) {
                out.put_u64(*stream);
                out.put_u64(*offset);
            }
        }
        Record::Open(stream) => put_stream(5, *stream, out),
        Record::Accept(stream) => put_stream(6, *stream, out),
        Record::Data { stream, offset, ack, bytes } => {
            put_stream(7, *stream, out);
            out.put_u64(*offset);
            out.put_u64(*ack);
            out.put_slice(bytes);
        }
        Record::Fin { stream, offset, ack } => {
            put_stream(8, *stream, out);
            out.put_u64(*offset);
            out.put_u64(*ack);
        }
        Record::Reset { stream, cause } => {
            put_stream(9, *stream, out);
            out.put_u8(*cause as u8);
        }
        Record::Credit { stream, ack, limit } => {
            put_stream(10, *stream, out);
            out.put_u64(*ack);
            out.put_u64(*limit);
        }
        Record::Ping(token) => put_token(11, *token, out),
        Record::Pong(token) => put_token(12, *token, out),
        Record::Receiver(state) => {
            let (state, cause) = match state {
                ReceiverState::Unknown => (0, 0),
                ReceiverState::Up => (1, 0),
                ReceiverState::Down(cause) => (2, *cause as u8),
            };
            out.put_slice(&[13, state, cause]);
        }
    }
}

fn put_stream(kind: u8, stream: StreamId, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u64(stream);
}

fn put_token(kind: u8, token: u64, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u64(token);
}

/// Names are at most 63 bytes by the configuration; 255 is what the length byte holds.
fn put_text(text: &str, out: &mut BytesMut) {
    let bytes = text.as_bytes();
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.put_u8(length);
    out.put_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}

/// Reads the record at the front of `bytes` and returns it with its length, or `None` where it is not whole yet.
///
/// # Errors
/// The bytes are no record of this protocol.
pub fn decode(bytes: &[u8]) -> Result<Option<(Record<'_>, usize)>, WireError> {
    let Some([high, low]) = bytes.first_chunk::<2>() else { return Ok(None) };
    let whole = 2 + usize::from(u16::from_be_bytes([*high, *low]));
    if whole < PREFIX_BYTES {
        return Err(WireError::Truncated(0));
    }
    let Some(body) = bytes.get(2..whole) else { return Ok(None) };
    let mut fields = Fields { kind: body.first().copied().unwrap_or(0), rest: body.get(1..).unwrap_or(&[]) };
    Ok(Some((fields.record()?, whole)))
}

struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn record(&mut self) -> Result<Record<'a>, WireError> {
        Ok(match self.kind {
            1 => Record::Hello(self.hello()?),
            2 => {
                self.magic()?;
                Record::Welcome(Welcome {
                    version: self.byte()?,
                    capabilities: self.u32()?,
                    instance: Instance(self.chunk()?),
                    resumed: self.byte()? != 0,
                    site: self.text()?,
                })
            }
            3 => Record::Refuse(Cause::from_byte(self.byte()?)),
            4 => Record::Resume { last: self.byte()? != 0, opened_through: self.u64()?, streams: self.streams()? },
            5 => Record::Open(self.u64()?),
            6 => Record::Accept(self.u64()?),
            7 => Record::Data {
                stream: self.u64()?,
                offset: self.u64()?,
                ack: self.u64()?,
                bytes: std::mem::take(&mut self.rest),
            },
            8 => Record::Fin { stream: self.u64()?, offset: self.u64()?, ack: self.u64()? },
            9 => Record::Reset { stream: self.u64()?, cause: Cause::from_byte(self.byte()?) },
            10 => Record::Credit { stream: self.u64()?, ack: self.u64()?, limit: self.u64()? },
            11 => Record::Ping(self.u64()?),
            12 => Record::Pong(self.u64()?),
            13 => Record::Receiver(match (self.byte()?, self.byte()?) {
                (1, _) => ReceiverState::Up,
                (2, cause) => ReceiverState::Down(Cause::from_byte(cause)),
                _ => ReceiverState::Unknown,
            }),
            kind => return Err(WireError::UnknownKind(kind)),
        })
    }

    fn hello(&mut self) -> Result<Hello, WireError> {
        self.magic()?;
        Ok(Hello {
            version_min: self.byte()?,
            version_max: self.byte()?,
            capabilities: self.u32()?,
            instance: Instance(self.chunk()?),
            linger_ms: self.u32()?,
            site: self.text()?,
            forward: self.text()?,
            service: self.text()?,
        })
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated(self.kind))?;
        self.rest = rest;
        Ok(*chunk)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.chunk().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.chunk().map(u64::from_be_bytes)
    }

    fn magic(&mut self) -> Result<(), WireError> {
        if self.chunk()? == MAGIC { Ok(()) } else { Err(WireError::BadMagic) }
    }

    fn text(&mut self) -> Result<String, WireError> {
        let length = usize::from(self.byte()?);
        let (text, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated(self.kind))?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).map_err(|_| WireError::BadText)
    }

    fn streams(&mut self) -> Result<Vec<(StreamId, u64)>, WireError> {
        let mut streams = Vec::with_capacity(self.rest.len() / 16);
        while !self.rest.is_empty() {
            streams.push((self.u64()?, self.u64()?));
        }
        Ok(streams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(record: &Record<'_>) {
        let mut bytes = BytesMut::new();
        encode(record, &mut bytes);
        for cut in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..cut]), Ok(None)), "waits for the whole record");
        }
        let (decoded, length) = decode(&bytes).unwrap().unwrap();
        assert!(decoded == *record);
        assert_eq!(length, bytes.len());
    }

    #[test]
    fn every_record_comes_back_as_it_went() {
        let instance = Instance([7; 16]);
        round_trip(&Record::Hello(Hello {
            version_min: 1,
            version_max: 2,
            capabilities: 3,
            instance,
            linger_ms: 40_000,
            site: "north-hospital".to_owned(),
            forward: "orders".to_owned(),
            service: "lab-orders".to_owned(),
        }));
        let site = "city-lab".to_owned();
        round_trip(&Record::Welcome(Welcome { version: 1, capabilities: 0, instance, resumed: true, site }));
        for cause in Cause::ALL {
            round_trip(&Record::Refuse(cause));
            round_trip(&Record::Reset { stream: 9, cause });
            round_trip(&Record::Receiver(ReceiverState::Down(cause)));
        }
        round_trip(&Record::Receiver(ReceiverState::Up));
        round_trip(&Record::Receiver(ReceiverState::Unknown));
        let streams = (0..4000).map(|n| (n, n * 3)).collect();
        round_trip(&Record::Resume { last: true, opened_through: 4000, streams });
        round_trip(&Record::Open(1));
        round_trip(&Record::Accept(u64::MAX));
        round_trip(&Record::Data { stream: 1, offset: 2, ack: 3, bytes: &[0x0b, 0x1c, 0x0d] });
        round_trip(&Record::Fin { stream: 1, offset: u64::MAX, ack: 0 });
        round_trip(&Record::Credit { stream: 1, ack: 2, limit: 3 });
        round_trip(&Record::Ping(1));
        round_trip(&Record::Pong(u64::MAX));
    }

    #[test]
    fn a_foreign_protocol_is_named() {
        let mut bytes = BytesMut::new();
        encode(&Record::Ping(0), &mut bytes);
        bytes[2] = 1; // a HELLO without the magic
        assert!(decode(&bytes).is_err_and(|error| error == WireError::BadMagic));
        assert!(decode(&[0, 1, 99]).is_err_and(|error| error == WireError::UnknownKind(99)));
        assert!(decode(&[0, 0]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((record, length))) = decode(&bytes) {
                prop_assert!(length <= bytes.len());
                let mut again = BytesMut::new();
                encode(&record, &mut again);
                let (decoded, _) = decode(&again).unwrap().unwrap();
                prop_assert!(decoded == record);
            }
        }
    }
}
