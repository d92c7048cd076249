"""Lifetimes, clocks, restarts: nothing expires early, nothing lives longer (RFC 5944 3.8.2.2)."""

from __future__ import annotations

import numpy as np
import pytest
from tests.agents.home_lab import (
    BOOT_S,
    CARE_OF,
    CARE_OF_2,
    HOME_AGENT,
    NODE,
    OTHER,
    SECOND,
    D,
    Lab,
    S,
    associations,
    codes,
    ntp,
    only_reply,
    reply,
)

from fastmip.agents.bindings import BINDING_RECORD_SIZE, tunnel_records
from fastmip.agents.effects import NEVER, CommitOutcome
from fastmip.agents.hosts import Host

HOUR = 3600 * SECOND


def restore(lab: Lab) -> list[tuple[int, int, int]]:
    """Do what the runtime does at a restart; returns (node, care-of address, expiry)."""
    lab.start()
    rows = b"".join(row.bindings for row in lab.rows.values())
    tunnels = tunnel_records(rows, boot=lab.boot, now=lab.now, mtu_bytes=1500, reverse_flag=1)
    lab.agent.schedule_expiries(tunnels)
    lab.tunnels = {
        address: chain
        for address, chain in lab.tunnels.items()
        if address in set(tunnels["home_address"].tolist())
    }
    return [(int(t["home_address"]), int(t["remote"]), int(t["expires_ns"])) for t in tunnels]


@pytest.mark.parametrize("step_ns", [-HOUR, -9 * SECOND, 9 * SECOND, 24 * HOUR])
def test_wall_clock_steps_neither_expire_nor_prolong(step_ns: int) -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.wall_ns += step_ns
    lab.pass_time(299)
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(1)
    assert lab.care_of_addresses() == []


@pytest.mark.parametrize("step_ns", [-HOUR, 9 * SECOND, 24 * HOUR])
def test_restart_in_the_same_boot_ignores_the_wall_clock(step_ns: int) -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.wall_ns += step_ns
    lab.boot_ns += 100 * SECOND
    assert restore(lab) == [(NODE, CARE_OF, (BOOT_S + 300) * SECOND)]
    lab.pass_time(199)
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(1)
    assert lab.care_of_addresses() == []


def test_reboot_converts_by_the_wall_clock() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.boot, lab.boot_ns = 8, 20 * SECOND
    lab.wall_ns += 100 * SECOND
    assert restore(lab) == [(NODE, CARE_OF, 220 * SECOND)]
    lab.wall_ns += 9 * HOUR  # Steps after the restart do not matter.
    assert lab.agent.bindings_of(NODE)[0].expires_boot_ns == 220 * SECOND
    lab.pass_time(199)
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(1)
    assert lab.care_of_addresses() == []


def test_reboot_with_a_clock_set_back_grants_at_most_the_lifetime_again() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.boot, lab.boot_ns = 8, 20 * SECOND
    lab.wall_ns -= 24 * HOUR
    assert restore(lab) == [(NODE, CARE_OF, 320 * SECOND)]


def test_reboot_after_the_end_drops_the_binding() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.boot, lab.boot_ns = 8, 20 * SECOND
    lab.wall_ns += 301 * SECOND
    assert restore(lab) == []
    assert lab.count("haBindings") == 0
    assert codes(lab.send(lab.request())) == [0]
    assert lab.count("haBindings") == 1


def test_infinite_binding_survives_reboots() -> None:
    lab = Lab()
    lab.set_policy(max_lifetime_s=0xFFFF)
    lab.send(lab.request(lifetime=0xFFFF))
    lab.boot, lab.boot_ns = 8, SECOND
    lab.wall_ns += 10_000 * HOUR
    assert restore(lab) == [(NODE, CARE_OF, NEVER)]
    assert lab.agent.next_deadline() is None


def test_restart_keeps_every_acknowledged_binding_and_its_limits() -> None:
    lab = Lab()
    addresses = [0x0B000000 + index for index in range(300)]
    for address in addresses:
        lab.hosts[address] = Host(address, associations())
        assert codes(lab.send(lab.request(home_address=address, lifetime=100))) == [0]
    assert len(restore(lab)) == 300
    assert lab.count("haBindings") == 300
    lab.set_policy(max_bindings=300)
    assert codes(lab.send(lab.request())) == [130]
    lab.pass_time(1)
    assert codes(lab.send(lab.request(home_address=addresses[0], lifetime=500))) == [0]
    lab.pass_time(99)
    assert set(lab.tunnels) == {addresses[0]}
    lab.pass_time(400)
    assert set(lab.tunnels) == {addresses[0]}
    lab.pass_time(1)
    assert lab.tunnels == {}
    assert lab.count("haBindings") == 0


def test_one_of_several_bindings_expires_alone() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=100, flags=S | D))
    lab.pass_time(1)
    longer = lab.request(lifetime=10, care_of=CARE_OF_2, flags=S | D)
    lab.send(longer, lab.arrival(CARE_OF_2))
    lab.pass_time(10)
    assert lab.care_of_addresses() == [CARE_OF]
    assert len(lab.rows[NODE].bindings) == BINDING_RECORD_SIZE
    lab.pass_time(89)
    assert lab.care_of_addresses() == []


def test_the_longer_of_two_bindings_expires_later() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=10, flags=S | D))
    longer = lab.request(lifetime=100, care_of=CARE_OF_2, flags=S | D, at=lab.wall_s + 0.1)
    lab.send(longer, lab.arrival(CARE_OF_2))
    lab.pass_time(10)
    assert lab.care_of_addresses() == [CARE_OF_2]
    lab.pass_time(90)
    assert lab.care_of_addresses() == []
    assert lab.count("haBindings") == 0


def test_expiry_waits_while_a_commit_is_outstanding() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=10))
    lab.pass_time(9.5)
    (commit,) = lab.receive(lab.request(lifetime=100))
    lab.boot_ns += SECOND
    assert lab.agent.handle_timer(lab.now) == []
    lab.carry_out([commit])
    lab.pass_time(98)
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(2)
    assert lab.care_of_addresses() == []


def test_removal_that_the_store_refused_is_repeated() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=10))
    lab.outcome = CommitOutcome.STORE_FAILED
    lab.pass_time(10)
    assert lab.count("haBindings") == 1
    lab.outcome = CommitOutcome.COMMITTED
    lab.pass_time(6)
    assert lab.count("haBindings") == 0
    assert lab.rows[NODE].bindings == b""


def test_shorter_lifetime_takes_effect() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=1000))
    lab.pass_time(1)
    lab.send(lab.request(lifetime=10))
    lab.pass_time(9)
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(1)
    assert lab.care_of_addresses() == []


def test_evicted_node_still_expires_after_a_refresh() -> None:
    lab = Lab(cache_nodes=16)
    lab.send(lab.request(lifetime=50))
    lab.pass_time(10)
    lab.send(lab.request(lifetime=50))
    for index in range(40):
        lab.hosts[0x0B000000 + index] = Host(0x0B000000 + index, associations())
        lab.send(lab.request(home_address=0x0B000000 + index, lifetime=1000))
    lab.pass_time(49)
    assert NODE in lab.tunnels
    lab.pass_time(1)
    assert NODE not in lab.tunnels


def test_mass_expiry_is_done_in_bounded_parts() -> None:
    lab = Lab()
    count = 5000
    records = np.zeros(
        count, dtype=tunnel_records(b"", boot=1, now=lab.now, mtu_bytes=1500, reverse_flag=1).dtype
    )
    records["home_address"] = np.arange(count) + 0x0B000000
    records["expires_ns"] = (BOOT_S + 1) * SECOND
    lab.agent.schedule_expiries(records)
    lab.boot_ns += SECOND
    lab.agent.handle_timer(lab.now)
    assert lab.loads == 4096
    assert lab.agent.next_deadline() is not None
    lab.agent.handle_timer(lab.now)
    assert lab.loads == count
    assert lab.agent.next_deadline() is None


def test_deadline_is_the_first_whole_second_after_the_expiry() -> None:
    lab = Lab(boot_ns=BOOT_S * SECOND + 1)
    assert lab.agent.next_deadline() is None
    lab.send(lab.request(lifetime=10))
    assert lab.agent.next_deadline() == (BOOT_S + 11) * SECOND


def test_bindings_of_an_uncached_node_come_from_the_store() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.start()
    (binding,) = lab.agent.bindings_of(NODE)
    assert (binding.care_of_address, binding.home_agent) == (CARE_OF, HOME_AGENT)
    assert lab.agent.bindings_of(OTHER) == []
    assert lab.count("haCachedNodes") == 0


def test_unreadable_row_is_denied_with_130_and_recovers_by_itself() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.start()
    lab.unreadable = True
    lab.pass_time(1)
    identification = ntp(lab.wall_s)
    assert only_reply(lab.send(lab.request())).data == reply(130, identification)
    assert lab.count("haRowsUnreadable") == 1
    assert codes(lab.send(lab.request(at=lab.wall_s + 0.1))) == []
    lab.unreadable = False
    assert codes(lab.send(lab.request(at=lab.wall_s + 0.2))) == [0]


def test_unreadable_row_of_another_node_is_130_too() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.unreadable = True
    lab.pass_time(1)
    assert codes(lab.send(lab.request(care_of=OTHER), lab.arrival(OTHER))) == [130]
    lab.unreadable = False
    lab.pass_time(1)
    assert codes(lab.send(lab.request(care_of=OTHER), lab.arrival(OTHER))) == [0]


def test_expiry_of_unreadable_rows_is_not_forgotten() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=10))
    restore(lab)
    lab.unreadable = True
    lab.pass_time(10)
    assert lab.care_of_addresses() == [CARE_OF]
    lab.unreadable = False
    lab.pass_time(5)
    assert lab.care_of_addresses() == []
    assert lab.count("haBindings") == 0


def test_unreadable_directory_knows_nobody_for_a_while() -> None:
    lab = Lab()
    (commit,) = lab.receive(lab.request())
    lab.receive(lab.request(at=lab.wall_s + 0.1))
    lab.no_directory = True
    assert codes(lab.carry_out([commit])) == [0]
    assert lab.send(lab.request(at=lab.wall_s + 0.2)) == []
    assert lab.count("haRowsUnreadable") == 2
    lab.no_directory = False
    assert codes(lab.send(lab.request(at=lab.wall_s + 0.3))) == [0]
