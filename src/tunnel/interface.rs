//! Addresses, MTU and routes of the TUN interface, by rtnetlink.
//!
//! It never shells out, never touches another interface, and removes nothing: what it adds goes with the interface.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::SockaddrStorage;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::TunnelError;
use super::udp::segments_max;
use crate::config::{Config, Table};

/// Packets that wait for the TX thread: as many as fit a megabyte or so; fewer throttle TCP.
const QUEUE_PACKETS: u32 = 1000;

/// Sets the interface up: MTU, addresses, routes to the peers' allowed IPs.
///
/// # Errors
/// The kernel refuses one of them; the message names it.
pub(super) async fn configure(config: &Config) -> Result<u32, TunnelError> {
    let tunnel = &config.tunnel;
    let failed = |what: String| {
        move |source: rtnetlink::Error| match errno(&source) {
            Some(libc::EPERM | libc::EACCES) => TunnelError::NotPermitted { what: "set addresses and routes" },
            _ => TunnelError::Interface { what, source: Box::new(source) },
        }
    };
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| TunnelError::Netlink { source })?;
    let connection = tokio::spawn(connection);
    let index =
        if_nametoindex(tunnel.interface.as_str()).map_err(|source| TunnelError::Netlink { source: source.into() })?;
    for address in &tunnel.addresses {
        let mut request = handle.address().add(index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            // Nobody else can have it, and until a detection of duplicates ended nothing could be bound to it.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(failed(format!("address {address}")))?;
    }
    let link = LinkUnspec::new_with_index(index)
        .mtu(tunnel.mtu.into())
        .txqueuelen(QUEUE_PACKETS)
        // A super-packet then becomes one call's worth of datagrams, not one and a bit.
        .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments_max(usize::from(tunnel.mtu))))
        .up()
        .build();
    handle.link().set(link).execute().await.map_err(failed("the link".to_owned()))?;
    for prefix in routes(config) {
        add_route(&handle, index, prefix, tunnel.table).await.map_err(failed(format!("a route to {prefix}")))?;
    }
    connection.abort();
    Ok(index)
}

/// Takes the interface from one configuration to another: addresses, MTU, routes.
///
/// # Errors
/// The kernel refuses one of them; the message names it.
pub(super) async fn change(_before: &Config, config: &Config) -> Result<(), TunnelError> {
    configure(config).await.map(|_| ())
}

/// Looks at the interface as the kernel has it now, in the network namespace of the calling thread.
///
/// # Errors
/// Says in one line what is wrong: it is gone, down, or lost an address.
pub(super) fn check(name: &str, addresses: &[IpAddr]) -> Result<(), String> {
    let found: Vec<_> = match getifaddrs() {
        Ok(found) => found.filter(|entry| entry.interface_name == name).collect(),
        Err(error) => return Err(format!("the interfaces cannot be listed: {error}")),
    };
    if found.is_empty() {
        return Err(format!("{name} is gone"));
    }
    if !found.iter().any(|entry| entry.flags.contains(InterfaceFlags::IFF_UP)) {
        return Err(format!("{name} is down"));
    }
    let has = |address: &IpAddr| found.iter().any(|entry| entry.address.as_ref().and_then(ip_of) == Some(*address));
    match addresses.iter().find(|address| !has(address)) {
        Some(lost) => Err(format!("{name} lost its address {lost}")),
        None => Ok(()),
    }
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// Lists the allowed IPs that need a route: all but those that an address of the interface covers already.
fn routes(config: &Config) -> Vec<IpNet> {
    let connected: Vec<IpNet> = config.tunnel.addresses.iter().map(IpNet::trunc).collect();
    let mut prefixes: Vec<IpNet> = match config.tunnel.table {
        Table::Off => Vec::new(),
        Table::Auto => {
            let all = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
            all.filter(|prefix| !connected.contains(prefix)).copied().collect()
        }
        Table::Number(_) => config.peers.iter().flat_map(|peer| &peer.allowed_ips).copied().collect(),
    };
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

async fn add_route(handle: &Handle, index: u32, prefix: IpNet, table: Table) -> Result<(), rtnetlink::Error> {
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(prefix.network(), prefix.prefix_len())
        .map_err(|error| rtnetlink::Error::InvalidNla(error.to_string()))?
        .output_interface(index);
    let route = match table {
        Table::Number(number) => route.table_id(number),
        Table::Auto | Table::Off => route,
    };
    handle.route().add(route.build()).replace().execute().await
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => Some(code.get().abs()),
        _ => None,
    }
}
