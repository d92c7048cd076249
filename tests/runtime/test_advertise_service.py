"""What is advertised where, from the file and the addresses of the machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastmip.agents.advertiser import AdvertisedLink
from fastmip.agents.foreign_policy import ForeignLink
from fastmip.runtime.advertise_service import AdvertiseService, links_of
from fastmip.runtime.config import Config, check_text
from fastmip.runtime.netlink import Interface
from fastmip.runtime.service import ReloadRefused
from fastmip.wire.discovery import (
    AGENT_F,
    AGENT_G,
    AGENT_H,
    AGENT_M,
    AGENT_R,
    AGENT_T,
    AGENT_U,
    AGENT_X,
)

FOREIGN = '[foreign_agent]\ninterfaces = ["air", "home0"]\nrevocation = true\n'
HOME = '[home_agent]\naddress = "10.1.0.1"\nhome_network = "10.1.0.0/24"\ninterface = "home0"\n'
ADDRESSES = {"air": [(0x0A030101, 24)], "home0": [(0x0A0100FE, 24), (0x0A010001, 24)], "bare": []}


class Machine:
    """Stands for the kernel."""

    async def interface(self, name: str) -> Interface | None:
        if name not in ADDRESSES:
            return None
        return Interface(list(ADDRESSES).index(name), name, bytes(6), 1500, is_up=True)

    async def addresses(self, index: int) -> list[tuple[int, int]]:
        return list(ADDRESSES.values())[index]


def service(text: str) -> tuple[AdvertiseService, Config]:
    config = check_text("a.toml", text)
    links = [ForeignLink(name, ADDRESSES[name][0][0], (0x0A030101,)) for name in ("air", "home0")]
    foreign: Any = SimpleNamespace(
        link=lambda name: next(link for link in links if link.interface == name)
    )
    machine: Any = Machine()
    has_foreign = config.foreign_agent is not None
    made = AdvertiseService(
        config, machine, file="a.toml", foreign=foreign if has_foreign else None
    )
    return made, config


async def links(text: str) -> dict[str, AdvertisedLink]:
    made, config = service(text)
    return {name: await made._link(name, config) for name in links_of(config)}


async def test_each_link_has_its_own_flags() -> None:
    found = await links(
        FOREIGN + HOME + '[[advertise]]\ninterface = "air"\nregistration_required = true\n'
    )
    served = AGENT_F | AGENT_M | AGENT_G | AGENT_T | AGENT_X
    assert found["air"].flags == served | AGENT_R
    assert found["home0"].flags == served | AGENT_H
    assert found["air"].care_of_addresses == (0x0A030101,)
    assert [router.address for router in found["air"].routers] == [0x0A030101]
    assert found["air"].prefix_lengths == (24,)


@pytest.mark.parametrize(
    ("nat", "is_said"),
    [("none", False), ("translating", True), ("transparent", True), ("forced", False)],
)
async def test_u_is_said_behind_a_translator_alone_rfc3519_3_4(nat: str, is_said: bool) -> None:
    found = await links(FOREIGN.replace("[foreign_agent]\n", f'[foreign_agent]\nnat = "{nat}"\n'))
    assert bool(found["air"].flags & AGENT_U) is is_said


@pytest.mark.parametrize(
    ("keys", "is_said"),
    [("", False), ("revocation_required = true\n", True), ("registration_required = true\n", True)],
)
async def test_r_is_said_where_every_registration_must_be_revocable_rfc3543_4_3_1(
    keys: str, is_said: bool
) -> None:
    found = await links(FOREIGN + keys)
    assert bool(found["air"].flags & AGENT_R) is is_said


async def test_links_of_both_roles_are_advertised_once() -> None:
    assert list(await links(FOREIGN + HOME)) == ["air", "home0"]


async def test_a_home_agent_alone_speaks_from_its_own_address() -> None:
    found = await links(HOME)
    [link] = found.values()
    assert (link.interface, link.address, link.flags) == ("home0", 0x0A010001, AGENT_H | AGENT_T)
    assert link.care_of_addresses == ()
    assert link.registration_lifetime_s == 1800


async def test_a_virtual_home_network_has_no_link_to_advertise_on() -> None:
    assert await links(HOME.replace('interface = "home0"\n', "")) == {}


async def test_a_link_may_be_silent_or_different() -> None:
    found = await links(
        FOREIGN
        + '[[advertise]]\ninterface = "home0"\nenabled = false\n'
        + '[[advertise]]\ninterface = "air"\nmax_interval = 2.0\nbroadcast = true\n'
        + "routes_common_traffic = false\nprefix_lengths = false\nchallenge = true\n"
        + "preference = -5\n"
    )
    [link] = found.values()
    assert (link.max_interval_s, link.min_interval_s, link.lifetime_s) == (2.0, 1.5, 6)
    assert link.destination == 0xFFFFFFFF
    assert (link.code, link.prefix_lengths, link.has_challenge) == (16, None, True)
    assert [router.preference for router in link.routers] == [-5]


async def test_a_home_link_needs_no_address_of_its_own() -> None:
    """The home agent's address may stand on another interface of the machine."""
    found = await links(HOME.replace("home0", "bare"))
    [link] = found.values()
    assert (link.interface, link.address, link.prefix_lengths) == ("bare", 0x0A010001, (24,))


async def test_on_a_link_of_both_roles_both_addresses_are_told() -> None:
    link = (await links(FOREIGN + HOME))["home0"]
    assert [router.address for router in link.routers] == [0x0A0100FE, 0x0A010001]
    assert link.prefix_lengths == (24, 24)
    assert link.address == 0x0A0100FE  # the foreign agent's, which visitors answer to


async def test_a_link_that_is_not_there_is_refused_before_anything_is_applied() -> None:
    """A link of the file that the machine does not have: the other services keep theirs, too."""
    made, config = service(FOREIGN)
    assert await made.plan_reload(config) == []
    with pytest.raises(ReloadRefused, match="nowhere is no interface"):
        await made.plan_reload(check_text("b.toml", HOME.replace("home0", "nowhere")))
