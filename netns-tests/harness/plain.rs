//! A site that runs plain WireGuard: wireguard-go, boringtun-cli or gotatun, configured with `wg` and `ip` as an admin
//! does.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::plan::UDP_PORT;
use super::process::Process;
use super::site::{Site, write_secret};
use super::until;

/// Bounds the start of the program.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Is the name of the interface.
pub(crate) const INTERFACE: &str = "wg0";

/// Is its control socket.
const SOCKET: &str = "/var/run/wireguard/wg0.sock";

/// Says which program a plain site runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    WireGuardGo,
    BoringtunCli,
    Gotatun,
}

impl Program {
    /// Returns the words that run it in the foreground, as whoever starts it.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::WireGuardGo => &["wireguard-go", "-f", INTERFACE],
            Self::BoringtunCli => &["boringtun-cli", "-f", "--disable-drop-privileges", INTERFACE],
            Self::Gotatun => &["gotatun", "-f", "--disable-drop-privileges", INTERFACE],
        }
    }
}

/// Is a running program with its interface `wg0`.
pub(crate) struct Plain {
    process: Process,
    program: Program,
    site: String,
}

/// Is the one that most tests use.
pub(crate) type WireGuardGo = Plain;

impl Plain {
    /// Starts wireguard-go in a site, with the site's key and inner addresses, and no peers.
    pub(crate) fn start(site: &Site) -> Self {
        Self::run(site, Program::WireGuardGo)
    }

    /// Starts a program in a site, with the site's key and inner addresses, and no peers.
    pub(crate) fn run(site: &Site, program: Program) -> Self {
        // one that was killed leaves its socket behind
        site.namespace.run(|| std::fs::remove_file(SOCKET).ok());
        let words: Vec<String> = program.words().iter().map(|word| (*word).to_owned()).collect();
        let process = Process::start(&site.namespace, &words, &site.dir.join("plain.log"));
        until(START_LIMIT, "its control socket is there", || {
            // the file is there a moment before
            let listens = site.namespace.run(|| UnixStream::connect(SOCKET).is_ok());
            listens.then_some(())
        });
        // boringtun-cli panics at a peer that comes before the key, and cannot change the key afterwards
        let key = site.dir.join("private.key").display().to_string();
        site.namespace.must(&format!("wg set {INTERFACE} listen-port {UDP_PORT} private-key {key}"));
        site.namespace.ip(&format!("addr add {}/32 dev {INTERFACE}", site.inner));
        if super::is_available("ipv6") {
            site.namespace.ip(&format!("addr add {}/128 dev {INTERFACE} nodad", site.inner_v6));
        }
        site.namespace.ip(&format!("link set {INTERFACE} up mtu 1420"));
        Self { process, program, site: site.name.to_owned() }
    }

    /// Adds a peer at its IPv4 address with further words for `wg set`, and routes its inner addresses into the tunnel.
    pub(crate) fn peer(&self, site: &Site, peer: &Site, more: &str) {
        let endpoint = SocketAddr::new(peer.outer.into(), UDP_PORT);
        self.add(site, peer, &format!("endpoint {endpoint} persistent-keepalive 5 {more}"));
    }

    /// Adds a peer with these words for `wg set`, in one call and never again: boringtun-cli panics where an existing
    /// peer is set.
    pub(crate) fn add(&self, site: &Site, peer: &Site, words: &str) {
        let (key, inner, inner_v6) = (&peer.public_key, peer.inner, peer.inner_v6);
        let allowed = format!("{inner}/32,{inner_v6}/128");
        site.namespace.must(&format!("wg set {INTERFACE} peer {key} allowed-ips {allowed} {words}"));
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

impl Drop for Plain {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}: log of {:?} ----\n{}", self.site, self.program, self.process.log());
        }
    }
}
