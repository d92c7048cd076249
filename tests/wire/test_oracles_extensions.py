"""What Wireshark, not ours, reads in every extension, in revocations and in advertisements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP
from scapy.utils import checksum
from tests.helpers.dissector import dissect
from tests.wire.test_vectors import EXPERIMENTS, VECTORS

from fastmip.wire.discovery import (
    NEVER_DEFAULT,
    AgentAdvertisement,
    AgentSolicitation,
    MobilityAgent,
    RouterAddress,
    internet_checksum,
)
from fastmip.wire.registration import RegistrationRequest
from fastmip.wire.revocation import RevocationAcknowledgment, RevocationMessage
from fastmip.wire.tunneling import TunnelData

REQUEST = RegistrationRequest(0x22, 300, 0x0A010005, 0x0A010001, 0x0A030001, 1 << 63)
ALL = {name: bytes.fromhex(text) for name, (text, _) in (VECTORS | EXPERIMENTS).items()}
# Field -> vectors in which Wireshark must read it, with the values; from the RFCs' figures.
READINGS = {
    "mip.ext.auth.subtype": {
        "mobile node to AAA": ["1"],
        "between foreign agents": ["2"],
        "mobile node to gateway": ["3"],
    },
    "mip.ext.cvse.vendor_id": {
        "critical vendor": ["9"],
        "critical vendor without value": ["16777215"],
    },
    "mip.ext.cvse.vendor_type": {
        "critical vendor": ["0x000e"],
        "critical vendor without value": ["0xffff"],
    },
    "mip.ext.nvse.vendor_id": {"normal vendor": ["9"]},
    "mip.ext.nvse.vendor_type": {"normal vendor": ["14"]},
    "mip.ext.nvse.vendor_value": {"normal vendor": ["616263"]},
    "mip.ext.utrp.code": {
        "UDP tunnel accepted": ["0"],
        "UDP tunnel forced": ["0"],
        "UDP tunnel declined": ["64"],
    },
    "mip.ext.utrp.f": {
        "UDP tunnel accepted": ["0"],
        "UDP tunnel forced": ["1"],
        "UDP tunnel declined": ["0"],
    },
    "mip.ext.utrp.keepalive": {
        "UDP tunnel accepted": ["110"],
        "UDP tunnel forced": ["0"],
        "UDP tunnel declined": ["0"],
    },
    "mip.ext.utrq.f": {
        "UDP tunnel request": ["0"],
        "UDP tunnel request, forced GRE": ["1"],
        "UDP tunnel request, minimal through the agent": ["0"],
    },
    "mip.ext.utrq.r": {
        "UDP tunnel request": ["0"],
        "UDP tunnel request, forced GRE": ["0"],
        "UDP tunnel request, minimal through the agent": ["1"],
    },
    "mip.ext.utrq.encaptype": {
        "UDP tunnel request": ["0"],
        "UDP tunnel request, forced GRE": ["47"],
        "UDP tunnel request, minimal through the agent": ["55"],
    },
    "mip.nai": {"mobile node NAI": ["mn@wustl.edu"]},
    "mip.ext.rev.i": {"revocation support": ["0"], "revocation support, inform": ["1"]},
}


def test_wireshark_reads_every_extension_without_complaint() -> None:
    # 139 is dissected as if its length had one byte (C-15).
    readable = {name: wire for name, wire in ALL.items() if wire[0] != 139}
    payloads = [REQUEST.encode() + wire for wire in readable.values()]
    seen = dissect(payloads, "mip.ext.type", "mip.ext.len", *READINGS)
    for (name, wire), reading in zip(readable.items(), seen, strict=True):
        long = wire[0] in (36, 38)
        assert reading["mip.ext.type"] == [str(wire[0])], name
        if wire[0] != 127:  # it takes the subtype of this long format for the length
            length = int.from_bytes(wire[2:4]) if long else wire[1]
            assert reading["mip.ext.len"] == [str(length)], name
        for field, expected in READINGS.items():
            assert reading[field] == expected.get(name, []), (name, field)
        assert (reading["_ws.expert"], reading["_ws.malformed"]) == ([], []), name


def test_wireshark_reads_a_request_with_many_extensions() -> None:
    names = (
        *("mobile node NAI", "normal vendor", "UDP tunnel request", "mobile-home", "challenge"),
        *("mobile node to AAA", "mobile-foreign", "revocation support, inform", "foreign-home"),
    )
    (seen,) = dissect([REQUEST.encode() + b"".join(ALL[name] for name in names)], "mip.ext.type")
    assert seen["mip.ext.type"] == [str(ALL[name][0]) for name in names]
    assert (seen["_ws.expert"], seen["_ws.malformed"]) == ([], [])


@pytest.mark.parametrize("agent", [False, True])
@pytest.mark.parametrize("inform", [False, True])
def test_wireshark_reads_revocations_rfc3543_3_3(agent: bool, inform: bool) -> None:
    revocation = RevocationMessage(agent, inform, 0x0A010005, 0x0A010001, 0x0A030001, 77)
    acknowledgment = RevocationAcknowledgment(inform, 0x0A010005, 77)
    payloads = [message.encode() + ALL["foreign-home"] for message in (revocation, acknowledgment)]
    fields = ("mip.type", "mip.homeaddr", "mip.rev.hda", "mip.rev.fda", "mip.revid")
    flags = ("mip.rev.a", "mip.rev.i", "mip.ack.i", "mip.ext.type")
    one, other = dissect(payloads, *fields, *flags)
    assert [one[field] for field in fields] == [
        ["7"],
        ["10.1.0.5"],
        ["10.1.0.1"],
        ["10.3.0.1"],
        one["mip.revid"],
    ]
    assert one["mip.revid"] == other["mip.revid"] != []
    assert [one[flag] for flag in flags] == [[str(int(agent))], [str(int(inform))], [], ["34"]]
    assert [other[field] for field in fields[:4]] == [["15"], ["10.1.0.5"], [], []]
    assert [other[flag] for flag in flags] == [[], [], [str(int(inform))], ["34"]]
    for seen in (one, other):
        assert (seen["_ws.expert"], seen["_ws.malformed"]) == ([], [])


def test_wireshark_reads_tunnel_data_rfc3519_3_3() -> None:
    inner = bytes.fromhex("450000140000000040010000 0a010005 0a010001")
    (seen,) = dissect([TunnelData.encode_header(4) + inner], "mip.type", "mip.nattt.nexthdr")
    assert (seen["mip.type"], seen["mip.nattt.nexthdr"]) == (["4"], ["4"])
    assert seen["_ws.malformed"] == []


AGENT = MobilityAgent(258, 300, 0xFDE0, (0x0A030001, 0x0A030002))
ADVERTISEMENTS = [
    AgentAdvertisement(
        9,
        (RouterAddress(0x0A030001, -5), RouterAddress(0x0A030002, NEVER_DEFAULT)),
        AGENT,
        (24, 25),
        b"challenge",
        b"fa@example.net",
        16,
    ),
    AgentAdvertisement(1800, (RouterAddress(0x0A030001),)),
    AgentAdvertisement(9000, (), MobilityAgent(0, 0xFFFF, 0x2000)),
    AgentAdvertisement(3, (), None, (), b"1234"),
]
FIELDS = (
    *("icmp.type", "icmp.code", "icmp.num_addrs", "icmp.addr_entry_size", "icmp.lifetime"),
    *("icmp.router_address", "icmp.pref_level", "icmp.mip.type", "icmp.mip.seq", "icmp.mip.life"),
    *("icmp.mip.coa", "icmp.mip.prefixlength", "icmp.mip.challenge", "icmp.checksum.status"),
)
FLAGS = tuple(
    f"icmp.mip.{letter}" for letter in ("r", "b", "h", "f", "m", "g", "v", "rt", "u", "x")
)


def test_wireshark_reads_advertisements_and_solicitations_rfc5944_2() -> None:
    messages = [one.encode() for one in ADVERTISEMENTS] + [AgentSolicitation().encode()]
    full, plain, home, bare, solicitation = dissect(messages, *FIELDS, icmp=True)
    assert [full[field] for field in FIELDS] == [
        *(["9"], ["16"], ["2"], ["2"], ["9"]),
        *(["10.3.0.1", "10.3.0.2"], ["-5", "-2147483648"], ["16", "19", "24", "136"]),
        *(["258"], ["300"], ["10.3.0.1", "10.3.0.2"], ["24", "25"], [b"challenge".hex()], ["1"]),
    ]
    assert [plain[field] for field in FIELDS[:7]] == [
        *(["9"], ["0"], ["1"], ["2"], ["1800"], ["10.3.0.1"], ["0"]),
    ]
    assert (home["icmp.num_addrs"], home["icmp.mip.life"]) == (["0"], ["65535"])
    assert bare["icmp.mip.type"] == ["19", "24"]
    assert (solicitation["icmp.type"], solicitation["icmp.code"]) == (["10"], ["0"])
    for seen in (full, plain, home, bare, solicitation):
        assert seen["icmp.checksum.status"] == ["1"], "good"
        assert (seen["_ws.expert"], seen["_ws.malformed"]) == ([], [])


def test_wireshark_reads_every_flag_alone_where_we_put_it_rfc5944_2_1_1() -> None:
    messages = [
        AgentAdvertisement(9, (), MobilityAgent(0, 1, 0x8000 >> place)).encode()
        for place in range(len(FLAGS))
    ]
    for place, seen in enumerate(dissect(messages, *FLAGS, icmp=True)):
        assert [seen[flag] == ["1"] for flag in FLAGS] == [one == place for one in range(10)]


@given(st.binary(max_size=80))
def test_the_checksum_is_scapys_rfc792(data: bytes) -> None:
    assert internet_checksum(data) == checksum(data)


def test_scapy_writes_the_solicitation_we_write() -> None:
    assert bytes(ICMP(type=10, code=0, id=0, seq=0)) == AgentSolicitation().encode()
