"""A stranger on the visited link of a real foreign agent: what it sends changes nothing.

It sits beside the mobile node on the link and sends frames of its own making, with link-layer
addresses of its choice.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.foreign_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    ForeignAgentLab,
    T,
)
from tests.helpers.namespaces import wait_for

pytestmark = pytest.mark.netns

STRANGER = "02:00:00:00:66:01"
ROGUE = "10.9.0.7"
"""A home agent anybody could run: the correspondent's machine."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ForeignAgentLab]:
    with ForeignAgentLab(tmp_path) as built:
        yield built


class Link:
    """The visited link, as the stranger sees it."""

    def __init__(self, lab: ForeignAgentLab) -> None:
        self.lab = lab
        self.agent = lab.mac("fa", "air")
        self.wire = lab.packets("mn", "eth0")

    def frame(self, payload: Any, mac: str = STRANGER, to: str = "") -> bytes:
        """A frame of the stranger's."""
        from scapy.layers.l2 import Ether  # noqa: PLC0415 - slow to load

        return bytes(Ether(src=mac, dst=to or self.agent) / payload)

    def datagram(self, message: bytes, mac: str = STRANGER, source: str = HOME_ADDRESS) -> None:
        """Send a message to the foreign agent's port 434, from a neighbour."""
        from scapy.layers.inet import IP, UDP  # noqa: PLC0415
        from scapy.packet import Raw  # noqa: PLC0415

        packet = IP(src=source, dst=CARE_OF, ttl=255) / UDP(sport=40001, dport=434) / Raw(message)
        self.wire.send(self.frame(packet, mac))

    def visitor(self) -> dict[str, Any]:
        """The one visitor."""
        [row] = self.lab.fa.ask("show visitor")["rows"]
        assert isinstance(row, dict)
        return row


def count_rises(lab: ForeignAgentLab, name: str, to: int) -> None:
    """Wait for a counter."""
    wait_for(f"{name} {to}", lambda: lab.fa.counter(name) >= to, 10)


def test_a_stranger_takes_over_no_visitor(lab: ForeignAgentLab) -> None:
    """What it overheard, what it makes up, and what its own home agent would say."""
    from scapy.layers.l2 import ARP  # noqa: PLC0415

    lab.start()
    link = Link(lab)
    node = lab.node()
    heard = lab.request()
    assert lab.exchange(node, heard)[:2] == b"\x03\x00"
    mac = lab.mac("mn")
    before = lab.kernel_state()

    link.datagram(heard)
    count_rises(lab, "faRegRequestsReplayed", 1)
    denied = lab.fa.counter("faInsufficientResource")
    link.datagram(lab.request(home_agent=ROGUE))
    link.datagram(lab.request(home_agent=ROGUE), mac=mac)
    count_rises(lab, "faInsufficientResource", denied + 2)
    link.datagram(lab.request(home_agent=ROGUE, home_address="10.3.1.77"), mac="02:00:00:00:66:02")
    count_rises(lab, "faAdmProhibited", 1)
    for operation in (1, 2):  # "is at" and "who has", both of them lies
        lie = ARP(op=operation, psrc=HOME_ADDRESS, pdst=CARE_OF, hwsrc=STRANGER)
        link.wire.send(link.frame(lie, to="ff:ff:ff:ff:ff:ff"))

    assert link.visitor()["mac"] == mac
    assert link.visitor()["home_agent"] == HOME_AGENT
    assert lab.ping("cn", HOME_ADDRESS, 3)
    assert lab.kernel_state() == before
    assert lab.fa.counter("faPendingRequests") == 0


def test_a_stranger_s_revocations_replies_and_errors_end_no_visit(lab: ForeignAgentLab) -> None:
    from scapy.layers.inet import ICMP, IP, UDP  # noqa: PLC0415

    lab.settings = "revocation = true"
    lab.start()
    link = Link(lab)
    node = lab.node()
    answer = lab.exchange(node, lab.request())
    home, agent, care_of = map(socket.inet_aton, (HOME_ADDRESS, HOME_AGENT, CARE_OF))
    revocation = b"\x07\x00\xc0\x00" + home + agent + care_of + bytes(4)
    errors = IP(src=ROGUE, dst=CARE_OF) / ICMP(type=3, code=1)
    quoted = IP(src=CARE_OF, dst=HOME_AGENT) / UDP(sport=434, dport=434) / lab.request()
    for source in (HOME_AGENT, ROGUE, HOME_ADDRESS):
        for message in (revocation, b"\x03\x00\x00\x00" + answer[4:], b"\x0f\x00" + bytes(30)):
            link.datagram(message, source=source)
    link.wire.send(link.frame(errors / quoted))
    count_rises(lab, "faRevocationsReceived", 1)
    assert link.visitor()["mac"] == lab.mac("mn")
    assert lab.ping("cn", HOME_ADDRESS, 2)


def test_noise_on_the_link_leaves_the_agent_as_it_is(lab: ForeignAgentLab) -> None:
    """Damaged frames, headers and messages, a thousand of them: it serves as before."""
    from scapy.layers.inet import IP, UDP  # noqa: PLC0415
    from scapy.packet import Raw  # noqa: PLC0415

    lab.start()
    link = Link(lab)
    lab.register()
    before = lab.kernel_state()
    dice = random.Random(7)  # noqa: S311 - repeatable on purpose
    good = bytes(
        IP(src="10.1.0.99", dst=CARE_OF, ttl=255)
        / UDP(sport=40001, dport=434)
        / Raw(lab.request(home_address="10.1.0.99"))
    )
    for number in range(1000):
        packet = bytearray(good)
        for _ in range(dice.randrange(1, 4)):
            packet[dice.randrange(len(packet))] = dice.randrange(256)
        if number % 3 == 0:
            del packet[dice.randrange(1, len(packet)) :]
        mac = "02:00:00:01:" + ":".join(f"{octet:02x}" for octet in number.to_bytes(2, "big"))
        link.wire.send(link.frame(Raw(bytes(packet)), mac)[:12] + b"\x08\x00" + bytes(packet))
    wait_for("an answer", lambda: lab.exchange(lab.node(), lab.request())[:2] == b"\x03\x00", 10)
    assert lab.fa.daemon is not None
    assert lab.fa.daemon.poll() is None
    [visitor] = lab.fa.ask("show visitor")["rows"]
    assert visitor["home_address"] == HOME_ADDRESS
    assert lab.ping("cn", HOME_ADDRESS, 2)
    assert "Traceback" not in lab.fa.log()
    wait_for("what was pending to end", lambda: lab.fa.counter("faPendingRequests") == 0, 20)
    assert lab.kernel_state() == before


def test_what_is_sent_in_a_visitor_s_name_reaches_no_other_visitor_s_tunnel(
    lab: ForeignAgentLab,
) -> None:
    """A stranger's packets from an address that is no visitor's are never reverse-tunnelled."""
    from scapy.layers.inet import ICMP, IP  # noqa: PLC0415

    lab.start()
    lab.register(flags=T)
    link = Link(lab)
    core = lab.packets("rt", "to-fa")
    link.wire.send(link.frame(IP(src="10.1.0.66", dst=CORRESPONDENT) / ICMP() / b"stranger"))
    assert lab.ping("mn", CORRESPONDENT, 2, "-I", HOME_ADDRESS)
    core.settimeout(0.3)
    tunnelled = []
    try:
        while True:
            frame = core.recv(2048)
            if frame[12:14] == b"\x08\x00" and frame[23] == 4:
                tunnelled.append(frame[34:])
    except TimeoutError:
        pass
    assert tunnelled
    assert not [inner for inner in tunnelled if b"stranger" in inner]
