//! TLS on local legs: senders that speak MLLP over TLS, and receivers that want it (IHE ATNA, ITI-19).
//!
//! It trusts what the configuration names and nothing of the system, speaks TLS 1.2 and 1.3, and never shows a key or a
//! byte of a message. No session is resumed: each connection checks certificates as they are now, and a sender that
//! sends and leaves is not sent tickets that it would not read, which its TCP would answer by cutting its message off.

mod expiry;
mod failure;
mod files;
mod listed;
mod side;
mod socket;
mod stream;
mod told;

pub use expiry::{Certificate, EXPIRY_WARNING, Role};
pub use failure::Failure;
pub use files::{Anchors, Identity, Problem};
pub use side::{Listener, Receiver};
pub use socket::Socket;
pub use told::Told;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
