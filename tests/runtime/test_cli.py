"""The command line against a real control socket: words, tables, JSON, failures, exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.control_server import ControlServer, refusal, result

from fastmip import __version__
from fastmip.runtime.cli.failures import printable
from fastmip.runtime.cli.main import COMMANDS, main
from fastmip.runtime.cli.render import cell, print_result
from fastmip.runtime.cli.show import SUBJECTS

if TYPE_CHECKING:
    from tests.helpers.control_server import Handler

KEY_HEX = "00112233445566778899aabbccddeeff"
BINDINGS = {
    "rows": [
        {"home_address": "10.1.0.5", "care_of_address": "192.0.2.9", "remaining_s": 1790},
        {"home_address": "10.1.0.6", "remaining_s": 65535, "reverse_tunnel": True},
    ],
    "summary": {"bindings": 2, "nodes": 2},
}


def invoke(socket_path: Path | None, *words: str, stdin: str | None = None) -> Result:
    environment = {"FASTMIP_SOCKET": str(socket_path)} if socket_path else {}
    return CliRunner().invoke(main, list(words), env=environment, input=stdin)


def served(tmp_path: Path, handler: Handler) -> tuple[Path, ControlServer]:
    path = tmp_path / "control.sock"
    return path, ControlServer(path, handler)


def test_the_version_is_told() -> None:
    assert invoke(None, "--version").output == f"fastmip, version {__version__}\n"


def test_every_command_has_help() -> None:
    names = invoke(None, "--help").output
    for name in COMMANDS:
        assert f"\n  {name} " in names
        shown = invoke(None, name, "--help")
        assert shown.exit_code == 0
        assert "Usage:" in shown.output


@pytest.mark.parametrize("subject", SUBJECTS)
def test_show_asks_for_its_subject_and_prints_rows(tmp_path: Path, subject: str) -> None:
    path, server = served(tmp_path, lambda _request: result(BINDINGS))
    with server:
        shown = invoke(path, "show", subject)
        document = invoke(path, "show", subject, "--json")
    assert server.requests == [{"command": f"show {subject}", "args": {}}] * 2
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    columns = ["home_address", "care_of_address", "remaining_s", "reverse_tunnel"]
    assert lines[0].split() == columns
    assert lines[2].split() == ["10.1.0.5", "192.0.2.9", "1790", "-"]
    assert lines[3].split() == ["10.1.0.6", "-", "65535", "yes"]
    assert lines[4:] == ["bindings: 2", "nodes: 2"]
    assert json.loads(document.output) == {"schema": 1, "command": f"show {subject}", **BINDINGS}


@pytest.mark.parametrize(
    "words",
    [
        ["show", "binding"],
        ["sh", "bin"],
        ["sho", "b"],
        ["show", "ip", "mobile", "binding"],
        ["sh", "ip", "mob", "bin"],
    ],
)
def test_words_may_be_abbreviated_and_long_as_on_routers(tmp_path: Path, words: list[str]) -> None:
    path, server = served(tmp_path, lambda _request: result(BINDINGS))
    with server:
        assert invoke(path, *words).exit_code == 0
    assert server.requests[0]["command"] == "show binding"


def test_an_ambiguous_or_unknown_word_is_a_usage_error() -> None:
    ambiguous = invoke(None, "r")
    assert ambiguous.exit_code == 2
    assert "'r' is ambiguous: reload, run" in ambiguous.output
    assert "is ambiguous: trace, traffic, tunnel" in invoke(None, "show", "t").output
    unknown = invoke(None, "show", "weather")
    assert unknown.exit_code == 2
    assert "No such command 'weather'" in unknown.output


def test_hidden_words_do_not_make_others_ambiguous(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: result({"rows": []}))
    with server:
        assert invoke(path, "show", "i").exit_code == 0
    assert server.requests[0]["command"] == "show interface"


def test_rows_can_be_chosen(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: result(BINDINGS))
    with server:
        assert invoke(path, "show", "binding", "10.1.0.5").exit_code == 0
        assert invoke(path, "show", "tunnel", "--after", "10.1.0.9", "--limit", "5").exit_code == 0
        assert invoke(path, "show", "host", "--limit", "7").exit_code == 0
        assert invoke(path, "show", "host", "10.1.0.5").exit_code == 2
        assert invoke(path, "show", "binding", "10.1.0").exit_code == 2
        assert invoke(path, "show", "traffic", "--limit", "5").exit_code == 2
    assert [request["args"] for request in server.requests] == [
        {"home_address": "10.1.0.5"},
        {"after": "10.1.0.9", "limit": 5},
        {"limit": 7},
    ]


def test_all_bindings_come_page_by_page(tmp_path: Path) -> None:
    def pages(request: dict[str, Any]) -> bytes:
        arguments = request["args"]
        assert arguments["limit"] == 10_000
        following = {None: "10.1.0.5", "10.1.0.5": "10.1.0.6"}.get(arguments.get("after"))
        rows = [{"home_address": following}] if following else []
        return result({"rows": rows, "summary": {"bindings": 2, "shown": len(rows)}})

    path, server = served(tmp_path, pages)
    with server:
        shown = invoke(path, "show", "binding", "--all", "--json")
    document = json.loads(shown.output)
    assert document["rows"] == [{"home_address": "10.1.0.5"}, {"home_address": "10.1.0.6"}]
    assert document["summary"] == {"bindings": 2, "shown": 2}
    assert len(server.requests) == 3


def test_a_mobile_node_that_knows_no_pages_is_asked_until_nothing_new_comes(tmp_path: Path) -> None:
    alone = {"rows": [{"home_address": "10.1.0.5"}], "summary": {"state": "away"}}
    path, server = served(tmp_path, lambda _request: result(alone))
    with server:
        shown = invoke(path, "show", "binding", "--all", "--json")
    assert json.loads(shown.output)["rows"] == alone["rows"]
    assert len(server.requests) == 2


def test_pages_of_both_roles_show_the_mobile_node_once(tmp_path: Path) -> None:
    node = {"role": "mobile-node", "home_address": "10.9.0.5"}

    def pages(request: dict[str, Any]) -> bytes:
        following = {None: "10.1.0.5", "10.1.0.5": "10.1.0.6"}.get(request["args"].get("after"))
        ours = [{"role": "home-agent", "home_address": following}] if following else []
        return result({"rows": [*ours, node]})

    path, server = served(tmp_path, pages)
    with server:
        shown = invoke(path, "show", "binding", "--all", "--json")
    rows = json.loads(shown.output)["rows"]
    assert sorted(row["home_address"] for row in rows) == ["10.1.0.5", "10.1.0.6", "10.9.0.5"]


def test_nothing_to_show_says_so(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: result({"rows": []}))
    with server:
        assert invoke(path, "show", "binding").output == "nothing to show\n"


def test_a_table_in_a_pipe_is_neither_wrapped_nor_coloured(tmp_path: Path) -> None:
    wide = {"rows": [{f"column_{n}": "x" * 30 for n in range(20)}]}
    path, server = served(tmp_path, lambda _request: result(wide))
    with server:
        shown = invoke(path, "show", "tunnel").output
    assert "\x1b" not in shown
    assert shown.splitlines()[2].split() == ["x" * 30] * 20


@pytest.mark.parametrize("no_color", [True, False])
def test_a_terminal_may_have_colour_unless_no_color(tmp_path: Path, no_color: bool) -> None:
    path, server = served(tmp_path, lambda _request: result(BINDINGS))
    environment = {**os.environ, "FASTMIP_SOCKET": str(path), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    if no_color:
        environment["NO_COLOR"] = "1"
    ours, theirs = pty.openpty()
    try:
        with server:
            program = "from fastmip.runtime.cli.main import main; main()"
            subprocess.run(
                [sys.executable, "-c", program, "show", "binding"],
                stdout=theirs,
                env=environment,
                timeout=60,
                check=True,
            )
        output = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "10.1.0.5" in output
    colours = [part for part in output.split("\x1b[")[1:] if part.split("m")[0] not in ("1", "0")]
    assert not (no_color and colours)


def test_bytes_from_the_network_cannot_drive_the_terminal(tmp_path: Path) -> None:
    nasty = {"rows": [{"nai\x1b[2J": "\x1b]0;owned\x07[red]x[/red]\n"}]}
    path, server = served(tmp_path, lambda _request: result(nasty))
    with server:
        shown = invoke(path, "show", "host").output
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]x[/red]" in shown
    assert printable("a\x1b\n") == "a??"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON | st.fixed_dictionaries({"rows": st.lists(st.dictionaries(st.text(), JSON))}))
def test_any_result_is_printed_or_refused_and_never_drives_the_terminal(value: object) -> None:
    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def command(*, as_json: bool) -> None:
        print_result("show binding", value, as_json=as_json)

    for words in ([], ["--json"]):
        shown = CliRunner().invoke(command, words)
        assert shown.exit_code in (0, 4), shown.exception
        assert all(c.isprintable() or c == "\n" for c in shown.output)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (2.0, "2"),
        (0.12345, "0.123"),
        (10.0, "10"),
        ([], "-"),
        (["a", 1], "a, 1"),
        ({"a": 1.5}, "a=1.5"),
    ],
)
def test_values_are_written_for_people(value: object, text: str) -> None:
    assert cell(value) == text


# -- failures


def test_no_socket_is_exit_code_4_and_one_line(tmp_path: Path) -> None:
    shown = invoke(tmp_path / "absent.sock", "show", "binding")
    assert shown.exit_code == 4
    assert shown.output == (
        f"fastmip: control socket {tmp_path}/absent.sock does not exist: "
        "is the daemon running? (fastmip run CONFIG)\n"
    )


def test_a_socket_nobody_listens_on_is_exit_code_4(tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    shown = invoke(path, "show", "binding")
    assert shown.exit_code == 4
    assert "has no daemon behind it" in shown.output


def test_silence_ends_after_the_time_out(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: None)
    with server:
        shown = invoke(path, "show", "binding", "--timeout", "0.2")
    assert shown.exit_code == 4
    assert "gave no answer for 0.2 s" in shown.output


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "closed before the answer was complete"),
        (b'{"ok": true', "closed before the answer was complete"),
        (b"nonsense\n", "sent something that is no answer"),
        (b"\xff\xfe\n", "sent something that is no answer"),
        (b'{"result": {}}\n', "sent something that is no answer"),
        (b'{"ok": true, "schema": 2, "result": {}}\n', "speaks schema 2, this program 1"),
        (b'{"ok": true, "result": 5}\n', "the daemon's answer has no rows"),
        (b'{"ok": true, "result": {"rows": [5]}}\n', "the daemon's answer has no rows"),
    ],
)
def test_an_answer_in_no_language_of_ours_is_exit_code_4(
    tmp_path: Path, answer: bytes, text: str
) -> None:
    path, server = served(tmp_path, lambda _request: answer)
    with server:
        shown = invoke(path, "show", "binding")
    assert shown.exit_code == 4
    assert text in shown.output
    assert shown.output.count("\n") == 1


def test_a_refusal_is_exit_code_1_on_one_line(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: refusal("no mobile node here:\nno handovers"))
    with server:
        shown = invoke(path, "show", "handover")
    assert shown.exit_code == 1
    assert shown.output == "fastmip: no mobile node here: no handovers\n"


def test_a_reason_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: refusal("bad \x1b[2J"))
    with server:
        assert invoke(path, "show", "binding").output == "fastmip: bad ?[2J\n"


def test_large_answers_arrive_whole(tmp_path: Path) -> None:
    rows = [{"home_address": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"} for n in range(50_000)]
    path, server = served(tmp_path, lambda _request: result({"rows": rows}))
    with server:
        shown = invoke(path, "show", "binding", "--json")
    assert json.loads(shown.output)["rows"] == rows


# -- clear, reload, status


def test_clear_binding_wants_one_address_or_all(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: result({}))
    with server:
        assert invoke(path, "clear", "binding", "10.1.0.5").exit_code == 0
        assert invoke(path, "clear", "ip", "mobile", "binding", "--all").exit_code == 0
        assert invoke(path, "clear", "binding").exit_code == 2
        assert invoke(path, "clear", "binding", "10.1.0.5", "--all").exit_code == 2
        assert invoke(path, "clear", "binding", "10.1.0.500").exit_code == 2
        assert invoke(path, "clear", "traffic").exit_code == 0
    assert server.requests == [
        {"command": "clear binding", "args": {"home_address": "10.1.0.5"}},
        {"command": "clear binding", "args": {"all": True}},
        {"command": "clear traffic", "args": {}},
    ]


def test_whatever_changes_something_can_say_so_in_json(tmp_path: Path) -> None:
    key = tmp_path / "new.key"
    expected: list[tuple[list[str], dict[str, Any]]] = [
        (["clear", "binding", "10.1.0.5"], {"cleared": 1}),
        (["clear", "traffic"], {}),
        (["prefer", "wlan0"], {"preferred": "wlan0"}),
        (["prefer"], {"preferred": None}),
        (["host", "remove", "10.1.0.5"], {"home_address": "10.1.0.5"}),
        (
            ["host", "add", "10.1.0.9", "--new-key-file", str(key)],
            {"home_address": "10.1.0.9", "key_file": str(key)},
        ),
    ]
    path, server = served(tmp_path, lambda _request: result({"cleared": 1}))
    with server:
        for words, facts in expected:
            document = json.loads(invoke(path, *words, "--json").stdout)
            command = " ".join(words[:1] if words[0] == "prefer" else words[:2])
            assert document == {"schema": 1, "command": command, "summary": facts}
    assert key.read_text().strip() not in str(expected)


def test_reload_lists_the_changes(tmp_path: Path) -> None:
    changes = ["home_agent.max_lifetime: 1800 -> 900", "host 10.1.0.6 added"]
    path, server = served(tmp_path, lambda _request: result({"changes": changes}))
    with server:
        dry = invoke(path, "reload", "--dry-run")
        wet = invoke(path, "reload", "--json")
    assert dry.output.splitlines() == [*changes, "nothing was changed: this was a dry run"]
    assert json.loads(wet.output)["changes"] == changes
    assert [request["args"] for request in server.requests] == [
        {"dry_run": True},
        {"dry_run": False},
    ]


def test_prefer_names_an_interface_or_takes_it_back(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: result({}))
    with server:
        assert invoke(path, "prefer", "wlan0").output == "wlan0 is preferred\n"
        assert invoke(path, "prefer").output == "the configured order holds\n"
    assert server.requests == [
        {"command": "prefer", "args": {"interface": "wlan0"}},
        {"command": "prefer", "args": {}},
    ]


def test_status_prints_facts(tmp_path: Path) -> None:
    path, server = served(tmp_path, lambda _request: result({"roles": ["home-agent"], "pid": 5}))
    with server:
        assert invoke(path, "status").output == "roles: home-agent\npid: 5\n"
        document = json.loads(invoke(path, "st", "--json").output)
    assert document == {
        "schema": 1,
        "command": "status",
        "summary": {"roles": ["home-agent"], "pid": 5},
    }


# -- host


def ok(_request: dict[str, Any]) -> bytes:
    return result({})


def test_host_add_takes_the_key_from_a_private_file(tmp_path: Path) -> None:
    key = tmp_path / "mn.key"
    key.write_text(KEY_HEX)
    key.chmod(0o600)
    path, server = served(tmp_path, ok)
    with server:
        shown = invoke(path, "host", "add", "10.1.0.9", "--spi", "300", "--key-file", str(key))
        key.chmod(0o640)
        refused = invoke(path, "host", "add", "10.1.0.9", "--key-file", str(key))
    assert shown.output == "host 10.1.0.9 added\n"
    assert server.requests == [
        {
            "command": "host add",
            "args": {
                "home_address": "10.1.0.9",
                "spi": 300,
                "key_hex": KEY_HEX,
                "algorithm": "hmac-md5",
                "replay": "timestamps",
                "replay_window": 7,
            },
        }
    ]
    assert refused.exit_code == 1
    assert "run chmod 600" in refused.output


def test_host_add_reads_standard_input(tmp_path: Path) -> None:
    path, server = served(tmp_path, ok)
    with server:
        shown = invoke(path, "host", "add", "10.1.0.9", "--key-file", "-", stdin=KEY_HEX + "\n")
        short = invoke(path, "host", "add", "10.1.0.9", "--key-file", "-", stdin="aabb\n")
    assert shown.exit_code == 0
    assert KEY_HEX not in shown.output
    assert server.requests[0]["args"]["key_hex"] == KEY_HEX
    assert short.exit_code == 1
    assert "the key has 2 bytes: use at least 16" in short.output


def test_a_key_typed_at_a_terminal_is_asked_for_and_not_echoed(tmp_path: Path) -> None:
    path, server = served(tmp_path, ok)
    program = "from fastmip.runtime.cli.main import main; main()"
    ours, theirs = pty.openpty()
    try:
        with server:
            process = subprocess.Popen(
                [sys.executable, "-c", program, "host", "add", "10.1.0.9", "--key-file", "-"],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "FASTMIP_SOCKET": str(path)},
                start_new_session=True,  # no controlling terminal but the one given
            )
            shown = b""
            while b"Key (hexadecimal)" not in shown:
                assert select.select([ours], [], [], 60)[0], shown
                shown += os.read(ours, 4096)
            os.write(ours, KEY_HEX.encode() + b"\n")
            assert process.wait(60) == 0
        shown += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"host 10.1.0.9 added" in shown
    assert KEY_HEX.encode() not in shown
    assert server.requests[0]["args"]["key_hex"] == KEY_HEX


def test_host_add_makes_a_fresh_private_key_and_never_overwrites(tmp_path: Path) -> None:
    key = tmp_path / "new.key"
    path, server = served(tmp_path, ok)
    with server:
        shown = invoke(path, "host", "add", "10.1.0.9", "--new-key-file", str(key))
        again = invoke(path, "host", "add", "10.1.0.8", "--new-key-file", str(key))
    assert shown.exit_code == 0
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_text().strip()
    assert len(bytes.fromhex(secret)) == 32
    assert secret not in shown.output
    assert [request["args"]["key_hex"] for request in server.requests] == [secret]
    assert again.exit_code == 1
    assert "exists: name a new file" in again.output
    assert key.read_text().strip() == secret


def test_host_add_takes_its_new_key_back_when_the_daemon_refuses(tmp_path: Path) -> None:
    key = tmp_path / "new.key"
    path, server = served(tmp_path, lambda _request: refusal("10.1.0.9 is there already"))
    with server:
        shown = invoke(path, "host", "add", "10.1.0.9", "--new-key-file", str(key))
    assert shown.exit_code == 1
    assert not key.exists()


def test_host_add_takes_a_name_and_a_second_key(tmp_path: Path) -> None:
    secret = tmp_path / "aaa.key"
    secret.write_text(KEY_HEX[::-1])
    secret.chmod(0o600)
    path, server = served(tmp_path, ok)
    words = ("host", "add", "10.1.0.9", "--nai", "mn@example.org", "--aaa-spi", "512")
    with server:
        shown = invoke(
            path, *words, "--key-file", "-", "--aaa-key-file", str(secret), stdin=KEY_HEX
        )
        twice = invoke(path, *words, "--key-file", "-", "--aaa-key-file", "-", stdin=KEY_HEX)
        secret.chmod(0o644)
        open_to_all = invoke(
            path, *words, "--key-file", "-", "--aaa-key-file", str(secret), stdin=KEY_HEX
        )
    assert shown.exit_code == 0
    assert KEY_HEX[::-1] not in shown.output
    [request] = server.requests
    assert request["args"]["key_hex"] == KEY_HEX
    assert request["args"]["nai"] == "mn@example.org"
    assert request["args"]["aaa"] == {
        "spi": 512,
        "key_hex": KEY_HEX[::-1],
        "algorithm": "hmac-md5",
    }
    assert (twice.exit_code, "one key" in twice.output) == (2, True)
    assert (open_to_all.exit_code, "chmod 600" in open_to_all.output) == (1, True)


def test_a_key_cannot_be_given_on_the_command_line() -> None:
    for command in ("add", "remove", "list"):
        found = main.get_command(click.Context(main), "host")
        assert isinstance(found, click.Group)
        options = [o for p in found.commands[command].params for o in p.opts]
        assert "--key" not in options
    shown = invoke(None, "host", "add", "10.1.0.9")
    assert shown.exit_code == 2
    assert "say where the key is" in shown.output


def test_host_remove_and_list(tmp_path: Path) -> None:
    rows = {"rows": [{"home_address": "10.1.0.5", "spi": 256, "origin": "file"}]}
    path, server = served(tmp_path, lambda _request: result(rows))
    with server:
        assert invoke(path, "host", "remove", "10.1.0.5").output == "host 10.1.0.5 removed\n"
        assert "10.1.0.5" in invoke(path, "host", "list").output
    assert [request["command"] for request in server.requests] == ["host remove", "host list"]


# -- a key never shows


def test_the_secret_of_a_host_shows_nowhere(tmp_path: Path) -> None:
    directory = tmp_path / "pair"
    assert invoke(None, "init", str(directory)).exit_code == 0
    secret = (directory / "10.1.0.5.key").read_text().strip()
    secure = {"rows": [{"home_address": "10.1.0.5", "spi": 256, "algorithm": "hmac-sha256"}]}
    path, server = served(tmp_path, lambda _request: result(secure))
    with server:
        outputs = [
            invoke(None, "check", str(directory / "home-agent.toml")).output,
            invoke(None, "check", str(directory / "mobile-node.toml"), "--json").output,
            invoke(path, "show", "secure", "--json").output,
            invoke(path, "show", "secure").output,
            invoke(None, "doctor", str(directory / "home-agent.toml")).output,
        ]
        # What other users see of a running process: its arguments.
        stdin = (directory / "10.1.0.5.key").read_text()
        added = invoke(path, "host", "add", "10.1.0.7", "--key-file", "-", stdin=stdin)
    assert added.exit_code == 0
    assert server.requests[-1]["args"]["key_hex"] == secret
    for output in [*outputs, added.output]:
        assert output
        assert secret.lower() not in output.lower()
