//! The thread that carries the datagrams: sockets, a clock and nothing else; `fate` decides. Clients are told apart by
//! their address, and each has a socket of its own towards the other side, as behind a NAT.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};

use super::fate::{Counts, Fate, Lost, Way};
use super::spec::Ways;

/// Bounds the clients at once; the one that was silent for longest makes room.
const CLIENTS_MAX: usize = 256;

/// Bounds what is under way, in bytes: a second of a gigabit; what comes beyond is lost.
const HELD_BYTES_MAX: usize = 128 << 20;

/// Is the kernel's buffer of each socket, in bytes: what comes while this thread does something else.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Is the longest that one read brings, or one call carries, in bytes.
const BATCH_BYTES_MAX: usize = 65_507;

/// Bounds the datagrams of one call (the kernel's UDP_MAX_SEGMENTS).
const SEGMENTS_MAX: usize = 64;

/// Bounds the reads of one socket before others have their turn.
const READS_A_TURN: usize = 8;

/// Says between which addresses datagrams are carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// Is where clients send to.
    pub(crate) listen: SocketAddr,
    /// Is where their datagrams go.
    pub(crate) to: SocketAddr,
    /// Is a client that is known from the start, so that the other side may speak first.
    pub(crate) client: Option<SocketAddr>,
    /// Is the address that the first client's datagrams leave from.
    pub(crate) from: Option<SocketAddr>,
    /// Is the silence after which a client's socket is given up, as a NAT forgets.
    pub(crate) forget_after: Option<Duration>,
}

impl Route {
    /// Describes a way for whoever comes.
    pub(crate) fn new(listen: SocketAddr, to: SocketAddr) -> Self {
        Self { listen, to, client: None, from: None, forget_after: None }
    }
}

/// Is a running relay; it ends when dropped.
pub(crate) struct Relay {
    ways: Arc<Mutex<[Way; 2]>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts the thread, in the network namespace of the one that calls.
    pub(crate) fn start(route: Route, ways: Ways, seed: u64) -> io::Result<Self> {
        let ways = [Way::new(ways.there, seed), Way::new(ways.back, seed ^ 0x0b)];
        let ways = Arc::new(Mutex::new(ways));
        let stop = Arc::new(EventFd::new()?);
        let mut carrier = Carrier::new(route, Arc::clone(&ways))?;
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("impair".to_owned()).spawn(move || carrier.run(&stopped))?;
        Ok(Self { ways, stop, thread: Some(thread) })
    }

    /// Does something else to the datagrams from now on; what is under way stays under way.
    pub(crate) fn set(&self, ways: Ways) {
        let [there, back] = &mut *self.ways.lock().expect("nobody panics with it");
        there.set(ways.there);
        back.set(ways.back);
    }

    /// Counts what became of the packets, there and back.
    pub(crate) fn counts(&self) -> [Counts; 2] {
        self.ways.lock().expect("nobody panics with it").each_ref().map(Way::counts)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.stop.write(1).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    There,
    Back,
}

/// Is a datagram under way; the order is that of its arrival, then of its coming.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at: Duration,
    number: u64,
    direction: Direction,
    client: u64,
    bytes: Vec<u8>,
}

struct Client {
    address: SocketAddr,
    socket: UdpSocket,
    active_at: Duration,
}

struct Carrier {
    route: Route,
    ways: Arc<Mutex<[Way; 2]>>,
    listener: UdpSocket,
    clients: BTreeMap<u64, Client>,
    clients_ever: u64,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    held_ever: u64,
    began: Instant,
}

impl Carrier {
    fn new(route: Route, ways: Arc<Mutex<[Way; 2]>>) -> io::Result<Self> {
        let mut carrier = Self {
            route,
            ways,
            listener: open(route.listen)?,
            clients: BTreeMap::new(),
            clients_ever: 0,
            held: BinaryHeap::new(),
            held_bytes: 0,
            held_ever: 0,
            began: Instant::now(),
        };
        if let Some(client) = route.client {
            carrier.add_client(client, Duration::ZERO)?;
        }
        Ok(carrier)
    }

    fn run(&mut self, stop: &EventFd) {
        let mut buffer = vec![0; BATCH_BYTES_MAX + 1];
        loop {
            let due = self.held.peek().map(|Reverse(first)| first.at.saturating_sub(self.began.elapsed()));
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut waits = vec![readable(stop.as_fd()), readable(self.listener.as_fd())];
            waits.extend(self.clients.values().map(|client| readable(client.socket.as_fd())));
            if ppoll(&mut waits, due.map(TimeSpec::from), None).is_err() {
                continue; // a signal
            }
            let ready: Vec<bool> = waits.iter().map(|wait| wait.any().unwrap_or(true)).collect();
            if ready[0] {
                return;
            }
            if ready[1] {
                self.read_listener(&mut buffer);
            }
            let keys: Vec<u64> = self.clients.keys().copied().collect();
            for (key, _) in keys.into_iter().zip(&ready[2..]).filter(|(_, ready)| **ready) {
                self.read_client(key, &mut buffer);
            }
            self.send_due();
        }
    }

    fn read_listener(&mut self, buffer: &mut [u8]) {
        for _ in 0..READS_A_TURN {
            let Some((bytes, segment_bytes, from)) = receive(&self.listener, buffer) else { return };
            let now = self.began.elapsed();
            if let Some(client) = self.client_of(from, now) {
                self.decide(Direction::There, client, &buffer[..bytes], segment_bytes, now);
            }
        }
    }

    fn read_client(&mut self, key: u64, buffer: &mut [u8]) {
        for _ in 0..READS_A_TURN {
            let Some(client) = self.clients.get_mut(&key) else { return };
            let Some((bytes, segment_bytes, from)) = receive(&client.socket, buffer) else { return };
            let now = self.began.elapsed();
            let is_forgotten = self.route.forget_after.is_some_and(|limit| now - client.active_at > limit);
            // a NAT lets in only whom the client has spoken to
            if is_forgotten || from != self.route.to {
                continue;
            }
            client.active_at = now;
            self.decide(Direction::Back, key, &buffer[..bytes], segment_bytes, now);
        }
    }

    /// Finds a client by its address, or makes it one.
    fn client_of(&mut self, address: SocketAddr, now: Duration) -> Option<u64> {
        let known = self.clients.iter_mut().find(|(_, client)| client.address == address);
        if let Some((key, client)) = known {
            let silence = now - std::mem::replace(&mut client.active_at, now);
            if self.route.forget_after.is_none_or(|limit| silence <= limit) {
                return Some(*key);
            }
            let key = *key;
            self.clients.remove(&key);
        }
        if self.clients.len() >= CLIENTS_MAX {
            let oldest = self.clients.iter().min_by_key(|(_, client)| client.active_at).map(|(key, _)| *key)?;
            self.clients.remove(&oldest);
        }
        self.add_client(address, now).ok()
    }

    fn add_client(&mut self, address: SocketAddr, now: Duration) -> io::Result<u64> {
        let any = SocketAddr::new(unspecified(self.route.to), 0);
        let socket = match self.route.from.filter(|_| self.clients.is_empty()) {
            Some(from) => open(from)?,
            None => open(any)?,
        };
        self.clients_ever += 1;
        self.clients.insert(self.clients_ever, Client { address, socket, active_at: now });
        Ok(self.clients_ever)
    }

    /// Asks what becomes of each datagram that a read brought, and keeps what arrives.
    fn decide(&mut self, direction: Direction, client: u64, bytes: &[u8], segment_bytes: usize, now: Duration) {
        let ways = Arc::clone(&self.ways);
        let [there, back] = &mut *ways.lock().expect("nobody panics with it");
        let (way, end) = match direction {
            Direction::There => (there, self.route.listen),
            Direction::Back => (back, self.route.to),
        };
        let header_bytes = if end.is_ipv4() { 28 } else { 48 };
        // an empty datagram is one, too
        let count = bytes.len().div_ceil(segment_bytes.max(1)).max(1);
        for number in 0..count {
            let from = number * segment_bytes;
            let datagram = &bytes[from..(from + segment_bytes).min(bytes.len())];
            let fate = way.handle_packet(now, (datagram.len() + header_bytes) as u64);
            if let Fate::Arrives { at, copies, flip } = fate {
                for _ in 0..copies {
                    if !self.hold(direction, client, at, datagram, flip) {
                        way.lose(Lost::QueueFull);
                    }
                }
            }
        }
    }

    /// Keeps a datagram until it arrives, if there is room for it.
    fn hold(&mut self, direction: Direction, client: u64, at: Duration, datagram: &[u8], flip: Option<u64>) -> bool {
        if self.held_bytes + datagram.len() > HELD_BYTES_MAX {
            return false;
        }
        let mut bytes = datagram.to_vec();
        if let Some(bit) = flip.filter(|_| !bytes.is_empty()) {
            let bit = (bit % (bytes.len() as u64 * 8)) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        self.held_ever += 1;
        self.held_bytes += bytes.len();
        self.held.push(Reverse(Held { at, number: self.held_ever, direction, client, bytes }));
        true
    }

    /// Sends what has arrived; neighbours of one length in one call.
    fn send_due(&mut self) {
        let now = self.began.elapsed();
        while let Some(first) = self.next_due(|first| first.at <= now) {
            let (direction, client, segment_bytes) = (first.direction, first.client, first.bytes.len());
            let (mut batch, mut segments, mut is_open) = (first.bytes, 1, segment_bytes > 0);
            while is_open && segments < SEGMENTS_MAX {
                let fits = |next: &Held| {
                    let is_same = (next.direction, next.client) == (direction, client);
                    let has_room = batch.len() + next.bytes.len() <= BATCH_BYTES_MAX;
                    let joins = !next.bytes.is_empty() && next.bytes.len() <= segment_bytes;
                    next.at <= now && is_same && has_room && joins
                };
                let Some(next) = self.next_due(fits) else { break };
                is_open = next.bytes.len() == segment_bytes;
                batch.extend_from_slice(&next.bytes);
                segments += 1;
            }
            let Some(client) = self.clients.get(&client) else { continue };
            match direction {
                Direction::There => send(&client.socket, &batch, segment_bytes, self.route.to),
                Direction::Back => send(&self.listener, &batch, segment_bytes, client.address),
            }
        }
    }

    fn next_due(&mut self, is_wanted: impl FnOnce(&Held) -> bool) -> Option<Held> {
        self.held.peek().filter(|Reverse(next)| is_wanted(next))?;
        let Reverse(next) = self.held.pop()?;
        self.held_bytes -= next.bytes.len();
        Some(next)
    }
}

fn open(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM.nonblocking(), None)?;
    for set in [Socket::set_recv_buffer_size, Socket::set_send_buffer_size] {
        set(&socket, SOCKET_BUFFER_BYTES)?;
    }
    // beyond the host's limit where that is permitted
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES);
    let _ = setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES);
    // an old kernel hands over one by one
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    socket.bind(&at.into())?;
    Ok(socket.into())
}

fn unspecified(like: SocketAddr) -> std::net::IpAddr {
    if like.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// Reads what waits: its length, that of each datagram in it, and whose it is.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, usize, SocketAddr)> {
    let mut control = [0; 128];
    let mut data = [IoSliceMut::new(buffer)];
    let none = MsgFlags::empty();
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut data, Some(&mut control), none).ok()?;
    let from = message.address?;
    let from = from.as_sockaddr_in().map(|at| SocketAddr::V4((*at).into())).or_else(|| {
        let at = from.as_sockaddr_in6()?;
        Some(SocketAddr::V6((*at).into()))
    })?;
    let segment_bytes = message.cmsgs().ok()?.find_map(|beside| match beside {
        ControlMessageOwned::UdpGroSegments(bytes) => usize::try_from(bytes).ok(),
        _ => None,
    });
    let bytes = message.bytes;
    Some((bytes, segment_bytes.filter(|each| *each > 0).unwrap_or(bytes), from))
}

/// Sends; what the kernel refuses is lost, as any datagram may be.
fn send(socket: &UdpSocket, batch: &[u8], segment_bytes: usize, to: SocketAddr) {
    let data = [IoSlice::new(batch)];
    let segment = segment_bytes as u16;
    let to_address = SockaddrStorage::from(to);
    let segments = [ControlMessage::UdpGsoSegments(&segment)];
    let beside: &[ControlMessage<'_>] = if batch.len() > segment_bytes { &segments } else { &[] };
    let sent = sendmsg(socket.as_raw_fd(), &data, beside, MsgFlags::empty(), Some(&to_address));
    if sent.is_err() && batch.len() > segment_bytes {
        // the way there cannot take segments: one by one
        for datagram in batch.chunks(segment_bytes) {
            let _ = socket.send_to(datagram, to);
        }
    }
}

#[cfg(test)]
mod tests;
