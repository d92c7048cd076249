"""Ten thousand mobile routers that refresh every half minute, as routers on sale do.

A round is half a minute of simulated time. ``FASTMIP_ROUTER_ROUNDS=120`` is the whole hour, about
five minutes; every run has a few rounds, with all that can happen in each: routers fall silent,
come back elsewhere, deregister, ask for what is another's, the operator clears bindings, commits
fail, the home agent is killed and restarted.
"""

from __future__ import annotations

import os
import random
import struct
from dataclasses import dataclass, field

from tests.agents.home_lab import HOME_AGENT, SECOND, D, Lab, T, associations, ntp, sign

from fastmip.agents.effects import CommitOutcome, SendDatagram
from fastmip.agents.hosts import Host, NetworkPolicy, Prefix

ROUTERS = 10_000
ROUNDS = int(os.environ.get("FASTMIP_ROUTER_ROUNDS", "3"))
REFRESH_S = 30
STEPS = 10
"""Parts of a round; timers run between them."""
LIFETIME_S = 65534
FIRST_HOME = 0x0A010010
FIRST_CARE_OF = 0x64400001
POOL = (0x0A800000, 10)


@dataclass(slots=True)
class Router:
    """What the simulation knows of a router: nothing of the home agent's own books."""

    home_address: int
    networks: tuple[tuple[int, int], ...]
    dynamic: bool
    care_of: int
    max_lifetime_s: int
    is_on: bool = True
    ends_ns: int = 0
    """When its binding ends; 0: none."""
    granted: set[tuple[int, int]] = field(default_factory=set)


def network_of(number: int) -> tuple[int, int]:
    """A network of its own for each; of every tenth the one before is a spare router."""
    return (0x0B000000 + (number - (number % 10 == 1)) * 256, 24)


class Country:
    """A home agent with its routers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a simulation
        self.routers = [
            Router(
                FIRST_HOME + n,
                (network_of(n),),
                n % 5 == 0,
                FIRST_CARE_OF + n,
                40 if n % 4 == 0 else LIFETIME_S,
            )
            for n in range(ROUTERS)
        ]
        shared = associations()
        self.lab = Lab(
            hosts={
                r.home_address: Host(
                    r.home_address,
                    shared,
                    r.max_lifetime_s,
                    networks=r.networks,
                    dynamic_networks=int(r.dynamic),
                )
                for r in self.routers
            }
        )
        self.lab.set_policy(
            home_network=Prefix(0x0A010000, 16),
            max_lifetime_s=LIFETIME_S,
            networks=NetworkPolicy((POOL,), 28, 26),
            denials_per_second=1_000_000,
        )
        self.registered = self.denied = 0

    def refresh(self, router: Router) -> None:
        """A registration with everything the router wants, and what came of it."""
        chance = self.random.random()
        lifetime, networks = LIFETIME_S, list(router.networks)
        if router.dynamic:
            networks.append((0, 0))
        if chance < 0.01:
            lifetime = 0
        elif chance < 0.02:  # another's, alone
            networks = [network_of(self.random.randrange(ROUTERS))]
        elif chance < 0.05:  # another link
            router.care_of = FIRST_CARE_OF + self.random.randrange(1 << 20)
        care_of = router.care_of if lifetime else router.home_address
        self.lab.outcome = CommitOutcome.COMMITTED
        if chance > 0.99:
            self.lab.outcome = CommitOutcome.STORE_FAILED
        home_address = router.home_address
        message = struct.pack(
            *("!BBHIIIQ", 1, D | T, lifetime, home_address, HOME_AGENT, care_of),
            ntp(self.lab.wall_s),
        )
        for prefix, length in networks:
            message += struct.pack("!BBBBI", 148, 6, 0, length, prefix)
        arrival = self.lab.arrival(care_of)
        for effect in self.lab.send(sign(message), arrival):
            if isinstance(effect, SendDatagram):
                self.hear(router, effect.data, lifetime)
        self.lab.outcome = CommitOutcome.COMMITTED

    def hear(self, router: Router, reply: bytes, asked_s: int) -> None:
        """The reply is all a router knows."""
        code, granted_s = reply[1], int.from_bytes(reply[2:4])
        if code == 0 and not asked_s:
            router.granted, router.ends_ns = set(), 0
            return
        found, at = set(), 20
        while reply[at] == 148:
            _, answer, length, prefix = struct.unpack_from("!BBBxI", reply, at + 2)
            if answer == 0:
                found.add((prefix, length))
            at += 10
        if code == 0:
            assert granted_s == router.max_lifetime_s
            router.granted, router.ends_ns = found, self.lab.boot_ns + granted_s * SECOND
            self.registered += 1
        elif code == 147:
            assert not found
            router.granted = set()
            self.denied += 1
        else:
            assert code == 130

    def round(self) -> None:
        """Half a minute."""
        for step in range(STEPS):
            for router in self.routers[step::STEPS]:
                if self.random.random() < 0.1:
                    router.is_on = not router.is_on
                if router.is_on or not router.ends_ns:
                    self.refresh(router)
            self.lab.pass_time(REFRESH_S / STEPS)
        for router in self.random.sample(self.routers, 20):
            lab = self.lab
            lab.carry_out(lab.agent.clear_binding(router.home_address, lab.now))
            router.granted, router.ends_ns = set(), 0

    def check(self) -> None:
        """Every prefix leads to the router that has it, none overlaps, none survives."""
        expected: dict[tuple[int, int], int] = {}
        for router in self.routers:
            if router.ends_ns <= self.lab.boot_ns:
                router.granted, router.ends_ns = set(), 0
            assert (router.home_address in self.lab.tunnels) == bool(router.ends_ns)
            for network in router.granted:
                assert network not in expected, "two routers were told it is theirs"
                expected[network] = router.home_address
        assert self.lab.prefixes == expected
        end = -1
        for prefix, length in sorted(expected):
            assert prefix > end
            end = prefix + (1 << (32 - length)) - 1
        assert self.lab.count("haMobileNetworks") == len(expected)

    def restart(self) -> None:
        """kill -9: memory is lost, the store stays."""
        before = dict(self.lab.prefixes)
        self.lab.start()
        assert self.lab.prefixes == before
        for router in self.routers:  # what ends from now on is known by the store's rows
            if router.ends_ns:
                (tunnel,) = self.lab.tunnels[router.home_address]
                self.lab.agent._expiry.look_again(router.home_address, tunnel.expires_ns, 0)


def test_prefixes_of_ten_thousand_routers_never_leak_overlap_or_survive() -> None:
    country = Country(seed=5177)
    for number in range(ROUNDS):
        country.round()
        country.check()
        if number % 3 == 1:
            country.restart()
            country.check()
    assert country.registered > ROUNDS * ROUTERS // 3
    assert country.denied > ROUNDS * 50
    country.lab.pass_time(LIFETIME_S + REFRESH_S)
    assert (country.lab.prefixes, country.lab.tunnels) == ({}, {})
