"""The report of ``bench wire``: complete, self-contained, the same figures in every form."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from fastmip.runtime.bench.device import IOS, Setting
from fastmip.runtime.bench.latency import Latencies
from fastmip.runtime.bench.plots import Bar, Curve, bar_chart, log_plot
from fastmip.runtime.bench.report import documents, drawings, label, rows, write_html
from fastmip.runtime.bench.search import Trial
from fastmip.runtime.bench.traffic import BUCKETS
from fastmip.runtime.bench.wire import Measured, sizes_of

VOID = {"meta", "br"}


class _Balance(HTMLParser):
    """Every element that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [f"{k}={v}" for k, v in attrs if k in ("src", "href", "data")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag, attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def measured(name: str, delivered: float, setting: Setting | None) -> Measured:
    counts = [0] * BUCKETS
    counts[200], counts[300] = 990, 10
    one = Measured(
        name=name,
        size="64",
        setting=setting,
        delivered=delivered,
        offered=2 * delivered,
        per_core=delivered / 2,
        per_worker=delivered,
        cores={0: {"user": 0.0, "system": 0.5, "softirq": 0.5, "idle": 0.0}},
        load_cpu=0,
        worker_cpus=(1,) if setting else (),
        references={"lwt_bpf": 1.0, "ip_forward": 2.0},
    )
    if setting:
        one.loss_free = delivered / 2
        one.trials = [Trial(1e6, 1000, 900, 0.01), Trial(5e5, 500, 500, 0.01)]
        one.latencies = {0.1: Latencies(counts), 0.5: Latencies(counts)}
    return one


ALL = [
    measured("ip_forward", 2.0, None),
    measured("lwt_bpf", 1.0, None),
    measured("kernel", 0.5, Setting("kernel", 10_000)),
    measured("kernel", 0.4, Setting("kernel", 1_000_000, "gre", 2)),
]


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere() -> None:
    page = write_html(ALL, "fastmip bench wire --io <x>")
    balance = _Balance()
    balance.feed(page)
    assert balance.open in (["html"], [])
    assert balance.addresses == []
    assert not re.search(r"https?://|@import|url\(|<script|<x>", page)
    assert page.count("<svg ") == 3


def test_rows_documents_and_page_tell_the_same() -> None:
    table, full, page = rows(ALL), documents(ALL), write_html(ALL, "")
    assert [row["device"] for row in table] == [label(one) for one in ALL]
    assert [label(one) for one in ALL][2:] == ["kernel 10k", "kernel gre 1M 2 workers"]
    assert table[2]["of_lwt_bpf"] == 0.5
    assert table[2]["of_ip_forward"] == 0.25
    assert table[2]["loss_free_mpps"] == 0.25
    assert table[0].get("loss_free_mpps") is None
    assert {"p50_us_at_10", "p99_us_at_10", "p99_9_us_at_10", "p99_us_at_50"} <= set(table[2])
    for row, document in zip(table, full, strict=True):
        assert row.items() <= document.items()
        assert label(ALL[0]) in page
    assert full[2]["trials"][0] == {"rate": 1000000, "sent": 1000, "received": 900}
    assert full[2]["load_and_softirq_cpu"] == 0
    assert full[2]["worker_cpus"] == [1]
    assert full[2]["latency_curves"]["10"][-1][1] == 0


def test_plots_stand_alone() -> None:
    drawn = drawings(ALL)
    assert list(drawn) == ["delivered-64", "latency-64", "loss-64"]
    for text in drawn.values():
        root = ElementTree.fromstring(text)  # noqa: S314 - our own
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root[0].tag.endswith("style")


def test_an_empty_plot_is_no_plot() -> None:
    assert log_plot("x", "x", "y", [Curve("none", [])]) == ""
    assert "<svg" in bar_chart("x", [Bar("nothing <&>", 0)])
    assert "&lt;&amp;&gt;" in bar_chart("x", [Bar("nothing <&>", 0)])


def test_a_plot_holds_all_of_its_points() -> None:
    drawn = log_plot("x", "x", "y", [Curve("c", [(0.5, 1e-6), (2000.0, 1.0), (3.0, 0.02)])])
    [points] = re.findall(r'points="([^"]*)"', drawn)
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawn)[0])
    for point in points.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height


@pytest.mark.parametrize("bindings", [1, 2, 3, 1000, 100_000, 1_000_000, 1 << 20])
def test_a_home_network_has_room_for_its_bindings(bindings: int) -> None:
    network = Setting(bindings=bindings).network
    assert network.num_addresses >= bindings + 2
    assert network.prefixlen == 30 or network.num_addresses < 4 * (bindings + 2)


def test_sizes_are_one_or_the_mix() -> None:
    assert sizes_of("64") == ((64, 1),)
    assert len(sizes_of("imix")) == 3
    assert "kernel" in IOS
