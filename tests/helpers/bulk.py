"""TCP bulk for a peer that has only Python's standard library: prints a digest of what passed.

python3 bulk.py sink ADDRESS PORT               accept one connection, read it to its end
python3 bulk.py source SOURCE ADDRESS PORT SIZE connect and send so many bytes
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys

LIMIT_S = 30


def sink(address: str, port: int) -> str:
    """Accept one connection; digest and size of what came."""
    digest, size = hashlib.sha256(), 0
    with socket.create_server((address, port)) as listener:
        listener.settimeout(LIMIT_S)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(LIMIT_S)
            while data := connection.recv(1 << 18):
                digest.update(data)
                size += len(data)
    return f"{digest.hexdigest()} {size}"


def source(source_address: str, address: str, port: int, size: int) -> str:
    """Connect, as soon as somebody listens, and send; digest and size of what went."""
    digest = hashlib.sha256()
    block = os.urandom(1 << 16)
    with socket.create_connection((address, port), LIMIT_S, (source_address, 0)) as connection:
        for _ in range(size // len(block)):
            connection.sendall(block)
            digest.update(block)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # until the far end has read everything
    return f"{digest.hexdigest()} {size // len(block) * len(block)}"


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "sink":
        answer = sink(words[0], int(words[1]))
    else:
        answer = source(words[0], words[1], int(words[2]), int(words[3]))
    sys.stdout.write(f"{answer}\n")
