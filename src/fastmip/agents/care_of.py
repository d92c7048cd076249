"""What the home agent may hold for a mobile node: its care-of addresses and their tunnels.

A care-of address passes through three stages:

1. *asked for*: a request was sent. The home agent may have accepted it although no reply came,
   so its tunnel is already accepted from, but nothing is sent through it: it has no reverse path.
2. *accepted*: the remaining lifetime runs from the time the request was sent (RFC 5944
   3.6.2.2).
3. *released*: the home agent dropped it. Packets it sent before are still under way; they are
   accepted for a moment longer while the link is up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fastmip.agents.effects import NEVER, Tunnel

SECOND_NS = 1_000_000_000
INFINITE_LIFETIME = 0xFFFF

LINGER_NS = 2 * SECOND_NS
"""Ours: how long packets under way to a released care-of address are still accepted."""


def lifetime_end_ns(sent_ns: int, lifetime_s: int) -> int:
    """When a lifetime that started at ``sent_ns`` ends."""
    return NEVER if lifetime_s == INFINITE_LIFETIME else sent_ns + lifetime_s * SECOND_NS


def granted_lifetime_s(requested_s: int, replied_s: int) -> int:
    """The lifetime in force: a reply may lower the requested one, never raise it (3.4).

    0xffff is infinite and larger than all others, so the smaller number is right for it too.
    """
    return min(requested_s, replied_s)


@dataclass(slots=True)
class CareOfBinding:
    """One care-of address at the home agent."""

    care_of_address: int
    interface: str
    home_agent: int
    held_until_ns: int
    """The home agent may hold the binding until then, NEVER for an infinite lifetime."""
    accepted: bool = False
    doubtful: bool = False
    """A request was sent since that may have ended it at the home agent."""
    agent: int = 0
    """Foreign agent it was registered through, 0 for none."""
    is_colocated: bool = True
    """The address is our own; else it is the agent's, which decapsulates."""
    unwanted: bool = False
    """The foreign agent does not carry it although the home agent holds it (RFC 4636 5)."""
    reverse: bool = False
    """Reverse tunnelling was granted."""
    encapsulating_delivery: bool = False
    """The foreign agent reverse-tunnels what we encapsulate to it, and nothing else."""
    broadcasts: bool = False
    """Broadcasts of the home network were asked for."""
    udp_port: int = 0
    """Not 0: the tunnel runs over UDP to this port of the home agent (RFC 3519)."""
    keepalive_s: int = 0
    """What the home agent suggested, 0 for nothing."""
    revocable: bool = False
    """The home agent may revoke it (RFC 3543)."""
    home_clock: int = 0
    """The home agent's timestamp when it accepted that."""
    encapsulation: int = 4
    lifetime_s: int = 0
    """Granted, in seconds."""
    sent_ns: int = 0
    """When the accepted request was sent."""
    expires_ns: int = 0
    refresh_ns: int = NEVER
    """When to register again."""
    unanswered_releases: int = 0
    """Releases (deregistrations of this address alone) that failed."""


@dataclass(frozen=True, slots=True)
class _Lingering:
    interface: str
    tunnel: Tunnel


class CareOfBindings:
    """All care-of addresses the home agent may hold, keyed by address."""

    def __init__(self) -> None:
        self._bindings: dict[int, CareOfBinding] = {}
        self._lingering: dict[int, _Lingering] = {}

    def __len__(self) -> int:
        return len(self._bindings)

    def __iter__(self) -> Iterator[CareOfBinding]:
        return iter(tuple(self._bindings.values()))

    def get(self, care_of_address: int) -> CareOfBinding | None:
        """The binding of a care-of address, also one that was only asked for."""
        return self._bindings.get(care_of_address)

    def accepted(self, care_of_address: int) -> CareOfBinding | None:
        """The binding of a care-of address if the home agent accepted it and surely holds it."""
        binding = self._bindings.get(care_of_address)
        sure = binding is not None and binding.accepted and not binding.doubtful
        return binding if sure else None

    def others(self, care_of_address: int) -> list[CareOfBinding]:
        """Every binding but this one."""
        return [b for b in self._bindings.values() if b.care_of_address != care_of_address]

    def asked(
        self,
        care_of_address: int,
        interface: str,
        home_agent: int,
        encapsulation: int,
        end_ns: int,
        *,
        agent: int = 0,
        is_colocated: bool = True,
    ) -> None:
        """A request for this address was sent; the home agent may now hold it until ``end_ns``."""
        self._lingering.pop(care_of_address, None)
        binding = self._bindings.get(care_of_address)
        if binding is None:
            binding = CareOfBinding(
                care_of_address,
                interface,
                home_agent,
                0,
                agent=agent,
                is_colocated=is_colocated,
                encapsulation=encapsulation,
            )
            self._bindings[care_of_address] = binding
        binding.unwanted = False
        binding.held_until_ns = max(binding.held_until_ns, end_ns)

    def doubt(self, bindings: Iterable[CareOfBinding]) -> None:
        """A request was sent that may end these, whether or not its reply ever comes.

        They stay usable, but no longer prove that the home agent agrees.
        """
        for binding in bindings:
            binding.doubtful = True

    def accept(
        self,
        care_of_address: int,
        *,
        home_agent: int,
        sent_ns: int,
        lifetime_s: int,
        margin_ns: int,
        reverse: bool,
        agent: int = 0,
        interface: str = "",
        refresh_s: int = 0,
    ) -> CareOfBinding:
        """The request sent at ``sent_ns`` was accepted: its lifetime runs since then.

        The refresh is due ``margin_ns`` before the end, but not before half the lifetime; an
        infinite lifetime needs none.
        """
        binding = self._bindings[care_of_address]
        binding.accepted, binding.doubtful = True, False
        binding.home_agent, binding.reverse, binding.agent = home_agent, reverse, agent
        binding.interface = interface or binding.interface
        binding.sent_ns, binding.lifetime_s = sent_ns, lifetime_s
        binding.expires_ns = binding.held_until_ns = lifetime_end_ns(sent_ns, lifetime_s)
        binding.refresh_ns = NEVER
        if lifetime_s != INFINITE_LIFETIME:
            half_ns = lifetime_s * SECOND_NS // 2
            binding.refresh_ns = max(binding.expires_ns - margin_ns, sent_ns + half_ns)
        if refresh_s:
            binding.refresh_ns = min(binding.refresh_ns, sent_ns + refresh_s * SECOND_NS)
        binding.unanswered_releases = 0
        return binding

    def ask_again(self, interface: str, now_ns: int, agent: int = 0) -> None:
        """Registrations over this link, or through this agent on it, may mean nothing any more."""
        for binding in self._bindings.values():
            if binding.interface == interface and agent in (0, binding.agent):
                binding.refresh_ns = min(binding.refresh_ns, now_ns)

    def release(self, care_of_address: int, now_ns: int) -> None:
        """The home agent no longer holds this address."""
        binding = self._bindings.pop(care_of_address, None)
        if binding is not None and binding.accepted and binding.is_colocated:
            tunnel = _tunnel(binding, now_ns + LINGER_NS, reverse=False)
            self._lingering[care_of_address] = _Lingering(binding.interface, tunnel)

    def expire(self, now_ns: int) -> list[CareOfBinding]:
        """Let lifetimes end; returns the accepted bindings that expired.

        One that was asked for again meanwhile stays as asked for: the home agent may have
        accepted that, only we do not know it.
        """
        expired = [b for b in self._bindings.values() if b.accepted and b.expires_ns <= now_ns]
        for binding in expired:
            binding.accepted = False
            binding.refresh_ns = NEVER
        for binding in self:
            if binding.held_until_ns <= now_ns:
                del self._bindings[binding.care_of_address]
        ended = [a for a, late in self._lingering.items() if late.tunnel.expires_ns <= now_ns]
        for address in ended:
            del self._lingering[address]
        return expired

    def next_deadline(self) -> int | None:
        """When ``expire`` has something to do."""
        times = [b.expires_ns if b.accepted else b.held_until_ns for b in self._bindings.values()]
        times += [late.tunnel.expires_ns for late in self._lingering.values()]
        return min((time for time in times if time != NEVER), default=None)

    def sending(
        self, preferred: int | None, usable: Callable[[str, int], bool]
    ) -> CareOfBinding | None:
        """The binding to send through: accepted, its link up, the preferred one if it can be."""
        first = next(iter(self._in_order(preferred, usable)), None)
        return first if first is not None and first.accepted else None

    def tunnels(
        self,
        preferred: int | None,
        usable: Callable[[str, int], bool],
        home_address: int = 0,
        *,
        is_router: bool = False,
    ) -> tuple[Tunnel, ...]:
        """The tunnels to have, the one to send through first.

        Tunnels of lost links are left out: nothing can arrive there. What a foreign agent
        decapsulates arrives without one, but broadcasts are nested in one to the home address
        (RFC 5944 4.3), and encapsulating delivery is one to the agent (RFC 3024 5.2). A router has
        one from its home address, so that the agent need not know its networks (RFC 5177 7).
        """
        tunnels: list[Tunnel] = []
        for binding in self._in_order(preferred, usable):
            end_ns = binding.expires_ns if binding.accepted else binding.held_until_ns
            if binding.is_colocated:
                granted = binding.accepted and binding.reverse
                tunnels.append(_tunnel(binding, end_ns, reverse=granted))
                continue
            if binding.encapsulating_delivery:
                granted = binding.accepted
                tunnels.append(Tunnel(binding.agent, home_address, end_ns, reverse=granted))
            if binding.broadcasts or is_router:
                granted = is_router and binding.accepted and binding.reverse
                kind = Tunnel(binding.home_agent, home_address, end_ns, reverse=granted)
                tunnels.append(kind._replace(broadcasts=binding.broadcasts))
        tunnels += [
            late.tunnel
            for late in self._lingering.values()
            if usable(late.interface, late.tunnel.local)
        ]
        return tuple({(t.remote, t.local): t for t in reversed(tunnels)}.values())[::-1]

    def _in_order(
        self, preferred: int | None, usable: Callable[[str, int], bool]
    ) -> list[CareOfBinding]:
        bindings = [b for b in self._bindings.values() if usable(b.interface, b.care_of_address)]
        return sorted(bindings, key=lambda b: (not b.accepted, b.care_of_address != preferred))


def _tunnel(binding: CareOfBinding, expires_ns: int, *, reverse: bool) -> Tunnel:
    return Tunnel(
        remote=binding.home_agent,
        local=binding.care_of_address,
        expires_ns=expires_ns,
        encapsulation=binding.encapsulation,
        reverse=reverse,
        remote_port=binding.udp_port,
        broadcasts=binding.broadcasts,
    )
