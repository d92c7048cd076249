"""Agent advertisements of the daemon: one for each link an agent here serves.

On a link that is both a home link and a link for visitors there is one advertisement with both
flags. Links without a table ``[[advertise]]`` are advertised by the defaults, because an agent that
link layers cannot discover must advertise (RFC 5944 2.3).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastmip.agents.advertiser import ALL_HOSTS, AdvertisedLink, Advertiser
from fastmip.agents.effects import Arrival, Effect, Now, SendIcmp
from fastmip.runtime import clock
from fastmip.runtime.alarm import Alarm
from fastmip.runtime.discovery_socket import DiscoverySocket, Listener
from fastmip.runtime.foreign_config import AdvertiseConfig
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import Answer, Arguments, Command, ReloadRefused
from fastmip.wire.addresses import LIMITED_BROADCAST, format_address
from fastmip.wire.discovery import (
    AGENT_B,
    AGENT_F,
    AGENT_G,
    AGENT_H,
    AGENT_M,
    AGENT_R,
    AGENT_T,
    AGENT_U,
    AGENT_X,
    CODE_AGENT_ONLY,
    CODE_ROUTER,
    RouterAddress,
)

if TYPE_CHECKING:
    from fastmip.runtime.config import Config
    from fastmip.runtime.foreign_service import ForeignService
    from fastmip.runtime.netlink import Kernel

_FLAG_LETTERS = (
    (AGENT_R, "R"),
    (AGENT_B, "B"),
    (AGENT_H, "H"),
    (AGENT_F, "F"),
    (AGENT_M, "M"),
    (AGENT_G, "G"),
    (AGENT_T, "T"),
    (AGENT_U, "U"),
    (AGENT_X, "X"),
)

log = get_logger("advertiser")


def links_of(config: Config) -> list[str]:
    """The links an agent here serves, in order of the file."""
    found: dict[str, None] = {}
    if config.foreign_agent is not None:
        found |= dict.fromkeys(config.foreign_agent.interfaces)
    if config.home_agent is not None and config.home_agent.interface is not None:
        found[config.home_agent.interface] = None
    disabled = {item.interface for item in config.advertisements if not item.enabled}
    return [name for name in found if name not in disabled]


class AdvertiseService:
    """Implements ``service.Service``; started after the agents it speaks for."""

    name = "advertiser"

    def __init__(
        self, config: Config, kernel: Kernel, *, file: str, foreign: ForeignService | None = None
    ) -> None:
        self._config = config
        self._kernel = kernel
        self._file = file
        self._foreign = foreign
        self._socket = DiscoverySocket(Listener.AGENT, self._receive)
        self._advertiser: Advertiser | None = None
        self._alarm = Alarm(self._next_deadline, self._ring)
        self._planned: list[AdvertisedLink] = []
        """Of the file that ``plan_reload`` looked at last."""

    @property
    def speaks_for(self) -> str:
        """The role whose service is advertised, the foreign agent's first."""
        return "home-agent" if self._foreign is None else self._foreign.name

    # start and stop

    async def start(self) -> None:
        """Listen and advertise. Raises ConfigError or StartError."""
        now = clock.now()
        links = [await self._link(name, self._config) for name in links_of(self._config)]
        foreign = self._foreign
        self._socket.open(asyncio.get_running_loop(), [link.interface for link in links])
        draw = random.SystemRandom().random
        if foreign is None:
            self._advertiser = Advertiser(links, random=draw, now=now)
        else:
            agent = foreign.agent
            self._advertiser = Advertiser(
                links, random=draw, now=now, is_busy=agent.is_busy, challenges=agent.window
            )
        log.info("advertising", links=", ".join(link.interface for link in links))
        self._alarm.set()

    async def _link(self, name: str, config: Config) -> AdvertisedLink:
        """What is advertised on a link, from the file and the address it has."""
        table = next(
            (item for item in config.advertisements if item.interface == name),
            AdvertiseConfig(interface=name),
        )
        found = await self._kernel.interface(name)
        addresses = {} if found is None else dict(await self._kernel.addresses(found.index))
        flags, lifetime_s = 0, 0
        care_of: tuple[int, ...] = ()
        has_challenge = False
        speakers: dict[int, int] = {}
        """Our addresses there with their prefix lengths; the first one speaks."""
        home, foreign = config.home_agent, config.foreign_agent
        if foreign is not None and self._foreign is not None and name in foreign.interfaces:
            link = self._foreign.link(name)
            care_of = link.care_of_addresses
            speakers[link.address] = addresses.get(link.address, 32)
            lifetime_s = foreign.max_lifetime_s
            flags = AGENT_F
            flags |= AGENT_M * ("minimal" in foreign.encapsulations)
            flags |= AGENT_G * ("gre" in foreign.encapsulations)
            flags |= AGENT_T * (foreign.reverse_tunnel != "off")
            flags |= AGENT_U * (foreign.nat not in ("none", "forced"))
            flags |= AGENT_X * foreign.revocation
            # Who must be revocable must come through us (RFC 3543 4.3.1).
            required = foreign.registration_required or foreign.revocation_required
            if table.registration_required is not None:
                required = table.registration_required
            flags |= AGENT_R * required
            has_challenge = foreign.challenge if table.challenge is None else table.challenge
        if home is not None and home.interface == name:
            # Mobile nodes know their home agent by this address, wherever on us it stands.
            prefix_length = addresses.get(int(home.address), home.home_network.prefixlen)
            speakers.setdefault(int(home.address), prefix_length)
            flags |= AGENT_H
            if not flags & AGENT_F:
                lifetime_s = home.max_lifetime_s
                flags |= AGENT_T * (home.reverse_tunnel != "off")
        address = next(iter(speakers))
        return AdvertisedLink(
            name,
            address,
            flags,
            lifetime_s,
            care_of,
            tuple(RouterAddress(speaker, table.preference) for speaker in speakers),
            tuple(speakers.values()) if table.prefix_lengths else None,
            table.max_interval,
            table.shortest_s,
            table.lifetime_s,
            LIMITED_BROADCAST if table.broadcast else ALL_HOSTS,
            not table.solicited_only,
            has_challenge,
            None if table.nai is None else table.nai.encode(),
            CODE_ROUTER if table.routes_common_traffic else CODE_AGENT_ONLY,
        )

    async def stop(self) -> None:
        """Say good-bye and be silent."""
        self._alarm.stop()
        if self._advertiser is not None:
            self._carry_out(self._advertiser.shut_down())
            self._advertiser = None
        self._socket.close()

    async def keep(self) -> None:
        """Listen again on a link that was made anew."""
        for name in links_of(self._config):
            found = await self._kernel.interface(name)
            if found is not None and self._socket.is_stale(name, found.index):
                self._socket.remove(name)
                self._socket.add(name)
                log.info("link-back", interface=name)

    # running

    def _receive(self, data: bytes, arrival: Arrival) -> None:
        if self._advertiser is not None:
            now = clock.now()
            self._carry_out(self._advertiser.receive_solicitation(data, arrival, now))
            self._alarm.set()

    def notify(
        self, interface: str, home_address: int, mac: bytes, *, busy: bool = False
    ) -> list[Effect]:
        """See ``Advertiser.notify``; nothing before the start and after the end."""
        if self._advertiser is None:
            return []
        effects = self._advertiser.notify(interface, home_address, mac, busy=busy)
        self._alarm.set()
        return effects

    def send(self, effect: SendIcmp) -> None:
        """Send an advertisement an agent asked for."""
        self._socket.send(effect)

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendIcmp):
                self._socket.send(effect)

    def _next_deadline(self) -> int | None:
        return None if self._advertiser is None else self._advertiser.next_deadline()

    def _ring(self, now: Now) -> None:
        if self._advertiser is not None:
            self._carry_out(self._advertiser.handle_timer(now))

    # seeing it

    def status(self) -> dict[str, object]:
        """Flat facts."""
        links = [] if self._advertiser is None else self._advertiser.links()
        return {"advertised_links": ", ".join(link.interface for link, _, _ in links)}

    def heartbeats(self) -> list[int]:
        """None: no engine here."""
        return []

    def observed(self) -> None:
        """Nothing: no engine here."""

    def commands(self) -> Mapping[str, Command]:
        """``show agent`` and its part of the counters."""
        return {"show agent": self.show_agent, "show traffic": self.show_traffic}

    async def show_agent(self, _arguments: Arguments) -> Answer:
        """What we are on each link, and what we say there."""
        advertiser = self._advertiser
        rows: list[dict[str, object]] = []
        for link, sequence, sent in [] if advertiser is None else advertiser.links():
            flags = link.flags | (AGENT_B if self._is_busy and link.flags & AGENT_F else 0)
            rows.append(
                {
                    "agent": format_address(link.address),
                    "interface": link.interface,
                    "flags": "".join(letter for bit, letter in _FLAG_LETTERS if flags & bit),
                    "care_of_addresses": ", ".join(map(format_address, link.care_of_addresses)),
                    "max_lifetime_s": link.registration_lifetime_s,
                    "advertised_for_s": link.lifetime_s,
                    "interval_s": link.max_interval_s,
                    "challenge": link.has_challenge,
                    "sequence": sequence,
                    "sent": sent,
                }
            )
        return {"rows": rows, "summary": {"links": len(rows)}}

    @property
    def _is_busy(self) -> bool:
        return self._foreign is not None and self._foreign.agent.is_busy()

    async def show_traffic(self, _arguments: Arguments) -> Answer:
        """Counters of advertisements and of their sockets."""
        found = dict(self._socket.counters)
        if self._advertiser is not None:
            found |= self._advertiser.counters()
        rows = [{"counter": name, "value": value} for name, value in found.items()]
        return {"rows": rows, "summary": {}}

    # reload

    async def plan_reload(self, new: Config) -> list[str]:
        """One line for each link whose advertisement changes. Raises ReloadRefused."""
        self._planned = []
        for name in links_of(new):
            if await self._kernel.interface(name) is None:
                raise ReloadRefused(f"advertise: {name} is no interface of this machine: make it")
            self._planned.append(await self._link(name, new))
        changes = [
            f"advertise: {name}: {what}"
            for what, names in (
                ("added", set(links_of(new)) - set(links_of(self._config))),
                ("removed", set(links_of(self._config)) - set(links_of(new))),
            )
            for name in sorted(names)
        ]
        if new.advertisements != self._config.advertisements and not changes:
            changes.append("advertise: changed")
        return changes

    async def apply_reload(self, new: Config) -> None:
        """Advertise by a new file."""
        self._config = new
        if self._advertiser is None:
            return
        links = self._planned
        farewells = self._advertiser.set_links(links, clock.now())
        self._carry_out(farewells)
        wanted = {link.interface for link in links}
        for name in self._socket.interfaces - wanted:
            self._socket.remove(name)
        for name in wanted:
            try:
                self._socket.add(name)
            except OSError as error:  # it has gone since; ``keep`` listens when it is back
                log.warning("link-not-heard", interface=name, reason=error.strerror)
        self._alarm.set()
