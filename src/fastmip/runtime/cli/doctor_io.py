"""Which io the doctor would choose for this machine's interfaces, and why.

``kernel`` works on any Linux. ``xdp`` is quicker where the driver runs XDP programs itself: in
generic mode every packet is copied once more, and the gain is gone. ``doctor_checks`` judges what
is configured; here is what could be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from fastmip.runtime.cli.doctor_machine import Machine

NATIVE_XDP: Final = frozenset(
    [
        "atlantic",
        "bnxt_en",
        "dpaa2_eth",
        "ena",
        "enetc",
        "fec",
        "gve",
        "hv_netvsc",
        "i40e",
        "iavf",
        "ice",
        "igb",
        "igc",
        "ixgbe",
        "ixgbevf",
        "lan966x",
        "mana",
        "mlx4_en",
        "mlx5_core",
        "mtk_eth_soc",
        "mvneta",
        "mvpp2",
        "nfp",
        "qede",
        "sfc",
        "st_gmac",
        "stmmac",
        "thunder-nicvf",
        "tsnep",
        "tun",
        "veth",
        "virtio_net",
        "vmxnet3",
        "xen_netfront",
    ]
)
"""Drivers that run an XDP program before the kernel allocates anything (kernel 6.x)."""
ZERO_COPY: Final = frozenset(
    [
        "bnxt_en",
        "dpaa2_eth",
        "gve",
        "i40e",
        "ice",
        "idpf",
        "igb",
        "igc",
        "ixgbe",
        "mlx5_core",
        "st_gmac",
        "stmmac",
        "tsnep",
        "virtio_net",
    ]
)
"""Of these, those whose AF_XDP sockets need no copy."""
BPF_CAPABILITIES: Final = {"CAP_BPF": 39, "CAP_SYS_ADMIN": 21}
"""One of them loads programs, beside CAP_NET_ADMIN."""
XDP_KERNEL: Final = (5, 18)
"""First kernel with XDP programs for packets in several buffers."""
FRAME_ROOM: Final = 1500
"""MTU up to which every packet fits a frame of an AF_XDP socket with room for outer headers."""
NET: Final = "/sys/class/net"


class Choice(NamedTuple):
    """What the doctor would write into ``engine.io``."""

    io: str
    reasons: tuple[str, ...]
    """Why: of ``kernel`` what is against ``xdp``, of ``xdp`` each interface."""
    notes: tuple[str, ...] = ()
    """What to know when ``xdp`` is used."""
    is_possible: bool = True
    """``xdp`` would work here, chosen or not."""


def choose_io(
    machine: Machine,
    interfaces: tuple[str, ...],
    *,
    held: int,
    kernel: tuple[int, ...],
) -> Choice:
    """Choose for these interfaces. ``held``: capability bits of whoever will run the daemon."""
    against = list(_machine_reasons(machine, held, kernel))
    forbidden = bool(against)
    good: list[str] = []
    notes: list[str] = []
    for name in interfaces:
        mtu = (machine.read(f"{NET}/{name}/mtu") or "").strip()
        if not mtu.isdigit():
            against.append(f"{name} does not exist")
            forbidden = True
            continue
        driver = machine.driver(name)
        reasons = list(_interface_reasons(machine, name, driver))
        attached = _stranger(machine, name)
        if attached is not None:
            reasons.append(f"XDP program {attached} is attached")
            forbidden = True
        against += [f"{name}: {reason}" for reason in reasons]
        if not reasons:
            copy = "zero-copy" if driver in ZERO_COPY else "copy mode"
            good.append(f"{name}: {driver} runs XDP natively ({copy}), MTU {mtu}")
            notes += _interface_notes(machine, name, driver, int(mtu))
    if not interfaces:
        against.append("no interface is named: give the configuration file")
    if against:
        return Choice("kernel", tuple(against), is_possible=not forbidden)
    return Choice("xdp", tuple(good), tuple(notes))


def _machine_reasons(machine: Machine, held: int, kernel: tuple[int, ...]) -> list[str]:
    reasons = []
    if kernel and kernel < XDP_KERNEL:
        reasons.append(f"Linux before {'.'.join(map(str, XDP_KERNEL))}")
    error = machine.bpf_error()
    if error is not None:
        reasons.append(error)
    if not any(held >> bit & 1 for bit in BPF_CAPABILITIES.values()):
        reasons.append("CAP_BPF is missing: add it to the unit")
    return reasons


def _stranger(machine: Machine, name: str) -> str | None:
    """An XDP program of somebody else: one interface has one."""
    attached = machine.xdp_program(name)
    return None if attached is None or attached.startswith("fastmip") else attached


def _interface_reasons(machine: Machine, name: str, driver: str | None) -> list[str]:
    reasons = []
    if driver is None:
        reasons.append("its driver is not known")
    elif driver not in NATIVE_XDP:
        reasons.append(f"driver {driver} runs no XDP itself")
    if (machine.offloads(name) or {}).get("rx-lro"):
        reasons.append(f"LRO is on (ethtool -K {name} lro off)")
    return reasons


def _interface_notes(machine: Machine, name: str, driver: str | None, mtu: int) -> list[str]:
    notes = []
    if mtu > FRAME_ROOM:
        notes.append(f"{name}: packets above {FRAME_ROOM} bytes go by the kernel")
    if driver == "veth":
        notes.append(f"{name}: at its other end run ethtool -K PEER tx off, sums are left undone")
    features = machine.offloads(name) or {}
    if features.get("rx-vlan-hw-parse") is False:
        notes.append(f"{name}: tagged frames go by the kernel")
    return notes
