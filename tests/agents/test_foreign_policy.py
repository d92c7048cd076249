"""The ladder of a foreign agent: every denial by its code, in order, within the limits."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.agents.foreign_lab import (
    AGENT,
    FOREIGN_HOME,
    HOME_AGENT,
    LINK,
    MAC,
    MOBILE_FOREIGN,
    NODE,
    OTHER_MAC,
    SECOND_CARE_OF,
    Bench,
    D,
    G,
    M,
    R,
    S,
    T,
    X,
    identification,
    reply,
    request,
    short,
    sign_mobile_foreign,
    unsigned,
)

from fastmip.agents.effects import Endpoint
from fastmip.agents.foreign_policy import LADDER, ForeignLink, Nat
from fastmip.agents.home_choice import Member
from fastmip.agents.hosts import Prefix, ReverseTunnel

CRITICAL = bytes.fromhex("26000006000000090063")
ENCAPSULATING = short(130, b"")
ON_LINK = (ForeignLink(LINK, AGENT, (AGENT, SECOND_CARE_OF), (Prefix(HOME_AGENT, 24),)),)
"""A link whose subnet the home address belongs to."""
PLAIN: dict[str, Any] = {}
PUBLIC = 0xCB007105  # 203.0.113.5


def requested(home_agent: int) -> bytes:
    """Requested HA Extension (RFC 4433 3.4.1)."""
    return struct.pack("!BBHI", 139, 1, 4, home_agent)


@pytest.mark.parametrize(
    ("policy", "fields", "behind", "code"),
    [
        (PLAIN, {"care_of": NODE + 77}, b"", 77),
        (PLAIN, {"care_of": 0}, b"", 77),
        (PLAIN, {"lifetime": 1801}, b"", 69),
        (PLAIN, {"lifetime": 0xFFFF}, b"", 69),
        ({"encapsulations": frozenset({4})}, {"flags": M}, b"", 72),
        ({"encapsulations": frozenset({4})}, {"flags": G}, b"", 72),
        ({"encapsulations": frozenset({4, 47})}, {"flags": M | G}, b"", 72),
        (PLAIN, {"flags": M | G | T}, b"", 72),
        ({"reverse_tunnel": ReverseTunnel.REFUSE}, {}, b"", 74),
        ({"reverse_tunnel": ReverseTunnel.REQUIRE}, {"flags": S}, b"", 75),
        ({"nat": Nat.TRANSLATING}, {"flags": 0}, b"", 75),
        ({"has_encapsulating_delivery": False}, {}, ENCAPSULATING, 79),
        (PLAIN, {"flags": 0}, ENCAPSULATING, 70),
        ({"strict_reserved": True}, {"flags": R}, b"", 70),
        ({"strict_reserved": True}, {"flags": X}, b"", 70),
        (PLAIN, {}, b"\x86\x40x", 70),
        (PLAIN, {"home_address": 0xE0000001}, b"", 70),
        (PLAIN, {"home_address": AGENT}, b"", 70),
        (PLAIN, {}, CRITICAL, 100),
        (PLAIN, {"home_address": 0}, b"", 96),
        (PLAIN, {"home_agent": 0}, b"", 90),
        (PLAIN, {"home_agent": 0xFFFFFFFF}, b"", 90),
        ({"assigned_home_agents": (Member(AGENT),)}, {"home_agent": 0}, b"", 194),
        (PLAIN, {"home_agent": 0, "before": requested(0xE0000001)}, b"", 90),
        (PLAIN, {"home_agent": 0, "before": requested(0)}, b"", 90),
        (PLAIN, {"home_agent": AGENT}, b"", 194),
        ({"links": ON_LINK}, {}, b"", 65),
        ({"links": ON_LINK, "home_networks": (Prefix(HOME_AGENT, 32),)}, {}, b"", 65),
        ({"home_networks": (Prefix(0x0A020000, 16),)}, {}, b"", 65),
        ({"requires_revocation": True}, {}, b"", 65),
        ({"has_challenge": True}, {}, b"", 105),
    ],
)
def test_each_denial_has_its_code(
    policy: dict[str, Any], fields: dict[str, Any], behind: bytes, code: int
) -> None:
    bench = Bench(**policy)
    assert bench.denial(request(identification(), **fields) + behind) == code
    assert bench.count("faPendingRequests") == 0
    assert bench.count("faDenialsSent") == 1


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        ({"reverse_tunnel": ReverseTunnel.REFUSE}, {"lifetime": 0}),
        ({"reverse_tunnel": ReverseTunnel.REQUIRE}, {"lifetime": 0, "flags": 0}),
        ({"encapsulations": frozenset({4})}, {"lifetime": 0, "flags": G}),
        (PLAIN, {"lifetime": 0, "care_of": NODE}),
        ({"max_lifetime_s": 0xFFFF}, {"lifetime": 0xFFFF}),
        ({"encapsulations": frozenset({4})}, {"flags": D | G, "care_of": 0x0A030109}),
        (PLAIN, {"flags": R | X}),
        (PLAIN, {"flags": M | G, "lifetime": 0}),
        ({"home_agents": frozenset({AGENT})}, {"home_agent": AGENT}),
        ({"home_networks": (Prefix(0x0A010000, 16),)}, {}),
        ({"links": ON_LINK, "home_networks": (Prefix(0x0A010000, 16),)}, {}),
        ({"links": ON_LINK, "home_agents": frozenset({HOME_AGENT})}, {}),
        ({"links": ON_LINK}, {"lifetime": 0}),
        ({"links": ON_LINK}, {"flags": D, "care_of": 0x0A030109}),
        (
            {
                "requires_revocation": True,
                "home_agent_associations": {HOME_AGENT: FOREIGN_HOME}.get,
            },
            {},
        ),
    ],
)
def test_what_passes(policy: dict[str, Any], fields: dict[str, Any]) -> None:
    bench = Bench(**policy)
    bench.ask(request(identification(), **fields))
    assert bench.count("faRegRequestsRelayed") == 1


def test_the_lifetime_we_would_accept_is_told_rfc5944_3_7_2_3() -> None:
    bench = Bench(max_lifetime_s=600)
    [denied] = bench.ask(request(identification(), lifetime=601))
    assert denied.data[1:4] == b"\x45" + (600).to_bytes(2, "big")
    bench.tick(2)
    [other] = bench.ask(request(identification(), lifetime=599, care_of=NODE + 1))
    assert other.data[2:4] == (599).to_bytes(2, "big")  # copied, for any other reason


@pytest.mark.parametrize(
    ("home_address", "care_of", "flags", "code"),
    [
        (NODE, PUBLIC, 0, 75),
        (NODE, PUBLIC, T, None),
        (PUBLIC + 77, PUBLIC, 0, None),
        (NODE, AGENT, 0, None),
    ],
)
def test_private_home_addresses_need_a_reverse_tunnel_to_the_public_net_rfc3024_a_4(
    home_address: int, care_of: int, flags: int, code: int | None
) -> None:
    link = ForeignLink(LINK, AGENT, (PUBLIC, AGENT))
    bench = Bench(links=(link,))
    data = request(identification(), home_address=home_address, care_of=care_of, flags=flags)
    [effect] = bench.ask(data)
    assert (effect.data[1] if effect.data[0] == 3 else None) == code


@pytest.mark.parametrize("ttl", [0, 1, 64, 254])
def test_a_reverse_tunnel_is_for_neighbours_only_rfc3024_4_2_1(ttl: int) -> None:
    bench = Bench()
    assert bench.denial(request(identification()), ttl=ttl) == 76
    assert bench.denial(request(identification(), flags=S), ttl=ttl) is None


def test_the_first_broken_rung_answers() -> None:
    """A request wrong in every way is mended from the top; each time the next rung speaks."""
    policy: dict[str, Any] = {
        "strict_reserved": True,
        "has_challenge": True,
        "encapsulations": frozenset({4}),
        "has_encapsulating_delivery": False,
        "reverse_tunnel": ReverseTunnel.REFUSE,
        "own": frozenset({AGENT, HOME_AGENT}),
        "max_visitors": 0,
    }
    wrong: dict[str, Any] = {
        "flags": T | M | R,
        "care_of": NODE + 1,
        "lifetime": 9999,
        "home_address": 0,
    }
    steps: list[tuple[dict[str, Any], bytes, int]] = [
        ({}, CRITICAL + ENCAPSULATING, 70),
        ({"flags": T | M}, CRITICAL + ENCAPSULATING, 105),
    ]
    bench = Bench(**policy)
    for change, behind, code in steps:
        wrong |= change
        assert bench.denial(request(identification(), **wrong) + behind) == code
    bench = Bench(**policy | {"has_challenge": False})
    for change, behind, code in [
        ({}, CRITICAL + ENCAPSULATING, 100),
        ({}, ENCAPSULATING, 77),
        ({"care_of": AGENT}, ENCAPSULATING, 69),
        ({"lifetime": 300}, ENCAPSULATING, 72),
        ({"flags": T}, ENCAPSULATING, 79),
        ({}, b"", 74),
        ({"flags": 0}, b"", 96),
        ({"home_address": NODE}, b"", 194),
        ({"home_agent": HOME_AGENT + 9}, b"", 66),
    ]:
        wrong |= change
        assert bench.denial(request(identification(), **wrong) + behind) == code
    assert [rung.__name__ for rung in LADDER][:5] == [
        "form",
        "distance",
        "replay",
        "mobile_node",
        "challenge",
    ]


# Mobile-Foreign authentication --------------------------------------------------------------


@pytest.mark.parametrize("break_it", ["none", "twice", "key", "spi", "first", "bit"])
def test_wrong_mobile_foreign_authentication_is_67_and_reported(break_it: str) -> None:
    bench = Bench(mobile_nodes=lambda _home, _nai: MOBILE_FOREIGN)
    inner = request(identification())
    good = sign_mobile_foreign(inner)
    data = {
        "none": inner + short(200, bytes(40)),
        "twice": sign_mobile_foreign(good),
        "key": sign_mobile_foreign(inner, key=bytes(16)),
        "spi": sign_mobile_foreign(inner, spi=0x999),
        "first": request(identification(), before=short(200, bytes(60))),
        "bit": good[:-1] + bytes([good[-1] ^ 1]),
    }[break_it]
    assert bench.denial(data) == 67
    assert len(bench.violations) == 1
    assert bench.count("faMNAuthenticationFailure") == 1
    assert bench.count("faPendingRequests") == 0


def test_without_an_association_the_extension_is_only_removed() -> None:
    bench = Bench()
    inner = request(identification())
    [relayed] = bench.ask(sign_mobile_foreign(inner))
    assert relayed.data == inner


def test_what_stands_behind_the_proof_is_anybody_s() -> None:
    bench = Bench(mobile_nodes=lambda _home, _nai: MOBILE_FOREIGN)
    number = identification()
    bench.ask(sign_mobile_foreign(request(number)) + ENCAPSULATING)
    bench.answer(reply(number))
    assert not bench.installed[0].encapsulating


# silence ------------------------------------------------------------------------------------


def test_revocation_support_from_a_node_is_dropped_rfc3543_4_2_1() -> None:
    bench = Bench()
    support = short(137, bytes(6))
    assert bench.ask(request(identification(), before=support)) == []
    assert bench.ask(request(identification()) + support) == []
    assert bench.count("faRevocationSupportFromNode") == 2


def test_unknown_extensions_below_128_drop_the_request_rfc5944_1_8() -> None:
    bench = Bench()
    assert bench.ask(request(identification(), before=short(99, b"x"))) == []
    assert bench.count("faUnknownExtension") == 1
    assert len(bench.ask(request(identification(), before=short(199, b"x")))) == 1


def test_experiments_pass_through_where_they_are_switched_on_rfc4064_4() -> None:
    long_format = bytes.fromhex("7f0100026162")
    for is_on in (False, True):
        bench = Bench(experimental=is_on)
        data = request(identification(), before=long_format)
        assert [message.data for message in bench.ask(data)] == [data] * is_on


@pytest.mark.parametrize(
    "how",
    [
        {"interface": "core0"},
        {"mac": None},
        {"mac": b"\x01\x00\x5e\x00\x00\x01"},
        {"mac": bytes(6)},
        {"source": Endpoint(NODE, 0)},
    ],
)
def test_who_cannot_be_answered_is_not_relayed(how: dict[str, Any]) -> None:
    bench = Bench()
    assert bench.ask(request(identification()), **how) == []
    assert bench.count("faBadSender") == 1


# limits -------------------------------------------------------------------------------------


def test_one_denial_a_second_for_each_node_rfc5944_3_7_2() -> None:
    bench = Bench()
    sent = [len(bench.ask(request(identification(), care_of=9))) for _ in range(5)]
    assert sent == [1, 0, 0, 0, 0]
    assert bench.count("faDenialsSuppressed") == 4
    assert bench.count("faInvalidCareOfAddress") == 5
    assert len(bench.ask(request(identification(), care_of=9), mac=OTHER_MAC)) == 1
    bench.tick(1.01)
    assert len(bench.ask(request(identification(), care_of=9))) == 1


def test_denials_of_all_nodes_together_are_bounded() -> None:
    bench = Bench(denials_per_second=10)
    sent = 0
    for number in range(100):
        mac = (0x020000000100 + number).to_bytes(6, "big")
        sent += len(bench.ask(request(identification(), care_of=9), mac=mac))
    assert sent == 10


@pytest.mark.parametrize("challenge", [False, True])
def test_no_denial_is_larger_than_its_unproven_request(challenge: bool) -> None:
    bench = Bench(has_challenge=challenge, mobile_nodes=lambda _home, _nai: MOBILE_FOREIGN)
    bare = unsigned(identification())
    sent = bench.ask(bare)
    assert all(len(message.data) <= len(bare) for message in sent)
    bench.tick(2)
    signed = request(identification(), care_of=9)
    sent = bench.ask(signed)
    assert all(len(message.data) <= len(signed) for message in sent)


def test_one_node_has_five_requests_pending_at_most_rfc5944_3_7_1() -> None:
    bench = Bench()
    for number in range(5):
        assert bench.denial(request(identification(), home_address=NODE + number)) is None
    bench = Bench()
    for number in range(5):
        bench.ask(request(identification(), home_address=NODE + number))
    assert bench.ask(request(identification(), home_address=NODE + 5))[0].data[1] == 66
    assert len(bench.ask(request(identification(), home_address=NODE))) == 1  # a repetition
    assert bench.count("faPendingRequests") == 5


def test_invented_addresses_fill_the_pending_table_and_no_more_sec_20() -> None:
    bench = Bench(max_pending=50, denials_per_second=10)
    bench.register()
    for number in range(3000):
        mac = (0x020000010000 + number).to_bytes(6, "big")
        bench.ask(request(identification(), home_address=0x0B000000 + number), mac=mac)
    assert bench.count("faPendingRequests") == 50
    assert bench.agent.is_busy()
    assert len(bench.agent._pending._by_number) <= 50
    assert len(bench.agent._pending._by_mac) <= 50
    # Who is here is not harmed, and who proves itself is let in.
    assert len(bench.register()) == 1
    bench.tick(8)
    assert bench.count("faPendingRequests") == 0
    assert not bench.agent.is_busy()
    assert bench.count("faVisitors") == 1


def test_a_proven_node_finds_room_in_a_flood() -> None:
    proven = NODE + 100
    bench = Bench(
        max_pending=20,
        mobile_nodes=lambda home, _nai: MOBILE_FOREIGN if home == proven else None,
    )
    for number in range(100):
        mac = (0x020000010000 + number).to_bytes(6, "big")
        bench.ask(request(identification(), home_address=0x0B000000 + number), mac=mac)
    own = request(identification(), home_address=proven)
    assert bench.ask(sign_mobile_foreign(own))[0].data == own


def test_a_full_visitor_list_is_busy_and_lets_its_visitors_renew_and_leave() -> None:
    bench = Bench(max_visitors=1)
    bench.register()
    assert bench.agent.is_busy()
    other = request(identification(), home_address=NODE + 1)
    assert bench.denial(other, mac=OTHER_MAC) == 66
    assert len(bench.register()) == 1
    bench.register(lifetime=0, care_of=NODE)
    assert not bench.agent.is_busy()


def test_one_stranger_does_not_fill_the_visitor_list() -> None:
    bench = Bench(max_visitors_per_node=3)
    for number in range(3):
        bench.register(home_address=NODE + number)
    further = request(identification(), home_address=NODE + 3)
    assert bench.denial(further) == 66
    assert len(bench.register(home_address=NODE)) == 1, "who is served is not harmed"
    assert bench.denial(further, mac=OTHER_MAC) is None, "nor who comes after"
    bench.register(home_address=NODE + 1, lifetime=0, care_of=NODE + 1)
    assert bench.denial(request(identification(), home_address=NODE + 3)) is None


def test_a_node_with_an_association_may_be_many_visitors() -> None:
    bench = Bench(max_visitors_per_node=0, mobile_nodes=lambda _home, _nai: MOBILE_FOREIGN)
    own = request(identification(), home_address=NODE)
    assert bench.ask(sign_mobile_foreign(own))[0].data == own


def test_a_request_of_kilobytes_is_not_kept() -> None:
    bench = Bench()
    big = request(identification(), before=short(200, bytes(250)) * 20)
    assert bench.ask(big) == []
    assert bench.count("faMalformedMessage") == 1


def test_links_are_told_apart() -> None:
    bench = Bench()
    bench.ask(request(identification()))
    [pending] = bench.agent.pending()
    assert (pending.key.interface, pending.key.mac) == (LINK, MAC)


@pytest.mark.parametrize(
    ("field", "before", "expected"),
    [
        (0, requested(HOME_AGENT + 7), HOME_AGENT + 7),
        (0xFFFFFFFF, requested(HOME_AGENT + 7), HOME_AGENT + 7),
        (HOME_AGENT, requested(HOME_AGENT + 7), HOME_AGENT + 7),
        (0, b"", HOME_AGENT + 9),
    ],
)
def test_the_requested_home_agent_or_ours_gets_the_request_rfc4433_5_2(
    field: int, before: bytes, expected: int
) -> None:
    bench = Bench(assigned_home_agents=(Member(HOME_AGENT + 9),))
    number = identification()
    data = request(number, home_agent=field, before=before)
    [relayed] = bench.ask(data)
    assert relayed.destination.address == expected
    assert relayed.data[: len(data)] == data, "not a byte is changed"
    answer = reply(number, home_agent=expected, before=struct.pack("!BBHI", 139, 2, 4, HOME_AGENT))
    [passed] = bench.answer(answer, source=expected)
    assert passed.data == answer, "and the node hears whom to ask"
    assert bench.installed
