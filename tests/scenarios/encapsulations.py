"""Scenarios of GRE, minimal encapsulation, UDP tunnels and foreign agents. GRE and UDP are
scapy's; the forwarding header of RFC 2004, which scapy does not know, is spelt out."""

from __future__ import annotations

import struct
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import GRE as ScapyGre
from scapy.packet import Packet, Raw
from tests.reference.encapsulations import GRE, IPIP, MINIMAL, Method
from tests.reference.ipv4 import checksum
from tests.reference.tunnels import DONE_TTL, HOME, TUNNEL, Twin
from tests.scenarios.catalogue import (
    CARE_OF,
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    OTHER,
    OTHER_CARE_OF,
    SECOND_CARE_OF,
    Scenario,
    data,
    home_agent,
    number,
    outer,
    to,
)

KEY = 0xC0FFEE
VISITED_ROUTER = "10.3.1.1"
PORT = 4434


def gre(source: str, destination: str, inner: Packet, **fields: Any) -> Packet:
    """RFC 2784 around a packet."""
    head = IP(src=source, dst=destination, tos=inner.tos, ttl=64, flags="DF", id=0, proto=47)
    return head / ScapyGre(**fields) / inner


def in_udp(source: str, destination: str, inner: Packet, *ports: int) -> Packet:
    """RFC 3519 around a packet: our port, their port."""
    head = IP(src=source, dst=destination, tos=inner.tos, ttl=64, flags="DF", id=0)
    return (
        head / UDP(sport=ports[0], dport=ports[1], chksum=0) / Raw(b"\x04\x04\0\0" + bytes(inner))
    )


def minimal(source: str, destination: str, inner: Packet) -> Packet:
    """RFC 2004: the header of the packet itself, changed, and twelve octets behind it."""
    whole = IP(bytes(inner))
    forwarding = struct.pack(">BBHII", whole.proto, 0x80, 0, number(whole.dst), number(whole.src))
    forwarding = forwarding[:2] + struct.pack(">H", checksum(forwarding)) + forwarding[4:]
    head = IP(src=source, dst=destination, proto=55)
    for name in ("tos", "ttl", "flags", "id"):
        setattr(head, name, getattr(whole, name))
    return head / Raw(forwarding + bytes(whole.payload))


def encapsulations() -> list[Scenario]:
    """There, back, mixed, and refused."""
    plain, less = data(CORRESPONDENT, NODE, ttl=64), data(CORRESPONDENT, NODE, ttl=63)
    back, back_less = data(NODE, CORRESPONDENT, ttl=64), data(NODE, CORRESPONDENT, ttl=63)
    by_gre = home_agent((NODE, [to(CARE_OF, method=Method(GRE, KEY))]))
    by_minimal = home_agent((NODE, [to(CARE_OF, method=Method(MINIMAL))]))
    behind_nat = home_agent((NODE, [to(CARE_OF, method=Method(IPIP, None, PORT, 434))]))
    three = [to(CARE_OF, method=Method(MINIMAL)), to(SECOND_CARE_OF, method=Method(GRE))]
    three.append(to(OTHER_CARE_OF, method=Method(IPIP, None, PORT, 434)))
    fragment = data(CORRESPONDENT, NODE, flags="MF", ttl=64)
    fragment_less = data(CORRESPONDENT, NODE, flags="MF", ttl=63)
    return [
        Scenario(
            "by GRE with a key, there",
            HOME,
            [plain],
            ["encapsulated"],
            tunnel=[gre(HOME_AGENT, CARE_OF, less, key_present=1, key=KEY)],
            node=by_gre,
        ),
        Scenario(
            "by GRE with a key, back: checksum and sequence number are the node's choice",
            TUNNEL,
            [
                gre(CARE_OF, HOME_AGENT, back, key_present=1, key=KEY),
                gre(
                    CARE_OF,
                    HOME_AGENT,
                    back,
                    key_present=1,
                    key=KEY,
                    chksum_present=1,
                    seqnum_present=1,
                    sequence_number=0,
                ),
                gre(CARE_OF, HOME_AGENT, back, key_present=1, key=KEY + 1),
                gre(CARE_OF, HOME_AGENT, back),
            ],
            ["decapsulated", "decapsulated", "drop-gre-key", "drop-gre-key"],
            home=[back_less, back_less],
            node=by_gre,
        ),
        Scenario(
            "by minimal encapsulation, fragments by IP in IP",
            HOME,
            [plain, fragment],
            ["encapsulated", "encapsulated"],
            tunnel=[
                minimal(HOME_AGENT, CARE_OF, less),
                outer(HOME_AGENT, CARE_OF, fragment_less),
            ],
            node=by_minimal,
        ),
        Scenario(
            "from a node by minimal encapsulation or IP in IP, not by GRE",
            TUNNEL,
            [
                minimal(CARE_OF, HOME_AGENT, back),
                outer(CARE_OF, HOME_AGENT, back),
                gre(CARE_OF, HOME_AGENT, back),
            ],
            ["decapsulated", "decapsulated", "drop-encapsulation"],
            home=[back_less, back_less],
            node=by_minimal,
        ),
        Scenario(
            "to a node behind a NAT",
            HOME,
            [plain],
            ["encapsulated"],
            tunnel=[in_udp(HOME_AGENT, CARE_OF, less, 434, PORT)],
            node=behind_nat,
        ),
        Scenario(
            "from a node behind a NAT: address and port are its tunnel's, nothing else passes",
            TUNNEL,
            [
                in_udp(CARE_OF, HOME_AGENT, back, PORT, 434),
                in_udp(CARE_OF, HOME_AGENT, back, PORT + 1, 434),
                in_udp(SECOND_CARE_OF, HOME_AGENT, back, PORT, 434),
                outer(CARE_OF, HOME_AGENT, back),
            ],
            ["decapsulated", "drop-udp-port", "drop-care-of-address", "drop-encapsulation"],
            home=[back_less],
            node=behind_nat,
        ),
        Scenario(
            "simultaneous bindings, each by its own encapsulation",
            HOME,
            [plain],
            ["encapsulated"],
            tunnel=[
                minimal(HOME_AGENT, CARE_OF, less),
                gre(HOME_AGENT, SECOND_CARE_OF, less),
                in_udp(HOME_AGENT, OTHER_CARE_OF, less, 434, PORT),
            ],
            extra={"encapsulated-copy": 2},
            node=home_agent((NODE, three)),
        ),
    ]


def foreign_agents() -> list[Scenario]:
    """Both delivery styles of RFC 3024 5."""
    back = data(NODE, CORRESPONDENT, ttl=64)
    back_less = data(NODE, CORRESPONDENT, ttl=63)
    plain = data(CORRESPONDENT, NODE, ttl=60)
    visitors = {
        number(NODE): [to(HOME_AGENT, CARE_OF)],
        number(OTHER): [to(HOME_AGENT, CARE_OF, nested=True)],
    }
    own = (number(CARE_OF), number(VISITED_ROUTER))
    agent = Twin("foreign-agent", own, visitors, DONE_TTL)
    other = data(OTHER, CORRESPONDENT, ttl=64)
    other_less = data(OTHER, CORRESPONDENT, ttl=63)
    return [
        Scenario(
            "direct delivery",
            HOME,
            [back, data("10.1.0.9", CORRESPONDENT)],
            ["encapsulated", "returned-no-binding"],
            home=[data("10.1.0.9", CORRESPONDENT)],
            tunnel=[outer(CARE_OF, HOME_AGENT, back)],
            node=agent,
        ),
        Scenario(
            "encapsulating delivery: what comes plain is routed",
            HOME,
            [other],
            ["returned-not-reverse"],
            home=[other],
            node=agent,
        ),
        Scenario(
            "encapsulating delivery: what comes tunnelled is tunnelled again",
            TUNNEL,
            [outer(OTHER, VISITED_ROUTER, other), outer(NODE, VISITED_ROUTER, back_less)],
            ["reencapsulated", "drop-no-binding"],
            tunnel=[outer(CARE_OF, HOME_AGENT, other_less)],
            node=agent,
        ),
        Scenario(
            "to a visitor from its home agent, to nobody else and from nobody else",
            TUNNEL,
            [
                outer(HOME_AGENT, CARE_OF, plain),
                outer(HOME_AGENT, CARE_OF, data(CORRESPONDENT, "10.1.0.9")),
                outer(CORRESPONDENT, CARE_OF, plain),
                outer(HOME_AGENT, VISITED_ROUTER, plain),
            ],
            ["decapsulated", "drop-no-binding", "drop-care-of-address", "drop-tunnel-end"],
            home=[plain],
            node=agent,
        ),
    ]
