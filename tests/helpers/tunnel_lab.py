"""A home agent's engine and a mobile node's engine on kernel ports, between stock kernels.

    cn 10.9.0.7 --- c0 [ha] h0 === home link 10.1.0.0/24 === hh 10.1.0.50
                        t0 10.3.0.1 --- 10.3.0.5 [mn], home address 10.1.0.5

Both engines run in this process; only their descriptors live in the namespaces.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.helpers.namespaces import Namespaces

from fastmip._dataplane import Engine
from fastmip.agents.bindings import tunnel_record
from fastmip.agents.effects import NEVER, Tunnel
from fastmip.runtime import steering
from fastmip.runtime.devices import GRE, IPIP, MINIMAL
from fastmip.runtime.engine_port import EnginePort

HOME_ADDRESS, CARE_OF_ADDRESS, AGENT = "10.1.0.5", "10.3.0.5", "10.3.0.1"
CORRESPONDENT, HOME_HOST = "10.9.0.7", "10.1.0.50"
TUN = "fm0"


def number(address: str) -> int:
    """Host-order integer of a dotted quad."""
    return int.from_bytes(socket.inet_aton(address), "big")


def record(home: str, remote: str, local: str, *, mtu: int = 1500, **fields: Any) -> bytes:
    """A tunnel record that never expires and accepts reverse tunnelling."""
    tunnel = Tunnel(number(remote), number(local), NEVER, reverse=True, **fields)
    return tunnel_record(number(home), tunnel, mtu_bytes=mtu)


class Kind(NamedTuple):
    """A kind of tunnel."""

    encapsulation: int
    is_udp: bool = False

    @property
    def overhead(self) -> int:
        """Octets it adds to a packet that it does not originate."""
        inner = {IPIP: 20, GRE: 24, MINIMAL: 12}[self.encapsulation]
        return inner + 12 if self.is_udp else inner


IP_IN_IP = Kind(IPIP)
KINDS = {
    "ipip": IP_IN_IP,
    "gre": Kind(GRE),
    "minimal": Kind(MINIMAL),
    "ipip-udp": Kind(IPIP, is_udp=True),
    "gre-udp": Kind(GRE, is_udp=True),
    "minimal-udp": Kind(MINIMAL, is_udp=True),
}


class Side:
    """An engine with a kernel port in one namespace."""

    def __init__(
        self,
        lab: Namespaces,
        name: str,
        role: str,
        address: str,
        *,
        mtu_bytes: int,
        workers: int = 1,
        control_port: int = 0,
        ring: bool = True,
    ) -> None:
        self.name = name
        self.engine = Engine(
            max_bindings=1000, role=role, workers=workers, local_addresses=[number(address)]
        )
        self.port = EnginePort(
            TUN, address=number(address), fwmark=None, protocols=(IPIP, GRE, MINIMAL)
        )
        with lab.inside(name):
            self.control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.control.settimeout(5)
            steering.share_port(self.control, workers)
            self.control.bind(("", control_port))
            self.udp_port: int = self.control.getsockname()[1]
            self.port.open(
                self.engine, workers, udp_port=self.udp_port, mtu_bytes=mtu_bytes, ring=ring
            )
        lab.ip(name, "link", "set", TUN, "up")

    def install(self, tunnels: bytes) -> None:
        """Prepare and publish one chain."""
        self.engine.publish(self.engine.prepare(tunnels))

    def count(self, counter: str) -> int:
        """A port counter, or the packets of a verdict."""
        ports = self.engine.port_counters()
        return ports[counter] if counter in ports else self.engine.counters()[counter][0]

    def close(self) -> None:
        """Stop the engine, then close its descriptors."""
        self.engine.stop()
        self.port.close()
        self.control.close()

    def check_balance(self) -> None:
        """Every packet that entered, was generated or copied has exactly one verdict."""
        balance = self.engine.balance()
        entered = balance["inputs"] + balance["generated"] + balance["copies"]
        assert entered == balance["verdicts"], balance
        ports = self.engine.port_counters()
        received = ports["home-read"] - ports["home-super-frames"] + ports["home-segments"]
        received += ports["tunnel-read"] - ports["tunnel-merged"] + ports["tunnel-segments"]
        received += ports["udp-read"] - ports["udp-merged"] - ports["udp-not-data"]
        assert received + ports["icmp-read"] == balance["inputs"], (ports, balance)


class TunnelLab(Namespaces):
    """The lab of the module docstring; ``agent`` and ``node`` are its engines."""

    agent: Side
    node: Side

    def build(self, workers: int = 1, kind: Kind = IP_IN_IP, *, ring: bool = True) -> None:
        """Wire the namespaces, start both engines, bind the home address."""
        self.wire("cn", "eth0", "ha", "c0")
        self.wire("hh", "eth0", "ha", "h0")
        self.wire("mn", "eth0", "ha", "t0")
        for name, port, address in (
            ("cn", "eth0", f"{CORRESPONDENT}/24"),
            ("ha", "c0", "10.9.0.1/24"),
            ("ha", "h0", "10.1.0.1/24"),
            ("hh", "eth0", f"{HOME_HOST}/24"),
            ("ha", "t0", f"{AGENT}/24"),
            ("mn", "eth0", f"{CARE_OF_ADDRESS}/24"),
        ):
            self.ip(name, "addr", "add", address, "dev", port)
        self.ip("cn", "route", "add", "default", "via", "10.9.0.1")
        self.ip("hh", "route", "add", "default", "via", "10.1.0.1")
        self.ip("mn", "route", "add", "default", "via", AGENT)
        self.sysctl("ha", ip_forward=1)
        self.sysctl("mn", conf__all__rp_filter=0, conf__eth0__rp_filter=0)
        home: dict[str, Any] = {"workers": workers, "control_port": 434, "ring": ring}
        self.agent = Side(self, "ha", "home-agent", AGENT, mtu_bytes=65535, **home)
        node_mtu = 1500 - kind.overhead
        self.node = Side(self, "mn", "mobile-node", CARE_OF_ADDRESS, mtu_bytes=node_mtu, ring=ring)
        self.ip("ha", "route", "add", "default", "dev", TUN, "table", "100")
        # Written-back packets go the normal way; "not iif" would invert the whole selector.
        self.ip("ha", "rule", "add", "iif", TUN, "lookup", "main", "priority", "99")
        self.ip("ha", "rule", "add", "to", "10.1.0.0/24", "lookup", "100", "priority", "100")
        self.ip("mn", "addr", "add", f"{HOME_ADDRESS}/32", "dev", TUN)
        self.ip("mn", "route", "add", "default", "dev", TUN, "table", "100")
        self.ip("mn", "rule", "add", "from", HOME_ADDRESS, "lookup", "100", "priority", "100")
        here, there = self.agent.udp_port, self.node.udp_port
        agent: dict[str, int] = {"encapsulation": kind.encapsulation}
        node = dict(agent)
        if kind.is_udp:
            agent |= {"local_port": here, "remote_port": there}
            node |= {"local_port": there, "remote_port": here}
        self.agent.install(record(HOME_ADDRESS, CARE_OF_ADDRESS, AGENT, **agent))
        self.node.install(record(HOME_ADDRESS, AGENT, CARE_OF_ADDRESS, **node))
        for side in (self.agent, self.node):
            with self.inside(side.name):  # its threads ask this namespace's kernel
                side.engine.start()

    def socket(self, name: str, *kind: int) -> socket.socket:
        """A socket made in a namespace; it stays there. Times out instead of hanging."""
        with self.inside(name):
            made = socket.socket(socket.AF_INET, *kind)
        made.settimeout(5)
        return made


@contextmanager
def tunnel_lab(
    workers: int = 1,
    before: Callable[[TunnelLab], Any] | None = None,
    kind: Kind = IP_IN_IP,
    *,
    ring: bool = True,
) -> Iterator[Any]:
    """Build the lab; stop the engines and remove everything at the end."""
    with TunnelLab("cn", "ha", "hh", "mn") as lab:
        lab.build(workers, kind, ring=ring)
        try:
            if before:
                before(lab)
            yield lab
        finally:
            lab.agent.close()
            lab.node.close()
