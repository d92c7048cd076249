"""One port 434 for all roles of a daemon.

A home agent, a foreign agent and a mobile node that hears revocations share the registration port
of one machine. The hub owns the socket; each role has a ``RolePort`` that looks like a port of its
own. A datagram goes to the first role that claims it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastmip.agents.effects import Arrival, Endpoint, SendDatagram
from fastmip.runtime.control_port import PORT, ControlPort, Deliver, Report

Claim = Callable[[bytes, Arrival], bool]
"""Whether a role wants a datagram."""


class ControlHub:
    """The socket and who shares it."""

    def __init__(self, *, port: int = PORT, fwmark: int = 0, data_sockets: int = 0) -> None:
        self._roles: list[RolePort] = []
        self._reports: list[Report] = []
        self._open = 0
        self.port = ControlPort(
            self._deliver,
            port=port,
            fwmark=fwmark,
            data_sockets=data_sockets,
            report=self._report,
        )

    def join(
        self,
        claim: Claim,
        deliver: Deliver,
        report: Report | None = None,
        *,
        first: bool = False,
    ) -> RolePort:
        """A port for one more role; ``report`` hears of ICMP errors about what was sent.

        ``first``: it is asked before all roles that are there already.
        """
        role = RolePort(self, claim, deliver)
        self._roles.insert(0 if first else len(self._roles), role)
        if report is not None:
            self._reports.append(report)
        return role

    def _deliver(self, batch: list[tuple[bytes, Arrival]]) -> None:
        shares: dict[int, list[tuple[bytes, Arrival]]] = {}
        for data, arrival in batch:
            for number, role in enumerate(self._roles):
                if role.claim(data, arrival):
                    shares.setdefault(number, []).append((data, arrival))
                    break
        for number, share in shares.items():
            self._roles[number].deliver(share)

    def _report(self, quoted: bytes, destination: Endpoint, icmp_type: int, code: int) -> None:
        for report in self._reports:
            report(quoted, destination, icmp_type, code)

    def opened(self, loop: asyncio.AbstractEventLoop) -> None:
        """A role is ready; the first one opens the socket."""
        self._open += 1
        if self._open == 1:
            self.port.open(loop)

    def closed(self) -> None:
        """A role has ended; the last one closes the socket."""
        self._open -= 1
        if self._open == 0:
            self.port.close()


class RolePort:
    """One role's share of the port."""

    def __init__(self, hub: ControlHub, claim: Claim, deliver: Deliver) -> None:
        self._hub = hub
        self.claim = claim
        self.deliver = deliver
        self._is_open = False

    @property
    def counters(self) -> dict[str, int]:
        """Those of the socket, which is shared."""
        return self._hub.port.counters

    def bind(self) -> int:
        """See ``ControlPort.bind``; UDP tunnels are one role's, as the configuration says."""
        return self._hub.port.bind()

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receive from now on. Raises StartError when the port is taken or forbidden."""
        self._hub.opened(loop)
        self._is_open = True

    def close(self) -> None:
        """Receive no more."""
        if self._is_open:
            self._is_open = False
            self._hub.closed()

    def pause(self) -> None:
        """Leave datagrams in the socket's buffer, those of the other roles too."""
        self._hub.port.pause()

    def resume(self) -> None:
        """Read again."""
        self._hub.port.resume()

    def send(self, message: SendDatagram) -> None:
        """See ``ControlPort.send``."""
        self._hub.port.send(message)

    def forget_interfaces(self) -> None:
        """See ``ControlPort.forget_interfaces``."""
        self._hub.port.forget_interfaces()
