"""Structured logging: ``get_logger(name)`` for every room of runtime, configured once.

An event is a short constant name plus flat fields::

    log = get_logger("registration")
    log.info("registration-accepted", home_address="10.1.0.5", lifetime_s=1800)

On a terminal events are drawn for people, elsewhere as one JSON object per line. Two
processors stand between every event and the output, also for what other libraries log
through the standard library:

1. secrets are withheld: fields whose name says key, secret, password or authenticator, all
   raw bytes, and any run of 32 or more hexadecimal digits (a 128-bit key) in any text,
   formatted tracebacks included. Tracebacks never show local variables.
2. repeated events are limited: ``BURST`` of one name per ``WINDOW_S``; the next one that is
   let through says how many were suppressed. Debug events are not limited.
"""

from __future__ import annotations

import logging as stdlib_logging
import os
import re
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

from fastmip.runtime.event_stream import EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "json", "console")

WITHHELD = "[withheld]"
BURST = 20
"""Events of one name let through in a window."""
WINDOW_S = 10.0
"""Length of a rate limiting window in seconds."""
MAX_TRACKED = 1024
"""Event names remembered by the rate limiter; the least recent is forgotten beyond."""

_SECRET_NAME = re.compile(
    r"(^|_)(key|keys|key_hex|secret|secrets|password|passphrase|authenticator|psk)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(r"(?<![0-9A-Za-z])(?:0x)?[0-9A-Fa-f]{32,}(?![0-9A-Za-z])")


def withhold_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what looks like key material by ``[withheld]``; a structlog processor."""
    for name, value in event.items():
        if name.startswith("_"):  # structlog's own bookkeeping, removed before rendering
            continue
        event[name] = WITHHELD if _SECRET_NAME.search(name) else _without_secrets(value)
    return event


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        return _SECRET_TEXT.sub(WITHHELD, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return WITHHELD
    if isinstance(value, dict):
        return {
            name: WITHHELD if _SECRET_NAME.search(str(name)) else _without_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(item) for item in value]
    return _SECRET_TEXT.sub(WITHHELD, str(value))


class RateLimiter:
    """A structlog processor that lets through ``burst`` events of one name per window.

    The first event after suppressed ones carries their number as ``suppressed``;
    ``suppressed_total`` counts all of them. Memory is bounded by ``MAX_TRACKED`` names.
    """

    def __init__(
        self,
        burst: int = BURST,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.suppressed_total = 0
        self._burst = burst
        self._window_s = window_s
        self._clock = clock
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Pass the event on, or raise ``structlog.DropEvent``."""
        if method == "debug":
            return event
        now = self._clock()
        window = self._window(str(event.get("logger_name", "")), str(event.get("event", "")), now)
        if now - window.start >= self._window_s:
            window.start = now
            window.passed = 0
        if window.passed >= self._burst:
            window.suppressed += 1
            self.suppressed_total += 1
            raise structlog.DropEvent
        window.passed += 1
        if window.suppressed:
            event["suppressed"] = window.suppressed
            window.suppressed = 0
        return event

    def _window(self, logger: str, name: str, now: float) -> _Window:
        key = (logger, name)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(now)
            if len(self._windows) > MAX_TRACKED:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(key)
        return window


class _Window:
    __slots__ = ("passed", "start", "suppressed")

    def __init__(self, start: float) -> None:
        self.start = start
        self.passed = 0
        self.suppressed = 0


def tell_watchers(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hand a copy without secrets to whoever watches events; a structlog processor."""
    if EVENTS.is_watched:
        copied = {name: value for name, value in event.items() if not name.startswith("_")}
        copied.pop("exc_info", None)
        EVENTS.offer(dict(withhold_secrets(None, "", copied)))
    return event


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a room; its events carry ``logger_name=name``.

    May be called at import time: the configuration in force when an event happens decides.
    """
    return cast("FilteringBoundLogger", structlog.get_logger(logger_name=name))


def configure_logging(
    level: str = "info", log_format: str = "auto", stream: TextIO | None = None
) -> None:
    """Set level and format for fastmip and for libraries that use the standard library.

    ``log_format``: ``json``, ``console``, or ``auto`` (console when the stream is a
    terminal). May be called again, for example on reload. Raises ValueError for an unknown
    level or format.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}: expected one of {', '.join(LEVELS)}")
    if log_format not in FORMATS:
        raise ValueError(f"log format {log_format!r}: expected one of {', '.join(FORMATS)}")
    output = sys.stderr if stream is None else stream
    console = log_format == "console" or (log_format == "auto" and output.isatty())
    number = stdlib_logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            tell_watchers,
            RateLimiter(),
            structlog.processors.format_exc_info,  # plain text: never the values of variables
            withhold_secrets,
            _renderer(console=console, colors=console and output.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,  # a reload changes the level of living loggers
    )
    _adopt_libraries(number)


def _renderer(*, console: bool, colors: bool) -> Processor:
    if console:
        return structlog.dev.ConsoleRenderer(colors=colors and "NO_COLOR" not in os.environ)
    return structlog.processors.JSONRenderer()


class _LibraryHandler(stdlib_logging.Handler):
    """Turns what asyncio, pyroute2 and others log into events of ours.

    All messages of one library share an event name, so the rate limit holds for them.
    """

    def emit(self, record: stdlib_logging.LogRecord) -> None:
        fields: dict[str, Any] = {"message": record.getMessage()}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        get_logger(record.name).log(record.levelno, "library-message", **fields)


def _adopt_libraries(number: int) -> None:
    root = stdlib_logging.getLogger()
    if not any(isinstance(handler, _LibraryHandler) for handler in root.handlers):
        root.addHandler(_LibraryHandler())
    # Libraries chatter at debug and info; their warnings are what an operator wants.
    root.setLevel(max(number, stdlib_logging.WARNING))
