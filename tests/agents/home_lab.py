"""A home agent on the bench: bytes made with struct and hmac, a store and an engine of dicts.

Nothing here uses fastmip's codecs or authenticators, so that what it expects is independent.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field, replace
from typing import Any

from fastmip.agents.address_pool import AddressPools, Pool
from fastmip.agents.bindings import unpack_bindings
from fastmip.agents.effects import (
    Arrival,
    Commit,
    CommitOutcome,
    Effect,
    Endpoint,
    NodeRow,
    Now,
    SendDatagram,
    Tunnel,
    Violation,
)
from fastmip.agents.home import HomeAgent
from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix
from fastmip.auth.associations import AssociationSet, ReplayStyle, SecurityAssociation
from fastmip.errors import StoreError

SECOND = 1_000_000_000
NTP_EPOCH = 2_208_988_800
WALL_S = 1_790_000_000
BOOT_S = 5_000

HOME_AGENT = 0x0A010001
HOME_AGENT_2 = 0x0A020001
HOME_NETWORK = Prefix(0x0A010000, 24)
HOME_BROADCAST = 0x0A0100FF
NODE = 0x0A010005
OTHER = 0x0A010006
CARE_OF = 0x0A030009
CARE_OF_2 = 0x0A030109
CARE_OF_3 = 0x0A030209
FOREIGN_AGENT = 0x0A030101
NODE_MAC = bytes.fromhex("020000000005")
HOME_LINK = "home0"

SPI = 0x100
KEY = bytes(range(16))
FA_SPI = 0x300
FA_KEY = bytes(range(100, 116))
OTHER_KEY = bytes(range(50, 66))

S, B, D, M, G, R, T, X = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


def mac_md5(key: bytes, covered: bytes) -> bytes:
    """HMAC-MD5 (RFC 2104), from the standard library."""
    return hmac.digest(key, covered, "md5")


def sign(message: bytes, key: bytes = KEY, spi: int = SPI, kind: int = 32) -> bytes:
    """Append an authentication extension (RFC 5944 3.5.2)."""
    covered = message + struct.pack("!BBI", kind, 20, spi)
    return covered + mac_md5(key, covered)


def ntp(wall_s: float = WALL_S) -> int:
    """A 64-bit NTP timestamp."""
    return int((wall_s + NTP_EPOCH) * 2**32) & 0xFFFFFFFFFFFFFFFF


def unsigned_request(
    identification: int,
    *,
    lifetime: int = 300,
    care_of: int = CARE_OF,
    home_address: int = NODE,
    home_agent: int = HOME_AGENT,
    flags: int = D | T,
    extensions: bytes = b"",
) -> bytes:
    """A Registration Request without authentication (RFC 5944 3.3)."""
    fixed = struct.pack(
        "!BBHIIIQ", 1, flags, lifetime, home_address, home_agent, care_of, identification
    )
    return fixed + extensions


def reply(
    code: int,
    identification: int,
    *,
    lifetime: int = 300,
    home_address: int = NODE,
    home_agent: int = HOME_AGENT,
    key: bytes = KEY,
    spi: int = SPI,
) -> bytes:
    """A whole Registration Reply (RFC 5944 3.4)."""
    fixed = struct.pack("!BBHIIQ", 3, code, lifetime, home_address, home_agent, identification)
    return sign(fixed, key, spi)


def associations(
    replay: ReplayStyle = ReplayStyle.TIMESTAMPS, key: bytes = KEY, spi: int = SPI
) -> AssociationSet:
    """One association for both directions."""
    return AssociationSet([SecurityAssociation(spi, key, replay=replay)])


def default_policy() -> HomeAgentPolicy:
    """The lab's home agent: link ``home0``, one known foreign agent."""
    shared = AssociationSet([SecurityAssociation(FA_SPI, FA_KEY)])
    return HomeAgentPolicy(
        HOME_AGENT,
        HOME_NETWORK,
        HOME_LINK,
        addresses=frozenset({HOME_AGENT_2}),
        foreign_agents=lambda address: shared if address == FOREIGN_AGENT else None,
    )


@dataclass
class Lab:
    """A home agent, its hosts, and a world that carries out effects at once."""

    policy: HomeAgentPolicy = field(default_factory=default_policy)
    replay: ReplayStyle = ReplayStyle.TIMESTAMPS
    cache_nodes: int = 65536
    boot: int = 7
    boot_ns: int = BOOT_S * SECOND
    wall_ns: int = WALL_S * SECOND
    outcome: CommitOutcome = CommitOutcome.COMMITTED
    hosts: dict[int, Host] = field(default_factory=dict)
    rows: dict[int, NodeRow] = field(default_factory=dict)
    tunnels: dict[int, tuple[Tunnel, ...]] = field(default_factory=dict)
    networks: dict[int, bytes] = field(default_factory=dict)
    """The store's records of mobile networks, by home address."""
    prefixes: dict[tuple[int, int], int] = field(default_factory=dict)
    """Where the engine leads mobile networks to."""
    pools: tuple[Pool, ...] = ()
    unassigned: dict[bytes, Host] = field(default_factory=dict)
    """Hosts without a home address, by NAI."""
    kept: dict[int, bytes] = field(default_factory=dict)
    """The store's addresses out of pools."""
    full: bool = False
    """The engine has no room for another prefix."""
    randoms: int = 0
    unreadable: bool = False
    no_directory: bool = False

    def __post_init__(self) -> None:
        if not self.hosts:
            for address in (NODE, OTHER):
                self.hosts[address] = Host(address, associations(self.replay))
        self.start()

    def start(self) -> None:
        """Start the daemon, or start it again: memory is lost, rows stay."""
        self.loads = 0
        self.addresses = AddressPools(
            self.pools, reserved=[HOME_AGENT], is_configured=self.hosts.__contains__
        )
        self.addresses.restore(self.kept.items(), self.boot_ns)
        self.agent = HomeAgent(
            self.policy,
            hosts=self.lookup,
            load=self.load,
            boot=self.boot,
            random=self.random,
            by_nai=self.lookup_nai,
            reserve_prefix=lambda _prefix, _length: not self.full,
            addresses=self.addresses,
            cache_nodes=self.cache_nodes,
            started=self.now,
        )
        bound = {
            home_address
            for home_address, row in self.rows.items()
            for binding in unpack_bindings(row.bindings, boot=self.boot, anchor=self.now)
            if binding.expires_boot_ns > self.boot_ns
        }
        restored = self.agent.restore_networks(self.networks.items(), bound)
        self.prefixes = {(prefix, length): home for prefix, length, home in restored}

    def lookup(self, home_address: int) -> Host | None:
        if self.no_directory:
            raise StoreError("locked")
        name = self.addresses.owner(home_address)
        if name is not None:
            return replace(self.unassigned[name], home_address=home_address)
        return self.hosts.get(home_address)

    def lookup_nai(self, nai: bytes) -> Host | None:
        named = (host for host in self.hosts.values() if host.nai == nai)
        return next(named, self.unassigned.get(nai))

    def load(self, home_address: int) -> NodeRow | None:
        self.loads += 1
        if self.unreadable:
            raise StoreError("locked")
        return self.rows.get(home_address)

    def random(self, count: int) -> bytes:
        """Not random, but never the same."""
        self.randoms += 1
        return (0xA0000000 + self.randoms).to_bytes(4)[-count:]

    @property
    def now(self) -> Now:
        return Now(self.boot_ns, self.wall_ns)

    @property
    def wall_s(self) -> float:
        return self.wall_ns / SECOND

    def pass_time(self, seconds: float) -> list[Effect]:
        """Let both clocks run, and the timer when it is due."""
        self.boot_ns += int(seconds * SECOND)
        self.wall_ns += int(seconds * SECOND)
        return self.run_timer()

    def run_timer(self) -> list[Effect]:
        """Call the timer as often as it is due."""
        effects: list[Effect] = []
        for _ in range(100):
            deadline = self.agent.next_deadline()
            if deadline is None or deadline > self.boot_ns:
                return effects
            effects += self.carry_out(self.agent.handle_timer(self.now))
        raise AssertionError("the timer never comes to rest")

    def request(self, *, at: float | None = None, key: bytes = KEY, **fields: Any) -> bytes:
        """A signed request stamped with the lab's time (or ``at``, or ``identification``)."""
        identification = fields.pop("identification", None)
        if identification is None:
            identification = ntp(self.wall_s if at is None else at)
        return sign(unsigned_request(identification, **fields), key)

    def arrival(
        self,
        source: int = CARE_OF,
        *,
        port: int = 40000,
        destination: int = HOME_AGENT,
        interface: str = "wan0",
        mac: bytes | None = None,
    ) -> Arrival:
        return Arrival(Endpoint(source, port), Endpoint(destination, 434), interface, mac)

    def receive(self, data: bytes, arrival: Arrival | None = None) -> list[Effect]:
        """What the agent returns at once; a Commit is not carried out."""
        return self.agent.receive_datagram(data, arrival or self.arrival(), self.now)

    def send(self, data: bytes, arrival: Arrival | None = None) -> list[Effect]:
        """Deliver a datagram and carry out what follows."""
        return self.carry_out(self.receive(data, arrival))

    def carry_out(self, effects: list[Effect]) -> list[Effect]:
        """Carry out commits; returns all effects in order, commits included."""
        done: list[Effect] = []
        waiting = list(effects)
        while waiting:
            effect = waiting.pop(0)
            done.append(effect)
            if isinstance(effect, Commit):
                waiting = self.finish(effect) + waiting
        return done

    def finish(self, commit: Commit) -> list[Effect]:
        """End one commit with the lab's outcome."""
        if self.outcome is CommitOutcome.COMMITTED:
            self.rows[commit.home_address] = commit.row
            if commit.assigned:
                others = {at: name for at, name in self.kept.items() if name != commit.assigned}
                self.kept = others | {commit.home_address: commit.assigned}
            if commit.networks is not None:
                self.networks[commit.home_address] = commit.networks.records
                for network in commit.networks.leaving:
                    assert self.prefixes.pop(network) == commit.home_address
                for network in commit.networks.entering:
                    assert network not in self.prefixes
                    self.prefixes[network] = commit.home_address
            if commit.tunnels:
                self.tunnels[commit.home_address] = commit.tunnels
            else:
                self.tunnels.pop(commit.home_address, None)
        return self.agent.commit_done(commit.token, self.outcome, self.now)

    def care_of_addresses(self, home_address: int = NODE) -> list[int]:
        """Where the engine would send packets of a node, in order."""
        return [tunnel.remote for tunnel in self.tunnels.get(home_address, ())]

    def count(self, name: str) -> int:
        return self.agent.counters()[name]

    def set_policy(self, **changes: Any) -> None:
        self.policy = replace(self.policy, **changes)
        self.agent.set_policy(self.policy)


def without_commits(effects: list[Effect]) -> list[Effect]:
    """Effects an outsider can see."""
    return [effect for effect in effects if not isinstance(effect, Commit)]


def datagrams(effects: list[Effect]) -> list[SendDatagram]:
    """The replies among effects."""
    return [effect for effect in effects if isinstance(effect, SendDatagram)]


def only_reply(effects: list[Effect]) -> SendDatagram:
    """The one reply among effects."""
    (found,) = datagrams(effects)
    return found


def codes(effects: list[Effect]) -> list[int]:
    """Reply codes among effects."""
    return [effect.data[1] for effect in datagrams(effects)]


def violations(effects: list[Effect]) -> list[str]:
    """Reasons of violations among effects."""
    return [effect.reason for effect in effects if isinstance(effect, Violation)]
