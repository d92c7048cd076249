"""What scapy and Wireshark, neither of them ours, read in our messages and write for us."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.mobileip import MobileIP, MobileIPRRP, MobileIPRRQ
from tests.helpers.dissector import dissect

from fastmip.wire.addresses import format_address
from fastmip.wire.authext import AuthenticationExtension
from fastmip.wire.codes import ReplyCode
from fastmip.wire.extensions import RawExtension
from fastmip.wire.registration import RegistrationReply, RegistrationRequest

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
AUTHENTICATION = AuthenticationExtension(32, 0x12345678, b"0123456789abcdef")


@given(U8, U16, U32, U32, U32, U64)
def test_scapy_writes_the_request_we_write(
    flags: int, lifetime: int, home: int, agent: int, care_of: int, identification: int
) -> None:
    ours = RegistrationRequest(flags, lifetime, home, agent, care_of, identification)
    theirs = MobileIP() / MobileIPRRQ(
        flags=flags,
        lifetime=lifetime,
        homeaddr=format_address(home),
        haaddr=format_address(agent),
        coaddr=format_address(care_of),
        id=identification,
    )
    assert bytes(theirs) == ours.encode()
    assert RegistrationRequest.decode(bytes(theirs)) == ours


@given(U8, U16, U32, U32, U64)
def test_scapy_writes_the_reply_we_write(
    code: int, lifetime: int, home: int, agent: int, identification: int
) -> None:
    ours = RegistrationReply(code, lifetime, home, agent, identification)
    theirs = MobileIP() / MobileIPRRP(
        code=code,
        lifetime=lifetime,
        homeaddr=format_address(home),
        haaddr=format_address(agent),
        id=identification,
    )
    assert bytes(theirs) == ours.encode()
    assert RegistrationReply.decode(bytes(theirs)) == ours


def test_wireshark_reads_every_flag_alone_where_we_put_it() -> None:
    requests = [RegistrationRequest(1 << bit, 1, 2, 3, 4, 5) for bit in range(8)]
    fields = ("mip.s", "mip.b", "mip.d", "mip.m", "mip.g", "mip.v", "mip.t", "mip.x")
    for request, seen in zip(
        requests, dissect([r.encode() for r in requests], *fields), strict=True
    ):
        claims = [seen[field] == ["1"] for field in fields]
        assert [request.flags == 0x80 >> position for position in range(8)] == claims
        assert (request.wants_simultaneous, request.wants_broadcasts) == tuple(claims[:2])
        assert (request.is_colocated, request.wants_minimal) == tuple(claims[2:4])
        assert (request.wants_gre, request.wants_reverse_tunnel) == (claims[4], claims[6])
        assert seen["_ws.malformed"] == []


def test_wireshark_reads_requests_with_extensions_without_complaint() -> None:
    foreign = AuthenticationExtension(34, 0x200, bytes(32))
    nai = RawExtension(131, data=b"mn@wustl.edu")
    request = RegistrationRequest(0x22, 300, 0x0A010005, 0x0A010001, 0x0A030001, 0xE93C7F0012345678)
    (seen,) = dissect(
        [request.encode() + nai.encode() + AUTHENTICATION.encode() + foreign.encode()],
        *("mip.type", "mip.life", "mip.homeaddr", "mip.haaddr", "mip.coa", "mip.ident"),
        *("mip.ext.type", "mip.ext.len", "mip.nai", "mip.auth.spi", "mip.auth.auth"),
    )
    assert seen == {
        "mip.type": ["1"],
        "mip.life": ["300"],
        "mip.homeaddr": ["10.1.0.5"],
        "mip.haaddr": ["10.1.0.1"],
        "mip.coa": ["10.3.0.1"],
        "mip.ident": ["Jan  1, 2024 00:00:00.071111110 UTC"],
        "mip.ext.type": ["131", "32", "34"],
        "mip.ext.len": ["12", "20", "36"],
        "mip.nai": ["mn@wustl.edu"],
        "mip.auth.spi": ["0x12345678", "0x00000200"],
        "mip.auth.auth": [b"0123456789abcdef".hex(), bytes(32).hex()],
        "_ws.expert": [],
        "_ws.malformed": [],
    }


def test_wireshark_reads_every_reply_code_without_complaint() -> None:
    replies = [
        RegistrationReply(code, 300, 0x0A010005, 0x0A010001, 1 << 63, (AUTHENTICATION,))
        for code in ReplyCode
    ]
    fields = ("mip.type", "mip.code", "mip.life", "mip.homeaddr", "mip.haaddr", "mip.ext.type")
    for reply, seen in zip(replies, dissect([r.encode() for r in replies], *fields), strict=True):
        assert seen == {
            "mip.type": ["3"],
            "mip.code": [str(int(reply.code))],
            "mip.life": ["300"],
            "mip.homeaddr": ["10.1.0.5"],
            "mip.haaddr": ["10.1.0.1"],
            "mip.ext.type": ["32"],
            "_ws.expert": [],
            "_ws.malformed": [],
        }


def test_wireshark_and_we_agree_on_what_is_cut_short() -> None:
    whole = RegistrationRequest(0, 1, 2, 3, 4, 5, (AUTHENTICATION,)).encode()
    cuts = [whole[:length] for length in range(len(whole) + 1)]
    for cut, seen in zip(cuts, dissect(cuts), strict=True):
        if len(cut) in (0, 24, len(whole)):  # an empty datagram is no message to Wireshark
            assert seen["_ws.malformed"] == []
        else:
            assert seen["_ws.malformed"] != []
        if len(cut) >= 24:
            decoded = RegistrationRequest.decode(cut)
            assert decoded.malformed is bool(seen["_ws.malformed"])
