"""A home agent that only speaks registration: struct and hmac, no line of fastmip.

``python scripted_home_agent.py HOME-AGENT-ADDRESS LIFETIME`` answers every well-formed request
with code 0 and prints one line of JSON for each. The key is 00 01 .. 0f, the SPI 256.
"""

from __future__ import annotations

import hmac
import json
import socket
import struct
import sys

KEY = bytes(range(16))
IP_PKTINFO = 8


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def dotted(value: int) -> str:
    return socket.inet_ntoa(struct.pack("!I", value))


def main() -> None:
    address, lifetime_cap = sys.argv[1], int(sys.argv[2])
    port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    port.bind((address, 434))
    say(json.dumps({"ready": True}))
    while True:
        data, ancillary, _, (source, source_port) = port.recvmsg(2048, 64)
        kind, flags, lifetime, home, agent, care_of, ident = struct.unpack("!BBHIIIQ", data[:24])
        good = (
            len(data) == 46
            and kind == 1
            and data[24:30] == struct.pack("!BBI", 32, 20, 256)
            and hmac.compare_digest(data[30:], hmac.digest(KEY, data[:30], "md5"))
        )
        index = struct.unpack("=i", ancillary[0][2][:4])[0]
        line = {
            "good": good,
            "flags": flags,
            "lifetime": lifetime,
            "home": dotted(home),
            "agent": dotted(agent),
            "care_of": dotted(care_of),
            "source": source,
            "interface": socket.if_indextoname(index),
        }
        say(json.dumps(line))
        granted = min(lifetime, lifetime_cap)
        reply = struct.pack("!BBHIIQ", 3, 0, granted, home, agent, ident)
        reply += struct.pack("!BBI", 32, 20, 256)
        reply += hmac.digest(KEY, reply, "md5")
        port.sendto(reply, (source, source_port))


if __name__ == "__main__":
    main()
