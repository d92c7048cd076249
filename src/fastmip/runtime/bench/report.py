"""What was measured, for people (rows, a self-contained page) and for scripts."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from fastmip import __version__
from fastmip.runtime.bench.plots import Bar, Curve, bar_chart, log_plot
from fastmip.runtime.bench.wire import Measured

_STYLE = """
:root{--ink:#1b2330;--paper:#fff;--soft:#5c6675;--line:#d5dae2;--a:#1267b4;--b:#b4531a;--c:#2c7a3f;
--d:#7a3fa0;--e:#a08a1a;--f:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--paper:#14181f;--soft:#9aa4b2;--line:#333b47;
--a:#6cb2f5;--b:#f0a06a;--c:#7cc98f;--d:#c79af0;--e:#e0cc6a;--f:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1000px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p{color:var(--soft)}
div.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--soft)}
svg .name{fill:var(--ink)}.grid{stroke:var(--line)}
.bar{fill:var(--a)}.bar.reference{fill:var(--soft)}
.line{fill:none;stroke-width:1.6}.paper{fill:var(--paper)}
""" + "".join(
    f".line.c{n}{{stroke:var(--{letter})}}svg .legend.c{n}{{fill:var(--{letter})}}"
    for n, letter in enumerate("abcdef")
)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fastmip": __version__,
        "load_1m": round(os.getloadavg()[0], 2),
    }


def label(one: Measured) -> str:
    """A device's name with what is unusual about it."""
    if one.setting is None:
        return f"ref.{one.name}"
    words = [one.name]
    if one.setting.kind != "ipip":
        words.append(one.setting.kind)
    words.append(_count(one.setting.bindings))
    if one.setting.workers > 1:
        words.append(f"{one.setting.workers} workers")
    return " ".join(words)


def _count(number: int) -> str:
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if number >= size and number % size == 0:
            return f"{number // size}{letter}"
    return str(number)


def rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The table: rates in Mpps, times in microseconds."""
    found = []
    for one in measured:
        row: dict[str, Any] = {
            "device": label(one),
            "size": one.size,
            "delivered_mpps": _round(one.delivered),
            "of_lwt_bpf": _round(one.ratio("lwt_bpf")),
            "of_ip_forward": _round(one.ratio("ip_forward")),
            "loss_free_mpps": _round(one.loss_free),
            "mpps_per_busy_core": _round(one.per_core),
        }
        for share, latencies in one.latencies.items():
            for name, value in latencies.figures().items():
                row[f"{name}_at_{round(100 * share)}"] = _round(value)
        found.append(row)
    return found


def documents(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Everything, for scripts."""
    found = []
    for row, one in zip(rows(measured), measured, strict=True):
        setting = one.setting
        found.append(
            row
            | {
                "io": setting.io if setting else None,
                "encapsulation": setting.kind if setting else None,
                "bindings": setting.bindings if setting else None,
                "workers": setting.workers if setting else None,
                "offered_mpps": _round(one.offered),
                "mpps_per_worker_core": _round(one.per_worker),
                "references_mpps": {name: _round(rate) for name, rate in one.references.items()},
                "load_and_softirq_cpu": one.load_cpu,
                "worker_cpus": list(one.worker_cpus),
                "cpu_shares": {str(cpu): shares for cpu, shares in one.cores.items()},
                "overload_latency": one.overload.figures(),
                "trials": [
                    {"rate": round(t.rate), "sent": t.sent, "received": t.received}
                    for t in one.trials
                ],
                "latency_curves": {
                    str(round(100 * share)): [
                        [us, share_above] for us, share_above in all_of.curve()
                    ]
                    for share, all_of in one.latencies.items()
                },
            }
        )
    return found


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def write_html(measured: Sequence[Measured], command: str) -> str:
    """One HTML document without external resources."""
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>fastmip bench wire</title><style>{_STYLE}</style>",
            "<h1>Forwarding between namespaces</h1>",
            f"<p>{escape(command)}<br>{escape(facts)}; {when}</p>",
            *_sections(measured),
            "<h2>All figures</h2>",
            _table(rows(measured)),
            "<p>Delivered: at overload, median of the rounds. Loss-free: highest rate at which"
            " every packet of a trial arrived. Busy cores: the load's, with all the kernel does"
            " there, and the workers'. Latency: from the making of a packet to the program at the"
            " sink, at shares of the loss-free rate. References forward without loss on the load's"
            " core, so their delivered rate is their loss-free rate.</p>",
            "<h2>Cores</h2>",
            _table(_core_rows(measured)),
            "<p>Shares of a CPU's time during the middle burst, other users of the machine"
            " included.</p></html>",
            "",
        ]
    )


def drawings(measured: Sequence[Measured]) -> dict[str, str]:
    """The plots as files of their own: name -> SVG."""
    found = {}
    for name, title, drawn in _plots(measured):
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="960" aria-description="{title}" '
        style = f"<style>{_STYLE}</style>"
        opening, _, rest = drawn.removeprefix("<svg ").partition(">")
        found[name] = (
            f'{head}{opening}>{style}<rect class="paper" width="100%" height="100%"/>{rest}'
        )
    return found


def _sections(measured: Sequence[Measured]) -> Iterator[str]:
    for _, title, drawn in _plots(measured):
        yield f"<h2>{title}</h2>"
        yield drawn


def _plots(measured: Sequence[Measured]) -> Iterator[tuple[str, str, str]]:
    """Name, title and SVG of each."""
    for size in dict.fromkeys(one.size for one in measured):
        here = [one for one in measured if one.size == size]
        title = "IMIX" if size == "imix" else f"{size} B"
        bars = [
            Bar(label(one), one.delivered, _note(one), is_reference=one.setting is None)
            for one in here
        ]
        chart = bar_chart(f"delivered rate, {title}", bars)
        yield f"delivered-{size}", f"Delivered at overload, {title}, Mpps", chart
        curves = [
            Curve(f"{label(one)}, {share:.0%} load", points)
            for one in here
            for share, latencies in one.latencies.items()
            if (points := [(us, above) for us, above in latencies.curve() if above > 0])
        ]
        if curves:
            drawn = log_plot(f"latency, {title}", "microseconds", "share of packets later", curves)
            yield f"latency-{size}", f"Latency, {title}", drawn
        trials = [
            Curve(f"{label(one)}: loss", points)
            for one in here
            if (
                points := sorted(
                    (t.sent_pps / 1e6, max(t.loss, 1e-6)) for t in one.trials if t.sent
                )
            )
        ]
        if trials:
            drawn = log_plot(f"loss, {title}", "Mpps offered", "share lost (1e-06: none)", trials)
            yield f"loss-{size}", f"Loss, {title}", drawn


def _note(one: Measured) -> str:
    ratio = one.ratio("lwt_bpf")
    if one.setting is None or ratio is None:
        return ""
    loss_free = "" if one.loss_free is None else f", loss-free {one.loss_free:.3g}"
    return f"({ratio:.2f} of LWT-BPF{loss_free})"


def _core_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    found = []
    for one in measured:
        for cpu, shares in one.cores.items():
            does = ["load and softirq"] if cpu == one.load_cpu else []
            does += ["worker and its softirq"] if cpu in one.worker_cpus else []
            role = ", ".join(does) or "-"
            found.append(
                {"device": label(one), "size": one.size, "cpu": cpu, "does": role, **shares}
            )
    return found


def _table(of: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in of for name in row))
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in columns)
    lines = [
        "<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in columns) + "</tr>"
        for row in of
    ]
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _cell(value: object) -> str:
    return (
        "-" if value is None else escape(f"{value:g}" if isinstance(value, float) else str(value))
    )
