"""The program that puts host configuration in force: what it gets, and when it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fastmip.runtime.host_hook import HostHook, environment, facts
from fastmip.wire.host_configuration import HostConfiguration

HOME = 0x0A010005
TOLD = HostConfiguration(
    24,
    (0x0A010035, 0x0A010036),
    0x0A010043,
    b"\x01mn",
    0x0A010001,
    b"wustl.edu",
    b"https://a.b/c?d=1",
)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


async def written(path: Path, lines: int = 1) -> list[str]:
    """What the program wrote, once it is so much."""
    while True:
        found = path.read_text().splitlines() if path.exists() else []
        if len(found) >= lines:
            return found
        await asyncio.sleep(0.01)


def test_the_program_gets_it_by_its_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = script(
        tmp_path / "hook", f"env | grep FASTMIP | sort > {out}.new; mv {out}.new {out}"
    )

    async def run() -> list[str]:
        hook = HostHook([command], HOME)
        hook.take(TOLD)
        found = await written(out)
        await hook.stop()
        return found

    assert asyncio.run(run()) == [
        "FASTMIP_DHCP_CLIENT_ID=016d6e",
        "FASTMIP_DHCP_SERVER=10.1.0.67",
        "FASTMIP_DNS=10.1.0.53 10.1.0.54",
        "FASTMIP_DNS_SUFFIX=wustl.edu",
        "FASTMIP_GATEWAY=10.1.0.1",
        "FASTMIP_HOME_ADDRESS=10.1.0.5",
        "FASTMIP_PREFIX_LENGTH=24",
        "FASTMIP_URL=https://a.b/c?d=1",
    ]


def test_changes_meanwhile_run_it_once_more_with_the_latest(tmp_path: Path) -> None:
    out, gate = tmp_path / "out", tmp_path / "gate"
    text = f"echo $FASTMIP_DNS_SUFFIX >> {out}; until [ -e {gate} ]; do sleep 0.01; done"
    command = script(tmp_path / "hook", text)

    async def run() -> list[str]:
        hook = HostHook([command], HOME)
        hook.take(HostConfiguration(dns_suffix=b"one"))
        await written(out)
        hook.take(HostConfiguration(dns_suffix=b"two"))
        hook.take(HostConfiguration(dns_suffix=b"three"))
        gate.touch()
        found = await written(out, 2)
        await hook.stop()
        return found

    assert asyncio.run(run()) == ["one", "three"]


@pytest.mark.parametrize("text", ["exit 3", "exec sleep 1000"])
def test_a_program_that_fails_or_hangs_does_no_harm(tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    text = f"env | grep FASTMIP | sort > {out}.new; mv {out}.new {out}"
    command = script(tmp_path / "hook", text)

    async def run() -> None:
        hook = HostHook([command], HOME, limit_s=0.2)
        hook.take(TOLD)
        await written(out)
        hook.take(HostConfiguration(24))
        await written(out, 2)
        await hook.stop()

    asyncio.run(run())


def test_without_a_program_or_with_none_there_nothing_is_run(tmp_path: Path) -> None:
    async def run() -> None:
        for command in ((), (str(tmp_path / "missing"),)):
            hook = HostHook(command, HOME)
            hook.take(TOLD)
            await asyncio.sleep(0)
            assert hook.told == TOLD
            await hook.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    "suffix", [b"a b", b"$(reboot)", b"x\nnameserver 6.6.6.6", b"-x", b"\xc3\xa4.de", b"a\0b"]
)
def test_what_makes_no_sense_is_left_out(suffix: bytes) -> None:
    told = HostConfiguration(
        0, (0xE0000001, 0x0A010035), 0, b"", 0x7F000001, suffix, b"file:///etc/passwd"
    )
    found = facts(told)
    assert "dns_suffix" not in found
    assert "url" not in found
    assert found["dns"] == "10.1.0.53"
    assert found["prefix_length"] == "0"
    assert facts(None) == {}
    assert set(environment(HOME, None)) == {"PATH", "FASTMIP_HOME_ADDRESS"}
