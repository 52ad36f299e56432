//! The socket to a receiver: a frame out without copying the message, bytes back in, and what its TCP has.
//!
//! It never waits by itself. What the kernel tells of a connection is `struct tcp_info` of linux/tcp.h.

use std::io::{self, IoSlice};

use nix::libc;
use nix::sys::socket::{GetSockOpt as _, sockopt};
use tokio::io::Interest;

use crate::mllp::frame::{CR, FS, VT};
use crate::tls::Socket;

/// Is how much is read at once, in bytes: an answer and more.
const READ_BYTES: usize = 4096;

/// Is what came of an attempt to move bytes.
pub(super) enum Moved<T> {
    /// Some were moved.
    Some(T),
    /// There is nothing left to move.
    All,
    /// None can be moved now.
    Blocked,
    /// The connection has ended.
    End,
}

/// Says what a connection is ready for.
pub(super) struct Readiness {
    pub(super) is_writable: bool,
}

/// Is a connection to a receiver.
pub(super) struct Connection {
    socket: Socket,
    /// Counts the bytes of the present frame that are written; none while nothing is sent.
    written: Option<usize>,
    is_written: bool,
    read: Box<[u8; READ_BYTES]>,
}

impl Connection {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, written: None, is_written: false, read: Box::new([0; READ_BYTES]) }
    }

    /// Begins a frame.
    pub(super) fn begin(&mut self) {
        (self.written, self.is_written) = (Some(0), false);
    }

    /// Tells whether the whole frame is written.
    pub(super) fn is_written(&self) -> bool {
        self.is_written
    }

    /// Writes more of the frame around `payload`.
    pub(super) fn write(&mut self, payload: &[u8]) -> Moved<usize> {
        let Some(written) = self.written else { return Moved::Blocked };
        let total = payload.len().saturating_add(3);
        let mut parts = [IoSlice::new(&[VT]), IoSlice::new(payload), IoSlice::new(&[FS, CR])];
        let mut parts = parts.as_mut_slice();
        IoSlice::advance_slices(&mut parts, written);
        match self.socket.try_write_vectored(parts) {
            Ok(bytes) if written.saturating_add(bytes) >= total => {
                (self.written, self.is_written) = (None, true);
                Moved::All
            }
            Ok(bytes) => {
                self.written = Some(written.saturating_add(bytes));
                Moved::Some(bytes)
            }
            Err(error) if is_passing(&error) => Moved::Blocked,
            Err(_) => Moved::End,
        }
    }

    /// Reads what came.
    pub(super) fn read(&mut self) -> Moved<&[u8]> {
        match self.socket.try_read(self.read.as_mut_slice()) {
            Ok(0) => Moved::End,
            Ok(bytes) => Moved::Some(self.read.get(..bytes).unwrap_or_default()),
            Err(error) if is_passing(&error) => Moved::Blocked,
            Err(_) => Moved::End,
        }
    }

    /// Waits until bytes can be read, or written where some are to be. Cancel-safe.
    pub(super) async fn ready(&self) -> Readiness {
        let interest =
            if self.written.is_some() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // What is wrong with it shows when it is read.
        let is_writable = self.socket.ready(interest).await.is_ok_and(|ready| ready.is_writable());
        Readiness { is_writable }
    }

    /// Tells whether the other end's TCP has all that was written.
    pub(super) fn is_drained(&self) -> bool {
        let counts = TcpInfo.get(self.socket.tcp());
        counts.is_ok_and(|counts| counts.unacked == 0 && counts.notsent_bytes == 0)
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Asks the kernel how a connection is.
#[derive(Clone, Copy)]
struct TcpInfo;

nix::getsockopt_impl!(TcpInfo, libc::IPPROTO_TCP, libc::TCP_INFO, Info, sockopt::GetStruct<Info>);

/// Is the begin of `struct tcp_info`, as far as Linux 4.6 has it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Info {
    begin: [u8; 8],
    timers_and_segments: [u32; 4],
    unacked: u32,
    counts: [u32; 19],
    rates_and_bytes: [u64; 4],
    segments: [u32; 2],
    notsent_bytes: u32,
    min_rtt: u32,
}
