"""What a million bindings cost a restart, and what they weigh.

A store with a million bindings is written; then the real daemon starts on it in a network
namespace, and we wait for its READY: packet engine filled, workers running, port 434 open.
``store.restart.1M`` counts from exec, so Python's own start is part of it; the reference is
copying the store's file once. ``store.rss_per_binding`` is the resident memory of the whole
daemon, divided; the reference is 800 bytes. Run alone: ``python -m bench.store`` (needs root
or user namespaces).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bench.results import Benchmark, Result
from fastmip.agents.bindings import BINDING_DTYPE
from fastmip.runtime import clock
from fastmip.runtime.store import Store

BINDINGS = 1_000_000
RSS_GOAL_BYTES = 800
ROUNDS = 3
COMMAND = "sh ./run bench --only store"

_HOME_AGENT = (10 << 24) | 1
_FIRST = (10 << 24) | 256
_CONFIG = """
[daemon]
state_dir = "{folder}"
control_socket = "{folder}/control.sock"
[engine]
max_bindings = 1100000
[home_agent]
address = "10.0.0.1"
home_network = "10.0.0.0/8"
tunnel_device = "fmbench0"
"""


def fill(path: Path) -> None:
    """Write a store with a million bindings of this boot."""
    store: Store[object] = Store(path)  # type: ignore[type-var]  # only opened, nothing submitted
    store.open()
    boot = store.boot.id
    store.close()
    now = clock.now()
    records = np.zeros(BINDINGS, dtype=BINDING_DTYPE)
    records["home_address"] = _FIRST + np.arange(BINDINGS)
    records["care_of_address"] = (172 << 24 | 16 << 16) + np.arange(BINDINGS) // 4
    records["home_agent"] = _HOME_AGENT
    records["source_address"] = records["care_of_address"]
    records["lifetime_s"] = 36000
    lifetimes = np.random.default_rng(1).integers(3600, 36000, BINDINGS) * 1_000_000_000
    records["expires_boot_ns"] = now.boot_ns + lifetimes
    records["expires_wall_ns"] = now.wall_ns + lifetimes
    records["boot"] = boot
    records["encapsulation"] = 4
    data = records.tobytes()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO node VALUES(?,?,0,?)",
        ((_FIRST + i, i, data[64 * i : 64 * i + 64]) for i in range(BINDINGS)),
    )
    connection.execute("COMMIT")
    connection.close()


def restart(folder: Path) -> tuple[float, int]:
    """Start the daemon on the store; returns seconds to READY and resident bytes."""
    config = folder / "bench.toml"
    config.write_text(_CONFIG.format(folder=folder))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = folder / "notify.sock"
        address.unlink(missing_ok=True)
        manager.bind(str(address))
        manager.settimeout(60)
        environment = os.environ | {"NOTIFY_SOCKET": str(address)}
        began = time.perf_counter()
        daemon = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(config)], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            while b"READY=1" not in manager.recv(4096):
                pass
            elapsed_s = time.perf_counter() - began
            return elapsed_s, _resident_bytes(daemon.pid)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(timeout=30)


_RUN = (
    "import sys; from fastmip.runtime.daemon import run_daemon; sys.exit(run_daemon(sys.argv[1]))"
)


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc")


def _copy_s(folder: Path) -> float:
    began = time.perf_counter()
    shutil.copyfile(folder / "fastmip.db", folder / "copy.db")
    return time.perf_counter() - began


def measure() -> list[Result]:
    """Both figures; runs inside the namespace that ``restarts`` makes."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", "10.0.0.1/32", "dev", "lo"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with tempfile.TemporaryDirectory(prefix="fastmip-bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        fill(folder / "fastmip.db")
        rounds = [(*restart(folder), _copy_s(folder)) for _ in range(ROUNDS)]
    seconds = sorted(r[0] for r in rounds)[ROUNDS // 2]
    resident = sorted(r[1] for r in rounds)[ROUNDS // 2]
    copying = sorted(r[2] for r in rounds)[ROUNDS // 2]
    return [
        Result(
            "store.restart.1M",
            seconds,
            "s",
            seconds / copying,
            f"copying the store's file: {copying:.3f} s",
            COMMAND,
        ),
        Result(
            "store.rss_per_binding",
            resident / BINDINGS,
            "bytes",
            resident / BINDINGS / RSS_GOAL_BYTES,
            f"goal: {RSS_GOAL_BYTES} bytes",
            COMMAND,
        ),
    ]


def restarts() -> list[Result]:
    """Measure in a network namespace of our own."""
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    command = ["unshare", flags, sys.executable, "-m", "bench.store", "--measure"]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Result(**figures) for figures in json.loads(answer.stdout)]


BENCHMARKS: dict[str, Benchmark] = {"store": restarts}


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps([asdict(result) for result in measure()]))
    else:
        for result in restarts():
            print(f"{result.name}: {result.value:.4g} {result.unit} ({result.reference})")
