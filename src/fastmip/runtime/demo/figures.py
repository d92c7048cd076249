"""Drawings of the labs for the report: machines, links and the way the mobile node goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Figure:
    """What is drawn; all figures are 960 wide, links hang from machines above them."""

    wires: tuple[tuple[int, int, int, int], ...]
    links: tuple[tuple[int, int, str], ...]
    """(middle, half the width, name)."""
    machines: tuple[tuple[int, int, int, str, str, str], ...]
    """(left, top, width, name, text, CSS classes)."""
    steps: tuple[tuple[int, int], ...]
    """Ways from one stay of the mobile node to the next: (left, right)."""
    way_home: str


_ROUTERS_ONLY = _Figure(
    wires=((190, 38, 395, 38), (480, 60, 165, 100), (480, 60, 480, 100), (480, 60, 795, 100)),
    links=(
        (165, 135, "home 10.1.0.0/24"),
        (480, 135, "A 10.3.1.0/24"),
        (795, 135, "B 10.3.2.0/24"),
    ),
    machines=(
        (20, 16, 170, "cn", "correspondent 10.9.0.7", ""),
        (395, 16, 170, "inet", "core router", ""),
        (80, 100, 170, "ha", "home agent 10.1.0.1", "agent"),
        (395, 100, 170, "ar1", "plain router 10.3.1.254", ""),
        (710, 100, 170, "ar2", "plain router 10.3.2.254", ""),
        (30, 196, 62, "hh", ".50", ""),
        (100, 196, 62, "hh2", ".51", ""),
        (178, 196, 122, "mn", "at home", "agent"),
        (419, 196, 122, "mn", "10.3.1.x", "agent away"),
        (734, 196, 122, "mn", "10.3.2.x", "agent away"),
    ),
    steps=((300, 419), (541, 734)),
    way_home="M795 242V254H239V244",
)
_AGENTS = _Figure(
    wires=(
        *((190, 38, 395, 38), (480, 60, 125, 100)),
        *((480, 60, 365, 100), (480, 60, 600, 100), (480, 60, 835, 100)),
    ),
    links=(
        (125, 110, "home 10.1.0.0/24"),
        (365, 110, "fa1 10.3.1.0/24"),
        (600, 110, "fa2 10.3.2.0/24"),
        (835, 110, "192.168.7.0/24"),
    ),
    machines=(
        (20, 16, 170, "cn", "correspondent 10.9.0.7", ""),
        (395, 16, 170, "inet", "core router", ""),
        (45, 100, 160, "ha", "home agent 10.1.0.1", "agent"),
        (285, 100, 160, "fa1", "foreign agent 10.3.1.1", "agent"),
        (520, 100, 160, "fa2", "foreign agent 10.3.2.1", "agent"),
        (755, 100, 160, "nat", "translator 10.4.0.2", ""),
        (15, 196, 50, "hh", ".50", ""),
        (72, 196, 50, "hh2", ".51", ""),
        (130, 196, 105, "mn", "at home", "agent"),
        (304, 196, 122, "mn", "no own address", "agent away"),
        (539, 196, 122, "mn", "no own address", "agent away"),
        (774, 196, 122, "mn", "192.168.7.5", "agent away"),
    ),
    steps=((235, 304), (426, 539), (661, 774)),
    way_home="M835 242V254H182V244",
)
_FIGURES = {"home-agent": _ROUTERS_ONLY, "foreign": _AGENTS}


def lab_figure(scene: str) -> str:
    """Draw the lab of a scene as one SVG element."""
    figure = _FIGURES[scene]
    parts = ['<svg viewBox="0 0 960 262" role="img" aria-label="The lab">']
    for x1, y1, x2, y2 in figure.wires:
        parts.append(f'<line class="wire" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    for middle, half, name in figure.links:
        parts.append(
            f'<line class="wire" x1="{middle}" y1="144" x2="{middle}" y2="176"/>'
            f'<line class="bus" x1="{middle - half}" x2="{middle + half}" y1="176" y2="176"/>'
            f'<text x="{middle + half}" y="170" text-anchor="end">{name}</text>'
        )
    for left, top, width, name, text, css in figure.machines:
        middle = left + width // 2
        parts.append(
            f'<rect class="machine {css}" x="{left}" y="{top}" width="{width}" height="44" rx="6"/>'
            f'<text class="name" x="{middle}" y="{top + 19}" text-anchor="middle">{name}</text>'
            f'<text x="{middle}" y="{top + 35}" text-anchor="middle">{text}</text>'
        )
    for left, right in figure.steps:
        parts.append(f'<line class="way" x1="{left + 4}" x2="{right - 4}" y1="218" y2="218"/>')
    parts.append(f'<path class="way" d="{figure.way_home}"/></svg>')
    return "".join(parts)
