//! The kernel's tables of routes, as far as they say which addresses this host reaches otherwise than by its tunnel.
//!
//! Pure: given the text of /proc/net/route and /proc/net/ipv6_route. A default route says nothing of an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Marks a route that is up (RTF_UP).
const UP: u32 = 1;
/// Limits the routes that are looked at: a router with the whole Internet in its table is no place for a site.
const ROUTES_MAX: usize = 100_000;

/// Is a route to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Is the network.
    pub net: IpNet,
    /// Names the interface.
    pub interface: String,
    /// Tells that it is an address of this host's own.
    pub is_own: bool,
}

/// Reads /proc/net/route: the words of host order in hex, with a line of headings.
pub fn ipv4_routes(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let address = |index: usize| Some(Ipv4Addr::from(word(index)?.to_ne_bytes()));
        let net = IpNet::with_netmask(IpAddr::V4(address(1)?), IpAddr::V4(address(7)?)).ok()?;
        let interface = (*fields.first()?).to_owned();
        (word(3)? & UP != 0 && net.prefix_len() > 0).then_some(Route { net, interface, is_own: false })
    };
    table.lines().take(ROUTES_MAX).filter_map(route).collect()
}

/// Reads /proc/net/ipv6_route: 32 digits of hex and a length.
pub fn ipv6_routes(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
        let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        let net = IpNet::new(IpAddr::V6(address), length).ok()?;
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        let interface = (*fields.get(9)?).to_owned();
        (flags & UP != 0 && length > 0).then_some(Route { net, interface, is_own: false })
    };
    table.lines().take(ROUTES_MAX).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_without_the_default_ones() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     eth1\t0000000A\t010200C0\t0000\t0\t0\t0\t000000FF\t0\t0\t0\n";
        // On a host of the other byte order the file has the other order too.
        if cfg!(target_endian = "little") {
            let route = Route { net: "192.0.2.0/24".parse().unwrap(), interface: "eth0".to_owned(), is_own: false };
            assert_eq!(ipv4_routes(table), [route]);
        }
        let table = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                     00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                     fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n\
                     junk\n\n";
        let route = Route { net: "fd00::/64".parse().unwrap(), interface: "eth0".to_owned(), is_own: false };
        assert_eq!(ipv6_routes(table), [route]);
    }
}
