//! What a carried connection stands on: a socket or a stream, behind one trait.
//!
//! It never waits by itself and holds no byte.

use std::io;

use tokio::net::TcpStream;

use super::stream_end::StreamEnd;
use super::streams::Moved;
use super::wire::Cause;
use crate::tls::Socket;

/// Is where bytes come from and go to.
pub trait Leg {
    /// Moves bytes out of the leg.
    fn try_read(&self, out: &mut [u8]) -> Moved;
    /// Moves bytes into the leg.
    fn try_write(&self, bytes: &[u8]) -> Moved;
    /// Ends the direction into the leg, behind all that was written. Cancel-safe.
    fn finish(&self) -> impl Future<Output = ()> + Send;
    /// Waits until `try_read` may succeed. Cancel-safe.
    fn readable(&self) -> impl Future<Output = ()> + Send;
    /// Waits until `try_write` may succeed. Cancel-safe.
    fn writable(&self) -> impl Future<Output = ()> + Send;
    /// Tells whether this is a receiver that cannot be reached now: what was written is held.
    fn is_held(&self) -> bool;
    /// Tells whether the other end of this leg sends no more, though bytes of it may still wait to be read.
    fn is_closing(&self) -> impl Future<Output = bool> + Send;
}

/// Bounds what is moved without waiting before others have their turn, in reads.
const MOVES_MAX: u8 = 8;

/// Counts what was moved without waiting: all connections share a thread, and who sends without a pause would have it alone.
#[derive(Debug, Default)]
pub struct Turns(u8);

impl Turns {
    /// Takes note of a move; lets others have their turn where there were many.
    pub async fn moved(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 >= MOVES_MAX {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Takes note that others had their turn.
    pub fn waited(&mut self) {
        self.0 = 0;
    }
}

/// Is a TCP connection as a leg, with TLS or without.
pub struct TcpLeg {
    socket: Socket,
    broken: Cause,
}

impl TcpLeg {
    /// Wraps the connection of a sender.
    pub fn sender(socket: Socket) -> Self {
        Self { socket, broken: Cause::SenderGone }
    }

    /// Wraps the connection to a receiver.
    pub fn receiver(socket: Socket) -> Self {
        Self { socket, broken: Cause::ReceiverReset }
    }

    /// Returns the connection.
    pub fn tcp(&self) -> &TcpStream {
        self.socket.tcp()
    }

    fn moved(&self, result: io::Result<usize>) -> Moved {
        match result {
            Ok(bytes) => Moved::Bytes(bytes),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Moved::Blocked
            }
            Err(error) => {
                tracing::debug!(%error, whose = self.broken.code(), "a connection broke off");
                Moved::Failed(self.broken)
            }
        }
    }
}

impl Leg for TcpLeg {
    fn try_read(&self, out: &mut [u8]) -> Moved {
        match self.moved(self.socket.try_read(out)) {
            Moved::Bytes(0) => Moved::End,
            moved => moved,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> Moved {
        self.moved(self.socket.try_write(bytes))
    }

    async fn finish(&self) {
        self.socket.finish().await;
    }

    async fn readable(&self) {
        self.socket.readable().await;
    }

    async fn writable(&self) {
        self.socket.writable().await;
    }

    fn is_held(&self) -> bool {
        false
    }

    async fn is_closing(&self) -> bool {
        self.socket.is_closing().await
    }
}

impl Leg for StreamEnd {
    fn try_read(&self, out: &mut [u8]) -> Moved {
        self.try_read(out)
    }

    fn try_write(&self, bytes: &[u8]) -> Moved {
        self.try_write(bytes)
    }

    async fn finish(&self) {
        self.finish();
    }

    async fn readable(&self) {
        self.readable().await;
    }

    async fn writable(&self) {
        self.writable().await;
    }

    fn is_held(&self) -> bool {
        self.is_held()
    }

    async fn is_closing(&self) -> bool {
        std::future::pending().await
    }
}
