//! The connection between two sites that carries a forward inside the tunnel.

use std::time::Duration;

pub mod carry;
mod cause;
mod echo;
mod ending;
pub mod feed;
mod half;
pub mod inbound;
pub mod inside;
mod leg;
pub mod outbound;
pub mod owners;
mod records;
mod resume;
pub mod session;
mod stream;
pub mod stream_end;
pub mod streams;
pub mod tally;
pub mod wire;

/// Unacknowledged bytes end a link's connection after so long; its streams go on over the next one.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// The last records of a link that is closed have so long to leave.
pub const FLUSH_WITHIN: Duration = Duration::from_millis(50);

/// Writes an error and what caused it in one line.
pub fn cause_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
