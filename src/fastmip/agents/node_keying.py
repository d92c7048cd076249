"""The mobile node's side of registration-keyed ESP, sans I/O (docs/registration-keyed-esp.md).

Per (home address, care-of address):

| state    | event                                | done                               | state    |
|----------|--------------------------------------|------------------------------------|----------|
| no keys  | a request is built                   | full offer                         | asking   |
| keyed    | a request is built                   | ratchet offer; full once too old   | asking   |
| asking   | another request is built             | a new offer replaces this one      | asking   |
| asking   | reply with a fitting answer          | install, send on it, dummy         | keyed    |
| asking   | reply AGAIN to a ratchet             | forget the root                    | no keys  |
| asking   | reply without or with another answer | rejected: no registration          | as before|
| keyed    | nothing opens on the newest pair     | another dummy, less and less often | keyed    |
| keyed    | a packet opens on a pair             | older ones linger, then retire     | keyed    |
| any      | care-of address given up             | retire all, wipe                   | no keys  |

``PREFERRED`` asks by the normal extension. A reply without keys is rejected all the same, and the
next request asks for none: both sides then mean clear text. That ends with the next move, and is
never done with a home agent that gave keys before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from fastmip.agents.effects import Now
from fastmip.agents.esp_pairs import (
    LINGER_NS,
    SECOND_NS,
    Esp,
    EspEffect,
    InstallPair,
    RetirePair,
    SecurityAssociationPair,
    SendDummy,
    SendOnPair,
)
from fastmip.auth.esp_schedule import (
    Direction,
    KeyExchangeError,
    KeyShare,
    Root,
    Secret,
    transcript,
)
from fastmip.errors import WireError
from fastmip.wire.esp_keying import (
    NONCE_LEN,
    AgainAnswer,
    Answer,
    FullAnswer,
    FullOffer,
    RatchetAnswer,
    RatchetOffer,
    Suite,
    carry_offer,
    find_answer,
)
from fastmip.wire.extensions import Extension
from fastmip.wire.vendor import VendorExtension

FIRST_DUMMY_NS = SECOND_NS // 4
LAST_DUMMY_NS = 16 * SECOND_NS
"""Ours: dummies until the home agent's packets come by the newest pair, at doubling pauses."""


class Verdict(Enum):
    """What a reply that was accepted means for ESP."""

    CLEAR = "clear"
    """Nothing was asked for, nothing was given."""
    KEYED = "keyed"
    AGAIN = "again"
    """The registration stands; register again at once, with a full exchange."""
    REJECTED = "rejected"
    """No registration: the reply does not answer what was asked."""


class Heard(NamedTuple):
    """The verdict on a reply, what to do, and why it was rejected."""

    verdict: Verdict
    effects: list[EspEffect]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeKeyingPolicy:
    """What a mobile node asks for."""

    esp: Esp = Esp.OFF
    suites: tuple[Suite, ...] = (Suite.AES128_GCM16, Suite.AES256_GCM16)
    max_age_s: int = 3600
    """A full exchange is due when the last one is this old."""
    max_ratchets: int = 64


@dataclass(slots=True)
class _Generation:
    pair: SecurityAssociationPair
    root: Root
    exchanged_ns: int
    """When the last full exchange before it was."""
    ratchets: int
    is_confirmed: bool = False
    dummy_ns: int = 0
    """When the next dummy is due."""
    pause_ns: int = FIRST_DUMMY_NS
    retire_ns: int = 0


@dataclass(slots=True)
class _Asking:
    place: tuple[int, int]
    offer: FullOffer | RatchetOffer
    share: KeyShare | None = field(repr=False)
    step: Secret | None = field(repr=False)
    base: _Generation | None
    request: bytes = field(default=b"", repr=False)

    def wipe(self) -> None:
        if self.step is not None:
            self.step.wipe()


class NodeKeying:
    """Keys of one mobile node; an ``SaSource``."""

    def __init__(
        self,
        policy: NodeKeyingPolicy,
        *,
        random: Callable[[int], bytes],
        new_spi: Callable[[], int],
        new_share: Callable[[], KeyShare] = KeyShare,
    ) -> None:
        self.policy = policy
        self._random = random
        self._new_spi = new_spi
        self._new_share = new_share
        self._generations: dict[tuple[int, int], list[_Generation]] = {}
        self._asking: _Asking | None = None
        self._number = 0
        self._was_keyed = False
        self._asks_for_none = False

    # asking ------------------------------------------------------------------------------

    def moved(self) -> None:
        """We are elsewhere: ask again where keys were not given."""
        self._asks_for_none = False

    def offer(self, place: tuple[int, int], now: Now) -> VendorExtension | None:
        """What to put into the next registration of (home address, care-of address).

        Replaces what was offered before: only the latest request is answered.
        """
        self._forget_asking()
        if self.policy.esp is Esp.OFF or self._asks_for_none:
            return None
        base = self._usable_base(place, now)
        spi, nonce = self._new_spi(), self._random(NONCE_LEN)
        if base is None:
            share = self._new_share()
            full = FullOffer(spi, nonce, share.public, tuple(map(int, self.policy.suites)))
            self._asking = _Asking(place, full, share, None, None)
        else:
            ratchet = RatchetOffer(spi, nonce, base.root.name)
            self._asking = _Asking(place, ratchet, None, base.root.step(), base)
        return carry_offer(self._asking.offer, critical=self.policy.esp is Esp.REQUIRED)

    def _usable_base(self, place: tuple[int, int], now: Now) -> _Generation | None:
        generations = self._generations.get(place)
        if not generations:
            return None
        newest = generations[-1]
        age_ns = now.boot_ns - newest.exchanged_ns
        if age_ns >= self.policy.max_age_s * SECOND_NS:
            return None
        if newest.ratchets >= self.policy.max_ratchets or newest.root.is_wiped:
            return None
        return newest

    def asked(self, request: bytes) -> None:
        """The request as it was signed: up to and with its Mobile-Home authentication."""
        if self._asking is not None:
            self._asking.request = request

    def denied(self) -> None:
        """The request was denied: what it offered is spent."""
        self._forget_asking()

    def _forget_asking(self) -> None:
        if self._asking is not None:
            self._asking.wipe()
            self._asking = None

    # hearing -----------------------------------------------------------------------------

    def hear(
        self, extensions: Iterable[Extension], reply: bytes, ends: tuple[int, int], now: Now
    ) -> Heard:
        """Judge an accepting reply to the latest request, whose authenticator was verified.

        ``extensions`` and ``reply``: what stands before its Mobile-Home authentication. ``ends``:
        our end of the ESP tunnel and the home agent's.
        """
        asking, self._asking = self._asking, None
        try:
            answer = find_answer(extensions)
        except WireError as error:
            return self._reject(asking, str(error))
        if asking is None:
            if answer is None:
                return Heard(Verdict.CLEAR, [])
            return self._reject(None, "keys that were not asked for")
        if answer is None:
            self._asks_for_none = self.policy.esp is Esp.PREFERRED and not self._was_keyed
            return self._reject(asking, "no keys although they were asked for")
        if isinstance(answer, AgainAnswer) and asking.base is not None:
            asking.base.root.wipe()
            asking.wipe()
            return Heard(Verdict.AGAIN, [])
        try:
            secret, suite, spi = self._agree(asking, answer)
        except KeyExchangeError as error:
            return self._reject(asking, str(error))
        root = Root.of_exchange(secret, transcript(asking.request, reply))
        return Heard(Verdict.KEYED, self._keyed(asking, root, suite, spi, ends, now))

    def _reject(self, asking: _Asking | None, reason: str) -> Heard:
        if asking is not None:
            asking.wipe()
        return Heard(Verdict.REJECTED, [], reason)

    def _agree(self, asking: _Asking, answer: Answer) -> tuple[Secret, Suite, int]:
        """The secret both have, the suite, and their SPI. Raises KeyExchangeError."""
        offer = asking.offer
        if isinstance(answer, AgainAnswer):
            raise KeyExchangeError("the home agent misses a key that was not named")
        if answer.nonce == offer.nonce:
            raise KeyExchangeError("our own nonce came back")
        if isinstance(answer, FullAnswer) and isinstance(offer, FullOffer):
            if answer.suite not in offer.suites or asking.share is None:
                raise KeyExchangeError("a suite that was not offered")
            return asking.share.agree(answer.share), Suite(answer.suite), answer.spi
        if isinstance(answer, RatchetAnswer) and isinstance(offer, RatchetOffer):
            base, step = asking.base, asking.step
            if answer.name != offer.name or base is None or step is None:
                raise KeyExchangeError("another key was named")
            return step, base.pair.suite, answer.spi
        raise KeyExchangeError("an answer of another kind")

    def _keyed(
        self,
        asking: _Asking,
        root: Root,
        suite: Suite,
        spi: int,
        ends: tuple[int, int],
        now: Now,
    ) -> list[EspEffect]:
        self._number += 1
        self._was_keyed = True
        place, base, own_spi = asking.place, asking.base, asking.offer.spi
        pair = SecurityAssociationPair(
            self._number,
            *place,
            *ends,
            suite,
            own_spi,
            spi,
            root.keys(Direction.TO_NODE, *place, suite, own_spi),
            root.keys(Direction.TO_HOME, *place, suite, spi),
        )
        exchanged_ns, ratchets = now.boot_ns, 0
        if base is not None:
            exchanged_ns, ratchets = base.exchanged_ns, base.ratchets + 1
        generation = _Generation(pair, root, exchanged_ns, ratchets)
        generation.dummy_ns = now.boot_ns + FIRST_DUMMY_NS
        generations = self._generations.setdefault(place, [])
        for older in generations:
            older.root.wipe()
        generations.append(generation)
        number = pair.number
        return [InstallPair(pair), SendOnPair(number), SendDummy(number)]

    # what packets tell -------------------------------------------------------------------

    def confirmed(self, number: int, now: Now) -> list[EspEffect]:
        """A packet opened on a pair: the home agent sends on it."""
        for generations in self._generations.values():
            for index, generation in enumerate(generations):
                if generation.pair.number != number:
                    continue
                generation.is_confirmed = True
                for older in generations[:index]:
                    older.retire_ns = older.retire_ns or now.boot_ns + LINGER_NS
        return []

    def release(self, place: tuple[int, int]) -> list[EspEffect]:
        """This care-of address was given up."""
        if self._asking is not None and self._asking.place == place:
            self._forget_asking()
        effects: list[EspEffect] = []
        for generation in self._generations.pop(place, []):
            effects += self._retired(generation)
        return effects

    def _retired(self, generation: _Generation) -> list[EspEffect]:
        generation.root.wipe()
        generation.pair.wipe()
        return [RetirePair(generation.pair.number)]

    # time --------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> list[EspEffect]:
        """Retire what has lingered long enough; send the dummies that are due."""
        effects: list[EspEffect] = []
        for generations in self._generations.values():
            for generation in tuple(generations):
                if 0 < generation.retire_ns <= now.boot_ns:
                    generations.remove(generation)
                    effects += self._retired(generation)
            newest = generations[-1]
            if not newest.is_confirmed and newest.dummy_ns <= now.boot_ns:
                newest.pause_ns = min(2 * newest.pause_ns, LAST_DUMMY_NS)
                newest.dummy_ns = now.boot_ns + newest.pause_ns
                effects.append(SendDummy(newest.pair.number))
        return effects

    def next_deadline(self) -> int | None:
        """When ``handle_timer`` has something to do."""
        times: list[int] = []
        for generations in self._generations.values():
            times += [g.retire_ns for g in generations if g.retire_ns]
            if not generations[-1].is_confirmed:
                times.append(generations[-1].dummy_ns)
        return min(times, default=None)
