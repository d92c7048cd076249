"""The report: complete, self-contained, honest about failures."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from fastmip.runtime.demo.measure import Move, MoveResult, Recorder, StreamLoss
from fastmip.runtime.demo.plots import Series, Span, time_plot
from fastmip.runtime.demo.report import as_json, write_html
from fastmip.runtime.demo.script import Check, Outcome
from fastmip.runtime.demo.traffic import Flow, TcpProgress, UdpArrivals, UdpSent

MS = 1_000_000
VOID = {"meta"}


class _Balance(HTMLParser):
    """Every element that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [
            f"{k}={v}" for k, v in attrs if k in ("src", "href", "data", "xlink:href")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag, attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _outcome(*, survived: bool = True, check: bool = True, scene: str = "home-agent") -> Outcome:
    flows = [Flow(name, "udp-send", "", 0) for name in ("udp-down", "udp-up")]
    flows += [Flow(name, "tcp-receive", "", 0) for name in ("tcp-down", "tcp-up")]
    recorder = Recorder(flows)
    for name in ("udp-down", "udp-up"):
        recorder.take(UdpSent(name, 0, 2000, 0))
        kept = [n for n in range(2000) if not 600 <= n < 650]
        recorder.take(UdpArrivals(name, [(n, n * 2 * MS, n * 2 * MS) for n in kept]))
    for at in range(0, 4000, 10):
        recorder.take(TcpProgress("tcp-down", at * MS, at * 1000, True, "open"))
        recorder.take(TcpProgress("tcp-up", at * MS, at * 500, True, "open"))
    move = Move("break-before-make", "home", "A", "eth0", 1000 * MS, 1001 * MS, 1002 * MS)
    move.end_ns = 3900 * MS
    loss = StreamLoss(100.25, 50, 1, 0)
    result = MoveResult(move, loss, loss, 1e6, 5e5, 220.4, 20.0, 1, 1, 2.5, 7.25, survived)
    checks = [Check("ARP <table>", check, "a & b")]
    return Outcome(scene, [result], checks, recorder, 0, 3900 * MS, [(1.0, "eth0 <lost>")], 4.0)


@pytest.mark.parametrize("scene", ["home-agent", "foreign"])
def test_html_is_well_formed_and_fetches_nothing(scene: str) -> None:
    page = write_html(_outcome(scene=scene), "demo.pcapng")
    parser = _Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert parser.addresses == []
    assert not re.search(r"https?:|//\w|@import|url\(|<script|<link|<iframe|<img", page)
    assert "ARP &lt;table&gt;" in page
    assert "a &amp; b" in page
    assert "eth0 &lt;lost&gt;" in page


@pytest.mark.parametrize(
    ("survived", "check", "words"),
    [
        (True, True, "TCP survived every move."),
        (True, False, "But a check failed"),
        (False, True, "TCP did not survive."),
    ],
)
def test_the_verdict_is_the_first_thing_said(survived: bool, check: bool, words: str) -> None:
    outcome = _outcome(survived=survived, check=check)
    page = write_html(outcome, "demo.pcapng")
    assert words in page.partition("</p>")[0]
    assert outcome.succeeded is (survived and check)


def test_json_names_are_stable_and_every_row_has_value_and_unit() -> None:
    rows = as_json(_outcome())
    keys = {"name", "value", "unit", "ratio", "reference", "command"}
    assert all(keys <= row.keys() for row in rows)
    ratios = {str(row["name"]): row["ratio"] for row in rows}
    assert ratios["demo.break.home-a.down.goodput"] == round(8 / 6, 4)
    assert ratios["demo.break.home-a.down.gap"] is None
    values = {str(row["name"]): row["value"] for row in rows}
    assert values["demo.break.home-a.down.gap"] == 100.25
    assert values["demo.break.home-a.up.lost"] == 50
    assert values["demo.break.home-a.down.duplicated"] == 1
    assert values["demo.break.home-a.down.goodput"] == 8_000_000
    assert values["demo.break.home-a.registrations"] == 1
    assert values["demo.break.home-a.own_gap"] == 7.25
    assert values["demo.break.home-a.down.stall"] == 220
    assert values["demo.break.home-a.tcp_survived"] is True
    assert values["demo.total.down.lost"] == 50
    assert values["demo.total.up.duplicated"] == 1
    assert values["demo.total.down.bytes"] == 3_990_000
    assert values["demo.total.registrations"] == 1
    assert values["demo.tcp_survived"] is True
    assert values["demo.duration"] == 4.0


def test_plot_keeps_every_point_inside_its_frame() -> None:
    for top in (0.0, 0.03, 1.0, 7.3, 99.0, 1234.5):
        for logarithmic in (False, True):
            points = [(0.0, 0.0), (5.0, top), (10.0, top / 2)]
            series = [Series("s", "down", points)]
            spans = [Span(0, 10, "x", "home")]
            svg = time_plot("t", "u", series, spans, end_s=10, logarithmic=logarithmic)
            heights = [float(y) for y in re.findall(r'y[12]="([-\d.]+)"', svg)]
            heights += [float(y) for y in re.findall(r",([-\d.]+)", svg.partition("points=")[2])]
            assert all(0 <= y <= 240 for y in heights)
