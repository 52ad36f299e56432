//! The connection to a receiver, its probe.
