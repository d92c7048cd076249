"""What keys for ESP cost the home agent's Python per registration (docs/registration-keyed-esp.md).

``keying.full``: registrations with a full key exchange per second of one processor: read and verify
the request, make a share, X25519, derive the keys, sign the reply; no socket, no store, no engine,
and processor time, so that a busy machine does not count.
The reference is a share and an X25519 result of the library alone: what nobody can avoid.
``keying.ratchet``: the same for refreshes; the reference is two HMAC-MD5, those without keys.
Run alone: ``python -m bench.keying``.
"""

from __future__ import annotations

import hmac
import itertools
import secrets
import time
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from bench.results import Benchmark, Result, median_of_rounds
from fastmip.agents.effects import Now
from fastmip.agents.esp_pairs import Esp, InstallPair
from fastmip.agents.home_keying import HomeKeying, KeyingPolicy
from fastmip.auth.associations import SecurityAssociation
from fastmip.auth.authenticators import append_authentication, verify_authentication
from fastmip.auth.esp_schedule import KeyShare
from fastmip.wire.codes import ExtensionType
from fastmip.wire.esp_keying import (
    FullOffer,
    Offer,
    RatchetOffer,
    Suite,
    carry_answer,
    carry_offer,
)
from fastmip.wire.registration import RegistrationReply, RegistrationRequest

NODES = 2_000
ROUNDS = 7
COMMAND = "sh ./run bench --only keying"
_AUTHENTICATION = ExtensionType.MOBILE_HOME_AUTHENTICATION
_HOME_AGENT, _FIRST_NODE, _CARE_OF = 0x0A000001, 0x0A010000, 0xC0000201
_KEY = bytes(range(16))


class Loop:
    """A home agent that answers offers; every request is verified and every reply signed."""

    def __init__(self) -> None:
        self._shared = SecurityAssociation(0x100, _KEY)
        numbers = itertools.count(256)
        self._home = HomeKeying(
            KeyingPolicy(Esp.REQUIRED), random=secrets.token_bytes, new_spi=numbers.__next__
        )
        self._round = 0
        self._share = KeyShare().public
        self._names: list[bytes] = []

    def full(self) -> float:
        """Full exchanges per second, of every node once."""
        offer = FullOffer(300, secrets.token_bytes(16), self._share, (Suite.AES128_GCM16,))
        return self._answer([offer] * NODES)

    def ratchet(self) -> float:
        """Refreshes per second, of every node once."""
        if not self._names:
            self.full()
        nonce = secrets.token_bytes(16)
        return self._answer([RatchetOffer(300, nonce, name) for name in self._names])

    def _answer(self, offers: Sequence[Offer]) -> float:
        self._round += 1
        requests = []
        for node, offer in enumerate(offers):
            extensions = (carry_offer(offer, critical=True),)
            request = RegistrationRequest(
                *(0x22, 300, _FIRST_NODE + node, _HOME_AGENT, _CARE_OF, self._round), extensions
            )
            requests.append(append_authentication(request.encode(), _AUTHENTICATION, self._shared))
        now = Now(1000 * 10**9 * self._round, 0)
        began = time.process_time()
        pairs = [self._register(data) for data in requests]
        taken = time.process_time() - began
        for number in pairs:
            self._home.confirmed(number, now)
        self._home.handle_timer(Now(now.boot_ns + 10**10, 0))
        keys = self._home._keys.values()  # the class exists for this bench alone
        self._names = [places.generations[-1].root.name for places in keys]
        return NODES / taken

    def _register(self, data: bytes) -> int:
        request = RegistrationRequest.decode(data)
        proof = request.authentications(_AUTHENTICATION)[0]
        assert verify_authentication(data, proof, self._shared)
        place = request.home_address, request.care_of_address
        considered = self._home.consider(place, request.extensions[:1])
        assert considered is not None
        covered = RegistrationReply(
            0, 300, request.home_address, request.home_agent, request.identification
        ).encode()
        covered += carry_answer(considered.answer, critical=True).build()
        ends = _HOME_AGENT, _CARE_OF
        install = self._home.conclude(place, considered, data, covered, ends)[-1]
        assert isinstance(install, InstallPair)
        self._home.remember(
            place, data, append_authentication(covered, _AUTHENTICATION, self._shared)
        )
        return install.pair.number


def _bare_exchange() -> float:
    """Shares made and agreed per second by the library alone."""
    other = X25519PublicKey.from_public_bytes(KeyShare().public)
    began = time.process_time()
    for _ in range(NODES):
        own = X25519PrivateKey.generate()
        own.public_key().public_bytes_raw()
        own.exchange(other)
    return NODES / (time.process_time() - began)


def _two_authenticators() -> float:
    covered = bytes(30)
    began = time.process_time()
    for _ in range(NODES):
        hmac.digest(_KEY, covered, "md5")
        hmac.digest(_KEY, covered, "md5")
    return NODES / (time.process_time() - began)


def keying() -> list[Result]:
    """Both figures."""
    loop = Loop()
    full, bare = median_of_rounds(ROUNDS, loop.full, _bare_exchange)
    ratchet, floor = median_of_rounds(ROUNDS, loop.ratchet, _two_authenticators)
    return [
        Result(
            "keying.full",
            full,
            "per s",
            full / bare,
            f"X25519 of the library alone: {bare:.0f} per s",
            COMMAND,
        ),
        Result(
            "keying.ratchet",
            ratchet,
            "per s",
            ratchet / floor,
            f"two HMAC-MD5: {floor:.0f} per s",
            COMMAND,
        ),
    ]


BENCHMARKS: dict[str, Benchmark] = {"keying": keying}


if __name__ == "__main__":
    for result in keying():
        print(f"{result.name}: {result.value:.4g} {result.unit} ({result.reference})")
