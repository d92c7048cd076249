"""The typed contract of the packet engine; stubtest holds the binary to it.

Addresses are host-order integers. Times are CLOCK_BOOTTIME nanoseconds. The control thread
is the only caller of everything here; worker threads never enter Python.
"""

from collections.abc import Collection, Iterable, Sequence
from os import PathLike
from typing import Any, Self

from _typeshed import ReadableBuffer
from typing_extensions import disjoint_base

HOME: int
"""Side of a packet: the home link (or the applications of a mobile node)."""
TUNNEL: int
"""Side of a packet: the outer network."""

TUNNEL_RECORD_SIZE: int
"""40 bytes, native byte order, struct format ``=IIIHBBQIHHBB2xI``: home address, remote, local,
outer path MTU in bytes, encapsulation (4 IP in IP, 47 GRE, 55 minimal), flags, expires_ns, GRE
key, remote port (not 0: UDP tunnel), local port, outer TTL, tos mode, bundle of ESP (0: none)."""
FLAG_REVERSE: int
"""Record flag: reverse-tunnelled packets are accepted (T bit)."""
FLAG_FIRST_ONLY: int
"""Record flag: sending uses this record only; others of the chain are only accepted from."""
FLAG_BROADCAST: int
"""Record flag: ``BindingCache.broadcast`` copies to this record (B bit)."""
FLAG_NESTED: int
"""Record flag: broadcasts are nested in a packet to the home address (D bit is 0); at a foreign
agent: encapsulating delivery."""
FLAG_GRE_KEY: int
"""Record flag: the GRE key is sent and required (RFC 2890)."""
TOS_NORMAL: int
TOS_COMPATIBILITY: int

DONE_TTL: int
"""What a kernel already did to a memory port's packets: TTL was or will be decremented."""
DONE_CHECKSUM: int
DONE_REASSEMBLY: int
DONE_MARTIAN: int

EGRESS_PORTLESS: int
"""The port of a link that has none of ours."""
EGRESS_TO_KERNEL: int
"""The set of destinations that are the kernel's."""

def verdicts() -> list[tuple[str, str, str]]:
    """Every verdict in order: (name, severity, sentence)."""

def event_names() -> list[tuple[str, str, str]]:
    """Every event in order: (name, severity, sentence)."""

def port_counter_names() -> list[tuple[str, str]]:
    """Every counter of the kernel port in order: (name, sentence)."""

@disjoint_base
class ProtectedCache:
    """What a binding cache has with ESP (RFC 4303): security associations (SAs) and their bundles.

    A tunnel record names a bundle: all of that tunnel leaves by the SA the bundle sends by, and
    only what came by one of its inbound SAs is taken. Keys are zeroed when an SA is removed.
    """

    workers: int
    def use_esp(self, *, max_sas: int = 4096, provider: str = "auto") -> str:
        """Make room, once, before workers start; ``ipsec-mb``, ``libcrypto`` or ``auto``. Returns
        who computes it. Raises ValueError."""
    def esp_provider(self) -> str:
        """Who computes ESP, with its version; empty without ``use_esp``."""
    def new_bundle(self) -> int:
        """Raises EngineFull."""
    def drop_bundle(self, bundle: int) -> None:
        """Give it back, when its SAs are removed and no tunnel record names it."""
    def new_spi(self) -> int:
        """A random SPI that no inbound SA has."""
    def sa_add(
        self,
        *,
        bundle: int,
        inbound: bool,
        spi: int,
        suite: str,
        key: bytes | bytearray | memoryview,
        local: int,
        remote: int,
        esn: bool = False,
        window: int = 1024,
        first: int = 1,
        last: int = 0,
        udp_ports: tuple[int, int] = (0, 0),
        selectors: tuple[int, int, int, int] | None = None,
        soft_packets: int = 0,
        hard_packets: int = 0,
        soft_bytes: int = 0,
        hard_bytes: int = 0,
        soft_ns: int = 0,
        hard_ns: int = 0,
    ) -> int:
        """Install an SA; returns its number. Raises ValueError, EngineFull.

        Suites and keys: ``aes128-gcm16`` (16 and salt 4), ``aes256-gcm16`` (32 and 4),
        ``aes128-cbc-sha256`` (16 and 32), ``aes256-cbc-sha256`` (32 and 32). ``first`` is the
        first sequence number sent or taken, ``last`` the end of the block reserved for sending
        (0: all); the IV of GCM is the sequence number. ``udp_ports``: remote, local, of UDP
        encapsulation (RFC 3948). ``selectors``: first and last address the inner packet may have
        at the far end, and at ours. Past a soft limit workers tell, past a hard one they refuse.
        """
    def sa_send(self, sa: int) -> None:
        """Let its bundle send by this outbound SA from now on."""
    def sa_reserve(self, sa: int, last: int) -> None:
        """Sequence numbers up to ``last`` may be sent."""
    def sa_remove(self, sa: int) -> None:
        """Withdraw an SA; its key is zeroed when no worker can hold it any more."""
    def sa_dummy(self, sa: int) -> bytes:
        """A sealed dummy packet with its IPv4 header, for the caller to send: it confirms new keys
        to the far end. Raises EngineFull when the SA may send no more."""
    def sa_state(self, sa: int) -> dict[str, Any]:
        """inbound, bundle, packets, bytes, sequence, last, told. Never keys."""
    def take_sa_events(self) -> list[tuple[int, str]]:
        """(SA, what) since the last call: ``confirmed`` (first right packet), ``soft``, ``hard``,
        ``block`` (three quarters of the reserved numbers are used)."""
    def esp_events_fd(self) -> int:
        """Readable when there are some; never close it."""

@disjoint_base
class BindingCache(ProtectedCache):
    """The binding cache and its counters: an engine without a kernel port."""

    def __new__(
        cls,
        *,
        max_bindings: int,
        role: str = "home-agent",
        workers: int = 1,
        local_addresses: Sequence[int] = (),
        icmp_per_second: int = 100,
        icmp_burst: int = 50,
    ) -> Self: ...

    # binding cache: prepare may fail, publish cannot (architecture: order of effects)
    def prepare(self, tunnels: ReadableBuffer) -> int:
        """Allocate the chain of one home address; returns a ticket. Raises EngineFull."""
    def publish(self, ticket: int) -> None:
        """Make a prepared chain visible to workers with one store; retires the old one."""
    def abandon(self, ticket: int) -> None:
        """Give a prepared chain back."""
    def remove(self, home_address: int) -> bool:
        """Withdraw a home address; False if it was not there."""
    def extend(self, home_address: int, remote: int, expires_ns: int) -> bool:
        """Refresh one tunnel: a single atomic store."""
    def restore(self, tunnels: ReadableBuffer) -> int:
        """Prepare and publish many records, chains adjacent; returns records installed."""
    def bindings(self) -> int:
        """Published bindings; simultaneous bindings count each."""
    def memory_bytes(self) -> int:
        """Bytes in memory (not merely reserved) for bindings and everything beside them."""
    # home addresses for the BPF programs of offload
    def use_offload(self, networks: Sequence[tuple[int, int]], homes: ReadableBuffer) -> None:
        """Keep the entries of home addresses (first, last of each network; 128 bytes each) in the
        memory of a BPF map, before bindings and workers. Raises ValueError."""
    def leave_offload(self) -> None:
        """Give that memory back, after ``stop``."""
    # broadcasts of the home network (RFC 5944 4.3)
    def listeners(self) -> int:
        """Home addresses that want broadcasts."""
    def broadcast(self, packet: bytes) -> int:
        """Copy an IPv4 packet to every tunnel with FLAG_BROADCAST, nested with FLAG_NESTED; returns
        the copies sent. At most 1024 home addresses a call, in turns. Raises ValueError for what
        is no IPv4 packet of at most 1500 bytes."""
    # half bound UDP tunnels: remote port 0xffff, until a keepalive tells it (RFC 3519 4.11)
    def take_half_bound(self) -> list[tuple[int, int, int]]:
        """Keepalives since the last call: home address, source address, source port."""
    def half_bound_fd(self) -> int:
        """Readable when there are some; ask before workers start, never close it."""
    # mobile networks: a prefix leads to the chain of a home address
    def reserve_prefix(self, prefix: int, length: int) -> None: ...
    def set_prefix(self, prefix: int, length: int, home_address: int) -> None: ...
    def clear_prefix(self, prefix: int, length: int) -> bool: ...
    def prefixes(self) -> dict[tuple[int, int], int]: ...
    # L2 ports
    def egress(self, side: int) -> Egress:
        """Where packets leave to on a side by L2 ports. Ask before workers start."""
    # seeing it
    def counters(self) -> dict[str, tuple[int, int]]:
        """Verdict name -> (packets, bytes), summed over workers."""
    def events(self) -> dict[str, int]:
        """Event name -> count: fragments made, ICMP errors withheld, soft state learnt."""
    def balance(self) -> dict[str, int]:
        """inputs, generated, copies, verdicts: inputs + generated + copies == verdicts."""
    def traffic(self, home_address: int) -> list[dict[str, int]]:
        """Per tunnel: remote, local, expires_ns, mtu, overhead, unreachable, sent_packets,
        sent_bytes, received_packets, received_bytes."""
    def stages(self) -> dict[str, dict[str, float]]:
        """Stage (rx check lookup encapsulate decapsulate tx) -> calls, packets, ns_per_packet."""
    def worker_stages(self) -> list[dict[str, dict[str, float]]]:
        """The same for each worker; the last one is the control thread's own packets."""
    def clear_counters(self) -> None: ...
    def loops(self) -> str:
        """Instruction set of the fast loops."""
    def use_scalar_loops(self, is_scalar: bool) -> None:
        """Choose the scalar twin of the fast loops."""

def xdp_counter_names() -> list[tuple[str, str]]:
    """Every counter of the XDP port in order: (name, sentence)."""

@disjoint_base
class Egress:
    """Next hops of one side's destinations (engine/egress.h): what ``runtime.route_mirror``
    fills and L2 ports ask. A way is (gateway or 0, link, mtu or 0, weight)."""

    def __new__(cls, cache: BindingCache, side: int) -> Self: ...
    def set_link(self, number: int, ifindex: int, mac: bytes, mtu: int, port: int = 0xFFFF) -> None:
        """Make link 1 to 255 usable, or change it. Raises ValueError."""
    def clear_link(self, number: int) -> None:
        """Nothing leaves by this link any more."""
    def add_set(self, ways: Sequence[tuple[int, int, int, int]]) -> int:
        """A set of next hops; returns its number. Raises EngineFull."""
    def change_set(self, number: int, ways: Sequence[tuple[int, int, int, int]]) -> None:
        """Other next hops for whatever leads to a set."""
    def retire_set(self, number: int) -> None:
        """Give a number back that no route leads to."""
    def set_route(self, prefix: int, length: int, number: int) -> bool:
        """Lead a prefix to a set; False if there was no room and the kernel keeps it."""
    def clear_route(
        self, prefix: int, length: int, covering: int = 0, covering_length: int = 0
    ) -> None:
        """Forget a prefix; the set of the next shorter one (but the default route's) returns."""
    def set_neighbour(self, address: int, link: int, mac: bytes, *, is_stale: bool = False) -> bool:
        """A neighbour's MAC; ``told`` returns a stale one that is used. False without room."""
    def clear_neighbour(self, address: int, link: int) -> None: ...
    def told(self) -> list[tuple[int, int]]:
        """Stale neighbours (address, link) that packets went to since the last call."""
    def lookup(self, address: int, flow_hash: int = 0) -> tuple[bytes, bytes, int, int, int] | None:
        """Destination MAC, source MAC, ifindex, MTU, port; None: the kernel has to do it."""
    def numbers(self, addresses: ReadableBuffer) -> bytes:
        """For 32-bit addresses the 32-bit numbers of the neighbours their packets go to, 0: none
        known; both in native order."""
    def entry(self, number: int) -> tuple[bytes, bytes, int, int, int] | None:
        """What a number stands for, as ``lookup`` tells it."""
    def time_lookups(self, addresses: ReadableBuffer) -> tuple[int, int]:
        """Look 32-bit addresses up: (ns, known)."""

@disjoint_base
class KernelEngine(BindingCache):
    """The binding cache with workers on kernel ports."""

    # workers
    def attach_kernel(
        self,
        *,
        tun_fd: int,
        raw_fds: Sequence[int],
        udp_fd: int = -1,
        icmp_fd: int = -1,
        packet_fd: int = -1,
        tun_vnet_hdr: bool = True,
        ring: bool = True,
    ) -> None:
        """Give the next worker its TUN queue and its sockets (``runtime.devices`` opens them).

        ``raw_fds``: one raw socket for each encapsulation that is received (4, 47, 55), in any
        order; the first one sends them all. ``udp_fd``: the socket of UDP tunnels, which sends
        what the pipeline makes with its port as the source. ``ring``: under load read the TUN
        queue by io_uring where the kernel allows it. The descriptors stay owned by the
        caller, who closes them after ``stop``. They become non-blocking. Raises OSError for a
        descriptor that is none, ValueError for one worker or raw socket too many.
        """
    def allow_packet_sockets(self, is_allowed: bool) -> None:
        """Let outer packets leave by AF_PACKET where the mirror knows how; or by raw sockets alone.

        It counts from the workers' next batches on."""
    def start(self) -> None:
        """Start a thread per worker, again after ``stop``. Raises OSError; ValueError when a
        worker has no descriptors."""
    def stop(self) -> None:
        """End all threads; returns when the batches in hand are done. May be called again."""
    def heartbeats(self) -> list[int]:
        """Per worker: a number that grows at least once a second while it lives."""
    def worker_status(self) -> list[dict[str, str | int]]:
        """Per worker: state (ready running stopped failed), descriptor (tun tunnel icmp udp) and
        error of a failure, heartbeat, batches, sleeps, home_reads (io_uring, where there is load,
        or read)."""
    def port_counters(self) -> dict[str, int]:
        """Counter name -> packets, summed over the kernel ports."""

class Engine(KernelEngine):
    """The binding cache, its workers and its counters."""

    # AF_XDP beside the kernel ports
    def attach_xdp(self, worker: int, sockets: int) -> None:
        """Let up to so many AF_XDP sockets feed a worker beside its kernel port; 8 MiB each.

        Raises OSError; ValueError for a worker without kernel port, or a number out of range.
        """
    def open_xdp(
        self, worker: int, *, outlet: int, ifindex: int, queue: int, copy: bool = False
    ) -> int:
        """Open a socket on one queue of an interface; returns its descriptor for the XSKMAP.

        ``outlet``: the interface's number in the mirror of routes (``Hop.port``), below 64.
        ``copy``: no zero-copy, even if the driver could. Workers stand still meanwhile. The engine
        closes the descriptor. Raises OSError: EBUSY also shortly after a socket was closed there.
        """
    def close_xdp(self, ifindex: int) -> int:
        """Close all sockets on an interface while workers stand still; how many there were."""
    def xdp_sockets(self) -> list[dict[str, int | str]]:
        """Per socket: worker, ifindex, queue, mode (copy zero-copy), state (open gone), frames
        the kernel has (receiving sending), what it dropped (dropped ring_full no_frame invalid)."""
    def xdp_frames(self) -> list[dict[str, int]]:
        """Per worker: frames, and where they are (free engine receiving sending). The parts make
        up the whole, exactly so only while the worker stands still."""
    def xdp_counters(self) -> dict[str, int]:
        """Counter name -> packets, summed over workers; empty without AF_XDP sockets."""

@disjoint_base
class MemoryPort:
    """Feeds an engine from memory, for tests, profiling and benchmarks."""

    done: int
    def __new__(cls, engine: BindingCache, *, done: int = 0) -> Self: ...
    def inject(
        self, side: int, packets: Iterable[bytes], *, now_ns: int | None = None
    ) -> list[str]:
        """Run packets through as if from a side; returns the verdict name of each."""
    def take(self, side: int) -> list[bytes]:
        """Packets that left on a side since the last call, in order."""

@disjoint_base
class Replay:
    """Runs one kind of packet through an engine as fast as it goes, addresses redrawn."""

    def __new__(
        cls,
        engine: BindingCache,
        *,
        side: int,
        size: int,
        frames: int,
        draws: ReadableBuffer,
        tunnel: ReadableBuffer,
        correspondent: int,
        done: int = 0,
    ) -> Self: ...
    def run(self, *, packets: int, batch: int = 64) -> tuple[int, int, int]:
        """Send packets; returns (ns, packets sent, packets that came out)."""
    def run_as(self, worker: int, *, packets: int, batch: int = 64) -> tuple[int, int, int]:
        """The same as one of the engine's workers, beside others: each its own pool and thread.

        Raises RuntimeError when the worker runs already.
        """
    def run_empty(self, *, packets: int, batch: int = 64) -> tuple[int, int]:
        """Time of source and sink alone: (ns, packets)."""
    def memcpy(self, *, rounds: int, size: int = 64) -> int:
        """Time of the C library's memcpy between the pool's frames, in ns."""
    def lookup(self, *, lookups: int, batch: int = 64) -> tuple[int, int, int]:
        """Look drawn home addresses up, nothing else: (ns, lookups, hits)."""

def run_pcap(
    engine: BindingCache,
    input_path: str | PathLike[str],
    output_path: str | PathLike[str] | None = None,
    *,
    side: int,
    repeat: int = 1,
    done: int = 0,
    now_ns: int | None = None,
) -> dict[str, int]:
    """Run a pcap's IPv4 packets through an engine; returns packets, skipped, home, tunnel, ns."""

TAP_POINT_NAMES: tuple[str, ...]
"""Points of a capture in the order of its interfaces: rx, decap, encap, tx."""
TAP_TERM_KINDS: tuple[str, ...]
"""Kinds of terms: address, protocol, port, spi."""

def drop_verdicts() -> list[str]:
    """Names of the verdicts that are the end of a packet which was expected to go on."""

@disjoint_base
class _Tap:
    """Something that looks at an engine's packets until it is closed.

    ``terms`` are (kind, value, mask); all must be found somewhere in a packet, in its outer or
    inner headers. ``verdicts`` are those wanted, None: all, ``undecided`` included (fragments).
    ``slots`` (a power of two) packets per worker wait to be read. Raises EngineFull when 8 look
    already, ValueError for bad arguments, MemoryError.
    """

    def close(self) -> None:
        """Stop looking; what was seen can still be read. May be called again."""
    def is_done(self) -> bool:
        """As many packets as were asked for have been seen."""
    def lost(self) -> int:
        """Packets that were not taken because nobody read in time."""

@disjoint_base
class Capture(_Tap):
    """Packets at some points of the engine, as pcapng blocks."""

    packets: int
    """Handed out by ``read``."""

    def __new__(
        cls,
        engine: BindingCache,
        *,
        points: Iterable[str],
        terms: Sequence[tuple[str, int, int]] = (),
        verdicts: Collection[str] | None = None,
        snap: int = 2048,
        slots: int = 1024,
        count: int = 0,
        first_interface: int = 0,
    ) -> Self: ...
    def read(self, room: int = 1 << 20) -> bytes:
        """Enhanced packet blocks of what was seen since the last call, oldest first; empty when
        there is nothing. At most ``room`` bytes; the points are interfaces, numbered from
        ``first_interface`` in the order of ``TAP_POINT_NAMES``."""

class Trace(_Tap):
    """The walks of single packets through the engine."""

    def __new__(
        cls,
        engine: BindingCache,
        *,
        count: int,
        terms: Sequence[tuple[str, int, int]] = (),
        verdicts: Collection[str] | None = None,
        slots: int = 1024,
    ) -> Self: ...
    def read(self) -> list[dict[str, Any]]:
        """Walks since the last call, oldest first.

        Each: wall_ns, worker, side, port (memory, or the port's name), length, data (the first
        128 bytes), key (address looked up), line (None, or number, home, remote, local,
        encapsulation, udp, reverse, chain, budget, remaining_ns), verdict, ns, left_count, left
        (of the first four: side, length, data)."""
