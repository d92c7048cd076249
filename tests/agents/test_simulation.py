"""Home agent and mobile nodes against each other: weeks of it, over dreadful networks.

Every simulation is watched by ``tests.helpers.invariants`` after every event.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.helpers.invariants import Watch
from tests.helpers.simulation import (
    DREADFUL,
    HOUR,
    MINUTE,
    PERFECT,
    SECOND,
    WEEK,
    Conditions,
    HomeSite,
    MobileSite,
    Network,
    Simulation,
)

from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix
from fastmip.agents.mobile_state import MobileNodeSettings, State
from fastmip.auth.associations import Algorithm, AssociationSet, ReplayStyle, SecurityAssociation
from fastmip.wire.addresses import parse_address

HOME_AGENT = parse_address("10.1.0.1")
HOME_NETWORK = Prefix(parse_address("10.1.0.0"), 24)
FIRST_NODE = parse_address("10.1.0.5")
LEASE = parse_address("10.1.0.205")
GATEWAYS = {place: parse_address(f"10.3.{place}.254") for place in (1, 2, 3)}


@dataclass
class Lab:
    """One home agent, some mobile nodes, a network and the watch."""

    simulation: Simulation
    network: Network
    home: HomeSite
    mobiles: list[MobileSite]
    watch: Watch

    @property
    def mobile(self) -> MobileSite:
        """The only one, or the first."""
        return self.mobiles[0]

    def all_settled(self) -> bool:
        """Whether every mobile node is where it believes to be."""
        return all(self.watch.settled(mobile) for mobile in self.mobiles)


def associations(number: int, style: ReplayStyle) -> AssociationSet:
    key = bytes(range(number, number + 32))
    return AssociationSet([SecurityAssociation(0x100 + number, key, Algorithm.HMAC_SHA256, style)])


def lab(
    seed: int = 1,
    *,
    nodes: int = 1,
    conditions: Conditions = PERFECT,
    style: ReplayStyle = ReplayStyle.TIMESTAMPS,
    lifetime_s: int = 300,
) -> Lab:
    simulation = Simulation(seed)
    network = Network(simulation, conditions)
    policy = HomeAgentPolicy(HOME_AGENT, HOME_NETWORK, "home0")
    shared = {FIRST_NODE + n: associations(n, style) for n in range(nodes)}
    home = HomeSite(network, policy, [Host(address, set_) for address, set_ in shared.items()])
    mobiles = [
        MobileSite(
            network,
            MobileNodeSettings(address, HOME_NETWORK, HOME_AGENT, ("eth0", "eth1"), lifetime_s),
            set_,
        )
        for address, set_ in shared.items()
    ]
    return Lab(simulation, network, home, mobiles, Watch(network, home, mobiles))


def visit(mobile: MobileSite, place: int, interface: str = "eth0") -> int:
    """Attach to a foreign link; returns the care-of address."""
    address = GATEWAYS[place] - 250 + (mobile.home_address & 0x3F) + 64 * (interface == "eth1")
    mobile.attach(interface, address, GATEWAYS[place])
    return address


def come_home(mobile: MobileSite, interface: str = "eth0") -> None:
    mobile.attach(interface, LEASE + (mobile.home_address & 0xF), HOME_AGENT)


def roam(made: Lab, mobile: MobileSite) -> None:
    """Do one random thing to a mobile node."""
    dice = made.simulation.dice
    interface = dice.choice(("eth0", "eth1"))
    match dice.randrange(6):
        case 0:
            mobile.detach(interface)
        case 1:
            come_home(mobile, interface)
        case _:
            visit(mobile, dice.randint(1, 3), interface)


def rest(made: Lab, limit_s: int = 200) -> None:
    """Heal the network, put every node on one foreign link, and wait for agreement."""
    made.network.conditions = PERFECT
    made.home.fate.engine_full = made.home.fate.store_failed = 0.0
    for mobile in made.mobiles:
        mobile.detach("eth1")
        visit(mobile, 1)
    made.simulation.run_until(made.all_settled, limit_s * SECOND)


def test_a_week_away_over_a_perfect_network() -> None:
    made = lab(lifetime_s=1800)
    care_of = visit(made.mobile, 1)
    made.simulation.run_until(made.all_settled, SECOND)
    registrations = 0
    for _ in range(7 * 24):
        made.simulation.run_for(HOUR)
        assert made.watch.settled(made.mobile)
        registrations = made.watch.codes[0]
    (tunnel,) = made.home.live(FIRST_NODE)
    assert tunnel.remote == care_of
    assert made.watch.codes == {0: registrations}
    # Lifetime 1800 s, refreshed a tenth before its end.
    assert registrations == pytest.approx(WEEK / SECOND / 1620, rel=0.02)
    assert made.home.violations == made.mobile.world.violations == []


STYLES = [ReplayStyle.TIMESTAMPS, ReplayStyle.NONCES]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(6))
def test_roaming_over_a_dreadful_network_ends_in_agreement(seed: int, style: ReplayStyle) -> None:
    made = lab(seed, nodes=3, conditions=DREADFUL, style=style)
    dice = made.simulation.dice
    made.home.fate.engine_full = made.home.fate.store_failed = 0.05
    for _ in range(150):
        roam(made, dice.choice(made.mobiles))
        made.simulation.run_for(dice.randint(0, 10 * MINUTE))
    rest(made)
    assert made.watch.codes[0] > 100


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(6))
def test_crashes_of_the_home_agent_lose_no_acknowledged_binding(
    seed: int, style: ReplayStyle
) -> None:
    made = lab(seed, nodes=3, conditions=DREADFUL, style=style)
    dice = made.simulation.dice
    for _ in range(100):
        roam(made, dice.choice(made.mobiles))
        made.simulation.run_for(dice.randint(0, 30 * SECOND))
        made.home.crash()
        made.simulation.run_for(dice.randint(0, 3 * SECOND))
        made.home.start()
        made.simulation.run_for(dice.randint(0, MINUTE))
    rest(made)
