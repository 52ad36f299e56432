//! The wire between the two sites: a virtual Ethernet pair, one end in each namespace, by rtnetlink.
//!
//! Runs in the namespace of the calling thread; touches no other interface than the pair and the loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use nix::net::if_::if_nametoindex;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use super::DemoError;

/// Names each end of the wire, in its namespace.
pub(super) const WIRE: &str = "wire0";

/// Names the loopback interface.
pub(super) const LOOPBACK: &str = "lo";

/// Is the name of the far end until it is in its namespace.
const FAR_END: &str = "wire1";

/// Is the prefix length of the network on the wire.
const PREFIX_LENGTH: u8 = 24;

/// Lays the wire from this namespace to another one; both ends are down.
///
/// # Errors
/// The kernel refuses.
pub(super) async fn lay(other_namespace: RawFd) -> Result<(), DemoError> {
    let netlink = Netlink::open()?;
    let failed = |source| DemoError::Wire { what: "the wire between the sites", source: Box::new(source) };
    netlink.handle.link().add(LinkVeth::new(WIRE, FAR_END).build()).execute().await.map_err(failed)?;
    let far_end = LinkUnspec::new_with_index(index_of(FAR_END)?).name(WIRE.to_owned()).setns_by_fd(other_namespace);
    netlink.handle.link().set(far_end.build()).execute().await.map_err(failed)
}

/// Gives this end of the wire its address, and brings it and the loopback up.
///
/// # Errors
/// The kernel refuses.
pub(super) async fn raise(address: Ipv4Addr) -> Result<(), DemoError> {
    let netlink = Netlink::open()?;
    let failed = |source| DemoError::Wire { what: "an end of the wire", source: Box::new(source) };
    let wire = index_of(WIRE)?;
    let request = netlink.handle.address().add(wire, IpAddr::V4(address), PREFIX_LENGTH);
    request.execute().await.map_err(failed)?;
    for index in [index_of(LOOPBACK)?, wire] {
        let up = LinkUnspec::new_with_index(index).up().build();
        netlink.handle.link().set(up).execute().await.map_err(failed)?;
    }
    Ok(())
}

fn index_of(interface: &str) -> Result<u32, DemoError> {
    let found = if_nametoindex(interface);
    found.map_err(|errno| DemoError::Namespace { what: "find an end of the wire", source: errno })
}

/// Is a netlink socket in the namespace of the thread that opened it.
struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Netlink {
    fn open() -> Result<Self, DemoError> {
        let opened = rtnetlink::new_connection();
        let (connection, handle, _) =
            opened.map_err(|source| DemoError::System { what: "a netlink socket", source })?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
