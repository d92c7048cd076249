"""``fastmip host ...``: mobile nodes that may register, added and removed on the run.

Keys come from a file, from standard input, or are made fresh into a private file: never from
the command line, where every user of the machine could read them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastmip.runtime.cli.clear import Ipv4Address
from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.failures import Failure
from fastmip.runtime.cli.groups import AbbreviatingGroup
from fastmip.runtime.cli.render import json_option, print_done, print_result
from fastmip.runtime.keys import MAX_KEY_FILE_LEN, Key, KeyFileError, read_key_file, write_key_file

if TYPE_CHECKING:
    from typing import Any


_ALGORITHMS = ["hmac-md5", "hmac-sha1", "hmac-sha256", "keyed-md5"]


@click.group(cls=AbbreviatingGroup)
def host() -> None:
    """Add, remove and list the mobile nodes of the home agent."""


@host.command("add")
@click.argument("address", type=Ipv4Address())
@click.option(
    "--spi",
    type=click.IntRange(256, 0xFFFFFFFF),
    default=256,
    show_default=True,
    help="Security parameter index both sides use.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File with the key as hexadecimal digits, mode 0600; - reads standard input.",
)
@click.option(
    "--new-key-file",
    type=click.Path(path_type=Path),
    help="Make a fresh key and write it to this new file, mode 0600.",
)
@click.option(
    "--algorithm",
    type=click.Choice(_ALGORITHMS),
    default="hmac-md5",
    show_default=True,
)
@click.option(
    "--replay",
    type=click.Choice(["timestamps", "nonces"]),
    default="timestamps",
    show_default=True,
)
@click.option(
    "--replay-window",
    type=click.IntRange(1, 3600),
    default=7,
    show_default=True,
    help="Largest difference of clocks with timestamps, seconds.",
)
@click.option("--nai", help="Network access identifier the node registers with (RFC 2794).")
@click.option(
    "--aaa-key-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File with the key of its Mobile-AAA authentication (RFC 4721); - as for --key-file.",
)
@click.option(
    "--aaa-spi",
    type=click.IntRange(2, 0xFFFFFFFF),
    default=257,
    show_default=True,
    help="SPI of that authentication; 2 is the formula of RADIUS servers.",
)
@click.option(
    "--aaa-algorithm",
    type=click.Choice(_ALGORITHMS),
    default="hmac-md5",
    show_default=True,
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="PREFIX",
    help="A mobile network behind it (RFC 5177), such as 10.2.8.0/24; may be repeated.",
)
@click.option(
    "--dynamic-networks",
    type=click.IntRange(0, 64),
    help="Most prefixes it may get out of the pools (RFC 6626).",
)
@json_option
@control_options
def add(
    socket_path: Path,
    timeout_s: float,
    address: str,
    key_file: Path | None,
    new_key_file: Path | None,
    nai: str | None,
    aaa_key_file: Path | None,
    aaa_spi: int,
    aaa_algorithm: str,
    networks: tuple[str, ...],
    dynamic_networks: int | None,
    *,
    as_json: bool,
    **association: Any,
) -> None:
    """Let the mobile node with home address ADDRESS register."""
    if str(key_file) == str(aaa_key_file) == "-":
        raise click.UsageError("standard input holds one key: name a file for the other")
    more: dict[str, Any] = {} if nai is None else {"nai": nai}
    if networks:
        more["networks"] = list(networks)
    if dynamic_networks:
        more["dynamic_networks"] = dynamic_networks
    if aaa_key_file is not None:
        secret = _given_key(aaa_key_file).reveal().hex()
        more["aaa"] = {"spi": aaa_spi, "key_hex": secret, "algorithm": aaa_algorithm}
    if (key_file is None) == (new_key_file is None):
        raise click.UsageError("say where the key is: --key-file FILE, or --new-key-file FILE")
    key = _new_key(new_key_file) if key_file is None and new_key_file else _given_key(key_file)
    request = {"home_address": address, "key_hex": key.reveal().hex(), **association, **more}
    try:
        ControlClient(socket_path, timeout_s).ask("host add", request)
    except Failure:
        if new_key_file is not None:
            new_key_file.unlink()  # made a moment ago for nothing
        raise
    lines = [f"host {address} added"]
    facts = {"home_address": address}
    if new_key_file is not None:
        lines.append(f"its key is in {new_key_file}: copy it to the mobile node, mode 0600")
        facts["key_file"] = str(new_key_file)
    print_done("host add", *lines, as_json=as_json, **facts)


def _given_key(path: Path | None) -> Key:
    try:
        if path is None or str(path) == "-":
            stream = sys.stdin
            if stream.isatty():
                return Key.from_hex(click.prompt("Key (hexadecimal)", hide_input=True, err=True))
            return Key.from_hex(stream.read(MAX_KEY_FILE_LEN))
        return read_key_file(path)
    except KeyFileError as error:
        raise Failure(str(error)) from None


def _new_key(path: Path) -> Key:
    key = Key.generate()
    try:
        write_key_file(path, key)
    except FileExistsError:
        raise Failure(f"{path} exists: name a new file, or use --key-file") from None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    return key


@host.command("remove")
@click.argument("address", type=Ipv4Address())
@json_option
@control_options
def remove(socket_path: Path, timeout_s: float, address: str, *, as_json: bool) -> None:
    """Take the mobile node with home address ADDRESS out; its bindings go too."""
    ControlClient(socket_path, timeout_s).ask("host remove", {"home_address": address})
    print_done("host remove", f"host {address} removed", as_json=as_json, home_address=address)


@host.command("list")
@json_option
@control_options
def list_hosts(socket_path: Path, timeout_s: float, *, as_json: bool) -> None:
    """List the mobile nodes that may register."""
    result = ControlClient(socket_path, timeout_s).ask("host list")
    print_result("host list", result, as_json=as_json)
