"""The XDP or TC program of our interfaces: which packets go to the engine without the kernel.

``bpf/fastmip_xdp.bpf.c`` says what it takes; everything else reaches the kernel as if the program
were not there. It is attached by a link that this process holds: when the process ends, also by
kill -9, the kernel detaches it. An interface that has somebody else's program is refused.

Addresses are host-order integers, as everywhere.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

from fastmip.runtime import libbpf
from fastmip.runtime.libbpf import BpfError, Object
from fastmip.runtime.logging import get_logger

log = get_logger("bpf")

Hook = Literal["xdp", "tc"]
"""Where a program looks at packets."""

OUTCOMES = (
    ("encapsulated", "Offload: sent through the tunnel of its binding."),
    ("decapsulated", "Offload: outer header removed, sent on."),
    ("steered-home", "For a home address: to the socket of a worker."),
    ("steered-tunnel", "A tunnel packet to us: to the socket of a worker."),
    ("passed-not-ipv4", "ARP, IPv6, VLAN tags: to the kernel."),
    ("passed-other", "IPv4, but none of our traffic: to the kernel."),
    ("passed-not-to-us", "Ours by its addresses, but the frame is for another MAC: to the kernel."),
    ("passed-unbound", "To a home address without a binding: to the kernel."),
    ("passed-truncated", "Ours, but not whole in its first buffer: to the kernel."),
    ("passed-options", "Ours, with IP options or a wrong header length: to the kernel."),
    ("passed-fragment", "Ours, a fragment: to the kernel, which puts it together."),
    ("passed-no-socket", "Ours, to the kernel and the engine behind it."),
)
"""What becomes of a frame, in the order of ``bpf/outcomes.h``: name and sentence."""
REFUSED = ("drop-redirect", "Redirected by offload, but its interface did not take it.")
"""Counted beside them, and no longer as encapsulated or decapsulated."""
OFFLOADED = 2
"""So many outcomes at the head of the list are offload's; their bytes are inner packets'."""

# bpf/tables.h
OWN_MAX, NETWORKS_MAX, INTERFACES_MAX, QUEUES_MAX, ROUTES_MAX = 32, 16, 16, 64, 1024
_STEER_UNBOUND, _OFFLOAD = 1, 2
_HEAD = struct.Struct("=6IQ")
_INTERFACE = struct.Struct("=I6sH")
HOME_SIZE, TALLIES = 128, 2
_SIOCGIFHWADDR = 0x8927
_CLOCK_STEP_NS = 10_000_000

PASS, REDIRECT = 2, 4
"""What the program returns (enum xdp_action)."""
_TC_REDIRECT = 7
"""TC_ACT_REDIRECT."""


_WATCHERS = ("sent_or_not", "not_redirected")
"""Programs that count what redirection lost."""


class XdpProgram:
    """The program in the kernel, its tables, and the interfaces it is attached to."""

    def __init__(self, loaded: Object, homes: int) -> None:
        self.homes = homes
        """Entries for home addresses; 0: every address of a home network counts as bound."""
        self._object = loaded
        self._own: list[int] = []
        self._networks: list[tuple[int, int, int]] = []
        self._udp_port = 0
        self._flags = 0 if homes else _STEER_UNBOUND
        self._generation = 1
        self._suspended_ns = suspended_ns()
        self._netns = Path("/proc/thread-self/ns/net").stat().st_ino
        self._interfaces: list[tuple[int, bytes]] = [(0, bytes(6))] * INTERFACES_MAX
        self._links: dict[int, int] = {}
        self._watchers: list[int] = []
        self._turn = 0
        self._settings = loaded.map("settings")
        self._active = loaded.map("active")
        self._counters = loaded.map("counters")
        self._xsks = loaded.map("xsks")
        self._refused = loaded.map("refused")
        self._write()

    @classmethod
    def load(cls, *, homes: int = 0, hook: Hook = "xdp") -> Self:
        """Load the program with room for so many home addresses, in this network namespace.

        ``hook``: where it will be attached.

        Raises BpfError with one line that says why it cannot be had.
        """
        cpus = libbpf.library().libbpf_num_possible_cpus()

        def prepare(opened: Object) -> None:
            opened.set_entries("homes", max(homes, 1))
            opened.set_constants(struct.pack("=I", cpus > TALLIES))
            opened.leave_out("fastmip" if hook == "tc" else "fastmip_tc")

        def prepare_blind(opened: Object) -> None:
            prepare(opened)
            for name in _WATCHERS:
                opened.leave_out(name)

        try:
            program = cls(Object("fastmip_xdp", prepare=prepare), homes)
        except BpfError as error:  # perhaps a kernel without type information of its own
            program = cls(Object("fastmip_xdp", prepare=prepare_blind), homes)
            log.warning("redirect-drops-not-counted", reason=str(error))
            return program
        try:
            program.watch_redirects()
        except BpfError as error:
            log.warning("redirect-drops-not-counted", reason=str(error))
        return program

    def watch_redirects(self) -> None:
        """Count what interfaces do not take. Raises BpfError."""
        for name in _WATCHERS:
            self._watchers.append(libbpf.link_tracepoint(self._object.program(name)))

    def home_memory(self) -> mmap.mmap:
        """The entries of home addresses and their counters: memory shared with the kernel."""
        return self._object.map("homes").memory(self.homes * HOME_SIZE)

    def close(self) -> None:
        """Detach everywhere and let go of the tables; may be called again."""
        for ifindex in list(self._links):
            self.detach(ifindex)
        while self._watchers:
            os.close(self._watchers.pop())
        self._object.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # interfaces

    def attach_tc(self, ifindex: int) -> None:
        """Attach at TC, where super-frames pass whole, beside programs of others.

        Raises BpfError: the interface is gone, or the kernel refuses.
        """
        name = _name_of(ifindex)
        self._give_place(ifindex, name)
        link = libbpf.link_tc(self._object.program("fastmip_tc"), ifindex)
        if link < 0:
            self._leave_place(ifindex)
            if link == -errno.EINVAL:
                raise BpfError(f"{name}: TC links need Linux 6.6: use XDP")
            raise libbpf.refusal(f"{name}: TC", link)
        self._links[ifindex] = link
        log.info("tc-attached", interface=name)

    def attach(self, ifindex: int, *, mode: str | None = None) -> str:
        """Attach to an interface of this network namespace: ``native`` or ``generic``.

        ``mode`` insists on one of them; without it, generic is for drivers that cannot do better.
        Raises BpfError: the interface is gone, has another program, or the kernel refuses.
        """
        name = _name_of(ifindex)
        other = libbpf.xdp_program_of(ifindex)
        if other:
            raise BpfError(f"{name}: the XDP program {other} is attached already: detach it first")
        self._give_place(ifindex, name)
        refused = 0
        for choice, flags in (("native", libbpf.NATIVE), ("generic", libbpf.GENERIC)):
            if mode not in {None, choice}:
                continue
            link = libbpf.link_xdp(self._object.program("fastmip"), ifindex, flags)
            if link >= 0:
                self._links[ifindex] = link
                log.info("xdp-attached", interface=name, mode=choice)
                return choice
            refused = refused or link
            if link not in {-errno.EOPNOTSUPP, -errno.EINVAL, -errno.ERANGE}:
                break
        self._leave_place(ifindex)
        if refused in {-errno.EBUSY, -errno.EEXIST}:
            other = libbpf.xdp_program_of(ifindex) or "of another kind"
            raise BpfError(f"{name}: the XDP program {other} is attached already: detach it first")
        if refused in {-errno.ERANGE, -errno.EINVAL}:
            raise BpfError(f"{name}: its driver refuses XDP with this MTU or these settings")
        raise libbpf.refusal(f"{name}: XDP", refused)

    def detach(self, ifindex: int) -> None:
        """Detach from an interface; nothing happens when it is not attached there."""
        link = self._links.pop(ifindex, None)
        if link is not None:
            os.close(link)
            self._leave_place(ifindex)

    def attached(self) -> list[int]:
        """The interfaces it is attached to."""
        return list(self._links)

    def register_socket(self, ifindex: int, queue: int, fd: int) -> None:
        """Steer what an attached interface receives on a queue into an AF_XDP socket.

        The socket leaves the table by itself when it is closed. Raises BpfError.
        """
        if not 0 <= queue < QUEUES_MAX:
            raise BpfError(f"{_name_of(ifindex)}: queue {queue}: at most {QUEUES_MAX} are served")
        if ifindex not in self._links:
            raise BpfError(f"{_name_of(ifindex)}: the XDP program is not attached")
        self._xsks.update(self._key(ifindex, queue), struct.pack("=I", fd))

    def forget_socket(self, ifindex: int, queue: int) -> None:
        """Leave what a queue receives to the kernel."""
        if ifindex in self._links:
            self._xsks.delete(self._key(ifindex, queue))

    def _key(self, ifindex: int, queue: int) -> int:
        return self._place(ifindex) * QUEUES_MAX + queue

    def _place(self, ifindex: int) -> int:
        return [number for number, _ in self._interfaces].index(ifindex)

    def _give_place(self, ifindex: int, name: str) -> None:
        if ifindex in self._links:
            raise BpfError(f"{name}: the XDP program is attached already")
        if len(self._links) == INTERFACES_MAX:
            raise BpfError(f"{name}: at most {INTERFACES_MAX} interfaces carry XDP")
        if not _exists(ifindex):
            raise BpfError(f"{name}: no such interface")
        self._interfaces[self._place(0)] = (ifindex, _mac_of(name))
        self._write()

    def refresh(self) -> None:
        """Routes, neighbours or the MACs of interfaces changed: ask the kernel for hops anew."""
        self._interfaces = [
            (ifindex, _mac_of(_name_of(ifindex)) if ifindex and _exists(ifindex) else mac)
            for ifindex, mac in self._interfaces
        ]
        self._generation = self._generation % 0xFFFFFFFF + 1
        self._write()

    def set_clock(self) -> None:
        """Look whether the machine was suspended, which CLOCK_BOOTTIME counts; once a second."""
        now_ns = suspended_ns()
        if abs(now_ns - self._suspended_ns) > _CLOCK_STEP_NS:
            self._suspended_ns = now_ns
            self._write()

    def _leave_place(self, ifindex: int) -> None:
        place = self._place(ifindex)
        self._interfaces[place] = (0, bytes(6))
        self._write()
        for queue in range(QUEUES_MAX):
            self._xsks.delete(place * QUEUES_MAX + queue)

    # settings

    def set_own_addresses(self, addresses: Sequence[int]) -> None:
        """Where tunnels to us end. Raises BpfError for more than 32."""
        if len(addresses) > OWN_MAX:
            raise BpfError(f"{len(addresses)} own addresses: XDP has room for {OWN_MAX}")
        self._own = list(addresses)
        self._write()

    def set_home_networks(self, networks: Sequence[tuple[int, int]]) -> None:
        """Networks whose addresses are home addresses: (network, prefix length), 16 at most."""
        if len(networks) > NETWORKS_MAX:
            raise BpfError(f"{len(networks)} home networks: XDP has room for {NETWORKS_MAX}")
        ranges = [
            (network, network | 0xFFFFFFFF >> length) if length else (0, 0xFFFFFFFF)
            for network, length in networks
        ]
        self._networks, home = [], 0
        for first, last in ranges:
            self._networks.append((first, last, home))
            home += last - first + 1
        if self.homes and home > self.homes:
            raise BpfError(f"{home} home addresses: XDP was loaded for {self.homes}")
        self._write()

    def set_offload(self, is_on: bool) -> None:
        """Encapsulate and decapsulate what is plain in the kernel, or leave it to the engine."""
        self._flags = self._flags & ~_OFFLOAD | (_OFFLOAD if is_on else 0)
        self._write()

    def set_udp_port(self, port: int) -> None:
        """Port whose tunnel data (RFC 3519) is steered; 0 leaves UDP tunnels to the kernel."""
        self._udp_port = port
        self._write()

    def _write(self) -> None:
        """Fill the settings not in use, then turn to them: no frame sees half of a change."""
        own = [*self._own, *[0] * (OWN_MAX - len(self._own))]
        networks = [*self._networks, *[(0, 0, 0)] * (NETWORKS_MAX - len(self._networks))]
        self._turn ^= 1
        head = (len(self._own), len(self._networks), socket.htons(self._udp_port), self._flags)
        value = (
            _HEAD.pack(*head, self._generation, self._netns, self._suspended_ns)
            + b"".join([_INTERFACE.pack(*interface, 0) for interface in self._interfaces])
            + struct.pack(f"!{OWN_MAX}I", *own)
            + struct.pack(f"={3 * NETWORKS_MAX}I", *[word for row in networks for word in row])
        )
        self._settings.update(self._turn, value)
        self._active.update(0, struct.pack("=I", self._turn))

    # seeing it

    def counters(self) -> dict[str, int]:
        """Outcome -> packets, over all interfaces."""
        return {name: packets for name, (packets, _) in self.traffic().items()}

    def traffic(self) -> dict[str, tuple[int, int]]:
        """Outcome -> (packets, bytes of the frames; with offload, of the inner packets).

        What an interface did not take after all is ``drop-redirect``, and taken off what came from
        the same interface: exactly where that is one direction, else by their shares.
        """
        cpus = libbpf.library().libbpf_num_possible_cpus()
        result = {name: (0, 0) for name, _ in (*OUTCOMES, REFUSED)}
        for place in range(INTERFACES_MAX + 1):
            counts = [
                self._count(place * len(OUTCOMES) + number, cpus) for number in range(len(OUTCOMES))
            ]
            if place < INTERFACES_MAX:
                words = struct.unpack(f"={cpus}Q", self._refused.lookup(place, 8 * cpus))
                _take_off(counts, sum(words), result)
            for (name, _), (packets, octets) in zip(OUTCOMES, counts, strict=True):
                result[name] = (result[name][0] + packets, result[name][1] + octets)
        return result

    def _count(self, key: int, cpus: int) -> tuple[int, int]:
        words = struct.unpack(f"={2 * cpus}Q", self._counters.lookup(key, 16 * cpus))
        return sum(words[::2]), sum(words[1::2])

    def run(self, frame: bytes, *, ifindex: int = 0, queue: int = 0) -> tuple[int, bytes]:
        """Try the program on an Ethernet frame: its decision, and the frame afterwards."""
        context = b""
        if ifindex:  # struct xdp_md: data, data_end, data_meta, ifindex, queue, egress
            context = struct.pack("=6I", 0, len(frame), 0, ifindex, queue, 0)
        return libbpf.run_once(self._object.program("fastmip"), frame, context=context)

    def run_tc(self, frame: bytes, *, ifindex: int) -> tuple[int, bytes]:
        """The same at TC: ``PASS`` or ``REDIRECT`` as of XDP, and the frame afterwards."""
        context = struct.pack("=9I2I140x", *[0] * 9, ifindex, ifindex)  # struct __sk_buff
        action, made = libbpf.run_once(self._object.program("fastmip_tc"), frame, context=context)
        return {0xFFFFFFFF: PASS, _TC_REDIRECT: REDIRECT}.get(action, action), made


def _take_off(
    counts: list[tuple[int, int]], refused: int, result: dict[str, tuple[int, int]]
) -> None:
    """Move so many packets from the offloaded ones of an interface to those it did not take."""
    left = refused
    offloaded = sum(packets for packets, _ in counts[:OFFLOADED])
    for number in range(OFFLOADED):
        packets, octets = counts[number]
        share = min(packets, left, -(-refused * packets // offloaded) if offloaded else 0)
        if share:
            lost = octets * share // packets
            counts[number] = (packets - share, octets - lost)
            before = result[REFUSED[0]]
            result[REFUSED[0]] = (before[0] + share, before[1] + lost)
            left -= share


def suspended_ns() -> int:
    """CLOCK_BOOTTIME - CLOCK_MONOTONIC: how long this machine was suspended since it booted."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return max(0, boot - (before + time.clock_gettime_ns(time.CLOCK_MONOTONIC)) // 2)


def _mac_of(name: str) -> bytes:
    """The MAC of an interface of this network namespace; zeros for one without."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        try:
            answer = fcntl.ioctl(asked, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
        except OSError:
            return bytes(6)
    return answer[18:24]


def _exists(ifindex: int) -> bool:
    return ifindex in {number for number, _ in socket.if_nameindex()}


def _name_of(ifindex: int) -> str:
    with suppress(OSError):
        return socket.if_indextoname(ifindex)
    return f"interface {ifindex}"
