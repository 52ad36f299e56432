//! A local leg's socket as the libraries read and write it that speak HTTP over it.
//!
//! Holds nothing of its own. Cancel-safe as [`Socket`] is: what was blocked is offered again by who wrote it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::{Socket, is_passing};

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.try_read(out.initialize_unfilled()) {
                Ok(bytes) => {
                    out.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if is_passing(&error) => ready!(self.tcp().poll_read_ready(context))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(bytes) {
                Err(error) if is_passing(&error) => ready!(self.tcp().poll_write_ready(context))?,
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // what counts as written is with TCP
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Err(error) = self.try_finish() {
            if !is_passing(&error) {
                break;
            }
            ready!(self.tcp().poll_write_ready(context))?;
        }
        Poll::Ready(Ok(()))
    }
}
