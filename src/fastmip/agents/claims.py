"""What a request asks for beside its fixed part, and who vouches for it (RFC 5944 3.6.1.3).

The mobile node vouches for what stands before the extension that authenticates it, a foreign
agent for what stands between that one and its own Foreign-Home authentication. The rest is
anybody's word: it is echoed at most, and changes nothing. Most requests carry an
authentication and nothing else; they share ``PLAIN``.
"""

from __future__ import annotations

from typing import Final

from fastmip.wire.authext import MN_AAA, AuthenticationExtension, GeneralizedAuthentication
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import ExtensionType
from fastmip.wire.dynamic_home_agent import REQUESTED, DynamicHomeAgent
from fastmip.wire.experimental import NonSkippableExperiment, SkippableExperiment
from fastmip.wire.extensions import Extension
from fastmip.wire.host_configuration import wants_host_configuration
from fastmip.wire.mobile_network import MobileNetworkRequest
from fastmip.wire.nai import MobileNodeNai
from fastmip.wire.registration import RegistrationRequest
from fastmip.wire.revocation_support import RevocationSupport
from fastmip.wire.tunneling import UdpTunnelRequest
from fastmip.wire.vendor import CriticalVendorExtension, NormalVendorExtension, VendorRegistry


class Claims:
    """The extensions of one request, sorted by who stands behind them."""

    __slots__ = (
        "agent_critical",
        "agent_revocation",
        "agent_udp",
        "challenge",
        "has_agent_part",
        "is_experimental",
        "node_critical",
        "node_nai",
        "node_networks",
        "node_requested",
        "node_revocation",
        "node_udp",
        "wants_configuration",
    )

    def __init__(self) -> None:
        """Nothing is asked for."""
        self.node_nai: MobileNodeNai | None = None
        self.node_udp: UdpTunnelRequest | None = None
        self.node_revocation: RevocationSupport | None = None
        self.node_critical: list[CriticalVendorExtension] = []
        self.node_networks: list[MobileNetworkRequest] = []
        self.node_requested: int | None = None
        """The home agent it wants (RFC 4433 3.4.1)."""
        self.agent_udp: UdpTunnelRequest | None = None
        self.agent_revocation: RevocationSupport | None = None
        self.agent_critical: list[CriticalVendorExtension] = []
        """Also critical when nobody vouches for it."""
        self.challenge: MobileForeignChallenge | None = None
        """Wherever it stands: it is echoed, no more (RFC 4721 3.4)."""
        self.has_agent_part = False
        """Something stands behind the mobile node's part that only counts when it is proven."""
        self.is_experimental = False
        self.wants_configuration = False
        """The mobile node asks for host configuration (RFC 4332)."""

    def _add_of_node(self, extension: Extension) -> None:
        if isinstance(extension, MobileNodeNai):
            self.node_nai = extension
        elif isinstance(extension, UdpTunnelRequest):
            self.node_udp = extension
        elif isinstance(extension, MobileNetworkRequest):
            self.node_networks.append(extension)
        elif isinstance(extension, DynamicHomeAgent):
            if extension.subtype == REQUESTED:
                self.node_requested = extension.address
        elif isinstance(extension, RevocationSupport):
            self.node_revocation = extension
        elif isinstance(extension, CriticalVendorExtension):
            self.node_critical.append(extension)
        elif isinstance(extension, NormalVendorExtension):
            self.wants_configuration |= wants_host_configuration(extension)
        elif isinstance(extension, NonSkippableExperiment | SkippableExperiment):
            self.is_experimental = True

    def _add_of_agent(self, extension: Extension) -> None:
        if isinstance(extension, UdpTunnelRequest):
            self.agent_udp = extension
            self.has_agent_part = True
        elif isinstance(extension, RevocationSupport):
            self.agent_revocation = extension
            self.has_agent_part = True

    def unknown_critical(self, known: VendorRegistry, *, of_agent: bool) -> bool:
        """Whether a critical vendor extension of one side is not listed (RFC 3115 2.4)."""
        found = self.agent_critical if of_agent else self.node_critical
        return bool(found) and bool(known.unknown_critical(found))


PLAIN: Final = Claims()
"""Of a request with nothing but its authentication; never changed."""


def read_claims(
    request: RegistrationRequest, authorizing: AuthenticationExtension | GeneralizedAuthentication
) -> Claims:
    """Sort the extensions of a request that ``authorizing`` authenticates."""
    extensions = request.extensions
    if len(extensions) == 1:
        return PLAIN
    claims = Claims()
    node_ends = authorizing.offset
    agent_ends = -1
    for extension in extensions:
        if extension.type == ExtensionType.FOREIGN_HOME_AUTHENTICATION:
            agent_ends = extension.offset
    for extension in extensions:
        at = extension.offset
        if at < node_ends:
            claims._add_of_node(extension)
        elif at < agent_ends:
            claims._add_of_agent(extension)
        if isinstance(extension, MobileForeignChallenge):
            claims.challenge = claims.challenge or extension
        elif isinstance(extension, CriticalVendorExtension) and at > node_ends:
            claims.agent_critical.append(extension)
    return claims


def mn_aaa_of(request: RegistrationRequest) -> GeneralizedAuthentication | None:
    """The one Mobile-AAA authentication of a request; None without, or with several."""
    found = [
        extension
        for extension in request.extensions
        if isinstance(extension, GeneralizedAuthentication) and extension.subtype == MN_AAA
    ]
    return found[0] if len(found) == 1 else None


def challenge_before(request: RegistrationRequest, offset: int) -> bytes | None:
    """The challenge an authentication at this offset covers."""
    for extension in request.extensions:
        if isinstance(extension, MobileForeignChallenge) and extension.offset < offset:
            return extension.challenge
    return None
