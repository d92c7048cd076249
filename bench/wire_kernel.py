"""``wire.kernel``: packets per second of a home agent on its kernel port, between namespaces.

    [flood -> h0]  ha: rule -> TUN -> worker -> raw socket -> h1 --- veth --- s0 [sink]

The load enters the home agent's namespace as if from a NIC (``flood.c``), on CPU 0; the worker
runs on CPU 1. Destinations are drawn at random from 100k bindings whose care-of addresses all
lead to the sink, which counts and drops on arrival. The reference is the kernel's own
``ip_forward`` without a tunnel: same namespaces, same load, same sink, same run; load and
forwarding share CPU 0 there, so its rate is also given per CPU second.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tests.helpers.namespaces import Namespaces, wait_for

from bench.results import Benchmark, Result
from fastmip._dataplane import Engine
from fastmip.agents.bindings import TUNNEL_DTYPE
from fastmip.runtime.control_port import ControlPort
from fastmip.runtime.devices import GRE, IPIP, MINIMAL, TUN_QUEUE_LENGTH
from fastmip.runtime.engine_port import EnginePort

BINDINGS = 100_000
FIRST_HOME = 0x0A800000  # 10.128.0.0, through the engine
FIRST_PLAIN = "10.64.0.0"  # the same number of addresses, forwarded by the kernel
AGENT, CARE_OF_ADDRESS = 0x0A020001, 0x0A050001
"""The care-of address is behind a gateway, as care-of addresses are."""
NEVER = 2**64 - 1
SECONDS = 1.0
ROUNDS = 5
LOSS_FREE_STEPS = 6
COMMAND = "sh ./run bench --only wire.kernel"


@dataclass(frozen=True, slots=True)
class Run:
    """One burst of load and what arrived of it."""

    offered: int
    delivered: int
    seconds: float
    cpu_seconds: float
    """Of the one core that did the work: the worker's, or the generator's for ip_forward."""

    @property
    def delivered_mpps(self) -> float:
        """Delivered rate, in million packets per second."""
        return self.delivered / self.seconds / 1e6

    @property
    def per_cpu_mpps(self) -> float:
        """Delivered per second of CPU time: what the machine's other users cannot spoil."""
        return self.delivered / max(self.cpu_seconds, 1e-9) / 1e6


class Kind(NamedTuple):
    """A kind of tunnel: encapsulation, and whether it is one in UDP (RFC 3519)."""

    encapsulation: int = IPIP
    is_udp: bool = False


def records(kind: Kind) -> bytes:
    """Tunnel records of all bindings; every care-of address is the sink's.

    In UDP each node has one of its own: packets to the same peer would leave as one message.
    """
    table = np.zeros(BINDINGS, dtype=TUNNEL_DTYPE)
    table["home_address"] = np.arange(FIRST_HOME, FIRST_HOME + BINDINGS, dtype=np.uint32)
    table["remote"], table["local"] = CARE_OF_ADDRESS, AGENT
    table["encapsulation"] = kind.encapsulation
    if kind.is_udp:
        table["remote"] = CARE_OF_ADDRESS + np.arange(BINDINGS) % (1 << 16 - 1)
        table["remote_port"], table["local_port"] = 5434, 434
    table["expires_ns"] = NEVER
    return table.tobytes()


class Wire(ExitStack):
    """The namespaces, an engine in them, and the load generator."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.lab = self.enter_context(Namespaces("ha", "in", "sink"))
        self.directory = Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.flood = self.directory / "flood"
        source = Path(__file__).with_name("flood.c")
        subprocess.run(["gcc", "-O2", "-o", self.flood, source], check=True)
        self._build()
        self.engine = Engine(max_bindings=BINDINGS, local_addresses=[AGENT])
        self.engine.restore(records(kind))
        self._attach()

    def _build(self) -> None:
        lab = self.lab
        lab.wire("ha", "h0", "in", "i0")
        lab.wire("ha", "h1", "sink", "s0")
        lab.ip("ha", "addr", "add", "10.1.0.1/24", "dev", "h0")
        lab.ip("ha", "addr", "add", "10.2.0.1/24", "dev", "h1")
        lab.ip("sink", "addr", "add", "10.2.0.2/24", "dev", "s0")
        for network in (f"{FIRST_PLAIN}/10", "10.5.0.0/16"):
            lab.ip("ha", "route", "add", network, "via", "10.2.0.2")
        lab.sysctl("ha", ip_forward=1)
        # Not the sink's own MAC: its kernel counts what arrives and drops it at the door.
        gateway = ("10.2.0.2", "lladdr", "02:00:00:00:00:99", "dev", "h1", "nud", "permanent")
        lab.ip("ha", "neigh", "replace", *gateway)

    def _attach(self) -> None:
        port = EnginePort("fm0", address=AGENT, fwmark=None, protocols=(IPIP, GRE, MINIMAL))
        self.callback(port.close)
        control = ControlPort(lambda _: None, data_sockets=1)
        self.callback(control.close)
        with self.lab.inside("ha"):
            port.open(self.engine, 1, udp_port=control.bind())
        self.lab.ip("ha", "link", "set", "fm0", "txqueuelen", str(TUN_QUEUE_LENGTH), "up")
        self.lab.ip("ha", "route", "add", "10.128.0.0/10", "dev", "fm0")
        self.callback(self.engine.stop)
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cpus)})  # threads inherit it
        self.engine.start()
        os.sched_setaffinity(0, cpus)
        self.load_cpu = str(min(cpus))

    def worker_cpu_seconds(self) -> float:
        """CPU time of the worker thread so far, to the nanosecond."""
        for task in Path("/proc/self/task").iterdir():
            if (task / "comm").read_text().strip() == "fastmip-0":
                return int((task / "schedstat").read_text().split()[0]) / 1e9
        raise AssertionError("the worker thread is gone")

    def arrived(self) -> int:
        """Packets at the sink so far."""
        return self.lab.statistics("sink", "s0", "rx_packets")[0]

    def run(self, *, tunnel: bool, size: int, rate: float = 0, seconds: float = SECONDS) -> Run:
        """Offer load for a while, wait until all of it is through, count."""
        first = "10.128.0.0" if tunnel else FIRST_PLAIN
        before, cpu_before = self.arrived(), self.worker_cpu_seconds()
        command = ["taskset", "-c", self.load_cpu, str(self.flood), "h0", "10.1.0.2", first]
        command += [str(BINDINGS), str(size), str(rate), str(seconds)]
        text = self.lab.run("ha", *command).split()
        wait_for("the queues to drain", self._is_drained)
        cpu = self.worker_cpu_seconds() - cpu_before if tunnel else float(text[2])
        return Run(int(text[0]), self.arrived() - before, float(text[1]), cpu)

    def _is_drained(self) -> bool:
        before = self.arrived()
        time.sleep(0.02)
        return self.arrived() == before

    def loss_free(self, size: int, upper_pps: float) -> float:
        """Highest rate in Mpps found by bisection at which every packet arrives."""
        low, high = 0.0, upper_pps
        for _ in range(LOSS_FREE_STEPS):
            middle = (low + high) / 2
            run = self.run(tunnel=True, size=size, rate=middle, seconds=SECONDS / 2)
            low, high = (middle, high) if run.delivered >= run.offered else (low, middle)
        return low / 1e6


def measure(name: str, size: int, kind: Kind) -> Iterable[Result]:
    """Delivered at overload, per CPU second, and loss-free, for one packet size."""
    with Wire(kind) as wire:
        tunnel, plain = [], []
        for _ in range(ROUNDS):
            tunnel.append(wire.run(tunnel=True, size=size))
            plain.append(wire.run(tunnel=False, size=size))
        rate = statistics.median(run.delivered_mpps for run in tunnel)
        rate_cpu = statistics.median(run.per_cpu_mpps for run in tunnel)
        forward = statistics.median(run.delivered_mpps for run in plain)
        forward_cpu = statistics.median(run.per_cpu_mpps for run in plain)
        loss_free = wire.loss_free(size, rate * 1e6)
        balance = wire.engine.balance()
        lost = {k: v for k, v in wire.engine.port_counters().items() if v and k != "tunnel-sent"}
        assert balance["inputs"] == wire.engine.counters()["encapsulated"][0], (balance, lost)
    reference = f"kernel ip_forward {forward:.3f} Mpps"
    reference_cpu = f"kernel ip_forward {forward_cpu:.3f} Mpps per CPU second, load included"
    return [
        Result(name, rate, "Mpps", rate / forward, reference, COMMAND),
        Result(f"{name}.per_cpu", rate_cpu, "Mpps", rate_cpu / forward_cpu, reference_cpu, COMMAND),
        Result(f"{name}.loss_free", loss_free, "Mpps", loss_free / forward, reference, COMMAND),
    ]


_CASES = {
    "wire.kernel.64": (64, Kind()),
    "wire.kernel.1400": (1400, Kind()),
    "wire.kernel.64.gre": (64, Kind(GRE)),
    "wire.kernel.64.minimal": (64, Kind(MINIMAL)),
    "wire.kernel.64.udp": (64, Kind(is_udp=True)),
}

BENCHMARKS: dict[str, Benchmark] = {
    name: partial(measure, name, size, kind) for name, (size, kind) in _CASES.items()
}
