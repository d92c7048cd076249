"""Updates under full load never show a packet a half-written binding."""

from __future__ import annotations

import struct
import threading

import pytest
from tests.engine.build_probe import probe
from tests.engine.lab import CARE_OF, CORRESPONDENT, HOME_AGENT, NODE, assert_balanced
from tests.reference.tunnels import HOME, TUNNEL, Binding

from fastmip import _dataplane

PUBLICATIONS = 150_000


def churned(how: str, publications: int) -> dict[str, int]:
    """What a thread full of packets saw while another published in this way."""
    lab = probe().PublicationLab()
    writer = threading.Thread(target=lab.churn, args=(how, publications))
    writer.start()
    seen: dict[str, int] = lab.watch()
    writer.join()
    return seen


def test_no_packet_sees_a_half_written_binding() -> None:
    seen = churned("atomic", PUBLICATIONS)
    assert seen["packets"] > 1000
    assert (seen["broken"], seen["missed"], seen["backwards"]) == (0, 0, 0)


@pytest.mark.parametrize("how", ["in-place", "index-first"])
def test_the_watcher_notices_publication_that_is_not_atomic(how: str) -> None:
    # Bounded by publications, not by time; one of very many is enough.
    assert churned(how, 100 * PUBLICATIONS)["broken"] > 0


def test_what_is_learnt_of_a_replaced_binding_is_not_told_of_the_new_one() -> None:
    assert probe().PublicationLab().learn_late() == 0


@pytest.mark.parametrize("side", [HOME, TUNNEL])
def test_moves_through_the_api_lose_no_packet(side: int) -> None:
    engine = _dataplane.Engine(max_bindings=64, local_addresses=[HOME_AGENT])
    homes = [NODE + number for number in range(64)]
    records = [Binding(CARE_OF, HOME_AGENT).record(home) for home in homes]
    engine.restore(b"".join(records))
    draws = b"".join(struct.pack("=II", home, CARE_OF) for home in homes)
    source = _dataplane.Replay(
        engine,
        side=side,
        size=64,
        frames=512,
        draws=draws,
        tunnel=Binding(CARE_OF, HOME_AGENT).record(NODE),
        correspondent=CORRESPONDENT,
    )
    results: list[tuple[int, int, int]] = []
    sender = threading.Thread(target=lambda: results.append(source.run(packets=3_000_000)))
    sender.start()
    moves = 0
    while sender.is_alive():
        # The same far end, so that both directions go on; the line is a new one each time.
        engine.publish(engine.prepare(records[moves % 64]))
        engine.extend(homes[moves % 64], CARE_OF, 2**64 - 1 - moves)
        moves += 1
    sender.join()
    ((_, sent, left),) = results
    assert (left, moves > 0) == (sent, True)
    assert_balanced(engine)


def test_counters_cleared_under_full_load_stay_in_balance() -> None:
    """Per-worker counters are the worker's: clearing must lose neither half of a batch."""
    engine = _dataplane.Engine(max_bindings=64, local_addresses=[HOME_AGENT])
    engine.restore(Binding(CARE_OF, HOME_AGENT).record(NODE))
    draws = struct.pack("=II", NODE, CARE_OF) * 64
    source = _dataplane.Replay(
        engine,
        side=HOME,
        size=64,
        frames=512,
        draws=draws,
        tunnel=Binding(CARE_OF, HOME_AGENT).record(NODE),
        correspondent=CORRESPONDENT,
    )
    for _ in range(30):
        sender = threading.Thread(target=lambda: source.run(packets=500_000))
        sender.start()
        counted = engine.balance()["inputs"]
        while sender.is_alive() and engine.balance()["inputs"] == counted:
            pass
        engine.clear_counters()  # in the middle of a batch, as likely as not
        sender.join()
        assert_balanced(engine)
    engine.clear_counters()
    assert set(engine.counters().values()) == {(0, 0)}
    assert engine.balance() == {"inputs": 0, "generated": 0, "copies": 0, "verdicts": 0}


def test_a_second_memory_port_at_the_same_moment_is_refused() -> None:
    engine = _dataplane.Engine(max_bindings=64, local_addresses=[HOME_AGENT])
    engine.restore(Binding(CARE_OF, HOME_AGENT).record(NODE))
    draws = struct.pack("=II", NODE, CARE_OF) * 64
    source = _dataplane.Replay(
        engine,
        side=0,
        size=64,
        frames=128,
        draws=draws,
        tunnel=Binding(CARE_OF, HOME_AGENT).record(NODE),
        correspondent=1 << 24,
    )
    sender = threading.Thread(target=lambda: source.run(packets=20_000_000))
    sender.start()
    refused = False
    while sender.is_alive() and not refused:
        try:
            _dataplane.MemoryPort(engine).inject(HOME, [b""])
        except RuntimeError:
            refused = True
    sender.join()
    assert refused
