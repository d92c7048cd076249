"""The durable record: its bytes, its numpy twin, its way to the engine's records."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastmip.agents.bindings import (
    BINDING_DTYPE,
    BINDING_RECORD,
    BINDING_RECORD_SIZE,
    RECORD_BROADCAST,
    RECORD_GRE_KEY,
    RECORD_NESTED,
    RECORD_REVERSE,
    TUNNEL_DTYPE,
    TUNNEL_RECORD,
    Binding,
    live_expiry,
    pack_bindings,
    tunnel_of,
    tunnel_record,
    tunnel_records,
    unpack_bindings,
)
from fastmip.agents.effects import NEVER, Now, Tunnel

SECOND = 1_000_000_000

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
bindings = st.builds(
    Binding,
    *(u32, u32, u32, u32, u64, u64, u64, u32, u32, u16, u16, u8, st.sampled_from([4, 47, 55])),
    *(st.just(0) | u16, u32, u8),
)
nows = st.builds(Now, st.integers(0, 2**62), st.integers(0, 2**62))


def test_record_is_64_bytes_and_both_descriptions_agree() -> None:
    assert BINDING_RECORD.size == BINDING_RECORD_SIZE == BINDING_DTYPE.itemsize == 64
    assert TUNNEL_DTYPE.itemsize == TUNNEL_RECORD.size == 40
    offset = 0
    for name, code in zip(Binding._fields, "IIIIQQQIIHHBBHIB", strict=True):
        field, at = BINDING_DTYPE.fields[name][:2]  # type: ignore[index]
        assert at == offset, name
        assert field.itemsize == struct.calcsize("<" + code), name
        offset += field.itemsize


@given(st.lists(bindings, max_size=5))
def test_struct_and_numpy_read_the_same(found: list[Binding]) -> None:
    packed = pack_bindings(found)
    assert len(packed) == 64 * len(found)
    array = np.frombuffer(packed, dtype=BINDING_DTYPE)
    assert [Binding(*list(row)[:16]) for row in array.tolist()] == found
    assert [binding.to_bytes() for binding in found] == [
        packed[index : index + 64] for index in range(0, len(packed), 64)
    ]


@given(st.lists(bindings, max_size=5), st.binary(max_size=63))
def test_records_of_this_boot_come_back_as_they_were(found: list[Binding], rest: bytes) -> None:
    found = [binding._replace(boot=3) for binding in found]
    assert unpack_bindings(pack_bindings(found) + rest, boot=3, anchor=Now(1, 1)) == found


def test_reverse_is_the_t_bit() -> None:
    binding = Binding(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x22, 4)
    assert binding.reverse
    assert not binding._replace(flags=0xFD).reverse


def slow_expiry(binding: Binding, boot: int, now: Now) -> int:
    """When a binding ends on this boot's clock, the obvious way."""
    if binding.boot == boot:
        return binding.expires_boot_ns
    if binding.lifetime_s == 0xFFFF or binding.expires_wall_ns == NEVER:
        return NEVER
    remaining = min(binding.expires_wall_ns - now.wall_ns, binding.lifetime_s * SECOND)
    return now.boot_ns + max(remaining, 0)


def slow_flags(binding: Binding) -> int:
    """Record flags of a binding: reverse, broadcasts, and nested unless D is set."""
    flags = RECORD_REVERSE if binding.flags & 0x02 else 0
    flags |= RECORD_BROADCAST if binding.services & 0x08 else 0
    return flags | (0 if binding.flags & 0x20 else RECORD_NESTED)


@given(bindings)
def test_a_commit_and_a_restart_ask_the_engine_for_the_same(binding: Binding) -> None:
    binding = binding._replace(expires_boot_ns=max(binding.expires_boot_ns, 1))
    committed = tunnel_record(binding.home_address, tunnel_of(binding), mtu_bytes=1500)
    restarted = tunnel_records(binding.to_bytes(), boot=binding.boot, now=Now(0, 0), mtu_bytes=1500)
    assert restarted.tobytes() == committed


def test_rows_written_before_a_field_was_added_read_as_plain_tunnels() -> None:
    old = struct.pack("<IIIIQQQIIHHBB10x", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x22, 4)
    (found,) = unpack_bindings(old, boot=8, anchor=None)
    assert found == Binding(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x22, 4)
    assert (found.tunnel_port, found.services, found.remote) == (0, 0, 2)


@given(st.lists(bindings, max_size=6), nows, st.sampled_from([0, 1, 2]))
def test_engine_records_match_a_slow_twin(found: list[Binding], now: Now, boot: int) -> None:
    found = [binding._replace(boot=index % 3) for index, binding in enumerate(found)]
    tunnels = tunnel_records(
        pack_bindings(found),
        boot=boot,
        now=now,
        mtu_bytes=1400,
        reverse_flag=1,
        ttl=63,
        tos_mode=1,
    )
    expected = [
        TUNNEL_RECORD.pack(
            binding.home_address,
            binding.source_address if binding.tunnel_port else binding.care_of_address,
            binding.home_agent,
            1400,
            binding.encapsulation,
            slow_flags(binding),
            slow_expiry(binding, boot, now),
            0,
            binding.tunnel_port,
            434 if binding.tunnel_port else 0,
            63,
            1,
        )
        for binding in found
        if slow_expiry(binding, boot, now) > now.boot_ns
    ]
    assert tunnels.tobytes() == b"".join(expected)


@given(bindings, nows)
def test_scalar_conversion_agrees(binding: Binding, now: Now) -> None:
    (found,) = unpack_bindings(binding.to_bytes(), boot=binding.boot ^ 1, anchor=now)
    assert found.expires_boot_ns == slow_expiry(binding, binding.boot ^ 1, now)
    assert found.boot == binding.boot ^ 1
    assert found._replace(boot=0, expires_boot_ns=0) == binding._replace(boot=0, expires_boot_ns=0)


def test_never_is_never_and_the_past_is_over() -> None:
    now = Now(50 * SECOND, 1000 * SECOND)
    assert live_expiry(NEVER, 0xFFFF, now) == NEVER
    assert live_expiry(999 * SECOND, 300, now) == 50 * SECOND
    assert live_expiry(1010 * SECOND, 300, now) == 60 * SECOND
    assert live_expiry(9999 * SECOND, 300, now) == 350 * SECOND


def test_a_second_start_after_a_reboot_converts_as_the_first_did() -> None:
    """A wall clock set right between two starts moves no expiry: the anchor is kept."""
    binding = Binding(5, 6, 7, 6, 1, 1300 * SECOND, 0, 1, 256, 300, 434, 0, 4)
    anchor = Now(50 * SECOND, 1100 * SECOND)
    later = Now(80 * SECOND, 99_999 * SECOND)
    at_first, again = (
        tunnel_records(
            binding.to_bytes(), boot=2, now=now, anchor=anchor, mtu_bytes=1500, reverse_flag=1
        )
        for now in (anchor, later)
    )
    assert at_first["expires_ns"].tolist() == again["expires_ns"].tolist() == [250 * SECOND]


def test_no_records_no_tunnels() -> None:
    assert len(tunnel_records(b"", boot=1, now=Now(1, 1), mtu_bytes=1500, reverse_flag=1)) == 0


def test_a_tunnel_becomes_one_record() -> None:
    tunnel = Tunnel(2, 3, 5, encapsulation=47, reverse=True)
    full = Tunnel._replace(
        tunnel, remote_port=1434, local_port=434, broadcasts=True, nested=True, gre_key=0
    )
    plain = (1, 2, 3, 1400, 47, RECORD_REVERSE, 5, 0, 0, 0, 64, 0)
    assert tunnel_record(1, tunnel, mtu_bytes=1400) == TUNNEL_RECORD.pack(*plain)
    flags = RECORD_REVERSE | RECORD_BROADCAST | RECORD_NESTED | RECORD_GRE_KEY
    keyed = (1, 2, 3, 1400, 47, flags, 5, 0, 1434, 434, 9, 1)
    assert tunnel_record(1, full, mtu_bytes=1400, ttl=9, tos_mode=1) == TUNNEL_RECORD.pack(*keyed)
    (row,) = np.frombuffer(TUNNEL_RECORD.pack(*keyed), dtype=TUNNEL_DTYPE)
    assert tuple(row.tolist()[:12]) == keyed
