//! The Internet between the sites: a namespace that routes between one network for each site, as a provider does.
//!
//! ```text
//!   site 1  w0 192.0.2.2/24 ──── w1 .1 ┐
//!   site 2  w0 198.51.100.2/24 ─ w2 .1 ├ wire (routes; here is cut and captured)
//!   site 3  w0 203.0.113.2/24 ── w3 .1 ┘      IPv6: 2001:db8:N::/64, N the site's number
//! ```
//! Addresses: RFC 5737, RFC 3849.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::isolation::STATE;
use super::namespace::Namespace;
use super::site::Site;

/// Lists the sites' networks outside the tunnel.
const NETWORKS: [[u8; 3]; 3] = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];

/// Numbers the wires of this process, for directories of their own.
static WIRES: AtomicU32 = AtomicU32::new(0);

/// Is the network between the sites of one test.
pub(crate) struct Wire {
    /// Is where every packet between sites passes.
    pub(crate) namespace: Namespace,
    number: u32,
    sites: AtomicU8,
}

impl Wire {
    /// Makes a wire without sites.
    pub(crate) fn new() -> Self {
        let namespace = Namespace::new("wire");
        namespace.run(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("ip_forward");
            // absent where the kernel has no IPv6
            let _ = fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
            let _ = fs::write("/proc/sys/net/ipv6/conf/all/keep_addr_on_down", "1");
        });
        Self { namespace, number: WIRES.fetch_add(1, Ordering::Relaxed), sites: AtomicU8::new(0) }
    }

    /// Adds a site, at most three.
    pub(crate) fn site(&self, name: &'static str) -> Site {
        let number = self.sites.fetch_add(1, Ordering::Relaxed) + 1;
        let dir = format!("{STATE}/{}-{name}", self.number);
        fs::create_dir_all(&dir).expect("the site's directory");
        let site = Site::new(name, number, dir.into());
        let wire = &self.namespace;
        let inside = &site.namespace;
        wire.ip(&format!("link add w{number} type veth peer name w0 netns {}", inside.thread_id()));
        for (namespace, device, host) in [(wire, format!("w{number}"), 1), (&**inside, "w0".to_owned(), 2)] {
            namespace.ip(&format!("addr add {}/24 dev {device}", outer_v4(number, host)));
            if super::is_available("ipv6") {
                namespace.ip(&format!("addr add {}/64 dev {device} nodad", outer_v6(number, host)));
            }
            namespace.ip(&format!("link set {device} up"));
        }
        inside.ip(&format!("route add default via {}", outer_v4(number, 1)));
        if super::is_available("ipv6") {
            inside.ip(&format!("-6 route add default via {}", outer_v6(number, 1)));
        }
        site
    }

    /// Swallows every packet between sites, without a word to anybody, as a broken provider does.
    pub(crate) fn cut(&self) {
        self.each_family("rule add pref 1 blackhole");
    }

    /// Lets packets pass again.
    pub(crate) fn mend(&self) {
        self.each_family("rule del pref 1 blackhole");
    }

    /// Pulls a site's plug: its uplink has no carrier, and what comes for it is refused as unreachable.
    pub(crate) fn unplug(&self, site: &Site) {
        self.namespace.ip(&format!("link set w{} down", site.number));
    }

    /// Puts it in again.
    pub(crate) fn plug(&self, site: &Site) {
        self.namespace.ip(&format!("link set w{} up", site.number));
    }

    fn each_family(&self, arguments: &str) {
        self.namespace.ip(&format!("-4 {arguments}"));
        if super::is_available("ipv6") {
            self.namespace.ip(&format!("-6 {arguments}"));
        }
    }
}

/// Returns a host's address in the site's network outside the tunnel.
pub(crate) fn outer_v4(site: u8, host: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORKS[usize::from(site) - 1];
    Ipv4Addr::new(a, b, c, host)
}

/// Returns the IPv6 address of the same host.
pub(crate) fn outer_v6(site: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, site.into(), 0, 0, 0, 0, host.into())
}
