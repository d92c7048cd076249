"""A home agent and a mobile node that agree on keys, and a network that loses what it is told to.

Registrations are real messages with real authentication; packets are their key, their number and
their SPI, so that a (key, number) that is used twice, and a packet nobody can open, show at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fastmip.agents.effects import Now
from fastmip.agents.esp_pairs import (
    Esp,
    EspEffect,
    HoldTraffic,
    InstallPair,
    RetirePair,
    SecurityAssociationPair,
    SendDummy,
    SendOnPair,
)
from fastmip.agents.home_keying import HomeKeying, KeyingPolicy, OfferDenied
from fastmip.agents.node_keying import NodeKeying, NodeKeyingPolicy, Verdict
from fastmip.auth.associations import SecurityAssociation
from fastmip.auth.authenticators import append_authentication, verify_authentication
from fastmip.auth.esp_schedule import KeyShare
from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType
from fastmip.wire.esp_keying import carry_answer
from fastmip.wire.extensions import Extension
from fastmip.wire.registration import RegistrationReply, RegistrationRequest
from fastmip.wire.vendor import CriticalVendorExtension

SECOND = 1_000_000_000
HOME_ADDRESS, HOME_AGENT, CARE_OF, CARE_OF_2 = 0x0A010005, 0x0A010001, 0x0A030009, 0x0A030109
MOBILE_HOME = ExtensionType.MOBILE_HOME_AUTHENTICATION
ASSOCIATION = SecurityAssociation(0x100, bytes(range(16)))
Place = tuple[int, int]


@dataclass(frozen=True)
class Packet:
    """An ESP packet; a dummy carries nothing."""

    place: Place
    spi: int
    key: bytes
    number: int
    dummy: bool = False


@dataclass
class Gateway:
    """The associations of one end; ``used`` is shared by both."""

    used: set[tuple[bytes, int]]
    pairs: dict[int, SecurityAssociationPair] = field(default_factory=dict)
    keys: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    sequence: dict[int, int] = field(default_factory=dict)
    sending: dict[Place, int] = field(default_factory=dict)
    held: set[Place] = field(default_factory=set)
    confirmed: set[int] = field(default_factory=set)
    opened: list[Packet] = field(default_factory=list)
    out: list[Packet] = field(default_factory=list)

    def carry_out(self, effects: list[EspEffect]) -> None:
        """Do what a source says; a source that names what is not there fails."""
        for effect in effects:
            match effect:
                case InstallPair(pair):
                    assert pair.number not in self.pairs
                    assert pair.inbound_spi not in {p.inbound_spi for p in self.pairs.values()}
                    self.pairs[pair.number] = pair
                    self.keys[pair.number] = pair.inbound.reveal(), pair.outbound.reveal()
                    self.sequence[pair.number] = 0
                case SendOnPair(number):
                    pair = self.pairs[number]
                    place = pair.home_address, pair.care_of_address
                    self.sending[place] = number
                    self.held.discard(place)
                case SendDummy(number):
                    self.out.append(self._seal(number, dummy=True))
                case RetirePair(number):
                    pair = self.pairs.pop(number)
                    del self.keys[number]
                    assert pair.inbound.is_wiped
                    assert pair.outbound.is_wiped
                    for place, sending in tuple(self.sending.items()):
                        if sending == number:
                            del self.sending[place]
                case HoldTraffic():
                    self.held.add((effect.home_address, effect.care_of_address))

    def _seal(self, number: int, *, dummy: bool = False) -> Packet:
        pair, key = self.pairs[number], self.keys[number][1]
        self.sequence[number] += 1
        use = key, self.sequence[number]
        assert use not in self.used, "a (key, nonce) pair repeats"
        self.used.add(use)
        place = pair.home_address, pair.care_of_address
        return Packet(place, pair.outbound_spi, key, self.sequence[number], dummy)

    def send(self, place: Place) -> bool:
        """Send one packet of somebody's; False when it is held or there is no pair."""
        number = self.sending.get(place)
        if number is None:
            return False
        self.out.append(self._seal(number))
        return True

    def receive(self, packet: Packet) -> int | None:
        """Open a packet; returns the number of a pair whose first it was."""
        for number, pair in self.pairs.items():
            if pair.inbound_spi == packet.spi and self.keys[number][0] == packet.key:
                if not packet.dummy:
                    self.opened.append(packet)
                if number in self.confirmed:
                    return None
                self.confirmed.add(number)
                return number
        return None


class World:
    """Both ends; control messages and packets wait in lists until somebody delivers them."""

    def __init__(
        self,
        seed: int = 1,
        *,
        home: Esp = Esp.REQUIRED,
        node: Esp = Esp.REQUIRED,
        node_policy: NodeKeyingPolicy | None = None,
        new_share: Callable[[], KeyShare] = KeyShare,
        random_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a test is repeatable
        self.boot_ns = 1000 * SECOND
        self.place = (HOME_ADDRESS, CARE_OF)
        self.identification = 0
        self.used: set[tuple[bytes, int]] = set()
        self.requests: list[bytes] = []
        self.replies: list[bytes] = []
        self.verdicts: list[Verdict] = []
        self.codes: list[int] = []
        self.agreed: list[SecurityAssociationPair] = []
        self._spi = 0x1000
        self._bytes = random_bytes or self.random.randbytes
        self._new_share = new_share
        self.home_policy = KeyingPolicy(home)
        self.highest = 0
        self.start_home()
        self.node_gateway = Gateway(self.used)
        self.node = NodeKeying(
            node_policy or NodeKeyingPolicy(node),
            random=self._bytes,
            new_spi=self.new_spi,
            new_share=new_share,
        )
        self.pending = b""

    def start_home(self) -> None:
        """Start the home agent, or start it again without memory of any key."""
        self.home_gateway = Gateway(self.used)
        self.home = HomeKeying(
            self.home_policy,
            random=self._bytes,
            new_spi=self.new_spi,
            new_share=self._new_share,
        )

    def restart_home(self) -> None:
        """Start the home agent again, with the pairs it sent on and numbers behind a block."""
        before = self.home_gateway
        self.start_home()
        for number in before.sending.values():
            pair = before.pairs[number]
            self.home_gateway.carry_out([InstallPair(pair), *self.home.adopt(pair)])
            self.home_gateway.sequence[number] = before.sequence[number] + 1000

    def new_spi(self) -> int:
        self._spi += 1
        return self._spi

    @property
    def now(self) -> Now:
        return Now(self.boot_ns, self.boot_ns)

    def advance(self, seconds: float) -> None:
        """Let time pass, and both timers do what is due."""
        self.boot_ns += int(seconds * SECOND)
        for source, gateway in ((self.home, self.home_gateway), (self.node, self.node_gateway)):
            due = source.next_deadline()
            if due is not None and due <= self.boot_ns:
                gateway.carry_out(source.handle_timer(self.now))
                following = source.next_deadline()
                assert following is None or following > self.boot_ns

    # registration --------------------------------------------------------------------------

    def request(self, *extra: Extension) -> bytes:
        """The node registers, or registers again."""
        self.identification += 1
        offer = self.node.offer(self.place, self.now)
        extensions = (*extra, offer) if offer is not None else extra
        message = RegistrationRequest(
            0x22, 300, HOME_ADDRESS, HOME_AGENT, self.place[1], self.identification, extensions
        ).encode()
        self.pending = append_authentication(message, MOBILE_HOME, ASSOCIATION)
        self.node.asked(self.pending)
        self.requests.append(self.pending)
        return self.pending

    def hear_request(self, data: bytes) -> None:
        """The home agent hears a request; its reply waits for delivery."""
        try:
            request = RegistrationRequest.decode(data)
            (proof,) = request.authentications(MOBILE_HOME)
        except (WireError, ValueError):
            return None
        if not verify_authentication(data, proof, ASSOCIATION):
            return self._reply(request, 131)
        place = (request.home_address, request.care_of_address)
        repeated = self.home.repeat(place, data)
        if repeated is not None:
            self.replies.append(repeated)
            return None
        if request.identification <= self.highest:
            return self._reply(request, 133)
        self.highest = request.identification
        before = [e for e in request.extensions if e.offset < proof.offset]
        critical = any(isinstance(e, CriticalVendorExtension) for e in before)
        if critical and self.home_policy.esp is Esp.OFF:
            return self._reply(request, 140)
        try:
            considered = self.home.consider(place, before)
        except OfferDenied as denied:
            return self._reply(request, denied.code)
        if considered is None:
            return self._reply(request, 0)
        answer = carry_answer(considered.answer, critical=critical)
        covered = self._covered(request, 0) + answer.build()
        ends = (HOME_AGENT, place[1])
        self.home_gateway.carry_out(self.home.conclude(place, considered, data, covered, ends))
        reply = append_authentication(covered, MOBILE_HOME, ASSOCIATION)
        self.home.remember(place, data, reply)
        self.replies.append(reply)
        return None

    def _covered(self, request: RegistrationRequest, code: int) -> bytes:
        return RegistrationReply(
            code, 300, request.home_address, request.home_agent, request.identification
        ).encode()

    def _reply(self, request: RegistrationRequest, code: int) -> None:
        covered = self._covered(request, code)
        self.replies.append(append_authentication(covered, MOBILE_HOME, ASSOCIATION))

    def hear_reply(self, data: bytes) -> Verdict | None:
        """The node hears a reply; None when it is not to the latest request."""
        try:
            reply = RegistrationReply.decode(data)
            (proof,) = reply.authentications(MOBILE_HOME)
        except (WireError, ValueError):
            return None
        if not self.pending or reply.identification != self.identification:
            return None
        if not verify_authentication(data, proof, ASSOCIATION):
            return None
        self.pending = b""
        self.codes.append(reply.code)
        if reply.code:
            self.node.denied()
            return None
        before = [e for e in reply.extensions if e.offset < proof.offset]
        ends = (self.place[1], HOME_AGENT)
        heard = self.node.hear(before, data[: proof.offset], ends, self.now)
        self.verdicts.append(heard.verdict)
        for effect in heard.effects:
            if isinstance(effect, InstallPair):
                self.agreed.append(effect.pair)
        self.node_gateway.carry_out(heard.effects)
        return heard.verdict

    def register(self) -> Verdict | None:
        """A whole registration without any loss."""
        self.request()
        self.hear_request(self.requests.pop())
        return self.hear_reply(self.replies.pop())

    # packets -------------------------------------------------------------------------------

    def carry_packets(self) -> None:
        """Deliver all packets that wait, until none is left."""
        while self.node_gateway.out or self.home_gateway.out:
            self.deliver(to_home=bool(self.node_gateway.out))

    def deliver(self, *, to_home: bool, lose: bool = False) -> None:
        """Deliver or lose the packet that waits longest."""
        sender = self.node_gateway if to_home else self.home_gateway
        receiver = self.home_gateway if to_home else self.node_gateway
        packet = sender.out.pop(0)
        if lose:
            return
        first = receiver.receive(packet)
        if first is not None:
            source = self.home if to_home else self.node
            receiver.carry_out(source.confirmed(first, self.now))

    def exchange_packets(self) -> tuple[bool, bool]:
        """One packet each way; says which arrived (to home, to the node)."""
        found = []
        for sender, receiver in (
            (self.node_gateway, self.home_gateway),
            (self.home_gateway, self.node_gateway),
        ):
            before = len(receiver.opened)
            sent = sender.send(self.place)
            self.carry_packets()
            found.append(sent and len(receiver.opened) == before + 1)
        return found[0], found[1]
