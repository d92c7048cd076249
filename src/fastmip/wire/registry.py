"""The extensions fastmip understands in control messages: one line each.

To add one: its module, a line here, a vector in ``tests/wire/test_vectors.py``.
"""

from __future__ import annotations

from typing import Final

from fastmip.wire import authext, dynamic_home_agent, mobile_network, nai, tunneling
from fastmip.wire.authext import AuthenticationExtension, GeneralizedAuthentication
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import ExtensionType
from fastmip.wire.dynamic_home_agent import DynamicHomeAgent
from fastmip.wire.experimental import NonSkippableExperiment, SkippableExperiment
from fastmip.wire.extensions import Entry, ExtensionRegistry, Framing, subtypes
from fastmip.wire.foreign_error import FOREIGN_ERROR_SUBTYPE, ForeignAgentError
from fastmip.wire.mobile_network import MobileNetworkAcknowledgement, MobileNetworkRequest
from fastmip.wire.nai import MobileNodeNai, NaiCarrying
from fastmip.wire.revocation_support import RevocationSupport
from fastmip.wire.tunneling import (
    EncapsulatingDelivery,
    FirewallTraversal,
    UdpTunnelReply,
    UdpTunnelRequest,
)
from fastmip.wire.vendor import CriticalVendorExtension, NormalVendorExtension

_ENTRIES: Final = [
    Entry(ExtensionType.MOBILE_HOME_AUTHENTICATION, AuthenticationExtension.decode),
    Entry(ExtensionType.MOBILE_FOREIGN_AUTHENTICATION, AuthenticationExtension.decode),
    Entry(ExtensionType.FOREIGN_HOME_AUTHENTICATION, AuthenticationExtension.decode),
    *subtypes(
        ExtensionType.GENERALIZED_AUTHENTICATION,
        GeneralizedAuthentication.decode,
        Framing.LONG,
        (authext.MN_AAA, authext.FA_FA, authext.MN_GFA),
    ),
    Entry(ExtensionType.CRITICAL_VENDOR, CriticalVendorExtension.decode, Framing.LONG),
    Entry(
        ExtensionType.UDP_TUNNEL_REPLY,
        UdpTunnelReply.decode,
        Framing.SHORT,
        tunneling.UDP_TUNNEL_SUBTYPE,
    ),
    Entry(
        ExtensionType.FOREIGN_AGENT_ERROR,
        ForeignAgentError.decode,
        Framing.SHORT,
        FOREIGN_ERROR_SUBTYPE,
    ),
    Entry(ExtensionType.FIREWALL_TRAVERSAL, FirewallTraversal.decode),
    Entry(ExtensionType.ENCAPSULATING_DELIVERY, EncapsulatingDelivery.decode),
    Entry(ExtensionType.MOBILE_NODE_NAI, MobileNodeNai.decode),
    Entry(ExtensionType.CHALLENGE, MobileForeignChallenge.decode),
    Entry(ExtensionType.NORMAL_VENDOR, NormalVendorExtension.decode),
    *subtypes(
        ExtensionType.GENERALIZED_NAI,
        NaiCarrying.decode,
        Framing.SHORT,
        (nai.HOME_AGENT_NAI, nai.AAAH_NAI, nai.FOREIGN_AGENT_NAI),
    ),
    *subtypes(
        ExtensionType.DYNAMIC_HOME_AGENT,
        DynamicHomeAgent.decode,
        Framing.EITHER,
        (dynamic_home_agent.REQUESTED, dynamic_home_agent.REDIRECTED),
    ),
    Entry(ExtensionType.REVOCATION_SUPPORT, RevocationSupport.decode),
    Entry(
        ExtensionType.UDP_TUNNEL_REQUEST,
        UdpTunnelRequest.decode,
        Framing.SHORT,
        tunneling.UDP_TUNNEL_SUBTYPE,
    ),
    Entry(
        ExtensionType.MOBILE_NETWORK,
        MobileNetworkRequest.decode,
        Framing.SHORT,
        mobile_network.REQUEST_SUBTYPE,
    ),
    *subtypes(
        ExtensionType.MOBILE_NETWORK,
        MobileNetworkAcknowledgement.decode,
        Framing.SHORT,
        (mobile_network.EXPLICIT_SUBTYPE, mobile_network.IMPLICIT_SUBTYPE),
    ),
]

CONTROL_EXTENSIONS: Final = ExtensionRegistry(_ENTRIES)
"""Pads need no line: they have no length and are part of the walk."""

EXPERIMENTAL_EXTENSIONS: Final = ExtensionRegistry(
    [
        *_ENTRIES,
        *subtypes(
            ExtensionType.EXPERIMENTAL_NON_SKIPPABLE,
            NonSkippableExperiment.decode,
            Framing.LONG,
            range(256),
        ),
        *subtypes(
            ExtensionType.EXPERIMENTAL_SKIPPABLE,
            SkippableExperiment.decode,
            Framing.SHORT,
            range(256),
        ),
    ]
)
"""The same and those of RFC 4064, for nodes configured to take part in an experiment."""
