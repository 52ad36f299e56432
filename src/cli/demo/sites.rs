//! The configurations of the demo's two sites, as a file would give them: hospital and lab.
//!
//! The hospital sends orders to the lab, the lab sends results back. The keys are new in every run and kept nowhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::DemoError;
use super::confine::PRIVATE_DIRECTORY;
use crate::config::{
    Audit, Backend, Config, Delivery, Endpoint, Forward, Host, Name, OnUnreachable, Peer, Probe, PublicKey,
    ReceiverPolicy, SecretKey, Service, Table, Target, Transparent, Tunnel, UdpOffload,
};
use crate::mllp::dialect::Dialect;

/// Is the UDP port of WireGuard at both sites.
pub(super) const WIREGUARD_PORT: u16 = 51820;

/// Is where a site takes messages from its senders: MLLP's own port.
pub(super) const SENDERS: SocketAddr = local(2575);

/// Is where a site's receiver listens.
pub(super) const RECEIVER: SocketAddr = local(6661);

/// Is where a site tells its health.
const HEALTH: SocketAddr = local(9575);

/// Is larger than any message of the demo.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;

/// Is more than the demo opens at once.
const CONNECTIONS_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// Is one of the two sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Site {
    /// Names the site.
    pub(super) name: &'static str,
    /// Is its address on the wire.
    pub(super) wire: Ipv4Addr,
    /// Is its address in the tunnel.
    pub(super) tunnel: Ipv4Addr,
    /// Names its TUN interface; each its own, for the sites share a filesystem.
    interface: &'static str,
    /// Names what it sends; its peer's service has the same name.
    sends: &'static str,
}

/// Is the site that sends orders.
pub(super) const HOSPITAL: Site = Site {
    name: "hospital",
    wire: Ipv4Addr::new(192, 0, 2, 1),
    tunnel: Ipv4Addr::new(10, 98, 0, 1),
    interface: "wl-hospital",
    sends: "orders",
};

/// Is the site that sends results.
pub(super) const LAB: Site = Site {
    name: "lab",
    wire: Ipv4Addr::new(192, 0, 2, 2),
    tunnel: Ipv4Addr::new(10, 98, 0, 2),
    interface: "wl-lab",
    sends: "results",
};

/// Makes the configurations of hospital and lab, in this order, with new keys.
///
/// # Errors
/// There is no randomness.
pub(super) fn configs() -> Result<(Config, Config), DemoError> {
    let (hospital, lab, preshared) = (key()?, key()?, key()?);
    let public = |secret: &SecretKey| {
        let secret = x25519_dalek::StaticSecret::from(*secret.expose());
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    };
    let (of_hospital, of_lab) = (public(&hospital), public(&lab));
    // The lab waits for the hospital to come: no datagram meets a port that is not open yet.
    let to_hospital = peer(HOSPITAL, of_hospital, preshared.clone(), None);
    let endpoint = Endpoint { host: Host::Address(LAB.wire.into()), port: WIREGUARD_PORT };
    let to_lab = peer(LAB, of_lab, preshared, Some(endpoint));
    Ok((config(HOSPITAL, hospital, LAB, to_lab), config(LAB, lab, HOSPITAL, to_hospital)))
}

fn config(site: Site, private_key: SecretKey, far: Site, peer: Peer) -> Config {
    let directory = Path::new(PRIVATE_DIRECTORY).join("wardlink-demo").join(site.name);
    let tunnel = Tunnel {
        interface: site.interface.to_owned(),
        backend: Backend::Auto,
        udp_offload: UdpOffload::Auto,
        private_key,
        old_private_key: crate::config::OldKey::None,
        listen_port: WIREGUARD_PORT,
        addresses: vec![host(site.tunnel)],
        mtu: 1420,
        fwmark: 0,
        table: Table::Auto,
        link_port: 2570,
        endpoint: None,
        uapi_socket: None,
    };
    let forward = Forward {
        name: name(site.sends),
        listen: SENDERS,
        tls: None,
        allow_from: Vec::new(),
        peer: peer.name.clone(),
        target: Target::Service(name(site.sends)),
        message_bytes_max: MESSAGE_BYTES_MAX,
        delivery: Delivery::Transparent(Transparent {
            on_unreachable: OnUnreachable::Hold,
            hold_for: Duration::from_secs(30),
        }),
        connections_max: CONNECTIONS_MAX,
        source_connections_max: CONNECTIONS_MAX,
        source_rate_max: CONNECTIONS_MAX,
        frame_timeout: Duration::from_secs(30),
        idle_timeout: None,
        silent_after: None,
        dialect: Dialect::RELEASE_1,
    };
    let service = Service {
        name: name(far.sends),
        target: Endpoint { host: Host::Address(RECEIVER.ip()), port: RECEIVER.port() },
        tls: None,
        allow_peers: vec![peer.name.clone()],
        port: None,
        ack_timeout: None,
        connections_max: CONNECTIONS_MAX,
        probe: Probe::None,
        stored: ReceiverPolicy::default(),
    };
    Config {
        site: name(site.name),
        control_socket: directory.join("control.sock"),
        sandbox: false,
        state_dir: directory,
        tunnel,
        peers: vec![peer],
        forwards: vec![forward],
        services: vec![service],
        spool: None,
        audit: Audit::default(),
        atna: None,
        health_listen: Some(HEALTH),
        health_door: None,
        agent_listen: None,
        alarms: crate::config::Alarms::default(),
    }
}

fn peer(site: Site, public_key: PublicKey, preshared: SecretKey, endpoint: Option<Endpoint>) -> Peer {
    Peer {
        name: name(site.name),
        public_key,
        first_key: public_key,
        next_key: None,
        knows_new_key: false,
        preshared_key: Some(preshared),
        endpoint,
        allowed_ips: vec![host(site.tunnel)],
        address: Some(site.tunnel.into()),
        persistent_keepalive: Some(Duration::from_secs(25)),
        routed: false,
        host_access: false,
    }
}

fn key() -> Result<SecretKey, DemoError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| DemoError::Random)?;
    Ok(SecretKey::new(bytes))
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn host(address: Ipv4Addr) -> IpNet {
    IpNet::from(IpAddr::V4(address))
}

/// Turns a literal of this file into a name; a test reads them all.
#[expect(clippy::expect_used, reason = "the names are literals of this file, which a test reads")]
fn name(literal: &'static str) -> Name {
    Name::new(literal).expect("a name of the demo is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sends_what_the_other_serves_and_knows_its_key() {
        let (hospital, lab) = configs().unwrap();
        for (near, far) in [(&hospital, &lab), (&lab, &hospital)] {
            let [forward] = near.forwards.as_slice() else { panic!("one forward") };
            let [service] = far.services.as_slice() else { panic!("one service") };
            assert_eq!(forward.target, Target::Service(service.name.clone()));
            assert_eq!(forward.peer, far.site);
            assert_eq!(service.allow_peers, std::slice::from_ref(&near.site));
            let secret = x25519_dalek::StaticSecret::from(*far.tunnel.private_key.expose());
            let peer = near.peer(&far.site).unwrap();
            assert_eq!(peer.public_key.0, x25519_dalek::PublicKey::from(&secret).to_bytes());
            assert_eq!(peer.allowed_ips, far.tunnel.addresses);
            assert_ne!(near.control_socket, far.control_socket);
            assert_ne!(near.tunnel.interface, far.tunnel.interface);
        }
        assert_ne!(hospital.tunnel.private_key.expose(), lab.tunnel.private_key.expose());
    }
}
