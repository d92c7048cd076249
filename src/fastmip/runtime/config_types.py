"""Types that tables of several roles share in the configuration file (``config.py``)."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fastmip.auth import associations as auth
from fastmip.runtime.keys import AsciiKey, Key

INFINITE_LIFETIME = 0xFFFF
"""A registration lifetime that never ends, as on the wire (RFC 5944 3.3)."""

Lifetime = Annotated[int, msgspec.Meta(ge=1, le=65534)] | Literal["infinite"]
Encapsulation = Literal["ipip", "minimal", "gre"]
"""RFC 2003, 2004, 2784."""
Algorithm = Literal["hmac-md5", "hmac-sha1", "hmac-sha256", "keyed-md5"]
Replay = Literal["timestamps", "nonces"]
Direction = Literal["both", "inbound", "outbound"]


class Address(int):
    """An IPv4 address: a host-order integer that prints as a dotted quad.

    Give ``ipaddress.IPv4Address`` a plain ``int(address)``: it keeps what it gets.
    """

    def __str__(self) -> str:
        return str(ipaddress.IPv4Address(int(self)))

    def __repr__(self) -> str:
        return f"Address('{self}')"


class AssociationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mobility security association (RFC 5944 1.6): SPI, key, algorithm, replay style."""

    spi: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
    key: Key | None = None
    """After ``load_config`` always present: from ``key`` or from ``key_file``."""
    key_file: Path | None = None
    """Relative paths start at the directory of the configuration file."""
    key_ascii: AsciiKey | None = None
    """Characters, as routers on sale take them (``profile``)."""
    algorithm: Algorithm = "hmac-md5"
    replay: Replay = "timestamps"
    replay_window: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 7
    """Seconds (RFC 5944 5.7.1)."""
    direction: Direction = "both"

    @property
    def secret(self) -> bytes:
        """The key's bytes; LookupError on a configuration that did not go through load."""
        key = self.key_ascii if self.key is None else self.key
        if key is None:
            raise LookupError("the key of this association was not loaded")
        return key.reveal()

    @property
    def is_short(self) -> bool:
        """Whether the key is shorter than RFC 5944 5.1 asks for."""
        return self.key_ascii is not None and self.key_ascii.is_short

    def build(self) -> auth.SecurityAssociation:
        """Make the association that signs and verifies."""
        return auth.SecurityAssociation(
            spi=self.spi,
            key=self.secret,
            algorithm=auth.Algorithm(self.algorithm),
            replay=auth.ReplayStyle(self.replay),
            window_s=self.replay_window,
            direction=auth.Direction(self.direction),
            may_be_short=self.is_short,
        )


def lifetime_s(lifetime: int | str) -> int:
    """Seconds; 0xffff when infinite, as on the wire."""
    return lifetime if isinstance(lifetime, int) else INFINITE_LIFETIME
