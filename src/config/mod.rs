//! The configuration of a site: what a file may say (`raw`), and what it means once validated (this module).
//!
//! A [`Config`] that exists is right: names resolve, prefixes do not clash, keys are 32 bytes. Nothing here opens a
//! socket. The format is YAML; the keys of the tunnel follow wg(8).

mod alarms;
mod atna;
pub mod card;
mod changes;
mod check;
mod delivery;
pub mod edit;
mod errors;
mod health;
mod keys;
mod load;
mod named;
mod outline;
mod policy;
mod raw;
pub mod succession;
mod value;
pub mod wg_quick;
mod yaml;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::mllp::dialect::Dialect;
use crate::tls;

pub use alarms::{AlarmLimits, Alarms, Path as WebhookPath, Webhook};
pub use atna::Atna;
pub use changes::{Changes, NOTHING_CHANGED, Named};
pub use check::{ReadKey, ReadKeys};
pub use delivery::{
    ApplicationAck, Delivery, OnFull, OnUnreachable, STORED_MESSAGE_BYTES_MAX, Spool, SpoolKeyFile, Stored, Transparent,
};
pub use errors::{Errors, Issue, Position};
pub use health::{Door, Token};
pub use keys::{KeyFileError, PublicKey, SecretKey, read_key_file};
pub use load::{fuzz_config, load, load_to_run, parse, parse_beside, schema};
pub use named::{Names, names, own_key};
pub use policy::{AckKind, InDoubt, Otherwise, ReceiverPolicy};
pub use succession::OldKey;
pub(crate) use value::SOCKET_PATH_BYTES_MAX;
pub use value::socket_address as listen_address;
pub use yaml::part;

/// Holds a whole, validated site.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names this installation.
    pub site: Name,
    /// Holds what survives a restart; created 0700.
    pub state_dir: PathBuf,
    /// Describes this site's end of the tunnel.
    pub tunnel: Tunnel,
    /// Lists the sites at the other ends.
    pub peers: Vec<Peer>,
    /// Lists the local ports whose messages go to a peer.
    pub forwards: Vec<Forward>,
    /// Lists the receivers that this site offers.
    pub services: Vec<Service>,
    /// Says where stored forwards keep their messages; there wherever a forward is stored.
    pub spool: Option<Spool>,
    /// Says how much of the audit log is kept.
    pub audit: Audit,
    /// Says where the audit log is sent, if anywhere.
    pub atna: Option<Atna>,
    /// Gives the address of the health endpoints, if any.
    pub health_listen: Option<SocketAddr>,
    /// Says how and to whom they answer; absent: plain HTTP to everybody on loopback.
    pub health_door: Option<Arc<Door>>,
    /// Gives the address where HAProxy's agent-check asks, if any.
    pub agent_listen: Option<SocketAddr>,
    /// Says which alarms are raised, and who is told.
    pub alarms: Alarms,
    /// Gives the path of the control socket.
    pub control_socket: PathBuf,
    /// Tells whether the site shuts itself in.
    pub sandbox: bool,
}

impl Config {
    /// Finds a peer by its name.
    pub fn peer(&self, name: &Name) -> Option<&Peer> {
        self.peers.iter().find(|peer| &peer.name == name)
    }
}

/// Says how much of the audit log is kept; what is older, or too much, goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Is for how long.
    pub keep: Duration,
    /// Bounds all of it, in bytes.
    pub bytes_max: u64,
}

impl Default for Audit {
    /// A year, and a month in which somebody asks about it; half a million messages a week, at a kilobyte for both ends
    /// of each.
    fn default() -> Self {
        Self { keep: Duration::from_secs(400 * 24 * 3600), bytes_max: 32 << 30 }
    }
}

/// Is a name out of `[a-z0-9-]`, 1 to 63 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Returns the name, or `None` where a byte is outside `[a-z0-9-]` or the length is not 1 to 63.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=63).contains(&text.len());
        let clean = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (fits && clean).then(|| Self(text.to_owned()))
    }

    /// Returns the text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Describes this site's end of the tunnel.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Names the TUN interface, at most 15 bytes.
    pub interface: String,
    /// Says which TUN backend to use.
    pub backend: Backend,
    /// Says whether several datagrams may go and come in one system call.
    pub udp_offload: UdpOffload,
    /// Is this site's secret.
    pub private_key: SecretKey,
    /// Is the one before, by which some peers still know this site.
    pub old_private_key: OldKey,
    /// Is the UDP port; 0 lets the kernel choose.
    pub listen_port: u16,
    /// Says where peers reach this site, for its card; nothing here uses it.
    pub endpoint: Option<Endpoint>,
    /// Lists the addresses of the interface, at least one, each with its prefix length.
    pub addresses: Vec<IpNet>,
    /// Is the MTU inside the tunnel, 1280 to 65535 bytes (576 where no IPv6 address is given).
    pub mtu: u16,
    /// Marks the datagrams outside the tunnel; 0 sets no mark.
    pub fwmark: u32,
    /// Says where the routes to allowed IPs go.
    pub table: Table,
    /// Is the TCP port inside the tunnel where peers' links arrive.
    pub link_port: u16,
    /// Is the socket of wg(8), if any; a file cannot say it, for wg(8) looks for it in one place only.
    pub uapi_socket: Option<PathBuf>,
}

/// Says which TUN backend carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The best that works here.
    Auto,
    /// Segmentation offload; an error where it does not work.
    Offload,
    /// One packet a system call.
    Plain,
}

/// Says whether several datagrams may go and come in one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpOffload {
    /// Where the kernel does it rightly.
    Auto,
    /// Never.
    Off,
}

/// Says where the routes to allowed IPs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// The main table; a default route goes to one of its own, with rules that keep our own datagrams out of it.
    Auto,
    /// Nowhere: routes are the admin's.
    Off,
    /// A routing table by its number.
    Number(u32),
}

/// Describes the site at another end of the tunnel.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Names the peer here.
    pub name: Name,
    /// Identifies the peer (WireGuard).
    pub public_key: PublicKey,
    /// Is the first key of the line that led to it, each proven in a session: what was accepted for any of them is this
    /// peer's.
    pub first_key: PublicKey,
    /// Is the key that the peer has announced to be its next, until a session has shown that it has it.
    pub next_key: Option<PublicKey>,
    /// Tells that a session has shown that the peer knows this site's newest key.
    pub knows_new_key: bool,
    /// Adds a symmetric secret to the handshake (WireGuard).
    pub preshared_key: Option<SecretKey>,
    /// Says where to reach the peer; absent: wait for it to come.
    pub endpoint: Option<Endpoint>,
    /// Lists the inner addresses that are the peer's (WireGuard cryptokey routing).
    pub allowed_ips: Vec<IpNet>,
    /// Is the peer's own inner address: configured, or the one host prefix of `allowed_ips`.
    pub address: Option<IpAddr>,
    /// Sends a keepalive after so much silence; whole seconds, 1 to 65535.
    pub persistent_keepalive: Option<Duration>,
    /// Lets the peer reach addresses behind this site.
    pub routed: bool,
    /// Lets the peer reach this host's own ports.
    pub host_access: bool,
}

/// Says where something is reached: a name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Is an address, or a name that is resolved (again) when needed.
    pub host: Host,
    /// Is the port, not 0.
    pub port: u16,
}

/// Is a name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A DNS name.
    Name(String),
    /// An IPv6 address that means something on one link only: that of an interface, which may come and go.
    OnLink {
        /// Is the address.
        address: Ipv6Addr,
        /// Names the interface, or is its index.
        interface: String,
    },
}

impl Host {
    /// Writes what a look-up must find, by DNS or, on a link, the index of the interface; an address needs none.
    pub fn to_look_up(&self) -> Option<String> {
        match self {
            Self::Address(_) => None,
            Self::Name(name) => Some(name.clone()),
            Self::OnLink { address, interface } => Some(format!("{address}%{interface}")),
        }
    }
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    /// Reads HOST:PORT; the error says what to write instead.
    fn from_str(text: &str) -> Result<Self, String> {
        value::endpoint(text)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::OnLink { address, interface } => write!(f, "[{address}%{interface}]:{}", self.port),
        }
    }
}

/// Describes a local port whose messages go to a service at a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Names the forward.
    pub name: Name,
    /// Is where senders connect.
    pub listen: SocketAddr,
    /// Is what senders meet that speak TLS; absent: they speak plain TCP.
    pub tls: Option<Arc<tls::Listener>>,
    /// Lists who may connect; empty: anybody.
    pub allow_from: Vec<IpNet>,
    /// Names the peer.
    pub peer: Name,
    /// Says what at the peer receives.
    pub target: Target,
    /// Limits the payload of one frame, in bytes.
    pub message_bytes_max: u64,
    /// Says how its messages are delivered.
    pub delivery: Delivery,
    /// Limits the senders' connections at once.
    pub connections_max: NonZeroUsize,
    /// Limits those of one source.
    pub source_connections_max: NonZeroUsize,
    /// Limits how many of one source begin in a second.
    pub source_rate_max: NonZeroUsize,
    /// Bounds the time that a sender takes for one frame, beside its bytes.
    pub frame_timeout: Duration,
    /// Closes a sender's connection after so much silence; absent: never.
    pub idle_timeout: Option<Duration>,
    /// Is how long it may be without a message before that is an alarm.
    pub silent_after: Option<Duration>,
    /// Says what senders speak.
    pub dialect: Dialect,
}

/// Says what at the peer receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A service by its name, where the peer runs wardlink.
    Service(Name),
    /// A TCP address inside the tunnel, where it does not.
    Address(SocketAddr),
}

/// Describes a receiver that this site offers to its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Names the service.
    pub name: Name,
    /// Says where the receiver listens.
    pub target: Endpoint,
    /// Is what a receiver is met with that speaks TLS; absent: it speaks plain TCP.
    pub tls: Option<Arc<tls::Receiver>>,
    /// Lists the peers that may use it; empty: none.
    pub allow_peers: Vec<Name>,
    /// Offers the service as plain TCP on the tunnel address too.
    pub port: Option<u16>,
    /// Closes a receiver connection whose answer is overdue; absent: measures only.
    pub ack_timeout: Option<Duration>,
    /// Limits the connections to the receiver at once.
    pub connections_max: NonZeroUsize,
    /// Says how an idle receiver is probed.
    pub probe: Probe,
    /// Says how the receiver is treated when stored messages are delivered to it.
    pub stored: ReceiverPolicy,
}

/// Says how a receiver without live connections is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Not at all.
    None,
    /// By a TCP connect.
    Tcp,
}
