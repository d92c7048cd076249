"""docs/cli.md and docs/deployment.md say what the program does."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fastmip.runtime.cli.client import DEFAULT_SOCKET
from fastmip.runtime.cli.failures import ConfigRefused, Failure, Unreachable
from fastmip.runtime.cli.main import main

DOCS = Path(__file__).parents[2] / "docs"
CLI = (DOCS / "cli.md").read_text()
DEPLOYMENT = (DOCS / "deployment.md").read_text()


def commands(group: click.Group, words: tuple[str, ...] = ()) -> dict[str, click.Command]:
    """Every command below a group by its words; groups that do something alone count too."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        path = (*words, name)
        if isinstance(command, click.Group):
            found |= commands(command, path)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found[" ".join(path)] = command
    return found


def test_every_command_is_documented_and_no_other() -> None:
    documented = re.findall(r"^\| `fastmip ([a-z -]+?)(?: [\[A-Z][^`]*)?` \|", CLI, re.M)
    assert sorted(documented) == sorted(commands(main))
    assert len(documented) > 25


def test_every_option_is_documented_or_explains_itself() -> None:
    for words, command in commands(main).items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                explained = parameter.help or any(f"`{o}`" in CLI for o in parameter.opts)
                named = isinstance(parameter.type, click.Choice) or parameter.show_default
                assert explained or named, f"{words} {parameter.opts}"


def test_exit_codes_are_those_of_the_code() -> None:
    codes = dict(re.findall(r"^\| (\d+) \| (.*?) \|$", CLI, re.M))
    assert set(codes) == {"0", "1", "2", "3", "4", "130"}
    assert "refused the command" in codes[str(Failure.exit_code)]
    assert "configuration file" in codes[str(ConfigRefused.exit_code)]
    assert "No daemon answered" in codes[str(Unreachable.exit_code)]
    assert "Wrong usage" in codes[str(click.UsageError.exit_code)]
    assert f"`{DEFAULT_SOCKET}`" in CLI


def test_completion_scripts_are_made_as_documented() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert f"_FASTMIP_COMPLETE={shell}_source fastmip" in CLI
        made = CliRunner().invoke(
            main, env={"_FASTMIP_COMPLETE": f"{shell}_source"}, prog_name="fastmip"
        )
        assert made.exit_code == 0
        assert "_FASTMIP_COMPLETE" in made.output


def test_the_init_command_of_the_deployment_works(tmp_path: Path) -> None:
    [command] = re.findall(r"sudo fastmip (init (?:.*\\\n)*.*)\n", DEPLOYMENT)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[1] == "/root/mobile"
    words[1] = str(tmp_path)
    made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    named = set(re.findall(r"`([\w.-]+\.(?:toml|key))`", DEPLOYMENT.split("## 3.")[0]))
    assert named == {path.name for path in tmp_path.iterdir()}


def test_links_between_the_documents_hold() -> None:
    for name in ("cli.md", "configuration.md", "deployment.md"):
        text = (DOCS / name).read_text()
        for target, anchor in re.findall(r"\]\((\w+\.md)(#[\w-]+)?\)", text):
            assert (DOCS / target).is_file(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", (DOCS / target).read_text(), re.M)
                slugs = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
                assert anchor[1:] in slugs


@pytest.mark.netns
def test_the_firewall_of_the_deployment_is_accepted_by_nft(tmp_path: Path) -> None:
    [rules] = re.findall(r"```\n(table inet filter .*?)```", DEPLOYMENT, re.S)
    file = tmp_path / "rules.nft"
    file.write_text(rules)
    judged = subprocess.run(
        ["nft", "--check", "-f", str(file)], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stderr
