//! The TUN interface: where inner packets leave to and come from the host's kernel.
//!
//! It never changes addresses or routes (`interface` does) and never looks at a packet.

mod plain;

pub use plain::Tun;
