"""The devices to be measured: a home agent as it is deployed, and the kernel alone beside it.

::

    load -- g0 === h0  ha  h1 === s0 -- sink      fastmip, in its namespace
         -- r0 === h0  ref h1 === s1 --           the kernel: ip_forward, LWT-BPF

The home agent is the daemon itself, with its bindings in its store: whatever ``[engine]`` can be
told is measured by telling it (``IOS``).
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import socket
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fastmip.agents.bindings import BINDING_DTYPE
from fastmip.runtime import clock
from fastmip.runtime.bench.bpf_calls import BpfError
from fastmip.runtime.bench.references import add_encapsulating_route
from fastmip.runtime.cli.client import ControlClient
from fastmip.runtime.cli.failures import Failure, Unreachable
from fastmip.runtime.demo.lab import Lab
from fastmip.runtime.demo.topology import Topology
from fastmip.runtime.store import Store

AGENT = 0x0A020001
FIRST_HOME = 0x0A800000
"""10.128.0.0: the home network; its size follows the number of bindings."""
FIRST_PLAIN = 0x0A400000
"""10.64.0.0/12 is forwarded by the kernel as it is."""
FIRST_PROGRAM = 0x0A500000
"""10.80.0.0/12 is encapsulated by the kernel's program."""
CARE_OF = 0x0A050001
"""Behind a gateway, as care-of addresses are."""
MAX_BINDINGS = 1 << 20

IOS: Mapping[str, str] = MappingProxyType(
    {
        "kernel": "",
        "socket": 'transmit = "socket"',
        "xdp": 'io = "xdp"\ninterfaces = ["h0", "h1"]',
        "offload": 'io = "xdp"\noffload = true\ninterfaces = ["h0", "h1"]',
    }
)
"""Name -> what ``[engine]`` is told; the interfaces are h0 and h1."""
KINDS: Mapping[str, int] = MappingProxyType({"ipip": 4, "gre": 47, "minimal": 55, "udp": 4})
"""Name of a tunnel -> IP protocol number."""
_UDP_PORT = 5434
_START_S = 120.0
REAL_TIME_PRIORITY = 10

WIRE = Topology(
    nodes=("load", "ha", "ref", "sink"),
    routers=("ha", "ref"),
    links={},
    wires=(
        ("load", "g0", "ha", "h0"),
        ("ha", "h1", "sink", "s0"),
        ("load", "r0", "ref", "h0"),
        ("ref", "h1", "sink", "s1"),
    ),
    fixed_ports={},
    addresses=tuple(
        entry
        for node in ("ha", "ref")
        for entry in ((node, "h0", "10.1.0.1/24"), (node, "h1", "10.2.0.1/24"))
    ),
    routes=tuple(
        (node, network, "10.2.0.2")
        for node in ("ha", "ref")
        for network in ("10.64.0.0/12", "10.5.0.0/16")
    ),
    filters=(),
)

_CONFIG = """\
[daemon]
state_dir = "{folder}"
control_socket = "{folder}/control.sock"
[engine]
max_bindings = {capacity}
{engine}
[home_agent]
address = "10.2.0.1"
home_network = "{network}"
tunnel_device = "fm0"
"""
_SIOCETHTOOL, _ETHTOOL_SGRO = 0x8946, 0x2C
_RUN = "from fastmip.runtime.cli.main import main; main()"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured: how packets come and go, and through how many bindings."""

    io: str = "kernel"
    bindings: int = 100_000
    kind: str = "ipip"
    workers: int = 1

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The smallest home network with room for the bindings."""
        length = 32 - max(2, (self.bindings + 1).bit_length())
        return ipaddress.IPv4Network((FIRST_HOME, length))

    def config(self, folder: Path) -> str:
        """The daemon's file."""
        engine = IOS[self.io]
        if self.workers > 1:
            engine += f"\nworkers = {self.workers}"
        return _CONFIG.format(
            folder=folder,
            capacity=max(1024, self.bindings + self.bindings // 8),
            engine=engine,
            network=self.network,
        )


class WireLab(Lab):
    """The namespaces, and what in them is the same for every setting."""

    def __init__(self) -> None:
        super().__init__(WIRE)

    def build(self) -> None:
        """Make them; frames of XDP programs are taken, and the next hop is known."""
        super().build()
        for node, index in (("ha", 0), ("ref", 1)):
            sink = self.mac("sink", f"s{index}")
            self.ip(node, f"neighbour replace 10.2.0.2 lladdr {sink} dev h1 nud permanent")
            with self.inside(node):
                for port in ("h0", "h1"):
                    _set_gro(port)
        with self.inside("ref"):
            add_encapsulating_route(
                (FIRST_PROGRAM, 12), 0x0A020002, "h1", local=AGENT, remote=CARE_OF
            )

    @contextmanager
    def inside(self, node: str) -> Iterator[None]:
        """This thread is in a machine meanwhile."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.ns(node)}", os.O_RDONLY)
        try:
            _setns(there)
            try:
                yield
            finally:
                _setns(here)
        finally:
            os.close(there)
            os.close(here)

    def command_in(self, node: str, cpu: int, *, real_time: bool = False) -> list[str]:
        """The beginning of a command in a machine, on one CPU."""
        priority = ["chrt", "-f", str(REAL_TIME_PRIORITY)] if real_time else []
        inside = ["nsenter", f"--net=/run/netns/{self.ns(node)}"]
        return [*inside, "taskset", "-c", str(cpu), *priority]


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, 0x40000000):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def _set_gro(interface: str) -> None:
    """Let a veth take frames of XDP programs: it does so with GRO."""
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_SGRO, 1))
    request = struct.pack("16sP8x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


def fill_store(path: Path, setting: Setting) -> None:
    """Write a store with a binding for each address, of this boot, all to the same gateway."""
    store: Store[Any] = Store(path)
    store.open()
    boot = store.boot.id
    store.close()
    now = clock.now()
    count = setting.bindings
    records = np.zeros(count, dtype=BINDING_DTYPE)
    records["home_address"] = FIRST_HOME + 1 + np.arange(count)
    records["care_of_address"] = records["source_address"] = CARE_OF
    if setting.kind == "udp":
        # Each node behind an address of its own: packets to one peer would leave as one message.
        records["source_address"] = CARE_OF + np.arange(count) % ((1 << 16) - 2)
        records["tunnel_port"] = records["source_port"] = _UDP_PORT
    records["home_agent"] = AGENT
    records["lifetime_s"] = 65534
    records["expires_boot_ns"] = now.boot_ns + 65534 * 10**9
    records["expires_wall_ns"] = now.wall_ns + 65534 * 10**9
    records["boot"] = boot
    records["encapsulation"] = KINDS[setting.kind]
    data = records.tobytes()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO node VALUES(?,?,0,?)",
        ((FIRST_HOME + 1 + i, i, data[64 * i : 64 * i + 64]) for i in range(count)),
    )
    connection.execute("COMMIT")
    connection.close()


@dataclass(slots=True)
class HomeAgent:
    """A running daemon."""

    setting: Setting
    pid: int
    client: ControlClient
    cpus: list[int] = field(default_factory=list)
    """Of its workers."""

    def _workers(self) -> Iterator[Path]:
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            if (task / "comm").read_text().startswith("fastmip-"):
                yield task

    def pin(self, cpus: Sequence[int], *, real_time: bool = False) -> None:
        """Give each worker a CPU of these, in turn."""
        for number, task in enumerate(sorted(self._workers(), key=lambda path: int(path.name))):
            cpu = cpus[number % len(cpus)]
            os.sched_setaffinity(int(task.name), {cpu})
            if real_time:
                priority = os.sched_param(REAL_TIME_PRIORITY)
                os.sched_setscheduler(int(task.name), os.SCHED_FIFO, priority)
            self.cpus.append(cpu)

    def cpu_seconds(self) -> float:
        """CPU time of all workers so far."""
        return sum(
            int((task / "schedstat").read_text().split()[0]) / 1e9 for task in self._workers()
        )

    def counters(self) -> dict[str, int]:
        """Packets by verdict, and what the port counts."""
        rows = self.client.ask("show errors")["rows"]
        return {row["verdict"]: row["packets"] for row in rows}


@contextmanager
def home_agent(
    lab: WireLab, setting: Setting, cpus: Sequence[int], *, real_time: bool = False
) -> Iterator[HomeAgent]:
    """Run the daemon in its machine with all its bindings. Raises BpfError with its last words."""
    with ExitStack() as stack:
        folder = lab.directory / f"{setting.io}-{setting.kind}-{setting.bindings}-{time.time_ns()}"
        folder.mkdir()
        fill_store(folder / "fastmip.db", setting)
        config = folder / "fastmip.toml"
        config.write_text(setting.config(folder))
        config.chmod(0o600)
        log = stack.enter_context((folder / "log").open("wb"))
        command = [sys.executable, "-c", _RUN, "run", str(config)]
        process = lab.popen("ha", command, stdout=log, stderr=log)

        def stop() -> None:
            process.terminate()
            process.wait(30)

        stack.callback(stop)
        client = ControlClient(folder / "control.sock", 30.0)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                client.ask("status")
                break
            except (Unreachable, Failure):
                if process.poll() is not None or time.monotonic() > deadline:
                    words = (folder / "log").read_text().strip().splitlines()[-1:]
                    raise BpfError(f"the daemon did not start: {' '.join(words)}") from None
                time.sleep(0.02)
        agent = HomeAgent(setting, process.pid, client)
        agent.pin(cpus, real_time=real_time)
        yield agent
