//! The framing of the demo's sender and receiver: MLLP release 1, `0B payload 1C 0D`.
//!
//! Stands outside wardlink, like the hospital's own systems; never looks into a payload.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const VT: u8 = 0x0b;
const FS: u8 = 0x1c;
const CR: u8 = 0x0d;

/// Bounds a frame: larger than any of the demo's.
const FRAME_BYTES_MAX: u64 = 16 << 20;

/// Is a connection that carries frames both ways.
pub(super) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects to a listener.
    ///
    /// # Errors
    /// As TCP.
    pub(super) async fn open(to: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(to).await?)
    }

    /// Takes over a connection.
    ///
    /// # Errors
    /// The socket is gone already.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// As TCP.
    pub(super) async fn write_frame(&mut self, payload: &[u8]) -> io::Result<()> {
        let frame = [&[VT], payload, &[FS, CR]].concat();
        self.0.write_all(&frame).await
    }

    /// Reads a frame and returns its payload, or `None` where the other side closed between two frames.
    ///
    /// # Errors
    /// As TCP; `InvalidData` where the bytes are not a frame.
    pub(super) async fn read_frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.0).take(FRAME_BYTES_MAX);
        limited.read_until(FS, &mut bytes).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        limited.read_until(CR, &mut bytes).await?;
        let payload = bytes.strip_prefix(&[VT]).and_then(|bytes| bytes.strip_suffix(&[FS, CR]));
        payload.map(|payload| Some(payload.to_vec())).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}
