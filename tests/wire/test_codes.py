"""Registry numbers against Wireshark's tables and the text ranges of RFC 5944 6.4."""

from __future__ import annotations

import subprocess

import pytest

from fastmip.wire import codes
from fastmip.wire.codes import ExtensionType, MessageType, ReplyCode

# A word of Wireshark's description that must agree with our name, per number.
CODE_WORDS = {
    0: ("accepted", "Accepted"),
    1: ("no_simultaneous", "Simultaneous Bindings Unsupported"),
    64: ("unspecified", "Unspecified"),
    65: ("prohibited", "Prohibited"),
    66: ("resources", "Resources"),
    67: ("mobile_node_auth", "MN Failed"),
    68: ("home_agent_auth", "HA Failed"),
    69: ("lifetime", "Lifetime"),
    70: ("poorly_formed_request", "Poorly Formed Request"),
    71: ("poorly_formed_reply", "Poorly Formed Reply"),
    72: ("encapsulation", "Encapsulation"),
    73: ("reserved", "VJ Compression"),
    74: ("reverse_tunnel_unavailable", "Reverse Tunnel Unavailable"),
    75: ("reverse_tunnel_mandatory", "Reverse Tunnel Is Mandatory"),
    76: ("distant", "Too Distant"),
    77: ("care_of_address", "Care-of"),
    78: ("timeout", "Timeout"),
    79: ("delivery_style", "Delivery Style"),
    80: ("home_network_unreachable", "Home Network Unreachable"),
    81: ("host_unreachable", "Host Unreachable"),
    82: ("port_unreachable", "Port Unreachable"),
    88: ("home_agent_unreachable", "HA Unreachable"),
    89: ("vendor", "Vendor"),
    90: ("nonzero_home_agent", "Non-zero HA"),
    96: ("nonzero_home_address", "Non-zero Home Address"),
    97: ("missing_nai", "Missing NAI"),
    98: ("missing_home_agent", "Missing Home Agent"),
    99: ("missing_home_address", "Missing Home Address"),
    100: ("vendor_from_mobile_node", "Sent by MN"),
    101: ("vendor_from_home_agent", "Sent by HA"),
    104: ("unknown_challenge", "Unknown Challenge"),
    105: ("missing_challenge", "Missing Challenge"),
    106: ("stale_challenge", "Stale Challenge"),
    107: ("missing_mobile_foreign_key", "MN-FA Key"),
    108: ("bad_aaa", "AAA"),
    109: ("wrong_challenge", "Wrong Challenge"),
    127: ("experimental", "Experimental"),
    128: ("unspecified", "Unspecified"),
    129: ("prohibited", "Prohibited"),
    130: ("resources", "Resources"),
    131: ("mobile_node_auth", "MN Failed"),
    132: ("foreign_agent_auth", "FA Failed"),
    133: ("identification", "ID Mismatch"),
    134: ("poorly_formed_request", "Poorly Formed Request"),
    135: ("too_many", "Too Many"),
    136: ("unknown_home_agent", "Unknown HA"),
    137: ("reverse_tunnel_unavailable", "Reverse Tunnel Unavailable"),
    138: ("reverse_tunnel_mandatory", "Reverse Tunnel Is Mandatory"),
    139: ("encapsulation", "Encapsulation"),
    140: ("vendor_from_mobile_node", "Sent by MN"),
    141: ("vendor_from_foreign_agent", "Sent by FA"),
    142: ("udp", "UDP"),
    143: ("redirect", "Redirected"),
    144: ("bad_aaa", "AAA"),
    149: ("proxy_unsupported", "PMIP_UNSUPPORTED"),
    150: ("proxy_disallowed", "PMIP_DISALLOWED"),
    192: ("experimental", "Experimental"),
}
# RFC numbers this Wireshark does not list: 4857, 5177, 5446, and 194 of 5944 itself.
CODES_UNKNOWN_TO_WIRESHARK = {110, 111, 112, 113, 114, 115, 145, 146, 147, 148, 151, 193, 194}
EXTENSION_WORDS = {
    32: ("mobile_home_auth", "Mobile-Home Auth"),
    33: ("mobile_foreign_auth", "Mobile-Foreign Auth"),
    34: ("foreign_home_auth", "Foreign-Home Auth"),
    36: ("generalized_auth", "Generalized Mobile-IP Auth"),
    38: ("critical_vendor", "Critical Vendor"),
    44: ("udp_tunnel_reply", "UDP Tunnel Reply"),
    45: ("foreign_agent_error", "FA Error"),
    46: ("gfa_address", "GFA IP Address"),
    129: ("firewall", "Firewall"),
    130: ("delivery", "Delivery"),
    131: ("nai", "NAI"),
    132: ("challenge", "Challenge"),
    134: ("normal_vendor", "Normal Vendor"),
    136: ("nai", "NAI Carrying"),
    137: ("revocation", "Revocation"),
    139: ("dynamic_home_agent", "Dynamic HA"),
    140: ("hierarchical", "Hierarchical"),
    141: ("replay", "Replay"),
    142: ("regional_lifetime", "Regional Registration Lifetime"),
    144: ("udp_tunnel_request", "UDP Tunnel Request"),
    148: ("mobile_network", "Mobile Network"),
    149: ("trusted_networks", "Trusted Networks"),
    151: ("service_selection", "Service Selection"),
    255: ("experimental", "Experimental"),
}


@pytest.fixture(scope="module")
def wireshark() -> dict[tuple[str, int], str]:
    """Wireshark's value strings: (field, number) -> description."""
    listing = subprocess.run(
        ["tshark", "-G", "values"], check=True, capture_output=True, text=True
    ).stdout
    table = {}
    for line in listing.splitlines():
        columns = line.split("\t")
        if columns[0] == "V" and columns[1] in {"mip.code", "mip.ext.type", "mip.type"}:
            table[columns[1], int(columns[2])] = columns[3]
    return table


def test_reply_codes_mean_what_wireshark_says(wireshark: dict[tuple[str, int], str]) -> None:
    listed = {number for field, number in wireshark if field == "mip.code"}
    assert listed == set(CODE_WORDS)
    assert {int(code) for code in ReplyCode} == listed | CODES_UNKNOWN_TO_WIRESHARK
    for number, (ours, theirs) in CODE_WORDS.items():
        assert theirs.lower() in wireshark["mip.code", number].lower()
        assert ours in codes.code_name(number)


def test_extension_types_mean_what_wireshark_says(wireshark: dict[tuple[str, int], str]) -> None:
    for number, (ours, theirs) in EXTENSION_WORDS.items():
        assert theirs.lower() in wireshark["mip.ext.type", number].lower()
        assert ours in ExtensionType(number).name.lower()
    # The rest are the pad, the key extensions of RFC 3957 and the experimental type of 4064.
    assert {int(t) for t in ExtensionType} - set(EXTENSION_WORDS) == {0, 40, 41, 42, 43, 127}


def test_message_types_are_known_to_wireshark(wireshark: dict[tuple[str, int], str]) -> None:
    for message_type in MessageType:
        assert ("mip.type", int(message_type)) in wireshark
    assert "Request" in wireshark["mip.type", MessageType.REGISTRATION_REQUEST]
    assert "Reply" in wireshark["mip.type", MessageType.REGISTRATION_REPLY]
    assert "Revocation" in wireshark["mip.type", MessageType.REVOCATION]


def test_ranges_are_those_of_rfc5944_6_4() -> None:
    ranges = {
        codes.is_accepted: {*range(9)},
        codes.is_foreign_agent: {*range(64, 128), 194},
        codes.is_home_agent: {*range(128, 193)},
        codes.is_gateway_foreign_agent: {193, *range(195, 201)},
    }
    for claim, expected in ranges.items():
        assert {code for code in range(-1, 257) if claim(code)} == expected


def test_the_name_of_a_code_tells_who_denies() -> None:
    for code in ReplyCode:
        prefix = code.name.split("_", maxsplit=1)[0]
        assert codes.is_accepted(code) is (prefix == "ACCEPTED")
        assert codes.is_foreign_agent(code) is (prefix == "FA")
        assert codes.is_home_agent(code) is (prefix == "HA")
        assert codes.is_gateway_foreign_agent(code) is (prefix == "GFA")


def test_an_unlisted_code_is_named_by_its_number() -> None:
    assert codes.code_name(77) == "fa_invalid_care_of_address"
    assert codes.code_name(199) == "code 199"


def test_flags_fill_the_byte_without_overlap_rfc5944_3_3() -> None:
    flags = [
        *(codes.FLAG_SIMULTANEOUS, codes.FLAG_BROADCAST, codes.FLAG_COLOCATED),
        *(codes.FLAG_MINIMAL, codes.FLAG_GRE, codes.FLAG_RESERVED_R),
        *(codes.FLAG_REVERSE_TUNNEL, codes.FLAG_RESERVED_X),
    ]
    # The figure of RFC 5944 3.3 draws S B D M G r T x from the left.
    assert flags == [0x80 >> position for position in range(8)]
