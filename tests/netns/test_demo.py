"""The demonstration end to end as root, judged by Wireshark as well."""

from __future__ import annotations

import re

import pytest
from tests.helpers.demo_run import MOVES, Run, assert_success, run_demo

pytestmark = [pytest.mark.netns, pytest.mark.slow]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source_path: dict[str, str]) -> Run:
    """Run the demo once, as root, for all judges below."""
    return run_demo(tmp_path_factory.mktemp("demo"), source_path)


def test_tcp_survives_every_move_as_root(finished: Run) -> None:
    assert_success(finished)


def test_make_before_break_loses_nothing(finished: Run) -> None:
    lost = {
        f"{move}.{way}": finished.rows[f"demo.make.{move}.{way}.lost"]
        for move in MOVES
        for way in ("down", "up")
    }
    assert set(lost.values()) == {0}, lost


def test_tcp_never_waits_longer_than_its_own_timer_needs(finished: Run) -> None:
    """Catches what only looks like survival: seconds of silence, then recovery."""
    stalls = {name: value for name, value in finished.rows.items() if name.endswith(".stall")}
    assert len(stalls) == 12
    assert all(isinstance(value, int) and value < 2000 for value in stalls.values()), stalls


def test_segments_made_at_home_already_fit_the_tunnel(finished: Run) -> None:
    lengths = finished.tshark("tcp.options.mss_val", only="tcp.flags.syn==1 and ip.src==10.1.0.5")
    assert {mss for (mss,) in lengths} == {"1440"}  # 1500 - 20 for the tunnel - 40
    assert not finished.tshark("icmp.mtu", only="icmp.type==3 and icmp.code==4")


def test_wireshark_has_no_complaint_about_any_control_message(finished: Run) -> None:
    messages = finished.tshark(
        "mip.type", "mip.ext.type", "_ws.expert", "_ws.malformed", only="mip"
    )
    kinds = {kind for kind, *_ in messages}
    assert kinds == {"1", "3"}
    assert {tuple(complaints) for _, _, *complaints in messages} == {("", "")}
    assert all("32" in extensions.split(",") for _, extensions, *_ in messages)
    at_home_agent = finished.tshark("mip.type", only='frame.interface_name matches "^ha-" and mip')
    assert len(at_home_agent) >= 12  # a request and a reply for each of six moves


def test_wireshark_sees_one_unbroken_connection_each_way(finished: Run) -> None:
    for port in (5001, 5002):
        data = finished.tshark("tcp.stream", "tcp.port", only=f"tcp.port=={port} and tcp.len>0")
        used = {tuple(sorted(ports.split(","))) for _, ports in data}
        assert len(used) == 1
        streams = {stream for stream, _ in data}
        resets = finished.tshark("tcp.stream", only=f"tcp.port=={port} and tcp.flags.reset==1")
        assert not streams & {stream for (stream,) in resets}


def test_wireshark_sees_the_tunnel_and_never_the_home_address_natively(finished: Run) -> None:
    outside = 'frame.interface_name=="ha-outside"'
    tunnelled = finished.tshark("ip.src", "ip.dst", only=f"{outside} and ip.proto==4")
    outer = {(src.split(",")[0], dst.split(",")[0]) for src, dst in tunnelled}
    assert {destination for _, destination in outer} >= {"10.3.1.5", "10.3.2.5", "10.1.0.1"}
    for interface in ("mn-eth0", "mn-wlan0"):
        away = f'frame.interface_name=="{interface}" and ip.src==10.1.0.5 and not ip.proto==4'
        natively = finished.tshark("eth.dst", only=away)
        routers = {mac for (mac,) in natively}
        visited = finished.tshark(
            "arp.src.hw_mac",
            only="arp.opcode==2 and (arp.src.proto_ipv4==10.3.1.254 or"
            " arp.src.proto_ipv4==10.3.2.254)",
        )
        assert not routers & {mac for (mac,) in visited}


def test_tunnel_packets_leave_only_by_the_link_that_owns_their_care_of_address(
    finished: Run,
) -> None:
    own = {"mn-eth0": {"10.3.1.5", "10.3.2.5"}, "mn-wlan0": {"10.3.1.6", "10.3.2.6"}}
    for interface, addresses in own.items():
        sent = f'frame.interface_name=="{interface}" and ip.proto==4 and ip.dst==10.1.0.1'
        sources = {source.split(",")[0] for (source,) in finished.tshark("ip.src", only=sent)}
        assert sources
        assert sources <= addresses


def test_home_host_hears_home_agent_and_mobile_node_announce_in_turn(finished: Run) -> None:
    announced = finished.tshark(
        "arp.src.hw_mac",
        only='frame.interface_name=="hh" and arp.isgratuitous and arp.src.proto_ipv4==10.1.0.5',
    )
    turns = [mac for n, (mac,) in enumerate(announced) if n == 0 or announced[n - 1] != [mac]]
    away = [check for check in finished.checks if "home agent's MAC" in str(check["detail"])]
    agent = str(away[0]["detail"]).split()[0]
    assert turns.count(agent) >= 2
    assert len(set(turns)) == 3  # home agent, eth0 and wlan0 of the mobile node


def test_report_needs_nothing_from_anywhere(finished: Run) -> None:
    page = (finished.directory / "report.html").read_text()
    assert "TCP survived every move." in page
    assert not re.search(r"https?:|src=|href=|@import|url\(|<script", page)
    assert len(page) < 1 << 20
