"""The socket over which home agents of a group tell each other their load, and its commands."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from fastmip.agents.group_exchange import LOAD_LEN, GroupExchange
from fastmip.runtime import clock
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import StartError
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip.agents.home import HomeAgent
    from fastmip.runtime.group_config import GroupConfig

_BATCH = 64

log = get_logger("home-agent")


class GroupService:
    """Says the load of one home agent every interval and hears those of the others."""

    def __init__(self, config: GroupConfig, own: int, agent: HomeAgent) -> None:
        """``config`` has a key."""
        if config.key is None:
            raise LookupError("the key of the group was not loaded")
        self._config, self._own, self._agent = config, own, agent
        self._others = [int(m.address) for m in config.members if int(m.address) != own]
        self.exchange = GroupExchange(own, self._others, config.key.reveal())
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the socket and speak. Raises StartError."""
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.bind((format_address(self._own), self._config.port))
        except OSError as error:
            opened.close()
            where = f"{format_address(self._own)}:{self._config.port}"
            raise StartError(f"home_agent.group.port: {where}: {error.strerror}") from None
        self._socket = opened
        loop.add_reader(opened, self._read)
        self._say(loop)

    def stop(self) -> None:
        """Close the socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def say_now(self) -> None:
        """Tell the others at once what changed."""
        opened, now = self._socket, clock.now()
        if opened is None:
            return
        message = self.exchange.message(self._agent.load(now), now)
        for address in self._others:
            with contextlib.suppress(OSError):  # who is away is told again
                opened.sendto(message, (format_address(address), self._config.port))
                self.exchange.counters["group-sent"] += 1

    def _say(self, loop: asyncio.AbstractEventLoop) -> None:
        self.say_now()
        self._timer = loop.call_later(self._config.interval, self._say, loop)

    def _read(self) -> None:
        now = clock.now()
        for _ in range(_BATCH):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(LOAD_LEN + 1)
            except BlockingIOError:
                return
            except OSError:  # ICMP tells that a member is away
                continue
            heard = self.exchange.receive(data, now)
            if heard is not None:
                self._agent.choice.loads[heard[0]] = heard[1]


def group_answer(agent: HomeAgent, config: GroupConfig | None, own: int) -> dict[str, object]:
    """``show group``: home agents, their loads, and whether nodes are sent to them."""
    now = clock.now()
    rows: list[dict[str, object]] = []
    choice = agent.choice
    if config is not None:
        policy = config.build(own)
        for member in policy.members:
            load = agent.load(now) if member.address == own else choice.loads.get(member.address)
            silent = load is None or now.boot_ns - load.heard_ns > policy.silence_s * 10**9
            state = "silent" if silent and policy.hears_loads else "up" if load else "unknown"
            rows.append(
                {
                    "home_agent": format_address(member.address),
                    "weight": member.weight,
                    "state": "draining" if load is not None and load.draining else state,
                    "bindings": "" if load is None else load.bindings,
                    "max_bindings": "" if load is None else load.capacity,
                    "own": member.address == own,
                }
            )
    summary = {
        "policy": "none" if config is None else config.policy,
        "draining": choice.is_draining,
        "shown": len(rows),
    }
    return {"rows": rows, "summary": summary}
