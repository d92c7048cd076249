"""The home agent daemon among stock kernels; packets and messages judged by others."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from tests.helpers import handmade, handmade_extensions
from tests.helpers.home_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_HOST,
    RUN,
    SOURCE,
    HomeAgentLab,
)
from tests.helpers.namespaces import wait_for

UNSPECIFIED = str(ipaddress.IPv4Address(0))

pytestmark = pytest.mark.netns


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        yield built


def encapsulated(raw: socket.socket) -> IP:
    """The next IP-in-IP packet that arrives."""
    return IP(raw.recv(4096))


def start_ping(lab: HomeAgentLab, where: str, address: str) -> subprocess.Popen[str]:
    return lab.net.start(where, "ping", "-c", "3", "-i", "0.2", "-W", "1", address)


def test_traffic_from_a_correspondent_follows_the_node_rfc5944_4_2_3(lab: HomeAgentLab) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client)
    start_ping(lab, "cn", HOME_ADDRESS)
    outer = encapsulated(tunnel)
    assert (outer.src, outer.dst, outer.proto) == (HOME_AGENT, CARE_OF, 4)
    assert (outer.payload.src, outer.payload.dst) == (CORRESPONDENT, HOME_ADDRESS)
    assert outer[ICMP].type == 8
    assert len(outer) == outer.len == 20 + outer.payload.len
    rebuilt = IP(bytes(outer))
    del rebuilt.chksum
    assert IP(bytes(rebuilt)).chksum == outer.chksum


def test_a_reverse_tunnelled_packet_reaches_the_correspondent_rfc3024(lab: HomeAgentLab) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client)
    receiver = lab.udp("cn", CORRESPONDENT, 7777)
    inner = IP(src=HOME_ADDRESS, dst=CORRESPONDENT) / UDP(sport=5, dport=7777) / b"through"
    tunnel.sendto(bytes(inner), (HOME_AGENT, 0))
    assert receiver.recvfrom(100) == (b"through", (HOME_ADDRESS, 5))
    forged = IP(src="10.1.0.6", dst=CORRESPONDENT) / UDP(sport=5, dport=7777) / b"forged"
    tunnel.sendto(bytes(forged), (HOME_AGENT, 0))
    tunnel.sendto(bytes(inner), (HOME_AGENT, 0))
    assert receiver.recvfrom(100)[0] == b"through"


def test_a_reverse_tunnel_that_was_not_granted_is_refused_rfc3024_4_3_2(
    lab: HomeAgentLab,
) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client, flags=0x20)
    receiver = lab.udp("cn", CORRESPONDENT, 7777)
    inner = IP(src=HOME_ADDRESS, dst=CORRESPONDENT) / UDP(sport=5, dport=7777) / b"no"
    tunnel.sendto(bytes(inner), (HOME_AGENT, 0))
    rows = wait_for(
        "a drop", lambda: [r for r in lab.ask("show errors")["rows"] if "drop" in r["verdict"]]
    )
    assert rows[0]["packets"] == 1
    receiver.settimeout(0.2)
    with pytest.raises(TimeoutError):
        receiver.recv(100)


def test_home_hosts_learn_the_home_agent_when_the_node_leaves_rfc5944_4_6(
    lab: HomeAgentLab,
) -> None:
    net = lab.net
    net.ip("mn", "link", "set", "eth0", "up")
    assert lab.ping("hh", HOME_ADDRESS)
    assert lab.neighbour("hh", HOME_ADDRESS) == lab.mac("mn")
    lab.start()
    net.ip("mn", "link", "set", "eth0", "down")
    watcher = lab.packet("hh", "eth0", 0x0806)
    lab.register(lab.udp("away", CARE_OF))
    wait_for("the new address", lambda: lab.neighbour("hh", HOME_ADDRESS) == lab.mac("ha"))
    announcement = _next_announcement(watcher)
    assert (announcement.dst, announcement.src) == ("ff:ff:ff:ff:ff:ff", lab.mac("ha"))
    assert announcement[ARP].op == 1
    assert announcement[ARP].hwsrc == lab.mac("ha")
    # It is repeated, and a host without an entry gets an answer.
    assert _next_announcement(watcher)[ARP].hwsrc == lab.mac("ha")
    net.ip("hh", "neighbour", "flush", "all")
    tunnel = lab.raw("away", 4)
    start_ping(lab, "hh", HOME_ADDRESS)
    assert encapsulated(tunnel).payload.src == HOME_HOST
    assert lab.neighbour("hh", HOME_ADDRESS) == lab.mac("ha")


def test_a_returning_node_gets_its_address_back_in_the_rfc_order_rfc5944_4_6(
    lab: HomeAgentLab,
) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    lab.ping("hh", HOME_ADDRESS)
    assert lab.neighbour("hh", HOME_ADDRESS) == lab.mac("ha")
    lab.return_home()
    watcher = lab.packet("hh", "eth0", 0x0806)
    listener = lab.packet("mn", "eth0", 0x0806)
    own = bytes.fromhex(lab.mac("mn").replace(":", ""))
    announce = Ether(src=own, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=own, psrc=HOME_ADDRESS, pdst=HOME_ADDRESS
    )
    listener.send(bytes(announce))
    # Neither the announcement nor a probe of the node itself may be answered.
    probe = Ether(src=own, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=own, psrc=UNSPECIFIED, pdst=HOME_ADDRESS
    )
    listener.send(bytes(probe))
    wait_for("both are ignored", lambda: lab.counter("arp-own-requests-ignored") == 2)
    client = lab.udp("mn", HOME_ADDRESS)
    reply = lab.exchange(client, handmade.request(HOME_ADDRESS, HOME_ADDRESS, lifetime_s=0))
    assert (reply.code, reply.lifetime_s) == (0, 0)
    wait_for("direct delivery", lambda: lab.neighbour("hh", HOME_ADDRESS) == lab.mac("mn"))
    assert lab.ping("hh", HOME_ADDRESS)
    assert lab.ping("cn", HOME_ADDRESS)
    assert lab.ping("ha", HOME_ADDRESS)
    assert lab.neighbour("hh", HOME_ADDRESS) == lab.mac("mn")
    frames = _frames(watcher)
    of_agent = [f for f in frames if f.src == lab.mac("ha") and f[ARP].psrc == HOME_ADDRESS]
    assert of_agent, "the home agent announces too"
    assert all(f[ARP].hwsrc == lab.mac("mn") and f[ARP].op == 1 for f in of_agent)
    answers = [f for f in _frames(listener) if f[ARP].op == 2 and f[ARP].psrc == HOME_ADDRESS]
    assert not [f for f in answers if f.src == lab.mac("ha")]


def _next_announcement(watcher: socket.socket) -> Ether:
    """The next gratuitous ARP for the home address; other ARP goes by."""
    while True:
        frame = Ether(watcher.recv(200))
        if frame[ARP].psrc == frame[ARP].pdst == HOME_ADDRESS:
            return frame


def _frames(watcher: socket.socket) -> list[Ether]:
    watcher.setblocking(False)
    frames = []
    while True:
        try:
            frames.append(Ether(watcher.recv(200)))
        except BlockingIOError:
            return frames


def test_a_denied_request_at_home_is_answered_on_the_home_link_rfc5944_3_8_3_1(
    lab: HomeAgentLab,
) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    lab.net.ip("mn", "link", "set", "eth0", "up")
    client, tunnel = lab.udp("mn", HOME_ADDRESS), lab.raw("away", 4)
    late = handmade.request(
        HOME_ADDRESS, HOME_ADDRESS, lifetime_s=0, identification=handmade.timestamp(-60)
    )
    reply = lab.exchange(client, late)
    assert reply.code == 133
    assert lab.ask("show binding")["rows"][0]["care_of_address"] == CARE_OF
    tunnel.settimeout(0.2)
    with pytest.raises(TimeoutError):
        tunnel.recv(100)
    lab.net.ip("hh", "neighbour", "flush", "all")
    assert lab.counter("arp-gratuitous-sent") <= 3, "ARP moves on acceptance only"


def test_a_host_that_never_left_home_is_never_disturbed(lab: HomeAgentLab) -> None:
    net = lab.net
    assert lab.ping("cn", HOME_HOST)
    lab.start()
    done = net.start("cn", "ping", "-c", "40", "-i", "0.02", "-W", "1", HOME_HOST)
    client = lab.udp("away", CARE_OF)
    for lifetime in (300, 0, 300):
        reply = lab.exchange(client, handmade.request(HOME_ADDRESS, CARE_OF, lifetime_s=lifetime))
        assert reply.code == 0
    assert lab.ping("ha", HOME_HOST, 5)
    output, _ = done.communicate(timeout=20)
    assert " 40 received" in output
    assert lab.neighbour("rt", HOME_HOST) == lab.mac("hh")
    assert lab.neighbour("ha", HOME_HOST) == lab.mac("hh")


def test_a_request_to_a_broadcast_address_names_us_rfc5944_3_8_2_1(lab: HomeAgentLab) -> None:
    lab.net.ip("mn", "link", "set", "eth0", "up")
    lab.start()
    client = lab.udp("mn", HOME_ADDRESS)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    message = handmade.request(HOME_ADDRESS, HOME_ADDRESS, home_agent="10.1.0.255", lifetime_s=0)
    reply = lab.exchange(client, message, "10.1.0.255")
    assert (reply.code, reply.home_agent) == (136, handmade.address(HOME_AGENT))


def test_the_broadcast_address_of_another_link_is_no_unicast_rfc5944_3_8_2_1(
    lab: HomeAgentLab,
) -> None:
    lab.net.wire("ha", "eth1", "cn", "to-ha")
    lab.net.ip("ha", "address", "add", "10.7.0.1/24", "dev", "eth1")
    lab.net.ip("cn", "address", "add", "10.7.0.9/24", "dev", "to-ha")
    lab.start()
    client = lab.udp("cn", "10.7.0.9")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    request = handmade.request(HOME_ADDRESS, "10.7.0.9")
    assert lab.exchange(client, request, "10.7.0.255").code == 136
    assert lab.ask("show binding")["rows"] == []
    client.sendto(handmade.request(HOME_ADDRESS, "10.7.0.9"), ("10.7.0.1", 434))
    data, source = client.recvfrom(2048)
    assert (data[1], source) == (0, ("10.7.0.1", 434)), "any unicast address of ours will do"


def test_a_bad_udp_checksum_is_dropped_and_none_is_accepted_rfc5944_3_1(
    lab: HomeAgentLab,
) -> None:
    lab.start()
    client = lab.udp("away", CARE_OF, 5005)
    with lab.net.inside("away"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with sender:
        message = handmade.request(HOME_ADDRESS, CARE_OF)
        bad = IP(src=CARE_OF, dst=HOME_AGENT) / UDP(sport=5005, dport=434, chksum=1) / message
        sender.sendto(bytes(bad), (HOME_AGENT, 0))
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(100)
        assert lab.counter("port-434-received") == 0
        none = IP(src=CARE_OF, dst=HOME_AGENT) / UDP(sport=5005, dport=434, chksum=0) / message
        sender.sendto(bytes(none), (HOME_AGENT, 0))
        client.settimeout(3)
        assert handmade.read_reply(client.recv(100)).code == 0


def test_any_bytes_on_port_434_leave_the_daemon_serving(lab: HomeAgentLab) -> None:
    lab.start()
    client = lab.udp("away", CARE_OF)
    whole = handmade.request(HOME_ADDRESS, CARE_OF)
    junk = [whole[:n] for n in range(len(whole))]
    junk += [bytes([kind]) * 30 for kind in range(256)]
    junk += [whole[:24] + bytes(5000), whole[:24] + b"\x20\xff" + whole[26:], os.urandom(60000)]
    for message in junk:
        client.sendto(message, (HOME_AGENT, 434))
    lab.register(client)
    assert "Traceback" not in lab.log()
    # The empty datagram and every other were counted; tunnel data (type 4) goes to the engine.
    data = sum(message[:1] == b"\x04" for message in junk)
    assert data
    assert lab.counter("port-434-received") == len(junk) - data + 1
    assert lab.counter("io-udp-read") == data


def test_a_clean_stop_leaves_exactly_what_was_there(lab: HomeAgentLab) -> None:
    before = lab.kernel_state()
    lab.net.sysctl("ha", conf__eth0__rp_filter=1)
    strict = lab.kernel_state()
    lab.start()
    assert lab.kernel_state() != strict
    lab.register(lab.udp("away", CARE_OF))
    assert lab.stop() == 0
    assert lab.kernel_state() == strict
    assert not list(lab.socket_path.parent.iterdir())
    lab.net.sysctl("ha", conf__eth0__rp_filter=0)
    assert lab.kernel_state() == before


def test_a_start_after_kill_9_removes_what_was_left_and_serves(lab: HomeAgentLab) -> None:
    before = lab.kernel_state()
    lab.net.sysctl("ha", conf__eth0__rp_filter=1)
    lab.start()
    running = lab.kernel_state()
    lab.kill()
    assert "1434:" in lab.kernel_state()[0], "a rule is left behind"
    lab.start()
    again = lab.kernel_state()
    assert [re.sub(r"^\d+:", "", line) for line in again[0].splitlines()] == [
        re.sub(r"^\d+:", "", line) for line in running[0].splitlines()
    ]
    assert "leftovers-undone" in lab.log()
    assert lab.stop() == 0
    lab.net.sysctl("ha", conf__eth0__rp_filter=0)
    assert lab.kernel_state() == before


def test_acknowledged_bindings_survive_kill_9_in_a_storm(lab: HomeAgentLab) -> None:
    lab.hosts = [f"10.1.0.{n}" for n in range(60, 250)]
    lab.start()
    client = lab.udp("away", CARE_OF)
    client.setblocking(True)
    acknowledged: dict[int, tuple[int, bytes]] = {}
    sent: dict[int, bytes] = {}
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            for host in lab.hosts:
                mark = handmade.timestamp()
                message = handmade.request(host, CARE_OF, identification=mark)
                sent[mark] = message
                client.sendto(message, (HOME_AGENT, 434))
            time.sleep(0.02)  # pacing, not waiting: some thousand requests a second

    sender = threading.Thread(target=storm)
    sender.start()
    try:
        while len(acknowledged) < len(lab.hosts):
            _collect(client, sent, acknowledged)
        for _ in range(500):
            _collect(client, sent, acknowledged)
        lab.kill()
    finally:
        stop.set()
        sender.join()
    client.settimeout(0.2)
    while True:
        try:
            _collect(client, sent, acknowledged)
        except TimeoutError:
            break
    lab.start()
    rows = {row["home_address"]: row for row in lab.ask("show binding", limit=1000)["rows"]}
    for home_address, (mark, _) in acknowledged.items():
        text = socket.inet_ntoa(home_address.to_bytes(4, "big"))
        assert int(rows[text]["identification"], 16) >= mark
    tunnel = lab.raw("away", 4)
    tunnel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with lab.udp("cn", CORRESPONDENT) as speaker:
        for host in lab.hosts:
            speaker.sendto(b"are you there", (host, 9))
    reached: set[str] = set()
    while len(reached) < len(lab.hosts):
        reached.add(encapsulated(tunnel).payload.dst)
    assert reached == set(lab.hosts)
    # A replayed request is not accepted again, whatever the crash made us forget.
    client.settimeout(3)
    for mark, message in list(acknowledged.values())[:3]:
        older = min(m for m, known in sent.items() if known[4:8] == message[4:8])
        assert older < mark
        reply = lab.exchange(client, sent[older])
        assert reply.code == 133


def _collect(
    client: socket.socket, sent: dict[int, bytes], acknowledged: dict[int, tuple[int, bytes]]
) -> None:
    reply = handmade.read_reply(client.recv(200))
    if reply.code == 0 and reply.identification in sent:
        message = sent[reply.identification]
        home_address = int.from_bytes(message[4:8], "big")
        known = acknowledged.get(home_address, (0, b""))
        acknowledged[home_address] = max(known, (reply.identification, message))


def test_the_reply_leaves_after_fdatasync(lab: HomeAgentLab) -> None:
    trace = lab.folder / "trace"
    calls = "trace=fdatasync,fsync,sendmsg,recvmsg"
    lab.start("strace", "-f", "-tt", "-e", calls, "-o", str(trace))
    client = lab.udp("away", CARE_OF)
    for _ in range(5):
        lab.register(client)
    assert lab.daemon is not None
    children = Path(f"/proc/{lab.daemon.pid}/task/{lab.daemon.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    lab.daemon.wait(20)
    steps = []
    for line in trace.read_text().splitlines():
        if "recvmsg(" in line and "htons(434)" not in line and "sin_addr=inet_addr" in line:
            steps.append("request")
        elif re.search(r"fdatasync\(|fdatasync resumed", line) and line.endswith("= 0"):
            steps.append("durable")
        elif "sendmsg(" in line and f'inet_addr("{CARE_OF}")' in line:
            steps.append("reply")
    exchanges = [s for s in steps if s in {"request", "reply"}]
    assert exchanges == ["request", "reply"] * 5
    positions = [n for n, step in enumerate(steps) if step == "reply"]
    for position in positions:
        asked = max(n for n in range(position) if steps[n] == "request")
        assert "durable" in steps[asked:position], steps


def test_a_locked_store_denies_with_130_keeps_forwarding_and_recovers(lab: HomeAgentLab) -> None:
    lab.hosts = [HOME_ADDRESS, "10.1.0.6"]
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client)
    blocker = sqlite3.connect(lab.store, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    reply = lab.exchange(client, handmade.request("10.1.0.6", CARE_OF))
    assert reply.code == 130
    assert "locked" in lab.ask("status")["store_state"]
    start_ping(lab, "cn", HOME_ADDRESS)
    assert encapsulated(tunnel).payload.dst == HOME_ADDRESS
    blocker.execute("ROLLBACK")
    blocker.close()
    lab.register(client, "10.1.0.6")
    assert lab.ask("status")["store_state"] == "ok"


POOLED = f"""\
[[home_agent.pool]]
name = "guests"
first = "10.1.0.40"
last = "10.1.0.41"
[[home_agent.host]]
nai = "guest@example.org"
[[home_agent.host.association]]
spi = 256
key = "{handmade.KEY.hex()}"
"""


def test_hosts_come_and_go_on_the_run(lab: HomeAgentLab) -> None:
    lab.more = [POOLED]
    lab.start()
    client = lab.udp("away", CARE_OF)
    client.settimeout(0.3)
    message = handmade.request("10.1.0.9", CARE_OF)
    client.sendto(message, (HOME_AGENT, 434))
    with pytest.raises(TimeoutError):
        client.recv(100)  # a stranger gets no word
    aaa = {"spi": 512, "key_hex": handmade.KEY[::-1].hex()}
    added = {"spi": 256, "key_hex": handmade.KEY.hex(), "nai": "mn@example.org", "aaa": aaa}
    lab.ask("host add", home_address="10.1.0.9", **added)
    with pytest.raises(AssertionError, match="is the NAI of"):
        lab.ask("host add", home_address="10.1.0.10", **added)
    client.settimeout(3)
    lab.register(client, "10.1.0.9")
    listed = {row["home_address"]: row["origin"] for row in lab.ask("host list")["rows"]}
    assert listed == {HOME_ADDRESS: "file", "10.1.0.9": "directory", UNSPECIFIED: "file"}
    # One without a home address has one out of the pool (RFC 2794 4), over the kill below, too.
    guest = struct.pack("!BB", 131, 17) + b"guest@example.org"
    asking = handmade_extensions.request(UNSPECIFIED, CARE_OF, extensions=guest)
    client.sendto(asking, (HOME_AGENT, 434))
    reply = client.recv(2048)
    assert handmade_extensions.read_reply(reply)[:3] == (0, 300, guest)
    assert reply[4:8] == socket.inet_aton("10.1.0.40")
    lab.ask("clear binding", home_address="10.1.0.40")
    assert "is kept for" in lab.request("host add", home_address="10.1.0.40", **added)["error"]
    secure = lab.ask("show secure")["rows"]
    assert [row["spi"] for row in secure if row["home_address"] == "10.1.0.9"] == [256, 512]
    assert handmade.KEY.hex() not in str(secure)
    assert handmade.KEY[::-1].hex() not in str(secure)
    lab.kill()
    lab.start()
    assert [row["home_address"] for row in lab.ask("show binding")["rows"]] == ["10.1.0.9"]
    pool, kept = lab.ask("show pool")["rows"]
    assert (pool["pool"], pool["used"], pool["free"]) == ("guests", 1, 1)
    assert (kept["home_address"], kept["nai"]) == ("10.1.0.40", "guest@example.org")
    assert kept["state"] == "kept"
    # Known by its identifier alone, it is told the same address (RFC 2794 4).
    name = struct.pack("!BB", 131, 14) + b"mn@example.org"
    nameless = handmade_extensions.request(UNSPECIFIED, CARE_OF, extensions=name)
    client.sendto(nameless, (HOME_AGENT, 434))
    reply = client.recv(2048)
    assert handmade_extensions.read_reply(reply)[:3] == (0, 300, name)
    assert reply[4:8] == socket.inet_aton("10.1.0.9")
    assert [row["home_address"] for row in lab.ask("show binding")["rows"]] == ["10.1.0.9"]
    lab.ask("host remove", home_address="10.1.0.9")
    wait_for("the binding to go", lambda: not lab.ask("show binding")["rows"])
    wait_for("the engine to know", lambda: lab.ask("status")["bindings"] == 0)
    client.settimeout(0.3)
    client.sendto(handmade.request("10.1.0.9", CARE_OF), (HOME_AGENT, 434))
    with pytest.raises(TimeoutError):
        client.recv(100)
    refused = lab.request("host remove", home_address=HOME_ADDRESS)
    assert not refused["ok"]
    assert "configuration file" in refused["error"]


def test_a_reload_applies_the_difference_or_refuses_the_whole_file(lab: HomeAgentLab) -> None:
    daemon = lab.start()
    client = lab.udp("away", CARE_OF)
    lab.register(client)
    lab.hosts = ["10.1.0.6"]
    lab.settings = "max_lifetime = 60"
    lab.write_config()
    planned = lab.ask("reload", dry_run=True)["changes"]
    assert lab.ask("show binding")["rows"], "a dry run changes nothing"
    assert any("max_lifetime" in change for change in planned)
    daemon.send_signal(signal.SIGHUP)
    wait_for("the old host's binding to go", lambda: not lab.ask("show binding")["rows"])
    reply = lab.exchange(client, handmade.request("10.1.0.6", CARE_OF, lifetime_s=600))
    assert (reply.code, reply.lifetime_s) == (0, 60)
    lab.settings = 'max_lifetime = 90\ntunnel_device = "other0"'
    lab.write_config()
    refused = lab.request("reload")
    assert not refused["ok"]
    assert "tunnel_device" in refused["error"]
    assert "restart" in refused["error"]
    reply = lab.exchange(client, handmade.request("10.1.0.6", CARE_OF, lifetime_s=600))
    assert reply.lifetime_s == 60, "nothing of a refused file is in force"


def test_clear_binding_withdraws_it(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    lab.ask("clear binding", home_address=HOME_ADDRESS)
    wait_for("the binding to go", lambda: not lab.ask("show binding")["rows"])
    assert "has no binding" in lab.request("clear binding", home_address=HOME_ADDRESS)["error"]
    tunnel = lab.raw("away", 4)
    lab.ping("cn", HOME_ADDRESS)
    tunnel.settimeout(0.2)
    with pytest.raises(TimeoutError):
        tunnel.recv(100)


def test_a_gateway_on_the_home_link_is_not_looked_for_in_the_tunnel(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    lab.net.ip("ha", "route", "del", "default")
    lab.net.ip("ha", "route", "add", "default", "via", "10.1.0.254")  # no word of a device
    assert " dev eth0" in lab.net.run("ha", "ip", "route", "show", "default")
    assert " 0% packet loss" in lab.net.run("ha", "ping", "-c", "1", "-W", "2", CORRESPONDENT)


def test_a_home_link_that_was_down_or_renamed_serves_again(lab: HomeAgentLab) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client)
    for name in ("eth0", "lan0", "eth0"):
        old = lab.net.run("ha", "ls", "/sys/class/net")
        before = "lan0" if "lan0" in old else "eth0"
        lab.net.ip("ha", "link", "set", before, "down")
        if name != before:
            lab.net.ip("ha", "link", "set", before, "name", name)
        lab.net.ip("ha", "link", "set", name, "up")
        lab.net.ip("ha", "route", "add", "default", "via", "10.1.0.254")
    # The router's bridge drops packets until its kernel has looked at the link again.
    wait_for("the bridge", lambda: lab.ping("away", HOME_AGENT), 20)
    lab.register(client)
    lab.net.ip("hh", "neigh", "flush", "all")
    start_ping(lab, "hh", HOME_ADDRESS)
    assert encapsulated(tunnel).payload.src == HOME_HOST


def test_what_others_take_from_the_tunnel_device_is_put_back(lab: HomeAgentLab) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client)
    lab.net.ip("ha", "link", "set", "fmha0", "down")  # takes our route along
    wait_for(
        "the route", lambda: "fmha0" in lab.net.run("ha", "ip", "route", "show", "table", "1434")
    )
    lab.net.ip("ha", "rule", "del", "priority", "1434")
    wait_for("the rule", lambda: "1434:" in lab.net.run("ha", "ip", "rule"))
    start_ping(lab, "cn", HOME_ADDRESS)
    assert encapsulated(tunnel).payload.src == CORRESPONDENT
    assert lab.log().count("change-restored") == 2
    assert lab.stop() == 0
    assert "1434" not in lab.net.run("ha", "ip", "rule")


def test_a_removed_tunnel_device_ends_the_daemon_with_a_reason(lab: HomeAgentLab) -> None:
    daemon = lab.start()
    lab.net.ip("ha", "link", "del", "fmha0")
    assert daemon.wait(20) == 1
    assert "fmha0 was removed while in use" in lab.log()
    assert "1434" not in lab.net.run("ha", "ip", "rule")


def test_what_only_the_operator_can_mend_is_a_trouble_in_status(lab: HomeAgentLab) -> None:
    lab.start()
    assert "troubles" not in lab.ask("status")
    lab.net.sysctl("ha", ip_forward=0)
    lab.net.ip("ha", "address", "del", "10.1.0.1/24", "dev", "eth0")
    lab.net.ip("ha", "link", "set", "eth0", "down")
    found = "address-missing, ip-forward-off, home-link-down"
    wait_for("the troubles", lambda: lab.ask("status").get("troubles") == found)
    lab.net.sysctl("ha", ip_forward=1)
    lab.net.ip("ha", "link", "set", "eth0", "up")
    lab.net.ip("ha", "address", "add", "10.1.0.1/24", "dev", "eth0")
    lab.net.ip("ha", "route", "add", "default", "via", "10.1.0.254")
    wait_for("better times", lambda: "troubles" not in lab.ask("status"))
    lab.register(lab.udp("away", CARE_OF))


def test_a_device_of_another_kind_by_the_tunnels_name_stops_the_start(lab: HomeAgentLab) -> None:
    lab.net.ip("ha", "link", "add", "fmha0", "type", "veth", "peer", "name", "other")
    with pytest.raises(AssertionError, match="another kind has this name"):
        lab.start()
    assert "fmha0" in lab.net.run("ha", "ip", "link")


def test_service_area_and_131_follow_a_reload(lab: HomeAgentLab) -> None:
    lab.settings = 'care_of_networks = ["10.99.0.0/16"]'
    lab.start()
    client = lab.udp("away", CARE_OF)
    assert lab.exchange(client, handmade.request(HOME_ADDRESS, CARE_OF)).code == 129
    lab.settings = 'care_of_networks = ["10.99.0.0/16", "10.3.0.0/16"]\n'
    lab.settings += "answer_bad_authentication = true"
    lab.write_config()
    assert lab.ask("reload")["changes"] == [
        "home_agent.care_of_networks: 10.99.0.0/16 -> 10.99.0.0/16, 10.3.0.0/16",
        "home_agent.answer_bad_authentication: False -> True",
    ]
    lab.register(client)
    time.sleep(1.1)  # a node is denied once a second
    wrong = handmade.request(HOME_ADDRESS, CARE_OF, key=bytes(16))
    assert lab.exchange(client, wrong).code == 131


def test_a_known_foreign_agent_must_prove_itself_rfc5944_3_5_4(lab: HomeAgentLab) -> None:
    key = bytes(range(40, 60))
    lab.more = [
        "[[home_agent.foreign_agent]]",
        f'address = "{CARE_OF}"',
        "[[home_agent.foreign_agent.association]]",
        "spi = 777",
        f'key = "{key.hex()}"',
    ]
    lab.start()
    client = lab.udp("away", CARE_OF)
    message = handmade.request(HOME_ADDRESS, CARE_OF, flags=0x02)
    client.sendto(message, (HOME_AGENT, 434))
    assert client.recv(2048)[1] == 132
    covered = handmade.request(HOME_ADDRESS, CARE_OF, flags=0x02) + struct.pack("!BBI", 34, 20, 777)
    client.sendto(covered + hmac.digest(key, covered, "md5"), (HOME_AGENT, 434))
    reply = client.recv(2048)
    assert reply[1] == 0
    assert reply[-22:-16] == struct.pack("!BBI", 34, 20, 777)
    assert hmac.digest(key, reply[:-16], "md5") == reply[-16:]
    shown = lab.ask("show secure")["rows"]
    assert [row["spi"] for row in shown if row.get("foreign_agent") == CARE_OF] == [777]
    assert key.hex() not in str(shown)


def test_missing_ip_forward_stops_the_start_with_a_remedy(lab: HomeAgentLab) -> None:
    lab.net.sysctl("ha", ip_forward=0)
    with pytest.raises(AssertionError, match="sysctl -w net"):
        lab.start()
    assert lab.daemon is not None
    assert lab.daemon.wait(5) == 1
    assert lab.log().count("\n") == 1, lab.log()


CLOCK_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
/* CLOCK_REALTIME plus the seconds in the file WALL_OFFSET; everything else as it is. */
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    const char *name = getenv("WALL_OFFSET");
    if (id == CLOCK_REALTIME && name) {
        FILE *file = fopen(name, "r");
        long offset = 0;
        if (file) {
            if (fscanf(file, "%ld", &offset) == 1) now->tv_sec += offset;
            fclose(file);
        }
    }
    return result;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc to interpose the clock")
@pytest.mark.parametrize("step_s", [-7200, 7200])
def test_steps_of_the_wall_clock_neither_expire_nor_prolong(lab: HomeAgentLab, step_s: int) -> None:
    source, library = lab.folder / "clock.c", lab.folder / "clock.so"
    offset = lab.folder / "offset"
    source.write_text(CLOCK_C)
    build = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(build, check=True)
    offset.write_text("0")
    lab.environment = {"LD_PRELOAD": str(library), "WALL_OFFSET": str(offset)}
    lab.hosts = [HOME_ADDRESS, "10.1.0.6"]
    lab.start()
    client = lab.udp("away", CARE_OF)
    lab.register(client, lifetime_s=300)
    lab.register(client, "10.1.0.6", lifetime_s=4)
    registered = time.monotonic()
    offset.write_text(str(step_s))
    stepped = handmade.request(HOME_ADDRESS, CARE_OF, identification=handmade.timestamp())
    # Forward: our timestamps are now too old for it. Back: it holds the time it had reached.
    assert lab.exchange(client, stepped).code == (133 if step_s > 0 else 0)
    remaining = {r["home_address"]: r["remaining_s"] for r in lab.ask("show binding")["rows"]}
    assert 290 <= remaining[HOME_ADDRESS] <= 300
    lab.kill()
    lab.start()  # the same boot: CLOCK_BOOTTIME decides
    remaining = {r["home_address"]: r["remaining_s"] for r in lab.ask("show binding")["rows"]}
    assert 290 <= remaining[HOME_ADDRESS] <= 300
    wait_for(
        "the short binding to end",
        lambda: [r["home_address"] for r in lab.ask("show binding")["rows"]] == [HOME_ADDRESS],
        10,
    )
    assert 3.0 <= time.monotonic() - registered <= 8.0
    wait_for("its removal", lambda: lab.ask("status")["bindings"] == 1)


def test_an_expired_binding_is_no_longer_answered_for(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF), lifetime_s=1)
    wait_for("the end of the binding", lambda: lab.ask("status")["bindings"] == 0, 10)
    lab.net.ip("hh", "neighbour", "flush", "all")
    assert not lab.ping("hh", HOME_ADDRESS)
    assert lab.neighbour("hh", HOME_ADDRESS) == ""


def test_simultaneous_bindings_get_a_copy_each_rfc5944_3_8_2_2(lab: HomeAgentLab) -> None:
    lab.net.ip("away", "address", "add", "10.3.1.6/24", "dev", "eth0")
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    lab.register(lab.udp("away", "10.3.1.6"), flags=0xA2)
    tunnel = lab.raw("away", 4)
    with lab.udp("cn", CORRESPONDENT) as speaker:
        speaker.sendto(b"twice", (HOME_ADDRESS, 9))
    copies = [encapsulated(tunnel), encapsulated(tunnel)]
    assert {outer.dst for outer in copies} == {CARE_OF, "10.3.1.6"}
    assert bytes(copies[0].payload) == bytes(copies[1].payload)
    rows = lab.ask("show binding")["rows"]
    assert [row["care_of_address"] for row in rows] == ["10.3.1.6", CARE_OF]
    # Without S the new care-of address replaces both.
    lab.register(lab.udp("away", CARE_OF))
    with lab.udp("cn", CORRESPONDENT) as speaker:
        speaker.sendto(b"once", (HOME_ADDRESS, 9))
    assert encapsulated(tunnel).dst == CARE_OF
    tunnel.settimeout(0.2)
    with pytest.raises(TimeoutError):
        tunnel.recv(100)


def test_two_away_nodes_reach_each_other_through_the_home_agent(lab: HomeAgentLab) -> None:
    lab.hosts = [HOME_ADDRESS, "10.1.0.6"]
    lab.net.ip("away", "address", "add", "10.3.1.6/24", "dev", "eth0")
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    lab.register(lab.udp("away", "10.3.1.6"), "10.1.0.6")
    tunnel = lab.raw("away", 4)
    inner = IP(src=HOME_ADDRESS, dst="10.1.0.6") / UDP(sport=5, dport=7) / b"hello"
    outer = IP(src=CARE_OF, dst=HOME_AGENT, proto=4) / inner
    with lab.net.inside("away"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with sender:
        sender.sendto(bytes(outer), (HOME_AGENT, 0))
    got = encapsulated(tunnel)
    assert (got.dst, got.payload.src, got.payload.dst) == ("10.3.1.6", HOME_ADDRESS, "10.1.0.6")


@pytest.mark.parametrize("workers", [2, 4])
def test_several_workers_share_the_nodes(lab: HomeAgentLab, workers: int) -> None:
    lab.workers = workers
    lab.hosts = [f"10.1.0.{n}" for n in range(60, 90)]
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    for host in lab.hosts:
        lab.register(client, host)
    with lab.udp("cn", CORRESPONDENT) as speaker:
        for host in lab.hosts:
            speaker.sendto(b"down", (host, 9))
    assert {encapsulated(tunnel).payload.dst for _ in lab.hosts} == set(lab.hosts)
    receiver = lab.udp("cn", CORRESPONDENT, 7777)
    for host in lab.hosts:
        inner = IP(src=host, dst=CORRESPONDENT) / UDP(sport=5, dport=7777) / b"up"
        tunnel.sendto(bytes(inner), (HOME_AGENT, 0))
    assert {receiver.recvfrom(100)[1][0] for _ in lab.hosts} == set(lab.hosts)
    balance = lab.ask("show errors")["summary"]
    assert balance["inputs"] + balance["generated"] + balance["copies"] == balance["verdicts"]
    assert lab.stop() == 0


def test_a_virtual_home_network_needs_no_home_link(lab: HomeAgentLab) -> None:
    lab.has_home_link = False
    lab.start()
    lab.net.ip("rt", "route", "add", "10.1.0.5/32", "via", HOME_AGENT)
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    start_ping(lab, "cn", HOME_ADDRESS)
    assert encapsulated(tunnel).payload.dst == HOME_ADDRESS
    lab.net.ip("hh", "neighbour", "flush", "all")
    assert not lab.ping("hh", HOME_ADDRESS)
    assert lab.neighbour("hh", HOME_ADDRESS) == "", "nobody answers ARP"


def test_a_damaged_record_costs_only_its_own_node_at_a_restart(lab: HomeAgentLab) -> None:
    lab.hosts = [f"10.1.0.{n}" for n in range(60, 70)]
    lab.start()
    client = lab.udp("away", CARE_OF)
    for host in lab.hosts:
        lab.register(client, host)
    lab.kill()
    connection = sqlite3.connect(lab.store)
    number = handmade.address("10.1.0.64")
    (record,) = connection.execute(
        "SELECT bindings FROM node WHERE home_address=?", (number,)
    ).fetchone()
    damaged = record[:4] + b"\xff\xff\xff\xff" + record[8:]  # no unicast care-of address
    connection.execute("UPDATE node SET bindings=? WHERE home_address=?", (damaged, number))
    connection.commit()
    connection.close()
    lab.start()
    assert lab.ask("status")["restored"] == 9
    assert "bindings-not-restored" in lab.log()
    tunnel = lab.raw("away", 4)
    with lab.udp("cn", CORRESPONDENT) as speaker:
        for host in lab.hosts:
            speaker.sendto(b"x", (host, 9))
    found = {encapsulated(tunnel).payload.dst for _ in range(9)}
    assert found == set(lab.hosts) - {"10.1.0.64"}
    lab.register(client, "10.1.0.64")


def test_more_bindings_than_room_are_restored_in_part_and_said_so(lab: HomeAgentLab) -> None:
    lab.hosts = [f"10.1.0.{n}" for n in range(60, 80)]
    lab.start()
    client = lab.udp("away", CARE_OF)
    for host in lab.hosts:
        lab.register(client, host)
    lab.kill()
    lab.max_bindings = 8
    lab.hosts = lab.hosts[:8]
    lab.start()
    assert lab.ask("status")["restored"] == 8
    assert "raise engine.max_bindings" in lab.log()


def test_only_one_daemon_uses_a_state_directory(lab: HomeAgentLab) -> None:
    lab.start()
    command = ["ip", "netns", "exec", lab.net.full("ha"), sys.executable, "-c", RUN]
    second = subprocess.run(
        [*command, str(lab.config)],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert second.returncode == 1
    assert "another fastmip daemon uses this directory" in second.stderr
    assert second.stderr.count("\n") == 1
    lab.register(lab.udp("away", CARE_OF))


def test_the_home_agents_own_services_reach_an_away_node(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    with lab.udp("ha", HOME_AGENT, 5353) as service:
        service.sendto(b"answer", (HOME_ADDRESS, 9))
    outer = encapsulated(tunnel)
    assert (outer.dst, outer.payload.src, outer.payload.dst) == (CARE_OF, HOME_AGENT, HOME_ADDRESS)
    inner = IP(src=HOME_ADDRESS, dst=HOME_AGENT) / UDP(sport=9, dport=5353) / b"question"
    with lab.udp("ha", HOME_AGENT, 5353) as service:
        tunnel.sendto(bytes(inner), (HOME_AGENT, 0))
        assert service.recvfrom(100) == (b"question", (HOME_ADDRESS, 9))


def test_one_daemon_is_home_agent_and_mobile_node_of_another_network(lab: HomeAgentLab) -> None:
    before = lab.kernel_state()
    lab.more = [
        "[mobile_node]",
        'home_address = "10.2.0.9"',
        'home_network = "10.2.0.0/24"',
        'home_agent = "10.2.0.1"',
        'interfaces = ["eth0"]',
        "[mobile_node.association]",
        "spi = 300",
        f'key = "{handmade.KEY.hex()}"',
    ]
    lab.start()
    assert {"home-agent", "mobile-node"} <= set(lab.ask("status")["roles"].split(", "))
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    start_ping(lab, "cn", HOME_ADDRESS)
    assert encapsulated(tunnel).payload.dst == HOME_ADDRESS
    roles = {row["role"] for row in lab.ask("show traffic")["rows"]}
    assert roles >= {"home-agent", "mobile-node"}
    assert lab.stop() == 0
    assert lab.kernel_state() == before


@pytest.mark.parametrize("everywhere", [1, 2])
@pytest.mark.parametrize("own", [0, 1, 2])
def test_reverse_path_filters_do_not_stop_traffic(
    lab: HomeAgentLab, everywhere: int, own: int
) -> None:
    lab.net.sysctl("ha", conf__all__rp_filter=everywhere, conf__eth0__rp_filter=own)
    before = lab.kernel_state()
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    start_ping(lab, "hh", HOME_ADDRESS)
    assert encapsulated(tunnel).payload.src == HOME_HOST
    start_ping(lab, "ha", HOME_ADDRESS)
    while encapsulated(tunnel).payload.src != HOME_AGENT:
        pass
    receiver = lab.udp("hh", HOME_HOST, 7777)
    inner = IP(src=HOME_ADDRESS, dst=HOME_HOST) / UDP(sport=5, dport=7777) / b"up"
    tunnel.sendto(bytes(inner), (HOME_AGENT, 0))
    assert receiver.recvfrom(100) == (b"up", (HOME_ADDRESS, 5))
    assert lab.ping("ha", HOME_HOST)
    assert lab.stop() == 0
    assert lab.kernel_state() == before
