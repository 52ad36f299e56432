//! The two data threads of the tunnel, outside tokio, with no queue between them.
//!
//! TX: TUN read, route, encrypt, send. RX: receive, decrypt, filter, TUN write; and, between datagrams, the passing of
//! time for every peer. The lock on a peer's `Peer` is never held across a system call. Neither thread ever waits for
//! anything but its own descriptors.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::drops::Drop;
use super::filter::{self, Verdict};
use super::packet::{self, IpPacket};
use super::peer::{Action, Addressed, BUFFER_BYTES, DATAGRAM_BYTES_MAX};
use super::peers::{PeerEntry, Peers};
use super::{Shared, TunnelError};
use crate::config::PublicKey;

/// Peers' timers run this often, each tick a random part later (tunnel.md, 8 and 13).
const TICK_MIN: Duration = Duration::from_millis(100);
/// The random part of a tick.
const TICK_JITTER: Duration = Duration::from_millis(100);
/// Datagrams that one socket may bring before the other one and the timers have their turn.
const BATCH_DATAGRAMS: usize = 64;
/// RSTs a second that answer refused SYNs: enough for a person, too few for a scan to amplify.
const RESETS_PER_SECOND: u32 = 100;
/// A stranger's handshake is logged this often: enough to find a mistyped key, too few to fill a disk.
const STRANGER_EVERY: Duration = Duration::from_secs(60);
/// The limiter of handshakes counts by the second.
const SECOND: Duration = Duration::from_secs(1);

/// Runs the TX thread until `stop` is written, or the interface is gone.
pub(super) fn transmit(shared: &Shared, stop: &EventFd) -> Result<(), TunnelError> {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    let mut out = vec![0u8; BUFFER_BYTES];
    loop {
        match shared.tun.read(&mut buffer) {
            Ok(packet_bytes) => handle_outgoing(shared, &mut buffer, packet_bytes, &mut out),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut waits = [readable(&shared.tun), readable(stop)];
                poll(&mut waits, PollTimeout::NONE).map_err(TunnelError::poll)?;
                if is_ready(&waits[1]) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(TunnelError::InterfaceGone { source }),
        }
    }
}

fn handle_outgoing(shared: &Shared, buffer: &mut [u8], packet_bytes: usize, out: &mut [u8]) {
    let Some(packet) = buffer.get(..packet_bytes).and_then(IpPacket::parse) else {
        return shared.drops.count(Drop::Malformed);
    };
    let peers = shared.peers();
    let Some(entry) = peers.owner(packet.destination) else {
        return shared.drops.count(Drop::NoPeer);
    };
    if is_our_own_datagram(shared, &peers, &packet) {
        return entry.drops.count(Drop::RoutingLoop);
    }
    let Some(endpoint) = entry.endpoint() else {
        return entry.drops.count(Drop::NoEndpoint);
    };
    let mtu_bytes = usize::from(shared.mtu_bytes);
    let datagram = entry.lock().handle_outgoing(buffer, packet_bytes, mtu_bytes, out);
    if let Some(datagram) = datagram {
        send(shared, entry, datagram, endpoint);
    }
}

/// Tells whether a packet is a datagram of ours to some peer that the routes sent back into the tunnel.
fn is_our_own_datagram(shared: &Shared, peers: &Peers, packet: &IpPacket<'_>) -> bool {
    packet.udp_ports().is_some_and(|(source, destination)| {
        source == shared.udp.port() && peers.has_endpoint(SocketAddr::new(packet.destination, destination))
    })
}

/// Runs the RX thread until `stop` is written, or the interface is gone.
pub(super) fn receive(shared: &Shared, stop: &EventFd) -> Result<(), TunnelError> {
    let mut receiver = Receiver {
        shared,
        out: vec![0u8; BUFFER_BYTES],
        reset: vec![0u8; 64],
        next_tick: Instant::now(),
        next_second: Instant::now(),
        resets_left: RESETS_PER_SECOND,
        stranger_told: None,
    };
    let mut datagram = vec![0u8; DATAGRAM_BYTES_MAX];
    receiver.initiate_all();
    loop {
        let wait = receiver.next_tick.saturating_duration_since(Instant::now());
        let mut waits = vec![readable(stop)];
        waits.extend(shared.udp.sockets().map(readable));
        let timeout = PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut waits, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(TunnelError::poll(error)),
        }
        let ready: Vec<bool> = waits.iter().map(is_ready).collect();
        if ready.first() == Some(&true) {
            return Ok(());
        }
        for (socket, _) in shared.udp.sockets().zip(ready.iter().skip(1)).filter(|(_, ready)| **ready) {
            for _ in 0..BATCH_DATAGRAMS {
                match socket.recv_from(&mut datagram) {
                    Ok((bytes, source)) => receiver.handle_datagram(datagram.get(..bytes).unwrap_or(&[]), source)?,
                    // `WouldBlock` ends the batch; an error that an earlier datagram caused says nothing about the next.
                    Err(_) => break,
                }
            }
        }
        receiver.handle_time(Instant::now());
    }
}

struct Receiver<'a> {
    shared: &'a Shared,
    out: Vec<u8>,
    reset: Vec<u8>,
    next_tick: Instant,
    next_second: Instant,
    resets_left: u32,
    stranger_told: Option<Instant>,
}

impl Receiver<'_> {
    /// Begins a handshake with every peer whose endpoint is known: it may have been us who died (tunnel.md).
    fn initiate_all(&self) {
        for entry in self.shared.peers().all() {
            if entry.endpoint().is_some() {
                self.shared.greet(entry);
            }
        }
    }

    fn handle_datagram(&mut self, datagram: &[u8], source: SocketAddr) -> Result<(), TunnelError> {
        let shared = self.shared;
        let peers = shared.peers();
        let entry = match peers.identity.handle_datagram(source.ip(), datagram, &mut self.out) {
            Addressed::Key(key) => {
                let entry = peers.by_key(&key);
                if entry.is_none() {
                    self.tell_of_stranger(&key, source);
                }
                entry
            }
            Addressed::Index(index) => peers.by_index(index),
            Addressed::Cookie(cookie) => {
                shared.drops.count(Drop::UnderLoad);
                if shared.udp.send(cookie, source).is_err() {
                    shared.drops.count(Drop::SendFailed);
                }
                return Ok(());
            }
            Addressed::Refused(reason) => {
                shared.drops.count(reason);
                return Ok(());
            }
        };
        match entry {
            Some(entry) => self.handle_peer_datagram(&entry, datagram, source),
            None => {
                shared.drops.count(Drop::UnknownPeer);
                Ok(())
            }
        }
    }

    /// Names the key that knocks and is no peer's: most likely a mistyped one at the site that is being set up.
    fn tell_of_stranger(&mut self, key: &PublicKey, source: SocketAddr) {
        let now = Instant::now();
        if self.stranger_told.is_none_or(|told| now.duration_since(told) >= STRANGER_EVERY) {
            self.stranger_told = Some(now);
            tracing::warn!(public_key = %key, from = %source, "a handshake came with a key that is no peer's here");
        }
    }

    fn handle_peer_datagram(
        &mut self,
        entry: &Arc<PeerEntry>,
        datagram: &[u8],
        source: SocketAddr,
    ) -> Result<(), TunnelError> {
        let now = Instant::now();
        let random = self.shared.random();
        let received = entry.lock().handle_datagram(source.ip(), datagram, now, random, &mut self.out);
        if received.moves_endpoint {
            entry.heard(datagram.len(), source, now);
        }
        let begins_session = received.begins_session;
        let reset_bytes = match received.action {
            Action::None => None,
            Action::Refused(reason) => {
                entry.drops.count(reason);
                None
            }
            Action::Reply(reply) => {
                send(self.shared, entry, reply, source);
                None
            }
            Action::Packet(inner) => judge(self.shared, entry, inner, &mut self.reset)?,
        };
        if let Some(reset_bytes) = reset_bytes {
            self.send_reset(entry, reset_bytes);
        }
        if begins_session {
            entry.begin_session(SystemTime::now());
            self.drain(entry);
        }
        Ok(())
    }

    /// Encrypts and sends the RST that [`judge`] left, as far as this second's number of them goes.
    fn send_reset(&mut self, entry: &Arc<PeerEntry>, reset_bytes: usize) {
        let Some(endpoint) = entry.endpoint().filter(|_| self.resets_left > 0) else { return };
        self.resets_left -= 1;
        let mtu_bytes = usize::from(self.shared.mtu_bytes);
        let datagram = entry.lock().handle_outgoing(&mut self.reset, reset_bytes, mtu_bytes, &mut self.out);
        if let Some(datagram) = datagram {
            send(self.shared, entry, datagram, endpoint);
        }
    }

    /// Sends what waited for the session: a responder's packets would stall until its next one otherwise.
    fn drain(&mut self, entry: &Arc<PeerEntry>) {
        let Some(endpoint) = entry.endpoint() else { return };
        loop {
            let datagram = entry.lock().poll_queued(&mut self.out);
            match datagram {
                Some(datagram) => send(self.shared, entry, datagram, endpoint),
                None => return,
            }
        }
    }

    fn handle_time(&mut self, now: Instant) {
        if now >= self.next_second {
            self.next_second = now + SECOND;
            self.resets_left = RESETS_PER_SECOND;
            self.shared.peers().identity.handle_second();
        }
        if now < self.next_tick {
            return;
        }
        let jitter = self.shared.random() % u64::try_from(TICK_JITTER.as_micros()).unwrap_or(1);
        self.next_tick = now + TICK_MIN + Duration::from_micros(jitter);
        for entry in self.shared.peers().all() {
            let datagram = entry.lock().handle_tick(now, &mut self.out);
            if let (Some(datagram), Some(endpoint)) = (datagram, entry.endpoint()) {
                send(self.shared, entry, datagram, endpoint);
            }
        }
    }
}

/// Judges an inner packet and hands it to the interface, or leaves the RST that answers it in `reset`.
fn judge(
    shared: &Shared,
    entry: &Arc<PeerEntry>,
    inner: &[u8],
    reset: &mut [u8],
) -> Result<Option<usize>, TunnelError> {
    let dropped = |reason| {
        entry.drops.count(reason);
        Ok(None)
    };
    let Some(packet) = IpPacket::parse(inner) else { return dropped(Drop::Malformed) };
    let peers = shared.peers();
    match filter::judge(&packet, &entry.rules(), |address| shared.whose(&peers, address, entry)) {
        Verdict::Pass => match shared.tun.write(inner.get(..packet.total_bytes).unwrap_or(inner)) {
            Ok(()) => Ok(None),
            Err(source) if is_gone(&source) => Err(TunnelError::InterfaceGone { source }),
            Err(_) => dropped(Drop::InterfaceWrite),
        },
        Verdict::Drop(reason) => dropped(reason),
        Verdict::Reset(reason) => {
            entry.drops.count(reason);
            Ok(packet::reset_for(&packet, reset))
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV))
}

pub(super) fn send(shared: &Shared, entry: &PeerEntry, datagram: &[u8], to: SocketAddr) {
    match shared.udp.send(datagram, to) {
        Ok(()) => entry.sent(datagram.len()),
        Err(_) => entry.drops.count(Drop::SendFailed),
    }
}

fn readable<T: AsFd>(descriptor: &T) -> PollFd<'_> {
    PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)
}

fn is_ready(wait: &PollFd<'_>) -> bool {
    wait.any().unwrap_or(true)
}
