"""Socket filters that give each packet to exactly one socket: small classic BPF programs.

Raw sockets: every one of a protocol gets its own copy of each packet, so with several workers
each keeps the inner source addresses that are its own, ``address % workers``. All packets of a
mobile node, whatever their encapsulation, thus come to one worker of its home agent.

UDP: the control socket and the workers' sockets share a port (SO_REUSEPORT); the kernel puts a
datagram into one of them, chosen by a program. What begins with octet 4 is tunnel data (RFC 3519
3.3) and belongs to a worker, everything else is registration. The worker follows from the peer,
``(address + port) % workers``: the datagrams of one peer stay in order, even when they arrive
merged. A mobile node has one peer and thus one worker for its UDP tunnel.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection, Iterable

MAX_WORKERS = 256

_SO_ATTACH_FILTER = 26
_SO_ATTACH_REUSEPORT_CBPF = 51

# linux/bpf_common.h: loads (word, half, byte; at k, at X + k), arithmetic, jumps
_LD_W, _LD_H, _LD_B = 0x20, 0x28, 0x30
_LD_W_X, _LD_B_X = 0x40, 0x50
_LD_LEN, _LD_SCRATCH, _ST_SCRATCH = 0x80, 0x60, 0x02
_LDX, _LDX_HEADER, _TAX, _TXA = 0x01, 0xB1, 0x07, 0x87
_ADD, _SUB, _MOD, _ADD_X, _SUB_X = 0x04, 0x14, 0x94, 0x0C, 0x1C
_JUMP, _IF_EQUAL, _IF_ANY = 0x05, 0x15, 0x45
_IF_AT_LEAST, _IF_AT_LEAST_X = 0x35, 0x3D
_RETURN, _RETURN_A = 0x06, 0x16
_NETWORK = -0x100000
"""Where the IP header begins, for any kind of socket (SKF_NET_OFF)."""
_ALL = 0xFFFFFFFF

_GRE, _MINIMAL = 47, 55
_TUNNEL_DATA = 4

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false (instructions to skip), operand."""


def _attach(target: socket.socket, option: int, program: Iterable[Instruction]) -> None:
    lines = [struct.pack("=HBBI", code, yes, no, k & _ALL) for code, yes, no, k in program]
    buffer = ctypes.create_string_buffer(b"".join(lines))
    filter_program = struct.pack("HL", len(lines), ctypes.addressof(buffer))
    target.setsockopt(socket.SOL_SOCKET, option, filter_program)


def keep_inner_sources(raw: socket.socket, protocol: int, index: int, count: int) -> None:
    """Let a raw socket see the inner source addresses with ``address % count == index``.

    A load past the end rejects a packet, so those too short for an inner header are kept by
    worker 0 first: the engine counts them.
    """
    to_inner = {_GRE: _to_gre_payload(), _MINIMAL: _to_minimal_source()}.get(protocol, ())
    smallest = {_GRE: 4, _MINIMAL: 8}.get(protocol, 0)
    program = [
        (_LDX_HEADER, 0, 0, 0),  # X: the outer header's length
        *_unless_at_least(smallest, index),
        *to_inner,
        *_unless_at_least(16, index),
        (_LD_W_X, 0, 0, 12),
        (_MOD, 0, 0, count),
        (_IF_EQUAL, 0, 1, index),
        (_RETURN, 0, 0, _ALL),
        (_RETURN, 0, 0, 0),
    ]
    _attach(raw, _SO_ATTACH_FILTER, program)


def _unless_at_least(octets: int, index: int) -> list[Instruction]:
    """End here, worker 0 with the packet, unless as many octets follow X."""
    return [
        (_LD_LEN, 0, 0, 0),
        (_IF_AT_LEAST_X, 0, 2, 0),
        (_SUB_X, 0, 0, 0),
        (_IF_AT_LEAST, 1, 0, octets),
        (_RETURN, 0, 0, _ALL if index == 0 else 0),
    ]


def _to_gre_payload() -> list[Instruction]:
    """X: behind the GRE header; checksum, key and sequence number are optional (RFC 2890)."""
    program: list[Instruction] = []
    for flag in (0x80, 0x20, 0x10):
        program += [(_LD_SCRATCH, 0, 0, 0), (_IF_ANY, 0, 3, flag), *_ADVANCE]
    return [(_LD_B_X, 0, 0, 0), (_ST_SCRATCH, 0, 0, 0), *program, *_ADVANCE]


_ADVANCE = ((_TXA, 0, 0, 0), (_ADD, 0, 0, 4), (_TAX, 0, 0, 0))
"""X: four octets on."""


def _to_minimal_source() -> list[Instruction]:
    """X + 12: the original source address of minimal encapsulation (RFC 2004 3.1).

    It follows the minimal header's first eight octets, unless the S flag is clear: then the
    encapsulator is the source, twelve octets into the outer header.
    """
    return [
        (_LD_B_X, 0, 0, 1),
        (_IF_ANY, 0, 4, 0x80),
        (_TXA, 0, 0, 0),
        (_SUB, 0, 0, 4),
        (_TAX, 0, 0, 0),
        (_JUMP, 0, 0, 1),
        (_LDX, 0, 0, 0),
    ]


def keep_tunnel_data(opened: socket.socket) -> None:
    """Let a worker's UDP socket see tunnel data only.

    Broadcasts come to every socket of a port, whatever the port's program says.
    """
    program = [
        (_LD_B, 0, 0, 8),  # the first octet behind the UDP header
        (_IF_EQUAL, 0, 1, _TUNNEL_DATA),
        (_RETURN, 0, 0, _ALL),
        (_RETURN, 0, 0, 0),
    ]
    _attach(opened, _SO_ATTACH_FILTER, program)


def keep_packets_to(opened: socket.socket, destination: int, but_from: Collection[int]) -> None:
    """Let a packet socket without link-layer headers see IPv4 to an address.

    What is of one of ``but_from`` is left out.
    """
    senders = list(but_from)
    program = [
        (_LD_W, 0, 0, 16),
        (_IF_EQUAL, 0, len(senders) + 2, destination),
        (_LD_W, 0, 0, 12),
        *((_IF_EQUAL, len(senders) - n, 0, sender) for n, sender in enumerate(senders)),
        (_RETURN, 0, 0, _ALL),
        (_RETURN, 0, 0, 0),
    ]
    _attach(opened, _SO_ATTACH_FILTER, program)


def share_port(control: socket.socket, workers: int) -> None:
    """Make a control socket the first of its port's group, before it is bound.

    The sockets of ``devices.open_udp_socket`` follow, one for each worker. What a NIC merges
    (GRO) is judged by its first datagram; ``engine/udp_port.h`` sorts out the rest.
    """
    if not 0 < workers <= MAX_WORKERS:
        raise ValueError(f"share_port: {workers} workers")
    control.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    program = [
        (_LD_B, 0, 0, 0),  # the payload's first octet
        (_IF_EQUAL, 1, 0, _TUNNEL_DATA),
        (_RETURN, 0, 0, 0),
        (_LD_H, 0, 0, _NETWORK + 20),  # the peer's port; with IP options, what lies there
        (_TAX, 0, 0, 0),
        (_LD_W, 0, 0, _NETWORK + 12),  # and address
        (_ADD_X, 0, 0, 0),
        (_MOD, 0, 0, workers),
        (_ADD, 0, 0, 1),
        (_RETURN_A, 0, 0, 0),
    ]
    _attach(control, _SO_ATTACH_REUSEPORT_CBPF, program)
