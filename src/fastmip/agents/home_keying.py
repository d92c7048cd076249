"""The home agent's side of registration-keyed ESP, sans I/O (docs/registration-keyed-esp.md).

Per (home address, care-of address) there is at most one pair that packets are sent on, and some
newer ones that nobody has confirmed yet:

| state   | event                                | done                             | state   |
|---------|--------------------------------------|----------------------------------|---------|
| nothing | pair outlived a restart (``adopt``)  | send on it                       | in use  |
| nothing | full offer accepted                  | hold traffic, install pair       | waiting |
| waiting | packet opens on a pair               | send on it, dummy back           | in use  |
| in use  | offer accepted (full or ratchet)     | install pair, send on the old    | in use  |
| in use  | packet opens on a newer pair         | send on it, older ones linger    | in use  |
| any     | ratchet from a root not known        | AGAIN; hold if there is nothing  | same    |
| any     | lingering is over                    | retire the older pairs, wipe     | same    |
| any     | binding gone (``release``)           | retire all, wipe                 | nothing |

A request comes in two steps, because the keys depend on the reply: ``consider`` what it offers, put
the answer into the reply, then ``conclude`` with the reply's bytes before it is signed. Whoever
calls has verified the Mobile-Home authentication and the Identification: nothing here is done for
strangers. Install the pair before the reply leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fastmip.agents.effects import Now
from fastmip.agents.esp_pairs import (
    LINGER_NS,
    Esp,
    EspEffect,
    HoldTraffic,
    InstallPair,
    RetirePair,
    SecurityAssociationPair,
    SendDummy,
    SendOnPair,
)
from fastmip.auth.esp_schedule import (
    ROOT_LEN,
    Direction,
    KeyExchangeError,
    KeyShare,
    Root,
    Secret,
    transcript,
)
from fastmip.errors import WireError
from fastmip.wire.codes import ReplyCode
from fastmip.wire.esp_keying import (
    NONCE_LEN,
    AgainAnswer,
    Answer,
    FullAnswer,
    FullOffer,
    RatchetAnswer,
    Suite,
    find_offer,
)
from fastmip.wire.extensions import Extension

MAX_UNCONFIRMED = 4
"""Ours: pairs of one care-of address that wait for their first packet; the oldest goes."""


class OfferDenied(Exception):
    """The request is denied with ``code``."""

    def __init__(self, code: ReplyCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class KeyingPolicy:
    """What a home agent gives."""

    esp: Esp = Esp.OFF
    suites: tuple[Suite, ...] = (Suite.AES128_GCM16, Suite.AES256_GCM16)
    """In order of preference, which goes before the node's."""


@dataclass(slots=True)
class Considered:
    """An offer that will be answered; secret until ``conclude``."""

    answer: Answer
    _offered_spi: int = 0
    _suite: Suite = Suite.AES128_GCM16
    _secret: Secret | None = field(default=None, repr=False)
    """X25519's result, or the step from the root that was named."""


@dataclass(slots=True)
class _Generation:
    pair: SecurityAssociationPair
    root: Root
    is_confirmed: bool = False
    retire_ns: int = 0
    """Not 0: it lingers until then."""


@dataclass(slots=True)
class _Keys:
    """Everything of one (home address, care-of address); the newest generation last."""

    generations: list[_Generation] = field(default_factory=list)
    request: bytes = field(default=b"", repr=False)
    reply: bytes = field(default=b"", repr=False)
    """The whole reply to ``request``, for an unchanged copy of it."""


Place = tuple[int, int]


class HomeKeying:
    """Keys of all nodes at one home agent; an ``SaSource``.

    ``random(n)`` gives n unpredictable bytes, ``new_spi`` an SPI no inbound association has.
    """

    def __init__(
        self,
        policy: KeyingPolicy,
        *,
        random: Callable[[int], bytes],
        new_spi: Callable[[], int],
        new_share: Callable[[], KeyShare] = KeyShare,
    ) -> None:
        self.policy = policy
        self._random = random
        self._new_spi = new_spi
        self._new_share = new_share
        self._keys: dict[Place, _Keys] = {}
        self._places: dict[int, Place] = {}
        self._lingering: deque[tuple[int, int]] = deque()
        """When a pair's time is over, and its number; in that order, as all linger equally long."""
        self._number = 0

    # a request ---------------------------------------------------------------------------

    def consider(self, place: Place, extensions: Iterable[Extension]) -> Considered | None:
        """What to answer a registration of (home address, care-of address); None: clear text.

        ``extensions``: those before the Mobile-Home authentication. Raises OfferDenied.
        """
        if self.policy.esp is Esp.OFF:
            return None
        try:
            offer = find_offer(extensions)
        except WireError as error:
            raise OfferDenied(ReplyCode.HA_POORLY_FORMED_REQUEST, str(error)) from None
        if offer is None:
            if self.policy.esp is Esp.REQUIRED:
                raise OfferDenied(ReplyCode.HA_PROHIBITED, "no keys for ESP are offered")
            return None
        if isinstance(offer, FullOffer):
            return self._consider_full(offer)
        base = self._find_root(place, offer.name)
        if base is None:
            return Considered(AgainAnswer())
        nonce = self._nonce(offer.nonce)
        answer = RatchetAnswer(self._new_spi(), nonce, offer.name)
        return Considered(answer, offer.spi, base.pair.suite, base.root.step())

    def _consider_full(self, offer: FullOffer) -> Considered | None:
        suite = next((own for own in self.policy.suites if own in offer.suites), None)
        if suite is None:
            if self.policy.esp is Esp.REQUIRED:
                raise OfferDenied(ReplyCode.HA_PROHIBITED, "none of the suites offered will do")
            return None
        nonce = self._nonce(offer.nonce)
        share = self._new_share()
        try:
            shared = share.agree(offer.share)
        except KeyExchangeError as error:
            raise OfferDenied(ReplyCode.HA_POORLY_FORMED_REQUEST, str(error)) from None
        answer = FullAnswer(self._new_spi(), nonce, share.public, suite)
        return Considered(answer, offer.spi, suite, shared)

    def _nonce(self, theirs: bytes) -> bytes:
        """Our nonce; one that is the other side's says that random numbers are not random."""
        found = self._random(NONCE_LEN)
        if found == theirs:
            raise OfferDenied(ReplyCode.HA_POORLY_FORMED_REQUEST, "our own nonce came back")
        return found

    def _find_root(self, place: Place, name: bytes) -> _Generation | None:
        keys = self._keys.get(place)
        for generation in keys.generations if keys is not None else ():
            if generation.root.name == name and not generation.root.is_wiped:
                return generation
        return None

    def conclude(
        self,
        place: Place,
        considered: Considered,
        request: bytes,
        reply: bytes,
        ends: tuple[int, int],
    ) -> list[EspEffect]:
        """Make the keys: the reply with the answer is about to be signed and sent.

        ``request``: up to and with its Mobile-Home authentication; ``reply``: up to where its own
        begins. ``ends``: our end of the ESP tunnel and the node's.
        """
        if isinstance(considered.answer, AgainAnswer):
            return [] if place in self._keys else [HoldTraffic(*place)]
        secret, considered._secret = considered._secret, None
        if secret is None:
            raise ValueError("concluded twice")
        root = Root.of_exchange(secret, transcript(request, reply))
        self._number += 1
        suite, inbound_spi = considered._suite, considered.answer.spi
        pair = SecurityAssociationPair(
            self._number,
            *place,
            *ends,
            suite,
            inbound_spi,
            considered._offered_spi,
            root.keys(Direction.TO_HOME, *place, suite, inbound_spi),
            root.keys(Direction.TO_NODE, *place, suite, considered._offered_spi),
        )
        effects: list[EspEffect] = []
        keys = self._keys.setdefault(place, _Keys())
        if not any(generation.is_confirmed for generation in keys.generations):
            effects.append(HoldTraffic(*place))
        keys.generations.append(_Generation(pair, root))
        self._places[pair.number] = place
        effects.append(InstallPair(pair))
        waiting = [g for g in keys.generations if not g.is_confirmed]
        for generation in waiting[:-MAX_UNCONFIRMED]:
            effects += self._retire(keys, generation)
        return effects

    def remember(self, place: Place, request: bytes, reply: bytes) -> None:
        """Keep the whole reply that was sent: an unchanged copy of the request gets the same."""
        keys = self._keys.get(place)
        if keys is not None:
            keys.request, keys.reply = request, reply

    def repeat(self, place: Place, request: bytes) -> bytes | None:
        """The reply that this very request got, or None."""
        keys = self._keys.get(place)
        return keys.reply if keys is not None and request and keys.request == request else None

    # what packets tell -------------------------------------------------------------------

    def confirmed(self, number: int, now: Now) -> list[EspEffect]:
        """A packet opened on a pair: the node has its keys, so send on it."""
        place = self._places.get(number)
        if place is None:
            return []
        keys = self._keys[place]
        index = next(n for n, g in enumerate(keys.generations) if g.pair.number == number)
        generation = keys.generations[index]
        if generation.is_confirmed or generation.retire_ns:
            return []  # it is in use, or newer keys are
        generation.is_confirmed = True
        for older in keys.generations[:index]:
            older.root.wipe()
            if not older.retire_ns:
                older.retire_ns = now.boot_ns + LINGER_NS
                self._lingering.append((older.retire_ns, older.pair.number))
        return [SendOnPair(number), SendDummy(number)]

    def adopt(self, pair: SecurityAssociationPair) -> list[EspEffect]:
        """Take over a pair that outlived a restart; nothing can be ratcheted from it.

        It is used until the node has made a full exchange, which the next refresh asks it for.
        """
        place = pair.home_address, pair.care_of_address
        root = Root(Secret(bytes(ROOT_LEN)))
        root.wipe()
        keys = self._keys.setdefault(place, _Keys())
        keys.generations.append(_Generation(pair, root, is_confirmed=True))
        self._places[pair.number] = place
        self._number = max(self._number, pair.number)
        return [SendOnPair(pair.number)]

    def release(self, home_address: int, care_of_addresses: Iterable[int]) -> list[EspEffect]:
        """These bindings are gone."""
        effects: list[EspEffect] = []
        for care_of_address in care_of_addresses:
            keys = self._keys.pop((home_address, care_of_address), None)
            if keys is not None:
                for generation in tuple(keys.generations):
                    effects += self._retire(keys, generation)
        return effects

    def _retire(self, keys: _Keys, generation: _Generation) -> list[EspEffect]:
        keys.generations.remove(generation)
        number = generation.pair.number
        self._places.pop(number, None)
        generation.root.wipe()
        generation.pair.wipe()
        return [RetirePair(number)]

    # time --------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> list[EspEffect]:
        """Retire what has lingered long enough."""
        effects: list[EspEffect] = []
        while (due := self.next_deadline()) is not None and due <= now.boot_ns:
            _, number = self._lingering.popleft()
            keys = self._keys[self._places[number]]
            for generation in tuple(keys.generations):
                if generation.pair.number == number:
                    effects += self._retire(keys, generation)
        return effects

    def next_deadline(self) -> int | None:
        """When something has lingered long enough."""
        while self._lingering and self._lingering[0][1] not in self._places:
            self._lingering.popleft()  # it went with its binding
        return self._lingering[0][0] if self._lingering else None

    def is_keyed(self, place: Place) -> bool:
        """Whether there are keys for (home address, care-of address)."""
        return place in self._keys

    def rows(self) -> list[dict[str, object]]:
        """One line per pair, JSON-ready, without any key."""
        return [
            {
                "pair": generation.pair.number,
                "home_address": place[0],
                "care_of_address": place[1],
                "suite": generation.pair.suite.name.lower(),
                "inbound_spi": generation.pair.inbound_spi,
                "outbound_spi": generation.pair.outbound_spi,
                "confirmed": generation.is_confirmed,
                "lingers": bool(generation.retire_ns),
            }
            for place, keys in self._keys.items()
            for generation in keys.generations
        ]
