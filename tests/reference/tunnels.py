"""The engine's slow twin: one packet at a time, plain Python, written from the RFCs.

Only the shape of its answers is the engine's: verdict names, and what leaves on which side.
Rate limits are absent; tests that compare give the engine a boundless ICMP budget.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.reference.encapsulations import (
    GRE,
    IPIP,
    MINIMAL,
    UNKNOWN_PORT,
    Carried,
    Method,
    opened,
    wrapped,
)
from tests.reference.ipv4 import (
    Header,
    change,
    checksum,
    fragments,
    header,
    is_fragment,
    is_martian,
    problem,
)

HOME, TUNNEL = 0, 1
NEVER = 2**64 - 1
DONE_TTL, DONE_CHECKSUM, DONE_MARTIAN = 1, 2, 8
ICMP = 1
UNREACHABLE, QUENCH, REDIRECT, EXCEEDED, PARAMETER = 3, 4, 5, 11, 12
ICMP_ERRORS = {UNREACHABLE, QUENCH, REDIRECT, EXCEEDED, PARAMETER}
NESTING_MAX = 10

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
    method: Method = field(default_factory=Method)
    broadcasts: bool = False
    nested: bool = False
    last_sequence: int = 2**32 - 1
    """RFC 2890 2.2."""
    home: int = 0
    """Whose it is; a ``Twin`` fills it in."""

    def record(self, home: int) -> bytes:
        """As the engine takes it."""
        method = self.method
        is_keyed = method.gre_key is not None
        bits = (self.reverse, self.first_only, self.broadcasts, self.nested, is_keyed)
        flags = sum(bit << place for place, bit in enumerate(bits))
        kind = method.encapsulation
        fields = (home, self.remote, self.local, self.mtu, kind, flags, self.expires_ns)
        ports = (method.gre_key or 0, method.remote_port, method.local_port)
        rest = (*ports, self.ttl, int(self.is_compatible))
        return struct.pack("=IIIHBBQIHHBB6x", *fields, *rest)

    @property
    def is_half_bound(self) -> bool:
        """A UDP tunnel to a port that is not known yet (RFC 3519 4.11)."""
        return self.method.remote_port == UNKNOWN_PORT

    def wrap(self, packet: bytes) -> bytes:
        """Through this tunnel (RFC 6040 4.1: TOS copied, or ECN cleared)."""
        tos = packet[1] & (0xFC if self.is_compatible else 0xFF)
        return wrapped(packet, self.method, self.local, self.remote, self.ttl, tos)

    def budget(self, packet: bytes) -> int:
        """Largest packet of this kind that fits: fragments never go by minimal encapsulation."""
        return self.mtu - self.method.overhead - (8 if self.method.falls_back(packet) else 0)

    def nest(self, packet: bytes) -> bytes:
        """In a packet from us to the home address (RFC 5177 7)."""
        tos = packet[1] & (0xFC if self.is_compatible else 0xFF)
        outside = header(self.local, self.home, IPIP, len(packet), tos=tos, fragment=0x4000)
        return outside + packet

    def takes(self, carried: Carried) -> bool:
        """Was this negotiated?"""
        if bool(self.method.remote_port) != (carried.udp is not None):
            return False
        kinds = {self.method.encapsulation}
        if MINIMAL in kinds:
            kinds.add(IPIP)
        return carried.encapsulation in kinds


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
    told: list[tuple[int, int, int]] = field(default_factory=list)
    """Half bound tunnels whose port became known: home address, source, port."""
    networks: dict[tuple[int, int], int] = field(default_factory=dict)
    """Prefix and length of mobile networks: home address of the router."""

    def __post_init__(self) -> None:
        """Tell bindings whose they are."""
        for home, chain in self.bindings.items():
            for binding in chain:
                binding.home = home

    def owner(self, address: int) -> int:
        """The home address an address belongs to: itself, or its mobile router's."""
        if address in self.bindings:
            return address
        held = [
            (length, home)
            for (prefix, length), home in self.networks.items()
            if address >> (32 - length) == prefix >> (32 - length)
        ]
        return max(held)[1] if held else address

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
        if chain and (self.role != "home-agent" or chain[0].first_only):
            chain = chain[:1]
        return [b for b in chain if b.expires_ns > self.now_ns]

    # home side -> tunnel

    def from_home(self, packet: bytes) -> str:
        """RFC 5944 4.2.3, RFC 2003 3."""
        fields = Header(packet)
        home = self.owner(fields.destination if self.role == "home-agent" else fields.source)
        live = self.live(home)
        if not live and self.role == "mobile-node":
            return "drop-expired" if home in self.bindings else "drop-no-binding"
        if not live:
            self.left[HOME].append(packet)
            return "returned-expired" if home in self.bindings else "returned-no-binding"
        first = self.bindings[home][0]
        if self.role == "mobile-node" and not first.reverse:
            return "drop-not-granted"
        is_unicast = fields.destination >> 24 < 224
        if self.role == "foreign-agent" and not (first.reverse and not first.nested and is_unicast):
            self.left[HOME].append(packet)
            return "returned-not-reverse"
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
        if binding.is_half_bound:
            return "drop-half-bound"
        if fields.source == binding.remote:
            return "drop-loop-intercepted" if is_tunnel else "drop-loop-tunnel"
        is_behind = self.role == "home-agent" and fields.destination != binding.home
        nest = binding.nest if binding.nested and is_behind else bytes
        budget = binding.budget(packet) if nest is bytes else binding.budget(nest(packet)) - 20
        if len(packet) <= budget:
            self.left[TUNNEL].append(binding.wrap(nest(packet)))
            return sent
        is_minimal = binding.method.encapsulation == MINIMAL
        if not fields.dont_fragment and is_minimal and nest is bytes:
            budget = binding.mtu - binding.method.overhead - 8
        pieces = None if fields.dont_fragment else fragments(packet, budget)
        if pieces is None:
            self.answer(binding.local, UNREACHABLE, 4, budget, packet)
            return "drop-too-big"
        if (fields.fragment & 0x1FFF) * 8 + len(fields.payload) > 65535:
            return "drop-header"
        self.left[TUNNEL].extend(binding.wrap(nest(piece)) for piece in pieces)
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
        live = self.live(self.owner(fields.source)) if self.role == "home-agent" else []
        if live:
            self.extra.append(self.send_copies(error, live, "icmp-tunnelled"))
            return
        self.left[HOME].append(error)
        self.extra.append("icmp-sent")

    # tunnel -> home side

    def from_tunnel(self, packet: bytes) -> str:
        """RFC 2003 3, RFC 2004, RFC 2784, RFC 3519 4.3, RFC 3024 4.3.2, RFC 6040 4.2."""
        fields = Header(packet)
        if is_fragment(packet):
            return "drop-outer-fragment"
        carried = opened(packet)
        if isinstance(carried, str):
            return carried
        refusal = unfit_inside(carried, fields)
        if refusal:
            return refusal
        inner = Header(carried.inner)
        visitor = self.bindings.get(fields.source, [])
        is_from_visitor = self.role == "foreign-agent" and fields.source == inner.source
        if is_from_visitor and visitor and visitor[0].nested:
            ours, onward_home = visitor[0], fields.source
            refusal = self.refusal_of_delivery(ours, carried, fields)
        else:
            home = self.owner(inner.source if self.role == "home-agent" else inner.destination)
            onward_home = 0
            chain = self.bindings.get(home)
            if chain is None:
                return "drop-no-binding"
            refusal, ours = self.refusal(chain, carried, fields)
            if refusal == "drop-udp-port":
                refusal = self.half_bound(home, chain, carried, fields)
        refusal = refusal or spoilt(carried, ours, fields)
        if refusal:
            return refusal
        inside = merged(carried, fields)
        while self.is_tunnel_to_us(inside):
            found = self.open_within(inside, ours)
            if isinstance(found, str):
                return found
            inside, ours = found
        if self.role == "home-agent":
            onward_home = self.owner(Header(inside).destination)
        return self.deliver(inside, ours, onward_home)

    def is_tunnel_to_us(self, packet: bytes) -> bool:
        """A tunnel packet again, to the home agent."""
        fields = Header(packet)
        is_ours = self.role == "home-agent" and fields.destination in self.own
        return is_ours and fields.protocol == IPIP and not is_fragment(packet)

    def open_within(self, packet: bytes, ours: Binding) -> str | tuple[bytes, Binding]:
        """RFC 5177 7: from a router's home address inside its tunnel, or from a visitor's agent."""
        fields = Header(packet)
        carried = opened(packet)
        if isinstance(carried, str):
            return carried
        refusal = unfit_inside(carried, fields)
        if refusal:
            return refusal
        home = self.owner(Header(carried.inner).source)
        chain = self.bindings.get(home)
        if chain is None:
            return "drop-no-binding"
        if not home == fields.source == ours.home:
            refusal, ours = self.refusal(chain, carried, fields)
        refusal = refusal or spoilt(carried, ours, fields)
        return refusal or (merged(carried, fields), ours)

    def deliver(self, packet: bytes, ours: Binding, onward_home: int) -> str:
        """Out of a tunnel, and perhaps into another."""
        if self.role == "mobile-node":
            self.left[HOME].append(packet)
            return "decapsulated"
        onward = self.live(onward_home)
        ttl = Header(packet).ttl
        if onward or not self.done & DONE_TTL:
            if ttl == 1:
                self.answer(ours.local, EXCEEDED, 0, 0, packet)
                return "drop-ttl"
            packet = change(packet, ttl=ttl - 1)
        if onward:
            return self.send_copies(packet, onward, "reencapsulated")
        self.left[HOME].append(packet)
        return "decapsulated"

    def refusal(
        self, chain: list[Binding], carried: Carried, outside: Header
    ) -> tuple[str | None, Binding]:
        """The objection of the binding that objects last; the first that has none."""
        order = ["care-of-address", "tunnel-end", "udp-port", "expired", "encapsulation"]
        order += ["gre-key", "not-reverse"]
        worst = -1
        for binding in chain:
            objection = self.objection(binding, carried, outside)
            if objection is None:
                return None, binding
            worst = max(worst, order.index(objection))
        return f"drop-{order[worst]}", chain[0]

    def objection(self, binding: Binding, carried: Carried, outside: Header) -> str | None:
        """Why this binding does not let a tunnel packet in."""
        method = binding.method
        if binding.remote != outside.source:
            return "care-of-address"
        if binding.local != outside.destination:
            return "tunnel-end"
        if carried.udp is not None and method.remote_port:
            ports = (method.remote_port, method.local_port)
            if binding.is_half_bound or carried.udp != ports:
                return "udp-port"
        if binding.expires_ns <= self.now_ns:
            return "expired"
        if not binding.takes(carried):
            return "encapsulation"
        if carried.key != method.gre_key:
            return "gre-key"
        return "not-reverse" if self.role == "home-agent" and not binding.reverse else None

    def half_bound(self, home: int, chain: list[Binding], carried: Carried, outside: Header) -> str:
        """RFC 3519 4.6: only the first keepalive passes, and only to the control plane."""
        for binding in chain:
            ends = (binding.remote, binding.local, binding.method.local_port)
            if not binding.is_half_bound or carried.udp is None:
                continue
            if ends != (outside.source, outside.destination, carried.udp[1]):
                continue
            if binding.expires_ns <= self.now_ns:
                return "drop-expired"
            if not binding.takes(carried):
                return "drop-encapsulation"
            inner = Header(carried.inner)
            is_echo = inner.protocol == ICMP and inner.payload[:1] == b"\x08"
            is_whole = not is_fragment(carried.inner) and len(inner.payload) >= 8
            if (inner.source, inner.destination) != (home, binding.local):
                return "drop-half-bound"
            if not (is_echo and is_whole):
                return "drop-half-bound"
            self.told.append((home, outside.source, carried.udp[0]))
            return "half-bound-keepalive"
        return "drop-udp-port"

    def refusal_of_delivery(
        self, binding: Binding, carried: Carried, outside: Header
    ) -> str | None:
        """RFC 3024 5.2: from the visitor to one of our addresses."""
        if outside.destination not in self.own:
            return "drop-tunnel-end"
        if binding.expires_ns <= self.now_ns:
            return "drop-expired"
        kinds = {IPIP, binding.method.encapsulation}
        if carried.udp is not None or carried.encapsulation not in kinds:
            return "drop-encapsulation"
        if carried.encapsulation == GRE and carried.key != binding.method.gre_key:
            return "drop-gre-key"
        return None if binding.reverse else "drop-not-reverse"


def merged(carried: Carried, outside: Header) -> bytes:
    """The inner packet with the ECN field it gets (RFC 6040 4.2); minimal has one header."""
    inner = Header(carried.inner)
    packet = carried.inner[: inner.total]
    ecn = EGRESS[inner.tos & 3][outside.tos & 3]
    if carried.encapsulation == MINIMAL or ecn is None:
        return packet
    return change(packet, tos=inner.tos & ~3 | ecn)


def spoilt(carried: Carried, ours: Binding, outside: Header) -> str | None:
    """Congestion nobody may hear of, or GRE out of sequence: the last checks."""
    inner_ecn = Header(carried.inner).tos & 3
    if carried.encapsulation != MINIMAL and EGRESS[inner_ecn][outside.tos & 3] is None:
        return "drop-ecn"
    if carried.sequence is not None:
        if (ours.last_sequence - carried.sequence) % 2**32 < 2**31:
            return "drop-gre-sequence"
        ours.last_sequence = carried.sequence
    return None


def unfit_inside(carried: Carried, outside: Header) -> str | None:
    """Checks of what was inside that need no binding."""
    reason = problem(carried.inner)
    if reason:
        return f"drop-inner-{reason}"
    inner = Header(carried.inner)
    if inner.ttl == 0:
        return "drop-inner-ttl"
    if inner.protocol == IPIP and nesting(carried.inner[: inner.total]) >= NESTING_MAX:
        return "drop-nesting"
    if is_martian(inner.source):
        return "drop-martian"
    if carried.encapsulation == GRE and inner.destination == outside.source:
        return "drop-loop-encapsulator"  # RFC 2784 3.1
    return None


def payload_packet(packet: bytes) -> bytes | None:
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
        inside = payload_packet(packet)
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
    inside = payload_packet(packet)
    if inside is None or len(inside) < 20 or inside[0] >> 4 != 4:
        return None
    return int.from_bytes(inside[16:20], "big")
