//! What a carried connection stands on: a socket or a stream, behind one trait.
//!
//! It never waits by itself and holds no byte.

use std::io;
use std::net::Shutdown;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::stream_end::StreamEnd;
use super::streams::Moved;
use super::wire::Cause;

/// Is where bytes come from and go to.
pub trait Leg {
    /// Moves bytes out of the leg.
    fn try_read(&self, out: &mut [u8]) -> Moved;
    /// Moves bytes into the leg.
    fn try_write(&self, bytes: &[u8]) -> Moved;
    /// Ends the direction into the leg.
    fn finish(&self);
    /// Waits until `try_read` may succeed. Cancel-safe.
    fn readable(&self) -> impl Future<Output = ()> + Send;
    /// Waits until `try_write` may succeed. Cancel-safe.
    fn writable(&self) -> impl Future<Output = ()> + Send;
    /// Tells whether this is a receiver that cannot be reached now: what was written is held.
    fn is_held(&self) -> bool;
    /// Tells whether the other end of this leg sends no more, though bytes of it may still wait to be read.
    fn is_closing(&self) -> impl Future<Output = bool> + Send;
}

/// Is a TCP connection as a leg.
pub struct TcpLeg {
    tcp: TcpStream,
    broken: Cause,
}

impl TcpLeg {
    /// Wraps the connection of a sender.
    pub fn sender(tcp: TcpStream) -> Self {
        Self { tcp, broken: Cause::SenderGone }
    }

    /// Wraps the connection to a receiver.
    pub fn receiver(tcp: TcpStream) -> Self {
        Self { tcp, broken: Cause::ReceiverReset }
    }

    /// Returns the connection.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn moved(&self, result: io::Result<usize>) -> Moved {
        match result {
            Ok(bytes) => Moved::Bytes(bytes),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Moved::Blocked
            }
            Err(_) => Moved::Failed(self.broken),
        }
    }
}

impl Leg for TcpLeg {
    fn try_read(&self, out: &mut [u8]) -> Moved {
        match self.moved(self.tcp.try_read(out)) {
            Moved::Bytes(0) => Moved::End,
            moved => moved,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> Moved {
        self.moved(self.tcp.try_write(bytes))
    }

    fn finish(&self) {
        // A connection that is gone already has no direction left to end.
        SockRef::from(&self.tcp).shutdown(Shutdown::Write).ok();
    }

    async fn readable(&self) {
        self.tcp.readable().await.ok();
    }

    async fn writable(&self) {
        self.tcp.writable().await.ok();
    }

    fn is_held(&self) -> bool {
        false
    }

    async fn is_closing(&self) -> bool {
        self.tcp.ready(Interest::READABLE).await.is_ok_and(|ready| ready.is_read_closed())
    }
}

impl Leg for StreamEnd {
    fn try_read(&self, out: &mut [u8]) -> Moved {
        self.try_read(out)
    }

    fn try_write(&self, bytes: &[u8]) -> Moved {
        self.try_write(bytes)
    }

    fn finish(&self) {
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
