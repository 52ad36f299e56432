//! The UDP sockets outside the tunnel, one a family, on one port.
//!
//! They carry WireGuard datagrams and nothing else. Fragmentation is allowed (PMTUDISC_DONT): over a 1492-byte hop no
//! full datagram arrived with DF set, all did without.

#![allow(unsafe_code)] // one block; the lint is denied outside tunnel/

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::TunnelError;
use super::peer::{DATAGRAM_BYTES_MAX, OVERHEAD_BYTES};
use super::thinning::{self, Thinning};
use crate::config::UdpOffload;

/// Is what the kernel may keep for us, in bytes: 5,000 full datagrams, so that a busy moment of ours costs none.
const SOCKET_BUFFER_BYTES: usize = 7 << 20;

/// Segments that the kernel takes in one call (UDP_MAX_SEGMENTS).
pub(super) const SEGMENTS_MAX: usize = 64;
/// The payload of an IPv4 datagram at the most, in bytes: what one call may carry, all segments together.
pub(super) const BATCH_BYTES_MAX: usize = 65_507;
/// Room for what comes beside a datagram: the length of its segments and the address that it came to.
const CONTROL_BYTES: usize = 128;

/// Says where datagrams go, and which of this host's addresses they leave from, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    /// Is the peer's address.
    pub to: SocketAddr,
    /// Is the address that the peer spoke to: its answers come from there too, whatever the routes say.
    pub from: Option<IpAddr>,
}

/// After a refusal segments are tried again: the route or the interface may be another one by then.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Remembers whether the way to a peer takes several datagrams in one call.
#[derive(Debug, Default)]
pub(super) struct Segments(Mutex<Option<Instant>>);

impl Segments {
    /// Tells whether to try.
    pub(super) fn may_send(&self, now: Instant) -> bool {
        let refused = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_none_or(|at| now.duration_since(at) >= REFUSED_FOR)
    }

    /// Notes that the kernel refused them.
    pub(super) fn refused(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

/// Calls in a row whose datagrams are mostly not authentic, before the kernel is no more trusted to put them together:
/// a wire that spoils so many in a row carries nothing anyway.
const SPOILED_MAX: u32 = 8;
/// The probe of segments: three and a half of them, in bytes.
const PROBE_SEGMENT_BYTES: usize = 1200;
const PROBE_BYTES: usize = PROBE_SEGMENT_BYTES * 7 / 2;
/// The probe's datagrams are there at once, or never.
const PROBE_WITHIN: Duration = Duration::from_millis(200);

/// Is what one call brought: datagrams of one source and one length, the last may be shorter.
pub(super) struct Received {
    /// Counts all their bytes.
    pub bytes: usize,
    /// Is the length of one, in bytes.
    pub segment_bytes: usize,
    /// Is where they came from, and which address they came to.
    pub path: Path,
}

/// Sends and receives datagrams.
pub(super) struct Udp {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    port: u16,
    /// Tells whether several datagrams go in one call.
    sends_many: bool,
    /// Tells whether several datagrams come in one call.
    receives_many: AtomicBool,
    /// Counts such calls in a row that brought mostly spoiled datagrams.
    spoiled: AtomicU32,
}

impl Udp {
    /// Binds the port in both families; a host without IPv6 does with IPv4.
    ///
    /// # Errors
    /// The port is taken, or the mark needs a capability that is missing.
    pub(super) fn bind(port: u16, fwmark: u32, offload: UdpOffload) -> Result<Self, TunnelError> {
        let failed = |source| TunnelError::UdpBind { port, source };
        let v4 = open(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into(), fwmark).map_err(failed)?;
        let port = v4.local_addr().map_err(failed)?.port();
        let v6 = match open(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into(), fwmark) {
            Ok(socket) => Some(socket),
            Err(error) if is_without_ipv6(&error) => None,
            Err(source) => return Err(TunnelError::UdpBind { port, source }),
        };
        let mut udp = Self::new(v4, v6, port);
        if offload == UdpOffload::Auto && probe_segments() {
            udp.sends_many = true;
            udp.receives_many = udp.receive_many(true).is_ok().into();
        }
        Ok(udp)
    }

    fn loopback() -> io::Result<Self> {
        let v4 = open(Domain::IPV4, (Ipv4Addr::LOCALHOST, 0).into(), 0)?;
        let udp = Self::new(v4, None, 0);
        udp.receive_many(true)?;
        Ok(udp)
    }

    fn new(v4: UdpSocket, v6: Option<UdpSocket>, port: u16) -> Self {
        Self { v4, v6, port, sends_many: false, receives_many: false.into(), spoiled: 0.into() }
    }

    /// Marks what is sent from now on; 0 takes the mark away.
    ///
    /// # Errors
    /// A capability is missing.
    pub(super) fn set_mark(&self, fwmark: u32) -> io::Result<()> {
        self.sockets().try_for_each(|socket| socket2::SockRef::from(socket).set_mark(fwmark))
    }

    /// Returns the port, also where the kernel chose it.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Tells whether several datagrams go in one call.
    pub(super) fn sends_many(&self) -> bool {
        self.sends_many
    }

    /// Tells whether several datagrams come in one call.
    pub(super) fn receives_many(&self) -> bool {
        self.receives_many.load(Ordering::Relaxed)
    }

    fn receive_many(&self, many: bool) -> nix::Result<()> {
        self.sockets().try_for_each(|socket| setsockopt(socket, sockopt::UdpGroSegment, &many))
    }

    /// Notes how many of several datagrams that came in one call were not authentic: a kernel that spoils what it puts
    /// together gets no more to put together. Who forges such datagrams gains no more than that.
    pub(super) fn note_spoiled(&self, datagrams: usize, not_authentic: usize) {
        if not_authentic * 2 <= datagrams {
            self.spoiled.store(0, Ordering::Relaxed);
        } else if self.spoiled.fetch_add(1, Ordering::Relaxed) + 1 == SPOILED_MAX && self.receive_many(false).is_ok() {
            self.receives_many.store(false, Ordering::Relaxed);
            tracing::warn!("datagrams that came in one call were spoiled; they are received one by one from now on");
        }
    }

    /// Sends one datagram, or several of `segment_bytes` in one call, the last may be shorter.
    ///
    /// # Errors
    /// What the kernel says; the datagrams are then lost, as any datagram may be. EINVAL: `path.from` is no address of
    /// this host any more, or the kernel cannot send segments that way.
    pub(super) fn send(&self, datagrams: &[u8], segment_bytes: usize, path: Path) -> io::Result<()> {
        let socket = match path.to {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?,
        };
        let segment = u16::try_from(segment_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (v4, v6) = (path.from.and_then(source_v4), path.from.and_then(source_v6));
        let source = match (&v4, &v6) {
            (Some(info), _) if path.to.is_ipv4() => Some(ControlMessage::Ipv4PacketInfo(info)),
            (_, Some(info)) if path.to.is_ipv6() => Some(ControlMessage::Ipv6PacketInfo(info)),
            _ => None,
        };
        let segments = (datagrams.len() > segment_bytes).then_some(ControlMessage::UdpGsoSegments(&segment));
        let to = SockaddrStorage::from(path.to);
        let data = [IoSlice::new(datagrams)];
        let fd = socket.as_raw_fd();
        let none = MsgFlags::empty();
        match (segments, source) {
            (None, None) => sendmsg(fd, &data, &[], none, Some(&to)),
            (Some(one), None) | (None, Some(one)) => sendmsg(fd, &data, &[one], none, Some(&to)),
            (Some(segments), Some(source)) => sendmsg(fd, &data, &[segments, source], none, Some(&to)),
        }
        .map(|_| ())
        .map_err(io::Error::from)
    }

    /// Returns the socket of IPv4.
    pub(super) fn v4(&self) -> &UdpSocket {
        &self.v4
    }

    /// Returns the socket of IPv6, where the host has it.
    pub(super) fn v6(&self) -> Option<&UdpSocket> {
        self.v6.as_ref()
    }

    /// Lets the kernel drop a part of the initiations from now on.
    ///
    /// # Errors
    /// The kernel takes no filter; every datagram then arrives.
    pub(super) fn thin(&self, thinning: Thinning) -> io::Result<()> {
        self.sockets().try_for_each(|socket| thinning::apply(socket, thinning))
    }

    fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        std::iter::once(&self.v4).chain(&self.v6)
    }
}

/// Counts the full packets that one call carries.
pub(super) fn segments_max(mtu_bytes: usize) -> u32 {
    let fit = BATCH_BYTES_MAX / (mtu_bytes + OVERHEAD_BYTES);
    u32::try_from(fit.clamp(1, SEGMENTS_MAX)).unwrap_or(1)
}

/// Receives what waits on a socket.
///
/// # Errors
/// `WouldBlock`; anything else says something of an earlier datagram, and nothing of the next.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0u8; CONTROL_BYTES];
    let mut data = [IoSliceMut::new(buffer)];
    let none = MsgFlags::empty();
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut data, Some(&mut control), none)?;
    let to = message.address.as_ref().and_then(socket_address).ok_or(io::ErrorKind::InvalidData)?;
    let mut received = Received { bytes: message.bytes, segment_bytes: message.bytes, path: Path { to, from: None } };
    for beside in message.cmsgs()? {
        match beside {
            ControlMessageOwned::UdpGroSegments(bytes) => {
                received.segment_bytes = usize::try_from(bytes).unwrap_or(0).clamp(1, message.bytes.max(1));
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                received.path.from = Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                received.path.from = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
    }
    Ok(received)
}

/// Sends a few segments over loopback and looks whether they arrive as they were: some kernels spoil them.
///
/// Where loopback is down nothing is learnt, and the kernel is trusted.
fn probe_segments() -> bool {
    let probe = || -> io::Result<bool> {
        let from = Udp::loopback()?;
        let to = Udp::loopback()?;
        let sent: Vec<u8> = (0..PROBE_BYTES).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
        let path = Path { to: to.v4.local_addr()?, from: None };
        from.send(&sent, PROBE_SEGMENT_BYTES, path)?;
        to.v4.set_nonblocking(false)?;
        to.v4.set_read_timeout(Some(PROBE_WITHIN))?;
        let mut arrived = Vec::new();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while arrived.len() < sent.len() {
            let received = receive(&to.v4, &mut buffer)?;
            arrived.extend_from_slice(buffer.get(..received.bytes).unwrap_or(&[]));
        }
        Ok(arrived == sent)
    };
    match probe() {
        Ok(right) => right,
        Err(error) => !is_refused_for_its_segments(&error),
    }
}

/// EIO: the interface cannot compute the checksums of segments. EINVAL and EMSGSIZE: they do not fit its MTU.
pub(super) fn is_refused_for_its_segments(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::from((address.ip(), address.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

fn source_v4(from: IpAddr) -> Option<libc::in_pktinfo> {
    let IpAddr::V4(from) = from else { return None };
    let unspecified = libc::in_addr { s_addr: 0 };
    let source = libc::in_addr { s_addr: u32::from(from).to_be() };
    Some(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: unspecified })
}

fn source_v6(from: IpAddr) -> Option<libc::in6_pktinfo> {
    let IpAddr::V6(from) = from else { return None };
    Some(libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 })
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

fn open(domain: Domain, address: SocketAddr, fwmark: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    if fwmark != 0 {
        socket.set_mark(fwmark)?;
    }
    widen_buffers(&socket);
    allow_fragments(&socket, address.ip())?;
    if domain == Domain::IPV6 {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Asks for large buffers, beyond the host's limit where that is permitted; smaller ones do no harm but cost datagrams.
fn widen_buffers(socket: &Socket) {
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES).ok();
    }
    if setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES).ok();
    }
}

fn allow_fragments(socket: &Socket, family: IpAddr) -> io::Result<()> {
    let (level, name, value) = match family {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
    };
    let value: libc::c_int = value;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the kernel reads `length` bytes of a
    // c_int that lives until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
