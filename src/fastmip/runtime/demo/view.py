"""What the demo shows while it runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fastmip.runtime.demo.measure import MoveResult, Recorder

_REFRESH_S = 0.2
_RATE_WINDOW_S = 1.0
_EVENTS_SHOWN = 9

LEGEND = """\
Two figures: correspondent to mobile node / back. gap: longest silence of the
UDP stream; own: the part of it after the new link had an address; lost, dup.:
its datagrams; Mbit/s: verified TCP goodput; reg.: accepted registrations; TCP:
whether both transfers went on over the same connection, longest standstill.
"""


class View:
    """Events as they happen and the state between them; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.step = "building the lab"
        self.attachments: dict[str, str] = {}
        """Port of the mobile node -> name of the link it is plugged into."""
        self.bindings: list[str] = []
        """Care-of addresses the home agent forwards to."""
        self.recorder: Recorder | None = None
        self.events: list[tuple[float, str]] = []
        """(seconds since the start, what happened)."""
        self._start = time.monotonic()
        self._drawn = 0.0
        self._samples: list[tuple[float, dict[str, tuple[int, int]]]] = []
        self._live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._start

    def say(self, text: str, at_ns: int = 0) -> None:
        """Note an event, of now or of a CLOCK_MONOTONIC time."""
        at_s = at_ns / 1e9 - self._start if at_ns else self.elapsed_s
        self.events.append((at_s, text))
        if self._live:
            self.tick(now=True)
        else:
            self.console.print(f"{at_s:6.2f} s  {text}", highlight=False, soft_wrap=True)

    def tick(self, now: bool = False) -> None:
        """Redraw when it is time."""
        if not self._live or (not now and time.monotonic() - self._drawn < _REFRESH_S):
            return
        self._drawn = time.monotonic()
        if self.recorder:
            self._samples.append((self._drawn, self.recorder.progress()))
            while self._samples[0][0] < self._drawn - _RATE_WINDOW_S:
                del self._samples[0]
        self._live.update(self._panel(), refresh=True)

    def _rate(self, flow: str) -> float:
        """Received per second during the last second."""
        if len(self._samples) < 2:
            return 0.0
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        return (after[flow][0] - before[flow][0]) / (now - then)

    def _panel(self) -> Panel:
        state = Table.grid(padding=(0, 2))
        state.add_column(style="bold")
        state.add_column()
        plugged = "   ".join(f"{port}: {link}" for port, link in self.attachments.items())
        state.add_row("attached", plugged or "-")
        state.add_row("binding", ", ".join(self.bindings) or "none (at home)")
        for label, suffix in (("cn to mn", "down"), ("mn to cn", "up")):
            tcp = self._rate(f"tcp-{suffix}") * 8 / 1e6
            udp = self._rate(f"udp-{suffix}")
            state.add_row(label, f"TCP {tcp:5.2f} Mbit/s   UDP {udp:4.0f} datagrams/s")
        lines = [Text(f"{at:6.2f} s  {text}") for at, text in self.events[-_EVENTS_SHOWN:]]
        title = f"fastmip demo  {self.elapsed_s:.1f} s  {self.step}"
        return Panel(Group(state, Text(), *lines), title=title, title_align="left")


def _survival(result: MoveResult) -> str:
    if not result.tcp_survived:
        return "[red]NO[/red]"
    return f"[green]yes[/green], {max(result.stall_down_ms, result.stall_up_ms):.0f} ms"


def total_line(results: Sequence[MoveResult]) -> str:
    """Sum all moves up in one line."""
    ways = [[result.down for result in results], [result.up for result in results]]
    lost, twice = (
        " / ".join(str(sum(getattr(stream, what) for stream in way)) for way in ways)
        for what in ("lost", "duplicated")
    )
    accepted = sum(result.registrations for result in results)
    return f"All moves: {lost} lost, {twice} duplicated, {accepted} registrations."


def result_tables(results: Sequence[MoveResult]) -> Iterator[Table]:
    """Build the final table, one part per style or encapsulation; fits 80 columns."""
    for style, moves in groupby(results, key=lambda result: result.move.heading):
        table = Table(
            title=style,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("move", no_wrap=True)
        for name in ("gap ms", "own ms", "lost", "dup.", "Mbit/s", "reg."):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("TCP survived", no_wrap=True)
        for result in moves:
            table.add_row(
                result.move.title,
                f"{result.down.gap_ms:.0f}/{result.up.gap_ms:.0f}",
                f"{result.own_ms:.0f}" if result.own_ms else "-",
                f"{result.down.lost}/{result.up.lost}",
                f"{result.down.duplicated}/{result.up.duplicated}",
                f"{result.goodput_down * 8 / 1e6:.1f}/{result.goodput_up * 8 / 1e6:.1f}",
                str(result.registrations),
                _survival(result),
            )
        yield table
