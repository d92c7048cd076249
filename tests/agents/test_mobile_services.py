"""What a mobile node with an address of its own agrees on: UDP tunnels, revocation."""

from __future__ import annotations

import hmac
import struct
from dataclasses import replace
from typing import Any

import pytest
from tests.agents.mobile_world import HOME, HOME_AGENT, MS, SECOND, A, World, visit_a, visit_b
from tests.agents.paper_foreign_agent import F, PaperForeignAgent, R, T, U, extensions_of
from tests.agents.paper_home_agent import KEY, NTP_OFFSET, SPI, PaperHomeAgent

from fastmip.agents.conversation import Nat
from fastmip.agents.effects import Arrival, Endpoint, InstallTunnels, SendDatagram
from fastmip.agents.offers import CareOf
from fastmip.wire.addresses import parse_address
from fastmip.wire.codes import FLAG_REVERSE_TUNNEL

ASSENT, REFUSAL = 0, 64


def udp_reply(code: int = ASSENT, keepalive_s: int = 0) -> bytes:
    return struct.pack("!BBBBHH", 44, 6, 0, code, 0, keepalive_s)


def behind_nat(nat: Nat = Nat.AUTO, reply: bytes = b"", **changes: Any) -> World:
    agent = PaperHomeAgent(HOME_AGENT, extensions=reply)
    world = World(home_agent=agent, nat=nat, **changes)
    world.exact = False
    world.link(visit_a())
    world.run(0.1)
    assert world.state == "registered"
    return world


def asked(world: World, kind: int) -> list[bytes]:
    data = world.requests[-1][1].data
    return [body for found, _, body in extensions_of(data, 24) if found == kind]


def keepalives(world: World) -> list[int]:
    return [
        when
        for when, effect in world.log
        if isinstance(effect, SendDatagram) and effect.data[0] == 4
    ]


# -- UDP tunnels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("nat", "flags"), [(Nat.AUTO, 0), (Nat.FORCED, 0x80)])
def test_a_udp_tunnel_is_offered_before_the_authentication_rfc3519_3_1(
    nat: Nat, flags: int
) -> None:
    world = behind_nat(nat)
    assert asked(world, 144) == [bytes((0, 0, flags, 0, 0, 0))]
    kinds = [kind for kind, _, _ in extensions_of(world.requests[-1][1].data, 24)]
    assert kinds == [144, 32]


def test_a_udp_tunnel_is_asked_for_with_t_rfc3519_3_1_5() -> None:
    world = behind_nat(reply=udp_reply(), reverse_tunnel=False)
    assert world.sent()[0].flags & FLAG_REVERSE_TUNNEL
    assert world.of(InstallTunnels)[-1].tunnels[0].reverse, "keepalives must come through"
    world = behind_nat(reply=udp_reply(REFUSAL), reverse_tunnel=False)
    assert not world.of(InstallTunnels)[-1].tunnels[0].reverse, "no translator, no need"
    world = behind_nat(Nat.OFF, reverse_tunnel=False)
    assert not world.sent()[0].flags & FLAG_REVERSE_TUNNEL


def test_a_home_agent_against_reverse_tunnels_gets_no_udp_tunnel() -> None:
    world = World(
        home_agent=PaperHomeAgent(HOME_AGENT, code=137), nat=Nat.AUTO, reverse_tunnel=False
    )
    world.exact = False
    world.link(visit_a())
    world.home_agent.code = None
    world.run(2)
    assert [bool(request.flags & FLAG_REVERSE_TUNNEL) for request in world.sent()] == [True, False]
    assert asked(world, 144) == []
    assert world.state == "registered"


def test_an_assent_makes_a_udp_tunnel_to_where_the_reply_came_from_rfc3519_4_3() -> None:
    world = behind_nat(reply=udp_reply())
    [tunnel] = world.of(InstallTunnels)[-1].tunnels
    assert (tunnel.remote, tunnel.remote_port, tunnel.local) == (HOME_AGENT, 434, A)


@pytest.mark.parametrize("reply", [b"", udp_reply(REFUSAL), udp_reply(99)])
def test_without_assent_there_is_no_udp_tunnel_rfc3519_3_2_1(reply: bytes) -> None:
    world = behind_nat(reply=reply)
    [tunnel] = world.of(InstallTunnels)[-1].tunnels
    assert tunnel.remote_port == 0
    world.run(400)
    assert keepalives(world) == []


def test_nothing_is_offered_at_home_or_with_nat_off() -> None:
    world = behind_nat(Nat.OFF)
    assert asked(world, 144) == []


def test_an_idle_tunnel_is_kept_open_and_its_silence_leads_to_a_request() -> None:
    world = behind_nat(reply=udp_reply(keepalive_s=20), lifetime_s=3600)
    begun = world.boot_ns - 100 * MS
    world.run(30)
    first, *again = keepalives(world)
    assert 20 * SECOND <= first - begun <= 21 * SECOND
    assert len(again) == 2, "nothing came back"
    assert len(world.requests) == 2
    assert world.node.counters()["mnKeepalivesUnanswered"] == 1
    assert world.node.status(world.now)["keepalive_s"] == 10


def test_an_answer_keeps_the_registration() -> None:
    world = behind_nat(reply=udp_reply(keepalive_s=20), lifetime_s=3600)
    for received in range(600):
        world.run(0.5)
        world.node.tunnel_carried(len(keepalives(world)), received, world.now)
    assert len(world.requests) == 1
    assert 10 <= len(keepalives(world)) <= 15


def test_another_router_behind_the_same_address_is_a_move_rfc3519_5_1() -> None:
    world = behind_nat(reply=udp_reply())
    place = visit_a()
    known = replace(place, gateway_mac="02:00:00:00:00:01")
    world.link(known)
    world.run(2)
    assert len(world.requests) == 1, "only now it is known"
    world.link(replace(place, gateway_mac="02:00:00:00:00:02"))
    world.run(2)
    assert len(world.requests) == 2
    assert [event["interface"] for event in world.events("network-changed")] == ["eth0"]
    world.link(replace(place, gateway_mac="02:00:00:00:00:02", metric=7))
    world.run(2)
    assert len(world.requests) == 2


def test_142_drops_the_tunnel_in_udp() -> None:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, code=142), nat=Nat.AUTO)
    world.exact = False
    world.link(visit_a())
    world.run(0.05)
    world.home_agent.code = None
    world.run(2)
    assert world.state == "registered"
    assert asked(world, 144) == []


def test_r_and_u_of_an_agent_make_it_half_bound_rfc3519_4_11() -> None:
    fa = parse_address("10.3.1.1")
    agent = PaperForeignAgent("eth0", fa, bytes(5) + b"\1", (fa,), flags=F | T | R | U)
    world = World(
        home_agent=PaperHomeAgent(HOME_AGENT, extensions=udp_reply()),
        nat=Nat.AUTO,
        care_of=CareOf.COLOCATED_FIRST,
    )
    world.exact = False
    world.place(agent)
    world.run(0.1)
    world.link(visit_a())
    world.run(4)
    assert world.state == "registered"
    assert asked(world, 144) == [bytes((0, 0, 0x40, 0, 0, 0))]
    assert keepalives(world), "the home agent learns from it where we are"
    _, sent = next((w, e) for w, e in world.log if isinstance(e, SendDatagram) and e.data[0] == 4)
    assert isinstance(sent, SendDatagram)
    assert (sent.destination.address, sent.mac) == (HOME_AGENT, None), "past the agent"


@pytest.mark.parametrize(
    ("flags", "care_of"),
    [(F | T | R, CareOf.COLOCATED_FIRST), (F | T | R | U, CareOf.FOREIGN_AGENT)],
    ids=["without U", "the agent's care-of address"],
)
def test_through_an_agent_udp_is_asked_for_only_where_it_helps_rfc3519_4_4(
    flags: int, care_of: CareOf
) -> None:
    fa = parse_address("10.3.1.1")
    world = World(nat=Nat.AUTO, care_of=care_of)
    world.exact = False
    world.place(PaperForeignAgent("eth0", fa, bytes(5) + b"\1", (fa,), flags=flags))
    world.run(0.1)
    world.link(visit_a())
    world.run(4)
    assert world.state == "registered"
    assert asked(world, 144) == []


# -- revocation ----------------------------------------------------------------------------------


def revocable(**changes: Any) -> World:
    """A registration whose home agent answered our offer at the very time of the world."""
    world = World(revocation=True, **changes)
    world.exact = False
    stamp = world.wall_ns // SECOND + NTP_OFFSET
    world.home_agent.extensions = struct.pack("!BBHI", 137, 6, 0, stamp & 0xFFFFFFFF)
    world.link(visit_a())
    world.run(0.1)
    assert world.state == "registered"
    return world


def revocation(world: World, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "flags": 0x8000,
        "home": HOME,
        "agent": HOME_AGENT,
        "care_of": A,
        "later_s": 5,
    }
    values |= changes
    stamp = world.wall_ns // SECOND + NTP_OFFSET + values["later_s"]
    fixed = struct.pack(
        "!BBHIIII",
        7,
        0,
        values["flags"],
        values["home"],
        values["agent"],
        values["care_of"],
        stamp & 0xFFFFFFFF,
    )
    covered = fixed + struct.pack("!BBI", 32, 20, SPI)
    return covered + hmac.digest(values.get("key", KEY), covered, "md5")


def revoke(world: World, data: bytes) -> list[SendDatagram]:
    """Deliver it; what was answered."""
    arrival = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(A, 434), "eth0")
    effects = world.take(world.node.receive_datagram(data, arrival, world.now))
    return [e for e in effects if isinstance(e, SendDatagram) and e.data[0] == 15]


def test_revocation_is_offered_with_an_address_of_its_own_rfc3543_4_2() -> None:
    world = revocable()
    assert [kind for kind, _, _ in extensions_of(world.requests[0][1].data, 24)] == [137, 32]


def test_a_revocation_is_acknowledged_first_and_ends_the_binding_rfc3543_4_2_2_3() -> None:
    world = revocable()
    data = revocation(world)
    arrival = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(A, 434), "eth0")
    effects = world.node.receive_datagram(data, arrival, world.now)
    answer = effects[0]
    assert isinstance(answer, SendDatagram)
    assert (answer.source, answer.destination) == (Endpoint(A, 434), Endpoint(HOME_AGENT, 434))
    assert answer.data[0] == 15
    assert answer.data[8:12] == data[16:20]
    assert hmac.compare_digest(answer.data[-16:], hmac.digest(KEY, answer.data[:-16], "md5"))
    assert world.node.status(world.now)["bindings"] == []
    assert world.node.counters()["mnRevocationsAccepted"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(16)},
        {"flags": 0},
        {"home": HOME + 1},
        {"agent": HOME_AGENT + 1},
        {"care_of": A + 1},
        {"later_s": -5},
    ],
    ids=["key", "reflected", "home address", "home agent", "care-of address", "stale"],
)
def test_what_is_wrong_with_it_is_silence_sec30(changes: dict[str, Any]) -> None:
    world = revocable()
    assert revoke(world, revocation(world, **changes)) == []
    assert world.state == "registered"
    assert world.node.counters()["mnRevocationsDropped"] == 1


def test_a_replay_after_a_new_registration_is_silence_sec30_sec31() -> None:
    world = revocable()
    data = revocation(world, later_s=0)
    assert revoke(world, data) == []
    data = revocation(world)
    assert len(revoke(world, data)) == 1
    world.run(3)
    assert world.state == "registered"
    assert revoke(world, data) == []
    assert world.state == "registered"


def test_a_repetition_is_acknowledged_once_more() -> None:
    world = revocable()
    assert len(revoke(world, revocation(world))) == 1
    assert len(revoke(world, revocation(world, later_s=6))) == 1


def test_who_did_not_offer_it_does_not_hear_of_it() -> None:
    world = World()
    world.link(visit_b())
    world.run(0.1)
    assert revoke(world, revocation(world)) == []
    assert world.state == "registered"
