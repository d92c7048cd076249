"""Which link is usable, which is home, and which is chosen."""

from __future__ import annotations

import pytest

from fastmip.agents.attachment import Attachment, LinkState, LinkTable, attachment_of
from fastmip.agents.hosts import Prefix
from fastmip.wire.addresses import parse_address

HOME = parse_address("10.1.0.5")
NO_GATEWAY = "0.0.0.0"  # noqa: S104 - a route without a gateway, not a socket
AGENT = parse_address("10.1.0.1")
NETWORK = Prefix(parse_address("10.1.0.0"), 24)
SECOND = 10**9


def state(*addresses: str, gateway: str | None = None, carrier: bool = True) -> LinkState:
    parsed = []
    for text in addresses:
        address, length = text.split("/")
        parsed.append((parse_address(address), int(length)))
    router = None if gateway is None else parse_address(gateway)
    return LinkState("eth0", carrier, tuple(parsed), router)


def read(link: LinkState, home_agent: int = AGENT) -> Attachment | None:
    return attachment_of(link, home_address=HOME, home_network=NETWORK, home_agent=home_agent)


def away(address: str, gateway: str) -> Attachment:
    return Attachment("eth0", parse_address(address), False, parse_address(gateway))


@pytest.mark.parametrize(
    "link",
    [
        state("10.3.1.5/24", gateway="10.3.1.254", carrier=False),
        state(gateway="10.3.1.254"),
        state("10.3.1.5/24"),
        state("169.254.7.7/16", gateway="169.254.0.1"),
        state("127.0.0.1/8", gateway="127.0.0.2"),
    ],
    ids=["no carrier", "no address", "no route", "link-local", "loopback"],
)
def test_unusable_links(link: LinkState) -> None:
    assert read(link) is None


def test_care_of_address_is_the_one_on_the_gateways_network() -> None:
    link = state("192.168.9.9/24", "10.3.1.5/24", gateway="10.3.1.254")
    assert read(link) == away("10.3.1.5", "10.3.1.254")


def test_a_gateway_off_the_link_takes_the_first_address() -> None:
    link = state("10.3.1.5/32", "10.3.1.6/32", gateway="10.3.9.1")
    assert read(link) == away("10.3.1.5", "10.3.9.1")


def test_point_to_point_default_route_has_no_gateway() -> None:
    assert read(state("10.3.1.5/32", gateway=NO_GATEWAY)) == away("10.3.1.5", NO_GATEWAY)


def test_without_default_route_the_home_agent_must_be_on_the_link() -> None:
    link = state("10.7.0.2/24")
    assert read(link, parse_address("10.7.0.1")) == away("10.7.0.2", NO_GATEWAY)
    assert read(link, parse_address("10.7.1.1")) is None


@pytest.mark.parametrize(
    "link",
    [
        state("10.1.0.205/24", gateway="10.1.0.1"),
        state("10.1.0.5/24", gateway="10.1.0.1"),
        state("10.1.0.205/24"),
        state("10.3.1.5/24", "10.1.0.205/24", gateway="10.1.0.1"),
    ],
    ids=["lease", "home address itself", "no route", "two networks on one link"],
)
def test_home_links(link: LinkState) -> None:
    found = read(link)
    assert found is not None
    assert (found.at_home, found.care_of_address) == (True, HOME)


def test_a_forgotten_static_home_address_does_not_make_a_link_home() -> None:
    link = state("10.1.0.5/24", "10.3.1.5/24", gateway="10.3.1.254")
    assert read(link) == away("10.3.1.5", "10.3.1.254")


# -- choosing ------------------------------------------------------------------------------------


def visited(interface: str) -> LinkState:
    number = {"eth0": 5, "wlan0": 6, "wwan0": 7}[interface]
    address = parse_address(f"10.3.{number}.5")
    return LinkState(interface, True, ((address, 24),), parse_address(f"10.3.{number}.254"))


def lost(interface: str) -> LinkState:
    return LinkState(interface, False)


def table(*interfaces: str) -> LinkTable:
    return LinkTable(
        interfaces or ("eth0", "wlan0"),
        home_address=HOME,
        home_network=NETWORK,
        home_agent=AGENT,
    )


def chosen(links: LinkTable, now: int, in_use: str | None) -> str | None:
    attachment, _ = links.choose(now, in_use)
    return attachment.interface if attachment else None


def test_order_of_preference_decides() -> None:
    links = table("wwan0", "eth0", "wlan0")
    assert chosen(links, 0, None) is None
    links.update(visited("wlan0"), 0)
    assert chosen(links, 0, None) == "wlan0"
    links.update(visited("eth0"), 0)
    assert chosen(links, 0, "wlan0") == "eth0"
    links.prefer("wlan0")
    assert chosen(links, 0, "eth0") == "wlan0"
    links.prefer(None)
    assert chosen(links, 0, "wlan0") == "eth0"


def test_other_interfaces_are_ignored() -> None:
    links = table("wlan0")
    assert not links.update(visited("eth0"), 0)
    assert links.known() == []


def test_the_same_state_again_is_no_news() -> None:
    links = table()
    assert links.update(visited("eth0"), 0)
    assert not links.update(visited("eth0"), 1)


def test_a_suspended_link_is_passed_over_until_its_time() -> None:
    links = table()
    links.update(visited("eth0"), 0)
    links.update(visited("wlan0"), 0)
    links.suspend("eth0", 60 * SECOND)
    attachment, again = links.choose(1, "eth0")
    assert attachment is not None
    assert (attachment.interface, again) == ("wlan0", 60 * SECOND)
    assert chosen(links, 60 * SECOND, "wlan0") == "eth0"


def test_when_all_are_suspended_the_one_in_use_stays() -> None:
    links = table()
    for interface in ("eth0", "wlan0"):
        links.update(visited(interface), 0)
        links.suspend(interface, 60 * SECOND)
    assert chosen(links, 1, "wlan0") == "wlan0"
    assert chosen(links, 1, None) == "eth0"


def test_a_change_of_the_link_ends_its_suspension() -> None:
    links = table()
    links.update(visited("eth0"), 0)
    links.update(visited("wlan0"), 0)
    links.suspend("eth0", 60 * SECOND)
    links.update(lost("eth0"), 1)
    links.update(visited("eth0"), 2)
    assert chosen(links, 3, "wlan0") == "eth0"


def test_a_flapping_link_waits_longer_each_time_but_only_if_another_works() -> None:
    links = table()
    links.update(visited("wlan0"), 0)
    now = 0
    waits = []
    for _ in range(4):
        links.update(visited("eth0"), now)
        assert chosen(links, now, None) == "eth0", "without a working link it is taken at once"
        _, again = links.choose(now, "wlan0")
        waits.append(0 if again is None else (again - now) // SECOND)
        links.update(lost("eth0"), now)
        now += SECOND // 10
    assert waits == [0, 0, 1, 2]
    links.update(visited("eth0"), now + 60 * SECOND)
    links.update(lost("eth0"), now + 60 * SECOND)
    links.update(visited("eth0"), now + 61 * SECOND)
    assert chosen(links, now + 61 * SECOND, "wlan0") == "eth0", "old losses are forgotten"


def test_holds_wants_the_very_address() -> None:
    links = table()
    links.update(visited("eth0"), 0)
    assert links.holds("eth0", parse_address("10.3.5.5"))
    assert not links.holds("eth0", parse_address("10.3.5.6"))
    assert not links.holds("wlan0", parse_address("10.3.5.5"))
    links.update(lost("eth0"), 1)
    assert not links.holds("eth0", parse_address("10.3.5.5"))
