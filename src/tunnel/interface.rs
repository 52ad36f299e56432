//! The TUN interface as the kernel has it: addresses, MTU, routes, and the rules of a default route, by rtnetlink.
//!
//! It never shells out and never touches another interface. What it adds goes with the interface; only the rules do
//! not, and those it removes itself.

mod events;
mod host;
mod kernel;
mod upkeep;
mod wanted;

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

pub(super) use upkeep::{DefaultRoute, Kept, Upkeep};

use crate::config::Config;

/// Returns the mark of our own datagrams; 0: none. A default route has one chosen for it where the configuration names
/// none.
pub(super) fn mark(config: &Config) -> u32 {
    wanted::mark(config)
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
