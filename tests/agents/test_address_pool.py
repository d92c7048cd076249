"""Pools of home addresses: by themselves, beside a model, and at the home agent (RFC 2794)."""

from __future__ import annotations

import struct

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.agents.home_lab import (
    CARE_OF,
    NODE,
    SECOND,
    Lab,
    associations,
    codes,
    only_reply,
)

from fastmip.agents.address_pool import HOLD_S, AddressPools, Pool
from fastmip.agents.effects import CommitOutcome
from fastmip.agents.hosts import Host

HOLD_NS = HOLD_S * SECOND
FIRST = 0x0A010014
NAMES = (b"a@wustl.edu", b"b@wustl.edu", b"c@wustl.edu")
POOL = Pool("nodes", FIRST, FIRST + 1)


def lab_with(*pools: Pool) -> Lab:
    unassigned = {name: Host(0, associations(), nai=name) for name in NAMES}
    return Lab(pools=pools, unassigned=unassigned)


def nai(name: bytes) -> bytes:
    return struct.pack("!BB", 131, len(name)) + name


def register(lab: Lab, name: bytes, *, lifetime: int = 300, home_address: int = 0) -> list[int]:
    """Codes and home addresses of the replies, in turn."""
    lab.pass_time(2)
    data = lab.request(home_address=home_address, lifetime=lifetime, extensions=nai(name))
    effects = lab.send(data)
    if not codes(effects):
        return []
    reply = only_reply(effects).data
    return [reply[1], int.from_bytes(reply[4:8])]


def leave(lab: Lab, name: bytes, home_address: int) -> None:
    assert register(lab, name, lifetime=0, home_address=home_address) == [0, home_address]


# by themselves --------------------------------------------------------------------------------


def test_a_realm_has_its_pool_and_others_have_none() -> None:
    pools = AddressPools([Pool("edu", FIRST, FIRST, (b"wustl.edu",)), Pool("all", 50, 50)])
    idle = {"is_idle": lambda _address: True}
    assert pools.assign(b"x@WUSTL.EDU", 0, **idle) == FIRST
    assert pools.assign(b"y@elsewhere.net", 0, **idle) == 50
    assert pools.assign(b"z@elsewhere.net", 0, **idle) is None


def test_what_is_reserved_or_another_hosts_is_never_given() -> None:
    pools = AddressPools(
        [Pool("nodes", 10, 14)], reserved=[10, 14], is_configured=lambda address: address == 12
    )
    given = [pools.assign(name, 0, lambda _address: True) for name in NAMES]
    assert given == [11, 13, None]


def test_other_pools_take_back_what_does_not_lie_in_them() -> None:
    pools = AddressPools([Pool("nodes", 10, 11)])
    assert [pools.assign(name, 0, lambda _address: True) for name in NAMES[:2]] == [10, 11]
    assert pools.set_pools([Pool("nodes", 11, 12)]) == [10]
    assert pools.owner(10) is None
    assert pools.assign(NAMES[0], 0, lambda _address: True) == 12


class Pools(RuleBasedStateMachine):
    """Ten names, two pools of two; what the store has is what a restart finds."""

    @initialize()
    def start(self) -> None:
        self.now_ns = HOLD_NS
        self.stored: dict[int, bytes] = {}
        self.bound: dict[int, bytes] = {}
        self.promised: dict[bytes, int] = {}
        self.begin()

    def begin(self) -> None:
        self.pools = AddressPools(
            [Pool("edu", 10, 13, (b"edu",)), Pool("all", 20, 22)],
            reserved=[13],
            is_configured=lambda address: address == 21,
        )
        self.pools.restore(self.stored.items(), self.now_ns)

    def is_idle(self, address: int) -> bool:
        return address not in self.bound

    @rule(number=st.integers(0, 9), commits=st.booleans(), stays=st.booleans())
    def register(self, number: int, commits: bool, stays: bool) -> None:
        name = b"%d@%s" % (number, b"edu" if number % 2 else b"net")
        others = {at for at, owner in self.pools.addresses() if owner != name}
        had = self.promised.get(name)
        address = self.pools.assign(name, self.now_ns, self.is_idle)
        if address is None:
            usable = {20, 22} | ({10, 11, 12} if number % 2 else set())
            assert usable <= others
            return
        assert address in (10, 11, 12, 20, 22)
        assert address < 20 or number % 2 or address in (20, 22)
        if had is not None:
            assert address == had, "the address does not stay with its node"
        if address in others:
            assert address not in self.bound
            self.promised = {n: at for n, at in self.promised.items() if at != address}
        if not commits:
            return
        kept = self.pools.unsaved(address)
        if kept:
            rest = {at: owner for at, owner in self.stored.items() if owner != kept}
            self.stored = {**rest, address: kept}
        self.pools.saved(address, self.now_ns)
        self.promised = {n: at for n, at in self.promised.items() if at != address}
        self.promised[name] = address
        self.bound.pop(address, None)
        if stays:
            self.bound[address] = name

    @rule(seconds=st.sampled_from([1, HOLD_S, 2 * HOLD_S]))
    def wait(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND

    @rule(address=st.sampled_from([10, 11, 12, 20, 22]))
    def expire(self, address: int) -> None:
        self.bound.pop(address, None)

    @rule()
    def restart(self) -> None:
        self.begin()

    @invariant()
    def nobody_shares(self) -> None:
        given = self.pools.addresses()
        assert len({at for at, _ in given}) == len({name for _, name in given}) == len(given)
        for address, name in self.bound.items():
            assert self.pools.owner(address) == name == self.stored[address]
        self.promised = {
            name: at for name, at in self.promised.items() if self.pools.owner(at) == name
        }


TestPools = Pools.TestCase
TestPools.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


# at the home agent ----------------------------------------------------------------------------


def test_an_address_stays_with_its_node_after_deregistration_expiry_and_restart() -> None:
    lab = lab_with(POOL)
    assert register(lab, NAMES[0]) == [0, FIRST]
    assert lab.kept == {FIRST: NAMES[0]}
    assert lab.care_of_addresses(FIRST) == [CARE_OF]
    assert register(lab, NAMES[0], home_address=FIRST) == [0, FIRST]
    leave(lab, NAMES[0], FIRST)
    assert register(lab, NAMES[1]) == [0, FIRST + 1]
    lab.pass_time(400)
    lab.start()
    assert register(lab, NAMES[1]) == [0, FIRST + 1]
    assert register(lab, NAMES[0]) == [0, FIRST]
    assert lab.count("haHomeAddressesAssigned") == 2


def test_an_exhausted_pool_denies_with_130_until_an_address_rests() -> None:
    lab = lab_with(POOL)
    assert register(lab, NAMES[0]) == [0, FIRST]
    assert register(lab, NAMES[1]) == [0, FIRST + 1]
    lab.pass_time(HOLD_S)
    assert register(lab, NAMES[2]) == [130, 0]
    assert lab.count("haHomeAddressesExhausted") == 1
    leave(lab, NAMES[0], FIRST)
    assert register(lab, NAMES[2]) == [130, 0]
    lab.pass_time(HOLD_S)
    assert register(lab, NAMES[2]) == [0, FIRST]
    assert lab.kept == {FIRST: NAMES[2], FIRST + 1: NAMES[1]}
    assert lab.count("haHomeAddressesTakenBack") == 1
    assert register(lab, NAMES[0], home_address=FIRST) == []
    assert lab.count("haUnknownHomeAddress") == 1


def test_nothing_is_told_before_it_is_durable() -> None:
    lab = lab_with(POOL)
    lab.outcome = CommitOutcome.STORE_FAILED
    assert register(lab, NAMES[0])[0] == 130
    assert lab.kept == {}
    lab.outcome = CommitOutcome.COMMITTED
    assert register(lab, NAMES[1]) == [0, FIRST + 1]
    assert register(lab, NAMES[0]) == [0, FIRST]
    assert lab.kept == {FIRST + 1: NAMES[1], FIRST: NAMES[0]}


def test_a_pool_around_a_configured_host_passes_it_over() -> None:
    lab = lab_with(Pool("nodes", NODE, NODE + 2))
    assert [register(lab, name) for name in NAMES[:2]] == [[0, NODE + 2], [130, 0]]


def test_a_wrong_authenticator_takes_no_address() -> None:
    lab = lab_with(POOL)
    data = lab.request(home_address=0, key=bytes(16), extensions=nai(NAMES[0]))
    assert lab.send(data) == [] or lab.addresses.addresses() == []
    assert lab.addresses.addresses() == []
