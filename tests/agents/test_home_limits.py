"""What strangers and storms can cost: rate limits, bounded memory (SEC-20)."""

from __future__ import annotations

import tracemalloc

from tests.agents.home_lab import (
    CARE_OF,
    NODE,
    OTHER,
    OTHER_KEY,
    Lab,
    associations,
    codes,
    datagrams,
    sign,
    unsigned_request,
)

from fastmip.agents.effects import CommitOutcome, Violation
from fastmip.agents.hosts import Host


def many_hosts(lab: Lab, count: int) -> list[int]:
    """Configure so many mobile nodes."""
    shared = associations()
    addresses = [0x0B000000 + index for index in range(count)]
    for address in addresses:
        lab.hosts[address] = Host(address, shared)
    return addresses


def test_a_node_gets_one_denial_a_second() -> None:
    lab = Lab()
    sent = 0
    for _ in range(40):
        sent += len(datagrams(lab.send(lab.request(home_agent=0))))
        lab.pass_time(0.1)
    assert sent == 4
    assert lab.count("haUnknownHA") == 40
    assert lab.count("haRepliesSuppressed") == 36


def test_denials_to_one_node_do_not_silence_another() -> None:
    lab = Lab()
    assert codes(lab.send(lab.request(home_agent=0))) == [136]
    assert codes(lab.send(lab.request(home_agent=0, home_address=OTHER))) == [136]


def test_denials_do_not_delay_an_acceptance() -> None:
    lab = Lab()
    lab.send(lab.request(home_agent=0))
    assert codes(lab.send(lab.request(home_agent=0))) == []
    assert codes(lab.send(lab.request())) == [0]


def test_denials_have_a_global_cap() -> None:
    lab = Lab()
    lab.set_policy(denials_per_second=10)
    addresses = many_hosts(lab, 50)
    sent = [codes(lab.send(lab.request(home_agent=0, home_address=a))) for a in addresses]
    assert sent.count([136]) == 10
    lab.pass_time(1)
    assert codes(lab.send(lab.request(home_agent=0, home_address=addresses[40]))) == [136]


def test_repeated_answers_are_limited_like_denials() -> None:
    lab = Lab()
    data = lab.request()
    lab.send(data)
    assert codes(lab.send(data)) == [0]
    assert codes(lab.send(data)) == []
    lab.pass_time(1)
    assert codes(lab.send(data)) == [0]


def test_130_of_a_failing_store_is_limited_too() -> None:
    lab = Lab(outcome=CommitOutcome.STORE_FAILED)
    assert codes(lab.send(lab.request())) == [130]
    assert codes(lab.send(lab.request(at=lab.wall_s + 0.1))) == []


def test_bindings_have_a_limit_and_refreshes_do_not_count() -> None:
    lab = Lab()
    lab.set_policy(max_bindings=1)
    assert codes(lab.send(lab.request())) == [0]
    assert codes(lab.send(lab.request(home_address=OTHER))) == [130]
    lab.pass_time(1)
    assert codes(lab.send(lab.request())) == [0]
    lab.pass_time(1)
    lab.send(lab.request(lifetime=0, care_of=NODE), lab.arrival(NODE))
    assert codes(lab.send(lab.request(home_address=OTHER))) == [0]


def test_expired_bindings_make_room() -> None:
    lab = Lab()
    lab.set_policy(max_bindings=1)
    lab.send(lab.request(lifetime=5))
    lab.pass_time(5)
    assert lab.count("haBindings") == 0
    assert lab.count("haBindingsExpired") == 1
    assert codes(lab.send(lab.request(home_address=OTHER))) == [0]


def test_new_bindings_have_a_rate_limit_and_refreshes_do_not_count() -> None:
    lab = Lab()
    lab.set_policy(max_bindings_per_second=5)
    addresses = many_hosts(lab, 20)
    answers = [codes(lab.send(lab.request(home_address=a))) for a in addresses]
    assert answers.count([0]) == 5
    assert answers.count([130]) == 15
    lab.pass_time(1.01)
    assert [codes(lab.send(lab.request(home_address=a))) for a in addresses[:5]] == [[0]] * 5
    assert codes(lab.send(lab.request(home_address=addresses[9]))) == [0]


def test_violations_are_limited_but_counted() -> None:
    lab = Lab()
    lab.set_policy(reports_per_second=3)
    bad = lab.request(key=OTHER_KEY)
    reported = [e for _ in range(10) for e in lab.send(bad) if isinstance(e, Violation)]
    assert len(reported) == 3
    assert lab.count("haBadAuthenticator") == 10
    assert lab.count("haViolationsSuppressed") == 7
    violation = reported[0]
    assert (violation.home_address, violation.peer, violation.spi) == (NODE, CARE_OF, 0x100)


def test_flood_from_unknown_home_addresses_allocates_and_loads_nothing_sec20() -> None:
    lab = Lab()
    floods = [
        sign(unsigned_request(1, home_address=0xC0000000 + index), OTHER_KEY)
        for index in range(3000)
    ]
    lab.receive(floods[0])
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for data in floods:
        assert lab.receive(data) == []
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4096
    assert lab.loads == 0
    assert lab.count("haCachedNodes") == 0
    assert codes(lab.send(lab.request())) == [0]


def test_forged_requests_for_known_nodes_load_nothing_sec20() -> None:
    lab = Lab()
    for address in many_hosts(lab, 500):
        lab.receive(lab.request(home_address=address, key=OTHER_KEY))
    assert lab.loads == 0
    assert lab.count("haCachedNodes") == 0


def test_nodes_in_memory_are_bounded_and_none_is_forgotten() -> None:
    lab = Lab(cache_nodes=100)
    addresses = many_hosts(lab, 1000)
    for address in addresses:
        assert codes(lab.send(lab.request(home_address=address))) == [0]
    assert lab.count("haCachedNodes") == 100
    assert lab.count("haBindings") == 1000
    first = lab.request(home_address=addresses[0], at=lab.wall_s - 1)
    assert codes(lab.send(first)) == [133]
    lab.pass_time(299)
    assert len(lab.tunnels) == 1000
    lab.pass_time(1)
    assert lab.tunnels == {}
    assert lab.count("haBindings") == 0


def test_busy_nodes_are_not_evicted() -> None:
    lab = Lab(cache_nodes=16)
    (commit,) = lab.receive(lab.request())
    for address in many_hosts(lab, 100):
        lab.send(lab.request(home_address=address))
    assert lab.count("haCachedNodes") == 16
    assert lab.receive(lab.request(at=lab.wall_s + 1)) == []  # held, not begun a second time
    assert codes(lab.carry_out([commit])) == [0, 0]
