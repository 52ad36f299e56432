//! The two data threads of the tunnel, outside tokio, with no queue between them.
//!
//! TX: TUN read, route, split, encrypt, send. RX: receive, decrypt, filter, join, TUN write; and, between datagrams,
//! the passing of time for every peer. The lock on a peer's `Peer` is held for a batch and never across a system call.
//! A batch ends when nothing more is ready, never with a timer. Neither thread ever waits for anything but its own
//! descriptors.

mod receive;
mod transmit;

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::drops::Drop;
use super::peers::PeerEntry;
use super::udp::{Path, is_refused_for_its_segments};
use super::{Shared, TunnelError};

pub(super) use receive::receive;
pub(super) use transmit::help;

/// Says whose turn it is to read the interface.
pub(super) struct Turns {
    is_helped: AtomicBool,
    to_helper: EventFd,
    to_main: EventFd,
}

impl Turns {
    pub(super) fn new() -> Result<Self, TunnelError> {
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(TunnelError::poll);
        Ok(Self { is_helped: AtomicBool::new(false), to_helper: event()?, to_main: event()? })
    }

    fn is_helped(&self) -> bool {
        self.is_helped.load(Ordering::Acquire)
    }

    fn ask_for_help(&self) {
        self.is_helped.store(true, Ordering::Release);
        self.to_helper.write(1).ok();
    }

    fn give_back(&self) {
        self.is_helped.store(false, Ordering::Release);
        self.to_main.write(1).ok();
    }

    /// Lets the thread that receives look at the sockets anew: there are others.
    pub(super) fn wake(&self) {
        self.to_main.write(1).ok();
    }

    fn is_stopping(&self, stop: &EventFd) -> bool {
        poll(&mut [readable(stop)], PollTimeout::ZERO) == Ok(1)
    }
}

/// Waits until a descriptor is readable.
fn wait(waits: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<(), TunnelError> {
    match poll(waits, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(TunnelError::poll(error)),
    }
}

/// Sends one datagram to a peer.
pub(super) fn send(shared: &Shared, entry: &PeerEntry, datagram: &[u8], path: Path) {
    send_segments(shared, entry, datagram, datagram.len(), path);
}

/// Sends datagrams of one length, the last may be shorter, in one call where the kernel can.
fn send_segments(shared: &Shared, entry: &PeerEntry, datagrams: &[u8], segment_bytes: usize, mut path: Path) {
    let is_batch = datagrams.len() > segment_bytes;
    let whole = !is_batch || (shared.udp().has_segments() && entry.segments().may_send(Instant::now()));
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

fn is_ready(wait: &PollFd<'_>) -> bool {
    wait.any().unwrap_or(true)
}
