//! The link's records: what two wardlink sites say to each other over one TCP connection inside the tunnel.
//!
//! Pure. A record is a length (u16, of what follows it), a kind (u8) and fields, all integers big-endian. The format is
//! wardlink's own (docs: ARCHITECTURE.md, "The link"). It never trusts a length beyond the record, and an error names
//! no byte of a message.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

mod fields;
mod heads;

pub use super::cause::Cause;
pub(super) use fields::Fields;
pub(super) use heads::{Told, put_ping, told_in};

/// The protocol version that this build speaks.
pub const VERSION: u8 = 1;
/// The bytes of a stream that either side may send before the first credit: enough for most messages.
pub const WINDOW_BYTES_INITIAL: u64 = 64 << 10;
/// The payload of one DATA record, in bytes: small enough that streams take turns.
pub const DATA_BYTES_MAX: usize = 16 << 10;
/// Streams in one RESUME record: 16 bytes each, so that it stays below 64 KiB.
pub const RESUME_STREAMS_MAX: usize = 4000;
/// Is the capability of a link that carries stored records (`feed::wire`) after the greeting, in place of streams.
pub const CARRIES_STORED: u32 = 1;
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

/// Is what a site tells of a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverNews {
    /// Says how it is.
    pub state: ReceiverState,
    /// Is where it listens, as the far site's configuration has it; empty where that site does not tell.
    pub address: String,
    /// Is the release of MLLP that it speaks, by the far site's configuration; absent where that site does not tell.
    pub release: Option<u8>,
}

impl From<ReceiverState> for ReceiverNews {
    /// Tells neither address nor release.
    fn from(state: ReceiverState) -> Self {
        Self { state, address: String::new(), release: None }
    }
}

/// Is what the near site says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Is the lowest protocol version that it speaks.
    pub version_min: u8,
    /// Is the highest.
    pub version_max: u8,
    /// Says what it wants beyond the version, [`CARRIES_STORED`]; unknown bits are ignored.
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
    /// Says which of the capabilities in [`Hello`] it understands: what it does not say it does not do.
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
    Receiver(ReceiverNews),
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
    /// A field has a value that is not known.
    #[error("a link record of kind {0} with an unknown value")]
    UnknownValue(u8),
    /// A name is not text.
    #[error("a name in a link record is not text")]
    BadText,
}

/// Appends a record.
pub fn encode(record: &Record<'_>, out: &mut BytesMut) {
    put_record(out, |out| encode_fields(record, out));
}

/// Appends a record whose kind and fields `put` writes.
pub(super) fn put_record(out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u16(0);
    put(out);
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
        Record::Receiver(news) => {
            let (state, cause) = match news.state {
                ReceiverState::Unknown => (0, 0),
                ReceiverState::Up => (1, 0),
                ReceiverState::Down(cause) => (2, cause as u8),
            };
            out.put_slice(&[13, state, cause]);
            put_text(&news.address, out);
            out.extend(news.release);
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
    let Some((mut fields, whole)) = Fields::of_record(bytes)? else { return Ok(None) };
    Ok(Some((record(&mut fields)?, whole)))
}

fn record<'a>(fields: &mut Fields<'a>) -> Result<Record<'a>, WireError> {
    Ok(match fields.kind() {
        1 => Record::Hello(hello(fields)?),
        2 => {
            fields.magic()?;
            Record::Welcome(Welcome {
                version: fields.byte()?,
                capabilities: fields.u32()?,
                instance: Instance(fields.chunk()?),
                resumed: fields.byte()? != 0,
                site: fields.text()?,
            })
        }
        3 => Record::Refuse(Cause::from_byte(fields.byte()?)),
        4 => Record::Resume { last: fields.byte()? != 0, opened_through: fields.u64()?, streams: streams(fields)? },
        5 => Record::Open(fields.u64()?),
        6 => Record::Accept(fields.u64()?),
        7 => Record::Data { stream: fields.u64()?, offset: fields.u64()?, ack: fields.u64()?, bytes: fields.rest() },
        8 => Record::Fin { stream: fields.u64()?, offset: fields.u64()?, ack: fields.u64()? },
        9 => Record::Reset { stream: fields.u64()?, cause: Cause::from_byte(fields.byte()?) },
        10 => Record::Credit { stream: fields.u64()?, ack: fields.u64()?, limit: fields.u64()? },
        11 => Record::Ping(fields.u64()?),
        12 => Record::Pong(fields.u64()?),
        13 => Record::Receiver(receiver(fields)?),
        kind => return Err(WireError::UnknownKind(kind)),
    })
}

fn hello(fields: &mut Fields<'_>) -> Result<Hello, WireError> {
    fields.magic()?;
    Ok(Hello {
        version_min: fields.byte()?,
        version_max: fields.byte()?,
        capabilities: fields.u32()?,
        instance: Instance(fields.chunk()?),
        linger_ms: fields.u32()?,
        site: fields.text()?,
        forward: fields.text()?,
        service: fields.text()?,
    })
}

fn receiver(fields: &mut Fields<'_>) -> Result<ReceiverNews, WireError> {
    let state = match (fields.byte()?, fields.byte()?) {
        (1, _) => ReceiverState::Up,
        (2, cause) => ReceiverState::Down(Cause::from_byte(cause)),
        _ => ReceiverState::Unknown,
    };
    // An older site tells no address, or no release.
    let address = if fields.left() > 0 { fields.text()? } else { String::new() };
    let release = if fields.left() > 0 { Some(fields.byte()?) } else { None };
    Ok(ReceiverNews { state, address, release })
}

fn streams(fields: &mut Fields<'_>) -> Result<Vec<(StreamId, u64)>, WireError> {
    let mut streams = Vec::with_capacity(fields.left() / 16);
    while fields.left() > 0 {
        streams.push((fields.u64()?, fields.u64()?));
    }
    Ok(streams)
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
            round_trip(&Record::Receiver(ReceiverState::Down(cause).into()));
        }
        let address = "[fd98::1]:6661".to_owned();
        let (state, release) = (ReceiverState::Up, Some(2));
        round_trip(&Record::Receiver(ReceiverNews { state, address, release }));
        round_trip(&Record::Receiver(ReceiverState::Unknown.into()));
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
    fn a_receiver_is_told_of_without_an_address_by_an_older_site_and_with_one_to_it() {
        let older = [0, 3, 13, 2, Cause::ReceiverRefuses as u8];
        let news = ReceiverNews::from(ReceiverState::Down(Cause::ReceiverRefuses));
        assert!(decode(&older).unwrap().unwrap().0 == Record::Receiver(news.clone()));
        let mut bytes = BytesMut::new();
        encode(&Record::Receiver(ReceiverNews { address: "lab:6661".to_owned(), ..news }), &mut bytes);
        // What an older site reads stands where it was.
        assert_eq!(bytes[2..5], older[2..]);
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
