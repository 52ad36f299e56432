//! What the host's kernel sends into the tunnel leaves encrypted.
//!
//! It never answers for a peer, and never keeps a packet for later: what has no session waits in the peer's own queue.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::{Found, send, send_segments};
use crate::tunnel::drops::Drop;
use crate::tunnel::offload::{Split, VNET_HEADER_BYTES, VnetHeader, complete_checksum};
use crate::tunnel::packet::{IpPacket, UDP};
use crate::tunnel::peer::{BUFFER_BYTES, Peer, is_data, sealed_bytes};
use crate::tunnel::peers::{PeerEntry, Peers};
use crate::tunnel::udp::{BATCH_BYTES_MAX, Path, SEGMENTS_MAX};
use crate::tunnel::{Shared, TunnelError, tun};

/// Encrypts and sends what the kernel sends into the tunnel.
pub(super) struct Transmitter<'a> {
    shared: &'a Shared,
    buffer: Vec<u8>,
    batch: Batch,
}

impl<'a> Transmitter<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, buffer: vec![0; VNET_HEADER_BYTES + BUFFER_BYTES], batch: Batch::new() }
    }

    /// Handles what one read of the interface brings.
    pub(super) fn handle_interface(&mut self) -> Result<Found, TunnelError> {
        match self.shared.tun.read(&mut self.buffer) {
            Ok((header, packet_bytes)) => {
                self.handle_packet(&header, packet_bytes);
                Ok(Found::Something)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Found::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Found::Something),
            Err(error) if tun::is_gone(&error) => Err(self.shared.tun.deleted()),
            Err(source) => Err(TunnelError::InterfaceRead { name: self.shared.tun.name().to_owned(), source }),
        }
    }

    /// Sends what is left of the batch.
    pub(super) fn flush(&mut self) {
        self.batch.flush(self.shared);
    }

    /// Routes what was read, and encrypts it packet by packet into the batch.
    fn handle_packet(&mut self, header: &VnetHeader, packet_bytes: usize) {
        let shared = self.shared;
        let whole = VNET_HEADER_BYTES..VNET_HEADER_BYTES + packet_bytes;
        let bytes = self.buffer.get(whole.clone()).unwrap_or(&[]);
        let Some(packet) = IpPacket::parse(bytes) else {
            return shared.drops.count(Drop::Malformed);
        };
        let peers = shared.peers();
        let Some(entry) = peers.owner(packet.destination) else {
            shared.tell_unreachable(bytes);
            return shared.drops.count(Drop::NoPeer);
        };
        if is_our_own_datagram(shared, &peers, &packet) {
            return entry.drops.count(Drop::RoutingLoop);
        }
        let Some(path) = entry.path() else {
            shared.tell_unreachable(bytes);
            return entry.drops.count(Drop::NoEndpoint);
        };
        if packet.protocol == UDP {
            note_question(shared, &peers, entry, &packet);
        }
        self.batch.turn_to(shared, entry, path);
        if header.is_super_packet() {
            self.handle_super_packet(header, packet_bytes, entry);
        } else if let Some(packet) = self.buffer.get_mut(whole.clone()) {
            if complete_checksum(header, packet).is_none() {
                return entry.drops.count(Drop::Malformed);
            }
            self.batch.make_room(shared, sealed_bytes(packet_bytes, shared.mtu_bytes()));
            let sealed = self.batch.seal(&mut entry.lock(), &mut self.buffer, whole, shared.mtu_bytes());
            self.batch.send_aside(shared, sealed);
        }
    }

    fn handle_super_packet(&mut self, header: &VnetHeader, packet_bytes: usize, entry: &Arc<PeerEntry>) {
        let shared = self.shared;
        let Some((_, rest)) = self.buffer.split_at_mut_checked(VNET_HEADER_BYTES) else { return };
        let Some(mut split) = rest.get(..packet_bytes).and_then(|packet| Split::new(header, packet)) else {
            shared.tun.stop_splitting();
            return entry.drops.count(Drop::Malformed);
        };
        let sealed_bytes = sealed_bytes(split.packet_bytes_max(), shared.mtu_bytes());
        let mut is_done = false;
        while !is_done {
            self.batch.make_room(shared, sealed_bytes);
            let mut peer = entry.lock();
            let mut aside = None;
            while aside.is_none() && !is_done && self.batch.has_room(sealed_bytes) {
                match split.next(rest) {
                    Some(range) => aside = self.batch.seal(&mut peer, rest, range, shared.mtu_bytes()),
                    None => is_done = true,
                }
            }
            drop(peer);
            self.batch.send_aside(shared, aside);
        }
    }
}

/// Notes what this host itself asks a routed peer by UDP, so that the answer comes in.
fn note_question(shared: &Shared, peers: &Peers, entry: &PeerEntry, packet: &IpPacket<'_>) {
    let rules = entry.rules();
    let may_matter = rules.routed && !rules.host_access;
    if may_matter && (peers.addresses.contains(&packet.source) || shared.locals.now().contains(packet.source)) {
        entry.flows().handle_sent(packet, Instant::now());
    }
}

/// Tells whether a packet is a datagram of ours to some peer that the routes sent back into the tunnel.
fn is_our_own_datagram(shared: &Shared, peers: &Peers, packet: &IpPacket<'_>) -> bool {
    packet.udp_ports().is_some_and(|(source, destination)| {
        source == shared.udp().port() && peers.has_endpoint(SocketAddr::new(packet.destination, destination))
    })
}

/// Is what goes to one peer in one call: datagrams of one length, only the last is shorter.
struct Batch {
    buffer: Vec<u8>,
    filled: usize,
    segment_bytes: usize,
    segments: usize,
    is_closed: bool,
    to: Option<(Arc<PeerEntry>, Path)>,
}

impl Batch {
    fn new() -> Self {
        let buffer = vec![0; BATCH_BYTES_MAX + BUFFER_BYTES];
        Self { buffer, filled: 0, segment_bytes: 0, segments: 0, is_closed: false, to: None }
    }

    /// Goes on with a peer; what waits for another one is sent first.
    fn turn_to(&mut self, shared: &Shared, entry: &Arc<PeerEntry>, path: Path) {
        let is_same = self.to.as_ref().is_some_and(|(to, at)| Arc::ptr_eq(to, entry) && *at == path);
        if !is_same {
            self.flush(shared);
            self.to = Some((Arc::clone(entry), path));
        }
    }

    /// Tells whether a datagram of so many bytes can be added: not longer than those before, and the call can carry it.
    fn has_room(&self, sealed_bytes: usize) -> bool {
        let fits = self.filled + sealed_bytes <= BATCH_BYTES_MAX && self.segments < SEGMENTS_MAX;
        self.segments == 0 || (fits && !self.is_closed && sealed_bytes <= self.segment_bytes)
    }

    fn make_room(&mut self, shared: &Shared, sealed_bytes: usize) {
        if !self.has_room(sealed_bytes) {
            self.flush(shared);
        }
    }

    /// Encrypts a packet behind those before. A handshake message that comes of it stays out of the batch: returned is
    /// its length, it lies behind the batch.
    fn seal(&mut self, peer: &mut Peer, buffer: &mut [u8], packet: Range<usize>, mtu_bytes: usize) -> Option<usize> {
        let out = self.buffer.get_mut(self.filled..)?;
        let datagram = peer.handle_outgoing(buffer, packet, mtu_bytes, out)?;
        if !is_data(datagram) {
            return Some(datagram.len());
        }
        if self.segments == 0 {
            self.segment_bytes = datagram.len();
        }
        self.is_closed = datagram.len() != self.segment_bytes;
        self.filled += datagram.len();
        self.segments += 1;
        None
    }

    /// Sends the handshake message that [`Batch::seal`] left behind the batch.
    fn send_aside(&mut self, shared: &Shared, datagram_bytes: Option<usize>) {
        let Some(datagram) = datagram_bytes.and_then(|bytes| self.buffer.get(self.filled..self.filled + bytes)) else {
            return;
        };
        if let Some((entry, path)) = &self.to {
            send(shared, entry, datagram, *path);
        }
    }

    fn flush(&mut self, shared: &Shared) {
        if let (Some((entry, path)), Some(datagrams)) = (&self.to, self.buffer.get(..self.filled))
            && self.filled > 0
        {
            send_segments(shared, entry, datagrams, self.segment_bytes, *path);
        }
        (self.filled, self.segments, self.is_closed) = (0, 0, false);
    }
}
