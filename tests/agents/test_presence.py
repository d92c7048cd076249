"""The world is told differences, in the order of RFC 5944 4.6."""

from __future__ import annotations

from fastmip.agents.effects import (
    ConfigureHome,
    GratuitousArp,
    InstallTunnels,
    RouteThroughTunnel,
    SetArp,
    Tunnel,
)
from fastmip.agents.presence import GRATUITOUS_ARP_DELAYS_NS, Presence, Routing

HOME = 0x0A010005
LINKS = ("eth0", "wlan0")


def test_coming_home_is_routing_then_arp_then_announcement_rfc5944_4_6() -> None:
    presence = Presence(HOME)
    presence.announce_from(1000)
    assert presence.arrange_link("eth0", LINKS, 1000) == [
        ConfigureHome("eth0", True),
        RouteThroughTunnel(False, False),
        SetArp("wlan0", False),
        SetArp("eth0", True),
        GratuitousArp(HOME, None, "eth0"),
    ]
    assert presence.arrange_link("eth0", LINKS, 1001) == []


def test_announcements_repeat_and_end_on_leaving() -> None:
    presence = Presence(HOME)
    presence.announce_from(0)
    presence.arrange_link("eth0", LINKS, 0)
    assert presence.next_announcement() == GRATUITOUS_ARP_DELAYS_NS[1]
    [repeat] = presence.arrange_link("eth0", LINKS, GRATUITOUS_ARP_DELAYS_NS[1])
    assert isinstance(repeat, GratuitousArp)
    left = presence.arrange_link(None, LINKS, GRATUITOUS_ARP_DELAYS_NS[2])
    assert left == [SetArp("eth0", False)], "away nothing is broadcast any more"
    assert presence.next_announcement() is None
    assert presence.gratuitous_arps == 2


def test_a_home_link_after_another_never_answers_together_with_it() -> None:
    presence = Presence(HOME)
    presence.arrange_link("eth0", LINKS, 0)
    effects = presence.arrange_link("wlan0", LINKS, 1)
    assert effects == [
        ConfigureHome("wlan0", True),
        ConfigureHome("eth0", False),
        SetArp("eth0", False),
        SetArp("wlan0", True),
    ]


def test_a_device_that_came_back_is_told_again() -> None:
    presence = Presence(HOME)
    presence.arrange_link(None, LINKS, 0)
    assert presence.arrange_link(None, LINKS, 1) == []
    presence.forget_arp("wlan0")
    assert presence.arrange_link(None, LINKS, 2) == [SetArp("wlan0", False)]


def test_leaving_home_puts_the_tunnel_up_before_home_routing_goes() -> None:
    presence = Presence(HOME)
    presence.arrange_link("eth0", LINKS, 0)
    assert presence.route(Routing(False, "wlan0", True)) == [
        RouteThroughTunnel(True, True, "wlan0"),
        ConfigureHome("eth0", False),
    ]
    assert presence.route(Routing(False, "wlan0", True)) == []


def test_only_changed_tunnels_are_installed() -> None:
    presence = Presence(HOME)
    tunnel = Tunnel(1, 2, 3)
    assert presence.install(()) == []
    assert presence.install((tunnel,)) == [InstallTunnels(HOME, (tunnel,))]
    assert presence.install((tunnel,)) == []
    assert presence.install(()) == [InstallTunnels(HOME, ())]
