"""The outcome on paper: one self-contained HTML file, and the JSON list for scripts."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from itertools import pairwise

from fastmip import __version__
from fastmip.runtime.demo.figures import lab_figure
from fastmip.runtime.demo.measure import BREAK, Move, MoveResult, Recorder, UdpRecord
from fastmip.runtime.demo.plots import Series, Span, time_plot
from fastmip.runtime.demo.script import HOME_AGENT_TAPS, Outcome
from fastmip.runtime.demo.stage import TCP_RATE

_BIN_S = 0.25
_GAP_FLOOR_MS = 1.0

_STYLE = """
:root{--ink:#1b2330;--paper:#fff;--soft:#5c6675;--line:#d5dae2;--a:#1267b4;--b:#b4531a;--c:#2c7a3f;
--home:#e8f3ea;--va:#e9f1fa;--vb:#faf0e7;--vc:#f3eaf6;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--paper:#14181f;--soft:#9aa4b2;--line:#333b47;
--a:#6cb2f5;--b:#f0a06a;--c:#7cc98f;--home:#1a2a1e;--va:#172536;--vb:#322418;--vc:#2a1d30;--bad:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1000px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p{color:var(--soft)}
.verdict{font-size:1.1rem;font-weight:600;color:var(--c)}.verdict.bad,.bad{color:var(--bad)}
div.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,td.text,th.text{text-align:left}td.text{white-space:normal}
tr.style td{font-weight:600;padding-top:.8rem}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--soft)}
svg .name{fill:var(--ink);font-weight:600}.grid,.wire{stroke:var(--line)}.wire{stroke-width:2}
.bus{stroke:var(--soft);stroke-width:4}.machine{fill:var(--paper);stroke:var(--soft)}
.machine.agent{fill:var(--va);stroke:var(--a)}.machine.away{stroke-dasharray:5 4}
.way{fill:none;stroke:var(--a);stroke-dasharray:3 4}
.line{fill:none;stroke-width:1.6}.stem{stroke-width:2}.move{stroke:var(--soft);stroke-dasharray:2 3}
.down{stroke:var(--a)}.up{stroke:var(--b)}.legend.down{fill:var(--a);stroke:none}
.legend.up{fill:var(--b);stroke:none}.span.home{fill:var(--home)}.span.A,.span.fa1{fill:var(--va)}
.span.B,.span.fa2{fill:var(--vb)}.span.nat{fill:var(--vc)}svg .place{fill:var(--ink)}
pre{font-size:12.5px;overflow-x:auto;color:var(--soft)}
"""


def write_html(outcome: Outcome, capture_name: str) -> str:
    """Write the whole report as one HTML document without external resources."""
    survived = all(result.tcp_survived for result in outcome.results)
    verdict = "TCP survived every move." if survived else "TCP did not survive."
    if survived and not outcome.succeeded:
        verdict += " But a check failed, see below."
    css = "verdict" if outcome.succeeded else "verdict bad"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>fastmip demo</title><style>{_STYLE}</style>",
            "<h1>A mobile node on the move</h1>",
            f'<p class="{css}">{verdict}</p>',
            f"<p>fastmip {__version__}, {escape(system)}, Python {platform.python_version()},"
            f" {when}; the run took {outcome.seconds:.1f} s.</p>",
            lab_figure(outcome.scene),
            "<h2>What each move cost</h2>",
            _result_table(outcome.results),
            "<p>Two figures are correspondent to mobile node / back. Gap: the longest silence of"
            " the paced UDP stream at its receiver, less the pacing interval; own: the part of it"
            " after the new link had an address, which is the mobile node's. Duplicated: both"
            " bindings deliver while two are registered.</p>",
            *_plots(outcome),
            "<h2>Steps of each move</h2>",
            _step_table(outcome),
            "<h2>Checks</h2>",
            _check_table(outcome),
            "<h2>Log</h2>",
            "<pre>"
            + "\n".join(f"{at:7.2f} s  {escape(text)}" for at, text in outcome.events)
            + "</pre>",
            f"<p>Every packet of this run is in {escape(capture_name)}: registration, ARP and"
            " ICMP whole, data packets up to their headers; one interface per capture point.</p>",
            "</html>",
            "",
        ]
    )


def as_json(outcome: Outcome) -> list[dict[str, object]]:
    """Return the final table in the shape of benchmark figures; the names are stable.

    Each row has name, value, unit, ratio, reference and command; a ratio only where the same
    run holds something to compare with: goodput against the rate the sender was paced at.
    """
    rows: list[dict[str, object]] = []
    command = f"sh ./run demo --scene {outcome.scene}"

    def add(name: str, value: float | bool, unit: str, **more: object) -> None:
        compared = {"ratio": None, "reference": "", "command": command}
        rows.append({"name": f"demo.{name}", "value": value, "unit": unit, **compared, **more})

    def add_goodput(name: str, rate: float, style: str) -> None:
        paced = {"ratio": round(rate / TCP_RATE, 4), "reference": f"paced at {TCP_RATE * 8} bit/s"}
        add(name, round(rate * 8), "bit/s", **paced, style=style)

    for result in outcome.results:
        move = result.move
        stem = f"{move.short}.{move.source}-{move.target}".lower()
        for way, stream in (("down", result.down), ("up", result.up)):
            add(f"{stem}.{way}.gap", round(stream.gap_ms, 3), "ms", style=move.style)
            add(f"{stem}.{way}.lost", stream.lost, "packets", style=move.style)
            add(f"{stem}.{way}.duplicated", stream.duplicated, "packets", style=move.style)
            add(f"{stem}.{way}.reordered", stream.reordered, "packets", style=move.style)
        add_goodput(f"{stem}.down.goodput", result.goodput_down, move.style)
        add_goodput(f"{stem}.up.goodput", result.goodput_up, move.style)
        add(f"{stem}.down.stall", round(result.stall_down_ms), "ms", style=move.style)
        add(f"{stem}.up.stall", round(result.stall_up_ms), "ms", style=move.style)
        add(f"{stem}.registrations", result.registrations, "registrations", style=move.style)
        add(f"{stem}.registration_time", round(result.registration_ms, 3), "ms", style=move.style)
        if move.style == BREAK:
            add(f"{stem}.own_gap", round(result.own_ms, 3), "ms", style=move.style)
        add(f"{stem}.tcp_survived", result.tcp_survived, "bool", style=move.style)
    for way in ("down", "up"):
        streams = [getattr(result, way) for result in outcome.results]
        add(f"total.{way}.lost", sum(stream.lost for stream in streams), "packets")
        add(f"total.{way}.duplicated", sum(stream.duplicated for stream in streams), "packets")
        transfer = outcome.recorder.tcp[f"tcp-{way}"]
        add(f"total.{way}.bytes", transfer.received[-1][1] if transfer.received else 0, "bytes")
    accepted = sum(result.registrations for result in outcome.results)
    add("total.registrations", accepted, "registrations")
    for check in outcome.checks:
        add("check", check.holds, "bool", check=check.name, detail=check.detail)
    add("tcp_survived", all(result.tcp_survived for result in outcome.results), "bool")
    add("succeeded", outcome.succeeded, "bool")
    add("duration", round(outcome.seconds, 1), "s")
    return rows


# --------------------------------------------------------------------- tables
def _row(cells: Sequence[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _totals(results: Sequence[MoveResult]) -> list[str]:
    """Cells of the last row: sums, and the worst where a sum says nothing."""
    down, up = [r.down for r in results], [r.up for r in results]
    count = max(1, len(results))
    mean = [
        sum(r.goodput_down for r in results) / count,
        sum(r.goodput_up for r in results) / count,
    ]
    return [
        "all (longest times)",
        f"{max(s.gap_ms for s in down):.1f} / {max(s.gap_ms for s in up):.1f}",
        f"{max(r.own_ms for r in results):.1f}",
        f"{sum(s.lost for s in down)} / {sum(s.lost for s in up)}",
        f"{sum(s.duplicated for s in down)} / {sum(s.duplicated for s in up)}",
        f"{mean[0] * 8 / 1e6:.2f} / {mean[1] * 8 / 1e6:.2f}",
        f"{max(r.stall_down_ms for r in results):.0f} / {max(r.stall_up_ms for r in results):.0f}",
        str(sum(r.registrations for r in results)),
        "yes" if all(r.tcp_survived for r in results) else '<span class="bad">NO</span>',
    ]


def _result_table(results: Sequence[MoveResult]) -> str:
    head = (
        "move",
        "gap ms",
        "own ms",
        "lost",
        "duplicated",
        "goodput Mbit/s",
        "TCP stall ms",
        "registrations",
        "TCP survived",
    )
    rows = [_row(head, "th")]
    style = ""
    for result in results:
        if result.move.heading != style:
            style = result.move.heading
            rows.append(f'<tr class="style"><td colspan="{len(head)}">{style}</td></tr>')
        down, up = result.down, result.up
        rows.append(
            _row(
                [
                    escape(result.move.title),
                    f"{down.gap_ms:.1f} / {up.gap_ms:.1f}",
                    f"{result.own_ms:.1f}" if result.own_ms else "-",
                    f"{down.lost} / {up.lost}",
                    f"{down.duplicated} / {up.duplicated}",
                    f"{result.goodput_down * 8 / 1e6:.2f} / {result.goodput_up * 8 / 1e6:.2f}",
                    f"{result.stall_down_ms:.0f} / {result.stall_up_ms:.0f}",
                    str(result.registrations),
                    "yes" if result.tcp_survived else '<span class="bad">NO</span>',
                ]
            )
        )
    rows.append('<tr class="style">' + _row(_totals(results)).removeprefix("<tr>"))
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _step_table(outcome: Outcome) -> str:
    """Tell when each step happened, in milliseconds after the start of the move."""
    head = (
        "move",
        "old link down",
        "new link up",
        "address",
        "request",
        "accepted",
        "first packet",
    )
    rows = [_row(head, "th")]
    for result in outcome.results:
        move = result.move
        asked, accepted = _registration_times(outcome.recorder, move)
        first = _first_after(outcome.recorder.udp["udp-down"], accepted)
        steps = (move.link_down_ns, move.link_up_ns, move.address_ns, asked, accepted, first)
        cells = [f"{(at - move.start_ns) / 1e6:.1f}" if at else "-" for at in steps]
        rows.append(_row([f"{escape(move.title)} ({move.short})", *cells]))
    note = (
        "<p>Milliseconds after the start of the move; request and acceptance at the home agent.</p>"
    )
    return f'<div class="wide"><table>{"".join(rows)}</table></div>{note}'


def _check_table(outcome: Outcome) -> str:
    rows = []
    for check in outcome.checks:
        mark = "yes" if check.holds else '<span class="bad">NO</span>'
        name, detail = escape(check.name), escape(check.detail)
        rows.append(
            f'<tr><td class="text">{name}</td><td class="text">{detail}</td><td>{mark}</td></tr>'
        )
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _registration_times(recorder: Recorder, move: Move) -> tuple[int, int]:
    """Return when the first request of a move reached the home agent and was accepted."""
    seen = [
        one
        for one in recorder.registrations
        if one.tap in HOME_AGENT_TAPS and move.start_ns <= one.at_ns < move.end_ns
    ]
    asked = min((one.at_ns for one in seen if one.is_request), default=0)
    accepted = min(
        (one.at_ns for one in seen if not one.is_request and one.code in (0, 1)), default=0
    )
    return asked, accepted


def _first_after(record: UdpRecord, at_ns: int) -> int:
    return next((arrival[2] for arrival in record.arrivals if at_ns and arrival[2] > at_ns), 0)


# ---------------------------------------------------------------------- plots
def _plots(outcome: Outcome) -> Iterator[str]:
    start, end_s = outcome.start_ns, (outcome.end_ns - outcome.start_ns) / 1e9
    recorder = outcome.recorder
    spans = list(_spans(outcome))
    yield "<h2>TCP goodput</h2>"
    yield time_plot(
        "TCP goodput over time",
        "Mbit/s verified by the receiver",
        [
            Series("cn to mn", "down", _goodput(recorder, "tcp-down", start, end_s)),
            Series("mn to cn", "up", _goodput(recorder, "tcp-up", start, end_s)),
        ],
        spans,
        end_s=end_s,
    )
    yield "<h2>Silence of the UDP stream</h2>"
    yield time_plot(
        "Silence of the paced UDP stream over time",
        "ms beyond the pacing interval, logarithmic,",
        [
            Series("cn to mn", "down", _silences(recorder.udp["udp-down"], start, end_s)),
            Series("mn to cn", "up", _silences(recorder.udp["udp-up"], start, end_s)),
        ],
        spans,
        end_s=end_s,
        logarithmic=True,
    )


def _spans(outcome: Outcome) -> Iterator[Span]:
    first = outcome.results[0].move
    yield Span(0, (first.start_ns - outcome.start_ns) / 1e9, "home", "home")
    for result in outcome.results:
        move = result.move
        start_s = (move.start_ns - outcome.start_ns) / 1e9
        end_s = (move.end_ns - outcome.start_ns) / 1e9
        name = f"{move.target} ({move.short})"
        yield Span(start_s, end_s, name, move.target)


def _goodput(
    recorder: Recorder, flow: str, start_ns: int, end_s: float
) -> list[tuple[float, float]]:
    record = recorder.tcp[flow]
    edges = [n * _BIN_S for n in range(int(end_s / _BIN_S) + 1)]
    counts = [record.bytes_at(start_ns + round(edge * 1e9)) for edge in edges]
    return [
        (edge + _BIN_S / 2, (after - before) * 8 / 1e6 / _BIN_S)
        for edge, (before, after) in zip(edges, pairwise(counts), strict=False)
    ]


def _silences(record: UdpRecord, start_ns: int, end_s: float) -> list[tuple[float, float]]:
    """Return every silence worth drawing, at the time it ended."""
    times = sorted(received for _, _, received in record.arrivals)
    silences = (
        ((later - start_ns) / 1e9, (later - sooner - record.interval_ns) / 1e6)
        for sooner, later in pairwise(times)
    )
    return [(at, ms) for at, ms in silences if ms > _GAP_FLOOR_MS and 0 <= at <= end_s]
