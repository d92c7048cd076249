"""``fastmip top``: rates out of two looks."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from rich.console import Console
from tests.helpers.control_server import ControlServer, result

from fastmip.runtime.cli.main import main
from fastmip.runtime.cli.top import compare, picture
from fastmip.runtime.observatory import thread_times

BEFORE: dict[str, Any] = {
    "monotonic_s": 100.0,
    "cpu_s": 5.0,
    "threads_cpu_s": {"fastmip-0": 1.0},
    "roles": [
        {
            "role": "home-agent",
            "bindings": 4,
            "verdicts": {"encapsulated": [1000, 100_000]},
            "balance": {},
            "stages": [
                {
                    "worker": "0",
                    "stage": "check",
                    "calls": 10,
                    "packets": 1000,
                    "ns_per_packet": 3.5,
                }
            ],
            "workers": [{"state": "running", "batches": 10, "sleeps": 4}],
            "counters": {"haRegRequestsReceived": 20},
            "gauges": {"haBindings": 3},
            "lost": {"tunnel": 0},
        }
    ],
}
NOW = copy.deepcopy(BEFORE)
NOW["monotonic_s"], NOW["cpu_s"], NOW["threads_cpu_s"] = 102.0, 5.5, {"fastmip-0": 1.4}
ROLE = NOW["roles"][0]
ROLE["verdicts"] = {"encapsulated": [3000, 300_000], "drop-ttl": [4, 400]}
ROLE["stages"][0] |= {"calls": 110, "packets": 3000}
ROLE["workers"][0] |= {"batches": 110, "sleeps": 24}
ROLE["counters"] = {"haRegRequestsReceived": 26}


def rows_by_name(before: Any, now: Any) -> dict[str, dict[str, Any]]:
    return {f"{row['kind']} {row['name']}": row for row in compare(before, now)[0]}


def test_rates_are_differences() -> None:
    rows = rows_by_name(BEFORE, NOW)
    assert rows["verdict encapsulated"]["per_second"] == 1000
    assert rows["verdict encapsulated"]["bits_per_second"] == 800_000
    assert rows["verdict drop-ttl"]["per_second"] == 2
    assert rows["stage check"]["packets_per_call"] == 20
    assert rows["worker 0"]["sleeps_per_second"] == 10
    assert rows["counter haRegRequestsReceived"]["per_second"] == 3
    assert rows["gauge haBindings"]["total"] == 3
    summary = compare(BEFORE, NOW)[1]
    assert summary == {"seconds": 2.0, "cpu_percent": 25.0, "fastmip-0_cpu_percent": 20.0}


def test_a_counter_that_was_cleared_counts_from_zero() -> None:
    assert rows_by_name(NOW, BEFORE)["verdict encapsulated"]["per_second"] > 0


def test_a_role_that_appears_counts_from_its_start() -> None:
    assert rows_by_name(BEFORE | {"roles": []}, NOW)["verdict encapsulated"]["per_second"] == 1500


def test_the_picture_has_what_moves() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(picture(*compare(BEFORE, NOW)))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    for part in ("haBindings 3", "encapsulated", "drop-ttl", "1,000", "fastmip-0 20.0 %", "3.5"):
        assert part in text


def test_once_for_programs(tmp_path: Path) -> None:
    answers = iter([BEFORE, NOW])
    with ControlServer(tmp_path / "s", lambda _: result(next(answers))) as server:
        words = ["top", "--json", "--interval", "0.1", "--socket", str(tmp_path / "s")]
        made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    document = json.loads(made.output)
    assert (document["schema"], document["command"]) == (1, "top")
    assert document["summary"]["cpu_percent"] == 25
    assert [request["command"] for request in server.requests] == ["observe", "observe"]


def test_without_a_terminal_it_says_so(tmp_path: Path) -> None:
    with ControlServer(tmp_path / "s", lambda _: result(BEFORE)):
        made = CliRunner().invoke(main, ["top", "--socket", str(tmp_path / "s")])
    assert made.exit_code == 1
    assert "use --once" in made.output


def test_an_answer_of_another_kind_is_told(tmp_path: Path) -> None:
    with ControlServer(tmp_path / "s", lambda _: result([])):
        made = CliRunner().invoke(main, ["top", "--once", "--socket", str(tmp_path / "s")])
    assert made.exit_code == 4


def test_thread_times_are_those_of_workers(tmp_path: Path) -> None:
    for number, name in ((1, "python"), (2, "fastmip-0"), (3, "fastmip-0"), (4, "odd) name")):
        (tmp_path / str(number)).mkdir()
        fields = " ".join(["S", *["0"] * 10, "150", "50", *["0"] * 30])
        (tmp_path / str(number) / "stat").write_text(f"{number} ({name}) {fields}\n")
    (tmp_path / "5").mkdir()
    (found,) = thread_times(tmp_path).items()
    assert found == ("fastmip-0", 4.0)
