"""Scenarios: packets in; packets out, verdicts and counters expected. Bytes are scapy's.

Here are those of IP in IP, and what all are made of; ``everything.py`` lists them all.

Each is replayed in memory by tests/engine/test_scenarios.py; other ports and the benchmarks may
replay the same list. Nothing here imports the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Packet, Raw
from tests.reference.tunnels import DONE_MARTIAN, DONE_TTL, HOME, TUNNEL, Binding, Twin

HOME_AGENT, NODE, OTHER = "10.1.0.1", "10.1.0.5", "10.1.0.6"
CARE_OF, SECOND_CARE_OF, OTHER_CARE_OF = "10.3.1.20", "10.3.2.20", "10.3.3.20"
CORRESPONDENT, ROUTER = "10.9.0.7", "10.3.1.1"


def number(address: str) -> int:
    """Host-order integer."""
    return int.from_bytes(bytes(map(int, address.split("."))), "big")


def to(remote: str, local: str = HOME_AGENT, **fields: Any) -> Binding:
    """A tunnel by dotted addresses."""
    return Binding(number(remote), number(local), **fields)


def data(source: str, destination: str, size: int = 20, **fields: Any) -> Packet:
    """A UDP packet with so many octets of data."""
    return IP(src=source, dst=destination, **fields) / UDP(sport=7, dport=9) / Raw(bytes(size))


def outer(source: str, destination: str, inner: Packet) -> Packet:
    """The outer header RFC 2003 asks for around a packet."""
    return IP(src=source, dst=destination, tos=inner.tos, ttl=64, flags="DF", id=0, proto=4) / inner


def error(about: Packet, to_whom: str, **icmp: Any) -> Packet:
    """An ICMP error of the home agent."""
    head = IP(src=HOME_AGENT, dst=to_whom, tos=0xC0, ttl=64, id=1)
    return head / ICMP(**icmp) / Raw(bytes(about)[:548])


@dataclass
class Scenario:
    """What goes in on one side and everything that must come of it."""

    name: str
    side: int
    packets: list[Packet]
    verdicts: list[str]
    home: list[Packet] = field(default_factory=list)
    tunnel: list[Packet] = field(default_factory=list)
    extra: dict[str, int] = field(default_factory=dict)
    """Verdicts of copies and of our own ICMP errors."""
    events: dict[str, int] = field(default_factory=dict)
    node: Twin = field(
        default_factory=lambda: Twin(
            "home-agent", (number(HOME_AGENT),), {number(NODE): [to(CARE_OF)]}
        )
    )
    prefixes: list[tuple[str, int, str]] = field(default_factory=list)


def home_agent(*chains: tuple[str, list[Binding]], done: int = 0) -> Twin:
    """A home agent with these bindings."""
    bound = {number(home): chain for home, chain in chains}
    return Twin("home-agent", (number(HOME_AGENT),), bound, done)


def forwarding() -> list[Scenario]:
    """What a home agent is for."""
    plain = data(CORRESPONDENT, NODE, ttl=64)
    back = data(NODE, CORRESPONDENT, ttl=64)
    stay = data(CORRESPONDENT, "10.1.0.50")
    two = home_agent((NODE, [to(CARE_OF), to(SECOND_CARE_OF)]))
    both = home_agent((NODE, [to(CARE_OF)]), (OTHER, [to(OTHER_CARE_OF)]), done=DONE_TTL)
    away = Twin("mobile-node", (), {number(NODE): [to(HOME_AGENT, CARE_OF)]}, DONE_TTL)
    less = data(CORRESPONDENT, NODE, ttl=63)
    return [
        Scenario(
            "correspondent to node away",
            HOME,
            [plain] * 3,
            ["encapsulated"] * 3,
            tunnel=[outer(HOME_AGENT, CARE_OF, less)] * 3,
        ),
        Scenario(
            "host at home is left alone",
            HOME,
            [stay],
            ["returned-no-binding"],
            home=[stay],
        ),
        Scenario(
            "reverse tunnel",
            TUNNEL,
            [outer(CARE_OF, HOME_AGENT, back)],
            ["decapsulated"],
            home=[data(NODE, CORRESPONDENT, ttl=63)],
        ),
        Scenario(
            "a copy for each simultaneous binding",
            HOME,
            [plain],
            ["encapsulated"],
            tunnel=[outer(HOME_AGENT, CARE_OF, less), outer(HOME_AGENT, SECOND_CARE_OF, less)],
            extra={"encapsulated-copy": 1},
            node=two,
        ),
        Scenario(
            "node away to node away, TTL once, by the engine",
            TUNNEL,
            [outer(CARE_OF, HOME_AGENT, data(NODE, OTHER, ttl=9))],
            ["reencapsulated"],
            tunnel=[outer(HOME_AGENT, OTHER_CARE_OF, data(NODE, OTHER, ttl=8))],
            node=both,
        ),
        Scenario(
            "mobile node sends through its reverse tunnel",
            HOME,
            [back],
            ["encapsulated"],
            tunnel=[outer(CARE_OF, HOME_AGENT, back)],
            node=away,
        ),
        Scenario(
            "mobile node receives from its home agent only",
            TUNNEL,
            [outer(HOME_AGENT, CARE_OF, plain), outer(CORRESPONDENT, CARE_OF, plain)],
            ["decapsulated", "drop-care-of-address"],
            home=[plain],
            node=away,
        ),
        Scenario(
            "mobile network behind a mobile router",
            HOME,
            [data(CORRESPONDENT, "10.2.8.20", ttl=64), data(CORRESPONDENT, "10.2.9.20", ttl=64)],
            ["encapsulated", "returned-no-binding"],
            home=[data(CORRESPONDENT, "10.2.9.20", ttl=64)],
            tunnel=[outer(HOME_AGENT, CARE_OF, data(CORRESPONDENT, "10.2.8.20", ttl=63))],
            prefixes=[("10.2.8.0", 24, NODE)],
        ),
        *behind_an_agent(),
    ]


def behind_an_agent() -> list[Scenario]:
    """A mobile router with a foreign agent's care-of address: a header more (RFC 5177 7)."""
    there, prefixes = "10.2.8.20", [("10.2.8.0", 24, NODE)]
    router = home_agent((NODE, [to(CARE_OF, nested=True)]))
    into, back = data(CORRESPONDENT, there, ttl=64), data(there, CORRESPONDENT, ttl=64)
    stranger = data("10.2.9.20", CORRESPONDENT)
    less = data(CORRESPONDENT, there, ttl=63)
    forged = outer(CORRESPONDENT, HOME_AGENT, outer(NODE, HOME_AGENT, back))
    return [
        Scenario(
            "mobile network behind a foreign agent: two headers, the node itself: one",
            HOME,
            [into, data(CORRESPONDENT, NODE, ttl=64)],
            ["encapsulated"] * 2,
            tunnel=[
                outer(HOME_AGENT, CARE_OF, outer(HOME_AGENT, NODE, less)),
                outer(HOME_AGENT, CARE_OF, data(CORRESPONDENT, NODE, ttl=63)),
            ],
            node=router,
            prefixes=prefixes,
        ),
        Scenario(
            "out of a mobile network through two headers",
            TUNNEL,
            [
                outer(CARE_OF, HOME_AGENT, outer(NODE, HOME_AGENT, back)),
                outer(CARE_OF, HOME_AGENT, outer(NODE, HOME_AGENT, stranger)),
                outer(CARE_OF, HOME_AGENT, outer(OTHER, HOME_AGENT, back)),
                forged,
            ],
            ["decapsulated", "drop-no-binding", "drop-no-binding", "drop-care-of-address"],
            home=[data(there, CORRESPONDENT, ttl=63)],
            node=router,
            prefixes=prefixes,
        ),
        Scenario(
            "from one mobile network to another, and to a visitor of the first",
            TUNNEL,
            [
                outer(CARE_OF, HOME_AGENT, data(there, "10.2.9.20", ttl=9)),
                outer(
                    CARE_OF, HOME_AGENT, outer("10.2.8.1", HOME_AGENT, data(OTHER, there, ttl=9))
                ),
            ],
            ["reencapsulated"] * 2,
            tunnel=[
                outer(HOME_AGENT, SECOND_CARE_OF, data(there, "10.2.9.20", ttl=8)),
                outer(HOME_AGENT, CARE_OF, data(OTHER, there, ttl=8)),
            ],
            node=home_agent(
                (NODE, [to(CARE_OF)]), ("10.1.0.7", [to(SECOND_CARE_OF)]), (OTHER, [to("10.2.8.1")])
            ),
            prefixes=[*prefixes, ("10.2.9.0", 24, "10.1.0.7")],
        ),
    ]


def refusing() -> list[Scenario]:
    """What must not pass (RFC 2003 3, RFC 3024 4.3.2, RFC 5944 4.2.3)."""
    forged = [
        (CORRESPONDENT, HOME_AGENT, NODE),
        (CARE_OF, HOME_AGENT, "10.1.0.9"),
        (CARE_OF, "10.1.0.2", NODE),
        (CARE_OF, HOME_AGENT, "127.0.0.1"),
    ]
    forward_only = home_agent((NODE, [to(CARE_OF, reverse=False)]))
    back = data(NODE, CORRESPONDENT)
    gre = IP(src=CARE_OF, dst=HOME_AGENT, proto=47) / Raw(b"\0\0\x08\0" + bytes(back))
    to_itself = IP(src=CARE_OF, dst=NODE) / data(CORRESPONDENT, NODE)
    by_another = IP(src="10.8.0.1", dst=NODE, ttl=64) / data(CORRESPONDENT, NODE)
    by_another_less = IP(src="10.8.0.1", dst=NODE, ttl=63) / data(CORRESPONDENT, NODE)
    local = home_agent((NODE, [to(CARE_OF)]), done=DONE_MARTIAN)
    return [
        Scenario(
            "forged tunnel packets",
            TUNNEL,
            [outer(a, b, data(c, CORRESPONDENT)) for a, b, c in forged],
            ["drop-care-of-address", "drop-no-binding", "drop-tunnel-end", "drop-martian"],
        ),
        Scenario(
            "no reverse tunnel was granted",
            TUNNEL,
            [outer(CARE_OF, HOME_AGENT, back)],
            ["drop-not-reverse"],
            node=forward_only,
        ),
        Scenario("wrong encapsulation", TUNNEL, [gre], ["drop-encapsulation"]),
        Scenario(
            "intercepted tunnel packet from the care-of address",
            HOME,
            [to_itself],
            ["drop-loop-intercepted"],
        ),
        Scenario(
            "intercepted tunnel packet from elsewhere is nested",
            HOME,
            [by_another],
            ["encapsulated"],
            tunnel=[outer(HOME_AGENT, CARE_OF, by_another_less)],
        ),
        Scenario(
            "our own source comes back",
            HOME,
            [data(HOME_AGENT, NODE)],
            ["drop-loop-own-source"],
        ),
        Scenario(
            "our own source where the kernel vouches for it",
            HOME,
            [data(HOME_AGENT, NODE, ttl=64)],
            ["encapsulated"],
            tunnel=[outer(HOME_AGENT, CARE_OF, data(HOME_AGENT, NODE, ttl=63))],
            node=local,
        ),
        Scenario("from the far tunnel end", HOME, [data(CARE_OF, NODE)], ["drop-loop-tunnel"]),
    ]


def too_big() -> list[Scenario]:
    """MTU and TTL, and what the sender hears (RFC 2003 3.1, 5.1)."""
    whole = data(CORRESPONDENT, NODE, 1480, flags="DF", ttl=64)
    forwarded = data(CORRESPONDENT, NODE, 1480, flags="DF", ttl=63)
    dying = data(CORRESPONDENT, NODE, ttl=1)
    expired = home_agent((NODE, [to(CARE_OF, expires_ns=0)]))
    return [
        Scenario(
            "fragmentation needed, with the tunnel's budget",
            HOME,
            [whole],
            ["drop-too-big"],
            home=[error(forwarded, CORRESPONDENT, type=3, code=4, nexthopmtu=1480)],
            extra={"icmp-sent": 1},
        ),
        Scenario(
            "time exceeded",
            HOME,
            [dying],
            ["drop-ttl"],
            home=[error(dying, CORRESPONDENT, type=11, code=0)],
            extra={"icmp-sent": 1},
        ),
        Scenario(
            "expired binding: the node is taken to be at home",
            HOME,
            [dying],
            ["returned-expired"],
            home=[dying],
            node=expired,
        ),
    ]
