"""How data travel: UDP tunnels through a NAT (RFC 3519 3), delivery style (RFC 3024 3.3).

Also the firewall traversal hint (RFC 2356 7.3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType, MessageType
from fastmip.wire.cursor import Cursor
from fastmip.wire.discovery import internet_checksum
from fastmip.wire.extensions import Extension, RawExtension, frame_short, frame_simple

UDP_TUNNEL_SUBTYPE: Final = 0
"""Of both the request (144) and the reply (44)."""
FORCED: Final = 0x80
"""Flag F of a request: tunnel in UDP whether or not there is a NAT."""
REQUIRED: Final = 0x40
"""Flag R of a request: a co-located address, but the foreign agent wants registrations."""
_REPLY_FORCED: Final = 0x8000

TUNNEL_ACCEPTED: Final = 0
TUNNEL_DECLINED: Final = 64
"""Declined for no particular reason; from here on every code declines (RFC 3519 3.2.1)."""

ENCAPSULATION_DEFAULT: Final = 0
"""As the M and G flags of the registration request say."""
ENCAPSULATION_IPIP: Final = 4
ENCAPSULATION_GRE: Final = 47
ENCAPSULATION_MINIMAL: Final = 55

TUNNEL_DATA_HEADER_LEN: Final = 4
"""Message type 4, next header, two reserved bytes (RFC 3519 3.3)."""

_GRE_OF_IPV4: Final = bytes((0, 0, 8, 0))
_MINIMAL_SOURCE: Final = 0x80
_DONT_FRAGMENT: Final = 0x40
"""S: the original source is there too (RFC 2004 3)."""
_REQUEST: Final = struct.Struct("!BBBH")
_REPLY: Final = struct.Struct("!BHH")
_TRAVERSAL: Final = struct.Struct("!HII")


@dataclass(frozen=True, slots=True)
class UdpTunnelRequest(Extension):
    """UDP Tunnel Request (144, RFC 3519 3.1)."""

    type: int = field(default=int(ExtensionType.UDP_TUNNEL_REQUEST), init=False)
    flags: int = 0
    """FORCED, REQUIRED; other bits are ignored."""
    encapsulation: int = ENCAPSULATION_DEFAULT
    """Protocol number of the tunnelled data, or ENCAPSULATION_DEFAULT."""

    @classmethod
    def decode(cls, type_: int, body: Cursor) -> Extension:
        """Decode what follows the subtype; with a third reserved field it is not understood.

        That field "MUST be verified as 0 on receipt", else the extension is skipped.
        """
        reserved1, flags, encapsulation, reserved3 = body.u8(), body.u8(), body.u8(), body.u16()
        if reserved3:
            rest = _REQUEST.pack(reserved1, flags, encapsulation, reserved3)
            return RawExtension(type_, data=bytes((UDP_TUNNEL_SUBTYPE,)) + rest)
        return cls(flags, encapsulation)

    @property
    def is_forced(self) -> bool:
        """F: even without a NAT."""
        return bool(self.flags & FORCED)

    @property
    def is_through_agent(self) -> bool:
        """R: registered through a foreign agent that requires it."""
        return bool(self.flags & REQUIRED)

    def build(self) -> bytes:
        """Return the extension; WireError if a field is out of range."""
        try:
            data = _REQUEST.pack(0, self.flags, self.encapsulation, 0)
        except struct.error as error:
            raise WireError(f"UDP tunnel request: {error}") from error
        return frame_short(self.type, UDP_TUNNEL_SUBTYPE, data)


@dataclass(frozen=True, slots=True)
class UdpTunnelReply(Extension):
    """UDP Tunnel Reply (44, RFC 3519 3.2)."""

    type: int = field(default=int(ExtensionType.UDP_TUNNEL_REPLY), init=False)
    code: int = TUNNEL_ACCEPTED
    forced: bool = False
    """F: tunnelling because it was forced, NAT or not."""
    keepalive_s: int = 0
    """Seconds between keepalives; 0: the mobile node's own default."""

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> UdpTunnelReply:
        """Decode what follows the subtype."""
        return cls(body.u8(), bool(body.u16() & _REPLY_FORCED), body.u16())

    @property
    def is_accepted(self) -> bool:
        """Codes 0-63 say that tunnelling is done (RFC 3519 3.2.1)."""
        return self.code < TUNNEL_DECLINED

    def build(self) -> bytes:
        """Return the extension; WireError if a field is out of range."""
        try:
            data = _REPLY.pack(self.code, _REPLY_FORCED * self.forced, self.keepalive_s)
        except struct.error as error:
            raise WireError(f"UDP tunnel reply: {error}") from error
        return frame_short(self.type, UDP_TUNNEL_SUBTYPE, data)


@dataclass(frozen=True, slots=True)
class EncapsulatingDelivery(Extension):
    """Encapsulating Delivery Style (130, RFC 3024 3.3): an order to the foreign agent, no data."""

    type: int = field(default=int(ExtensionType.ENCAPSULATING_DELIVERY), init=False)

    @classmethod
    def decode(cls, _type: int, _body: Cursor) -> EncapsulatingDelivery:
        """Decode nothing: the length is 0."""
        return cls()

    def build(self) -> bytes:
        """Return the two bytes of the extension."""
        return frame_simple(self.type, b"")


@dataclass(frozen=True, slots=True)
class FirewallTraversal(Extension):
    """Traversal (129, RFC 2356 7.3): a firewall between mobile node and home agent; a hint."""

    type: int = field(default=int(ExtensionType.FIREWALL_TRAVERSAL), init=False)
    to_home_agent: int
    """Address to send to on the way from the mobile node to the home agent."""
    to_mobile_node: int
    """Address to send to on the way back."""

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> FirewallTraversal:
        """Decode both addresses."""
        body.u16()
        return cls(body.u32(), body.u32())

    def build(self) -> bytes:
        """Return the extension; WireError if an address is out of range."""
        try:
            data = _TRAVERSAL.pack(0, self.to_home_agent, self.to_mobile_node)
        except struct.error as error:
            raise WireError(f"traversal: {error}") from error
        return frame_simple(self.type, data)


class TunnelData:
    """The header before a packet in a UDP tunnel: message type 4 (RFC 3519 3.3)."""

    @staticmethod
    def encode_header(next_header: int) -> bytes:
        """Return the four bytes; WireError if the protocol number is out of range."""
        if not 0 <= next_header <= 255:
            raise WireError(f"next header {next_header} is not a protocol number")
        return bytes((MessageType.TUNNEL_DATA, next_header, 0, 0))

    @classmethod
    def wrap(cls, encapsulation: int, packet: bytes) -> bytes:
        """Return a UDP payload that carries an IPv4 packet (RFC 3519 3.3): no fragment, no options.

        As IP in IP, as GRE without a key, or as minimal encapsulation, by its protocol number;
        a minimal header in UDP has no room for "may fragment": such a packet goes as IP in IP.
        """
        if encapsulation == ENCAPSULATION_MINIMAL and not packet[6] & _DONT_FRAGMENT:
            encapsulation = ENCAPSULATION_IPIP
        header = cls.encode_header(encapsulation)
        if encapsulation == ENCAPSULATION_GRE:
            return header + _GRE_OF_IPV4 + packet
        if encapsulation == ENCAPSULATION_MINIMAL:
            protocol, source, destination = packet[9], packet[12:16], packet[16:20]
            addresses = destination + source
            start = bytes((protocol, _MINIMAL_SOURCE))
            check = internet_checksum(start + addresses).to_bytes(2)
            return header + start + check + addresses + packet[20:]
        return header + packet

    @staticmethod
    def decode_header(data: bytes) -> int:
        """Return the protocol number of the tunnelled data, which follow after four bytes.

        Raises WireError when it is no such message; the reserved bytes are ignored.
        """
        if len(data) < TUNNEL_DATA_HEADER_LEN or data[0] != MessageType.TUNNEL_DATA:
            raise WireError(f"{len(data)} bytes are not tunnel data")
        return data[1]
