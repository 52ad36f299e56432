//! What a new configuration changes: by name, and what of it needs a restart. Pure.
//!
//! It says what differs, never what a key is; whether a change works is for those who make it.

use std::fmt;

use super::{Config, Name, Peer, SecretKey, Tunnel};

/// Names that one line lists before it only counts.
const NAMES_MAX: usize = 8;

/// Is what is said where nothing differs.
pub const NOTHING_CHANGED: &str = "nothing changed";

/// Says how a new configuration differs from the one that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Lists the keys that cannot change while the site runs.
    pub restart: Vec<&'static str>,
    /// Lists the other keys of the tunnel that differ.
    pub tunnel: Vec<&'static str>,
    /// Lists the peers that differ.
    pub peers: Named,
    /// Lists the forwards that differ.
    pub forwards: Named,
    /// Lists the services that differ.
    pub services: Named,
    /// Tells that the alarms differ: their limits, or who is told.
    pub alarms: bool,
    /// Tells that the server differs that the audit log is sent to, or how it is met.
    pub atna: bool,
    /// Tells that the certificate of the health endpoints differs, or who may ask them.
    pub health: bool,
    /// Lists what `wg` had set and the reload undid: settings of the tunnel and peers' names.
    pub undone: Vec<String>,
}

/// Lists what differs of one kind, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Lists what is new.
    pub added: Vec<Name>,
    /// Lists what is there before and after, and differs.
    pub changed: Vec<Name>,
    /// Lists what is gone.
    pub removed: Vec<Name>,
}

impl Changes {
    /// Compares two configurations.
    pub fn between(old: &Config, new: &Config) -> Self {
        let (was, is) = (&old.tunnel, &new.tunnel);
        Self {
            restart: differing(&[
                ("site", old.site == new.site),
                ("state_dir", old.state_dir == new.state_dir),
                ("spool", old.spool == new.spool),
                ("audit", old.audit == new.audit),
                ("sandbox", old.sandbox == new.sandbox),
                ("control.socket", old.control_socket == new.control_socket),
                ("health.listen", old.health_listen == new.health_listen),
                ("health.agent_listen", old.agent_listen == new.agent_listen),
                ("tunnel.interface", was.interface == is.interface),
                ("tunnel.backend", was.backend == is.backend),
                ("tunnel.address", was.addresses == is.addresses),
                ("tunnel.link_port", was.link_port == is.link_port),
            ]),
            tunnel: tunnel(was, is),
            peers: Named::between(&old.peers, &new.peers, |peer| &peer.name, is_same_peer),
            forwards: Named::between(&old.forwards, &new.forwards, |forward| &forward.name, PartialEq::eq),
            services: Named::between(&old.services, &new.services, |service| &service.name, PartialEq::eq),
            alarms: old.alarms != new.alarms,
            atna: old.atna != new.atna,
            health: old.health_door != new.health_door,
            undone: Vec::new(),
        }
    }

    /// Tells whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Returns the key of before, where one counts.
fn old(tunnel: &Tunnel) -> Option<[u8; 32]> {
    tunnel.old_private_key.counting().map(|key| *key.expose())
}

fn tunnel(was: &Tunnel, is: &Tunnel) -> Vec<&'static str> {
    differing(&[
        ("private_key_file", was.private_key.expose() == is.private_key.expose()),
        ("old_private_key_file", old(was) == old(is)),
        ("listen_port", was.listen_port == is.listen_port),
        ("mtu", was.mtu == is.mtu),
        ("fwmark", was.fwmark == is.fwmark),
        ("table", was.table == is.table),
    ])
}

fn differing(keys: &[(&'static str, bool)]) -> Vec<&'static str> {
    keys.iter().filter(|(_, is_same)| !is_same).map(|(key, _)| *key).collect()
}

fn is_same_peer(was: &Peer, is: &Peer) -> bool {
    let secret = |key: &Option<SecretKey>| key.as_ref().map(|key| *key.expose());
    let of = |peer: &Peer| (peer.public_key, secret(&peer.preshared_key), peer.endpoint.clone());
    let more = |peer: &Peer| (peer.allowed_ips.clone(), peer.address, peer.persistent_keepalive);
    let rights = |peer: &Peer| (peer.routed, peer.host_access);
    of(was) == of(is) && more(was) == more(is) && rights(was) == rights(is)
}

impl Named {
    fn between<T>(old: &[T], new: &[T], name: fn(&T) -> &Name, is_same: fn(&T, &T) -> bool) -> Self {
        let mut named = Self::default();
        for is in new {
            match old.iter().find(|was| name(was) == name(is)) {
                None => named.added.push(name(is).clone()),
                Some(was) if !is_same(was, is) => named.changed.push(name(is).clone()),
                Some(_) => {}
            }
        }
        let is_gone = |was: &&T| !new.iter().any(|is| name(is) == name(was));
        named.removed = old.iter().filter(is_gone).map(|was| name(was).clone()).collect();
        named
    }
}

impl fmt::Display for Changes {
    /// Writes one line, such as `forwards: 1 added (images); peers: 1 changed (city-lab)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if !self.tunnel.is_empty() {
            parts.push(format!("tunnel: {} changed", self.tunnel.join(", ")));
        }
        for (kind, named) in [("peers", &self.peers), ("forwards", &self.forwards), ("services", &self.services)] {
            if *named != Named::default() {
                parts.push(format!("{kind}: {named}"));
            }
        }
        if self.alarms {
            parts.push("alarms changed".to_owned());
        }
        if self.atna {
            parts.push("audit.atna changed".to_owned());
        }
        if self.health {
            parts.push("health changed: its certificates or its token".to_owned());
        }
        if !self.undone.is_empty() {
            let shown = self.undone.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if self.undone.len() > NAMES_MAX { ", ..." } else { "" };
            parts.push(format!("what wg had set is undone: {} ({shown}{more})", self.undone.len()));
        }
        if parts.is_empty() {
            return f.write_str(NOTHING_CHANGED);
        }
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let filled = lists.into_iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> =
            filled.map(|(what, names)| format!("{} {what} ({})", names.len(), list(names))).collect();
        f.write_str(&parts.join(", "))
    }
}

fn list(names: &[Name]) -> String {
    let mut text = names.iter().take(NAMES_MAX).map(Name::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        text.push_str(", ...");
    }
    text
}

#[cfg(test)]
mod tests;
