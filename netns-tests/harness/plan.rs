//! Writes a site's configuration by the contract (product.md), as an admin would: text, not wardlink's own types.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;

use super::site::Site;

/// Is the configuration of a site, while a test puts it together.
#[derive(Clone)]
pub(crate) struct Plan {
    site: String,
    dir: String,
    tunnel: Vec<String>,
    peers: String,
    forwards: String,
    services: String,
    spool: String,
    listen: String,
    health: String,
    more: String,
}

/// Is the UDP port of every site.
pub(crate) const UDP_PORT: u16 = 51820;

/// Is the TCP port inside the tunnel where links arrive.
pub(crate) const LINK_PORT: u16 = 2570;

/// Is where the health endpoints listen, at every site.
pub(crate) const HEALTH: &str = "127.0.0.1:9575";

impl Plan {
    /// Describes a site without peers, forwards and services; its inner address is IPv4.
    pub(crate) fn of(site: &Site) -> Self {
        Self {
            site: site.name.to_owned(),
            dir: site.dir.display().to_string(),
            tunnel: vec![format!("address: [{}/32]", site.inner)],
            peers: String::new(),
            forwards: String::new(),
            services: String::new(),
            spool: String::new(),
            listen: HEALTH.to_owned(),
            health: String::new(),
            more: String::new(),
        }
    }

    /// Says where the key of the spools is.
    pub(crate) fn spool(mut self, key_file: &str) -> Self {
        self.spool = format!("\nspool:\n  key_file: {key_file}\n");
        self
    }

    /// Has health be asked elsewhere.
    pub(crate) fn health_at(mut self, listen: SocketAddr) -> Self {
        self.listen = listen.to_string();
        self
    }

    /// Adds a line to the section of health.
    pub(crate) fn health(mut self, line: &str) -> Self {
        let _ = writeln!(self.health, "  {line}");
        self
    }

    /// Adds a whole section.
    pub(crate) fn section(mut self, text: &str) -> Self {
        let _ = write!(self.more, "\n{text}\n");
        self
    }

    /// Gives the inner addresses, instead of the IPv4 one.
    pub(crate) fn addresses(mut self, addresses: &str) -> Self {
        self.tunnel = vec![format!("address: [{addresses}]")];
        self
    }

    /// Adds a line to the section of the tunnel.
    pub(crate) fn tunnel(mut self, line: &str) -> Self {
        self.tunnel.push(line.to_owned());
        self
    }

    /// Adds a peer that is reached at its IPv4 address.
    pub(crate) fn peer(self, peer: &Site) -> Self {
        let endpoint = SocketAddr::new(peer.outer.into(), UDP_PORT);
        let allowed = format!("{}/32", peer.inner);
        self.peer_with(peer, &allowed, &[&format!("endpoint: \"{endpoint}\"")])
    }

    /// Adds a peer without an endpoint: it comes by itself.
    pub(crate) fn peer_that_comes(self, peer: &Site) -> Self {
        let allowed = format!("{}/32", peer.inner);
        self.peer_with(peer, &allowed, &[])
    }

    /// Adds a peer with its allowed IPs and further lines.
    pub(crate) fn peer_with(mut self, peer: &Site, allowed: &str, lines: &[&str]) -> Self {
        let (name, key) = (peer.name, &peer.public_key);
        let _ = writeln!(self.peers, "  - name: {name}\n    public_key: \"{key}\"\n    allowed_ips: [{allowed}]");
        for line in lines {
            let _ = writeln!(self.peers, "    {line}");
        }
        if !lines.iter().any(|line| line.starts_with("persistent_keepalive")) {
            self.peers.push_str("    persistent_keepalive: 5s\n");
        }
        self
    }

    /// Adds a forward; `target` is its `service:` or `to:` line.
    pub(crate) fn forward(mut self, name: &str, listen: SocketAddr, peer: &str, target: &str, lines: &[&str]) -> Self {
        let _ = writeln!(self.forwards, "  - name: {name}\n    listen: \"{listen}\"\n    peer: {peer}\n    {target}");
        for line in lines {
            let _ = writeln!(self.forwards, "    {line}");
        }
        self
    }

    /// Adds a service.
    pub(crate) fn service(mut self, name: &str, target: impl Display, allow_peers: &str, lines: &[&str]) -> Self {
        let _ = writeln!(self.services, "  - name: {name}\n    target: \"{target}\"\n    allow_peers: [{allow_peers}]");
        for line in lines {
            let _ = writeln!(self.services, "    {line}");
        }
        self
    }

    /// Returns the file's text.
    pub(crate) fn yaml(&self) -> String {
        let Self { site, dir, .. } = self;
        let mut text = format!(
            "site: {site}\nstate_dir: {dir}/state\n\ntunnel:\n  interface: wl0\n  \
             private_key_file: {dir}/private.key\n  listen_port: {UDP_PORT}\n  link_port: {LINK_PORT}\n"
        );
        for line in &self.tunnel {
            let _ = writeln!(text, "  {line}");
        }
        for (section, entries) in [("peers", &self.peers), ("forwards", &self.forwards), ("services", &self.services)] {
            if !entries.is_empty() {
                let _ = write!(text, "\n{section}:\n{entries}");
            }
        }
        text.push_str(&self.spool);
        let _ = write!(text, "\nhealth:\n  listen: \"{}\"\n{}", self.listen, self.health);
        let _ = write!(text, "\ncontrol:\n  socket: {dir}/control.sock\n{}", self.more);
        text
    }
}
