//! The socket to a receiver: a frame out without copying the message, bytes back in, and what its TCP has.
//!
//! It never waits by itself. What the kernel tells of a connection is `struct tcp_info` of linux/tcp.h.

use std::io::{self, IoSlice};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{GetSockOpt as _, sockopt};
use socket2::SockRef;
use tokio::io::Interest;

use crate::mllp::frame::Framing;
use crate::tls::Socket;

/// Is how much is read at once, in bytes: an answer and more.
const READ_BYTES: usize = 4096;
/// Bounds what is to be said between two frames, in bytes: a commit for each of some thousand messages of a receiver that
/// reads none of them.
const SAID_BYTES_MAX: usize = 16 << 10;

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
    framing: Framing,
    /// Goes out as soon as no frame is under way.
    said: Vec<u8>,
    /// Counts the bytes of the present frame that are written; none while nothing is sent.
    written: Option<usize>,
    is_written: bool,
    read: Box<[u8; READ_BYTES]>,
}

impl Connection {
    pub(super) fn new(socket: Socket, framing: Framing) -> Self {
        // What is not at the receiver when the connection ends, whoever ends it and be it by `kill -9`, never gets there: it
        // would come behind what was sent since. Where it fails the kernel goes on trying, as it does without.
        SockRef::from(socket.tcp()).set_linger(Some(Duration::ZERO)).ok();
        let read = Box::new([0; READ_BYTES]);
        Self { socket, framing, said: Vec::new(), written: None, is_written: false, read }
    }

    /// Takes whole frames to be written beside the messages.
    pub(super) fn say(&mut self, frames: &[u8]) {
        self.said.extend_from_slice(frames);
    }

    /// Begins a frame.
    pub(super) fn begin(&mut self) {
        (self.written, self.is_written) = (Some(0), false);
    }

    /// Tells whether the whole frame is written.
    pub(super) fn is_written(&self) -> bool {
        self.is_written
    }

    /// Writes what is to be said where no frame is under way; tells how that ended where it is not through.
    fn write_said(&mut self) -> Option<Moved<usize>> {
        if self.said.len() > SAID_BYTES_MAX {
            return Some(Moved::End);
        }
        while self.written.is_none_or(|written| written == 0) && !self.said.is_empty() {
            match self.socket.try_write_vectored(&[IoSlice::new(&self.said)]) {
                Ok(bytes) => drop(self.said.drain(..bytes)),
                Err(error) if is_passing(&error) => return Some(Moved::Blocked),
                Err(_) => return Some(Moved::End),
            }
        }
        None
    }

    /// Writes more of the frame around `payload`, and what is to be said.
    pub(super) fn write(&mut self, payload: &[u8]) -> Moved<usize> {
        if let Some(moved) = self.write_said() {
            return moved;
        }
        let Some(written) = self.written else { return Moved::Blocked };
        let (head, tail) = self.framing.around();
        let (head, tail) = (&head[..], tail.as_ref());
        let total = head.len().saturating_add(payload.len()).saturating_add(tail.len());
        let mut parts = [IoSlice::new(head), IoSlice::new(payload), IoSlice::new(tail)];
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
        let is_writing = self.written.is_some() || !self.said.is_empty();
        let interest = if is_writing { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
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

impl Drop for Connection {
    /// Ends in an orderly way where the receiver has all.
    fn drop(&mut self) {
        if self.is_drained() {
            SockRef::from(self.socket.tcp()).set_linger(None).ok();
        }
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
