"""Engine beside its twin: the same bindings, the same packets, the same answers."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

from tests.reference.tunnels import HOME, TUNNEL, Twin

from fastmip import _dataplane


def a(text: str) -> int:
    """Host-order integer of a dotted address."""
    return int(IPv4Address(text))


HOME_AGENT = a("10.1.0.1")
NODE = a("10.1.0.5")
OTHER_NODE = a("10.1.0.6")
CARE_OF = a("10.3.1.20")
OTHER_CARE_OF = a("10.3.2.20")
CORRESPONDENT = a("10.9.0.7")


def engine_for(twin: Twin, *, max_bindings: int = 64, scalar: bool = False) -> _dataplane.Engine:
    """An engine with the twin's bindings and no limit on ICMP errors."""
    engine = _dataplane.Engine(
        max_bindings=max_bindings,
        role=twin.role,
        local_addresses=twin.own,
        icmp_per_second=1_000_000_000,
        icmp_burst=1_000_000,
    )
    engine.use_scalar_loops(scalar)
    engine.restore(twin.records())
    for (prefix, length), home in twin.networks.items():
        engine.set_prefix(prefix, length, home)
    return engine


def assert_balanced(engine: _dataplane.BindingCache) -> None:
    """Every packet ended in exactly one verdict."""
    balance = engine.balance()
    entered = balance["inputs"] + balance["generated"] + balance["copies"]
    assert entered == balance["verdicts"], balance


def assert_same(twin: Twin, engine: _dataplane.Engine, side: int, packets: list[bytes]) -> None:
    """Engine and twin agree on verdicts, counters and every byte that leaves, in order."""
    port = _dataplane.MemoryPort(engine, done=twin.done)
    engine.clear_counters()
    twin.left[HOME].clear()
    twin.left[TUNNEL].clear()
    twin.extra.clear()
    twin.told.clear()
    expected = [twin.process(side, packet) for packet in packets]
    assert port.inject(side, packets, now_ns=twin.now_ns) == expected
    assert engine.take_half_bound() == twin.told
    assert_balanced(engine)
    counted = {name: packets for name, (packets, _) in engine.counters().items() if packets}
    assert counted == Counter(expected + twin.extra)
    # Plain packets of a batch may overtake others, never each other: compare as sets of bytes.
    assert sorted(port.take(HOME)) == sorted(twin.left[HOME])
    assert sorted(port.take(TUNNEL)) == sorted(twin.left[TUNNEL])
