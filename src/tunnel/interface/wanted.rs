//! What the kernel should have for the tunnel: addresses, MTU, routes, and the rules of a default route.
//!
//! Pure. It never looks what the kernel has; it says what is missing of what should be there. The rules are those of
//! wg-quick(8), "Table": the default route stands in a table of its own, everything without the mark of our own
//! datagrams goes there, unless the main table has a more specific route.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use ipnet::IpNet;

use crate::config::{Config, Host, Peer, PublicKey, Table};

/// Is the kernel's main table (RT_TABLE_MAIN).
const MAIN_TABLE: u32 = 254;
/// Begins the number of a table of our own, far from what people number by hand: an interface's name gives the rest.
const OWN_TABLES: u32 = 0x5700_0000;

/// Says what the kernel should have, or what it lacks of that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) addresses: BTreeSet<IpNet>,
    pub(super) routes: BTreeSet<Route>,
    pub(super) rules: BTreeSet<Rule>,
}

/// Is a route into the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    pub(super) table: u32,
    pub(super) prefix: IpNet,
}

/// Says which of the two address families a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// Is a rule of policy routing, in the order in which they must be added: no packet may take the default route past a
/// more specific one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// The main table, but not its default route.
    MainWithoutDefault(Family),
    /// A table of our own, for all but our own datagrams.
    Unmarked { family: Family, mark: u32, table: u32 },
}

impl Rule {
    pub(super) fn family(self) -> Family {
        match self {
            Self::MainWithoutDefault(family) | Self::Unmarked { family, .. } => family,
        }
    }
}

impl Wanted {
    /// Says what the configuration asks for, without the default routes of the peers that are `held` back.
    pub(super) fn of(config: &Config, held: &HashSet<PublicKey>) -> Self {
        let tunnel = &config.tunnel;
        let own = own_table(&tunnel.interface);
        let mut wanted = Self { addresses: tunnel.addresses.iter().copied().collect(), ..Self::default() };
        // The kernel adds a route for each address' own network.
        let connected: Vec<IpNet> = tunnel.addresses.iter().map(IpNet::trunc).collect();
        let is_wanted = |peer: &Peer, prefix: &IpNet| prefix.prefix_len() > 0 || !held.contains(&peer.public_key);
        let of_peer = |peer| prefixes(peer).filter(move |prefix| is_wanted(peer, prefix));
        for prefix in config.peers.iter().flat_map(of_peer) {
            let table = match tunnel.table {
                Table::Off => continue,
                Table::Auto if connected.contains(&prefix) => continue,
                Table::Auto if prefix.prefix_len() == 0 => own,
                Table::Auto => MAIN_TABLE,
                Table::Number(number) => number,
            };
            wanted.routes.insert(Route { table, prefix });
            if tunnel.table == Table::Auto && prefix.prefix_len() == 0 {
                let family = if prefix.addr().is_ipv4() { Family::V4 } else { Family::V6 };
                wanted.rules.insert(Rule::MainWithoutDefault(family));
                wanted.rules.insert(Rule::Unmarked { family, mark: mark(config), table: own });
            }
        }
        wanted
    }

    /// Lists the peers whose default route would keep their endpoint's name from being looked up, for the look-up may
    /// need the host's own default route; what is here already stays.
    pub(super) fn held_back<'a>(&self, config: &'a Config) -> impl Iterator<Item = &'a Peer> {
        let is_here = |prefix: IpNet| self.routes.iter().any(|route| route.prefix == prefix);
        let is_held = move |peer: &&Peer| {
            let is_named = peer.endpoint.as_ref().is_some_and(|endpoint| matches!(endpoint.host, Host::Name(_)));
            is_named && prefixes(peer).any(|prefix| prefix.prefix_len() == 0 && !is_here(prefix))
        };
        config.peers.iter().filter(move |_| config.tunnel.table == Table::Auto).filter(is_held)
    }

    /// Says what of this is not in the other.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self {
            addresses: self.addresses.difference(&other.addresses).copied().collect(),
            routes: self.routes.difference(&other.routes).copied().collect(),
            rules: self.rules.difference(&other.rules).copied().collect(),
        }
    }

    /// Tells whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty() && self.rules.is_empty()
    }
}

impl fmt::Display for Wanted {
    /// Names every kind, and of each kind the first few: `its address 10.98.0.1/32, the routes to 10.98.0.2/32,
    /// 10.98.0.3/32, 2 rules for the default route`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            listed("its address", "its addresses", self.addresses.iter()),
            listed("the route to", "the routes to", self.routes.iter().map(|route| &route.prefix)),
            match self.rules.len() {
                0 => None,
                1 => Some("a rule for the default route".to_owned()),
                count => Some(format!("{count} rules for the default route")),
            },
        ];
        let kinds: Vec<String> = kinds.into_iter().flatten().collect();
        f.write_str(&kinds.join(", "))
    }
}

fn prefixes(peer: &Peer) -> impl Iterator<Item = IpNet> {
    peer.allowed_ips.iter().copied()
}

/// Is how many of the missing things of a kind a line names: a site has fewer, a hub's line stays readable.
const NAMED_MAX: usize = 8;

/// Names what is missing of a kind, if anything is.
fn listed<'a>(one: &str, many: &str, items: impl ExactSizeIterator<Item = &'a IpNet>) -> Option<String> {
    let count = items.len();
    let named: Vec<String> = items.take(NAMED_MAX).map(IpNet::to_string).collect();
    let more = match count.saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = if count == 1 { one } else { many };
    (count > 0).then(|| format!("{what} {}{more}", named.join(", ")))
}

/// Returns the mark of our own datagrams; 0: none. A default route needs one, so that they do not take it.
pub(super) fn mark(config: &Config) -> u32 {
    let tunnel = &config.tunnel;
    let mut prefixes = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
    if tunnel.fwmark == 0 && tunnel.table == Table::Auto && prefixes.any(|prefix| prefix.prefix_len() == 0) {
        return own_table(&tunnel.interface);
    }
    tunnel.fwmark
}

/// Returns the number of the table that is an interface's own (FNV-1a of its name, 24 bits of it).
///
/// The name belongs to one program at a time, and so does the number: what a run that was killed left behind under it
/// is nobody else's.
pub(super) fn own_table(interface: &str) -> u32 {
    let hash = interface.bytes().fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    OWN_TABLES | ((hash ^ (hash >> 24)) & 0x00ff_ffff)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, SecretKey};

    const KEYS: [&str; 2] =
        ["5EQWjucdiwf1NMA8EY5bDhP5w3sKBh91YtPBIE9Nuxs=", "3EFhTYg6JX8eJjSaf8+Wi7NxZiDhD9Fv9S644sYFiVg="];

    fn site(tunnel: &str, allowed: [&str; 2]) -> Config {
        let text = site_text(tunnel, allowed);
        config::parse(&text, Path::new("a.yaml"), &|_: &Path| Ok(SecretKey::new([1; 32]))).unwrap()
    }

    fn site_text(tunnel: &str, allowed: [&str; 2]) -> String {
        let peer = |number: usize| {
            format!(
                "  - {{name: p{number}, public_key: \"{}\", allowed_ips: [{}], routed: true}}\n",
                KEYS[number], allowed[number]
            )
        };
        format!(
            "site: a\ntunnel: {{private_key_file: k, address: [10.98.0.1/24, \"fd98::1\"]{tunnel}}}\npeers:\n{}{}",
            peer(0),
            peer(1)
        )
    }

    fn all_of(config: &Config) -> Wanted {
        Wanted::of(config, &HashSet::new())
    }

    fn routes(wanted: &Wanted) -> Vec<(u32, String)> {
        wanted.routes.iter().map(|route| (route.table, route.prefix.to_string())).collect()
    }

    #[test]
    fn allowed_ips_are_routed_in_the_main_table_unless_an_address_covers_them() {
        let wanted = all_of(&site("", ["10.98.0.0/24", "172.20.0.0/16, \"fd98::2\""]));
        assert_eq!(routes(&wanted), [(254, "172.20.0.0/16".to_owned()), (254, "fd98::2/128".to_owned())]);
        assert!(wanted.rules.is_empty());
        assert_eq!(mark(&site("", ["10.98.0.2", "10.98.0.3"])), 0);
    }

    #[test]
    fn a_default_route_has_a_table_a_mark_and_rules_of_its_family() {
        let config = site("", ["0.0.0.0/0, 10.1.0.0/16", "\"fd98::2\""]);
        let (wanted, table) = (all_of(&config), own_table("wl0"));
        assert_eq!(
            routes(&wanted),
            [(254, "10.1.0.0/16".to_owned()), (254, "fd98::2/128".to_owned()), (table, "0.0.0.0/0".to_owned())]
        );
        assert_eq!(mark(&config), table);
        let unmarked = |family, mark| Rule::Unmarked { family, mark, table };
        let in_order: Vec<Rule> = wanted.rules.iter().copied().collect();
        assert_eq!(in_order, [Rule::MainWithoutDefault(Family::V4), unmarked(Family::V4, table)]);
        let both = all_of(&site(", fwmark: 7", ["0.0.0.0/0", "\"::/0\""]));
        assert!(both.rules.contains(&unmarked(Family::V6, 7)) && both.rules.contains(&unmarked(Family::V4, 7)));
        assert_eq!(both.rules.len(), 4);
    }

    #[test]
    fn a_table_that_is_named_gets_every_route_and_no_rules() {
        let wanted = all_of(&site(", table: 7", ["0.0.0.0/0", "10.98.0.0/24"]));
        assert_eq!(routes(&wanted), [(7, "0.0.0.0/0".to_owned()), (7, "10.98.0.0/24".to_owned())]);
        assert!(wanted.rules.is_empty());
        let off = all_of(&site(", table: off", ["0.0.0.0/0", "10.98.0.0/24"]));
        assert!(off.routes.is_empty() && off.rules.is_empty());
        assert_eq!(mark(&site(", table: off", ["0.0.0.0/0", "10.98.0.3"])), 0);
    }

    #[test]
    fn the_default_route_of_a_peer_with_a_name_is_held_back() {
        let name = format!("endpoint: \"exit.example:1\", public_key: \"{}\"", KEYS[0]);
        let named = |tunnel: &str, allowed| {
            let text = site_text(tunnel, allowed).replace(&format!("public_key: \"{}\"", KEYS[0]), &name);
            config::parse(&text, Path::new("a.yaml"), &|_: &Path| Ok(SecretKey::new([1; 32]))).unwrap()
        };
        let held = |has: &Wanted, config: &Config| -> HashSet<PublicKey> {
            has.held_back(config).map(|peer| peer.public_key).collect()
        };
        let nothing = Wanted::default();
        let config = named("", ["0.0.0.0/0, 10.1.0.0/16", "\"::/0\""]);
        let key = config.peers[0].public_key;
        assert_eq!(held(&nothing, &config), HashSet::from([key]), "the other one has no name");
        let wanted = Wanted::of(&config, &HashSet::from([key]));
        assert_eq!(routes(&wanted), [(254, "10.1.0.0/16".to_owned()), (own_table("wl0"), "::/0".to_owned())]);
        assert!(wanted.rules.iter().all(|rule| rule.family() == Family::V6) && wanted.rules.len() == 2);
        assert!(held(&all_of(&config), &config).is_empty(), "what is there is not taken away");
        assert!(held(&nothing, &named("", ["10.0.0.0/8", "\"::/0\""])).is_empty());
        assert!(held(&nothing, &named(", table: 7", ["0.0.0.0/0", "\"::/0\""])).is_empty(), "it is the admin's");
    }

    #[test]
    fn what_is_lost_is_named() {
        let wanted = all_of(&site("", ["10.98.0.2, 10.98.0.3, 10.98.0.4", "0.0.0.0/0"]));
        let mut found = wanted.clone();
        assert!(wanted.without(&found).is_empty());
        found.addresses.pop_last();
        found.routes.pop_first();
        assert_eq!(wanted.without(&found).to_string(), "its address fd98::1/128, the route to 10.98.0.2/32");
        assert_eq!(
            wanted.to_string(),
            "its addresses 10.98.0.1/24, fd98::1/128, the routes to 10.98.0.2/32, 10.98.0.3/32, 10.98.0.4/32, \
             0.0.0.0/0, 2 rules for the default route"
        );
        found = wanted.clone();
        found.rules.pop_last();
        assert_eq!(wanted.without(&found).to_string(), "a rule for the default route");
    }

    #[test]
    fn a_line_about_a_large_hub_is_short_and_names_every_kind() {
        let many: Vec<String> = (0..100).map(|number| format!("10.7.{number}.0/24")).collect();
        let all = all_of(&site("", [&many.join(", "), "\"::/0\""])).to_string();
        assert!(all.contains("10.7.7.0/24 and 93 more, 2 rules"), "the 101st is the default route: {all}");
    }

    #[test]
    fn interfaces_have_tables_of_their_own() {
        assert_ne!(own_table("wl0"), own_table("wl1"));
        assert_eq!(own_table("wl0") >> 24, 0x57);
    }
}
