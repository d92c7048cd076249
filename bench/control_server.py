"""The home agent's registration loop alone, for ``bench.control``: no TUN, no ARP, any port.

Everything between the socket and the reply is what the daemon runs: control port, agent,
authentication, engine, store, group commit. ``--store off`` answers without a store and is
the reference.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from fastmip import _dataplane
from fastmip.agents.home import HomeAgent
from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.runtime.control_port import ControlPort
from fastmip.runtime.daemon import tune_interpreter
from fastmip.runtime.home_pipeline import HomePipeline, Prepared
from fastmip.runtime.path_mtu import PathMtu
from fastmip.runtime.store import Store

HOME_NETWORK = 10 << 24
HOME_AGENT = 198 << 24 | 18 << 16 | 1
"""198.18.0.1, of the block for benchmarks (RFC 2544)."""
SPI = 256


def host_key(number: int) -> bytes:
    """The key of host ``number``: distinct, and known to the load generator."""
    return number.to_bytes(4, "big") * 4


def make_hosts(count: int) -> dict[int, Host]:
    """Hosts by home address, each with a key of its own."""
    return {
        HOME_NETWORK + number: Host(
            HOME_NETWORK + number,
            AssociationSet([SecurityAssociation(SPI, host_key(number))]),
        )
        for number in range(1, count + 1)
    }


async def serve(folder: Path, port_number: int, count: int, *, durable: bool) -> None:
    """Serve until SIGTERM; prints ``ready``, and ``cpu SECONDS`` at the end."""
    loop = asyncio.get_running_loop()
    engine = _dataplane.Engine(max_bindings=2 * count + 1024)
    store: Store[Prepared] = Store(folder / "bench.db")
    store.open()

    def submit_nowhere(commits: Sequence[Prepared]) -> None:
        loop.call_soon(pipeline.stored, commits, "")

    agent = HomeAgent(
        HomeAgentPolicy(
            HOME_AGENT, Prefix(HOME_NETWORK, 8), max_bindings=2 * count, denials_per_second=10**9
        ),
        hosts=make_hosts(count).get,
        load=store.load,
        boot=store.boot.id,
        random=os.urandom,
    )
    pipeline = HomePipeline(
        agent,
        engine,
        store.submit if durable else submit_nowhere,
        path_mtu=PathMtu(HOME_AGENT, 1500),
    )
    if durable:
        store.start_writer(loop, pipeline.stored)
    port = ControlPort(pipeline.deliver, port=port_number)
    pipeline.use_port(port)
    port.open(loop)
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    tune_interpreter()
    print("ready", flush=True)
    await stopping.wait()
    print(f"cpu {time.process_time():.6f}", flush=True)
    pipeline.stop()
    port.close()
    store.close()


def main() -> None:
    """Parse arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("hosts", type=int)
    parser.add_argument("--store", choices=("sqlite", "off"), default="sqlite")
    parser.add_argument("--cpu", type=int, default=-1)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    work = serve(options.folder, options.port, options.hosts, durable=options.store == "sqlite")
    if options.profile is None:
        asyncio.run(work)
        return
    import cProfile  # noqa: PLC0415 - only for profiling

    profiler = cProfile.Profile()
    profiler.runcall(asyncio.run, work)
    profiler.dump_stats(options.profile)


if __name__ == "__main__":
    main()
