"""Agent advertisements: moments, numbers, answers and farewells; bytes by struct alone."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest

from fastmip.agents.advertiser import (
    ANSWERS_PER_SECOND,
    AdvertisedLink,
    Advertiser,
)
from fastmip.agents.effects import Arrival, Effect, Endpoint, Now, SendIcmp
from fastmip.wire.discovery import AGENT_F, AGENT_H, AGENT_R, AGENT_T, RouterAddress

SECOND = 1_000_000_000
AGENT = 0x0A030101
NODE = 0x0A010005
MAC = bytes.fromhex("020000000005")
ALL_HOSTS = 0xE0000001
SOLICITATION = bytes.fromhex("0a00f5ff00000000")


class Challenges:
    """Numbers its challenges."""

    def __init__(self) -> None:
        self.count = 0

    def advertise(self) -> bytes:
        self.count += 1
        return self.newest()

    def newest(self) -> bytes:
        return self.count.to_bytes(8, "big")

    def offer(self, node: object) -> bytes:
        return b"for" + str(node).encode()[:5].rjust(5)


def link(name: str = "air0", **fields: Any) -> AdvertisedLink:
    values: dict[str, Any] = {
        "interface": name,
        "address": AGENT,
        "flags": AGENT_R | AGENT_F | AGENT_T,
        "registration_lifetime_s": 300,
        "care_of_addresses": (AGENT,),
        "routers": (RouterAddress(AGENT),),
        "prefix_lengths": (24,),
    }
    return AdvertisedLink(**values | fields)


class Bench:
    """An advertiser with a clock turned by hand."""

    def __init__(self, *links: AdvertisedLink, random: float = 0.5, **how: Any) -> None:
        self.s = 0.0
        self.busy = False
        self.challenges = Challenges()
        self.advertiser = Advertiser(
            links or (link(),),
            random=lambda: random,
            now=self.now,
            is_busy=lambda: self.busy,
            challenges=lambda _interface: self.challenges,
            **how,
        )

    @property
    def now(self) -> Now:
        return Now(round(self.s * SECOND), 0)

    def tick(self, seconds: float) -> list[tuple[float, SendIcmp]]:
        """What is sent when, while time passes."""
        sent: list[tuple[float, SendIcmp]] = []
        end = self.s + seconds
        while (due := self.advertiser.next_deadline()) is not None and due / SECOND <= end:
            self.s = max(self.s, due / SECOND)
            for effect in self.advertiser.handle_timer(self.now):
                assert isinstance(effect, SendIcmp)
                sent.append((self.s, effect))
        self.s = end
        return sent

    def solicit(
        self, source: int = NODE, mac: bytes | None = MAC, data: bytes = SOLICITATION
    ) -> list[Effect]:
        arrival = Arrival(Endpoint(source, 0), Endpoint(0xE000000B, 0), "air0", mac, 1)
        return self.advertiser.receive_solicitation(data, arrival, self.now)


def sequence(message: bytes) -> int:
    """Of the mobility agent extension, behind one router address."""
    assert message[16] == 16
    return int(struct.unpack_from("!H", message, 18)[0])


def flags(message: bytes) -> int:
    """Of the mobility agent extension."""
    return int(struct.unpack_from("!H", message, 22)[0])


def test_an_advertisement_byte_for_byte_rfc5944_2_1() -> None:
    """The golden vector of the protocol map, but for its address."""
    bench = Bench(link(has_challenge=True, lifetime_s=9, code=16))
    [(moment, effect)] = bench.tick(0)
    assert moment == 0
    body = (
        struct.pack("!BBHIi", 1, 2, 9, AGENT, 0)
        + struct.pack("!BBHHHI", 16, 10, 0, 300, 0x9100, AGENT)
        + bytes((19, 1, 24))
        + bytes((24, 8))
        + (1).to_bytes(8, "big")
        + b"\0"
    )
    assert effect.message[:2] == b"\x09\x10"
    assert effect.message[4:] == body
    total = sum(struct.unpack(f"!{len(effect.message) // 2}H", effect.message))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert (effect.source, effect.destination, effect.interface, effect.mac) == (
        AGENT,
        ALL_HOSTS,
        "air0",
        None,
    )


def test_numbers_count_from_zero_on_each_link_rfc5944_2_3_2() -> None:
    bench = Bench(link("air0"), link("air1"), random=0.0)
    sent = bench.tick(3.1)
    for name in ("air0", "air1"):
        numbers = [sequence(e.message) for _, e in sent if e.interface == name]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) == 5


def test_0xffff_is_followed_by_256_rfc5944_2_3_2() -> None:
    bench = Bench(link(max_interval_s=0.001, min_interval_s=0.001, lifetime_s=1))
    numbers = [sequence(e.message) for _, e in bench.tick(65.54)]
    place = numbers.index(0xFFFF)
    assert numbers[place : place + 3] == [0xFFFF, 256, 257]


@pytest.mark.parametrize(("random", "gap"), [(0.0, 0.75), (0.999, 0.99975)])
def test_intervals_are_random_between_their_bounds(random: float, gap: float) -> None:
    bench = Bench(random=random)
    moments = [moment for moment, _ in bench.tick(20)]
    gaps = {round(b - a, 5) for a, b in itertools.pairwise(moments)}
    assert gaps == {gap}


def test_the_first_three_come_sooner_rfc1256_6() -> None:
    bench = Bench(link(max_interval_s=600, min_interval_s=450, lifetime_s=1800), random=1.0)
    moments = [moment for moment, _ in bench.tick(2000)]
    assert moments[:4] == [0, 16, 32, 632]


def test_busy_is_said_while_it_lasts() -> None:
    bench = Bench(link(), link("home0", flags=AGENT_H, care_of_addresses=()))
    bench.busy = True
    said = {e.interface: flags(e.message) for _, e in bench.tick(0)}
    assert said == {"air0": AGENT_R | AGENT_F | AGENT_T | 0x4000, "home0": AGENT_H}
    bench.busy = False
    assert not any(flags(e.message) & 0x4000 for _, e in bench.tick(3))


def test_a_solicitation_from_anywhere_is_answered_to_its_mac_rfc5944_2_3() -> None:
    bench = Bench()
    bench.tick(0)
    [answer] = bench.solicit()
    assert isinstance(answer, SendIcmp)
    assert (answer.destination, answer.mac, sequence(answer.message)) == (NODE, MAC, 1)
    assert bench.advertiser.counters()["maAdvsSentForSolicitation"] == 1


def test_answers_are_limited_for_each_neighbour_and_all_of_them() -> None:
    bench = Bench()
    assert [len(bench.solicit()) for _ in range(3)] == [1, 0, 0]
    others = [len(bench.solicit(mac=(0x020000000100 + n).to_bytes(6, "big"))) for n in range(500)]
    assert sum(others) == ANSWERS_PER_SECOND - 1
    bench.s += 1.01
    assert len(bench.solicit()) == 1


def test_who_has_no_address_waits_for_the_next_multicast_which_comes_soon() -> None:
    bench = Bench(link(max_interval_s=600, min_interval_s=450, lifetime_s=1800))
    bench.tick(100)
    assert bench.solicit(source=0) == []
    assert bench.solicit(source=0, mac=MAC[:5] + b"\x09") == []  # one answer for all
    [(moment, answer)] = bench.tick(10)
    assert 101 <= moment <= 102
    assert (answer.destination, answer.mac) == (ALL_HOSTS, None)
    assert bench.tick(100) == []  # the periodic one starts afresh


def test_an_agent_may_speak_only_when_asked_rfc5944_2_3() -> None:
    bench = Bench(link(is_periodic=False))
    assert bench.tick(1000) == []
    assert len(bench.solicit()) == 1
    bench.solicit(source=0)
    assert len(bench.tick(1000)) == 1


@pytest.mark.parametrize(
    "data", [b"", SOLICITATION[:7], b"\x0a\x01" + SOLICITATION[2:], SOLICITATION[:-1] + b"\x01"]
)
def test_what_is_no_solicitation_is_not_answered(data: bytes) -> None:
    bench = Bench()
    assert bench.solicit(data=data) == []
    assert bench.advertiser.counters()["maSolicitationsMalformed"] == 1


def test_an_impossible_asker_is_not_answered() -> None:
    bench = Bench()
    assert bench.solicit(source=0xE0000001) == []
    assert bench.solicit(mac=None) == []


def test_answers_do_not_push_challenges_out_rfc4721_12() -> None:
    bench = Bench(link(has_challenge=True))
    bench.tick(0)
    for number in range(50):
        bench.s += 0.01
        bench.solicit(source=0)
        bench.solicit(mac=(0x020000000100 + number).to_bytes(6, "big"))
    assert bench.challenges.count == 1


def test_a_node_is_told_by_sequence_zero_rfc3543_4_1() -> None:
    bench = Bench()
    bench.tick(5)
    [told] = bench.advertiser.notify("air0", NODE, MAC)
    assert isinstance(told, SendIcmp)
    assert (told.destination, told.mac, sequence(told.message)) == (NODE, MAC, 0)
    [busy] = bench.advertiser.notify("air0", NODE, MAC, busy=True)
    assert isinstance(busy, SendIcmp)
    assert flags(busy.message) & 0x4000
    assert min(sequence(e.message) for _, e in bench.tick(3)) > 1  # the link goes on
    assert bench.advertiser.notify("nowhere", NODE, MAC) == []


def test_the_last_one_has_lifetime_zero_rfc1256_4_3() -> None:
    bench = Bench(link("air0"), link("air1"))
    bench.tick(1)
    last = bench.advertiser.shut_down()
    assert len(last) == 2
    for effect in last:
        assert isinstance(effect, SendIcmp)
        assert effect.message[6:8] == b"\0\0"
    assert bench.tick(100) == []


def test_links_may_change_on_the_run() -> None:
    bench = Bench(link("air0"), link("air1"))
    bench.tick(5)
    changed = link("air0", registration_lifetime_s=60)
    [farewell] = bench.advertiser.set_links([changed, link("air2")], bench.now)
    assert isinstance(farewell, SendIcmp)
    assert (farewell.interface, farewell.message[6:8]) == ("air1", b"\0\0")
    sent = {e.interface: e.message for _, e in bench.tick(0)}
    assert sequence(sent["air0"]) > 1
    assert sent["air0"][20:22] == (60).to_bytes(2, "big")
    assert sequence(sent["air2"]) == 0
