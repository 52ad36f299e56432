//! Connections to servers beyond this site that are no peers: a webhook, an audit repository.
//!
//! Speaks nothing over them.

use std::io;

use tokio::net::TcpStream;

use crate::config::{Endpoint, Host};

/// Connects; `stays_here` refuses what a name leads to beyond loopback.
pub(super) async fn dial(server: &Endpoint, stays_here: bool) -> io::Result<TcpStream> {
    let port = server.port;
    let addresses: Vec<_> = match &server.host {
        Host::Address(address) => vec![(*address, port).into()],
        Host::Name(_) | Host::OnLink { .. } => {
            let name = server.host.to_look_up().unwrap_or_default();
            let found = tokio::net::lookup_host((name, port)).await?;
            found.filter(|address| !stays_here || address.ip().to_canonical().is_loopback()).collect()
        }
    };
    TcpStream::connect(addresses.as_slice()).await
}
