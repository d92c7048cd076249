"""``tcp``: Gbit/s of one TCP stream through a home agent, beside the kernel's plain forwarding.

    mn 10.3.0.5 --- t0 [ha] c0 --- cn 10.9.0.7 (plain), 10.9.0.8 (through the tunnel)
    home address 10.1.0.5

``tcp.ref`` goes from the care-of address to the correspondent, forwarded by the home agent's
kernel; ``tcp.kernel`` from the home address through the tunnel, decapsulated by a worker on its
kernel port; ``tcp.kernel.down`` the other way; ``tcp.offload`` and ``tcp.offload.down`` the same
with the offload program at TC. All in the same namespaces, in turns. The node's end of the tunnel
is a program in its kernel (``node_tunnel.bpf.c``), because a node is another machine in life: what
is measured is the home agent. TCP segmentation offload is on everywhere.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tests.helpers.namespaces import Namespaces
from tests.helpers.tunnel_lab import (
    AGENT,
    CARE_OF_ADDRESS,
    HOME_ADDRESS,
    TUN,
    Side,
    number,
    record,
)

from bench.results import Benchmark, Result
from fastmip.runtime.offload import Offload

PLAIN, TUNNELLED = "10.9.0.7", "10.9.0.8"
"""Two addresses of the correspondent, so that a route's segment size concerns one stream only."""
SEGMENT = "1440"
PORT = "5001"
SECONDS = 1.0
ROUNDS = 7
HERE = Path(__file__).parent


def compiled(directory: Path) -> Path:
    """The node's program. Raises RuntimeError without a compiler for it."""
    clang = next(filter(None, map(shutil.which, ("clang", "clang-14", "clang-16"))), None)
    if clang is None:
        raise RuntimeError("the tcp benchmarks need clang for bench/node_tunnel.bpf.c")
    made = directory / "node_tunnel.o"
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    source = str(HERE / "node_tunnel.bpf.c")
    words = [clang, "-O2", "-g", "-target", "bpf", include, "-c", source, "-o", str(made)]
    subprocess.run(words, check=True)
    return made


class TcpLab(Namespaces):
    """The lab of the module docstring; ``agent`` is its engine."""

    agent: Side
    offload: Offload | None = None

    def build(self, program: Path, prepare: Callable[[TcpLab], None]) -> None:
        """Wire everything and start the engine; ``prepare`` it before it has a binding."""
        self.wire("cn", "eth0", "ha", "c0")
        self.wire("mn", "eth0", "ha", "t0")
        for name, port, address in (
            ("cn", "eth0", f"{PLAIN}/24"),
            ("cn", "eth0", f"{TUNNELLED}/24"),
            ("ha", "c0", "10.9.0.1/24"),
            ("ha", "t0", f"{AGENT}/24"),
            ("mn", "eth0", f"{CARE_OF_ADDRESS}/24"),
            ("mn", "lo", f"{HOME_ADDRESS}/32"),
        ):
            self.ip(name, "addr", "add", address, "dev", port)
        self.ip("cn", "route", "add", "default", "via", "10.9.0.1")
        self.ip("cn", "route", "add", HOME_ADDRESS, "via", "10.9.0.1", "advmss", SEGMENT)
        self.ip("mn", "route", "add", "default", "via", AGENT)
        self.ip("mn", "route", "add", TUNNELLED, "via", AGENT, "advmss", SEGMENT)
        self.ip("mn", "link", "set", "eth0", "gso_max_size", "64000")  # room for the outer header
        self.sysctl("ha", ip_forward=1)
        self.sysctl("mn", conf__all__rp_filter=0, conf__eth0__rp_filter=0)
        self.run("mn", "tc", "qdisc", "add", "dev", "eth0", "clsact")
        for way, section in (("ingress", "tc/in"), ("egress", "tc/out")):
            words = ("dev", "eth0", way, "bpf", "da", "obj", str(program), "sec", section)
            self.run("mn", "tc", "filter", "add", *words)
        self.agent = Side(self, "ha", "home-agent", AGENT, mtu_bytes=65535, control_port=434)
        self.ip("ha", "route", "add", f"{HOME_ADDRESS}/32", "dev", TUN)
        prepare(self)
        self.agent.install(record(HOME_ADDRESS, CARE_OF_ADDRESS, AGENT))
        with self.inside("ha"):
            self.agent.engine.start()
        for name in ("cn", "mn"):
            started = self.start(name, sys.executable, str(HERE / "tcp_stream.py"), "sink", PORT)
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"

    def gbit(self, name: str, own: str, to: str) -> float:
        """Rate of one stream."""
        words = [str(HERE / "tcp_stream.py"), "source", own, to, PORT, str(SECONDS)]
        return float(self.run(name, sys.executable, *words))

    def close(self) -> None:
        """Stop the engine, remove everything."""
        if hasattr(self, "agent"):
            self.agent.close()
        if self.offload is not None:
            self.agent.engine.leave_offload()
            self.offload.close()
        super().close()


def use_offload(lab: TcpLab) -> None:
    """Let the program carry the stream, at TC."""
    with lab.inside("ha"):
        lab.offload = Offload.load(
            lab.agent.engine,
            own=[number(AGENT)],
            home_networks=[(number("10.1.0.0"), 24)],
            interfaces=["c0", "t0"],
            hook="tc",
        )
        lab.offload.attach()
        lab.offload.program.set_offload(True)


def measure(io: str, prepare: Callable[[TcpLab], None] = lambda _: None) -> Iterable[Result]:
    """Both directions and the reference; ``prepare`` makes the lab's home agent use another io."""
    up, down, plain, plain_down = [], [], [], []
    with tempfile.TemporaryDirectory() as directory, TcpLab("cn", "ha", "mn") as lab:
        lab.build(compiled(Path(directory)), prepare)
        lab.gbit("mn", HOME_ADDRESS, TUNNELLED)  # neighbours and path MTUs are learnt
        lab.gbit("cn", TUNNELLED, HOME_ADDRESS)
        for _ in range(ROUNDS):
            plain.append(lab.gbit("mn", CARE_OF_ADDRESS, PLAIN))
            up.append(lab.gbit("mn", HOME_ADDRESS, TUNNELLED))
            plain_down.append(lab.gbit("cn", PLAIN, CARE_OF_ADDRESS))
            down.append(lab.gbit("cn", TUNNELLED, HOME_ADDRESS))
    command = f"sh ./run bench --only tcp.{io}"
    ref, ref_down = statistics.median(plain), statistics.median(plain_down)
    if io == "kernel":  # the same for all
        sentence = "kernel ip_forward, node to correspondent"
        yield Result("tcp.ref", ref, "Gbit/s", None, sentence, command)
    for name, rates, beside in ((f"tcp.{io}", up, ref), (f"tcp.{io}.down", down, ref_down)):
        rate = statistics.median(rates)
        yield Result(
            name, rate, "Gbit/s", rate / beside, f"ip_forward {beside:.2f} Gbit/s", command
        )


BENCHMARKS: dict[str, Benchmark] = {
    "tcp": partial(measure, "kernel"),
    "tcp.offload": partial(measure, "offload", use_offload),
}
