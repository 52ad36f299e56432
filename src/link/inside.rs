//! Where TCP connections inside the tunnel are opened and accepted: the one place, bound to the interface.
//!
//! Every socket here is bound to the tunnel interface and to an address of it (SO_BINDTODEVICE): without the interface
//! there is no connection, and no default route can take the plaintext elsewhere. Also the options that every leg gets,
//! inside or outside, so that a half-open connection is noticed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::owners::Owners;
use crate::tunnel::keys::KeyNews;

/// An idle connection is asked for life after so long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// It is asked again after so long, three times.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// The longest inner packet of these connections, in bytes: outside it has the 1280 that every IPv6 path takes (RFC 8200,
/// section 5), with 40 bytes of IPv6, 8 of UDP and 32 of WireGuard. No router then has to fragment it or to say that it
/// is too large, which many do not; and a multiple of 16 needs no padding.
const PACKET_BYTES_MAX: u32 = 1200;
/// What IPv4 or IPv6 and TCP put before the payload, in bytes; TCP's options come off the payload.
const HEADERS_BYTES_V4: u32 = 40;
const HEADERS_BYTES_V6: u32 = 60;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Speaks TCP inside the tunnel: the interface and this site's addresses on it.
#[derive(Debug, Clone)]
pub struct Inside {
    interface: String,
    addresses: Vec<IpAddr>,
    owners: Owners,
    keys: Option<KeyNews>,
}

impl Inside {
    /// Names the interface and the addresses to bind to, and who knows whose the others are.
    pub fn new(interface: &str, addresses: Vec<IpAddr>, owners: Owners) -> Self {
        Self { interface: interface.to_owned(), addresses, owners, keys: None }
    }

    /// Adds what links tell each other of new keys by.
    pub fn with_key_news(self, keys: KeyNews) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// Returns what links tell each other of new keys by, where they do.
    pub fn key_news(&self) -> Option<&KeyNews> {
        self.keys.as_ref()
    }

    /// Lists this site's addresses inside the tunnel.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Knows whose the addresses inside the tunnel are.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Opens a connection to an address inside the tunnel. Cancel-safe: a cancelled attempt leaves nothing.
    ///
    /// # Errors
    /// The connection is refused or unreachable, or the interface is gone. It waits for as long as TCP does.
    pub async fn connect(&self, to: SocketAddr, user_timeout: Duration) -> io::Result<TcpStream> {
        let from = self.addresses.iter().find(|address| address.is_ipv4() == to.is_ipv4());
        let from = from.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = self.socket(SocketAddr::new(*from, 0))?;
        tune(&socket, user_timeout)?;
        let tcp = TcpSocket::from_std_stream(socket.into()).connect(to).await?;
        // Seen: a connection whose attempt an ICMP error ended was said to be there, and broke at its first use.
        tcp.peer_addr()?;
        Ok(tcp)
    }

    /// Accepts connections on a port of one of this site's addresses inside the tunnel.
    ///
    /// # Errors
    /// The port is taken, or the interface is gone.
    pub fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.socket(at)?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    }

    fn socket(&self, at: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        socket.bind_device(Some(self.interface.as_bytes()))?;
        if at.port() != 0 {
            socket.set_reuse_address(true)?;
        }
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        let headers_bytes = if at.is_ipv6() { HEADERS_BYTES_V6 } else { HEADERS_BYTES_V4 };
        socket.set_tcp_mss(PACKET_BYTES_MAX - headers_bytes)?;
        socket.bind(&at.into())?;
        Ok(socket)
    }
}

/// Sets what every leg has: no delay, keepalive, and a bound on how long unacknowledged bytes wait.
///
/// # Errors
/// The kernel refuses an option.
pub fn tune<'a>(socket: impl Into<SockRef<'a>>, user_timeout: Duration) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(user_timeout))
}
