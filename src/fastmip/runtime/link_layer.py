"""IPv4 packets put on a link by link-layer address, past routing and ARP.

A foreign agent must not ask by ARP for a mobile node, and a mobile node away from home must not
be asked (RFC 5944 4.6): what they say to each other goes to the link-layer address the other was
heard from. A packet socket sends such packets; the Ethernet header is the kernel's work.
"""

from __future__ import annotations

import itertools
import socket
import struct

from fastmip.agents.effects import Endpoint
from fastmip.wire.addresses import LIMITED_BROADCAST, is_multicast

ETH_P_IP = 0x0800
IPV4_HEADER_LEN = 20
BROADCAST_MAC = b"\xff" * 6

_IPV4 = struct.Struct("!BBHHHBBHII")
_UDP = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!IIBBH")
_VERSION_AND_LENGTH = 0x45
_ICMP, _UDP_PROTOCOL = 1, 17


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of the bytes; 0 when it stands in them and is right."""
    if len(data) & 1:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) >> 1}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4_packet(
    protocol: int, payload: bytes, source: int, destination: int, *, ttl: int, identification: int
) -> bytes:
    """An IPv4 packet without options that may be fragmented."""
    fields = (_VERSION_AND_LENGTH, 0, IPV4_HEADER_LEN + len(payload), identification, 0)
    header = _IPV4.pack(*fields, ttl, protocol, 0, source, destination)
    sum_ = checksum(header)
    return _IPV4.pack(*fields, ttl, protocol, sum_, source, destination) + payload


def udp_packet(
    data: bytes, source: Endpoint, destination: Endpoint, *, ttl: int, identification: int
) -> bytes:
    """An IPv4 packet with a UDP datagram; the UDP checksum is always there (RFC 5944 3.1)."""
    size = _UDP.size + len(data)
    pseudo = _PSEUDO.pack(source.address, destination.address, 0, _UDP_PROTOCOL, size)
    header = _UDP.pack(source.port, destination.port, size, 0)
    sum_ = checksum(pseudo + header + data) or 0xFFFF
    datagram = _UDP.pack(source.port, destination.port, size, sum_) + data
    return ipv4_packet(
        _UDP_PROTOCOL,
        datagram,
        source.address,
        destination.address,
        ttl=ttl,
        identification=identification,
    )


def udp_checksum_is_right(packet: bytes, header_len: int) -> bool:
    """Whether the UDP checksum of a whole IPv4 packet is right, or absent."""
    datagram = packet[header_len:]
    if datagram[6:8] == b"\0\0":
        return True
    source, destination = struct.unpack_from("!II", packet, 12)
    pseudo = _PSEUDO.pack(source, destination, 0, _UDP_PROTOCOL, len(datagram))
    return checksum(pseudo + datagram) == 0


def icmp_packet(
    message: bytes, source: int, destination: int, *, ttl: int, identification: int
) -> bytes:
    """An IPv4 packet with an ICMP message, which brings its own checksum."""
    return ipv4_packet(_ICMP, message, source, destination, ttl=ttl, identification=identification)


def group_mac(address: int) -> bytes | None:
    """The link-layer address of a broadcast or multicast address; None for one host."""
    if address == LIMITED_BROADCAST:
        return BROADCAST_MAC
    if is_multicast(address):  # RFC 1112 6.4
        return b"\x01\x00\x5e" + (address & 0x7FFFFF).to_bytes(3, "big")
    return None


class LinkSender:
    """Puts IPv4 packets on links; opens its socket with the first one."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._numbers = itertools.count(1)

    def next_identification(self) -> int:
        """A value for the next packet's IPv4 identification field."""
        return next(self._numbers) & 0xFFFF

    def send(self, packet: bytes, interface: str, mac: bytes) -> None:
        """Put a packet on a link. Raises OSError."""
        if self._socket is None:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_PACKET, kind, 0)  # 0: it receives nothing
        self._socket.sendto(packet, (interface, ETH_P_IP, 0, 0, mac))

    def send_datagram(
        self,
        data: bytes,
        source: Endpoint,
        destination: Endpoint,
        interface: str,
        mac: bytes,
        ttl: int = 64,
    ) -> None:
        """Put a UDP datagram on a link. Raises OSError."""
        identification = self.next_identification()
        packet = udp_packet(data, source, destination, ttl=ttl, identification=identification)
        self.send(packet, interface, mac)

    def close(self) -> None:
        """Close the socket; the next packet opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
