//! The connection between two sites that carries a forward inside the tunnel.

mod half;
pub mod inside;
mod records;
mod resume;
pub mod session;
mod stream;
pub mod stream_end;
pub mod streams;
pub mod wire;
