"""Security associations of ESP as agents speak of them, and where they come from.

An ``SaSource`` makes pairs, one association for each direction, and says when to install, to use
and to retire them: ``home_keying.HomeKeying`` and ``node_keying.NodeKeying`` out of
registrations. The other end of an effect is whoever holds the packet engine's associations.

Times are CLOCK_BOOTTIME, addresses host-order integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from fastmip.agents.effects import Now
from fastmip.auth.esp_schedule import Secret
from fastmip.wire.esp_keying import Suite

SECOND_NS = 1_000_000_000
LINGER_NS = 2 * SECOND_NS
"""Ours: how long packets under way on an association that was replaced are still taken."""


class Esp(Enum):
    """What a role thinks of registrations without keys for ESP."""

    OFF = "off"
    """Keys are neither offered nor given."""
    PREFERRED = "preferred"
    """Given to who asks; without them there is clear text."""
    REQUIRED = "required"
    """No registration without."""


@dataclass(frozen=True, slots=True)
class SecurityAssociationPair:
    """One association for each direction of one (home address, care-of address)."""

    number: int
    """By which later effects name it; never used twice by a source."""
    home_address: int
    care_of_address: int
    local: int
    """Our end of the ESP tunnel; with a foreign agent's care-of address the node's end is the
    home address, inside the agent's tunnel."""
    remote: int
    suite: Suite
    inbound_spi: int
    outbound_spi: int
    inbound: Secret = field(compare=False)
    """Key and salt, or key and key of the HMAC; wiped by the source when the pair retires."""
    outbound: Secret = field(compare=False)

    def wipe(self) -> None:
        """Overwrite the keys."""
        self.inbound.wipe()
        self.outbound.wipe()


@dataclass(frozen=True, slots=True)
class InstallPair:
    """Take packets on the inbound association; send none yet."""

    pair: SecurityAssociationPair


@dataclass(frozen=True, slots=True)
class SendOnPair:
    """Send everything for its (home address, care-of address) on this pair from now on."""

    number: int


@dataclass(frozen=True, slots=True)
class SendDummy:
    """Send one dummy packet (next header 59, RFC 4303 2.6) on the pair's outbound association."""

    number: int


@dataclass(frozen=True, slots=True)
class RetirePair:
    """Take and send nothing on this pair any more, and forget its keys."""

    number: int


@dataclass(frozen=True, slots=True)
class HoldTraffic:
    """Send nothing to this (home address, care-of address) until a ``SendOnPair``; drop clear text
    that comes."""

    home_address: int
    care_of_address: int


EspEffect = InstallPair | SendOnPair | SendDummy | RetirePair | HoldTraffic


class SaSource(Protocol):
    """What whoever carries the effects out tells the source."""

    def confirmed(self, number: int, now: Now) -> list[EspEffect]:
        """The first packet that opened came in on a pair."""

    def handle_timer(self, now: Now) -> list[EspEffect]:
        """Do what is due; call it at ``next_deadline``."""

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds at which ``handle_timer`` has something to do."""
