"""The foreign agent: what it relays and honours, byte for byte, and what it never does."""

from __future__ import annotations

import struct

import pytest
from tests.agents.foreign_lab import (
    AGENT,
    ALL_AGENTS,
    BOOT_S,
    FOREIGN_HOME,
    FROM_NODE,
    HOME_AGENT,
    HOME_AGENT_2,
    LINK,
    MAC,
    MOBILE_FOREIGN,
    NODE,
    NTP_EPOCH,
    OTHER_MAC,
    SECOND,
    SECOND_CARE_OF,
    WALL_S,
    B,
    Bench,
    D,
    G,
    M,
    T,
    identification,
    reply,
    request,
    short,
    sign_foreign_home,
    sign_mobile_foreign,
    unsigned_reply,
)

from fastmip.agents.effects import (
    Arrival,
    Endpoint,
    InstallVisitor,
    RemoveVisitor,
    SendDatagram,
    Tunnel,
)
from fastmip.agents.foreign_policy import Nat


def test_a_request_is_relayed_as_it_came_rfc5944_3_7_2_2() -> None:
    bench = Bench()
    data = request(identification())
    [relayed] = bench.ask(data)
    assert relayed == SendDatagram(data, Endpoint(AGENT, 434), Endpoint(HOME_AGENT, 434))
    assert bench.count("faRegRequestsReceived") == bench.count("faRegRequestsRelayed") == 1
    assert bench.count("faPendingRequests") == 1


def test_what_is_ours_behind_the_signature_is_removed_rfc5944_3_7_2_2() -> None:
    bench = Bench(mobile_nodes=lambda _home, _nai: MOBILE_FOREIGN)
    inner = request(identification(), before=short(131, b"mn@wustl.edu"))
    data = sign_mobile_foreign(inner + short(130, b"") + short(200, b"skippable"))
    [relayed] = bench.ask(data)
    assert relayed.data == inner


def test_foreign_home_authentication_is_added_for_a_known_home_agent_rfc5944_3_5_4() -> None:
    bench = Bench(home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    data = request(identification())
    assert bench.ask(data)[0].data == sign_foreign_home(data)
    away = request(identification(), home_agent=HOME_AGENT_2)
    assert bench.ask(away)[0].data == away
    gone = request(identification(), lifetime=0)
    assert bench.ask(gone)[0].data == gone  # not on a deregistration
    own = request(identification(), flags=D | T, care_of=0x0A030109)
    assert bench.ask(own)[0].data == own  # nor for an address that is not ours


def test_the_reply_goes_to_the_node_by_its_mac_rfc5944_3_7_2_3() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    data = reply(number)
    [passed] = bench.answer(data)
    assert passed == SendDatagram(data, Endpoint(AGENT, 434), FROM_NODE, LINK, MAC)
    assert bench.installed == [
        InstallVisitor(
            NODE,
            LINK,
            MAC,
            Tunnel(HOME_AGENT, AGENT, (BOOT_S + 300) * SECOND, 4, reverse=True),
            reverse=True,
            token=1,
        )
    ]
    assert bench.count("faVisitors") == 1
    assert bench.count("faPendingRequests") == 0
    assert bench.events == ["visitor-arrived"]


def test_all_agents_are_answered_from_our_own_address_rfc5944_3_7_2_3() -> None:
    bench = Bench()
    number = identification()
    [relayed] = bench.ask(request(number), destination=ALL_AGENTS)
    assert relayed.source == Endpoint(AGENT, 434)
    assert bench.answer(reply(number))[0].source == Endpoint(AGENT, 434)


def test_a_node_without_an_address_is_answered_by_broadcast_or_its_new_one_rfc2794_3() -> None:
    bench = Bench()
    number = identification()
    nai = short(131, b"mn@wustl.edu")
    data = request(number, home_address=0, before=nai)
    bench.ask(data, source=Endpoint(0, 434))
    [passed] = bench.answer(reply(number, before=nai))
    assert passed.destination == Endpoint(NODE, 434)
    assert bench.installed[0].home_address == NODE
    refused = request(identification(), home_address=0, before=nai, lifetime=9999)
    bench.tick(2)
    [denied] = bench.ask(refused, source=Endpoint(0, 434))
    assert (denied.destination, denied.mac) == (Endpoint(0xFFFFFFFF, 434), MAC)


def test_the_second_care_of_address_is_the_source_and_the_tunnel_s_end() -> None:
    bench = Bench()
    bench.register(care_of=SECOND_CARE_OF)
    assert bench.installed[0].tunnel.local == SECOND_CARE_OF


@pytest.mark.parametrize(("flags", "encapsulation"), [(0, 4), (M, 55), (G, 47), (M | B | T, 55)])
def test_the_encapsulation_asked_for_is_the_visitor_s(flags: int, encapsulation: int) -> None:
    bench = Bench()
    bench.register(flags=flags)
    tunnel = bench.installed[0].tunnel
    assert (tunnel.encapsulation, tunnel.reverse) == (encapsulation, bool(flags & T))


def test_encapsulating_delivery_is_told_to_the_engine_rfc3024_5_2() -> None:
    bench = Bench()
    number = identification()
    inner = request(number)
    [relayed] = bench.ask(inner + short(130, b""))
    assert relayed.data == inner
    bench.answer(reply(number))
    [installed] = bench.installed
    assert installed.encapsulating
    assert installed.tunnel.nested


def test_a_colocated_node_registers_through_us_and_needs_no_tunnel_of_ours() -> None:
    bench = Bench(requires_registration=True)
    number = identification()
    own = 0x0A030109
    [relayed] = bench.ask(request(number, flags=D | T, care_of=own), source=Endpoint(own, 40000))
    assert relayed.source == Endpoint(AGENT, 434)
    [passed] = bench.answer(reply(number))
    assert passed.destination == FROM_NODE
    assert bench.installed == []
    assert bench.count("faVisitors") == 1
    gone = identification()
    bench.ask(request(gone, flags=D, care_of=own, lifetime=0))
    bench.answer(reply(gone, lifetime=0))
    assert bench.count("faVisitors") == 0
    assert not any(isinstance(effect, RemoveVisitor) for effect in bench.effects)


def test_a_visitor_that_takes_an_address_of_its_own_leaves_no_tunnel_behind() -> None:
    """Neither one that stands, nor one that was on its way into the kernel."""
    bench = Bench()
    own = 0x0A030109
    bench.register()
    bench.register(flags=D, care_of=own)
    assert bench.effects.count(RemoveVisitor(NODE, LINK)) == 1
    [visitor] = bench.agent.visitors()
    assert visitor.colocated
    assert bench.events == ["visitor-arrived"]

    number = identification()
    bench.ask(request(number))
    arrived = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(AGENT, 434), "core0", None, 60)
    waiting = bench.agent.receive_datagram(reply(number), arrived, bench.now)
    bench.register(flags=D, care_of=own)
    assert bench.effects.count(RemoveVisitor(NODE, LINK)) == 2
    bench.run(waiting)
    assert [visitor.colocated for visitor in bench.agent.visitors()] == [True]


def test_a_visit_that_ends_while_its_tunnel_is_made_leaves_none_behind() -> None:
    bench = Bench()
    bench.register(flags=D, care_of=0x0A030109, lifetime=30)
    number = identification()
    bench.ask(request(number))
    arrived = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(AGENT, 434), "core0", None, 60)
    bench.agent.receive_datagram(reply(number), arrived, bench.now)
    bench.tick(31)
    assert bench.count("faVisitorsExpired") == 1
    assert RemoveVisitor(NODE, LINK) in bench.effects


# what is in force ---------------------------------------------------------------------------


def test_a_visitor_stays_as_it_is_until_its_home_agent_accepts_rfc5944_3_7_2() -> None:
    bench = Bench()
    bench.register()
    before = bench.installed[-1]
    for lifetime in (0, 300):
        number = identification()
        bench.ask(request(number, lifetime=lifetime, flags=G))
        assert len(list(bench.agent.visitors())) == 1
        bench.answer(reply(number, code=131))
    assert bench.installed == [before]
    assert not any(isinstance(effect, RemoveVisitor) for effect in bench.effects)


def test_deregistration_accepted_removes_the_visitor_rfc5944_3_7_3_2() -> None:
    bench = Bench()
    bench.register()
    bench.register(lifetime=0, care_of=NODE)
    assert RemoveVisitor(NODE, LINK) in bench.effects
    assert bench.count("faVisitors") == 0
    assert bench.events == ["visitor-arrived", "visitor-left"]


def test_another_binding_that_ends_through_us_is_not_the_visitor_s() -> None:
    """Make-before-break: the old care-of address is released through the new agent."""
    bench = Bench()
    bench.register()
    bench.register(lifetime=0, care_of=0x0A030201)
    assert bench.count("faVisitors") == 1
    bench.register(lifetime=0, care_of=AGENT)
    assert bench.count("faVisitors") == 0


def test_a_lifetime_that_ends_removes_the_visitor_and_says_nothing_rfc5944_3_7() -> None:
    bench = Bench()
    bench.register(lifetime=30)
    assert bench.tick(29) == []
    assert bench.count("faVisitors") == 1
    assert bench.tick(2) == []
    assert bench.effects[-2] == RemoveVisitor(NODE, LINK)
    assert bench.count("faVisitorsExpired") == 1


def test_a_renewal_prolongs() -> None:
    bench = Bench()
    bench.register(lifetime=30)
    bench.tick(20)
    bench.register(lifetime=30)
    bench.tick(25)
    assert bench.count("faVisitors") == 1
    bench.tick(6)
    assert bench.count("faVisitors") == 0


@pytest.mark.parametrize(("granted", "lifetime"), [(100, 100), (300, 300), (9000, 300)])
def test_the_lifetime_is_the_smallest_of_all_rfc5944_3_7_3_2(granted: int, lifetime: int) -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    bench.answer(reply(number, lifetime=granted))
    assert bench.installed[0].tunnel.expires_ns == (BOOT_S + lifetime) * SECOND


@pytest.mark.parametrize("code", [128, 133, 144])
def test_a_denial_of_the_home_agent_is_passed_on_as_it_is(code: int) -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    data = reply(number, code=code)
    assert bench.answer(data)[0].data == data
    assert bench.count("faPendingRequests") == 0
    assert bench.count("faVisitors") == 0


def test_a_request_without_an_answer_is_denied_with_78_after_seven_seconds() -> None:
    bench = Bench()
    data = request(identification())
    bench.ask(data)
    assert bench.tick(6.9) == []
    [denied] = bench.tick(0.2)
    assert denied.data[:2] == b"\x03\x4e"
    assert denied.data[12:20] == data[16:24]
    assert denied.mac == MAC
    assert bench.count("faPendingRequests") == 0
    assert bench.count("faRegistrationTimeout") == 1


def test_a_reply_after_a_short_lifetime_is_too_late_rfc5944_3_7_2_2() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number, lifetime=2))
    bench.s = 2.5
    assert bench.answer(reply(number, lifetime=2)) == []
    assert bench.installed == []


# replies that match nothing -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        ({"number": 1}, "faRegRepliesUnmatched"),
        ({"home_address": NODE + 1}, "faRegRepliesUnmatched"),
        ({"destination": SECOND_CARE_OF}, "faRegRepliesUnmatched"),
        ({"source": HOME_AGENT_2}, "faRegRepliesWrongSource"),
        ({"unsigned": True}, "faRegRepliesUnsigned"),
    ],
)
def test_a_forged_reply_changes_nothing_rfc5944_3_7_3_1(
    change: dict[str, int], counter: str
) -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    said = change.get("number", number)
    home_address = change.get("home_address", NODE)
    data = (
        unsigned_reply(said) if change.get("unsigned") else reply(said, home_address=home_address)
    )
    where = {name: change[name] for name in ("destination", "source") if name in change}
    assert bench.answer(data, **where) == []
    assert bench.count(counter) == 1
    assert len(bench.answer(reply(number))) == 1  # the true one still counts


def test_the_high_half_of_the_identification_is_the_home_agent_s_rfc5944_5_7() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    data = reply(number ^ 0xDEADBEEF << 32, code=133)
    assert bench.answer(data)[0].data == data


def test_an_unknown_home_agent_may_answer_for_a_broadcast_rfc5944_3_6_1_2() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number, home_agent=0x0A0100FF))
    assert len(bench.answer(reply(number, code=136, home_agent=HOME_AGENT))) == 1


def test_the_nai_tells_two_nodes_with_one_address_apart_rfc5944_3_7_3_1() -> None:
    bench = Bench()
    number = identification()
    names = (short(131, b"one@a.example"), short(131, b"two@a.example"))
    for nai, mac in zip(names, (MAC, OTHER_MAC), strict=True):
        bench.ask(request(number, before=nai), mac=mac)
    assert bench.answer(reply(number, before=names[1]))[0].mac == OTHER_MAC
    bench.tick(1)


# faults of an accepting reply ---------------------------------------------------------------


def status_of(message: SendDatagram) -> int:
    """Status of the foreign agent error extension, the last thing in the message."""
    assert message.data[-4:-1] == b"\x2d\x02\x00"
    return message.data[-1]


@pytest.mark.parametrize("break_it", ["none", "twice", "wrong", "spi"])
def test_a_reply_without_the_home_agent_s_proof_gets_status_68_rfc4636_4(break_it: str) -> None:
    bench = Bench(home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    number = identification()
    bench.ask(request(number))
    inner = reply(number)
    data = {
        "none": inner,
        "twice": sign_foreign_home(sign_foreign_home(inner)),
        "wrong": sign_foreign_home(inner, key=bytes(16)),
        "spi": sign_foreign_home(inner, spi=0x999),
    }[break_it]
    [passed] = bench.answer(data)
    assert passed.data[: len(inner)] == inner
    assert status_of(passed) == 68
    assert bench.installed == []
    assert bench.count("faHAAuthenticationFailure") == 1
    assert len(bench.violations) == 1


def test_a_visitor_the_machine_cannot_carry_gets_status_66_and_is_revoked_rfc4636_6() -> None:
    bench = Bench(home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get, has_revocation=True)
    bench.carried = False
    number = identification()
    bench.ask(request(number))
    support = short(137, struct.pack("!HI", 0, WALL_S + NTP_EPOCH))
    [passed, *_] = bench.answer(sign_foreign_home(reply(number) + support))
    assert status_of(passed) == 66
    assert bench.count("faVisitors") == 0
    revoked = bench.tick(1.1)
    assert [message.data[0] for message in revoked][:1] == [7]


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"home_agent": 0}, 98), ({"home_address": 0}, 99), ({"nai": b"other@a.example"}, 97)],
)
def test_a_reply_that_lacks_what_was_asked_is_denied_by_us_rfc2794_3(
    fields: dict[str, object], code: int
) -> None:
    bench = Bench()
    number = identification()
    nai = short(131, b"mn@wustl.edu")
    bench.ask(request(number, home_address=0, before=nai))
    fields = dict(fields)
    said = fields.pop("nai", b"mn@wustl.edu")
    assert isinstance(said, bytes)
    [denied] = bench.answer(reply(number, before=short(131, said), **fields))
    assert denied.data[1] == code
    assert bench.installed == []


def test_an_unknown_critical_vendor_extension_for_us_is_101_rfc3115_2_4() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    critical = bytes.fromhex("26000006000000090063")
    [denied] = bench.answer(reply(number) + critical)
    assert denied.data[1] == 101
    for_the_node = identification()
    bench.ask(request(for_the_node))
    assert bench.answer(reply(for_the_node, before=critical))[0].data[1] == 0


def test_a_reply_malformed_behind_its_signature_gets_status_71() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    inner = reply(number)
    [passed] = bench.answer(inner + b"\x86\x40")
    assert passed.data == inner + b"\x2d\x02\x00\x47"


def test_a_reply_malformed_before_its_signature_is_denied_with_71() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    [denied] = bench.answer(unsigned_reply(number) + b"\x86\x40")
    assert denied.data[1] == 71


def test_unknown_extensions_below_128_drop_the_reply_rfc5944_1_8() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    assert bench.answer(reply(number) + short(99, b"x")) == []
    assert bench.count("faUnknownExtension") == 1
    assert len(bench.answer(reply(number) + short(199, b"x"))) == 1


def test_another_node_s_home_address_is_refused_while_that_one_is_here() -> None:
    bench = Bench()
    bench.register()
    taken = request(identification(), home_agent=HOME_AGENT_2)
    assert bench.denial(taken, mac=OTHER_MAC) == 66
    assert bench.count("faVisitors") == 1


# ICMP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("icmp", "code"),
    [((3, 0), 80), ((3, 1), 81), ((3, 3), 82), ((3, 2), 88), ((3, 13), 88), ((11, 0), 88)],
)
def test_icmp_errors_become_denials_rfc5944_3_7_3(icmp: tuple[int, int], code: int) -> None:
    bench = Bench()
    data = request(identification())
    bench.ask(data)
    sent = bench.run(
        bench.agent.receive_report(data[:28], Endpoint(HOME_AGENT, 434), *icmp, bench.now)
    )
    assert [message.data[1] for message in sent] == [code]
    assert bench.count("faHAUnreachable") == 1
    assert bench.count("faPendingRequests") == 0


@pytest.mark.parametrize("kind", ["short", "number", "address", "agent", "type", "mtu"])
def test_forged_icmp_changes_nothing(kind: str) -> None:
    bench = Bench()
    number = identification()
    data = request(number)
    bench.ask(data)
    quoted = {
        "short": data[:23],
        "number": request(number ^ 1 << 40),
        "address": request(number, home_address=NODE + 1),
        "type": b"\x03" + data[1:],
    }.get(kind, data)
    where = Endpoint(HOME_AGENT_2 if kind == "agent" else HOME_AGENT, 434)
    code = 4 if kind == "mtu" else 1
    assert bench.agent.receive_report(quoted, where, 3, code, bench.now) == []
    assert len(bench.answer(reply(number))) == 1


# NAT ----------------------------------------------------------------------------------------


def test_behind_a_translator_udp_tunnels_are_asked_for_rfc3519_4_5() -> None:
    bench = Bench(nat=Nat.TRANSLATING, home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    number = identification()
    data = request(number)
    [relayed] = bench.ask(data)
    asked = bytes.fromhex("9006000000000000")
    assert relayed.data == sign_foreign_home(data + asked)
    granted = bytes.fromhex("2c0600000000001e")
    bench.answer(sign_foreign_home(reply(number) + granted))
    tunnel = bench.installed[0].tunnel
    assert (tunnel.remote, tunnel.remote_port, tunnel.local_port) == (HOME_AGENT, 434, 434)
    [keepalive] = bench.tick(30.5)
    assert keepalive.source == Endpoint(AGENT, 434)
    assert keepalive.destination == Endpoint(HOME_AGENT, 434)
    assert keepalive.data[:4] == b"\x04\x04\x00\x00"
    assert keepalive.data[4:5] + keepalive.data[16:24] == b"\x45" + struct.pack(
        "!II", NODE, HOME_AGENT
    )
    assert keepalive.data[24] == 8
    bench.register(lifetime=0, care_of=NODE)
    assert bench.tick(100) == []


def test_the_keepalive_goes_as_the_visitor_s_tunnel_does_rfc3519_4_9() -> None:
    bench = Bench(nat=Nat.TRANSLATING, home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    number = identification()
    bench.ask(request(number, flags=T | G))
    bench.answer(sign_foreign_home(reply(number) + bytes.fromhex("2c0600000000001e")))
    [keepalive] = bench.tick(30.5)
    assert keepalive.data[:8] == bytes.fromhex("042f0000" + "00000800")


def test_without_a_translator_seen_the_tunnel_is_an_ordinary_one() -> None:
    bench = Bench(nat=Nat.TRANSPARENT)
    number = identification()
    bench.ask(request(number))
    bench.answer(reply(number) + bytes.fromhex("2c06004000000000"))
    assert bench.installed[0].tunnel.remote_port == 0


def test_a_tunnel_reply_nobody_asked_for_means_nothing() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    bench.answer(reply(number) + bytes.fromhex("2c06000000000000"))
    assert bench.installed[0].tunnel.remote_port == 0


def test_what_is_no_registration_message_is_counted() -> None:
    bench = Bench()
    for data in (b"", b"\x04abc", b"\xff", b"\x12" + bytes(30)):
        assert bench.ask(data) == []
    assert bench.count("faUnexpectedMessageType") == 4
    assert bench.ask(b"\x01short") == []
    assert bench.count("faMalformedMessage") == 1


def test_a_policy_without_a_link_takes_its_visitors_leave() -> None:
    bench = Bench()
    bench.register()
    effects = bench.agent.set_policy(Bench(links=()).policy, bench.now)
    assert RemoveVisitor(NODE, LINK) in effects
    assert bench.notices.told == [(LINK, NODE, MAC)]


def test_the_fullest_minute_of_a_code_is_known() -> None:
    bench = Bench()
    for _ in range(3):
        bench.denial(request(identification(), care_of=NODE + 9))
    bench.tick(120)
    bench.denial(request(identification(), care_of=NODE + 9))
    peak = bench.agent.peaks.get("faInvalidCareOfAddress")
    assert peak is not None
    assert (peak.most, peak.wall_ns // SECOND) == (3, WALL_S + 1)


def test_mobile_foreign_authentication_is_added_to_replies_rfc5944_3_7_3_2() -> None:
    bench = Bench(mobile_nodes=lambda _home, _nai: MOBILE_FOREIGN)
    number = identification()
    bench.ask(sign_mobile_foreign(request(number)))
    data = reply(number)
    assert bench.answer(data)[0].data == sign_mobile_foreign(data)
    bench.tick(2)
    bad = sign_mobile_foreign(request(identification(), lifetime=9999))
    [denied] = bench.ask(bad)
    fixed = struct.pack("!BBH", 3, 69, 1800) + bad[4:12] + bad[16:24]
    assert denied.data == sign_mobile_foreign(fixed)


STRANGER = 0x08080808
"""A home agent that anybody could run, anywhere."""


def _ask_without_an_address(bench: Bench, number: int, **fields: int) -> bytes:
    """A request with an NAI through ``STRANGER``, from another node; returns the NAI."""
    nai = short(131, b"eve@example.com")
    data = request(number, home_address=0, home_agent=STRANGER, before=nai, **fields)
    bench.ask(data, mac=OTHER_MAC, source=Endpoint(0, 434))
    return nai


@pytest.mark.parametrize("home_agent", [HOME_AGENT, STRANGER])
def test_a_stranger_s_home_agent_takes_nobody_s_visitor_over(home_agent: int) -> None:
    bench = Bench()
    bench.register()
    number = identification()
    nai = _ask_without_an_address(bench, number)
    answer = reply(number, home_agent=home_agent, before=nai)
    [passed] = bench.answer(answer, source=STRANGER)
    assert passed.data[len(answer) :] in (b"\x2d\x02\x00\x47", b"\x2d\x02\x00\x42")  # 71 or 66
    visitor = bench.agent.visitor(NODE)
    assert visitor is not None
    assert (visitor.mac, visitor.home_agent) == (MAC, HOME_AGENT)
    assert [effect.mac for effect in bench.installed] == [MAC]


@pytest.mark.parametrize("home_agent", [HOME_AGENT, STRANGER])
@pytest.mark.parametrize("lifetime", [0, 300])
def test_a_stranger_s_home_agent_ends_nobody_s_visit(home_agent: int, lifetime: int) -> None:
    bench = Bench()
    bench.register()
    for care_of in (AGENT, NODE):
        number = identification()
        nai = _ask_without_an_address(bench, number, lifetime=lifetime, care_of=care_of)
        answer = reply(number, lifetime=0, home_agent=home_agent, before=nai)
        bench.answer(answer, source=STRANGER)
        bench.tick(1.1)
    assert bench.agent.visitor(NODE) is not None
    assert not any(isinstance(effect, RemoveVisitor) for effect in bench.effects)


def test_a_visitor_that_is_being_installed_is_not_overtaken_by_a_stranger() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    arrived = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(AGENT, 434), "core0", None, 60)
    waiting = bench.agent.receive_datagram(reply(number), arrived, bench.now)
    other = identification()
    nai = _ask_without_an_address(bench, other)
    bench.answer(reply(other, home_agent=STRANGER, before=nai), source=STRANGER)
    bench.run(waiting)
    visitor = bench.agent.visitor(NODE)
    assert visitor is not None
    assert visitor.mac == MAC


@pytest.mark.parametrize("address", [AGENT, 0xE0000001, 0xFFFFFFFF, 0x7F000001])
def test_a_home_address_that_can_be_none_is_not_served_71(address: int) -> None:
    bench = Bench()
    number = identification()
    nai = _ask_without_an_address(bench, number)
    answer = reply(number, home_address=address, home_agent=STRANGER, before=nai)
    [passed] = bench.answer(answer, source=STRANGER)
    assert passed.data == answer + b"\x2d\x02\x00\x47"
    assert not bench.installed
