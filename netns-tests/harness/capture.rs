//! A capture of the wire between the sites, by a packet socket: every packet of every device of the namespace.

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;
use super::plan::UDP_PORT;

/// Is the kernel's buffer for what was not yet read, in bytes: a second of a test's load.
const BUFFER_BYTES: usize = 8 << 20;

/// Is how often the capture looks whether it should end.
const READ_LIMIT: Duration = Duration::from_millis(50);

/// Is the length of an Ethernet header, in bytes.
const ETHERNET_BYTES: usize = 14;

/// Is a running capture.
pub(crate) struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Vec<u8>>>,
}

/// Is what was captured: Ethernet frames.
pub(crate) struct Captured(Vec<Vec<u8>>);

impl Capture {
    /// Starts to capture in `namespace`.
    pub(crate) fn start(namespace: &Namespace) -> Self {
        // linux/if_ether.h ETH_P_ALL, in network order
        let all = Protocol::from(i32::from(0x0003_u16.to_be()));
        let mut socket = namespace.run(move || Socket::new(Domain::PACKET, Type::RAW, Some(all))).expect("CAP_NET_RAW");
        socket.set_recv_buffer_size(BUFFER_BYTES).expect("a buffer");
        socket.set_read_timeout(Some(READ_LIMIT)).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = thread::spawn(move || {
            let mut frames = Vec::new();
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                while let Ok(count) = socket.read(&mut buffer) {
                    frames.push(buffer[..count].to_vec());
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            frames
        });
        Self { stop, reader }
    }

    /// Ends the capture.
    pub(crate) fn finish(self) -> Captured {
        // what was sent last may still be on its way to the reader
        thread::sleep(READ_LIMIT);
        self.stop.store(true, Ordering::Relaxed);
        Captured(self.reader.join().expect("the reader does not panic"))
    }
}

impl Captured {
    /// Tells whether any packet contains `bytes`.
    pub(crate) fn contains(&self, bytes: &[u8]) -> bool {
        let finder = memchr::memmem::Finder::new(bytes);
        self.0.iter().any(|frame| finder.find(frame).is_some())
    }

    /// Counts the datagrams of the sites' tunnels.
    pub(crate) fn wireguard(&self) -> usize {
        self.0.iter().filter(|frame| kind(frame) == Kind::WireGuard).count()
    }

    /// Lists the lengths of the tunnels' data messages over IPv4, in bytes.
    pub(crate) fn data_bytes(&self) -> Vec<usize> {
        let datagrams = self.0.iter().filter(|frame| kind(frame) == Kind::WireGuard).filter_map(|frame| {
            let packet = frame.get(ETHERNET_BYTES..).filter(|packet| packet[0] >> 4 == 4)?;
            packet.get(usize::from(packet[0] & 0x0f) * 4 + 8..)
        });
        // the head of a data message (whitepaper 5.4.6); a short one is padded by Ethernet, but none is as short
        datagrams.filter(|datagram| datagram.first() == Some(&4)).map(<[u8]>::len).collect()
    }

    /// Describes each packet that is neither a datagram of the tunnel nor the network's own talk.
    pub(crate) fn foreign(&self) -> Vec<String> {
        let foreign = self.0.iter().filter_map(|frame| match kind(frame) {
            Kind::Foreign(what) => Some(what),
            Kind::WireGuard | Kind::Neighbours => None,
        });
        foreign.collect()
    }
}

#[derive(PartialEq, Eq)]
enum Kind {
    WireGuard,
    /// The kernel's refusal of a tunnel's datagram (its site does not run yet), ARP, IPv6 neighbour and router discovery, multicast reports.
    Neighbours,
    Foreign(String),
}

fn kind(frame: &[u8]) -> Kind {
    let (ethernet, packet) = frame.split_at(ETHERNET_BYTES.min(frame.len()));
    match ethernet.get(12..14) {
        Some([0x08, 0x06]) => Kind::Neighbours,
        Some([0x08, 0x00]) if packet.len() >= 20 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
            match packet[9] {
                1 if is_port_unreachable(packet.get(header..)) => Kind::Neighbours,
                2 => Kind::Neighbours,
                17 if is_wireguard(packet.get(header..)) => Kind::WireGuard,
                protocol => Kind::Foreign(format!("IPv4 protocol {protocol} from {source}, {} bytes", packet.len())),
            }
        }
        Some([0x86, 0xdd]) if packet.len() >= 40 => match packet[6] {
            // ICMPv6, also behind a hop-by-hop header (multicast listener reports); echo and errors are foreign
            58 if packet.get(40).is_some_and(|kind| (130..=143).contains(kind)) => Kind::Neighbours,
            0 if packet.get(48) == Some(&143) => Kind::Neighbours,
            17 if is_wireguard(packet.get(40..)) => Kind::WireGuard,
            protocol => Kind::Foreign(format!("IPv6 next header {protocol}, {} bytes", packet.len())),
        },
        _ => Kind::Foreign(format!("{} bytes of no IP", frame.len())),
    }
}

/// Tells whether a UDP datagram goes between the sites' WireGuard ports, with a WireGuard message type (whitepaper 5.4).
fn is_wireguard(datagram: Option<&[u8]>) -> bool {
    let Some([s0, s1, d0, d1, _, _, _, _, kind, 0, 0, 0, ..]) = datagram else {
        return false;
    };
    let ports = [u16::from_be_bytes([*s0, *s1]), u16::from_be_bytes([*d0, *d1])];
    ports == [UDP_PORT; 2] && (1..=4).contains(kind)
}

/// Tells whether an ICMP message is "port unreachable" about a datagram between the sites' WireGuard ports.
fn is_port_unreachable(icmp: Option<&[u8]>) -> bool {
    let Some([3, 3, _, _, _, _, _, _, quoted @ ..]) = icmp else {
        return false;
    };
    let header = usize::from(quoted.first().copied().unwrap_or(0) & 0x0f) * 4;
    quoted.get(9) == Some(&17) && is_wireguard(quoted.get(header..))
}
