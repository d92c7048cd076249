"""Bars and curves as inline SVG: no script, no font, nothing fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _ROW = 960, 26
_LEFT, _RIGHT, _TOP, _BOTTOM = 220, 90, 12, 34
_HEIGHT = 300
_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a bar chart."""

    name: str
    value: float
    note: str = ""
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot with logarithmic axes; points have x and y above zero."""

    name: str
    points: Sequence[tuple[float, float]]


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Values beside their names, to one scale."""
    height = _TOP + _ROW * len(bars) + 6
    top = max((bar.value for bar in bars), default=0) or 1
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">',
    ]
    for number, bar in enumerate(bars):
        y = _TOP + _ROW * number
        length = (_WIDTH - _LEFT - _RIGHT - 90) * bar.value / top
        css = "bar reference" if bar.is_reference else "bar"
        parts.append(
            f'<text class="name" x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">'
            f"{escape(bar.name)}</text>"
            f'<rect class="{css}" x="{_LEFT}" y="{y + 2}" width="{length:.1f}" height="18"/>'
            f'<text x="{_LEFT + length + 6:.1f}" y="{y + 15}">{bar.value:.3g} {escape(bar.note)}'
            "</text>"
        )
    return "".join([*parts, "</svg>"])


def log_plot(title: str, x_name: str, y_name: str, curves: Sequence[Curve]) -> str:
    """Curves over two logarithmic axes."""
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    if not xs:
        return ""
    x_low, x_high = _decades(xs)
    y_low, y_high = _decades(ys)
    left, right = 70, 12

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return (
            left + (_WIDTH - left - right) * across,
            _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * up,
        )

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for power in range(x_low, x_high + 1):
        x, y = at(10.0**power, 10.0**y_low)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{y:.1f}"/>'
            f'<text x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle">{10.0**power:g}</text>'
        )
    for power in range(y_low, y_high + 1):
        x, y = at(10.0**x_low, 10.0**power)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for number, curve in enumerate(curves):
        css = f"c{number % _COLOURS}"
        points = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in curve.points)
        parts.append(
            f'<polyline class="line {css}" points="{points}"/>'
            f'<text class="legend {css}" x="{_WIDTH - right - 4}" y="{_TOP + 14 + 16 * number}"'
            f' text-anchor="end">{escape(curve.name)}</text>'
        )
    parts.append(
        f'<text x="{left}" y="{_HEIGHT - 4}">{escape(y_name)} over {escape(x_name)}</text></svg>'
    )
    return "".join(parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)
