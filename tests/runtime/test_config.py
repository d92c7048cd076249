"""Configuration: what is accepted, and one line with file, key and remedy for all the rest."""

from __future__ import annotations

import copy
import os
import pickle
import re
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmip.errors import ConfigError
from fastmip.runtime import config as configuration
from fastmip.runtime.config import Config, HomeAgentConfig, load_config, load_host
from fastmip.runtime.home_policy import policy_of
from fastmip.runtime.keys import Key

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_HEX = "00112233445566778899aabbccddeeff"

HOME_AGENT = """\
[home_agent]
address = "10.1.0.1"
home_network = "10.1.0.0/24"
interface = "eth0"

[[home_agent.host]]
home_address = "10.1.0.5"
[[home_agent.host.association]]
spi = 256
key_file = "mn.key"
"""

MOBILE_NODE = """\
[mobile_node]
home_address = "10.1.0.5"
home_network = "10.1.0.0/24"
home_agent = "10.1.0.1"
interfaces = ["eth0", "wlan0"]

[mobile_node.association]
spi = 256
key_file = "mn.key"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    key = tmp_path / "mn.key"
    key.write_text(KEY_HEX + "\n")
    key.chmod(0o600)
    return tmp_path


def write(directory: Path, text: str, mode: int = 0o644) -> Path:
    path = directory / "fastmip.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def refusal(directory: Path, text: str, mode: int = 0o644) -> str:
    """Load, expect one line of refusal that starts with the file; return what follows."""
    path = write(directory, text, mode)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert KEY_HEX not in line
    return line.removeprefix(f"{path}: ").replace(str(directory), "DIR")


FOREIGN_AGENT = """
[[home_agent.foreign_agent]]
address = "10.3.1.254"
[[home_agent.foreign_agent.association]]
spi = 700
key_file = "mn.key"
"""


def test_the_policy_follows_every_key_of_the_home_agent(directory: Path) -> None:
    keys = """care_of_networks = ["10.3.0.0/16"]
strict_source = false
answer_bad_authentication = true
denials_per_second = 7
strict_reserved = true
"""
    text = HOME_AGENT.replace("[[home_agent.host]]", keys + "[[home_agent.host]]") + FOREIGN_AGENT
    policy = policy_of(load_config(write(directory, text)))
    assert [(area.network, area.length) for area in policy.care_of_prefixes] == [(0x0A030000, 16)]
    assert not policy.strict_source
    assert policy.answer_bad_authentication
    assert policy.denials_per_second == 7
    shared = policy.foreign_agents(0x0A0301FE)
    assert shared is not None
    assert shared.inbound(700) is not None
    assert policy.foreign_agents(0x0A0301FD) is None
    assert KEY_HEX not in repr(policy)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("10.3.1.254", "10.1.0.1", "foreign_agent[0].address: is the home agent's own address"),
        ("10.3.1.254", "224.0.0.9", "foreign_agent[0].address: not a unicast address"),
        ("spi = 700", "spi = 7", "foreign_agent[0].association[0].spi: SPIs below 256"),
        (
            '"mn.key"\n',
            f'"mn.key"\n{FOREIGN_AGENT}',
            "foreign_agent[1].address: 10.3.1.254 is also",
        ),
        (
            '"mn.key"',
            '"none.key"',
            "foreign_agent[0].association[0].key_file: key file DIR/none.key",
        ),
    ],
)
def test_a_wrong_foreign_agent_is_named_with_its_remedy(
    directory: Path, old: str, new: str, expected: str
) -> None:
    text = HOME_AGENT + FOREIGN_AGENT.replace(old, new)
    assert refusal(directory, text).startswith(f"home_agent.{expected}")


def test_a_home_agent_gets_the_documented_defaults(directory: Path) -> None:
    config = load_config(write(directory, HOME_AGENT))
    assert config.mobile_node is None
    assert config.daemon.state_dir == Path("/var/lib/fastmip")
    assert config.engine.max_bindings == 131072
    agent = config.home_agent
    assert agent is not None
    assert agent.address == 0x0A010001
    assert str(agent.address) == "10.1.0.1"
    assert agent.home_network == IPv4Network("10.1.0.0/24")
    assert agent.max_lifetime_s == 1800
    [host] = agent.hosts
    assert host.home_address == 0x0A010005
    assert host.associations[0].secret == bytes.fromhex(KEY_HEX)
    assert host.associations[0].replay_window == 7


def test_a_mobile_node_uses_its_home_agent_as_gateway_unless_told(directory: Path) -> None:
    node = load_config(write(directory, MOBILE_NODE)).mobile_node
    assert node is not None
    assert str(node.gateway) == "10.1.0.1"
    assert (node.lifetime_s, node.table, node.fwmark) == (300, 434, 0x434)
    text = MOBILE_NODE.replace("interfaces", 'home_gateway = "10.1.0.254"\ninterfaces')
    node = load_config(write(directory, text)).mobile_node
    assert node is not None
    assert str(node.gateway) == "10.1.0.254"


def test_infinite_lifetime_is_the_wire_value_rfc5944_3_3(directory: Path) -> None:
    text = HOME_AGENT.replace("interface =", 'max_lifetime = "infinite"\ninterface =')
    agent = load_config(write(directory, text)).home_agent
    assert agent is not None
    assert agent.max_lifetime_s == 0xFFFF


def test_a_key_may_stand_in_a_private_file(directory: Path) -> None:
    text = HOME_AGENT.replace('key_file = "mn.key"', f'key = "{KEY_HEX}"')
    agent = load_config(write(directory, text, 0o600)).home_agent
    assert agent is not None
    assert agent.hosts[0].associations[0].secret == bytes.fromhex(KEY_HEX)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # what the parser sees
        ("[home_agent]", "[home_agent", "line 1, column 12: Expected ']' at the end"),
        ("spi = 256", "spi = 256\nspi = 257", "line 10, column 10: Cannot overwrite a value"),
        # types and ranges
        ("address =", "adress =", "home_agent.adress: unknown key: did you mean address?"),
        ("[home_agent]", "[router]\n[home_agent]", "router: unknown key: remove it, known here"),
        ('address = "10.1.0.1"', "", "home_agent.address: missing: add an IPv4 address"),
        ('"10.1.0.1"', "5", "home_agent.address: expected an IPv4 address such as"),
        ('"10.1.0.1"', '"10.1.0.256"', "home_agent.address: expected an IPv4 address such as"),
        ('"10.1.0.1"', '"fe80::1"', "home_agent.address: expected an IPv4 address such as"),
        ("10.1.0.0/24", "10.1.0.7/24", 'home_agent.home_network: host bits are set: write "10.1'),
        ("10.1.0.0/24", "10.1.0.0", "home_agent.home_network: expected an IPv4 network such as"),
        ("10.1.0.0/24", "10.1.0.0/33", "home_agent.home_network: expected an IPv4 network"),
        ('"eth0"', "true", "home_agent.interface: expected a string, got bool"),
        ("spi = 256", 'spi = "256"', "home_agent.host[0].association[0].spi: expected an integer "),
        ("spi = 256", "spi = 4294967296", "home_agent.host[0].association[0].spi: expected an int"),
        ("spi = 256", f"spi = {2**70}", "home_agent.host[0].association[0].spi: "),
        ("spi = 256", f"spi = 1{'0' * 5000}", "(file): holds a number out of range"),
        (
            "spi = 256",
            'spi = 256\nalgorithm = "md5"',
            'home_agent.host[0].association[0].algorithm: expected "hmac-md5" or "hmac-sha1"',
        ),
        (
            "spi = 256",
            "spi = 256\nreplay_window = 0",
            "home_agent.host[0].association[0].replay_window: expected an integer from 1 to 3600",
        ),
        (
            "interface =",
            "max_lifetime = 65535\ninterface =",
            'home_agent.max_lifetime: expected an integer from 1 to 65534 or "infinite"',
        ),
        (
            "interface =",
            'max_lifetime = "forever"\ninterface =',
            'home_agent.max_lifetime: expected an integer from 1 to 65534 or "infinite"',
        ),
        (
            "interface =",
            "max_simultaneous = 9\ninterface =",
            "home_agent.max_simultaneous: expected an integer from 1 to 8",
        ),
        (
            "interface =",
            "path_mtu = 575\ninterface =",
            "home_agent.path_mtu: expected an integer from 576 to 65535",
        ),
        (
            "interface =",
            "path_mtu = 1500.0\ninterface =",
            "home_agent.path_mtu: expected an integer from 576 to 65535, got float",
        ),
        ("[home_agent]", '[engine]\nio = "usb"\n[home_agent]', 'engine.io: expected "kernel"'),
        ("[home_agent]", "[[engine]]\n[home_agent]", "engine: expected a table, got array"),
        # meaning
        (
            "[home_agent]",
            '[daemon]\nstate_dir = "var"\n[home_agent]',
            "daemon.state_dir: use an absolute path",
        ),
        (
            "[home_agent]",
            '[daemon]\ncontrol_socket = "run/x"\n[home_agent]',
            "daemon.control_socket: use an absolute path",
        ),
        (
            "[home_agent]",
            f'[daemon]\ncontrol_socket = "/{"x" * 107}"\n[home_agent]',
            "daemon.control_socket: use a path of at most 107 bytes",
        ),
        ("10.1.0.0/24", "10.1.0.0/31", "home_agent.home_network: use a prefix length"),
        ("10.1.0.0/24", "224.1.0.0/24", "home_agent.home_network: not a network of unicast"),
        ('"10.1.0.1"', '"224.0.0.1"', "home_agent.address: not a unicast address"),
        ('"10.1.0.1"', '"127.0.0.1"', "home_agent.address: not a unicast address"),
        ('"10.1.0.1"', '"0.0.0.0"', "home_agent.address: not a unicast address"),
        ('"10.1.0.1"', '"255.255.255.255"', "home_agent.address: not a unicast address"),
        ('"10.1.0.1"', '"10.1.0.255"', "home_agent.address: is the network or broadcast address"),
        ('"eth0"', '"a-very-long-name"', "home_agent.interface: interface name too long: use at "),
        ('"eth0"', '"eth 0"', "home_agent.interface: not an interface name"),
        ('"eth0"', '"a/b"', "home_agent.interface: not an interface name"),
        ('"eth0"', '".."', "home_agent.interface: not an interface name"),
        ('"eth0"', '""', "home_agent.interface: not an interface name"),
        ('"eth0"', '"eth0\\n"', "home_agent.interface: not an interface name"),
        ('"eth0"', '"fmha0"', "home_agent.tunnel_device: must differ from home_agent.interface"),
        (
            '"10.1.0.5"',
            '"10.2.0.5"',
            "home_agent.host[0].home_address: not in home_network 10.1.0.0/24: use an address",
        ),
        (
            '"10.1.0.5"',
            '"10.1.0.1"',
            "home_agent.host[0].home_address: is the home agent's own address",
        ),
        (
            '"10.1.0.5"',
            '"10.1.0.0"',
            "home_agent.host[0].home_address: is the network or broadcast address",
        ),
        (
            "spi = 256",
            "spi = 255",
            "home_agent.host[0].association[0].spi: SPIs below 256 are reserved (RFC 5944 1.6)",
        ),
        (
            'key_file = "mn.key"',
            "",
            "home_agent.host[0].association[0].key_file: missing: name a file with the key",
        ),
        (
            'key_file = "mn.key"',
            f'key_file = "mn.key"\nkey = "{KEY_HEX}"',
            "home_agent.host[0].association[0].key: key_file is set too: remove one of them",
        ),
        (
            'key_file = "mn.key"',
            f'key = "{KEY_HEX}"',
            "home_agent.host[0].association[0].key: the file has mode 0644: run chmod 600 DIR",
        ),
        (
            'key_file = "mn.key"',
            f'key = "{KEY_HEX[2:]}"',
            "home_agent.host[0].association[0].key: the key has 15 bytes: use at least 16",
        ),
        (
            'key_file = "mn.key"',
            f'key = "{"00" * 257}"',
            "home_agent.host[0].association[0].key: the key has 257 bytes: use at most 256",
        ),
        (
            'key_file = "mn.key"',
            f'key = "{KEY_HEX}x"',
            "home_agent.host[0].association[0].key: the key is not an even number of hexadecimal",
        ),
        (
            'key_file = "mn.key"',
            "key = 5",
            "home_agent.host[0].association[0].key: expected a string of hexadecimal digits",
        ),
        (
            'key_file = "mn.key"',
            'key_file = ""',
            "home_agent.host[0].association[0].key_file: expected a path",
        ),
        (
            'key_file = "mn.key"',
            'key_file = "absent.key"',
            "home_agent.host[0].association[0].key_file: key file DIR/absent.key does not exist",
        ),
        (
            'key_file = "mn.key"',
            'key_file = "mn.key"\ndirection = "inbound"',
            "home_agent.host[0].association: none is for outbound messages: set direction",
        ),
        (
            'key_file = "mn.key"',
            'key_file = "mn.key"\n[[home_agent.host.association]]\nspi=256\nkey_file = "mn.key"',
            "home_agent.host[0].association: SPI 256 is used 2 times for inbound messages",
        ),
        (
            "[[home_agent.host.association]]\nspi = 256\nkey_file",
            "association = []\n#",
            "home_agent.host[0].association: missing: add an association with a key",
        ),
        (
            "[[home_agent.host]]",
            '[[home_agent.host]]\nhome_address = "10.1.0.5"\n'
            '[[home_agent.host.association]]\nspi=256\nkey_file="mn.key"\n[[home_agent.host]]',
            "home_agent.host[1].home_address: 10.1.0.5 is also host[0]: remove one of them",
        ),
        (
            "[home_agent]",
            "[engine]\nmax_bindings = 1\n"
            '[[home_agent.host]]\nhome_address = "10.1.0.6"\n'
            '[[home_agent.host.association]]\nspi=256\nkey_file="mn.key"\n[home_agent]',
            "engine.max_bindings: set it to at least 2, the number of hosts",
        ),
        (
            "[home_agent]",
            '[engine]\nio = "xdp"\n[home_agent]',
            'engine.interfaces: io = "xdp" needs the interfaces that carry tunnels',
        ),
        (
            "[home_agent]",
            '[engine]\ninterfaces = ["eth0"]\n[home_agent]',
            'engine.interfaces: is for io = "xdp" and offload only: set one of them',
        ),
        (
            "[home_agent]",
            '[engine]\nio = "xdp"\ninterfaces = ["eth0", "eth1", "eth0"]\n[home_agent]',
            "engine.interfaces[2]: eth0 is named twice: remove one",
        ),
        (
            "[home_agent]",
            '[engine]\nio = "xdp"\ninterfaces = ["eth 0"]\n[home_agent]',
            "engine.interfaces[0]: ",
        ),
        (
            "[home_agent]",
            '[engine]\nio = "xdp"\ninterfaces = ["fmha0"]\n[home_agent]',
            "engine.interfaces: fmha0 is the tunnel device: name its carriers instead",
        ),
        (
            "[home_agent]",
            f'[engine]\nio = "xdp"\ninterfaces = {[f"e{i}" for i in range(17)]}\n[home_agent]',
            "engine.interfaces: 17 interfaces: XDP has room for 16",
        ),
        (
            "[home_agent]",
            "[engine]\noffload = true\n[home_agent]",
            "engine.interfaces: offload needs the interfaces that carry tunnels",
        ),
        (
            "[home_agent]",
            '[engine]\noffload_hook = "tc"\n[home_agent]',
            'engine.offload_hook: at TC only offload with another io than "xdp" has a program',
        ),
        (
            "[home_agent]",
            '[engine]\nio = "xdp"\noffload = true\noffload_hook = "tc"\n[home_agent]',
            'engine.offload_hook: at TC only offload with another io than "xdp" has a program',
        ),
    ],
)
def test_a_home_agent_file_is_refused_with_key_and_remedy(
    directory: Path, old: str, new: str, expected: str
) -> None:
    assert HOME_AGENT.count(old) >= 1
    assert refusal(directory, HOME_AGENT.replace(old, new, 1)).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'home_address = "10.1.0.5"',
            'home_address = "10.2.0.5"',
            "mobile_node.home_address: not in home_network 10.1.0.0/24",
        ),
        (
            'home_agent = "10.1.0.1"',
            'home_agent = "10.1.0.5"',
            "mobile_node.home_address: is the home agent's address: use another",
        ),
        (
            'home_agent = "10.1.0.1"',
            'home_agent = "192.0.2.1"',
            "mobile_node.home_agent: not in home_network 10.1.0.0/24: set home_gateway",
        ),
        (
            "interfaces",
            'home_gateway = "10.2.0.1"\ninterfaces',
            "mobile_node.home_gateway: not in home_network 10.1.0.0/24: set home_gateway",
        ),
        (
            "interfaces",
            'home_gateway = "10.1.0.5"\ninterfaces',
            "mobile_node.home_gateway: is the home address: use the router's address",
        ),
        ('["eth0", "wlan0"]', "[]", "mobile_node.interfaces: empty: name at least one"),
        ('["eth0", "wlan0"]', '"eth0"', "mobile_node.interfaces: expected a list, each a string"),
        ('"wlan0"', "1", "mobile_node.interfaces[1]: expected a string, got int"),
        ('"wlan0"', '"eth0"', "mobile_node.interfaces[1]: eth0 is named twice: remove one"),
        ('"wlan0"', '"averylonginterface"', "mobile_node.interfaces[1]: interface name too long"),
        ('"wlan0"', '"fmmn0"', "mobile_node.tunnel_device: is also in mobile_node.interfaces"),
        ("interfaces", "table = 254\ninterfaces", "mobile_node.table: 254 is the kernel's table "),
        ("interfaces", "fwmark = 0\ninterfaces", "mobile_node.fwmark: expected an integer from 1"),
        (
            "spi = 256",
            'spi = 256\ndirection = "inbound"',
            'mobile_node.association.direction: a mobile node needs "both"',
        ),
        ("spi = 256", "spi = 2", "mobile_node.association.spi: SPIs below 256 are reserved"),
        ("[mobile_node.association]", "[x]", "x: unknown key"),
        ("interfaces", 'encapsulation = "esp"\ninterfaces', "mobile_node.encapsulation: expected"),
    ],
)
def test_a_mobile_node_file_is_refused_with_key_and_remedy(
    directory: Path, old: str, new: str, expected: str
) -> None:
    assert MOBILE_NODE.count(old) >= 1
    text = MOBILE_NODE.replace(old, new, 1)
    if old == "[mobile_node.association]":
        text = text.replace("interfaces", 'association = {spi=256, key_file="mn.key"}\ninterfaces')
    assert refusal(directory, text).startswith(expected)


def test_associations_are_built_as_configured(directory: Path) -> None:
    extra = """
algorithm = "hmac-sha256"
replay = "nonces"
replay_window = 30
direction = "inbound"
[[home_agent.host.association]]
spi = 512
key_file = "mn.key"
direction = "outbound"
"""
    host = agent_of(directory, HOME_AGENT + extra).hosts[0]
    associations = host.association_set()
    inbound = associations.inbound(256)
    assert inbound is not None
    assert inbound.key == bytes.fromhex(KEY_HEX)
    assert (inbound.algorithm.value, inbound.replay.value) == ("hmac-sha256", "nonces")
    assert inbound.window_s == 30
    assert associations.inbound(512) is None
    outbound = associations.outbound()
    assert outbound is not None
    assert (outbound.spi, outbound.algorithm.value) == (512, "hmac-md5")
    node = load_config(write(directory, MOBILE_NODE)).mobile_node
    assert node is not None
    assert node.association_set().outbound(256) == node.association_set().inbound(256)


def test_two_roles_may_not_share_networks_or_devices(directory: Path) -> None:
    both = HOME_AGENT + MOBILE_NODE
    assert refusal(directory, both).startswith("mobile_node.home_network: overlaps home_agent.home")
    apart = HOME_AGENT + MOBILE_NODE.replace("10.1.0.", "10.9.0.")
    config = load_config(write(directory, apart))
    assert config.home_agent is not None
    assert config.mobile_node is not None
    shared = apart.replace("[mobile_node]", '[mobile_node]\ntunnel_device = "fmha0"')
    assert refusal(directory, shared).startswith("mobile_node.tunnel_device: is used by another")
    taken = apart.replace('"wlan0"', '"fmha0"')
    assert refusal(directory, taken).startswith("home_agent.tunnel_device: is also in mobile_node")


def test_a_file_without_a_role_is_refused(directory: Path) -> None:
    assert refusal(directory, "").startswith("(file): no role: add a [home_agent], a [foreign_ag")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_file_others_can_reach_is_refused(directory: Path, mode: int) -> None:
    (directory / "mn.key").chmod(mode)
    assert refusal(directory, HOME_AGENT) == (
        f"home_agent.host[0].association[0].key_file: key file DIR/mn.key has mode {mode:04o}: "
        "run chmod 600 DIR/mn.key"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the key has 0 bytes: use at least 16 (RFC 5944 5.1)"),
        (KEY_HEX[:-2], "the key has 15 bytes: use at least 16 (RFC 5944 5.1)"),
        (KEY_HEX[:-1], "the key is not an even number of hexadecimal digits"),
        ("\u00e9" * 32, "the key is not an even number of hexadecimal digits"),
        ("a" * 5000, "DIR/mn.key has 5000 bytes: it is not a key file"),
    ],
)
def test_a_bad_key_file_is_refused(directory: Path, content: str, expected: str) -> None:
    (directory / "mn.key").write_text(content)
    assert refusal(directory, HOME_AGENT).endswith(expected)


def test_a_key_file_may_have_white_space_and_a_prefix(directory: Path) -> None:
    (directory / "mn.key").write_text(f" 0x{KEY_HEX.upper()} \n")
    agent = agent_of(directory)
    assert agent.hosts[0].associations[0].secret == bytes.fromhex(KEY_HEX)


def test_a_fifo_or_directory_in_place_of_a_file_neither_hangs_nor_passes(directory: Path) -> None:
    (directory / "mn.key").unlink()
    os.mkfifo(directory / "mn.key", 0o600)
    assert refusal(directory, HOME_AGENT).endswith("is not a regular file: name a file, mode 0600")
    os.mkfifo(directory / "fifo.toml")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(directory / "fifo.toml")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(directory)
    with pytest.raises(ConfigError, match="No such file or directory: name a readable file"):
        load_config(directory / "absent.toml")
    with pytest.raises(ConfigError, match="not a path"):
        load_config("a\0b")


def test_binary_files_and_deep_nesting_are_refused(directory: Path) -> None:
    path = directory / "fastmip.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="byte 0: not UTF-8"):
        load_config(path)
    assert refusal(directory, "a = " + "[" * 100_000).startswith("(file): nested too deeply")


def test_the_key_never_shows_itself(directory: Path) -> None:
    config = load_config(write(directory, HOME_AGENT + MOBILE_NODE.replace("10.1.0.", "10.9.0.")))
    assert config.home_agent is not None
    key = config.home_agent.hosts[0].associations[0].key
    for text in (repr(config), str(config), repr(key), str(key), f"{key}", f"{config}"):
        assert KEY_HEX not in text
        assert repr(bytes.fromhex(KEY_HEX))[2:-1] not in text
    assert "Key(16 bytes withheld)" in repr(config)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.deepcopy(key)
    with pytest.raises(TypeError, match="unhashable"):
        hash(key)
    assert key == Key(bytes.fromhex(KEY_HEX))
    assert key != Key(bytes(16))


def agent_of(directory: Path, text: str = HOME_AGENT) -> HomeAgentConfig:
    agent = load_config(write(directory, text)).home_agent
    assert agent is not None
    return agent


def test_a_host_added_on_the_run_passes_the_same_checks(directory: Path) -> None:
    agent = agent_of(directory)
    request = {"home_address": "10.1.0.9", "association": [{"spi": 300, "key": KEY_HEX}]}
    host = load_host("host add", request, agent)
    assert str(host.home_address) == "10.1.0.9"
    with pytest.raises(ConfigError, match=r"^host add: host\.home_address: not in home_network"):
        load_host("host add", {**request, "home_address": "10.2.0.9"}, agent)
    with pytest.raises(ConfigError, match=r"^host add: host\.association\[0\]\.spi: SPIs below"):
        load_host("host add", {**request, "association": [{"spi": 1, "key": KEY_HEX}]}, agent)
    with pytest.raises(ConfigError, match=r"^host add: association\[0\]\.key: the key has 1 byte"):
        load_host("host add", {**request, "association": [{"spi": 300, "key": "00"}]}, agent)


SCALARS = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.datetimes(),
    st.dates(),
    st.sampled_from(["10.1.0.1", "10.1.0.0/24", "eth0", "infinite", KEY_HEX]),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            *("daemon", "engine", "home_agent", "mobile_node", "host", "association", "spi"),
            *("address", "home_network", "home_address", "key", "key_file", "interfaces"),
        ]
    ),
    st.text(max_size=8),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


def refusal_of(attempt: Callable[[], object]) -> str:
    """Return the refusal, checked for its form, or nothing; any other exception gets through."""
    try:
        attempt()
    except ConfigError as error:
        line = str(error)
    else:
        return ""
    assert re.fullmatch(r"f\.toml: .+: .+", line)
    return line


@given(st.dictionaries(NAMES, VALUES, max_size=5))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_document_is_a_configuration_or_one_line(document: dict[str, Any]) -> None:
    line = refusal_of(lambda: configuration.convert("f.toml", document, Config))
    assert KEY_HEX not in line


@given(
    st.sampled_from(HOME_AGENT.splitlines() + MOBILE_NODE.splitlines()),
    VALUES,
)
def test_any_value_at_any_key_is_accepted_or_one_line(line: str, value: Any) -> None:
    name = line.partition(" = ")[0]
    document = configuration.parse_toml("f.toml", HOME_AGENT.encode())
    document |= configuration.parse_toml("f.toml", MOBILE_NODE.encode())
    for table in _tables(document):
        if name in table:
            table[name] = value
    refusal_of(lambda: configuration.convert("f.toml", document, Config))


def _tables(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(table for inner in value.values() for table in _tables(inner))]
    if isinstance(value, list):
        return [table for inner in value for table in _tables(inner)]
    return []


@given(st.binary(max_size=200))
def test_any_bytes_are_toml_or_one_line(data: bytes) -> None:
    refusal_of(lambda: configuration.parse_toml("f.toml", data))
