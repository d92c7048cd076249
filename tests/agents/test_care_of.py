"""What the home agent may hold: stages of a care-of address, and the tunnels of each."""

from __future__ import annotations

from fastmip.agents.care_of import (
    LINGER_NS,
    CareOfBindings,
    granted_lifetime_s,
    lifetime_end_ns,
)
from fastmip.agents.effects import NEVER

SECOND = 10**9
A, B, AGENT = 0x0A030105, 0x0A030206, 0x0A010001


def everywhere(_interface: str, _address: int) -> bool:
    return True


def asked(bindings: CareOfBindings, address: int, end_ns: int) -> None:
    bindings.asked(address, "eth0" if address == A else "wlan0", AGENT, 4, end_ns)


def accept(bindings: CareOfBindings, address: int, sent_ns: int, lifetime_s: int) -> None:
    bindings.accept(
        address,
        home_agent=AGENT,
        sent_ns=sent_ns,
        lifetime_s=lifetime_s,
        margin_ns=3 * SECOND,
        reverse=True,
    )


def locals_of(bindings: CareOfBindings, preferred: int | None = None) -> list[int]:
    return [tunnel.local for tunnel in bindings.tunnels(preferred, everywhere)]


def test_the_smaller_lifetime_counts_also_against_infinity_rfc5944_3_4() -> None:
    assert granted_lifetime_s(300, 200) == 200
    assert granted_lifetime_s(300, 0xFFFF) == 300
    assert granted_lifetime_s(0xFFFF, 300) == 300
    assert lifetime_end_ns(5, 0xFFFF) == NEVER
    assert lifetime_end_ns(5, 0xFFFE) == 5 + 0xFFFE * SECOND


def test_an_address_asked_for_is_accepted_from_but_not_sent_through() -> None:
    bindings = CareOfBindings()
    asked(bindings, A, 100 * SECOND)
    [tunnel] = bindings.tunnels(A, everywhere)
    assert (tunnel.local, tunnel.reverse, tunnel.expires_ns) == (A, False, 100 * SECOND)
    assert bindings.sending(A, everywhere) is None
    accept(bindings, A, 0, 60)
    [tunnel] = bindings.tunnels(A, everywhere)
    assert (tunnel.reverse, tunnel.expires_ns) == (True, 60 * SECOND)


def test_the_preferred_accepted_address_sends() -> None:
    bindings = CareOfBindings()
    asked(bindings, A, 100 * SECOND)
    accept(bindings, A, 0, 60)
    asked(bindings, B, 100 * SECOND)
    assert locals_of(bindings, B) == [A, B], "B is not accepted yet"
    accept(bindings, B, 0, 60)
    assert locals_of(bindings, B) == [B, A]
    assert locals_of(bindings, A) == [A, B]


def test_tunnels_of_dead_links_are_left_out() -> None:
    bindings = CareOfBindings()
    for address in (A, B):
        asked(bindings, address, 100 * SECOND)
        accept(bindings, address, 0, 60)
    alive = bindings.tunnels(A, lambda interface, _address: interface == "wlan0")
    assert [tunnel.local for tunnel in alive] == [B]


def test_a_released_address_is_accepted_from_a_little_longer() -> None:
    bindings = CareOfBindings()
    asked(bindings, A, 100 * SECOND)
    accept(bindings, A, 0, 60)
    bindings.release(A, 10 * SECOND)
    assert len(bindings) == 0
    [tunnel] = bindings.tunnels(None, everywhere)
    assert (tunnel.expires_ns, tunnel.reverse) == (10 * SECOND + LINGER_NS, False)
    assert bindings.next_deadline() == 10 * SECOND + LINGER_NS
    assert bindings.expire(10 * SECOND + LINGER_NS) == []
    assert locals_of(bindings) == []


def test_expiry_leaves_what_was_asked_for_meanwhile() -> None:
    bindings = CareOfBindings()
    asked(bindings, A, 60 * SECOND)
    accept(bindings, A, 0, 60)
    asked(bindings, A, 110 * SECOND)
    assert bindings.next_deadline() == 60 * SECOND
    [expired] = bindings.expire(60 * SECOND)
    assert expired.care_of_address == A
    assert bindings.accepted(A) is None
    assert bindings.get(A) is not None
    [tunnel] = bindings.tunnels(A, everywhere)
    assert not tunnel.reverse, "what was granted before has ended"
    assert bindings.next_deadline() == 110 * SECOND
    assert bindings.expire(110 * SECOND) == []
    assert bindings.get(A) is None


def test_refresh_comes_before_the_end_but_not_before_half_the_lifetime() -> None:
    bindings = CareOfBindings()
    asked(bindings, A, 60 * SECOND)
    accept(bindings, A, 0, 60)
    assert next(iter(bindings)).refresh_ns == 57 * SECOND
    accept(bindings, A, 0, 4)
    assert next(iter(bindings)).refresh_ns == 2 * SECOND
    accept(bindings, A, 0, 0xFFFF)
    assert next(iter(bindings)).refresh_ns == NEVER
    assert bindings.next_deadline() is None
