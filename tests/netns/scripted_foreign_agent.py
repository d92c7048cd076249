"""A foreign agent in struct and sockets alone, no line of fastmip.

``python scripted_foreign_agent.py LINK ADDRESS NETWORK-LENGTH HOME-ADDRESS UPLINK-ADDRESS FLAGS``
advertises every 0.3 s for 1 s, relays registrations of the one home address, strips IP-in-IP for
it and puts what it sends into the reverse tunnel. The care-of address is ADDRESS. It asks nobody
by ARP: the mobile node's MAC is that of its request. Prints a line of JSON for each request.
SIGUSR1: start again (sequence 0). SIGUSR2: deny with 66 from now on.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import time

ALL_HOSTS = "224.0.0.1"
INTERVAL_S, LIFETIME_S = 0.3, 1


def say(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def checksum(data: bytes) -> int:
    if len(data) & 1:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(protocol: int, source: bytes, target: bytes, payload: bytes, ttl: int = 64) -> bytes:
    fields = (0x45, 0, 20 + len(payload), 0, 0, ttl, protocol)
    header = struct.pack("!BBHHHBBH4s4s", *fields, 0, source, target)
    return struct.pack("!BBHHHBBH4s4s", *fields, checksum(header), source, target) + payload


class Agent:
    def __init__(self, link: str, address: str, length: int, home: str, uplink: str, flags: int):
        self.link, self.length, self.flags = link, length, flags
        self.address, self.home = socket.inet_aton(address), socket.inet_aton(home)
        self.frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.frames.bind((link, 0x0800))
        self.mac = self.frames.getsockname()[4]
        self.up = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.up.bind((uplink, 0))
        self.tunnel = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
        self.out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.sequence = 0
        self.denies = False
        self.node: tuple[bytes, int] | None = None
        self.home_agent = b""
        self.reverse = False
        signal.signal(signal.SIGUSR1, self.start_again)
        signal.signal(signal.SIGUSR2, self.deny)

    def start_again(self, *_: object) -> None:
        self.sequence = 0

    def deny(self, *_: object) -> None:
        self.denies = True

    def frame(self, mac: bytes, packet: bytes) -> None:
        self.frames.send(mac + self.mac + b"\x08\x00" + packet)

    def advertise(self) -> None:
        body = struct.pack("!BBHBBH", 9, 0, 0, 1, 2, LIFETIME_S) + self.address + bytes(4)
        body += struct.pack("!BBHHH", 16, 10, self.sequence, 600, self.flags) + self.address
        body += bytes((19, 1, self.length, 0))
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        packet = ipv4(1, self.address, socket.inet_aton(ALL_HOSTS), body, ttl=1)
        self.frame(bytes.fromhex("01005e000001"), packet)
        self.sequence = 256 if self.sequence == 0xFFFF else self.sequence + 1

    def from_link(self) -> None:
        frame = self.frames.recv(65535)
        target, source, packet = frame[:6], frame[6:12], frame[14:]
        size = struct.unpack("!H", packet[2:4])[0]
        packet = packet[:size]
        if source == self.mac:
            return
        if packet[9] == 1 and packet[20] == 10:  # a solicitation
            self.advertise()
        elif target == self.mac and packet[9] == 17 and packet[16:20] == self.address:
            if packet[22:24] == struct.pack("!H", 434):
                self.request(source, packet)
        elif target == self.mac and packet[12:16] == self.home and self.reverse:
            outer = ipv4(4, self.address, self.home_agent, packet)
            self.out.sendto(outer, (socket.inet_ntoa(self.home_agent), 0))

    def request(self, mac: bytes, packet: bytes) -> None:
        port = struct.unpack("!H", packet[20:22])[0]
        data = packet[28:]
        self.node = (mac, port)
        self.home_agent = data[8:12]
        line = {
            "flags": data[1],
            "lifetime": struct.unpack("!H", data[2:4])[0],
            "care_of": socket.inet_ntoa(data[12:16]),
            "source": socket.inet_ntoa(packet[12:16]),
            "ttl": packet[8],
            "at": time.clock_gettime(time.CLOCK_BOOTTIME),
        }
        say(line)
        if self.denies:
            denial = struct.pack("!BBH", 3, 66, 0) + data[4:12] + data[16:24]
            self.reply(denial)
            return
        self.up.sendto(data, (socket.inet_ntoa(self.home_agent), 434))

    def reply(self, data: bytes) -> None:
        if self.node is None:
            return
        mac, port = self.node
        udp = struct.pack("!HHHH", 434, port, 8 + len(data), 0) + data
        self.frame(mac, ipv4(17, self.address, self.home, udp))

    def from_home_agent(self) -> None:
        data = self.up.recv(65535)
        if data[1] == 0 and self.node is not None:
            self.reverse = data[2:4] != b"\0\0"
        self.reply(data)

    def from_tunnel(self) -> None:
        packet = self.tunnel.recv(65535)
        inner = packet[20:]
        if packet[16:20] == self.address and inner[16:20] == self.home and self.node:
            self.frame(self.node[0], inner)

    def run(self) -> None:
        due = time.monotonic()
        readers = {
            self.frames: self.from_link,
            self.up: self.from_home_agent,
            self.tunnel: self.from_tunnel,
        }
        while True:
            ready, _, _ = select.select(list(readers), [], [], max(0, due - time.monotonic()))
            for one in ready:
                readers[one]()
            if time.monotonic() >= due:
                self.advertise()
                due = time.monotonic() + INTERVAL_S


if __name__ == "__main__":
    link, address, length, home, uplink, flags = sys.argv[1:]
    agent = Agent(link, address, int(length), home, uplink, int(flags, 16))
    say({"ready": os.getpid()})
    agent.run()
