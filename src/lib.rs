//! wardlink: a userspace WireGuard tunnel appliance for MLLP.
//!
//! The rooms are named after the stations that a message passes (ARCHITECTURE.md); imports go down only.

#[cfg(all(feature = "virtual-time", not(test)))]
compile_error!("virtual-time stops the tunnel's clock: it is for the library's own tests only");

pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod control;
pub mod forward;
pub mod health;
pub mod link;
pub mod mllp;
pub mod service;
pub mod spool;
pub mod tls;
pub mod tunnel;
