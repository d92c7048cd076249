"""ESP in the engine: agreement with scapy both ways, every bad input, windows, lifetimes."""

import random
import struct
from ipaddress import IPv4Address as A
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw

from fastmip import _dataplane as dp
from fastmip.errors import EngineFull

HOME_AGENT, CARE_OF = int(A("10.0.0.1")), int(A("192.0.2.7"))
NODE, PEER = int(A("10.1.0.5")), int(A("198.51.100.9"))
NOW = 10**12
SUITES = {
    "aes128-gcm16": (20, "AES-GCM", "NULL"),
    "aes256-gcm16": (36, "AES-GCM", "NULL"),
    "aes128-cbc-sha256": (48, "AES-CBC", "SHA2-256-128"),
    "aes256-cbc-sha256": (64, "AES-CBC", "SHA2-256-128"),
}
PROVIDERS = ["libcrypto", "ipsec-mb"]
GCM = "aes128-gcm16"
IN_SPI, OUT_SPI = 0x1001, 0x2002


def _draws(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable octets


def key_of(suite: str, seed: int) -> bytes:
    return _draws(seed).randbytes(SUITES[suite][0])


class World:
    """A home agent with one binding whose tunnel goes through ESP."""

    def __init__(
        self,
        suite: str = GCM,
        provider: str = "libcrypto",
        encapsulation: int = 4,
        **sa: Any,
    ) -> None:
        self.cache = dp.BindingCache(max_bindings=16, local_addresses=[HOME_AGENT])
        try:
            self.provider = self.cache.use_esp(max_sas=16, provider=provider)
        except ValueError:
            pytest.skip(f"no {provider} here")
        self.suite, self.esn = suite, sa.get("esn", False)
        self.bundle = self.cache.new_bundle()
        self.inbound = self.add(inbound=True, spi=IN_SPI, key=key_of(suite, 1), **sa)
        self.outbound = self.add(inbound=False, spi=OUT_SPI, key=key_of(suite, 2), **sa)
        self.cache.sa_send(self.outbound)
        self.bind(encapsulation)
        self.port = dp.MemoryPort(self.cache, done=dp.DONE_TTL)

    def add(self, **sa: Any) -> int:
        given: dict[str, Any] = {
            "bundle": self.bundle,
            "suite": self.suite,
            "local": HOME_AGENT,
            "remote": CARE_OF,
        }
        return self.cache.sa_add(**{**given, **sa})

    def bind(self, encapsulation: int = 4) -> None:
        record = struct.pack(
            "=IIIHBBQIHHBB2xI", NODE, CARE_OF, HOME_AGENT, 1500, encapsulation,
            dp.FLAG_REVERSE, 2**62, 0, 0, 0, 0, 0, self.bundle,
        )  # fmt: skip
        self.cache.publish(self.cache.prepare(record))

    def home(self, *packets: bytes) -> list[str]:
        return self.port.inject(dp.HOME, packets, now_ns=NOW)

    def tunnel(self, *packets: bytes) -> list[str]:
        return self.port.inject(dp.TUNNEL, packets, now_ns=NOW)

    def sent(self) -> list[bytes]:
        return self.port.take(dp.TUNNEL)

    def arrived(self) -> list[bytes]:
        return self.port.take(dp.HOME)


def judge(suite: str, spi: int, seed: int, *, esn: bool = False) -> Any:
    """Scapy's SA in transport mode: what it carries is the tunnel packet's payload."""
    size, cipher, auth = SUITES[suite]
    key = key_of(suite, seed)
    cipher_key = key if cipher == "AES-GCM" else key[: size - 32]
    auth_key = None if cipher == "AES-GCM" else key[size - 32 :]
    return SecurityAssociation(  # type: ignore[no-untyped-call]
        ESP, spi, crypt_algo=cipher, crypt_key=cipher_key, auth_algo=auth, auth_key=auth_key,
        esn_en=esn, esn=0,
    )  # fmt: skip


def downward(size: int = 40, seed: int = 0) -> bytes:
    body = _draws(seed).randbytes(size)
    return bytes(IP(src=str(A(PEER)), dst=str(A(NODE))) / UDP(sport=5, dport=6) / Raw(body))


def upward(size: int = 40, seed: int = 0, source: int = NODE) -> bytes:
    body = _draws(seed).randbytes(size)
    return bytes(IP(src=str(A(source)), dst=str(A(PEER))) / UDP(sport=6, dport=5) / Raw(body))


def in_tunnel(inner: bytes) -> Any:
    return IP(src=str(A(CARE_OF)), dst=str(A(HOME_AGENT)), proto=4, flags="DF") / Raw(inner)


def sealed(
    suite: str, inner: bytes, number: int, *, esn: bool = False, spi: int = IN_SPI, seed: int = 1
) -> bytes:
    packet = judge(suite, spi, seed, esn=esn).encrypt(
        IP(bytes(in_tunnel(inner))), seq_num=number, esn_en=esn, esn=0
    )
    return bytes(packet)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("suite", SUITES)
def test_scapy_opens_what_the_engine_seals(suite: str, esn: bool, provider: str) -> None:
    world = World(suite, provider, esn=esn)
    packets = [downward(size, size) for size in (*range(0, 36), 500, 1380)]
    assert set(world.home(*packets)) == {"encapsulated"}
    other = judge(suite, OUT_SPI, 2, esn=esn)
    ivs: set[bytes] = set()
    for number, (packet, left) in enumerate(zip(packets, world.sent(), strict=True), 1):
        received = IP(left)
        assert (received.proto, received.src, received.dst) == (50, "10.0.0.1", "192.0.2.7")
        assert received.chksum == IP(bytes(IP(left).copy())).chksum
        assert received[ESP].spi == OUT_SPI
        assert received[ESP].seq == number
        ivs.add(bytes(received[ESP].data[:8]))
        opened = other.decrypt(received, esn_en=esn, esn=0)
        assert opened.proto == 4
        assert bytes(opened.payload) == packet
    assert len(ivs) == len(packets)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("suite", SUITES)
def test_the_engine_opens_what_scapy_seals(suite: str, esn: bool, provider: str) -> None:
    world = World(suite, provider, esn=esn)
    packets = [upward(size, size) for size in (*range(0, 36), 500, 1380)]
    wire = [sealed(suite, packet, n, esn=esn) for n, packet in enumerate(packets, 1)]
    assert set(world.tunnel(*wire)) == {"decapsulated"}
    assert world.arrived() == packets
    assert world.cache.take_sa_events() == [(world.inbound, "confirmed")]


def test_providers_make_the_same_octets() -> None:
    left = []
    for provider in PROVIDERS:
        worlds = [World(suite, provider) for suite in SUITES]
        packets = [downward(n, n) for n in range(0, 1300, 29)]
        for world in worlds:
            world.home(*packets)
        left.append([world.sent() for world in worlds])
    assert left[0] == left[1]


@pytest.mark.parametrize("encapsulation", [4, 47, 55])
def test_every_encapsulation_goes_through_esp_and_back(encapsulation: int) -> None:
    world = World("aes256-cbc-sha256", encapsulation=encapsulation)
    assert world.home(downward(100)) == ["encapsulated"]
    other = judge(world.suite, OUT_SPI, 2)
    opened = other.decrypt(IP(world.sent()[0]))
    assert opened.proto == encapsulation
    turned = {4: in_tunnel(upward(90)), 47: None, 55: None}[encapsulation]
    if turned is not None:
        wire = judge(world.suite, IN_SPI, 1).encrypt(IP(bytes(turned)), seq_num=1)
        assert world.tunnel(bytes(wire)) == ["decapsulated"]


def test_budget_is_what_esp_leaves() -> None:
    world = World()
    largest = 1446  # protocol: L + 2 is a multiple of four, and L + 54 fits 1500
    assert world.home(downward(largest - 28)) == ["encapsulated"]
    assert len(world.sent()[0]) == 1500
    assert world.home(downward(largest - 27)) == ["encapsulated-fragments"]
    assert all(len(piece) <= 1500 for piece in world.sent())


def flipped(packet: bytes, bit: int) -> bytes:
    octets = bytearray(packet)
    octets[bit // 8] ^= 1 << bit % 8
    return bytes(octets)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("suite", [GCM, "aes128-cbc-sha256"])
def test_a_flip_anywhere_is_refused_and_moves_no_window(suite: str, provider: str) -> None:
    world = World(suite, provider)
    good = sealed(suite, upward(), 5)
    tag = len(good) - 16
    for bit in range(tag * 8, len(good) * 8):
        assert world.tunnel(flipped(good, bit)) == ["drop-esp-icv"]
    for octet in range(28, tag):
        assert world.tunnel(flipped(good, octet * 8)) == ["drop-esp-icv"]
    assert world.cache.sa_state(world.inbound)["sequence"] == 0
    assert world.arrived() == []
    assert world.tunnel(good) == ["decapsulated"]


def raw_esp(payload: bytes, source: int = CARE_OF) -> bytes:
    return bytes(IP(src=str(A(source)), dst=str(A(HOME_AGENT)), proto=50) / Raw(payload))


def test_short_packets_are_truncated() -> None:
    world = World()
    spi = struct.pack(">II", IN_SPI, 1)
    for size in range(36):
        packet = raw_esp((spi + bytes(40))[:size])
        assert world.tunnel(packet) == ["drop-esp-truncated"], size
    for cut in range(20):
        world.tunnel(raw_esp(spi + bytes(40))[:cut])
    assert world.arrived() == []


def test_each_bad_input_has_its_own_verdict() -> None:
    world = World(selectors=(NODE, NODE, 0, 0xFFFFFFFF))
    good = sealed(GCM, upward(), 1)

    def carrying(next_header: int, body: bytes, number: int) -> bytes:
        packet = IP(src=str(A(CARE_OF)), dst=str(A(HOME_AGENT)), proto=next_header) / Raw(body)
        return bytes(judge(GCM, IN_SPI, 1).encrypt(IP(bytes(packet)), seq_num=number))

    def padded(tail: bytes, number: int) -> bytes:
        key = key_of(GCM, 1)
        header = struct.pack(">II", IN_SPI, number)
        iv = bytes(8)
        text = AESGCM(key[:16]).encrypt(key[16:] + iv, upward() + tail, header)
        return raw_esp(header + iv + text)

    assert world.tunnel(raw_esp(bytes(60))) == ["drop-esp-spi"]
    assert world.tunnel(raw_esp(struct.pack(">I", 255) + bytes(60))) == ["drop-esp-spi"]
    assert world.tunnel(raw_esp(struct.pack(">I", 999) + bytes(60))) == ["drop-esp-no-sa"]
    assert world.tunnel(raw_esp(good[20:], source=PEER)) == ["drop-esp-address"]
    assert world.tunnel(raw_esp(good[20:] + b"x")) == ["drop-esp-length"]
    assert world.tunnel(raw_esp(good[20:24] + bytes(4) + good[28:])) == ["drop-esp-sequence-zero"]
    assert world.tunnel(carrying(59, bytes(40), 2)) == ["esp-dummy"]
    assert world.tunnel(carrying(6, bytes(40), 3)) == ["drop-esp-next-header"]
    assert world.tunnel(carrying(50, bytes(40), 4)) == ["drop-esp-nested"]
    assert world.tunnel(sealed(GCM, upward(source=PEER), 5)) == ["drop-esp-selector"]
    assert world.tunnel(padded(bytes([1, 3, 2, 4]), 6)) == ["drop-esp-padding"]
    assert world.tunnel(padded(bytes([0, 0, 255, 4]), 7)) == ["drop-esp-padding"]
    assert world.tunnel(bytes(in_tunnel(upward()))) == ["drop-esp-required"]
    assert world.arrived() == []
    assert world.tunnel(padded(bytes([1, 2, 2, 4]), 8)) == ["decapsulated"]
    assert world.tunnel(padded(bytes(100) + bytes([1, 2, 2, 4]), 9)) == ["decapsulated"]  # TFC
    assert world.arrived() == [upward(), upward()]
    balance = world.cache.balance()
    assert balance["inputs"] + balance["generated"] + balance["copies"] == balance["verdicts"]


def test_wrong_salt_is_a_wrong_tag() -> None:
    world = World()
    other = judge(GCM, IN_SPI, 1)
    key = key_of(GCM, 1)
    other.crypt_salt = bytes(4) if key[16:] != bytes(4) else bytes([1] * 4)
    wire = bytes(other.encrypt(IP(bytes(in_tunnel(upward()))), seq_num=1))
    assert world.tunnel(wire) == ["drop-esp-icv"]


def test_esp_of_another_binding_is_no_way_in() -> None:
    world = World()
    other = world.cache.new_bundle()
    world.add(bundle=other, inbound=True, spi=0x3003, key=key_of(GCM, 3))
    wire = sealed(GCM, upward(), 1, spi=0x3003, seed=3)
    assert world.tunnel(wire) == ["drop-esp-policy"]


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("window", [64, 100, 1024, 4096])
def test_window_takes_each_number_once(window: int, esn: bool) -> None:
    world = World(window=window, esn=esn)
    draw = _draws(window)
    taken: set[int] = set()
    packets: list[int] = []
    expected: list[bool] = []
    highest = 0
    for _ in range(600):
        step = draw.choice([1, 2, 64, window // 2, window, window + 70])
        back = highest - draw.randrange(window + 10)
        number = max(1, back if draw.random() < 0.7 else highest + step)
        is_right = number > highest - window and number not in taken
        packets.append(number)
        expected.append(is_right)
        if is_right:
            taken.add(number)
            highest = max(highest, number)
    cipher = {n: sealed(GCM, upward(0), n, esn=esn) for n in sorted(set(packets))}
    got = world.tunnel(*(cipher[n] for n in packets))
    assert [verdict == "decapsulated" for verdict in got] == expected
    # What is behind the window is taken for the next 2^32 then, and its tag is wrong.
    refused = {"drop-esp-replay", "drop-esp-icv"} if esn else {"drop-esp-replay"}
    assert set(got) - {"decapsulated"} <= refused


def test_extended_numbers_go_past_the_lower_half() -> None:
    world = World(esn=True, first=2**32 - 3)
    packets = [downward(n) for n in range(8)]
    assert set(world.home(*packets)) == {"encapsulated"}
    numbers = [IP(left)[ESP].seq for left in world.sent()]
    assert numbers == [2**32 - 3, 2**32 - 2, 2**32 - 1, 0, 1, 2, 3, 4]
    other = World(esn=True, first=2**32 - 3)
    mirror = dp.BindingCache(max_bindings=4, role="mobile-node")
    mirror.use_esp(max_sas=4, provider="libcrypto")
    bundle = mirror.new_bundle()
    sender = mirror.sa_add(
        bundle=bundle, inbound=False, spi=IN_SPI, suite=GCM, key=key_of(GCM, 1), local=CARE_OF,
        remote=HOME_AGENT, esn=True, first=2**32 - 3,
    )  # fmt: skip
    mirror.sa_send(sender)
    record = struct.pack(
        "=IIIHBBQIHHBB2xI", NODE, HOME_AGENT, CARE_OF, 1500, 4, dp.FLAG_REVERSE, 2**62, 0, 0, 0,
        0, 0, bundle,
    )  # fmt: skip
    mirror.publish(mirror.prepare(record))
    port = dp.MemoryPort(mirror, done=dp.DONE_TTL)
    ups = [upward(n) for n in range(8)]
    assert set(port.inject(dp.HOME, ups, now_ns=NOW)) == {"encapsulated"}
    wire = port.take(dp.TUNNEL)
    _draws(1).shuffle(wire)
    assert set(other.tunnel(*wire)) == {"decapsulated"}
    assert sorted(other.arrived(), key=len) == ups
    assert set(other.tunnel(*wire)) == {"drop-esp-replay"}


def test_sequence_numbers_end_and_blocks_grow() -> None:
    world = World(last=4)
    assert world.home(*[downward()] * 6) == ["encapsulated"] * 4 + ["drop-esp-sequence"] * 2
    assert (world.outbound, "block") in world.cache.take_sa_events()
    world.cache.sa_reserve(world.outbound, 5)
    assert world.home(*[downward()] * 2) == ["encapsulated", "drop-esp-sequence"]
    ended = World(first=2**32 - 1)
    assert ended.home(*[downward()] * 2) == ["encapsulated", "drop-esp-sequence"]


@pytest.mark.parametrize(
    "limits",
    [
        {"soft_packets": 2, "hard_packets": 3},
        {"soft_bytes": 100, "hard_bytes": 190},
    ],
)
def test_lifetimes_tell_and_then_refuse(limits: dict[str, Any]) -> None:
    world = World(**limits)
    assert world.home(*[downward()] * 5) == ["encapsulated"] * 3 + ["drop-esp-lifetime"] * 2
    told = world.cache.take_sa_events()
    assert told == [(world.outbound, "soft"), (world.outbound, "hard")]


def test_time_ends_an_association() -> None:
    world = World(soft_ns=NOW, hard_ns=NOW + 5)
    assert world.home(downward()) == ["encapsulated"]
    assert world.cache.take_sa_events() == [(world.outbound, "soft")]
    assert world.port.inject(dp.HOME, [downward()], now_ns=NOW + 5) == ["drop-esp-lifetime"]
    wire = sealed(GCM, upward(), 1)
    assert world.port.inject(dp.TUNNEL, [wire], now_ns=NOW + 5) == ["drop-esp-lifetime"]


def test_new_keys_come_without_loss() -> None:
    world = World()
    new_in = world.add(inbound=True, spi=0x4004, key=key_of(GCM, 4))
    new_out = world.add(inbound=False, spi=0x5005, key=key_of(GCM, 5))
    assert world.tunnel(sealed(GCM, upward(), 1)) == ["decapsulated"]
    assert world.tunnel(sealed(GCM, upward(), 1, spi=0x4004, seed=4)) == ["decapsulated"]
    world.home(downward())
    world.cache.sa_send(new_out)
    world.home(downward())
    assert [IP(left)[ESP].spi for left in world.sent()] == [OUT_SPI, 0x5005]
    world.cache.sa_remove(world.outbound)
    world.cache.sa_remove(world.inbound)
    assert world.tunnel(sealed(GCM, upward(), 2)) == ["drop-esp-no-sa"]
    assert world.tunnel(sealed(GCM, upward(), 2, spi=0x4004, seed=4)) == ["decapsulated"]
    world.cache.sa_remove(new_out)
    assert world.home(downward()) == ["drop-esp-no-key"]
    assert world.cache.sa_state(new_in)["packets"] == 2
    with pytest.raises(KeyError):
        world.cache.sa_state(new_out)


def test_udp_encapsulation_both_ways() -> None:
    world = World(udp_ports=(4711, 4500))
    world.home(downward())
    left = IP(world.sent()[0])
    assert (left.proto, left[UDP].sport, left[UDP].dport, left[UDP].chksum) == (17, 4500, 4711, 0)
    bare = sealed(GCM, upward(), 1)
    datagram = IP(src=str(A(CARE_OF)), dst=str(A(HOME_AGENT))) / UDP(sport=4711, dport=4500)
    assert world.tunnel(bare) == ["drop-esp-address"]
    assert world.tunnel(bytes(datagram / Raw(bare[20:]))) == ["decapsulated"]


def test_what_is_asked_wrongly_is_refused() -> None:
    world = World()
    good: dict[str, Any] = {"inbound": True, "spi": 0x6006, "key": key_of(GCM, 6)}
    wrongs: tuple[dict[str, Any], ...] = (
        {"spi": 255}, {"spi": IN_SPI}, {"window": 63}, {"window": 4097}, {"first": 0},
        {"key": bytes(19)}, {"suite": "des"}, {"bundle": 9},
    )  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"."):
            world.add(**{**good, **wrong})
    record = struct.pack(
        "=IIIHBBQIHHBB2xI", NODE + 1, CARE_OF, HOME_AGENT, 0, 4, 1, 2**62, 0, 0, 0, 0, 0, 9
    )
    with pytest.raises(ValueError, match="no bundle 9"):
        world.cache.prepare(record)
    assert "key" not in repr(world.cache.sa_state(world.inbound))


def test_icmp_of_ours_goes_through_esp_too() -> None:
    world = World()
    huge = bytes(IP(src=str(A(PEER)), dst=str(A(NODE)), flags="DF") / ICMP() / Raw(bytes(1480)))
    assert world.home(huge) == ["drop-too-big"]
    answer = IP(world.arrived()[0])
    assert answer[ICMP].nexthopmtu == 1446


@pytest.mark.parametrize("suite", SUITES)
def test_dummies_confirm_and_carry_nothing(suite: str) -> None:
    world = World(suite, last=2)
    first, second = world.cache.sa_dummy(world.outbound), world.cache.sa_dummy(world.outbound)
    opened = judge(suite, OUT_SPI, 2).decrypt(IP(second))
    assert (opened.proto, opened.src, opened.dst) == (59, "10.0.0.1", "192.0.2.7")
    assert [IP(packet)[ESP].seq for packet in (first, second)] == [1, 2]
    with pytest.raises(EngineFull):
        world.cache.sa_dummy(world.outbound)
    with pytest.raises(ValueError, match="inbound"):
        world.cache.sa_dummy(world.inbound)
