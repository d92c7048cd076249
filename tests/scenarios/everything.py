"""All scenarios."""

from __future__ import annotations

from collections.abc import Callable

from tests.scenarios.catalogue import Scenario, forwarding, refusing, too_big
from tests.scenarios.encapsulations import encapsulations, foreign_agents

SECTIONS: list[Callable[[], list[Scenario]]] = [
    forwarding,
    refusing,
    too_big,
    encapsulations,
    foreign_agents,
]


def scenarios() -> list[Scenario]:
    """Section by section."""
    return [scenario for section in SECTIONS for scenario in section()]
