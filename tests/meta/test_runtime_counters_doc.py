"""The control plane's own part of ``docs/counters.md`` says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from fastmip.agents.group_exchange import GROUP_COUNTERS
from fastmip.runtime.arp import ARP_COUNTERS
from fastmip.runtime.broadcast import BROADCAST_COUNTERS
from fastmip.runtime.control_port import PORT_COUNTERS
from fastmip.runtime.discovery_socket import DISCOVERY_COUNTERS
from fastmip.runtime.link_port import LINK_PORT_COUNTERS

PAGE = Path(__file__).parents[2] / "docs" / "counters.md"


def test_every_counter_is_documented_with_its_sentence_once() -> None:
    section = PAGE.read_text().split("## Registration port and home link\n", 1)[1]
    rows = re.findall(r"^\| `([\w-]+)` \| (.+?) \| (.+?) \|$", section.split("\n## ")[0], re.M)
    expected = {f"port-434-{name}": text for name, text in PORT_COUNTERS.items()}
    expected |= ARP_COUNTERS | DISCOVERY_COUNTERS | LINK_PORT_COUNTERS | BROADCAST_COUNTERS
    expected |= GROUP_COUNTERS
    assert [(name, text) for name, text, _ in rows] == list(expected.items())
