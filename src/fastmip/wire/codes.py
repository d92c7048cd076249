"""Numbers of the Mobile IPv4 registries: ports, message types, extension types, reply codes.

This is the only file that spells them. Each reply code names the RFC that gave it; the
conditions are in that RFC. Codes and extension types of RFCs fastmip does not implement are
listed too, so that a log or a capture can name what a peer sent.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Final

MOBILE_IP_PORT: Final = 434
"""UDP port of all control messages (RFC 5944 1.8)."""

LIFETIME_INFINITE: Final = 0xFFFF
"""Registration lifetime that never ends (RFC 5944 3.3)."""

# Flags of a Registration Request, second byte of the message (RFC 5944 3.3, 3024 3.2).
FLAG_SIMULTANEOUS: Final = 0x80
FLAG_BROADCAST: Final = 0x40
FLAG_COLOCATED: Final = 0x20
FLAG_MINIMAL: Final = 0x10
FLAG_GRE: Final = 0x08
FLAG_RESERVED_R: Final = 0x04
FLAG_REVERSE_TUNNEL: Final = 0x02
FLAG_RESERVED_X: Final = 0x01

FIRST_SKIPPABLE_EXTENSION: Final = 128
"""An unknown extension below drops the message, from here on only itself (RFC 5944 1.8)."""


@unique
class MessageType(IntEnum):
    """First byte of a control message."""

    REGISTRATION_REQUEST = 1  # RFC 5944 3.3
    REGISTRATION_REPLY = 3  # RFC 5944 3.4
    TUNNEL_DATA = 4  # RFC 3519 3.3
    REVOCATION = 7  # RFC 3543 3.3
    REVOCATION_ACKNOWLEDGMENT = 15  # RFC 3543 3.4
    REGIONAL_REGISTRATION_REQUEST = 18  # RFC 4857 10.1
    REGIONAL_REGISTRATION_REPLY = 19  # RFC 4857 10.2
    EXPERIMENTAL = 255  # RFC 4064 3


@unique
class ExtensionType(IntEnum):
    """Type byte of an extension to a control message (port 434, not ICMP)."""

    PADDING = 0  # RFC 5944 6.3
    MOBILE_HOME_AUTHENTICATION = 32  # RFC 5944 3.5.2
    MOBILE_FOREIGN_AUTHENTICATION = 33  # RFC 5944 3.5.3
    FOREIGN_HOME_AUTHENTICATION = 34  # RFC 5944 3.5.4
    GENERALIZED_AUTHENTICATION = 36  # RFC 4721 5, RFC 4857 11
    CRITICAL_VENDOR = 38  # RFC 3115 2.1
    MOBILE_FOREIGN_KEY_REQUEST = 40  # RFC 3957 6.1
    MOBILE_FOREIGN_KEY_REPLY = 41  # RFC 3957 6.2
    MOBILE_HOME_KEY_REQUEST = 42  # RFC 3957 6.3
    MOBILE_HOME_KEY_REPLY = 43  # RFC 3957 6.4
    UDP_TUNNEL_REPLY = 44  # RFC 3519 3.2
    FOREIGN_AGENT_ERROR = 45  # RFC 4636 3
    GFA_ADDRESS = 46  # RFC 4857 9.1
    EXPERIMENTAL_NON_SKIPPABLE = 127  # RFC 4064 4.1
    FIREWALL_TRAVERSAL = 129  # RFC 2356 7.3
    ENCAPSULATING_DELIVERY = 130  # RFC 3024 3.3
    MOBILE_NODE_NAI = 131  # RFC 2794 2
    CHALLENGE = 132  # RFC 4721 4
    NORMAL_VENDOR = 134  # RFC 3115 2.2
    GENERALIZED_NAI = 136  # RFC 3846 3
    REVOCATION_SUPPORT = 137  # RFC 3543 3.2
    DYNAMIC_HOME_AGENT = 139  # RFC 4433 3.4
    HIERARCHICAL_FOREIGN_AGENT = 140  # RFC 4857 9.2
    REPLAY_PROTECTION_STYLE = 141  # RFC 4857 9.3
    REGIONAL_LIFETIME = 142  # RFC 4857 9.4
    UDP_TUNNEL_REQUEST = 144  # RFC 3519 3.1
    MOBILE_NETWORK = 148  # RFC 5177 4
    TRUSTED_NETWORKS = 149  # RFC 5265 3.4
    SERVICE_SELECTION = 151  # RFC 5446 3
    EXPERIMENTAL_SKIPPABLE = 255  # RFC 4064 4.3


@unique
class AdvertisementExtension(IntEnum):
    """Type byte of an extension to an ICMP router discovery message: another number space."""

    PADDING = 0  # RFC 5944 2.1.3
    MOBILITY_AGENT = 16  # RFC 5944 2.1.1
    PREFIX_LENGTHS = 19  # RFC 5944 2.1.2
    CHALLENGE = 24  # RFC 4721 2
    EXPERIMENTAL_NON_SKIPPABLE = 127  # RFC 4064 4.2
    GENERALIZED_NAI = 136  # RFC 3846 3
    CARD_SIGNATURE = 137  # RFC 4065 3
    CARD_REQUEST = 138  # RFC 4065 3
    CARD_REPLY = 139  # RFC 4065 3
    EXPERIMENTAL_SKIPPABLE = 255  # RFC 4064 4.4


@unique
class ReplyCode(IntEnum):
    """Code field of a Registration Reply; a peer may send numbers that are not listed."""

    ACCEPTED = 0  # RFC 5944
    ACCEPTED_NO_SIMULTANEOUS = 1  # RFC 5944

    # Denied by the foreign agent (64-127, and 194).
    FA_UNSPECIFIED = 64  # RFC 5944
    FA_PROHIBITED = 65  # RFC 5944
    FA_INSUFFICIENT_RESOURCES = 66  # RFC 5944
    FA_MOBILE_NODE_AUTHENTICATION = 67  # RFC 5944
    FA_HOME_AGENT_AUTHENTICATION = 68  # RFC 5944
    FA_LIFETIME_TOO_LONG = 69  # RFC 5944
    FA_POORLY_FORMED_REQUEST = 70  # RFC 5944
    FA_POORLY_FORMED_REPLY = 71  # RFC 5944
    FA_ENCAPSULATION_UNAVAILABLE = 72  # RFC 5944
    FA_RESERVED_UNAVAILABLE = 73  # RFC 5944 (was Van Jacobson compression, RFC 2002)
    FA_REVERSE_TUNNEL_UNAVAILABLE = 74  # RFC 3024
    FA_REVERSE_TUNNEL_MANDATORY = 75  # RFC 3024
    FA_MOBILE_NODE_TOO_DISTANT = 76  # RFC 3024
    FA_INVALID_CARE_OF_ADDRESS = 77  # RFC 5944
    FA_REGISTRATION_TIMEOUT = 78  # RFC 5944
    FA_DELIVERY_STYLE_UNSUPPORTED = 79  # RFC 3024
    FA_HOME_NETWORK_UNREACHABLE = 80  # RFC 5944
    FA_HOME_AGENT_HOST_UNREACHABLE = 81  # RFC 5944
    FA_HOME_AGENT_PORT_UNREACHABLE = 82  # RFC 5944
    FA_HOME_AGENT_UNREACHABLE = 88  # RFC 5944
    FA_VENDOR_SPECIFIC = 89  # IANA registry, no RFC text
    FA_NONZERO_HOME_AGENT_REQUIRED = 90  # RFC 4433
    FA_NONZERO_HOME_ADDRESS_REQUIRED = 96  # RFC 2794
    FA_MISSING_NAI = 97  # RFC 2794
    FA_MISSING_HOME_AGENT = 98  # RFC 2794
    FA_MISSING_HOME_ADDRESS = 99  # RFC 2794
    FA_CRITICAL_VENDOR_FROM_MOBILE_NODE = 100  # RFC 3115
    FA_CRITICAL_VENDOR_FROM_HOME_AGENT = 101  # RFC 3115
    FA_UNKNOWN_CHALLENGE = 104  # RFC 4721
    FA_MISSING_CHALLENGE = 105  # RFC 4721
    FA_STALE_CHALLENGE = 106  # RFC 4721
    FA_MISSING_MOBILE_FOREIGN_KEY = 107  # RFC 3957
    FA_BAD_AAA_AUTHENTICATION = 108  # RFC 4721
    FA_HOME_AGENT_WRONG_CHALLENGE = 109  # RFC 4721
    FA_REPLAY_PROTECTION_UNAVAILABLE = 110  # RFC 4857
    FA_ZERO_CARE_OF_ADDRESS_UNSUPPORTED = 111  # RFC 4857
    FA_UNKNOWN_GFA = 112  # RFC 4857
    FA_GFA_UNREACHABLE = 113  # RFC 4857
    FA_GFA_HOST_UNREACHABLE = 114  # RFC 4857
    FA_GFA_PORT_UNREACHABLE = 115  # RFC 4857
    FA_EXPERIMENTAL = 127  # RFC 4064

    # Denied by the home agent (128-192).
    HA_UNSPECIFIED = 128  # RFC 5944
    HA_PROHIBITED = 129  # RFC 5944
    HA_INSUFFICIENT_RESOURCES = 130  # RFC 5944
    HA_MOBILE_NODE_AUTHENTICATION = 131  # RFC 5944
    HA_FOREIGN_AGENT_AUTHENTICATION = 132  # RFC 5944
    HA_IDENTIFICATION_MISMATCH = 133  # RFC 5944
    HA_POORLY_FORMED_REQUEST = 134  # RFC 5944
    HA_TOO_MANY_BINDINGS = 135  # RFC 5944
    HA_UNKNOWN_HOME_AGENT = 136  # RFC 5944
    HA_REVERSE_TUNNEL_UNAVAILABLE = 137  # RFC 3024
    HA_REVERSE_TUNNEL_MANDATORY = 138  # RFC 3024
    HA_ENCAPSULATION_UNAVAILABLE = 139  # RFC 3024
    HA_CRITICAL_VENDOR_FROM_MOBILE_NODE = 140  # RFC 3115
    HA_CRITICAL_VENDOR_FROM_FOREIGN_AGENT = 141  # RFC 3115
    HA_UDP_ENCAPSULATION_UNAVAILABLE = 142  # RFC 3519
    HA_REDIRECT = 143  # RFC 4433
    HA_BAD_AAA_AUTHENTICATION = 144  # RFC 4721
    HA_ZERO_CARE_OF_ADDRESS = 145  # RFC 4857
    HA_DYNAMIC_GFA_UNSUPPORTED = 146  # RFC 4857
    HA_MOBILE_NETWORK_ERROR = 147  # RFC 5177
    HA_MOBILE_NETWORK_DISALLOWED = 148  # RFC 5177
    HA_PROXY_UNSUPPORTED = 149  # RFC 5563
    HA_PROXY_DISALLOWED = 150  # RFC 5563
    HA_SERVICE_AUTHORIZATION_FAILED = 151  # RFC 5446
    HA_EXPERIMENTAL = 192  # RFC 4064

    # Denied by the gateway foreign agent (193-200), but 194 is a foreign agent's.
    GFA_NO_HOME_REGISTRATION = 193  # RFC 4857
    FA_INVALID_HOME_AGENT_ADDRESS = 194  # RFC 5944 3.7.2


def is_accepted(code: int) -> bool:
    """Say whether a code is in the range of success, 0-8 (RFC 5944 6.4)."""
    return 0 <= code <= 8


def is_foreign_agent(code: int) -> bool:
    """Say whether a foreign agent denied: 64-127, or 194 (RFC 5944 3.4, 6.4).

    Such a reply carries no Mobile-Home authentication.
    """
    return 64 <= code <= 127 or code == ReplyCode.FA_INVALID_HOME_AGENT_ADDRESS


def is_home_agent(code: int) -> bool:
    """Say whether the home agent denied: 128-192 (RFC 5944 6.4).

    Such a reply must carry a valid Mobile-Home authentication extension.
    """
    return 128 <= code <= 192


def is_gateway_foreign_agent(code: int) -> bool:
    """Say whether a gateway foreign agent denied: 193-200 without 194 (RFC 5944 6.4)."""
    return 193 <= code <= 200 and code != ReplyCode.FA_INVALID_HOME_AGENT_ADDRESS


def code_name(code: int) -> str:
    """Return the name of a reply code in lower case, or ``"code N"`` for an unlisted one."""
    try:
        return ReplyCode(code).name.lower()
    except ValueError:
        return f"code {code}"
