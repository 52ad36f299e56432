//! What a datagram of WireGuard is, how long a packet becomes as one, and why one is refused.
//!
//! It never decrypts. Rules: WireGuard paper, section 5.4; with `peer` the only user of boringtun.

use std::time::Duration;

use boringtun::noise::errors::WireGuardError;

use super::identity::INDEX_BITS_OF_SESSION;
use super::{DATA, OVERHEAD_BYTES, PADDING_BYTES, RESPONSE};
use crate::tunnel::drops::Drop;

/// Tells whether a datagram carries data, not a handshake.
pub fn is_data(datagram: &[u8]) -> bool {
    datagram.first() == Some(&DATA)
}

/// Tells whether a datagram is the answer to an initiation.
pub fn is_response(datagram: &[u8]) -> bool {
    datagram.first() == Some(&RESPONSE)
}

/// Returns the index of the peer that a data message is for, if it is one.
pub fn data_index(datagram: &[u8]) -> Option<u32> {
    let [DATA, 0, 0, 0, index @ ..] = datagram.first_chunk::<8>()? else { return None };
    Some(u32::from_le_bytes(*index) >> INDEX_BITS_OF_SESSION)
}

/// Counts the bytes of the datagram that a packet becomes.
pub fn sealed_bytes(packet_bytes: usize, mtu_bytes: usize) -> usize {
    padded_bytes(packet_bytes, mtu_bytes) + OVERHEAD_BYTES
}

/// Rounds up to the padding, not past the MTU; a packet above the MTU stays as it is.
pub(super) fn padded_bytes(packet_bytes: usize, mtu_bytes: usize) -> usize {
    packet_bytes.next_multiple_of(PADDING_BYTES).min(mtu_bytes).max(packet_bytes)
}

pub(super) fn part_of(whole: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random % nanos.max(1))
}

pub(super) fn refusal(error: &WireGuardError) -> Drop {
    match error {
        WireGuardError::InvalidMac => Drop::BadMac,
        WireGuardError::UnderLoad => Drop::UnderLoad,
        WireGuardError::WrongIndex | WireGuardError::NoCurrentSession => Drop::UnknownPeer,
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType => Drop::NotWireGuard,
        WireGuardError::InvalidPacket => Drop::Malformed,
        WireGuardError::WrongTai64nTimestamp => Drop::HandshakeReplayed,
        WireGuardError::UnexpectedPacket
        | WireGuardError::WrongKey
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::InvalidAeadTag
        | WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter
        | WireGuardError::LockFailed
        | WireGuardError::ConnectionExpired => Drop::NotAuthentic,
    }
}
