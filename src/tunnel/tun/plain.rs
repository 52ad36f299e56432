//! The plain backend: one packet a system call, on any kernel that has TUN.
//!
//! The interface exists for as long as the descriptor is open: a process that dies leaves none behind.

#![allow(unsafe_code)] // one block; the lint is denied outside tunnel/

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use tun_tap::{Iface, Mode};

use super::super::TunnelError;

/// Is an open TUN interface.
pub struct Tun {
    interface: Iface,
}

impl Tun {
    /// Creates the interface.
    ///
    /// # Errors
    /// There is no /dev/net/tun, the name is taken, or CAP_NET_ADMIN is missing.
    pub fn create(name: &str) -> Result<Self, TunnelError> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TunnelError::NotPermitted { what: "create the TUN interface" },
            Some(libc::EBUSY) => TunnelError::InterfaceTaken { name: name.to_owned() },
            Some(libc::ENOENT | libc::ENODEV) => TunnelError::NoTunDevice { source },
            _ => TunnelError::InterfaceCreate { name: name.to_owned(), source },
        };
        let interface = Iface::without_packet_info(name, Mode::Tun).map_err(failed)?;
        interface.set_non_blocking().map_err(failed)?;
        Ok(Self { interface })
    }

    /// Reads one packet, or says that there is none now (`WouldBlock`).
    ///
    /// # Errors
    /// `WouldBlock`; anything else means that the interface is gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interface.recv(buffer)
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// The kernel took it for malformed, or the interface is down or gone.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        self.interface.send(packet).map(|_| ())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `interface`, which stays open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.interface.as_raw_fd()) }
    }
}
