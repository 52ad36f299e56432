//! The UDP sockets outside the tunnel, one a family, on one port.
//!
//! They carry WireGuard datagrams and nothing else. Fragmentation is allowed (PMTUDISC_DONT): over a 1492-byte hop no
//! full datagram arrived with DF set, all did without.

#![allow(unsafe_code)] // one block; the lint is denied outside tunnel/

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::TunnelError;

/// Is what the kernel may keep for us, in bytes: 5,000 full datagrams, so that a busy moment of ours costs none.
const SOCKET_BUFFER_BYTES: usize = 7 << 20;

/// Sends and receives datagrams.
pub(super) struct Udp {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    port: u16,
}

impl Udp {
    /// Binds the port in both families; a host without IPv6 does with IPv4.
    ///
    /// # Errors
    /// The port is taken, or the mark needs a capability that is missing.
    pub(super) fn bind(port: u16, fwmark: u32) -> Result<Self, TunnelError> {
        let failed = |source| TunnelError::UdpBind { port, source };
        let v4 = open(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into(), fwmark).map_err(failed)?;
        let port = v4.local_addr().map_err(failed)?.port();
        let v6 = match open(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into(), fwmark) {
            Ok(socket) => Some(socket),
            Err(error) if is_without_ipv6(&error) => None,
            Err(source) => return Err(TunnelError::UdpBind { port, source }),
        };
        Ok(Self { v4, v6, port })
    }

    /// Returns the port, also where the kernel chose it.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// What the kernel says; the datagram is then lost, as any datagram may be.
    pub(super) fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let socket = match to {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?,
        };
        socket.send_to(datagram, to).map(|_| ())
    }

    /// Lists the sockets, for waiting on them and reading from them.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        std::iter::once(&self.v4).chain(&self.v6)
    }
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
