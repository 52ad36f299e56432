//! wardlink: a userspace WireGuard tunnel appliance for MLLP.
//!
//! The rooms are named after the stations that a message passes (ARCHITECTURE.md); imports go down only.

pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod forward;
pub mod health;
pub mod link;
pub mod mllp;
pub mod service;
pub mod tunnel;
