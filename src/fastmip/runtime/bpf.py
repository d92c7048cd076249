"""The XDP program of our interfaces: which packets go to the engine without the kernel.

``bpf/fastmip_xdp.bpf.c`` says what it takes; everything else reaches the kernel as if the program
were not there. It is attached by a link that this process holds: when the process ends, also by
kill -9, the kernel detaches it. An interface that has somebody else's program is refused.

Addresses are host-order integers, as everywhere.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from fastmip.runtime import libbpf
from fastmip.runtime.libbpf import BpfError, Object
from fastmip.runtime.logging import get_logger

log = get_logger("bpf")

OUTCOMES = (
    ("steered-home", "For a home address: to the socket of a worker."),
    ("steered-tunnel", "A tunnel packet to us: to the socket of a worker."),
    ("passed-not-ipv4", "ARP, IPv6, VLAN tags: to the kernel."),
    ("passed-other", "IPv4, but none of our traffic: to the kernel."),
    ("passed-truncated", "Ours, but not whole in its first buffer: to the kernel."),
    ("passed-options", "Ours, with IP options or a wrong header length: to the kernel."),
    ("passed-fragment", "Ours, a fragment: to the kernel, which puts it together."),
    ("passed-no-socket", "Ours, but no worker serves this queue: to the kernel."),
)
"""What becomes of a frame, in the order of ``bpf/outcomes.h``: name and sentence."""

# bpf/tables.h
OWN_MAX, NETWORKS_MAX, INTERFACES_MAX, QUEUES_MAX = 32, 16, 16, 64
_SETTINGS_HEAD = struct.Struct("=IIII")

PASS, REDIRECT = 2, 4
"""What the program returns (enum xdp_action)."""


class XdpProgram:
    """The program in the kernel, its tables, and the interfaces it is attached to."""

    def __init__(self, loaded: Object) -> None:
        self._object = loaded
        self._own: list[int] = []
        self._networks: list[tuple[int, int]] = []
        self._udp_port = 0
        self._interfaces = [0] * INTERFACES_MAX
        self._links: dict[int, int] = {}
        self._turn = 0
        self._settings = loaded.map("settings")
        self._active = loaded.map("active")
        self._counters = loaded.map("counters")
        self._xsks = loaded.map("xsks")
        self._write()

    @classmethod
    def load(cls) -> Self:
        """Load the program; raises BpfError with one line that says why it cannot be had."""
        return cls(Object("fastmip_xdp"))

    def close(self) -> None:
        """Detach everywhere and let go of the tables; may be called again."""
        for ifindex in list(self._links):
            self.detach(ifindex)
        self._object.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # interfaces

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
        if not _exists(ifindex):
            raise BpfError(f"{name}: no such interface")
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
        return self._interfaces.index(ifindex) * QUEUES_MAX + queue

    def _give_place(self, ifindex: int, name: str) -> None:
        if ifindex in self._links:
            raise BpfError(f"{name}: the XDP program is attached already")
        if 0 not in self._interfaces:
            raise BpfError(f"{name}: at most {INTERFACES_MAX} interfaces carry XDP")
        self._interfaces[self._interfaces.index(0)] = ifindex
        self._write()

    def _leave_place(self, ifindex: int) -> None:
        place = self._interfaces.index(ifindex)
        self._interfaces[place] = 0
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
        self._networks = [
            (network, network | 0xFFFFFFFF >> length) if length else (0, 0xFFFFFFFF)
            for network, length in networks
        ]
        self._write()

    def set_udp_port(self, port: int) -> None:
        """Port whose tunnel data (RFC 3519) is steered; 0 leaves UDP tunnels to the kernel."""
        self._udp_port = port
        self._write()

    def _write(self) -> None:
        """Fill the settings not in use, then turn to them: no frame sees half of a change."""
        own = [*self._own, *[0] * (OWN_MAX - len(self._own))]
        networks = [*self._networks, *[(0, 0)] * (NETWORKS_MAX - len(self._networks))]
        self._turn ^= 1
        value = (
            _SETTINGS_HEAD.pack(
                len(self._own), len(self._networks), socket.htons(self._udp_port), 0
            )
            + struct.pack(f"={INTERFACES_MAX}I", *self._interfaces)
            + struct.pack(f"!{OWN_MAX}I", *own)
            + struct.pack(f"={2 * NETWORKS_MAX}I", *[end for pair in networks for end in pair])
        )
        self._settings.update(self._turn, value)
        self._active.update(0, struct.pack("=I", self._turn))

    # seeing it

    def counters(self) -> dict[str, int]:
        """Outcome -> packets, over all interfaces."""
        return {name: packets for name, (packets, _) in self.traffic().items()}

    def traffic(self) -> dict[str, tuple[int, int]]:
        """Outcome -> (packets, bytes of the frames)."""
        cpus = libbpf.library().libbpf_num_possible_cpus()
        result = {}
        for number, (name, _) in enumerate(OUTCOMES):
            words = struct.unpack(f"={2 * cpus}Q", self._counters.lookup(number, 16 * cpus))
            result[name] = (sum(words[::2]), sum(words[1::2]))
        return result

    def run(self, frame: bytes, *, ifindex: int = 0, queue: int = 0) -> tuple[int, bytes]:
        """Try the program on an Ethernet frame: its decision, and the frame afterwards."""
        context = b""
        if ifindex:  # struct xdp_md: data, data_end, data_meta, ifindex, queue, egress
            context = struct.pack("=6I", 0, len(frame), 0, ifindex, queue, 0)
        return libbpf.run_once(self._object.program("fastmip"), frame, context=context)


def _exists(ifindex: int) -> bool:
    return ifindex in {number for number, _ in socket.if_nameindex()}


def _name_of(ifindex: int) -> str:
    with suppress(OSError):
        return socket.if_indextoname(ifindex)
    return f"interface {ifindex}"
