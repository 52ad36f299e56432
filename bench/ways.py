"""The ways by which messages go from a sender at the near site to a receiver at the far site's loopback, for bench/stored
and bench/mllp: wardlink stored and transparent, a plain VPN, and what people put on top of one or use instead. Each way is
started in a pair of sites, and says where its sender connects; `Running` is one with a receiver.
"""

import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import lab

TARGET = "127.0.0.1:6661"
SENDER_PORT = 2575
PROXY_PORT = 51821
HEALTH = "127.0.0.1:9575"
QUEUE_MESSAGES_MAX = 2_000_000
# a forwarder has two descriptors for a connection
FORWARDED_MAX = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100) // 2
DRAIN_SECONDS_MAX = 900
LOAD = lab.ROOT / "target/bench/release/mllp_load"
IMPAIR = os.environ.get("IMPAIR", str(lab.ROOT / "target/release/examples/impair"))


class Sites(lab.Wardlink):
    """Two wardlink sites with a forward; the spool is on the disk that is measured, or in memory."""

    def __init__(self, delivery, key=None, label=None, in_memory=False):
        super().__init__("auto")
        self.delivery, self.key, self.in_memory = delivery, key or delivery, in_memory
        self.limits = self.service_limits = ""
        self.label = label or f"wardlink, {delivery}"

    def sections(self, site, state):
        """Returns a site's part of the forward."""
        health = f"health:\n  listen: {HEALTH}\n"
        if site.name == "far":
            return f"services:\n  - {{name: orders, target: \"{TARGET}\", allow_peers: [near]{self.service_limits}}}\n{health}"
        forward = f"name: orders, listen: \"127.0.0.1:{SENDER_PORT}\", peer: far, service: orders{self.limits}"
        if self.delivery == "transparent":
            return f"forwards:\n  - {{{forward}}}\n{health}"
        stored = f"delivery: stored, max_queue_messages: {QUEUE_MESSAGES_MAX}"
        return (f"forwards:\n  - {{{forward}, {stored}}}\n"
                f"spool:\n  key_file: {state.parent}/{site.namespace}.spool-key\n{health}")

    def start_site(self, site, state, endpoint=None):
        own = state / f"{site.namespace}-{self.key}"
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


class Direct(lab.Bare):
    """Nothing: the sender connects to the receiver over the bare veth."""

    key, label = "direct", "nothing, not encrypted"

    def start_all(self, pair, state, proxied):
        return []

    def address(self, pair):
        return f"{pair.far.outer}:6661"


class Forwarder:
    """A forwarder with an end at each site, over the plain VPN or over the bare wire."""

    def __init__(self, key, label, programs, starts, over=None):
        self.key, self.label, self.programs, self.starts = key, label, programs, starts
        self.over = over or Direct()

    def missing(self):
        absent = [name for name in self.programs if shutil.which(name) is None]
        return self.over.missing() or (f"no {', '.join(absent)} in PATH" if absent else None)

    def version(self):
        asks = {"ssh": "-V", "stunnel": "-version"}.get(self.programs[0], "-v")
        said = subprocess.run([self.programs[0], asks], capture_output=True, text=True)
        return next(line for line in (said.stdout + said.stderr).splitlines() if re.search("[0-9]", line))

    def start_all(self, pair, state, proxied):
        tunnels = self.over.start_all(pair, state, proxied)
        far = self.over.target(pair.far)
        for site, command in zip((pair.far, pair.near), self.starts(far)):
            tunnels.append(lab.Tunnel(site, site.start(command, self.key), self.key))
            port = f":{SENDER_PORT + (site.name == 'far')} "
            lab.until(f"{self.key} listens at {site.name}", lambda: port in site.must("ss -Hltn"))
        return tunnels

    def address(self, pair):
        return f"127.0.0.1:{SENDER_PORT}"


def haproxy(far, tls=False):
    """Returns the commands of the far and the near end."""
    listens, connects = "", ""
    if tls:
        key = certificate()
        write("haproxy.pem", pathlib.Path(f"{key}.crt").read_text() + key.read_text())
        listens, connects = f" ssl crt {lab.SCRATCH}/haproxy.pem", f" ssl verify required ca-file {key}.crt"
    usual = (f"global\n  maxconn {min(FORWARDED_MAX, 20_000)}\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n"
             "  timeout server 1h\n")
    ends = [("far", f"{far}:{SENDER_PORT + 1}{listens}", TARGET),
            ("near", f"127.0.0.1:{SENDER_PORT}", f"{far}:{SENDER_PORT + 1}{connects}")]
    for name, bind, server in ends:
        write(f"haproxy-{name}.cfg", f"{usual}listen mllp\n  bind {bind}\n  server next {server}\n")
        yield ["haproxy", "-db", "-f", str(lab.SCRATCH / f"haproxy-{name}.cfg")]


def haproxy_tls(far):
    return haproxy(far, tls=True)


def stunnel(far):
    key = certificate()
    usual = "foreground = yes\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
    accept = f"{far}:{SENDER_PORT + 1}"
    write("stunnel-far.conf", f"{usual}[mllp]\naccept = {accept}\nconnect = {TARGET}\ncert = {key}.crt\nkey = {key}\n")
    write("stunnel-near.conf",
          f"{usual}[mllp]\nclient = yes\naccept = 127.0.0.1:{SENDER_PORT}\nconnect = {accept}\nCAfile = {key}.crt\nverifyPeer = yes\n")
    for name in ("far", "near"):
        yield ["stunnel", str(lab.SCRATCH / f"stunnel-{name}.conf")]


def certificate():
    """Returns the file of a key; its certificate is beside it."""
    key = lab.SCRATCH / "far.pem"
    if not key.exists():
        lab.must(f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=far -keyout {key} -out {key}.crt")
    return key


def ssh(far):
    port = SENDER_PORT + 1
    for name in ("host", "user"):
        if not (lab.SCRATCH / f"ssh-{name}").exists():
            lab.must(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lab.SCRATCH / f"ssh-{name}")])
    os.makedirs("/run/sshd", exist_ok=True)
    write("sshd.conf", f"Port {port}\nListenAddress {far}\nHostKey {lab.SCRATCH}/ssh-host\nStrictModes no\n"
          f"AuthorizedKeysFile {lab.SCRATCH}/ssh-user.pub\nPermitRootLogin yes\nUsePAM no\nPidFile none\n")
    yield [shutil.which("sshd"), "-D", "-e", "-f", str(lab.SCRATCH / "sshd.conf")]
    yield ["ssh", "-N", "-i", str(lab.SCRATCH / "ssh-user"), "-o", "StrictHostKeyChecking=no", "-o",
           "UserKnownHostsFile=/dev/null", "-L", f"127.0.0.1:{SENDER_PORT}:{TARGET}", "-p", str(port), f"root@{far}"]


def write(name, text):
    (lab.SCRATCH / name).write_text(text)


def proxy_address(pair):
    return f"{pair.near.outer}:{PROXY_PORT}"


def stored_ways():
    """Lists what bench/stored compares, wardlink first."""
    return [
        Sites("stored"),
        Sites("stored", "memory", "the same, spool in memory", in_memory=True),
        Sites("transparent"),
        Vpn(),
        Forwarder("haproxy", "HAProxy over it", ["haproxy"], haproxy, Vpn()),
        Forwarder("stunnel", "stunnel over it", ["stunnel", "openssl"], stunnel, Vpn()),
        Forwarder("ssh", "SSH forwarding over it", ["ssh", "sshd", "ssh-keygen"], ssh, Vpn()),
    ]


def mllp_ways():
    """Lists what bench/mllp compares, wardlink first."""
    return [
        Sites("transparent", label="wardlink, transparent"),
        Vpn(),
        Forwarder("haproxy", "HAProxy, TLS between two", ["haproxy", "openssl"], haproxy_tls),
        Forwarder("ssh", "ssh -L", ["ssh", "sshd", "ssh-keygen"], ssh),
        Forwarder("stunnel", "stunnel, two", ["stunnel", "openssl"], stunnel),
        Direct(),
    ]


def describe(way):
    """Returns what the file of runs says of a way."""
    absent = way.missing()
    return {"key": way.key, "label": way.label, "version": "" if absent else way.version(), "missing": absent}


def build():
    """Builds what is not named by WARDLINK=PATH and IMPAIR=PATH."""
    if "WARDLINK" not in os.environ:
        lab.must("cargo build --profile dist --locked --quiet --bin wardlink", cwd=lab.ROOT)
    if "IMPAIR" not in os.environ:
        lab.must("cargo build --release --locked --quiet --example impair", cwd=lab.ROOT)
    lab.must("cargo build --release --locked --quiet --target-dir target/bench "
             "--manifest-path bench/mllp_load/Cargo.toml", cwd=lab.ROOT)


class Running:
    """A way with its sites, a receiver and, where there is a round trip, the impairment proxy; all ends with it."""

    def __init__(self, way, pair, state, round_trip_ms=0):
        self.way, self.pair = way, pair
        self.state = lab.SCRATCH / "spools" if getattr(way, "in_memory", False) else state
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(parents=True)
        self.processes, self.tunnels, self.senders = [], [], 0
        self.proxied = round_trip_ms > 0
        try:
            if self.proxied:
                self.start(pair.near, [IMPAIR, "--listen", proxy_address(pair), "--to",
                                       f"{pair.far.outer}:{lab.UDP_PORT}", f"delay={round_trip_ms / 2:g}ms", "queue=10M"])
            self.receive()
            self.tunnels = way.start_all(pair, self.state, self.proxied)
            self.ready()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for tunnel in reversed(self.tunnels):
            tunnel.stop()
        for process in self.processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.state, ignore_errors=True)

    def start(self, site, command, log="by-hand"):
        process = site.start(command, log)
        self.processes.append(process)
        return process

    def receive(self):
        """Starts the receiver, which begins a new account. It listens where the way has no far end of its own."""
        address = "0.0.0.0:6661" if isinstance(self.way, (Vpn, Direct)) else TARGET
        (lab.SCRATCH / f"{self.pair.far.namespace}-receiver.log").unlink(missing_ok=True)
        self.receiver = self.start(self.pair.far, [str(LOAD), "receive", address], "receiver")

    def account(self):
        """Returns what the receiver has seen; nothing yet is an empty account."""
        lines = self.pair.far.log("receiver").splitlines()
        whole = [line for line in lines[-2:] if line.endswith("}")]
        return json.loads(whole[-1]) if whole else {"messages": 0, "seconds": 0.0}

    def drained(self, messages, seconds=DRAIN_SECONDS_MAX):
        """Waits until the receiver has seen so many; returns its account."""
        lab.until(f"{messages} messages at the receiver", lambda: self.account()["messages"] >= messages, seconds)
        return self.account()

    def ready(self):
        """Waits until a connection of the sender leads somewhere."""
        if isinstance(self.way, Sites):
            for site in (self.pair.near, self.pair.far):
                lab.until(f"{site.name} is ready", lambda: http(site, "/readyz") == 200)

    def load(self, messages, connections, more=()):
        """Returns the words that send; no number of a sender is used twice."""
        first, self.senders = self.senders, self.senders + connections
        return [str(LOAD), "send", self.way.address(self.pair), str(messages), str(connections), str(first), *map(str, more)]

    def send(self, messages, connections, *more):
        """Sends; returns the seconds, the p50 and p99 of an answer in microseconds, and the resends."""
        said = self.pair.near.must(self.load(messages, connections, more))
        return [float(word) for word in said.split()]


def http(site, path):
    """Returns the status of an answer of the health port, 0 without one."""
    asks = (f"import http.client as h; c = h.HTTPConnection('{HEALTH}', timeout=2); c.request('GET', '{path}'); "
            "print(c.getresponse().status)")
    done = subprocess.run(site.words([sys.executable, "-c", asks]), capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else 0
