//! The socket of wg(8): `wg show`, `wg set`, `wg syncconf` and the like speak to the running tunnel.
//!
//! What is set lives until the next reload, and is seen in the status. It never touches a route, and a peer that it adds
//! may do nothing here but ping. Whoever may open the socket (mode 0600) may read the private key, as with the kernel.
//! Protocol: <https://www.wireguard.com/xplatform/>.

mod answer;
mod apply;
mod fuzz;
mod request;
mod seats;
mod socket;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::TunnelError;
use super::change::Control;
pub(super) use answer::get;
pub(super) use apply::apply;
pub use fuzz::fuzz_uapi;
use request::Request;
pub(super) use request::Set;
use seats::{Seat, Seats};
use socket::Listener;

/// Bounds a request, in bytes: some thousand peers with all that they can have, tenfold.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Is what a request is first given room for, in bytes; it doubles.
const REQUEST_BYTES_FIRST: usize = 16 << 10;
/// A request is there within this, and its answer taken.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(5);
/// A request that is refused for want of a place is there within this: `wg` sends it at once.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// Limits the connections that are being refused at once; more are closed without a word.
const REFUSED_MAX: usize = 16;
/// `accept` failed, as for want of descriptors: it is tried again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says why a request is refused; nothing of it was done.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    /// It is not the protocol's.
    #[error("{what}")]
    Protocol { what: &'static str },
    /// A value is none that its key can have.
    #[error("{what}")]
    Invalid { what: &'static str },
    /// There would be too many.
    #[error("too many {what}")]
    TooMany { what: &'static str },
    /// The user has as many connections as it may have; they end soon.
    #[error("too many connections are open already")]
    Busy,
    /// The tunnel cannot be taken to it.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
}

impl Refusal {
    /// Refuses the value of a key.
    fn of(what: &'static str) -> Self {
        Self::Invalid { what }
    }

    /// Says it as errno(3) does.
    fn errno(&self) -> i32 {
        match self {
            Self::Protocol { .. } => libc::EPROTO,
            Self::Invalid { .. } => libc::EINVAL,
            Self::TooMany { .. } => libc::E2BIG,
            Self::Busy => libc::EBUSY,
            Self::Tunnel(TunnelError::UdpBind { source, .. } | TunnelError::Mark { source }) => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            Self::Tunnel(_) => libc::EIO,
        }
    }
}

/// Offers the socket; a site whose socket cannot be bound does without, and says so.
pub(super) fn offer(control: Arc<Control>, path: &Path) -> Option<tokio::task::AbortHandle> {
    match Listener::bind(path) {
        Ok(listener) => Some(tokio::spawn(serve(listener, control)).abort_handle()),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(path = %path.display(), error, "wg(8) cannot reach this tunnel");
            None
        }
    }
}

/// Serves for ever; the socket's file goes when this is dropped.
async fn serve(listener: Listener, control: Arc<Control>) {
    let mut seats = Seats::default();
    let (mut connections, mut refused) = (JoinSet::new(), JoinSet::new());
    loop {
        while connections.try_join_next().is_some() {}
        while refused.try_join_next().is_some() {}
        // Whether there is a place or not: what waits in the kernel's queue keeps everybody out.
        match listener.accept().await {
            Ok(stream) => match stream.peer_cred().map(|user| seats.take(user.uid())) {
                Ok(Some(seat)) => {
                    let control = Arc::clone(&control);
                    let held = Arc::clone(&seat);
                    let task = connections.spawn(async move { converse(stream, &held, &control).await });
                    seats.note(&seat, task);
                }
                Ok(None) if refused.len() < REFUSED_MAX => {
                    refused.spawn(refuse(stream));
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a connection of wg(8) failed"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of wg(8)");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says that there is no place, once it is asked: `wg` writes first, and how it reads the answer depends on what it asked.
async fn refuse(mut stream: UnixStream) {
    let mut read = Zeroizing::new(Vec::new());
    let request = tokio::time::timeout(REFUSED_WITHIN, read_request(&mut stream, &mut read)).await;
    if let Ok(Ok(Some(request))) = request {
        let answer = answer::refused(&request, &Refusal::Busy);
        tokio::time::timeout(REFUSED_WITHIN, stream.write_all(answer.as_bytes())).await.ok();
    }
}

/// Answers one request after the other, until the other side closes or takes too long.
async fn converse(mut stream: UnixStream, seat: &Seat, control: &Control) {
    let mut read = Zeroizing::new(Vec::new());
    make_room(&mut read);
    let first = tokio::time::timeout(EXCHANGE_WITHIN, stream.read_buf(&mut *read)).await;
    // Who stays silent has no place of its own; from here on it has, until this ends.
    let (Ok(Ok(1..)), Some(_place)) = (first, seat.speak()) else { return };
    loop {
        let request = tokio::time::timeout(EXCHANGE_WITHIN, read_request(&mut stream, &mut read)).await;
        let answer = match request {
            Ok(Ok(Some(request))) => answer(&request, control).await,
            Ok(Err(refusal)) => Zeroizing::new(answer::refused(&[], &refusal)),
            Ok(Ok(None)) | Err(_) => return,
        };
        let written = tokio::time::timeout(EXCHANGE_WITHIN, stream.write_all(answer.as_bytes())).await;
        if !matches!(written, Ok(Ok(()))) || read.len() > REQUEST_BYTES_MAX {
            return;
        }
    }
}

async fn answer(request: &[u8], control: &Control) -> Zeroizing<String> {
    let result = match request::parse(request) {
        Ok(Request::Get) => return control.get().await,
        Ok(Request::Set(set)) => control.set(set).await,
        Err(refusal) => Err(refusal),
    };
    Zeroizing::new(match result {
        Ok(()) => answer::done().to_owned(),
        Err(refusal) => {
            let error = &refusal as &dyn std::error::Error;
            tracing::warn!(error, "refused what wg(8) asked for; nothing has changed");
            answer::refused(request, &refusal)
        }
    })
}

/// Reads on until a request is whole, and takes it out of what was read; `None`: the other side has closed.
async fn read_request(
    stream: &mut UnixStream,
    read: &mut Zeroizing<Vec<u8>>,
) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
    let mut looked = 0;
    loop {
        if let Some((request_bytes, taken_bytes)) = request::find_end(read, looked) {
            let request = Zeroizing::new(read.get(..request_bytes).unwrap_or_default().to_vec());
            let rest = Zeroizing::new(read.get(taken_bytes..).unwrap_or_default().to_vec());
            *read = rest;
            return Ok(Some(request));
        }
        looked = read.len();
        if looked > REQUEST_BYTES_MAX {
            return Err(Refusal::TooMany { what: "bytes in a request" });
        }
        make_room(read);
        if !matches!(stream.read_buf(&mut **read).await, Ok(1..)) {
            return Ok(None);
        }
    }
}

/// Gives a buffer more room without leaving keys behind where it was.
fn make_room(read: &mut Zeroizing<Vec<u8>>) {
    if read.len() == read.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity((read.capacity() * 2).max(REQUEST_BYTES_FIRST)));
        larger.extend_from_slice(read);
        *read = larger;
    }
}
