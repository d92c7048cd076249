"""The foreign agent's daemon among real kernels: registrations relayed, packets both ways."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import handmade
from tests.helpers.foreign_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    SHARED_KEY,
    SHARED_SPI,
    D,
    ForeignAgentLab,
    G,
    M,
    T,
)
from tests.helpers.namespaces import wait_for

pytestmark = pytest.mark.netns

SHARED = f'spi = {SHARED_SPI}\nkey = "{SHARED_KEY.hex()}"\n'
PROVEN_HOME_AGENT = (
    f'[[foreign_agent.home_agent]]\naddress = "{HOME_AGENT}"\n'
    f"[[foreign_agent.home_agent.association]]\n{SHARED}"
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ForeignAgentLab]:
    with ForeignAgentLab(tmp_path) as built:
        yield built


def frames(opened: socket.socket, seconds: float = 0.3, kind: bytes = b"\x08\x00") -> list[bytes]:
    """Packets of an Ethernet type that a packet socket has seen, IPv4 by default."""
    found = []
    opened.settimeout(seconds)
    try:
        while True:
            frame = opened.recv(2048)
            if frame[12:14] == kind:
                found.append(frame[14:])
    except TimeoutError:
        return found


def carried_icmp(opened: socket.socket) -> list[bytes]:
    """ICMP packets seen but agents' advertisements and solicitations, which come when they want."""
    return [p for p in frames(opened) if p[9] == 1 and p[20] not in (9, 10)]


def test_t15_a_registration_through_the_foreign_agent_carries_packets(
    lab: ForeignAgentLab,
) -> None:
    """T15, T01: four messages; then the correspondent reaches the home address both ways."""
    lab.start()
    core = lab.packets("rt", "to-fa")
    lab.register(flags=0)
    [visitor] = lab.fa.ask("show visitor")["rows"]
    assert visitor["home_address"] == HOME_ADDRESS
    assert visitor["mac"] == lab.mac("mn")
    assert visitor["delivery"] == "triangular"
    assert lab.ping("cn", HOME_ADDRESS, 5)
    seen = frames(core)
    outer = [p for p in seen if p[9] == 4]
    assert {(p[12:16], p[16:20]) for p in outer} == {
        (socket.inet_aton(HOME_AGENT), socket.inet_aton(CARE_OF))
    }
    # Triangular: the answers go natively.
    assert any(p[9] == 1 and p[12:16] == socket.inet_aton(HOME_ADDRESS) for p in seen)


@pytest.mark.parametrize(("flags", "protocol"), [(T, 4), (T | M, 55), (T | G, 47)])
def test_t18_reverse_tunnelling_in_direct_delivery_style(
    lab: ForeignAgentLab, flags: int, protocol: int
) -> None:
    """T18: with T nothing of the visitor leaves the foreign agent unencapsulated."""
    lab.start()
    core = lab.packets("rt", "to-fa")
    lab.register(flags=flags)
    assert lab.ping("cn", HOME_ADDRESS, 3)
    assert lab.ping("mn", CORRESPONDENT, 3, "-I", HOME_ADDRESS)
    seen = frames(core)
    ends = {(p[9], p[12:16], p[16:20]) for p in seen if p[9] in (1, 4, 47, 55)}
    fa, ha = socket.inet_aton(CARE_OF), socket.inet_aton(HOME_AGENT)
    assert ends == {(protocol, fa, ha), (protocol, ha, fa)}


def test_t04_encapsulating_delivery_chooses_packet_by_packet(lab: ForeignAgentLab) -> None:
    """T04, T19: what the visitor encapsulates is reverse-tunnelled, the rest is routed."""
    lab.start()
    core = lab.packets("rt", "to-fa")
    client = lab.node()
    answer = lab.exchange(client, lab.request() + b"\x82\x00")
    assert answer[:2] == b"\x03\x00"
    [visitor] = lab.fa.ask("show visitor")["rows"]
    assert visitor["delivery"] == "encapsulating"
    lab.net.run("mn", "ping", "-c1", "-W1", "-I", HOME_ADDRESS, CORRESPONDENT, check=False)
    seen = frames(core)
    assert [p[9] for p in seen if p[12:16] == socket.inet_aton(HOME_ADDRESS)] == [1]
    inner = handmade_echo(HOME_ADDRESS, CORRESPONDENT)
    with lab.net.inside("mn"):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
    raw.bind((HOME_ADDRESS, 0))
    raw.sendto(inner, (CARE_OF, 0))
    raw.close()
    seen = frames(core)
    outer = [p for p in seen if p[9] == 4 and p[12:16] == socket.inet_aton(CARE_OF)]
    assert [p[32:40] for p in outer] == [inner[12:20]]


def handmade_echo(source: str, destination: str) -> bytes:
    """An IPv4 packet with an ICMP echo request."""
    from scapy.layers.inet import ICMP, IP  # noqa: PLC0415 - slow to load

    return bytes(IP(src=source, dst=destination) / ICMP() / b"fastmip")


def test_decapsulation_is_for_visitors_from_their_home_agent_only(lab: ForeignAgentLab) -> None:
    """RFC 5944 4.2.2: other inner destinations, outer sources, encapsulations die silently."""
    from scapy.layers.inet import ICMP, IP  # noqa: PLC0415

    lab.start()
    lab.register()
    air, core = lab.packets("mn", "eth0"), lab.packets("rt", "to-fa")
    inner = IP(src=CORRESPONDENT, dst=HOME_ADDRESS) / ICMP() / b"fastmip"
    stranger = IP(src=CORRESPONDENT, dst="10.1.0.77") / ICMP()
    wrong = [
        IP(src=CORRESPONDENT, dst=CARE_OF) / inner,  # not the home agent
        IP(src=HOME_AGENT, dst=CARE_OF) / stranger,  # not a visitor
        IP(src=HOME_AGENT, dst=CARE_OF, proto=55) / bytes(inner),  # not as negotiated
    ]
    with lab.net.inside("rt"):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw:
        for packet in wrong:
            raw.sendto(bytes(packet), (CARE_OF, 0))
        time.sleep(0.3)
        assert carried_icmp(air) == []
        assert carried_icmp(core) == []  # no ICMP error either
        raw.sendto(bytes(IP(src=HOME_AGENT, dst=CARE_OF) / inner), (CARE_OF, 0))
    assert [p for p in carried_icmp(air) if b"fastmip" in p] != []


def test_the_visitor_is_reached_by_its_recorded_mac_without_arp(lab: ForeignAgentLab) -> None:
    """RFC 5944 4.2.2: no broadcast ARP for a visitor, an entry that does not expire."""
    lab.start()
    air = lab.packets("fa", "air")
    lab.register()
    shown = lab.net.run("fa", "ip", "neigh", "show", HOME_ADDRESS)
    assert shown.split()[:6] == [HOME_ADDRESS, "dev", "air", "lladdr", lab.mac("mn"), "PERMANENT"]
    assert lab.ping("cn", HOME_ADDRESS, 2)
    target = socket.inet_aton(HOME_ADDRESS)
    asked = [f for f in frames(air, kind=b"\x08\x06") if f[24:28] == target]
    assert asked == []


def test_t17_deregistration_and_expiry_take_back_what_was_made(lab: ForeignAgentLab) -> None:
    lab.start()
    before = lab.kernel_state()
    client = lab.register()
    assert lab.kernel_state() != before
    time.sleep(1.1)
    data = lab.exchange(client, lab.request(lifetime_s=0, care_of=HOME_ADDRESS))
    assert data[1] == 0
    wait_for("the visitor's leave", lambda: lab.kernel_state() == before)
    lab.register(client, lifetime_s=2)
    assert lab.fa.ask("status")["visitors"] == 1
    wait_for("the lifetime's end", lambda: lab.fa.ask("status")["visitors"] == 0, 6)
    wait_for("the routes' end", lambda: lab.kernel_state() == before)
    assert lab.fa.counter("faVisitorsExpired") == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stop_and_death_leave_the_kernel_as_it_was(
    lab: ForeignAgentLab, how: signal.Signals
) -> None:
    before = lab.kernel_state()
    lab.start()
    lab.register()
    code = lab.fa.end(how)
    if how == signal.SIGKILL:
        assert code == -signal.SIGKILL
        lab.fa.start()
        lab.fa.end()
    assert lab.kernel_state() == before


def test_codes_of_denials(lab: ForeignAgentLab) -> None:
    """69, 72, 74, 76, 77, 194 from the daemon; each node is denied once a second at most."""
    lab.settings = 'encapsulations = ["ipip"]\nreverse_tunnel = "off"\nmax_lifetime = 600'
    lab.start()
    for message, code, ttl in [
        (lab.request(lifetime_s=601), 69, 255),
        (lab.request(flags=M), 72, 255),
        (lab.request(flags=T), 74, 255),
        (lab.request(flags=T), 76, 254),
        (lab.request(care_of="10.3.1.9", flags=0), 77, 255),
        (lab.request(home_agent="10.3.0.1", flags=0), 194, 255),
    ]:
        assert lab.code(message, ttl=ttl) == code
        time.sleep(1.05)
    assert [row["role"] for row in lab.fa.ask("show interface")["rows"]] == ["visitors", "tunnel"]
    rows = {row["counter"]: row for row in lab.fa.ask("show traffic")["rows"]}
    assert rows["maAdvertisementsSent"]["value"] > 0
    assert rows["cmiFaMnTooDistant"]["value"] == 1
    assert rows["cmiFaMnTooDistant"]["most_in_a_minute"] == 1
    assert rows["faRegRequestsRelayed"]["value"] == 0
    assert rows["io-tunnel-read"]["value"] == 0
    assert lab.fa.ask("show runtime")["summary"]["encapsulations"] == "ipip"


def test_a_home_agent_that_cannot_be_reached_is_told_by_its_code(lab: ForeignAgentLab) -> None:
    """80-82 from ICMP errors of the core, 78 when nothing comes back."""
    lab.start_foreign_agent()
    lab.net.ip("rt", "route", "add", "unreachable", "10.7.1.0/24")
    lab.net.ip("rt", "route", "add", "blackhole", "10.7.2.0/24")
    lab.net.ip("fa", "route", "add", "unreachable", "10.7.3.0/24")
    assert lab.code(lab.request(home_agent="10.7.1.1")) == 81
    time.sleep(1.05)
    assert lab.code(lab.request(home_agent="10.9.0.7")) == 82  # nobody listens there
    time.sleep(1.05)
    assert lab.code(lab.request(home_agent="10.7.3.1")) == 81
    time.sleep(1.05)
    lab.net.ip("rt", "route", "del", "10.1.0.0/24")
    assert lab.code(lab.request()) == 80  # no route at the router: network unreachable
    client = lab.node()
    client.settimeout(9)
    began = time.monotonic()
    time.sleep(1.05)
    assert lab.exchange(client, lab.request(home_agent="10.7.2.1"))[1] == 78
    assert time.monotonic() - began >= 7


def test_a_home_agent_with_another_key_gets_status_68(lab: ForeignAgentLab) -> None:
    lab.more = PROVEN_HOME_AGENT  # the home agent does not know us
    lab.start()
    client = lab.node()
    client.settimeout(9)
    # It drops what an unknown agent signed, so nothing comes back but our own 78.
    assert lab.exchange(client, lab.request())[1] == 78


def test_t05_advertisements_are_sound_to_wireshark(lab: ForeignAgentLab, tmp_path: Path) -> None:
    lab.settings = "challenge = true\nregistration_required = true"
    lab.more = '[[advertise]]\ninterface = "air"\nmax_interval = 0.3\nnai = "fa1@example.com"'
    lab.start_foreign_agent()
    capture = tmp_path / "air.pcap"
    command = ["tcpdump", "-i", "eth0", "-U", "-c", "5", "-w", str(capture), "icmp[0] == 9"]
    lab.net.run("mn", *command, timeout_s=20)
    done = subprocess.run(
        ["tshark", "-r", str(capture), "-T", "json", "-V"],
        check=True,
        capture_output=True,
        text=True,
    )
    layers = [packet["_source"]["layers"] for packet in json.loads(done.stdout)]
    assert len(layers) == 5
    assert "_ws.expert" not in done.stdout
    for layer in layers:
        assert layer["ip"]["ip.ttl"] == "1"
        assert layer["ip"]["ip.dst"] == "224.0.0.1"
    numbers = [int(find(layer, "icmp.mip.seq")) for layer in layers]
    assert numbers == list(range(numbers[0], numbers[0] + 5))


def find(tree: object, name: str) -> str:
    """The first value of a field in tshark's tree."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name and isinstance(value, str):
                return value
            if (found := find(value, name)) != "":
                return found
    return ""


def test_t13_a_solicitation_is_answered_to_its_sender(lab: ForeignAgentLab) -> None:
    lab.more = '[[advertise]]\ninterface = "air"\nsolicited_only = true'
    lab.start_foreign_agent()
    assert "224.0.0.11" in lab.net.run("fa", "ip", "maddr", "show", "dev", "air")
    air = lab.packets("mn", "eth0")
    with lab.net.inside("mn"):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        raw.bind((HOME_ADDRESS, 0))
        interface = socket.inet_aton(HOME_ADDRESS)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        raw.sendto(bytes.fromhex("0a00f5ff00000000"), ("224.0.0.11", 0))
    [answer] = [p for p in frames(air, 1.0) if p[9] == 1 and p[20] == 9]
    assert answer[16:20] == socket.inet_aton(HOME_ADDRESS)  # off the subnet, by its MAC
    [row] = lab.fa.ask("show agent")["rows"]
    assert (row["interface"], row["flags"], row["sent"]) == ("air", "FMGT", 1)


def test_the_last_advertisement_says_good_bye(lab: ForeignAgentLab) -> None:
    lab.start_foreign_agent()
    air = lab.packets("mn", "eth0")
    lab.fa.end()
    adverts = [p for p in frames(air) if p[9] == 1 and p[20] == 9]
    assert adverts[-1][26:28] == b"\0\0"  # lifetime
    assert all(p[26:28] == b"\0\x03" for p in adverts[:-1])


def test_t28_a_colocated_node_registers_through_the_foreign_agent(lab: ForeignAgentLab) -> None:
    """R: the request is relayed, the tunnel is the node's own."""
    lab.settings = "registration_required = true"
    lab.home_settings = "strict_source = false"  # it knows no foreign agent here
    lab.start()
    own = "10.3.1.9"
    lab.net.ip("mn", "address", "add", f"{own}/24", "dev", "eth0")
    client = lab.node(address=own)
    client.sendto(lab.request(flags=D, care_of=own), (CARE_OF, 434))
    time.sleep(0.5)
    [visitor] = lab.fa.ask("show visitor")["rows"]
    assert visitor["care_of_address"] == "co-located"
    [binding] = lab.ha.ask("show binding")["rows"]
    assert binding["care_of_address"] == own


def test_a_flood_of_invented_addresses_harms_no_visitor(lab: ForeignAgentLab) -> None:
    """SEC-20: bounded tables, few denials, and the visitor renews in the middle of it."""
    from scapy.layers.inet import IP, UDP  # noqa: PLC0415
    from scapy.layers.l2 import Ether  # noqa: PLC0415

    lab.settings = "max_pending = 50"
    lab.start()
    client = lab.register()
    mac = lab.mac("fa", "air")
    out = lab.packets("mn", "eth0")
    began = time.monotonic()
    for number in range(3000):
        home = f"10.77.{number >> 8}.{number & 255}"
        source = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        message = lab.request(home_address=home, home_agent="10.9.0.99")
        frame = (
            Ether(src=source, dst=mac)
            / IP(src=home, dst=CARE_OF, ttl=255)
            / UDP(sport=434, dport=434)
            / message
        )
        out.send(bytes(frame))
    facts = lab.fa.ask("status")
    assert facts["pending"] <= 50
    waiting = lab.fa.ask("show pending")["rows"]
    assert len(waiting) <= 50
    assert {row["home_agent"] for row in waiting} <= {"10.9.0.99"}
    assert facts["visitors"] == 1
    lab.register(client)
    assert lab.ping("cn", HOME_ADDRESS, 3)
    seconds = time.monotonic() - began
    assert lab.fa.counter("faDenialsSent") <= 100 * (seconds + 1)


def test_t08_the_operator_takes_a_visitor_away_and_the_node_hears_it(
    lab: ForeignAgentLab,
) -> None:
    """T08: a unicast advertisement with sequence number 0 (RFC 3543 4.1)."""
    lab.start()
    lab.register()
    air = lab.packets("mn", "eth0")
    lab.fa.ask("clear visitor", home_address=HOME_ADDRESS)
    told = [
        p
        for p in frames(air, 0.5)
        if p[9] == 1 and p[20] == 9 and p[16:20] == socket.inet_aton(HOME_ADDRESS)
    ]
    assert [p[38:40] for p in told] == [b"\0\0"]
    assert not lab.ping("cn", HOME_ADDRESS)


def test_reload_takes_limits_and_refuses_links(lab: ForeignAgentLab) -> None:
    lab.start_foreign_agent()
    lab.settings = "max_lifetime = 60"
    lab.write_foreign_agent()
    changes = lab.fa.ask("reload")["changes"]
    assert changes == ["foreign_agent.max_lifetime: 1800 -> 60"]
    assert lab.code(lab.request(lifetime_s=61)) == 69
    [row] = lab.fa.ask("show agent")["rows"]
    assert row["max_lifetime_s"] == 60
    for most in (5, 1000):  # fewer visitors, and as many as there were
        lab.settings = f"max_lifetime = 60\nmax_visitors = {most}"
        lab.write_foreign_agent()
        [change] = lab.fa.ask("reload")["changes"]
        assert change.endswith(f"-> {most}")
    assert handmade.SPI == 256


def test_home_agent_and_foreign_agent_in_one_daemon(lab: ForeignAgentLab) -> None:
    """One port 434: a visitor whose home agent is this very machine is served all the same."""
    lab.net.ip("ha", "address", "del", f"{HOME_AGENT}/32", "dev", "lo")
    lab.net.ip("fa", "address", "add", f"{HOME_AGENT}/32", "dev", "lo")
    lab.net.ip("rt", "route", "replace", "10.1.0.0/24", "via", "10.3.0.1")
    before = lab.kernel_state()
    lab.more = (
        f'[home_agent]\naddress = "{HOME_AGENT}"\nhome_network = "10.1.0.0/24"\n'
        f'[[home_agent.host]]\nhome_address = "{HOME_ADDRESS}"\n'
        f"[[home_agent.host.association]]\nspi = {handmade.SPI}\n"
        f'key = "{handmade.KEY.hex()}"\n'
    )
    lab.start_foreign_agent()
    client = lab.register()
    facts = lab.fa.ask("status")
    assert (facts["visitors"], facts["bindings"]) == (1, 1)
    assert lab.ping("cn", HOME_ADDRESS, 3)
    assert lab.ping("mn", CORRESPONDENT, 3, "-I", HOME_ADDRESS)
    time.sleep(1.1)
    assert lab.exchange(client, lab.request(lifetime_s=0, care_of=HOME_ADDRESS))[1] == 0
    wait_for("the visitor's leave", lambda: lab.fa.ask("status")["visitors"] == 0)
    # Its home agent is asked for a care-of address of its own, directly.
    own = "10.3.1.9"
    lab.net.ip("mn", "address", "add", f"{own}/24", "dev", "eth0")
    lab.net.sysctl("mn", conf__eth0__arp_ignore=0)  # that address is one of the link
    direct = lab.node(address=own)
    time.sleep(1.1)
    direct.sendto(lab.request(flags=D | T, care_of=own), (HOME_AGENT, 434))
    data, source = direct.recvfrom(2048)
    assert (source[0], data[1]) == (HOME_AGENT, 0)
    assert lab.fa.ask("status")["visitors"] == 0
    lab.fa.end()
    assert lab.kernel_state() == before


def test_a_link_that_is_made_anew_is_served_again(lab: ForeignAgentLab) -> None:
    """Sockets, routes and neighbours of a link die with it and come back with it."""
    lab.start()
    lab.register()
    assert lab.ping("cn", HOME_ADDRESS)
    lab.net.ip("fa", "link", "del", "air")
    assert not lab.ping("cn", HOME_ADDRESS)
    lab.build_air()
    wait_for("the link's return", lambda: "link-back" in lab.fa.log(), 10)
    lab.register()
    wait_for("the visitor's routes", lambda: lab.ping("cn", HOME_ADDRESS), 10)


def test_who_signs_with_a_wrong_key_is_denied_and_listed(lab: ForeignAgentLab) -> None:
    """67, and a row of RFC 2006's violation table."""
    lab.more = (
        f'[[foreign_agent.mobile_node]]\nhome_address = "{HOME_ADDRESS}"\n'
        f"[[foreign_agent.mobile_node.association]]\n{SHARED}"
    )
    lab.start_foreign_agent()
    assert lab.code(lab.request()) == 67
    [row] = lab.fa.ask("show violation")["rows"]
    assert row["mipSecViolatorAddress"] == HOME_ADDRESS
    assert row["mipSecRecentViolationReason"] == "missingSecurityExtension"
    assert SHARED_KEY.hex() not in lab.fa.log()


def test_a_hangup_reloads_like_the_command(lab: ForeignAgentLab) -> None:
    lab.start_foreign_agent()
    lab.settings = "max_lifetime = 60"
    lab.write_foreign_agent()
    assert lab.fa.daemon is not None
    lab.fa.daemon.send_signal(signal.SIGHUP)
    wait_for("the reload", lambda: "reloaded" in lab.fa.log(), 10)
    assert lab.code(lab.request(lifetime_s=61)) == 69
