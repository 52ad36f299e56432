//! What a configuration file may say: the keys, as serde reads them and as the JSON Schema shows them to editors.
//!
//! Every scalar stays text with its position, so that the checks can name line and column; nothing is judged here.
//! Required keys are optional to serde for the same reason: a missing one is found together with all other mistakes.
//! The keys are the contract of the product; those of the tunnel follow wg(8).

// The doc comments of this file are the descriptions in the JSON Schema: they speak to the author of a configuration.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

mod alarms;
mod audit;
mod local;
mod mllp;
mod schema;
mod tls;
mod tunnel;

pub(super) use alarms::Alarms;
pub(super) use audit::{Atna, Audit};
pub(super) use local::{Control, Health, Spool};
pub(super) use mllp::{Commit, ForwardReceiver, Framing};
pub(super) use tls::{ForwardTls, ServiceTls};
pub(super) use tunnel::Tunnel;

/// Is one scalar as written, with its position.
pub(super) type Text = Spanned<String>;

/// A wardlink site: one end of an encrypted link that carries HL7 v2 (MLLP) between sites.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "wardlink site")]
pub(super) struct Site {
    /// The name of this installation, as peers and monitoring see it.
    #[schemars(with = "schema::Name")]
    pub site: Option<Text>,
    /// Where what survives a restart is kept; created with mode 0700. Default: /var/lib/wardlink.
    #[serde(default)]
    #[schemars(with = "schema::AbsolutePath")]
    pub state_dir: Option<Text>,
    /// This site's end of the WireGuard tunnel.
    #[schemars(with = "Tunnel")]
    pub tunnel: Option<Spanned<Tunnel>>,
    /// The sites at the other ends, one entry each.
    #[serde(default)]
    #[schemars(with = "Vec<Peer>")]
    pub peers: Option<Vec<Spanned<Peer>>>,
    /// Local ports where senders connect; what they send goes to a service at a peer.
    #[serde(default)]
    #[schemars(with = "Vec<Forward>")]
    pub forwards: Option<Vec<Spanned<Forward>>>,
    /// Receivers at this site that peers may deliver to.
    #[serde(default)]
    #[schemars(with = "Vec<Service>")]
    pub services: Option<Vec<Spanned<Service>>>,
    /// Where stored forwards keep their messages, and the key that seals them.
    #[serde(default)]
    #[schemars(with = "Spool")]
    pub spool: Option<Spanned<Spool>>,
    /// How much of the audit log is kept.
    #[serde(default)]
    #[schemars(with = "Audit")]
    pub audit: Option<Audit>,
    /// Health endpoints and metrics over HTTP.
    #[serde(default)]
    #[schemars(with = "Health")]
    pub health: Option<Health>,
    /// What is an alarm, and who is told beside the log.
    #[serde(default)]
    #[schemars(with = "Alarms")]
    pub alarms: Option<Spanned<Alarms>>,
    /// The local socket that the commands talk to.
    #[serde(default)]
    #[schemars(with = "Control")]
    pub control: Option<Control>,
    /// Whether the site shuts itself in (Landlock, seccomp): auto, as far as the kernel can, or off. Default: auto.
    #[serde(default)]
    #[schemars(with = "schema::AutoOrOff")]
    pub sandbox: Option<Text>,
}

/// A site at another end of the tunnel.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    /// The name of the peer; forwards and services refer to it.
    #[schemars(with = "schema::Name")]
    pub name: Option<Text>,
    /// The peer's public key in base64, as `wardlink key pub` or `wg pubkey` prints it there.
    #[schemars(with = "schema::Key")]
    pub public_key: Option<Text>,
    /// The file with a symmetric key that both sites share, as `wardlink key psk` or `wg genpsk` writes it; mode 0600.
    #[serde(default)]
    #[schemars(with = "String")]
    pub preshared_key_file: Option<Text>,
    /// Where to reach the peer: HOST:PORT, a name or an address. Absent: wait for the peer to come.
    #[serde(default)]
    #[schemars(with = "String")]
    pub endpoint: Option<Text>,
    /// The addresses inside the tunnel that are the peer's. A bare address is that one host. A default route (0.0.0.0/0,
    /// ::/0) needs routed: true.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub allowed_ips: Option<Spanned<Vec<Text>>>,
    /// The peer's own address inside the tunnel. Default: the one host in allowed_ips.
    #[serde(default)]
    #[schemars(with = "String")]
    pub address: Option<Text>,
    /// How often to send when nothing else is sent, such as 25s, so that a NAT on the way stays open. Default: off.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrOff")]
    pub persistent_keepalive: Option<Text>,
    /// Whether the peer may reach addresses behind this site (a plain VPN, not only messages). Default: false.
    #[serde(default)]
    #[schemars(with = "bool")]
    pub routed: Option<Text>,
    /// Whether the peer may reach this host's own ports. Default: false.
    #[serde(default)]
    #[schemars(with = "bool")]
    pub host_access: Option<Text>,
}

/// A local port whose messages go to a service at a peer: by name (service), or by address (to).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Forward {
    /// The name of the forward.
    #[schemars(with = "schema::Name")]
    pub name: Option<Text>,
    /// Where senders connect: ADDRESS:PORT, such as 0.0.0.0:2575.
    #[schemars(with = "String")]
    pub listen: Option<Text>,
    /// TLS for senders: only those that speak it are served here. Default: plain TCP.
    #[serde(default)]
    #[schemars(with = "ForwardTls")]
    pub tls: Option<Spanned<ForwardTls>>,
    /// What senders speak: release1, or release2, where each message is committed. Default: release1.
    #[serde(default)]
    #[schemars(with = "schema::Mllp")]
    pub mllp: Option<Text>,
    /// Stored, release2: how a sender's commit of an answer is awaited.
    #[serde(default)]
    #[schemars(with = "Commit")]
    pub commit: Option<Spanned<Commit>>,
    /// The bytes around a sender's messages. Default: those of MLLP, 0x0B before, 0x1C 0x0D behind.
    #[serde(default)]
    #[schemars(with = "Framing")]
    pub framing: Option<Spanned<Framing>>,
    /// The prefixes that may connect. Default: any.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub allow_from: Option<Spanned<Vec<Text>>>,
    /// The name of the peer that receives.
    #[schemars(with = "schema::Name")]
    pub peer: Option<Text>,
    /// The name of a service at the peer, where the peer runs wardlink.
    #[serde(default)]
    #[schemars(with = "schema::Name")]
    pub service: Option<Text>,
    /// ADDRESS:PORT inside the tunnel, where the peer runs plain WireGuard.
    #[serde(default)]
    #[schemars(with = "String")]
    pub to: Option<Text>,
    /// Stored, to: what the receiver there speaks. Default: MLLP, release1.
    #[serde(default)]
    #[schemars(with = "ForwardReceiver")]
    pub receiver: Option<Spanned<ForwardReceiver>>,
    /// How messages are delivered: transparent carries the receiver's own answers back; stored keeps a message on
    /// disk, acknowledges it, and delivers it in order. Default: transparent.
    #[serde(default)]
    #[schemars(with = "schema::Delivery")]
    pub delivery: Option<Text>,
    /// The largest message, such as 64MiB, which is the most for stored messages to a service; a connection that sends a
    /// larger one is closed. Default: 64MiB.
    #[serde(default)]
    #[schemars(with = "schema::Size")]
    pub max_message_size: Option<Text>,
    /// Transparent: what a sender sees while the receiver cannot be reached: hold keeps it waiting, close closes its
    /// connection, nak answers AR. Default: hold.
    #[serde(default)]
    #[schemars(with = "schema::OnUnreachable")]
    pub on_unreachable: Option<Text>,
    /// Transparent: how long hold waits, 1s to 1h. Default: 30s.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub hold_for: Option<Text>,
    /// At most so many senders' connections at once. Default: 1024.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub max_connections: Option<Text>,
    /// At most so many of them from one source (an IPv4 address, an IPv6 /64). Default: three quarters of
    /// max_connections.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub max_connections_per_source: Option<Text>,
    /// So many connections a second of one source begin while another one is connected; more wait. Default: 500.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub max_connection_rate: Option<Text>,
    /// How long a sender may take for one message, beside a second for each KiB, 1s to 1h; one that takes longer is
    /// closed. Default: 30s.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub frame_timeout: Option<Text>,
    /// Closes a connection after so much silence, 1s to 7days, or never. Default: never.
    #[serde(default)]
    #[schemars(with = "schema::DurationOrNever")]
    pub idle_timeout: Option<Text>,
    /// How long no message may come before that is an alarm, 1m to 30days. Default: none (see alarms.learn_silence).
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub silent_after: Option<Text>,
    /// Stored: what a sender sees while its message cannot be kept (a full disk, a full queue): close closes its
    /// connection without an answer, nak answers AR. Default: close.
    #[serde(default)]
    #[schemars(with = "schema::OnFull")]
    pub on_full: Option<Text>,
    /// Stored: at most so many messages wait. Default: 1000000.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 1_000_000_000))]
    pub max_queue_messages: Option<Text>,
    /// Stored: at most so much waits, from max_message_size to 16TiB. Default: 10GiB.
    #[serde(default)]
    #[schemars(with = "schema::Size")]
    pub max_queue_bytes: Option<Text>,
    /// Stored: how long delivered messages are kept to be sent again, 0s to 365days. Default: 7days.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub keep_delivered: Option<Text>,
    /// Stored: discard takes messages that require an application's answer (MSH-16) and queries all the same, and
    /// their sender goes without it. Default: they are refused.
    #[serde(default)]
    #[schemars(with = "schema::ApplicationAck")]
    pub accept_application_ack: Option<Text>,
    /// Stored, to: which answer settles a stored message: application (all that the message asks for), accept (the
    /// accept acknowledgement, where the message asks for it), none. Default: application.
    #[serde(default)]
    #[schemars(with = "schema::Ack")]
    pub ack: Option<Text>,
    /// Stored, to: how long an answer may take, 1s to 1h. Default: 30s.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub ack_timeout: Option<Text>,
    /// Stored, to: how often a stored message is sent again after AE or CE, 0 to 1000. Default: 5.
    #[serde(default)]
    #[schemars(with = "u16", range(max = 1000))]
    pub retries: Option<Text>,
    /// Stored, to: the pause before the first retry, 100ms to 1h; it doubles each time. Default: 1s.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub retry_min: Option<Text>,
    /// Stored, to: the longest such pause, up to 1day. Default: 1m.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub retry_max: Option<Text>,
    /// Stored, to: what becomes of a stored message after the last retry: hold keeps it first, and all others wait;
    /// park sets it aside. Default: hold.
    #[serde(default)]
    #[schemars(with = "schema::HoldOrPark")]
    pub after_retries: Option<Text>,
    /// Stored, to: what becomes of a stored message that the receiver rejects (AR, CR): park or hold. Default: park.
    #[serde(default)]
    #[schemars(with = "schema::HoldOrPark")]
    pub on_reject: Option<Text>,
    /// Stored, to: what becomes of a stored message that the receiver may have or not (its answer did not come):
    /// resend, up to three times in all, or hold. Default: resend.
    #[serde(default)]
    #[schemars(with = "schema::InDoubt")]
    pub in_doubt: Option<Text>,
}

/// A receiver at this site that peers may deliver to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// The name of the service; the peers' forwards ask for it.
    #[schemars(with = "schema::Name")]
    pub name: Option<Text>,
    /// Where the receiver listens: HOST:PORT.
    #[schemars(with = "String")]
    pub target: Option<Text>,
    /// TLS towards the receiver. Default: plain TCP.
    #[serde(default)]
    #[schemars(with = "ServiceTls")]
    pub tls: Option<Spanned<ServiceTls>>,
    /// What the receiver speaks: release1, or release2, where each message is committed. Default: release1.
    #[serde(default)]
    #[schemars(with = "schema::Mllp")]
    pub mllp: Option<Text>,
    /// Release2: how the receiver's commit of a stored message is awaited.
    #[serde(default)]
    #[schemars(with = "Commit")]
    pub commit: Option<Spanned<Commit>>,
    /// The bytes around the receiver's messages. Default: those of MLLP, 0x0B before, 0x1C 0x0D behind.
    #[serde(default)]
    #[schemars(with = "Framing")]
    pub framing: Option<Spanned<Framing>>,
    /// The names of the peers that may deliver. Default: none.
    #[serde(default)]
    #[schemars(with = "Vec<schema::Name>")]
    pub allow_peers: Option<Vec<Text>>,
    /// Offers the service also as plain TCP on this port of the tunnel address, for peers that run plain WireGuard.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub port: Option<Text>,
    /// Closes a connection whose answer is overdue for so long, 1s to 1h. Default: only measure; for stored messages
    /// 30s.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub ack_timeout: Option<Text>,
    /// At most so many connections to the receiver at once; more wait. Default: 256.
    #[serde(default)]
    #[schemars(with = "u16", range(min = 1))]
    pub connections: Option<Text>,
    /// How a receiver that nobody is connected to is probed: none, or tcp (a connection without a message). Default:
    /// none.
    #[serde(default)]
    #[schemars(with = "schema::Probe")]
    pub probe: Option<Text>,
    /// Which answer settles a stored message: application (all that the message asks for), accept (the accept
    /// acknowledgement, where the message asks for it), none. Default: application.
    #[serde(default)]
    #[schemars(with = "schema::Ack")]
    pub ack: Option<Text>,
    /// How often a stored message is sent again after AE or CE, 0 to 1000. Default: 5.
    #[serde(default)]
    #[schemars(with = "u16", range(max = 1000))]
    pub retries: Option<Text>,
    /// The pause before the first retry, 100ms to 1h; it doubles each time. Default: 1s.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub retry_min: Option<Text>,
    /// The longest such pause, up to 1day. Default: 1m.
    #[serde(default)]
    #[schemars(with = "schema::Duration")]
    pub retry_max: Option<Text>,
    /// What becomes of a stored message after the last retry: hold keeps it first, and all others wait; park sets it
    /// aside. Default: hold.
    #[serde(default)]
    #[schemars(with = "schema::HoldOrPark")]
    pub after_retries: Option<Text>,
    /// What becomes of a stored message that the receiver rejects (AR, CR): park or hold. Default: park.
    #[serde(default)]
    #[schemars(with = "schema::HoldOrPark")]
    pub on_reject: Option<Text>,
    /// What becomes of a stored message that the receiver may have or not (its answer did not come): resend, up to
    /// three times in all, or hold. Default: resend.
    #[serde(default)]
    #[schemars(with = "schema::InDoubt")]
    pub in_doubt: Option<Text>,
}
