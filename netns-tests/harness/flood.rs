//! A flood of handshakes: initiations that are made for a site's public key by keys that it does not know, from forged
//! sources, at a steady rate. Sent by raw sockets from the wire's namespace; nothing leaves it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::noise::{Tunn, TunnResult};
use socket2::{Domain, Protocol, Socket, Type};

use super::site::Site;
use super::wire::Wire;

/// Is the network of the forged sources (RFC 2544, for tests): 198.18.0.0/15.
const FORGED: &str = "198.18.0.0/15";
const FORGED_FIRST: u32 = 0xc612_0000;
const FORGED_COUNT: u32 = 1 << 17;

/// Is how many different initiations are sent, each made by another key.
const INITIATIONS: u32 = 64;

/// Is how often the sender looks how far it is behind its rate.
const STEP: Duration = Duration::from_millis(1);

/// Is the length of an initiation, in bytes.
const INITIATION_BYTES: usize = 148;

/// Is a flood on its way; it ends when dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    start: Instant,
    sender: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends `rate` initiations a second that are made for `site` to its address and `port`.
    pub(crate) fn start(wire: &Wire, site: &Site, port: u16, rate: u64) -> Self {
        // answers to forged sources vanish, as they would at somebody else's
        wire.namespace.ip(&format!("route replace blackhole {FORGED}"));
        let socket =
            wire.namespace.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))));
        let socket = socket.expect("a raw socket");
        let initiations: Vec<_> = (0..INITIATIONS).map(|number| initiation(&site.public_key, number)).collect();
        let to = SocketAddrV4::new(site.outer, port);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let start = Instant::now();
        let work = move || send(&socket, to, &initiations, rate, &stopped, &count);
        Self { stop, sent, start, sender: Some(thread::spawn(work)) }
    }

    /// Returns how many were sent a second so far.
    pub(crate) fn rate(&self) -> u64 {
        let millis = u64::try_from(self.start.elapsed().as_millis()).expect("a short test");
        self.sent.load(Ordering::Relaxed) * 1000 / millis.max(1)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

fn send(socket: &Socket, to: SocketAddrV4, initiations: &[Vec<u8>], rate: u64, stop: &AtomicBool, sent: &AtomicU64) {
    let target = SocketAddr::V4(to).into();
    let start = Instant::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(start.elapsed().as_micros()).expect("a short test") * rate / 1_000_000;
        // what the machine does not give is not made up for later
        number = number.max(due.saturating_sub(rate / 100));
        while number < due {
            let source = FORGED_FIRST + u32::try_from(number % u64::from(FORGED_COUNT)).expect("in range");
            let initiation = &initiations[usize::try_from(number).expect("64 bits") % initiations.len()];
            if socket.send_to(&datagram(source, to, initiation), &target).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
            number += 1;
        }
        thread::sleep(STEP);
    }
}

/// Puts an IPv4 and a UDP header before a message (RFC 791, RFC 768); the kernel fills in what is zero.
fn datagram(source: u32, to: SocketAddrV4, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + message.len()).expect("a short message");
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    bytes.extend_from_slice(&source.to_be_bytes());
    bytes.extend_from_slice(&to.ip().octets());
    bytes.extend_from_slice(&[0x9c, 0x40]);
    bytes.extend_from_slice(&to.port().to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(message);
    bytes
}

/// Makes an initiation for a public key, by a key of its own.
fn initiation(public_key: &str, number: u32) -> Vec<u8> {
    let public: [u8; 32] = STANDARD.decode(public_key).expect("base64").try_into().expect("32 bytes");
    let mut secret = [0x77; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    let mut tunn = Tunn::new(secret.into(), public.into(), None, None, number, None);
    let mut buffer = [0; INITIATION_BYTES];
    match tunn.format_handshake_initiation(&mut buffer, true) {
        TunnResult::WriteToNetwork(initiation) => initiation.to_vec(),
        other => panic!("no initiation: {other:?}"),
    }
}

/// Is a party with an address of its own that asks for a cookie and then sends one initiation with it, again and again.
pub(crate) fn initiation_with_cookie(from: &Site, to: &Site) -> (std::net::UdpSocket, Vec<u8>) {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let socket = from.namespace.udp(any).expect("a socket");
    socket.connect((to.outer, super::plan::UDP_PORT)).expect("a route");
    socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    let public: [u8; 32] = STANDARD.decode(&to.public_key).expect("base64").try_into().expect("32 bytes");
    let mut tunn = Tunn::new([0x55; 32].into(), public.into(), None, None, 7, None);
    let mut buffer = [0; INITIATION_BYTES];
    let mut ask = |tunn: &mut Tunn| match tunn.format_handshake_initiation(&mut buffer, true) {
        TunnResult::WriteToNetwork(initiation) => initiation.to_vec(),
        other => panic!("no initiation: {other:?}"),
    };
    let mut answer = [0; 256];
    for _ in 0..5000 {
        let initiation = ask(&mut tunn);
        socket.send(&initiation).expect("sent");
        if let Ok(bytes) = socket.recv(&mut answer) {
            tunn.decapsulate(None, &answer[..bytes], &mut [0; INITIATION_BYTES]);
            return (socket, ask(&mut tunn));
        }
    }
    panic!("no cookie was asked for");
}
