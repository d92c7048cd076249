"""Inline SVG plots for the report: no script, no font, nothing fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_Scale = Callable[[float], float]

_WIDTH = 960
_HEIGHT = 240
_LEFT = 56
_RIGHT = 12
_TOP = 26
_BOTTOM = 34


@dataclass(frozen=True, slots=True)
class Series:
    """A line: a name, a CSS class and (seconds, value) points."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time with a name, drawn behind the lines; a move starts where it starts."""

    start_s: float
    end_s: float
    name: str
    css: str


def time_plot(
    title: str,
    unit: str,
    series: Sequence[Series],
    spans: Sequence[Span],
    *,
    end_s: float,
    logarithmic: bool = False,
) -> str:
    """Draw values over time as one SVG element, for lines or (logarithmic) for stems."""
    top = max((value for one in series for _, value in one.points), default=1.0) or 1.0
    ticks = _log_ticks(top) if logarithmic else _linear_ticks(top)
    low, high = ticks[0], ticks[-1]

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / end_s

    def y(value: float) -> float:
        if logarithmic:
            part = math.log(max(value, low) / low) / math.log(high / low)
        else:
            part = value / high
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_draw_spans(spans, x),
    ]
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}"'
            f' y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for second in range(0, int(end_s) + 1, 5):
        parts.append(
            f'<text x="{x(second):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{second}</text>"
        )
    for one in series:
        parts.append(_stems(one, x, y, y(low)) if logarithmic else _line(one, x, y))
    parts += _legend(series, unit)
    parts.append("</svg>")
    return "".join(parts)


def _draw_spans(spans: Sequence[Span], x: _Scale) -> list[str]:
    parts = []
    for span in spans:
        left, width = x(span.start_s), x(span.end_s) - x(span.start_s)
        parts.append(
            f'<rect class="span {span.css}" x="{left:.1f}" y="{_TOP}" width="{width:.1f}"'
            f' height="{_HEIGHT - _TOP - _BOTTOM}"/>'
            f'<line class="move" x1="{left:.1f}" x2="{left:.1f}" y1="{_TOP - 4}"'
            f' y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="place" x="{left + 5:.1f}" y="{_TOP - 8}">{escape(span.name)}</text>'
        )
    return parts


def _line(one: Series, x: _Scale, y: _Scale) -> str:
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in one.points)
    return f'<polyline class="line {one.css}" points="{points}"/>'


def _stems(one: Series, x: _Scale, y: _Scale, base: float) -> str:
    return "".join(
        f'<line class="stem {one.css}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{base:.1f}"'
        f' y2="{y(value):.1f}"><title>{escape(one.name)}: {value:.1f} at {at:.2f} s</title></line>'
        for at, value in one.points
    )


def _legend(series: Sequence[Series], unit: str) -> list[str]:
    parts = [f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{escape(unit)} over seconds</text>']
    left = _WIDTH - _RIGHT
    for one in reversed(series):
        parts.append(
            f'<text class="legend {one.css}" x="{left}" y="{_HEIGHT - 4}" text-anchor="end">'
            f"{escape(one.name)}</text>"
        )
        left -= 8 * len(one.name) + 16
    return parts


def _linear_ticks(top: float) -> list[float]:
    step = 10 ** math.floor(math.log10(top))
    for factor in (0.2, 0.25, 0.5, 1, 2):
        if top / (step * factor) <= 5:
            step *= factor
            break
    return [step * n for n in range(math.ceil(top / step) + 1)]


def _log_ticks(top: float) -> list[float]:
    return [10.0**n for n in range(max(1, math.ceil(math.log10(max(top, 10)))) + 1)]
