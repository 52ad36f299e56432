//! What can go wrong with the tunnel, with the path, the name or the port that it went wrong with.
//!
//! It never holds a key or a byte of a packet.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Says why the tunnel does not start, or ended.
#[derive(Debug, Error)]
pub enum TunnelError {
    /// A capability is missing.
    #[error("not permitted to {what}: CAP_NET_ADMIN is missing")]
    NotPermitted {
        /// Says what for.
        what: &'static str,
    },
    /// The device is not open to this user.
    #[error("not permitted to open /dev/net/tun: it must be open to all, as udev leaves it (chmod 0666 /dev/net/tun)")]
    TunDeviceClosed,
    /// Another interface has the name.
    #[error("an interface named {name} exists already; choose another tunnel.interface or stop what made it")]
    InterfaceTaken {
        /// Is the name.
        name: String,
    },
    /// The kernel has no TUN.
    #[error("there is no /dev/net/tun; load the kernel module with `modprobe tun`")]
    NoTunDevice {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The kernel refuses to create the interface.
    #[error("cannot create the interface {name}")]
    InterfaceCreate {
        /// Is the name.
        name: String,
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The kernel has no super-packets for a TUN interface, and the configuration wants them.
    #[error("this kernel cannot offload a TUN interface; write backend: plain, or auto to take what works")]
    NoOffload {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The kernel refuses an address, a route or the MTU.
    #[error("cannot set {what} of the tunnel interface")]
    Interface {
        /// Says which.
        what: String,
        /// Says what the kernel said.
        source: Box<rtnetlink::Error>,
    },
    /// There is no netlink socket.
    #[error("cannot speak rtnetlink")]
    Netlink {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The UDP port cannot be bound.
    #[error("cannot bind UDP port {port} for WireGuard; choose another tunnel.listen_port or stop what uses it")]
    UdpBind {
        /// Is the port.
        port: u16,
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The mark of datagrams cannot be set.
    #[error("cannot set tunnel.fwmark")]
    Mark {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// A running tunnel cannot take this up.
    #[error("{what} cannot be changed while the site runs; restart it")]
    NeedsRestart {
        /// Names the setting.
        what: &'static str,
    },
    /// The data thread cannot be started or driven.
    #[error("cannot drive the data thread")]
    Threads {
        /// Says what the kernel said.
        source: io::Error,
    },
    /// There is no randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// Somebody else deleted the interface.
    #[error(
        "the interface {name} was deleted by somebody else, as by `ip link del`: the site ends, and makes it again at its \
         next start, which the systemd unit brings by itself; find who deletes it (`ip monitor link`), and leave it alone"
    )]
    InterfaceDeleted {
        /// Is the name.
        name: String,
    },
    /// The interface cannot be read.
    #[error("cannot read the interface {name}; `dmesg` may say why")]
    InterfaceRead {
        /// Is the name.
        name: String,
        /// Says what the kernel said.
        source: io::Error,
    },
    /// The data thread panicked.
    #[error("the data thread of the tunnel panicked")]
    Panicked,
    /// What is known of newer keys cannot be written.
    #[error("cannot keep the peers' new keys in {}", path.display())]
    Keys {
        /// Is the file.
        path: PathBuf,
        /// Says what the system said.
        source: io::Error,
    },
    /// The time of the latest handshake cannot be kept.
    #[error("cannot keep the time in {}", path.display())]
    Clock {
        /// Is the file.
        path: PathBuf,
        /// Says what the system said.
        source: io::Error,
    },
    /// The remembered endpoints cannot be read or written.
    #[error("cannot keep the peers' endpoints in {}", path.display())]
    Endpoints {
        /// Is the file.
        path: PathBuf,
        /// Says what the system said.
        source: io::Error,
    },
}

impl TunnelError {
    /// Writes the error and what is behind it on one line.
    pub(super) fn on_one_line(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    pub(super) fn poll(error: nix::errno::Errno) -> Self {
        Self::Threads { source: error.into() }
    }
}
