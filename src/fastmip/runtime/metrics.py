"""The daemon's counters as Prometheus metrics.

Names: registration counters keep their MIB names (``fastmip_haRegRequestsReceived_total``);
everything of the engine is labelled by role and by one word of a fixed list: verdict, event,
counter, stage, worker, socket. There is no label whose values grow with nodes or traffic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fastmip import __version__
from fastmip.agents.foreign_counters import FOREIGN_COUNTERS
from fastmip.agents.home_counters import HOME_COUNTERS
from fastmip.agents.mobile_counters import MOBILE_COUNTERS
from fastmip.runtime.engine_view import Observed, all_verdicts, stage_costs

if TYPE_CHECKING:
    from fastmip._dataplane import Engine

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
KEEP_S: Final = 0.5
"""A page this young is given again: however many ask, the daemon makes two a second at most."""
PORT_PREFIX: Final = "io-"
"""Counters of the kernel port among a role's counters: these have a label."""
SENTENCES: Final = {**HOME_COUNTERS, **FOREIGN_COUNTERS, **MOBILE_COUNTERS}
GAUGE_NAMES: Final = {
    "haBindings": "fastmip_bindings",
    "haCachedNodes": "fastmip_cached_nodes",
    "faVisitors": "fastmip_visitors",
    "faPendingRequests": "fastmip_pending_requests",
}

Observe = Callable[[], Mapping[str, Observed]]


class DaemonCollector(Collector):
    """Reads the counters when it is asked."""

    def __init__(self, observe: Observe, started: float) -> None:
        """Take what tells the roles of the moment, and when the daemon began (monotonic)."""
        self._observe = observe
        self._started = started

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: roles may not run yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric of this moment."""
        roles = self._observe()
        info = GaugeMetricFamily("fastmip_info", "Version of the daemon.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily(
            "fastmip_uptime_seconds", "Since the daemon began.", time.monotonic() - self._started
        )
        engines = {role: one.engine for role, one in roles.items()}
        yield from _packets(roles)
        yield from _stages(engines)
        yield from _workers(engines)
        yield from _ports(roles)
        yield from _registrations(roles)


def metric_name(counter: str) -> str:
    """``haRegRequestsReceived`` -> ``fastmip_haRegRequestsReceived``."""
    return "fastmip_" + counter.replace("-", "_")


def _packets(roles: Mapping[str, Observed]) -> Iterator[Metric]:
    from fastmip import _dataplane  # noqa: PLC0415 - only a started role has an engine

    packets = CounterMetricFamily(
        "fastmip_packets",
        "Packets by verdict: docs/counters.md has a sentence for each.",
        labels=["role", "verdict", "severity"],
    )
    octets = CounterMetricFamily(
        "fastmip_packet_bytes", "Bytes of these packets as they came.", labels=["role", "verdict"]
    )
    events = CounterMetricFamily(
        "fastmip_events", "Things worth counting beside the verdict.", labels=["role", "event"]
    )
    inputs = CounterMetricFamily(
        "fastmip_input_packets", "Packets that entered the engine.", labels=["role"]
    )
    bindings = GaugeMetricFamily(
        "fastmip_engine_bindings",
        "Tunnels in the engine; simultaneous bindings count each.",
        labels=["role"],
    )
    severities = {name: severity for name, severity, _ in _dataplane.verdicts()}
    for role, one in roles.items():
        engine = one.engine
        for verdict, (count, size) in all_verdicts(engine, one.offloaded).items():
            severity = severities.get(verdict, "warning")  # what only offload can lose
            packets.add_metric([role, verdict, severity], count)
            octets.add_metric([role, verdict], size)
        for event, count in engine.events().items():
            events.add_metric([role, event], count)
        inputs.add_metric([role], engine.balance()["inputs"])
        bindings.add_metric([role], engine.bindings())
    yield from (packets, octets, events, inputs, bindings)


def _stages(engines: Mapping[str, Engine]) -> Iterator[Metric]:
    labels = ["role", "worker", "stage"]
    calls = CounterMetricFamily(
        "fastmip_stage_calls", "Batches that went through a stage of the engine.", labels=labels
    )
    packets = CounterMetricFamily(
        "fastmip_stage_packets", "Packets that went through a stage.", labels=labels
    )
    cost = GaugeMetricFamily(
        "fastmip_stage_nanoseconds_per_packet",
        "Cost of a stage, of one batch in 61.",
        labels=labels,
    )
    for role, engine in engines.items():
        for stage in stage_costs(engine):
            values = [role, stage.worker, stage.stage]
            calls.add_metric(values, stage.calls)
            packets.add_metric(values, stage.packets)
            cost.add_metric(values, stage.ns_per_packet)
    yield from (calls, packets, cost)


def _workers(engines: Mapping[str, Engine]) -> Iterator[Metric]:
    labels = ["role", "worker"]
    running = GaugeMetricFamily(
        "fastmip_worker_running", "1 while the worker carries packets.", labels=labels
    )
    told = {
        "heartbeat": CounterMetricFamily(
            "fastmip_worker_heartbeats", "Grows while the worker lives.", labels=labels
        ),
        "batches": CounterMetricFamily(
            "fastmip_worker_batches", "Batches that held packets.", labels=labels
        ),
        "sleeps": CounterMetricFamily(
            "fastmip_worker_sleeps", "Times it waited for packets.", labels=labels
        ),
    }
    for role, engine in engines.items():
        for number, worker in enumerate(engine.worker_status()):
            values = [role, str(number)]
            running.add_metric(values, float(worker["state"] == "running"))
            for name, metric in told.items():
                metric.add_metric(values, float(worker[name]))
    yield running
    yield from told.values()


def _ports(roles: Mapping[str, Observed]) -> Iterator[Metric]:
    port = CounterMetricFamily(
        "fastmip_port_packets",
        "What the engine's port counts: docs/counters.md, Kernel port.",
        labels=["role", "counter"],
    )
    lost = CounterMetricFamily(
        "fastmip_socket_lost_packets",
        "Packets that a full socket buffer lost.",
        labels=["role", "socket"],
    )
    for role, one in roles.items():
        for name, count in one.counters.items():
            if name.startswith(PORT_PREFIX):
                port.add_metric([role, name.removeprefix(PORT_PREFIX)], count)
        for kind, count in one.lost.items():
            lost.add_metric([role, kind], count)
    yield from (port, lost)


def _registrations(roles: Mapping[str, Observed]) -> Iterator[Metric]:
    """Counters that roles share by name (the port of registrations) are summed."""
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for role, one in roles.items():
        for name, value in one.counters.items():
            if name.startswith(PORT_PREFIX):
                continue
            if name not in families:
                families[name] = _family(name, is_gauge=name in one.gauges)
            families[name].add_metric([role], value)
    yield from families.values()


def _family(name: str, *, is_gauge: bool) -> CounterMetricFamily | GaugeMetricFamily:
    sentence = SENTENCES.get(name, "See docs/counters.md.")
    if is_gauge:
        return GaugeMetricFamily(
            GAUGE_NAMES.get(name, metric_name(name)), sentence, labels=["role"]
        )
    return CounterMetricFamily(metric_name(name), sentence, labels=["role"])


class MetricsPage:
    """The text a scrape gets."""

    def __init__(self, observe: Observe, started: float) -> None:
        """Take what ``DaemonCollector`` takes."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(DaemonCollector(observe, started))
        self._registry.register(ProcessCollector(registry=None))
        self._made_at = float("-inf")
        self._text = b""

    def render(self) -> bytes:
        """The page of this moment, or of ``KEEP_S`` ago."""
        now = time.monotonic()
        if now - self._made_at > KEEP_S:
            self._text = generate_latest(self._registry)
            self._made_at = now
        return self._text
