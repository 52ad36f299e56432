//! Which addresses are this host's own, on whatever interface, as the kernel's table of local routes has them.
//!
//! It asks nobody: the upkeep of the interface sets them, the data thread reads them. It never names a peer's address.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;

/// Is this host's addresses at one moment: whole ones, and ranges such as 127.0.0.0/8.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostAddresses {
    single: HashSet<IpAddr>,
    ranges: Vec<IpNet>,
}

impl HostAddresses {
    /// Tells whether a packet to an address ends at this host.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.single.contains(&address) || self.ranges.iter().any(|range| range.contains(&address))
    }
}

impl FromIterator<IpNet> for HostAddresses {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut addresses = Self::default();
        for net in nets {
            if net.prefix_len() == net.max_prefix_len() {
                addresses.single.insert(net.addr());
            } else {
                addresses.ranges.push(net);
            }
        }
        addresses
    }
}

/// Shares them between who watches the kernel and who judges packets.
#[derive(Debug, Default)]
pub(super) struct Locals(RwLock<Arc<HostAddresses>>);

impl Locals {
    /// Returns them as they are now; taken once a batch. A change replaces the whole.
    pub(super) fn now(&self) -> Arc<HostAddresses> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets others be this host's from now on.
    pub(super) fn set(&self, addresses: HostAddresses) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(addresses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_addresses_and_ranges_are_found() {
        let nets = ["127.0.0.0/8", "192.0.2.7/32", "2001:db8::7/128", "::1/128"];
        let locals = Locals::default();
        assert!(!locals.now().contains("192.0.2.7".parse().unwrap()));
        locals.set(nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect());
        for ours in ["127.9.9.9", "192.0.2.7", "2001:db8::7", "::1"] {
            assert!(locals.now().contains(ours.parse().unwrap()), "{ours}");
        }
        for other in ["192.0.2.8", "2001:db8::8", "128.0.0.1"] {
            assert!(!locals.now().contains(other.parse().unwrap()), "{other}");
        }
    }
}
