//! Reaches a receiver: looks its name up, connects, and says why not.
//!
//! Says nothing to the receiver.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::config::{Endpoint, Host};
use crate::link::wire::Cause;

/// A receiver that does not take a connection within this is silent.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Connects to a receiver.
pub(super) async fn dial(target: &Endpoint) -> Result<TcpStream, Cause> {
    let addresses = match &target.host {
        Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
        Host::Name(_) | Host::OnLink { .. } => {
            let found = tokio::net::lookup_host((target.host.to_look_up().unwrap_or_default(), target.port));
            let found = tokio::time::timeout(CONNECT_WITHIN, found).await;
            found.ok().and_then(Result::ok).map(Iterator::collect).ok_or(Cause::ReceiverNameUnknown)?
        }
    };
    match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(tcp)) => Ok(tcp),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused => Cause::ReceiverRefuses,
            io::ErrorKind::ConnectionReset => Cause::ReceiverReset,
            _ => Cause::ReceiverUnreachable,
        }),
        Err(_) => Err(Cause::ReceiverSilent),
    }
}
