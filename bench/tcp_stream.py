"""One end of a TCP stream: ``sink PORT`` or ``source FROM TO PORT SECONDS``, which prints Gbit/s.

The time counts until the other end has read everything.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

CHUNK = 1 << 20
PATIENCE_S = 10.0


def swallow(connection: socket.socket) -> None:
    """Read to the end, then close."""
    room = bytearray(CHUNK)
    with connection:
        while connection.recv_into(room):
            pass


def sink(port: int) -> None:
    """Read whatever anybody sends, for ever."""
    with socket.create_server(("", port)) as listening:
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=swallow, args=(connection,), daemon=True).start()


def source(own: str, to: str, port: int, seconds: float) -> float:
    """Send for a while; Gbit/s."""
    sent = 0
    data = bytes(CHUNK)
    with socket.create_connection((to, port), PATIENCE_S, (own, 0)) as connection:
        start = time.perf_counter()
        while time.perf_counter() < start + seconds:
            sent += connection.send(data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        return sent * 8 / (time.perf_counter() - start) / 1e9


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink(int(sys.argv[2]))
    print(source(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
