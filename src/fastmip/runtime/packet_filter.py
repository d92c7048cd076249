"""Which packets a trace or a capture takes, in an operator's words.

A filter is a list of terms that must all hold: ``10.1.0.5``, ``10.9.0.0/16``, ``udp``,
``proto=47``, ``port=434``, ``spi=0x1234``, ``verdict=drop-ttl``, ``verdict=drop`` (any drop).
An address, a protocol, a port or an SPI may stand in any header of the packet, outer or inner:
the same filter takes a packet before and behind the engine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from fastmip.runtime.service import CommandError

PROTOCOLS: Final = {
    "icmp": 1,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "minimal": 55,
}
ANY_DROP: Final = "drop"
_EXACT: Final = 0xFFFFFFFF
_REMEDY: Final = (
    "write an address, a network, a protocol (icmp, tcp, udp, ipip, gre, minimal, esp), proto=N,"
    " port=N, spi=N or verdict=NAME"
)


class Term(NamedTuple):
    """One condition of ``_dataplane.Capture`` and ``Trace``."""

    kind: str
    value: int
    mask: int


class PacketFilter(NamedTuple):
    """Conditions on packets and on their verdicts (None: any)."""

    terms: tuple[Term, ...]
    verdicts: frozenset[str] | None


def parse_filter(
    words: Sequence[str],
    *,
    verdicts: Collection[str],
    drops: Collection[str],
    only_drops: bool = False,
) -> PacketFilter:
    """Make a filter from its words. Raises CommandError."""
    terms: list[Term] = []
    wanted: frozenset[str] | None = frozenset(drops) if only_drops else None
    for word in (part for text in words for part in text.replace(",", " ").split()):
        if word.startswith("verdict="):
            named = _verdicts(word.removeprefix("verdict="), verdicts, drops)
            wanted = named if wanted is None else wanted & named
        else:
            terms.append(_term(word))
    return PacketFilter(tuple(terms), wanted)


def _verdicts(name: str, known: Collection[str], drops: Collection[str]) -> frozenset[str]:
    if name == ANY_DROP:
        return frozenset(drops)
    if name not in known:
        raise CommandError(f"verdict {name}: no such verdict: fastmip show errors names them")
    return frozenset([name])


def _term(word: str) -> Term:
    name, _, text = word.partition("=")
    if word in PROTOCOLS:
        return Term("protocol", PROTOCOLS[word], _EXACT)
    if name == "proto":
        number = PROTOCOLS[text] if text in PROTOCOLS else _number(word, text, 255)
        return Term("protocol", number, _EXACT)
    if name in _NUMBERS:
        return _NUMBERS[name](word, text)
    try:
        network = ipaddress.IPv4Network(word, strict=False)
    except ValueError:
        raise CommandError(f"{word}: no such term: {_REMEDY}") from None
    return Term("address", int(network.network_address), int(network.netmask))


def _number(word: str, text: str, most: int) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise CommandError(f"{word}: expected a number from 0 to {most}")
    return number


_NUMBERS: Final[dict[str, Callable[[str, str], Term]]] = {
    "port": lambda word, text: Term("port", _number(word, text, 65535), _EXACT),
    "spi": lambda word, text: Term("spi", _number(word, text, _EXACT), _EXACT),
}
