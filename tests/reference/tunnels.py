"""The engine's slow twin: one packet at a time, plain Python, written from the RFCs.

Only the shape of its answers is the engine's: verdict names, and what leaves on which side.
Rate limits are absent; tests that compare give the engine a boundless ICMP budget.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.reference.ipv4 import Header, change, checksum, fragments, header, is_martian, problem

HOME, TUNNEL = 0, 1
NEVER = 2**64 - 1
DONE_TTL, DONE_CHECKSUM, DONE_MARTIAN = 1, 2, 8
IPIP, GRE, MINIMAL, ICMP = 4, 47, 55, 1
UNREACHABLE, QUENCH, REDIRECT, EXCEEDED, PARAMETER = 3, 4, 5, 11, 12
ICMP_ERRORS = {UNREACHABLE, QUENCH, REDIRECT, EXCEEDED, PARAMETER}
NESTING_MAX = 8

NOT_ECT, ECT1, ECT0, CE = 0, 1, 2, 3
EGRESS: dict[int, dict[int, int | None]] = {  # RFC 6040 figure 4; None is <drop>
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT0: NOT_ECT, ECT1: NOT_ECT, CE: None},
    ECT0: {NOT_ECT: ECT0, ECT0: ECT0, ECT1: ECT1, CE: CE},
    ECT1: {NOT_ECT: ECT1, ECT0: ECT1, ECT1: ECT1, CE: CE},
    CE: {NOT_ECT: CE, ECT0: CE, ECT1: CE, CE: CE},
}


@dataclass
class Binding:
    """One tunnel of a node."""

    remote: int
    local: int
    mtu: int = 1500
    reverse: bool = True
    first_only: bool = False
    expires_ns: int = NEVER
    ttl: int = 64
    is_compatible: bool = False

    def record(self, home: int) -> bytes:
        """As the engine takes it."""
        flags = int(self.reverse) | int(self.first_only) << 1
        fields = (home, self.remote, self.local, self.mtu, IPIP, flags, self.expires_ns)
        rest = (0, 0, 0, self.ttl, int(self.is_compatible))
        return struct.pack("=IIIHBBQIHHBB6x", *fields, *rest)


@dataclass
class Twin:
    """Bindings of a home agent or a mobile node, and what became of packets."""

    role: str = "home-agent"
    own: tuple[int, ...] = ()
    bindings: dict[int, list[Binding]] = field(default_factory=dict)
    done: int = 0
    now_ns: int = 0
    left: tuple[list[bytes], list[bytes]] = field(default_factory=lambda: ([], []))
    next_error: int = 1
    """Identification of our next ICMP error: a memory port is worker 1 of 2."""
    extra: list[str] = field(default_factory=list)
    """Verdicts of copies and of our own ICMP errors."""

    def records(self) -> bytes:
        """Everything bound, for `Engine.restore`."""
        return b"".join(b.record(home) for home, chain in self.bindings.items() for b in chain)

    def process(self, side: int, packet: bytes) -> str:
        """The verdict; what leaves is appended to ``left``."""
        reason = problem(packet, checksum_done=bool(self.done & DONE_CHECKSUM))
        if reason:
            return f"drop-{reason}"
        packet = packet[: Header(packet).total]
        return self.from_home(packet) if side == HOME else self.from_tunnel(packet)

    def live(self, home: int) -> list[Binding]:
        """Bindings to send through now."""
        chain = self.bindings.get(home, [])
        if chain and (self.role == "mobile-node" or chain[0].first_only):
            chain = chain[:1]
        return [b for b in chain if b.expires_ns > self.now_ns]

    # home side -> tunnel

    def from_home(self, packet: bytes) -> str:
        """RFC 5944 4.2.3, RFC 2003 3."""
        fields = Header(packet)
        home = fields.source if self.role == "mobile-node" else fields.destination
        live = self.live(home)
        if not live and self.role == "mobile-node":
            return "drop-expired" if home in self.bindings else "drop-no-binding"
        if not live:
            self.left[HOME].append(packet)
            return "returned-expired" if home in self.bindings else "returned-no-binding"
        if not self.done & DONE_MARTIAN:
            if fields.source in self.own:
                return "drop-loop-own-source"
            if is_martian(fields.source):
                return "drop-martian"
        if not self.done & DONE_TTL:
            if fields.ttl <= 1:
                self.answer(self.bindings[home][0].local, EXCEEDED, 0, 0, packet)
                return "drop-ttl"
            packet = change(packet, ttl=fields.ttl - 1)
        elif fields.ttl == 0:
            return "drop-ttl"
        return self.send_copies(packet, live, "encapsulated")

    def send_copies(self, packet: bytes, live: list[Binding], sent: str) -> str:
        """One packet to each care-of address."""
        fields = Header(packet)
        is_tunnel = False
        if fields.protocol in {IPIP, GRE, MINIMAL}:
            if nesting(packet) >= NESTING_MAX:
                return "drop-nesting"
            is_tunnel = inner_destination(packet) == fields.destination
        verdicts = [
            self.send(packet, b, is_tunnel, "encapsulated-copy" if i else sent)
            for i, b in enumerate(live)
        ]
        self.extra += verdicts[1:]
        return verdicts[0]

    def send(self, packet: bytes, binding: Binding, is_tunnel: bool, sent: str) -> str:
        """Through one tunnel."""
        fields = Header(packet)
        if fields.source == binding.remote:
            return "drop-loop-intercepted" if is_tunnel else "drop-loop-tunnel"
        budget = binding.mtu - 20
        if len(packet) <= budget:
            self.left[TUNNEL].append(outer(packet, binding) + packet)
            return sent
        pieces = None if fields.dont_fragment else fragments(packet, budget)
        if pieces is None:
            self.answer(binding.local, UNREACHABLE, 4, budget, packet)
            return "drop-too-big"
        if (fields.fragment & 0x1FFF) * 8 + len(fields.payload) > 65535:
            return "drop-header"
        self.left[TUNNEL].extend(outer(piece, binding) + piece for piece in pieces)
        return "encapsulated-fragments"

    def answer(self, source: int, kind: int, code: int, rest: int, about: bytes) -> None:
        """An ICMP error (RFC 792) where RFC 1122 3.2.2 allows one."""
        fields = Header(about)
        if fields.fragment & 0x1FFF or is_martian(fields.source) or fields.destination >> 28 >= 14:
            return
        is_short = len(about) <= fields.length
        if fields.protocol == ICMP and (is_short or about[fields.length] in ICMP_ERRORS):
            return
        body = struct.pack(">BBHI", kind, code, 0, rest) + about[:548]
        body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
        number, self.next_error = self.next_error, (self.next_error + 2) % 65536
        error = header(source, fields.source, ICMP, len(body), tos=0xC0, identification=number)
        error += body
        live = self.live(fields.source) if self.role == "home-agent" else []
        if live:
            self.extra.append(self.send_copies(error, live, "icmp-tunnelled"))
            return
        self.left[HOME].append(error)
        self.extra.append("icmp-sent")

    # tunnel -> home side

    def from_tunnel(self, packet: bytes) -> str:
        """RFC 2003 3, RFC 3024 4.3.2, RFC 6040 4.2."""
        fields = Header(packet)
        refusal = unfit_for_decapsulation(fields)
        if refusal:
            return refusal
        inner = Header(fields.payload)
        packet = fields.payload[: inner.total]
        home = inner.source if self.role == "home-agent" else inner.destination
        chain = self.bindings.get(home)
        if chain is None:
            return "drop-no-binding"
        refusal = self.refusal(chain, fields)
        if refusal:
            return refusal
        ecn = EGRESS[inner.tos & 3][fields.tos & 3]
        if ecn is None:
            return "drop-ecn"
        packet = change(packet, tos=inner.tos & ~3 | ecn)
        if self.role == "mobile-node":
            self.left[HOME].append(packet)
            return "decapsulated"
        onward = self.live(inner.destination)
        if onward or not self.done & DONE_TTL:
            if inner.ttl == 1:
                self.answer(fields.destination, EXCEEDED, 0, 0, packet)
                return "drop-ttl"
            packet = change(packet, ttl=inner.ttl - 1)
        if onward:
            return self.send_copies(packet, onward, "reencapsulated")
        self.left[HOME].append(packet)
        return "decapsulated"

    def refusal(self, chain: list[Binding], outer_fields: Header) -> str | None:
        """Why no binding of the chain lets this tunnel packet in."""
        ours = [b for b in chain if b.remote == outer_fields.source]
        if not ours:
            return "drop-care-of-address"
        ours = [b for b in ours if b.local == outer_fields.destination]
        if not ours:
            return "drop-tunnel-end"
        ours = [b for b in ours if b.expires_ns > self.now_ns]
        if not ours:
            return "drop-expired"
        if self.role == "home-agent" and not ours[0].reverse:
            return "drop-not-reverse"
        return None


def unfit_for_decapsulation(fields: Header) -> str | None:
    """Checks of a tunnel packet that need no binding."""
    if fields.fragment & 0x3FFF:
        return "drop-outer-fragment"
    if fields.protocol != IPIP:
        return "drop-encapsulation" if fields.protocol in {GRE, MINIMAL} else "drop-not-tunnel"
    reason = problem(fields.payload)
    if reason:
        return f"drop-inner-{reason}"
    inner = Header(fields.payload)
    if inner.ttl == 0:
        return "drop-inner-ttl"
    if inner.protocol == IPIP and nesting(fields.payload[: inner.total]) >= NESTING_MAX:
        return "drop-nesting"
    return "drop-martian" if is_martian(inner.source) else None


def outer(packet: bytes, binding: Binding) -> bytes:
    """RFC 2003 3.1: TOS copied (RFC 6040 4.1), DF set, ID 0, own TTL, no options."""
    tos = packet[1] & (0xFC if binding.is_compatible else 0xFF)
    return header(
        binding.local,
        binding.remote,
        IPIP,
        len(packet),
        ttl=binding.ttl,
        tos=tos,
        fragment=0x4000,
    )


def carried(packet: bytes) -> bytes | None:
    """The packet inside an IPIP or GRE packet."""
    fields = Header(packet)
    if fields.fragment & 0x1FFF:
        return None
    if fields.protocol == IPIP:
        return fields.payload
    if fields.protocol == GRE and len(fields.payload) >= 4:
        flags, protocol = struct.unpack(">HH", fields.payload[:4])
        if protocol == 0x0800:
            optional = sum(4 for bit in (0x8000, 0x2000, 0x1000) if flags & bit)
            return fields.payload[4 + optional :]
    return None


def nesting(packet: bytes) -> int:
    """IPv4 headers in a packet, its own included."""
    depth = 1
    while depth <= NESTING_MAX:
        inside = carried(packet)
        if inside is None or problem(inside, checksum_done=True):
            return depth
        packet = inside[: Header(inside).total]
        depth += 1
    return depth


def inner_destination(packet: bytes) -> int | None:
    """Destination of the packet inside (RFC 2003, 2784, 2004)."""
    fields = Header(packet)
    if fields.protocol == MINIMAL:
        if fields.fragment & 0x1FFF or len(fields.payload) < 8:
            return None
        return int.from_bytes(fields.payload[4:8], "big")
    inside = carried(packet)
    if inside is None or len(inside) < 20 or inside[0] >> 4 != 4:
        return None
    return int.from_bytes(inside[16:20], "big")
