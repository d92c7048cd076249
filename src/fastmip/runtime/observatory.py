"""What a whole daemon shows of its packets: snapshots, traces, captures; every role's engine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastmip.runtime.engine_view import Observed, all_verdicts, stage_rows
from fastmip.runtime.service import Answer, Arguments, CommandError, Service
from fastmip.runtime.taps import TraceBook, capture

if TYPE_CHECKING:
    from fastmip._dataplane import Engine

_WORKER_THREADS: Final = "fastmip-"


class Observatory:
    """Answers ``observe``, ``trace`` and ``capture`` for all roles of a daemon."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = services
        self._traces = TraceBook()

    def observed(self) -> dict[str, Observed]:
        """Every role with a running engine."""
        found = {service.name: service.observed() for service in self._services}
        return {name: one for name, one in found.items() if one is not None}

    def _engines(self) -> Mapping[str, Engine]:
        """Engines by role. Raises CommandError when none runs."""
        engines = {name: one.engine for name, one in self.observed().items()}
        if not engines:
            raise CommandError("no packet engine runs in this daemon")
        return engines

    async def answer(self, command: str, arguments: Arguments) -> object:
        """Answer one of ``COMMANDS``. Raises CommandError."""
        if command == "observe":
            return self.snapshot()
        if command == "trace add":
            return self._traces.add(self._engines(), arguments)
        if command == "trace clear":
            return self._traces.clear()
        if command == "show trace":
            return self._traces.show(names_role=len(self.observed()) > 1)
        return capture(self._engines(), arguments)

    def close(self) -> None:
        """Stop tracing; before the engines end."""
        self._traces.clear()

    def snapshot(self) -> Answer:
        """Counters of this moment, for ``fastmip top``: rates are differences of two."""
        return {
            "monotonic_s": time.monotonic(),
            "cpu_s": time.process_time(),
            "threads_cpu_s": thread_times(),
            "roles": [_told(name, one) for name, one in self.observed().items()],
        }


COMMANDS: Final = frozenset({"observe", "trace add", "trace clear", "show trace", "capture"})


def _told(role: str, one: Observed) -> dict[str, object]:
    engine = one.engine
    verdicts = all_verdicts(engine, one.offloaded)
    return {
        "role": role,
        "bindings": engine.bindings(),
        "verdicts": {name: list(pair) for name, pair in verdicts.items() if pair[0]},
        "balance": engine.balance(),
        "stages": stage_rows(engine),
        "workers": engine.worker_status(),
        "counters": {n: v for n, v in one.counters.items() if v and n not in one.gauges},
        "gauges": {n: v for n, v in one.counters.items() if n in one.gauges},
        "lost": dict(one.lost),
    }


def thread_times(proc: Path = Path("/proc/self/task")) -> dict[str, float]:
    """CPU seconds of each worker thread by its name; of equal names the sum."""
    times: dict[str, float] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for task in proc.iterdir():
        with contextlib.suppress(OSError, ValueError):  # it ended meanwhile
            text = (task / "stat").read_text()
            name = text[text.index("(") + 1 : text.rindex(")")]
            if not name.startswith(_WORKER_THREADS):
                continue
            fields = text[text.rindex(")") + 2 :].split()
            times[name] = times.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / tick
    return times
