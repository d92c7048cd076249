"""docs/observing.md, the dashboard and the alert rules name metrics that exist, and only those."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from fastmip import _dataplane
from fastmip.agents.foreign_counters import FOREIGN_COUNTERS
from fastmip.agents.home_counters import HOME_COUNTERS
from fastmip.agents.mobile_counters import MOBILE_COUNTERS
from fastmip.runtime.engine_view import Observed
from fastmip.runtime.metrics import GAUGE_NAMES, DaemonCollector, metric_name
from fastmip.runtime.packet_filter import PROTOCOLS
from fastmip.runtime.taps import MAX_TRACED, RING_BYTES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "observing.md").read_text()
DASHBOARD = ROOT / "deploy" / "grafana" / "fastmip.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
FUNCTIONS = {"sum", "by", "rate", "changes", "up", "humanize"}


def families() -> dict[str, set[str]]:
    """Sample name -> labels, of a daemon with every counter."""
    counters = dict.fromkeys(
        [*HOME_COUNTERS, *FOREIGN_COUNTERS, *MOBILE_COUNTERS, "io-home-read"], 0
    )
    engine = _dataplane.Engine(max_bindings=16)
    observed = Observed(engine, counters, frozenset(GAUGE_NAMES), {"tunnel": 0})
    found = {}
    for family in DaemonCollector(lambda: {"home-agent": observed}, time.monotonic()).collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = {label for sample in family.samples for label in sample.labels}
    return found


MIB = {f"{metric_name(n)}_total" for n in (*HOME_COUNTERS, *FOREIGN_COUNTERS, *MOBILE_COUNTERS)}


def test_every_metric_is_documented_with_its_labels() -> None:
    rows = re.findall(r"^\| `(\w+)`(?: and so on)? \| (.*?) \|", PAGE, re.M)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    metrics = {n: labels for n, labels in documented.items() if n.startswith("fastmip_")}
    known = families()
    assert set(metrics) - MIB == set(known) - MIB
    for name, labels in metrics.items():
        # A worker's labels are there once it has a port.
        assert known[name] in (labels, set()), name


def names_in(expression: str) -> set[str]:
    """Metrics of a query, its label values and functions left out."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(?:by|on|without) \([^)]*\)", "", bare)
    return set(re.findall(r"\b(?:fastmip|process)_\w+", bare))


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    known = set(families()) | PROCESS
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers) > 8
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            assert expression.count("(") == expression.count(")"), expression
            assert '=~"$instance"' in expression
            named = names_in(expression)
            assert named <= known, f"{panel['title']}: {named - known}"
            pattern = re.search(r'__name__=~"(.*?)"', expression)
            assert named or pattern is not None
            if pattern is not None:
                words = re.search(r"\((.*)\)", pattern[1])
                assert words is not None
                chosen = {f"fastmip_ha{word}_total" for word in words[1].split("|")}
                assert chosen <= known, chosen - known


def test_alert_rules_ask_for_metrics_that_exist() -> None:
    text = ALERTS.read_text()
    rules = re.findall(r"- alert: (\w+)\n +expr: (.*)\n", text)
    assert len(rules) == text.count("- alert:") > 5
    assert len({name for name, _ in rules}) == len(rules)
    known = set(families()) | PROCESS
    for name, expression in rules:
        assert names_in(expression) <= known, name
        assert expression.count("(") == expression.count(")"), name
    assert text.count("summary:") == text.count("severity: critical") + text.count(
        "severity: warning"
    )


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_protocol_of_a_filter_is_documented(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_bounds_are_those_of_the_code() -> None:
    assert f"the last {MAX_TRACED} packets" in PAGE
    assert f"a ring of {RING_BYTES >> 20} MiB" in PAGE
    for point in _dataplane.TAP_POINT_NAMES:
        assert f"\n| `{point}` | " in PAGE
