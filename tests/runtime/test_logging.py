"""The log withholds secrets, limits repetition, and is JSON away from a terminal."""

from __future__ import annotations

import io
import json
import logging as stdlib_logging
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from fastmip.runtime.logging import (
    MAX_TRACKED,
    WITHHELD,
    RateLimiter,
    configure_logging,
    get_logger,
    withhold_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = bytes(range(16))


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = stdlib_logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    structlog.reset_defaults()
    root.setLevel(level)
    root.handlers[:] = handlers


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_events_are_one_json_object_per_line_away_from_a_terminal() -> None:
    stream = io.StringIO()
    configure_logging("info", "auto", stream)
    get_logger("registration").info("accepted", home_address="10.1.0.5", lifetime_s=1800)
    [event] = lines(stream)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "accepted",
        "level": "info",
        "logger_name": "registration",
        "home_address": "10.1.0.5",
        "lifetime_s": 1800,
    }


def test_a_terminal_gets_text_with_colour_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    configure_logging("info", "auto", stream)
    get_logger("x").info("accepted", n=1)
    assert "\x1b[" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    configure_logging("info", "auto", plain)
    get_logger("x").info("accepted", n=1)
    assert "\x1b[" not in plain.getvalue()
    assert "accepted" in plain.getvalue()


def test_a_new_level_reaches_loggers_made_before() -> None:
    stream = io.StringIO()
    log = get_logger("x")
    configure_logging("warning", "json", stream)
    log.info("hidden")
    configure_logging("debug", "json", stream)
    log.debug("shown")
    assert [event["event"] for event in lines(stream)] == ["shown"]


@pytest.mark.parametrize(("level", "log_format"), [("loud", "json"), ("info", "xml")])
def test_unknown_level_or_format_is_refused(level: str, log_format: str) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        configure_logging(level, log_format)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_form_of_a_key_reaches_the_output(log_format: str) -> None:
    stream = io.StringIO()
    configure_logging("debug", log_format, stream)
    log = get_logger("x")
    secret = KEY.hex()
    log.info("named", key=secret, key_hex=secret, shared_secret=secret, authenticator="ab")
    log.info("bytes", payload=KEY, view=memoryview(KEY))
    log.info("text", note=f"key is {secret}!", upper=secret.upper(), prefixed="0x" + secret)
    log.info("nested", request={"args": [{"key": "hunter2", "spi": 256}], "raw": [KEY]})
    log.info(f"in the event {secret}")
    shared_key = KEY
    try:
        int(shared_key.hex())
    except ValueError:
        log.exception("failed")
        stdlib_logging.getLogger("asyncio").error("task failed", exc_info=True)
    output = stream.getvalue().lower()
    assert secret not in output
    assert repr(KEY).lower()[2:-1] not in output
    assert "hunter2" not in output
    assert "x01" not in output
    assert "256" in output
    assert output.count(WITHHELD) >= 12


def test_what_is_no_secret_stays_readable() -> None:
    event = {
        "event": "host-added",
        "key_file": "/etc/fastmip/keys/10.1.0.5.key",
        "home_address": "10.1.0.5",
        "identification": "e1e3f0a500000001",
        "algorithm": "hmac-md5",
        "spi": 256,
        "ok": True,
        "none": None,
    }
    assert withhold_secrets(None, "info", dict(event)) == event


@given(st.binary(min_size=16, max_size=64), st.text(alphabet=" ,:;=\"'!/-", max_size=5))
def test_hexadecimal_keys_never_survive_in_text(key: bytes, around: str) -> None:
    event = withhold_secrets(None, "info", {"event": "x", "note": around + key.hex() + around})
    assert key.hex() not in event["note"]


def test_repetition_is_limited_and_the_number_suppressed_is_told() -> None:
    now = 0.0
    limiter = RateLimiter(burst=2, window_s=10.0, clock=lambda: now)

    def passes() -> dict[str, Any] | None:
        try:
            return dict(limiter(None, "warning", {"event": "mn-authentication-failure"}))
        except structlog.DropEvent:
            return None

    assert [passes() is not None for _ in range(5)] == [True, True, False, False, False]
    now = 10.0
    assert passes() == {"event": "mn-authentication-failure", "suppressed": 3}
    assert passes() == {"event": "mn-authentication-failure"}
    assert limiter.suppressed_total == 3


def test_the_limit_is_per_event_name_and_logger_and_spares_debug() -> None:
    limiter = RateLimiter(burst=1, clock=lambda: 0.0)
    for logger in ("a", "b"):
        for name in ("x", "y"):
            limiter(None, "info", {"event": name, "logger_name": logger})
    for _ in range(3):
        limiter(None, "debug", {"event": "x", "logger_name": "a"})
    with pytest.raises(structlog.DropEvent):
        limiter(None, "info", {"event": "x", "logger_name": "a"})


def test_the_limiter_remembers_a_bounded_number_of_names() -> None:
    limiter = RateLimiter(burst=1, clock=lambda: 0.0)
    for number in range(MAX_TRACKED + 500):
        limiter(None, "info", {"event": f"event-{number}"})
    assert len(limiter._windows) == MAX_TRACKED


def test_library_warnings_come_through_limited_and_their_chatter_does_not() -> None:
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    library = stdlib_logging.getLogger("pyroute2.test")
    library.info("chatter")
    for number in range(100):
        library.warning("link %d went away", number)
    events = lines(stream)
    assert events[0]["message"] == "link 0 went away"
    assert events[0]["logger_name"] == "pyroute2.test"
    assert events[0]["level"] == "warning"
    assert len(events) == 20


def test_what_a_library_fails_with_is_told_and_where() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    try:
        int("twelve")
    except ValueError:
        stdlib_logging.getLogger("asyncio").exception("task failed")
    stdlib_logging.getLogger("asyncio").error("nothing raised")
    failed, plain = lines(stream)
    assert "ValueError: invalid literal" in failed["exception"]
    assert "exception" not in plain
    assert "exc_info" not in plain
