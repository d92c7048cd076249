"""The lab: correspondent, core, home link, home agent, two visited links and a mobile node.

One Linux network namespace per machine, all kernels stock::

    cn 10.9.0.7 --- inet --+-- ha 10.1.0.1 === home link 10.1.0.0/24 (hh .50, hh2 .51)
                           +-- ar1 10.3.1.254 === visited link A 10.3.1.0/24
                           +-- ar2 10.3.2.254 === visited link B 10.3.2.0/24

The three links are bridges in the namespace ``sw``. The mobile node ``mn`` has two ports
(``eth0`` and ``wlan0``); to move it the far end of a port is taken out of one bridge, which
drops the carrier, and put into another. The access routers filter by source address (BCP 38),
so a packet with the home address as its source does not leave a visited link natively.

Clean-up has one path: a reaper process that waits for the end of a pipe and then ends every
process in the lab's namespaces, deletes these and the working directory. It runs when the lab
is closed, and equally when the process that made the lab is killed. Labs whose maker and
reaper both died are swept when the next one is built.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

HOME_ADDRESS = "10.1.0.5"
HOME_AGENT = "10.1.0.1"
HOME_NETWORK = "10.1.0.0/24"
CORRESPONDENT = "10.9.0.7"
HOME_HOST = "10.1.0.50"
OTHER_HOME_HOST = "10.1.0.51"

NODES = ("cn", "inet", "ha", "hh", "hh2", "ar1", "ar2", "sw", "mn")
ROUTERS = ("inet", "ha", "ar1", "ar2")
PORTS = ("eth0", "wlan0")


@dataclass(frozen=True, slots=True)
class Link:
    """A link the mobile node can be attached to, and what its DHCP server would say."""

    name: str
    bridge: str
    gateway: str
    leases: Mapping[str, str]
    """Address that each port of the mobile node gets, with its prefix length."""


HOME = Link("home", "home", HOME_AGENT, {"eth0": "10.1.0.205/24", "wlan0": "10.1.0.206/24"})
VISITED_A = Link("A", "visit-a", "10.3.1.254", {"eth0": "10.3.1.5/24", "wlan0": "10.3.1.6/24"})
VISITED_B = Link("B", "visit-b", "10.3.2.254", {"eth0": "10.3.2.5/24", "wlan0": "10.3.2.6/24"})
LINKS = {link.name: link for link in (HOME, VISITED_A, VISITED_B)}

_WIRES = (
    ("cn", "eth0", "inet", "to-cn"),
    ("inet", "to-ha", "ha", "eth1"),
    ("inet", "to-ar1", "ar1", "up0"),
    ("inet", "to-ar2", "ar2", "up0"),
    ("ha", "eth0", "sw", "p-ha"),
    ("hh", "eth0", "sw", "p-hh"),
    ("hh2", "eth0", "sw", "p-hh2"),
    ("ar1", "visit0", "sw", "p-ar1"),
    ("ar2", "visit0", "sw", "p-ar2"),
    ("mn", "eth0", "sw", "p-eth0"),
    ("mn", "wlan0", "sw", "p-wlan0"),
)
_FIXED_PORTS = {
    "p-ha": "home",
    "p-hh": "home",
    "p-hh2": "home",
    "p-ar1": "visit-a",
    "p-ar2": "visit-b",
}
_ADDRESSES = (
    ("cn", "eth0", "10.9.0.7/24"),
    ("inet", "to-cn", "10.9.0.1/24"),
    ("inet", "to-ha", "10.8.0.254/24"),
    ("inet", "to-ar1", "10.8.1.254/24"),
    ("inet", "to-ar2", "10.8.2.254/24"),
    ("ha", "eth1", "10.8.0.1/24"),
    ("ha", "eth0", "10.1.0.1/24"),
    ("hh", "eth0", "10.1.0.50/24"),
    ("hh2", "eth0", "10.1.0.51/24"),
    ("ar1", "up0", "10.8.1.1/24"),
    ("ar1", "visit0", "10.3.1.254/24"),
    ("ar2", "up0", "10.8.2.1/24"),
    ("ar2", "visit0", "10.3.2.254/24"),
)
_ROUTES = (
    ("cn", "default", "10.9.0.1"),
    ("ha", "default", "10.8.0.254"),
    ("hh", "default", "10.1.0.1"),
    ("hh2", "default", "10.1.0.1"),
    ("ar1", "default", "10.8.1.254"),
    ("ar2", "default", "10.8.2.254"),
    ("inet", HOME_NETWORK, "10.8.0.1"),
    ("inet", "10.3.1.0/24", "10.8.1.1"),
    ("inet", "10.3.2.0/24", "10.8.2.1"),
)

_REAPER = """
trap '' INT TERM HUP QUIT
cat > /dev/null
for n in $(ip netns list | cut -d' ' -f1); do
  case $n in
    "$1"-*) for p in $(ip netns pids "$n"); do kill -9 "$p"; done; ip netns delete "$n" ;;
  esac
done
rm -rf -- "$2"
"""
_PREFIX = re.compile(r"^(fm(\d+)n\d+)-")
_STOP_TIMEOUT_S = 5.0


class LabError(Exception):
    """The lab could not be built or a command in it failed."""


class Lab:
    """A built lab; use as a context manager.

    Raises ``LabError`` when a namespace, link or address cannot be made.
    """

    _count = 0

    def __init__(self) -> None:
        Lab._count += 1
        self.prefix = f"fm{os.getpid()}n{Lab._count}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-"))
        """Private (0700) directory for keys, configurations, sockets and logs."""
        self._leased: dict[str, str] = {}
        self._processes: list[subprocess.Popen[Any]] = []
        self._reaper: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------------ life
    def __enter__(self) -> Self:
        try:
            self.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def build(self) -> None:
        """Make every namespace, wire, bridge, address and route."""
        sweep_stale_labs()
        self._reaper = subprocess.Popen(
            ["sh", "-c", _REAPER, "reaper", self.prefix, str(self.directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        _ip_batch([f"netns add {self.ns(node)}" for node in NODES])
        _ip_batch(
            [
                f"link add name {a_port} netns {self.ns(a)} type veth"
                f" peer name {b_port} netns {self.ns(b)}"
                for a, a_port, b, b_port in _WIRES
            ]
        )
        for node in NODES:
            self._settle(node)

    def _settle(self, node: str) -> None:
        """Kernel settings, links up, addresses and routes of one machine."""
        settings = ["net/ipv6/conf/all/disable_ipv6=1", "net/ipv6/conf/default/disable_ipv6=1"]
        settings += [f"net/ipv4/conf/{name}/rp_filter=0" for name in ("all", "default")]
        if node in ROUTERS:
            settings.append("net/ipv4/ip_forward=1")
        if node in ("ar1", "ar2"):
            settings.append("net/ipv4/conf/visit0/rp_filter=1")
        script = "for s; do [ -e /proc/sys/${s%=*} ] && echo ${s#*=} > /proc/sys/${s%=*}; done; :"
        self.run(node, "sh", "-c", script, "sh", *settings)
        lines = ["link set lo up"]
        if node == "sw":
            lines += [f"link add {link.bridge} type bridge" for link in LINKS.values()]
            lines += [f"link set {link.bridge} up" for link in LINKS.values()]
            lines += [f"link set {port} master {br} up" for port, br in _FIXED_PORTS.items()]
        ports = [(n, p) for a, ap, b, bp in _WIRES for n, p in ((a, ap), (b, bp)) if n == node]
        if node != "sw":
            lines += [f"link set {port} up" for _, port in ports]
        lines += [
            f"address add {address} dev {port}" for n, port, address in _ADDRESSES if n == node
        ]
        lines += [f"route add {to} via {via}" for n, to, via in _ROUTES if n == node]
        self.ip(node, *lines)

    def close(self) -> None:
        """End every process of the lab, then remove it; safe to call twice."""
        self.stop_processes()
        if self._reaper is None:
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        reaper, self._reaper = self._reaper, None
        if reaper.stdin:
            reaper.stdin.close()
        reaper.wait(timeout=30)

    def stop_processes(self) -> None:
        """Ask every process of the lab to stop, then insist."""
        processes, self._processes = self._processes, []
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for process in processes:
            try:
                process.wait(timeout=max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    # -------------------------------------------------------------- commands
    def ns(self, node: str) -> str:
        """Name of a machine's network namespace."""
        return f"{self.prefix}-{node}"

    def ip(self, node: str, *lines: str) -> None:
        """Carry out iproute2 commands in one machine, in one process."""
        _ip_batch(lines, namespace=self.ns(node))

    def run(
        self, node: str, *argv: str, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a machine and collect its output.

        Raises ``LabError`` with the command's own words when ``check`` and it failed.
        """
        command = [*_inside(self.ns(node)), *argv]
        result = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout
        )
        if check and result.returncode:
            raise LabError(f"{node}: {' '.join(argv)}: {result.stderr.strip()}")
        return result

    def popen(
        self,
        node: str | None,
        argv: Sequence[str],
        *,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in a machine; it ends with the lab, at the latest with its maker.

        Without a machine it runs where the maker runs.

        Call it from the main thread only: the kernel ties the process to the calling thread.
        """
        command = [
            *(_inside(self.ns(node)) if node else []),
            "setpriv",
            "--pdeathsig",
            "KILL",
            *argv,
        ]
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else {**os.environ, **env},
            start_new_session=True,  # a Ctrl-C is for the demo, which then stops these in order
        )
        self._processes.append(process)
        return process

    # -------------------------------------------------------------- movement
    def unplug(self, port: str) -> None:
        """Take a port of the mobile node off its link: the carrier goes down."""
        self.ip("sw", f"link set p-{port} nomaster down")

    def plug(self, port: str, link: Link) -> None:
        """Put a port of the mobile node onto a link: the carrier comes up."""
        self.ip("sw", f"link set p-{port} master {link.bridge} up")

    def lease(self, port: str, link: Link) -> None:
        """Play the DHCP client of the mobile node: address and default route."""
        metric = 100 + PORTS.index(port)
        self._leased[port] = link.leases[port]
        self.ip(
            "mn",
            f"address add {link.leases[port]} dev {port}",
            f"route replace default via {link.gateway} dev {port} metric {metric}",
        )

    def release(self, port: str) -> None:
        """Play the DHCP client after the carrier went: drop the leased address."""
        address = self._leased.pop(port, "")
        if address:
            self.ip("mn", f"address delete {address} dev {port}")

    # ---------------------------------------------------------------- seeing
    def neighbour(self, node: str, address: str) -> str:
        """MAC address that a machine's ARP table shows for an address, or an empty string."""
        shown = self.run(node, "ip", "-4", "neighbour", "show", address).stdout.split()
        return shown[shown.index("lladdr") + 1] if "lladdr" in shown else ""

    def mac(self, node: str, port: str) -> str:
        """MAC address of a port."""
        words = self.run(node, "ip", "-o", "link", "show", "dev", port).stdout.split()
        return words[words.index("link/ether") + 1]


def _inside(namespace: str) -> list[str]:
    """Begin a command in a namespace.

    Not ``ip netns exec`` or ``ip -n``: these remount ``/sys``, which fails in a plain chroot.
    ``/sys`` is therefore the whole system's, ``/proc/net`` and ``/proc/sys/net`` the machine's.
    """
    return ["nsenter", f"--net=/run/netns/{namespace}"]


def _ip_batch(lines: Sequence[str], namespace: str = "") -> None:
    """Carry out iproute2 commands in one process; the first failure stops the rest."""
    if not lines:
        return
    command = [*(_inside(namespace) if namespace else []), "ip", "-batch", "-"]
    result = subprocess.run(
        command, check=False, input="\n".join(lines) + "\n", capture_output=True, text=True
    )
    if result.returncode:
        failure = re.search(r"Command failed -:(\d+)", result.stderr)
        line = lines[int(failure[1]) - 1] if failure else "; ".join(lines)
        reason = result.stderr.strip().splitlines()
        raise LabError(f"ip {line}: {reason[0] if reason else result.returncode}")


def stale_namespaces() -> Iterator[str]:
    """Namespaces of labs whose maker is gone."""
    listed = subprocess.run(
        ["ip", "netns", "list"],
        check=True,
        capture_output=True,
        text=True,
    )
    for line in listed.stdout.splitlines():
        name = line.split()[0]
        match = _PREFIX.match(name)
        if match and not Path("/proc", match[2]).exists():
            yield name


def sweep_stale_labs() -> None:
    """Remove labs that an earlier run left behind because even its reaper was killed."""
    for name in list(stale_namespaces()):
        pids = subprocess.run(
            ["ip", "netns", "pids", name],
            check=False,
            capture_output=True,
            text=True,
        )
        for pid in pids.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip_batch([f"netns delete {name}"])
    for path in Path(tempfile.gettempdir()).glob("fm*n*-*"):
        match = _PREFIX.match(path.name)
        if match and path.is_dir() and not Path("/proc", match[2]).exists():
            shutil.rmtree(path, ignore_errors=True)
