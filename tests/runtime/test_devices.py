"""TUN devices: one that another process still holds is waited for, and the loop goes on."""

from __future__ import annotations

import asyncio

import pytest

from fastmip.runtime import devices
from fastmip.runtime.devices import DeviceBusy, Tun, open_tun_patiently


async def test_a_device_held_for_a_moment_is_waited_for_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns, tries = 0, 0

    def open_tun(name: str, **_options: object) -> Tun:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise DeviceBusy(f"TUN device {name}: busy")
        return Tun(7, name, frozenset())

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(devices, "open_tun", open_tun)
    task = asyncio.create_task(others())
    assert (await open_tun_patiently("fmha0")).fd == 7
    task.cancel()
    assert tries == 4
    assert turns > 4


async def test_one_that_stays_busy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_tun(name: str, **_options: object) -> Tun:
        raise DeviceBusy(f"TUN device {name}: busy")

    monkeypatch.setattr(devices, "open_tun", open_tun)
    monkeypatch.setattr(devices, "_LINGER_S", 0.05)
    with pytest.raises(DeviceBusy, match="busy"):
        await open_tun_patiently("fmha0")
