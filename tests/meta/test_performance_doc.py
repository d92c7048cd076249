"""docs/performance.md names benchmarks that exist, and every one that is to stay stable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench.run import discover

PAGE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
NAMES = set(
    re.findall(r"`((?:engine|egress|esp|wire|ref|tcp|control|store|agent|workers)\.[\w.]+)`", PAGE)
)
STABLE = [
    *(f"engine.lookup.{size}" for size in ("1k", "100k", "1M", "10M")),
    *(f"engine.{way}.{size}" for way in ("encap", "decap") for size in ("64", "576")),
    *(f"engine.encap.64.{kind}" for kind in ("gre", "minimal", "udp")),
    *(f"engine.decap.64.{kind}" for kind in ("gre", "minimal", "udp")),
    *("engine.encap.64.cold", "engine.encap.64.1M", "engine.bytes_per_binding"),
    *(f"ref.{name}.{size}" for name in ("lwt_bpf", "ip_forward") for size in ("64", "1400")),
    *(f"esp.{way}.{size}" for way in ("seal", "open") for size in ("64", "1400")),
    *("wire.kernel.64", "wire.kernel.1400", "egress.lookup", "workers.2"),
    *("control.registrations", "control.registration_p99", "control.storm.100k"),
    *("store.restart.1M", "store.rss_per_binding"),
]


@pytest.mark.parametrize("name", STABLE)
def test_figures_scripts_rely_on_are_on_the_page(name: str) -> None:
    assert name in NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_figure_on_the_page_has_a_benchmark(name: str) -> None:
    """A group of the runner is the name itself or a dotted beginning of it."""
    groups = discover()
    assert any(f"{name}.".startswith(f"{group}.") for group in groups), sorted(groups)
