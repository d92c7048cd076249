"""The mobile node against a home agent on paper: what it says, when, and what it does."""

from __future__ import annotations

import itertools
import struct

import pytest
from scapy.layers.mobileip import MobileIPRRQ
from tests.agents.mobile_world import (
    B2,
    GATEWAY_A,
    HOME,
    HOME_AGENT,
    LEASE,
    MS,
    SECOND,
    A,
    B,
    World,
    at_home,
    down,
    visit_a,
    visit_b,
)
from tests.agents.paper_home_agent import NTP_OFFSET, PaperHomeAgent, build_reply, parse_request

from fastmip.agents.attachment import LinkState
from fastmip.agents.effects import (
    NEVER,
    ConfigureHome,
    GratuitousArp,
    InstallTunnels,
    RouteThroughTunnel,
    SendDatagram,
    SetArp,
    Violation,
)
from fastmip.auth.associations import ReplayStyle


def registered(**changes: object) -> World:
    world = World(**changes)  # type: ignore[arg-type]
    world.link(visit_a())
    world.run(0.1)
    assert world.state == "registered"
    return world


# -- the request ----------------------------------------------------------------------------


def test_a_link_with_address_and_route_is_registered_at_once_rfc5944_3_6() -> None:
    world = World()
    world.link(visit_a())
    [(when, datagram, request)] = world.requests
    assert when == world.boot_ns
    assert datagram.source.address == A
    assert (datagram.destination.address, datagram.destination.port) == (HOME_AGENT, 434)
    assert datagram.interface == "eth0"
    assert (request.home_address, request.home_agent, request.care_of) == (HOME, HOME_AGENT, A)
    assert request.lifetime == 300
    assert request.flags == 0x22, "D and T; no S for a single link"
    assert world.state == "pending"


def test_identification_is_the_ntp_time_rfc5944_5_7_1() -> None:
    world = World()
    world.link(visit_a())
    [request] = world.sent()
    assert request.identification / 2**32 - NTP_OFFSET == pytest.approx(world.wall_ns / 1e9, abs=1)


def test_scapy_reads_the_request() -> None:
    world = World()
    world.link(visit_a())
    packet = MobileIPRRQ(world.requests[0][1].data[1:])
    assert (packet.homeaddr, packet.haaddr, packet.coaddr) == ("10.1.0.5", "10.1.0.1", "10.3.1.5")
    assert (packet.flags, packet.lifetime) == (0x22, 300)


def test_a_link_without_route_or_address_is_not_usable() -> None:
    world = World()
    world.link(LinkState("eth0", True))
    world.link(LinkState("eth0", True, ((A, 24),), None))
    assert world.requests == []
    assert world.state == "isolated"


def test_acceptance_installs_the_tunnel_before_packets_go_into_it() -> None:
    world = registered()
    installed = [e for e in world.world_effects() if not isinstance(e, SetArp)]
    last_install = max(i for i, e in enumerate(installed) if isinstance(e, InstallTunnels))
    [tunnel] = installed[last_install].tunnels
    assert (tunnel.local, tunnel.remote, tunnel.reverse) == (A, HOME_AGENT, True)
    assert world.of(RouteThroughTunnel)[-1] == RouteThroughTunnel(True, True, "eth0")


def test_without_reverse_tunnel_packets_leave_natively() -> None:
    world = registered(reverse_tunnel=False)
    assert world.sent()[0].flags == 0x20
    assert world.of(RouteThroughTunnel)[-1] == RouteThroughTunnel(True, False, "eth0")


# -- lifetimes -------------------------------------------------------------------------------


def test_lifetime_counts_from_the_sending_of_the_request_rfc5944_3_6_2_2() -> None:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, max_lifetime=100), delay_ms=400)
    world.link(visit_a())
    sent = world.boot_ns
    world.run(1)
    [tunnel] = world.of(InstallTunnels)[-1].tunnels
    assert tunnel.expires_ns == sent + 100 * SECOND


def test_a_reply_never_raises_the_lifetime_rfc5944_3_4() -> None:
    world = World(lifetime_s=60)
    world.reachable = False
    world.link(visit_a())
    sent = world.boot_ns
    [request] = world.sent()
    world.hear(build_reply(0, 600, HOME, HOME_AGENT, request.identification))
    [tunnel] = world.of(InstallTunnels)[-1].tunnels
    assert tunnel.expires_ns == sent + 60 * SECOND


@pytest.mark.parametrize(("lifetime", "refresh"), [(300, 270), (20, 17), (4, 2)])
def test_refresh_before_the_end_by_three_timeouts_or_a_tenth(lifetime: int, refresh: int) -> None:
    world = registered(lifetime_s=lifetime)
    first = world.requests[0][0]
    world.run(refresh + 1)
    times = [when for when, _, _ in world.requests]
    assert times[1] - first == refresh * SECOND
    assert world.state == "registered"
    assert all(not request.simultaneous for request in world.sent())


def test_an_infinite_lifetime_is_never_refreshed_rfc5944_3_3() -> None:
    world = registered(lifetime_s=0xFFFF)
    [tunnel] = world.of(InstallTunnels)[-1].tunnels
    assert tunnel.expires_ns == NEVER
    world.run(100_000)
    assert len(world.requests) == 1


def test_a_home_agent_that_never_forgets_keeps_it_alive_for_a_day() -> None:
    world = registered(lifetime_s=10)
    world.run(86_400)
    assert world.node.counters()["mnRegistrationsExpired"] == 0
    assert 86_400 / 10 <= len(world.requests) <= 86_400 / 6


def test_expiry_without_refresh_goes_back_to_pending() -> None:
    world = registered(lifetime_s=30)
    world.reachable = False
    world.run(31)
    assert world.state == "pending"
    assert world.node.counters()["mnRegistrationsExpired"] == 1
    world.reachable = True
    world.run(40)
    assert world.state == "registered"


# -- retransmission --------------------------------------------------------------------------


def test_retransmissions_double_from_one_second_rfc5944_3_6_3() -> None:
    world = World()
    world.reachable = False
    world.link(visit_a())
    world.run(130)
    times = [when for when, _, _ in world.requests]
    gaps = [(b - a) / SECOND for a, b in itertools.pairwise(times)]
    assert gaps == [1, 2, 4, 8, 16, 32, 32, 32]


def test_timeouts_do_not_exceed_the_lifetime_rfc5944_3_6_3() -> None:
    world = World(lifetime_s=5)
    world.reachable = False
    world.link(visit_a())
    world.run(30)
    times = [when for when, _, _ in world.requests]
    gaps = [(b - a) / SECOND for a, b in itertools.pairwise(times)]
    assert gaps[:5] == [1, 2, 4, 5, 5]


def test_with_timestamps_each_retransmission_is_a_new_request_rfc5944_3_6_3() -> None:
    world = World()
    world.reachable = False
    world.link(visit_a())
    world.run(10)
    idents = [request.identification for request in world.sent()]
    assert len(set(idents)) == len(idents)
    assert idents == sorted(idents)


def test_with_nonces_the_same_bytes_are_sent_again_rfc5944_5_7_2() -> None:
    world = World(replay=ReplayStyle.NONCES)
    world.reachable = False
    world.link(visit_a())
    world.run(10)
    assert len({datagram.data for _, datagram, _ in world.requests}) == 1
    first = world.requests[0][0]
    [request, *_] = world.sent()
    world.hear(
        build_reply(0, 300, HOME, HOME_AGENT, 77 << 32 | request.identification & 0xFFFFFFFF)
    )
    [tunnel] = world.of(InstallTunnels)[-1].tunnels
    assert tunnel.expires_ns == first + 300 * SECOND, "the first copy may be the one answered"


def test_the_next_request_carries_the_nonce_of_the_reply_rfc5944_5_7_2() -> None:
    world = World(replay=ReplayStyle.NONCES)
    world.reachable = False
    world.link(visit_a())
    [first] = world.sent()
    low = first.identification & 0xFFFFFFFF
    world.hear(build_reply(133, 0, HOME, HOME_AGENT, 0xCAFE << 32 | low))
    world.run(2)
    second = world.sent()[1]
    assert second.identification >> 32 == 0xCAFE
    assert second.identification & 0xFFFFFFFF != low


def test_a_lost_reply_is_repaired_by_the_next_transmission() -> None:
    world = World()
    world.lose = lambda number: number < 2
    world.link(visit_a())
    world.run(3.1)
    assert world.state == "registered"
    assert len(world.requests) == 3


# -- replies that must not count ---------------------------------------------------------------


def waiting() -> tuple[World, int]:
    world = World()
    world.reachable = False
    world.link(visit_a())
    return world, world.sent()[0].identification


def test_a_reply_to_an_older_request_is_dropped_rfc5944_3_6_2_1() -> None:
    world, first = waiting()
    world.run(1.5)
    world.hear(build_reply(0, 300, HOME, HOME_AGENT, first))
    assert world.state == "pending"
    assert world.node.counters()["mnRepliesInvalidID"] == 1


def test_only_the_low_half_has_to_match_rfc5944_5_7() -> None:
    world, ident = waiting()
    world.hear(build_reply(0, 300, HOME, HOME_AGENT, ident ^ 0xFF << 32))
    assert world.state == "registered"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-22],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:1] + bytes([data[1] ^ 1]) + data[2:],
        lambda data: data + data[-22:],
    ],
    ids=["no MHAE", "wrong MAC", "changed code", "two MHAE"],
)
@pytest.mark.parametrize("code", [0, 133, 136])
def test_replies_without_exactly_one_valid_mhae_are_dropped_rfc5944_3_6_2_1(
    spoil: object, code: int
) -> None:
    world, ident = waiting()
    reply = build_reply(code, 300, HOME, HOME_AGENT + 9, ident)
    world.hear(spoil(reply))  # type: ignore[operator]
    assert world.state == "pending"
    assert world.node.counters()["mnRepliesHAAuthenticationFailure"] == 1
    [violation] = world.of(Violation)
    assert violation.identification == ident
    assert violation.reason in ("missingSecurityExtension", "badAuthenticator", "other")
    world.run(1.1)
    assert world.sent()[1].home_agent == HOME_AGENT


def test_every_flipped_bit_of_a_reply_is_noticed() -> None:
    world, ident = waiting()
    reply = build_reply(0, 300, HOME, HOME_AGENT, ident)
    for index in range(len(reply)):
        for bit in range(8):
            world.hear(reply[:index] + bytes([reply[index] ^ 1 << bit]) + reply[index + 1 :])
    # Bits of the high half of the Identification are covered by the authenticator too.
    assert world.state == "pending"
    world.hear(reply)
    assert world.state == "registered"


def test_a_reply_for_another_home_address_is_dropped() -> None:
    world, ident = waiting()
    world.hear(build_reply(0, 300, HOME + 1, HOME_AGENT, ident))
    assert world.node.counters()["mnRepliesInvalidHomeAddress"] == 1


@pytest.mark.parametrize("code", [64, 77, 127, 193, 194, 200])
def test_foreign_agent_codes_are_not_believed_without_a_foreign_agent(code: int) -> None:
    world, ident = waiting()
    world.hear(struct.pack("!BBHIIQ", 3, code, 0, HOME, HOME_AGENT, ident))
    assert world.state == "pending"
    assert world.node.counters()["mnRepliesUnknownFA"] == 1
    world.hear(build_reply(0, 300, HOME, HOME_AGENT, ident))
    assert world.state == "registered", "the request is still pending"


def test_garbage_of_every_length_is_counted_and_dropped() -> None:
    world, ident = waiting()
    reply = build_reply(0, 300, HOME, HOME_AGENT, ident)
    for length in range(len(reply)):
        world.hear(reply[:length])
        world.hear(bytes(length))
        world.hear(b"\x03" + b"\xff" * length)
    world.hear(reply[:20] + bytes([200, 255, 1]))
    world.hear(reply[:20] + bytes([99, 0]))
    world.hear(reply + bytes(5000))
    assert world.node.counters()["mnRegRequestsAccepted"] <= 1


def test_an_experimental_message_is_dropped_without_a_word_rfc4064_6() -> None:
    world, ident = waiting()
    assert world.hear(b"\xff" + build_reply(0, 300, HOME, HOME_AGENT, ident)[1:]) == []
    assert world.state == "pending"
    assert world.node.counters()["mnRepliesDroppedInvalidExtension"] == 1


def test_skippable_extensions_are_skipped_rfc5944_1_8() -> None:
    world, ident = waiting()
    world.hear(build_reply(0, 300, HOME, HOME_AGENT, ident, extensions=bytes([200, 3, 1, 2, 3])))
    assert world.state == "registered"
    assert world.node.counters()["mnRepliesIgnoredUnknownExtension"] == 1


# -- denials -------------------------------------------------------------------------------------


def test_133_resynchronises_the_clock_and_tries_again_after_a_second_rfc5944_5_7_1() -> None:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, clock_offset_s=-5000))
    world.link(visit_a())
    world.run(1.2)
    assert world.state == "registered"
    first, second = (when for when, _, _ in world.requests)
    assert second - first == SECOND
    assert world.node.counters()["mnRegRequestsDeniedByHADueToID"] == 1
    world.run(600)
    assert world.node.counters()["mnRegRequestsDeniedByHADueToID"] == 1, "the offset is kept"


@pytest.mark.parametrize("step_s", [-7200, 7200])
def test_a_step_of_the_wall_clock_costs_one_resynchronisation(step_s: int) -> None:
    world = registered()
    world.wall_ns += step_s * SECOND
    world.home_agent.clock_offset_s -= step_s
    world.run(280)
    assert world.state == "registered"
    assert world.node.counters()["mnRegRequestsDeniedByHADueToID"] == 1
    assert world.node.counters()["mnRegistrationsExpired"] == 0


def test_136_moves_to_the_home_agent_named_rfc5944_3_6_2_3() -> None:
    world, ident = waiting()
    world.hear(build_reply(136, 0, HOME, HOME_AGENT + 7, ident))
    world.run(1.5)
    assert world.requests[1][1].destination.address == HOME_AGENT + 7
    assert world.sent()[1].home_agent == HOME_AGENT + 7


@pytest.mark.parametrize("ahead_s", [-5000, 5000])
def test_136_tells_the_time_too_rfc5944_3_6_2_3(ahead_s: int) -> None:
    world, ident = waiting()
    told = (((ident >> 32) + ahead_s) << 32) | (ident & 0xFFFFFFFF)
    world.hear(build_reply(136, 0, HOME, HOME_AGENT + 7, told))
    world.run(1.5)
    assert abs((world.sent()[1].identification >> 32) - (ident >> 32) - ahead_s) <= 3


def test_138_sets_the_t_bit_and_137_clears_it_rfc3024_4_1() -> None:
    world = World(reverse_tunnel=False)
    world.reachable = False
    world.link(visit_a())
    world.hear(build_reply(138, 0, HOME, HOME_AGENT, world.sent()[0].identification))
    world.run(1.5)
    assert world.sent()[-1].reverse
    world.hear(build_reply(137, 0, HOME, HOME_AGENT, world.sent()[-1].identification))
    world.run(1.5)
    assert not world.sent()[-1].reverse


def test_139_clears_the_encapsulation_flags_rfc3024_4_3_1() -> None:
    world = World(encapsulation=47)
    world.reachable = False
    world.link(visit_a())
    assert world.sent()[0].flags & 0x18 == 0x08
    world.hear(build_reply(139, 0, HOME, HOME_AGENT, world.sent()[0].identification))
    world.run(1.5)
    assert world.sent()[-1].flags & 0x18 == 0


@pytest.mark.parametrize("code", [128, 129, 130, 131, 134, 150, 192, 9, 63, 255])
def test_other_denials_back_off_exponentially(code: int) -> None:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, code=code), delay_ms=1)
    world.link(visit_a())
    world.run(200)
    times = [when for when, _, _ in world.requests]
    gaps = [round((b - a) / SECOND) for a, b in itertools.pairwise(times)]
    assert gaps == [1, 2, 4, 8, 16, 32, 64, 64]
    assert world.state == "pending"


@pytest.mark.parametrize(("code", "reports"), [(131, 1), (132, 1), (144, 1), (129, 0), (133, 0)])
def test_a_denied_authentication_is_a_security_exception_rfc5944_3_6_2_1(
    code: int, reports: int
) -> None:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, code=code), delay_ms=1)
    world.link(visit_a())
    world.run(0.5)
    assert [report.peer for report in world.of(Violation)] == [HOME_AGENT] * reports


def test_a_home_agent_that_always_mends_is_not_asked_forever_at_full_rate() -> None:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, code=133))
    world.link(visit_a())
    world.run(300)
    assert len(world.requests) < 16


def test_a_move_ends_the_back_off() -> None:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, code=130))
    world.link(visit_a())
    world.run(100)
    world.home_agent.code = None
    world.link(visit_b())
    assert world.sent()[-1].care_of == B
    world.run(0.1)
    assert world.state == "registered"


# -- moving ------------------------------------------------------------------------------------


def test_break_before_make_registers_at_once_and_replaces_the_binding() -> None:
    world = registered()
    world.run(60)
    world.link(down("eth0"))
    assert world.state == "isolated"
    world.run(0.7)
    world.link(visit_b())
    assert world.requests[-1][0] == world.boot_ns
    assert not world.sent()[-1].simultaneous
    world.run(5)
    assert world.tunnels() == (B,)
    assert set(world.home_agent.bindings) == {B}
    handover = world.events("handover")[-1]
    assert handover["kind"] == "break-before-make"
    assert handover["reply_ns"] - handover["link_up_ns"] == 40 * MS


def test_make_before_break_keeps_the_old_tunnel_until_the_new_one_carries() -> None:
    world = World(interfaces=("wlan0", "eth0"))
    world.link(visit_a("eth0"))
    world.run(60)
    world.link(visit_b("wlan0"))
    request = world.sent()[-1]
    assert (request.care_of, request.simultaneous) == (B2, True)
    assert world.tunnels() == (A, B2), "both accepted, packets still leave by the old one"
    assert world.of(RouteThroughTunnel)[-1].interface == "eth0"
    world.run(0.1)
    assert set(world.home_agent.bindings) == {A, B2}
    assert world.tunnels() == (B2, A)
    assert world.of(RouteThroughTunnel)[-1].interface == "wlan0"
    world.run(2)
    last = world.requests[-1]
    assert (last[2].care_of, last[2].lifetime, last[1].source.address) == (A, 0, A)
    assert last[1].interface == "eth0"
    assert set(world.home_agent.bindings) == {B2}
    world.run(10)
    assert world.tunnels() == (B2,)
    assert world.events("handover")[-1]["kind"] == "make-before-break"


def test_a_binding_of_a_dead_link_is_replaced_not_released() -> None:
    world = World(interfaces=("wlan0", "eth0"))
    world.link(visit_a("eth0"))
    world.run(60)
    world.link(visit_b("wlan0"))
    world.run(0.1)
    world.link(down("eth0"))
    world.run(2)
    last = world.sent()[-1]
    assert (last.care_of, last.lifetime, last.simultaneous) == (B2, 300, False)
    assert set(world.home_agent.bindings) == {B2}
    assert world.tunnels() == (B2,)


def test_the_new_link_dies_before_the_old_is_released() -> None:
    world = World(interfaces=("wlan0", "eth0"))
    world.link(visit_a("eth0"))
    world.run(60)
    world.link(visit_b("wlan0"))
    world.run(0.1)
    world.link(down("wlan0"))
    assert world.state == "registered", "the old registration is still good"
    assert world.tunnels() == (A,)
    world.run(3)
    assert set(world.home_agent.bindings) == {A}, "no more copies to the dead link"


def test_without_simultaneous_bindings_the_old_one_is_gone_with_code_1_rfc5944_3_8_2_2() -> None:
    world = World(
        home_agent=PaperHomeAgent(HOME_AGENT, simultaneous=False), interfaces=("wlan0", "eth0")
    )
    world.link(visit_a("eth0"))
    world.run(60)
    world.link(visit_b("wlan0"))
    count = len(world.requests)
    world.run(0.1)
    assert world.tunnels()[0] == B2
    world.run(20)
    assert len(world.requests) == count, "nothing left to release"
    assert world.tunnels() == (B2,)


def test_135_drops_the_s_bit() -> None:
    world = World(interfaces=("wlan0", "eth0"))
    world.link(visit_a("eth0"))
    world.run(60)
    world.reachable = False
    world.link(visit_b("wlan0"))
    world.hear(build_reply(135, 0, HOME, HOME_AGENT, world.sent()[-1].identification))
    world.reachable = True
    world.run(3)
    assert not world.sent()[-1].simultaneous
    assert set(world.home_agent.bindings) == {B2}


def test_simultaneous_off_in_the_configuration_never_sets_s() -> None:
    world = World(interfaces=("wlan0", "eth0"), simultaneous=False)
    world.link(visit_a("eth0"))
    world.run(60)
    world.link(visit_b("wlan0"))
    world.run(5)
    assert not any(request.simultaneous for request in world.sent())
    assert set(world.home_agent.bindings) == {B2}


def test_a_carrier_that_comes_back_with_the_same_address_says_nothing() -> None:
    world = registered()
    world.run(60)
    world.link(down("eth0"))
    world.run(0.3)
    world.link(visit_a())
    world.run(5)
    assert len(world.requests) == 1
    assert world.state == "registered"
    assert world.tunnels() == (A,)


def test_a_less_preferred_link_changes_nothing() -> None:
    world = registered()
    world.link(visit_b("wlan0"))
    world.run(10)
    assert len(world.requests) == 1


def test_the_operator_can_prefer_a_link() -> None:
    world = registered()
    world.run(60)
    world.link(visit_b("wlan0"))
    world.take(world.node.prefer("wlan0", world.now))
    assert world.sent()[-1].simultaneous
    world.run(5)
    assert world.tunnels() == (B2,)
    world.take(world.node.prefer(None, world.now))
    world.run(5)
    assert world.tunnels() == (A,)


def test_an_unanswering_link_gives_way_to_another_usable_one() -> None:
    world = World()
    world.reachable = False
    world.link(visit_a("eth0"))
    world.link(visit_b("wlan0"))
    world.run(7.5)
    world.reachable = True
    assert world.sent()[-1].care_of == B2
    world.run(20)
    assert world.state == "registered"


def test_a_flapping_link_does_not_displace_a_working_one_at_once() -> None:
    world = World()
    world.link(visit_b("wlan0"))
    world.run(60)
    for _ in range(3):
        world.link(visit_a("eth0"))
        world.run(0.05)
        world.link(down("eth0"))
        world.run(0.05)
    count = len(world.requests)
    world.link(visit_a("eth0"))
    assert len(world.requests) == count
    world.run(20)
    assert world.tunnels()[0] == A


def test_no_more_than_one_request_a_second_on_average_rfc5944_2_4_2() -> None:
    world = World()
    for turn in range(200):
        world.link(visit_a() if turn % 2 else visit_b())
        world.run(0.05)
    first = world.requests[0][0]
    for index, (when, _, _) in enumerate(world.requests):
        assert index + 1 <= (when - first) / SECOND + 3
    assert len(world.requests) >= 10, "and moves are still followed"


def test_a_move_may_speak_at_once_but_repeats_keep_a_second_apart_rfc5944_3_6_3() -> None:
    world = World()
    world.reachable = False
    world.link(visit_a())
    world.run(0.2)
    world.link(visit_b())
    assert len(world.requests) == 2
    world.run(0.9)
    assert len(world.requests) == 2
    world.run(0.2)
    assert len(world.requests) == 3


# -- home ----------------------------------------------------------------------------------------


def test_returning_home_keeps_the_order_of_rfc5944_4_6() -> None:
    world = registered()
    world.run(60)
    world.link(down("eth0"))
    world.log.clear()
    world.link(at_home())
    done = world.world_effects()
    assert [type(effect) for effect in done] == [
        ConfigureHome,
        RouteThroughTunnel,
        SetArp,
        GratuitousArp,
        SendDatagram,
    ]
    assert done[0] == ConfigureHome("eth0", True)
    assert done[1].enabled is False
    assert done[2] == SetArp("eth0", True)
    assert done[3] == GratuitousArp(HOME, None, "eth0")
    assert done[4].source.address == HOME
    assert done[4].destination.address == HOME_AGENT
    request = parse_request(done[4].data)
    assert (request.lifetime, request.care_of, request.flags) == (0, HOME, 0)
    assert world.state == "returning"
    world.run(0.1)
    assert world.state == "home"
    assert world.tunnels() == ()
    assert world.home_agent.bindings == {}


def test_gratuitous_arp_is_repeated_in_parallel_rfc5944_4_6() -> None:
    world = World()
    world.link(at_home())
    world.run(10)
    times = [when for when, effect in world.log if isinstance(effect, GratuitousArp)]
    assert [(when - times[0]) / SECOND for when in times] == [0, 0.5, 1, 2]
    assert world.node.counters()["mnGratuitousARPsSend"] == 4


def test_a_default_route_that_comes_later_is_no_second_return() -> None:
    world = World()
    world.link(LinkState("eth0", True, ((LEASE, 24),)))
    world.run(0.1)
    world.link(at_home())
    world.run(10)
    assert len(world.of(GratuitousArp)) == 4
    assert len(world.requests) == 1
    assert world.state == "home"


def test_another_router_on_the_link_is_no_move() -> None:
    world = registered()
    world.link(LinkState("eth0", True, ((A, 24),), GATEWAY_A - 1))
    world.run(10)
    assert len(world.requests) == 1


def test_tunnels_stay_until_the_home_agent_accepted_the_deregistration() -> None:
    world = World()
    world.link(visit_b("wlan0"))
    world.run(60)
    world.reachable = False
    world.link(at_home("eth0"))
    assert world.tunnels() == (B2,)
    world.run(2)
    assert world.tunnels() == (B2,)
    world.reachable = True
    world.run(10)
    assert world.tunnels() == ()
    assert world.state == "home"


def test_leaving_home_stops_arp_before_the_request_rfc5944_4_6() -> None:
    world = World()
    world.link(at_home())
    world.run(10)
    world.link(down("eth0"))
    world.link(visit_a())
    log = world.world_effects()
    stop = log.index(SetArp("eth0", False))
    request = next(i for i, e in enumerate(log) if isinstance(e, SendDatagram) and i > stop)
    assert parse_request(log[request].data).care_of == A
    assert not [e for e in log[stop:] if isinstance(e, GratuitousArp)]
    assert ConfigureHome("eth0", False) in log[stop - 2 :]


def test_leaving_home_for_a_better_link_keeps_home_routing_until_registered() -> None:
    world = World(interfaces=("wlan0", "eth0"))
    world.link(at_home("eth0"))
    world.run(10)
    world.log.clear()
    world.link(visit_b("wlan0"))
    assert SetArp("eth0", False) in world.world_effects()
    assert not world.of(ConfigureHome, RouteThroughTunnel)
    world.run(0.1)
    assert world.of(ConfigureHome, RouteThroughTunnel) == [
        RouteThroughTunnel(True, True, "wlan0"),
        ConfigureHome("eth0", False),
    ]


def test_at_home_nothing_more_is_said() -> None:
    world = World()
    world.link(at_home())
    world.run(100_000)
    assert len(world.requests) == 1


def test_all_other_links_refuse_arp_for_the_home_address() -> None:
    world = World()
    world.link(visit_b("wlan0"))
    world.link(at_home("eth0"))
    state: dict[str, bool] = {}
    for effect in world.of(SetArp):
        state[effect.interface] = effect.enabled
        assert sum(state.values()) <= 1
    assert state == {"eth0": True, "wlan0": False}


# -- stop ----------------------------------------------------------------------------------------


def test_stop_releases_the_care_of_address_from_itself() -> None:
    world = registered()
    world.run(10)
    world.take(world.node.stop(world.now))
    request = world.sent()[-1]
    assert (request.lifetime, request.care_of) == (0, A)
    assert world.requests[-1][1].source.address == A
    assert not world.stopped()
    world.run(0.1)
    assert world.stopped()
    assert world.home_agent.bindings == {}


def test_stop_gives_up_on_a_silent_home_agent() -> None:
    world = registered()
    world.run(10)
    world.reachable = False
    world.take(world.node.stop(world.now))
    world.run(4)
    assert world.stopped()


def test_stop_at_home_has_nothing_to_say() -> None:
    world = World()
    world.link(at_home())
    world.run(10)
    count = len(world.requests)
    world.take(world.node.stop(world.now))
    assert world.stopped()
    assert len(world.requests) == count
