"""Revocation between the home agent daemon and a scripted foreign agent (RFC 3543)."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from tests.helpers import handmade_extensions as made
from tests.helpers.dissector import dissect
from tests.helpers.handmade import address, timestamp
from tests.helpers.home_agent_lab import CARE_OF, HOME_ADDRESS, HOME_AGENT, HomeAgentLab
from tests.helpers.namespaces import wait_for

AGENT = CARE_OF
"""The scripted foreign agent's address is the care-of address."""

pytestmark = pytest.mark.netns


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        built.more = [
            "[[home_agent.foreign_agent]]",
            f'address = "{AGENT}"',
            "[[home_agent.foreign_agent.association]]",
            f"spi = {made.FA_SPI}",
            f'key = "{made.FA_KEY.hex()}"',
        ]
        yield built


def stamp() -> int:
    """NTP seconds."""
    return timestamp() >> 32


def relay(agent: socket.socket, **more: int) -> bytes:
    """Register through the foreign agent; the whole authentic reply."""
    message = made.request(HOME_ADDRESS, AGENT, flags=0x02, **more)  # type: ignore[arg-type]
    agent.sendto(made.by_agent(message + made.support(stamp())), (HOME_AGENT, 434))
    data = agent.recv(2048)
    reply = made.read_reply(data, agent_key=made.FA_KEY)
    assert reply.code == 0
    assert reply.behind[:4] == b"\x89\x06\x80\x00"
    assert abs(struct.unpack("!I", reply.behind[4:])[0] - stamp()) <= 2
    return data


def acknowledge(agent: socket.socket, data: bytes, source: tuple[str, int]) -> None:
    """Answer a revocation as RFC 3543 3.4 says."""
    identifier = struct.unpack_from("!I", data, 16)[0]
    message = made.acknowledgment(HOME_ADDRESS, identifier, inform=True)
    agent.sendto(made.by_agent(message), source)


def test_the_operator_revokes_and_the_foreign_agent_acknowledges_t08_rfc3543_4_2_2_1(
    lab: HomeAgentLab,
) -> None:
    lab.start()
    agent = lab.udp("away", AGENT, 434)
    relay(agent)
    (row,) = lab.ask("show binding")["rows"]
    assert (row["foreign_agent"], row["revocation"]) == (AGENT, "foreign-agent")
    time.sleep(1.1)
    heard: list[bytes] = []

    def serve() -> None:
        for number in range(2):  # the first is lost
            data, source = agent.recvfrom(2048)
            heard.append(data)
            if number:
                acknowledge(agent, data, source)

    thread = threading.Thread(target=serve)
    thread.start()
    answer = lab.ask("clear binding", home_address=HOME_ADDRESS, revoke=True)
    thread.join()
    assert answer == {"cleared": 1, "told": 1, "acknowledged": 1}
    first, second = heard
    names = (address(HOME_ADDRESS), address(HOME_AGENT), address(AGENT))
    assert struct.unpack_from("!BBHIII", second) == (7, 0, 0xC000, *names)
    assert struct.unpack_from("!I", second, 16) > struct.unpack_from("!I", first, 16)
    assert made.by_agent(second[:20]) == second
    assert lab.ask("show binding")["rows"] == []
    assert lab.counter("haRevocationsSent") == 2
    agent.settimeout(2.5)
    with pytest.raises(TimeoutError):
        agent.recv(2048)


def test_the_foreign_agent_revokes_and_forgeries_change_nothing_sec30_rfc3543_4_2_3_2(
    lab: HomeAgentLab,
) -> None:
    lab.start()
    agent, tunnel = lab.udp("away", AGENT, 434), lab.raw("away", 4)
    relay(agent)
    time.sleep(1.1)
    plain = made.revocation(HOME_ADDRESS, HOME_AGENT, AGENT, stamp())
    reflected = made.revocation(HOME_ADDRESS, HOME_AGENT, AGENT, stamp(), flags=0xC000)
    stale = made.revocation(HOME_ADDRESS, HOME_AGENT, AGENT, stamp() - 60)
    for forged in (
        plain,
        made.by_agent(plain, bytes(16)),
        made.by_agent(reflected),
        made.by_agent(stale),
        made.by_agent(made.revocation(HOME_ADDRESS, "0.0.0.0", AGENT, stamp())),  # noqa: S104
    ):
        agent.sendto(forged, (HOME_AGENT, 434))
    wait_for("them all", lambda: lab.counter("haRevocationsReceived") == 5)
    assert len(lab.ask("show binding")["rows"]) == 1
    lab.net.start("cn", "ping", "-c", "2", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    assert IP(tunnel.recv(2048)).dst == AGENT
    agent.sendto(made.by_agent(plain), (HOME_AGENT, 434))
    identifier = struct.unpack_from("!I", plain, 16)[0]
    expected = made.by_agent(made.acknowledgment(HOME_ADDRESS, identifier, inform=True))
    assert agent.recv(2048) == expected
    assert lab.ask("show binding")["rows"] == []
    assert "revoked" in lab.log()
    # A replay after the node came back ends nothing.
    time.sleep(1.1)
    relay(agent)
    agent.sendto(made.by_agent(plain), (HOME_AGENT, 434))
    wait_for("the replay", lambda: lab.counter("haRevocationsStale") == 2)
    assert len(lab.ask("show binding")["rows"]) == 1


def test_the_agent_left_behind_hears_of_it_and_reads_well_in_wireshark(lab: HomeAgentLab) -> None:
    lab.start()
    agent = lab.udp("away", AGENT, 434)
    registered = relay(agent)
    lab.net.ip("away", "address", "add", "10.3.1.6/24", "dev", "eth0")
    time.sleep(1.1)
    node = lab.udp("away", "10.3.1.6")
    udp = made.request(HOME_ADDRESS, "10.3.1.6", extensions=made.udp_request(0x80))
    node.sendto(udp, (HOME_AGENT, 434))
    moved = node.recv(2048)
    told, source = agent.recvfrom(2048)
    assert struct.unpack_from("!BBH", told) == (7, 0, 0x8000)
    acknowledge(agent, told, source)
    wait_for("the acknowledgment", lambda: lab.counter("haRevocationsAcknowledged") == 1)
    for found in dissect([registered, moved, told], "mip.type"):
        assert found["_ws.expert"] == []
        assert found["_ws.malformed"] == []
        assert len(found["mip.type"]) == 1
