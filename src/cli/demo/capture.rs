//! Records every frame that an interface carries, in memory, as tcpdump would: packet(7).
//!
//! Judges nothing and writes nothing to disk. It compares its count with the interface's own (/proc/PID/net/dev), so that
//! a recording with a gap never passes for a whole one.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use tokio::sync::watch;

use super::DemoError;
use super::frames::{self, Kind};
use super::sites::WIREGUARD_PORT;

/// Holds what arrives while the recording thread waits for a processor; the kernel gives users less than root.
const SOCKET_BUFFER_BYTES: usize = 64 << 20;

/// Holds the largest frame that an interface carries in one piece: 64 KiB of segments, and headers.
const FRAME_BYTES_MAX: usize = 128 << 10;

/// Bounds a recording: ten times what the largest demo carries over the loopback, which it sees twice.
const RECORDING_BYTES_MAX: usize = 1 << 30;

/// Is how long the socket is silent before the thread looks whether it shall stop.
const SILENCE: Duration = Duration::from_millis(20);

/// Bounds the looks at the interface's count, while it runs ahead of the frames.
const LOOKS_MAX: u32 = 10;

/// Is a recording under way.
pub(super) struct Capture {
    thread: JoinHandle<Recording>,
    stop: Arc<AtomicBool>,
    handshake: watch::Receiver<bool>,
}

/// Holds the frames that an interface carried, in both directions.
#[derive(Default)]
pub(super) struct Recording {
    /// Holds each frame from its Ethernet header on.
    pub(super) frames: Vec<Vec<u8>>,
    /// Counts the bytes of the frames.
    pub(super) bytes: usize,
    /// Counts the frames that the interface carried, by its own count; none where it cannot be read.
    pub(super) carried: Option<usize>,
}

impl Recording {
    /// Says whether no frame is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.carried == Some(self.frames.len())
    }
}

impl Capture {
    /// Starts to record an interface in the network namespace of the calling thread; it may still be down.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub(super) fn start(interface: &'static str) -> Result<Self, DemoError> {
        let socket = open(interface)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, handshake) = watch::channel(false);
        let body = {
            let stop = Arc::clone(&stop);
            move || record(&socket, interface, &stop, &seen)
        };
        let thread = std::thread::Builder::new().name(format!("capture-{interface}")).spawn(body);
        let thread = thread.map_err(|source| DemoError::System { what: "a thread", source })?;
        Ok(Self { thread, stop, handshake })
    }

    /// Waits for the answer to a handshake; false where the recording ended without one. Cancel-safe.
    pub(super) async fn handshake(&self) -> bool {
        let mut handshake = self.handshake.clone();
        let seen = handshake.wait_for(|seen| *seen).await;
        seen.is_ok()
    }

    /// Ends the recording once it has caught up with the interface. Blocks for a moment.
    pub(super) fn finish(self) -> Recording {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has recorded nothing, and that is not complete.
        self.thread.join().unwrap_or_default()
    }
}

fn open(interface: &str) -> Result<OwnedFd, DemoError> {
    let failed = |errno| DemoError::refused("record the wire", errno);
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    let socket = socket.map_err(failed)?;
    bind(socket.as_raw_fd(), &link_address(interface)?).map_err(failed)?;
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES).map_err(failed)?;
    }
    let silence = TimeVal::new(0, i64::from(SILENCE.subsec_micros()));
    setsockopt(&socket, sockopt::ReceiveTimeout, &silence).map_err(failed)?;
    Ok(socket)
}

/// Finds the address to bind to, which carries the interface's index; its protocol is 0, which keeps the socket's.
fn link_address(interface: &str) -> Result<LinkAddr, DemoError> {
    let failed = |errno| DemoError::refused("find the interface to record", errno);
    let mut addresses = getifaddrs().map_err(failed)?.filter(|address| address.interface_name == interface);
    let address = addresses.find_map(|address| address.address?.as_link_addr().copied());
    address.ok_or_else(|| failed(Errno::ENODEV))
}

fn record(socket: &OwnedFd, interface: &str, stop: &AtomicBool, handshake: &watch::Sender<bool>) -> Recording {
    let mut recording = Recording::default();
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let mut looks = 0;
    while recording.bytes < RECORDING_BYTES_MAX && looks < LOOKS_MAX {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                let frame = buffer.get(..length).unwrap_or_default();
                if frames::kind(frame, WIREGUARD_PORT) == Kind::Response {
                    handshake.send_replace(true);
                }
                recording.bytes += length;
                recording.frames.push(frame.to_vec());
            }
            // The interface was still down.
            Err(Errno::ENETDOWN | Errno::EINTR) => {}
            Err(_) if stop.load(Ordering::Relaxed) => {
                looks += 1;
                recording.carried = carried(interface).ok();
                if recording.is_complete() {
                    break;
                }
            }
            Err(_) => {}
        }
    }
    recording
}

/// Reads how many frames an interface of this thread's namespace has received and sent.
fn carried(interface: &str) -> io::Result<usize> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    frames_of(&table, interface).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Adds the second and the tenth number of the interface's line: packets received and sent, proc_net(5).
fn frames_of(table: &str, interface: &str) -> Option<usize> {
    let mut lines = table.lines().filter_map(|line| line.split_once(':'));
    let (_, numbers) = lines.find(|(name, _)| name.trim() == interface)?;
    let mut numbers = numbers.split_whitespace();
    let received: usize = numbers.nth(1)?.parse().ok()?;
    let sent: usize = numbers.nth(7)?.parse().ok()?;
    Some(received + sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_counts_of_the_interface() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
            \x20   lo:    3360      40    0    0    0     0          0         0     3360      41    0    0    0     0       0          0\n\
             wire0:1000 7 0 0 0 0 0 0 2000 9 0 0 0 0 0 0\n";
        assert_eq!(frames_of(table, "lo"), Some(81));
        assert_eq!(frames_of(table, "wire0"), Some(16));
        assert_eq!(frames_of(table, "wire"), None);
    }

    #[test]
    fn a_recording_without_the_interfaces_count_is_not_complete() {
        assert!(!Recording::default().is_complete());
        assert!(!Recording { carried: Some(1), ..Recording::default() }.is_complete());
        assert!(Recording { carried: Some(0), ..Recording::default() }.is_complete());
    }
}
