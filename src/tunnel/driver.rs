//! The data thread of the tunnel, outside tokio: all that passes between the interface and the sockets passes here.
//!
//! Out: TUN read, route, split, encrypt, send. In: receive, decrypt, filter, join, TUN write. Between them time passes
//! for every peer. The lock on a peer's `Peer` is held for a batch and never across a system call. A batch ends when
//! nothing more is ready, never with a timer. The thread waits for its own descriptors and for nothing else.

mod receive;
mod transmit;

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::drops::Drop;
use super::peer::DATAGRAM_BYTES_MAX;
use super::peers::PeerEntry;
use super::udp::{Path, is_refused_for_its_segments};
use super::{Shared, TunnelError};
use receive::Receiver;
use transmit::Transmitter;

/// Reads of one descriptor before the others have their turn, at the most; each may bring 64 packets. A descriptor
/// that keeps up gets one read a turn: a second one would find nothing, and cost a system call.
const READS_MAX: usize = 16;

/// Ends the data thread, or lets it look at what has changed under it.
pub(super) struct Signal {
    event: EventFd,
    is_stopping: AtomicBool,
}

impl Signal {
    pub(super) fn new() -> Result<Self, TunnelError> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(TunnelError::poll)?;
        Ok(Self { event, is_stopping: AtomicBool::new(false) })
    }

    pub(super) fn wake(&self) {
        // full, it wakes as well
        self.event.write(1).ok();
    }

    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.wake();
    }

    fn is_stopping(&self) -> bool {
        self.event.read().ok();
        self.is_stopping.load(Ordering::Acquire)
    }
}

/// Runs the data thread until it is told to stop, or the interface is gone.
pub(super) fn run(shared: &Shared) -> Result<(), TunnelError> {
    let (mut receiver, mut transmitter) = (Receiver::new(shared), Transmitter::new(shared));
    let mut datagrams = vec![0u8; DATAGRAM_BYTES_MAX];
    let (mut turn_v4, mut turn_v6, mut turn_out) = (Turn::new(), Turn::new(), Turn::new());
    loop {
        let udp = shared.udp();
        let signal = &shared.signal;
        // The signal stands in for a family that the host lacks.
        let v6 = udp.v6().map_or_else(|| readable(&signal.event), readable);
        let mut waits = [readable(&signal.event), readable(udp.v4()), v6, readable(&shared.tun)];
        let until_tick = receiver.next_tick().saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        match poll(&mut waits, PollTimeout::try_from(until_tick).unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(TunnelError::poll(error)),
        }
        let [is_signalled, is_v4, is_v6, is_out] = waits.map(|wait| wait.any().unwrap_or(true));
        if is_signalled && signal.is_stopping() {
            return Ok(());
        }
        if is_v4 {
            turn_v4.take(|| receiver.handle_socket(udp.v4(), &mut datagrams))?;
        }
        if let Some(v6) = udp.v6().filter(|_| is_v6) {
            turn_v6.take(|| receiver.handle_socket(v6, &mut datagrams))?;
        }
        if is_out {
            turn_out.take(|| transmitter.handle_interface())?;
            transmitter.flush();
        }
        receiver.handle_time(Instant::now());
    }
}

/// Says whether a read found something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Something,
    Nothing,
}

/// Bounds the reads of a descriptor while others wait: more and more while it is never found empty, else one.
struct Turn(usize);

impl Turn {
    fn new() -> Self {
        Self(1)
    }

    fn take(&mut self, mut read: impl FnMut() -> Result<Found, TunnelError>) -> Result<(), TunnelError> {
        for _ in 0..self.0 {
            if read()? == Found::Nothing {
                self.0 = 1;
                return Ok(());
            }
        }
        self.0 = (self.0 * 2).min(READS_MAX);
        Ok(())
    }
}

/// Sends one datagram to a peer.
pub(super) fn send(shared: &Shared, entry: &PeerEntry, datagram: &[u8], path: Path) {
    send_segments(shared, entry, datagram, datagram.len(), path);
}

/// Sends datagrams of one length, the last may be shorter, in one call where the kernel can.
fn send_segments(shared: &Shared, entry: &PeerEntry, datagrams: &[u8], segment_bytes: usize, mut path: Path) {
    let is_batch = datagrams.len() > segment_bytes;
    let whole = !is_batch || (shared.udp().sends_many() && entry.segments().may_send(Instant::now()));
    let mut sent = if whole { send_whole(shared, entry, datagrams, segment_bytes, &mut path) } else { Ok(()) };
    if is_batch && (!whole || sent.as_ref().is_err_and(is_refused_for_its_segments)) {
        if whole {
            entry.segments().refused(Instant::now());
        }
        sent = Ok(());
        for datagram in datagrams.chunks(segment_bytes.max(1)) {
            sent = send_whole(shared, entry, datagram, datagram.len(), &mut path).and(sent);
        }
    }
    match sent {
        Ok(()) => entry.sent(datagrams.len()),
        Err(_) => entry.drops.count(Drop::SendFailed),
    }
}

/// Sends in one call; where the address of ours that the peer spoke to is gone, from whichever the routes choose.
fn send_whole(
    shared: &Shared,
    entry: &PeerEntry,
    datagrams: &[u8],
    segment_bytes: usize,
    path: &mut Path,
) -> io::Result<()> {
    let udp = shared.udp();
    match udp.send(datagrams, segment_bytes, *path) {
        Err(error) if path.from.is_some() && may_miss_its_source(&error) => {
            path.from = None;
            entry.forget_source();
            udp.send(datagrams, segment_bytes, *path)
        }
        sent => sent,
    }
}

/// A source address that this host has no more: EINVAL, or, where the routes went with it, as if there were no way.
fn may_miss_its_source(error: &io::Error) -> bool {
    let codes = [libc::EINVAL, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn readable<T: AsFd>(descriptor: &T) -> PollFd<'_> {
    PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)
}
