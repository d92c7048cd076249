"""RFC 6040: what happens to the two ECN bits at both ends of a tunnel."""

from __future__ import annotations

import itertools

import pytest
from scapy.layers.inet import IP

from fastmip import _dataplane
from tests.engine.lab import CARE_OF, CORRESPONDENT, HOME_AGENT, NODE, engine_for
from tests.reference.ipv4 import header
from tests.reference.tunnels import CE, ECT0, ECT1, HOME, NOT_ECT, TUNNEL, Binding, Twin

DROP = -1
# Typed in from RFC 6040 figure 4, columns Not-ECT, ECT(0), ECT(1), CE.
FIGURE_4 = {
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, DROP),
    ECT0: (ECT0, ECT0, ECT1, CE),
    ECT1: (ECT1, ECT1, ECT1, CE),
    CE: (CE, CE, CE, CE),
}
UNUSUAL = {(NOT_ECT, ECT0), (NOT_ECT, ECT1), (NOT_ECT, CE), (ECT1, ECT0), (CE, ECT1)}
COLUMNS = (NOT_ECT, ECT0, ECT1, CE)


@pytest.mark.parametrize(("inner", "outer"), list(itertools.product(FIGURE_4, COLUMNS)))
@pytest.mark.parametrize("dscp", [0, 46 << 2, 63 << 2])
def test_egress_follows_figure_4_rfc6040_4_2(inner: int, outer: int, dscp: int) -> None:
    engine = engine_for(Twin("home-agent", (HOME_AGENT,), {NODE: [Binding(CARE_OF, HOME_AGENT)]}))
    port = _dataplane.MemoryPort(engine)
    packet = header(NODE, CORRESPONDENT, 17, 0, tos=dscp | inner)
    verdict = port.inject(TUNNEL, [header(CARE_OF, HOME_AGENT, 4, 20, tos=outer) + packet])
    expected = FIGURE_4[inner][COLUMNS.index(outer)]
    left = port.take(HOME)
    if expected == DROP:
        assert (verdict, left) == (["drop-ecn"], [])
    else:
        assert verdict == ["decapsulated"]
        assert left == [header(NODE, CORRESPONDENT, 17, 0, tos=dscp | expected, ttl=63)]
    assert engine.events()["ecn-unusual"] == int((inner, outer) in UNUSUAL)


@pytest.mark.parametrize("tos", range(256))
@pytest.mark.parametrize("is_compatible", [False, True])
def test_ingress_copies_or_clears_by_mode_rfc6040_4_1(tos: int, is_compatible: bool) -> None:
    binding = Binding(CARE_OF, HOME_AGENT, is_compatible=is_compatible)
    engine = engine_for(Twin("home-agent", (HOME_AGENT,), {NODE: [binding]}))
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [header(CORRESPONDENT, NODE, 17, 0, tos=tos)])
    outer = IP(port.take(TUNNEL)[0])
    assert outer.tos == (tos & 0xFC if is_compatible else tos)
    assert outer.payload.tos == tos
