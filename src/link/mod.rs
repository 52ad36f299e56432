//! The connection between two sites that carries a forward inside the tunnel.

mod half;
mod records;
mod resume;
mod stream;
pub mod streams;
pub mod wire;
