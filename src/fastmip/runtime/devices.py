"""The descriptors the packet engine works on: TUN queue, tunnel sockets, ICMP socket.

Everything here is opened once by the control thread, in the network namespace of the caller,
and handed to ``Engine.attach_kernel``. The engine never closes them: close after
``Engine.stop``. What the kernel does to packets on these descriptors, and the settings of the
device that follow from it, is written down in ``engine/kernel_port.h``.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import time
from pathlib import Path
from typing import NamedTuple

from fastmip.errors import FastmipError
from fastmip.runtime import steering

TUN_MTU = 65535
"""MTU of the home agent's TUN device: the kernel never fragments before the engine has judged."""
TUN_QUEUE_LENGTH = 1000
"""Packets (super-frames count once) a TUN queue holds; the kernel's own default is 500.

3 ms of full load: what a worker may have to wait for its CPU. Shorter queues make a worker that is
overloaded all the time up to 3 % faster, because more of what it reads is still in a cache, but
lose more at a tenth of that load where it shares its CPU (docs/performance.md).
"""
SOCKET_BUFFER = 16 << 20
"""Bytes asked for on raw sockets. The kernel accounts about 0.8 kB for a 64-byte packet."""

IPIP, GRE, MINIMAL = 4, 47, 55
"""IP protocol numbers of the encapsulations (RFC 2003, 2784, 2004)."""

_LINGER_S = 2.0
"""Longest wait for a device that is about to go away."""

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM = 0x01
_TUN_F_TSO4 = 0x02
_TUN_F_TSO_ECN = 0x08
_TUN_F_USO4 = 0x20
_TUN_F_USO6 = 0x40  # the kernel takes USO4 only together with USO6

# linux/sockios.h
_SIOCSIFMTU = 0x8922

# asm-generic/socket.h, linux/icmp.h: not in Python's socket module
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MARK = 36
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8
_SOL_RAW = 255
_ICMP_FILTER = 1
_ICMP_TYPES = (3, 11, 12)  # destination unreachable, time exceeded, parameter problem

# linux/in.h, linux/udp.h
_IP_PKTINFO, _IP_MTU_DISCOVER, _IP_RECVTTL, _IP_RECVTOS = 8, 10, 12, 13
_IP_PMTUDISC_PROBE = 3  # DF, but only the interface limits: the engine learns path MTUs itself
_UDP_OPTIONS = (
    (_IP_PKTINFO, 1),
    (_IP_RECVTTL, 1),
    (_IP_RECVTOS, 1),
    (_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE),
)
_SOL_UDP = 17
_UDP_GRO = 104


class DeviceError(FastmipError):
    """A descriptor the engine needs cannot be opened; the text names it and the remedy."""


class DeviceBusy(DeviceError):
    """Another process has the device, perhaps for a moment only."""


class Tun(NamedTuple):
    """An open TUN queue."""

    fd: int
    """Non-blocking, close-on-exec; the device goes away with its last descriptor."""
    name: str
    """The name the kernel gave (``%d`` in the request is filled in)."""
    super_frames: frozenset[str]
    """What the kernel may hand over whole: ``tso`` and, from Linux 6.2, ``uso``."""


def _dotted(address: int) -> str:
    return socket.inet_ntoa(struct.pack("!I", address))


def _explain(what: str, error: OSError) -> DeviceError:
    remedy = {
        errno.EPERM: "needs CAP_NET_ADMIN and CAP_NET_RAW",
        errno.EACCES: "needs CAP_NET_ADMIN and CAP_NET_RAW",
        errno.ENOENT: "load the tun module, or make /dev/net/tun",
        errno.ENODEV: "load the tun module, or name an interface that exists",
        errno.EINVAL: "a device of another kind has this name: choose another name",
        errno.EBUSY: "another process has this device; stop it or choose another name",
        errno.EADDRNOTAVAIL: "the address must be configured on this machine",
        errno.EADDRINUSE: "another program has this port: stop it",
        errno.ENOPROTOOPT: "needs Linux 5.0 or later",
    }.get(error.errno or 0, "")
    text = f"{what}: {error.strerror}"
    kind = DeviceBusy if error.errno == errno.EBUSY else DeviceError
    return kind(f"{text}: {remedy}" if remedy else text)


def _interface_ioctl(name: str, request: int, value: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        fcntl.ioctl(control, request, struct.pack("16si20x", name.encode(), value))


def open_tun(
    name: str,
    *,
    vnet_hdr: bool = True,
    multi_queue: bool = False,
    mtu_bytes: int = TUN_MTU,
) -> Tun:
    """Open a TUN device, or one more queue of it, and set its MTU.

    With ``vnet_hdr`` the kernel hands TCP and UDP super-frames over whole and leaves
    checksums to the engine. ``multi_queue`` must be the same for all queues of a device.
    The device is left down; the caller configures it, its queue length too (by netlink: the
    ioctl is refused in a user namespace), and brings it up. Raises DeviceError.
    """
    if not 0 < len(name.encode()) < 16:
        raise DeviceError(f"TUN device {name!r}: a name has 1 to 15 bytes")
    flags = _IFF_TUN | _IFF_NO_PI
    flags |= _IFF_VNET_HDR if vnet_hdr else 0
    flags |= _IFF_MULTI_QUEUE if multi_queue else 0
    super_frames: frozenset[str] = frozenset()
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            answer = fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            actual = answer[:16].rstrip(b"\0").decode()
            if vnet_hdr:
                super_frames = _enable_super_frames(fd)
            _interface_ioctl(actual, _SIOCSIFMTU, mtu_bytes)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise _explain(f"TUN device {name}", error) from error
    return Tun(fd, actual, super_frames)


async def open_tun_patiently(
    name: str, *, multi_queue: bool = False, mtu_bytes: int = TUN_MTU
) -> Tun:
    """Open a TUN device; wait a little for that of a process that was killed just now.

    The kernel takes an io_uring down in the background, and until then it holds the device.
    Raises DeviceError.
    """
    deadline = time.monotonic() + _LINGER_S
    while True:
        try:
            return open_tun(name, multi_queue=multi_queue, mtu_bytes=mtu_bytes)
        except DeviceBusy:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.02)


def _enable_super_frames(fd: int) -> frozenset[str]:
    tso = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO_ECN
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, tso | _TUN_F_USO4 | _TUN_F_USO6)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: a kernel before USO
            raise
    else:
        return frozenset({"tso", "uso"})
    fcntl.ioctl(fd, _TUNSETOFFLOAD, tso)
    return frozenset({"tso"})


def set_tun_policy(name: str) -> None:
    """Write the settings of a TUN device that the engine relies on. Raises DeviceError.

    - ``accept_local``: what the engine writes may carry an address of this machine as its
      source (ICMP errors of the engine, our own packets to a home host that is at home).
    - ``rp_filter`` off: packets written back have sources that are routed elsewhere. The
      kernel takes the maximum of this and ``all``, so ``all`` must not be 1 (strict).
    - no IPv6: the kernel would send router solicitations into a tunnel that has no IPv6.
    """
    base = Path("/proc/sys/net")
    settings = {
        base / "ipv4/conf" / name / "accept_local": "1",
        base / "ipv4/conf" / name / "rp_filter": "0",
        base / "ipv6/conf" / name / "disable_ipv6": "1",
    }
    for path, value in settings.items():
        if "ipv6" in path.parts and not path.exists():
            continue  # a kernel without IPv6 has nothing to switch off
        try:
            path.write_text(value)
        except OSError as error:
            raise _explain(f"setting {path}", error) from error


def open_tunnel_socket(
    bind_address: int | None,
    fwmark: int | None,
    interface: str | None,
    *,
    protocol: int = IPIP,
    shard: tuple[int, int] = (0, 1),
) -> socket.socket:
    """Open the raw socket of an encapsulation: outer headers are ours, received ones included.

    While it is bound the kernel answers no "protocol unreachable" for ``protocol``. Every
    matching raw socket gets its own copy of a packet, so ``shard`` = (index, count) makes
    worker ``index`` see only the inner source addresses that are its own. Raises DeviceError.
    """
    index, count = _check_shard(shard)
    where = "any address" if bind_address is None else _dotted(bind_address)
    try:
        raw = _open_raw(protocol, bind_address, fwmark, interface)
        try:
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
            if count > 1:
                steering.keep_inner_sources(raw, protocol, index, count)
        except BaseException:
            raw.close()
            raise
    except OSError as error:
        raise _explain(f"tunnel socket of protocol {protocol} on {where}", error) from error
    return raw


def open_udp_socket(port: int, fwmark: int | None) -> socket.socket:
    """Open a worker's socket of UDP tunnels (RFC 3519) on the port of a control socket.

    That must be bound already, with ``steering.share_port``, which decides who gets what; open
    one socket for each worker, in their order. Datagrams carry DF and the kernel answers
    nothing for the port. Raises DeviceError.
    """
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        opened = socket.socket(socket.AF_INET, kind)
        try:
            _prepare(opened, fwmark, None)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for option, value in _UDP_OPTIONS:
                opened.setsockopt(socket.IPPROTO_IP, option, value)
            opened.setsockopt(_SOL_UDP, _UDP_GRO, 1)
            steering.keep_tunnel_data(opened)
            opened.bind(("", port))
        except BaseException:
            opened.close()
            raise
    except OSError as error:
        raise _explain(f"UDP tunnel socket on port {port}", error) from error
    return opened


def open_packet_socket(fwmark: int | None) -> socket.socket:
    """Open the socket that sends outer packets past the IP stack; it receives nothing.

    Queueing disciplines, tc and captures are not passed by. Raises DeviceError.
    """
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        opened = socket.socket(socket.AF_PACKET, kind, 0)
        try:
            _prepare(opened, fwmark, None)
        except BaseException:
            opened.close()
            raise
    except OSError as error:
        raise _explain("packet socket", error) from error
    return opened


def _check_shard(shard: tuple[int, int]) -> tuple[int, int]:
    index, count = shard
    if not 0 <= index < count <= steering.MAX_WORKERS:
        raise DeviceError(f"tunnel socket: shard {index} of {count} does not exist")
    return shard


def open_icmp_socket(bind_address: int | None, interface: str | None) -> socket.socket:
    """Open the raw socket for ICMP errors about our outer packets (types 3, 11, 12).

    One worker reads it. Raises DeviceError.
    """
    where = "any address" if bind_address is None else _dotted(bind_address)
    try:
        icmp = _open_raw(socket.IPPROTO_ICMP, bind_address, None, interface)
        try:
            wanted = sum(1 << kind for kind in _ICMP_TYPES)
            icmp.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~wanted))
        except BaseException:
            icmp.close()
            raise
    except OSError as error:
        raise _explain(f"ICMP socket on {where}", error) from error
    return icmp


def receive_drops(raw: socket.socket) -> int:
    """Packets the kernel dropped before we read them because the socket's buffer was full.

    What a TUN queue drops is in the ``tx_dropped`` counter of its device.
    """
    memory_info = raw.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_SK_MEMINFO_DROPS + 1))
    (drops,) = struct.unpack_from("=I", memory_info, 4 * _SK_MEMINFO_DROPS)
    return int(drops)


def _open_raw(
    protocol: int, bind_address: int | None, fwmark: int | None, interface: str | None
) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    raw = socket.socket(socket.AF_INET, kind, protocol)
    try:
        _prepare(raw, fwmark, interface)
        if bind_address is not None:
            raw.bind((_dotted(bind_address), 0))
    except BaseException:
        raw.close()
        raise
    return raw


def _prepare(opened: socket.socket, fwmark: int | None, interface: str | None) -> None:
    _set_buffer(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
    _set_buffer(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
    if fwmark is not None:
        opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, fwmark)
    if interface is not None:
        name = interface.encode() + b"\0"
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)


def _set_buffer(raw: socket.socket, force: int, plain: int) -> None:
    try:
        raw.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER)
    except PermissionError:
        # In an unprivileged user namespace: as much as net.core.*mem_max allows.
        raw.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER)
