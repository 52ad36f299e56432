"""The ways by which messages go from a sender at the near site to a receiver at the far site's loopback, for bench/stored:
wardlink stored and transparent, a plain VPN, and what people put on top of one. Each way is started in a pair of sites
whose datagrams go through the impairment proxy, and says where its sender connects.
"""

import os
import pathlib
import shutil
import subprocess

import lab

TARGET = "127.0.0.1:6661"
SENDER_PORT = 2575
PROXY_PORT = 51821
HEALTH = "127.0.0.1:9575"
QUEUE_MESSAGES_MAX = 2_000_000


class Stored(lab.Wardlink):
    """Two wardlink sites with a forward; `state` is on the disk that is measured."""

    def __init__(self, delivery):
        super().__init__("auto")
        self.delivery, self.key = delivery, delivery
        self.label = f"wardlink, {delivery}"

    def sections(self, site, state):
        """Returns a site's part of the forward."""
        health = f"health:\n  listen: {HEALTH}\n"
        if site.name == "far":
            return f"services:\n  - {{name: orders, target: \"{TARGET}\", allow_peers: [near]}}\n{health}"
        forward = f"name: orders, listen: \"127.0.0.1:{SENDER_PORT}\", peer: far, service: orders"
        if self.delivery == "transparent":
            return f"forwards:\n  - {{{forward}}}\n{health}"
        stored = f"delivery: stored, max_queue_messages: {QUEUE_MESSAGES_MAX}"
        return (f"forwards:\n  - {{{forward}, {stored}}}\n"
                f"spool:\n  key_file: {state.parent}/{site.namespace}.spool-key\n{health}")

    def start_site(self, site, state, endpoint=None):
        own = state / f"{site.namespace}-{self.delivery}"
        return self.start(site, endpoint=endpoint, state=own, more=self.sections(site, state))

    def start_all(self, pair, state, proxied):
        far = self.start_site(pair.far, state, "" if proxied else None)
        near = self.start_site(pair.near, state, proxy_address(pair) if proxied else None)
        return [far, near]

    def address(self, pair):
        return f"127.0.0.1:{SENDER_PORT}"


class Vpn(lab.Userspace):
    """A plain VPN: the sender connects to the far site's inner address, where the kernel's own TCP carries it on."""

    def __init__(self):
        super().__init__("wireguard-go", ["-f"])
        self.key, self.label = "vpn", "plain VPN (wireguard-go)"

    def start_all(self, pair, state, proxied):
        tunnels = [
            self.start(pair.far, endpoint="" if proxied else None),
            self.start(pair.near, endpoint=proxy_address(pair) if proxied else None),
        ]
        pair.settle(pair.far.inner)
        return tunnels

    def address(self, pair):
        return f"{pair.far.inner}:6661"


class OverVpn(Vpn):
    """A forwarder on top of the plain VPN, at both ends."""

    def __init__(self, key, label, programs, starts):
        super().__init__()
        self.key, self.label, self.programs, self.starts = key, label, programs, starts

    def missing(self):
        absent = [name for name in self.programs if shutil.which(name) is None]
        return super().missing() or (f"no {', '.join(absent)} in PATH" if absent else None)

    def version(self):
        said = subprocess.run([self.programs[0], "-v" if self.key != "ssh" else "-V"], capture_output=True, text=True)
        return (said.stdout + said.stderr).strip().splitlines()[0]

    def start_all(self, pair, state, proxied):
        tunnels = super().start_all(pair, state, proxied)
        for site, command in zip((pair.far, pair.near), self.starts(pair)):
            tunnels.append(lab.Tunnel(site, site.start(command, self.key), self.key))
            port = f":{SENDER_PORT + (site.name == 'far')} "
            lab.until(f"{self.key} listens at {site.name}", lambda: port in site.must("ss -Hltn"))
        return tunnels

    def address(self, pair):
        return f"127.0.0.1:{SENDER_PORT}"


def haproxy(pair):
    """Returns the commands of the far and the near end."""
    usual = "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n"
    ends = [("far", f"{pair.far.inner}:{SENDER_PORT + 1}", TARGET),
            ("near", f"127.0.0.1:{SENDER_PORT}", f"{pair.far.inner}:{SENDER_PORT + 1}")]
    for name, bind, server in ends:
        write(f"haproxy-{name}.cfg", f"{usual}listen mllp\n  bind {bind}\n  server next {server}\n")
        yield ["haproxy", "-db", "-f", str(lab.SCRATCH / f"haproxy-{name}.cfg")]


def stunnel(pair):
    key = lab.SCRATCH / "stunnel.pem"
    if not key.exists():
        lab.must(f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=far -keyout {key} -out {key}.crt")
    usual = "foreground = yes\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
    accept = f"{pair.far.inner}:{SENDER_PORT + 1}"
    write("stunnel-far.conf", f"{usual}[mllp]\naccept = {accept}\nconnect = {TARGET}\ncert = {key}.crt\nkey = {key}\n")
    write("stunnel-near.conf",
          f"{usual}[mllp]\nclient = yes\naccept = 127.0.0.1:{SENDER_PORT}\nconnect = {accept}\nCAfile = {key}.crt\nverifyPeer = yes\n")
    for name in ("far", "near"):
        yield ["stunnel", str(lab.SCRATCH / f"stunnel-{name}.conf")]


def ssh(pair):
    port = SENDER_PORT + 1
    for name in ("host", "user"):
        if not (lab.SCRATCH / f"ssh-{name}").exists():
            lab.must(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lab.SCRATCH / f"ssh-{name}")])
    os.makedirs("/run/sshd", exist_ok=True)
    write("sshd.conf", f"Port {port}\nListenAddress {pair.far.inner}\nHostKey {lab.SCRATCH}/ssh-host\nStrictModes no\n"
          f"AuthorizedKeysFile {lab.SCRATCH}/ssh-user.pub\nPermitRootLogin yes\nUsePAM no\nPidFile none\n")
    yield [shutil.which("sshd"), "-D", "-e", "-f", str(lab.SCRATCH / "sshd.conf")]
    yield ["ssh", "-N", "-i", str(lab.SCRATCH / "ssh-user"), "-o", "StrictHostKeyChecking=no", "-o",
           "UserKnownHostsFile=/dev/null", "-L", f"127.0.0.1:{SENDER_PORT}:{TARGET}", "-p", str(port), f"root@{pair.far.inner}"]


def write(name, text):
    (lab.SCRATCH / name).write_text(text)


def proxy_address(pair):
    return f"{pair.near.outer}:{PROXY_PORT}"


def ways():
    """Lists all, wardlink first."""
    return [
        Stored("stored"),
        Stored("transparent"),
        Vpn(),
        OverVpn("haproxy", "HAProxy over it", ["haproxy"], haproxy),
        OverVpn("stunnel", "stunnel over it", ["stunnel", "openssl"], stunnel),
        OverVpn("ssh", "SSH forwarding over it", ["ssh", "sshd", "ssh-keygen"], ssh),
    ]
