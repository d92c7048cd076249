"""The network of the aircraft: two home agents, two ground stations, networks on board.

::

    cn 10.9.0.7 --- inet --- haw 10.1.0.1 (WUSTL.EDU)    haa 10.2.0.1 (AA.COM)
                      |
         fa1 10.3.1.1, fa2 10.3.2.1 (ground stations), ar3 10.3.3.254 (no agent)
                      :
                     mr 10.2.0.9, on board 10.2.8.0/24 --- mn 10.1.0.5, lfn .20, mr2
                                       mr2 10.2.0.10, behind it 10.2.9.0/24 --- lfn2 .20

Both home networks are links of their own. ``Lab.plug`` moves the ports ``mr``, ``mr2`` and ``mn``.
"""

from __future__ import annotations

from fastmip.runtime.demo.topology import Link, Topology

WUSTL, AIRLINE = "10.1.0.1", "10.2.0.1"
LAPTOP, PLANE, SECOND_ROUTER = "10.1.0.5", "10.2.0.9", "10.2.0.10"
ON_BOARD, BEHIND_SECOND = "10.2.8.0/24", "10.2.9.0/24"
CABIN, CABIN_AGENT = "cabin", "10.2.8.1"
SEAT, SECOND_SEAT = "10.2.8.20", "10.2.9.20"
"""Fixed hosts on board."""

GROUND_1 = Link("fa1", "ground-1", "10.3.1.1", agent="10.3.1.1")
GROUND_2 = Link("fa2", "ground-2", "10.3.2.1", agent="10.3.2.1")
PLAIN = Link("ar3", "ground-3", "10.3.3.254", {"mr": "10.3.3.9/24"})
BOARD = Link("cabin", "cabin", CABIN_AGENT, agent=CABIN_AGENT)
AIRLINE_HOME = Link("AA.COM", "home-a", AIRLINE)
WUSTL_HOME = Link("WUSTL.EDU", "home-w", WUSTL)

AIRCRAFT = Topology(
    nodes=(
        *("cn", "inet", "haw", "haa", "fa1", "fa2", "ar3", "sw"),
        *("mr", "mn", "lfn", "mr2", "lfn2"),
    ),
    routers=("inet", "haw", "haa", "fa1", "fa2", "ar3", "mr"),
    links={link.name: link for link in (GROUND_1, GROUND_2, PLAIN, BOARD, AIRLINE_HOME, WUSTL_HOME)}
    | {"behind": Link("behind", "behind", "10.2.9.1")},
    wires=(
        ("cn", "eth0", "inet", "to-cn"),
        ("inet", "to-haw", "haw", "up0"),
        ("inet", "to-haa", "haa", "up0"),
        ("inet", "to-fa1", "fa1", "up0"),
        ("inet", "to-fa2", "fa2", "up0"),
        ("inet", "to-ar3", "ar3", "up0"),
        ("haw", "home0", "sw", "p-haw"),
        ("haa", "home0", "sw", "p-haa"),
        ("fa1", "visit0", "sw", "p-fa1"),
        ("fa2", "visit0", "sw", "p-fa2"),
        ("ar3", "visit0", "sw", "p-ar3"),
        ("mr", "up0", "sw", "p-mr"),
        ("mr", "cabin0", "sw", "p-cabin"),
        ("mn", "eth0", "sw", "p-mn"),
        ("lfn", "eth0", "sw", "p-lfn"),
        ("mr2", "up0", "sw", "p-mr2"),
        ("mr2", "in0", "sw", "p-in2"),
        ("lfn2", "eth0", "sw", "p-lfn2"),
    ),
    fixed_ports={
        **{"p-haw": "home-w", "p-haa": "home-a"},
        **{"p-fa1": "ground-1", "p-fa2": "ground-2", "p-ar3": "ground-3"},
        **{"p-cabin": "cabin", "p-lfn": "cabin", "p-in2": "behind", "p-lfn2": "behind"},
    },
    addresses=(
        ("cn", "eth0", "10.9.0.7/24"),
        ("inet", "to-cn", "10.9.0.1/24"),
        ("inet", "to-haw", "10.8.0.254/24"),
        ("inet", "to-haa", "10.8.5.254/24"),
        ("inet", "to-fa1", "10.8.1.254/24"),
        ("inet", "to-fa2", "10.8.2.254/24"),
        ("inet", "to-ar3", "10.8.3.254/24"),
        ("haw", "up0", "10.8.0.1/24"),
        ("haw", "home0", "10.1.0.1/24"),
        ("haa", "up0", "10.8.5.1/24"),
        ("haa", "home0", "10.2.0.1/24"),
        ("fa1", "up0", "10.8.1.1/24"),
        ("fa1", "visit0", "10.3.1.1/24"),
        ("fa2", "up0", "10.8.2.1/24"),
        ("fa2", "visit0", "10.3.2.1/24"),
        ("ar3", "up0", "10.8.3.1/24"),
        ("ar3", "visit0", "10.3.3.254/24"),
        ("mr", "cabin0", "10.2.8.1/24"),
        ("lfn", "eth0", "10.2.8.20/24"),
        ("mr2", "in0", "10.2.9.1/24"),
        ("lfn2", "eth0", "10.2.9.20/24"),
    ),
    routes=(
        ("cn", "default", "10.9.0.1"),
        ("haw", "default", "10.8.0.254"),
        ("haa", "default", "10.8.5.254"),
        ("fa1", "default", "10.8.1.254"),
        ("fa2", "default", "10.8.2.254"),
        ("ar3", "default", "10.8.3.254"),
        ("lfn", "default", "10.2.8.1"),
        ("lfn2", "default", "10.2.9.1"),
        ("inet", "10.1.0.0/24", "10.8.0.1"),
        ("inet", "10.2.0.0/16", "10.8.5.1"),
        ("inet", "10.3.1.0/24", "10.8.1.1"),
        ("inet", "10.3.2.0/24", "10.8.2.1"),
        ("inet", "10.3.3.0/24", "10.8.3.1"),
    ),
    filters=(("inet", "to-fa1"), ("inet", "to-fa2"), ("ar3", "visit0")),
)

_DAEMON = """\
[daemon]
state_dir = "{directory}/{node}-state"
control_socket = "{directory}/{node}.sock"
log_format = "json"
[engine]
max_bindings = 1024
"""
_HOME_AGENT = """\
[home_agent]
address = "{address}"
home_network = "{network}"
interface = "home0"
"""
_POOL = """\
[home_agent.mobile_networks]
pools = ["10.2.128.0/24"]
"""
_HOST = """\
[[home_agent.host]]
home_address = "{home}"
{more}
[[home_agent.host.association]]
spi = 256
key_file = "{directory}/{key}.key"
"""
_NODE = """\
[mobile_node]
home_address = "{home}"
home_network = "{network}"
home_agent = "{agent}"
interfaces = ["{port}"]
care_of = "{care_of}"
handover = "fast"
[mobile_node.association]
spi = 256
key_file = "{directory}/{key}.key"
"""
_ROUTER = """\
[mobile_node.router]
networks = ["{network}"]
ingress = ["{port}"]
"""
_FOREIGN_AGENT = """\
[foreign_agent]
interfaces = ["{port}"]
[[advertise]]
interface = "{port}"
max_interval = 1
min_interval = 0.75
lifetime = 3
"""
KEYS = ("mn", "mr", "mr2")
"""Names of the key files each configuration refers to."""


def configurations(directory: object, care_of: str = "foreign-agent-first") -> dict[str, str]:
    """Machines that run fastmip, and their configuration files."""

    def told(text: str, **values: object) -> str:
        return text.format_map({"directory": directory, "care_of": care_of, **values})

    home_a = "10.2.0.0/24"
    hosts = told(_HOST, home=PLANE, key="mr", more=f'networks = ["{ON_BOARD}"]')
    more = f'networks = ["{BEHIND_SECOND}"]\ndynamic_networks = 1'
    hosts += told(_HOST, home=SECOND_ROUTER, key="mr2", more=more)
    found = {
        "haw": told(_HOME_AGENT, address=WUSTL, network="10.1.0.0/24")
        + told(_HOST, home=LAPTOP, key="mn", more=""),
        "haa": told(_HOME_AGENT, address=AIRLINE, network=home_a) + _POOL + hosts,
        "fa1": told(_FOREIGN_AGENT, port="visit0"),
        "fa2": told(_FOREIGN_AGENT, port="visit0"),
        "mr": told(_NODE, home=PLANE, network=home_a, agent=AIRLINE, port="up0", key="mr")
        + told(_ROUTER, network=ON_BOARD, port="cabin0")
        + told(_FOREIGN_AGENT, port="cabin0"),
        "mr2": told(_NODE, home=SECOND_ROUTER, network=home_a, agent=AIRLINE, port="up0", key="mr2")
        + told(_ROUTER, network=BEHIND_SECOND, port="in0"),
        "mn": told(_NODE, home=LAPTOP, network="10.1.0.0/24", agent=WUSTL, port="eth0", key="mn"),
    }
    return {node: told(_DAEMON, node=node) + text for node, text in found.items()}
