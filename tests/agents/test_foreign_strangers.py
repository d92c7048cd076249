"""What a stranger on the visited link must not achieve against visitors (protocol-map 9)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.agents.foreign_lab import (
    AGENT,
    FOREIGN_HOME,
    FROM_NODE,
    HOME_AGENT,
    HOME_AGENT_2,
    LINK,
    MAC,
    MOBILE_FOREIGN,
    NODE,
    OTHER_MAC,
    Bench,
    identification,
    reply,
    request,
    short,
    sign_foreign_home,
    sign_mobile_foreign,
)

from fastmip.agents.effects import Arrival, Effect, Endpoint, RemoveVisitor
from fastmip.agents.foreign_policy import ForeignLink
from fastmip.agents.hosts import Prefix
from fastmip.auth.associations import AssociationSet, Direction, SecurityAssociation

STRANGER = 0x08080808
"""A home agent that anybody could run, anywhere."""
NAI = short(131, b"mn@wustl.edu")


def visitor_of(bench: Bench) -> tuple[bytes, int]:
    """Link-layer address and home agent of the visitor."""
    visitor = bench.agent.visitor(NODE)
    assert visitor is not None
    return visitor.mac, visitor.home_agent


# whose home address it is -------------------------------------------------------------------


def test_another_home_agent_takes_no_home_address_even_under_the_visitor_s_mac() -> None:
    bench = Bench()
    bench.register()
    assert bench.denial(request(identification(), home_agent=STRANGER)) == 66
    number = identification()
    bench.ask(request(number, home_address=0, home_agent=STRANGER, before=NAI))
    answer = reply(number, home_agent=STRANGER, before=NAI)
    [passed] = bench.answer(answer, source=STRANGER)
    assert passed.data == answer + b"\x2d\x02\x00\x42"
    assert visitor_of(bench) == (MAC, HOME_AGENT)
    assert not any(isinstance(effect, RemoveVisitor) for effect in bench.effects)


@pytest.mark.parametrize("end", ["deregistered", "over"])
def test_its_home_address_is_free_when_the_visit_has_ended(end: str) -> None:
    bench = Bench()
    bench.register(home_agent=STRANGER, mac=OTHER_MAC)
    assert bench.denial(request(identification())) == 66
    if end == "over":
        bench.tick(301)
    else:
        bench.register(home_agent=STRANGER, mac=OTHER_MAC, lifetime=0)
    bench.register()
    assert visitor_of(bench) == (MAC, HOME_AGENT)


def test_a_node_that_proves_itself_takes_its_home_address_back_rfc5944_3_5_3() -> None:
    shared: dict[int, AssociationSet] = {}
    bench = Bench(mobile_nodes=lambda home, _nai: shared.get(home))
    bench.register(home_agent=STRANGER, mac=OTHER_MAC)
    shared[NODE] = MOBILE_FOREIGN
    number = identification()
    bench.ask(sign_mobile_foreign(request(number)))
    bench.answer(reply(number))
    assert visitor_of(bench) == (MAC, HOME_AGENT)


def test_the_proof_of_one_node_takes_nothing_of_another() -> None:
    bench = Bench(mobile_nodes=lambda _home, nai: MOBILE_FOREIGN if nai else None)
    bench.register()
    number = identification()
    data = request(number, home_address=0, home_agent=STRANGER, before=NAI)
    bench.ask(sign_mobile_foreign(data), mac=OTHER_MAC, source=Endpoint(0, 434))
    bench.answer(reply(number, home_agent=STRANGER, before=NAI), source=STRANGER)
    assert visitor_of(bench) == (MAC, HOME_AGENT)


def test_a_home_agent_that_proves_itself_takes_its_node_s_address_back_rfc5944_3_5_4() -> None:
    bench = Bench(home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    bench.register(home_agent=STRANGER, mac=OTHER_MAC)
    number = identification()
    bench.ask(request(number))
    inner = reply(number)
    bench.answer(inner)  # anybody could have sent it
    assert visitor_of(bench) == (OTHER_MAC, STRANGER)
    bench.tick(2)
    number = identification()
    bench.ask(request(number))
    bench.answer(sign_foreign_home(reply(number)))
    assert visitor_of(bench) == (MAC, HOME_AGENT)
    assert bench.denial(request(identification(), home_agent=STRANGER), mac=OTHER_MAC) == 66


def test_the_same_home_agent_moves_its_node_to_another_interface() -> None:
    bench = Bench()
    bench.register()
    bench.register(mac=OTHER_MAC)
    assert visitor_of(bench) == (OTHER_MAC, HOME_AGENT)


def test_a_host_of_our_link_is_nobody_s_visitor_when_a_home_agent_says_so() -> None:
    on_link = ForeignLink(LINK, AGENT, (AGENT,), (Prefix(AGENT, 24),))
    bench = Bench(links=(on_link,))
    number = identification()
    bench.ask(request(number, home_address=0, home_agent=STRANGER, before=NAI))
    answer = reply(number, home_address=AGENT + 7, home_agent=STRANGER, before=NAI)
    [passed] = bench.answer(answer, source=STRANGER)
    assert passed.data == answer + b"\x2d\x02\x00\x41"
    assert not bench.installed


# what was overheard -------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"mac": OTHER_MAC}, {"interface": "air1"}])
@pytest.mark.parametrize("state", ["pending", "installing", "visitor"])
@pytest.mark.parametrize("home_address", [NODE, 0])
def test_an_overheard_request_moves_nobody_s_packets(
    how: dict[str, Any], state: str, home_address: int
) -> None:
    links = tuple(ForeignLink(name, AGENT, (AGENT,)) for name in (LINK, "air1"))
    bench = Bench(links=links)
    number = identification()
    data = request(number, home_address=home_address, before=NAI)
    bench.ask(data)
    waiting: list[Effect] = []
    if state == "visitor":
        bench.answer(reply(number, before=NAI))
    elif state == "installing":
        arrived = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(AGENT, 434), "core0", None, 60)
        waiting = bench.agent.receive_datagram(reply(number, before=NAI), arrived, bench.now)
    assert bench.ask(data, **how) == []
    assert bench.count("faRegRequestsReplayed") == 1
    bench.run(waiting)
    bench.answer(reply(number, before=NAI))
    assert visitor_of(bench) == (MAC, HOME_AGENT)
    assert {effect.mac for effect in bench.installed} == {MAC}


def test_the_node_itself_may_repeat_what_was_accepted() -> None:
    bench = Bench()
    number = identification()
    for _ in range(2):
        [relayed] = bench.ask(request(number))
        assert relayed.destination == Endpoint(HOME_AGENT, 434)
        [passed] = bench.answer(reply(number))
        assert (passed.destination, passed.mac) == (FROM_NODE, MAC)


def test_one_identification_of_two_home_agents_is_no_replay() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    other = request(number, home_address=NODE + 1, home_agent=HOME_AGENT_2)
    assert len(bench.ask(other, mac=OTHER_MAC)) == 1


# how much it gets ---------------------------------------------------------------------------


def test_a_denial_passed_on_is_no_larger_than_its_request() -> None:
    bench = Bench()
    for extra, passes in ((b"", True), (short(200, b"larger"), False)):
        number = identification()
        data = request(number)
        bench.ask(data)
        sent = bench.answer(reply(number, code=133, before=extra))
        assert bool(sent) is passes
        assert all(len(message.data) <= len(data) for message in sent)
    assert bench.count("faRegRepliesWithheld") == 1
    assert bench.count("faPendingRequests") == 0


def test_a_home_agent_that_proves_itself_denies_at_any_length() -> None:
    bench = Bench(home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    number = identification()
    bench.ask(request(number))
    denial = reply(number, code=133, before=short(200, b"larger"))
    [passed] = bench.answer(sign_foreign_home(denial))
    assert passed.data == denial

    number = identification()
    bench.ask(request(number))
    assert bench.answer(reply(number, code=133, before=short(200, b"larger"))) == []


def test_nobody_floods_a_home_agent_through_us() -> None:
    bench = Bench(mobile_nodes=lambda home, _nai: MOBILE_FOREIGN if home == NODE + 9 else None)
    for _ in range(100):
        bench.ask(request(identification()))
    assert bench.count("faRegRequestsRelayed") == 20
    assert bench.count("faInsufficientResource") == 80
    assert len(bench.ask(request(identification()), mac=OTHER_MAC)) == 1
    known = request(identification(), home_address=NODE + 9)
    assert bench.ask(sign_mobile_foreign(known))[0].destination.port == 434
    bench.tick(1.1)
    assert bench.ask(request(identification()))[0].destination == Endpoint(HOME_AGENT, 434)


def test_requests_under_a_node_s_link_layer_address_take_no_room_from_it() -> None:
    """Neither from a visitor, nor from one that proves itself; from a stranger they do."""
    known, stranger = NODE + 9, NODE + 10
    bench = Bench(mobile_nodes=lambda home, _nai: MOBILE_FOREIGN if home == known else None)
    bench.register()
    for number in range(5):
        bench.ask(request(identification(), home_address=NODE + 100 + number))
    assert bench.count("faPendingRequests") == 5
    assert bench.ask(request(identification(), home_address=stranger))[0].data[1] == 66
    assert len(bench.register()) == 1
    [relayed] = bench.ask(sign_mobile_foreign(request(identification(), home_address=known)))
    assert relayed.destination == Endpoint(HOME_AGENT, 434)


def test_what_a_home_agent_accepted_is_passed_on_whatever_its_size() -> None:
    bench = Bench()
    number = identification()
    bench.ask(request(number))
    answer = reply(number, before=short(200, bytes(100)))
    assert bench.answer(answer)[0].data == answer


# revocation that was never offered ----------------------------------------------------------


def test_where_we_cannot_sign_nothing_can_be_revoked_rfc3543_4_2_1() -> None:
    """An association for what comes in alone: our offer would go unsigned, so none is made."""
    inbound = AssociationSet(
        [SecurityAssociation(0x300, bytes(range(100, 116)), direction=Direction.INBOUND)]
    )
    policy: dict[str, Any] = {
        "has_revocation": True,
        "home_agent_associations": {HOME_AGENT: inbound}.get,
    }
    assert Bench(**policy, requires_revocation=True).denial(request(identification())) == 65
    bench = Bench(**policy)
    number = identification()
    bench.ask(request(number))
    bench.answer(reply(number) + short(137, bytes(6)))
    assert bench.agent.visitor(NODE) is None, "the reply must be proven all the same"
    assert bench.count("faHAAuthenticationFailure") == 1


def test_a_policy_that_changes_meanwhile_believes_no_unproven_support_rfc3543_3_2() -> None:
    bench = Bench(has_revocation=False, home_agent_associations={}.get)
    number = identification()
    bench.ask(request(number))
    bench.agent.set_policy(
        Bench(
            has_revocation=True,
            requires_revocation=True,
            home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get,
        ).policy,
        bench.now,
    )
    inner = reply(number)
    [passed] = bench.answer(inner + short(137, bytes(6)))
    assert passed.data == inner + b"\x2d\x02\x00\x41"
    assert not bench.installed
