"""The lab: a network of namespaces with a mobile node in it that can be moved.

``topology.py`` says which machines and links there are. The links are bridges in the namespace
``sw``. The mobile node ``mn`` has two ports (``eth0`` and ``wlan0``); to move it the far end of
a port is taken out of one bridge, which drops the carrier, and put into another. Routers of
visited networks filter by source address (BCP 38), so a packet with the home address as its
source does not leave a visited network natively.

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
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from fastmip.runtime.demo.topology import (
    CORRESPONDENT,
    HOME,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_HOST,
    HOME_NETWORK,
    OTHER_HOME_HOST,
    PORTS,
    ROUTERS_ONLY,
    VISITED_A,
    VISITED_B,
    Link,
    Topology,
)

__all__ = [
    "CORRESPONDENT",
    "HOME",
    "HOME_ADDRESS",
    "HOME_AGENT",
    "HOME_HOST",
    "HOME_NETWORK",
    "NODES",
    "OTHER_HOME_HOST",
    "PORTS",
    "VISITED_A",
    "VISITED_B",
    "Lab",
    "LabError",
    "Link",
    "stale_namespaces",
    "sweep_stale_labs",
]

NODES = ROUTERS_ONLY.nodes
"""Machines of the lab that is built unless another is asked for."""

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
_TRANSLATE = """\
table ip nat {{
  chain out {{
    type nat hook postrouting priority 100
    oifname "{port}" masquerade
  }}
}}
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

    def __init__(self, topology: Topology = ROUTERS_ONLY) -> None:
        Lab._count += 1
        self.topology = topology
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
        _ip_batch([f"netns add {self.ns(node)}" for node in self.topology.nodes])
        _ip_batch(
            [
                f"link add name {a_port} netns {self.ns(a)} type veth"
                f" peer name {b_port} netns {self.ns(b)}"
                for a, a_port, b, b_port in self.topology.wires
            ]
        )
        for node in self.topology.nodes:
            self._settle(node)

    def _settle(self, node: str) -> None:
        """Kernel settings, links up, addresses and routes of one machine."""
        topology = self.topology
        settings = ["net/ipv6/conf/all/disable_ipv6=1", "net/ipv6/conf/default/disable_ipv6=1"]
        settings += [f"net/ipv4/conf/{name}/rp_filter=0" for name in ("all", "default")]
        if node in topology.routers:
            settings.append("net/ipv4/ip_forward=1")
        settings += [f"net/ipv4/conf/{p}/rp_filter=1" for n, p in topology.filters if n == node]
        script = "for s; do [ -e /proc/sys/${s%=*} ] && echo ${s#*=} > /proc/sys/${s%=*}; done; :"
        self.run(node, "sh", "-c", script, "sh", *settings)
        lines = ["link set lo up"]
        if node == "sw":
            bridges = [link.bridge for link in topology.links.values()]
            lines += [f"link add {bridge} type bridge" for bridge in bridges]
            lines += [f"link set {bridge} up" for bridge in bridges]
            fixed = topology.fixed_ports.items()
            lines += [f"link set {port} master {bridge} up" for port, bridge in fixed]
        else:
            ends = [end for a, ap, b, bp in topology.wires for end in ((a, ap), (b, bp))]
            lines += [f"link set {port} up" for machine, port in ends if machine == node]
        lines += [f"address add {a} dev {port}" for n, port, a in topology.addresses if n == node]
        lines += [f"route add {to} via {via}" for n, to, via in topology.routes if n == node]
        self.ip(node, *lines)
        for machine, port in topology.translators:
            if machine == node:
                self.run(node, "nft", _TRANSLATE.format(port=port))

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
        """Play the DHCP client of the mobile node: address and default route, if it is given."""
        if port not in link.leases:
            return
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
