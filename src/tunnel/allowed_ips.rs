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
        self.owner_within(address, 0)
    }

    /// Finds the owner of those addresses of a prefix that no more specific one holds.
    pub fn holder(&self, prefix: IpNet) -> Option<&T> {
        self.owner_within(prefix.network(), prefix.max_prefix_len() - prefix.prefix_len())
    }

    /// Looks at prefixes only that leave at least so many bits of an address open.
    fn owner_within(&self, address: IpAddr, open_bits_min: u8) -> Option<&T> {
        let (family, bits) = match address {
            IpAddr::V4(_) => (&self.v4, 32),
            IpAddr::V6(_) => (&self.v6, 128),
        };
        family.range(Reverse(bits - open_bits_min)..).find_map(|(Reverse(length), owners)| {
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
    use proptest::prelude::*;

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

    fn address() -> impl Strategy<Value = IpAddr> {
        // few bits differ, so that prefixes nest and addresses meet them
        let v4 = (0u32..64, prop::sample::select(vec![0u32, 0x0a62_0000, 0xffff_ff00]))
            .prop_map(|(low, high)| IpAddr::from((high | low).to_be_bytes()));
        let v6 = (0u128..64, prop::sample::select(vec![0u128, 0xfd98 << 112]))
            .prop_map(|(low, high)| IpAddr::from((high | low).to_be_bytes()));
        prop_oneof![v4, v6]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..=12).prop_map(|(address, host_bits)| {
            let (bits, all) = if address.is_ipv4() { (32, host_bits == 12) } else { (128, host_bits == 12) };
            IpNet::new(address, if all { 0 } else { bits - host_bits }).unwrap()
        })
    }

    /// Looks at every prefix: of those that hold the address the longest, of equal ones the last.
    fn naive(rows: &[(IpNet, usize)], address: IpAddr) -> Option<usize> {
        let holding = rows.iter().filter(|(prefix, _)| prefix.contains(&address));
        holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, owner)| *owner)
    }

    proptest! {
        #[test]
        fn any_table_answers_as_a_linear_scan(
            prefixes in prop::collection::vec(prefix(), 0..40),
            addresses in prop::collection::vec(address(), 1..40),
        ) {
            let rows: Vec<(IpNet, usize)> = prefixes.into_iter().enumerate().map(|(owner, prefix)| (prefix, owner)).collect();
            let mut table = AllowedIps::new();
            for (prefix, owner) in &rows {
                table.insert(*prefix, *owner);
            }
            for address in addresses {
                prop_assert_eq!(table.owner(address).copied(), naive(&rows, address));
            }
        }
    }
}
