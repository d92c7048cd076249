"""What must hold after every event of a simulation, whatever the network did.

``Watch`` judges by the wire, the engine and the store, not by what the agents count:

1. A tunnel in force was asked for by its mobile node, ends no later than a lifetime granted
   then allows, and is prolonged by a further request only.
2. What a mobile node was told and believes is so: REGISTERED means that the engine tunnels to
   its care-of address, HOME means that nothing is tunnelled.
3. The stored Identification of a node never goes back (timestamps).
4. A mobile node's Identifications grow, except right behind a 133 or 136 (timestamps).
5. No reply grants more than its request asked for, and none answers what nobody asked.

``settled`` says in addition, once nothing is in flight, that both ends agree on the tunnels and
that ARP is answered for a mobile node exactly while it is away.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.helpers.simulation import SECOND, HomeSite, MobileSite, Network, Sent

from fastmip.agents.effects import NEVER
from fastmip.agents.mobile_state import State
from fastmip.auth.associations import ReplayStyle
from fastmip.auth.freshness import is_newer
from fastmip.errors import WireError
from fastmip.wire.addresses import format_address
from fastmip.wire.codes import LIFETIME_INFINITE, ReplyCode, is_accepted
from fastmip.wire.registration import RegistrationReply, RegistrationRequest

LOW_HALF = 0xFFFFFFFF
RESYNCHRONISING = (ReplyCode.HA_IDENTIFICATION_MISMATCH, ReplyCode.HA_UNKNOWN_HOME_AGENT)


@dataclass
class Grant:
    """What is known of one care-of address of one mobile node."""

    requests: int = 0
    """Different requests with a lifetime so far."""
    asked_s: int = 0
    """The longest lifetime asked for."""
    ends_ns: int = 0
    """Latest simulated end of its tunnel so far."""
    moves: int = 0
    """How often the end was seen to move."""


class Watch:
    """Invariants of one home agent and its mobile nodes."""

    def __init__(self, network: Network, home: HomeSite, mobiles: list[MobileSite]) -> None:
        self.simulation = network.simulation
        self.home = home
        self.mobiles = {mobile.home_address: mobile for mobile in mobiles}
        self.accepted: list[int] = []
        """Identifications of the requests answered with success, in order of the answers."""
        self.codes: dict[int, int] = {}
        """Reply code -> answers sent."""
        self.clocks_lied = False
        """Set it when a reboot had to trust a wall clock that was wrong: lifetimes may shift."""
        self._asked: dict[tuple[int, int], RegistrationRequest] = {}
        self._grants: dict[tuple[int, int], Grant] = {}
        self._marks: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._told_back: set[int] = set()
        self.simulation.watches.append(self.check)
        network.taps.append(self._hear)

    # the wire -------------------------------------------------------------------------------

    def _hear(self, sent: Sent) -> None:
        try:
            request = RegistrationRequest.decode(sent.data)
        except WireError:
            self._hear_reply(RegistrationReply.decode(sent.data))
        else:
            self._hear_request(request)

    def _hear_request(self, request: RegistrationRequest) -> None:
        address, identification = request.home_address, request.identification
        last = self._last.get(address)
        if last is not None and self._style(address) is ReplayStyle.TIMESTAMPS:
            growing = is_newer(identification, last) or address in self._told_back
            assert growing, "an Identification does not grow (RFC 5944 5.7.1)"
        self._told_back.discard(address)
        self._last[address] = identification
        key = (address, identification & LOW_HALF)
        before = self._asked.get(key)
        if request.lifetime and (before is None or before.identification != identification):
            grant = self._grants.setdefault((address, request.care_of_address), Grant())
            grant.requests += 1
            grant.asked_s = max(grant.asked_s, request.lifetime)
        self._asked[key] = request

    def _hear_reply(self, reply: RegistrationReply) -> None:
        address = reply.home_address
        request = self._asked.get((address, reply.identification & LOW_HALF))
        assert request is not None, "a reply to a request nobody made"
        self.codes[reply.code] = self.codes.get(reply.code, 0) + 1
        if is_accepted(reply.code):
            assert reply.lifetime <= request.lifetime, "more lifetime than asked for (3.4)"
            self.accepted.append(request.identification)
        elif reply.code in RESYNCHRONISING:
            self._told_back.add(address)

    def _style(self, address: int) -> ReplayStyle:
        return next(iter(self.mobiles[address].associations)).replay

    def forget_sender(self, mobile: MobileSite) -> None:
        """The mobile node starts anew and does not know what it sent before."""
        self._last.pop(mobile.home_address, None)

    # after every event -----------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        for address, row in self.home.store.items():
            mark = self._marks.get(address, row.identification)
            if mark != row.identification and self._style(address) is ReplayStyle.TIMESTAMPS:
                assert is_newer(row.identification, mark), "the stored mark went back (5.7.1)"
            self._marks[address] = row.identification
        if not self.home.is_up:
            return
        for address, mobile in self.mobiles.items():
            self._check_lifetimes(address)
            self._check_belief(mobile)

    def _check_lifetimes(self, address: int) -> None:
        limit_s = self.home.policy.max_lifetime_s
        for tunnel in self.home.live(address):
            grant = self._grants.get((address, tunnel.remote))
            assert grant is not None, "a tunnel nobody asked for"
            granted_s = min(grant.asked_s, limit_s)
            if tunnel.expires_ns == NEVER:
                assert granted_s == LIFETIME_INFINITE, "an infinite lifetime nobody asked for"
                continue
            ends_ns = self.home.clock.simulated(tunnel.expires_ns)
            assert ends_ns is not None
            if ends_ns <= grant.ends_ns:
                continue
            left_ns = ends_ns - self.simulation.now_ns
            assert left_ns <= granted_s * SECOND, "longer than granted (RFC 5944 3.8.2.2)"
            grant.ends_ns = ends_ns
            grant.moves += not self.clocks_lied
            assert grant.moves <= grant.requests, "a binding was prolonged without a request"

    def _check_belief(self, mobile: MobileSite) -> None:
        state = mobile.agent.state
        if state is State.HOME:
            assert not self.home.live(mobile.home_address), "at home, yet tunnelled to"
        elif state is State.REGISTERED:
            there = self._remotes(mobile)
            assert mobile.care_of_address in there, "an acknowledged binding is gone"

    def _remotes(self, mobile: MobileSite) -> list[str]:
        return [format_address(t.remote) for t in self.home.live(mobile.home_address)]

    # when nothing is in flight ----------------------------------------------------------------

    def settled(self, mobile: MobileSite) -> bool:
        """Whether both ends and ARP agree on where the mobile node is, and nothing else holds."""
        proxied = mobile.home_address in self.home.proxied
        links = [link for link in mobile.links.values() if link.carrier]
        if mobile.agent.state is State.HOME:
            return not self.home.live(mobile.home_address) and not proxied
        if mobile.agent.state is not State.REGISTERED or not links:
            return False
        held = [str(binding["care_of_address"]) for binding in mobile.bindings]
        current = [address for address in held if address == mobile.care_of_address]
        return held == current == self._remotes(mobile) and proxied and bool(mobile.world.tunnels)
