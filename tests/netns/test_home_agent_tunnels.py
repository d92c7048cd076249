"""Tunnels of the home agent with real packets: GRE, minimal, UDP through a translator.

The translator is ``rt``: it masquerades 192.168.7.0/24, which is on the visited link too.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import GRE
from tests.helpers import handmade
from tests.helpers import handmade_extensions as made
from tests.helpers.home_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    SOURCE,
    HomeAgentLab,
)
from tests.helpers.namespaces import wait_for
from tests.helpers.udp_node import UdpNode

PRIVATE = "192.168.7.5"
OUTSIDE = "10.1.0.254"
"""The translator towards the home agent."""

pytestmark = pytest.mark.netns


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        yield built


def translate(lab: HomeAgentLab) -> None:
    """Give the mobile node a private address behind a masquerading router."""
    net = lab.net
    net.ip("rt", "address", "add", "192.168.7.254/24", "dev", "to-away")
    net.ip("away", "address", "add", f"{PRIVATE}/24", "dev", "eth0")
    rules = "table ip nat { chain post { type nat hook postrouting priority 100; "
    rules += "ip saddr 192.168.7.0/24 masquerade random;\n}\n}\n"
    net.run("rt", "nft", rules)


def encapsulate(protocol: int, inner: IP) -> bytes:
    """Payload of the outer IP header, made by scapy or by hand."""
    if protocol == 47:
        return bytes(GRE(proto=0x0800) / inner)
    # Minimal encapsulation (RFC 2004 3.1), source present.
    head = struct.pack(
        "!BBH4s4s", inner.proto, 0x80, 0, socket.inet_aton(inner.dst), socket.inet_aton(inner.src)
    )
    total = sum(struct.unpack("!6H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return (
        head[:2]
        + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
        + head[4:]
        + bytes(inner)[20:]
    )


@pytest.mark.parametrize(("flag", "protocol", "name"), [(0x08, 47, "gre"), (0x10, 55, "minimal")])
def test_both_ways_through_the_tunnel_asked_for_rfc2784_rfc2004(
    lab: HomeAgentLab, flag: int, protocol: int, name: str
) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", protocol)
    lab.register(client, flags=0x22 | flag)
    (row,) = lab.ask("show binding")["rows"]
    assert (row["encapsulation"], row["tunnel"], row["foreign_agent"]) == (name, "ip", "")
    lab.net.start("cn", "ping", "-c", "2", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    outer = IP(tunnel.recv(4096))
    assert (outer.src, outer.dst, outer.proto) == (HOME_AGENT, CARE_OF, protocol)
    if protocol == 47:
        inner = IP(bytes(outer[GRE].payload))
    else:
        payload = bytes(outer.payload)
        assert payload[:2] == b"\x01\x80"
        assert payload[4:12] == socket.inet_aton(HOME_ADDRESS) + socket.inet_aton(CORRESPONDENT)
        inner = IP(src=CORRESPONDENT, dst=HOME_ADDRESS, proto=1) / ICMP(payload[12:])
    assert (inner.src, inner.dst, inner[ICMP].type) == (CORRESPONDENT, HOME_ADDRESS, 8)
    receiver = lab.udp("cn", CORRESPONDENT, 7777)
    back = IP(src=HOME_ADDRESS, dst=CORRESPONDENT) / UDP(sport=5, dport=7777) / b"through"
    whole = IP(bytes(back))
    tunnel.sendto(encapsulate(protocol, whole), (HOME_AGENT, 0))
    assert receiver.recvfrom(100) == (b"through", (HOME_ADDRESS, 5))
    (row,) = lab.ask("show tunnel")["rows"]
    assert (row["encapsulation"], row["users"]) == (name, 1)
    assert row["received_packets"] == 1
    # Another encapsulation than the negotiated one is refused.
    wrong = lab.raw("away", 102 - protocol)
    wrong.sendto(encapsulate(102 - protocol, whole), (HOME_AGENT, 0))
    receiver.settimeout(0.3)
    with pytest.raises(TimeoutError):
        receiver.recv(100)


def test_the_encapsulation_outlives_the_daemon(lab: HomeAgentLab) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 47)
    lab.register(client, flags=0x22 | 0x08)
    lab.kill()
    lab.start()
    assert [row["encapsulation"] for row in lab.ask("show binding")["rows"]] == ["gre"]
    lab.net.start("cn", "ping", "-c", "2", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    assert IP(tunnel.recv(4096)).proto == 47


def echo_server(lab: HomeAgentLab) -> None:
    """A TCP server of the correspondent that sends back what it gets."""
    with lab.net.inside("cn"):
        listener = socket.create_server((CORRESPONDENT, 7000))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()


def register_udp(node: UdpNode, extensions: bytes = b"", **more: object) -> made.Reply:
    """Register through the node's socket and read the reply."""
    node.replies.clear()
    message = made.request(
        HOME_ADDRESS,
        PRIVATE,
        extensions=extensions or made.udp_request(),
        **more,  # type: ignore[arg-type]
    )
    node.send(message)
    wait_for("the reply", lambda: node.replies)
    return made.read_reply(node.replies[0])


def exchange(connection: socket.socket, size: int) -> None:
    """Send bytes and get the same back."""
    data = bytes(n % 251 for n in range(size))
    threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
    got = b""
    while len(got) < size:
        part = connection.recv(65536)
        assert part, "the connection was closed"
        got += part
    assert got == data


def test_t25_tcp_lives_in_a_udp_tunnel_through_a_translator_rfc3519(lab: HomeAgentLab) -> None:
    translate(lab)
    lab.settings = "nat_keepalive = 40"
    lab.start()
    echo_server(lab)
    with UdpNode(lab.net, "away", HOME_ADDRESS, HOME_AGENT, PRIVATE) as node:
        reply = register_udp(node)
        assert (reply.code, reply.lifetime_s) == (0, 60)
        assert reply.before == struct.pack("!BBBBHH", 44, 6, 0, 0, 0, 40)
        (row,) = lab.ask("show binding")["rows"]
        assert (row["care_of_address"], row["source_address"]) == (PRIVATE, OUTSIDE)
        assert row["tunnel"] == f"udp {OUTSIDE}:{row['source_port']}"
        assert row["source_port"] != node.port.getsockname()[1], "the translator changed the port"
        with lab.net.inside("away"):
            connection = socket.socket()
        with connection:
            connection.settimeout(10)
            connection.bind((HOME_ADDRESS, 0))
            connection.connect((CORRESPONDENT, 7000))
            exchange(connection, 300_000)
            # A keepalive: ICMP echo to the home agent through the tunnel (RFC 3519 4.9).
            ping = ["ping", "-q", "-c", "1", "-W", "2", "-I", HOME_ADDRESS, HOME_AGENT]
            assert " 1 received" in lab.net.run("away", *ping, check=False)
            # A new mapping, a new registration, the same connection (RFC 3519 4.10).
            time.sleep(1)
            assert register_udp(node).code == 0
            exchange(connection, 300_000)
    (tunnel,) = lab.ask("show tunnel")["rows"]
    assert tunnel["received_packets"] > 100


def test_t27_a_new_mapping_is_followed_by_the_next_registration_rfc3519_4_10(
    lab: HomeAgentLab,
) -> None:
    translate(lab)
    lab.start()
    client = lab.udp("away", PRIVATE)
    client.sendto(
        made.request(HOME_ADDRESS, PRIVATE, extensions=made.udp_request()), (HOME_AGENT, 434)
    )
    made.read_reply(client.recv(2048))
    (before,) = lab.ask("show binding")["rows"]
    other = lab.udp("away", PRIVATE)
    other.sendto(
        made.request(HOME_ADDRESS, PRIVATE, extensions=made.udp_request()), (HOME_AGENT, 434)
    )
    made.read_reply(other.recv(2048))
    (after,) = lab.ask("show binding")["rows"]
    assert before["source_port"] != after["source_port"]
    lab.net.start("cn", "ping", "-c", "2", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    data, source = other.recvfrom(2048)
    assert source == (HOME_AGENT, 434)
    assert data[:4] == b"\x04\x04\0\0"
    inner = IP(data[4:])
    assert (inner.src, inner.dst, inner[ICMP].type) == (CORRESPONDENT, HOME_ADDRESS, 8)


@pytest.mark.parametrize(
    ("settings", "flags", "code", "answer"),
    [
        ("", 0x80, 0, b"\x2c\x06\0\0\x80\0\0\0"),
        ("", 0, 0, b"\x2c\x06\0\x40\0\0\0\0"),
        ("nat_force = false", 0x80, 129, b""),
    ],
    ids=["forced", "declined", "forbidden"],
)
def test_t26_without_a_translator_force_decides_rfc3519_4_6(
    lab: HomeAgentLab, settings: str, flags: int, code: int, answer: bytes
) -> None:
    lab.settings = settings
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    client.sendto(
        made.request(HOME_ADDRESS, CARE_OF, extensions=made.udp_request(flags)), (HOME_AGENT, 434)
    )
    reply = made.read_reply(client.recv(2048))
    assert (reply.code, reply.before) == (code, answer)
    if code:
        return
    lab.net.start("cn", "ping", "-c", "2", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    if flags:
        assert client.recv(2048)[:4] == b"\x04\x04\0\0"
    else:
        assert IP(tunnel.recv(2048)).proto == 4


def keepalive(source: str = HOME_ADDRESS, destination: str = HOME_AGENT) -> bytes:
    """An ICMP echo request as tunnel data."""
    inner = IP(src=source, dst=destination) / ICMP(type=8, id=7, seq=1) / b"keep"
    return b"\x04\x04\0\0" + bytes(inner)


def test_t28_half_bound_until_the_first_keepalive_and_forgeries_bind_nothing_sec47(
    lab: HomeAgentLab,
) -> None:
    translate(lab)
    lab.start()
    relay, node = lab.udp("away", PRIVATE), lab.udp("away", PRIVATE)
    relay.sendto(
        made.request(HOME_ADDRESS, PRIVATE, extensions=made.udp_request(0x40)), (HOME_AGENT, 434)
    )
    assert made.read_reply(relay.recv(2048)).code == 0
    (row,) = lab.ask("show binding")["rows"]
    assert row["tunnel"] == f"udp {OUTSIDE}:?"
    # Another source address, another inner source or destination: nothing is bound.
    stranger = lab.udp("away", CARE_OF)
    stranger.sendto(keepalive(), (HOME_AGENT, 434))
    node.sendto(keepalive(source="10.1.0.6"), (HOME_AGENT, 434))
    node.sendto(keepalive(destination=CORRESPONDENT), (HOME_AGENT, 434))
    time.sleep(0.3)
    (row,) = lab.ask("show binding")["rows"]
    assert row["tunnel"] == f"udp {OUTSIDE}:?"
    node.sendto(keepalive(), (HOME_AGENT, 434))

    def bound() -> str:
        (row,) = lab.ask("show binding")["rows"]
        return "" if row["tunnel"].endswith("?") else str(row["tunnel"])

    first = wait_for("the port", bound)
    assert lab.counter("haFirstKeepalives") == 1
    lab.net.start("cn", "ping", "-c", "2", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    data = node.recv(2048)
    assert data[:4] == b"\x04\x04\0\0"
    # The first wins: another port of the same translator changes nothing.
    relay.sendto(keepalive(), (HOME_AGENT, 434))
    time.sleep(0.2)
    assert bound() == first


def test_plain_registrations_go_on_beside_the_engines_socket(lab: HomeAgentLab) -> None:
    lab.start()
    client = lab.udp("away", CARE_OF)
    for _ in range(3):
        assert lab.exchange(client, handmade.request(HOME_ADDRESS, CARE_OF)).code == 0
        client.sendto(b"\x04\x04\0\0" + bytes(20), (HOME_AGENT, 434))
        time.sleep(1.1)
    assert lab.counter("haUnexpectedMessageType") == 0


def test_what_happens_can_be_watched_and_the_busiest_minute_is_told(lab: HomeAgentLab) -> None:
    lab.start()
    run = "from fastmip.runtime.cli.main import main; main()"
    command = [sys.executable, "-c", run, "debug", "datagram", "registered", "--json"]
    command += ["--count", "3", "--socket", str(lab.socket_path)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    client = lab.udp("away", CARE_OF)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watcher:

        def seen() -> bool:
            lab.exchange(client, handmade.request(HOME_ADDRESS, CARE_OF))
            return watcher.poll() is not None

        wait_for("three events", seen, 20)
        output, _ = watcher.communicate()
    assert watcher.returncode == 0
    events = [json.loads(line) for line in output.splitlines()]
    assert {"datagram-received", "datagram-sent"} <= {event["event"] for event in events}
    (sent,) = [e for e in events if e["event"] == "datagram-sent"][:1]
    assert (sent["kind"], sent["peer"], sent["code"]) == ("registration-reply", CARE_OF, 0)
    rows = {row["counter"]: row for row in lab.ask("show traffic")["rows"]}
    row = rows["haRegRequestsReceived"]
    assert 0 < row["most_in_a_minute"] <= row["value"]
    assert row["when"].startswith("20")
    assert "most_in_a_minute" not in rows["haBindings"]


def test_udp_tunnels_beside_a_foreign_agent_in_the_same_daemon(lab: HomeAgentLab) -> None:
    lab.more = ["[foreign_agent]", 'interfaces = ["eth0"]']
    lab.start()
    assert {"foreign-agent", "home-agent"} <= set(lab.ask("status")["roles"].split(", "))
    client = lab.udp("away", CARE_OF)
    client.sendto(
        made.request(HOME_ADDRESS, CARE_OF, extensions=made.udp_request(0x80)), (HOME_AGENT, 434)
    )
    assert made.read_reply(client.recv(2048)).before[3] == 0
    lab.net.start("cn", "ping", "-c", "2", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    assert client.recv(2048)[:4] == b"\x04\x04\0\0"
