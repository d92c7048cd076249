"""The networks of a mobile router (RFC 5177 5, RFC 6626), sans I/O.

Explicit mode names each network in every registration, implicit mode leaves it to the home agent;
a dynamic network is asked for with an all-zero prefix until one is given, and named from then on.
The home agent's word on each decides what is carried:

    state          what the home agent said                          carried
    pending        nothing yet                                       no
    forwarded      success                                           yes
    assumed        nothing at all, in implicit mode                  yes
    refused        another code; after 147 not asked for any more    no
    unsupported    nothing at all, in explicit mode                  no

An expired registration changes nothing here: the tunnel it goes through has ended. A
deregistration ends what was given dynamically.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fastmip.agents.effects import Effect, Event, UseNetworks
from fastmip.wire.addresses import format_address, prefix_mask
from fastmip.wire.codes import ReplyCode
from fastmip.wire.mobile_network import (
    MobileNetworkAcknowledgement,
    MobileNetworkRequest,
    network_code_name,
)

PENDING, FORWARDED, ASSUMED = "pending", "forwarded", "assumed"
REFUSED, UNSUPPORTED = "refused", "unsupported"


class RouterSettings(NamedTuple):
    """What a mobile router asks for; prefixes host-order."""

    networks: tuple[tuple[int, int], ...] = ()
    dynamic: tuple[int, ...] = ()
    """Length wished for each network the home agent shall choose, 0 for any."""
    implicit: bool = False
    """The home agent knows the networks: they are not named in requests."""


@dataclass(slots=True)
class _Network:
    """One network: configured, given dynamically, or told by the home agent."""

    origin: str
    prefix: int = 0
    length: int = 0
    wished: int = 0
    """Length asked for, of a dynamic one."""
    state: str = PENDING
    code: int | None = None
    """As acknowledged last."""
    stopped: bool = False
    """The home agent denied a whole registration for it: not named again (RFC 5177 5.1)."""

    @property
    def place(self) -> tuple[int, int]:
        return self.prefix, self.length

    @property
    def is_carried(self) -> bool:
        return bool(self.length) and self.state in (FORWARDED, ASSUMED)

    def request(self) -> MobileNetworkRequest:
        return MobileNetworkRequest(self.prefix, self.length or self.wished)

    def forget(self) -> None:
        """What the home agent gave is gone."""
        self.prefix = self.length = 0
        self.state = PENDING


class RouterNetworks:
    """All networks of one mobile router; without any it is a mobile host."""

    def __init__(self, settings: RouterSettings | None) -> None:
        self.is_router = settings is not None
        chosen = settings or RouterSettings()
        self._implicit = chosen.implicit
        self._networks = [_Network("configured", *network) for network in chosen.networks]
        self._networks += [_Network("dynamic", wished=length) for length in chosen.dynamic]
        self._asked: list[_Network] = []
        self._told: tuple[tuple[int, int, bool], ...] | None = None
        self._disallowed = False
        """Code 148: no request to this home agent names a network again."""

    def requests(self) -> tuple[MobileNetworkRequest, ...]:
        """What a registration asks for; deregistrations ask for nothing (RFC 5177 5)."""
        self._asked = []
        if self._disallowed:
            return ()
        for network in self._networks:
            is_named = network.origin == "dynamic" or (
                network.origin == "configured" and not self._implicit
            )
            if is_named and not network.stopped:
                self._asked.append(network)
        return tuple(network.request() for network in self._asked)

    def holds(self, address: int) -> bool:
        """Whether an address lies in a network of ours: no care-of address then."""
        return any(
            network.length and address & prefix_mask(network.length) == network.prefix
            for network in self._networks
        )

    def accepted(self, acknowledgements: Iterable[MobileNetworkAcknowledgement]) -> bool:
        """A registration was accepted; True when it should be repeated: a dynamic network that
        we named was ours no more."""
        found = list(acknowledgements)
        for network in self._networks:
            if network.origin == "dynamic":
                network.stopped = False  # the pool may have room by the next time
        if not found:
            for network in self._networks:
                implied = self._implicit and network.origin == "configured"
                network.state = ASSUMED if implied else UNSUPPORTED
                network.code = None
            return False
        self._learn(one for one in found if one.implicit)
        return self._take([one for one in found if not one.implicit])

    def mend(self, code: int, acknowledgements: Iterable[MobileNetworkAcknowledgement]) -> bool:
        """A registration was denied; True when the next request asks for less."""
        if code == ReplyCode.HA_MOBILE_NETWORK_ERROR:
            return self._denied(acknowledgements)
        if code == ReplyCode.HA_MOBILE_NETWORK_DISALLOWED:
            return self._disallow()
        return False

    def _denied(self, acknowledgements: Iterable[MobileNetworkAcknowledgement]) -> bool:
        """The home agent forwards none (147); True when the next request asks for less."""
        self._take(list(acknowledgements))
        refused = [network for network in self._asked if network.state != FORWARDED]
        for network in refused:
            network.state, network.stopped = REFUSED, True
        return bool(refused)

    def _disallow(self) -> bool:
        """We may not be a router (148): go on as a host; True when that changes requests."""
        before, self._disallowed = self._disallowed, True
        for network in self._networks:
            network.state = REFUSED
        return not before and bool(self._asked)

    def ended(self) -> None:
        """The home agent holds no registration of ours any more."""
        self._networks = [network for network in self._networks if network.origin != "told"]
        for network in self._networks:
            if network.origin == "dynamic":
                network.forget()

    def _learn(self, acknowledgements: Iterable[MobileNetworkAcknowledgement]) -> None:
        """Networks the home agent forwards without being asked; those of before may be gone."""
        told = {one.network: one for one in acknowledgements if one.network is not None}
        self._networks = [
            network
            for network in self._networks
            if network.origin != "told" or network.place in told
        ]
        for network in self._networks:
            found = told.pop(network.place, None)
            if found is not None:
                _judge(network, found)
            elif self._implicit and network.origin == "configured":
                network.state, network.code = REFUSED, None
        for place, one in told.items():
            if place is not None and one.is_success:
                self._networks.append(_Network("told", *place, state=FORWARDED, code=one.code))

    def _take(self, acknowledgements: list[MobileNetworkAcknowledgement]) -> bool:
        """Words about what was asked for: named networks by name, the others in their order."""
        again = False
        open_networks = [network for network in self._asked if not network.length]
        for network in [network for network in self._asked if network.length]:
            found = next((one for one in acknowledgements if _is_about(one, network)), None)
            if found is None:
                network.state, network.code = UNSUPPORTED, None
                continue
            acknowledgements.remove(found)
            _judge(network, found)
            if network.origin == "dynamic" and not found.is_success:
                network.forget()
                again = True
        for network, one in zip(open_networks, acknowledgements, strict=False):
            given = one.network if one.is_success else None
            if given is not None and not any(given == other.place for other in self._networks):
                network.prefix, network.length = given
            _judge(network, one)
            if not network.length and one.is_success:
                network.state = REFUSED  # a success that names nothing of use
        return again

    def changes(self) -> list[Effect]:
        """What to carry from now on, if that is something else than was told last."""
        carried = tuple((*n.place, n.origin == "dynamic") for n in self._networks if n.is_carried)
        if not self.is_router or carried == self._told:
            return []
        self._told = carried
        text = " ".join(f"{format_address(p)}/{length}" for p, length, _ in carried)
        return [UseNetworks(carried), Event("mobile-networks", (("carried", text),))]

    def rows(self) -> list[dict[str, object]]:
        """One line for each network, JSON-ready."""
        return [
            {
                "network": f"{format_address(n.prefix)}/{n.length}" if n.length else "",
                "origin": n.origin,
                "state": n.state,
                "code": "" if n.code is None else n.code,
                "reason": "" if n.code is None else network_code_name(n.code),
            }
            for n in self._networks
        ]


def _is_about(one: MobileNetworkAcknowledgement, network: _Network) -> bool:
    return one.network == network.place


def _judge(network: _Network, one: MobileNetworkAcknowledgement) -> None:
    network.state, network.code = FORWARDED if one.is_success else REFUSED, one.code
