"""Which tunnel a registration gets: encapsulation (RFC 5944 4.1), and UDP or not (RFC 3519).

M and G ask for minimal encapsulation and GRE. Neither is IP-in-IP; of both the cheaper that is
offered is taken, minimal before GRE; when nothing that was asked for is offered, it is denied.

A UDP tunnel needs a request for it (extension 144), from the mobile node (D=1, before its
authentication) or from a foreign agent that proved itself (D=0). A translator shows in an IP
source that is not the care-of address. The answer (extension 44):

| the source is      | flags | policy               | answer                                  |
|--------------------|-------|----------------------|-----------------------------------------|
| another            | -     | traversal            | assent: tunnel to source and port       |
| another            | -     | no traversal         | denial 129                              |
| a known agent (D=1)| -     | any                  | decline: it relays, it translates not   |
| the care-of address| F     | traversal and forced | assent, forced                          |
| the care-of address| F     | otherwise            | denial 129                              |
| the care-of address| -     | any                  | decline                                 |
| any                | R     | traversal            | assent: half bound until a keepalive    |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fastmip.agents.bindings import HALF_BOUND
from fastmip.wire.codes import FLAG_COLOCATED, FLAG_GRE, FLAG_MINIMAL
from fastmip.wire.tunneling import (
    ENCAPSULATION_DEFAULT,
    ENCAPSULATION_GRE,
    ENCAPSULATION_IPIP,
    ENCAPSULATION_MINIMAL,
    TUNNEL_ACCEPTED,
    TUNNEL_DECLINED,
    UdpTunnelReply,
    UdpTunnelRequest,
)

if TYPE_CHECKING:
    from fastmip.agents.reply_policy import Case

UNAVAILABLE: Final = 0
"""No encapsulation: what was asked for is not offered."""


class TunnelChoice(NamedTuple):
    """How packets would reach the mobile node."""

    encapsulation: int
    """IP protocol number, or UNAVAILABLE."""
    remote: int
    """The effective care-of address (RFC 3519 4.6)."""
    tunnel_port: int = 0
    """As in a ``Binding``."""
    answer: UdpTunnelReply | None = None
    for_agent: bool = False
    """The foreign agent asked and gets the answer."""
    is_prohibited: bool = False
    """The policy forbids the UDP tunnel it takes."""


def choose_encapsulation(flags: int, offered: frozenset[int]) -> int:
    """The encapsulation for the M and G bits, or UNAVAILABLE."""
    minimal, gre = flags & FLAG_MINIMAL, flags & FLAG_GRE
    if not minimal and not gre:
        return ENCAPSULATION_IPIP
    if minimal and ENCAPSULATION_MINIMAL in offered:
        return ENCAPSULATION_MINIMAL
    if gre and ENCAPSULATION_GRE in offered:
        return ENCAPSULATION_GRE
    return UNAVAILABLE


def choose_tunnel(case: Case) -> TunnelChoice:
    """The tunnel for a request with a lifetime; judged by the rungs of ``reply_policy``."""
    request, claims = case.request, case.claims
    offered = case.policy.encapsulations
    asked, for_agent = claims.node_udp, False
    if asked is None and claims.agent_udp is not None and case.agent_is_proven():
        asked, for_agent = claims.agent_udp, True
    plain = choose_encapsulation(request.flags, offered)
    if asked is None:
        return TunnelChoice(plain, request.care_of_address)
    tunnel_port, is_prohibited = _udp_port(case, asked, for_agent=for_agent)
    forced = asked.is_forced and tunnel_port != 0
    code = TUNNEL_ACCEPTED if tunnel_port else TUNNEL_DECLINED
    answer = UdpTunnelReply(code, forced, case.policy.nat_keepalive_s if tunnel_port else 0)
    if not tunnel_port:
        remote = request.care_of_address
        return TunnelChoice(plain, remote, 0, answer, for_agent, is_prohibited)
    wanted = asked.encapsulation
    if wanted == ENCAPSULATION_DEFAULT:
        wanted = plain
    elif wanted not in offered:
        wanted = UNAVAILABLE
    source = case.arrival.source.address
    return TunnelChoice(wanted, source, tunnel_port, answer, for_agent, is_prohibited)


def is_ill_placed(case: Case) -> bool:
    """Whether a UDP tunnel request contradicts the D bit (RFC 3519 4.6.1).

    The mobile node asks only with D, a foreign agent only without.
    """
    claims = case.claims
    if case.request.flags & FLAG_COLOCATED:
        return claims.agent_udp is not None
    return claims.node_udp is not None


def _udp_port(case: Case, asked: UdpTunnelRequest, *, for_agent: bool) -> tuple[int, bool]:
    """The port of the UDP tunnel, 0 for none; and whether the policy stands against it."""
    policy, source = case.policy, case.arrival.source
    if asked.is_through_agent and not for_agent:
        return (HALF_BOUND, False) if policy.nat_traversal else (0, True)
    if source.address not in (case.request.care_of_address, case.request.home_address):
        if case.foreign_agent is not None and not for_agent:
            return 0, False
        is_allowed = policy.nat_traversal
    elif asked.is_forced:
        is_allowed = policy.nat_traversal and policy.nat_force
    else:
        return 0, False
    if not is_allowed or source.port == HALF_BOUND:  # a port we have no way to write down
        return 0, True
    return source.port, False
