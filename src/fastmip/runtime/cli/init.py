"""``fastmip init``: a matching pair of configurations with a fresh key.

Files are made from templates, checked by the same code as ``fastmip check`` before anything
is written, and written with mode 0600. Nothing is ever overwritten.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, NamedTuple

import click

from fastmip.errors import ConfigError
from fastmip.runtime.cli.failures import ConfigRefused, Failure
from fastmip.runtime.config import check_text
from fastmip.runtime.keys import Key, write_key_file, write_private_file

HOME_AGENT_TEMPLATE = """\
# Home agent. Check: fastmip check home-agent.toml   Run: fastmip run home-agent.toml
# Every key is explained in docs/configuration.md.

[daemon]
state_dir = "/var/lib/fastmip"
control_socket = "/run/fastmip/control.sock"

[home_agent]
# Mobile nodes register here: UDP port 434.
address = {home_agent}
home_network = {home_network}
{home_interface}
# Longest registration, seconds or "infinite".
max_lifetime = 1800
reverse_tunnel = "optional"

[[home_agent.host]]
home_address = {home_address}
[[home_agent.host.association]]
spi = {spi}
# Mode 0600; the mobile node has the same key.
key_file = {key_file}
algorithm = {algorithm}
"""

MOBILE_NODE_TEMPLATE = """\
# Mobile node. Check: fastmip check mobile-node.toml   Run: fastmip run mobile-node.toml
# Every key is explained in docs/configuration.md.

[daemon]
state_dir = "/var/lib/fastmip"
control_socket = "/run/fastmip/control.sock"

[mobile_node]
home_address = {home_address}
home_network = {home_network}
home_agent = {home_agent}
# Default router while at home.
home_gateway = {home_gateway}
# In order of preference.
interfaces = {interfaces}
# Seconds asked for in a registration, or "infinite".
lifetime = 300
reverse_tunnel = true

[mobile_node.association]
spi = {spi}
# Mode 0600; the home agent has the same key.
key_file = {key_file}
algorithm = {algorithm}
"""


FOREIGN_AGENT_TEMPLATE = """\
# Foreign agent. Check: fastmip check foreign-agent.toml   Run: fastmip run foreign-agent.toml
# Every key is explained in docs/configuration.md.

[daemon]
state_dir = "/var/lib/fastmip"
control_socket = "/run/fastmip/control.sock"

[foreign_agent]
# Links on which visitors are served; each has an address, which is the care-of address there.
interfaces = [{foreign_link}]
# Longest registration, seconds or "infinite".
max_lifetime = 1800
reverse_tunnel = "optional"
"""


class Pair(NamedTuple):
    """What the two configurations have in common and where they differ."""

    home_network: IPv4Network
    home_agent: IPv4Address
    home_address: IPv4Address
    home_gateway: IPv4Address
    home_interface: str | None
    interfaces: tuple[str, ...]
    foreign_link: str | None
    spi: int
    algorithm: str

    @property
    def key_name(self) -> str:
        """File name of the key, beside both configurations."""
        return f"{self.home_address}.key"

    def texts(self) -> dict[str, str]:
        """File name -> TOML text."""
        link = "# No interface: a virtual home network, nobody is ever at home."
        if self.home_interface is not None:
            link = f"# The home link.\ninterface = {json.dumps(self.home_interface)}"
        fields = {
            "home_network": json.dumps(str(self.home_network)),
            "home_agent": json.dumps(str(self.home_agent)),
            "home_address": json.dumps(str(self.home_address)),
            "home_gateway": json.dumps(str(self.home_gateway)),
            "home_interface": link,
            "interfaces": json.dumps(list(self.interfaces)),
            "spi": self.spi,
            "algorithm": json.dumps(self.algorithm),
            "key_file": json.dumps(self.key_name),
        }
        texts = {
            "home-agent.toml": HOME_AGENT_TEMPLATE.format(**fields),
            "mobile-node.toml": MOBILE_NODE_TEMPLATE.format(**fields),
        }
        if self.foreign_link is not None:
            link = json.dumps(self.foreign_link)
            texts["foreign-agent.toml"] = FOREIGN_AGENT_TEMPLATE.format(foreign_link=link)
        return texts


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.option("--home-network", default="10.1.0.0/24", show_default=True)
@click.option("--home-agent", help="Address of the home agent. [default: first of the network]")
@click.option("--home-address", help="Address of the mobile node. [default: fifth of the network]")
@click.option("--home-gateway", help="Default router at home. [default: the home agent]")
@click.option("--home-interface", default="eth0", show_default=True, help="The home link.")
@click.option("--virtual", is_flag=True, help="A virtual home network: no home link.")
@click.option(
    "--interface",
    "interfaces",
    multiple=True,
    default=("eth0",),
    show_default=True,
    help="Interface of the mobile node, in order of preference; repeat for more.",
)
@click.option("--foreign-link", help="Write foreign-agent.toml too: the link of its visitors.")
@click.option("--spi", type=click.IntRange(256, 0xFFFFFFFF), default=256, show_default=True)
@click.option(
    "--algorithm",
    type=click.Choice(["hmac-md5", "hmac-sha1", "hmac-sha256"]),
    default="hmac-sha256",
    show_default=True,
    help="hmac-md5 is what every implementation of RFC 5944 has.",
)
def init(directory: Path, *, virtual: bool, home_interface: str, **options: Any) -> None:
    """Write a matching home-agent.toml and mobile-node.toml with a fresh key to DIRECTORY."""
    pair = _pair(home_interface=None if virtual else home_interface, **options)
    texts = pair.texts()
    for name, text in texts.items():
        try:
            check_text(name, text)
        except ConfigError as error:
            raise ConfigRefused(str(error)) from None
    paths = _write(directory, texts, pair.key_name)
    for path in paths:
        click.echo(f"wrote {path}")
    home_agent, mobile_node, *visited, key = paths
    click.echo(f"home agent:  fastmip run {home_agent}")
    for foreign_agent in visited:
        click.echo(f"foreign agent: copy {foreign_agent} there, then fastmip run it")
    click.echo(f"mobile node: copy {mobile_node} and {key} there (mode 0600), then fastmip run it")


def _pair(
    *,
    home_network: object,
    home_agent: object,
    home_address: object,
    home_gateway: object,
    home_interface: str | None,
    interfaces: tuple[str, ...],
    foreign_link: str | None,
    spi: int,
    algorithm: str,
) -> Pair:
    try:
        network = IPv4Network(str(home_network))
        first = network.network_address
        agent = IPv4Address(str(home_agent)) if home_agent else first + 1
        node = IPv4Address(str(home_address)) if home_address else first + 5
        gateway = IPv4Address(str(home_gateway)) if home_gateway else agent
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return Pair(
        network, agent, node, gateway, home_interface, interfaces, foreign_link, spi, algorithm
    )


def _write(directory: Path, texts: dict[str, str], key_name: str) -> list[Path]:
    """Write all files or none; the key comes last in the list returned."""
    paths = [*(directory / name for name in texts), directory / key_name]
    existing = [str(path) for path in paths if path.is_symlink() or path.exists()]
    if existing:
        raise Failure(f"{', '.join(existing)}: exists: name another directory")
    made: list[Path] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in zip(paths, texts.values(), strict=False):
            write_private_file(path, text)
            made.append(path)
        write_key_file(paths[-1], Key.generate())
    except OSError as error:
        for path in made:
            path.unlink()
        raise Failure(f"{error.filename or directory}: {error.strerror}") from None
    return paths
