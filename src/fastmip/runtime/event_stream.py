"""Events as they happen, for ``fastmip debug``: what is logged, and more while somebody looks.

Whoever has something to tell that is too much for a log asks ``EVENTS.is_watched`` first, which
costs one attribute, and then calls ``emit``. Events of the log come here by a processor
(``logging.py``), with secrets withheld. A watcher that reads too slowly misses events and is
told how many.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import Final

Event = dict[str, object]

MAX_WATCHERS: Final = 16
MAX_WAITING: Final = 1000
"""Events kept for a watcher that is behind."""


class _Watcher:
    """One reader of events."""

    __slots__ = ("_names", "_queue", "omitted")

    def __init__(self, names: Collection[str]) -> None:
        self._names = tuple(names)
        self._queue: asyncio.Queue[Event] = asyncio.Queue(MAX_WAITING)
        self.omitted = 0

    def wants(self, name: str) -> bool:
        """Whether an event is one of those asked for, by name or by its first words."""
        return not self._names or any(
            name == asked or name.startswith(f"{asked}-") for asked in self._names
        )

    def put(self, event: Event) -> None:
        if self._queue.full():
            self.omitted += 1
            return
        if self.omitted:
            event = {**event, "omitted": self.omitted}
            self.omitted = 0
        self._queue.put_nowait(event)

    async def next(self) -> Event:
        return await self._queue.get()


class EventStream:
    """Hands events to everybody who watches; used in one thread."""

    def __init__(self) -> None:
        self.is_watched = False
        """Somebody looks: only then is it worth while to make an event."""
        self._watchers: list[_Watcher] = []

    def emit(self, name: str, **fields: object) -> None:
        """Tell the watchers; nothing of it goes into the log. Never give it a secret."""
        moment = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        self.offer({"event": name, "timestamp": moment, **fields})

    def offer(self, event: Event) -> None:
        """Pass an event on to those who asked for its name."""
        name = str(event.get("event", ""))
        for watcher in self._watchers:
            if watcher.wants(name):
                watcher.put(event)

    @property
    def has_room(self) -> bool:
        """Whether one more may watch."""
        return len(self._watchers) < MAX_WATCHERS

    async def watch(self, names: Collection[str]) -> AsyncIterator[Event]:
        """Events from now on; no names: all of them. Ends when the caller stops asking."""
        watcher = _Watcher(names)
        self._watchers.append(watcher)
        self.is_watched = True
        try:
            while True:
                yield await watcher.next()
        finally:
            self._watchers.remove(watcher)
            self.is_watched = bool(self._watchers)


EVENTS = EventStream()
"""The process has one, as it has one log."""
