"""The home agent (RFC 5944 3.8), sans I/O: datagrams and clocks in, effects out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fastmip.agents.bindings import Binding
from fastmip.agents.effects import Arrival, CommitOutcome, Effect, NodeRow, Now
from fastmip.agents.hosts import HomeAgentPolicy, Host


class HomeAgent:
    """Registration at the home agent: one instance per process, one caller thread.

    Never raises on what a datagram contains.
    """

    def __init__(
        self,
        policy: HomeAgentPolicy,
        *,
        hosts: Callable[[int], Host | None],
        load: Callable[[int], NodeRow | None],
        boot: int,
        random: Callable[[int], bytes],
        cache_nodes: int = 65536,
    ) -> None:
        raise NotImplementedError

    def receive_datagram(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Handle one datagram from UDP port 434."""
        raise NotImplementedError

    def commit_done(self, token: int, outcome: CommitOutcome, now: Now) -> list[Effect]:
        """Hear how a Commit ended; returns ARP effects and the reply, and the next Commit."""
        raise NotImplementedError

    def handle_timer(self, now: Now) -> list[Effect]:
        """Remove bindings whose lifetime has ended; call it at ``next_deadline``."""
        raise NotImplementedError

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds at which ``handle_timer`` has something to do."""
        raise NotImplementedError

    def schedule_expiries(self, tunnels: npt.NDArray[np.void]) -> None:
        """Take over restored bindings: TUNNEL_DTYPE records, chains adjacent."""
        raise NotImplementedError

    def bindings_of(self, home_address: int) -> list[Binding]:
        """Current bindings of a node, newest first (loads it if need be)."""
        raise NotImplementedError

    def clear_binding(self, home_address: int, now: Now) -> list[Effect]:
        """Withdraw all bindings of a node on the operator's word."""
        raise NotImplementedError

    def host_removed(self, home_address: int, now: Now) -> list[Effect]:
        """Withdraw what a host had when it leaves the configuration."""
        raise NotImplementedError

    def set_policy(self, policy: HomeAgentPolicy) -> None:
        """Replace the policy; bindings already granted stay."""
        raise NotImplementedError

    def counters(self) -> dict[str, int]:
        """RFC 2006 home agent counters and named reasons of silent drops."""
        raise NotImplementedError
