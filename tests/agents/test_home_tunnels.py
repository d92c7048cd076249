"""Encapsulations and UDP tunnels the home agent grants (RFC 5944 4.1, 3024 4.3, 3519)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.agents.home_lab import (
    BOOT_S,
    CARE_OF,
    CARE_OF_2,
    FA_KEY,
    FA_SPI,
    FOREIGN_AGENT,
    HOME_AGENT,
    NODE,
    SECOND,
    B,
    D,
    G,
    Lab,
    M,
    S,
    T,
    codes,
    ntp,
    only_reply,
    sign,
    unsigned_request,
)

from fastmip.agents.effects import Effect, Endpoint, Tunnel
from fastmip.agents.hosts import Prefix

NAT = 0x0A040002
PRIVATE = 0xC0A80705
FORCED, REQUIRED = 0x80, 0x40


def udp_request(flags: int = 0, encapsulation: int = 0, *, reserved3: int = 0) -> bytes:
    """Extension 144 by hand (RFC 3519 3.1)."""
    return struct.pack("!BBBBBBH", 144, 6, 0, 0, flags, encapsulation, reserved3)


def udp_reply(code: int, *, forced: bool = False, keepalive_s: int = 0) -> bytes:
    """Extension 44 by hand (RFC 3519 3.2)."""
    return struct.pack("!BBBBHH", 44, 6, 0, code, 0x8000 if forced else 0, keepalive_s)


def answer(
    code: int, identification: int, *, lifetime: int = 300, before: bytes = b"", behind: bytes = b""
) -> bytes:
    """A whole reply by hand, with extensions around the Mobile-Home authentication."""
    fixed = struct.pack("!BBHIIQ", 3, code, lifetime, NODE, HOME_AGENT, identification)
    return sign(fixed + before) + behind


def register(lab: Lab, source: int = NAT, *, port: int = 5000, **fields: Any) -> list[Effect]:
    """Send a signed request from behind a translator."""
    extensions = fields.pop("extensions", udp_request())
    data = lab.request(**{"care_of": PRIVATE, "extensions": extensions, **fields})
    return lab.send(data, lab.arrival(source, port=port))


@pytest.mark.parametrize(
    ("flags", "offered", "protocol"),
    [
        (0, {4, 47, 55}, 4),
        (M, {4, 47, 55}, 55),
        (G, {4, 47, 55}, 47),
        (M | G, {4, 47, 55}, 55),
        (M | G, {4, 47}, 47),
        (0, {4}, 4),
    ],
)
def test_the_tunnel_is_what_m_and_g_ask_for_rfc5944_4_1(
    flags: int, offered: set[int], protocol: int
) -> None:
    lab = Lab()
    lab.set_policy(encapsulations=frozenset(offered))
    assert codes(lab.send(lab.request(flags=D | T | flags))) == [0]
    assert lab.tunnels[NODE] == (
        Tunnel(CARE_OF, HOME_AGENT, (BOOT_S + 300) * SECOND, protocol, True),
    )
    (binding,) = lab.agent.bindings_of(NODE)
    assert binding.encapsulation == protocol


@pytest.mark.parametrize(("flags", "offered"), [(M, {4, 47}), (G, {4, 55}), (M | G, {4})])
def test_what_is_not_offered_is_139_rfc3024_4_3_1(flags: int, offered: set[int]) -> None:
    lab = Lab()
    lab.set_policy(encapsulations=frozenset(offered))
    assert codes(lab.send(lab.request(flags=D | flags))) == [139]
    assert lab.tunnels == {}


def test_the_encapsulation_survives_a_restart() -> None:
    lab = Lab()
    lab.send(lab.request(flags=D | G))
    lab.start()
    assert [binding.encapsulation for binding in lab.agent.bindings_of(NODE)] == [47]


def test_bindings_of_one_node_may_differ_in_encapsulation() -> None:
    lab = Lab()
    lab.send(lab.request(flags=D | G))
    lab.pass_time(1)
    lab.send(lab.request(flags=D | M | S, care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    assert [t.encapsulation for t in lab.tunnels[NODE]] == [55, 47]


# UDP tunnels -------------------------------------------------------------------------------


def test_a_translator_is_seen_and_tunnelled_through_rfc3519_4_6() -> None:
    lab = Lab()
    lab.set_policy(nat_keepalive_s=40)
    effects = register(lab)
    assert only_reply(effects).data == answer(
        0, ntp(lab.wall_s), before=udp_reply(0, keepalive_s=40)
    )
    assert only_reply(effects).destination == Endpoint(NAT, 5000)
    expires = (BOOT_S + 300) * SECOND
    assert lab.tunnels[NODE] == (
        Tunnel(NAT, HOME_AGENT, expires, 4, True, remote_port=5000, local_port=434),
    )
    (binding,) = lab.agent.bindings_of(NODE)
    assert (binding.care_of_address, binding.source_address) == (PRIVATE, NAT)
    assert lab.count("haUdpTunnelsGranted") == 1


def test_a_new_mapping_is_followed_by_the_next_registration_rfc3519_4_10() -> None:
    lab = Lab()
    register(lab)
    lab.pass_time(1)
    register(lab, port=6000)
    assert [(t.remote, t.remote_port) for t in lab.tunnels[NODE]] == [(NAT, 6000)]


def test_leaving_the_translator_ends_the_udp_tunnel() -> None:
    lab = Lab()
    register(lab)
    lab.pass_time(1)
    assert codes(lab.send(lab.request())) == [0]
    assert [(t.remote, t.remote_port) for t in lab.tunnels[NODE]] == [(CARE_OF, 0)]


def test_deregistration_through_the_translator_names_the_registered_address() -> None:
    lab = Lab()
    register(lab)
    lab.pass_time(1)
    effects = register(lab, lifetime=0)
    assert only_reply(effects).data == answer(0, ntp(lab.wall_s), lifetime=0)
    assert lab.tunnels == {}


def test_a_udp_tunnel_lives_no_longer_than_allowed_rfc3519_5_2() -> None:
    lab = Lab()
    lab.set_policy(nat_max_lifetime_s=60)
    data = only_reply(register(lab)).data
    assert data == answer(0, ntp(lab.wall_s), lifetime=60, before=udp_reply(0))
    lab.pass_time(1)
    lab.send(lab.request(lifetime=300))
    assert lab.tunnels[NODE][0].expires_ns == (BOOT_S + 301) * SECOND


@pytest.mark.parametrize(
    ("source", "flags", "policy", "code", "reply"),
    [
        (PRIVATE, 0, {}, 0, udp_reply(64)),
        (PRIVATE, FORCED, {}, 0, udp_reply(0, forced=True)),
        (PRIVATE, FORCED, {"nat_force": False}, 129, b""),
        (PRIVATE, FORCED, {"nat_traversal": False}, 129, b""),
        (PRIVATE, 0, {"nat_traversal": False}, 0, udp_reply(64)),
        (NAT, FORCED, {"nat_force": False}, 0, udp_reply(0, forced=True)),
        (NAT, 0, {"nat_traversal": False}, 129, b""),
        (NAT, REQUIRED, {"nat_traversal": False}, 129, b""),
        (FOREIGN_AGENT, 0, {}, 0, udp_reply(64)),
    ],
    ids=[
        "no translator",
        "forced",
        "forced not allowed",
        "forced, no traversal",
        "no translator, no traversal",
        "translator and forced",
        "no traversal",
        "half bound, no traversal",
        "relayed by a known agent",
    ],
)
def test_detection_force_and_policy_rfc3519_4_6(
    source: int, flags: int, policy: dict[str, Any], code: int, reply: bytes
) -> None:
    lab = Lab()
    lab.set_policy(**policy)
    effects = register(lab, source, extensions=udp_request(flags))
    expected = answer(code, ntp(lab.wall_s), before=reply)
    if source == FOREIGN_AGENT:
        expected = sign(expected, FA_KEY, FA_SPI, kind=34)
    assert only_reply(effects).data == expected
    if code:
        assert lab.tunnels == {}
    else:
        is_udp = reply[3] == 0
        end = (source, 5000) if is_udp else (PRIVATE, 0)
        assert [(t.remote, t.remote_port) for t in lab.tunnels[NODE]] == [end]


def test_a_translator_without_a_request_for_udp_is_129() -> None:
    lab = Lab()
    assert codes(register(lab, extensions=b"")) == [129]


def test_the_third_reserved_field_means_not_understood_c09() -> None:
    lab = Lab()
    assert codes(register(lab, extensions=udp_request(reserved3=1))) == [129]


@pytest.mark.parametrize(
    ("flags", "field", "offered", "code", "protocol"),
    [
        (0, 0, {4, 47, 55}, 0, 4),
        (M, 0, {4, 47, 55}, 0, 55),
        (M, 47, {4, 47, 55}, 0, 47),
        (0, 55, {4, 47, 55}, 0, 55),
        (0, 55, {4, 47}, 142, 0),
        (0, 6, {4, 47, 55}, 142, 0),
        (G, 0, {4}, 142, 0),
    ],
)
def test_encapsulation_inside_udp_rfc3519_3_1_4(
    flags: int, field: int, offered: set[int], code: int, protocol: int
) -> None:
    lab = Lab()
    lab.set_policy(encapsulations=frozenset(offered))
    effects = register(lab, extensions=udp_request(0, field), flags=D | T | flags)
    assert codes(effects) == [code]
    assert [t.encapsulation for t in lab.tunnels.get(NODE, ())] == ([] if code else [protocol])


def test_without_a_udp_tunnel_m_and_g_decide_rfc3519_3_1_4() -> None:
    lab = Lab()
    register(lab, PRIVATE, extensions=udp_request(0, 55), flags=D | G)
    assert [t.encapsulation for t in lab.tunnels[NODE]] == [47]


def test_a_node_that_does_not_decapsulate_must_not_ask_134_rfc3519_4_6_1() -> None:
    assert codes(register(Lab(), flags=T)) == [134]


def by_agent(lab: Lab, extensions: bytes, *, care_of: int, flags: int = T) -> bytes:
    """A relayed request with a foreign agent's extensions, signed by it."""
    relayed = sign(unsigned_request(ntp(lab.wall_s), care_of=care_of, flags=flags)) + extensions
    return sign(relayed, FA_KEY, FA_SPI, kind=34)


def test_a_foreign_agent_behind_a_translator_asks_for_itself_rfc3519_4_5() -> None:
    lab = Lab()
    data = by_agent(lab, udp_request(), care_of=FOREIGN_AGENT)
    effects = lab.send(data, lab.arrival(NAT, port=7000))
    reply = answer(0, ntp(lab.wall_s), behind=udp_reply(0))
    assert only_reply(effects).data == sign(reply, FA_KEY, FA_SPI, kind=34)
    assert [(t.remote, t.remote_port) for t in lab.tunnels[NODE]] == [(NAT, 7000)]


def test_a_foreign_agent_must_not_ask_for_a_node_that_decapsulates_134() -> None:
    lab = Lab()
    data = by_agent(lab, udp_request(), care_of=FOREIGN_AGENT, flags=D | T)
    assert codes(lab.send(data, lab.arrival(FOREIGN_AGENT))) == [134]


def test_a_request_for_udp_behind_the_authentication_is_nobodys_sec03() -> None:
    """Whoever appends it to a captured request would draw the tunnel to itself."""
    lab = Lab()
    data = sign(unsigned_request(ntp(lab.wall_s), care_of=CARE_OF, flags=T)) + udp_request()
    assert codes(lab.send(data, lab.arrival(NAT))) == [129]
    lab.pass_time(1)
    data = sign(unsigned_request(ntp(lab.wall_s), care_of=CARE_OF, flags=D | T)) + udp_request()
    assert codes(lab.send(data, lab.arrival(NAT))) == [129]
    assert lab.tunnels == {}


def test_the_service_area_is_judged_by_the_translator() -> None:
    lab = Lab()
    lab.set_policy(care_of_prefixes=(Prefix(0x0A040000, 16),))
    assert codes(register(lab)) == [0]
    lab.set_policy(care_of_prefixes=(Prefix(PRIVATE & 0xFFFF0000, 16),))
    lab.pass_time(1)
    assert codes(register(lab)) == [129]


def test_private_addresses_may_equal_those_of_the_home_network() -> None:
    lab = Lab()
    lab.send(lab.request(home_address=NODE + 1))
    assert codes(register(lab, care_of=NODE + 1)) == [0]
    lab.pass_time(1)
    assert codes(register(lab, care_of=NODE)) == [129]


# half bound --------------------------------------------------------------------------------


def half_bound() -> Lab:
    lab = Lab()
    effects = register(lab, extensions=udp_request(REQUIRED))
    assert only_reply(effects).data == answer(0, ntp(lab.wall_s), before=udp_reply(0))
    assert [(t.remote, t.remote_port) for t in lab.tunnels[NODE]] == [(NAT, 0xFFFF)]
    return lab


def test_the_first_keepalive_tells_the_port_and_the_first_wins_sec47_rfc3519_4_6() -> None:
    lab = half_bound()
    row = lab.rows[NODE]
    lab.carry_out(lab.agent.receive_keepalive(NODE, Endpoint(NAT, 9000), lab.now))
    assert [(t.remote, t.remote_port) for t in lab.tunnels[NODE]] == [(NAT, 9000)]
    assert lab.rows[NODE][:3] == row[:3]
    assert lab.agent.receive_keepalive(NODE, Endpoint(NAT, 9001), lab.now) == []
    assert [(t.remote, t.remote_port) for t in lab.tunnels[NODE]] == [(NAT, 9000)]
    assert lab.count("haFirstKeepalives") == 1
    assert lab.count("haFirstKeepalivesRefused") == 1


@pytest.mark.parametrize(
    ("home", "source"),
    [
        (NODE, Endpoint(NAT + 1, 9000)),
        (NODE + 1, Endpoint(NAT, 9000)),
        (NODE + 9, Endpoint(NAT, 9000)),
        (NODE, Endpoint(NAT, 0)),
        (NODE, Endpoint(NAT, 0xFFFF)),
    ],
)
def test_a_forged_keepalive_binds_nothing_sec47(home: int, source: Endpoint) -> None:
    lab = half_bound()
    assert lab.agent.receive_keepalive(home, source, lab.now) == []
    assert [t.remote_port for t in lab.tunnels[NODE]] == [0xFFFF]


def test_a_keepalive_prolongs_nothing_and_an_expired_binding_is_not_bound() -> None:
    lab = half_bound()
    expires = lab.tunnels[NODE][0].expires_ns
    lab.pass_time(299)
    lab.carry_out(lab.agent.receive_keepalive(NODE, Endpoint(NAT, 9000), lab.now))
    assert lab.tunnels[NODE][0].expires_ns == expires
    lab.pass_time(1)
    assert lab.tunnels == {}
    assert lab.agent.receive_keepalive(NODE, Endpoint(NAT, 9000), lab.now) == []


def test_every_registration_is_half_bound_anew() -> None:
    lab = half_bound()
    lab.carry_out(lab.agent.receive_keepalive(NODE, Endpoint(NAT, 9000), lab.now))
    lab.pass_time(1)
    register(lab, extensions=udp_request(REQUIRED))
    assert [t.remote_port for t in lab.tunnels[NODE]] == [0xFFFF]


def test_a_port_that_cannot_be_written_down_is_refused() -> None:
    assert codes(register(Lab(), port=0xFFFF)) == [129]


# broadcasts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "policy", "broadcasts", "nested"),
    [
        (D | B, True, True, False),
        (B, True, True, True),
        (D, True, False, False),
        (B, False, False, True),
    ],
)
def test_the_b_bit_is_granted_if_broadcasts_are_forwarded_rfc5944_4_3(
    flags: int, policy: bool, broadcasts: bool, nested: bool
) -> None:
    lab = Lab()
    lab.set_policy(broadcasts=policy)
    assert codes(lab.send(lab.request(flags=flags))) == [0]
    (tunnel,) = lab.tunnels[NODE]
    assert (tunnel.broadcasts, tunnel.nested) == (broadcasts, nested)
