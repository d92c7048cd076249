"""Mobile networks at the home agent: whose prefix is whose (RFC 5177 6, RFC 6626 3.2).

A prefix belongs to one router at a time: it is *routed* from the moment a request for it is
judged (so that no other request can get it meanwhile) until the commit that takes it away is
done. Prefixes of one router may lie in each other, those of two may not overlap. What came out
of a pool is *remembered* when it is not routed any more: its router gets it again, unless the
pool has nothing else for somebody else.

| request                                   | acknowledgement                                  |
|-------------------------------------------|--------------------------------------------------|
| a prefix configured for the router, or    | explicit 0; 3 while another router holds it, or  |
| one it holds out of a pool                | the engine has no room for it                    |
| any other                                 | explicit 2                                       |
| length 0, or above 32                     | explicit 1                                       |
| all-zero prefix, the length a hint        | explicit 0 with what was allocated; 4 beyond the |
|                                           | router's limit or the pools; 1 without pools     |
| none at all (implicit mode)               | implicit 0 or 3 for each configured prefix       |

The n-th all-zero request keeps the n-th prefix the router has out of a pool and does not name.
When every prefix fails the registration does (147); nodes that are no routers may ask for none
(148). Durable are the records of a router: prefix, length, flags.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from fastmip.agents import home_counters as names
from fastmip.agents.effects import PrefixChange
from fastmip.agents.hosts import Host, NetworkPolicy
from fastmip.agents.prefix_pool import PrefixPool
from fastmip.agents.prefix_set import Network, PrefixSet
from fastmip.wire.codes import ReplyCode
from fastmip.wire.mobile_network import (
    MobileNetworkAcknowledgement,
    MobileNetworkRequest,
    NetworkCode,
)

RECORD: Final = struct.Struct("<IBB2x")
"""Of one prefix in a row of the store."""
_ROUTED: Final = 1
_DYNAMIC: Final = 2

CODE_COUNTERS: Final = {
    NetworkCode.SUCCESS: names.NETWORKS_GRANTED,
    NetworkCode.INVALID_PREFIX_LENGTH: names.NETWORKS_INVALID,
    NetworkCode.UNAUTHORIZED: names.NETWORKS_UNAUTHORIZED,
    NetworkCode.FORWARDING_SETUP_FAILED: names.NETWORKS_FAILED,
    NetworkCode.UNASSIGNED: names.NETWORKS_UNASSIGNED,
}


class Held(NamedTuple):
    """What a router has of one prefix."""

    network: Network
    dynamic: bool
    """Out of a pool."""
    routed: bool
    """False: only remembered."""

    def to_bytes(self) -> bytes:
        """The durable record."""
        flags = _ROUTED * self.routed | _DYNAMIC * self.dynamic
        return RECORD.pack(*self.network, flags)


def unpack_networks(records: bytes) -> tuple[Held, ...]:
    """What ``pack_networks`` packed; a piece at the end that is no record is ignored."""
    whole = len(records) - len(records) % RECORD.size
    return tuple(
        Held((prefix, length), bool(flags & _DYNAMIC), bool(flags & _ROUTED))
        for prefix, length, flags in RECORD.iter_unpack(records[:whole])
        if 0 < length <= 32
    )


def pack_networks(held: Iterable[Held]) -> bytes:
    """The records of a router for the store."""
    return b"".join([one.to_bytes() for one in held])


class NetworkChange(NamedTuple):
    """What a commit makes of a router's prefixes."""

    home_address: int
    before: tuple[Held, ...]
    after: tuple[Held, ...]

    def step(self) -> PrefixChange:
        """What store and packet engine have to do."""
        old = {held.network for held in self.before if held.routed}
        new = {held.network for held in self.after if held.routed}
        records = pack_networks(self.after)
        return PrefixChange(records, tuple(sorted(old - new)), tuple(sorted(new - old)))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a request gets."""

    answers: tuple[MobileNetworkAcknowledgement, ...]
    change: NetworkChange | None = None
    """None: the router's prefixes stay as they are."""
    code: int = 0
    """0, or the reply code of a denial."""

    def acknowledgements(self) -> bytes:
        """What the reply says of them."""
        return b"".join([answer.build() for answer in self.answers])


NOTHING: Final = Judgement(())
"""Of a node without mobile networks that asks for none."""


def room_for_any(_prefix: int, _length: int) -> bool:
    """An engine without limits."""
    return True


def is_router(host: Host) -> bool:
    """Whether a node may have mobile networks."""
    return bool(host.networks or host.dynamic_networks)


class MobileNetworks:
    """The prefix table of one home agent; ``reserve`` asks the engine for room for a prefix."""

    def __init__(
        self,
        policy: NetworkPolicy,
        count: dict[str, int],
        reserve: Callable[[int, int], bool],
    ) -> None:
        self._policy = policy
        self._count = count
        self._reserve = reserve
        self._held: dict[int, tuple[Held, ...]] = {}
        self._routed = PrefixSet()
        self._pool = PrefixPool(policy, self._routed)
        self.unrevised: set[int] = set()
        """Routers whose commit under way was judged by an older configuration."""

    # a request

    def judge(
        self, host: Host, requests: Sequence[MobileNetworkRequest], *, dry: bool = False
    ) -> Judgement:
        """Decide what a router gets, and keep others from it; ``dry`` only tells what it has.

        ``settle`` must follow if there is a change.
        """
        if not is_router(host):
            if not requests:
                return NOTHING
            return Judgement((), code=int(ReplyCode.HA_MOBILE_NETWORK_DISALLOWED))
        if not requests and not host.networks:
            change = None if dry else self._change(host.home_address, {})
            return NOTHING if change is None else Judgement((), change)
        if requests:
            answers, wanted = self._explicit(host, requests, dry=dry)
        else:
            answers, wanted = self._implicit(host, dry=dry)
        if dry:
            return Judgement(tuple(answers))
        for answer in answers:
            self._count[CODE_COUNTERS[NetworkCode(answer.code)]] += 1
        change = self._change(host.home_address, wanted)
        if answers and not wanted:
            return Judgement(tuple(answers), change, int(ReplyCode.HA_MOBILE_NETWORK_ERROR))
        return Judgement(tuple(answers), change)

    def _implicit(
        self, host: Host, *, dry: bool
    ) -> tuple[list[MobileNetworkAcknowledgement], dict[Network, bool]]:
        answers, wanted = [], dict[Network, bool]()
        for network in host.networks:
            code = self._take(host.home_address, network, dry=dry)
            answers.append(MobileNetworkAcknowledgement(*network, code, implicit=True))
            if not code:
                wanted[network] = False
        return answers, wanted

    def _explicit(
        self, host: Host, requests: Sequence[MobileNetworkRequest], *, dry: bool
    ) -> tuple[list[MobileNetworkAcknowledgement], dict[Network, bool]]:
        home_address = host.home_address
        held_now = self._held.get(home_address, ())
        own = [one.network for one in held_now if self._is_own(one, home_address)]
        own = own[: host.dynamic_networks]
        named = {request.network for request in requests if not request.is_dynamic}
        spare = iter([network for network in own if network not in named])
        room = host.dynamic_networks - len(own)
        answers, wanted = [], dict[Network, bool]()
        for request in requests:
            if request.is_dynamic:
                network = None
                code = self._dynamic_refusal(request)
                if not code:
                    network = next(spare, None)
                    if network is None and room > 0 and not dry:
                        room -= 1
                        network = self._pool.allocate(request.length)
                    code = NetworkCode.UNASSIGNED if network is None else NetworkCode.SUCCESS
                if network is not None:
                    code = self._take(home_address, network, dry=dry)
                    if code and network not in own:
                        self._pool.give_back(network, home_address)
                    answers.append(MobileNetworkAcknowledgement(*network, code))
                else:
                    answers.append(MobileNetworkAcknowledgement(0, request.length, code))
                is_dynamic = True
            else:
                network = request.network
                is_dynamic = network in own
                code = self._named(host, network, is_own=is_dynamic, dry=dry)
                answers.append(MobileNetworkAcknowledgement(request.prefix, request.length, code))
            if network is not None and code == NetworkCode.SUCCESS:
                wanted[network] = is_dynamic
        return answers, wanted

    def _dynamic_refusal(self, request: MobileNetworkRequest) -> NetworkCode:
        if not self._policy.pools or request.length > 32:
            return NetworkCode.INVALID_PREFIX_LENGTH
        return NetworkCode.SUCCESS

    def _named(
        self, host: Host, network: Network | None, *, is_own: bool, dry: bool
    ) -> NetworkCode:
        if network is None:
            return NetworkCode.INVALID_PREFIX_LENGTH
        if network not in host.networks and not is_own:
            return NetworkCode.UNAUTHORIZED
        return self._take(host.home_address, network, dry=dry)

    def _take(self, home_address: int, network: Network, *, dry: bool) -> NetworkCode:
        """Let nobody else have a prefix from now on, or say why not."""
        if self._routed.owner(network) == home_address:
            return NetworkCode.SUCCESS
        if dry or self._routed.is_foreign(network, home_address) or not self._reserve(*network):
            return NetworkCode.FORWARDING_SETUP_FAILED
        self._pool.forget_overlapping(network, home_address)
        self._routed.add(network, home_address)
        return NetworkCode.SUCCESS

    def _may_keep(self, held: Held) -> bool:
        return held.dynamic and self._pool.covers(held.network)

    def _is_own(self, held: Held, home_address: int) -> bool:
        """Whether a prefix out of a pool is still the router's, routed or remembered."""
        is_known = held.routed or self._pool.owns(held.network, home_address)
        return is_known and self._may_keep(held)

    def _change(self, home_address: int, wanted: dict[Network, bool]) -> NetworkChange | None:
        before = self._held.get(home_address, ())
        after = [Held(network, dynamic, True) for network, dynamic in wanted.items()]
        after += [
            held._replace(routed=False)
            for held in before
            if held.network not in wanted and self._is_own(held, home_address)
        ]
        if set(after) == set(before):
            return None
        return NetworkChange(home_address, before, tuple(after))

    # the end of a binding

    def leave(self, home_address: int) -> NetworkChange | None:
        """What becomes of a router's prefixes when its last binding goes."""
        if home_address not in self._held:
            return None
        return self._change(home_address, {})

    def settle(self, change: NetworkChange, *, committed: bool) -> None:
        """A change was made durable and published, or was not."""
        home_address, before, after = change
        kept, dropped = (after, before) if committed else (before, after)
        routed = {held.network for held in kept if held.routed}
        for held in dropped:
            if held.routed and held.network not in routed:
                self._routed.remove(held.network, home_address)
        if committed:
            self._tell_pool(home_address, after)
            if after:
                self._held[home_address] = after
            else:
                self._held.pop(home_address, None)
        known = {held.network for held in kept}
        for held in dropped:
            if held.dynamic and held.network not in known:
                self._pool.give_back(held.network, home_address)

    def _tell_pool(self, home_address: int, held: Iterable[Held]) -> None:
        for one in held:
            if one.dynamic and one.routed:
                self._pool.use(one.network, home_address)
            elif one.dynamic:
                self._pool.remember(one.network, home_address)

    # restart and reload

    def restore(self, home_address: int, records: bytes, host: Host | None) -> list[Network]:
        """Take over a stored row; what its router had routed and still may. ``host`` is None
        when it has no binding."""
        kept = []
        for held in unpack_networks(records):
            may_route = (
                host is not None
                and held.routed
                and (held.dynamic or held.network in host.networks)
                and (not held.dynamic or self._pool.covers(held.network))
                and not self._routed.is_foreign(held.network, home_address)
                and self._reserve(*held.network)
            )
            if may_route:
                self._pool.forget_overlapping(held.network, home_address)
                self._routed.add(held.network, home_address)
                kept.append(held)
                if held.dynamic:
                    self._pool.use(held.network, home_address)
            elif self._may_keep(held) and self._pool.remember(held.network, home_address):
                kept.append(held._replace(routed=False))
        if kept:
            self._held[home_address] = tuple(kept)
        return [held.network for held in kept if held.routed]

    def set_policy(self, policy: NetworkPolicy) -> None:
        """Replace the pools; what came out of old ones stays until it is revised."""
        self._policy = policy
        self._pool.set_policy(policy)

    def revise(self, host: Host | None, home_address: int) -> NetworkChange | None:
        """What a router may not have any more after a change of the configuration."""
        held = self._held.get(home_address, ())
        networks = () if host is None else host.networks
        limit = 0 if host is None else host.dynamic_networks
        wanted = dict[Network, bool]()
        for one in held:
            if one.routed and not one.dynamic and one.network in networks:
                wanted[one.network] = False
            elif one.routed and self._may_keep(one) and limit > 0:
                limit -= 1
                wanted[one.network] = True
        routed = {one.network for one in held if one.routed}
        return self._change(home_address, wanted) if routed != set(wanted) else None

    # looking

    def routers(self) -> list[int]:
        """Home addresses that have, or had, prefixes."""
        return sorted(self._held)

    def held_by(self, home_address: int) -> tuple[Held, ...]:
        """What a router has, and is remembered to have had."""
        return self._held.get(home_address, ())

    def router_of(self, address: int) -> int:
        """Home address of the router of the longest prefix an address lies in, or 0."""
        return self._routed.find(address)

    def gauges(self) -> dict[str, int]:
        """Counts of now."""
        return {names.NETWORKS: len(self._routed), names.NETWORKS_REMEMBERED: len(self._pool)}
