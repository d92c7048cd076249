"""``fastmip bench engine --pcap``: packets from outside, results judged by scapy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils import rdpcap, wrpcap

from fastmip.runtime.cli import bench as bench_command
from fastmip.runtime.cli.bindings_csv import BindingsError, read_bindings
from fastmip.runtime.cli.main import main

HOME_AGENT = "192.0.2.1"


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "bindings.csv"
    lines = [f"10.1.0.{n},203.0.113.{n},{HOME_AGENT}" for n in range(10, 20)]
    path.write_text("\n".join(["home_address,remote,local", *lines, ""]))
    return path


def datagram(destination: str, number: int) -> Packet:
    return (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="198.51.100.7", dst=destination, ttl=64, id=number, flags=0)
        / UDP(sport=1000, dport=2000)
        / Raw(bytes([number]) * 40)
    )


def test_packets_of_a_capture_come_out_encapsulated(tmp_path: Path, csv_file: Path) -> None:
    sent = [datagram(f"10.1.0.{number}", number) for number in range(10, 22)]
    capture, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    wrpcap(str(capture), [*sent, Ether() / ARP()])
    shown = invoke(
        "engine", "--pcap", capture, "--bindings", csv_file, "--out", out, "--repeat", "3", "--json"
    )
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.output)
    summary = document["summary"]
    assert document["command"] == "bench engine"
    assert (summary["packets"], summary["skipped"], summary["repeat"]) == (12, 1, 3)
    assert summary["bindings"] == summary["left_tunnel"] == 10
    assert summary["ns_per_packet"] > 0
    assert sum(row["packets"] for row in document["rows"]) == summary["verdicts"] == 36
    tunnelled = [packet for packet in rdpcap(str(out)) if packet[IP].proto == 4]
    assert len(tunnelled) == 10
    for number, packet in enumerate(tunnelled, 10):
        outer, inner = packet[IP], packet[IP].payload
        assert (outer.src, outer.dst) == (HOME_AGENT, f"203.0.113.{number}")
        assert inner.dst == f"10.1.0.{number}"
        assert inner.ttl == 63
        assert bytes(inner.payload) == bytes(sent[number - 10][IP].payload)


def test_a_table_shows_verdicts_and_figures(tmp_path: Path, csv_file: Path) -> None:
    capture = tmp_path / "in.pcap"
    wrpcap(str(capture), [datagram("10.1.0.10", 1)])
    shown = invoke("engine", "--pcap", capture, "--bindings", csv_file)
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[0].split() == ["verdict", "packets", "bytes"]
    assert "ns_per_packet: " in shown.output


def test_tunnelled_packets_come_out_decapsulated(tmp_path: Path, csv_file: Path) -> None:
    inner = IP(src="10.1.0.10", dst="198.51.100.7", ttl=64) / UDP() / Raw(b"reverse")
    capture, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    wrpcap(str(capture), [Ether() / IP(src="203.0.113.10", dst=HOME_AGENT) / inner])
    words: list[str | Path] = [
        "--pcap",
        capture,
        "--bindings",
        csv_file,
        "--out",
        out,
        "--side",
        "tunnel",
    ]
    shown = invoke("engine", *words)
    assert shown.exit_code == 0, shown.output
    [packet] = rdpcap(str(out))
    assert (packet[IP].src, packet[IP].dst) == ("10.1.0.10", "198.51.100.7")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: expected home_address,remote,local[,mtu]"),
        ("a,b,c\n", "line 1: expected home_address,remote,local[,mtu]"),
        ("home_address,remote,local\n", "holds no bindings"),
        ("home_address,remote,local\n10.1.0.1,203.0.113.1\n", "line 2: not enough values"),
        ("home_address,remote,local\n\n10.1.0.1,203.0.113.1,x\n", "line 3: Expected 4 octets"),
        (
            "home_address,remote,local,mtu\n10.1.0.1,203.0.113.1,192.0.2.1,87\n",
            "line 2: expected an MTU from 88 to 65535",
        ),
        (
            "home_address,remote,local,mtu\n10.1.0.1,203.0.113.1,192.0.2.1,1500,9\n",
            "line 2: expected an MTU",
        ),
        ('home_address,remote,local\n"10.1.0.1', "not a CSV file"),
        ("home_address,remote,local\n\u00e9", "not a CSV file"),
    ],
)
def test_a_bad_bindings_file_is_named_with_its_line(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "bindings.csv"
    path.write_text(text)
    with pytest.raises(BindingsError) as caught:
        read_bindings(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


def test_files_that_cannot_be_used_end_in_one_line(tmp_path: Path, csv_file: Path) -> None:
    capture = tmp_path / "in.pcap"
    for pcap, bindings, expected in (
        (capture, tmp_path / "absent.csv", "absent.csv: No such file"),
        (capture, csv_file, "in.pcap: No such file"),
        (csv_file, csv_file, "no classic pcap file"),
    ):
        shown = invoke("engine", "--pcap", pcap, "--bindings", bindings)
        assert shown.exit_code == 1
        assert expected in shown.output
        assert shown.output.count("\n") == 1
    assert invoke("engine", "--pcap", capture).exit_code == 2


def test_without_a_word_bench_says_how_to_measure() -> None:
    shown = invoke()
    assert shown.exit_code == 0
    assert "sh ./run bench" in shown.output


@pytest.mark.parametrize(
    ("word", "only"),
    [
        ("engine", ["--only", "engine"]),
        ("control", ["--only", "control", "store"]),
        ("all", []),
    ],
)
def test_parts_of_the_suite_run_in_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, only: list[str]
) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    told = tmp_path / "told.json"
    (tmp_path / "bench" / "run.py").write_text(
        f"import json, sys\njson.dump(sys.argv[1:], open({str(told)!r}, 'w'))\nsys.exit(7)\n"
    )
    monkeypatch.setattr(bench_command, "_checkout", lambda: tmp_path)
    assert invoke(word).exit_code == 7
    assert json.loads(told.read_text()) == only
    if word == "all":
        invoke(word, "--json", "x.json")
        assert json.loads(told.read_text()) == ["--json", "x.json"]


def test_without_a_checkout_the_suite_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_command, "_checkout", lambda: None)
    shown = invoke("control")
    assert shown.exit_code == 1
    assert "run sh ./run bench there" in shown.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--mac", "02:00:00:00:00:01", "--to", "10.0.0.0/24"), "Missing argument 'IFACE'"),
        (("eth9", "--to", "10.0.0.0/24"), "Missing option '--mac'"),
        (("eth9", "--mac", "02:00:00:00:00:01"), "Missing option '--to'"),
        (("eth9", "--mac", "02:00", "--to", "10.0.0.1"), "expected a MAC address"),
        (("eth9", "--mac", "02:00:00:00:00:01", "--to", "10.0.0.9-10.0.0.1"), "FIRST-LAST"),
        (("eth9", "--mac", "02:00:00:00:00:01", "--to", "10.0.0.1/8"), "has host bits set"),
        (
            ("eth9", "--mac", "02:00:00:00:00:01", "--to", "10.0.0.1", "--size", "63"),
            "expected 64 to 1500, or imix",
        ),
        (
            ("eth9", "--mac", "02:00:00:00:00:01", "--to", "10.0.0.1", "--source", "x"),
            "--source",
        ),
    ],
)
def test_a_load_takes_an_interface_and_where_to_and_nothing_by_default(
    words: tuple[str, ...], expected: str
) -> None:
    shown = invoke("load", *words)
    assert shown.exit_code == 2
    assert expected in shown.output
