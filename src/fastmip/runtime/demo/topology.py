"""The networks a lab can be built as: machines, wires, links, addresses and routes.

One Linux network namespace per machine, all kernels stock. In both the core ``inet`` joins the
correspondent ``cn``, the home agent ``ha`` with its home link and the visited networks, whose
links are bridges in the namespace ``sw``::

    cn 10.9.0.7 --- inet --- ha 10.1.0.1 === home link 10.1.0.0/24 (hh .50, hh2 .51)

``ROUTERS_ONLY``: two visited links with plain routers, on which a mobile node has an address of
its own. ``AGENTS``: two links with foreign agents, one with a plain router, and a private one
behind an address translator, where a third foreign agent has a link of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HOME_ADDRESS = "10.1.0.5"
HOME_AGENT = "10.1.0.1"
HOME_NETWORK = "10.1.0.0/24"
CORRESPONDENT = "10.9.0.7"
HOME_HOST = "10.1.0.50"
OTHER_HOME_HOST = "10.1.0.51"
PORTS = ("eth0", "wlan0")


@dataclass(frozen=True, slots=True)
class Link:
    """A link the mobile node can be attached to, and what its DHCP server would say."""

    name: str
    bridge: str
    gateway: str
    leases: Mapping[str, str] = field(default_factory=dict)
    """Address that each port of the mobile node gets, with its prefix length; none: no DHCP."""
    agent: str = ""
    """The foreign agent of this link."""
    translated: str = ""
    """Address by which an address translator lets the link be known outside."""

    def care_of_address(self, port: str) -> str:
        """What a node whose port is on this link registers."""
        return self.agent or self.leases[port].partition("/")[0]

    def tunnel_end(self, port: str) -> str:
        """Where the home agent's tunnel to that node ends, seen from outside."""
        return self.translated or self.care_of_address(port)


@dataclass(frozen=True, slots=True)
class Topology:
    """A network of machines."""

    nodes: tuple[str, ...]
    routers: tuple[str, ...]
    links: Mapping[str, Link]
    wires: tuple[tuple[str, str, str, str], ...]
    """(machine, port, machine, port)."""
    fixed_ports: Mapping[str, str]
    """Ports of ``sw`` that never move, and their bridges."""
    addresses: tuple[tuple[str, str, str], ...]
    routes: tuple[tuple[str, str, str], ...]
    """(machine, destination, gateway)."""
    filters: tuple[tuple[str, str], ...]
    """(machine, port): takes only sources that it would route there (BCP 38)."""
    translators: tuple[tuple[str, str], ...] = ()
    """(machine, port): what leaves there gets the port's address as its source."""


HOME = Link("home", "home", HOME_AGENT, {"eth0": "10.1.0.205/24", "wlan0": "10.1.0.206/24"})
VISITED_A = Link("A", "visit-a", "10.3.1.254", {"eth0": "10.3.1.5/24", "wlan0": "10.3.1.6/24"})
VISITED_B = Link("B", "visit-b", "10.3.2.254", {"eth0": "10.3.2.5/24", "wlan0": "10.3.2.6/24"})
FOREIGN_1 = Link("fa1", "visit-1", "10.3.1.1", agent="10.3.1.1")
FOREIGN_2 = Link("fa2", "visit-2", "10.3.2.1", agent="10.3.2.1")
PLAIN = Link("ar3", "visit-3", "10.3.3.254", {"eth0": "10.3.3.5/24", "wlan0": "10.3.3.6/24"})
PRIVATE = Link(
    "nat",
    "visit-n",
    "192.168.7.1",
    {"eth0": "192.168.7.5/24", "wlan0": "192.168.7.6/24"},
    translated="10.4.0.2",
)
BEHIND = Link(
    "fa3",
    "visit-4",
    "10.3.4.1",
    {"eth0": "10.3.4.5/24", "wlan0": "10.3.4.6/24"},
    agent="10.3.4.1",
    translated="10.4.0.2",
)

_HOME_WIRES = (
    ("cn", "eth0", "inet", "to-cn"),
    ("inet", "to-ha", "ha", "eth1"),
    ("ha", "eth0", "sw", "p-ha"),
    ("hh", "eth0", "sw", "p-hh"),
    ("hh2", "eth0", "sw", "p-hh2"),
    ("mn", "eth0", "sw", "p-eth0"),
    ("mn", "wlan0", "sw", "p-wlan0"),
)
_HOME_PORTS = {"p-ha": "home", "p-hh": "home", "p-hh2": "home"}
_HOME_ADDRESSES = (
    ("cn", "eth0", "10.9.0.7/24"),
    ("inet", "to-cn", "10.9.0.1/24"),
    ("inet", "to-ha", "10.8.0.254/24"),
    ("ha", "eth1", "10.8.0.1/24"),
    ("ha", "eth0", "10.1.0.1/24"),
    ("hh", "eth0", "10.1.0.50/24"),
    ("hh2", "eth0", "10.1.0.51/24"),
)
_HOME_ROUTES = (
    ("cn", "default", "10.9.0.1"),
    ("ha", "default", "10.8.0.254"),
    ("hh", "default", "10.1.0.1"),
    ("hh2", "default", "10.1.0.1"),
    ("inet", HOME_NETWORK, "10.8.0.1"),
)

ROUTERS_ONLY = Topology(
    nodes=("cn", "inet", "ha", "hh", "hh2", "ar1", "ar2", "sw", "mn"),
    routers=("inet", "ha", "ar1", "ar2"),
    links={link.name: link for link in (HOME, VISITED_A, VISITED_B)},
    wires=(
        *_HOME_WIRES,
        ("inet", "to-ar1", "ar1", "up0"),
        ("inet", "to-ar2", "ar2", "up0"),
        ("ar1", "visit0", "sw", "p-ar1"),
        ("ar2", "visit0", "sw", "p-ar2"),
    ),
    fixed_ports={**_HOME_PORTS, "p-ar1": "visit-a", "p-ar2": "visit-b"},
    addresses=(
        *_HOME_ADDRESSES,
        ("inet", "to-ar1", "10.8.1.254/24"),
        ("inet", "to-ar2", "10.8.2.254/24"),
        ("ar1", "up0", "10.8.1.1/24"),
        ("ar1", "visit0", "10.3.1.254/24"),
        ("ar2", "up0", "10.8.2.1/24"),
        ("ar2", "visit0", "10.3.2.254/24"),
    ),
    routes=(
        *_HOME_ROUTES,
        ("ar1", "default", "10.8.1.254"),
        ("ar2", "default", "10.8.2.254"),
        ("inet", "10.3.1.0/24", "10.8.1.1"),
        ("inet", "10.3.2.0/24", "10.8.2.1"),
    ),
    filters=(("ar1", "visit0"), ("ar2", "visit0")),
)

AGENTS = Topology(
    nodes=(
        *("cn", "inet", "ha", "hh", "hh2", "fa1", "fa2", "fa3", "ar3", "nat"),
        *("lh1", "lh3", "sw", "mn"),
    ),
    routers=("inet", "ha", "fa1", "fa2", "fa3", "ar3", "nat"),
    links={link.name: link for link in (HOME, FOREIGN_1, FOREIGN_2, PLAIN, PRIVATE, BEHIND)},
    wires=(
        *_HOME_WIRES,
        ("inet", "to-fa1", "fa1", "up0"),
        ("inet", "to-fa2", "fa2", "up0"),
        ("inet", "to-ar3", "ar3", "up0"),
        ("inet", "to-nat", "nat", "up0"),
        ("fa1", "visit0", "sw", "p-fa1"),
        ("fa2", "visit0", "sw", "p-fa2"),
        ("ar3", "visit0", "sw", "p-ar3"),
        ("nat", "visit0", "sw", "p-nat"),
        ("fa3", "up0", "sw", "p-fa3-up"),
        ("fa3", "visit0", "sw", "p-fa3"),
        ("lh1", "eth0", "sw", "p-lh1"),
        ("lh3", "eth0", "sw", "p-lh3"),
    ),
    fixed_ports={
        **_HOME_PORTS,
        **{"p-fa1": "visit-1", "p-fa2": "visit-2", "p-ar3": "visit-3", "p-nat": "visit-n"},
        **{"p-fa3-up": "visit-n", "p-fa3": "visit-4", "p-lh1": "visit-1", "p-lh3": "visit-3"},
    },
    addresses=(
        *_HOME_ADDRESSES,
        ("inet", "to-fa1", "10.8.1.254/24"),
        ("inet", "to-fa2", "10.8.2.254/24"),
        ("inet", "to-ar3", "10.8.3.254/24"),
        ("inet", "to-nat", "10.4.0.1/24"),
        ("fa1", "up0", "10.8.1.1/24"),
        ("fa1", "visit0", "10.3.1.1/24"),
        ("fa2", "up0", "10.8.2.1/24"),
        ("fa2", "visit0", "10.3.2.1/24"),
        ("ar3", "up0", "10.8.3.1/24"),
        ("ar3", "visit0", "10.3.3.254/24"),
        ("nat", "up0", "10.4.0.2/24"),
        ("nat", "visit0", "192.168.7.1/24"),
        ("fa3", "up0", "192.168.7.2/24"),
        ("fa3", "visit0", "10.3.4.1/24"),
        ("lh1", "eth0", "10.3.1.50/24"),
        ("lh3", "eth0", "10.3.3.50/24"),
    ),
    routes=(
        *_HOME_ROUTES,
        ("fa1", "default", "10.8.1.254"),
        ("fa2", "default", "10.8.2.254"),
        ("ar3", "default", "10.8.3.254"),
        ("nat", "default", "10.4.0.1"),
        ("nat", "10.3.4.0/24", "192.168.7.2"),
        ("fa3", "default", "192.168.7.1"),
        ("lh1", "default", "10.3.1.1"),
        ("lh3", "default", "10.3.3.254"),
        ("inet", "10.3.1.0/24", "10.8.1.1"),
        ("inet", "10.3.2.0/24", "10.8.2.1"),
        ("inet", "10.3.3.0/24", "10.8.3.1"),
    ),
    filters=(("inet", "to-fa1"), ("inet", "to-fa2"), ("ar3", "visit0"), ("nat", "visit0")),
    translators=(("nat", "up0"),),
)
