//! Why a datagram or packet was dropped, and how often: stable codes for metrics.
//!
//! It never holds an address or a byte of what was dropped.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($variant:ident => $code:literal, $doc:literal;)*) => {
        /// Says why a datagram or packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Drop { $(#[doc = $doc] $variant,)* }

        impl Drop {
            /// Lists every reason, in the order of the counters.
            pub const ALL: &[Drop] = &[$(Drop::$variant,)*];

            /// Returns the stable code that metrics and `status` show.
            pub fn code(self) -> &'static str {
                match self { $(Drop::$variant => $code,)* }
            }
        }
    };
}

reasons! {
    Malformed => "malformed", "Is no IP packet, or shorter than its header says.";
    NotWireGuard => "not_wireguard", "Is no WireGuard message.";
    BadMac => "bad_mac", "Carries a MAC1 that is not made with our public key.";
    UnderLoad => "under_load", "Came while handshakes were limited; a cookie was asked for, or too many were.";
    TooManyHandshakes => "too_many_handshakes", "Came with a cookie, of a source that begins too many, or among too many.";
    UnknownPeer => "unknown_peer", "Comes from a key that is not configured, or names no session of ours.";
    NotAuthentic => "not_authentic", "Failed authentication, or is a message that came before.";
    OldKey => "old_key", "Begins a handshake with a key that was replaced by a newer one.";
    HandshakeReplayed => "handshake_replayed", "Begins a handshake at an earlier time than the peer's last one.";
    SourceNotAllowed => "source_not_allowed", "Has an inner source that is not in the peer's allowed IPs.";
    NotForUs => "not_for_us", "Has an inner destination that is not this site's tunnel address.";
    PortNotOffered => "port_not_offered", "Opens a TCP connection to a port that this peer may not use.";
    FlagsNotAllowed => "flags_not_allowed", "Is a TCP segment with neither SYN, ACK nor RST.";
    ProtocolNotAllowed => "protocol_not_allowed", "Is neither TCP nor permitted ICMP, nor UDP that answers this host.";
    Fragment => "fragment", "Is an IP fragment, or has options or extension headers.";
    IcmpNotAllowed => "icmp_not_allowed", "Is an ICMP message that does not concern a flow of ours.";
    NoPeer => "no_peer", "Leaves for an address that no peer has.";
    NoEndpoint => "no_endpoint", "Leaves for a peer whose endpoint is not known yet.";
    RoutingLoop => "routing_loop", "Is our own datagram to a peer, routed back into the tunnel.";
    SendFailed => "send_failed", "Was refused by the UDP socket.";
    InterfaceWrite => "interface_write", "Was refused by the TUN interface.";
}

/// Counts drops by reason.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; Drop::ALL.len()]);

impl DropCounters {
    /// Starts all counters at zero.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Counts one drop.
    pub fn count(&self, reason: Drop) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lists the reasons that occurred, with their counts.
    pub fn snapshot(&self) -> Vec<(Drop, u64)> {
        Drop::ALL
            .iter()
            .zip(&self.0)
            .map(|(reason, counter)| (*reason, counter.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

impl Default for DropCounters {
    fn default() -> Self {
        Self::new()
    }
}
