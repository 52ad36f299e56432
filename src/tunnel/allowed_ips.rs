//! Cryptokey routing: which peer an inner address belongs to, by the longest prefix (WireGuard paper, section 2).
//!
//! Pure. It never decides what to do with a packet; that is `filter`'s.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// Maps prefixes to owners; the most specific prefix that holds an address wins.
#[derive(Debug, Clone)]
pub struct AllowedIps<T> {
    v4: Family<T>,
    v6: Family<T>,
}

/// One table a prefix length that is in use, longest first: as many look-ups as there are lengths.
type Family<T> = BTreeMap<Reverse<u8>, HashMap<IpAddr, T>>;

impl<T> AllowedIps<T> {
    /// Makes an empty table.
    pub fn new() -> Self {
        Self { v4: BTreeMap::new(), v6: BTreeMap::new() }
    }

    /// Gives a prefix to an owner and returns the one that had it before.
    pub fn insert(&mut self, prefix: IpNet, owner: T) -> Option<T> {
        let family = match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        };
        family.entry(Reverse(prefix.prefix_len())).or_default().insert(prefix.network(), owner)
    }

    /// Finds the owner of an address.
    pub fn owner(&self, address: IpAddr) -> Option<&T> {
        let family = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        family.iter().find_map(|(Reverse(length), owners)| {
            let network = IpNet::new(address, *length).ok()?.network();
            owners.get(&network)
        })
    }
}

impl<T> Default for AllowedIps<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, u32)]) -> AllowedIps<u32> {
        let mut table = AllowedIps::new();
        for (prefix, owner) in rows {
            table.insert(prefix.parse().unwrap(), *owner);
        }
        table
    }

    fn owner(table: &AllowedIps<u32>, address: &str) -> Option<u32> {
        table.owner(address.parse().unwrap()).copied()
    }

    #[test]
    fn the_more_specific_prefix_wins() {
        let table = table(&[("10.0.0.0/8", 1), ("10.98.0.0/16", 2), ("10.98.0.2/32", 3), ("0.0.0.0/0", 4)]);
        assert_eq!(owner(&table, "10.98.0.2"), Some(3));
        assert_eq!(owner(&table, "10.98.0.3"), Some(2));
        assert_eq!(owner(&table, "10.1.1.1"), Some(1));
        assert_eq!(owner(&table, "192.0.2.1"), Some(4));
    }

    #[test]
    fn families_are_apart() {
        let table = table(&[("::/0", 6), ("10.0.0.0/8", 4), ("fd00::1/128", 7)]);
        assert_eq!(owner(&table, "11.0.0.1"), None);
        assert_eq!(owner(&table, "fd00::1"), Some(7));
        assert_eq!(owner(&table, "fd00::2"), Some(6));
    }

    #[test]
    fn a_prefix_moves_to_its_new_owner() {
        let mut table = table(&[("10.98.0.2/32", 1)]);
        assert_eq!(table.insert("10.98.0.2/32".parse().unwrap(), 2), Some(1));
        assert_eq!(owner(&table, "10.98.0.2"), Some(2));
    }
}
