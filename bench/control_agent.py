"""What the home agent's Python costs per registration, and to take over a million bindings.

``agent.registration``: microseconds of ``receive_datagram`` plus ``commit_done`` for one
authentic refresh, nodes in memory; no socket, no store, no engine. The reference is the two
HMAC-MD5 computations nobody can avoid. ``agent.restart.1M``: seconds to convert a million
stored bindings to engine records and expiry hints; the reference is copying their bytes.
Run alone: ``python -m bench.control_agent``; ``--profile`` shows where the time goes.
"""

from __future__ import annotations

import cProfile
import hmac
import pstats
import struct
import sys
import time

import numpy as np

from bench.results import Benchmark, Result, median_of_rounds
from fastmip.agents.bindings import BINDING_DTYPE, tunnel_records
from fastmip.agents.effects import Arrival, Commit, CommitOutcome, Endpoint, NodeRow, Now
from fastmip.agents.home import HomeAgent
from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix
from fastmip.auth.associations import AssociationSet, SecurityAssociation

NODES = 20_000
ROUNDS = 7
MILLION = 1_000_000
COMMAND = "sh ./run bench --only agent"

_SECOND = 1_000_000_000
_NTP_EPOCH = 2_208_988_800
_WALL_S = 1_790_000_000
_HOME_AGENT = 0x0A000001
_FIRST_NODE = 0x0A010000
_CARE_OF = 0xC0000201
_SPI = 0x100
_KEY = bytes(range(16))


def _request(node: int, identification: int) -> bytes:
    covered = struct.pack(
        "!BBHIIIQBBI",
        *(1, 0x22, 300, _FIRST_NODE + node, _HOME_AGENT, _CARE_OF, identification),
        *(32, 20, _SPI),
    )
    return covered + hmac.digest(_KEY, covered, "md5")


class Loop:
    """A home agent whose commits end at once."""

    def __init__(self) -> None:
        shared = AssociationSet([SecurityAssociation(_SPI, _KEY)])
        hosts = {_FIRST_NODE + n: Host(_FIRST_NODE + n, shared) for n in range(NODES)}
        policy = HomeAgentPolicy(_HOME_AGENT, Prefix(0x0A000000, 8), "home0", max_bindings=MILLION)
        self._agent = HomeAgent(
            policy, hosts=hosts.get, load=_nothing_stored, boot=1, random=bytes, cache_nodes=NODES
        )
        self._arrival = Arrival(Endpoint(_CARE_OF, 40000), Endpoint(_HOME_AGENT, 434), "wan0")
        self._round = 0

    def registrations(self) -> float:
        """Microseconds per registration of every node once."""
        self._round += 1
        identification = (_WALL_S + _NTP_EPOCH) << 32 | self._round
        requests = [_request(node, identification) for node in range(NODES)]
        now = Now(1000 * _SECOND + self._round, _WALL_S * _SECOND)
        receive, done = self._agent.receive_datagram, self._agent.commit_done
        arrival, committed = self._arrival, CommitOutcome.COMMITTED
        began = time.perf_counter()
        for data in requests:
            (commit,) = receive(data, arrival, now)
            assert isinstance(commit, Commit)
            done(commit.token, committed, now)
        return (time.perf_counter() - began) / NODES * 1e6


def _nothing_stored(_home_address: int) -> NodeRow | None:
    return None


def _two_authenticators() -> float:
    """Microseconds of one verification and one signature."""
    covered = bytes(30)
    began = time.perf_counter()
    for _ in range(NODES):
        hmac.digest(_KEY, covered, "md5")
        hmac.digest(_KEY, covered, "md5")
    return (time.perf_counter() - began) / NODES * 1e6


def _million_records() -> bytes:
    records = np.zeros(MILLION, dtype=BINDING_DTYPE)
    records["home_address"] = np.arange(MILLION) + _FIRST_NODE
    records["expires_boot_ns"] = (1000 + np.arange(MILLION) % 1800) * _SECOND
    records["boot"] = 1
    records["lifetime_s"] = 1800
    return records.tobytes()


def _restart(records: bytes) -> float:
    """Seconds to take over a million bindings."""
    loop = Loop()
    began = time.perf_counter()
    tunnels = tunnel_records(
        records, boot=1, now=Now(_SECOND, _SECOND), mtu_bytes=1500, reverse_flag=1
    )
    loop._agent.schedule_expiries(tunnels)  # the class exists for this bench alone
    taken = time.perf_counter() - began
    assert len(tunnels) == MILLION
    return taken


def _copy(records: bytes) -> float:
    began = time.perf_counter()
    bytearray(records)
    return time.perf_counter() - began


def agent() -> list[Result]:
    """All figures of this file."""
    loop = Loop()
    loop.registrations()
    registration, floor = median_of_rounds(ROUNDS, loop.registrations, _two_authenticators)
    records = _million_records()
    restart, copy = median_of_rounds(3, lambda: _restart(records), lambda: _copy(records))
    return [
        Result(
            "agent.registration",
            registration,
            "us",
            registration / floor,
            f"two HMAC-MD5: {floor:.2f} us",
            COMMAND,
        ),
        Result(
            "agent.restart.1M",
            restart,
            "s",
            restart / copy,
            f"copying the records: {copy:.4f} s",
            COMMAND,
        ),
    ]


BENCHMARKS: dict[str, Benchmark] = {"agent": agent}


if __name__ == "__main__":
    if sys.argv[1:] == ["--profile"]:
        measured = Loop()
        measured.registrations()
        profile = cProfile.Profile()
        profile.runcall(measured.registrations)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    else:
        for result in agent():
            print(f"{result.name}: {result.value:.4g} {result.unit} ({result.reference})")
