//! A site that runs plain WireGuard: wireguard-go, configured with `wg` and `ip` as an admin does.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::plan::UDP_PORT;
use super::process::Process;
use super::site::{Site, write_secret};
use super::until;

/// Bounds the start of wireguard-go.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Is the name of the interface.
pub(crate) const INTERFACE: &str = "wg0";

/// Is a running wireguard-go with its interface `wg0`.
pub(crate) struct WireGuardGo {
    program: Process,
    site: String,
}

impl WireGuardGo {
    /// Starts it in a site, with the site's key and inner addresses, and no peers.
    pub(crate) fn start(site: &Site) -> Self {
        let words = ["wireguard-go", "-f", INTERFACE].map(str::to_owned);
        let program = Process::start(&site.namespace, &words, &site.dir.join("wireguard-go.log"));
        until(START_LIMIT, "wireguard-go listens at its socket", || {
            // the file is there a moment before
            let listens = site.namespace.run(|| UnixStream::connect("/var/run/wireguard/wg0.sock").is_ok());
            listens.then_some(())
        });
        let key = site.dir.join("private.key").display().to_string();
        site.namespace.must(&format!("wg set {INTERFACE} listen-port {UDP_PORT} private-key {key}"));
        site.namespace.ip(&format!("addr add {}/32 dev {INTERFACE}", site.inner));
        if super::is_available("ipv6") {
            site.namespace.ip(&format!("addr add {}/128 dev {INTERFACE} nodad", site.inner_v6));
        }
        site.namespace.ip(&format!("link set {INTERFACE} up mtu 1420"));
        Self { program, site: site.name.to_owned() }
    }

    /// Adds a peer with further words for `wg set`, and routes its inner addresses into the tunnel.
    pub(crate) fn peer(&self, site: &Site, peer: &Site, more: &str) {
        let (key, inner, inner_v6) = (&peer.public_key, peer.inner, peer.inner_v6);
        let allowed = format!("{inner}/32,{inner_v6}/128");
        site.namespace.must(&format!(
            "wg set {INTERFACE} peer {key} endpoint {}:{UDP_PORT} allowed-ips {allowed} persistent-keepalive 5 {more}",
            peer.outer
        ));
        site.namespace.ip(&format!("route replace {inner}/32 dev {INTERFACE}"));
        if super::is_available("ipv6") {
            site.namespace.ip(&format!("-6 route replace {inner_v6}/128 dev {INTERFACE}"));
        }
    }

    /// Writes a preshared key file into the site's directory; returns its path.
    pub(crate) fn preshared_key(site: &Site, key: &str) -> String {
        let path = site.dir.join("psk");
        write_secret(&path, key);
        path.display().to_string()
    }
}

impl Drop for WireGuardGo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}: log of wireguard-go ----\n{}", self.site, self.program.log());
        }
    }
}
