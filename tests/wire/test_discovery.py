"""Agent advertisements and solicitations (RFC 1256, RFC 5944 2.1-2.2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.discovery import (
    AGENT_F,
    AGENT_R,
    AGENT_T,
    AGENT_X,
    CODE_AGENT_ONLY,
    AgentAdvertisement,
    AgentSolicitation,
    MobilityAgent,
    RouterAddress,
)

FOREIGN_AGENT = 0x0A030001
CHALLENGE = bytes.fromhex("a1b2c3d4e5f60718")
ADVERTISEMENT = AgentAdvertisement(
    9,
    (RouterAddress(FOREIGN_AGENT),),
    MobilityAgent(0, 300, AGENT_R | AGENT_F | AGENT_T | AGENT_X, (FOREIGN_AGENT,)),
    (24,),
    CHALLENGE,
    code=CODE_AGENT_ONLY,
)
# Worked out by hand and dissected by Wireshark; its odd length shows the missing pad is allowed.
GOLDEN = bytes.fromhex(
    "091075fa010200090a03000100000000 100a0000012c91400a030001 130118 1808a1b2c3d4e5f60718"
)


def test_advertisement_vector_rfc5944_2_1() -> None:
    assert AgentAdvertisement.decode(GOLDEN) == ADVERTISEMENT
    assert ADVERTISEMENT.encode() == GOLDEN + b"\0"


def test_solicitation_vector_rfc1256_3_2() -> None:
    assert AgentSolicitation().encode() == bytes.fromhex("0a00f5ff00000000")
    AgentSolicitation.decode(bytes.fromhex("0a00f5ff00000000"))


@given(st.binary(max_size=64), st.sampled_from([b"", b"\x09\0", b"\x0a\0"]))
def test_decoding_raises_wire_error_and_nothing_else(data: bytes, start: bytes) -> None:
    for decode in (AgentAdvertisement.decode, AgentSolicitation.decode):
        try:
            decode(start + data)
        except WireError:
            continue
