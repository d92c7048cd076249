"""A TCP conversation that must not notice moves.

``server PORT`` echoes lines. ``client HOME-ADDRESS SERVER PORT SECONDS`` binds to the home
address, sends a numbered line every 10 ms and checks that each comes back, in order; it prints
one line of JSON and exits with 1 when the connection broke or a line is missing.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve(port: int) -> None:
    listener = socket.create_server(("", port))
    say("ready")
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)


def talk(home: str, server: str, port: int, seconds: float) -> int:
    connection = socket.create_connection((server, port), 5, source_address=(home, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    say("ready")
    connection.setblocking(False)
    watched = selectors.DefaultSelector()
    watched.register(connection, selectors.EVENT_READ)
    sent = received = 0
    longest = 0.0
    last = began = time.monotonic()
    heard = b""
    outgoing = b""
    try:
        while time.monotonic() - began < seconds or received < sent:
            if time.monotonic() - began > seconds + 30:
                break
            if time.monotonic() - began < seconds and time.monotonic() - began > sent * 0.01:
                outgoing += b"%d\n" % sent
                sent += 1
            if outgoing:
                with contextlib.suppress(BlockingIOError):
                    outgoing = outgoing[connection.send(outgoing) :]
            if not watched.select(0.005):
                continue
            heard += connection.recv(65536)
            while b"\n" in heard:
                line, heard = heard.split(b"\n", 1)
                assert int(line) == received, (line, received)
                received += 1
                now = time.monotonic()
                longest, last = max(longest, now - last), now
        broken = ""
    except OSError as error:
        broken = str(error)
    result = {"sent": sent, "received": received, "longest_gap_s": longest, "broken": broken}
    say(json.dumps(result))
    return int(bool(broken) or received != sent)


def main() -> int:
    if sys.argv[1] == "server":
        serve(int(sys.argv[2]))
        return 0
    home, server, port, seconds = sys.argv[2:]
    return talk(home, server, int(port), float(seconds))


if __name__ == "__main__":
    sys.exit(main())
