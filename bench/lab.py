"""What bench/tunnel and bench/soak are built from: a world of their own (process, mount and network namespaces that end
with the script, however it ends), pairs of sites joined by a veth, and the WireGuard implementations to run in them.

Needs root or an unprivileged user namespace, `ip`, `wg`, `unshare` and `setpriv`; nothing outside python3's own library.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRATCH = pathlib.Path("/run/bench")
MTU_BYTES = 1420
UDP_PORT = 51820
START_SECONDS_MAX = 10
WORDS = "setpriv ip ss wg unshare ping iperf3"

os.environ["PATH"] += os.pathsep + os.pathsep.join(
    ["/usr/sbin", "/sbin", str(ROOT / "target/ci-peers/bin"), os.path.expanduser("~/.cargo/bin")]
)


def confined(script, arguments):
    """Runs a script again in a world of its own; returns its exit code. When either ends, everything in it is killed."""
    missing = [word for word in WORDS.split() if shutil.which(word) is None]
    if missing:
        sys.exit(f"missing programs: {' '.join(missing)}")
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    world = ["unshare", *user, "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *world, sys.executable, script, *arguments])
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.kill()


def enter():
    """Mounts what the programs write to: all of it is in memory, and gone with the last process."""
    must("mount -t tmpfs tmpfs /run")
    for directory in (SCRATCH, pathlib.Path("/run/wireguard"), pathlib.Path("/run/netns")):
        directory.mkdir(mode=0o700)
    os.umask(0o077)
    must("ip link set lo up")


def must(command, **options):
    """Runs a command to its end; returns what it printed, and ends the script where it fails."""
    words = command.split() if isinstance(command, str) else command
    done = subprocess.run(words, capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def until(what, look, seconds=START_SECONDS_MAX):
    """Waits until `look` returns something true; returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise RuntimeError(f"after {seconds} s still not: {what}")


class Site:
    """A namespace with one end of the veth, a key pair, and the address that the tunnel will have there."""

    def __init__(self, name, number, pair):
        self.name, self.number, self.other = name, number, None
        self.outer, self.inner = f"192.0.2.{number}", f"10.98.0.{number}"
        # names of interfaces and sockets are shared by all namespaces through /run/wireguard
        self.device = f"b{pair}{name[0]}"
        self.key_file = SCRATCH / f"{name}{pair}.key"
        must(f"ip netns add {name}{pair}")
        self.namespace = f"{name}{pair}"
        must(f"ip -n {self.namespace} link set lo up")
        key = must("wg genkey")
        self.key_file.write_text(key + "\n")
        self.public_key = must("wg pubkey", input=key)

    def words(self, command):
        """Returns the words that run a command here; the process has the command's own id."""
        words = command.split() if isinstance(command, str) else command
        return ["ip", "netns", "exec", self.namespace, *words]

    def must(self, command):
        return must(self.words(command))

    def start(self, command, log):
        """Starts a program here; what it prints goes to a file of that name."""
        with open(SCRATCH / f"{self.namespace}-{log}.log", "ab") as file:
            return subprocess.Popen(self.words(command), stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def log(self, name):
        return (SCRATCH / f"{self.namespace}-{name}.log").read_text(errors="replace")


class Pair:
    """Two sites, near (192.0.2.1, 10.98.0.1) and far (192.0.2.2, 10.98.0.2), joined by a veth."""

    def __init__(self, number=0):
        self.near, self.far = Site("near", 1, number), Site("far", 2, number)
        self.near.other, self.far.other = self.far, self.near
        must(f"ip link add v0 netns {self.near.namespace} type veth peer name v0 netns {self.far.namespace}")
        for site in (self.near, self.far):
            must(f"ip -n {site.namespace} addr add {site.outer}/24 dev v0")
            must(f"ip -n {site.namespace} link set v0 up")

    def settle(self, target):
        """Waits until the far side answers a ping."""
        ping = self.near.words(f"ping -c 1 -W 1 {target}")
        until(f"an answer from {target}", lambda: subprocess.run(ping, capture_output=True).returncode == 0)


class Tunnel:
    """A running implementation at one site; without a program it is the bare veth."""

    def __init__(self, site, process=None, log=None):
        self.site, self.process, self.log = site, process, log

    def cpu_seconds(self):
        """Returns the processor time of all of its threads so far."""
        if self.process is None:
            return 0.0
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self):
        """Returns its resident memory."""
        if self.process is None:
            return 0.0
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("it has ended")

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(START_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Bare:
    """The veth itself, without a tunnel."""

    key, label = "bare", "bare veth"

    def missing(self):
        return None

    def version(self):
        return ""

    def start(self, site, keepalive=0):
        return Tunnel(site)

    def target(self, site):
        return site.outer


class Wardlink:
    """wardlink from this tree, as `cargo build --profile dist` makes it, or WARDLINK=PATH."""

    def __init__(self, backend):
        self.backend = backend
        self.key = "wardlink" if backend == "auto" else f"wardlink-{backend}"
        self.label = "wardlink" if backend == "auto" else f"wardlink, {backend} backend"
        self.program = os.environ.get("WARDLINK", str(ROOT / "target/dist/wardlink"))

    def missing(self):
        return None if os.access(self.program, os.X_OK) else f"{self.program} is not there"

    def version(self):
        try:
            commit = must(f"git -C {ROOT} rev-parse --short HEAD")
            changed = " with changes" if must(f"git -C {ROOT} status --porcelain src Cargo.lock") else ""
            return f"{must([self.program, '--version'])}, commit {commit}{changed}"
        except RuntimeError:
            return must([self.program, "--version"])

    def start(self, site, keepalive=0, endpoint=None, state=None, more=""):
        """Starts a site; `endpoint` instead of the peer's own address ("": it comes by itself), `more` sections."""
        base = SCRATCH / f"{site.namespace}-{self.key}"
        every = f"\n    persistent_keepalive: {keepalive}s" if keepalive else ""
        endpoint = f"{site.other.outer}:{UDP_PORT}" if endpoint is None else endpoint
        at = f'\n    endpoint: "{endpoint}"' if endpoint else ""
        base.with_suffix(".yaml").write_text(f"""site: {site.name}
state_dir: {state or f"{base}-state"}
tunnel:
  interface: {site.device}
  backend: {self.backend}
  private_key_file: {site.key_file}
  listen_port: {UDP_PORT}
  address: [{site.inner}/32]
  mtu: {MTU_BYTES}
peers:
  - name: {site.other.name}
    public_key: "{site.other.public_key}"{at}
    allowed_ips: [{site.other.inner}/32]
    host_access: true{every}
control:
  socket: {base}.sock
{more}""")
        return Tunnel(site, site.start([self.program, "run", "-c", f"{base}.yaml"], self.key), self.key)

    def target(self, site):
        return site.inner


class Userspace:
    """An implementation that is configured by `wg` and `ip`: VARIABLE=PATH in the environment, or NAME in PATH."""

    def __init__(self, name, options):
        self.key, self.label, self.name, self.options = name, name, name, options
        self.variable = name.upper().replace("-", "_")
        self.program = os.environ.get(self.variable) or shutil.which(name)

    def missing(self):
        return None if self.program else f"no {self.name} in PATH, and no {self.variable}=PATH"

    def version(self):
        package = os.environ.get(f"{self.variable}_PACKAGE")
        said = must([self.program, "--version"]).splitlines()[0]
        return f"{said} (package {package})" if package else said

    def start(self, site, keepalive=0, endpoint=None):
        endpoint = f"{site.other.outer}:{UDP_PORT}" if endpoint is None else endpoint
        words = [self.program, *self.options, site.device]
        process = site.start(["env", "WG_SUDO=1", *words], self.key)
        path = f"/run/wireguard/{site.device}.sock"
        until(f"{self.name} listens at {path}", lambda: listens(path))
        site.must(
            f"wg set {site.device} listen-port {UDP_PORT} private-key {site.key_file} peer {site.other.public_key} "
            f"{f'endpoint {endpoint} ' if endpoint else ''}allowed-ips {site.other.inner}/32 persistent-keepalive {keepalive}"
        )
        must(f"ip -n {site.namespace} addr add {site.inner}/32 dev {site.device}")
        must(f"ip -n {site.namespace} link set {site.device} up mtu {MTU_BYTES}")
        must(f"ip -n {site.namespace} route add {site.other.inner}/32 dev {site.device}")
        return Tunnel(site, process, self.key)

    def target(self, site):
        return site.inner


def listens(path):
    """Tells whether somebody accepts at a Unix socket: the file may be there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
            return True
        except OSError:
            return False


def implementations():
    """Lists what can be compared, wardlink first."""
    return [
        Wardlink("auto"),
        Wardlink("plain"),
        Userspace("wireguard-go", ["-f"]),
        Userspace("gotatun", ["-f", "--disable-drop-privileges"]),
        Userspace("boringtun-cli", ["-f", "--disable-drop-privileges"]),
        Bare(),
    ]


def machine():
    """Describes the machine by what matters to a measurement; no name of it."""
    model = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model[0] if model else os.uname().machine,
        "kernel": os.uname().release.split("-")[0],
        "iperf3": must("iperf3 --version").split()[1],
    }


def iperf3(client, server, target, options):
    """Runs iperf3 from one site to a server of its own at the other; returns the end of the client's report."""
    serving = server.start(f"iperf3 -s -1 -B {target}", "iperf3")
    try:
        until("iperf3 listens", lambda: f"{target}:5201 " in server.must("ss -Hltn"))
        done = subprocess.run(client.words(f"iperf3 -J -c {target} {options}"), capture_output=True, text=True)
    finally:
        serving.kill()
        serving.wait()
    report = json.loads(done.stdout or "{}")
    if done.returncode or "error" in report:
        raise RuntimeError(f"iperf3 {options}: {report.get('error', done.stderr.strip())}")
    return report["end"]


def draw(drawing):
    """Runs a script with its arguments by a python3 that has matplotlib, installed into target/bench-venv where need be."""
    venv = ROOT / "target/bench-venv"
    for python in (sys.executable, str(venv / "bin/python3")):
        if subprocess.run([python, "-c", "import matplotlib"], capture_output=True).returncode == 0:
            subprocess.run([python, *drawing], check=True)
            return
        if python == sys.executable:
            try:
                must([sys.executable, "-m", "venv", str(venv)])
                must([str(venv / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "matplotlib==3.10.7"])
            except RuntimeError as error:
                print(f"no plot: matplotlib cannot be installed ({str(error).splitlines()[0]})")
                return
