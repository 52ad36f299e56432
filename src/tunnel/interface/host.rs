//! The host's own settings that decide whether routed peers and default routes work: it reads them and says so.
//!
//! Of all of them it writes one, as wg-quick(8) does: `src_valid_mark`. The settings: Linux,
//! Documentation/networking/ip-sysctl.rst.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::wanted::{Family, Rule, Wanted};
use crate::config::Config;

const IPV4: &str = "/proc/sys/net/ipv4";
const IPV6: &str = "/proc/sys/net/ipv6";

/// Says what on this host keeps `routed` peers or default routes from working.
pub(super) fn check(config: &Config) {
    for setting in not_forwarding(config) {
        tracing::warn!(
            "{setting} is 0, so that this host forwards nothing for peers with routed: true; where they shall reach \
             addresses behind this site or each other: sysctl -w {setting}=1"
        );
    }
    let has_default = Wanted::of(config, &HashSet::new()).rules.contains(&Rule::MainWithoutDefault(Family::V4));
    if !has_default {
        return;
    }
    let strict = strict_interfaces(&config.tunnel.interface);
    let (Some(first), false) = (strict.first(), is_set("conf/all/src_valid_mark")) else { return };
    match fs::write(format!("{IPV4}/conf/all/src_valid_mark"), "1") {
        Ok(()) => tracing::info!("set net.ipv4.conf.all.src_valid_mark to 1, for the default route"),
        Err(error) => tracing::warn!(%error, "cannot set net.ipv4.conf.all.src_valid_mark to 1"),
    }
    tracing::warn!(
        "net.ipv4.conf.{first}.rp_filter is strict: with the default route in the tunnel the kernel drops the peer's \
         answers there; sysctl -w net.ipv4.conf.{first}.rp_filter=2"
    );
}

/// Lists the settings that would have to be 1 for `routed` to have any effect, and are 0.
fn not_forwarding(config: &Config) -> Vec<&'static str> {
    let routed = || config.peers.iter().filter(|peer| peer.routed).flat_map(|peer| &peer.allowed_ips);
    let v4 = routed().any(|prefix| prefix.addr().is_ipv4()) && !is_on(&format!("{IPV4}/ip_forward"));
    let v6 = routed().any(|prefix| prefix.addr().is_ipv6())
        && Path::new(IPV6).exists()
        && !is_on(&format!("{IPV6}/conf/all/forwarding"));
    let settings = [(v4, "net.ipv4.ip_forward"), (v6, "net.ipv6.conf.all.forwarding")];
    settings.into_iter().filter_map(|(is_off, setting)| is_off.then_some(setting)).collect()
}

/// Lists the interfaces, ours apart, at which the kernel drops a packet that it would not answer through the same one.
fn strict_interfaces(ours: &str) -> Vec<String> {
    let filter = |interface: &str| number(&format!("{IPV4}/conf/{interface}/rp_filter"));
    let all = filter("all");
    let Ok(entries) = fs::read_dir(format!("{IPV4}/conf")) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let others = names.filter(|name| !["all", "default", "lo", ours].contains(&name.as_str()));
    // The greater of both holds: 0 none, 1 strict, 2 loose.
    let mut strict: Vec<String> = others.filter(|name| filter(name).max(all) == 1).collect();
    strict.sort_unstable();
    strict
}

fn is_set(setting: &str) -> bool {
    is_on(&format!("{IPV4}/{setting}"))
}

fn is_on(path: &str) -> bool {
    number(path) != 0
}

fn number(path: &str) -> u32 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
