"""Proxy ARP and gratuitous ARP on the home link, ours and nobody else's (RFC 5944 4.6).

The kernel's own proxy ARP would answer for every address it can route; we answer only for
home addresses with a binding. What must not be answered:

- announcements (sender = target): nobody asks, and the node itself sends them on return;
- requests by the node itself, known by its link-layer address;
- address probes (RFC 5227, sender 0.0.0.0) unless they certainly come from somebody else:
  a node that returns may probe for its own address, and an answer would lock it out.

The link-layer address of a node is learnt from its own ARP, which RFC 5944 4.6 makes it send
before it deregisters, and else asked of the kernel's neighbour table.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from fastmip.agents.prefix_set import Network, PrefixSet, holds
from fastmip.runtime import clock
from fastmip.runtime.logging import get_logger

REPEATS_NS = (1_000_000_000, 3_000_000_000)
"""When a gratuitous ARP is sent again: "a small number of times" (RFC 5944 4.6)."""
LEARNT_MAX = 4096
"""Link-layer addresses of returning nodes we remember."""
_DRAIN = 256
"""Frames taken at once before the loop gets a turn."""

_ETH_P_ARP = 0x0806
_ETHERNET_IPV4 = b"\x00\x01\x08\x00\x06\x04"
_REQUEST, _REPLY = 1, 2
_BROADCAST_MAC = b"\xff" * 6
_FRAME = struct.Struct("!6s6sH6sH6sI6sI")
"""Ethernet header and ARP: destination, source, type; fixed part, operation, sender, target."""
_SO_ATTACH_FILTER = 26
_SIOCGARP = 0x8954
_ATF_COM = 0x02
_PACKET_TYPE = 0xFFFFF004  # linux/filter.h: SKF_AD_OFF + SKF_AD_PKTTYPE
_OTHER_HOST = 3

ARP_COUNTERS = {
    "arp-requests-answered": "Requests for a bound home address, answered with our address.",
    "arp-own-requests-ignored": "Announcements, probes and requests a returning node may send.",
    "arp-gratuitous-sent": "Gratuitous ARPs broadcast on the home link, repeats included.",
    "arp-send-failures": "ARP frames the kernel refused: the link is down or its queue full.",
}
"""Counter -> what it counts; ``docs/counters.md`` is checked against it."""

log = get_logger("arp")


class AddressBits:
    """A set of addresses of one network, one bit each: a million in 128 KiB."""

    def __init__(self, network: int, length: int) -> None:
        self._base = network
        self._size = 1 << (32 - length)
        self._bits = bytearray((self._size + 7) // 8)

    def __contains__(self, address: int) -> bool:
        offset = address - self._base
        return 0 <= offset < self._size and bool(self._bits[offset >> 3] & (1 << (offset & 7)))

    def add(self, address: int) -> None:
        """Add an address; one outside the network is ignored, nobody can ask for it here."""
        offset = address - self._base
        if 0 <= offset < self._size:
            self._bits[offset >> 3] |= 1 << (offset & 7)

    def discard(self, address: int) -> None:
        """Remove an address if it is there."""
        offset = address - self._base
        if 0 <= offset < self._size:
            self._bits[offset >> 3] &= ~(1 << (offset & 7))

    def update(self, addresses: npt.NDArray[np.uint32]) -> None:
        """Add many addresses at once."""
        offsets = addresses.astype(np.int64) - self._base
        offsets = offsets[(offsets >= 0) & (offsets < self._size)]
        bits = np.frombuffer(self._bits, dtype=np.uint8)
        np.bitwise_or.at(bits, offsets >> 3, (1 << (offsets & 7)).astype(np.uint8))


def build_request(source_mac: bytes, sender_mac: bytes, address: int) -> bytes:
    """A gratuitous ARP in its request form: sender and target are the address, broadcast."""
    return _FRAME.pack(
        _BROADCAST_MAC, source_mac, _ETH_P_ARP, _ETHERNET_IPV4, _REQUEST,
        sender_mac, address, bytes(6), address,
    )  # fmt: skip


def build_reply(mac: bytes, address: int, asker_mac: bytes, asker: int) -> bytes:
    """A proxy ARP reply: ``address`` is at ``mac``."""
    return _FRAME.pack(
        asker_mac, mac, _ETH_P_ARP, _ETHERNET_IPV4, _REPLY, mac, address, asker_mac, asker
    )


def neighbour_mac(interface: str, address: int) -> bytes | None:
    """The kernel's neighbour entry for an address, None when it has no complete one."""
    target = struct.pack("=H2sI8x", socket.AF_INET, b"", socket.htonl(address))
    request = target + bytes(16 + 4 + 16) + interface.encode().ljust(16, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            answer = fcntl.ioctl(control, _SIOCGARP, request)
        except OSError:
            return None
    flags = struct.unpack_from("=i", answer, 32)[0]
    return answer[18:24] if flags & _ATF_COM else None


def arp_filter(network: int, length: int) -> list[tuple[int, int, int, int]]:
    """Classic BPF: Ethernet/IPv4 ARP whose sender or target lies in the network."""
    mask = (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF
    accept, reject = 14, 15  # instruction numbers; jumps count from the next instruction
    return [
        (0x20, 0, 0, _PACKET_TYPE),  # 0 ld
        (0x15, reject - 2, 0, _OTHER_HOST),  # 1 jeq: to somebody else, or of another VLAN
        (0x28, 0, 0, 12),  # 2 ldh ether type
        (0x15, 0, reject - 4, _ETH_P_ARP),  # 3 jeq
        (0x20, 0, 0, 14),  # 4 ld hardware and protocol type
        (0x15, 0, reject - 6, 0x00010800),  # 5 jeq
        (0x28, 0, 0, 18),  # 6 ldh address lengths
        (0x15, 0, reject - 8, 0x0604),  # 7 jeq
        (0x20, 0, 0, 38),  # 8 ld target address
        (0x54, 0, 0, mask),  # 9 and
        (0x15, accept - 11, 0, network),  # 10 jeq
        (0x20, 0, 0, 28),  # 11 ld sender address
        (0x54, 0, 0, mask),  # 12 and
        (0x15, 0, reject - 14, network),  # 13 jeq
        (0x06, 0, 0, 0xFFFF),  # 14 accept
        (0x06, 0, 0, 0),  # 15 reject
    ]


def attach_filter(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    """Attach a classic BPF program to a socket."""
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HL", len(program), ctypes.addressof(buffer)),
    )


class ArpResponder:
    """Answers for bound home addresses on one Ethernet link; driven by the event loop."""

    def __init__(self, interface: str, network: int, length: int) -> None:
        self.interface = interface
        self.bound = AddressBits(network, length)
        """Home addresses we answer for."""
        self.behind = PrefixSet()
        """Mobile networks out of the home network, which we answer for as well (RFC 5177 6.4)."""
        self.counters = dict.fromkeys(ARP_COUNTERS, 0)
        self._network = (network, length)
        self._learnt: OrderedDict[int, bytes] = OrderedDict()
        # One queue for each delay: each is in order of time by itself.
        self._repeats: list[deque[tuple[int, int, int, bytes | None]]] = [
            deque() for _ in REPEATS_NS
        ]
        self._generation: dict[int, int] = {}
        self._last_generation = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the packet socket. Raises OSError."""
        self._loop = loop
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        # Protocol 0: nothing arrives before the filter is in place.
        self._socket = socket.socket(socket.AF_PACKET, kind, 0)
        attach_filter(self._socket, arp_filter(*self._network))
        self._socket.bind((self.interface, _ETH_P_ARP))
        loop.add_reader(self._socket, self.drain)

    def stop(self) -> None:
        """Close the socket and forget repeats."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    @property
    def mac(self) -> bytes:
        """The link-layer address our interface has now."""
        return b"" if self._socket is None else bytes(self._socket.getsockname()[4])

    # effects of the agent

    def lead_networks(
        self, leaving: Iterable[Network], entering: Iterable[Network], router: int
    ) -> None:
        """Stop, and start, answering for mobile networks of a router."""
        for network in leaving:
            self.behind.remove(network, router)
        for network in entering:
            if holds(self._network, network):
                self.behind.add(network, router)

    def start_proxy(self, home_address: int) -> None:
        """Answer requests for a home address from now on."""
        self.bound.add(home_address)

    def stop_proxy(self, home_address: int) -> None:
        """Answer no more for a home address; repeats of announcements end too."""
        self.bound.discard(home_address)
        self._generation.pop(home_address, None)

    def announce(self, home_address: int, mac: bytes | None) -> None:
        """Broadcast a gratuitous ARP now and repeat it; None announces our own interface.

        A later announcement or ``stop_proxy`` for the same address ends the repeats.
        """
        self._last_generation += 1
        generation = self._generation[home_address] = self._last_generation
        self._send_gratuitous(home_address, mac)
        now = clock.boot_ns()
        for queue, delay in zip(self._repeats, REPEATS_NS, strict=True):
            queue.append((now + delay, generation, home_address, mac))
        self._arm()

    def covers(self, address: int) -> bool:
        """Whether an address belongs to the home network of this link."""
        network, length = self._network
        return (address ^ network) >> (32 - length) == 0

    def mac_of(self, address: int) -> bytes | None:
        """Link-layer address of a node on the home link, from its own ARP or the kernel."""
        self.drain()
        return self._learnt.get(address) or neighbour_mac(self.interface, address)

    # receiving

    def drain(self) -> None:
        """Read what has arrived, at most a batch."""
        if self._socket is None:
            return
        for _ in range(_DRAIN):
            try:
                frame = self._socket.recv(128)
            except BlockingIOError:
                return
            except OSError as error:  # the link went down: the socket lives on
                log.warning("arp-socket", interface=self.interface, reason=str(error))
                return
            if len(frame) >= _FRAME.size:
                self._receive(frame)

    def _receive(self, frame: bytes) -> None:
        fields = _FRAME.unpack_from(frame)
        operation, sender_mac, sender, target = fields[4], fields[5], fields[6], fields[8]
        if sender_mac[0] & 1 or not any(sender_mac):
            return  # a group address is nobody's
        if sender in self.bound and sender_mac != self.mac:
            self._learn(sender, sender_mac)
        if operation != _REQUEST or not (target in self.bound or self.behind.find(target)):
            return
        if self._is_from_node(sender, sender_mac, target):
            self.counters["arp-own-requests-ignored"] += 1
            return
        self._send(build_reply(self.mac, target, sender_mac, sender))
        self.counters["arp-requests-answered"] += 1

    def _is_from_node(self, sender: int, sender_mac: bytes, target: int) -> bool:
        """Whether an answer could reach the very node it is about (see the module text)."""
        if sender == target:
            return True
        known = self._learnt.get(target)
        if sender == 0:
            return known is None or known == sender_mac
        return known == sender_mac

    def _learn(self, address: int, mac: bytes) -> None:
        self._learnt[address] = mac
        self._learnt.move_to_end(address)
        if len(self._learnt) > LEARNT_MAX:
            self._learnt.popitem(last=False)

    # sending

    def _send_gratuitous(self, home_address: int, mac: bytes | None) -> None:
        own = self.mac
        if len(own) == 6:
            self._send(build_request(own, mac or own, home_address))
            self.counters["arp-gratuitous-sent"] += 1

    def _send(self, frame: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(frame)
        except OSError:  # queue full or link down: repeats and the next request make up for it
            self.counters["arp-send-failures"] += 1

    # repeating

    def _arm(self) -> None:
        heads = [queue[0][0] for queue in self._repeats if queue]
        if self._timer is None and heads and self._loop is not None:
            delay_s = max(0.0, (min(heads) - clock.boot_ns()) / 1e9)
            self._timer = self._loop.call_later(delay_s, self._repeat)

    def _repeat(self) -> None:
        self._timer = None
        now = clock.boot_ns()
        for queue in self._repeats:
            while queue and queue[0][0] <= now:
                _, generation, address, mac = queue.popleft()
                if self._generation.get(address) != generation:
                    continue
                self._send_gratuitous(address, mac)
                if queue is self._repeats[-1]:
                    del self._generation[address]
        self._arm()
