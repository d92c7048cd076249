"""What the kernel does alone, to compare with: encapsulation by a program on a route (LWT-BPF).

The program puts one outer header in front of every packet that takes the route; it looks nothing
up, checks nothing and counts nothing, so it is a reference that is hard to beat.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from fastmip.runtime.bench import bpf_calls
from fastmip.runtime.bench.assembler import Code, R
from fastmip.runtime.bench.bpf_calls import BpfError
from fastmip.runtime.bench.traffic import fold

_PUSH_ENCAP, _ENCAP_IP = 73, 2
_REROUTE, _DROP = 128, 2
_OUTER = 20
_DONT_FRAGMENT = 0x4000

_RTM_NEWROUTE = 24
_REQUEST_CREATE = 0x1 | 0x4 | 0x400
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_ENCAP_TYPE, _RTA_ENCAP = 1, 4, 5, 21, 22
_NESTED = 0x8000
_LWTUNNEL_BPF, _LWT_BPF_XMIT, _PROG_FD, _PROG_NAME = 6, 3, 1, 2


def encapsulation_code(local: int, remote: int) -> bytes:
    """The program: an IPv4 header from ``local`` to ``remote``, then routed anew."""
    header = struct.pack("!BBHHHBBHII", 0x45, 0, 0, 0, _DONT_FRAGMENT, 64, 4, 0, local, remote)
    c = Code()
    c.load(R.R7, 4, R.R1, 0)  # the packet's length
    c.op(R.R7, "+", _OUTER)
    for at in range(0, _OUTER, 4):
        word = int.from_bytes(header[at : at + 4], "little")
        c.store(4, R.STACK, at - _OUTER - 4, word)
    c.op(R.R2, "=", R.R7)
    c.op(R.R2, "+", sum(struct.unpack("!10H", header)))
    fold(c, R.R2, R.R3)
    c.to_big_endian(R.R2, 16)
    c.store(2, R.STACK, 10 - _OUTER - 4, R.R2)
    c.to_big_endian(R.R7, 16)
    c.store(2, R.STACK, 2 - _OUTER - 4, R.R7)
    c.op(R.R3, "=", R.STACK)
    c.op(R.R3, "+", -_OUTER - 4)
    c.op(R.R2, "=", _ENCAP_IP)
    c.op(R.R4, "=", _OUTER)
    c.call(_PUSH_ENCAP)
    c.go_if("failed", R.R0, "!=", 0)
    c.leave(_REROUTE)
    c.label("failed")
    c.leave(_DROP)
    return c.assemble()


def add_encapsulating_route(
    network: tuple[int, int], gateway: int, interface: str, *, local: int, remote: int
) -> None:
    """Send a network (address, prefix length) into that tunnel, in this thread's namespace.

    Raises BpfError. The program goes with the route.
    """
    code = encapsulation_code(local, remote)
    program = bpf_calls.load_program(bpf_calls.LWT_XMIT, code, "fastmip_encap")
    try:
        index = socket.if_nametoindex(interface)
        told = _attribute(_PROG_FD, struct.pack("=I", program))
        told += _attribute(_PROG_NAME, b"fastmip_encap\0")
        attributes = (
            _attribute(_RTA_DST, network[0].to_bytes(4, "big"))
            + _attribute(_RTA_OIF, struct.pack("=I", index))
            + _attribute(_RTA_GATEWAY, gateway.to_bytes(4, "big"))
            + _attribute(_RTA_ENCAP_TYPE, struct.pack("=H", _LWTUNNEL_BPF))
            + _attribute(_RTA_ENCAP | _NESTED, _attribute(_LWT_BPF_XMIT | _NESTED, told))
        )
        # Main table, protocol boot, scope universe, unicast.
        route = struct.pack("=8BI", socket.AF_INET, network[1], 0, 0, 254, 3, 0, 1, 0) + attributes
        _ask_kernel(_RTM_NEWROUTE, route)
    finally:
        os.close(program)


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _ask_kernel(kind: int, body: bytes) -> None:
    """One netlink request and its answer. Raises BpfError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(10)
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_CREATE, 1, 0) + body)
        answer = netlink.recv(1 << 16)
    code = -int(struct.unpack_from("=i", answer, 16)[0])
    if code:
        reason = "not in this kernel (CONFIG_LWTUNNEL_BPF)" if code == errno.EOPNOTSUPP else ""
        raise BpfError(f"route with a program: {reason or os.strerror(code)}")
