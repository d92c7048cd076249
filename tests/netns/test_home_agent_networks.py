"""A scripted mobile router at the real home agent: its networks come, move and go (RFC 5177)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, Raw
from tests.helpers import handmade_extensions as handmade
from tests.helpers.handmade import KEY
from tests.helpers.home_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    HomeAgentLab,
)
from tests.helpers.namespaces import wait_for

D, T = 0x20, 0x02
NETWORK, IN_HOME, POOL = "10.2.8.0/24", "10.1.0.64/28", "10.16.0.0/20"
FIXED, AT_HOME = "10.2.8.20", "10.1.0.70"
OLD_ROUTER, OLD_KEY = "10.1.0.9", b"short"

pytestmark = pytest.mark.netns

HOSTS = f"""
[[home_agent.host]]
home_address = "{HOME_ADDRESS}"
networks = ["{NETWORK}", "{IN_HOME}"]
dynamic_networks = 1
[[home_agent.host.association]]
spi = 256
key = "{KEY.hex()}"
[[home_agent.host]]
home_address = "{OLD_ROUTER}"
profile = "dmnr"
networks = ["10.2.99.0/24"]
[[home_agent.host.association]]
key_ascii = "{OLD_KEY.decode()}"
[home_agent.mobile_networks]
pools = ["{POOL}"]
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        built.hosts, built.more = [], [HOSTS]
        for network in (NETWORK, POOL, "10.2.99.0/24"):
            built.net.ip("rt", "route", "add", network, "via", HOME_AGENT)
        yield built


def asked(*networks: str) -> bytes:
    """Mobile Network Request extensions."""
    found = b""
    for network in networks:
        prefix, length = network.split("/")
        found += struct.pack("!BBBB4s", 148, 6, 0, int(length), socket.inet_aton(prefix))
    return found


def register(
    client: socket.socket, *networks: str, **more: Any
) -> tuple[int, list[tuple[int, int, str]]]:
    """Reply code, and subtype, code and prefix of each acknowledgement."""
    more.setdefault("flags", D | T)
    care_of = more.pop("care_of", CARE_OF)
    message = handmade.request(HOME_ADDRESS, care_of, extensions=asked(*networks), **more)
    client.sendto(message, (HOME_AGENT, 434))
    reply = handmade.read_reply(client.recv(2048))
    found, rest = [], reply.before
    while rest:
        assert rest[:2] == b"\x94\x08"
        subtype, code, length, prefix = struct.unpack_from("!BBBx4s", rest, 2)
        found.append((subtype, code, f"{socket.inet_ntoa(prefix)}/{length}"))
        rest = rest[10:]
    return reply.code, found


def states(lab: HomeAgentLab) -> dict[str, str]:
    rows = lab.ask("show mobile-networks")["rows"]
    return {row["network"]: row["state"] for row in rows}


class Router:
    """The mobile router's raw socket, and a correspondent."""

    def __init__(self, lab: HomeAgentLab) -> None:
        self.lab = lab
        self.tunnel = lab.raw("away", 4)
        self.correspondent = lab.udp("cn", CORRESPONDENT, 7000)

    def hears(self, destination: str, *outers: tuple[str, str]) -> None:
        """What a correspondent sends arrives with these headers in front."""
        text = destination.encode()
        self.correspondent.sendto(text, (destination, 7001))
        while True:
            packet: Packet = IP(self.tunnel.recv(2048))
            if bytes(packet).endswith(text):
                break
        found = []
        while packet.proto == 4:
            found.append((packet.src, packet.dst))
            packet = packet.payload
        assert found == list(outers)
        assert (packet.src, packet.dst) == (CORRESPONDENT, destination)

    def says(self, source: str, *outers: tuple[str, str], to: str = CORRESPONDENT) -> None:
        """Send to the correspondent through a tunnel."""
        packet: Packet = IP(src=source, dst=to) / UDP(sport=7001, dport=7000) / Raw(b"back")
        for outer in reversed(outers):
            packet = IP(src=outer[0], dst=outer[1], proto=4) / packet
        self.tunnel.sendto(bytes(packet.payload), (outers[0][1], 0))

    def unreachable(self, destination: str) -> bool:
        """Whether a correspondent is told that there is nobody."""
        asker = self.lab.udp("cn", CORRESPONDENT)
        asker.connect((destination, 9))
        asker.setsockopt(socket.SOL_IP, 11, 1)  # IP_RECVERR
        asker.settimeout(0.5)
        try:
            asker.send(b"hello")
            asker.recv(100)
        except OSError as error:
            return error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        return False


OUT = (HOME_AGENT, CARE_OF)
BACK = (CARE_OF, HOME_AGENT)


def test_t30_a_mobile_network_is_reached_and_reaches_rfc5177(lab: HomeAgentLab) -> None:
    lab.start()
    client, router = lab.udp("away", CARE_OF), Router(lab)
    wait_for("nobody there yet", lambda: router.unreachable(FIXED))
    assert states(lab) == {NETWORK: "idle", IN_HOME: "idle", "10.2.99.0/24": "idle"}

    code, found = register(client, NETWORK, IN_HOME, "10.99.0.0/24", "10.2.8.0/0")
    assert (code, found) == (
        0,
        [(1, 0, NETWORK), (1, 0, IN_HOME), (1, 2, "10.99.0.0/24"), (1, 1, "10.2.8.0/0")],
    )
    for there in (FIXED, AT_HOME):
        router.hears(there, OUT)
        router.says(there, BACK)
        assert router.correspondent.recvfrom(100) == (b"back", (there, 7001))
    router.says("10.2.9.20", BACK)
    wait_for("a stranger's packet", lambda: lab.verdict("drop-no-binding") == 1)
    assert states(lab)[NETWORK] == "routed"

    lab.kill()
    lab.start()
    router.hears(FIXED, OUT)  # nobody registered again
    router.says(FIXED, BACK)
    assert router.correspondent.recvfrom(100) == (b"back", (FIXED, 7001))

    # Behind a foreign agent, by the same address: a header more in both directions.
    assert register(client, NETWORK, flags=T) == (0, [(1, 0, NETWORK)])
    router.hears(FIXED, OUT, (HOME_AGENT, HOME_ADDRESS))
    router.hears(HOME_ADDRESS, OUT)
    router.says(FIXED, BACK, (HOME_ADDRESS, HOME_AGENT))
    assert router.correspondent.recvfrom(100) == (b"back", (FIXED, 7001))
    assert states(lab) == {NETWORK: "routed", IN_HOME: "idle", "10.2.99.0/24": "idle"}

    assert register(client, NETWORK, lifetime_s=0, care_of=HOME_ADDRESS) == (0, [])
    assert states(lab)[NETWORK] == "idle"
    wait_for("nobody there any more", lambda: router.unreachable(FIXED))
    assert lab.counter("haMobileNetworks") == 0


def test_t34_a_prefix_out_of_the_pool_is_kept_rfc6626(lab: HomeAgentLab) -> None:
    lab.start()
    client, router = lab.udp("away", CARE_OF), Router(lab)
    code, [(_, granted, network)] = register(client, "0.0.0.0/26")
    assert (code, granted, network) == (0, 0, "10.16.0.0/26")
    router.hears("10.16.0.33", OUT)
    code, found = register(client, "0.0.0.0/0", "0.0.0.0/0")
    assert (code, found) == (0, [(1, 0, network), (1, 4, "0.0.0.0/0")])
    register(client, lifetime_s=0, care_of=HOME_ADDRESS)
    assert states(lab)[network] == "remembered"
    lab.kill()
    lab.start()
    assert register(client, "0.0.0.0/0") == (0, [(1, 0, network)])
    router.hears("10.16.0.33", OUT)


def test_a_router_on_sale_registers_with_its_short_key(lab: HomeAgentLab) -> None:
    lab.start()
    client = lab.udp("away", CARE_OF)
    fixed = handmade.request(OLD_ROUTER, CARE_OF, lifetime_s=65534)[:24]
    message = handmade.sign(fixed + asked("10.2.99.0/24"), OLD_KEY, 256)
    client.sendto(message, (HOME_AGENT, 434))
    data = client.recv(2048)
    assert (data[1], int.from_bytes(data[2:4])) == (0, 65534)
    assert data[20:26] == b"\x94\x08\x01\x00\x18\x00"
    # The configuration no longer names its network: it goes at once, the binding stays.
    lab.more = [HOSTS.replace('"10.2.99.0/24"', '"10.2.98.0/24"')]
    lab.write_config()
    lab.ask("reload")
    left = {NETWORK: "idle", IN_HOME: "idle", "10.2.98.0/24": "idle"}
    wait_for("what is stored", lambda: states(lab) == left)
    assert lab.ask("show binding", home_address=OLD_ROUTER)["rows"]
    before = lab.kernel_state()
    assert any("unreachable 10.2.98.0/24" in text for text in before)
    assert not any("10.2.99.0/24" in text for text in before)
    assert lab.stop() == 0
    assert not any("10.2.98.0/24" in text for text in lab.kernel_state())


def test_a_router_within_a_router_is_reached_through_both_rfc5177_8(lab: HomeAgentLab) -> None:
    lab.start()
    client, router = lab.udp("away", CARE_OF), Router(lab)
    assert register(client, NETWORK) == (0, [(1, 0, NETWORK)])
    inside, deeper = "10.2.8.30", "10.2.99.5"

    def ask(care_of: str, home: str = OLD_ROUTER, key: bytes = OLD_KEY) -> int:
        """Register out of the first router's network; the reply comes through its tunnel."""
        fixed = handmade.request(home, care_of)[:24]
        message = handmade.sign(fixed + asked("10.2.99.0/24"), key, 256)
        packet = IP(src=inside, dst=HOME_AGENT) / UDP(sport=5434, dport=434) / Raw(message)
        outside = IP(src=CARE_OF, dst=HOME_AGENT, proto=4) / packet
        router.tunnel.sendto(bytes(outside.payload), (HOME_AGENT, 0))
        while True:
            heard: Packet = IP(router.tunnel.recv(2048)).payload
            if (heard.dst, heard.proto) == (inside, 17) and heard[UDP].dport == 5434:
                return int(bytes(heard[UDP].payload)[1])

    assert ask(inside) == 0
    router.hears(deeper, OUT, (HOME_AGENT, inside))
    router.says(deeper, BACK, (inside, HOME_AGENT))
    assert router.correspondent.recvfrom(100) == (b"back", (deeper, 7001))
    # The first one would now be behind itself.
    wait_for("the next second", lambda: register(client, NETWORK, care_of="10.2.99.7")[0] == 129)
    router.hears(deeper, OUT, (HOME_AGENT, inside))
