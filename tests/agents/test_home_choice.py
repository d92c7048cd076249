"""Which home agent of a group serves whom (RFC 4433): policies, drain, limits, load exchange."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.agents.home_lab import (
    CARE_OF,
    HOME_AGENT,
    NODE,
    OTHER,
    SECOND,
    Lab,
    default_policy,
    ntp,
    sign,
    unsigned_request,
)

from fastmip.agents.effects import Commit, Effect, Now, SendDatagram
from fastmip.agents.group_exchange import GroupExchange
from fastmip.agents.home_choice import Asking, GroupPolicy, HomeChoice, Load, Member, Policy
from fastmip.wire.codes import ReplyCode

HA2, HA3 = 0x0A010002, 0x0A010003
GROUP = GroupPolicy((Member(HOME_AGENT, 3), Member(HA2, 2), Member(HA3, 1)), Policy.WEIGHTED)
NOW = Now(5000 * SECOND, 1_790_000_000 * SECOND)
KEY = bytes(range(32))


def asking(number: int, **more: Any) -> Asking:
    more = {"care_of_address": CARE_OF, "nai": b"", "is_bound": False, "is_known": False, **more}
    return Asking(NODE + number, **more)


def chosen(choice: HomeChoice, own: int, group: GroupPolicy, who: Asking, **more: Any) -> int:
    load = more.pop("load", Load(0, 100_000, NOW.boot_ns))
    found = choice.elsewhere(group, who, own, load, NOW, is_full=more.get("is_full", False))
    return own if found is None else found


def test_ten_thousand_nodes_spread_by_weight_whoever_is_asked() -> None:
    choices = {member.address: HomeChoice() for member in GROUP.members}
    served: Counter[int] = Counter()
    for number in range(10_000):
        results = {chosen(choices[own], own, GROUP, asking(number)) for own in choices}
        assert len(results) == 1, "who is sent on is never sent back"
        served[results.pop()] += 1
    for member in GROUP.members:
        assert served[member.address] == pytest.approx(10_000 * member.weight / 6, rel=0.05)


def test_ten_thousand_nodes_level_out_when_the_least_loaded_serves() -> None:
    group = replace(GROUP, policy=Policy.LEAST_LOADED)
    members = [member.address for member in group.members]
    served, choices = Counter(members), {own: HomeChoice() for own in members}
    for number in range(10_000):
        own = members[number % 2]  # nobody asks the third
        loads = {one: Load(served[one], 10_000, NOW.boot_ns) for one in members}
        choices[own].loads = {one: load for one, load in loads.items() if one != own}
        served[chosen(choices[own], own, group, asking(number), load=loads[own])] += 1
    shares = [served[one] / 10_000 for one in members]
    assert max(shares) - min(shares) < 0.06


def test_a_node_that_is_bound_stays_until_we_are_drained() -> None:
    choice = HomeChoice()
    away = next(n for n in range(100) if chosen(choice, HOME_AGENT, GROUP, asking(n)) != HOME_AGENT)
    bound = asking(away, is_bound=True, is_known=True)
    assert chosen(choice, HOME_AGENT, GROUP, bound) == HOME_AGENT
    choice.is_draining = True
    moved = {chosen(choice, HOME_AGENT, GROUP, asking(n, is_bound=True)) for n in range(100)}
    assert moved == {HA2, HA3}


def test_sticky_keeps_whom_it_met() -> None:
    group, choice = replace(GROUP, policy=Policy.STICKY), HomeChoice()
    for number in range(50):
        assert chosen(choice, HA3, group, asking(number, is_known=True)) == HA3
    assert {chosen(choice, HA3, group, asking(n)) for n in range(100)} >= {HOME_AGENT, HA2}


@pytest.mark.parametrize(
    ("policy", "who", "expected"),
    [
        (Policy.BY_NAI, {"nai": b"n@b.example"}, HA2),
        (Policy.BY_NAI, {"nai": b"n@x.b.example"}, HA3),
        (Policy.BY_NAI, {"nai": b"n@c.example"}, HOME_AGENT),
        (Policy.NEAREST, {"care_of_address": 0x0A030009}, HA2),
        (Policy.NEAREST, {"care_of_address": 0x0A030109}, HA3),
        (Policy.NEAREST, {"care_of_address": 0x0B000001}, HOME_AGENT),
    ],
)
def test_lists_say_who_serves_by_the_longest_entry(
    policy: Policy, who: dict[str, Any], expected: int
) -> None:
    group = replace(
        GROUP,
        policy=policy,
        by_nai=((b"b.example", HA2), (b"@x.b.example", HA3)),
        nearest=((0x0A030000, 16, HA2), (0x0A030100, 24, HA3)),
    )
    choice = HomeChoice()
    assert chosen(choice, HOME_AGENT, group, asking(1, **who)) == expected
    choice.loads[expected] = Load(1, 10, NOW.boot_ns, draining=True)
    if expected != HOME_AGENT:
        assert chosen(choice, HOME_AGENT, group, asking(1, **who)) != expected


def test_silent_drained_and_full_members_are_passed_over() -> None:
    group = replace(GROUP, hears_loads=True, redirect_above=0.9)
    choice = HomeChoice()
    choice.is_draining = True
    drained = asking(1, is_bound=True)
    assert chosen(choice, HOME_AGENT, group, drained) == HOME_AGENT, "nobody was heard yet"
    choice.loads[HA2] = Load(0, 100, NOW.boot_ns - 6 * SECOND)
    choice.loads[HA3] = Load(90, 100, NOW.boot_ns)
    assert chosen(choice, HOME_AGENT, group, drained) == HOME_AGENT
    choice.loads[HA2] = Load(0, 100, NOW.boot_ns, draining=True)
    assert chosen(choice, HOME_AGENT, group, drained) == HOME_AGENT
    choice.loads[HA2] = Load(0, 100, NOW.boot_ns)
    assert chosen(choice, HOME_AGENT, group, drained) == HA2


def test_lifetimes_are_spread_for_a_while_after_a_start() -> None:
    choice = HomeChoice(60, NOW)
    granted = [choice.spread(600, NODE + n, NOW) for n in range(1000)]
    assert min(granted) >= 300
    assert max(granted) <= 600
    tenths = Counter((lifetime - 300) // 30 for lifetime in granted)
    assert all(50 < tenths[n] < 200 for n in range(10)), tenths
    later = Now(NOW.boot_ns + 61 * SECOND, NOW.wall_ns)
    assert choice.spread(600, NODE, later) == 600
    assert choice.spread(0xFFFF, NODE, NOW) == 0xFFFF


# the exchange


def test_loads_are_told_and_heard() -> None:
    us, them = (GroupExchange(own, (HOME_AGENT, HA2), KEY) for own in (HOME_AGENT, HA2))
    message = us.message(Load(7, 100, 0, draining=True), NOW)
    assert message[:4] == b"FMG1"
    assert len(message) == 80
    assert them.receive(message, NOW) == (HOME_AGENT, Load(7, 100, NOW.boot_ns, draining=True))
    assert them.receive(message, NOW) is None, "said before"
    assert them.counters["group-replayed"] == 1


def test_forgeries_strangers_and_old_messages_say_nothing() -> None:
    us, them = (GroupExchange(own, (HOME_AGENT, HA2), KEY) for own in (HOME_AGENT, HA2))
    good = us.message(Load(7, 100, 0), NOW)
    for at in range(80):
        assert them.receive(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], NOW) is None
    assert them.receive(good[:-1], NOW) is None
    assert them.receive(GroupExchange(HA3, (HA2,), KEY).message(Load(1, 1, 0), NOW), NOW) is None
    assert us.receive(good, NOW) is None, "our own word comes back"
    later = Now(NOW.boot_ns, NOW.wall_ns + 31 * SECOND)
    assert them.receive(good, later) is None
    assert them.receive(good, NOW) is not None


# at the home agent


def grouped(**more: Any) -> Lab:
    policy = replace(default_policy(), group=replace(GROUP, policy=Policy.LEAST_LOADED), **more)
    return Lab(policy)


def dynamic(lab: Lab, requested: int | None = HOME_AGENT, **more: Any) -> bytes:
    extension = b"" if requested is None else struct.pack("!BBHI", 139, 1, 4, requested)
    more.setdefault("home_agent", 0)
    return sign(unsigned_request(ntp(lab.wall_s), extensions=extension, **more))


def code_of(effects: list[Effect]) -> tuple[int, int, bytes]:
    """Code, home agent and what stands before the authentication."""
    (sent,) = [e for e in effects if isinstance(e, SendDatagram)]
    return sent.data[1], int.from_bytes(sent.data[8:12]), sent.data[20:-22]


@pytest.mark.parametrize("field", [0, 0xFFFFFFFF])
def test_a_request_for_any_home_agent_is_accepted_by_our_name_rfc4433_5_3_1(field: int) -> None:
    lab = grouped()
    effects = lab.send(dynamic(lab, home_agent=field))
    assert code_of(effects) == (0, HOME_AGENT, b"")
    assert lab.tunnels[NODE][0].local == HOME_AGENT


def test_another_requested_home_agent_is_136_rfc4433_5_3() -> None:
    lab = grouped()
    assert code_of(lab.send(dynamic(lab, HA2)))[0] == ReplyCode.HA_UNKNOWN_HOME_AGENT
    lab.pass_time(2)
    assert code_of(lab.send(dynamic(lab, None)))[0] == ReplyCode.HA_UNKNOWN_HOME_AGENT


def test_drained_we_redirect_and_the_binding_stays_rfc4433_4_2() -> None:
    lab = grouped()
    assert code_of(lab.send(dynamic(lab)))[0] == 0
    lab.agent.choice.is_draining = True
    lab.pass_time(2)
    code, home_agent, extensions = code_of(lab.send(dynamic(lab, home_agent=HOME_AGENT)))
    assert (code, home_agent) == (143, HOME_AGENT)
    assert extensions == struct.pack("!BBHI", 139, 2, 4, HA2)
    assert len(lab.tunnels[NODE]) == 1
    lab.pass_time(2)
    plain = sign(unsigned_request(ntp(lab.wall_s)))
    assert code_of(lab.send(plain))[0] == 0, "a node without RFC 4433 is served to its end"
    assert lab.agent.counters()["haRedirected"] == 1


def test_full_we_redirect_or_deny_with_130() -> None:
    lab = grouped(max_bindings=1)
    assert code_of(lab.send(dynamic(lab)))[0] == 0
    lab.pass_time(2)
    asked = dynamic(lab, home_address=OTHER)
    assert code_of(lab.send(asked))[0] == ReplyCode.HA_REDIRECT
    lab.pass_time(2)
    plain = sign(unsigned_request(ntp(lab.wall_s), home_address=OTHER))
    assert code_of(lab.send(plain))[0] == ReplyCode.HA_INSUFFICIENT_RESOURCES


def test_registrations_have_a_limit_per_second() -> None:
    lab = grouped(max_registrations_per_second=1)
    assert code_of(lab.send(sign(unsigned_request(ntp(lab.wall_s)))))[0] == 0
    asked = sign(unsigned_request(ntp(lab.wall_s), home_address=OTHER))
    assert code_of(lab.send(asked))[0] == ReplyCode.HA_INSUFFICIENT_RESOURCES
    lab.pass_time(2)
    asked = sign(unsigned_request(ntp(lab.wall_s), home_address=OTHER))
    assert code_of(lab.send(asked))[0] == 0


def test_without_a_group_any_home_agent_is_136() -> None:
    lab = Lab()
    effects = lab.send(dynamic(lab, None))
    assert not any(isinstance(effect, Commit) for effect in effects)
    assert code_of(effects)[0] == ReplyCode.HA_UNKNOWN_HOME_AGENT
