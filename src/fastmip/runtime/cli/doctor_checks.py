"""One small function per check: machine in, findings out; no function changes anything.

A finding is ``ok``, ``warn`` (works, but not as well or not always) or ``fail`` (will not
work), with a remedy for the last two.
"""

from __future__ import annotations

import errno
import json
import os
import platform
from typing import TYPE_CHECKING, Any, NamedTuple

from fastmip.runtime.cli.doctor_io import choose_io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastmip.runtime.cli.doctor_machine import Machine
    from fastmip.runtime.config import Config

OK = "ok"
WARN = "warn"
FAIL = "fail"

CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
"""Name -> bit (linux/capability.h): exactly what the daemon needs."""
MIN_SQLITE = (3, 24)
"""First version with upsert."""
OUTER_HEADER_LEN = 20
TUNNEL_PROTOCOLS = (4, 47, 55)
TUNNEL_MODULES = {"tunnel4": "ipip tunnel4", "gre": "ip_gre gre"}
"""Modules that receive protocols 4 and 47 -> what to unload."""
ENGINE_BYTES_PER_BINDING = 300
USO_KERNEL = (6, 2)
"""First kernel that hands UDP super-frames to a TUN device."""
CONF = "/proc/sys/net/ipv4/conf"
NET = "/sys/class/net"


class Finding(NamedTuple):
    """One line of the doctor."""

    check: str
    status: str
    detail: str
    remedy: str = ""


class Subject(NamedTuple):
    """What the machine is to be good for."""

    is_home_agent: bool = True
    is_foreign_agent: bool = False
    interfaces: tuple[str, ...] = ()
    tunnel_devices: tuple[str, ...] = ()
    path_mtu: int = 1500
    max_bindings: int = 0
    uses_timestamps: bool = True
    state_dir: str = "/var/lib/fastmip"
    control_socket: str = "/run/fastmip/control.sock"
    io: str = "kernel"
    io_interfaces: tuple[str, ...] = ()
    """Those that carry XDP, or would."""
    transmit: str = "socket"

    @classmethod
    def of(cls, config: Config) -> Subject:
        """Read it from a configuration."""
        agent, node = config.home_agent, config.mobile_node
        associations = [a for host in (agent.hosts if agent else ()) for a in host.associations]
        interfaces: list[str] = []
        devices: list[str] = []
        if agent is not None:
            interfaces += [agent.interface] if agent.interface else []
            devices.append(agent.tunnel_device)
        if node is not None:
            associations.append(node.association)
            interfaces += node.interfaces
            devices.append(node.tunnel_device)
        visited = config.foreign_agent
        if visited is not None:
            interfaces += visited.interfaces
            devices.append(visited.tunnel_device)
        return cls(
            is_home_agent=agent is not None,
            is_foreign_agent=visited is not None,
            interfaces=tuple(dict.fromkeys(interfaces)),
            tunnel_devices=tuple(devices),
            path_mtu=agent.path_mtu if agent is not None else 1500,
            max_bindings=config.engine.max_bindings if agent is not None else 0,
            # Hosts of the directory are not in the file: assume the default, timestamps.
            uses_timestamps=not associations or any(a.replay == "timestamps" for a in associations),
            state_dir=str(config.daemon.state_dir),
            control_socket=str(config.daemon.control_socket),
            io=config.engine.io
            + (f" with offload at {config.engine.offload_hook}" if config.engine.offload else ""),
            io_interfaces=config.engine.interfaces or tuple(dict.fromkeys(interfaces)),
            transmit=config.engine.transmit if agent is not None else "socket",
        )


def diagnose(machine: Machine, subject: Subject) -> list[Finding]:
    """Make all checks, in the order of the documentation."""
    return [finding for check in CHECKS for finding in check(machine, subject)]


def capabilities(machine: Machine, _subject: Subject) -> Iterator[Finding]:
    """The three capabilities of the systemd unit."""
    held = int(_status_field(machine, "CapEff") or "0", 16)
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        remedy = "run as root or under deploy/fastmip.service"
        yield Finding("capabilities", FAIL, f"missing {', '.join(missing)}", remedy)
    else:
        yield Finding("capabilities", OK, ", ".join(CAPABILITIES))


def tun_device(machine: Machine, _subject: Subject) -> Iterator[Finding]:
    """Packets reach the engine through a TUN device."""
    error = machine.open_tun()
    if error is None:
        yield Finding("tun", OK, "/dev/net/tun opens")
    else:
        remedy = "run modprobe tun; in a container pass --device /dev/net/tun"
        if error == os.strerror(errno.EACCES):  # udev's default; devices need CAP_NET_ADMIN still
            remedy = "run chmod 666 /dev/net/tun"
        yield Finding("tun", FAIL, f"/dev/net/tun: {error}", remedy)


def raw_sockets(machine: Machine, _subject: Subject) -> Iterator[Finding]:
    """Tunnels are raw sockets of protocols 4, 47 and 55."""
    errors = {protocol: machine.open_raw_socket(protocol) for protocol in TUNNEL_PROTOCOLS}
    failed = [f"protocol {protocol}: {error}" for protocol, error in errors.items() if error]
    if failed:
        yield Finding("raw-sockets", FAIL, "; ".join(failed), "grant CAP_NET_RAW")
    else:
        numbers = ", ".join(map(str, TUNNEL_PROTOCOLS))
        yield Finding("raw-sockets", OK, f"protocols {numbers} open")


def kernel_tunnels(machine: Machine, _subject: Subject) -> Iterator[Finding]:
    """The kernel's own tunnel drivers see our packets beside us and answer them."""
    text = machine.read("/proc/modules") or ""
    loaded = [line.split()[0] for line in text.splitlines() if line.split()[0] in TUNNEL_MODULES]
    if loaded:
        detail = f"{', '.join(loaded)} loaded: each tunnel packet is answered port unreachable"
        remedy = f"run modprobe -r {' '.join(TUNNEL_MODULES[name] for name in loaded)}"
        yield Finding("kernel-tunnels", WARN, detail, remedy)
    else:
        yield Finding("kernel-tunnels", OK, "the kernel's own tunnel drivers stay out of the way")


def port_434(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Registration needs UDP port 434 for itself."""
    table = machine.read("/proc/net/udp") or ""
    taken = [line for line in table.splitlines()[1:] if line.split()[1].endswith(":01B2")]
    if not taken:
        yield Finding("port-434", OK, "free")
    elif _has_socket(machine, subject.control_socket):
        yield Finding("port-434", OK, "held, and a fastmip daemon runs here")
    else:
        remedy = "find it with ss -ulpn 'sport = :434' and stop it"
        yield Finding("port-434", WARN, "held by another program", remedy)


def ip_forwarding(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """A home agent routes what is not for a node away from home, a foreign agent everything."""
    if not (subject.is_home_agent or subject.is_foreign_agent):
        return
    value = _number(machine, "/proc/sys/net/ipv4/ip_forward")
    if value == 1:
        yield Finding("ip-forward", OK, "net.ipv4.ip_forward = 1")
    else:
        remedy = "run sysctl -w net.ipv4.ip_forward=1 and keep it in /etc/sysctl.d"
        yield Finding("ip-forward", FAIL, f"net.ipv4.ip_forward = {value}", remedy)


def reverse_path_filter(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Strict filters drop packets whose source is routed elsewhere, as tunnelled ones are."""
    everywhere = _number(machine, f"{CONF}/all/rp_filter")
    if everywhere == 1:
        remedy = "run sysctl -w net.ipv4.conf.all.rp_filter=0 (or 2, loose); keep it in sysctl.d"
        detail = "net.ipv4.conf.all.rp_filter = 1 overrides the tunnel device's own setting"
        yield Finding("rp-filter", FAIL, detail, remedy)
        return
    strict = [
        name for name in subject.interfaces if _number(machine, f"{CONF}/{name}/rp_filter") == 1
    ]
    if strict:
        names = ", ".join(strict)
        remedy = " and ".join(f"sysctl -w net.ipv4.conf.{name}.rp_filter=2" for name in strict)
        yield Finding("rp-filter", WARN, f"strict on {names}", f"run {remedy}")
    else:
        yield Finding("rp-filter", OK, "no strict filter in the way")


def interfaces(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Interfaces of the configuration exist, are up and have a sensible MTU."""
    for name in subject.interfaces:
        mtu = _number(machine, f"{NET}/{name}/mtu")
        if mtu is None:
            remedy = "name an interface of this machine (ip link) in the configuration"
            yield Finding("interface", FAIL, f"{name} does not exist", remedy)
            continue
        # "unknown" is what devices say that cannot tell, such as TUN.
        state = (machine.read(f"{NET}/{name}/operstate") or "").strip()
        if state in {"down", "lowerlayerdown", "notpresent", "dormant"}:
            yield Finding("interface", WARN, f"{name} is {state}", f"run ip link set {name} up")
        else:
            yield Finding("interface", OK, f"{name} is {state or 'up'}")
        yield _mtu(name, mtu, subject)


def _mtu(name: str, mtu: int, subject: Subject) -> Finding:
    inner = min(mtu, subject.path_mtu) - OUTER_HEADER_LEN
    if mtu < subject.path_mtu:
        remedy = f"raise it, or set home_agent.path_mtu = {mtu}"
        detail = f"{name}: {mtu} is below the path MTU of {subject.path_mtu}"
        return Finding("mtu", WARN, detail, remedy)
    return Finding("mtu", OK, f"{name}: {mtu}, inner packets up to {inner} bytes")


def receive_offloads(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Receive offloads merge packets into larger ones before a tunnel sees them."""
    for name in subject.interfaces:
        features = machine.offloads(name)
        if features is None:
            if machine.read(f"{NET}/{name}/mtu") is not None:
                remedy = f"look with ethtool -k {name}"
                yield Finding("offloads", WARN, f"{name}: cannot be read", remedy)
            continue
        if features.get("rx-lro"):
            detail = f"{name}: LRO merges packets and loses their boundaries"
            yield Finding("offloads", FAIL, detail, f"run ethtool -K {name} lro off")
        merging = {
            "rx-gro": "gro",
            "rx-gro-hw": "rx-gro-hw",
            "rx-gro-list": "rx-gro-list",
            "rx-udp-gro-forwarding": "rx-udp-gro-forwarding",
        }
        on = [(feature, word) for feature, word in merging.items() if features.get(feature)]
        if on:
            detail = f"{name}: {', '.join(feature for feature, _ in on)} merge tunnelled packets"
            words = " ".join(f"{word} off" for _, word in on)
            remedy = f"run ethtool -K {name} {words}: they are cut again at a cost"
            yield Finding("offloads", WARN, detail, remedy)
        elif not features.get("rx-lro"):
            yield Finding("offloads", OK, f"{name}: nothing merges received packets")


def clock(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Timestamps compare two clocks (RFC 5944 5.7.1)."""
    status = machine.clock()
    if not subject.uses_timestamps:
        yield Finding("clock", OK, "no association uses timestamps")
    elif status is None:
        yield Finding("clock", WARN, "cannot be read", "run timedatectl")
    elif status.is_synchronised:
        yield Finding("clock", OK, f"synchronised, error at most {status.max_error_s:.3f} s")
    else:
        remedy = 'run chrony or systemd-timesyncd, or use replay = "nonces"'
        yield Finding("clock", WARN, "not synchronised: timestamps may be refused (133)", remedy)


def firewall(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Chains that drop by default need an exception for registration and tunnels."""
    text = machine.ruleset()
    if text is None:
        yield Finding("firewall", OK, "no nftables rule set can be read")
        return
    dropping = {
        str(chain.get("hook"))
        for chain in _chains(text)
        if chain.get("policy") == "drop" and chain.get("family") in {"ip", "inet"}
    }
    relevant = dropping & ({"input", "forward"} if subject.is_home_agent else {"input"})
    if "input" in relevant:
        remedy = (
            "make sure it accepts udp dport 434 and ip protocols 4, 47, 55 (docs/deployment.md)"
        )
        yield Finding("firewall", WARN, "the input chain drops by default", remedy)
    if "forward" in relevant:
        remedy = "accept packets from and to the tunnel device (docs/deployment.md)"
        yield Finding("firewall", WARN, "the forward chain drops by default", remedy)
    if not relevant:
        yield Finding("firewall", OK, "no chain drops by default")


def huge_pages(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Large binding caches are slower on small pages."""
    setting = machine.read("/sys/kernel/mm/transparent_hugepage/enabled") or ""
    if "[never]" in setting or not setting:
        path = "/sys/kernel/mm/transparent_hugepage/enabled"
        yield Finding("huge-pages", WARN, "off", f"run echo madvise > {path}")
    else:
        yield Finding("huge-pages", OK, "transparent huge pages can be asked for")
    available = _memory_available(machine)
    needed = subject.max_bindings * ENGINE_BYTES_PER_BINDING
    if available is not None and needed > available:
        detail = f"{needed >> 20} MiB for engine.max_bindings, {available >> 20} MiB available"
        yield Finding("memory", FAIL, detail, "lower engine.max_bindings or add memory")


def processor(machine: Machine, _subject: Subject) -> Iterator[Finding]:
    """Vector instructions make look-ups faster; the scalar code does the same work."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        yield Finding("cpu", OK, f"{platform.machine()}: scalar look-up")
        return
    flags: set[str] = set()
    for line in (machine.read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("flags"):
            flags = set(line.partition(":")[2].split())
            break
    if "avx2" in flags:
        best = "AVX-512" if "avx512f" in flags else "AVX2"
        yield Finding("cpu", OK, f"{best} available")
    else:
        yield Finding("cpu", WARN, "no AVX2: scalar look-up, slower", "use a processor with AVX2")


def kernel(machine: Machine, _subject: Subject) -> Iterator[Finding]:
    """Newer kernels hand over UDP super-frames."""
    release = (machine.read("/proc/sys/kernel/osrelease") or "").strip()
    version = _kernel_version(machine)
    if version is None:
        yield Finding("kernel", WARN, "version unknown", "run uname -r")
        return
    extra = "" if version >= USO_KERNEL else ": UDP super-frames need 6.2"
    yield Finding("kernel", OK, f"Linux {release}{extra}")


def packet_io(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Which ``engine.io`` suits this machine, and why; a configured one must be possible."""
    version = _kernel_version(machine)
    held = int(_status_field(machine, "CapEff") or "0", 16)
    choice = choose_io(machine, subject.io_interfaces, held=held, kernel=version or ())
    detail = f"would choose {choice.io}: {'; '.join(choice.reasons)}"
    if subject.io != "kernel" and choice.io == "kernel":
        status = WARN if choice.is_possible else FAIL
        yield Finding("io", status, detail, 'mend that, or set engine.io = "kernel"')
        return
    yield Finding("io", OK, f"{detail} (configured: {subject.io})")
    if subject.io != "kernel":
        for note in choice.notes:
            yield Finding("io", WARN, note, "docs/deployment.md says more")


def transmit(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Whether outer packets pass the IP stack by, and what that passes by."""
    if subject.io != "kernel" or subject.transmit == "socket":
        yield Finding("transmit", OK, "outer packets go through the IP stack")
        return
    users = machine.output_users()
    if not users:
        yield Finding("transmit", OK, "outer packets pass the IP stack by: nothing acts on them")
    elif subject.transmit == "auto":
        yield Finding("transmit", OK, f"outer packets go through the IP stack: {users}")
    else:
        remedy = 'set engine.transmit = "auto" if these matter to tunnel packets'
        yield Finding("transmit", WARN, f"outer packets pass by {users}", remedy)


def store(machine: Machine, subject: Subject) -> Iterator[Finding]:
    """Registrations are kept in SQLite, on a disk that survives."""
    version = machine.sqlite_version()
    text = ".".join(map(str, version))
    if version < MIN_SQLITE:
        remedy = f"use a Python with SQLite {'.'.join(map(str, MIN_SQLITE))} or newer"
        yield Finding("sqlite", FAIL, text, remedy)
    else:
        yield Finding("sqlite", OK, text)
    kind = _filesystem(machine, subject.state_dir)
    if kind in {"tmpfs", "ramfs"}:
        remedy = "put daemon.state_dir on a disk: registrations must survive a restart"
        yield Finding("state-dir", WARN, f"{subject.state_dir} is on {kind}", remedy)
    elif kind is not None:
        yield Finding("state-dir", OK, f"{subject.state_dir} is on {kind}")


CHECKS: tuple[Callable[[Machine, Subject], Iterator[Finding]], ...] = (
    capabilities,
    tun_device,
    raw_sockets,
    kernel_tunnels,
    port_434,
    ip_forwarding,
    reverse_path_filter,
    interfaces,
    receive_offloads,
    clock,
    firewall,
    huge_pages,
    processor,
    kernel,
    packet_io,
    transmit,
    store,
)


def _kernel_version(machine: Machine) -> tuple[int, int] | None:
    parts = (machine.read("/proc/sys/kernel/osrelease") or "").strip().split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (IndexError, ValueError):
        return None


def _number(machine: Machine, path: str) -> int | None:
    text = (machine.read(path) or "").strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _status_field(machine: Machine, name: str) -> str | None:
    for line in (machine.read("/proc/self/status") or "").splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return None


def _has_socket(machine: Machine, path: str) -> bool:
    table = machine.read("/proc/net/unix") or ""
    return any(line.endswith(f" {path}") for line in table.splitlines())


def _memory_available(machine: Machine) -> int | None:
    for line in (machine.read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _chains(text: str) -> list[dict[str, Any]]:
    try:
        document = json.loads(text)
    except ValueError:
        return []
    items = document.get("nftables", []) if isinstance(document, dict) else []
    return [item["chain"] for item in items if isinstance(item, dict) and "chain" in item]


def _filesystem(machine: Machine, path: str) -> str | None:
    """Return the type of the file system a path is on: the longest mount point that holds it."""
    best, kind = "", None
    for line in (machine.read("/proc/self/mounts") or "").splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
