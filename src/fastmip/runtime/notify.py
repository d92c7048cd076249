"""Tell the service manager how we are: sd_notify without a library (systemd sd_notify(3))."""

from __future__ import annotations

import os
import socket


def notify(**fields: str | int) -> bool:
    """Send fields such as ``READY=1`` or ``STATUS=...``; False when nobody listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    text = "\n".join(f"{key}={value}" for key, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(text.encode(), address)
        except OSError:
            # A service manager that went away must not take the home agent with it.
            return False
    return True


def watchdog_interval_s(default: float = 2.0) -> float:
    """How often to look at the heartbeats: half of WATCHDOG_USEC when it is meant for us."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not microseconds.isdigit() or not for_us or int(microseconds) == 0:
        return default
    return min(default, int(microseconds) / 2e6)
