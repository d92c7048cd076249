"""``fastmip bench load IFACE``: a load out of one interface, what comes back in at another."""

from __future__ import annotations

import ipaddress
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from fastmip.runtime.bench.bpf_calls import BpfError
from fastmip.runtime.bench.generator import send
from fastmip.runtime.bench.receiver import Received, Receiver
from fastmip.runtime.bench.traffic import IMIX, MAX_SIZE, MIN_SIZE, Load
from fastmip.runtime.cli.failures import Failure
from fastmip.runtime.cli.render import json_option, print_json, print_table

_DRAIN_S = 0.05
_DRAINED_AFTER = 4
_NOBODY = b"\x02\x00\x00\x00\x00\x01"
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def _mac(_ctx: click.Context, _parameter: click.Parameter, text: str) -> bytes:
    if not _MAC.fullmatch(text):
        raise click.BadParameter(f"{text}: expected a MAC address, 02:00:00:00:00:01")
    return bytes.fromhex(text.replace(":", ""))


def _addresses(_ctx: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, int]:
    """The first address, and how many."""
    first, _, last = text.partition("-")
    try:
        if last:
            low, high = (int(ipaddress.IPv4Address(word)) for word in (first, last))
        else:
            network = ipaddress.IPv4Network(first)
            low, high = int(network[0]), int(network[-1])
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if high < low or high - low >= 2**32 - 1:
        raise click.BadParameter(f"{text}: expected FIRST-LAST or a network")
    return low, high - low + 1


def _address(_ctx: click.Context, _parameter: click.Parameter, text: str) -> int:
    try:
        return int(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _sizes(
    _ctx: click.Context, _parameter: click.Parameter, text: str
) -> tuple[tuple[int, int], ...]:
    if text == "imix":
        return IMIX
    if not text.isdecimal() or not MIN_SIZE <= int(text) <= MAX_SIZE:
        raise click.BadParameter(f"{text}: expected {MIN_SIZE} to {MAX_SIZE}, or imix")
    return ((int(text), 1),)


@click.command()
@click.argument("interface", metavar="IFACE")
@click.option(
    "--mac",
    callback=_mac,
    required=True,
    help="Destination MAC address: the device's, as next hop.",
)
@click.option(
    "--to",
    "addresses",
    callback=_addresses,
    required=True,
    help="Destination addresses, drawn at random: FIRST-LAST or a network.",
)
@click.option(
    "--source",
    callback=_address,
    default="198.18.0.2",
    show_default=True,
    help="Source address of every packet.",
)
@click.option(
    "--size",
    "sizes",
    callback=_sizes,
    default="64",
    show_default=True,
    help="IPv4 total length in bytes, or imix: 7 of 64, 4 of 576, 1 of 1400.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=0,
    help="Packets per second; without it as fast as it goes.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    default=1,
    show_default=True,
)
@click.option(
    "--receive",
    metavar="IFACE",
    help="Count, time and drop here what comes back, in tunnels or not; same machine.",
)
@json_option
def load(
    interface: str,
    mac: bytes,
    addresses: tuple[int, int],
    source: int,
    sizes: tuple[tuple[int, int], ...],
    rate: float,
    seconds: float,
    receive: str | None,
    *,
    as_json: bool,
) -> None:
    """Send UDP packets out of IFACE from inside the kernel, and measure what comes back.

    IFACE must be one whose driver sends what XDP programs redirect; a veth does if its other end
    has GRO on or an XDP program. Takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.
    """
    mix = Load(
        first=addresses[0],
        addresses=addresses[1],
        sizes=sizes,
        source=source,
        destination_mac=mac,
        source_mac=_own_mac(interface),
        rate=rate,
        seconds=seconds,
        batch=64 if rate == 0 or rate > 1e6 else 8,
    )
    try:
        summary = run_load(mix, interface, receive)
    except BpfError as error:
        raise Failure(str(error)) from None
    if as_json:
        print_json({"command": "bench load", "rows": [], "summary": summary})
    else:
        print_table([], summary)


def run_load(mix: Load, interface: str, receive: str | None) -> dict[str, Any]:
    """Send, wait until no more comes, and say what was. Raises BpfError, Failure."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver(receive)) if receive else None
        before = _transmitted(interface)
        sent = send(mix, interface, out=True)
        got = _all_of_it(receiver) if receiver else None
        transmitted = _transmitted(interface) - before
    if transmitted * 100 < sent.packets:  # the kernel itself sends a packet now and then
        raise Failure(
            f"{interface}: nothing left: its driver does not send for XDP programs"
            " (a veth: switch on GRO at its other end)"
        )
    summary: dict[str, Any] = {
        "packets": sent.packets,
        "octets": sent.octets,
        "seconds": round(sent.seconds, 6),
        "pps": round(sent.pps),
        "transmitted": transmitted,
        "cpu_seconds": round(sent.cpu_seconds, 6),
    }
    if got:
        summary |= {
            "received": got.packets,
            "received_octets": got.octets,
            "received_pps": round(got.packets / sent.seconds),
            "lost": sent.packets - got.packets,
            **got.latencies.figures(),
        }
    return summary


def _all_of_it(receiver: Receiver) -> Received:
    """What was received once no more comes."""
    got, unchanged = receiver.read(), 0
    while unchanged < _DRAINED_AFTER:
        time.sleep(_DRAIN_S)
        last, got = got, receiver.read()
        unchanged = unchanged + 1 if got.packets == last.packets else 0
    return got


def _own_mac(interface: str) -> bytes:
    """The interface's own address, or any where it has none."""
    try:
        text = Path("/sys/class/net", interface, "address").read_text().strip()
    except OSError:
        text = ""  # another namespace's /sys
    return bytes.fromhex(text.replace(":", "")) if _MAC.fullmatch(text) else _NOBODY


def _transmitted(interface: str) -> int:
    """Packets that left by an interface so far; 0 if it is not there."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            return int(counters.split()[9])
    return 0
