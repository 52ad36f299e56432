//! The TUN interface: where inner packets leave to and come from the host's kernel.
//!
//! With `offload` the kernel hands over super-packets with the checksum left to us, and takes such; without it there
//! is one packet a system call, on any kernel that has TUN. The interface exists for as long as the descriptor is
//! open: a process that dies leaves none behind. It never changes addresses or routes (`interface` does). The ioctls:
//! Linux, Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h.

#![allow(unsafe_code)] // three ioctls; the lint is denied outside tunnel/

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use super::TunnelError;
use super::offload::{VNET_HEADER_BYTES, VnetHeader};
use crate::config::Backend;

/// What the kernel may leave to us: checksums, segments of TCP, and (since Linux 6.2) of UDP.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const OFFLOADS_OF_UDP: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Is an open TUN interface.
pub struct Tun {
    name: String,
    file: File,
    has_header: bool,
    splits: AtomicBool,
    joins: AtomicBool,
}

impl Tun {
    /// Creates the interface: with super-packets where `backend` and the kernel allow it.
    ///
    /// # Errors
    /// There is no /dev/net/tun, the name is taken, CAP_NET_ADMIN is missing, or `offload` is asked for in vain.
    pub fn create(name: &str, backend: Backend) -> Result<Self, TunnelError> {
        match backend {
            Backend::Plain => Self::open(name, false),
            Backend::Offload => Self::open(name, true),
            Backend::Auto => Self::open(name, true).or_else(|error| match error {
                TunnelError::NoOffload { source } => {
                    tracing::info!(%source, "this kernel cannot offload a TUN interface; packets pass one by one");
                    Self::open(name, false)
                }
                error => Err(error),
            }),
        }
    }

    fn open(name: &str, has_header: bool) -> Result<Self, TunnelError> {
        let failed = |source| not_created(name, has_header, source);
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun");
        let file = file.map_err(failed)?;
        attach(&file, name, has_header).map_err(failed)?;
        if has_header {
            let set = set_offloads(&file, OFFLOADS | OFFLOADS_OF_UDP).or_else(|_| set_offloads(&file, OFFLOADS));
            set.map_err(|source| TunnelError::NoOffload { source })?;
        }
        Ok(Self { name: name.to_owned(), file, has_header, splits: has_header.into(), joins: has_header.into() })
    }

    /// Returns the interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says that somebody else deleted the interface.
    pub(super) fn deleted(&self) -> TunnelError {
        TunnelError::InterfaceDeleted { name: self.name.clone() }
    }

    /// Tells whether the kernel hands over super-packets.
    pub fn splits(&self) -> bool {
        self.splits.load(Ordering::Relaxed)
    }

    /// Asks for no more super-packets: the kernel handed over one that cannot be split. The interface stays.
    pub fn stop_splitting(&self) {
        if self.splits.swap(false, Ordering::Relaxed) && set_offloads(&self.file, 0).is_ok() {
            tracing::warn!("the kernel hands over what is no super-packet; packets are taken one by one from now on");
        }
    }

    /// Tells whether the kernel takes super-packets.
    pub fn joins(&self) -> bool {
        self.joins.load(Ordering::Relaxed)
    }

    /// Hands over no more super-packets: the kernel refused one.
    pub fn stop_joining(&self) {
        if self.joins.swap(false, Ordering::Relaxed) {
            tracing::warn!("the kernel refuses a super-packet; packets are handed over one by one from now on");
        }
    }

    /// Reads one packet or super-packet, or says that there is none now (`WouldBlock`).
    ///
    /// It lies in `buffer` from [`VNET_HEADER_BYTES`] on, whatever the backend; returned is its length.
    ///
    /// # Errors
    /// `WouldBlock`; `is_gone` tells whether the interface is gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        let skip = if self.has_header { 0 } else { VNET_HEADER_BYTES };
        let bytes = (&self.file).read(buffer.get_mut(skip..).unwrap_or(&mut []))?;
        if !self.has_header {
            return Ok((VnetHeader::default(), bytes));
        }
        let header = buffer.first_chunk().map(VnetHeader::read).unwrap_or_default();
        Ok((header, bytes.saturating_sub(VNET_HEADER_BYTES)))
    }

    /// Writes one packet, or, with its header, a super-packet: its first packet and the payloads that follow.
    ///
    /// # Errors
    /// The kernel took it for malformed, or the interface is down or gone.
    pub fn write<'a>(
        &self,
        header: &VnetHeader,
        packet: &'a [u8],
        payloads: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        if !self.has_header {
            return (&self.file).write(packet).map(|_| ());
        }
        let header = header.write();
        let parts = [&header, packet].into_iter().chain(payloads.map(|payload| -> &[u8] { payload }));
        let parts: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
        (&self.file).write_vectored(&parts).map(|_| ())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Tells whether a read or write failed for the interface was deleted.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV))
}

/// Makes the interface of the descriptor; one that exists is not taken over.
/// Says why there is no interface.
fn not_created(name: &str, has_header: bool, source: io::Error) -> TunnelError {
    match source.raw_os_error() {
        // The mode of the device; what is missing for the interface is EPERM.
        Some(libc::EACCES) => TunnelError::TunDeviceClosed,
        Some(libc::EPERM) => TunnelError::NotPermitted { what: "create the TUN interface" },
        Some(libc::EBUSY) => TunnelError::InterfaceTaken { name: name.to_owned() },
        Some(libc::ENOENT | libc::ENODEV) => TunnelError::NoTunDevice { source },
        Some(libc::EINVAL) if has_header => TunnelError::NoOffload { source },
        _ => TunnelError::InterfaceCreate { name: name.to_owned(), source },
    }
}

fn attach(file: &File, name: &str, has_header: bool) -> io::Result<()> {
    // SAFETY: an ifreq is plain integers and a union of such; all zeros is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let header = if has_header { libc::IFF_VNET_HDR } else { 0 };
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL | header;
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes(u16::try_from(flags).unwrap_or(0).to_ne_bytes());
    // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq, which lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_offloads(file: &File, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the argument is an integer.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_closed_is_no_missing_capability() {
        let said = |error| not_created("wl0", true, io::Error::from_raw_os_error(error)).to_string();
        let closed = said(libc::EACCES);
        assert!(closed.contains("chmod 0666 /dev/net/tun") && !closed.contains("CAP_NET_ADMIN"), "{closed}");
        assert!(said(libc::EPERM).contains("CAP_NET_ADMIN"));
    }
}
