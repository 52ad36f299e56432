//! Asks the kernel for addresses, routes and rules of the tunnel, and changes them, by rtnetlink.
//!
//! It decides nothing. It touches routes and addresses of one interface, and of the rules only those that carry our
//! protocol number (rtnetlink(7), FRA_PROTOCOL).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_core::{ErrorMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, Handle, IpVersion, LinkUnspec, RouteMessageBuilder};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::super::TunnelError;
use super::super::locals::HostAddresses;
use super::super::udp::segments_max;
use super::events::Event;
use super::wanted::{Family, Route, Rule, Wanted};

/// Packets that wait for the data thread: as many as fit a megabyte or so; fewer throttle TCP.
const QUEUE_PACKETS: u32 = 1000;
/// Marks our rules among everybody's: a number that no routing daemon has (iproute2, etc/iproute2/rt_protos).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x57);
/// Where our rules stand: right before the kernel's rule for the main table (32766), after what an admin added before.
const MAIN_PRIORITY: u32 = 32764;
const UNMARKED_PRIORITY: u32 = 32765;
/// The kernel's own table of what ends at this host (linux/rtnetlink.h).
const RT_TABLE_LOCAL: u8 = 255;

/// Is the index that no interface has.
const NO_INTERFACE: u32 = 0;

/// Speaks to the kernel about one interface.
pub(super) struct Kernel {
    handle: Handle,
    index: u32,
    connection: AbortHandle,
    /// Is held while the kernel lists something: it gives a socket one list at a time, and refuses a second (EBUSY).
    listing: Mutex<()>,
}

/// Says what the kernel has.
pub(super) struct Found {
    pub(super) is_up: bool,
    pub(super) mtu: u32,
    pub(super) has: Wanted,
}

impl Kernel {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open(interface: &str) -> Result<Self, TunnelError> {
        let index = if_nametoindex(interface).map_err(|source| TunnelError::Netlink { source: source.into() })?;
        Self::with_index(index)
    }

    /// Opens one that is good for rules alone: they outlive the interface.
    pub(super) fn open_for_rules() -> Result<Self, TunnelError> {
        Self::with_index(NO_INTERFACE)
    }

    fn with_index(index: u32) -> Result<Self, TunnelError> {
        // Strict: the kernel then sends only the interface's own routes, where a router has a million.
        let opened = rtnetlink::new_connection_with_strict_check().or_else(|_| rtnetlink::new_connection());
        let (connection, handle, _) = opened.map_err(|source| TunnelError::Netlink { source })?;
        Ok(Self { handle, index, connection: tokio::spawn(connection).abort_handle(), listing: Mutex::default() })
    }

    /// Looks what there is.
    pub(super) async fn look(&self) -> Result<Found, rtnetlink::Error> {
        let link = self.handle.link().get().match_index(self.index).execute().try_next().await?;
        let link = link.ok_or(rtnetlink::Error::RequestFailed)?;
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        let mut has = Wanted { rules: self.rules().await?, ..Wanted::default() };
        let _one = self.listing.lock().await;
        let mut addresses = self.handle.address().get().set_link_index_filter(self.index).execute();
        while let Some(message) = addresses.try_next().await? {
            has.addresses.extend(address_of(&message));
        }
        for family in families() {
            let mut request = RouteMessage::default();
            request.header.address_family = address_family(family);
            request.attributes.push(RouteAttribute::Oif(self.index));
            let mut routes = self.handle.route().get(request).execute();
            while let Some(message) = routes.try_next().await? {
                has.routes.extend(route_of(&message, self.index));
            }
        }
        Ok(Found { is_up: link.header.flags.contains(LinkFlags::Up), mtu: mtu.unwrap_or(0), has })
    }

    /// Lists the rules of ours, of every interface.
    pub(super) async fn rules(&self) -> Result<BTreeSet<Rule>, rtnetlink::Error> {
        let _one = self.listing.lock().await;
        let mut found = BTreeSet::new();
        for family in families() {
            let version = match family {
                Family::V4 => IpVersion::V4,
                Family::V6 => IpVersion::V6,
            };
            let mut rules = self.handle.rule().get(version).execute();
            while let Some(message) = rules.try_next().await? {
                found.extend(rule_of(&message, family));
            }
        }
        Ok(found)
    }

    /// Lists what the kernel takes for this host, whatever the interface: its addresses and their broadcast addresses.
    pub(super) async fn local_addresses(&self) -> Result<HostAddresses, rtnetlink::Error> {
        let _one = self.listing.lock().await;
        let mut found = Vec::new();
        for family in families() {
            let mut request = RouteMessage::default();
            request.header.address_family = address_family(family);
            request.header.table = RT_TABLE_LOCAL;
            let mut routes = self.handle.route().get(request).execute();
            while let Some(message) = routes.try_next().await? {
                found.extend(is_local(&message).then(|| prefix_of(&message)).flatten());
            }
        }
        Ok(found.into_iter().collect())
    }

    pub(super) async fn set_link(&self, mtu: u16) -> Result<(), rtnetlink::Error> {
        let link = LinkUnspec::new_with_index(self.index)
            .mtu(mtu.into())
            .txqueuelen(QUEUE_PACKETS)
            // A super-packet then becomes one call's worth of datagrams, not one and a bit.
            .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments_max(usize::from(mtu))))
            .up()
            .build();
        self.handle.link().set(link).execute().await
    }

    pub(super) async fn add_address(&self, address: IpNet) -> Result<(), rtnetlink::Error> {
        let mut request = self.handle.address().add(self.index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            // Nobody else can have it, and until a detection of duplicates ended nothing could be bound to it.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await
    }

    pub(super) async fn remove_address(&self, address: IpNet) -> Result<(), rtnetlink::Error> {
        let message = match address {
            IpNet::V4(address) => {
                let builder = AddressMessageBuilder::<Ipv4Addr>::new().index(self.index);
                builder.address(address.addr(), address.prefix_len()).build()
            }
            IpNet::V6(address) => {
                let builder = AddressMessageBuilder::<Ipv6Addr>::new().index(self.index);
                builder.address(address.addr(), address.prefix_len()).build()
            }
        };
        self.handle.address().del(message).execute().await
    }

    pub(super) async fn add_route(&self, route: Route) -> Result<(), rtnetlink::Error> {
        self.handle.route().add(self.route(route)?).execute().await
    }

    pub(super) async fn remove_route(&self, route: Route) -> Result<(), rtnetlink::Error> {
        let mut message = self.route(route)?;
        // Whatever its scope is: an admin may have added it by hand again.
        message.header.scope = RouteScope::NoWhere;
        self.handle.route().del(message).execute().await
    }

    fn route(&self, route: Route) -> Result<RouteMessage, rtnetlink::Error> {
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(route.prefix.network(), route.prefix.prefix_len())
            .map_err(|error| rtnetlink::Error::InvalidNla(error.to_string()))?;
        let scope = if route.prefix.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        Ok(builder.output_interface(self.index).scope(scope).table_id(route.table).build())
    }

    pub(super) async fn add_rule(&self, rule: Rule) -> Result<(), rtnetlink::Error> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule_message(rule);
        request.execute().await
    }

    pub(super) async fn remove_rule(&self, rule: Rule) -> Result<(), rtnetlink::Error> {
        self.handle.rule().del(rule_message(rule)).execute().await
    }

    /// Tells whether what the kernel tells its listeners may concern us.
    pub(super) fn concerns(&self, message: &Event) -> bool {
        match &message.payload {
            NetlinkPayload::InnerMessage(inner) => match inner {
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                    link.header.index == self.index
                }
                RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                    address.header.index == self.index
                }
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                    leaves_by(route, self.index)
                }
                RouteNetlinkMessage::NewRule(rule) | RouteNetlinkMessage::DelRule(rule) => is_ours(rule),
                _ => false,
            },
            NetlinkPayload::Done(_) | NetlinkPayload::Noop => false,
            // Something was lost: it may have been ours.
            _ => true,
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Lists the families that the kernel has.
fn families() -> impl Iterator<Item = Family> {
    let has_v6 = Path::new("/proc/sys/net/ipv6").exists();
    [Family::V4, Family::V6].into_iter().filter(move |family| *family == Family::V4 || has_v6)
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn rule_message(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family());
    message.header.action = RuleAction::ToTable;
    message.attributes = match rule {
        Rule::MainWithoutDefault(_) => {
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            vec![RuleAttribute::Priority(MAIN_PRIORITY), RuleAttribute::SuppressPrefixLen(0)]
        }
        Rule::Unmarked { mark, table, .. } => {
            message.header.flags = RuleFlags::Invert;
            vec![
                RuleAttribute::Priority(UNMARKED_PRIORITY),
                RuleAttribute::FwMark(mark),
                RuleAttribute::FwMask(u32::MAX),
                RuleAttribute::Table(table),
            ]
        }
    };
    message.attributes.push(RuleAttribute::Protocol(PROTOCOL));
    message
}

fn is_ours(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(PROTOCOL))
}

fn rule_of(message: &RuleMessage, family: Family) -> Option<Rule> {
    let number = |read: fn(&RuleAttribute) -> Option<u32>| message.attributes.iter().find_map(read);
    if !is_ours(message) {
        return None;
    }
    let mark = number(|attribute| if let RuleAttribute::FwMark(mark) = attribute { Some(*mark) } else { None });
    let table = number(|attribute| if let RuleAttribute::Table(table) = attribute { Some(*table) } else { None });
    Some(match mark {
        Some(mark) => Rule::Unmarked { family, mark, table: table? },
        None => Rule::MainWithoutDefault(family),
    })
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(any)?, message.header.prefix_len).ok()
}

fn route_of(message: &RouteMessage, index: u32) -> Option<Route> {
    if message.header.kind != RouteType::Unicast || !leaves_by(message, index) {
        return None;
    }
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let prefix = prefix_of(message)?;
    Some(Route { table: table.unwrap_or(message.header.table.into()), prefix })
}

pub(super) fn prefix_of(message: &RouteMessage) -> Option<IpNet> {
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let nothing = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNet::new(destination.unwrap_or(nothing), message.header.destination_prefix_length).ok()
}

/// Tells whether a route says that packets end at this host; other tables than the kernel's own hold special cases.
pub(super) fn is_local(message: &RouteMessage) -> bool {
    message.header.table == RT_TABLE_LOCAL
        && matches!(message.header.kind, RouteType::Local | RouteType::Broadcast | RouteType::Anycast)
}

fn leaves_by(message: &RouteMessage, index: u32) -> bool {
    message.attributes.contains(&RouteAttribute::Oif(index))
}

/// Returns the kernel's error number, if it is one of the kernel's.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => Some(code.get().abs()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lists_that_are_asked_for_at_once_come_one_after_the_other() {
        let kernel = Kernel::open("lo").expect("netlink");
        let within = std::time::Duration::from_millis(100);
        // Short lists end with their first message, so that the kernel refuses a second one only of large hosts.
        let one = kernel.listing.lock().await;
        let early = tokio::join!(
            tokio::time::timeout(within, kernel.local_addresses()),
            tokio::time::timeout(within, kernel.look()),
            tokio::time::timeout(within, kernel.rules())
        );
        assert!(early.0.is_err() && early.1.is_err() && early.2.is_err(), "they wait");
        drop(one);
        let (locals, look, rules) = tokio::join!(kernel.local_addresses(), kernel.look(), kernel.rules());
        assert!(locals.is_ok() && look.is_ok() && rules.is_ok());
    }
}
