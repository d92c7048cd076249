"""Whatever arrives on port 434: the home agent does not raise, and believes nobody unproven."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agents.home_lab import (
    FA_KEY,
    FA_SPI,
    FOREIGN_AGENT,
    HOME_AGENT,
    NODE,
    D,
    Lab,
    T,
    associations,
    datagrams,
    ntp,
    sign,
    unsigned_request,
)

from fastmip.agents.hosts import Host
from fastmip.auth.associations import SecurityAssociation
from fastmip.auth.mn_aaa import ChapKey

EXTENSIONS = [
    struct.pack("!BBBBBBH", 144, 6, 0, 0, 0x80, 47, 0),
    struct.pack("!BBHI", 137, 6, 0x8000, 1000),
    struct.pack("!BB", 131, 12) + b"mn@wustl.edu",
    struct.pack("!BB", 132, 8) + bytes(8),
    struct.pack("!BBHIH", 38, 0, 8, 9, 14) + b"ab",
    struct.pack("!BBHIH", 134, 10, 0, 9, 14) + b"ab",
    struct.pack("!BBHI", 36, 1, 20, 2) + bytes(16),
    struct.pack("!BBHI", 36, 1, 20, 512) + bytes(16),
    struct.pack("!BBB", 136, 5, 1) + b"ha@x",
    struct.pack("!BBH", 127, 5, 3) + b"abc",
    struct.pack("!BBB", 255, 4, 5) + b"abc",
    struct.pack("!BB", 32, 20) + bytes(20),
    struct.pack("!BB", 34, 20) + bytes(20),
    bytes(7),
]


def busy_lab() -> Lab:
    """Everything is offered, and a registration through a foreign agent stands."""
    lab = Lab()
    aaa = (ChapKey(bytes(16)), SecurityAssociation(512, bytes(16)))
    lab.hosts[NODE] = Host(NODE, associations(), nai=b"mn@wustl.edu", aaa=aaa)
    lab.set_policy(
        aaa_authorizes=True,
        experimental=True,
        broadcasts=True,
        answer_bad_authentication=True,
        identity=b"ha@wustl.edu",
    )
    message = sign(unsigned_request(ntp(lab.wall_s), flags=T, care_of=FOREIGN_AGENT))
    message += struct.pack("!BBHI", 137, 6, 0x8000, 1000)
    lab.send(sign(message, FA_KEY, FA_SPI, kind=34), lab.arrival(FOREIGN_AGENT))
    assert lab.care_of_addresses() == [FOREIGN_AGENT]
    lab.pass_time(2)
    return lab


def unproven(kind: int, lab: Lab, parts: list[int], home_address: int) -> bytes:
    """A message of a kind with extensions, signed by nobody."""
    extensions = b"".join(EXTENSIONS[n] for n in parts)
    if kind == 1:
        return unsigned_request(
            ntp(lab.wall_s), flags=D | T, home_address=home_address, extensions=extensions
        )
    if kind == 7:
        names = (home_address, HOME_AGENT, FOREIGN_AGENT, 2000)
        return struct.pack("!BBHIIII", 7, 0, 0x4000, *names) + extensions
    return struct.pack("!BBHII", 15, 0, 0, home_address, 2000) + extensions


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([1, 7, 15, 255]),
    st.lists(st.integers(0, len(EXTENSIONS) - 1), max_size=6),
    st.sampled_from([NODE, NODE + 1, NODE + 9, 0, 0xFFFFFFFF]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    st.integers(0, 200) | st.none(),
    st.sampled_from([FOREIGN_AGENT, 0x0A030009, HOME_AGENT, NODE]),
)
def test_no_bytes_without_a_key_change_anything_sec22_sec23(
    kind: int,
    parts: list[int],
    home_address: int,
    changes: list[tuple[int, int]],
    end: int | None,
    source: int,
) -> None:
    lab = busy_lab()
    data = bytearray(unproven(kind, lab, parts, home_address))
    for at, value in changes:
        if at < len(data):
            data[at] = value
    before = dict(lab.tunnels), dict(lab.rows)
    message = bytes(data[:end])
    answers = datagrams(lab.send(message, lab.arrival(source)))
    assert (lab.tunnels, lab.rows) == before
    for answer in answers:
        assert answer.data[:2] in (b"\x03\x83", b"\x03\x90")  # 131 or 144, as configured


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([b"", b"\x01", b"\x07", b"\x0f", b"\xff", b"\x04"]))
def test_random_bytes_are_counted_and_dropped_sec22(data: bytes, kind: bytes) -> None:
    lab = busy_lab()
    before = dict(lab.tunnels), dict(lab.rows)
    assert datagrams(lab.send(kind + data)) == []
    assert (lab.tunnels, lab.rows) == before
